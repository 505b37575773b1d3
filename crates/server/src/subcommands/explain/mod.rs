//! `drawbridge explain`: which class and rule decide about a token, a subscribe or a publish, step by step. The decision is
//! made by the engine's own code ([`drawbridge_engine::explain`]); this prints it.

mod validity;

use std::io::{self, Write};

use drawbridge_engine::explain::{self, Explanation, Step};
use drawbridge_engine::expr::{Outcome, PathValue};
use drawbridge_engine::io::{AuthFailure, Claims};
use drawbridge_protocol::{ClientMessage, Encoding, ErrorCode, codec};

use super::{DONE, ExitStatus, REFUSED, event_members, parse_data, report_config};
use crate::auth::Verifier;
use crate::cli::ExplainArgs;
use crate::clock::unix_ms;
use crate::config::{self, Config};
use crate::log::{escaped, token_key};

/// The longest value that is shown, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Explains; the exit status is [`DONE`] if a player with this token may do it.
///
/// # Errors
/// Where the explanation cannot be written.
pub fn run(args: &ExplainArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => return report_config(&errors, err),
    };
    let verifier = match Verifier::from_config(&config.auth) {
        Ok(verifier) => verifier,
        Err(error) => {
            writeln!(err, "drawbridge explain: auth: {error}")?;
            return Ok(REFUSED);
        }
    };
    let claims = match &args.token {
        Some(token) => player(&config, &verifier, token, out)?,
        None => anonymous(&config, out)?,
    };
    let Some(claims) = claims else { return Ok(REFUSED) };
    let (what, explanation) = match request(args, &config, &claims) {
        Ok(Some(explained)) => explained,
        Ok(None) => return Ok(DONE),
        Err(problem) => {
            writeln!(err, "drawbridge explain: {problem}")?;
            return Ok(REFUSED);
        }
    };
    writeln!(out, "{what}")?;
    for step in &explanation.steps {
        print(step, out)?;
    }
    match explanation.verdict {
        Ok(()) => writeln!(out, "allowed").map(|()| DONE),
        Err(why) => writeln!(out, "refused: {}", escaped(&why)).map(|()| REFUSED),
    }
}

/// The player of this token; `None` if no node takes it, which is explained.
fn player(
    config: &Config,
    verifier: &Verifier,
    token: &str,
    out: &mut dyn Write,
) -> io::Result<Option<Claims>> {
    let now = unix_ms();
    match verifier.verify(token, now) {
        Ok(claims) => {
            let json = shown(&claims.json);
            writeln!(out, "token: accepted; player `{}`, claims {json}", escaped(&claims.player))?;
            writeln!(out, "  {}", validity::of_accepted(claims.expires_unix_ms, now))?;
            Ok(Some(claims))
        }
        Err(failure) => refused(config, &failure, token, now, out).map(|()| None),
    }
}

/// A player without a token; `None` if the configuration requires one, which is explained.
fn anonymous(config: &Config, out: &mut dyn Write) -> io::Result<Option<Claims>> {
    let claims = explain::anonymous_player(&config.engine);
    match &claims {
        Some(claims) => writeln!(
            out,
            "token: none, which auth.allow_anonymous permits; the player is `{}`, say, with the claims {}",
            claims.player, claims.json
        )?,
        None => writeln!(
            out,
            "token: none: refused: {}: auth.allow_anonymous is false\n  \
             give --token; `drawbridge token --config FILE --sub alice` mints one",
            ErrorCode::Unauthenticated.as_str()
        )?,
    }
    Ok(claims)
}

/// Why no node takes the token, and what to change.
fn refused(
    config: &Config,
    failure: &AuthFailure,
    token: &str,
    now: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "token: refused: {}: {}", failure.code.as_str(), escaped(&failure.message))?;
    let is_about_time = failure.code == ErrorCode::TokenExpired || failure.retry_after_ms.is_some();
    if is_about_time && let Some(dates) = validity::of_refused(token, now) {
        writeln!(out, "  {dates}")?;
    }
    let key = token_key(&failure.message);
    let named = match key {
        "auth.audience" => validity::named(token, "aud", key, &config.auth.audience),
        "auth.issuer" => validity::named(token, "iss", key, &config.auth.issuer),
        _ => None,
    };
    match (named, key.strip_prefix("none: ")) {
        (Some(named), _) => writeln!(out, "  {}", shown(&named)),
        (None, Some(remedy)) => writeln!(out, "  {remedy}"),
        (None, None) => writeln!(out, "  see {key}"),
    }
}

/// What is to be explained, and how it is decided.
fn request(
    args: &ExplainArgs,
    config: &Config,
    claims: &Claims,
) -> Result<Option<(String, Explanation)>, String> {
    let settings = &config.engine;
    match (&args.subscribe, &args.publish) {
        (Some(name), _) => {
            Ok(Some((format!("subscribe {}", escaped(name)), explain::subscribe(settings, claims, name))))
        }
        (None, Some(channel)) => {
            let publish = sent(args, channel)?;
            let what = format!("publish {} on {}", escaped(&args.event), escaped(channel));
            Ok(Some((what, explain::publish(settings, claims, &publish))))
        }
        (None, None) => Ok(None),
    }
}

/// The publish as a node reads it from a client.
fn sent(args: &ExplainArgs, channel: &str) -> Result<drawbridge_protocol::Publish, String> {
    let data = parse_data(&args.data)?;
    let members = event_members(Some(channel), &args.event, &data, args.key.as_deref());
    let text = format!("{{\"type\":\"PUBLISH_EVENT\",{members}}}");
    let request = codec::decode(Encoding::Json, text.as_bytes()).into_iter().next();
    match request.map(|request| request.map(|request| request.message)) {
        Some(Ok(ClientMessage::Publish(publish))) => Ok(publish),
        Some(Err(bad)) => Err(bad.reason),
        _ => Err("the arguments make no publish".to_owned()),
    }
}

fn print(step: &Step, out: &mut dyn Write) -> io::Result<()> {
    match step {
        Step::Reserved => writeln!(
            out,
            "  name: begins with `broker.key_prefix`, or is drawbridge:control: the server's own"
        ),
        Step::Class { passed_over, found } => class(passed_over, found.as_ref(), out),
        Step::Patterns { is_allowed: true } => {
            writeln!(
                out,
                "  patterns: allowed; each channel's `subscribe` rule and `view` decide which events are sent"
            )
        }
        Step::Patterns { is_allowed: false } => {
            writeln!(out, "  patterns: not allowed; the class needs patterns = true")
        }
        Step::Rule { key, rule, .. } if rule == "false" => {
            writeln!(
                out,
                "  rule: {key} = `false`, which is also what a class without `{key}` has: no player may"
            )
        }
        Step::Rule { key, rule, is_true, trace, misfit } => {
            writeln!(
                out,
                "  rule: {key} = `{}` is {}",
                escaped(rule),
                if *is_true { "true" } else { "not true" }
            )?;
            for (condition, outcome) in &trace.conditions {
                writeln!(out, "    {}: {}", escaped(condition), said(*outcome))?;
            }
            for (path, value) in &trace.paths {
                writeln!(out, "    {}", value_line(path, value))?;
            }
            match misfit {
                Some(misfit) => writeln!(out, "    {}", escaped(misfit)),
                None => Ok(()),
            }
        }
        Step::AutoSubscribe { channels, count, is_filled } => {
            let (named, more) = (channels.join(", "), if channels.len() < *count { ", …" } else { "" });
            let list = if named.is_empty() { "no channel" } else { &named };
            let this = if *is_filled { "this one too, which grants it" } else { "not this one" };
            writeln!(out, "  auto_subscribe: the player's claims make {}{more}; {this}", escaped(list))
        }
        Step::View { view, bound } => {
            writeln!(
                out,
                "  view: of its events, those with `{}` are sent; for this player: `{}`",
                escaped(view),
                shown(bound)
            )
        }
        Step::Forward(stream) => {
            writeln!(out, "  forward: it is appended to the stream `{stream}`, for a service")
        }
        Step::Event(problem) => writeln!(out, "  event: {}", escaped(problem)),
    }
}

fn class(
    passed_over: &[String],
    found: Option<&(String, Vec<(String, String)>)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let others: Vec<String> = passed_over.iter().map(|name| format!("`{name}`")).collect();
    let others = others.join(", ");
    match found {
        None if others.is_empty() => writeln!(out, "  class: none; the configuration has no [[channel]]"),
        None => writeln!(
            out,
            "  class: none matches; tried {others}\n    a placeholder such as {{room}} takes one part between colons, and a final * the rest; upper and lower case differ"
        ),
        Some((name, params)) => {
            write!(out, "  class: `{name}`")?;
            for (name, value) in params {
                write!(out, ", {name} = '{}'", escaped(value))?;
            }
            match others.is_empty() {
                true => writeln!(out),
                false => writeln!(out, "; before it, these do not match: {others}"),
            }
        }
    }
}

fn said(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::True => "true",
        Outcome::False => "false",
        Outcome::Error => "an error, which is not true",
    }
}

fn value_line(path: &str, value: &PathValue) -> String {
    match value {
        PathValue::Value(value) => format!("{} = {}", escaped(path), shown(value)),
        PathValue::Missing { claim: Some(claim) } => {
            format!("{} is missing: there is no claim `{}`", escaped(path), escaped(claim))
        }
        PathValue::Missing { claim: None } => format!("{} is missing", escaped(path)),
    }
}

fn shown(text: &str) -> String {
    let text = escaped(text);
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;
    use std::time::SystemTime;

    use super::*;
    use crate::auth::{NewToken, OptionStyle, PrivateKey};

    const SECRET: &str = "change-me-to-32-random-bytes-or-more";

    fn example() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/drawbridge.toml")
    }

    fn args(token: String) -> ExplainArgs {
        ExplainArgs {
            config: example(),
            token: Some(token),
            subscribe: None,
            publish: None,
            event: "message".to_owned(),
            data: "null".to_owned(),
            key: None,
        }
    }

    fn token(claims: &[&str]) -> String {
        let claims: Vec<String> = claims.iter().map(|claim| (*claim).to_owned()).collect();
        let style = OptionStyle { prefix: "--", separator: " " };
        let token = NewToken { sub: "alice", claims: &claims, json_claims: &[], ttl: "1h", style };
        let auth = crate::config::load(&example()).unwrap().auth;
        token.sign(&auth, &PrivateKey::hmac(SECRET), None, SystemTime::now()).unwrap()
    }

    fn explained(args: &ExplainArgs) -> (ExitStatus, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = run(args, &mut out, &mut err).unwrap();
        (status, String::from_utf8(out).unwrap() + &String::from_utf8(err).unwrap())
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.contains(line), "`{line}` is missing in:\n{text}");
        }
    }

    #[test]
    fn a_denied_subscribe_names_class_rule_values_and_the_missing_claim() {
        let args = ExplainArgs { subscribe: Some("room:43".to_owned()), ..args(token(&["room=42"])) };
        let (status, text) = explained(&args);
        assert_eq!(status, REFUSED);
        has(
            &text,
            &[
                "token: accepted; player `alice`",
                "\n  it expires in 60 min\n",
                "subscribe room:43\n",
                "  class: `room:{room}`, room = '43'; before it, these do not match: `player:{player}`\n",
                "  rule: subscribe = `params.room == me.room || params.room in me.rooms` is not true\n",
                "    params.room == me.room: false\n",
                "    params.room in me.rooms: an error, which is not true\n",
                "    me.room = '42'\n",
                "    me.rooms is missing: there is no claim `rooms`\n",
                "  auto_subscribe: the player's claims make player:alice, room:42; not this one\n",
                "refused: class `room:{room}`",
            ],
        );
    }

    #[test]
    fn an_allowed_subscribe_also_says_what_is_shown() {
        let args =
            ExplainArgs { subscribe: Some("room:42".to_owned()), ..args(token(&["room=42", "team=red"])) };
        let (status, text) = explained(&args);
        assert_eq!(status, DONE);
        has(
            &text,
            &[
                "is true\n",
                "  view: of its events, those with `!has(data.team) || data.team == me.team`",
                "'red'",
                "\nallowed\n",
            ],
        );
    }

    #[test]
    fn a_publish_is_evaluated_with_its_event_and_data() {
        let say = |data: &str| ExplainArgs {
            publish: Some("chat:lobby".to_owned()),
            event: "say".to_owned(),
            data: data.to_owned(),
            ..args(token(&[]))
        };
        assert_eq!(explained(&say("{\"text\":\"hi\"}")).0, DONE);
        let (status, text) = explained(&say("{\"txt\":\"hi\"}"));
        assert_eq!(status, REFUSED);
        has(
            &text,
            &["publish say on chat:lobby\n", "    event == 'say': true\n", "    data.text is missing\n"],
        );
        has(&explained(&say("hi")).1, &["--data is JSON"]);
        let mailbox = ExplainArgs { publish: Some("player:alice".to_owned()), ..args(token(&[])) };
        has(
            &explained(&mailbox).1,
            &["  rule: publish = `false`, which is also what a class without `publish` has"],
        );
        let forwarded = ExplainArgs { publish: Some("room:42".to_owned()), ..args(token(&["room=42"])) };
        has(
            &explained(&forwarded).1,
            &["  forward: it is appended to the stream `actions:{room}`", "allowed"],
        );
    }

    #[test]
    fn patterns_unknown_channels_and_wrong_names_are_explained() {
        for (name, status, line) in [
            ("chat:*", DONE, "  patterns: allowed"),
            ("room:*", REFUSED, "  patterns: not allowed; the class needs patterns = true"),
            ("rom:42", REFUSED, "  class: none matches; tried `player:{player}`, `room:{room}`, `chat:*`"),
            ("Room:42", REFUSED, "    a placeholder such as {room} takes one part between colons"),
            ("drawbridge:x", REFUSED, "the server's own"),
            ("a b", REFUSED, "refused: a channel name has no white space"),
        ] {
            let args = ExplainArgs { subscribe: Some(name.to_owned()), ..args(token(&[])) };
            let (found, text) = explained(&args);
            assert_eq!(found, status, "{name}: {text}");
            has(&text, &[line]);
        }
    }

    #[test]
    fn a_token_that_no_node_takes_is_explained_and_never_printed() {
        let (status, text) = explained(&args("not.a.token".to_owned()));
        assert_eq!(status, REFUSED);
        has(&text, &["token: refused: UNAUTHENTICATED: ", "three parts"]);
        assert!(!text.contains("not.a.token"));
        let (status, text) = explained(&args(token(&["exp=1"])));
        assert_eq!(status, REFUSED);
        has(&text, &["TOKEN_EXPIRED", " d ago\n", "\n  the client fetches a fresh token"]);
        assert_eq!(explained(&args(token(&[]))).0, DONE);
    }
}
