//! Rights and views are evaluated again with the token of who returns, before anything is sent.

use drawbridge_engine::io::PlayerAction;
use serde_json::{Value, json};

use super::bench::{Bench, alice, further, kinds, listed, numbers, position};

/// `alice` with other claims.
fn changed(claim: &str, value: Value) -> Value {
    let mut claims = alice();
    claims[claim] = value;
    claims
}

#[test]
fn what_the_new_token_does_not_allow_ends_behind_welcome() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["room:1", "room:2", "chat:a"]);
    bench.break_socket(at);
    bench.publish("room:1", json!({ "n": 1 }));
    let claims = changed("rooms", json!(["2"]));
    let (next, welcome, rest) = bench.resume_with(Some(&claims), json!({ "resume": { "session": session } }));
    assert_eq!(listed(&welcome, "room:1"), &Value::Null);
    assert_eq!(
        rest[0],
        json!({ "type": "CHANNEL_UNSUBSCRIBED", "channel": "room:1", "reason": "forbidden" })
    );
    assert!(numbers(&rest).is_empty(), "what waited of it is gone: {rest:?}");
    assert_eq!(listed(&welcome, "room:2")["channel"], "room:2");
    bench.publish("room:1", json!({ "n": 2 }));
    assert!(bench.take(next).is_empty());
}

#[test]
fn where_a_view_differs_what_waited_is_dropped() {
    let mut bench = Bench::new();
    let (at, welcome) = bench
        .connect(Some(&alice()), json!({ "subscribe": [{ "channel": "game:1" }, { "channel": "chat:a" }] }));
    let session = welcome["session"].as_str().unwrap().to_owned();
    let positions = json!({ "game:1": position(listed(&welcome, "game:1")), "chat:a": position(listed(&welcome, "chat:a")) });
    bench.break_socket(at);
    bench.publish("game:1", json!({ "n": 1, "team": "red" }));
    bench.publish("chat:a", json!({ "n": 2 }));
    let resume = json!({ "resume": { "session": session, "positions": positions } });
    let (_, welcome, rest) = bench.resume_with(Some(&changed("team", json!("blue"))), resume);
    let recovered = ["game:1", "chat:a"].map(|channel| listed(&welcome, channel)["recovered"].clone());
    assert_eq!((recovered, numbers(&rest)), ([json!(false), json!(true)], vec![2]));
    let resyncs: Vec<&Value> =
        rest.iter().filter(|message| message["type"] == "RESYNC").map(|m| &m["channel"]).collect();
    assert!(resyncs.contains(&&json!("game:1")) && !resyncs.contains(&&json!("chat:a")));
}

#[test]
fn a_pattern_is_judged_by_the_rules_of_the_new_token() {
    for (claims, is_same) in
        [(alice(), true), (changed("iat", json!(5)), true), (changed("rooms", json!(["1"])), false)]
    {
        let mut bench = Bench::new();
        let (at, session) = bench.join(&["room:*"]);
        bench.break_socket(at);
        bench.publish("room:1", json!({ "n": 1 }));
        bench.publish("room:2", json!({ "n": 2 }));
        let (_, welcome, rest) =
            bench.resume_with(Some(&claims), json!({ "resume": { "session": session } }));
        let shown = if is_same { vec![1, 2] } else { vec![] };
        assert_eq!(
            (&listed(&welcome, "room:*")["recovered"], numbers(&rest)),
            (&json!(is_same), shown),
            "{claims}"
        );
    }
}

/// A service narrows what the player may see while the session is away.
#[test]
fn a_view_override_while_away_drops_what_was_shown_by_the_view_before() {
    for channel in ["chat:a", "room:1", "room:*"] {
        let mut bench = Bench::new();
        let (at, welcome) = bench.connect(Some(&alice()), json!({ "subscribe": [{ "channel": channel }] }));
        let session = welcome["session"].as_str().unwrap().to_owned();
        let real = if channel == "room:*" { "room:1" } else { channel };
        bench.break_socket(at);
        bench.publish(real, json!({ "n": 1, "hidden": true }));
        let view = PlayerAction::View { channel: real.into(), view: Some("!has(data.hidden)".into()) };
        bench.command("alice", view);
        let start = position(listed(&welcome, channel));
        let positions = if start["epoch"].is_null() { json!({}) } else { json!({ channel: start }) };
        let (next, welcome, rest) = bench.resume(&session, positions);
        assert_eq!(
            (&listed(&welcome, channel)["recovered"], numbers(&rest)),
            (&json!(false), vec![]),
            "{channel}"
        );
        bench.publish(real, json!({ "n": 2, "hidden": true }));
        bench.publish(real, json!({ "n": 3 }));
        assert_eq!(bench.events(next), [3]);
    }
}

#[test]
fn subscriptions_of_connect_replace_the_clients_own_alone() {
    let mut bench = Bench::new();
    let claims = changed("own", json!(["x", "y"]));
    let own = json!({ "subscribe": [{ "channel": "chat:a" }, { "channel": "chat:b" }] });
    let (at, welcome) = bench.connect(Some(&claims), own);
    let session = welcome["session"].as_str().unwrap().to_owned();
    let start = position(listed(&welcome, "chat:a"));
    bench.command("alice", PlayerAction::Subscribe { channel: "chat:s".into() });
    bench.send(at, &json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": "own:x" }));
    bench.break_socket(at);
    bench.publish("chat:a", json!({ "n": 1 }));
    let claims = changed("own", json!(["x", "y", "z"]));
    let connect = json!({
        "resume": { "session": session, "positions": { "chat:a": start } },
        "subscribe": [{ "channel": "chat:a" }, { "channel": "chat:c" }],
    });
    let (at, welcome, rest) = bench.resume_with(Some(&claims), connect);
    let mut names: Vec<&str> = welcome["subscriptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| each["channel"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["chat:a", "chat:c", "chat:s", "own:y", "own:z", "player:alice"], "`own:x` was left");
    assert_eq!((&listed(&welcome, "chat:a")["recovered"], numbers(&rest)), (&json!(true), vec![1]));
    assert!(
        listed(&welcome, "chat:c").get("recovered").is_none(),
        "it is new, and its client knows no position"
    );
    assert!(!kinds(&rest).contains(&"CHANNEL_UNSUBSCRIBED"));

    // Without the field they stay; with an empty list none stays.
    bench.break_socket(at);
    let (at, welcome, _) = bench.resume_with(Some(&claims), json!({ "resume": { "session": session } }));
    assert_eq!(welcome["subscriptions"].as_array().unwrap().len(), 6);
    bench.break_socket(at);
    let none = json!({ "resume": { "session": session }, "subscribe": [] });
    let (_, welcome, _) = bench.resume_with(Some(&claims), none);
    assert_eq!(listed(&welcome, "chat:c"), &Value::Null);
    assert_eq!(listed(&welcome, "chat:s")["channel"], "chat:s");
}

#[test]
fn another_filter_is_another_view() {
    let mut bench = Bench::new();
    let (at, welcome) = bench
        .connect(Some(&alice()), json!({ "subscribe": [{ "channel": "chat:a", "filter": "data.n > 1" }] }));
    let session = welcome["session"].as_str().unwrap().to_owned();
    let start = position(listed(&welcome, "chat:a"));
    bench.break_socket(at);
    bench.publish("chat:a", json!({ "n": 2 }));
    let subscribe = |filter: &str, positions: &Value| {
        json!({
            "resume": { "session": session, "positions": { "chat:a": positions } },
            "subscribe": [{ "channel": "chat:a", "filter": filter }],
        })
    };
    let (at, welcome, rest) = bench.resume_with(Some(&alice()), subscribe("data.n > 1", &start));
    assert_eq!((&listed(&welcome, "chat:a")["recovered"], numbers(&rest)), (&json!(true), vec![2]));
    bench.break_socket(at);
    let (next, welcome, _) = bench.resume_with(Some(&alice()), subscribe("data.n > 5", &further(&start, 1)));
    assert_eq!(listed(&welcome, "chat:a")["recovered"], false);
    bench.publish("chat:a", json!({ "n": 5 }));
    bench.publish("chat:a", json!({ "n": 6 }));
    assert_eq!(bench.events(next), [6]);
}
