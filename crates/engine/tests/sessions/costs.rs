//! What it costs to come back: logs that are read and sent again are work, which is paid before there is more.

use drawbridge_engine::class::{Class, Classes, History};
use drawbridge_engine::io::{LogEntry, WriteKind};
use drawbridge_engine::settings::Rate;
use drawbridge_engine::work::in_steps;
use drawbridge_protocol::Encoding;
use drawbridge_testkit::classes::open;
use serde_json::{Value, json};

use super::bench::{Bench, alice, kinds, listed, numbers};

const WORK: Rate = Rate { per_second: 100, burst: 200 };
const EVENTS: u64 = 100;
/// More than one page with all events takes, in steps.
const PAGE: u64 = 20_000;

fn bench() -> Bench {
    let mut bench = Bench::with(|mut settings| {
        let history = Some(History { events: 1_000, age_ms: 1_000_000 });
        settings.classes = Classes::new(vec![Class { patterns: true, history, ..open("log:{log}") }]);
        (settings.work, settings.auto_subscribe) = (WORK, Vec::new());
        settings
    });
    for n in 0..EVENTS {
        append(&mut bench, n);
    }
    bench
}

fn append(bench: &mut Bench, n: u64) {
    let entry = LogEntry {
        payload: json!({ "event": "e", "data": { "n": n, "text": "x".repeat(200) } }).to_string().into(),
        id: "db1.s".into(),
        max_events: 1_000,
        age_ms: 1_000_000,
        once: None,
    };
    let write = WriteKind::Log { channel: "log:a".into(), entry };
    bench.cluster.take(write, &mut bench.sockets).unwrap();
    bench.rest();
}

/// `alice` comes back to a session as if she had seen nothing.
fn returns(bench: &mut Bench, session: &str, epoch: &Value) -> u32 {
    let at = bench.open_as(Some(&alice()), Encoding::Json);
    let positions = json!({ "log:a": { "epoch": epoch, "offset": 0 } });
    bench.send(at, &json!({ "type": "CONNECT", "resume": { "session": session, "positions": positions } }));
    at
}

#[test]
fn who_comes_back_again_and_again_is_sent_logs_as_fast_as_work_is_paid() {
    let mut bench = bench();
    let (first, welcome) = bench.connect(Some(&alice()), json!({ "subscribe": [{ "channel": "log:a" }] }));
    let (session, epoch) =
        (welcome["session"].as_str().unwrap().to_owned(), listed(&welcome, "log:a")["epoch"].clone());
    bench.break_socket(first);
    let charged = bench.stats().work_charged;
    let mut sent = 0;
    for _ in 0..30 {
        let at = returns(&mut bench, &session, &epoch);
        sent += bench.events(at).len();
        bench.break_socket(at);
    }
    let charged = bench.stats().work_charged - charged;
    let bound = in_steps(WORK).burst + PAGE;
    assert!(charged > 0 && charged <= bound, "{charged} steps, at most {bound}");
    assert!(sent < 10 * EVENTS as usize, "{sent} events again");
    // Nothing is lost by that, only late.
    let last = returns(&mut bench, &session, &epoch);
    append(&mut bench, EVENTS);
    for _ in 0..60 {
        bench.pass(500);
    }
    let read = bench.take(last);
    assert_eq!(numbers(&read), (0..=EVENTS).collect::<Vec<_>>());
    assert!(!kinds(&read).contains(&"RESYNC") && bench.closed(last).is_none(), "{read:?}");
    let said = read.iter().flat_map(|message| [&message["recovered"], &listed_or_null(message)["recovered"]]);
    assert_eq!(said.filter(|recovered| **recovered == true).count(), 1, "{read:?}");
}

fn listed_or_null(message: &Value) -> &Value {
    if message["type"] == "WELCOME" { listed(message, "log:a") } else { &Value::Null }
}

#[test]
fn positions_under_patterns_are_work_too_and_prove_nothing_while_it_is_owed() {
    let mut bench = bench();
    let (first, welcome) = bench.connect(Some(&alice()), json!({ "subscribe": [{ "channel": "log:*" }] }));
    let session = welcome["session"].as_str().unwrap().to_owned();
    bench.break_socket(first);
    let positions: serde_json::Map<String, Value> =
        (0..100).map(|n| (format!("log:n{n}"), json!({ "epoch": "0", "offset": n }))).collect();
    let resume = json!({ "type": "CONNECT", "resume": { "session": session, "positions": positions } });
    let charged = bench.stats().work_charged;
    let mut reads = Vec::new();
    for _ in 0..4 {
        let at = bench.open_as(Some(&alice()), Encoding::Json);
        bench.send(at, &resume);
        bench.pass(5_000);
        reads.push(bench.take(at));
        bench.break_socket(at);
    }
    let charged = bench.stats().work_charged - charged;
    let bound = in_steps(WORK).burst + 20 * in_steps(WORK).per_second + 100 * 1_000;
    assert!(charged > 0 && charged <= bound, "{charged} steps, at most {bound}");
    for read in &reads {
        assert_eq!(kinds(read)[0], "WELCOME", "{read:?}");
        assert_eq!(listed(&read[0], "log:*")["recovered"], false, "{read:?}");
        assert!(kinds(read).contains(&"RESYNC"), "{read:?}");
    }
}
