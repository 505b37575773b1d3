//! A Redis as a person at a terminal uses it, for `drawbridge tail` and `publish`: connections that subscribe (`listen`), or one
//! that publishes. Nodes use neither; their links and publisher are in the other files.

mod listen;

use std::sync::Arc;

use redis::Value;

use super::command_connection::CommandConnection;
use super::connect::Broken;
use super::{RedisAddress, RedisLocation, RedisSettings};
pub(crate) use listen::{Listened, Listening, Subscribing, listen};

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
    let (mut connection, asked) = connect_any(&settings).await.map_err(|error| failed(&error))?;
    let mut answer = connection.ask(&command).await.map_err(|error| failed(&error))?;
    if let Some(owner) = answer.as_ref().err().and_then(|words| moved_to(words, asked)) {
        connection = connect(&settings, Some(&owner)).await.map_err(|error| failed(&error))?;
        answer = connection.ask(&command).await.map_err(|error| failed(&error))?;
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

/// A connection to the first server that can be reached and takes commands, and its address if it is of a Cluster.
async fn connect_any(
    settings: &Arc<RedisSettings>,
) -> Result<(CommandConnection, Option<&RedisAddress>), Broken> {
    let mut last = Broken::Silent;
    for address in first_servers(settings) {
        match connect(settings, address).await {
            Ok(connection) => return Ok((connection, address)),
            Err(broken) => last = broken,
        }
    }
    Err(last)
}

async fn connect(
    settings: &Arc<RedisSettings>,
    address: Option<&RedisAddress>,
) -> Result<CommandConnection, Broken> {
    CommandConnection::open(settings.clone(), address, "publish").await
}

/// Where to begin. In a Cluster each server passes on what is published with `PUBLISH`, and names the owner of everything else.
fn first_servers(settings: &RedisSettings) -> Vec<Option<&RedisAddress>> {
    match &settings.location {
        RedisLocation::Cluster { addresses } => addresses.iter().map(Some).collect(),
        RedisLocation::Server(_) | RedisLocation::Sentinels { .. } => vec![None],
    }
}

/// Where the channel is, by Redis' `MOVED slot host:port`.
fn moved_to(words: &str, asked: Option<&RedisAddress>) -> Option<RedisAddress> {
    let (_slot, to) = words.strip_prefix("MOVED ")?.split_once(' ')?;
    RedisAddress::redirected(to, asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_moved_says_where_a_channel_is() {
        let owner = RedisAddress::Tcp { host: "127.0.0.1".to_owned(), port: 6381 };
        assert_eq!(moved_to("MOVED 3999 127.0.0.1:6381", None), Some(owner));
        for words in ["MOVED", "MOVED 3999", "MOVED 3999 nowhere", "ERR no"] {
            assert_eq!(moved_to(words, None), None, "{words}");
        }
    }
}
