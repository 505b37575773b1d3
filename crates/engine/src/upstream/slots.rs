//! Slots of a Redis Cluster: which one a channel has, and sets of them. Which link carries a slot is
//! decided in [`super::topology`]; moving slots is in [`super::slot_moves`].

use std::fmt;

/// How many slots every Cluster has.
pub const SLOTS: u16 = 16_384;
const WORDS: usize = SLOTS as usize / 64;

/// Computes the slots of channels from the names without their prefix. Invariant: neither names nor prefixes hold braces, so
/// Redis hashes the whole name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotHasher {
    /// The checksum of the prefix that all names have in Redis.
    prefix: u16,
}

impl SlotHasher {
    /// For names that have this prefix in Redis.
    pub fn with_prefix(prefix: &str) -> Self {
        SlotHasher { prefix: crc16(0, prefix.as_bytes()) }
    }

    /// The slot of a channel, from 0 to 16383.
    pub fn slot_of(self, channel: &str) -> u16 {
        crc16(self.prefix, channel.as_bytes()) % SLOTS
    }
}

/// CRC-16/XMODEM, as the Redis Cluster specification has it: continues `crc`, which is 0 at the start, with these bytes.
pub fn crc16(crc: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(crc, |crc, byte| (crc << 8) ^ CRC_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < table.len() {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

/// A set of slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; WORDS]>);

impl Default for SlotSet {
    fn default() -> Self {
        SlotSet(Box::new([0; WORDS]))
    }
}

impl SlotSet {
    /// Adds one.
    pub fn insert(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Whether it is in.
    pub fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// Each of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0..SLOTS).step_by(64).zip(self.0.iter()).flat_map(|(first, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let lowest = (left != 0).then(|| left.trailing_zeros() as u16)?;
                left &= left - 1;
                Some(first + lowest)
            })
        })
    }

    /// Whether any slot is in both.
    pub fn intersects(&self, other: &SlotSet) -> bool {
        self.0.iter().zip(other.0.iter()).any(|(one, other)| one & other != 0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut set = SlotSet::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the Cluster specification, and `CLUSTER KEYSLOT` of Redis 7.0.
    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(0, b"123456789"), 0x31c3);
        for (name, slot) in [("foo", 12_182), ("bar", 5_061), ("room:42", 16_332)] {
            assert_eq!(SlotHasher::default().slot_of(name), slot, "{name}");
        }
    }

    #[test]
    fn a_prefix_counts_as_a_part_of_the_name() {
        for (prefix, name) in [("prod:", "room:42"), ("", "room:42"), ("prod:room", ":42")] {
            let whole = SlotHasher::default().slot_of(&format!("{prefix}{name}"));
            assert_eq!(SlotHasher::with_prefix(prefix).slot_of(name), whole);
        }
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let set: SlotSet = [0, 63, 64, 16_383].into_iter().collect();
        assert_eq!((set.len(), set.is_empty()), (4, false));
        assert!((0..SLOTS).filter(|slot| set.contains(*slot)).eq([0, 63, 64, 16_383]));
        assert!(set.iter().eq([0, 63, 64, 16_383]));
        assert!(set.intersects(&[64].into_iter().collect()) && !set.intersects(&[65].into_iter().collect()));
    }
}
