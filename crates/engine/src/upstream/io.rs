//! What happens to a hub and what it wants done: its inputs, outputs and settings.

use std::sync::Arc;

use super::barrier::BarrierToken;
use super::loaded_table::LoadedTable;
use super::moves::PeerMessage;
use super::shards::{ShardId, ShardSet};
use super::slot_moves::SlotMove;
use super::slots::SlotHasher;
use super::stored_log::{LogRange, StoredLog};
use super::topology::{LinkId, Move};
use crate::class::Classes;
use crate::io::{BrokerEvent, LogReader, LoggedOffset, Subject};
use crate::settings::Reserved;

/// What a hub receives at start.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Its link.
    pub link: LinkId,
    /// What the epochs of counts are made of: random for each hub and start, and secret.
    pub seed: u128,
    /// How long a subscription outlives its last subscriber, in milliseconds.
    pub linger_ms: u64,
    /// Payloads over this are dropped, in bytes.
    pub external_bytes: usize,
    /// Tell how payloads are read.
    pub classes: Arc<Classes>,
    /// Channels that are never shown through patterns, and their payloads are taken as they are.
    pub reserved: Reserved,
    /// In a Cluster: the slots of channels.
    pub slots: SlotHasher,
}

/// What happens to a hub.
#[derive(Debug)]
pub enum HubInput<'a> {
    /// A shard has a first subscriber.
    Want {
        /// Which shard.
        shard: ShardId,
        /// For what.
        subject: Subject,
    },
    /// A shard's last subscriber left.
    Unwant {
        /// Which shard.
        shard: ShardId,
        /// From what.
        subject: &'a Subject,
    },
    /// A shard's table of an entity channel has a gap.
    Refresh {
        /// Which shard.
        shard: ShardId,
        /// The channel.
        subject: &'a Subject,
    },
    /// The table that [`HubOutput::Load`] asked for.
    Loaded {
        /// The channel.
        channel: &'a str,
        /// Which [`HubOutput::Load`] it answers.
        load: u64,
        /// What Redis keeps, or the error that it returned.
        table: Result<LoadedTable, Arc<str>>,
    },
    /// A shard needs the logged events of a channel behind this offset ([`BrokerEvent::Replay`]).
    CatchUp {
        /// Which shard.
        shard: ShardId,
        /// The channel.
        channel: &'a Arc<str>,
        /// The last one that it has.
        after: LoggedOffset,
    },
    /// The part of a log that [`HubOutput::ReadLog`] requested.
    LogRead {
        /// The channel.
        channel: &'a str,
        /// Which [`HubOutput::ReadLog`] it answers.
        load: u64,
        /// What Redis has, or the error that it returned.
        log: Result<StoredLog, Arc<str>>,
    },
    /// The link to Redis works; nothing is subscribed on it.
    LinkUp,
    /// The link to Redis is gone, and every subscription with it.
    LinkDown,
    /// Redis confirmed a subscription.
    Subscribed(&'a Subject),
    /// Redis confirmed that a subscription ended.
    Unsubscribed(&'a Subject),
    /// Redis refused a subscription for good.
    Refused {
        /// Which.
        subject: &'a Subject,
        /// The error that Redis returned.
        reason: &'a str,
    },
    /// Redis cannot begin a subscription just now, because its slot is on its way to another master.
    Deferred(&'a Subject),
    /// A publication, once for each subscription of the link that matches it; in Redis' order.
    Message {
        /// `None`: the exact subscription's copy.
        pattern: Option<&'a [u8]>,
        /// The real channel.
        channel: &'a [u8],
        /// What was published.
        payload: &'a [u8],
    },
    /// A publication whose payload is over the bound, so that nobody held it.
    OversizedMessage {
        /// As in [`HubInput::Message`].
        pattern: Option<&'a [u8]>,
        /// The real channel.
        channel: &'a [u8],
        /// The payload's size.
        bytes: usize,
    },
    /// An event of a player or service of this node, which Redis cannot publish: for this node's own subscribers.
    Local {
        /// The real channel.
        channel: &'a str,
        /// What would have been published.
        payload: &'a [u8],
    },
    /// This shard missed publications and could not be notified of which channels.
    Lost {
        /// Which shard.
        shard: ShardId,
    },
    /// The channel on which nodes notify each other is confirmed, so that no command is missed any more; or it is refused.
    Listening {
        /// Every shard of the node.
        shards: ShardSet,
        /// It was live before.
        was_live: bool,
    },
    /// A shard has made good what it missed ([`BrokerEvent::Recover`]).
    Passed {
        /// Which shard.
        shard: ShardId,
        /// Of which recovery.
        token: BarrierToken,
    },
    /// This link gives a subject to another one.
    Give(Move),
    /// This link takes a subject from another one.
    Take(Move),
    /// This link gives slots to another one, with all that it has of them.
    GiveSlots(SlotMove),
    /// This link takes slots from another one.
    TakeSlots(SlotMove),
    /// What the other link of a move says ([`HubOutput::Peer`]).
    Peer(PeerMessage),
    /// Nothing happened but time.
    Tick,
}

/// What a hub wants done, in order.
#[derive(Debug)]
pub enum HubOutput {
    /// Send this to Redis.
    Link(LinkCommand),
    /// Read the table of this entity channel; [`HubInput::Loaded`] answers. Asked again, only the last counts.
    Load {
        /// The channel.
        channel: Arc<str>,
        /// Names this read, for its answer.
        load: u64,
    },
    /// Read this part of a channel's log, as [`QueryKind::Log`](crate::io::QueryKind::Log) says; [`HubInput::LogRead`]
    /// answers.
    ReadLog {
        /// The channel.
        channel: Arc<str>,
        /// Names this reading, for its answer.
        load: u64,
        /// Which part.
        range: LogRange,
        /// The most events; 0: the positions alone.
        limit: usize,
        /// For whom.
        reader: LogReader,
    },
    /// An event of an entity channel could not be kept and is dropped; for the log.
    BadEntity {
        /// The channel.
        channel: String,
        /// Why.
        reason: BadEntity,
    },
    /// What is stored of an entity channel is not as the functions in Redis write it; for the log.
    BadTable {
        /// The channel.
        channel: Arc<str>,
        /// What is wrong.
        reason: BadTable,
    },
    /// Tell the other link of a move.
    Peer(LinkId, PeerMessage),
    /// The move of this subject to this link is over.
    Moved(Subject),
    /// Tell this to each of these shards.
    Shards(ShardSet, BrokerEvent),
    /// A payload from outside was too large and is dropped; for the log.
    Oversized {
        /// The channel.
        channel: String,
        /// The payload's size.
        bytes: usize,
    },
}

/// Why an event of an entity channel is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEntity {
    /// No key, or none that is a string or a number of at most 255 bytes.
    Key,
    /// The class has positions, and this is none.
    Position,
    /// A new key, and the channel holds `entity_max` already; or its entities would take more than `entity_bytes`.
    Full,
}

/// What is wrong with a stored table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTable {
    /// So many of its entities are of another life of the table, of a change that it has not seen, or not readable.
    /// They are not shown.
    Entities(usize),
    /// Its events and what is stored do not belong together: it was read several times, and counts as it is stored.
    Inconsistent,
}

/// What a link sends to Redis. Redis answers each subject once, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkCommand {
    /// `SUBSCRIBE` and `PSUBSCRIBE`.
    Subscribe(Vec<Subject>),
    /// `UNSUBSCRIBE` and `PUNSUBSCRIBE`.
    Unsubscribe(Vec<Subject>),
    /// `PUBLISH` nothing on this channel: the marker of a move. Its own answer says nothing.
    Mark(Arc<str>),
}

/// Gauges and counters of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Channels and patterns known.
    pub subjects: usize,
    /// Of these, confirmed by Redis.
    pub live: usize,
    /// Patterns that Redis holds, or that were requested, to cover all that are wanted.
    pub cover: usize,
    /// Channels counted because patterns cover them.
    pub pattern_channels: usize,
    /// Payloads dropped because they were too large.
    pub dropped_oversized: u64,
    /// Payloads dropped because an `envelope` class could not read them.
    pub dropped_unreadable: u64,
    /// Payloads dropped because the channel's name is not well formed.
    pub dropped_bad_name: u64,
    /// Entities held.
    pub entities: usize,
    /// What they take, in bytes.
    pub entity_bytes: usize,
    /// Events of entity channels dropped for their key.
    pub dropped_bad_key: u64,
    /// Events of entity channels dropped for their position.
    pub dropped_bad_position: u64,
    /// Events dropped because their channel holds `entity_max` or `entity_bytes` already.
    pub dropped_full: u64,
    /// Stored entities and logged events that are not shown, because they are not as the functions in Redis write them.
    pub bad_rows: u64,
    /// Tables read again because an event was missing.
    pub table_gaps: u64,
    /// Channels that only patterns cover and whose place in the log is known.
    pub pattern_logs: usize,
    /// Readings of logs: of positions, and of pages for those who catch up.
    pub log_reads: u64,
    /// Pages for those who catch up that were made of events in memory, without a reading.
    pub log_pages_from_memory: u64,
    /// Bytes of the events that are kept for that.
    pub log_tail_bytes: usize,
    /// Positions read again because a logged event did not follow the one before.
    pub log_gaps: u64,
    /// Subscriptions that came to this link with slots of a Cluster.
    pub moved: u64,
    /// What waits for slots of a Cluster that are on their way to this link, or that no master has: commands (behind each move, of
    /// each shard and channel at most an unwant, a want, a refresh and one catch-up) and subscriptions.
    pub waiting_for_slots: usize,
    /// Events dropped because they say a place in a log that the log does not have.
    pub dropped_forged: u64,
    /// Plain `PUBLISH`es dropped on channels that ignore them.
    pub dropped_volatile: u64,
}
