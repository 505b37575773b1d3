//! The queue of publishes: bounded in bytes, first in first out, each answered exactly once. What carries them
//! out (the memory broker, the Redis publisher) takes them from here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use drawbridge_engine::interest::ShardId;
use drawbridge_engine::io::{BrokerEvent, Commit, PublishFailure, Ticket, WhenDown};
use tokio::sync::mpsc;

use super::outlet::Outlet;

/// What a waiting publish costs beside its payload and name, in bytes; an estimate.
const OVERHEAD: usize = 128;

/// What is to be done in Redis.
#[derive(Debug)]
pub(super) enum Work {
    /// `PUBLISH`.
    Publish { channel: Arc<str>, payload: Bytes },
    /// An event of an entity channel: into the table and to its subscribers.
    Commit { channel: Arc<str>, commit: Commit },
    /// A player's view of a channel, and what nodes are told of it on which channel.
    View {
        player: Arc<str>,
        channel: Arc<str>,
        view: Option<Arc<str>>,
        tell: (Arc<str>, Bytes),
        /// Where it is kept already, nothing is done.
        unless_kept: bool,
    },
    /// `XADD`.
    Append { stream: Arc<str>, fields: Vec<(&'static str, Bytes)> },
}

impl Work {
    /// The channel or stream.
    pub(super) fn subject(&self) -> &str {
        match self {
            Work::Publish { channel, .. } | Work::Commit { channel, .. } | Work::View { channel, .. } => {
                channel
            }
            Work::Append { stream, .. } => stream,
        }
    }

    /// Whether it can be done by the same call as another before it.
    pub(super) fn joins(&self, other: &Work) -> bool {
        match (self, other) {
            (Work::Commit { channel, commit }, Work::Commit { channel: other, commit: before }) => {
                channel == other && (commit.max, commit.ttl_ms) == (before.max, before.ttl_ms)
            }
            _ => false,
        }
    }

    fn bytes(&self) -> usize {
        OVERHEAD
            + match self {
                Work::Publish { channel, payload } => channel.len() + payload.len(),
                Work::Commit { channel, commit } => {
                    channel.len() + commit.payload.len() + commit.key.len() + commit.id.len()
                }
                Work::View { player, channel, view, tell: (_, told), .. } => {
                    player.len() + channel.len() + view.as_ref().map_or(0, |view| view.len()) + told.len()
                }
                Work::Append { stream, fields } => {
                    stream.len() + fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
                }
            }
    }
}

/// A JSON object without its last brace, so that more can be said behind it.
pub(super) fn open_object(payload: &[u8]) -> &[u8] {
    payload.strip_suffix(b"}").unwrap_or(payload)
}

/// One publish on its way, and who waits for it. Dropped without an answer it is answered by what is known: that
/// it is not done, or, when it was handed to Redis, nothing.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) when_down: WhenDown,
    pub(super) bytes: usize,
    shard: ShardId,
    ticket: Option<Ticket>,
    ledger: Arc<Ledger>,
    handed: bool,
    answered: bool,
}

impl Job {
    /// It is handed to Redis, or came back undone.
    pub(super) fn set_handed(&mut self, handed: bool) {
        self.handed = handed;
    }

    /// Tells who waits.
    pub(super) fn answer(mut self, result: Result<(), PublishFailure>) {
        self.settle(result);
    }

    fn settle(&mut self, result: Result<(), PublishFailure>) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        self.ledger.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.ledger.settle(self.shard, self.ticket, result);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let failure = if self.handed { PublishFailure::Unknown } else { PublishFailure::NotDone };
        self.settle(Err(failure));
    }
}

/// What waits, and what became of what does not.
#[derive(Debug)]
pub(super) struct Ledger {
    bound_bytes: usize,
    outlet: Outlet,
    pub(super) bytes: AtomicUsize,
    pub(super) done: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) not_done: AtomicU64,
    pub(super) unknown: AtomicU64,
}

impl Ledger {
    fn settle(&self, shard: ShardId, ticket: Option<Ticket>, result: Result<(), PublishFailure>) {
        let count = match &result {
            Ok(()) => &self.done,
            Err(PublishFailure::Refused(_) | PublishFailure::LimitExceeded) => &self.refused,
            Err(PublishFailure::NotDone) => &self.not_done,
            Err(PublishFailure::Unknown) => &self.unknown,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(ticket) = ticket {
            self.outlet.tell(shard, BrokerEvent::Done { ticket, result });
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
pub(super) type JobReceiver = mpsc::UnboundedReceiver<Job>;

/// A queue that holds at most `bound_bytes` of publishes that are not answered.
pub(super) fn jobs(bound_bytes: usize, outlet: Outlet) -> (JobSender, JobReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let ledger = Ledger {
        bound_bytes,
        outlet,
        bytes: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        not_done: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
    };
    (JobSender { sender, ledger: Arc::new(ledger) }, receiver)
}

impl JobSender {
    /// Hands one in; over the bound, or when the broker has stopped, it is answered at once.
    pub(super) fn push(&self, shard: ShardId, ticket: Option<Ticket>, when_down: WhenDown, work: Work) {
        let bytes = work.bytes();
        let before = self.ledger.bytes.fetch_add(bytes, Ordering::Relaxed);
        let ledger = self.ledger.clone();
        let job = Job { work, when_down, bytes, shard, ticket, ledger, handed: false, answered: false };
        if before + bytes > self.ledger.bound_bytes {
            job.answer(Err(PublishFailure::NotDone));
        } else if let Err(back) = self.sender.send(job) {
            back.0.answer(Err(PublishFailure::NotDone));
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
