//! RESP3 as a subscriber meets it: an incremental decoder that borrows from the read buffer, and an encoder for
//! commands. It owns what the bytes mean and what it refuses to hold; it leaves sockets, buffers and what to do
//! with a reply to the link.
//!
//! The decoder holds no bytes. A payload over the bound is reported when its length is read and then skipped as
//! it streams by, so whatever length is announced costs nothing.

use drawbridge_protocol::json::push_number;
use memchr::memchr;

/// Channel and pattern names over this are skipped, in bytes. Well-formed names have at most 255.
pub const MAX_NAME: usize = 1024;
/// The bound of a line: an error, a status, a number.
const MAX_LINE: usize = 16 * 1024;
/// The bound of a string in a reply that is no publication.
const MAX_STRING: u64 = 64 * 1024;
/// The bound of one reply as a whole, beside a publication's payload, in bytes.
const MAX_REPLY: u64 = 256 * 1024;
/// The bound of the elements of one reply that is no publication, over all its levels.
const MAX_ELEMENTS: u32 = 4096;
/// How deep such a reply may nest.
const MAX_DEPTH: u32 = 8;
/// A length that no Redis announces: 1 TiB.
const MAX_ANNOUNCED: u64 = 1 << 40;

/// The bytes are not RESP3, or are over a bound of the decoder; the link cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage(pub &'static str);

impl std::fmt::Display for Garbage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not the RESP3 of a Redis: {}", self.0)
    }
}

impl std::error::Error for Garbage {}

/// What the decoder found at the beginning of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A whole reply or push, and the bytes that it took.
    Reply(Reply<'a>, usize),
    /// So many bytes are of no use; at least one.
    Skip(usize),
    /// It takes at least so many bytes, counted from the beginning of the input, to go on.
    More(usize),
}

/// A reply or push, as far as a subscriber cares.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A publication.
    Message {
        /// The pattern that matched; `None`: an exact subscription's copy.
        pattern: Option<&'a [u8]>,
        /// The real channel.
        channel: &'a [u8],
        /// What was published.
        payload: Payload<'a>,
    },
    /// A publication on a channel whose name is over [`MAX_NAME`].
    Nameless,
    /// An answer to a subscription command, one for each channel or pattern.
    Confirmed {
        /// Whether the subscription begins or ends.
        begins: bool,
        /// By which command it is subscribed to.
        kind: SubscriptionKind,
        /// The channel or pattern.
        name: &'a [u8],
    },
    /// An error, with its code.
    Error(&'a [u8]),
    /// Any other answer to a command, as it came.
    Answer(&'a [u8]),
    /// Any other push, which answers nothing.
    Push,
}

/// By which command something is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionKind {
    /// `SUBSCRIBE`.
    Channel,
    /// `PSUBSCRIBE`.
    Pattern,
    /// `SSUBSCRIBE`.
    Sharded,
}

/// What was published.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It has so many bytes, over the bound; they are skipped.
    Oversized(u64),
}

/// Reads replies and pushes off a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    max_payload: u64,
    /// Bytes to skip before anything is read.
    skip_bytes: u64,
    /// Strings to skip behind them.
    skip_strings: u32,
}

impl Decoder {
    /// Payloads of publications over `max_payload` bytes are skipped.
    pub fn new(max_payload: usize) -> Self {
        Decoder { max_payload: max_payload as u64, skip_bytes: 0, skip_strings: 0 }
    }

    /// Reads one thing off the beginning of the input. The caller drops the bytes that it took and calls again.
    ///
    /// # Errors
    /// [`Garbage`] where the bytes cannot be a Redis': nothing that follows can be trusted.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Garbage> {
        if self.skip_bytes > 0 || self.skip_strings > 0 {
            return self.skip(input);
        }
        let mut cursor = Cursor { input, at: 0 };
        let reply = match input.first() {
            None => Err(Stop::More(1)),
            Some(b'>') => self.push(&mut cursor),
            Some(b'-') => cursor.line().map(|line| Reply::Error(&line[1..])),
            Some(b'|') => cursor.value().map(|()| Reply::Push),
            Some(_) => cursor.value().map(|()| Reply::Answer(&input[..cursor.at])),
        };
        match reply {
            Ok(reply) => Ok(Step::Reply(reply, cursor.at)),
            Err(Stop::More(bytes)) if bytes as u64 > self.max_payload + MAX_REPLY => {
                Err(Garbage("a reply over the bound"))
            }
            Err(Stop::More(bytes)) => Ok(Step::More(bytes)),
            Err(Stop::Garbage(what)) => Err(Garbage(what)),
        }
    }

    fn skip<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Garbage> {
        if self.skip_bytes > 0 {
            let bytes = self.skip_bytes.min(input.len() as u64);
            if bytes == 0 {
                return Ok(Step::More(1));
            }
            self.skip_bytes -= bytes;
            return Ok(Step::Skip(bytes as usize));
        }
        let mut cursor = Cursor { input, at: 0 };
        match cursor.length(b'$') {
            Ok(length) => {
                self.skip_strings -= 1;
                self.skip_bytes = length + 2;
                Ok(Step::Skip(cursor.at))
            }
            Err(Stop::More(bytes)) => Ok(Step::More(bytes)),
            Err(Stop::Garbage(what)) => Err(Garbage(what)),
        }
    }

    fn push<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Reply<'a>, Stop> {
        let elements = cursor.length(b'>')?;
        if elements == 0 {
            return Err(Stop::Garbage("an empty push"));
        }
        let kind = if cursor.peek()? == b'$' { cursor.string(MAX_STRING)? } else { &cursor.line()?[1..] };
        match (kind, elements) {
            (b"message" | b"smessage", 3) => self.message(cursor, false),
            (b"pmessage", 4) => self.message(cursor, true),
            (b"subscribe", 3) => confirmed(cursor, true, SubscriptionKind::Channel),
            (b"psubscribe", 3) => confirmed(cursor, true, SubscriptionKind::Pattern),
            (b"ssubscribe", 3) => confirmed(cursor, true, SubscriptionKind::Sharded),
            (b"unsubscribe", 3) => confirmed(cursor, false, SubscriptionKind::Channel),
            (b"punsubscribe", 3) => confirmed(cursor, false, SubscriptionKind::Pattern),
            (b"sunsubscribe", 3) => confirmed(cursor, false, SubscriptionKind::Sharded),
            _ => {
                let mut left = MAX_ELEMENTS;
                for _ in 1..elements {
                    cursor.element(1, &mut left)?;
                }
                Ok(Reply::Push)
            }
        }
    }

    fn message<'a>(&mut self, cursor: &mut Cursor<'a>, by_pattern: bool) -> Result<Reply<'a>, Stop> {
        let pattern = if by_pattern { Some(cursor.string(MAX_STRING)?) } else { None };
        let length = cursor.length(b'$')?;
        if length > MAX_NAME as u64 {
            self.skip_bytes = length + 2;
            self.skip_strings = 1;
            return Ok(Reply::Nameless);
        }
        let channel = cursor.content(length)?;
        let length = cursor.length(b'$')?;
        let payload = if length > self.max_payload {
            self.skip_bytes = length + 2;
            Payload::Oversized(length)
        } else {
            Payload::Whole(cursor.content(length)?)
        };
        Ok(Reply::Message { pattern, channel, payload })
    }
}

/// The string that a map has under this name, if the answer is a map and has one.
pub fn member<'a>(answer: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut cursor = Cursor { input: answer, at: 0 };
    let members = cursor.length(b'%').ok()?;
    for _ in 0..members {
        if cursor.string(MAX_STRING).ok()? == name {
            return cursor.string(MAX_STRING).ok();
        }
        cursor.value().ok()?;
    }
    None
}

fn confirmed<'a>(cursor: &mut Cursor<'a>, begins: bool, kind: SubscriptionKind) -> Result<Reply<'a>, Stop> {
    let name = cursor.string(MAX_STRING)?;
    cursor.line()?;
    Ok(Reply::Confirmed { begins, kind, name })
}

enum Stop {
    More(usize),
    Garbage(&'static str),
}

struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Result<u8, Stop> {
        self.input.get(self.at).copied().ok_or(Stop::More(self.at + 1))
    }

    /// Up to the end of the line, with its first byte, which says its type.
    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.input[self.at..];
        let Some(end) = memchr(b'\n', &rest[..rest.len().min(MAX_LINE)]) else {
            return Err(if rest.len() < MAX_LINE {
                Stop::More(self.input.len() + 1)
            } else {
                Stop::Garbage("a line without end")
            });
        };
        if end < 2 || rest[end - 1] != b'\r' {
            return Err(Stop::Garbage("a line without CR LF"));
        }
        self.at += end + 1;
        Ok(&rest[..end - 1])
    }

    /// A type byte and the length behind it.
    fn length(&mut self, kind: u8) -> Result<u64, Stop> {
        match self.nullable_length(kind)? {
            Some(length) => Ok(length),
            None => Err(Stop::Garbage("a null where a length must be")),
        }
    }

    fn nullable_length(&mut self, kind: u8) -> Result<Option<u64>, Stop> {
        if self.peek()? != kind {
            return Err(Stop::Garbage("an unexpected type"));
        }
        let line = self.line()?;
        let digits = &line[1..];
        if digits == b"-1" {
            return Ok(None);
        }
        if digits.is_empty() || digits.len() > 13 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Stop::Garbage("a length that is not a number"));
        }
        let length = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        if length > MAX_ANNOUNCED { Err(Stop::Garbage("a length beyond reason")) } else { Ok(Some(length)) }
    }

    /// The bytes of a string whose length was read, and the line end behind them.
    fn content(&mut self, length: u64) -> Result<&'a [u8], Stop> {
        let end = self.at + length as usize;
        match self.input.get(self.at..end + 2) {
            None => Err(Stop::More(end + 2)),
            Some(content) if content.ends_with(b"\r\n") => {
                self.at = end + 2;
                Ok(&content[..length as usize])
            }
            Some(_) => Err(Stop::Garbage("a string that does not end where it must")),
        }
    }

    fn string(&mut self, max: u64) -> Result<&'a [u8], Stop> {
        let length = self.length(b'$')?;
        if length > max { Err(Stop::Garbage("a string over the bound")) } else { self.content(length) }
    }

    /// Passes over one value of any type.
    fn value(&mut self) -> Result<(), Stop> {
        self.element(0, &mut { MAX_ELEMENTS })
    }

    fn element(&mut self, depth: u32, left: &mut u32) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Garbage("nested too deep"));
        }
        *left = left.checked_sub(1).ok_or(Stop::Garbage("too many elements"))?;
        let kind = self.peek()?;
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => self.line().map(drop),
            b'$' | b'=' | b'!' => match self.nullable_length(kind)? {
                Some(length) if length > MAX_STRING => Err(Stop::Garbage("a string over the bound")),
                Some(length) => self.content(length).map(drop),
                None => Ok(()),
            },
            b'*' | b'~' | b'>' => self.elements(kind, 1, depth, left),
            b'%' | b'|' => self.elements(kind, 2, depth, left),
            _ => Err(Stop::Garbage("an unknown type")),
        }
    }

    fn elements(&mut self, kind: u8, each: u64, depth: u32, left: &mut u32) -> Result<(), Stop> {
        let Some(count) = self.nullable_length(kind)? else { return Ok(()) };
        for _ in 0..count * each {
            self.element(depth + 1, left)?;
        }
        Ok(())
    }
}

/// Appends a command to `out`.
pub fn encode<'a>(out: &mut Vec<u8>, parts: impl ExactSizeIterator<Item = &'a [u8]>) {
    header(out, b'*', parts.len());
    for part in parts {
        header(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    push_number(out, length as u64);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[path = "resp_tests.rs"]
mod tests;
