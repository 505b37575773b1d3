//! Payloads as services publish them, and what clients of both encodings are sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::json::{self, decimal_text};
use crate::msgpack;

fn read(payload: &[u8], mode: PayloadMode) -> Result<Payload<'_>, PayloadError> {
    Payload::read(payload, mode)
}

/// The payload of a frame, whose header must fit it.
fn unframed(frame: &[u8]) -> &[u8] {
    let (header, len) = match frame[1] {
        126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
        127 => (10, u64::from_be_bytes(frame[2..10].try_into().unwrap()) as usize),
        len => (2, usize::from(len)),
    };
    assert_eq!(frame.len() - header, len);
    &frame[header..]
}

fn as_json(payload: &Payload<'_>) -> String {
    let event = Event::new(payload, "c", None);
    let frame = encode_event(Encoding::Json, &event);
    assert_eq!(frame[0], 0x81);
    assert_eq!(unframed(&frame), event.json().as_bytes());
    event.json().to_owned()
}

/// An event says what its payload said.
fn assert_same(event: &Event, payload: &Payload<'_>) {
    assert_eq!((event.name(), event.data_json()), (payload.name(), payload.data_json()));
    assert_eq!((event.from(), event.tags_json()), (payload.from(), payload.tags_json()));
    assert_eq!(event.key(), payload.key().map(|key| &**key));
    assert_eq!((event.ts(), event.server_id()), (payload.ts(), payload.server_id()));
}

#[test]
fn an_envelope_is_told_from_data() {
    type Row = (&'static str, &'static str, &'static str);
    let rows: &[Row] = &[
        // payload, event, data
        (r#"{"event":"hit"}"#, "hit", "null"),
        (r#"{"event":"hit","data":{"a" : 1}}"#, "hit", r#"{"a" : 1}"#),
        (r#" {"data":[1, 2],"event":"h\u0069t"} "#, "hit", "[1, 2]"),
        (r#"{"ev\u0065nt":"hit","data":12345678901234567890123}"#, "hit", "12345678901234567890123"),
        (r#"{"event":"a","event":"b","data":1,"data":2}"#, "b", "2"),
        (r#"{"event":"a","event":1}"#, "message", r#"{"event":"a","event":1}"#),
        (r#"{"event":"hit","more":1}"#, "message", r#"{"event":"hit","more":1}"#),
        (r#"{"event":"hit","offset":1}"#, "message", r#"{"event":"hit","offset":1}"#),
        (r#"{"event":"hit","id":"x1"}"#, "message", r#"{"event":"hit","id":"x1"}"#),
        (r#"{"event":"hit","id":7}"#, "message", r#"{"event":"hit","id":7}"#),
        (r#"{"event":"hit","id":"db1.x","data":1}"#, "hit", "1"),
        (r#"{"data":1}"#, "message", r#"{"data":1}"#),
        (r#"{"event":7}"#, "message", r#"{"event":7}"#),
        (r#"{"event":""}"#, "", "null"),
        ("{}", "message", "{}"),
        (" [1, 2]\n", "message", "[1, 2]"),
        ("7", "message", "7"),
        ("1e999", "message", "1e999"),
        ("null", "message", "null"),
        ("\"x\"", "message", "\"x\""),
        ("hello", "message", "\"hello\""),
        ("", "message", "\"\""),
        ("{\"event\":", "message", r#""{\"event\":""#),
        ("two\nlines\u{0}", "message", r#""two\nlines\u0000""#),
        ("NaN", "message", "\"NaN\""),
        (r#"{"event":"\ud800","data":"\ud800"}"#, "\u{FFFD}", r#""\ud800""#),
        ("\"\u{2028}\"", "message", "\"\u{2028}\""),
    ];
    for (payload, name, data) in rows {
        let event = read(payload.as_bytes(), PayloadMode::Auto).unwrap();
        assert_eq!((event.name(), event.data_json()), (*name, *data), "{payload:?}");
        let json = as_json(&event);
        assert!(json.contains(&format!("\"data\":{data}")), "{json}");
        serde_json::from_str::<&RawValue>(&json).unwrap();
    }
}

#[test]
fn ill_typed_members_count_as_absent() {
    let event =
        read(br#"{"event":"e","from":7,"key":null,"tags":[],"ts":"now"}"#, PayloadMode::Auto).unwrap();
    assert_eq!((event.from(), event.tags_json(), event.ts()), (None, None, None));
    assert_eq!(event.key(), None);
    assert_eq!(as_json(&event), r#"{"type":"EVENT","channel":"c","event":"e","data":null}"#);
}

#[test]
fn members_are_kept_as_they_were_written() {
    let payload = br#"{"event":"e","from":"b\"ob","key":7,"tags":{ "a":1 },"ts":1500.75,"data":{}}"#;
    let event = read(payload, PayloadMode::Auto).unwrap();
    assert_eq!(event.from(), Some("b\"ob"));
    assert_eq!(event.key().unwrap(), "7");
    assert_eq!(event.tags_json(), Some(r#"{ "a":1 }"#));
    assert_eq!(event.ts(), Some("1500"));
    let told = Event::new(&event, "c", Some(9));
    assert_same(&told, &event);
    assert_eq!(
        told.json(),
        r#"{"type":"EVENT","channel":"c","event":"e","data":{},"from":"b\"ob","key":"7","tags":{ "a":1 },"offset":9,"ts":1500}"#
    );
}

#[test]
fn a_key_that_is_a_number_is_its_decimal_text() {
    let rows = [
        ("7", "7"),
        ("-7", "-7"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("7.0", "7"),
        ("7.25", "7.25"),
        ("1e3", "1000"),
        ("1e999", "1e999"),
    ];
    for (number, key) in rows {
        assert_eq!(decimal_text(number), key);
    }
}

#[test]
fn envelope_mode_takes_only_events_and_raw_mode_only_ours() {
    let foreign = br#"{"event":"e","data":1,"more":2}"#;
    assert_eq!(read(foreign, PayloadMode::Envelope).unwrap().name(), "e");
    for payload in [&b"{}"[..], b"[]", b"x", b"", b"\xff", br#"{"event":1}"#] {
        assert_eq!(read(payload, PayloadMode::Envelope).unwrap_err(), PayloadError::NotAnEnvelope);
    }
    let plain = br#"{"event":"e","data":1}"#;
    let event = read(plain, PayloadMode::Raw).unwrap();
    assert_eq!((event.name(), event.data_json().as_bytes()), ("message", &plain[..]));
    let ours = Envelope { event: "e", data: "1", id: Some("db1.n1-7"), ..Envelope::default() }.to_payload();
    for mode in [PayloadMode::Auto, PayloadMode::Envelope, PayloadMode::Raw] {
        let event = read(&ours, mode).unwrap();
        assert_eq!((event.name(), event.data_json()), ("e", "1"), "{mode:?}");
    }
}

#[test]
fn bytes_of_a_player_are_read_back_as_bytes_in_every_mode() {
    let ours =
        Envelope { event: "e", data: r#""/wAB""#, is_base64: true, id: Some("db1.1"), ..Envelope::default() };
    let payload = ours.to_payload();
    assert_eq!(&payload[..], br#"{"event":"e","data":"/wAB","encoding":"base64","id":"db1.1"}"#);
    for mode in [PayloadMode::Auto, PayloadMode::Envelope, PayloadMode::Raw] {
        assert!(read(&payload, mode).unwrap().is_base64(), "{mode:?}");
    }
}

#[test]
fn only_a_string_that_decodes_stands_for_bytes() {
    for data in ["1", "null", "[\"/wAB\"]", "\"/wA\"", "\"\\/wAB\"", "\"/w\\u0041B\"", "\" /wAB\""] {
        let payload = format!(r#"{{"event":"e","data":{data},"encoding":"base64","id":"db1.1"}}"#);
        assert!(!read(payload.as_bytes(), PayloadMode::Auto).unwrap().is_base64(), "{data}");
    }
    let other = br#"{"event":"e","data":"/wAB","encoding":"hex","id":"db1.1"}"#;
    assert!(!read(other, PayloadMode::Auto).unwrap().is_base64());
}

#[test]
fn bytes_that_are_no_text_reach_json_as_base64_and_messagepack_as_bin() {
    let event = read(b"\xff\x00\x01", PayloadMode::Auto).unwrap();
    assert!(event.is_base64());
    assert_eq!(
        as_json(&event),
        r#"{"type":"EVENT","channel":"c","event":"message","data":"/wAB","encoding":"base64"}"#
    );
    let frame = encode_event(Encoding::MsgPack, &Event::new(&event, "c", None));
    assert_eq!(frame[0], 0x82);
    let bin = b"\xa4data\xc4\x03\xff\x00\x01";
    assert!(unframed(&frame).windows(bin.len()).any(|window| window == bin));
    assert_eq!(
        msgpack::to_json(unframed(&frame)).unwrap(),
        r#"{"type":"EVENT","channel":"c","event":"message","data":"/wAB"}"#
    );
}

#[test]
fn what_nests_too_deep_is_shown_as_text() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let rows = [
        (nested(64), "message", nested(64)),
        (nested(65), "message", format!("\"{}\"", nested(65))),
        (format!(r#"{{"event":"e","data":{}}}"#, nested(64)), "e", nested(64)),
        (format!(r#"{{"event":"e","data":{}}}"#, nested(65)), "e", format!("\"{}\"", nested(65))),
        (format!(r#"{{"event":"e","tags":{{"a":{}}}}}"#, nested(64)), "e", "null".into()),
        (format!(r#"{{"x":{}}}"#, nested(64)), "message", format!(r#""{{\"x\":{}}}""#, nested(64))),
        ("[".repeat(1_000_000), "message", format!("\"{}\"", "[".repeat(1_000_000))),
    ];
    for (payload, name, data) in rows {
        let event = read(payload.as_bytes(), PayloadMode::Auto).unwrap();
        assert_eq!(event.name(), name);
        assert!(event.data_json() == data, "{}", &payload[..payload.len().min(80)]);
        assert_eq!(event.tags_json(), None);
    }
}

#[test]
fn frames_have_the_header_that_their_length_needs() {
    for size in [0, 10, 70, 200, 65_000, 65_536, 100_000] {
        let text = "x".repeat(size);
        let event = read(text.as_bytes(), PayloadMode::Auto).unwrap();
        let json = as_json(&event);
        assert_eq!(json.len(), size + r#"{"type":"EVENT","channel":"c","event":"message","data":""}"#.len());
    }
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let envelope = (any::<String>(), r#"(\[|\]|\{|\}|1|"a"|:|,|null){0,6}"#, any::<Option<i32>>()).prop_map(
        |(event, data, ts)| {
            let ts = ts.map_or(String::new(), |ts| format!(",\"ts\":{ts},\"key\":{ts}"));
            format!("{{\"event\":{},\"data\":{data}{ts}}}", json::quoted(&event)).into_bytes()
        },
    );
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        any::<String>().prop_map(String::into_bytes),
        envelope
    ]
}

proptest! {
    #[test]
    fn any_payload_reaches_clients_of_both_encodings(
        payload in any_payload(),
        mode in prop_oneof![Just(PayloadMode::Auto), Just(PayloadMode::Envelope), Just(PayloadMode::Raw)],
        channel in "[a-z:é\"]{1,10}",
        offset in prop::option::of(1..=u64::MAX),
    ) {
        let Ok(payload) = read(&payload, mode) else {
            prop_assert_eq!(mode, PayloadMode::Envelope);
            return Ok(());
        };
        let event = Event::new(&payload, &channel, offset);
        assert_same(&event, &payload);
        let json: serde_json::Value = serde_json::from_str(event.json()).unwrap();
        prop_assert_eq!(json["channel"].as_str(), Some(&*channel));
        prop_assert_eq!(json["event"].as_str(), Some(event.name()));
        prop_assert_eq!(json["offset"].as_u64(), offset);
        let packed = encode_event(Encoding::MsgPack, &event);
        let mut unpacked: serde_json::Value =
            serde_json::from_str(&msgpack::to_json(unframed(&packed)).unwrap()).unwrap();
        if payload.is_base64() {
            unpacked["encoding"] = "base64".into();
        }
        prop_assert_eq!(unpacked, json);
    }

    #[test]
    fn what_a_server_publishes_is_read_back_in_every_mode(
        name in any::<String>(),
        from in any::<Option<String>>(),
        key in any::<Option<String>>(),
        ts in any::<Option<u64>>(),
        mode in prop_oneof![Just(PayloadMode::Auto), Just(PayloadMode::Envelope), Just(PayloadMode::Raw)],
    ) {
        let envelope = Envelope {
            event: &name,
            data: "[1, \"\\ud800\"]",
            is_base64: false,
            from: from.as_deref(),
            tags: Some("{}"),
            key: key.as_deref(),
            ts,
            id: Some("db1.1"),
        };
        let bytes = envelope.to_payload();
        let event = Event::new(&read(&bytes, mode).unwrap(), "c", None);
        prop_assert_eq!(event.name(), name);
        prop_assert_eq!(event.data_json(), "[1, \"\\ud800\"]");
        prop_assert_eq!(event.from(), from.as_deref());
        prop_assert_eq!(event.key(), key.as_deref());
        prop_assert_eq!(event.tags_json(), Some("{}"));
        prop_assert_eq!(event.ts().map(str::to_owned), ts.map(|ts| ts.to_string()));
    }
}
