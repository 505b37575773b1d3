//! The payload of close frames (RFC 6455 §5.5.1, §7.4): which are well formed, and writing one. When to close, and in
//! which order the two close frames go, is the server's business.

use bytes::Bytes;

use super::header::MAX_CONTROL_BYTES;
use super::{OpCode, Received, Violation, encode_frame};

/// The longest reason of a close frame, in bytes of UTF-8.
pub const MAX_REASON_BYTES: usize = MAX_CONTROL_BYTES - 2;

/// One whole close frame. A reason over [`MAX_REASON_BYTES`] is cut at a character. `code` is a code that may be sent
/// (see RFC 6455 §7.4); to close without one, send [`OpCode::Close`] with an empty payload.
///
/// ```
/// use drawbridge_protocol::{CloseCode, websocket::encode_close};
/// assert_eq!(&encode_close(CloseCode::Drain.as_u16(), "bye")[..], b"\x88\x05\x0f\xa0bye");
/// ```
pub fn encode_close(code: u16, reason: &str) -> Bytes {
    let longest = reason.len().min(MAX_REASON_BYTES);
    let cut = (0..=longest).rev().find(|&at| reason.is_char_boundary(at)).unwrap_or(0);
    let mut payload = Vec::with_capacity(2 + cut);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..cut]);
    encode_frame(OpCode::Close, &payload)
}

/// A client's close frame.
pub(super) fn parse(payload: &[u8]) -> Result<Received<'_>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(Received::Close { code: None, reason: "" }),
            _ => Err(Violation::protocol("a close frame holds half a code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(Violation::protocol("a close code that must not be sent"));
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok(Received::Close { code: Some(code), reason }),
        Err(_) => Err(Violation::invalid_payload("a close reason is not UTF-8")),
    }
}

/// The codes that RFC 6455 and its registry let an endpoint send; the ranges for libraries and applications whole.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::CloseCode;

    #[test]
    fn codes_that_may_be_sent_are_those_of_the_rfc_and_its_registry() {
        let allowed = |code: u16| !matches!(code, 0..=999 | 1004..=1006 | 1015..=2999 | 5000..);
        for code in 0..=u16::MAX {
            assert_eq!(parse(&code.to_be_bytes()).is_ok(), allowed(code), "{code}");
        }
    }

    #[test]
    fn a_payload_is_nothing_or_a_code_and_a_reason() {
        assert_eq!(parse(b""), Ok(Received::Close { code: None, reason: "" }));
        assert_eq!(parse(b"\x03\xE8"), Ok(Received::Close { code: Some(1000), reason: "" }));
        assert_eq!(
            parse("\u{3}\u{7f}".as_bytes()).unwrap_err().code,
            CloseCode::ProtocolError,
            "a code below 1000"
        );
        assert_eq!(
            parse(b"\x0F\xA0gr\xC3\xBC\xC3\x9Fe"),
            Ok(Received::Close { code: Some(4000), reason: "grüße" })
        );
        assert_eq!(parse(b"\x03").unwrap_err().code, CloseCode::ProtocolError);
        assert_eq!(parse(b"\x03\xE8\xFF").unwrap_err().code, CloseCode::InvalidPayload);
        assert_eq!(parse(b"\x03\xE8\xC3").unwrap_err().code, CloseCode::InvalidPayload, "cut in a character");
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let reason = "ü".repeat(100);
        let frame = encode_close(1001, &reason);
        assert_eq!(frame[..4], [0x88, 2 + 122, 0x03, 0xE9]);
        assert_eq!(std::str::from_utf8(&frame[4..]).unwrap(), "ü".repeat(61));
        assert_eq!(encode_close(1001, &"x".repeat(200)).len(), 2 + MAX_CONTROL_BYTES);
    }
}
