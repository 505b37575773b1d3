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
        entity: Some(EntityRules { max: 10, max_bytes: 10_000, ttl_ms: 60_000, space: None }),
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
    let table = StoredTable { epoch: "t".into(), seq: 1, last_seq: 1, entities: vec![entity], unreadable: 0 };
    let told = give_table(&mut bench, 1, table);
    (bench, told)
}

/// What is stored of `world:1`, as its class reads it.
fn give_table(bench: &mut Bench, load: u64, stored: StoredTable) -> Vec<String> {
    let table = LoadedTable::read(&bench.hub.settings().classes, &"world:1".into(), stored);
    bench.give(HubInput::Loaded { channel: "world:1", load, table: Ok(table) })
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

/// Answers the hub's last question with these rows of a table that has seen 3 changes.
fn loaded(bench: &mut Bench, load: u64, rows: &[&'static str]) -> Vec<String> {
    let entity = |row: &&'static str| StoredEntity {
        key: "a".into(),
        age_ms: 0,
        payload: Bytes::from_static(row.as_bytes()),
    };
    let (entities, epoch) = (rows.iter().map(entity).collect(), "t".to_owned());
    give_table(bench, load, StoredTable { epoch, seq: 3, last_seq: 3, entities, unreadable: 0 })
}

/// A bench whose first question about its table is out.
fn loading() -> Bench {
    let settings = HubSettings {
        classes: Classes::new(vec![world(PayloadMode::Auto)]),
        external_bytes: 100_000,
        ..settings()
    };
    let mut bench = Bench { hub: Hub::new(settings), now_ms: 1_000_000 };
    bench.give(HubInput::LinkUp);
    bench.live(A, &Subject::channel("world:1"));
    bench
}

/// What the hub does until it has asked for its table again: after how long, and which question it is.
fn asks_again(bench: &mut Bench) -> (u64, String) {
    let began_ms = bench.now_ms;
    loop {
        let at = bench.hub.next_deadline_ms().expect("it waits for something");
        bench.now_ms = at.max(bench.now_ms);
        let asked = bench.give(HubInput::Tick);
        if let [asked] = &asked[..] {
            return (bench.now_ms - began_ms, asked.clone());
        }
    }
}

/// Somebody wrote a row of another life: the table is read a few times, with growing pauses, and then shown without it.
#[test]
fn rows_of_another_life_are_read_again_a_few_times_and_left_out() {
    let mut bench = loading();
    let rows = [row("a", "t.1"), row("b", "other.2")];
    assert_eq!(loaded(&mut bench, 1, &rows), ["load world:1 2"], "it may have begun anew while it was read");
    let mut pauses = Vec::new();
    for load in 2..4 {
        assert_eq!(loaded(&mut bench, load, &rows), NOTHING);
        let (pause_ms, asked) = asks_again(&mut bench);
        assert_eq!(asked, format!("load world:1 {}", load + 1));
        pauses.push(pause_ms);
    }
    assert!((50..=100).contains(&pauses[0]) && (100..=200).contains(&pauses[1]), "{pauses:?}");
    let told = loaded(&mut bench, 4, &rows);
    assert_eq!(
        told,
        [
            "bad table world:1 Inconsistent",
            "bad table world:1 Entities(1)",
            "0: confirmed world:1 0",
            r#"0: table world:1 {"id":"a"}"#
        ]
    );
    assert_eq!(bench.hub.stats().bad_rows, 1);
    assert_eq!(bench.copy(None, "world:1", row("c", "t.4")).len(), 1, "it goes on where it is stored");
}

/// A row of a change that is still to come would hide all that comes before it.
#[test]
fn a_row_of_a_change_that_the_table_has_not_seen_is_left_out() {
    let mut bench = loading();
    let told = loaded(&mut bench, 1, &[row("a", "t.9007199254740993"), row("b", "t.2")]);
    assert_eq!(told[0], "bad table world:1 Entities(1)");
    assert_eq!(told.last().unwrap(), r#"0: table world:1 {"id":"b"}"#);
    assert_eq!(bench.copy(None, "world:1", row("a", "t.4")).len(), 1);
}

/// Whoever publishes versions that are not the table's makes it be read again, seldomer and seldomer.
#[test]
fn versions_that_are_not_the_tables_make_it_be_read_seldom() {
    let mut bench = loading();
    loaded(&mut bench, 1, &[]);
    let (began_ms, mut reads) = (bench.now_ms, 0);
    while bench.now_ms < began_ms + 20_000 {
        bench.now_ms += 5;
        let mut told = bench.copy(None, "world:1", row("a", "foreign.7"));
        told.extend(bench.give(HubInput::Tick));
        if told.iter().any(|output| output.starts_with("load")) {
            reads += 1;
            // The events go on while it is read: each answer is of the last question.
            let asked: u64 =
                told.iter().find_map(|o| o.strip_prefix("load world:1 ")).unwrap().parse().unwrap();
            loaded(&mut bench, asked, &[]);
        }
    }
    assert!((4..20).contains(&reads), "{reads}");
}

/// Large events may not take more of a node than the class allows, and removing one gives its bytes back.
#[test]
fn a_table_holds_so_many_bytes_and_no_more() {
    let mut bench = loading();
    loaded(&mut bench, 1, &[]);
    let large = |key: &str, bytes: usize| -> &'static str {
        let pad = "x".repeat(bytes);
        format!(r#"{{"event":"e","data":{{"id":"{key}","pad":"{pad}"}}}}"#).leak()
    };
    assert_eq!(bench.copy(None, "world:1", large("a", 4_000)).len(), 1);
    assert_eq!(bench.copy(None, "world:1", large("b", 4_000)).len(), 1);
    let held = bench.hub.stats().entity_bytes;
    assert!((8_000..10_000).contains(&held), "{held}");
    let full = ["bad entity world:1 Full"];
    assert_eq!(bench.copy(None, "world:1", large("c", 4_000)), full);
    assert_eq!(bench.copy(None, "world:1", large("a", 7_000)), full, "neither may one grow");
    assert_eq!(bench.copy(None, "world:1", large("a", 100)).len(), 1);
    assert_eq!(bench.copy(None, "world:1", large("c", 4_000)).len(), 1);
    assert_eq!(bench.copy(None, "world:1", r#"{"event":"remove","data":{"id":"b"}}"#).len(), 1);
    assert_eq!(bench.copy(None, "world:1", large("d", 4_000)).len(), 1);
    for key in ["a", "c", "d"] {
        let end = format!(r#"{{"event":"remove","data":{{"id":"{key}"}}}}"#).leak();
        bench.copy(None, "world:1", end);
    }
    assert_eq!((bench.hub.stats().entities, bench.hub.stats().entity_bytes), (0, 0));
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
    // By its time it is gone before it comes again.
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
        follow_hidden: false,
    };
    class.entity = Some(EntityRules { max: 10, max_bytes: 10_000, ttl_ms: 60_000, space: Some(space) });
    let (mut bench, _) = live_in(class, ROW);
    bench.live(A, &worlds);
    assert_eq!(conflates(&mut bench, None), [true]);
}

/// Whoever may write to Redis may write any version.
#[test]
fn versions_at_the_end_of_their_range_overflow_nothing() {
    for seq in [(1 << 53) + 1, i64::MAX as u64 - 1, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
        let (mut bench, _) = live(PayloadMode::Auto, ROW);
        let event = |seq: u64| {
            let event = format!(r#"{{"event":"e","data":{{"id":"a"}},"key":"a","id":"db1.@t.{seq}"}}"#);
            &*Box::leak(event.into_boxed_str())
        };
        // A hole: the table is read again, and says the same.
        bench.copy(None, "world:1", event(seq));
        assert_eq!(bench.hub.stats().table_gaps, 1, "{seq}");
        bench.now_ms += 600_000;
        bench.give(HubInput::Tick);
        let entity = StoredEntity { key: "a".into(), age_ms: 0, payload: event(seq).as_bytes().into() };
        let (epoch, entities) = ("t".to_owned(), vec![entity]);
        give_table(&mut bench, 2, StoredTable { epoch, seq, last_seq: seq, entities, unreadable: 0 });
        // Nothing that follows is a number that does not exist.
        for next in [seq, seq.wrapping_add(1), 1] {
            bench.copy(None, "world:1", event(next));
        }
        assert_eq!(bench.hub.stats().entities, 1, "{seq}");
    }
}
