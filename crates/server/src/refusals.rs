//! Whom the node turns away before they are players: a counter for each reason, and a rate-limited log line that names the
//! configuration key that would allow it. Tokens are refused by the engines, which report them by notices.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::log::Sparse;
use crate::node::Counter;

/// Why a connection or request is refused; the label `reason` in `/metrics` and in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The page's origin is not allowed.
    Origin,
    /// The address holds as many connections as it may.
    Address,
    /// The address holds its share of those that have not authenticated, handshakes included, or there is no room for more.
    Unauthenticated,
    /// The request for the socket is no WebSocket handshake.
    Handshake,
    /// None of the sub-protocols that were offered is known.
    Subprotocol,
    /// `dev`: the request names another host than this one.
    Host,
    /// The process has as many files open as it may.
    Files,
    /// The node drains.
    Draining,
    /// The address holds its share of the admin listener's connections, or there is no room for more.
    Admin,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 9] = [
        Reason::Origin,
        Reason::Address,
        Reason::Unauthenticated,
        Reason::Handshake,
        Reason::Subprotocol,
        Reason::Host,
        Reason::Files,
        Reason::Draining,
        Reason::Admin,
    ];

    /// The reason as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Origin => "origin",
            Reason::Address => "address",
            Reason::Unauthenticated => "unauthenticated",
            Reason::Handshake => "handshake",
            Reason::Subprotocol => "subprotocol",
            Reason::Host => "host",
            Reason::Files => "files",
            Reason::Draining => "draining",
            Reason::Admin => "admin",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    reasons: [(Counter, Mutex<Sparse>); Reason::ALL.len()],
    named: Mutex<RecentNames>,
}

/// Whose refusal was logged lately. Why: a page that is refused tries again for ever, and one line about it is enough.
#[derive(Debug, Default)]
struct RecentNames(VecDeque<(String, Instant)>);

impl RecentNames {
    const MAX: usize = 64;
    const MAX_NAME_BYTES: usize = 256;
    /// After this time a name is logged again.
    const AGE: Duration = Duration::from_secs(600);

    /// Whether this name was not there; now it is, in place of the oldest where there are too many.
    fn insert(&mut self, name: &str, now: Instant) -> bool {
        let end = name.floor_char_boundary(Self::MAX_NAME_BYTES);
        let name = &name[..end];
        self.0.retain(|(_, since)| now.duration_since(*since) < Self::AGE);
        if self.0.iter().any(|(known, _)| known == name) {
            return false;
        }
        if self.0.len() >= Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back((name.to_owned(), now));
        true
    }
}

impl Refusals {
    /// Counts a refusal. `line` logs it unless many of this reason were logged lately; it gets how many were not.
    pub(crate) fn refuse(&self, reason: Reason, line: impl FnOnce(u64)) {
        let Some((counter, sparse)) = self.reasons.get(reason as usize) else { return };
        counter.inc();
        sparse.lock().unwrap_or_else(PoisonError::into_inner).line(line);
    }

    /// As [`Refusals::refuse`], of someone with a name, such as a page's origin: a name is logged once in ten minutes.
    pub(crate) fn refuse_named(&self, reason: Reason, name: &str, line: impl FnOnce(u64)) {
        if self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Instant::now()) {
            return self.refuse(reason, line);
        }
        let Some((counter, sparse)) = self.reasons.get(reason as usize) else { return };
        counter.inc();
        sparse.lock().unwrap_or_else(PoisonError::into_inner).skip();
    }

    /// Refusals by reason.
    pub fn counts(&self) -> [(&'static str, u64); Reason::ALL.len()] {
        Reason::ALL.map(|reason| {
            let counter = self.reasons.get(reason as usize);
            (reason.as_str(), counter.map_or(0, |(counter, _)| counter.get()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_logged_once_and_counted_always() {
        let (refusals, logged) = (Refusals::default(), std::cell::RefCell::new(Vec::new()));
        for name in ["a", "a", "b", "a"] {
            refusals
                .refuse_named(Reason::Origin, name, |unlogged| logged.borrow_mut().push((name, unlogged)));
        }
        refusals.refuse_named(Reason::Origin, "c", |unlogged| logged.borrow_mut().push(("c", unlogged)));
        assert_eq!(*logged.borrow(), [("a", 0), ("b", 1), ("c", 1)]);
        assert_eq!(refusals.counts()[0], ("origin", 5));
    }

    #[test]
    fn names_are_remembered_for_a_while_and_within_bounds() {
        let (mut names, start) = (RecentNames::default(), Instant::now());
        assert!(names.insert("first", start));
        assert!(!names.insert("first", start + RecentNames::AGE / 2));
        assert!(names.insert("first", start + RecentNames::AGE));
        for number in 0..10 * RecentNames::MAX {
            assert!(names.insert(&format!("{number}{}", "é".repeat(1_000)), start + RecentNames::AGE));
        }
        assert_eq!(names.0.len(), RecentNames::MAX);
        assert!(names.0.iter().all(|(name, _)| name.len() <= RecentNames::MAX_NAME_BYTES));
    }

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let refusals = Refusals::default();
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            for _ in 0..=at {
                refusals.refuse(reason, drop);
            }
        }
        let counts = refusals.counts();
        assert_eq!(counts.map(|(_, count)| count), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(counts[0].0, "origin");
    }
}
