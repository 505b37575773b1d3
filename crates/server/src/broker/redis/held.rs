//! Entries of the lifecycle stream on their way to Redis: in order, and tried again until Redis takes them. An entry that
//! Redis refused, because it is full, say, holds up those behind it, and is tried alone after a pause that grows.
//!
//! Invariant: entries of one player never change places. Why a pipeline has at most one of each player: Redis may refuse
//! one entry and take the next.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashSet;
use tokio::time::Instant;

use crate::broker::jobs::Job;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// See the module. What it may hold is bounded where jobs are handed in.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By the number of their coming.
    entries: VecDeque<(u64, Job)>,
    /// The players of the entries in the pipeline that is made.
    players: HashSet<Bytes>,
    /// Since the first one was refused: how long the pause was, and when it ends.
    pause: Option<(Duration, Instant)>,
}

impl Held {
    /// One more entry; `number` says when it came among all jobs.
    pub(super) fn push(&mut self, number: u64, entry: Job) {
        self.entries.push_back((number, entry));
    }

    /// When the first may be sent; `None`: there is none.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        let now = Instant::now();
        self.entries.front().map(|_| self.pause.map_or(now, |(_, ends)| ends))
    }

    /// Whether there is nothing to send, now or later.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Another pipeline begins.
    pub(super) fn begin(&mut self) {
        self.players.clear();
    }

    /// The next entry if it may be sent in this pipeline and came before `other`. Where an entry was refused, it is the only
    /// one until it is taken.
    pub(super) fn next_before(&mut self, other: Option<u64>) -> Option<(u64, Job)> {
        let (number, job) = self.entries.front()?;
        if other.is_some_and(|other| other < *number) {
            return None;
        }
        let player = job.work.player().cloned().unwrap_or_default();
        if self.players.contains(&player) {
            return None;
        }
        if let Some((pause, ends)) = self.pause {
            let now = Instant::now();
            if now < ends {
                return None;
            }
            self.pause = Some((pause, now + pause));
        }
        self.players.insert(player);
        self.entries.pop_front()
    }

    /// These were not taken, and come first again.
    pub(super) fn put_back(&mut self, entries: Vec<(u64, Job)>) {
        for (number, mut entry) in entries.into_iter().rev() {
            entry.set_handed(false);
            self.entries.push_front((number, entry));
        }
    }

    /// Redis refused an entry.
    pub(super) fn refused(&mut self) {
        let pause = self.pause.map_or(FIRST_PAUSE, |(pause, _)| (pause * 2).min(LAST_PAUSE));
        self.pause = Some((pause, Instant::now() + pause));
    }

    /// Redis took all that was sent.
    pub(super) fn taken(&mut self) {
        self.pause = None;
    }
}
