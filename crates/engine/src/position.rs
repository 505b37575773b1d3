//! Where a channel stands, in one of two counts of its events that must never be compared: the node's own, which starts when
//! the node begins to count and stands still while nobody is subscribed, and Redis', which names an event for ever. An epoch
//! names the life of a count.

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

/// A place in the count of a channel's events (contract §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The count's life.
    pub epoch: Epoch,
    /// The last event's number; 0: the count has just begun.
    pub offset: LocalOffset,
}

/// Where a channel stands, as its clients are shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelPosition {
    /// In the node's own count.
    Counted(Position),
    /// In the channel's log.
    Logged(LogPosition),
}

impl ChannelPosition {
    /// Names the life of the count or the log.
    pub fn epoch(&self) -> &Epoch {
        match self {
            ChannelPosition::Counted(position) => &position.epoch,
            ChannelPosition::Logged(position) => &position.epoch,
        }
    }

    /// The last event's number.
    pub fn offset(&self) -> u64 {
        match self {
            ChannelPosition::Counted(position) => position.offset.0,
            ChannelPosition::Logged(position) => position.offset.0,
        }
    }
}

/// A place in the log of a channel: the same on every node (contract §7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The log's epoch in which the offset was assigned.
    pub epoch: Epoch,
    /// The last event's number; 0: before the first.
    pub offset: LoggedOffset,
}

impl LogPosition {
    /// The position before the event at this one.
    pub(crate) fn before(self) -> Self {
        LogPosition { offset: self.offset.previous(), ..self }
    }
}

/// Names the life of one count, by 16 hexadecimal digits; no two counts share it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch([u8; 16]);

impl Epoch {
    /// The epoch that this number names.
    pub fn new(number: u64) -> Self {
        Epoch(std::array::from_fn(|at| {
            let digit = (number >> (60 - 4 * at)) & 0xf;
            b"0123456789abcdef"[digit as usize]
        }))
    }

    /// The epoch of this name: 16 lower-case hexadecimal digits.
    pub fn parse(name: &str) -> Option<Self> {
        let digits: [u8; 16] = name.as_bytes().try_into().ok()?;
        digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Epoch(digits))
    }

    /// As clients get it.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// In place of the number of an event: events are missing, or it is not known.
pub(crate) const LOST: u64 = u64::MAX;
