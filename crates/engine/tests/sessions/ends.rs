//! Which end of a connection ends its session, and what other services learn of it.

use drawbridge_engine::io::{PlayerAction, WriteKind};
use drawbridge_engine::settings::{PlayerConnections, Settings, WhenExceeded};
use drawbridge_protocol::Encoding;
use serde_json::{Value, json};

use super::bench::{Bench, WINDOW_MS, alice, kinds, listed};

impl Bench {
    /// The lifecycle entries that were written since this was called last: what happened, with which code and reason.
    fn lifecycle(&mut self) -> Vec<[String; 3]> {
        let lives = std::mem::take(&mut self.cluster.appended);
        let field = |write: &WriteKind, name: &str| {
            let WriteKind::Append { fields, .. } = write else { panic!("{write:?}") };
            let (_, value) = fields.iter().find(|(field, _)| *field == name).unwrap();
            String::from_utf8(value.to_vec()).unwrap()
        };
        lives.iter().map(|write| ["event", "code", "reason"].map(|name| field(write, name))).collect()
    }

    fn resumes(&mut self, session: &str) -> bool {
        let (at, welcome, _) = self.resume(session, json!({}));
        self.close(at, 1000);
        welcome["resumed"] == true
    }
}

fn entry(event: &str, code: &str, reason: &str) -> [String; 3] {
    [event, code, reason].map(str::to_owned)
}

#[test]
fn the_clients_close_with_1000_ends_the_session_and_every_other_end_keeps_it() {
    for (code, is_kept) in
        [(1000, false), (1001, true), (1005, true), (1006, true), (1009, true), (4000, true), (4999, true)]
    {
        let mut bench = Bench::new();
        let (at, session) = bench.join(&["chat:a"]);
        bench.close(at, code);
        assert_eq!(bench.stats().detached, u64::from(is_kept), "{code}");
        assert_eq!(bench.resumes(&session), is_kept, "{code}");
    }
}

#[test]
fn a_close_of_ours_keeps_it_where_clients_are_to_come_again() {
    let mut bench = Bench::with(|settings| Settings { heartbeat_ms: 1_000, ..settings });
    let (at, session) = bench.join(&["chat:a"]);
    bench.pass(3_000);
    assert_eq!(bench.closed(at), Some(4002));
    assert!(bench.resumes(&session), "heartbeat missed");

    let (at, session) = bench.join(&["chat:a"]);
    bench.command("alice", PlayerAction::Disconnect { reason: None });
    assert_eq!((bench.closed(at), bench.stats().detached), (Some(4502), 0));
    assert!(!bench.resumes(&session), "kicked");

    let one = PlayerConnections { max: 1, when_exceeded: WhenExceeded::CloseOldest };
    let mut bench = Bench::with(|settings| Settings { connections_per_player: Some(one), ..settings });
    let (at, session) = bench.join(&[]);
    bench.join(&[]);
    assert_eq!((bench.closed(at), bench.stats().detached), (Some(4506), 0));
    assert!(!bench.resumes(&session));
}

#[test]
fn a_service_ends_a_session_that_is_away() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["chat:a"]);
    bench.break_socket(at);
    bench.lifecycle();
    bench.command("alice", PlayerAction::Disconnect { reason: Some("cheats".into()) });
    assert_eq!(bench.stats().detached, 0);
    assert_eq!(bench.lifecycle(), [entry("left", "", "cheats")]);
    assert!(!bench.resumes(&session));
}

#[test]
fn without_a_window_nothing_is_kept() {
    let mut bench = Bench::with(|settings| Settings { resume_window_ms: 0, ..settings });
    let (at, session) = bench.join(&["chat:a"]);
    bench.break_socket(at);
    assert_eq!((bench.stats().detached, bench.stats().subscriptions), (0, 0));
    let (_, welcome, _) = bench.resume(&session, json!({}));
    assert_eq!((&welcome["resumed"], &welcome["resume_window_ms"]), (&json!(false), &json!(0)));
}

#[test]
fn other_services_learn_of_a_break_a_return_and_an_end() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["chat:a"]);
    assert_eq!(bench.lifecycle(), [entry("connected", "", "")]);
    bench.break_socket(at);
    assert_eq!(bench.lifecycle(), [entry("disconnected", "1006", "lost")]);
    let (at, welcome, _) = bench.resume(&session, json!({}));
    assert_eq!(
        (&welcome["resume_window_ms"], bench.lifecycle()),
        (&json!(WINDOW_MS), vec![entry("resumed", "", "")])
    );
    bench.break_socket(at);
    bench.pass(WINDOW_MS - 1);
    assert_eq!(bench.lifecycle(), [entry("disconnected", "1006", "lost")]);
    bench.pass(1);
    assert_eq!(bench.lifecycle(), [entry("left", "", "resume window ended")]);
    assert_eq!((bench.stats().windows_ended, bench.stats().subscriptions), (1, 0));
    let (at, welcome, _) = bench.resume(&session, json!({}));
    assert_eq!((&welcome["resumed"], bench.lifecycle()), (&json!(false), vec![entry("connected", "", "")]));
    bench.close(at, 1000);
    let both = [entry("disconnected", "1000", "client"), entry("left", "1000", "client")];
    assert_eq!(bench.lifecycle(), both);
}

#[test]
fn the_window_begins_anew_with_each_break() {
    let mut bench = Bench::new();
    let (mut at, session) = bench.join(&["chat:a"]);
    for _ in 0..4 {
        bench.break_socket(at);
        bench.pass(WINDOW_MS - 1);
        let (next, welcome, _) = bench.resume(&session, json!({}));
        assert_eq!(welcome["resumed"], true);
        at = next;
    }
}

/// Unknown, ended, foreign, or no name at all: a new session, and no error.
#[test]
fn a_session_that_is_not_the_players_is_not_there() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["chat:a"]);
    bench.break_socket(at);
    let bob = json!({ "sub": "bob", "team": "red", "rooms": [] });
    for name in [
        "",
        "x",
        &"0".repeat(32),
        &session[1..],
        &format!("{session}0123456789abcdef"),
        &session.to_uppercase(),
    ] {
        let (at, welcome, rest) = bench.resume(name, json!({}));
        assert_eq!((&welcome["resumed"], rest.len()), (&json!(false), 0), "{name}");
        assert_ne!(welcome["session"], session);
        bench.close(at, 1000);
    }
    for stranger in [Some(&bob), None] {
        let (_, welcome, _) = bench.resume_with(stranger, json!({ "resume": { "session": session } }));
        assert_eq!(welcome["resumed"], false);
        assert_ne!(welcome["player"], "alice");
    }
    assert!(bench.resumes(&session), "it was not touched");
}

#[test]
fn a_second_claim_moves_a_session_and_closes_the_first_connection() {
    let mut bench = Bench::new();
    let (first, session) = bench.join(&["chat:a"]);
    bench.publish("chat:a", json!({ "n": 1 }));
    bench.lifecycle();
    let (second, welcome, _) = bench.resume(&session, json!({}));
    assert_eq!((&welcome["resumed"], bench.closed(first)), (&json!(true), Some(4505)));
    let said = bench.lifecycle();
    assert_eq!(said, [entry("disconnected", "4505", "session taken over"), entry("resumed", "", "")]);
    bench.publish("chat:a", json!({ "n": 2 }));
    assert_eq!((bench.events(first), bench.events(second)), (vec![1], vec![2]));
    assert_eq!((bench.stats().connections, bench.stats().sessions_moved), (1, 1));
}

#[test]
fn an_anonymous_player_resumes_with_the_session_alone_and_keeps_the_name() {
    let mut bench = Bench::new();
    let (at, welcome) =
        bench.connect(None, json!({ "subscribe": [{ "channel": "chat:a", "filter": "data.n > 1" }] }));
    let (session, player) = (welcome["session"].as_str().unwrap(), &welcome["player"]);
    assert_eq!(session.len(), 48);
    assert!(player.as_str().unwrap().ends_with(&session[32..]));
    bench.break_socket(at);
    let (at, again, _) = bench.resume_with(None, json!({ "resume": { "session": session } }));
    assert_eq!(
        (&again["resumed"], &again["player"], &again["session"]),
        (&json!(true), player, &json!(session))
    );
    assert_ne!(again["connection"], welcome["connection"]);
    bench.close(at, 1000);
    let (_, fresh, _) = bench.resume_with(None, json!({ "resume": { "session": session } }));
    assert_eq!(fresh["resumed"], false);
    assert_ne!(&fresh["player"], player, "a name is no credential");
}

/// Requests sent right behind `CONNECT`, in the same message too, are the session's.
#[test]
fn requests_behind_connect_are_carried_out_in_the_session() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["chat:a"]);
    bench.break_socket(at);
    let next = bench.open_as(Some(&alice()), Encoding::Json);
    let connect = json!({ "type": "CONNECT", "id": 1, "resume": { "session": session } });
    let messages = json!([
        connect,
        { "type": "CHANNEL_UNSUBSCRIBE", "id": 2, "channel": "chat:a" },
        { "type": "CHANNEL_SUBSCRIBE", "id": 3, "channel": "chat:b" },
        { "type": "CONNECT", "id": 4 },
    ]);
    bench.send(next, &messages);
    bench.send(next, &json!({ "type": "PING", "id": 5 }));
    let read = bench.take(next);
    let ids: Vec<u64> = read.iter().filter_map(|message| message["id"].as_u64()).collect();
    assert_eq!((ids, &read[0]["resumed"]), (vec![1, 2, 4, 3, 5], &json!(true)), "{read:?}");
    let error = read.iter().find(|message| message["id"] == 4).unwrap();
    assert_eq!(error["code"], "BAD_MESSAGE");
}

/// The answers of requests belong to their connection.
#[test]
fn a_request_whose_connection_was_lost_is_not_answered_on_the_next() {
    let mut bench = Bench::new();
    let (at, session) = bench.join(&["chat:a"]);
    let publish =
        json!({ "type": "PUBLISH_EVENT", "id": 7, "channel": "chat:a", "event": "e", "data": { "n": 1 } });
    let subscribe = json!({ "type": "CHANNEL_SUBSCRIBE", "id": 8, "channel": "chat:b" });
    bench.send_only(at, &json!([publish, subscribe]));
    bench.break_only(at);
    let next = bench.open_as(Some(&alice()), Encoding::Json);
    bench.send(next, &json!({ "type": "CONNECT", "resume": { "session": session } }));
    bench.pass(2_000);
    let read = bench.take(next);
    assert!(read.iter().all(|message| message.get("id").is_none()), "{read:?}");
    assert!(listed(&read[0], "chat:b")["channel"] == "chat:b" && kinds(&read).contains(&"RESYNC"));
}

impl Bench {
    /// Without waiting for what it causes.
    fn send_only(&mut self, at: u32, message: &Value) {
        self.cluster.text(Self::socket(at), &message.to_string(), &mut self.sockets);
    }

    fn break_only(&mut self, at: u32) {
        let conn = Self::socket(at).conn;
        let closed = drawbridge_engine::io::Input::Closed { conn, code: 1006 };
        self.cluster.input(0, 0, closed, &mut self.sockets);
    }
}
