//! Counts of channels' events. Each count has its own epoch and begins at 0, so that it says nothing of other
//! channels; a count that was forgotten begins again under another epoch. Counts of channels that only patterns cover are
//! kept here, in bounded memory; those of exact subscriptions stand in the hub's entries.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::io::{Epoch, LocalOffset, Position};

/// How many channels one generation holds. There are two, so that twice as many are counted at most, and the last
/// so many that had an event are never forgotten.
const GENERATION: usize = 32_768;

/// See the module.
#[derive(Debug)]
pub(super) struct Counters {
    /// Random for each hub, and secret: epochs reveal neither it nor how many counts there are.
    seed: u128,
    drawn: u64,
    /// Channels by their last use; when `recent` is full it becomes `older`, and what is in neither is forgotten.
    recent: HashMap<Arc<str>, Position>,
    older: HashMap<Arc<str>, Position>,
}

impl Counters {
    pub(super) fn new(seed: u128) -> Self {
        Counters { seed, drawn: 0, recent: HashMap::new(), older: HashMap::new() }
    }

    /// The next position of this channel, with the channel's shared name.
    pub(super) fn next(&mut self, channel: &str) -> (Arc<str>, Position) {
        if let Some((name, position)) = self.recent.get_key_value_mut(channel) {
            position.offset = position.offset.next();
            return (name.clone(), *position);
        }
        let known = self.older.remove_entry(channel);
        let (name, mut position) = known.unwrap_or_else(|| (channel.into(), self.begin()));
        position.offset = position.offset.next();
        self.put(name.clone(), position);
        (name, position)
    }

    /// Where the count of this channel is, with the channel's shared name.
    pub(super) fn current(&mut self, channel: &str) -> (Arc<str>, Position) {
        if let Some((name, position)) = self.recent.get_key_value(channel) {
            return (name.clone(), *position);
        }
        let known = self.older.remove_entry(channel);
        let (name, position) = known.unwrap_or_else(|| (channel.into(), self.begin()));
        self.put(name.clone(), position);
        (name, position)
    }

    /// Where the count of a channel goes on that is counted elsewhere from now on.
    pub(super) fn take(&mut self, channel: &str) -> Position {
        let known = self.recent.remove(channel).or_else(|| self.older.remove(channel));
        known.unwrap_or_else(|| self.begin())
    }

    /// Goes on with the count of a channel that was counted elsewhere.
    pub(super) fn put(&mut self, channel: Arc<str>, position: Position) {
        if self.recent.len() >= GENERATION {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(channel, position);
    }

    /// No pattern is left: no channel needs a count here.
    pub(super) fn forget_all(&mut self) {
        (self.recent, self.older) = Default::default();
    }

    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }

    fn begin(&mut self) -> Position {
        Position { epoch: Epoch::new(self.draw()), offset: LocalOffset(0) }
    }

    /// Another number that nobody can foretell who does not know the seed.
    pub(super) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, self.drawn).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_begins_at_0_whatever_others_have_counted() {
        let mut counters = Counters::new(1);
        for _ in 0..1_234 {
            counters.next("busy");
        }
        let (_, first) = counters.next("fresh");
        assert_eq!((first.offset, counters.take("other").offset), (LocalOffset(1), LocalOffset(0)));
        assert_ne!(first.epoch, counters.next("busy").1.epoch);
    }

    #[test]
    fn a_count_that_was_forgotten_begins_again_under_another_epoch() {
        let mut counters = Counters::new(1);
        let (_, before) = counters.next("a");
        counters.forget_all();
        let (_, after) = counters.next("a");
        assert_eq!((before.offset, after.offset), (LocalOffset(1), LocalOffset(1)));
        assert_ne!(before.epoch, after.epoch);
    }

    #[test]
    fn a_count_goes_on_where_it_is_taken_over() {
        let mut counters = Counters::new(1);
        let (name, before) = counters.next("a");
        assert_eq!(counters.take("a"), before);
        assert_ne!(counters.take("a").epoch, before.epoch, "it was taken");
        counters.put(name, before);
        assert_eq!(counters.next("a").1, Position { offset: LocalOffset(2), ..before });
    }

    #[test]
    fn only_so_many_are_counted_and_those_in_use_are_kept() {
        let mut counters = Counters::new(1);
        let (_, begun) = counters.next("used");
        for n in 0..4 * GENERATION {
            counters.next(&format!("once:{n}"));
            if n % 1_000 == 0 {
                assert_eq!(counters.next("used").1.epoch, begun.epoch);
            }
            assert!(counters.len() <= 2 * GENERATION);
        }
    }

    #[test]
    fn hubs_and_starts_share_no_epoch() {
        let epochs = [1, 2].map(|seed| Counters::new(seed).take("a").epoch);
        assert_ne!(epochs[0], epochs[1]);
    }
}
