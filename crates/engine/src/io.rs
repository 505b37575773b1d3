//! Everything that enters and leaves the core. [`Input`] and [`Output`] are one shard's engine; [`BrokerCommand`]
//! and [`BrokerEvent`] are what a shard and the broker say to each other, whichever broker it is.
//! The hub's two enums are in [`crate::upstream`], an event as the node holds it is in `publication.rs`; what these name is
//! defined in small files (`ids`, `subject`, `position`, `query`, `write`) that know nothing of this one.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use drawbridge_protocol::websocket::Window;
use drawbridge_protocol::{CloseCode, Encoding, ErrorCode, Frame};

pub use crate::class::WhenDown;
pub use crate::ids::{ConnId, SessionId, Ticket};
pub use crate::player_slots::Holder;
pub use crate::position::{ChannelPosition, Epoch, LocalOffset, LogPosition, LoggedOffset, Position};
pub use crate::presence::changes::PresenceChange;
pub use crate::publication::{EntityChange, InLog, Publication, Sender, Version};
pub use crate::query::{
    Answer, Answered, Answerer, ClaimedSession, LiveNode, LogReader, PlayerOverrides, PresencePage, Query,
    QueryKind,
};
pub use crate::question::{MAX_CHANNELS, Question, QuestionKind};
pub use crate::secret::{SessionHash, SessionSecret};
pub(crate) use crate::subject::SubjectRef;
pub use crate::subject::{Subject, SubjectKind};
pub use crate::upstream::BarrierToken;
use crate::upstream::StoredLog;
pub use crate::write::{
    Commit, LogEntry, MAX_IDEMPOTENCY_KEY_BYTES, MAX_SESSION_BYTES, NewOwner, Outcome, Owner, PublishFailure,
    Write, WriteKind, once_of,
};

/// The two clocks, read once per turn by whoever drives the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds that never go back; for deadlines and rate limits.
    pub mono_ms: u64,
    /// Unix milliseconds; for `ts`, `server_time_ms` and token expiry.
    pub unix_ms: u64,
}

/// How frames are made for one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// By sub-protocol.
    pub encoding: Encoding,
    /// Present if the handshake agreed on compression: what the client's inflater holds.
    pub deflate: Option<Window>,
}

/// Text or binary: the two kinds of WebSocket data messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A text message.
    Text,
    /// A binary message.
    Binary,
}

/// What happens to a shard's engine.
#[derive(Debug)]
pub enum Input<'a> {
    /// A socket finished its handshake.
    Opened(Opened),
    /// A whole data message came in; never over `message_bytes`.
    Message {
        /// The connection that sent it.
        conn: ConnId,
        /// Which kind of WebSocket message.
        kind: MessageKind,
        /// Its payload; text is UTF-8.
        payload: &'a [u8],
        /// What it cost to receive, in bytes, where that is more than the payload: compressed blocks or fragments that say little.
        cost_bytes: u64,
    },
    /// A message over `message_bytes` was discarded.
    Oversized {
        /// The connection that sent it.
        conn: ConnId,
        /// What it cost to receive, in bytes.
        cost_bytes: u64,
    },
    /// A WebSocket ping came in; it is answered by a pong.
    Ping {
        /// The connection that sent it.
        conn: ConnId,
        /// To be sent back; at most 125 bytes.
        payload: &'a [u8],
    },
    /// A WebSocket pong came in.
    Pong {
        /// The connection that sent it.
        conn: ConnId,
    },
    /// The socket took only a part; `unsent` are the frames it has not begun. `Writable` follows.
    Blocked {
        /// The connection.
        conn: ConnId,
        /// Whole frames, in order, given back.
        unsent: Vec<Frame>,
    },
    /// A blocked socket takes bytes again.
    Writable {
        /// The connection.
        conn: ConnId,
    },
    /// The socket is gone: the client closed it, or it broke.
    Closed {
        /// The connection.
        conn: ConnId,
        /// The code that the client sent or that the codec gave, 1006 where there was none.
        code: u16,
    },
    /// The answer to [`Output::Authenticate`].
    Authenticated {
        /// The connection that presented it.
        conn: ConnId,
        /// The claims, or what is wrong with the token.
        result: Result<Claims, AuthFailure>,
    },
    /// The broker said something.
    Broker(BrokerEvent),
    /// The player has too many connections, and this is the oldest: the answer to [`Output::Displace`] of any shard.
    Displaced {
        /// Which session.
        session: SessionId,
    },
    /// Of a player's sessions too many are detached, and this is the oldest: the answer to [`Output::EndDetached`] of any
    /// shard.
    DetachedTooMany {
        /// Which session.
        session: SessionId,
    },
    /// Say goodbye to everyone within this time, then close.
    Drain {
        /// Milliseconds over which the closes are spread.
        window_ms: u64,
    },
    /// Nothing happened but time.
    Tick,
}

/// How far the engine trusts a connection, which bounds what the shell decodes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no such connection: it never was, or is closed.
    Gone,
    /// No token of it was accepted yet.
    Unauthenticated,
    /// It is a known player.
    Authenticated,
}

/// A socket that finished its handshake.
#[derive(Debug)]
pub struct Opened {
    /// Its name in this shard, chosen by the shell.
    pub conn: ConnId,
    /// The public name of the connection, random.
    pub connection: u64,
    /// The secret name of the session, random.
    pub session: u128,
    /// By sub-protocol.
    pub encoding: Encoding,
    /// The handshake agreed on compression; what the client's inflater holds.
    pub deflate: Option<Window>,
    /// The client's address, as trusted proxies say.
    pub address: IpAddr,
    /// The token of the upgrade, already judged; `None` where there was none.
    pub token: Option<Result<Claims, AuthFailure>>,
    /// The URL said `?connect=1`: wait for `CONNECT` even with a good token.
    pub wait_for_connect: bool,
    /// There is room for it only in place of the detached session that it resumes.
    pub must_resume: bool,
}

/// Who a token says the player is. The claims stay the JSON text they came as: they are read seldom.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The player id: `sub`, or the claim that the configuration names.
    pub player: Arc<str>,
    /// `exp`, in Unix milliseconds.
    pub expires_unix_ms: Option<u64>,
    /// All claims, a JSON object.
    pub json: Arc<str>,
}

impl Claims {
    /// The claims of the anonymous player of this name.
    pub(crate) fn anonymous(name: &str) -> Self {
        let player: Arc<str> = name.into();
        let json = format!(r#"{{"sub":"{player}","anonymous":true}}"#).into();
        Claims { player, expires_unix_ms: None, json }
    }
}

/// What is wrong with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFailure {
    /// `UNAUTHENTICATED`, `TOKEN_EXPIRED`, or `INTERNAL` where the token could not be verified.
    pub code: ErrorCode,
    /// For a person; never holds the token.
    pub message: String,
    /// The same token becomes valid in so many milliseconds; `None`: it never will.
    pub retry_after_ms: Option<u64>,
}

impl AuthFailure {
    /// A fault that waiting does not mend.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        AuthFailure { code, message: message.into(), retry_after_ms: None }
    }
}

/// What a shard's engine wants done.
#[derive(Debug)]
pub enum Output {
    /// Write these frames, in one write. Emitted once per turn and connection, and not again between
    /// [`Input::Blocked`] and [`Input::Writable`].
    Write {
        /// The connection.
        conn: ConnId,
        /// Whole frames, in order.
        frames: Vec<Frame>,
    },
    /// Write what is left and a close frame, then end the connection. The engine has forgotten it already.
    Close {
        /// The connection.
        conn: ConnId,
        /// Whole frames to write first.
        frames: Vec<Frame>,
        /// The close code.
        code: CloseCode,
        /// The close reason; the shell cuts it to what a close frame holds.
        reason: Cow<'static, str>,
    },
    /// Judge this token; [`Input::Authenticated`] answers.
    Authenticate {
        /// Whose.
        conn: ConnId,
        /// The JWT. Secret.
        token: String,
    },
    /// Close this connection of whichever shard of the node: [`Input::Displaced`] there.
    Displace(Holder),
    /// End this session of whichever shard of the node, unless it has a connection again: [`Input::DetachedTooMany`] there.
    EndDetached(Holder),
    /// Tell the broker.
    Broker(BrokerCommand),
    /// Tell the operator.
    Notice(Notice),
}

/// What an operator should read in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A player lacks the right to what was requested (`FORBIDDEN`).
    AccessDenied {
        /// The player.
        player: Arc<str>,
        /// The `type` of the request.
        request: &'static str,
        /// The channel or pattern.
        channel: String,
        /// The class and the rule; and, if the rule compares a text with a number, which are never equal, what would be right.
        why: String,
    },
    /// A template's claim value was not fit for a channel name.
    ClaimSkipped {
        /// The player.
        player: Arc<str>,
        /// The template.
        template: String,
        /// The claim's name.
        claim: String,
        /// Why.
        reason: &'static str,
    },
    /// Redis refuses to return a player's view overrides.
    OverridesRefused {
        /// The player.
        player: Arc<str>,
        /// The error that Redis returned.
        reason: String,
        /// Nothing new is shown to the player until Redis tells; else the classes' views alone hold.
        withheld: bool,
    },
    /// A token was refused, or none came in time.
    TokenRefused {
        /// Of which address.
        address: IpAddr,
        /// As the client was answered.
        code: ErrorCode,
        /// What is wrong with it.
        reason: String,
    },
    /// Redis refused a subscription.
    SubscriptionRefused {
        /// The channel or pattern.
        subject: Arc<str>,
        /// The error that Redis returned.
        reason: String,
    },
}

/// What a shard wants of the broker.
#[derive(Debug)]
pub enum BrokerCommand {
    /// This shard has a first subscriber.
    Want(Subject),
    /// This shard's last subscriber left.
    Unwant(Subject),
    /// The shard's table of this entity channel has a gap: [`BrokerEvent::Table`] sends all of it again.
    Refresh(Subject),
    /// The shard needs the logged events of this channel behind this offset: [`BrokerEvent::Replay`] sends a page of them.
    CatchUp {
        /// The real channel, which the shard wants by its name or by a pattern.
        channel: Arc<str>,
        /// The last one that it has.
        after: LoggedOffset,
    },
    /// Read something; [`BrokerEvent::Answer`] answers it.
    Query(Query),
    /// Nobody waits any more for the answer to this query: it need not come.
    Withdraw(Ticket),
    /// Write something; [`BrokerEvent::Outcome`] answers it, if it has a ticket.
    Write(Write),
    /// The answer to [`BrokerEvent::Recover`]: the views of all the shard's players are known, or Redis refuses to return them.
    Recovered(BarrierToken),
}

/// What the broker tells a shard, in one queue: so a confirmation comes before the first event.
#[derive(Clone, Debug)]
pub enum BrokerEvent {
    /// Redis has confirmed the subscription; every later publication follows in this queue.
    Confirmed {
        /// Which.
        subject: Subject,
        /// Where the channel stands. Of a pattern it says nothing.
        position: ChannelPosition,
        /// It was live before and the link broke: something may be missing.
        after_break: bool,
    },
    /// The answer to [`BrokerCommand::Unwant`]: what was said of the subject before concerns the shard no more.
    Released(Subject),
    /// The link to Redis broke: not live until confirmed again.
    Interrupted(Subject),
    /// Redis refused the subscription; the broker has forgotten it.
    Refused {
        /// Which.
        subject: Subject,
        /// The error that Redis returned.
        reason: Arc<str>,
    },
    /// All entities of a channel, behind its [`BrokerEvent::Confirmed`] or a [`BrokerCommand::Refresh`]: what the
    /// shard knew of it is void.
    Table {
        /// The entity channel.
        channel: Arc<str>,
        /// The last event of each.
        entities: Arc<[Arc<Publication>]>,
    },
    /// Players have come to a channel, or left it.
    Presence {
        /// The channel of these notices ([`Reserved::presence_channel`](crate::settings::Reserved::presence_channel)).
        notices: Arc<str>,
        /// Who; `None`: changes were dropped on the way.
        change: Option<Arc<PresenceChange>>,
    },
    /// Entities that have outlived their last event.
    Expired {
        /// The entity channel.
        channel: Arc<str>,
        /// Their keys.
        keys: Arc<[Arc<str>]>,
    },
    /// The answer to a [`BrokerCommand::Query`].
    Answer {
        /// Which query.
        ticket: Ticket,
        /// The answer, or Redis' message.
        answer: Answered,
    },
    /// A service's command about a player; on the channel that it is about, in order with the events.
    Command(PlayerCommand),
    /// Commands may have been missed: the views of all players are to be read again.
    Recover {
        /// Commands about channels that are live were dropped on the way. Else they were missed with a link, and this
        /// comes before any subscription that the link lost is confirmed again.
        dropped: bool,
        /// What [`BrokerCommand::Recovered`] gives back; `None`: nobody waits.
        barrier: Option<BarrierToken>,
    },
    /// An event.
    Publication(Arc<Publication>),
    /// Events of this channel are missing: dropped on the way to this shard, or larger than a payload may be.
    Gap {
        /// The real channel.
        channel: Arc<str>,
        /// The last offset that is missing, in the node's count.
        position: Position,
        /// The first logged event that is missing, if any is.
        logged: Option<LogPosition>,
    },
    /// The live stream of a channel with `history` goes on elsewhere in its log.
    LogMoved {
        /// The real channel.
        channel: Arc<str>,
        /// Where it was.
        from: LogPosition,
        /// Behind this it goes on.
        to: LogPosition,
        /// Nothing is missing between them: another epoch goes on where the one before ended.
        is_whole: bool,
    },
    /// The answer to a [`BrokerCommand::CatchUp`].
    Replay(Arc<Replay>),
    /// The answer to a [`BrokerCommand::Write`].
    Outcome {
        /// Which write.
        ticket: Ticket,
        /// Redis has taken it, or why not.
        outcome: Outcome,
    },
    /// What the node had stored of its sessions and their presence may be gone: it is to be written again, spread over some
    /// seconds.
    StoreLost,
    /// A node wants to know something of all shards of all nodes.
    Question(Arc<Question>),
    /// Whether Redis is there.
    Status(BrokerStatus),
}

/// A page of a channel's log for a shard that needs it, at the place of its queue where the channel's live stream has come
/// to `live`: where the page ends there, too, every later event of the queue continues it.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The channel.
    pub channel: Arc<str>,
    /// What the log had, without events: what positions mean to it. `None`: it could not be read.
    pub log: Option<StoredLog>,
    /// The hub made the page of events that it has kept, up to `live`: what a position beyond that means the log is still to say.
    pub is_remembered: bool,
    /// All behind this offset is in the page, up to `end`, as far as the log still has it.
    pub after: LoggedOffset,
    /// The events, in order.
    pub events: Arc<[Arc<Publication>]>,
    /// Where the page ends.
    pub end: LogPosition,
    /// Where the live stream is.
    pub live: LogPosition,
}

impl Replay {
    /// The log could not be read: all that is waited for is missing.
    pub fn failed(channel: Arc<str>) -> Self {
        let (end, live) = Default::default();
        let (log, is_remembered, after) = (None, false, LoggedOffset(0));
        Replay { channel, log, is_remembered, after, events: [].into(), end, live }
    }

    /// The same without events, where there is no room for them: the shard requests it again.
    #[must_use]
    pub fn without_events(&self) -> Self {
        let end = LogPosition { offset: LoggedOffset(0), ..self.end };
        Replay { events: [].into(), end, ..self.clone() }
    }

    /// About what it holds in memory, in bytes.
    pub fn weight(&self) -> usize {
        self.events.iter().map(|event| event.weight()).sum::<usize>() + size_of::<Replay>()
    }
}

/// Whether Redis is there, all of it: links and commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerStatus {
    /// Everything works.
    Ok,
    /// Something is away that holds up only a part of all channels and players, as a master of a Redis Cluster does. What is
    /// requested about the others is done as ever.
    Partial,
    /// Something is away that holds up everything.
    Degraded,
}

impl BrokerStatus {
    /// The word of `STATUS` for clients. They do not learn how much is away: most of them need only one part.
    pub fn word(self) -> &'static str {
        match self {
            BrokerStatus::Ok => "ok",
            BrokerStatus::Partial | BrokerStatus::Degraded => "degraded",
        }
    }
}

/// What a service may command about a player (contract §9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlayerCommand {
    /// The player id.
    pub player: Arc<str>,
    /// What to do with all of the player's connections.
    pub action: PlayerAction,
}

/// See [`PlayerCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlayerAction {
    /// Subscribe them; rights are not asked.
    Subscribe {
        /// A channel, or a pattern of a class that allows patterns.
        channel: Arc<str>,
    },
    /// Unsubscribe them.
    Unsubscribe {
        /// As it was subscribed to.
        channel: Arc<str>,
    },
    /// Narrow what they are shown of a channel, beyond the class's view.
    View {
        /// The real channel.
        channel: Arc<str>,
        /// The expression, compiled by who reads it; `None`: no longer.
        view: Option<Arc<str>>,
    },
    /// One of the player's sessions was claimed by another node: it is closed with 4505 wherever else it is. Sent between
    /// nodes only.
    TakenOver {
        /// Which session.
        session: SessionHash,
        /// The generation of that claim: whoever has a lower one has lost the session.
        generation: u64,
        /// Which start of a node claimed it ([`Settings::instance`](crate::settings::Settings::instance)).
        node: Arc<str>,
    },
    /// Close them with 4502.
    Disconnect {
        /// For the lifecycle stream.
        reason: Option<Arc<str>>,
    },
}
