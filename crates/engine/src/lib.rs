//! The sans-IO core: what a connection may do, what it is subscribed to, what it is shown, and what waits for it.
//!
//! Two deterministic state machines, driven from outside: [`engine::Engine`], one per shard, and
//! [`upstream::Hub`], one per link to Redis. Neither does I/O, reads a clock, or rolls dice.
//!
//! `examples/by_hand.rs` drives an engine in about fifty lines: the loop that every host writes.

mod access;
pub mod address_slots;
pub mod area;
mod audience;
pub mod backlog;
pub mod class;
mod connecting;
pub mod engine;
pub mod explain;
pub mod expr;
mod filter_index;
mod grid;
mod ids;
pub mod io;
mod key;
mod keyed_slab;
mod link;
mod node_sessions;
mod outbox;
pub mod path;
mod pattern_index;
mod permissions;
mod phase;
mod player_slots;
mod position;
mod presence;
mod publication;
mod query;
mod question;
mod rate;
pub mod rate_limit;
mod recent;
mod reserved;
mod secret;
mod session;
pub mod settings;
mod shown_logs;
pub mod stats;
mod subject;
mod targets;
pub mod upstream;
mod view;
mod view_overrides;
pub mod work;
mod world;
mod write;
