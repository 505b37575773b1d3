//! A binary message from a client: it is answered, its JSON is JSON, and translating it back and forth again
//! changes nothing.
#![no_main]

use drawbridge_protocol::{Encoding, MAX_BATCH, codec, msgpack};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|payload: &[u8]| {
    let requests = codec::decode(Encoding::MsgPack, payload);
    assert!((1..=MAX_BATCH).contains(&requests.len()));
    let Ok(json) = msgpack::to_json(payload) else { return };
    assert!(serde_json::from_str::<&RawValue>(&json).is_ok());
    let mut again = Vec::new();
    msgpack::from_json(&json, &mut again).expect("our own JSON");
    assert_eq!(msgpack::to_json(&again).expect("our own MessagePack"), json);
});
