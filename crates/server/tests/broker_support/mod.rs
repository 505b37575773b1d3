//! What the broker's contract suite stands on: Redis servers of its own, and a bench that holds a broker with its
//! shards' queues. Every wait is bounded; no test sleeps and hopes.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod bench;
mod cluster;
pub mod ports;
pub mod proxy;
mod sentinel;
pub mod server;

#[allow(unused_imports)]
pub use bench::Bench;
#[allow(unused_imports)]
pub use server::{Flavour, Reply};

/// Waits until this holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = std::time::Instant::now() + bench::PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < give_up, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
