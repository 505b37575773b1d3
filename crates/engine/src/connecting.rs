//! How many sessions of a shard connect at once: those between a good token and `WELCOME`, each of which costs requests to Redis.
//! When there are as many as there may be, others wait, as many again; those that resume a session go first, because what
//! they missed grows while they wait. Who finds no room is turned away, with a time to come back at.
//!
//! ```text
//!                  room                                     WELCOME, or it has ended
//!   enter ──────────────────────────────▶ connecting ──────────────────────────────────▶ its place is free
//!     │  no room                              ▲                                               │
//!     ├──▶ waiting: who resumes, then others ─┴──── the first of them ◀───────────────────────┘
//!     └──▶ turned away: too many wait; or the last of the others, for one who resumes
//! ```

use std::collections::VecDeque;

use crate::io::SessionId;

/// Who is turned away waits for up to so long: with full jitter, so that not all come back at once.
const RETRY_MS: u64 = 5_000;

/// See the module. `C` is what a session goes on with when it gets a place.
#[derive(Debug)]
pub(crate) struct Connecting<C> {
    /// How many may connect at once, and how many may wait; at least 1.
    limit: usize,
    places: usize,
    resuming: VecDeque<(SessionId, C)>,
    others: VecDeque<(SessionId, C)>,
}

/// Where a session is on its way through [`Connecting`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ConnectPlace {
    /// It has not requested a place, or has returned it.
    #[default]
    None,
    /// It waits for one.
    Waiting,
    /// It has one.
    Held,
}

/// What becomes of a session that is to connect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered<C> {
    /// It has a place.
    Now(C),
    /// It waits; in place of this one, if there is one, which is turned away.
    Waits(Option<SessionId>),
    /// It is turned away.
    Full,
}

impl<C> Connecting<C> {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Connecting { limit, places: 0, resuming: VecDeque::new(), others: VecDeque::new() }
    }

    /// A session is to connect.
    pub(crate) fn enter(&mut self, id: SessionId, resumes: bool, goes_on_with: C) -> Entered<C> {
        if self.places < self.limit {
            self.places += 1;
            return Entered::Now(goes_on_with);
        }
        let mut displaced = None;
        if self.waiting() >= self.limit {
            if !resumes || self.others.is_empty() {
                return Entered::Full;
            }
            displaced = self.others.pop_back().map(|(last, _)| last);
        }
        let queue = if resumes { &mut self.resuming } else { &mut self.others };
        queue.push_back((id, goes_on_with));
        Entered::Waits(displaced)
    }

    /// A place is free.
    pub(crate) fn leave(&mut self) {
        debug_assert!(self.places > 0, "no session has a place");
        self.places = self.places.saturating_sub(1);
    }

    /// Who waited has ended.
    pub(crate) fn forget(&mut self, id: SessionId) {
        for queue in [&mut self.resuming, &mut self.others] {
            queue.retain(|(other, _)| *other != id);
        }
    }

    /// The next one that gets a free place, if there is one of each.
    pub(crate) fn next(&mut self) -> Option<(SessionId, C)> {
        if self.places >= self.limit {
            return None;
        }
        let next = self.resuming.pop_front().or_else(|| self.others.pop_front())?;
        self.places += 1;
        Some(next)
    }

    /// How many connect now.
    pub(crate) fn places(&self) -> usize {
        self.places
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.resuming.len() + self.others.len()
    }
}

/// When a client that is turned away may come back, in milliseconds: anywhere up to the bound, by a number that is random for each
/// connection.
pub(crate) fn retry_after_ms(random: u64) -> u64 {
    1 + random % RETRY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u32) -> SessionId {
        SessionId { index, generation: 1 }
    }

    fn order(connecting: &mut Connecting<u32>) -> Vec<u32> {
        let mut order = Vec::new();
        while connecting.places() > 0 {
            connecting.leave();
            order.extend(connecting.next().map(|(_, number)| number));
        }
        order
    }

    #[test]
    fn who_resumes_goes_first_and_the_others_in_their_order() {
        let mut connecting = Connecting::new(3);
        for number in 0..3 {
            assert_eq!(connecting.enter(id(number), false, number), Entered::Now(number));
        }
        assert_eq!(connecting.enter(id(3), false, 3), Entered::Waits(None));
        assert_eq!(connecting.enter(id(4), true, 4), Entered::Waits(None));
        assert_eq!(connecting.enter(id(5), false, 5), Entered::Waits(None));
        assert!(connecting.next().is_none(), "no place is free");
        assert_eq!(order(&mut connecting), [4, 3, 5]);
    }

    #[test]
    fn when_all_is_full_who_resumes_displaces_the_last_of_the_others() {
        let mut connecting = Connecting::new(2);
        for number in 0..4 {
            connecting.enter(id(number), false, number);
        }
        assert_eq!(connecting.enter(id(4), false, 4), Entered::Full);
        assert_eq!(connecting.enter(id(5), true, 5), Entered::Waits(Some(id(3))));
        assert_eq!(connecting.enter(id(6), true, 6), Entered::Waits(Some(id(2))));
        assert_eq!(connecting.enter(id(7), true, 7), Entered::Full);
        assert_eq!((connecting.places(), connecting.waiting()), (2, 2));
        assert_eq!(order(&mut connecting), [5, 6]);
        assert_eq!((connecting.places(), connecting.waiting()), (0, 0));
    }

    #[test]
    fn who_has_ended_waits_no_more() {
        let mut connecting = Connecting::new(1);
        for number in 0..2 {
            connecting.enter(id(number), false, number);
        }
        connecting.forget(id(1));
        assert_eq!(order(&mut connecting), [0; 0]);
    }

    #[test]
    fn delays_are_spread_over_the_whole_bound() {
        let delays: Vec<u64> =
            (0..10_000).map(|n: u64| retry_after_ms(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        assert!(delays.iter().all(|delay| (1..=RETRY_MS).contains(delay)));
        let below = |bound| delays.iter().filter(|delay| **delay <= bound).count();
        assert!(
            (2_000..3_000).contains(&below(RETRY_MS / 4))
                && (7_000..8_000).contains(&below(RETRY_MS * 3 / 4))
        );
    }
}
