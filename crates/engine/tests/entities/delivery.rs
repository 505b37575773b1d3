//! How events leave: windows, batches, conflation, order, and what slow readers lose.

use drawbridge_engine::class::{Class, Delivery, SlowConsumer};
use drawbridge_engine::expr::{Vars, compile};
use drawbridge_protocol::template::ClassName;
use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::{stream, world};
use serde_json::json;

use crate::{at, latest};

#[test]
fn what_is_due_in_a_window_leaves_in_one_array() {
    let delivery = Delivery { batch_ms: 50, conflate: true, ..Delivery::default() };
    let mut bench = Bench::new(stream(delivery), 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    bench.take(player);
    bench.writes = 0;
    for n in 0..30 {
        bench.publish("e", json!({ "id": n % 3, "n": n }));
    }
    assert_eq!(bench.told(player), [""; 0]);
    bench.pass(50);
    assert_eq!(bench.told(player), ["0 27", "1 28", "2 29"]);
    assert_eq!((bench.writes, bench.arrays.as_slice()), (1, &[3][..]));
    for n in 0..100 {
        bench.publish("e", json!({ "id": n, "n": n }));
    }
    bench.pass(50);
    assert_eq!((bench.writes, bench.arrays.as_slice()), (2, &[3, 64, 36][..]));
}

#[test]
fn the_nearest_and_the_longest_waiting_come_first() {
    let delivery = Delivery { batch_ms: 50, max_updates: Some(2), max_wait_ms: 200, ..latest() };
    let mut bench = Bench::new(world(delivery, true), 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({ "area": { "x": 0, "y": 0, "radius": 100 } }));
    for id in 0..6 {
        bench.publish("e", at(&id.to_string(), 90.0 - f64::from(id), 0));
    }
    bench.pass(50);
    bench.take(player);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..6 {
        bench.publish("e", at("5", 85.0, round));
        bench.pass(50);
        let told = bench.take(player);
        assert!(told.len() <= 2 || round == 3, "{told:?}");
        for message in told {
            let entities = message["entities"].as_array().cloned().unwrap_or_default();
            seen.extend(entities.iter().map(|entity| entity["key"].to_string()));
        }
    }
    assert!(seen.len() >= 4, "nothing waits longer than max_wait: {seen:?}");
}

#[test]
fn who_does_not_read_sees_the_present_state_when_it_reads_again() {
    let mut bench = Bench::new(world(latest(), false), 4_000);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    bench.take(player);
    bench.blocked[player] = true;
    for n in 0..1_000 {
        bench.publish("e", at(&(n % 5).to_string(), 0.0, n));
        let stats = bench.engine.stats();
        assert!(stats.frame_bytes + stats.queued_bytes < 9_000, "{stats:?}");
    }
    bench.unblock(player);
    let mut table = std::collections::BTreeMap::new();
    let read = bench.take(player);
    assert!(read.len() < 20, "only the newest: {}", read.len());
    for message in read {
        for entity in message["entities"].as_array().unwrap_or(&vec![message.clone()]) {
            table.insert(entity["key"].to_string(), entity["data"]["n"].as_u64().unwrap());
        }
    }
    assert_eq!(table.into_values().collect::<Vec<_>>(), [995, 996, 997, 998, 999]);
    assert_eq!(bench.closed[player], None);
}

#[test]
fn the_oldest_are_dropped_with_a_resync_at_the_gap() {
    let delivery = Delivery { slow_consumer: SlowConsumer::DropOldest, ..Delivery::default() };
    let mut bench = Bench::new(stream(delivery), 4_000);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    bench.take(player);
    bench.blocked[player] = true;
    for n in 0..200 {
        bench.publish("e", json!({ "n": n }));
    }
    bench.unblock(player);
    let read = bench.take(player);
    let gap = read.iter().position(|message| message["type"] == "RESYNC").unwrap();
    assert_eq!(read[gap]["reason"], "slow_consumer");
    assert_eq!(read[gap + 1]["offset"].as_u64(), read[gap]["offset"].as_u64().map(|offset| offset + 1));
    assert_eq!(read.last().unwrap()["data"]["n"], 199);
}

/// A socket is known to be full only when a turn's frames are written: they must not be more than may wait.
#[test]
fn a_burst_beyond_the_bound_in_one_turn_is_not_what_closes_a_reader_that_is_to_stay() {
    for (slow_consumer, batch_ms) in
        [(SlowConsumer::DropOldest, 0), (SlowConsumer::Latest, 0), (SlowConsumer::DropOldest, 50)]
    {
        let delivery = Delivery { slow_consumer, batch_ms, ..Delivery::default() };
        for class in [stream(delivery), world(delivery, false)] {
            let mut bench = Bench::new(class, 4_000);
            let player = bench.player("r", "red");
            bench.subscribe(player, json!({}));
            bench.take(player);
            bench.publish("e", json!({ "id": "a", "n": 0, "public": true }));
            bench.pass(50);
            bench.blocked[player] = true;
            for n in 1..=200 {
                let pad = "x".repeat(if n % 50 == 25 { 10_000 } else { 10 });
                bench.publish_quietly("e", json!({ "id": "a", "n": n, "public": true, "pad": pad }));
            }
            bench.pump();
            bench.pass(50);
            let stats = bench.engine.stats();
            assert!(stats.frame_bytes + stats.queued_bytes < 4_000 + 2 * 11_000, "{stats:?}");
            bench.unblock(player);
            bench.pass(50);
            assert_eq!(bench.closed[player], None, "{delivery:?}");
            let last = bench.take(player).pop().unwrap();
            let state = if last["type"] == "VIEW_ENTER" { &last["entities"][0] } else { &last };
            assert_eq!(state["data"]["n"], 200, "{delivery:?}");
        }
    }
}

/// Where filters differ, events of one channel are due by one subscription and by the other: in their order all the same.
#[test]
fn two_ways_to_one_channel_keep_its_order() {
    let delivery = Delivery { batch_ms: 50, conflate: true, ..latest() };
    let mut bench = Bench::new(Class { patterns: true, ..stream(delivery) }, 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({ "filter": "data.n % 2 == 1" }));
    bench.send(player, json!({ "type": "CHANNEL_SUBSCRIBE", "id": 2, "channel": "world:*" }));
    bench.send(
        player,
        json!({ "type": "CHANNEL_SUBSCRIBE", "id": 3, "channel": "world:?", "filter": "data.n > 5" }),
    );
    bench.take(player);
    for n in 1..=8 {
        bench.publish("e", json!({ "id": "k", "n": n }));
    }
    bench.pass(50);
    let read = bench.take(player);
    let told: Vec<u64> = read.iter().map(|message| message["data"]["n"].as_u64().unwrap()).collect();
    assert!(told.is_sorted() && told.last() == Some(&8), "{told:?}");
}

/// A channel and a pattern that covers it: what other channels have due by the pattern is nothing to the channel's.
#[test]
fn what_is_due_by_a_pattern_of_other_channels_stays_where_it_is() {
    let delivery = Delivery { batch_ms: 50, slow_consumer: SlowConsumer::DropOldest, ..Delivery::default() };
    let mut bench = Bench::new(Class { patterns: true, ..stream(delivery) }, 4_000);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    bench.send(player, json!({ "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "world:*" }));
    bench.pattern = Some("world:*");
    bench.take(player);
    bench.publish_through_pattern("world:2", "e", json!({ "n": 1 }));
    bench.publish("e", json!({ "n": 2 }));
    assert_eq!(bench.told(player), [""; 0], "the window is not cut short");
    bench.pass(50);
    assert_eq!(bench.take(player).len(), 2);
    bench.blocked[player] = true;
    for n in 0..300 {
        bench.publish_through_pattern("world:2", "e", json!({ "n": n }));
        bench.publish("e", json!({ "n": n }));
    }
    bench.pass(50);
    bench.unblock(player);
    assert_eq!(bench.closed[player], None, "its class drops the oldest");
    let last = bench.take(player);
    let last_of = |channel: &str| last.iter().rfind(|message| message["channel"] == channel).unwrap();
    assert_eq!(
        (&last_of("world:1")["data"]["n"], &last_of("world:2")["data"]["n"]),
        (&299.into(), &299.into())
    );
}

/// Whoever is followed goes away and comes back within a window: of those around it nothing has happened.
#[test]
fn what_was_away_for_a_moment_and_is_as_it_was_is_not_told() {
    let delivery = Delivery { batch_ms: 50, conflate: true, ..latest() };
    let mut bench = Bench::new(world(delivery, true), 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({ "area": { "follow": "me", "radius": 10 } }));
    bench.publish("e", at("me", 0.0, 1));
    bench.publish("e", at("b", 5.0, 1));
    bench.publish("e", at("c", -5.0, 1));
    bench.pass(50);
    bench.take(player);
    bench.publish("e", at("me", 70.0, 2));
    // This one is another when it comes back.
    bench.publish("e", at("c", -6.0, 2));
    bench.publish("e", at("me", 1.0, 3));
    bench.pass(50);
    assert_eq!(bench.told(player), ["me 3", "c 2"]);
    // It goes by itself, and is where the area comes to.
    bench.publish("e", at("b", 50.0, 2));
    bench.publish("e", at("me", 45.0, 4));
    bench.pass(50);
    assert_eq!(bench.told(player), ["me 4", "view c", "b 2"]);
}

/// A reader is closed by what may not be given up, and only where it does not help to give up what may.
#[test]
fn milder_classes_give_up_first() {
    let chat = Class {
        subscribe: compile("true", Vars::SUBSCRIBE_RULE).unwrap(),
        patterns: true,
        delivery: Delivery { slow_consumer: SlowConsumer::Disconnect, ..Delivery::default() },
        ..Class::plain(ClassName::parse("chat:{chat}").unwrap())
    };
    let mut bench = Bench::with_classes(vec![stream(latest()), chat], 4_000);
    bench.pattern = Some("chat:*");
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    bench.send(player, json!({ "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "chat:*" }));
    bench.take(player);
    bench.blocked[player] = true;
    for n in 0..100 {
        bench.publish("e", json!({ "id": n, "n": n }));
    }
    (0..5).for_each(|n| bench.publish_through_pattern("chat:1", "e", json!({ "n": n })));
    assert_eq!(bench.closed[player], None, "of `latest` much can go");
    for n in 5..100 {
        bench.publish_through_pattern("chat:1", "e", json!({ "n": n }));
    }
    assert_eq!(bench.closed[player], Some(4001), "of `disconnect` nothing");
}

/// What is due by a pattern is of many classes.
#[test]
fn a_burst_through_a_pattern_closes_nobody_whose_class_keeps_them() {
    for slow_consumer in [SlowConsumer::Latest, SlowConsumer::DropOldest] {
        let delivery = Delivery { slow_consumer, ..Delivery::default() };
        let mut bench = Bench::new(Class { patterns: true, ..stream(delivery) }, 4_000);
        let player = bench.player("r", "red");
        bench.send(player, json!({ "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "world:*" }));
        bench.pattern = Some("world:*");
        bench.take(player);
        bench.blocked[player] = true;
        for n in 0..300 {
            bench.publish_quietly("e", json!({ "id": "k", "n": n }));
        }
        bench.pump();
        bench.unblock(player);
        assert_eq!(bench.closed[player], None);
        assert_eq!(bench.take(player).last().unwrap()["data"]["n"], 299);
    }
}
