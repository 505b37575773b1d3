//! WebSocket frames from a client's side (RFC 6455 §5.2): reads what a server writes, which is never masked nor
//! fragmented here, and writes small masked frames.

use std::io::{self, ErrorKind};

use drawbridge_protocol::websocket::OpCode;

/// Longer than any frame that a node sends in a run.
const MAX_PAYLOAD_BYTES: u64 = 16 << 20;
/// Masking protects proxies from hostile scripts; here it is only a duty.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One frame, borrowed from what was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Never a continuation.
    pub(crate) opcode: OpCode,
    /// The whole message.
    pub(crate) payload: &'a [u8],
}

/// Takes one whole frame off the front of `input`; `None` while it is incomplete.
pub(crate) fn take<'a>(input: &mut &'a [u8]) -> io::Result<Option<Frame<'a>>> {
    let [first, second, rest @ ..] = *input else { return Ok(None) };
    let opcode = match first {
        0x81 => OpCode::Text,
        0x82 => OpCode::Binary,
        0x88 => OpCode::Close,
        0x89 => OpCode::Ping,
        0x8A => OpCode::Pong,
        _ => return Err(malformed("a fragment, or bits that were not agreed on")),
    };
    let (length, rest) = match second {
        0..=125 => (u64::from(*second), rest),
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        _ => return Err(malformed("a masked frame")),
    };
    if length > MAX_PAYLOAD_BYTES {
        return Err(malformed("a frame too long"));
    }
    let Some((payload, rest)) = rest.split_at_checked(length as usize) else { return Ok(None) };
    *input = rest;
    Ok(Some(Frame { opcode, payload }))
}

/// One masked frame.
pub(crate) fn masked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(14 + payload.len());
    drawbridge_protocol::websocket::write_header(&mut out, opcode, payload.len());
    out[1] |= 0x80;
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// A close frame's code (1005 for none) and reason.
pub(crate) fn close_reason(payload: &[u8]) -> String {
    match payload.split_first_chunk() {
        Some((code, reason)) => {
            format!("closed with {} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason))
        }
        None => "closed with 1005".into(),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the server sent {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use drawbridge_protocol::websocket::encode_frame;

    #[test]
    fn frames_of_every_length_are_taken_only_when_whole() {
        for length in [0, 1, 125, 126, 300, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let bytes = encode_frame(OpCode::Text, &payload);
            for end in [0, 1, 2, 3, bytes.len() - 1] {
                assert_eq!(take(&mut &bytes[..end.min(bytes.len() - 1)]).unwrap(), None);
            }
            let mut input = &bytes[..];
            assert_eq!(take(&mut input).unwrap(), Some(Frame { opcode: OpCode::Text, payload: &payload }));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn what_no_server_sends_here_is_an_error() {
        let endless = [0x82, 127, 0xFF, 0, 0, 0, 0, 0, 0, 0];
        for bytes in [&[0x01, 0][..], &[0xC1, 0], &[0x81, 0x80, 0, 0, 0, 0], &endless] {
            assert!(take(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_masked_frame_is_the_rfcs() {
        // RFC 6455 §5.7: a single-frame masked text message, which uses this very mask.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(masked(OpCode::Text, b"Hello"), hello);
    }

    #[test]
    fn a_close_is_told_with_its_code() {
        assert_eq!(close_reason(b"\x0f\xa1slow"), "closed with 4001 slow");
        assert_eq!(close_reason(b""), "closed with 1005");
    }
}
