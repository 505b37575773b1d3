//! Messages to bytes and back: what clients send becomes [`Request`]s, [`ServerMessage`]s become WebSocket
//! frames. MessagePack is translated to JSON text first ([`crate::msgpack`]), so each rule is implemented once.
//! Events have [`crate::event::encode_event`].

mod decode;
mod encode;

use crate::message::{BadRequest, Encoding, Frame, Request, ServerMessage};
use bytes::Bytes;

use crate::msgpack::Foreign;
use crate::websocket::{frame_of_pieces, stored};
use crate::{msgpack, writer};

/// Reads one WebSocket message: an object, or an array of 1 to [`crate::MAX_BATCH`] of them. Each is answered
/// for itself; what is not a message yields one `BadRequest`. The list is never empty.
///
/// ```
/// use drawbridge_protocol::{ClientMessage, Encoding, codec};
/// let requests = codec::decode(Encoding::Json, br#"{"type":"PING","id":1}"#);
/// assert!(matches!(requests[0].as_ref().unwrap().message, ClientMessage::Ping { t: None }));
/// ```
pub fn decode(encoding: Encoding, payload: &[u8]) -> Vec<Result<Request, BadRequest>> {
    let requests = match encoding {
        Encoding::Json => match std::str::from_utf8(payload) {
            Ok(text) => decode::requests(text, &Foreign::default()),
            Err(error) => Err(format!("the message is not UTF-8 at byte {}", error.valid_up_to())),
        },
        Encoding::MsgPack => match msgpack::translate(payload) {
            Ok((text, foreign)) => decode::requests(&text, &foreign),
            Err(error) => Err(decode::not_of_this_contract(error)),
        },
    };
    requests.unwrap_or_else(|reason| vec![Err(BadRequest { id: None, reason })])
}

/// A message as the payload of a WebSocket message.
pub fn encode(encoding: Encoding, message: &ServerMessage<'_>) -> Vec<u8> {
    writer::message(encoding, encode::capacity(message), |map| encode::write(message, map))
}

/// A message as a whole WebSocket frame: text for JSON, binary for MessagePack.
pub fn encode_frame(encoding: Encoding, message: &ServerMessage<'_>) -> Frame {
    writer::frame(encoding, encode::capacity(message), |map| encode::write(message, map))
}

/// Several messages in this encoding as one frame whose message is the array of them; at most [`crate::MAX_BATCH`]. The
/// array's header and separators are the only bytes of its own.
pub fn encode_array(encoding: Encoding, messages: &[&[u8]]) -> Frame {
    writer::array_frame(encoding, messages)
}

/// As [`encode_array`], of compressed pieces of messages: brackets and separators go uncompressed between them.
pub fn deflated_array(encoding: Encoding, pieces: &[Bytes]) -> Frame {
    let mut parts = Vec::with_capacity(2 * pieces.len() + 1);
    let (open, between, close) = writer::array_punctuation(encoding, pieces.len());
    parts.push(stored(&open));
    for (at, piece) in pieces.iter().enumerate() {
        if at > 0 && !between.is_empty() {
            parts.push(stored(between));
        }
        parts.push(piece.clone());
    }
    if !close.is_empty() {
        parts.push(stored(close));
    }
    frame_of_pieces(encoding.opcode(), &parts)
}

#[cfg(test)]
mod tests;
