//! One session: who it is, how far it has come, what it is subscribed to, the order of its requests, and its deadlines.
//! What waits for it belongs to its [`Outbox`], its socket to its [`Link`]. What happens to it is decided in
//! [`crate::engine`].
//!
//! ```text
//!   Connecting ──CONNECT or a good token──▶ Joining ──confirmed, or too late──▶ Open
//!       │ CONNECT.resume                      ▲ │                                │
//!       ▼                        its return ┌─┘ │ close queued: nothing more is sent to it or read from it
//!   Returning: at the end of `handle`       │   ▼                                ▼
//!   its connection is the session's ───▶ Detached ◀──lost, at the end of──── Closing ──ended──▶ gone
//!                                           │         `handle`                   ▲
//!                                           └── ended, or its window has passed ─┘
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use drawbridge_protocol::{
    BadSubscribe, Encoding, Frame, Request, RequestId, Resume, SentPosition, Subscribe,
};
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use crate::access::AccessCache;
use crate::address_slots::AddressSlot;
use crate::connecting::ConnectPlace;
use crate::io::{Claims, Format, Opened, SessionHash, SessionId, SessionSecret, Ticket};
use crate::link::Link;
use crate::outbox::Outbox;
use crate::rate_limit::Account;
use crate::shown_logs::ShownLogs;
use crate::targets::TargetId;
use crate::view_overrides::ViewOverrides;

/// What the names of anonymous players begin with; the public name of their first connection follows.
pub(crate) const ANONYMOUS_PREFIX: &str = "anonymous-";

/// One session of this shard. Invariant: it stays in the engine's table, whatever happens to it, until the end of the
/// `handle` in which its close was queued.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) phase: Phase,
    /// Its socket; `None` while it is detached.
    pub(crate) link: Option<Link>,
    /// Everything that waits to be sent.
    pub(crate) outbox: Outbox,
    /// Its outbox is flushed at the end of the turn: it is in the engine's list.
    pub(crate) is_dirty: bool,
    /// Its outbox goes on behind those of all others.
    pub(crate) is_unfinished: bool,
    /// The page of history that it waits for.
    pub(crate) history: Option<Ticket>,
    /// Channels with history that it catches up on; `None`: none.
    pub(crate) catching_up: Option<Box<CatchingUp>>,
    /// The last publication that was decided for it, so that overlapping subscriptions deliver once.
    pub(crate) last_seq: u64,
    /// Public name of the connection, random.
    pub(crate) public: u64,
    /// Secret name of the session, random.
    pub(crate) secret: SessionSecret,
    /// What names the session to everybody but its client.
    pub(crate) hash: SessionHash,
    /// Where it came from.
    pub(crate) address: IpAddr,
    /// It came without a token, and its player's name was made for it.
    pub(crate) anonymous: bool,
    /// Who it is; known from `Joining` on, or earlier with a token on the upgrade.
    pub(crate) claims: Option<Claims>,
    pub(crate) subscriptions: Vec<Subscription>,
    /// How many of them are patterns.
    pub(crate) patterns: usize,
    /// What it may see of the channels that came through patterns.
    pub(crate) access: Option<Box<AccessCache>>,
    /// The channels with history that it was shown through patterns.
    pub(crate) shown_logs: Option<Box<ShownLogs>>,
    /// Its view overrides.
    pub(crate) overrides: ViewOverrides,
    /// Automatic channels that its client has left.
    pub(crate) left: Option<Box<HashSet<Arc<str>>>>,
    /// Counts the claims of the session: whoever has a lower one has lost it.
    pub(crate) generation: u64,
    /// How far its record in the store is.
    pub(crate) record: RecordState,
    /// The node's other shards find it by its hash: it was welcomed, and may be resumed.
    pub(crate) is_listed: bool,
    /// There is room for its connection only in place of a session that it resumes.
    pub(crate) must_resume: bool,
    /// While it is detached it counts for the address that it came from.
    pub(crate) slot: Option<Box<AddressSlot>>,
    /// What waits for it as long as it holds its events, as counted for the node, in bytes.
    pub(crate) held_bytes: usize,
    /// Its place among those that connect.
    pub(crate) connect_place: ConnectPlace,
    /// A token is being verified, or the session waits for a place: later requests wait.
    pub(crate) pending_token: Option<Box<PendingToken>>,
    /// Requests that wait for something before them, in order.
    pub(crate) deferred: Option<Box<Deferred>>,
    /// It was not notified of players who came or left: some of its subscribers say so.
    pub(crate) missed_presence: bool,
    /// What it publishes; `None` for who never did.
    pub(crate) publishing: Option<Box<Publishing>>,
    /// Its deadlines, in monotonic milliseconds.
    pub(crate) deadlines: Deadlines,
}

/// How far a session's record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordState {
    /// The outcome of a save is out.
    pub(crate) is_saving: bool,
    /// It had changed when the session's close was queued: if the session is detached, it is written at once.
    pub(crate) has_changed: bool,
    /// The claim of this connection, which is out.
    pub(crate) claim: Option<Ticket>,
    /// Another node or shard has claimed the session: here it ends, and lives on there.
    pub(crate) is_moved: bool,
    /// Whether the session is known to be this node's.
    pub(crate) ownership: Ownership,
}

/// Whether a session that this node has is still its own.
///
/// Why it may not be: a connection that resumes its session where it is does not wait for Redis. Another node may have claimed the
/// session meanwhile, and that announcement may be late. So until a save that was sent since is acknowledged, a claim counts as
/// older than the connection, which is closed with a code on which clients reconnect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// No other claim was older than its connection.
    #[default]
    Known,
    /// Its connection has resumed it here.
    Assumed,
    /// So it has, and a save was written since.
    Checking,
}

/// How far a session has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waiting for `CONNECT`.
    Connecting,
    /// Known, subscribing what it starts with.
    Joining(Box<Joining>),
    /// `WELCOME` was sent.
    Open,
    /// Its connection was lost, and another one may resume it until its window has passed.
    Detached,
    /// It is a connection alone, which resumes a session: at the end of the current input it becomes that session's.
    Returning(Box<Returning>),
    /// Its close is queued: it is detached or forgotten at the end of the current input.
    Closing(Before),
}

/// What a session was before it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// `WELCOME` was not sent yet.
    Welcome,
    /// It was open.
    Open,
    /// It was detached, or about to be resumed.
    Detached,
}

impl Phase {
    /// From `Joining` to `Open`. Returns what `WELCOME` waited for; `None` where it was sent already or will not be.
    pub(crate) fn open(&mut self) -> Option<Box<Joining>> {
        match std::mem::replace(self, Phase::Open) {
            Phase::Joining(joining) => Some(joining),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// What `WELCOME` waits for.
#[derive(Debug)]
pub(crate) struct Joining {
    /// The id of the `CONNECT`.
    pub(crate) id: Option<RequestId>,
    /// Subscriptions not confirmed yet.
    pub(crate) unconfirmed: usize,
    /// Errors of `CONNECT.subscribe`, sent behind `WELCOME`.
    pub(crate) errors: Vec<Frame>,
    /// Subscriptions that were refused with `RATE_LIMITED`.
    pub(crate) limited: u64,
    /// It returns: what is to be said of what it had.
    pub(crate) resumed: Option<Resumed>,
}

impl Joining {
    /// `unconfirmed` starts at 1, so that `WELCOME` is not sent before everything is requested. `positions`: how far the client of a
    /// returning session has read each channel.
    pub(crate) fn new(id: Option<RequestId>, positions: Option<Vec<(String, SentPosition)>>) -> Self {
        let resumed = positions.map(|positions| Resumed {
            positions,
            stored: Vec::new(),
            forbidden: Vec::new(),
            logged: Vec::new(),
        });
        Joining { id, unconfirmed: 1, errors: Vec::new(), limited: 0, resumed }
    }
}

/// What `WELCOME` says of a session that returns, and what follows it.
#[derive(Debug)]
pub(crate) struct Resumed {
    /// How far its client has read each channel.
    pub(crate) positions: Vec<(String, SentPosition)>,
    /// The subscriptions that it had; of others nothing is recovered.
    pub(crate) stored: Vec<TargetId>,
    /// Subscriptions that the new token does not allow.
    pub(crate) forbidden: Vec<Arc<str>>,
    /// Channels with history on which it catches up: the subscription, and what the log says of its position.
    pub(crate) logged: Vec<(TargetId, Option<bool>)>,
}

/// What a `CONNECT` says, beside its token.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    /// The id of the `CONNECT`.
    pub(crate) id: Option<RequestId>,
    /// The client's own subscriptions; `None`: those of the session that it resumes.
    pub(crate) subscribe: Option<Vec<Result<Subscribe, BadSubscribe>>>,
    pub(crate) resume: Option<Resume>,
}

/// A connection whose player is known, and which resumes a session.
#[derive(Debug)]
pub(crate) struct Returning {
    pub(crate) arrival: Arrival,
    /// Of an anonymous player, those for a new one.
    pub(crate) claims: Claims,
}

/// A token on its way to be judged, and what to do then.
#[derive(Debug)]
pub(crate) enum PendingToken {
    /// It came in `CONNECT`.
    Connect(Arrival),
    /// It came in `TOKEN_REFRESH`.
    Refresh { id: Option<RequestId> },
}

impl PendingToken {
    /// Whether it resumes a session.
    pub(crate) fn resumes(&self) -> bool {
        matches!(self, PendingToken::Connect(arrival) if arrival.resume.is_some())
    }

    /// The request that it came in.
    pub(crate) fn request(self) -> Option<RequestId> {
        match self {
            PendingToken::Connect(arrival) => arrival.id,
            PendingToken::Refresh { id } => id,
        }
    }
}

/// Requests that wait, bounded in number and bytes.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    pub(crate) requests: Vec<Waiting>,
    pub(crate) bytes: usize,
}

/// A request that waits, and what it counts for.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: Request,
    pub(crate) bytes: usize,
    /// The claims that held when it was sent; `None` while a token sent before it is being judged.
    pub(crate) claims: Option<Claims>,
}

/// What a connection has published, as long as it may not have come back.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    /// Publishes whose answer is out, and fences behind their events; with the channel.
    pub(crate) in_flight: VecDeque<(Ticket, Arc<str>)>,
    /// Channels of the last that were answered: their events may still be on their way here.
    pub(crate) answered: Vec<Arc<str>>,
}

/// The channels whose live logged events a session is not shown, because it must first be sent what it missed.
#[derive(Debug, Default)]
pub(crate) struct CatchingUp {
    /// The real channels on which it catches up.
    pub(crate) channels: BTreeSet<Arc<str>>,
    /// All channels with history, because it is detached.
    pub(crate) all: bool,
}

/// One subscription of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    pub(crate) target: TargetId,
    /// The place in the target's subscribers.
    pub(crate) slot: u32,
    pub(crate) origin: Origin,
}

/// Why a session has a subscription. Its form in JSON is that of session records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// A template of the configuration.
    Auto,
    /// The client.
    Client,
    /// A service.
    Server,
}

/// When each check of a session is next made; 0 means never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadlines {
    /// `CONNECT` must have come; or, while joining, `WELCOME` goes out with what is still pending; or the window of a
    /// detached session has passed.
    pub(crate) phase_ms: u64,
    pub(crate) heartbeat_ms: u64,
    pub(crate) expiry_ms: u64,
    pub(crate) drain_ms: u64,
    /// The view overrides are to be requested again.
    pub(crate) overrides_ms: u64,
    /// A page of history has not come in time.
    pub(crate) history_ms: u64,
    /// Its record is to be written.
    pub(crate) record_ms: u64,
    /// What was owed for work is paid: the session goes on catching up.
    pub(crate) catch_up_ms: u64,
    /// Something due leaves.
    pub(crate) flush_ms: u64,
    /// The one entry in the engine's timers.
    pub(crate) armed_ms: u64,
}

impl Deadlines {
    /// The earliest, or 0.
    pub(crate) fn earliest(&self) -> u64 {
        [
            self.phase_ms,
            self.heartbeat_ms,
            self.expiry_ms,
            self.drain_ms,
            self.overrides_ms,
            self.history_ms,
            self.record_ms,
            self.catch_up_ms,
            self.flush_ms,
        ]
        .into_iter()
        .filter(|at| *at > 0)
        .min()
        .unwrap_or(0)
    }
}

impl Session {
    /// A session of a socket that just finished its handshake.
    pub(crate) fn new(id: SessionId, opened: &Opened, deadlines: Deadlines, outbound_bytes: usize) -> Self {
        let format = Format { encoding: opened.encoding, deflate: opened.deflate };
        Session {
            id,
            phase: Phase::Connecting,
            link: Some(Link::new(opened.conn)),
            outbox: Outbox::new(outbound_bytes, format),
            is_dirty: false,
            is_unfinished: false,
            history: None,
            catching_up: None,
            last_seq: 0,
            public: opened.connection,
            secret: SessionSecret(opened.session),
            hash: SessionSecret(opened.session).hash(),
            address: opened.address,
            anonymous: false,
            claims: None,
            subscriptions: Vec::new(),
            patterns: 0,
            access: None,
            shown_logs: None,
            overrides: ViewOverrides::default(),
            connect_place: ConnectPlace::None,
            left: None,
            generation: 1,
            record: RecordState::default(),
            is_listed: false,
            must_resume: opened.must_resume,
            slot: None,
            held_bytes: 0,
            pending_token: None,
            deferred: None,
            missed_presence: false,
            publishing: None,
            deadlines,
        }
    }

    /// Whether nothing can be written now: its socket is full, or it is detached.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.is_blocked)
    }

    /// Whether its close is queued.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }

    /// Whether something may be sent to it. Why not to a detached session: whatever it is about, `WELCOME` says how it is
    /// when the client returns.
    #[inline]
    pub(crate) fn takes_frames(&self) -> bool {
        !matches!(self.phase, Phase::Closing(_) | Phase::Detached)
    }

    /// How its frames are encoded.
    #[inline]
    pub(crate) fn encoding(&self) -> Encoding {
        self.outbox.format().encoding
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether live events of this channel, which has a log, are not for it now.
    #[inline]
    pub(crate) fn is_catching_up(&self, channel: &Arc<str>) -> bool {
        self.catching_up.as_ref().is_some_and(|behind| behind.all || behind.channels.contains(channel))
    }

    /// Whether it is detached, or returns and `WELCOME` is still to come: events wait in its outbox, and nothing is sent.
    pub(crate) fn holds_events(&self) -> bool {
        match &self.phase {
            Phase::Detached => true,
            Phase::Joining(joining) => joining.resumed.is_some(),
            Phase::Connecting | Phase::Open | Phase::Returning(_) | Phase::Closing(_) => false,
        }
    }

    /// What is to be said of it when it returns, until `WELCOME` is sent.
    pub(crate) fn resumed_mut(&mut self) -> Option<&mut Resumed> {
        match &mut self.phase {
            Phase::Joining(joining) => joining.resumed.as_mut(),
            _ => None,
        }
    }

    /// The player id, once it is known.
    pub(crate) fn player(&self) -> Option<&Arc<str>> {
        self.claims.as_ref().map(|claims| &claims.player)
    }

    /// Whose shared buckets it draws from; `None` until its player is known.
    pub(crate) fn account(&self) -> Option<Account> {
        let player = self.player()?.clone();
        Some(if self.anonymous { Account::Address(self.address) } else { Account::Player(player) })
    }

    pub(crate) fn subscription(&self, target: TargetId) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.target == target)
    }

    /// The place of a subscription that it holds among the target's subscribers.
    pub(crate) fn slot_of(&self, target: TargetId) -> u32 {
        let at = self.subscriptions.iter().position(|subscription| subscription.target == target);
        debug_assert!(at.is_some(), "{:?} holds no subscription of {target:?}", self.id);
        self.subscriptions[at.unwrap_or(usize::MAX)].slot
    }

    /// The place of one of its subscriptions among the target's subscribers has changed.
    pub(crate) fn set_slot(&mut self, target: TargetId, slot: u32) {
        let held = self.subscriptions.iter_mut().find(|subscription| subscription.target == target);
        debug_assert!(held.is_some(), "a subscriber without a subscription");
        if let Some(held) = held {
            held.slot = slot;
        }
    }

    /// The connection's public name.
    pub(crate) fn public_name(&self) -> String {
        format!("{:016x}", self.public)
    }

    /// What names the session in the store.
    pub(crate) fn hash(&self) -> SessionHash {
        self.hash
    }

    /// Counts the claims of the session: whoever has a lower one has lost it.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The session's name: whoever knows it and the player's token may resume the session. An anonymous player has no token:
    /// its name is a part of the session's, so that any node can look the session up.
    pub(crate) fn session_name(&self) -> String {
        let mut name = self.secret.reveal();
        if let Some(player) = self.player().filter(|_| self.anonymous) {
            name += player.strip_prefix(ANONYMOUS_PREFIX).unwrap_or_default();
        }
        name
    }
}
