//! Channels with history in virtual time: engines and hubs around a Redis that keeps logs, with links that break, answers that
//! come late, restarts that lose acknowledged events, logs that are trimmed, sockets that stall, shards that lose events,
//! nodes that crash, writes that fail, and players who come back with a cursor or resume their sessions, on the same node or
//! another one; all from one seed. And the same around the masters of a Redis Cluster, which fail over, come and go and give each
//! other slots, with sharded channels that have a log or none.
//!
//! The clients check what they read: one order, each logged event that their views show exactly once, or a `RESYNC` at the
//! place; never two histories without a word between them. `DRAWBRIDGE_SEED=7 cargo test -p drawbridge-engine --test logs`
//! repeats one run; `DRAWBRIDGE_SEEDS=10000` runs more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod bench;
mod client;
mod facts;
mod masters;
mod plain;
mod rules;
mod world;

use drawbridge_testkit::dice::for_each_seed;
use world::{Weather, World};

const STEPS: usize = 1_200;
const SEEDS: u64 = 150;
const CALM_SEEDS: u64 = 60;
const MASTERS_SEEDS: u64 = 200;
/// Slots that moved to and fro waited for each other; an unwant ended a want that was held before the slots moved on.
const FOUND_ON_MASTERS: [u64; 2] = [0, 34];
const CRASH_SEEDS: u64 = 200;
/// Seeds with crashes that once failed: a claim that was answered behind its withdrawal, and the end of a
/// session that Redis did not take. Both left records that named a node without the session.
const FOUND_IN_CRASHES: [u64; 9] = [1, 3, 76, 259, 487, 738, 875, 1_055, 1_139];

#[test]
fn every_logged_event_comes_once_or_its_loss_is_signalled() {
    for_each_seed("logs", SEEDS, |seed| run(seed, Weather::Foul));
}

/// Links break, answers come late, shards lose events and players come and go; but no log loses anything.
#[test]
fn nothing_is_signalled_where_nothing_is_lost() {
    for_each_seed("logs", CALM_SEEDS, |seed| run(seed, Weather::Breaks));
}

/// No subscription is lost, and none is left; on channels without history what is lost is signalled, too.
#[test]
fn nothing_is_lost_in_silence_while_masters_fail_over_and_slots_move() {
    for_each_seed("logs", MASTERS_SEEDS, |seed| run_in(World::on_masters(seed)));
}

#[test]
fn seeds_that_once_failed_on_masters_keep_the_contract() {
    FOUND_ON_MASTERS.into_iter().for_each(|seed| run_in(World::on_masters(seed)));
}

/// Nodes die, and players resume their sessions on any shard of any node, with claims that cross one another.
#[test]
fn a_session_has_one_owner_and_recovers_whole_wherever_it_is_resumed() {
    for_each_seed("logs", CRASH_SEEDS, |seed| run(seed, Weather::Crashes));
}

#[test]
fn no_record_names_a_node_that_lacks_its_session() {
    FOUND_IN_CRASHES.into_iter().for_each(|seed| run(seed, Weather::Crashes));
}

fn run(seed: u64, weather: Weather) {
    run_in(World::new(seed, weather));
}

fn run_in(mut world: World) {
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.check_settled();
    world.check_nothing_is_left();
}
