//! Subscribes for `drawbridge tail`: by `SUBSCRIBE` or `PSUBSCRIBE` at any server, and by `SSUBSCRIBE` at the master of the
//! channel's slot, whichever that is. Each has its own connection. What is printed is left to the command.

use std::time::Duration;

use drawbridge_protocol::channel;
use tokio::time::{sleep, timeout};

use super::super::connect::{Broken, CONNECT_TIMEOUT, open};
use super::super::plain_connection::{PlainConnection, Received};
use super::super::{RedisAddress, RedisSettings, code_of};
use super::{first_servers, moved_to};

/// Between attempts to find a slot's master while the servers of a Cluster disagree about it.
const PAUSE: Duration = Duration::from_millis(100);

/// By which commands the channel's events may be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscribing {
    /// `PUBLISH`.
    Plain,
    /// `SPUBLISH`.
    Sharded,
    /// Either, as far as this Redis knows sharded channels.
    Both,
}

/// What to subscribe to, and where.
pub(crate) struct Listening<'s> {
    /// The Redis.
    pub(crate) settings: &'s RedisSettings,
    /// The channel or pattern, without the prefix that it has in Redis. Patterns are never sharded.
    pub(crate) name: &'s str,
    /// How.
    pub(crate) subscribing: Subscribing,
    /// The longest payload that is read, in bytes.
    pub(crate) max_payload: usize,
}

/// What happens while subscribed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listened<'m> {
    /// Redis has confirmed everything.
    Begun,
    /// Events published by `SPUBLISH` will be missing, for this reason.
    WithoutSharded(&'m str),
    /// The channel has another master in its Cluster, and is subscribed there: events published in between are missing.
    Moved,
    /// Something was published.
    Message {
        /// The channel, without the prefix that it has in Redis.
        channel: &'m str,
        /// As it was published.
        payload: &'m [u8],
    },
    /// Something longer than is read was published.
    Oversized {
        /// The channel, without the prefix that it has in Redis.
        channel: &'m str,
        /// Its size.
        bytes: u64,
    },
}

/// Subscribes, and passes what happens to `each` until that returns `false`.
///
/// # Errors
/// Why it ended: the error that Redis returned, or a failed connection.
pub(crate) async fn listen(
    wanted: &Listening<'_>,
    mut each: impl FnMut(Listened<'_>) -> bool,
) -> Result<(), String> {
    let failed = |broken: Broken| format!("Redis at {}: {broken}", wanted.settings.location);
    let is_pattern = channel::is_pattern(wanted.name);
    let mut plain = None;
    if is_pattern || wanted.subscribing != Subscribing::Sharded {
        let command = if is_pattern { "PSUBSCRIBE" } else { "SUBSCRIBE" };
        plain = Some(subscribe(wanted, command).await.map_err(failed)?);
    }
    let mut sharded = None;
    if !is_pattern && wanted.subscribing != Subscribing::Plain {
        match subscribe(wanted, SSUBSCRIBE).await {
            Ok(connection) => sharded = Some(connection),
            Err(Broken::Refused(message)) if plain.is_some() => {
                each(Listened::WithoutSharded(&message));
            }
            Err(broken) => return Err(failed(broken)),
        }
    }
    let mut goes_on = each(Listened::Begun);
    while goes_on {
        let (received, is_sharded) = tokio::select! {
            received = received(&mut plain) => (received, false),
            received = received(&mut sharded) => (received, true),
        };
        goes_on = match received.map_err(failed)? {
            Received::Message { channel, payload } => each(listened(wanted.settings, &channel, &payload)),
            Received::Ended if is_sharded => {
                sharded = Some(subscribe(wanted, SSUBSCRIBE).await.map_err(failed)?);
                each(Listened::Moved)
            }
            Received::Ended => true,
        };
    }
    Ok(())
}

const SSUBSCRIBE: &str = "SSUBSCRIBE";

async fn received(connection: &mut Option<PlainConnection>) -> Result<Received, Broken> {
    match connection {
        Some(connection) => connection.received().await,
        None => std::future::pending().await,
    }
}

fn listened<'m>(
    settings: &RedisSettings,
    channel: &'m [u8],
    payload: &'m Result<Vec<u8>, u64>,
) -> Listened<'m> {
    let channel = settings.names.inward(channel).and_then(|name| std::str::from_utf8(name).ok());
    let channel = channel.unwrap_or_default();
    match payload {
        Ok(payload) => Listened::Message { channel, payload },
        Err(bytes) => Listened::Oversized { channel, bytes: *bytes },
    }
}

/// A connection whose subscription is confirmed.
async fn subscribe(wanted: &Listening<'_>, command: &str) -> Result<PlainConnection, Broken> {
    timeout(CONNECT_TIMEOUT, subscribe_at_owner(wanted, command)).await.unwrap_or(Err(Broken::Silent))
}

/// As [`subscribe`], unbounded in time.
async fn subscribe_at_owner(wanted: &Listening<'_>, command: &str) -> Result<PlainConnection, Broken> {
    let in_redis = wanted.settings.names.outward(wanted.name);
    let (mut asked, mut connection) = connect_any(wanted).await?;
    loop {
        let Err(message) = connection.ask(&[command, &in_redis]).await? else { return Ok(connection) };
        match moved_to(&message, asked.as_ref()) {
            Some(owner) => {
                // Why: while a slot moves, two servers may each name the other one.
                sleep(PAUSE).await;
                connection = connect(wanted, Some(&owner)).await?;
                asked = Some(owner);
            }
            None if code_of(&message) == "CLUSTERDOWN" => sleep(PAUSE).await,
            None => return Err(Broken::refused(&message)),
        }
    }
}

/// A connection to the first server that can be reached, and its address if it is of a Cluster.
async fn connect_any(wanted: &Listening<'_>) -> Result<(Option<RedisAddress>, PlainConnection), Broken> {
    let mut last = Broken::Silent;
    for address in first_servers(wanted.settings) {
        match connect(wanted, address).await {
            Ok(connection) => return Ok((address.cloned(), connection)),
            Err(broken) => last = broken,
        }
    }
    Err(last)
}

async fn connect(wanted: &Listening<'_>, address: Option<&RedisAddress>) -> Result<PlainConnection, Broken> {
    let settings = wanted.settings;
    let mut connection = PlainConnection::receiving(open(settings, address).await?, wanted.max_payload);
    let hello = connection.hello(settings.username.as_deref(), settings.password.as_ref()).await?;
    hello.map_err(|message| Broken::no_hello(&message))?;
    Ok(connection)
}
