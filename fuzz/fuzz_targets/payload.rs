//! A payload that a service published: in every mode it is dropped by the rule, or becomes an event that is
//! valid JSON and valid MessagePack.
#![no_main]

use drawbridge_protocol::event::{Event, Payload, PayloadMode, encode_event};
use drawbridge_protocol::{Encoding, json, msgpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    for mode in [PayloadMode::Auto, PayloadMode::Envelope, PayloadMode::Raw] {
        let Ok(payload) = Payload::read(payload, mode) else {
            assert_eq!(mode, PayloadMode::Envelope);
            continue;
        };
        let event = Event::new(&payload, "room:42", Some(7));
        assert!(json::Value::parse(event.json()).is_ok());
        let said = (payload.name(), payload.data_json(), payload.from(), payload.key().map(|key| &**key));
        assert_eq!((event.name(), event.data_json(), event.from(), event.key()), said);
        assert_eq!(unframed(&encode_event(Encoding::Json, &event)), event.json().as_bytes());
        let frame = encode_event(Encoding::MsgPack, &event);
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
