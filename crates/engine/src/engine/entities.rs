//! Entity channels (contract §5): what the broker says of entities, told to each audience as what comes into view,
//! stays, and goes. Which entities an audience sees is the world's to say ([`crate::world`]).

use std::sync::Arc;

use super::Engine;
use super::deliver::{delivery_of, must_queue};
use super::message_bounds::MessageBounds;
use super::outbound::Outbound;
use super::sessions::Sessions;
use crate::audience::Audiences;
use crate::class::Delivery;
use crate::io::{BrokerCommand, Output, Publication, SessionId, Subject};
use crate::outbox::{QueueKind, Queued, QueuedKind};
use crate::targets::{Subscriber, TargetId};
use crate::world::{Change, EntityId, VisibilityChange, World};

impl Engine {
    /// An event of an entity channel.
    pub(super) fn deliver_entity(&mut self, id: TargetId, publication: &Arc<Publication>) {
        let seq = self.out.publication_seq;
        let mut changes = std::mem::take(&mut self.changes);
        let target = &mut self.targets[id];
        if let Some(world) = target.world.as_mut().filter(|world| world.loaded) {
            world.apply(target.audiences.get_or_insert_default(), publication, seq, &mut changes);
        }
        self.notify_audiences(id, Some(publication), &mut changes);
        self.changes = changes;
    }

    /// The whole table: what was known is void, and all that is in view is sent again.
    pub(super) fn table(&mut self, channel: &str, entities: &[Arc<Publication>]) {
        let Some(id) = self.targets.find_channel(channel) else { return };
        // As for a confirmation: until the `Unwant` is answered, this table belongs to the previous subscription.
        if self.releasing.contains_key(&self.targets[id].subject) {
            return;
        }
        self.change_table(id, |world, audiences| world.read_table(audiences, entities));
        self.end_too_dear(id);
        // With its last subscriber the target is gone.
        if self.targets.get(id).is_none() {
            return;
        }
        self.change_table(id, World::add_observers);
        let target = &self.targets[id];
        let subscribers: Vec<SessionId> =
            target.subscribers.iter().map(|subscriber| subscriber.session).collect();
        for session in subscribers {
            self.want_snapshot(session, id);
        }
    }

    /// Changes the whole table of a target, and charges the work to those who have just subscribed, in equal shares: they
    /// have caused it. Why at once: the next step may end their subscriptions.
    fn change_table(&mut self, id: TargetId, change: impl FnOnce(&mut World, &mut Audiences)) {
        let target = &mut self.targets[id];
        let Some(world) = &mut target.world else { return };
        let before = world.work().total();
        change(world, target.audiences.get_or_insert_default());
        let steps = world.work().total() - before;
        let payers = target.subscribers.iter().filter(|one| one.pays).map(|one| one.session);
        let payers: Vec<SessionId> = payers.collect();
        for session in &payers {
            self.charge(*session, steps / payers.len() as u64);
        }
    }

    /// Entities that have outlived their last event.
    pub(super) fn expired_entities(&mut self, channel: &str, keys: &[Arc<str>]) {
        let Some(id) = self.targets.find_channel(channel) else { return };
        let mut changes = std::mem::take(&mut self.changes);
        let target = &mut self.targets[id];
        if let Some(world) = target.world.as_mut().filter(|world| world.loaded) {
            for key in keys {
                world.remove(target.audiences.get_or_insert_default(), key, &mut changes);
            }
        }
        self.notify_audiences(id, None, &mut changes);
        self.changes = changes;
    }

    /// This shard's table is incomplete: nothing is sent about it until it is complete again. `refresh`: requests it again.
    /// Does nothing if the channel has no table.
    pub(super) fn table_is_void(&mut self, id: TargetId, refresh: bool) {
        let target = &mut self.targets[id];
        let Some(world) = &mut target.world else { return };
        world.loaded = false;
        for subscriber in &target.subscribers {
            // The table brings another snapshot; one that is wanted or running ends, with all that was to follow it.
            if let Some(queue) = subscriber.queue.filter(|queue| self.out.queues.has_snapshot(*queue)) {
                self.out.change(&mut self.sessions[subscriber.session], queue, |queue| {
                    queue.clear();
                    queue.snapshot = None;
                });
            }
        }
        if refresh {
            let subject = Subject::channel(target.subject.name.clone());
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Refresh(subject)));
        }
    }

    /// Hands out what changed, audience by audience. `cause`: the event that changed it.
    pub(super) fn notify_audiences(
        &mut self,
        id: TargetId,
        cause: Option<&Arc<Publication>>,
        changes: &mut Vec<VisibilityChange>,
    ) {
        let target = &mut self.targets[id];
        let delivery = delivery_of(&self.settings, target.class);
        for VisibilityChange { audience, entity, change, state } in changes.drain(..) {
            // Changes name their audience while it is there, and only a target with audiences has changes.
            let Some(audience) = target.audiences.as_ref().map(|all| &all[audience]) else { continue };
            let Some(state) = state.as_ref().or(cause) else { continue };
            let is_new_state = cause.is_some_and(|cause| Arc::ptr_eq(cause, state));
            let update = EntityUpdate { target: id, entity, change, state, is_new_state };
            for slot in &audience.members {
                let subscriber = &mut target.subscribers[*slot as usize];
                self.out.notify(&mut self.sessions, subscriber, &update, &delivery);
            }
        }
        self.enforce_limits();
    }
}

/// One change of one entity, for those who are notified.
pub(super) struct EntityUpdate<'a> {
    pub(super) target: TargetId,
    pub(super) entity: EntityId,
    pub(super) change: Change,
    /// Its state now; where it is gone, the last.
    pub(super) state: &'a Arc<Publication>,
    /// This state was not told before.
    pub(super) is_new_state: bool,
}

impl Outbound {
    /// Tells a subscriber what changed in its view.
    ///
    /// Why the session is looked up here and not by the caller: most changes are staged without touching it, and with
    /// thousands of receivers each of them is a cache miss (ADR 0014).
    pub(super) fn notify(
        &mut self,
        sessions: &mut Sessions,
        subscriber: &mut Subscriber,
        update: &EntityUpdate<'_>,
        delivery: &Delivery,
    ) {
        if !subscriber.phase.is_shown_events() {
            return;
        }
        let kind = QueuedKind::Entity(update.entity, update.change);
        let mut queued =
            Queued::new(update.state.clone(), kind, update.target, update.is_new_state, self.now.mono_ms);
        // A queue exists, so its flush is scheduled and the session is open.
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
        let session = &mut sessions[subscriber.session];
        if !session.is_open() {
            return;
        }
        self.stats.deliveries += 1;
        let is_plain = || {
            !must_queue(session, subscriber.queue.is_some(), delivery)
                && !session.outbox.leaves_out()
                && !MessageBounds::of(session, delivery).excludes(session.encoding(), update.state)
        };
        if update.change == Change::Update && is_plain() {
            let frame = self.event_frame(session, update.state);
            session.outbox.enqueue_frame(frame);
            return self.mark_dirty(session);
        }
        subscriber.queue = Some(self.enqueue(session, QueueKind::Table(update.target), queued, delivery));
    }
}
