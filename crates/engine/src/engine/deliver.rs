//! From one publication to what is due to each connection: frames that wait for the end of the turn, or, where its
//! class wants more than that (batches, conflation, another policy for slow readers), a feed. How feeds leave stands
//! in [`super::flush`], entity channels in [`super::entities`].

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use drawbridge_protocol::websocket::Compressor;
use drawbridge_protocol::{CloseCode, Frame};

use super::flush::flush_bytes;
use super::{Connections, Engine};
use crate::class::{Delivery, SlowConsumer};
use crate::connection::Connection;
use crate::feed::{Due, Kind};
use crate::io::{ConnId, Publication};
use crate::permissions;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::targets::{Judgement, Subscriber, TargetId};
use crate::view::{EventScope, View, Views};

/// What handing out needs of the engine, beside the target in hand.
pub(super) struct Outgoing<'e> {
    pub(super) now_ms: u64,
    /// The number of the publication in hand.
    pub(super) turn: u64,
    pub(super) bound: usize,
    pub(super) connections: &'e mut Connections,
    pub(super) dirty: &'e mut Vec<ConnId>,
    pub(super) timers: &'e mut BTreeSet<(u64, ConnId)>,
    pub(super) stats: &'e mut Stats,
    pub(super) compressor: &'e mut Compressor,
    /// Connections to be closed with 4001.
    pub(super) slow: Vec<ConnId>,
    /// All targets that the publication in hand is for, where they are several.
    pub(super) overlap: &'e [TargetId],
    /// Connections to which events of this channel are due by another of their subscriptions: those leave first.
    pub(super) late: Vec<ConnId>,
}

/// Everything that handing out needs, with the engine's targets left to the caller.
macro_rules! outgoing {
    ($engine:expr) => {
        $crate::engine::deliver::Outgoing {
            now_ms: $engine.now.mono_ms,
            turn: $engine.publication,
            bound: $engine.settings.outbound_bytes,
            connections: &mut $engine.connections,
            dirty: &mut $engine.dirty,
            timers: &mut $engine.timers,
            stats: &mut $engine.stats,
            compressor: &mut $engine.compressor,
            slow: Vec::new(),
            overlap: &[],
            late: Vec::new(),
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
        let overlap = if matched.len() > 1 { &matched[..] } else { &[] };
        for id in &matched {
            if Some(*id) == exact {
                self.deliver_exact(*id, overlap, publication);
            } else {
                self.deliver_pattern(*id, exact, overlap, publication);
            }
        }
        matched.clear();
        self.matched = matched;
    }

    /// Hands a publication to those to whom earlier events of its channel were due by another subscription.
    fn deliver_late(
        &mut self,
        id: TargetId,
        late: &[ConnId],
        overlap: &[TargetId],
        publication: &Arc<Publication>,
        delivery: &Delivery,
    ) {
        for conn in late {
            for other in overlap.iter().filter(|other| **other != id) {
                self.flush_target(*conn, *other);
            }
            // What is a frame cannot be given up any more: while the socket is blocked that must not go on and on.
            let bound = self.settings.outbound_bytes;
            if self.connections.get(*conn).is_some_and(|conn| conn.blocked && conn.is_over(bound)) {
                self.close_slow(vec![*conn]);
                continue;
            }
            let slot = self.connections.get(*conn).and_then(|conn| conn.subscription(id)).map(|s| s.slot);
            let (Some(slot), Some(target)) = (slot, self.targets.get_mut(id)) else { continue };
            let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { continue };
            let mut out = outgoing!(self);
            out.hand(id, subscriber, publication, delivery);
            let slow = out.slow;
            self.close_slow(slow);
        }
    }

    fn deliver_exact(&mut self, id: TargetId, overlap: &[TargetId], publication: &Arc<Publication>) {
        let Some(target) = self.targets.get_mut(id) else { return };
        if let Some(position) = &mut target.position {
            position.offset = publication.offset;
        }
        if target.world.is_some() {
            return self.deliver_entity(id, publication);
        }
        let delivery = delivery_of(&self.settings, target.class);
        let mut out = Outgoing { overlap, ..outgoing!(self) };
        let before = out.stats.deliveries;
        match &mut target.audiences {
            None => {
                for subscriber in &mut target.subscribers {
                    out.hand(id, subscriber, publication, &delivery);
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
                            out.hand(id, subscriber, publication, &delivery);
                        }
                    }
                }
            }
        }
        let shown = out.stats.deliveries - before + out.late.len() as u64;
        out.stats.hidden += (target.subscribers.len() as u64).saturating_sub(shown);
        let (slow, late) = (out.slow, out.late);
        self.close_slow(slow);
        self.deliver_late(id, &late, overlap, publication, &delivery);
    }

    fn deliver_pattern(
        &mut self,
        id: TargetId,
        exact: Option<TargetId>,
        overlap: &[TargetId],
        publication: &Arc<Publication>,
    ) {
        let class = self.settings.classes.of_channel(&publication.channel).map(|(_, class, _)| class);
        let space = class.and_then(|class| class.entity.as_ref()?.space.as_ref());
        if space.is_some_and(|space| space.area_required) {
            return;
        }
        // A table that its client keeps is told by its own subscription alone.
        let has_world = |id: &TargetId| self.targets.get(*id).is_some_and(|target| target.world.is_some());
        let table = exact.filter(has_world);
        let delivery = class.map(|class| class.delivery).unwrap_or_default();
        let Some(target) = self.targets.get_mut(id) else { return };
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
        let mut out = Outgoing { overlap, ..outgoing!(self) };
        for slot in slots {
            let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { continue };
            let Some(conn) = out.connections.get_mut(subscriber.conn) else { continue };
            if conn.last_turn == out.turn || table.is_some_and(|exact| conn.subscription(exact).is_some()) {
                continue;
            }
            if may_see(&self.settings, &mut self.views, conn, id, publication, out.turn) {
                out.hand(id, subscriber, publication, &delivery);
            } else {
                out.stats.hidden += 1;
            }
        }
        let (slow, late) = (out.slow, out.late);
        self.close_slow(slow);
        self.deliver_late(id, &late, overlap, publication, &delivery);
    }

    /// Queues a frame to one connection.
    pub(super) fn push(&mut self, id: ConnId, frame: Frame) {
        let bound = self.settings.outbound_bytes;
        let Some(conn) = self.connections.get_mut(id) else { return };
        if conn.queue(frame, bound, &mut self.dirty) {
            self.close_slow(vec![id]);
        }
    }

    pub(super) fn close_slow(&mut self, slow: Vec<ConnId>) {
        for id in slow {
            // What waits is of no use to a reader that does not read.
            if let Some(conn) = self.connections.get_mut(id) {
                conn.pending = Vec::new();
                self.stats.slow_consumers += 1;
                self.close(id, CloseCode::SlowConsumer, "slow consumer");
            }
        }
    }

    pub(super) fn blocked(&mut self, id: ConnId, mut unsent: Vec<Frame>) {
        let bound = self.settings.outbound_bytes;
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.blocked = true;
        unsent.append(&mut conn.pending);
        conn.pending = unsent;
        conn.pending_bytes = conn.pending.iter().map(Frame::len).sum();
        conn.pending_largest = conn.pending.iter().map(Frame::len).max().unwrap_or(0);
        if conn.is_over(bound) {
            return self.close_slow(vec![id]);
        }
        // Where it is enough to give something up, nobody is closed.
        let feeds = conn.feeds.clone();
        for policy in [SlowConsumer::Latest, SlowConsumer::DropOldest, SlowConsumer::Disconnect] {
            for target in &feeds {
                self.bound_feed(id, *target, policy);
            }
        }
    }

    /// Until a socket blocks its feeds may pass the bound: it was about to take them.
    fn bound_feed(&mut self, id: ConnId, target_id: TargetId, policy: SlowConsumer) {
        let slot = self.connections.get(id).and_then(|conn| conn.subscription(target_id)).map(|s| s.slot);
        let (Some(slot), Some(target)) = (slot, self.targets.get_mut(target_id)) else { return };
        let delivery = delivery_of(&self.settings, target.class);
        let has_world = target.world.is_some();
        let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { return };
        if subscriber.feed.as_ref().is_none_or(|feed| feed.slow_consumer != policy) {
            return;
        }
        let mut out = outgoing!(self);
        out.keep_bound(target_id, subscriber, &Delivery { slow_consumer: policy, ..delivery }, has_world);
        let slow = out.slow;
        self.close_slow(slow);
    }

    pub(super) fn writable(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.blocked = false;
        if !conn.pending.is_empty() || !conn.feeds.is_empty() {
            conn.mark_dirty(&mut self.dirty);
        }
    }
}

impl Outgoing<'_> {
    /// Gives a subscriber an event of a stream.
    fn hand(
        &mut self,
        target: TargetId,
        subscriber: &mut Subscriber,
        publication: &Arc<Publication>,
        delivery: &Delivery,
    ) {
        let Some(conn) = self.connections.get_mut(subscriber.conn) else { return };
        if !subscriber.live || !conn.is_open() || subscriber.is_own_past(conn.connection, publication) {
            return;
        }
        conn.last_turn = self.turn;
        let holds_earlier = |feed: &TargetId| *feed != target && self.overlap.contains(feed);
        if !self.overlap.is_empty() && conn.feeds.iter().any(holds_earlier) {
            return self.late.push(subscriber.conn);
        }
        self.stats.deliveries += 1;
        if delivery.is_immediate() || !must_line_up(conn, subscriber, delivery, self.bound) {
            if conn.queue(event_frame(conn, publication, self.compressor), self.bound, self.dirty) {
                self.slow.push(subscriber.conn);
            }
            return;
        }
        let due = Due { publication: publication.clone(), kind: Some(Kind::Event), since_ms: self.now_ms };
        self.offer(target, subscriber, due, delivery);
    }

    /// Lines something up in a subscriber's feed, and keeps the bound.
    pub(super) fn offer(
        &mut self,
        target: TargetId,
        subscriber: &mut Subscriber,
        due: Due,
        delivery: &Delivery,
    ) {
        let Some(conn) = self.connections.get_mut(subscriber.conn) else { return };
        let entity = matches!(due.kind, Some(Kind::Entity(..)));
        let feed = subscriber.feed.get_or_insert_default();
        let before = (feed.bytes(), feed.len());
        let strictest = if feed.is_empty() { SlowConsumer::Latest } else { feed.slow_consumer };
        feed.slow_consumer = strictest.max(delivery.slow_consumer);
        // What is chosen key by key is kept key by key.
        feed.push(due, delivery.conflate || (entity && delivery.max_updates.is_some()));
        conn.feed_bytes = conn.feed_bytes + feed.bytes() - before.0;
        self.stats.conflated += u64::from(feed.len() <= before.1);
        schedule(conn, subscriber, target, delivery, self.now_ms, self.dirty, self.timers);
        self.keep_bound(target, subscriber, delivery, entity);
    }

    /// Where more waits for a connection than may, what its class says is done.
    fn keep_bound(
        &mut self,
        target: TargetId,
        subscriber: &mut Subscriber,
        delivery: &Delivery,
        entity: bool,
    ) {
        let Some(conn) = self.connections.get_mut(subscriber.conn) else { return };
        let Some(feed) = &mut subscriber.feed else { return };
        if conn.pending_bytes + conn.feed_bytes <= self.bound {
            return;
        }
        if !conn.blocked {
            // It reads: the window is cut short.
            feed.flush_at_ms = 0;
            return conn.mark_dirty(self.dirty);
        }
        if delivery.slow_consumer == SlowConsumer::Disconnect {
            return self.slow.push(subscriber.conn);
        }
        let before = feed.bytes();
        if delivery.slow_consumer == SlowConsumer::Latest {
            feed.conflate();
        }
        let waits = conn.pending_bytes + conn.feed_bytes + feed.bytes() - before;
        let over = waits.saturating_sub(self.bound);
        if over > 0 && entity {
            let told = delivery.slow_consumer == SlowConsumer::DropOldest;
            feed.begin_anew(told.then_some(0));
        } else if over > 0 {
            // Some more, so that not every event behind it has to make room.
            let (dropped, offset) = feed.drop_oldest(over + self.bound / 8);
            self.stats.given_up += dropped as u64;
            feed.gap = offset.or(feed.gap);
        }
        conn.feed_bytes = conn.feed_bytes + feed.bytes() - before;
        schedule(conn, subscriber, target, delivery, self.now_ms, self.dirty, self.timers);
    }
}

/// Whether what is due goes into the subscriber's feed, where it can still be merged or given up, and not into a
/// frame at once.
pub(super) fn must_line_up(
    conn: &Connection,
    subscriber: &Subscriber,
    delivery: &Delivery,
    bound: usize,
) -> bool {
    delivery.batch_ms > 0
        || delivery.conflate
        || conn.blocked
        || subscriber.feed.is_some()
        || conn.pending_bytes >= flush_bytes(bound)
}

/// Sees to it that a feed with something in it leaves when it is due.
pub(super) fn schedule(
    conn: &mut Connection,
    subscriber: &mut Subscriber,
    target: TargetId,
    delivery: &Delivery,
    now_ms: u64,
    dirty: &mut Vec<ConnId>,
    timers: &mut BTreeSet<(u64, ConnId)>,
) {
    let Some(feed) = subscriber.feed.as_mut().filter(|feed| !feed.queued && !feed.is_empty()) else { return };
    feed.queued = true;
    conn.feeds.push(target);
    // All connections' windows end together: one wake-up serves them all.
    feed.flush_at_ms = match delivery.batch_ms {
        0 => 0,
        window => (now_ms / window + 1) * window,
    };
    if feed.flush_at_ms == 0 {
        conn.mark_dirty(dirty);
    } else if conn.deadlines.flush_ms == 0 || feed.flush_at_ms < conn.deadlines.flush_ms {
        conn.deadlines.flush_ms = feed.flush_at_ms;
        conn.arm(timers);
    }
}

impl Connection {
    /// Queues a frame; says whether more waits than may where that can grow without end: while the socket is blocked.
    fn queue(&mut self, frame: Frame, bound: usize, dirty: &mut Vec<ConnId>) -> bool {
        self.put(frame);
        if self.blocked {
            return self.is_over(bound);
        }
        self.mark_dirty(dirty);
        false
    }

    /// Whether the frames that wait pass the bound. One may be larger than that by itself.
    fn is_over(&self, bound: usize) -> bool {
        self.pending_bytes - self.pending_largest > bound
    }

    /// It is looked at at the end of the turn; a blocked one when it takes bytes again.
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
pub(super) fn delivery_of(settings: &Settings, class: Option<crate::class::ClassId>) -> Delivery {
    class.and_then(|id| settings.classes.get(id)).map(|class| class.delivery).unwrap_or_default()
}

/// Whether a connection may see an event that comes by a pattern: rights and the server's view are judged for each
/// real channel, once.
fn may_see(
    settings: &Settings,
    views: &mut Views,
    conn: &mut Connection,
    pattern: TargetId,
    publication: &Publication,
    turn: u64,
) -> bool {
    let channel = &publication.channel;
    let known = conn.judged.as_ref().and_then(|judged| judged.get(pattern, channel));
    let judgement = match known {
        Some(judgement) => judgement.clone(),
        None => {
            let judgement = judge(settings, views, conn, channel);
            let judged = conn.judged.get_or_insert_default();
            judged.insert(pattern, channel.clone(), judgement.clone());
            judgement
        }
    };
    match judgement {
        Judgement::Hidden => false,
        Judgement::Shown(view) => {
            view.is_none_or(|view: Rc<View>| view.shows(turn, &EventScope::of(publication)))
        }
    }
}

fn judge(settings: &Settings, views: &mut Views, conn: &Connection, channel: &str) -> Judgement {
    let Some(claims) = &conn.claims else { return Judgement::Hidden };
    if permissions::may_subscribe(settings, claims, channel).is_err() {
        return Judgement::Hidden;
    }
    let server = permissions::server_view(settings, claims, channel, conn.narrowed.of(channel));
    Judgement::Shown(views.get(server, None))
}
