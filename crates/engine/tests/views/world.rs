//! Two nodes of a hub and one or two shards each, around one Redis, with players who come, look around, act, stall and
//! vanish. Every queue between the parts is stepped at random; time passes only when the seed says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{
    BrokerEvent, Commit, Input, Now, PlayerAction, PlayerCommand, PublishFailure, WriteKind,
};
use drawbridge_engine::upstream::HubOutput;
use drawbridge_protocol::Frame;
use drawbridge_testkit::cluster::{Cluster, Outside, Size, SocketId};
use drawbridge_testkit::dice::{Chance, Dice};
use drawbridge_testkit::facts::Said;
use drawbridge_testkit::players::{claims, opened};
use serde_json::{Value, json};

use crate::client::{Asked, Client, Known, Look};
use crate::rules::{Area, CHANNELS, Facts, Filter, Rules, has_table, is_good, kind};

const NODES: usize = 2;
const MAX_CLIENTS: usize = 9;
const PLAYERS: usize = 5;
const TEAMS: [&str; 2] = ["red", "blue"];

/// By channel and key: the place of a plain event behind the last reading of the table, and when it was received.
type Plain = BTreeMap<(String, String), (usize, u64)>;

/// Everyone at the sockets, and what goes wrong.
struct Players {
    dice: Dice,
    rules: Rules,
    clients: Vec<Client>,
    facts: Facts,
    tokens: VecDeque<(SocketId, &'static str)>,
    /// Of each node.
    plain: Vec<Plain>,
    settling: bool,
}

pub struct World {
    cluster: Cluster,
    players: Players,
    next_number: u64,
    steps: usize,
}

impl Chance for Players {
    fn roll(&mut self, sides: usize) -> usize {
        self.dice.roll(sides)
    }
}

impl Outside for Players {
    /// The socket takes all of it, or only some frames and then no more for a while.
    fn write(&mut self, socket: SocketId, mut frames: Vec<Frame>) -> Option<Vec<Frame>> {
        let is_blocked = !self.settling && self.dice.roll(self.rules.blocks) == 0;
        let taken = if is_blocked { self.roll(frames.len() + 1) } else { frames.len() };
        let unsent = frames.split_off(taken);
        let client = self.at(socket);
        assert!(!client.blocked, "a write to a blocked socket");
        client.blocked = is_blocked;
        self.read_all(socket, &frames);
        is_blocked.then_some(unsent)
    }

    fn close(&mut self, socket: SocketId, frames: Vec<Frame>, code: u16) {
        self.read_all(socket, &frames);
        self.at(socket).closed = Some(code);
    }

    /// A token is a team.
    fn authenticate(&mut self, socket: SocketId, token: &str) {
        let team = TEAMS.into_iter().find(|team| *team == token).unwrap();
        self.tokens.push_back((socket, team));
    }

    /// Nothing writes to the tables but the functions.
    fn unreadable(&mut self, what: &HubOutput) {
        assert!(matches!(what, HubOutput::BadEntity { .. }), "unexpected {what:?}");
    }

    fn published(&mut self, channel: &Arc<str>, payload: &Bytes, is_committed: bool) {
        self.facts.take(Said::read(channel, payload, is_committed));
    }

    /// What a plain event says holds on its node until the key is written to, or the table is read again.
    fn received(&mut self, now: Now, node: usize, channel: &Arc<str>, payload: &Bytes) {
        if !CHANNELS.contains(&&**channel) || !has_table(channel) {
            return;
        }
        let number = Said::read(channel, payload, false).number;
        let (place, said) = self.facts.of_number(number);
        let Some(key) = said.key.clone().filter(|_| is_good(said)) else { return };
        let of = (channel.to_string(), key);
        if said.committed {
            self.plain[node].remove(&of);
        } else {
            self.plain[node].insert(of, (place, now.mono_ms));
        }
    }

    fn reloads(&mut self, node: usize, channel: &str) {
        self.plain[node].retain(|(of, _), _| *of != channel);
    }

    fn drops(&mut self, event: &BrokerEvent) -> bool {
        let of = match event {
            BrokerEvent::Publication(_) => 1_000,
            BrokerEvent::Command(_) => 100,
            _ => return false,
        };
        !self.settling && self.dice.roll(of) < self.rules.drops
    }

    fn failure(&mut self) -> Option<PublishFailure> {
        self.dice.write_failure()
    }
}

impl Players {
    fn at(&mut self, socket: SocketId) -> &mut Client {
        self.clients.iter_mut().find(|client| client.socket == socket).unwrap()
    }

    fn read_all(&mut self, socket: SocketId, frames: &[Frame]) {
        let client = self.clients.iter_mut().find(|client| client.socket == socket).unwrap();
        frames.iter().for_each(|frame| client.read(frame, &self.facts, &self.rules));
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let rules = Rules::roll(&mut dice);
        if std::env::var("DRAWBRIDGE_SEED").is_ok() {
            eprintln!("{rules:#?}");
        }
        let settings = Arc::new(rules.settings());
        let size = Size { nodes: NODES, shards: rules.shards, links: 1 };
        let mut players = Players {
            dice,
            rules,
            clients: Vec::new(),
            facts: Facts::default(),
            tokens: VecDeque::new(),
            plain: vec![Plain::new(); NODES],
            settling: false,
        };
        let cluster = Cluster::new(&settings, size, &mut players);
        World { cluster, players, next_number: 0, steps: 0 }
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.players.roll(sides)
    }

    fn pass(&mut self, ms: u64) {
        self.cluster.pass(ms, &mut self.players);
    }

    fn input(&mut self, node: usize, shard: usize, input: Input<'_>) {
        self.cluster.input(node, shard, input, &mut self.players);
    }

    /// One random thing.
    pub fn step(&mut self) {
        match self.roll(1_000) {
            0..30 => self.connect(),
            30..90 => self.subscribe(),
            90..105 => self.unsubscribe(),
            105..165 => self.update_view(),
            165..285 => self.publish(),
            285..315 => self.publish_from_outside(),
            315..395 => self.commit_from_outside(),
            395..405 => self.vanish(),
            405..435 => self.unblock(),
            435..440 => self.cut_a_link(),
            440..460 => self.cluster.mend(&mut self.players),
            460..500 => {
                let ms = [5, 20, 50, 60][self.roll(4)];
                self.pass(ms);
            }
            500..515 => self.refresh_token(),
            515..535 => self.narrow(),
            535..537 => self.cluster.redis.flush(),
            537..547 => self.cluster.send_lost(&mut self.players),
            547..557 => self.catch_up(),
            _ => {
                for _ in 0..=self.roll(6) {
                    self.carry();
                }
            }
        }
        self.steps += 1;
        if self.steps.is_multiple_of(8) {
            self.check_bounds();
        }
    }

    /// Lets everything come to rest with all links up and all sockets reading; every table is written to once more.
    pub fn settle(&mut self) {
        self.players.settling = true;
        self.cluster.mend(&mut self.players);
        self.rest(10);
        // Entities that lived their time are gone on every node before the last ones come.
        if self.players.rules.ttl_ms < 10_000 {
            self.rest((self.players.rules.ttl_ms / 50) as usize + 5);
        }
        for channel in CHANNELS.into_iter().filter(|channel| has_table(channel)) {
            for key in ["e0", "e2", "e5"] {
                self.commit_news(channel, Some(key), true);
            }
        }
        self.rest(if self.players.rules.ttl_ms < 10_000 { 6 } else { 10 });
    }

    /// Moves everything, and so many windows pass.
    fn rest(&mut self, windows: usize) {
        for _ in 0..windows {
            self.cluster.send_lost(&mut self.players);
            for at in 0..self.players.clients.len() {
                self.unblock_client(at);
            }
            while self.carry_one_of_each() {}
            self.pass(50);
        }
        while self.carry_one_of_each() {}
    }

    pub fn check_settled(&self) {
        for client in self.players.clients.iter().filter(|client| client.closed.is_none()) {
            client.check_settled(&self.players.facts, &self.players.rules, |channel| {
                self.known(client.socket.node, channel)
            });
        }
    }

    /// What a node knows of an entity channel: what Redis has, and on it what plain events said since it was read.
    fn known(&self, node: usize, channel: &str) -> Known {
        let mut known = Known::default();
        for (key, payload) in self.cluster.redis.rows(self.cluster.now.mono_ms, channel) {
            let number = Said::read(channel, &payload, true).number;
            known.states.insert(key, self.players.facts.places[&number]);
        }
        let alive = |updated_ms: u64| self.cluster.now.mono_ms < updated_ms + self.players.rules.ttl_ms;
        for ((of, key), (place, updated_ms)) in &self.players.plain[node] {
            if of != channel {
                continue;
            }
            if self.players.facts.log[*place].is_remove() || !alive(*updated_ms) {
                known.states.remove(key);
            } else {
                // A new key may have been one too many.
                if self.players.rules.entity_max < 100 {
                    known.uncertain.insert(key.clone());
                }
                known.states.insert(key.clone(), *place);
            }
        }
        known
    }

    /// Everybody vanishes; nothing may be left.
    pub fn check_no_leak(&mut self) {
        for at in 0..self.players.clients.len() {
            self.vanish_client(at);
        }
        self.rest(10);
        self.cluster.check_nothing_is_left();
    }

    /// What waits is bounded, whoever does not read.
    fn check_bounds(&self) {
        for (node, at) in self.cluster.nodes.iter().enumerate() {
            for (shard, engine) in at.shards.iter().map(|shard| &shard.engine).enumerate() {
                let stats = engine.stats();
                let theirs =
                    self.players.clients.iter().filter(|c| (c.socket.node, c.socket.shard) == (node, shard));
                let open = theirs.filter(|client| client.closed.is_none()).count();
                // A part of a snapshot or of a batch is made whole, and one event comes behind the bound.
                let slack = if self.players.rules.padding == 0 {
                    8_000
                } else {
                    64 * 1024 + 2 * self.players.rules.padding
                };
                let bound = open * (2 * self.players.rules.outbound_bytes + slack);
                let waits = stats.queued_bytes + stats.frame_bytes;
                assert!(waits <= bound as u64, "{waits} bytes wait for {open} connections: {stats:?}");
            }
        }
    }

    fn connect(&mut self) {
        if self.players.clients.iter().filter(|client| client.closed.is_none()).count() >= MAX_CLIENTS {
            return;
        }
        let (node, shard) = (self.roll(NODES), self.roll(self.players.rules.shards));
        let player = format!("p{}", self.roll(PLAYERS));
        let team = TEAMS[self.roll(2)];
        let conn = self.cluster.shard(node, shard).next_conn();
        let socket = SocketId { node, shard, conn };
        let wait_for_connect = self.roll(3) == 0;
        let patterns = self.roll(3) == 0;
        let mut client = Client::new(player.clone(), team, socket, patterns);
        client.joined = !wait_for_connect;
        self.players.clients.push(client);
        // Unique in the cluster, as random names are.
        let connection = (self.players.clients.len() as u64) << 8;
        let mut opened = opened(conn, connection, Some(claims(&player, team)));
        opened.wait_for_connect = wait_for_connect;
        self.input(node, shard, Input::Opened(opened));
        if wait_for_connect {
            self.send_connect(self.players.clients.len() - 1);
        }
    }

    fn send_connect(&mut self, at: usize) {
        let mut wishes = Vec::new();
        for channel in CHANNELS {
            if self.roll(3) == 0 {
                let (filter, area) = self.look(channel);
                wishes.push(wish(channel, filter, area.as_ref()));
                self.players.clients[at].wishes_for(channel, Look::new(filter, area));
            }
        }
        self.players.clients[at].joined = true;
        self.send(at, json!({ "type": "CONNECT", "subscribe": wishes }));
    }

    /// A filter, and an area where the channel has positions, or now and then where it has none.
    fn look(&mut self, channel: &str) -> (Option<Filter>, Option<Area>) {
        let filter = (self.roll(2) == 0).then(|| Filter::roll(&mut self.players.dice));
        let spatial = kind(channel) == 2 || self.roll(20) == 0;
        let area = (spatial && self.roll(5) > 0).then(|| Area::roll(&mut self.players.dice));
        (filter, area)
    }

    fn subscribe(&mut self) {
        let Some(at) = self.some_client() else { return };
        let name = match self.players.clients[at].patterns {
            true => ["ent:a", "sp:a", "st:a", "ent:*", "st:*", "sp:*"][self.roll(6)],
            false => CHANNELS[self.roll(CHANNELS.len())],
        };
        let (filter, area) = if name.contains('*') {
            ((self.roll(2) == 0).then(|| Filter::roll(&mut self.players.dice)), None)
        } else {
            self.look(name)
        };
        let mut message = wish(name, filter, area.as_ref());
        message["type"] = "CHANNEL_SUBSCRIBE".into();
        let asked = Asked { filter: Some(filter), area: Some(area), ..asked("CHANNEL_SUBSCRIBE", name) };
        self.ask(at, asked, message);
    }

    fn unsubscribe(&mut self) {
        let Some((at, name)) = self.some_subscription() else { return };
        let message = json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": name });
        self.ask(at, asked("CHANNEL_UNSUBSCRIBE", &name), message);
    }

    fn update_view(&mut self) {
        let Some((at, name)) = self.some_subscription() else { return };
        let mut message = json!({ "type": "FILTER_UPDATE", "channel": name });
        let mut asked = asked("FILTER_UPDATE", &name);
        let (filter, area) = if name.contains('*') { (None, None) } else { self.look(&name) };
        if self.roll(2) == 0 {
            message["filter"] = json!(filter.map(Filter::text));
            asked.filter = Some(filter);
        }
        if self.roll(2) == 0 && !name.contains('*') {
            message["area"] = area.as_ref().map_or(Value::Null, Area::json);
            asked.area = Some(area);
        }
        self.ask(at, asked, message);
    }

    fn some_subscription(&mut self) -> Option<(usize, String)> {
        let at = self.some_client()?;
        let pick = self.roll(self.players.clients[at].subscriptions.len() + 1);
        Some((at, self.players.clients[at].subscriptions.keys().nth(pick)?.clone()))
    }

    fn publish(&mut self) {
        let Some(at) = self.some_client() else { return };
        let channel = CHANNELS[self.roll(CHANNELS.len())];
        let (event, data) = self.news(channel, None, false);
        let message = json!({ "type": "PUBLISH_EVENT", "channel": channel, "event": event, "data": data });
        let asked = Asked { number: self.next_number, ..asked("PUBLISH_EVENT", channel) };
        self.ask(at, asked, message);
    }

    /// A plain `PUBLISH`.
    fn publish_from_outside(&mut self) {
        let channel = CHANNELS[self.roll(CHANNELS.len())];
        let (event, data) = self.news(channel, None, false);
        let payload = json!({ "event": event, "data": data }).to_string();
        self.cluster.publish(&channel.into(), &payload.into(), &mut self.players);
    }

    /// `drawbridge_publish`.
    fn commit_from_outside(&mut self) {
        let channel = ["ent:a", "ent:b", "sp:a", "sp:b"][self.roll(4)];
        self.commit_news(channel, None, false);
    }

    fn commit_news(&mut self, channel: &str, key: Option<&str>, good: bool) {
        let (event, data) = self.news(channel, key, good);
        let payload: Bytes = json!({ "event": event, "data": data }).to_string().into();
        let said = Said::read(channel, &payload, true);
        if !is_good(&said) {
            return;
        }
        let commit = Commit {
            key: said.key.as_deref().unwrap().into(),
            remove: said.is_remove(),
            payload,
            id: "db1.".to_owned(),
            max: self.players.rules.entity_max,
            max_bytes: 1 << 30,
            ttl_ms: self.players.rules.ttl_ms,
        };
        let commit = WriteKind::Commit { channel: channel.into(), commit };
        // A full table refuses.
        let _ = self.cluster.take(commit, &mut self.players);
    }

    /// An event of an entity, mostly; `good`: certainly one of this key.
    fn news(&mut self, channel: &str, key: Option<&str>, good: bool) -> (&'static str, Value) {
        self.next_number += 1;
        let id = match self.roll(9) {
            7 => json!(7),
            key => json!(format!("e{key}")),
        };
        let mut data = json!({ "n": self.next_number, "hp": self.roll(10), "id": id });
        if let Some(key) = key {
            data["id"] = key.into();
        }
        if kind(channel) == 2 {
            data["x"] = self.roll(100).into();
            data["y"] = self.roll(100).into();
        }
        if self.roll(2) == 0 {
            data["team"] = TEAMS[self.roll(2)].into();
        }
        if self.players.rules.padding > 0 && self.roll(2) == 0 {
            data["pad"] = "x".repeat(self.players.rules.padding).into();
        }
        if good {
            return ("e", data);
        }
        match self.roll(40) {
            0 => data["id"] = json!({}),
            1 => data["id"] = Value::Null,
            2 => data["x"] = "here".into(),
            3 => data["y"] = Value::Null,
            _ => {}
        }
        (["e", "e", "e", "e", "f", "remove"][self.roll(6)], data)
    }

    fn refresh_token(&mut self) {
        let Some(at) = self.some_client() else { return };
        let team = TEAMS[self.roll(2)];
        self.send(at, json!({ "type": "TOKEN_REFRESH", "token": team }));
    }

    /// A service narrows what a player is shown, or no longer.
    fn narrow(&mut self) {
        let player: Arc<str> = format!("p{}", self.roll(PLAYERS)).into();
        let channel: Arc<str> = CHANNELS[self.roll(CHANNELS.len())].into();
        let view: Option<Arc<str>> =
            (self.roll(3) > 0).then(|| Filter::roll(&mut self.players.dice).text().into());
        self.players.facts.narrow(&player, &channel, view.as_deref().map(Filter::of_text));
        let action = PlayerAction::View { channel, view };
        self.cluster.redis.command_player(&PlayerCommand { player, action });
    }

    fn ask(&mut self, at: usize, asked: Asked, mut message: Value) {
        message["id"] = self.players.clients[at].asks(asked).into();
        self.send(at, message);
    }

    fn send(&mut self, at: usize, message: Value) {
        let socket = self.players.clients[at].socket;
        self.cluster.text(socket, &message.to_string(), &mut self.players);
    }

    fn some_client(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.players.clients.len())
            .filter(|at| self.players.clients[*at].closed.is_none() && self.players.clients[*at].welcomed)
            .collect();
        if open.is_empty() { None } else { Some(open[self.roll(open.len())]) }
    }

    fn vanish(&mut self) {
        if let Some(at) = self.some_client() {
            self.vanish_client(at);
        }
    }

    fn vanish_client(&mut self, at: usize) {
        let client = &mut self.players.clients[at];
        if client.closed.is_none() {
            client.closed = Some(1006);
            let SocketId { node, shard, conn } = client.socket;
            self.input(node, shard, Input::Closed { conn, code: 1006 });
        }
    }

    fn unblock(&mut self) {
        if let Some(at) = self.some_client() {
            self.unblock_client(at);
        }
    }

    fn unblock_client(&mut self, at: usize) {
        let client = &mut self.players.clients[at];
        if std::mem::take(&mut client.blocked) && client.closed.is_none() {
            let SocketId { node, shard, conn } = client.socket;
            self.input(node, shard, Input::Writable { conn });
        }
    }

    fn cut_a_link(&mut self) {
        let node = self.roll(NODES);
        self.cluster.cut(node, &mut self.players);
    }

    /// One thing moves on in one of the queues.
    fn carry(&mut self) {
        match self.roll(11) {
            0 => self.carry_token(),
            _ => self.cluster.carry(&mut self.players),
        };
    }

    fn carry_one_of_each(&mut self) -> bool {
        self.carry_token() | self.cluster.carry_one_of_each(&mut self.players)
    }

    fn carry_token(&mut self) -> bool {
        let Some((socket, team)) = self.players.tokens.pop_front() else { return false };
        let client = self.players.at(socket);
        if client.closed.is_some() {
            return true;
        }
        let fence = client.is_of_team(team);
        let result = Ok(claims(&client.player, team));
        let SocketId { node, shard, conn } = socket;
        self.input(node, shard, Input::Authenticated { conn, result });
        // A ping reports where the other rights hold.
        self.cluster.text(socket, &json!({ "type": "PING", "id": fence }).to_string(), &mut self.players);
        true
    }

    /// A shard lags: what newer states of entities replace is dropped.
    fn catch_up(&mut self) {
        let (node, shard) = (self.roll(NODES), self.roll(self.players.rules.shards));
        self.cluster.catch_up(node, shard);
    }
}

fn asked(kind: &'static str, channel: &str) -> Asked {
    Asked { kind, channel: channel.to_owned(), filter: None, area: None, number: 0 }
}

/// A subscription as a client asks for it.
fn wish(channel: &str, filter: Option<Filter>, area: Option<&Area>) -> Value {
    let mut wish = json!({ "channel": channel });
    if let Some(filter) = filter {
        wish["filter"] = filter.text().into();
    }
    if let Some(area) = area {
        wish["area"] = area.json();
    }
    wish
}
