//! Which web pages may connect: the `Origin` of an upgrade against the configured list, or against the origins under which
//! the request itself reached this server (RFC 6454). Behind a proxy these are not what the socket shows: trusted proxies
//! name them in `X-Forwarded-Host`, `-Proto` and `-Port`, or in `Forwarded`. Owns the error of a refused page.

use std::net::{IpAddr, Ipv6Addr};

use http::header::{self, HeaderName};
use http::{HeaderMap, StatusCode};

use super::address::forwarded_values;
use super::pages::{Reply, text};
use crate::node::Node;
use crate::refusals::Reason;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What the request's own origin is taken from beside its headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    /// This server did the TLS itself.
    pub(super) tls: bool,
    /// The peer is a trusted proxy: its headers count.
    pub(super) by_trusted_proxy: bool,
}

/// Which pages may connect beside those of the same origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct AllowedOrigins<'a> {
    /// `connection.allowed_origins`. `None`: only the same origin. With a list, the same origin too must be in it.
    list: Option<&'a [String]>,
    /// Pages of this machine, whatever their port: in `dev`, where someone's own page is on another server's port.
    localhost: bool,
}

impl<'a> AllowedOrigins<'a> {
    /// Those of this node.
    pub(super) fn of(node: &'a Node) -> Self {
        AllowedOrigins { list: node.config.allowed_origins.as_deref(), localhost: node.dev.is_some() }
    }

    /// Whether the list names this origin; `"*"` and `"null"` name none.
    fn names(self, origin: &str) -> bool {
        let names = |one: &String| one != "*" && one != "null" && is_same(one, origin);
        self.list.is_some_and(|list| list.iter().any(names))
    }
}

/// Refuses pages of origins that are not allowed, with the remedy in the log and in the answer.
pub(super) fn check(
    node: &Node,
    headers: &HeaderMap,
    peer: IpAddr,
    reached: Reached,
) -> Result<(), Box<Reply>> {
    let allowed = AllowedOrigins::of(node);
    if is_allowed(allowed, headers, reached) {
        return Ok(());
    }
    let shown = |name: &HeaderName| {
        headers
            .get(name)
            .map_or(String::new(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let origin = shown(&header::ORIGIN);
    node.refusals.refuse_named(Reason::Origin, &origin, |unlogged| {
        tracing::warn!(
            reason = "origin",
            origin,
            host = shown(&header::HOST),
            %peer,
            config = "connection.allowed_origins",
            hint = remedy(&origin, allowed, reached),
            unlogged,
            "connection_refused"
        );
    });
    let said = "the page's origin is not allowed: add it to connection.allowed_origins of the server\n";
    Err(Box::new(text(StatusCode::FORBIDDEN, said)))
}

fn remedy(origin: &str, allowed: AllowedOrigins<'_>, reached: Reached) -> &'static str {
    if origin == "null" {
        return "a page that is opened from a file, or stands in a sandbox, has no origin: serve it by an HTTP server";
    }
    match (allowed, reached.by_trusted_proxy) {
        (AllowedOrigins { localhost: true, .. }, _) => {
            "`dev` accepts pages of localhost; for another, set DRAWBRIDGE_CONNECTION__ALLOWED_ORIGINS='[\"ORIGIN\"]'"
        }
        (AllowedOrigins { list: Some(_), .. }, _) => "the list does not name it: add it as it is logged here",
        (_, true) => {
            "it is not the origin that the proxy names in Host, X-Forwarded-Host or Forwarded; to allow it, add it to the list"
        }
        (_, false) => {
            "it is not the origin that Host names; to allow it, add it to the list; if it is this server's own behind a proxy, \
             pass Host on, or add the proxy to trusted_proxies and send X-Forwarded-Host and X-Forwarded-Proto"
        }
    }
}

/// Whether a page of this request's origin may connect. A request without `Origin` does not come from a page (RFC 6454
/// §7.3), and may.
fn is_allowed(allowed: AllowedOrigins<'_>, headers: &HeaderMap, reached: Reached) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if allowed.localhost && is_localhost(origin) {
        return true;
    }
    match allowed.list {
        Some(list) => list.iter().any(|one| one == "*" || is_same(one, origin)),
        None => is_same_origin(origin, headers, reached),
    }
}

/// Whether a token in a cookie counts. Browsers add cookies to the requests of any page, so the page's origin must be the
/// request's own or be named in the list: `"*"` and `"null"` name no origin, and neither does a request without `Origin`.
pub(super) fn may_use_cookies(allowed: AllowedOrigins<'_>, headers: &HeaderMap, reached: Reached) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        return false;
    };
    allowed.names(origin) || is_same_origin(origin, headers, reached)
}

/// Whether the origin is a web server of the browser's own machine.
fn is_localhost(origin: &str) -> bool {
    let is_local = |host: &str| matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    Origin::parse(origin)
        .is_some_and(|origin| matches!(&*origin.scheme, "http" | "https") && is_local(&origin.host))
}

/// Whether two origins are one; a default port may be written or not.
fn is_same(one: &str, other: &str) -> bool {
    match (Origin::parse(one), Origin::parse(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// Scheme, host and port, in the one form that compares.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = http_scheme(scheme);
        let (host, port) = host_and_port(authority)?;
        let port = port.or(default_port(&scheme));
        Some(Origin { scheme, host, port })
    }
}

/// Lower case; a WebSocket's scheme counts as that of its handshake.
fn http_scheme(scheme: &str) -> String {
    match scheme.to_ascii_lowercase().as_str() {
        "ws" => "http".to_owned(),
        "wss" => "https".to_owned(),
        other => other.to_owned(),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`, in lower case, an IPv6 address in its shortest form. `None`: it is neither.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(end);
            (host.to_ascii_lowercase(), port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some("") => None,
        Some(digits) => Some(digits.parse().ok()?),
        None if port.is_empty() => None,
        None => return None,
    };
    (!host.is_empty() && !host.contains(['/', '@', ' '])).then_some((host, port))
}

/// Whether the page has the host and port that the browser used for this socket. The scheme is compared where it is
/// known: by our own TLS, or by a trusted proxy's header; an untrusted proxy may end TLS unseen.
fn is_same_origin(origin: &str, headers: &HeaderMap, reached: Reached) -> bool {
    let Some(origin) = Origin::parse(origin) else { return false };
    let mut schemes: Vec<String> = Vec::new();
    let mut hosts: Vec<&str> = text_of(headers, &header::HOST);
    let mut ports: Vec<u16> = Vec::new();
    let (x_host, x_proto, x_port);
    let (forwarded_host, forwarded_proto);
    if reached.by_trusted_proxy {
        (x_host, x_proto) = (list_of(headers, &X_FORWARDED_HOST), list_of(headers, &X_FORWARDED_PROTO));
        x_port = list_of(headers, &X_FORWARDED_PORT);
        (forwarded_host, forwarded_proto) =
            (forwarded_values(headers, "host"), forwarded_values(headers, "proto"));
        hosts.extend(x_host.iter().chain(&forwarded_host).map(String::as_str));
        schemes.extend(x_proto.iter().chain(&forwarded_proto).map(|scheme| http_scheme(scheme)));
        ports.extend(x_port.iter().filter_map(|port| port.parse::<u16>().ok()));
    }
    if schemes.is_empty() && reached.tls {
        schemes.push("https".to_owned());
    }
    if !schemes.is_empty() && !schemes.contains(&origin.scheme) {
        return false;
    }
    hosts.into_iter().filter_map(host_and_port).any(|(host, port)| {
        host == origin.host
            && match port {
                Some(port) => Some(port) == origin.port,
                // Proxies often leave a port out that is not the default, and name it beside.
                None => {
                    origin.port == default_port(&origin.scheme)
                        || origin.port.is_some_and(|port| ports.contains(&port))
                }
            }
    })
}

fn text_of<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
}

/// The entries of a header that is a list, however many lines it has.
fn list_of(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let entries = text_of(headers, name).into_iter().flat_map(|value| value.split(','));
    entries.map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIRECT: Reached = Reached { tls: false, by_trusted_proxy: false };
    const TLS: Reached = Reached { tls: true, by_trusted_proxy: false };
    const PROXIED: Reached = Reached { tls: false, by_trusted_proxy: true };

    type Header = (&'static str, &'static str);

    fn allowed(list: Option<&[&str]>, origin: &str, headers: &[Header], reached: Reached) -> bool {
        let list: Option<Vec<String>> = list.map(|list| list.iter().map(|one| (*one).to_owned()).collect());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        map.append(header::ORIGIN, origin.parse().unwrap());
        is_allowed(AllowedOrigins { list: list.as_deref(), localhost: false }, &map, reached)
    }

    #[test]
    fn in_dev_pages_of_this_machine_may_connect_from_any_port() {
        let rows = [
            ("http://localhost:5173", true),
            ("https://localhost", true),
            ("http://LOCALHOST:80", true),
            ("http://127.0.0.1:3000", true),
            ("http://[::1]:3000", true),
            ("http://[0:0::1]", true),
            ("http://127.0.0.1.evil.example", false),
            ("http://localhost.evil.example:5173", false),
            ("http://evil.example", false),
            ("http://user@localhost", false),
            ("http://192.168.1.5:5173", false),
            ("app://localhost", false),
            ("null", false),
        ];
        let headers = |origin: &str| {
            HeaderMap::from_iter([
                (header::HOST, "127.0.0.1:8000".parse().unwrap()),
                (header::ORIGIN, origin.parse().unwrap()),
            ])
        };
        let listed = ["https://play.example".to_owned()];
        for list in [None, Some(&listed[..])] {
            for (origin, expected) in rows {
                let allowed = AllowedOrigins { list, localhost: true };
                assert_eq!(is_allowed(allowed, &headers(origin), DIRECT), expected, "{origin}");
                let elsewhere = AllowedOrigins { list, localhost: false };
                assert!(!is_allowed(elsewhere, &headers(origin), DIRECT), "{origin} outside dev");
            }
        }
        let allowed = AllowedOrigins { list: Some(&listed), localhost: true };
        assert!(is_allowed(allowed, &headers("https://play.example"), DIRECT));
    }

    #[test]
    fn the_same_origin_is_recognised_in_the_usual_forms() {
        let host = |host: &'static str| vec![("host", host)];
        let rows: &[(&str, Vec<Header>, Reached, bool)] = &[
            ("http://play.example", host("play.example"), DIRECT, true),
            ("https://play.example", host("play.example"), DIRECT, true),
            ("https://play.example", host("play.example:443"), DIRECT, true),
            ("http://play.example", host("play.example:80"), DIRECT, true),
            ("http://play.example:80", host("play.example"), DIRECT, true),
            ("https://PLAY.example", host("play.Example"), DIRECT, true),
            ("http://play.example:8000", host("play.example:8000"), DIRECT, true),
            ("http://[::1]:8000", host("[0:0::1]:8000"), DIRECT, true),
            ("https://[2001:db8::1]", host("[2001:DB8::1]"), DIRECT, true),
            ("https://play.example", host("play.example:80"), DIRECT, false),
            ("https://play.example:8443", host("play.example"), DIRECT, false),
            ("https://play.example", host("play.example:8443"), DIRECT, false),
            ("https://play.example.evil.example", host("play.example"), DIRECT, false),
            ("https://evil.example", host("play.example"), DIRECT, false),
            ("https://[::2]", host("[::1]"), DIRECT, false),
            ("null", host("play.example"), DIRECT, false),
            ("file://", host("play.example"), DIRECT, false),
            ("capacitor://localhost", host("play.example"), DIRECT, false),
            ("https://", host("play.example"), DIRECT, false),
            ("https://play.example", vec![], DIRECT, false),
            // With TLS of our own the scheme is known.
            ("https://play.example", host("play.example"), TLS, true),
            ("http://play.example", host("play.example"), TLS, false),
        ];
        for (origin, headers, reached, expected) in rows {
            assert_eq!(
                allowed(None, origin, headers, *reached),
                *expected,
                "{origin} {headers:?} {reached:?}"
            );
        }
    }

    #[test]
    fn what_trusted_proxies_name_counts_and_only_theirs() {
        let upstream = ("host", "127.0.0.1:8000");
        let rows: &[(&str, &[Header], bool)] = &[
            ("https://play.example", &[upstream, ("x-forwarded-host", "play.example")], true),
            (
                "https://play.example:8443",
                &[upstream, ("x-forwarded-host", "play.example:8443"), ("x-forwarded-proto", "https")],
                true,
            ),
            ("https://play.example", &[upstream, ("x-forwarded-host", "cdn.internal, play.example")], true),
            (
                "https://play.example",
                &[upstream, ("forwarded", "for=1.2.3.4;host=play.example;proto=https")],
                true,
            ),
            (
                "https://play.example",
                &[upstream, ("forwarded", "For=1.2.3.4; Host=\"play.example:443\"")],
                true,
            ),
            ("https://[2001:db8::1]", &[upstream, ("forwarded", "host=\"[2001:db8::1]\";proto=wss")], true),
            (
                "https://play.example:8443",
                &[("host", "play.example"), ("x-forwarded-port", "8443"), ("x-forwarded-proto", "https")],
                true,
            ),
            (
                "http://play.example",
                &[upstream, ("x-forwarded-host", "play.example"), ("x-forwarded-proto", "https")],
                false,
            ),
            ("https://evil.example", &[upstream, ("x-forwarded-host", "play.example")], false),
            ("https://evil.example", &[upstream, ("forwarded", "host=play.example;by=evil.example")], false),
        ];
        for (origin, headers, expected) in rows {
            assert_eq!(allowed(None, origin, headers, PROXIED), *expected, "{origin} {headers:?}");
            let by_others = headers[0] == upstream && allowed(None, origin, headers, DIRECT);
            assert!(!by_others, "{origin} {headers:?} of a peer that nobody trusts");
        }
    }

    #[test]
    fn a_cookie_counts_only_for_an_origin_that_is_named() {
        let host: &[Header] = &[("host", "play.example")];
        let (own, other) = (Some("http://play.example"), Some("https://other.example"));
        type Row<'a> = (Option<&'a [&'a str]>, Option<&'a str>, bool);
        let rows: &[Row<'_>] = &[
            (None, own, true),
            (None, other, false),
            (None, None, false),
            (None, Some("null"), false),
            (Some(&["https://other.example"]), other, true),
            (Some(&["https://other.example:443", "*"]), other, true),
            (Some(&["*"]), other, false),
            (Some(&["*"]), own, true),
            (Some(&["*"]), None, false),
            (Some(&["null"]), Some("null"), false),
        ];
        for (list, origin, expected) in rows {
            let list: Option<Vec<String>> =
                list.map(|list| list.iter().map(|one| (*one).to_owned()).collect());
            let mut map = HeaderMap::new();
            for (name, value) in host.iter().copied().chain(origin.map(|origin| ("origin", origin))) {
                map.append(name, value.parse().unwrap());
            }
            let allowed = AllowedOrigins { list: list.as_deref(), localhost: false };
            assert_eq!(may_use_cookies(allowed, &map, DIRECT), *expected, "{list:?} {origin:?}");
        }
    }

    #[test]
    fn listed_origins_are_compared_with_default_ports_written_or_not() {
        let list: &[&str] = &["https://play.example:443", "http://localhost:5173", "null", "app://game"];
        for (origin, expected) in [
            ("https://play.example", true),
            ("https://Play.example:443", true),
            ("http://localhost:5173", true),
            ("null", true),
            ("app://game", true),
            ("http://play.example", false),
            ("http://localhost", false),
            ("app://other", false),
        ] {
            assert_eq!(allowed(Some(list), origin, &[], DIRECT), expected, "{origin}");
        }
        assert!(allowed(Some(&["*"]), "anything", &[], DIRECT));
    }
}
