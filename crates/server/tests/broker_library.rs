//! How nodes keep the functions in Redis current: several environments and versions beside one another, started at once, and
//! with a library that is lost, older, later or not Drawbridge's.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use broker_support::bench::{EXTERNAL_BYTES, Options, classes};
use broker_support::server::Server;
use broker_support::{Bench, Flavour, Reply, until};
use drawbridge::broker::RedisSettings;
use drawbridge::broker::redis::{Library, Names};
use drawbridge_engine::class::{Class, Classes, EntityRules};
use drawbridge_engine::io::{BrokerStatus, PublishFailure, WhenDown};
use drawbridge_protocol::template::ClassName;

/// The libraries of older versions as their nodes loaded them, with `key_prefix = "drawbridge:"` and no class.
const OLDER: [&str; 4] = [
    include_str!("fixtures/library-v4.lua"),
    include_str!("fixtures/library-v5.lua"),
    include_str!("fixtures/library-v6.lua"),
    include_str!("fixtures/library-v7.lua"),
];
const EVENT: &str = r#"{"event":"e","key":"a","data":{"id":"a","x":1,"y":2}}"#;
/// How nodes see each other's loads: a client that Redis holds up in one.
const LOADS: &str = "cmd=function|load";

fn library(prefix: &str, classes: &Classes) -> Library {
    Library::new(classes, &Names::new(prefix, "drawbridge:"), EXTERNAL_BYTES)
}

fn settings(server: &Server, prefix: &str, classes: &Classes) -> RedisSettings {
    let names = Names::new(prefix, "drawbridge:");
    RedisSettings { names, library: library(prefix, classes), ..server.settings(1) }
}

/// A node that begins; it does not wait for Redis.
fn node(server: &Server, prefix: &str, classes: &Classes) -> Bench {
    Bench::on(None, Some(settings(server, prefix, classes)), Options { pool: 1, ..Options::default() })
}

fn entity(name: &str, max: usize) -> Class {
    Class {
        entity: Some(EntityRules { max, max_bytes: 1 << 20, ttl_ms: 600_000, space: None }),
        ..Class::plain(ClassName::parse(name).unwrap())
    }
}

fn load(server: &Server, code: &str) {
    assert_eq!(server.call(&["FUNCTION", "LOAD", "REPLACE", code]), Reply::Text("drawbridge".into()));
}

/// Publishes as a service does. Every class of these tests takes it.
fn publish(server: &Server, channel: &str) -> Reply {
    server.call(&["FCALL", "drawbridge_publish", "1", channel, EVENT])
}

fn is_written(reply: &Reply) -> bool {
    matches!(reply, Reply::Int(version) if *version > 0)
}

fn code(server: &Server) -> String {
    fn text(reply: Reply) -> String {
        match reply {
            Reply::Text(text) => text,
            Reply::List(parts) => parts.into_iter().map(text).collect(),
            _ => String::new(),
        }
    }
    text(server.call(&["FUNCTION", "LIST", "LIBRARYNAME", "drawbridge", "WITHCODE"]))
}

/// Version 4 takes any number of arguments, and would write what it misreads.
#[test]
fn a_node_on_an_older_library_writes_nothing_wrong_and_replaces_it() {
    let both = |older| [(Flavour::Tcp, older), (Flavour::Prefixed, older)];
    for (flavour, older) in OLDER.into_iter().flat_map(both) {
        let mut bench = Bench::new(Some(flavour));
        assert_eq!(bench.commit(0, "world:1", "a", 1), Ok(()));
        load(bench.server(), older);
        assert_eq!(bench.commit(0, "world:1", "b", 1), Ok(()));
        let server = bench.server.as_ref().unwrap();
        let prefix = flavour.prefix();
        let rows = format!("{prefix}drawbridge:{{{prefix}world:1}}:entities");
        assert_eq!(server.call(&["HLEN", &rows]), Reply::Int(4 + 2), "e, s, b, r and two entities");
        let Reply::List(keys) = server.call(&["KEYS", "*{*world:1}*"]) else { panic!("no keys") };
        assert_eq!(keys.len(), 2, "{keys:?}");
        // Versions 5 to 7 serve this node, too: it is replaced at the next look.
        until("it is replaced", || code(server).contains("-- drawbridge library version 9\n"));
        assert_eq!(bench.broker.stats().functions_replaced, 0, "it was Drawbridge's");
    }
}

/// During a deploy, and behind one: the older functions write what the newer ones read, and the other way round.
#[test]
fn a_log_goes_on_under_an_older_library_and_back() {
    let server = Server::start(Flavour::Tcp);
    let newer = library("", &classes()).code();
    let append = || {
        let call = ["FCALL", "drawbridge_append", "2", "{x}log", "{x}position", "c", "9", "60000", "1000"];
        let Reply::List(answers) = server.call(&[&call[..], &[r#"{"event":"e""#, "db1.1", "0"]].concat())
        else {
            panic!("no list")
        };
        match &answers[0] {
            Reply::List(parts) => (parts[1].clone(), parts[2].clone()),
            refused => panic!("{refused:?}"),
        }
    };
    let mut written = Vec::new();
    for code in [OLDER[3], &newer, OLDER[3], &newer] {
        load(&server, code);
        written.extend([append(), append()]);
    }
    let epoch = &written[0].0;
    for (at, (of, offset)) in (1..).zip(&written) {
        assert_eq!((of, offset), (epoch, &Reply::Int(at)));
    }
    let read = server.call(&[
        "FCALL",
        "drawbridge_log",
        "2",
        "{x}log",
        "{x}position",
        "9",
        "60000",
        "0",
        "9",
        "9999",
        "0",
    ]);
    assert!(matches!(&read, Reply::List(parts) if parts.len() == 6 + 8), "{read:?}");
}

/// Both look, and load after both have looked: the second erases the first.
#[test]
fn nodes_that_start_at_once_lose_no_entry_and_no_class() {
    let (world, ship) =
        (Classes::new(vec![entity("world:{w}", 9)]), Classes::new(vec![entity("ship:{s}", 9)]));
    for [one, other] in [["a:", "b:"], ["a:", "a:"]] {
        let server = Server::start(Flavour::Tcp);
        server.call(&["CLIENT", "PAUSE", "600000", "WRITE"]);
        let mut nodes = [node(&server, one, &world), node(&server, other, &ship)];
        until(
            "both load",
            || matches!(server.call(&["CLIENT", "LIST"]), Reply::Text(list) if list.matches(LOADS).count() == 2),
        );
        server.call(&["CLIENT", "UNPAUSE"]);
        nodes.iter_mut().for_each(|node| node.wait_for(BrokerStatus::Ok));
        for channel in [format!("{one}world:1"), format!("{other}ship:1")] {
            let reply = publish(&server, &channel);
            assert!(is_written(&reply), "{channel}: {reply:?}");
        }
    }
}

#[test]
fn many_environments_start_at_once() {
    let server = Server::start(Flavour::Tcp);
    let prefixes: Vec<String> = (0..8).map(|n| format!("e{n}:")).collect();
    let mut nodes: Vec<Bench> = prefixes.iter().map(|prefix| node(&server, prefix, &classes())).collect();
    nodes.iter_mut().for_each(|node| node.wait_for(BrokerStatus::Ok));
    for prefix in &prefixes {
        until(prefix, || is_written(&publish(&server, &format!("{prefix}map:1"))));
    }
}

/// Not by what it writes: it writes nothing that needs them.
#[test]
fn a_node_without_entity_classes_writes_its_entry_again() {
    let server = Server::start(Flavour::Tcp);
    let mut plain =
        node(&server, "plain:", &Classes::new(vec![Class::plain(ClassName::parse("chat:*").unwrap())]));
    plain.wait_for(BrokerStatus::Ok);
    assert_eq!(publish(&server, "plain:chat:1"), Reply::Int(0));
    load(&server, &library("other:", &classes()).code());
    until("its services are served again", || publish(&server, "plain:chat:1") == Reply::Int(0));
    assert!(is_written(&publish(&server, "other:map:1")), "the other's entry is kept");
}

/// There is always something to send.
#[test]
fn a_busy_node_looks_as_well() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.server().call(&["FUNCTION", "FLUSH"]);
    let batch = |bench: &Bench| -> Vec<_> {
        (0..500).map(|_| bench.publish(0, "chat:1", "x", WhenDown::Queue)).collect()
    };
    let mut sent = batch(&bench);
    until("they are loaded again", || {
        let more = batch(&bench);
        for ticket in std::mem::replace(&mut sent, more) {
            assert_eq!(bench.done(0, ticket), Ok(()));
        }
        is_written(&publish(bench.server.as_ref().unwrap(), "map:1"))
    });
}

/// What failed for the lack of functions is sent again at once, whoever has loaded them, and no other
/// command notices.
#[test]
fn functions_that_another_node_restores_first_are_used() {
    let server = Server::start(Flavour::Tcp);
    let mut nodes = [node(&server, "", &classes()), node(&server, "", &classes())];
    nodes.iter_mut().for_each(|node| node.wait_for(BrokerStatus::Ok));
    for round in 0..40 {
        server.call(&["FUNCTION", "DELETE", "drawbridge"]);
        let tickets = nodes.each_mut().map(|node| {
            [
                node.publish(0, "chat:1", "x", WhenDown::Reject),
                node.commit_later(0, "map:1", "a", Some(round)),
            ]
        });
        for (node, tickets) in nodes.iter_mut().zip(tickets) {
            for ticket in tickets {
                assert_eq!(node.done(0, ticket), Ok(()), "round {round}");
            }
            assert_eq!(node.broker.no_functions(), None);
        }
    }
    for node in &mut nodes {
        let ticket = node.publish(0, "chat:1", "last", WhenDown::Queue);
        assert_eq!(node.done(0, ticket), Ok(()));
        assert_eq!(node.statuses[0], [BrokerStatus::Degraded, BrokerStatus::Ok], "only before the start");
    }
}

/// Until it could write its entry once, a node has just started.
#[test]
fn a_configuration_that_could_not_be_written_at_the_start_is_written_later() {
    let server = Server::start(Flavour::Tcp);
    let with_max = |max| Classes::new(vec![entity("world:{w}", max)]);
    load(&server, &library("", &with_max(1)).code());
    server.call(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut bench = node(&server, "", &with_max(7));
    bench.wait_for(BrokerStatus::Ok);
    assert!(bench.broker.no_functions().is_some_and(|reason| reason.contains("OOM")));
    server.call(&["CONFIG", "SET", "maxmemory", "0"]);
    server.call(&["CLIENT", "KILL", "TYPE", "normal"]);
    until("it is written", || code(&server).contains(r#""max":7,"#));
    until("it is of use", || bench.broker.no_functions().is_none());
}

/// Whether they are there does not depend on what Redis can do just now.
#[test]
fn functions_are_recognised_while_redis_is_full() {
    let server = Server::start(Flavour::Tcp);
    load(&server, &library("", &classes()).code());
    server.call(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut bench = node(&server, "", &classes());
    bench.wait_for(BrokerStatus::Ok);
    assert_eq!(bench.broker.no_functions(), None);
    let Err(PublishFailure::Refused(reason)) = bench.commit(0, "world:1", "a", 1) else { panic!("taken") };
    assert!(reason.starts_with("OOM"), "{reason}");
}

/// As a version 10 that holds other environments only.
#[test]
fn an_entry_that_a_later_library_lacks_is_named() {
    let later = |prefix| {
        let code = library(prefix, &classes()).code();
        let later =
            code.replace("library version 9", "library version 10").replace("VERSION = 9", "VERSION = 10");
        assert_ne!(later, code);
        later
    };
    let server = Server::start(Flavour::Tcp);
    load(&server, &later("other:"));
    let mut bench = node(&server, "own:", &classes());
    bench.wait_for(BrokerStatus::Ok);
    let Err(PublishFailure::Refused(reason)) = bench.commit(0, "world:1", "a", 1) else { panic!("taken") };
    assert!(reason.contains("no entry for this environment"), "{reason}");
    let reason = bench.broker.no_functions().expect("they are of no use");
    assert!(reason.contains("of version 10 and have no entry for this node's channel_prefix"), "{reason}");
    assert!(!reason.contains("own:"), "a page for anybody shows it: {reason}");
    // A node of that version has come.
    load(&server, &later("own:"));
    server.call(&["CLIENT", "KILL", "TYPE", "normal"]);
    until("they serve it", || bench.broker.no_functions().is_none());
    assert!(code(&server).contains("library version 10"));
}

/// All that is kept of others at most: Redis loads it in time, and Lua has room for it.
#[test]
fn a_library_that_only_says_a_later_version_leaves_the_entries_of_others() {
    let server = Server::start(Flavour::Tcp);
    // Many short and different texts are what Lua has least room for.
    let entry = |prefix: usize| {
        let class = |n: usize| serde_json::json!({ "name": format!("{prefix:02}{n}:*"), "match": "" });
        let classes: Vec<_> = (0..1_000).map(class).collect();
        serde_json::json!({ "prefix": format!("e{prefix}:"), "keys": "drawbridge:", "bytes": 1_000, "classes": classes })
    };
    let others: Vec<_> = (0..100).map(entry).collect();
    let foreign = format!(
        "#!lua name=drawbridge\n-- drawbridge library version 10\n-- environments {}\n\
         redis.register_function('drawbridge_commit', function() return 1 end)",
        serde_json::Value::from(others)
    );
    load(&server, &foreign);
    let mut bench = node(&server, "own:", &classes());
    bench.wait_for(BrokerStatus::Ok);
    assert_eq!(bench.broker.no_functions(), None);
    assert_eq!(bench.broker.stats().functions_replaced, 1);
    assert_eq!(bench.commit(0, "world:1", "a", 1), Ok(()));
    let kept = (0..100).filter(|n| publish(&server, &format!("e{n}:{n:02}7:x")) == Reply::Int(0)).count();
    assert!((20..100).contains(&kept), "{kept}: whole entries, up to a bound");
    assert_eq!(publish(&server, &format!("e0:00{}:x", 999)), Reply::Int(0));
}
