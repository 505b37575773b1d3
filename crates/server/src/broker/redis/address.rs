//! Where Redis is: one server, or several that are one Redis.

use std::fmt;
use std::path::PathBuf;

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RedisAddress {
    /// Over the network.
    Tcp {
        /// A name or an address, an IPv6 address without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedisAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            RedisAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            RedisAddress::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl RedisAddress {
    /// The server that `MOVED` and `ASK` name, as `host:port`; `None`: that cannot be read. Where the host is left out it is that of
    /// the server that answered.
    pub(super) fn redirected(to: &str, answered: Option<&RedisAddress>) -> Option<RedisAddress> {
        let (host, port) = to.rsplit_once(':')?;
        let host = match (host, answered) {
            ("", Some(RedisAddress::Tcp { host, .. })) => host,
            (host, _) => host,
        };
        Some(RedisAddress::Tcp { host: host.to_owned(), port: port.parse().ok()? })
    }
}

/// Where Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisLocation {
    /// One server.
    Server(RedisAddress),
    /// The master that sentinels name.
    Sentinels {
        /// Some of the sentinels, over TCP; at least one.
        addresses: Vec<RedisAddress>,
        /// What they call the master.
        service: String,
    },
    /// The masters of a Redis Cluster.
    Cluster {
        /// Some of its servers, over TCP; at least one.
        addresses: Vec<RedisAddress>,
    },
}

impl From<RedisAddress> for RedisLocation {
    fn from(address: RedisAddress) -> Self {
        RedisLocation::Server(address)
    }
}

impl fmt::Display for RedisLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedisLocation::Server(address) => write!(f, "{address}"),
            RedisLocation::Sentinels { addresses, service } => {
                write!(f, "the master of {service}, by the sentinels {}", list(addresses))
            }
            RedisLocation::Cluster { addresses } => write!(f, "the Cluster of {}", list(addresses)),
        }
    }
}

fn list(addresses: &[RedisAddress]) -> String {
    addresses.iter().map(RedisAddress::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_names_a_server_or_only_its_port() {
        let tcp = |host: &str, port| RedisAddress::Tcp { host: host.to_owned(), port };
        let answered = tcp("10.0.0.1", 7000);
        for (to, address) in [
            ("127.0.0.1:6381", Some(tcp("127.0.0.1", 6381))),
            ("::1:6381", Some(tcp("::1", 6381))),
            (":6381", Some(tcp("10.0.0.1", 6381))),
            ("nowhere", None),
            ("h:x", None),
        ] {
            assert_eq!(RedisAddress::redirected(to, Some(&answered)), address, "{to}");
        }
    }
}
