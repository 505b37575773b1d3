//! The entities that one table holds, and the bytes that they take together.

use std::sync::Arc;

use crate::io::Publication;
use crate::keyed_slab::{Keyed, KeyedSlab};

/// One entity.
#[derive(Debug)]
pub(super) struct Row {
    /// Its last event, which has its key.
    pub(super) publication: Arc<Publication>,
    pub(super) updated_ms: u64,
    /// Which change of the stored table it is.
    pub(super) seq: u64,
    /// The stored table has this entity too, as far as is known.
    pub(super) stored: bool,
}

impl Keyed for Row {
    fn key(&self) -> &str {
        self.publication.event.key().unwrap_or_default()
    }
}

/// What an entity takes: its key and what its last event says. Never more than the stored table counts for it, so that
/// what has room there has room here.
pub(super) fn weight(publication: &Publication) -> usize {
    let event = &publication.event;
    let said = [Some(event.name()), Some(event.data_json()), event.from(), event.tags_json(), event.key()];
    said.into_iter().flatten().map(str::len).sum::<usize>()
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: KeyedSlab<Row>,
    bytes: usize,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many more are inserted next.
    pub(super) fn reserve(&mut self, more: usize) {
        self.rows.reserve(more);
    }

    pub(super) fn get(&self, key: &str) -> Option<&Row> {
        self.rows.find(key).map(|id| &self.rows[id])
    }

    /// What the table says of an entity changes, and its event stays.
    pub(super) fn mark_stored(&mut self, key: &str) -> Option<u64> {
        let row = self.rows.find(key).map(|id| &mut self.rows[id])?;
        row.stored = true;
        Some(row.seq)
    }

    pub(super) fn insert(&mut self, row: Row) {
        self.bytes += weight(&row.publication);
        match self.rows.find(row.key()) {
            Some(id) => {
                let before = std::mem::replace(&mut self.rows[id], row);
                self.bytes -= weight(&before.publication);
            }
            None => {
                self.rows.insert(row);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Row> {
        let (_, row) = self.rows.remove(key)?;
        self.bytes -= weight(&row.publication);
        Some(row)
    }

    /// Keeps those for which `keeps` says so; it may change all but the event.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&mut Row) -> bool) {
        let bytes = &mut self.bytes;
        self.rows.retain(|row| {
            let stays = keeps(row);
            if !stays {
                *bytes -= weight(&row.publication);
            }
            stays
        });
    }

    pub(super) fn clear(&mut self) {
        *self = Rows::default();
    }

    /// All of them, in an order that follows from what was inserted and removed.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.rows.iter().map(|(_, row)| row)
    }
}
