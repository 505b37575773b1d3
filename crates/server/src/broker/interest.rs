//! A hub and what is around it: orders in, events out to the shards, commands out to the link. It owns the clock
//! that the hub is told and the log lines that the hub asks for; it leaves the link to its caller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_engine::io::{BrokerEvent, HeldLink, Subject, Ticket};
use drawbridge_engine::upstream::{
    BadEntity, BadTable, Hub, HubInput, HubOutput, HubSettings, HubStats, LinkCommand, ShardId, ShardSet,
    StoredTable,
};
use tokio::sync::mpsc;

use super::herald::Herald;
use super::outlet::Outlet;
use crate::log::Sparse;

/// What a player command may have at most, whatever the bound of other payloads is.
const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// What a shard orders of a hub.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It has a first subscriber.
    Want(ShardId, Subject),
    /// Its last subscriber left.
    Unwant(ShardId, Subject),
    /// Its table has a gap.
    Refresh(ShardId, Subject),
    /// It waits for all that was published until now.
    Fence(ShardId, Ticket, Arc<str>),
    /// It knows its players' views.
    ViewsKnown(ShardId, HeldLink),
    /// A table was read.
    Loaded { channel: Arc<str>, load: u64, table: Result<StoredTable, Arc<str>> },
}

/// Where orders come from.
pub(super) type OrderReceiver = mpsc::UnboundedReceiver<Order>;

/// One hub at work.
#[derive(Debug)]
pub(super) struct Interest {
    hub: Hub,
    outlet: Outlet,
    started: Instant,
    now_ms: u64,
    /// What the link is to send, in order.
    pub(super) commands: Vec<LinkCommand>,
    /// Tables to be read: channel, and which question it is.
    pub(super) loads: Vec<(Arc<str>, u64)>,
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

impl Interest {
    pub(super) fn new(settings: HubSettings, outlet: Outlet, herald: Herald) -> Self {
        Interest {
            hub: Hub::new(settings),
            outlet,
            started: Instant::now(),
            now_ms: 0,
            commands: Vec::new(),
            loads: Vec::new(),
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

    /// Carries out an order.
    pub(super) fn order(&mut self, order: Order) {
        match order {
            Order::Want(shard, subject) => self.handle(HubInput::Want { shard, subject }),
            Order::Unwant(shard, subject) => self.handle(HubInput::Unwant { shard, subject: &subject }),
            Order::Refresh(shard, subject) => self.handle(HubInput::Refresh { shard, subject: &subject }),
            Order::Fence(shard, ticket, channel) => {
                self.outlet.tell(shard, BrokerEvent::Fenced { ticket, channel });
            }
            Order::ViewsKnown(shard, held) => self.views_known(shard, held),
            Order::Loaded { channel, load, table } => {
                self.handle(HubInput::Loaded { channel: &channel, load, table });
            }
        }
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
                HubOutput::Load { channel, load } => self.loads.push((channel, load)),
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

    /// When [`Interest::tick`] is due at the latest.
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
    use drawbridge_engine::class::Classes;
    use drawbridge_engine::settings::Reserved;

    use super::super::herald::CommandChannels;
    use super::super::queue::{ShardInbox, shard_queue};
    use super::super::routes::Routes;
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn interest() -> (Interest, ShardInbox) {
        let ((shard, inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let (classes, reserved) = (Arc::new(Classes::default()), Reserved::new("drawbridge:"));
        let channels = CommandChannels::new("drawbridge:", false);
        let routes = Arc::new(Routes::new(1, &classes, &reserved, channels.nodes.clone()));
        let herald = Herald { link: 0, channels, routes, meter: Arc::default(), failures: Sparse::default() };
        let outlet = Outlet::new(vec![shard], node);
        let settings = HubSettings { seed: 1, linger_ms: 0, external_bytes: 1 << 20, classes, reserved };
        (Interest::new(settings, outlet, herald), inbox)
    }

    /// What the link is to subscribe to.
    fn asked(interest: &mut Interest) -> Vec<String> {
        let subjects = |command| match command {
            LinkCommand::Subscribe(subjects) | LinkCommand::Unsubscribe(subjects) => subjects,
        };
        interest.commands.drain(..).flat_map(subjects).map(|subject| subject.name.to_string()).collect()
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
        let (mut interest, mut inbox) = interest();
        let (nodes, room) = (Subject::channel("drawbridge:nodes"), Subject::channel("room:1"));
        interest.order(Order::Want(ShardId::NODE, nodes.clone()));
        interest.order(Order::Want(SHARD, room.clone()));
        interest.handle(HubInput::LinkUp);
        interest.handle(HubInput::Subscribed(&nodes));
        interest.handle(HubInput::Subscribed(&room));
        let break_and_return = |interest: &mut Interest| {
            interest.handle(HubInput::LinkDown);
            interest.commands.clear();
        };
        break_and_return(&mut interest);
        interest.handle(HubInput::LinkUp);
        interest.handle(HubInput::Subscribed(&nodes));
        let first = held(&mut inbox).expect("the shard is asked");
        break_and_return(&mut interest);
        interest.order(Order::ViewsKnown(SHARD, first));
        interest.handle(HubInput::LinkUp);
        assert_eq!(asked(&mut interest), ["drawbridge:nodes"]);
        interest.handle(HubInput::Subscribed(&nodes));
        let second = held(&mut inbox).expect("the shard is asked again");
        interest.order(Order::ViewsKnown(SHARD, first));
        assert_eq!(asked(&mut interest), [""; 0]);
        interest.order(Order::ViewsKnown(SHARD, second));
        assert_eq!(asked(&mut interest), ["room:1"]);
    }
}
