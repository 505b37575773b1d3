//! `drawbridge-loadgen`: load for a Drawbridge node, and the floor that it is measured against. Each subcommand
//! is one process with one event loop; `scripts/bench` starts them and compares. This file owns the command line
//! and nothing else. Nothing here imports the engine or the server: what is measured is only spoken to.

fn main() {}
