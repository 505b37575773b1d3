//! What one connection's messages cost it, and what ends it: charges, bad messages in a window, and where the engine says
//! that a connection is gone. One engine, no broker, virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{ConnId, Input, MessageKind, Now, Output, Standing};
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
