//! Two counts of a channel's events that must never be compared: the node's own, which starts when the node begins to count
//! and stands still while nobody is subscribed, and Redis', which names an event for ever.

use std::fmt;

/// The number of an event in this node's count of its channel; 0: before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalOffset(pub u64);

impl LocalOffset {
    /// The number of the event behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        LocalOffset(self.0 + 1)
    }
}

impl fmt::Display for LocalOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an event in the log of its channel, assigned by Redis: the same on every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoggedOffset(pub u64);

impl LoggedOffset {
    /// The number of the event behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        LoggedOffset(self.0.saturating_add(1))
    }

    /// The number of the event before this one; 0 stays 0.
    #[must_use]
    pub fn previous(self) -> Self {
        LoggedOffset(self.0.saturating_sub(1))
    }
}
