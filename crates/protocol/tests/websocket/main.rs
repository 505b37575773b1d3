//! The WebSocket codec by its public face: exact bytes, every violation, sizes, random streams in random pieces, and
//! another implementation at the other end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod drain;
mod frames;
mod other_implementation;
mod sizes;
mod streams;
mod violations;
