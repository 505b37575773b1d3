//! What happens to a hub and what it wants done: its inputs, outputs and settings.

use std::sync::Arc;

use bytes::Bytes;

use super::shards::{ShardId, ShardSet};
use crate::class::Classes;
use crate::io::{BrokerEvent, Subject};
use crate::settings::Reserved;

/// What a hub is told at start.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Names the life of the counts; random per node start.
    pub epoch: Arc<str>,
    /// How long a subscription outlives its last subscriber, in milliseconds.
    pub linger_ms: u64,
    /// Payloads over this are dropped, in bytes.
    pub external_bytes: usize,
    /// Tell how payloads are read.
    pub classes: Arc<Classes>,
    /// Channels that are never shown through patterns, and their payloads are taken as they are.
    pub reserved: Reserved,
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
        /// Redis' words.
        reason: &'a str,
    },
    /// A publication, once for each subscription of the link that matches it; in Redis' order.
    Message {
        /// `None`: the exact subscription's copy.
        pattern: Option<&'a [u8]>,
        /// The real channel.
        channel: &'a [u8],
        /// What was published.
        payload: Bytes,
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
    /// This shard missed publications and could not be told of which channels.
    Lost {
        /// Which shard.
        shard: ShardId,
    },
    /// Nothing happened but time.
    Tick,
}

/// What a hub wants done, in order.
#[derive(Debug)]
pub enum HubOutput {
    /// Send this to Redis.
    Link(LinkCommand),
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

/// What a link sends to Redis. Redis answers each subject once, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkCommand {
    /// `SUBSCRIBE` and `PSUBSCRIBE`.
    Subscribe(Vec<Subject>),
    /// `UNSUBSCRIBE` and `PUNSUBSCRIBE`.
    Unsubscribe(Vec<Subject>),
}

/// Gauges and counters of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Channels and patterns known.
    pub subjects: usize,
    /// Of these, confirmed by Redis.
    pub live: usize,
    /// Channels counted because patterns cover them.
    pub pattern_channels: usize,
    /// Payloads dropped because they were too large.
    pub dropped_oversized: u64,
    /// Payloads dropped because an `envelope` class could not read them.
    pub dropped_unreadable: u64,
    /// Payloads dropped because the channel's name is not well formed.
    pub dropped_bad_name: u64,
}
