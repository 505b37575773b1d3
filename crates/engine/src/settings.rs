//! What the core receives once, at start: validated values, no strings left to parse.

use std::sync::Arc;

use drawbridge_protocol::template::Template;

use crate::class::Classes;
pub use crate::rate::Rate;
pub use crate::reserved::{CONTROL_CHANNEL, Reserved};

/// How one node's engines behave. Durations in milliseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name, in `WELCOME` and the lifecycle stream.
    pub node: Arc<str>,
    /// Names this start of the node, and no other start of any node: what is stored of sessions and presence names its owner
    /// by it, as does [`PlayerAction::TakenOver`](crate::io::PlayerAction::TakenOver).
    pub instance: Arc<str>,
    /// The classes of channels.
    pub classes: Arc<Classes>,
    /// Filled from each player's claims at `CONNECT`.
    pub auto_subscribe: Vec<Template>,
    /// Whether a `CONNECT` without a token is welcome.
    pub allow_anonymous: bool,
    /// How long a socket may stay without a good token.
    pub connect_timeout_ms: u64,
    /// How long a token is good beyond its `exp`, in milliseconds: clocks differ.
    pub token_leeway_ms: u64,
    /// How often each connection is pinged.
    pub heartbeat_ms: u64,
    /// How long a session outlives its connection; 0: not at all.
    pub resume_window_ms: u64,
    /// How many sessions of one player may be detached, over all of the node's shards; at least 1.
    pub detached_per_player: usize,
    /// The bound of what waits for all of the node's detached sessions.
    pub detached_bytes: usize,
    /// The bound of what waits for one connection.
    pub outbound_bytes: usize,
    /// The bound of one message from a client.
    pub message_bytes: usize,
    /// How many subscriptions one connection may hold.
    pub subscriptions: usize,
    /// How many patterns one player may hold, over all of the node's connections.
    pub patterns_per_player: usize,
    /// How many sessions of one shard may connect at once, and how many more may wait for that.
    pub connecting: usize,
    /// Messages per connection.
    pub messages: Rate,
    /// Subscribe requests per connection; see also [`Settings::subscribes_per_player`].
    pub subscribes: Rate,
    /// Bytes per connection.
    pub bytes: Rate,
    /// Connections per player, over all of the node's shards; `None`: any number.
    pub connections_per_player: Option<PlayerConnections>,
    /// Work over entity tables and filters, per connection and per player, in tokens of
    /// [`STEPS_PER_TOKEN`](crate::work::STEPS_PER_TOKEN) steps.
    pub work: Rate,
    /// Messages per player, over all of the node's connections.
    pub messages_per_player: Option<Rate>,
    /// Connections and detached sessions per address, over all of the node's shards; `None`: any number.
    pub connections_per_address: Option<u32>,
    /// Messages per address, over all of the node's connections.
    pub messages_per_address: Option<Rate>,
    /// Where lifecycle entries are appended; `None`: nowhere.
    pub lifecycle_stream: Option<Arc<str>>,
    /// The server's own channel names: no client sees or touches them.
    pub reserved: Reserved,
    /// The bound of one payload on a channel, in bytes.
    pub external_bytes: usize,
    /// Where Redis does not let this node read players' views (`NOPERM`), the classes' views alone hold. Else nothing is
    /// shown to the player.
    pub views_open_without_permission: bool,
    /// What the snapshots of entity channels do in one turn, in steps of [`crate::work`]; the rest is left to the turns behind it.
    /// One turn does at least an entity; at least 1.
    pub snapshot_steps: u64,
    /// `dev`: say which class and rule refused.
    pub explain: bool,
}

impl Settings {
    /// Subscriptions of one player, over all of the player's connections to this node, however they are requested: a
    /// reconnect with as many as a connection may hold passes, and the rate is that of [`Settings::subscribes`].
    pub fn subscribes_per_player(&self) -> Rate {
        Rate { per_second: self.subscribes.per_second, burst: self.subscriptions as u64 }
    }
}

/// How many connections of one player a node holds, and what happens to one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayerConnections {
    /// The most; at least 1.
    pub max: usize,
    /// What happens beyond it.
    pub when_exceeded: WhenExceeded,
}

/// What happens to a player's connection beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenExceeded {
    /// It is let in, and the player's oldest is closed.
    CloseOldest,
    /// It is closed.
    Refuse,
}
