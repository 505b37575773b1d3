//! The broker's contract: the same tests on the memory broker and on a real Redis over TCP, unix socket and TLS,
//! with an ACL user, with a channel prefix, with sharded classes, behind a sentinel, and on a Cluster, classic and sharded. What only a Redis can do (break, refuse, be away) stands
//! in `broker_faults.rs`.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use std::collections::HashSet;

use broker_support::bench::{ENTITY_MAX, EXTERNAL_BYTES, HISTORY, Options, PATIENCE, state};
use broker_support::{Bench, Flavour, Reply};
use drawbridge_engine::io::{
    BrokerCommand, BrokerEvent, BrokerStatus, Epoch, LogReader, LoggedOffset, PublishFailure, Subject,
    WhenDown,
};
use drawbridge_engine::upstream::{LinkId, LogRange, ShardId, StoredLog};

/// Every scenario on every broker.
macro_rules! on_every_broker {
    (everywhere: [$($scenario:ident),* $(,)?], classic: [$($classic:ident),* $(,)?]) => {
        on_every_broker!(@each $($scenario,)* $($classic),*);
        // Sharded channels have no patterns, and nodes do not announce views on them.
        on_every_broker!(@on redis_sharded, Some(Flavour::Sharded), $($scenario),*);
        on_every_broker!(@on redis_sharded_cluster, Some(Flavour::ShardedCluster), $($scenario),*);
    };
    (@each $($scenario:ident),*) => {
        on_every_broker!(@on memory, None, $($scenario),*);
        on_every_broker!(@on redis_tcp, Some(Flavour::Tcp), $($scenario),*);
        on_every_broker!(@on redis_unix, Some(Flavour::Unix), $($scenario),*);
        on_every_broker!(@on redis_tls, Some(Flavour::Tls), $($scenario),*);
        on_every_broker!(@on redis_acl, Some(Flavour::Acl), $($scenario),*);
        on_every_broker!(@on redis_prefixed, Some(Flavour::Prefixed), $($scenario),*);
        on_every_broker!(@on redis_sentinel, Some(Flavour::Sentinel), $($scenario),*);
        on_every_broker!(@on redis_cluster, Some(Flavour::Cluster), $($scenario),*);
    };
    (@on $broker:ident, $flavour:expr, $($scenario:ident),*) => {
        mod $broker {
            #[allow(unused_imports)]
            use super::Flavour;
            $(#[test] fn $scenario() { super::$scenario($flavour); })*
        }
    };
}

on_every_broker!(everywhere: [
    confirms_before_the_first_event,
    shows_all_shards_one_order,
    acknowledges_publishes_in_order,
    passes_odd_payloads,
    appends_to_streams,
    joins_a_live_subscription_at_its_position,
    tells_a_slow_shard_of_the_gap,
    answers_everything_at_shutdown,
    keeps_tables_of_entities_and_tells_them_in_order,
    refuses_entities_beyond_the_bound_and_forgets_them_in_time,
    appends_to_a_log_in_order,
    keeps_the_newest_events_of_a_log,
    forgets_events_by_their_age_and_not_their_position,
    begins_a_log_by_reading_its_position,
    reads_a_log_in_parts,
    does_a_repeat_once,
    refuses_what_is_too_large_for_a_log,
    reads_many_positions_at_once,
    moves_a_channel_between_links_without_a_gap,
], classic: [
    delivers_once_to_overlapping_subscriptions,
    drops_oversized_payloads_and_counts_them,
    keeps_the_views_of_players,
    holds_one_subscription_and_leaves_nothing,
]);

/// With a user that may not hear markers the move is a break, which is told.
fn moves_a_channel_between_links_without_a_gap(flavour: Option<Flavour>) {
    const ROUNDS: usize = 20;
    const EVENTS: usize = 40;
    let mut bench = Bench::new(flavour);
    let channel = Subject::channel("chat:7");
    bench.subscribe(0, &channel);
    bench.subscribe(1, &channel);
    let is_break = matches!(flavour, Some(Flavour::Acl | Flavour::Sharded));
    let mut moves = 0;
    for round in 0..ROUNDS {
        let to = LinkId::at(usize::from(bench.broker.link_of(&channel) == LinkId::at(0)));
        moves += usize::from(bench.broker.move_subject(channel.clone(), to));
        for number in 0..EVENTS {
            bench.publish_from_outside("chat:7", json(round * EVENTS + number));
        }
    }
    let is_in_pool = !matches!(flavour, None | Some(Flavour::ShardedCluster));
    assert_eq!(moves > 0, is_in_pool, "only a pool has other links");
    for shard in [0, 1] {
        let (mut next, mut is_told) = (0, false);
        while next < ROUNDS * EVENTS {
            match bench.next(shard) {
                BrokerEvent::Publication(publication) => {
                    let number: usize = publication.event.data_json().parse().unwrap();
                    assert!(number == next || (is_told && number > next), "{number}, not {next}");
                    (next, is_told) = (number + 1, false);
                }
                BrokerEvent::Interrupted(_) if is_break => is_told = true,
                BrokerEvent::Confirmed { after_break: true, .. } if is_break => {}
                other => panic!("{other:?}"),
            }
        }
    }
    bench.unwant(0, &channel);
    bench.unwant(1, &channel);
}

fn json(number: usize) -> String {
    format!(r#"{{"event":"n","data":{number}}}"#)
}

fn confirms_before_the_first_event(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let mut epochs = HashSet::new();
    for round in 0..20 {
        let channel = format!("room:{round}");
        bench.publish_from_outside(&channel, "too early");
        bench.want(0, &Subject::channel(channel.as_str()));
        let (position, after_break) = match bench.next(0) {
            BrokerEvent::Confirmed { subject, position, after_break } if *subject.name == *channel => {
                (position, after_break)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((position.offset(), after_break), (0, false));
        assert!(epochs.insert(*position.epoch()), "each count has an epoch of its own");
        bench.publish_from_outside(&channel, json(round));
        let publication = bench.publication(0);
        assert_eq!((&*publication.channel, publication.offset.0), (channel.as_str(), 1));
        assert_eq!(publication.epoch, *position.epoch());
        assert_eq!(publication.event.data_json(), round.to_string());
    }
}

fn delivers_once_to_overlapping_subscriptions(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    bench.subscribe(0, &Subject::pattern("r*"));
    bench.subscribe(0, &Subject::channel("room:1"));
    bench.subscribe(0, &Subject::pattern("room:*"));
    bench.subscribe(1, &Subject::pattern("room:*"));
    for number in 0..50 {
        bench.publish_from_outside("room:1", json(number));
        bench.publish_from_outside("room:2", json(number));
    }
    bench.publish_from_outside("room:end", json(0));
    for shard in [0, 1] {
        for number in 0..50 {
            for channel in ["room:1", "room:2"] {
                let publication = bench.publication(shard);
                assert_eq!(&*publication.channel, channel);
                assert_eq!(publication.event.data_json(), number.to_string());
                assert_eq!(publication.offset.0, number as u64 + 1);
            }
        }
        assert_eq!(&*bench.publication(shard).channel, "room:end");
        assert!(bench.waiting(shard).is_empty());
    }
}

fn shows_all_shards_one_order(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    for shard in [0, 1] {
        bench.subscribe(shard, &Subject::channel("room:1"));
        bench.subscribe(shard, &Subject::channel("room:1:done"));
    }
    for number in 0..300 {
        bench.publish(0, "room:1", json(number), WhenDown::Queue);
        bench.publish(1, "room:1", json(1000 + number), WhenDown::Queue);
        if number % 10 == 0 {
            bench.publish_from_outside("room:1", json(2000 + number));
        }
    }
    let mut seen = [Vec::new(), Vec::new()];
    for (shard, seen) in (0u8..).zip(&mut seen) {
        while seen.len() < 630 {
            if let BrokerEvent::Publication(publication) = bench.next(shard) {
                assert_eq!(publication.offset.0, seen.len() as u64 + 1);
                seen.push(publication.event.data_json().to_owned());
            }
        }
    }
    assert_eq!(seen[0], seen[1]);
    for publisher in [0..1000, 1000..2000, 2000..3000] {
        let own: Vec<i32> = seen[0]
            .iter()
            .map(|text| text.parse().unwrap())
            .filter(|number| publisher.contains(number))
            .collect();
        assert!(own.is_sorted(), "{own:?}");
    }
}

fn acknowledges_publishes_in_order(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let tickets: Vec<_> =
        (0..1500).map(|number| bench.publish(0, "chat:x", json(number), WhenDown::Reject)).collect();
    for ticket in tickets {
        assert_eq!(bench.done(0, ticket), Ok(()));
    }
    assert_eq!(bench.broker.stats().publish_queue_bytes, 0);
}

fn passes_odd_payloads(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    bench.subscribe(0, &Subject::channel("room:1"));
    let largest = format!("\"{}\"", "x".repeat(EXTERNAL_BYTES - 2));
    let cases: &[(&[u8], &str, &str)] = &[
        (b"", "message", "\"\""),
        (b"plain text", "message", "\"plain text\""),
        (b"\r\n$5\r\nhello\r\n", "message", "\"\\r\\n$5\\r\\nhello\\r\\n\""),
        (b"12345678901234567890", "message", "12345678901234567890"),
        (br#"{"event":"hit","data":{"a":[1,2]}}"#, "hit", r#"{"a":[1,2]}"#),
        (br#"{"event":"hit","other":1}"#, "message", r#"{"event":"hit","other":1}"#),
        (&[0xff, 0xfe, 0x00], "message", "\"//4A\""),
        (b"\0", "message", "\"\\u0000\""),
        (largest.as_bytes(), "message", &largest),
    ];
    for (payload, event, data) in cases {
        bench.publish_from_outside("room:1", payload.to_vec());
        let publication = bench.publication(0);
        assert_eq!((publication.event.name(), publication.event.data_json()), (*event, *data));
    }
}

fn drops_oversized_payloads_and_counts_them(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    bench.subscribe(0, &Subject::pattern("room:*"));
    bench.subscribe(0, &Subject::channel("room:1"));
    let queue = bench.broker.stats().shard_queue_bytes;
    for (bytes, missing) in [(EXTERNAL_BYTES + 1, 1), (300_000, 3)] {
        bench.publish_from_outside("room:1", vec![b'x'; bytes]);
        bench.publish_from_outside("room:1", "next");
        bench.gap(0, "room:1", missing);
        let publication = bench.publication(0);
        assert_eq!((publication.event.data_json(), publication.offset.0), ("\"next\"", missing + 1));
    }
    bench.wait_until("one for each publication", |stats| {
        assert!(stats.dropped_oversized <= 2, "counted twice");
        (stats.dropped_oversized, stats.shard_queue_bytes) == (2, queue)
    });
}

fn appends_to_streams(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    for _ in 0..2 {
        let ticket = bench.append(0, "actions:1", &[("player", "alice"), ("data", "{\"x\":1}")]);
        assert_eq!(bench.done(0, ticket), Ok(()));
    }
    let Some(server) = &bench.server else { return };
    let text = |text: &str| Reply::Text(text.into());
    let Reply::List(entries) = server.call(&["XRANGE", &server.named("actions:1"), "-", "+"]) else {
        panic!("no list")
    };
    assert_eq!(entries.len(), 2);
    for entry in entries {
        let Reply::List(parts) = entry else { panic!("no entry") };
        let fields = [text("player"), text("alice"), text("data"), text("{\"x\":1}")];
        assert_eq!(parts[1], Reply::List(fields.into()));
    }
}

fn holds_one_subscription_and_leaves_nothing(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let subjects: Vec<Subject> = (0..1200)
        .map(|number| Subject::channel(format!("chat:{number}")))
        .chain([Subject::channel("room:1"), Subject::pattern("room:*")])
        .collect();
    for subject in &subjects {
        bench.want(0, subject);
        bench.want(1, subject);
    }
    for shard in [0, 1] {
        for _ in &subjects {
            assert!(matches!(bench.next(shard), BrokerEvent::Confirmed { .. }));
        }
    }
    bench.wait_until("all live", |stats| stats.live == 1202 && stats.subjects == 1202);
    if let Some(server) = &bench.server {
        let one = |name: &str| Reply::List(vec![Reply::Text(name.into()), Reply::Int(1)]);
        let chat = server.named("chat:7");
        assert_eq!(server.call(&["PUBSUB", "NUMSUB", &chat]), one(&chat));
        assert_eq!(server.call(&["PUBSUB", "NUMPAT"]), Reply::Int(1));
    }
    bench.publish_from_outside("room:9", "counted");
    for shard in [0, 1] {
        assert_eq!(&*bench.publication(shard).channel, "room:9");
        for subject in &subjects {
            bench.unwant(shard, subject);
        }
    }
    bench.wait_until("nothing left", |stats| {
        (stats.live, stats.subjects, stats.pattern_channels, stats.shard_queue_bytes) == (0, 0, 0, 0)
    });
    if let Some(server) = &bench.server {
        assert_eq!(server.subscribed_channels(), Vec::<String>::new());
        assert_eq!(server.call(&["PUBSUB", "NUMPAT"]), Reply::Int(0));
    }
    let answers = bench.waiting(0);
    assert!(answers.iter().all(|answer| matches!(answer, BrokerEvent::Released(_))));
    assert_eq!(answers.len(), subjects.len());
}

fn joins_a_live_subscription_at_its_position(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let subject = Subject::channel("room:1");
    bench.subscribe(0, &subject);
    for number in 0..3 {
        bench.publish_from_outside("room:1", json(number));
        bench.publication(0);
    }
    bench.want(1, &subject);
    let BrokerEvent::Confirmed { position, .. } = bench.next(1) else { panic!("not confirmed") };
    assert_eq!(position.offset(), 3);
    bench.unwant(0, &subject);
    bench.publish_from_outside("room:1", json(3));
    assert_eq!(bench.publication(1).offset.0, 4);
}

fn tells_a_slow_shard_of_the_gap(flavour: Option<Flavour>) {
    let options = Options { shard_bytes: 20_000, ..Options::default() };
    let mut bench = Bench::with(flavour, options);
    bench.subscribe(0, &Subject::channel("room:1"));
    bench.subscribe(1, &Subject::channel("room:1"));
    let text = "x".repeat(1000);
    for number in 0u64..100 {
        bench.publish_from_outside("room:1", text.clone());
        assert_eq!(bench.publication(1).offset.0, number + 1, "one slow shard holds up no other");
    }
    let stats = bench.broker.stats();
    assert!(stats.shard_queue_bytes <= 20_000 && stats.dropped_to_shards > 50, "{stats:?}");
    let (mut last, mut epoch) = (0, Epoch::default());
    let gap = loop {
        match bench.next(0) {
            BrokerEvent::Publication(publication) => {
                (last, epoch) = (last + 1, publication.epoch);
                assert_eq!(publication.offset.0, last);
            }
            BrokerEvent::Gap { channel, position, .. } => {
                assert_eq!((&*channel, position.epoch), ("room:1", epoch));
                break position.offset.0;
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((gap, last + bench.broker.stats().dropped_to_shards), (100, 100));
    bench.publish_from_outside("room:1", "after");
    assert_eq!(bench.publication(0).offset.0, 101);
}

fn answers_everything_at_shutdown(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let tickets: Vec<_> =
        (0..200).map(|_| bench.publish(0, "chat:x", "last words", WhenDown::Queue)).collect();
    bench.shut_down();
    for ticket in tickets {
        assert_eq!(bench.done(0, ticket), Ok(()));
    }
    let late = bench.publish(0, "chat:x", "too late", WhenDown::Queue);
    assert!(bench.done(0, late).is_err());
    assert!(!bench.statuses[0].is_empty() && bench.statuses[0].contains(&BrokerStatus::Ok));
}

fn pairs(entities: &[(&str, usize)]) -> Vec<(String, String)> {
    entities.iter().map(|(key, n)| ((*key).to_owned(), n.to_string())).collect()
}

fn keeps_tables_of_entities_and_tells_them_in_order(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let world = Subject::channel("world:1");
    for key in ["a", "b", "c"] {
        assert_eq!(bench.commit(0, "world:1", key, 1), Ok(()));
    }
    bench.subscribe(0, &world);
    assert_eq!(bench.table(0), pairs(&[("a", 1), ("b", 1), ("c", 1)]));
    let tickets = [
        bench.commit_later(1, "world:1", "a", Some(2)),
        bench.commit_later(1, "world:1", "b", None),
        bench.commit_later(1, "world:1", "a", Some(3)),
        bench.commit_later(1, "world:1", "d", Some(4)),
    ];
    for ticket in tickets {
        assert_eq!(bench.done(1, ticket), Ok(()));
    }
    let told: Vec<_> = (0..4).map(|_| state(&bench.publication(0))).collect();
    assert_eq!(told, pairs(&[("a", 2), ("b", 0), ("a", 3), ("d", 4)]));
    // Who comes later gets what the node knows, and from there on the same.
    bench.subscribe(1, &world);
    assert_eq!(bench.table(1), pairs(&[("a", 3), ("c", 1), ("d", 4)]));
    // A plain publish changes what the node knows.
    bench.publish_from_outside("world:1", r#"{"event":"e","data":{"id":"c","n":9}}"#);
    for shard in [0, 1] {
        assert_eq!(state(&bench.publication(shard)), ("c".into(), "9".into()));
    }
    bench.broker.command(ShardId(1), BrokerCommand::Refresh(world));
    assert_eq!(bench.table(1), pairs(&[("a", 3), ("c", 9), ("d", 4)]));
    assert_eq!(bench.broker.stats().table_gaps, 0);
}

fn refuses_entities_beyond_the_bound_and_forgets_them_in_time(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    // Here nothing is forgotten meanwhile, however busy the machine is.
    bench.subscribe(0, &Subject::channel("own:1"));
    assert_eq!(bench.table(0), []);
    for n in 0..ENTITY_MAX {
        assert_eq!(bench.commit(1, "own:1", &format!("e{n:02}"), n), Ok(()));
    }
    assert_eq!(bench.commit(1, "own:1", "more", 0), Err(PublishFailure::LimitExceeded));
    assert_eq!(bench.commit(1, "own:1", "e00", 7), Ok(()), "a known one may change");
    for _ in 0..=ENTITY_MAX {
        bench.publication(0);
    }
    bench.wait_until("all are held", |stats| stats.entities == ENTITY_MAX as u64);
    bench.subscribe(0, &Subject::channel("world:1"));
    assert_eq!(bench.table(0), []);
    for n in 0..ENTITY_MAX {
        assert_eq!(bench.commit(1, "world:1", &format!("e{n:02}"), n), Ok(()));
    }
    let mut gone = 0;
    while gone < ENTITY_MAX {
        match bench.next(0) {
            BrokerEvent::Publication(_) => {}
            BrokerEvent::Expired { keys, .. } => gone += keys.len(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.commit(1, "world:1", "more", 0), Ok(()), "there is room again");
}

fn keeps_the_views_of_players(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    bench.subscribe(1, &Subject::channel("room:told"));
    assert_eq!(bench.views("alice"), []);
    assert_eq!(bench.set_view("alice", "room:1", Some("data.x > 1")), Ok(()));
    assert_eq!(bench.set_view("alice", "room:2", Some("false")), Ok(()));
    assert_eq!(bench.set_view("alice", "room:2", None), Ok(()));
    assert_eq!(bench.views("alice"), [("room:1".to_owned(), "data.x > 1".to_owned())]);
    assert_eq!(bench.views("bob"), []);
    for _ in 0..3 {
        assert_eq!(bench.publication(1).event.data_json(), "\"told\"");
    }
    for n in 0..255 {
        assert_eq!(bench.set_view("alice", &format!("chat:{n}"), Some("true")), Ok(()));
    }
    assert_eq!(bench.set_view("alice", "chat:more", Some("true")), Err(PublishFailure::LimitExceeded));
}

fn after(offset: u64) -> LogRange {
    LogRange::After(LoggedOffset(offset))
}

/// The offsets and the data of a log's events.
fn events_of(log: &StoredLog) -> Vec<(u64, String)> {
    let event = |event: &drawbridge_engine::upstream::StoredLogEvent| {
        let payload: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(payload["offset"], event.offset.0, "the payload says its position");
        let id = payload["id"].as_str().unwrap();
        let epoch = payload["epoch"].as_str().unwrap();
        assert!(id.starts_with("db1.") && id.ends_with(&format!("@{epoch}.{}", event.offset.0)), "{id}");
        assert_eq!(log.epoch_of(event.offset).as_str(), epoch);
        (event.offset.0, payload["data"].to_string())
    };
    log.events.iter().map(event).collect()
}

fn numbered(offsets: std::ops::RangeInclusive<u64>) -> Vec<(u64, String)> {
    offsets.map(|offset| (offset, offset.to_string())).collect()
}

fn appends_to_a_log_in_order(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let tickets: Vec<_> = (1..=10).map(|n| bench.log_later(0, "logged:1", &n.to_string(), None)).collect();
    let other = bench.log_later(1, "logged:2", "1", None);
    let positions: Vec<_> = tickets.into_iter().map(|ticket| bench.logged(0, ticket).unwrap()).collect();
    let epoch = positions[0].epoch;
    assert!(positions.iter().zip(1..).all(|(at, offset)| (at.epoch, at.offset.0) == (epoch, offset)));
    let other = bench.logged(1, other).unwrap();
    assert_eq!(other.offset, LoggedOffset(1));
    assert_ne!(other.epoch, epoch, "no two logs share an epoch");
    let log = bench.read_log("logged:1", after(0), 100);
    assert_eq!((log.last, log.first.0, log.ended.len()), (positions[9], 1, 0));
    assert_eq!(events_of(&log), numbered(1..=10));
    assert_eq!(events_of(&bench.read_log("logged:1", after(7), 2)), numbered(8..=9));
    assert_eq!(events_of(&bench.read_log("logged:1", after(10), 2)), []);
    assert_eq!(events_of(&bench.read_log("logged:1", after(99), 2)), []);
    assert_eq!(events_of(&bench.read_log("logged:1", LogRange::Newest, 3)), numbered(8..=10));
    assert_eq!(events_of(&bench.read_log("logged:1", LogRange::Newest, 99)), numbered(1..=10));
}

fn keeps_the_newest_events_of_a_log(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    // More than a node of the stream holds, by one call and by several.
    let tickets: Vec<_> = (1..=350).map(|n| bench.log_later(0, "logged:1", &n.to_string(), None)).collect();
    for ticket in tickets {
        bench.logged(0, ticket).unwrap();
    }
    let last = bench.log("logged:1", "351");
    let log = bench.read_log("logged:1", after(0), 100);
    assert_eq!((log.last, log.first.0), (last, 351 - HISTORY.events + 1));
    assert_eq!(events_of(&log), numbered(log.first.0..=351));
    assert_eq!(events_of(&bench.read_log("logged:1", LogRange::Newest, 100)), numbered(log.first.0..=351));
    assert_eq!(bench.read_log("logged:1", after(0), 0).first, log.first);
    let Some(server) = &bench.server else { return };
    let length =
        server.call(&["XLEN", &server.named(&format!("drawbridge:{{{}}}:log", server.named("logged:1")))]);
    assert!(matches!(length, Reply::Int(20..=120)), "{length:?}: one node more than what is kept");
}

fn forgets_events_by_their_age_and_not_their_position(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let give_up = std::time::Instant::now() + PATIENCE;
    let until = |bench: &mut Bench, appends: bool, holds: &dyn Fn(&StoredLog) -> bool| loop {
        assert!(std::time::Instant::now() < give_up, "they are kept");
        if appends {
            bench.log("brief:1", "0");
        }
        let log = bench.read_log("brief:1", LogRange::Newest, 0);
        if holds(&log) {
            return log;
        }
    };
    let old = bench.log("brief:1", "0");
    // The old ones go while younger ones come.
    let log = until(&mut bench, true, &|log| log.first.0 > 2);
    assert!(log.first <= log.last.offset && log.last.epoch == old.epoch);
    let kept = bench.read_log("brief:1", after(0), 1);
    assert!(kept.events.first().is_none_or(|event| event.offset == kept.first && kept.first >= log.first));
    let empty = until(&mut bench, false, &|log| log.first > log.last.offset);
    assert_eq!((empty.last, empty.first.0), (log.last, log.last.offset.0 + 1));
    assert_eq!(bench.read_log("brief:1", after(0), 9).events, []);
    let next = bench.log("brief:1", "0");
    assert_eq!((next.epoch, next.offset.0), (old.epoch, log.last.offset.0 + 1));
}

fn begins_a_log_by_reading_its_position(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let log = bench.read_log("logged:1", LogRange::Newest, 0);
    assert_eq!((log.last.offset.0, log.first.0, log.events.len(), log.ended.len()), (0, 1, 0, 0));
    assert_eq!(bench.read_log("logged:1", after(0), 10), log);
    let first = bench.log("logged:1", "1");
    assert_eq!((first.epoch, first.offset.0), (log.last.epoch, 1));
    let read = bench.read_logs([("chat:1".to_owned(), LogRange::Newest, 0)].into_iter(), LogReader::Hub);
    assert!(read[0].as_ref().is_err_and(|why| why.starts_with("UNSUPPORTED")), "{read:?}");
}

fn reads_a_log_in_parts(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let text = format!("\"{}\"", "x".repeat(60_000));
    for _ in 0..20 {
        bench.log("logged:1", &text);
    }
    let offsets = |log: StoredLog| log.events.iter().map(|event| event.offset.0).collect::<Vec<_>>();
    let first = offsets(bench.read_log("logged:1", after(0), 100));
    assert!((10..20).contains(&first.len()) && first.iter().zip(1..).all(|(at, n)| *at == n), "{first:?}");
    let rest = offsets(bench.read_log("logged:1", after(first.len() as u64), 100));
    assert_eq!(rest, ((first.len() as u64 + 1)..=20).collect::<Vec<_>>());
    let newest = offsets(bench.read_log("logged:1", LogRange::Newest, 100));
    assert_eq!(newest, ((21 - first.len() as u64)..=20).collect::<Vec<_>>());
}

fn does_a_repeat_once(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let keys = [Some("a"), Some("a"), None, Some("b"), Some("a")];
    let tickets = keys.map(|once| bench.log_later(0, "logged:1", "0", once));
    let offsets = tickets.map(|ticket| bench.logged(0, ticket).unwrap().offset.0);
    assert_eq!(offsets, [1, 1, 2, 3, 1], "in one call");
    let again = bench.log_later(1, "logged:1", "0", Some("b"));
    assert_eq!(bench.logged(1, again).unwrap().offset.0, 3, "and in another");
    let other = bench.log_later(1, "logged:2", "0", Some("b"));
    assert_eq!(bench.logged(1, other).unwrap().offset.0, 1, "each channel has its own");
    assert_eq!(bench.read_log("logged:1", after(0), 100).events.len(), 3);
}

fn refuses_what_is_too_large_for_a_log(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    let tickets = [10, EXTERNAL_BYTES, 10].map(|bytes| bench.log_later(0, "logged:1", &text(bytes), None));
    let [first, refused, second] = tickets.map(|ticket| bench.logged(0, ticket));
    assert_eq!(first.map(|at| at.offset.0), Ok(1));
    let Err(PublishFailure::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.starts_with("TOOLARGE"), "{reason}");
    assert_eq!(second.map(|at| at.offset.0), Ok(2), "nothing was counted");
    // The largest that is taken is no larger than what a node reads.
    for bytes in EXTERNAL_BYTES - 200..EXTERNAL_BYTES {
        let ticket = bench.log_later(0, "logged:1", &text(bytes), None);
        if bench.logged(0, ticket).is_err() {
            break;
        }
    }
    let log = bench.read_log("logged:1", LogRange::Newest, 1);
    assert!((EXTERNAL_BYTES - 100..=EXTERNAL_BYTES).contains(&log.events[0].payload.len()));
}

fn reads_many_positions_at_once(flavour: Option<Flavour>) {
    let mut bench = Bench::new(flavour);
    let channel = |n: usize| format!("logged:{n}");
    for n in (0..2_000).step_by(100) {
        bench.log(&channel(n), "0");
    }
    let read = bench.read_logs((0..2_000).map(|n| (channel(n), LogRange::Newest, 0)), LogReader::Hub);
    let mut epochs = HashSet::new();
    for (n, log) in read.into_iter().enumerate() {
        let log = log.unwrap();
        assert_eq!(log.last.offset.0, u64::from(n % 100 == 0), "{n}");
        assert!(epochs.insert(log.last.epoch), "no two logs share an epoch");
    }
}
