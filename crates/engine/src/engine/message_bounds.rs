//! How long messages to one connection may be: what the client said in `CONNECT`, or else what its class says; and how many
//! bytes become frames at once. What is sent is up to [`super::deliver`] and [`super::flush`].

use drawbridge_protocol::{Encoding, Frame, ServerMessage, codec};

use crate::class::Delivery;
use crate::io::Publication;
use crate::session::Session;
use crate::stats::Stats;

/// How many bytes of queued events one connection's flush makes into frames; the rest follows when the socket has taken
/// those. Why: a queued event can still be replaced by a newer one, a frame cannot.
const FLUSH_BYTES: usize = 64 * 1024;

/// [`FLUSH_BYTES`] for an outbox with this limit: frames alone must not exceed it, for they cannot be dropped.
pub(super) fn flush_bytes(limit: usize) -> usize {
    FLUSH_BYTES.min(limit / 2).max(1)
}

/// A message that the server composes of several events or entities has at most so many bytes. Why: buffers of common
/// clients end at 64 KiB (Godot's at 65,535 bytes), and a longer message is lost there without an error.
const COMPOSED_BYTES: usize = 32 * 1024;

/// How long messages to one connection may be, in bytes.
#[derive(Clone, Copy)]
pub(super) struct MessageBounds {
    /// Of messages that are composed of several parts.
    pub(super) composed: usize,
    /// Of any event; `None`: any.
    pub(super) event: Option<usize>,
}

impl MessageBounds {
    /// What the client said in `CONNECT`, or else what its class says.
    #[inline]
    pub(super) fn of(session: &Session, delivery: &Delivery) -> Self {
        let event = session.outbox.max_message_bytes.or(delivery.max_message_bytes);
        MessageBounds { composed: event.unwrap_or(COMPOSED_BYTES), event }
    }

    /// Whether an event's message is too long for the client.
    #[inline]
    pub(super) fn excludes(&self, encoding: Encoding, publication: &Publication) -> bool {
        self.event.is_some_and(|limit| publication.message(encoding).len() > limit)
    }

    /// Whether an entity is too large for the client: as an event, or in a `VIEW_ENTER` of this channel.
    pub(super) fn excludes_entity(&self, encoding: Encoding, state: &Publication) -> bool {
        self.event.is_some_and(|limit| {
            state.message(encoding).len() > limit
                || head_bytes(&state.channel) + state.element(encoding).len() > limit
        })
    }
}

/// The longest message that is composed for a client whatever its classes say, in bytes.
pub(super) fn composed_bytes(session: &Session) -> usize {
    session.outbox.max_message_bytes.unwrap_or(COMPOSED_BYTES).min(COMPOSED_BYTES)
}

/// What a `VIEW_ENTER` or `VIEW_LEAVE` of this channel has beside its entities or keys, in bytes, at most.
pub(super) fn head_bytes(channel: &str) -> usize {
    100 + 2 * channel.len()
}

/// A key as an element of a list, in bytes, at most: all of it may be escaped.
pub(super) fn key_bytes(key: &str) -> usize {
    6 * key.len() + 3
}

/// `RESYNC` in place of an event that is too long for the client.
pub(super) fn too_large(encoding: Encoding, publication: &Publication, stats: &mut Stats) -> Frame {
    stats.resyncs += 1;
    let position = publication.shown_position();
    let message = ServerMessage::Resync {
        channel: &publication.channel,
        reason: "too_large",
        epoch: position.map(|(epoch, _)| epoch.as_str()),
        offset: position.map(|(_, offset)| offset),
    };
    codec::encode_frame(encoding, &message)
}
