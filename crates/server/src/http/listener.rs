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
use tokio_rustls::TlsAcceptor;

use super::address;
use super::pages::{self, From};
use crate::log::Sparse;
use crate::node::Node;
use crate::platform;
use crate::refusals::Reason;
use crate::slots::{Place, Share};

/// A socket takes so much that the network has not (`TCP_NOTSENT_LOWAT`, tcp(7)); the rest waits where it can still be
/// replaced by something newer. Not less, or a burst to a reader that keeps up would be over its outbound bound.
const UNSENT_BYTES: u32 = 1024 * 1024;
/// How long a connection may go on asking for pages, and so hold its place among the handshakes.
const MAX_HTTP_TIME: Duration = Duration::from_secs(60);
/// The bound of a request's head: room for the longest token and more.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// After a failed accept (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The next connection. A failed accept is logged and tried again after a pause.
pub(super) async fn accept(listener: &TcpListener, failures: &mut Sparse) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => failures.line(|unlogged| tracing::warn!(%error, unlogged, "accept_failed")),
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Accepts for ever.
pub(crate) async fn run(node: Arc<Node>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let mut failures = Sparse::default();
    loop {
        let (stream, peer) = accept(&listener, &mut failures).await;
        let Some(share) = admit(&node, peer) else { continue };
        let (node, tls) = (node.clone(), tls.clone());
        tokio::spawn(async move {
            let _counted = Handshake::begin(&node);
            handshake(node.clone(), stream, peer, tls, Place::new(share)).await;
        });
    }
}

/// A connection's place among those that have not authenticated; `None`: it is closed without an answer, because none is
/// left for it.
fn admit(node: &Node, peer: SocketAddr) -> Option<Share> {
    if node.refuses_connections() {
        node.refusals.refuse(Reason::Files, |unlogged| {
            let config = "the limit of open files (ulimit -n)";
            tracing::warn!(reason = "files", limit = node.max_files, config, unlogged, "connection_refused");
        });
        return None;
    }
    // A proxy represents many; its clients count when their addresses are known.
    let address = peer.ip().to_canonical();
    let is_proxy = address::is_trusted(address, &node.config.trusted_proxies);
    let share = node.unauthenticated.take((!is_proxy).then_some(address));
    if share.is_none() {
        refuse_unauthenticated(node, address, false);
    }
    share
}

/// Counts and logs a connection for which no place among those that have not authenticated is left.
pub(super) fn refuse_unauthenticated(node: &Node, address: IpAddr, names_a_client: bool) {
    node.refusals.refuse(Reason::Unauthenticated, |unlogged| {
        let hint = untrusted_hint(names_a_client);
        let taken = node.unauthenticated.taken();
        tracing::warn!(
            reason = "unauthenticated",
            %address,
            taken,
            config = "trusted_proxies",
            hint,
            unlogged,
            "connection_refused"
        );
    });
}

/// What may be behind one address that has too many connections. `names_a_client`: its requests have headers that only
/// proxies write.
pub(super) fn untrusted_hint(names_a_client: bool) -> &'static str {
    match names_a_client {
        true => {
            "the address sends X-Forwarded-For or Forwarded: if it is your proxy, add it to trusted_proxies"
        }
        false => "if many players share this address because it is your proxy, add it to trusted_proxies",
    }
}

/// Counts a connection until it is a shard's socket.
struct Handshake<'n>(&'n Node);

impl<'n> Handshake<'n> {
    fn begin(node: &'n Node) -> Self {
        node.counters.handshakes.inc();
        Handshake(node)
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0.counters.handshakes.dec();
    }
}

async fn handshake(
    node: Arc<Node>,
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    place: Place,
) {
    let _ = stream.set_nodelay(true);
    platform::bound_unsent(&stream, UNSENT_BYTES);
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
        None => serve(node, stream, From { address, tls: false, place }).await,
        Some(tls) => match tokio::time::timeout(timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve(node, stream, From { address, tls: true, place }).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => {}
        },
    }
}

async fn serve<S>(node: Arc<Node>, stream: S, from: From)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timeout = node.handshake_timeout();
    let (address, from) = (from.address, Arc::new(from));
    let service = service_fn(move |request| pages::route(node.clone(), request, from.clone()));
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
