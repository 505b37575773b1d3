//! In a Cluster, the writes of slots whose keys are on their way to another master: they wait with growing pauses while the writes of
//! all other slots go on. What Redis says about them is left to [`super::publisher`].
//!
//! Invariant: the writes of one slot keep their order. Those that come behind one that waits here wait here, too, and all of them go
//! back at once.

use std::collections::VecDeque;
use std::time::Duration;

use drawbridge_engine::io::WhenDown;
use hashbrown::HashSet;
use tokio::time::Instant;

use crate::broker::jobs::Job;

/// The first pause before the slots are tried again; it doubles each time, up to the last one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// How long a write waits whose class says `reject`: most keys move within this time.
const PATIENCE_OF_REJECT: Duration = Duration::from_millis(300);

/// See the module.
#[derive(Default)]
pub(super) struct MovingSlots {
    /// In the order of their coming, by its number.
    jobs: VecDeque<(u64, Job)>,
    slots: HashSet<u16>,
    /// When they are tried again, if there are any.
    again: Option<Instant>,
    pause: Duration,
}

impl MovingSlots {
    /// The keys that this write needs are not together just now.
    pub(super) fn add(&mut self, slot: u16, number: u64, mut job: Job, now: Instant) {
        if job.when_down == WhenDown::Reject {
            job.expires.get_or_insert((now + PATIENCE_OF_REJECT).into_std());
        }
        self.slots.insert(slot);
        self.jobs.push_back((number, job));
        if self.again.is_none() {
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
            self.again = Some(now + self.pause);
        }
    }

    /// Keeps a write that must not overtake one that waits here; returns it if there is none.
    pub(super) fn keep_behind(&mut self, slot: Option<u16>, number: u64, job: Job) -> Option<(u64, Job)> {
        if !slot.is_some_and(|slot| self.slots.contains(&slot)) {
            return Some((number, job));
        }
        self.jobs.push_back((number, job));
        None
    }

    /// When they are tried again; `None`: there are none.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Whether no write waits.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Puts all of them before the others, to be tried again.
    pub(super) fn put_back(&mut self, waiting: &mut VecDeque<(u64, Job)>) {
        self.jobs.make_contiguous().sort_unstable_by_key(|(number, _)| *number);
        for job in self.jobs.drain(..).rev() {
            waiting.push_front(job);
        }
        self.slots.clear();
        self.again = None;
    }

    /// The keys of all that was tried are together: the next pause is the first one again.
    pub(super) fn settled(&mut self) {
        if self.jobs.is_empty() {
            self.pause = Duration::ZERO;
        }
    }

    /// Drops those for which this does not hold.
    pub(super) fn retain(&mut self, holds: impl Fn(&Job) -> bool) {
        self.jobs.retain(|(_, job)| holds(job));
    }

    /// Those that wait.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().map(|(_, job)| job)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use drawbridge_engine::io::{Owner, Write, WriteKind};
    use drawbridge_engine::upstream::ShardId;

    use super::super::super::fanout::ShardFanout;
    use super::super::super::jobs::jobs;
    use super::super::super::queue::shard_queue;
    use super::*;

    fn some_jobs(when_down: WhenDown) -> Vec<(u64, Job)> {
        let ((shard, _), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let (sender, mut receiver) = jobs(1 << 20, ShardFanout::new(vec![shard], node));
        let kind = || WriteKind::Publish { channel: "room:1".into(), payload: Bytes::new() };
        let push = |number| {
            let write = Write { ticket: None, owner: Owner::Services, when_down, kind: kind() };
            sender.push(ShardId(0), write);
            (number, receiver.try_recv().expect("a job"))
        };
        (1..=4).map(push).collect()
    }

    fn numbers(jobs: &VecDeque<(u64, Job)>) -> Vec<u64> {
        jobs.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn what_comes_behind_waits_and_other_slots_do_not() {
        let (mut moving, now) = (MovingSlots::default(), Instant::now());
        let mut all = some_jobs(WhenDown::Queue).into_iter();
        let mut next = || all.next().expect("a job");
        let (number, first) = next();
        moving.add(7, number, first, now);
        let (number, same) = next();
        assert!(moving.keep_behind(Some(7), number, same).is_none());
        let (number, other) = next();
        let mut waiting: VecDeque<_> = moving.keep_behind(Some(8), number, other).into_iter().collect();
        assert_eq!(numbers(&waiting), [3]);
        assert_eq!(moving.again(), Some(now + FIRST_PAUSE));
        moving.put_back(&mut waiting);
        assert_eq!((numbers(&waiting), moving.again()), (vec![1, 2, 3], None));
        let (number, behind) = next();
        assert!(moving.keep_behind(Some(7), number, behind).is_some(), "none waits here now");
    }

    #[test]
    fn pauses_grow_until_the_keys_are_together() {
        let (mut moving, now) = (MovingSlots::default(), Instant::now());
        let mut waiting = VecDeque::from(some_jobs(WhenDown::Queue));
        for pause in [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4, FIRST_PAUSE * 8, LAST_PAUSE, LAST_PAUSE]
        {
            let (number, job) = waiting.pop_front().expect("a job");
            moving.add(7, number, job, now);
            moving.settled();
            assert_eq!(moving.again(), Some(now + pause));
            moving.put_back(&mut waiting);
        }
        moving.settled();
        let (number, job) = waiting.pop_front().expect("a job");
        assert_eq!(job.expires, None);
        moving.add(7, number, job, now);
        assert_eq!(moving.again(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn a_write_that_may_not_wait_waits_for_a_moment() {
        let (mut moving, now) = (MovingSlots::default(), Instant::now());
        for (number, job) in some_jobs(WhenDown::Reject) {
            moving.add(7, number, job, now);
        }
        let expiry = Some((now + PATIENCE_OF_REJECT).into_std());
        assert!(moving.jobs().all(|job| job.expires == expiry));
        moving.retain(|job| job.expires.is_none());
        assert!(moving.is_empty());
    }
}
