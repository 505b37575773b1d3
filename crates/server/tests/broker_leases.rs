//! Nodes that die, end, come back and clean up behind one another: brokers on one Redis, each with a separate user. To take
//! a user's rights away and to close its connections is what `kill -9` of the node looks like to Redis.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use std::time::Duration;

use broker_support::bench::Options;
use broker_support::proxy::Proxy;
use broker_support::server::Server;
use broker_support::{Bench, Flavour, Reply, until};
use bytes::Bytes;
use drawbridge::broker::redis::{LeaseSettings, Library, Names};
use drawbridge::broker::{BrokerStats, RedisAddress, RedisSettings};
use drawbridge::config::Rotating;
use drawbridge_engine::io::{
    Answer, BrokerEvent, BrokerStatus, PresenceChange, PublishFailure, QueryKind, SessionSecret, Subject,
    WriteKind,
};

/// Long enough that a node on a busy machine is not taken for dead.
const DEAD_AFTER: Duration = Duration::from_secs(2);
const LEASES: [&str; 3] =
    ["drawbridge:{nodes}:leases", "drawbridge:{nodes}:about", "drawbridge:{nodes}:claims"];

/// A node with a separate user.
struct Node {
    bench: Bench,
    name: String,
}

/// The settings of a node by this name, which is its user's and its instance's too.
fn settings(server: &Server, name: &str, resume_window: Duration) -> RedisSettings {
    let rules = ["ACL", "SETUSER", name, "reset", "on", ">pw", "~*", "&*", "+@all"];
    assert_eq!(server.call(&rules), Reply::Text("OK".into()));
    let lease = LeaseSettings {
        renew_every: Duration::from_millis(100),
        dead_after: DEAD_AFTER,
        ..LeaseSettings::new(name.into(), resume_window)
    };
    let password = Some(Rotating::new("pw"));
    RedisSettings { username: Some(name.into()), password, lease, ..server.settings(1) }
}

fn options() -> Options {
    Options { shards: 1, pool: 1, queue_bytes: 64 << 20, ..Options::default() }
}

fn start(server: &Server, name: &str, resume_window: Duration) -> Node {
    let mut bench = Bench::on(None, Some(settings(server, name, resume_window)), options());
    bench.wait_for(BrokerStatus::Ok);
    Node { bench, name: name.to_owned() }
}

/// The write of a session's record.
fn save_of(number: usize) -> WriteKind {
    let session = secret(number).hash();
    WriteKind::SaveSession {
        player: player(number),
        session,
        generation: 1,
        content: Bytes::from_static(b"content"),
    }
}

impl Node {
    fn stats(&self) -> BrokerStats {
        self.bench.broker.stats()
    }

    /// It can reach Redis no more.
    fn kill(&self, server: &Server) {
        server.call(&["ACL", "SETUSER", &self.name, "off"]);
        server.call(&["CLIENT", "KILL", "USER", &self.name]);
    }

    fn revive(&self, server: &Server) {
        server.call(&["ACL", "SETUSER", &self.name, "on"]);
    }

    fn save(&mut self, numbers: std::ops::Range<usize>) {
        self.bench.write_all(numbers.map(save_of));
    }

    /// As [`Node::save`], where the connection may just have been cut: what was written on it may be lost.
    fn save_behind_a_cut(&mut self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let is_saved = (0..20).any(|_| self.bench.write_and_wait(save_of(number)).is_ok());
            assert!(is_saved, "session {number}");
        }
    }

    fn claim(&mut self, number: usize) -> Option<u64> {
        let session = secret(number);
        let ticket = self.bench.ask(QueryKind::ClaimSession { player: player(number), session });
        match self.bench.answer(ticket) {
            Ok(Answer::Session(claimed)) => claimed.map(|claimed| claimed.generation),
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, channel: &str, numbers: impl IntoIterator<Item = usize>, generation: u64) {
        self.bench.write_all(numbers.into_iter().map(|number| presence(channel, number, generation, true)));
    }

    fn leave(&mut self, channel: &str, numbers: impl IntoIterator<Item = usize>, generation: u64) {
        self.bench.write_all(numbers.into_iter().map(|number| presence(channel, number, generation, false)));
    }

    /// A page: players with the number of their sessions, how many players there are, and whether more follow.
    fn page(&mut self, channel: &str, after: Option<&str>, limit: usize) -> (Vec<(String, u64)>, u64, bool) {
        let after = after.map(Into::into);
        let ticket = self.bench.ask(QueryKind::Presence { channel: channel.into(), after, limit });
        match self.bench.answer(ticket) {
            Ok(Answer::Presence(page)) => {
                let player = |(name, sessions): &(std::sync::Arc<str>, u64)| (name.to_string(), *sessions);
                (page.players.iter().map(player).collect(), page.total, page.has_more)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next notice of who comes and goes.
    fn change(&mut self) -> PresenceChange {
        match self.bench.next(0) {
            BrokerEvent::Presence { notices, change: Some(change) } => {
                assert_eq!(*notices, *"drawbridge:presence:room:1");
                (*change).clone()
            }
            other => panic!("{other:?}"),
        }
    }

    fn present(&mut self, channel: &str) -> u64 {
        self.page(channel, None, 1).1
    }
}

fn presence(channel: &str, number: usize, generation: u64, is_present: bool) -> WriteKind {
    WriteKind::Presence {
        channel: channel.into(),
        player: player(number),
        session: secret(number).hash(),
        generation,
        is_present,
        notify: true,
    }
}

fn player(number: usize) -> std::sync::Arc<str> {
    format!("p{number:05}").into()
}

fn secret(number: usize) -> SessionSecret {
    SessionSecret(1_000 + number as u128)
}

fn record(number: usize) -> String {
    format!("drawbridge:{{player:{}}}:session:{}", player(number), secret(number).hash())
}

/// How long the record of a session is still there: -1 for ever, -2 it is not there.
fn left_ms(server: &Server, number: usize) -> i64 {
    match server.call(&["PTTL", &record(number)]) {
        Reply::Int(left) => left,
        other => panic!("{other:?}"),
    }
}

fn keys(server: &Server, pattern: &str) -> Vec<String> {
    let Reply::List(keys) = server.call(&["KEYS", pattern]) else { panic!("no keys") };
    let text = |key| match key {
        Reply::Text(name) => name,
        other => panic!("{other:?}"),
    };
    keys.into_iter().map(text).collect()
}

fn leases(server: &Server) -> Vec<String> {
    match server.call(&["ZRANGE", LEASES[0], "0", "-1"]) {
        Reply::List(names) => names
            .into_iter()
            .map(|name| match name {
                Reply::Text(name) => name,
                other => panic!("{other:?}"),
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_survivor_hands_on_what_a_dead_node_left_and_removes_the_rest() {
    let server = Server::start(Flavour::Tcp);
    let window = Duration::from_secs(6);
    let [mut dead, mut survivor] = ["dead", "survivor"].map(|name| start(&server, name, window));
    dead.save(0..1_200);
    dead.join("room:1", 0..1_200, 1);
    for room in 2..40 {
        dead.join(&format!("room:{room}"), [room], 1);
    }
    // This one has moved, to a node that lives.
    assert_eq!(survivor.claim(7), Some(2));
    survivor.join("room:1", [7], 2);
    survivor.join("room:1", [5_000], 1);
    assert_eq!(survivor.present("room:1"), 1_201);
    survivor.bench.subscribe(0, &Subject::channel("drawbridge:presence:room:1"));
    dead.kill(&server);
    until("the sessions get their window", || {
        (0..1_200).filter(|number| left_ms(&server, *number) >= 0).count() == 1_199
    });
    assert_eq!(left_ms(&server, 7), -1, "it is the survivor's");
    assert!((0..1_200).all(|number| left_ms(&server, number) <= window.as_millis() as i64));
    assert_eq!(survivor.present("room:1"), 1_201, "whoever may come back has not left");
    // One comes back.
    assert_eq!(survivor.claim(8), Some(2));
    survivor.join("room:1", [8], 2);
    let mut left = Vec::new();
    let mut messages = 0;
    while left.len() < 1_198 {
        let change = survivor.change();
        assert!(change.joined.is_empty());
        left.extend(change.left.iter().map(|name| name.to_string()));
        messages += 1;
    }
    assert!(messages < 20, "{messages} messages");
    left.sort_unstable();
    let expected: Vec<_> = (0..1_200)
        .filter(|number| ![7, 8].contains(number))
        .map(|number| player(number).to_string())
        .collect();
    assert_eq!(left, expected);
    until("nothing is left of it", || survivor.stats().dead_nodes == 1);
    assert_eq!(survivor.page("room:1", None, 10).0.len(), 3);
    assert_eq!(survivor.present("room:20"), 0);
    assert_eq!(leases(&server), ["survivor"]);
    assert_eq!(keys(&server, "*{node:dead}*"), Vec::<String>::new());
    until("the other sessions are gone", || keys(&server, "*:session:*").len() == 2);
    assert!(survivor.stats().session_windows >= 1_199);
}

#[test]
fn the_first_to_start_cleans_up_behind_all_that_died_and_behind_who_died_meanwhile() {
    let server = Server::start(Flavour::Tcp);
    let window = Duration::from_secs(1);
    let mut all = ["one", "two"].map(|name| start(&server, name, window));
    for (at, node) in all.iter_mut().enumerate() {
        node.save(at * 10..at * 10 + 10);
        node.join("room:1", at * 10..at * 10 + 10, 1);
    }
    all.iter().for_each(|node| node.kill(&server));
    let claim = |dead: &str| {
        let dead_after = DEAD_AFTER.as_millis().to_string();
        let mut call = vec!["FCALL", "drawbridge_lease_claim", "3"];
        call.extend(LEASES);
        call.extend([dead, "ghost", &dead_after, &dead_after]);
        matches!(&server.call(&call), Reply::List(parts) if parts[2] == Reply::Int(1))
    };
    // A node that has claimed one of them, and dies before it has done anything.
    until("it is dead", || claim("one"));
    let mut last = start(&server, "last", window);
    until("nothing is left of them", || last.stats().dead_nodes == 2);
    assert_eq!(leases(&server), ["last"]);
    assert_eq!(last.present("room:1"), 0);
    until("no session is left", || keys(&server, "*session*").is_empty());
    assert_eq!(keys(&server, "*{node:*"), Vec::<String>::new());
}

#[test]
fn a_node_that_was_taken_for_dead_writes_its_sessions_again() {
    let server = Server::start(Flavour::Tcp);
    let window = Duration::from_secs(60);
    let [mut cut_off, survivor] = ["cut_off", "survivor"].map(|name| start(&server, name, window));
    cut_off.save(0..10);
    cut_off.kill(&server);
    until("its sessions get their window", || (0..10).all(|number| left_ms(&server, number) > 0));
    cut_off.revive(&server);
    cut_off.bench.wait_for_store_lost(0);
    cut_off.save(0..10);
    assert!((0..10).all(|number| left_ms(&server, number) == -1), "they live again");
    let renewals = survivor.stats().lease_renewals;
    until("the survivor has looked again", || survivor.stats().lease_renewals > renewals + 5);
    assert!((0..10).all(|number| left_ms(&server, number) == -1));
    assert_eq!(leases(&server).len(), 2);
    assert_eq!(survivor.stats().dead_nodes, 0);
}

#[test]
fn redis_that_was_away_kills_no_node() {
    let server = Server::start(Flavour::Tcp);
    let mut nodes = ["one", "two", "three"].map(|name| start(&server, name, Duration::from_secs(60)));
    for (at, node) in nodes.iter_mut().enumerate() {
        node.save(at * 10..at * 10 + 10);
    }
    server.freeze();
    std::thread::sleep(2 * DEAD_AFTER);
    server.thaw();
    let renewals: Vec<_> = nodes.iter().map(|node| node.stats().lease_renewals).collect();
    for (node, before) in nodes.iter().zip(renewals) {
        until("it renews its lease", || node.stats().lease_renewals > before + 30);
    }
    assert!((0..30).all(|number| left_ms(&server, number) == -1));
    assert_eq!(leases(&server).len(), 3);
    for node in &mut nodes {
        node.bench.waiting(0).iter().for_each(|event| {
            assert!(!matches!(event, BrokerEvent::StoreLost), "nothing was lost");
        });
        assert_eq!((node.bench.store_lost, node.stats().dead_nodes), (0, 0));
    }
}

#[test]
fn redis_that_lost_its_data_is_written_again() {
    let mut server = Server::start(Flavour::Tcp);
    let mut nodes = ["one", "two"].map(|name| start(&server, name, Duration::from_secs(60)));
    nodes[0].save(0..10);
    server.kill();
    server.launch();
    for node in &nodes {
        settings(&server, &node.name, Duration::from_secs(60));
    }
    for node in &mut nodes {
        node.bench.wait_for_store_lost(0);
    }
    assert_eq!(leases(&server).len(), 2);
    nodes[0].save(0..10);
    assert_eq!(nodes[1].claim(3), Some(2));
}

/// Behind a failover: the replica lacks the last renewals, and so it may lack records.
#[test]
fn a_lease_that_went_back_is_a_loss() {
    let server = Server::start(Flavour::Tcp);
    let mut node = start(&server, "one", Duration::from_secs(60));
    let renewed = |server: &Server| server.call(&["ZSCORE", LEASES[0], "one"]);
    let before = renewed(&server);
    until("it renews", || renewed(&server) != before);
    let Reply::Text(before) = before else { panic!("{before:?}") };
    server.call(&["ZADD", LEASES[0], &before, "one"]);
    node.bench.wait_for_store_lost(0);
}

#[test]
fn a_node_that_ends_hands_its_sessions_over_at_once() {
    for flavour in [Flavour::Acl, Flavour::Prefixed] {
        let server = Server::start(flavour);
        let start = || {
            let mut bench = Bench::on(None, Some(server.settings(1)), options());
            bench.wait_for(BrokerStatus::Ok);
            Node { bench, name: String::new() }
        };
        let (mut ends, mut stays) = (start(), start());
        ends.save(0..1_200);
        ends.bench.shut_down();
        let named = |key: &str| server.named(key);
        for number in [0, 600, 1_199] {
            let left = server.call(&["PTTL", &named(&record(number))]);
            assert!(matches!(left, Reply::Int(1..=60_000)), "{left:?}");
        }
        assert_eq!(stays.claim(7), Some(2));
        assert_eq!(server.call(&["PTTL", &named(&record(7))]), Reply::Int(-1));
        assert_eq!(server.call(&["ZCARD", &named(LEASES[0])]), Reply::Int(1), "its lease is gone");
        assert_eq!(server.call(&["HLEN", &named(LEASES[1])]), Reply::Int(1));
        assert_eq!(keys(&server, "*{node:*").len(), 1, "the index of the one that stays");
        assert_eq!(keys(&server, &format!("{}*", flavour.prefix())).len(), keys(&server, "*").len());
    }
}

#[test]
fn the_presence_of_a_node_that_ends_stays_until_its_window_ends() {
    let server = Server::start(Flavour::Tcp);
    let window = Duration::from_secs(3);
    let [mut ends, mut stays] = ["ends", "stays"].map(|name| start(&server, name, window));
    ends.save(0..3);
    ends.join("room:1", 0..3, 1);
    ends.bench.shut_down();
    assert_eq!(stays.present("room:1"), 3);
    // A resume does not flap.
    assert_eq!(stays.claim(1), Some(2));
    stays.join("room:1", [1], 2);
    assert_eq!(stays.present("room:1"), 3);
    until("the others have left", || stays.stats().dead_nodes == 1);
    assert_eq!(stays.page("room:1", None, 10), (vec![(player(1).to_string(), 1)], 1, false));
    stays.leave("room:1", [1], 2);
    until("nothing is left", || keys(&server, "*room:1*").is_empty());
    until("nor of the index", || {
        keys(&server, "*{node:*}:presence").is_empty() || {
            // The entry goes with the next write.
            stays.join("room:2", [1], 2);
            stays.leave("room:2", [1], 2);
            keys(&server, "*{node:stays}:presence").len() <= 1
        }
    });
}

#[test]
fn keys_that_others_have_overwritten_are_written_again() {
    let server = Server::start(Flavour::Tcp);
    let window = Duration::from_secs(1);
    let [mut dead, survivor] = ["dead", "survivor"].map(|name| start(&server, name, window));
    dead.save(0..3);
    for key in LEASES {
        let renewals = survivor.stats().lease_renewals;
        server.call(&["DEL", key]);
        server.call(&["SET", key, "rubbish"]);
        until("the lease is renewed", || survivor.stats().lease_renewals > renewals + 5);
        assert_ne!(server.call(&["TYPE", key]), Reply::Text("string".into()));
    }
    server.call(&["ZADD", LEASES[0], "+inf", "of-the-future"]);
    server.call(&["ZADD", LEASES[0], "-inf", "of-the-past"]);
    dead.kill(&server);
    server.call(&["SADD", "drawbridge:{node:dead}:sessions", "rubbish", "::", ""]);
    server.call(&["SET", "drawbridge:{node:dead}:presence", "rubbish"]);
    until("all three are cleaned up behind", || survivor.stats().dead_nodes == 3);
    assert_eq!(leases(&server), ["survivor"]);
    until("no session is left", || keys(&server, "*session*").is_empty());
}

/// One environment neither sees nor touches the nodes of another.
#[test]
fn environments_clean_up_behind_their_own_nodes() {
    let server = Server::start(Flavour::Tcp);
    let window = Duration::from_secs(1);
    let of = |prefix: &str, name: &str| {
        let names = Names::new(prefix, "drawbridge:");
        let library = Library::new(&broker_support::bench::classes(), &names, 1 << 16);
        let redis = RedisSettings { names, library, ..settings(&server, name, window) };
        let mut bench = Bench::on(None, Some(redis), options());
        bench.wait_for(BrokerStatus::Ok);
        Node { bench, name: name.to_owned() }
    };
    let (mut dead, other, own) = (of("prod:", "dead"), of("test:", "other"), of("prod:", "own"));
    dead.save(0..3);
    dead.kill(&server);
    until("its own have cleaned up", || own.stats().dead_nodes == 1);
    assert_eq!(other.stats().dead_nodes, 0);
    assert!(keys(&server, "test:*").iter().all(|key| key.starts_with("test:drawbridge:{nodes}")));
}

#[test]
fn players_are_present_once_and_come_and_go_once() {
    let server = Server::start(Flavour::Tcp);
    let [mut one, mut two] = ["one", "two"].map(|name| start(&server, name, Duration::from_secs(60)));
    one.bench.subscribe(0, &Subject::channel("drawbridge:presence:room:1"));
    let second = |is_present| WriteKind::Presence {
        channel: "room:1".into(),
        player: player(1),
        session: SessionSecret(9).hash(),
        generation: 1,
        is_present,
        notify: true,
    };
    let joined = |number| PresenceChange { joined: vec![player(number)], left: Vec::new() };
    let left = |number| PresenceChange { joined: Vec::new(), left: vec![player(number)] };
    two.join("room:1", [1], 1);
    assert_eq!(one.change(), joined(1));
    two.bench.write_all([second(true)]);
    assert_eq!(two.page("room:1", None, 10), (vec![(player(1).to_string(), 2)], 1, false));
    two.leave("room:1", [1], 1);
    two.bench.write_all([second(false)]);
    assert_eq!(one.change(), left(1));
    // A session that moves: what the node that had it says is void, before and after the new one's join.
    two.join("room:1", [3], 1);
    assert_eq!(one.change(), joined(3));
    two.join("room:1", [3], 2);
    two.leave("room:1", [3], 1);
    assert_eq!(two.present("room:1"), 1);
    two.join("room:1", [3], 1);
    two.leave("room:1", [3], 2);
    assert_eq!(one.change(), left(3));
    assert_eq!(two.present("room:1"), 0);
    assert!(one.bench.waiting(0).iter().all(|event| !matches!(event, BrokerEvent::Presence { .. })));
}

#[test]
fn pages_are_in_the_order_of_players() {
    let server = Server::start(Flavour::Tcp);
    let mut node = start(&server, "one", Duration::from_secs(60));
    node.join("room:1", (0..2_500).rev(), 1);
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let (players, total, has_more) = node.page("room:1", after.as_deref(), 5_000);
        assert!(players.len() <= 1_000 && total == 2_500);
        after = players.last().map(|(name, _)| name.clone());
        all.extend(players);
        if !has_more {
            break;
        }
    }
    let expected: Vec<_> = (0..2_500).map(|number| (player(number).to_string(), 1)).collect();
    assert_eq!(all, expected);
    node.leave("room:1", 0..2_500, 1);
    assert_eq!(node.page("room:1", None, 10), (vec![], 0, false));
    assert_eq!(keys(&server, "*room:1*"), Vec::<String>::new());
}

#[test]
fn presence_that_others_have_damaged_is_mended() {
    let server = Server::start(Flavour::Tcp);
    let mut node = start(&server, "one", Duration::from_secs(60));
    let [members, players] = ["members", "players"].map(|part| format!("drawbridge:{{room:1}}:{part}"));
    node.join("room:1", 0..3, 1);
    // Redis may evict the one and not the other.
    server.call(&["DEL", &players]);
    node.join("room:1", [3], 1);
    assert_eq!(node.present("room:1"), 4);
    for key in [&players, &members] {
        server.call(&["SET", key, "rubbish"]);
        node.page("room:1", None, 10);
        node.join("room:1", [4], 1);
        assert!(node.present("room:1") >= 1);
    }
    server.call(&["DEL", &members]);
    server.call(&["HSET", &members, "m", "1", "mshort", "x y", "c", "many", "none", "-7", "czoe", "1e9"]);
    node.join("room:1", [1], 1);
    node.leave("room:1", [1], 1);
    let refused = node.bench.write_and_wait(presence("room:1", 2, 1, true));
    assert!(matches!(refused, Ok(()) | Err(PublishFailure::Refused(_))));
}

/// A failover has lost the lease of a node, and the node dies before it renews it: what it has written since is found all the same.
#[test]
fn what_a_node_writes_behind_a_failover_is_cleaned_up_though_it_never_renews_its_lease() {
    let server = Server::start(Flavour::Tcp);
    let window = Duration::from_secs(1);
    let proxy = Proxy::start(server.port());
    let location = RedisAddress::Tcp { host: "127.0.0.1".into(), port: proxy.port }.into();
    let settings = RedisSettings { location, ..settings(&server, "lost", window) };
    let mut bench = Bench::on(None, Some(settings), options());
    bench.wait_for(BrokerStatus::Ok);
    let mut lost = Node { bench, name: "lost".to_owned() };
    proxy.refuse("drawbridge_lease_renew");
    proxy.cut();
    until("its lease is not renewed any more", || {
        for key in LEASES {
            server.call(&["DEL", key]);
        }
        std::thread::sleep(Duration::from_millis(200));
        leases(&server).is_empty()
    });
    proxy.cut();
    lost.save_behind_a_cut(0..3);
    assert_eq!(lost.claim(1), Some(2));
    lost.kill(&server);
    assert_eq!(left_ms(&server, 0), -1);
    assert_eq!(keys(&server, "drawbridge:{node:lost}:*").len(), 1);
    let _survivor = start(&server, "survivor", window);
    until("nothing is left of it", || {
        (0..3).all(|number| left_ms(&server, number) == -2)
            && keys(&server, "drawbridge:{node:lost}:*").is_empty()
            && leases(&server) == ["survivor"]
    });
}

/// Redis has lost a node's lease, and another of the node's connections has ensured that it has one: the node still learns of the loss.
#[test]
fn a_lease_that_was_lost_and_ensured_counts_as_lost() {
    let server = Server::start(Flavour::Tcp);
    let mut node = start(&server, "one", Duration::from_secs(60));
    server.call_all(&[
        &["MULTI"],
        &["ZREM", LEASES[0], "one"],
        &["FCALL", "drawbridge_lease_hold", "3", LEASES[0], LEASES[1], LEASES[2], "one"],
        &["EXEC"],
    ]);
    node.bench.wait_for_store_lost(0);
}
