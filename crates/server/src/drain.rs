//! The end of a node, in the order that loses nothing: load balancers take it out while it goes on as before; everyone gets
//! `GOODBYE`, and is disconnected one after the other; what their sessions had to write is handed to the broker,
//! whose own shutdown then waits for Redis. The port is open until the process ends.

use std::time::Duration;

use crate::node::{Node, Phase};
use crate::shard::Mail;

/// How often a drain looks whether everybody has gone.
const POLL: Duration = Duration::from_millis(20);
/// How long requests that were accepted before everybody had gone may take to be answered.
const REQUEST_PATIENCE: Duration = Duration::from_millis(500);

/// Drains the node; afterwards only the broker is to be shut down.
pub(crate) async fn drain(node: &Node) {
    let (delay, window) = (node.config.drain_delay, node.config.drain_window);
    node.enter(Phase::Leaving);
    tracing::info!(
        sockets = node.sockets(),
        drain_delay = ?delay,
        drain_window = ?window,
        "not ready from now on: draining after drain_delay; a second signal ends the process at once"
    );
    tokio::time::sleep(delay).await;
    node.enter(Phase::Draining);
    tracing::info!(sockets = node.sockets(), "draining: clients are asked to reconnect");
    for shard in &node.shards {
        shard.send(Mail::Drain { window_ms: window.as_millis() as u64 });
    }
    if tokio::time::timeout(window, until(|| node.sockets() == 0)).await.is_err() {
        tracing::warn!(sockets = node.sockets(), "the drain window has ended before the last sockets");
    }
    let _ = tokio::time::timeout(REQUEST_PATIENCE, until(|| node.counters.handshakes.get() == 0)).await;
    // A shard answers behind all that it had for the broker.
    for shard in &node.shards {
        let _ = shard.stats().await;
    }
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(POLL).await;
    }
}
