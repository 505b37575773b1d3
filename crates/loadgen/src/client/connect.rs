//! Where a crowd connects to, from which addresses, and what for.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use crate::handshake;
use crate::token::Secret;

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The flags of every crowd.
#[derive(Args, Clone)]
pub(crate) struct Target {
    /// The node's or the floor's address
    #[arg(long, default_value = "127.0.0.1:8000")]
    pub(crate) target: SocketAddr,
    #[command(flatten)]
    pub(crate) secret: Secret,
    /// How many connections
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// The number of the first player: for a second process beside a first
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u32,
    /// How many connections may be on their way to be joined at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) opening: u32,
    /// How long joining may take altogether, in seconds
    #[arg(long, default_value_t = 120)]
    pub(crate) join_seconds: u64,
    /// The first source address; those that follow it are used as well (127.0.0.2: the local ports of one address do not suffice for many connections)
    #[arg(long)]
    pub(crate) source: Option<Ipv4Addr>,
    /// How many connections share a source address
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=28_000))]
    pub(crate) per_source: u32,
}

/// How a connection comes to its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Join {
    /// By claims in its token that fill the node's `auto_subscribe` templates
    Claims,
    /// By a `CHANNEL_SUBSCRIBE` after `WELCOME`
    Message,
    /// By its URL: a floor
    Path,
}

impl Target {
    /// Opens the TCP connection of one member of the crowd and sends the upgrade. Blocks until the system has
    /// connected, so that at most one is under way: a listener's backlog is never overrun.
    pub(super) fn open(&self, index: usize, path: &str, token: Option<&str>) -> io::Result<TcpStream> {
        self.open_to(self.target, index, path, token)
    }

    /// As `open`, to another node than the first.
    pub(crate) fn open_to(
        &self,
        target: SocketAddr,
        index: usize,
        path: &str,
        token: Option<&str>,
    ) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = self.source_of(index)? {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&target.into(), CONNECT_TIMEOUT)?;
        socket.set_tcp_nodelay(true)?;
        let mut stream = std::net::TcpStream::from(socket);
        stream.write_all(handshake::request(target, path, token).as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(TcpStream::from_std(stream))
    }

    fn source_of(&self, index: usize) -> io::Result<Option<IpAddr>> {
        let Some(first) = self.source else { return Ok(None) };
        let address = u32::try_from(index / self.per_source as usize)
            .ok()
            .and_then(|step| first.to_bits().checked_add(step))
            .ok_or(ErrorKind::AddrNotAvailable)?;
        Ok(Some(Ipv4Addr::from_bits(address).into()))
    }
}
