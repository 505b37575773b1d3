//! Sessions that one node or shard claims from another: two nodes of two shards around the store of sessions. Each test says what
//! is on its way, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;

use drawbridge_engine::class::{Class, History};
use drawbridge_engine::io::{ConnId, Input, LogEntry, PublishFailure, WriteKind};
use drawbridge_engine::settings::Settings;
use drawbridge_engine::stats::Stats;
use drawbridge_protocol::Frame;
use drawbridge_testkit::classes::open;
use drawbridge_testkit::cluster::{Cluster, Outside, Size, SocketId};
use drawbridge_testkit::dice::Chance;
use drawbridge_testkit::frames;
use drawbridge_testkit::players::{claims_of, opened};
use drawbridge_testkit::sessions::SessionStore;
use drawbridge_testkit::settings::settings;
use serde_json::{Value, json};

use super::bench::{WINDOW_MS, listed, numbers};

/// The link of each node has its number.
const NODES: usize = 2;
const SHARDS: usize = 2;

#[derive(Default)]
pub struct Sockets {
    read: BTreeMap<(usize, usize, u32), Vec<Value>>,
    closed: BTreeMap<(usize, usize, u32), u16>,
    /// How all writes fail.
    failure: Option<PublishFailure>,
}

fn key(SocketId { node, shard, conn }: SocketId) -> (usize, usize, u32) {
    (node, shard, conn.index)
}

impl Chance for Sockets {
    fn roll(&mut self, sides: usize) -> usize {
        sides - 1
    }
}

impl Outside for Sockets {
    fn write(&mut self, socket: SocketId, frames: Vec<Frame>) -> Option<Vec<Frame>> {
        let messages = frames.iter().flat_map(|frame| frames::messages(frame));
        self.read.entry(key(socket)).or_default().extend(messages);
        None
    }

    fn close(&mut self, socket: SocketId, frames: Vec<Frame>, code: u16) {
        self.write(socket, frames);
        self.closed.insert(key(socket), code);
    }

    fn failure(&mut self) -> Option<PublishFailure> {
        self.failure.clone()
    }
}

pub struct Bench {
    pub cluster: Cluster,
    pub sockets: Sockets,
    connections: u64,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let history = Some(History { events: 100, age_ms: 1_000_000 });
        let log = Class { patterns: true, history, ..open("log:{log}") };
        // A pattern of the class above shows it, too.
        let plain = Class { patterns: true, ..open("log:plain:{plain}") };
        let mut settings = Settings { resume_window_ms: WINDOW_MS, ..settings(vec![log, plain]) };
        change(&mut settings);
        let mut sockets = Sockets::default();
        let size = Size { nodes: NODES, shards: SHARDS, links: 1 };
        let mut cluster = Cluster::new(&Arc::new(settings), size, &mut sockets);
        cluster.sessions = Some(SessionStore::default());
        let mut bench = Bench { cluster, sockets, connections: 0 };
        bench.rest();
        bench
    }

    /// Everything that is on its way arrives.
    pub fn rest(&mut self) {
        while self.cluster.carry_one_of_each(&mut self.sockets) {}
    }

    /// As [`Bench::rest`], except for what the link of a node reads.
    pub fn rest_without_link(&mut self, stalled: usize) {
        let (cluster, sockets) = (&mut self.cluster, &mut self.sockets);
        let mut has_moved = true;
        while std::mem::take(&mut has_moved) {
            for node in 0..NODES {
                has_moved |= node != stalled && cluster.carry_push(node, sockets);
                has_moved |= cluster.carry_command(node, sockets);
                has_moved |= cluster.carry_write(node, sockets);
                has_moved |= cluster.carry_query(node, sockets);
                for shard in 0..SHARDS {
                    has_moved |= cluster.carry_event(node, shard, sockets);
                }
            }
        }
    }

    pub fn pass(&mut self, ms: u64) {
        self.cluster.pass_by_deadlines(ms, &mut self.sockets);
        self.rest();
    }

    /// A socket of `alice` sends this `CONNECT`; nothing moves on.
    pub fn connect(&mut self, (node, shard): (usize, usize), mut connect: Value) -> SocketId {
        let conn: ConnId = self.cluster.shard(node, shard).next_conn();
        let socket = SocketId { node, shard, conn };
        self.connections += 1;
        let mut opened = opened(conn, self.connections << 8, Some(claims_of(&json!({ "sub": "alice" }))));
        opened.wait_for_connect = true;
        self.cluster.input(node, shard, Input::Opened(opened), &mut self.sockets);
        connect["type"] = "CONNECT".into();
        self.cluster.text(socket, &connect.to_string(), &mut self.sockets);
        socket
    }

    /// `alice` resumes, as far as everything that is on its way arrives. Returns the socket, `WELCOME` and what followed.
    pub fn resume_pattern(
        &mut self,
        at: (usize, usize),
        session: &Value,
        positions: &Value,
    ) -> (SocketId, Value, Vec<Value>) {
        let socket = self.connect(at, json!({ "resume": { "session": session, "positions": positions } }));
        self.rest();
        let (welcome, read) = self.welcome(socket);
        (socket, welcome, read)
    }

    /// What a client has received since this was called last.
    pub fn take(&mut self, socket: SocketId) -> Vec<Value> {
        self.sockets.read.remove(&key(socket)).unwrap_or_default()
    }

    /// `WELCOME`, and what followed.
    pub fn welcome(&mut self, socket: SocketId) -> (Value, Vec<Value>) {
        let mut read = self.take(socket);
        assert_eq!(read.first().map(|message| &message["type"]), Some(&json!("WELCOME")), "{read:?}");
        (read.remove(0), read)
    }

    /// A new session there. Returns its socket and its name.
    pub fn join(&mut self, at: (usize, usize)) -> (SocketId, Value) {
        let socket = self.connect(at, json!({}));
        self.rest();
        let (welcome, _) = self.welcome(socket);
        (socket, welcome["session"].clone())
    }

    /// The session is resumed there, and that succeeds although the link of a node stalls.
    pub fn resume(&mut self, at: (usize, usize), session: &Value, stalled: Option<usize>) -> SocketId {
        let socket = self.connect(at, json!({ "resume": { "session": session, "positions": {} } }));
        match stalled {
            Some(node) => self.rest_without_link(node),
            None => self.rest(),
        }
        let (welcome, _) = self.welcome(socket);
        assert_eq!((&welcome["resumed"], &welcome["session"]), (&json!(true), session), "{welcome}");
        socket
    }

    /// An event with this number enters a log.
    pub fn append(&mut self, channel: &str, n: u64) {
        let entry = LogEntry {
            payload: json!({ "event": "e", "data": { "n": n } }).to_string().into(),
            id: "db1.s".into(),
            max_events: 100,
            age_ms: 1_000_000,
            once: None,
        };
        self.cluster.take(WriteKind::Log { channel: channel.into(), entry }, &mut self.sockets).unwrap();
        self.rest();
    }

    pub fn close(&mut self, socket: SocketId, code: u16) {
        let input = Input::Closed { conn: socket.conn, code };
        self.cluster.input(socket.node, socket.shard, input, &mut self.sockets);
    }

    pub fn closed(&self, socket: SocketId) -> Option<u16> {
        self.sockets.closed.get(&key(socket)).copied()
    }

    pub fn stats(&self) -> Stats {
        let shards = self.cluster.nodes.iter().flat_map(|node| &node.shards);
        shards.fold(Stats::default(), |mut sum, shard| {
            sum += shard.engine.stats();
            sum
        })
    }

    /// One session, open on one shard, whose record names its node.
    pub fn check_one_owner(&mut self) {
        let stats = self.stats();
        assert_eq!((stats.welcomed, stats.detached), (1, 0));
        assert_eq!(self.cluster.stored_sessions(), (1, 1));
    }
}

/// The word of a claim reaches a node after its player has come back to it, to another shard.
#[test]
fn the_late_word_of_an_older_claim_ends_no_session() {
    let mut bench = Bench::new();
    let (first, session) = bench.join((0, 0));
    bench.close(first, 1006);
    let elsewhere = bench.resume((1, 0), &session, Some(0));
    bench.close(elsewhere, 1006);
    let back = bench.resume((0, 1), &session, Some(0));
    bench.rest();
    assert_eq!(bench.closed(back), None);
    bench.check_one_owner();
}

/// As above, but to the shard that still has the session, which does not wait for Redis when it is resumed there.
#[test]
fn who_resumes_where_the_session_was_claimed_away_from_is_asked_to_come_again() {
    let mut bench = Bench::new();
    let (first, session) = bench.join((0, 0));
    bench.close(first, 1006);
    let elsewhere = bench.resume((1, 0), &session, Some(0));
    bench.close(elsewhere, 1006);
    let back = bench.resume((0, 0), &session, Some(0));
    bench.rest();
    assert_eq!(bench.closed(back), Some(1001), "4505 would send it away for good");
    let again = bench.resume((0, 0), &session, None);
    assert_eq!(bench.closed(again), None);
    bench.check_one_owner();
}

/// Without the word of the claim, which was lost with a link: the next save finds out.
#[test]
fn a_claim_that_a_node_was_not_notified_of_is_found_when_its_session_is_saved() {
    let mut bench = Bench::new();
    let (first, session) = bench.join((0, 0));
    bench.close(first, 1006);
    let elsewhere = bench.resume((1, 0), &session, Some(0));
    bench.close(elsewhere, 1006);
    bench.cluster.cut(0, &mut bench.sockets);
    bench.cluster.mend(&mut bench.sockets);
    bench.rest();
    let back = bench.resume((0, 0), &session, None);
    bench.pass(1_000);
    assert_eq!(bench.closed(back), Some(1001));
    bench.resume((0, 1), &session, None);
    bench.check_one_owner();
}

#[test]
fn a_second_connection_closes_the_first_with_4505_also_where_that_has_resumed_it() {
    let mut bench = Bench::new();
    let (mut last, session) = bench.join((0, 0));
    for at in [(0, 0), (0, 1), (0, 1), (1, 1), (1, 0), (0, 0)] {
        let next = bench.resume(at, &session, None);
        assert_eq!((bench.closed(last), bench.closed(next)), (Some(4505), None), "{at:?}");
        // Now it is known to be the node's.
        bench.pass(1_000);
        bench.check_one_owner();
        last = next;
    }
}

/// Redis has executed a claim whose connection is gone before the answer comes.
#[test]
fn what_was_claimed_for_a_connection_that_is_gone_may_be_claimed_again_and_goes_when_its_window_ends() {
    for comes_back in [true, false] {
        let mut bench = Bench::new();
        let (first, session) = bench.join((0, 0));
        bench.close(first, 1006);
        let gone = bench.connect((1, 0), json!({ "resume": { "session": session, "positions": {} } }));
        assert!(bench.cluster.carry_query(1, &mut bench.sockets), "the claim");
        bench.close(gone, 1006);
        bench.rest();
        assert_eq!((bench.stats().detached, bench.cluster.stored_sessions()), (0, (1, 1)));
        if comes_back {
            bench.pass(WINDOW_MS - 1);
            bench.resume((0, 1), &session, None);
            bench.pass(WINDOW_MS);
            bench.check_one_owner();
        } else {
            bench.pass(WINDOW_MS);
            assert_eq!(bench.cluster.stored_sessions(), (0, 0));
        }
    }
}

/// The connection whose claim was executed is gone, and its player is back on the shard that had the session before anybody
/// there knows of it.
#[test]
fn who_returns_before_the_word_of_a_claim_that_was_given_up_is_asked_to_come_again() {
    let mut bench = Bench::new();
    let (first, session) = bench.join((0, 0));
    bench.close(first, 1006);
    let gone = bench.connect((0, 1), json!({ "resume": { "session": session, "positions": {} } }));
    assert!(bench.cluster.carry_query(0, &mut bench.sockets), "the claim");
    bench.close(gone, 1006);
    let back = bench.resume((0, 0), &session, Some(0));
    bench.rest();
    assert_eq!(bench.closed(back), Some(1001));
    bench.resume((0, 0), &session, None);
    bench.check_one_owner();
}

/// As before, but the shard that had the session ends it before the claim is withdrawn: then that shard claims it as any other.
#[test]
fn what_was_given_up_is_claimed_by_the_shard_that_had_it_too() {
    let mut bench = Bench::new();
    let (first, session) = bench.join((0, 0));
    bench.close(first, 1006);
    let gone = bench.connect((0, 1), json!({ "resume": { "session": session, "positions": {} } }));
    assert!(bench.cluster.carry_query(0, &mut bench.sockets), "the claim");
    bench.cluster.now.mono_ms += WINDOW_MS;
    bench.cluster.input(0, 0, Input::Tick, &mut bench.sockets);
    assert_eq!(bench.stats().detached, 0, "its window has ended");
    bench.close(gone, 1006);
    bench.resume((0, 0), &session, None);
    bench.check_one_owner();
}

#[test]
fn the_record_of_a_session_that_ended_is_removed_until_redis_has_done_it() {
    for failure in [PublishFailure::Unknown, PublishFailure::NotDone, PublishFailure::OverShare { bytes: 1 }]
    {
        let mut bench = Bench::new();
        let (socket, _) = bench.join((0, 0));
        // Redis may have executed what is not known; here it has not.
        bench.sockets.failure = Some(failure);
        bench.close(socket, 1000);
        bench.pass(20_000);
        assert_eq!((bench.stats().records_ending, bench.cluster.stored_sessions()), (1, (1, 1)));
        bench.sockets.failure = None;
        bench.pass(20_000);
        assert_eq!((bench.stats().records_ending, bench.cluster.stored_sessions()), (0, (0, 0)));
    }
}

/// `recovered` of a pattern refers to the channels that the client names. For what it cannot name it is sent `RESYNC`.
#[test]
fn a_pattern_recovers_the_logs_whose_positions_are_named_and_signals_what_else_may_be_lost() {
    for at in [(0, 0), (0, 1), (1, 0)] {
        let mut bench = Bench::new();
        let (first, session, positions) = reader_by_pattern(&mut bench);
        bench.close(first, 1006);
        bench.append("log:a", 2);
        bench.append("log:b", 3);

        let (second, welcome, read) = bench.resume_pattern(at, &session, &positions);
        assert_eq!(listed(&welcome, "log:*")["recovered"], true, "{welcome}");
        assert_eq!(numbers(&read), [2], "{at:?}: {read:?}");
        assert_eq!(resynced(&read), ["log:*"], "{at:?}: {read:?}");
        let first_event = read.iter().position(|message| message["type"] == "EVENT");
        assert!(first_event > read.iter().position(|message| message["type"] == "RESYNC"), "{read:?}");
        // From now on that channel is seen, too.
        bench.append("log:b", 4);
        assert_eq!(numbers(&bench.take(second)), [4]);

        // Where no position is named, nothing says that nothing is missing.
        bench.close(second, 1006);
        bench.append("log:b", 5);
        let (_, welcome, read) = bench.resume_pattern(at, &session, &json!({}));
        assert_eq!(listed(&welcome, "log:*")["recovered"], false, "{at:?}: {welcome}");
        assert!(resynced(&read) == ["log:*"] && numbers(&read).is_empty(), "{read:?}");
    }
}

/// The shard that kept the session knows which channels its patterns have shown.
#[test]
fn a_pattern_gets_no_resync_where_every_channel_that_had_events_is_named() {
    let mut bench = Bench::new();
    let (mut socket, session, mut positions) = reader_by_pattern(&mut bench);
    for n in 2..5 {
        bench.close(socket, 1006);
        bench.append("log:a", n);
        let (again, welcome, read) = bench.resume_pattern((0, 0), &session, &positions);
        assert_eq!(listed(&welcome, "log:*")["recovered"], true, "{welcome}");
        assert_eq!((numbers(&read), resynced(&read)), (vec![n], vec![]), "{read:?}");
        positions["log:a"]["offset"] = json!(n);
        socket = again;
    }
}

/// What was written to a dead connection the client does not know of.
#[test]
fn a_channel_whose_first_event_was_lost_with_the_connection_is_signalled_until_the_client_names_it() {
    let mut bench = Bench::new();
    let (socket, session, mut positions) = reader_by_pattern(&mut bench);
    bench.append("log:b", 2);
    bench.take(socket);
    bench.close(socket, 1006);
    // Nor does it receive the first `RESYNC`.
    let (socket, _, read) = bench.resume_pattern((0, 0), &session, &positions);
    assert_eq!((numbers(&read), resynced(&read)), (vec![], vec!["log:*"]));
    bench.close(socket, 1006);
    let (socket, welcome, read) = bench.resume_pattern((0, 0), &session, &positions);
    assert_eq!(listed(&welcome, "log:*")["recovered"], true, "{welcome}");
    assert_eq!(resynced(&read), ["log:*"]);
    bench.append("log:b", 3);
    let read = bench.take(socket);
    let position = read.iter().find(|message| message["type"] == "POSITION").unwrap();
    positions["log:b"] = json!({ "epoch": position["epoch"], "offset": 1 });
    bench.close(socket, 1006);
    let (_, _, read) = bench.resume_pattern((0, 0), &session, &positions);
    assert_eq!((numbers(&read), resynced(&read)), (vec![3], vec![]));
}

/// The pattern belongs to a class with `history`, and shows channels of one without it, too.
#[test]
fn a_pattern_of_logs_signals_events_that_are_in_no_log() {
    let mut bench = Bench::new();
    let (socket, session, positions) = reader_by_pattern(&mut bench);
    bench.close(socket, 1006);
    let payload = json!({ "event": "e", "data": { "n": 2 } }).to_string();
    bench.cluster.publish(&"log:plain:1".into(), &payload.clone().into(), &mut bench.sockets);
    bench.rest();
    let (socket, _, read) = bench.resume_pattern((0, 0), &session, &positions);
    assert_eq!((numbers(&read), resynced(&read)), (vec![2], vec![]), "it waited for the session");
    bench.close(socket, 1006);
    let (_, welcome, read) = bench.resume_pattern((0, 0), &session, &positions);
    assert_eq!(listed(&welcome, "log:*")["recovered"], true, "of what has a log: {welcome}");
    assert_eq!(resynced(&read), ["log:*"], "it may not have received what it was sent");
}

/// A player who has seen the first event of `log:a` through `log:*`: the socket, the session, and the positions.
fn reader_by_pattern(bench: &mut Bench) -> (SocketId, Value, Value) {
    let socket = bench.connect((0, 0), json!({ "subscribe": [{ "channel": "log:*" }] }));
    bench.rest();
    let session = bench.welcome(socket).0["session"].clone();
    bench.append("log:a", 1);
    let seen = bench.take(socket);
    assert_eq!(seen.last().unwrap()["offset"], 1, "{seen:?}");
    let epoch = seen.iter().find_map(|message| message["epoch"].as_str()).unwrap();
    (socket, session, json!({ "log:a": { "epoch": epoch, "offset": 1 } }))
}

/// The subjects of `RESYNC`s.
fn resynced(messages: &[Value]) -> Vec<&str> {
    let resyncs = messages.iter().filter(|message| message["type"] == "RESYNC");
    resyncs.map(|message| message["channel"].as_str().unwrap()).collect()
}
