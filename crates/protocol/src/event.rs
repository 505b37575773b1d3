//! Events: how a payload published on a Redis channel is read (contract §4), and the `EVENT` that clients get.
//! A payload is parsed once and is never rebuilt: its JSON goes into the frames byte for byte. Who may see an
//! event, and its offset, are the engine's business.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use crate::json::{self, Kind, Reader, Str, SyntaxError, Token, Value, decimal_text};
use crate::message::{Encoding, Frame, MAX_DATA_DEPTH};
use crate::writer::{self, MapWriter};

/// What the `id` of an envelope that a server wrote begins with; no other `id` is an envelope's.
pub const SERVER_ID_PREFIX: &str = "db1.";

/// The name of an event whose payload names none.
pub const DEFAULT_EVENT: &str = "message";

/// How payloads from outside are read (`payload` of a class). What a server wrote is read alike in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadMode {
    /// An object with a string `event` and no foreign keys is that event, everything else is data.
    #[default]
    Auto,
    /// Only objects with a string `event`, whatever else they hold.
    Envelope,
    /// Everything is data.
    Raw,
}

/// A payload that the class does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// [`PayloadMode::Envelope`], and no JSON object with a string `event`.
    NotAnEnvelope,
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the payload is not a JSON object with a string `event`")
    }
}

impl std::error::Error for PayloadError {}

/// One publication, read.
#[derive(Debug)]
pub struct Event {
    /// The payload, where it is text.
    source: String,
    name: Text,
    data: Text,
    from: Option<Text>,
    key: Option<Text>,
    tags: Option<Text>,
    ts: Option<Text>,
    id: Option<Text>,
    base64: bool,
}

/// A piece of the payload, or what was made of one.
#[derive(Clone, Debug)]
enum Text {
    Fixed(&'static str),
    Piece(Range<usize>),
    Made(Box<str>),
}

impl Event {
    /// Reads a payload. Whatever its bytes, it costs one pass and no recursion.
    ///
    /// ```
    /// use drawbridge_protocol::event::{Event, PayloadMode};
    /// let payload = r#"{"event":"hit","data":{"damage":12}}"#;
    /// let event = Event::from_payload(payload.into(), PayloadMode::Auto).unwrap();
    /// assert_eq!((event.name(), event.data_json()), ("hit", r#"{"damage":12}"#));
    /// ```
    pub fn from_payload(payload: Bytes, mode: PayloadMode) -> Result<Event, PayloadError> {
        let source = match String::from_utf8(payload.into()) {
            Ok(source) => source,
            Err(_) if mode == PayloadMode::Envelope => return Err(PayloadError::NotAnEnvelope),
            Err(error) => {
                let data = quoted(&BASE64.encode(error.as_bytes()));
                return Ok(Event { base64: true, ..Event::message(data) });
            }
        };
        let event = match Document::read(&source) {
            Ok(document) if document.is_envelope(mode) => document.into_event(),
            _ if mode == PayloadMode::Envelope => return Err(PayloadError::NotAnEnvelope),
            Ok(document) => Event::message(shown(document.whole)),
            Err(_) => return Ok(Event::message(quoted(&source))),
        };
        Ok(Event { source, ..event })
    }

    /// What happened.
    pub fn name(&self) -> &str {
        self.get(&self.name)
    }

    /// The data: valid JSON, at most [`MAX_DATA_DEPTH`] deep, without white space around it.
    pub fn data_json(&self) -> &str {
        self.get(&self.data)
    }

    /// Who did it.
    pub fn from(&self) -> Option<&str> {
        self.from.as_ref().map(|text| self.get(text))
    }

    /// The key of the entity it is about; decimal text where the payload has a number.
    pub fn key(&self) -> Option<&str> {
        self.key.as_ref().map(|text| self.get(text))
    }

    /// The tags: a JSON object, at most [`MAX_DATA_DEPTH`] deep.
    pub fn tags_json(&self) -> Option<&str> {
        self.tags.as_ref().map(|text| self.get(text))
    }

    /// When it happened, by the publisher's clock, in Unix milliseconds: a JSON number, as it was written.
    pub fn ts(&self) -> Option<&str> {
        self.ts.as_ref().map(|text| self.get(text))
    }

    /// Who published it by which server, where a server did: begins with [`SERVER_ID_PREFIX`].
    pub fn server_id(&self) -> Option<&str> {
        self.id.as_ref().map(|text| self.get(text)).filter(|id| id.starts_with(SERVER_ID_PREFIX))
    }

    /// Names the entity that it is about, where the channel's class finds the key in the data.
    pub fn set_key(&mut self, key: String) {
        self.key = Some(Text::Made(key.into()));
    }

    /// What it holds in memory, in bytes: the whole payload, whatever of it is shown, and what was made of it.
    pub fn held_bytes(&self) -> usize {
        let parts =
            [Some(&self.name), Some(&self.data), self.from.as_ref(), self.key.as_ref(), self.tags.as_ref()];
        let made = parts.into_iter().flatten().map(|text| match text {
            Text::Made(text) => text.len(),
            Text::Fixed(_) | Text::Piece(_) => 0,
        });
        self.source.len() + made.sum::<usize>()
    }

    /// Whether the payload was not UTF-8, so that the data is base64 text.
    pub fn is_base64(&self) -> bool {
        self.base64
    }

    fn message(data: Text) -> Event {
        Event {
            source: String::new(),
            name: Text::Fixed(DEFAULT_EVENT),
            data,
            from: None,
            key: None,
            tags: None,
            ts: None,
            id: None,
            base64: false,
        }
    }

    fn get<'e>(&'e self, text: &'e Text) -> &'e str {
        match text {
            Text::Fixed(text) => text,
            Text::Piece(range) => &self.source[range.clone()],
            Text::Made(text) => text,
        }
    }

    fn write(&self, channel: &str, offset: Option<u64>, map: &mut MapWriter<'_>) {
        map.text("type", "EVENT");
        map.text("channel", channel);
        map.text("event", self.name());
        self.write_data(map);
        map.text_if("from", self.from());
        map.text_if("key", self.key());
        map.json_if("tags", self.tags_json());
        if self.base64 && map.encoding() == Encoding::Json {
            map.text("encoding", "base64");
        }
        map.number_if("offset", offset);
        map.json_if("ts", self.ts());
    }

    /// As an element of `VIEW_ENTER.entities`.
    fn write_entity(&self, map: &mut MapWriter<'_>) {
        map.text_if("key", self.key());
        map.text("event", self.name());
        self.write_data(map);
        map.text_if("from", self.from());
        map.json_if("tags", self.tags_json());
        if self.base64 && map.encoding() == Encoding::Json {
            map.text("encoding", "base64");
        }
        map.json_if("ts", self.ts());
    }

    fn write_data(&self, map: &mut MapWriter<'_>) {
        let data = self.data_json();
        if self.base64 && map.encoding() == Encoding::MsgPack {
            // Our own encoding of the payload, so it decodes.
            map.bin("data", &BASE64.decode(data.trim_matches('"')).unwrap_or_default());
        } else {
            map.json("data", data);
        }
    }
}

/// An entity's state as an element of `VIEW_ENTER.entities` ([`encode_view_enter`]); for all who see it.
pub fn encode_entity(encoding: Encoding, event: &Event) -> Bytes {
    writer::message(encoding, event.data_json().len() + PUNCTUATION, |map| event.write_entity(map)).into()
}

/// `VIEW_ENTER` as a whole WebSocket frame, of entities that [`encode_entity`] has written in this encoding. `reset`:
/// they begin the table anew. `complete`: nothing is missing any more.
pub fn encode_view_enter(
    encoding: Encoding,
    channel: &str,
    reset: bool,
    complete: bool,
    entities: &[Bytes],
) -> Frame {
    let bytes: usize = entities.iter().map(|entity| entity.len() + 1).sum();
    writer::frame(encoding, bytes + channel.len() + PUNCTUATION, |map| {
        map.text("type", "VIEW_ENTER");
        map.text("channel", channel);
        map.flag("reset", reset);
        map.boolean("complete", complete);
        map.encoded("entities", entities);
    })
}

/// What a message has beside its values, about, in bytes.
const PUNCTUATION: usize = 128;

/// The `EVENT` message as a whole WebSocket frame; for all who see the event in this encoding.
pub fn encode_event(encoding: Encoding, channel: &str, event: &Event, offset: Option<u64>) -> Frame {
    let parts = [Some(channel), Some(event.name()), Some(event.data_json()), event.from(), event.key()];
    let more = [event.tags_json(), event.ts()];
    let bytes: usize = parts.iter().chain(&more).flatten().map(|part| part.len()).sum();
    writer::frame(encoding, bytes + PUNCTUATION, |map| event.write(channel, offset, map))
}

/// What a server publishes into Redis: readable for `redis-cli`, and for [`Event::from_payload`] in every mode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope<'a> {
    /// The event's name.
    pub event: &'a str,
    /// Valid JSON; empty means `null`.
    pub data: &'a str,
    /// Who did it.
    pub from: Option<&'a str>,
    /// A JSON object.
    pub tags: Option<&'a str>,
    /// The entity's key.
    pub key: Option<&'a str>,
    /// Unix milliseconds.
    pub ts: Option<u64>,
    /// Names this publication; begins with [`SERVER_ID_PREFIX`].
    pub id: Option<&'a str>,
}

impl Envelope<'_> {
    /// The payload, with what is absent left out.
    pub fn to_payload(&self) -> Bytes {
        let capacity = self.event.len() + self.data.len() + self.tags.map_or(0, str::len) + 256;
        let fill = |map: &mut MapWriter<'_>| {
            map.text("event", self.event);
            map.json("data", if self.data.is_empty() { "null" } else { self.data });
            map.text_if("from", self.from);
            map.text_if("key", self.key);
            map.json_if("tags", self.tags);
            map.number_if("ts", self.ts);
            map.text_if("id", self.id);
        };
        writer::message(Encoding::Json, capacity, fill).into()
    }
}

/// A payload that is JSON: all of it, and if it is an object, the members that an envelope may have; of
/// duplicates the last.
struct Document<'a> {
    whole: Value<'a>,
    event: Option<Value<'a>>,
    data: Option<Value<'a>>,
    from: Option<Value<'a>>,
    tags: Option<Value<'a>>,
    key: Option<Value<'a>>,
    ts: Option<Value<'a>>,
    id: Option<Value<'a>>,
    /// There are other members.
    foreign: bool,
}

impl<'a> Document<'a> {
    fn read(text: &'a str) -> Result<Self, SyntaxError> {
        let mut reader = Reader::new(text);
        let document = match reader.next()? {
            Token::BeginObject => Document::object(&mut reader)?,
            first => Document::other(reader.rest_of_value(first)?),
        };
        reader.end()?;
        Ok(document)
    }

    fn other(whole: Value<'a>) -> Self {
        Document {
            whole,
            event: None,
            data: None,
            from: None,
            tags: None,
            key: None,
            ts: None,
            id: None,
            foreign: false,
        }
    }

    /// The object that was entered.
    fn object(reader: &mut Reader<'a>) -> Result<Self, SyntaxError> {
        let start = reader.token_at();
        let mut read = Document::other(Value { at: start, text: "", kind: Kind::Object, depth: 1 });
        while let Some((name, value)) = reader.member()? {
            read.whole.depth = read.whole.depth.max(value.depth + 1);
            match &*name.decode() {
                "event" => read.event = Some(value),
                "data" => read.data = Some(value),
                "from" => read.from = Some(value),
                "tags" => read.tags = Some(value),
                "key" => read.key = Some(value),
                "ts" => read.ts = Some(value),
                "id" => read.id = Some(value),
                _ => read.foreign = true,
            }
        }
        read.whole.text = reader.since(start);
        Ok(read)
    }

    fn is_envelope(&self, mode: PayloadMode) -> bool {
        if !self.event.is_some_and(|event| event.kind == Kind::String) {
            return false;
        }
        match mode {
            PayloadMode::Envelope => true,
            PayloadMode::Auto => !self.foreign && (self.id.is_none() || self.is_by_server()),
            PayloadMode::Raw => !self.foreign && self.is_by_server(),
        }
    }

    fn is_by_server(&self) -> bool {
        let id = self.id.and_then(|id| id.as_str());
        id.is_some_and(|id| id.decode().starts_with(SERVER_ID_PREFIX))
    }

    /// The event whose source is the text that was read. What has the wrong type counts as absent.
    fn into_event(self) -> Event {
        let of_kind = |member: Option<Value<'a>>, kind| member.filter(|value| value.kind == kind);
        Event {
            name: of_kind(self.event, Kind::String).map_or(Text::Fixed(DEFAULT_EVENT), string),
            from: of_kind(self.from, Kind::String).map(string),
            key: self.key.and_then(key),
            tags: of_kind(self.tags, Kind::Object).filter(|tags| tags.depth <= MAX_DATA_DEPTH).map(verbatim),
            ts: of_kind(self.ts, Kind::Number).and_then(whole_number).map(verbatim),
            id: of_kind(self.id, Kind::String).map(string),
            ..Event::message(self.data.map_or(Text::Fixed("null"), shown))
        }
    }
}

/// A time as clients are shown it, in whole milliseconds: a fraction is cut off; with an exponent it is none.
fn whole_number(value: Value<'_>) -> Option<Value<'_>> {
    let whole = value.text.split('.').next()?;
    let exponent = value.text.contains(['e', 'E']);
    (!exponent).then_some(Value { text: whole, ..value })
}

/// JSON as clients are shown it: deeper than they need to bear, it becomes a string that holds the text.
fn shown(value: Value<'_>) -> Text {
    if value.depth <= MAX_DATA_DEPTH { verbatim(value) } else { quoted(value.text) }
}

fn verbatim(value: Value<'_>) -> Text {
    Text::Piece(value.at..value.at + value.text.len())
}

/// The string that a JSON string means.
fn string(value: Value<'_>) -> Text {
    match value.as_str().map(Str::decode) {
        Some(Cow::Owned(text)) => Text::Made(text.into()),
        _ => Text::Piece(value.at + 1..value.at + value.text.len() - 1),
    }
}

fn key(value: Value<'_>) -> Option<Text> {
    match value.kind {
        Kind::String => Some(string(value)),
        Kind::Number => Some(Text::Made(decimal_text(value.text).into())),
        _ => None,
    }
}

/// Text as a JSON string.
fn quoted(text: &str) -> Text {
    Text::Made(json::quoted(text).into())
}

#[cfg(test)]
mod tests;
