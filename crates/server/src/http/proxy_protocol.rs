//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`): the client's address in front of the
//! first byte of the connection. Recognised by peeking, so that a connection without it loses nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::{HeaderResult, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_PREFIX: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const V1_MAX_BYTES: usize = 107;
const V2_FIXED_BYTES: usize = 16;
/// The longest header of version 2 that is read: addresses and a few extensions.
const V2_MAX_BYTES: usize = 4_096;
/// How often an incomplete prefix is checked again.
const PEEK_EVERY: Duration = Duration::from_millis(5);

/// Reads a PROXY header if there is one. Returns its address, or `None` without a header or address.
/// The caller bounds the time.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    match version(stream).await? {
        None => Ok(None),
        Some(1) => address(&read_v1(stream).await?),
        Some(_) => address(&read_v2(stream).await?),
    }
}

/// The client's address in a whole header; `None` where it names none.
pub(crate) fn address(header: &[u8]) -> io::Result<Option<IpAddr>> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
            v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(None),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(addresses) => Some(SocketAddr::from((addresses.source_address, 0)).ip()),
            v2::Addresses::IPv6(addresses) => Some(SocketAddr::from((addresses.source_address, 0)).ip()),
            v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => {
            Err(bad("the PROXY header is not well formed"))
        }
    }
}

/// Which version's prefix the connection starts with.
async fn version(stream: &TcpStream) -> io::Result<Option<u8>> {
    loop {
        let mut start = [0; V2_PREFIX.len()];
        stream.readable().await?;
        let peeked = stream.peek(&mut start).await?;
        let start = &start[..peeked];
        if start.is_empty() {
            return Ok(None);
        }
        for (prefix, version) in [(V1_PREFIX, 1), (V2_PREFIX, 2)] {
            if start.starts_with(prefix) {
                return Ok(Some(version));
            }
        }
        if !V1_PREFIX.starts_with(start) && !V2_PREFIX.starts_with(start) {
            return Ok(None);
        }
        tokio::time::sleep(PEEK_EVERY).await;
    }
}

async fn read_v1(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(V1_MAX_BYTES);
    while line.last() != Some(&b'\n') {
        if line.len() >= V1_MAX_BYTES {
            return Err(bad("the PROXY line does not end"));
        }
        line.push(stream.read_u8().await?);
    }
    Ok(line)
}

async fn read_v2(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = vec![0; V2_FIXED_BYTES];
    stream.read_exact(&mut header).await?;
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if rest > V2_MAX_BYTES {
        return Err(bad("the PROXY header is too long"));
    }
    header.resize(V2_FIXED_BYTES + rest, 0);
    stream.read_exact(&mut header[V2_FIXED_BYTES..]).await?;
    Ok(header)
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
