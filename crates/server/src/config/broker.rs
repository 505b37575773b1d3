//! `[broker]`: which broker, where it is and how to get in. It reads the address; connecting is the broker's.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Field, Section};
use super::redis_url::{RedisUrl, parse_url};
use super::{MAX_SIZE, Rotating, Secret};
use crate::broker::RedisLocation;

/// `[broker]`.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Which, and where.
    pub kind: BrokerKind,
    /// Of Drawbridge's own keys and channels; never empty.
    pub key_prefix: String,
    /// Begins every name that this environment has in Redis; empty: names stay as they are.
    pub channel_prefix: String,
    /// The bound of publishes that wait while Redis is away, in bytes.
    pub queue_bytes: usize,
    /// A service's payload over it is dropped, counted and logged. In bytes.
    pub external_bytes: usize,
    /// Where Redis does not let the node read players' views, the classes' alone hold.
    pub views_open_without_permission: bool,
}

/// The two brokers.
#[derive(Clone, Debug)]
pub enum BrokerKind {
    /// Within this process: one node, nothing kept.
    Memory,
    /// Redis, standalone.
    Redis(RedisConfig),
}

/// How to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is.
    pub location: RedisLocation,
    /// `rediss://`: with TLS.
    pub tls: Option<RedisTls>,
    /// The ACL user; `None`: Redis' default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Rotating>,
    /// How sentinels are reached.
    pub sentinel: SentinelConfig,
    /// `SELECT`ed for keys; Pub/Sub knows no databases.
    pub db: u8,
    /// Over how many connections subscriptions are spread; at least 1.
    pub subscriber_pool: usize,
    /// How often each of them proves that publications arrive; zero: never.
    pub probe: Duration,
}

/// How sentinels are reached, where Redis is behind any.
#[derive(Clone, Debug, Default)]
pub struct SentinelConfig {
    /// `sentinel_tls`, or as the master is reached: with TLS.
    pub tls: Option<RedisTls>,
    /// Their ACL user; `None`: their default user.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<Rotating>,
}

/// TLS towards Redis or its sentinels.
#[derive(Clone, Debug, Default)]
pub struct RedisTls {
    /// The certificates to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BackendName {
    Memory,
    Redis,
}

pub(super) fn read(section: &Section<'_>) -> Broker {
    let kind_given = section.has("kind");
    let kind = section.choice(
        "kind",
        BackendName::Memory,
        &[("memory", BackendName::Memory), ("redis", BackendName::Redis)],
    );
    let url_given = section.has("url");
    let redis = read_redis(section);
    let kind = match (kind, redis) {
        (BackendName::Redis, Some(redis)) => BrokerKind::Redis(redis),
        (BackendName::Redis, None) if !url_given => {
            section.error(
                "`broker.kind` is \"redis\", and there is no `broker.url`",
                "add url = \"redis://127.0.0.1:6379\"",
            );
            BrokerKind::Memory
        }
        (BackendName::Memory, _) if url_given && !kind_given => {
            section.error(
                "`broker.url` is given, and `broker.kind` is \"memory\" by default",
                "add kind = \"redis\" (or kind = \"memory\" to leave Redis alone)",
            );
            BrokerKind::Memory
        }
        _ => BrokerKind::Memory,
    };
    let key_prefix =
        section.field("key_prefix").and_then(key_prefix).unwrap_or_else(|| DEFAULT_KEY_PREFIX.to_owned());
    let channel_prefix =
        section.field("channel_prefix").and_then(|field| channel_prefix(&field, &key_prefix));
    if let BrokerKind::Redis(RedisConfig { db: db @ 1.., .. }) = &kind
        && channel_prefix.as_ref().is_none_or(String::is_empty)
    {
        section.cx().warn(format!(
            "`broker.url` names database {db}, and Redis Pub/Sub ignores databases: events and services' commands reach \
             the environments in the other databases of this Redis, too; give each environment a `broker.channel_prefix`"
        ));
    }
    let broker = Broker {
        kind,
        key_prefix,
        channel_prefix: channel_prefix.unwrap_or_default(),
        queue_bytes: section.size("queue_bytes", 16 << 20, 1 << 10..=MAX_SIZE) as usize,
        external_bytes: section.size("external_bytes", 1 << 20, 1 << 10..=512 << 20) as usize,
        views_open_without_permission: section.choice(
            "views_without_permission",
            false,
            &[("closed", false), ("open", true)],
        ),
    };
    section.close();
    broker
}

const DEFAULT_KEY_PREFIX: &str = "drawbridge:";
const MAX_PREFIX_BYTES: usize = 64;

/// Ends with a sign, so that no environment's name begins another's by chance (`prod` and `production`). It contains a letter
/// or digit, so that it is recognised in the errors that Redis returns. Signs of patterns and braces have a meaning in Redis:
/// in patterns, in ACL rules, and in the hash tags of a Cluster.
fn channel_prefix(field: &Field<'_>, key_prefix: &str) -> Option<String> {
    let prefix = field.string()?;
    let is_sign = |c: char| matches!(c, ':' | '.' | '-' | '_' | '/');
    let is_fit = prefix.chars().all(|c| c.is_ascii_alphanumeric() || is_sign(c));
    let is_name = prefix.ends_with(is_sign) && prefix.contains(|c: char| c.is_ascii_alphanumeric());
    if prefix.len() > MAX_PREFIX_BYTES || !is_fit || !(prefix.is_empty() || is_name) {
        field.error(
            "is not fit for a prefix",
            "at most 64 ASCII letters, digits and `:.-_/`, at least one a letter or digit, and the last one a sign, like \"prod:\"",
        );
        return None;
    }
    let collides =
        |keys: &str| !prefix.is_empty() && (prefix.starts_with(keys) || keys.starts_with(&*prefix));
    if collides(key_prefix) || collides(DEFAULT_KEY_PREFIX) {
        field.error(
            format_args!("collides with `broker.key_prefix`, which is \"{key_prefix}\""),
            "the names of channels must differ from those of Drawbridge's own keys; key_prefix stands behind channel_prefix in Redis and need not repeat it",
        );
        return None;
    }
    Some(prefix)
}

fn key_prefix(field: Field<'_>) -> Option<String> {
    let prefix = field.text()?;
    let unfit = |c: char| {
        c.is_whitespace() || c.is_control() || matches!(c, '{' | '}' | '*' | '?' | '[' | ']' | '\\')
    };
    if prefix.len() > MAX_PREFIX_BYTES || prefix.contains(unfit) {
        field.error(
            "is not fit for a prefix",
            "at most 64 bytes, without white space, braces and the signs of patterns, like \"drawbridge:\"",
        );
        return None;
    }
    Some(prefix)
}

/// Reads and validates what concerns Redis, whatever the kind; `None` where there is no usable address.
fn read_redis(section: &Section<'_>) -> Option<RedisConfig> {
    let url = section.field("url").and_then(|field| {
        let text = field.string()?;
        parse_url(&text).map_err(|wrong| field.error(wrong.problem, wrong.hint)).ok()
    });
    let username = section.field("username").and_then(|field| field.text());
    let password = section.field("password").and_then(|field| field.text()).map(Secret::new);
    let (sentinel, sentinel_tls) = read_sentinel(section, url.as_ref());
    let ca_file = section.field("tls_ca_file").and_then(|field| {
        if url.as_ref().is_some_and(|url| !url.tls && !sentinel_tls) {
            field.error("is of no use without TLS", "begin `broker.url` with rediss://");
        }
        super::files::certificates(&field)
    });
    let subscriber_pool = section.number("subscriber_pool", 2, 1..=64) as usize;
    let probe = section.duration("probe", Duration::from_secs(2), Duration::ZERO..=Duration::from_secs(60));
    let url = url?;
    let username = username.or(url.username);
    let password = password.or(url.password).map(Rotating::from);
    if username.is_some() && password.is_none() {
        section.error(
            "the broker's user has no password",
            "add `password`, or write both in the URL: redis://user:password@host",
        );
    }
    let tls = RedisTls { ca_file };
    let sentinel = SentinelConfig { tls: sentinel_tls.then(|| tls.clone()), ..sentinel };
    let tls = url.tls.then_some(tls);
    let (location, db) = (url.location, url.db);
    Some(RedisConfig { location, tls, username, password, sentinel, db, subscriber_pool, probe })
}

/// How sentinels are reached, without the part about TLS, and whether they are reached with TLS.
fn read_sentinel(section: &Section<'_>, url: Option<&RedisUrl>) -> (SentinelConfig, bool) {
    let has_sentinels = url.is_none_or(|url| matches!(url.location, RedisLocation::Sentinels { .. }));
    let field = |key| {
        let field = section.field(key)?;
        if !has_sentinels {
            field.error("is of no use without Sentinel", "begin `broker.url` with redis-sentinel://");
        }
        Some(field)
    };
    let username = field("sentinel_username").and_then(|field| field.text());
    let password = field("sentinel_password").and_then(|field| field.text()).map(Rotating::new);
    if username.is_some() && password.is_none() {
        section.error("the sentinels' user has no password", "add `sentinel_password`");
    }
    let tls = field("sentinel_tls").and_then(|field| field.boolean());
    let tls = has_sentinels && tls.or(url.map(|url| url.tls)).unwrap_or(false);
    (SentinelConfig { tls: None, username, password }, tls)
}
