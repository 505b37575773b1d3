//! Presence: who is present when, what is written to the store, what is read, and who is notified. One engine and its
//! hub, a store that does as the test says, virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use drawbridge_engine::class::{Class, Presence};
use drawbridge_engine::expr::Vars;
use drawbridge_engine::io::{BrokerEvent, BrokerStatus, Input, PublishFailure, SessionHash, WriteKind};
use drawbridge_engine::settings::Rate;
use drawbridge_testkit::bench::Bench;
use drawbridge_testkit::classes::{open, rule};
use serde_json::{Value, json};

const ROOM: &str = "room:1";
/// Longer than a window.
const WINDOW: u64 = 1_000;

fn class(presence: Presence) -> Class {
    Class { presence, patterns: true, ..open("room:{room}") }
}

fn bench(presence: Presence) -> Bench {
    Bench::new(class(presence), 1 << 20)
}

fn about(kind: &str, channel: &str) -> Value {
    json!({ "type": kind, "id": 7, "channel": channel })
}

fn subscribe(bench: &mut Bench, player: usize, channel: &str) {
    bench.send(player, about("CHANNEL_SUBSCRIBE", channel));
    bench.pass(1);
}

fn join(bench: &mut Bench, name: &str) -> usize {
    let player = bench.player(name, "red");
    subscribe(bench, player, ROOM);
    assert_eq!(bench.take(player)[0]["type"], "CHANNEL_SUBSCRIBED");
    player
}

/// The notifications of a player, each as "+alice bob -carol", with "!" for a reset.
fn changes(bench: &mut Bench, player: usize) -> Vec<String> {
    let names = |list: &Value, sign: &str| {
        let names: Vec<&str> = list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        if names.is_empty() { String::new() } else { format!("{sign}{}", names.join(" ")) }
    };
    let changed = |message: &Value| {
        assert_eq!(message["channel"], ROOM);
        let reset = if message["reset"] == true { "!" } else { "" };
        format!("{}{}{reset}", names(&message["joined"], "+"), names(&message["left"], "-"))
    };
    let messages = bench.take(player);
    messages.iter().filter(|message| message["type"] == "PRESENCE_CHANGED").map(changed).collect()
}

fn present(bench: &Bench) -> Vec<(String, usize)> {
    bench.presence.players(ROOM)
}

/// Whether each write says that its session is present.
fn written(bench: &mut Bench) -> Vec<bool> {
    let writes = std::mem::take(&mut bench.presence_writes);
    let is_present = |write| match write {
        WriteKind::Presence { is_present, .. } => is_present,
        other => panic!("{other:?}"),
    };
    writes.into_iter().map(is_present).collect()
}

fn get(bench: &mut Bench, player: usize, rest: Value) -> Value {
    let mut message = about("PRESENCE_GET", ROOM);
    message.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    bench.send(player, message);
    let mut messages = bench.take(player);
    messages.retain(|message| message["type"] != "PRESENCE_CHANGED" && message["type"] != "STATUS");
    assert!(messages.len() <= 1, "{messages:?}");
    messages.pop().unwrap_or_default()
}

fn status(bench: &mut Bench, status: BrokerStatus) {
    bench.input(Input::Broker(BrokerEvent::Status(status)));
}

#[test]
fn a_session_is_present_while_it_is_subscribed_by_name() {
    let mut bench = bench(Presence::Query);
    let alice = join(&mut bench, "alice");
    let again = join(&mut bench, "alice");
    assert_eq!(present(&bench), [("alice".to_owned(), 2)]);
    // Not by a pattern, and not on a channel of another class.
    let bob = bench.player("bob", "red");
    subscribe(&mut bench, bob, "room:*");
    assert_eq!(present(&bench), [("alice".to_owned(), 2)]);
    bench.send(alice, about("CHANNEL_UNSUBSCRIBE", ROOM));
    bench.pass(1);
    assert_eq!(present(&bench), [("alice".to_owned(), 1)]);
    subscribe(&mut bench, alice, ROOM);
    bench.lost(again);
    bench.lost(alice);
    bench.pass(1);
    assert!(bench.presence.is_empty());
    assert_eq!(written(&mut bench), [true, true, false, true, false, false]);
    let stats = bench.engine.stats();
    assert_eq!((stats.present, stats.presence_waiting), (0, 0));
}

#[test]
fn nobody_is_counted_on_a_class_without_presence() {
    let mut bench = bench(Presence::Off);
    let alice = join(&mut bench, "alice");
    assert_eq!(get(&mut bench, alice, json!({}))["code"], "UNSUPPORTED");
    assert!(bench.presence_writes.is_empty());
}

#[test]
fn a_detached_session_stays_present() {
    let classes = vec![class(Presence::Notify)];
    let mut bench = Bench::with_settings(classes, |settings| settings.resume_window_ms = 10 * WINDOW);
    let alice = join(&mut bench, "alice");
    bench.lost(alice);
    bench.pass(9 * WINDOW);
    assert_eq!(present(&bench), [("alice".to_owned(), 1)]);
    assert_eq!(written(&mut bench), [true]);
    bench.pass(WINDOW + 1);
    assert!(bench.presence.is_empty());
}

#[test]
fn an_outage_is_survived_by_the_newest_state_alone() {
    let mut bench = bench(Presence::Query);
    let (alice, bob) = (join(&mut bench, "alice"), join(&mut bench, "bob"));
    written(&mut bench);
    status(&mut bench, BrokerStatus::Degraded);
    // Who comes and leaves meanwhile leaves nothing; who was there and comes back is written once.
    for _ in 0..50 {
        let carol = join(&mut bench, "carol");
        bench.lost(carol);
        bench.send(alice, about("CHANNEL_UNSUBSCRIBE", ROOM));
        subscribe(&mut bench, alice, ROOM);
    }
    bench.lost(bob);
    let _dave = join(&mut bench, "dave");
    bench.pass(60_000);
    assert_eq!(bench.engine.stats().presence_waiting, 3);
    assert!(written(&mut bench).is_empty());
    status(&mut bench, BrokerStatus::Ok);
    bench.pass(1_000);
    assert_eq!(present(&bench), [("alice".to_owned(), 1), ("dave".to_owned(), 1)]);
    assert_eq!((written(&mut bench).len(), bench.engine.stats().presence_waiting), (3, 0));
}

#[test]
fn what_the_store_did_not_take_is_written_again() {
    for failure in [PublishFailure::NotDone, PublishFailure::Unknown, PublishFailure::Refused("OOM".into())] {
        let mut bench = bench(Presence::Query);
        bench.presence_fails = Some(failure);
        let alice = join(&mut bench, "alice");
        bench.presence_fails = None;
        bench.pass(10_000);
        assert_eq!(present(&bench), [("alice".to_owned(), 1)]);
        bench.lost(alice);
        bench.pass(1);
        assert!(bench.presence.is_empty());
    }
}

#[test]
fn thousands_who_leave_at_once_are_written_in_parts() {
    let mut bench = bench(Presence::Query);
    let players: Vec<usize> = (0..600).map(|n| join(&mut bench, &format!("p{n}"))).collect();
    written(&mut bench);
    bench.presence_fails = Some(PublishFailure::NotDone);
    players.into_iter().for_each(|player| bench.lost(player));
    bench.pass(1);
    let at_once = written(&mut bench).len();
    bench.presence_fails = None;
    let mut turns = 0;
    while !bench.presence.is_empty() {
        bench.pass(5);
        assert!(written(&mut bench).len() <= 256, "in one turn");
        turns += 1;
        assert!(turns < 2_000);
    }
    assert!((1..=512).contains(&at_once), "{at_once}");
    bench.pass(10_000);
    assert_eq!(bench.engine.stats().presence_waiting, 0);
}

#[test]
fn a_page_has_so_many_players_and_bytes_and_says_where_the_next_begins() {
    let mut bench = bench(Presence::Query);
    let alice = join(&mut bench, "alice");
    for n in 0..30 {
        join(&mut bench, &format!("p{n:02}"));
    }
    let page = get(&mut bench, alice, json!({ "limit": 2 }));
    let players = json!([{ "player": "alice", "connections": 1 }, { "player": "p00", "connections": 1 }]);
    assert_eq!(
        page,
        json!({ "type": "PRESENCE", "id": 7, "channel": ROOM, "players": players, "total": 31, "next": "p00" })
    );
    let page = get(&mut bench, alice, json!({ "limit": 5_000, "after": "p27" }));
    assert_eq!((page["players"].as_array().unwrap().len(), page.get("next")), (2, None));
    // A thousand names of 60 bytes are too many for one message.
    let mut found = Vec::new();
    let mut bench = self::bench(Presence::Query);
    let alice = join(&mut bench, "alice");
    for n in 0..1_000 {
        let (channel, player) = (ROOM.into(), format!("{n:060}").into());
        let (session, generation, is_present, notify) = (SessionHash(n), 1, true, false);
        bench.presence.write(
            &"n1".into(),
            &WriteKind::Presence { channel, player, session, generation, is_present, notify },
        );
    }
    let mut after = Value::Null;
    for _ in 0..10 {
        bench.send(alice, json!({ "type": "PRESENCE_GET", "id": 7, "channel": ROOM, "after": after }));
        let page = bench.take(alice).pop().unwrap();
        assert!(page.to_string().len() <= 32 * 1024);
        found.extend(page["players"].as_array().unwrap().iter().map(|one| one["player"].clone()));
        assert_eq!(page["total"], 1_001);
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(found.len(), 1_001);
    assert!(found.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
}

#[test]
fn the_right_is_the_classs_rule_or_to_be_subscribed() {
    let with_rule = |text: &str| Class {
        presence_rule: Some(rule(text, Vars::SUBSCRIBE_RULE)),
        ..class(Presence::Query)
    };
    let closed = Class {
        subscribe: rule("false", Vars::SUBSCRIBE_RULE),
        presence: Presence::Query,
        ..open("closed:{x}")
    };
    let mut bench = Bench::with_classes(vec![class(Presence::Query), closed], 1 << 20);
    let (alice, bob) = (join(&mut bench, "alice"), bench.player("bob", "red"));
    let mut code = |player: usize, channel: &str| {
        bench.send(player, about("PRESENCE_GET", channel));
        let answer = bench.take(player).pop().unwrap();
        answer["code"].as_str().unwrap_or("ok").to_owned()
    };
    assert_eq!((code(alice, ROOM), code(bob, ROOM)), ("ok".to_owned(), "FORBIDDEN".to_owned()));
    assert_eq!(code(alice, "room:2"), "FORBIDDEN");
    assert_eq!(code(alice, "none:2"), "FORBIDDEN");
    assert_eq!(code(alice, "drawbridge:nodes"), "FORBIDDEN");
    assert_eq!(code(alice, "room:*"), "CHANNEL_INVALID");
    // By a pattern, as far as it shows the channel.
    subscribe(&mut bench, bob, "room:*");
    bench.take(bob);
    let mut code = |player: usize, channel: &str| {
        bench.send(player, about("PRESENCE_GET", channel));
        let answer = bench.take(player).pop().unwrap();
        answer["code"].as_str().unwrap_or("ok").to_owned()
    };
    assert_eq!((code(bob, ROOM), code(bob, "closed:1")), ("ok".to_owned(), "FORBIDDEN".to_owned()));
    for (text, expected) in [("me.team == 'blue'", "FORBIDDEN"), ("params.room == '1'", "ok")] {
        let mut bench = Bench::new(with_rule(text), 1 << 20);
        let alice = join(&mut bench, "alice");
        assert_eq!(get(&mut bench, alice, json!({}))["code"].as_str().unwrap_or("ok"), expected, "{text}");
    }
    let mut bench = Bench::new(with_rule("true"), 1 << 20);
    let stranger = bench.player("eve", "red");
    assert_eq!(get(&mut bench, stranger, json!({}))["total"], 0);
}

#[test]
fn a_read_comes_behind_the_sessions_own_write_and_is_shared() {
    let mut bench = bench(Presence::Query);
    let alice = join(&mut bench, "alice");
    bench.presence_answers = false;
    // The client sends both at once, and finds itself.
    bench.presence_fails = Some(PublishFailure::NotDone);
    let bob = bench.player("bob", "red");
    bench.send(bob, about("CHANNEL_SUBSCRIBE", ROOM));
    bench.send(bob, about("PRESENCE_GET", ROOM));
    assert!(bench.presence_asked.is_empty(), "bob is not written yet");
    bench.presence_fails = None;
    bench.pass(2_000);
    assert_eq!(bench.presence_asked.len(), 1);
    // While that read is out, others wait for the next one, all together.
    let carol = join(&mut bench, "carol");
    for player in [alice, carol, alice] {
        bench.send(player, about("PRESENCE_GET", ROOM));
    }
    assert_eq!((bench.presence_asked.len(), bench.engine.stats().presence_reads), (1, 3));
    bench.presence_answers = true;
    bench.answer_presence(0);
    let totals = |bench: &mut Bench, player| {
        bench
            .take(player)
            .iter()
            .filter(|answer| answer["type"] == "PRESENCE")
            .map(|page| page["total"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(totals(&mut bench, bob), [3]);
    assert_eq!((totals(&mut bench, carol), totals(&mut bench, alice)), (vec![3], vec![3, 3]));
    assert_eq!(bench.presence_asked.len(), 3, "one for two, and one for alice's second request");
    assert_eq!(bench.engine.stats().presence_reads, 0);
}

#[test]
fn without_an_answer_the_broker_is_unavailable_and_the_query_withdrawn() {
    let mut bench = bench(Presence::Query);
    let alice = join(&mut bench, "alice");
    bench.presence_answers = false;
    assert_eq!(get(&mut bench, alice, json!({})), Value::Null);
    bench.pass(4_999);
    assert!(bench.take(alice).is_empty());
    bench.pass(1);
    let answer = bench.take(alice).pop().unwrap();
    assert_eq!(
        (&answer["code"], &answer["outcome"], &answer["channel"]),
        (&json!("BROKER_UNAVAILABLE"), &json!("not_done"), &json!(ROOM))
    );
    assert_eq!(bench.withdrawn, [bench.presence_asked[0].0]);
    // A late answer is dropped, and the session may send another request.
    bench.answer_presence(0);
    assert!(bench.take(alice).is_empty());
    bench.presence_answers = true;
    assert_eq!(get(&mut bench, alice, json!({}))["total"], 1);
    // A session that ends withdraws its query.
    bench.presence_answers = false;
    get(&mut bench, alice, json!({}));
    bench.lost(alice);
    assert_eq!((bench.withdrawn.len(), bench.engine.stats().presence_reads), (2, 0));
}

#[test]
fn subscribers_are_notified_of_others_together() {
    let mut bench = bench(Presence::Notify);
    let alice = join(&mut bench, "alice");
    bench.pass(WINDOW);
    assert!(changes(&mut bench, alice).is_empty(), "only herself");
    let (bob, carol) = (join(&mut bench, "bob"), join(&mut bench, "carol"));
    let dave = join(&mut bench, "dave");
    bench.lost(dave);
    assert!(changes(&mut bench, alice).is_empty(), "the window is open");
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, alice), ["+bob carol"]);
    assert_eq!(changes(&mut bench, bob), ["+carol"]);
    assert!(changes(&mut bench, carol).is_empty(), "bob was there before");
    // A second connection of a player is no news, and the last one's end is.
    let again = join(&mut bench, "bob");
    bench.lost(bob);
    bench.pass(WINDOW);
    assert!(changes(&mut bench, alice).is_empty());
    bench.lost(again);
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, alice), ["-bob"]);
    assert_eq!(bench.engine.stats().presence_notices, 4);
    bench.lost(alice);
    bench.lost(carol);
    bench.pass(WINDOW);
    let stats = bench.engine.stats();
    assert_eq!((stats.present, stats.targets), (0, 0));
}

#[test]
fn a_window_is_no_shorter_than_the_classs_batch() {
    let mut class = class(Presence::Notify);
    class.delivery.batch_ms = 2_000;
    let mut bench = Bench::new(class, 1 << 20);
    let alice = join(&mut bench, "alice");
    join(&mut bench, "bob");
    bench.pass(1_900);
    assert!(changes(&mut bench, alice).is_empty());
    bench.pass(100);
    assert_eq!(changes(&mut bench, alice), ["+bob"]);
}

#[test]
fn a_class_without_notify_notifies_nobody() {
    let mut bench = bench(Presence::Query);
    let alice = join(&mut bench, "alice");
    join(&mut bench, "bob");
    bench.pass(WINDOW);
    assert!(changes(&mut bench, alice).is_empty());
}

/// All of it, over some seconds and in parts; who leaves meanwhile stays away.
#[test]
fn what_the_store_has_lost_is_written_again() {
    let mut bench = bench(Presence::Query);
    let players: Vec<usize> = (0..300).map(|n| join(&mut bench, &format!("p{n:03}"))).collect();
    written(&mut bench);
    bench.presence.clear();
    bench.input(Input::Broker(BrokerEvent::StoreLost));
    bench.lost(players[7]);
    for player in [299, 3] {
        bench.lost(players[player]);
    }
    let late = join(&mut bench, "late");
    for _ in 0..60 {
        bench.pass(100);
        assert!(written(&mut bench).len() <= 256);
    }
    let there = present(&bench);
    assert_eq!(there.len(), 298);
    assert!(!there.iter().any(|(player, _)| ["p007", "p299", "p003"].contains(&player.as_str())));
    bench.lost(late);
    assert_eq!(bench.engine.stats().presence_waiting, 0);
}

/// A client's own view, and the class's, hide events and not players.
#[test]
fn views_hide_no_players() {
    let mut bench =
        Bench::new(Class { view: Some(rule("false", Vars::VIEW_RULE)), ..class(Presence::Notify) }, 1 << 20);
    let alice = join(&mut bench, "alice");
    join(&mut bench, "bob");
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, alice), ["+bob"]);
}

#[test]
fn behind_a_break_subscribers_are_told_to_ask_again() {
    let mut bench = bench(Presence::Notify);
    let alice = join(&mut bench, "alice");
    bench.break_link();
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, alice), ["!"]);
    join(&mut bench, "bob");
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, alice), ["+bob"]);
}

#[test]
fn a_notice_that_cannot_be_read_or_was_dropped_is_missed() {
    let mut bench = bench(Presence::Notify);
    let alice = join(&mut bench, "alice");
    bench.publish_raw("drawbridge:presence:room:1", b"what?");
    bench.publish_raw("drawbridge:presence:room:1", br#"{"joined":["eve"],"left":[]}"#);
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, alice), ["!"]);
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, alice), ["+eve"]);
    let notices = "drawbridge:presence:room:1".into();
    bench.input(Input::Broker(BrokerEvent::Presence { notices, change: None }));
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, alice), ["!"]);
    // Of a channel without subscribers here nothing is sent.
    let notices = "drawbridge:presence:room:2".into();
    bench.input(Input::Broker(BrokerEvent::Presence { notices, change: None }));
}

/// A connection that does not read is not closed for what others do, and receives `reset` when it reads again.
#[test]
fn who_does_not_read_is_told_to_ask_when_it_does() {
    let mut bench = Bench::new(class(Presence::Notify), 4_000);
    let alice = join(&mut bench, "alice");
    bench.blocked[alice] = true;
    bench.send(alice, json!({ "type": "PING", "id": 1 }));
    for n in 0..100 {
        let player = join(&mut bench, &format!("{n:0100}"));
        bench.pass(WINDOW);
        bench.lost(player);
        bench.pass(WINDOW);
    }
    assert_eq!(bench.closed[alice], None);
    bench.unblock(alice);
    assert_eq!(changes(&mut bench, alice), ["!"]);
}

#[test]
fn a_client_with_short_messages_is_told_to_ask() {
    let mut bench = bench(Presence::Notify);
    let small = bench.connect_with(
        Some("small"),
        1,
        json!({ "max_message_bytes": 512, "subscribe": [{ "channel": ROOM }] }),
    );
    let alice = join(&mut bench, "alice");
    let players: Vec<usize> = (0..10).map(|n| join(&mut bench, &format!("{n:0100}"))).collect();
    bench.pass(WINDOW);
    assert_eq!(changes(&mut bench, small), ["!"]);
    assert_eq!(changes(&mut bench, alice).len(), 1);
    drop(players);
    bench.send(small, about("PRESENCE_GET", ROOM));
    let page = bench.take(small).pop().unwrap();
    assert!(page.to_string().len() <= 512 && page["next"].is_string(), "{page}");
}

/// The channel of notices is there before the subscription is called one.
#[test]
fn a_channel_is_wanted_when_its_notices_are() {
    let mut bench = bench(Presence::Notify);
    bench.holds_subscriptions = true;
    let alice = bench.player("alice", "red");
    bench.send(alice, about("CHANNEL_SUBSCRIBE", ROOM));
    assert_eq!(bench.held_subscriptions(), ["drawbridge:presence:room:1"]);
    assert!(bench.take(alice).is_empty());
    bench.confirm_subscriptions();
    assert_eq!(bench.held_subscriptions(), [ROOM]);
    assert!(bench.take(alice).is_empty());
    bench.confirm_subscriptions();
    assert_eq!(bench.take(alice)[0]["type"], "CHANNEL_SUBSCRIBED");
}

#[test]
fn a_channel_whose_notices_are_refused_is_refused() {
    let mut bench = bench(Presence::Notify);
    bench.holds_subscriptions = true;
    let alice = bench.player("alice", "red");
    bench.send(alice, about("CHANNEL_SUBSCRIBE", ROOM));
    bench.refuse_subscriptions();
    let answer = bench.take(alice).pop().unwrap();
    assert_eq!((&answer["code"], &answer["channel"]), (&json!("BROKER_REFUSED"), &json!(ROOM)));
    assert_eq!(bench.engine.stats().targets, 0);
    // It may be requested again.
    bench.holds_subscriptions = false;
    subscribe(&mut bench, alice, ROOM);
    assert_eq!(bench.take(alice)[0]["type"], "CHANNEL_SUBSCRIBED");
}

#[test]
fn reads_count_as_subscribes() {
    let mut bench = Bench::with_settings(vec![class(Presence::Query)], |settings| {
        settings.subscribes = Rate { per_second: 1, burst: 2 };
    });
    let alice = join(&mut bench, "alice");
    assert_eq!(get(&mut bench, alice, json!({}))["type"], "PRESENCE");
    let refused = get(&mut bench, alice, json!({}));
    assert_eq!((&refused["code"], &refused["id"]), (&json!("RATE_LIMITED"), &json!(7)));
    bench.pass(1_000);
    assert_eq!(get(&mut bench, alice, json!({}))["type"], "PRESENCE");
}
