//! MessagePack, translated from and to JSON text, so that every message has one meaning and one codec. What is
//! lost on the way is in `docs/protocol.md`: `bin` becomes base64 text, and a number that no `f64` holds becomes
//! the nearest one. Neither direction recurses, and nothing is allocated by a length that the input only claims.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::json::{self, Reader, Token};

/// Why bytes are not a MessagePack message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsgPackError {
    /// Byte offset into the message.
    pub at: usize,
    /// What is wrong there.
    pub problem: MsgPackProblem,
}

/// See [`MsgPackError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsgPackProblem {
    /// The bytes end within a value.
    Truncated,
    /// Bytes follow the value.
    Trailing,
    /// A byte that begins nothing.
    Unknown,
    /// An extension type, timestamps included.
    Extension,
    /// NaN or an infinity.
    NotFinite,
    /// A string that is not UTF-8.
    NotUtf8,
    /// A map's key that is not a string.
    KeyNotString,
}

impl fmt::Display for MsgPackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.problem {
            MsgPackProblem::Truncated => "the message ends within a value",
            MsgPackProblem::Trailing => "more bytes follow the message",
            MsgPackProblem::Unknown => "this byte begins no value",
            MsgPackProblem::Extension => "extension types are not accepted",
            MsgPackProblem::NotFinite => "NaN and infinities are not accepted",
            MsgPackProblem::NotUtf8 => "a string must be UTF-8 (`bin` is for other bytes)",
            MsgPackProblem::KeyNotString => "a map's key must be a string",
        };
        write!(f, "{problem}, at byte {}", self.at)
    }
}

impl std::error::Error for MsgPackError {}

/// What the JSON text of a MessagePack message cannot say, by places in that text.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    /// Values and keys that may not be, in order; `null` or an empty key takes their place.
    faults: Vec<(usize, MsgPackError)>,
    /// Strings that were `bin`, in order.
    binaries: Vec<usize>,
    /// Of each map named `area`: where it begins, and the value of each member, in order; in the text and in the message.
    areas: Vec<(u32, u32)>,
}

impl Foreign {
    /// The first of what may not be within these places.
    pub(crate) fn fault_in(&self, places: std::ops::Range<usize>) -> Option<MsgPackError> {
        let first = self.faults.partition_point(|(at, _)| *at < places.start);
        self.faults.get(first).filter(|(at, _)| *at < places.end).map(|(_, error)| *error)
    }

    /// Where the area that has these places in the text begins in it, and where in the message; and its members' values.
    pub(crate) fn area_in(&self, places: std::ops::Range<usize>) -> &[(u32, u32)] {
        let first = self.areas.partition_point(|(at, _)| (*at as usize) < places.start);
        let last = self.areas.partition_point(|(at, _)| (*at as usize) < places.end);
        &self.areas[first..last.max(first)]
    }

    /// Whether the string that begins there was `bin`.
    pub(crate) fn is_binary(&self, at: usize) -> bool {
        self.binaries.binary_search(&at).is_ok()
    }
}

/// Writes a whole MessagePack message as JSON text. The text is at most about six times as long.
pub fn to_json(payload: &[u8]) -> Result<String, MsgPackError> {
    let (text, foreign) = translate(payload)?;
    match foreign.faults.first() {
        Some((_, error)) => Err(*error),
        None => Ok(text),
    }
}

/// As [`to_json`]; values that may not be are listed, so that the rest of the message can still be read.
pub(crate) fn translate(payload: &[u8]) -> Result<(String, Foreign), MsgPackError> {
    let out = Vec::with_capacity(payload.len() * 2);
    let mut translation = ToJson { payload, at: 0, out, foreign: Foreign::default(), at_area: false };
    translation.run()?;
    let at = translation.at;
    let text = String::from_utf8(translation.out);
    let text = text.map_err(|_| MsgPackError { at, problem: MsgPackProblem::NotUtf8 })?;
    Ok((text, translation.foreign))
}

/// Appends JSON text as MessagePack: integers in their shortest form where 64 bits hold them, other numbers as
/// float 64, an escaped surrogate without its partner as U+FFFD. On an error `out` holds a part.
pub fn from_json(text: &str, out: &mut Vec<u8>) -> Result<(), json::SyntaxError> {
    let mut reader = Reader::new(text);
    let mut open: Vec<OpenContainer> = Vec::new();
    loop {
        match reader.next()? {
            Token::Null => out.push(0xC0),
            Token::Bool(value) => write_bool(out, value),
            Token::Number(text) => write_number(out, text),
            Token::String(text) => write_str(out, &text.decode()),
            Token::Key(key) => {
                write_str(out, &key.decode());
                continue;
            }
            Token::BeginArray => {
                open.push(OpenContainer::begin(out, ARRAY));
                continue;
            }
            Token::BeginObject => {
                open.push(OpenContainer::begin(out, MAP));
                continue;
            }
            Token::EndArray | Token::EndObject => {
                if let Some(container) = open.pop() {
                    container.end(out);
                }
            }
        }
        match open.last_mut() {
            Some(container) => container.count += 1,
            None => return reader.end(),
        }
    }
}

pub(crate) fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.push(0xC2 | u8::from(value));
}

pub(crate) fn write_uint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x7F => out.push(value as u8),
        0x80..=0xFF => out.extend([0xCC, value as u8]),
        0x100..=0xFFFF => tagged(out, 0xCD, &(value as u16).to_be_bytes()),
        0x1_0000..=0xFFFF_FFFF => tagged(out, 0xCE, &(value as u32).to_be_bytes()),
        _ => tagged(out, 0xCF, &value.to_be_bytes()),
    }
}

pub(crate) fn write_str(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        len @ 0..=31 => out.push(0xA0 | len as u8),
        len @ 32..=0xFF => out.extend([0xD9, len as u8]),
        len => write_length(out, 0xDA, len),
    }
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn write_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        len @ 0..=0xFF => out.extend([0xC4, len as u8]),
        len => write_length(out, 0xC5, len),
    }
    out.extend_from_slice(bytes);
}

pub(crate) fn write_array_header(out: &mut Vec<u8>, count: usize) {
    match count {
        0..=15 => out.push(ARRAY.fix | count as u8),
        count => write_length(out, ARRAY.wide, count),
    }
}

/// A JSON number. What is too large for an `f64` becomes the nearest one: clients have no use for infinities.
fn write_number(out: &mut Vec<u8>, text: &str) {
    if let Ok(value) = text.parse::<u64>() {
        return write_uint(out, value);
    }
    if let Ok(value) = text.parse::<i64>() {
        return write_negative(out, value);
    }
    let value = text.parse::<f64>().unwrap_or(0.0).clamp(f64::MIN, f64::MAX);
    tagged(out, 0xCB, &value.to_be_bytes());
}

fn write_negative(out: &mut Vec<u8>, value: i64) {
    match value {
        0.. => write_uint(out, value.unsigned_abs()),
        -32..=-1 => out.push(value as u8),
        -0x80..=-33 => out.extend([0xD0, value as u8]),
        -0x8000..=-0x81 => tagged(out, 0xD1, &(value as i16).to_be_bytes()),
        -0x8000_0000..=-0x8001 => tagged(out, 0xD2, &(value as i32).to_be_bytes()),
        _ => tagged(out, 0xD3, &value.to_be_bytes()),
    }
}

fn tagged(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

/// A length of 16 bits under this tag, or of 32 under the next.
fn write_length(out: &mut Vec<u8>, tag: u8, len: usize) {
    match u16::try_from(len) {
        Ok(len) => tagged(out, tag, &len.to_be_bytes()),
        // Nothing on this wire comes near 4 GiB: `external_bytes` and `message_bytes` bound it.
        Err(_) => tagged(out, tag + 1, &u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()),
    }
}

pub(crate) const ARRAY: ContainerTags = ContainerTags { fix: 0x90, wide: 0xDC };
pub(crate) const MAP: ContainerTags = ContainerTags { fix: 0x80, wide: 0xDE };

/// The tags of arrays or maps: with up to 15 elements, and with a length of 16 bits (32 under the next tag).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerTags {
    fix: u8,
    wide: u8,
}

/// An array or map being written whose count is not known yet. It gets the one byte of a short header; a longer
/// header moves what was written, at most once for each level of depth.
#[derive(Debug)]
pub(crate) struct OpenContainer {
    header_at: usize,
    tags: ContainerTags,
    /// Elements, or pairs, so far.
    pub(crate) count: usize,
}

impl OpenContainer {
    pub(crate) fn begin(out: &mut Vec<u8>, tags: ContainerTags) -> Self {
        out.push(tags.fix);
        OpenContainer { header_at: out.len() - 1, tags, count: 0 }
    }

    pub(crate) fn end(self, out: &mut Vec<u8>) {
        if self.count <= 15 {
            out[self.header_at] = self.tags.fix | self.count as u8;
            return;
        }
        let mut header = Vec::with_capacity(5);
        write_length(&mut header, self.tags.wide, self.count);
        out.splice(self.header_at..=self.header_at, header);
    }
}

/// What is left of an open array or map.
struct Open {
    map: bool,
    /// It is the value of a member named `area`.
    is_area: bool,
    first: bool,
    left: u32,
}

struct ToJson<'a> {
    payload: &'a [u8],
    at: usize,
    out: Vec<u8>,
    foreign: Foreign,
    /// The next value is that of a member named `area`.
    at_area: bool,
}

impl ToJson<'_> {
    fn run(&mut self) -> Result<(), MsgPackError> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let (at, is_area) = (self.at, std::mem::take(&mut self.at_area));
            if let Some(mut container) = self.value()? {
                container.is_area = is_area && container.map;
                if container.is_area {
                    self.note_area(at);
                }
                self.out.push(if container.map { b'{' } else { b'[' });
                open.push(container);
            }
            while let Some(done) = open.pop_if(|container| container.left == 0) {
                self.out.push(if done.map { b'}' } else { b']' });
            }
            match open.last_mut() {
                Some(container) => self.before_element(container)?,
                None if self.at == self.payload.len() => return Ok(()),
                None => return self.fail(self.at, MsgPackProblem::Trailing),
            }
        }
    }

    /// Writes what is before the next element: a comma, and a map's key.
    fn before_element(&mut self, container: &mut Open) -> Result<(), MsgPackError> {
        container.left -= 1;
        if !std::mem::replace(&mut container.first, false) {
            self.out.push(b',');
        }
        if !container.map {
            return Ok(());
        }
        let at = self.at;
        let tag = self.byte()?;
        match self.str_length(tag)? {
            Some(len) => {
                let begins = self.at;
                self.string(len, "\"\"")?;
                self.at_area = &self.payload[begins..self.at] == b"area";
            }
            None => self.other_key(at)?,
        }
        self.out.push(b':');
        if container.is_area {
            self.note_area(self.at);
        }
        Ok(())
    }

    /// What is written next is an area, or a member's value of one, and begins there in the message.
    fn note_area(&mut self, at: usize) {
        let [text, message] = [self.out.len(), at].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
        self.foreign.areas.push((text, message));
    }

    /// A map's key that is no string and begins here: goes past it.
    fn other_key(&mut self, at: usize) -> Result<(), MsgPackError> {
        self.at = at;
        let (begins, binaries) = (self.out.len(), self.foreign.binaries.len());
        let faults = self.foreign.faults.len();
        if self.value()?.is_some() {
            // What it would be to go past that is not worth it.
            return self.fail(at, MsgPackProblem::KeyNotString);
        }
        self.out.truncate(begins);
        self.foreign.binaries.truncate(binaries);
        self.foreign.faults.truncate(faults);
        self.stand_in(at, MsgPackProblem::KeyNotString, "\"\"");
        Ok(())
    }

    /// Something that may not be began there: the text has something else.
    fn stand_in(&mut self, at: usize, problem: MsgPackProblem, text: &str) {
        self.foreign.faults.push((self.out.len(), MsgPackError { at, problem }));
        self.push(text);
    }

    /// Writes one value, or returns the array or map that begins here.
    fn value(&mut self) -> Result<Option<Open>, MsgPackError> {
        let at = self.at;
        let tag = self.byte()?;
        if let Some(len) = self.str_length(tag)? {
            self.string(len, "null")?;
            return Ok(None);
        }
        if let Some(container) = self.container(tag)? {
            return Ok(Some(container));
        }
        match tag {
            0xC0 => self.push("null"),
            0xC2 => self.push("false"),
            0xC3 => self.push("true"),
            0xC4..=0xC6 => {
                let len = self.length(tag - 0xC4)?;
                let text = BASE64.encode(self.take(len)?);
                self.foreign.binaries.push(self.out.len());
                json::push_string(&mut self.out, &text);
            }
            0xCA => {
                let value = f32::from_be_bytes(self.fixed()?);
                self.float(at, f64::from(value));
            }
            0xCB => {
                let value = f64::from_be_bytes(self.fixed()?);
                self.float(at, value);
            }
            0xC7..=0xC9 | 0xD4..=0xD8 => {
                let len = if tag < 0xD0 { self.length(tag - 0xC7)? } else { 1 << (tag - 0xD4) };
                self.byte()?;
                self.take(len)?;
                self.stand_in(at, MsgPackProblem::Extension, "null");
            }
            0xC1 => return self.fail(at, MsgPackProblem::Unknown),
            _ => self.integer(tag)?,
        }
        Ok(None)
    }

    fn integer(&mut self, tag: u8) -> Result<(), MsgPackError> {
        let text = match tag {
            0xCC => u8::from_be_bytes(self.fixed()?).to_string(),
            0xCD => u16::from_be_bytes(self.fixed()?).to_string(),
            0xCE => u32::from_be_bytes(self.fixed()?).to_string(),
            0xCF => u64::from_be_bytes(self.fixed()?).to_string(),
            0xD0 => i8::from_be_bytes(self.fixed()?).to_string(),
            0xD1 => i16::from_be_bytes(self.fixed()?).to_string(),
            0xD2 => i32::from_be_bytes(self.fixed()?).to_string(),
            0xD3 => i64::from_be_bytes(self.fixed()?).to_string(),
            // What is left are the integers of one byte.
            tag => (tag as i8).to_string(),
        };
        self.push(&text);
        Ok(())
    }

    fn container(&mut self, tag: u8) -> Result<Option<Open>, MsgPackError> {
        let (map, left) = match tag {
            0x80..=0x8F => (true, u32::from(tag & 0x0F)),
            0x90..=0x9F => (false, u32::from(tag & 0x0F)),
            0xDC | 0xDD => (false, self.length(tag - 0xDC + 1)?),
            0xDE | 0xDF => (true, self.length(tag - 0xDE + 1)?),
            _ => return Ok(None),
        };
        Ok(Some(Open { map, is_area: false, first: true, left }))
    }

    /// The length of the string that begins with this tag, if it begins one.
    fn str_length(&mut self, tag: u8) -> Result<Option<u32>, MsgPackError> {
        match tag {
            0xA0..=0xBF => Ok(Some(u32::from(tag & 0x1F))),
            0xD9..=0xDB => self.length(tag - 0xD9).map(Some),
            _ => Ok(None),
        }
    }

    /// A string of so many bytes; or, where it is none, what may be there.
    fn string(&mut self, len: u32, otherwise: &str) -> Result<(), MsgPackError> {
        let at = self.at;
        let bytes = self.take(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => json::push_string(&mut self.out, text),
            Err(_) => self.stand_in(at, MsgPackProblem::NotUtf8, otherwise),
        }
        Ok(())
    }

    fn float(&mut self, at: usize, value: f64) {
        if !value.is_finite() {
            return self.stand_in(at, MsgPackProblem::NotFinite, "null");
        }
        // `Debug` writes the shortest text that reads back as the same number, and always a `.` or an `e`.
        self.push(&format!("{value:?}"));
    }

    /// A length of 8, 16 or 32 bits, for a size of 0, 1 or 2.
    fn length(&mut self, size: u8) -> Result<u32, MsgPackError> {
        match size {
            0 => Ok(u32::from(self.byte()?)),
            1 => Ok(u32::from(u16::from_be_bytes(self.fixed()?))),
            _ => Ok(u32::from_be_bytes(self.fixed()?)),
        }
    }

    fn byte(&mut self) -> Result<u8, MsgPackError> {
        Ok(u8::from_be_bytes(self.fixed()?))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], MsgPackError> {
        match self.payload[self.at..].first_chunk() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => self.fail(self.payload.len(), MsgPackProblem::Truncated),
        }
    }
}

impl<'a> ToJson<'a> {
    fn take(&mut self, len: u32) -> Result<&'a [u8], MsgPackError> {
        let rest = &self.payload[self.at..];
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => self.fail(self.payload.len(), MsgPackProblem::Truncated),
        }
    }

    fn push(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn fail<T>(&self, at: usize, problem: MsgPackProblem) -> Result<T, MsgPackError> {
        Err(MsgPackError { at, problem })
    }
}

#[cfg(test)]
mod tests;
