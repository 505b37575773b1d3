//! One shard's engine and one link's hub, driven by a sequence of inputs: sockets come, say anything, stall and vanish;
//! services publish anything; Redis answers, refuses, breaks and comes back; time passes. Never a panic; what waits is
//! bounded; nothing is written to who is not there or does not read; and when everybody has gone nothing is left.
#![no_main]

mod client;
mod world;

use libfuzzer_sys::fuzz_target;

/// So that one input takes milliseconds.
const MAX_STEPS: usize = 300;

fuzz_target!(|bytes: &[u8]| {
    let mut world = world::World::new(bytes);
    for _ in 0..MAX_STEPS {
        if !world.step() {
            break;
        }
    }
    world.everybody_leaves();
    world.settle();
    world.check_nothing_is_left();
});
