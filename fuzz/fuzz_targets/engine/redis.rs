//! A Redis with Pub/Sub on one link, and tables; what it has sent and the node has not read waits in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{Commit, Subject, Ticket};
use drawbridge_engine::upstream::{LinkCommand, StoredEntity, StoredTable};
use drawbridge_protocol::glob::glob_matches;

/// What the node reads on its link.
#[derive(Debug)]
pub enum Push {
    Subscribed(Subject),
    Unsubscribed(Subject),
    Message { pattern: Option<Arc<str>>, channel: Arc<str>, payload: Bytes },
    Fence { ticket: Ticket, channel: Arc<str> },
}

#[derive(Debug, Default)]
pub struct Redis {
    pub up: bool,
    subscriptions: Vec<Subject>,
    pub unread: VecDeque<Push>,
    tables: BTreeMap<Arc<str>, Table>,
}

#[derive(Debug, Default)]
struct Table {
    seq: u64,
    rows: BTreeMap<Arc<str>, Bytes>,
}

const EPOCH: &str = "5e1f";

impl Redis {
    pub fn command(&mut self, command: LinkCommand) {
        if !self.up {
            return;
        }
        match command {
            LinkCommand::Mark(_) => unreachable!("there is one link"),
            LinkCommand::Subscribe(subjects) => {
                for subject in subjects {
                    assert!(!self.subscriptions.contains(&subject), "a second subscription to {subject:?}");
                    self.subscriptions.push(subject.clone());
                    self.unread.push_back(Push::Subscribed(subject));
                }
            }
            LinkCommand::Unsubscribe(subjects) => {
                for subject in subjects {
                    self.refuse(&subject);
                    self.unread.push_back(Push::Unsubscribed(subject));
                }
            }
        }
    }

    /// Forgets a subscription.
    pub fn refuse(&mut self, subject: &Subject) {
        self.subscriptions.retain(|other| other != subject);
    }

    pub fn publish(&mut self, channel: &Arc<str>, payload: &Bytes) {
        let exact =
            self.subscriptions.iter().filter(|subject| !subject.is_pattern() && subject.name == *channel);
        let patterns = self
            .subscriptions
            .iter()
            .filter(|subject| subject.is_pattern() && glob_matches(&subject.name, channel));
        for subject in exact.chain(patterns) {
            let pattern = subject.is_pattern().then(|| subject.name.clone());
            self.unread.push_back(Push::Message {
                pattern,
                channel: channel.clone(),
                payload: payload.clone(),
            });
        }
    }

    /// Writes an entity and publishes it, in one step.
    pub fn commit(&mut self, channel: &Arc<str>, commit: &Commit) {
        let table = self.tables.entry(channel.clone()).or_default();
        table.seq += 1;
        let open = commit.payload.strip_suffix(b"}").expect("an object");
        let id = format!(",\"id\":\"{}@{EPOCH}.{}\"}}", commit.id, table.seq);
        let payload = Bytes::from([open, id.as_bytes()].concat());
        match commit.remove {
            true => table.rows.remove(&commit.key),
            false => table.rows.insert(commit.key.clone(), payload.clone()),
        };
        self.publish(channel, &payload);
    }

    pub fn table(&self, channel: &str) -> StoredTable {
        let Some(table) = self.tables.get(channel) else { return StoredTable::default() };
        let entity = |(key, payload): (&Arc<str>, &Bytes)| StoredEntity {
            key: key.to_string(),
            age_ms: 0,
            payload: payload.clone(),
        };
        StoredTable {
            epoch: EPOCH.to_owned(),
            seq: table.seq,
            last_seq: table.seq,
            entities: table.rows.iter().map(entity).collect(),
            unreadable: 0,
        }
    }

    /// The link breaks; what was not read is lost.
    pub fn cut(&mut self) -> VecDeque<Push> {
        self.up = false;
        self.subscriptions.clear();
        std::mem::take(&mut self.unread)
    }
}
