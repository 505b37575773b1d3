//! All links of a node, and on which thread they run: beside the only shard while that thread has time for both, because
//! a message then wakes one thread and not two; on the broker's own thread where it has not, or where there are
//! several shards. They move together, so that publications never come from two threads at once (ADR 0013).

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::link::{Call, Link};
use crate::broker::Neighbour;
use crate::broker::link_metrics::LinkMetrics;

/// Runs the links until they are told to stop, from a task of the broker's thread.
pub(super) async fn run(
    mut links: Vec<Link>,
    neighbour: Option<Neighbour>,
    link_metrics: &LinkMetrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut place = neighbour.map(Place::new);
    while !links.is_empty() {
        let thread = place.as_ref().map_or_else(Handle::current, Place::thread);
        let (caller, calls) = watch::channel(Call::Stay);
        let mut tasks = JoinSet::new();
        for link in links.drain(..) {
            tasks.spawn_on(link.run(calls.clone()), &thread);
        }
        let call = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Call::Stop,
            // Nobody is left to order anything.
            () = all_ended(&mut tasks) => Call::Stop,
            () = better_place(&mut place) => Call::Move,
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
async fn better_place(place: &mut Option<Place>) {
    match place {
        Some(place) => place.tips().await,
        None => std::future::pending().await,
    }
}

/// Where the links are, and what speaks for it.
struct Place {
    shard: Busy,
    broker: Busy,
    scales: Scales,
    look_every: Duration,
}

impl Place {
    fn new(neighbour: Neighbour) -> Self {
        let Neighbour { thread, look_every, crowded, calm } = neighbour;
        let (shard, broker) = (Busy::new(thread), Busy::new(Handle::current()));
        Place { shard, broker, scales: Scales::new(crowded, calm), look_every }
    }

    fn thread(&self) -> Handle {
        if self.scales.beside_shard { self.shard.thread.clone() } else { self.broker.thread.clone() }
    }

    async fn tips(&mut self) {
        loop {
            sleep(self.look_every).await;
            if self.scales.weigh(self.shard.share(), self.broker.share()) {
                return;
            }
        }
    }
}

/// What part of its time a thread works.
struct Busy {
    thread: Handle,
    at: Instant,
    busy: Duration,
}

impl Busy {
    fn new(thread: Handle) -> Self {
        let busy = thread.metrics().worker_total_busy_duration(0);
        Busy { thread, at: Instant::now(), busy }
    }

    /// Since the last question, from 0 to 1: all time but that in which it waited for something to do.
    fn share(&mut self) -> f64 {
        let before = std::mem::replace(self, Busy::new(self.thread.clone()));
        let busy = self.busy.saturating_sub(before.busy).as_secs_f64();
        busy / (self.at - before.at).as_secs_f64().max(f64::EPSILON)
    }
}

/// Weighs two threads against one.
struct Scales {
    /// A thread for both that works more than this part of its time has too much to do.
    crowded: f64,
    /// Two threads that work less than this together have room on one.
    calm: f64,
    beside_shard: bool,
    /// What part of its time the shard's thread works, and the broker's: smoothed, so that a moment moves nothing.
    shard: f64,
    broker: f64,
    /// Looks in a row that saw calm.
    calm_looks: u32,
}

impl Scales {
    /// Coming back waits, so that what comes and goes does not move the links to and fro.
    const LOOKS_UNTIL_TOGETHER: u32 = 40;

    fn new(crowded: f64, calm: f64) -> Self {
        Scales { crowded, calm, beside_shard: true, shard: 0.0, broker: 0.0, calm_looks: 0 }
    }

    /// Takes in what the threads did since the last look; says whether the links are to move, and takes it that they do.
    fn weigh(&mut self, shard: f64, broker: f64) -> bool {
        self.shard = f64::midpoint(self.shard, shard);
        self.broker = f64::midpoint(self.broker, broker);
        let is_calm = self.shard + self.broker < self.calm;
        self.calm_looks = if is_calm && !self.beside_shard { self.calm_looks + 1 } else { 0 };
        let moves = match self.beside_shard {
            true => self.shard > self.crowded,
            false => self.calm_looks >= Self::LOOKS_UNTIL_TOGETHER,
        };
        self.beside_shard ^= moves;
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROWDED: f64 = 0.7;
    const CALM: f64 = 0.5;

    /// At which of so many looks the links move.
    fn moves(scales: &mut Scales, shard: f64, broker: f64, looks: u32) -> Vec<u32> {
        (1..=looks).filter(|_| scales.weigh(shard, broker)).collect()
    }

    #[test]
    fn a_crowded_thread_sends_the_links_away_and_calm_brings_them_back() {
        let mut scales = Scales::new(CROWDED, CALM);
        assert!(moves(&mut scales, 0.65, 0.1, 500).is_empty());
        assert_eq!(moves(&mut scales, 1.0, 0.0, 10), vec![1]);
        assert!(moves(&mut scales, 0.4, 0.2, 500).is_empty());
        assert_eq!(moves(&mut scales, 0.3, 0.1, 100).len(), 1);
        assert!(scales.beside_shard);
    }

    #[test]
    fn a_moment_moves_nothing() {
        let mut scales = Scales::new(CROWDED, CALM);
        for _ in 0..50 {
            assert!(!scales.weigh(1.0, 0.1));
            assert!(moves(&mut scales, 0.1, 0.1, 3).is_empty());
        }
        assert!(!moves(&mut scales, 1.0, 0.1, 5).is_empty());
        for _ in 0..50 {
            assert!(moves(&mut scales, 0.1, 0.1, 39).is_empty());
            assert!(!scales.weigh(1.0, 0.1));
        }
    }

    /// A runtime counts what it did when it is done: late, and all at once.
    #[test]
    fn one_long_turn_counts_for_all_of_its_time() {
        let mut scales = Scales::new(CROWDED, CALM);
        assert!(moves(&mut scales, 0.0, 0.0, 3).is_empty());
        assert!(scales.weigh(4.0, 0.0));
    }

    #[test]
    fn idle_threads_are_seen_as_idle() {
        let thread = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut busy = Busy::new(thread.handle().clone());
        thread.block_on(async {
            std::thread::sleep(Duration::from_millis(20));
            sleep(Duration::from_millis(1)).await;
        });
        assert!(busy.share() > 0.0);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(busy.share(), 0.0);
    }
}
