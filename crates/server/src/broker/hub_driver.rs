//! A hub and what is around it: commands in, events out to the shards, commands out to the link. It owns the clock
//! that the hub is told and the log lines that the hub asks for; it leaves the link to its caller.

use std::time::{Duration, Instant};

use drawbridge_engine::io::{Answer, Answered, BrokerEvent, HeldLink, Query, QueryKind, Subject, Ticket};
use drawbridge_engine::upstream::{
    BadEntity, BadTable, Hub, HubInput, HubOutput, HubSettings, HubStats, LinkCommand, ShardId, ShardSet,
};
use tokio::sync::mpsc;

use super::herald::Herald;
use super::outlet::Outlet;
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
    /// A shard's query, answered behind all that was published until now.
    Query(ShardId, Query),
    /// It knows its players' views.
    ViewsKnown(ShardId, HeldLink),
    /// The answer to a query of the hub.
    Answer(Query, Answered),
}

/// Where commands come from.
pub(super) type HubCommandReceiver = mpsc::UnboundedReceiver<HubCommand>;

/// One hub at work.
#[derive(Debug)]
pub(super) struct HubDriver {
    hub: Hub,
    outlet: Outlet,
    started: Instant,
    now_ms: u64,
    /// What the link is to send, in order.
    pub(super) commands: Vec<LinkCommand>,
    /// What the hub wants to read.
    pub(super) queries: Vec<Query>,
    herald: Herald,
    /// While the hub is held: the shards that are still to say that they know their players' views.
    unaware: ShardSet,
    /// How often they were asked to.
    round: u64,
    /// Shards that lost publications of channels that could not be marked.
    lost: ShardSet,
    /// Payloads that were dropped.
    dropped: Sparse,
}

impl HubDriver {
    pub(super) fn new(settings: HubSettings, outlet: Outlet, herald: Herald) -> Self {
        HubDriver {
            hub: Hub::new(settings),
            outlet,
            started: Instant::now(),
            now_ms: 0,
            commands: Vec::new(),
            queries: Vec::new(),
            herald,
            unaware: ShardSet::default(),
            round: 0,
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
            HubCommand::Query(shard, Query { ticket, kind, .. }) => {
                if let QueryKind::Fence { channel } = kind {
                    self.outlet
                        .tell(shard, BrokerEvent::Answer { ticket, answer: Ok(Answer::Fence(channel)) });
                }
            }
            HubCommand::ViewsKnown(shard, held) => self.views_known(shard, held),
            HubCommand::Answer(query, answer) => self.answered(query, answer),
        }
    }

    fn answered(&mut self, Query { ticket, kind, .. }: Query, answer: Answered) {
        let QueryKind::Table { channel } = kind else { return };
        let table = match answer {
            Ok(Answer::Table(table)) => Ok(table),
            Ok(_) => return,
            Err(reason) => Err(reason),
        };
        self.handle(HubInput::Loaded { channel: &channel, load: ticket.0, table });
    }

    /// Tells the hub one thing and passes on what it says.
    pub(super) fn handle(&mut self, input: HubInput<'_>) {
        if matches!(input, HubInput::LinkDown) {
            // What they say of this round is of no use for the next.
            self.unaware = ShardSet::default();
        }
        self.hub.handle(self.now_ms, input);
        while let Some(output) = self.hub.poll_output() {
            match output {
                HubOutput::Link(command) => self.commands.push(command),
                HubOutput::Shards(shards, event) => self.tell(shards, event),
                HubOutput::Load { channel, load } => {
                    self.queries.push(Query::new(Ticket(load), QueryKind::Table { channel }));
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
                    BadTable::Unsettled => {
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

    fn tell(&mut self, shards: ShardSet, event: BrokerEvent) {
        if shards.contains(ShardId::NODE) {
            match &event {
                BrokerEvent::Publication(said) if self.herald.channels.contain(&said.channel) => {
                    return self.herald.tell(&said.channel, said.event.data_json(), &self.outlet);
                }
                // Nobody knows what was said before.
                BrokerEvent::Confirmed { subject, after_break, .. }
                    if *subject.name == *self.herald.channels.nodes =>
                {
                    self.views_are_stale(*after_break);
                }
                // Nothing more is heard.
                BrokerEvent::Refused { subject, .. } if *subject.name == *self.herald.channels.nodes => {
                    self.views_are_stale(false);
                }
                _ => {}
            }
        }
        self.lost = self.lost.union(self.outlet.tell_each(shards, event));
    }

    /// Commands were missed: with the link, which stays held until all shards have made it good, or by themselves.
    fn views_are_stale(&mut self, was_live: bool) {
        let is_held = self.hub.is_held();
        let held = is_held.then(|| {
            self.round += 1;
            self.unaware = self.outlet.all_shards();
            HeldLink { link: self.herald.link, round: self.round }
        });
        self.outlet.tell_shards(&BrokerEvent::ViewsStale { dropped: was_live && !is_held, held });
    }

    fn views_known(&mut self, shard: ShardId, held: HeldLink) {
        if held.link != self.herald.link || held.round != self.round || self.unaware.is_empty() {
            return;
        }
        self.unaware.remove(shard);
        if self.unaware.is_empty() {
            self.handle(HubInput::Release);
        }
    }

    /// Redis cannot be subscribed on, and waiting will not help: refuses what is asked for.
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

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        if self.hub.next_deadline_ms().is_some_and(|at| at <= self.now_ms) {
            self.handle(HubInput::Tick);
        }
        for shard in self.lost.iter() {
            if self.outlet.can_hear(shard) {
                self.lost.remove(shard);
                self.handle(HubInput::Lost { shard });
            }
        }
    }

    /// When [`HubDriver::tick`] is due at the latest.
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
    use std::sync::Arc;

    use drawbridge_engine::class::Classes;
    use drawbridge_engine::settings::Reserved;

    use super::super::herald::CommandChannels;
    use super::super::queue::{ShardInbox, shard_queue};
    use super::super::routes::Routes;
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn driver() -> (HubDriver, ShardInbox) {
        let ((shard, inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let (classes, reserved) = (Arc::new(Classes::default()), Reserved::new("drawbridge:"));
        let channels = CommandChannels::new("drawbridge:", false);
        let routes = Arc::new(Routes::new(1, &classes, &reserved, channels.nodes.clone()));
        let herald = Herald { link: 0, channels, routes, meter: Arc::default(), failures: Sparse::default() };
        let outlet = Outlet::new(vec![shard], node);
        let settings = HubSettings { seed: 1, linger_ms: 0, external_bytes: 1 << 20, classes, reserved };
        (HubDriver::new(settings, outlet, herald), inbox)
    }

    /// What the link is to subscribe to.
    fn asked(driver: &mut HubDriver) -> Vec<String> {
        let subjects = |command| match command {
            LinkCommand::Subscribe(subjects) | LinkCommand::Unsubscribe(subjects) => subjects,
        };
        driver.commands.drain(..).flat_map(subjects).map(|subject| subject.name.to_string()).collect()
    }

    fn held(inbox: &mut ShardInbox) -> Option<HeldLink> {
        let mut last = None;
        while let Some(event) = inbox.try_recv() {
            if let BrokerEvent::ViewsStale { held, dropped: false } = event {
                last = held;
            }
        }
        last
    }

    /// A shard's answer that comes when the link has broken again lets nothing go: more may have been missed since.
    #[test]
    fn a_late_answer_does_not_let_go_of_the_next_break() {
        let (mut driver, mut inbox) = driver();
        let (nodes, room) = (Subject::channel("drawbridge:nodes"), Subject::channel("room:1"));
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
        let first = held(&mut inbox).expect("the shard is asked");
        break_and_return(&mut driver);
        driver.command(HubCommand::ViewsKnown(SHARD, first));
        driver.handle(HubInput::LinkUp);
        assert_eq!(asked(&mut driver), ["drawbridge:nodes"]);
        driver.handle(HubInput::Subscribed(&nodes));
        let second = held(&mut inbox).expect("the shard is asked again");
        driver.command(HubCommand::ViewsKnown(SHARD, first));
        assert_eq!(asked(&mut driver), [""; 0]);
        driver.command(HubCommand::ViewsKnown(SHARD, second));
        assert_eq!(asked(&mut driver), ["room:1"]);
    }
}
