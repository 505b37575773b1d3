//! The one merge of what is stored of a channel and what comes live, by version: a life (which history) and a sequence number
//! in it. It decides for each live event what to do, and at the end of a reading whether both fit; what an event is, and
//! where it is kept meanwhile, is left to its user: [`super::table`] keeps the last event of each entity.
//!
//! ```text
//!   Live ──begin──▶ Reading ──finish: both fit──▶ Live          a live event while Live:
//!                      ▲  │                                       the next one ▶ Next    an older one ▶ Known
//!                      └──┴── finish: they do not: read again     the first of another life ▶ Begins
//!                                                                 any other ▶ Gap: read again
//! ```
//!
//! Invariant: while Live, every version of the life up to [`Merge::seq`] was stored or delivered, each once.

use std::borrow::Borrow;

/// A sequence number.
pub(super) trait Seq: Copy + Ord {
    /// The number of the first event of a life.
    const FIRST: Self;
    /// The number behind this one.
    #[must_use]
    fn next(self) -> Self;
}

/// The changes of a stored table.
impl Seq for u64 {
    const FIRST: Self = 1;
    fn next(self) -> Self {
        self.saturating_add(1)
    }
}

/// What becomes of a live event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The stored part is being read: keep it until [`Merge::finish`].
    Buffered {
        /// It is of another life than the live events before it: those are void.
        other_life: bool,
    },
    /// The next version.
    Next,
    /// The first version of another life: nothing is missing, and all of the life before is void.
    Begins,
    /// It was stored, or delivered before.
    Known,
    /// Versions before it are missing.
    Gap,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Merge<L, S> {
    /// The last version that is known; `None`: there is no history yet.
    at: Option<(L, S)>,
    /// While the stored part is being read: the last version that came live.
    reading: Option<Option<(L, S)>>,
}

impl<L: Clone + Eq, S: Seq> Merge<L, S> {
    /// A merge that knows nothing.
    pub(super) fn new() -> Self {
        Merge { at: None, reading: None }
    }

    /// The stored part is read from now on.
    pub(super) fn begin(&mut self) {
        self.reading = Some(None);
    }

    /// The life that is known.
    pub(super) fn life(&self) -> Option<&L> {
        self.at.as_ref().map(|(life, _)| life)
    }

    /// The last version that is known.
    pub(super) fn seq(&self) -> Option<S> {
        self.at.as_ref().map(|(_, seq)| *seq)
    }

    /// Takes in a live event.
    pub(super) fn live<Q>(&mut self, life: &Q, seq: S) -> Fate
    where
        L: Borrow<Q>,
        Q: ?Sized + Eq + ToOwned<Owned = L>,
    {
        if let Some(seen) = &mut self.reading {
            let other_life = seen.as_ref().is_some_and(|(before, _)| before.borrow() != life);
            *seen = Some((life.to_owned(), seq));
            return Fate::Buffered { other_life };
        }
        match &mut self.at {
            Some((known, at)) if (*known).borrow() == life => match () {
                () if seq <= *at => Fate::Known,
                () if seq == at.next() => {
                    *at = seq;
                    Fate::Next
                }
                () => Fate::Gap,
            },
            at if seq == S::FIRST => {
                *at = Some((life.to_owned(), seq));
                Fate::Begins
            }
            _ => Fate::Gap,
        }
    }

    /// All that is stored was read, as of this version; `None`: nothing is stored. Returns whether it fits what came live
    /// meanwhile. `holds`: where it does not, what is stored counts all the same.
    pub(super) fn finish(&mut self, stored: Option<(L, S)>, holds: bool) -> bool {
        let seen = self.reading.take().flatten();
        self.at = stored;
        match (&self.at, seen) {
            (None, seen) => self.at = seen,
            (Some((life, at)), Some((seen_life, seen))) if *life == seen_life => {
                let last = seen.max(*at);
                self.at = Some((seen_life, last));
            }
            // The history began again while it was read.
            (Some(_), Some(_)) if !holds => return false,
            (Some(_), _) => {}
        }
        true
    }
}

impl<L: Clone + Eq, S: Seq> Default for Merge<L, S> {
    fn default() -> Self {
        Merge::new()
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
