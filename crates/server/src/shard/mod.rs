//! One shard: a thread with its own runtime, its own engine and its own sockets. Sockets, mail and the broker's
//! events are turned into the engine's inputs; its outputs are executed at the end of each turn, so that what a
//! turn made due for one socket leaves in one write. Nothing here is shared with another shard but queues.

mod newcomer;
mod run;
mod socket;
mod transport;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use drawbridge_engine::address_slots::AddressSlot;
use drawbridge_engine::io::{AuthFailure, Claims, ConnId, Holder, SessionId};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::settings::Settings;
use drawbridge_engine::stats::Stats;
use drawbridge_engine::upstream::ShardId;
use drawbridge_protocol::Encoding;
use drawbridge_protocol::websocket::Window;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::broker::{Broker, ShardInbox};
use crate::clock::Clock;
use crate::slots::Share;
use crate::token_verifier::TokenVerifier;

/// Messages to a shard from the rest of the process.
#[derive(Debug)]
pub enum Mail {
    /// A socket whose handshake is done.
    Socket(Box<NewSocket>),
    /// A socket of another shard, which resumes a session of this one.
    HandedOver(Box<NewSocket>),
    /// A token was verified.
    Authenticated {
        /// For whom.
        conn: ConnId,
        /// The claims, or what is wrong.
        result: Result<Claims, AuthFailure>,
    },
    /// The player has too many connections, and this is the oldest.
    Displaced {
        /// Which session.
        session: SessionId,
    },
    /// Of a player's sessions too many are detached, and this is the oldest.
    DetachedTooMany {
        /// Which session.
        session: SessionId,
    },
    /// Say goodbye and close within this many milliseconds.
    Drain {
        /// The window.
        window_ms: u64,
    },
    /// A request for the gauges and counters.
    Stats(oneshot::Sender<ShardStats>),
}

/// A socket on its way from the listener to a shard.
#[derive(Debug)]
pub struct NewSocket {
    /// Non-blocking.
    pub stream: std::net::TcpStream,
    /// The TLS session, if there is one.
    pub tls: Option<Box<rustls::ServerConnection>>,
    /// What was read behind the handshake.
    pub read_ahead: Bytes,
    /// What the handshake has settled.
    pub handshake: Handshake,
    /// Counts the connection for its address.
    pub slot: AddressSlot,
    /// Counts it among those that have not authenticated; `None` where its token was accepted.
    pub unauthenticated: Option<Share>,
}

/// What the handshake of a socket has settled.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// By sub-protocol.
    pub encoding: Encoding,
    /// The handshake agreed on compression; what the client's inflater holds.
    pub deflate: Option<Window>,
    /// The client's address.
    pub address: IpAddr,
    /// The token of the upgrade, verified.
    pub token: Option<Result<Claims, AuthFailure>>,
    /// The URL had `connect=1`.
    pub wait_for_connect: bool,
}

/// Gauges and counters of one shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardStats {
    /// The engine's.
    pub engine: Stats,
    /// Gauge: sockets, closing ones included.
    pub sockets: u64,
    /// Writes to sockets.
    pub writes: u64,
    /// Bytes written to sockets, as frames.
    pub bytes_out: u64,
    /// Bytes read from sockets, as frames.
    pub bytes_in: u64,
    /// Bytes that compressed messages were inflated to.
    pub bytes_inflated: u64,
    /// Bytes read and skipped because their connection is being closed; never inflated.
    pub bytes_skipped: u64,
    /// States of entities that were dropped because the shard lagged and newer ones waited.
    pub superseded: u64,
}

impl std::ops::AddAssign for ShardStats {
    fn add_assign(&mut self, other: ShardStats) {
        self.engine += other.engine;
        self.sockets += other.sockets;
        self.writes += other.writes;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
        self.bytes_inflated += other.bytes_inflated;
        self.bytes_skipped += other.bytes_skipped;
        self.superseded += other.superseded;
    }
}

/// What a shard is made from.
#[derive(Debug)]
pub struct ShardParts {
    /// Its name.
    pub id: ShardId,
    /// The engine's settings.
    pub settings: Arc<Settings>,
    /// The node's shared limits.
    pub limits: Arc<SharedLimits>,
    /// Where commands go.
    pub broker: Broker,
    /// Verifies tokens.
    pub token_verifier: TokenVerifier,
    /// The node's shards, this one too.
    pub peers: Peers,
    /// The process's clock.
    pub clock: Clock,
}

/// Reaches one shard from any thread.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    mail: mpsc::UnboundedSender<Mail>,
    sockets: Arc<AtomicUsize>,
}

impl ShardHandle {
    /// Puts mail into the shard's box; lost if the shard has ended.
    pub fn send(&self, mail: Mail) {
        if matches!(mail, Mail::Socket(_)) {
            self.sockets.fetch_add(1, Ordering::Relaxed);
        }
        let _ = self.mail.send(mail);
    }

    /// Sockets of the shard, those on their way included.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    /// The shard's gauges and counters; `None` if it has ended.
    pub async fn stats(&self) -> Option<ShardStats> {
        let (reply, answer) = oneshot::channel();
        self.send(Mail::Stats(reply));
        answer.await.ok()
    }
}

/// How a shard reaches the others of its node. It keeps none of them alive.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<OnceLock<Box<[Peer]>>>);

/// One of them.
#[derive(Debug)]
struct Peer {
    mail: mpsc::WeakUnboundedSender<Mail>,
    sockets: Arc<AtomicUsize>,
}

impl Peers {
    /// All shards, in the order of their names; once, before the first socket.
    pub fn introduce(&self, shards: &[ShardHandle]) {
        let peer =
            |shard: &ShardHandle| Peer { mail: shard.mail.downgrade(), sockets: shard.sockets.clone() };
        let _ = self.0.set(shards.iter().map(peer).collect());
    }

    /// Has a session of whichever shard closed.
    fn displace(&self, Holder { shard, session }: Holder) {
        self.send(shard, Mail::Displaced { session });
    }

    /// Has a detached session of whichever shard end.
    fn end_detached(&self, Holder { shard, session }: Holder) {
        self.send(shard, Mail::DetachedTooMany { session });
    }

    /// Passes a socket on.
    fn hand_over(&self, to: ShardId, socket: NewSocket) {
        self.send(to, Mail::HandedOver(Box::new(socket)));
    }

    /// Whether there is more than one shard.
    fn are_several(&self) -> bool {
        self.0.get().is_some_and(|shards| shards.len() > 1)
    }

    /// Nothing where that shard has ended.
    fn send(&self, to: ShardId, mail: Mail) {
        let Some(peer) = self.0.get().and_then(|shards| shards.get(usize::from(to.0))) else { return };
        let Some(sender) = peer.mail.upgrade() else { return };
        if matches!(mail, Mail::HandedOver(_)) {
            peer.sockets.fetch_add(1, Ordering::Relaxed);
        }
        let _ = sender.send(mail);
    }
}

/// A runtime for a shard: of one thread.
///
/// # Errors
/// Where the system cannot start one more.
pub fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Starts a shard's thread, which receives the broker's events from `events` and drives `runtime`. It ends when every [`ShardHandle`]
/// is gone.
///
/// # Errors
/// Where the thread cannot be made.
pub fn start(parts: ShardParts, events: ShardInbox, runtime: Runtime) -> std::io::Result<ShardHandle> {
    let (mail, received) = mpsc::unbounded_channel();
    let sockets = Arc::<AtomicUsize>::default();
    // The verifier answers by mail; a weak sender lets the shard end when the others are gone.
    let handle = ShardHandle { mail, sockets: sockets.clone() };
    let answers = handle.mail.downgrade();
    std::thread::Builder::new().name(format!("shard-{}", parts.id.0)).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, run::run(parts, received, events, answers, sockets));
    })?;
    Ok(handle)
}
