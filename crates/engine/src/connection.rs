//! One connection's own state: who it is, how far it has come, what it is subscribed to, and what waits for it.
//! What happens to it is decided in [`crate::engine`] and its neighbours.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use drawbridge_protocol::websocket::Window;
use drawbridge_protocol::{BadSubscribe, Encoding, Frame, Request, RequestId, Subscribe};
use hashbrown::HashMap;

use crate::access::AccessCache;
use crate::class::ClassId;
use crate::expr::Expr;
use crate::io::{Claims, ConnId, Opened, Ticket};
use crate::outbox::Outbox;
use crate::rate_limit::{Account, Bucket};
use crate::targets::TargetId;

/// One connection of this shard.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) phase: Phase,
    pub(crate) encoding: Encoding,
    /// It inflates; what its inflater holds.
    pub(crate) deflate: Option<Window>,
    /// The longest message that the client takes, in bytes; `None`: what the channel's class says.
    pub(crate) max_message_bytes: Option<usize>,
    /// Public name, random.
    pub(crate) connection: u64,
    /// Secret name of the session, random.
    pub(crate) session: u128,
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
    /// Everything that waits to be sent.
    pub(crate) outbox: Outbox,
    /// What services have narrowed of its views.
    pub(crate) narrowed: Narrowed,
    pub(crate) dirty: bool,
    pub(crate) blocked: bool,
    /// The last publication that was decided for it, so that overlapping subscriptions deliver once.
    pub(crate) last_turn: u64,
    /// Heartbeats since the last sign of life.
    pub(crate) silent_heartbeats: u8,
    /// When the last `BAD_MESSAGE`s in a row came, within the window in which they are counted.
    pub(crate) bad_in_a_row: VecDeque<u64>,
    /// A token is being judged: later requests wait.
    pub(crate) judging: Option<Box<Judging>>,
    /// Requests that wait for something before them, in order.
    pub(crate) deferred: Option<Box<Deferred>>,
    pub(crate) messages: Bucket,
    pub(crate) bytes: Bucket,
    pub(crate) subscribes: Bucket,
    /// In steps.
    pub(crate) work: Bucket,
    pub(crate) publishes: Vec<(ClassId, Bucket)>,
    /// What it publishes; `None` for who never did.
    pub(crate) publishing: Option<Box<Publishing>>,
    /// When it connected, was due to, or must next be looked at; all monotonic milliseconds.
    pub(crate) deadlines: Deadlines,
}

/// How far a connection has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waiting for `CONNECT`.
    Connecting,
    /// Known, subscribing what it starts with.
    Joining(Box<Joining>),
    /// `WELCOME` was sent.
    Open,
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
}

/// A token on its way to be judged, and what to do then.
#[derive(Debug)]
pub(crate) enum Judging {
    /// It came in `CONNECT`.
    Connect { id: Option<RequestId>, subscribe: Vec<Result<Subscribe, BadSubscribe>> },
    /// It came in `TOKEN_REFRESH`.
    Refresh { id: Option<RequestId> },
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

/// What services have narrowed of a player's views, by channel. While it is being read nothing new is shown.
#[derive(Debug, Default)]
pub(crate) struct Narrowed {
    loading: Option<Box<Loading>>,
    views: Option<Box<HashMap<Arc<str>, Expr>>>,
}

/// What services have narrowed is being read.
#[derive(Debug)]
struct Loading {
    /// The question that is out; `None`: it was refused, and is to be asked again.
    asked: Option<Ticket>,
    /// What was said meanwhile.
    news: HashMap<Arc<str>, Option<Expr>>,
}

impl Narrowed {
    pub(crate) fn of(&self, channel: &str) -> Option<&Expr> {
        self.views.as_ref()?.get(channel)
    }

    /// Whether it is not known yet, or not known any more.
    pub(crate) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// The question that is out.
    pub(crate) fn asked(&self) -> Option<Ticket> {
        self.loading.as_ref()?.asked
    }

    /// Asks, or asks again: only the last answer counts. What was heard before may have been said before something
    /// that was missed.
    pub(crate) fn ask(&mut self, ticket: Ticket) {
        self.loading = Some(Box::new(Loading { asked: Some(ticket), news: HashMap::new() }));
    }

    /// The question was refused, and is to be asked again.
    pub(crate) fn refused(&mut self) {
        if let Some(loading) = &mut self.loading {
            loading.asked = None;
        }
    }

    /// A service says so now.
    pub(crate) fn set(&mut self, channel: Arc<str>, view: Option<Expr>) {
        if let Some(loading) = &mut self.loading {
            loading.news.insert(channel.clone(), view.clone());
        }
        match view {
            Some(view) => {
                self.views.get_or_insert_default().insert(channel, view);
            }
            None => {
                if let Some(views) = &mut self.views {
                    views.remove(&channel);
                }
                self.views = self.views.take().filter(|views| !views.is_empty());
            }
        }
    }

    /// What was said before; what was said meanwhile is newer. Gives the channels whose views are other than they were.
    pub(crate) fn loaded(&mut self, views: impl IntoIterator<Item = (Arc<str>, Expr)>) -> Vec<Arc<str>> {
        let before = self.views.take().unwrap_or_default();
        let mut now: HashMap<Arc<str>, Expr> = views.into_iter().collect();
        for (channel, view) in self.loading.take().map(|loading| loading.news).unwrap_or_default() {
            match view {
                Some(view) => now.insert(channel, view),
                None => now.remove(&channel),
            };
        }
        let is_other = |channel: &&Arc<str>| before.get(*channel) != now.get(*channel);
        let gone = before.keys().filter(|channel| !now.contains_key(*channel));
        let mut others: Vec<Arc<str>> = now.keys().chain(gone).filter(is_other).cloned().collect();
        // In the order of names: what a seeded simulation sees must not hang on the table's.
        others.sort_unstable();
        self.views = (!now.is_empty()).then(|| Box::new(now));
        others
    }

    /// What was known holds.
    pub(crate) fn settle(&mut self) {
        self.loading = None;
    }
}

/// What a connection has published, as long as it may not have come back.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    /// Publishes whose answer is out, and fences behind their events; with the channel.
    pub(crate) in_flight: VecDeque<(Ticket, Arc<str>)>,
    /// Channels of the last that were answered: their events may still be on their way here.
    pub(crate) answered: Vec<Arc<str>>,
}

/// One subscription of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    pub(crate) target: TargetId,
    /// The place in the target's subscribers.
    pub(crate) slot: u32,
    pub(crate) origin: Origin,
}

/// Who asked for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A template of the configuration.
    Auto,
    /// The client.
    Client,
    /// A service.
    Server,
}

/// When a connection must be looked at; 0 means never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadlines {
    /// `CONNECT` must have come, or, while joining, `WELCOME` goes out with what is still pending.
    pub(crate) phase_ms: u64,
    pub(crate) heartbeat_ms: u64,
    pub(crate) expiry_ms: u64,
    pub(crate) drain_ms: u64,
    /// What services have narrowed is to be asked for again.
    pub(crate) views_ms: u64,
    /// Something due leaves.
    pub(crate) flush_ms: u64,
    /// The one entry in the engine's timers.
    pub(crate) armed_ms: u64,
}

impl Deadlines {
    /// The earliest, or 0.
    pub(crate) fn earliest(&self) -> u64 {
        [self.phase_ms, self.heartbeat_ms, self.expiry_ms, self.drain_ms, self.views_ms, self.flush_ms]
            .into_iter()
            .filter(|at| *at > 0)
            .min()
            .unwrap_or(0)
    }
}

impl Connection {
    /// A socket that just finished its handshake.
    pub(crate) fn new(opened: &Opened, deadlines: Deadlines, outbound_bytes: usize) -> Self {
        Connection {
            id: opened.conn,
            phase: Phase::Connecting,
            encoding: opened.encoding,
            deflate: opened.deflate,
            max_message_bytes: None,
            connection: opened.connection,
            session: opened.session,
            address: opened.address,
            anonymous: false,
            claims: None,
            subscriptions: Vec::new(),
            patterns: 0,
            access: None,
            outbox: Outbox::new(outbound_bytes),
            narrowed: Narrowed::default(),
            dirty: false,
            blocked: false,
            last_turn: 0,
            silent_heartbeats: 0,
            bad_in_a_row: VecDeque::new(),
            judging: None,
            deferred: None,
            messages: Bucket::default(),
            bytes: Bucket::default(),
            subscribes: Bucket::default(),
            work: Bucket::default(),
            publishes: Vec::new(),
            publishing: None,
            deadlines,
        }
    }

    /// The bucket of this class's publishes.
    pub(crate) fn publish_bucket(&mut self, class: ClassId) -> &mut Bucket {
        let at = self.publishes.iter().position(|(id, _)| *id == class).unwrap_or_else(|| {
            self.publishes.push((class, Bucket::default()));
            self.publishes.len() - 1
        });
        &mut self.publishes[at].1
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
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

    /// The connection's public name.
    pub(crate) fn public_name(&self) -> String {
        format!("{:016x}", self.connection)
    }

    /// The session's name: whoever knows it and the player's token may claim the session.
    pub(crate) fn session_name(&self) -> String {
        format!("{:032x}", self.session)
    }
}
