//! A Redis with Pub/Sub, tables of entity channels as the server's functions write them, and players' views. A table
//! may be read row by row while it changes.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{
    Commit, PlayerAction, PlayerCommand, PlayerOverrides, PublishFailure, Subject, Ticket,
};
use drawbridge_engine::upstream::{LinkCommand, StoredEntity, StoredTable};
use drawbridge_protocol::glob::glob_matches;

/// The channel on which nodes are notified of player commands; the node itself subscribes to it.
pub const NODES_CHANNEL: &str = "drawbridge:nodes";

/// What a link reads.
#[derive(Clone, Debug)]
pub enum Push {
    Subscribed(Subject),
    Unsubscribed(Subject),
    Message {
        pattern: Option<Arc<str>>,
        channel: Arc<str>,
        payload: Bytes,
    },
    /// The answer to what was sent when a table had been read: behind all that was published before.
    Loaded {
        channel: Arc<str>,
        load: u64,
        table: StoredTable,
    },
    /// On the channel of the nodes.
    Command(PlayerCommand),
    /// The answer to a shard that waits for all that was published before.
    Fence {
        shard: usize,
        ticket: Ticket,
        channel: Arc<str>,
    },
}

#[derive(Debug, Default)]
pub struct Link {
    pub up: bool,
    subscriptions: Vec<Subject>,
    pub unread: VecDeque<Push>,
}

#[derive(Debug)]
struct Row {
    updated_ms: u64,
    payload: Bytes,
}

#[derive(Debug)]
struct Table {
    epoch: String,
    seq: u64,
    rows: BTreeMap<Arc<str>, Row>,
    updated_ms: u64,
    ttl_ms: u64,
}

/// A table that is being read.
#[derive(Debug)]
pub struct Scan {
    pub channel: Arc<str>,
    pub load: u64,
    now_ms: u64,
    read: StoredTable,
    salt: u64,
    /// How many parts have been read; `None`: not even the version.
    part: Option<u64>,
}

/// In how many parts the rows of a table are read.
const PARTS: u64 = 3;

#[derive(Debug, Default)]
pub struct Redis {
    pub links: Vec<Link>,
    tables: BTreeMap<Arc<str>, Table>,
    views: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>,
    epochs: u64,
}

impl Scan {
    pub fn new(channel: Arc<str>, load: u64, salt: u64) -> Self {
        Scan { channel, load, now_ms: 0, read: StoredTable::default(), salt, part: None }
    }

    /// Rows are read in an order that has nothing to do with their age.
    fn part_of(&self, key: &str) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one((self.salt, key)) % PARTS
    }
}

impl Redis {
    pub fn command(&mut self, link: usize, command: LinkCommand) {
        let link = &mut self.links[link];
        if !link.up {
            return;
        }
        match command {
            LinkCommand::Mark(_) => unreachable!("there is one link"),
            LinkCommand::Subscribe(subjects) => {
                for subject in subjects {
                    assert!(!link.subscriptions.contains(&subject), "a second subscription to {subject:?}");
                    link.subscriptions.push(subject.clone());
                    link.unread.push_back(Push::Subscribed(subject));
                }
            }
            LinkCommand::Unsubscribe(subjects) => {
                for subject in subjects {
                    link.subscriptions.retain(|other| *other != subject);
                    link.unread.push_back(Push::Unsubscribed(subject));
                }
            }
        }
    }

    pub fn publish(&mut self, channel: &Arc<str>, payload: &Bytes) {
        for link in self.links.iter_mut().filter(|link| link.up) {
            let matches = |subject: &Subject| match subject.is_pattern() {
                true => glob_matches(&subject.name, channel),
                false => subject.name == *channel,
            };
            let (exact, patterns): (Vec<_>, Vec<_>) = link
                .subscriptions
                .iter()
                .filter(|subject| matches(subject))
                .partition(|subject| !subject.is_pattern());
            for subject in exact.into_iter().chain(patterns) {
                link.unread.push_back(Push::Message {
                    pattern: subject.is_pattern().then(|| subject.name.clone()),
                    channel: channel.clone(),
                    payload: payload.clone(),
                });
            }
        }
    }

    pub fn connect(&mut self, link: usize) {
        self.links[link].up = true;
    }

    /// Returns what the link had not read yet.
    pub fn cut(&mut self, link: usize) -> VecDeque<Push> {
        std::mem::take(&mut self.links[link]).unread
    }

    pub fn subscriptions(&self) -> usize {
        self.links.iter().map(|link| link.subscriptions.len()).sum()
    }

    /// Writes an event into its channel's table; returns what is then to be published.
    pub fn commit(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        commit: &Commit,
    ) -> Result<Bytes, PublishFailure> {
        self.expire(now_ms);
        if !self.tables.contains_key(channel) {
            self.epochs += 1;
            let table = Table {
                epoch: format!("t{}", self.epochs),
                seq: 0,
                rows: BTreeMap::new(),
                updated_ms: now_ms,
                ttl_ms: commit.ttl_ms,
            };
            self.tables.insert(channel.clone(), table);
        }
        let table = self.tables.get_mut(channel).unwrap();
        if !commit.remove && !table.rows.contains_key(&commit.key) && table.rows.len() >= commit.max {
            table.rows.retain(|_, row| now_ms < row.updated_ms + commit.ttl_ms);
            if table.rows.len() >= commit.max {
                return Err(PublishFailure::LimitExceeded);
            }
        }
        table.seq += 1;
        table.updated_ms = now_ms;
        let object = std::str::from_utf8(&commit.payload).unwrap().strip_suffix('}').unwrap();
        let payload: Bytes =
            format!(r#"{object},"id":"{}@{}.{}"}}"#, commit.id, table.epoch, table.seq).into();
        if commit.remove {
            table.rows.remove(&commit.key);
        } else {
            table.rows.insert(commit.key.clone(), Row { updated_ms: now_ms, payload: payload.clone() });
        }
        Ok(payload)
    }

    /// The payloads of what lives in a table.
    pub fn rows(&self, now_ms: u64, channel: &str) -> BTreeMap<String, Bytes> {
        let Some(table) = self.tables.get(channel) else { return BTreeMap::new() };
        let alive = |row: &&Row| now_ms < row.updated_ms + table.ttl_ms;
        let rows = table.rows.iter().filter(|(_, row)| alive(row));
        rows.map(|(key, row)| (key.to_string(), row.payload.clone())).collect()
    }

    /// Tables that nobody has written to for as long as an entity lives.
    fn expire(&mut self, now_ms: u64) {
        self.tables.retain(|_, table| now_ms < table.updated_ms + table.ttl_ms);
    }

    /// All tables are lost.
    pub fn flush(&mut self) {
        self.tables.clear();
    }

    /// Reads a part of a table; returns all of it with the last.
    pub fn scan(&mut self, now_ms: u64, scan: &mut Scan) -> Option<StoredTable> {
        self.expire(now_ms);
        let table = self.tables.get(&scan.channel);
        let Some(part) = scan.part else {
            (scan.part, scan.now_ms) = (Some(0), now_ms);
            if let Some(table) = table {
                (scan.read.epoch, scan.read.seq) = (table.epoch.clone(), table.seq);
            }
            return None;
        };
        for (key, row) in table.into_iter().flat_map(|table| &table.rows) {
            if scan.part_of(key) == part {
                scan.read.entities.push(StoredEntity {
                    key: key.to_string(),
                    age_ms: scan.now_ms.saturating_sub(row.updated_ms),
                    payload: row.payload.clone(),
                });
            }
        }
        scan.part = Some(part + 1);
        let goes_on = table.filter(|table| table.epoch == scan.read.epoch);
        scan.read.last_seq = goes_on.map_or(u64::MAX, |table| table.seq);
        (part + 1 == PARTS).then(|| std::mem::take(&mut scan.read))
    }

    /// Keeps what a service narrows, and tells the nodes.
    pub fn set_view(&mut self, player: &Arc<str>, channel: &Arc<str>, view: Option<&Arc<str>>) {
        let action = PlayerAction::View { channel: channel.clone(), view: view.cloned() };
        let command = PlayerCommand { player: player.clone(), action };
        let listens = |subject: &Subject| *subject.name == *NODES_CHANNEL;
        for link in self.links.iter_mut().filter(|link| link.subscriptions.iter().any(listens)) {
            link.unread.push_back(Push::Command(command.clone()));
        }
        let views = self.views.entry(player.clone()).or_default();
        match view {
            Some(view) => views.insert(channel.clone(), view.clone()),
            None => views.remove(channel),
        };
    }

    pub fn views(&self, player: &str) -> PlayerOverrides {
        let views = self.views.get(player).into_iter().flatten();
        views.map(|(channel, view)| (channel.clone(), view.clone())).collect::<Vec<_>>().into()
    }
}
