//! What a node reads from a Redis that others write to as well: the fields of a table. Whatever they are, subscribers get
//! a table of well-formed entities.
#![no_main]

use std::sync::{Arc, LazyLock};

use drawbridge::fuzzing::stored_entities;
use drawbridge_engine::class::Classes;
use drawbridge_engine::io::{BrokerEvent, Subject};
use drawbridge_engine::settings::Reserved;
use drawbridge_engine::upstream::{
    Hub, HubInput, HubOutput, HubSettings, LinkId, LoadedTable, ShardId, SlotHasher, StoredTable,
};
use drawbridge_protocol::{Encoding, json, msgpack};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const CLASSES: &str = r#"
[[channel]]
name = "map:{map}"
subscribe = "true"
kind = "entity"
key = "data.id"
position = ["data.x", "data.y"]
entity_max = 100
entity_ttl = "1h"
"#;
const CHANNEL: &str = "map:1";
const NOW_MS: u64 = 1_790_000_000_000;
const EXTERNAL_BYTES: usize = 1 << 16;

static CLASS: LazyLock<Arc<Classes>> = LazyLock::new(|| {
    drawbridge::config::parse("fuzz", CLASSES, &[]).expect("a configuration").engine.classes
});

#[derive(Arbitrary, Debug)]
struct Stored {
    epoch: String,
    seq: u64,
    last_seq: u64,
    rows: Vec<Row>,
}

#[derive(Arbitrary, Debug)]
enum Row {
    /// Any field and value.
    Bytes(Vec<u8>, Vec<u8>),
    /// As nodes write it, with any payload.
    Payload { key: String, age_ms: u32, payload: Vec<u8> },
    /// As nodes write it, with any key and place.
    Entity { key: String, age_ms: u32, x: f64, y: f64, version: Option<u64> },
}

impl Row {
    fn field(self, epoch: &str) -> (Vec<u8>, Vec<u8>) {
        let stamped = |age_ms: u32, payload: &[u8]| {
            [format!("{} ", NOW_MS - u64::from(age_ms)).as_bytes(), payload].concat()
        };
        match self {
            Row::Bytes(field, value) => (field, value),
            Row::Payload { key, age_ms, payload } => (format!("k{key}").into(), stamped(age_ms, &payload)),
            Row::Entity { key, age_ms, x, y, version } => {
                let id = version.map(|seq| format!("db1.1@{epoch}.{seq}"));
                let payload = serde_json::json!({
                    "event": "moved", "data": { "id": key, "x": x, "y": y }, "key": key, "id": id,
                });
                (format!("k{key}").into(), stamped(age_ms, payload.to_string().as_bytes()))
            }
        }
    }
}

fuzz_target!(|stored: Stored| {
    let Stored { epoch, seq, last_seq, rows } = stored;
    let rows: Vec<_> = rows.into_iter().map(|row| row.field(&epoch)).collect();
    let entities = stored_entities(&rows, NOW_MS, EXTERNAL_BYTES);
    assert!(entities.len() <= rows.len());
    let unreadable = rows.len() - entities.len();
    let table = StoredTable { epoch, seq, last_seq, entities, unreadable };
    for event in events_of(table) {
        let BrokerEvent::Table { channel, entities } = event else { continue };
        assert_eq!(&*channel, CHANNEL);
        assert!(entities.len() <= rows.len());
        for entity in &*entities {
            assert!((1..=255).contains(&entity.event.key().expect("an entity has a key").len()));
            assert!(json::Value::parse(entity.event.json()).is_ok());
            assert!(msgpack::to_json(entity.element(Encoding::MsgPack)).is_ok());
            assert!(
                json::Value::parse(std::str::from_utf8(entity.element(Encoding::Json)).expect("UTF-8"))
                    .is_ok()
            );
        }
    }
});

/// What a shard receives that subscribes to the channel and requests its table once more.
fn events_of(table: StoredTable) -> Vec<BrokerEvent> {
    let mut hub = Hub::new(HubSettings {
        link: LinkId::at(0),
        seed: 1,
        linger_ms: 0,
        external_bytes: EXTERNAL_BYTES,
        classes: CLASS.clone(),
        reserved: Reserved::new("drawbridge:"),
        slots: SlotHasher::default(),
    });
    let (subject, shard) = (Subject::channel(CHANNEL), ShardId(0));
    hub.handle(1, HubInput::LinkUp);
    hub.handle(1, HubInput::Want { shard, subject: subject.clone() });
    hub.handle(1, HubInput::Subscribed(&subject));
    let mut events = Vec::new();
    for now_ms in [2, 3] {
        while let Some(output) = hub.poll_output() {
            match output {
                HubOutput::Load { channel, load } => {
                    let table = LoadedTable::read(&CLASS, &channel, table.clone());
                    hub.handle(now_ms, HubInput::Loaded { channel: &channel, load, table: Ok(table) });
                }
                HubOutput::Shards(_, event) => events.push(event),
                _ => {}
            }
            assert!(events.len() < 1_000, "a table is not read for ever");
        }
        hub.handle(now_ms, HubInput::Refresh { shard, subject: &subject });
    }
    hub.handle(4_000_000, HubInput::Tick);
    hub.handle(4_000_000, HubInput::Unwant { shard, subject: &subject });
    hub.handle(4_000_000, HubInput::Unsubscribed(&subject));
    while hub.poll_output().is_some() {}
    assert_eq!(hub.stats().entities, 0, "nothing of it is left");
    events
}
