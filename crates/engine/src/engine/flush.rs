//! What is due leaves: feeds become frames when their window ends, at the end of a turn, or before something that
//! must follow them. A batch is one array; a snapshot goes out in parts, as fast as its socket takes them.

use drawbridge_protocol::event::encode_view_enter;
use drawbridge_protocol::websocket::{Compressor, Window, payload_of, stored};
use drawbridge_protocol::{Encoding, Frame, MAX_BATCH, ServerMessage, codec};

use super::Engine;
use super::deliver::{delivery_of, event_frame};
use crate::area::Shape;
use crate::audience::AudienceId;
use crate::class::Delivery;
use crate::connection::Connection;
use crate::feed::{Due, Feed, Kind, Snapshot, SnapshotState};
use crate::io::{ConnId, Publication};
use crate::stats::Stats;
use crate::targets::{Target, TargetId};
use crate::world::Change;

/// A turn makes about so much of what is due into frames; the rest follows when the socket has taken that. What is
/// a frame can no longer be replaced by something newer.
const FLUSH_BYTES: usize = 64 * 1024;

/// [`FLUSH_BYTES`] for connections with this bound: frames alone must not pass it, for they can only be sent.
pub(super) fn flush_bytes(bound: usize) -> usize {
    FLUSH_BYTES.min(bound / 2).max(1)
}

/// Entities in one `VIEW_ENTER`, and keys in one `VIEW_LEAVE`.
const MAX_ENTITIES: usize = 512;

/// Which feeds leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those whose time has come.
    Due,
    /// All of them.
    All,
}

/// What making dues into frames needs of the engine, beside the connection and the target in hand.
struct Leaving<'e> {
    now_ms: u64,
    /// See [`flush_bytes`].
    max_bytes: usize,
    stats: &'e mut Stats,
    compressor: &'e mut Compressor,
}

macro_rules! leaving {
    ($engine:expr) => {
        Leaving {
            now_ms: $engine.now.mono_ms,
            max_bytes: flush_bytes($engine.settings.outbound_bytes),
            stats: &mut $engine.stats,
            compressor: &mut $engine.compressor,
        }
    };
}

impl Engine {
    /// Makes what is due to a connection now into frames; it is looked at again where more is due than fits.
    pub(super) fn flush_due(&mut self, id: ConnId) {
        self.flush_feeds(id, Which::Due);
    }

    /// As [`Engine::flush_due`], whatever the windows say: the connection is about to be closed.
    pub(super) fn flush_all(&mut self, id: ConnId) {
        if self.connections.get(id).is_some_and(|conn| !conn.blocked) {
            self.flush_feeds(id, Which::All);
        }
    }

    fn flush_feeds(&mut self, id: ConnId, which: Which) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        if conn.feeds.is_empty() {
            return;
        }
        let now_ms = self.now.mono_ms;
        let mut leaving = leaving!(self);
        let mut next_ms = 0;
        // Who has had some of the room is behind the others next time.
        let (mut kept, mut served) = (Vec::new(), Vec::new());
        let mut more = false;
        for target_id in std::mem::take(&mut conn.feeds) {
            let Some(target) = self.targets.get_mut(target_id) else { continue };
            let delivery = delivery_of(&self.settings, target.class);
            let (left, list) = if which == Which::Due && feed_due_at(conn, target, target_id) > now_ms {
                (Left::Waits, &mut kept)
            } else if conn.pending_bytes >= leaving.max_bytes && which == Which::Due {
                (Left::More, &mut kept)
            } else {
                (leaving.feed(conn, target, target_id, &delivery), &mut served)
            };
            match left {
                Left::Nothing => continue,
                Left::Waits => {
                    let at = feed_due_at(conn, target, target_id);
                    next_ms = if next_ms == 0 { at } else { at.min(next_ms) };
                }
                Left::More => more = true,
            }
            list.push(target_id);
        }
        kept.append(&mut served);
        conn.feeds = kept;
        conn.deadlines.flush_ms = next_ms;
        conn.arm(&mut self.timers);
        if more {
            conn.mark_dirty(&mut self.dirty);
        }
    }

    /// What one subscription was due before something that must follow it becomes frames now. While the socket does
    /// not read, what an entity channel has due stays, key by key: so it is told as it is when it leaves, and what
    /// another view hides meanwhile is taken back.
    pub(super) fn flush_target(&mut self, id: ConnId, target_id: TargetId) {
        let (Some(conn), Some(target)) = (self.connections.get_mut(id), self.targets.get_mut(target_id))
        else {
            return;
        };
        let has_world = target.world.is_some();
        let Some(feed) = feed_of(conn, target, target_id).filter(|feed| feed.snapshot.is_none()) else {
            return;
        };
        if conn.blocked && has_world {
            let before = feed.bytes();
            feed.conflate();
            conn.feed_bytes = conn.feed_bytes + feed.bytes() - before;
            return;
        }
        let delivery = Delivery { max_updates: None, ..delivery_of(&self.settings, target.class) };
        let mut leaving = leaving!(self);
        while leaving.feed(conn, target, target_id, &delivery) == Left::More {}
        conn.feeds.retain(|feed| *feed != target_id);
        if !conn.pending.is_empty() {
            conn.mark_dirty(&mut self.dirty);
        }
    }

    /// All that is in view is told anew: after subscribing, and wherever something may be missing.
    pub(super) fn want_snapshot(&mut self, id: ConnId, target_id: TargetId) {
        let (Some(conn), Some(target)) = (self.connections.get_mut(id), self.targets.get_mut(target_id))
        else {
            return;
        };
        let Some(slot) = conn.subscription(target_id).map(|subscription| subscription.slot) else { return };
        let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { return };
        if !target.world.as_ref().is_some_and(|world| world.loaded) || !subscriber.live || !conn.is_open() {
            return;
        }
        let feed = subscriber.feed.get_or_insert_default();
        feed.slow_consumer = delivery_of(&self.settings, target.class).slow_consumer;
        conn.feed_bytes -= feed.bytes();
        feed.begin_anew(None);
        feed.flush_at_ms = 0;
        if !std::mem::replace(&mut feed.queued, true) {
            conn.feeds.push(target_id);
        }
        conn.mark_dirty(&mut self.dirty);
    }
}

/// What is left of a feed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// For its time.
    Waits,
    /// More that is due now.
    More,
}

pub(super) fn feed_of<'t>(
    conn: &Connection,
    target: &'t mut Target,
    target_id: TargetId,
) -> Option<&'t mut Feed> {
    let slot = conn.subscription(target_id)?.slot as usize;
    target.subscribers.get_mut(slot)?.feed.as_deref_mut()
}

fn feed_due_at(conn: &Connection, target: &mut Target, target_id: TargetId) -> u64 {
    feed_of(conn, target, target_id).map_or(0, |feed| feed.flush_at_ms)
}

impl Leaving<'_> {
    /// Makes what is due of one subscription into frames.
    fn feed(
        &mut self,
        conn: &mut Connection,
        target: &mut Target,
        target_id: TargetId,
        delivery: &Delivery,
    ) -> Left {
        let Some(slot) = conn.subscription(target_id).map(|subscription| subscription.slot) else {
            return Left::Nothing;
        };
        let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { return Left::Nothing };
        let (audience, is_live) = (subscriber.audience, subscriber.live);
        let Some(mut feed) = subscriber.feed.take() else { return Left::Nothing };
        let bytes = feed.bytes();
        let mut more = false;
        if let Some(offset) = feed.gap.take() {
            let frame = resync(conn.encoding, target, offset);
            conn.put(frame);
            self.stats.resyncs += 1;
        }
        let may_tell = is_live && target.world.as_ref().is_none_or(|world| world.loaded);
        // Without a table, or while its views are not known, nothing is told: what ends that brings another snapshot.
        if let Some(snapshot) = feed.snapshot.take().filter(|_| may_tell) {
            feed.snapshot = self.snapshot(conn, target, audience, snapshot).map(SnapshotState::Running);
            more = feed.snapshot.is_some();
        }
        if feed.snapshot.is_none() {
            let eye = eye_of(target, audience);
            let (dues, rest) = feed.take(self.now_ms, delivery, eye, self.max_bytes);
            more = rest;
            let messages = messages(conn.encoding, &target.subject.name, &dues, self.stats);
            conn.put_all(&messages, delivery.batch_ms > 0, self.compressor);
        }
        conn.feed_bytes = conn.feed_bytes + feed.bytes() - bytes;
        let left = match () {
            () if feed.is_empty() => Left::Nothing,
            () if more => Left::More,
            () => Left::Waits,
        };
        feed.queued = !matches!(left, Left::Nothing);
        feed.flush_at_ms = match left {
            Left::Waits => (self.now_ms / delivery.batch_ms.max(1) + 1) * delivery.batch_ms.max(1),
            _ => 0,
        };
        if feed.queued
            && let Some(subscriber) = target.subscribers.get_mut(slot as usize)
        {
            // An empty one is not kept: an idle subscription owns nothing.
            subscriber.feed = Some(feed);
        }
        left
    }

    /// Tells the next part of all that is in view; gives what is left.
    fn snapshot(
        &mut self,
        conn: &mut Connection,
        target: &mut Target,
        audience: AudienceId,
        snapshot: SnapshotState,
    ) -> Option<Snapshot> {
        let (Some(world), Some(audiences)) = (&mut target.world, &target.audiences) else { return None };
        let mut snapshot = match snapshot {
            SnapshotState::Running(snapshot) => snapshot,
            SnapshotState::Wanted => {
                self.stats.snapshots += 1;
                Snapshot::new(world.seen_by(audiences, audience))
            }
        };
        let reset = snapshot.is_fresh();
        let (mut elements, mut bytes) = (Vec::new(), 0);
        while elements.len() < MAX_ENTITIES
            && bytes < self.max_bytes
            && let Some(id) = snapshot.pop()
        {
            if let Some(publication) = world.state_seen(audiences, audience, id) {
                let element = publication.element(conn.encoding).clone();
                bytes += element.len();
                elements.push(element);
            }
        }
        self.stats.view_enters += elements.len() as u64;
        let complete = snapshot.is_done();
        conn.put(encode_view_enter(conn.encoding, &target.subject.name, reset, complete, &elements));
        (!complete).then_some(snapshot)
    }
}

fn eye_of(target: &Target, audience: AudienceId) -> Option<&Shape> {
    target.audiences.as_ref()?.get(audience)?.eye.as_ref()?.shape.as_ref()
}

fn resync(encoding: Encoding, target: &Target, offset: u64) -> Frame {
    let position = target.position.as_ref();
    let message = ServerMessage::Resync {
        channel: &target.subject.name,
        reason: "slow_consumer",
        epoch: position.map(|position| &*position.epoch),
        offset: position.map(|position| if offset > 0 { offset } else { position.offset }),
    };
    codec::encode_frame(encoding, &message)
}

/// One message on its way.
enum Message<'d> {
    /// An event, which others get too.
    Event(&'d Publication),
    /// What is for this connection alone.
    Own(Frame),
}

/// Dues as messages; neighbours of one kind share one.
fn messages<'d>(encoding: Encoding, channel: &str, dues: &'d [Due], stats: &mut Stats) -> Vec<Message<'d>> {
    let mut messages = Vec::with_capacity(dues.len());
    let mut at = 0;
    while let Some(first) = dues.get(at) {
        let change = match first.kind {
            Some(Kind::Entity(_, change)) if change != Change::Update => change,
            _ => {
                messages.push(Message::Event(&first.publication));
                at += 1;
                continue;
            }
        };
        let alike = |due: &&Due| matches!(due.kind, Some(Kind::Entity(_, other)) if other == change);
        let run: Vec<&Due> = dues.iter().skip(at).take_while(alike).take(MAX_ENTITIES).collect();
        at += run.len();
        if change == Change::Enter {
            stats.view_enters += run.len() as u64;
            let elements: Vec<_> = run.iter().map(|due| due.publication.element(encoding).clone()).collect();
            messages.push(Message::Own(encode_view_enter(encoding, channel, false, true, &elements)));
        } else {
            stats.view_leaves += run.len() as u64;
            let keys: Vec<&str> = run.iter().filter_map(|due| due.publication.event.key()).collect();
            let reason = if change == Change::Remove { "removed" } else { "view" };
            let message = ServerMessage::ViewLeave { channel, keys: &keys, reason };
            messages.push(Message::Own(codec::encode_frame(encoding, &message)));
        }
    }
    messages
}

impl Connection {
    /// Lines a frame up to be written this turn.
    pub(super) fn put(&mut self, frame: Frame) {
        self.pending_bytes += frame.len();
        self.pending_largest = self.pending_largest.max(frame.len());
        self.pending.push(frame);
    }

    /// Lines messages up; `together`: as arrays.
    fn put_all(&mut self, messages: &[Message<'_>], together: bool, compressor: &mut Compressor) {
        let most = if together { MAX_BATCH } else { 1 };
        for batch in messages.chunks(most) {
            let frame = match (batch, self.deflate) {
                ([Message::Own(frame)], _) => frame.clone(),
                ([Message::Event(event)], _) => event_frame(self, event, compressor),
                (batch, Some(window)) => deflated(self.encoding, window, batch, compressor),
                (batch, None) => array(self.encoding, batch),
            };
            self.put(frame);
        }
    }
}

fn array(encoding: Encoding, batch: &[Message<'_>]) -> Frame {
    let frames = batch.iter().map(|message| match message {
        Message::Event(event) => event.frame(encoding),
        Message::Own(frame) => frame,
    });
    codec::encode_array(encoding, frames)
}

/// A batch in which each event is compressed once for all; plain where none of them is worth it.
fn deflated(encoding: Encoding, window: Window, batch: &[Message<'_>], compressor: &mut Compressor) -> Frame {
    let mut pays = false;
    let mut piece = |message: &Message<'_>| match message {
        Message::Own(frame) => stored(payload_of(frame)),
        Message::Event(event) => match event.piece(encoding, window, compressor) {
            Some(piece) => {
                pays = true;
                piece.clone()
            }
            None => stored(payload_of(event.frame(encoding))),
        },
    };
    let pieces: Vec<_> = batch.iter().map(&mut piece).collect();
    if pays { codec::deflated_array(encoding, &pieces) } else { array(encoding, batch) }
}
