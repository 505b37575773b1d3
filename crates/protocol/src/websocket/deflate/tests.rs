//! The RFC's examples, pieces at any split, and messages that mean harm.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::websocket::{Decoder, Received};

const LIMITS: Limits =
    Limits { message_bytes: 64 * 1024, max_message_bytes: 256 * 1024, inflated_bytes: 256 * 1024 };

fn inflate(compressed: &[u8], limits: &Limits) -> Result<Inflated, Violation> {
    Inflater::default().inflate(compressed, limits)
}

fn whole(compressed: &[u8]) -> Vec<u8> {
    match inflate(compressed, &LIMITS) {
        Ok(Inflated::Whole(bytes)) => bytes,
        _ => panic!("not whole"),
    }
}

/// A client's frame with this payload, under the mask zero.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if (126..=0xFFFF).contains(&payload.len()) {
        frame.truncate(1);
        frame.push(0x80 | 126);
        frame.extend((payload.len() as u16).to_be_bytes());
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn payload(frame: &Frame) -> &[u8] {
    assert_eq!(frame[0] & 0x40, 0x40);
    crate::websocket::payload_of(frame)
}

/// RFC 7692 §7.2.3.
#[test]
fn the_examples_of_the_rfc_are_read() {
    assert_eq!(whole(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]), b"Hello");
    assert_eq!(whole(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]), b"Hello");
    assert_eq!(whole(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]), b"Hello");
    let blocks = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(whole(&blocks), b"Hello");
    assert_eq!(whole(&[0x00]), b"");
    let cut_short = [0xf2, 0x48, 0xcd, 0xc9];
    assert!(matches!(inflate(&cut_short, &LIMITS), Err(Violation { code, .. }) if code.as_u16() == 1007));
}

/// A compressor that gave up a text is as good as new.
#[test]
fn what_did_not_pay_leaves_nothing_behind() {
    let mut compressor = Compressor::default();
    for round in 0..300u64 {
        let mut state = round + 1;
        let noise: Vec<u8> = (0..2_000)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        assert_eq!(compressor.piece(&noise, Window::W15), None);
        let piece = compressor.piece(&[b'a'; 400], Window::W15).unwrap();
        assert_eq!(whole(payload(&frame_of_pieces(OpCode::Binary, &[piece]))), [b'a'; 400]);
    }
}

#[test]
fn offers_are_met_where_they_can_be() {
    type Row = (&'static [&'static str], Option<(&'static str, Window)>);
    let rows: &[Row] = &[
        (&["permessage-deflate"], Some(("", Window::W15))),
        (&["permessage-deflate; client_max_window_bits"], Some(("", Window::W15))),
        (&["permessage-deflate;client_max_window_bits=10"], Some(("", Window::W15))),
        (
            &["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
            Some(("", Window::W15)),
        ),
        (&["permessage-deflate; server_max_window_bits=9"], Some(("; server_max_window_bits=9", Window::W9))),
        (
            &["permessage-deflate; server_max_window_bits=\"12\""],
            Some(("; server_max_window_bits=12", Window::W9)),
        ),
        (&["permessage-deflate; server_max_window_bits=8, permessage-deflate"], Some(("", Window::W15))),
        (&["x-other; a=1", "PerMessage-Deflate"], Some(("", Window::W15))),
        (&["permessage-deflate; server_max_window_bits=8"], None),
        (&["permessage-deflate; server_max_window_bits"], None),
        (&["permessage-deflate; server_max_window_bits=016"], None),
        (&["permessage-deflate; client_max_window_bits=7"], None),
        (&["permessage-deflate; server_no_context_takeover=1"], None),
        (&["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], None),
        (&["permessage-deflate; fast"], None),
        (&["deflate-frame"], None),
        (&[], None),
    ];
    for (offered, expected) in rows {
        let chosen = negotiate_deflate(offered.iter().copied());
        let response = |end: &str| {
            format!("permessage-deflate; server_no_context_takeover; client_no_context_takeover{end}")
        };
        let expected = expected.map(|(end, window)| (response(end), window));
        assert_eq!(chosen.map(|deflate| (deflate.response(), deflate.window)), expected, "{offered:?}");
    }
}

#[test]
fn a_bomb_costs_no_more_than_the_limits() {
    let mut compressor = Compressor::default();
    let bomb = |bytes: usize, compressor: &mut Compressor| {
        frame_of_pieces(OpCode::Binary, &[compressor.piece(&vec![0; bytes], Window::W15).unwrap()])
    };
    let medium = bomb(100_000, &mut compressor);
    assert!(matches!(inflate(payload(&medium), &LIMITS), Ok(Inflated::Oversized(100_000))));
    let large = bomb(10_000_000, &mut compressor);
    assert!(large.len() < 50_000);
    assert!(
        matches!(inflate(payload(&large), &LIMITS), Err(Violation { code, .. }) if code.as_u16() == 1009)
    );
}

#[test]
fn an_inflater_goes_on_after_a_message_that_was_too_large_damaged_or_cut_short() {
    let (mut compressor, mut inflater) = (Compressor::default(), Inflater::default());
    let bomb =
        frame_of_pieces(OpCode::Binary, &[compressor.piece(&vec![0; 10_000_000], Window::W15).unwrap()]);
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for bad in [payload(&bomb), &[0xFF, 0xFF, 0xFF], &hello[..4]] {
        assert!(inflater.inflate(bad, &LIMITS).is_err());
        assert!(matches!(inflater.inflate(&hello, &LIMITS), Ok(Inflated::Whole(text)) if text == b"Hello"));
    }
}

/// Nothing is inflated beyond what may be, whatever else the limits allow, and all of it is counted.
#[test]
fn a_smaller_bound_for_what_is_inflated_holds() {
    let mut compressor = Compressor::default();
    let message = frame_of_pieces(OpCode::Binary, &[compressor.piece(&[0; 60_000], Window::W15).unwrap()]);
    let mut inflater = Inflater::default();
    for (inflated_bytes, passes) in [(60_000, true), (59_999, false), (0, false)] {
        let limits = Limits { inflated_bytes, ..LIMITS };
        let before = inflater.inflated_bytes();
        assert_eq!(inflater.inflate(payload(&message), &limits).is_ok(), passes, "{inflated_bytes}");
        let made = inflater.inflated_bytes() - before;
        assert!(made > 0 && made <= (inflated_bytes + INFLATE_CHUNK) as u64, "{made} of {inflated_bytes}");
    }
}

/// What a message costs is what was inflated, or what came, whichever is more: for bombs and for blocks of nothing.
#[test]
fn a_message_costs_what_it_inflates_to_or_what_came() {
    let mut compressor = Compressor::default();
    let bomb = compressor.piece(&[0; 100_000], Window::W15).unwrap();
    let bomb = &bomb[..bomb.len() - 4];
    let nothing: Vec<u8> = [0x00, 0x00, 0x00, 0xFF, 0xFF].repeat(10).into_iter().chain([0x00]).collect();
    let (front, back) = bomb.split_at(10);
    let rows: &[(&str, Vec<u8>, u64)] = &[
        ("a bomb that is discarded", masked(0xC2, bomb), 100_000),
        ("in fragments", [masked(0x42, front), masked(0x80, back)].concat(), 100_000),
        ("empty blocks", masked(0xC2, &nothing), nothing.len() as u64),
        ("empty", masked(0xC2, b""), 0),
        ("plain", masked(0x82, b"plain"), 5),
        (
            "plain in tiny fragments",
            [masked(0x02, b"a"), masked(0, b"b"), masked(0x80, b"")].concat(),
            2 + 2 * 6,
        ),
        ("a ping", masked(0x89, b"ping"), 4),
    ];
    for (what, stream, cost) in rows {
        for pieces in [stream.len(), 1] {
            let (mut decoder, mut inflater) = (Decoder::inflating(), Inflater::default());
            let mut costs = Vec::new();
            for piece in stream.clone().chunks_mut(pieces) {
                let mut input = piece;
                while decoder.decode(&LIMITS, &mut inflater, &mut input).unwrap().is_some() {
                    costs.push(inflater.cost());
                }
            }
            assert_eq!(costs, [*cost], "{what} in pieces of {pieces}");
            assert_eq!(inflater.cost(), 0, "{what}: nothing came after it");
        }
    }
}

#[test]
fn what_does_not_pay_is_left_as_it_is() {
    let mut compressor = Compressor::default();
    assert_eq!(compressor.piece(b"short", Window::W15), None);
    let mut state = 1u64;
    let mut noise = [0; 500];
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8;
    }
    assert_eq!(compressor.piece(&noise, Window::W15), None);
    assert!(compressor.piece(&[b'a'; 500], Window::W9).is_some());
}

#[test]
fn compressed_messages_are_read_whole_and_in_fragments() {
    let text =
        r#"{"type":"PING","id":1,"t":"a text that is long enough to be worth it, worth it, worth it"}"#
            .repeat(2);
    let piece = Compressor::default().piece(text.as_bytes(), Window::W15).unwrap();
    let body = &piece[..piece.len() - 4];
    let (front, back) = body.split_at(20);
    let fragments = [masked(0x41, front), masked(0x89, b"ping"), masked(0x80, back)].concat();
    for (mut bytes, pings) in [(masked(0xC1, body), 0), (fragments, 1)] {
        let mut decoder = Decoder::inflating();
        let mut input = &mut bytes[..];
        let mut heard = Vec::new();
        while let Some(received) = decoder.decode(&LIMITS, &mut Inflater::default(), &mut input).unwrap() {
            heard.push(format!("{received:?}"));
        }
        assert_eq!(heard.len(), pings + 1);
        assert_eq!(heard.last().unwrap(), &format!("{:?}", Received::Text(&text)));
        assert_eq!(decoder.held_bytes(), 0);
    }
}

#[test]
fn reserved_bits_without_a_meaning_are_violations() {
    let read = |mut decoder: Decoder, mut bytes: Vec<u8>| {
        decoder
            .decode(&LIMITS, &mut Inflater::default(), &mut &mut bytes[..])
            .map(|_| ())
            .unwrap_err()
            .code
            .as_u16()
    };
    assert_eq!(read(Decoder::new(), masked(0xC1, &[0])), 1002, "not agreed on");
    assert_eq!(read(Decoder::inflating(), masked(0xC9, b"")), 1002, "a control frame");
    assert_eq!(read(Decoder::inflating(), masked(0xE1, &[0])), 1002, "another bit");
    let continued = [masked(0x01, b"a"), masked(0xC0, b"b")].concat();
    assert_eq!(read(Decoder::inflating(), continued), 1002, "a continuation");
    assert_eq!(read(Decoder::inflating(), masked(0xC1, &[0xFF, 0xFF, 0xFF])), 1007, "damaged");
    assert_eq!(read(Decoder::inflating(), masked(0xC1, &[0x62, 0xF8, 0x0F, 0x00])), 1007, "not UTF-8");
}

proptest! {
    #[test]
    fn pieces_put_together_are_the_text(
        parts in proptest::collection::vec(("[a-f{}:,\" ]{0,400}", any::<bool>()), 0..8),
        narrow: bool,
    ) {
        let window = if narrow { Window::W9 } else { Window::W15 };
        let mut compressor = Compressor::default();
        let mut pieces = Vec::new();
        for (text, as_it_is) in &parts {
            let piece = (!as_it_is).then(|| compressor.piece(text.as_bytes(), window)).flatten();
            pieces.push(piece.unwrap_or_else(|| stored(text.as_bytes())));
        }
        let frame = frame_of_pieces(OpCode::Text, &pieces);
        let text: String = parts.iter().map(|(text, _)| text.as_str()).collect();
        prop_assert_eq!(whole(payload(&frame)), text.into_bytes());
    }

    #[test]
    fn any_bytes_cost_at_most_an_error(bytes: Vec<u8>) {
        let limits = Limits::new(1_000);
        if let Ok(Inflated::Whole(text)) = inflate(&bytes, &limits) {
            prop_assert!(text.len() <= 1_000);
        }
    }
}
