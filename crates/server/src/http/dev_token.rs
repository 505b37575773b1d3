//! `GET /dev/token` of `drawbridge dev`: a token for whoever asks, so that a developer's own page can connect before there is
//! a login. Pages that may connect may read it (CORS); the claims are read as `drawbridge token` reads them.

use std::time::SystemTime;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::pages::{Reply, text};
use super::query;
use crate::auth::{DEFAULT_TTL, NewToken, OptionStyle, PrivateKey};
use crate::config::Auth;

/// Where it is served.
pub(super) const PATH: &str = "/dev/token";

const STYLE: OptionStyle = OptionStyle { prefix: "", separator: "=" };
const USAGE: &str = "GET /dev/token?sub=alice&claim=room=42: `sub` is the player; `claim` (NAME=VALUE) and \
    `claim-json` (NAME=JSON) may be repeated; `ttl` is 1h if absent";

/// The answer to a page whose origin may connect, or to a client that is no page.
pub(super) fn answer(
    auth: &Auth,
    key: &PrivateKey,
    method: &Method,
    headers: &HeaderMap,
    query: &str,
) -> Reply {
    let mut reply = match *method {
        Method::OPTIONS => preflight(),
        Method::GET | Method::HEAD => match token(auth, key, query, SystemTime::now()) {
            // No line feed at the end: the body is the token.
            Ok(token) => text(StatusCode::OK, &token),
            Err(problem) => text(StatusCode::BAD_REQUEST, &format!("{problem}\n{USAGE}\n")),
        },
        _ => {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, &format!("{USAGE}\n"));
            reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            reply
        }
    };
    if let Some(origin) = headers.get(header::ORIGIN) {
        reply.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    reply.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
    reply
}

/// The answer of a node that is not `dev`. Any page may read it, so that one that was written for `dev` shows what is wrong.
pub(super) fn absent() -> Reply {
    let said = "only `drawbridge dev` serves /dev/token; on this node players' tokens come from your login service\n";
    let mut reply = text(StatusCode::NOT_FOUND, said);
    reply.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    reply
}

fn preflight() -> Reply {
    let mut reply = text(StatusCode::NO_CONTENT, "");
    let headers = reply.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    reply
}

fn token(auth: &Auth, key: &PrivateKey, query: &str, now: SystemTime) -> Result<String, String> {
    let (mut subs, mut ttls) = (Vec::new(), Vec::new());
    let (mut claims, mut json_claims) = (Vec::new(), Vec::new());
    for (name, value) in query::parameters(query) {
        match &*name {
            "sub" => subs.push(value),
            "ttl" => ttls.push(value),
            "claim" => claims.push(value),
            "claim-json" => json_claims.push(value),
            "claims" => {
                return Err("`claims` is not a parameter; each claim is written claim=NAME=VALUE".to_owned());
            }
            _ => return Err(format!("`{name}` is not a parameter; a claim is written claim={name}=VALUE")),
        }
    }
    let [sub] = &subs[..] else { return Err("`sub` is needed, once".to_owned()) };
    let ttl = match &ttls[..] {
        [] => DEFAULT_TTL,
        [ttl] => ttl,
        _ => return Err("`ttl` is written once".to_owned()),
    };
    NewToken { sub, claims: &claims, json_claims: &json_claims, ttl, style: STYLE }.sign(auth, key, None, now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::auth::Verifier;
    use crate::config::Secret;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const NOW: u64 = 1_790_000_000;

    fn minted(query: &str) -> Result<Value, String> {
        let auth = Auth { hmac_secrets: vec![Secret::new(SECRET)], ..Auth::default() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let token = token(&auth, &PrivateKey::hmac(SECRET), query, now)?;
        let claims =
            Verifier::from_config(&auth).unwrap().verify(&token, NOW * 1000).map_err(|f| f.message)?;
        Ok(serde_json::from_str(&claims.json).unwrap())
    }

    #[test]
    fn claims_are_read_as_on_the_command_line() {
        let query = "sub=alice&claim=room=42&claim=rooms=%5B%2242%22,%2243%22%5D&claim-json=level=5&ttl=10m";
        let claims = json!({
            "sub": "alice", "iat": NOW, "exp": NOW + 600, "room": "42", "rooms": ["42", "43"], "level": 5
        });
        assert_eq!(minted(query).unwrap(), claims);
        assert_eq!(minted("sub=bob").unwrap(), json!({ "sub": "bob", "iat": NOW, "exp": NOW + 3_600 }));
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_the_query() {
        for (query, problem) in [
            ("", "`sub` is needed, once"),
            ("sub=a&sub=b", "`sub` is needed, once"),
            ("sub=", "sub is 1 to 255 bytes long"),
            ("sub=a&room=42", "`room` is not a parameter; a claim is written claim=room=VALUE"),
            ("sub=a&claims=room=42", "`claims` is not a parameter; each claim is written claim=NAME=VALUE"),
            ("sub=a&claim=room", "claim is written NAME=VALUE, such as claim=room=42"),
            ("sub=a&claim=sub=b", "claim sub: the player's id is set by sub"),
            ("sub=a&claim-json=a=b", "claim-json a: the value is not JSON"),
            ("sub=a&ttl=1h&ttl=2h", "`ttl` is written once"),
        ] {
            assert_eq!(minted(query).unwrap_err(), problem, "{query}");
        }
        assert!(minted("sub=a&ttl=soon").unwrap_err().starts_with("ttl is not a duration"));
        assert!(
            minted(&format!("sub=a&claim=x={}", "y".repeat(20_000))).unwrap_err().contains("longer than")
        );
    }
}
