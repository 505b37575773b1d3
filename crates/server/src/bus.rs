//! What the node itself says to Redis and hears from it: events published over HTTP, and player commands, which
//! reach every node by one reserved channel (and, where it is on, services' commands by the control channel).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drawbridge_engine::interest::ShardId;
use drawbridge_engine::io::{
    BrokerCommand, BrokerEvent, PlayerAction, PlayerCommand, PublishFailure, Subject, Ticket, WhenDown,
};
use drawbridge_engine::settings::CONTROL_CHANNEL;
use drawbridge_protocol::channel;
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::broker::{Broker, ShardInbox};
use crate::node::Counter;
use crate::shard::ShardHandle;

/// After Redis has refused a channel.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

type Answer = Result<(), PublishFailure>;

/// See the module.
#[derive(Debug)]
pub struct Bus {
    broker: Broker,
    /// The channel on which nodes hear player commands.
    nodes_channel: Arc<str>,
    /// The channel on which services may command, if they may.
    control_channel: Option<Arc<str>>,
    waiting: Mutex<HashMap<Ticket, oneshot::Sender<Answer>>>,
    next_ticket: AtomicU64,
    /// Our channels that were confirmed once, and those that Redis refuses.
    heard_on: Mutex<Channels>,
    /// Commands carried out.
    pub commands: Counter,
    /// Commands that could not be read, or came too many at once.
    pub bad_commands: Counter,
}

#[derive(Debug, Default)]
struct Channels {
    confirmed: HashSet<Arc<str>>,
    refused: HashSet<Arc<str>>,
}

impl Bus {
    /// A bus on the reserved channels that begin with `key_prefix`.
    pub fn new(broker: Broker, key_prefix: &str, control_channel: bool) -> Arc<Self> {
        Arc::new(Bus {
            broker,
            nodes_channel: format!("{key_prefix}nodes").into(),
            control_channel: control_channel.then(|| CONTROL_CHANNEL.into()),
            waiting: Mutex::default(),
            next_ticket: AtomicU64::new(0),
            heard_on: Mutex::default(),
            commands: Counter::default(),
            bad_commands: Counter::default(),
        })
    }

    /// A name for the next publish, unique in this process.
    pub fn next_id(&self) -> u64 {
        self.next_ticket.fetch_add(1, Ordering::Relaxed)
    }

    /// Publishes, and waits until Redis has it.
    pub async fn publish(&self, channel: Arc<str>, payload: Bytes, when_down: WhenDown) -> Answer {
        let ticket = Ticket(self.next_id());
        let (reply, answer) = oneshot::channel();
        self.waiting().insert(ticket, reply);
        self.broker.command(ShardId::NODE, BrokerCommand::Publish { ticket, channel, payload, when_down });
        answer.await.unwrap_or(Err(PublishFailure::Unknown))
    }

    /// Sends a player command to every node, this one included; done when Redis has it.
    pub async fn command(&self, command: &PlayerCommand) -> Answer {
        let payload = WireCommand::from(command).to_payload();
        self.publish(self.nodes_channel.clone(), payload, WhenDown::Reject).await
    }

    /// Publishes whose answer is out.
    pub fn tickets(&self) -> u64 {
        self.waiting().len() as u64
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<Ticket, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears answers and commands until the broker ends.
    pub async fn run(&self, mut events: ShardInbox, shards: Vec<ShardHandle>) {
        for channel in self.channels() {
            self.broker.command(ShardId::NODE, BrokerCommand::Want(Subject::channel(channel.clone())));
        }
        while let Some(event) = events.recv().await {
            match event {
                BrokerEvent::Publication(publication) => {
                    self.heard(&publication.channel, publication.event.data_json(), &shards);
                }
                BrokerEvent::Done { ticket, result } => {
                    if let Some(reply) = self.waiting().remove(&ticket) {
                        let _ = reply.send(result);
                    }
                }
                BrokerEvent::Refused { subject, reason } => self.refused(subject, &reason),
                BrokerEvent::Confirmed { subject, .. } => {
                    let mut channels = self.heard_on();
                    channels.refused.remove(&subject.name);
                    channels.confirmed.insert(subject.name);
                }
                BrokerEvent::Gap { channel, .. } => {
                    tracing::error!(%channel, "player commands were lost: too many at once");
                }
                BrokerEvent::Released(_)
                | BrokerEvent::Interrupted(_)
                | BrokerEvent::Status(_)
                | BrokerEvent::Table { .. }
                | BrokerEvent::Expired { .. }
                | BrokerEvent::Views { .. } => {}
            }
        }
    }

    /// Without its channel a node carries no commands out: it says so by not being ready, and asks again.
    fn refused(&self, subject: Subject, reason: &str) {
        tracing::error!(channel = %subject.name, reason, "Redis refuses a channel for player commands");
        self.heard_on().refused.insert(subject.name.clone());
        let broker = self.broker.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
            broker.command(ShardId::NODE, BrokerCommand::Want(subject));
        });
    }

    fn channels(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.nodes_channel).chain(&self.control_channel)
    }

    /// Whether each channel that player commands come on was confirmed once.
    pub fn is_listening(&self) -> bool {
        let channels = self.heard_on();
        self.channels().all(|channel| channels.confirmed.contains(channel))
    }

    /// Whether Redis refuses a channel that player commands come on.
    pub fn is_deaf(&self) -> bool {
        !self.heard_on().refused.is_empty()
    }

    fn heard_on(&self) -> std::sync::MutexGuard<'_, Channels> {
        self.heard_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, channel: &str, json: &str, shards: &[ShardHandle]) {
        match parse_command(json) {
            Ok(command) => {
                self.commands.inc();
                for shard in shards {
                    if !shard.command(command.clone()) {
                        self.bad_commands.inc();
                        tracing::error!(player = %command.player, "a player command was dropped: too many at once");
                    }
                }
            }
            Err(reason) => {
                self.bad_commands.inc();
                tracing::warn!(channel, reason, "a player command could not be read");
            }
        }
    }
}

/// A player command as JSON (contract §9).
#[derive(Debug, Serialize, Deserialize)]
struct WireCommand<'a> {
    command: &'a str,
    player: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl WireCommand<'_> {
    fn to_payload(&self) -> Bytes {
        // Strings always serialise.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

impl From<&PlayerCommand> for WireCommand<'_> {
    fn from(command: &PlayerCommand) -> Self {
        let (name, channel, reason) = match &command.action {
            PlayerAction::Subscribe { channel } => ("subscribe", Some(channel), None),
            PlayerAction::Unsubscribe { channel } => ("unsubscribe", Some(channel), None),
            PlayerAction::View { channel, .. } => ("view", Some(channel), None),
            PlayerAction::Disconnect { reason } => ("disconnect", None, reason.as_ref()),
        };
        WireCommand {
            command: name,
            player: command.player.to_string(),
            channel: channel.map(ToString::to_string),
            reason: reason.map(ToString::to_string),
        }
    }
}

/// Reads a player command, or says what is wrong with it.
pub fn parse_command(json: &str) -> Result<PlayerCommand, String> {
    let wire: WireCommand<'_> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if wire.player.is_empty() {
        return Err("`player` is empty".to_owned());
    }
    let channel = || {
        let name = wire.channel.clone().ok_or_else(|| "`channel` is missing".to_owned())?;
        channel::validate_subject(&name).map_err(|error| format!("`channel`: {error}"))?;
        Ok::<Arc<str>, String>(name.into())
    };
    let action = match wire.command {
        "subscribe" => PlayerAction::Subscribe { channel: channel()? },
        "unsubscribe" => PlayerAction::Unsubscribe { channel: channel()? },
        "disconnect" => PlayerAction::Disconnect { reason: wire.reason.clone().map(Into::into) },
        "view" => return Err("`view` is not supported by this server".to_owned()),
        other => return Err(format!("no command `{other}`: subscribe, unsubscribe or disconnect")),
    };
    Ok(PlayerCommand { player: wire.player.into(), action })
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
        ];
        for action in actions {
            let command = PlayerCommand { player: "alice".into(), action };
            let payload = WireCommand::from(&command).to_payload();
            assert_eq!(parse_command(std::str::from_utf8(&payload).unwrap()), Ok(command));
        }
    }

    #[test]
    fn a_bad_command_says_what_is_wrong() {
        let rows = [
            ("[]", "invalid"),
            (r#"{"command":"subscribe","player":"alice"}"#, "`channel` is missing"),
            (r#"{"command":"subscribe","player":"alice","channel":"a b"}"#, "`channel`"),
            (r#"{"command":"subscribe","player":"","channel":"a"}"#, "`player` is empty"),
            (r#"{"command":"dance","player":"alice"}"#, "no command `dance`"),
            (r#"{"command":"view","player":"alice"}"#, "not supported"),
        ];
        for (json, expected) in rows {
            let error = parse_command(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
