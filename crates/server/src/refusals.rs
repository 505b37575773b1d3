//! Whom the node turns away before they are players: a counter for each reason, and a rate-limited log line that names the
//! configuration key that would allow it. Tokens are refused by the engines, which report them by notices.

use std::sync::{Mutex, PoisonError};

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
    pub const ALL: [Reason; 8] = [
        Reason::Origin,
        Reason::Address,
        Reason::Unauthenticated,
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
}

impl Refusals {
    /// Counts a refusal. `line` logs it unless many of this reason were logged lately; it gets how many were not.
    pub(crate) fn refuse(&self, reason: Reason, line: impl FnOnce(u64)) {
        let Some((counter, sparse)) = self.reasons.get(reason as usize) else { return };
        counter.inc();
        sparse.lock().unwrap_or_else(PoisonError::into_inner).line(line);
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
    fn each_reason_has_a_counter_of_its_own() {
        let refusals = Refusals::default();
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            for _ in 0..=at {
                refusals.refuse(reason, drop);
            }
        }
        let counts = refusals.counts();
        assert_eq!(counts.map(|(_, count)| count), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(counts[0].0, "origin");
    }
}
