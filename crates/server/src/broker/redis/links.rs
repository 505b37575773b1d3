//! All links of a node, and on which thread they run: beside the only shard while that thread has time for both, because
//! a message then wakes one thread and not two; on the broker's own thread where it has not, or where there are
//! several shards. They move together, so that publications never come from two threads at once (ADR 0013).

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::link::{Call, Link};
use crate::broker::ThreadPlacement;
use crate::broker::link_metrics::LinkMetrics;

/// Runs the links until `stop`, from a task of the broker's thread.
pub(super) async fn run(
    mut links: Vec<Link>,
    placement: Option<ThreadPlacement>,
    link_metrics: &LinkMetrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut link_thread = placement.map(LinkThread::new);
    while !links.is_empty() {
        let thread = link_thread.as_ref().map_or_else(Handle::current, LinkThread::thread);
        let (caller, calls) = watch::channel(Call::Stay);
        let mut tasks = JoinSet::new();
        for link in links.drain(..) {
            tasks.spawn_on(link.run(calls.clone()), &thread);
        }
        let call = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Call::Stop,
            // No sender of hub commands is left.
            () = all_ended(&mut tasks) => Call::Stop,
            () = placement_change(&mut link_thread) => Call::Move,
        };
        if call == Call::Move {
            link_metrics.count_move();
        }
        let _ = caller.send(call);
        while let Some(link) = tasks.join_next().await {
            links.extend(link.ok().flatten());
        }
    }
}

async fn all_ended(tasks: &mut JoinSet<Option<Link>>) {
    while tasks.join_next().await.is_some() {}
}

/// Waits until the links are better off on the other thread; for ever, where there is no other.
async fn placement_change(link_thread: &mut Option<LinkThread>) {
    match link_thread {
        Some(link_thread) => link_thread.wait_for_move().await,
        None => std::future::pending().await,
    }
}

/// On which thread the links run, and what that depends on.
struct LinkThread {
    shard: ThreadLoad,
    broker: ThreadLoad,
    rule: PlacementRule,
    sample_every: Duration,
}

impl LinkThread {
    fn new(placement: ThreadPlacement) -> Self {
        let ThreadPlacement { thread, sample_every, high_watermark, low_watermark } = placement;
        let (shard, broker) = (ThreadLoad::new(thread), ThreadLoad::new(Handle::current()));
        LinkThread { shard, broker, rule: PlacementRule::new(high_watermark, low_watermark), sample_every }
    }

    fn thread(&self) -> Handle {
        if self.rule.beside_shard { self.shard.thread.clone() } else { self.broker.thread.clone() }
    }

    async fn wait_for_move(&mut self) {
        loop {
            sleep(self.sample_every).await;
            if self.rule.should_move(self.shard.share(), self.broker.share()) {
                return;
            }
        }
    }
}

/// What part of its time a thread works.
struct ThreadLoad {
    thread: Handle,
    at: Instant,
    busy: Duration,
}

impl ThreadLoad {
    fn new(thread: Handle) -> Self {
        let busy = thread.metrics().worker_total_busy_duration(0);
        ThreadLoad { thread, at: Instant::now(), busy }
    }

    /// The part of the time since the last sample in which it did not wait for something to do, from 0 to 1.
    fn share(&mut self) -> f64 {
        let before = std::mem::replace(self, ThreadLoad::new(self.thread.clone()));
        let busy = self.busy.saturating_sub(before.busy).as_secs_f64();
        busy / (self.at - before.at).as_secs_f64().max(f64::EPSILON)
    }
}

/// Decides between one thread for shard and links, and two.
struct PlacementRule {
    /// A thread for both that works more than this part of its time has too much to do.
    high_watermark: f64,
    /// Two threads that work less than this together have room on one.
    low_watermark: f64,
    beside_shard: bool,
    /// What part of its time the shard's thread works, and the broker's: smoothed, so that a moment moves nothing.
    shard: f64,
    broker: f64,
    /// Samples in a row below the low watermark.
    low_samples: u32,
}

impl PlacementRule {
    /// Samples below the low watermark until the links return, so that a changing load does not move them to and fro.
    const SAMPLES_UNTIL_RETURN: u32 = 40;

    fn new(high_watermark: f64, low_watermark: f64) -> Self {
        PlacementRule {
            high_watermark,
            low_watermark,
            beside_shard: true,
            shard: 0.0,
            broker: 0.0,
            low_samples: 0,
        }
    }

    /// Adds a sample of both threads. Returns whether the links are to move, and assumes that they do.
    fn should_move(&mut self, shard: f64, broker: f64) -> bool {
        self.shard = f64::midpoint(self.shard, shard);
        self.broker = f64::midpoint(self.broker, broker);
        let is_low = self.shard + self.broker < self.low_watermark;
        self.low_samples = if is_low && !self.beside_shard { self.low_samples + 1 } else { 0 };
        let moves = match self.beside_shard {
            true => self.shard > self.high_watermark,
            false => self.low_samples >= Self::SAMPLES_UNTIL_RETURN,
        };
        self.beside_shard ^= moves;
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH: f64 = 0.7;
    const LOW: f64 = 0.5;

    /// At which of so many samples the links move.
    fn moves(rule: &mut PlacementRule, shard: f64, broker: f64, samples: u32) -> Vec<u32> {
        (1..=samples).filter(|_| rule.should_move(shard, broker)).collect()
    }

    #[test]
    fn the_links_leave_a_busy_thread_and_return_when_both_have_time() {
        let mut rule = PlacementRule::new(HIGH, LOW);
        assert!(moves(&mut rule, 0.65, 0.1, 500).is_empty());
        assert_eq!(moves(&mut rule, 1.0, 0.0, 10), vec![1]);
        assert!(moves(&mut rule, 0.4, 0.2, 500).is_empty());
        assert_eq!(moves(&mut rule, 0.3, 0.1, 100).len(), 1);
        assert!(rule.beside_shard);
    }

    #[test]
    fn a_moment_moves_nothing() {
        let mut rule = PlacementRule::new(HIGH, LOW);
        for _ in 0..50 {
            assert!(!rule.should_move(1.0, 0.1));
            assert!(moves(&mut rule, 0.1, 0.1, 3).is_empty());
        }
        assert!(!moves(&mut rule, 1.0, 0.1, 5).is_empty());
        for _ in 0..50 {
            assert!(moves(&mut rule, 0.1, 0.1, 39).is_empty());
            assert!(!rule.should_move(1.0, 0.1));
        }
    }

    /// A runtime counts what it did when it is done: late, and all at once.
    #[test]
    fn one_long_turn_counts_for_all_of_its_time() {
        let mut rule = PlacementRule::new(HIGH, LOW);
        assert!(moves(&mut rule, 0.0, 0.0, 3).is_empty());
        assert!(rule.should_move(4.0, 0.0));
    }

    #[test]
    fn idle_threads_are_seen_as_idle() {
        let thread = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut busy = ThreadLoad::new(thread.handle().clone());
        thread.block_on(async {
            std::thread::sleep(Duration::from_millis(20));
            sleep(Duration::from_millis(1)).await;
        });
        assert!(busy.share() > 0.0);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(busy.share(), 0.0);
    }
}
