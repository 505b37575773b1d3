//! The upgrade (RFC 6455 §4.2): everything that is decided before a socket is handed to a shard.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::address_slots::AddressSlot;
use drawbridge_engine::io::{AuthFailure, Claims};
use drawbridge_protocol::Encoding;
use drawbridge_protocol::websocket::{self, Deflate};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::address;
use super::listener::{refuse_unauthenticated, untrusted_hint};
use super::origin::{self, AllowedOrigins, Reached};
use super::pages::{From, Reply, text};
use super::query::parameter;
use crate::node::Node;
use crate::refusals::Reason;
use crate::shard::{Handshake, Mail, NewSocket};
use crate::slots::{Place, Share, counted_as};

/// What was decided about a socket before it is one.
struct Admission {
    accept: HeaderValue,
    encoding: Encoding,
    /// To be named in the answer, if the client offered any.
    subprotocol: Option<&'static str>,
    deflate: Option<Deflate>,
    address: IpAddr,
    token: Option<Result<Claims, AuthFailure>>,
    wait_for_connect: bool,
    slot: AddressSlot,
    unauthenticated: Option<Share>,
}

/// Answers a request for `/ws`; where it upgrades, the socket goes to a shard.
pub(super) async fn upgrade(node: &Arc<Node>, mut request: Request<Incoming>, from: &From) -> Reply {
    if request.method() == Method::HEAD {
        return head();
    }
    let admission = match admit(node, &request, from).await {
        Ok(admission) => admission,
        Err(refusal) => return *refusal,
    };
    let mut reply = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = reply.headers_mut();
    headers.clear();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, admission.accept.clone());
    if let Some(subprotocol) = admission.subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    if let Some(value) = admission.deflate.and_then(|deflate| HeaderValue::from_str(&deflate.response()).ok())
    {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let node = node.clone();
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => hand_over(&node, upgraded, admission),
            Err(error) => tracing::debug!(%error, "the upgrade did not happen"),
        }
    });
    reply
}

async fn admit(
    node: &Arc<Node>,
    request: &Request<Incoming>,
    From { address: peer, tls, place }: &From,
) -> Result<Admission, Box<Reply>> {
    let (peer, tls) = (*peer, *tls);
    let headers = request.headers();
    let accept = handshake_key(request).map_err(|fault| fault.refuse(node, peer))?;
    let subprotocol = websocket::negotiate(
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok()),
    )
    .map_err(|error| {
        node.refusals.refuse(Reason::Subprotocol, |unlogged| {
            // What was offered may be a token: it is not repeated.
            let config = "none: the client offers a sub-protocol of this server, or none at all";
            tracing::warn!(reason = "subprotocol", %peer, why = %error, config, unlogged, "connection_refused");
        });
        Box::new(text(StatusCode::BAD_REQUEST, &format!("{error}\n")))
    })?;
    let by_trusted_proxy = address::is_trusted(peer.to_canonical(), &node.config.trusted_proxies);
    let reached = Reached { tls, by_trusted_proxy };
    origin::check(node, headers, peer, reached)?;
    if let Some((refusal, reason)) = node.refuses_sockets_because() {
        node.refusals.refuse(refusal, |unlogged| {
            let config =
                if refusal == Reason::Files { "the limit of open files (ulimit -n)" } else { "none" };
            tracing::warn!(reason = refusal.as_str(), %peer, config, unlogged, "connection_refused");
        });
        let mut reply = text(StatusCode::SERVICE_UNAVAILABLE, &format!("{reason}\n"));
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return Err(Box::new(reply));
    }
    let address = address::client_address(peer, &node.config.trusted_proxies, headers);
    let query = request.uri().query().unwrap_or_default();
    let token = token(node, headers, query, reached);
    let wait_for_connect = parameter(query, "connect").as_deref() == Some("1");
    let may_resume = wait_for_connect || token.is_none();
    let Some(slot) = node.addresses.take(counted_as(address), may_resume) else {
        node.refusals.refuse(Reason::Address, |unlogged| {
            let hint = untrusted_hint(address::names_a_client(headers) && address == peer.to_canonical());
            tracing::warn!(
                reason = "address",
                %address,
                limit = node.config.engine.connections_per_address,
                config = "limits.connections_per_address",
                hint,
                unlogged,
                "connection_refused"
            );
        });
        return Err(Box::new(text(
            StatusCode::TOO_MANY_REQUESTS,
            "too many connections from this address\n",
        )));
    };
    let offers =
        headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    let deflate = node.config.compression.then(|| websocket::negotiate_deflate(offers)).flatten();
    let token = match token {
        Some(token) => Some(node.token_verifier.verify(token).await),
        None => None,
    };
    let unauthenticated = match &token {
        Some(Ok(_)) => None,
        _ => Some(unauthenticated_place(node, place, address, headers)?),
    };
    Ok(Admission {
        accept,
        encoding: subprotocol.encoding,
        subprotocol: subprotocol.echo,
        deflate,
        address,
        token,
        wait_for_connect,
        slot,
        unauthenticated,
    })
}

/// The answer to `HEAD`, which is no attempt of a handshake and therefore not counted: a page that could not connect finds out so
/// whether there is a server.
fn head() -> Reply {
    let mut reply = text(StatusCode::UPGRADE_REQUIRED, "");
    reply.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    reply
}

/// Why a request for the socket is no WebSocket handshake.
struct HandshakeFault {
    status: StatusCode,
    /// What the client needs, where the status is 426.
    required: Option<(HeaderName, &'static str)>,
    why: String,
}

impl HandshakeFault {
    fn bad(why: &str) -> Self {
        HandshakeFault { status: StatusCode::BAD_REQUEST, required: None, why: why.to_owned() }
    }

    fn required(name: HeaderName, value: &'static str, why: &str) -> Self {
        HandshakeFault {
            status: StatusCode::UPGRADE_REQUIRED,
            required: Some((name, value)),
            why: why.to_owned(),
        }
    }

    fn refuse(self, node: &Node, peer: IpAddr) -> Box<Reply> {
        node.refusals.refuse(Reason::Handshake, |unlogged| {
            let config = "none: the socket is opened by a WebSocket client";
            let hint = "if a proxy is in front of this node, it must pass on Upgrade and Connection, with HTTP/1.1";
            tracing::warn!(reason = "handshake", %peer, why = self.why, config, hint, unlogged, "connection_refused");
        });
        let mut reply = text(self.status, &format!("not a WebSocket handshake: {}\n", self.why));
        if let Some((name, value)) = self.required {
            reply.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        Box::new(reply)
    }
}

/// Checks what makes a request a WebSocket handshake and answers its key.
fn handshake_key(request: &Request<Incoming>) -> Result<HeaderValue, HandshakeFault> {
    let headers = request.headers();
    let bad = HandshakeFault::bad;
    if request.method() != Method::GET {
        return Err(bad("the method must be GET"));
    }
    if !has_token(headers, &header::UPGRADE, "websocket")
        || !has_token(headers, &header::CONNECTION, "upgrade")
    {
        let why = "the request has no `Upgrade: websocket` and `Connection: Upgrade`";
        return Err(HandshakeFault::required(header::UPGRADE, "websocket", why));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let why = "Sec-WebSocket-Version must be 13";
        return Err(HandshakeFault::required(header::SEC_WEBSOCKET_VERSION, "13", why));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(bad("Sec-WebSocket-Key must be there once"));
    };
    let key = key.to_str().map_err(|_| bad("Sec-WebSocket-Key is not text"))?;
    let accept = websocket::accept_key(key).map_err(|error| bad(&error.to_string()))?;
    HeaderValue::from_str(&accept).map_err(|_| bad("Sec-WebSocket-Key cannot be answered"))
}

/// Whether a comma-separated header holds this token, whatever its case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// A place among the sockets that have not authenticated: that of the handshake where it counts for the same address, or
/// else, behind a proxy, one for the client's.
fn unauthenticated_place(
    node: &Node,
    place: &Place,
    address: IpAddr,
    headers: &HeaderMap,
) -> Result<Share, Box<Reply>> {
    place.take_for(address).or_else(|| node.unauthenticated.take(Some(address))).ok_or_else(|| {
        refuse_unauthenticated(node, address, address::names_a_client(headers));
        let mut reply =
            text(StatusCode::TOO_MANY_REQUESTS, "too many connections of this address have no token yet\n");
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        Box::new(reply)
    })
}

/// The value of the first cookie of this name (RFC 6265 §4.2.1), without the quotes that may be around it.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.find(|(own, _)| *own == name).map(|(_, value)| value)?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

fn token(node: &Node, headers: &HeaderMap, query: &str, reached: Reached) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        // Anything but a bearer token is verified too, so that the client learns what is wrong.
        let value = value.to_str().unwrap_or_default();
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        return Some(if scheme.eq_ignore_ascii_case("bearer") {
            token.trim().to_owned()
        } else {
            String::new()
        });
    }
    let auth = &node.config.auth;
    let by_query = || auth.query_token.then(|| parameter(query, "token")).flatten();
    by_query().or_else(|| cookie_token(node, auth.cookie.as_deref()?, headers, reached))
}

/// Some frameworks delete a cookie by making it empty.
fn cookie_token(node: &Node, name: &str, headers: &HeaderMap, reached: Reached) -> Option<String> {
    let token = cookie(headers, name).filter(|token| !token.is_empty())?;
    if origin::may_use_cookies(AllowedOrigins::of(node), headers, reached) {
        return Some(token.to_owned());
    }
    tracing::debug!(
        cookie = name,
        "a token in a cookie is not used: the page's origin is not named in `connection.allowed_origins`"
    );
    None
}

/// Takes the raw socket back from hyper and passes it to the shard with the fewest sockets.
fn hand_over(node: &Node, upgraded: Upgraded, admission: Admission) {
    let taken = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => parts.io.into_inner().into_std().map(|stream| (stream, None, parts.read_buf)),
        Err(upgraded) => match upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() {
            Ok(parts) => {
                let (stream, tls) = parts.io.into_inner().into_inner();
                stream.into_std().map(|stream| (stream, Some(Box::new(tls)), parts.read_buf))
            }
            Err(_) => Err(std::io::Error::other("neither a plain nor a TLS socket")),
        },
    };
    match taken {
        Ok((stream, tls, read_ahead)) => deliver(node, stream, tls, read_ahead, admission),
        Err(error) => tracing::warn!(%error, "a socket was lost on its way to a shard"),
    }
}

fn deliver(
    node: &Node,
    stream: std::net::TcpStream,
    tls: Option<Box<rustls::ServerConnection>>,
    read_ahead: Bytes,
    admission: Admission,
) {
    node.counters.accepted.inc();
    let Some(shard) = node.shards.iter().min_by_key(|shard| shard.sockets()) else { return };
    shard.send(Mail::Socket(Box::new(NewSocket {
        stream,
        tls,
        read_ahead,
        handshake: Handshake {
            encoding: admission.encoding,
            deflate: admission.deflate.map(|deflate| deflate.window),
            address: counted_as(admission.address),
            token: admission.token,
            wait_for_connect: admission.wait_for_connect,
        },
        slot: admission.slot,
        unauthenticated: admission.unauthenticated,
    })));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        list.iter().map(header).collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        for (line, value) in [
            ("t=abc", Some("abc")),
            ("a=1; t=abc; b=2", Some("abc")),
            ("a=1;t=abc", Some("abc")),
            ("t=\"abc\"", Some("abc")),
            ("t=a=b", Some("a=b")),
            ("t=1; t=2", Some("1")),
            ("xt=1; T=2; t2=3", None),
            ("t", None),
            ("", None),
        ] {
            assert_eq!(cookie(&headers(&[("cookie", line)]), "t"), value, "{line}");
        }
        assert_eq!(cookie(&headers(&[("cookie", "a=1"), ("cookie", "t=2")]), "t"), Some("2"));
    }
}
