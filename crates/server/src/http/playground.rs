//! The playground of `drawbridge dev`: a page, its script and style, the client library, and who plays.
//! All of it is in the binary; nothing is loaded from elsewhere.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

use super::pages::{Reply, reply, text};
use crate::node::Node;

/// Only what this server serves; the socket is on the same origin.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:";

const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("playground/index.html")),
    ("/playground.js", "text/javascript; charset=utf-8", include_str!("playground/playground.js")),
    ("/world.js", "text/javascript; charset=utf-8", include_str!("playground/world.js")),
    ("/playground.css", "text/css; charset=utf-8", include_str!("playground/playground.css")),
    ("/drawbridge.js", "text/javascript; charset=utf-8", include_str!("playground/drawbridge.min.js")),
];

/// The page at this path; `None` where there is none, or the node does not run as `dev`.
pub(crate) fn page(node: &Node, path: &str, headers: &HeaderMap) -> Option<Reply> {
    let dev = node.dev.as_ref()?;
    if path == "/dev/session" && !is_asked_by_address(headers) {
        return Some(text(StatusCode::FORBIDDEN, "tokens are given to localhost or an IP address only\n"));
    }
    if path == "/dev/session" {
        return Some(reply(StatusCode::OK, "application/json", dev.session(node).into()));
    }
    let (_, content_type, body) = FILES.iter().find(|(name, _, _)| *name == path)?;
    let mut page = reply(StatusCode::OK, content_type, Bytes::from_static(body.as_bytes()));
    page.headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    Some(page)
}

/// Whether the request names us by address or as localhost: a page elsewhere whose name was made to lead here does not.
fn is_asked_by_address(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}
