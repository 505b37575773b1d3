//! One event as the node holds it: parsed once, encoded at most once for each encoding and compression, for all receivers;
//! and, from its `id`, who published it and which version of a table it made.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use drawbridge_protocol::event::{Event, SERVER_ID_PREFIX, encode_entity, encode_event};
use drawbridge_protocol::websocket::{Compressor, Window, frame_of_pieces, payload_of};
use drawbridge_protocol::{Encoding, Frame};

use crate::area::Point;
use crate::class::ClassId;
use crate::io::{Epoch, LocalOffset, LogPosition, Ticket};

/// One event on its way to every subscriber of the node: parsed once, encoded at most once per encoding. What is needed for
/// each subscriber comes first, beside the counts of its `Arc`: many of them are far away from each other in memory.
#[derive(Debug)]
#[repr(C)]
pub struct Publication {
    /// What was published.
    pub event: Event,
    /// The real channel.
    pub channel: Arc<str>,
    /// Its number in the node's count of this channel; 0: it was read from a table, and has none.
    pub offset: LocalOffset,
    /// The connection that published it, where one did: so that what it published before it subscribed is not
    /// taken for what came after.
    pub sender: Option<Sender>,
    /// On entity channels: what it does to the entity that its key names.
    pub entity: Option<EntityChange>,
    /// It is the state of an entity, in a class that conflates, and no one receives it otherwise: only the newest counts.
    pub conflates: bool,
    /// The class of the channel, as the link found it; `None`: it has none.
    pub class: Option<ClassId>,
    /// The life of the count that `offset` belongs to.
    pub epoch: Epoch,
    /// Whether, and where, it is in its channel's log.
    pub in_log: InLog,
    encodings: OnceLock<Box<Encodings>>,
}

/// What was made of it beside the message in JSON.
#[derive(Debug, Default)]
struct Encodings {
    frames: [OnceLock<Frame>; 2],
    elements: [OnceLock<Bytes>; 2],
    /// What only compressed connections need.
    deflated: OnceLock<Box<[Deflated; 4]>>,
}

/// One event in one encoding for one window: compressed at most once.
#[derive(Debug, Default)]
struct Deflated {
    /// `None`: it does not pay.
    piece: OnceLock<Option<Bytes>>,
    frame: OnceLock<Frame>,
}

/// Whether an event is in its channel's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InLog {
    /// The channel has no log.
    #[default]
    NoLog,
    /// The channel has one, and this event is not in it: a plain `PUBLISH`.
    Volatile,
    /// It is.
    At(LogPosition),
}

impl InLog {
    /// Where it is in the log, if it is.
    #[inline]
    pub fn position(self) -> Option<LogPosition> {
        match self {
            InLog::At(position) => Some(position),
            InLog::NoLog | InLog::Volatile => None,
        }
    }
}

/// What an event does to its entity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EntityChange {
    /// The entity's new state is that of the event.
    Set {
        /// Where it is, on channels with positions.
        position: Option<Point>,
    },
    /// It is gone.
    Remove,
}

/// The hexadecimal digits of a connection in an `id`, and the most decimal ones of a ticket.
const CONNECTION_DIGITS: usize = 16;
const MAX_TICKET_DIGITS: usize = 20;

/// Appends a number in this base, with zeros before it up to so many digits.
fn push_digits<const BASE: u64>(text: &mut String, mut number: u64, at_least: usize) {
    let mut digits = [b'0'; MAX_TICKET_DIGITS];
    let mut start = digits.len();
    while number > 0 {
        start -= 1;
        digits[start] = b"0123456789abcdef"[(number % BASE) as usize];
        number /= BASE;
    }
    let digits = &digits[start.min(digits.len() - at_least)..];
    text.extend(digits.iter().map(|digit| char::from(*digit)));
}

/// Which publish of which connection an event is: what a server writes behind [`SERVER_ID_PREFIX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The connection's public name.
    pub connection: u64,
    /// Counts upwards on each connection.
    pub ticket: Ticket,
}

impl Sender {
    /// As the `id` of an envelope.
    pub fn to_id(self) -> String {
        // Why not `format!`: it took a tenth of a publish.
        let mut id =
            String::with_capacity(SERVER_ID_PREFIX.len() + CONNECTION_DIGITS + 1 + MAX_TICKET_DIGITS);
        id.push_str(SERVER_ID_PREFIX);
        push_digits::<16>(&mut id, self.connection, CONNECTION_DIGITS);
        id.push('.');
        push_digits::<10>(&mut id, self.ticket.0, 1);
        id
    }

    /// Of an envelope's `id`; `None` where no connection published it.
    pub fn of_id(id: &str) -> Option<Self> {
        let id = id.split_once('@').map_or(id, |(id, _)| id);
        let (connection, ticket) = id.strip_prefix(SERVER_ID_PREFIX)?.split_once('.')?;
        if connection.len() != CONNECTION_DIGITS {
            return None;
        }
        let connection = u64::from_str_radix(connection, 16).ok()?;
        Some(Sender { connection, ticket: Ticket(ticket.parse().ok()?) })
    }
}

/// The version of a table after a change: behind an `@` at the end of the published envelope's `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version<'a> {
    /// Names the table's life.
    pub epoch: &'a str,
    /// Counts its changes.
    pub seq: u64,
}

impl<'a> Version<'a> {
    /// Of an envelope's `id`; `None` where the event did not come by the table.
    pub fn of_id(id: &'a str) -> Option<Self> {
        let (epoch, seq) = id.rsplit_once('@')?.1.rsplit_once('.')?;
        Some(Version { epoch, seq: seq.parse().ok()? })
    }
}

impl Publication {
    /// A publication that is not encoded yet.
    pub fn new(channel: Arc<str>, event: Event, offset: LocalOffset) -> Self {
        Publication::with_entity(channel, event, offset, None)
    }

    /// As [`Publication::new`], on an entity channel.
    pub fn with_entity(
        channel: Arc<str>,
        event: Event,
        offset: LocalOffset,
        entity: Option<EntityChange>,
    ) -> Self {
        let sender = event.server_id().and_then(Sender::of_id);
        Publication {
            event,
            channel,
            offset,
            sender,
            entity,
            conflates: false,
            class: None,
            epoch: Epoch::default(),
            in_log: InLog::NoLog,
            encodings: OnceLock::new(),
        }
    }

    /// Its epoch and offset as clients are shown them; `None`: it has none.
    pub fn shown_position(&self) -> Option<(&Epoch, u64)> {
        match &self.in_log {
            InLog::NoLog => (self.offset.0 > 0).then_some((&self.epoch, self.offset.0)),
            InLog::Volatile => None,
            InLog::At(position) => Some((&position.epoch, position.offset.0)),
        }
    }

    /// The `EVENT` frame in this encoding; the same bytes for all who see it.
    pub fn frame(&self, encoding: Encoding) -> &Frame {
        self.encodings().frames[encoding as usize].get_or_init(|| encode_event(encoding, &self.event))
    }

    /// The `EVENT` message in this encoding, as an element of a batch.
    pub fn message(&self, encoding: Encoding) -> &[u8] {
        match encoding {
            Encoding::Json => self.event.json().as_bytes(),
            Encoding::MsgPack => payload_of(self.frame(encoding)),
        }
    }

    fn encodings(&self) -> &Encodings {
        self.encodings.get_or_init(Default::default)
    }

    /// The `EVENT` frame for a connection that inflates; the plain one where compressing does not pay.
    pub fn deflated_frame(&self, encoding: Encoding, window: Window, compressor: &mut Compressor) -> &Frame {
        let deflated = self.deflated(encoding, window);
        match self.piece(encoding, window, compressor) {
            None => self.frame(encoding),
            Some(piece) => {
                deflated.frame.get_or_init(|| frame_of_pieces(encoding.opcode(), std::slice::from_ref(piece)))
            }
        }
    }

    /// The `EVENT` message as a compressed piece; the same bytes for all whose batches it is in.
    pub fn piece(&self, encoding: Encoding, window: Window, compressor: &mut Compressor) -> Option<&Bytes> {
        let piece = &self.deflated(encoding, window).piece;
        piece.get_or_init(|| compressor.piece(self.message(encoding), window)).as_ref()
    }

    fn deflated(&self, encoding: Encoding, window: Window) -> &Deflated {
        &self.encodings().deflated.get_or_init(Default::default)[encoding as usize * 2 + window as usize]
    }

    /// Its entity's state, as an element of `VIEW_ENTER`; the same bytes for all who see it.
    pub fn element(&self, encoding: Encoding) -> &Bytes {
        self.encodings().elements[encoding as usize].get_or_init(|| encode_entity(encoding, &self.event))
    }

    /// About what it holds in memory, in bytes.
    pub fn weight(&self) -> usize {
        self.event.held_bytes() + size_of::<Publication>()
    }
}
