//! Both ends of the WebSocket handshake (RFC 6455 §4), as far as a load client and a floor need it. Heads are
//! searched, not parsed: both ends are known.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use drawbridge_protocol::websocket::accept_key;

/// The longest head of a request or answer.
pub(crate) const MAX_HEAD_BYTES: usize = 8 << 10;
/// The key of every handshake: nothing here caches, so the same key serves all.
const KEY: &str = "ZHJhd2JyaWRnZS1sb2FkZw==";

/// What a client sends. `path` begins with a slash.
pub(crate) fn request(host: SocketAddr, path: &str, token: Option<&str>) -> String {
    let authorization = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Protocol: drawbridge.v1.json\r\n{authorization}\r\n"
    )
}

/// The length of the head that `bytes` begins with; `None` while it is incomplete.
pub(crate) fn head_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    match memchr::memmem::find(bytes, b"\r\n\r\n") {
        Some(at) => Ok(Some(at + 4)),
        None if bytes.len() > MAX_HEAD_BYTES => Err(malformed("a head without an end")),
        None => Ok(None),
    }
}

/// Whether the answer to [`request`] opens a WebSocket.
pub(crate) fn check_answer(head: &[u8]) -> io::Result<()> {
    let head = std::str::from_utf8(head).map_err(|_| malformed("a head that is not text"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(malformed(&format!("the upgrade was answered by {status:?}")));
    }
    match header(head, "sec-websocket-accept") {
        Some(accept) if accept_key(KEY).as_deref() == Ok(accept) => Ok(()),
        _ => Err(malformed("the answer to another key")),
    }
}

/// What a floor answers to a request head, and the value of `channel` in its URL.
pub(crate) fn answer(head: &[u8]) -> io::Result<(String, &str)> {
    let head = std::str::from_utf8(head).map_err(|_| malformed("a head that is not text"))?;
    let url = head.split(' ').nth(1).unwrap_or_default();
    let channel = url.split_once("?channel=").map_or("", |(_, channel)| channel);
    let accept = header(head, "sec-websocket-key")
        .and_then(|key| accept_key(key).ok())
        .ok_or_else(|| malformed("a request without a key"))?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: drawbridge.v1.json\r\n\r\n"
    );
    Ok((answer, channel))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("handshake: {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_floor_opens_what_a_client_asks_for() {
        let request = request("127.0.0.1:1".parse().unwrap(), "/ws?channel=room:7", Some("secret"));
        assert_eq!(head_length(request.as_bytes()).unwrap(), Some(request.len()));
        let (answer, channel) = answer(request.as_bytes()).unwrap();
        assert_eq!(channel, "room:7");
        assert_eq!(head_length(answer.as_bytes()).unwrap(), Some(answer.len()));
        check_answer(answer.as_bytes()).unwrap();
    }

    #[test]
    fn any_other_answer_is_an_error() {
        let other = "HTTP/1.1 101 x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        for head in ["HTTP/1.1 400 Bad Request\r\n\r\n", "", "HTTP/1.1 101 x\r\n\r\n", other] {
            assert!(check_answer(head.as_bytes()).is_err(), "{head:?}");
        }
    }
}
