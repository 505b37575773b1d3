//! From outbound queues to frames: when their window ends, at the end of a turn, or before a message that must follow
//! them. A batch is one array. A snapshot is sent in parts, as fast as its socket takes them.

use std::sync::Arc;

use drawbridge_protocol::event::{AREA_REQUIRED, ViewEnter, encode_view_enter};
use drawbridge_protocol::websocket::{Compressor, Window, payload_of, stored};
use drawbridge_protocol::{Encoding, Frame, MAX_BATCH, ServerMessage, codec};

use smallvec::SmallVec;

use super::Engine;
use super::deliver::delivery_of;
use super::outbound::Outbound;
use crate::area::Shape;
use crate::audience::{AudienceId, NOBODY};
use crate::class::{ClassId, Delivery};
use crate::io::{Publication, SessionId};
use crate::outbox::{OutboundQueue, QueueId, QueueKind, Queued, QueuedKind, Snapshot, SnapshotState};
use crate::rate_limit::SharedLimits;
use crate::session::Session;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::targets::{Target, TargetId, Targets};
use crate::work;
use crate::world::Change;

/// How many bytes of queued events one connection's flush makes into frames; the rest follows when the socket has taken
/// those. Why: a queued event can still be replaced by a newer one, a frame cannot.
const FLUSH_BYTES: usize = 64 * 1024;

/// [`FLUSH_BYTES`] for an outbox with this limit: frames alone must not exceed it, for they cannot be dropped.
pub(super) fn flush_bytes(limit: usize) -> usize {
    FLUSH_BYTES.min(limit / 2).max(1)
}

/// Entities in one `VIEW_ENTER`, and keys in one `VIEW_LEAVE`.
const MAX_ENTITIES: usize = 512;

/// A message that the server composes of several events or entities has at most so many bytes. Why: buffers of common
/// clients end at 64 KiB (Godot's at 65,535 bytes), and a longer message is lost there without an error.
const COMPOSED_BYTES: usize = 32 * 1024;

/// How long messages to one connection may be, in bytes.
#[derive(Clone, Copy)]
pub(super) struct MessageBounds {
    /// Of messages that are composed of several parts.
    composed: usize,
    /// Of any event; `None`: any.
    event: Option<usize>,
}

impl MessageBounds {
    /// What the client said in `CONNECT`, or else what its class says.
    #[inline]
    pub(super) fn of(session: &Session, delivery: &Delivery) -> Self {
        let event = session.outbox.max_message_bytes.or(delivery.max_message_bytes);
        MessageBounds { composed: event.unwrap_or(COMPOSED_BYTES), event }
    }

    /// Whether an event's message is too long for the client.
    #[inline]
    pub(super) fn excludes(&self, encoding: Encoding, publication: &Publication) -> bool {
        self.event.is_some_and(|limit| publication.message(encoding).len() > limit)
    }

    /// Whether an entity is too large for the client: as an event, or in a `VIEW_ENTER` of this channel.
    fn excludes_entity(&self, encoding: Encoding, state: &Publication) -> bool {
        self.event.is_some_and(|limit| {
            state.message(encoding).len() > limit
                || head_bytes(&state.channel) + state.element(encoding).len() > limit
        })
    }
}

/// The longest message that is composed for a client whatever its classes say, in bytes.
pub(super) fn composed_bytes(session: &Session) -> usize {
    session.outbox.max_message_bytes.unwrap_or(COMPOSED_BYTES).min(COMPOSED_BYTES)
}

/// What a `VIEW_ENTER` or `VIEW_LEAVE` of this channel has beside its entities or keys, in bytes, at most.
fn head_bytes(channel: &str) -> usize {
    100 + 2 * channel.len()
}

/// A key as an element of a list, in bytes, at most: all of it may be escaped.
fn key_bytes(key: &str) -> usize {
    6 * key.len() + 3
}

/// What the flush of one session needs of the engine, beside the session.
struct Flush<'e> {
    /// See [`flush_bytes`].
    max_bytes: usize,
    settings: &'e Settings,
    limits: &'e SharedLimits,
    targets: &'e mut Targets,
    out: &'e mut Outbound,
    /// Messages that are sent in arrays, and about how many bytes they have.
    batch: Vec<Message>,
    batch_bytes: usize,
    /// The bound of each array, in bytes.
    array_bytes: usize,
}

/// What remains in a queue after it was served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FlushOutcome {
    /// Nothing: it is removed.
    Empty,
    /// Events that wait for the next window.
    Waits,
    /// More that can be sent now.
    More,
}

impl Engine {
    /// Makes all queues of a session into frames, whatever their windows say: it is about to be closed. Snapshots that
    /// are not complete are left out.
    pub(super) fn flush_all(&mut self, id: SessionId) {
        if self.sessions[id].is_blocked() {
            return;
        }
        for (kind, queue) in self.sessions[id].outbox.queues().to_vec() {
            match kind {
                QueueKind::Table(target) => self.flush_target(id, target),
                QueueKind::Stream(_) => self.flush_whole(id, kind, queue),
            }
        }
    }

    /// Makes queues whose time has come into frames, up to [`FLUSH_BYTES`].
    ///
    /// Invariant: each queue of the session is in the next order of service, or was empty and is removed; and the
    /// session's flush deadline is the earliest of the queues that wait.
    pub(super) fn flush_outbox(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        let limit = session.outbox.limit();
        let mut flush = Flush::new(limit, &self.settings, &self.limits, &mut self.targets, &mut self.out);
        if !session.outbox.has_queues() || session.holds_events() {
            return;
        }
        // A client that reads while more waits than the limit: `max_updates` does not matter then.
        let limited = !session.outbox.is_over_limit();
        let now_ms = flush.out.now.mono_ms;
        let mut next_ms: u64 = 0;
        // A queue that had some of the room is behind the others next time.
        let (mut first, mut last) = (Vec::new(), Vec::new());
        let mut more = false;
        for (kind, queue) in session.outbox.take_order() {
            let before = session.outbox.frame_bytes() + flush.batch_bytes;
            let outcome = if flush.out.queues.flush_at_ms(queue) > now_ms {
                FlushOutcome::Waits
            } else if before >= flush.max_bytes {
                FlushOutcome::More
            } else {
                flush.queue(session, kind, queue, limited)
            };
            match outcome {
                FlushOutcome::Empty => continue,
                FlushOutcome::Waits => {
                    let at = flush.out.queues.flush_at_ms(queue);
                    next_ms = if next_ms == 0 { at } else { at.min(next_ms) };
                }
                FlushOutcome::More => more = true,
            }
            let was_served = session.outbox.frame_bytes() + flush.batch_bytes > before;
            if was_served { &mut last } else { &mut first }.push((kind, queue));
        }
        flush.end(session);
        first.append(&mut last);
        session.outbox.set_order(first);
        session.deadlines.flush_ms = next_ms;
        self.out.timers.arm(session);
        if more {
            self.out.mark_dirty(session);
        }
    }

    /// Flushes what one subscription has queued, with all that is queued of its class, before a message that must follow
    /// it. While the socket is blocked, an entity channel's queue stays and is conflated instead: so the client is sent the
    /// state at the time of sending, and entities that another view hides meanwhile are left out.
    pub(super) fn flush_target(&mut self, id: SessionId, target_id: TargetId) {
        let target = &self.targets[target_id];
        if target.world.is_none() {
            let class = (!target.subject.is_pattern()).then_some(target.class);
            return self.flush_streams(id, class);
        }
        let kind = QueueKind::Table(target_id);
        let session = &mut self.sessions[id];
        let queue = session.outbox.find(kind).filter(|queue| !self.out.queues.has_snapshot(*queue));
        match queue {
            Some(queue) if session.is_blocked() => self.out.change(session, queue, OutboundQueue::conflate),
            Some(queue) => self.flush_whole(id, kind, queue),
            None => {}
        }
    }

    /// As [`Engine::flush_target`], for a channel whose events may come through patterns.
    pub(super) fn flush_channel(&mut self, id: SessionId, channel: &str) {
        let class = self.settings.classes.of_channel(channel).map(|(class, _, _)| class);
        self.flush_streams(id, Some(class));
    }

    /// Flushes the queue of this class's streams, or of all streams.
    fn flush_streams(&mut self, id: SessionId, of: Option<Option<ClassId>>) {
        let is_wanted = |kind: &QueueKind| match kind {
            QueueKind::Stream(class) => of.is_none_or(|of| of == *class),
            QueueKind::Table(_) => false,
        };
        let queues = self.sessions[id].outbox.queues().iter().filter(|(kind, _)| is_wanted(kind)).copied();
        for (kind, queue) in queues.collect::<SmallVec<[_; 2]>>() {
            self.flush_whole(id, kind, queue);
        }
    }

    fn flush_whole(&mut self, id: SessionId, kind: QueueKind, queue: QueueId) {
        let session = &mut self.sessions[id];
        if session.holds_events() {
            return;
        }
        let limit = session.outbox.limit();
        let mut flush = Flush::new(limit, &self.settings, &self.limits, &mut self.targets, &mut self.out);
        while flush.queue(session, kind, queue, false) == FlushOutcome::More {}
        flush.end(session);
        if session.outbox.has_frames() {
            self.out.mark_dirty(session);
        }
    }

    /// All that is in view is sent again: after subscribing, and wherever something may be missing. Not where there is no
    /// table, or none yet: it brings another snapshot when it comes.
    pub(super) fn want_snapshot(&mut self, id: SessionId, target_id: TargetId) {
        let (session, target) = (&mut self.sessions[id], &mut self.targets[target_id]);
        let is_loaded = target.world.as_ref().is_some_and(|world| world.loaded);
        let subscriber = target.subscriber_mut(session, target_id);
        let subscriber = subscriber.filter(|theirs| theirs.phase.is_shown_events());
        if let Some(subscriber) = subscriber.filter(|_| is_loaded && session.is_open()) {
            let (queue, _) =
                session.outbox.find_or_insert(&mut self.out.queues, QueueKind::Table(target_id), 0);
            subscriber.queue = Some(queue);
            self.out.change(session, queue, |queue| {
                queue.restart(None);
                queue.flush_at_ms = 0;
            });
            self.out.mark_dirty(session);
        }
    }
}

impl<'e> Flush<'e> {
    /// `limit`: of the outbox, in bytes.
    fn new(
        limit: usize,
        settings: &'e Settings,
        limits: &'e SharedLimits,
        targets: &'e mut Targets,
        out: &'e mut Outbound,
    ) -> Self {
        Flush {
            max_bytes: flush_bytes(limit),
            settings,
            limits,
            targets,
            out,
            batch: Vec::new(),
            batch_bytes: 0,
            array_bytes: usize::MAX,
        }
    }

    /// Makes a queue's events into frames and removes it if it is empty then. `limited`: no more updates than its class
    /// allows in a window.
    fn queue(
        &mut self,
        session: &mut Session,
        kind: QueueKind,
        queue: QueueId,
        limited: bool,
    ) -> FlushOutcome {
        let class = match kind {
            QueueKind::Stream(class) => class,
            QueueKind::Table(target) => self.targets[target].class,
        };
        let delivery = self.delivery(session, class, limited);
        self.out.stats.conflated += session.outbox.commit(&mut self.out.queues, queue);
        let (messages, more) = match kind {
            QueueKind::Stream(_) => self.stream(session, class, queue, &delivery),
            QueueKind::Table(target) => self.table(session, target, queue, &delivery),
        };
        self.put(session, messages, &delivery);
        let next_window_ms = delivery.window_end_ms(self.out.now.mono_ms);
        let outcome = self.out.change(session, queue, |queue| {
            let outcome = match () {
                () if queue.is_empty() => FlushOutcome::Empty,
                () if more => FlushOutcome::More,
                () => FlushOutcome::Waits,
            };
            queue.flush_at_ms = if outcome == FlushOutcome::Waits { next_window_ms } else { 0 };
            outcome
        });
        if outcome == FlushOutcome::Empty {
            session.outbox.remove(&mut self.out.queues, queue);
            if let QueueKind::Table(target) = kind {
                self.targets[target].subscriber_at_mut(session.slot_of(target)).queue = None;
            }
        }
        outcome
    }

    /// The next messages of stream channels, and whether more can be sent now.
    fn stream(
        &mut self,
        session: &mut Session,
        class: Option<ClassId>,
        queue: QueueId,
        delivery: &Delivery,
    ) -> (Vec<Message>, bool) {
        let (now_ms, max_bytes) = (self.out.now.mono_ms, self.max_bytes);
        let (gaps, (events, more)) = self.out.change(session, queue, |queue| {
            (std::mem::take(&mut queue.gaps), queue.take(now_ms, delivery, None, max_bytes))
        });
        let mut messages: Vec<Message> = Vec::with_capacity(events.len());
        for (target, offset) in gaps {
            self.out.stats.resyncs += 1;
            messages.push(Message::Own(resync(session.encoding(), &self.targets[target], offset)));
        }
        self.count(session, class, delivery, &events);
        let bounds = MessageBounds::of(session, delivery);
        messages.extend(events.into_iter().map(|queued| {
            let publication = queued.publication;
            match bounds.excludes(session.encoding(), &publication) {
                true => Message::Own(too_large(session.encoding(), &publication, &mut self.out.stats)),
                false => Message::Event(publication),
            }
        }));
        (messages, more)
    }

    /// The next messages of an entity channel, and whether more can be sent now. The next part of a snapshot is sent
    /// first, in separate frames.
    ///
    /// Invariant: changes leave only behind the whole snapshot. Those of entities that it has not reached are not queued,
    /// because it takes their state when it comes to them ([`OutboundQueue::enqueue`]).
    fn table(
        &mut self,
        session: &mut Session,
        target_id: TargetId,
        queue: QueueId,
        delivery: &Delivery,
    ) -> (Vec<Message>, bool) {
        let work = self.targets.work.clone();
        let target = &mut self.targets[target_id];
        // A table's queue ends with its subscription.
        let slot = session.slot_of(target_id);
        let subscriber = target.subscriber_at(slot);
        let (audience, pays) = (subscriber.audience, subscriber.pays);
        let is_live = subscriber.phase.is_shown_events();
        let (gaps, snapshot) =
            self.out.change(session, queue, |queue| (std::mem::take(&mut queue.gaps), queue.snapshot.take()));
        for (_, offset) in gaps {
            session.outbox.enqueue_frame(resync(session.encoding(), target, offset));
            self.out.stats.resyncs += 1;
        }
        let may_send = is_live && target.world.as_ref().is_none_or(|world| world.loaded);
        match snapshot {
            Some(snapshot) if may_send => {
                let bounds = MessageBounds::of(session, delivery);
                let part = SnapshotPart { target_id, audience, bounds, max_bytes: self.max_bytes };
                let before = work.total();
                let rest = part.send(session, target, snapshot, &mut self.out.stats);
                if pays {
                    let steps = work.total() - before;
                    session.charge_work(self.limits, self.settings, self.out.now.mono_ms, steps);
                    self.out.stats.work_charged += steps;
                }
                target.subscriber_at_mut(slot).pays = pays && rest.is_some();
                if let Some(rest) = rest {
                    let running = Some(SnapshotState::Running(rest));
                    self.out.change(session, queue, |queue| queue.snapshot = running);
                    return (Vec::new(), true);
                }
            }
            // Without a table, or while its views are not known, nothing is sent, nor what waits behind the snapshot:
            // another snapshot follows when they are.
            Some(_) => self.out.change(session, queue, |queue| queue.clear()),
            None => {}
        }
        let area = shape_of(target, audience);
        let (now_ms, max_bytes) = (self.out.now.mono_ms, self.max_bytes);
        let (events, more) =
            self.out.change(session, queue, |queue| queue.take(now_ms, delivery, area, max_bytes));
        let (channel, class) = (target.subject.name.clone(), target.class);
        self.count(session, class, delivery, &events);
        let bounds = MessageBounds::of(session, delivery);
        let events = without_too_large(session, target_id, events, bounds);
        (messages(session.encoding(), &channel, events, bounds.composed, &mut self.out.stats), more)
    }

    /// How events of a class are sent. `limited`: `max_updates` is what the window has left of it; otherwise there is no
    /// bound.
    fn delivery(&self, session: &Session, class: Option<ClassId>, limited: bool) -> Delivery {
        let delivery = delivery_of(self.settings, class);
        let sent = session.outbox.updates(class, delivery.window(self.out.now.mono_ms));
        let max_updates = delivery.max_updates.filter(|_| limited).map(|max| max.saturating_sub(sent));
        Delivery { max_updates, ..delivery }
    }

    /// Counts what is sent.
    fn count(
        &mut self,
        session: &mut Session,
        class: Option<ClassId>,
        delivery: &Delivery,
        events: &[Queued],
    ) {
        if delivery.batch_ms > 0 {
            self.batch_bytes += events.iter().map(Queued::bytes).sum::<usize>();
        }
        if delivery_of(self.settings, class).max_updates.is_some() {
            let sent = events.iter().filter(|queued| queued.is_update()).count() as u32;
            session.outbox.count_updates(class, delivery.window(self.out.now.mono_ms), sent);
        }
    }

    /// Makes messages into frames; those of a class with a window are collected for arrays, whatever their channels.
    fn put(&mut self, session: &mut Session, messages: Vec<Message>, delivery: &Delivery) {
        if delivery.batch_ms > 0 {
            self.array_bytes = self.array_bytes.min(MessageBounds::of(session, delivery).composed);
            self.batch.extend(messages);
        } else {
            messages.iter().for_each(|message| self.out.push_message(session, message));
        }
    }

    /// Makes the collected messages into arrays.
    fn end(mut self, session: &mut Session) {
        let messages = std::mem::take(&mut self.batch);
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(fitting(session.encoding(), rest, self.array_bytes));
            rest = behind;
            let frame = match (batch, session.outbox.format().deflate) {
                ([message], _) => {
                    self.out.push_message(session, message);
                    continue;
                }
                (batch, Some(window)) => {
                    deflated(session.encoding(), window, batch, &mut self.out.compressor)
                }
                (batch, None) => array(session.encoding(), batch),
            };
            session.outbox.enqueue_frame(frame);
        }
    }
}

/// How many of these messages one array holds: at least one.
fn fitting(encoding: Encoding, messages: &[Message], max_bytes: usize) -> usize {
    // The head of an array has at most three bytes, and a comma follows each message.
    let mut bytes = 3;
    let fits = |message: &&Message| {
        bytes += message.body(encoding).len() + 1;
        bytes <= max_bytes
    };
    messages.iter().take(MAX_BATCH).take_while(fits).count().max(1)
}

/// Leaves out entities that are too large for the client: it forgets one that grows, and one that shrinks enters its view.
///
/// Invariant: the outbox knows exactly the entities in view that the client was not sent.
fn without_too_large(
    session: &mut Session,
    target: TargetId,
    events: Vec<Queued>,
    bounds: MessageBounds,
) -> Vec<Queued> {
    if bounds.event.is_none() {
        return events;
    }
    let encoding = session.encoding();
    let outbox = &mut session.outbox;
    let as_sent = |mut queued: Queued| {
        let Some(QueuedKind::Entity(id, change)) = queued.kind else { return Some(queued) };
        let is_present = matches!(change, Change::Enter | Change::Update);
        let change = if is_present && bounds.excludes_entity(encoding, &queued.publication) {
            let was_sent = !outbox.leave_out(target, id) && change == Change::Update;
            was_sent.then_some(Change::Hide)?
        } else {
            match (outbox.was_left_out(target, id), change) {
                (false, change) => change,
                (true, Change::Enter | Change::Update) => Change::Enter,
                (true, Change::Hide | Change::Remove) => return None,
            }
        };
        queued.kind = Some(QueuedKind::Entity(id, change));
        Some(queued)
    };
    events.into_iter().filter_map(as_sent).collect()
}

/// What the next part of a snapshot needs beside connection and target.
struct SnapshotPart {
    target_id: TargetId,
    audience: AudienceId,
    bounds: MessageBounds,
    /// All messages together have at most so many bytes, except for one that a single entity fills.
    max_bytes: usize,
}

impl SnapshotPart {
    /// Sends the next part; returns the rest of the snapshot, if any.
    ///
    /// Why in parts, and none ready before its time: a table may be larger than the limit of what waits, and frames cannot
    /// be dropped.
    fn send(
        &self,
        session: &mut Session,
        target: &mut Target,
        snapshot: SnapshotState,
        stats: &mut Stats,
    ) -> Option<Snapshot> {
        let (Some(world), Some(audiences)) = (&mut target.world, &target.audiences) else { return None };
        let mut snapshot = match snapshot {
            SnapshotState::Running(snapshot) => snapshot,
            SnapshotState::Wanted => {
                stats.snapshots += 1;
                session.outbox.start_table(self.target_id);
                Snapshot::new(world.seen_by(audiences, self.audience))
            }
        };
        let name = &target.subject.name;
        // Why not as long as the client accepts: frames cannot be dropped when it does not read.
        let composed = self.bounds.composed.min(self.max_bytes / 2);
        let mut sent_bytes = 0;
        while sent_bytes == 0 || sent_bytes + composed <= self.max_bytes {
            let reset = snapshot.is_fresh();
            let (mut elements, mut bytes, mut steps) = (Vec::new(), head_bytes(name), 0);
            while elements.len() < MAX_ENTITIES
                && let Some(id) = snapshot.peek()
            {
                if let Some(state) = world.state_seen(audiences, self.audience, id) {
                    let element = state.element(session.encoding());
                    if self.bounds.excludes_entity(session.encoding(), state) {
                        session.outbox.leave_out(self.target_id, id);
                    } else if !elements.is_empty() && bytes + element.len() >= composed {
                        break;
                    } else {
                        bytes += element.len() + 1;
                        steps += work::to_send(element.len());
                        elements.push(element.clone());
                    }
                }
                snapshot.advance();
            }
            world.work().add(steps);
            stats.view_enters += elements.len() as u64;
            let complete = snapshot.is_done();
            // A named subscription of an entity channel has an audience, except where the class requires an area that it lacks.
            let reason = (self.audience == NOBODY).then_some(AREA_REQUIRED);
            let message = ViewEnter { channel: name, reset, complete, reason, entities: &elements };
            session.outbox.enqueue_frame(encode_view_enter(session.encoding(), &message));
            sent_bytes += bytes;
            if complete {
                return None;
            }
        }
        Some(snapshot)
    }
}

/// Where the area of an audience is now.
fn shape_of(target: &Target, audience: AudienceId) -> Option<&Shape> {
    target.audiences.as_ref()?.get(audience)?.observer.as_ref()?.shape.as_ref()
}

fn resync(encoding: Encoding, target: &Target, offset: u64) -> Frame {
    // Of what is in no log it is not known where it was.
    let is_volatile = offset == 0 && target.world.is_none();
    let position = target.position.as_ref().filter(|_| !is_volatile);
    let message = ServerMessage::Resync {
        channel: &target.subject.name,
        reason: "slow_consumer",
        epoch: position.map(|position| position.epoch().as_str()),
        offset: position.map(|position| if offset > 0 { offset } else { position.offset() }),
    };
    codec::encode_frame(encoding, &message)
}

/// `RESYNC` in place of an event that is too long for the client.
pub(super) fn too_large(encoding: Encoding, publication: &Publication, stats: &mut Stats) -> Frame {
    stats.resyncs += 1;
    let position = publication.shown_position();
    let message = ServerMessage::Resync {
        channel: &publication.channel,
        reason: "too_large",
        epoch: position.map(|(epoch, _)| epoch.as_str()),
        offset: position.map(|(_, offset)| offset),
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

/// Queued events as messages; neighbours with the same kind of change share one.
fn messages(
    encoding: Encoding,
    channel: &str,
    events: Vec<Queued>,
    max_bytes: usize,
    stats: &mut Stats,
) -> Vec<Message> {
    let mut messages = Vec::with_capacity(events.len());
    let mut events = events.into_iter().peekable();
    while let Some(first) = events.next() {
        let change = match first.kind {
            Some(QueuedKind::Entity(_, change)) if change != Change::Update => change,
            _ => {
                messages.push(Message::Event(first.publication));
                continue;
            }
        };
        let mut bytes = head_bytes(channel) + part_bytes(encoding, change, &first);
        let mut run = vec![first];
        let alike =
            |queued: &Queued| matches!(queued.kind, Some(QueuedKind::Entity(_, other)) if other == change);
        while run.len() < MAX_ENTITIES
            && let Some(queued) = events.next_if(|queued| {
                bytes += part_bytes(encoding, change, queued);
                bytes <= max_bytes && alike(queued)
            })
        {
            run.push(queued);
        }
        messages.push(Message::Own(in_or_out_of_view(encoding, channel, change, &run, stats)));
    }
    messages
}

/// What an entity takes in a `VIEW_ENTER`, or its key in a `VIEW_LEAVE`, in bytes, at most.
fn part_bytes(encoding: Encoding, change: Change, queued: &Queued) -> usize {
    match change {
        Change::Enter | Change::Update => queued.publication.element(encoding).len() + 1,
        Change::Hide | Change::Remove => queued.publication.event.key().map_or(0, key_bytes),
    }
}

/// What came into view together, or went out of it.
fn in_or_out_of_view(
    encoding: Encoding,
    channel: &str,
    change: Change,
    run: &[Queued],
    stats: &mut Stats,
) -> Frame {
    if change == Change::Enter {
        stats.view_enters += run.len() as u64;
        let elements: Vec<_> =
            run.iter().map(|queued| queued.publication.element(encoding).clone()).collect();
        let message = ViewEnter { channel, complete: true, entities: &elements, ..ViewEnter::default() };
        return encode_view_enter(encoding, &message);
    }
    stats.view_leaves += run.len() as u64;
    let keys: Vec<&str> = run.iter().filter_map(|queued| queued.publication.event.key()).collect();
    let reason = if change == Change::Remove { "removed" } else { "view" };
    codec::encode_frame(encoding, &ServerMessage::ViewLeave { channel, keys: &keys, reason })
}

impl Outbound {
    /// Makes a message into a frame.
    fn push_message(&mut self, session: &mut Session, message: &Message) {
        let frame = match message {
            Message::Own(frame) => frame.clone(),
            Message::Event(event) => self.event_frame(session, event),
        };
        session.outbox.enqueue_frame(frame);
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
