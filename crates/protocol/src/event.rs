//! Events: what was published on a Redis channel (contract §4), as the `EVENT` that clients get. A payload is read once
//! ([`Payload`]), and written once, as the message in JSON, which an [`Event`] is kept as; its JSON goes there byte for
//! byte. Who may see an event, and its offset, are the engine's business.

mod payload;

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

pub use payload::{Payload, PayloadError, PayloadMode};

use crate::message::{Encoding, Frame, RequestId};
use crate::websocket::encode_frame;
use crate::writer::{self, MapWriter};

/// What the `id` of an envelope that a server wrote begins with; no other `id` is an envelope's.
pub const SERVER_ID_PREFIX: &str = "db1.";

/// The `encoding` of data that is base64 text and represents bytes.
pub const BASE64_ENCODING: &str = "base64";

/// The name of an event whose payload names none.
pub const DEFAULT_EVENT: &str = "message";

/// One event: the `EVENT` message in JSON, and where its parts are. What is read most comes first in memory.
#[derive(Debug)]
#[repr(C)]
pub struct Event {
    /// The message; behind it what clients are not shown, and texts that are written with escapes, as they are meant.
    text: Box<str>,
    /// The end of the message.
    end: u32,
    is_base64: bool,
    offset: Option<NonZeroU64>,
    spans: Spans,
}

/// Where the parts of an event stand in its text.
#[derive(Debug, Default)]
struct Spans {
    channel: Option<Span>,
    name: Option<Span>,
    data: Option<Span>,
    from: Option<Span>,
    key: Option<Span>,
    tags: Option<Span>,
    ts: Option<Span>,
    id: Option<Span>,
}

/// A piece of a text, which does not end at its beginning. 32 bits are enough: Redis keeps no payload over 512 MiB, and
/// escapes make six bytes of one at most.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: NonZeroU32,
}

impl Span {
    fn of(range: Range<usize>) -> Option<Self> {
        let end = NonZeroU32::new(u32::try_from(range.end).ok()?)?;
        Some(Span { start: u32::try_from(range.start).ok()?, end })
    }
}

/// The parts of an event that clients are shown, wherever they lie.
struct Parts<'e> {
    channel: &'e str,
    name: &'e str,
    data: &'e str,
    from: Option<&'e str>,
    key: Option<&'e str>,
    tags: Option<&'e str>,
    ts: Option<&'e str>,
    offset: Option<NonZeroU64>,
    is_base64: bool,
}

impl Event {
    /// What was published on this channel, as clients are shown it; `offset`: its number there, counted from 1, where it
    /// has one that is shown.
    ///
    /// ```
    /// use drawbridge_protocol::event::{Event, Payload, PayloadMode};
    /// let payload = Payload::read(br#"{"event":"hit","data":[12]}"#, PayloadMode::Auto).unwrap();
    /// let event = Event::new(&payload, "room:7", Some(3));
    /// assert_eq!(event.json(), r#"{"type":"EVENT","channel":"room:7","event":"hit","data":[12],"offset":3}"#);
    /// ```
    pub fn new(payload: &Payload<'_>, channel: &str, offset: Option<u64>) -> Self {
        let parts = Parts {
            channel,
            name: payload.name(),
            data: payload.data_json(),
            from: payload.from(),
            key: payload.key().map(|key| &**key),
            tags: payload.tags_json(),
            ts: payload.ts(),
            offset: offset.and_then(NonZeroU64::new),
            is_base64: payload.is_base64(),
        };
        let id = payload.server_id();
        let mut text = Vec::with_capacity(parts.room() + id.map_or(0, str::len));
        let mut spans = Spans::default();
        MapWriter::write(Encoding::Json, &mut text, |map| parts.write(map, &mut spans));
        let end = u32::try_from(text.len()).unwrap_or(0);
        let texts = [
            (&mut spans.channel, Some(channel)),
            (&mut spans.name, Some(parts.name)),
            (&mut spans.from, parts.from),
            (&mut spans.key, parts.key),
        ];
        for (span, meant) in texts {
            if let Some(meant) = meant {
                *span = plain(*span, meant).or_else(|| append(&mut text, meant));
            }
        }
        spans.id = id.and_then(|id| append(&mut text, id));
        // It was put together of nothing but texts, so it is one.
        let text = String::from_utf8(text).unwrap_or_default().into_boxed_str();
        Event { text, end, is_base64: parts.is_base64, offset: parts.offset, spans }
    }

    /// The `EVENT` message in JSON.
    pub fn json(&self) -> &str {
        self.text.get(..self.end as usize).unwrap_or_default()
    }

    /// What happened.
    pub fn name(&self) -> &str {
        self.get(self.spans.name).unwrap_or_default()
    }

    /// The data: valid JSON, at most [`crate::MAX_DATA_DEPTH`] deep, without white space around it.
    pub fn data_json(&self) -> &str {
        self.get(self.spans.data).unwrap_or("null")
    }

    /// Who did it.
    pub fn from(&self) -> Option<&str> {
        self.get(self.spans.from)
    }

    /// The key of the entity it is about.
    pub fn key(&self) -> Option<&str> {
        self.get(self.spans.key)
    }

    /// The tags: a JSON object, at most [`crate::MAX_DATA_DEPTH`] deep.
    pub fn tags_json(&self) -> Option<&str> {
        self.get(self.spans.tags)
    }

    /// When it happened, by the publisher's clock, in Unix milliseconds: a JSON number.
    pub fn ts(&self) -> Option<&str> {
        self.get(self.spans.ts)
    }

    /// Who published it by which server, where a server did: begins with [`SERVER_ID_PREFIX`].
    pub fn server_id(&self) -> Option<&str> {
        self.get(self.spans.id)
    }

    /// What it holds in memory beside itself, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.text.len()
    }

    fn get(&self, span: Option<Span>) -> Option<&str> {
        let span = span?;
        self.text.get(span.start as usize..span.end.get() as usize)
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            channel: self.get(self.spans.channel).unwrap_or_default(),
            name: self.name(),
            data: self.data_json(),
            from: self.from(),
            key: self.key(),
            tags: self.tags_json(),
            ts: self.ts(),
            offset: self.offset,
            is_base64: self.is_base64,
        }
    }
}

/// A string without its quotes, where it is written as it is meant: escapes are longer.
fn plain(quoted: Option<Span>, meant: &str) -> Option<Span> {
    let Span { start, end } = quoted?;
    let range = start as usize + 1..end.get() as usize - 1;
    Span::of(range).filter(|span| span.end.get() as usize - span.start as usize == meant.len())
}

fn append(text: &mut Vec<u8>, more: &str) -> Option<Span> {
    let start = text.len();
    text.extend_from_slice(more.as_bytes());
    Span::of(start..text.len())
}

impl Parts<'_> {
    /// About how many bytes they take as a message in JSON, and hardly less.
    fn room(&self) -> usize {
        const REQUIRED: usize = r#"{"type":"EVENT","channel":"","event":"","data":,"offset":}"#.len() + 20;
        const OPTIONAL: usize = r#","from":"""#.len();
        const BASE64: usize = r#","encoding":"base64""#.len();
        let optional = [self.from, self.key, self.tags, self.ts];
        let optional: usize = optional.into_iter().flatten().map(|text| text.len() + OPTIONAL).sum();
        let encoding = if self.is_base64 { BASE64 } else { 0 };
        REQUIRED + self.channel.len() + self.name.len() + self.data.len() + optional + encoding
    }

    fn write(&self, map: &mut MapWriter<'_>, spans: &mut Spans) {
        map.text("type", "EVENT");
        spans.channel = Span::of(map.text("channel", self.channel));
        spans.name = Span::of(map.text("event", self.name));
        spans.data = Span::of(self.write_data(map));
        spans.from = map.text_if("from", self.from).and_then(Span::of);
        spans.key = map.text_if("key", self.key).and_then(Span::of);
        spans.tags = map.json_if("tags", self.tags).and_then(Span::of);
        self.write_encoding(map);
        map.number_if("offset", self.offset.map(NonZeroU64::get));
        spans.ts = map.json_if("ts", self.ts).and_then(Span::of);
    }

    /// As an element of `VIEW_ENTER.entities`.
    fn write_entity(&self, map: &mut MapWriter<'_>) {
        map.text_if("key", self.key);
        map.text("event", self.name);
        self.write_data(map);
        map.text_if("from", self.from);
        map.json_if("tags", self.tags);
        self.write_encoding(map);
        map.json_if("ts", self.ts);
    }

    /// As an element of `HISTORY.events`.
    fn write_logged(&self, map: &mut MapWriter<'_>) {
        map.text("event", self.name);
        self.write_data(map);
        map.text_if("from", self.from);
        map.text_if("key", self.key);
        map.json_if("tags", self.tags);
        self.write_encoding(map);
        map.number_if("offset", self.offset.map(NonZeroU64::get));
        map.json_if("ts", self.ts);
    }

    fn write_encoding(&self, map: &mut MapWriter<'_>) {
        if self.is_base64 && map.encoding() == Encoding::Json {
            map.text("encoding", BASE64_ENCODING);
        }
    }

    fn write_data(&self, map: &mut MapWriter<'_>) -> Range<usize> {
        if self.is_base64 && map.encoding() == Encoding::MsgPack {
            // Invariant: `Payload` sets `is_base64` only for what decodes.
            map.bin("data", &BASE64.decode(self.data.trim_matches('"')).unwrap_or_default())
        } else {
            map.json("data", self.data)
        }
    }
}

/// The `EVENT` message as a whole WebSocket frame; for all who see the event in this encoding.
pub fn encode_event(encoding: Encoding, event: &Event) -> Frame {
    match encoding {
        Encoding::Json => encode_frame(encoding.opcode(), event.json().as_bytes()),
        Encoding::MsgPack => {
            let parts = event.parts();
            writer::frame(encoding, parts.room(), |map| parts.write(map, &mut Spans::default()))
        }
    }
}

/// An entity's state as an element of `VIEW_ENTER.entities` ([`encode_view_enter`]); for all who see it.
pub fn encode_entity(encoding: Encoding, event: &Event) -> Bytes {
    let parts = event.parts();
    writer::message(encoding, parts.room(), |map| parts.write_entity(map)).into()
}

/// An event of a log as an element of `HISTORY.events` ([`encode_history`]).
pub fn encode_logged(encoding: Encoding, event: &Event) -> Bytes {
    let parts = event.parts();
    writer::message(encoding, parts.room(), |map| parts.write_logged(map)).into()
}

/// A `HISTORY` message: the answer to `HISTORY_GET`.
#[derive(Clone, Copy, Debug)]
pub struct HistoryPage<'a> {
    /// Of the request.
    pub id: &'a RequestId,
    /// The channel.
    pub channel: &'a str,
    /// The log's epoch.
    pub epoch: &'a str,
    /// Events before the page that the client has not seen are no longer kept.
    pub gap: bool,
    /// As [`encode_logged`] has written them, in the message's encoding.
    pub events: &'a [Bytes],
    /// Where the following page begins, as `since`; `None`: this was the last.
    pub next: Option<u64>,
}

/// `HISTORY` as a whole WebSocket frame.
pub fn encode_history(encoding: Encoding, page: &HistoryPage<'_>) -> Frame {
    let HistoryPage { id, channel, epoch, gap, events, next } = *page;
    let bytes: usize = events.iter().map(|event| event.len() + 1).sum();
    writer::frame(encoding, bytes + channel.len() + PUNCTUATION, |map| {
        map.text("type", "HISTORY");
        map.id(Some(id));
        map.text("channel", channel);
        map.text("epoch", epoch);
        map.flag("gap", gap);
        map.encoded("events", events);
        if let Some(offset) = next {
            map.map("next", |next| {
                next.text("epoch", epoch);
                next.number("offset", offset);
            });
        }
    })
}

/// The `reason` of an empty [`ViewEnter`]: the class shows nothing without an area, and the subscription has none.
pub const AREA_REQUIRED: &str = "area_required";

/// A `VIEW_ENTER` message.
#[derive(Clone, Copy, Debug, Default)]
pub struct ViewEnter<'a> {
    /// The entity channel.
    pub channel: &'a str,
    /// The entities replace what the client had.
    pub reset: bool,
    /// Nothing is missing any more.
    pub complete: bool,
    /// Why there are no entities, where that needs saying: [`AREA_REQUIRED`].
    pub reason: Option<&'static str>,
    /// As [`encode_entity`] has written them, in the message's encoding.
    pub entities: &'a [Bytes],
}

/// `VIEW_ENTER` as a whole WebSocket frame.
pub fn encode_view_enter(encoding: Encoding, message: &ViewEnter<'_>) -> Frame {
    let ViewEnter { channel, reset, complete, reason, entities } = *message;
    let bytes: usize = entities.iter().map(|entity| entity.len() + 1).sum();
    writer::frame(encoding, bytes + channel.len() + PUNCTUATION, |map| {
        map.text("type", "VIEW_ENTER");
        map.text("channel", channel);
        map.flag("reset", reset);
        map.boolean("complete", complete);
        map.text_if("reason", reason);
        map.encoded("entities", entities);
    })
}

/// What a message has beside its values, about, in bytes.
const PUNCTUATION: usize = 128;

/// What a server publishes into Redis: readable for `redis-cli`, and for [`Payload::read`] in every mode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope<'a> {
    /// The event's name.
    pub event: &'a str,
    /// Valid JSON; empty means `null`.
    pub data: &'a str,
    /// Whether `data` is a string of base64 text that represents bytes.
    pub is_base64: bool,
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
            map.text_if("encoding", self.is_base64.then_some(BASE64_ENCODING));
            map.text_if("from", self.from);
            map.text_if("key", self.key);
            map.json_if("tags", self.tags);
            map.number_if("ts", self.ts);
            map.text_if("id", self.id);
        };
        writer::message(Encoding::Json, capacity, fill).into()
    }
}

#[cfg(test)]
mod tests;
