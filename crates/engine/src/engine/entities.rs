//! Entity channels (contract §5): what the broker says of entities, told to each audience as what comes into view,
//! stays, and goes. Which entities an audience sees is the world's to say ([`crate::world`]).

use std::sync::Arc;

use super::Engine;
use super::deliver::{Outgoing, delivery_of, event_frame, must_queue, outgoing};
use super::flush::MessageBounds;
use crate::class::Delivery;
use crate::io::{BrokerCommand, ConnId, Output, Publication, Subject};
use crate::outbox::{QueueKind, Queued, QueuedKind};
use crate::targets::{Subscriber, TargetId};
use crate::world::{Change, EntityId, Told};

impl Engine {
    /// An event of an entity channel.
    pub(super) fn deliver_entity(&mut self, id: TargetId, publication: &Arc<Publication>) {
        let turn = self.publication;
        let mut told = std::mem::take(&mut self.told);
        if let Some(target) = self.targets.get_mut(id)
            && let Some(world) = target.world.as_mut().filter(|world| world.loaded)
        {
            world.take(target.audiences.get_or_insert_default(), publication, turn, &mut told);
        }
        self.tell(id, Some(publication), &mut told);
        self.told = told;
    }

    /// The whole table: what was known is void, and all that is in view is told anew.
    pub(super) fn table(&mut self, channel: &str, entities: &[Arc<Publication>]) {
        let Some(id) = self.targets.find_channel(channel) else { return };
        let Some(target) = self.targets.get_mut(id) else { return };
        let Some(world) = &mut target.world else { return };
        let before = world.work().total();
        world.read_table(target.audiences.get_or_insert_default(), entities);
        self.end_too_dear(id);
        let Some(target) = self.targets.get_mut(id) else { return };
        let Some(world) = &mut target.world else { return };
        world.open_eyes(target.audiences.get_or_insert_default());
        let steps = world.work().total() - before;
        // Who has just subscribed has caused it; where there are several, together.
        let payers: Vec<ConnId> =
            target.subscribers.iter().filter(|one| one.pays).map(|one| one.conn).collect();
        let subscribers: Vec<ConnId> = target.subscribers.iter().map(|subscriber| subscriber.conn).collect();
        for conn in &payers {
            self.charge(*conn, steps / payers.len() as u64);
        }
        for conn in subscribers {
            self.want_snapshot(conn, id);
        }
    }

    /// Entities that have outlived their last event.
    pub(super) fn expired_entities(&mut self, channel: &str, keys: &[Arc<str>]) {
        let Some(id) = self.targets.find_channel(channel) else { return };
        let mut told = std::mem::take(&mut self.told);
        if let Some(target) = self.targets.get_mut(id)
            && let Some(world) = target.world.as_mut().filter(|world| world.loaded)
        {
            for key in keys {
                world.remove(target.audiences.get_or_insert_default(), key, &mut told);
            }
        }
        self.tell(id, None, &mut told);
        self.told = told;
    }

    /// This shard's table is not what it should be any more: until it comes anew nothing is told.
    pub(super) fn table_is_void(&mut self, id: TargetId, refresh: bool) {
        let Some(target) = self.targets.get_mut(id) else { return };
        let Some(world) = &mut target.world else { return };
        world.loaded = false;
        for subscriber in &mut target.subscribers {
            // The table brings another snapshot; one that is wanted or running ends, with all that was to follow it.
            if let Some(queue) = subscriber.queue.filter(|queue| self.queues.has_snapshot(*queue))
                && let Some(conn) = self.connections.get_mut(subscriber.conn)
            {
                conn.outbox.change(&mut self.queues, queue, |queue| {
                    queue.clear();
                    queue.snapshot = None;
                });
            }
        }
        if refresh {
            let subject = Subject::channel(target.subject.name.clone());
            self.outputs.push_back(Output::Broker(BrokerCommand::Refresh(subject)));
        }
    }

    /// Hands out what changed, audience by audience. `news`: the event that changed it.
    pub(super) fn tell(&mut self, id: TargetId, news: Option<&Arc<Publication>>, told: &mut Vec<Told>) {
        let Some(target) = self.targets.get_mut(id) else { return told.clear() };
        let delivery = delivery_of(&self.settings, target.class);
        let Some(audiences) = &target.audiences else { return told.clear() };
        let mut out = outgoing!(self);
        for told in told.iter() {
            let (entity, change) = (told.entity, told.change);
            let Some(audience) = audiences.get(told.audience) else { continue };
            let Some(state) = told.state.as_ref().or(news) else { continue };
            let is_news = news.is_some_and(|news| Arc::ptr_eq(news, state));
            let telling = Telling { target: id, entity, change, state, is_news };
            for slot in &audience.members {
                if let Some(subscriber) = target.subscribers.get_mut(*slot as usize) {
                    out.tell(subscriber, &telling, &delivery);
                }
            }
        }
        told.clear();
        let over = out.over;
        self.enforce_limit(over);
    }
}

/// One change of one entity, for whoever is to be told.
pub(super) struct Telling<'a> {
    pub(super) target: TargetId,
    pub(super) entity: EntityId,
    pub(super) change: Change,
    /// Its state now; where it is gone, the last.
    pub(super) state: &'a Arc<Publication>,
    /// This state was not told before.
    pub(super) is_news: bool,
}

impl Outgoing<'_> {
    /// Tells a subscriber what changed in its view.
    pub(super) fn tell(&mut self, subscriber: &mut Subscriber, told: &Telling<'_>, delivery: &Delivery) {
        if !subscriber.live {
            return;
        }
        let kind = QueuedKind::Entity(told.entity, told.change);
        let mut queued = Queued::new(told.state.clone(), kind, told.target, told.is_news, self.now_ms);
        // Why the connection is not touched: a queue exists, so its flush is scheduled and the connection is open.
        if delivery.batch_ms > 0
            && let Some(queue) = subscriber.queue
        {
            match self.queues.stage(queue, queued, delivery.conflates_entities()) {
                Ok(()) => {
                    self.stats.deliveries += 1;
                    return;
                }
                Err(refused) => queued = refused,
            }
        }
        let Some(conn) = self.connections.get_mut(subscriber.conn) else { return };
        if !conn.is_open() {
            return;
        }
        self.stats.deliveries += 1;
        let is_plain = || {
            !must_queue(conn, subscriber.queue.is_some(), delivery)
                && !conn.outbox.leaves_out()
                && !MessageBounds::of(conn, delivery).excludes(conn.encoding, told.state)
        };
        if told.change == Change::Update && is_plain() {
            let frame = event_frame(conn, told.state, self.compressor);
            conn.outbox.push_frame(frame);
            return conn.mark_dirty(self.dirty);
        }
        subscriber.queue = self.enqueue(subscriber.conn, QueueKind::Table(told.target), queued, delivery);
    }
}
