//! Which share of a common number of places each address holds: taken where a connection is accepted, and given back when it is
//! dropped. Connections and sessions of an address are counted in [`drawbridge_engine::address_slots`].

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;

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

    /// Takes a place for this address; for no address if it is that of many clients, as a trusted proxy's is. Returns `None` if
    /// the address has its share, or all places are taken.
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
        let counted = |text: &str| counted_as(text.parse().unwrap());
        assert_eq!(counted("2001:db8::1"), counted("2001:db8::2"));
        assert_ne!(counted("2001:db8::1"), counted("2001:db8:0:1::2"));
        assert_eq!(counted("::ffff:192.0.2.1"), counted("192.0.2.1"));
    }
}
