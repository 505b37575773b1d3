//! The filters that test one path: by key, by interval, and by single bound.
//!
//! An interval with two ends is covered by a few equal blocks, so that a value finds the intervals around it by one
//! look for each size of blocks in use, and not by going through all that begin before it. The caller keeps
//! the test of each filter and passes the same one to remove it.

use std::collections::{BTreeMap, BTreeSet};

use super::buckets::Buckets;
use crate::expr::{Interval, Key, Path, Scope, Test};

/// What a number is clamped to and multiplied by before it is cut to an integer: values closer than that share a
/// block, and those beyond it too. The differences of what comes out fit `i64`, and the order of two numbers is never
/// turned around.
const MAX_MAGNITUDE: f64 = (1u64 << 51) as f64;
const PARTS_OF_ONE: f64 = 1024.0;

/// How many blocks an interval is covered by at most.
const MAX_BLOCKS: i64 = 4;

/// The tables of one path.
#[derive(Debug)]
pub(super) struct PathIndex {
    path: Path,
    keys: Buckets<Key>,
    /// By the size of blocks, as a power of two, and the block's number.
    levels: BTreeMap<u32, Buckets<i64>>,
    at_least: Bounds,
    at_most: Bounds,
}

/// Intervals with one end, in the order of that.
#[derive(Debug, Default)]
struct Bounds {
    ids: BTreeSet<(i64, u32)>,
    weight: usize,
}

/// Blocks that cover an interval.
#[derive(Clone, Copy)]
struct Blocks {
    level: u32,
    first: i64,
    last: i64,
}

impl PathIndex {
    pub(super) fn of(path: Path) -> Self {
        PathIndex {
            path,
            keys: Buckets::default(),
            levels: BTreeMap::new(),
            at_least: Bounds::default(),
            at_most: Bounds::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
            && self.levels.is_empty()
            && self.at_least.ids.is_empty()
            && self.at_most.ids.is_empty()
    }

    /// Adds a filter by this test.
    pub(super) fn insert(&mut self, test: &Test, id: u32, weight: usize) {
        match test {
            Test::Keys(keys) => keys.iter().for_each(|key| self.keys.insert(key, id, weight)),
            Test::Within(interval) if interval.is_bounded() => {
                let blocks = Blocks::over(*interval);
                let buckets = self.levels.entry(blocks.level).or_default();
                blocks.iter().for_each(|block| buckets.insert(&block, id, weight));
            }
            Test::Within(interval) => {
                let (bounds, bound) = self.bounds_mut(*interval);
                if bounds.ids.insert((bound, id)) {
                    bounds.weight += weight;
                }
            }
        }
    }

    /// Takes out what [`insert`](Self::insert) put in for the same test.
    pub(super) fn remove(&mut self, test: &Test, id: u32, weight: usize) {
        match test {
            Test::Keys(keys) => keys.iter().for_each(|key| self.keys.remove(key, id, weight)),
            Test::Within(interval) if interval.is_bounded() => {
                let blocks = Blocks::over(*interval);
                let Some(buckets) = self.levels.get_mut(&blocks.level) else { return };
                blocks.iter().for_each(|block| buckets.remove(&block, id, weight));
                if buckets.is_empty() {
                    self.levels.remove(&blocks.level);
                }
            }
            Test::Within(interval) => {
                let (bounds, bound) = self.bounds_mut(*interval);
                if bounds.ids.remove(&(bound, id)) {
                    bounds.weight -= weight;
                }
            }
        }
    }

    /// Appends those whose test can hold for what the path leads to; an id may come more than once.
    pub(super) fn find(&self, scope: &dyn Scope, found: &mut Vec<u32>) {
        let Some(value) = self.path.find(scope) else { return };
        found.extend(self.keys.get(&value));
        let Some(number) = value.number() else { return };
        let cut = cut(number);
        for (level, buckets) in &self.levels {
            found.extend(buckets.get(&(cut >> level)));
        }
        let path_index = place_of(number);
        found.extend(self.at_least.ids.range(..=(path_index, u32::MAX)).map(|(_, id)| id));
        found.extend(self.at_most.ids.range((path_index, 0)..).map(|(_, id)| id));
    }

    /// About how many filters are named where a filter with this test is.
    pub(super) fn neighbours(&self, test: &Test) -> usize {
        match test {
            Test::Keys(keys) => keys.iter().map(|key| self.keys.len_of(key)).max().unwrap_or(0),
            Test::Within(interval) if interval.is_bounded() => {
                let blocks = Blocks::over(*interval);
                let Some(buckets) = self.levels.get(&blocks.level) else { return 0 };
                blocks.iter().map(|block| buckets.len_of(&block)).max().unwrap_or(0)
            }
            Test::Within(interval) => self.bounds(*interval).ids.len() / 2,
        }
    }

    /// The most weight that can be named by one value.
    pub(super) fn weight(&self) -> usize {
        let of_levels: usize = self.levels.values().map(Buckets::heaviest).sum();
        self.keys.heaviest() + of_levels + self.at_least.weight + self.at_most.weight
    }

    /// What a filter of this test adds to [`weight`](Self::weight).
    pub(super) fn added(&self, test: &Test, weight: usize) -> usize {
        match test {
            Test::Keys(keys) => self.keys.added(keys, weight),
            Test::Within(interval) if interval.is_bounded() => {
                let blocks = Blocks::over(*interval);
                let Some(buckets) = self.levels.get(&blocks.level) else { return weight };
                buckets.added(&blocks.iter().collect::<Vec<_>>(), weight)
            }
            Test::Within(_) => weight,
        }
    }

    fn bounds(&self, interval: Interval) -> &Bounds {
        if is_at_most(interval) { &self.at_most } else { &self.at_least }
    }

    fn bounds_mut(&mut self, interval: Interval) -> (&mut Bounds, i64) {
        if is_at_most(interval) {
            (&mut self.at_most, place_of(interval.most))
        } else {
            (&mut self.at_least, place_of(interval.least))
        }
    }
}

/// Which of its ends an interval is kept by, where it does not have two.
fn is_at_most(interval: Interval) -> bool {
    interval.most < f64::INFINITY
}

impl Blocks {
    /// The smallest blocks of which a few are enough.
    fn over(interval: Interval) -> Self {
        let (first, last) = (cut(interval.least), cut(interval.most));
        let wide = last - first >= MAX_BLOCKS;
        let mut level = if wide { (last - first).ilog2() - MAX_BLOCKS.ilog2() } else { 0 };
        while (last >> level) - (first >> level) >= MAX_BLOCKS {
            level += 1;
        }
        Blocks { level, first: first >> level, last: last >> level }
    }

    fn iter(self) -> impl Iterator<Item = i64> {
        self.first..=self.last
    }
}

/// The number on a linear scale of integers.
fn cut(number: f64) -> i64 {
    (number.clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE) * PARTS_OF_ONE).floor() as i64
}

/// The number's place in the order of all doubles, in which both zeros are one.
fn place_of(number: f64) -> i64 {
    // As `f64::total_cmp` does; adding zero makes -0.0 positive.
    let bits = (number + 0.0).to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_covered_by_few_blocks_not_much_wider() {
        let ends = [
            0.0, -0.0, 1e-300, 0.001, 0.5, 1.0, 3.0, -3.0, 100.0, 1e6, -1e9, 4e15, 5e15, -5e15, 1e308, -1e308,
        ];
        for least in ends {
            for most in ends.into_iter().filter(|most| *most >= least) {
                let blocks = Blocks::over(Interval { least, most });
                let count = blocks.last - blocks.first + 1;
                assert!((1..=MAX_BLOCKS).contains(&count), "{least} to {most}: {count}");
                assert!(blocks.level < 64);
                for inside in [least, most, least / 2.0 + most / 2.0] {
                    assert!(blocks.iter().any(|block| block == cut(inside) >> blocks.level));
                }
                let (covered, wanted) = ((count as i128) << blocks.level, cut(most) - cut(least) + 1);
                assert!(covered <= 2 * i128::from(wanted), "{least} to {most}: {covered} for {wanted}");
            }
        }
    }

    #[test]
    fn places_are_in_the_order_of_numbers() {
        let numbers =
            [f64::NEG_INFINITY, -1e308, -1.5, -1.0, -1e-310, 0.0, 1e-310, 1.0, 1.5, 1e308, f64::INFINITY];
        assert!(numbers.map(place_of).is_sorted_by(|a, b| a < b));
        assert!(numbers.map(cut).is_sorted());
        assert_eq!(place_of(-0.0), place_of(0.0));
    }
}
