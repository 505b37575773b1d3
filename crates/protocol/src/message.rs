//! The messages of the contract as types, the same for both encodings. How they look as JSON is in
//! [`crate::json`], as MessagePack in [`crate::msgpack`]. What they do is the engine's business.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::code::ErrorCode;
use crate::websocket::OpCode;

/// The largest number of message objects in one array (contract §1).
pub const MAX_BATCH: usize = 64;
/// How deep `data` may nest (contract §1). `1` is depth 0, `[]` is depth 1.
pub const MAX_DATA_DEPTH: usize = 64;
/// The largest `id` that is a number: 2^53 − 1.
pub const MAX_ID_NUMBER: u64 = (1 << 53) - 1;
/// The longest `id` that is a string, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// The encoding that a connection's sub-protocol chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `drawbridge.v1.json`: text frames.
    Json,
    /// `drawbridge.v1.msgpack`: binary frames.
    MsgPack,
}

impl Encoding {
    /// The sub-protocol's name (RFC 6455 §1.9).
    pub fn subprotocol(self) -> &'static str {
        match self {
            Encoding::Json => "drawbridge.v1.json",
            Encoding::MsgPack => "drawbridge.v1.msgpack",
        }
    }

    /// The kind of frame that its messages are in.
    pub fn opcode(self) -> OpCode {
        match self {
            Encoding::Json => OpCode::Text,
            Encoding::MsgPack => OpCode::Binary,
        }
    }
}

/// The `id` that ties a reply to its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// An unsigned integer up to [`MAX_ID_NUMBER`].
    Number(u64),
    /// A string of at most [`MAX_ID_BYTES`] bytes.
    Text(Box<str>),
}

/// One message object from a client.
#[derive(Debug)]
pub struct Request {
    /// Absent: fire and forget.
    pub id: Option<RequestId>,
    /// The request.
    pub message: ClientMessage,
}

/// A message object that is not one of the contract. The connection stays; `ERROR` `BAD_MESSAGE` answers it.
#[derive(Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// The `id`, where that much could be read.
    pub id: Option<RequestId>,
    /// Which field, what was wrong, what would be right.
    pub reason: String,
}

/// A client's request.
#[derive(Debug)]
pub enum ClientMessage {
    /// `CONNECT`
    Connect(Connect),
    /// `TOKEN_REFRESH`
    TokenRefresh {
        /// The new JWT.
        token: String,
    },
    /// `CHANNEL_SUBSCRIBE`
    Subscribe(Subscribe),
    /// `CHANNEL_UNSUBSCRIBE`
    Unsubscribe {
        /// The name or pattern, as it was subscribed to.
        channel: String,
    },
    /// `PUBLISH_EVENT`
    Publish(Publish),
    /// `PING`
    Ping {
        /// Echoed as it came.
        t: Option<Box<RawValue>>,
    },
    /// `FILTER_UPDATE`
    FilterUpdate(FilterUpdate),
    /// `PRESENCE_GET`
    PresenceGet(PresenceGet),
    /// `HISTORY_GET`
    HistoryGet(HistoryGet),
}

/// `HISTORY_GET` (contract §8).
#[derive(Debug)]
pub struct HistoryGet {
    /// The channel.
    pub channel: String,
    /// The events behind this position, the oldest first; absent: the newest.
    pub since: Option<SentPosition>,
    /// The most events that are read for the page; at least 1.
    pub limit: Option<u64>,
}

/// A place in a channel's events, as a client says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentPosition {
    /// Names the count's life.
    pub epoch: String,
    /// The last event that the client has seen; up to [`MAX_ID_NUMBER`].
    pub offset: u64,
}

/// `PRESENCE_GET` (contract §8).
#[derive(Debug)]
pub struct PresenceGet {
    /// The channel.
    pub channel: String,
    /// The players behind this one; absent: from the first.
    pub after: Option<String>,
    /// The most players on the page; at least 1.
    pub limit: Option<u64>,
}

/// The bounds of `CONNECT.max_message_bytes`. Below the lower one not even an error would fit.
pub const MIN_MESSAGE_BYTES: usize = 512;
/// See [`MIN_MESSAGE_BYTES`].
pub const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// `CONNECT` (contract §2).
#[derive(Debug, Default)]
pub struct Connect {
    /// Absent where the upgrade carried it, or for an anonymous player.
    pub token: Option<String>,
    /// The client's own subscriptions, in the same round trip; `None`: it names none, not even an empty list.
    pub subscribe: Option<Vec<Result<Subscribe, BadSubscribe>>>,
    /// The client resumes a session.
    pub resume: Option<Resume>,
    /// The longest message that the client takes, in bytes: [`MIN_MESSAGE_BYTES`] to [`MAX_MESSAGE_BYTES`].
    pub max_message_bytes: Option<usize>,
}

/// `CONNECT.resume`: which session, and how far the client has read each channel (contract §7).
#[derive(Clone, PartialEq, Eq)]
pub struct Resume {
    /// `WELCOME.session` of the connection before. Secret.
    pub session: String,
    /// By channel; the last of duplicates counts.
    pub positions: Vec<(String, SentPosition)>,
}

/// Without the session's name, which is a credential.
impl std::fmt::Debug for Resume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resume").field("positions", &self.positions).finish_non_exhaustive()
    }
}

/// An element of `CONNECT.subscribe` that is none; the others hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSubscribe {
    /// The channel that it names, where it does.
    pub channel: Option<String>,
    /// What is wrong with it, for a person.
    pub reason: String,
}

/// `CHANNEL_SUBSCRIBE`, and each element of `CONNECT.subscribe` (contract §3).
#[derive(Debug)]
pub struct Subscribe {
    /// A name or a pattern.
    pub channel: String,
    /// The client's filter expression.
    pub filter: Option<String>,
    /// The client's area of interest.
    pub area: Option<SentArea>,
}

/// An area of interest, and where its parts are in what the client sent.
pub struct SentArea {
    json: Box<RawValue>,
    /// Where values begin in the JSON text and in MessagePack, from the area's beginning; empty: it was sent as JSON.
    places: Box<[(u32, u32)]>,
}

/// What it means, which is the same in both encodings.
impl std::fmt::Debug for SentArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.json.fmt(f)
    }
}

impl SentArea {
    /// As it was sent, in JSON; or, with places, translated from MessagePack.
    pub(crate) fn new(json: Box<RawValue>, places: Box<[(u32, u32)]>) -> Self {
        SentArea { json, places }
    }

    /// One that no client sent in this form: its places are those of the JSON text.
    pub fn from_json(json: Box<RawValue>) -> Self {
        SentArea::new(json, Box::default())
    }

    /// Its JSON text.
    pub fn get(&self) -> &str {
        self.json.get()
    }

    /// Where the value that begins at this byte of the JSON text begins in the client's message, in bytes from the area's
    /// beginning. A place of no known value is that of the whole area, 0.
    pub fn sent_at(&self, json_at: usize) -> usize {
        if self.places.is_empty() {
            return json_at;
        }
        let place = self.places.iter().find(|(at, _)| *at as usize == json_at);
        place.map_or(0, |(_, sent)| *sent as usize)
    }
}

/// `FILTER_UPDATE` (contract §5): the outer `Option` is "absent, stays", the inner "null, removes".
#[derive(Debug)]
pub struct FilterUpdate {
    /// The subscription to change.
    pub channel: String,
    /// The new filter.
    pub filter: Option<Option<String>>,
    /// The new area.
    pub area: Option<Option<SentArea>>,
}

/// `PUBLISH_EVENT` (contract §4).
#[derive(Debug)]
pub struct Publish {
    /// The channel to publish on.
    pub channel: String,
    /// The event's name.
    pub event: String,
    /// Valid JSON, at most [`MAX_DATA_DEPTH`] deep; `null` where absent. Byte for byte what the client sent.
    pub data: Box<RawValue>,
    /// Whether `data` as a whole was `bin` in MessagePack: then it is base64 text here.
    pub is_base64: bool,
    /// The entity's key, where the client names one.
    pub key: Option<String>,
    /// For a safe repeat on logged channels and rooms.
    pub idempotency_key: Option<String>,
}

/// A server's messages, except for events (see [`crate::event`]), which are encoded once for all who see them.
#[derive(Debug)]
pub enum ServerMessage<'a> {
    /// `WELCOME`
    Welcome(Welcome<'a>),
    /// `CHANNEL_SUBSCRIBED`
    Subscribed {
        /// Of the request; absent for a service's or the server's own.
        id: Option<&'a RequestId>,
        /// What was subscribed.
        subscription: SubscriptionInfo<'a>,
        /// `"by":"server"`: a service did it.
        by_server: bool,
    },
    /// `CHANNEL_UNSUBSCRIBED`
    Unsubscribed {
        /// Of the request.
        id: Option<&'a RequestId>,
        /// The name or pattern.
        channel: &'a str,
        /// `client`, `server`, `forbidden`.
        reason: &'a str,
        /// `"by":"server"`: a service did it.
        by_server: bool,
    },
    /// `FILTER_UPDATED`: later events are filtered by the new view.
    FilterUpdated {
        /// Of the request.
        id: &'a RequestId,
        /// The name or pattern.
        channel: &'a str,
    },
    /// `VIEW_LEAVE`
    ViewLeave {
        /// The entity channel.
        channel: &'a str,
        /// The entities that are no longer shown.
        keys: &'a [&'a str],
        /// `view` or `removed`.
        reason: &'a str,
    },
    /// `EVENT_PUBLISHED`
    Published {
        /// Of the request.
        id: &'a RequestId,
        /// The channel.
        channel: &'a str,
        /// The entry's place, for logged events.
        offset: Option<u64>,
        /// Redis is away: it was delivered on this node alone.
        is_local: bool,
    },
    /// `TOKEN_REFRESHED`
    TokenRefreshed {
        /// Of the request.
        id: &'a RequestId,
        /// Unix milliseconds; absent for a token without `exp`.
        expires_ms: Option<u64>,
    },
    /// `PONG`
    Pong {
        /// Of the request.
        id: &'a RequestId,
        /// Echoed.
        t: Option<&'a RawValue>,
        /// Unix milliseconds.
        server_time_ms: u64,
    },
    /// `STATUS`
    Status {
        /// `ok` or `degraded`.
        broker: &'a str,
    },
    /// `RESYNC`
    Resync {
        /// The channel or pattern on which something may be missing.
        channel: &'a str,
        /// `gap`, `epoch`, `broker`, `slow_consumer`, `too_large`.
        reason: &'a str,
        /// Absent for a pattern.
        epoch: Option<&'a str>,
        /// Absent for a pattern.
        offset: Option<u64>,
    },
    /// `PRESENCE`: a page of who is present on a channel.
    Presence(PresenceList<'a>),
    /// `PRESENCE_CHANGED`: players came to a channel, and left it.
    PresenceChanged {
        /// The channel.
        channel: &'a str,
        /// Players who are present now, and were not.
        joined: &'a [&'a str],
        /// Players who were present, and are no longer.
        left: &'a [&'a str],
        /// Changes were missed: what the client knows of the channel's presence is void.
        reset: bool,
    },
    /// `POSITION`: the client has been shown, or hidden from, everything up to here.
    Position {
        /// The real channel.
        channel: &'a str,
        /// The log's epoch.
        epoch: &'a str,
        /// The last event's offset.
        offset: u64,
    },
    /// `GOODBYE`
    Goodbye {
        /// `drain`.
        reason: &'a str,
        /// When this client should reconnect.
        reconnect_in_ms: u64,
    },
    /// `ERROR`
    Error(ErrorMessage<'a>),
}

/// `WELCOME` (contract §2).
#[derive(Debug)]
pub struct Welcome<'a> {
    /// Of the `CONNECT`, if there was one with an id.
    pub id: Option<&'a RequestId>,
    /// This connection's name.
    pub connection: &'a str,
    /// The session's secret name.
    pub session: &'a str,
    /// Whether a session was taken up.
    pub resumed: bool,
    /// The player id.
    pub player: &'a str,
    /// The node's name.
    pub node: &'a str,
    /// Unix milliseconds.
    pub server_time_ms: u64,
    /// How often the server pings.
    pub heartbeat_ms: u64,
    /// How long the session outlives its connection.
    pub resume_window_ms: u64,
    /// `limits.message_bytes`.
    pub message_bytes: u64,
    /// `limits.subscriptions`.
    pub subscriptions_limit: u64,
    /// What is subscribed already, or pending.
    pub subscriptions: Vec<SubscriptionInfo<'a>>,
}

/// `PRESENCE` (contract §8).
#[derive(Debug)]
pub struct PresenceList<'a> {
    /// Of the request.
    pub id: &'a RequestId,
    /// The channel.
    pub channel: &'a str,
    /// The players of this page with the number of their connections, in the order of player ids.
    pub players: &'a [(&'a str, u64)],
    /// How many players are present on all pages.
    pub total: u64,
    /// Where the following page begins, as `after`; `None`: this is the last.
    pub next: Option<&'a str>,
}

/// One subscription as `CHANNEL_SUBSCRIBED` and `WELCOME.subscriptions` show it.
#[derive(Debug, Clone)]
pub struct SubscriptionInfo<'a> {
    /// The name or pattern.
    pub channel: &'a str,
    /// From a template of the configuration.
    pub auto: bool,
    /// Redis has not confirmed it yet.
    pub pending: bool,
    /// `channel` is a pattern (then there is no epoch and no offset).
    pub pattern: bool,
    /// The count's life, for a channel.
    pub epoch: Option<&'a str>,
    /// The last event's number, for a channel; of one that has recovered, the number behind which events follow.
    pub offset: Option<u64>,
    /// In the `WELCOME` of a session that was resumed: whether nothing is missing. `None`: not reported.
    pub recovered: Option<bool>,
}

/// `ERROR` (contract §8).
#[derive(Debug, Clone)]
pub struct ErrorMessage<'a> {
    /// Of the request, if it had one.
    pub id: Option<&'a RequestId>,
    /// The code.
    pub code: ErrorCode,
    /// For a person.
    pub message: &'a str,
    /// The channel concerned.
    pub channel: Option<&'a str>,
    /// For `RATE_LIMITED`, and for the `UNAUTHENTICATED` of a token that is not valid yet.
    pub retry_after_ms: Option<u64>,
    /// For `BROKER_UNAVAILABLE`: `not_done` or `unknown`.
    pub outcome: Option<&'a str>,
    /// For `REJECTED`: the logic's word.
    pub reason: Option<&'a str>,
    /// For `FILTER_INVALID`: byte offset into the expression.
    pub position: Option<u64>,
    /// For `FILTER_INVALID`: what would be right.
    pub hint: Option<&'a str>,
}

impl<'a> ErrorMessage<'a> {
    /// An error with nothing but a code and a text.
    pub fn new(code: ErrorCode, message: &'a str) -> Self {
        ErrorMessage {
            id: None,
            code,
            message,
            channel: None,
            retry_after_ms: None,
            outcome: None,
            reason: None,
            position: None,
            hint: None,
        }
    }
}

/// A whole WebSocket frame, ready to be written; shared by all sockets that it goes to.
pub type Frame = Bytes;
