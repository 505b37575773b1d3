//! The Redis broker: a pool of subscriber links ([`link`]) with a hub each, and one command connection
//! ([`publisher`]). Only here is a Redis client named. Pub/sub is read by our own RESP3 code ([`resp`]), commands
//! go through redis-rs, and no connection does both.

mod buffer;
mod connect;
mod conversation;
mod link;
mod publisher;
pub mod resp;

use std::sync::Arc;

use tokio::task::JoinSet;

use self::link::Link;
use self::publisher::Publisher;
use super::Shell;
use crate::config::{RedisAddress, Secret};

/// How a Redis is reached.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where.
    pub address: RedisAddress,
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

/// The code that an error of Redis begins with.
fn code_of(words: &str) -> &str {
    words.split(' ').next().unwrap_or_default()
}

/// Whether an error says that nothing was done and that it will pass.
fn is_passing(words: &str) -> bool {
    ["LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"].contains(&code_of(words))
}

/// Runs all links and the publisher until they are told to stop.
pub(super) async fn run(settings: RedisSettings, shell: Shell) {
    let settings = Arc::new(settings);
    let Shell { parts, jobs, meter, board, stop } = shell;
    let mut tasks = JoinSet::new();
    let publisher = parts.len();
    for (index, part) in parts.into_iter().enumerate() {
        let link = Link::new(index, part, settings.clone(), board.clone());
        tasks.spawn(link.run(stop.clone()));
    }
    tasks.spawn(Publisher::new(publisher, jobs, settings, board, meter).run(stop));
    while tasks.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn settings() -> RedisSettings {
        RedisSettings {
            address: RedisAddress::Tcp { host: "127.0.0.1".into(), port: 6379 },
            tls: None,
            username: None,
            password: None,
            db: 0,
            subscriber_pool: 1,
            client_name: String::new(),
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = RedisSettings { password: Some(Secret::new("hunter2")), ..settings() };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn addresses_read_as_people_write_them() {
        assert_eq!(settings().address.to_string(), "127.0.0.1:6379");
        assert_eq!(RedisAddress::Tcp { host: "::1".into(), port: 1 }.to_string(), "[::1]:1");
        assert_eq!(RedisAddress::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
    }
}
