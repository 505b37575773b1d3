//! The reader accepts what RFC 8259 calls JSON, measures it, and decodes strings as JavaScript would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

#[test]
fn a_value_is_measured_without_its_surroundings() {
    let rows = [
        ("1", JsonKind::Number, 0),
        (" null\n", JsonKind::Null, 0),
        ("true", JsonKind::Bool, 0),
        ("\t\"a\\\"b\" ", JsonKind::String, 0),
        ("[]", JsonKind::Array, 1),
        ("{}", JsonKind::Object, 1),
        ("[1,[2,{\"a\":[]}],3]", JsonKind::Array, 4),
        ("{ \"a\" : { } , \"b\" : [ 1 , 2 ] }", JsonKind::Object, 2),
        ("-0.5e+10", JsonKind::Number, 0),
        ("1e999", JsonKind::Number, 0),
        ("\"\u{2028}\"", JsonKind::String, 0),
        (r#""\ud800""#, JsonKind::String, 0),
    ];
    for (text, kind, depth) in rows {
        let value = Value::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((value.kind, value.depth, value.text), (kind, depth, text.trim()), "{text}");
    }
}

#[test]
fn what_is_not_json_is_refused_where_it_stops_being_json() {
    let rows = [
        ("", 0),
        ("  ", 2),
        ("nul", 0),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("{\"a\":1,}", 7),
        ("{\"a\" 1}", 5),
        ("{a:1}", 1),
        ("{1:1}", 1),
        ("[1}", 2),
        ("01", 1),
        ("-", 1),
        ("1.", 2),
        ("1e", 2),
        ("+1", 0),
        ("\"a", 2),
        ("\"\n\"", 1),
        (r#""\x""#, 1),
        (r#""\u12g4""#, 1),
        (r#""\u12"#, 1),
        ("1 1", 2),
        ("[", 1),
        ("NaN", 0),
        ("\u{feff}1", 0),
    ];
    for (text, at) in rows {
        assert_eq!(Value::parse(text).map_err(|error| error.at), Err(at), "{text:?}");
    }
}

#[test]
fn depth_costs_no_stack() {
    let open = "[".repeat(1_000_000);
    assert!(Value::parse(&open).is_err());
    let closed = open + &"]".repeat(1_000_000);
    assert_eq!(Value::parse(&closed).unwrap().depth, 1_000_000);
    let objects = "{\"a\":[".repeat(500) + "1" + &"]}".repeat(500);
    assert_eq!(Value::parse(&objects).unwrap().depth, 1000);
    assert!(Value::parse(&("{\"a\":[".repeat(500) + "1" + &"}]".repeat(500))).is_err());
}

#[test]
fn strings_are_decoded_as_javascript_does() {
    let rows = [
        (r#""plain""#, "plain"),
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u00e9\uD83D\uDE00x""#, "é😀x"),
        (r#""\ud800""#, "\u{FFFD}"),
        (r#""\ud800\ud800\udc00""#, "\u{FFFD}\u{10000}"),
        (r#""\udc00\n""#, "\u{FFFD}\n"),
        (r#""\ud800\u0041""#, "\u{FFFD}A"),
    ];
    for (text, meant) in rows {
        let string = Value::parse(text).unwrap().as_str().unwrap();
        assert_eq!(string.decode(), meant, "{text}");
        assert_eq!(string.decode_strict().is_none(), meant.contains('\u{FFFD}'), "{text}");
    }
}

proptest! {
    #[test]
    fn a_number_is_written_in_decimal(number in prop_oneof![any::<u64>(), 0..100u64, Just(u64::MAX)]) {
        let mut out = Vec::new();
        push_number(&mut out, number);
        prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
    }

    #[test]
    fn a_string_is_plain_up_to_what_must_be_escaped(text in "[ -~\u{0}\u{1f}é\u{7f}\u{80}😀]{0,40}") {
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
        let expected = text.bytes().position(|byte| special(&byte)).unwrap_or(text.len());
        prop_assert_eq!(plain_len(text.as_bytes()), expected);
    }

    #[test]
    fn written_strings_are_read_back(text in any::<String>()) {
        let mut out = Vec::new();
        push_string(&mut out, &text);
        let json = String::from_utf8(out).unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text.as_str());
        prop_assert_eq!(Value::parse(&json).unwrap().as_str().unwrap().decode_strict().unwrap(), text);
    }

    #[test]
    fn the_reader_and_serde_json_agree_on_what_json_is(
        text in prop_oneof![
            any::<String>(),
            r#"[\[\]{},:"0-9a-f eE.+\\u\-]{0,24}"#,
            r#"(\{"a":)?\[?(1|-1\.5|"x\\u00(e9|zz)"|null|tru|true|\[\]|\{\}|,| )*\]?\}?"#,
        ]
    ) {
        let theirs = serde_json::from_str::<&RawValue>(&text);
        let ours = Value::parse(&text);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.text, theirs.get());
        }
    }
}
