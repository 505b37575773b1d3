//! What can be written through the broker: one [`Write`] of any [`WriteKind`], answered once by one [`Outcome`]. Every kind
//! waits in the same queue, under the same bounds in bytes, and is withdrawn at the same deadline; a kind says here what it
//! is and what it weighs. How it is sent to Redis is the server's (`broker/redis/writes.rs`).

use std::sync::Arc;

use bytes::Bytes;

use crate::class::WhenDown;
use crate::io::{LogPosition, SessionHash, Ticket};

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    /// Names it for its outcome; `None`: nobody waits for it.
    pub ticket: Option<Ticket>,
    /// Whose share of the queue it takes.
    pub owner: Owner,
    /// What happens while Redis is away.
    pub when_down: WhenDown,
    /// What is written.
    pub kind: WriteKind,
}

/// Redis has taken it, and where it is in the channel's log, if it was logged; or why not.
pub type Outcome = Result<Option<LogPosition>, PublishFailure>;

/// Who writes: shares of the queue are counted by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A player, over all its connections.
    Player(Arc<str>),
    /// All services together, over HTTP and the control channel.
    Services,
    /// The node, who writes which of its sessions are present on which channels.
    Presence,
    /// The node: entries of the lifecycle stream have their own bound, and are retried until Redis takes them.
    Lifecycle,
    /// The node: the delivery probes of its links, one at a time each.
    Probe,
}

/// What can be written.
#[derive(Clone, Debug)]
pub enum WriteKind {
    /// `PUBLISH`.
    Publish {
        /// The channel.
        channel: Arc<str>,
        /// The whole payload.
        payload: Bytes,
    },
    /// An entity's state: into its channel's table and to its subscribers, in one step (contract §5).
    Commit {
        /// The entity channel.
        channel: Arc<str>,
        /// What is stored and published.
        commit: Commit,
    },
    /// An event of a channel with `history`: into its log and to its subscribers, in one step (contract §4).
    Log {
        /// The channel.
        channel: Arc<str>,
        /// What is stored and published.
        entry: LogEntry,
    },
    /// What a session consists of: stored for whichever node takes it up, if it is still this node's.
    SaveSession {
        /// Its player; the record is in the player's slot.
        player: Arc<str>,
        /// Which session.
        session: SessionHash,
        /// The generation under which this node has it; 1 for a new one.
        generation: u64,
        /// Opaque to the store. Over [`MAX_SESSION_BYTES`] it is stored as empty, which means that only
        /// the session's name is known.
        content: Bytes,
    },
    /// A session has ended, or the connection that it was claimed for is gone: nothing is kept of it, if it is still this node's.
    EndSession {
        /// Its player.
        player: Arc<str>,
        /// Which session.
        session: SessionHash,
        /// As in [`WriteKind::SaveSession`].
        generation: u64,
        /// How long it may still be claimed, in milliseconds; 0: not at all.
        window_ms: u64,
    },
    /// A session is present on a channel, or no longer. Notifies the channel's subscribers where the class says so.
    Presence {
        /// The channel.
        channel: Arc<str>,
        /// The session's player.
        player: Arc<str>,
        /// Which session.
        session: SessionHash,
        /// As in [`WriteKind::SaveSession`]: a later one's presence stays.
        generation: u64,
        /// Whether it is.
        is_present: bool,
        /// Whether subscribers are notified of players who come and go.
        notify: bool,
    },
    /// A player's view of one channel: stored, and announced to every node, in one step (contract §9).
    SetOverride {
        /// The player id.
        player: Arc<str>,
        /// The real channel.
        channel: Arc<str>,
        /// The expression; `None`: the class's view alone again.
        view: Option<Arc<str>>,
        /// The channel on which nodes are notified, and the payload.
        announcement: (Arc<str>, Bytes),
        /// Do nothing if it is stored already: every node that receives a service's command writes the same.
        if_absent: bool,
    },
    /// `XADD`.
    Append {
        /// The stream's key.
        stream: Arc<str>,
        /// The entry.
        fields: Vec<(&'static str, Bytes)>,
    },
}

/// How long the content of [`WriteKind::SaveSession`] is at most, in bytes.
pub const MAX_SESSION_BYTES: usize = 64 << 10;

/// What a waiting write costs beside its content, in bytes; an estimate.
const OVERHEAD: usize = 128;

impl WriteKind {
    /// The channel or the stream's key.
    pub fn subject(&self) -> &str {
        match self {
            WriteKind::Publish { channel, .. }
            | WriteKind::Commit { channel, .. }
            | WriteKind::Log { channel, .. }
            | WriteKind::Presence { channel, .. }
            | WriteKind::SetOverride { channel, .. } => channel,
            WriteKind::SaveSession { player, .. } | WriteKind::EndSession { player, .. } => player,
            WriteKind::Append { stream, .. } => stream,
        }
    }

    /// The player that an entry of the lifecycle stream names.
    pub fn player(&self) -> Option<&Bytes> {
        let WriteKind::Append { fields, .. } = self else { return None };
        fields.iter().find(|(name, _)| *name == "player").map(|(_, player)| player)
    }

    /// Whether one call can write both.
    pub fn joins(&self, other: &WriteKind) -> bool {
        match (self, other) {
            (WriteKind::Commit { channel, commit }, WriteKind::Commit { channel: other, commit: before }) => {
                let limits = |commit: &Commit| (commit.max, commit.max_bytes, commit.ttl_ms);
                channel == other && limits(commit) == limits(before)
            }
            (WriteKind::Log { channel, entry }, WriteKind::Log { channel: other, entry: before }) => {
                channel == other && (entry.max_events, entry.age_ms) == (before.max_events, before.age_ms)
            }
            (
                WriteKind::Presence { channel, notify, .. },
                WriteKind::Presence { channel: other, notify: other_notify, .. },
            ) => channel == other && notify == other_notify,
            _ => false,
        }
    }

    /// What it takes of the queue's bound, in bytes.
    pub fn bytes(&self) -> usize {
        OVERHEAD
            + match self {
                WriteKind::Publish { channel, payload } => channel.len() + payload.len(),
                WriteKind::Commit { channel, commit } => {
                    channel.len() + commit.payload.len() + commit.key.len() + commit.id.len()
                }
                WriteKind::Log { channel, entry } => {
                    channel.len()
                        + entry.payload.len()
                        + entry.id.len()
                        + entry.once.as_ref().map_or(0, |once| once.len())
                }
                WriteKind::SaveSession { player, content, .. } => player.len() + content.len(),
                WriteKind::EndSession { player, .. } => player.len(),
                WriteKind::Presence { channel, player, .. } => channel.len() + player.len(),
                WriteKind::SetOverride { player, channel, view, announcement: (_, payload), .. } => {
                    player.len() + channel.len() + view.as_ref().map_or(0, |view| view.len()) + payload.len()
                }
                WriteKind::Append { stream, fields } => {
                    stream.len() + fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
                }
            }
    }
}

/// One event of an entity channel, on its way into the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The entity's key.
    pub key: Arc<str>,
    /// It ends the entity.
    pub remove: bool,
    /// The envelope, without its `id`: the JSON object that the table keeps and subscribers get.
    pub payload: Bytes,
    /// The envelope's `id`; whoever writes it adds the version to it ([`Version`]).
    pub id: String,
    /// How many entities the channel holds.
    pub max: usize,
    /// What they take together, in bytes.
    pub max_bytes: usize,
    /// How long an entity outlives its last event, in milliseconds.
    pub ttl_ms: u64,
}

/// One event of a channel with `history`, on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The envelope, without its `id`: the JSON object that the log keeps and subscribers get, to which `offset`, `epoch` and
    /// `id` are added.
    pub payload: Bytes,
    /// The envelope's `id`.
    pub id: String,
    /// How many events the log keeps.
    pub max_events: u64,
    /// How long it keeps an event, in milliseconds.
    pub age_ms: u64,
    /// The player's (or, for services, nobody's) idempotency key, made unique for its scope: a repeat within two minutes is
    /// not done, and gets the first one's position.
    pub once: Option<Arc<str>>,
}

impl LogEntry {
    /// The size of what subscribers get, at most.
    pub fn published_bytes(&self) -> usize {
        self.payload.len() + self.id.len() + POSITION_BYTES
    }
}

/// What `offset`, `epoch` and `id` take beside the id itself, at most; the functions in Redis reckon with as much.
const POSITION_BYTES: usize = 96;

/// The longest idempotency key, in bytes.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 64;

/// An idempotency key as a log knows it: unique for its player, or for all services (`None`). No two scopes share one, whatever
/// player ids and keys hold: a player id is preceded by its length.
pub fn once_of(player: Option<&str>, key: &str) -> Arc<str> {
    match player {
        Some(player) => format!("player:{}:{player}:{key}", player.len()).into(),
        None => format!("services:{key}").into(),
    }
}

/// What the member `id` takes beside the id itself, at most; the functions in Redis reckon with as much.
const VERSION_BYTES: usize = 64;

impl Commit {
    /// The size of what subscribers get, at most.
    pub fn published_bytes(&self) -> usize {
        self.payload.len() + self.id.len() + VERSION_BYTES
    }
}

/// Who has a session instead of the one that saves it, as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOwner {
    /// Which start of which node has claimed it.
    pub node: Arc<str>,
    /// Under which generation. That of the one that saves: Redis has lost one of the two claims, and which of them is the newer
    /// one is not known.
    pub generation: u64,
    /// No connection has it there any more: that node has given it back, has ended or has died, and it waits to be claimed.
    pub is_free: bool,
}

/// Why Redis has not taken a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishFailure {
    /// It certainly did not happen: Redis is away and the class refuses, or the queue is full.
    NotDone,
    /// It certainly did not happen: its sender has as much in the queue as one may have.
    OverShare {
        /// How much that is, in bytes.
        bytes: usize,
    },
    /// The link broke, or Redis was silent for too long, while the answer was out.
    Unknown,
    /// Redis answered with an error.
    Refused(Arc<str>),
    /// Another node or shard has claimed the session.
    TakenOver(NewOwner),
    /// Redis is away, and its class says [`WhenDown::Local`]: it was delivered on this node alone, which is no failure to who
    /// published it.
    OnlyLocal,
    /// It would be more than there may be: `entity_max` of the channel, or the views of a player.
    LimitExceeded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_keys_of_different_scopes_differ() {
        let scopes = [
            (Some("a"), "b:c"),
            (Some("a:b"), "c"),
            (Some(""), "1:a:b"),
            (None, "player:1:a:b:c"),
            (None, "b:c"),
        ];
        let all: std::collections::BTreeSet<_> = scopes.map(|(player, key)| once_of(player, key)).into();
        assert_eq!(all.len(), scopes.len());
    }
}
