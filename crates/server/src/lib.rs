//! The tokio shell and the binary's parts: configuration, tokens, sockets, shards, brokers, HTTP. What connections
//! may do and are shown is decided in `drawbridge-engine`; what bytes mean, in `drawbridge-protocol`.

pub mod auth;
pub mod broker;
pub mod bus;
pub mod cli;
pub mod clock;
mod cluster_reads;
pub mod config;
pub mod dev;
mod drain;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
mod https;
pub mod log;
pub mod metrics;
pub mod node;
mod object;
mod platform;
pub mod player_command;
pub mod refusals;
pub mod reload;
mod secret;
pub mod serve;
pub mod shard;
pub mod slots;
pub mod subcommands;
pub mod tls;
pub mod token_verifier;
