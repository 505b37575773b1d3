//! What the core is told once, at start: validated values, no strings left to parse.

use std::sync::Arc;

use drawbridge_protocol::template::Template;

use crate::class::Classes;

/// How one node's engines behave. Durations in milliseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name, in `WELCOME` and the lifecycle stream.
    pub node: Arc<str>,
    /// The classes of channels.
    pub classes: Arc<Classes>,
    /// Filled from each player's claims at `CONNECT`.
    pub auto_subscribe: Vec<Template>,
    /// Whether a `CONNECT` without a token is welcome.
    pub allow_anonymous: bool,
    /// How long a socket may stay without a good token.
    pub connect_timeout_ms: u64,
    /// How often each connection is pinged.
    pub heartbeat_ms: u64,
    /// The bound of what waits for one connection.
    pub outbound_bytes: usize,
    /// The bound of one message from a client.
    pub message_bytes: usize,
    /// How many subscriptions one connection may hold.
    pub subscriptions: usize,
    /// Messages per connection.
    pub messages: Rate,
    /// Subscribe and unsubscribe requests per connection.
    pub subscribes: Rate,
    /// Bytes per connection.
    pub bytes: Rate,
    /// Messages per player, over all of the node's connections.
    pub messages_per_player: Option<Rate>,
    /// Messages per address, over all of the node's connections.
    pub messages_per_address: Option<Rate>,
    /// Where lifecycle entries are appended; `None`: nowhere.
    pub lifecycle_stream: Option<Arc<str>>,
    /// Channel names that begin so are the server's own: no client sees or touches them.
    pub reserved_prefix: Arc<str>,
    /// `dev`: say which class and rule refused.
    pub explain: bool,
}

/// A token bucket: refilled at `per_second`, holding at most `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second; at least 1.
    pub per_second: u64,
    /// The most tokens that can be saved up; at least 1.
    pub burst: u64,
}
