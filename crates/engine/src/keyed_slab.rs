//! A slab whose entries are also found by the key that each of them has in its event. So no key is stored twice, and the order of
//! all entries does not depend on a hash.

use std::hash::BuildHasher;
use std::ops::{Index, IndexMut};

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

/// What a [`KeyedSlab`] holds.
pub(crate) trait Keyed {
    /// Its key, which stays the same while it is in the slab.
    fn key(&self) -> &str;
}

/// See the module. Entries are named by small numbers, which are used again.
#[derive(Debug)]
pub(crate) struct KeyedSlab<T> {
    entries: Slab<T>,
    by_key: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<T> Default for KeyedSlab<T> {
    fn default() -> Self {
        KeyedSlab { entries: Slab::new(), by_key: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }
}

impl<T: Keyed> KeyedSlab<T> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// No entry has this number or a higher one.
    pub(crate) fn end(&self) -> u32 {
        self.entries.capacity() as u32
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_key.reserve(more, |id| hasher.hash_one(entries[*id as usize].key()));
        self.entries.reserve(more);
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.entries.contains(id as usize)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.entries.get(id as usize)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.entries.get_mut(id as usize)
    }

    /// The entry with this key.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        let entries = &self.entries;
        self.by_key.find(self.hasher.hash_one(key), |id| entries[*id as usize].key() == key).copied()
    }

    /// Puts an entry in, whose key no other one has.
    pub(crate) fn insert(&mut self, entry: T) -> u32 {
        debug_assert!(self.find(entry.key()).is_none(), "the key {}", entry.key());
        let hash = self.hasher.hash_one(entry.key());
        let id = self.entries.insert(entry) as u32;
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_key.insert_unique(hash, id, |id| hasher.hash_one(entries[*id as usize].key()));
        id
    }

    /// Takes the entry with this key out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<(u32, T)> {
        let (entries, hash) = (&self.entries, self.hasher.hash_one(key));
        let found = self.by_key.find_entry(hash, |id| entries[*id as usize].key() == key).ok()?;
        let (id, _) = found.remove();
        Some((id, self.entries.remove(id as usize)))
    }

    /// Keeps those for which `keeps` says so; it may change all but the key.
    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(&mut T) -> bool) {
        let (by_key, hasher) = (&mut self.by_key, &self.hasher);
        self.entries.retain(|id, entry| {
            let stays = keeps(entry);
            if !stays
                && let Ok(found) = by_key.find_entry(hasher.hash_one(entry.key()), |of| *of as usize == id)
            {
                found.remove();
            }
            stays
        });
    }

    /// All entries with their numbers, in the order of these.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (u32, &T)> {
        self.entries.iter().map(|(id, entry)| (id as u32, entry))
    }

    /// As [`KeyedSlab::iter`].
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.entries.iter_mut().map(|(id, entry)| (id as u32, entry))
    }

    /// Panics in debug builds if some entry is not found by its key, or was.
    pub(crate) fn check(&self) {
        debug_assert_eq!(self.by_key.len(), self.entries.len(), "entries without a key");
    }
}

/// For numbers that name an entry.
impl<T> Index<u32> for KeyedSlab<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        &self.entries[id as usize]
    }
}

impl<T> IndexMut<u32> for KeyedSlab<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.entries[id as usize]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Keyed for (String, u32) {
        fn key(&self) -> &str {
            &self.0
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(steps in proptest::collection::vec((0u32..40, 0u32..8), 0..300)) {
            let (mut slab, mut map) = (KeyedSlab::default(), BTreeMap::new());
            for (number, step) in steps {
                let key = format!("e{number}");
                match step {
                    0..=3 => match slab.find(&key) {
                        Some(id) => {
                            let entry: &mut (String, u32) = &mut slab[id];
                            entry.1 += 1;
                            *map.get_mut(&key).unwrap() += 1;
                        }
                        None => {
                            slab.insert((key.clone(), step));
                            map.insert(key, step);
                        }
                    },
                    4..=5 => {
                        let removed = slab.remove(&key).map(|(_, (_, value))| value);
                        prop_assert_eq!(removed, map.remove(&key));
                    }
                    6 => slab.reserve(number as usize),
                    _ => {
                        slab.retain(|(_, value)| *value % 3 != number % 3);
                        map.retain(|_, value| *value % 3 != number % 3);
                    }
                }
                slab.check();
                prop_assert_eq!(slab.len(), map.len());
                let all: BTreeMap<String, u32> = slab.iter().map(|(_, entry)| entry.clone()).collect();
                prop_assert_eq!(&all, &map);
                let is_found = |id, entry: &(String, u32)| slab.find(&entry.0) == Some(id) && id < slab.end();
                prop_assert!(slab.iter().all(|(id, entry)| is_found(id, entry) && slab.contains(id)));
            }
        }
    }
}
