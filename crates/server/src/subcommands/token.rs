//! `drawbridge token`: prints one JWT, and nothing else, to standard output.

use std::io::{self, Write};
use std::time::SystemTime;

use super::{DONE, ExitStatus, REFUSED, report_config};
use crate::auth::{NewToken, OptionStyle, PrivateKey, Verifier};
use crate::cli::TokenArgs;
use crate::config::{self, Auth};

const STYLE: OptionStyle = OptionStyle { prefix: "--", separator: " " };

/// Mints and prints.
///
/// # Errors
/// Where the token cannot be written.
pub fn run(args: &TokenArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => return report_config(&errors, err),
    };
    match token(args, &config.auth, SystemTime::now()) {
        Ok(token) => {
            writeln!(out, "{token}")?;
            Ok(DONE)
        }
        Err(problem) => {
            writeln!(err, "drawbridge token: {problem}")?;
            Ok(REFUSED)
        }
    }
}

fn token(args: &TokenArgs, auth: &Auth, now: SystemTime) -> Result<String, String> {
    let key = signing_key(args, auth)?;
    let token = NewToken {
        sub: &args.sub,
        claims: &args.claims,
        json_claims: &args.json_claims,
        ttl: &args.ttl,
        style: STYLE,
    };
    let token = token.sign(auth, &key, args.kid.as_deref(), now)?;
    check_pair(args, auth, &token)?;
    Ok(token)
}

fn signing_key(args: &TokenArgs, auth: &Auth) -> Result<PrivateKey, String> {
    let Some(file) = &args.private_key_file else {
        let secret = auth.hmac_secrets.first().ok_or(
            "the configuration has no `auth.hmac_secret` to sign with; give the private key: --private-key-file FILE",
        )?;
        return Ok(PrivateKey::hmac(secret.expose()));
    };
    let pem = config::read_file(file).map_err(|problem| format!("{}: {problem}", file.display()))?;
    let key = PrivateKey::from_pem(&pem)
        .map_err(|wrong| format!("{}: {}; {}", file.display(), wrong.problem, wrong.hint))?;
    if args.pss {
        return key.with_pss().ok_or_else(|| "--pss is for RSA keys only".to_owned());
    }
    Ok(key)
}

/// A private key that is not the public key's other half makes tokens that no server takes.
fn check_pair(args: &TokenArgs, auth: &Auth, token: &str) -> Result<(), String> {
    let (Some(file), [_, ..], None) = (&args.private_key_file, &auth.public_keys[..], &auth.jwks_url) else {
        return Ok(());
    };
    let only_the_key = Auth { public_keys: auth.public_keys.clone(), ..Auth::default() };
    let verifier = Verifier::from_config(&only_the_key).map_err(|error| error.to_string())?;
    if verifier.is_signature_good(token) {
        return Ok(());
    }
    Err(format!("{} is not the other half of `auth.public_key_file`", file.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::Secret;

    const NOW: u64 = 1_790_000_000;

    fn args(claims: &[&str], json_claims: &[&str]) -> TokenArgs {
        let owned = |list: &[&str]| list.iter().map(|claim| (*claim).to_owned()).collect();
        TokenArgs {
            config: PathBuf::new(),
            sub: "alice".to_owned(),
            claims: owned(claims),
            json_claims: owned(json_claims),
            ttl: "1h".to_owned(),
            private_key_file: None,
            pss: false,
            kid: None,
        }
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn hmac() -> Auth {
        Auth { hmac_secrets: vec![Secret::new("0123456789abcdef0123456789abcdef")], ..Auth::default() }
    }

    fn minted(args: &TokenArgs, auth: &Auth) -> Result<Value, String> {
        let token = token(args, auth, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))?;
        let claims =
            Verifier::from_config(auth).unwrap().verify(&token, NOW * 1000).map_err(|f| f.message)?;
        Ok(serde_json::from_str(&claims.json).unwrap())
    }

    #[test]
    fn a_bare_number_is_a_text_and_a_list_is_json() {
        let claims = ["room=42", "rooms=[\"42\",\"43\"]", "admin=true", "name=\"7\"", "word=a=b", "empty="];
        assert_eq!(
            minted(&args(&claims, &["level=5"]), &hmac()).unwrap(),
            json!({
                "sub": "alice", "iat": NOW, "exp": NOW + 3600, "room": "42", "rooms": ["42", "43"],
                "admin": true, "name": "7", "word": "a=b", "empty": "", "level": 5
            })
        );
    }

    #[test]
    fn what_the_configuration_asks_of_tokens_is_in_them() {
        let auth = Auth { audience: vec!["game".into(), "test".into()], issuer: vec!["me".into()], ..hmac() };
        let claims = minted(&args(&[], &[]), &auth).unwrap();
        assert_eq!((&claims["aud"], &claims["iss"]), (&json!("game"), &json!("me")));
    }

    #[test]
    fn the_player_is_named_by_the_claim_that_the_configuration_names() {
        let auth = Auth { user_claim: "uid".into(), ..hmac() };
        let claims = minted(&args(&["sub=auth0"], &[]), &auth).unwrap();
        assert_eq!((&claims["uid"], &claims["sub"]), (&json!("alice"), &json!("auth0")));
        let said = minted(&args(&["uid=bob"], &[]), &auth).unwrap_err();
        assert_eq!(said, "--claim uid: the player's id is set by --sub");
    }

    #[test]
    fn expiry_can_be_set_and_left_out() {
        let never = TokenArgs { ttl: "never".into(), ..args(&[], &[]) };
        assert_eq!(minted(&never, &hmac()).unwrap().get("exp"), None);
        let past = args(&["exp=1"], &[]);
        assert_eq!(minted(&past, &hmac()).unwrap_err(), "the token has expired");
        let wrong = TokenArgs { ttl: "soon".into(), ..args(&[], &[]) };
        assert!(minted(&wrong, &hmac()).unwrap_err().starts_with("--ttl is not a duration"));
    }

    #[test]
    fn wrong_claims_are_explained() {
        for (claim, problem) in [
            ("room", "--claim is written NAME=VALUE, such as --claim room=42"),
            ("=1", "--claim is written NAME=VALUE, such as --claim room=42"),
            ("sub=bob", "--claim sub: the player's id is set by --sub"),
            ("exp=soon", "--claim exp: the value is a number, in seconds since 1970"),
            (
                "rooms=[1",
                "--claim rooms: the value begins like a list, an object or a quoted string of JSON, and is none",
            ),
        ] {
            assert_eq!(minted(&args(&[claim], &[]), &hmac()).unwrap_err(), problem);
        }
        assert_eq!(
            minted(&args(&[], &["a=b"]), &hmac()).unwrap_err(),
            "--claim-json a: the value is not JSON"
        );
    }

    #[test]
    fn a_private_key_signs_for_its_public_half() {
        for kind in ["rsa", "ec", "ec384", "ed25519"] {
            let pem = std::fs::read(fixture(&format!("{kind}.pub.pem"))).unwrap();
            let public_keys = vec![crate::auth::PublicKey::from_pem(&pem).unwrap()];
            let auth = Auth { public_keys, ..Auth::default() };
            let args = TokenArgs {
                private_key_file: Some(fixture(&format!("{kind}.key.pem"))),
                ..args(&["room=1"], &[])
            };
            assert_eq!(minted(&args, &auth).unwrap()["room"], "1", "{kind}");
            let pss = TokenArgs { pss: true, ..args };
            assert_eq!(minted(&pss, &auth).is_ok(), kind == "rsa", "{kind}");
        }
    }

    #[test]
    fn a_private_key_of_another_pair_is_refused() {
        let pem = std::fs::read(fixture("ec.pub.pem")).unwrap();
        let auth = Auth { public_keys: vec![crate::auth::PublicKey::from_pem(&pem).unwrap()], ..hmac() };
        let args = TokenArgs { private_key_file: Some(fixture("ed25519.key.pem")), ..args(&[], &[]) };
        assert!(
            minted(&args, &auth).unwrap_err().ends_with("is not the other half of `auth.public_key_file`")
        );
    }

    #[test]
    fn without_a_secret_a_key_is_asked_for() {
        assert!(minted(&args(&[], &[]), &Auth::default()).unwrap_err().contains("--private-key-file"));
    }
}
