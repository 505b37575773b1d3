//! Which address a client has, as far as it can be believed.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: the peer's, or, where the peer is a trusted proxy, what its `Forwarded` (RFC 7239) or
/// `X-Forwarded-For`. Entries are believed from the right, as long as trusted proxies wrote them.
pub(crate) fn client_address(peer: IpAddr, trusted: &[IpNet], headers: &HeaderMap) -> IpAddr {
    let address = peer.to_canonical();
    if !is_trusted(address, trusted) {
        return address;
    }
    // A proxy writes one of the two; the other may be the client's own invention. Where they differ, the proxy's own
    // address stands.
    let said: Vec<IpAddr> = [&FORWARDED, &X_FORWARDED_FOR]
        .into_iter()
        .filter(|name| headers.contains_key(*name))
        .map(|name| nearest_untrusted(address, trusted, forwarded_for(headers, name)))
        .collect();
    match said[..] {
        [one] => one,
        [one, other] if one == other => one,
        _ => address,
    }
}

/// The last address of the chain that no trusted proxy represents.
fn nearest_untrusted(peer: IpAddr, trusted: &[IpNet], chain: Vec<Option<IpAddr>>) -> IpAddr {
    let mut address = peer;
    for entry in chain.into_iter().rev() {
        // A client cannot choose what a proxy did not know or hid: the proxy's own address counts.
        let Some(entry) = entry else { break };
        address = entry.to_canonical();
        if !is_trusted(address, trusted) {
            break;
        }
    }
    address
}

pub(crate) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The chain of addresses in one of the headers, the nearest last; `None` where one is not an address.
fn forwarded_for(headers: &HeaderMap, name: &HeaderName) -> Vec<Option<IpAddr>> {
    // No line is left out, whatever bytes it holds: what the proxy added to it would be, too.
    let lines: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let entry =
        |entry: &str| if *name == FORWARDED { forwarded_element(entry) } else { parse_node(entry.trim()) };
    lines.join(",").split(',').map(entry).collect()
}

/// Whether a proxy that named its client wrote these headers.
pub(super) fn names_a_client(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED) || headers.contains_key(X_FORWARDED_FOR)
}

/// The values of this parameter in all elements of `Forwarded` (RFC 7239 §4), the nearest proxy's last.
pub(super) fn forwarded_values(headers: &HeaderMap, parameter: &str) -> Vec<String> {
    let lines = headers.get_all(FORWARDED).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split([',', ';'])).filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(|(name, _)| name.eq_ignore_ascii_case(parameter))
        .map(|(_, value)| value.trim_matches('"').to_owned())
        .collect()
}

/// `for=…` of one element of `Forwarded` (RFC 7239 §4).
fn forwarded_element(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| parse_node(value.trim_matches('"')))?
    })
}

/// An address with or without a port, in brackets or not (RFC 7239 §6).
fn parse_node(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some(address.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn resolve(peer: &str, header: &str, value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_bytes(header.as_bytes()).unwrap(), value.parse().unwrap());
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client_address(peer.parse().unwrap(), &trusted, &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let rows = [
            ("198.51.100.1", "x-forwarded-for", "203.0.113.7", "198.51.100.1"),
            ("10.0.0.1", "x-forwarded-for", "203.0.113.7", "203.0.113.7"),
            ("10.0.0.1", "x-forwarded-for", "1.2.3.4, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
            ("10.0.0.1", "x-forwarded-for", "10.0.0.9", "10.0.0.9"),
            ("10.0.0.1", "x-forwarded-for", "203.0.113.7, nonsense", "10.0.0.1"),
            ("10.0.0.1", "x-forwarded-for", "203.0.113.7:4711", "203.0.113.7"),
            ("::ffff:10.0.0.1", "x-forwarded-for", "203.0.113.7", "203.0.113.7"),
            (
                "10.0.0.1",
                "forwarded",
                "for=192.0.2.43, For=\"[2001:db8::17]:4711\";proto=https",
                "2001:db8::17",
            ),
            ("10.0.0.1", "forwarded", "for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("10.0.0.1", "forwarded", "for=_hidden", "10.0.0.1"),
        ];
        for (peer, header, value, expected) in rows {
            assert_eq!(resolve(peer, header, value), expected, "{peer} {header}: {value}");
        }
    }

    #[test]
    fn where_two_headers_differ_neither_is_believed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "203.0.113.7".parse().unwrap());
        headers.insert("forwarded", "for=198.51.100.9".parse().unwrap());
        let (peer, trusted) = ("10.0.0.1".parse().unwrap(), ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(client_address(peer, &trusted, &headers), peer);
        headers.insert("forwarded", "for=203.0.113.7".parse().unwrap());
        assert_eq!(client_address(peer, &trusted, &headers).to_string(), "203.0.113.7");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_what_the_proxy_added() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "203.0.113.66".parse().unwrap());
        headers.append("x-forwarded-for", http::HeaderValue::from_bytes(b"\x80, 203.0.113.7").unwrap());
        let (peer, trusted) = ("10.0.0.1".parse().unwrap(), ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(client_address(peer, &trusted, &headers).to_string(), "203.0.113.7");
    }
}
