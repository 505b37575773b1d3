//! Reaching a Redis: a byte stream over TCP, TLS or a unix socket, and how long to wait between attempts. What is
//! said on the stream is left to the links and the publisher.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::resp::Garbage;
use super::sentinel::{MasterAddress, open_master};
use super::{
    RedisAddress, RedisLocation, RedisSettings, code_of, is_unknown_command, public_part, without_arguments,
};
use crate::platform::{self, UnixStream};

/// How long one attempt may take, with the handshakes.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A byte stream to a Redis.
pub(super) type Stream = Box<dyn ByteStream>;

/// Whatever bytes go through.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Lets the runtime that this is called in watch the socket, which another one did.
    fn register(&mut self) -> io::Result<()>;
    /// Where it leads; `None` where that is no address.
    fn peer(&self) -> Option<SocketAddr>;
}

impl ByteStream for TcpStream {
    fn register(&mut self) -> io::Result<()> {
        *self = platform::watched_here(self)?;
        Ok(())
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.peer_addr().ok()
    }
}

impl ByteStream for UnixStream {
    fn register(&mut self) -> io::Result<()> {
        platform::watch_unix_here(self)
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

impl ByteStream for TlsStream<TcpStream> {
    fn register(&mut self) -> io::Result<()> {
        self.get_mut().0.register()
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.get_ref().0.peer()
    }
}

/// Opens a stream to this server, or to the Redis of these settings; bounded in time only by the system, so the caller sets
/// [`CONNECT_TIMEOUT`].
pub(super) async fn open(settings: &RedisSettings, address: Option<&RedisAddress>) -> io::Result<Stream> {
    match (&settings.location, address) {
        (_, Some(address)) => open_at(address, settings.tls.as_ref()).await,
        (RedisLocation::Server(address), None) => open_at(address, settings.tls.as_ref()).await,
        (RedisLocation::Sentinels { .. }, None) => open_master(settings).await,
        // Each connection to a Cluster names its server.
        (RedisLocation::Cluster { .. }, None) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Opens a stream to one server.
pub(super) async fn open_at(address: &RedisAddress, tls: Option<&Arc<ClientConfig>>) -> io::Result<Stream> {
    match address {
        RedisAddress::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        RedisAddress::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let keepalive =
                TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            let Some(tls) = tls else { return Ok(Box::new(stream)) };
            let name = ServerName::try_from(host.clone())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            Ok(Box::new(TlsConnector::from(tls.clone()).connect(name, stream).await?))
        }
    }
}

/// Why a connection cannot go on, or could not be made.
#[derive(Debug)]
pub(super) enum Broken {
    /// The socket failed or was closed.
    Io(io::Error),
    /// Redis' bytes make no sense.
    Garbage(Garbage),
    /// Redis refused what a connection cannot do without; its words.
    Refused(String),
    /// Redis, or the proxy before it, cannot do what a connection cannot do without; what that is.
    Unsupported(String),
    /// The address leads to a Redis of this role.
    NotMaster(String),
    /// Another master of the Cluster has taken over from this server.
    Left,
    /// The address of a sentinel leads to a Redis.
    NotSentinel,
    /// Redis did not answer in time.
    Silent,
    /// Redis' answer was larger than anything that is requested can be.
    Oversized,
    /// Redis takes what is published, and it does not arrive on this link.
    CutOff {
        /// Probes in a row that did not arrive.
        missing: u32,
        /// How long ago one did, on this connection.
        last: Option<Duration>,
        /// Where the connection leads.
        peer: Option<SocketAddr>,
    },
}

/// What a node needs that RESP2 has not.
const NEEDS_RESP3: &str = "Drawbridge needs RESP3 (HELLO 3), which Redis has since 6.0: a proxy that speaks RESP2 only \
     (twemproxy, say), or a Redis whose HELLO is renamed, will not do";

impl Broken {
    /// The error that Redis returned without the arguments that it repeats: a password may be among them.
    pub(super) fn refused(message: &str) -> Broken {
        Broken::Refused(without_arguments(message).to_owned())
    }

    /// `HELLO 3` was refused with these words.
    pub(super) fn no_hello(message: &str) -> Broken {
        let is_unknown = is_unknown_command(message) || code_of(message) == "NOPROTO";
        match is_unknown {
            true => Broken::Unsupported(format!("{NEEDS_RESP3}. Redis said: {}", without_arguments(message))),
            false => Broken::refused(message),
        }
    }

    /// The connection was closed in answer to `HELLO 3`, as proxies do with commands that they do not know.
    pub(super) fn closed_at_hello(error: &io::Error) -> Broken {
        let text = format!("{error} in answer to HELLO 3. If it always does: {NEEDS_RESP3}");
        Broken::Io(io::Error::new(error.kind(), text))
    }

    /// Whether this is the answer of a Redis that a node can work with: `role` and `mode` as `HELLO` names them.
    pub(super) fn unless_master(role: Option<&str>, mode: Option<&str>) -> Result<(), Broken> {
        match (role, mode) {
            (_, Some("sentinel")) => Err(Broken::NotMaster("Sentinel".to_owned())),
            // What names no role is no replica of Redis'.
            (None | Some("master"), _) => Ok(()),
            (Some(role), _) => Err(Broken::NotMaster(role.to_owned())),
        }
    }

    /// What to look at, for what is most often wrong when a Redis is used for the first time.
    fn remedy(&self) -> Option<&'static str> {
        match self {
            Broken::Refused(message) => match code_of(message) {
                "NOAUTH" => Some(
                    "Redis requires a password: set `broker.password`, and `broker.username` for an ACL user, or write them \
                     into the URL: redis://user:password@host",
                ),
                "WRONGPASS" => Some(
                    "check `broker.username` and `broker.password`, or those in the URL (%40 for an @ in them)",
                ),
                _ => None,
            },
            Broken::Garbage(_) => Some("is this the address of a Redis, and does it need TLS (rediss://)?"),
            Broken::Io(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Some("is Redis running, and is this its address?"),
                io::ErrorKind::TimedOut => {
                    Some("does a firewall stop the connection, or does only one side use TLS?")
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// As [`Display`](std::fmt::Display), for pages that anybody may read: without addresses and names of hosts.
    pub(super) fn public_reason(&self) -> String {
        match self {
            // It names the hosts that the certificate is for.
            Broken::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                "TLS with Redis failed".to_owned()
            }
            Broken::Refused(message) => format!("Redis said: {}", public_part(message)),
            Broken::CutOff { .. } => "what is published does not arrive".to_owned(),
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let remedy = self.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        match self {
            Broken::Io(error) => write!(f, "{error}{remedy}"),
            Broken::Garbage(garbage) => write!(f, "{garbage}{remedy}"),
            // The words of Redis about a missing password are long.
            Broken::Refused(message) => match self.remedy() {
                Some(remedy) => write!(f, "{remedy}. Redis said: {message}"),
                None => write!(f, "Redis said: {message}"),
            },
            Broken::Unsupported(what) => f.write_str(what),
            Broken::NotMaster(role) => write!(
                f,
                "this Redis is a {role}, and Drawbridge needs the master: what is published on a replica reaches nobody \
                 else, and nothing can be written. Let `broker.url` name the master, or an address that follows it"
            ),
            Broken::Left => f.write_str("another master of the Cluster has taken over"),
            Broken::NotSentinel => f.write_str(
                "this is a Redis and no sentinel: with redis-sentinel:// `broker.url` names sentinels, whose port is 26379 \
                 unless it is configured",
            ),
            Broken::Silent => f.write_str("no answer in time"),
            Broken::Oversized => f.write_str("an answer over 64 MiB"),
            Broken::CutOff { missing, last, peer } => {
                write!(
                    f,
                    "cut off: {missing} delivery probes in a row were published, and none arrived here"
                )?;
                if let Some(peer) = peer {
                    write!(f, ", on a connection to {peer}")?;
                }
                match last {
                    Some(last) => write!(f, "; the last one arrived {:.1} s ago", last.as_secs_f64())?,
                    None => f.write_str("; none ever did on this connection")?,
                }
                f.write_str(
                    ". The address may lead to another Redis than before: it is resolved again, and what is subscribed is restored",
                )
            }
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Io(error)
    }
}

impl From<Garbage> for Broken {
    fn from(garbage: Garbage) -> Self {
        Broken::Garbage(garbage)
    }
}

/// The story of one connection that is made again and again: when to try, and what the log says of it.
#[derive(Debug)]
pub(super) struct Attempts {
    what: String,
    location: RedisLocation,
    /// The master that sentinels name, and the one that the last attempt led to.
    master: MasterAddress,
    last_master: Option<RedisAddress>,
    backoff: Backoff,
    /// The reason that the log knows.
    logged: Option<String>,
}

impl Attempts {
    pub(super) fn new(what: String, settings: &RedisSettings) -> Self {
        let (location, master) = (settings.location.clone(), settings.sentinel.master.clone());
        Attempts { what, location, master, last_master: None, backoff: Backoff::new(), logged: None }
    }

    /// Where attempts lead, for the log.
    fn address(&self) -> String {
        self.master.current().map_or_else(|| self.location.to_string(), |master| master.to_string())
    }

    /// A connection works.
    pub(super) fn up(&mut self) {
        self.backoff.up();
        self.last_master = self.master.current();
        let address = self.address();
        match self.logged.take() {
            Some(_) => tracing::info!(what = self.what, address, "connected to Redis again"),
            None => tracing::debug!(what = self.what, address, "connected to Redis"),
        }
    }

    /// A connection or an attempt failed: how long to wait. The log hears each reason once an outage. `server`: where it led, if
    /// that is not what the configuration names.
    pub(super) fn failed(&mut self, broken: &Broken, server: Option<String>) -> Duration {
        let reason = broken.to_string();
        let master = self.master.current();
        if master != self.last_master {
            // Attempts at another server say nothing about this one.
            self.backoff = Backoff::new();
            self.last_master = master;
        }
        let wait = self.backoff.failed();
        let address = server.unwrap_or_else(|| self.address());
        if self.logged.as_ref() == Some(&reason) {
            tracing::debug!(what = self.what, address, reason, ?wait, "no connection to Redis");
        } else {
            tracing::warn!(what = self.what, address, reason, ?wait, "no connection to Redis");
            self.logged = Some(reason);
        }
        wait
    }
}

/// How long to wait before the next attempt: at first hardly at all, then longer and longer, spread at random so
/// that the nodes of a cluster do not come back in step.
#[derive(Debug)]
struct Backoff {
    ceiling: Duration,
    up_since: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(5);
    /// A connection that worked so long was a good one.
    const STABLE: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Backoff { ceiling: Self::FIRST, up_since: None }
    }

    /// A connection works.
    fn up(&mut self) {
        self.up_since = Some(Instant::now());
    }

    /// A connection or an attempt failed: how long to wait.
    fn failed(&mut self) -> Duration {
        if self.up_since.take().is_some_and(|since| since.elapsed() >= Self::STABLE) {
            self.ceiling = Self::FIRST;
        }
        let wait = spread(self.ceiling);
        self.ceiling = (self.ceiling * 2).min(Self::LAST);
        wait
    }
}

/// Somewhere from nothing to `ceiling`.
pub(super) fn spread(ceiling: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_spread() {
        let mut backoff = Backoff::new();
        assert!(backoff.failed() <= Backoff::FIRST);
        for _ in 0..20 {
            backoff.failed();
        }
        let waits: Vec<Duration> = (0..50).map(|_| backoff.failed()).collect();
        assert!(waits.iter().all(|wait| *wait <= Backoff::LAST));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn what_anybody_may_read_does_not_name_the_user() {
        let refused = Broken::refused("NOPERM User bridge has no permissions to run the 'ping' command");
        assert_eq!(refused.public_reason(), "Redis said: NOPERM");
        assert!(refused.to_string().contains("bridge"));
        assert_eq!(Broken::refused("WRONGPASS no").public_reason(), "Redis said: WRONGPASS no");
        assert_eq!(Broken::Silent.public_reason(), Broken::Silent.to_string());
    }

    #[test]
    fn the_usual_mistakes_are_answered_with_what_to_look_at() {
        let io = |kind: io::ErrorKind| Broken::Io(kind.into());
        for (broken, remedy) in [
            (
                Broken::refused("NOAUTH HELLO must be called with the client already authenticated"),
                "broker.password",
            ),
            (Broken::refused("WRONGPASS invalid username-password pair"), "broker.username"),
            (Broken::Garbage(Garbage("an unknown type")), "address of a Redis"),
            (io(io::ErrorKind::ConnectionRefused), "is Redis running"),
            (io(io::ErrorKind::TimedOut), "TLS"),
        ] {
            assert!(broken.to_string().contains(remedy), "{broken}");
        }
        assert_eq!(Broken::refused("LOADING").to_string(), "Redis said: LOADING");
    }

    #[test]
    fn a_connection_that_fails_at_once_does_not_reset_the_wait() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.up();
            backoff.failed();
        }
        assert_eq!(backoff.ceiling, Backoff::LAST);
    }
}
