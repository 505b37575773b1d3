//! What the socket port serves beside the socket: health, readiness, metrics, and in `dev` the playground and tokens.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::origin::{self, Reached};
use super::{dev_token, host, playground, ws};
use crate::broker::Audience;
use crate::dev::Dev;
use crate::metrics::MetricsFormat;
use crate::node::Node;
use crate::refusals::Reason;
use crate::slots::Place;

/// A response with a body of known length.
pub(crate) type Reply = Response<Full<Bytes>>;

/// The connection that requests come by.
#[derive(Debug)]
pub(super) struct From {
    pub(super) address: IpAddr,
    pub(super) tls: bool,
    /// Its place among the connections that have not authenticated.
    pub(super) place: Place,
}

/// Answers one request.
pub(super) async fn route(
    node: Arc<Node>,
    request: Request<Incoming>,
    from: Arc<From>,
) -> Result<Reply, Infallible> {
    let mut reply = answer(&node, request, &from).await;
    if node.is_draining() && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
        // So that the next request of a proxy goes to another node, and this one can end.
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(reply)
}

async fn answer(node: &Arc<Node>, request: Request<Incoming>, from: &From) -> Reply {
    let path = request.uri().path();
    if let Some(refused) = foreign_host(node, request.headers()) {
        return refused;
    }
    if path == "/ws" {
        return ws::upgrade(node, request, from).await;
    }
    if let Some(dev) = node.dev.as_ref().filter(|_| path == dev_token::PATH) {
        return dev_token_reply(node, dev, &request, from);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => ready(node, Audience::Anyone),
        "/metrics" => metrics(node, request.headers()).await,
        dev_token::PATH => dev_token::absent(),
        _ => playground::page(node, path)
            .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "not here; the socket is at /ws\n")),
    }
}

fn dev_token_reply(node: &Node, dev: &Dev, request: &Request<Incoming>, from: &From) -> Reply {
    let headers = request.headers();
    if let Err(refused) =
        origin::check(node, headers, from.address, Reached { tls: from.tls, by_trusted_proxy: false })
    {
        return *refused;
    }
    let query = request.uri().query().unwrap_or_default();
    dev_token::answer(&node.config.auth, dev.key(), request.method(), headers, query)
}

/// In `dev`, where tokens are handed out and the admin key is on the page, the answer to a request that may come from a page
/// elsewhere ([`host`]).
pub(super) fn foreign_host(node: &Node, headers: &HeaderMap) -> Option<Reply> {
    if node.dev.is_none() || host::is_local_name(headers) {
        return None;
    }
    node.refusals.refuse(Reason::Host, |unlogged| {
        let host =
            headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        tracing::warn!(
            reason = "host",
            host = host.as_deref().unwrap_or_default(),
            config =
                "none: `dev` answers requests for localhost or an IP address only; use `serve` for names",
            unlogged,
            "connection_refused"
        );
    });
    let text_of_refusal = "drawbridge dev answers requests for localhost or an IP address only (Host)\n";
    Some(text(StatusCode::FORBIDDEN, text_of_refusal))
}

/// Whether the node should get traffic, and if not, why.
pub(super) fn ready(node: &Node, audience: Audience) -> Reply {
    match node.not_ready_because(audience) {
        None => match node.degraded_because(audience) {
            None => text(StatusCode::OK, "ready\n"),
            Some(trouble) => text(StatusCode::OK, &format!("ready, but part of Redis is away ({trouble})\n")),
        },
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {reason}\n")),
    }
}

/// In OpenMetrics' text if the client accepts that, else in Prometheus' format 0.0.4.
pub(super) async fn metrics(node: &Node, asked: &HeaderMap) -> Reply {
    let accepted = asked.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (format, content_type) = match accepted.contains("application/openmetrics-text") {
        true => (MetricsFormat::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        false => (MetricsFormat::Prometheus, "text/plain; version=0.0.4; charset=utf-8"),
    };
    let stats = node.stats().await;
    reply(StatusCode::OK, content_type, crate::metrics::encode(&stats, format).into())
}

pub(crate) fn text(status: StatusCode, body: &str) -> Reply {
    reply(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(body.as_bytes()))
}

pub(crate) fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
