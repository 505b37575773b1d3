//! The claims of a token that someone writes by hand: the options of `drawbridge token`, and the query of `/dev/token`.
//! Signing is in [`super::mint`].

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::{MAX_PLAYER_BYTES, MAX_TOKEN_BYTES, PrivateKey, mint};
use crate::config::{Auth, units};

/// These are numbers wherever they are (RFC 7519 §4.1).
const DATES: [&str; 3] = ["exp", "nbf", "iat"];

/// How long a token is valid if nobody says.
pub const DEFAULT_TTL: &str = "1h";

/// How the caller writes options, for errors: `--claim room=42` or `claim=room=42`.
#[derive(Clone, Copy, Debug)]
pub struct OptionStyle {
    /// What is before an option's name.
    pub prefix: &'static str,
    /// What is between an option's name and its value.
    pub separator: &'static str,
}

/// What a token is to say.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    /// The player's id, 1 to [`MAX_PLAYER_BYTES`] bytes.
    pub sub: &'a str,
    /// `NAME=VALUE`, where a bare number is a text.
    pub claims: &'a [String],
    /// `NAME=JSON`.
    pub json_claims: &'a [String],
    /// A duration of the configuration, or `never`.
    pub ttl: &'a str,
    /// How errors name the options.
    pub style: OptionStyle,
}

impl NewToken<'_> {
    /// The token, signed by this key, with what the configuration requires of tokens.
    ///
    /// # Errors
    /// What is wrong with an option, or that the token would be longer than [`MAX_TOKEN_BYTES`].
    pub fn sign(
        &self,
        auth: &Auth,
        key: &PrivateKey,
        key_id: Option<&str>,
        now: SystemTime,
    ) -> Result<String, String> {
        let token = mint(key, key_id, &self.claims(auth, now)?).map_err(|error| error.to_string())?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(format!(
                "the token would be longer than {MAX_TOKEN_BYTES} bytes, and no server would take it"
            ));
        }
        Ok(token)
    }

    fn claims(&self, auth: &Auth, now: SystemTime) -> Result<Map<String, Value>, String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.sub.is_empty() || self.sub.len() > MAX_PLAYER_BYTES {
            return Err(format!("{}sub is 1 to {MAX_PLAYER_BYTES} bytes long", self.style.prefix));
        }
        let mut claims = Map::new();
        claims.insert(auth.user_claim.clone(), json!(self.sub));
        claims.insert("iat".to_owned(), json!(now.as_secs()));
        if let Some(ttl) = self.ttl()? {
            claims.insert("exp".to_owned(), json!(now.saturating_add(ttl).as_secs()));
        }
        for (name, wanted) in [("aud", &auth.audience), ("iss", &auth.issuer)] {
            if let Some(first) = wanted.first() {
                claims.insert(name.to_owned(), json!(first));
            }
        }
        for claim in self.claims {
            let (name, value) = self.split("claim", claim, &auth.user_claim)?;
            let value = loose(name, value)
                .map_err(|problem| format!("{}claim {name}: {problem}", self.style.prefix))?;
            claims.insert(name.to_owned(), value);
        }
        for claim in self.json_claims {
            let (name, value) = self.split("claim-json", claim, &auth.user_claim)?;
            let value = serde_json::from_str(value)
                .map_err(|_| format!("{}claim-json {name}: the value is not JSON", self.style.prefix))?;
            claims.insert(name.to_owned(), value);
        }
        Ok(claims)
    }

    /// How long it is valid; `None`: for ever.
    fn ttl(&self) -> Result<Option<Duration>, String> {
        if self.ttl == "never" {
            return Ok(None);
        }
        let ttl = units::parse_duration(self.ttl).ok_or_else(|| {
            format!("{}ttl is not a duration: {}, or \"never\"", self.style.prefix, units::DURATION_FORM)
        })?;
        Ok(Some(ttl))
    }

    fn split<'c>(
        &self,
        option: &str,
        claim: &'c str,
        user_claim: &str,
    ) -> Result<(&'c str, &'c str), String> {
        let OptionStyle { prefix, separator } = self.style;
        match claim.split_once('=') {
            Some((name, _)) if name == user_claim => {
                Err(format!("{prefix}{option} {name}: the player's id is set by {prefix}sub"))
            }
            Some((name, value)) if !name.is_empty() => Ok((name, value)),
            _ => Err(format!(
                "{prefix}{option} is written NAME=VALUE, such as {prefix}{option}{separator}room=42"
            )),
        }
    }
}

/// JSON where it can be nothing else; a bare number is a text, except for the claims that are dates.
fn loose(name: &str, value: &str) -> Result<Value, &'static str> {
    match serde_json::from_str(value) {
        Ok(Value::Number(number)) if DATES.contains(&name) => Ok(Value::Number(number)),
        _ if DATES.contains(&name) => Err("the value is a number, in seconds since 1970"),
        Err(_) if value.starts_with(['[', '{', '"']) => {
            Err("the value begins like a list, an object or a quoted string of JSON, and is none")
        }
        Ok(Value::Number(_)) | Err(_) => Ok(Value::String(value.to_owned())),
        Ok(json) => Ok(json),
    }
}
