//! What is due leaves: feeds become frames when their window ends, at the end of a turn, or before something that
//! must follow them. A batch is one array; a snapshot goes out in parts, as fast as its socket takes them.

use std::sync::Arc;

use drawbridge_protocol::event::encode_view_enter;
use drawbridge_protocol::websocket::{Compressor, Window, payload_of, stored};
use drawbridge_protocol::{Encoding, Frame, MAX_BATCH, ServerMessage, codec};

use smallvec::SmallVec;

use super::Engine;
use super::deliver::{delivery_of, event_frame};
use crate::area::Shape;
use crate::audience::AudienceId;
use crate::class::{ClassId, Delivery};
use crate::connection::{Connection, Updates};
use crate::feed::{Due, Feed, FeedId, Kind, Snapshot, SnapshotState};
use crate::io::{ConnId, Publication};
use crate::settings::Settings;
use crate::stats::Stats;
use crate::targets::{Target, TargetId, Targets};
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

/// What making dues into frames needs of the engine, beside the connection in hand.
struct Leaving<'e> {
    now_ms: u64,
    /// See [`flush_bytes`].
    max_bytes: usize,
    settings: &'e Settings,
    targets: &'e mut Targets,
    stats: &'e mut Stats,
    compressor: &'e mut Compressor,
    /// What leaves in arrays, and about how many bytes that is.
    together: Vec<Message>,
    bytes: usize,
}

macro_rules! leaving {
    ($engine:expr) => {
        Leaving {
            now_ms: $engine.now.mono_ms,
            max_bytes: flush_bytes($engine.settings.outbound_bytes),
            settings: &$engine.settings,
            targets: &mut $engine.targets,
            stats: &mut $engine.stats,
            compressor: &mut $engine.compressor,
            together: Vec::new(),
            bytes: 0,
        }
    };
}

impl Engine {
    /// All that is due to a connection becomes frames, whatever the windows say: it is about to be closed. What is in view
    /// and still to be told is left out.
    pub(super) fn flush_all(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get(id).filter(|conn| !conn.blocked) else { return };
        for feed in conn.feeds.clone() {
            match feed {
                FeedId::Table(target) => self.flush_target(id, target),
                FeedId::Stream(_) => self.flush_whole(id, feed),
            }
        }
    }

    /// Makes what is due to a connection now into frames; it is looked at again where more is due than fits.
    pub(super) fn flush_due(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        if conn.feeds.is_empty() {
            return;
        }
        // More waits than may, and it reads: what is chosen in a window does not matter then.
        let chosen = conn.pending_bytes + conn.feed_bytes <= self.settings.outbound_bytes;
        let now_ms = self.now.mono_ms;
        let mut leaving = leaving!(self);
        let mut next_ms = 0;
        // Who has had some of the room is behind the others next time.
        let (mut kept, mut served) = (Vec::new(), Vec::new());
        let mut more = false;
        for feed in std::mem::take(&mut conn.feeds) {
            let (left, list) = if leaving.due_at(conn, feed) > now_ms {
                (Left::Waits, &mut kept)
            } else if conn.pending_bytes + leaving.bytes >= leaving.max_bytes {
                (Left::More, &mut kept)
            } else {
                let before = conn.pending_bytes + leaving.bytes;
                let left = leaving.feed(conn, feed, chosen);
                let has_had = conn.pending_bytes + leaving.bytes > before;
                (left, if has_had { &mut served } else { &mut kept })
            };
            match left {
                Left::Nothing => continue,
                Left::Waits => {
                    let at = leaving.due_at(conn, feed);
                    next_ms = if next_ms == 0 { at } else { at.min(next_ms) };
                }
                Left::More => more = true,
            }
            list.push(feed);
        }
        leaving.end(conn);
        kept.append(&mut served);
        conn.feeds = kept;
        conn.deadlines.flush_ms = next_ms;
        conn.arm(&mut self.timers);
        if more {
            conn.mark_dirty(&mut self.dirty);
        }
    }

    /// What one subscription was due before something that must follow it becomes frames now, with all that its class
    /// has due. While the socket does not read, what an entity channel has due stays, key by key: so it is told as it is
    /// when it leaves, and what another view hides meanwhile is taken back.
    pub(super) fn flush_target(&mut self, id: ConnId, target_id: TargetId) {
        let (Some(conn), Some(target)) = (self.connections.get_mut(id), self.targets.get_mut(target_id))
        else {
            return;
        };
        if target.world.is_none() {
            let class = (!target.subject.pattern).then_some(target.class);
            return self.flush_streams(id, class);
        }
        if table_feed(conn, target, target_id).is_none_or(|feed| feed.snapshot.is_some()) {
            return;
        }
        if conn.blocked {
            self.shrink(id, FeedId::Table(target_id), Feed::conflate);
        } else {
            self.flush_whole(id, FeedId::Table(target_id));
        }
    }

    /// As [`Engine::flush_target`], of what is due of a channel that may come through patterns.
    pub(super) fn flush_channel(&mut self, id: ConnId, channel: &str) {
        let class = self.settings.classes.of_channel(channel).map(|(class, _, _)| class);
        self.flush_streams(id, Some(class));
    }

    /// What is due of the streams of this class, or of all.
    fn flush_streams(&mut self, id: ConnId, of: Option<Option<ClassId>>) {
        let Some(conn) = self.connections.get(id) else { return };
        let classes = conn.streams.iter().map(|(class, _)| *class);
        let classes: SmallVec<[_; 2]> = classes.filter(|class| of.is_none_or(|of| of == *class)).collect();
        for class in classes {
            self.flush_whole(id, FeedId::Stream(class));
        }
    }

    fn flush_whole(&mut self, id: ConnId, feed: FeedId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        let mut leaving = leaving!(self);
        while leaving.feed(conn, feed, false) == Left::More {}
        leaving.end(conn);
        conn.feeds.retain(|other| *other != feed);
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
        conn.feed_bytes -= feed.bytes();
        feed.begin_anew(None);
        feed.flush_at_ms = 0;
        if !std::mem::replace(&mut feed.queued, true) {
            conn.feeds.push(FeedId::Table(target_id));
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

/// A feed of a connection, wherever it is held.
pub(super) fn feed_of<'f>(
    conn: &'f mut Connection,
    targets: &'f mut Targets,
    feed: FeedId,
) -> Option<&'f mut Feed> {
    match feed {
        FeedId::Stream(class) => conn.stream(class),
        FeedId::Table(id) => targets.get_mut(id).and_then(|target| table_feed(conn, target, id)),
    }
}

fn table_feed<'t>(conn: &Connection, target: &'t mut Target, target_id: TargetId) -> Option<&'t mut Feed> {
    let slot = conn.subscription(target_id)?.slot as usize;
    target.subscribers.get_mut(slot)?.feed.as_deref_mut()
}

impl Leaving<'_> {
    fn due_at(&mut self, conn: &mut Connection, feed: FeedId) -> u64 {
        feed_of(conn, self.targets, feed).map_or(0, |feed| feed.flush_at_ms)
    }

    /// Makes what is due in a feed into frames. `chosen`: no more updates than its class allows in a window.
    fn feed(&mut self, conn: &mut Connection, feed: FeedId, chosen: bool) -> Left {
        match feed {
            FeedId::Stream(class) => self.stream(conn, class, chosen),
            FeedId::Table(target) => self.table(conn, target, chosen),
        }
    }

    fn stream(&mut self, conn: &mut Connection, class: Option<ClassId>, chosen: bool) -> Left {
        let Some(at) = conn.streams.iter().position(|(of, _)| *of == class) else { return Left::Nothing };
        let (_, mut feed) = conn.streams.swap_remove(at);
        let (bytes, delivery) = (feed.bytes(), self.delivery(conn, class, chosen));
        let mut messages: Vec<Message> = Vec::new();
        for (target, offset) in std::mem::take(&mut feed.gaps) {
            if let Some(target) = self.targets.get(target) {
                self.stats.resyncs += 1;
                messages.push(Message::Own(resync(conn.encoding, target, offset)));
            }
        }
        let (dues, more) = feed.take(self.now_ms, &delivery, None, self.max_bytes);
        self.count(conn, class, &delivery, &dues);
        messages.extend(dues.into_iter().map(|due| Message::Event(due.publication)));
        self.put(conn, messages, &delivery);
        conn.feed_bytes = conn.feed_bytes + feed.bytes() - bytes;
        let left = self.left(&mut feed, more, &delivery);
        if left != Left::Nothing {
            // An empty one is not kept: an idle connection owns nothing.
            conn.streams.push((class, feed));
        }
        left
    }

    fn table(&mut self, conn: &mut Connection, target_id: TargetId, chosen: bool) -> Left {
        let slot = conn.subscription(target_id).map(|subscription| subscription.slot as usize);
        let class = self.targets.get(target_id).and_then(|target| target.class);
        let delivery = self.delivery(conn, class, chosen);
        let (Some(slot), Some(target)) = (slot, self.targets.get_mut(target_id)) else {
            return Left::Nothing;
        };
        let Some(subscriber) = target.subscribers.get_mut(slot) else { return Left::Nothing };
        let (audience, is_live) = (subscriber.audience, subscriber.live);
        let Some(mut feed) = subscriber.feed.take() else { return Left::Nothing };
        let bytes = feed.bytes();
        self.stats.conflated += feed.settle();
        for (_, offset) in std::mem::take(&mut feed.gaps) {
            conn.put(resync(conn.encoding, target, offset));
            self.stats.resyncs += 1;
        }
        let mut more = false;
        let may_tell = is_live && target.world.as_ref().is_none_or(|world| world.loaded);
        match feed.snapshot.take() {
            Some(snapshot) if may_tell => {
                let rest = tell_snapshot(conn, target, audience, snapshot, self.max_bytes, self.stats);
                feed.snapshot = rest.map(SnapshotState::Running);
                more = feed.snapshot.is_some();
            }
            // Without a table, or while its views are not known, nothing is told, nor what is due behind it: what ends that
            // brings another snapshot.
            Some(_) => feed.clear(),
            None => {}
        }
        if feed.snapshot.is_none() {
            let eye = eye_of(target, audience);
            let (dues, rest) = feed.take(self.now_ms, &delivery, eye, self.max_bytes);
            more = rest;
            let channel = target.subject.name.clone();
            self.count(conn, class, &delivery, &dues);
            let messages = messages(conn.encoding, &channel, dues, self.stats);
            self.put(conn, messages, &delivery);
        }
        conn.feed_bytes = conn.feed_bytes + feed.bytes() - bytes;
        let left = self.left(&mut feed, more, &delivery);
        let subscriber = self.targets.get_mut(target_id).and_then(|target| target.subscribers.get_mut(slot));
        if left != Left::Nothing
            && let Some(subscriber) = subscriber
        {
            // An empty one is not kept: an idle subscription owns nothing.
            subscriber.feed = Some(feed);
        }
        left
    }

    /// How events of a class leave; `chosen`: of the updates that it allows in a window, what is left of them.
    fn delivery(&self, conn: &Connection, class: Option<ClassId>, chosen: bool) -> Delivery {
        let delivery = delivery_of(self.settings, class);
        let window = delivery.window(self.now_ms);
        let told = conn.updates.iter().find(|updates| (updates.class, updates.window) == (class, window));
        let told = told.map_or(0, |updates| updates.count);
        let max_updates = delivery.max_updates.filter(|_| chosen).map(|max| max.saturating_sub(told));
        Delivery { max_updates, ..delivery }
    }

    /// Counts what leaves.
    fn count(&mut self, conn: &mut Connection, class: Option<ClassId>, delivery: &Delivery, dues: &[Due]) {
        if delivery.batch_ms > 0 {
            self.bytes += dues.iter().map(Due::bytes).sum::<usize>();
        }
        if delivery_of(self.settings, class).max_updates.is_none() {
            return;
        }
        let window = delivery.window(self.now_ms);
        let told = dues.iter().filter(|due| due.is_update()).count() as u32;
        match conn.updates.iter_mut().find(|updates| updates.class == class) {
            Some(updates) if updates.window == window => updates.count += told,
            Some(updates) => *updates = Updates { class, window, count: told },
            None => conn.updates.push(Updates { class, window, count: told }),
        }
    }

    /// Lines messages up: those of a class with a window leave in arrays, whatever channels they are of.
    fn put(&mut self, conn: &mut Connection, messages: Vec<Message>, delivery: &Delivery) {
        if delivery.batch_ms > 0 {
            self.together.extend(messages);
        } else {
            messages.iter().for_each(|message| conn.put_message(message, self.compressor));
        }
    }

    /// What is to leave in arrays is made into frames.
    fn end(mut self, conn: &mut Connection) {
        for batch in std::mem::take(&mut self.together).chunks(MAX_BATCH) {
            let frame = match (batch, conn.deflate) {
                ([message], _) => {
                    conn.put_message(message, self.compressor);
                    continue;
                }
                (batch, Some(window)) => deflated(conn.encoding, window, batch, self.compressor),
                (batch, None) => array(conn.encoding, batch),
            };
            conn.put(frame);
        }
    }

    /// When what is left of a feed leaves.
    fn left(&self, feed: &mut Feed, more: bool, delivery: &Delivery) -> Left {
        let left = match () {
            () if feed.is_empty() => Left::Nothing,
            () if more => Left::More,
            () => Left::Waits,
        };
        feed.queued = left != Left::Nothing;
        feed.flush_at_ms = match left {
            Left::Waits => delivery.window_end_ms(self.now_ms),
            _ => 0,
        };
        left
    }
}

/// Tells the next part of all that is in view; gives what is left.
fn tell_snapshot(
    conn: &mut Connection,
    target: &mut Target,
    audience: AudienceId,
    snapshot: SnapshotState,
    max_bytes: usize,
    stats: &mut Stats,
) -> Option<Snapshot> {
    let (Some(world), Some(audiences)) = (&mut target.world, &target.audiences) else { return None };
    let mut snapshot = match snapshot {
        SnapshotState::Running(snapshot) => snapshot,
        SnapshotState::Wanted => {
            stats.snapshots += 1;
            Snapshot::new(world.seen_by(audiences, audience))
        }
    };
    let reset = snapshot.is_fresh();
    let (mut elements, mut bytes) = (Vec::new(), 0);
    while elements.len() < MAX_ENTITIES
        && bytes < max_bytes
        && let Some(id) = snapshot.pop()
    {
        if let Some(publication) = world.state_seen(audiences, audience, id) {
            let element = publication.element(conn.encoding).clone();
            bytes += element.len();
            elements.push(element);
        }
    }
    stats.view_enters += elements.len() as u64;
    let complete = snapshot.is_done();
    conn.put(encode_view_enter(conn.encoding, &target.subject.name, reset, complete, &elements));
    (!complete).then_some(snapshot)
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
enum Message {
    /// An event, which others get too.
    Event(Arc<Publication>),
    /// What is for this connection alone.
    Own(Frame),
}

impl Message {
    /// As an element of an array.
    fn body(&self, encoding: Encoding) -> &[u8] {
        match self {
            Message::Event(event) => event.message(encoding),
            Message::Own(frame) => payload_of(frame),
        }
    }
}

/// Dues as messages; neighbours of one kind share one.
fn messages(encoding: Encoding, channel: &str, dues: Vec<Due>, stats: &mut Stats) -> Vec<Message> {
    let mut messages = Vec::with_capacity(dues.len());
    let mut dues = dues.into_iter().peekable();
    while let Some(first) = dues.next() {
        let change = match first.kind {
            Some(Kind::Entity(_, change)) if change != Change::Update => change,
            _ => {
                messages.push(Message::Event(first.publication));
                continue;
            }
        };
        let mut run = vec![first];
        let alike = |due: &Due| matches!(due.kind, Some(Kind::Entity(_, other)) if other == change);
        while run.len() < MAX_ENTITIES
            && let Some(due) = dues.next_if(alike)
        {
            run.push(due);
        }
        messages.push(Message::Own(in_or_out_of_view(encoding, channel, change, &run, stats)));
    }
    messages
}

/// What came into view together, or went out of it.
fn in_or_out_of_view(
    encoding: Encoding,
    channel: &str,
    change: Change,
    run: &[Due],
    stats: &mut Stats,
) -> Frame {
    if change == Change::Enter {
        stats.view_enters += run.len() as u64;
        let elements: Vec<_> = run.iter().map(|due| due.publication.element(encoding).clone()).collect();
        return encode_view_enter(encoding, channel, false, true, &elements);
    }
    stats.view_leaves += run.len() as u64;
    let keys: Vec<&str> = run.iter().filter_map(|due| due.publication.event.key()).collect();
    let reason = if change == Change::Remove { "removed" } else { "view" };
    codec::encode_frame(encoding, &ServerMessage::ViewLeave { channel, keys: &keys, reason })
}

impl Connection {
    /// Lines a frame up to be written this turn.
    pub(super) fn put(&mut self, frame: Frame) {
        self.pending_bytes += frame.len();
        self.pending_largest = self.pending_largest.max(frame.len());
        self.pending.push(frame);
    }

    fn put_message(&mut self, message: &Message, compressor: &mut Compressor) {
        let frame = match message {
            Message::Own(frame) => frame.clone(),
            Message::Event(event) => event_frame(self, event, compressor),
        };
        self.put(frame);
    }
}

fn array(encoding: Encoding, batch: &[Message]) -> Frame {
    let messages: Vec<&[u8]> = batch.iter().map(|message| message.body(encoding)).collect();
    codec::encode_array(encoding, &messages)
}

/// A batch in which each event is compressed once for all; plain where none of them is worth it.
fn deflated(encoding: Encoding, window: Window, batch: &[Message], compressor: &mut Compressor) -> Frame {
    let mut pays = false;
    let mut piece = |message: &Message| match message {
        Message::Own(frame) => stored(payload_of(frame)),
        Message::Event(event) => match event.piece(encoding, window, compressor) {
            Some(piece) => {
                pays = true;
                piece.clone()
            }
            None => stored(event.message(encoding)),
        },
    };
    let pieces: Vec<_> = batch.iter().map(&mut piece).collect();
    if pays { codec::deflated_array(encoding, &pieces) } else { array(encoding, batch) }
}
