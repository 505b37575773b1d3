//! What has begun to arrive and is not complete: half a header, a frame's rest, a fragmented message. It exists only
//! while something is incomplete, and grows with the bytes that arrived, never by a length that was announced.

use super::header::{self, Header, MAX_CLIENT_HEADER_BYTES};
use super::{Limits, OpCode, Violation, mask};

/// How many fragments of one message may be empty, before its last. Non-empty ones are bounded by the message's size;
/// these would cost nothing but never end. Beyond it the message counts as too big (1009).
pub const MAX_EMPTY_FRAGMENTS: u32 = 1_024;
/// The shortest header of a client's frame.
const HEADER_BYTES: u64 = 6;

/// What became complete, seen without borrowing from where it is.
pub(super) enum Completed<'i> {
    /// It is whole, unmasked, in the bytes that were handed in.
    InPlace(OpCode, &'i [u8]),
    /// It was assembled in [`Partial::delivered`], from frames of so many bytes ([`Message::wire_bytes`]).
    Assembled(OpCode, u64),
    /// As [`Completed::Assembled`], still compressed.
    Compressed(OpCode, u64),
    /// A data message over [`Limits::message_bytes`].
    Discarded {
        /// Its payload.
        bytes: u64,
        /// See [`Message::wire_bytes`].
        wire_bytes: u64,
    },
}

/// Whether a frame's payload is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is.
    Keep,
    /// Its message is over [`Limits::message_bytes`].
    Discard,
}

/// The state of one connection between two reads, where a frame or message is cut by them.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// The front of a header.
    header: [u8; MAX_CLIENT_HEADER_BYTES],
    header_bytes: u8,
    /// The frame whose payload is arriving.
    frame: Option<OpenFrame>,
    /// The data message that this frame or an earlier one began.
    message: Option<Message>,
    /// The payload of a control frame that is arriving.
    control: Vec<u8>,
    /// What was completed last, until it has been looked at.
    delivered: Vec<u8>,
}

#[derive(Debug)]
struct OpenFrame {
    fin: bool,
    opcode: OpCode,
    remaining: u64,
    /// Turned so that its first byte meets the next one of the payload.
    key: [u8; 4],
}

/// A data message that is not complete.
#[derive(Debug)]
struct Message {
    /// Text or binary.
    opcode: OpCode,
    bytes: Vec<u8>,
    /// How much of a text is known to be UTF-8; what follows is at most the front of one character.
    checked: usize,
    /// The payloads of its frames so far, by their headers.
    announced: u64,
    empty_fragments: u32,
    /// Frames behind the first.
    continuations: u64,
    discarded: bool,
    compressed: bool,
}

impl Partial {
    /// Whether nothing is incomplete and nothing waits to be looked at.
    pub(super) fn is_idle(&self) -> bool {
        self.header_bytes == 0 && !self.in_frame() && self.message.is_none() && self.delivered.is_empty()
    }

    /// Whether a frame's payload has begun and not ended.
    pub(super) fn in_frame(&self) -> bool {
        self.frame.is_some()
    }

    /// The message that was completed last.
    pub(super) fn delivered(&self) -> &[u8] {
        &self.delivered
    }

    /// Lends this out as what was completed last.
    pub(super) fn deliver(&mut self, bytes: Vec<u8>) {
        self.delivered = bytes;
    }

    /// Frees what was completed last.
    pub(super) fn release_delivered(&mut self) {
        self.delivered = Vec::new();
    }

    /// Bytes of heap held, with those kept for growth.
    pub(super) fn held_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, |message| message.bytes.capacity());
        size_of::<Self>() + self.control.capacity() + self.delivered.capacity() + message
    }

    /// Whether the front of a header waits for its rest.
    pub(super) fn in_header(&self) -> bool {
        self.header_bytes > 0
    }

    /// Goes on with a header that the bytes handed in so far have cut, one byte at a time.
    pub(super) fn take_header(
        &mut self,
        input: &mut &mut [u8],
        inflates: bool,
    ) -> Result<Option<Header>, Violation> {
        while let Some(byte) = input.split_off_first_mut() {
            let held = usize::from(self.header_bytes);
            self.header[held] = *byte;
            match header::parse(&self.header[..=held], inflates)? {
                Some((header, _)) => {
                    self.header_bytes = 0;
                    return Ok(Some(header));
                }
                None => self.header_bytes += 1,
            }
        }
        Ok(None)
    }

    /// What is left of the open frame and whether it is a close frame, and the front of a header, for a reader that only
    /// skips from here on.
    pub(super) fn place(&self) -> (u64, bool, &[u8]) {
        let (remaining, is_close) =
            self.frame.as_ref().map_or((0, false), |frame| (frame.remaining, frame.opcode == OpCode::Close));
        (remaining, is_close, self.header.get(..usize::from(self.header_bytes)).unwrap_or_default())
    }

    /// Opens a frame that was admitted and whose payload is not whole in the bytes handed in, or is a fragment.
    pub(super) fn open(&mut self, header: Header, admission: Admission) -> Result<(), Violation> {
        let Header { fin, compressed, opcode, payload_bytes, key } = header;
        self.frame = Some(OpenFrame { fin, opcode, remaining: payload_bytes, key });
        if opcode.is_control() {
            return Ok(());
        }
        let message = self.message.get_or_insert_with(|| Message::new(opcode, compressed));
        message.announced = message.announced.saturating_add(payload_bytes);
        message.continuations += u64::from(opcode == OpCode::Continuation);
        if admission == Admission::Discard {
            message.discard();
        }
        if payload_bytes == 0 && !fin {
            message.empty_fragments += 1;
        }
        if message.empty_fragments > MAX_EMPTY_FRAGMENTS {
            return Err(Violation::too_big("too many empty fragments"));
        }
        Ok(())
    }

    /// Takes what `input` has of the open frame's payload.
    pub(super) fn take_payload<'i>(
        &mut self,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Completed<'i>>, Violation> {
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let part = take_front(input, frame.remaining);
        frame.remaining -= part.len() as u64;
        if frame.opcode.is_control() {
            mask::apply(part, frame.key);
            self.control.extend_from_slice(part);
        } else if let Some(message) = self.message.as_mut().filter(|message| !message.discarded) {
            mask::apply(part, frame.key);
            message.append(part)?;
        }
        frame.key.rotate_left(part.len() % 4);
        match frame.remaining {
            0 => Ok(self.end_frame()),
            _ => Ok(None),
        }
    }

    fn end_frame<'i>(&mut self) -> Option<Completed<'i>> {
        let frame = self.frame.take()?;
        if frame.opcode.is_control() {
            self.delivered = std::mem::take(&mut self.control);
            return Some(Completed::Assembled(frame.opcode, self.delivered.len() as u64));
        }
        if !frame.fin {
            return None;
        }
        let message = self.message.take()?;
        let wire_bytes = message.wire_bytes();
        if message.discarded {
            return Some(Completed::Discarded { bytes: message.announced, wire_bytes });
        }
        self.delivered = message.bytes;
        Some(match message.compressed {
            true => Completed::Compressed(message.opcode, wire_bytes),
            false => Completed::Assembled(message.opcode, wire_bytes),
        })
    }
}

impl Message {
    fn new(opcode: OpCode, compressed: bool) -> Self {
        Message {
            opcode,
            bytes: Vec::new(),
            checked: 0,
            announced: 0,
            empty_fragments: 0,
            continuations: 0,
            discarded: false,
            compressed,
        }
    }

    /// The payloads of its frames, and the headers of all but the first: many tiny fragments cost more than their payloads.
    fn wire_bytes(&self) -> u64 {
        self.announced.saturating_add(self.continuations.saturating_mul(HEADER_BYTES))
    }

    fn discard(&mut self) {
        self.discarded = true;
        self.bytes = Vec::new();
    }

    /// Appends a part; a text's is checked at once, so that a bad one is refused at its first bad byte.
    fn append(&mut self, part: &[u8]) -> Result<(), Violation> {
        self.bytes.extend_from_slice(part);
        if self.opcode == OpCode::Text && !self.compressed {
            self.checked += utf8_prefix(&self.bytes[self.checked..])?;
        }
        Ok(())
    }
}

/// How much of `bytes` is whole characters, where the rest may be the front of one.
fn utf8_prefix(bytes: &[u8]) -> Result<usize, Violation> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(Violation::not_utf8()),
    }
}

/// Judges a header by what came before it and by the limits.
pub(super) fn admit(
    header: &Header,
    partial: Option<&Partial>,
    limits: &Limits,
) -> Result<Admission, Violation> {
    let message = partial.and_then(|partial| partial.message.as_ref());
    match (header.opcode, message) {
        (OpCode::Close | OpCode::Ping | OpCode::Pong, _) => return Ok(Admission::Keep),
        (OpCode::Continuation, None) => {
            return Err(Violation::protocol("a continuation without a message to continue"));
        }
        (OpCode::Text | OpCode::Binary, Some(_)) => {
            return Err(Violation::protocol("a new message inside a fragmented one"));
        }
        _ => {}
    }
    let before = message.map_or(0, |message| message.announced);
    let total = before.saturating_add(header.payload_bytes);
    if total > limits.max_message_bytes as u64 {
        return Err(Violation::too_big("a message is over the limit"));
    }
    Ok(if total > limits.message_bytes as u64 { Admission::Discard } else { Admission::Keep })
}

/// Takes up to `most` bytes from the front of `input`.
pub(super) fn take_front<'i>(input: &mut &'i mut [u8], most: u64) -> &'i mut [u8] {
    let count = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    input.split_off_mut(..count).unwrap_or_default()
}
