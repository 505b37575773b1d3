//! Whole clusters in virtual time: engines and hubs around a Redis that does nothing but Pub/Sub, with links that
//! break, sockets that stall and players that vanish, all from one seed.
//!
//! The clients check what they read: one order, no event twice, rights and views, nothing before it was confirmed,
//! nothing acknowledged that Redis has not, nothing lost in silence; and at the end nothing is left.
//! `DRAWBRIDGE_SEED=7 cargo test -p drawbridge-engine --test simulation` repeats one run;
//! `DRAWBRIDGE_SEEDS=10000` runs more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod client;
mod world;

use drawbridge_testkit::dice::for_each_seed;
use world::World;

const STEPS: usize = 1_500;
const SEEDS: u64 = 150;
const CALM_SEEDS: u64 = 40;

#[test]
fn every_seed_keeps_the_contract() {
    for_each_seed("simulation", SEEDS, run);
}

/// Entries move between links all the time, and nobody notices.
#[test]
fn moves_between_links_cost_nobody_a_gap() {
    for seed in 0..CALM_SEEDS {
        let mut world = World::new(seed);
        world.calm = true;
        (0..STEPS).for_each(|_| world.step());
        world.settle();
        world.check_settled();
        world.check_presence();
        world.check_no_gaps();
        world.check_no_leak();
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.check_settled();
    world.check_presence();
    world.check_no_leak();
}
