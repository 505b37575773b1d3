//! The configuration: one TOML file and the environment in, one validated [`Config`] out. What is read here is
//! validated here, all of it, so that nothing after it parses text or meets a wrong value; every problem is reported at
//! once, each with its place and what would be right. `docs/configuration.md` explains each key.
//!
//! `tree` is the raw input, `env` lays the environment over it, `reader` turns raw values into typed ones, and a
//! module for each table lists its keys. Listening, connecting and checking tokens are done elsewhere.

mod auth;
mod broker;
mod channel;
mod connection;
mod env;
mod error;
mod files;
mod history;
mod later;
mod node;
mod reader;
mod redis_url;
mod suggest;
#[cfg(test)]
mod tests;
mod tree;
pub(crate) mod units;
mod views;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_engine::settings::{Reserved, Settings};
use drawbridge_engine::work::SNAPSHOT_STEPS;
use ipnet::IpNet;

use crate::secret::random_hex;
pub use crate::secret::{Rotating, Secret};
pub use auth::Auth;
pub use broker::{Broker, BrokerKind, RedisConfig, RedisTls, SentinelConfig};
pub use error::{ConfigError, ConfigErrors, Location};
pub use files::Tls;
pub use node::Admin;

use reader::{Context, Section};

/// The bound of every size without a smaller one of its own, in bytes.
const MAX_SIZE: u64 = 16 << 30;

/// A node's whole configuration, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Where players connect: `host:port`; port 0 takes a free one.
    pub listen: String,
    /// The admin listener; `None`: none.
    pub admin: Option<Admin>,
    /// Whose word about a client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// How long a node that is to end goes on as before, not ready, so that load balancers take it out.
    pub drain_delay: Duration,
    /// Over how long the closes of a drain are spread.
    pub drain_window: Duration,
    /// How long Redis may be unavailable before `/readyz` reports it.
    pub ready_grace: Duration,
    /// Whether player commands are taken from `drawbridge:control`.
    pub control_channel: bool,
    /// How many threads serve sockets, 1 to 32.
    pub shards: usize,
    /// TLS for players; `None`: plain.
    pub tls: Option<Tls>,
    /// `[broker]`.
    pub broker: Broker,
    /// `[auth]`.
    pub auth: Auth,
    /// Which web pages may connect; `None`: those of the same origin. `*` is any.
    pub allowed_origins: Option<Vec<String>>,
    /// Whether `permessage-deflate` is agreed to.
    pub compression: bool,
    /// How long a Redis subscription outlives its last subscriber.
    pub linger: Duration,
    /// The engines' settings.
    pub engine: Settings,
    /// What is allowed, and probably not meant.
    pub warnings: Vec<String>,
}

/// Reads and validates a file, with the environment's overrides.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let bytes = files::read(path).map_err(|problem| {
        let hint = (!path.exists()).then(|| format!("`drawbridge init {name}` writes one"));
        ConfigErrors::unreadable(&name, problem, hint)
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| ConfigErrors::unreadable(&name, "is not UTF-8".to_owned(), None))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    read(&name, &text, directory, environment()).map(|(config, _)| config)
}

/// Reads and validates the environment's variables alone, for a node without a file.
///
/// # Errors
/// Everything that is wrong with them, or that there are none.
pub fn from_environment() -> Result<Config, ConfigErrors> {
    let variables: Vec<(String, String)> = environment().collect();
    if !variables.iter().any(|(name, value)| env::is_ours(name, value)) {
        let problem = "no configuration: name a file (--config FILE, which `drawbridge init` writes), or set variables \
                       such as DRAWBRIDGE_BROKER__URL";
        return Err(ConfigErrors::refused("drawbridge serve", problem));
    }
    read("environment", "", Path::new(""), variables.into_iter()).map(|(config, _)| config)
}

/// Validates the text of a configuration, with these variables in place of the environment. Files that it names
/// are looked for in the working directory.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(name: &str, text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    read(name, text, Path::new(""), variables).map(|(config, _)| config)
}

/// The configuration of `drawbridge dev`: sample classes, a secret of this run, and the memory broker or that Redis.
/// The environment's overrides hold here too.
///
/// # Errors
/// A wrong Redis URL, or a wrong override.
pub fn dev(redis: Option<&str>) -> Result<Config, ConfigErrors> {
    let secret = random_hex()
        .map_err(|error| ConfigErrors::unreadable("dev", format!("no randomness: {error}"), None))?;
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let default = [own("DRAWBRIDGE_AUTH__HMAC_SECRET", &secret)];
    let typed =
        redis.map(|url| [own("DRAWBRIDGE_BROKER__KIND", "redis"), own("DRAWBRIDGE_BROKER__URL", url)]);
    // Of a name that is there twice, the last is laid over the others.
    let variables = default.into_iter().chain(environment()).chain(typed.into_iter().flatten());
    let mut config = match read("dev", include_str!("dev.toml"), Path::new(""), variables) {
        Ok((config, _)) => config,
        Err(errors) => return Err(errors.renamed("DRAWBRIDGE_BROKER__URL", redis.map(|_| "--redis"))),
    };
    config.engine.explain = true;
    Ok(config)
}

/// The configuration of a command that reaches this Redis and nothing else.
///
/// # Errors
/// A wrong URL.
pub fn of_redis(url: &str) -> Result<Config, ConfigErrors> {
    let variables = [("DRAWBRIDGE_BROKER__KIND", "redis"), ("DRAWBRIDGE_BROKER__URL", url)];
    parse("--redis", "", &variables)
        .map_err(|errors| errors.renamed("DRAWBRIDGE_BROKER__URL", Some("--redis")))
}

/// Takes an address to listen on, `host:port`, from the command line.
///
/// # Errors
/// What is wrong with it.
pub fn listen_address(text: &str) -> Result<String, String> {
    if node::is_address(text) {
        return Ok(text.to_owned());
    }
    Err("it is written like 127.0.0.1:8000, [::1]:8000 or 0.0.0.0:0 (port 0 takes a free one)".to_owned())
}

/// A file that a command names, whole.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with its name.
pub fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    files::read(path)
}

fn environment() -> impl Iterator<Item = (String, String)> {
    // What is not UTF-8 is never valid; the rules see it with replacement characters, which they refuse.
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// Also returns all known keys, for the tests of the documents.
fn read(
    name: &str,
    text: &str,
    directory: &Path,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<(Config, BTreeSet<String>), ConfigErrors> {
    let (mut table, syntax_errors) = tree::parse_file(text);
    if !syntax_errors.is_empty() {
        return Err(ConfigErrors::new(name, syntax_errors));
    }
    let cx = Context::new(text, directory.to_owned());
    cx.note_errors(env::overlay(&mut table, variables));
    let mut config = build(&Section::root(&cx, table));
    let (errors, warnings, known) = cx.finish();
    if !errors.is_empty() {
        return Err(ConfigErrors::new(name, errors));
    }
    config.warnings = warnings;
    Ok((config, known))
}

fn build(root: &Section<'_>) -> Config {
    let node = node::read(root);
    let broker = broker::read(&root.table("broker"));
    let auth = auth::read(&root.table("auth"));
    let lifecycle_stream = connection::read_lifecycle(&root.table("lifecycle"));
    let connection = connection::read(&root.table("connection"));
    let limits = connection::read_limits(&root.table("limits"));
    let classes = channel::read(&root.tables("channel"));
    later::refuse(root, "logic");
    root.close();
    let engine = Settings {
        node: Arc::from(&*node.name),
        instance: node::instance(&node.name).into(),
        classes,
        auto_subscribe: connection.auto_subscribe,
        allow_anonymous: auth.allow_anonymous,
        connect_timeout_ms: millis(connection.connect_timeout),
        token_leeway_ms: millis(auth.leeway),
        heartbeat_ms: millis(connection.heartbeat),
        resume_window_ms: millis(connection.resume_window),
        detached_per_player: limits.detached_per_player,
        detached_bytes: limits.detached_bytes,
        outbound_bytes: connection.outbound_bytes,
        message_bytes: limits.message_bytes,
        subscriptions: limits.subscriptions,
        patterns_per_player: limits.patterns_per_player,
        // The shards share nothing; sockets are spread over them evenly.
        connecting: limits.connecting.div_ceil(node.shards),
        messages: limits.messages,
        subscribes: limits.subscribes,
        bytes: limits.bytes,
        connections_per_player: limits.connections_per_player,
        work: limits.work,
        messages_per_player: limits.messages_per_player,
        connections_per_address: limits.connections_per_address,
        messages_per_address: limits.messages_per_address,
        lifecycle_stream,
        reserved: Reserved::new(&*broker.key_prefix),
        external_bytes: broker.external_bytes,
        views_open_without_permission: broker.views_open_without_permission,
        snapshot_steps: SNAPSHOT_STEPS,
        explain: false,
    };
    Config {
        node: node.name,
        listen: node.listen,
        admin: node.admin,
        trusted_proxies: node.trusted_proxies,
        proxy_protocol: node.proxy_protocol,
        drain_delay: node.drain_delay,
        drain_window: node.drain_window,
        ready_grace: node.ready_grace,
        control_channel: node.control_channel,
        shards: node.shards,
        tls: node.tls,
        broker,
        auth,
        allowed_origins: connection.allowed_origins,
        compression: connection.compression,
        linger: connection.linger,
        engine,
        warnings: Vec::new(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a text can be a host's name or an IPv4 address.
fn is_host(text: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(fit)
}
