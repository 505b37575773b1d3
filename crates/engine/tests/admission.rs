//! Who connects now, who waits, and who is turned away, when more come at once than may connect. One engine, no broker, virtual
//! time: a session that connects waits for its automatic subscription, which the test settles.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{BrokerCommand, BrokerEvent, ConnId, Input, MessageKind, Now, Output, Subject};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::settings::Settings;
use drawbridge_protocol::CloseCode;
use drawbridge_protocol::template::Template;
use drawbridge_testkit::players::{claims_of, conn, opened};
use drawbridge_testkit::settings::settings;
use serde_json::{Value, json};

/// Less than `WELCOME` waits for Redis, so that a place is held so long.
const CONNECT_TIMEOUT_MS: u64 = 1_500;

struct Node {
    engine: Engine,
    now_ms: u64,
    /// What those who are connecting wait for.
    wanted: BTreeSet<String>,
    /// In the order of their coming.
    welcomed: Vec<ConnId>,
    /// By connection: the close code, and the error before it.
    closed: BTreeMap<ConnId, (CloseCode, Value)>,
}

impl Node {
    fn new(connecting: usize) -> Self {
        let auto_subscribe = vec![Template::parse("{sub}").unwrap()];
        let connect_timeout_ms = CONNECT_TIMEOUT_MS;
        let settings = Settings { connecting, connect_timeout_ms, auto_subscribe, ..settings(Vec::new()) };
        let settings = Arc::new(settings);
        let engine = Engine::new(settings.clone(), SharedLimits::new(&settings));
        let (wanted, closed) = (BTreeSet::new(), BTreeMap::new());
        Node { engine, now_ms: 1_000, wanted, welcomed: Vec::new(), closed }
    }

    fn input(&mut self, input: Input<'_>) {
        self.engine.handle(Now { mono_ms: self.now_ms, unix_ms: self.now_ms }, input);
        self.engine.check();
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Broker(BrokerCommand::Want(subject)) => {
                    self.wanted.insert(subject.name.to_string());
                }
                Output::Broker(BrokerCommand::Unwant(subject)) => {
                    self.wanted.remove(&*subject.name);
                }
                Output::Write { conn, frames } => {
                    let text: String =
                        frames.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect();
                    if text.contains("WELCOME") {
                        self.welcomed.push(conn);
                    }
                    assert!(self.welcomed.contains(&conn), "before WELCOME: {text}");
                }
                Output::Close { conn, frames, code, .. } => {
                    let last = frames.last().map(|frame| String::from_utf8_lossy(frame).into_owned());
                    let text = last.unwrap_or_default();
                    let error = text.find('{').map(|at| serde_json::from_str(&text[at..]).unwrap());
                    self.closed.insert(conn, (code, error.unwrap_or(Value::Null)));
                }
                _ => {}
            }
        }
    }

    /// A player comes with a good token.
    fn come(&mut self, at: usize) -> ConnId {
        let claims = claims_of(&json!({ "sub": format!("p{at}") }));
        let random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(at as u64 + 1);
        self.input(Input::Opened(opened(conn(at), random, Some(claims))));
        conn(at)
    }

    /// What a connecting player waits for is settled: Redis refuses it.
    fn answer(&mut self, at: usize) {
        let name = format!("p{at}");
        assert!(self.wanted.remove(&name), "{name} does not connect");
        let (subject, reason) = (Subject::channel(name), "NOPERM".into());
        self.input(Input::Broker(BrokerEvent::Refused { subject, reason }));
    }

    fn connecting(&self) -> Vec<&str> {
        self.wanted.iter().map(String::as_str).collect()
    }

    fn counts(&self) -> (u64, u64, u64) {
        let stats = self.engine.stats();
        (stats.connecting, stats.connect_waiting, stats.turned_away)
    }
}

#[test]
fn so_many_connect_at_once_as_many_wait_and_the_rest_are_closed_with_a_time_to_come_back() {
    let mut node = Node::new(2);
    for at in 0..6 {
        node.come(at);
    }
    assert_eq!(node.connecting(), ["p0", "p1"]);
    assert_eq!(node.counts(), (2, 2, 2));
    let mut delays = Vec::new();
    for at in 4..6 {
        let (code, error) = &node.closed[&conn(at)];
        assert_eq!(
            (*code, &error["code"], &error["retryable"]),
            (CloseCode::Overloaded, &json!("RATE_LIMITED"), &json!(true))
        );
        delays.push(error["retry_after_ms"].as_u64().unwrap());
    }
    assert!(delays[0] != delays[1] && delays.iter().all(|delay| (1..=5_000).contains(delay)), "{delays:?}");
    node.answer(1);
    assert_eq!((node.connecting(), node.counts()), (vec!["p0", "p2"], (2, 1, 2)));
    for at in [0, 2, 3] {
        node.answer(at);
    }
    assert_eq!(node.welcomed, [1, 0, 2, 3].map(conn));
    assert_eq!(node.counts(), (0, 0, 2));
}

#[test]
fn what_a_client_sends_while_it_waits_is_answered_behind_its_welcome() {
    let mut node = Node::new(1);
    node.come(0);
    let waits = node.come(1);
    node.input(Input::Message {
        conn: waits,
        kind: MessageKind::Text,
        payload: br#"{"type":"PING","id":7}"#,
        cost_bytes: 0,
    });
    assert!(node.closed.is_empty() && node.welcomed.is_empty());
    node.answer(0);
    node.answer(1);
    assert_eq!(node.welcomed, [0, 1].map(conn));
    assert!(node.closed.is_empty(), "{:?}", node.closed);
}

#[test]
fn whoever_ends_while_connecting_or_waiting_leaves_the_place_to_another() {
    let mut node = Node::new(1);
    for at in 0..2 {
        node.come(at);
    }
    node.input(Input::Closed { conn: conn(1), code: 1006 });
    assert_eq!(node.counts(), (1, 0, 0));
    node.come(2);
    node.input(Input::Closed { conn: conn(0), code: 1006 });
    assert_eq!((node.engine.stats().connections, node.counts()), (1, (1, 0, 0)));
    node.answer(2);
    assert_eq!(node.welcomed, [conn(2)]);
    assert_eq!(node.counts(), (0, 0, 0));
}

#[test]
fn nobody_waits_longer_than_the_time_to_connect() {
    let mut node = Node::new(1);
    node.come(0);
    let waits = node.come(1);
    node.now_ms += CONNECT_TIMEOUT_MS - 1;
    node.input(Input::Tick);
    assert!(node.closed.is_empty());
    node.now_ms += 1;
    node.input(Input::Tick);
    let (code, error) = &node.closed[&waits];
    assert_eq!((*code, &error["code"]), (CloseCode::Overloaded, &json!("RATE_LIMITED")));
    assert_eq!(node.counts(), (1, 0, 1));
}
