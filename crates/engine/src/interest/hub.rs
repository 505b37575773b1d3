//! The hub of one link: its state per channel and pattern, and what it says to the link and to the shards about
//! subscriptions. What it does with publications stands in [`super::copies`], with entities in [`super::tables`].

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::copies::{Content, Rules};
use super::counters::Counters;
use super::io::{HubInput, HubOutput, HubSettings, HubStats, LinkCommand};
use super::patterns::PatternIndex;
use super::shards::{ShardId, ShardSet};
use super::table::Table;
use crate::io::{BrokerEvent, Position, Subject};

/// How many subjects one `SUBSCRIBE` names at most; the next batch goes out when this one is confirmed.
pub(super) const BATCH: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be asked for as soon as the link allows.
    Waiting,
    /// Asked for.
    Asked,
    /// Confirmed, and the table of its entities is being read.
    Loading,
    /// Confirmed: Redis sends what is published.
    Live,
    /// Given up: what still comes is not shown.
    Ending,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) shards: ShardSet,
    pub(super) state: State,
    /// It was live when the link broke.
    pub(super) broken: bool,
    /// When it is given up if nobody wants it; 0: somebody does, or it is not live.
    linger_until_ms: u64,
    /// How its events are read (exact channels).
    pub(super) rules: Rules,
    /// The events counted (exact channels).
    pub(super) position: Position,
    /// Its entities, if its class has them.
    pub(super) table: Option<Box<Table>>,
}

/// The hub of one link. Feed it with [`Hub::handle`], then drain [`Hub::poll_output`].
#[derive(Debug)]
pub struct Hub {
    pub(super) settings: HubSettings,
    link_up: bool,
    /// Nothing but the node's own channels is asked for: what was said on them while the link was down is to be made
    /// good first ([`HubInput::Release`]).
    held: bool,
    pub(super) entries: HashMap<Subject, Entry>,
    /// How many of the entries are patterns.
    pattern_entries: usize,
    /// Patterns that Redis currently matches for us, each with its place in the order of confirmation.
    pub(super) patterns: PatternIndex<u64>,
    /// The last channel that came through patterns, and the pattern whose copy counts; void when patterns change.
    pub(super) canonical: Option<(Arc<str>, Option<Arc<str>>)>,
    pub(super) counters: Counters,
    /// To be asked for, in order.
    waiting: VecDeque<Subject>,
    /// Asked for and not answered yet.
    asked: usize,
    /// Who may be given up, in order of time.
    lingering: VecDeque<(u64, Subject)>,
    /// Patterns confirmed so far.
    ages: u64,
    /// Tables asked for so far.
    pub(super) loads: u64,
    /// When which table is looked through for what has expired.
    pub(super) sweeps: BTreeSet<(u64, Arc<str>)>,
    pub(super) live: usize,
    /// Entries that are `broken`.
    pub(super) interrupted: usize,
    pub(super) stats: HubStats,
    pub(super) outputs: VecDeque<HubOutput>,
}

impl Hub {
    /// A hub whose link is down.
    pub fn new(settings: HubSettings) -> Self {
        Hub {
            counters: Counters::new(settings.seed),
            settings,
            link_up: false,
            held: false,
            entries: HashMap::new(),
            pattern_entries: 0,
            patterns: PatternIndex::default(),
            canonical: None,
            waiting: VecDeque::new(),
            asked: 0,
            lingering: VecDeque::new(),
            ages: 0,
            loads: 0,
            sweeps: BTreeSet::new(),
            live: 0,
            interrupted: 0,
            stats: HubStats::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now_ms: u64, input: HubInput<'_>) {
        match input {
            HubInput::Want { shard, subject } => self.want(shard, subject),
            HubInput::Unwant { shard, subject } => self.unwant(now_ms, shard, subject),
            HubInput::Refresh { shard, subject } => self.refresh(shard, subject),
            HubInput::Loaded { channel, load, table } => self.loaded(now_ms, channel, load, table),
            HubInput::LinkUp => self.link_up = true,
            HubInput::LinkDown => self.link_is_down(),
            HubInput::Subscribed(subject) => self.subscribed(now_ms, subject),
            HubInput::Unsubscribed(subject) => self.unsubscribed(subject),
            HubInput::Refused { subject, reason } => self.refused(subject, reason),
            HubInput::Message { pattern, channel, payload } => {
                return self.message(now_ms, pattern, channel, Content::Whole(payload));
            }
            HubInput::OversizedMessage { pattern, channel, bytes } => {
                return self.message(now_ms, pattern, channel, Content::Oversized(bytes));
            }
            HubInput::Lost { shard } => self.lost(shard),
            HubInput::Release => self.held = false,
            HubInput::Tick => {}
        }
        self.give_up_lingering(now_ms);
        self.sweep(now_ms);
        self.ask();
    }

    /// What is to be done, in order; `None` when all is said.
    pub fn poll_output(&mut self) -> Option<HubOutput> {
        self.outputs.pop_front()
    }

    /// When [`HubInput::Tick`] is due at the latest.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let lingering = self.lingering.front().map(|(at, _)| *at);
        let sweep = self.sweeps.first().map(|(at, _)| *at);
        lingering.into_iter().chain(sweep).min()
    }

    /// How many subscriptions were live, broke with the link and are not live again.
    pub fn interrupted(&self) -> usize {
        self.interrupted
    }

    /// Whether it waits for [`HubInput::Release`].
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// What it was told at start.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// Gauges and counters.
    pub fn stats(&self) -> HubStats {
        HubStats {
            subjects: self.entries.len(),
            live: self.live,
            pattern_channels: self.counters.len(),
            ..self.stats
        }
    }

    #[cfg(test)]
    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    fn want(&mut self, shard: ShardId, subject: Subject) {
        if let Some(entry) = self.entries.get_mut(&subject) {
            entry.shards.insert(shard);
            entry.linger_until_ms = 0;
            if entry.state == State::Live {
                self.confirm(&subject, ShardSet::only(shard), false);
            }
            return;
        }
        let position = if subject.pattern {
            self.pattern_entries += 1;
            Position::default()
        } else {
            self.counters.take(&subject.name)
        };
        let shards = ShardSet::only(shard);
        let rules = if subject.pattern { Rules::default() } else { self.rules_of(&subject.name) };
        let entry = Entry {
            shards,
            state: State::Waiting,
            broken: false,
            linger_until_ms: 0,
            rules,
            position,
            table: self.table_for(rules),
        };
        self.compact_waiting();
        match rules.is_reserved() {
            true => self.waiting.push_front(subject.clone()),
            false => self.waiting.push_back(subject.clone()),
        }
        self.entries.insert(subject, entry);
    }

    /// While the link is away, subjects may come and go: what is gone must not pile up here.
    fn compact_waiting(&mut self) {
        if self.waiting.len() < 2 * self.entries.len() + BATCH {
            return;
        }
        let mut seen = HashSet::new();
        let entries = &self.entries;
        self.waiting.retain(|subject| {
            entries.get(subject).is_some_and(|entry| entry.state == State::Waiting)
                && seen.insert(subject.clone())
        });
    }

    fn unwant(&mut self, now_ms: u64, shard: ShardId, subject: &Subject) {
        // So that the shard can tell a confirmation of its next want from one that is still on its way.
        let released = BrokerEvent::Released(subject.clone());
        self.outputs.push_back(HubOutput::Shards(ShardSet::only(shard), released));
        let Some((subject, entry)) = self.entries.get_key_value_mut(subject) else { return };
        if !entry.shards.remove(shard) || !entry.shards.is_empty() || entry.state == State::Ending {
            return;
        }
        entry.linger_until_ms = now_ms + self.settings.linger_ms;
        self.lingering.push_back((entry.linger_until_ms, subject.clone()));
    }

    fn give_up_lingering(&mut self, now_ms: u64) {
        let mut ending = Vec::new();
        while self.lingering.front().is_some_and(|(at, _)| *at <= now_ms) {
            let Some((at, subject)) = self.lingering.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(&subject) else { continue };
            if entry.linger_until_ms != at || !entry.shards.is_empty() {
                continue;
            }
            match entry.state {
                State::Live => {
                    entry.state = State::Ending;
                    self.live -= 1;
                    ending.push(subject);
                }
                // `ask` skips what is no longer there.
                State::Waiting => self.forget(&subject),
                // Its confirmation lets it linger anew.
                State::Asked | State::Loading | State::Ending => {}
            }
        }
        for batch in ending.chunks(BATCH) {
            self.outputs.push_back(HubOutput::Link(LinkCommand::Unsubscribe(batch.to_vec())));
        }
    }

    fn link_is_down(&mut self) {
        if !std::mem::replace(&mut self.link_up, false) {
            return;
        }
        self.waiting.clear();
        self.lingering.clear();
        self.asked = 0;
        self.live = 0;
        // What nodes tell each other comes first, and what they said meanwhile is made good before the rest is asked for.
        // That in the order of names: what a seeded simulation sees must not hang on the table's.
        let mut subjects: Vec<Subject> = self.entries.keys().cloned().collect();
        let reserved = &self.settings.reserved;
        subjects.sort_unstable_by(|a, b| {
            reserved.holds(&b.name).cmp(&reserved.holds(&a.name)).then_with(|| a.cmp(b))
        });
        for subject in subjects {
            let Some(entry) = self.entries.get_mut(&subject) else { continue };
            if entry.shards.is_empty() {
                self.forget(&subject);
                continue;
            }
            self.held |= entry.rules.is_reserved();
            if entry.state == State::Live {
                entry.broken = true;
                self.interrupted += 1;
                let event = BrokerEvent::Interrupted(subject.clone());
                self.outputs.push_back(HubOutput::Shards(entry.shards, event));
            }
            entry.state = State::Waiting;
            self.waiting.push_back(subject);
        }
        // Behind the loop: counts that a pattern covered until now go on.
        self.patterns = PatternIndex::default();
        self.canonical = None;
    }

    /// Sends the next batch of subscribes, when the last one is answered.
    fn ask(&mut self) {
        if !self.link_up || self.asked > 0 || self.waiting.is_empty() {
            return;
        }
        let mut batch = Vec::with_capacity(self.waiting.len().min(BATCH));
        while batch.len() < BATCH {
            let (held, reserved) = (self.held, &self.settings.reserved);
            let next = self.waiting.pop_front_if(|subject| !held || reserved.holds(&subject.name));
            let Some(subject) = next else { break };
            if let Some(entry) = self.entries.get_mut(&subject)
                && entry.state == State::Waiting
            {
                entry.state = State::Asked;
                batch.push(subject);
            }
        }
        if !batch.is_empty() {
            self.asked = batch.len();
            self.outputs.push_back(HubOutput::Link(LinkCommand::Subscribe(batch)));
        }
    }

    fn subscribed(&mut self, now_ms: u64, subject: &Subject) {
        self.asked = self.asked.saturating_sub(1);
        let Some((subject, entry)) = self.entries.get_key_value_mut(subject) else { return };
        if entry.state != State::Asked {
            return;
        }
        let subject = subject.clone();
        if entry.table.is_some() {
            return self.load(&subject);
        }
        self.goes_live(now_ms, &subject);
    }

    /// All is there: the shards are told.
    pub(super) fn goes_live(&mut self, now_ms: u64, subject: &Subject) {
        let Some((subject, entry)) = self.entries.get_key_value_mut(subject) else { return };
        let subject = subject.clone();
        let shards = entry.shards;
        entry.state = State::Live;
        self.live += 1;
        let after_break = std::mem::take(&mut entry.broken);
        self.interrupted -= usize::from(after_break);
        if shards.is_empty() {
            entry.linger_until_ms = now_ms + self.settings.linger_ms;
            self.lingering.push_back((entry.linger_until_ms, subject.clone()));
        }
        if subject.pattern {
            self.ages += 1;
            self.patterns.insert(subject.name.clone(), self.ages);
            self.canonical = None;
        }
        if !shards.is_empty() {
            self.confirm(&subject, shards, after_break);
        }
    }

    fn unsubscribed(&mut self, subject: &Subject) {
        let Some((subject, entry)) = self.entries.get_key_value_mut(subject) else { return };
        let subject = subject.clone();
        match entry.state {
            State::Waiting | State::Asked => return,
            State::Ending | State::Loading => {}
            // Redis ended it by itself: treat it like a broken link for this one.
            State::Live => {
                self.live -= 1;
                entry.broken = true;
                self.interrupted += 1;
                let event = BrokerEvent::Interrupted(subject.clone());
                self.outputs.push_back(HubOutput::Shards(entry.shards, event));
            }
        }
        let wanted = !entry.shards.is_empty();
        entry.state = State::Waiting;
        if subject.pattern {
            self.patterns.remove(&subject.name);
            self.canonical = None;
        }
        if wanted {
            self.waiting.push_back(subject);
        } else {
            self.forget(&subject);
        }
    }

    fn refused(&mut self, subject: &Subject, reason: &str) {
        self.asked = self.asked.saturating_sub(1);
        let Some(entry) = self.entries.get(subject) else { return };
        if entry.state != State::Asked {
            return;
        }
        if !entry.shards.is_empty() {
            let event = BrokerEvent::Refused { subject: subject.clone(), reason: reason.into() };
            self.outputs.push_back(HubOutput::Shards(entry.shards, event));
        }
        self.forget(subject);
    }

    /// The shard hears that everything it holds may have a gap.
    fn lost(&mut self, shard: ShardId) {
        let holds =
            |(_, entry): &(&Subject, &Entry)| entry.state == State::Live && entry.shards.contains(shard);
        let mut subjects: Vec<Subject> =
            self.entries.iter().filter(holds).map(|(subject, _)| subject.clone()).collect();
        subjects.sort_unstable();
        let only = ShardSet::only(shard);
        for subject in subjects {
            self.outputs.push_back(HubOutput::Shards(only, BrokerEvent::Interrupted(subject.clone())));
            self.confirm(&subject, only, true);
        }
    }

    /// Drops an entry that is not live; the count of its channel goes on where a pattern still covers it.
    fn forget(&mut self, subject: &Subject) {
        let Some((subject, entry)) = self.entries.remove_entry(subject) else { return };
        self.interrupted -= usize::from(entry.broken);
        if let Some(table) = &entry.table {
            self.stats.entities -= table.len();
            self.sweeps.remove(&(table.sweep_at_ms, subject.name.clone()));
        }
        if subject.pattern {
            self.pattern_entries -= 1;
            if self.pattern_entries == 0 {
                self.counters.forget_all();
            }
            return;
        }
        let mut covered = false;
        self.patterns.for_each_match(&subject.name, |_, _| covered = true);
        // The index may still have a pattern that is no longer wanted.
        if covered && self.pattern_entries > 0 {
            self.counters.put(subject.name, entry.position);
        }
    }

    pub(super) fn confirm(&mut self, subject: &Subject, shards: ShardSet, after_break: bool) {
        let position = self.entries.get(subject).map(|entry| entry.position).unwrap_or_default();
        let event = BrokerEvent::Confirmed { subject: subject.clone(), position, after_break };
        self.outputs.push_back(HubOutput::Shards(shards, event));
        self.tell_table(subject, shards);
    }

    /// Lets go of a confirmed subscription at once.
    pub(super) fn end_now(&mut self, subject: &Subject) {
        let Some(entry) = self.entries.get_mut(subject) else { return };
        entry.shards = ShardSet::default();
        entry.state = State::Ending;
        self.interrupted -= usize::from(std::mem::take(&mut entry.broken));
        self.outputs.push_back(HubOutput::Link(LinkCommand::Unsubscribe(vec![subject.clone()])));
    }
}
