//! How a payload published on a Redis channel is read (contract §4): its parts, where they lie.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{BASE64_ENCODING, DEFAULT_EVENT, SERVER_ID_PREFIX};
use crate::json::{self, JsonKind, Reader, Str, SyntaxError, Token, Value, decimal_text};
use crate::message::{MAX_DATA_DEPTH, MAX_ID_NUMBER};

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

/// One publication, read: its parts are borrowed from the payload where it contains them unescaped.
#[derive(Debug)]
pub struct Payload<'p> {
    name: Cow<'p, str>,
    data: Cow<'p, str>,
    from: Option<Cow<'p, str>>,
    key: Option<Cow<'p, str>>,
    tags: Option<&'p str>,
    ts: Option<&'p str>,
    id: Option<Cow<'p, str>>,
    /// The log's epoch, and the offset in it.
    logged: Option<(&'p str, u64)>,
    is_base64: bool,
}

impl<'p> Payload<'p> {
    /// Reads a payload. Whatever its bytes, it costs one pass and no recursion.
    ///
    /// ```
    /// use drawbridge_protocol::event::{Payload, PayloadMode};
    /// let payload = br#"{"event":"hit","data":{"damage":12}}"#;
    /// let payload = Payload::read(payload, PayloadMode::Auto).unwrap();
    /// assert_eq!((payload.name(), payload.data_json()), ("hit", r#"{"damage":12}"#));
    /// ```
    ///
    /// # Errors
    /// [`PayloadError::NotAnEnvelope`], in [`PayloadMode::Envelope`] alone.
    pub fn read(bytes: &'p [u8], mode: PayloadMode) -> Result<Self, PayloadError> {
        let text = std::str::from_utf8(bytes).ok();
        let document = text.and_then(|text| Document::read(text).ok());
        if let Some(document) = document.as_ref().filter(|document| document.is_envelope(mode)) {
            return Ok(document.to_payload());
        }
        // Before anything is made of it.
        if mode == PayloadMode::Envelope {
            return Err(PayloadError::NotAnEnvelope);
        }
        Ok(match (document, text) {
            (Some(document), _) => Payload::message(shown(document.whole)),
            (None, Some(text)) => Payload::message(json::quoted(text).into()),
            (None, None) => {
                let data = json::quoted(&BASE64.encode(bytes)).into();
                Payload { is_base64: true, ..Payload::message(data) }
            }
        })
    }

    /// What is all data.
    fn message(data: Cow<'p, str>) -> Self {
        Payload {
            name: DEFAULT_EVENT.into(),
            data,
            from: None,
            key: None,
            tags: None,
            ts: None,
            id: None,
            logged: None,
            is_base64: false,
        }
    }

    /// What happened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The data: valid JSON, at most [`MAX_DATA_DEPTH`] deep, without white space around it.
    pub fn data_json(&self) -> &str {
        &self.data
    }

    /// As [`Payload::data_json`], where it is in the payload; elsewhere it is one JSON string.
    pub fn data_in_place(&self) -> Option<&'p str> {
        match self.data {
            Cow::Borrowed(data) => Some(data),
            Cow::Owned(_) => None,
        }
    }

    /// Who did it.
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// The key of the entity it is about; decimal text where the payload has a number.
    pub fn key(&self) -> Option<&Cow<'p, str>> {
        self.key.as_ref()
    }

    /// Names the entity that it is about, where the channel's class finds the key in the data.
    pub fn set_key(&mut self, key: Cow<'p, str>) {
        self.key = Some(key);
    }

    /// The tags: a JSON object, at most [`MAX_DATA_DEPTH`] deep.
    pub fn tags_json(&self) -> Option<&'p str> {
        self.tags
    }

    /// When it happened, by the publisher's clock, in Unix milliseconds: a JSON number, as it was written.
    pub fn ts(&self) -> Option<&'p str> {
        self.ts
    }

    /// Who published it by which server, where a server did: begins with [`SERVER_ID_PREFIX`].
    pub fn server_id(&self) -> Option<&str> {
        self.id.as_deref().filter(|id| id.starts_with(SERVER_ID_PREFIX))
    }

    /// Where it says that it is in its channel's log: the epoch's name and the offset there, at least 1. Only from a
    /// server; whether it is true is up to the reader.
    pub fn logged(&self) -> Option<(&'p str, u64)> {
        self.logged.filter(|_| self.server_id().is_some())
    }

    /// Whether the data is base64 text that represents bytes: the payload was not UTF-8, or a player published `bin`.
    pub fn is_base64(&self) -> bool {
        self.is_base64
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
    encoding: Option<Value<'a>>,
    offset: Option<Value<'a>>,
    epoch: Option<Value<'a>>,
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
            encoding: None,
            offset: None,
            epoch: None,
            foreign: false,
        }
    }

    /// The object that was entered.
    fn object(reader: &mut Reader<'a>) -> Result<Self, SyntaxError> {
        let start = reader.token_at();
        let mut read = Document::other(Value { at: start, text: "", kind: JsonKind::Object, depth: 1 });
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
                "encoding" => read.encoding = Some(value),
                "offset" => read.offset = Some(value),
                "epoch" => read.epoch = Some(value),
                _ => read.foreign = true,
            }
        }
        read.whole.text = reader.since(start);
        Ok(read)
    }

    fn is_envelope(&self, mode: PayloadMode) -> bool {
        if !self.event.is_some_and(|event| event.kind == JsonKind::String) {
            return false;
        }
        match mode {
            PayloadMode::Envelope => true,
            PayloadMode::Auto => {
                let by_servers = [self.id, self.encoding, self.offset, self.epoch];
                let is_plain = by_servers.iter().all(Option::is_none);
                !self.foreign && (is_plain || self.is_by_server())
            }
            PayloadMode::Raw => !self.foreign && self.is_by_server(),
        }
    }

    fn is_by_server(&self) -> bool {
        let id = self.id.and_then(|id| id.as_str());
        id.is_some_and(|id| id.decode().starts_with(SERVER_ID_PREFIX))
    }

    /// Where it is in a log. A name with escapes is none of an epoch.
    fn logged(&self) -> Option<(&'a str, u64)> {
        let epoch = self.epoch.filter(|epoch| epoch.kind == JsonKind::String)?;
        let epoch = epoch.text.strip_prefix('"')?.strip_suffix('"').filter(|epoch| !epoch.contains('\\'))?;
        let offset = self.offset.filter(|offset| offset.kind == JsonKind::Number)?.text.parse().ok()?;
        (1..=MAX_ID_NUMBER).contains(&offset).then_some((epoch, offset))
    }

    /// Whether a server says that the data represents bytes, and it does. From others `encoding` is a foreign key.
    fn is_base64(&self) -> bool {
        let says_so = self.encoding.and_then(|encoding| encoding.as_str());
        says_so.is_some_and(|encoding| encoding.decode() == BASE64_ENCODING)
            && self.is_by_server()
            && self.data.filter(|data| data.kind == JsonKind::String).is_some_and(|data| {
                let text = data.text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
                text.is_some_and(|text| BASE64.decode(text).is_ok())
            })
    }

    /// The event that it is. What has the wrong type counts as absent.
    fn to_payload(&self) -> Payload<'a> {
        let of_kind = |member: Option<Value<'a>>, kind| member.filter(|value| value.kind == kind);
        let string =
            |member| of_kind(member, JsonKind::String).and_then(|value| value.as_str()).map(Str::decode);
        let tags = of_kind(self.tags, JsonKind::Object).filter(|tags| tags.depth <= MAX_DATA_DEPTH);
        Payload {
            name: string(self.event).unwrap_or(DEFAULT_EVENT.into()),
            from: string(self.from),
            key: self.key.and_then(key),
            tags: tags.map(|tags| tags.text),
            ts: of_kind(self.ts, JsonKind::Number).and_then(whole_number),
            id: string(self.id),
            logged: self.logged(),
            is_base64: self.is_base64(),
            ..Payload::message(self.data.map_or("null".into(), shown))
        }
    }
}

/// A time as clients are shown it, in whole milliseconds: a fraction is cut off; with an exponent it is none.
fn whole_number(value: Value<'_>) -> Option<&str> {
    let whole = value.text.split('.').next()?;
    let exponent = value.text.contains(['e', 'E']);
    (!exponent).then_some(whole)
}

/// JSON as clients are shown it: deeper than they need to bear, it becomes a string that holds the text.
fn shown(value: Value<'_>) -> Cow<'_, str> {
    if value.depth <= MAX_DATA_DEPTH { value.text.into() } else { json::quoted(value.text).into() }
}

fn key(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.kind {
        JsonKind::String => value.as_str().map(Str::decode),
        JsonKind::Number => Some(decimal_text(value.text)),
        _ => None,
    }
}
