//! A document from `jwks_url`: its keys are taken or left out, and none of them makes a token good that it did not sign.
//! A key set is public: with its bytes as an HMAC secret nobody signs anything either.
#![no_main]

use drawbridge::auth::{PrivateKey, Verifier, mint};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|body: &[u8]| {
    let Ok(verifier) = Verifier::from_key_set(body) else { return };
    let claims = Map::from_iter([("sub".to_owned(), Value::from("mallory"))]);
    let secrets = std::iter::once(String::from_utf8_lossy(body).into_owned()).chain(texts(body));
    for secret in secrets.filter(|secret| !secret.is_empty()).take(16) {
        let token = mint(&PrivateKey::hmac(&secret), None, &claims).expect("an HMAC by any secret");
        assert!(!verifier.is_signature_good(&token));
        assert!(verifier.verify(&token, 0).is_err());
        // The same under the name of an algorithm of public keys, with a signature that is none.
        for header in
            ["eyJhbGciOiJSUzI1NiJ9", "eyJhbGciOiJFUzI1NiJ9", "eyJhbGciOiJFZERTQSJ9", "eyJhbGciOiJub25lIn0"]
        {
            let (_, rest) = token.split_once('.').expect("three parts");
            assert!(verifier.verify(&format!("{header}.{rest}"), 0).is_err());
        }
    }
});

/// Every text in the keys: coordinates, moduli, symmetric keys.
fn texts(body: &[u8]) -> Vec<String> {
    let set: Value = serde_json::from_slice(body).unwrap_or_default();
    let keys = set["keys"].as_array().into_iter().flatten();
    keys.filter_map(Value::as_object)
        .flat_map(Map::values)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
