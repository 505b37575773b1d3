//! The functions in Redis, called as services and nodes call them: what they take, every node takes; and what has
//! expired is in nobody's way.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use std::cell::RefCell;
use std::time::Instant;

use broker_support::bench::{ENTITY_MAX, EXTERNAL_BYTES, classes};
use broker_support::server::Server;
use broker_support::{Bench, Flavour, Reply};
use drawbridge::broker::redis::{Library, Names};
use drawbridge_engine::io::{PublishFailure, Subject, Version};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

const ROWS: &str = "drawbridge:{world:1}:entities";
const HEARD: &str = "drawbridge:{world:1}:heard";

fn redis() -> Bench {
    Bench::new(Some(Flavour::usual()))
}

/// Longer than any test takes, so that nothing expires but what [`age`] made old.
const TTL_MS: u64 = 600_000;

/// As if this entity's last event had come so long ago that it has expired.
fn age(bench: &Bench, key: &str) {
    let answer = call(bench, &["ZINCRBY", HEARD, &format!("-{}", TTL_MS + 1), &format!("k{key}")]);
    assert!(matches!(answer, Reply::Text(_)), "{answer:?}");
}

/// Redis' clock.
fn now_ms(bench: &Bench) -> u64 {
    let Reply::List(time) = call(bench, &["TIME"]) else { panic!("no time") };
    let part = |at: usize| match &time[at] {
        Reply::Text(text) => text.parse::<u64>().unwrap(),
        other => panic!("{other:?}"),
    };
    part(0) * 1_000 + part(1) / 1_000
}

fn call(bench: &Bench, parts: &[&str]) -> Reply {
    bench.server.as_ref().unwrap().call(parts)
}

/// Writes an entity as a node does whose class has these bounds.
fn commit(bench: &Bench, max: usize, ttl_ms: u64, key: &str) -> Reply {
    let body = format!(r#"{{"event":"e","data":{{"id":"{key}"}},"key":"{key}""#);
    let (max, ttl_ms) = (max.to_string(), ttl_ms.to_string());
    let parts = ["FCALL", "drawbridge_commit", "1", "world:1", &max, &ttl_ms, key, "0", &body, "db1.1"];
    let Reply::List(answers) = call(bench, &parts) else { panic!("not taken") };
    match answers.into_iter().next().unwrap() {
        // The mark that proves whose answer it is, and the version.
        Reply::List(parts) if parts[0] == Reply::Text("drawbridge".into()) => {
            parts.into_iter().nth(1).unwrap()
        }
        other => other,
    }
}

fn is_full(answer: &Reply) -> bool {
    matches!(answer, Reply::Text(words) if words.starts_with("LIMIT_EXCEEDED"))
}

#[test]
fn what_has_expired_keeps_nothing_new_out() {
    let mut bench = redis();
    for n in 0..ENTITY_MAX {
        assert!(matches!(commit(&bench, ENTITY_MAX, TTL_MS, &format!("e{n}")), Reply::Int(_)));
    }
    assert_eq!(bench.commit(0, "world:1", "more", 0), Err(PublishFailure::LimitExceeded));
    for n in 0..ENTITY_MAX {
        age(&bench, &format!("e{n}"));
        assert_eq!(bench.commit(0, "world:1", &format!("more{n}"), n), Ok(()), "e{n} has expired");
        assert!(is_full(&commit(&bench, ENTITY_MAX, TTL_MS, "more")));
    }
}

#[test]
fn an_entity_that_is_heard_again_stays() {
    let bench = redis();
    for key in ["a", "b"] {
        assert!(matches!(commit(&bench, 2, TTL_MS, key), Reply::Int(_)));
        age(&bench, key);
    }
    assert!(matches!(commit(&bench, 2, TTL_MS, "a"), Reply::Int(_)));
    assert!(matches!(commit(&bench, 2, TTL_MS, "c"), Reply::Int(_)), "b has expired");
    let stays = call(&bench, &["HMGET", ROWS, "ka", "kb", "kc"]);
    assert!(
        matches!(&stays, Reply::List(rows) if matches!(rows[..], [Reply::Text(_), Reply::Nil, Reply::Text(_)])),
        "{stays:?}"
    );
    assert!(is_full(&commit(&bench, 2, 60_000, "d")));
}

#[test]
fn room_is_made_a_little_at_a_time() {
    let bench = redis();
    for n in 0..500 {
        assert!(matches!(commit(&bench, 501, TTL_MS, &format!("e{n}")), Reply::Int(_)));
        age(&bench, &format!("e{n}"));
    }
    let rows = |bench: &Bench| match call(bench, &["HLEN", ROWS]) {
        Reply::Int(rows) => rows,
        other => panic!("{other:?}"),
    };
    let before = rows(&bench);
    assert!(matches!(commit(&bench, 501, TTL_MS, "new"), Reply::Int(_)));
    let gone = before + 1 - rows(&bench);
    assert!((1..=64).contains(&gone), "{gone} went at once");
    let Reply::Text(commands) = call(&bench, &["INFO", "commandstats"]) else { panic!("no stats") };
    assert!(!commands.contains("cmdstat_hgetall"), "{commands}");
}

#[test]
fn a_refused_entity_leaves_nothing() {
    let bench = redis();
    assert!(matches!(commit(&bench, 1, 60_000, "a"), Reply::Int(1)));
    for _ in 0..3 {
        assert!(is_full(&commit(&bench, 1, 60_000, "b")));
    }
    assert_eq!(
        call(&bench, &["ZRANGEBYSCORE", HEARD, "-inf", "(+inf"]),
        Reply::List(vec![Reply::Text("ka".into())])
    );
    assert!(matches!(commit(&bench, 1, 60_000, "a"), Reply::Int(2)), "nothing was counted");
}

#[test]
fn a_table_without_its_set_is_taken_over() {
    let bench = redis();
    // As an older library left it.
    let row = format!("{} {{}}", now_ms(&bench));
    call(&bench, &["HSET", ROWS, "e", "old", "s", "7", "p", "1", "ka", &row, "kb", &row]);
    assert!(is_full(&commit(&bench, 2, TTL_MS, "c")));
    assert!(matches!(commit(&bench, 2, TTL_MS, "a"), Reply::Int(8)), "the version goes on");
    // Redis may evict the one and not the other.
    call(&bench, &["DEL", HEARD]);
    assert!(is_full(&commit(&bench, 2, TTL_MS, "c")));
    age(&bench, "b");
    assert!(matches!(commit(&bench, 2, TTL_MS, "c"), Reply::Int(_)), "b has expired");
    // A table that begins again has nothing of the old one.
    call(&bench, &["DEL", ROWS]);
    assert!(matches!(commit(&bench, 2, TTL_MS, "d"), Reply::Int(1)));
    assert_eq!(
        call(&bench, &["ZRANGEBYSCORE", HEARD, "-inf", "(+inf"]),
        Reply::List(vec![Reply::Text("kd".into())])
    );
}

#[test]
fn a_key_of_another_type_is_found_before_anything_is_written_or_published() {
    let mut bench = redis();
    call(&bench, &["SET", ROWS, "text"]);
    assert!(matches!(bench.commit(0, "world:1", "a", 1), Err(PublishFailure::Refused(_))));
    assert_eq!(call(&bench, &["EXISTS", HEARD]), Reply::Int(0));
    assert_eq!(call(&bench, &["GET", ROWS]), Reply::Text("text".into()));
    // The bench tells of views on this channel.
    bench.subscribe(0, &Subject::channel("room:told"));
    call(&bench, &["SET", "drawbridge:{player:alice}:views", "text"]);
    for view in [Some("data.n > 1"), None] {
        assert!(matches!(bench.set_view_from(1, "alice", "room:1", view), Err(PublishFailure::Refused(_))));
    }
    bench.publish_from_outside("room:told", "after");
    assert_eq!(bench.publication(0).event.data_json(), "\"after\"");
}

/// Nodes before version 4 do not state how many bytes the entities may take, and none before version 5 a channel prefix. What
/// later nodes state has another function.
#[test]
fn nodes_of_older_versions_are_served_by_the_environment_without_a_prefix() {
    let bench = redis();
    let commit = |limits: &[&str], channel: &str, key: &str| {
        let event = [key, "0", r#"{"event":"e""#, "db1.1"];
        call(&bench, &[&["FCALL", "drawbridge_commit", "1", channel], limits, &event].concat())
    };
    let taken =
        |version| Reply::List(vec![Reply::List(vec![Reply::Text("drawbridge".into()), Reply::Int(version)])]);
    assert_eq!(commit(&["9", "60000"], "world:1", "a"), taken(1));
    assert_eq!(commit(&["9", "60000", "1000"], "world:1", "b"), taken(2));
    let write = |limits: &[&str], channel: &str| {
        let event = ["c", "0", r#"{"event":"e""#, "db1.1"];
        call(&bench, &[&["FCALL", "drawbridge_write", "1", channel], limits, &event].concat())
    };
    assert_eq!(write(&["9", "60000", "1000", ""], "world:1"), taken(3));
    assert_eq!(call(&bench, &["HLEN", ROWS]), Reply::Int(4 + 3));
    for (answer, code) in [
        // Another prefix has nothing here.
        (write(&["9", "60000", "1000", "prod:"], "prod:world:1"), "NOENVIRONMENT"),
        (write(&["9", "60000"], "world:1"), "BADARGS"),
        (write(&["9", "60000", "1000"], "world:1"), "BADARGS"),
        (commit(&["9", "60000", "1000", ""], "world:1", "d"), "BADARGS"),
        (commit(&["9", "60000", "1000", "", "x"], "world:1", "d"), "BADARGS"),
    ] {
        assert!(matches!(&answer, Reply::Error(words) if words.starts_with(code)), "{code}: {answer:?}");
    }
    assert_eq!(call(&bench, &["HLEN", ROWS]), Reply::Int(4 + 3));
    assert_eq!(call(&bench, &["EXISTS", "prod:drawbridge:{prod:world:1}:entities"]), Reply::Int(0));
}

/// Where only environments with a prefix are known, nodes that know none of them still write their tables.
#[test]
fn nodes_of_older_versions_are_served_where_no_environment_is_without_a_prefix() {
    let server = Server::start(Flavour::Prefixed);
    let code = server.library(&classes());
    assert_eq!(server.call(&["FUNCTION", "LOAD", "REPLACE", &code]), Reply::Text("drawbridge".into()));
    let old = [
        "FCALL",
        "drawbridge_commit",
        "1",
        "world:1",
        "9",
        "60000",
        "1000",
        "a",
        "0",
        r#"{"event":"e""#,
        "i",
    ];
    let taken = Reply::List(vec![Reply::Text("drawbridge".into()), Reply::Int(1)]);
    assert_eq!(server.call(&old), Reply::List(vec![taken]));
    assert_eq!(server.call(&["EXISTS", ROWS]), Reply::Int(1));
}

/// As where another environment's node has loaded the functions into a Redis that had lost them.
#[test]
fn a_node_adds_its_environment_where_it_is_missing() {
    let mut bench = redis();
    assert_eq!(bench.commit(0, "world:1", "a", 1), Ok(()));
    let code = Library::new(&classes(), &Names::new("prod:", "drawbridge:"), EXTERNAL_BYTES).code();
    assert_eq!(call(&bench, &["FUNCTION", "LOAD", "REPLACE", &code]), Reply::Text("drawbridge".into()));
    assert_eq!(bench.commit(0, "world:1", "a", 2), Ok(()));
    for channel in ["prod:map:1", "map:1"] {
        let payload = r#"{"event":"e","data":{"id":"a","x":1,"y":2}}"#;
        assert_eq!(call(&bench, &["FCALL", "drawbridge_publish", "1", channel, payload]), Reply::Int(1));
    }
    assert_eq!(bench.broker.stats().functions_replaced, 0, "it was ours");
}

/// Channels of classes that read payloads in different ways.
const CHANNELS: [&str; 4] = ["map:1", "own:1", "raw:1", "tagged:1"];

/// A node that hears them all.
fn listening() -> Bench {
    let mut bench = redis();
    for channel in CHANNELS {
        bench.subscribe(0, &Subject::channel(channel));
        assert_eq!(bench.table(0), []);
    }
    bench
}

/// Publishes by the function. What Redis takes, the node must tell, under the key that Redis keeps it by, and without a
/// hole before what comes next.
fn publish(bench: &mut Bench, channel: &str, payload: &[u8]) -> Reply {
    let reply = call_publish(bench, channel, payload);
    if let Reply::Int(seq) = reply {
        let next = next_of(channel);
        assert_eq!(call_publish(bench, channel, next.as_bytes()), Reply::Int(seq + 1));
        let told = bench.publication(0);
        if told.event.key() == Some("next") {
            assert!(
                payload.windows(5).any(|part| part == b"emove"),
                "only who is not there is removed untold"
            );
            return reply;
        }
        let version = told.event.server_id().and_then(Version::of_id).expect("it came by the table");
        assert_eq!((&*told.channel, version.seq), (channel, u64::try_from(seq).unwrap()));
        let rows = format!("drawbridge:{{{channel}}}:entities");
        let field = format!("k{}", told.event.key().expect("a key"));
        let is_kept = call(bench, &["HEXISTS", &rows, &field]) == Reply::Int(1);
        assert_eq!(is_kept, told.event.name() != "remove", "{field}");
        assert_eq!(bench.publication(0).event.key(), Some("next"));
    }
    reply
}

/// An event that every class takes; `raw` finds its key at the top.
fn next_of(channel: &str) -> &'static str {
    match channel {
        "raw:1" => r#"{"id":"next"}"#,
        _ => r#"{"event":"next","key":"next","data":{"id":"next","x":1,"y":1},"tags":{"id":"next"}}"#,
    }
}

fn call_publish(bench: &Bench, channel: &str, payload: &[u8]) -> Reply {
    let parts = [b"FCALL".as_slice(), b"drawbridge_publish", b"1", channel.as_bytes(), payload];
    bench.server.as_ref().unwrap().call(&parts)
}

#[test]
fn what_is_json_is_taken() {
    let mut bench = listening();
    let deep = format!(r#"{{"event":"e","key":"a","data":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    for (channel, payload) in [
        ("map:1", r#"{"event":"e","data":{"id":"a","x":1,"y":-2.5e-05}}"#),
        ("map:1", " {\t\"event\" : \"e\",\r\n\"data\":{\"id\":0.5,\"x\":0,\"y\":1E+2} } \n"),
        ("map:1", r#"{"event":"e","data":{"id":"NaN 0x1 +1 01 1. .5 \" 1.","x":-0.0,"y":10.05}}"#),
        ("map:1", "{\"event\":\"e\",\"data\":{\"id\":\"é€😀\u{7f}\",\"x\":1,\"y\":1}}"),
        ("map:1", r#"{"event":"remove","data":{"id":"a"}}"#),
        ("map:1", r#"{"id":"a","x":1,"y":2,"s":"\\"}"#),
        ("own:1", r#"{"event":"e","key":7,"more":{"event":1}}"#),
        ("own:1", &deep),
        ("raw:1", r#"{"event":"e","id":"a"}"#),
        ("tagged:1", r#"{"event":"e","tags":{"id":"\ud83d\ude00"}}"#),
    ] {
        let reply = publish(&mut bench, channel, payload.as_bytes());
        assert!(matches!(reply, Reply::Int(_)), "{channel} {payload}: {reply:?}");
    }
}

#[test]
fn a_number_is_the_key_that_nodes_make_of_it() {
    let mut bench = listening();
    for (number, key) in [
        ("9007199254740991", "9007199254740991"),
        ("9007199254740993", "9007199254740993"),
        ("18446744073709551615", "18446744073709551615"),
        ("-123456789012345678901234567890", "-123456789012345678901234567890"),
        ("9007199254740993.0", "9007199254740992"),
        ("1e21", "1000000000000000000000"),
        ("1E23", "100000000000000000000000"),
        ("1e-7", "0.0000001"),
        ("5.684341886080801486968994140625e-14", "0.00000000000005684341886080802"),
        ("100000000000.015625", "100000000000.01563"),
        ("5e-200", &format!("0.{}5", "0".repeat(199))),
        ("1e400", "1e400"),
        ("-1e-400", "-0"),
        ("-0", "-0"),
    ] {
        let (data, last) =
            (format!(r#"{{"x":1,"y":[2,"\"]"],"id":{number}}}"#), format!(r#""i\u0064":{number}"#));
        for (channel, payload) in [
            (
                "map:1",
                format!(r#"{{"event":"e","data":{{"x":1,"y":2,"id":7,"z":[{{"id":8}},"\"}}"],{last}}}}}"#),
            ),
            ("map:1", format!(r#"{{"id":7,"x":1,"y":1, {last} }}"#)),
            ("own:1", format!(r#"{{"key":7,"event":"e","data":{data},"key" : {number}}} "#)),
            ("raw:1", data.clone()),
            (
                "tagged:1",
                format!(r#"{{"event":"e","tags":{{"id":1}},"tags":{{"id":{number}}},"data":{data}}}"#),
            ),
        ] {
            assert!(matches!(publish(&mut bench, channel, payload.as_bytes()), Reply::Int(_)), "{payload}");
            let rows = format!("drawbridge:{{{channel}}}:entities");
            assert_eq!(call(&bench, &["HEXISTS", &rows, &format!("k{key}")]), Reply::Int(1), "{payload}");
        }
    }
    let too_long = publish(&mut bench, "raw:1", br#"{"id":1e300}"#);
    assert!(matches!(&too_long, Reply::Error(words) if words.starts_with("BADKEY")), "{too_long:?}");
}

#[test]
fn half_a_surrogate_pair_is_taken_as_nodes_read_it() {
    let mut bench = listening();
    for (text, key) in [
        (r"\ud800", "\u{FFFD}"),
        (r"\uDFFFa", "\u{FFFD}a"),
        (r"\ud83d\ud83d\ude00\ude00", "\u{FFFD}😀\u{FFFD}"),
        (r"\ud800\u0041", "\u{FFFD}A"),
        (r"\\ud800", r"\ud800"),
        (r"\\\ud800", "\\\u{FFFD}"),
    ] {
        for (channel, payload) in [
            ("map:1", format!(r#"{{"event":"e","data":{{"x":1,"y":2,"{text}":"{text}","id":"{text}"}}}}"#)),
            ("own:1", format!(r#"{{"event":"{text}","data":"{text}","key":"{text}"}}"#)),
            ("raw:1", format!(r#"{{"event":"e","t":"{text}","id":"{text}"}}"#)),
        ] {
            assert!(matches!(publish(&mut bench, channel, payload.as_bytes()), Reply::Int(_)), "{payload}");
            let rows = format!("drawbridge:{{{channel}}}:entities");
            let Reply::Text(row) = call(&bench, &["HGET", &rows, &format!("k{key}")]) else {
                panic!("{payload}: not kept as {key}")
            };
            assert!(row.contains(&payload[1..payload.len() - 1]), "{row}");
        }
    }
}

#[test]
fn what_nodes_cannot_read_is_refused() {
    let mut bench = listening();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let with =
        |more: &str| format!(r#"{{"event":"e","key":"a","data":{{"id":"a","x":1,"y":1,"more":{more}}}}}"#);
    let mut bad: Vec<Vec<u8>> =
        ["01", "-01", "1.", "1.e5", "-.5", "+1", "0x1", "NaN", "-inf", "Infinity", "nan"]
            .iter()
            .map(|number| with(number).into_bytes())
            .collect();
    bad.push(with("\"\t\"").into_bytes());
    bad.push(with(&nested(64)).into_bytes());
    bad.push([with("1").as_bytes(), b"\0junk"].concat());
    for bytes in
        [b"\xff".as_slice(), b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80", b"\xc3\xa9\xa9"]
    {
        bad.push(
            [br#"{"event":"e","key":"a","data":{"id":"a","x":1,"y":1,"t":""#, bytes, br#""}}"#].concat(),
        );
    }
    for payload in bad {
        let text = String::from_utf8_lossy(&payload);
        for channel in ["map:1", "own:1"] {
            let reply = publish(&mut bench, channel, &payload);
            assert!(
                matches!(&reply, Reply::Error(words) if words.starts_with("BADPAYLOAD")),
                "{text}: {reply:?}"
            );
        }
    }
}

#[test]
fn what_nodes_would_drop_for_its_size_is_refused() {
    let mut bench = listening();
    for bytes in (EXTERNAL_BYTES - 300..=EXTERNAL_BYTES).step_by(7) {
        for channel in ["own:1", "raw:1"] {
            let pad =
                |with: usize| format!(r#"{{"event":"e","key":"a","id":"a","pad":"{}"}}"#, "x".repeat(with));
            let payload = pad(bytes - pad(0).len());
            let reply = publish(&mut bench, channel, payload.as_bytes());
            let is_too_large = matches!(&reply, Reply::Error(words) if words.starts_with("TOOLARGE"));
            assert!(is_too_large || matches!(reply, Reply::Int(_)), "{reply:?}");
        }
    }
    assert_eq!(bench.broker.stats().table_gaps, 0);
}

/// What is where JSON has values, some of it nearly.
fn value() -> impl Strategy<Value = String> {
    const VALUES: [&str; 49] = [
        "1",
        "-1",
        "0",
        "-0",
        "-0.0",
        "1.0",
        "1e2",
        "1E-3",
        "0.1",
        "123456.789",
        "9007199254740991",
        "9007199254740993",
        "1e400",
        "01",
        "-01",
        "00",
        "1.",
        ".5",
        "-.5",
        "-",
        "+1",
        "1e",
        "1e+",
        "0x1F",
        "NaN",
        "-Infinity",
        "inf",
        "null",
        "true",
        "False",
        r#""a""#,
        r#""é""#,
        r#""\u0041""#,
        r#""\ud83d\ude00""#,
        r#""\ud800""#,
        r#""\udc00\ud83d\ud83d\ude00""#,
        r#""\\ud800""#,
        r#""\\\uD800\u0041""#,
        r#""\ud8""#,
        "1e300",
        r#""\x""#,
        "\"\t\"",
        "\"\u{1}\"",
        "'a'",
        r#""""#,
        "[1,[2]]",
        r#"{"id":"b"}"#,
        "/* */1",
        r#""\u0000""#,
    ];
    let deep = (55..70usize).prop_map(|depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
    let plain = select(&["1", "2.5", r#""a""#][..]);
    prop_oneof![
        9 => select(&VALUES[..]).prop_map(str::to_owned),
        1 => deep,
        4 => number(),
        30 => plain.prop_map(str::to_owned)
    ]
}

/// Numbers of every size, as JSON has them.
fn number() -> impl Strategy<Value = String> {
    let doubles = any::<f64>().prop_filter("no number of JSON", |double| double.is_finite());
    prop_oneof![
        "-?[1-9][0-9]{14,30}",
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?",
        (-1074..1024i32).prop_map(|power| format!("{:e}", 2f64.powi(power))),
        doubles.prop_map(|double| format!("{double:?}")),
    ]
}

fn member() -> impl Strategy<Value = String> {
    const NAMES: [&str; 14] = [
        "event",
        "data",
        "key",
        "tags",
        "from",
        "ts",
        "id",
        "x",
        "y",
        "more",
        r"\u0065vent",
        r"i\u0064",
        r"i\ud800d",
        "offset",
    ];
    (select(&NAMES[..]), value()).prop_map(|(name, value)| format!(r#""{name}":{value}"#))
}

/// Texts that are events, or nearly.
fn near_json() -> impl Strategy<Value = Vec<u8>> {
    let data = (value(), value(), value(), proptest::option::of(member())).prop_map(|(id, x, y, more)| {
        let more = more.map_or(String::new(), |more| format!(",{more}"));
        format!(r#"{{"id":{id},"x":{x},"y":{y}{more}}}"#)
    });
    let event = select(&[r#""e""#, r#""f""#, r#""remove""#, r#""\u0072emove""#, "1"][..]);
    let envelope = (event, data, value(), value(), proptest::option::of(member())).prop_map(
        |(event, data, key, tag, more)| {
            let more = more.map_or(String::new(), |more| format!(",{more}"));
            format!(r#"{{"event":{event},"data":{data},"key":{key},"tags":{{"id":{tag}}}{more}}}"#)
        },
    );
    const ODD: [&[u8]; 17] = [
        b"",
        b" ",
        b"\0",
        b"\t",
        b"\x0b",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\\",
        b"\"",
        b"0",
        b".",
        b"+",
        b"-",
        b",",
        b"}",
        b"]",
    ];
    let change = (any::<Index>(), select(&ODD[..]), any::<bool>());
    (envelope, proptest::option::of(change)).prop_map(|(text, change)| {
        let mut bytes = text.into_bytes();
        if let Some((at, odd, replaces)) = change {
            let at = at.index(bytes.len());
            bytes.splice(at..at + usize::from(replaces), odd.iter().copied());
        }
        bytes
    })
}

#[test]
fn whatever_redis_takes_nodes_take() {
    let bench = RefCell::new(listening());
    let taken = RefCell::new(0);
    let mut runner =
        TestRunner::new(Config { cases: 10_000, failure_persistence: None, ..Config::default() });
    let begun = Instant::now();
    let result = runner.run(&(select(&CHANNELS[..]), near_json()), |(channel, payload)| {
        let reply = publish(&mut bench.borrow_mut(), channel, &payload);
        *taken.borrow_mut() += usize::from(matches!(reply, Reply::Int(_)));
        Ok(())
    });
    result.unwrap();
    assert!(*taken.borrow() > 1_000, "only {} were taken, in {:?}", taken.borrow(), begun.elapsed());
    assert_eq!(bench.borrow().broker.stats().table_gaps, 0);
}
