//! What a client reads of the frames that it is sent.

use drawbridge_protocol::{Encoding, MAX_BATCH, msgpack};
use serde_json::Value;

/// The content of one frame.
#[derive(Debug)]
pub enum Content {
    /// One message.
    One(Value),
    /// Several in an array.
    Batch(Vec<Value>),
    /// A control frame, or one that is compressed and not looked into.
    Other,
}

impl Content {
    /// Its messages, in order.
    pub fn messages(self) -> Vec<Value> {
        match self {
            Content::One(message) => vec![message],
            Content::Batch(messages) => messages,
            Content::Other => Vec::new(),
        }
    }
}

/// The messages of a frame of JSON.
pub fn messages(frame: &[u8]) -> Vec<Value> {
    read(frame, Encoding::Json, false).messages()
}

/// Reads one frame and checks it: whole, of the right kind, and messages of the contract. `deflates`: compression was
/// agreed on.
pub fn read(frame: &[u8], encoding: Encoding, deflates: bool) -> Content {
    let (opcode, is_compressed) = (frame[0] & 0x0f, frame[0] & 0x40 != 0);
    assert!(frame[0] & 0x80 != 0, "a fragment");
    let (header_bytes, length) = match frame[1] {
        126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
        127 => (10, u64::from_be_bytes(frame[2..10].try_into().unwrap()) as usize),
        length => (2, usize::from(length)),
    };
    let payload = &frame[header_bytes..];
    assert_eq!(payload.len(), length, "the header says how long it is");
    assert!(!is_compressed || deflates, "compression was not agreed on");
    if opcode >= 8 || is_compressed {
        return Content::Other;
    }
    let content: Value = match (encoding, opcode) {
        (Encoding::Json, 1) => read_json(std::str::from_utf8(payload).expect("text is UTF-8")),
        (Encoding::MsgPack, 2) => read_json(&msgpack::to_json(payload).expect("our own MessagePack")),
        other => panic!("{other:?}"),
    };
    let content = match content {
        Value::Array(messages) => {
            assert!((1..=MAX_BATCH).contains(&messages.len()), "an array of {}", messages.len());
            assert!(messages.iter().all(|message| message["type"].is_string()), "{messages:?}");
            return Content::Batch(messages);
        }
        message => message,
    };
    assert!(content["type"].is_string(), "{content}");
    Content::One(content)
}

fn read_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
