//! What one connection's messages cost it, and what ends it: charges, bad messages in a window, and where the engine says
//! that a connection is gone; and what its session does without a socket. One engine, no broker, virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use drawbridge_engine::engine::Engine;
use drawbridge_engine::engine::attach::AttachError;
use drawbridge_engine::io::{
    BrokerEvent, BrokerStatus, ConnId, Format, Input, MessageKind, Now, Output, SessionId, Standing,
};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::settings::{Rate, Settings};
use drawbridge_protocol::{CloseCode, Encoding};
use drawbridge_testkit::players::{claims_of, opened};
use drawbridge_testkit::settings::{PLENTY, settings};
use serde_json::json;

const CONN: ConnId = ConnId { index: 0, generation: 1 };

struct Bench {
    engine: Engine,
    now_ms: u64,
    /// How the connection was closed.
    closed: Option<CloseCode>,
    /// What was written, as text.
    written: String,
}

impl Bench {
    fn new(bytes: Rate, encoding: Encoding, token: bool) -> Self {
        Self::with_rates(bytes, PLENTY, encoding, token)
    }

    fn with_rates(bytes: Rate, messages: Rate, encoding: Encoding, token: bool) -> Self {
        let settings = Arc::new(Settings { bytes, messages, explain: false, ..settings(Vec::new()) });
        let engine = Engine::new(settings.clone(), SharedLimits::new(&settings));
        let mut bench = Bench { engine, now_ms: 1_000, closed: None, written: String::new() };
        let mut opened = opened(CONN, 1, token.then(|| claims_of(&json!({ "sub": "alice" }))));
        // The engine need not ask anybody for views until then.
        opened.wait_for_connect = true;
        opened.encoding = encoding;
        bench.input(Input::Opened(opened));
        bench
    }

    fn input(&mut self, input: Input<'_>) {
        self.engine.handle(Now { mono_ms: self.now_ms, unix_ms: self.now_ms }, input);
    }

    fn message(&mut self, kind: MessageKind, payload: &[u8], cost_bytes: u64) {
        self.input(Input::Message { conn: CONN, kind, payload, cost_bytes });
        self.end_turn();
    }

    fn end_turn(&mut self) {
        self.engine.check();
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Write { frames, .. } => self.write(frames.iter().map(|frame| &frame[..])),
                Output::Close { frames, code, .. } => {
                    self.write(frames.iter().map(|frame| &frame[..]));
                    self.closed = Some(code);
                }
                _ => {}
            }
        }
    }

    fn write<'f>(&mut self, frames: impl Iterator<Item = &'f [u8]>) {
        frames.for_each(|frame| self.written += &String::from_utf8_lossy(frame));
    }

    fn text(&mut self, text: &str) {
        self.message(MessageKind::Text, text.as_bytes(), 0);
    }
}

#[test]
fn ten_bad_messages_in_a_row_within_ten_seconds_close() {
    // A message every so often, and how many of them are taken before the connection is closed.
    for (every_ms, closes_after) in
        [(0, Some(10)), (1_000, Some(10)), (1_111, Some(10)), (1_112, None), (5_000, None)]
    {
        let mut bench = Bench::new(PLENTY, Encoding::Json, true);
        let taken = (1..=40).find(|_| {
            bench.text("ping");
            bench.now_ms += every_ms;
            bench.closed.is_some()
        });
        assert_eq!(taken, closes_after, "every {every_ms} ms");
        assert_eq!(bench.closed, closes_after.map(|_| CloseCode::ProtocolAbuse));
    }
}

#[test]
fn json_is_read_from_binary_frames_and_messagepack_never_from_text() {
    let mut bench = Bench::new(PLENTY, Encoding::Json, true);
    bench.message(MessageKind::Binary, br#"{"type":"PING","id":1}"#, 0);
    assert!(!bench.written.contains("not UTF-8") && bench.closed.is_none(), "{}", bench.written);
    bench.message(MessageKind::Binary, b"\xff", 0);
    assert!(bench.written.contains("not UTF-8") && bench.closed.is_none(), "{}", bench.written);
    let mut bench = Bench::new(PLENTY, Encoding::MsgPack, true);
    bench.text("{}");
    assert_eq!(bench.closed, Some(CloseCode::UnsupportedData));
}

#[test]
fn what_a_message_cost_to_receive_is_taken_from_the_bytes() {
    let bytes = Rate { per_second: 100, burst: 1_000 };
    for (cost_bytes, passes) in [(0, 8), (500, 2), (5_000, 1)] {
        let mut bench = Bench::new(bytes, Encoding::Json, true);
        let passed = (0..9).take_while(|_| {
            bench.message(MessageKind::Text, &[b' '; 125], cost_bytes);
            !bench.written.contains("RATE_LIMITED")
        });
        assert_eq!(passed.count(), passes, "{cost_bytes}");
    }
    let mut bench = Bench::new(bytes, Encoding::Json, true);
    // Ten seconds' allowance is 1,000 bytes; ten times that is abuse.
    bench.input(Input::Oversized { conn: CONN, cost_bytes: 262_144 });
    assert_eq!(bench.engine.standing(CONN), Standing::Gone);
}

/// Whoever is over the limit of bytes is not free of that of messages.
#[test]
fn messages_are_counted_while_bytes_are_over_their_limit() {
    let bytes = Rate { per_second: 10_000, burst: 10_000 };
    let few = Rate { per_second: 10, burst: 10 };
    for (messages, closed) in [(PLENTY, None), (few, Some(CloseCode::RateAbuse))] {
        let mut bench = Bench::with_rates(bytes, messages, Encoding::Json, true);
        bench.message(MessageKind::Text, br#"{"type":"PING"}"#, 20_000);
        for _ in 0..2_000 {
            bench.text(r#"{"type":"PING"}"#);
        }
        assert_eq!(bench.closed, closed);
    }
}

#[test]
fn a_close_takes_effect_with_the_message_that_causes_it() {
    let mut bench = Bench::new(PLENTY, Encoding::Json, false);
    assert_eq!(bench.engine.standing(CONN), Standing::Unauthenticated);
    bench.input(Input::Message {
        conn: CONN,
        kind: MessageKind::Text,
        payload: br#"{"type":"PING"}"#,
        cost_bytes: 0,
    });
    assert_eq!(bench.engine.standing(CONN), Standing::Gone, "before any output is polled");
    let bench = Bench::new(PLENTY, Encoding::Json, true);
    assert_eq!(bench.engine.standing(CONN), Standing::Authenticated);
}

const NEXT: ConnId = ConnId { index: 1, generation: 2 };
const JSON: Format = Format { encoding: Encoding::Json, deflate: None };

impl Bench {
    /// One that has been welcomed and has lost its socket.
    fn detached() -> (Self, SessionId) {
        let mut bench = Bench::new(PLENTY, Encoding::Json, true);
        let session = bench.engine.session_of(CONN).unwrap();
        assert!(!bench.engine.detach(session, Vec::new()), "it was not welcomed yet");
        bench.text(r#"{"type":"CONNECT","id":1}"#);
        assert!(bench.written.contains("WELCOME"), "{}", bench.written);
        bench.written.clear();
        assert!(bench.engine.detach(session, Vec::new()));
        assert!(!bench.engine.detach(session, Vec::new()), "it is detached already");
        (bench, session)
    }

    fn attach(&mut self, session: SessionId, format: Format) -> Result<(), AttachError> {
        self.engine.attach(Now { mono_ms: self.now_ms, unix_ms: self.now_ms }, session, NEXT, format)
    }

    fn status(&mut self, status: BrokerStatus) {
        self.input(Input::Broker(BrokerEvent::Status(status)));
        self.end_turn();
    }
}

#[test]
fn what_arrives_while_a_session_is_detached_leaves_in_order_through_the_next_socket() {
    let (mut bench, session) = Bench::detached();
    assert_eq!(bench.engine.standing(CONN), Standing::Gone);
    bench.text(r#"{"type":"PING","id":2}"#);
    bench.status(BrokerStatus::Degraded);
    bench.status(BrokerStatus::Ok);
    // No heartbeat ends it.
    bench.now_ms += 10_000_000_000;
    bench.input(Input::Tick);
    bench.end_turn();
    assert_eq!(bench.written, "", "nothing is written, and nothing of the old socket is read");

    let other = Format { encoding: Encoding::MsgPack, ..JSON };
    assert_eq!(bench.attach(session, other), Err(AttachError::OtherFormat));
    assert_eq!(bench.attach(session, JSON), Ok(()));
    assert_eq!(bench.attach(session, JSON), Err(AttachError::Attached));
    bench.end_turn();
    let (down, up) = (bench.written.find("degraded").unwrap(), bench.written.find(r#""ok""#).unwrap());
    assert!(down < up, "{}", bench.written);
    assert_eq!(bench.engine.standing(NEXT), Standing::Authenticated);
    bench.input(Input::Closed { conn: NEXT, code: 1000 });
    bench.end_turn();
    assert_eq!(bench.engine.stats().connections, 0);
    assert_eq!(bench.attach(session, JSON), Err(AttachError::Gone));
}

#[test]
fn a_detached_session_ends_when_more_waits_than_its_limit_allows() {
    let (mut bench, session) = Bench::detached();
    for _ in 0..40_000 {
        for status in [BrokerStatus::Degraded, BrokerStatus::Ok] {
            bench.input(Input::Broker(BrokerEvent::Status(status)));
        }
        assert!(bench.engine.stats().frame_bytes <= 1 << 21);
    }
    bench.end_turn();
    assert_eq!(bench.engine.stats().slow_consumers, 1);
    assert_eq!(bench.engine.stats().connections, 0);
    assert_eq!(bench.attach(session, JSON), Err(AttachError::Gone));
    assert_eq!(bench.closed, None, "there is no socket to be closed");
}
