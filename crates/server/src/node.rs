//! One running node: its parts, whether it should get traffic, and what it counts.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use drawbridge_engine::address_slots::AddressSlots;

use crate::broker::{Audience, Broker, BrokerStats};
use crate::bus::Bus;
use crate::config::Config;
use crate::dev::Dev;
use crate::refusals::{Reason, Refusals};
use crate::shard::{ShardHandle, ShardStats};
use crate::slots::Shares;
use crate::token_verifier::TokenVerifier;

/// How old what `/metrics` shows may be.
const STATS_AGE: Duration = Duration::from_millis(100);
/// Files kept back for Redis, the admin API and logs: a quarter of the limit, within these bounds. Where the limit is lower
/// than twice the least, half of it.
const SPARE_FILES: std::ops::RangeInclusive<u64> = 64..=256;
/// Connections that have not authenticated, of all addresses: from the accept to the first token that is accepted. An address
/// holds up to an eighth of what is free, and 16 in any case.
const UNAUTHENTICATED: (u32, u32, u32) = (8_192, 8, 16);
/// Connections to the admin listener; an address holds up to half of what is free.
const ADMIN_CONNECTIONS: (u32, u32, u32) = (512, 2, 8);

const TOO_MANY_FILES: &str = "too many open files: raise the limit (ulimit -n) or add nodes";

/// See the module.
#[derive(Debug)]
pub struct Node {
    /// As configured.
    pub config: Config,
    /// The shards.
    pub shards: Vec<ShardHandle>,
    /// The broker.
    pub broker: Broker,
    /// What the node itself publishes, and the commands between nodes.
    pub bus: Arc<Bus>,
    /// Verifies tokens.
    pub token_verifier: TokenVerifier,
    /// Connections by address.
    pub addresses: Arc<AddressSlots>,
    /// Connections on the players' port that have not authenticated.
    pub unauthenticated: Arc<Shares>,
    /// Connections to the admin listener.
    pub admin_connections: Arc<Shares>,
    /// What HTTP counts.
    pub counters: Counters,
    /// Whom the node turned away.
    pub refusals: Refusals,
    /// The playground's part, in `dev`.
    pub dev: Option<Dev>,
    /// How many files the process may have open.
    pub max_files: u64,
    /// Where the admin API listens, once it does.
    pub admin_address: OnceLock<String>,
    phase: AtomicU8,
    last_stats: tokio::sync::Mutex<Option<(Instant, Arc<NodeStats>)>>,
}

/// How far a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not listening yet, or Redis was not there yet.
    Starting = 0,
    /// At work.
    Ready = 1,
    /// To end soon: load balancers are to take it out, and until they have, it goes on as before.
    Leaving = 2,
    /// Saying goodbye; no more sockets are taken in.
    Draining = 3,
}

impl Node {
    /// A node that is starting.
    pub fn new(
        config: Config,
        shards: Vec<ShardHandle>,
        bus: Arc<Bus>,
        token_verifier: TokenVerifier,
        dev: Option<Dev>,
        addresses: Arc<AddressSlots>,
        max_files: u64,
    ) -> Arc<Self> {
        let shares = |(places, part, floor)| Shares::new(places, part, floor);
        let (places, part, floor) = ADMIN_CONNECTIONS;
        // Why: whoever reaches the admin listener must not use up the files that it, Redis and the log need.
        let places = places.min(u32::try_from(max_files / 8).unwrap_or(places)).max(floor);
        let admin_connections = Shares::new(places, part, floor);
        Arc::new(Node {
            config,
            shards,
            broker: bus.broker().clone(),
            bus,
            token_verifier,
            addresses,
            unauthenticated: shares(UNAUTHENTICATED),
            admin_connections,
            counters: Counters::default(),
            refusals: Refusals::default(),
            dev,
            max_files,
            admin_address: OnceLock::new(),
            phase: AtomicU8::new(Phase::Starting as u8),
            last_stats: tokio::sync::Mutex::default(),
        })
    }

    /// What it says of itself to the other nodes: a JSON object.
    pub fn about(&self) -> String {
        let about = serde_json::json!({
            "node": self.config.node,
            "instance": &*self.config.engine.instance,
            "listen": self.config.listen,
            "admin": self.admin_address.get(),
            "shards": self.shards.len(),
            "connections": self.sockets(),
        });
        about.to_string()
    }

    /// Goes on to this phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Whether it says goodbye and takes no more sockets in.
    pub fn is_draining(&self) -> bool {
        self.is(Phase::Draining)
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) == phase as u8
    }

    /// How long each step before the socket's first message may take.
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.config.engine.connect_timeout_ms)
    }

    /// Sockets that the shards hold.
    pub fn sockets(&self) -> usize {
        self.shards.iter().map(ShardHandle::sockets).sum()
    }

    /// Why the node should not get traffic (`/readyz`); `None`: it should. A node that Redis left keeps its traffic for
    /// `ready_grace`; one that Redis was never there for has not worked yet, and gets none. In a Cluster it serves without a master.
    pub fn not_ready_because(&self, audience: Audience) -> Option<Cow<'static, str>> {
        let away = self.broker.health().unserved_for;
        let with_trouble = |what: &'static str| match self.broker.trouble(audience) {
            Some(trouble) => format!("{what} ({trouble})").into(),
            None => Cow::from(what),
        };
        match () {
            () if self.is(Phase::Starting) => Some("starting".into()),
            () if self.is(Phase::Leaving) || self.is(Phase::Draining) => Some("draining".into()),
            () if self.is_overloaded() => Some(TOO_MANY_FILES.into()),
            () if !self.broker.was_serving() => Some(with_trouble("Redis has not been there yet")),
            () if self.bus.is_deaf() => Some("Redis refuses the channel for player commands".into()),
            () if !self.bus.was_listening() => Some(with_trouble("not subscribed to player commands yet")),
            () if away.is_some_and(|away| away > self.config.ready_grace) => {
                Some(with_trouble("Redis is away"))
            }
            () => {
                let missing = self.broker.no_functions().or_else(|| self.broker.no_views());
                missing.map(|reason| reason.to_string()).or_else(|| self.broker.no_delivery()).map(Into::into)
            }
        }
    }

    /// What of Redis is away though the node serves; `None`: all of it is there.
    pub fn degraded_because(&self, audience: Audience) -> Option<String> {
        self.broker.health().degraded_for.and_then(|_| self.broker.trouble(audience))
    }

    /// Whether all connections to Redis have worked since the start, and this node was subscribed to player commands.
    pub fn was_complete(&self) -> bool {
        self.broker.was_complete() && self.bus.was_listening()
    }

    /// Why no socket is taken in; `None`: it is.
    pub fn refuses_sockets_because(&self) -> Option<(Reason, &'static str)> {
        match () {
            () if self.is_draining() => Some((Reason::Draining, "draining: this node takes no more sockets")),
            () if self.is_overloaded() => Some((Reason::Files, TOO_MANY_FILES)),
            () => None,
        }
    }

    /// Whether only what is kept back is left of the files that the process may open.
    fn is_overloaded(&self) -> bool {
        self.files_in_use() + self.spare_files() > self.max_files
    }

    /// Whether not even pages are served on the players' port: of the files that are kept back, half are for probes.
    pub fn refuses_connections(&self) -> bool {
        self.files_in_use() + self.spare_files() / 2 > self.max_files
    }

    /// Files that players' connections hold, from the accept on, and those of the admin listener beyond their part of the
    /// files that are kept back.
    fn files_in_use(&self) -> u64 {
        let admin = u64::from(self.admin_connections.taken()).saturating_sub(self.spare_files() / 2);
        self.sockets() as u64 + self.counters.handshakes.get() + admin
    }

    fn spare_files(&self) -> u64 {
        let (least, most) = SPARE_FILES.into_inner();
        (self.max_files / 4).clamp(least.min(self.max_files / 2), most)
    }

    /// All stats, at most [`STATS_AGE`] old: frequent scrapes must not keep the shards busy.
    pub async fn stats(&self) -> Arc<NodeStats> {
        let mut last = self.last_stats.lock().await;
        if let Some((at, stats)) = &*last
            && at.elapsed() < STATS_AGE
        {
            return stats.clone();
        }
        let stats = Arc::new(self.measure().await);
        *last = Some((Instant::now(), stats.clone()));
        stats
    }

    async fn measure(&self) -> NodeStats {
        let mut shards = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            shards.extend(shard.stats().await);
        }
        NodeStats {
            shards,
            broker: self.broker.stats(),
            broker_ok: self.broker.health().degraded_for.is_none(),
            addresses: self.addresses.len() as u64,
            accepted: self.counters.accepted.get(),
            refusals: self.refusals.counts(),
            unauthenticated: self.unauthenticated.taken().into(),
            bus_tickets: self.bus.tickets(),
        }
    }
}

/// What is measured of a node.
#[derive(Debug)]
pub struct NodeStats {
    /// Each shard's.
    pub shards: Vec<ShardStats>,
    /// The broker's.
    pub broker: BrokerStats,
    /// Whether Redis is there.
    pub broker_ok: bool,
    /// Addresses that hold a connection, where they are counted.
    pub addresses: u64,
    /// Sockets handed to shards.
    pub accepted: u64,
    /// Connections and requests refused, by reason.
    pub refusals: [(&'static str, u64); Reason::ALL.len()],
    /// Connections on the players' port that have not authenticated.
    pub unauthenticated: u64,
    /// Publishes of the node itself whose answer is out.
    pub bus_tickets: u64,
}

/// What HTTP counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sockets handed to shards.
    pub accepted: Counter,
    /// Gauge: connections on the players' port that are not a shard's sockets yet.
    pub handshakes: Gauge,
}

/// Counts what is there now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
