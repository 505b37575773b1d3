//! Player commands as JSON: what nodes send each other, and what services publish on the control channel (contract §9).

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::expr::{self, CompileError, Vars};
use drawbridge_engine::io::{PlayerAction, PlayerCommand, SessionHash};
use drawbridge_protocol::channel;
use drawbridge_protocol::json::Value;
use serde::Serialize;

use crate::object::{self, members, needed};

/// What a node says that has claimed a session, on the nodes' own channel.
const TAKEN_OVER: &str = "taken_over";

/// A player command as JSON (contract §9).
#[derive(Debug, Serialize)]
struct WireCommand<'a> {
    command: &'a str,
    player: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    /// `null` is its own value.
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<Option<&'a str>>,
}

/// The member `view`: an expression, or `null`, which takes the view back.
///
/// # Errors
/// Where it is missing, or something else.
pub(crate) fn view_of(member: Option<Value<'_>>) -> Result<Option<Arc<str>>, String> {
    if member.is_none() {
        return Err("`view` is missing: an expression, or null".to_owned());
    }
    Ok(object::string("view", member)?.map(Into::into))
}

/// Checks a player's name.
///
/// # Errors
/// Where it is empty.
pub(crate) fn check_player(player: &str) -> Result<(), String> {
    if player.is_empty() { Err("`player` is empty".to_owned()) } else { Ok(()) }
}

/// Checks a view as a service sets it.
///
/// # Errors
/// Where it is not an expression over the variables of a class's `view`.
pub fn check_view(view: &str) -> Result<(), CompileError> {
    expr::compile(view, Vars::VIEW_RULE).map(|_| ())
}

/// A player command as it is published.
pub fn to_payload(command: &PlayerCommand) -> Bytes {
    to_json(&WireCommand::from(command))
}

fn to_json(command: &WireCommand<'_>) -> Bytes {
    // Strings and numbers always serialise.
    serde_json::to_vec(command).unwrap_or_default().into()
}

impl<'a> WireCommand<'a> {
    /// A command without anything but a name and a player.
    fn new(command: &'a str, player: &'a str) -> Self {
        WireCommand {
            command,
            player,
            channel: None,
            reason: None,
            session: None,
            node: None,
            generation: None,
            view: None,
        }
    }
}

impl<'a> From<&'a PlayerCommand> for WireCommand<'a> {
    fn from(command: &'a PlayerCommand) -> Self {
        let wire = |name| WireCommand::new(name, &command.player);
        match &command.action {
            PlayerAction::Subscribe { channel } => {
                WireCommand { channel: Some(channel), ..wire("subscribe") }
            }
            PlayerAction::Unsubscribe { channel } => {
                WireCommand { channel: Some(channel), ..wire("unsubscribe") }
            }
            PlayerAction::View { channel, view } => {
                WireCommand { channel: Some(channel), view: Some(view.as_deref()), ..wire("view") }
            }
            PlayerAction::TakenOver { session, generation, node } => WireCommand {
                session: Some(session.to_string()),
                generation: Some(*generation),
                node: Some(node),
                ..wire(TAKEN_OVER)
            },
            PlayerAction::Disconnect { reason } => {
                WireCommand { reason: reason.as_deref(), ..wire("disconnect") }
            }
        }
    }
}

/// How a claim of a session is announced to the nodes: what [`parse`] reads, without the generation, which the function in Redis
/// adds as the last member of the object.
pub(crate) fn claim_announcement(player: &str, session: SessionHash, node: &str) -> Bytes {
    let session = Some(session.to_string());
    let command = WireCommand { session, node: Some(node), ..WireCommand::new(TAKEN_OVER, player) };
    to_json(&command)
}

/// The longest reason to disconnect, in bytes; it goes into the lifecycle stream.
pub const MAX_REASON_BYTES: usize = 1_024;

/// Whether this server can execute a service's command: a view is an expression, a reason short.
pub fn check(command: &PlayerCommand) -> Result<(), String> {
    match &command.action {
        PlayerAction::Disconnect { reason: Some(reason) } if reason.len() > MAX_REASON_BYTES => {
            Err(format!("`reason`: at most {MAX_REASON_BYTES} bytes"))
        }
        PlayerAction::View { view: Some(view), .. } => {
            check_view(view).map_err(|error| format!("`view`: {error}"))
        }
        // Only nodes say it.
        PlayerAction::TakenOver { .. } => {
            Err(format!("no command `{TAKEN_OVER}`: subscribe, unsubscribe, view or disconnect"))
        }
        _ => Ok(()),
    }
}

/// Parses a player command, or returns what is wrong with its form.
pub fn parse(json: &str) -> Result<PlayerCommand, String> {
    let [command, player, channel, reason, view, session, generation, node] =
        members(json, ["command", "player", "channel", "reason", "view", "session", "generation", "node"])?;
    let player = needed("player", player)?;
    check_player(&player)?;
    let name = object::string("channel", channel)?;
    let channel = || {
        let name = name.as_deref().ok_or_else(|| "`channel` is missing".to_owned())?;
        channel::validate_subject(name).map_err(|error| format!("`channel`: {error}"))?;
        Ok::<Arc<str>, String>(name.into())
    };
    let action = match &*needed("command", command)? {
        "subscribe" => PlayerAction::Subscribe { channel: channel()? },
        "unsubscribe" => PlayerAction::Unsubscribe { channel: channel()? },
        "disconnect" => {
            PlayerAction::Disconnect { reason: object::string("reason", reason)?.map(Into::into) }
        }
        "view" => {
            let channel = channel()?;
            if channel::is_pattern(&channel) {
                return Err("`channel`: a view is of one channel, not of a pattern".to_owned());
            }
            PlayerAction::View { channel, view: view_of(view)? }
        }
        TAKEN_OVER => PlayerAction::TakenOver {
            session: SessionHash::parse(&needed("session", session)?)
                .ok_or_else(|| "`session` is not a session's hash".to_owned())?,
            generation: generation
                .and_then(|number| number.text.parse().ok())
                .ok_or_else(|| "`generation` is not the number of a claim".to_owned())?,
            node: needed("node", node)?.into(),
        },
        other => return Err(format!("no command `{other}`: subscribe, unsubscribe, view or disconnect")),
    };
    Ok(PlayerCommand { player: player.into(), action })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn commands_survive_the_way_between_nodes() {
        let actions = [
            PlayerAction::Subscribe { channel: "room:42".into() },
            PlayerAction::Unsubscribe { channel: "room:*".into() },
            PlayerAction::Disconnect { reason: Some("cheating \"again\"".into()) },
            PlayerAction::Disconnect { reason: None },
            PlayerAction::View { channel: "room:42".into(), view: Some("data.x > 1".into()) },
            PlayerAction::View { channel: "room:42".into(), view: None },
            PlayerAction::TakenOver { session: SessionHash(7), generation: 3, node: "n1-ab".into() },
        ];
        for action in actions {
            let command = PlayerCommand { player: "alice".into(), action };
            let payload = to_payload(&command);
            assert_eq!(parse(std::str::from_utf8(&payload).unwrap()), Ok(command));
        }
    }

    #[test]
    fn an_announced_claim_names_its_generation_last() {
        let announcement = claim_announcement("alice", SessionHash(7), "n1-ab");
        let announced = std::str::from_utf8(&announcement).unwrap();
        let action =
            PlayerAction::TakenOver { session: SessionHash(7), generation: 12, node: "n1-ab".into() };
        let with_generation = format!(r#"{},"generation":12}}"#, announced.strip_suffix('}').unwrap());
        assert_eq!(parse(&with_generation), Ok(PlayerCommand { player: "alice".into(), action }));
        assert!(parse(announced).unwrap_err().contains("`generation`"));
    }

    #[test]
    fn of_duplicate_names_the_last_counts() {
        let json = r#"{"command":7,"player":"bob","command":"disconnect","\u0070layer":"alice"}"#;
        let action = PlayerAction::Disconnect { reason: None };
        assert_eq!(parse(json), Ok(PlayerCommand { player: "alice".into(), action }));
    }

    #[test]
    fn a_bad_command_says_what_is_wrong() {
        let long_reason =
            &format!(r#"{{"command":"disconnect","player":"alice","reason":"{}"}}"#, "x".repeat(1_025));
        let rows = [
            ("[]", "expected an object"),
            (r#"["subscribe","alice","chat:1"]"#, "expected an object"),
            (r#"{"command":"disconnect","player":"alice","reason":7}"#, "`reason`: expected a string"),
            (r#"{"command":"view","player":"alice","channel":"a","view":7}"#, "`view`: expected a string"),
            (r#"{"command":"subscribe","player":"alice"}"#, "`channel` is missing"),
            (r#"{"command":"subscribe","player":"alice","channel":"a b"}"#, "`channel`"),
            (r#"{"command":"subscribe","player":"","channel":"a"}"#, "`player` is empty"),
            (r#"{"command":"dance","player":"alice"}"#, "no command `dance`"),
            (r#"{"command":"view","player":"alice","channel":"a"}"#, "`view` is missing"),
            (r#"{"command":"view","player":"alice","channel":"a","view":"1 +"}"#, "`view`"),
            (r#"{"command":"view","player":"alice","channel":"a*","view":null}"#, "not of a pattern"),
            (long_reason, "at most 1024 bytes"),
        ];
        for (json, expected) in rows {
            let error = parse(json).and_then(|command| check(&command)).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
