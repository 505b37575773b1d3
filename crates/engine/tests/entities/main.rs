//! Entity channels, areas, view overrides and rates of delivery, one engine and one hub at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod delivery;
mod views;

use drawbridge_engine::class::{Delivery, SlowConsumer};
use drawbridge_engine::io::{BrokerEvent, Epoch, Input, LocalOffset, PlayerAction, PlayerCommand, Position};
use drawbridge_engine::upstream::StoredEntity;
use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::world;
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
