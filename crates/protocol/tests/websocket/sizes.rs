//! Messages over the limits, and what the decoder holds meanwhile.

use drawbridge_protocol::CloseCode;
use drawbridge_protocol::websocket::{Decoder, Inflater, Limits, OpCode};

use crate::client::{Event, announce, fragment, frame, read};

const TEN_TO_FORTY: Limits = Limits { message_bytes: 10, max_message_bytes: 40, inflated_bytes: 40 };

/// What an incomplete message may cost beside its bytes.
const OVERHEAD: usize = 512;

/// Hands `bytes` in and returns what the decoder then holds.
fn feed(decoder: &mut Decoder, limits: &Limits, bytes: &[u8]) -> usize {
    let mut bytes = bytes.to_vec();
    let mut input = &mut bytes[..];
    while decoder.decode(limits, &mut Inflater::default(), &mut input).unwrap().is_some() {}
    decoder.held_bytes()
}

#[test]
fn the_limits_are_inclusive() {
    for (length, expected) in [
        (10, Ok(Event::Binary(vec![b'x'; 10]))),
        (11, Ok(Event::Oversized(11))),
        (40, Ok(Event::Oversized(40))),
        (41, Err(CloseCode::MessageTooBig)),
    ] {
        let payload = vec![b'x'; length];
        let (front, back) = payload.split_at(7);
        let fragments = [fragment(OpCode::Binary, front), frame(OpCode::Continuation, back)].concat();
        for stream in [frame(OpCode::Binary, &payload), fragments] {
            let outcome = read(&TEN_TO_FORTY, &stream);
            match &expected {
                Ok(event) => {
                    assert_eq!((&outcome.events[..], outcome.violation), (&[event.clone()][..], None))
                }
                Err(code) => assert_eq!(outcome.violation.map(|v| v.code), Some(*code)),
            }
        }
    }
}

#[test]
fn an_oversized_message_is_reported_once_at_its_end_and_the_next_is_read() {
    let stream = [
        fragment(OpCode::Text, b"0123456789"),
        fragment(OpCode::Continuation, b"x"),
        frame(OpCode::Ping, b"still here"),
        frame(OpCode::Continuation, b"\xff not looked at"),
        frame(OpCode::Text, b"next"),
    ];
    let outcome = read(&TEN_TO_FORTY, &stream.concat());
    let expected =
        [Event::Ping(b"still here".to_vec()), Event::Oversized(26), Event::Text("next".to_owned())];
    assert_eq!(outcome.violation, None);
    assert_eq!(outcome.events, expected);
    assert_eq!(outcome.held_bytes, 0);
}

#[test]
fn an_oversized_message_costs_no_memory() {
    let limits = Limits::new(65_536);
    let mut decoder = Decoder::new();
    assert!(feed(&mut decoder, &limits, &fragment(OpCode::Binary, &[1; 60_000])) > 60_000);
    for _ in 0..3 {
        assert!(feed(&mut decoder, &limits, &fragment(OpCode::Continuation, &[1; 60_000])) < OVERHEAD);
    }
    assert_eq!(feed(&mut decoder, &limits, &frame(OpCode::Continuation, b"")), 0);
}

#[test]
fn a_message_over_the_maximum_is_refused_when_it_is_announced() {
    let begun = fragment(OpCode::Text, &[b'x'; 30]);
    for stream in [
        announce(true, OpCode::Text, 41),
        announce(false, OpCode::Text, 41),
        announce(true, OpCode::Binary, (1 << 63) - 1),
        [begun.clone(), announce(true, OpCode::Continuation, 11)].concat(),
        [begun, announce(true, OpCode::Continuation, (1 << 63) - 1)].concat(),
    ] {
        assert_eq!(read(&TEN_TO_FORTY, &stream).violation.unwrap().code, CloseCode::MessageTooBig);
    }
}

#[test]
fn the_maximum_counts_alone_where_it_is_below_the_limit() {
    let limits = Limits { message_bytes: 40, max_message_bytes: 10, inflated_bytes: 10 };
    assert_eq!(
        read(&limits, &frame(OpCode::Text, &[b'x'; 11])).violation.unwrap().code,
        CloseCode::MessageTooBig
    );
}

#[test]
fn memory_follows_what_arrived_and_not_what_was_announced() {
    let unlimited = Limits::new(usize::MAX);
    let mut decoder = Decoder::new();
    assert!(feed(&mut decoder, &unlimited, &announce(true, OpCode::Binary, (1 << 63) - 1)) < OVERHEAD);
    assert!(feed(&mut decoder, &unlimited, &[0; 1000]) < 2 * 1000 + OVERHEAD);
    assert!(feed(&mut decoder, &unlimited, &[0; 9000]) < 2 * 10_000 + OVERHEAD);
}

#[test]
fn a_decoder_between_messages_is_two_words_and_owns_nothing() {
    assert!(size_of::<Decoder>() <= 16);
    let limits = Limits::new(1 << 20);
    let mut decoder = Decoder::new();
    assert_eq!(decoder.held_bytes(), 0);
    let message = frame(OpCode::Binary, &[9; 5000]);
    for cut in [0, 1, 2, 7, 8, 9, 4000, message.len() - 1] {
        let (front, back) = message.split_at(cut);
        let held = feed(&mut decoder, &limits, front);
        assert_eq!(held > 0, cut > 0, "after {cut} bytes");
        assert!(held < 2 * cut + OVERHEAD);
        assert_eq!(feed(&mut decoder, &limits, back), 0, "freed at its end");
    }
}

#[test]
fn tiny_fragments_cost_no_more_than_the_message() {
    let limits = Limits::new(1 << 20);
    let mut decoder = Decoder::new();
    feed(&mut decoder, &limits, &fragment(OpCode::Text, b"x"));
    let tiny = fragment(OpCode::Continuation, b"y");
    for _ in 0..20_000 {
        feed(&mut decoder, &limits, &tiny);
    }
    assert!(decoder.held_bytes() <= 2 * 20_001 + OVERHEAD);
    assert_eq!(feed(&mut decoder, &limits, &frame(OpCode::Continuation, b"z")), 0);
}
