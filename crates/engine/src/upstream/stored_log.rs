//! A log as it was read from the store, and what a position means to it.

use bytes::Bytes;

use crate::io::LogPosition;
use crate::position::LoggedOffset;

/// Which part of a log is read. At most as many events as the reader's `limit` says, in the order of their offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRange {
    /// Those behind this offset, the oldest first.
    After(LoggedOffset),
    /// The newest.
    Newest,
}

/// A part of a log, as one reading found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLog {
    /// The newest event's position; offset 0 where there never was one.
    pub last: LogPosition,
    /// The oldest offset that is kept; one beyond `last` where none is.
    pub first: LoggedOffset,
    /// The epochs before, the newest last, each with the offset at which it ended.
    pub ended: Vec<LogPosition>,
    /// The events that were asked for, in order.
    pub events: Vec<StoredLogEvent>,
}

/// One event of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLogEvent {
    /// Where it is.
    pub offset: LoggedOffset,
    /// What was published.
    pub payload: Bytes,
}

/// What a client's position means to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// All behind this offset is kept.
    Continues,
    /// Some events behind it are no longer kept.
    Gap,
    /// It is of a history that this log does not go on with: its epoch is not known, or its offset is beyond the end of that epoch.
    Unknown,
}

impl StoredLog {
    /// What a request reads where no log was begun: no events, in an epoch that no log has.
    pub fn absent() -> Self {
        let last = LogPosition { epoch: crate::io::Epoch::new(0), offset: LoggedOffset(0) };
        StoredLog { last, first: LoggedOffset(1), ended: Vec::new(), events: Vec::new() }
    }

    /// Whether it is [`StoredLog::absent`].
    pub fn is_absent(&self) -> bool {
        self.last == StoredLog::absent().last
    }

    /// What this position means to the log.
    pub fn cursor(&self, position: LogPosition) -> Cursor {
        let end = match position.epoch == self.last.epoch {
            true => Some(self.last.offset),
            false => {
                self.ended.iter().rev().find(|ended| ended.epoch == position.epoch).map(|ended| ended.offset)
            }
        };
        match end {
            Some(end) if position.offset > end => Cursor::Unknown,
            None => Cursor::Unknown,
            Some(_) if position.offset.0 + 1 < self.first.0 => Cursor::Gap,
            Some(_) => Cursor::Continues,
        }
    }

    /// The epoch in which this offset was assigned, as far as the log remembers.
    pub fn epoch_of(&self, offset: LoggedOffset) -> crate::io::Epoch {
        let ended = self.ended.iter().find(|ended| offset <= ended.offset);
        ended.map_or(self.last.epoch, |ended| ended.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Epoch;

    fn at(epoch: u64, offset: u64) -> LogPosition {
        LogPosition { epoch: Epoch::new(epoch), offset: LoggedOffset(offset) }
    }

    #[test]
    fn a_position_within_an_epoch_continues_and_one_beyond_its_end_does_not() {
        let log = StoredLog {
            last: at(3, 90),
            first: LoggedOffset(40),
            ended: vec![at(1, 50), at(2, 70)],
            events: Vec::new(),
        };
        for (position, expected) in [
            (at(3, 90), Cursor::Continues),
            (at(3, 91), Cursor::Unknown),
            (at(1, 50), Cursor::Continues),
            (at(1, 51), Cursor::Unknown),
            (at(1, 39), Cursor::Continues),
            (at(1, 38), Cursor::Gap),
            (at(2, 70), Cursor::Continues),
            (at(2, 71), Cursor::Unknown),
            (at(9, 10), Cursor::Unknown),
        ] {
            assert_eq!(log.cursor(position), expected, "{position:?}");
        }
        assert_eq!([50, 51, 71].map(|offset| log.epoch_of(LoggedOffset(offset))), [1, 2, 3].map(Epoch::new));
    }
}
