//! One player's client: sends, reads, and holds the server to its word.

use std::collections::{BTreeMap, BTreeSet};

use drawbridge_protocol::Frame;
use drawbridge_protocol::glob::glob_matches;
use drawbridge_testkit::cluster::SocketId;
use drawbridge_testkit::frames;
use serde_json::Value;

use crate::world::Facts;

/// Who is present on a channel, as its client knows it.
#[derive(Debug, Default)]
pub struct Seen {
    /// `None`: the client has to send `PRESENCE_GET`.
    pub players: Option<BTreeSet<String>>,
    /// The last request for a page since the client subscribed, or was last told that it missed something: only its answer
    /// counts.
    request: Option<u64>,
    /// Changes since that request: who joined, or left.
    since: Vec<(String, bool)>,
}

/// A subscription as its client knows it.
#[derive(Debug, Default)]
pub struct Subscription {
    /// How many publications Redis had taken when the client saw the confirmation.
    pub confirmed_at: Option<usize>,
    /// Only even numbers.
    pub filtered: bool,
    /// How many requests its client had sent when it began: what the client published before is not shown to it.
    pub began: u64,
}

#[derive(Debug)]
pub struct Client {
    pub player: String,
    pub team: &'static str,
    pub rooms: Vec<u64>,
    pub socket: SocketId,
    pub welcomed: bool,
    pub closed: Option<u16>,
    pub next_id: u64,
    pub subscriptions: BTreeMap<String, Subscription>,
    /// Requests that are not answered.
    pub asked: BTreeMap<u64, Value>,
    /// The place in Redis' log of the last event of each channel.
    last: BTreeMap<String, usize>,
    /// Numbers of its own publishes, and which requests they were.
    pub published: BTreeMap<u64, u64>,
    /// Numbers of the events received.
    pub received: BTreeSet<u64>,
    /// The last place in Redis' log that a `RESYNC` of this channel or pattern covers.
    pub resynced: BTreeMap<String, usize>,
    /// Frames that the socket has not taken.
    pub blocked: bool,
    /// It has lost its socket, and its session may be resumed.
    pub detached: bool,
    /// What is written to its socket is lost, and nobody has noticed yet.
    pub dead: bool,
    /// The session's name.
    pub session: String,
    /// How far it has read each channel.
    pub positions: BTreeMap<String, (String, u64)>,
    /// How often it took up its session.
    pub resumed: u64,
    /// Of the channels that it is subscribed to by name.
    pub presence: BTreeMap<String, Seen>,
}

impl Client {
    pub fn new(player: String, team: &'static str, rooms: Vec<u64>, socket: SocketId) -> Self {
        Client {
            player,
            team,
            rooms,
            socket,
            welcomed: false,
            closed: None,
            next_id: 0,
            subscriptions: BTreeMap::new(),
            asked: BTreeMap::new(),
            last: BTreeMap::new(),
            published: BTreeMap::new(),
            received: BTreeSet::new(),
            resynced: BTreeMap::new(),
            blocked: false,
            detached: false,
            dead: false,
            session: String::new(),
            positions: BTreeMap::new(),
            resumed: 0,
            presence: BTreeMap::new(),
        }
    }

    /// Its socket is gone, with all that was on the way.
    pub fn lose_socket(&mut self) {
        (self.detached, self.dead, self.blocked, self.welcomed) = (true, false, false, false);
        self.asked.clear();
    }

    pub fn read(&mut self, frame: &Frame, facts: &Facts) {
        frames::messages(frame).iter().for_each(|message| self.read_message(message, facts));
    }

    fn read_message(&mut self, message: &Value, facts: &Facts) {
        let id = message["id"].as_u64();
        let channel = message["channel"].as_str().unwrap_or_default().to_owned();
        self.read_position(message, &channel);
        match message["type"].as_str().unwrap() {
            "WELCOME" => self.read_welcome(message, facts),
            "EVENT" => self.read_event(message, &channel, facts),
            "CHANNEL_SUBSCRIBED" => {
                let (request, resubscribed) = (self.answered(id), channel.clone());
                let began = self.next_id;
                let new = || Subscription { began, ..Subscription::default() };
                let subscription = self.subscriptions.entry(channel).or_insert_with(new);
                if let Some(request) = request {
                    subscription.filtered = request.get("filter").is_some();
                }
                subscription.confirmed_at.get_or_insert(facts.log.len());
                self.presence.remove(&resubscribed);
            }
            "PRESENCE" => {
                self.answered(id);
                self.read_page(id, message, &channel);
            }
            "PRESENCE_CHANGED" => self.read_change(message, &channel),
            "CHANNEL_UNSUBSCRIBED" => {
                self.presence.remove(&channel);
                self.answered(id);
                self.subscriptions.remove(&channel);
            }
            "EVENT_PUBLISHED" => {
                let request = self.answered(id).unwrap();
                let number = request["data"]["n"].as_u64().unwrap();
                assert!(
                    facts.places.contains_key(&number),
                    "{number} was acknowledged, and Redis has it not"
                );
            }
            "RESYNC" => {
                self.resynced.insert(channel, facts.log.len());
            }
            "ERROR" => {
                let request = self.answered(id);
                if request.as_ref().is_some_and(|request| request["type"] == "CHANNEL_SUBSCRIBE")
                    && self.subscriptions.get(&channel).is_some_and(|held| held.confirmed_at.is_none())
                {
                    self.subscriptions.remove(&channel);
                }
                let code = message["code"].as_str().unwrap();
                assert!(
                    matches!(
                        code,
                        "FORBIDDEN"
                            | "NOT_SUBSCRIBED"
                            | "BROKER_UNAVAILABLE"
                            | "RATE_LIMITED"
                            | "LIMIT_EXCEEDED"
                    ),
                    "{message} to {request:?}"
                );
            }
            "STATUS" | "GOODBYE" | "PONG" => {}
            other => panic!("unexpected {other}: {message}"),
        }
    }

    /// The answer, and on top of it the changes that came since the request.
    fn read_page(&mut self, id: Option<u64>, message: &Value, channel: &str) {
        let players = message["players"].as_array().unwrap();
        assert!(message.get("next").is_none() && message["total"] == players.len(), "{message}");
        let seen = self.presence.entry(channel.to_owned()).or_default();
        if seen.request != id {
            return;
        }
        let mut now: BTreeSet<String> =
            players.iter().map(|one| one["player"].as_str().unwrap().to_owned()).collect();
        for (player, is_joined) in &seen.since {
            match is_joined {
                true => now.insert(player.clone()),
                false => now.remove(player),
            };
        }
        seen.players = Some(now);
    }

    fn read_change(&mut self, message: &Value, channel: &str) {
        assert!(self.subscriptions.contains_key(channel), "{message} without a subscription");
        let seen = self.presence.entry(channel.to_owned()).or_default();
        if message["reset"] == true {
            return *seen = Seen::default();
        }
        for (list, is_joined) in [("joined", true), ("left", false)] {
            for player in message[list].as_array().unwrap() {
                let player = player.as_str().unwrap().to_owned();
                assert_ne!(player, self.player, "its own");
                if let Some(players) = &mut seen.players {
                    match is_joined {
                        true => players.insert(player.clone()),
                        false => players.remove(&player),
                    };
                }
                seen.since.push((player, is_joined));
            }
        }
    }

    /// The next page is of this moment or later.
    pub fn requests_page(&mut self, channel: &str) {
        let seen = self.presence.entry(channel.to_owned()).or_default();
        (seen.request, seen.since) = (Some(self.next_id + 1), Vec::new());
    }

    /// The channel's place in its count; events name no epoch.
    fn read_position(&mut self, message: &Value, channel: &str) {
        let Some(offset) = message["offset"].as_u64() else { return };
        match message["epoch"].as_str() {
            Some(epoch) => drop(self.positions.insert(channel.to_owned(), (epoch.to_owned(), offset))),
            None => {
                self.positions.entry(channel.to_owned()).and_modify(|(_, last)| *last = offset).or_default();
            }
        }
    }

    /// What it sends to take up its session; with its own subscriptions where `subscribe` says so.
    pub fn connect(&self, subscribe: bool) -> Value {
        let positions = self.positions.iter().filter(|(_, (epoch, _))| !epoch.is_empty());
        let positions: serde_json::Map<String, Value> = positions
            .map(|(channel, (epoch, offset))| {
                (channel.clone(), serde_json::json!({ "epoch": epoch, "offset": offset }))
            })
            .collect();
        let mut connect = serde_json::json!({
            "type": "CONNECT",
            "resume": { "session": self.session, "positions": positions },
        });
        if subscribe {
            let own = self.subscriptions.iter().map(|(name, held)| match held.filtered {
                true => serde_json::json!({ "channel": name, "filter": "data.n % 2 == 0" }),
                false => serde_json::json!({ "channel": name }),
            });
            connect["subscribe"] = own.collect();
        }
        connect
    }

    /// Until a request is answered its filter may hold already, or not yet.
    fn is_asked_about(&self, name: &str) -> bool {
        self.asked.values().any(|asked| asked["channel"] == name)
    }

    fn answered(&mut self, id: Option<u64>) -> Option<Value> {
        let request = self.asked.remove(&id?);
        assert!(request.is_some(), "an answer to {id:?}, which waits for none");
        request
    }

    fn read_welcome(&mut self, message: &Value, facts: &Facts) {
        assert!(!std::mem::replace(&mut self.welcomed, true), "a second WELCOME");
        self.session = message["session"].as_str().unwrap().to_owned();
        let is_resumed = message["resumed"] == true;
        self.resumed += u64::from(is_resumed);
        let mut before = std::mem::take(&mut self.subscriptions);
        if !is_resumed {
            self.last.clear();
            self.positions.clear();
            self.presence.clear();
        }
        for listed in message["subscriptions"].as_array().unwrap() {
            let pending = listed["pending"] == true;
            let name = listed["channel"].as_str().unwrap().to_owned();
            self.read_position(listed, &name);
            let known = before.remove(&name);
            let filtered = known.as_ref().is_some_and(|known| known.filtered);
            let began = self.next_id;
            let confirmed_at = (!pending).then_some(facts.log.len());
            let new = Subscription { confirmed_at, filtered, began };
            // What it has held since before the break is to be complete, unless `RESYNC` follows.
            let held = known.filter(|known| is_resumed && known.confirmed_at.is_some()).unwrap_or(new);
            self.subscriptions.insert(name, held);
        }
        let held = &self.subscriptions;
        self.presence.retain(|channel, _| held.contains_key(channel));
    }

    fn read_event(&mut self, message: &Value, channel: &str, facts: &Facts) {
        assert!(self.welcomed, "an event before WELCOME");
        let number = message["data"]["n"].as_u64().unwrap();
        assert!(self.may_see(channel, &message["data"]), "{} must not see {message}", self.player);
        assert!(
            self.subscriptions.iter().any(|(name, subscription)| {
                subscription.confirmed_at.is_some()
                    && covers(name, channel)
                    && (subscription.shows(number) || self.is_asked_about(name))
            }),
            "{message} without a subscription that shows it"
        );
        let place = facts.places[&number];
        if let Some(last) = self.last.insert(channel.to_owned(), place) {
            assert!(last < place, "{message} came twice or out of order");
        }
        self.received.insert(number);
    }

    /// What rights and the classes' views allow.
    pub fn may_see(&self, channel: &str, data: &Value) -> bool {
        match channel.split_once(':') {
            Some(("room", room)) => self.rooms.iter().any(|own| own.to_string() == room),
            Some(("game", _)) => data.get("team").is_none_or(|team| team == self.team),
            Some(("player", player)) => player == self.player,
            Some(("lobby", _)) => true,
            _ => false,
        }
    }

    /// Confirmed means delivered: whatever Redis took after the client saw the confirmation has come, or a
    /// `RESYNC` tells of the loss. For subscriptions that are still held when everything has settled.
    pub fn check_nothing_is_missing(&self, facts: &Facts) {
        for (name, subscription) in &self.subscriptions {
            let from = subscription.confirmed_at.unwrap_or_else(|| panic!("{name} was never confirmed"));
            for (place, said) in facts.log.iter().enumerate().skip(from) {
                let (channel, number) = (&said.channel, &said.number);
                let due = covers(name, channel)
                    && self.may_see(channel, &said.data)
                    && subscription.shows(*number)
                    && self.published.get(number).is_none_or(|request| *request > subscription.began)
                    && !self.received.contains(number);
                let told = [name.as_str(), channel]
                    .iter()
                    .any(|c| self.resynced.get(*c).is_some_and(|at| *at >= place));
                assert!(!due || told, "{} lost {number} on {channel} ({name}) in silence", self.player);
            }
        }
    }
}

impl Subscription {
    fn shows(&self, number: u64) -> bool {
        !self.filtered || number.is_multiple_of(2)
    }
}

pub fn covers(name: &str, channel: &str) -> bool {
    if name.contains(['*', '?', '[']) { glob_matches(name, channel) } else { name == channel }
}
