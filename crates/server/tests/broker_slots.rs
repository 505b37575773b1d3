//! What the broker does about slots of a Redis Cluster that no master has, and about a master that is away: what is with the others
//! goes on. On real Clusters, whose masters the tests freeze and whose slots they take away.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use std::collections::HashMap;

use broker_support::bench::Options;
use broker_support::server::Server;
use broker_support::{Bench, Flavour, until};
use bytes::Bytes;
use drawbridge::broker::Audience;
use drawbridge_engine::io::{
    Answer, BrokerEvent, BrokerStatus, LogReader, Outcome, Owner, PublishFailure, QueryKind, SessionSecret,
    Subject, Ticket, WhenDown, WriteKind,
};
use drawbridge_engine::upstream::{LogRange, SlotHasher};

/// More than one pipeline, and than a shard has out of one kind.
const MANY: usize = 1_500;

fn views_of(player: &str) -> QueryKind {
    QueryKind::ViewOverrides { player: player.into() }
}

/// A name that begins so, and whose slot is this one, or another one.
fn name(begin: &str, slot: u16, is_in_it: bool) -> String {
    let mut names = (0..).map(|n| format!("{begin}{n}"));
    names.find(|name| (SlotHasher::default().slot_of(name) == slot) == is_in_it).unwrap()
}

/// A player whose views are in this slot, or in another one.
fn player(slot: u16, is_in_it: bool) -> String {
    name("player:", slot, is_in_it).trim_start_matches("player:").to_owned()
}

#[test]
fn what_is_read_of_a_slot_that_no_master_has_waits_and_the_rest_is_answered() {
    let mut bench = Bench::new(Some(Flavour::Cluster));
    bench.commit(0, "world:1", "e", 7).unwrap();
    let slot = SlotHasher::default().slot_of("world:1");
    let (within, without, logged) = (player(slot, true), player(slot, false), name("logged:", slot, true));
    bench.log(&logged, "1");
    let owner = bench.server().unassign(slot);
    bench.until_status(BrokerStatus::Degraded);
    assert_eq!(bench.broker.health().status, BrokerStatus::Partial);
    assert!(
        bench
            .broker
            .trouble(Audience::Operators)
            .unwrap()
            .starts_with("slots of the Cluster: no master has 1")
    );
    // What waits with a master that is away waits here, too: a hub has no time limit, and shards have their own.
    let table = bench.ask(QueryKind::Table { channel: "world:1".into() });
    let presence = QueryKind::Presence { channel: "world:1".into(), after: None, limit: 9 };
    let presence = bench.ask(presence);
    let (range, reader) = (LogRange::Newest, LogReader::Request { max_bytes: 1 << 20 });
    let log = bench.ask(QueryKind::Log { channel: logged.into(), range, limit: 9, reader });
    // All others' subscriptions may wait for a player's views.
    let refused = bench.query(views_of(&within)).unwrap_err();
    assert!(refused.starts_with("CLUSTERDOWN"), "{refused}");
    assert_eq!(bench.query(views_of(&without)), Ok(Answer::ViewOverrides([].into())));
    bench.subscribe(0, &Subject::channel("chat:1"));
    bench.publish_from_outside("chat:1", "still here");
    bench.publication(0);
    bench.server().assign(slot, owner);
    let mut answers = 0;
    while answers < 3 {
        let event = bench.next(0);
        let BrokerEvent::Answer { ticket, answer } = event else {
            panic!("expected an answer, got {event:?}")
        };
        match answer.unwrap() {
            Answer::Table(loaded) if ticket == table => assert_eq!(loaded.rows.len(), 1),
            Answer::Log(stored) if ticket == log => assert_eq!(stored.events.len(), 1),
            Answer::Presence(page) if ticket == presence => assert_eq!(page.total, 0),
            other => panic!("{other:?}"),
        }
        answers += 1;
    }
    assert_eq!(bench.query(views_of(&within)), Ok(Answer::ViewOverrides([].into())));
    until("all is well", || bench.broker.health().status == BrokerStatus::Ok);
}

/// Names that begin so, whose slots are this master's, or another's.
fn names_at(master: &Server, is_its: bool, begin: &'static str) -> impl Iterator<Item = String> {
    let port = master.port();
    let mut owners = HashMap::new();
    (0..).map(move |n| format!("{begin}{n}")).filter(move |name| {
        let slot = SlotHasher::default().slot_of(name);
        let owner = *owners.entry(slot).or_insert_with(|| master.owner_of(slot));
        (owner == Some(port)) == is_its
    })
}

/// The record of a session of this player (`player:NAME`).
fn record(player: &str) -> WriteKind {
    WriteKind::SaveSession {
        player: player.trim_start_matches("player:").into(),
        session: SessionSecret(7).hash(),
        generation: 1,
        content: Bytes::from_static(b"content"),
    }
}

fn presence(channel: String) -> WriteKind {
    WriteKind::Presence {
        channel: channel.into(),
        player: "alice".into(),
        session: SessionSecret(7).hash(),
        generation: 1,
        is_present: true,
        notify: false,
    }
}

/// The outcomes that come until all of these have, with those.
fn outcomes(bench: &mut Bench, of: &[Ticket], all: &mut HashMap<Ticket, Outcome>) {
    while !of.iter().all(|ticket| all.contains_key(ticket)) {
        match bench.next(0) {
            BrokerEvent::Outcome { ticket, outcome } => drop(all.insert(ticket, outcome)),
            other => panic!("expected an outcome, got {other:?}"),
        }
    }
}

#[test]
fn what_waits_for_a_master_that_is_away_holds_up_no_other_masters_writes() {
    let server = Server::start(Flavour::Cluster);
    server.allow_holes();
    let settings = server.settings(2);
    // The victim has neither the node's indexes nor the leases.
    let own = [format!("node:{}", settings.lease.instance), "nodes".to_owned()];
    let owners = own.map(|tag| server.owner_of(SlotHasher::default().slot_of(&tag)));
    let at = server.masters().position(|master| !owners.contains(&Some(master.port()))).unwrap();
    let options = Options { queue_bytes: 16 << 20, ..Options::default() };
    let mut bench = Bench::on(Some(server), Some(settings), options);
    bench.wait_for(BrokerStatus::Ok);
    let server = bench.server.take().unwrap();
    let victim = server.masters().nth(at).unwrap();
    let begin = |is_its, begin| names_at(victim, is_its, begin).take(MANY).collect::<Vec<_>>();
    let (its_players, its_rooms) = (begin(true, "player:"), begin(true, "room:"));
    let (players, rooms) = (begin(false, "player:"), begin(false, "room:"));
    victim.freeze();
    let write = |bench: &Bench, players: &[String], rooms: &[String]| -> [Vec<Ticket>; 2] {
        [
            players.iter().map(|player| bench.write_later(Owner::Services, record(player))).collect(),
            rooms.iter().map(|room| bench.write_later(Owner::Presence, presence(room.clone()))).collect(),
        ]
    };
    let mut all = HashMap::new();
    // Twice: when nobody knows yet that it is away, and when everybody does.
    let [its_records, its_presence] = write(&bench, &its_players, &its_rooms);
    for _ in 0..2 {
        let others = write(&bench, &players, &rooms).concat();
        outcomes(&mut bench, &others, &mut all);
        for ticket in others {
            assert_eq!(all.remove(&ticket), Some(Ok(None)));
        }
        until("it is known", || bench.broker.health().status == BrokerStatus::Partial);
    }
    // Presence is kept by the shards, which write it again. Records wait, except those whose answer was out.
    outcomes(&mut bench, &its_presence, &mut all);
    let is_unwritten =
        |outcome: &Outcome| matches!(outcome, Err(PublishFailure::NotDone | PublishFailure::Unknown));
    assert!(its_presence.iter().all(|ticket| is_unwritten(&all[ticket])));
    let waiting: Vec<Ticket> =
        its_records.into_iter().filter(|ticket| !all.get(ticket).is_some_and(is_unwritten)).collect();
    assert!(!waiting.is_empty() && waiting.iter().all(|ticket| !all.contains_key(ticket)));
    victim.thaw();
    outcomes(&mut bench, &waiting, &mut all);
    assert!(waiting.iter().all(|ticket| all[ticket] == Ok(None)));
}

#[test]
fn what_is_written_to_a_slot_that_no_master_has_waits_in_order_or_fares_as_its_class_says() {
    let mut bench = Bench::new(Some(Flavour::Cluster));
    bench.subscribe(0, &Subject::channel("chat:1"));
    let slot = SlotHasher::default().slot_of("chat:1");
    let owner = bench.server().unassign(slot);
    bench.until_status(BrokerStatus::Degraded);
    let waiting: Vec<Ticket> =
        (0..3).map(|n| bench.publish(0, "chat:1", n.to_string(), WhenDown::Queue)).collect();
    let brief = bench.publish(0, "chat:1", "brief", WhenDown::QueueFor(std::time::Duration::from_millis(20)));
    assert_eq!(bench.done(0, brief), Err(PublishFailure::NotDone));
    let strict = bench.publish(0, "chat:1", "strict", WhenDown::Reject);
    assert_eq!(bench.done(0, strict), Err(PublishFailure::NotDone));
    let local = bench.publish(0, "chat:1", "local", WhenDown::Local);
    let mut seen = [bench.next(0), bench.next(0)].into_iter().map(|event| match event {
        BrokerEvent::Publication(publication) => publication.event.data_json().to_owned(),
        BrokerEvent::Outcome { ticket, outcome } if ticket == local => format!("{outcome:?}"),
        other => panic!("{other:?}"),
    });
    let seen: std::collections::BTreeSet<String> = seen.by_ref().collect();
    assert_eq!(seen, ["\"local\"".to_owned(), "Err(OnlyLocal)".to_owned()].into());
    // Others of the same master go on, however many wait.
    let elsewhere = name("chat:", slot, false);
    let other = bench.publish(0, &elsewhere, "elsewhere", WhenDown::Queue);
    assert_eq!(bench.done(0, other), Ok(()));
    bench.server().assign(slot, owner);
    let (mut done, mut arrived) = (Vec::new(), Vec::new());
    while done.len() < 3 || arrived.len() < 3 {
        match bench.next(0) {
            BrokerEvent::Publication(publication) => arrived.push(publication.event.data_json().to_owned()),
            BrokerEvent::Outcome { ticket, outcome } => {
                assert_eq!(outcome, Ok(None));
                done.push(ticket);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((done, arrived), (waiting, ["0", "1", "2"].map(str::to_owned).into()));
}
