//! What the node itself writes to Redis and reads of it: events published over HTTP, what the admin API shows, player commands to all nodes, and the views that
//! services set by the control channel. `broker/command_router.rs` delivers commands to the shards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drawbridge_engine::class::{Class, History, REMOVE_EVENT};
use drawbridge_engine::io::{
    Answered, BrokerCommand, BrokerEvent, Commit, LogEntry, LogPosition, Outcome, Owner, PlayerAction,
    PlayerCommand, PublishFailure, Query, QueryKind, Subject, Ticket, WhenDown, Write, WriteKind, once_of,
};
use drawbridge_engine::upstream::ShardId;
use drawbridge_protocol::event::Envelope;
use hashbrown::{HashMap, HashSet};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::broker::{Broker, CommandChannels, ShardInbox};
use crate::cluster_reads::Waiting;
use crate::log::Sparse;
use crate::player_command;

/// How long a service waits for the answer to what it publishes while Redis is away; less than what HTTP clients wait by
/// default, so that they learn that it was not done.
const PATIENCE: Duration = Duration::from_secs(4);
/// After Redis has refused a channel.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Bus {
    broker: Broker,
    channels: CommandChannels,
    waiting: Mutex<HashMap<Ticket, oneshot::Sender<Outcome>>>,
    /// Queries whose answer is to come.
    queries: Mutex<HashMap<Ticket, oneshot::Sender<Answered>>>,
    next_ticket: AtomicU64,
    /// Our channels: how often each was confirmed, and those that Redis refuses.
    command_subscriptions: Mutex<Channels>,
    /// Each of our channels has been confirmed on every link that was up, at once.
    was_listening: AtomicBool,
    views_not_kept: Mutex<Sparse>,
    /// Who waits for answers to questions.
    pub(crate) questions: Waiting,
    /// The channel on which other nodes answer this one's questions.
    replies: Arc<str>,
}

#[derive(Debug, Default)]
struct Channels {
    confirmed: HashMap<Arc<str>, usize>,
    refused: HashSet<Arc<str>>,
    /// Those that are requested again in a while.
    to_ask: HashSet<Arc<str>>,
}

impl Bus {
    /// The broker that it publishes through.
    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// A bus on these channels. `instance` names this start of the node.
    pub fn new(broker: Broker, channels: CommandChannels, instance: &str) -> Arc<Self> {
        Arc::new(Bus {
            replies: format!("{}{instance}", channels.replies).into(),
            questions: Waiting::default(),
            broker,
            channels,
            waiting: Mutex::default(),
            queries: Mutex::default(),
            next_ticket: AtomicU64::new(0),
            command_subscriptions: Mutex::default(),
            was_listening: AtomicBool::new(false),
            views_not_kept: Mutex::default(),
        })
    }

    /// The channel on which other nodes answer this one's questions.
    pub(crate) fn replies(&self) -> &Arc<str> {
        &self.replies
    }

    /// The channel on which nodes send each other commands and questions.
    pub(crate) fn nodes_channel(&self) -> Arc<str> {
        self.channels.nodes.clone()
    }

    /// A name for the next publish, unique in this process.
    pub fn next_id(&self) -> u64 {
        self.next_ticket.fetch_add(1, Ordering::Relaxed)
    }

    /// Publishes, and waits until Redis has it.
    pub async fn publish(&self, channel: Arc<str>, payload: Bytes, when_down: WhenDown) -> Outcome {
        self.write(WriteKind::Publish { channel, payload }, when_down).await
    }

    async fn write(&self, kind: WriteKind, when_down: WhenDown) -> Outcome {
        let ticket = Ticket(self.next_id());
        let (reply, answer) = oneshot::channel();
        self.waiting().insert(ticket, reply);
        self.send(ticket, kind, when_down);
        answer.await.unwrap_or(Err(PublishFailure::Unknown))
    }

    fn send(&self, ticket: Ticket, kind: WriteKind, when_down: WhenDown) {
        let write = Write { ticket: Some(ticket), owner: Owner::Services, when_down, kind };
        self.broker.command(ShardId::NODE, BrokerCommand::Write(write));
    }

    /// Reads something; `None`: Redis did not answer in time.
    pub async fn query(&self, kind: QueryKind) -> Option<Answered> {
        let ticket = Ticket(self.next_id());
        let (reply, answer) = oneshot::channel();
        self.queries().insert(ticket, reply);
        self.broker.command(ShardId::NODE, BrokerCommand::Query(Query::new(ticket, kind)));
        let answer = timeout(PATIENCE, answer).await;
        if self.queries().remove(&ticket).is_some() {
            self.broker.command(ShardId::NODE, BrokerCommand::Withdraw(ticket));
        }
        answer.ok()?.ok()
    }

    /// Publishes an event of a service by the rules of its channel's class: an entity's is written into the table too, and one
    /// of a channel with history into the log, once for each idempotency key. Returns where it is in the log.
    ///
    /// # Errors
    /// Where the class cannot keep it, or Redis does not take it.
    pub async fn publish_event(
        &self,
        class: Option<&Class>,
        channel: &str,
        event: &Envelope<'_>,
        once: Option<&str>,
        external_bytes: usize,
    ) -> Result<Option<LogPosition>, EventRefused> {
        let key = class
            .map_or(Ok(event.key.map(Into::into)), |class| class.key_of(event.data, event.tags, event.key));
        let when_down = match class.map(|class| class.when_broker_down) {
            Some(WhenDown::Reject) => WhenDown::Reject,
            Some(WhenDown::Local) => WhenDown::Local,
            _ => WhenDown::QueueFor(PATIENCE),
        };
        let rules = class.and_then(|class| class.entity.as_ref());
        let id = event.id.unwrap_or_default();
        let Some((class, rules)) = class.zip(rules) else {
            let key = key.ok().flatten();
            let event = Envelope { key: key.as_deref(), ..*event };
            let kind = match class.and_then(|class| class.history) {
                Some(history) => log_of(channel, &event, history, once, external_bytes)?,
                None => plain_of(channel, &event, external_bytes)?,
            };
            return Ok(self.write(kind, when_down).await?);
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
        let (key, id) = ((*key).into(), id.to_owned());
        let (max, max_bytes, ttl_ms) = (rules.max, rules.max_bytes, rules.ttl_ms);
        let commit = Commit { key, remove, payload, id, max, max_bytes, ttl_ms };
        if commit.published_bytes() > external_bytes {
            return Err(EventRefused::TooLarge);
        }
        let channel = channel.into();
        Ok(self.write(WriteKind::Commit { channel, commit }, when_down).await?)
    }

    /// Stores a player's view of a channel and notifies every node, in one step; done when Redis has it, and in a Cluster when all
    /// nodes have applied it. It applies to all that is published on the channel from then on.
    pub async fn set_view(&self, player: Arc<str>, channel: Arc<str>, view: Option<Arc<str>>) -> Outcome {
        let kind = self.view_of(player.clone(), channel.clone(), view.clone(), false);
        let outcome = self.write(kind, WhenDown::Reject).await?;
        if !self.broker.has_one_order() {
            self.wait_for_view(&player, &channel, view.as_ref()).await?;
        }
        Ok(outcome)
    }

    fn view_of(
        &self,
        player: Arc<str>,
        channel: Arc<str>,
        view: Option<Arc<str>>,
        if_absent: bool,
    ) -> WriteKind {
        let action = PlayerAction::View { channel: channel.clone(), view: view.clone() };
        let command = player_command::to_payload(&PlayerCommand { player: player.clone(), action });
        WriteKind::SetOverride {
            player,
            channel,
            view,
            announcement: (self.channels.nodes.clone(), command),
            if_absent,
        }
    }

    /// Sends a player command to every node, this one included; done when Redis has it.
    pub async fn command(&self, command: &PlayerCommand) -> Outcome {
        self.publish(self.channels.nodes.clone(), player_command::to_payload(command), WhenDown::Reject).await
    }

    /// Publishes whose answer is out.
    pub fn tickets(&self) -> u64 {
        self.waiting().len() as u64
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<Ticket, oneshot::Sender<Outcome>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queries(&self) -> std::sync::MutexGuard<'_, HashMap<Ticket, oneshot::Sender<Answered>>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears answers and commands until the broker ends.
    pub async fn run(self: Arc<Self>, mut events: ShardInbox) {
        for channel in self.channels.iter().chain([&self.replies]) {
            self.broker.command(ShardId::NODE, BrokerCommand::Want(Subject::channel(channel.clone())));
        }
        while let Some(event) = events.recv().await {
            match event {
                BrokerEvent::Command(command) => self.keep_view(command),
                BrokerEvent::Outcome { ticket, outcome } => self.done(ticket, outcome),
                // Questions are then answered by this node alone.
                BrokerEvent::Refused { subject, reason } if subject.name == self.replies => {
                    tracing::error!(channel = %subject.name, %reason, "Redis refuses the channel for answers of nodes");
                }
                BrokerEvent::Refused { subject, reason } => self.clone().refused(subject, &reason),
                BrokerEvent::Interrupted(subject) => {
                    if let Some(confirmed) = self.command_subscriptions().confirmed.get_mut(&subject.name) {
                        *confirmed = confirmed.saturating_sub(1);
                    }
                }
                BrokerEvent::Confirmed { subject, .. } => {
                    let mut channels = self.command_subscriptions();
                    channels.refused.remove(&subject.name);
                    *channels.confirmed.entry(subject.name).or_default() += 1;
                }
                BrokerEvent::Publication(said) if said.channel == self.replies => {
                    self.questions.replied(said.event.data_json());
                }
                BrokerEvent::Released(_)
                | BrokerEvent::Question(_)
                | BrokerEvent::Publication(_)
                | BrokerEvent::Gap { .. }
                | BrokerEvent::LogMoved { .. }
                | BrokerEvent::Replay(_)
                | BrokerEvent::Status(_)
                | BrokerEvent::StoreLost
                | BrokerEvent::Table { .. }
                | BrokerEvent::Expired { .. }
                | BrokerEvent::Presence { .. }
                | BrokerEvent::Recover { .. } => {}
                BrokerEvent::Answer { ticket, answer } => {
                    if let Some(reply) = self.queries().remove(&ticket) {
                        let _ = reply.send(answer);
                    }
                }
            }
        }
    }

    fn done(&self, ticket: Ticket, outcome: Outcome) {
        let reply = self.waiting().remove(&ticket);
        match (reply, outcome) {
            (Some(reply), outcome) => {
                let _ = reply.send(outcome);
            }
            // Nobody waits for what came by the control channel.
            (None, Err(failure)) => {
                let mut lines = self.views_not_kept.lock().unwrap_or_else(PoisonError::into_inner);
                lines.line(|unlogged| {
                    let text = "a view that a service set by the control channel was not kept";
                    tracing::error!(?failure, unlogged, "{text}");
                });
            }
            (None, Ok(_)) => {}
        }
    }

    /// Without its channel a node executes no commands: it is not ready, and subscribes again.
    fn refused(self: Arc<Self>, subject: Subject, reason: &str) {
        let mut channels = self.command_subscriptions();
        let is_new = channels.refused.insert(subject.name.clone());
        // Every link reports it; one request goes to all of them.
        if !channels.to_ask.insert(subject.name.clone()) {
            return;
        }
        drop(channels);
        if is_new {
            tracing::error!(channel = %subject.name, reason, "Redis refuses a channel for player commands");
        }
        tokio::spawn(async move {
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
            let mut channels = self.command_subscriptions();
            channels.to_ask.remove(&subject.name);
            channels.confirmed.remove(&subject.name);
            drop(channels);
            self.broker.command(ShardId::NODE, BrokerCommand::Want(subject));
        });
    }

    /// Whether each channel that player commands come on is confirmed, on every link that is up and subscribes to it. A link that
    /// is down delivers no events that a command could be late for.
    fn is_listening(&self) -> bool {
        let subscriptions = self.command_subscriptions();
        self.channels.iter().all(|channel| {
            let confirmed = subscriptions.confirmed.get(channel).copied().unwrap_or(0);
            confirmed >= self.broker.links_up_of(channel).max(1)
        })
    }

    /// Whether this has been so since the start.
    pub fn was_listening(&self) -> bool {
        let was_listening = self.was_listening.load(Ordering::Relaxed) || self.is_listening();
        self.was_listening.fetch_or(was_listening, Ordering::Relaxed);
        was_listening
    }

    /// Whether Redis refuses a channel that player commands come on.
    pub fn is_deaf(&self) -> bool {
        !self.command_subscriptions().refused.is_empty()
    }

    fn command_subscriptions(&self) -> std::sync::MutexGuard<'_, Channels> {
        self.command_subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A service published it on the control channel, so it is not stored yet. Every node that receives it stores it, with the
    /// same result.
    fn keep_view(&self, PlayerCommand { player, action }: PlayerCommand) {
        if let PlayerAction::View { channel, view } = action {
            let ticket = Ticket(self.next_id());
            self.send(ticket, self.view_of(player, channel, view, true), WhenDown::Queue);
        }
    }
}

/// A plain publish of this event.
fn plain_of(channel: &str, event: &Envelope<'_>, external_bytes: usize) -> Result<WriteKind, EventRefused> {
    let payload = event.to_payload();
    if payload.len() > external_bytes {
        return Err(EventRefused::TooLarge);
    }
    Ok(WriteKind::Publish { channel: channel.into(), payload })
}

/// An append of this event to its channel's log.
fn log_of(
    channel: &str,
    event: &Envelope<'_>,
    history: History,
    once: Option<&str>,
    external_bytes: usize,
) -> Result<WriteKind, EventRefused> {
    let entry = LogEntry {
        payload: Envelope { id: None, ..*event }.to_payload(),
        id: event.id.unwrap_or_default().to_owned(),
        max_events: history.events,
        age_ms: history.age_ms,
        once: once.map(|key| once_of(None, key)),
    };
    if entry.published_bytes() > external_bytes {
        return Err(EventRefused::TooLarge);
    }
    Ok(WriteKind::Log { channel: channel.into(), entry })
}

/// Why an event of a service was not published.
#[derive(Debug)]
pub enum EventRefused {
    /// It has no valid key or position for its class.
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
