//! Channels with history in virtual time: engines and hubs around a Redis that keeps logs, with links that break, answers that
//! come late, restarts that lose acknowledged events, logs that are trimmed, sockets that stall, shards that lose events,
//! and players who come back with a cursor, to the same node or another one; all from one seed.
//!
//! The clients check what they read: one order, each logged event that their views show exactly once, or a `RESYNC` at the
//! place; never two histories without a word between them. `DRAWBRIDGE_SEED=7 cargo test -p drawbridge-engine --test logs`
//! repeats one run; `DRAWBRIDGE_SEEDS=10000` runs more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod bench;
mod client;
mod facts;
mod rules;
mod world;

use drawbridge_testkit::dice::for_each_seed;
use world::{Weather, World};

const STEPS: usize = 1_200;
const SEEDS: u64 = 150;
const CALM_SEEDS: u64 = 60;

#[test]
fn every_logged_event_comes_once_or_its_loss_is_signalled() {
    for_each_seed("logs", SEEDS, |seed| run(seed, Weather::Foul));
}

/// Links break, answers come late, shards lose events and players come and go; but no log loses anything.
#[test]
fn nothing_is_signalled_where_nothing_is_lost() {
    for_each_seed("logs", CALM_SEEDS, |seed| run(seed, Weather::Breaks));
}

fn run(seed: u64, weather: Weather) {
    let mut world = World::new(seed, weather);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.check_settled();
    world.check_nothing_is_left();
}
