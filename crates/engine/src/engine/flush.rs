//! From outbound queues to frames: when their window ends, at the end of a turn, or before a message that must follow
//! them. What the frames hold is in [`messages`], a snapshot's in [`snapshot`].

mod messages;
mod snapshot;

use smallvec::SmallVec;

use self::messages::{Message, array, deflated, fitting, messages, resync};
use self::snapshot::SnapshotPart;
use super::Engine;
use super::deliver::delivery_of;
use super::message_bounds::{MessageBounds, flush_bytes, too_large};
use super::outbound::Outbound;
use crate::area::Shape;
use crate::audience::AudienceId;
use crate::class::{ClassId, Delivery};
use crate::io::SessionId;
use crate::outbox::{OutboundQueue, QueueId, QueueKind, Queued, QueuedKind};
use crate::rate_limit::SharedLimits;
use crate::session::Session;
use crate::settings::Settings;
use crate::targets::{Target, TargetId, Targets};
use crate::world::Change;

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

    /// Makes queues whose time has come into frames, up to [`flush_bytes`].
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
            self.out.mark_unfinished(session);
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
        if !self.sessions[id].outbox.has_queues() {
            return;
        }
        let class = self.settings.classes.class_of(channel).map(|(class, _)| class);
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
                let (max_bytes, max_steps) = (self.max_bytes, self.out.snapshot_steps_left);
                let part = SnapshotPart { target_id, audience, bounds, max_bytes, max_steps };
                let before = work.total();
                let rest = part.send(session, target, snapshot, &mut self.out.stats);
                let steps = work.total() - before;
                self.out.snapshot_steps_left = max_steps.saturating_sub(steps);
                if pays {
                    session.charge_work(self.limits, self.settings, self.out.now.mono_ms, steps);
                    self.out.stats.work_charged += steps;
                }
                target.subscriber_at_mut(slot).pays = pays && rest.is_some();
                if rest.is_some() {
                    self.out.change(session, queue, |queue| queue.snapshot = rest);
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

/// Where the area of an audience is now.
fn shape_of(target: &Target, audience: AudienceId) -> Option<&Shape> {
    target.audiences.as_ref()?.get(audience)?.observer.as_ref()?.shape.as_ref()
}
