//! One player's channels without history: what its client reads of them, and what it was to read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// What channels without history begin with.
pub const PREFIX: &str = "room:";

/// All that was published on them, in order.
#[derive(Debug, Default)]
pub struct Published {
    all: Vec<Fact>,
    by_number: BTreeMap<u64, usize>,
}

#[derive(Debug)]
struct Fact {
    channel: String,
    number: u64,
    /// Whoever is subscribed is to be sent it; not so where a former master published it.
    is_due: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    channels: BTreeMap<String, Channel>,
}

#[derive(Debug, Default)]
struct Channel {
    /// How much was published when the client saw the confirmation.
    confirmed_at: usize,
    /// The place of the last event.
    last: Option<usize>,
    /// How much was published at the last `RESYNC`.
    resynced_at: usize,
    /// `WELCOME` said that it has not recovered: `RESYNC` comes before the next event.
    awaits_resync: bool,
    /// Redis has not confirmed it again: what is published before `CHANNEL_SUBSCRIBED` need not come.
    is_pending: bool,
    received: BTreeSet<usize>,
    epoch: String,
    offset: u64,
}

impl Published {
    pub fn take(&mut self, channel: &str, payload: &[u8]) {
        let envelope: Value = serde_json::from_slice(payload).unwrap();
        let number = envelope["data"]["n"].as_u64().unwrap();
        let again = self.by_number.insert(number, self.all.len());
        assert_eq!(again, None, "{number} is published twice");
        self.all.push(Fact { channel: channel.to_owned(), number, is_due: true });
    }

    /// The newest one was published by a former master.
    pub fn newest_is_not_due(&mut self) {
        self.all.last_mut().unwrap().is_due = false;
    }
}

impl Reader {
    /// What `WELCOME` says of a channel.
    pub fn read_listed(&mut self, listed: &Value, published: &Published) {
        let name = listed["channel"].as_str().unwrap();
        let (is_known, is_pending) = (self.channels.contains_key(name), listed["pending"] == true);
        if is_pending && !is_known {
            return;
        }
        let new = || Channel { confirmed_at: published.all.len(), ..Channel::default() };
        let channel = self.channels.entry(name.to_owned()).or_insert_with(new);
        // Of a subscription that is new to the session nothing is said.
        (channel.awaits_resync, channel.is_pending) = (listed["recovered"] == false, is_pending);
        assert!(
            !is_known || listed["recovered"].is_boolean(),
            "{listed} does not say whether it has recovered"
        );
        channel.read_position(listed);
    }

    pub fn read(&mut self, message: &Value, published: &Published) {
        let name = message["channel"].as_str().unwrap();
        match message["type"].as_str().unwrap() {
            "CHANNEL_SUBSCRIBED" => {
                let new = || Channel { confirmed_at: published.all.len(), ..Channel::default() };
                let channel = self.channels.entry(name.to_owned()).or_insert_with(new);
                if std::mem::take(&mut channel.is_pending) {
                    channel.confirmed_at = published.all.len();
                }
                channel.read_position(message);
            }
            "CHANNEL_UNSUBSCRIBED" => drop(self.channels.remove(name)),
            "EVENT" => {
                let channel = self.channels.get_mut(name);
                let channel = channel.unwrap_or_else(|| panic!("{message} without a subscription"));
                assert!(!channel.awaits_resync, "{message} before the RESYNC that WELCOME has announced");
                let place = published.by_number[&message["data"]["n"].as_u64().unwrap()];
                let last = channel.last.replace(place);
                assert!(last.is_none_or(|last| last < place), "{message} came twice or out of order");
                channel.received.insert(place);
                channel.read_position(message);
            }
            "RESYNC" => {
                // It may be of one that was never confirmed to the client.
                let Some(channel) = self.channels.get_mut(name) else { return };
                (channel.resynced_at, channel.awaits_resync) = (published.all.len(), false);
                channel.read_position(message);
            }
            other => panic!("unexpected {other}: {message}"),
        }
    }

    /// Where it is in each channel.
    pub fn positions(&self) -> impl Iterator<Item = (String, Value)> {
        let position = |channel: &Channel| json!({ "epoch": channel.epoch, "offset": channel.offset });
        self.channels.iter().map(move |(name, channel)| (name.clone(), position(channel)))
    }

    /// It comes again, by another session.
    pub fn forget(&mut self) {
        self.channels.clear();
    }

    /// All has come to rest: it has been sent all that was published behind the confirmation, or a `RESYNC` behind what it was not.
    pub fn check_nothing_is_missing(&self, shows: impl Fn(u64) -> bool, published: &Published) {
        for (name, channel) in &self.channels {
            assert!(!channel.awaits_resync, "{name} has not recovered, and no RESYNC came");
            let behind = published.all.iter().enumerate().skip(channel.confirmed_at.max(channel.resynced_at));
            let missed = behind
                .filter(|(_, fact)| fact.is_due && fact.channel == *name && shows(fact.number))
                .find(|(place, _)| !channel.received.contains(place));
            assert!(missed.is_none(), "{missed:?} was lost in silence: {channel:?}");
        }
    }
}

impl Channel {
    fn read_position(&mut self, message: &Value) {
        if let Some(epoch) = message["epoch"].as_str() {
            self.epoch = epoch.to_owned();
        }
        if let Some(offset) = message["offset"].as_u64() {
            self.offset = offset;
        }
    }
}
