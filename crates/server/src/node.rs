//! One running node: its parts, whether it should get traffic, and what it counts.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::broker::{Broker, BrokerStats};
use crate::bus::Bus;
use crate::config::Config;
use crate::dev::Dev;
use crate::http::address::AddressSlots;
use crate::judge::Judge;
use crate::shard::{ShardHandle, ShardStats};

/// How old what `/metrics` shows may be.
const STATS_AGE: Duration = Duration::from_millis(100);
/// File descriptors kept back for Redis, logs and handshakes.
const SPARE_FILES: u64 = 256;

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
    /// Who judges tokens.
    pub judge: Judge,
    /// Connections by address.
    pub addresses: Arc<AddressSlots>,
    /// What HTTP counts.
    pub counters: Counters,
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
    /// Saying goodbye.
    Draining = 2,
}

impl Node {
    /// A node that is starting.
    pub fn new(
        config: Config,
        shards: Vec<ShardHandle>,
        broker: Broker,
        bus: Arc<Bus>,
        judge: Judge,
        dev: Option<Dev>,
        max_files: u64,
    ) -> Arc<Self> {
        let addresses = AddressSlots::new(config.connections_per_address);
        Arc::new(Node {
            config,
            shards,
            broker,
            bus,
            judge,
            addresses,
            counters: Counters::default(),
            dev,
            max_files,
            admin_address: OnceLock::new(),
            phase: AtomicU8::new(Phase::Starting as u8),
            last_stats: tokio::sync::Mutex::default(),
        })
    }

    /// Goes on to this phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
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

    /// Why the node should not get traffic (`/readyz`); `None`: it should.
    pub fn not_ready_because(&self) -> Option<&'static str> {
        let away = self.broker.health().degraded_for;
        match () {
            () if self.is(Phase::Starting) => Some("starting"),
            () if self.is(Phase::Draining) => Some("draining"),
            () if self.is_overloaded() => Some("overloaded"),
            () if self.bus.is_deaf() => Some("Redis refuses the channel for player commands"),
            () if away.is_some_and(|away| away > self.config.ready_grace) => Some("Redis is away"),
            () => None,
        }
    }

    /// Why no socket is taken in; `None`: it is.
    pub fn refuses_sockets_because(&self) -> Option<&'static str> {
        match () {
            () if self.is(Phase::Draining) => Some("draining: this node takes no more sockets"),
            () if self.is_overloaded() => Some("overloaded: this node has no room for more sockets"),
            () => None,
        }
    }

    fn is_overloaded(&self) -> bool {
        self.sockets() as u64 + SPARE_FILES > self.max_files
    }

    /// Everything that is measured, at most [`STATS_AGE`] old: who asks often must not keep the shards busy.
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
            refused_address: self.counters.refused_address.get(),
            refused_origin: self.counters.refused_origin.get(),
            refused_overloaded: self.counters.refused_overloaded.get(),
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
    /// Sockets refused because their address holds enough.
    pub refused_address: u64,
    /// Sockets refused because of their origin.
    pub refused_origin: u64,
    /// Sockets refused because the node drains or has no room.
    pub refused_overloaded: u64,
    /// Publishes of the node itself whose answer is out.
    pub bus_tickets: u64,
}

/// What HTTP counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sockets handed to shards.
    pub accepted: Counter,
    /// See [`NodeStats::refused_address`].
    pub refused_address: Counter,
    /// See [`NodeStats::refused_origin`].
    pub refused_origin: Counter,
    /// See [`NodeStats::refused_overloaded`].
    pub refused_overloaded: Counter,
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
