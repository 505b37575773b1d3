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
use crate::class::{ClassId, Delivery, SlowConsumer};
use crate::connection::Connection;
use crate::feed::{Due, Feed, FeedId, Kind};
use crate::io::{ConnId, Publication};
use crate::permissions;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::targets::{Judgement, Subscriber, TargetId};
use crate::view::{EventScope, View, Views};

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
    pub(super) bound: usize,
    pub(super) connections: &'e mut Connections,
    pub(super) dirty: &'e mut Vec<ConnId>,
    pub(super) timers: &'e mut BTreeSet<(u64, ConnId)>,
    pub(super) stats: &'e mut Stats,
    pub(super) compressor: &'e mut Compressor,
    /// Connections for which more waits than may.
    pub(super) over: Vec<ConnId>,
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
        for id in matched.drain(..) {
            if Some(id) == exact {
                self.deliver_exact(id, publication);
            } else {
                self.deliver_pattern(id, exact, publication);
            }
        }
        self.matched = matched;
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
        self.keep_bounds(over);
    }

    fn deliver_pattern(&mut self, id: TargetId, exact: Option<TargetId>, publication: &Arc<Publication>) {
        let found = self.settings.classes.of_channel(&publication.channel);
        let (class_id, class) = found.map(|(id, class, _)| (id, class)).unzip();
        if class.is_some_and(|class| !class.is_shown_by_pattern()) {
            return;
        }
        // A table that its client keeps is told by its own subscription alone.
        let has_world = |id: &TargetId| self.targets.get(*id).is_some_and(|target| target.world.is_some());
        let table = exact.filter(has_world);
        let by = By { target: id, class: class_id, delivery: delivery_of(&self.settings, class_id) };
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
        let mut out = outgoing!(self);
        for slot in slots {
            let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { continue };
            let Some(conn) = out.connections.get_mut(subscriber.conn) else { continue };
            if conn.last_turn == out.turn || table.is_some_and(|exact| conn.subscription(exact).is_some()) {
                continue;
            }
            if may_see(&self.settings, &mut self.views, conn, id, publication, out.turn) {
                out.hand(&by, subscriber, publication);
            } else {
                out.stats.hidden += 1;
            }
        }
        let over = out.over;
        self.keep_bounds(over);
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
        for feed in conn.feeds.clone() {
            match self.policy_of(feed) {
                SlowConsumer::Latest => {
                    self.shrink(id, feed, Feed::conflate);
                    may_lose.push(feed);
                }
                SlowConsumer::DropOldest => may_lose.push(feed),
                SlowConsumer::Disconnect => is_strict = true,
            }
        }
        loop {
            let Some(conn) = self.connections.get_mut(id) else { return true };
            let waits = conn.pending_bytes + conn.feed_bytes;
            if waits <= bound {
                return true;
            }
            let mut bytes = |feed| feed_of(conn, &mut self.targets, feed).map_or(0, |feed| feed.bytes());
            // Of the largest the first.
            let sizes = may_lose.iter().rev().map(|feed| (bytes(*feed), *feed));
            let largest = sizes.filter(|(bytes, _)| *bytes > 0).max_by_key(|(bytes, _)| *bytes);
            let Some((_, largest)) = largest else { return !is_strict };
            // Some more, so that not every event behind it has to make room.
            self.give_up(id, largest, waits - bound + bound / 8);
        }
    }

    fn give_up(&mut self, id: ConnId, feed: FeedId, bytes: usize) {
        let policy = self.policy_of(feed);
        let mut given_up = 0;
        self.shrink(id, feed, |of| match feed {
            FeedId::Table(target) => of.begin_anew((policy == SlowConsumer::DropOldest).then_some(target)),
            FeedId::Stream(_) => given_up = of.drop_oldest(bytes),
        });
        self.stats.given_up += given_up as u64;
    }

    /// What is done when too much waits in a feed.
    fn policy_of(&self, feed: FeedId) -> SlowConsumer {
        let class = match feed {
            FeedId::Table(target) => self.targets.get(target).and_then(|target| target.class),
            FeedId::Stream(class) => class,
        };
        delivery_of(&self.settings, class).slow_consumer
    }

    /// Lets a feed merge or give up something.
    pub(super) fn shrink(&mut self, id: ConnId, feed: FeedId, change: impl FnOnce(&mut Feed)) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        let Some(of) = feed_of(conn, &mut self.targets, feed) else { return };
        let before = of.bytes();
        change(of);
        let now = of.bytes();
        conn.feed_bytes = conn.feed_bytes + now - before;
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
    fn hand(&mut self, by: &By, subscriber: &Subscriber, publication: &Arc<Publication>) {
        let Some(conn) = self.connections.get_mut(subscriber.conn) else { return };
        if !subscriber.live || !conn.is_open() || subscriber.is_own_past(conn.connection, publication) {
            return;
        }
        conn.last_turn = self.turn;
        self.stats.deliveries += 1;
        let waits = conn.streams.iter().position(|(class, _)| *class == by.class);
        if by.delivery.is_immediate() || !must_line_up(conn, waits.is_some(), &by.delivery, self.bound) {
            if conn.queue(event_frame(conn, publication, self.compressor), self.bound, self.dirty) {
                self.over.push(subscriber.conn);
            }
            return;
        }
        let mut feed = waits.map(|at| conn.streams.swap_remove(at).1).unwrap_or_default();
        let due = Due::new(publication.clone(), Kind::Event, by.target, true, self.now_ms);
        self.offer(subscriber.conn, FeedId::Stream(by.class), &mut feed, due, &by.delivery);
        if let Some(conn) = self.connections.get_mut(subscriber.conn) {
            conn.streams.push((by.class, feed));
        }
    }

    /// Lines something up in a feed, and keeps the bound.
    pub(super) fn offer(
        &mut self,
        id: ConnId,
        feed_id: FeedId,
        feed: &mut Feed,
        due: Due,
        delivery: &Delivery,
    ) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        let is_entity = matches!(due.kind, Some(Kind::Entity(..)));
        let bytes = feed.bytes();
        self.stats.conflated += feed.settle();
        let conflate = if is_entity { delivery.conflates_entities() } else { delivery.conflate };
        self.stats.conflated += u64::from(feed.push(due, conflate));
        conn.feed_bytes = conn.feed_bytes + feed.bytes() - bytes;
        schedule(conn, feed_id, feed, delivery, self.now_ms, self.dirty, self.timers);
        if conn.pending_bytes + conn.feed_bytes <= self.bound {
            return;
        }
        if conn.blocked {
            self.over.push(id);
        } else {
            // It reads: the window is cut short.
            feed.flush_at_ms = 0;
            conn.mark_dirty(self.dirty);
        }
    }
}

/// Whether what is due goes into a feed, where it can still be merged or given up, and not into a frame at once.
/// `waits`: something is in that feed.
pub(super) fn must_line_up(conn: &Connection, waits: bool, delivery: &Delivery, bound: usize) -> bool {
    delivery.batch_ms > 0
        || delivery.conflate
        || conn.blocked
        || waits
        || conn.pending_bytes >= flush_bytes(bound)
}

/// Sees to it that a feed with something in it leaves when it is due.
fn schedule(
    conn: &mut Connection,
    id: FeedId,
    feed: &mut Feed,
    delivery: &Delivery,
    now_ms: u64,
    dirty: &mut Vec<ConnId>,
    timers: &mut BTreeSet<(u64, ConnId)>,
) {
    if feed.queued || feed.is_empty() {
        return;
    }
    feed.queued = true;
    conn.feeds.push(id);
    feed.flush_at_ms = if delivery.batch_ms == 0 { 0 } else { delivery.window_end_ms(now_ms) };
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
            return self.pending_bytes + self.feed_bytes > bound;
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
pub(super) fn delivery_of(settings: &Settings, class: Option<ClassId>) -> Delivery {
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
