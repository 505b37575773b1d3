//! The opening handshake's answers (RFC 6455 §4.2.2): the accept key and the sub-protocol. Methods, versions, origins
//! and HTTP itself are the server's business.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::Encoding;

/// The GUID that RFC 6455 §1.3 appends to every key.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A `Sec-WebSocket-Key` that is not 16 bytes in base64. The upgrade is refused (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sec-WebSocket-Key must be 16 bytes in base64")
    }
}

impl std::error::Error for InvalidKey {}

/// The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (given without white space around it).
///
/// ```
/// use drawbridge_protocol::websocket::accept_key;
/// assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ==").as_deref(), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
/// ```
pub fn accept_key(sec_websocket_key: &str) -> Result<String, InvalidKey> {
    if !is_sixteen_bytes(sec_websocket_key) {
        return Err(InvalidKey);
    }
    let digest = Sha1::new().chain_update(sec_websocket_key).chain_update(KEY_SUFFIX).finalize();
    Ok(STANDARD.encode(digest))
}

/// Whether 16 bytes are written here in base64. The bits that its last character has to spare may be anything: nothing
/// but the text itself is used, and some clients draw that at random.
fn is_sixteen_bytes(key: &str) -> bool {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix("==").is_some_and(|digits| digits.len() == 22 && digits.bytes().all(in_alphabet))
}

/// A connection's sub-protocol and encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subprotocol {
    /// How its messages are encoded.
    pub encoding: Encoding,
    /// The `Sec-WebSocket-Protocol` of the answer; `None` where the client offered nothing: then the answer has no
    /// such header.
    pub echo: Option<&'static str>,
}

/// A client offered sub-protocols, none of which this server knows. The upgrade is refused (400; contract §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKnownSubprotocol;

impl fmt::Display for NoKnownSubprotocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [json, msgpack] = [Encoding::Json, Encoding::MsgPack].map(Encoding::subprotocol);
        write!(f, "no known sub-protocol was offered; this server supports {json} and {msgpack}")
    }
}

impl std::error::Error for NoKnownSubprotocol {}

/// Chooses the first known sub-protocol in the client's order. `offered` yields the value of each
/// `Sec-WebSocket-Protocol` header, which may be repeated and may be a list with commas.
///
/// ```
/// use drawbridge_protocol::{Encoding, websocket::negotiate};
/// let chosen = negotiate(["graphql-ws, drawbridge.v1.msgpack"].into_iter()).unwrap();
/// assert_eq!((chosen.encoding, chosen.echo), (Encoding::MsgPack, Some("drawbridge.v1.msgpack")));
/// ```
pub fn negotiate<'a>(offered: impl Iterator<Item = &'a str>) -> Result<Subprotocol, NoKnownSubprotocol> {
    let mut names = offered.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty());
    let Some(first) = names.next() else {
        return Ok(Subprotocol { encoding: Encoding::Json, echo: None });
    };
    let encoding = std::iter::once(first).chain(names).find_map(known).ok_or(NoKnownSubprotocol)?;
    Ok(Subprotocol { encoding, echo: Some(encoding.subprotocol()) })
}

fn known(name: &str) -> Option<Encoding> {
    [Encoding::Json, Encoding::MsgPack].into_iter().find(|encoding| encoding.subprotocol() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()));
    }

    #[test]
    fn a_key_that_is_not_sixteen_bytes_in_base64_is_refused() {
        for key in [
            "",
            "AAAA",
            "dGhlIHNhbXBsZSBub25jZQ",   // not padded
            "dGhlIHNhbXBsZSBub25j",     // 15 bytes
            "dGhlIHNhbXBsZSBub25jZSE=", // 17 bytes
            "dGhlIHNhbXBsZSBub25jZSEh", // 18 bytes
            "dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZQ==",
            " dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZ_==", // the other alphabet
            "\u{fc}GhlIHNhbXBsZSBub25jZQ==",
        ] {
            assert_eq!(accept_key(key), Err(InvalidKey), "{key:?}");
        }
    }

    #[test]
    fn the_first_known_subprotocol_in_the_clients_order_is_chosen() {
        let json = Subprotocol { encoding: Encoding::Json, echo: Some("drawbridge.v1.json") };
        let msgpack = Subprotocol { encoding: Encoding::MsgPack, echo: Some("drawbridge.v1.msgpack") };
        let rows: &[(&[&str], Result<Subprotocol, NoKnownSubprotocol>)] = &[
            (&[], Ok(Subprotocol { encoding: Encoding::Json, echo: None })),
            (&["", " , "], Ok(Subprotocol { encoding: Encoding::Json, echo: None })),
            (&["drawbridge.v1.json"], Ok(json)),
            (&["drawbridge.v1.msgpack"], Ok(msgpack)),
            (&["drawbridge.v1.msgpack, drawbridge.v1.json"], Ok(msgpack)),
            (&["drawbridge.v1.json,drawbridge.v1.msgpack"], Ok(json)),
            (&["chat", "drawbridge.v2.json , drawbridge.v1.msgpack"], Ok(msgpack)),
            (&["chat"], Err(NoKnownSubprotocol)),
            (&["Drawbridge.V1.JSON"], Err(NoKnownSubprotocol)),
            (&["drawbridge.v1"], Err(NoKnownSubprotocol)),
        ];
        for (offered, expected) in rows {
            assert_eq!(negotiate(offered.iter().copied()), *expected, "{offered:?}");
        }
    }
}
