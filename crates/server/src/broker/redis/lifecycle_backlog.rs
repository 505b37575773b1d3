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
pub(super) struct LifecycleBacklog {
    /// By the number of their coming.
    entries: VecDeque<(u64, Job)>,
    /// The players of the entries in the pipeline that is made.
    players: HashSet<Bytes>,
    /// Since the first one was refused: how long the pause was, and when it ends.
    pause: Option<(Duration, Instant)>,
}

impl LifecycleBacklog {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use drawbridge_engine::io::{Owner, WhenDown, Write, WriteKind};
    use drawbridge_engine::upstream::ShardId;

    use super::*;
    use crate::broker::fanout::ShardFanout;
    use crate::broker::jobs::jobs;
    use crate::broker::queue::shard_queue;

    /// Entries of these players, in this order.
    fn held(players: &[&'static str]) -> LifecycleBacklog {
        let ((queue, _), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let (sender, mut receiver) = jobs(1 << 20, ShardFanout::new(vec![queue], node));
        let mut held = LifecycleBacklog::default();
        for (number, player) in (0..).zip(players) {
            let fields = vec![("event", Bytes::from("joined")), ("player", Bytes::from(*player))];
            let kind = WriteKind::Append { stream: "lives".into(), fields };
            let write = Write { ticket: None, owner: Owner::Lifecycle, when_down: WhenDown::Queue, kind };
            sender.push(ShardId(0), write);
            held.push(number, receiver.try_recv().unwrap());
        }
        held
    }

    fn pipeline(held: &mut LifecycleBacklog) -> Vec<(u64, Job)> {
        held.begin();
        std::iter::from_fn(|| held.next_before(None)).collect()
    }

    fn numbers(entries: &[(u64, Job)]) -> Vec<u64> {
        entries.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn a_pipeline_has_one_entry_of_each_player() {
        let mut held = held(&["a", "b", "a", "c", "b", "b"]);
        let pipelines: Vec<Vec<u64>> = (0..4).map(|_| numbers(&pipeline(&mut held))).collect();
        assert_eq!(pipelines, [vec![0, 1], vec![2, 3, 4], vec![5], vec![]]);
    }

    #[test]
    fn an_entry_that_was_refused_is_tried_before_the_next_of_its_player() {
        let mut held = held(&["a", "b", "a"]);
        let mut sent = pipeline(&mut held);
        // Redis takes that of `b` only.
        sent.truncate(1);
        held.put_back(sent);
        let sent = pipeline(&mut held);
        assert_eq!(numbers(&sent), [0]);
        assert_eq!(numbers(&pipeline(&mut held)), [2]);
    }
}
