//! What the node itself says to Redis and hears from it: events published over HTTP, and player commands, which
//! reach every node by one reserved channel (and, where it is on, services' commands by the control channel).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drawbridge_engine::class::{Class, REMOVE_EVENT};
use drawbridge_engine::expr::{self, CompileError, Vars};
use drawbridge_engine::interest::ShardId;
use drawbridge_engine::io::{
    BrokerCommand, BrokerEvent, Commit, PlayerAction, PlayerCommand, PublishFailure, Subject, Ticket,
    WhenDown,
};
use drawbridge_engine::settings::CONTROL_CHANNEL;
use drawbridge_protocol::channel;
use drawbridge_protocol::event::Envelope;
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Deserializer, Serialize};
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
        self.ask(|ticket| BrokerCommand::Publish { ticket, channel, payload, when_down }).await
    }

    async fn ask(&self, command: impl FnOnce(Ticket) -> BrokerCommand) -> Answer {
        let ticket = Ticket(self.next_id());
        let (reply, answer) = oneshot::channel();
        self.waiting().insert(ticket, reply);
        self.broker.command(ShardId::NODE, command(ticket));
        answer.await.unwrap_or(Err(PublishFailure::Unknown))
    }

    /// Publishes an event of a service, by what its channel's class says: an entity's is written into the table too.
    ///
    /// # Errors
    /// Where the class cannot keep it, or Redis does not take it.
    pub async fn publish_event(
        &self,
        class: Option<&Class>,
        channel: &str,
        event: &Envelope<'_>,
        external_bytes: usize,
    ) -> Result<(), EventRefused> {
        let key = class
            .map_or(Ok(event.key.map(Into::into)), |class| class.key_of(event.data, event.tags, event.key));
        let when_down = class.map_or(WhenDown::Queue, |class| class.when_broker_down);
        let rules = class.and_then(|class| class.entity.as_ref());
        let id = event.id.unwrap_or_default();
        let Some((class, rules)) = class.zip(rules) else {
            let key = key.ok().flatten();
            let payload = Envelope { key: key.as_deref(), ..*event }.to_payload();
            if payload.len() > external_bytes {
                return Err(EventRefused::TooLarge);
            }
            return Ok(self.publish(channel.into(), payload, when_down).await?);
        };
        let place = class.key.as_ref().map_or("key".to_owned(), ToString::to_string);
        let key = key
            .map_err(|error| EventRefused::Bad(format!("`{place}` {error}")))?
            .ok_or_else(|| EventRefused::Bad(format!("`{place}` is missing: it names the entity")))?;
        let remove = event.event == REMOVE_EVENT;
        if !remove {
            rules.position_of(event.data, event.tags).map_err(|path| {
                EventRefused::Bad(format!("`{path}` must be a finite number: it says where the entity is"))
            })?;
        }
        let payload = Envelope { key: Some(&key), id: None, ..*event }.to_payload();
        if payload.len() > external_bytes {
            return Err(EventRefused::TooLarge);
        }
        let (max, ttl_ms) = (rules.max, rules.ttl_ms);
        let commit = Commit { key: (*key).into(), remove, payload, id: id.to_owned(), max, ttl_ms };
        let channel = channel.into();
        Ok(self.ask(|ticket| BrokerCommand::Commit { ticket, channel, commit, when_down }).await?)
    }

    /// Keeps a player's view of a channel and tells every node of it, in one step; done when Redis has it.
    pub async fn set_view(&self, player: Arc<str>, channel: Arc<str>, view: Option<Arc<str>>) -> Answer {
        let action = PlayerAction::View { channel: channel.clone(), view: view.clone() };
        let told = WireCommand::from(&PlayerCommand { player: player.clone(), action }).to_payload();
        let tell = Some((self.nodes_channel.clone(), told));
        self.ask(|ticket| BrokerCommand::SetView { ticket, player, channel, view, tell }).await
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

    /// A service that speaks only Redis said so: nobody has kept it yet. Every node that hears it does, to the same end.
    fn keep_view(&self, command: &PlayerCommand) {
        if let PlayerAction::View { channel, view } = &command.action {
            let command = BrokerCommand::SetView {
                ticket: Ticket(self.next_id()),
                player: command.player.clone(),
                channel: channel.clone(),
                view: view.clone(),
                tell: None,
            };
            self.broker.command(ShardId::NODE, command);
        }
    }

    fn heard(&self, channel: &str, json: &str, shards: &[ShardHandle]) {
        match parse_command(json) {
            Ok(command) => {
                self.commands.inc();
                if Some(channel) == self.control_channel.as_deref() {
                    self.keep_view(&command);
                }
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

/// Why an event of a service was not published.
#[derive(Debug)]
pub enum EventRefused {
    /// It has no good key or position for its class.
    Bad(String),
    /// Over `external_bytes`, with its envelope.
    TooLarge,
    /// Redis did not take it.
    Broker(PublishFailure),
}

impl From<PublishFailure> for EventRefused {
    fn from(failure: PublishFailure) -> Self {
        EventRefused::Broker(failure)
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
    /// `null` is a value of its own.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    view: Option<Option<String>>,
}

/// A field that is there, be it `null`.
pub(crate) fn present<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// Checks a view as a service sets it.
///
/// # Errors
/// Where it is no expression over what a class's `view` speaks of.
pub fn check_view(view: &str) -> Result<(), CompileError> {
    expr::compile(view, Vars::VIEW_RULE).map(|_| ())
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
        let view = match &command.action {
            PlayerAction::View { view, .. } => Some(view.as_ref().map(ToString::to_string)),
            _ => None,
        };
        WireCommand {
            command: name,
            player: command.player.to_string(),
            channel: channel.map(ToString::to_string),
            reason: reason.map(ToString::to_string),
            view,
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
        "view" => {
            let channel = channel()?;
            if channel::is_pattern(&channel) {
                return Err("`channel`: a view is of one channel, not of a pattern".to_owned());
            }
            let view =
                wire.view.clone().ok_or_else(|| "`view` is missing: an expression, or null".to_owned())?;
            if let Some(view) = &view {
                check_view(view).map_err(|error| format!("`view`: {error}"))?;
            }
            PlayerAction::View { channel, view: view.map(Into::into) }
        }
        other => return Err(format!("no command `{other}`: subscribe, unsubscribe, view or disconnect")),
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
            PlayerAction::View { channel: "room:42".into(), view: Some("data.x > 1".into()) },
            PlayerAction::View { channel: "room:42".into(), view: None },
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
            (r#"{"command":"view","player":"alice","channel":"a"}"#, "`view` is missing"),
            (r#"{"command":"view","player":"alice","channel":"a","view":"1 +"}"#, "`view`"),
            (r#"{"command":"view","player":"alice","channel":"a*","view":null}"#, "not of a pattern"),
        ];
        for (json, expected) in rows {
            let error = parse_command(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
