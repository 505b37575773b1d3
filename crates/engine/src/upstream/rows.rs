//! The entities that one table holds, and the bytes that they take together.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::io::Publication;

/// One entity.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) publication: Arc<Publication>,
    pub(super) updated_ms: u64,
    /// Which change of the stored table it is.
    pub(super) seq: u64,
    /// The stored table has this entity too, as far as is known.
    pub(super) stored: bool,
}

/// What an entity takes: its key and what its last event says. Never more than the stored table counts for it, so that
/// what has room there has room here.
pub(super) fn weight(key: &str, publication: &Publication) -> usize {
    let event = &publication.event;
    let said = [Some(event.name()), Some(event.data_json()), event.from(), event.tags_json()];
    said.into_iter().flatten().map(str::len).sum::<usize>() + key.len()
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rows {
    by_key: HashMap<Arc<str>, Row>,
    bytes: usize,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, key: &str) -> Option<&Row> {
        self.by_key.get(key)
    }

    /// What the table says of an entity changes, and its event stays.
    pub(super) fn mark_stored(&mut self, key: &str) -> Option<u64> {
        self.by_key.get_mut(key).map(|row| {
            row.stored = true;
            row.seq
        })
    }

    pub(super) fn insert(&mut self, key: Arc<str>, row: Row) {
        self.bytes += weight(&key, &row.publication);
        if let Some(before) = self.by_key.get_mut(&key) {
            self.bytes -= weight(&key, &before.publication);
            *before = row;
        } else {
            self.by_key.insert(key, row);
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Row> {
        let row = self.by_key.remove(key)?;
        self.bytes -= weight(key, &row.publication);
        Some(row)
    }

    /// Keeps those for which `keeps` says so; it may change all but the event.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&Arc<str>, &mut Row) -> bool) {
        let bytes = &mut self.bytes;
        self.by_key.retain(|key, row| {
            let stays = keeps(key, row);
            if !stays {
                *bytes -= weight(key, &row.publication);
            }
            stays
        });
    }

    pub(super) fn clear(&mut self) {
        *self = Rows::default();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Row)> {
        self.by_key.iter()
    }
}
