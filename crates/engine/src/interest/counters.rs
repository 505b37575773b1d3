//! Offsets of channels that only patterns cover: bounded, and never going back within one epoch.

use std::sync::Arc;

use hashbrown::HashMap;

/// How many channels are counted one by one before the counts are folded into the floor.
const MAX_CHANNELS: usize = 65_536;

/// Counts by channel, with a floor under all that were forgotten.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: HashMap<Arc<str>, u64>,
    floor: u64,
}

impl Counters {
    /// The next number of this channel, with the channel's shared name.
    pub(super) fn next(&mut self, channel: &str) -> (Arc<str>, u64) {
        if let Some((name, count)) = self.counts.get_key_value_mut(channel) {
            *count += 1;
            return (name.clone(), *count);
        }
        if self.counts.len() >= MAX_CHANNELS {
            self.forget_all();
        }
        let (name, count) = (Arc::<str>::from(channel), self.floor + 1);
        self.counts.insert(name.clone(), count);
        (name, count)
    }

    /// Where a channel that becomes counted elsewhere goes on.
    pub(super) fn take(&mut self, channel: &str) -> u64 {
        self.counts.remove(channel).unwrap_or(self.floor)
    }

    /// A channel that was counted elsewhere is forgotten there.
    pub(super) fn put(&mut self, channel: Arc<str>, offset: u64, still_covered: bool) {
        if still_covered && self.counts.len() < MAX_CHANNELS {
            self.counts.insert(channel, offset);
        } else {
            self.floor = self.floor.max(offset);
        }
    }

    /// No pattern is left: no channel needs a count of its own.
    pub(super) fn forget_all(&mut self) {
        self.floor = self.counts.drain().map(|(_, count)| count).fold(self.floor, u64::max);
    }

    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }
}
