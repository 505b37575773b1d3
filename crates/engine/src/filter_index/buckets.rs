//! Sets of filters by key, with the weight of the heaviest of them. What a key is and what a weight means is left to
//! the callers.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use hashbrown::{Equivalent, HashMap};

/// Non-empty sets of filters by key.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    of_key: HashMap<K, Bucket>,
    /// How many buckets there are of each weight but 0, so that the heaviest is known when another leaves.
    weights: BTreeMap<usize, usize>,
}

#[derive(Debug, Default)]
struct Bucket {
    ids: BTreeSet<u32>,
    weight: usize,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Buckets { of_key: HashMap::new(), weights: BTreeMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    pub(super) fn is_empty(&self) -> bool {
        self.of_key.is_empty()
    }

    /// Puts a filter in, unless it is there already.
    pub(super) fn insert(&mut self, key: &K, id: u32, weight: usize) {
        let bucket = self.of_key.entry_ref(key).or_default();
        if bucket.ids.insert(id) {
            let before = bucket.weight;
            bucket.weight += weight;
            let after = bucket.weight;
            self.reweigh(before, after);
        }
    }

    /// Takes a filter out that was put in with this weight.
    pub(super) fn remove(&mut self, key: &K, id: u32, weight: usize) {
        let Some(bucket) = self.of_key.get_mut(key) else { return };
        if !bucket.ids.remove(&id) {
            return;
        }
        let before = bucket.weight;
        bucket.weight -= weight;
        let after = bucket.weight;
        if bucket.ids.is_empty() {
            self.of_key.remove(key);
            give_back(&mut self.of_key);
        }
        self.reweigh(before, after);
    }

    /// The filters of a key.
    pub(super) fn get(&self, key: &(impl Equivalent<K> + Hash)) -> impl Iterator<Item = &u32> {
        self.of_key.get(key).into_iter().flat_map(|bucket| &bucket.ids)
    }

    /// How many filters a key has.
    pub(super) fn len_of(&self, key: &K) -> usize {
        self.of_key.get(key).map_or(0, |bucket| bucket.ids.len())
    }

    /// The weight of the heaviest.
    pub(super) fn heaviest(&self) -> usize {
        self.weights.last_key_value().map_or(0, |(weight, _)| *weight)
    }

    /// How much heavier the heaviest would be with one more filter at these keys.
    pub(super) fn added(&self, keys: &[K], weight: usize) -> usize {
        let weight_of = |key: &K| self.of_key.get(key).map_or(0, |bucket| bucket.weight);
        let most = keys.iter().map(weight_of).max().unwrap_or(0);
        (most + weight).saturating_sub(self.heaviest())
    }

    fn reweigh(&mut self, before: usize, after: usize) {
        if before == after {
            return;
        }
        if let Some(count) = self.weights.get_mut(&before) {
            *count -= 1;
            if *count == 0 {
                self.weights.remove(&before);
            }
        }
        if after > 0 {
            *self.weights.entry(after).or_default() += 1;
        }
    }
}

/// Frees memory that is no longer used, seldom enough that the removals pay for it.
pub(super) fn give_back<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}
