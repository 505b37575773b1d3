//! From one publication to what is due to each connection: frames that wait for the end of the turn, or, where its
//! class wants more than that (batches, conflation, another policy for slow readers), a feed. How feeds leave stands
//! in [`super::flush`], entity channels in [`super::entities`].

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use drawbridge_protocol::websocket::Compressor;
use drawbridge_protocol::{CloseCode, Frame};

use super::flush::{feed_of, flush_bytes};
use super::{Connections, Engine};
use crate::class::{Delivery, SlowConsumer};
use crate::connection::Connection;
use crate::feed::{Due, Feed, Kind};
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
    /// Connections for which more waits than may.
    pub(super) over: Vec<ConnId>,
    /// All targets that the publication in hand is for, where they are several.
    pub(super) overlap: &'e [TargetId],
    /// Connections to which something is due by another subscription that this publication is for. If it is of this
    /// channel, it leaves first.
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
            over: Vec::new(),
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

    /// Hands a publication to those to whom earlier events of its channel may be due by another subscription.
    fn deliver_late(
        &mut self,
        id: TargetId,
        late: &[ConnId],
        overlap: &[TargetId],
        publication: &Arc<Publication>,
        delivery: &Delivery,
    ) {
        for conn in late {
            let mut flushed = false;
            for other in overlap.iter().filter(|other| **other != id) {
                if self.holds_channel(*conn, *other, &publication.channel) {
                    self.flush_target(*conn, *other);
                    flushed = true;
                }
            }
            // What is a frame cannot be given up any more: while the socket is blocked that must not go on and on.
            let bound = self.settings.outbound_bytes;
            if flushed && self.connections.get(*conn).is_some_and(|conn| conn.blocked && conn.is_over(bound))
            {
                self.keep_bounds(vec![*conn]);
                continue;
            }
            let slot = self.connections.get(*conn).and_then(|conn| conn.subscription(id)).map(|s| s.slot);
            let (Some(slot), Some(target)) = (slot, self.targets.get_mut(id)) else { continue };
            let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { continue };
            let mut out = outgoing!(self);
            out.hand(id, subscriber, publication, delivery);
            let over = out.over;
            self.keep_bounds(over);
        }
    }

    /// Whether events of this channel are due to a connection by this subscription.
    fn holds_channel(&self, conn: ConnId, target: TargetId, channel: &str) -> bool {
        self.feed(conn, target).is_some_and(|(feed, _)| feed.holds_channel(channel))
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
        let (over, late) = (out.over, out.late);
        self.keep_bounds(over);
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
        let (over, late) = (out.over, out.late);
        self.keep_bounds(over);
        self.deliver_late(id, &late, overlap, publication, &delivery);
    }

    /// Queues a frame to one connection.
    pub(super) fn push(&mut self, id: ConnId, frame: Frame) {
        let bound = self.settings.outbound_bytes;
        let Some(conn) = self.connections.get_mut(id) else { return };
        if conn.queue(frame, bound, &mut self.dirty) {
            self.keep_bounds(vec![id]);
        }
    }

    /// For these more waits than may: their feeds give up what their classes let them, and where that is not enough
    /// they are closed.
    pub(super) fn keep_bounds(&mut self, mut over: Vec<ConnId>) {
        over.dedup();
        for id in over {
            if self.relieve(id) {
                continue;
            }
            // What waits is of no use to a reader that does not read.
            if let Some(conn) = self.connections.get_mut(id) {
                conn.pending = Vec::new();
                self.stats.slow_consumers += 1;
                self.close(id, CloseCode::SlowConsumer, "slow consumer");
            }
        }
    }

    pub(super) fn blocked(&mut self, id: ConnId, mut unsent: Vec<Frame>) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.blocked = true;
        unsent.append(&mut conn.pending);
        conn.pending = unsent;
        conn.pending_bytes = conn.pending.iter().map(Frame::len).sum();
        conn.pending_largest = conn.pending.iter().map(Frame::len).max().unwrap_or(0);
        // Until a socket blocks its feeds may pass the bound: it was about to take them.
        self.keep_bounds(vec![id]);
    }

    /// Lets feeds give up what can be merged, then what is oldest in the largest; says whether that is enough.
    fn relieve(&mut self, id: ConnId) -> bool {
        let bound = self.settings.outbound_bytes;
        let Some(conn) = self.connections.get(id) else { return true };
        // Frames cannot be given up.
        if conn.is_over(bound) {
            return false;
        }
        let (mut may_lose, mut is_strict) = (Vec::new(), false);
        for target in conn.feeds.clone() {
            match self.feed(id, target).map(|(feed, _)| feed.slow_consumer) {
                Some(SlowConsumer::Latest) => {
                    self.shrink(id, target, Feed::conflate);
                    may_lose.push(target);
                }
                Some(SlowConsumer::DropOldest) => may_lose.push(target),
                Some(SlowConsumer::Disconnect) => is_strict = true,
                None => {}
            }
        }
        loop {
            let Some(conn) = self.connections.get(id) else { return true };
            let waits = conn.pending_bytes + conn.feed_bytes;
            if waits <= bound {
                return true;
            }
            let bytes = |target: &TargetId| self.feed(id, *target).map_or(0, |(feed, _)| feed.bytes());
            let largest = may_lose.iter().copied().max_by_key(bytes).filter(|target| bytes(target) > 0);
            let Some(largest) = largest else { return !is_strict };
            // Some more, so that not every event behind it has to make room.
            self.give_up(id, largest, waits - bound + bound / 8);
        }
    }

    fn give_up(&mut self, id: ConnId, target: TargetId, bytes: usize) {
        let mut given_up = 0;
        let is_entity = self.feed(id, target).is_some_and(|(_, is_entity)| is_entity);
        self.shrink(id, target, |feed| {
            if is_entity {
                let told = feed.slow_consumer == SlowConsumer::DropOldest;
                feed.begin_anew(told.then_some(0));
            } else {
                let (dropped, offset) = feed.drop_oldest(bytes);
                given_up = dropped;
                feed.gap = offset.or(feed.gap);
            }
        });
        self.stats.given_up += given_up as u64;
    }

    /// What is due to a connection by a subscription, and whether that is of an entity channel.
    fn feed(&self, id: ConnId, target: TargetId) -> Option<(&Feed, bool)> {
        let slot = self.connections.get(id)?.subscription(target)?.slot as usize;
        let target = self.targets.get(target)?;
        let feed = target.subscribers.get(slot)?.feed.as_deref()?;
        Some((feed, target.world.is_some()))
    }

    fn shrink(&mut self, id: ConnId, target: TargetId, change: impl FnOnce(&mut Feed)) {
        let (Some(conn), Some(of)) = (self.connections.get_mut(id), self.targets.get_mut(target)) else {
            return;
        };
        if let Some(feed) = feed_of(conn, of, target) {
            let before = feed.bytes();
            change(feed);
            conn.feed_bytes = conn.feed_bytes + feed.bytes() - before;
        }
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
                self.over.push(subscriber.conn);
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
        self.keep_bound(subscriber);
    }

    /// Where more waits for a connection than may: it is looked at, or, if it reads, the window is cut short.
    fn keep_bound(&mut self, subscriber: &mut Subscriber) {
        let Some(conn) = self.connections.get_mut(subscriber.conn) else { return };
        if conn.pending_bytes + conn.feed_bytes <= self.bound {
            return;
        }
        if conn.blocked {
            self.over.push(subscriber.conn);
        } else if let Some(feed) = &mut subscriber.feed {
            feed.flush_at_ms = 0;
            conn.mark_dirty(self.dirty);
        }
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
