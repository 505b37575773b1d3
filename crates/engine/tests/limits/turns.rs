//! No turn of a shard does more than a bounded part of the snapshots that are wanted: everyone else waits only for that.

use std::collections::BTreeMap;

use drawbridge_engine::class::{Delivery, SlowConsumer};
use drawbridge_engine::io::{Input, MessageKind};
use serde_json::{Value, json};

use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::large_world;
use drawbridge_testkit::players::conn;

const ENTITIES: usize = 2_000;
const STEPS: u64 = 4_000;
/// What one entity takes at most, and what a turn does beside snapshots here.
const SLACK: u64 = 2_000;

/// A world that somebody watches a corner of, so that its table is there.
fn bench() -> (Bench, usize) {
    let delivery = Delivery { slow_consumer: SlowConsumer::Latest, ..Delivery::default() };
    let mut bench = Bench::with_settings(vec![large_world(delivery)], |settings| {
        settings.snapshot_steps = STEPS;
        settings.outbound_bytes = 64 << 20;
    });
    bench.store_grid(ENTITIES, |n| n % 2 == 0);
    let watcher = bench.player("watcher", "red");
    bench.subscribe(watcher, json!({ "area": { "x": 0, "y": 0, "radius": 1 } }));
    bench.take(watcher);
    (bench, watcher)
}

/// Passes one message of a player to the engine, and takes no turn.
fn say(bench: &mut Bench, player: usize, message: &Value) {
    let (text, kind) = (message.to_string(), MessageKind::Text);
    let input = Input::Message { conn: conn(player), kind, payload: text.as_bytes(), cost_bytes: 0 };
    bench.engine.handle(bench.now, input);
}

/// Takes the next turn; returns the steps that it took.
fn turn(bench: &mut Bench) -> u64 {
    let before = bench.engine.work();
    bench.engine.handle(bench.now, Input::Tick);
    bench.turn();
    bench.engine.check();
    bench.engine.work() - before
}

/// The keys in what was read of snapshots, in order.
fn keys(read: &[Value]) -> Vec<String> {
    let entities = read.iter().filter_map(|message| message["entities"].as_array()).flatten();
    entities.map(|entity| entity["key"].as_str().unwrap().to_owned()).collect()
}

/// What a client has behind these messages: the hit points of each entity, by key. None enters while it is there.
fn held(read: &[Value]) -> BTreeMap<String, Option<i64>> {
    let mut held = BTreeMap::new();
    for message in read {
        for entity in message["entities"].as_array().into_iter().flatten() {
            let key = entity["key"].as_str().unwrap().to_owned();
            assert_eq!(
                held.insert(key, entity["data"]["hp"].as_i64()),
                None,
                "{} enters twice",
                entity["key"]
            );
        }
        for key in message["keys"].as_array().into_iter().flatten() {
            held.remove(key.as_str().unwrap());
        }
        if message["type"] == "EVENT" {
            held.insert(message["key"].as_str().unwrap().to_owned(), message["data"]["hp"].as_i64());
        }
    }
    held
}

fn subscribe(filter: &str) -> Value {
    json!({ "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "world:1", "filter": filter })
}

#[test]
fn between_the_parts_of_a_snapshot_others_are_served() {
    let (mut bench, watcher) = bench();
    let player = bench.player("alice", "red");
    say(&mut bench, player, &subscribe("data.hp >= 10"));
    let (mut turns, mut read) = (0, Vec::new());
    while !read.iter().any(|message: &Value| message["complete"] == true) {
        let steps = turn(&mut bench);
        assert!(steps <= STEPS + SLACK, "{steps} steps in turn {turns}");
        read.extend(bench.take(player));
        turns += 1;
        bench
            .publish_quietly("e", json!({ "id": "e0", "x": 0, "y": 0, "hp": 1, "public": true, "n": turns }));
        bench.turn();
        assert_eq!(bench.told(watcher), [format!("e0 {turns}")], "in the same turn");
        assert!(turns < 1_000, "the snapshot comes to its end");
    }
    assert!(turns > 5, "{turns}");
    let mut keys = keys(&read);
    let shown = |n: &usize| n.is_multiple_of(2) && n % 100 >= 10;
    let mut expected: Vec<String> = (0..ENTITIES).filter(shown).map(|n| format!("e{n}")).collect();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected, "all that is in view, each once");
    assert_eq!(bench.engine.next_deadline_ms().filter(|at| *at <= bench.now.mono_ms), None);
}

#[test]
fn a_snapshot_that_shows_nothing_takes_as_many_turns() {
    let (mut bench, _) = bench();
    let player = bench.player("alice", "red");
    say(&mut bench, player, &subscribe("data.hp > 1000"));
    let mut turns = 0;
    while bench.engine.next_deadline_ms().is_some_and(|at| at <= bench.now.mono_ms) || turns == 0 {
        assert!(turn(&mut bench) <= STEPS + SLACK);
        turns += 1;
    }
    assert!(turns > 5, "{turns}");
    assert_eq!(bench.told(player), ["CHANNEL_SUBSCRIBED", "reset "]);
}

#[test]
fn snapshots_go_on_one_after_the_other() {
    let (mut bench, _) = bench();
    let players: Vec<usize> = ["alice", "bob", "carol"].map(|name| bench.player(name, "red")).into();
    for (n, player) in players.iter().enumerate() {
        say(&mut bench, *player, &subscribe(&format!("data.hp >= {n}")));
    }
    for _ in 0..20 {
        assert!(turn(&mut bench) <= STEPS + SLACK);
    }
    let shown: Vec<usize> = players.iter().map(|player| keys(&bench.read[*player]).len()).collect();
    assert!(shown.iter().all(|shown| *shown > 50), "everyone has a part: {shown:?}");
    bench.pump();
    for player in players {
        assert_eq!(bench.take(player).last().unwrap()["complete"], true);
    }
}

/// What changes in front of a snapshot is in it, what changes behind it follows.
#[test]
fn changes_between_the_parts_of_a_snapshot_are_not_lost() {
    let (mut bench, _) = bench();
    let player = bench.player("alice", "red");
    say(&mut bench, player, &subscribe("data.hp >= 0"));
    turn(&mut bench);
    let entity = |n: usize, hp: i64| json!({ "id": format!("e{n}"), "x": 0, "y": 0, "hp": hp, "public": true, "n": hp });
    let last = ENTITIES - 2;
    for (n, hp) in [(0, -1), (2, 7), (last, -1), (last - 2, 9), (last - 1, 8), (ENTITIES, 6)] {
        bench.publish_quietly("e", entity(n, hp));
    }
    bench.publish_quietly("remove", json!({ "id": "e4" }));
    bench.publish_quietly("remove", json!({ "id": format!("e{}", last - 4) }));
    bench.pump();
    let held = held(&bench.take(player));
    let hp = |n: usize| held.get(&format!("e{n}")).copied().flatten();
    assert_eq!((hp(0), hp(2), hp(4)), (None, Some(7), None));
    assert_eq!((hp(last), hp(last - 2), hp(last - 4)), (None, Some(9), None));
    assert_eq!((hp(last - 1), hp(ENTITIES)), (Some(8), Some(6)));
    assert_eq!(held.len(), ENTITIES / 2 - 4 + 2);
}

/// The place of an entity that was removed is used again, here by one that the snapshot has sent in another place.
#[test]
fn an_entity_that_comes_back_while_a_snapshot_is_sent_is_there_at_its_end() {
    let (mut bench, _) = bench();
    let player = bench.player("alice", "red");
    say(&mut bench, player, &subscribe("data.hp >= 0"));
    turn(&mut bench);
    let sent = keys(&bench.read[player]);
    let (early, late) = (sent[0].clone(), "e998".to_owned());
    assert!(!sent.contains(&late), "the snapshot has not come to it");
    let entity = |hp: i64| json!({ "id": early, "x": 0, "y": 0, "hp": hp, "public": true, "n": hp });
    for key in [&early, &late] {
        bench.publish_quietly("remove", json!({ "id": key }));
    }
    bench.publish_quietly("e", entity(5));
    turn(&mut bench);
    bench.publish_quietly("e", entity(6));
    bench.pump();
    let held = held(&bench.take(player));
    assert_eq!(held.get(&early).copied().flatten(), Some(6));
    assert_eq!(held.len(), ENTITIES / 2 - 1);
}
