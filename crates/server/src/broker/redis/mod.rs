//! The Redis broker: a pool of subscriber links ([`link`], [`links`]) with a hub each, one command connection ([`publisher`]), and
//! one that reads ([`reader`]); in a Cluster, one each for every master ([`masters`]). Only here is a Redis client named. Pub/sub is read by our own RESP3 code ([`resp`]), commands
//! go through redis-rs, and no connection does both.

mod address;
mod batch;
mod buffer;
mod cleanup;
mod cluster_map;
mod cluster_watch;
mod command_connection;
mod commands;
mod connect;
mod connector;
mod conversation;
pub(crate) mod direct;
mod environment;
mod function_repairs;
mod inspect;
mod lease;
mod library;
mod lifecycle_backlog;
mod link;
mod link_session;
mod links;
mod logs;
mod master_links;
mod masters;
mod moving_slots;
mod names;
mod plain_connection;
mod presence;
pub(in crate::broker) mod probe;
mod publisher;
pub(crate) mod reader;
mod refusals;
pub mod resp;
mod sentinel;
mod sessions;
mod slot_names;
mod slot_router;
mod unowned;
mod views;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use drawbridge_engine::class::{Classes, ShardedChannels};
use drawbridge_engine::upstream::SlotHasher;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub use self::address::{RedisAddress, RedisLocation};
use self::cluster_map::{Cluster, slot_of};
use self::cluster_watch::ClusterWatch;
use self::connector::Connector;
pub use self::inspect::{Finding, Inspection, Severity, inspect};
pub use self::lease::LeaseSettings;
pub(super) use self::lease::NodeReport;
use self::lease::{Lease, LeaseState};
pub use self::library::Library;
use self::link::Link;
use self::master_links::{MAX_MASTERS, MasterLinks};
use self::masters::Masters;
pub use self::names::Names;
use self::publisher::Publisher;
use self::reader::{Reader, name_of};
pub use self::sentinel::SentinelSettings;
use self::sentinel::Watcher;
use super::Shell;
use super::fanout::ShardFanout;
use super::health_board::{HealthBoard, Need};
use super::query_queue::AnswerSize;
use crate::secret::Rotating;

/// How a Redis is reached.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where.
    pub location: RedisLocation,
    /// How the sentinels are reached, where there are any.
    pub sentinel: SentinelSettings,
    /// TLS, for TCP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The ACL user; `None` with a password: the default user.
    pub username: Option<String>,
    /// The password; a reload may replace it, and connections made from then on use the new one.
    pub password: Option<Rotating>,
    /// The database of streams; pub/sub knows no databases.
    pub db: u32,
    /// How many links subscribe; at least 1.
    pub subscriber_pool: usize,
    /// What the names in `CLIENT LIST` begin with ([`client_name`]); empty: the connections have none.
    pub client_name: String,
    /// What channels, streams and keys are called in Redis.
    pub names: Names,
    /// The classes of channels, which say how what is stored is read.
    pub classes: Arc<Classes>,
    /// Which channels are sharded.
    pub sharded: ShardedChannels,
    /// The functions that Redis is to have.
    pub library: Library,
    /// Where this user may not read players' views, that is no fault.
    pub views_open_without_permission: bool,
    /// How other nodes know that this one lives.
    pub lease: LeaseSettings,
    /// The channel on which nodes send each other player commands.
    pub node_channel: Arc<str>,
    /// How often each link proves that publications arrive; zero: never.
    pub probe_every: Duration,
}

/// The beginning of the names of a node's connections in `CLIENT LIST`. Redis takes only printable ASCII there.
pub fn client_name(node: &str) -> String {
    let fit = |c: char| if c.is_ascii_graphic() { c } else { '_' };
    format!("drawbridge:{}", node.chars().map(fit).collect::<String>())
}

impl RedisSettings {
    /// Whether it is a Redis Cluster.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.location, RedisLocation::Cluster { .. })
    }

    /// In a Cluster: the slots of channels, by their names without the prefix.
    fn slots(&self) -> Option<SlotHasher> {
        self.is_cluster().then(|| SlotHasher::with_prefix(self.names.channel_prefix()))
    }

    /// How many links the masters of a Cluster may have for sharded channels; 0: those are as any others.
    pub(super) fn master_links(&self) -> usize {
        if self.is_cluster() && !self.sharded.is_empty() { MAX_MASTERS } else { 0 }
    }

    /// The name of one connection; `None`: it has none.
    fn connection_name(&self, part: &str) -> Option<String> {
        (!self.client_name.is_empty()).then(|| format!("{}:{part}", self.client_name))
    }
}

/// The code that an error of Redis begins with.
fn code_of(message: &str) -> &str {
    message.split(' ').next().unwrap_or_default()
}

/// Whether an error says that nothing was done and that it will pass.
fn is_passing(message: &str) -> bool {
    ["LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "MOVED", "ASK", READONLY, UNANSWERED]
        .contains(&code_of(message))
}

/// The code of a command whose connection broke before it was answered, while others of its batch were: in a Cluster. What is
/// read may be read again; whether something was written is unknown.
const UNANSWERED: &str = "UNANSWERED";

/// Whether an error says that a slot, or keys of it, have moved to another master of the Cluster, or are on their way.
fn is_moving(message: &str) -> bool {
    ["TRYAGAIN", "MOVED", "ASK"].contains(&code_of(message))
}

/// The code of a replica's refusal to write.
const READONLY: &str = "READONLY";

/// Whether an error says that Redis has no such command, or that it was renamed.
fn is_unknown_command(message: &str) -> bool {
    message.contains("unknown command")
}

/// The error that Redis returned without the arguments that it repeats.
fn without_arguments(message: &str) -> &str {
    message.split(", with args").next().unwrap_or_default()
}

/// The part of an error that anybody may read: not the ACL user, whom `NOPERM` names, nor arguments.
fn public_part(message: &str) -> &str {
    match code_of(message) {
        "NOPERM" => "NOPERM",
        _ => without_arguments(message),
    }
}

/// The links come first, then the publisher, then the readers, then the lease. Tables are read on request; the reader of
/// views is there from the start, for without it no one can log in. In a Cluster what works with one master each adds itself, and
/// the node serves without a master: its links of sharded channels, or the lease, which is on one of them.
pub(super) fn health_board(settings: &RedisSettings, pool: usize, fanout: ShardFanout) -> HealthBoard {
    let need_of_links = if settings.is_cluster() { Need::Connected } else { Need::Always };
    let links = (0..pool).map(|link| (format!("subscriber {link}"), false, need_of_links));
    // Only the first one starts as down: it always gets a master, and links without one count as up.
    let of_masters = (0..settings.master_links())
        .map(|link| (format!("subscriber of sharded channels {link}"), link > 0, Need::Never));
    let workers =
        [("publisher", false), (name_of(AnswerSize::Large), true), (name_of(AnswerSize::Small), false)];
    let (workers, need_of_lease) = match settings.is_cluster() {
        true => (&[][..], Need::Never),
        false => (&workers[..], Need::Always),
    };
    let workers = workers.iter().map(|(name, is_up)| ((*name).to_owned(), *is_up, Need::Always));
    let lease = ("lease".to_owned(), false, need_of_lease);
    HealthBoard::new(links.chain(of_masters), workers.chain([lease]), fanout)
}

/// Runs all links, the publishers, the readers and the lease until `stop`.
pub(super) async fn run(settings: RedisSettings, shell: Shell) {
    let settings = Arc::new(settings);
    let Shell { parts, jobs, link_metrics, health_board, stop, queries, placement, local, fanout, report } =
        shell;
    let mut tasks = JoinSet::new();
    let watcher = Watcher {
        settings: settings.clone(),
        health_board: health_board.clone(),
        link_metrics: link_metrics.clone(),
    };
    tasks.spawn(watcher.run(stop.clone()));
    let cluster = settings.is_cluster().then(Cluster::default);
    let link_count = parts.len();
    let mut connectors: Vec<Connector> = Vec::with_capacity(link_count);
    if let Some(cluster) = &cluster {
        let first = link_count - settings.master_links();
        let master_links =
            MasterLinks::new(cluster.clone(), local.topology.clone(), local.links.clone(), first);
        connectors.extend((0..first).map(|_| link_connector(&settings, Some(cluster))));
        let to_master = |target| Connector::to_master_of_link(settings.clone(), cluster.clone(), target);
        connectors.extend(master_links.targets().into_iter().map(to_master));
        tasks.spawn(master_links.run(stop.clone()));
    } else {
        connectors.extend((0..link_count).map(|_| link_connector(&settings, None)));
    }
    let links = parts.into_iter().zip(connectors).enumerate().map(|(index, (part, connector))| {
        Link::new(index, part, connector, health_board.clone(), queries.clone())
    });
    let (links, counts, stopping) = (links.collect(), link_metrics.clone(), stop.clone());
    tasks.spawn(async move { links::run(links, placement, &counts, stopping).await });
    let (written, all_written) = oneshot::channel();
    let (lease_part, connector) = match &cluster {
        None => {
            let connector = Connector::to_settings(settings.clone());
            for (place, answer_size) in [AnswerSize::Large, AnswerSize::Small].into_iter().enumerate() {
                let reader = Arc::new(Reader {
                    queries: queries.clone(),
                    connector: connector.clone(),
                    health_board: health_board.clone(),
                    link_metrics: link_metrics.clone(),
                    lines: Default::default(),
                });
                tasks.spawn(reader.run(link_count + 1 + place, answer_size, stop.clone()));
            }
            let metrics = link_metrics.clone();
            let publisher =
                Publisher::new(link_count, jobs, connector.clone(), health_board.clone(), metrics, local);
            tasks.spawn(until_written(publisher.run(stop.clone()), written));
            (link_count + 3, connector)
        }
        Some(cluster) => {
            tasks.spawn(ClusterWatch::new(cluster.clone(), settings.clone()).run(stop.clone()));
            let masters = Masters {
                cluster: cluster.clone(),
                settings: settings.clone(),
                jobs,
                queries,
                health_board: health_board.clone(),
                link_metrics: link_metrics.clone(),
                local,
            };
            tasks.spawn(until_written(masters.run(stop.clone()), written));
            let slot = slot_of(settings.names.lease_keys()[0].as_bytes());
            (link_count, Connector::to_master_of(settings, cluster.clone(), slot))
        }
    };
    let lease = Lease {
        part: lease_part,
        connector,
        health_board,
        fanout,
        link_metrics,
        report,
        state: LeaseState::default(),
    };
    tasks.spawn(lease.run(stop, all_written));
    while tasks.join_next().await.is_some() {}
}

/// Says when all writes are over.
async fn until_written(writes: impl Future<Output = ()>, written: oneshot::Sender<()>) {
    writes.await;
    let _ = written.send(());
}

/// The links of a node begin at one master, so that they agree on the order of events; those of other nodes at others.
fn link_connector(settings: &Arc<RedisSettings>, cluster: Option<&Cluster>) -> Connector {
    match cluster {
        None => Connector::to_settings(settings.clone()),
        Some(cluster) => {
            let first = usize::from(slot_of(settings.lease.instance.as_bytes()));
            Connector::to_any(settings.clone(), cluster.clone(), first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn settings() -> RedisSettings {
        RedisSettings {
            location: RedisAddress::Tcp { host: "127.0.0.1".into(), port: 6379 }.into(),
            sentinel: SentinelSettings::default(),
            tls: None,
            username: None,
            password: None,
            db: 0,
            subscriber_pool: 1,
            client_name: String::new(),
            names: Names::new("", "drawbridge:"),
            classes: Arc::default(),
            sharded: ShardedChannels::default(),
            library: Library::new(&Default::default(), &Names::new("", "drawbridge:"), 1 << 20),
            views_open_without_permission: false,
            lease: LeaseSettings::new("n1-a".into(), std::time::Duration::from_secs(60)),
            node_channel: "drawbridge:nodes:0".into(),
            probe_every: Duration::ZERO,
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = RedisSettings { password: Some(Rotating::new("hunter2")), ..settings() };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn addresses_read_as_people_write_them() {
        assert_eq!(settings().location.to_string(), "127.0.0.1:6379");
        assert_eq!(RedisAddress::Tcp { host: "::1".into(), port: 1 }.to_string(), "[::1]:1");
        assert_eq!(RedisAddress::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
        let addresses = ["h1", "h2"].map(|host| RedisAddress::Tcp { host: host.into(), port: 7 }).to_vec();
        let cluster = RedisLocation::Cluster { addresses: addresses.clone() };
        assert_eq!(cluster.to_string(), "the Cluster of h1:7,h2:7");
        let service = RedisLocation::Sentinels { addresses, service: "game".to_owned() };
        assert_eq!(service.to_string(), "the master of game, by the sentinels h1:7,h2:7");
    }
}
