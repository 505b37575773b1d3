//! Queued events as messages, and messages as frames: neighbours that share a message, and arrays of a batch. Which events
//! these are is up to [`super`].

use std::sync::Arc;

use drawbridge_protocol::event::{ViewEnter, encode_view_enter};
use drawbridge_protocol::websocket::{Compressor, Window, payload_of, stored};
use drawbridge_protocol::{Encoding, Frame, MAX_BATCH, ServerMessage, codec};

use crate::engine::message_bounds::{head_bytes, key_bytes};
use crate::engine::outbound::Outbound;
use crate::io::Publication;
use crate::outbox::{Queued, QueuedKind};
use crate::session::Session;
use crate::stats::Stats;
use crate::targets::Target;
use crate::world::Change;

/// Entities in one `VIEW_ENTER`, and keys in one `VIEW_LEAVE`.
pub(super) const MAX_ENTITIES: usize = 512;

/// One message on its way.
pub(super) enum Message {
    /// An event, which others get too.
    Event(Arc<Publication>),
    /// What is for this connection alone.
    Own(Frame),
}

impl Message {
    /// As an element of an array.
    pub(super) fn body(&self, encoding: Encoding) -> &[u8] {
        match self {
            Message::Event(event) => event.message(encoding),
            Message::Own(frame) => payload_of(frame),
        }
    }
}

/// Queued events as messages; neighbours with the same kind of change share one.
pub(super) fn messages(
    encoding: Encoding,
    channel: &str,
    events: Vec<Queued>,
    max_bytes: usize,
    stats: &mut Stats,
) -> Vec<Message> {
    let mut messages = Vec::with_capacity(events.len());
    let mut events = events.into_iter().peekable();
    while let Some(first) = events.next() {
        let change = match first.kind {
            Some(QueuedKind::Entity(_, change)) if change != Change::Update => change,
            _ => {
                messages.push(Message::Event(first.publication));
                continue;
            }
        };
        let mut bytes = head_bytes(channel) + part_bytes(encoding, change, &first);
        let mut run = vec![first];
        let alike =
            |queued: &Queued| matches!(queued.kind, Some(QueuedKind::Entity(_, other)) if other == change);
        while run.len() < MAX_ENTITIES
            && let Some(queued) = events.next_if(|queued| {
                bytes += part_bytes(encoding, change, queued);
                bytes <= max_bytes && alike(queued)
            })
        {
            run.push(queued);
        }
        messages.push(Message::Own(in_or_out_of_view(encoding, channel, change, &run, stats)));
    }
    messages
}

/// What an entity takes in a `VIEW_ENTER`, or its key in a `VIEW_LEAVE`, in bytes, at most.
fn part_bytes(encoding: Encoding, change: Change, queued: &Queued) -> usize {
    match change {
        Change::Enter | Change::Update => queued.publication.element(encoding).len() + 1,
        Change::Hide | Change::Remove => queued.publication.event.key().map_or(0, key_bytes),
    }
}

/// What came into view together, or went out of it.
fn in_or_out_of_view(
    encoding: Encoding,
    channel: &str,
    change: Change,
    run: &[Queued],
    stats: &mut Stats,
) -> Frame {
    if change == Change::Enter {
        stats.view_enters += run.len() as u64;
        let elements: Vec<_> =
            run.iter().map(|queued| queued.publication.element(encoding).clone()).collect();
        let message = ViewEnter { channel, complete: true, entities: &elements, ..ViewEnter::default() };
        return encode_view_enter(encoding, &message);
    }
    stats.view_leaves += run.len() as u64;
    let keys: Vec<&str> = run.iter().filter_map(|queued| queued.publication.event.key()).collect();
    let reason = if change == Change::Remove { "removed" } else { "view" };
    codec::encode_frame(encoding, &ServerMessage::ViewLeave { channel, keys: &keys, reason })
}

pub(super) fn resync(encoding: Encoding, target: &Target, offset: u64) -> Frame {
    // Of what is in no log it is not known where it was.
    let is_volatile = offset == 0 && target.world.is_none();
    let position = target.position.as_ref().filter(|_| !is_volatile);
    let message = ServerMessage::Resync {
        channel: &target.subject.name,
        reason: "slow_consumer",
        epoch: position.map(|position| position.epoch().as_str()),
        offset: position.map(|position| if offset > 0 { offset } else { position.offset() }),
    };
    codec::encode_frame(encoding, &message)
}

impl Outbound {
    /// Makes a message into a frame.
    pub(super) fn push_message(&mut self, session: &mut Session, message: &Message) {
        let frame = match message {
            Message::Own(frame) => frame.clone(),
            Message::Event(event) => self.event_frame(session, event),
        };
        session.outbox.enqueue_frame(frame);
    }
}

/// How many of these messages one array holds: at least one.
pub(super) fn fitting(encoding: Encoding, messages: &[Message], max_bytes: usize) -> usize {
    // The head of an array has at most three bytes, and a comma follows each message.
    let mut bytes = 3;
    let fits = |message: &&Message| {
        bytes += message.body(encoding).len() + 1;
        bytes <= max_bytes
    };
    messages.iter().take(MAX_BATCH).take_while(fits).count().max(1)
}

pub(super) fn array(encoding: Encoding, batch: &[Message]) -> Frame {
    let messages: Vec<&[u8]> = batch.iter().map(|message| message.body(encoding)).collect();
    codec::encode_array(encoding, &messages)
}

/// A batch in which each event is compressed once for all; plain where none of them is worth it.
pub(super) fn deflated(
    encoding: Encoding,
    window: Window,
    batch: &[Message],
    compressor: &mut Compressor,
) -> Frame {
    let mut pays = false;
    let mut piece = |message: &Message| match message {
        Message::Own(frame) => stored(payload_of(frame)),
        Message::Event(event) => match event.piece(encoding, window, compressor) {
            Some(piece) => {
                pays = true;
                piece.clone()
            }
            None => stored(event.message(encoding)),
        },
    };
    let pieces: Vec<_> = batch.iter().map(&mut piece).collect();
    if pays { codec::deflated_array(encoding, &pieces) } else { array(encoding, batch) }
}
