//! What requests cost, and who pays: subscriptions of a player, work over entity tables, shares of what a channel bears.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, dead_code)]

#[path = "../entities/bench.rs"]
mod bench;
mod price_list;
mod requests_of;
mod shares;
mod subscribes;
mod work;
