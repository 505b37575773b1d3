//! Everything that waits to be sent to one connection: frames, and the outbound queues from which frames are made. An
//! [`Outbox`] is the only writer of all this, of its byte counts and of its limit. What is enqueued and how frames are
//! made of it is up to [`crate::engine`]; what happens beyond the limit too.
//!
//! ```text
//!   event ── at once ───────────────────────────▶ frames ──▶ one write a turn (none while the socket is blocked)
//!      └──── batched, conflated, or blocked ──▶ queue ──▶ ┘ flush: window or turn ends, or before a reply
//! ```

mod queue;

use drawbridge_protocol::Frame;
use hashbrown::HashSet;
use slab::Slab;
use smallvec::SmallVec;

pub(crate) use queue::{OutboundQueue, QueueKind, Queued, QueuedKind, Snapshot};

use crate::class::{ClassId, Delivery};
use crate::io::Format;
use crate::targets::TargetId;
use crate::world::EntityId;

/// Names a queue in [`Queues`]; reused after the queue was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueId(u32);

/// The outbound queues of all connections of a shard.
///
/// Why one table for all: a subscriber of an entity channel keeps its [`QueueId`], so that an event is staged without
/// touching the connection (ADR 0014). Invariant: each queue is listed in exactly one outbox.
#[derive(Debug, Default)]
pub(crate) struct Queues(Slab<OutboundQueue>);

impl Queues {
    /// Stages one event, if the queue allows it ([`OutboundQueue::stage`]); otherwise returns it.
    #[inline]
    pub(crate) fn stage(&mut self, id: QueueId, queued: Queued, conflate: bool) -> Result<(), Queued> {
        match self.0.get_mut(id.0 as usize).filter(|queue| queue.may_stage()) {
            Some(queue) => {
                queue.stage(queued, conflate);
                Ok(())
            }
            None => Err(queued),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, id: QueueId) -> &OutboundQueue {
        &self.0[id.0 as usize]
    }

    /// When a queue is flushed: [`OutboundQueue::flush_at_ms`].
    pub(crate) fn flush_at_ms(&self, id: QueueId) -> u64 {
        self.get(id).flush_at_ms
    }

    /// What its committed events hold in memory, in bytes.
    pub(crate) fn bytes(&self, id: QueueId) -> usize {
        self.get(id).bytes()
    }

    /// [`OutboundQueue::proofs`].
    pub(crate) fn proofs(&self, id: QueueId) -> SmallVec<[(TargetId, u64); 4]> {
        self.get(id).proofs()
    }

    /// Whether a snapshot is wanted or running.
    pub(crate) fn has_snapshot(&self, id: QueueId) -> bool {
        self.get(id).snapshot.is_some()
    }
}

/// Updates of a class that a connection was sent in a window.
#[derive(Clone, Copy, Debug)]
struct Updates {
    class: Option<ClassId>,
    /// Counts windows of the class since the clock's start.
    window: u64,
    count: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// How its frames are made. None are made while the session is detached.
    format: Format,
    /// The longest message that the client takes, in bytes; `None`: what the channel's class says.
    pub(crate) max_message_bytes: Option<usize>,
    /// Frames of this turn, or all that wait while the socket is blocked.
    frames: Vec<Frame>,
    frame_bytes: usize,
    largest_frame: usize,
    /// Its queues, in the order in which they are served. A queue that has nothing to send is removed.
    queues: Vec<(QueueKind, QueueId)>,
    /// What their committed events hold in memory. Staged events, at most 16 KiB and one event a queue, are not counted.
    queue_bytes: usize,
    /// The bound of frames and queues together, in bytes.
    limit: usize,
    /// Of classes with `max_updates`.
    updates: Vec<Updates>,
    /// Entities in view that the client was not sent, because they exceed the longest message that it takes.
    left_out: Option<Box<HashSet<(TargetId, EntityId)>>>,
}

impl Outbox {
    /// An empty one with this bound, in bytes.
    pub(crate) fn new(limit: usize, format: Format) -> Self {
        Outbox {
            format,
            max_message_bytes: None,
            frames: Vec::new(),
            frame_bytes: 0,
            largest_frame: 0,
            queues: Vec::new(),
            queue_bytes: 0,
            limit,
            updates: Vec::new(),
            left_out: None,
        }
    }

    /// How its frames are made.
    #[inline]
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    // --- frames ---

    /// Appends a frame for the next write.
    pub(crate) fn enqueue_frame(&mut self, frame: Frame) {
        self.frame_bytes += frame.len();
        self.largest_frame = self.largest_frame.max(frame.len());
        self.frames.push(frame);
    }

    /// Takes all frames, for one write.
    pub(crate) fn take_frames(&mut self) -> Vec<Frame> {
        (self.frame_bytes, self.largest_frame) = (0, 0);
        std::mem::take(&mut self.frames)
    }

    /// Puts frames that the socket did not take before all others.
    pub(crate) fn return_frames(&mut self, mut unsent: Vec<Frame>) {
        unsent.append(&mut self.frames);
        self.frame_bytes = unsent.iter().map(Frame::len).sum();
        self.largest_frame = unsent.iter().map(Frame::len).max().unwrap_or(0);
        self.frames = unsent;
    }

    /// From now on its frames are for another socket. Those that wait are dropped.
    pub(crate) fn set_format(&mut self, format: Format) {
        self.take_frames();
        self.format = format;
    }

    /// Whether a write is wanted.
    pub(crate) fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// The size of all frames, in bytes.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    // --- queues ---

    /// Its queues, in the order in which they are served.
    pub(crate) fn queues(&self) -> &[(QueueKind, QueueId)] {
        &self.queues
    }

    /// Whether it has queues.
    pub(crate) fn has_queues(&self) -> bool {
        !self.queues.is_empty()
    }

    /// The queue of this kind.
    pub(crate) fn find(&self, kind: QueueKind) -> Option<QueueId> {
        self.queues.iter().find(|(of, _)| *of == kind).map(|(_, id)| *id)
    }

    /// The queue of this kind, made if there is none, with the time at which it is flushed.
    pub(crate) fn find_or_insert(
        &mut self,
        queues: &mut Queues,
        kind: QueueKind,
        flush_at_ms: u64,
    ) -> (QueueId, bool) {
        if let Some(id) = self.find(kind) {
            return (id, false);
        }
        let id = QueueId(queues.0.insert(OutboundQueue::new(flush_at_ms)) as u32);
        self.queues.push((kind, id));
        (id, true)
    }

    /// Appends one event to a queue. Returns how many events were merged.
    pub(crate) fn enqueue(
        &mut self,
        queues: &mut Queues,
        id: QueueId,
        queued: Queued,
        delivery: &Delivery,
    ) -> u64 {
        let conflate = match queued.kind {
            Some(QueuedKind::Entity(..)) => delivery.conflates_entities(),
            _ => delivery.conflate,
        };
        self.change(queues, id, |queue| queue.commit() + u64::from(queue.enqueue(queued, conflate)))
    }

    /// Conflates and counts what is staged in a queue. Returns how many events were merged.
    pub(crate) fn commit(&mut self, queues: &mut Queues, id: QueueId) -> u64 {
        self.change(queues, id, OutboundQueue::commit)
    }

    /// Changes a queue. Invariant: `queue_bytes` is adjusted here and in [`Outbox::remove`] only.
    pub(crate) fn change<R>(
        &mut self,
        queues: &mut Queues,
        id: QueueId,
        change: impl FnOnce(&mut OutboundQueue) -> R,
    ) -> R {
        let queue = &mut queues.0[id.0 as usize];
        let before = queue.bytes();
        let result = change(queue);
        self.queue_bytes = self.queue_bytes + queue.bytes() - before;
        result
    }

    /// Takes the list of queues, to serve one after the other; [`Outbox::set_order`] puts back those that stay.
    pub(crate) fn take_order(&mut self) -> Vec<(QueueKind, QueueId)> {
        std::mem::take(&mut self.queues)
    }

    /// The next order of service.
    pub(crate) fn set_order(&mut self, order: Vec<(QueueKind, QueueId)>) {
        debug_assert!(self.queues.is_empty(), "a queue was made while the queues were served");
        self.queues = order;
    }

    /// Removes a queue with all that is in it.
    pub(crate) fn remove(&mut self, queues: &mut Queues, id: QueueId) {
        self.queues.retain(|(_, other)| *other != id);
        self.queue_bytes -= queues.0.remove(id.0 as usize).bytes();
    }

    /// Removes the queues of stream channels. Those of entity channels end with their subscriptions.
    pub(crate) fn remove_streams(&mut self, queues: &mut Queues) {
        for (kind, id) in self.queues.clone() {
            if matches!(kind, QueueKind::Stream(_)) {
                self.remove(queues, id);
            }
        }
    }

    /// Drops the events of a subscription that has ended from the queues of streams, and what was left out of its table.
    pub(crate) fn forget(&mut self, queues: &mut Queues, target: TargetId) {
        self.start_table(target);
        for at in 0..self.queues.len() {
            if let (QueueKind::Stream(_), id) = self.queues[at] {
                self.change(queues, id, |queue| queue.forget(target));
            }
        }
    }

    /// Updates of a class that were sent in this window.
    pub(crate) fn updates(&self, class: Option<ClassId>, window: u64) -> u32 {
        let updates = self.updates.iter().find(|updates| (updates.class, updates.window) == (class, window));
        updates.map_or(0, |updates| updates.count)
    }

    /// Counts updates of a class that are sent in this window.
    pub(crate) fn count_updates(&mut self, class: Option<ClassId>, window: u64, count: u32) {
        match self.updates.iter_mut().find(|updates| updates.class == class) {
            Some(updates) if updates.window == window => updates.count += count,
            Some(updates) => *updates = Updates { class, window, count },
            None => self.updates.push(Updates { class, window, count }),
        }
    }

    // --- entities that are too large for the client ---

    /// A table's snapshot starts: nothing is left out of it yet.
    pub(crate) fn start_table(&mut self, target: TargetId) {
        if let Some(left_out) = &mut self.left_out {
            left_out.retain(|(of, _)| *of != target);
        }
        self.left_out = self.left_out.take().filter(|left_out| !left_out.is_empty());
    }

    /// An entity is too large for the client. Returns whether it was left out before.
    pub(crate) fn leave_out(&mut self, target: TargetId, entity: EntityId) -> bool {
        !self.left_out.get_or_insert_default().insert((target, entity))
    }

    /// An entity can be sent, or is gone. Returns whether it was left out until now.
    pub(crate) fn was_left_out(&mut self, target: TargetId, entity: EntityId) -> bool {
        self.left_out.as_mut().is_some_and(|left_out| left_out.remove(&(target, entity)))
    }

    /// Whether anything is left out.
    pub(crate) fn leaves_out(&self) -> bool {
        self.left_out.is_some()
    }

    // --- bytes ---

    /// The size of all that waits, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.frame_bytes + self.queue_bytes
    }

    /// What the committed events of its queues hold in memory, in bytes.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// The bound of [`Outbox::bytes`].
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether more waits than the limit allows.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.bytes() > self.limit
    }

    /// Whether the frames alone exceed the limit. One frame may exceed it: the largest is not counted.
    pub(crate) fn has_too_many_frames(&self) -> bool {
        self.frame_bytes - self.largest_frame > self.limit
    }

    /// Panics in debug builds if a byte count is wrong.
    pub(crate) fn check(&self, queues: &Queues) {
        let frames: usize = self.frames.iter().map(Frame::len).sum();
        debug_assert_eq!(self.frame_bytes, frames, "bytes of frames");
        self.queues.iter().for_each(|(_, id)| queues.get(*id).check());
        let queued: usize = self.queues.iter().map(|(_, id)| queues.bytes(*id)).sum();
        debug_assert_eq!(self.queue_bytes, queued, "bytes of queues");
    }
}
