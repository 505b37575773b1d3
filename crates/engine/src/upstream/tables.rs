//! Entity channels through the hub: their tables are read when Redis has confirmed the subscription, merged with
//! what comes live, and told to the shards behind the confirmation; from then on events change them in order. What
//! one table holds and what fits it is in [`super::table`].

use std::sync::Arc;

use drawbridge_protocol::event::{Event, Payload};

use super::dedup::Rules;
use super::due::pop_due;
use super::hub::{Hub, State};
use super::io::{BadEntity, BadTable, HubOutput, HubStats};
use super::loaded_table::{LoadedRow, LoadedTable};
use super::shards::{ShardId, ShardSet};
use super::source::Source;
use super::table::{ApplyOutcome, Table};
use crate::class::{Class, REMOVE_EVENT};
use crate::io::{BrokerEvent, EntityChange, LocalOffset, Publication, Subject, SubjectRef, Version};

/// How often a table that does not settle is read, before it counts as it is stored.
const READS: u32 = 4;
/// The pause before the third time that a table is read in a row, in milliseconds; it doubles, up to the longest.
const FIRST_PAUSE_MS: u64 = 100;
const LONGEST_PAUSE_MS: u64 = 10_000;
/// A table that was live for so long is read at once again.
const QUIET_MS: u64 = 30_000;

impl Hub {
    /// The source of a channel, by its class; of a table nothing is known yet.
    pub(super) fn source_of(&mut self, channel: &str, rules: Rules) -> Source {
        let Some(class) = rules.class(&self.settings) else { return Source::Plain };
        match &class.entity {
            Some(rules) => Source::Table(Box::new(Table::new(rules))),
            None if class.history.is_some() => self.log_source(channel),
            None => Source::Plain,
        }
    }

    /// Redis has confirmed a channel of which something is stored, or an event of its table is missing: reads it, a table
    /// after a pause where that was done a few times already.
    pub(super) fn load(&mut self, now_ms: u64, subject: &Subject) {
        self.loads += 1;
        let load = self.loads;
        let spread = self.counters.draw();
        let Some(entry) = self.entries.get_mut(subject) else { return };
        entry.state = State::Loading;
        let Some(table) = entry.source.table_mut() else { return self.begin_log(&subject.name) };
        uncount(&mut self.stats, table);
        self.sweeps.remove(&(table.sweep_at_ms, subject.name.clone()));
        self.retries.remove(&(table.read_at_ms, subject.name.clone()));
        if now_ms >= table.read_at_ms + QUIET_MS {
            table.reads = 0;
        }
        table.begin(load);
        table.read_at_ms = now_ms + pause_ms(table.reads, spread);
        table.reads += 1;
        if table.read_at_ms == now_ms {
            self.outputs.push_back(HubOutput::Load { channel: subject.name.clone(), load });
        } else {
            self.retries.insert((table.read_at_ms, subject.name.clone()));
        }
    }

    /// Reads the tables whose pause is over.
    pub(super) fn retry(&mut self, now_ms: u64) {
        while let Some((_, channel)) = pop_due(&mut self.retries, now_ms) {
            let key = SubjectRef::channel(&channel);
            let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.state == State::Loading) else {
                continue;
            };
            let Some(table) = entry.source.table_mut() else { continue };
            if let Some(load) = table.load() {
                // What came during the pause is in what is read now, if it was stored at all.
                uncount(&mut self.stats, table);
                table.begin(load);
                self.outputs.push_back(HubOutput::Load { channel, load });
            }
        }
    }

    pub(super) fn loaded(
        &mut self,
        now_ms: u64,
        channel: &str,
        load: u64,
        loaded: Result<LoadedTable, Arc<str>>,
    ) {
        let key = SubjectRef::channel(channel);
        let Some((subject, entry)) = self.entries.get_key_value_mut(&key) else { return };
        let subject = subject.clone();
        // The link may have broken since: it is read again when Redis has confirmed the channel again.
        if entry.state != State::Loading {
            return;
        }
        let Some(mut table) = entry.source.take_table(load) else { return };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(reason) => {
                entry.source = Source::Table(table);
                return self.load_refused(&subject, &reason);
            }
        };
        uncount(&mut self.stats, &table);
        let (mut foreign, mut bad) = (0, loaded.unreadable);
        table.expect_stored(loaded.rows.len());
        for LoadedRow { age_ms, publication } in loaded.rows {
            match publication.event.server_id().and_then(Version::of_id) {
                Some(version) if version.epoch != loaded.epoch => foreign += 1,
                Some(version) if version.seq > loaded.last_seq => bad += 1,
                version => {
                    let seq = version.map_or(0, |version| version.seq);
                    table.apply_stored(now_ms, age_ms, seq, publication);
                }
            }
        }
        // Rows of another life may be what the table began while it was read: then another look settles it.
        let fits = foreign == 0 && table.finish(&loaded.epoch, loaded.seq, false);
        let holds = !fits && table.reads >= READS;
        let fits = fits || holds && table.finish(&loaded.epoch, loaded.seq, true);
        table.sweep_at_ms = now_ms + table.sweep_every_ms();
        count(&mut self.stats, &table);
        let sweep = (table.sweep_at_ms, subject.name.clone());
        let Some(entry) = self.entries.get_mut(&subject) else { return };
        entry.source = Source::Table(table);
        if !fits {
            return self.load(now_ms, &subject);
        }
        if holds {
            self.report(&subject.name, BadTable::Inconsistent);
        }
        if foreign + bad > 0 {
            self.stats.bad_rows += (foreign + bad) as u64;
            self.report(&subject.name, BadTable::Entities(foreign + bad));
        }
        self.sweeps.insert(sweep);
        self.goes_live(now_ms, &subject);
    }

    fn report(&mut self, channel: &Arc<str>, reason: BadTable) {
        self.outputs.push_back(HubOutput::BadTable { channel: channel.clone(), reason });
    }

    pub(super) fn load_refused(&mut self, subject: &Subject, reason: &Arc<str>) {
        let Some(entry) = self.entries.get(subject) else { return };
        let event = BrokerEvent::Refused { subject: subject.clone(), reason: reason.clone() };
        if !entry.shards.is_empty() {
            self.outputs.push_back(HubOutput::Shards(entry.shards, event));
        }
        // Redis still has the subscription: it is ended as if the last shard had left.
        self.end_now(subject);
    }

    /// Does what follows from a live event besides its delivery. Returns whether it changes the table.
    pub(super) fn kept(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        outcome: ApplyOutcome,
        gone: Vec<Arc<str>>,
    ) -> bool {
        self.send_expired(channel, gone);
        match outcome {
            ApplyOutcome::Changed => true,
            ApplyOutcome::Known | ApplyOutcome::Full => false,
            ApplyOutcome::Gap => {
                self.stats.table_gaps += 1;
                self.reload(now_ms, &Subject::channel(channel.clone()));
                false
            }
        }
    }

    /// A change of the stored table that this node cannot read: its class says otherwise than the writer's, as during a
    /// deploy. As if the table had been read behind it, the entity is not there, and there is no hole.
    pub(super) fn end_unreadable(&mut self, now_ms: u64, channel: &str, payload: &Payload<'_>) {
        let is_stored = payload.server_id().is_some_and(|id| Version::of_id(id).is_some());
        let Some(key) = payload.key().filter(|_| is_stored).map(|key| Arc::from(&**key)) else { return };
        let of = SubjectRef::channel(channel);
        let Some((subject, entry)) = self.entries.get_key_value_mut(&of) else { return };
        let Some(table) = entry.source.table_mut() else { return };
        let channel = subject.name.clone();
        let event = Event::new(payload, &channel, None);
        let end =
            Publication::with_entity(channel.clone(), event, LocalOffset(0), Some(EntityChange::Remove));
        let (outcome, gone) = put(&mut self.stats, table, now_ms, &Arc::new(end));
        if self.kept(now_ms, &channel, outcome, gone) {
            self.send_expired(&channel, vec![key]);
        }
    }

    /// An event of a live table is missing: as after a break, for this channel alone.
    fn reload(&mut self, now_ms: u64, subject: &Subject) {
        let Some(entry) = self.entries.get_mut(subject).filter(|entry| entry.state == State::Live) else {
            return;
        };
        self.live -= 1;
        self.interrupted += usize::from(!std::mem::replace(&mut entry.broken, true));
        let event = BrokerEvent::Interrupted(subject.clone());
        self.outputs.push_back(HubOutput::Shards(entry.shards, event));
        self.load(now_ms, subject);
    }

    /// Tells the shards of a live channel which entities are gone without an event.
    fn send_expired(&mut self, channel: &Arc<str>, keys: Vec<Arc<str>>) {
        if !keys.is_empty()
            && let Some(entry) = self.entries.get(&SubjectRef::channel(channel))
            && entry.state == State::Live
            && !entry.shards.is_empty()
        {
            let event = BrokerEvent::Expired { channel: channel.clone(), keys: keys.into() };
            self.outputs.push_back(HubOutput::Shards(entry.shards, event));
        }
    }

    pub(super) fn drop_entity(&mut self, channel: &str, reason: BadEntity) {
        match reason {
            BadEntity::Key => self.stats.dropped_bad_key += 1,
            BadEntity::Position => self.stats.dropped_bad_position += 1,
            BadEntity::Full => self.stats.dropped_full += 1,
        }
        self.outputs.push_back(HubOutput::BadEntity { channel: channel.to_owned(), reason });
    }

    /// Tells shards the whole table of a live channel.
    pub(super) fn send_table(&mut self, subject: &Subject, shards: ShardSet) {
        if let Some(entry) = self.entries.get(subject)
            && entry.state == State::Live
            && let Some(table) = entry.source.table()
        {
            let event = BrokerEvent::Table { channel: subject.name.clone(), entities: table.all() };
            self.outputs.push_back(HubOutput::Shards(shards, event));
        }
    }

    pub(super) fn refresh(&mut self, shard: ShardId, subject: &Subject) {
        if self.holds_refresh(shard, subject) {
            return;
        }
        if self.entries.get(subject).is_some_and(|entry| entry.shards.contains(shard)) {
            self.send_table(subject, ShardSet::only(shard));
        }
    }

    /// Takes out of the tables what has outlived its last event.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        while let Some((_, channel)) = pop_due(&mut self.sweeps, now_ms) {
            let key = SubjectRef::channel(&channel);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let Some(table) = entry.source.table_mut() else { continue };
            uncount(&mut self.stats, table);
            let keys = table.expire(now_ms);
            count(&mut self.stats, table);
            table.sweep_at_ms = now_ms + table.sweep_every_ms();
            self.sweeps.insert((table.sweep_at_ms, channel.clone()));
            self.send_expired(&channel, keys);
        }
    }
}

/// After so many doublings a pause is the longest.
const MAX_DOUBLINGS: u32 = 16;

/// How long to wait before a table is read that was read so often in a row: somewhere in the upper half of the pause, by
/// `spread`, so that nodes do not read it in step.
fn pause_ms(reads: u32, spread: u64) -> u64 {
    let Some(doublings) = reads.checked_sub(2) else { return 0 };
    // More doublings would shift all of it out.
    let pause = (FIRST_PAUSE_MS << doublings.min(MAX_DOUBLINGS)).min(LONGEST_PAUSE_MS);
    pause / 2 + spread % (pause / 2)
}

pub(super) fn count(stats: &mut HubStats, table: &Table) {
    stats.entities += table.len();
    stats.entity_bytes += table.bytes();
}

pub(super) fn uncount(stats: &mut HubStats, table: &Table) {
    stats.entities -= table.len();
    stats.entity_bytes -= table.bytes();
}

/// Puts a live event into a table, and counts; returns what became of it, and which entities are gone before it.
pub(super) fn put(
    stats: &mut HubStats,
    table: &mut Table,
    now_ms: u64,
    publication: &Arc<Publication>,
) -> (ApplyOutcome, Vec<Arc<str>>) {
    let mut gone = Vec::new();
    uncount(stats, table);
    let outcome = table.apply(now_ms, publication, &mut gone);
    count(stats, table);
    (outcome, gone)
}

/// Finds an event's key, and on an entity channel what it does to which entity.
pub(super) fn read_entity(
    class: &Class,
    payload: &mut Payload<'_>,
) -> Result<Option<EntityChange>, BadEntity> {
    if class.key.is_none() && class.entity.is_none() {
        return Ok(None);
    }
    let (key, position) = class.entity_of(payload);
    let position = position.map_err(|_| BadEntity::Position);
    let key = key.ok().flatten();
    let is_named = key.is_some();
    if let Some(key) = key {
        payload.set_key(key);
    }
    match () {
        () if class.entity.is_none() => Ok(None),
        () if !is_named => Err(BadEntity::Key),
        () if payload.name() == REMOVE_EVENT => Ok(Some(EntityChange::Remove)),
        () => Ok(Some(EntityChange::Set { position: position? })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_bounded_however_often_a_table_was_read_in_a_row() {
        for reads in (0..200).chain([u32::MAX - 1, u32::MAX]) {
            for spread in [0, 1, u64::MAX] {
                let pause = pause_ms(reads, spread);
                assert!(pause < LONGEST_PAUSE_MS, "{reads} {spread}: {pause}");
                assert_eq!(pause == 0, reads < 2, "{reads} {spread}");
                assert!(reads < 64 || pause >= LONGEST_PAUSE_MS / 2, "{reads} {spread}: {pause}");
            }
        }
    }
}
