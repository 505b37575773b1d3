//! `drawbridge-loadgen`: load for a Drawbridge node, and the floor that it is measured against. Each subcommand
//! is one process with one event loop; `scripts/bench`, `scripts/bench-views` and `scripts/bench-resume` start them and compare. This file
//! owns the command line and nothing else. Nothing here imports the engine or the server: what is measured is only
//! spoken to.

mod channels;
mod client;
mod console;
mod entity;
mod event;
mod floor;
mod handshake;
mod idle;
mod publish;
mod redis;
mod resume;
mod subscribe;
mod token;
mod watch;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load for a Drawbridge node, and the floor that it is measured against.
///
/// Every subcommand prints one JSON object a line on standard output. Those that stay until told otherwise
/// print a report for each line on standard input and stop at its end.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write one pre-encoded frame per socket and message from one epoll loop: the least that fan-out can cost
    Floor(floor::FloorArgs),
    /// Open WebSockets, count their events, and measure their order and latency
    Subscribe(subscribe::SubscribeArgs),
    /// Publish 200-byte events to Redis at a fixed rate, whatever becomes of them (an open loop)
    Publish(publish::PublishArgs),
    /// Open WebSockets that each look at a part of a world, and check and measure what they are shown
    Watch(watch::WatchArgs),
    /// Move the entities of a world, tick by tick, whatever becomes of it (an open loop)
    World(world::WorldArgs),
    /// Open WebSockets with three subscriptions each, and hold them
    Idle(idle::IdleArgs),
    /// Open WebSockets that lose their connections at random and resume, and check that nothing is missing
    Resume(resume::ResumeArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Floor(args) => floor::run(args),
        Command::Subscribe(args) => subscribe::run(args),
        Command::Publish(args) => publish::run(args),
        Command::Watch(args) => watch::run(args),
        Command::World(args) => world::run(args),
        Command::Idle(args) => idle::run(args),
        Command::Resume(args) => resume::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drawbridge-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}
