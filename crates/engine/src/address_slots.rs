//! How many connections and detached sessions each address holds on the node, up to a bound for both together. A slot is given
//! back when it is dropped. Which part of an IP address counts is left to the caller.
//!
//! Whoever resumes a session takes that session's slot over. Before `CONNECT` has come it is not known who does: a connection
//! that may is let in while the address's connections alone are within the bound, and is turned away when it turns out
//! that it does not ([`AddressSlot::must_resume`]).

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

/// See the module.
#[derive(Debug)]
pub struct AddressSlots {
    bound: Option<u32>,
    held: Mutex<HashMap<IpAddr, Held>>,
}

/// What one address holds.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    connections: u32,
    detached: u32,
}

/// What holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Connection { must_resume: bool },
    DetachedSession,
}

/// The slot of one connection or detached session; given back when dropped.
#[derive(Debug)]
pub struct AddressSlot {
    /// `None`: it is not counted.
    slots: Option<Arc<AddressSlots>>,
    address: IpAddr,
    holder: Holder,
}

impl Held {
    fn total(self) -> u32 {
        self.connections.saturating_add(self.detached)
    }

    fn of(&mut self, holder: Holder) -> &mut u32 {
        match holder {
            Holder::Connection { .. } => &mut self.connections,
            Holder::DetachedSession => &mut self.detached,
        }
    }
}

impl AddressSlots {
    /// At most `bound` connections and detached sessions an address; `None`: not counted.
    pub fn new(bound: Option<u32>) -> Arc<Self> {
        Arc::new(AddressSlots { bound, held: Mutex::default() })
    }

    /// Takes the slot of a connection. `may_resume`: it will send a `CONNECT`, which may resume a session. Returns `None` where
    /// the address holds as many as it may.
    pub fn take(self: &Arc<Self>, address: IpAddr, may_resume: bool) -> Option<AddressSlot> {
        let mut all = self.lock();
        let held = all.get(&address).copied().unwrap_or_default();
        let bound = self.bound.unwrap_or(u32::MAX);
        let must_resume = held.total() >= bound;
        if must_resume && (!may_resume || held.connections >= bound) {
            return None;
        }
        Some(self.hold(&mut all, address, Holder::Connection { must_resume }))
    }

    /// The slot of a session that is detached from now on. It takes the place of the connection that it had.
    pub(crate) fn take_detached(self: &Arc<Self>, address: IpAddr) -> AddressSlot {
        self.hold(&mut self.lock(), address, Holder::DetachedSession)
    }

    /// Whether an address holds more than it may.
    pub(crate) fn is_over(&self, address: IpAddr) -> bool {
        let Some(bound) = self.bound else { return false };
        self.lock().get(&address).is_some_and(|held| held.total() > bound)
    }

    /// Addresses that hold a slot.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no address holds a slot.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hold(
        self: &Arc<Self>,
        all: &mut HashMap<IpAddr, Held>,
        address: IpAddr,
        holder: Holder,
    ) -> AddressSlot {
        let slots = self.bound.map(|_| self.clone());
        if slots.is_some() {
            *all.entry(address).or_default().of(holder) += 1;
        }
        AddressSlot { slots, address, holder }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressSlot {
    /// Whether there is room for the connection only in place of a detached session: one that resumes none is turned away.
    pub fn must_resume(&self) -> bool {
        self.holder == Holder::Connection { must_resume: true }
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let Some(slots) = &self.slots else { return };
        let mut all = slots.lock();
        if let Some(held) = all.get_mut(&self.address) {
            *held.of(self.holder) -= 1;
            if held.total() == 0 {
                all.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn slots_are_bounded_and_given_back() {
        let slots = AddressSlots::new(Some(2));
        let (one, two) = (slots.take(address(1), true).unwrap(), slots.take(address(1), true).unwrap());
        assert!(slots.take(address(1), true).is_none() && slots.take(address(1), false).is_none());
        assert!(slots.take(address(2), false).is_some());
        drop(one);
        assert!(!slots.take(address(1), true).unwrap().must_resume());
        drop(two);
        assert!(slots.is_empty());
    }

    #[test]
    fn a_detached_session_counts_and_leaves_room_only_for_its_return() {
        let slots = AddressSlots::new(Some(1));
        let away = slots.take_detached(address(1));
        assert!(slots.take(address(1), false).is_none(), "a new session");
        let back = slots.take(address(1), true).unwrap();
        assert!(back.must_resume() && slots.is_over(address(1)));
        assert!(slots.take(address(1), true).is_none(), "one at a time");
        drop(away);
        assert!(!slots.is_over(address(1)));
        drop(back);
        assert!(slots.is_empty());
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let slots = AddressSlots::new(None);
        let _held = (slots.take(address(1), false), slots.take_detached(address(1)));
        assert!(slots.is_empty() && !slots.is_over(address(1)));
    }
}
