//! Which patterns one link holds in Redis: a minimal cover of the patterns that are wanted. Redis is asked for literal
//! prefixes only (`room:4*`), none under another, and a limited number of each class; beyond that, and where the ACL refuses
//! a narrower one, for the class's own prefix (`room:*`). Which channels a pattern matches is decided in
//! [`crate::pattern_index`]; who wants it, and who is notified, in [`super::globs`].
//!
//! ```text
//!   Waiting ──ask──▶ Asked ──subscribed──▶ Live ──a wider one is live, or nothing under it is wanted──▶ Ending ──▶ gone
//!                      └──refused──▶ gone: the class's prefix is requested, and if that was it, the patterns are refused
//! ```
//!
//! Invariant: a prefix ends only while every wanted prefix under it has another one that is live, so changing the cover
//! loses nothing. While two overlap Redis sends two copies, and the shortest prefix's counts: nothing is doubled.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use drawbridge_protocol::glob;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be requested as soon as the link allows.
    Waiting,
    /// Asked for.
    Asked,
    /// Confirmed.
    Live,
    /// Given up; Redis has not confirmed that yet, and still sends copies.
    Ending,
}

/// A prefix that Redis holds, or is to hold.
#[derive(Debug)]
struct HeldPrefix {
    class: Arc<str>,
    state: State,
    /// It ends when the narrower ones that were requested in its place are live.
    retiring: bool,
}

/// A literal prefix of patterns that are wanted.
#[derive(Debug)]
struct Wanted {
    class: Arc<str>,
    patterns: usize,
    /// Redis refused this very prefix.
    refused: bool,
    /// Redis refused the class's prefix: if it refuses this one, too, nothing is left to try.
    last_try: bool,
}

/// What is known of one class, by its prefix.
#[derive(Debug, Default)]
struct ClassState {
    /// Redis refused a narrower prefix; until the link breaks only the class's own is requested.
    narrow_refused: bool,
    /// When narrower prefixes may replace one that is wider than needed; 0: never.
    narrow_at_ms: u64,
}

/// What the hub has to do for the cover; drained after every call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Patterns to ask Redis for, in order; [`Cover::ask`] says whether that still holds.
    pub(super) asked: Vec<Arc<str>>,
    /// Patterns to end at once.
    pub(super) ended: Vec<Arc<str>>,
    /// Prefixes of wanted patterns for which Redis refused all there is to try.
    pub(super) refused: Vec<Arc<str>>,
}

/// See the module. Names are those of `PSUBSCRIBE`, prefixes what they escape.
#[derive(Debug)]
pub(super) struct Cover {
    /// How long a class must be left unchanged before its cover narrows, in milliseconds.
    quiet_ms: u64,
    /// How many prefixes of one class are held before the class's own takes their place.
    per_class: usize,
    wanted: BTreeMap<Arc<str>, Wanted>,
    held: BTreeMap<Arc<str>, HeldPrefix>,
    classes: BTreeMap<Arc<str>, ClassState>,
    /// Redis holds a prefix under another one.
    nested: bool,
    changes: Changes,
}

impl Cover {
    pub(super) fn new(quiet_ms: u64, per_class: usize) -> Self {
        Cover {
            quiet_ms,
            per_class,
            wanted: BTreeMap::new(),
            held: BTreeMap::new(),
            classes: BTreeMap::new(),
            nested: false,
            changes: Changes::default(),
        }
    }

    /// What is to be done since the last call.
    pub(super) fn changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// How many patterns Redis holds, or that were requested.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// One more pattern with this literal prefix is wanted. `class`: the prefix of its class.
    pub(super) fn want(&mut self, now_ms: u64, prefix: &str, class: &str) {
        if let Some(wanted) = self.wanted.get_mut(prefix) {
            wanted.patterns += 1;
        } else {
            let wanted = Wanted { class: class.into(), patterns: 1, refused: false, last_try: false };
            self.wanted.insert(prefix.into(), wanted);
            self.keep_above(prefix);
            self.cover(prefix);
        }
        self.plan_to_narrow(now_ms, class);
    }

    /// One pattern with this literal prefix is wanted no more.
    pub(super) fn unwant(&mut self, now_ms: u64, prefix: &str) {
        let Some(wanted) = self.wanted.get_mut(prefix) else { return };
        wanted.patterns -= 1;
        if wanted.patterns > 0 {
            return;
        }
        let class = wanted.class.clone();
        self.wanted.remove(prefix);
        for above in self.above(prefix) {
            if !self.is_wanted_under(&above) {
                self.end(&above);
            } else {
                self.end_if_replaced(&above);
            }
        }
        self.plan_to_narrow(now_ms, &class);
    }

    /// Whether Redis has confirmed a prefix that includes this one.
    pub(super) fn is_live(&self, prefix: &str) -> bool {
        self.beginnings(prefix).any(|(_, held)| held.state == State::Live)
    }

    /// Whether this is still to be requested; from now on it counts as asked for.
    pub(super) fn ask(&mut self, name: &str) -> bool {
        match self.held.get_mut(&*glob::literal_prefix(name)) {
            Some(held) if held.state == State::Waiting => {
                held.state = State::Asked;
                true
            }
            _ => false,
        }
    }

    /// Whether this waits to be requested.
    pub(super) fn is_waiting(&self, name: &str) -> bool {
        self.held.get(&*glob::literal_prefix(name)).is_some_and(|held| held.state == State::Waiting)
    }

    /// Redis has confirmed this.
    pub(super) fn subscribed(&mut self, name: &str) {
        let prefix = glob::literal_prefix(name);
        let Some(held) = self.held.get_mut(&*prefix) else { return };
        if held.state != State::Asked {
            return;
        }
        held.state = State::Live;
        if !self.is_wanted_under(&prefix) || self.is_under_a_lasting_one(&prefix) {
            self.end(&prefix);
        } else {
            self.end_below(&prefix);
            for above in self.above(&prefix) {
                self.end_if_replaced(&above);
            }
        }
        self.find_nested();
    }

    /// Redis has ended this: because it was to, or by itself.
    pub(super) fn unsubscribed(&mut self, name: &str) {
        let prefix = glob::literal_prefix(name);
        let Some(held) = self.held.get(&*prefix).filter(|held| held.is_in_redis()) else { return };
        if held.state == State::Live {
            // What it was to replace stays.
            self.keep_above(&prefix);
        }
        self.held.remove(&*prefix);
        self.find_nested();
        for wanted in self.wanted_under(&prefix) {
            self.cover(&wanted);
        }
    }

    /// Redis does not allow this.
    pub(super) fn refused(&mut self, name: &str) {
        let prefix = glob::literal_prefix(name);
        let Some(held) = self.held.get(&*prefix).filter(|held| held.state == State::Asked) else { return };
        let class = held.class.clone();
        let is_class = *class == *prefix;
        self.held.remove(&*prefix);
        self.classes.entry(class).or_default().narrow_refused = !is_class;
        // Where it was to replace a wider one, that one stays.
        self.keep_above(&prefix);
        if let Some(wanted) = self.wanted.get_mut(&*prefix) {
            wanted.refused = true;
        }
        for below in self.wanted_under(&prefix) {
            if !self.is_taken_care_of(&below) {
                self.try_another(&below, &prefix);
            }
        }
    }

    /// Which copy of an event counts where Redis sends several: the shortest prefix's.
    pub(super) fn is_canonical(&self, name: &[u8], channel: &str) -> bool {
        if !self.nested {
            return true;
        }
        let shortest = self.beginnings(channel).find(|(_, held)| held.is_in_redis());
        shortest.is_some_and(|(prefix, _)| pattern_of(prefix).as_bytes() == name)
    }

    /// The link is gone, and all that Redis held for it.
    pub(super) fn link_is_down(&mut self) {
        self.held.clear();
        self.classes.clear();
        self.nested = false;
        self.changes = Changes::default();
        for wanted in self.wanted.values_mut() {
            (wanted.refused, wanted.last_try) = (false, false);
        }
    }

    /// After a break: asks for what covers all that is wanted.
    pub(super) fn restore(&mut self) {
        for (prefix, class) in self.minimal(self.per_class) {
            self.hold(&prefix, class);
        }
    }

    /// When [`Cover::narrow`] has something to do.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.classes.values().map(|class| class.narrow_at_ms).filter(|at| *at > 0).min()
    }

    /// Asks for narrower prefixes where a class was left unchanged for a while and holds a wider one than it needs.
    pub(super) fn narrow(&mut self, now_ms: u64) {
        let mut is_due = false;
        for class in self.classes.values_mut() {
            if class.narrow_at_ms > 0 && class.narrow_at_ms <= now_ms {
                class.narrow_at_ms = 0;
                is_due = true;
            }
        }
        if !is_due {
            return;
        }
        // Only when half as many are enough: not at the first that leaves.
        let minimal = self.minimal(self.per_class / 2);
        let is_wide = |(prefix, held): &(&Arc<str>, &HeldPrefix)| {
            held.state != State::Ending && !held.retiring && !minimal.contains_key(*prefix)
        };
        let wide: Vec<Arc<str>> =
            self.held.iter().filter(is_wide).map(|(prefix, _)| prefix.clone()).collect();
        for prefix in wide {
            self.replace(now_ms, &prefix, &minimal);
        }
    }

    /// Asks for those of `minimal` that are under a prefix, which then retires. Where that cannot be now it is tried again.
    fn replace(&mut self, now_ms: u64, prefix: &Arc<str>, minimal: &BTreeMap<Arc<str>, Arc<str>>) {
        let narrower: Vec<(&Arc<str>, &Arc<str>)> = under(minimal, prefix).collect();
        let is_ending =
            |narrower: &Arc<str>| self.held.get(narrower).is_some_and(|held| held.state == State::Ending);
        let is_busy = narrower.iter().any(|(narrower, _)| is_ending(narrower));
        let Some(held) = self.held.get_mut(prefix).filter(|_| !narrower.is_empty()) else { return };
        if is_busy || held.state != State::Live {
            let class = held.class.clone();
            return self.plan_to_narrow(now_ms, &class);
        }
        held.retiring = true;
        for (narrower, class) in narrower {
            self.hold(narrower, class.clone());
        }
        self.end_if_replaced(prefix);
    }

    /// A class that holds a prefix which is not itself wanted may narrow, when nothing changes for a while.
    fn plan_to_narrow(&mut self, now_ms: u64, class: &str) {
        let is_loose = |(prefix, held): (&Arc<str>, &HeldPrefix)| {
            *held.class == *class && held.state != State::Ending && !self.wanted.contains_key(prefix)
        };
        let is_loose = self.held.iter().any(is_loose);
        match self.classes.get_mut(class) {
            Some(state) => {
                let may_narrow = is_loose && !state.narrow_refused;
                state.narrow_at_ms = if may_narrow { now_ms + self.quiet_ms } else { 0 };
            }
            None if is_loose => {
                let state = ClassState { narrow_at_ms: now_ms + self.quiet_ms, ..ClassState::default() };
                self.classes.insert(class.into(), state);
            }
            None => {}
        }
    }

    /// Ensures that a wanted prefix is covered.
    fn cover(&mut self, prefix: &str) {
        let Some(wanted) = self.wanted.get(prefix) else { return };
        if self.is_taken_care_of(prefix) {
            return;
        }
        let class = wanted.class.clone();
        let is_refused = self.classes.get(&class).is_some_and(|state| state.narrow_refused);
        match is_refused || self.is_full(&class) {
            true => self.hold(&class.clone(), class),
            false => self.hold(prefix, class),
        }
    }

    /// Redis refused what was to cover a wanted prefix: asks for what is left to try.
    fn try_another(&mut self, prefix: &Arc<str>, refused: &str) {
        let Some(wanted) = self.wanted.get(prefix) else { return };
        let (class, is_last) = (wanted.class.clone(), wanted.last_try || *wanted.class == **prefix);
        if *class != *refused && !is_last {
            return self.hold(&class.clone(), class);
        }
        if wanted.refused || is_last || self.is_full(&class) {
            return self.changes.refused.push(prefix.clone());
        }
        if let Some(wanted) = self.wanted.get_mut(prefix) {
            wanted.last_try = true;
        }
        self.hold(prefix, class);
    }

    /// Asks for a prefix. One that is still ending is looked at again when it has ended.
    fn hold(&mut self, prefix: &str, class: Arc<str>) {
        if !self.held.contains_key(prefix) {
            self.held.insert(prefix.into(), HeldPrefix { class, state: State::Waiting, retiring: false });
            self.changes.asked.push(pattern_of(prefix).into());
        }
    }

    /// Ends a prefix. One that was requested is reconsidered when Redis has answered.
    fn end(&mut self, prefix: &str) {
        let Some(held) = self.held.get_mut(prefix) else { return };
        match held.state {
            State::Waiting => drop(self.held.remove(prefix)),
            State::Live => {
                held.state = State::Ending;
                self.changes.ended.push(pattern_of(prefix).into());
            }
            State::Asked | State::Ending => {}
        }
    }

    /// Ends what a live prefix makes superfluous.
    fn end_below(&mut self, prefix: &str) {
        let below: Vec<Arc<str>> = under(&self.held, prefix).map(|(below, _)| below.clone()).collect();
        for below in below.iter().filter(|below| ***below != *prefix) {
            self.end(below);
        }
    }

    /// Ends a prefix that retires, when all that is wanted under it has another one that is live.
    fn end_if_replaced(&mut self, prefix: &Arc<str>) {
        if self.held.get(prefix).is_none_or(|held| !held.retiring || held.state != State::Live) {
            return;
        }
        let is_replaced = |wanted: &str| {
            self.beginnings(wanted)
                .any(|(other, held)| other != prefix && held.state == State::Live && !held.retiring)
        };
        if under(&self.wanted, prefix).all(|(wanted, _)| is_replaced(wanted)) {
            self.end(prefix);
        }
    }

    /// Something new is wanted under prefixes that were to retire: they stay, and what was to replace them goes.
    fn keep_above(&mut self, prefix: &str) {
        for above in self.above(prefix) {
            if let Some(held) = self.held.get_mut(&above)
                && held.state == State::Live
                && std::mem::replace(&mut held.retiring, false)
            {
                self.end_below(&above);
            }
        }
    }

    fn is_full(&self, class: &Arc<str>) -> bool {
        self.held.values().filter(|held| held.class == *class).count() >= self.per_class
    }

    /// Whether a prefix is covered, or will be when Redis answers.
    fn is_taken_care_of(&self, prefix: &str) -> bool {
        self.beginnings(prefix).any(|(_, held)| held.state != State::Ending)
    }

    fn is_under_a_lasting_one(&self, prefix: &str) -> bool {
        self.beginnings(prefix)
            .any(|(above, held)| above.len() < prefix.len() && held.state == State::Live && !held.retiring)
    }

    fn is_wanted_under(&self, prefix: &str) -> bool {
        under(&self.wanted, prefix).next().is_some()
    }

    fn wanted_under(&self, prefix: &str) -> Vec<Arc<str>> {
        under(&self.wanted, prefix).map(|(wanted, _)| wanted.clone()).collect()
    }

    /// The prefixes held that this text begins with, the shortest first.
    fn beginnings<'s>(&'s self, text: &'s str) -> impl Iterator<Item = (&'s Arc<str>, &'s HeldPrefix)> {
        let up_to = (Bound::Unbounded, Bound::Included(text));
        self.held.range::<str, _>(up_to).filter(move |(prefix, _)| text.starts_with(&***prefix))
    }

    /// The prefixes held that this one begins with, itself among them.
    fn above(&self, prefix: &str) -> Vec<Arc<str>> {
        self.beginnings(prefix).map(|(above, _)| above.clone()).collect()
    }

    /// What would be enough for all that is wanted, with the class of each.
    fn minimal(&self, per_class: usize) -> BTreeMap<Arc<str>, Arc<str>> {
        let all = self.wanted.iter().map(|(prefix, wanted)| (prefix, &wanted.class));
        let topmost = topmost(all);
        let mut counts: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        topmost.iter().for_each(|(_, class)| *counts.entry(*class).or_default() += 1);
        let is_narrow = |class: &Arc<str>| {
            counts.get(class).is_none_or(|count| *count <= per_class)
                && self.classes.get(class).is_none_or(|state| !state.narrow_refused)
        };
        let chosen: BTreeMap<&Arc<str>, &Arc<str>> = topmost
            .into_iter()
            .map(|(prefix, class)| (if is_narrow(class) { prefix } else { class }, class))
            .collect();
        topmost_of(&chosen)
    }

    /// Looks whether Redis holds a prefix under another: in their order it follows it, or one under it.
    fn find_nested(&mut self) {
        let mut top: Option<&str> = None;
        self.nested = self.held.iter().filter(|(_, held)| held.is_in_redis()).any(|(prefix, _)| {
            let is_under = top.is_some_and(|top| prefix.starts_with(top));
            top = Some(prefix);
            is_under
        });
    }
}

impl HeldPrefix {
    /// Redis sends copies for it.
    fn is_in_redis(&self) -> bool {
        matches!(self.state, State::Live | State::Ending)
    }
}

/// What begins with a prefix, in order.
fn under<'m, V>(
    map: &'m BTreeMap<Arc<str>, V>,
    prefix: &'m str,
) -> impl Iterator<Item = (&'m Arc<str>, &'m V)> {
    let from = (Bound::Included(prefix), Bound::Unbounded);
    map.range::<str, _>(from).take_while(move |(name, _)| name.starts_with(prefix))
}

/// Of prefixes in their order those that are under no other.
fn topmost<'p>(
    prefixes: impl Iterator<Item = (&'p Arc<str>, &'p Arc<str>)>,
) -> Vec<(&'p Arc<str>, &'p Arc<str>)> {
    let mut topmost: Vec<(&Arc<str>, &Arc<str>)> = Vec::new();
    for (prefix, class) in prefixes {
        if topmost.last().is_none_or(|(top, _)| !prefix.starts_with(&***top)) {
            topmost.push((prefix, class));
        }
    }
    topmost
}

fn topmost_of(prefixes: &BTreeMap<&Arc<str>, &Arc<str>>) -> BTreeMap<Arc<str>, Arc<str>> {
    let all = prefixes.iter().map(|(prefix, class)| (*prefix, *class));
    topmost(all).into_iter().map(|(prefix, class)| (prefix.clone(), class.clone())).collect()
}

/// The pattern that matches every name with this prefix, and nothing else.
fn pattern_of(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for c in prefix.chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('*');
    pattern
}
