//! What an operator reads on standard error: one line an event, whatever the text in it. Names, headers and Redis' messages
//! come from outside; nothing in them can begin a line or steer a terminal, because [`escaped`] is the only way out.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use drawbridge_engine::io::Notice;
use drawbridge_protocol::ErrorCode;
use tracing_subscriber::EnvFilter;

/// The variable that selects what is logged.
const VARIABLE: &str = "DRAWBRIDGE_LOG";

/// How many lines of one kind are logged in a [`WHILE`].
const LINES: u32 = 10;
const WHILE: Duration = Duration::from_secs(10);

/// Starts logging to standard error; `DRAWBRIDGE_LOG` filters, `info` by default.
pub fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var(VARIABLE)
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| OneLine(io::stderr()))
        // Colours are control characters too: they could not be distinguished from those in foreign text.
        .with_ansi(false)
        .with_target(false)
        .init();
}

/// Writes each event as one line. The formatter hands over a whole event at once, with a line feed at its end.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        // In one piece, so that lines of several threads do not mix.
        self.0.write_all(format!("{}\n", escaped(line)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Text with its control characters, line separators and changes of the writing direction spelled out: `\n`, `\r`, `\t` and
/// `\u001b`, as in JSON, so that a line of JSON stays one.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(steers) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // All of them fit into four digits.
            c if steers(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.into()
}

/// Lines of one kind, which others can cause: the first few of a while are logged, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    since: Option<Instant>,
    lines: u32,
    unlogged: u64,
}

impl Sparse {
    /// Logs a line, or counts it; `line` receives how many were counted since the last.
    pub(crate) fn line(&mut self, line: impl FnOnce(u64)) {
        if self.since.is_none_or(|since| since.elapsed() >= WHILE) {
            (self.since, self.lines) = (Some(Instant::now()), 0);
        }
        if self.lines == LINES {
            self.unlogged += 1;
        } else {
            self.lines += 1;
            line(std::mem::take(&mut self.unlogged));
        }
    }

    /// Counts a line that is not to be logged.
    pub(crate) fn skip(&mut self) {
        self.unlogged += 1;
    }
}

/// The notices of one engine.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    rights: Sparse,
    claims: Sparse,
    views: Sparse,
    subscriptions: Sparse,
    tokens: Sparse,
}

impl Notices {
    /// Logs it.
    pub(crate) fn log(&mut self, notice: &Notice) {
        match notice {
            Notice::AccessDenied { player, request, channel, why } => self.rights.line(|unlogged| {
                let (code, hint) = (ErrorCode::Forbidden.as_str(), "`drawbridge explain` shows the values of the rule");
                tracing::warn!(code, %player, request, channel, why, hint, unlogged, "request_refused");
            }),
            Notice::ClaimSkipped { player, template, claim, reason } => self.claims.line(|unlogged| {
                let text = "a claim is not fit for a channel name and is skipped";
                tracing::warn!(%player, template, claim, reason, unlogged, "{text}");
            }),
            Notice::OverridesRefused { player, reason, withheld } => self.views.line(|unlogged| {
                let what = if *withheld { "nothing new is shown to it" } else { "its classes' alone hold" };
                tracing::error!(%player, reason, unlogged, "Redis refused to return this player's view overrides: {what}");
            }),
            Notice::TokenRefused { address, code, reason } => self.tokens.line(|unlogged| {
                let (code, config) = (code.as_str(), token_key(reason));
                tracing::warn!(reason = "token", %address, code, why = reason, config, unlogged, "connection_refused");
            }),
            Notice::SubscriptionRefused { subject, reason } => self.subscriptions.line(|unlogged| {
                tracing::error!(channel = %subject, reason, unlogged, "Redis refused a subscription");
            }),
        }
    }
}

/// The configuration key by which a token that was refused so would be accepted.
pub(crate) fn token_key(reason: &str) -> &'static str {
    let keys = [
        ("audience", "auth.audience"),
        ("issuer", "auth.issuer"),
        (
            "CONNECT",
            "auth.allow_anonymous; auth.cookie or auth.query_token for tokens of the upgrade request",
        ),
        ("in the future", "auth.leeway"),
        ("`sub`", "none: the token's issuer sets `sub`, or auth.user_claim names another claim"),
        ("the token has no `", "auth.user_claim"),
        ("nor an integer", "auth.user_claim"),
        (
            "is not a number",
            "none: the token's issuer writes `exp`, `nbf` and `iat` as numbers, in seconds since 1970",
        ),
        (
            "not a JSON Web Token",
            "none: a token is three parts of base64url joined by dots; this one is cut off, or has more around it, such as quotes",
        ),
        ("yet", "none: the clocks differ, or the key set has not been fetched yet"),
        ("expired", "none: the client fetches a fresh token"),
        ("16 KiB", "none: the token has too many claims"),
    ];
    let found = keys.into_iter().find(|(word, _)| reason.contains(word));
    found.map_or(
        "auth.hmac_secret, auth.hmac_secrets, auth.public_key_file, auth.public_key_files or auth.jwks_url",
        |(_, key)| key,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_text_an_event_is_one_line() {
        let rows = [
            ("plain é ✓", "plain é ✓"),
            ("a\nb\r\n\tc", "a\\nb\\r\\n\\tc"),
            ("\u{1b}[2Jgone\u{7}", "\\u001b[2Jgone\\u0007"),
            ("\0\u{7f}\u{85}\u{9b}31m", "\\u0000\\u007f\\u0085\\u009b31m"),
            ("\u{2028}\u{2029}\u{202e}\u{2066}", "\\u2028\\u2029\\u202e\\u2066"),
        ];
        for (text, expected) in rows {
            assert_eq!(escaped(text), expected);
            let mut written = Vec::new();
            assert_eq!(
                OneLine(&mut written).write(format!("{text}\n").as_bytes()).ok(),
                Some(text.len() + 1)
            );
            assert_eq!(String::from_utf8(written).ok(), Some(format!("{expected}\n")));
        }
    }

    #[test]
    fn a_refused_token_names_every_key_of_the_configuration_that_could_accept_it() {
        let unknown = token_key("the signature fits no key");
        for key in ["hmac_secret", "hmac_secrets", "public_key_file", "public_key_files", "jwks_url"] {
            assert!(unknown.split([',', ' ']).any(|word| word == format!("auth.{key}")), "{key}: {unknown}");
        }
        let missing = token_key("CONNECT: `token` is missing");
        assert!(
            ["allow_anonymous", "cookie", "query_token"].iter().all(|key| missing.contains(key)),
            "{missing}"
        );
    }

    #[test]
    fn a_token_that_no_key_could_accept_names_what_its_issuer_has_to_change() {
        for (reason, remedy) in [
            ("the token's `exp` is not a number", "in seconds since 1970"),
            ("the token is not a JSON Web Token", "joined by dots"),
            ("the token has expired", "fetches a fresh token"),
        ] {
            let key = token_key(reason);
            assert!(key.starts_with("none: ") && key.contains(remedy), "{reason}: {key}");
        }
    }

    #[test]
    fn a_line_of_json_stays_one() {
        let line = serde_json::json!({ "player": "a\nb\u{1b}\u{85}\u{2028}" }).to_string();
        let parsed: serde_json::Value = serde_json::from_str(&escaped(&line)).unwrap_or_default();
        assert_eq!(parsed["player"], "a\nb\u{1b}\u{85}\u{2028}");
    }

    #[test]
    fn the_first_lines_of_a_while_are_logged_and_the_others_counted() {
        let (mut sparse, mut logged) = (Sparse::default(), Vec::new());
        for _ in 0..LINES + 3 {
            sparse.line(|unlogged| logged.push(unlogged));
        }
        assert_eq!(logged, [0; LINES as usize]);
        sparse.since = sparse.since.and_then(|since| since.checked_sub(WHILE));
        sparse.line(|unlogged| logged.push(unlogged));
        assert_eq!(logged.last(), Some(&3));
    }
}
