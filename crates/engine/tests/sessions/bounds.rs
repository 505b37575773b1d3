//! What sessions that are away may cost.

use drawbridge_engine::settings::{PlayerConnections, Settings, WhenExceeded};
use drawbridge_protocol::Encoding;
use serde_json::json;

use super::bench::{Bench, alice, kinds, listed, numbers, position};

const LARGE: usize = 1_000;

impl Bench {
    fn publish_large(&mut self, channel: &str, numbers: std::ops::Range<u64>) {
        for n in numbers {
            self.publish(channel, json!({ "n": n, "fill": "x".repeat(LARGE) }));
        }
    }
}

#[test]
fn what_waits_is_bounded_under_the_policy_of_its_class() {
    let mut bench = Bench::with(|settings| Settings { outbound_bytes: 20_000, ..settings });
    let subscribe =
        json!({ "subscribe": [{ "channel": "chat:a" }, { "channel": "feed:a" }, { "channel": "chat:b" }] });
    let (at, welcome) = bench.connect(Some(&alice()), subscribe);
    let session = welcome["session"].as_str().unwrap().to_owned();
    let positions: serde_json::Map<_, _> = ["chat:a", "feed:a", "chat:b"]
        .map(|channel| (channel.to_owned(), position(listed(&welcome, channel))))
        .into_iter()
        .collect();
    bench.break_socket(at);
    bench.publish_large("feed:a", 0..40);
    assert!((5_000..=20_000).contains(&bench.stats().held_bytes));
    let (_, welcome, rest) = bench.resume(&session, positions.clone().into());
    let recovered = ["chat:a", "feed:a"].map(|channel| listed(&welcome, channel)["recovered"].clone());
    assert_eq!((recovered, kinds(&rest)), ([json!(true), json!(false)], vec!["RESYNC"]));

    // A class that disconnects loses what waits of it, and holds nothing more.
    let (at, session) = bench.join(&["chat:a", "chat:b"]);
    bench.break_socket(at);
    bench.publish_large("chat:a", 0..40);
    assert_eq!((bench.stats().held_bytes, bench.stats().detached), (0, 1));
    bench.publish("chat:a", json!({ "n": 41 }));
    assert_eq!(bench.stats().held_bytes, 0);
    bench.publish("chat:b", json!({ "n": 42 }));
    assert!(bench.stats().held_bytes > 0);
    let (_, welcome, _) = bench.resume(&session, positions.into());
    assert_eq!(listed(&welcome, "chat:a")["recovered"], false);
}

#[test]
fn what_waits_on_the_node_is_bounded_and_the_largest_gives_way() {
    let mut bench = Bench::with(|settings| Settings { detached_bytes: 40_000, ..settings });
    let (small, small_session) = bench.join(&["chat:a"]);
    let (large, large_session) = bench.join(&["chat:a", "chat:b"]);
    bench.break_socket(small);
    bench.break_socket(large);
    bench.publish("chat:a", json!({ "n": 1 }));
    bench.publish_large("chat:b", 2..100);
    assert!(bench.stats().held_bytes <= 40_000);
    let (_, welcome, rest) = bench.resume(&large_session, json!({}));
    assert_eq!((&listed(&welcome, "chat:b")["recovered"], numbers(&rest).len()), (&json!(false), 0));
    // Its own waits still; whether it has recovered is up to the position.
    assert!(bench.stats().held_bytes > 0);
    let (_, welcome, _) = bench.resume(&small_session, json!({}));
    assert_eq!(welcome["resumed"], true);
    assert_eq!(bench.stats().held_bytes, 0);
}

#[test]
fn of_a_players_sessions_the_oldest_that_is_away_ends() {
    let mut bench = Bench::with(|settings| Settings { detached_per_player: 2, ..settings });
    let sessions: Vec<(u32, String)> = (0..4).map(|_| bench.join(&[])).collect();
    // One returns, and counts no longer.
    bench.break_socket(sessions[0].0);
    let (back, ..) = bench.resume(&sessions[0].1, json!({}));
    for (at, _) in &sessions[1..] {
        bench.break_socket(*at);
    }
    assert_eq!(bench.stats().detached, 2);
    assert_eq!(bench.resume(&sessions[1].1, json!({})).1["resumed"], false);
    assert_eq!(bench.resume(&sessions[2].1, json!({})).1["resumed"], true);
    bench.break_socket(back);
    assert_eq!(bench.stats().detached, 2);
}

/// A session that is away counts as a connection of its player.
#[test]
fn sessions_that_are_away_count_in_connections_per_player() {
    let two = PlayerConnections { max: 2, when_exceeded: WhenExceeded::Refuse };
    let mut bench = Bench::with(|settings| Settings { connections_per_player: Some(two), ..settings });
    let (first, session) = bench.join(&[]);
    bench.join(&[]);
    bench.break_socket(first);
    let third = bench.open_as(Some(&alice()), Encoding::Json);
    bench.send(third, &json!({ "type": "CONNECT" }));
    assert_eq!(bench.closed(third), Some(4506));
    let (_, welcome, _) = bench.resume(&session, json!({}));
    assert_eq!(welcome["resumed"], true, "it has its place");
}

#[test]
fn a_client_that_does_not_read_loses_what_waited_and_keeps_the_session() {
    let mut bench = Bench::with(|settings| Settings { outbound_bytes: 20_000, ..settings });
    let (at, session) = bench.join(&["chat:a"]);
    bench.fill(at);
    bench.publish_large("chat:a", 0..40);
    assert_eq!((bench.closed(at), bench.stats().detached), (Some(4001), 1));
    let (next, welcome, _) = bench.resume(&session, json!({}));
    assert_eq!(listed(&welcome, "chat:a")["recovered"], false);
    bench.publish("chat:a", json!({ "n": 41 }));
    assert_eq!(bench.events(next), [41]);
}

#[test]
fn positions_are_bounded_by_the_subscriptions() {
    let mut bench = Bench::with(|settings| Settings { subscriptions: 2, ..settings });
    let positions = |count: usize| -> serde_json::Value {
        let each = |at: usize| (format!("chat:{at}"), json!({ "epoch": "e", "offset": 1 }));
        (0..count).map(each).collect::<serde_json::Map<_, _>>().into()
    };
    let at = bench.open_as(Some(&alice()), Encoding::Json);
    bench.send(
        at,
        &json!({ "type": "CONNECT", "id": 1, "resume": { "session": "s", "positions": positions(9) } }),
    );
    bench.send(
        at,
        &json!({ "type": "CONNECT", "id": 2, "resume": { "session": "s", "positions": positions(8) } }),
    );
    let read = bench.take(at);
    assert_eq!(kinds(&read), ["ERROR", "WELCOME"]);
    assert!(read[0]["message"].as_str().unwrap().contains("resume.positions"), "{}", read[0]);
}
