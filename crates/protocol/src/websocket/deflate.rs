//! `permessage-deflate` (RFC 7692), always without context takeover in either direction: no connection holds a
//! compressor or its window, and what was compressed once serves every socket.
//!
//! A message is compressed in *pieces*. Each ends at a byte, with an empty block, and refers to nothing before it, so
//! pieces that follow one another are a message: events that are compressed once can be put together to batches, with
//! brackets and commas between them as blocks that are not compressed. When compressing is worth it, and who keeps the
//! pieces, is the engine's business.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Limits, MAX_HEADER_BYTES, OpCode, Violation, write_header};
use crate::Frame;

/// What every flushed piece ends with, and every message leaves out (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// Shorter texts are not tried: most of the cost is paid whatever the length, and little is won.
const LEAST_BYTES: usize = 128;
/// Of so many parts one must be saved.
const SAVED_PART: usize = 10;
/// The most that one block of a deflate stream stores (RFC 1951 §3.2.4).
const MAX_STORED: usize = 0xFFFF;
/// How much is inflated at once.
const INFLATE_CHUNK: usize = 16 * 1024;
/// Measured on game events: 1 is twice as fast and leaves a third more bytes; 6 saves a twentieth for up to twice the time.
const LEVEL: Compression = Compression::new(2);
/// What a sender leaves out at a message's end, and then an empty last block of ours: what is whole ends exactly with it,
/// and what was cut short does not.
const END: [u8; 9] = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];

/// How far back a compressed text may refer, in bits: what clients' inflaters hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// 32 KiB, what nearly every client has.
    W15,
    /// 512 bytes: for every client that requests less than 32 KiB.
    W9,
}

impl Window {
    fn bits(self) -> u8 {
        match self {
            Window::W15 => 15,
            Window::W9 => 9,
        }
    }
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// What the client's inflater can hold.
    pub window: Window,
    /// The bits that the client requested by name, which the answer must repeat.
    asked_bits: Option<u8>,
}

impl Deflate {
    /// The value of the answer's `Sec-WebSocket-Extensions`.
    pub fn response(&self) -> String {
        let bits = self.asked_bits.map_or(String::new(), |bits| format!("; server_max_window_bits={bits}"));
        format!("permessage-deflate; server_no_context_takeover; client_no_context_takeover{bits}")
    }
}

/// Chooses the first offer of `permessage-deflate` that can be met. `offered` yields the value of each
/// `Sec-WebSocket-Extensions` header. An offer with parameters that are unknown, doubled or ill-formed is passed over
/// (RFC 7692 §5.1), and so is one that wants a window of 256 bytes, which no deflater here makes.
///
/// ```
/// use drawbridge_protocol::websocket::{Window, negotiate_deflate};
/// let deflate = negotiate_deflate(["permessage-deflate; client_max_window_bits"].into_iter()).unwrap();
/// assert_eq!(deflate.window, Window::W15);
/// assert!(negotiate_deflate(["x-webkit-deflate-frame"].into_iter()).is_none());
/// ```
pub fn negotiate_deflate<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Deflate> {
    offered.flat_map(|value| value.split(',')).find_map(accept)
}

fn accept(offer: &str) -> Option<Deflate> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut seen: Vec<String> = Vec::new();
    let mut asked_bits = None;
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim().to_ascii_lowercase(), Some(unquoted(value.trim())?)),
            None => (part.to_ascii_lowercase(), None),
        };
        if seen.contains(&name) {
            return None;
        }
        match (name.as_str(), value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
            ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(bits)) => {
                window_bits(bits)?;
            }
            ("server_max_window_bits", Some(bits)) => asked_bits = Some(window_bits(bits)?),
            _ => return None,
        }
        seen.push(name);
    }
    let window = match asked_bits {
        None | Some(15) => Window::W15,
        Some(8) => return None,
        Some(_) => Window::W9,
    };
    Some(Deflate { window, asked_bits })
}

fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"'),
        None => Some(value),
    }
}

/// 8 to 15, without leading zeros (RFC 7692 §7.1.2.1).
fn window_bits(text: &str) -> Option<u8> {
    (8..=15).find(|bits: &u8| bits.to_string() == text)
}

/// Compresses pieces. Holds some 300 KiB for each window in use, from the first piece on, so there is one for many
/// connections. It carries nothing from one piece to the next.
#[derive(Default)]
pub struct Compressor {
    wide: Option<Compress>,
    narrow: Option<Compress>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl Compressor {
    /// A text as a piece; `None` where that saves too little to be worth a client's work.
    pub fn piece(&mut self, text: &[u8], window: Window) -> Option<Bytes> {
        if text.len() < LEAST_BYTES {
            return None;
        }
        let slot = match window {
            Window::W15 => &mut self.wide,
            Window::W9 => &mut self.narrow,
        };
        let compress =
            slot.get_or_insert_with(|| Compress::new_with_window_bits(LEVEL, false, window.bits()));
        compress.reset();
        // Room for all of it, also where it does not pay: a state whose output was not fetched to its end is not wholly
        // reset, and zlib-rs panics some pieces later.
        let mut out = Vec::with_capacity(text.len() + text.len() / 8 + 64);
        let done = compress.compress_vec(text, &mut out, FlushCompress::Sync);
        if done.is_err() || out.len() == out.capacity() {
            *slot = None;
            return None;
        }
        let pays = out.len() <= text.len() - text.len() / SAVED_PART && out.ends_with(&TAIL);
        pays.then(|| Bytes::copy_from_slice(&out))
    }
}

/// A piece that stores bytes as they are; an empty text is an empty piece.
pub fn stored(text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 5 * text.len().div_ceil(MAX_STORED));
    for part in text.chunks(MAX_STORED) {
        let length = part.len() as u16;
        out.push(0x00);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(part);
    }
    out.into()
}

/// Pieces, one behind the other, as one compressed message in one frame.
pub fn frame_of_pieces(opcode: OpCode, pieces: &[Bytes]) -> Frame {
    let mut payload: Vec<u8> = Vec::with_capacity(pieces.iter().map(Bytes::len).sum::<usize>() + TAIL.len());
    pieces.iter().for_each(|piece| payload.extend_from_slice(piece));
    match payload.strip_suffix(&TAIL) {
        Some(rest) => payload.truncate(rest.len()),
        // The last was stored: an empty block ends it, and of that only its first byte is said (RFC 7692 §7.2.1).
        None => payload.push(0x00),
    }
    let mut frame = Vec::with_capacity(MAX_HEADER_BYTES + payload.len());
    write_header(&mut frame, opcode, payload.len());
    if let Some(first) = frame.first_mut() {
        *first |= 0x40;
    }
    frame.extend_from_slice(&payload);
    frame.into()
}

/// What a compressed message holds.
pub(super) enum Inflated {
    Whole(Vec<u8>),
    /// More than [`Limits::message_bytes`]; its content was thrown away as it came.
    Oversized(u64),
}

/// Inflates for all connections of one thread, and counts what their messages cost. It carries nothing from one message
/// to the next; from the first compressed message on it holds some 64 KiB.
#[derive(Default)]
pub struct Inflater {
    scratch: Option<Box<Scratch>>,
    /// See [`Inflater::inflated_bytes`].
    inflated: u64,
    /// See [`Inflater::cost`].
    cost: u64,
}

struct Scratch {
    state: Decompress,
    chunk: [u8; INFLATE_CHUNK],
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("inflated", &self.inflated).finish_non_exhaustive()
    }
}

impl Inflater {
    /// Bytes that were inflated so far, of all messages, those that were discarded or damaged included. Only grows.
    pub fn inflated_bytes(&self) -> u64 {
        self.inflated
    }

    /// What the last call of [`super::Decoder::decode`] returned, in bytes: the payloads of the message's frames and the headers
    /// of its fragments, or what it inflated to, whichever is more. 0 where the call returned no message.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Nothing was charged for the message that comes next.
    pub(super) fn begin_message(&mut self) {
        self.cost = 0;
    }

    /// The message cost at least so much.
    pub(super) fn charge(&mut self, bytes: u64) {
        self.cost = self.cost.max(bytes);
    }

    /// Inflates a client's message. However much it says in few bytes, no more than `message_bytes` are held, and no
    /// more than the smaller of `max_message_bytes` and `inflated_bytes`, and one chunk, are inflated.
    pub(super) fn inflate(&mut self, message: &[u8], limits: &Limits) -> Result<Inflated, Violation> {
        // Nothing at all would have to be a byte of 0 (RFC 7692 §7.2.3.6), and cannot mean anything else.
        if message.is_empty() {
            return Ok(Inflated::Whole(Vec::new()));
        }
        let scratch = self.scratch.get_or_insert_with(|| {
            Box::new(Scratch { state: Decompress::new(false), chunk: [0; INFLATE_CHUNK] })
        });
        scratch.state.reset(false);
        let mut inflating = Inflating { scratch, whole: Vec::new(), bytes: 0, limits };
        let read = inflating.read(message);
        let (bytes, whole) = (inflating.bytes, inflating.whole);
        self.inflated += bytes;
        self.charge(bytes);
        if let Err(violation) = read {
            // What a failed message left behind is not worth trusting.
            self.scratch = None;
            return Err(violation);
        }
        Ok(match bytes > limits.message_bytes as u64 {
            true => Inflated::Oversized(bytes),
            false => Inflated::Whole(whole),
        })
    }
}

/// One message being inflated.
struct Inflating<'l> {
    scratch: &'l mut Scratch,
    whole: Vec<u8>,
    /// How long it is so far; what is beyond the limit is counted and not kept.
    bytes: u64,
    limits: &'l Limits,
}

impl Inflating<'_> {
    fn read(&mut self, message: &[u8]) -> Result<(), Violation> {
        let mut rest = message;
        // Blocks may follow a last one (RFC 7692 §7.2.3.4), from a compressor that began again.
        while let Some(left) = self.feed(rest)? {
            if left == 0 {
                // Not even the first byte of the empty block is there, of which a sender leaves out the others.
                return Ok(());
            }
            rest = rest.get(rest.len() - left..).unwrap_or_default();
            self.scratch.state.reset(false);
        }
        match self.feed(&END)? {
            Some(0) => Ok(()),
            _ => Err(damaged()),
        }
    }

    /// Inflates `input` until it ends, or a last block: then returns how much follows it.
    fn feed(&mut self, mut input: &[u8]) -> Result<Option<usize>, Violation> {
        loop {
            let Scratch { state, chunk } = &mut *self.scratch;
            let (taken, made) = (state.total_in(), state.total_out());
            let status = state.decompress(input, chunk, FlushDecompress::Sync).map_err(|_| damaged())?;
            let taken = (state.total_in() - taken) as usize;
            let made = (state.total_out() - made) as usize;
            input = input.get(taken..).unwrap_or_default();
            self.keep(made)?;
            if status == Status::StreamEnd {
                return Ok(Some(input.len()));
            }
            if made < INFLATE_CHUNK {
                // It stopped for want of input.
                return if input.is_empty() { Ok(None) } else { Err(damaged()) };
            }
        }
    }

    fn keep(&mut self, made: usize) -> Result<(), Violation> {
        self.bytes += made as u64;
        if self.bytes > self.limits.max_message_bytes.min(self.limits.inflated_bytes) as u64 {
            return Err(Violation::too_big("a message is over the limit"));
        }
        if self.bytes > self.limits.message_bytes as u64 {
            self.whole = Vec::new();
        } else {
            self.whole.extend_from_slice(self.scratch.chunk.get(..made).unwrap_or_default());
        }
        Ok(())
    }
}

fn damaged() -> Violation {
    Violation::invalid_payload("a compressed message is damaged")
}

#[cfg(test)]
mod tests;
