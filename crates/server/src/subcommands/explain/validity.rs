//! When and for whom a token is valid, as lines for a person. Whether it is, the node's own code decides.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

const SECOND_MS: f64 = 1_000.0;
const YEAR_MS: f64 = 365.25 * 86_400.0 * SECOND_MS;
/// An `exp` further away is not what its author means.
const MAX_YEARS: f64 = 100.0;

/// How long an accepted token is valid.
pub(super) fn of_accepted(expires_unix_ms: Option<u64>, now_unix_ms: u64) -> String {
    let Some(expires) = expires_unix_ms else {
        return "it never expires: it has no claim `exp`".to_owned();
    };
    let left_ms = expires as f64 - now_unix_ms as f64;
    match left_ms > MAX_YEARS * YEAR_MS {
        true => {
            let years = (left_ms / YEAR_MS).round();
            format!(
                "it expires in {years} years: `exp` counts seconds since 1970, and this looks like milliseconds"
            )
        }
        false if left_ms < 0.0 => format!("it expired {}, which auth.leeway still allows", away(left_ms)),
        false => format!("it expires {}", away(left_ms)),
    }
}

/// What a claim is in a refused token, and what the configuration accepts; `None` if it accepts anything.
pub(super) fn named(token: &str, claim: &str, key: &str, accepted: &[String]) -> Option<String> {
    let accepted: Vec<String> = accepted.iter().map(|name| format!("{name:?}")).collect();
    let found = claims_of(token).and_then(|claims| claims.get(claim).map(Value::to_string));
    let found = found.unwrap_or_else(|| "missing".to_owned());
    (!accepted.is_empty()).then(|| format!("its `{claim}` is {found}; {key} is {}", accepted.join(" or ")))
}

/// The claims of a token, unverified.
fn claims_of(token: &str) -> Option<Value> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// Where the claims that limit a refused token in time lie; `None` if it has none. The claims are not verified.
pub(super) fn of_refused(token: &str, now_unix_ms: u64) -> Option<String> {
    let claims = claims_of(token)?;
    let dates: Vec<String> = ["nbf", "iat", "exp"]
        .iter()
        .filter_map(|name| {
            let at_ms = claims.get(name)?.as_f64()? * SECOND_MS;
            Some(format!("`{name}` is {}", away(at_ms - now_unix_ms as f64)))
        })
        .collect();
    (!dates.is_empty()).then(|| format!("by the clock of this machine {}", dates.join(", ")))
}

/// `in 59 min` or `3 d ago`.
fn away(ms: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1.0, "s"), (60.0, "min"), (3_600.0, "h"), (86_400.0, "d")];
    let seconds = ms.abs() / SECOND_MS;
    // Two of a unit at least, so that rounding hides little.
    let (size, unit) = UNITS.into_iter().rev().find(|(size, _)| seconds >= 2.0 * size).unwrap_or((1.0, "s"));
    let count = (seconds / size).round();
    if ms < 0.0 { format!("{count} {unit} ago") } else { format!("in {count} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn an_accepted_token_says_how_long_it_is_valid() {
        for (expires, said) in [
            (Some(NOW + 90_000), "it expires in 90 s"),
            (Some(NOW + 3_599_000), "it expires in 60 min"),
            (Some(NOW + 36 * 3_600_000), "it expires in 36 h"),
            (Some(NOW - 1_000), "it expired 1 s ago, which auth.leeway still allows"),
            (None, "it never expires: it has no claim `exp`"),
        ] {
            assert_eq!(of_accepted(expires, NOW), said);
        }
        let in_milliseconds = of_accepted(Some((NOW + 3_600_000) * 1_000), NOW);
        assert!(in_milliseconds.ends_with("looks like milliseconds"), "{in_milliseconds}");
    }

    #[test]
    fn a_token_for_another_server_says_what_both_name() {
        let token = |claims: &str| format!("e30.{}.", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let accepted = ["game".to_owned(), "test".to_owned()];
        let said = |claims: &str| named(&token(claims), "aud", "auth.audience", &accepted);
        for (claims, found) in
            [("{\"aud\":\"shop\"}", "\"shop\""), ("{\"aud\":[\"a\",7]}", "[\"a\",7]"), ("{}", "missing")]
        {
            let line = format!("its `aud` is {found}; auth.audience is \"game\" or \"test\"");
            assert_eq!(said(claims).as_deref(), Some(&*line));
        }
        assert_eq!(named(&token("{}"), "aud", "auth.audience", &[]), None);
    }

    #[test]
    fn a_refused_token_says_where_its_dates_lie() {
        let token = |claims: &str| format!("e30.{}.", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let said = |claims: &str| of_refused(&token(claims), NOW);
        assert_eq!(
            said("{\"exp\":1789996400,\"iat\":1789992799.5}").as_deref(),
            Some("by the clock of this machine `iat` is 2 h ago, `exp` is 60 min ago")
        );
        assert_eq!(
            said("{\"nbf\":1790000600}").as_deref(),
            Some("by the clock of this machine `nbf` is in 10 min")
        );
        assert_eq!((said("{}"), said("{"), of_refused("garbage", NOW)), (None, None, None));
    }
}
