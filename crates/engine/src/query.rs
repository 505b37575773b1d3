//! What can be read through the broker: one [`Query`] of any [`QueryKind`], answered once by one [`Answer`]. Every kind waits
//! in the same queue, under the same bound, however long Redis is away, and is withdrawn by its ticket; a kind says here what
//! it is and who answers it. How Redis is read is the server's (`broker/redis/reader.rs`).

use std::sync::Arc;

use bytes::Bytes;

use crate::io::{SessionHash, SessionSecret, Ticket};
use crate::upstream::{LoadedTable, LogRange, StoredLog};

/// One query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Names it, for its answer and its withdrawal; unique for who asks.
    pub ticket: Ticket,
    /// What is read.
    pub kind: QueryKind,
}

impl Query {
    /// A query that waits until Redis is there.
    pub fn new(ticket: Ticket, kind: QueryKind) -> Self {
        Query { ticket, kind }
    }
}

/// What can be read. Each kind has an [`Answer`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// The views that services have set for a player.
    ViewOverrides {
        /// The player id.
        player: Arc<str>,
    },
    /// The stored table of an entity channel. Sent by hubs.
    Table {
        /// The channel.
        channel: Arc<str>,
    },
    /// A part of a channel's log.
    Log {
        /// The channel, of a class with `history`.
        channel: Arc<str>,
        /// Which part.
        range: LogRange,
        /// The most events; fewer come where they take more than a part of an answer may. With 0 only the log's positions.
        limit: usize,
        /// Who reads it.
        reader: LogReader,
    },
    /// Claims a session of another node, or of one that died: from then on it is this node's, under the next generation. What was
    /// claimed is answered even if the query was withdrawn meanwhile: whoever asked gives it back.
    ClaimSession {
        /// The player that the resuming token names: a session of another player is not found.
        player: Arc<str>,
        /// The session.
        session: SessionSecret,
    },
    /// A page of who is present on a channel, in the order of player ids.
    Presence {
        /// The channel.
        channel: Arc<str>,
        /// The players behind this one; `None`: from the first.
        after: Option<Arc<str>>,
        /// The most players.
        limit: usize,
    },
    /// The nodes whose leases hold.
    Nodes,
    /// Whether all that Redis has published on this channel until now was delivered. Answered at once where the link is away.
    Fence {
        /// The channel.
        channel: Arc<str>,
    },
}

/// Who reads a part of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogReader {
    /// A hub, for positions and catch-up: a log that never was begins its first epoch, so that every subscription has a position.
    Hub,
    /// A hub, of a channel that a client names which only patterns show. Nothing is written, so that no client begins logs by naming
    /// them: a log that never was is returned as [`StoredLog::absent`].
    Pattern,
    /// A player or a service. Nothing is written: a log that never was is returned as [`StoredLog::absent`].
    Request {
        /// What the events take together, in bytes, about. One event is returned in any case.
        max_bytes: usize,
    },
}

/// What the events of one answer take together, about, in bytes.
const PART_BYTES: usize = 1 << 20;

impl LogReader {
    /// What the events of one answer take together, about, in bytes.
    pub fn max_bytes(self) -> usize {
        match self {
            LogReader::Hub | LogReader::Pattern => PART_BYTES,
            LogReader::Request { max_bytes } => max_bytes.min(PART_BYTES),
        }
    }
}

/// Where a kind of query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer<'q> {
    /// By the link that carries this channel, in order with its events.
    Link(&'q Arc<str>),
    /// By the connection for small answers, many in one pipeline.
    Small,
    /// By the connection for large answers, one at a time, so that they delay no small one.
    Large,
}

impl QueryKind {
    /// What it is about: a player or a channel, if anything.
    pub fn subject(&self) -> Option<&Arc<str>> {
        Some(match self {
            QueryKind::Nodes => return None,
            QueryKind::ViewOverrides { player } | QueryKind::ClaimSession { player, .. } => player,
            QueryKind::Table { channel }
            | QueryKind::Log { channel, .. }
            | QueryKind::Presence { channel, .. }
            | QueryKind::Fence { channel } => channel,
        })
    }

    /// Where it is answered.
    pub fn answerer(&self) -> Answerer<'_> {
        match self {
            QueryKind::ViewOverrides { .. } | QueryKind::ClaimSession { .. } => Answerer::Small,
            // Positions alone: after a break they are read of every channel at once.
            QueryKind::Log { limit: 0, .. } => Answerer::Small,
            QueryKind::Table { .. }
            | QueryKind::Log { .. }
            | QueryKind::Presence { .. }
            | QueryKind::Nodes => Answerer::Large,
            QueryKind::Fence { channel } => Answerer::Link(channel),
        }
    }
}

/// The answer to a [`QueryKind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Channels, each with the expression that services have set for the player.
    ViewOverrides(PlayerOverrides),
    /// The table as its class reads it.
    Table(LoadedTable),
    /// The part of the log.
    Log(StoredLog),
    /// The session; `None`: it has ended, never was, or is another player's.
    Session(Option<ClaimedSession>),
    /// The page.
    Presence(PresencePage),
    /// The nodes.
    Nodes(Vec<LiveNode>),
    /// Everything that was published on this channel before the query was delivered.
    Fence(Arc<str>),
}

/// A session as the node that had it before has stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedSession {
    /// Its player.
    pub player: Arc<str>,
    /// Which session.
    pub session: SessionHash,
    /// Counts the claims: whoever has a lower one has lost the session.
    pub generation: u64,
    /// What [`WriteKind::SaveSession`](crate::write::WriteKind::SaveSession) stored last.
    pub content: Bytes,
}

/// A node whose lease holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveNode {
    /// Names this start of the node.
    pub instance: Arc<str>,
    /// How old its lease is, in milliseconds.
    pub age_ms: u64,
    /// What it says of itself: a JSON object.
    pub about: Arc<str>,
}

/// A page of who is present on a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresencePage {
    /// Players with the number of their sessions there, in the order of player ids.
    pub players: Vec<(Arc<str>, u64)>,
    /// How many players there are on all pages.
    pub total: u64,
    /// Whether more follow behind the last one.
    pub has_more: bool,
}

/// Channels, each with the expression that services have set for the player.
pub type PlayerOverrides = Arc<[(Arc<str>, Arc<str>)]>;

/// An answer, or why there is none: Redis' message, which begins with its code.
pub type Answered = Result<Answer, Arc<str>>;
