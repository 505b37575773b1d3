//! Both directions, byte for byte, and what they refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn packed(json: &str) -> Vec<u8> {
    let mut out = Vec::new();
    from_json(json, &mut out).unwrap_or_else(|error| panic!("{json}: {error}"));
    out
}

#[test]
fn json_becomes_the_shortest_messagepack_and_comes_back() {
    let rows = [
        ("null", "c0"),
        ("true", "c3"),
        ("false", "c2"),
        ("0", "00"),
        ("127", "7f"),
        ("128", "cc80"),
        ("256", "cd0100"),
        ("65536", "ce00010000"),
        ("4294967296", "cf0000000100000000"),
        ("18446744073709551615", "cfffffffffffffffff"),
        ("-1", "ff"),
        ("-32", "e0"),
        ("-33", "d0df"),
        ("-128", "d080"),
        ("-129", "d1ff7f"),
        ("-32769", "d2ffff7fff"),
        ("-2147483649", "d3ffffffff7fffffff"),
        ("-9223372036854775808", "d38000000000000000"),
        ("1.5", "cb3ff8000000000000"),
        ("1.0", "cb3ff0000000000000"),
        ("\"\"", "a0"),
        ("\"é\"", "a2c3a9"),
        ("[]", "90"),
        ("{}", "80"),
        ("[1,[2,{\"a\":null}]]", "92019202" /* [2, … */),
    ];
    for (json, bytes) in rows {
        let packed = packed(json);
        assert!(hex(&packed).starts_with(bytes), "{json}: {}", hex(&packed));
        assert_eq!(to_json(&packed).unwrap(), json);
    }
}

#[test]
fn lengths_take_the_header_they_need() {
    let rows = [
        (format!("\"{}\"", "x".repeat(31)), "bf"),
        (format!("\"{}\"", "x".repeat(32)), "d920"),
        (format!("\"{}\"", "x".repeat(256)), "da0100"),
        (format!("\"{}\"", "x".repeat(65536)), "db00010000"),
        (format!("[{}0]", "0,".repeat(14)), "9f"),
        (format!("[{}0]", "0,".repeat(15)), "dc0010"),
        (format!("[{}0]", "0,".repeat(65535)), "dd00010000"),
        (format!("{{{}\"k\":0}}", (0..15).map(|n| format!("\"{n}\":0,")).collect::<String>()), "de0010"),
        (format!("{{\"a\":[{}0],\"b\":1}}", "[0],".repeat(20)), "82a161dc0015"),
    ];
    for (json, header) in rows {
        let packed = packed(&json);
        assert!(hex(&packed).starts_with(header), "{header}: {}", hex(&packed[..8]));
        assert_eq!(to_json(&packed).unwrap(), json);
    }
}

#[test]
fn what_json_can_say_and_messagepack_cannot_is_brought_near() {
    let rows = [
        ("1e999", "cb7fefffffffffffff"),
        ("-1e999", "cbffefffffffffffff"),
        ("18446744073709551616", "cb43f0000000000000"),
        ("1e2", "cb4059000000000000"),
        ("-0", "00"),
        (r#""\ud800""#, "a3efbfbd"),
        (r#"{"a":1,"a":2}"#, "82a16101a16102"),
        (" [ 1 , 2 ] ", "920102"),
    ];
    for (json, bytes) in rows {
        assert_eq!(hex(&packed(json)), bytes, "{json}");
    }
}

#[test]
fn what_messagepack_can_say_and_json_cannot_is_brought_near() {
    let rows = [
        ("c403010203", "\"AQID\""),
        ("c5000101", "\"AQ==\""),
        ("c60000000101", "\"AQ==\""),
        ("ca3fc00000", "1.5"),
        ("ca3dcccccd", "0.10000000149011612"),
        ("cb7fefffffffffffff", "1.7976931348623157e308"),
        ("cb8000000000000000", "-0.0"),
        ("d90161", "\"a\""),
        ("a3610a22", "\"a\\n\\\"\""),
        ("dc000101", "[1]"),
        ("df00000001a16101", "{\"a\":1}"),
        ("d30000000000000001", "1"),
    ];
    for (bytes, json) in rows {
        assert_eq!(to_json(&unhex(bytes)).unwrap(), json, "{bytes}");
        serde_json::from_str::<serde_json::Value>(json).unwrap();
    }
}

#[test]
fn what_is_no_message_is_refused_where_it_fails() {
    let rows = [
        ("", 0, MsgPackProblem::Truncated),
        ("92", 1, MsgPackProblem::Truncated),
        ("a361", 2, MsgPackProblem::Truncated),
        ("ddffffffff", 5, MsgPackProblem::Truncated),
        ("dbffffffff61", 6, MsgPackProblem::Truncated),
        ("c6ffffffff61", 6, MsgPackProblem::Truncated),
        ("cd01", 2, MsgPackProblem::Truncated),
        ("0101", 1, MsgPackProblem::Trailing),
        ("91c1", 1, MsgPackProblem::Unknown),
        ("d6ff00000000", 0, MsgPackProblem::Extension),
        ("c70001", 0, MsgPackProblem::Extension),
        ("cb7ff8000000000000", 0, MsgPackProblem::NotFinite),
        ("ca7f800000", 0, MsgPackProblem::NotFinite),
        ("a1ff", 1, MsgPackProblem::NotUtf8),
        ("810101", 1, MsgPackProblem::KeyNotString),
        ("81c4016101", 1, MsgPackProblem::KeyNotString),
    ];
    for (bytes, at, problem) in rows {
        assert_eq!(to_json(&unhex(bytes)), Err(MsgPackError { at, problem }), "{bytes}");
    }
}

#[test]
fn depth_costs_no_stack() {
    let mut deep = vec![0x91; 1_000_000];
    deep.push(0x01);
    let json = to_json(&deep).unwrap();
    assert_eq!(json::Value::parse(&json).unwrap().depth, 1_000_000);
    let mut back = Vec::new();
    from_json(&json, &mut back).unwrap();
    assert!(back == deep);
}

/// JSON values whose numbers survive the way to MessagePack and back as text.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        // serde_json reads some longer fractions one step off, so these are short.
        any::<i32>().prop_map(|n| (f64::from(n) / 4.0).into()),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 64, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Into::into),
            prop::collection::vec((any::<String>(), inner), 0..20)
                .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_round_trip_keeps_every_value(value in any_json()) {
        let json = to_json(&packed(&value.to_string())).unwrap();
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }

    #[test]
    fn a_round_trip_keeps_every_float(value in any::<f64>()) {
        prop_assume!(value.is_finite());
        let bytes = packed(&format!("{value:?}"));
        prop_assert_eq!(&bytes[1..], value.to_be_bytes());
        prop_assert_eq!(to_json(&bytes).unwrap().parse::<f64>().unwrap().to_bits(), value.to_bits());
    }

    #[test]
    fn arbitrary_bytes_give_json_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(json) = to_json(&bytes) {
            prop_assert!(json::Value::parse(&json).is_ok(), "{}", json);
            let again = packed(&json);
            let (again, first) = (to_json(&again).unwrap(), json);
            prop_assert_eq!(again, first);
        }
    }
}

/// What may not be is told by its place in the text, and the rest of the message goes on behind it.
#[test]
fn what_may_not_be_stands_alone() {
    let rows = [
        // [NaN, 1]
        ("92cb7ff800000000000001", "[null,1]", 1),
        // [ext of 2 bytes, 1], [ext of a length, 1]
        ("92d505616201", "[null,1]", 1),
        ("92c7030561626301", "[null,1]", 1),
        ("92c8000205616201", "[null,1]", 1),
        // [not UTF-8, 1]
        ("92a1ff01", "[null,1]", 1),
        // {1: 2, a: 3}, {bin: 2}, {nil: 2}
        ("820102a16103", r#"{"":2,"a":3}"#, 1),
        ("81c4016102", r#"{"":2}"#, 1),
        ("81c002", r#"{"":2}"#, 1),
        // {not UTF-8: 2}
        ("81a1ff02", r#"{"":2}"#, 1),
    ];
    for (bytes, json, at) in rows {
        let (text, foreign) = translate(&unhex(bytes)).unwrap();
        assert_eq!(text, json, "{bytes}");
        assert_eq!(foreign.faults.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [at], "{bytes}");
        assert!(foreign.binaries.is_empty() && to_json(&unhex(bytes)).is_err(), "{bytes}");
    }
    let (text, foreign) = translate(&unhex("92c40161a161")).unwrap();
    assert_eq!((text.as_str(), &foreign.binaries[..]), (r#"["YQ==","a"]"#, &[1][..]));
    assert!(translate(&unhex("81900102")).is_err(), "a key that is an array");
}
