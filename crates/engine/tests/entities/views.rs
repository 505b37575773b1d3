//! View overrides: that services narrow views at once, and that nothing is shown before they are known.

use drawbridge_engine::io::{BarrierToken, BrokerEvent, BrokerStatus, Input, PlayerAction, PlayerCommand};
use drawbridge_engine::upstream::{LinkId, StoredEntity};
use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::{stream, world};
use drawbridge_testkit::players::conn;
use serde_json::json;

use crate::{at, latest};

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
