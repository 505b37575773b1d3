//! A payload that a service published: in every mode it is dropped by the rule, or becomes an event that is
//! valid JSON and valid MessagePack.
#![no_main]

use drawbridge_protocol::event::{Event, PayloadMode, encode_event};
use drawbridge_protocol::{Encoding, json, msgpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    for mode in [PayloadMode::Auto, PayloadMode::Envelope, PayloadMode::Raw] {
        let Ok(event) = Event::from_payload(payload.to_vec().into(), mode) else {
            assert_eq!(mode, PayloadMode::Envelope);
            continue;
        };
        let frame = encode_event(Encoding::Json, "room:42", &event, Some(7));
        let text = std::str::from_utf8(unframed(&frame)).expect("text frames are UTF-8");
        assert!(json::Value::parse(text).is_ok());
        let frame = encode_event(Encoding::MsgPack, "room:42", &event, Some(7));
        assert!(msgpack::to_json(unframed(&frame)).is_ok());
    }
});

/// A frame without its header.
fn unframed(frame: &[u8]) -> &[u8] {
    let header = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    &frame[header..]
}
