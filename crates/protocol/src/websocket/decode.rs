//! Reading what a client sends. The server reads into one buffer per thread and hands the bytes in; a message that
//! is whole in one frame in them is unmasked where it is and lent out without a copy. Only what is cut by the end
//! of a read is kept, in its own box ([`super::partial`]), until it is complete: an idle connection owns nothing.
//!
//! It owns the rules of RFC 6455 §5, §7.4 and §8.1 for one direction. It answers nothing and knows no time.

use std::fmt;

use super::deflate::{Inflated, Inflater};
use super::drain::Drain;
use super::header::{self, Header};
use super::partial::{self, Admission, Completed, Partial};
use super::{OpCode, close, mask};
use crate::CloseCode;

/// The size limits of data messages: the same for all connections, so they are passed with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A longer message is discarded while it streams in, without memory, and reported at its end as
    /// [`Received::Oversized`]. In bytes of payload.
    pub message_bytes: usize,
    /// A longer message is a violation (1009) as soon as a header announces it. In bytes of payload; where it is below
    /// `message_bytes`, it alone counts.
    pub max_message_bytes: usize,
    /// A compressed message that inflates to more is a violation (1009), and nothing beyond is inflated. In bytes;
    /// above `max_message_bytes` it has no effect.
    pub inflated_bytes: usize,
}

impl Limits {
    /// Messages up to `message_bytes` are delivered, longer ones up to four times that are discarded (contract §8),
    /// compressed or not.
    pub fn new(message_bytes: usize) -> Self {
        let max_message_bytes = message_bytes.saturating_mul(4);
        Limits { message_bytes, max_message_bytes, inflated_bytes: max_message_bytes }
    }
}

/// What a client said: a whole message, or a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'b> {
    /// A text message.
    Text(&'b str),
    /// A binary message.
    Binary(&'b [u8]),
    /// The end of a data message over [`Limits::message_bytes`], whose content was discarded.
    Oversized {
        /// How long it was.
        bytes: u64,
    },
    /// To be answered by a pong with the same payload, of at most 125 bytes.
    Ping(&'b [u8]),
    /// An answer to a ping, or unasked for; at most 125 bytes.
    Pong(&'b [u8]),
    /// The client closes. Nothing that follows is read.
    Close {
        /// One that may be sent (RFC 6455 §7.4); `None` where the frame was empty.
        code: Option<u16>,
        /// At most 123 bytes.
        reason: &'b str,
    },
}

/// The client broke the protocol or a limit. The connection is to be closed with this code; nothing that follows is
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// [`CloseCode::ProtocolError`], [`CloseCode::InvalidPayload`] or [`CloseCode::MessageTooBig`].
    pub code: CloseCode,
    /// For a person; short enough for a close frame.
    pub reason: &'static str,
}

impl Violation {
    pub(super) const fn protocol(reason: &'static str) -> Self {
        Violation { code: CloseCode::ProtocolError, reason }
    }

    pub(super) const fn invalid_payload(reason: &'static str) -> Self {
        Violation { code: CloseCode::InvalidPayload, reason }
    }

    pub(super) const fn not_utf8() -> Self {
        Violation::invalid_payload("a text message is not UTF-8")
    }

    pub(super) const fn too_big(reason: &'static str) -> Self {
        Violation { code: CloseCode::MessageTooBig, reason }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (close code {})", self.reason, self.code.as_u16())
    }
}

impl std::error::Error for Violation {}

/// Reads one client's frames. Between messages it owns no heap and takes two words.
///
/// ```
/// use drawbridge_protocol::websocket::{Decoder, Inflater, Limits, Received};
///
/// let (limits, mut inflater) = (Limits::new(65_536), Inflater::default());
/// let mut decoder = Decoder::new();
/// let mut read = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"; // a masked "Hello" (RFC 6455 §5.7)
/// let mut input = &mut read[..];
/// while let Some(received) = decoder.decode(&limits, &mut inflater, &mut input)? {
///     assert_eq!(received, Received::Text("Hello"));
/// }
/// # Ok::<(), drawbridge_protocol::websocket::Violation>(())
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    /// A close frame or a violation came.
    ended: bool,
    /// The handshake agreed on `permessage-deflate`.
    inflates: bool,
}

impl Decoder {
    /// For a fresh connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a fresh connection whose handshake agreed on `permessage-deflate` without context takeover (RFC 7692).
    pub fn inflating() -> Self {
        Decoder { inflates: true, ..Self::default() }
    }

    /// Reads from the front of `input`, which it shortens by what it took in. `Ok(None)`: all of `input` was taken in,
    /// and more is needed. What is returned is to be looked at before the next call; call until `Ok(None)`, which also
    /// frees a message that had to be put together. The bytes of `input` are changed (unmasked).
    ///
    /// `inflater` serves all connections of a thread; afterwards [`Inflater::cost`] is what the message cost.
    ///
    /// After a close frame or an error, all input is passed over and the answer is `Ok(None)`.
    pub fn decode<'d, 'i: 'd>(
        &'d mut self,
        limits: &Limits,
        inflater: &mut Inflater,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Received<'d>>, Violation> {
        self.release();
        inflater.begin_message();
        if self.ended {
            *input = &mut [];
            return Ok(None);
        }
        let received = match self.advance(limits, input) {
            Ok(None) => return Ok(None),
            Ok(Some(Completed::InPlace(opcode, payload))) => {
                inflater.charge(payload.len() as u64);
                interpret(opcode, payload)
            }
            Ok(Some(Completed::Assembled(opcode, wire_bytes))) => {
                inflater.charge(wire_bytes);
                interpret(opcode, self.partial.as_deref().map_or(&[], Partial::delivered))
            }
            Ok(Some(Completed::Compressed(opcode, wire_bytes))) => {
                inflater.charge(wire_bytes);
                let compressed = self.partial.as_deref().map_or(&[][..], Partial::delivered);
                match inflater.inflate(compressed, limits) {
                    Ok(Inflated::Whole(bytes)) => {
                        let partial = self.partial.get_or_insert_default();
                        partial.deliver(bytes);
                        interpret(opcode, partial.delivered())
                    }
                    Ok(Inflated::Oversized(bytes)) => Ok(Received::Oversized { bytes }),
                    Err(violation) => Err(violation),
                }
            }
            Ok(Some(Completed::Discarded { bytes, wire_bytes })) => {
                inflater.charge(wire_bytes);
                Ok(Received::Oversized { bytes })
            }
            Err(violation) => Err(violation),
        };
        self.ended = matches!(received, Err(_) | Ok(Received::Close { .. }));
        received.map(Some)
    }

    /// From here on nothing is decoded: what goes on is looking for the client's close frame, from the place in the stream
    /// that this decoder has reached. Behind a violation that place is not known.
    pub fn drain(&self) -> Drain {
        match self.partial.as_deref() {
            _ if self.ended => Drain::lost(),
            None => Drain::default(),
            Some(partial) => Drain::at(partial.place()),
        }
    }

    /// Bytes of heap that this decoder holds: 0 between messages, else at most about twice what arrived of the
    /// incomplete message, and some 200.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_deref().map_or(0, Partial::held_bytes)
    }

    /// Frees what the last call lent out, and the box when nothing is incomplete.
    fn release(&mut self) {
        let Some(partial) = &mut self.partial else { return };
        partial.release_delivered();
        if self.ended || partial.is_idle() {
            self.partial = None;
        }
    }

    fn advance<'i>(
        &mut self,
        limits: &Limits,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Completed<'i>>, Violation> {
        loop {
            if !self.partial.as_deref().is_some_and(Partial::in_frame) {
                let Some(header) = self.take_header(input)? else { return Ok(None) };
                let admission = partial::admit(&header, self.partial.as_deref(), limits)?;
                if stands_alone(&header) && !header.compressed && header.payload_bytes <= input.len() as u64 {
                    return Ok(Some(take_whole(header, admission, input)));
                }
                self.partial.get_or_insert_default().open(header, admission)?;
            }
            let Some(partial) = &mut self.partial else { return Ok(None) };
            let completed = partial.take_payload(input)?;
            if completed.is_some() || partial.in_frame() {
                return Ok(completed);
            }
        }
    }

    fn take_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Header>, Violation> {
        if !self.partial.as_deref().is_some_and(Partial::in_header) {
            if let Some((header, length)) = header::parse(input, self.inflates)? {
                partial::take_front(input, length as u64);
                return Ok(Some(header));
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
        self.partial.get_or_insert_default().take_header(input, self.inflates)
    }
}

/// Whether this frame is all there is of what it begins.
fn stands_alone(header: &Header) -> bool {
    header.fin && header.opcode != OpCode::Continuation
}

/// Takes a frame that is alone and whose payload is all there.
fn take_whole<'i>(header: Header, admission: Admission, input: &mut &'i mut [u8]) -> Completed<'i> {
    let payload = partial::take_front(input, header.payload_bytes);
    match admission {
        Admission::Discard => {
            Completed::Discarded { bytes: header.payload_bytes, wire_bytes: header.payload_bytes }
        }
        Admission::Keep => {
            mask::apply(payload, header.key);
            Completed::InPlace(header.opcode, payload)
        }
    }
}

fn interpret(opcode: OpCode, payload: &[u8]) -> Result<Received<'_>, Violation> {
    match opcode {
        OpCode::Text => std::str::from_utf8(payload).map(Received::Text).map_err(|_| Violation::not_utf8()),
        OpCode::Binary => Ok(Received::Binary(payload)),
        OpCode::Ping => Ok(Received::Ping(payload)),
        OpCode::Pong => Ok(Received::Pong(payload)),
        OpCode::Close => close::parse(payload),
        OpCode::Continuation => Err(Violation::protocol("a continuation without a message to continue")),
    }
}
