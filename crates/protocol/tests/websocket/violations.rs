//! What a client must not do, each with the code that it is closed with.

use drawbridge_protocol::CloseCode;
use drawbridge_protocol::websocket::{Decoder, Inflater, MAX_EMPTY_FRAGMENTS, OpCode};

use crate::client::{Frame, ROOMY, announce, fragment, frame, read};

/// Reads `stream`, which has to be refused with `code` once its last byte is there, and not before.
#[track_caller]
fn check(what: &str, stream: &[u8], code: CloseCode) {
    let outcome = read(&ROOMY, stream);
    assert_eq!(outcome.violation.map(|violation| violation.code), Some(code), "{what}");
    assert_eq!(read(&ROOMY, &stream[..stream.len() - 1]).violation, None, "{what}: without its last byte");
}

#[test]
fn headers_that_are_not_well_formed() {
    use CloseCode::ProtocolError as Protocol;
    for bit in [0x40, 0x20, 0x10] {
        check("a reserved bit", &[0x81 | bit], Protocol);
    }
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        check("a reserved opcode", &[0x80 | opcode], Protocol);
    }
    for opcode in [0x1, 0x2, 0x8, 0x9, 0xA] {
        check("not masked", &[0x80 | opcode, 0x00], Protocol);
    }
    for opcode in [0x8, 0x9, 0xA] {
        check("a fragmented control frame", &[opcode], Protocol);
        check("a control frame of 126", &[0x80 | opcode, 0x80 | 126], Protocol);
        check("a control frame of 2^16", &[0x80 | opcode, 0x80 | 127], Protocol);
    }
    check("125 in two bytes", b"\x82\xfe\x00\x7d", Protocol);
    check("0 in two bytes", b"\x82\xfe\x00\x00", Protocol);
    check("65535 in eight bytes", b"\x82\xff\0\0\0\0\0\0\xff\xff", Protocol);
    check("2^63", b"\x82\xff\x80\0\0\0\0\0\0\0", Protocol);
    check("HTTP", b"G", Protocol);
}

#[test]
fn frames_out_of_order() {
    use CloseCode::ProtocolError as Protocol;
    check("a continuation first", &announce(true, OpCode::Continuation, 0), Protocol);
    check("a continuation first", &announce(false, OpCode::Continuation, 9), Protocol);
    let whole = [frame(OpCode::Text, b"a"), announce(true, OpCode::Continuation, 1)].concat();
    check("a continuation after a whole message", &whole, Protocol);
    let ended = [
        fragment(OpCode::Text, b"a"),
        frame(OpCode::Continuation, b"b"),
        announce(true, OpCode::Continuation, 1),
    ];
    check("a continuation after the last", &ended.concat(), Protocol);
    for opcode in [OpCode::Text, OpCode::Binary] {
        let inside = [fragment(OpCode::Text, b"a"), announce(true, opcode, 1)].concat();
        check("a message inside a message", &inside, Protocol);
    }
}

#[test]
fn close_frames_that_are_not_well_formed() {
    check("half a code", &frame(OpCode::Close, b"\x03"), CloseCode::ProtocolError);
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        check("a code not to be sent", &frame(OpCode::Close, &code.to_be_bytes()), CloseCode::ProtocolError);
    }
    check("a reason", &frame(OpCode::Close, b"\x03\xe8\xff"), CloseCode::InvalidPayload);
}

/// Texts with the length of the front after which no continuation can make them UTF-8.
const NOT_UTF8: &[(&[u8], usize)] = &[
    (b"a\x80", 2),
    (b"\xce\xbax\xc0\xaf", 4),
    (b"\xed\xa0\x80edited", 2),
    (b"\xf4\x90\x80\x80", 2),
    (b"\xf0\x80\x80\xaf", 2),
    (b"\xe2\x82x", 3),
    (b"ok \xff never looked at", 4),
];

#[test]
fn text_that_is_not_utf8_is_refused_at_its_first_bad_byte() {
    for (text, bad_at) in NOT_UTF8 {
        let bytes = frame(OpCode::Text, text);
        let cut = bytes.len() - text.len() + bad_at;
        check("in one frame", &bytes[..cut], CloseCode::InvalidPayload);
        check(
            "the next fragment is not waited for",
            &fragment(OpCode::Text, &text[..*bad_at]),
            CloseCode::InvalidPayload,
        );
        let bytewise: Vec<u8> = [fragment(OpCode::Text, b"")]
            .into_iter()
            .chain(text[..*bad_at].chunks(1).map(|byte| fragment(OpCode::Continuation, byte)))
            .flatten()
            .collect();
        check("in fragments of a byte", &bytewise, CloseCode::InvalidPayload);
    }
}

#[test]
fn a_text_that_ends_inside_a_character() {
    check("in one frame", &frame(OpCode::Text, b"\xe2\x82"), CloseCode::InvalidPayload);
    let fragments = [fragment(OpCode::Text, b"\xe2\x82"), frame(OpCode::Continuation, b"")].concat();
    check("ended by an empty frame", &fragments, CloseCode::InvalidPayload);
}

#[test]
fn binary_and_pings_need_not_be_utf8() {
    for opcode in [OpCode::Binary, OpCode::Ping, OpCode::Pong] {
        assert_eq!(read(&ROOMY, &frame(opcode, b"\xff\xc0")).violation, None);
    }
}

#[test]
fn empty_fragments_do_not_go_on_forever() {
    let empty = fragment(OpCode::Continuation, b"");
    let allowed = [fragment(OpCode::Binary, b"x"), empty.repeat(MAX_EMPTY_FRAGMENTS as usize)].concat();
    assert_eq!(read(&ROOMY, &[allowed.clone(), frame(OpCode::Continuation, b"")].concat()).violation, None);
    check("one more", &[allowed, empty].concat(), CloseCode::MessageTooBig);
}

#[test]
fn nothing_is_read_after_a_violation() {
    let mut decoder = Decoder::new();
    let mut bytes = [fragment(OpCode::Text, b"begun"), vec![0xFF]].concat();
    let mut input = &mut bytes[..];
    assert_eq!(
        decoder.decode(&ROOMY, &mut Inflater::default(), &mut input).unwrap_err().code,
        CloseCode::ProtocolError
    );
    let mut more = frame(OpCode::Text, b"late");
    let mut input = &mut more[..];
    assert_eq!(decoder.decode(&ROOMY, &mut Inflater::default(), &mut input), Ok(None));
    assert!(input.is_empty());
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn reasons_fit_a_close_frame() {
    let bad = Frame { opcode: 3, ..Frame::default() }.to_bytes();
    let violation = read(&ROOMY, &bad).violation.unwrap();
    assert!(violation.reason.len() <= 123);
    assert_eq!(violation.to_string(), "a reserved opcode (close code 1002)");
}
