//! Tables of entity channels through the hub: rows and events that a node reads by its own class.

use super::*;
use crate::class::{Class, EntityRules, Space};
use crate::expr::Expr;
use crate::path::Path;
use drawbridge_protocol::event::PayloadMode;
use drawbridge_protocol::template::ClassName;

fn world(payload: PayloadMode) -> Class {
    Class {
        payload,
        key: Some(Path::parse("data.id").unwrap()),
        entity: Some(EntityRules { max: 10, ttl_ms: 60_000, space: None }),
        ..Class::plain(ClassName::parse("world:{world}").unwrap())
    }
}

/// A hub whose channel `world:1` is live, with this row.
fn live(payload: PayloadMode, row: &'static str) -> (Bench, Vec<String>) {
    live_in(world(payload), row)
}

fn live_in(class: Class, row: &'static str) -> (Bench, Vec<String>) {
    let settings = HubSettings { classes: Classes::new(vec![class]), external_bytes: 1_000, ..settings() };
    let mut bench = Bench { hub: Hub::new(settings), now_ms: 10 };
    bench.give(HubInput::LinkUp);
    bench.live(A, &Subject::channel("world:1"));
    let entity = StoredEntity { key: "a".into(), age_ms: 0, payload: Bytes::from_static(row.as_bytes()) };
    let table = Ok(StoredTable { epoch: "t".into(), seq: 1, entities: vec![entity] });
    let told = bench.give(HubInput::Loaded { channel: "world:1", load: 1, table });
    (bench, told)
}

const ROW: &str = r#"{"event":"e","data":{"id":"a"},"key":"a","id":"db1.@t.1"}"#;

#[test]
fn a_row_is_read_as_its_class_reads_events() {
    let row = r#"{"event":"e","data":{"id":"a"},"more":1,"key":"a","id":"db1.@t.1"}"#;
    let (_, told) = live(PayloadMode::Envelope, row);
    assert_eq!(told.last().unwrap(), r#"0: table world:1 {"id":"a"}"#);
}

/// Nodes whose configurations differ share a table during a deploy.
#[test]
fn an_event_of_the_table_that_this_node_cannot_read_ends_what_it_knew() {
    let (mut bench, _) = live(PayloadMode::Auto, ROW);
    let told = bench.copy(None, "world:1", r#"{"event":"e","data":{"id":[]},"key":"a","id":"db1.@t.2"}"#);
    assert_eq!(told, ["bad entity world:1 Key", "0: expired world:1 a"]);
    assert_eq!((bench.hub.stats().entities, bench.hub.stats().dropped_bad_key), (0, 1));
    // There is no hole before the next one.
    let next = r#"{"event":"e","data":{"id":"b"},"key":"b","id":"db1.@t.3"}"#;
    assert_eq!(bench.copy(None, "world:1", next).len(), 1);
    assert_eq!((bench.hub.stats().entities, bench.hub.stats().table_gaps), (1, 0));
}

#[test]
fn an_unreadable_event_without_a_version_changes_nothing() {
    let (mut bench, _) = live(PayloadMode::Auto, ROW);
    let told = bench.copy(None, "world:1", r#"{"event":"e","data":{"id":[]},"key":"a"}"#);
    assert_eq!(told, ["bad entity world:1 Key"]);
    assert_eq!(bench.hub.stats().entities, 1);
}

fn row(key: &str, version: &str) -> &'static str {
    format!(r#"{{"event":"e","data":{{"id":"{key}"}},"key":"{key}","id":"db1.@{version}"}}"#).leak()
}

/// What only plain events told is there before anything is stored, and stays when the stored table begins.
#[test]
fn a_stored_table_that_begins_takes_nothing_away() {
    let (mut bench, _) = live(PayloadMode::Auto, ROW);
    let plain = r#"{"event":"e","data":{"id":"plain"}}"#;
    bench.copy(None, "world:1", plain);
    let told = bench.copy(None, "world:1", row("b", "u.1"));
    assert_eq!(told[0], "0: expired world:1 a");
    assert_eq!((told.len(), bench.hub.stats().entities, bench.hub.stats().table_gaps), (2, 2, 0));
    // It goes on, and a hole is a hole.
    assert_eq!(bench.copy(None, "world:1", row("c", "u.2")).len(), 1);
    bench.copy(None, "world:1", row("d", "u.4"));
    assert_eq!(bench.hub.stats().table_gaps, 1);
}

#[test]
fn the_entity_that_a_new_table_begins_with_is_told_of_once() {
    let (mut bench, _) = live(PayloadMode::Auto, ROW);
    assert_eq!(bench.copy(None, "world:1", row("a", "u.1")).len(), 1);
    bench.now_ms += 59_999;
    assert_eq!(bench.copy(None, "world:1", row("a", "v.1")).len(), 1);
    // By its time it is gone before it comes anew.
    bench.now_ms += 60_000;
    assert_eq!(bench.copy(None, "world:1", row("a", "w.1"))[0], "0: expired world:1 a");
    assert_eq!((bench.hub.stats().entities, bench.hub.stats().table_gaps), (1, 0));
}

/// Whether each event that the shards get of this copy is a state of which only the newest counts.
fn conflates(bench: &mut Bench, pattern: Option<&str>) -> Vec<bool> {
    let payload = br#"{"event":"e","data":{"id":"b","x":1,"y":2}}"#;
    let (pattern, channel) = (pattern.map(str::as_bytes), b"world:1");
    bench.hub.handle(bench.now_ms, HubInput::Message { pattern, channel, payload });
    let outputs = std::iter::from_fn(|| bench.hub.poll_output());
    outputs
        .filter_map(|output| match output {
            HubOutput::Shards(_, BrokerEvent::Publication(publication)) => Some(publication.conflates),
            _ => None,
        })
        .collect()
}

#[test]
fn only_the_newest_state_counts_where_nobody_hears_of_it_by_a_pattern() {
    let worlds = Subject::pattern("world:*");
    let mut class = world(PayloadMode::Auto);
    let (mut bench, _) = live_in(class.clone(), ROW);
    assert_eq!(conflates(&mut bench, None), [false], "its class does not conflate");
    class.delivery.conflate = true;
    let (mut bench, _) = live_in(class.clone(), ROW);
    assert_eq!(conflates(&mut bench, None), [true]);
    bench.live(A, &worlds);
    assert_eq!(conflates(&mut bench, None), [false]);
    // By the pattern alone.
    let settings = HubSettings { classes: Classes::new(vec![class.clone()]), ..settings() };
    let mut bench = Bench { hub: Hub::new(settings), now_ms: 10 };
    bench.give(HubInput::LinkUp);
    bench.live(A, &worlds);
    assert_eq!(conflates(&mut bench, Some("world:*")), [false]);
    // A pattern has no area, and is shown nothing where one is required.
    let path = |text: &str| Path::parse(text).unwrap();
    let space = Space {
        position: [path("data.x"), path("data.y")],
        hysteresis: 0.0,
        max_radius: None,
        area_required: true,
        follow: Expr::never(),
    };
    class.entity = Some(EntityRules { max: 10, ttl_ms: 60_000, space: Some(space) });
    let (mut bench, _) = live_in(class, ROW);
    bench.live(A, &worlds);
    assert_eq!(conflates(&mut bench, None), [true]);
}
