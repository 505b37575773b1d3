//! Logs in a real Redis: epochs across restarts and promotions, what is stored by others, what Redis refuses, and services that
//! append by the function.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use std::time::Instant;

use broker_support::bench::{EXTERNAL_BYTES, PATIENCE};
use broker_support::server::Server;
use broker_support::{Bench, Flavour, Reply};
use drawbridge_engine::io::{
    BrokerEvent, BrokerStatus, LogPosition, LogReader, LoggedOffset, PublishFailure, QueryKind, Subject,
};
use drawbridge_engine::upstream::{Cursor, LogRange, StoredLog};

const STREAM: &str = "drawbridge:{logged:1}:log";
const POSITION: &str = "drawbridge:{logged:1}:position";

fn redis() -> Bench {
    Bench::new(Some(Flavour::usual()))
}

/// For what is about the process: its restarts, replicas and connections.
fn one_server() -> Bench {
    Bench::new(Some(Flavour::Tcp))
}

fn call(bench: &Bench, parts: &[&str]) -> Reply {
    bench.server.as_ref().unwrap().call(parts)
}

fn text(reply: Reply) -> String {
    match reply {
        Reply::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

fn read(bench: &mut Bench) -> StoredLog {
    bench.read_log("logged:1", LogRange::After(LoggedOffset(0)), 100)
}

/// Until it is done, however long Redis is away.
fn append(bench: &mut Bench, data: &str) -> LogPosition {
    let ticket = bench.log_later(0, "logged:1", data, None);
    loop {
        match bench.next(0) {
            BrokerEvent::Outcome { ticket: answered, outcome } if answered == ticket => {
                return outcome.unwrap().unwrap();
            }
            BrokerEvent::Interrupted(_) | BrokerEvent::Confirmed { .. } | BrokerEvent::Recover { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Events 1 to 3; returns where the last one is.
fn append_three(bench: &mut Bench) -> LogPosition {
    append(bench, "1");
    append(bench, "2");
    append(bench, "3")
}

fn before(position: LogPosition, by: u64) -> LogPosition {
    LogPosition { offset: LoggedOffset(position.offset.0 - by), ..position }
}

fn beyond(position: LogPosition) -> LogPosition {
    LogPosition { offset: LoggedOffset(position.offset.0 + 1), ..position }
}

/// As when a replica is promoted, or a master starts again.
fn change_replication_id(bench: &Bench) {
    let id = || {
        let info = text(call(bench, &["INFO", "replication"]));
        info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().to_owned()
    };
    let old = id();
    call(bench, &["DEBUG", "CHANGE-REPL-ID"]);
    assert_ne!(id(), old);
    // A process takes it for known for 100 ms, and none is promoted that has just called a function.
    std::thread::sleep(std::time::Duration::from_millis(110));
}

#[test]
fn an_epoch_ends_where_redis_history_does() {
    let mut bench = one_server();
    let server = bench.server();
    server.kill();
    server.launch_with(&["--enable-debug-command", "yes"]);
    let last = append(&mut bench, "1");
    let mut ends = vec![append(&mut bench, "2")];
    assert_eq!(ends[0], beyond(last));
    change_replication_id(&bench);
    let next = append(&mut bench, "3");
    assert_eq!(next.offset.0, 3);
    assert_ne!(next.epoch, last.epoch);
    let log = read(&mut bench);
    assert_eq!((log.last, &log.ended, log.events.len()), (next, &ends, 3));
    assert_eq!(log.cursor(before(ends[0], 1)), Cursor::Continues);
    assert_eq!(log.cursor(beyond(ends[0])), Cursor::Unknown);
    ends.push(next);
    // A reading notices, too; eight ends are kept.
    for _ in 0..9 {
        change_replication_id(&bench);
        let log = read(&mut bench);
        assert_eq!(log.last.offset.0, 3);
        assert_ne!(log.last.epoch, ends.last().unwrap().epoch);
        assert_eq!(log.ended, ends[ends.len().saturating_sub(8)..]);
        ends.push(log.last);
    }
}

#[test]
fn a_restart_with_data_goes_on_under_a_new_epoch() {
    let mut bench = one_server();
    let last = append(&mut bench, "1");
    assert_eq!(call(&bench, &["SAVE"]), Reply::Text("OK".into()));
    let lost = append(&mut bench, "2");
    bench.server().kill();
    bench.until_status(BrokerStatus::Degraded);
    bench.server().launch();
    let next = append(&mut bench, "3");
    assert_eq!(next.offset.0, 2, "the second is lost, and its offset is used again");
    let log = read(&mut bench);
    assert_eq!((log.last, &log.ended[..]), (next, &[last][..]));
    assert_eq!(log.cursor(lost), Cursor::Unknown, "who has seen what is lost is recognised");
    assert_eq!(log.cursor(last), Cursor::Continues);
    assert_eq!(log.events.len(), 2);
}

#[test]
fn a_restart_without_data_begins_another_log() {
    let mut bench = one_server();
    let old = append(&mut bench, "1");
    bench.server().kill();
    bench.until_status(BrokerStatus::Degraded);
    bench.server().launch();
    let next = append(&mut bench, "2");
    assert_eq!(next.offset.0, 1);
    assert_ne!(next.epoch, old.epoch);
    assert_eq!(read(&mut bench).cursor(old), Cursor::Unknown);
}

/// The replica lacks what the master took last.
#[test]
fn a_promoted_replica_ends_the_epoch_where_its_data_does() {
    let (mut master, replica) = (one_server(), Server::start(Flavour::Tcp));
    let kept = append(&mut master, "1");
    let port = text(call(&master, &["INFO", "server"]));
    let port = port.lines().find_map(|line| line.strip_prefix("tcp_port:")).unwrap().to_owned();
    replica.call(&["REPLICAOF", "127.0.0.1", &port]);
    let give_up = Instant::now() + PATIENCE;
    while replica.call(&["EXISTS", STREAM]) != Reply::Int(1) {
        assert!(Instant::now() < give_up, "it is copied");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // What is written from here on does not reach it.
    replica.call(&["REPLICAOF", "127.0.0.1", "1"]);
    let lost = append(&mut master, "2");
    replica.call(&["REPLICAOF", "NO", "ONE"]);
    let settings = replica.settings(1);
    let mut bench = Bench::on(Some(replica), Some(settings), Default::default());
    bench.wait_for(BrokerStatus::Ok);
    let next = append(&mut bench, "3");
    assert_eq!(next.offset, lost.offset, "its offset is used again");
    let log = read(&mut bench);
    assert_eq!((log.last, &log.ended[..], log.events.len()), (next, &[kept][..], 2));
    assert_eq!([lost, kept].map(|at| log.cursor(at)), [Cursor::Unknown, Cursor::Continues]);
}

#[test]
fn a_log_whose_keys_contradict_each_other_begins_again() {
    type Damage = fn(&Bench, &str);
    let damages: [(&str, Damage); 10] = [
        ("an entry of somebody else's", |bench, _| {
            text(call(bench, &["XADD", STREAM, "99-0", "a", "b"]));
        }),
        ("an entry behind the last within its offset", |bench, _| {
            text(call(bench, &["XADD", STREAM, "3-1", "t", "1", "p", "x"]));
        }),
        ("no position", |bench, _| {
            call(bench, &["DEL", POSITION]);
        }),
        ("a position that is none", |bench, _| {
            call(bench, &["SET", POSITION, "0 0 0 0 0"]);
        }),
        ("an offset that is too large", |bench, stored| {
            let (epoch, _) = stored.split_at(16);
            call(bench, &["SET", POSITION, &format!("{epoch} 99999999999999999999 ab 1 0")]);
        }),
        ("an offset that was before", |bench, stored| {
            let rest = stored.splitn(3, ' ').nth(2).unwrap();
            call(bench, &["SET", POSITION, &format!("{} 2 {rest}", &stored[..16])]);
        }),
        ("a position that never ends", |bench, stored| {
            call(bench, &["SET", POSITION, &format!("{stored}{}", " 0000000000000001 0".repeat(40))]);
        }),
        ("a hole", |bench, _| {
            assert_eq!(call(bench, &["XDEL", STREAM, "2-0"]), Reply::Int(1));
        }),
        ("no newest entry", |bench, _| {
            assert_eq!(call(bench, &["XDEL", STREAM, "3-0"]), Reply::Int(1));
        }),
        ("entries of another shape", |bench, _| {
            call(bench, &["DEL", STREAM]);
            for id in ["1-0", "2-0", "3-0"] {
                text(call(bench, &["XADD", STREAM, id, "data", "x"]));
            }
        }),
    ];
    for (what, damage) in damages {
        let mut bench = redis();
        let old = append_three(&mut bench);
        let stored = text(call(&bench, &["GET", POSITION]));
        damage(&bench, &stored);
        let log = read(&mut bench);
        assert_eq!((log.last.offset.0, log.events.len(), log.ended.len()), (0, 0, 0), "{what}");
        assert_ne!(log.last.epoch, old.epoch, "{what}");
        let next = append(&mut bench, "4");
        assert_eq!((next.epoch, next.offset.0), (log.last.epoch, 1), "{what}");
        assert_eq!(read(&mut bench).events.len(), 1, "{what}");
    }
}

#[test]
fn an_append_notices_what_contradicts_it_before_it_counts() {
    for damage in [&["DEL", POSITION][..], &["XADD", STREAM, "9-0", "a", "b"]] {
        let mut bench = redis();
        let old = append(&mut bench, "1");
        call(&bench, damage);
        let next = append(&mut bench, "2");
        assert_eq!(next.offset.0, 1, "{damage:?}");
        assert_ne!(next.epoch, old.epoch, "{damage:?}");
        assert_eq!(read(&mut bench).events.len(), 1, "{damage:?}");
    }
}

/// A lost stream is a gap, as if its events had been too old: their count is still right.
#[test]
fn a_log_without_its_stream_goes_on() {
    for spoil in [&["DEL", STREAM][..], &["XTRIM", STREAM, "MAXLEN", "0"], &["XSETID", STREAM, "50-0"]] {
        let mut bench = redis();
        let last = append_three(&mut bench);
        call(&bench, spoil);
        let next = append(&mut bench, "4");
        assert_eq!(next, beyond(last), "{spoil:?}");
        let log = read(&mut bench);
        assert_eq!((log.last, log.first.0, log.events.len()), (next, 4, 1), "{spoil:?}");
        assert_eq!([before(last, 1), last].map(|at| log.cursor(at)), [Cursor::Gap, Cursor::Continues]);
    }
}

#[test]
fn of_ended_epochs_that_others_wrote_none_counts() {
    let mut bench = redis();
    let last = append(&mut bench, "1");
    let stored = text(call(&bench, &["GET", POSITION]));
    for ended in [" 0000000000000001 9", " 0000000000000001", " 1 1", "  "] {
        call(&bench, &["SET", POSITION, &format!("{stored}{ended}")]);
        let log = read(&mut bench);
        assert_eq!((log.last, log.ended.len()), (last, 0), "{ended}");
    }
}

/// The functions know nothing of classes: on a channel without history the node follows no log that would be in the way.
#[test]
fn a_key_of_another_type_is_found_before_anything_is_published() {
    for key in ["{x}log", "{x}position", "{x}once"] {
        let mut bench = redis();
        bench.subscribe(1, &Subject::channel("chat:1"));
        let append = |bench: &Bench, data: &str| {
            let body = format!(r#"{{"event":"e","data":{data}"#);
            let keys = ["FCALL", "drawbridge_append", "3", "{x}log", "{x}position", "{x}once"];
            let entry = ["chat:1", "20", "60000", "1000", &body, "db1.1", "1"];
            match call(bench, &[&keys[..], &entry].concat()) {
                Reply::List(mut answers) => answers.remove(0),
                refused => refused,
            }
        };
        call(&bench, &["HSET", key, "a", "b"]);
        let refused = append(&bench, "1");
        let words = match &refused {
            Reply::Error(words) | Reply::Text(words) => words,
            other => panic!("{other:?}"),
        };
        assert!(words.contains("WRONGTYPE"), "{key}: {words}");
        call(&bench, &["DEL", key]);
        assert!(matches!(append(&bench, "2"), Reply::List(_)), "{key}");
        assert_eq!(bench.publication(1).event.data_json(), "2", "{key}: nothing came before it");
    }
}

#[test]
fn an_idempotency_key_that_others_wrote_counts_for_nothing() {
    let mut bench = redis();
    let key = "drawbridge:{logged:1}:once:k";
    for value in ["", "x", "0 0", "00000000000000AB 1", "00000000000000ab 99999999999999999"] {
        call(&bench, &["SET", key, value]);
        let ticket = bench.log_later(0, "logged:1", "1", Some("k"));
        let position = bench.logged(0, ticket).unwrap();
        assert_eq!(
            text(call(&bench, &["GET", key])),
            format!("{} {}", position.epoch.as_str(), position.offset.0)
        );
    }
    assert!(matches!(call(&bench, &["PTTL", key]), Reply::Int(60_000..=120_000)));
}

/// Redis takes nothing back within a function: what may not be published must not be stored, nor counted.
#[test]
fn what_may_not_be_published_leaves_nothing() {
    let bench = one_server();
    let rules = |channels: &str| {
        let rule = format!("service reset on nopass {channels} ~logged:* ~drawbridge:{{logged:* {SERVICE}");
        let parts = ["ACL", "SETUSER"].into_iter().chain(rule.split_whitespace()).collect::<Vec<_>>();
        assert_eq!(call(&bench, &parts), Reply::Text("OK".into()));
    };
    let publish = || {
        let server = bench.server.as_ref().unwrap();
        let calls: [&[&str]; 2] = [
            &["AUTH", "service", "x"],
            &["FCALL", "drawbridge_publish", "1", "logged:1", r#"{"event":"e"}"#],
        ];
        server.call_all(&calls).pop().unwrap()
    };
    rules("resetchannels");
    let refused = publish();
    assert!(matches!(&refused, Reply::Error(words) if is_denied(words)), "{refused:?}");
    assert_eq!(call(&bench, &["EXISTS", STREAM, POSITION]), Reply::Int(0));
    rules("resetchannels &logged:*");
    assert_eq!([publish(), publish()], [1, 2].map(Reply::Int));
    let stored = text(call(&bench, &["GET", POSITION]));
    rules("resetchannels");
    assert!(matches!(publish(), Reply::Error(_)));
    assert_eq!(text(call(&bench, &["GET", POSITION])), stored);
    assert_eq!(call(&bench, &["XLEN", STREAM]), Reply::Int(2));
    rules("resetchannels &logged:*");
    assert_eq!(publish(), Reply::Int(3));
}

/// What `docs/redis.md` grants to a service, in its own words.
const SERVICE: &str =
    "-@all +auth +ping +publish +fcall +time +info +getrange +set +xadd +xrange +xtrim +unlink +pexpire";

/// What was published and could not be stored would be seen with a position that another event gets.
/// Whether Redis, before version 8 or since, says that the user's rights do not allow what a function does.
fn is_denied(message: &str) -> bool {
    message.contains("The user executing the script can't") || message.contains("ACL failure in script")
}

#[test]
fn what_may_not_be_stored_is_not_published() {
    let mut bench = one_server();
    bench.subscribe(1, &Subject::channel("chat:1"));
    let as_user = |bench: &Bench, rights: &str, data: &str| {
        let rule = format!("service reset on nopass &* ~{{x}}* {SERVICE} {rights}");
        call(bench, &["ACL", "SETUSER"].into_iter().chain(rule.split_whitespace()).collect::<Vec<_>>());
        let body = format!(r#"{{"event":"e","data":{data}"#);
        let keys = ["FCALL", "drawbridge_append", "2", "{x}log", "{x}position"];
        let entry = ["chat:1", "20", "60000", "1000", &body, "db1.1", "0"];
        let calls: [&[&str]; 2] = [&["AUTH", "service", "x"], &[&keys[..], &entry].concat()];
        let Some(Reply::List(mut answers)) = bench.server.as_ref().unwrap().call_all(&calls).pop() else {
            panic!("no list")
        };
        answers.remove(0)
    };
    let taken = |answer, at| match answer {
        Reply::List(parts) if parts[2] == Reply::Int(at) => parts[1].clone(),
        other => panic!("{other:?}"),
    };
    let first = taken(as_user(&bench, "", "1"), 1);
    let refused = text(as_user(&bench, "-xadd", "2"));
    assert!(is_denied(&refused), "{refused}");
    assert_eq!(taken(as_user(&bench, "", "3"), 2), first, "the same epoch");
    let seen = [(); 2].map(|()| bench.publication(1).event.data_json().to_string());
    assert_eq!(seen, ["1", "3"]);
    assert_eq!(call(&bench, &["XLEN", "{x}log"]), Reply::Int(2));
}

#[test]
fn a_service_appends_any_payload() {
    let mut bench = redis();
    let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    let deep_event = format!(r#"{{"event":"deep","data":{deep}}}"#);
    let deeper = format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000));
    let rows: [(&[u8], &str, serde_json::Value); 11] = [
        (br#"{"event":"hit","data":{"a":[1,2]},"tags":{"t":1}}"#, "hit", serde_json::json!({"a":[1,2]})),
        (br#" {"event":"hit"} "#, "hit", serde_json::Value::Null),
        (br#"{"event":"hit","other":1}"#, "message", serde_json::json!({"event":"hit","other":1})),
        (b"12", "message", 12.into()),
        (b"12.", "message", "12.".into()),
        ("é 語 \u{1f600}".as_bytes(), "message", "é 語 \u{1f600}".into()),
        (b"plain \"text\"\t\\", "message", "plain \"text\"\t\\".into()),
        (b"", "message", "".into()),
        (&[0xff, 0xfe, 0x00], "message", "//4A".into()),
        (&[0xff, 0xfe, 0x00, 0x01], "message", "//4AAQ==".into()),
        (&[0xc3, 0x28], "message", "wyg=".into()),
    ];
    let publish = |bench: &Bench, payload: &[u8]| {
        let parts = [b"FCALL".as_slice(), b"drawbridge_publish", b"1", b"logged:1", payload];
        bench.server.as_ref().unwrap().call(&parts)
    };
    for (at, (payload, event, data)) in (1..).zip(rows) {
        assert_eq!(publish(&bench, payload), Reply::Int(at), "{payload:?}");
        let log = bench.read_log("logged:1", LogRange::Newest, 1);
        let stored: serde_json::Value = serde_json::from_slice(&log.events[0].payload).unwrap();
        assert_eq!((stored["event"].as_str(), &stored["data"]), (Some(event), &data), "{payload:?}");
        assert_eq!(stored["encoding"] == "base64", std::str::from_utf8(payload).is_err(), "{payload:?}");
        assert_eq!(stored["offset"], at);
        assert_eq!(stored["epoch"], log.last.epoch.as_str());
    }
    for payload in [deep, deep_event, deeper] {
        assert!(matches!(publish(&bench, payload.as_bytes()), Reply::Int(_)), "{payload}");
    }
    for payload in
        [vec![b'x'; EXTERNAL_BYTES + 1], vec![b'x'; EXTERNAL_BYTES - 40], vec![0xff; EXTERNAL_BYTES - 40]]
    {
        let refused = publish(&bench, &payload);
        assert!(matches!(&refused, Reply::Error(words) if words.starts_with("TOOLARGE")), "{refused:?}");
    }
    assert_eq!(read(&mut bench).last.offset.0, 14, "nothing that was refused is counted");
}

/// The next issue is Redis Cluster: nothing is read or written but what is declared.
#[test]
fn the_functions_of_nodes_use_the_keys_that_they_are_given() {
    let bench = redis();
    let append = ["FCALL", "drawbridge_append", "3", "{x}a", "{x}b", "{x}c", "chat:1", "20", "60000", "1000"];
    let entry = [r#"{"event":"e""#, "db1.1", "1"];
    let answer = call(&bench, &[&append[..], &entry, &entry].concat());
    assert!(
        matches!(&answer, Reply::List(answers) if answers.len() == 2 && answers[0] == answers[1]),
        "{answer:?}"
    );
    let read = ["FCALL", "drawbridge_log", "2", "{x}a", "{x}b", "20", "60000", "0", "9", "1000", "1"];
    let read = call(&bench, &read);
    assert!(matches!(&read, Reply::List(parts) if parts.len() == 7), "{read:?}");
    let Reply::List(keys) = call(&bench, &["KEYS", "*"]) else { panic!("no keys") };
    // The lease of the node is written meanwhile.
    let is_lease = |key: &String| key.starts_with("drawbridge:{nodes}:");
    let mut keys: Vec<String> = keys.into_iter().map(text).filter(|key| !is_lease(key)).collect();
    keys.sort();
    assert_eq!(keys, ["{x}a", "{x}b", "{x}c"]);
    for bad in
        [&append[..], &append[..7], &["FCALL", "drawbridge_append", "0"], &["FCALL", "drawbridge_log", "0"]]
    {
        let answer = call(&bench, bad);
        assert!(matches!(&answer, Reply::Error(words) if words.starts_with("BADARGS")), "{answer:?}");
    }
}

#[test]
fn what_is_too_old_leaves_redis_while_events_go_on() {
    let mut bench = redis();
    let length = |bench: &Bench| match call(bench, &["XLEN", "drawbridge:{brief:1}:log"]) {
        Reply::Int(length) => length,
        other => panic!("{other:?}"),
    };
    let give_up = Instant::now() + PATIENCE;
    let mut longest = 0;
    loop {
        for ticket in [(); 50].map(|()| bench.log_later(0, "brief:1", "0", None)) {
            bench.logged(0, ticket).unwrap();
        }
        let now = length(&bench);
        if now < longest {
            break;
        }
        longest = now;
        assert!(Instant::now() < give_up, "nothing goes");
    }
    let expires = call(&bench, &["PTTL", "drawbridge:{brief:1}:log"]);
    assert!(matches!(expires, Reply::Int(-2 | 1..=500)), "{expires:?}");
    let expires = call(&bench, &["PTTL", "drawbridge:{brief:1}:position"]);
    assert!(matches!(expires, Reply::Int(86_000_000..=86_400_500)), "{expires:?}");
}

/// A call of `drawbridge_append` with one event, whose age is kept so many milliseconds; returns the epoch and the offset.
fn append_to(server: &Server, key: &str, age: &str) -> (Reply, Reply) {
    let (stream, position) = (format!("{{{key}}}log"), format!("{{{key}}}position"));
    let call = ["FCALL", "drawbridge_append", "2", &stream, &position, "chat:1", "20", age, "1000"];
    let Reply::List(mut answers) = server.call(&[&call[..], &[r#"{"event":"e""#, "db1.1", "0"]].concat())
    else {
        panic!("no list")
    };
    let Reply::List(mut parts) = answers.remove(0) else { panic!("refused") };
    let offset = parts.pop().unwrap();
    (parts.pop().unwrap(), offset)
}

/// What is known of a log spares most appends to set these times.
#[test]
fn a_stream_always_ends_and_never_before_its_events_age() {
    let bench = redis();
    let server = bench.server.as_ref().unwrap();
    let left = |key: &str| match server.call(&["PTTL", key]) {
        Reply::Int(left) => left,
        other => panic!("{other:?}"),
    };
    append_to(server, "x", "60000");
    assert!((1..=75_000).contains(&left("{x}log")));
    append_to(server, "x", "60000");
    // A longer age of the same class.
    append_to(server, "x", "600000");
    assert!((600_000..=750_000).contains(&left("{x}log")), "{}", left("{x}log"));
    // After the stream was deleted, and after its expiry was removed, the next append that renews it sets the expiry.
    server.call(&["DEL", "{x}log"]);
    append_to(server, "x", "600000");
    assert!((600_000..=750_000).contains(&left("{x}log")), "{}", left("{x}log"));
    server.call(&["PERSIST", "{x}log"]);
    append_to(server, "x", "900000");
    assert!((900_000..=1_125_000).contains(&left("{x}log")), "{}", left("{x}log"));
}

/// So many are not known at once.
#[test]
fn any_number_of_logs_goes_on() {
    let bench = one_server();
    let server = bench.server.as_ref().unwrap();
    let first = append_to(server, "x", "60000");
    for part in 0..11 {
        let keys = |n| (format!("{{{n}}}log"), format!("{{{n}}}position"));
        let keys: Vec<_> = (part * 1_000..(part + 1) * 1_000).map(keys).collect();
        let call = |(stream, position)| {
            [
                "FCALL",
                "drawbridge_append",
                "2",
                stream,
                position,
                "c",
                "20",
                "60000",
                "1000",
                "{\"event\":\"e\"",
                "i",
                "0",
            ]
        };
        let calls: Vec<_> =
            keys.iter().map(|(stream, position)| call((stream.as_str(), position.as_str()))).collect();
        let calls: Vec<&[&str]> = calls.iter().map(|call| &call[..]).collect();
        assert!(server.call_all(&calls).iter().all(|reply| matches!(reply, Reply::List(_))));
    }
    assert_eq!(append_to(server, "x", "60000"), (first.0, Reply::Int(2)));
}

#[test]
fn a_full_redis_still_says_positions() {
    let mut bench = redis();
    call(&bench, &["CONFIG", "SET", "maxmemory", "1"]);
    let log = bench.read_log("logged:1", LogRange::Newest, 0);
    assert_eq!(log.last.offset.0, 0);
    let ticket = bench.log_later(0, "logged:1", "1", None);
    let Err(PublishFailure::Refused(reason)) = bench.logged(0, ticket) else { panic!("taken") };
    assert!(reason.starts_with("OOM"), "{reason}");
}

/// The functions are lost while only readers need them.
#[test]
fn a_reading_restores_the_functions() {
    let mut bench = redis();
    let last = append(&mut bench, "1");
    for limit in [0, 10] {
        call(&bench, &["FUNCTION", "FLUSH"]);
        assert_eq!(bench.read_log("logged:1", LogRange::Newest, limit).last, last);
    }
}

#[test]
fn requests_write_nothing_where_no_log_was_begun() {
    let mut bench = redis();
    let request = LogReader::Request { max_bytes: 1_000 };
    let absent = bench.read_log_as("logged:1", LogRange::Newest, 9, request);
    assert_eq!(absent, StoredLog::absent());
    let Reply::List(keys) = call(&bench, &["KEYS", "*{logged:1}*"]) else { panic!("no keys") };
    assert!(keys.is_empty(), "{keys:?}");
    let begun = bench.read_log("logged:1", LogRange::Newest, 0);
    assert_ne!(begun.last.epoch, absent.last.epoch);
    assert_eq!(bench.read_log_as("logged:1", LogRange::Newest, 9, request), begun, "what was begun is read");
    for at in 0..3 {
        bench.log("logged:1", &at.to_string());
    }
    let one = LogReader::Request { max_bytes: 1 };
    let offsets = |log: StoredLog| log.events.iter().map(|event| event.offset.0).collect::<Vec<_>>();
    assert_eq!(offsets(bench.read_log_as("logged:1", LogRange::Newest, 9, one)), [3]);
    assert_eq!(offsets(bench.read_log_as("logged:1", LogRange::After(LoggedOffset(0)), 9, one)), [1]);
}

/// After a restart of Redis, or `FUNCTION FLUSH`, while nothing is published.
#[test]
fn what_is_read_by_functions_loads_them_again() {
    let mut bench = redis();
    bench.read_log("logged:1", LogRange::Newest, 1);
    for kind in [QueryKind::Nodes, QueryKind::Presence { channel: "logged:1".into(), after: None, limit: 9 }]
    {
        call(&bench, &["FUNCTION", "FLUSH"]);
        let answer = bench.query(kind);
        assert!(answer.is_ok(), "{answer:?}");
    }
}
