//! Starting and ending a node: makes the parts, joins them, waits for a signal, drains ([`crate::drain`]).

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_engine::class::ShardedChannels;
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::upstream::{HubSettings, LinkId, ShardId, SlotHasher};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::auth::Verifier;
use crate::broker::{
    self, Audience, Broker, BrokerSettings, CommandChannels, RedisSettings, ShardInbox, ShardQueue,
    ThreadPlacement, shard_queue,
};
use crate::bus::Bus;
use crate::clock::Clock;
use crate::config::{BrokerKind, Config, RedisConfig, RedisTls};
use crate::dev::{self, Dev, run_demo};
use crate::drain::drain;
use crate::http::{admin, listener};
use crate::node::{Node, Phase};
use crate::platform::{EndSignals, ReloadSignals, max_open_files};
use crate::reload::Reloader;
use crate::shard::{self, Peers, ShardHandle, ShardParts};
use crate::tls::{self, ServedCertificate};
use crate::token_verifier::TokenVerifier;

/// Threads for handshakes, tokens and HTTP.
const FRONT_THREADS: usize = 2;
/// The bound of the events that wait for one shard.
const SHARD_QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// How long a start waits for Redis before the node listens without it.
const REDIS_PATIENCE: Duration = Duration::from_secs(2);
/// How often a start looks whether Redis is there.
const START_POLL: Duration = Duration::from_millis(20);

/// Why a node could not start.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

fn failed<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> StartError {
    move |error| StartError(format!("{what}: {error}"))
}

/// Runs a node until a signal ends it. `dev` adds the playground and its demo.
/// `file` is where the configuration comes from, and is read again at SIGHUP.
///
/// # Errors
/// What kept it from starting: an address in use, a key that cannot be read.
pub fn run(config: Config, file: Option<PathBuf>, dev: Option<Dev>) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(FRONT_THREADS)
        .thread_name("front")
        .enable_all()
        .build()
        .map_err(failed("cannot start the front's threads"))?;
    let ended = runtime.block_on(start_and_serve(config, file, dev));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn start_and_serve(config: Config, file: Option<PathBuf>, dev: Option<Dev>) -> Result<(), StartError> {
    // From here on they do not end the process.
    let mut signals = EndSignals::new().map_err(failed("cannot listen to signals"))?;
    let reloads = ReloadSignals::new().map_err(failed("cannot listen to signals"))?;
    let max_files = max_open_files();
    let public = bind("listen", &config.listen).await?;
    let private = match &config.admin {
        Some(admin) => Some(bind_admin(&admin.listen, dev.is_some()).await?),
        None => None,
    };
    let certificate = config.tls.as_ref().map(ServedCertificate::read).transpose().map_err(failed("tls"))?;
    let tls = certificate.clone().map(tls::acceptor).transpose().map_err(failed("tls"))?;
    // Where it fails, the shards' runtimes end within it.
    let (node, bus_events) = tokio::task::block_in_place(|| start(config, dev, max_files))?;
    tokio::spawn(Reloader::new(file, &node.config, node.token_verifier.clone(), certificate).run(reloads));
    tokio::spawn({
        let bus = node.bus.clone();
        async move { bus.run(bus_events).await }
    });
    tokio::select! {
        () = wait_for_redis(&node) => {}
        () = signals.next() => {
            node.broker.shutdown().await;
            return Ok(());
        }
    }

    let mut ready = String::from("drawbridge: ready");
    ready += &format!(" listen={}", local_address(&public));
    if let Some(private) = private {
        let address = local_address(&private);
        ready += &format!(" admin={address}");
        let _ = node.admin_address.set(address);
        tokio::spawn(admin::run(node.clone(), private));
    }
    ready += &format!(" node={}", node.config.node);
    if node.dev.is_some() {
        tokio::spawn(run_demo(node.clone()));
    }
    let first_lines = node.dev.is_some().then(|| dev::first_lines(&reachable(&public), tls.is_some()));
    tokio::spawn(listener::run(node.clone(), public, tls));
    node.enter(Phase::Ready);
    eprintln!("{ready}");
    if let Some(lines) = first_lines {
        eprintln!("{lines}");
    }

    signals.next().await;
    tokio::select! {
        () = drain(&node) => {}
        () = signals.next() => {}
    }
    node.broker.shutdown().await;
    Ok(())
}

/// Makes the broker, the shards and what joins them.
fn start(config: Config, dev: Option<Dev>, max_files: u64) -> Result<(Arc<Node>, ShardInbox), StartError> {
    let clock = Clock::start();
    let settings = Arc::new(config.engine.clone());
    let limits = SharedLimits::new(&settings);
    let (queues, inboxes): (Vec<ShardQueue>, Vec<ShardInbox>) =
        (0..config.shards).map(|_| shard_queue(SHARD_QUEUE_BYTES)).unzip();
    let (bus_queue, bus_events) = shard_queue(SHARD_QUEUE_BYTES);
    let runtimes: Vec<Runtime> =
        inboxes.iter().map(|_| shard::runtime()).collect::<Result<_, _>>().map_err(failed("a shard"))?;
    // Several shards would wait for what the one does that the links run beside.
    let placement = match &runtimes[..] {
        [only] => Some(ThreadPlacement::new(only.handle().clone())),
        _ => None,
    };
    let settings_of_broker = broker_settings(&config, placement)?;
    let broker = Broker::start(settings_of_broker, queues, bus_queue).map_err(failed("the broker"))?;
    let verifier = Arc::new(Verifier::from_config(&config.auth).map_err(failed("auth"))?);
    let token_verifier = TokenVerifier::new(verifier, tokio::runtime::Handle::current());
    let peers = Peers::default();
    let shards = (0..).zip(inboxes).zip(runtimes).map(|((id, events), runtime)| {
        let parts = ShardParts {
            id: ShardId(id),
            settings: settings.clone(),
            limits: limits.clone(),
            broker: broker.clone(),
            token_verifier: token_verifier.clone(),
            peers: peers.clone(),
            clock,
        };
        shard::start(parts, events, runtime)
    });
    let shards =
        shards.collect::<Result<Vec<ShardHandle>, _>>().map_err(failed("cannot start a shard's thread"))?;
    peers.introduce(&shards);
    let bus = Bus::new(broker, command_channels(&config), &config.engine.instance);
    let addresses = limits.connections().clone();
    let node = Node::new(config, shards, bus, token_verifier, dev, addresses, max_files);
    let this = Arc::downgrade(&node);
    node.broker.report_node(move || this.upgrade().map_or_else(|| "{}".to_owned(), |node| node.about()));
    Ok((node, bus_events))
}

fn broker_settings(
    config: &Config,
    placement: Option<ThreadPlacement>,
) -> Result<BrokerSettings, StartError> {
    let kind = match &config.broker.kind {
        BrokerKind::Memory => broker::BrokerBackend::Memory,
        BrokerKind::Redis(redis) => broker::BrokerBackend::Redis(settings_of(redis, config)?.into()),
    };
    let hub = HubSettings {
        link: LinkId::default(),
        seed: seed()?,
        linger_ms: config.linger.as_millis() as u64,
        external_bytes: config.broker.external_bytes,
        classes: config.engine.classes.clone(),
        reserved: config.engine.reserved.clone(),
        slots: SlotHasher::with_prefix(&config.broker.channel_prefix),
    };
    let (queue_bytes, commands) = (config.broker.queue_bytes, command_channels(config));
    Ok(BrokerSettings { kind, hub, queue_bytes, commands, placement })
}

fn command_channels(config: &Config) -> CommandChannels {
    let db = match &config.broker.kind {
        BrokerKind::Memory => 0,
        BrokerKind::Redis(redis) => redis.db,
    };
    CommandChannels::new(&config.broker.key_prefix, db, config.control_channel)
}

/// What the epochs of this node's counts are made of: random, so that no two starts share any.
fn seed() -> Result<u128, StartError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(failed("the system returned no random bytes"))?;
    Ok(u128::from_ne_bytes(bytes))
}

/// Waits until Redis is reachable and this node is subscribed to player commands.
async fn wait_for_redis(node: &Node) {
    let there = async {
        while !node.was_complete() {
            tokio::time::sleep(START_POLL).await;
        }
    };
    if tokio::time::timeout(REDIS_PATIENCE, there).await.is_err() {
        let trouble = node.broker.trouble(Audience::Operators).unwrap_or_default();
        match node.broker.was_serving() {
            true => tracing::warn!(trouble, "part of Redis is not reachable yet; serving what the rest has"),
            false => tracing::warn!(trouble, "Redis is not reachable yet; listening, but not ready"),
        }
    }
}

async fn bind(key: &str, address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError(format!("{key} = \"{address}\": {error}{}", bind_hint(&error))))
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there, perhaps another node: end it, or choose another port, in the configuration or by --listen of \
             `drawbridge dev` (0 takes a free one)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine does not have that address: 0.0.0.0 stands for all that it has"
        }
        _ => "",
    }
}

/// Where services and operators connect. In `dev` another playground may use the default port: the log tells where
/// its own listens, and so is who reads the line.
async fn bind_admin(address: &str, is_dev: bool) -> Result<TcpListener, StartError> {
    match bind("admin.listen", address).await {
        Err(_) if is_dev && address == dev::ADMIN_LISTEN => bind("admin.listen", dev::ANY_PORT).await,
        bound => bound,
    }
}

fn local_address(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string())
}

/// Where a browser on this machine reaches the listener.
fn reachable(listener: &TcpListener) -> String {
    match listener.local_addr() {
        Ok(address) if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
        _ => local_address(listener),
    }
}

/// How a command reaches the Redis of a configuration.
///
/// # Errors
/// The configuration names no Redis, or its certificates cannot be used.
pub(crate) fn redis_settings(config: &Config) -> Result<RedisSettings, StartError> {
    match &config.broker.kind {
        BrokerKind::Redis(redis) => settings_of(redis, config),
        BrokerKind::Memory => Err(StartError("the configuration has no Redis".to_owned())),
    }
}

fn settings_of(config: &RedisConfig, all: &Config) -> Result<RedisSettings, StartError> {
    let client = |tls: Option<&RedisTls>, what: &'static str| {
        tls.map(|tls| tls::client(tls.ca_file.as_ref()).map_err(failed(what))).transpose()
    };
    let tls = client(config.tls.as_ref(), "broker TLS")?;
    let sentinel = broker::SentinelSettings {
        tls: client(config.sentinel.tls.as_ref(), "sentinel TLS")?,
        username: config.sentinel.username.clone(),
        password: config.sentinel.password.clone(),
        master: Default::default(),
    };
    let names = broker::redis::Names::new(&all.broker.channel_prefix, &all.broker.key_prefix);
    Ok(RedisSettings {
        location: config.location.clone(),
        sentinel,
        tls,
        username: config.username.clone(),
        password: config.password.clone(),
        db: config.db.into(),
        subscriber_pool: config.subscriber_pool,
        client_name: broker::redis::client_name(&all.node),
        classes: all.engine.classes.clone(),
        sharded: ShardedChannels::new(&all.engine.classes, &all.engine.reserved),
        library: broker::redis::Library::new(&all.engine.classes, &names, all.broker.external_bytes),
        names,
        views_open_without_permission: all.broker.views_open_without_permission,
        lease: broker::redis::LeaseSettings::new(
            all.engine.instance.clone(),
            Duration::from_millis(all.engine.resume_window_ms),
        ),
        node_channel: command_channels(all).nodes,
        probe_every: config.probe,
    })
}
