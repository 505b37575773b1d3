//! The hub of one link: its state per channel and pattern, and what it says to the link and to the shards.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_protocol::channel;
use drawbridge_protocol::event::{Event, PayloadMode};
use hashbrown::HashMap;

use super::counters::Counters;
use super::patterns::PatternIndex;
use super::shards::{ShardId, ShardSet};
use crate::class::Classes;
use crate::io::{BrokerEvent, Position, Publication, Subject, SubjectRef};

/// How many subjects one `SUBSCRIBE` names at most; the next batch goes out when this one is confirmed.
const BATCH: usize = 512;

/// What a hub is told at start.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Names the life of the counts; random per node start.
    pub epoch: Arc<str>,
    /// How long a subscription outlives its last subscriber, in milliseconds.
    pub linger_ms: u64,
    /// Payloads over this are dropped, in bytes.
    pub external_bytes: usize,
    /// Tell how payloads are read.
    pub classes: Arc<Classes>,
    /// Channels that begin so are never shown through patterns, and their payloads are taken as they are.
    pub reserved_prefix: Arc<str>,
}

/// What happens to a hub.
#[derive(Debug)]
pub enum HubInput<'a> {
    /// A shard has a first subscriber.
    Want {
        /// Which shard.
        shard: ShardId,
        /// For what.
        subject: Subject,
    },
    /// A shard's last subscriber left.
    Unwant {
        /// Which shard.
        shard: ShardId,
        /// From what.
        subject: &'a Subject,
    },
    /// The link to Redis works; nothing is subscribed on it.
    LinkUp,
    /// The link to Redis is gone, and every subscription with it.
    LinkDown,
    /// Redis confirmed a subscription.
    Subscribed(&'a Subject),
    /// Redis confirmed that a subscription ended.
    Unsubscribed(&'a Subject),
    /// Redis refused a subscription for good.
    Refused {
        /// Which.
        subject: &'a Subject,
        /// Redis' words.
        reason: &'a str,
    },
    /// A publication, once for each subscription of the link that matches it; in Redis' order.
    Message {
        /// `None`: the exact subscription's copy.
        pattern: Option<&'a [u8]>,
        /// The real channel.
        channel: &'a [u8],
        /// What was published.
        payload: Bytes,
    },
    /// Nothing happened but time.
    Tick,
}

/// What a hub wants done, in order.
#[derive(Debug)]
pub enum HubOutput {
    /// Send this to Redis.
    Link(LinkCommand),
    /// Tell this to each of these shards.
    Shards(ShardSet, BrokerEvent),
    /// A payload from outside was too large and is dropped; for the log.
    Oversized {
        /// The channel.
        channel: String,
        /// The payload's size.
        bytes: usize,
    },
}

/// What a link sends to Redis. Redis answers each subject once, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkCommand {
    /// `SUBSCRIBE` and `PSUBSCRIBE`.
    Subscribe(Vec<Subject>),
    /// `UNSUBSCRIBE` and `PUNSUBSCRIBE`.
    Unsubscribe(Vec<Subject>),
}

/// Gauges and counters of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Channels and patterns known.
    pub subjects: usize,
    /// Of these, confirmed by Redis.
    pub live: usize,
    /// Channels counted because patterns cover them.
    pub pattern_channels: usize,
    /// Payloads dropped because they were too large.
    pub dropped_oversized: u64,
    /// Payloads dropped because an `envelope` class could not read them.
    pub dropped_unreadable: u64,
    /// Payloads dropped because the channel's name is not well formed.
    pub dropped_bad_name: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be asked for as soon as the link allows.
    Waiting,
    /// Asked for.
    Asked,
    /// Confirmed: Redis sends what is published.
    Live,
    /// Given up: what still comes is not shown.
    Ending,
}

#[derive(Debug)]
struct Entry {
    shards: ShardSet,
    state: State,
    /// It was live when the link broke.
    broken: bool,
    /// When it is given up if nobody wants it; 0: somebody does, or it is not live.
    linger_until_ms: u64,
    /// The events counted (exact channels).
    offset: u64,
    /// The order of confirmation (patterns).
    age: u64,
}

/// The hub of one link. Feed it with [`Hub::handle`], then drain [`Hub::poll_output`].
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    link_up: bool,
    entries: HashMap<Subject, Entry>,
    /// Patterns that Redis currently matches for us.
    patterns: PatternIndex<u64>,
    counters: Counters,
    /// To be asked for, in order.
    waiting: VecDeque<Subject>,
    /// Asked for and not answered yet.
    asked: usize,
    /// Who may be given up, in order of time.
    lingering: VecDeque<(u64, Subject)>,
    ages: u64,
    live: usize,
    stats: HubStats,
    outputs: VecDeque<HubOutput>,
}

impl Hub {
    /// A hub whose link is down.
    pub fn new(settings: HubSettings) -> Self {
        Hub {
            settings,
            link_up: false,
            entries: HashMap::new(),
            patterns: PatternIndex::default(),
            counters: Counters::default(),
            waiting: VecDeque::new(),
            asked: 0,
            lingering: VecDeque::new(),
            ages: 0,
            live: 0,
            stats: HubStats::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now_ms: u64, input: HubInput<'_>) {
        match input {
            HubInput::Want { shard, subject } => self.want(shard, subject),
            HubInput::Unwant { shard, subject } => self.unwant(now_ms, shard, subject),
            HubInput::LinkUp => self.link_is_up(),
            HubInput::LinkDown => self.link_is_down(),
            HubInput::Subscribed(subject) => self.subscribed(now_ms, subject),
            HubInput::Unsubscribed(subject) => self.unsubscribed(subject),
            HubInput::Refused { subject, reason } => self.refused(subject, reason),
            HubInput::Message { pattern, channel, payload } => self.message(pattern, channel, payload),
            HubInput::Tick => {}
        }
        self.give_up_lingering(now_ms);
        self.ask();
    }

    /// What is to be done, in order; `None` when all is said.
    pub fn poll_output(&mut self) -> Option<HubOutput> {
        self.outputs.pop_front()
    }

    /// When [`HubInput::Tick`] is due at the latest.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.lingering.front().map(|(at, _)| *at)
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

    fn want(&mut self, shard: ShardId, subject: Subject) {
        if let Some(entry) = self.entries.get_mut(&subject) {
            entry.shards.insert(shard);
            entry.linger_until_ms = 0;
            if entry.state == State::Live {
                let mut only = ShardSet::default();
                only.insert(shard);
                self.confirm(subject, only, false);
            }
            return;
        }
        let mut shards = ShardSet::default();
        shards.insert(shard);
        let offset = if subject.pattern { 0 } else { self.counters.take(&subject.name) };
        let entry =
            Entry { shards, state: State::Waiting, broken: false, linger_until_ms: 0, offset, age: 0 };
        self.waiting.push_back(subject.clone());
        self.entries.insert(subject, entry);
    }

    fn unwant(&mut self, now_ms: u64, shard: ShardId, subject: &Subject) {
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
                // `waiting` skips what is no longer there.
                State::Waiting => self.forget(&subject),
                // Its confirmation lets it linger anew.
                State::Asked | State::Ending => {}
            }
        }
        for batch in ending.chunks(BATCH) {
            self.outputs.push_back(HubOutput::Link(LinkCommand::Unsubscribe(batch.to_vec())));
        }
    }

    fn link_is_up(&mut self) {
        self.link_up = true;
    }

    fn link_is_down(&mut self) {
        if !std::mem::replace(&mut self.link_up, false) {
            return;
        }
        self.patterns = PatternIndex::default();
        self.waiting.clear();
        self.asked = 0;
        self.live = 0;
        let mut unwanted = Vec::new();
        for (subject, entry) in &mut self.entries {
            if entry.shards.is_empty() {
                unwanted.push(subject.clone());
                continue;
            }
            if entry.state == State::Live {
                entry.broken = true;
                self.outputs
                    .push_back(HubOutput::Shards(entry.shards, BrokerEvent::Interrupted(subject.clone())));
            }
            entry.state = State::Waiting;
            self.waiting.push_back(subject.clone());
        }
        for subject in unwanted {
            self.forget(&subject);
        }
        self.lingering.clear();
    }

    /// Sends the next batch of subscribes, when the last one is answered.
    fn ask(&mut self) {
        if !self.link_up || self.asked > 0 || self.waiting.is_empty() {
            return;
        }
        let mut batch = Vec::with_capacity(self.waiting.len().min(BATCH));
        while batch.len() < BATCH {
            let Some(subject) = self.waiting.pop_front() else { break };
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
        entry.state = State::Live;
        self.live += 1;
        let after_break = std::mem::take(&mut entry.broken);
        let shards = entry.shards;
        if shards.is_empty() {
            entry.linger_until_ms = now_ms + self.settings.linger_ms;
            self.lingering.push_back((entry.linger_until_ms, subject.clone()));
        }
        let subject = subject.clone();
        if subject.pattern {
            self.ages += 1;
            entry.age = self.ages;
            self.patterns.insert(subject.name.clone(), self.ages);
        }
        if !shards.is_empty() {
            self.confirm(subject, shards, after_break);
        }
    }

    fn unsubscribed(&mut self, subject: &Subject) {
        if subject.pattern {
            self.patterns.remove(&subject.name);
            if self.patterns.is_empty() {
                self.counters.forget_all();
            }
        }
        let Some((subject, entry)) = self.entries.get_key_value_mut(subject) else { return };
        let subject = subject.clone();
        match entry.state {
            State::Ending if entry.shards.is_empty() => self.forget(&subject),
            State::Ending => {
                entry.state = State::Waiting;
                self.waiting.push_back(subject);
            }
            // Redis ended it by itself: treat it like a broken link for this one.
            State::Live => {
                self.live -= 1;
                entry.broken = true;
                entry.state = State::Waiting;
                let shards = entry.shards;
                self.waiting.push_back(subject.clone());
                self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Interrupted(subject)));
            }
            State::Waiting | State::Asked => {}
        }
    }

    fn refused(&mut self, subject: &Subject, reason: &str) {
        self.asked = self.asked.saturating_sub(1);
        let Some(entry) = self.entries.get(subject) else { return };
        if !entry.shards.is_empty() {
            let event = BrokerEvent::Refused { subject: subject.clone(), reason: reason.into() };
            self.outputs.push_back(HubOutput::Shards(entry.shards, event));
        }
        self.forget(subject);
    }

    /// Drops an entry that is not live; the count of its channel goes on where a pattern still covers it.
    fn forget(&mut self, subject: &Subject) {
        let Some((subject, entry)) = self.entries.remove_entry(subject) else { return };
        if subject.pattern {
            return;
        }
        let mut covered = false;
        self.patterns.for_each_match(&subject.name, |_, _| covered = true);
        self.counters.put(subject.name, entry.offset, covered);
    }

    fn confirm(&mut self, subject: Subject, shards: ShardSet, after_break: bool) {
        let offset = self.entries.get(&subject).map_or(0, |entry| entry.offset);
        let position = Position { epoch: self.settings.epoch.clone(), offset };
        let event = BrokerEvent::Confirmed { subject, position, after_break };
        self.outputs.push_back(HubOutput::Shards(shards, event));
    }

    fn message(&mut self, pattern: Option<&[u8]>, channel: &[u8], payload: Bytes) {
        let Ok(channel) = std::str::from_utf8(channel) else {
            self.stats.dropped_bad_name += 1;
            return;
        };
        match pattern {
            None => self.exact_copy(channel, payload),
            Some(pattern) => self.pattern_copy(pattern, channel, payload),
        }
    }

    /// The exact subscription's copy is canonical wherever there is one.
    fn exact_copy(&mut self, channel: &str, payload: Bytes) {
        let key = SubjectRef { name: channel, pattern: false };
        let Some((subject, entry)) = self.entries.get_key_value_mut(&key) else { return };
        let mut shards = if entry.state == State::Live { entry.shards } else { ShardSet::default() };
        if !self.patterns.is_empty() && !is_reserved(&self.settings, channel) {
            let name = subject.name.clone();
            shards = shards.union(self.pattern_shards(&name));
        }
        if shards.is_empty() {
            return;
        }
        let Some(event) = self.read(channel, payload) else { return };
        let Some((subject, entry)) = self.entries.get_key_value_mut(&key) else { return };
        entry.offset += 1;
        let publication = Publication::new(subject.name.clone(), event, entry.offset);
        self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Publication(publication.into())));
    }

    /// Of the patterns' copies the one of the pattern that was confirmed first is canonical.
    fn pattern_copy(&mut self, pattern: &[u8], channel: &str, payload: Bytes) {
        let exact = self.entries.get(&SubjectRef { name: channel, pattern: false });
        if exact.is_some_and(|entry| matches!(entry.state, State::Live | State::Ending)) {
            return;
        }
        let mut oldest: Option<(u64, &Arc<str>)> = None;
        self.patterns.for_each_match(channel, |name, age| {
            if oldest.is_none_or(|(least, _)| *age < least) {
                oldest = Some((*age, name));
            }
        });
        if oldest.is_none_or(|(_, name)| name.as_bytes() != pattern) || is_reserved(&self.settings, channel) {
            return;
        }
        if channel::validate(channel).is_err() {
            self.stats.dropped_bad_name += 1;
            return;
        }
        let shards = self.pattern_shards(channel);
        if shards.is_empty() {
            return;
        }
        let Some(event) = self.read(channel, payload) else { return };
        // An exact subscription that is asked for but not confirmed counts on in its own entry.
        let (name, offset) = match self.entries.get_key_value_mut(&SubjectRef { name: channel, pattern: false }) {
            Some((subject, entry)) => {
                entry.offset += 1;
                (subject.name.clone(), entry.offset)
            }
            None => self.counters.next(channel),
        };
        let publication = Publication::new(name, event, offset);
        self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Publication(publication.into())));
    }

    fn pattern_shards(&self, channel: &str) -> ShardSet {
        let mut shards = ShardSet::default();
        self.patterns.for_each_match(channel, |name, _| {
            if let Some(entry) = self.entries.get(&SubjectRef { name, pattern: true })
                && entry.state == State::Live
            {
                shards = shards.union(entry.shards);
            }
        });
        shards
    }

    fn read(&mut self, channel: &str, payload: Bytes) -> Option<Event> {
        if payload.len() > self.settings.external_bytes {
            self.stats.dropped_oversized += 1;
            let (channel, bytes) = (channel.to_owned(), payload.len());
            self.outputs.push_back(HubOutput::Oversized { channel, bytes });
            return None;
        }
        let mode = if is_reserved(&self.settings, channel) {
            PayloadMode::Raw
        } else {
            self.settings.classes.payload_mode(channel)
        };
        let event = Event::from_payload(payload, mode);
        if event.is_err() {
            self.stats.dropped_unreadable += 1;
        }
        event.ok()
    }
}

fn is_reserved(settings: &HubSettings, channel: &str) -> bool {
    channel.starts_with(&*settings.reserved_prefix)
}
