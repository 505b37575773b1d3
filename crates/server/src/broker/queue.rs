//! The queue from the broker to one shard: bounded in bytes, never blocking, in order. What does not fit is
//! dropped and its channel is marked with one `Gap`, which says how far the loss goes (commands: with one `Recover`);
//! what the broker says of subscriptions, publishes and itself always fits. Of what waits for a lagging shard it
//! drops what nobody would miss. It knows nothing of who listens or of Redis.
//!
//! Only the links push publications and commands, from one thread at a time; any thread may push the others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use drawbridge_engine::backlog::superseded;
use drawbridge_engine::io::{
    BrokerEvent, LogPosition, PlayerAction, PlayerCommand, Position, PresenceChange, Publication,
};
use hashbrown::HashMap;
use tokio::sync::mpsc;

/// How many channels of one shard may be marked at once. Beyond that the loss is told for all of the shard's
/// subscriptions ([`Pushed::Lost`]).
const MAX_GAPS: usize = 65_536;

/// Player commands that wait for one shard at most, in bytes; of views, which can be read again, the half of it. Events
/// have their own bound: many of them keep no command out.
const COMMAND_BYTES: usize = 16 << 20;

/// What a queued publication costs beside its payload and name, in bytes; an estimate.
const OVERHEAD: usize = 256;

/// Makes a queue to a shard that holds at most `bound_bytes` of publications (but always at least one).
pub fn shard_queue(bound_bytes: usize) -> (ShardQueue, ShardInbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        bound_bytes,
        bytes: AtomicUsize::new(0),
        dropped: AtomicU64::new(0),
        command_bytes: AtomicUsize::new(0),
        stale: AtomicBool::new(false),
        marked: AtomicUsize::new(0),
        gaps: Mutex::new(HashMap::new()),
    });
    let ahead = VecDeque::new();
    (ShardQueue { sender, shared: shared.clone() }, ShardInbox { receiver, ahead, shared })
}

/// The broker's end.
#[derive(Clone, Debug)]
pub struct ShardQueue {
    sender: mpsc::UnboundedSender<BrokerEvent>,
    shared: Arc<Shared>,
}

/// The shard's end.
#[derive(Debug)]
pub struct ShardInbox {
    receiver: mpsc::UnboundedReceiver<BrokerEvent>,
    /// What was looked through while the shard lagged, before all that the receiver has.
    ahead: VecDeque<BrokerEvent>,
    shared: Arc<Shared>,
}

/// What became of a pushed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the queue, or its channel is marked, or nobody listens any more.
    Queued,
    /// It was dropped: a command, of which the shard is told, or an event where too many channels are marked already
    /// to mark one more, so that the loss is still to be told.
    Lost,
}

#[derive(Debug)]
struct Shared {
    bound_bytes: usize,
    bytes: AtomicUsize,
    dropped: AtomicU64,
    command_bytes: AtomicUsize,
    /// Commands were dropped, and the shard has not read so yet.
    stale: AtomicBool,
    /// How many channels are marked; read before the lock is taken.
    marked: AtomicUsize,
    /// The channels of which this queue drops what comes, until their mark is read.
    gaps: Mutex<HashMap<Arc<str>, Mark>>,
}

/// A loss of this queue: a `Gap` in it names the first offset until it is read, and then the last. Other gaps come from
/// outside, of a payload that was too large, and never name the first offset of a mark, for each offset is pushed once.
#[derive(Debug)]
struct Mark {
    first: Position,
    last: Position,
    /// The first logged one.
    logged: Option<LogPosition>,
}

impl ShardQueue {
    /// Queues an event.
    pub fn push(&self, event: BrokerEvent) -> Pushed {
        match &event {
            BrokerEvent::Publication(publication)
                if !self.shared.admit(&publication.channel, weight(publication)) =>
            {
                let position = Position { epoch: publication.epoch, offset: publication.offset };
                return self.mark(&publication.channel, position, publication.in_log.position());
            }
            BrokerEvent::Gap { channel, position, logged }
                if !self.shared.admit(channel, gap_weight(channel)) =>
            {
                return self.mark(channel, *position, *logged);
            }
            // The shard requests it again.
            BrokerEvent::Replay(replay) if !self.shared.admit(&replay.channel, replay.weight()) => {
                let empty = Arc::new(replay.without_events());
                self.shared.bytes.fetch_add(empty.weight(), Ordering::Relaxed);
                let _ = self.sender.send(BrokerEvent::Replay(empty));
                return Pushed::Queued;
            }
            BrokerEvent::Presence { notices, change: None } => return self.mark_presence(notices),
            BrokerEvent::Presence { notices, change: Some(change) }
                if !self.shared.admit(notices, presence_weight(notices, change)) =>
            {
                return self.mark_presence(notices);
            }
            BrokerEvent::Command(command) if !self.shared.admit_command(command) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                // Where it would have been; until that is read, it represents all that are dropped behind it.
                if !self.shared.stale.swap(true, Ordering::AcqRel) {
                    let _ = self.sender.send(BrokerEvent::Recover { dropped: true, barrier: None });
                }
                return Pushed::Lost;
            }
            _ => {}
        }
        // A shard that is gone needs nothing.
        let _ = self.sender.send(event);
        Pushed::Queued
    }

    /// The bytes of the publications that wait.
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// How many publications were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Whether there is room again for marks, after [`Pushed::Lost`].
    pub(super) fn has_room_for_gaps(&self) -> bool {
        self.shared.marked.load(Ordering::Acquire) < MAX_GAPS / 2
    }

    /// The mark goes into the queue where the loss begins. Until it is read all of the channel is dropped: so
    /// nothing that came before the end of the loss can follow the mark.
    fn mark(&self, channel: &Arc<str>, position: Position, logged: Option<LogPosition>) -> Pushed {
        let gap = || BrokerEvent::Gap { channel: channel.clone(), position, logged };
        self.mark_with(channel, position, logged, gap)
    }

    /// As [`ShardQueue::mark`], of notices of players who come and go, which have no positions.
    fn mark_presence(&self, notices: &Arc<str>) -> Pushed {
        let missed = || BrokerEvent::Presence { notices: notices.clone(), change: None };
        self.mark_with(notices, Position::default(), None, missed)
    }

    fn mark_with(
        &self,
        channel: &Arc<str>,
        position: Position,
        logged: Option<LogPosition>,
        event: impl FnOnce() -> BrokerEvent,
    ) -> Pushed {
        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        let mut gaps = self.shared.lock_gaps();
        if let Some(mark) = gaps.get_mut(channel) {
            mark.last = position;
            mark.logged = mark.logged.or(logged);
            return Pushed::Queued;
        }
        if gaps.len() >= MAX_GAPS {
            return Pushed::Lost;
        }
        gaps.insert(channel.clone(), Mark { first: position, last: position, logged });
        self.shared.marked.store(gaps.len(), Ordering::Release);
        let _ = self.sender.send(event());
        Pushed::Queued
    }
}

impl Shared {
    /// Takes the bytes of an event into account if there is room and its channel is not marked.
    fn admit(&self, channel: &Arc<str>, weight: usize) -> bool {
        if self.marked.load(Ordering::Acquire) > 0 && self.lock_gaps().contains_key(channel) {
            return false;
        }
        let before = self.bytes.fetch_add(weight, Ordering::Relaxed);
        if before > 0 && before + weight > self.bound_bytes {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Takes the command's bytes into account if there is room. A view behind one that was dropped is dropped, too: what
    /// Redis keeps when the shard asks is newer.
    fn admit_command(&self, command: &PlayerCommand) -> bool {
        let is_view = matches!(command.action, PlayerAction::View { .. });
        if is_view && self.stale.load(Ordering::Acquire) {
            return false;
        }
        let bound = if is_view { COMMAND_BYTES / 2 } else { COMMAND_BYTES };
        let weight = command_weight(command);
        let before = self.command_bytes.fetch_add(weight, Ordering::Relaxed);
        if before + weight > bound {
            self.command_bytes.fetch_sub(weight, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// An event leaves the queue.
    fn taken(&self, event: &mut BrokerEvent) {
        match event {
            BrokerEvent::Publication(publication) => {
                self.bytes.fetch_sub(weight(publication), Ordering::Relaxed);
            }
            BrokerEvent::Recover { dropped: true, .. } => self.stale.store(false, Ordering::Release),
            BrokerEvent::Command(command) => {
                self.command_bytes.fetch_sub(command_weight(command), Ordering::Relaxed);
            }
            BrokerEvent::Presence { notices, change: Some(change) } => {
                self.bytes.fetch_sub(presence_weight(notices, change), Ordering::Relaxed);
            }
            // All of these are marks.
            BrokerEvent::Presence { notices, change: None } => {
                let mut gaps = self.lock_gaps();
                gaps.remove(notices);
                self.marked.store(gaps.len(), Ordering::Release);
            }
            BrokerEvent::Replay(replay) => {
                self.bytes.fetch_sub(replay.weight(), Ordering::Relaxed);
            }
            BrokerEvent::Gap { channel, position, logged } => {
                let mut gaps = self.lock_gaps();
                match gaps.get(channel) {
                    Some(mark) if mark.first == *position => {
                        (*position, *logged) = (mark.last, mark.logged);
                        gaps.remove(channel);
                    }
                    _ => {
                        self.bytes.fetch_sub(gap_weight(channel), Ordering::Relaxed);
                    }
                }
                self.marked.store(gaps.len(), Ordering::Release);
                if gaps.is_empty() {
                    gaps.shrink_to(64);
                }
            }
            _ => {}
        }
    }

    fn lock_gaps(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Mark>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(publication: &Publication) -> usize {
    publication.event.held_bytes() + publication.channel.len() + OVERHEAD
}

fn gap_weight(channel: &str) -> usize {
    channel.len() + OVERHEAD
}

fn presence_weight(notices: &str, change: &PresenceChange) -> usize {
    change.weight() + notices.len() + OVERHEAD
}

fn command_weight(PlayerCommand { player, action }: &PlayerCommand) -> usize {
    let said = match action {
        PlayerAction::Subscribe { channel } | PlayerAction::Unsubscribe { channel } => channel.len(),
        PlayerAction::View { channel, view } => channel.len() + view.as_ref().map_or(0, |view| view.len()),
        PlayerAction::TakenOver { node, .. } => node.len(),
        PlayerAction::Disconnect { reason } => reason.as_ref().map_or(0, |reason| reason.len()),
    };
    player.len() + said + OVERHEAD
}

impl ShardInbox {
    /// The next event; `None` when the broker and all its handles are gone. Safe to cancel.
    pub async fn recv(&mut self) -> Option<BrokerEvent> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next event, or wakes the task when there is one.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<BrokerEvent>> {
        if let Some(event) = self.next_ahead() {
            return Poll::Ready(Some(self.accept(event)));
        }
        self.receiver.poll_recv(cx).map(|event| event.map(|event| self.accept(event)))
    }

    /// The next event if there is one.
    pub fn try_recv(&mut self) -> Option<BrokerEvent> {
        let event = self.next_ahead().or_else(|| self.receiver.try_recv().ok())?;
        Some(self.accept(event))
    }

    fn next_ahead(&mut self) -> Option<BrokerEvent> {
        let event = self.ahead.pop_front()?;
        if self.ahead.is_empty() {
            self.ahead = VecDeque::new();
        }
        Some(event)
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.ahead.len() + self.receiver.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks through all that waits and drops the states of entities that newer ones replace ([`superseded`]); returns how many.
    /// Only where much of it was not looked through before, so that each event costs a few looks at most.
    pub fn drop_superseded(&mut self) -> usize {
        if self.receiver.len() < self.ahead.len() / 4 {
            return 0;
        }
        // What is taken over here still counts against the bound.
        while let Ok(event) = self.receiver.try_recv() {
            self.ahead.push_back(event);
        }
        let before = self.ahead.len();
        let mut superseded = superseded(self.ahead.iter()).into_iter();
        let shared = &self.shared;
        self.ahead.retain_mut(|event| {
            let drops = superseded.next().unwrap_or(false);
            if drops {
                shared.taken(event);
            }
            !drops
        });
        self.ahead.shrink_to(2 * self.ahead.len());
        before - self.ahead.len()
    }

    fn accept(&self, mut event: BrokerEvent) -> BrokerEvent {
        self.shared.taken(&mut event);
        event
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
