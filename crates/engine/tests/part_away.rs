//! What players notice when a part of Redis is away, as a master of a Cluster is: what is there goes on, and what is not there is
//! answered in time. One engine, a broker that does as the test says, virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use drawbridge_engine::class::{Class, History, Presence};
use drawbridge_engine::io::{
    Answer, BrokerEvent, BrokerStatus, Epoch, Input, LogPosition, LoggedOffset, WhenDown,
};
use drawbridge_engine::upstream::StoredLog;
use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::open;
use serde_json::{Value, json};

/// How long a page of history may take.
const TIMEOUT: u64 = 5_000;

fn bench() -> Bench {
    let logged = Class { history: Some(History { events: 10, age_ms: 60_000 }), ..open("log:{log}") };
    let counted = Class { presence: Presence::Query, ..open("room:{room}") };
    let strict = Class { when_broker_down: WhenDown::Reject, ..open("strict:{it}") };
    Bench::with_classes(vec![logged, counted, strict], 1 << 20)
}

fn status(bench: &mut Bench, status: BrokerStatus) {
    bench.input(Input::Broker(BrokerEvent::Status(status)));
}

fn get_page(bench: &mut Bench, player: usize, id: u64) {
    bench.send(player, json!({ "type": "HISTORY_GET", "id": id, "channel": "log:1" }));
}

fn is_late(message: &Value, id: u64) -> bool {
    message["code"] == "BROKER_UNAVAILABLE" && message["outcome"] == "not_done" && message["id"] == id
}

#[test]
fn players_are_notified_when_the_first_part_goes_and_when_the_last_is_back() {
    let mut bench = bench();
    let alice = bench.player("alice", "red");
    let mut after = |to| {
        status(&mut bench, to);
        bench.take(alice)
    };
    let says = |broker: &str| vec![json!({ "type": "STATUS", "broker": broker })];
    assert_eq!(after(BrokerStatus::Partial), says("degraded"));
    assert_eq!(after(BrokerStatus::Degraded), Vec::<Value>::new());
    assert_eq!(after(BrokerStatus::Partial), Vec::<Value>::new());
    assert_eq!(after(BrokerStatus::Ok), says("ok"));
    status(&mut bench, BrokerStatus::Partial);
    let bob = bench.player_who_waits("bob");
    assert_eq!(bench.take(bob)[1..], says("degraded"));
    assert_eq!(bench.take(alice), says("degraded"), "and those who were there once");
}

#[test]
fn a_page_that_does_not_come_in_time_is_refused_and_the_next_one_is_read() {
    let mut bench = bench();
    let alice = bench.player("alice", "red");
    for (id, about) in [(1, BrokerStatus::Ok), (3, BrokerStatus::Partial)] {
        status(&mut bench, about);
        bench.take(alice);
        get_page(&mut bench, alice, id);
        get_page(&mut bench, alice, id + 1);
        bench.pass(TIMEOUT - 1);
        assert_eq!((bench.take(alice), bench.pages_asked.len()), (vec![], 1), "one after the other");
        bench.pass(1);
        let refused = bench.take(alice);
        assert!(refused.len() == 1 && is_late(&refused[0], id), "{refused:?}");
        let asked: Vec<_> = bench.pages_asked.drain(..).map(|(ticket, _)| ticket).collect();
        assert_eq!((asked.len(), &bench.withdrawn[..]), (2, &asked[..1]));
        // That one is answered in time, and is no answer to what follows it.
        let last = LogPosition { epoch: Epoch::new(7), offset: LoggedOffset(0) };
        let log = StoredLog { last, first: LoggedOffset(1), ended: vec![], events: vec![] };
        let answer = Ok(Answer::Log(log));
        bench.input(Input::Broker(BrokerEvent::Answer { ticket: asked[1], answer }));
        let page = bench.take(alice);
        assert_eq!((page.len(), &page[0]["type"], &page[0]["id"]), (1, &json!("HISTORY"), &json!(id + 1)));
        bench.pass(2 * TIMEOUT);
        assert_eq!(bench.take(alice), [] as [Value; 0]);
        bench.withdrawn.clear();
    }
}

#[test]
fn a_page_is_not_requested_where_nothing_is_there() {
    let mut bench = bench();
    let alice = bench.player("alice", "red");
    status(&mut bench, BrokerStatus::Degraded);
    bench.take(alice);
    get_page(&mut bench, alice, 1);
    let refused = bench.take(alice);
    assert!(is_late(&refused[0], 1) && bench.pages_asked.is_empty(), "{refused:?}");
}

#[test]
fn presence_is_written_and_what_may_not_wait_is_published_where_a_part_is_there() {
    let mut bench = bench();
    let alice = bench.player("alice", "red");
    let publish = json!({ "type": "PUBLISH_EVENT", "id": 1, "channel": "strict:1", "event": "e", "data": 1 });
    for (at, (now, is_there)) in
        [(BrokerStatus::Partial, true), (BrokerStatus::Degraded, false)].into_iter().enumerate()
    {
        status(&mut bench, now);
        bench.take(alice);
        bench.send(alice, publish.clone());
        let answer = bench.take(alice);
        let expected = if is_there { "EVENT_PUBLISHED" } else { "ERROR" };
        assert_eq!(answer[0]["type"], expected, "{answer:?}");
        bench.send(alice, json!({ "type": "CHANNEL_SUBSCRIBE", "id": 2, "channel": format!("room:{at}") }));
        bench.pass(2_000);
        assert_eq!(bench.presence_writes.len(), 1, "only that of the part that is there");
    }
}
