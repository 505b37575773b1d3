//! A hub and what is around it: commands in, events out to the shards, commands out to the link. It owns the clock
//! whose time the hub receives, and the log lines that the hub requests; it leaves the link to its caller.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drawbridge_engine::io::{
    Answer, Answered, BarrierToken, BrokerEvent, LoggedOffset, Query, QueryKind, Subject, Ticket,
};
use drawbridge_engine::upstream::{
    BadEntity, BadTable, Carries, Hub, HubInput, HubOutput, HubSettings, HubStats, LinkCommand, LinkId, Move,
    PeerMessage, ShardId, ShardSet, SlotMove,
};
use tokio::sync::mpsc;

use super::command_router::{CommandRouter, subject_of};
use super::fanout::ShardFanout;
use super::redis::probe::ProbeStep;
use crate::log::Sparse;

/// What a player command may have at most, whatever the bound of other payloads is.
const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// What a hub is commanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HubCommand {
    /// It has a first subscriber.
    Want(ShardId, Subject),
    /// Its last subscriber left.
    Unwant(ShardId, Subject),
    /// Its table has a gap.
    Refresh(ShardId, Subject),
    /// It needs the logged events of a channel behind this offset.
    CatchUp(ShardId, Arc<str>, LoggedOffset),
    /// A shard's query, answered behind all that was published until now.
    Query(ShardId, Query),
    /// It knows its players' views.
    Recovered(ShardId, BarrierToken),
    /// A subject moves to another link, or from one.
    Give(Move),
    Take(Move),
    /// Slots move to another link, or from one.
    GiveSlots(SlotMove),
    TakeSlots(SlotMove),
    /// What the other link of a move says; and the shards that lost publications of what it gives.
    Peer(PeerMessage, ShardSet),
    /// The answer to a query of the hub.
    Answer(Query, Answered),
    /// Of the link itself: its delivery probe.
    Probe(ProbeStep),
    /// What was to be published on this channel, which Redis cannot publish.
    Local(Arc<str>, Bytes),
}

/// Where commands come from.
pub(super) type HubCommandReceiver = mpsc::UnboundedReceiver<HubCommand>;

/// One hub at work.
#[derive(Debug)]
pub(super) struct HubDriver {
    hub: Hub,
    fanout: ShardFanout,
    /// The other links, by their places.
    peers: Vec<mpsc::WeakUnboundedSender<HubCommand>>,
    started: Instant,
    now_ms: u64,
    /// What the link is to send, in order.
    pub(super) commands: Vec<LinkCommand>,
    /// What the hub wants to read.
    pub(super) queries: Vec<Query>,
    router: CommandRouter,
    /// Shards that lost publications of channels that could not be marked.
    lost: ShardSet,
    /// Payloads that were dropped.
    dropped: Sparse,
}

impl HubDriver {
    pub(super) fn new(
        settings: HubSettings,
        fanout: ShardFanout,
        router: CommandRouter,
        peers: Vec<mpsc::WeakUnboundedSender<HubCommand>>,
    ) -> Self {
        HubDriver {
            hub: Hub::new(settings),
            fanout,
            peers,
            started: Instant::now(),
            now_ms: 0,
            commands: Vec::new(),
            queries: Vec::new(),
            router,
            lost: ShardSet::default(),
            dropped: Sparse::default(),
        }
    }

    /// Reads the clock; everything until the next call happens at that time.
    pub(super) fn set_now(&mut self, now: Instant) {
        self.now_ms = now.saturating_duration_since(self.started).as_millis() as u64;
    }

    /// Carries out a command.
    pub(super) fn command(&mut self, command: HubCommand) {
        match command {
            HubCommand::Want(shard, subject) => self.handle(HubInput::Want { shard, subject }),
            HubCommand::Unwant(shard, subject) => self.handle(HubInput::Unwant { shard, subject: &subject }),
            HubCommand::Refresh(shard, subject) => {
                self.handle(HubInput::Refresh { shard, subject: &subject })
            }
            HubCommand::CatchUp(shard, channel, after) => {
                self.handle(HubInput::CatchUp { shard, channel: &channel, after });
            }
            HubCommand::Query(shard, Query { ticket, kind, .. }) => {
                if let QueryKind::Fence { channel } = kind {
                    let answer = BrokerEvent::Answer { ticket, answer: Ok(Answer::Fence(channel.clone())) };
                    let to = ShardSet::only(shard);
                    if !self.hub.send_behind(&Subject::channel(channel), to, answer.clone()) {
                        self.pass_on();
                        self.fanout.send_to_each(to, answer);
                    }
                }
            }
            HubCommand::Recovered(shard, token) => self.handle(HubInput::Passed { shard, token }),
            HubCommand::Give(moves) => self.handle(HubInput::Give(moves)),
            HubCommand::Take(moves) => self.handle(HubInput::Take(moves)),
            HubCommand::GiveSlots(slots) => self.handle(HubInput::GiveSlots(slots)),
            HubCommand::TakeSlots(slots) => self.handle(HubInput::TakeSlots(slots)),
            HubCommand::Peer(message, lost) => {
                self.lost = self.lost.union(lost);
                self.handle(HubInput::Peer(message));
            }
            HubCommand::Answer(query, answer) => self.answered(query, answer),
            HubCommand::Local(channel, payload) => {
                self.handle(HubInput::Local { channel: &channel, payload: &payload });
            }
            // The link carries it out.
            HubCommand::Probe(_) => {}
        }
    }

    fn answered(&mut self, Query { ticket, kind, .. }: Query, answer: Answered) {
        let load = ticket.0;
        match (kind, answer) {
            (QueryKind::Table { channel }, Ok(Answer::Table(table))) => {
                self.handle(HubInput::Loaded { channel: &channel, load, table: Ok(table) });
            }
            (QueryKind::Table { channel }, Err(reason)) => {
                self.handle(HubInput::Loaded { channel: &channel, load, table: Err(reason) });
            }
            (QueryKind::Log { channel, .. }, Ok(Answer::Log(log))) => {
                self.handle(HubInput::LogRead { channel: &channel, load, log: Ok(log) });
            }
            (QueryKind::Log { channel, .. }, Err(reason)) => {
                self.handle(HubInput::LogRead { channel: &channel, load, log: Err(reason) });
            }
            _ => {}
        }
    }

    /// Passes one input to the hub, and its outputs on.
    pub(super) fn handle(&mut self, input: HubInput<'_>) {
        self.hub.handle(self.now_ms, input);
        self.pass_on();
    }

    /// Passes on what the hub says.
    fn pass_on(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                HubOutput::Link(command) => self.commands.push(command),
                HubOutput::Shards(shards, event) => self.send(shards, event),
                HubOutput::Peer(link, message) => self.send_to_peer(link, message),
                HubOutput::Moved(subject) => {
                    let mut topology = self.router.topology.write().unwrap_or_else(PoisonError::into_inner);
                    topology.end_move(&subject);
                }
                HubOutput::Load { channel, load } => {
                    self.queries.push(Query::new(Ticket(load), QueryKind::Table { channel }));
                }
                HubOutput::ReadLog { channel, load, range, limit, reader } => {
                    let kind = QueryKind::Log { channel, range, limit, reader };
                    self.queries.push(Query::new(Ticket(load), kind));
                }
                HubOutput::BadEntity { channel, reason } => {
                    let reason = match reason {
                        BadEntity::Key => "no good key",
                        BadEntity::Position => "no good position",
                        BadEntity::Full => "the channel holds entity_max or entity_bytes already",
                    };
                    self.dropped.line(|unlogged| {
                        tracing::warn!(channel, reason, unlogged, "dropped an event of an entity channel");
                    });
                }
                HubOutput::BadTable { channel, reason } => self.dropped.line(|unlogged| match reason {
                    BadTable::Entities(count) => {
                        let text = "stored entities are not as Drawbridge writes them, and are not shown";
                        tracing::warn!(%channel, count, unlogged, "{text}");
                    }
                    BadTable::Inconsistent => {
                        let text =
                            "a stored table does not fit the channel's events; it counts as it is stored";
                        tracing::warn!(%channel, unlogged, "{text}");
                    }
                }),
                HubOutput::Oversized { channel, bytes } => self.dropped.line(|unlogged| {
                    tracing::warn!(channel, bytes, unlogged, "dropped a payload over external_bytes");
                }),
            }
        }
    }

    fn send(&mut self, shards: ShardSet, event: BrokerEvent) {
        let mut listening = None;
        if shards.contains(ShardId::NODE) {
            match &event {
                BrokerEvent::Publication(said) if self.router.channels.contain(&said.channel) => {
                    return self.player_command(&said.channel, said.event.data_json());
                }
                // Nobody knows what was said before.
                BrokerEvent::Confirmed { subject, after_break, .. }
                    if *subject.name == *self.router.channels.nodes =>
                {
                    listening = Some(*after_break);
                }
                // Nothing more is received.
                BrokerEvent::Refused { subject, .. } if *subject.name == *self.router.channels.nodes => {
                    listening = Some(false);
                }
                _ => {}
            }
        }
        if let Some(was_live) = listening {
            let shards = self.fanout.all_shards();
            self.hub.handle(self.now_ms, HubInput::Listening { shards, was_live });
        }
        self.lost = self.lost.union(self.fanout.send_to_each(shards, event));
    }

    /// Sends a player command to the shards, if this link is to do so, in order with the events of its channel.
    fn player_command(&mut self, channel: &str, json: &str) {
        if self.router.sends_question(channel, json, &self.fanout) {
            return;
        }
        let Some(command) = self.router.read(channel, json) else { return };
        let by_service = self.router.is_control(channel);
        let subject = subject_of(&command);
        let carries = match &subject {
            Some(subject) if !by_service => self.hub.carries(subject),
            _ => Carries::AsPlaced,
        };
        match carries {
            _ if by_service => self.router.route(true, command, &self.fanout),
            Carries::Yes => self.router.route(false, command, &self.fanout),
            Carries::AsPlaced if self.router.is_placed_here(subject.as_ref()) => {
                self.router.route(false, command, &self.fanout);
            }
            Carries::Later => {
                if let Some(subject) = subject {
                    let event = BrokerEvent::Command(command.clone());
                    if !self.hub.send_behind(&subject, self.fanout.all_shards(), event) {
                        self.pass_on();
                        self.router.route(false, command, &self.fanout);
                    }
                }
            }
            Carries::No | Carries::AsPlaced => {}
        }
    }

    fn send_to_peer(&mut self, link: LinkId, message: PeerMessage) {
        let Some(peer) = self.peers.get(link.place()).and_then(mpsc::WeakUnboundedSender::upgrade) else {
            return;
        };
        let _ = peer.send(HubCommand::Peer(message, self.lost));
    }

    /// Redis cannot be subscribed on, and waiting will not help: refuses what is requested.
    pub(super) fn refuse_waiting(&mut self, reason: &str) {
        self.handle(HubInput::LinkUp);
        while let Some(command) = self.commands.pop() {
            let LinkCommand::Subscribe(subjects) = command else { continue };
            for subject in &subjects {
                self.handle(HubInput::Refused { subject, reason });
            }
        }
        self.handle(HubInput::LinkDown);
        self.commands.clear();
    }

    /// Handles what has timed out.
    pub(super) fn tick(&mut self) {
        if self.hub.next_deadline_ms().is_some_and(|at| at <= self.now_ms) {
            self.handle(HubInput::Tick);
        }
        for shard in self.lost.iter() {
            if self.fanout.can_receive(shard) {
                self.lost.remove(shard);
                self.handle(HubInput::Lost { shard });
            }
        }
    }

    /// When [`HubDriver::tick`] must come at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        let hub = self.hub.next_deadline_ms().map(|at| self.started + Duration::from_millis(at));
        if self.lost.is_empty() {
            return hub;
        }
        let soon = self.started + Duration::from_millis(self.now_ms + 100);
        Some(hub.map_or(soon, |at| at.min(soon)))
    }

    /// Whether every subscription that the last break interrupted is live again.
    pub(super) fn is_restored(&self) -> bool {
        self.hub.interrupted() == 0
    }

    /// Payloads over this are not passed to the hub, in bytes.
    pub(super) fn external_bytes(&self) -> usize {
        self.hub.settings().external_bytes.max(MAX_COMMAND_BYTES)
    }

    /// The channel on which the subscribers of a channel are notified of players who come and go.
    pub(super) fn presence_channel(&self, channel: &str) -> String {
        self.hub.settings().reserved.presence_channel(channel)
    }

    pub(super) fn stats(&self) -> HubStats {
        self.hub.stats()
    }
}

/// Waits until this time, or for ever.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use drawbridge_engine::class::Classes;
    use drawbridge_engine::settings::Reserved;

    use std::sync::RwLock;

    use drawbridge_engine::upstream::{SlotHasher, Topology};

    use super::super::command_router::CommandChannels;
    use super::super::queue::{ShardInbox, shard_queue};
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn driver() -> (HubDriver, ShardInbox) {
        let ((shard, inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let (classes, reserved) = (Arc::new(Classes::default()), Reserved::new("drawbridge:"));
        let channels = CommandChannels::new("drawbridge:", 0, false);
        let topology = Topology::standalone(1, &classes, &reserved, channels.nodes.clone(), 1);
        let topology = Arc::new(RwLock::new(topology));
        let (link, link_metrics, failures) = (LinkId::at(0), Arc::default(), Sparse::default());
        let router = CommandRouter { link, channels, topology, link_metrics, failures };
        let fanout = ShardFanout::new(vec![shard], node);
        let external_bytes = 1 << 20;
        let settings = HubSettings {
            link,
            seed: 1,
            linger_ms: 0,
            external_bytes,
            classes,
            reserved,
            slots: SlotHasher::default(),
        };
        (HubDriver::new(settings, fanout, router, Vec::new()), inbox)
    }

    /// What the link is to subscribe to.
    fn asked(driver: &mut HubDriver) -> Vec<String> {
        let subjects = |command| match command {
            LinkCommand::Subscribe(subjects) | LinkCommand::Unsubscribe(subjects) => subjects,
            LinkCommand::Mark(_) => Vec::new(),
        };
        driver.commands.drain(..).flat_map(subjects).map(|subject| subject.name.to_string()).collect()
    }

    fn barrier(inbox: &mut ShardInbox) -> Option<BarrierToken> {
        let mut last = None;
        while let Some(event) = inbox.try_recv() {
            if let BrokerEvent::Recover { barrier, dropped: false } = event {
                last = barrier;
            }
        }
        last
    }

    /// A shard's answer that comes when the link has broken again lets nothing go: more may have been missed since.
    #[test]
    fn a_late_answer_does_not_let_go_of_the_next_break() {
        let (mut driver, mut inbox) = driver();
        let (nodes, room) = (Subject::channel("drawbridge:nodes:0"), Subject::channel("room:1"));
        driver.command(HubCommand::Want(ShardId::NODE, nodes.clone()));
        driver.command(HubCommand::Want(SHARD, room.clone()));
        driver.handle(HubInput::LinkUp);
        driver.handle(HubInput::Subscribed(&nodes));
        driver.handle(HubInput::Subscribed(&room));
        let break_and_return = |driver: &mut HubDriver| {
            driver.handle(HubInput::LinkDown);
            driver.commands.clear();
        };
        break_and_return(&mut driver);
        driver.handle(HubInput::LinkUp);
        driver.handle(HubInput::Subscribed(&nodes));
        let first = barrier(&mut inbox).expect("the shard is asked");
        break_and_return(&mut driver);
        driver.command(HubCommand::Recovered(SHARD, first));
        driver.handle(HubInput::LinkUp);
        assert_eq!(asked(&mut driver), ["drawbridge:nodes:0"]);
        driver.handle(HubInput::Subscribed(&nodes));
        let second = barrier(&mut inbox).expect("the shard is asked again");
        driver.command(HubCommand::Recovered(SHARD, first));
        assert_eq!(asked(&mut driver), [""; 0]);
        driver.command(HubCommand::Recovered(SHARD, second));
        assert_eq!(asked(&mut driver), ["room:1"]);
    }
}
