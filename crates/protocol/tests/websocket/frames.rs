//! Well-formed frames, with exact bytes; first those of RFC 6455 §5.7.

use drawbridge_protocol::websocket::{Decoder, Inflater, OpCode, Received, encode_frame, write_header};

use crate::client::{Event, Frame, ROOMY, fragment, frame, read};

#[track_caller]
fn check(stream: &[u8], expected: &[Event]) {
    let outcome = read(&ROOMY, stream);
    assert_eq!(outcome.violation, None);
    assert_eq!(outcome.events, expected);
    assert_eq!(outcome.held_bytes, 0, "nothing is held between messages");
}

fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}

#[test]
fn the_masked_hello_of_the_rfc() {
    check(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[text("Hello")]);
}

#[test]
fn the_fragmented_hello_of_the_rfc_masked() {
    check(b"\x01\x83\0\0\0\0Hel\x80\x82\0\0\0\0lo", &[text("Hello")]);
}

#[test]
fn the_masked_pong_of_the_rfc() {
    check(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[Event::Pong(b"Hello".to_vec())]);
}

#[test]
fn the_frames_of_the_rfc_that_a_server_writes() {
    assert_eq!(&encode_frame(OpCode::Text, b"Hello")[..], b"\x81\x05Hello");
    assert_eq!(&encode_frame(OpCode::Ping, b"Hello")[..], b"\x89\x05Hello");
    let rows: &[(usize, &[u8])] = &[
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (256, b"\x82\x7e\x01\x00"),
        (65_535, b"\x82\x7e\xff\xff"),
        (65_536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ];
    for (payload_bytes, expected) in rows {
        let mut header = Vec::new();
        write_header(&mut header, OpCode::Binary, *payload_bytes);
        assert_eq!(header, *expected);
    }
}

#[test]
fn every_length_encoding_at_its_edges() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        check(&frame(OpCode::Binary, &payload), &[Event::Binary(payload)]);
    }
}

#[test]
fn several_frames_in_one_read() {
    let stream =
        [frame(OpCode::Text, b"one"), frame(OpCode::Ping, b""), frame(OpCode::Binary, b"\xFF")].concat();
    check(&stream, &[text("one"), Event::Ping(Vec::new()), Event::Binary(vec![0xFF])]);
}

#[test]
fn control_frames_between_fragments_come_when_they_come() {
    let stream = [
        fragment(OpCode::Text, b"a"),
        frame(OpCode::Ping, b"1"),
        fragment(OpCode::Continuation, b""),
        frame(OpCode::Pong, &[7; 125]),
        frame(OpCode::Continuation, b"b"),
    ]
    .concat();
    check(&stream, &[Event::Ping(b"1".to_vec()), Event::Pong(vec![7; 125]), text("ab")]);
}

#[test]
fn a_close_between_fragments_ends_it() {
    let stream = [
        fragment(OpCode::Text, b"never ended"),
        frame(OpCode::Close, b"\x03\xe8"),
        frame(OpCode::Continuation, b"x"),
    ];
    check(&stream.concat(), &[Event::Close(Some(1000), String::new())]);
}

#[test]
fn a_character_cut_by_fragments_and_frames() {
    let smile = "κόσμε 🙂".as_bytes();
    for cut in 0..=smile.len() {
        let (front, back) = smile.split_at(cut);
        check(
            &[fragment(OpCode::Text, front), frame(OpCode::Continuation, back)].concat(),
            &[text("κόσμε 🙂")],
        );
    }
}

#[test]
fn nothing_is_read_after_a_close() {
    let stream =
        [frame(OpCode::Close, b"\x0f\xa0bye"), frame(OpCode::Text, b"late"), b"\xFF\xFF".to_vec()].concat();
    check(&stream, &[Event::Close(Some(4000), "bye".to_owned())]);
}

#[test]
fn a_close_may_be_empty() {
    check(&frame(OpCode::Close, b""), &[Event::Close(None, String::new())]);
}

#[test]
fn any_key_unmasks() {
    for key in [[0; 4], [0xFF; 4], [1, 2, 3, 4]] {
        check(
            &Frame { key, payload: b"thirteen byte", ..Frame::default() }.to_bytes(),
            &[text("thirteen byte")],
        );
    }
}

#[test]
fn a_whole_message_is_lent_from_the_read_buffer() {
    let mut read_buffer = [frame(OpCode::Text, b"here"), frame(OpCode::Binary, b"there")].concat();
    let addresses = read_buffer.as_ptr_range();
    let mut decoder = Decoder::new();
    let mut input = &mut read_buffer[..];
    let Ok(Some(Received::Text(text))) = decoder.decode(&ROOMY, &mut Inflater::default(), &mut input) else {
        panic!("a text")
    };
    assert!(addresses.contains(&text.as_ptr()));
    assert_eq!(text, "here");
    let Ok(Some(Received::Binary(bytes))) = decoder.decode(&ROOMY, &mut Inflater::default(), &mut input)
    else {
        panic!("bytes")
    };
    assert!(addresses.contains(&bytes.as_ptr()));
    assert_eq!(decoder.held_bytes(), 0);
}
