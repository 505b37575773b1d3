//! What the broker's contract suite stands on: Redis servers of its own, and a bench that holds a broker with its
//! shards' queues. Every wait is bounded; no test sleeps and hopes.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod bench;
pub mod ports;
pub mod server;

#[allow(unused_imports)]
pub use bench::Bench;
pub use server::{Flavour, Reply};
