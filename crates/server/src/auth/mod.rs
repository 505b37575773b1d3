//! Verifies the signatures and claims of JSON Web Tokens (contract §2), and mints them.
//! `key` decides which algorithms a key is used with, `jwks` keeps a fetched key set, `mint` signs, and `new_token` reads the
//! claims of a token that someone writes by hand. What the claims then allow is the engine's business.
//!
//! Each key is pinned to its own algorithms, and the token's `alg` only chooses among the keys: so `none`, or a public
//! key used as an HMAC secret, finds no key at all.

mod jwks;
mod key;
mod mint;
mod new_token;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_engine::io::{AuthFailure, Claims};
use drawbridge_protocol::ErrorCode;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::Auth;
use jwks::Jwks;
pub use jwks::JwksError;
use key::{Key, algorithm_named};
pub use key::{PublicKey, WrongKey};
pub use mint::{MintError, PrivateKey, mint};
pub use new_token::{DEFAULT_TTL, NewToken, OptionStyle};

/// The longest token that is accepted, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The longest player id, in bytes.
pub const MAX_PLAYER_BYTES: usize = 255;

/// The longest text of a token's header that an error repeats.
const MAX_SHOWN_CHARS: usize = 16;

/// Verifies tokens. Never changed; shared by all threads.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<Key>,
    jwks: Option<Arc<Jwks>>,
    audience: Vec<String>,
    issuer: Vec<String>,
    leeway_ms: u64,
    user_claim: String,
}

impl Verifier {
    /// Takes the keys of the configuration, and begins to fetch those of its JWKS URL on its own thread. It does
    /// not wait for them: tokens that need them do.
    ///
    /// # Errors
    /// Where that thread or its TLS cannot be set up.
    pub fn from_config(auth: &Auth) -> Result<Verifier, JwksError> {
        let jwks = auth.jwks_url.as_deref().map(Jwks::start).transpose()?;
        Ok(Verifier::new(auth, jwks.map(Arc::new)))
    }

    /// As [`Verifier::from_config`], with the key set of the verifier before it where the URL is the same.
    ///
    /// # Errors
    /// As [`Verifier::from_config`].
    pub fn renewed(&self, auth: &Auth) -> Result<Verifier, JwksError> {
        match (&self.jwks, auth.jwks_url.as_deref()) {
            (Some(jwks), Some(url)) if jwks.url() == url => Ok(Verifier::new(auth, Some(jwks.clone()))),
            _ => Verifier::from_config(auth),
        }
    }

    fn new(auth: &Auth, jwks: Option<Arc<Jwks>>) -> Verifier {
        let hmac = auth.hmac_secrets.iter().map(|secret| Key::hmac(secret.expose()));
        let public = auth.public_keys.iter().map(|public| public.0.clone());
        Verifier {
            keys: hmac.chain(public).collect(),
            jwks,
            audience: auth.audience.clone(),
            issuer: auth.issuer.clone(),
            leeway_ms: u64::try_from(auth.leeway.as_millis()).unwrap_or(u64::MAX),
            user_claim: auth.user_claim.clone(),
        }
    }

    /// Has the key set of the URL fetched again, where there is one.
    pub fn refresh(&self) {
        if let Some(jwks) = &self.jwks {
            jwks.refresh();
        }
    }

    /// A verifier with the keys of this JSON Web Key Set.
    ///
    /// # Errors
    /// Where it is not a key set.
    #[doc(hidden)]
    pub fn from_key_set(body: &[u8]) -> Result<Verifier, String> {
        let keys = jwks::parse(body)?.iter().map(|key| (**key).clone()).collect();
        Ok(Verifier { keys, ..Verifier::new(&Auth::default(), None) })
    }

    /// Whether verifying this token is work for a thread that serves no sockets: a public key's arithmetic, or waiting
    /// for a key set that is being fetched (5 seconds at most). An HMAC, or a token without hope, is neither.
    pub fn is_costly(&self, token: &str) -> bool {
        self.has_public_keys()
            && Token::read(token).is_ok_and(|token| token.algorithm.is_some() && !token.is_hmac())
    }

    /// Verifies a token at this Unix time in milliseconds; returns the player's claims.
    ///
    /// # Errors
    /// `TOKEN_EXPIRED` for a token that was good except for its `exp`; `UNAUTHENTICATED` for any other fault, with the
    /// time after which to try again where the token is not valid yet.
    pub fn verify(&self, token: &str, now_unix_ms: u64) -> Result<Claims, AuthFailure> {
        let token = Token::read(token)?;
        if !self.is_signed(&token)? {
            return Err(unauthenticated("the token's signature is not by a key of this server"));
        }
        self.check_claims(&token.payload()?, now_unix_ms)
    }

    /// Whether the token is signed by a key of this server, whatever its claims.
    pub fn is_signature_good(&self, token: &str) -> bool {
        Token::read(token).and_then(|token| self.is_signed(&token)).unwrap_or(false)
    }

    fn has_public_keys(&self) -> bool {
        self.jwks.is_some() || self.keys.iter().any(|key| !key.is_hmac())
    }

    fn is_signed(&self, token: &Token<'_>) -> Result<bool, AuthFailure> {
        let mut own = self.keys.iter().filter(|key| token.fits(key)).peekable();
        let any_own = own.peek().is_some();
        if own.any(|key| token.is_signed_by(key)) {
            return Ok(true);
        }
        match (&self.jwks, token.algorithm) {
            (Some(jwks), Some(algorithm)) if !key::is_hmac(algorithm) => {
                match jwks.keys_for(algorithm, token.key_id.as_deref()) {
                    Some(keys) if keys.is_empty() && !any_own => Err(self.no_key_for(token)),
                    Some(keys) => Ok(keys.iter().any(|key| token.is_signed_by(key))),
                    None if any_own => Ok(false),
                    // Not the token's fault: the client may come again.
                    None => Err(AuthFailure::new(
                        ErrorCode::Internal,
                        "the token cannot be verified: the key set could not be fetched yet",
                    )),
                }
            }
            _ if any_own => Ok(false),
            _ => Err(self.no_key_for(token)),
        }
    }

    /// Names the algorithm that the token is signed by, and those that this server has keys for.
    fn no_key_for(&self, token: &Token<'_>) -> AuthFailure {
        let fetched = self.jwks.as_ref().map(|jwks| jwks.known()).unwrap_or_default();
        let known = self.keys.iter().chain(fetched.iter().map(|key| &**key));
        let has_algorithm = known.clone().any(|key| token.fits(key));
        let alg = &token.shown_algorithm;
        unauthenticated(&match key::listed(known) {
            _ if has_algorithm => {
                "no key is known for this token: its `kid` is none of this server's".to_owned()
            }
            Some(accepted) => format!("the token's algorithm is {alg}; this server takes {accepted}"),
            None => format!("the token's algorithm is {alg}; this server has no key for it"),
        })
    }

    /// The player id: the claim that the configuration names, a text or an integer.
    fn player(&self, claims: &Map<String, Value>) -> Result<Arc<str>, AuthFailure> {
        let name = &self.user_claim;
        let fault = |what: &str| unauthenticated(&format!("the token's `{name}` {what}"));
        match claims.get(name) {
            Some(Value::String(id)) if id.is_empty() => Err(fault("is empty")),
            Some(Value::String(id)) if id.len() > MAX_PLAYER_BYTES => Err(fault("is longer than 255 bytes")),
            Some(Value::String(id)) => Ok(Arc::from(&**id)),
            // A double has lost digits, so that two players could share one.
            Some(Value::Number(id)) if !id.is_f64() => Ok(Arc::from(id.to_string())),
            Some(_) => Err(fault("is neither a string nor an integer")),
            None => Err(unauthenticated(&format!("the token has no `{name}`"))),
        }
    }

    /// Whether the token is valid at this time, with the leeway between two clocks.
    fn check_times(&self, claims: &Map<String, Value>, now_unix_ms: u64) -> Result<Option<u64>, AuthFailure> {
        let expires = numeric_date(claims, "exp")?;
        for name in ["nbf", "iat"] {
            let from = numeric_date(claims, name)?.unwrap_or(0).saturating_sub(self.leeway_ms);
            if now_unix_ms < from {
                let text = format!("the token is not valid yet: its `{name}` is in the future");
                let retry_after_ms = Some(from - now_unix_ms);
                return Err(AuthFailure { retry_after_ms, ..unauthenticated(&text) });
            }
        }
        if expires.is_some_and(|until| now_unix_ms >= until.saturating_add(self.leeway_ms)) {
            return Err(AuthFailure::new(ErrorCode::TokenExpired, "the token has expired"));
        }
        Ok(expires)
    }

    /// The claims' own rules, in an order that never calls a foreign token expired.
    fn check_claims(&self, json: &str, now_unix_ms: u64) -> Result<Claims, AuthFailure> {
        let claims: Map<String, Value> = serde_json::from_str(json)
            .map_err(|_| unauthenticated("the token's claims are not a JSON object"))?;
        let player = self.player(&claims)?;
        let named =
            |name: &str, accepted: &[String]| accepted.is_empty() || names_one(claims.get(name), accepted);
        if !named("aud", &self.audience) {
            return Err(unauthenticated(match claims.contains_key("aud") {
                true => "the token is for another audience",
                false => "the token has no `aud`, and this server requires an audience",
            }));
        }
        if !named("iss", &self.issuer) {
            return Err(unauthenticated(match claims.contains_key("iss") {
                true => "the token is by another issuer",
                false => "the token has no `iss`, and this server requires an issuer",
            }));
        }
        let expires_unix_ms = self.check_times(&claims, now_unix_ms)?;
        Ok(Claims { player, expires_unix_ms, json: Arc::from(json) })
    }
}

/// A token's parts, unjudged.
struct Token<'t> {
    /// `None` for one that no key could be for.
    algorithm: Option<Algorithm>,
    /// Its name as an error may repeat it.
    shown_algorithm: String,
    key_id: Option<String>,
    /// What is signed: header, dot, payload, as they came.
    message: &'t str,
    payload: &'t str,
    signature: &'t str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 §4.1.11); none is.
    crit: Option<Value>,
}

impl<'t> Token<'t> {
    fn read(token: &'t str) -> Result<Token<'t>, AuthFailure> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(unauthenticated("the token is longer than 16 KiB"));
        }
        let not_a_token = || unauthenticated("the token is not a JSON Web Token");
        let (message, signature) = token.rsplit_once('.').ok_or_else(not_a_token)?;
        let (header, payload) = message.split_once('.').ok_or_else(not_a_token)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| not_a_token())?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| not_a_token())?;
        if header.crit.is_some() {
            return Err(unauthenticated("the token requires extensions (`crit`), and none is supported"));
        }
        let algorithm = algorithm_named(&header.alg);
        let shown_algorithm = shown(&header.alg);
        Ok(Token { algorithm, shown_algorithm, key_id: header.kid, message, payload, signature })
    }

    fn is_hmac(&self) -> bool {
        self.algorithm.is_some_and(key::is_hmac)
    }

    fn fits(&self, key: &Key) -> bool {
        self.algorithm.is_some_and(|algorithm| key.is_for(algorithm))
    }

    fn is_signed_by(&self, key: &Key) -> bool {
        self.algorithm.filter(|algorithm| key.is_for(*algorithm)).is_some_and(|algorithm| {
            jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), &key.decoding, algorithm)
                .unwrap_or(false)
        })
    }

    fn payload(&self) -> Result<String, AuthFailure> {
        let bytes = URL_SAFE_NO_PAD.decode(self.payload).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| unauthenticated("the token's claims are not JSON in base64"))
    }
}

fn unauthenticated(message: &str) -> AuthFailure {
    AuthFailure::new(ErrorCode::Unauthenticated, message)
}

/// An algorithm's name as an error may show it: short, and of the letters that such names have.
fn shown(name: &str) -> String {
    let fit = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+');
    let kept: String = name.chars().filter(fit).take(MAX_SHOWN_CHARS).collect();
    if kept.is_empty() { "not named".to_owned() } else { format!("`{kept}`") }
}

/// Whether a claim, one string or a list of them, names one that is wanted.
fn names_one(claim: Option<&Value>, wanted: &[String]) -> bool {
    let is_wanted = |value: &Value| value.as_str().is_some_and(|name| wanted.iter().any(|w| w == name));
    match claim {
        Some(Value::Array(names)) => names.iter().any(is_wanted),
        Some(name) => is_wanted(name),
        None => false,
    }
}

/// Seconds since 1970, possibly with a fraction (RFC 7519 §2), as milliseconds.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, AuthFailure> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_u64() {
            Some(seconds) => Ok(Some(seconds.saturating_mul(1000))),
            // A cast saturates: what is before 1970 is 0, what is beyond all time is the end of it.
            None => Ok(number.as_f64().map(|seconds| (seconds * 1000.0) as u64)),
        },
        Some(_) => Err(unauthenticated(&format!("the token's `{name}` is not a number"))),
    }
}
