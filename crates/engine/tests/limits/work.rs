//! Work over entity tables is charged to whoever causes it, and bounded: per connection, and per player.

use drawbridge_engine::class::{Delivery, SlowConsumer};
use drawbridge_engine::settings::Rate;
use drawbridge_engine::stats::Stats;
use drawbridge_engine::upstream::StoredEntity;
use drawbridge_engine::work::in_steps;
use serde_json::{Value, json};

use crate::bench::{Bench, world};

/// The default of the configuration.
pub const WORK: Rate = Rate { per_second: 2_000, burst: 4_000 };

/// A world with so many entities on a grid of 10 by 10, one in each cell, and the limits of the defaults for work.
pub fn bench(entities: usize) -> Bench {
    bench_with(entities, WORK)
}

fn bench_with(entities: usize, work: Rate) -> Bench {
    let delivery = Delivery { slow_consumer: SlowConsumer::Latest, ..Delivery::default() };
    let mut class = world(delivery, true);
    let rules = class.entity.as_mut().unwrap();
    rules.max = 20_000;
    rules.ttl_ms = 1_000_000_000;
    rules.space.as_mut().unwrap().max_radius = None;
    let mut bench = Bench::with_settings(vec![class], |settings| {
        settings.work = work;
        settings.allow_anonymous = true;
        settings.outbound_bytes = 64 << 20;
    });
    let width = (entities as f64).sqrt().ceil() as usize;
    for n in 0..entities {
        let (x, y) = (n % width * 10, n / width * 10);
        let data = json!({ "id": format!("e{n}"), "x": x, "y": y, "hp": n % 100, "public": true });
        bench.stored.entities.push(StoredEntity {
            key: format!("e{n}"),
            age_ms: 0,
            payload: json!({ "event": "e", "data": data }).to_string().into(),
        });
    }
    bench
}

fn has(bench: &mut Bench, player: usize, code: &str) -> bool {
    bench.told(player).iter().any(|told| told == code)
}

/// Sends what `request` says 20 times a second for so many seconds; returns the steps that it cost and how many were
/// refused.
fn storm(
    bench: &mut Bench,
    seconds: u64,
    mut request: impl FnMut(&mut Bench, u64) -> Vec<usize>,
) -> (u64, usize) {
    let before = bench.engine.stats().work;
    let mut refused = 0;
    for n in 0..20 * seconds {
        for player in request(bench, n) {
            refused += bench.told(player).iter().filter(|told| *told == "RATE_LIMITED").count();
        }
        bench.pass(50);
    }
    (bench.engine.stats().work - before, refused)
}

/// What may be done in so many seconds, when the dearest of the requests costs this much.
fn bound(seconds: u64, dearest: u64) -> u64 {
    let rate = in_steps(WORK);
    rate.burst + seconds * rate.per_second + dearest
}

/// About what one request costs that examines a whole table, shows it and hides it.
const WHOLE: u64 = 2_000 * 300;

/// Lets a player look at the whole table until more is owed than the burst.
fn owe(bench: &mut Bench, player: usize) {
    for n in 0..8 {
        bench.update(player, json!({ "filter": format!("data.hp >= {n}") }));
        bench.take(player);
        bench.subscribe(player, json!({}));
        bench.take(player);
    }
}

#[test]
fn a_new_filter_is_paid_for_however_it_comes() {
    for kind in ["CHANNEL_SUBSCRIBE", "FILTER_UPDATE"] {
        let mut bench = bench(2_000);
        let player = bench.player("alice", "red");
        bench.subscribe(player, json!({}));
        bench.take(player);
        let (steps, refused) = storm(&mut bench, 5, |bench, n| {
            let filter = format!("data.hp >= {}", n % 2 * 50);
            bench.send(player, json!({ "type": kind, "id": n, "channel": "world:1", "filter": filter }));
            vec![player]
        });
        assert!(steps <= bound(5, WHOLE), "{kind}: {steps}");
        assert!(refused > 30, "{kind}: {refused}");
    }
}

#[test]
fn a_refused_request_changes_nothing_and_is_granted_when_the_error_says() {
    let mut bench = bench(10_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({}));
    bench.take(player);
    owe(&mut bench, player);
    bench.update(player, json!({ "filter": "key == 'e1'" }));
    let error = bench.take(player).pop().unwrap();
    assert_eq!((&error["code"], &error["retryable"]), (&json!("RATE_LIMITED"), &json!(true)));
    assert_eq!((&error["id"], &error["channel"]), (&json!(2), &json!("world:1")));
    let retry_after_ms = error["retry_after_ms"].as_u64().unwrap();
    assert!(retry_after_ms < 10_000, "{error}");
    bench.publish("e", json!({ "id": "e5", "x": 1, "y": 1, "n": 7, "hp": 99, "public": true }));
    assert_eq!(bench.told(player), ["e5 7"], "it sees what it saw");
    bench.pass(retry_after_ms - 1);
    bench.update(player, json!({ "filter": "key == 'e1'" }));
    assert_eq!(bench.told(player), ["RATE_LIMITED"]);
    bench.pass(1);
    bench.update(player, json!({ "filter": "key == 'e1'" }));
    assert_eq!(bench.told(player)[0], "FILTER_UPDATED");
}

#[test]
fn a_token_whose_view_differs_is_refused_before_it_is_verified_and_applied_whole_otherwise() {
    let mut bench = bench(2_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "filter": "data.team == 'red' || data.public" }));
    bench.take(player);
    let (steps, refused) = storm(&mut bench, 5, |bench, n| {
        bench.send(player, json!({ "type": "TOKEN_REFRESH", "id": n, "token": format!("team{}", n % 2) }));
        vec![player]
    });
    assert!(steps <= bound(5, WHOLE), "{steps}");
    assert!(refused > 0, "{refused}");
}

/// The same view again costs nothing but the message.
#[test]
fn a_token_that_changes_no_view_examines_nothing() {
    let mut bench = bench(2_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "area": { "min": [-1, -1], "max": [10_000, 10_000] } }));
    bench.take(player);
    let (steps, refused) = storm(&mut bench, 5, |bench, n| {
        bench.send(player, json!({ "type": "TOKEN_REFRESH", "id": n, "token": "red" }));
        vec![player]
    });
    assert!(steps < 100 * 200, "{steps}");
    assert_eq!(refused, 0);
}

#[test]
fn a_huge_box_that_moves_is_paid_for() {
    let mut bench = bench(2_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "area": { "x": 0, "y": 0, "radius": 1 } }));
    bench.take(player);
    let (steps, refused) = storm(&mut bench, 5, |bench, n| {
        let x = (n % 2 * 10_000) as f64;
        bench.update(player, json!({ "area": { "min": [x, -1], "max": [x + 1_000.0, 1_000] } }));
        vec![player]
    });
    assert!(steps <= bound(5, WHOLE), "{steps}");
    assert!(refused > 40, "{refused}");
}

#[test]
fn a_camera_over_a_world_of_normal_density_is_never_refused() {
    let mut bench = bench(10_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "area": { "x": 0, "y": 500, "radius": 100 } }));
    bench.take(player);
    let (steps, refused) = storm(&mut bench, 20, |bench, n| {
        // 300 entities are in sight, and ten units, which bring another row, are passed each time.
        bench.update(player, json!({ "area": { "x": n % 100 * 10, "y": 500, "radius": 100 } }));
        vec![player]
    });
    assert_eq!(refused, 0);
    assert!(steps > 20 * 20 * 300, "{steps}");
}

#[test]
fn unsubscribing_and_new_connections_are_no_way_around_it() {
    let mut bench = bench(2_000);
    let watcher = bench.player("watcher", "red");
    bench.subscribe(watcher, json!({}));
    let (steps, refused) = storm(&mut bench, 5, |bench, n| {
        let world = json!([{ "channel": "world:1", "filter": format!("data.hp >= {n}") }]);
        let player = bench.connect(Some("alice"), 1, world);
        bench.send(player, json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": "world:1" }));
        bench.subscribe(player, json!({}));
        bench.send(player, json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": "world:1" }));
        vec![player]
    });
    assert!(steps <= bound(5, 3 * WHOLE), "{steps}");
    assert!(refused > 100, "{refused}");
}

#[test]
fn the_last_who_leaves_a_world_pays_for_the_table_when_it_comes_back() {
    let mut bench = bench(2_000);
    let player = bench.player("alice", "red");
    let (steps, refused) = storm(&mut bench, 5, |bench, _| {
        bench.subscribe(player, json!({}));
        bench.send(player, json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": "world:1" }));
        vec![player]
    });
    assert!(steps <= bound(5, WHOLE), "{steps}");
    assert!(refused > 50, "{refused}");
    let Stats { work, work_charged, .. } = bench.engine.stats();
    assert!(work - work_charged <= 100 * 200, "{work} of which {work_charged} were charged");
}

#[test]
fn connections_of_one_player_owe_together_and_other_players_do_not() {
    let mut bench = bench(10_000);
    let [first, second, other] = ["alice", "alice", "bob"].map(|name| bench.player(name, "red"));
    for player in [first, second, other] {
        bench.subscribe(player, json!({ "area": { "x": 0, "y": 0, "radius": 1 } }));
        bench.take(player);
    }
    owe(&mut bench, first);
    bench.update(second, json!({ "filter": "key == 'e1'" }));
    assert!(has(&mut bench, second, "RATE_LIMITED"));
    bench.update(other, json!({ "filter": "key == 'e1'" }));
    assert!(has(&mut bench, other, "FILTER_UPDATED"));
}

#[test]
fn new_anonymous_players_of_one_address_owe_together() {
    let rate = Rate { per_second: WORK.per_second / 8, burst: WORK.burst / 8 };
    let mut bench = bench_with(2_000, rate);
    let watcher = bench.player("watcher", "red");
    bench.subscribe(watcher, json!({}));
    let (steps, refused) = storm(&mut bench, 5, |bench, n| {
        let world = json!([{ "channel": "world:1", "filter": format!("data.hp >= {n}") }]);
        vec![bench.connect(None, 1, world)]
    });
    // Eight players' worth, and no more.
    assert!(steps <= bound(5, WHOLE), "{steps}");
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_filter_that_would_hold_everybody_up_is_refused_over_a_large_table_alone() {
    let mut bench = bench(10_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "area": { "x": 0, "y": 0, "radius": 50 } }));
    bench.take(player);
    let dear = (0..40).map(|n| format!("data.hp != {}", 200 + n)).collect::<Vec<_>>().join(" && ");
    bench.update(player, json!({ "filter": dear }));
    assert_eq!(bench.told(player), ["FILTER_UPDATED"], "little is in its area");
    bench.update(player, json!({ "area": null }));
    let error = bench.take(player).pop().unwrap();
    assert_eq!((&error["code"], &error["retryable"]), (&json!("LIMIT_EXCEEDED"), &json!(false)));
    assert!(error["message"].as_str().unwrap().contains("10000 entities"), "{error}");
}

#[test]
fn what_services_and_redis_cause_is_on_nobodys_account() {
    let mut bench = bench(2_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({}));
    bench.take(player);
    bench.pass(60_000);
    let charged = bench.engine.stats().work_charged;
    for _ in 0..20 {
        bench.break_link();
        let told: Vec<Value> = bench.take(player);
        assert!(told.iter().any(|message| message["type"] == "VIEW_ENTER"), "the table is sent again");
    }
    assert_eq!(bench.engine.stats().work_charged, charged);
    bench.update(player, json!({ "filter": "key == 'e1'" }));
    assert!(has(&mut bench, player, "FILTER_UPDATED"));
}
