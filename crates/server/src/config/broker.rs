//! `[broker]`: which broker, where it is and how to get in. It reads the address; connecting is the broker's.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Field, Section};
use super::{MAX_SIZE, Rotating, Secret};
use crate::broker::RedisAddress;

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
    /// Where it listens.
    pub address: RedisAddress,
    /// `rediss://`: with TLS.
    pub tls: Option<RedisTls>,
    /// The ACL user; `None`: Redis' default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Rotating>,
    /// `SELECT`ed for keys; Pub/Sub knows no databases.
    pub db: u8,
    /// Over how many connections subscriptions are spread; at least 1.
    pub subscriber_pool: usize,
    /// How often each of them proves that publications arrive; zero: never.
    pub probe: Duration,
}

/// TLS towards Redis.
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
    let ca_file = section.field("tls_ca_file").and_then(|field| {
        if url.as_ref().is_some_and(|url| !url.tls) {
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
    let tls = url.tls.then_some(RedisTls { ca_file });
    Some(RedisConfig { address: url.address, tls, username, password, db: url.db, subscriber_pool, probe })
}

#[derive(Debug)]
pub(super) struct RedisUrl {
    address: RedisAddress,
    tls: bool,
    username: Option<String>,
    password: Option<Secret>,
    db: u8,
}

/// What is wrong with an address. It never quotes it: it may hold a password.
#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    problem: &'static str,
    hint: &'static str,
}

const FORM: &str =
    "it is written like redis://127.0.0.1:6379, rediss://user:password@host:6380/0 or unix:///run/redis.sock";

fn wrong(problem: &'static str) -> Wrong {
    Wrong { problem, hint: FORM }
}

fn parse_url(url: &str) -> Result<RedisUrl, Wrong> {
    let (scheme, rest) = url.split_once("://").ok_or(wrong("has no scheme"))?;
    let tls = match scheme {
        "redis" | "unix" => false,
        "rediss" => true,
        "redis-sentinel" | "rediss-sentinel" => {
            return Err(Wrong { problem: "names Sentinel, which is not supported yet", hint: FORM });
        }
        "redis-cluster" | "rediss-cluster" => {
            return Err(Wrong { problem: "names a Cluster, which is not supported yet", hint: FORM });
        }
        _ => return Err(wrong("has a scheme that is not known")),
    };
    if rest.contains('#') {
        return Err(wrong("has a part behind `#`, and a `#` in a password is written %23"));
    }
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let (username, password) = credentials.map_or(Ok((None, None)), parse_credentials)?;
    let (address, db) = if scheme == "unix" { parse_socket(place)? } else { parse_host(place)? };
    Ok(RedisUrl { address, tls, username, password, db })
}

fn parse_credentials(text: &str) -> Result<(Option<String>, Option<Secret>), Wrong> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    let decode =
        |part: &str| percent_decode(part).ok_or(wrong("has a wrong percent sign in user or password"));
    let user = decode(user)?;
    let password = password.map(decode).transpose()?.filter(|password| !password.is_empty());
    Ok(((!user.is_empty()).then_some(user), password.map(Secret::new)))
}

fn parse_socket(place: &str) -> Result<(RedisAddress, u8), Wrong> {
    let (path, db) = match place.split_once('?') {
        None => (place, 0),
        Some((path, query)) => {
            let db = query.strip_prefix("db=").ok_or(wrong("has a query that is not known; only ?db=0"))?;
            (path, parse_db(db)?)
        }
    };
    if !path.starts_with('/') || path.len() < 2 {
        return Err(wrong("does not name a socket by its whole path"));
    }
    let path = percent_decode(path).ok_or(wrong("has a wrong percent sign in the path"))?;
    Ok((RedisAddress::Unix(PathBuf::from(path)), db))
}

const DEFAULT_PORT: &str = "6379";

fn parse_host(place: &str) -> Result<(RedisAddress, u8), Wrong> {
    let (place, db) = place.split_once('/').unwrap_or((place, ""));
    if db.contains('?') || place.contains('?') {
        return Err(wrong("has a query, and none is known"));
    }
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']').ok_or(wrong("has no `]` after an IPv6 address"))?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong("has no IPv6 address in its brackets"))?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some(DEFAULT_PORT)))
        }
        None => {
            let (host, port) = place.split_once(':').unwrap_or((place, DEFAULT_PORT));
            if !super::is_host(host) {
                return Err(wrong("names no host"));
            }
            (host, Some(port))
        }
    };
    let port =
        port.and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or(wrong("has a wrong port"))?;
    let db = if db.is_empty() { 0 } else { parse_db(db)? };
    Ok((RedisAddress::Tcp { host: host.to_owned(), port }, db))
}

fn parse_db(text: &str) -> Result<u8, Wrong> {
    text.parse().map_err(|_| wrong("has a wrong database number"))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (code, tail) = rest.split_at_checked(2)?;
        let code =
            std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(url: &str) -> String {
        match parse_url(url) {
            Err(wrong) => wrong.problem.to_owned(),
            Ok(url) => format!(
                "{} tls={} user={:?} password={:?} db={}",
                url.address,
                url.tls,
                url.username,
                url.password.as_ref().map(Secret::expose),
                url.db
            ),
        }
    }

    #[test]
    fn addresses_are_read() {
        for (url, expected) in [
            ("redis://127.0.0.1:6379", "127.0.0.1:6379 tls=false user=None password=None db=0"),
            ("redis://localhost", "localhost:6379 tls=false user=None password=None db=0"),
            ("redis://:pw@h:1/3", "h:1 tls=false user=None password=Some(\"pw\") db=3"),
            (
                "rediss://ann:p%40s%3As@h:6380/",
                "h:6380 tls=true user=Some(\"ann\") password=Some(\"p@s:s\") db=0",
            ),
            ("redis://ann:p@ss@h", "h:6379 tls=false user=Some(\"ann\") password=Some(\"p@ss\") db=0"),
            ("redis://[::1]:7000", "[::1]:7000 tls=false user=None password=None db=0"),
            ("redis://[::1]", "[::1]:6379 tls=false user=None password=None db=0"),
            ("unix:///run/redis.sock", "/run/redis.sock tls=false user=None password=None db=0"),
            (
                "unix://a:b@/run/r.sock?db=2",
                "/run/r.sock tls=false user=Some(\"a\") password=Some(\"b\") db=2",
            ),
        ] {
            assert_eq!(shown(url), expected, "{url}");
        }
    }

    #[test]
    fn wrong_addresses_are_told_apart() {
        for (url, expected) in [
            ("127.0.0.1:6379", "has no scheme"),
            ("http://h", "has a scheme that is not known"),
            ("redis-sentinel://h1,h2/service", "names Sentinel, which is not supported yet"),
            ("redis-cluster://h1,h2", "names a Cluster, which is not supported yet"),
            ("redis://", "names no host"),
            ("redis://h:0", "has a wrong port"),
            ("redis://h:99999", "has a wrong port"),
            ("redis://[::1", "has no `]` after an IPv6 address"),
            ("redis://[::1]x", "has a wrong port"),
            ("redis://h/x", "has a wrong database number"),
            ("redis://h/256", "has a wrong database number"),
            ("redis://h?x=1", "has a query, and none is known"),
            ("redis://a:%zz@h", "has a wrong percent sign in user or password"),
            ("redis://a:b#c@h", "has a part behind `#`, and a `#` in a password is written %23"),
            ("unix://run/redis.sock", "does not name a socket by its whole path"),
        ] {
            assert_eq!(shown(url), expected, "{url}");
        }
    }
}
