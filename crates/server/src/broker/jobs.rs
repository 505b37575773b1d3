//! The queue of publishes: bounded in bytes, as a whole and for each who publishes, first in first out, each answered
//! exactly once. Entries of the lifecycle stream go through it, too, under their own bound. What carries them out (the
//! memory broker, the Redis publisher) takes them from here.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use drawbridge_engine::io::{
    BrokerEvent, Outcome, Owner, PublishFailure, Ticket, WhenDown, Write, WriteKind,
};
use drawbridge_engine::upstream::ShardId;
use hashbrown::HashMap;
use tokio::sync::mpsc;

use super::fanout::ShardFanout;
use super::hub_driver::HubCommand;
use super::redis::probe::ProbeStep;
use crate::log::Sparse;

/// One player may fill an eighth of the queue, over all its connections, and all services together the half of it: none of
/// them keeps the others out.
const PLAYER_SHARE: usize = 8;
const SERVICES_SHARE: usize = 2;
/// Shards have few writes of presence out at once, and keep what waits themselves.
const PRESENCE_SHARE: usize = 4;
/// What entries of the lifecycle stream may wait, in bytes: some 15,000 of them.
const LIFECYCLE_BYTES: usize = 8 << 20;
/// What the probes of all links take at most, in bytes: one each.
const PROBE_BYTES: usize = 64 << 10;

/// A JSON object without its last brace, so that more can be said behind it.
pub(super) fn open_object(payload: &[u8]) -> &[u8] {
    payload.strip_suffix(b"}").unwrap_or(payload)
}

/// How much of a queue of `bound_bytes` an owner may fill.
fn share(owner: &Owner, bound_bytes: usize) -> usize {
    match owner {
        Owner::Player(_) => bound_bytes / PLAYER_SHARE,
        Owner::Services => bound_bytes / SERVICES_SHARE,
        Owner::Presence => bound_bytes / PRESENCE_SHARE,
        Owner::Lifecycle => LIFECYCLE_BYTES,
        Owner::Probe => PROBE_BYTES,
    }
}

/// Who waits for a job's outcome.
#[derive(Debug)]
enum Reply {
    /// A shard or the node, by this ticket, if at all.
    Shard(ShardId, Option<Ticket>),
    /// A link: it is the delivery probe of this number.
    Link(mpsc::WeakUnboundedSender<HubCommand>, u64),
}

/// One publish on its way, and who waits for it. Dropped without an answer it is answered by what is known: that
/// it is not done, or, when it was handed to Redis, nothing.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: WriteKind,
    pub(super) when_down: WhenDown,
    pub(super) bytes: usize,
    /// When it is withdrawn, if it is not handed to Redis by then.
    pub(super) expires: Option<Instant>,
    owner: Owner,
    reply: Reply,
    ledger: Arc<Ledger>,
    handed: bool,
    answered: bool,
    /// Dropped with the job. While it exists, whoever it belongs to knows that the job is unfinished.
    held: Option<Arc<dyn Held>>,
}

/// What a job keeps until it is over.
pub(super) trait Held: std::fmt::Debug + Send + Sync {}

impl<T: std::fmt::Debug + Send + Sync> Held for T {}

impl Job {
    /// Keeps this until the job is over.
    pub(super) fn hold(&mut self, held: impl Held + 'static) {
        self.held = Some(Arc::new(held));
    }

    /// What it keeps, for what follows from the job and is over later.
    pub(super) fn held(&self) -> Option<Arc<dyn Held>> {
        self.held.clone()
    }

    /// It is handed to Redis, or came back undone.
    pub(super) fn set_handed(&mut self, handed: bool) {
        self.handed = handed;
    }

    /// Whether it is an entry of the lifecycle stream.
    pub(super) fn is_lifecycle(&self) -> bool {
        self.owner == Owner::Lifecycle
    }

    /// Tells who waits.
    pub(super) fn answer(mut self, result: Outcome) {
        self.complete(result);
    }

    fn complete(&mut self, result: Outcome) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        self.ledger.leave(&self.owner, self.bytes);
        if self.is_lifecycle() && result.is_err() {
            self.ledger.lifecycle_lost.fetch_add(1, Ordering::Relaxed);
        }
        match &self.reply {
            Reply::Shard(shard, ticket) => self.ledger.record(*shard, *ticket, result),
            // What players and services write is counted, and nothing else.
            Reply::Link(link, probe) => {
                if let Some(link) = link.upgrade() {
                    let _ = link.send(HubCommand::Probe(ProbeStep::Published(*probe, result)));
                }
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let failure = if self.handed { PublishFailure::Unknown } else { PublishFailure::NotDone };
        self.complete(Err(failure));
    }
}

/// What waits, and what became of what does not.
#[derive(Debug)]
pub(super) struct Ledger {
    bound_bytes: usize,
    fanout: ShardFanout,
    /// What waits, or is on its way, of each who has something there, in bytes: no more entries than jobs.
    shares: Mutex<HashMap<Owner, usize>>,
    /// All of it, except for the lifecycle's.
    pub(super) bytes: AtomicUsize,
    pub(super) done: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) not_done: AtomicU64,
    pub(super) unknown: AtomicU64,
    /// Publishes delivered on this node alone.
    pub(super) only_local: AtomicU64,
    /// Entries of the lifecycle stream that Redis has not taken yet.
    pub(super) lifecycle_waiting: AtomicU64,
    /// Those that nobody will read.
    pub(super) lifecycle_lost: AtomicU64,
    lifecycle_full: Mutex<Sparse>,
}

impl Ledger {
    /// Takes the bytes into account, whatever becomes of them.
    ///
    /// # Errors
    /// Where there is no room for them.
    fn enter(&self, owner: &Owner, bytes: usize) -> Result<(), PublishFailure> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let (share, theirs) = (share(owner, self.bound_bytes), shares.entry(owner.clone()).or_default());
        let before = std::mem::replace(theirs, *theirs + bytes);
        drop(shares);
        // Who has nothing there may have one, however large it is.
        let is_over_share = before > 0 && before + bytes > share;
        if *owner == Owner::Lifecycle {
            self.lifecycle_waiting.fetch_add(1, Ordering::Relaxed);
            return if is_over_share { Err(PublishFailure::NotDone) } else { Ok(()) };
        }
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        match () {
            () if all + bytes > self.bound_bytes => Err(PublishFailure::NotDone),
            () if is_over_share => Err(PublishFailure::OverShare { bytes: share }),
            () => Ok(()),
        }
    }

    fn leave(&self, owner: &Owner, bytes: usize) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = shares.get_mut(owner) {
            *theirs -= bytes;
            if *theirs == 0 {
                shares.remove(owner);
            }
        }
        drop(shares);
        match owner {
            Owner::Lifecycle => self.lifecycle_waiting.fetch_sub(1, Ordering::Relaxed),
            _ => self.bytes.fetch_sub(bytes, Ordering::Relaxed) as u64,
        };
    }

    fn record(&self, shard: ShardId, ticket: Option<Ticket>, result: Outcome) {
        let count = match &result {
            Ok(_) => &self.done,
            Err(
                PublishFailure::Refused(_) | PublishFailure::LimitExceeded | PublishFailure::TakenOver(_),
            ) => &self.refused,
            Err(PublishFailure::NotDone | PublishFailure::OverShare { .. }) => &self.not_done,
            Err(PublishFailure::Unknown) => &self.unknown,
            Err(PublishFailure::OnlyLocal) => &self.only_local,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(ticket) = ticket {
            self.fanout.send(shard, BrokerEvent::Outcome { ticket, outcome: result });
        }
    }
}

/// Where publishes are handed in, by any thread.
#[derive(Clone, Debug)]
pub(super) struct JobSender {
    sender: mpsc::UnboundedSender<Job>,
    ledger: Arc<Ledger>,
}

/// Where publishes are taken out.
#[derive(Debug)]
pub(super) struct JobReceiver {
    receiver: mpsc::UnboundedReceiver<Job>,
    ledger: Arc<Ledger>,
}

/// A queue that holds at most `bound_bytes` of publishes that are not answered, and [`LIFECYCLE_BYTES`] of lifecycle entries.
pub(super) fn jobs(bound_bytes: usize, fanout: ShardFanout) -> (JobSender, JobReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let ledger = Arc::new(Ledger {
        bound_bytes,
        fanout,
        shares: Mutex::default(),
        bytes: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        not_done: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        only_local: AtomicU64::new(0),
        lifecycle_waiting: AtomicU64::new(0),
        lifecycle_lost: AtomicU64::new(0),
        lifecycle_full: Mutex::default(),
    });
    (JobSender { sender, ledger: ledger.clone() }, JobReceiver { receiver, ledger })
}

impl JobSender {
    /// Hands one in; over a bound, or when the broker has stopped, it is answered at once.
    pub(super) fn push(&self, shard: ShardId, write: Write) {
        let reply = Reply::Shard(shard, write.ticket);
        self.push_for(reply, write);
    }

    /// Hands in the delivery probe of this number. Its link is notified of the outcome.
    pub(super) fn push_probe(
        &self,
        channel: Arc<str>,
        payload: Bytes,
        probe: u64,
        link: mpsc::WeakUnboundedSender<HubCommand>,
    ) {
        let kind = WriteKind::Publish { channel, payload };
        let write = Write { ticket: None, owner: Owner::Probe, when_down: WhenDown::Reject, kind };
        self.push_for(Reply::Link(link, probe), write);
    }

    fn push_for(&self, reply: Reply, write: Write) {
        let Write { ticket: _, owner, when_down, kind: work } = write;
        let bytes = work.bytes();
        let expires = match when_down {
            WhenDown::QueueFor(time) => Some(Instant::now() + time),
            WhenDown::Queue | WhenDown::Reject | WhenDown::Local => None,
        };
        let (ledger, entered) = (self.ledger.clone(), self.ledger.enter(&owner, bytes));
        let job = Job {
            work,
            when_down,
            bytes,
            expires,
            owner,
            reply,
            ledger,
            handed: false,
            answered: false,
            held: None,
        };
        match entered {
            Ok(()) => {
                if let Err(back) = self.sender.send(job) {
                    back.0.answer(Err(PublishFailure::NotDone));
                }
            }
            Err(failure) => {
                if job.is_lifecycle() {
                    self.ledger.log_lifecycle_full();
                }
                job.answer(Err(failure));
            }
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Ledger {
    fn log_lifecycle_full(&self) {
        let mut full = self.lifecycle_full.lock().unwrap_or_else(PoisonError::into_inner);
        full.line(|unlogged| {
            let text = "an entry of the lifecycle stream is lost: too many wait for Redis";
            tracing::warn!(bound_bytes = LIFECYCLE_BYTES, unlogged, "{text}");
        });
    }
}

impl JobReceiver {
    /// The next job; `None` when nobody is left to hand one in, or after [`JobReceiver::close`]. Safe to cancel.
    pub(super) async fn recv(&mut self) -> Option<Job> {
        self.receiver.recv().await
    }

    /// The next job, if there is one.
    pub(super) fn try_recv(&mut self) -> Option<Job> {
        self.receiver.try_recv().ok()
    }

    /// A queue for some of these jobs: they stay accounted for where they came in.
    pub(super) fn branch(&self) -> (mpsc::UnboundedSender<Job>, JobReceiver) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, JobReceiver { receiver, ledger: self.ledger.clone() })
    }

    /// From here on nothing comes in; what is in can be taken out.
    pub(super) fn close(&mut self) {
        self.receiver.close();
    }

    /// Whether it is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.receiver.is_closed()
    }

    /// What all publishes that are not answered may take, in bytes.
    pub(super) fn bound_bytes(&self) -> usize {
        self.ledger.bound_bytes
    }

    /// What waits, and what became of what does not.
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
