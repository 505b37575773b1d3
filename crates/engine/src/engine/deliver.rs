//! From one publication to what each receiver is sent: a frame, written at the end of the turn, or, for a class with
//! batches, conflation or another policy for slow readers, an event in an outbound queue. Also what happens when more
//! waits than the limit allows. Queues are flushed in [`super::flush`]; entity channels are in [`super::entities`].

use std::collections::BTreeSet;
use std::sync::Arc;

use drawbridge_protocol::websocket::Compressor;
use drawbridge_protocol::{CloseCode, Frame};

use super::flush::{MessageBounds, flush_bytes, too_large};
use super::{Connections, Engine};
use crate::access::Access;
use crate::class::{Class, ClassId, Delivery, SlowConsumer};
use crate::connection::Connection;
use crate::io::{ConnId, Publication};
use crate::outbox::{OutboundQueue, QueueId, QueueKind, Queued, QueuedKind, Queues};
use crate::settings::Settings;
use crate::stats::Stats;
use crate::targets::{Subscriber, TargetId, Targets};
use crate::view::{EventScope, Views};

/// By which subscription an event of a stream comes, and how events of its channel's class leave.
struct By {
    target: TargetId,
    class: Option<ClassId>,
    delivery: Delivery,
}

/// What handing out needs of the engine, beside the target in hand.
pub(super) struct Outgoing<'e> {
    pub(super) now_ms: u64,
    /// The number of the publication in hand.
    pub(super) turn: u64,
    pub(super) connections: &'e mut Connections,
    pub(super) queues: &'e mut Queues,
    pub(super) dirty: &'e mut Vec<ConnId>,
    pub(super) timers: &'e mut BTreeSet<(u64, ConnId)>,
    pub(super) stats: &'e mut Stats,
    pub(super) compressor: &'e mut Compressor,
    /// Connections for which more waits than the limit allows.
    pub(super) over: Vec<ConnId>,
}

/// Everything that handing out needs, with the engine's targets left to the caller.
macro_rules! outgoing {
    ($engine:expr) => {
        $crate::engine::deliver::Outgoing {
            now_ms: $engine.now.mono_ms,
            turn: $engine.publication,
            connections: &mut $engine.connections,
            queues: &mut $engine.queues,
            dirty: &mut $engine.dirty,
            timers: &mut $engine.timers,
            stats: &mut $engine.stats,
            compressor: &mut $engine.compressor,
            over: Vec::new(),
        }
    };
}
pub(super) use outgoing;

impl Engine {
    /// Hands a publication to every connection that is subscribed to it and may see it, once each.
    pub(super) fn publication(&mut self, publication: &Arc<Publication>) {
        self.publication += 1;
        self.stats.publications += 1;
        let exact = self.targets.find_channel(&publication.channel);
        let mut matched = std::mem::take(&mut self.matched);
        matched.extend(exact);
        self.targets.matching_patterns(&publication.channel, &mut matched);
        let by_name = usize::from(exact.is_some());
        if let Some(id) = exact {
            self.deliver_exact(id, publication);
        }
        if let Some(patterns) = matched.get(by_name..).filter(|patterns| !patterns.is_empty()) {
            self.deliver_patterns(patterns, exact, publication);
        }
        matched.clear();
        self.matched = matched;
    }

    /// To those who are subscribed by patterns, unless they have it by the channel's name.
    fn deliver_patterns(
        &mut self,
        patterns: &[TargetId],
        exact: Option<TargetId>,
        publication: &Arc<Publication>,
    ) {
        let class_id = publication.class;
        let class = class_id.and_then(|id| self.settings.classes.get(id));
        if !class.is_none_or(Class::is_shown_by_pattern) {
            return;
        }
        let delivery = delivery_of(&self.settings, class_id);
        // A table that its client keeps is told by its own subscription alone.
        let has_world = |id: &TargetId| self.targets.get(*id).is_some_and(|target| target.world.is_some());
        let table = exact.filter(has_world);
        for target in patterns {
            let by = By { target: *target, class: class_id, delivery };
            self.deliver_pattern(&by, table, publication);
        }
    }

    fn deliver_exact(&mut self, id: TargetId, publication: &Arc<Publication>) {
        let Some(target) = self.targets.get_mut(id) else { return };
        if let Some(position) = &mut target.position {
            position.offset = publication.offset;
        }
        if target.world.is_some() {
            return self.deliver_entity(id, publication);
        }
        let by = By { target: id, class: target.class, delivery: delivery_of(&self.settings, target.class) };
        let mut out = outgoing!(self);
        let before = out.stats.deliveries;
        match &mut target.audiences {
            None => {
                for subscriber in &mut target.subscribers {
                    out.hand(&by, subscriber, publication);
                }
            }
            Some(audiences) => {
                let scope = EventScope::of(publication);
                audiences.candidates(&scope, &mut self.found);
                for audience in self.found.drain(..) {
                    let Some(audience) = audiences.get(audience) else { continue };
                    if !audience.is_shown(out.turn, &scope) {
                        continue;
                    }
                    for slot in &audience.members {
                        if let Some(subscriber) = target.subscribers.get_mut(*slot as usize) {
                            out.hand(&by, subscriber, publication);
                        }
                    }
                }
            }
        }
        let shown = out.stats.deliveries - before;
        out.stats.hidden += (target.subscribers.len() as u64).saturating_sub(shown);
        let over = out.over;
        self.enforce_limit(over);
    }

    fn deliver_pattern(&mut self, by: &By, table: Option<TargetId>, publication: &Arc<Publication>) {
        let Some(target) = self.targets.get_mut(by.target) else { return };
        let scope = EventScope::of(publication);
        let mut slots: Vec<u32> = Vec::new();
        match &mut target.audiences {
            None => slots.extend(0..target.subscribers.len() as u32),
            Some(audiences) => {
                audiences.candidates(&scope, &mut self.found);
                for audience in self.found.drain(..) {
                    if let Some(audience) = audiences.get(audience)
                        && audience.is_shown(self.publication, &scope)
                    {
                        slots.extend(&audience.members);
                    }
                }
            }
        }
        let mut out = outgoing!(self);
        for slot in slots {
            let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { continue };
            let Some(conn) = out.connections.get_mut(subscriber.conn) else { continue };
            if conn.last_turn == out.turn || table.is_some_and(|exact| conn.subscription(exact).is_some()) {
                continue;
            }
            let is_shown = match access(&self.settings, &mut self.views, conn, &publication.channel) {
                Access::Denied => false,
                Access::Granted(view) => view.as_ref().is_none_or(|view| view.shows(out.turn, &scope)),
            };
            if is_shown {
                out.hand(by, subscriber, publication);
            } else {
                // Whatever other patterns of its match.
                conn.last_turn = out.turn;
                out.stats.hidden += 1;
            }
        }
        let over = out.over;
        self.enforce_limit(over);
    }

    /// Appends a frame to one connection's outbox.
    pub(super) fn push(&mut self, id: ConnId, frame: Frame) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        if conn.push_frame(frame, &mut self.dirty) {
            self.enforce_limit(vec![id]);
        }
    }

    /// More waits for these connections than the limit allows: their queues shed what their classes permit. Where that is
    /// not enough, the connection is closed with 4001.
    pub(super) fn enforce_limit(&mut self, mut over: Vec<ConnId>) {
        over.dedup();
        for id in over {
            if self.shed(id) {
                continue;
            }
            // What waits is of no use to a client that does not read.
            if let Some(conn) = self.connections.get_mut(id) {
                conn.outbox.take_frames();
                self.stats.slow_consumers += 1;
                self.close(id, CloseCode::SlowConsumer, "slow consumer");
            }
        }
    }

    pub(super) fn blocked(&mut self, id: ConnId, unsent: Vec<Frame>) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.blocked = true;
        conn.outbox.return_frames(unsent);
        // Until a socket blocks its queues may exceed the limit: it was about to take them.
        self.enforce_limit(vec![id]);
    }

    /// Lets queues conflate, then drops the oldest events of the largest. Returns whether that is enough. Tables of entities
    /// conflate as soon as the socket blocks, for a newer state replaces an older one anyway; streams only beyond the limit.
    fn shed(&mut self, id: ConnId) -> bool {
        // Frames cannot be dropped.
        let Some(conn) = self.connections.get_mut(id).filter(|conn| !conn.outbox.has_too_many_frames())
        else {
            return self.connections.get(id).is_none();
        };
        let (mut may_lose, mut is_strict) = (Vec::new(), false);
        for (kind, queue) in conn.outbox.queues().to_vec() {
            let policy = policy_of(&self.settings, &self.targets, kind);
            match policy {
                SlowConsumer::Latest => {
                    if matches!(kind, QueueKind::Table(_)) || conn.outbox.is_over_limit() {
                        conn.outbox.change(&mut self.queues, queue, OutboundQueue::conflate);
                    }
                    may_lose.push((kind, queue, policy));
                }
                SlowConsumer::DropOldest => may_lose.push((kind, queue, policy)),
                SlowConsumer::Disconnect => is_strict = true,
            }
        }
        while conn.outbox.is_over_limit() {
            // Of the largest the first.
            let sizes = may_lose.iter().rev().map(|queue| (self.queues.bytes(queue.1), *queue));
            let largest = sizes.filter(|(bytes, _)| *bytes > 0).max_by_key(|(bytes, _)| *bytes);
            let Some((_, (kind, queue, policy))) = largest else { return !is_strict };
            // Some more than is needed, so that not every further event has to make room.
            let excess = conn.outbox.bytes() - conn.outbox.limit() + conn.outbox.limit() / 8;
            let dropped = conn.outbox.change(&mut self.queues, queue, |queue| match kind {
                QueueKind::Table(target) => {
                    queue.restart((policy == SlowConsumer::DropOldest).then_some(target));
                    0
                }
                QueueKind::Stream(_) => queue.drop_oldest(excess),
            });
            self.stats.given_up += dropped as u64;
        }
        true
    }

    pub(super) fn writable(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.blocked = false;
        if conn.outbox.has_frames() || conn.outbox.has_queues() {
            conn.mark_dirty(&mut self.dirty);
        }
    }
}

/// What happens to a queue when more waits than the limit allows.
fn policy_of(settings: &Settings, targets: &Targets, kind: QueueKind) -> SlowConsumer {
    let class = match kind {
        QueueKind::Table(target) => targets.get(target).and_then(|target| target.class),
        QueueKind::Stream(class) => class,
    };
    delivery_of(settings, class).slow_consumer
}

impl Outgoing<'_> {
    /// Gives a subscriber an event of a stream.
    fn hand(&mut self, by: &By, subscriber: &Subscriber, publication: &Arc<Publication>) {
        let Some(conn) = self.connections.get_mut(subscriber.conn) else { return };
        if !subscriber.live || !conn.is_open() || subscriber.is_own_past(conn.connection, publication) {
            return;
        }
        conn.last_turn = self.turn;
        self.stats.deliveries += 1;
        let kind = QueueKind::Stream(by.class);
        let delivery = &by.delivery;
        if delivery.is_immediate() || !must_queue(conn, conn.outbox.find(kind).is_some(), delivery) {
            let bounds = MessageBounds::of(conn, delivery);
            let frame = match bounds.excludes(conn.encoding, publication) {
                true => too_large(conn.encoding, publication, self.stats),
                false => event_frame(conn, publication, self.compressor),
            };
            if conn.push_frame(frame, self.dirty) {
                self.over.push(subscriber.conn);
            }
            return;
        }
        let queued = Queued::new(publication.clone(), QueuedKind::Event, by.target, true, self.now_ms);
        self.enqueue(subscriber.conn, kind, queued, delivery);
    }

    /// Appends an event to a queue of a connection's outbox, and schedules its flush. Returns the queue.
    pub(super) fn enqueue(
        &mut self,
        id: ConnId,
        kind: QueueKind,
        queued: Queued,
        delivery: &Delivery,
    ) -> Option<QueueId> {
        let conn = self.connections.get_mut(id)?;
        let flush_at_ms = if delivery.batch_ms == 0 { 0 } else { delivery.window_end_ms(self.now_ms) };
        let (queue, is_new) = conn.outbox.find_or_insert(self.queues, kind, flush_at_ms);
        self.stats.conflated += conn.outbox.enqueue(self.queues, queue, queued, delivery);
        if is_new {
            conn.schedule_flush(flush_at_ms, self.dirty, self.timers);
        }
        if conn.outbox.is_over_limit() {
            if conn.blocked {
                self.over.push(id);
            } else {
                // It reads: the window is cut short.
                conn.outbox.change(self.queues, queue, |queue| queue.flush_at_ms = 0);
                conn.mark_dirty(self.dirty);
            }
        }
        Some(queue)
    }
}

/// Whether an event goes into a queue, where it can still be conflated or dropped, and not into a frame at once.
/// `waits`: there is such a queue already.
pub(super) fn must_queue(conn: &Connection, waits: bool, delivery: &Delivery) -> bool {
    delivery.batch_ms > 0
        || delivery.conflate
        || conn.blocked
        || waits
        || conn.outbox.frame_bytes() >= flush_bytes(conn.outbox.limit())
}

impl Connection {
    /// Appends a frame. Returns whether the limit is to be enforced: only while the socket is blocked, for otherwise the
    /// frames leave at the end of the turn.
    fn push_frame(&mut self, frame: Frame, dirty: &mut Vec<ConnId>) -> bool {
        self.outbox.push_frame(frame);
        self.mark_dirty(dirty);
        self.blocked && self.outbox.is_over_limit()
    }

    /// A queue of its outbox is flushed then; 0: at the end of the turn.
    fn schedule_flush(&mut self, at_ms: u64, dirty: &mut Vec<ConnId>, timers: &mut BTreeSet<(u64, ConnId)>) {
        if at_ms == 0 {
            self.mark_dirty(dirty);
        } else if self.deadlines.flush_ms == 0 || at_ms < self.deadlines.flush_ms {
            self.deadlines.flush_ms = at_ms;
            self.arm(timers);
        }
    }

    /// Its outbox is flushed at the end of the turn; that of a blocked one when the socket takes bytes again.
    pub(super) fn mark_dirty(&mut self, dirty: &mut Vec<ConnId>) {
        if !self.blocked && !std::mem::replace(&mut self.dirty, true) {
            dirty.push(self.id);
        }
    }
}

/// An event as this connection gets it.
pub(super) fn event_frame(
    conn: &Connection,
    publication: &Publication,
    compressor: &mut Compressor,
) -> Frame {
    match conn.deflate {
        None => publication.frame(conn.encoding).clone(),
        Some(window) => publication.deflated_frame(conn.encoding, window, compressor).clone(),
    }
}

/// How events of a class leave.
pub(super) fn delivery_of(settings: &Settings, class: Option<ClassId>) -> Delivery {
    class.and_then(|id| settings.classes.get(id)).map(|class| class.delivery).unwrap_or_default()
}

/// What a connection may see of a real channel that comes by a pattern: decided once, and remembered.
pub(super) fn access<'c>(
    settings: &Settings,
    views: &mut Views,
    conn: &'c mut Connection,
    channel: &Arc<str>,
) -> &'c Access {
    let Some(claims) = &conn.claims else { return &Access::Denied };
    let narrowed = &conn.narrowed;
    let cache = conn.access.get_or_insert_default();
    cache.of(settings, claims, || narrowed.of(channel), views, channel)
}
