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
/// Shorter texts are not tried.
const LEAST_BYTES: usize = 96;
/// Of so many parts one must be saved.
const SAVED_PART: usize = 10;
/// The most that one block of a deflate stream stores (RFC 1951 §3.2.4).
const MAX_STORED: usize = 0xFFFF;
/// How much is inflated at once.
const INFLATE_CHUNK: usize = 16 * 1024;
const LEVEL: Compression = Compression::new(3);

/// How far back a compressed text may refer, in bits: what clients' inflaters hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// 32 KiB, what nearly every client has.
    W15,
    /// 512 bytes: for every client that asks for less than 32 KiB.
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
    /// The bits that the client asked for by name, which the answer has to repeat.
    asked_bits: Option<u8>,
}

impl Deflate {
    /// The value of the answer's `Sec-WebSocket-Extensions`.
    pub fn response(&self) -> String {
        let bits = self.asked_bits.map_or(String::new(), |bits| format!("; server_max_window_bits={bits}"));
        format!("permessage-deflate; server_no_context_takeover; client_no_context_takeover{bits}")
    }
}

/// Chooses the first offer of `permessage-deflate` that can be met. `offered` gives the value of each
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

/// Compresses pieces. Holds some 300 KiB, so there is one for many connections.
pub struct Compressor {
    wide: Compress,
    narrow: Option<Compress>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Compressor { wide: Compress::new_with_window_bits(LEVEL, false, Window::W15.bits()), narrow: None }
    }
}

impl Compressor {
    /// A text as a piece; `None` where that saves too little to be worth a client's work.
    pub fn piece(&mut self, text: &[u8], window: Window) -> Option<Bytes> {
        if text.len() < LEAST_BYTES {
            return None;
        }
        let compress = match window {
            Window::W15 => &mut self.wide,
            Window::W9 => self
                .narrow
                .get_or_insert_with(|| Compress::new_with_window_bits(LEVEL, false, Window::W9.bits())),
        };
        compress.reset();
        let most = text.len() - text.len() / SAVED_PART;
        let mut out = Vec::with_capacity(most);
        // One call takes all or shows that it does not pay: there is no room for more than that.
        let status = compress.compress_vec(text, &mut out, FlushCompress::Sync).ok()?;
        let done = status == Status::Ok && compress.total_in() == text.len() as u64 && out.ends_with(&TAIL);
        (done && out.len() < most).then(|| out.into())
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

/// Inflates a client's message. However much it says in few bytes, no more than `message_bytes` are held, and no more
/// than `max_message_bytes` are inflated.
pub(super) fn inflate(compressed: &[u8], limits: &Limits) -> Result<Inflated, Violation> {
    let mut inflater = Decompress::new(false);
    let mut whole = Vec::new();
    let mut chunk = [0; INFLATE_CHUNK];
    for (part, is_last) in [(compressed, false), (&TAIL[..], true)] {
        let mut rest = part;
        loop {
            let (taken, made) = (inflater.total_in(), inflater.total_out());
            let status = inflater
                .decompress(rest, &mut chunk, FlushDecompress::Sync)
                .map_err(|_| Violation::invalid_payload("a compressed message is damaged"))?;
            let (taken, made) = (inflater.total_in() - taken, (inflater.total_out() - made) as usize);
            rest = rest.get(taken as usize..).unwrap_or_default();
            if inflater.total_out() > limits.max_message_bytes as u64 {
                return Err(Violation::too_big("a message is over the limit"));
            }
            if inflater.total_out() <= limits.message_bytes as u64 {
                whole.extend_from_slice(chunk.get(..made).unwrap_or_default());
            } else {
                whole = Vec::new();
            }
            if status == Status::StreamEnd {
                // A last block may come before the end (RFC 7692 §7.2.3.5); nothing but its padding follows.
                return Ok(inflated(whole, inflater.total_out(), limits));
            }
            if made < chunk.len() && (rest.is_empty() || taken == 0) {
                break;
            }
        }
        if is_last && !rest.is_empty() {
            return Err(Violation::invalid_payload("a compressed message is damaged"));
        }
    }
    Ok(inflated(whole, inflater.total_out(), limits))
}

fn inflated(whole: Vec<u8>, bytes: u64, limits: &Limits) -> Inflated {
    if bytes > limits.message_bytes as u64 { Inflated::Oversized(bytes) } else { Inflated::Whole(whole) }
}

#[cfg(test)]
mod tests;
