//! JSON text to requests. Every refusal names the field, what was wrong and what would be right.

use serde_json::value::RawValue;

use crate::json::{JsonKind, Reader, SyntaxError, Token, Value, decimal_text};
use crate::message::{
    BadRequest, BadSubscribe, ClientMessage, Connect, FilterUpdate, HistoryGet, MAX_BATCH, MAX_DATA_DEPTH,
    MAX_ID_BYTES, MAX_ID_NUMBER, MAX_MESSAGE_BYTES, MIN_MESSAGE_BYTES, PresenceGet, Publish, Request,
    RequestId, Resume, SentArea, SentPosition, Subscribe,
};
use crate::msgpack::{Foreign, MsgPackError};

/// The types of client messages.
const TYPES: [&str; 9] = [
    "CONNECT",
    "TOKEN_REFRESH",
    "CHANNEL_SUBSCRIBE",
    "CHANNEL_UNSUBSCRIBE",
    "PUBLISH_EVENT",
    "PING",
    "FILTER_UPDATE",
    "PRESENCE_GET",
    "HISTORY_GET",
];

/// A type longer than this is not quoted in an answer.
const MAX_QUOTED_BYTES: usize = 40;

/// What is said of MessagePack that may not be.
pub(super) fn not_of_this_contract(error: MsgPackError) -> String {
    format!("the message is not MessagePack of this contract: {error}")
}

/// A text's requests, or why it has none; with the facts of a MessagePack message.
pub(super) fn requests(text: &str, foreign: &Foreign) -> Result<Vec<Result<Request, BadRequest>>, String> {
    let mut reader = Reader::new(text);
    let not_json = |error: SyntaxError| format!("the message is not JSON: {error}");
    let requests = match reader.next().map_err(not_json)? {
        Token::BeginObject => vec![request(&mut reader, foreign).map_err(not_json)?],
        Token::BeginArray => batch(&mut reader, foreign).map_err(not_json)?,
        first => {
            let kind = reader.rest_of_value(first).map_err(not_json)?.kind;
            if let Some(fault) = foreign.fault_in(0..text.len()) {
                return Err(not_of_this_contract(fault));
            }
            return Err(format!(
                "a message is an object or an array of objects, not {}",
                kind.with_article()
            ));
        }
    };
    reader.end().map_err(not_json)?;
    match requests.len() {
        1..=MAX_BATCH => Ok(requests),
        0 => Err(format!("an empty array: it holds 1 to {MAX_BATCH} messages")),
        _ => Err(format!("an array of more than {MAX_BATCH} messages: it holds 1 to {MAX_BATCH}")),
    }
}

/// The elements of the array that was entered; no more than show that there are too many.
fn batch<'a>(
    reader: &mut Reader<'a>,
    foreign: &'a Foreign,
) -> Result<Vec<Result<Request, BadRequest>>, SyntaxError> {
    let mut requests = Vec::new();
    loop {
        let first = match reader.next()? {
            Token::EndArray => return Ok(requests),
            first => first,
        };
        if requests.len() > MAX_BATCH {
            reader.rest_of_value(first)?;
        } else if first == Token::BeginObject {
            requests.push(request(reader, foreign)?);
        } else {
            let element = reader.rest_of_value(first)?;
            let kind = element.kind.with_article();
            let reason = match foreign.fault_in(element.at..element.at + element.text.len()) {
                Some(fault) => not_of_this_contract(fault),
                None => format!("an element of an array of messages is an object, not {kind}"),
            };
            requests.push(Err(BadRequest { id: None, reason }));
        }
    }
}

/// The object that was entered.
fn request<'a>(
    reader: &mut Reader<'a>,
    foreign: &'a Foreign,
) -> Result<Result<Request, BadRequest>, SyntaxError> {
    let begins = reader.token_at();
    let fields = Fields::read(reader, foreign)?;
    let fault = foreign.fault_in(begins..reader.token_at());
    Ok(match fields.id() {
        Err(reason) => Err(BadRequest { id: None, reason }),
        Ok(id) => match fault.map_or_else(|| message(&fields), |fault| Err(not_of_this_contract(fault))) {
            Ok(message) => Ok(Request { id, message }),
            Err(reason) => Err(BadRequest { id, reason }),
        },
    })
}

fn message(fields: &Fields<'_>) -> Result<ClientMessage, String> {
    let name = fields.required("type", "a message needs a string there")?;
    Ok(match name.as_str() {
        "CONNECT" => ClientMessage::Connect(connect(fields)?),
        "TOKEN_REFRESH" => {
            ClientMessage::TokenRefresh { token: fields.required("token", "the new token, a string")? }
        }
        "CHANNEL_SUBSCRIBE" => ClientMessage::Subscribe(subscribe(fields)?),
        "CHANNEL_UNSUBSCRIBE" => ClientMessage::Unsubscribe { channel: fields.channel()? },
        "PUBLISH_EVENT" => ClientMessage::Publish(publish(fields)?),
        "PING" => ClientMessage::Ping { t: fields.get("t").map(|t| fields.raw("t", t)).transpose()? },
        "FILTER_UPDATE" => ClientMessage::FilterUpdate(filter_update(fields)?),
        "PRESENCE_GET" => ClientMessage::PresenceGet(presence_get(fields)?),
        "HISTORY_GET" => ClientMessage::HistoryGet(history_get(fields)?),
        unknown => return Err(unknown_type(unknown)),
    })
}

fn connect(fields: &Fields<'_>) -> Result<Connect, String> {
    let subscribe = match fields.present("subscribe") {
        None => None,
        Some(list) => {
            Some(subscriptions(fields.of_kind("subscribe", list, JsonKind::Array)?, fields.foreign)?)
        }
    };
    Ok(Connect {
        token: fields.optional("token")?,
        subscribe,
        resume: fields.nested("resume")?.map(|resume| resume_of(&resume)).transpose()?,
        max_message_bytes: max_message_bytes(fields)?,
    })
}

fn resume_of(fields: &Fields<'_>) -> Result<Resume, String> {
    let session = fields.required("session", "the `session` of the last `WELCOME`, a string")?;
    let Some(value) = fields.present("positions") else {
        return Ok(Resume { session, positions: Vec::new() });
    };
    let object = fields.of_kind("positions", value, JsonKind::Object)?;
    let internal = |error: SyntaxError| format!("`resume.positions` is not JSON: {error}");
    let mut reader = Reader::new(object.text);
    reader.next().map_err(internal)?;
    let mut positions = Vec::new();
    while let Some((name, value)) = reader.member().map_err(internal)? {
        let name = name.decode().into_owned();
        let path = match name.len() <= MAX_QUOTED_BYTES {
            true => format!("resume.positions[{name:?}]"),
            false => "resume.positions[…]".to_owned(),
        };
        if value.kind != JsonKind::Object {
            let kind = value.kind.with_article();
            return Err(format!("`{path}` must be an object with `epoch` and `offset`, not {kind}"));
        }
        let mut reader = Reader::new(value.text);
        reader.next().map_err(internal)?;
        let mut position = Fields::read(&mut reader, fields.foreign).map_err(internal)?;
        position.begins = fields.begins + object.at + value.at;
        position.path = path + ".";
        let epoch =
            position.required("epoch", "the `epoch` of the last message about the channel, a string")?;
        positions.push((name, SentPosition { epoch, offset: position.offset()? }));
    }
    Ok(Resume { session, positions })
}

fn max_message_bytes(fields: &Fields<'_>) -> Result<Option<usize>, String> {
    let Some(value) = fields.present("max_message_bytes") else { return Ok(None) };
    let number = value.text.parse().ok().filter(|_| value.kind == JsonKind::Number);
    match number.filter(|number| (MIN_MESSAGE_BYTES..=MAX_MESSAGE_BYTES).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(format!(
            "`max_message_bytes` must be an integer from {MIN_MESSAGE_BYTES} to {MAX_MESSAGE_BYTES}: the longest \
             message that the client takes, in bytes"
        )),
    }
}

/// The elements of `CONNECT.subscribe`; the text has been checked before.
fn subscriptions(list: Value<'_>, foreign: &Foreign) -> Result<Vec<Result<Subscribe, BadSubscribe>>, String> {
    let internal = |error: SyntaxError| format!("`subscribe` is not JSON: {error}");
    let mut reader = Reader::new(list.text);
    reader.next().map_err(internal)?;
    let mut subscriptions = Vec::new();
    loop {
        let at = subscriptions.len();
        match reader.next().map_err(internal)? {
            Token::EndArray => return Ok(subscriptions),
            Token::BeginObject => {
                let mut fields = Fields::read(&mut reader, foreign).map_err(internal)?;
                fields.begins = list.at;
                fields.path = format!("subscribe[{at}].");
                let subscribe = subscribe(&fields);
                subscriptions.push(
                    subscribe.map_err(|reason| BadSubscribe { channel: fields.channel().ok(), reason }),
                );
            }
            first => {
                let kind = reader.rest_of_value(first).map_err(internal)?.kind.with_article();
                let reason = format!("`subscribe[{at}]` must be an object with a `channel`, not {kind}");
                subscriptions.push(Err(BadSubscribe { channel: None, reason }));
            }
        }
    }
}

fn subscribe(fields: &Fields<'_>) -> Result<Subscribe, String> {
    Ok(Subscribe { channel: fields.channel()?, filter: fields.optional("filter")?, area: fields.area()? })
}

fn publish(fields: &Fields<'_>) -> Result<Publish, String> {
    let null = Value { at: 0, text: "null", kind: JsonKind::Null, depth: 0 };
    let key = match fields.present("key") {
        Some(number) if number.kind == JsonKind::Number => Some(decimal_text(number.text).into_owned()),
        _ => fields.optional("key")?,
    };
    Ok(Publish {
        channel: fields.channel()?,
        event: fields.required("event", "the event's name, a string")?,
        data: fields.raw("data", fields.get("data").unwrap_or(null))?,
        is_base64: fields.get("data").is_some_and(|data| fields.is_binary(&data)),
        key,
        idempotency_key: fields.optional("idempotency_key")?,
    })
}

fn filter_update(fields: &Fields<'_>) -> Result<FilterUpdate, String> {
    Ok(FilterUpdate {
        channel: fields.channel()?,
        filter: fields.get("filter").map(|_| fields.optional("filter")).transpose()?,
        area: fields.get("area").map(|_| fields.area()).transpose()?,
    })
}

fn presence_get(fields: &Fields<'_>) -> Result<PresenceGet, String> {
    let limit = limit(fields, "players")?;
    Ok(PresenceGet { channel: fields.channel()?, after: fields.optional("after")?, limit })
}

fn history_get(fields: &Fields<'_>) -> Result<HistoryGet, String> {
    let since = fields.present("since").map(|since| position(fields, "since", since)).transpose()?;
    Ok(HistoryGet { channel: fields.channel()?, since, limit: limit(fields, "events")? })
}

/// The most of these on a page.
fn limit(fields: &Fields<'_>, what: &str) -> Result<Option<u64>, String> {
    let limit = match fields.present("limit") {
        None => None,
        Some(value) => match whole(value).filter(|limit| *limit > 0) {
            Some(limit) => Some(limit),
            None => {
                return Err(format!("`limit` must be an integer from 1 to {MAX_ID_NUMBER}: the most {what}"));
            }
        },
    };
    Ok(limit)
}

/// A place in a channel's events: an object with `epoch` and `offset`.
fn position(fields: &Fields<'_>, name: &'static str, value: Value<'_>) -> Result<SentPosition, String> {
    let object = fields.of_kind(name, value, JsonKind::Object)?;
    let internal = |error: SyntaxError| format!("`{name}` is not JSON: {error}");
    let mut reader = Reader::new(object.text);
    reader.next().map_err(internal)?;
    let [epoch, offset] = reader.members(&["epoch", "offset"]).map_err(internal)?;
    let epoch = epoch.and_then(|epoch| epoch.as_str()).and_then(|epoch| epoch.decode_strict());
    let Some(epoch) = epoch.filter(|epoch| epoch.len() <= MAX_ID_BYTES) else {
        return Err(format!(
            "`{name}.epoch` must be the epoch's name, a string of at most {MAX_ID_BYTES} bytes"
        ));
    };
    match offset.and_then(whole) {
        Some(offset) => Ok(SentPosition { epoch: epoch.into_owned(), offset }),
        None => Err(format!("`{name}.offset` must be an unsigned integer up to {MAX_ID_NUMBER}")),
    }
}

/// An unsigned integer that every client can hold.
fn whole(value: Value<'_>) -> Option<u64> {
    let number = value.text.parse().ok().filter(|_| value.kind == JsonKind::Number);
    number.filter(|number| *number <= MAX_ID_NUMBER)
}

/// Says which type was probably meant.
fn unknown_type(name: &str) -> String {
    if name.len() > MAX_QUOTED_BYTES {
        return format!("`type` is of no known kind; there are {}", TYPES.join(", "));
    }
    let upper = name.to_ascii_uppercase();
    // A beginning or end of the right name counts for much: SUBSCRIBE, PUBLISH.
    let likeness = |known: &&str| {
        let part = known.ends_with(&format!("_{upper}")) || known.starts_with(&format!("{upper}_"));
        strsim::normalized_damerau_levenshtein(&upper, known) + if part { 1.0 } else { 0.0 }
    };
    let nearest = TYPES.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|nearest| likeness(nearest) >= 0.5) {
        Some(nearest) => format!("unknown `type` {name:?}, did you mean {nearest}?"),
        None => format!("unknown `type` {name:?}; there are {}", TYPES.join(", ")),
    }
}

/// Every field that some client message has.
const FIELDS: [&str; 21] = [
    "type",
    "id",
    "channel",
    "event",
    "data",
    "key",
    "idempotency_key",
    "filter",
    "area",
    "token",
    "subscribe",
    "resume",
    "session",
    "positions",
    "epoch",
    "offset",
    "max_message_bytes",
    "t",
    "limit",
    "after",
    "since",
];

/// An object's known fields; of duplicates the last.
struct Fields<'a> {
    values: [Option<Value<'a>>; FIELDS.len()],
    /// Where the object is, for error messages.
    path: String,
    /// Where the text begins that the values' places are of.
    begins: usize,
    foreign: &'a Foreign,
}

impl<'a> Fields<'a> {
    /// Reads the object that was entered.
    fn read(reader: &mut Reader<'a>, foreign: &'a Foreign) -> Result<Self, SyntaxError> {
        Ok(Fields { values: reader.members(&FIELDS)?, path: String::new(), begins: 0, foreign })
    }

    /// A field, even if it is `null`.
    fn get(&self, name: &str) -> Option<Value<'a>> {
        self.values[FIELDS.iter().position(|field| *field == name)?]
    }

    /// A field that is not `null`.
    fn present(&self, name: &str) -> Option<Value<'a>> {
        self.get(name).filter(|value| value.kind != JsonKind::Null)
    }

    fn id(&self) -> Result<Option<RequestId>, String> {
        let Some(value) = self.present("id") else { return Ok(None) };
        let number = || value.text.parse().ok().filter(|number| *number <= MAX_ID_NUMBER);
        let id = match value.kind {
            JsonKind::Number => number().map(RequestId::Number),
            _ => Some(value)
                .filter(|value| !self.is_binary(value))
                .and_then(|value| value.as_str())
                .and_then(|text| text.decode_strict())
                .filter(|text| text.len() <= MAX_ID_BYTES)
                .map(|text| RequestId::Text(text.into())),
        };
        match id {
            Some(id) => Ok(Some(id)),
            None => Err(format!(
                "`id` must be an unsigned integer up to {MAX_ID_NUMBER}, or a string of at most {MAX_ID_BYTES} bytes"
            )),
        }
    }

    /// Whether it is a string for JSON alone: MessagePack said `bin`.
    fn is_binary(&self, value: &Value<'a>) -> bool {
        self.foreign.is_binary(self.begins + value.at)
    }

    fn channel(&self) -> Result<String, String> {
        self.required("channel", "a channel's name, a string")
    }

    fn required(&self, name: &'static str, what: &str) -> Result<String, String> {
        match self.get(name) {
            Some(value) => self.string(name, value),
            None => Err(format!("`{}{name}` is missing: {what}", self.path)),
        }
    }

    fn optional(&self, name: &'static str) -> Result<Option<String>, String> {
        self.present(name).map(|value| self.string(name, value)).transpose()
    }

    fn string(&self, name: &str, value: Value<'a>) -> Result<String, String> {
        let value = self.of_kind(name, value, JsonKind::String)?;
        if self.is_binary(&value) {
            return Err(format!("`{}{name}` must be a string, not binary", self.path));
        }
        match value.as_str().and_then(|text| text.decode_strict()) {
            Some(text) => Ok(text.into_owned()),
            None => {
                Err(format!("`{}{name}` must be well-formed Unicode, without lone surrogates", self.path))
            }
        }
    }

    fn object(&self, name: &'static str) -> Result<Option<Box<RawValue>>, String> {
        let Some(value) = self.present(name) else { return Ok(None) };
        let value = self.of_kind(name, value, JsonKind::Object)?;
        self.raw(name, value).map(Some)
    }

    /// The fields of an object that is a field.
    fn nested(&self, name: &'static str) -> Result<Option<Fields<'a>>, String> {
        let Some(value) = self.present(name) else { return Ok(None) };
        let value = self.of_kind(name, value, JsonKind::Object)?;
        let internal = |error: SyntaxError| format!("`{name}` is not JSON: {error}");
        let mut reader = Reader::new(value.text);
        reader.next().map_err(internal)?;
        let fields = Fields::read(&mut reader, self.foreign).map_err(internal)?;
        Ok(Some(Fields { begins: self.begins + value.at, path: format!("{}{name}.", self.path), ..fields }))
    }

    /// `offset`, the number of an event.
    fn offset(&self) -> Result<u64, String> {
        let value = self.present("offset").filter(|value| value.kind == JsonKind::Number);
        let number = value.and_then(|value| value.text.parse().ok()).filter(|n| *n <= MAX_ID_NUMBER);
        number
            .ok_or_else(|| format!("`{}offset` must be an unsigned integer up to {MAX_ID_NUMBER}", self.path))
    }

    fn area(&self) -> Result<Option<SentArea>, String> {
        let Some(json) = self.object("area")? else { return Ok(None) };
        let begins = self.get("area").map_or(0, |value| self.begins + value.at);
        let places = self.foreign.area_in(begins..begins + json.get().len());
        let from_start = |(at, sent): &(u32, u32)| {
            let (area_at, area_sent) = places.first().copied().unwrap_or_default();
            (at - area_at, sent - area_sent)
        };
        let places = places.iter().map(from_start).collect();
        Ok(Some(SentArea::new(json, places)))
    }

    /// The value byte for byte.
    fn raw(&self, name: &str, value: Value<'a>) -> Result<Box<RawValue>, String> {
        if value.depth > MAX_DATA_DEPTH {
            return Err(format!(
                "`{}{name}` nests {} deep: at most {MAX_DATA_DEPTH} is allowed",
                self.path, value.depth
            ));
        }
        RawValue::from_string(value.text.to_owned())
            .map_err(|error| format!("`{}{name}` is not JSON: {error}", self.path))
    }

    fn of_kind(&self, name: &str, value: Value<'a>, kind: JsonKind) -> Result<Value<'a>, String> {
        if value.kind == kind {
            return Ok(value);
        }
        let (right, wrong) = (kind.with_article(), value.kind.with_article());
        Err(format!("`{}{name}` must be {right}, not {wrong}", self.path))
    }
}
