//! Upstream: what this node is subscribed to in Redis, on which link, for which shards. [`Topology`] says which link carries
//! which subject; one [`Hub`] a link holds its subscriptions. Pure state machines, so that "confirmed means delivered" and
//! "one Redis subscription per channel" are properties of small things that a simulator can try to break.
//!
//! A hub's answers to a shard (confirmations, publications) share one queue, in order. It counts the events of each channel,
//! says which shards want them by which patterns, and, where several subscriptions of the link match one publication, picks
//! the canonical copy. What is stored of a channel is its `source`: a table, which `merge` joins with what comes live, or a log. Entries go from
//! link to link in `moves`, and with the slots of a Cluster in `slot_moves`; what is made good after a break, and in which order, is in `barrier`.
//! It leaves to others: which connection wants what ([`crate::engine`]), bytes and sockets (the server's links).

mod barrier;
mod counters;
mod cover;
mod dedup;
mod due;
mod globs;
mod held_commands;
mod hub;
mod io;
mod loaded_table;
mod log;
mod logs;
mod merge;
mod moves;
mod rows;
mod shards;
mod slot_moves;
mod slots;
mod source;
mod stored_log;
mod table;
mod tables;
mod tail;
#[cfg(test)]
mod tests;
mod topology;

pub use barrier::BarrierToken;
pub(crate) use barrier::ShardBarrier;
pub use hub::Hub;
pub use io::{BadEntity, BadTable, HubInput, HubOutput, HubSettings, HubStats, LinkCommand};
pub use loaded_table::{LoadedRow, LoadedTable, StoredEntity, StoredTable};
pub(crate) use logs::read_entry;
pub use moves::{Carries, Handover, PeerMessage};
pub use shards::{ShardId, ShardSet};
pub use slot_moves::{GivenEntries, SlotMove};
pub use slots::{SLOTS, SlotHasher, SlotSet, crc16};
pub use stored_log::{Cursor, LogRange, StoredLog, StoredLogEvent};
pub use topology::{LinkId, MasterSlots, Move, Reassigned, Topology};
