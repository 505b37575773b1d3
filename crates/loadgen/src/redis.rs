//! As much RESP2 as a floor and a publisher need: commands out, replies in. It pools, retries and authenticates
//! nothing: a broken link ends the run, and a benchmark's Redis has no password.

use std::io::{self, ErrorKind};

/// The largest reply that is waited for; beyond it the link is taken as broken.
const MAX_REPLY_BYTES: usize = 64 << 20;
/// More elements than any reply to what is sent here has.
const MAX_ELEMENTS: usize = 16;

/// How many slots a Cluster has.
pub(crate) const SLOTS: u16 = 16_384;

/// The slot of a channel, whose name has no braces: CRC-16 (XMODEM), as <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/> says.
pub(crate) fn slot_of(channel: &str) -> u16 {
    let crc = channel.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(byte) << 8,
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 },
        )
    });
    crc % SLOTS
}

/// One reply, borrowed from what was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    /// `+OK`
    Line(&'a [u8]),
    /// `-ERR …`
    Error(&'a [u8]),
    /// `:1`
    Integer(i64),
    /// `$5 hello`; empty for a null.
    Bulk(&'a [u8]),
    /// `*3 …`, and `>3 …` alike.
    List(Vec<Reply<'a>>),
}

/// Appends one command.
pub(crate) fn write_command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// Takes one whole reply off the front of `input`; `None` while it is incomplete.
pub(crate) fn take_reply<'a>(input: &mut &'a [u8]) -> io::Result<Option<Reply<'a>>> {
    let mut rest = *input;
    let reply = read(&mut rest, 0)?;
    if reply.is_some() {
        *input = rest;
    } else if input.len() > MAX_REPLY_BYTES {
        return Err(malformed("a reply without an end"));
    }
    Ok(reply)
}

fn read<'a>(input: &mut &'a [u8], depth: usize) -> io::Result<Option<Reply<'a>>> {
    let Some(line) = take_line(input) else { return Ok(None) };
    let Some((kind, line)) = line.split_first() else { return Err(malformed("an empty line")) };
    Ok(Some(match kind {
        b'+' => Reply::Line(line),
        b'-' => Reply::Error(line),
        b':' => Reply::Integer(number(line)?),
        b'$' => match bulk(input, number(line)?)? {
            Some(bytes) => Reply::Bulk(bytes),
            None => return Ok(None),
        },
        b'*' | b'>' if depth == 0 => {
            let count = usize::try_from(number(line)?).unwrap_or(0);
            if count > MAX_ELEMENTS {
                return Err(malformed("a longer list than requested"));
            }
            let mut list = Vec::with_capacity(count);
            for _ in 0..count {
                match read(input, depth + 1)? {
                    Some(element) => list.push(element),
                    None => return Ok(None),
                }
            }
            Reply::List(list)
        }
        _ => return Err(malformed("an unexpected type")),
    }))
}

fn take_line<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\n', input)?;
    let line = &input[..end];
    *input = &input[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn bulk<'a>(input: &mut &'a [u8], length: i64) -> io::Result<Option<&'a [u8]>> {
    let Ok(length) = usize::try_from(length) else { return Ok(Some(b"")) };
    if length > MAX_REPLY_BYTES {
        return Err(malformed("a string too long"));
    }
    let Some((bytes, rest)) = input.split_at_checked(length) else { return Ok(None) };
    let Some(rest) = rest.get(2..) else { return Ok(None) };
    *input = rest;
    Ok(Some(bytes))
}

fn number(line: &[u8]) -> io::Result<i64> {
    let text = std::str::from_utf8(line).map_err(|_| malformed("no number"))?;
    text.parse().map_err(|_| malformed("no number"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("Redis answered {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What `CLUSTER KEYSLOT` answers.
    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(["123456789", "room:0", "room:99"].map(slot_of), [12739, 15090, 14587]);
    }

    #[test]
    fn replies_are_taken_one_by_one() {
        let mut input: &[u8] =
            b"*3\r\n$7\r\nmessage\r\n$6\r\nroom:1\r\n$2\r\n{}\r\n:5\r\n-ERR no\r\n$-1\r\n+OK\r\n";
        let message = vec![Reply::Bulk(b"message"), Reply::Bulk(b"room:1"), Reply::Bulk(b"{}")];
        assert_eq!(take_reply(&mut input).unwrap(), Some(Reply::List(message)));
        assert_eq!(take_reply(&mut input).unwrap(), Some(Reply::Integer(5)));
        assert_eq!(take_reply(&mut input).unwrap(), Some(Reply::Error(b"ERR no")));
        assert_eq!(take_reply(&mut input).unwrap(), Some(Reply::Bulk(b"")));
        assert_eq!(take_reply(&mut input).unwrap(), Some(Reply::Line(b"OK")));
        assert!(input.is_empty());
    }

    #[test]
    fn an_incomplete_reply_is_left_where_it_is() {
        let whole: &[u8] = b"*2\r\n$4\r\npong\r\n:12\r\n";
        for end in 0..whole.len() {
            let mut input = &whole[..end];
            assert_eq!(take_reply(&mut input).unwrap(), None);
            assert_eq!(input.len(), end);
        }
    }

    #[test]
    fn what_was_not_asked_for_is_an_error() {
        for bad in [&b"x\r\n"[..], b"\r\n", b":x\r\n", b"*2\r\n*1\r\n:1\r\n", b"*999\r\n"] {
            assert!(take_reply(&mut &*bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        write_command(&mut out, &[b"PUBLISH", b"room:1", b"{}"]);
        assert_eq!(out, b"*3\r\n$7\r\nPUBLISH\r\n$6\r\nroom:1\r\n$2\r\n{}\r\n");
    }
}
