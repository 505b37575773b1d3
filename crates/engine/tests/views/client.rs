//! One player's client: sends, keeps the tables that it is told, and holds the server to its word.

use std::collections::{BTreeMap, BTreeSet};

use drawbridge_engine::class::{Delivery, SlowConsumer};
use drawbridge_protocol::Frame;
use drawbridge_protocol::glob::glob_matches;
use drawbridge_testkit::cluster::SocketId;
use drawbridge_testkit::facts::Said;
use drawbridge_testkit::frames;
use serde_json::Value;

use crate::rules::{Area, Facts, Filter, HYSTERESIS, Rules, has_table, is_good, kind};

/// What a client asked to be shown, while that held.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub filter: Option<Filter>,
    pub area: Option<Area>,
    /// How many publications Redis had taken when the client read that another holds.
    until: Option<usize>,
}

/// What the class shows to a player at most, while that held.
#[derive(Clone, Debug)]
pub struct Right {
    pub team: &'static str,
    /// As of [`Look`].
    until: Option<usize>,
}

/// How far a client's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A snapshot is to come first.
    Awaited,
    /// Some of it has come.
    Partial,
    Whole,
}

#[derive(Debug)]
pub struct Subscription {
    /// How many publications Redis had taken when the client saw the confirmation.
    pub confirmed_at: Option<usize>,
    /// The last one holds.
    looks: Vec<Look>,
    /// What the client published before this request is not shown to it.
    began: u64,
    stage: Stage,
    /// Of an entity channel: each key and its state's place in Redis' log.
    pub table: BTreeMap<String, usize>,
}

/// A request that is not answered.
#[derive(Clone, Debug)]
pub struct Asked {
    pub kind: &'static str,
    pub channel: String,
    /// `None`: stays as it is.
    pub filter: Option<Option<Filter>>,
    pub area: Option<Option<Area>>,
    /// Of a publish.
    pub number: u64,
}

#[derive(Debug)]
pub struct Client {
    pub player: String,
    pub socket: SocketId,
    /// The engine knows the player.
    pub joined: bool,
    pub welcomed: bool,
    pub closed: Option<u16>,
    pub blocked: bool,
    pub patterns: bool,
    pub next_id: u64,
    pub subscriptions: BTreeMap<String, Subscription>,
    pub asked: BTreeMap<u64, Asked>,
    /// What `CONNECT` asked for.
    pub wishes: BTreeMap<String, Look>,
    /// The last one holds; those before it until their end is known.
    pub rights: Vec<Right>,
    /// Pings behind a change of rights, and how many rights are over when they are answered.
    fences: BTreeMap<u64, usize>,
    /// The place in Redis' log of the last plain event of each channel, and where order is key by key of each key.
    last: BTreeMap<(String, Option<String>), usize>,
    /// Numbers of its own publishes, and which requests they were.
    published: BTreeMap<u64, u64>,
    received: BTreeSet<u64>,
    /// Entity channels that it ever asked for by name: a pattern does not show them then.
    exact: BTreeSet<String>,
    /// The last place in Redis' log that a `RESYNC` of this channel or pattern covers.
    resynced: BTreeMap<String, usize>,
    /// Channels whose subscription it gave up before it was confirmed.
    shed: BTreeSet<String>,
}

impl Client {
    pub fn new(player: String, team: &'static str, socket: SocketId, patterns: bool) -> Self {
        Client {
            player,
            socket,
            joined: false,
            welcomed: false,
            closed: None,
            blocked: false,
            patterns,
            next_id: 0,
            subscriptions: BTreeMap::new(),
            asked: BTreeMap::new(),
            wishes: BTreeMap::new(),
            rights: vec![Right { team, until: None }],
            fences: BTreeMap::new(),
            last: BTreeMap::new(),
            published: BTreeMap::new(),
            received: BTreeSet::new(),
            exact: BTreeSet::new(),
            resynced: BTreeMap::new(),
            shed: BTreeSet::new(),
        }
    }

    /// Counts a request that is about to be sent.
    pub fn asks(&mut self, asked: Asked) -> u64 {
        self.next_id += 1;
        if asked.kind == "CHANNEL_SUBSCRIBE" && has_table(&asked.channel) {
            self.exact.insert(asked.channel.clone());
        }
        if asked.kind == "PUBLISH_EVENT" {
            self.published.insert(asked.number, self.next_id);
        }
        self.asked.insert(self.next_id, asked);
        self.next_id
    }

    pub fn wishes_for(&mut self, channel: &str, look: Look) {
        if has_table(channel) {
            self.exact.insert(channel.to_owned());
        }
        self.wishes.insert(channel.to_owned(), look);
    }

    /// Other rights hold from now on; a ping with this id is behind what was due before.
    pub fn is_of_team(&mut self, team: &'static str) -> u64 {
        self.fences.insert(self.next_id + 1, self.rights.len());
        self.rights.push(Right { team, until: None });
        self.next_id += 1;
        self.next_id
    }

    pub fn read(&mut self, frame: &Frame, facts: &Facts, rules: &Rules) {
        frames::messages(frame).iter().for_each(|message| self.read_message(message, facts, rules));
    }

    fn read_message(&mut self, message: &Value, facts: &Facts, rules: &Rules) {
        let id = message["id"].as_u64();
        let channel = message["channel"].as_str().unwrap_or_default().to_owned();
        let now = facts.log.len();
        match message["type"].as_str().unwrap() {
            "WELCOME" => self.read_welcome(message, now),
            "EVENT" => self.read_event(message, &channel, facts, rules),
            "VIEW_ENTER" => self.read_enter(message, &channel, facts, rules),
            "VIEW_LEAVE" => {
                let subscription = self.table_of(&channel, message);
                assert_eq!(subscription.stage, Stage::Whole, "before the snapshot is whole: {message}");
                for key in message["keys"].as_array().unwrap() {
                    let had = subscription.table.remove(key.as_str().unwrap());
                    assert!(had.is_some(), "a key that the client does not have: {message}");
                }
            }
            "CHANNEL_SUBSCRIBED" => self.read_subscribed(id, channel, now),
            "FILTER_UPDATED" => {
                let asked = self.answered(id, "FILTER_UPDATE").unwrap();
                let subscription = self.subscriptions.get_mut(&channel).unwrap();
                let look = subscription.looks.last().unwrap().clone();
                let filter = asked.filter.unwrap_or(look.filter);
                let area = asked.area.unwrap_or(look.area);
                subscription.is_recomputed(Look { filter, area, until: None }, now);
            }
            "CHANNEL_UNSUBSCRIBED" => {
                if id.is_some() {
                    self.answered(id, "CHANNEL_UNSUBSCRIBE");
                }
                // One that ends before it was confirmed was never told.
                let was_shed = self.shed.remove(&channel) || id.is_none();
                assert!(self.subscriptions.remove(&channel).is_some() || was_shed, "{message}");
            }
            "EVENT_PUBLISHED" => {
                let asked = self.answered(id, "PUBLISH_EVENT").unwrap();
                assert!(facts.places.contains_key(&asked.number), "acknowledged, and Redis has it not");
            }
            "RESYNC" => {
                self.resynced.insert(channel, now);
            }
            "PONG" => {
                let over = self.fences.remove(&id.unwrap()).unwrap();
                for right in &mut self.rights[..over] {
                    right.until.get_or_insert(now);
                }
            }
            "ERROR" => {
                let asked = self.answered(id, "");
                let code = message["code"].as_str().unwrap();
                if code == "NOT_SUBSCRIBED"
                    && asked.as_ref().is_some_and(|asked| asked.kind == "CHANNEL_SUBSCRIBE")
                {
                    self.shed.insert(channel);
                }
                let expected = matches!(
                    code,
                    "FORBIDDEN"
                        | "NOT_SUBSCRIBED"
                        | "FILTER_INVALID"
                        | "BROKER_UNAVAILABLE"
                        | "LIMIT_EXCEEDED"
                        | "BAD_MESSAGE"
                );
                assert!(expected, "{message} to {asked:?}");
            }
            "STATUS" | "TOKEN_REFRESHED" => {}
            other => panic!("unexpected {other}: {message}"),
        }
    }

    fn answered(&mut self, id: Option<u64>, kind: &str) -> Option<Asked> {
        let asked = self.asked.remove(&id?);
        let fits = asked.as_ref().is_some_and(|asked| kind.is_empty() || asked.kind == kind);
        assert!(fits, "an answer to {id:?}, which is {asked:?}");
        asked
    }

    fn read_welcome(&mut self, message: &Value, now: usize) {
        assert!(!std::mem::replace(&mut self.welcomed, true), "a second WELCOME");
        for listed in message["subscriptions"].as_array().unwrap() {
            let name = listed["channel"].as_str().unwrap().to_owned();
            let confirmed_at = (listed["pending"] != true).then_some(now);
            let look = self.wishes[&name].clone();
            self.subscriptions.insert(name, Subscription::new(look, confirmed_at, self.next_id));
        }
    }

    fn read_subscribed(&mut self, id: Option<u64>, channel: String, now: usize) {
        let Some(asked) = self.answered(id, "CHANNEL_SUBSCRIBE") else {
            // It was pending in `WELCOME`.
            let subscription = self.subscriptions.get_mut(&channel).unwrap();
            assert_eq!(subscription.confirmed_at, None, "{channel} is confirmed twice");
            subscription.confirmed_at = Some(now);
            return;
        };
        let look = Look { filter: asked.filter.flatten(), area: asked.area.flatten(), until: None };
        match self.subscriptions.get_mut(&channel) {
            Some(subscription) => {
                subscription.confirmed_at.get_or_insert(now);
                subscription.stage = Stage::Awaited;
                subscription.is_recomputed(look, now);
            }
            None => {
                let began = id.unwrap();
                self.subscriptions.insert(channel, Subscription::new(look, Some(now), began));
            }
        }
    }

    fn table_of(&mut self, channel: &str, message: &Value) -> &mut Subscription {
        let subscription = self.subscriptions.get_mut(channel).filter(|s| s.confirmed_at.is_some());
        subscription.unwrap_or_else(|| panic!("of a channel that is not confirmed: {message}"))
    }

    fn read_enter(&mut self, message: &Value, channel: &str, facts: &Facts, rules: &Rules) {
        let player = self.player.clone();
        let rights = self.rights.clone();
        let subscription = self.table_of(channel, message);
        let reset = message["reset"] == true;
        if reset {
            subscription.table.clear();
            subscription.stage = Stage::Partial;
        }
        assert_ne!(subscription.stage, Stage::Awaited, "before the snapshot: {message}");
        for element in message["entities"].as_array().unwrap() {
            let (place, said) = read_said(element, channel, facts);
            let key = element["key"].as_str().unwrap();
            assert_eq!(Some(key), said.key.as_deref());
            let had = subscription.table.insert(key.to_owned(), place);
            assert_eq!(had, None, "{key} comes into view twice: {message}");
            let shown = subscription.may_show(said, facts, rules)
                && is_right(&rights, said)
                && may_be_shown(&player, place, facts);
            assert!(shown, "{player} must not see {said:?} in {message}");
        }
        let complete = message["complete"] == true;
        assert!(complete || subscription.stage == Stage::Partial, "{message}");
        subscription.stage = if complete { Stage::Whole } else { Stage::Partial };
    }

    fn read_event(&mut self, message: &Value, channel: &str, facts: &Facts, rules: &Rules) {
        assert!(self.welcomed, "an event before WELCOME");
        let (place, said) = read_said(message, channel, facts);
        let shown = is_right(&self.rights, said) && may_be_shown(&self.player, place, facts);
        assert!(shown, "{} must not see {message}", self.player);
        let exact = self.subscriptions.get_mut(channel).filter(|s| s.confirmed_at.is_some());
        if let (Some(subscription), true) = (exact, has_table(channel)) {
            assert_eq!(subscription.stage, Stage::Whole, "before the snapshot is whole: {message}");
            let key = message["key"].as_str().unwrap();
            let held = subscription.table.insert(key.to_owned(), place);
            assert!(held.is_some(), "of a key that the client does not have: {message}");
            // What went and came back within a window may be told as it was. Whether a plain event on its way was said
            // before the table was read, nobody can know until what the table had comes too.
            let plain = facts.log[place.saturating_sub(100)..=place].iter().any(|other| {
                !other.committed && other.channel == channel && other.key.as_deref() == Some(key)
            });
            let (held, player) = (held.unwrap(), &self.player);
            assert!(held <= place || plain, "{player}: older than {:?}: {message}", facts.log[held]);
            assert!(subscription.may_show(said, facts, rules), "{} must not see {message}", self.player);
            return;
        }
        let shows = |(name, subscription): (&String, &Subscription)| {
            subscription.confirmed_at.is_some()
                && covers(name, channel)
                && subscription.look().filter.is_none_or(|filter| filter.shows(said))
        };
        assert!(
            self.subscriptions.iter().any(shows),
            "{message} without a subscription that shows it: {:?}",
            self.subscriptions.iter().map(|(name, s)| (name, s.confirmed_at, s.look())).collect::<Vec<_>>()
        );
        let by_key = rules.is_by_key(channel);
        let of = (channel.to_owned(), if by_key { said.key.clone() } else { None });
        let last = self.last.insert(of, place);
        assert!(last < Some(place) || (by_key && said.key.is_none()), "out of order: {message}");
        assert!(self.received.insert(said.number), "{message} came twice");
    }

    /// Everything has come to rest: what must have come has. `table` gives what a node knows of a channel.
    pub fn check_settled(&self, facts: &Facts, rules: &Rules, table: impl Fn(&str) -> Known) {
        assert!(self.welcomed, "{} was never welcomed", self.player);
        assert!(self.asked.is_empty(), "{} waits for {:?}", self.player, self.asked);
        assert!(self.fences.is_empty(), "{} waits for PONG", self.player);
        for (name, subscription) in &self.subscriptions {
            assert!(subscription.confirmed_at.is_some(), "{name} was never confirmed");
            if has_table(name) {
                self.check_table(name, subscription, facts, rules, &table(name));
            } else {
                self.check_nothing_is_missing(name, subscription, facts, rules);
            }
        }
    }

    fn check_table(&self, name: &str, held: &Subscription, facts: &Facts, rules: &Rules, known: &Known) {
        assert_eq!(held.stage, Stage::Whole, "{}: the table of {name} never came", self.player);
        let look = held.look();
        let right = self.rights.last().unwrap();
        let view = facts.views_since(&self.player, usize::MAX - 1, name).pop().flatten();
        // An area follows only what the server shows: by the class's view, and what a service narrowed.
        let is_shown = |said: &Said| right.shows(said) && view.is_none_or(|view| view.shows(said));
        let place_of = |key: &str| {
            let said = &facts.log[*known.states.get(key)?];
            said.position().filter(|_| is_shown(said))
        };
        let followed = match &look.area {
            Some(Area::Follow { key, .. }) if known.uncertain.contains(&**key) => return,
            Some(Area::Follow { key, .. }) => place_of(key),
            _ => None,
        };
        for (key, place) in &known.states {
            let said = &facts.log[*place];
            let (must, may) = match (&look.area, kind(name)) {
                (Some(area), 2) => {
                    let at = said.position().unwrap();
                    (area.holds(at, followed, 0.0), area.holds(at, followed, HYSTERESIS))
                }
                (None, 2) => (!rules.area_required, !rules.area_required),
                _ => (true, true),
            };
            let shown = look.filter.is_none_or(|filter| filter.shows(said)) && is_shown(said);
            let has = held.table.get(key);
            let told = || {
                let past = facts.past(name, key);
                format!("{} on {name}: {key} is {place}, it has {has:?}, {look:?}, {past:?}", self.player)
            };
            match has {
                Some(has) => assert!(has == place && shown && may, "it should not have it so. {}", told()),
                None => assert!(!(shown && must) || known.uncertain.contains(key), "missing. {}", told()),
            }
        }
        for key in held.table.keys() {
            let past = facts.past(name, key);
            assert!(known.states.contains_key(key), "{} on {name}: {key} is gone, {past:?}", self.player);
        }
    }

    /// Confirmed means delivered: whatever Redis took after the client saw the confirmation has come, or a newer one
    /// of its key where its class says so, or a `RESYNC` tells of the loss.
    fn check_nothing_is_missing(&self, name: &str, held: &Subscription, facts: &Facts, rules: &Rules) {
        let from = held.confirmed_at.unwrap();
        // By channel and key: whether a newer one has come.
        let mut newer: BTreeSet<(&str, &str)> = BTreeSet::new();
        for (place, said) in facts.log.iter().enumerate().skip(from).rev() {
            let key = said.key.as_deref();
            if self.received.contains(&said.number) {
                newer.extend(key.map(|key| (&*said.channel, key)));
                continue;
            }
            let kind = kind(&said.channel);
            let hidden = !covers(name, &said.channel)
                || !is_good(said)
                || (kind == 2 && rules.area_required)
                || (kind > 0 && self.exact.contains(&said.channel))
                // A new key may have been one too many for the node.
                || (kind > 0 && !said.committed && rules.entity_max < 100)
                || self.published.get(&said.number).is_some_and(|request| *request <= held.began);
            let due = !hidden
                && held.looks.iter().all(|look| {
                    look.is_over_by(place) || look.filter.is_none_or(|filter| filter.shows(said))
                })
                && self.rights.iter().all(|right| right.is_over_by(place) || right.shows(said))
                && facts
                    .views_since(&self.player, place, &said.channel)
                    .iter()
                    .all(|view| view.is_none_or(|view| view.shows(said)));
            let Delivery { conflate, slow_consumer, .. } = rules.delivery(&said.channel);
            let skipped = (*conflate || *slow_consumer == SlowConsumer::Latest)
                && key.is_some_and(|key| newer.contains(&(&*said.channel, key)));
            let resynced = [name, &said.channel]
                .iter()
                .any(|name| self.resynced.get(*name).is_some_and(|at| *at >= place));
            assert!(
                !due || skipped || resynced,
                "{} lost {said:?} (place {place}, {name}) in silence",
                self.player
            );
        }
    }
}

/// What a node knows of a channel.
#[derive(Debug, Default)]
pub struct Known {
    /// Each key and its state's place in Redis' log.
    pub states: BTreeMap<String, usize>,
    /// Keys that it may have dropped.
    pub uncertain: BTreeSet<String>,
}

impl Subscription {
    fn new(look: Look, confirmed_at: Option<usize>, began: u64) -> Self {
        let looks = vec![look];
        Subscription { confirmed_at, looks, began, stage: Stage::Awaited, table: BTreeMap::new() }
    }

    pub fn look(&self) -> &Look {
        self.looks.last().unwrap()
    }

    fn is_recomputed(&mut self, look: Look, now: usize) {
        self.looks.last_mut().unwrap().until = Some(now);
        self.looks.push(look);
    }

    /// Whether what its client asked for shows this state. Of a followed entity the client need not know where it is.
    fn may_show(&self, said: &Said, facts: &Facts, rules: &Rules) -> bool {
        let look = self.look();
        let inside = match (&look.area, kind(&said.channel)) {
            (None, 2) => !rules.area_required,
            (Some(Area::Follow { key, .. }), 2) => {
                let at = said.position().unwrap();
                let area = look.area.as_ref().unwrap();
                facts.was_at(&said.channel, key).any(|center| area.holds(at, Some(center), HYSTERESIS))
            }
            (Some(area), 2) => area.holds(said.position().unwrap(), None, HYSTERESIS),
            _ => true,
        };
        inside && look.filter.is_none_or(|filter| filter.shows(said))
    }
}

impl Look {
    pub fn new(filter: Option<Filter>, area: Option<Area>) -> Self {
        Look { filter, area, until: None }
    }

    fn is_over_by(&self, place: usize) -> bool {
        self.until.is_some_and(|until| until < place)
    }
}

impl Right {
    fn shows(&self, said: &Said) -> bool {
        said.is_shown_to(self.team)
    }

    fn is_over_by(&self, place: usize) -> bool {
        self.until.is_some_and(|until| until < place)
    }
}

/// Whether one of the rights that may hold shows it.
fn is_right(rights: &[Right], said: &Said) -> bool {
    rights.iter().any(|right| right.until.is_none() && right.shows(said))
}

/// Whether what services narrowed when it was said, or behind it, shows it: what was set before holds on every node.
fn may_be_shown(player: &str, place: usize, facts: &Facts) -> bool {
    let said = &facts.log[place];
    let views = facts.views_since(player, place, &said.channel);
    views.iter().any(|view| view.is_none_or(|view| view.shows(said)))
}

/// What was said, which is told as it was said.
fn read_said<'f>(message: &Value, channel: &str, facts: &'f Facts) -> (usize, &'f Said) {
    let (place, said) = facts.of_number(message["data"]["n"].as_u64().unwrap());
    assert_eq!(
        (&*said.channel, &said.data, &*said.event),
        (channel, &message["data"], message["event"].as_str().unwrap())
    );
    (place, said)
}

fn covers(name: &str, channel: &str) -> bool {
    if name.contains('*') { glob_matches(name, channel) } else { name == channel }
}
