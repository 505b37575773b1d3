//! Writing one map, field by field, in either encoding: what is said about a message is said once. It owns the
//! punctuation and the frame around; which fields a message has is [`crate::codec`]'s and [`crate::event`]'s.

use std::ops::Range;

use bytes::{Buf, Bytes};

use crate::json;
use crate::message::{Encoding, Frame, RequestId};
use crate::msgpack::{self, OpenContainer};
use crate::websocket::{MAX_HEADER_BYTES, OpCode, write_header};

/// The bytes of one message object.
pub(crate) fn message(encoding: Encoding, capacity: usize, fill: impl FnOnce(&mut MapWriter<'_>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    MapWriter::write(encoding, &mut out, fill);
    out
}

/// One message object in a whole WebSocket frame. The payload is written once, behind room for the longest
/// header, because only then its length is known.
pub(crate) fn frame(encoding: Encoding, capacity: usize, fill: impl FnOnce(&mut MapWriter<'_>)) -> Frame {
    framed(encoding.opcode(), capacity, |out| MapWriter::write(encoding, out, fill))
}

fn framed(opcode: OpCode, capacity: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Frame {
    let mut out = Vec::with_capacity(2 * MAX_HEADER_BYTES + capacity);
    out.resize(MAX_HEADER_BYTES, 0);
    fill(&mut out);
    let end = out.len();
    write_header(&mut out, opcode, end - MAX_HEADER_BYTES);
    let unused = MAX_HEADER_BYTES - (out.len() - end);
    out.copy_within(end.., unused);
    out.truncate(end);
    let mut frame = Bytes::from(out);
    frame.advance(unused);
    frame
}

/// Several message objects as one array in one frame: its header and separators are the only bytes of its own.
pub(crate) fn array_frame<B: AsRef<[u8]>>(encoding: Encoding, bodies: &[B]) -> Frame {
    let bytes: usize = bodies.iter().map(|body| body.as_ref().len() + 1).sum();
    framed(encoding.opcode(), bytes + 5, |out| {
        list(encoding, out, bodies, |body, out| out.extend_from_slice(body.as_ref()));
    })
}

/// What precedes, separates and follows the elements of an array of this length.
pub(crate) fn array_punctuation(
    encoding: Encoding,
    length: usize,
) -> (Vec<u8>, &'static [u8], &'static [u8]) {
    match encoding {
        Encoding::Json => (b"[".to_vec(), b",", b"]"),
        Encoding::MsgPack => {
            let mut header = Vec::new();
            msgpack::write_array_header(&mut header, length);
            (header, b"", b"")
        }
    }
}

/// A list, item by item.
fn list<T>(encoding: Encoding, out: &mut Vec<u8>, items: &[T], mut write: impl FnMut(&T, &mut Vec<u8>)) {
    match encoding {
        Encoding::Json => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Encoding::MsgPack => {
            msgpack::write_array_header(out, items.len());
            items.iter().for_each(|item| write(item, out));
        }
    }
}

/// A map being written.
#[derive(Debug)]
pub(crate) struct MapWriter<'o> {
    out: &'o mut Vec<u8>,
    shape: Shape,
    /// Where the last value begins.
    value_at: usize,
}

#[derive(Debug)]
enum Shape {
    Json { first: bool },
    MsgPack(OpenContainer),
}

impl MapWriter<'_> {
    pub(crate) fn write(encoding: Encoding, out: &mut Vec<u8>, fill: impl FnOnce(&mut MapWriter<'_>)) {
        let shape = match encoding {
            Encoding::Json => {
                out.push(b'{');
                Shape::Json { first: true }
            }
            Encoding::MsgPack => Shape::MsgPack(OpenContainer::begin(out, msgpack::MAP)),
        };
        let mut map = MapWriter { out, shape, value_at: 0 };
        fill(&mut map);
        match map.shape {
            Shape::Json { .. } => map.out.push(b'}'),
            Shape::MsgPack(container) => container.end(map.out),
        }
    }

    /// The encoding it is written in.
    pub(crate) fn encoding(&self) -> Encoding {
        match self.shape {
            Shape::Json { .. } => Encoding::Json,
            Shape::MsgPack(_) => Encoding::MsgPack,
        }
    }

    /// Returns where the value is, as do those below; of a JSON string with its quotes.
    pub(crate) fn text(&mut self, name: &str, value: &str) -> Range<usize> {
        match self.name(name) {
            Encoding::Json => json::push_string(self.out, value),
            Encoding::MsgPack => msgpack::write_str(self.out, value),
        }
        self.value_at..self.out.len()
    }

    pub(crate) fn text_if(&mut self, name: &str, value: Option<&str>) -> Option<Range<usize>> {
        value.map(|value| self.text(name, value))
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        match self.name(name) {
            Encoding::Json => json::push_number(self.out, value),
            Encoding::MsgPack => msgpack::write_uint(self.out, value),
        }
    }

    pub(crate) fn number_if(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    pub(crate) fn boolean(&mut self, name: &str, value: bool) {
        match self.name(name) {
            Encoding::Json => self.out.extend_from_slice(if value { b"true" } else { b"false" }),
            Encoding::MsgPack => msgpack::write_bool(self.out, value),
        }
    }

    /// A flag that is absent where it is false.
    pub(crate) fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.boolean(name, true);
        }
    }

    /// A value that is valid JSON already.
    pub(crate) fn json(&mut self, name: &str, value: &str) -> Range<usize> {
        match self.name(name) {
            Encoding::Json => self.out.extend_from_slice(value.as_bytes()),
            Encoding::MsgPack => {
                let start = self.out.len();
                if msgpack::from_json(value, self.out).is_err() {
                    // The caller has checked it, so this is never reached; a hole would break the message.
                    self.out.truncate(start);
                    self.out.push(0xC0);
                }
            }
        }
        self.value_at..self.out.len()
    }

    pub(crate) fn json_if(&mut self, name: &str, value: Option<&str>) -> Option<Range<usize>> {
        value.map(|value| self.json(name, value))
    }

    /// Bytes, for MessagePack; JSON has none, so callers give it base64 text by [`MapWriter::json`].
    pub(crate) fn bin(&mut self, name: &str, value: &[u8]) -> Range<usize> {
        self.name(name);
        msgpack::write_bin(self.out, value);
        self.value_at..self.out.len()
    }

    pub(crate) fn id(&mut self, id: Option<&RequestId>) {
        match id {
            None => {}
            Some(RequestId::Number(number)) => self.number("id", *number),
            Some(RequestId::Text(text)) => drop(self.text("id", text)),
        }
    }

    pub(crate) fn map(&mut self, name: &str, fill: impl FnOnce(&mut MapWriter<'_>)) {
        let encoding = self.name(name);
        MapWriter::write(encoding, self.out, fill);
    }

    /// A list of maps.
    pub(crate) fn maps<T>(&mut self, name: &str, items: &[T], mut fill: impl FnMut(&T, &mut MapWriter<'_>)) {
        let encoding = self.name(name);
        list(encoding, self.out, items, |item, out| MapWriter::write(encoding, out, |map| fill(item, map)));
    }

    /// A list of values that are in this encoding already.
    pub(crate) fn encoded(&mut self, name: &str, items: &[Bytes]) {
        let encoding = self.name(name);
        list(encoding, self.out, items, |item, out| out.extend_from_slice(item));
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, name: &str, items: &[&str]) {
        let encoding = self.name(name);
        list(encoding, self.out, items, |item, out| match encoding {
            Encoding::Json => json::push_string(out, item),
            Encoding::MsgPack => msgpack::write_str(out, item),
        });
    }

    fn name(&mut self, name: &str) -> Encoding {
        let encoding = self.write_name(name);
        self.value_at = self.out.len();
        encoding
    }

    fn write_name(&mut self, name: &str) -> Encoding {
        match &mut self.shape {
            Shape::Json { first } => {
                if !std::mem::replace(first, false) {
                    self.out.push(b',');
                }
                // A name of ours: nothing in it is escaped.
                self.out.push(b'"');
                self.out.extend_from_slice(name.as_bytes());
                self.out.extend_from_slice(b"\":");
                Encoding::Json
            }
            Shape::MsgPack(container) => {
                container.count += 1;
                msgpack::write_str(self.out, name);
                Encoding::MsgPack
            }
        }
    }
}
