//! The golden vectors of `vectors/` hold for this crate, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use drawbridge_protocol::event::{
    AREA_REQUIRED, Event, HistoryPage, Payload, PayloadMode, ViewEnter, encode_entity, encode_event,
    encode_history, encode_logged, encode_view_enter,
};
use drawbridge_protocol::{
    Encoding, ErrorCode, ErrorMessage, PresenceList, RequestId, ServerMessage, SubscriptionInfo, Welcome,
    codec, msgpack,
};
use serde_json::Value;
use serde_json::value::RawValue;

fn vectors(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

fn text<'v>(vector: &'v Value, field: &str) -> Option<&'v str> {
    vector[field].as_str()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A frame without its header.
fn payload(frame: &[u8]) -> &[u8] {
    &frame[match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    }..]
}

#[test]
fn what_clients_send_means_the_same_in_both_encodings() {
    for vector in vectors(include_str!("../vectors/client.json")) {
        let name = text(&vector, "name").unwrap();
        let json = text(&vector, "json").unwrap();
        let packed = bytes(text(&vector, "msgpack_hex").unwrap());
        let mut ours = Vec::new();
        msgpack::from_json(json, &mut ours).unwrap();
        assert_eq!(hex(&ours), hex(&packed), "{name}");
        let [of_json, of_packed] =
            [codec::decode(Encoding::Json, json.as_bytes()), codec::decode(Encoding::MsgPack, &packed)];
        for request in &of_json {
            assert!(request.is_ok(), "{name}: {request:?}");
        }
        assert_eq!(format!("{of_json:?}"), format!("{of_packed:?}"), "{name}");
    }
}

#[test]
fn what_the_server_sends_has_exactly_these_bytes() {
    let vectors = vectors(include_str!("../vectors/server.json"));
    let messages = server_messages();
    let names: Vec<_> = vectors.iter().map(|vector| text(vector, "name").unwrap()).collect();
    assert_eq!(names, messages.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (vector, (name, message)) in vectors.iter().zip(&messages) {
        let json = codec::encode(Encoding::Json, message);
        assert_eq!(std::str::from_utf8(&json).unwrap(), text(vector, "json").unwrap(), "{name}");
        let packed = codec::encode(Encoding::MsgPack, message);
        assert_eq!(hex(&packed), text(vector, "msgpack_hex").unwrap(), "{name}");
        let frame = codec::encode_frame(Encoding::Json, message);
        assert_eq!((frame[0], payload(&frame)), (0x81, &*json), "{name}");
        let frame = codec::encode_frame(Encoding::MsgPack, message);
        assert_eq!((frame[0], payload(&frame)), (0x82, &*packed), "{name}");
    }
}

#[test]
fn payloads_reach_clients_as_these_events() {
    for vector in vectors(include_str!("../vectors/events.json")) {
        let name = text(&vector, "name").unwrap();
        let mode = match text(&vector, "mode") {
            None | Some("auto") => PayloadMode::Auto,
            Some("envelope") => PayloadMode::Envelope,
            Some("raw") => PayloadMode::Raw,
            Some(other) => panic!("{name}: mode {other}"),
        };
        let source = match text(&vector, "payload") {
            Some(text) => text.as_bytes().to_vec(),
            None => bytes(text(&vector, "payload_hex").unwrap()),
        };
        let (channel, offset) = (text(&vector, "channel").unwrap(), vector["offset"].as_u64());
        let event = Payload::read(&source, mode).ok().map(|payload| Event::new(&payload, channel, offset));
        let frame = |encoding| event.as_ref().map(|event| encode_event(encoding, event));
        let json = frame(Encoding::Json).map(|frame| String::from_utf8(payload(&frame).to_vec()).unwrap());
        assert_eq!(json.as_deref(), text(&vector, "json"), "{name}");
        let packed = frame(Encoding::MsgPack).map(|frame| hex(payload(&frame)));
        assert_eq!(packed.as_deref(), text(&vector, "msgpack_hex"), "{name}");
    }
}

#[test]
fn entities_come_into_view_as_these_messages() {
    for vector in vectors(include_str!("../vectors/entities.json")) {
        let name = text(&vector, "name").unwrap();
        let (reset, complete) = (vector["reset"].as_bool().unwrap(), vector["complete"].as_bool().unwrap());
        let frame = |encoding| {
            let entity = |source: &Value| {
                let source = source.as_str().unwrap().as_bytes();
                let payload = Payload::read(source, PayloadMode::Auto).unwrap();
                encode_entity(encoding, &Event::new(&payload, "", None))
            };
            let entities: Vec<_> = vector["payloads"].as_array().unwrap().iter().map(entity).collect();
            let reason = text(&vector, "reason").map(|reason| {
                assert_eq!(reason, AREA_REQUIRED);
                AREA_REQUIRED
            });
            let channel = text(&vector, "channel").unwrap();
            encode_view_enter(encoding, &ViewEnter { channel, reset, complete, reason, entities: &entities })
        };
        let json = String::from_utf8(payload(&frame(Encoding::Json)).to_vec()).unwrap();
        assert_eq!(json, text(&vector, "json").unwrap(), "{name}");
        assert_eq!(hex(payload(&frame(Encoding::MsgPack))), text(&vector, "msgpack_hex").unwrap(), "{name}");
    }
}

#[test]
fn history_is_sent_in_these_pages() {
    for vector in vectors(include_str!("../vectors/history.json")) {
        let name = text(&vector, "name").unwrap();
        let id = match &vector["id"] {
            Value::Number(number) => RequestId::Number(number.as_u64().unwrap()),
            id => RequestId::Text(id.as_str().unwrap().into()),
        };
        let frame = |encoding| {
            let event = |source: &Value| {
                let payload =
                    Payload::read(source[1].as_str().unwrap().as_bytes(), PayloadMode::Auto).unwrap();
                encode_logged(encoding, &Event::new(&payload, "", source[0].as_u64()))
            };
            let events: Vec<_> = vector["payloads"].as_array().unwrap().iter().map(event).collect();
            let page = HistoryPage {
                id: &id,
                channel: text(&vector, "channel").unwrap(),
                epoch: text(&vector, "epoch").unwrap(),
                gap: vector["gap"].as_bool().unwrap(),
                events: &events,
                next: vector["next"].as_u64(),
            };
            encode_history(encoding, &page)
        };
        let json = String::from_utf8(payload(&frame(Encoding::Json)).to_vec()).unwrap();
        assert_eq!(json, text(&vector, "json").unwrap(), "{name}");
        assert_eq!(hex(payload(&frame(Encoding::MsgPack))), text(&vector, "msgpack_hex").unwrap(), "{name}");
    }
}

#[test]
fn what_is_wrong_is_said_with_the_field_and_the_id() {
    for vector in vectors(include_str!("../vectors/bad.json")) {
        let name = text(&vector, "name").unwrap();
        let forms = [
            (Encoding::Json, text(&vector, "json").map(|json| json.as_bytes().to_vec())),
            (Encoding::MsgPack, text(&vector, "msgpack_hex").map(bytes)),
        ];
        for (encoding, message) in forms {
            let Some(message) = message else { continue };
            let requests = codec::decode(encoding, &message);
            let answers = vector["answers"].as_array().unwrap();
            assert_eq!(requests.len(), answers.len(), "{name} {encoding:?}: {requests:?}");
            for (request, answer) in requests.iter().zip(answers) {
                let (id, reason) = match request {
                    Ok(request) => (&request.id, None),
                    Err(bad) => (&bad.id, Some(&bad.reason)),
                };
                assert_eq!(id_json(id.as_ref()), answer["id"], "{name} {encoding:?}: {reason:?}");
                match (reason, answer["bad"].as_str()) {
                    (None, None) => {}
                    (Some(reason), Some(says)) if reason.contains(says) => {}
                    (reason, says) => panic!("{name} {encoding:?}: {reason:?} where {says:?} was due"),
                }
            }
        }
    }
}

fn id_json(id: Option<&RequestId>) -> Value {
    match id {
        None => Value::Null,
        Some(RequestId::Number(number)) => (*number).into(),
        Some(RequestId::Text(text)) => (&**text).into(),
    }
}

fn subscription(channel: &str) -> SubscriptionInfo<'_> {
    SubscriptionInfo {
        channel,
        auto: false,
        pending: false,
        pattern: false,
        epoch: None,
        offset: None,
        recovered: None,
    }
}

/// A message for each vector of `server.json`, in its order.
fn server_messages() -> Vec<(&'static str, ServerMessage<'static>)> {
    let number = |number: u64| -> &'static RequestId { Box::leak(Box::new(RequestId::Number(number))) };
    let text_id = |text: &str| -> &'static RequestId { Box::leak(Box::new(RequestId::Text(text.into()))) };
    let t: &'static RawValue = Box::leak(RawValue::from_string("1790000000000.5".into()).unwrap());
    let error = |code, message| ErrorMessage::new(code, message);
    vec![
        (
            "welcome",
            ServerMessage::Welcome(Welcome {
                id: Some(number(1)),
                connection: "c1",
                session: "s1",
                resumed: false,
                player: "alice",
                node: "n1",
                server_time_ms: 1790000000000,
                heartbeat_ms: 25000,
                resume_window_ms: 60000,
                message_bytes: 65536,
                subscriptions_limit: 256,
                subscriptions: vec![
                    SubscriptionInfo {
                        auto: true,
                        epoch: Some("k3x"),
                        offset: Some(17),
                        ..subscription("player:alice")
                    },
                    SubscriptionInfo { auto: true, pending: true, ..subscription("room:42") },
                    SubscriptionInfo { pattern: true, ..subscription("chat:*") },
                ],
            }),
        ),
        (
            "welcome without subscriptions or id",
            ServerMessage::Welcome(Welcome {
                id: None,
                connection: "c1",
                session: "s1",
                resumed: true,
                player: "é",
                node: "n1",
                server_time_ms: 0,
                heartbeat_ms: 1,
                resume_window_ms: 0,
                message_bytes: 1,
                subscriptions_limit: 0,
                subscriptions: vec![],
            }),
        ),
        (
            "welcome of a session that was resumed",
            ServerMessage::Welcome(Welcome {
                id: Some(number(1)),
                connection: "c2",
                session: "s1",
                resumed: true,
                player: "alice",
                node: "n1",
                server_time_ms: 1790000000000,
                heartbeat_ms: 25000,
                resume_window_ms: 60000,
                message_bytes: 65536,
                subscriptions_limit: 256,
                subscriptions: vec![
                    SubscriptionInfo {
                        epoch: Some("k3x"),
                        offset: Some(118),
                        recovered: Some(true),
                        ..subscription("room:42")
                    },
                    SubscriptionInfo { pattern: true, recovered: Some(false), ..subscription("chat:*") },
                ],
            }),
        ),
        (
            "subscribed",
            ServerMessage::Subscribed {
                id: Some(number(2)),
                subscription: SubscriptionInfo {
                    epoch: Some("k3x"),
                    offset: Some(118),
                    ..subscription("room:42")
                },
                by_server: false,
            },
        ),
        (
            "subscribed by pattern",
            ServerMessage::Subscribed {
                id: Some(text_id("s-3")),
                subscription: SubscriptionInfo { pattern: true, ..subscription("room:*") },
                by_server: false,
            },
        ),
        (
            "subscribed by a service",
            ServerMessage::Subscribed {
                id: None,
                subscription: SubscriptionInfo {
                    epoch: Some("k3x"),
                    offset: Some(0),
                    ..subscription("room:42")
                },
                by_server: true,
            },
        ),
        (
            "unsubscribed",
            ServerMessage::Unsubscribed {
                id: Some(number(4)),
                channel: "room:42",
                reason: "client",
                by_server: false,
            },
        ),
        (
            "unsubscribed by a service",
            ServerMessage::Unsubscribed { id: None, channel: "room:42", reason: "server", by_server: true },
        ),
        (
            "published",
            ServerMessage::Published { id: number(5), channel: "room:42", offset: None, is_local: false },
        ),
        (
            "published with an offset",
            ServerMessage::Published {
                id: number(5),
                channel: "room:42",
                offset: Some(120),
                is_local: false,
            },
        ),
        (
            "published on this node alone",
            ServerMessage::Published { id: number(5), channel: "room:42", offset: None, is_local: true },
        ),
        ("token refreshed", ServerMessage::TokenRefreshed { id: number(6), expires_ms: Some(1790000060000) }),
        ("token refreshed, never expires", ServerMessage::TokenRefreshed { id: number(6), expires_ms: None }),
        (
            "pong",
            ServerMessage::Pong { id: number(9007199254740991), t: Some(t), server_time_ms: 1790000000001 },
        ),
        ("pong without t", ServerMessage::Pong { id: text_id("p"), t: None, server_time_ms: 1790000000001 }),
        ("status", ServerMessage::Status { broker: "degraded" }),
        (
            "resync of a channel",
            ServerMessage::Resync {
                channel: "room:42",
                reason: "broker",
                epoch: Some("k3x"),
                offset: Some(119),
            },
        ),
        (
            "resync of a pattern",
            ServerMessage::Resync { channel: "room:*", reason: "broker", epoch: None, offset: None },
        ),
        ("position", ServerMessage::Position { channel: "room:42", epoch: "0123456789abcdef", offset: 118 }),
        ("goodbye", ServerMessage::Goodbye { reason: "drain", reconnect_in_ms: 1500 }),
        (
            "rate limited",
            ServerMessage::Error(ErrorMessage {
                id: Some(number(5)),
                retry_after_ms: Some(180),
                ..error(ErrorCode::RateLimited, "slow down")
            }),
        ),
        (
            "bad message without id",
            ServerMessage::Error(error(
                ErrorCode::BadMessage,
                "`type` is missing: a message needs a string there",
            )),
        ),
        (
            "forbidden channel",
            ServerMessage::Error(ErrorMessage {
                id: Some(text_id("s-3")),
                channel: Some("room:43"),
                ..error(ErrorCode::Forbidden, "no \"right\"")
            }),
        ),
        (
            "broker unavailable",
            ServerMessage::Error(ErrorMessage {
                id: Some(number(5)),
                channel: Some("room:42"),
                outcome: Some("unknown"),
                ..error(ErrorCode::BrokerUnavailable, "Redis is away")
            }),
        ),
        (
            "rejected",
            ServerMessage::Error(ErrorMessage {
                id: Some(number(5)),
                channel: Some("room:42"),
                reason: Some("full"),
                ..error(ErrorCode::Rejected, "the room refused")
            }),
        ),
        (
            "filter invalid",
            ServerMessage::Error(ErrorMessage {
                id: Some(number(2)),
                channel: Some("room:42"),
                position: Some(6),
                hint: Some("write `==`"),
                ..error(ErrorCode::FilterInvalid, "unexpected `=`")
            }),
        ),
        ("filter updated", ServerMessage::FilterUpdated { id: number(7), channel: "room:42" }),
        (
            "filter updated, id is text",
            ServerMessage::FilterUpdated { id: text_id("f-8"), channel: "room:*" },
        ),
        ("view leave", ServerMessage::ViewLeave { channel: "world:1", keys: &["e7"], reason: "view" }),
        (
            "view leave of several that are no more",
            ServerMessage::ViewLeave { channel: "world:1", keys: &["e7", "8", "é\"9"], reason: "removed" },
        ),
        (
            "presence",
            ServerMessage::Presence(PresenceList {
                id: number(9),
                channel: "room:42",
                players: &[("alice", 2), ("bob", 1)],
                total: 3,
                next: Some("bob"),
            }),
        ),
        (
            "presence of nobody",
            ServerMessage::Presence(PresenceList {
                id: text_id("p-9"),
                channel: "room:42",
                players: &[],
                total: 0,
                next: None,
            }),
        ),
        (
            "presence changed",
            ServerMessage::PresenceChanged {
                channel: "room:42",
                joined: &["alice", "é\"9"],
                left: &["bob"],
                reset: false,
            },
        ),
        (
            "presence changed unseen",
            ServerMessage::PresenceChanged { channel: "room:42", joined: &[], left: &[], reset: true },
        ),
    ]
}
