//! A drain as one engine sees it: every client receives the time of its close, also those that connect after the drain
//! began, and is closed at that time. No broker, virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{ConnId, Input, MessageKind, Now, Opened, Output};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::settings::Settings;
use drawbridge_protocol::CloseCode;
use drawbridge_testkit::players::{claims_of, conn, opened};
use drawbridge_testkit::settings::settings;
use serde_json::{Value, json};

const WINDOW_MS: u64 = 10_000;

struct Node {
    engine: Engine,
    now_ms: u64,
    /// By connection, all that was written.
    written: BTreeMap<ConnId, String>,
    /// By connection, when it was closed and how.
    closed: BTreeMap<ConnId, (u64, CloseCode)>,
}

impl Node {
    fn new() -> Self {
        let settings = Arc::new(Settings { resume_window_ms: 60_000, ..settings(Vec::new()) });
        let engine = Engine::new(settings.clone(), SharedLimits::new(&settings));
        Node { engine, now_ms: 1_000, written: BTreeMap::new(), closed: BTreeMap::new() }
    }

    fn input(&mut self, input: Input<'_>) {
        self.engine.handle(Now { mono_ms: self.now_ms, unix_ms: self.now_ms }, input);
        self.engine.check();
        while let Some(output) = self.engine.poll_output() {
            let (conn, frames) = match output {
                Output::Write { conn, frames } => (conn, frames),
                Output::Close { conn, frames, code, .. } => {
                    self.closed.insert(conn, (self.now_ms, code));
                    (conn, frames)
                }
                _ => continue,
            };
            let text = self.written.entry(conn).or_default();
            frames.iter().for_each(|frame| *text += &String::from_utf8_lossy(frame));
        }
    }

    /// A connection that waits for `CONNECT`.
    fn open(&mut self, at: usize) -> ConnId {
        self.open_as(at, at)
    }

    fn open_as(&mut self, at: usize, player: usize) -> ConnId {
        let claims = claims_of(&json!({ "sub": format!("p{player}") }));
        let opened = opened(conn(at), at as u64 + 1, Some(claims));
        self.input(Input::Opened(Opened { wait_for_connect: true, ..opened }));
        conn(at)
    }

    fn join(&mut self, at: usize) -> ConnId {
        let conn = self.open(at);
        self.say(conn, r#"{"type":"CONNECT","id":1}"#);
        assert!(self.written[&conn].contains("WELCOME"), "{}", self.written[&conn]);
        conn
    }

    fn say(&mut self, conn: ConnId, text: &str) {
        self.input(Input::Message { conn, kind: MessageKind::Text, payload: text.as_bytes(), cost_bytes: 0 });
    }

    /// Lets time pass, in steps, until these are closed.
    fn until_closed(&mut self, conns: &[ConnId]) {
        let end_ms = self.now_ms + WINDOW_MS;
        while !conns.iter().all(|conn| self.closed.contains_key(conn)) {
            self.now_ms += 1;
            assert!(self.now_ms <= end_ms, "{:?}", self.closed);
            self.input(Input::Tick);
        }
    }

    /// When its `GOODBYE` said that a connection will be closed, in milliseconds from then.
    fn reconnect_in_ms(&self, conn: ConnId) -> u64 {
        let text = &self.written[&conn];
        let begin = text.find(r#"{"type":"GOODBYE""#).unwrap_or_else(|| panic!("no GOODBYE: {text}"));
        let end = begin + text[begin..].find('}').unwrap() + 1;
        let goodbye: Value = serde_json::from_str(&text[begin..end]).unwrap();
        assert_eq!(goodbye["reason"], "drain");
        goodbye["reconnect_in_ms"].as_u64().unwrap()
    }
}

#[test]
fn each_is_closed_when_its_goodbye_says_and_the_closes_are_spread() {
    let mut node = Node::new();
    let players: Vec<ConnId> = (0..40).map(|at| node.join(at)).collect();
    let drained_ms = node.now_ms;
    node.input(Input::Drain { window_ms: WINDOW_MS });
    assert!(node.closed.is_empty(), "nobody is closed with the goodbye");
    node.until_closed(&players);
    let mut moments = Vec::new();
    for player in players {
        let (closed_ms, code) = node.closed[&player];
        assert_eq!(code, CloseCode::Drain);
        assert_eq!(closed_ms, drained_ms + node.reconnect_in_ms(player));
        moments.push(closed_ms);
    }
    moments.sort_unstable();
    moments.dedup();
    assert_eq!(moments.len(), 40, "no two at once");
}

#[test]
fn who_comes_during_a_drain_is_served_and_closed_with_the_last() {
    let mut node = Node::new();
    let early = node.join(0);
    let drained_ms = node.now_ms;
    node.input(Input::Drain { window_ms: WINDOW_MS });
    node.now_ms += 100;
    let late = node.join(1);
    node.until_closed(&[early, late]);
    let last_ms = drained_ms + node.reconnect_in_ms(early);
    assert_eq!(node.closed[&late], (last_ms, CloseCode::Drain));
    assert_eq!(node.reconnect_in_ms(late), last_ms - drained_ms - 100);
    node.now_ms += 1_000;
    let later = node.open(2);
    node.until_closed(&[later]);
    assert_eq!((node.closed[&later].1, node.reconnect_in_ms(later)), (CloseCode::Drain, 0));
}

#[test]
fn a_session_without_a_connection_is_told_nothing_and_its_next_connection_is_closed_too() {
    let mut node = Node::new();
    let lost = node.join(0);
    node.input(Input::Closed { conn: lost, code: 1006 });
    node.input(Input::Drain { window_ms: WINDOW_MS });
    assert!(!node.written[&lost].contains("GOODBYE"));
    let next = node.open_as(1, 0);
    let session = format!("{:032x}", 1);
    node.say(next, &json!({ "type": "CONNECT", "resume": { "session": session } }).to_string());
    assert!(node.written[&next].contains(r#""resumed":true"#), "{}", node.written[&next]);
    node.until_closed(&[next]);
    assert_eq!((node.closed[&next].1, node.engine.stats().detached), (CloseCode::Drain, 1));
}
