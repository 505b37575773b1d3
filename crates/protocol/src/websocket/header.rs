//! The header of a client's frame (RFC 6455 §5.2): what can be checked by its bytes alone. Whether the frame fits
//! what came before it, and whether it is too large, is checked where the message is known ([`super::partial`]).

use super::{OpCode, Violation};

/// The longest header that a client writes: two bytes, an eight-byte length, the mask.
pub(super) const MAX_CLIENT_HEADER_BYTES: usize = 14;
/// The largest payload of a control frame (§5.5).
pub(super) const MAX_CONTROL_BYTES: usize = 125;

/// A well-formed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The last frame of its message.
    pub(super) fin: bool,
    /// The first reserved bit: a compressed message begins (RFC 7692 §6).
    pub(super) compressed: bool,
    /// What the frame is.
    pub(super) opcode: OpCode,
    /// The payload's length by the header; below 2^63.
    pub(super) payload_bytes: u64,
    /// The mask's key.
    pub(super) key: [u8; 4],
}

impl OpCode {
    /// Close, ping, pong: whole in themselves, and allowed between the fragments of a message.
    pub(super) fn is_control(self) -> bool {
        matches!(self, OpCode::Close | OpCode::Ping | OpCode::Pong)
    }

    fn from_bits(bits: u8) -> Option<OpCode> {
        Some(match bits {
            0x0 => OpCode::Continuation,
            0x1 => OpCode::Text,
            0x2 => OpCode::Binary,
            0x8 => OpCode::Close,
            0x9 => OpCode::Ping,
            0xA => OpCode::Pong,
            _ => return None,
        })
    }
}

/// Reads the header at the front of `bytes`; also returns how many bytes it takes. `None`: it goes on past `bytes`.
/// Each byte is checked at once, so that a peer that uses another protocol is rejected after its first byte.
/// `inflates`: compressed messages were agreed on.
pub(super) fn parse(bytes: &[u8], inflates: bool) -> Result<Option<(Header, usize)>, Violation> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let (fin, compressed, opcode) = parse_first(first, inflates)?;
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if second & 0x80 == 0 {
        return Err(Violation::protocol("a client's frame is not masked"));
    }
    let short_length = second & 0x7F;
    if opcode.is_control() && usize::from(short_length) > MAX_CONTROL_BYTES {
        return Err(Violation::protocol("a control frame is longer than 125 bytes"));
    }
    let Some((payload_bytes, after_length)) = parse_length(short_length, bytes)? else { return Ok(None) };
    let Some(key) = bytes.get(after_length..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
    Ok(Some((Header { fin, compressed, opcode, payload_bytes, key: *key }, after_length + key.len())))
}

fn parse_first(byte: u8, inflates: bool) -> Result<(bool, bool, OpCode), Violation> {
    let compressed = byte & 0x40 != 0;
    if byte & 0x30 != 0 || compressed && !inflates {
        return Err(Violation::protocol("a reserved bit is set"));
    }
    let fin = byte & 0x80 != 0;
    let opcode = OpCode::from_bits(byte & 0x0F).ok_or(Violation::protocol("a reserved opcode"))?;
    if opcode.is_control() && !fin {
        return Err(Violation::protocol("a control frame is fragmented"));
    }
    if compressed && !matches!(opcode, OpCode::Text | OpCode::Binary) {
        return Err(Violation::protocol("a reserved bit is set"));
    }
    Ok((fin, compressed, opcode))
}

/// The payload's length and where the mask begins.
fn parse_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let extended = bytes.get(2..).unwrap_or_default();
    let (length, after) = match short {
        126 => match extended.first_chunk() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 4),
            None => return Ok(None),
        },
        127 => match extended.first_chunk() {
            Some(length) => (u64::from_be_bytes(*length), 10),
            None => return Ok(None),
        },
        _ => return Ok(Some((u64::from(short), 2))),
    };
    if length >> 63 != 0 {
        return Err(Violation::protocol("the first bit of a payload length is set"));
    }
    let shortest = if short == 126 { 126 } else { 0x1_0000 };
    if length < shortest {
        return Err(Violation::protocol("a payload length is not written in the fewest bytes"));
    }
    Ok(Some((length, after)))
}
