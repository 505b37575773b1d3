//! Every way to a subscription draws from one bucket of the player.

use drawbridge_engine::class::Delivery;
use drawbridge_engine::settings::Rate;
use drawbridge_protocol::template::Template;
use serde_json::{Value, json};

use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::stream;

const SUBSCRIPTIONS: usize = 256;

/// The limits of the defaults, on channels that everyone may subscribe to.
fn bench() -> Bench {
    bench_with_templates(&[])
}

fn bench_with_templates(templates: &[&str]) -> Bench {
    Bench::with_settings(vec![stream(Delivery::default())], |settings| {
        settings.subscribes = Rate { per_second: 20, burst: 40 };
        settings.subscriptions = SUBSCRIPTIONS;
        settings.allow_anonymous = true;
        settings.auto_subscribe = templates.iter().map(|text| Template::parse(text).unwrap()).collect();
    })
}

fn channels(count: usize) -> Value {
    (0..count).map(|n| json!({ "channel": format!("world:{n}") })).collect()
}

/// How many subscriptions `WELCOME` lists, and the errors behind it.
fn welcomed(bench: &mut Bench, player: usize) -> (usize, Vec<Value>) {
    let mut read = bench.take(player);
    assert_eq!(read[0]["type"], "WELCOME");
    let errors = read.split_off(1);
    assert!(errors.iter().all(|error| error["type"] == "ERROR"), "{errors:?}");
    (read[0]["subscriptions"].as_array().unwrap().len(), errors)
}

/// Connects again and again for a second, 26 times as with 250 subscriptions; returns how many were granted.
fn storm(bench: &mut Bench, name: Option<&str>) -> usize {
    let mut granted = 0;
    for _ in 0..26 {
        let player = bench.connect(name, 1, channels(250));
        if bench.closed[player].is_none() {
            granted += welcomed(bench, player).0;
            bench.lost(player);
        }
        bench.pass(38);
    }
    granted
}

#[test]
fn a_reconnect_with_all_that_a_connection_may_hold_passes() {
    let mut bench = bench();
    let first = bench.connect(Some("alice"), 1, channels(SUBSCRIPTIONS));
    assert_eq!(welcomed(&mut bench, first), (SUBSCRIPTIONS, vec![]));
    bench.pass(13_000);
    bench.lost(first);
    let second = bench.connect(Some("alice"), 1, channels(SUBSCRIPTIONS));
    assert_eq!(welcomed(&mut bench, second), (SUBSCRIPTIONS, vec![]));
}

#[test]
fn what_is_over_the_bucket_is_refused_channel_by_channel_behind_welcome() {
    let mut bench = bench();
    let first = bench.connect(Some("alice"), 1, channels(200));
    assert_eq!(welcomed(&mut bench, first).0, 200);
    let second = bench.connect(Some("alice"), 1, channels(60));
    let (granted, errors) = welcomed(&mut bench, second);
    assert_eq!((granted, errors.len()), (56, 4));
    for (n, error) in errors.iter().enumerate() {
        let channel = format!("world:{}", 56 + n);
        assert_eq!(error["code"], "RATE_LIMITED");
        assert_eq!((&error["channel"], &error["retryable"]), (&json!(channel), &json!(true)));
        // One is granted every 50 ms: each is named the moment of its turn.
        assert_eq!(error["retry_after_ms"], 50 * (n + 1));
    }
    let other = bench.connect(Some("bob"), 1, channels(60));
    assert_eq!(welcomed(&mut bench, other), (60, vec![]), "another player has a bucket of theirs");
    // Whoever comes back when the error says is granted one after the other.
    for n in 56..60 {
        bench.pass(50);
        bench.send(second, json!({ "type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": format!("world:{n}") }));
        assert_eq!(bench.told(second), ["CHANNEL_SUBSCRIBED"]);
    }
}

#[test]
fn reconnects_are_no_way_around_it() {
    // The burst, and what comes in a second.
    assert!(storm(&mut bench(), Some("alice")) <= SUBSCRIPTIONS + 20);
}

#[test]
fn new_anonymous_players_of_one_address_share_a_bucket() {
    assert!(storm(&mut bench(), None) <= 8 * (SUBSCRIPTIONS + 20));
    let mut bench = bench();
    for _ in 0..8 {
        let player = bench.connect(None, 1, channels(SUBSCRIPTIONS));
        assert_eq!(welcomed(&mut bench, player), (SUBSCRIPTIONS, vec![]));
    }
    let [ninth, elsewhere] = [1, 2].map(|address| bench.connect(None, address, channels(10)));
    assert_eq!(welcomed(&mut bench, ninth).0, 0);
    assert_eq!(welcomed(&mut bench, elsewhere), (10, vec![]));
}

#[test]
fn a_reconnect_brings_no_new_burst_of_subscribe_requests() {
    let mut bench = bench();
    let mut granted = 0;
    for _ in 0..26 {
        let player = bench.connect(Some("alice"), 1, json!([]));
        for n in 0..40 {
            bench.send(
                player,
                json!({ "type": "CHANNEL_SUBSCRIBE", "id": n, "channel": format!("world:{n}") }),
            );
        }
        granted += bench.told(player).iter().filter(|told| *told == "CHANNEL_SUBSCRIBED").count();
        bench.lost(player);
        bench.pass(38);
    }
    assert!((SUBSCRIPTIONS..=SUBSCRIPTIONS + 20).contains(&granted), "{granted}");
}

#[test]
fn unsubscribing_pays_nothing_back() {
    let mut bench = bench();
    let player = bench.connect(Some("alice"), 1, json!([]));
    bench.take(player);
    let mut granted = 0;
    for n in 0..2_000 {
        bench.send(player, json!({ "type": "CHANNEL_SUBSCRIBE", "id": n, "channel": "world:1" }));
        bench.send(player, json!({ "type": "CHANNEL_UNSUBSCRIBE", "id": n, "channel": "world:1" }));
        granted += bench.told(player).iter().filter(|told| *told == "CHANNEL_SUBSCRIBED").count();
        bench.pass(1);
    }
    assert!(granted <= 40 + 2 * 20 + 1, "{granted}");
}

/// In the bench a token is a team, which fills this template.
#[test]
fn what_a_new_token_fills_is_subscribed_from_the_same_bucket() {
    let mut bench = bench_with_templates(&["world:{team}", "other:{team}"]);
    let player = bench.connect(Some("alice"), 1, json!([]));
    assert_eq!(welcomed(&mut bench, player), (2, vec![]));
    let (mut granted, mut limited) = (0, vec![]);
    for n in 0..500 {
        bench.send(player, json!({ "type": "TOKEN_REFRESH", "id": n, "token": format!("team{}", n % 2) }));
        for message in bench.take(player) {
            granted += usize::from(message["type"] == "CHANNEL_SUBSCRIBED");
            limited.extend((message["type"] == "ERROR").then_some(message));
        }
    }
    assert_eq!(granted, SUBSCRIPTIONS - 2);
    assert!(limited.iter().all(|error| error["code"] == "RATE_LIMITED" && error["retry_after_ms"] == 50));
    assert!(limited.iter().any(|error| error["channel"] == "other:team1"));
    assert_eq!(bench.closed[player], None);
}
