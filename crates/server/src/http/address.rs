//! Which address a client has, as far as it can be believed, and how many connections each address holds.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: the peer's, or, where the peer is a trusted proxy, what its `Forwarded` (RFC 7239) or
/// `X-Forwarded-For` says. Entries are believed from the right, as long as trusted proxies wrote them.
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

/// The last address of the chain that no trusted proxy stands for.
fn nearest_untrusted(peer: IpAddr, trusted: &[IpNet], chain: Vec<Option<IpAddr>>) -> IpAddr {
    let mut address = peer;
    for entry in chain.into_iter().rev() {
        // What a proxy did not know or hid is not the client's to choose: the proxy's own address stands.
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

/// Counts connections by address, up to a bound for each.
#[derive(Debug)]
pub struct AddressSlots {
    bound: Option<u32>,
    held: Mutex<HashMap<IpAddr, u32>>,
}

/// One connection of an address; given back when dropped.
#[derive(Debug)]
pub struct AddressSlot {
    slots: Option<Arc<AddressSlots>>,
    key: IpAddr,
}

impl AddressSlots {
    /// At most `bound` connections an address; `None`: not counted.
    pub fn new(bound: Option<u32>) -> Arc<Self> {
        Arc::new(AddressSlots { bound, held: Mutex::default() })
    }

    /// Takes a slot; `None` where the address holds as many as it may.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<AddressSlot> {
        let key = counted_as(address);
        let Some(bound) = self.bound else { return Some(AddressSlot { slots: None, key }) };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(key).or_insert(0);
        if *count >= bound {
            return None;
        }
        *count += 1;
        Some(AddressSlot { slots: Some(self.clone()), key })
    }

    /// Addresses that hold a slot.
    pub fn len(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no address holds a slot.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let Some(slots) = &self.slots else { return };
        let mut held = slots.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

/// What an address is counted as: a household or a phone gets a whole /64 of IPv6, which counts as one.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
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

    #[test]
    fn slots_are_bounded_and_given_back() {
        let slots = AddressSlots::new(Some(2));
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let (one, two) = (slots.take(address).unwrap(), slots.take(address).unwrap());
        assert!(slots.take(address).is_none());
        assert!(slots.take("192.0.2.2".parse().unwrap()).is_some());
        drop(one);
        assert!(slots.take(address).is_some());
        drop(two);
        assert!(slots.is_empty());
    }

    #[test]
    fn a_slash_64_of_ipv6_is_one_address() {
        let slots = AddressSlots::new(Some(1));
        let _held = slots.take("2001:db8::1".parse().unwrap()).unwrap();
        assert!(slots.take("2001:db8::2".parse().unwrap()).is_none());
        assert!(slots.take("2001:db8:0:1::2".parse().unwrap()).is_some());
    }
}
