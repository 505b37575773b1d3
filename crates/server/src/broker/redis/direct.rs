//! A Redis as a person at a terminal uses it, for `drawbridge tail` and `publish`: one connection that listens, or one that
//! publishes. Nodes use neither; their links and publisher are in the other files.

use std::sync::Arc;

use drawbridge_protocol::channel;
use futures_util::StreamExt as _;
use redis::Value;
use redis::aio::PubSub;
use tokio::time::timeout;

use super::command_connection::{CommandConnection, connection_info};
use super::connect::{CONNECT_TIMEOUT, open};
use super::{RedisAddress, RedisLocation, RedisSettings};

/// How an event gets to a channel's subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By `PUBLISH`.
    Plain,
    /// By `SPUBLISH`.
    Sharded,
    /// By the function that nodes load, which also writes the channel's log or table.
    Stored,
}

/// What became of a publish.
pub(crate) enum Published {
    /// By `PUBLISH` or `SPUBLISH`.
    Plain {
        /// Connections of this Redis that are subscribed.
        subscribers: i64,
    },
    /// By the function that also writes the channel's log or table.
    Stored {
        /// Its offset in the log, or the version of the table.
        offset: i64,
    },
}

/// Subscribes to a channel or pattern, calls `subscribed` once, and passes each message's channel and payload to `each`, until
/// that returns `false`.
///
/// # Errors
/// Why it ended: the error that Redis returned, a failed connection, or an error of `each`.
pub(crate) async fn listen(
    settings: &RedisSettings,
    name: &str,
    subscribed: impl FnOnce(),
    mut each: impl FnMut(&str, &[u8]) -> Result<bool, String>,
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("Redis at {}: {error}", settings.location);
    let in_redis = settings.names.outward(name);
    let begin = async {
        let stream = open(settings, any_server(settings)).await.map_err(|error| failed(&error))?;
        let mut pubsub =
            PubSub::new(&connection_info(settings), stream).await.map_err(|error| failed(&error))?;
        let done = match channel::is_pattern(name) {
            true => pubsub.psubscribe(&*in_redis).await,
            false => pubsub.subscribe(&*in_redis).await,
        };
        done.map_err(|error| failed(&error))?;
        Ok::<_, String>(pubsub)
    };
    let pubsub =
        timeout(CONNECT_TIMEOUT, begin).await.unwrap_or_else(|_| Err(failed(&"no answer in time")))?;
    subscribed();
    let mut messages = pubsub.into_on_message();
    while let Some(message) = messages.next().await {
        let channel = settings.names.inward(message.get_channel_name().as_bytes()).unwrap_or_default();
        if !each(&String::from_utf8_lossy(channel), message.get_payload_bytes())? {
            return Ok(());
        }
    }
    Err(failed(&"the connection was closed"))
}

/// Publishes.
///
/// # Errors
/// The error that Redis returned, or a failed connection.
pub(crate) async fn publish(
    settings: RedisSettings,
    channel: &str,
    payload: &str,
    how: How,
) -> Result<Published, String> {
    let settings = Arc::new(settings);
    let failed = |error: &dyn std::fmt::Display| format!("Redis at {}: {error}", settings.location);
    let in_redis = settings.names.outward(channel);
    let mut command = match how {
        How::Plain => redis::cmd("PUBLISH"),
        How::Sharded => redis::cmd("SPUBLISH"),
        How::Stored => {
            let mut call = redis::cmd("FCALL");
            call.arg("drawbridge_publish").arg(1);
            call
        }
    };
    command.arg(&*in_redis).arg(payload);
    let ask = async |address: Option<&RedisAddress>| {
        let mut connection = CommandConnection::open(settings.clone(), address, "publish").await?;
        connection.ask(&command).await
    };
    let asked = any_server(&settings);
    let mut answer = ask(asked).await.map_err(|error| failed(&error))?;
    if let Some(owner) = answer.as_ref().err().and_then(|words| moved_to(words, asked)) {
        answer = ask(Some(&owner)).await.map_err(|error| failed(&error))?;
    }
    match answer {
        Ok(Value::Int(offset)) if how == How::Stored => Ok(Published::Stored { offset }),
        Ok(Value::Int(subscribers)) => Ok(Published::Plain { subscribers }),
        Ok(_) => Err(failed(&"an answer that is no number")),
        Err(words) if words.contains("not found") => Err(failed(&format!(
            "{words}; the function is loaded by a node: start one with this configuration first"
        ))),
        Err(words) => Err(failed(&words)),
    }
}

/// In a Cluster, a server: each passes on what is published with `PUBLISH`, and names the owner of everything else.
fn any_server(settings: &RedisSettings) -> Option<&RedisAddress> {
    match &settings.location {
        RedisLocation::Cluster { addresses } => addresses.first(),
        RedisLocation::Server(_) | RedisLocation::Sentinels { .. } => None,
    }
}

/// Where the channel is, by Redis' `MOVED slot host:port`. Without a host it is that of the server that was asked.
fn moved_to(words: &str, asked: Option<&RedisAddress>) -> Option<RedisAddress> {
    let (host, port) = words.strip_prefix("MOVED ")?.rsplit_once(' ')?.1.rsplit_once(':')?;
    let host = match (host, asked) {
        ("", Some(RedisAddress::Tcp { host, .. })) => host,
        (host, _) => host,
    };
    Some(RedisAddress::Tcp { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_channel_is_where_redis_says() {
        let tcp = |host: &str, port| RedisAddress::Tcp { host: host.to_owned(), port };
        let asked = tcp("10.0.0.1", 7000);
        for (words, owner) in [
            ("MOVED 3999 127.0.0.1:6381", Some(tcp("127.0.0.1", 6381))),
            ("MOVED 3999 ::1:6381", Some(tcp("::1", 6381))),
            ("MOVED 3999 :6381", Some(tcp("10.0.0.1", 6381))),
            ("MOVED", None),
            ("MOVED 3999 nowhere", None),
            ("ERR no", None),
        ] {
            assert_eq!(moved_to(words, Some(&asked)), owner, "{words}");
        }
    }
}
