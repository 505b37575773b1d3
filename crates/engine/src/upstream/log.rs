//! The source of a channel whose events Redis keeps and numbers: catches up from a position by what is stored, read in
//! parts, and by what comes live meanwhile, and then goes on live. It holds events only while it reads, and only so many.
//!
//! ```text
//!   begin(from) ──▶ stored … stored ──▶ finish ──▶ live … live
//!                   live: held                     each version behind `from` once, in order; or Gap: begin again
//! ```

use std::collections::VecDeque;

use super::merge::{Fate, Merge, Seq};
use crate::io::Epoch;
use crate::offset::LoggedOffset;

/// How many live events are held while the stored part is read; beyond that the log is read again instead.
const MAX_HELD: usize = 1_024;

/// Versions are missing: the log is to be read from [`Log::position`] again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap;

/// See the module. `T`: an event.
#[derive(Debug)]
pub struct Log<T> {
    merge: Merge<Epoch, LoggedOffset>,
    /// The last version that was delivered.
    delivered: Option<(Epoch, LoggedOffset)>,
    /// What came live while the stored part is read, in order.
    held: VecDeque<(Epoch, LoggedOffset, T)>,
    max_held: usize,
}

impl<T> Log<T> {
    /// A log of which everything up to this version was delivered; `None`: of a channel without history.
    pub fn new(from: Option<(Epoch, LoggedOffset)>) -> Self {
        Log { merge: Merge::new(), delivered: from, held: VecDeque::new(), max_held: MAX_HELD }
    }

    /// The last version that was delivered.
    pub fn position(&self) -> Option<(Epoch, LoggedOffset)> {
        self.delivered
    }

    /// The stored part behind [`Log::position`] is read from now on.
    pub fn begin(&mut self) {
        self.merge.begin();
        self.held.clear();
    }

    /// A stored event, in order. Returns it if it is the next to deliver.
    ///
    /// # Errors
    /// Where the log no longer has what comes before it, or is of another life.
    pub fn stored(&mut self, epoch: Epoch, offset: LoggedOffset, event: T) -> Result<Option<T>, Gap> {
        self.deliver(epoch, offset, event)
    }

    /// All that is stored was delivered, up to this version. Returns what came live behind it.
    ///
    /// # Errors
    /// Where it does not follow on what is stored.
    pub fn finish(&mut self, stored: Option<(Epoch, LoggedOffset)>) -> Result<Vec<T>, Gap> {
        let held = std::mem::take(&mut self.held);
        let fits = self.merge.finish(stored, false) && stored.is_none_or(|_| stored == self.delivered);
        if !fits {
            return Err(Gap);
        }
        let mut events = Vec::new();
        for (epoch, offset, event) in held {
            events.extend(self.deliver(epoch, offset, event)?);
        }
        // Of what was not held the merge knows.
        if self.merge.seq() != self.delivered.map(|(_, offset)| offset) {
            return Err(Gap);
        }
        Ok(events)
    }

    /// A live event. Returns it if it is to be delivered now.
    ///
    /// # Errors
    /// Where versions before it are missing.
    pub fn live(&mut self, epoch: Epoch, offset: LoggedOffset, event: T) -> Result<Option<T>, Gap> {
        match self.merge.live(&epoch, offset) {
            Fate::Buffered { other_life } => {
                if other_life {
                    self.held.clear();
                }
                if self.held.len() < self.max_held {
                    self.held.push_back((epoch, offset, event));
                }
                Ok(None)
            }
            // Of the life before the last events may be lost.
            Fate::Begins if self.delivered.is_some() => Err(Gap),
            Fate::Next | Fate::Begins => {
                self.delivered = Some((epoch, offset));
                Ok(Some(event))
            }
            Fate::Known => Ok(None),
            Fate::Gap => Err(Gap),
        }
    }

    fn deliver(&mut self, epoch: Epoch, offset: LoggedOffset, event: T) -> Result<Option<T>, Gap> {
        match self.delivered {
            Some((life, last)) if life == epoch && offset <= last => return Ok(None),
            Some((life, last)) if life == epoch && offset == last.next() => {}
            None if offset == LoggedOffset::FIRST => {}
            _ => return Err(Gap),
        }
        self.delivered = Some((epoch, offset));
        Ok(Some(event))
    }

    #[cfg(test)]
    pub(super) fn holding(mut self, max_held: usize) -> Self {
        self.max_held = max_held;
        self
    }
}
