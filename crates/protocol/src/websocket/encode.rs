//! Writing frames. A server never masks and never fragments, so a frame is a header of 2, 4 or 10 bytes and
//! its payload (RFC 6455 §5.2).

use bytes::Bytes;

/// The longest header that a server writes.
pub const MAX_HEADER_BYTES: usize = 10;

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// Goes on with a fragmented message.
    Continuation = 0x0,
    /// UTF-8 text.
    Text = 0x1,
    /// Bytes.
    Binary = 0x2,
    /// Close, with an optional code and reason.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xA,
}

/// Appends the header of a final, unmasked frame.
pub fn write_header(out: &mut Vec<u8>, opcode: OpCode, payload_bytes: usize) {
    out.push(0x80 | opcode as u8);
    match payload_bytes {
        0..=125 => out.push(payload_bytes as u8),
        126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

/// The payload of a whole frame that a server wrote.
pub fn payload_of(frame: &[u8]) -> &[u8] {
    let header_bytes = match frame.get(1) {
        Some(126) => 4,
        Some(127) => MAX_HEADER_BYTES,
        _ => 2,
    };
    frame.get(header_bytes..).unwrap_or_default()
}

/// One whole frame.
pub fn encode_frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(MAX_HEADER_BYTES + payload.len());
    write_header(&mut out, opcode, payload.len());
    out.extend_from_slice(payload);
    out.into()
}
