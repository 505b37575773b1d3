//! Which tokens are good, and what is said of the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fetched;

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::Secret;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_790_000_000_000;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn hmac() -> Auth {
    Auth { hmac_secrets: vec![Secret::new(SECRET)], ..Auth::default() }
}

fn public(kind: &str) -> Auth {
    let key = PublicKey::from_pem(&fixture(&format!("{kind}.pub.pem"))).unwrap();
    Auth { public_keys: vec![key], ..Auth::default() }
}

fn private(kind: &str) -> PrivateKey {
    PrivateKey::from_pem(&fixture(&format!("{kind}.key.pem"))).unwrap()
}

fn minted(key: &PrivateKey, claims: Value) -> String {
    let Value::Object(claims) = claims else { panic!() };
    mint(key, None, &claims).unwrap()
}

/// A token with this header over these claims, signed by HS256, 384 or 512 with the secret.
fn handmade(algorithm: Algorithm, header: &str, payload: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// The player, or the code and message.
fn verified(auth: &Auth, token: &str) -> Result<String, String> {
    let verifier = Verifier::from_config(auth).unwrap();
    let result = verifier.verify(token, NOW);
    result
        .map(|claims| claims.player.to_string())
        .map_err(|failure| format!("{}: {}", failure.code, failure.message))
}

#[track_caller]
fn check(auth: &Auth, claims: Value, expected: Result<&str, &str>) {
    let token = minted(&PrivateKey::hmac(SECRET), claims);
    assert_eq!(verified(auth, &token), expected.map(str::to_owned).map_err(str::to_owned));
}

#[test]
fn a_good_token_gives_player_expiry_and_claims() {
    let payload = r#"{ "sub":"alice", "exp":1790000060.5, "big":12345678901234567890123, "room":"42" }"#;
    let token = handmade(Algorithm::HS256, r#"{"alg":"HS256","typ":"JWT"}"#, payload);
    let claims = Verifier::from_config(&hmac()).unwrap().verify(&token, NOW).unwrap();
    assert_eq!((&*claims.player, claims.expires_unix_ms), ("alice", Some(NOW + 60_500)));
    assert_eq!(&*claims.json, payload);
}

#[test]
fn a_token_without_expiry_is_good_for_ever() {
    check(&hmac(), json!({ "sub": "alice" }), Ok("alice"));
}

#[test]
fn all_hmac_sizes_are_taken() {
    for (algorithm, name) in
        [(Algorithm::HS256, "HS256"), (Algorithm::HS384, "HS384"), (Algorithm::HS512, "HS512")]
    {
        let token = handmade(algorithm, &format!(r#"{{"alg":"{name}"}}"#), r#"{"sub":"a"}"#);
        assert_eq!(verified(&hmac(), &token).as_deref(), Ok("a"), "{name}");
    }
}

#[test]
fn every_kind_of_public_key_is_taken() {
    for kind in ["rsa", "ec", "ec384", "ed25519"] {
        let token = minted(&private(kind), json!({ "sub": kind }));
        assert_eq!(verified(&public(kind), &token).as_deref(), Ok(kind));
    }
    let token = minted(&private("rsa").with_pss().unwrap(), json!({ "sub": "pss" }));
    assert_eq!(verified(&public("rsa"), &token).as_deref(), Ok("pss"));
}

#[test]
fn an_rsa_key_is_good_for_every_size_of_hash() {
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(&fixture("rsa.key.pem")).unwrap();
    for (algorithm, name) in [
        (Algorithm::RS256, "RS256"),
        (Algorithm::RS384, "RS384"),
        (Algorithm::RS512, "RS512"),
        (Algorithm::PS256, "PS256"),
        (Algorithm::PS384, "PS384"),
        (Algorithm::PS512, "PS512"),
    ] {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{name}"}}"#));
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(r#"{"sub":"a"}"#));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
        assert_eq!(verified(&public("rsa"), &format!("{message}.{signature}")).as_deref(), Ok("a"), "{name}");
        // By another name the same signature is none.
        let other = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
        let renamed = message.replacen(&header, &other, 1);
        assert_eq!(verified(&public("rsa"), &format!("{renamed}.{signature}")).is_ok(), name == "RS256");
    }
}

#[test]
fn of_several_keys_of_one_kind_any_will_do() {
    let auth = Auth { hmac_secrets: vec![Secret::new("the new one"), Secret::new(SECRET)], ..public("ec") };
    let auth =
        Auth { public_keys: [public("ec"), public("ec384")].map(|one| one.public_keys).concat(), ..auth };
    for key in [PrivateKey::hmac(SECRET), PrivateKey::hmac("the new one"), private("ec"), private("ec384")] {
        assert_eq!(verified(&auth, &minted(&key, json!({ "sub": "a" }))).as_deref(), Ok("a"));
    }
    let refused = Err("UNAUTHENTICATED: the token's signature is not by a key of this server".to_owned());
    assert_eq!(verified(&auth, &minted(&PrivateKey::hmac("the old one"), json!({ "sub": "a" }))), refused);
}

#[test]
fn a_foreign_signature_is_refused() {
    let refused = Err("UNAUTHENTICATED: the token's signature is not by a key of this server".to_owned());
    assert_eq!(
        verified(&hmac(), &minted(&PrivateKey::hmac("another secret"), json!({ "sub": "a" }))),
        refused
    );
    let good = minted(&PrivateKey::hmac(SECRET), json!({ "sub": "a" }));
    let other = minted(&PrivateKey::hmac(SECRET), json!({ "sub": "b" }));
    let (good, other): (Vec<_>, Vec<_>) = (good.split('.').collect(), other.split('.').collect());
    assert_eq!(verified(&hmac(), &[good[0], other[1], good[2]].join(".")), refused);
    assert_eq!(verified(&hmac(), &[good[0], good[1], ""].join(".")), refused);
    assert_eq!(verified(&hmac(), &[good[0], good[1], "!!"].join(".")), refused);
}

#[test]
fn an_algorithm_is_good_only_with_its_own_key() {
    let foreign = |offered: &str, accepted: &str| {
        let text = format!("the token's algorithm is {offered}; this server takes {accepted}");
        Err(format!("UNAUTHENTICATED: {text}"))
    };
    let hmacs = "HS256, HS384 or HS512";
    let rsas = "PS256, PS384, PS512, RS256, RS384 or RS512";
    let token = |kind| minted(&private(kind), json!({ "sub": "a" }));
    assert_eq!(verified(&public("ec"), &token("rsa")), foreign("`RS256`", "ES256"));
    assert_eq!(verified(&public("ec"), &token("ec384")), foreign("`ES384`", "ES256"));
    assert_eq!(verified(&public("ec384"), &token("ec")), foreign("`ES256`", "ES384"));
    assert_eq!(verified(&hmac(), &token("ec")), foreign("`ES256`", hmacs));
    // The public key as an HMAC secret: the classic confusion.
    for (kind, accepted) in [("rsa", rsas), ("ec", "ES256"), ("ed25519", "EdDSA")] {
        let pem = String::from_utf8(fixture(&format!("{kind}.pub.pem"))).unwrap();
        let token = minted(&PrivateKey::hmac(&pem), json!({ "sub": "a" }));
        assert_eq!(verified(&public(kind), &token), foreign("`HS256`", accepted));
    }
    let long = format!("ES{}", "5".repeat(100));
    for (name, shown) in [
        ("none", "`none`"),
        ("None", "`None`"),
        ("NONE", "`NONE`"),
        ("HS1", "`HS1`"),
        ("ES512", "`ES512`"),
        ("ES256K", "`ES256K`"),
        ("hs256", "`hs256`"),
        ("", "not named"),
        ("<b>\u{202e}\\n", "`bn`"),
        (&long, "`ES55555555555555`"),
    ] {
        for (auth, accepted) in [(hmac(), hmacs), (public("rsa"), rsas)] {
            let token = handmade(Algorithm::HS256, &json!({ "alg": name }).to_string(), r#"{"sub":"a"}"#);
            assert_eq!(verified(&auth, &token), foreign(shown, accepted), "{name}");
            let (message, _) = token.rsplit_once('.').unwrap();
            assert_eq!(verified(&auth, &format!("{message}.")), foreign(shown, accepted), "{name}");
        }
    }
    let none =
        Err("UNAUTHENTICATED: the token's algorithm is `ES256`; this server has no key for it".to_owned());
    assert_eq!(verified(&Auth::default(), &token("ec")), none);
}

#[test]
fn several_sources_of_keys_go_side_by_side() {
    let auth = Auth { hmac_secrets: vec![Secret::new(SECRET)], ..public("ec") };
    assert_eq!(verified(&auth, &minted(&private("ec"), json!({ "sub": "a" }))).as_deref(), Ok("a"));
    assert_eq!(
        verified(&auth, &minted(&PrivateKey::hmac(SECRET), json!({ "sub": "b" }))).as_deref(),
        Ok("b")
    );
}

#[test]
fn what_is_no_token_is_refused() {
    let not_a_token = Err("UNAUTHENTICATED: the token is not a JSON Web Token".to_owned());
    for text in ["", ".", "..", "...", "a.b.c", "e30.e30.", "null", "bnVsbA.e30.x", "W10.e30.x"] {
        assert_eq!(verified(&hmac(), text), not_a_token, "{text}");
    }
    assert_eq!(
        verified(&hmac(), &"a".repeat(MAX_TOKEN_BYTES + 1)),
        Err("UNAUTHENTICATED: the token is longer than 16 KiB".to_owned())
    );
    let extended = handmade(Algorithm::HS256, r#"{"alg":"HS256","crit":["exp"]}"#, r#"{"sub":"a"}"#);
    assert!(verified(&hmac(), &extended).unwrap_err().contains("`crit`"));
    for (payload, problem) in [
        ("[]", "the token's claims are not a JSON object"),
        ("{", "the token's claims are not a JSON object"),
        ("{\"sub\":\"a\"} x", "the token's claims are not a JSON object"),
    ] {
        let token = handmade(Algorithm::HS256, r#"{"alg":"HS256"}"#, payload);
        assert_eq!(verified(&hmac(), &token), Err(format!("UNAUTHENTICATED: {problem}")));
    }
}

#[test]
fn the_player_must_be_named() {
    check(&hmac(), json!({}), Err("UNAUTHENTICATED: the token has no `sub`"));
    check(&hmac(), json!({ "sub": "" }), Err("UNAUTHENTICATED: the token's `sub` is empty"));
    let neither = Err("UNAUTHENTICATED: the token's `sub` is neither a string nor an integer");
    for sub in [json!(null), json!(true), json!(7.5), json!(7.0), json!(["a"]), json!({ "id": "a" })] {
        check(&hmac(), json!({ "sub": sub }), neither);
    }
    check(&hmac(), json!({ "sub": "x".repeat(255) }), Ok(&"x".repeat(255)));
    check(
        &hmac(),
        json!({ "sub": "x".repeat(256) }),
        Err("UNAUTHENTICATED: the token's `sub` is longer than 255 bytes"),
    );
}

#[test]
fn an_integer_names_a_player_by_its_digits() {
    for (id, player) in [
        ("7", "7"),
        ("-7", "-7"),
        ("0", "0"),
        ("9007199254740993", "9007199254740993"),
        ("18446744073709551615", "18446744073709551615"),
    ] {
        let token = handmade(Algorithm::HS256, r#"{"alg":"HS256"}"#, &format!(r#"{{"sub":{id}}}"#));
        assert_eq!(verified(&hmac(), &token).as_deref(), Ok(player));
    }
    // What would lose digits could be another player.
    let token = handmade(Algorithm::HS256, r#"{"alg":"HS256"}"#, r#"{"sub":18446744073709551616}"#);
    assert!(verified(&hmac(), &token).unwrap_err().ends_with("neither a string nor an integer"));
}

#[test]
fn another_claim_may_name_the_player() {
    let auth = Auth { user_claim: "uid".into(), ..hmac() };
    check(&auth, json!({ "uid": 42, "sub": "auth0|x" }), Ok("42"));
    check(&auth, json!({ "uid": "u-1" }), Ok("u-1"));
    check(&auth, json!({ "sub": "a" }), Err("UNAUTHENTICATED: the token has no `uid`"));
    check(&auth, json!({ "sub": "a", "uid": "" }), Err("UNAUTHENTICATED: the token's `uid` is empty"));
}

#[test]
fn of_duplicate_claims_the_last_counts() {
    let token = handmade(Algorithm::HS256, r#"{"alg":"HS256"}"#, r#"{"sub":"a","sub":"b"}"#);
    assert_eq!(verified(&hmac(), &token).as_deref(), Ok("b"));
}

/// Without leeway.
fn exact() -> Auth {
    Auth { leeway: Duration::ZERO, ..hmac() }
}

#[test]
fn two_clocks_may_differ_by_the_leeway() {
    let now = NOW / 1000;
    for (leeway, auth) in
        [(5, hmac()), (0, exact()), (60, Auth { leeway: Duration::from_secs(60), ..hmac() })]
    {
        check(&auth, json!({ "sub": "a", "nbf": now + leeway, "iat": now + leeway }), Ok("a"));
        for name in ["nbf", "iat"] {
            let said = format!("UNAUTHENTICATED: the token is not valid yet: its `{name}` is in the future");
            check(&auth, json!({ "sub": "a", name: now + leeway + 1 }), Err(&said));
        }
        check(&auth, json!({ "sub": "a", "exp": now - leeway + 1 }), Ok("a"));
        check(&auth, json!({ "sub": "a", "exp": now - leeway }), Err("TOKEN_EXPIRED: the token has expired"));
    }
}

#[test]
fn a_token_that_is_not_valid_yet_says_when_it_is() {
    let verifier = Verifier::from_config(&hmac()).unwrap();
    let token = minted(&PrivateKey::hmac(SECRET), json!({ "sub": "a", "nbf": NOW / 1000 + 12 }));
    let failure = verifier.verify(&token, NOW).unwrap_err();
    assert_eq!(failure.retry_after_ms, Some(7_000));
    assert!(verifier.verify(&token, NOW + 7_000).is_ok());
    let never = minted(&PrivateKey::hmac(SECRET), json!({ "sub": "a", "exp": 1 }));
    assert_eq!(verifier.verify(&never, NOW).unwrap_err().retry_after_ms, None);
}

#[test]
fn expiry_is_exact() {
    let expired = Err("TOKEN_EXPIRED: the token has expired");
    check(&hmac(), json!({ "sub": "a", "exp": NOW / 1000 + 1 }), Ok("a"));
    check(&exact(), json!({ "sub": "a", "exp": NOW / 1000 }), expired);
    check(&exact(), json!({ "sub": "a", "exp": 1_790_000_000.001 }), Ok("a"));
    check(&exact(), json!({ "sub": "a", "exp": 1_789_999_999.999 }), expired);
    check(&hmac(), json!({ "sub": "a", "exp": 0 }), expired);
    check(&hmac(), json!({ "sub": "a", "exp": -5 }), expired);
    check(&hmac(), json!({ "sub": "a", "exp": u64::MAX }), Ok("a"));
    check(&hmac(), json!({ "sub": "a", "exp": 1e300 }), Ok("a"));
    check(
        &hmac(),
        json!({ "sub": "a", "exp": "soon" }),
        Err("UNAUTHENTICATED: the token's `exp` is not a number"),
    );
    check(
        &hmac(),
        json!({ "sub": "a", "exp": null }),
        Err("UNAUTHENTICATED: the token's `exp` is not a number"),
    );
}

#[test]
fn a_token_is_not_good_before_its_time() {
    check(&hmac(), json!({ "sub": "a", "nbf": NOW / 1000 }), Ok("a"));
    check(
        &exact(),
        json!({ "sub": "a", "nbf": NOW / 1000 + 1 }),
        Err("UNAUTHENTICATED: the token is not valid yet: its `nbf` is in the future"),
    );
    check(
        &hmac(),
        json!({ "sub": "a", "nbf": true }),
        Err("UNAUTHENTICATED: the token's `nbf` is not a number"),
    );
}

#[test]
fn audience_and_issuer_are_asked_where_configured() {
    let auth = Auth { audience: vec!["game".into(), "test".into()], issuer: vec!["login".into()], ..hmac() };
    check(&auth, json!({ "sub": "a", "aud": "game", "iss": "login" }), Ok("a"));
    check(&auth, json!({ "sub": "a", "aud": ["x", "test"], "iss": "login" }), Ok("a"));
    for aud in [json!("x"), json!([]), json!(null)] {
        let claims = json!({ "sub": "a", "aud": aud, "iss": "login" });
        check(&auth, claims, Err("UNAUTHENTICATED: the token is for another audience"));
    }
    check(
        &auth,
        json!({ "sub": "a", "iss": "login" }),
        Err("UNAUTHENTICATED: the token has no `aud`, and this server requires an audience"),
    );
    check(
        &auth,
        json!({ "sub": "a", "aud": "game", "iss": "x" }),
        Err("UNAUTHENTICATED: the token is by another issuer"),
    );
    check(
        &auth,
        json!({ "sub": "a", "aud": "game" }),
        Err("UNAUTHENTICATED: the token has no `iss`, and this server requires an issuer"),
    );
    check(&hmac(), json!({ "sub": "a", "aud": "x", "iss": 7 }), Ok("a"));
}

#[test]
fn a_foreign_token_is_never_called_expired() {
    let token = minted(&PrivateKey::hmac("another secret"), json!({ "sub": "a", "exp": 1 }));
    assert!(verified(&hmac(), &token).unwrap_err().starts_with("UNAUTHENTICATED"));
    let auth = Auth { audience: vec!["game".into()], ..hmac() };
    check(
        &auth,
        json!({ "sub": "a", "exp": 1, "aud": "x" }),
        Err("UNAUTHENTICATED: the token is for another audience"),
    );
}

#[test]
fn no_failure_repeats_the_token() {
    let secretive = minted(&PrivateKey::hmac("another secret"), json!({ "sub": "alice-the-player" }));
    for token in [&*secretive, "alice-the-player", "e30.alice-the-player.x"] {
        let said = verified(&hmac(), token).unwrap_err();
        assert!(
            !said.contains("alice") && !token.split('.').any(|part| part.len() > 3 && said.contains(part)),
            "{said}"
        );
    }
}

#[test]
fn only_public_keys_are_costly() {
    let by_hmac = minted(&PrivateKey::hmac(SECRET), json!({ "sub": "a" }));
    let by_key = minted(&private("ec"), json!({ "sub": "a" }));
    let both =
        Verifier::from_config(&Auth { hmac_secrets: vec![Secret::new(SECRET)], ..public("ec") }).unwrap();
    assert!(!both.is_costly(&by_hmac) && both.is_costly(&by_key) && !both.is_costly("rubbish"));
    assert!(!Verifier::from_config(&hmac()).unwrap().is_costly(&by_key));
}

#[test]
fn a_verifier_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Verifier>();
}
