//! The socket port: accepts, reads a PROXY header, does the TLS handshake, and serves HTTP/1.1 until the request
//! that upgrades. Every step is bounded in time and number.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::address::{self, AddressSlots};
use super::pages;
use crate::node::Node;

/// A socket takes so much that the network has not (`TCP_NOTSENT_LOWAT`, tcp(7)); the rest waits where it can still be
/// replaced by something newer. Not less, or a burst to a reader that keeps up would be over its outbound bound.
const UNSENT_BYTES: u32 = 1024 * 1024;
/// Connections that have not finished their handshake, of all addresses.
const MAX_HANDSHAKES: usize = 8_192;
/// Those of one peer that is no trusted proxy.
const MAX_HANDSHAKES_PER_PEER: u32 = 4_096;
/// How long a connection may go on asking for pages, and so hold its place among the handshakes.
const MAX_HTTP_TIME: Duration = Duration::from_secs(60);
/// The bound of a request's head: room for the longest token and more.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// After a failed accept (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts for ever.
pub(crate) async fn run(node: Arc<Node>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let by_peer = AddressSlots::new(Some(MAX_HANDSHAKES_PER_PEER));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            node.counters.refused_overloaded.inc();
            continue;
        };
        // One address must not use up the handshakes of all; proxies stand for many.
        let slot = match address::is_trusted(peer.ip().to_canonical(), &node.config.trusted_proxies) {
            true => None,
            false => match by_peer.take(peer.ip()) {
                Some(slot) => Some(slot),
                None => {
                    node.counters.refused_address.inc();
                    continue;
                }
            },
        };
        let (node, tls) = (node.clone(), tls.clone());
        tokio::spawn(async move {
            handshake(node, stream, peer, tls).await;
            drop((permit, slot));
        });
    }
}

async fn handshake(node: Arc<Node>, mut stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
    let timeout = node.handshake_timeout();
    let mut address = peer.ip().to_canonical();
    if node.config.proxy_protocol {
        match tokio::time::timeout(timeout, super::proxy_protocol::read(&mut stream)).await {
            Ok(Ok(Some(named))) if address::is_trusted(address, &node.config.trusted_proxies) => {
                address = named.to_canonical();
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no readable PROXY header"),
            Err(_) => return,
        }
    }
    match tls {
        None => serve(node, stream, address).await,
        Some(tls) => match tokio::time::timeout(timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve(node, stream, address).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => {}
        },
    }
}

async fn serve<S>(node: Arc<Node>, stream: S, address: IpAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timeout = node.handshake_timeout();
    let service = service_fn(move |request| pages::route(node.clone(), request, address));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Ok(Err(error)) = tokio::time::timeout(MAX_HTTP_TIME, serving).await {
        tracing::debug!(%address, %error, "an HTTP connection ended early");
    }
}
