//! A token that anybody may send: without the key none is good, and of one that is signed the claims are read by their
//! rules, whatever they are.
#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge::auth::{MAX_PLAYER_BYTES, Verifier};
use drawbridge::config::{Auth, Secret};
use drawbridge_protocol::ErrorCode;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "a secret that no input of a fuzzer will ever find";
const NOW_MS: u64 = 1_790_000_000_000;

#[derive(Arbitrary, Debug)]
enum Attempt<'a> {
    /// Any text.
    Text(&'a str),
    /// Any header and claims, with a signature that is any bytes.
    Forged { header: &'a str, claims: &'a [u8], signature: &'a [u8] },
    /// Signed by who has the key, whatever the claims are.
    Signed { header: Header, claims: &'a [u8] },
    /// As [`Attempt::Signed`], with one byte of it changed afterwards.
    Changed { claims: &'a [u8], at: u16, by: u8 },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Header {
    Plain,
    WithKeyId,
    Typed,
    Critical,
}

fn verifiers() -> [Verifier; 2] {
    let secrets = vec![Secret::new(SECRET)];
    let plain = Auth { hmac_secrets: secrets.clone(), ..Auth::default() };
    let (audience, issuer) = (vec!["game".to_owned()], vec!["login".to_owned()]);
    let strict = Auth { hmac_secrets: secrets, audience, issuer, ..Auth::default() };
    [plain, strict].map(|auth| Verifier::from_config(&auth).expect("a verifier without a URL"))
}

static VERIFIERS: LazyLock<[Verifier; 2]> = LazyLock::new(verifiers);

fuzz_target!(|attempt: Attempt<'_>| {
    let (token, may_be_good) = match attempt {
        Attempt::Text(text) => (text.to_owned(), false),
        Attempt::Forged { header, claims, signature } => {
            let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            (format!("{}.{}.{}", part(header.as_bytes()), part(claims), part(signature)), false)
        }
        Attempt::Signed { header, claims } => (signed(header, claims), true),
        Attempt::Changed { claims, at, by } => {
            let mut token = signed(Header::Plain, claims).into_bytes();
            let at = usize::from(at) % token.len();
            token[at] = token[at].wrapping_add(by);
            let Ok(token) = String::from_utf8(token) else { return };
            (token, by == 0)
        }
    };
    for verifier in &*VERIFIERS {
        let _ = verifier.is_costly(&token);
        assert!(may_be_good || !verifier.is_signature_good(&token), "{token}");
        match verifier.verify(&token, NOW_MS) {
            Ok(claims) => {
                assert!(may_be_good, "{token}");
                assert!((1..=MAX_PLAYER_BYTES).contains(&claims.player.len()));
                let leeway_ms = Auth::default().leeway.as_millis() as u64;
                assert!(claims.expires_unix_ms.is_none_or(|at| at.saturating_add(leeway_ms) > NOW_MS));
                let json: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(&claims.json).expect("claims are a JSON object");
                let named = json["sub"].as_str().map_or_else(|| json["sub"].to_string(), str::to_owned);
                assert_eq!(named, *claims.player);
            }
            Err(failure) => {
                assert!(matches!(failure.code, ErrorCode::Unauthenticated | ErrorCode::TokenExpired));
                // Longer than any error is without it: a short one may happen to be what the error says.
                assert!(token.len() < 128 || !failure.message.contains(&token), "a token is secret");
            }
        }
    }
});

/// By HS256.
fn signed(header: Header, claims: &[u8]) -> String {
    let header = match header {
        Header::Plain => r#"{"alg":"HS256"}"#,
        Header::WithKeyId => r#"{"alg":"HS256","kid":"k1"}"#,
        Header::Typed => r#"{"typ":"JWT","alg":"HS256"}"#,
        Header::Critical => r#"{"alg":"HS256","crit":["exp"]}"#,
    };
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256)
        .expect("an HMAC of any bytes");
    format!("{message}.{signature}")
}
