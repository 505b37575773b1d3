//! `recovered` is said where the client's position proves it, and nowhere else.

use drawbridge_engine::io::{Input, PlayerAction};
use drawbridge_protocol::Encoding;
use serde_json::{Value, json};

use super::bench::{Bench, alice, further, kinds, listed, numbers, position};

/// A session with one channel, of which its client has read events 1 and 2. Returns its socket, its name and its position.
fn reader(bench: &mut Bench, channel: &str) -> (u32, String, Value) {
    let (at, welcome) = bench.connect(Some(&alice()), json!({ "subscribe": [{ "channel": channel }] }));
    let start = position(listed(&welcome, channel));
    bench.publish(channel, json!({ "n": 1 }));
    bench.publish(channel, json!({ "n": 2 }));
    bench.pass(50);
    assert_eq!(bench.events(at), [1, 2]);
    (at, welcome["session"].as_str().unwrap().to_owned(), further(&start, 2))
}

#[test]
fn what_arrived_meanwhile_follows_in_order_and_then_live_events() {
    for channel in ["chat:a", "feed:a", "slow:a"] {
        let mut bench = Bench::new();
        let (at, session, read) = reader(&mut bench, channel);
        bench.break_socket(at);
        (3..6).for_each(|n| bench.publish(channel, json!({ "n": n })));
        assert_eq!((bench.stats().connections, bench.stats().detached), (0, 1));
        let (next, welcome, mut rest) = bench.resume(&session, json!({ channel: read }));
        assert_eq!((&welcome["resumed"], &welcome["session"]), (&json!(true), &json!(session)));
        let held = listed(&welcome, channel);
        assert_eq!((&held["recovered"], &held["offset"]), (&json!(true), &read["offset"]), "{channel}");
        bench.publish(channel, json!({ "n": 6 }));
        bench.pass(50);
        rest.extend(bench.take(next));
        assert_eq!(numbers(&rest), [3, 4, 5, 6], "{channel}");
        assert!(!kinds(&rest).contains(&"RESYNC"));
        assert_eq!((bench.stats().detached, bench.stats().held_bytes, bench.stats().resumed), (0, 0, 1));
    }
}

/// In one turn, so that the queue has not been flushed when a live event of a class without windows comes.
#[test]
fn a_live_event_does_not_overtake_what_waits() {
    let mut bench =
        Bench::with(|settings| drawbridge_engine::settings::Settings { outbound_bytes: 60_000, ..settings });
    let (at, session, read) = reader(&mut bench, "chat:a");
    bench.break_socket(at);
    (3..40).for_each(|n| bench.publish("chat:a", json!({ "n": n, "fill": "x".repeat(1_000) })));
    let next = bench.open_as(Some(&alice()), Encoding::Json);
    bench.fill(next);
    bench.send(
        next,
        &json!({ "type": "CONNECT", "resume": { "session": session, "positions": { "chat:a": read } } }),
    );
    bench.publish("chat:a", json!({ "n": 40 }));
    bench.drain(next);
    bench.publish("chat:a", json!({ "n": 41 }));
    assert_eq!(bench.events(next), (3..42).collect::<Vec<u64>>());
}

#[test]
fn what_was_written_to_a_dead_socket_is_not_recovered() {
    let mut bench = Bench::new();
    let (at, session, read) = reader(&mut bench, "chat:a");
    bench.silence(at);
    bench.publish("chat:a", json!({ "n": 3 }));
    bench.break_socket(at);
    bench.publish("chat:a", json!({ "n": 4 }));
    let (next, welcome, rest) = bench.resume(&session, json!({ "chat:a": read }));
    assert_eq!(listed(&welcome, "chat:a")["recovered"], false);
    assert_eq!(kinds(&rest), ["RESYNC"], "what waited is dropped");
    assert_eq!((&rest[0]["reason"], &rest[0]["channel"]), (&json!("gap"), &json!("chat:a")));
    assert_eq!(position(&rest[0]), further(&read, 2));
    // From there on it is whole again.
    bench.publish("chat:a", json!({ "n": 5 }));
    assert_eq!(bench.events(next), [5]);
    bench.break_socket(next);
    let (_, welcome, _) = bench.resume(&session, json!({ "chat:a": further(&read, 3) }));
    assert_eq!(listed(&welcome, "chat:a")["recovered"], true);
}

#[test]
fn a_socket_that_takes_nothing_loses_what_waits_for_it() {
    let mut bench = Bench::new();
    let (at, session, read) = reader(&mut bench, "chat:a");
    bench.fill(at);
    bench.publish("chat:a", json!({ "n": 3 }));
    bench.break_socket(at);
    let (_, welcome, rest) = bench.resume(&session, json!({ "chat:a": read }));
    assert_eq!((&listed(&welcome, "chat:a")["recovered"], kinds(&rest)), (&json!(false), vec!["RESYNC"]));
    // In a queue it waits as an event, and is kept.
    let (at, session, read) = reader(&mut bench, "feed:a");
    bench.fill(at);
    bench.publish("feed:a", json!({ "n": 3 }));
    bench.publish("feed:a", json!({ "n": 4 }));
    bench.break_socket(at);
    // The first of them was in a frame: only who has received that misses nothing.
    let (at, welcome, rest) = bench.resume(&session, json!({ "feed:a": further(&read, 1) }));
    assert_eq!((&listed(&welcome, "feed:a")["recovered"], numbers(&rest)), (&json!(true), vec![4]));
    bench.close(at, 1000);
    let (at, session, read) = reader(&mut bench, "feed:b");
    bench.fill(at);
    bench.publish("feed:b", json!({ "n": 3 }));
    bench.publish("feed:b", json!({ "n": 4 }));
    bench.break_socket(at);
    let (_, welcome, rest) = bench.resume(&session, json!({ "feed:b": read }));
    assert_eq!((&listed(&welcome, "feed:b")["recovered"], numbers(&rest)), (&json!(false), vec![]));
}

#[test]
fn an_event_that_waits_for_the_end_of_a_window_is_kept() {
    let mut bench = Bench::new();
    let (at, session, read) = reader(&mut bench, "slow:a");
    bench.publish("slow:a", json!({ "n": 3 }));
    bench.break_socket(at);
    let (next, welcome, _) = bench.resume(&session, json!({ "slow:a": read }));
    assert_eq!(listed(&welcome, "slow:a")["recovered"], true);
    bench.break_socket(next);
    // Again, before the window has ended: it was not sent yet.
    bench.publish("slow:a", json!({ "n": 4 }));
    let (last, welcome, mut rest) = bench.resume(&session, json!({ "slow:a": read }));
    assert_eq!(listed(&welcome, "slow:a")["recovered"], true, "{welcome}");
    bench.pass(50);
    rest.extend(bench.take(last));
    assert_eq!(numbers(&rest), [3, 4]);
}

#[test]
fn positions_that_say_something_else_prove_nothing() {
    let mut bench = Bench::new();
    let (mut at, session, read) = reader(&mut bench, "chat:a");
    let other_epoch = json!({ "epoch": "0000000000000000", "offset": read["offset"] });
    let (behind, ahead) = (json!({ "epoch": read["epoch"], "offset": 1 }), further(&read, 1));
    for positions in [
        json!({}),
        json!({ "chat:b": read }),
        json!({ "chat:a": other_epoch }),
        json!({ "chat:a": behind }),
        json!({ "chat:a": ahead }),
    ] {
        bench.break_socket(at);
        let (next, welcome, rest) = bench.resume(&session, positions.clone());
        assert_eq!(listed(&welcome, "chat:a")["recovered"], false, "{positions}");
        assert_eq!(kinds(&rest), ["RESYNC"]);
        at = next;
    }
}

#[test]
fn what_a_filter_hides_needs_no_proof() {
    let mut bench = Bench::new();
    let filter = json!({ "channel": "chat:a", "filter": "data.n % 2 == 0" });
    let (at, welcome) = bench.connect(Some(&alice()), json!({ "subscribe": [filter] }));
    let start = position(listed(&welcome, "chat:a"));
    let session = welcome["session"].as_str().unwrap().to_owned();
    (1..=3).for_each(|n| bench.publish("chat:a", json!({ "n": n })));
    assert_eq!(bench.events(at), [2]);
    bench.break_socket(at);
    (4..=7).for_each(|n| bench.publish("chat:a", json!({ "n": n })));
    let (_, welcome, rest) = bench.resume(&session, json!({ "chat:a": further(&start, 2) }));
    assert_eq!((&listed(&welcome, "chat:a")["recovered"], numbers(&rest)), (&json!(true), vec![4, 6]));
}

/// The node did not hear the channel for a while, so its count proves nothing, however equal it is.
#[test]
fn a_break_of_the_link_to_redis_is_a_gap() {
    let mut bench = Bench::new();
    let (at, session, read) = reader(&mut bench, "chat:a");
    bench.break_socket(at);
    bench.cluster.cut(0, &mut bench.sockets);
    bench.publish("chat:a", json!({ "n": 3 }));
    bench.cluster.mend(&mut bench.sockets);
    bench.rest();
    let (next, welcome, rest) = bench.resume(&session, json!({ "chat:a": read }));
    assert_eq!(listed(&welcome, "chat:a")["recovered"], false);
    assert!(kinds(&rest).contains(&"RESYNC"));
    // The position that came with `RESYNC` is the one of before, and so it does not prove that `RESYNC` was received.
    bench.break_socket(next);
    let (_, welcome, _) = bench.resume(&session, json!({ "chat:a": read }));
    assert_eq!(listed(&welcome, "chat:a")["recovered"], false);
}

/// `RESYNC` was written to a dead socket, and the channel's count stood still.
#[test]
fn a_resync_that_was_not_received_is_not_forgotten() {
    let mut bench = Bench::new();
    let (at, session, read) = reader(&mut bench, "chat:a");
    bench.silence(at);
    bench.cluster.cut(0, &mut bench.sockets);
    bench.publish("chat:a", json!({ "n": 3 }));
    bench.cluster.mend(&mut bench.sockets);
    bench.rest();
    bench.break_socket(at);
    let (_, welcome, _) = bench.resume(&session, json!({ "chat:a": read }));
    assert_eq!(listed(&welcome, "chat:a")["recovered"], false);
}

#[test]
fn a_pattern_has_recovered_if_nothing_was_ever_shown_through_it() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["room:*"]);
    bench.break_socket(at);
    bench.publish("room:1", json!({ "n": 1 }));
    bench.publish("room:9", json!({ "n": 2 }));
    let (at, welcome, rest) = bench.resume(&session, json!({}));
    assert_eq!((&listed(&welcome, "room:*")["recovered"], numbers(&rest)), (&json!(true), vec![1]));
    bench.break_socket(at);
    let (_, welcome, rest) = bench.resume(&session, json!({}));
    assert_eq!(listed(&welcome, "room:*")["recovered"], false);
    let resyncs: Vec<&Value> = rest.iter().filter(|message| message["channel"] == "room:*").collect();
    assert!(matches!(&resyncs[..], [resync] if resync["type"] == "RESYNC" && resync.get("offset").is_none()));
}

/// What came by the name before was not counted for the pattern.
#[test]
fn a_pattern_proves_nothing_of_a_channel_that_was_shown_by_its_name() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["room:*", "room:1"]);
    bench.silence(at);
    bench.publish("room:1", json!({ "n": 1 }));
    bench.command("alice", PlayerAction::Unsubscribe { channel: "room:1".into() });
    bench.break_socket(at);
    let (_, welcome, rest) = bench.resume(&session, json!({}));
    assert_eq!(listed(&welcome, "room:*")["recovered"], false);
    assert_eq!(kinds(&rest), ["RESYNC"]);
}

/// An event that several patterns show waits for one of them.
#[test]
fn patterns_have_recovered_together_or_not_at_all() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["room:1*", "room:*"]);
    bench.silence(at);
    bench.publish("room:1", json!({ "n": 1 }));
    bench.break_socket(at);
    bench.publish("room:1", json!({ "n": 2 }));
    bench.publish("room:2", json!({ "n": 3 }));
    let (_, welcome, rest) = bench.resume(&session, json!({}));
    for pattern in ["room:1*", "room:*"] {
        assert_eq!(listed(&welcome, pattern)["recovered"], false, "{pattern}");
    }
    assert_eq!(kinds(&rest), ["RESYNC", "RESYNC"]);
}

#[test]
fn an_entity_channel_starts_with_all_that_is_in_view() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["world:1"]);
    bench.publish("world:1", json!({ "n": 1, "id": "e1" }));
    bench.break_socket(at);
    let idle = bench.stats();
    for n in 2..200 {
        bench.publish("world:1", json!({ "n": n, "id": format!("e{}", n % 5) }));
    }
    assert_eq!(
        (bench.stats().held_bytes, bench.stats().deliveries),
        (0, idle.deliveries),
        "it costs nothing"
    );
    let (_, welcome, rest) = bench.resume(&session, json!({ "world:1": { "epoch": "x", "offset": 1 } }));
    assert!(listed(&welcome, "world:1").get("recovered").is_none());
    let enters: Vec<&Value> = rest.iter().filter(|message| message["channel"] == "world:1").collect();
    let [enter] = &enters[..] else { panic!("{rest:?}") };
    assert_eq!(
        (&enter["type"], &enter["reset"], &enter["complete"]),
        (&json!("VIEW_ENTER"), &json!(true), &json!(true))
    );
    assert_eq!(enter["entities"].as_array().unwrap().len(), 5);
}

/// What waits is events, and not frames: the next socket may read another encoding.
#[test]
fn the_next_socket_may_speak_messagepack() {
    let mut bench = Bench::new();
    let (at, session, read) = reader(&mut bench, "chat:a");
    bench.break_socket(at);
    bench.publish("chat:a", json!({ "n": 3 }));
    let next = bench.open_as(Some(&alice()), Encoding::MsgPack);
    let connect =
        json!({ "type": "CONNECT", "resume": { "session": session, "positions": { "chat:a": read } } });
    let mut packed = Vec::new();
    drawbridge_protocol::msgpack::from_json(&connect.to_string(), &mut packed).unwrap();
    let conn = drawbridge_engine::io::ConnId { index: next, generation: next + 1 };
    let kind = drawbridge_engine::io::MessageKind::Binary;
    let message = Input::Message { conn, kind, payload: &packed, cost_bytes: 0 };
    bench.cluster.input(0, 0, message, &mut bench.sockets);
    bench.publish("chat:a", json!({ "n": 4 }));
    let messages = bench.take(next);
    assert_eq!((&messages[0]["type"], numbers(&messages)), (&json!("WELCOME"), vec![3, 4]));
}

/// A service's command reaches a session that is away; the client learns of it when it returns.
#[test]
fn subscriptions_change_while_the_session_is_away() {
    let mut bench = Bench::new();
    let (at, session, read) = reader(&mut bench, "chat:a");
    bench.break_socket(at);
    bench.command("alice", PlayerAction::Subscribe { channel: "chat:b".into() });
    bench.publish("chat:b", json!({ "n": 1 }));
    bench.publish("chat:a", json!({ "n": 3 }));
    let (at, welcome, rest) = bench.resume(&session, json!({ "chat:a": read }));
    assert_eq!(listed(&welcome, "chat:b")["recovered"], false, "its client knows no position");
    assert_eq!(numbers(&rest), [3]);
    bench.break_socket(at);
    bench.command("alice", PlayerAction::Unsubscribe { channel: "chat:a".into() });
    let (_, welcome, _) = bench.resume(&session, json!({ "chat:a": further(&read, 1) }));
    assert_eq!(listed(&welcome, "chat:a"), &Value::Null);
}
