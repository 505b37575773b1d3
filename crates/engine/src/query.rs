//! What can be read through the broker: one [`Query`] of any [`QueryKind`], answered once by one [`Answer`]. Every kind waits
//! in the same queue, under the same bound, however long Redis is away, and is withdrawn by its ticket; a kind says here what
//! it is and who answers it. How Redis is read is the server's (`broker/redis/reader.rs`).

use std::sync::Arc;

use crate::io::Ticket;
use crate::upstream::StoredTable;

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
    /// Whether all that Redis has published on this channel until now was delivered. Answered at once where the link is away.
    Fence {
        /// The channel.
        channel: Arc<str>,
    },
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
    /// What it is about: a player or a channel.
    pub fn subject(&self) -> &Arc<str> {
        match self {
            QueryKind::ViewOverrides { player } => player,
            QueryKind::Table { channel } | QueryKind::Fence { channel } => channel,
        }
    }

    /// Where it is answered.
    pub fn answerer(&self) -> Answerer<'_> {
        match self {
            QueryKind::ViewOverrides { .. } => Answerer::Small,
            QueryKind::Table { .. } => Answerer::Large,
            QueryKind::Fence { channel } => Answerer::Link(channel),
        }
    }
}

/// The answer to a [`QueryKind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Channels, each with the expression that services have set for the player.
    ViewOverrides(PlayerOverrides),
    /// The table as it is stored.
    Table(StoredTable),
    /// Everything that was published on this channel before the query was delivered.
    Fence(Arc<str>),
}

/// Channels, each with the expression that services have set for the player.
pub type PlayerOverrides = Arc<[(Arc<str>, Arc<str>)]>;

/// An answer, or why there is none: Redis' message, which begins with its code.
pub type Answered = Result<Answer, Arc<str>>;
