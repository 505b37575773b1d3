//! An entity channel's table as it is stored, and as its channel's class reads it. Whoever fetches a table reads it, part by
//! part, so that no event waits for a large one; what becomes of the rows is up to [`super::tables`].

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_protocol::event::{Event, Payload};

use super::tables::read_entity;
use crate::class::{Class, Classes};
use crate::io::{LocalOffset, Publication};

/// An entity channel's table as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredTable {
    /// Names the table's life; empty where there is none.
    pub epoch: String,
    /// How many changes it had seen before its entities were read.
    pub seq: u64,
    /// How many it had seen behind that: no entity is of a later change.
    pub last_seq: u64,
    /// Its entities.
    pub entities: Vec<StoredEntity>,
    /// How many of its fields are no entities that could be read.
    pub unreadable: usize,
}

/// One entity as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntity {
    /// Its key.
    pub key: String,
    /// How long ago its last event came, in milliseconds.
    pub age_ms: u64,
    /// The last event: what was published.
    pub payload: Bytes,
}

/// An entity channel's table as its class reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedTable {
    /// As [`StoredTable::epoch`].
    pub epoch: String,
    /// As [`StoredTable::seq`].
    pub seq: u64,
    /// As [`StoredTable::last_seq`].
    pub last_seq: u64,
    /// Its entities.
    pub rows: Vec<LoadedRow>,
    /// As [`StoredTable::unreadable`].
    pub unreadable: usize,
}

/// One entity of a [`LoadedTable`].
#[derive(Clone, Debug)]
pub struct LoadedRow {
    /// How long ago its last event came, in milliseconds.
    pub age_ms: u64,
    /// The last event, which has the entity's key.
    pub publication: Arc<Publication>,
}

/// Two are equal if they hold the same event, which is compared by its message.
impl PartialEq for LoadedRow {
    fn eq(&self, other: &Self) -> bool {
        let (event, others) = (&self.publication.event, &other.publication.event);
        self.age_ms == other.age_ms && event.json() == others.json()
    }
}

impl Eq for LoadedRow {}

impl LoadedTable {
    /// All of a table at once.
    pub fn read(classes: &Classes, channel: &Arc<str>, stored: StoredTable) -> Self {
        let StoredTable { epoch, seq, last_seq, entities, unreadable } = stored;
        let mut table = LoadedTable { epoch, seq, last_seq, rows: Vec::new(), unreadable };
        let class = classes.class_of(channel).map(|(_, class)| class);
        entities.iter().for_each(|entity| table.add(class, channel, entity));
        table.sort();
        table
    }

    /// Puts the entities in the order of their keys, in which they are sent; behind the last [`LoadedTable::add`].
    pub fn sort(&mut self) {
        self.rows.sort_unstable_by(|a, b| a.publication.event.key().cmp(&b.publication.event.key()));
    }

    /// Reads one more entity, by the channel's class. One of which the class takes nothing is left out, and all without a class.
    pub fn add(&mut self, class: Option<&Class>, channel: &Arc<str>, entity: &StoredEntity) {
        let Some(class) = class else { return };
        let Ok(mut payload) = Payload::read(&entity.payload, class.payload) else { return };
        let Ok(Some(change)) = read_entity(class, &mut payload) else { return };
        let event = Event::new(&payload, channel, None);
        // By the key that its class of now says, as events are: the row may have been written under another one.
        if event.key().is_some() {
            let publication = Publication::with_entity(channel.clone(), event, LocalOffset(0), Some(change));
            self.rows.push(LoadedRow { age_ms: entity.age_ms, publication: Arc::new(publication) });
        }
    }
}
