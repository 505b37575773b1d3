//! The broker: the node's one way out and one way in. Shards send it commands, and receive events, confirmations and answers in
//! their queues, whichever broker it is: [`memory`] or [`redis`].
//!
//! It owns one thread, on which the publisher and the readers run, and the links where they do not run beside the shard
//! ([`ThreadPlacement`]). It knows nothing of connections, rights or views, and never waits for a shard.

mod command_router;
mod fanout;
mod health_board;
mod hub_driver;
mod jobs;
mod link_metrics;
mod local;
mod memory;
mod query_queue;
pub mod queue;
pub mod redis;

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use drawbridge_engine::class::ShardedChannels;
use drawbridge_engine::io::{Answerer, BrokerCommand, BrokerStatus, Subject};
use drawbridge_engine::upstream::{HubSettings, LinkId, ShardId, Topology};
use tokio::sync::{mpsc, watch};

pub use self::command_router::CommandChannels;
use self::command_router::CommandRouter;
use self::fanout::ShardFanout;
pub use self::health_board::Audience;
use self::health_board::{HealthBoard, Need};
use self::hub_driver::{HubCommand, HubCommandReceiver, HubDriver};
use self::jobs::{JobReceiver, JobSender, jobs};
use self::link_metrics::LinkMetrics;
pub(crate) use self::link_metrics::PROBE_BUCKETS;
pub use self::link_metrics::{LinkStats, ProbeStats};
use self::local::LocalDelivery;
use self::query_queue::{Asker, QueryQueue};
pub use self::queue::{Pushed, ShardInbox, ShardQueue, shard_queue};
use self::redis::NodeReport;
use self::redis::probe::ProbeLine;
pub use self::redis::{RedisAddress, RedisLocation, RedisSettings, SentinelSettings};
use crate::log::Sparse;

/// How long a shutdown waits for publishes that are queued.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the broker receives at start.
#[derive(Debug)]
pub struct BrokerSettings {
    /// Which broker.
    pub kind: BrokerBackend,
    /// The settings of each hub.
    pub hub: HubSettings,
    /// The bound of the publishes that are not answered, in bytes.
    pub queue_bytes: usize,
    /// Where player commands come from.
    pub commands: CommandChannels,
    /// Beside whom the links may run; `None`: they always have the broker's own thread. The memory broker always has.
    pub placement: Option<ThreadPlacement>,
}

/// A thread with time to spare for the links: that of a node's only shard, which each message wakes anyway.
#[derive(Clone, Debug)]
pub struct ThreadPlacement {
    /// Its runtime: one of a single thread, which must outlive the broker.
    pub thread: tokio::runtime::Handle,
    /// How often is looked at how busy it is.
    pub sample_every: Duration,
    /// The links leave a thread that works more than this part of its time, from 0 to 1.
    pub high_watermark: f64,
    /// They come back when it and the broker's thread work less than this, together.
    pub low_watermark: f64,
}

impl ThreadPlacement {
    /// This thread, with bounds that keep some room for what comes suddenly.
    pub fn new(thread: tokio::runtime::Handle) -> Self {
        ThreadPlacement {
            thread,
            sample_every: Duration::from_millis(50),
            high_watermark: 0.7,
            low_watermark: 0.5,
        }
    }
}

/// Which broker.
#[derive(Debug)]
pub enum BrokerBackend {
    /// In this process, for `dev` and tests.
    Memory,
    /// A Redis.
    Redis(Box<RedisSettings>),
}

/// The broker could not start. Redis being away is no such reason.
#[derive(Debug)]
pub enum BrokerStartError {
    /// The thread or its runtime could not be made.
    Thread(std::io::Error),
}

impl std::fmt::Display for BrokerStartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BrokerStartError::Thread(error) => write!(f, "cannot start the broker's thread: {error}"),
        }
    }
}

impl std::error::Error for BrokerStartError {}

/// Whether Redis is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerHealth {
    /// All of it, or not.
    pub status: BrokerStatus,
    /// For how long something has been away; `None`: all is well.
    pub degraded_for: Option<Duration>,
    /// For how long more has been away than some masters of a Cluster, so that the node serves no one; `None`: it serves.
    pub unserved_for: Option<Duration>,
}

/// Gauges and counters of the broker, summed over its links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerStats {
    /// Gauge: channels and patterns known.
    pub subjects: u64,
    /// Gauge: of these, confirmed.
    pub live: u64,
    /// Gauge: patterns that Redis holds, or that were requested, to cover all that are wanted.
    pub pattern_cover: u64,
    /// Gauge: channels counted because patterns cover them.
    pub pattern_channels: u64,
    /// Publications received, every copy counted.
    pub received: u64,
    /// Payloads dropped because they were over `external_bytes`.
    pub dropped_oversized: u64,
    /// Payloads dropped because an `envelope` class could not read them.
    pub dropped_unreadable: u64,
    /// Payloads dropped because the channel's name is not well formed.
    pub dropped_bad_name: u64,
    /// Payloads dropped because the channel's name is another environment's.
    pub dropped_foreign_name: u64,
    /// Gauge: entities of the node's tables.
    pub entities: u64,
    /// Events of entity channels dropped for their key.
    pub dropped_bad_key: u64,
    /// Events of entity channels dropped for their position.
    pub dropped_bad_position: u64,
    /// Events dropped because their channel holds `entity_max` already.
    pub dropped_full: u64,
    /// Tables read again because an event was missing.
    pub table_gaps: u64,
    /// Gauge: channels that only patterns cover and whose place in the log is known.
    pub pattern_logs: u64,
    /// Readings of logs: of positions, and of pages for those who catch up.
    pub log_reads: u64,
    /// Pages for those who catch up that were made of events in memory.
    pub log_pages_from_memory: u64,
    /// Gauge: bytes of the events that are kept for that.
    pub log_tail_bytes: u64,
    /// Positions read again because a logged event did not follow the one before.
    pub log_gaps: u64,
    /// Events dropped because they say a place in a log that the log does not have.
    pub dropped_forged: u64,
    /// Plain `PUBLISH`es dropped on channels that ignore them.
    pub dropped_volatile: u64,
    /// Gauge: bytes of the entities of the node's tables.
    pub entity_bytes: u64,
    /// Stored entities and players' views that are not as Drawbridge writes them.
    pub bad_stored: u64,
    /// How often the functions in Redis were not Drawbridge's, or changed, and were replaced.
    pub functions_replaced: u64,
    /// Publications dropped because a shard's queue was full; the shard is notified of each channel.
    pub dropped_to_shards: u64,
    /// Gauge: bytes of publications that wait for the shards.
    pub shard_queue_bytes: u64,
    /// Gauge: bytes of publishes that are not answered.
    pub publish_queue_bytes: u64,
    /// Writes of all kinds that Redis has taken.
    pub published: u64,
    /// Writes of all kinds that Redis refused.
    pub publish_refused: u64,
    /// Writes of all kinds that certainly did not happen.
    pub publish_not_done: u64,
    /// Writes of all kinds whose outcome is unknown.
    pub publish_unknown: u64,
    /// Publishes that were delivered on this node alone.
    pub published_locally: u64,
    /// Gauge: entries of the lifecycle stream that Redis has not taken yet.
    pub lifecycle_waiting: u64,
    /// Entries of the lifecycle stream that are lost.
    pub lifecycle_lost: u64,
    /// Links and command connections that were lost after they had worked.
    pub reconnects: u64,
    /// How often the links moved to another thread.
    pub moves: u64,
    /// Gauge: tables and players' views that are requested.
    pub queries: u64,
    /// Player commands delivered to the shards.
    pub commands: u64,
    /// Player commands that could not be read, or came too many at once.
    pub bad_commands: u64,
    /// Renewals of this node's lease.
    pub lease_renewals: u64,
    /// Of these, those that came late: half of the time after which other nodes take this one for dead, or more.
    pub lease_renewals_late: u64,
    /// Dead nodes of which this one has removed the last.
    pub dead_nodes: u64,
    /// Records of sessions, of dead nodes or of this one at its end, that got their window.
    pub session_windows: u64,
    /// Gauge: sentinels that answer.
    pub sentinels: u64,
    /// How often the sentinels named another master.
    pub master_changes: u64,
    /// Gauge: the slowest link's last round trip.
    pub round_trip: Option<Duration>,
    /// The delivery probes of each link; empty where there are none.
    pub probes: Vec<ProbeStats>,
    /// The links in use.
    pub links: Vec<LinkStats>,
}

/// A handle to the running broker. When the last one is dropped the broker ends.
#[derive(Clone, Debug)]
pub struct Broker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    topology: Arc<RwLock<Topology>>,
    links: Vec<mpsc::UnboundedSender<HubCommand>>,
    queries: QueryQueue,
    jobs: JobSender,
    health_board: Arc<HealthBoard>,
    has_one_order: bool,
    all_metrics: Vec<Arc<LinkMetrics>>,
    fanout: ShardFanout,
    report: NodeReport,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
}

/// What a broker needs to run.
struct Shell {
    /// One for each link.
    parts: Vec<HubTask>,
    jobs: JobReceiver,
    /// The publisher's.
    link_metrics: Arc<LinkMetrics>,
    health_board: Arc<HealthBoard>,
    stop: watch::Receiver<bool>,
    queries: QueryQueue,
    placement: Option<ThreadPlacement>,
    local: LocalDelivery,
    fanout: ShardFanout,
    report: NodeReport,
}

/// One hub with what is around it.
struct HubTask {
    driver: HubDriver,
    commands: HubCommandReceiver,
    link_metrics: Arc<LinkMetrics>,
    /// Where the link's delivery probes go; `None`: it sends none.
    probe_line: Option<ProbeLine>,
}

impl Broker {
    /// Starts the broker with its own thread. `shards[i]` is the queue of `ShardId(i)`, `node` that of
    /// [`ShardId::NODE`]. Does not wait for Redis: until it is there the broker is degraded, and every queue begins
    /// with that status.
    ///
    /// # Errors
    /// Where the thread or its runtime cannot be made.
    pub fn start(
        settings: BrokerSettings,
        shards: Vec<ShardQueue>,
        node: ShardQueue,
    ) -> Result<Broker, BrokerStartError> {
        let BrokerSettings { kind, hub, queue_bytes, commands, placement } = settings;
        let names = match &kind {
            BrokerBackend::Memory => redis::Names::default(),
            BrokerBackend::Redis(redis) => redis.names.clone(),
        };
        let fanout = ShardFanout::new(shards, node).with_names(names);
        let (pool, health_board) = match &kind {
            BrokerBackend::Memory => {
                let memory = ("memory".to_owned(), false, Need::Always);
                (1, HealthBoard::new([memory], [], fanout.clone()))
            }
            BrokerBackend::Redis(redis) => {
                let pool = redis.subscriber_pool.max(1);
                (pool, redis::health_board(redis, pool, fanout.clone()))
            }
        };
        let health_board = Arc::new(health_board);
        let has_one_order = !matches!(&kind, BrokerBackend::Redis(redis) if redis.is_cluster());
        let (of_masters, sharded) = match &kind {
            BrokerBackend::Memory => (0, ShardedChannels::default()),
            BrokerBackend::Redis(redis) => (redis.master_links(), redis.sharded.clone()),
        };
        let topology =
            Topology::standalone(pool, &hub.classes, &hub.reserved, commands.nodes.clone(), hub.seed)
                .with_masters(of_masters, sharded, hub.slots);
        let topology = Arc::new(RwLock::new(topology));
        let (jobs, job_receiver) = jobs(queue_bytes, fanout.clone());
        let probes = matches!(&kind, BrokerBackend::Redis(redis) if !redis.probe_every.is_zero());
        let (links, receivers): (Vec<_>, Vec<_>) =
            (0..pool + of_masters).map(|_| mpsc::unbounded_channel()).unzip();
        let (classes, external_bytes) = (hub.classes.clone(), hub.external_bytes);
        let hubs: Vec<_> = links.iter().map(mpsc::UnboundedSender::downgrade).collect();
        let part = |(place, received): (usize, HubCommandReceiver)| {
            let (link, link_metrics, failures) =
                (LinkId::at(place), Arc::<LinkMetrics>::default(), Sparse::default());
            let (channels, topology) = (commands.clone(), topology.clone());
            let router =
                CommandRouter { link, channels, topology, link_metrics: link_metrics.clone(), failures };
            // Each hub counts under epochs that no other one has.
            let hub = HubSettings { link, seed: hub.seed.wrapping_add(place as u128), ..hub.clone() };
            let driver = HubDriver::new(hub, fanout.clone(), router, hubs.clone());
            let probe_line = probes.then(|| ProbeLine { jobs: jobs.clone(), link: hubs[place].clone() });
            HubTask { driver, commands: received, link_metrics, probe_line }
        };
        let parts: Vec<HubTask> = receivers.into_iter().enumerate().map(part).collect();
        let (stop, stopping) = watch::channel(false);
        let (report_stopped, stopped) = watch::channel(false);
        let link_metrics = Arc::<LinkMetrics>::default();
        let all_metrics =
            parts.iter().map(|part| part.link_metrics.clone()).chain([link_metrics.clone()]).collect();
        let local = LocalDelivery { topology: topology.clone(), links: hubs.clone() };
        let (queries, report) = (QueryQueue::new(fanout.clone(), hubs), NodeReport::default());
        let shell = Shell {
            parts,
            jobs: job_receiver,
            link_metrics,
            health_board: health_board.clone(),
            stop: stopping,
            queries: queries.clone(),
            placement,
            local,
            fanout: fanout.clone(),
            report: report.clone(),
        };
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = match kind {
            BrokerBackend::Memory => Box::pin(memory::run(shell, classes, external_bytes)),
            BrokerBackend::Redis(redis) => Box::pin(redis::run(*redis, shell)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BrokerStartError::Thread)?;
        std::thread::Builder::new()
            .name("broker".into())
            .spawn(move || {
                runtime.block_on(task);
                runtime.shutdown_timeout(Duration::from_millis(100));
                let _ = report_stopped.send(true);
            })
            .map_err(BrokerStartError::Thread)?;
        Ok(Broker(Arc::new(Inner {
            topology,
            links,
            queries,
            jobs,
            health_board,
            has_one_order,
            all_metrics,
            fanout,
            report,
            stop,
            stopped,
        })))
    }

    /// Carries out a shard's command; the answers come in the shard's queue. Never blocks.
    pub fn command(&self, shard: ShardId, command: BrokerCommand) {
        match command {
            BrokerCommand::Want(subject) => {
                self.send_hub_command(subject, |subject| HubCommand::Want(shard, subject))
            }
            BrokerCommand::Unwant(subject) => {
                self.send_hub_command(subject, |subject| HubCommand::Unwant(shard, subject))
            }
            BrokerCommand::Refresh(subject) => {
                self.send_hub_command(subject, |subject| HubCommand::Refresh(shard, subject))
            }
            BrokerCommand::CatchUp { channel, after } => {
                self.send_hub_command(Subject::channel(channel), |subject| {
                    HubCommand::CatchUp(shard, subject.name, after)
                });
            }
            BrokerCommand::Query(query) => match query.kind.answerer() {
                Answerer::Link(channel) => {
                    let subject = Subject::channel(channel.clone());
                    self.send_hub_command(subject, |_| HubCommand::Query(shard, query.clone()));
                }
                Answerer::Small | Answerer::Large => {
                    self.0.queries.ask(Asker::Shard(shard, query.ticket), query);
                }
            },
            BrokerCommand::Withdraw(ticket) => self.0.queries.withdraw(&Asker::Shard(shard, ticket)),
            BrokerCommand::Write(write) => self.0.jobs.push(shard, write),
            BrokerCommand::Recovered(token) => {
                self.send(token.link(), HubCommand::Recovered(shard, token));
            }
        }
    }

    /// Whether what is done first arrives first, on whatever channels; not so in a Redis Cluster, where each channel has its order.
    pub fn has_one_order(&self) -> bool {
        self.0.has_one_order
    }

    /// Whether Redis is there.
    pub fn health(&self) -> BrokerHealth {
        let health_board = &self.0.health_board;
        BrokerHealth {
            status: health_board.status(),
            degraded_for: health_board.degraded_for(),
            unserved_for: health_board.unserved_for(),
        }
    }

    /// Whether all of Redis has been there at once since the start: each connection that the node needs, and what was
    /// subscribed on it.
    pub fn was_complete(&self) -> bool {
        self.0.health_board.was_complete()
    }

    /// Whether Redis has been there since the start as far as the node cannot serve without it: in a Cluster one master may have
    /// been away all the time.
    pub fn was_serving(&self) -> bool {
        self.0.health_board.was_serving()
    }

    /// Which connection is away and why; `None`: all are there.
    pub fn trouble(&self, audience: Audience) -> Option<String> {
        self.0.health_board.trouble(audience)
    }

    /// Which link publications do not reach though Redis takes them; `None`: they reach all.
    pub fn no_delivery(&self) -> Option<String> {
        self.0.health_board.no_delivery()
    }

    /// Why the functions that classes of this node need cannot be called; `None`: they can, or none are needed.
    pub fn no_functions(&self) -> Option<Arc<str>> {
        self.0.health_board.no_functions()
    }

    /// Why players' views cannot be read though Redis is there, so that nothing is shown to anybody; `None`: they can.
    pub fn no_views(&self) -> Option<Arc<str>> {
        self.0.health_board.no_views()
    }

    /// Gauges and counters, as of the last turn of each link.
    pub fn stats(&self) -> BrokerStats {
        let mut stats = BrokerStats::default();
        for link_metrics in &self.0.all_metrics {
            let hub = link_metrics.hub();
            stats.subjects += hub.subjects as u64;
            stats.live += hub.live as u64;
            stats.pattern_cover += hub.cover as u64;
            stats.pattern_channels += hub.pattern_channels as u64;
            stats.dropped_oversized += hub.dropped_oversized;
            stats.dropped_unreadable += hub.dropped_unreadable;
            stats.dropped_bad_name += hub.dropped_bad_name;
            stats.entities += hub.entities as u64;
            stats.dropped_bad_key += hub.dropped_bad_key;
            stats.dropped_bad_position += hub.dropped_bad_position;
            stats.dropped_full += hub.dropped_full;
            stats.table_gaps += hub.table_gaps;
            stats.pattern_logs += hub.pattern_logs as u64;
            stats.log_reads += hub.log_reads;
            stats.log_pages_from_memory += hub.log_pages_from_memory;
            stats.log_tail_bytes += hub.log_tail_bytes as u64;
            stats.log_gaps += hub.log_gaps;
            stats.dropped_forged += hub.dropped_forged;
            stats.dropped_volatile += hub.dropped_volatile;
            stats.entity_bytes += hub.entity_bytes as u64;
            stats.bad_stored += hub.bad_rows + link_metrics.bad_views();
            stats.functions_replaced += link_metrics.functions_replaced();
            stats.dropped_foreign_name += link_metrics.foreign();
            stats.received += link_metrics.received();
            stats.reconnects += link_metrics.reconnects();
            stats.moves += link_metrics.moves();
            stats.commands += link_metrics.commands();
            stats.bad_commands += link_metrics.bad_commands();
            stats.lease_renewals += link_metrics.lease_renewals();
            stats.lease_renewals_late += link_metrics.lease_renewals_late();
            stats.dead_nodes += link_metrics.dead_nodes();
            stats.session_windows += link_metrics.session_windows();
            stats.sentinels += link_metrics.sentinels();
            stats.master_changes += link_metrics.master_changes();
            stats.round_trip = stats.round_trip.max(link_metrics.round_trip());
            stats.probes.extend(link_metrics.probes());
        }
        {
            let topology = self.topology();
            let in_use = topology.links_of(&Subject::channel(topology.everywhere().clone()));
            stats.links = in_use
                .filter_map(|link| {
                    let master = topology.master_of(link).map(|master| master.to_string());
                    Some(self.0.all_metrics.get(link.place())?.link(link.place(), master.unwrap_or_default()))
                })
                .collect();
        }
        for queue in self.0.fanout.queues() {
            stats.dropped_to_shards += queue.dropped();
            stats.shard_queue_bytes += queue.bytes() as u64;
        }
        stats.queries = self.0.queries.len() as u64;
        let ledger = self.0.jobs.ledger();
        stats.publish_queue_bytes = ledger.bytes.load(Ordering::Relaxed) as u64;
        stats.published = ledger.done.load(Ordering::Relaxed);
        stats.publish_refused = ledger.refused.load(Ordering::Relaxed);
        stats.publish_not_done = ledger.not_done.load(Ordering::Relaxed);
        stats.publish_unknown = ledger.unknown.load(Ordering::Relaxed);
        stats.published_locally = ledger.only_local.load(Ordering::Relaxed);
        stats.lifecycle_waiting = ledger.lifecycle_waiting.load(Ordering::Relaxed);
        stats.lifecycle_lost = ledger.lifecycle_lost.load(Ordering::Relaxed);
        stats
    }

    /// Ends the broker: publishes that are queued get [`DRAIN_TIMEOUT`] to be taken, then the node's sessions are handed over
    /// and the links close. What is not taken by then is answered so.
    pub async fn shutdown(&self) {
        let _ = self.0.stop.send(true);
        let mut stopped = self.0.stopped.clone();
        let _ = tokio::time::timeout(DRAIN_TIMEOUT * 2, stopped.wait_for(|stopped| *stopped)).await;
    }

    /// From here on this makes what the node says of itself to the others: a JSON object, every few seconds.
    pub fn report_node(&self, make: impl Fn() -> String + Send + 'static) {
        self.0.report.set(make);
    }

    /// How many links that are up subscribe to this channel where it is wanted.
    pub fn links_up_of(&self, channel: &Arc<str>) -> usize {
        let links = self.topology().links_of(&Subject::channel(channel.clone()));
        links.filter(|link| self.0.health_board.is_up(link.place())).count()
    }

    /// The link that carries this subject, or will when its move is over.
    pub fn link_of(&self, subject: &Subject) -> LinkId {
        self.topology().link_of(subject)
    }

    /// Moves a subject to another link, without a gap or a duplicate. Returns whether it moves: not where it is there, is on
    /// its way, or shares the link of the patterns.
    pub fn move_subject(&self, subject: Subject, to: LinkId) -> bool {
        let mut topology = self.0.topology.write().unwrap_or_else(PoisonError::into_inner);
        let Some(moves) = topology.begin_move(subject, to) else { return false };
        // Under the lock: whatever was commanded before is before it in its link's queue.
        self.send(moves.from, HubCommand::Give(moves.clone()));
        self.send(moves.to, HubCommand::Take(moves));
        true
    }

    fn send_hub_command(&self, subject: Subject, command: impl Fn(Subject) -> HubCommand) {
        let topology = self.topology();
        for link in topology.links_of(&subject) {
            self.send(link, command(subject.clone()));
        }
    }

    fn send(&self, link: LinkId, command: HubCommand) {
        // A broker that has stopped takes no commands.
        if let Some(link) = self.0.links.get(link.place()) {
            let _ = link.send(command);
        }
    }

    fn topology(&self) -> RwLockReadGuard<'_, Topology> {
        self.0.topology.read().unwrap_or_else(PoisonError::into_inner)
    }
}
