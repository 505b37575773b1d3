//! The table of one entity channel as its node knows it: the last event of each entity, put together from what is
//! stored and what came live meanwhile. When it is read and who is told is left to [`super::tables`].
//!
//! Events that came by the stored table carry its version: [`super::merge`] says what becomes of each, so that none is
//! missing. What a plain `PUBLISH` says has no version and counts as it comes.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::merge::{Fate, Merge};
use super::rows::{Row, Rows, weight};
use crate::class::EntityRules;
use crate::io::{EntityChange, Publication, Version};
use crate::keyed_slab::Keyed;

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    merge: Merge<String, u64>,
    entities: Rows,
    max: usize,
    max_bytes: usize,
    ttl_ms: u64,
    /// Entities that were ended since the table was read, while what it had of them may still come.
    ended: HashSet<Arc<str>>,
    /// While the stored table is being read.
    loading: Option<Loading>,
    /// When the table is next looked through for what has expired; 0: not live.
    pub(super) sweep_at_ms: u64,
    /// How often it was read again since it last was live for a while, and when it was read last.
    pub(super) reads: u32,
    pub(super) read_at_ms: u64,
}

/// What goes on while the stored table is being read.
#[derive(Debug, Default)]
struct Loading {
    load: u64,
    /// Entities that ended meanwhile, and with which change.
    removed: HashMap<Arc<str>, u64>,
}

/// The change of an event without a version: newer than all that is stored.
const UNVERSIONED: u64 = u64::MAX;

/// What became of a live event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApplyOutcome {
    /// It changed the table.
    Changed,
    /// The table knows it already, or it ends what is not there.
    Known,
    /// There is no room: for a new key, or for its bytes.
    Full,
    /// Changes are missing before it.
    Gap,
}

impl Table {
    pub(super) fn new(rules: &EntityRules) -> Self {
        Table {
            merge: Merge::new(),
            entities: Rows::default(),
            max: rules.max,
            max_bytes: rules.max_bytes,
            ttl_ms: rules.ttl_ms,
            ended: HashSet::new(),
            loading: None,
            sweep_at_ms: 0,
            reads: 0,
            read_at_ms: 0,
        }
    }

    /// What its entities take together.
    pub(super) fn bytes(&self) -> usize {
        self.entities.bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.entities.len()
    }

    /// How often it is looked through for what has expired.
    pub(super) fn sweep_every_ms(&self) -> u64 {
        (self.ttl_ms / 8).clamp(50, 5_000)
    }

    /// Forgets all; [`Table::finish`] with the same number fills it.
    pub(super) fn begin(&mut self, load: u64) {
        self.entities.clear();
        self.ended.clear();
        self.merge.begin();
        self.loading = Some(Loading { load, ..Loading::default() });
        self.sweep_at_ms = 0;
    }

    /// Which load it waits for.
    pub(super) fn load(&self) -> Option<u64> {
        self.loading.as_ref().map(|loading| loading.load)
    }

    /// Whether this load is the one that it waits for.
    pub(super) fn awaits(&self, load: u64) -> bool {
        self.load() == Some(load)
    }

    /// Takes in a live event. `gone` gets the entities that are not there any more before it.
    pub(super) fn apply(
        &mut self,
        now_ms: u64,
        publication: &Arc<Publication>,
        gone: &mut Vec<Arc<str>>,
    ) -> ApplyOutcome {
        let Some(key) = publication.event.key() else { return ApplyOutcome::Known };
        let version = publication.event.server_id().and_then(Version::of_id);
        let fate = version.map(|version| self.merge.live(version.epoch, version.seq));
        if fate == Some(Fate::Begins) {
            *gone = self.begin_anew(now_ms, key);
        }
        let row = self.entities.get(key).map(|row| row.seq);
        let mut late = version.is_none();
        match (fate, version) {
            // The stored table was lost with all that it held.
            (Some(Fate::Buffered { other_life: true }), _) => {
                self.entities.retain(|row| row.seq == UNVERSIONED);
                if let Some(loading) = &mut self.loading {
                    loading.removed.retain(|_, seq| *seq == UNVERSIONED);
                }
            }
            (Some(Fate::Buffered { other_life: false }), _) => {}
            (Some(Fate::Gap), _) => return ApplyOutcome::Gap,
            // It was read with the table, and is news only to what a plain event has changed since.
            (Some(Fate::Known), version) => {
                late = true;
                let seq = version.map_or(0, |version| version.seq);
                let is_newer = match row {
                    Some(row) => row == UNVERSIONED || row < seq,
                    None => self.ended.remove(key),
                };
                if !is_newer {
                    return ApplyOutcome::Known;
                }
            }
            (Some(Fate::Next | Fate::Begins), version) => {
                self.ended.clear();
                // Its row was read later than the table's version, with this change or one behind it.
                let seq = version.map_or(0, |version| version.seq);
                if row.is_some_and(|row| row != UNVERSIONED && row >= seq) {
                    return ApplyOutcome::Known;
                }
            }
            // It was said before the change that the row holds, which is still to come.
            (None, _) if self.loading.is_none() && self.is_ahead(row) => return ApplyOutcome::Known,
            (None, _) => {}
        }
        let seq = version.map_or(UNVERSIONED, |version| version.seq);
        if publication.entity == Some(EntityChange::Remove) {
            if let Some(loading) = &mut self.loading {
                loading.removed.insert(key.into(), seq);
            }
            let Some(row) = self.entities.remove(key) else { return ApplyOutcome::Known };
            if late && row.stored && self.loading.is_none() {
                self.ended.insert(key.into());
            }
            return ApplyOutcome::Changed;
        }
        let before = self.entities.get(key);
        let stored = version.is_some() || before.is_some_and(|row| row.stored);
        let is_new = before.is_none();
        let grows = weight(publication).saturating_sub(before.map_or(0, |row| weight(&row.publication)));
        // While the stored table is being read it is not known which keys are new.
        let slack = if self.loading.is_some() { 2 } else { 1 };
        if version.is_none() && self.lacks_room(slack, is_new, grows) {
            return ApplyOutcome::Full;
        }
        // The stored table had room for it.
        gone.extend(self.make_room(now_ms, key, is_new, grows));
        let row = Row { publication: publication.clone(), updated_ms: now_ms, seq, stored };
        self.entities.insert(row);
        ApplyOutcome::Changed
    }

    /// The stored table begins with an event of this entity, because it was not there yet, or had expired or been lost with
    /// all that it held: nothing is missing, but that is gone. Returns the keys, in order. What a plain event referred to
    /// last stays for its time, and so does the event's own entity, which it tells of.
    fn begin_anew(&mut self, now_ms: u64, own: &str) -> Vec<Arc<str>> {
        self.ended.clear();
        let mut gone = self.expire(now_ms);
        self.entities.retain(|row| {
            row.stored = false;
            if row.seq == UNVERSIONED {
                return true;
            }
            row.seq = 0;
            let stays = row.key() == own;
            if !stays {
                gone.push(row.key().into());
            }
            stays
        });
        gone.sort_unstable();
        gone
    }

    /// Whether an entity's row was read later than the table's version.
    fn is_ahead(&self, row: Option<u64>) -> bool {
        row.is_some_and(|row| row != UNVERSIONED && row > self.merge.seq().unwrap_or(0))
    }

    /// Whether an event that grows the table by so many bytes, and by an entity where that is new, passes `times` the
    /// bounds. Rows that were read one after the other, what has expired in the stored table and is not looked through
    /// here yet, and what plain events add may be more than the stored table ever held.
    fn lacks_room(&self, times: usize, is_new: bool, grows: usize) -> bool {
        (is_new && self.entities.len() >= self.max.saturating_mul(times))
            || (grows > 0 && self.entities.bytes() + grows > self.max_bytes.saturating_mul(times))
    }

    /// Takes out what has expired, or else entities that the stored table does not have: what only a plain event
    /// referred to, or what must have expired there. Never the event's own.
    fn make_room(&mut self, now_ms: u64, own: &str, is_new: bool, grows: usize) -> Vec<Arc<str>> {
        if !self.lacks_room(2, is_new, grows) {
            return Vec::new();
        }
        let mut gone = self.expire(now_ms);
        gone.retain(|key| **key != *own);
        while self.lacks_room(2, is_new, grows) {
            let others = self.entities.iter().filter(|row| row.key() != own);
            let oldest = others.min_by_key(|row| (row.stored, row.updated_ms, row.key()));
            let Some(key) = oldest.map(|row| Arc::<str>::from(row.key())) else { break };
            self.entities.remove(&key);
            gone.push(key);
        }
        gone
    }

    /// So many stored entities are taken in next.
    pub(super) fn expect_stored(&mut self, count: usize) {
        self.entities.reserve(count);
    }

    /// Takes in a stored entity, which this change of the stored table has left, unless something newer came live.
    pub(super) fn apply_stored(&mut self, now_ms: u64, age_ms: u64, seq: u64, publication: Arc<Publication>) {
        let Some(key) = publication.event.key().filter(|_| age_ms < self.ttl_ms) else { return };
        let ended = self.loading.as_ref().and_then(|loading| loading.removed.get(key)).copied();
        let row = self.entities.mark_stored(key);
        if row.is_none() && ended == Some(UNVERSIONED) {
            self.ended.insert(key.into());
            return;
        }
        let newer = row.max(ended);
        // No plain event takes a stored entity's room.
        let is_full = newer.is_none() && self.lacks_room(3, true, weight(&publication));
        if newer.is_some_and(|newer| newer >= seq) || is_full {
            return;
        }
        let updated_ms = now_ms.saturating_sub(age_ms);
        self.entities.insert(Row { publication, updated_ms, seq, stored: true });
    }

    /// All that is stored was taken in, as of this version; returns whether it fits what came live meanwhile. `holds`: where
    /// it does not, what is stored counts all the same, and nothing of another life stays.
    pub(super) fn finish(&mut self, epoch: &str, seq: u64, holds: bool) -> bool {
        self.loading = None;
        let stored = (!epoch.is_empty()).then(|| (epoch.to_owned(), seq));
        if !self.merge.finish(stored, holds) {
            return false;
        }
        let life = self.merge.life();
        self.entities.retain(|row| {
            let version = row.publication.event.server_id().and_then(Version::of_id);
            version.is_none_or(|version| life.is_some_and(|life| version.epoch == life))
        });
        true
    }

    /// Takes out what has outlived its last event; the keys in order.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<Arc<str>> {
        let ttl_ms = self.ttl_ms;
        let mut expired: Vec<Arc<str>> = Vec::new();
        self.entities.retain(|row| {
            let alive = now_ms < row.updated_ms.saturating_add(ttl_ms);
            if !alive {
                expired.push(row.key().into());
            }
            alive
        });
        expired.sort_unstable();
        expired
    }

    /// The last event of each entity.
    pub(super) fn all(&self) -> Arc<[Arc<Publication>]> {
        self.entities.iter().map(|row| row.publication.clone()).collect()
    }
}
