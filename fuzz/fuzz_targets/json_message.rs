//! A text message from a client: it is answered, and our reader and serde_json agree on what JSON is.
#![no_main]

use drawbridge_protocol::{Encoding, MAX_BATCH, codec, json};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|payload: &[u8]| {
    let requests = codec::decode(Encoding::Json, payload);
    assert!((1..=MAX_BATCH).contains(&requests.len()));
    if let Ok(text) = std::str::from_utf8(payload) {
        let theirs = serde_json::from_str::<&RawValue>(text);
        assert_eq!(json::Value::parse(text).map(|value| value.text).ok(), theirs.map(RawValue::get).ok());
    }
});
