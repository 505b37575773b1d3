//! Who a token says the player is: signatures and claims of JSON Web Tokens (contract §2), and minting them.
//! `key` says which algorithms a key is good for, `jwks` keeps a fetched key set, `mint` signs. What the claims then
//! allow is the engine's business.
//!
//! Each key is pinned to its own algorithms, and the token's `alg` only chooses among the keys: so `none`, or a public
//! key used as an HMAC secret, finds no key at all.

mod jwks;
mod key;
mod mint;
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

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The longest player id, in bytes.
pub const MAX_PLAYER_BYTES: usize = 255;

/// Judges tokens. Made once, shared by all threads.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<Key>,
    jwks: Option<Jwks>,
    audience: Vec<String>,
    issuer: Vec<String>,
}

impl Verifier {
    /// Takes the keys of the configuration, and begins to fetch those of its JWKS URL on a thread of its own. It does
    /// not wait for them: tokens that need them do.
    ///
    /// # Errors
    /// Where that thread or its TLS cannot be set up.
    pub fn from_config(auth: &Auth) -> Result<Verifier, JwksError> {
        let hmac = auth.hmac_secret.as_ref().map(|secret| Key::hmac(secret.expose()));
        let public = auth.public_key.as_ref().map(|public| public.0.clone());
        Ok(Verifier {
            keys: hmac.into_iter().chain(public).collect(),
            jwks: auth.jwks_url.as_deref().map(Jwks::start).transpose()?,
            audience: auth.audience.clone(),
            issuer: auth.issuer.clone(),
        })
    }

    /// Whether judging this token is work for a thread that serves no sockets: a public key's arithmetic, or waiting
    /// for a key set that is being fetched (5 seconds at most). An HMAC, or a token without hope, is neither.
    pub fn is_costly(&self, token: &str) -> bool {
        self.has_public_keys() && Token::read(token).is_ok_and(|token| !key::is_hmac(token.algorithm))
    }

    /// Who the token says the player is, at this Unix time in milliseconds.
    ///
    /// # Errors
    /// `TOKEN_EXPIRED` for a token that was good but for its `exp`; `UNAUTHENTICATED` for any other fault.
    pub fn verify(&self, token: &str, now_unix_ms: u64) -> Result<Claims, AuthFailure> {
        let token = Token::read(token)?;
        if !self.is_signed(&token)? {
            return Err(unauthenticated("the token's signature is not by a key of this server"));
        }
        self.judge(&token.payload()?, now_unix_ms)
    }

    /// Whether the token is signed by a key of this server, whatever it says.
    pub fn is_signature_good(&self, token: &str) -> bool {
        Token::read(token).and_then(|token| self.is_signed(&token)).unwrap_or(false)
    }

    fn has_public_keys(&self) -> bool {
        self.jwks.is_some() || self.keys.iter().any(|key| !key.is_hmac())
    }

    fn is_signed(&self, token: &Token<'_>) -> Result<bool, AuthFailure> {
        let mut own = self.keys.iter().filter(|key| key.is_for(token.algorithm)).peekable();
        let any_own = own.peek().is_some();
        if own.any(|key| token.is_signed_by(key)) {
            return Ok(true);
        }
        match &self.jwks {
            Some(jwks) if !key::is_hmac(token.algorithm) => {
                match jwks.keys_for(token.algorithm, token.key_id.as_deref()) {
                    Some(keys) if keys.is_empty() && !any_own => {
                        Err(unauthenticated("no key is known for this token"))
                    }
                    Some(keys) => Ok(keys.iter().any(|key| token.is_signed_by(key))),
                    None if any_own => Ok(false),
                    // Not the token's fault: the client may come again.
                    None => Err(AuthFailure {
                        code: ErrorCode::Internal,
                        message: "the token cannot be judged: the key set could not be fetched yet"
                            .to_owned(),
                    }),
                }
            }
            _ if any_own => Ok(false),
            _ => Err(unauthenticated("the token's algorithm is not one of this server's keys")),
        }
    }

    /// The claims' own rules, in an order that never calls a foreign token expired.
    fn judge(&self, json: &str, now_unix_ms: u64) -> Result<Claims, AuthFailure> {
        let claims: Map<String, Value> = serde_json::from_str(json)
            .map_err(|_| unauthenticated("the token's claims are not a JSON object"))?;
        let player = match claims.get("sub") {
            Some(Value::String(sub)) if (1..=MAX_PLAYER_BYTES).contains(&sub.len()) => Arc::from(&**sub),
            Some(Value::String(sub)) if sub.is_empty() => {
                return Err(unauthenticated("the token's `sub` is empty"));
            }
            Some(Value::String(_)) => {
                return Err(unauthenticated("the token's `sub` is longer than 255 bytes"));
            }
            Some(_) => return Err(unauthenticated("the token's `sub` is not a string")),
            None => return Err(unauthenticated("the token has no `sub`")),
        };
        if !self.audience.is_empty() && !names_one(claims.get("aud"), &self.audience) {
            return Err(unauthenticated("the token is for another audience"));
        }
        if !self.issuer.is_empty() && !names_one(claims.get("iss"), &self.issuer) {
            return Err(unauthenticated("the token is by another issuer"));
        }
        let not_before = numeric_date(&claims, "nbf")?;
        let expires = numeric_date(&claims, "exp")?;
        if not_before.is_some_and(|from| now_unix_ms < from) {
            return Err(unauthenticated("the token is not valid yet"));
        }
        if expires.is_some_and(|until| now_unix_ms >= until) {
            let message = "the token has expired".to_owned();
            return Err(AuthFailure { code: ErrorCode::TokenExpired, message });
        }
        Ok(Claims { player, expires_unix_ms: expires, json: Arc::from(json) })
    }
}

/// A token's parts, unjudged.
struct Token<'t> {
    algorithm: Algorithm,
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
            return Err(unauthenticated("the token asks for extensions (`crit`), and none is known"));
        }
        let algorithm = algorithm_named(&header.alg)
            .ok_or_else(|| unauthenticated("the token's algorithm is not one that this server takes"))?;
        Ok(Token { algorithm, key_id: header.kid, message, payload, signature })
    }

    fn is_signed_by(&self, key: &Key) -> bool {
        key.is_for(self.algorithm)
            && jsonwebtoken::crypto::verify(
                self.signature,
                self.message.as_bytes(),
                &key.decoding,
                self.algorithm,
            )
            .unwrap_or(false)
    }

    fn payload(&self) -> Result<String, AuthFailure> {
        let bytes = URL_SAFE_NO_PAD.decode(self.payload).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| unauthenticated("the token's claims are not JSON in base64"))
    }
}

fn unauthenticated(message: &str) -> AuthFailure {
    AuthFailure { code: ErrorCode::Unauthenticated, message: message.to_owned() }
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
