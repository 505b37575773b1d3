//! Names that outlive a call: of connections, sessions, targets, and of what waits for an answer. What they name belongs to
//! others.

/// A connection of one shard: a place in the shard's table and which use of that place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// The place; reused.
    pub index: u32,
    /// Counts the uses of the place, so that late answers miss a newcomer.
    pub generation: u32,
}

/// A session of one shard's engine, allotted by the engine. Outlives the connection that it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// The place in the engine's table; reused.
    pub index: u32,
    /// Counts the sessions of the shard, so that late answers miss a newcomer.
    pub generation: u32,
}

/// Names one query or write that waits for its answer; unique in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A place in [`Targets`](crate::targets::Targets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TargetId(pub(crate) u32);
