//! The way out of a shard's engine: what all outboxes share while something is sent. It borrows nothing of sessions or
//! subscriptions, so that it can be used while one of each is in hand.

use std::collections::{BTreeSet, VecDeque};

use drawbridge_protocol::websocket::Compressor;
use drawbridge_protocol::{Frame, ServerMessage, codec};

use crate::class::Delivery;
use crate::io::{Notice, Now, Output, Publication, SessionId};
use crate::outbox::{OutboundQueue, QueueId, QueueKind, Queued, Queues};
use crate::session::Session;
use crate::stats::Stats;

/// See the module.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) now: Now,
    /// Counts publications, so that a session and a view know which they have decided.
    pub(super) publication_seq: u64,
    /// The queues of the sessions' outboxes.
    pub(super) queues: Queues,
    /// Sessions whose outbox is flushed at the end of the turn, each once.
    dirty: Vec<SessionId>,
    /// Sessions for which more is ready than one flush sends, each once, in the order in which they go on.
    unfinished: VecDeque<SessionId>,
    /// What snapshots may still do in this turn, in steps ([`crate::work`]).
    pub(super) snapshot_steps_left: u64,
    /// Sessions for which more waits than the limit allows, since the limit was last enforced.
    pub(super) over_limit: Vec<SessionId>,
    pub(super) timers: Timers,
    pub(super) outputs: VecDeque<Output>,
    pub(super) compressor: Compressor,
    pub(super) stats: Stats,
}

impl Outbound {
    /// With nothing to send; snapshots may do so many steps in the first turn.
    pub(super) fn new(snapshot_steps_left: u64) -> Self {
        Outbound {
            now: Now { mono_ms: 0, unix_ms: 0 },
            publication_seq: 0,
            queues: Queues::default(),
            dirty: Vec::new(),
            unfinished: VecDeque::new(),
            snapshot_steps_left,
            over_limit: Vec::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            compressor: Compressor::default(),
            stats: Stats::default(),
        }
    }

    /// Appends a message to a session's outbox, in its encoding.
    pub(super) fn send(&mut self, session: &mut Session, message: &ServerMessage<'_>) {
        if session.takes_frames() {
            let frame = codec::encode_frame(session.encoding(), message);
            self.enqueue_frame(session, frame);
        }
    }

    /// Appends a frame to a session's outbox; nothing to one whose close is queued, or that is detached. While nothing can be written the
    /// limit counts at once; otherwise the frames leave at the end of the turn.
    #[inline]
    pub(super) fn enqueue_frame(&mut self, session: &mut Session, frame: Frame) {
        if !session.takes_frames() {
            return;
        }
        session.outbox.enqueue_frame(frame);
        self.mark_dirty(session);
        if session.is_blocked() && session.outbox.is_over_limit() {
            self.over_limit.push(session.id);
        }
    }

    /// Appends an event to a queue of a session's outbox, and schedules its flush.
    pub(super) fn enqueue(
        &mut self,
        session: &mut Session,
        kind: QueueKind,
        queued: Queued,
        delivery: &Delivery,
    ) -> QueueId {
        let flush_at_ms = if delivery.batch_ms == 0 { 0 } else { delivery.window_end_ms(self.now.mono_ms) };
        let (queue, is_new) = session.outbox.find_or_insert(&mut self.queues, kind, flush_at_ms);
        self.stats.conflated += session.outbox.enqueue(&mut self.queues, queue, queued, delivery);
        if is_new {
            self.schedule_flush(session, flush_at_ms);
        }
        if session.outbox.is_over_limit() {
            if session.is_blocked() {
                self.over_limit.push(session.id);
            } else {
                // It reads: the window is cut short.
                session.outbox.change(&mut self.queues, queue, |queue| queue.flush_at_ms = 0);
                self.mark_dirty(session);
            }
        }
        queue
    }

    /// A queue of its outbox is flushed then; 0: at the end of the turn.
    fn schedule_flush(&mut self, session: &mut Session, at_ms: u64) {
        if at_ms == 0 {
            self.mark_dirty(session);
        } else if session.deadlines.flush_ms == 0 || at_ms < session.deadlines.flush_ms {
            session.deadlines.flush_ms = at_ms;
            self.timers.arm(session);
        }
    }

    /// Changes a queue of a session's outbox, as [`crate::outbox::Outbox::change`].
    pub(super) fn change<R>(
        &mut self,
        session: &mut Session,
        queue: QueueId,
        change: impl FnOnce(&mut OutboundQueue) -> R,
    ) -> R {
        session.outbox.change(&mut self.queues, queue, change)
    }

    /// The outbox is flushed at the end of the turn; that of a blocked or detached session when it can be written.
    #[inline]
    pub(super) fn mark_dirty(&mut self, session: &mut Session) {
        if !session.is_blocked() && !std::mem::replace(&mut session.is_dirty, true) {
            self.dirty.push(session.id);
        }
    }

    /// The next session whose outbox is to be flushed. It may have ended since.
    pub(super) fn pop_dirty(&mut self) -> Option<SessionId> {
        self.dirty.pop()
    }

    /// The outbox is flushed again behind those of all others: in this turn, or, once its snapshots have done what they may,
    /// in the next.
    pub(super) fn mark_unfinished(&mut self, session: &mut Session) {
        if !session.is_blocked() && !std::mem::replace(&mut session.is_unfinished, true) {
            self.unfinished.push_back(session.id);
        }
    }

    /// The next session that goes on in this turn. It may have ended since.
    pub(super) fn pop_unfinished(&mut self) -> Option<SessionId> {
        if self.snapshot_steps_left == 0 { None } else { self.unfinished.pop_front() }
    }

    /// Whether something is left to the next turn.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Panics in debug builds if what it keeps of a session and what the session says are not the same.
    pub(super) fn check(&self, session: &Session) {
        debug_assert_eq!(session.is_dirty, self.dirty.contains(&session.id), "dirty {:?}", session.id);
        let is_unfinished = self.unfinished.contains(&session.id);
        debug_assert_eq!(session.is_unfinished, is_unfinished, "unfinished {:?}", session.id);
        let armed_ms = session.deadlines.armed_ms;
        debug_assert_eq!(armed_ms, session.deadlines.earliest(), "timer of {:?}", session.id);
        debug_assert!(armed_ms == 0 || self.timers.0.contains(&(armed_ms, session.id)), "timer is lost");
    }

    /// An event as this session gets it.
    #[inline]
    pub(super) fn event_frame(&mut self, session: &Session, publication: &Publication) -> Frame {
        let format = session.outbox.format();
        match format.deflate {
            None => publication.frame(format.encoding).clone(),
            Some(window) => publication.deflated_frame(format.encoding, window, &mut self.compressor).clone(),
        }
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }
}

/// The shard's timers. Invariant: a session has one entry, at the earliest of its deadlines (its `armed_ms`), or none.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(u64, SessionId)>);

impl Timers {
    /// Makes the one timer of a session agree with its deadlines.
    pub(super) fn arm(&mut self, session: &mut Session) {
        let at = session.deadlines.earliest();
        let armed = std::mem::replace(&mut session.deadlines.armed_ms, at);
        if armed == at {
            return;
        }
        self.0.remove(&(armed, session.id));
        if at > 0 {
            self.0.insert((at, session.id));
        }
    }

    /// The earliest, in monotonic milliseconds.
    pub(super) fn first_ms(&self) -> Option<u64> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the next one that has come; its session is to be armed again.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<SessionId> {
        self.0.first().filter(|(at, _)| *at <= now_ms)?;
        self.0.pop_first().map(|(_, id)| id)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
