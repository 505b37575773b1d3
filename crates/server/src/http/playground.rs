//! The playground of `drawbridge dev`: a page, its script and style, the client library, and who plays.
//! All of it is in the binary; nothing is loaded from elsewhere.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderValue};

use super::pages::{Reply, reply};
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
pub(crate) fn page(node: &Node, path: &str) -> Option<Reply> {
    let dev = node.dev.as_ref()?;
    if path == "/dev/session" {
        return Some(reply(StatusCode::OK, "application/json", dev.session(node).into()));
    }
    let (_, content_type, body) = FILES.iter().find(|(name, _, _)| *name == path)?;
    let mut page = reply(StatusCode::OK, content_type, Bytes::from_static(body.as_bytes()));
    page.headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    Some(page)
}
