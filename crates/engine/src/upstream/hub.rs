//! The hub of one link: its state per channel, and what it says to the link and to the shards about subscriptions. What
//! it does with patterns stands in [`super::globs`], with publications in [`super::dedup`], with entities in
//! [`super::tables`], with logs in [`super::logs`].

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::barrier::RecoveryBarrier;
use super::counters::Counters;
use super::cover::Cover;
use super::dedup::{Content, Rules};
use super::globs::Pattern;
use super::io::{HubInput, HubOutput, HubSettings, HubStats, LinkCommand};
use super::logs::PatternLogs;
use super::moves::Moves;
use super::shards::{ShardId, ShardSet};
use super::slot_moves::SlotMoves;
use super::source::Source;
use super::tables::uncount;
use super::tail::Tails;
use crate::io::{BrokerEvent, ChannelPosition, Position, Subject};
use crate::pattern_index::PatternIndex;

/// How many subjects one `SUBSCRIBE` names at most; the next batch goes out when this one is confirmed.
pub(super) const BATCH: usize = 512;
/// How many prefixes of one class Redis holds for patterns, before the class's own takes their place.
pub(super) const PREFIXES_PER_CLASS: usize = 64;
/// A cover does not narrow before its patterns were left unchanged for so long, whatever `linger` says.
const QUIET_MS: u64 = 250;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be requested as soon as the link allows.
    Waiting,
    /// Asked for.
    Asked,
    /// Confirmed, and the table of its entities, or the position of its log, is being read.
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
    /// How its events are read.
    pub(super) rules: Rules,
    /// The events counted, logged ones too.
    pub(super) position: Position,
    /// What is stored of it.
    pub(super) source: Source,
}

impl Entry {
    /// Whether it is still to be requested; from now on it counts as asked for.
    fn ask(&mut self) -> bool {
        let is_waiting = self.state == State::Waiting;
        if is_waiting {
            self.state = State::Asked;
        }
        is_waiting
    }
}

/// The hub of one link. Feed it with [`Hub::handle`], then drain [`Hub::poll_output`].
#[derive(Debug)]
pub struct Hub {
    pub(super) settings: HubSettings,
    pub(super) link_up: bool,
    /// Whether anything but the node's own channels may be requested.
    pub(super) barrier: RecoveryBarrier,
    /// Those that player commands are for, once this link receives them.
    pub(super) all_shards: ShardSet,
    /// Entries on their way to another link, or from one.
    pub(super) moves: Moves,
    /// Slots on their way to another link, or from one.
    pub(super) slot_moves: SlotMoves,
    /// The channels.
    pub(super) entries: HashMap<Subject, Entry>,
    /// The patterns, and what Redis holds for them.
    pub(super) patterns: PatternIndex<Pattern>,
    pub(super) cover: Cover,
    pub(super) counters: Counters,
    /// To be requested, in order: channels, and the cover's prefixes as patterns.
    pub(super) waiting: VecDeque<Subject>,
    /// Asked for and not answered yet.
    pub(super) asked: usize,
    /// Who may be given up, in order of time.
    lingering: VecDeque<(u64, Subject)>,
    /// Logs of channels that only patterns cover, and those among them that a shard waits for until a pattern is live.
    pub(super) pattern_logs: PatternLogs,
    pub(super) pattern_waiting: HashSet<Arc<str>>,
    /// Until when which page of a log waits for the link.
    pub(super) log_deadlines: BTreeSet<(u64, Arc<str>)>,
    /// The newest events of logs.
    pub(super) tails: Tails,
    /// Readings of tables and logs so far.
    pub(super) loads: u64,
    /// When which table is read again.
    pub(super) retries: BTreeSet<(u64, Arc<str>)>,
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
        let cover = Cover::new(settings.linger_ms.max(QUIET_MS), PREFIXES_PER_CLASS);
        Hub {
            counters: Counters::new(settings.seed),
            barrier: RecoveryBarrier::new(settings.link),
            all_shards: ShardSet::default(),
            settings,
            link_up: false,
            moves: Moves::default(),
            slot_moves: SlotMoves::default(),
            entries: HashMap::new(),
            patterns: PatternIndex::default(),
            cover,
            waiting: VecDeque::new(),
            asked: 0,
            lingering: VecDeque::new(),
            pattern_logs: PatternLogs::default(),
            pattern_waiting: HashSet::new(),
            log_deadlines: BTreeSet::new(),
            tails: Tails::default(),
            loads: 0,
            retries: BTreeSet::new(),
            sweeps: BTreeSet::new(),
            live: 0,
            interrupted: 0,
            stats: HubStats::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now_ms: u64, input: HubInput<'_>) {
        self.tails.now_ms = now_ms;
        let Some(input) = self.unless_held(input) else { return };
        if !self.take_in(now_ms, input) {
            return;
        }
        self.end_lingering(now_ms);
        self.narrow_cover(now_ms);
        self.retry(now_ms);
        self.sweep(now_ms);
        self.end_late_moves(now_ms);
        self.end_waiting_pages(now_ms);
        self.end_deferring(now_ms);
        self.ask();
    }

    /// Does what an input says. Returns whether something may be due behind it: a publication changes no subscription.
    pub(super) fn take_in(&mut self, now_ms: u64, input: HubInput<'_>) -> bool {
        match input {
            HubInput::Want { shard, subject } if subject.is_pattern() => {
                self.want_pattern(now_ms, shard, subject)
            }
            HubInput::Want { shard, subject } => self.want(shard, subject),
            HubInput::Unwant { shard, subject } => self.unwant(now_ms, shard, subject),
            HubInput::Refresh { shard, subject } => self.refresh(shard, subject),
            HubInput::Loaded { channel, load, table } => self.loaded(now_ms, channel, load, table),
            HubInput::CatchUp { shard, channel, after } => self.catch_up(shard, channel, after),
            HubInput::LogRead { channel, load, log } => self.log_read(now_ms, channel, load, log),
            HubInput::LinkUp => self.link_up = true,
            HubInput::LinkDown => self.link_is_down(now_ms),
            HubInput::Subscribed(subject) => self.subscribed(now_ms, subject),
            HubInput::Unsubscribed(subject) if subject.is_pattern() => {
                self.cover_unsubscribed(&subject.name);
            }
            HubInput::Unsubscribed(subject) => self.unsubscribed(now_ms, subject),
            HubInput::Refused { subject, reason } => self.refused(now_ms, subject, reason),
            HubInput::Message { pattern, channel, payload } => {
                self.message(now_ms, pattern, channel, Content::Whole(payload));
                return false;
            }
            HubInput::OversizedMessage { pattern, channel, bytes } => {
                self.message(now_ms, pattern, channel, Content::Oversized(bytes));
                return false;
            }
            HubInput::Local { channel, payload } => {
                self.local_event(channel, payload);
                return false;
            }
            HubInput::Lost { shard } => self.lost(shard),
            HubInput::Listening { shards, was_live } => {
                self.all_shards = shards;
                self.begin_listening(was_live);
            }
            HubInput::Passed { shard, token } => self.barrier.pass(shard, token),
            HubInput::Give(moves) => self.give(moves),
            HubInput::Take(moves) => self.take(now_ms, moves),
            HubInput::GiveSlots(slots) => self.give_slots(slots),
            HubInput::TakeSlots(slots) => self.take_slots(now_ms, slots),
            HubInput::Deferred(subject) => self.deferred(now_ms, subject),
            HubInput::Peer(message) => self.peer(now_ms, message),
            HubInput::Tick => {}
        }
        true
    }

    /// What is to be done, in order; `None` when all is said.
    pub fn poll_output(&mut self) -> Option<HubOutput> {
        self.outputs.pop_front()
    }

    /// When [`HubInput::Tick`] must come at the latest.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let lingering = self.lingering.front().map(|(at, _)| *at);
        let sweep = self.sweeps.first().map(|(at, _)| *at);
        let retry = self.retries.first().map(|(at, _)| *at);
        let moves = self.moves.next_deadline_ms();
        lingering
            .into_iter()
            .chain(sweep)
            .chain(retry)
            .chain(moves)
            .chain(self.log_deadline_ms())
            .chain(self.slot_moves.next_deadline_ms())
            .chain(self.cover.next_deadline_ms())
            .min()
    }

    /// How many subscriptions were live, broke with the link and are not live again.
    pub fn interrupted(&self) -> usize {
        self.interrupted
    }

    /// What it received at start.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// Gauges and counters.
    pub fn stats(&self) -> HubStats {
        HubStats {
            subjects: self.entries.len() + self.patterns.len(),
            cover: self.cover.len(),
            live: self.live,
            pattern_channels: self.counters.len(),
            pattern_logs: self.pattern_logs.len(),
            waiting_for_slots: self.slot_moves.waiting(),
            log_tail_bytes: self.tails.bytes(),
            ..self.stats
        }
    }

    #[cfg(test)]
    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn want(&mut self, shard: ShardId, subject: Subject) {
        if self.holds_want(shard, &subject) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&subject) {
            entry.shards.insert(shard);
            entry.linger_until_ms = 0;
            if entry.state == State::Live {
                self.confirm(&subject, ShardSet::only(shard), false);
            }
            return;
        }
        let shards = ShardSet::only(shard);
        let position = self.counters.take(&subject.name);
        let rules = self.rules_of(&subject.name);
        let source = self.source_of(&subject.name, rules);
        let entry = Entry {
            shards,
            state: State::Waiting,
            broken: false,
            linger_until_ms: 0,
            rules,
            position,
            source,
        };
        self.compact_waiting();
        match rules.is_of_commands() {
            true => self.waiting.push_front(subject.clone()),
            false => self.waiting.push_back(subject.clone()),
        }
        self.entries.insert(subject, entry);
    }

    /// While the link is away, subjects may come and go: what is gone must not pile up here.
    pub(super) fn compact_waiting(&mut self) {
        if self.waiting.len() < 2 * (self.entries.len() + self.cover.len()) + BATCH {
            return;
        }
        let mut seen = HashSet::new();
        let (entries, cover) = (&self.entries, &self.cover);
        self.waiting.retain(|subject| {
            let is_waiting = match subject.is_pattern() {
                true => cover.is_waiting(&subject.name),
                false => entries.get(subject).is_some_and(|entry| entry.state == State::Waiting),
            };
            is_waiting && seen.insert(subject.clone())
        });
    }

    /// Answers an unwant.
    pub(super) fn release(&mut self, shard: ShardId, subject: &Subject) {
        let released = BrokerEvent::Released(subject.clone());
        self.outputs.push_back(HubOutput::Shards(ShardSet::only(shard), released));
    }

    pub(super) fn unwant(&mut self, now_ms: u64, shard: ShardId, subject: &Subject) {
        if self.holds_unwant(shard, subject) {
            return;
        }
        // So that the shard can tell a confirmation of its next want from one that is still on its way.
        self.release(shard, subject);
        let linger_until_ms = now_ms + self.settings.linger_ms;
        if subject.is_pattern() {
            if let Some(pattern) = self.patterns.get_mut(&subject.name)
                && pattern.shards.remove(shard)
                && pattern.shards.is_empty()
            {
                pattern.linger_until_ms = linger_until_ms;
                self.lingering.push_back((linger_until_ms, subject.clone()));
            }
            return;
        }
        let Some((subject, entry)) = self.entries.get_key_value_mut(subject) else { return };
        if !entry.shards.remove(shard) || !entry.shards.is_empty() || entry.state == State::Ending {
            return;
        }
        entry.linger_until_ms = linger_until_ms;
        let is_of_commands = entry.rules.is_of_commands();
        self.lingering.push_back((linger_until_ms, subject.clone()));
        // The link of a master that has no slots any more receives no player commands until it has some again.
        if is_of_commands && !self.wants_commands() {
            self.barrier.close();
        }
    }

    fn end_lingering(&mut self, now_ms: u64) {
        let mut ending = Vec::new();
        while self.lingering.front().is_some_and(|(at, _)| *at <= now_ms) {
            let Some((at, subject)) = self.lingering.pop_front() else { break };
            if subject.is_pattern() {
                let pattern = self.patterns.get(&subject.name);
                if pattern.is_some_and(|p| p.linger_until_ms == at && p.shards.is_empty()) {
                    self.forget_pattern(now_ms, &subject.name);
                }
                continue;
            }
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
                // Its confirmation lets it linger again.
                State::Asked | State::Loading | State::Ending => {}
            }
        }
        for batch in ending.chunks(BATCH) {
            self.outputs.push_back(HubOutput::Link(LinkCommand::Unsubscribe(batch.to_vec())));
        }
    }

    fn link_is_down(&mut self, now_ms: u64) {
        if !std::mem::replace(&mut self.link_up, false) {
            return;
        }
        self.waiting.clear();
        self.lingering.clear();
        self.slot_moves.link_broke();
        self.asked = 0;
        // The commands of nodes come first, and those that were missed are recovered before the rest is requested.
        // That in the order of names: what a seeded simulation sees must not hang on the table's.
        let mut subjects: Vec<Subject> = self.entries.keys().cloned().collect();
        let reserved = &self.settings.reserved;
        subjects.sort_unstable_by(|a, b| {
            reserved.holds(&b.name).cmp(&reserved.holds(&a.name)).then_with(|| a.cmp(b))
        });
        let mut missed = false;
        for subject in subjects {
            let Some(entry) = self.entries.get_mut(&subject) else { continue };
            self.live -= usize::from(entry.state == State::Live);
            if entry.shards.is_empty() {
                self.forget(&subject);
                continue;
            }
            missed |= entry.rules.is_of_commands();
            entry.source.link_broke();
            if entry.state == State::Live {
                entry.broken = true;
                self.interrupted += 1;
                let event = BrokerEvent::Interrupted(subject.clone());
                self.outputs.push_back(HubOutput::Shards(entry.shards, event));
            }
            entry.state = State::Waiting;
            self.waiting.push_back(subject);
        }
        self.barrier.link_broke(missed);
        self.pattern_logs_break(|_| true);
        self.log_deadlines.clear();
        self.patterns_break(now_ms);
        self.moves_break(now_ms);
    }

    /// Sends the next batch of subscribes, when the last one is answered.
    fn ask(&mut self) {
        if !self.link_up || self.asked > 0 || self.waiting.is_empty() {
            return;
        }
        let mut batch = Vec::with_capacity(self.waiting.len().min(BATCH));
        while batch.len() < BATCH {
            let (is_open, reserved) = (self.barrier.is_open(), &self.settings.reserved);
            let next = self.waiting.pop_front_if(|subject| is_open || reserved.holds(&subject.name));
            let Some(subject) = next else { break };
            let is_asked = match subject.is_pattern() {
                true => self.cover.ask(&subject.name),
                false => self.entries.get_mut(&subject).is_some_and(Entry::ask),
            };
            if is_asked {
                batch.push(subject);
            }
        }
        if !batch.is_empty() {
            self.asked = batch.len();
            self.outputs.push_back(HubOutput::Link(LinkCommand::Subscribe(batch)));
        }
    }

    fn subscribed(&mut self, now_ms: u64, subject: &Subject) {
        if self.move_subscribed(now_ms, subject) {
            return;
        }
        self.asked = self.asked.saturating_sub(1);
        if subject.is_pattern() {
            return self.cover_subscribed(&subject.name);
        }
        let Some((subject, entry)) = self.entries.get_key_value_mut(subject) else { return };
        if entry.state != State::Asked {
            return;
        }
        let subject = subject.clone();
        if entry.source.is_stored() {
            return self.load(now_ms, &subject);
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
        if !shards.is_empty() {
            self.confirm(&subject, shards, after_break);
        }
        self.advance_leaving(&subject);
    }

    /// The position of a live channel, as clients are shown it.
    fn position_of(&self, subject: &Subject) -> ChannelPosition {
        match self.entries.get(subject) {
            Some(Entry { source: Source::Log(log), .. }) => {
                ChannelPosition::Logged(log.at.unwrap_or_default())
            }
            Some(entry) => ChannelPosition::Counted(entry.position),
            None => ChannelPosition::Counted(Position::default()),
        }
    }

    fn unsubscribed(&mut self, now_ms: u64, subject: &Subject) {
        if self.move_unsubscribed(now_ms, subject) {
            return;
        }
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
        entry.source.link_broke();
        if wanted {
            self.waiting.push_back(subject.clone());
            self.advance_leaving(&subject);
        } else {
            self.forget(&subject);
        }
    }

    fn refused(&mut self, now_ms: u64, subject: &Subject, reason: &str) {
        if self.move_refused(now_ms, subject) {
            return;
        }
        self.asked = self.asked.saturating_sub(1);
        if subject.is_pattern() {
            return self.cover_refused(now_ms, &subject.name, reason);
        }
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
        let by_name = self.entries.iter().filter(holds).map(|(subject, _)| subject.clone());
        let holds = |(_, pattern): &(&Arc<str>, &Pattern)| pattern.is_live && pattern.shards.contains(shard);
        let by_pattern = self.patterns.iter().filter(holds).map(|(name, _)| Subject::pattern(name.clone()));
        let mut subjects: Vec<Subject> = by_name.chain(by_pattern).collect();
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
        if let Some(table) = entry.source.table() {
            uncount(&mut self.stats, table);
            self.sweeps.remove(&(table.sweep_at_ms, subject.name.clone()));
            self.retries.remove(&(table.read_at_ms, subject.name.clone()));
        }
        let mut covered = false;
        self.patterns.for_each_match(&subject.name, |_, _| covered = true);
        if covered {
            self.counters.put(subject.name.clone(), entry.position);
            if let Source::Log(log) = entry.source {
                self.keep_log(&subject.name, *log);
            }
        }
        self.advance_leaving(&subject);
    }

    pub(super) fn confirm(&mut self, subject: &Subject, shards: ShardSet, after_break: bool) {
        let position = self.position_of(subject);
        let event = BrokerEvent::Confirmed { subject: subject.clone(), position, after_break };
        self.outputs.push_back(HubOutput::Shards(shards, event));
        self.send_table(subject, shards);
    }

    /// Nobody wants a live entry: it is given up after a while.
    pub(super) fn linger(&mut self, now_ms: u64, subject: &Subject, entry: &mut Entry) {
        entry.linger_until_ms = now_ms + self.settings.linger_ms;
        self.lingering.push_back((entry.linger_until_ms, subject.clone()));
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
