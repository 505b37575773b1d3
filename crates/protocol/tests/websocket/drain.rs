//! What a server reads after the close was decided: the client's close frame is found behind anything, and nothing else is
//! looked at.

use drawbridge_protocol::websocket::{Decoder, Drained, Inflater, OpCode};

use crate::client::{Frame, ROOMY, announce, fragment, frame};

fn compressed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(OpCode::Text, payload);
    bytes[0] |= 0x40;
    bytes
}

/// Where in `stream`, handed over in pieces of this size, the close frame ends; `None`: it is not found.
fn end_of_close(decoder: &Decoder, stream: &[u8], size: usize) -> Option<usize> {
    let mut drain = decoder.drain();
    let mut read = 0;
    for piece in stream.chunks(size) {
        read += piece.len();
        if drain.skip(piece) == Drained::Closed {
            return Some(read);
        }
    }
    None
}

#[test]
fn the_close_frame_is_found_behind_anything_and_nothing_is_inflated_or_checked() {
    let close = frame(OpCode::Close, b"\x03\xe8bye");
    let before = [
        vec![],
        frame(OpCode::Text, b"\xff is not UTF-8"),
        compressed(b"\xff\xff\xff is damaged"),
        [fragment(OpCode::Binary, &[7; 70_000]), frame(OpCode::Ping, b"p"), frame(OpCode::Continuation, b"")]
            .concat(),
        [frame(OpCode::Continuation, b"of nothing"), frame(OpCode::Text, b"")].concat(),
    ];
    for before in before {
        let stream = [before, close.clone()].concat();
        for size in [1, 2, 7, 1_000, stream.len()] {
            assert!(end_of_close(&Decoder::new(), &stream, size).is_some_and(|at| at + size > stream.len()));
        }
    }
}

#[test]
fn a_drain_begins_wherever_the_decoder_was() {
    let stream = [
        fragment(OpCode::Text, b"some text"),
        frame(OpCode::Ping, b"between"),
        frame(OpCode::Continuation, &[b'x'; 300]),
        frame(OpCode::Close, b"\x03\xe8"),
    ]
    .concat();
    for cut in 0..stream.len() {
        let (decoded, drained) = stream.split_at(cut);
        let mut decoder = Decoder::inflating();
        let mut decoded = decoded.to_vec();
        let mut input = &mut decoded[..];
        while decoder.decode(&ROOMY, &mut Inflater::default(), &mut input).unwrap().is_some() {}
        assert_eq!(end_of_close(&decoder, drained, 1), Some(drained.len()), "cut at {cut}");
    }
}

#[test]
fn a_length_that_never_comes_is_skipped_without_memory() {
    let stream = [announce(true, OpCode::Binary, (1 << 63) - 1), frame(OpCode::Close, b"")].concat();
    assert_eq!(end_of_close(&Decoder::new(), &stream, 5), None);
}

#[test]
fn behind_what_is_no_frame_no_close_is_found() {
    let reserved = Frame { opcode: 0x3, payload: b"x", ..Frame::default() }.to_bytes();
    let close = frame(OpCode::Close, b"");
    assert_eq!(end_of_close(&Decoder::new(), &[reserved.clone(), close.clone()].concat(), 1), None);
    let mut decoder = Decoder::new();
    assert!(decoder.decode(&ROOMY, &mut Inflater::default(), &mut &mut reserved.clone()[..]).is_err());
    assert_eq!(end_of_close(&decoder, &close, 1), None);
}
