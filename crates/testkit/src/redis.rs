//! A Redis in virtual time: Pub/Sub on any number of links, tables of entity channels and logs as the server's functions
//! write them, and players' view overrides. What it has sent on a link and the node has not read waits in order, so that a
//! break loses it. A table is read part by part while it changes.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{
    Commit, Epoch, LogEntry, LogPosition, LoggedOffset, PlayerAction, PlayerCommand, PlayerOverrides,
    PublishFailure, Subject, Ticket,
};
use drawbridge_engine::upstream::{
    LinkCommand, LogRange, StoredEntity, StoredLog, StoredLogEvent, StoredTable,
};
use drawbridge_protocol::glob::glob_matches;

use crate::presence::PresenceStore;

/// The channel on which nodes are notified of player commands; each link of a node subscribes to it.
pub const NODES_CHANNEL: &str = "drawbridge:nodes";

/// What a link reads.
#[derive(Clone, Debug)]
pub enum Push {
    Subscribed(Subject),
    Unsubscribed(Subject),
    Refused(Subject),
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

/// How many ended epochs a log remembers.
const ENDED_EPOCHS: usize = 8;

/// The log of one channel.
#[derive(Debug)]
struct Log {
    last: LogPosition,
    events: VecDeque<(LoggedOffset, Bytes)>,
    /// The epochs before, each with the offset at which it ended.
    ended: Vec<LogPosition>,
}

impl Log {
    /// Another epoch goes on where this one ends.
    fn roll(&mut self, epoch: Epoch) {
        self.ended.push(self.last);
        let forgotten = self.ended.len().saturating_sub(ENDED_EPOCHS);
        self.ended.drain(..forgotten);
        self.last.epoch = epoch;
    }
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
    logs: BTreeMap<Arc<str>, Log>,
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

    fn log(&mut self, channel: &Arc<str>) -> &mut Log {
        let epochs = &mut self.epochs;
        self.logs.entry(channel.clone()).or_insert_with(|| {
            *epochs += 1;
            let last = LogPosition { epoch: Epoch::new(*epochs), offset: LoggedOffset(0) };
            Log { last, events: VecDeque::new(), ended: Vec::new() }
        })
    }

    /// Appends an event to its channel's log; returns what is then to be published, and where it is.
    pub fn append(&mut self, channel: &Arc<str>, entry: &LogEntry) -> (Bytes, LogPosition) {
        let log = self.log(channel);
        log.last.offset = log.last.offset.next();
        let LogPosition { epoch, offset } = log.last;
        let object = entry.payload.strip_suffix(b"}").expect("an object");
        let place = format!(r#","offset":{},"epoch":"{}","id":"{}"}}"#, offset.0, epoch.as_str(), entry.id);
        let payload = Bytes::from([object, place.as_bytes()].concat());
        log.events.push_back((offset, payload.clone()));
        while log.events.len() as u64 > entry.max_events {
            log.events.pop_front();
        }
        (payload, LogPosition { epoch, offset })
    }

    /// Whether a log was begun.
    pub fn has_log(&self, channel: &str) -> bool {
        self.logs.contains_key(channel)
    }

    /// Reads a part of a log, which begins by this if there is none.
    pub fn read_log(&mut self, channel: &Arc<str>, range: LogRange, limit: usize) -> StoredLog {
        let log = self.log(channel);
        let event = |(offset, payload): &(LoggedOffset, Bytes)| StoredLogEvent {
            offset: *offset,
            payload: payload.clone(),
        };
        let events = match range {
            LogRange::After(after) => {
                log.events.iter().filter(|(offset, _)| *offset > after).take(limit).map(event).collect()
            }
            LogRange::Newest => {
                let skipped = log.events.len().saturating_sub(limit);
                log.events.iter().skip(skipped).map(event).collect()
            }
        };
        let first = log.events.front().map_or(log.last.offset.next(), |(offset, _)| *offset);
        StoredLog { last: log.last, first, ended: log.ended.clone(), events }
    }

    /// Where a log ends.
    pub fn log_end(&mut self, channel: &Arc<str>) -> LogPosition {
        self.log(channel).last
    }

    /// The oldest events of a log are no longer kept.
    pub fn trim_log(&mut self, channel: &Arc<str>, keep: usize) {
        let log = self.log(channel);
        while log.events.len() > keep {
            log.events.pop_front();
        }
    }

    /// Redis starts again, without the last writes to its logs: of each the last `lost` events. Returns which they were.
    pub fn restart(&mut self, lost: usize) -> Vec<(Arc<str>, LogPosition)> {
        let mut gone = Vec::new();
        for (channel, log) in &mut self.logs {
            for _ in 0..lost {
                let Some((offset, _)) = log.events.pop_back() else { break };
                gone.push((channel.clone(), LogPosition { offset, ..log.last }));
                log.last.offset = LoggedOffset(offset.0 - 1);
            }
            // What was lost may reach back into an epoch before.
            while let Some(before) = log.ended.pop_if(|ended| ended.offset > log.last.offset) {
                log.last.epoch = before.epoch;
            }
            self.epochs += 1;
            log.roll(Epoch::new(self.epochs));
        }
        gone
    }

    /// Redis starts again without anything.
    pub fn lose_logs(&mut self) {
        self.logs.clear();
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
