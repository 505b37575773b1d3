//! A node with two shards whose class keeps logs, and the players at its sockets. Nothing happens by chance: whoever drives it
//! says what is dropped, refused or stalled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drawbridge_engine::class::{Class, History};
use drawbridge_engine::io::{BrokerEvent, ConnId, Input, LogEntry, PlayerOverrides, WriteKind};
use drawbridge_engine::settings::Settings;
use drawbridge_protocol::Frame;
use drawbridge_testkit::classes::open;
use drawbridge_testkit::cluster::{Cluster, Outside, Size, SocketId};
use drawbridge_testkit::dice::Chance;
use drawbridge_testkit::frames;
use drawbridge_testkit::players::{claims_of, opened};
use drawbridge_testkit::settings::settings;
use serde_json::{Value, json};

/// How long a session outlives its connection, in milliseconds.
const WINDOW_MS: u64 = 60_000;

#[derive(Default)]
pub struct Sockets {
    read: BTreeMap<(usize, u32), Vec<Value>>,
    closed: BTreeMap<(usize, u32), u16>,
    /// They take nothing.
    full: BTreeSet<(usize, u32)>,
    /// The queues to shards have no room for events.
    pub drops_events: bool,
    /// Redis does not answer queries for view overrides.
    pub refuses_overrides: bool,
}

impl Chance for Sockets {
    fn roll(&mut self, sides: usize) -> usize {
        sides - 1
    }
}

fn key(socket: SocketId) -> (usize, u32) {
    (socket.shard, socket.conn.index)
}

impl Outside for Sockets {
    fn write(&mut self, socket: SocketId, frames: Vec<Frame>) -> Option<Vec<Frame>> {
        if self.full.contains(&key(socket)) {
            return Some(frames);
        }
        let messages = frames.iter().flat_map(|frame| frames::messages(frame));
        self.read.entry(key(socket)).or_default().extend(messages);
        None
    }

    fn close(&mut self, socket: SocketId, frames: Vec<Frame>, code: u16) {
        self.full.remove(&key(socket));
        self.write(socket, frames);
        self.closed.insert(key(socket), code);
    }

    fn drops(&mut self, event: &BrokerEvent) -> bool {
        self.drops_events && matches!(event, BrokerEvent::Publication(_))
    }

    fn overrides(&mut self, stored: PlayerOverrides) -> Result<PlayerOverrides, Arc<str>> {
        if self.refuses_overrides { Err("LOADING".into()) } else { Ok(stored) }
    }

    fn notice(&mut self, _: drawbridge_engine::io::Notice) {}
}

pub struct Bench {
    pub cluster: Cluster,
    pub sockets: Sockets,
    connections: u64,
}

impl Bench {
    /// Every outbox holds so many bytes.
    pub fn new(outbound_bytes: usize) -> Self {
        let history = Some(History { events: 10_000, age_ms: 1_000_000 });
        let class = Class { patterns: true, history, ..open("log:{log}") };
        let settings =
            Settings { outbound_bytes, resume_window_ms: WINDOW_MS, ..settings(vec![class, open("chat:*")]) };
        let mut sockets = Sockets::default();
        let size = Size { nodes: 1, shards: 2, links: 1 };
        let cluster = Cluster::new(&Arc::new(settings), size, &mut sockets);
        let mut bench = Bench { cluster, sockets, connections: 0 };
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

    fn open(&mut self, shard: usize) -> SocketId {
        let conn: ConnId = self.cluster.shard(0, shard).next_conn();
        let socket = SocketId { node: 0, shard, conn };
        self.connections += 1;
        let claims = claims_of(&json!({ "sub": "alice" }));
        let mut opened = opened(conn, self.connections << 8, Some(claims));
        opened.wait_for_connect = true;
        self.cluster.input(0, shard, Input::Opened(opened), &mut self.sockets);
        socket
    }

    /// A player on this shard with these subscriptions. Returns its socket and `WELCOME`.
    pub fn join(&mut self, shard: usize, channels: &[&str]) -> (SocketId, Value) {
        let socket = self.open(shard);
        let subscribe: Vec<Value> = channels.iter().map(|channel| json!({ "channel": channel })).collect();
        self.send(socket, &json!({ "type": "CONNECT", "subscribe": subscribe }));
        let welcome = self.take(socket).remove(0);
        assert_eq!(welcome["type"], "WELCOME", "{welcome}");
        (socket, welcome)
    }

    /// The player of a session comes back with these positions, by a socket that takes nothing until [`Bench::drain`].
    pub fn resume_by_full_socket(&mut self, welcome: &Value, positions: Value) -> SocketId {
        let socket = self.open(0);
        self.fill(socket);
        let resume = json!({ "session": welcome["session"], "positions": positions });
        self.send(socket, &json!({ "type": "CONNECT", "resume": resume }));
        socket
    }

    pub fn send(&mut self, socket: SocketId, message: &Value) {
        self.cluster.text(socket, &message.to_string(), &mut self.sockets);
        self.rest();
    }

    pub fn break_socket(&mut self, socket: SocketId) {
        let input = Input::Closed { conn: socket.conn, code: 1006 };
        self.cluster.input(0, socket.shard, input, &mut self.sockets);
        self.rest();
    }

    /// From now on a socket takes nothing.
    pub fn fill(&mut self, socket: SocketId) {
        self.sockets.full.insert(key(socket));
    }

    /// A full socket takes bytes again.
    pub fn drain(&mut self, socket: SocketId) {
        self.sockets.full.remove(&key(socket));
        let input = Input::Writable { conn: socket.conn };
        self.cluster.input(0, socket.shard, input, &mut self.sockets);
        self.rest();
    }

    pub fn cut(&mut self) {
        self.cluster.cut(0, &mut self.sockets);
    }

    pub fn mend(&mut self) {
        self.cluster.mend(&mut self.sockets);
        self.rest();
    }

    /// Logged events with these numbers, of about 1,000 bytes each.
    pub fn append(&mut self, channel: &str, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            let payload = json!({ "event": "e", "data": { "n": n, "fill": "x".repeat(900) } });
            let entry = LogEntry {
                payload: payload.to_string().into(),
                id: "db1.s".into(),
                max_events: 10_000,
                age_ms: 1_000_000,
                once: None,
            };
            let write = WriteKind::Log { channel: channel.into(), entry };
            self.cluster.take(write, &mut self.sockets).unwrap();
        }
        self.rest();
    }

    /// A volatile event with this number.
    pub fn publish(&mut self, channel: &str, n: u64) {
        let payload = json!({ "event": "e", "data": { "n": n } }).to_string();
        self.cluster.publish(&channel.into(), &payload.into(), &mut self.sockets);
        self.rest();
    }

    /// What a client has received since this was called last.
    pub fn take(&mut self, socket: SocketId) -> Vec<Value> {
        self.sockets.read.remove(&key(socket)).unwrap_or_default()
    }

    pub fn closed(&self, socket: SocketId) -> Option<u16> {
        self.sockets.closed.get(&key(socket)).copied()
    }
}

/// The numbers of the events of a channel. A `RESYNC` of the channel, which is not expected, fails.
pub fn whole(messages: &[Value], channel: &str) -> Vec<u64> {
    let theirs = messages.iter().filter(|message| message["channel"] == channel);
    let numbers = theirs.filter_map(|message| {
        assert_ne!(message["type"], "RESYNC", "{message}");
        message["data"]["n"].as_u64()
    });
    numbers.collect()
}

/// The subjects of `RESYNC`s, with their reasons.
pub fn resyncs(messages: &[Value]) -> Vec<(&str, &str)> {
    let resyncs = messages.iter().filter(|message| message["type"] == "RESYNC");
    resyncs.map(|one| (one["channel"].as_str().unwrap(), one["reason"].as_str().unwrap())).collect()
}
