//! Two nodes of two shards and two links each, around one Redis, with players who come, act, stall and vanish.
//! Every queue between the parts is stepped at random; time passes only when the seed says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::class::{Class, Presence};
use drawbridge_engine::expr::Vars;
use drawbridge_engine::io::{Claims, Input, PlayerAction, PlayerCommand, PublishFailure, Subject};
use drawbridge_engine::settings::Settings;
use drawbridge_protocol::Frame;
use drawbridge_protocol::template::Template;
use drawbridge_testkit::classes::{open, rule};
use drawbridge_testkit::cluster::{Cluster, Outside, Size, SocketId};
use drawbridge_testkit::dice::{Chance, Dice};
use drawbridge_testkit::facts::{self, Said};
use drawbridge_testkit::players::{claims_of, opened};
use drawbridge_testkit::settings::settings;
use serde_json::{Value, json};

use crate::client::{Client, Subscription};

const NODES: usize = 2;
const SHARDS: usize = 2;
const LINKS: usize = 2;

/// Channels that say who is there.
const LOBBIES: [&str; 3] = ["lobby:a", "lobby:b", "lobby:c"];

/// Services narrow no views here.
pub type Facts = facts::Facts<()>;

/// Everyone at the sockets, and what goes wrong.
struct Players {
    dice: Dice,
    clients: Vec<Client>,
    facts: Facts,
    /// Redis' ACL allows the patterns of whole classes only.
    refuses_narrow: bool,
}

pub struct World {
    cluster: Cluster,
    players: Players,
    /// No link breaks.
    pub calm: bool,
    next_number: u64,
    next_connection: u64,
}

impl Chance for Players {
    fn roll(&mut self, sides: usize) -> usize {
        self.dice.roll(sides)
    }
}

impl Outside for Players {
    /// The socket takes all of it, or only some frames and then no more for a while.
    fn write(&mut self, socket: SocketId, mut frames: Vec<Frame>) -> Option<Vec<Frame>> {
        let is_blocked = self.roll(12) == 0;
        let taken = if is_blocked { self.roll(frames.len() + 1) } else { frames.len() };
        let unsent = frames.split_off(taken);
        let client = self.at(socket);
        assert!(!client.blocked, "a write to a blocked socket");
        client.blocked = is_blocked;
        if !client.dead {
            self.read_all(socket, &frames);
        }
        is_blocked.then_some(unsent)
    }

    fn close(&mut self, socket: SocketId, frames: Vec<Frame>, code: u16) {
        let Some(client) = self.clients.iter_mut().find(|client| client.socket == socket) else {
            // Another socket has taken its place.
            assert_eq!(code, 4505);
            return;
        };
        if !client.dead {
            frames.iter().for_each(|frame| client.read(frame, &self.facts));
        }
        match code {
            4000..=4499 if client.welcomed => client.lose_socket(),
            code => client.closed = Some(code),
        }
    }

    fn published(&mut self, channel: &Arc<str>, payload: &Bytes, is_committed: bool) {
        self.facts.take(Said::read(channel, payload, is_committed));
    }

    fn refuses(&mut self, subject: &Subject) -> bool {
        self.refuses_narrow && subject.is_pattern() && !subject.name.ends_with(":*")
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
        frames.iter().for_each(|frame| client.read(frame, &self.facts));
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let refuses_narrow = dice.roll(3) == 0;
        let mut players = Players { dice, clients: Vec::new(), facts: Facts::default(), refuses_narrow };
        let size = Size { nodes: NODES, shards: SHARDS, links: LINKS };
        let cluster = Cluster::new(&Arc::new(rules()), size, &mut players);
        World { cluster, players, calm: false, next_number: 0, next_connection: 0 }
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
        match self.roll(100) {
            0..4 => self.connect(),
            4..14 => self.subscribe(),
            14..18 => self.unsubscribe(),
            18..34 => self.publish(),
            34..42 => self.publish_from_outside(),
            42..44 => self.vanish(),
            44..46 => self.unblock(),
            46..47 => self.cut_a_link(),
            47..50 => self.cluster.mend(&mut self.players),
            50..52 => self.pass(20),
            // Long enough for a cover to narrow.
            52..53 => self.pass(300),
            53..55 => self.subscribe_to_and_fro(),
            55..58 => self.command(),
            58..59 => self.go_silent(),
            59..60 => self.detach(),
            60..63 => self.attach(),
            63..66 => self.move_a_channel(),
            66..68 => self.request_presence(),
            _ => drop(self.cluster.carry(&mut self.players)),
        }
    }

    /// Lets everything come to rest with all links up and all sockets reading.
    pub fn settle(&mut self) {
        /// Retries of writes that fail again and again end before this.
        const MAX_ROUNDS: usize = 1_000;
        self.cluster.mend(&mut self.players);
        for round in 0..MAX_ROUNDS {
            for at in 0..self.players.clients.len() {
                if round == 20 {
                    self.request_missing_presence(at);
                }
                self.attach_client(at);
                self.unblock_client(at);
            }
            while self.cluster.carry_one_of_each(&mut self.players) {}
            self.pass(100);
            if round >= 40 && !self.cluster.is_writing() {
                break;
            }
        }
        // What was written last has come to those who are notified of it, or who waited for it.
        for _ in 0..5 {
            (0..self.players.clients.len()).for_each(|at| self.unblock_client(at));
            while self.cluster.carry_one_of_each(&mut self.players) {}
            self.pass(100);
        }
    }

    pub fn check_settled(&self) {
        self.cluster.redis.check_covers();
        for client in self.players.clients.iter().filter(|client| client.closed.is_none()) {
            assert!(client.welcomed, "{} was never welcomed", client.player);
            assert!(client.asked.is_empty(), "{} waits for {:?}", client.player, client.asked);
            client.check_nothing_is_missing(&self.players.facts);
        }
    }

    /// The store has who is subscribed, and so have the clients.
    pub fn check_presence(&self) {
        for channel in LOBBIES {
            let subscribed =
                |client: &&Client| client.closed.is_none() && client.subscriptions.contains_key(channel);
            let mut expected = BTreeMap::<String, usize>::new();
            for client in self.players.clients.iter().filter(subscribed) {
                *expected.entry(client.player.clone()).or_default() += 1;
            }
            let stored: BTreeMap<String, usize> =
                self.cluster.redis.presence.players(channel).into_iter().collect();
            assert_eq!(stored, expected, "who is on {channel}");
            for client in self.players.clients.iter().filter(subscribed) {
                let others = |player: &&String| **player != client.player;
                let known = client.presence.get(channel).and_then(|seen| seen.players.as_ref());
                let known: Option<Vec<&String>> =
                    known.map(|players| players.iter().filter(others).collect());
                let expected = expected.keys().filter(others).collect();
                assert_eq!(known, Some(expected), "what {} knows of {channel}", client.player);
            }
        }
    }

    fn request_presence(&mut self) {
        let Some(at) = self.some_client() else { return };
        let channel = LOBBIES[self.roll(LOBBIES.len())];
        if self.players.clients[at].subscriptions.contains_key(channel) {
            self.send_presence_get(at, channel);
        }
    }

    /// As a client does that does not know who is there.
    fn request_missing_presence(&mut self, at: usize) {
        for channel in LOBBIES {
            let client = &self.players.clients[at];
            let is_known = client.presence.get(channel).is_some_and(|seen| seen.players.is_some());
            if client.closed.is_none() && client.subscriptions.contains_key(channel) && !is_known {
                self.send_presence_get(at, channel);
            }
        }
    }

    fn send_presence_get(&mut self, at: usize, channel: &str) {
        let client = &mut self.players.clients[at];
        // One at a time: the changes behind the first are not those behind the second.
        let is_out = |asked: &Value| asked["type"] == "PRESENCE_GET" && asked["channel"] == channel;
        if client.asked.values().any(is_out) {
            return;
        }
        client.requests_page(channel);
        self.send(at, json!({ "type": "PRESENCE_GET", "channel": channel }));
    }

    /// While no link breaks, moves alone cost no one a gap who has kept the socket.
    pub fn check_no_gaps(&self) {
        for client in self.players.clients.iter().filter(|client| client.resumed == 0) {
            assert!(client.resynced.is_empty(), "{} was told of gaps: {:?}", client.player, client.resynced);
        }
    }

    /// Everybody vanishes; nothing may be left.
    pub fn check_no_leak(&mut self) {
        for at in 0..self.players.clients.len() {
            self.vanish_client(at);
        }
        self.settle();
        self.cluster.check_nothing_is_left();
    }

    fn connect(&mut self) {
        let node = self.roll(NODES);
        let shard = self.roll(SHARDS);
        let player = format!("p{}", self.roll(8));
        let team = ["red", "blue"][self.roll(2)];
        let rooms: Vec<u64> = (0..4).filter(|_| self.roll(2) == 0).collect();
        let conn = self.cluster.shard(node, shard).next_conn();
        let client = Client::new(player, team, rooms, SocketId { node, shard, conn });
        let claims = claims_for(&client);
        self.players.clients.push(client);
        let connection = self.next_connection();
        self.input(node, shard, Input::Opened(opened(conn, connection, Some(claims))));
    }

    /// Unique in the cluster, as random names are.
    fn next_connection(&mut self) -> u64 {
        self.next_connection += 1;
        self.next_connection << 8
    }

    fn subscribe(&mut self) {
        let names = [
            "room:0",
            "room:1",
            "room:2",
            "game:a",
            "game:b",
            "room:*",
            "game:*",
            "room:[01]",
            "game:?",
            "lobby:a",
            "lobby:b",
            "lobby:c",
            "lobby:a",
            "lobby:b",
        ];
        // Wider and narrower, so that what covers them in Redis changes.
        let narrower = ["room:0*", "room:1*", "room:0?*", "game:a*", "game:b*", "game:[ab]*"];
        let name = match self.roll(3) {
            0 => narrower[self.roll(narrower.len())],
            _ => names[self.roll(names.len())],
        };
        let filtered = self.roll(3) == 0;
        let Some(at) = self.some_client() else { return };
        let mut message = json!({ "type": "CHANNEL_SUBSCRIBE", "channel": name });
        if filtered {
            message["filter"] = "data.n % 2 == 0".into();
        }
        // A subscription that is requested again may be shown by its old or its new filter until it is answered:
        // the model asks only for what it does not hold.
        let client = &mut self.players.clients[at];
        let again = client.subscriptions.contains_key(name)
            || client
                .asked
                .values()
                .any(|asked| asked["channel"] == name && asked["type"] != "PUBLISH_EVENT");
        if again {
            return;
        }
        let allowed = match name.strip_prefix("room:") {
            Some(room) if !name.contains(['*', '[', '?']) => {
                client.rooms.iter().any(|own| own.to_string() == room)
            }
            _ => true,
        };
        if allowed {
            let began = client.next_id;
            client
                .subscriptions
                .insert(name.to_owned(), Subscription { confirmed_at: None, filtered, began });
        }
        self.send(at, message);
    }

    /// Several requests about one channel in one message: each is answered, and the last holds.
    fn subscribe_to_and_fro(&mut self) {
        let name = ["game:a", "game:b", "game:*", "game:?"][self.roll(4)];
        let Some(at) = self.some_client() else { return };
        let client = &mut self.players.clients[at];
        if client.subscriptions.contains_key(name)
            || client.asked.values().any(|asked| asked["channel"] == name)
        {
            return;
        }
        let mut messages = Vec::new();
        for kind in ["CHANNEL_SUBSCRIBE", "CHANNEL_SUBSCRIBE", "CHANNEL_UNSUBSCRIBE", "CHANNEL_SUBSCRIBE"] {
            client.next_id += 1;
            let message = json!({ "type": kind, "channel": name, "id": client.next_id });
            client.asked.insert(client.next_id, message.clone());
            messages.push(message);
        }
        let text = Value::from(messages).to_string();
        self.cluster.text(client.socket, &text, &mut self.players);
    }

    /// A service commands something about a player.
    fn command(&mut self) {
        let player: Arc<str> = format!("p{}", self.roll(8)).into();
        let channel: Arc<str> = ["game:a", "game:b", "game:*", "room:1"][self.roll(4)].into();
        let action = match self.roll(5) {
            0 | 1 if *channel != *"room:1" => PlayerAction::Subscribe { channel },
            2 | 3 => PlayerAction::Unsubscribe { channel },
            _ => return,
        };
        self.cluster.redis.command_player(&PlayerCommand { player, action });
    }

    fn unsubscribe(&mut self) {
        let Some(at) = self.some_client() else { return };
        let sides = self.players.clients[at].subscriptions.len() + 1;
        let pick = self.roll(sides);
        let client = &self.players.clients[at];
        let Some(name) = client.subscriptions.keys().nth(pick).cloned() else { return };
        if client.asked.values().all(|asked| asked["channel"] != *name) {
            self.send(at, json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": name }));
        }
    }

    fn publish(&mut self) {
        let Some(at) = self.some_client() else { return };
        let (channel, data) = self.news();
        let client = &mut self.players.clients[at];
        client.published.insert(self.next_number, client.next_id + 1);
        self.send(at, json!({ "type": "PUBLISH_EVENT", "channel": channel, "event": "e", "data": data }));
    }

    fn publish_from_outside(&mut self) {
        let (channel, data) = self.news();
        let payload = json!({ "event": "e", "data": data }).to_string();
        self.cluster.publish(&channel.into(), &payload.into(), &mut self.players);
    }

    fn news(&mut self) -> (&'static str, Value) {
        let channel = [
            "room:0",
            "room:1",
            "room:2",
            "room:3",
            "game:a",
            "game:b",
            "player:p1",
            "lobby:a",
            "lobby:b",
            "lobby:c",
            "lobby:a",
        ][self.roll(11)];
        self.next_number += 1;
        let mut data = json!({ "n": self.next_number });
        if self.roll(3) == 0 {
            data["team"] = ["red", "blue"][self.roll(2)].into();
        }
        (channel, data)
    }

    fn send(&mut self, at: usize, mut message: Value) {
        let client = &mut self.players.clients[at];
        if !client.welcomed {
            // A client that has not been welcomed holds nothing that it could lose track of.
            client.subscriptions.clear();
            return;
        }
        client.next_id += 1;
        message["id"] = client.next_id.into();
        client.asked.insert(client.next_id, message.clone());
        self.cluster.text(client.socket, &message.to_string(), &mut self.players);
    }

    fn some_client(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.players.clients.len())
            .filter(|at| {
                let client = &self.players.clients[*at];
                client.closed.is_none() && client.welcomed && !client.detached
            })
            .collect();
        if open.is_empty() { None } else { Some(open[self.roll(open.len())]) }
    }

    /// From now on a client receives nothing, and the server does not know it.
    fn go_silent(&mut self) {
        if let Some(at) = self.some_client() {
            self.players.clients[at].dead = true;
        }
    }

    /// A player's socket is gone, and the session stays.
    fn detach(&mut self) {
        let Some(at) = self.some_client() else { return };
        let client = &mut self.players.clients[at];
        let SocketId { node, shard, conn } = client.socket;
        client.lose_socket();
        self.input(node, shard, Input::Closed { conn, code: 1006 });
    }

    /// A player comes again, by another socket: one that has lost its own, or one whose socket is silent.
    fn attach(&mut self) {
        let away = |client: &Client| client.closed.is_none() && (client.detached || client.dead);
        let away: Vec<usize> =
            (0..self.players.clients.len()).filter(|at| away(&self.players.clients[*at])).collect();
        if !away.is_empty() {
            let pick = self.roll(away.len());
            self.attach_client(away[pick]);
        }
    }

    fn attach_client(&mut self, at: usize) {
        let subscribe = self.roll(2) == 0;
        let client = &mut self.players.clients[at];
        if client.closed.is_some() || !(client.detached || client.dead) {
            return;
        }
        // A request that was not answered may never have been carried out: its client says again what it wants.
        let subscribe = subscribe || client.subscriptions.values().any(|held| held.confirmed_at.is_none());
        let SocketId { node, shard, .. } = client.socket;
        let connect = client.connect(subscribe).to_string();
        client.lose_socket();
        client.detached = false;
        let claims = claims_for(client);
        let conn = self.cluster.shard(node, shard).next_conn();
        let connection = self.next_connection();
        let mut opened = opened(conn, connection, Some(claims));
        opened.wait_for_connect = true;
        self.players.clients[at].socket.conn = conn;
        self.input(node, shard, Input::Opened(opened));
        self.cluster.text(SocketId { node, shard, conn }, &connect, &mut self.players);
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
            self.input(node, shard, Input::Closed { conn, code: 1000 });
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
        let link = self.roll(NODES * LINKS);
        if !self.calm {
            self.cluster.cut(link, &mut self.players);
        }
    }

    /// An entry moves to another link of its node.
    fn move_a_channel(&mut self) {
        let names = ["lobby:a", "lobby:b", "lobby:c"];
        let (node, to) = (self.roll(NODES), self.roll(LINKS));
        let subject = Subject::channel(names[self.roll(names.len())]);
        let between: Vec<usize> = (0..self.roll(8)).map(|_| self.roll(LINKS)).collect();
        self.cluster.begin_move(node, subject, to, &between, &mut self.players);
    }
}

fn claims_for(client: &Client) -> Claims {
    let names: Vec<String> = client.rooms.iter().map(ToString::to_string).collect();
    claims_of(&json!({ "sub": client.player, "team": client.team, "rooms": names }))
}

fn rules() -> Settings {
    let class = |name: &str, right: &str, view: Option<&str>| Class {
        subscribe: rule(right, Vars::SUBSCRIBE_RULE),
        view: view.map(|view| rule(view, Vars::VIEW_RULE)),
        patterns: true,
        ..open(name)
    };
    let classes = vec![
        class("room:{room}", "params.room in me.rooms", None),
        class("game:{game}", "true", Some("!has(data.team) || data.team == me.team")),
        class("player:{player}", "false", None),
        // Without patterns: its channels may move between links.
        Class { presence: Presence::Notify, ..open("lobby:{lobby}") },
    ];
    Settings {
        auto_subscribe: vec![Template::parse("player:{sub}").unwrap()],
        outbound_bytes: 4_000,
        resume_window_ms: 60_000,
        detached_bytes: 20_000,
        ..settings(classes)
    }
}
