//! What the golden vectors do not say: the bytes that are kept, the hints, and arbitrary input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::SentArea;
use crate::message::{ClientMessage, RequestId, Resume, SentPosition};

fn one(json: &str) -> Result<Request, BadRequest> {
    let mut requests = decode(Encoding::Json, json.as_bytes());
    assert_eq!(requests.len(), 1, "{json}");
    requests.remove(0)
}

fn message(json: &str) -> ClientMessage {
    one(json).unwrap_or_else(|bad| panic!("{json}: {bad:?}")).message
}

#[test]
fn data_is_kept_byte_for_byte() {
    for data in
        ["12345678901234567890123", "{ \"a\" : [1 , 1.50] }", r#""\ud800\u0041""#, "-0", "1e999", "null"]
    {
        let json = format!(r#"{{"type":"PUBLISH_EVENT","channel":"c","event":"e","data": {data} }}"#);
        let ClientMessage::Publish(publish) = message(&json) else { panic!() };
        assert_eq!(publish.data.get(), data);
    }
}

#[test]
fn bin_is_bytes_where_it_is_the_whole_data() {
    // {"type":"PUBLISH_EVENT","channel":"c","event":"e","data":…}, twice in one array.
    let publish = |data: &[u8]| {
        let head = b"\x84\xa4type\xadPUBLISH_EVENT\xa7channel\xa1c\xa5event\xa1e\xa4data";
        [&head[..], data].concat()
    };
    let data: [(&[u8], &str, bool); 4] = [
        (b"\xc4\x03\xff\x00\x01", r#""/wAB""#, true),
        (b"\xc4\x00", r#""""#, true),
        (b"\xa4/wAB", r#""/wAB""#, false),
        (b"\x91\xc4\x03\xff\x00\x01", r#"["/wAB"]"#, false),
    ];
    for (data, json, is_base64) in data {
        let batch = [&b"\x92"[..], &publish(b"\x01")[..], &publish(data)].concat();
        let request = decode(Encoding::MsgPack, &batch).remove(1).unwrap();
        let ClientMessage::Publish(publish) = request.message else { panic!() };
        assert_eq!((publish.data.get(), publish.is_base64), (json, is_base64));
    }
    let ClientMessage::Publish(text) =
        message(r#"{"type":"PUBLISH_EVENT","channel":"c","event":"e","data":"/wAB","encoding":"base64"}"#)
    else {
        panic!()
    };
    assert!(!text.is_base64);
}

#[test]
fn what_is_absent_or_null_is_told_from_what_is_there() {
    let ClientMessage::Publish(publish) =
        message(r#"{"type":"PUBLISH_EVENT","channel":"c","event":"","key":7,"idempotency_key":null}"#)
    else {
        panic!()
    };
    assert_eq!(publish.data.get(), "null");
    assert_eq!(publish.key.as_deref(), Some("7"));
    assert_eq!(publish.idempotency_key, None);

    let ClientMessage::Connect(connect) =
        message(r#"{"type":"CONNECT","token":null,"subscribe":null,"resume":null}"#)
    else {
        panic!()
    };
    assert!(connect.token.is_none() && connect.subscribe.is_none() && connect.resume.is_none());

    let ClientMessage::Subscribe(subscribe) =
        message(r#"{"type":"CHANNEL_SUBSCRIBE","channel":"c","filter":null,"area":null}"#)
    else {
        panic!()
    };
    assert!(subscribe.filter.is_none() && subscribe.area.is_none());

    let ClientMessage::FilterUpdate(update) =
        message(r#"{"type":"FILTER_UPDATE","channel":"c","filter":null}"#)
    else {
        panic!()
    };
    assert_eq!(update.filter, Some(None));
    assert!(update.area.is_none());

    let ClientMessage::Ping { t } = message(r#"{"type":"PING","t":null}"#) else { panic!() };
    assert_eq!(t.unwrap().get(), "null");
}

#[test]
fn connect_carries_subscriptions() {
    let ClientMessage::Connect(connect) = message(
        r#"{"type":"CONNECT","token":"t","resume":{"session":"s"},
            "subscribe":[{"channel":"a","filter":"f","more":1},{"channel":"b","area":{"x":0}}]}"#,
    ) else {
        panic!()
    };
    assert_eq!(connect.resume, Some(Resume { session: "s".into(), positions: vec![] }));
    let [Ok(a), Ok(b)] = &connect.subscribe.unwrap()[..] else { panic!() };
    assert_eq!((a.channel.as_str(), a.filter.as_deref()), ("a", Some("f")));
    assert_eq!((b.channel.as_str(), b.area.as_ref().unwrap().get()), ("b", r#"{"x":0}"#));
}

#[test]
fn connect_says_which_session_it_resumes_and_how_far_its_client_has_read() {
    let resume = |json: &str| match one(&format!(r#"{{"type":"CONNECT","resume":{json}}}"#)) {
        Ok(Request { message: ClientMessage::Connect(connect), .. }) => Ok(connect.resume.unwrap()),
        Ok(other) => panic!("{other:?}"),
        Err(bad) => Err(bad.reason),
    };
    let good = resume(
        r#"{"session":"s","more":1,"positions":{"a:1":{"epoch":"k3x","offset":118},"b":{"offset":0,"epoch":""}}}"#,
    );
    let position = |epoch: &str, offset| SentPosition { epoch: epoch.into(), offset };
    let positions = vec![("a:1".to_owned(), position("k3x", 118)), ("b".to_owned(), position("", 0))];
    assert_eq!(good, Ok(Resume { session: "s".into(), positions }));
    assert!(!format!("{:?}", resume(r#"{"session":"hidden"}"#)).contains("hidden"));
    for (bad, expected) in [
        ("7", "`resume` must be an object, not a number"),
        ("{}", "`resume.session` is missing"),
        (r#"{"session":7}"#, "`resume.session` must be a string, not a number"),
        (r#"{"session":"s","positions":[]}"#, "`resume.positions` must be an object, not an array"),
        (
            r#"{"session":"s","positions":{"a":1}}"#,
            r#"`resume.positions["a"]` must be an object with `epoch`"#,
        ),
        (r#"{"session":"s","positions":{"a":{}}}"#, r#"`resume.positions["a"].epoch` is missing"#),
        (
            r#"{"session":"s","positions":{"a":{"epoch":"e","offset":-1}}}"#,
            r#"`resume.positions["a"].offset` must be an unsigned integer"#,
        ),
        (
            r#"{"session":"s","positions":{"a":{"epoch":"e","offset":9007199254740992}}}"#,
            r#"`resume.positions["a"].offset` must be"#,
        ),
    ] {
        let reason = resume(bad).unwrap_err();
        assert!(reason.contains(expected), "{bad}: {reason}");
    }
}

#[test]
fn an_element_that_is_no_subscription_is_answered_for_itself() {
    let ClientMessage::Connect(connect) = message(
        r#"{"type":"CONNECT","subscribe":[{"channel":"a"},"b",{},{"channel":7},{"channel":"c","filter":5},{"channel":"d","area":[]},{"channel":"e"}]}"#,
    ) else {
        panic!()
    };
    let subscribe = connect.subscribe.unwrap();
    let shown: Vec<_> = subscribe
        .iter()
        .map(|element| match element {
            Ok(subscribe) => (Some(&*subscribe.channel), "fine"),
            Err(bad) => (bad.channel.as_deref(), &*bad.reason),
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some("a"), "fine"),
            (None, "`subscribe[1]` must be an object with a `channel`, not a string"),
            (None, "`subscribe[2].channel` is missing: a channel's name, a string"),
            (None, "`subscribe[3].channel` must be a string, not a number"),
            (Some("c"), "`subscribe[4].filter` must be a string, not a number"),
            (Some("d"), "`subscribe[5].area` must be an object, not an array"),
            (Some("e"), "fine"),
        ]
    );
}

#[test]
fn an_unknown_type_gets_the_nearest_as_a_hint() {
    let rows = [
        ("SUBSCRIBE", "CHANNEL_SUBSCRIBE"),
        ("UNSUBSCRIBE", "CHANNEL_UNSUBSCRIBE"),
        ("CHANNEL_SUBSCRIBED", "CHANNEL_SUBSCRIBE"),
        ("PUBLISH", "PUBLISH_EVENT"),
        ("connect", "CONNECT"),
        ("PONG", "PING"),
        ("HISTORY", "HISTORY_GET"),
    ];
    for (wrong, right) in rows {
        let bad = one(&format!(r#"{{"type":"{wrong}","id":"x"}}"#)).unwrap_err();
        assert_eq!(bad.id, Some(RequestId::Text("x".into())));
        assert!(bad.reason.ends_with(&format!("did you mean {right}?")), "{}", bad.reason);
    }
    let far = one(r#"{"type":"xyzzy"}"#).unwrap_err().reason;
    assert!(far.contains("CONNECT, TOKEN_REFRESH"), "{far}");
    let long = one(&format!(r#"{{"type":"{}"}}"#, "A".repeat(10_000))).unwrap_err().reason;
    assert!(long.len() < 300, "{long}");
}

#[test]
fn depth_costs_no_stack_in_either_encoding() {
    let deep = format!(
        r#"{{"type":"PUBLISH_EVENT","id":1,"channel":"c","event":"e","data":{}1{}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let mut packed = Vec::new();
    msgpack::from_json(&deep, &mut packed).unwrap();
    for (encoding, bytes) in [(Encoding::Json, deep.as_bytes()), (Encoding::MsgPack, &packed)] {
        let bad = decode(encoding, bytes).remove(0).unwrap_err();
        assert_eq!(bad.id, Some(RequestId::Number(1)));
        assert_eq!(bad.reason, "`data` nests 200000 deep: at most 64 is allowed");
    }
    assert!(decode(Encoding::Json, "[".repeat(1_000_000).as_bytes())[0].is_err());
    assert!(decode(Encoding::MsgPack, &vec![0x91; 1_000_000])[0].is_err());
}

#[test]
fn text_that_is_not_utf8_is_said_to_be_so() {
    let bad = decode(Encoding::Json, b"{\"type\":\"\xff\"}").remove(0).unwrap_err();
    assert_eq!(bad.reason, "the message is not UTF-8 at byte 9");
}

/// Objects out of the words of the contract, right and wrong.
fn any_message() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("type"),
        Just("id"),
        Just("channel"),
        Just("event"),
        Just("data"),
        Just("key"),
        Just("filter"),
        Just("area"),
        Just("token"),
        Just("subscribe"),
        Just("t"),
    ];
    let value = prop_oneof![
        r#"(CONNECT|TOKEN_REFRESH|CHANNEL_SUBSCRIBE|PUBLISH_EVENT|PING|FILTER_UPDATE|[A-Z_]{0,9})"#
            .prop_map(|name| format!("\"{name}\"")),
        any::<String>().prop_map(|text| crate::json::quoted(&text)),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| format!("{f:?}")),
        any::<i64>().prop_map(|n| n.to_string()),
        r#"(null|true|\{\}|\[\]|\[\{"channel":"a"\}\])"#,
    ];
    let object = prop::collection::vec((name, value), 0..6).prop_map(|fields| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    });
    prop_oneof![
        object.clone(),
        prop::collection::vec(object, 0..4).prop_map(|objects| format!("[{}]", objects.join(",")))
    ]
}

/// In MessagePack too an element is answered for itself, with its id.
#[test]
fn what_messagepack_may_not_hold_is_answered_for_itself() {
    let packed = |json: &str, bin: bool| {
        let mut packed = Vec::new();
        msgpack::from_json(json, &mut packed).unwrap();
        // `#` represents what JSON has not: NaN, or a `bin`.
        let at = packed.windows(2).position(|two| two == [0xA1, b'#']).unwrap();
        let instead: &[u8] = if bin { &[0xC4, 1, b'x'] } else { &[0xCA, 0x7F, 0xC0, 0, 0] };
        packed.splice(at..at + 2, instead.iter().copied());
        decode(Encoding::MsgPack, &packed)
    };
    let requests =
        packed(r##"[{"type":"PING","id":6},{"type":"PING","id":7,"t":"#"},{"type":"PING","id":8}]"##, false);
    let [Ok(first), Err(bad), Ok(last)] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((first.id.clone(), last.id.clone()), (Some(RequestId::Number(6)), Some(RequestId::Number(8))));
    assert_eq!(bad.id, Some(RequestId::Number(7)));
    assert!(bad.reason.contains("NaN"), "{}", bad.reason);
    let rows = [
        (r##"{"type":"PING","id":"#"}"##, "`id` must be"),
        (r##"{"type":"CHANNEL_SUBSCRIBE","id":1,"channel":"#"}"##, "`channel` must be a string, not binary"),
        (r##"{"type":"#"}"##, "`type` must be a string, not binary"),
    ];
    for (json, expected) in rows {
        let requests = packed(json, true);
        let [Err(bad)] = &requests[..] else { panic!("{requests:?}") };
        assert!(bad.reason.contains(expected), "{}", bad.reason);
    }
    let in_connect = packed(
        r##"{"type":"CONNECT","id":1,"subscribe":[{"channel":"a"},{"channel":"b","filter":"#"}]}"##,
        true,
    );
    let [Ok(Request { message: ClientMessage::Connect(connect), .. })] = &in_connect[..] else { panic!() };
    let [Ok(_), Err(bad)] = &connect.subscribe.as_deref().unwrap() else { panic!() };
    assert_eq!(bad.reason, "`subscribe[1].filter` must be a string, not binary");
    assert!(packed(r##"{"type":"PUBLISH_EVENT","channel":"a","event":"e","data":"#"}"##, true)[0].is_ok());
}

proptest! {
    #[test]
    fn arbitrary_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        prop_assert!(!decode(Encoding::Json, &bytes).is_empty());
        prop_assert!(!decode(Encoding::MsgPack, &bytes).is_empty());
    }

    #[test]
    fn both_encodings_are_understood_alike(json in any_message()) {
        let mut packed = Vec::new();
        msgpack::from_json(&json, &mut packed).unwrap();
        let of_packed = decode(Encoding::MsgPack, &packed);
        // JSON may spell a number in several ways; MessagePack gives the one.
        let of_json = decode(Encoding::Json, msgpack::to_json(&packed).unwrap().as_bytes());
        prop_assert_eq!(format!("{of_packed:?}"), format!("{of_json:?}"));
    }
}

/// A place in an area is one in what the client sent, from the area's beginning, in either encoding.
#[test]
fn places_in_an_area_are_those_of_the_clients_message() {
    let areas = |requests: Vec<Result<Request, BadRequest>>| -> Vec<SentArea> {
        let area = |request: Result<Request, BadRequest>| match request.unwrap().message {
            ClientMessage::Subscribe(subscribe) => vec![subscribe.area.unwrap()],
            ClientMessage::FilterUpdate(update) => vec![update.area.unwrap().unwrap()],
            ClientMessage::Connect(connect) => {
                connect.subscribe.unwrap().into_iter().map(|each| each.unwrap().area.unwrap()).collect()
            }
            other => panic!("{other:?}"),
        };
        requests.into_iter().flat_map(area).collect()
    };
    let area = r#"{"name":"some text","x":-700,"min":[1,{"x":2}],"radius":1.5}"#;
    let mut sent = Vec::new();
    msgpack::from_json(area, &mut sent).unwrap();
    for json in [
        format!(r#"{{"type":"CHANNEL_SUBSCRIBE","channel":"c","area":{area}}}"#),
        format!(r#"[{{"type":"FILTER_UPDATE","channel":"c","area":{area}}}]"#),
        format!(
            r#"{{"type":"CONNECT","subscribe":[{{"area":{area},"channel":"a"}},{{"channel":"b","area":{area}}}]}}"#
        ),
    ] {
        let mut packed = Vec::new();
        msgpack::from_json(&json, &mut packed).unwrap();
        let found = areas(decode(Encoding::MsgPack, &packed));
        assert!(!found.is_empty());
        for of_msgpack in found {
            for (member, value) in [("x", &[0xD1][..]), ("min", &[0x92, 1, 0x81]), ("radius", &[0xCB, 0x3F])]
            {
                let at = of_msgpack.get().rfind(&format!("\"{member}\":")).unwrap() + member.len() + 3;
                let at = if member == "x" { of_msgpack.get().find("-700").unwrap() } else { at };
                let place = of_msgpack.sent_at(at);
                assert!(place > 0 && sent[place..].starts_with(value), "{member} at {place}");
            }
            assert_eq!(of_msgpack.sent_at(1), 0, "a place of no value is that of the area");
        }
        for of_json in areas(decode(Encoding::Json, json.as_bytes())) {
            assert_eq!((of_json.get(), of_json.sent_at(33)), (area, 33));
        }
    }
}
