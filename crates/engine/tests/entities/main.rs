//! Entity channels, areas, and rates of delivery, one engine and one hub at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use drawbridge_engine::class::{Class, Delivery, SlowConsumer};
use drawbridge_engine::expr::{Vars, compile};
use drawbridge_engine::io::{
    BarrierToken, BrokerEvent, BrokerStatus, Epoch, Input, LocalOffset, PlayerAction, PlayerCommand, Position,
};
use drawbridge_engine::upstream::{LinkId, StoredEntity};
use drawbridge_protocol::template::ClassName;
use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::{stream, world};
use drawbridge_testkit::players::conn;
use serde_json::{Value, json};

fn latest() -> Delivery {
    Delivery { slow_consumer: SlowConsumer::Latest, ..Delivery::default() }
}

fn at(id: &str, x: f64, n: u64) -> Value {
    json!({ "id": id, "x": x, "y": 0, "n": n, "public": true })
}

#[test]
fn a_table_comes_first_then_its_changes() {
    let mut bench = Bench::new(world(latest(), false), 1 << 20);
    bench.stored.entities.push(StoredEntity {
        key: "a".into(),
        age_ms: 0,
        payload: json!({"event":"e","data":{"id":"a","team":"red","n":1}}).to_string().into(),
    });
    let red = bench.player("r", "red");
    let blue = bench.player("b", "blue");
    bench.subscribe(red, json!({}));
    bench.subscribe(blue, json!({}));
    assert_eq!(bench.told(red), ["CHANNEL_SUBSCRIBED", "reset a"]);
    assert_eq!(bench.told(blue), ["CHANNEL_SUBSCRIBED", "reset "]);
    bench.publish("e", json!({"id":"a","team":"red","n":2}));
    bench.publish("e", json!({"id":7,"team":"blue","n":3}));
    assert_eq!(bench.told(red), ["a 2"]);
    assert_eq!(bench.told(blue), ["enter 7"]);
    // It changes sides: one loses it from view, the other finds it.
    bench.publish("e", json!({"id":"a","team":"blue","n":4}));
    assert_eq!(bench.told(red), ["view a"]);
    assert_eq!(bench.told(blue), ["enter a"]);
    bench.publish("remove", json!({"id":"a"}));
    assert_eq!(bench.told(red), [""; 0]);
    assert_eq!(bench.told(blue), ["removed a"]);
    bench.pass(12_000);
    assert_eq!(bench.told(blue), ["removed 7"]);
}

#[test]
fn the_reply_to_a_filter_update_is_the_boundary() {
    let mut bench = Bench::new(world(Delivery { batch_ms: 50, ..latest() }, false), 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    for key in ["a", "b"] {
        bench.publish("e", at(key, 0.0, 1));
    }
    bench.update(player, json!({ "filter": "key == 'b'" }));
    assert_eq!(
        bench.told(player),
        ["CHANNEL_SUBSCRIBED", "reset ", "enter a b", "FILTER_UPDATED"],
        "what waits is told before the boundary"
    );
    bench.pass(50);
    assert_eq!(bench.told(player), ["view a"]);
    bench.update(player, json!({ "filter": "key =" }));
    assert_eq!(bench.told(player), ["FILTER_INVALID"]);
    bench.update(player, json!({}));
    bench.update(player, json!({ "filter": null }));
    bench.pass(50);
    assert_eq!(bench.told(player), ["FILTER_UPDATED", "FILTER_UPDATED", "enter a"]);
}

#[test]
fn an_area_shows_what_is_in_it_with_hysteresis() {
    let mut bench = Bench::new(world(latest(), true), 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({ "area": { "x": 0, "y": 0, "radius": 10 } }));
    assert_eq!(bench.told(player), ["CHANNEL_SUBSCRIBED", "reset "]);
    for (x, expected) in [
        (10.5, vec![]),
        (10.0, vec!["enter a"]),
        (12.0, vec!["a 1"]),
        (12.5, vec!["view a"]),
        (11.0, vec![]),
        (-10.0, vec!["enter a"]),
    ] {
        bench.publish("e", at("a", x, 1));
        assert_eq!(bench.told(player), expected, "{x}");
    }
    bench.update(player, json!({ "area": { "x": 100, "y": 0, "radius": 10 } }));
    assert_eq!(bench.told(player), ["FILTER_UPDATED", "view a"]);
    bench.update(player, json!({ "area": { "follow": "a", "radius": 10 } }));
    assert_eq!(bench.told(player), ["FILTER_UPDATED", "enter a"]);
    bench.publish("e", at("b", 500.0, 1));
    // Far away, and in its own area all the same.
    bench.publish("e", at("a", 500.0, 2));
    assert_eq!(bench.told(player), ["a 2", "enter b"]);
    bench.publish("remove", at("a", 0.0, 0));
    assert_eq!(bench.told(player), ["removed a", "view b"]);
    bench.update(player, json!({ "area": null }));
    assert_eq!(bench.told(player), ["FILTER_UPDATED", "enter b"]);
}

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

#[test]
fn a_gap_and_a_break_bring_the_table_anew() {
    let mut bench = Bench::new(world(latest(), false), 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    bench.publish("e", at("a", 0.0, 1));
    bench.take(player);
    let position = Position { epoch: Epoch::new(1), offset: LocalOffset(9) };
    bench.input(Input::Broker(BrokerEvent::Gap { channel: "world:1".into(), position, logged: None }));
    assert_eq!((bench.told(player), bench.refreshes), (vec!["resync gap".into(), "reset a".into()], 1));
    // What a plain publish said is not stored, and not known any more.
    bench.break_link();
    assert_eq!(bench.told(player), ["resync broker", "reset "]);
}

#[test]
fn a_service_narrows_a_players_view_at_once() {
    let mut bench = Bench::new(world(latest(), false), 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    for key in ["a", "b"] {
        bench.publish("e", at(key, 0.0, 1));
    }
    bench.take(player);
    let mut narrow = |view: Option<&str>| {
        let action = PlayerAction::View { channel: "world:1".into(), view: view.map(Into::into) };
        bench.input(Input::Broker(BrokerEvent::Command(PlayerCommand { player: "r".into(), action })));
        bench.told(player)
    };
    assert_eq!(narrow(Some("key != 'a'")), ["view a"]);
    assert_eq!(narrow(None), ["enter a"]);
}

/// While its link is down a node hears no service: what it may show is known again only when Redis has told.
#[test]
fn after_a_break_nothing_is_shown_before_the_views_are_known() {
    for class in [stream(latest()), world(latest(), false)] {
        let has_table = class.entity.is_some();
        let mut bench = Bench::new(class, 1 << 20);
        let player = bench.player("r", "red");
        bench.subscribe(player, json!({}));
        bench.publish("e", at("a", 0.0, 1));
        bench.take(player);
        bench.views = None;
        bench.input(Input::Broker(BrokerEvent::Recover { dropped: false, barrier: None }));
        bench.break_link();
        bench.publish("e", at("b", 0.0, 2));
        assert_eq!(bench.told(player), [""; 0], "nobody knows whether it may see it");
        bench.update(player, json!({ "filter": "data.n < 9" }));
        bench.answer_views(Ok(&[("world:1", "data.n > 2")]));
        let told = bench.told(player);
        assert_eq!(told[0], "resync broker");
        assert_eq!(
            told[1..],
            if has_table { vec!["FILTER_UPDATED", "reset "] } else { vec!["FILTER_UPDATED"] }
        );
        bench.publish("e", at("b", 0.0, 3));
        assert_eq!(bench.told(player), [if has_table { "enter b" } else { "b 3" }]);
        // What is said while the question is out is newer than its answer; what is not there any more has ended.
        bench.input(Input::Broker(BrokerEvent::Recover { dropped: false, barrier: None }));
        let action = PlayerAction::View { channel: "world:1".into(), view: Some("data.n > 3".into()) };
        bench.input(Input::Broker(BrokerEvent::Command(PlayerCommand { player: "r".into(), action })));
        bench.answer_views(Ok(&[("world:1", "data.n > 0")]));
        bench.take(player);
        bench.publish("e", at("c", 0.0, 3));
        assert_eq!(bench.told(player), [""; 0]);
        bench.input(Input::Broker(BrokerEvent::Recover { dropped: false, barrier: None }));
        bench.answer_views(Ok(&[]));
        bench.take(player);
        bench.publish("e", at("d", 0.0, 1));
        assert_eq!(bench.told(player), [if has_table { "enter d" } else { "d 1" }]);
    }
}

/// Views are read again when any link of the pool comes back, also for channels of the others.
#[test]
fn what_is_live_stays_so_and_is_answered_while_views_are_read() {
    for class in [stream(latest()), world(latest(), false)] {
        let has_table = class.entity.is_some();
        let mut bench = Bench::new(class, 1 << 20);
        let player = bench.player("r", "red");
        bench.subscribe(player, json!({}));
        bench.publish("e", at("a", 0.0, 1));
        bench.take(player);
        bench.views = None;
        bench.input(Input::Broker(BrokerEvent::Recover { dropped: false, barrier: None }));
        bench.subscribe(player, json!({ "filter": "data.n > 1" }));
        assert_eq!(bench.told(player)[0], "CHANNEL_SUBSCRIBED");
        bench.publish("e", at("a", 0.0, 2));
        assert_eq!(bench.told(player), [if has_table { "enter a" } else { "a 2" }]);
        bench.answer_views(Ok(&[]));
        assert_eq!(bench.told(player), [""; 0]);
    }
}

/// A link lets nothing come back before the views of all are known: of all who were there, and no more of those who left.
#[test]
fn a_link_is_told_when_the_views_of_all_are_known() {
    let stale = |round| BrokerEvent::Recover {
        dropped: false,
        barrier: Some(BarrierToken::new(LinkId::at(0), round)),
    };
    let mut bench = Bench::new(stream(latest()), 1 << 20);
    bench.input(Input::Broker(stale(1)));
    assert_eq!(bench.released, [1], "nobody is there");
    let (_stays, leaves) = (bench.player("a", "red"), bench.player("b", "red"));
    bench.views = None;
    bench.input(Input::Broker(stale(2)));
    bench.input(Input::Broker(stale(3)));
    bench.player_who_waits("c");
    let others = bench.asked.split_off(1);
    bench.answer_views(Err("ERR not now"));
    assert_eq!(bench.released, [1], "the other is not known yet");
    bench.asked = others;
    bench.input(Input::Closed { conn: conn(leaves), code: 1006 });
    assert_eq!(bench.released, [1, 3], "the last break counts, and who came later asked later");
}

/// A command that was dropped may have been about anybody: nothing that follows is shown before the views are known.
#[test]
fn behind_a_dropped_command_nothing_is_shown_before_the_views_are_known() {
    for class in [stream(latest()), world(latest(), false)] {
        let has_table = class.entity.is_some();
        let mut bench = Bench::new(class, 1 << 20);
        let player = bench.player("r", "red");
        bench.subscribe(player, json!({}));
        bench.take(player);
        bench.views = None;
        bench.input(Input::Broker(BrokerEvent::Recover { dropped: true, barrier: None }));
        bench.publish("e", at("a", 0.0, 1));
        assert_eq!(bench.told(player), [""; 0]);
        bench.answer_views(Ok(&[("world:1", "data.n > 1")]));
        let told = bench.told(player);
        assert_eq!(told[0], "resync broker");
        assert_eq!(told[1..], if has_table { vec!["reset "] } else { vec![] });
        bench.publish("e", at("a", 0.0, 2));
        assert_eq!(bench.told(player), [if has_table { "enter a" } else { "a 2" }]);
    }
}

/// What waits for a socket that does not read was judged by the claims before: those of now hold for it too, whether the
/// player's views are known or not.
#[test]
fn new_claims_hold_for_what_waits_behind_a_gate() {
    for gate in [false, true] {
        let mut bench = Bench::new(world(latest(), false), 1 << 20);
        let player = bench.player("r", "red");
        bench.subscribe(player, json!({}));
        let red = |n: u64| json!({ "id": "a", "team": "red", "n": n });
        bench.publish("e", red(1));
        assert_eq!(bench.told(player), ["CHANNEL_SUBSCRIBED", "reset ", "enter a"]);
        bench.blocked[player] = true;
        bench.publish("e", red(2));
        bench.publish("e", red(3));
        if gate {
            bench.views = None;
            bench.input(Input::Broker(BrokerEvent::Recover { dropped: true, barrier: None }));
        }
        bench.send(player, json!({ "type": "TOKEN_REFRESH", "id": 1, "token": "blue" }));
        bench.unblock(player);
        let told = bench.told(player);
        if gate {
            assert_eq!(told, ["a 2", "TOKEN_REFRESHED"]);
            bench.answer_views(Ok(&[]));
            assert_eq!(bench.told(player), ["resync broker", "reset "]);
        } else {
            assert_eq!(told, ["a 2", "TOKEN_REFRESHED", "view a"]);
        }
    }
}

/// A table that is told by halves when the gate is shut is sent again behind it, and nothing of it meanwhile.
#[test]
fn a_gate_that_is_shut_on_a_snapshot_shuts_in_what_is_due_behind_it() {
    let mut bench = Bench::new(world(latest(), false), 1 << 20);
    let player = bench.player("r", "red");
    let pad = "x".repeat(10_000);
    for at in 10..50 {
        let data = json!({ "id": at.to_string(), "public": true, "n": 1, "pad": pad });
        let payload = json!({ "event": "e", "data": data }).to_string().into();
        bench.stored.entities.push(StoredEntity { key: at.to_string(), age_ms: 0, payload });
    }
    bench.blocked[player] = true;
    bench.subscribe(player, json!({}));
    bench.publish("e", at("10", 0.0, 2));
    bench.views = None;
    bench.input(Input::Broker(BrokerEvent::Recover { dropped: true, barrier: None }));
    bench.unblock(player);
    let told = bench.told(player);
    let (subscribed, parts) = told.split_first().unwrap();
    assert_eq!(subscribed, "CHANNEL_SUBSCRIBED");
    // What was made into frames before the gate shut: at most 64 KiB, in messages of at most 32 KiB.
    assert!(parts.len() == 2 && parts.iter().all(|part| part.ends_with(" …")), "no more parts: {told:?}");
    bench.answer_views(Ok(&[]));
    let told = bench.told(player);
    assert!(told[0] == "resync broker" && told[1].starts_with("reset 10 "), "{told:?}");
    assert!(!told.last().unwrap().ends_with('…'));
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

/// Subscribing again is a new look: what was kept only because it had been in the area is not in it.
#[test]
fn subscribing_again_keeps_nothing_beyond_the_radius() {
    let mut bench = Bench::new(world(latest(), true), 1 << 20);
    let player = bench.player("r", "red");
    let area = json!({ "area": { "x": 0, "y": 0, "radius": 10 } });
    bench.subscribe(player, area.clone());
    bench.publish("e", at("b", 9.0, 1));
    bench.publish("e", at("b", 11.0, 2));
    assert_eq!(bench.told(player).last().unwrap(), "b 2", "it stays for a while");
    bench.subscribe(player, area);
    assert_eq!(bench.told(player).last().unwrap(), "reset ");
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

#[test]
fn views_that_redis_does_not_tell_are_asked_for_again() {
    let mut bench = Bench::new(stream(latest()), 1 << 20);
    let player = bench.player("r", "red");
    bench.views = None;
    let waits = bench.player_who_waits("w");
    bench.subscribe(waits, json!({}));
    bench.answer_views(Err("WRONGTYPE Operation against a key"));
    assert_eq!(bench.asked.len(), 0);
    bench.publish("e", json!({ "n": 1 }));
    bench.pass(6_000);
    assert_eq!(bench.told(waits), ["WELCOME"], "by its patience");
    bench.answer_views(Ok(&[]));
    assert_eq!(bench.told(waits), ["CHANNEL_SUBSCRIBED"]);
    bench.publish("e", json!({ "n": 2 }));
    assert_eq!(bench.told(waits), [" 2"]);
    assert_eq!(bench.closed[player], None);
}

/// In a Cluster they may be with a master that is away; when all is back nobody waits for the next attempt.
#[test]
fn views_that_could_not_be_read_are_read_at_once_when_all_of_redis_is_back() {
    let mut bench = Bench::new(stream(latest()), 1 << 20);
    let player = bench.player("r", "red");
    bench.views = None;
    bench.input(Input::Broker(BrokerEvent::Status(BrokerStatus::Degraded)));
    bench.input(Input::Broker(BrokerEvent::Recover { dropped: false, barrier: None }));
    bench.answer_views(Err("CLUSTERDOWN the master is away"));
    bench.subscribe(player, json!({}));
    bench.take(player);
    assert_eq!(bench.asked.len(), 0);
    bench.input(Input::Broker(BrokerEvent::Status(BrokerStatus::Ok)));
    assert_eq!(bench.asked.len(), 1);
    bench.answer_views(Ok(&[]));
    bench.publish("e", json!({ "n": 1 }));
    assert!(bench.told(player).contains(&" 1".to_owned()));
}

/// Whoever may not read what services have narrowed does not know that nothing is.
#[test]
fn without_the_right_to_read_views_nothing_is_shown_and_the_client_learns_why() {
    let mut bench = Bench::new(stream(latest()), 1 << 20);
    let player = bench.player("r", "red");
    bench.views = None;
    bench.input(Input::Broker(BrokerEvent::Recover { dropped: true, barrier: None }));
    bench.answer_views(Err("NOPERM this user has no permissions"));
    bench.subscribe(player, json!({}));
    bench.publish("e", json!({ "n": 1 }));
    bench.pass(12_000);
    bench.answer_views(Err("NOPERM this user has no permissions"));
    let read = bench.take(player);
    let error = read.iter().find(|message| message["type"] == "ERROR").unwrap();
    assert_eq!((&error["code"], &error["channel"]), (&json!("BROKER_REFUSED"), &json!("world:1")));
    assert!(read.iter().all(|message| message["type"] != "EVENT"), "{read:?}");
    // With the right, it is as for everybody.
    bench.pass(12_000);
    bench.answer_views(Ok(&[]));
    bench.subscribe(player, json!({}));
    bench.publish("e", json!({ "n": 2 }));
    assert_eq!(bench.told(player), ["CHANNEL_SUBSCRIBED", " 2"]);
}

/// `CONNECT` may name a channel twice; both wait for `WELCOME`.
#[test]
fn without_the_right_to_read_views_a_client_that_named_a_channel_twice_is_welcomed() {
    let mut bench = Bench::new(stream(latest()), 1 << 20);
    bench.views = None;
    let world = json!({ "channel": "world:1" });
    let player = bench.connect(Some("r"), 1, json!([world, world]));
    bench.answer_views(Err("NOPERM this user has no permissions"));
    let told = bench.told(player);
    assert_eq!(told.iter().filter(|told| *told == "WELCOME").count(), 1, "{told:?}");
    bench.pass(12_000);
    bench.answer_views(Ok(&[]));
    assert_eq!(bench.told(player), ["CHANNEL_SUBSCRIBED"]);
}

#[test]
fn a_question_is_forgotten_with_its_connection() {
    let mut bench = Bench::new(stream(latest()), 1 << 20);
    bench.views = None;
    for _ in 0..10 {
        let player = bench.player_who_waits("w");
        bench.input(Input::Broker(BrokerEvent::Recover { dropped: false, barrier: None }));
        assert_eq!((bench.asked.len(), bench.engine.stats().loading), (1, 1));
        bench.input(Input::Closed { conn: conn(player), code: 1006 });
        assert_eq!((bench.asked.len(), bench.engine.stats().loading), (0, 0));
    }
}

#[test]
fn a_large_table_comes_in_parts_as_the_socket_takes_them() {
    let mut bench = Bench::new(world(latest(), false), 1 << 20);
    let player = bench.player("r", "red");
    bench.subscribe(player, json!({}));
    for id in 0..900 {
        let mut data = at(&id.to_string(), 0.0, 1);
        data["pad"] = "x".repeat(300).into();
        bench.publish("e", data);
    }
    bench.take(player);
    let late = bench.player("l", "red");
    bench.subscribe(late, json!({}));
    let read = bench.take(late);
    let parts: Vec<&Value> = read.iter().filter(|message| message["type"] == "VIEW_ENTER").collect();
    assert!(parts.len() > 2);
    for (number, part) in parts.iter().enumerate() {
        assert_eq!(part["reset"] == true, number == 0);
        assert_eq!(part["complete"] == true, number == parts.len() - 1);
    }
    let total: usize = parts.iter().map(|part| part["entities"].as_array().unwrap().len()).sum();
    assert_eq!(total, 900);
    bench.input(Input::Closed { conn: conn(late), code: 1000 });
    bench.input(Input::Closed { conn: conn(player), code: 1000 });
    let stats = bench.engine.stats();
    assert_eq!((stats.entities, stats.queued_bytes, stats.views, stats.timers), (0, 0, 0, 0));
}

#[test]
fn where_an_area_is_required_an_empty_table_says_so() {
    let mut class = world(latest(), true);
    class.entity.as_mut().unwrap().space.as_mut().unwrap().area_required = true;
    let mut bench = Bench::new(class, 1 << 20);
    let (without, with) = (bench.player("r", "red"), bench.player("b", "blue"));
    bench.subscribe(without, json!({}));
    bench.subscribe(with, json!({ "area": { "x": 0, "y": 0, "radius": 10 } }));
    let reason = |messages: Vec<Value>| -> Vec<Value> {
        let enters = messages.into_iter().filter(|message| message["type"] == "VIEW_ENTER");
        enters.map(|message| message["reason"].clone()).collect()
    };
    assert_eq!(reason(bench.take(without)), ["area_required"]);
    assert_eq!(reason(bench.take(with)), [Value::Null]);
    bench.publish("e", at("a", 5.0, 1));
    bench.update(without, json!({ "area": { "x": 0, "y": 0, "radius": 10 } }));
    assert_eq!(reason(bench.take(without)), [Value::Null]);
}

/// What is in an area says where its middle is: so it is only ever around what the player may see.
#[test]
fn an_area_follows_only_what_the_server_shows() {
    let of_team = |x: f64, team: &str| json!({ "id": "spy", "x": x, "y": 0, "team": team });
    for follow_hidden in [false, true] {
        let mut class = world(latest(), true);
        class.entity.as_mut().unwrap().space.as_mut().unwrap().follow_hidden = follow_hidden;
        let mut bench = Bench::new(class, 1 << 20);
        let [player, watcher] = ["r", "w"].map(|name| bench.player(name, "red"));
        bench.subscribe(watcher, json!({}));
        bench.publish("e", of_team(0.0, "blue"));
        for x in [0.0, 100.0, 200.0] {
            bench.publish("e", at(&format!("at{x}"), x, 1));
        }
        // As if it were not there.
        bench.subscribe(player, json!({ "area": { "follow": "spy", "radius": 10 } }));
        let around = |x: f64| if follow_hidden { format!("reset at{x}") } else { "reset ".into() };
        assert_eq!(bench.told(player), ["CHANNEL_SUBSCRIBED".to_owned(), around(0.0)]);
        bench.publish("e", of_team(100.0, "blue"));
        let moved = ["view at0", "enter at100"];
        assert_eq!(bench.told(player), if follow_hidden { &moved[..] } else { &[] });
        // It joins the player's team, and is followed.
        bench.publish("e", of_team(200.0, "red"));
        let told = bench.told(player);
        assert!(
            told.contains(&"enter at200".to_owned()) || told.contains(&"enter spy at200".to_owned()),
            "{told:?}"
        );
        // And leaves it: whatever was around it goes, too.
        bench.publish("e", of_team(200.0, "blue"));
        let told = bench.told(player);
        assert_eq!(told.iter().any(|told| told.contains("at200")), !follow_hidden, "{told:?}");
        assert!(told.iter().any(|told| told.starts_with("view") && told.contains("spy")), "{told:?}");
        // The client's own filter hides nothing that is secret.
        bench.publish("e", of_team(100.0, "red"));
        bench.take(player);
        bench.update(player, json!({ "filter": "key != 'spy'" }));
        bench.publish("e", of_team(200.0, "red"));
        let told = bench.told(player);
        assert_eq!(told.last().unwrap(), "enter at200", "{told:?}");
        // What a service narrows does.
        let view = PlayerAction::View { channel: "world:1".into(), view: Some("key != 'spy'".into()) };
        bench.input(Input::Broker(BrokerEvent::Command(PlayerCommand { player: "r".into(), action: view })));
        let told = bench.told(player);
        assert_eq!(told.contains(&"view at200".to_owned()), !follow_hidden, "{told:?}");
    }
}
