//! What a channel bears is shared: no player can use it up alone.

use drawbridge_engine::class::Delivery;
use serde_json::{Value, json};

use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::{stream, world};

/// A filter of about 450 steps that no index answers; each `n` is another.
fn dear(n: usize) -> String {
    (0..40).map(|at| format!("data.a{at} != {n}")).collect::<Vec<_>>().join(" && ")
}

/// Connects once for each filter until one is refused; returns how many were granted, and the refusal.
fn fill(bench: &mut Bench, name: Option<&str>, area: &Value) -> (usize, Value) {
    for n in 0..1_000 {
        let player = bench.connect(name, 1, json!([]));
        bench.take(player);
        let mut subscribe = json!({ "filter": dear(n) });
        if !area.is_null() {
            subscribe["area"] = area.clone();
        }
        bench.subscribe(player, subscribe);
        let told = bench.take(player).remove(0);
        if told["type"] == "ERROR" {
            return (n, told);
        }
    }
    panic!("nothing was ever refused");
}

fn bench(is_world: bool) -> Bench {
    let class = if is_world { world(Delivery::default(), true) } else { stream(Delivery::default()) };
    Bench::with_settings(vec![class], |settings| settings.allow_anonymous = true)
}

#[test]
fn one_player_takes_a_sixteenth_of_what_a_channel_bears_whatever_the_connections() {
    for (is_world, area) in
        [(false, Value::Null), (true, Value::Null), (true, json!({ "x": 0, "y": 0, "radius": 90 }))]
    {
        let mut bench = bench(is_world);
        let (granted, refusal) = fill(&mut bench, Some("alice"), &area);
        assert!((10..=20).contains(&granted), "{granted}");
        assert_eq!(refusal["code"], "LIMIT_EXCEEDED");
        assert!(refusal["message"].as_str().unwrap().contains("of this player"), "{refusal}");
        // Where the view has two shapes, each filter is at both.
        assert!(bench.engine.stats().filter_work <= 100_000 / 4);
        // Another player's filters still have room.
        assert_eq!(fill(&mut bench, Some("bob"), &area).0, granted);
    }
}

#[test]
fn the_anonymous_players_of_an_address_take_half() {
    let mut bench = bench(false);
    let (granted, refusal) = fill(&mut bench, None, &Value::Null);
    assert!((80..=160).contains(&granted), "{granted}");
    assert!(refusal["message"].as_str().unwrap().contains("of this address"), "{refusal}");
    assert!(fill(&mut bench, Some("bob"), &Value::Null).0 >= 10);
}

#[test]
fn what_an_address_holds_is_free_again_when_its_players_replace_it_or_leave() {
    let mut bench = bench(false);
    let first = bench.read.len();
    let (granted, _) = fill(&mut bench, None, &Value::Null);
    bench.update(first, json!({ "filter": null }));
    bench.take(first);
    let last = bench.connect(None, 1, json!([]));
    bench.subscribe(last, json!({ "filter": dear(5_000) }));
    assert_eq!(bench.told(last).last().map(String::as_str), Some("CHANNEL_SUBSCRIBED"));
    bench.send(last, json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": "world:1" }));
    (first..bench.read.len()).for_each(|player| bench.lost(player));
    assert_eq!(fill(&mut bench, None, &Value::Null).0, granted);
}

#[test]
fn another_filter_takes_the_place_of_the_one_before() {
    let mut bench = bench(false);
    let player = bench.connect(Some("alice"), 1, json!([]));
    bench.subscribe(player, json!({}));
    bench.take(player);
    for n in 0..100 {
        bench.update(player, json!({ "filter": dear(n) }));
        assert_eq!(bench.told(player), ["FILTER_UPDATED"]);
    }
}
