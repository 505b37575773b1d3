//! A Redis in virtual time: Pub/Sub on any number of links, tables of entity channels as the server's functions
//! write them, and players' view overrides. What it has sent on a link and the node has not read waits in order, so that a
//! break loses it. A table is read part by part while it changes. Logs are in [`logs`]; where it is a Cluster, its masters in
//! [`masters`].

pub mod logs;
pub mod masters;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{
    Commit, PlayerAction, PlayerCommand, PlayerOverrides, PublishFailure, Subject, Ticket,
};
use drawbridge_engine::upstream::{LinkCommand, StoredEntity, StoredTable};
use drawbridge_protocol::glob::glob_matches;

use crate::presence::PresenceStore;
use logs::Logs;
use masters::{Masters, ServerId};

/// The channel on which nodes are notified of player commands; each link of a node subscribes to it.
pub const NODES_CHANNEL: &str = "drawbridge:nodes";

/// What a link reads.
#[derive(Clone, Debug)]
pub enum Push {
    Subscribed(Subject),
    Unsubscribed(Subject),
    Refused(Subject),
    /// The slot is another master's, or on its way to one.
    Elsewhere(Subject),
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
    /// On [`NODES_CHANNEL`].
    Command(PlayerCommand),
    /// The answer to a shard that waits for all that was published before.
    Fence {
        shard: usize,
        ticket: Ticket,
        channel: Arc<str>,
    },
}

/// One link, as Redis knows it.
#[derive(Debug, Default)]
pub struct Link {
    pub up: bool,
    /// In a Cluster, of the link of a master: where it leads.
    pub server: Option<ServerId>,
    subscriptions: Vec<Subject>,
    /// What the link of a master has sent and its server has not executed.
    requests: VecDeque<LinkCommand>,
    pub unread: VecDeque<Push>,
    /// What the node has read of confirmations: that these channels are subscribed to.
    confirmed: BTreeSet<Subject>,
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

/// See the module.
#[derive(Debug, Default)]
pub struct Redis {
    pub links: Vec<Link>,
    tables: BTreeMap<Arc<str>, Table>,
    pub logs: Logs,
    pub masters: Masters,
    views: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>,
    pub presence: PresenceStore,
    epochs: u64,
}

impl Link {
    fn subscribe(&mut self, subject: Subject, is_refused: bool) {
        assert!(!self.subscriptions.contains(&subject), "a second subscription to {subject:?}");
        if is_refused {
            return self.unread.push_back(Push::Refused(subject));
        }
        self.subscriptions.push(subject.clone());
        self.unread.push_back(Push::Subscribed(subject));
    }

    fn unsubscribe(&mut self, subject: Subject) {
        self.subscriptions.retain(|other| *other != subject);
        self.unread.push_back(Push::Unsubscribed(subject));
    }

    /// One copy for each subscription that matches, that of the exact channel first.
    fn send(&mut self, channel: &Arc<str>, payload: &Bytes) {
        let matches = |subject: &&Subject| match subject.is_pattern() {
            true => glob_matches(&subject.name, channel),
            false => subject.name == *channel,
        };
        let subjects = self.subscriptions.iter().filter(matches);
        let (exact, patterns): (Vec<_>, Vec<_>) = subjects.partition(|subject| !subject.is_pattern());
        for subject in exact.into_iter().chain(patterns) {
            self.unread.push_back(Push::Message {
                pattern: subject.is_pattern().then(|| subject.name.clone()),
                channel: channel.clone(),
                payload: payload.clone(),
            });
        }
    }

    /// The next of what the node reads.
    pub fn read(&mut self) -> Option<Push> {
        let push = self.unread.pop_front()?;
        match &push {
            Push::Subscribed(subject) => drop(self.confirmed.insert(subject.clone())),
            Push::Unsubscribed(subject) => drop(self.confirmed.remove(subject)),
            _ => {}
        }
        Some(push)
    }

    /// Whether the node knows that this channel is subscribed to.
    pub fn is_confirmed(&self, subject: &Subject) -> bool {
        self.confirmed.contains(subject)
    }

    fn patterns(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().filter(|subject| subject.is_pattern()).map(|subject| &*subject.name)
    }
}

impl Redis {
    /// With so many links, none of which is up.
    pub fn new(links: usize) -> Self {
        Redis { links: (0..links).map(|_| Link::default()).collect(), ..Redis::default() }
    }

    /// Does what a link is sent. `refuses`: whether its ACL forbids a subscription.
    pub fn command(&mut self, link: usize, command: LinkCommand, mut refuses: impl FnMut(&Subject) -> bool) {
        let link = &mut self.links[link];
        match command {
            _ if !link.up => {}
            command if link.server.is_some() => link.requests.push_back(command),
            LinkCommand::Subscribe(subjects) => {
                for subject in subjects {
                    let is_refused = refuses(&subject);
                    link.subscribe(subject, is_refused);
                }
            }
            LinkCommand::Unsubscribe(subjects) => {
                subjects.into_iter().for_each(|subject| link.unsubscribe(subject));
            }
            LinkCommand::Mark(marker) => self.publish(&marker, &Bytes::new()),
        }
    }

    /// To all who are subscribed now, on all links at once.
    pub fn publish(&mut self, channel: &Arc<str>, payload: &Bytes) {
        self.links.iter_mut().for_each(|link| link.send(channel, payload));
    }

    /// The link breaks. Returns what it had not read yet.
    pub fn cut(&mut self, link: usize) -> VecDeque<Push> {
        std::mem::take(&mut self.links[link]).unread
    }

    /// How many there are on all links.
    pub fn subscriptions(&self) -> usize {
        self.links.iter().map(|link| link.subscriptions.len()).sum()
    }

    /// Once all is quiet no pattern that Redis holds is under another one.
    pub fn check_covers(&self) {
        for link in &self.links {
            let is_under = |pattern: &str, other: &str| {
                pattern != other && pattern.starts_with(other.trim_end_matches('*'))
            };
            let double =
                link.patterns().find(|pattern| link.patterns().any(|other| is_under(pattern, other)));
            assert_eq!(double, None, "it is under another one: {:?}", link.subscriptions);
        }
    }

    /// Writes an event into its channel's table; returns what is then to be published.
    ///
    /// # Errors
    /// If the table is full.
    pub fn commit(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        commit: &Commit,
    ) -> Result<Bytes, PublishFailure> {
        self.expire(now_ms);
        let table = self.tables.entry(channel.clone()).or_insert_with(|| {
            self.epochs += 1;
            let epoch = format!("t{}", self.epochs);
            Table { epoch, seq: 0, rows: BTreeMap::new(), updated_ms: now_ms, ttl_ms: commit.ttl_ms }
        });
        if !commit.remove && !table.rows.contains_key(&commit.key) && table.rows.len() >= commit.max {
            table.rows.retain(|_, row| now_ms < row.updated_ms + commit.ttl_ms);
            if table.rows.len() >= commit.max {
                return Err(PublishFailure::LimitExceeded);
            }
        }
        table.seq += 1;
        table.updated_ms = now_ms;
        let object = commit.payload.strip_suffix(b"}").expect("an object");
        let id = format!(r#","id":"{}@{}.{}"}}"#, commit.id, table.epoch, table.seq);
        let payload = Bytes::from([object, id.as_bytes()].concat());
        match commit.remove {
            true => drop(table.rows.remove(&commit.key)),
            false => {
                let row = Row { updated_ms: now_ms, payload: payload.clone() };
                table.rows.insert(commit.key.clone(), row);
            }
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

    /// Tables that nothing has been written to for as long as an entity lives.
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

    /// A service commands something about a player: every node that listens is notified. View overrides are stored, too.
    pub fn command_player(&mut self, command: &PlayerCommand) {
        let listens =
            |link: &&mut Link| link.subscriptions.iter().any(|subject| *subject.name == *NODES_CHANNEL);
        for link in self.links.iter_mut().filter(listens) {
            link.unread.push_back(Push::Command(command.clone()));
        }
        if let PlayerAction::View { channel, view } = &command.action {
            let views = self.views.entry(command.player.clone()).or_default();
            match view {
                Some(view) => views.insert(channel.clone(), view.clone()),
                None => views.remove(channel),
            };
        }
    }

    /// The view overrides of a player.
    pub fn views(&self, player: &str) -> PlayerOverrides {
        let views = self.views.get(player).into_iter().flatten();
        views.map(|(channel, view)| (channel.clone(), view.clone())).collect::<Vec<_>>().into()
    }
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
