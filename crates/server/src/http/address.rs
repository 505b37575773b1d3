//! Which address a client has, as far as it can be believed, how many connections each address holds, and which share of a
//! common number.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
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

/// A number of places that addresses share: no address may take them all. An address may hold one part of
/// what is free, so that its share shrinks as the places fill, and always a few while there are any.
#[derive(Debug)]
pub struct Shares {
    places: u32,
    /// An address holds no more than what is free, divided by this.
    part: u32,
    /// And this many in any case.
    floor: u32,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: u32,
    by_address: HashMap<IpAddr, u32>,
}

/// One of the [`Shares`]; given back when dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    /// `None`: it counts for no address.
    key: Option<IpAddr>,
}

impl Shares {
    /// So many places; an address holds up to a `part`th of what is free, and `floor` in any case.
    pub fn new(places: u32, part: u32, floor: u32) -> Arc<Self> {
        Arc::new(Shares { places, part: part.max(1), floor, held: Mutex::default() })
    }

    /// Takes a place for this address; uncounted if it represents many clients, as a trusted proxy does. `None` where the address
    /// has its share, or all places are taken.
    pub fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Share> {
        let key = address.map(counted_as);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.places.saturating_sub(held.total);
        if free == 0 {
            return None;
        }
        if let Some(key) = key {
            let count = held.by_address.get(&key).copied().unwrap_or(0);
            if count >= (free / self.part).max(self.floor) {
                return None;
            }
            held.by_address.insert(key, count + 1);
        }
        held.total += 1;
        Some(Share { shares: self.clone(), key })
    }

    /// Places that are taken.
    pub fn taken(&self) -> u32 {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

/// A [`Share`] that a connection holds until it becomes a socket, which takes it over.
#[derive(Debug)]
pub struct Place(Mutex<Option<Share>>);

impl Place {
    /// Holds this.
    pub fn new(share: Share) -> Self {
        Place(Mutex::new(Some(share)))
    }

    /// The share, if it counts for this address and is still here.
    pub fn take_for(&self, address: IpAddr) -> Option<Share> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.take_if(|share| share.key == Some(counted_as(address)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total -= 1;
        if let Some(key) = &self.key
            && let Some(count) = held.by_address.get_mut(key)
        {
            *count -= 1;
            if *count == 0 {
                held.by_address.remove(key);
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
    fn addresses_that_take_all_they_can_leave_places_for_others() {
        let shares = Shares::new(8_192, 8, 16);
        let mut taken = Vec::new();
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        for greedy in 0..30 {
            while let Some(share) = shares.take(address(greedy)) {
                taken.push(share);
            }
        }
        let newcomer: Vec<Share> = (0..16).map_while(|_| shares.take(address(99))).collect();
        assert_eq!(newcomer.len(), 16, "of {}", shares.taken());
        drop((taken, newcomer));
        assert_eq!(shares.taken(), 0);
        assert!(shares.held.lock().unwrap().by_address.is_empty());
    }

    #[test]
    fn a_socket_takes_over_the_place_of_its_handshake() {
        let shares = Shares::new(64, 8, 16);
        let (direct, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut sockets = Vec::new();
        for at in 0..16 {
            let place = Place::new(shares.take(Some(direct)).unwrap_or_else(|| panic!("no place {at}")));
            assert!(place.take_for(other).is_none());
            sockets.push(place.take_for(direct).unwrap());
            assert!(place.take_for(direct).is_none(), "it is taken over once");
        }
        assert!(shares.take(Some(direct)).is_none(), "the floor is 16, all of which hold sockets");
        let proxied = Place::new(shares.take(None).unwrap());
        assert!(proxied.take_for(direct).is_none(), "a proxy's place is nobody's");
    }

    #[test]
    fn shares_count_a_slash_64_as_one_and_proxies_as_nobody() {
        let shares = Shares::new(5, 4, 1);
        let _held = shares.take("2001:db8::1".parse().ok()).unwrap();
        assert!(shares.take("2001:db8::2".parse().ok()).is_none());
        let proxied: Vec<Share> = (0..9).map_while(|_| shares.take(None)).collect();
        assert_eq!(proxied.len(), 4);
        assert!(shares.take("192.0.2.1".parse().ok()).is_none(), "no place is left");
    }

    #[test]
    fn a_slash_64_of_ipv6_is_one_address() {
        let slots = AddressSlots::new(Some(1));
        let _held = slots.take("2001:db8::1".parse().unwrap()).unwrap();
        assert!(slots.take("2001:db8::2".parse().unwrap()).is_none());
        assert!(slots.take("2001:db8:0:1::2".parse().unwrap()).is_some());
    }
}
