//! What is sent of a channel with history after a break, by example: each rule that once was broken.

use serde_json::{Value, json};

use crate::bench::{Bench, resyncs, whole};

const PLENTY: usize = 1 << 20;
/// For some twenty events of [`Bench::append`].
const SMALL: usize = 20_000;

/// The position of a channel in `WELCOME`.
fn position(welcome: &Value, channel: &str) -> Value {
    let list = welcome["subscriptions"].as_array().unwrap();
    let listed = list.iter().find(|one| one["channel"] == channel).unwrap();
    json!({ "epoch": listed["epoch"], "offset": listed["offset"] })
}

#[test]
fn the_first_event_of_a_channel_under_a_pattern_is_read_from_the_log_where_it_was_dropped() {
    let mut bench = Bench::new(PLENTY);
    let (socket, _) = bench.join(0, &["log:*"]);
    bench.append("log:b", [1]);
    assert_eq!(whole(&bench.take(socket), "log:b"), [1]);
    bench.sockets.drops_events = true;
    bench.append("log:a", [1, 2]);
    bench.sockets.drops_events = false;
    bench.append("log:a", [3]);
    let messages = bench.take(socket);
    assert_eq!(whole(&messages, "log:a"), [1, 2, 3]);
    assert_eq!((&messages[0]["type"], &messages[0]["offset"]), (&json!("POSITION"), &json!(0)));
}

#[test]
fn channels_under_a_pattern_are_caught_up_as_soon_as_it_is_live_again() {
    for is_held_by_name in [false, true] {
        let mut bench = Bench::new(PLENTY);
        let (socket, _) = bench.join(0, &["log:*"]);
        // On another shard.
        let by_name = is_held_by_name.then(|| bench.join(1, &["log:a"]).0);
        bench.append("log:a", [1]);
        bench.append("log:quiet", [1]);
        bench.take(socket);
        bench.cut();
        bench.append("log:a", [2, 3]);
        bench.mend();
        let messages = bench.take(socket);
        assert_eq!(whole(&messages, "log:a"), [2, 3], "{is_held_by_name}");
        assert_eq!(resyncs(&messages), [("log:*", "broker")]);
        if let Some(by_name) = by_name {
            assert_eq!(whole(&bench.take(by_name), "log:a"), [1, 2, 3]);
        }
        bench.append("log:a", [4]);
        bench.append("log:quiet", [2]);
        let messages = bench.take(socket);
        assert_eq!((whole(&messages, "log:a"), whole(&messages, "log:quiet")), (vec![4], vec![2]));
    }
}

#[test]
fn what_came_while_views_were_unknown_is_read_from_the_log() {
    let mut bench = Bench::new(PLENTY);
    let (socket, _) = bench.join(0, &["log:a", "chat:a"]);
    bench.sockets.refuses_overrides = true;
    bench.cut();
    bench.append("log:a", [1]);
    bench.mend();
    bench.append("log:a", [2]);
    let messages = bench.take(socket);
    assert!(messages.iter().all(|message| message["type"] == "STATUS"), "{messages:?}");
    bench.sockets.refuses_overrides = false;
    bench.pass(20_000);
    bench.append("log:a", [3]);
    let messages = bench.take(socket);
    assert_eq!(whole(&messages, "log:a"), [1, 2, 3]);
    assert_eq!(resyncs(&messages), [("chat:a", "broker")]);
}

#[test]
fn what_came_under_a_pattern_while_views_were_unknown_is_read_from_the_log() {
    let mut bench = Bench::new(PLENTY);
    let (socket, _) = bench.join(0, &["log:*"]);
    bench.append("log:a", [1]);
    bench.take(socket);
    bench.sockets.refuses_overrides = true;
    bench.cut();
    bench.append("log:a", [2]);
    bench.mend();
    bench.append("log:a", [3, 4]);
    assert!(whole(&bench.take(socket), "log:a").is_empty());
    bench.sockets.refuses_overrides = false;
    bench.pass(20_000);
    bench.append("log:a", [5]);
    let messages = bench.take(socket);
    assert_eq!(whole(&messages, "log:a"), [2, 3, 4, 5]);
    assert_eq!(resyncs(&messages), [("log:*", "broker")]);
}

#[test]
fn a_replay_waits_for_room_and_is_no_slow_consumption() {
    for name in ["log:a", "log:*"] {
        let mut bench = Bench::new(SMALL);
        let (slow, _) = bench.join(0, &[name]);
        let (fast, _) = bench.join(0, &[name]);
        bench.append("log:a", [0]);
        bench.take(slow);
        bench.fill(slow);
        bench.cut();
        bench.append("log:a", 1..300);
        bench.mend();
        bench.append("log:a", [300]);
        assert_eq!((bench.closed(slow), bench.take(slow)), (None, vec![]), "{name}");
        assert_eq!(whole(&bench.take(fast), "log:a"), (0..301).collect::<Vec<_>>(), "{name}");
        bench.drain(slow);
        bench.append("log:a", [301]);
        assert_eq!(whole(&bench.take(slow), "log:a"), (1..302).collect::<Vec<_>>(), "{name}");
        assert_eq!(bench.cluster.shard(0, 0).engine.stats().catching_up, 0);
    }
}

#[test]
fn a_volatile_event_comes_at_once_while_a_session_catches_up() {
    for name in ["log:a", "log:*"] {
        let mut bench = Bench::new(SMALL);
        let (socket, welcome) = bench.join(0, &[name]);
        bench.append("log:a", [0]);
        let first = bench.take(socket).pop().unwrap();
        let epoch = bench.cluster.redis.logs.end(&"log:a".into()).epoch;
        let read = json!({ "log:a": { "epoch": epoch.as_str(), "offset": first["offset"] } });
        bench.break_socket(socket);
        bench.append("log:a", 1..100);
        let socket = bench.resume_by_full_socket(&welcome, read);
        bench.publish("log:a", 1_000);
        bench.drain(socket);
        bench.append("log:a", [100]);
        let numbers = whole(&bench.take(socket), "log:a");
        let (volatile, logged): (Vec<u64>, Vec<u64>) = numbers.into_iter().partition(|n| *n == 1_000);
        assert_eq!((volatile, logged), (vec![1_000], (1..101).collect()), "{name}");
    }
}

/// A session that catches up by a pattern subscribes by name meanwhile, and unsubscribes again.
#[test]
fn who_catches_up_goes_on_doing_so_by_whichever_subscription() {
    let mut bench = Bench::new(SMALL);
    let (socket, welcome) = bench.join(0, &["log:*", "log:other"]);
    bench.append("log:a", [0]);
    let messages = bench.take(socket);
    let first = messages.iter().find(|message| message["type"] == "EVENT").unwrap();
    let epoch = bench.cluster.redis.logs.end(&"log:a".into()).epoch;
    let read = json!({
        "log:a": { "epoch": epoch.as_str(), "offset": first["offset"] },
        "log:other": position(&welcome, "log:other"),
    });
    bench.break_socket(socket);
    bench.append("log:a", 1..100);
    let socket = bench.resume_by_full_socket(&welcome, read);
    bench.send(socket, &json!({ "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "log:a" }));
    bench.append("log:a", [100]);
    bench.send(socket, &json!({ "type": "CHANNEL_UNSUBSCRIBE", "id": 2, "channel": "log:a" }));
    bench.append("log:a", [101]);
    bench.drain(socket);
    bench.append("log:a", [102]);
    assert_eq!(whole(&bench.take(socket), "log:a"), (1..103).collect::<Vec<_>>());
}
