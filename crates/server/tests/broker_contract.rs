//! The broker's contract: the same tests on the memory broker and on a real Redis over TCP, unix socket and TLS,
//! with an ACL user, and with a channel prefix. What only a Redis can do (break, refuse, be away) stands in `broker_faults.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use std::collections::HashSet;

use broker_support::bench::{ENTITY_MAX, EXTERNAL_BYTES, Options, state};
use broker_support::{Bench, Flavour, Reply};
use drawbridge_engine::io::{
    BrokerCommand, BrokerEvent, BrokerStatus, Epoch, PublishFailure, Subject, WhenDown,
};
use drawbridge_engine::upstream::{LinkId, ShardId};

/// Every scenario on every broker.
macro_rules! on_every_broker {
    ($($scenario:ident),* $(,)?) => {
        on_every_broker!(@on memory, None, $($scenario),*);
        on_every_broker!(@on redis_tcp, Some(Flavour::Tcp), $($scenario),*);
        on_every_broker!(@on redis_unix, Some(Flavour::Unix), $($scenario),*);
        on_every_broker!(@on redis_tls, Some(Flavour::Tls), $($scenario),*);
        on_every_broker!(@on redis_acl, Some(Flavour::Acl), $($scenario),*);
        on_every_broker!(@on redis_prefixed, Some(Flavour::Prefixed), $($scenario),*);
    };
    (@on $broker:ident, $flavour:expr, $($scenario:ident),*) => {
        mod $broker {
            #[allow(unused_imports)]
            use super::Flavour;
            $(#[test] fn $scenario() { super::$scenario($flavour); })*
        }
    };
}

on_every_broker!(
    confirms_before_the_first_event,
    delivers_once_to_overlapping_subscriptions,
    shows_all_shards_one_order,
    acknowledges_publishes_in_order,
    passes_odd_payloads,
    drops_oversized_payloads_and_counts_them,
    appends_to_streams,
    holds_one_subscription_and_leaves_nothing,
    joins_a_live_subscription_at_its_position,
    tells_a_slow_shard_of_the_gap,
    answers_everything_at_shutdown,
    keeps_tables_of_entities_and_tells_them_in_order,
    refuses_entities_beyond_the_bound_and_forgets_them_in_time,
    keeps_the_views_of_players,
    moves_a_channel_between_links_without_a_gap,
);

/// With a user that may not hear markers the move is a break, which is told.
fn moves_a_channel_between_links_without_a_gap(flavour: Option<Flavour>) {
    const ROUNDS: usize = 20;
    const EVENTS: usize = 40;
    let mut bench = Bench::new(flavour);
    let channel = Subject::channel("chat:7");
    bench.subscribe(0, &channel);
    bench.subscribe(1, &channel);
    let mut moves = 0;
    for round in 0..ROUNDS {
        let to = LinkId::at(1 - bench.broker.link_of(&channel).place());
        moves += usize::from(bench.broker.move_subject(channel.clone(), to));
        for number in 0..EVENTS {
            bench.publish_from_outside("chat:7", json(round * EVENTS + number));
        }
    }
    assert_eq!(moves > 0, flavour.is_some(), "only a pool has other links");
    for shard in [0, 1] {
        let (mut next, mut is_told) = (0, false);
        while next < ROUNDS * EVENTS {
            match bench.next(shard) {
                BrokerEvent::Publication(publication) => {
                    let number: usize = publication.event.data_json().parse().unwrap();
                    assert!(number == next || (is_told && number > next), "{number}, not {next}");
                    (next, is_told) = (number + 1, false);
                }
                BrokerEvent::Interrupted(_) if flavour == Some(Flavour::Acl) => is_told = true,
                BrokerEvent::Confirmed { after_break: true, .. } if flavour == Some(Flavour::Acl) => {}
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
        assert_eq!((position.offset.0, after_break), (0, false));
        assert!(epochs.insert(position.epoch), "each count has an epoch of its own");
        bench.publish_from_outside(&channel, json(round));
        let publication = bench.publication(0);
        assert_eq!((&*publication.channel, publication.offset.0), (channel.as_str(), 1));
        assert_eq!(publication.epoch, position.epoch);
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
        assert_eq!(server.call(&["PUBSUB", "CHANNELS"]), Reply::List(vec![]));
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
    assert_eq!(position.offset.0, 3);
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
            BrokerEvent::Gap { channel, position } => {
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
    bench.subscribe(0, &Subject::channel("world:1"));
    assert_eq!(bench.table(0), []);
    for n in 0..ENTITY_MAX {
        assert_eq!(bench.commit(1, "world:1", &format!("e{n:02}"), n), Ok(()));
    }
    assert_eq!(bench.commit(1, "world:1", "more", 0), Err(PublishFailure::LimitExceeded));
    assert_eq!(bench.commit(1, "world:1", "e00", 7), Ok(()), "a known one may change");
    for _ in 0..=ENTITY_MAX {
        bench.publication(0);
    }
    bench.wait_until("all are held", |stats| stats.entities == ENTITY_MAX as u64);
    let mut gone = 0;
    while gone < ENTITY_MAX {
        match bench.next(0) {
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
