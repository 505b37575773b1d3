//! A node with two shards and the players at its sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drawbridge_engine::class::{Class, SlowConsumer};
use drawbridge_engine::expr::Vars;
use drawbridge_engine::io::{ConnId, Input, PlayerAction, PlayerCommand};
use drawbridge_engine::settings::Settings;
use drawbridge_engine::stats::Stats;
use drawbridge_protocol::template::Template;
use drawbridge_protocol::{Encoding, Frame};
use drawbridge_testkit::classes::{entities, open, path, rule};
use drawbridge_testkit::cluster::{Cluster, Outside, Size, SocketId};
use drawbridge_testkit::dice::{Chance, Dice};
use drawbridge_testkit::frames;
use drawbridge_testkit::players::{claims_of, opened};
use drawbridge_testkit::settings::settings;
use serde_json::{Value, json};

/// How long a session outlives its connection here, in milliseconds.
pub const WINDOW_MS: u64 = 60_000;

pub struct Sockets {
    dice: Dice,
    encodings: BTreeMap<u32, Encoding>,
    read: BTreeMap<u32, Vec<Value>>,
    closed: BTreeMap<u32, u16>,
    /// What is written to them is lost.
    silent: BTreeSet<u32>,
    /// They take nothing.
    full: BTreeSet<u32>,
}

impl Chance for Sockets {
    fn roll(&mut self, sides: usize) -> usize {
        self.dice.roll(sides)
    }
}

impl Outside for Sockets {
    fn write(&mut self, socket: SocketId, frames: Vec<Frame>) -> Option<Vec<Frame>> {
        let at = socket.conn.index;
        if self.full.contains(&at) {
            return Some(frames);
        }
        if !self.silent.contains(&at) {
            let messages = frames.iter().flat_map(|f| frames::read(f, self.encodings[&at], true).messages());
            self.read.entry(at).or_default().extend(messages);
        }
        None
    }

    fn close(&mut self, socket: SocketId, frames: Vec<Frame>, code: u16) {
        self.full.remove(&socket.conn.index);
        self.write(socket, frames);
        self.closed.insert(socket.conn.index, code);
    }
}

pub struct Bench {
    pub cluster: Cluster,
    pub sockets: Sockets,
    next: u32,
}

/// What `alice`'s token says.
pub fn alice() -> Value {
    json!({ "sub": "alice", "team": "red", "rooms": ["1", "2"] })
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|settings| settings)
    }

    pub fn with(change: impl FnOnce(Settings) -> Settings) -> Self {
        let room = Class {
            subscribe: rule("params.room in me.rooms", Vars::SUBSCRIBE_RULE),
            patterns: true,
            ..open("room:{room}")
        };
        let game = Class {
            view: Some(rule("!has(data.team) || data.team == me.team", Vars::VIEW_RULE)),
            patterns: true,
            ..open("game:{game}")
        };
        let mut feed = open("feed:{feed}");
        feed.delivery.slow_consumer = SlowConsumer::DropOldest;
        let mut slow = open("slow:{slow}");
        slow.delivery.batch_ms = 50;
        let world = Class { entity: Some(entities()), key: Some(path("data.id")), ..open("world:{world}") };
        let classes = vec![room, game, feed, slow, world, open("chat:{chat}")];
        let settings = Settings {
            auto_subscribe: vec![
                Template::parse("player:{sub}").unwrap(),
                Template::parse("own:{own}").unwrap(),
            ],
            resume_window_ms: WINDOW_MS,
            allow_anonymous: true,
            lifecycle_stream: Some("life".into()),
            ..settings(classes)
        };
        let mut sockets = Sockets {
            dice: Dice::new(1),
            encodings: BTreeMap::new(),
            read: BTreeMap::new(),
            closed: BTreeMap::new(),
            silent: BTreeSet::new(),
            full: BTreeSet::new(),
        };
        let size = Size { nodes: 1, shards: 2, links: 1 };
        let cluster = Cluster::new(&Arc::new(change(settings)), size, &mut sockets);
        let mut bench = Bench { cluster, sockets, next: 0 };
        bench.rest();
        bench
    }

    /// Everything that is on its way arrives.
    pub fn rest(&mut self) {
        while self.cluster.carry_one_of_each(&mut self.sockets) {}
    }

    pub fn pass(&mut self, ms: u64) {
        self.cluster.pass_by_deadlines(ms, &mut self.sockets);
        self.rest();
    }

    pub fn socket(at: u32) -> SocketId {
        SocketId { node: 0, shard: 0, conn: ConnId { index: at, generation: at + 1 } }
    }

    /// A socket of shard 0 that has finished its handshake; `claims`: of the token on the upgrade.
    pub fn open_as(&mut self, claims: Option<&Value>, encoding: Encoding) -> u32 {
        let at = self.next;
        self.next += 1;
        self.sockets.encodings.insert(at, encoding);
        let mut opened = opened(Self::socket(at).conn, 1_000 + u64::from(at), claims.map(claims_of));
        (opened.wait_for_connect, opened.encoding) = (true, encoding);
        self.cluster.input(0, 0, Input::Opened(opened), &mut self.sockets);
        at
    }

    pub fn send(&mut self, at: u32, message: &Value) {
        self.cluster.text(Self::socket(at), &message.to_string(), &mut self.sockets);
        self.rest();
    }

    /// A connection with this `CONNECT`, to which `type` is added. Returns it and its `WELCOME`.
    pub fn connect(&mut self, claims: Option<&Value>, mut connect: Value) -> (u32, Value) {
        let at = self.open_as(claims, Encoding::Json);
        connect["type"] = "CONNECT".into();
        self.send(at, &connect);
        self.pass(0);
        let welcome = self.take(at).remove(0);
        assert_eq!(welcome["type"], "WELCOME", "{welcome}");
        (at, welcome)
    }

    /// A fresh session of `alice` with these subscriptions. Returns its socket and its name.
    pub fn join(&mut self, channels: &[&str]) -> (u32, String) {
        let subscribe: Vec<Value> = channels.iter().map(|channel| json!({ "channel": channel })).collect();
        let (at, welcome) = self.connect(Some(&alice()), json!({ "subscribe": subscribe }));
        assert_eq!(welcome["resumed"], false);
        (at, welcome["session"].as_str().unwrap().to_owned())
    }

    /// `alice` resumes a session. Returns the socket, `WELCOME` and what followed, without what is about her automatic channel.
    pub fn resume(&mut self, session: &str, positions: Value) -> (u32, Value, Vec<Value>) {
        self.resume_with(Some(&alice()), json!({ "resume": { "session": session, "positions": positions } }))
    }

    pub fn resume_with(&mut self, claims: Option<&Value>, connect: Value) -> (u32, Value, Vec<Value>) {
        let at = self.open_as(claims, Encoding::Json);
        let mut connect = connect;
        connect["type"] = "CONNECT".into();
        self.send(at, &connect);
        let mut messages = self.take(at);
        let welcome = messages.remove(0);
        assert_eq!(welcome["type"], "WELCOME", "{welcome}");
        // Nobody publishes there, and no test names a position of it.
        messages.retain(|message| message["channel"] != "player:alice");
        (at, welcome, messages)
    }

    /// The socket is gone.
    pub fn break_socket(&mut self, at: u32) {
        self.close(at, 1006);
    }

    /// The client closes with this code, or the socket broke (1006).
    pub fn close(&mut self, at: u32, code: u16) {
        let conn = Self::socket(at).conn;
        self.cluster.input(0, 0, Input::Closed { conn, code }, &mut self.sockets);
        self.rest();
    }

    /// From now on what is written to a socket is lost, and the server does not know.
    pub fn silence(&mut self, at: u32) {
        self.sockets.silent.insert(at);
    }

    /// From now on a socket takes nothing.
    pub fn fill(&mut self, at: u32) {
        self.sockets.full.insert(at);
    }

    /// A full socket takes bytes again.
    pub fn drain(&mut self, at: u32) {
        self.sockets.full.remove(&at);
        let conn = Self::socket(at).conn;
        self.cluster.input(0, 0, Input::Writable { conn }, &mut self.sockets);
        self.rest();
    }

    pub fn publish(&mut self, channel: &str, data: Value) {
        let mut payload = json!({ "event": "e", "data": data });
        if let Some(key) = data.get("key") {
            payload["key"] = key.clone();
        }
        self.cluster.publish(&channel.into(), &payload.to_string().into(), &mut self.sockets);
        self.rest();
    }

    pub fn command(&mut self, player: &str, action: PlayerAction) {
        self.cluster.redis.command_player(&PlayerCommand { player: player.into(), action });
        self.rest();
    }

    /// What a client has received since this was called last.
    pub fn take(&mut self, at: u32) -> Vec<Value> {
        self.sockets.read.remove(&at).unwrap_or_default()
    }

    /// The events among them: the numbers `n` of their data.
    pub fn events(&mut self, at: u32) -> Vec<u64> {
        numbers(&self.take(at))
    }

    pub fn closed(&self, at: u32) -> Option<u16> {
        self.sockets.closed.get(&at).copied()
    }

    pub fn stats(&mut self) -> Stats {
        self.cluster.shard(0, 0).engine.stats()
    }
}

/// The numbers `n` of the events' data.
pub fn numbers(messages: &[Value]) -> Vec<u64> {
    let events = messages.iter().filter(|message| message["type"] == "EVENT");
    events.map(|event| event["data"]["n"].as_u64().unwrap()).collect()
}

/// The kinds of messages.
pub fn kinds(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["type"].as_str().unwrap()).collect()
}

/// What `WELCOME` lists of a channel.
pub fn listed<'w>(welcome: &'w Value, channel: &str) -> &'w Value {
    let list = welcome["subscriptions"].as_array().unwrap();
    list.iter().find(|each| each["channel"] == channel).unwrap_or(&Value::Null)
}

/// The position that a message names for a channel.
pub fn position(of: &Value) -> Value {
    json!({ "epoch": of["epoch"], "offset": of["offset"] })
}

/// One that is so many events further.
pub fn further(position: &Value, by: u64) -> Value {
    json!({ "epoch": position["epoch"], "offset": position["offset"].as_u64().unwrap() + by })
}
