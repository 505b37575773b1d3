//! Two nodes of two shards and one link each, around one Redis with logs, or beside that link with one to each master of a
//! Cluster. Every queue between the parts is stepped at random; time passes only when the seed says so.

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::class::{Class, History, Presence};
use drawbridge_engine::expr::Vars;
use drawbridge_engine::io::{
    BrokerEvent, Epoch, Input, LogEntry, LogPosition, LoggedOffset, Opened, PublishFailure, WriteKind,
};
use drawbridge_engine::settings::Settings;
use drawbridge_protocol::Frame;
use drawbridge_testkit::classes::{open, rule};
use drawbridge_testkit::cluster::{Cluster, Outside, Size, SocketId};
use drawbridge_testkit::dice::{Chance, Dice};
use drawbridge_testkit::players::{claims_of, opened};
use drawbridge_testkit::redis::logs::Logs;
use drawbridge_testkit::sessions::SessionStore;
use drawbridge_testkit::settings::settings;
use serde_json::{Value, json};

use crate::client::Client;
use crate::facts::Facts;
use crate::masters::MASTERS;
use crate::plain::PREFIX;

const NODES: usize = 2;
const SHARDS: usize = 2;
const SIZE: Size = Size { nodes: NODES, shards: SHARDS, links: 1 };
const CHANNELS: [&str; 3] = ["log:a", "log:b", "log:c"];
/// Where nodes crash, and players are present on channels without history: one class says who is there on request, the other one
/// notifies, too.
const CRASHING: [&str; 5] = ["log:a", "log:b", "log:c", "room:a", "room:query:b"];
/// In a Cluster, all sharded.
const SHARDED: [&str; 6] = ["log:a", "log:b", "log:c", "room:a", "room:b", "room:c"];
/// How long a session outlives its connection where nodes crash, in milliseconds.
const WINDOW_MS: u64 = 30_000;
/// How many events a log keeps.
const KEPT: u64 = 60;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing that loses a logged event.
    Breaks,
    /// Nor does this: nodes die, and players resume their sessions on any other.
    Crashes,
    /// Everything.
    Foul,
}

/// Everyone at the sockets, and what goes wrong.
pub struct Players {
    dice: Dice,
    clients: Vec<Client>,
    pub facts: Facts,
    weather: Weather,
    is_settling: bool,
}

pub struct World {
    pub cluster: Cluster,
    pub players: Players,
    /// Around the masters of a Redis Cluster.
    is_on_masters: bool,
    next_number: u64,
    connections: u64,
}

impl Chance for Players {
    fn roll(&mut self, sides: usize) -> usize {
        self.dice.roll(sides)
    }
}

impl Outside for Players {
    fn write(&mut self, socket: SocketId, mut frames: Vec<Frame>) -> Option<Vec<Frame>> {
        let is_blocked = !self.is_settling && self.roll(10) == 0;
        let taken = if is_blocked { self.roll(frames.len() + 1) } else { frames.len() };
        let unsent = frames.split_off(taken);
        self.read_all(socket, &frames);
        if let Some(client) = self.at(socket) {
            client.blocked = is_blocked;
        }
        is_blocked.then_some(unsent)
    }

    fn close(&mut self, socket: SocketId, frames: Vec<Frame>, code: u16) {
        self.read_all(socket, &frames);
        match self.at(socket) {
            // It comes again.
            Some(client) if (code == 4001 || code == 1001) && client.welcomed => client.detached = true,
            Some(client) => {
                assert_ne!(code, 4505, "{} has no other connection", client.player);
                client.closed = Some(code);
            }
            None => {}
        }
    }

    fn published(&mut self, channel: &Arc<str>, payload: &Bytes, is_committed: bool) {
        self.facts.published(channel, payload, is_committed);
    }

    fn published_by_former_master(&mut self, channel: &Arc<str>, _: &Bytes) {
        if channel.starts_with(PREFIX) {
            self.facts.plain.newest_is_not_due();
        }
    }

    fn defers(&mut self) -> bool {
        !self.is_settling && self.roll(10) == 0
    }

    /// Of records of sessions: who publishes here is no player.
    fn failure(&mut self) -> Option<PublishFailure> {
        let may_fail = self.weather == Weather::Crashes && !self.is_settling;
        may_fail.then(|| self.write_failure()).flatten()
    }

    fn drops(&mut self, event: &BrokerEvent) -> bool {
        let may_drop = matches!(event, BrokerEvent::Publication(_) | BrokerEvent::Replay(_));
        may_drop && !self.is_settling && self.roll(25) == 0
    }
}

impl Players {
    fn new(seed: u64, weather: Weather) -> Self {
        let dice = Dice::new(seed);
        Players { dice, clients: Vec::new(), facts: Facts::default(), weather, is_settling: false }
    }

    fn at(&mut self, socket: SocketId) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.socket == socket)
    }

    fn read_all(&mut self, socket: SocketId, frames: &[Frame]) {
        let facts = &self.facts;
        if let Some(client) = self.clients.iter_mut().find(|client| client.socket == socket) {
            frames.iter().for_each(|frame| client.read(frame, facts));
        }
    }
}

impl World {
    pub fn new(seed: u64, weather: Weather) -> Self {
        let mut players = Players::new(seed, weather);
        let mut cluster = Cluster::new(&Arc::new(rules(weather)), SIZE, &mut players);
        cluster.sessions = (weather == Weather::Crashes).then(SessionStore::default);
        World { cluster, players, is_on_masters: false, next_number: 0, connections: 0 }
    }

    /// Around the masters of a Redis Cluster, with everything that goes wrong.
    pub fn on_masters(seed: u64) -> Self {
        let mut players = Players::new(seed, Weather::Foul);
        let settings = Arc::new(sharded_rules());
        let cluster = Cluster::with_masters(&settings, SIZE, (MASTERS, &SHARDED), &mut players);
        World { cluster, players, is_on_masters: true, next_number: 0, connections: 0 }
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.players.roll(sides)
    }

    /// One random thing.
    pub fn step(&mut self) {
        if self.is_on_masters && self.roll(12) == 0 {
            return self.act_on_masters();
        }
        match self.roll(100) {
            0..3 => self.connect(),
            3..9 => self.subscribe(),
            9..11 => self.unsubscribe(),
            11..28 => self.append(),
            28..32 => self.publish(),
            32..33 => self.forge(),
            33..34 => self.cut_a_link(),
            34..38 => self.cluster.mend(&mut self.players),
            38..40 => self.detach(),
            40..44 => self.attach(),
            44..46 => self.leave(),
            46..49 => self.come_back(),
            49..52 => self.unblock(),
            52..54 => self.cluster.pass(3_000, &mut self.players),
            54..55 if self.players.weather == Weather::Foul && !self.is_on_masters => self.restart(),
            55..56 if self.players.weather == Weather::Foul => self.trim(),
            54..55 if self.players.weather == Weather::Crashes => self.crash(),
            56..57 => self.cluster.send_lost(&mut self.players),
            _ => drop(self.cluster.carry(&mut self.players)),
        }
    }

    pub fn settle(&mut self) {
        self.players.is_settling = true;
        if self.is_on_masters {
            self.spread_configuration();
        }
        self.cluster.mend(&mut self.players);
        // Longer than two windows, where they may end: a session that is left behind on the way does, too.
        let rounds = if self.players.weather == Weather::Crashes { 24 } else { 12 };
        for _ in 0..rounds {
            self.cluster.send_lost(&mut self.players);
            for at in 0..self.players.clients.len() {
                self.attach_client(at);
                self.unblock_client(at);
            }
            let mut turns = 0;
            while self.cluster.carry_one_of_each(&mut self.players) {
                turns += 1;
                assert!(turns < 100_000, "it does not come to rest");
            }
            self.cluster.pass(3_000, &mut self.players);
        }
    }

    pub fn check_settled(&mut self) {
        if self.is_on_masters {
            self.check_subscriptions();
        }
        if self.players.weather == Weather::Crashes {
            self.check_owners();
            self.check_presence();
        }
        for channel in CHANNELS {
            let end = self.log_end(channel);
            for client in self.players.clients.iter().filter(|client| client.is_open()) {
                let facts = &self.players.facts;
                client.check_nothing_plain_is_missing(facts);
                client.check_nothing_is_missing(channel, end.epoch.as_str(), end.offset.0, facts);
            }
        }
        for client in self.players.clients.iter().filter(|client| client.closed.is_none()) {
            assert!(client.welcomed, "{} was never welcomed", client.player);
            let waits = client.subscribed.iter().find(|(_, confirmed)| !**confirmed);
            assert!(waits.is_none(), "{} waits for {waits:?}", client.player);
            if self.players.weather != Weather::Foul {
                let of_a_channel = client.resyncs.iter().find(|resync| !resync.contains(['*', '[']));
                assert_eq!(of_a_channel, None, "{}: nothing is lost", client.player);
            }
        }
    }

    /// In a Cluster: no subscription is lost, and none is left over.
    fn check_subscriptions(&self) {
        let wants = |node: usize, channel: &str| {
            let mut clients = self.players.clients.iter();
            clients.any(|client| {
                client.closed.is_none()
                    && client.socket.node == node
                    && client.subscribed.contains_key(channel)
            })
        };
        self.cluster.check_subscriptions(&SHARDED, wants);
    }

    /// The logs that a channel has one of.
    fn logs_of(&mut self, channel: &str) -> &mut Logs {
        let server = self.is_on_masters.then(|| self.cluster.redis.masters.owner_of(channel));
        self.cluster.redis.logs_at(server)
    }

    fn log_end(&mut self, channel: &str) -> LogPosition {
        self.logs_of(channel).end(&channel.into())
    }

    fn channels(&self) -> &'static [&'static str] {
        match self.players.weather {
            _ if self.is_on_masters => &SHARDED,
            Weather::Crashes => &CRASHING,
            Weather::Breaks | Weather::Foul => &CHANNELS,
        }
    }

    /// All has come to rest, and windows have ended: each player has one session, on one shard of one node, and its record
    /// names that node.
    fn check_owners(&mut self) {
        let open = self.players.clients.iter().filter(|client| client.is_open()).count();
        let shards = self.cluster.nodes.iter().flat_map(|node| &node.shards);
        let stats = shards.map(|shard| shard.engine.stats());
        let (welcomed, detached) =
            stats.fold((0, 0), |sum, stats| (sum.0 + stats.welcomed, sum.1 + stats.detached));
        assert_eq!((welcomed, detached), (open as u64, 0), "sessions of nobody, or of two nodes");
        assert_eq!(self.cluster.stored_sessions(), (open, open), "records");
    }

    /// Who is present is who is subscribed: windows have ended, and what dead nodes left has been removed.
    fn check_presence(&self) {
        for channel in CRASHING.iter().filter(|channel| channel.starts_with(PREFIX)) {
            let open = self.players.clients.iter().filter(|client| client.is_open());
            let subscribed = open.filter(|client| client.subscribed.contains_key(*channel));
            let mut expected: Vec<(String, usize)> =
                subscribed.map(|client| (client.player.clone(), 1)).collect();
            expected.sort_unstable();
            assert_eq!(self.cluster.redis.presence.players(channel), expected, "{channel}");
        }
    }

    /// Everybody leaves; nothing may be left.
    pub fn check_nothing_is_left(&mut self) {
        for at in 0..self.players.clients.len() {
            self.leave_client(at);
        }
        self.settle();
        self.cluster.check_nothing_is_left();
    }

    fn connect(&mut self) {
        if self.players.clients.len() >= 12 {
            return;
        }
        let team = ["red", "blue"][self.roll(2)];
        let socket = self.next_socket();
        let player = format!("p{}", self.players.clients.len());
        let mut client = Client::new(player, team, socket);
        client.filtered = self.roll(3) == 0;
        self.players.clients.push(client);
        self.open(socket);
    }

    fn next_socket(&mut self) -> SocketId {
        let (node, shard) = (self.roll(NODES), self.roll(SHARDS));
        SocketId { node, shard, conn: self.cluster.shard(node, shard).next_conn() }
    }

    fn open(&mut self, socket: SocketId) {
        self.open_with(socket, false);
    }

    fn open_with(&mut self, socket: SocketId, wait_for_connect: bool) {
        let client = self.players.at(socket).unwrap();
        let claims = claims_of(&json!({ "sub": client.player, "team": client.team }));
        self.connections += 1;
        let opened = Opened { wait_for_connect, ..opened(socket.conn, self.connections << 8, Some(claims)) };
        self.cluster.input(socket.node, socket.shard, Input::Opened(opened), &mut self.players);
    }

    fn subscribe(&mut self) {
        let subjects: &[&str] = match self.players.weather {
            _ if self.is_on_masters => &SHARDED,
            Weather::Crashes => &["log:a", "log:b", "log:c", "log:*", "log:[ab]", "room:a", "room:query:b"],
            Weather::Breaks | Weather::Foul => &["log:a", "log:b", "log:c", "log:*", "log:[ab]"],
        };
        let name = subjects[self.roll(subjects.len())];
        let Some(at) = self.some_client() else { return };
        if !self.players.clients[at].subscribed.contains_key(name) {
            self.subscribe_client(at, name);
        }
    }

    fn subscribe_client(&mut self, at: usize, name: &str) {
        let client = &mut self.players.clients[at];
        client.subscribed.insert(name.to_owned(), false);
        let mut message = json!({ "type": "CHANNEL_SUBSCRIBE", "channel": name, "id": 1 });
        if client.filtered {
            message["filter"] = "data.n % 2 == 0".into();
        }
        self.cluster.text(client.socket, &message.to_string(), &mut self.players);
    }

    fn unsubscribe(&mut self) {
        let Some(at) = self.some_client() else { return };
        let client = &mut self.players.clients[at];
        // Under a pattern the channel would go on.
        let is_alone = self.is_on_masters || client.subscribed.len() == 1;
        let Some((name, true)) = client.subscribed.iter().next().filter(|_| is_alone) else { return };
        if !client.leaving.insert(name.clone()) {
            return;
        }
        let message = json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": name, "id": 2 });
        self.cluster.text(client.socket, &message.to_string(), &mut self.players);
    }

    fn news(&mut self, channels: &[&str]) -> (Arc<str>, Value) {
        self.next_number += 1;
        let mut data = json!({ "n": self.next_number });
        if self.roll(3) == 0 {
            data["team"] = ["red", "blue"][self.roll(2)].into();
        }
        (channels[self.roll(channels.len())].into(), json!({ "event": "e", "data": data }))
    }

    /// A service publishes into the log; sometimes many at once.
    fn append(&mut self) {
        let count = if self.roll(12) == 0 { self.roll(40) } else { 1 };
        for _ in 0..count {
            let (channel, envelope) = self.news(&CHANNELS);
            let entry = LogEntry {
                payload: envelope.to_string().into(),
                id: "db1.s".into(),
                max_events: if self.players.weather == Weather::Foul { KEPT } else { 100_000 },
                age_ms: 1_000_000,
                once: None,
            };
            let taken = self.cluster.take(WriteKind::Log { channel, entry }, &mut self.players);
            assert!(taken.is_ok() || self.is_on_masters, "{taken:?}");
        }
    }

    /// A plain `PUBLISH`.
    fn publish(&mut self) {
        let (channel, envelope) = self.news(self.channels());
        self.cluster.publish(&channel, &envelope.to_string().into(), &mut self.players);
    }

    /// A service claims a place in the log that the log does not have: it is never shown.
    fn forge(&mut self) {
        let channel: Arc<str> = CHANNELS[self.roll(CHANNELS.len())].into();
        let end = self.log_end(&channel);
        let offset = end.offset.0 + 1_000 + self.roll(5) as u64;
        let epoch = if self.roll(2) == 0 { end.epoch } else { Epoch::new(0xdead) };
        let payload = json!({
            "event": "e", "data": { "n": 1u64 << 40 }, "offset": offset, "epoch": epoch.as_str(), "id": "db1.forged",
        });
        let payload = payload.to_string().into();
        match self.is_on_masters {
            true => self.cluster.redis.publish_at(
                self.cluster.redis.masters.owner_of(&channel),
                &channel,
                &payload,
            ),
            false => self.cluster.redis.publish(&channel, &payload),
        }
    }

    /// Redis starts again, perhaps without its last writes.
    fn restart(&mut self) {
        let before: Vec<_> = CHANNELS.map(|channel| self.cluster.redis.logs.end(&channel.into())).into();
        for link in 0..NODES {
            self.cluster.cut(link, &mut self.players);
        }
        let lost = if self.roll(2) == 0 { 0 } else { self.roll(6) };
        match self.roll(8) {
            0 => self.cluster.redis.logs.clear(),
            _ => drop(self.cluster.redis.logs.restart(lost)),
        }
        for (channel, before) in CHANNELS.into_iter().zip(before) {
            let end = self.cluster.redis.logs.end(&channel.into());
            let (epoch, offset) = (end.epoch.as_str(), end.offset.0);
            if offset > 0 {
                self.players.facts.goes_on(channel, before.epoch.as_str(), epoch, offset);
            }
        }
    }

    fn trim(&mut self) {
        let (channel, keep) = (CHANNELS[self.roll(CHANNELS.len())], self.roll(5));
        self.logs_of(channel).trim(&channel.into(), keep);
    }

    fn cut_a_link(&mut self) {
        let link = self.roll(self.cluster.redis.links.len());
        self.cluster.cut(link, &mut self.players);
    }

    fn some_client(&mut self) -> Option<usize> {
        let clients = &self.players.clients;
        let open: Vec<usize> = (0..clients.len()).filter(|at| clients[*at].is_open()).collect();
        if open.is_empty() { None } else { Some(open[self.roll(open.len())]) }
    }

    /// A player's socket is gone, and the session stays. What it had not read is lost with it.
    fn detach(&mut self) {
        let Some(at) = self.some_client() else { return };
        let client = &mut self.players.clients[at];
        if client.blocked || client.subscribed.values().any(|confirmed| !confirmed) {
            return;
        }
        let SocketId { node, shard, conn } = client.socket;
        client.detached = true;
        self.cluster.input(node, shard, Input::Closed { conn, code: 1006 }, &mut self.players);
    }

    fn attach(&mut self) {
        let clients = &self.players.clients;
        let detached: Vec<usize> = (0..clients.len()).filter(|at| clients[*at].detached).collect();
        if !detached.is_empty() {
            let pick = self.roll(detached.len());
            self.attach_client(detached[pick]);
        }
    }

    fn attach_client(&mut self, at: usize) {
        let client = &mut self.players.clients[at];
        if !std::mem::take(&mut client.detached) {
            return;
        }
        (client.welcomed, client.blocked) = (false, false);
        let SocketId { mut node, mut shard, .. } = client.socket;
        let positions = client.cursors.iter().map(|(channel, cursor)| {
            (channel.clone(), json!({ "epoch": cursor.epoch, "offset": cursor.offset }))
        });
        let positions: serde_json::Map<_, _> = positions.chain(client.plain.positions()).collect();
        let resume = json!({ "session": client.session, "positions": positions });
        let mut connect = json!({ "type": "CONNECT", "resume": resume });
        let subscribe = client.subscribe_again();
        if self.players.weather == Weather::Crashes {
            // A load balancer knows nothing of sessions, and clients say what they want.
            connect["subscribe"] = subscribe;
            (node, shard) = (self.roll(NODES), self.roll(SHARDS));
        }
        let conn = self.cluster.shard(node, shard).next_conn();
        let socket = SocketId { node, shard, conn };
        self.players.clients[at].socket = socket;
        self.open_with(socket, true);
        self.cluster.text(socket, &connect.to_string(), &mut self.players);
    }

    /// The server learns where the client is in each channel.
    fn catch_up(&mut self, at: usize) {
        let client = &self.players.clients[at];
        let SocketId { node, shard, conn } = client.socket;
        let engine = &mut self.cluster.nodes[node].shards[shard].engine;
        let Some(session) = engine.session_of(conn) else { return };
        for (channel, cursor) in &client.cursors {
            let offset = LoggedOffset(cursor.offset);
            let since = Epoch::parse(&cursor.epoch).map(|epoch| LogPosition { epoch, offset });
            engine.catch_up_on(session, &channel.as_str().into(), since);
        }
    }

    /// A node dies, with all its sockets.
    fn crash(&mut self) {
        let node = self.roll(NODES);
        self.cluster.crash(node, &mut self.players);
        let theirs = self.players.clients.iter_mut();
        for client in theirs.filter(|client| client.socket.node == node && client.closed.is_none()) {
            client.blocked = false;
            match client.session.is_empty() {
                true => client.closed = Some(1006),
                false => client.detached = true,
            }
        }
    }

    fn leave(&mut self) {
        if let Some(at) = self.some_client() {
            self.leave_client(at);
        }
    }

    fn leave_client(&mut self, at: usize) {
        let client = &mut self.players.clients[at];
        if client.closed.is_none() {
            client.closed = Some(1000);
            let SocketId { node, shard, conn } = client.socket;
            self.cluster.input(node, shard, Input::Closed { conn, code: 1000 }, &mut self.players);
        }
    }

    /// A player comes back by another session, on any node, with its cursors.
    fn come_back(&mut self) {
        let clients = &self.players.clients;
        let gone: Vec<usize> = (0..clients.len()).filter(|at| clients[*at].closed.is_some()).collect();
        if gone.is_empty() {
            return;
        }
        let at = gone[self.roll(gone.len())];
        let socket = self.next_socket();
        self.players.clients[at].comes_back(socket);
        self.open(socket);
        if !self.players.clients[at].is_open() {
            // Its WELCOME waits behind a socket that stalls, or for its views: it comes again later.
            self.players.clients[at].subscribed.clear();
            self.players.clients[at].cursors.clear();
            return;
        }
        let names: Vec<String> = self.players.clients[at].subscribed.keys().cloned().collect();
        for name in names {
            self.subscribe_client(at, &name);
        }
        self.catch_up(at);
        self.cluster.input(socket.node, socket.shard, Input::Tick, &mut self.players);
    }

    fn unblock(&mut self) {
        if let Some(at) = self.some_client() {
            self.unblock_client(at);
        }
    }

    fn unblock_client(&mut self, at: usize) {
        let client = &mut self.players.clients[at];
        if std::mem::take(&mut client.blocked) && client.closed.is_none() && !client.detached {
            let SocketId { node, shard, conn } = client.socket;
            self.cluster.input(node, shard, Input::Writable { conn }, &mut self.players);
        }
    }
}

fn rules(weather: Weather) -> Settings {
    let logs = Class { patterns: true, ..logged() };
    if weather != Weather::Crashes {
        return settings_of(vec![logs]);
    }
    let room = Class { presence: Presence::Notify, ..open("room:{room}") };
    let asked = Class { presence: Presence::Query, ..open("room:query:{room}") };
    Settings { resume_window_ms: WINDOW_MS, ..settings_of(vec![logs, room, asked]) }
}

/// All channels are sharded, so that there are no patterns.
fn sharded_rules() -> Settings {
    let sharded = |class: Class| Class { sharded: true, ..class };
    settings_of(vec![sharded(logged()), sharded(open("room:{room}"))])
}

fn logged() -> Class {
    Class {
        view: Some(rule("!has(data.team) || data.team == me.team", Vars::VIEW_RULE)),
        history: Some(History { events: KEPT, age_ms: 1_000_000 }),
        ..open("log:{log}")
    }
}

fn settings_of(classes: Vec<Class>) -> Settings {
    Settings { outbound_bytes: 6_000, resume_window_ms: 10_000_000, ..settings(classes) }
}
