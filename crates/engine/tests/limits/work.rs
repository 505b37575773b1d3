//! Work over entity tables is charged to whoever causes it, and bounded: per connection, and per player.

use drawbridge_engine::class::{Delivery, SlowConsumer};
use drawbridge_engine::io::{BrokerEvent, Input, MessageKind, PlayerAction, PlayerCommand};
use drawbridge_engine::settings::Rate;
use drawbridge_engine::stats::Stats;
use drawbridge_engine::upstream::StoredEntity;
use drawbridge_engine::work::in_steps;
use serde_json::{Value, json};

use drawbridge_testkit::bench::{Bench, entity};
use drawbridge_testkit::classes::{large_world, world};
use drawbridge_testkit::players::conn;

/// The default of the configuration.
pub const WORK: Rate = Rate { per_second: 2_000, burst: 4_000 };

/// A world with so many entities on a grid of 10 by 10, one in each cell, and the limits of the defaults for work.
pub fn bench(entities: usize) -> Bench {
    bench_with(entities, WORK)
}

fn bench_with(entities: usize, work: Rate) -> Bench {
    let delivery = Delivery { slow_consumer: SlowConsumer::Latest, ..Delivery::default() };
    let mut bench = Bench::with_settings(vec![large_world(delivery)], |settings| {
        settings.work = work;
        settings.allow_anonymous = true;
        settings.outbound_bytes = 64 << 20;
    });
    bench.store_grid(entities, |_| true);
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

fn dear(terms: usize) -> String {
    (0..terms).map(|n| format!("data.hp != {}", 200 + n)).collect::<Vec<_>>().join(" && ")
}

#[test]
fn the_first_subscriber_of_a_large_table_is_refused_a_dear_filter_before_it_is_evaluated() {
    for area in [json!(null), json!({ "min": [-1, -1], "max": [10_000, 10_000] })] {
        let mut bench = bench(10_000);
        let player = bench.player("alice", "red");
        let mut request = json!({ "filter": dear(40) });
        if !area.is_null() {
            request["area"] = area;
        }
        let before = bench.engine.stats().work;
        bench.subscribe(player, request);
        let read = bench.take(player);
        let told: Vec<String> = read.iter().map(drawbridge_testkit::bench::short).collect();
        assert_eq!(told, ["CHANNEL_SUBSCRIBED", "LIMIT_EXCEEDED", "CHANNEL_UNSUBSCRIBED"]);
        assert_eq!(read[2]["reason"], "limit");
        let steps = bench.engine.stats().work - before;
        assert!(steps < 10_000 * 80, "the table is read, the filter not evaluated: {steps}");
        bench.subscribe(player, json!({ "filter": "data.hp >= 50" }));
        assert_eq!(bench.told(player)[0], "CHANNEL_SUBSCRIBED");
    }
}

#[test]
fn a_subscription_that_ends_as_too_dear_pays_for_the_table_that_was_read() {
    let mut bench = bench(10_000);
    let player = bench.player("alice", "red");
    let before = bench.engine.stats();
    bench.subscribe(player, json!({ "filter": dear(40) }));
    let after = bench.engine.stats();
    assert!(after.work_charged - before.work_charged >= 10_000 * 72, "{after:?}");
    bench.subscribe(player, json!({ "filter": dear(40) }));
    bench.take(player);
    bench.subscribe(player, json!({ "filter": dear(40) }));
    assert_eq!(bench.told(player), ["RATE_LIMITED"]);
}

#[test]
fn the_first_subscriber_of_a_small_table_may_have_a_dear_filter() {
    let mut bench = bench(100);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "filter": dear(40) }));
    let told = bench.told(player);
    assert!(told[1].starts_with("reset e0 "), "{told:?}");
}

#[test]
fn a_filter_over_large_entities_counts_their_size() {
    let mut bench = bench(0);
    for n in 0..2_000 {
        let data = json!({ "id": format!("e{n}"), "x": n, "y": 0, "hp": 1, "bag": "x".repeat(2_000) });
        bench.stored.entities.push(StoredEntity {
            key: format!("e{n}"),
            age_ms: 0,
            payload: json!({ "event": "e", "data": data }).to_string().into(),
        });
    }
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "area": { "x": 0, "y": 0, "radius": 5 } }));
    bench.take(player);
    bench.update(player, json!({ "filter": dear(10) }));
    assert_eq!(bench.told(player), ["FILTER_UPDATED"], "few are in its area");
    bench.update(player, json!({ "area": null }));
    assert_eq!(bench.told(player), ["LIMIT_EXCEEDED"]);
}

/// What is in the area counts, not what an entity of the table has on average.
#[test]
fn a_filter_over_an_area_counts_the_size_of_what_is_in_it() {
    let mut bench = bench(0);
    for n in 0..5_100 {
        let (x, bag) = if n < 100 { (n, 20_000) } else { (100_000 + n, 1) };
        let data = json!({ "id": format!("e{n}"), "x": x, "y": 0, "hp": 1, "bag": "x".repeat(bag) });
        bench.stored.entities.push(StoredEntity {
            key: format!("e{n}"),
            age_ms: 0,
            payload: json!({ "event": "e", "data": data }).to_string().into(),
        });
    }
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "area": { "x": 0, "y": 0, "radius": 1 } }));
    bench.take(player);
    bench.update(player, json!({ "filter": dear(10), "area": { "x": 0, "y": 0, "radius": 200 } }));
    assert_eq!(bench.told(player), ["LIMIT_EXCEEDED"]);
    bench.update(player, json!({ "filter": dear(10), "area": { "x": 105_000, "y": 0, "radius": 200 } }));
    assert_eq!(bench.told(player)[0], "FILTER_UPDATED", "as many, but small");
}

/// Several requests in one message.
fn send_all(bench: &mut Bench, player: usize, messages: &Value) {
    let (conn, kind) = (conn(player), MessageKind::Text);
    let text = messages.to_string();
    bench.engine.handle(bench.now, Input::Message { conn, kind, payload: text.as_bytes(), cost_bytes: 0 });
}

#[test]
fn what_waits_for_a_subscription_that_is_too_dear_is_answered() {
    let mut bench = bench(10_000);
    let player = bench.player("alice", "red");
    bench.views = None;
    bench.input(Input::Broker(BrokerEvent::Recover { dropped: false, barrier: None }));
    let messages = json!([
        { "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "world:1", "filter": dear(40) },
        { "type": "FILTER_UPDATE", "id": 2, "channel": "world:1", "filter": "data.hp > 1" },
        { "type": "CHANNEL_UNSUBSCRIBE", "id": 3, "channel": "world:1" },
    ]);
    send_all(&mut bench, player, &messages);
    assert_eq!(bench.engine.stats().deferred, 2);
    bench.pump();
    let answered: Vec<_> = bench.take(player).iter().filter_map(|message| message["id"].as_u64()).collect();
    assert_eq!((answered, bench.engine.stats().deferred), (vec![1, 2, 3], 0));
}

#[test]
fn a_filter_is_not_measured_by_a_table_of_a_subscription_before() {
    let mut bench = bench(0);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({}));
    bench.take(player);
    let messages = json!([
        { "type": "CHANNEL_UNSUBSCRIBE", "id": 1, "channel": "world:1" },
        { "type": "CHANNEL_SUBSCRIBE", "id": 2, "channel": "world:1", "filter": dear(40) },
    ]);
    send_all(&mut bench, player, &messages);
    let entity = entity("world:1", json!({ "id": "e1", "bag": "x".repeat(2 << 20) }));
    let table = BrokerEvent::Table { channel: "world:1".into(), entities: [entity].into() };
    bench.engine.handle(bench.now, Input::Broker(table));
    bench.pump();
    assert_eq!(bench.told(player), ["CHANNEL_UNSUBSCRIBED", "CHANNEL_SUBSCRIBED", "reset "]);
}

#[test]
fn requests_that_wait_for_welcome_are_charged_once() {
    let mut bench = bench(2_000);
    let watcher = bench.player("watcher", "red");
    bench.subscribe(watcher, json!({}));
    bench.take(watcher);
    bench.views = None;
    let player = bench.player_who_waits("alice");
    for n in 0..3 {
        bench.subscribe(player, json!({ "filter": format!("data.hp >= {n}") }));
    }
    let Stats { work, work_charged, .. } = bench.engine.stats();
    bench.answer_views(Ok(&[]));
    let after = bench.engine.stats();
    assert!(after.work > work, "the requests are carried out");
    assert!(after.work_charged - work_charged <= after.work - work, "{after:?}");
}

#[test]
fn a_refresh_behind_which_requests_wait_is_charged_once() {
    let mut bench = bench(2_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "filter": "data.team == 'red' || data.public" }));
    bench.take(player);
    let Stats { work, work_charged, .. } = bench.engine.stats();
    for message in [
        json!({ "type": "TOKEN_REFRESH", "id": 1, "token": "blue" }),
        json!({ "type": "FILTER_UPDATE", "id": 2, "channel": "world:1", "filter": "data.hp >= 3" }),
    ] {
        let (conn, kind) = (drawbridge_testkit::players::conn(player), MessageKind::Text);
        let text = message.to_string();
        bench
            .engine
            .handle(bench.now, Input::Message { conn, kind, payload: text.as_bytes(), cost_bytes: 0 });
    }
    bench.pump();
    assert_eq!(bench.told(player).iter().filter(|told| *told == "FILTER_UPDATED").count(), 1);
    let after = bench.engine.stats();
    assert!(after.work_charged > work_charged);
    assert!(after.work_charged - work_charged <= after.work - work, "{after:?}");
}

#[test]
fn a_snapshot_that_a_service_starts_again_is_on_nobodys_account() {
    let mut bench = bench(10_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({}));
    bench.take(player);
    bench.pass(60_000);
    // Redis begins a snapshot, which the socket does not take; a service changes the view meanwhile.
    bench.blocked[player] = true;
    bench.break_link();
    let charged = bench.engine.stats().work_charged;
    let action = PlayerAction::View { channel: "world:1".into(), view: Some("data.hp >= 10".into()) };
    bench.input(Input::Broker(BrokerEvent::Command(PlayerCommand { player: "alice".into(), action })));
    bench.unblock(player);
    assert!(bench.told(player).iter().any(|told| told.starts_with("reset")));
    assert_eq!(bench.engine.stats().work_charged, charged);
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

/// Frames cannot be dropped when the socket does not take them, so a snapshot is sent in parts that fit into the outbox.
#[test]
fn a_snapshot_for_a_client_of_long_messages_stays_within_its_outbox() {
    const OUTBOUND_BYTES: usize = 64 * 1024;
    let mut class = world(Delivery { slow_consumer: SlowConsumer::Disconnect, ..Delivery::default() }, true);
    class.entity.as_mut().unwrap().max = 20_000;
    class.entity.as_mut().unwrap().ttl_ms = 1_000_000_000;
    let mut bench = Bench::with_settings(vec![class], |settings| settings.outbound_bytes = OUTBOUND_BYTES);
    for n in 0..2_000 {
        let data = json!({ "id": format!("e{n}"), "x": n, "y": 0, "public": true, "bag": "x".repeat(100) });
        bench.stored.entities.push(StoredEntity {
            key: format!("e{n}"),
            age_ms: 0,
            payload: json!({ "event": "e", "data": data }).to_string().into(),
        });
    }
    let player = bench.connect_with(Some("alice"), 1, json!({ "max_message_bytes": 16 << 20 }));
    bench.take(player);
    bench.blocked[player] = true;
    bench.subscribe(player, json!({}));
    assert_eq!(bench.closed[player], None);
    let waits = bench.engine.stats().frame_bytes as usize;
    assert!(waits <= OUTBOUND_BYTES, "{waits}");
    bench.unblock(player);
    let entities: usize =
        bench.take(player).iter().filter_map(|message| message["entities"].as_array()).map(Vec::len).sum();
    assert_eq!((bench.closed[player], entities), (None, 2_000));
}

/// So that no client makes the shard enqueue thousands of changes at once.
#[test]
fn a_view_that_changes_for_thousands_of_entities_is_a_new_snapshot_that_its_client_pays_for() {
    let mut bench = bench(10_000);
    let player = bench.player("alice", "red");
    bench.subscribe(player, json!({ "filter": "data.hp >= 50" }));
    bench.take(player);
    bench.pass(60_000);
    let before = bench.engine.stats();
    bench.update(player, json!({ "filter": "data.hp < 50" }));
    let after = bench.engine.stats();
    let read = bench.take(player);
    assert_eq!(read[0]["type"], "FILTER_UPDATED");
    assert_eq!((&read[1]["type"], &read[1]["reset"]), (&json!("VIEW_ENTER"), &json!(true)));
    assert!(read[1..].iter().all(|message| message["type"] == "VIEW_ENTER"));
    let entities = read[1..].iter().flat_map(|message| message["entities"].as_array().unwrap());
    let health: Vec<i64> = entities.map(|entity| entity["data"]["hp"].as_i64().unwrap()).collect();
    assert!(health.len() > 2_048 && health.iter().all(|hp| *hp < 50), "{}", health.len());
    assert_eq!(after.work - before.work, after.work_charged - before.work_charged);
}
