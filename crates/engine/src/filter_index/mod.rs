//! Which of many filters can match an event, without evaluating each of them.
//!
//! Every filter is stored by one of its shapes: at keys or intervals of a path. An event is looked up once on
//! each path, and returns the filters stored there; filters without such a shape are returned always. The result is a
//! superset: evaluating the filters is left to the caller. `path_index` owns the tables of one path, `buckets`
//! what they are made of.

mod buckets;
mod path_index;

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use crate::expr::{Expr, Path, Scope, Shape, Test, shapes};
use path_index::PathIndex;

/// What one more filter at the same keys weighs against one more path that every event is looked up on.
const PATH_WORK_PER_NEIGHBOUR: usize = 4;

/// Filters by what must be so for them to be true.
#[derive(Debug, Default)]
pub(crate) struct FilterIndex {
    standing: HashMap<u32, Standing>,
    /// Those that no shape is known of.
    always: BTreeSet<u32>,
    /// In the order in which their paths came.
    path_indexes: BTreeMap<u64, PathIndex>,
    of_path: HashMap<Path, u64>,
    next_path_index: u64,
    work: usize,
}

/// How a filter is stored.
#[derive(Debug)]
enum Standing {
    /// It is evaluated for every event, at this cost.
    Always { work: usize },
    /// By its shape; it adds this weight to each bucket that it is in.
    Shaped { shape: Shape, weight: usize },
}

impl FilterIndex {
    /// Puts a filter in: the conjunction of both expressions. One that has this id already is taken out first.
    pub(crate) fn insert(&mut self, id: u32, server: Option<&Expr>, client: Option<&Expr>) {
        self.remove(id);
        let standing = self.standing_of(server, client);
        match &standing {
            Standing::Always { work } => {
                self.always.insert(id);
                self.work += work;
            }
            Standing::Shaped { shape, weight } => {
                for (path, test) in &shape.tests {
                    self.put(path, test, id, *weight);
                }
            }
        }
        self.standing.insert(id, standing);
    }

    /// Removes a filter; does nothing if there is none with this id.
    pub(crate) fn remove(&mut self, id: u32) {
        match self.standing.remove(&id) {
            None => return,
            Some(Standing::Always { work }) => {
                self.always.remove(&id);
                self.work -= work;
            }
            Some(Standing::Shaped { shape, weight }) => {
                for (path, test) in &shape.tests {
                    self.take(path, test, id, weight);
                }
            }
        }
        buckets::give_back(&mut self.standing);
        buckets::give_back(&mut self.of_path);
    }

    /// Appends the ids of all filters that can be true of this scope, each once: first those that are named always,
    /// then the others, both in ascending order.
    pub(crate) fn candidates(&self, scope: &impl Scope, found: &mut Vec<u32>) {
        found.extend(&self.always);
        let start = found.len();
        for path_index in self.path_indexes.values() {
            path_index.find(scope, found);
        }
        sort_from(found, start);
    }

    /// What one event costs at most, in the units of [`Expr::work`]: to look it up on every path, and to evaluate the
    /// filters that are always returned, or that are found though their shape alone does not decide.
    /// Filters that equal their shape cost nothing here: they are evaluated only where they match.
    pub(crate) fn work(&self) -> usize {
        self.work
    }

    /// What a filter would add to [`work`](Self::work) at most.
    pub(crate) fn work_of(&self, server: Option<&Expr>, client: Option<&Expr>) -> usize {
        match self.standing_of(server, client) {
            Standing::Always { work } => work,
            Standing::Shaped { shape, weight } => self.path_work(&shape) + self.added(&shape, weight),
        }
    }

    /// How many filters there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.standing.len()
    }

    /// Whether there is none.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.standing.is_empty()
    }

    /// Where a filter would be now: of its shapes, the one with the fewest neighbours. Which tests are narrow is
    /// not known of one filter alone: of ten thousand that ask for one event and each for another player, the
    /// players are found this way.
    fn standing_of(&self, server: Option<&Expr>, client: Option<&Expr>) -> Standing {
        let exprs = || server.into_iter().chain(client);
        let work = exprs().map(Expr::work).sum();
        match shapes(exprs()).into_iter().min_by_key(|shape| self.rank(shape)) {
            Some(shape) => Standing::Shaped { weight: if shape.whole { 0 } else { work }, shape },
            None => Standing::Always { work },
        }
    }

    /// Less is better.
    fn rank(&self, shape: &Shape) -> usize {
        let neighbours: usize = shape.tests.iter().map(|(path, test)| self.neighbours(path, test)).sum();
        shape.breadth() + neighbours + self.path_work(shape) / PATH_WORK_PER_NEIGHBOUR
    }

    fn neighbours(&self, path: &Path, test: &Test) -> usize {
        self.path_index(path).map_or(0, |path_index| path_index.neighbours(test))
    }

    /// The work of the paths of this shape that are not looked up yet.
    fn path_work(&self, shape: &Shape) -> usize {
        let is_first = |at: usize, path: &Path| !shape.tests.iter().take(at).any(|(other, _)| other == path);
        let tests = shape.tests.iter().enumerate();
        tests
            .filter(|(at, (path, _))| self.path_index(path).is_none() && is_first(*at, path))
            .map(|(_, (path, _))| path.work())
            .sum()
    }

    fn added(&self, shape: &Shape, weight: usize) -> usize {
        let added = |(path, test): &(Path, Test)| {
            self.path_index(path).map_or(weight, |path_index| path_index.added(test, weight))
        };
        shape.tests.iter().map(added).sum()
    }

    fn path_index(&self, path: &Path) -> Option<&PathIndex> {
        self.of_path.get(path).and_then(|number| self.path_indexes.get(number))
    }

    fn put(&mut self, path: &Path, test: &Test, id: u32, weight: usize) {
        let number = *self.of_path.entry_ref(path).or_insert_with(|| {
            self.next_path_index += 1;
            self.work += path.work();
            self.next_path_index
        });
        let path_index = self.path_indexes.entry(number).or_insert_with(|| PathIndex::of(path.clone()));
        self.work -= path_index.weight();
        path_index.insert(test, id, weight);
        self.work += path_index.weight();
    }

    fn take(&mut self, path: &Path, test: &Test, id: u32, weight: usize) {
        let Some(number) = self.of_path.get(path).copied() else { return };
        let Some(path_index) = self.path_indexes.get_mut(&number) else { return };
        self.work -= path_index.weight();
        path_index.remove(test, id, weight);
        self.work += path_index.weight();
        if path_index.is_empty() {
            self.path_indexes.remove(&number);
            self.of_path.remove(path);
            self.work -= path.work();
        }
    }
}

/// Sorts what is behind `start` and keeps one of each.
fn sort_from(found: &mut Vec<u32>, start: usize) {
    let Some(tail) = found.get_mut(start..) else { return };
    tail.sort_unstable();
    let mut kept = start;
    for at in start..found.len() {
        if kept == start || found.get(at) != found.get(kept - 1) {
            found.swap(kept, at);
            kept += 1;
        }
    }
    found.truncate(kept);
}

#[cfg(test)]
mod tests;
