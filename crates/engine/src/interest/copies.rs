//! Publications through the hub. Redis sends one copy for each subscription of the link that matches; one of them
//! is canonical, is read, numbered and passed on, and the others are dropped.

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_protocol::channel;
use drawbridge_protocol::event::{Event, PayloadMode};

use super::hub::{Hub, State};
use super::io::{HubOutput, HubSettings};
use super::shards::ShardSet;
use super::tables::{Kept, read_entity};
use crate::io::{BrokerEvent, EntityChange, Publication, SubjectRef};

/// What was published, as far as it was held.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it.
    Whole(Bytes),
    /// It was over the bound; its size.
    Oversized(usize),
}

impl Hub {
    pub(super) fn message(&mut self, now_ms: u64, pattern: Option<&[u8]>, channel: &[u8], content: Content) {
        let Ok(channel) = std::str::from_utf8(channel) else {
            self.stats.dropped_bad_name += 1;
            return;
        };
        match pattern {
            None => self.exact_copy(now_ms, channel, content),
            Some(pattern) => self.pattern_copy(pattern, channel, content),
        }
    }

    /// The exact subscription's copy is canonical wherever there is one.
    fn exact_copy(&mut self, now_ms: u64, channel: &str, content: Content) {
        let key = SubjectRef { name: channel, pattern: false };
        let Some(entry) = self.entries.get(&key) else { return };
        let shards = if entry.state == State::Live { entry.shards } else { ShardSet::default() };
        let has_table = entry.table.is_some() && entry.state != State::Ending;
        let mut by_pattern = ShardSet::default();
        if !self.patterns.is_empty() && !is_reserved(&self.settings, channel) {
            by_pattern = self.pattern_shards(channel);
        }
        let mut shards = shards.union(by_pattern);
        if shards.is_empty() && !has_table {
            return;
        }
        let Some((event, change)) = self.read(channel, content) else { return };
        let Some((subject, entry)) = self.entries.get_key_value_mut(&key) else { return };
        let offset = entry.offset + 1;
        let mut publication = publication(&self.settings, subject.name.clone(), event, offset, change);
        if has_table {
            let subject = subject.clone();
            match self.keep(now_ms, &subject, &publication) {
                Kept::Changed => {}
                Kept::Refused => return,
                // For the table it is no news; through patterns it is an event like any other.
                Kept::Unchanged => {
                    shards = by_pattern;
                    if let Some(publication) = Arc::get_mut(&mut publication) {
                        publication.entity = None;
                    }
                }
            }
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.offset = offset;
        }
        if !shards.is_empty() {
            self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Publication(publication)));
        }
    }

    /// Of the patterns' copies the one of the pattern that was confirmed first is canonical.
    fn pattern_copy(&mut self, pattern: &[u8], channel: &str, content: Content) {
        let key = SubjectRef { name: channel, pattern: false };
        let exact = self.entries.get(&key);
        if exact.is_some_and(|entry| matches!(entry.state, State::Loading | State::Live | State::Ending)) {
            return;
        }
        if self.oldest_pattern(channel).is_none_or(|oldest| oldest.as_bytes() != pattern)
            || is_reserved(&self.settings, channel)
        {
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
        let Some((event, change)) = self.read(channel, content) else { return };
        // An exact subscription that is asked for but not confirmed counts on in its own entry.
        let (name, offset) = match self.entries.get_key_value_mut(&key) {
            Some((subject, entry)) => {
                entry.offset += 1;
                (subject.name.clone(), entry.offset)
            }
            None => self.counters.next(channel),
        };
        let publication = publication(&self.settings, name, event, offset, change);
        self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Publication(publication)));
    }

    /// Of the patterns that Redis matches for this link, the one that was confirmed first.
    /// The copies of a publication come one behind the other: it is looked for once.
    fn oldest_pattern(&mut self, channel: &str) -> Option<&Arc<str>> {
        let known = self.canonical.as_ref().is_some_and(|(of, _)| **of == *channel);
        if !known {
            self.canonical = Some((channel.into(), self.find_oldest_pattern(channel).cloned()));
        }
        self.canonical.as_ref().and_then(|(_, pattern)| pattern.as_ref())
    }

    fn find_oldest_pattern(&self, channel: &str) -> Option<&Arc<str>> {
        let mut oldest: Option<(u64, &Arc<str>)> = None;
        self.patterns.for_each_match(channel, |name, age| {
            if oldest.is_none_or(|(least, _)| *age < least) {
                oldest = Some((*age, name));
            }
        });
        oldest.map(|(_, name)| name)
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

    /// The event, with its key, and what it does to the entity of that key.
    fn read(&mut self, channel: &str, content: Content) -> Option<(Event, Option<EntityChange>)> {
        let payload = match content {
            Content::Whole(payload) if payload.len() <= self.settings.external_bytes => payload,
            Content::Whole(payload) => return self.oversized(channel, payload.len()),
            Content::Oversized(bytes) => return self.oversized(channel, bytes),
        };
        let reserved = is_reserved(&self.settings, channel);
        let class = if reserved { None } else { self.settings.classes.of_channel(channel) };
        let mode = match &class {
            _ if reserved => PayloadMode::Raw,
            Some((_, class, _)) => class.payload,
            None => PayloadMode::Auto,
        };
        let Ok(mut event) = Event::from_payload(payload, mode) else {
            self.stats.dropped_unreadable += 1;
            return None;
        };
        match class.map_or(Ok(None), |(_, class, _)| read_entity(class, &mut event)) {
            Ok(change) => Some((event, change)),
            Err(reason) => {
                self.drop_entity(channel, reason);
                None
            }
        }
    }

    fn oversized<T>(&mut self, channel: &str, bytes: usize) -> Option<T> {
        self.stats.dropped_oversized += 1;
        self.outputs.push_back(HubOutput::Oversized { channel: channel.to_owned(), bytes });
        None
    }
}

/// An event as the shards get it.
fn publication(
    settings: &HubSettings,
    channel: Arc<str>,
    event: Event,
    offset: u64,
    change: Option<EntityChange>,
) -> Arc<Publication> {
    let mut publication = Publication::with_entity(channel, event, offset, change);
    let class = settings.classes.of_channel(&publication.channel);
    publication.unnumbered = class.is_some_and(|(_, class, _)| class.delivery.max_updates.is_some());
    Arc::new(publication)
}

fn is_reserved(settings: &HubSettings, channel: &str) -> bool {
    settings.reserved.holds(channel)
}
