//! What the memory broker keeps in place of Redis: tables of entity channels and players' views. It does what the
//! functions of `redis/functions` do, and publishes what they would.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use drawbridge_engine::io::{Commit, PlayerOverrides, PublishFailure};
use drawbridge_engine::upstream::{StoredEntity, StoredTable};
use hashbrown::HashMap;

use crate::broker::jobs::open_object;

/// How many views a player has at most.
const MAX_VIEWS: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Store {
    tables: HashMap<Arc<str>, Table>,
    views: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>,
    epochs: u64,
}

#[derive(Debug)]
struct Table {
    epoch: String,
    seq: u64,
    /// When each was heard, in milliseconds, and what was published.
    entities: HashMap<Arc<str>, (u64, Bytes)>,
    /// What the keys and events take.
    bytes: usize,
    updated_ms: u64,
    ttl_ms: u64,
}

impl Table {
    fn bytes_of(&self, key: &Arc<str>) -> usize {
        self.entities.get(key).map_or(0, |(_, payload)| key.len() + payload.len())
    }

    fn has_room(&self, commit: &Commit, payload: &Bytes) -> bool {
        let before = self.bytes_of(&commit.key);
        let now = commit.key.len() + payload.len();
        let is_new = !self.entities.contains_key(&commit.key);
        (!is_new || self.entities.len() < commit.max)
            && (now <= before || self.bytes - before + now <= commit.max_bytes)
    }

    /// Takes out what has expired.
    fn purge(&mut self, now_ms: u64, ttl_ms: u64) {
        self.entities.retain(|_, (updated_ms, _)| now_ms < *updated_ms + ttl_ms);
        self.bytes = self.entities.iter().map(|(key, (_, payload))| key.len() + payload.len()).sum();
    }
}

impl Store {
    /// Writes an event into its channel's table; returns what is published.
    pub(super) fn commit(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        commit: &Commit,
    ) -> Result<Bytes, PublishFailure> {
        self.expire(now_ms);
        if !self.tables.contains_key(channel) {
            self.epochs += 1;
            let table = Table {
                epoch: format!("m{}", self.epochs),
                seq: 0,
                entities: HashMap::new(),
                bytes: 0,
                updated_ms: now_ms,
                ttl_ms: commit.ttl_ms,
            };
            self.tables.insert(channel.clone(), table);
        }
        let Some(table) = self.tables.get_mut(channel) else { return Err(PublishFailure::NotDone) };
        let mut payload = BytesMut::from(open_object(&commit.payload));
        let id = serde_json::Value::from(format!("{}@{}.{}", commit.id, table.epoch, table.seq + 1));
        payload.put_slice(format!(",\"id\":{id}}}").as_bytes());
        let payload = payload.freeze();
        if !commit.remove && !table.has_room(commit, &payload) {
            table.purge(now_ms, commit.ttl_ms);
            if !table.has_room(commit, &payload) {
                return Err(PublishFailure::LimitExceeded);
            }
        }
        table.seq += 1;
        (table.updated_ms, table.ttl_ms) = (now_ms, commit.ttl_ms);
        table.bytes -= table.bytes_of(&commit.key);
        if commit.remove {
            table.entities.remove(&commit.key);
        } else {
            table.bytes += commit.key.len() + payload.len();
            table.entities.insert(commit.key.clone(), (now_ms, payload.clone()));
        }
        Ok(payload)
    }

    /// The table of a channel as it is.
    pub(super) fn table(&mut self, now_ms: u64, channel: &str) -> StoredTable {
        self.expire(now_ms);
        let Some(table) = self.tables.get(channel) else { return StoredTable::default() };
        let entity = |(key, (updated_ms, payload)): (&Arc<str>, &(u64, Bytes))| StoredEntity {
            key: key.to_string(),
            age_ms: now_ms.saturating_sub(*updated_ms),
            payload: payload.clone(),
        };
        StoredTable {
            epoch: table.epoch.clone(),
            seq: table.seq,
            last_seq: table.seq,
            unreadable: 0,
            entities: table.entities.iter().map(entity).collect(),
        }
    }

    /// Tables that nobody has written to for as long as an entity lives.
    fn expire(&mut self, now_ms: u64) {
        self.tables.retain(|_, table| now_ms < table.updated_ms + table.ttl_ms);
    }

    /// Keeps a player's view of a channel, or no longer.
    pub(super) fn set_view(
        &mut self,
        player: &Arc<str>,
        channel: &Arc<str>,
        view: Option<&Arc<str>>,
    ) -> Result<bool, PublishFailure> {
        let views = self.views.entry(player.clone()).or_default();
        let is_new = views.get(channel) != view;
        match view {
            Some(_) if views.len() >= MAX_VIEWS && !views.contains_key(channel) => {
                return Err(PublishFailure::LimitExceeded);
            }
            Some(view) => {
                views.insert(channel.clone(), view.clone());
            }
            None => {
                views.remove(channel);
            }
        }
        if views.is_empty() {
            self.views.remove(player);
        }
        Ok(is_new)
    }

    /// A player's views.
    pub(super) fn views(&self, player: &str) -> PlayerOverrides {
        let views = self.views.get(player).into_iter().flatten();
        views.map(|(channel, view)| (channel.clone(), view.clone())).collect::<Vec<_>>().into()
    }
}
