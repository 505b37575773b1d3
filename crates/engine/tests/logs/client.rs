//! One player's client: reads, keeps a cursor for each channel, and holds the server to its word.

use std::collections::{BTreeMap, BTreeSet};

use drawbridge_protocol::Frame;
use drawbridge_testkit::cluster::SocketId;
use drawbridge_testkit::frames;
use serde_json::{Value, json};

use crate::facts::{Fact, Facts};
use crate::plain::{PREFIX, Reader};

/// Where a client is in the log of a channel.
#[derive(Clone, Debug)]
pub struct Cursor {
    pub epoch: String,
    pub offset: u64,
    /// The last event that it was shown since the last `RESYNC`.
    last: Option<usize>,
    /// Something may be missing before the next event: a pattern got a `RESYNC`.
    may_miss: bool,
}

#[derive(Debug)]
pub struct Client {
    pub player: String,
    pub team: &'static str,
    pub socket: SocketId,
    pub welcomed: bool,
    pub closed: Option<u16>,
    pub blocked: bool,
    /// Its session, while it has no socket.
    pub detached: bool,
    /// The session's name.
    pub session: String,
    /// Names and patterns that it has subscribed to, and whether they are confirmed.
    pub subscribed: BTreeMap<String, bool>,
    /// Only even numbers.
    pub filtered: bool,
    pub cursors: BTreeMap<String, Cursor>,
    /// Of channels without history.
    pub plain: Reader,
    /// It has come back with these cursors, and is to be sent what follows them.
    resumed: BTreeSet<String>,
    /// It has come back without a position of these: `RESYNC` follows.
    unknown: BTreeSet<String>,
    /// What it was shown since it connected.
    seen: BTreeSet<u64>,
    /// A pattern of its got a `RESYNC`, so that channels that it never saw may get one.
    may_miss_all: bool,
    /// It has sent `CHANNEL_UNSUBSCRIBE`, and may have unsubscribed already.
    pub leaving: BTreeSet<String>,
    pub resyncs: Vec<String>,
    pub positions: usize,
}

impl Client {
    pub fn new(player: String, team: &'static str, socket: SocketId) -> Self {
        Client {
            player,
            team,
            socket,
            welcomed: false,
            closed: None,
            blocked: false,
            detached: false,
            session: String::new(),
            subscribed: BTreeMap::new(),
            filtered: false,
            cursors: BTreeMap::new(),
            plain: Reader::default(),
            resumed: BTreeSet::new(),
            unknown: BTreeSet::new(),
            seen: BTreeSet::new(),
            may_miss_all: false,
            leaving: BTreeSet::new(),
            resyncs: Vec::new(),
            positions: 0,
        }
    }

    /// It comes back by another session, to all that it had subscribed to by name.
    pub fn comes_back(&mut self, socket: SocketId) {
        self.socket = socket;
        (self.welcomed, self.closed, self.blocked, self.detached) = (false, None, false, false);
        self.subscribed.values_mut().for_each(|confirmed| *confirmed = false);
        self.leaving.clear();
        self.resumed =
            self.cursors.keys().filter(|name| self.subscribed.contains_key(*name)).cloned().collect();
        let resumed = &self.resumed;
        self.cursors.retain(|name, _| resumed.contains(name));
        self.plain.forget();
    }

    /// It resumes its session on whichever node, and names what it had subscribed to. Returns that.
    pub fn subscribe_again(&mut self) -> Value {
        self.subscribed.values_mut().for_each(|confirmed| *confirmed = false);
        self.leaving.clear();
        self.unknown.clear();
        let is_named = |name: &&String| self.subscribed.contains_key(*name);
        self.resumed = self.cursors.keys().filter(is_named).cloned().collect();
        let filter = self.filtered.then_some("data.n % 2 == 0");
        let subscribe = self.subscribed.keys().map(|name| match filter {
            Some(filter) => json!({ "channel": name, "filter": filter }),
            None => json!({ "channel": name }),
        });
        subscribe.collect()
    }

    pub fn is_open(&self) -> bool {
        self.closed.is_none() && self.welcomed && !self.detached
    }

    fn shows(&self, fact: &Fact) -> bool {
        fact.team.as_ref().is_none_or(|team| team == self.team) && self.filter_shows(fact.number)
    }

    fn filter_shows(&self, number: u64) -> bool {
        !self.filtered || number.is_multiple_of(2)
    }

    pub fn read(&mut self, frame: &Frame, facts: &Facts) {
        for message in frames::messages(frame) {
            self.read_message(&message, facts);
        }
    }

    fn read_message(&mut self, message: &Value, facts: &Facts) {
        let channel = message["channel"].as_str().unwrap_or_default().to_owned();
        if channel.starts_with(PREFIX) && message["type"] != "PRESENCE_CHANGED" {
            self.plain.read(message, &facts.plain);
        }
        match message["type"].as_str().unwrap() {
            "WELCOME" => {
                self.welcomed = true;
                let session = message["session"].as_str().unwrap().to_owned();
                if std::mem::replace(&mut self.session, session) != self.session {
                    // A new one: nothing is made good.
                    self.cursors.clear();
                    self.resumed.clear();
                    self.may_miss_all = false;
                    self.plain.forget();
                }
                for listed in message["subscriptions"].as_array().unwrap() {
                    self.read_listed(listed, facts);
                }
            }
            "CHANNEL_SUBSCRIBED" => {
                self.subscribed.insert(channel.clone(), true);
                if message["pattern"] != true && !channel.starts_with(PREFIX) {
                    self.read_subscribed(&channel, message, facts);
                }
            }
            "CHANNEL_UNSUBSCRIBED" => {
                self.subscribed.remove(&channel);
                self.leaving.remove(&channel);
                let (is_pattern, subscribed) = (is_pattern(&channel), &self.subscribed);
                self.cursors.retain(|name, _| match is_pattern {
                    true => subscribed.contains_key(name),
                    false => *name != channel,
                });
                self.may_miss_all = false;
            }
            "EVENT" | "RESYNC" if channel.starts_with(PREFIX) => {}
            "EVENT" => self.read_event(&channel, message, facts),
            "POSITION" => {
                self.positions += 1;
                let (epoch, offset) = position(message);
                self.goes_on_to(&channel, &epoch, offset, facts, message);
            }
            "RESYNC" => self.read_resync(&channel, message),
            "STATUS" => {}
            // What the store has of presence is checked when all has come to rest.
            "PRESENCE_CHANGED" => {}
            other => panic!("unexpected {other}: {message}"),
        }
    }

    /// What `WELCOME` says of a subscription.
    fn read_listed(&mut self, listed: &Value, facts: &Facts) {
        let channel = listed["channel"].as_str().unwrap().to_owned();
        if channel.starts_with(PREFIX) {
            self.plain.read_listed(listed, &facts.plain);
        }
        if listed["pending"] == true {
            return;
        }
        self.subscribed.insert(channel.clone(), true);
        if channel.starts_with(PREFIX) {
            // Its position is no log's.
        } else if listed["pattern"] != true {
            self.read_subscribed(&channel, listed, facts);
        }
    }

    fn read_subscribed(&mut self, channel: &str, message: &Value, facts: &Facts) {
        let (epoch, offset) = position(message);
        if message["recovered"] == false && !self.cursors.contains_key(channel) {
            // It had received no position of it, so nothing could be made good: `RESYNC` names one.
            self.unknown.insert(channel.to_owned());
        } else if self.resumed.remove(channel) {
            // It said where it is, and goes on from there.
        } else if self.cursors.contains_key(channel) {
            // It was shown by a pattern.
            self.goes_on_to(channel, &epoch, offset, facts, message);
        } else {
            let cursor = Cursor { epoch, offset, last: None, may_miss: false };
            self.cursors.insert(channel.to_owned(), cursor);
        }
    }

    fn read_resync(&mut self, channel: &str, message: &Value) {
        let is_unknown = self.unknown.remove(channel);
        // Of a channel that was never seen through a pattern nothing is known that could be made good after a break.
        if is_unknown {
            // As it was to be.
        } else if self.cursors.contains_key(channel) || message["epoch"].is_null() || !self.may_miss_all {
            self.resyncs.push(message.to_string());
        }
        if message["epoch"].is_null() {
            // Of a pattern, or of what was in no log.
            self.may_miss_all |= is_pattern(channel);
            self.cursors.values_mut().for_each(|cursor| cursor.may_miss |= is_pattern(channel));
            return;
        }
        let (epoch, offset) = position(message);
        self.cursors.insert(channel.to_owned(), Cursor { epoch, offset, last: None, may_miss: false });
    }

    fn read_event(&mut self, channel: &str, message: &Value, facts: &Facts) {
        let number = message["data"]["n"].as_u64().unwrap();
        let is_subscribed = self
            .subscribed
            .iter()
            .any(|(name, confirmed)| *confirmed && (name == channel || is_pattern(name)));
        assert!(is_subscribed, "{message} without a subscription");
        if message["offset"].is_null() {
            assert!(facts.volatile.contains(&number), "{message} was logged, or never was");
            assert!(self.seen.insert(number), "{message} came twice");
            return;
        }
        let (event, fact) = facts.of_number(number);
        assert_eq!((&*fact.channel, Some(fact.offset)), (channel, message["offset"].as_u64()), "{message}");
        assert!(self.shows(fact), "{} must not see {message}", self.player);
        let cursor = self.cursors.get(channel).unwrap_or_else(|| panic!("{message} without a position"));
        assert_eq!(cursor.epoch, fact.epoch, "{message} is of another epoch than the client knows");
        self.passes(channel, &fact.epoch, fact.offset - 1, facts, message);
        let cursor = self.cursors.get_mut(channel).unwrap();
        assert!(cursor.offset < fact.offset, "{message} came twice or out of order: {cursor:?}");
        (cursor.offset, cursor.last, cursor.may_miss) = (fact.offset, Some(event), false);
    }

    /// The client is sent its position: what is between is hidden from it.
    fn goes_on_to(&mut self, channel: &str, epoch: &str, offset: u64, facts: &Facts, message: &Value) {
        let Some(cursor) = self.cursors.get(channel) else {
            let cursor = Cursor { epoch: epoch.to_owned(), offset, last: None, may_miss: false };
            self.cursors.insert(channel.to_owned(), cursor);
            return;
        };
        assert!(cursor.offset <= offset, "{message} goes back: {cursor:?}");
        if let Some(last) = cursor.last.filter(|_| !cursor.may_miss) {
            let is_known = facts.has(channel, epoch, last);
            assert!(is_known, "{message} is of a history without what was shown: {:?}", cursor);
        }
        self.passes(channel, epoch, offset, facts, message);
        let cursor = self.cursors.get_mut(channel).unwrap();
        (cursor.epoch, cursor.offset) = (epoch.to_owned(), offset);
    }

    /// Nothing that it is to be shown is between its cursor and this place.
    fn passes(&self, channel: &str, epoch: &str, up_to: u64, facts: &Facts, message: &Value) {
        let cursor = &self.cursors[channel];
        if cursor.may_miss {
            return;
        }
        let missed = facts.between(channel, epoch, cursor.offset, up_to).find(|fact| self.shows(fact));
        assert!(missed.is_none(), "{} missed {missed:?} before {message}: {cursor:?}", self.player);
    }

    /// As [`Client::check_nothing_is_missing`], of channels without history.
    pub fn check_nothing_plain_is_missing(&self, facts: &Facts) {
        self.plain.check_nothing_is_missing(|number| self.filter_shows(number), &facts.plain);
    }

    /// All has come to rest: it has been shown all that the log has.
    pub fn check_nothing_is_missing(&self, channel: &str, epoch: &str, end: u64, facts: &Facts) {
        let Some(cursor) = self.cursors.get(channel).filter(|cursor| !cursor.may_miss) else { return };
        if self.subscribed.is_empty() {
            return;
        }
        assert!(cursor.offset <= end, "{} is beyond the end of {channel}: {cursor:?}", self.player);
        if let Some(last) = cursor.last {
            assert!(
                facts.has(channel, epoch, last),
                "{} was not told that {channel} began again",
                self.player
            );
        }
        let missed = facts.between(channel, epoch, cursor.offset, end).find(|fact| self.shows(fact));
        assert!(missed.is_none(), "{} lost {missed:?} on {channel} in silence: {cursor:?}", self.player);
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '['])
}

fn position(message: &Value) -> (String, u64) {
    (message["epoch"].as_str().unwrap().to_owned(), message["offset"].as_u64().unwrap())
}
