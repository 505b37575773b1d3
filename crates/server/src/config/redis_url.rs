//! `broker.url`: where Redis is and who connects. It never quotes what it refuses: the URL may hold a password.

use std::path::PathBuf;

use super::Secret;
use crate::broker::{RedisAddress, RedisLocation};
use crate::platform::NO_UNIX_SOCKETS;

/// What a URL says.
#[derive(Debug)]
pub(super) struct RedisUrl {
    pub(super) location: RedisLocation,
    pub(super) tls: bool,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) db: u8,
}

/// What is wrong with a URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) problem: &'static str,
    pub(super) hint: &'static str,
}

const FORM: &str = "it is written like redis://127.0.0.1:6379, rediss://user:password@host:6380/0, \
     redis-sentinel://h1,h2/service, redis-cluster://h1,h2 or unix:///run/redis.sock";

fn wrong(problem: &'static str) -> Wrong {
    Wrong { problem, hint: FORM }
}

const REDIS_PORT: &str = "6379";
const SENTINEL_PORT: &str = "26379";
/// More hosts than any deployment names.
const MAX_HOSTS: usize = 32;

/// How the part of a URL behind the credentials is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `host[:port][/db]`
    Server,
    /// `/path[?db=0]`
    Socket,
    /// `h1[:port],h2/service[/db]`
    Sentinels,
    /// `h1[:port],h2`
    Cluster,
}

pub(super) fn parse_url(url: &str) -> Result<RedisUrl, Wrong> {
    let (scheme, rest) = url.split_once("://").ok_or(wrong("has no scheme"))?;
    let (form, tls) = match scheme {
        "redis" => (Form::Server, false),
        "rediss" => (Form::Server, true),
        "unix" => (Form::Socket, false),
        "redis-sentinel" => (Form::Sentinels, false),
        "rediss-sentinel" => (Form::Sentinels, true),
        "redis-cluster" => (Form::Cluster, false),
        "rediss-cluster" => (Form::Cluster, true),
        _ => return Err(wrong("has a scheme that is not known")),
    };
    if let (Form::Socket, Some(hint)) = (form, NO_UNIX_SOCKETS) {
        return Err(Wrong { problem: "names a unix socket", hint });
    }
    if rest.contains('#') {
        return Err(wrong("has a part behind `#`, and a `#` in a password is written %23"));
    }
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let (username, password) = credentials.map_or(Ok((None, None)), parse_credentials)?;
    if form != Form::Socket && place.contains('?') {
        return Err(wrong("has a query, and none is known"));
    }
    let (location, db) = match form {
        Form::Server => parse_server(place)?,
        Form::Socket => parse_socket(place)?,
        Form::Sentinels => parse_sentinels(place)?,
        Form::Cluster => parse_cluster(place)?,
    };
    Ok(RedisUrl { location, tls, username, password, db })
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

fn parse_socket(place: &str) -> Result<(RedisLocation, u8), Wrong> {
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
    Ok((RedisAddress::Unix(PathBuf::from(path)).into(), db))
}

fn parse_server(place: &str) -> Result<(RedisLocation, u8), Wrong> {
    let (host, db) = place.split_once('/').unwrap_or((place, ""));
    Ok((parse_host(host, REDIS_PORT)?.into(), parse_db(db)?))
}

fn parse_sentinels(place: &str) -> Result<(RedisLocation, u8), Wrong> {
    let (hosts, rest) = place.split_once('/').unwrap_or((place, ""));
    let addresses = parse_hosts(hosts, SENTINEL_PORT)?;
    let (service, db) = rest.split_once('/').unwrap_or((rest, ""));
    // As Sentinel itself has it.
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if service.is_empty() || !service.chars().all(is_part) {
        return Err(wrong("does not name the sentinels' service (of letters, digits, `.`, `-` and `_`)"));
    }
    Ok((RedisLocation::Sentinels { addresses, service: service.to_owned() }, parse_db(db)?))
}

fn parse_cluster(place: &str) -> Result<(RedisLocation, u8), Wrong> {
    let (hosts, db) = place.split_once('/').unwrap_or((place, ""));
    let addresses = parse_hosts(hosts, REDIS_PORT)?;
    match parse_db(db)? {
        0 => Ok((RedisLocation::Cluster { addresses }, 0)),
        _ => Err(wrong("names a database, and a Cluster has none but 0")),
    }
}

fn parse_hosts(hosts: &str, default_port: &str) -> Result<Vec<RedisAddress>, Wrong> {
    if hosts.split(',').count() > MAX_HOSTS {
        return Err(wrong("names more than 32 hosts"));
    }
    hosts.split(',').map(|host| parse_host(host, default_port)).collect()
}

fn parse_host(place: &str, default_port: &str) -> Result<RedisAddress, Wrong> {
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']').ok_or(wrong("has no `]` after an IPv6 address"))?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong("has no IPv6 address in its brackets"))?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some(default_port)))
        }
        None => {
            let (host, port) = place.split_once(':').unwrap_or((place, default_port));
            if !super::is_host(host) {
                return Err(wrong("names no host"));
            }
            (host, Some(port))
        }
    };
    let port =
        port.and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or(wrong("has a wrong port"))?;
    Ok(RedisAddress::Tcp { host: host.to_owned(), port })
}

/// Nothing: 0.
fn parse_db(text: &str) -> Result<u8, Wrong> {
    match text {
        "" => Ok(0),
        text => text.parse().map_err(|_| wrong("has a wrong database number")),
    }
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
                url.location,
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
            (
                "redis-sentinel://h1,h2:7/game",
                "the master of game, by the sentinels h1:26379,h2:7 tls=false user=None password=None db=0",
            ),
            (
                "rediss-sentinel://ann:pw@[::1]/my-game.1/3",
                "the master of my-game.1, by the sentinels [::1]:26379 tls=true user=Some(\"ann\") password=Some(\"pw\") db=3",
            ),
            ("redis://[::1]", "[::1]:6379 tls=false user=None password=None db=0"),
            ("unix:///run/redis.sock", "/run/redis.sock tls=false user=None password=None db=0"),
            (
                "unix://a:b@/run/r.sock?db=2",
                "/run/r.sock tls=false user=Some(\"a\") password=Some(\"b\") db=2",
            ),
        ] {
            if NO_UNIX_SOCKETS.is_some() && url.starts_with("unix:") {
                assert_eq!(shown(url), "names a unix socket");
                continue;
            }
            assert_eq!(shown(url), expected, "{url}");
        }
    }

    #[test]
    fn wrong_addresses_are_told_apart() {
        for (url, expected) in [
            ("127.0.0.1:6379", "has no scheme"),
            ("http://h", "has a scheme that is not known"),
            ("redis-cluster://h1,h2/1", "names a database, and a Cluster has none but 0"),
            ("redis-cluster://h1,,h2", "names no host"),
            (
                "redis-sentinel://h1,h2",
                "does not name the sentinels' service (of letters, digits, `.`, `-` and `_`)",
            ),
            ("redis-sentinel://h1/game/x", "has a wrong database number"),
            ("redis-sentinel://h1:0/game", "has a wrong port"),
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
