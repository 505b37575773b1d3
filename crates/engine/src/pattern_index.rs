//! Which patterns match a channel, without trying every pattern on every event. Patterns are grouped by their literal
//! prefix, so a channel looks up its own beginnings; and the answer for the channels seen last is remembered: of those,
//! only patterns that came since are tried. The same index serves the hub and the engine.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use drawbridge_protocol::glob;
use hashbrown::HashMap;
use slab::Slab;

use crate::recent::Recent;

/// Up to so many patterns are tried one by one: that is cheaper than remembering.
const TRIED_DIRECTLY: usize = 8;
/// How much one generation of remembered answers holds: channels and the patterns that match them.
const REMEMBERED: usize = 32_768;
/// How many of the last additions are known by name; an answer older than that is found again.
const ADDITIONS: usize = 1_024;

/// Patterns with a value each.
#[derive(Debug)]
pub(crate) struct PatternIndex<T> {
    slots: Slab<Slot<T>>,
    by_name: HashMap<Arc<str>, usize>,
    by_prefix: BTreeMap<Arc<str>, Vec<usize>>,
    /// The distinct lengths of the literal prefixes, with how many groups have each; ascending.
    lengths: Vec<(usize, usize)>,
    /// How many patterns were ever added.
    added: u64,
    /// The last of them, in order.
    additions: VecDeque<Found>,
    answers: Recent<Answer>,
}

#[derive(Debug)]
struct Slot<T> {
    name: Arc<str>,
    /// Its number among all that were added.
    number: u64,
    value: T,
}

/// A pattern, which may be gone: then another one has its slot, or none.
#[derive(Clone, Copy, Debug)]
struct Found {
    slot: usize,
    number: u64,
}

/// The patterns that match a channel, among the first `added`.
#[derive(Debug, Default)]
struct Answer {
    added: u64,
    found: Vec<Found>,
}

impl<T> Default for PatternIndex<T> {
    fn default() -> Self {
        PatternIndex {
            slots: Slab::new(),
            by_name: HashMap::new(),
            by_prefix: BTreeMap::new(),
            lengths: Vec::new(),
            added: 0,
            additions: VecDeque::new(),
            answers: Recent::new(REMEMBERED),
        }
    }
}

impl<T> PatternIndex<T> {
    /// Adds a pattern, or replaces its value.
    pub(crate) fn insert(&mut self, pattern: Arc<str>, value: T) {
        if let Some(known) = self.get_mut(&pattern) {
            *known = value;
            return;
        }
        self.added += 1;
        let prefix = glob::literal_prefix(&pattern);
        let slot = self.slots.insert(Slot { name: pattern.clone(), number: self.added, value });
        match self.by_prefix.get_mut(&*prefix) {
            Some(group) => group.push(slot),
            None => {
                self.by_prefix.insert(prefix.as_ref().into(), vec![slot]);
                match self.lengths.binary_search_by_key(&prefix.len(), |(length, _)| *length) {
                    Ok(at) => self.lengths[at].1 += 1,
                    Err(at) => self.lengths.insert(at, (prefix.len(), 1)),
                }
            }
        }
        self.by_name.insert(pattern, slot);
        if self.additions.len() == ADDITIONS {
            self.additions.pop_front();
        }
        self.additions.push_back(Found { slot, number: self.added });
    }

    /// Takes a pattern out.
    pub(crate) fn remove(&mut self, pattern: &str) -> Option<T> {
        let slot = self.by_name.remove(pattern)?;
        let prefix = glob::literal_prefix(pattern);
        if let Some(group) = self.by_prefix.get_mut(&*prefix) {
            group.retain(|other| *other != slot);
            if group.is_empty() {
                self.by_prefix.remove(&*prefix);
                self.forget_length(prefix.len());
            }
        }
        let value = self.slots.try_remove(slot)?.value;
        if self.slots.is_empty() {
            // With its memory.
            *self = PatternIndex { added: self.added, ..PatternIndex::default() };
        }
        Some(value)
    }

    fn forget_length(&mut self, length: usize) {
        if let Ok(at) = self.lengths.binary_search_by_key(&length, |(l, _)| *l) {
            self.lengths[at].1 -= 1;
            if self.lengths[at].1 == 0 {
                self.lengths.remove(at);
            }
        }
    }

    /// The value of a pattern.
    pub(crate) fn get(&self, pattern: &str) -> Option<&T> {
        self.slots.get(*self.by_name.get(pattern)?).map(|slot| &slot.value)
    }

    /// The value of a pattern, to be changed.
    pub(crate) fn get_mut(&mut self, pattern: &str) -> Option<&mut T> {
        self.slots.get_mut(*self.by_name.get(pattern)?).map(|slot| &mut slot.value)
    }

    /// Every pattern with its value, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.slots.iter().map(|(_, slot)| (&slot.name, &slot.value))
    }

    /// The patterns whose literal prefix begins with this one, in the order of these prefixes.
    pub(crate) fn under<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = (&'s Arc<str>, &'s T)> {
        let groups = self.by_prefix.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        groups
            .take_while(move |(of, _)| of.starts_with(prefix))
            .flat_map(|(_, group)| group)
            .filter_map(|slot| self.slots.get(*slot).map(|slot| (&slot.name, &slot.value)))
    }

    /// How many patterns there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no pattern.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Calls `found` for every pattern that matches.
    pub(crate) fn for_each_match(&mut self, channel: &str, mut found: impl FnMut(&Arc<str>, &T)) {
        if self.slots.len() <= TRIED_DIRECTLY {
            return self.each_matching(channel, |slot| found(&slot.name, &slot.value));
        }
        let known = self.answers.get(channel);
        let is_new = known.is_none();
        let mut fresh = Answer::default();
        let answer = known.unwrap_or(&mut fresh);
        let before = answer.found.len();
        let missing = (self.added - answer.added) as usize;
        if is_new || missing > self.additions.len() {
            answer.found.clear();
            answer.found.extend(matching(&self.slots, &self.by_prefix, &self.lengths, channel));
        } else if missing > 0 {
            let newer = self.additions.iter().skip(self.additions.len() - missing);
            let slots = &self.slots;
            answer.found.extend(
                newer.filter(|new| {
                    new.slot(slots).is_some_and(|slot| glob::glob_matches(&slot.name, channel))
                }),
            );
        }
        answer.added = self.added;
        answer.found.retain(|pattern| match pattern.slot(&self.slots) {
            Some(slot) => {
                found(&slot.name, &slot.value);
                true
            }
            None => false,
        });
        if is_new {
            let weight = 1 + fresh.found.len();
            self.answers.insert(channel.into(), fresh, weight);
        } else if answer.found.len() > before {
            // It weighs more.
            let answer = std::mem::take(answer);
            let weight = 1 + answer.found.len();
            self.answers.insert(channel.into(), answer, weight);
        }
    }

    fn each_matching<'s>(&'s self, channel: &str, mut each: impl FnMut(&'s Slot<T>)) {
        for found in matching(&self.slots, &self.by_prefix, &self.lengths, channel) {
            found.slot(&self.slots).into_iter().for_each(&mut each);
        }
    }

    #[cfg(test)]
    fn matches(&mut self, channel: &str) -> Vec<String> {
        let mut names = Vec::new();
        self.for_each_match(channel, |name, _| names.push(name.to_string()));
        names.sort();
        names
    }
}

/// What matching one channel with a pattern costs at most, for each byte of the channel: 1, and what is tried again at
/// every byte, which is the longest part behind a `*`.
pub(crate) fn match_work(pattern: &str) -> usize {
    1 + pattern.split('*').skip(1).map(str::len).max().unwrap_or(0)
}

impl Found {
    fn slot<T>(self, slots: &Slab<Slot<T>>) -> Option<&Slot<T>> {
        slots.get(self.slot).filter(|slot| slot.number == self.number)
    }
}

/// Tries the patterns whose literal prefix the channel begins with.
fn matching<'s, T>(
    slots: &'s Slab<Slot<T>>,
    by_prefix: &'s BTreeMap<Arc<str>, Vec<usize>>,
    lengths: &'s [(usize, usize)],
    channel: &'s str,
) -> impl Iterator<Item = Found> + 's {
    let beginnings = lengths.iter().map_while(|(length, _)| channel.as_bytes().get(..*length));
    let groups = beginnings.filter_map(|prefix| by_prefix.get(std::str::from_utf8(prefix).ok()?));
    groups.flatten().filter_map(move |at| {
        let slot = slots.get(*at)?;
        glob::glob_matches(&slot.name, channel).then_some(Found { slot: *at, number: slot.number })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            proptest::sample::select(vec!["a", "b", ":", "*", "?", "[ab]", "\\*", "é"]),
            1..6,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        /// Whatever comes and goes, remembered answers are those of trying every pattern.
        #[test]
        fn finds_what_trying_every_pattern_finds(
            steps in proptest::collection::vec((names(), any::<bool>(), names()), 0..200)
        ) {
            let (mut index, mut known) = (PatternIndex::default(), BTreeSet::new());
            for (pattern, add, channel) in steps {
                if add {
                    known.insert(pattern.clone());
                    index.insert(pattern.into(), ());
                } else if let Some(gone) = known.iter().next().cloned() {
                    known.remove(&gone);
                    prop_assert!(index.remove(&gone).is_some());
                }
                for channel in [channel.as_str(), "ab", "a:b"] {
                    let expected: Vec<String> =
                        known.iter().filter(|pattern| glob::glob_matches(pattern, channel)).cloned().collect();
                    prop_assert_eq!(index.matches(channel), expected);
                }
            }
            prop_assert_eq!(index.len(), known.len());
        }
    }

    #[test]
    fn an_answer_older_than_the_known_additions_is_found_again() {
        let mut index = PatternIndex::default();
        for n in 0..10 {
            index.insert(format!("a{n}*").into(), ());
        }
        assert_eq!(index.matches("a1x"), ["a1*"]);
        for n in 0..2 * ADDITIONS {
            index.insert(format!("a1{}*", "?".repeat(n % 200 + 2) + &n.to_string()).into(), ());
        }
        index.insert("a1?".into(), ());
        assert_eq!(index.matches("a1x"), ["a1*", "a1?"]);
        assert!(index.additions.len() <= ADDITIONS);
    }

    #[test]
    fn work_grows_with_what_is_tried_at_every_place() {
        let rows = [("room:*", 1), ("room:4?", 1), ("room:*:chat", 6), ("room:*[a-b]*[a-b]*", 6)];
        for (pattern, work) in rows {
            assert_eq!(match_work(pattern), work, "{pattern}");
        }
    }

    #[test]
    fn patterns_under_a_prefix_are_those_whose_literal_prefix_begins_with_it() {
        let mut index = PatternIndex::default();
        for pattern in ["room:*", "room:4*", r"room:4\**", "rooms*", "r*"] {
            index.insert(pattern.into(), ());
        }
        let under: Vec<&str> = index.under("room:").map(|(name, _)| &**name).collect();
        assert_eq!(under, ["room:*", "room:4*", r"room:4\**"]);
    }
}
