//! What requests cost, and who pays: subscriptions of a player, work over entity tables, shares of what a channel bears.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod price_list;
mod shares;
mod subscribes;
mod turns;
mod work;
