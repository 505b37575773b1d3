//! What the broker does when Redis breaks, refuses, stalls or is away, on real Redis servers that the tests kill,
//! freeze and starve.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;

use broker_support::bench::{EXTERNAL_BYTES, Options, RESUME_WINDOW};
use broker_support::server::Server;
use broker_support::{Bench, Flavour, Reply};
use drawbridge::broker::RedisAddress;
use drawbridge::broker::RedisSettings;
use drawbridge::broker::redis::{LeaseSettings, Library, Names};
use drawbridge::config::Rotating;
use drawbridge_engine::class::ShardedChannels;
use drawbridge_engine::io::{BrokerEvent, BrokerStatus, PublishFailure, Subject, WhenDown};

const FLAVOURS: [Flavour; 4] = [Flavour::Tcp, Flavour::Unix, Flavour::Tls, Flavour::Acl];
/// The links of a bench and its publisher.
const CONNECTIONS: u64 = 3;

fn room() -> Subject {
    Subject::channel("room:1")
}

/// Shard 0 is notified that all of `subjects` broke and came back, and then that all is well. One link may be back
/// before another breaks, so it may be notified that all is well in between, too.
fn expect_restored(bench: &mut Bench, subjects: &[Subject]) {
    let all: BTreeSet<Subject> = subjects.iter().cloned().collect();
    let (mut interrupted, mut restored) = (BTreeSet::new(), BTreeSet::new());
    while restored != all {
        for event in bench.until_status(BrokerStatus::Ok) {
            match event {
                BrokerEvent::Interrupted(subject) => assert!(interrupted.insert(subject)),
                BrokerEvent::Confirmed { subject, after_break, .. } => {
                    assert!(after_break && interrupted.contains(&subject), "{subject:?}");
                    assert!(restored.insert(subject));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(interrupted, all);
}

#[test]
fn restores_every_subscription_after_its_links_are_cut() {
    for flavour in FLAVOURS {
        let mut bench = Bench::new(Some(flavour));
        let mut subjects: Vec<Subject> =
            (0..1300).map(|number| Subject::channel(format!("chat:{number}"))).collect();
        subjects.extend([room(), Subject::pattern("room:*")]);
        subjects.iter().for_each(|subject| bench.want(0, subject));
        for _ in &subjects {
            assert!(matches!(bench.next(0), BrokerEvent::Confirmed { after_break: false, .. }));
        }
        bench.publish_from_outside("room:1", "before");
        assert_eq!(bench.publication(0).offset.0, 1);
        for round in 2..4 {
            bench.server().call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            expect_restored(&mut bench, &subjects);
            bench.publish_from_outside("room:1", "after");
            assert_eq!(bench.publication(0).offset.0, round, "the count goes on");
            assert!(bench.waiting(0).is_empty());
        }
    }
}

#[test]
fn comes_back_after_redis_was_killed() {
    for flavour in FLAVOURS {
        let mut bench = Bench::new(Some(flavour));
        bench.subscribe(0, &room());
        bench.server().kill();
        bench.wait_until_cut_off(CONNECTIONS);
        assert_eq!(bench.broker.health().status.word(), "degraded");
        bench.server().launch();
        expect_restored(&mut bench, &[room()]);
        assert_eq!(bench.broker.health().degraded_for, None);
        let ticket = bench.publish(1, "room:1", "back", WhenDown::Reject);
        assert_eq!(bench.done(1, ticket), Ok(()));
        assert_eq!(bench.publication(0).event.data_json(), "\"back\"");
    }
}

#[test]
fn notices_a_frozen_redis_and_its_return() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.subscribe(0, &room());
    bench.server().freeze();
    bench.wait_until_cut_off(CONNECTIONS);
    assert_eq!(bench.broker.health().status.word(), "degraded");
    let ticket = bench.publish(1, "room:1", "now", WhenDown::Reject);
    assert_eq!(bench.done(1, ticket), Err(PublishFailure::NotDone));
    bench.server().thaw();
    expect_restored(&mut bench, &[room()]);
    bench.publish_from_outside("room:1", "back");
    assert_eq!(bench.publication(0).event.data_json(), "\"back\"");
}

#[test]
fn starts_without_redis_and_queues_in_order_until_it_comes() {
    let server = Server::prepare(Flavour::Tcp);
    let redis = server.settings(2);
    let mut bench = Bench::on(Some(server), Some(redis), Options::default());
    bench.want(0, &room());
    let mut tickets = Vec::new();
    for number in 0..600 {
        tickets.push(bench.publish(1, "chat:1", number.to_string(), WhenDown::Queue));
        let value: &'static str = ["even", "odd"][number % 2];
        tickets.push(bench.append(1, "actions", &[("number", value)]));
    }
    bench.server().launch();
    assert!(matches!(bench.until_status(BrokerStatus::Ok)[..], [] | [BrokerEvent::Confirmed { .. }]));
    for ticket in tickets {
        assert_eq!(bench.done(1, ticket), Ok(()));
    }
    let Reply::List(entries) = bench.server().call(&["XRANGE", "actions", "-", "+"]) else {
        panic!("no list")
    };
    assert_eq!(entries.len(), 600);
    for (number, entry) in entries.iter().enumerate() {
        let word = ["even", "odd"][number % 2];
        assert!(format!("{entry:?}").contains(word), "{number}: {entry:?}");
    }
    assert_eq!(bench.statuses[0], [BrokerStatus::Degraded, BrokerStatus::Ok]);
}

/// The next event of a shard that says nothing of subscriptions.
fn next_said(bench: &mut Bench, shard: u8) -> BrokerEvent {
    loop {
        match bench.next(shard) {
            BrokerEvent::Interrupted(_) | BrokerEvent::Confirmed { .. } => {}
            event => return event,
        }
    }
}

/// What `when_broker_down = "local"` publishes while Redis is away comes to all shards of the node, in one order, without a
/// number, and never again; before and after, it comes from Redis.
#[test]
fn delivers_what_is_local_on_this_node_while_redis_is_away_and_never_later() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.subscribe(0, &room());
    bench.subscribe(1, &Subject::pattern("room:*"));
    let publish = |bench: &mut Bench, text: &str| {
        let ticket = bench.publish(0, "room:1", text.to_owned(), WhenDown::Local);
        let (mut outcome, mut event) = (None, None);
        while outcome.is_none() || event.is_none() {
            match next_said(bench, 0) {
                BrokerEvent::Publication(publication) => event = Some(publication),
                BrokerEvent::Outcome { ticket: of, outcome: what } if of == ticket => outcome = Some(what),
                other => panic!("{other:?}"),
            }
        }
        let event = event.unwrap();
        assert_eq!(event.event.data_json(), format!("\"{text}\""));
        (outcome.unwrap(), event)
    };
    let (outcome, event) = publish(&mut bench, "before");
    assert_eq!((outcome, event.offset.0), (Ok(None), 1));

    bench.server().kill();
    bench.wait_until_cut_off(CONNECTIONS);
    for number in 0..200 {
        let (outcome, event) = publish(&mut bench, &format!("n{number}"));
        assert_eq!(outcome, Err(PublishFailure::OnlyLocal));
        assert_eq!(event.offset.0, 1, "it takes no number");
        assert!(!event.event.json().contains("offset"), "{}", event.event.json());
    }
    assert_eq!(bench.broker.stats().published_locally, 200);

    bench.server().launch();
    while bench.broker.health().degraded_for.is_some() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let (outcome, event) = publish(&mut bench, "after");
    assert_eq!((outcome, event.offset.0), (Ok(None), 2), "the count goes on, and nothing comes late");
    let texts = ["before".to_owned()].into_iter().chain((0..200).map(|number| format!("n{number}")));
    for text in texts.chain(["after".to_owned()]) {
        let BrokerEvent::Publication(publication) = next_said(&mut bench, 1) else { panic!("no event") };
        assert_eq!(publication.event.data_json(), format!("\"{text}\""));
    }
}

#[test]
fn keeps_the_order_of_what_waits_while_redis_is_away() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.server().kill();
    bench.wait_until_cut_off(CONNECTIONS);
    let waiting = bench.publish(0, "chat:1", "wait", WhenDown::Queue);
    let refused = bench.publish(0, "chat:1", "now", WhenDown::Reject);
    bench.until_status(BrokerStatus::Degraded);
    assert_eq!(bench.done(0, refused), Err(PublishFailure::NotDone), "at once, though others wait");
    let second = bench.append(0, "s", &[("n", "2")]);
    let third = bench.append(0, "s", &[("n", "3")]);
    bench.server().launch();
    for ticket in [waiting, second, third] {
        assert_eq!(bench.done(0, ticket), Ok(()));
    }
    let listed = format!("{:?}", bench.server().call(&["XRANGE", "s", "-", "+"]));
    assert!(listed.find("\"2\"").unwrap() < listed.find("\"3\"").unwrap());
}

#[test]
fn does_not_know_and_does_not_repeat_what_was_in_flight() {
    for cut in [false, true] {
        let mut bench = Bench::new(Some(Flavour::Tcp));
        bench.server().freeze();
        let large: &'static str = "x".repeat(100_000).leak();
        let ticket = bench.append(0, "s", &[("n", large)]);
        if cut {
            // Handed over, unanswered; then the connection breaks.
            let server = bench.server.as_ref().unwrap();
            bench.wait_until("handed over", |_| server.unread_bytes() >= 50_000);
            bench.server().kill();
        }
        assert_eq!(bench.done(0, ticket), Err(PublishFailure::Unknown));
        if cut {
            bench.server().launch();
        } else {
            bench.server().thaw();
        }
        let ticket = bench.append(0, "s", &[("n", "2")]);
        assert_eq!(bench.done(0, ticket), Ok(()));
        let Reply::Int(entries) = bench.server().call(&["XLEN", "s"]) else { panic!("no number") };
        // A frozen Redis may do later what it had been sent.
        assert!(if cut { entries == 1 } else { entries == 1 || entries == 2 }, "{entries}");
    }
}

#[test]
fn refuses_what_does_not_fit_into_the_queue() {
    let options = Options { queue_bytes: 10_000, ..Options::default() };
    let mut bench = Bench::with(Some(Flavour::Tcp), options);
    bench.server().kill();
    bench.wait_until_cut_off(CONNECTIONS);
    bench.until_status(BrokerStatus::Degraded);
    let tickets: Vec<_> =
        (0..50).map(|_| bench.publish(0, "chat:1", vec![b'x'; 1000], WhenDown::Queue)).collect();
    for ticket in &tickets[8..] {
        assert_eq!(bench.done(0, *ticket), Err(PublishFailure::NotDone));
    }
    assert!(bench.broker.stats().publish_queue_bytes <= 10_000);
    bench.server().launch();
    for ticket in &tickets[..8] {
        assert_eq!(bench.done(0, *ticket), Ok(()));
    }
    assert_eq!(bench.broker.stats().publish_queue_bytes, 0);
}

#[test]
fn an_acl_refuses_exactly_what_it_forbids() {
    let mut bench = Bench::new(Some(Flavour::Acl));
    let others = [Subject::channel("secret:1"), Subject::pattern("room:4*")];
    let allowed: Vec<Subject> = (0..40).map(|number| Subject::channel(format!("room:{number}"))).collect();
    for (at, subject) in allowed.iter().enumerate() {
        bench.want(0, subject);
        if let Some(subject) = at.checked_sub(20).and_then(|at| others.get(at)) {
            bench.want(0, subject);
        }
    }
    let (mut confirmed, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..42 {
        match bench.next(0) {
            BrokerEvent::Confirmed { subject, .. } => assert!(confirmed.insert(subject)),
            BrokerEvent::Refused { subject, reason } => {
                assert!(reason.starts_with("NOPERM"), "{reason}");
                assert!(refused.insert(subject));
            }
            other => panic!("{other:?}"),
        }
    }
    // `&room:*` allows `PSUBSCRIBE room:*` and no narrower one: the class's prefix covers the pattern.
    let [secret, by_pattern] = others;
    assert_eq!(confirmed, allowed.iter().cloned().chain([by_pattern]).collect());
    assert_eq!(refused, [secret].into());
    bench.wait_until("forgotten", |stats| (stats.subjects, stats.live, stats.reconnects) == (41, 41, 0));
    assert_eq!(bench.server().call(&["PUBSUB", "NUMPAT"]), Reply::Int(1));

    let forbidden = bench.publish(1, "secret:1", "psst", WhenDown::Queue);
    let fine = bench.publish(1, "room:1", "hello", WhenDown::Queue);
    let Err(PublishFailure::Refused(words)) = bench.done(1, forbidden) else { panic!("not refused") };
    assert!(words.starts_with("NOPERM"), "{words}");
    assert_eq!(bench.done(1, fine), Ok(()));
    assert_eq!(&*bench.publication(0).channel, "room:1");
}

#[test]
fn one_refused_command_spoils_no_other() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.server().call(&["CONFIG", "SET", "maxmemory", "1"]);
    bench.server().freeze();
    let tickets: Vec<_> = (0..10)
        .map(|at| match at % 2 {
            0 => bench.append(0, "s", &[("n", "1")]),
            _ => bench.publish(0, "chat:1", "x", WhenDown::Queue),
        })
        .collect();
    bench.server().thaw();
    for (at, ticket) in tickets.into_iter().enumerate() {
        match bench.done(0, ticket) {
            Err(PublishFailure::Refused(words)) if at % 2 == 0 => {
                assert!(words.starts_with("OOM"), "{words}")
            }
            Ok(()) if at % 2 == 1 => {}
            other => panic!("{at}: {other:?}"),
        }
    }
}

#[test]
fn being_cut_off_at_the_output_buffer_limit_is_a_break() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.subscribe(0, &room());
    bench.server().call(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 0 0"]);
    bench.publish_from_outside("room:1", vec![b'x'; 8 << 20]);
    expect_restored(&mut bench, &[room()]);
    bench.publish_from_outside("room:1", "after");
    assert_eq!(bench.publication(0).event.data_json(), "\"after\"");
}

#[test]
fn a_huge_payload_passes_by() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.subscribe(0, &room());
    bench.publish_from_outside("room:1", vec![b'x'; 20 << 20]);
    bench.publish_from_outside("room:1", vec![b'y'; EXTERNAL_BYTES]);
    bench.gap(0, "room:1", 1);
    assert_eq!(bench.publication(0).event.data_json().len(), EXTERNAL_BYTES + 2);
    let stats = bench.broker.stats();
    assert_eq!((stats.dropped_oversized, stats.reconnects), (1, 0));
}

#[test]
fn a_long_or_odd_channel_name_is_dropped_and_counted() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.subscribe(0, &Subject::pattern("room:*"));
    for name in
        [b"room:\xff".to_vec(), b"room:a b".to_vec(), [b"room:".to_vec(), vec![b'n'; 100_000]].concat()]
    {
        bench.server().call(&[b"PUBLISH".as_slice(), &name, b"x"]);
    }
    bench.publish_from_outside("room:1", "fine");
    assert_eq!(&*bench.publication(0).channel, "room:1");
    assert_eq!(bench.broker.stats().dropped_bad_name, 3);
}

/// Links that move between threads, however often, lose nothing and change no order; nor does a break on the way.
#[test]
fn links_that_move_lose_nothing() {
    const EVENTS: usize = 4_000;
    for flavour in [Flavour::Tcp, Flavour::Unix, Flavour::Tls] {
        let mut bench = Bench::with(Some(flavour), Options { restless: true, ..Options::default() });
        let channels = ["room:1", "room:2", "room:3"];
        for channel in channels {
            bench.subscribe(0, &Subject::channel(channel));
        }
        flows(&mut bench, &channels, EVENTS);
        let moves = bench.broker.stats().moves;
        bench.server().kill();
        bench.wait_until_cut_off(CONNECTIONS);
        bench.server().launch();
        bench.until_status(BrokerStatus::Ok);
        flows(&mut bench, &channels, EVENTS);
        assert!(moves > 0 && bench.broker.stats().moves > moves, "the links moved");
    }
}

/// Other services publish to all of these channels, and everything comes in order.
fn flows(bench: &mut Bench, channels: &[&str], events: usize) {
    let server = bench.server.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..events {
                server.call(&["PUBLISH", channels[number % channels.len()], &number.to_string()]);
            }
        });
        let mut next: Vec<usize> = (0..channels.len()).collect();
        for _ in 0..events {
            let publication = bench.publication(0);
            let at = channels.iter().position(|channel| *channel == &*publication.channel).unwrap();
            assert_eq!(publication.event.data_json(), next[at].to_string());
            next[at] += channels.len();
        }
    });
    bench.server = Some(server);
}

#[test]
fn waits_for_a_redis_that_is_busy_with_a_script() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.subscribe(0, &room());
    bench.server().call(&["CONFIG", "SET", "busy-reply-threshold", "10"]);
    let server = bench.server.take().unwrap();
    let server = &server;
    std::thread::scope(|scope| {
        scope.spawn(move || server.call(&["EVAL", "while true do end", "0"]));
        while !matches!(server.call(&["PING"]), Reply::Error(words) if words.starts_with("BUSY")) {
            std::thread::yield_now();
        }
        let waits = bench.publish(1, "chat:1", "patience", WhenDown::Queue);
        bench.until_status(BrokerStatus::Degraded);
        let refused = bench.publish(1, "chat:1", "now", WhenDown::Reject);
        assert_eq!(bench.done(1, refused), Err(PublishFailure::NotDone));
        server.call(&["SCRIPT", "KILL"]);
        assert_eq!(bench.done(1, waits), Ok(()));
        assert!(bench.until_status(BrokerStatus::Ok).is_empty(), "the links did not break");
    });
}

#[test]
fn waits_for_a_redis_that_is_loading() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.subscribe(0, &room());
    let fill = "for i = 1, 2000 do redis.call('SET', 'key:' .. i, i) end";
    bench.server().call(&["EVAL", fill, "0"]);
    bench.server().call(&["SAVE"]);
    bench.server().kill();
    bench.wait_until_cut_off(CONNECTIONS);
    let ticket = bench.append(1, "s", &[("n", "1")]);
    bench.server().launch_with(&[
        "--key-load-delay",
        "500",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    assert_eq!(bench.done(1, ticket), Ok(()));
    expect_restored(&mut bench, &[room()]);
    assert_eq!(bench.server().call(&["XLEN", "s"]), Reply::Int(1));
}

#[test]
fn what_nobody_wants_any_more_is_not_restored() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    let other = Subject::channel("chat:1");
    bench.subscribe(0, &room());
    bench.subscribe(0, &other);
    bench.server().kill();
    bench.wait_until_cut_off(CONNECTIONS);
    bench.unwant(0, &other);
    bench.wait_until("forgotten", |stats| stats.subjects == 1);
    bench.server().launch();
    let heard = bench.until_status(BrokerStatus::Ok);
    let confirmed: Vec<_> =
        heard.iter().filter(|event| matches!(event, BrokerEvent::Confirmed { .. })).collect();
    assert!(matches!(confirmed[..], [BrokerEvent::Confirmed { subject, .. }] if *subject == room()));
    assert_eq!(bench.server().call(&["PUBSUB", "CHANNELS"]), Reply::List(vec![Reply::Text("room:1".into())]));
}

#[test]
fn a_wrong_password_waits_for_a_right_one() {
    let server = Server::start(Flavour::Acl);
    let redis = RedisSettings { password: Some(Rotating::new("guessed")), ..server.settings(1) };
    let mut bench = Bench::on(Some(server), Some(redis), Options { pool: 1, ..Options::default() });
    bench.want(0, &room());
    bench.wait_for(BrokerStatus::Degraded);
    let refused = bench.publish(0, "chat:1", "now", WhenDown::Reject);
    assert_eq!(bench.done(0, refused), Err(PublishFailure::NotDone));
    bench.server().call(&["ACL", "SETUSER", "bridge", ">guessed"]);
    let heard = bench.until_status(BrokerStatus::Ok);
    assert!(heard.iter().all(|event| matches!(event, BrokerEvent::Confirmed { .. })), "{heard:?}");
}

#[test]
fn what_is_no_redis_is_not_listened_to() {
    let answers: [&[u8]; 4] =
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"+OK\r\n>3\r\n$7\r\nmess", b"*1000000000\r\n"];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let mut hello = [0; 512];
                let _ = stream.read(&mut hello);
                let _ = stream.write_all(answer);
                if said.send(()).is_err() {
                    return;
                }
            }
        });
        let names = Names::new("", "drawbridge:");
        let redis = RedisSettings {
            location: RedisAddress::Tcp { host: "127.0.0.1".into(), port }.into(),
            sentinel: Default::default(),
            tls: None,
            username: None,
            password: None,
            db: 0,
            subscriber_pool: 1,
            client_name: String::new(),
            names: names.clone(),
            classes: broker_support::bench::classes(),
            sharded: ShardedChannels::default(),
            library: Library::new(&broker_support::bench::classes(), &names, 1 << 20),
            views_open_without_permission: false,
            lease: LeaseSettings::new("n1-a".into(), RESUME_WINDOW),
            node_channel: "drawbridge:nodes:0".into(),
            probe_every: std::time::Duration::ZERO,
        };
        let mut bench = Bench::on(None, Some(redis), Options { pool: 1, ..Options::default() });
        bench.want(0, &room());
        for _ in 0..6 {
            heard.recv_timeout(broker_support::bench::PATIENCE).expect("it tries again");
        }
        let refused = bench.publish(0, "chat:1", "now", WhenDown::Reject);
        assert_eq!(bench.done(0, refused), Err(PublishFailure::NotDone));
        let waits = bench.publish(0, "chat:1", "later", WhenDown::Queue);
        bench.shut_down();
        assert_eq!(bench.done(0, waits), Err(PublishFailure::NotDone));
    }
}

/// Loops in Redis until it answers everybody with `BUSY`, does what `busy` says, and ends the loop.
fn while_busy(bench: &mut Bench, busy: impl FnOnce(&mut Bench)) {
    let server = bench.server.take().unwrap();
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| server.call(&["EVAL", "while true do end", "0"]));
        while !matches!(server.call(&["PING"]), Reply::Error(words) if words.starts_with("BUSY")) {
            std::thread::yield_now();
        }
        busy(bench);
        let ended = matches!(server.call(&["PING"]), Reply::Error(words) if words.starts_with("BUSY"));
        server.call(&["SCRIPT", "KILL"]);
        let _ = looping.join();
        assert!(ended, "it was busy all the while");
    });
    bench.server = Some(server);
}

#[test]
fn what_a_busy_redis_did_not_take_is_withdrawn_in_time_and_redis_is_asked_again() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.server().call(&["CONFIG", "SET", "busy-reply-threshold", "10"]);
    bench.subscribe(0, &room());
    while_busy(&mut bench, |bench| {
        let brief = WhenDown::QueueFor(std::time::Duration::from_millis(700));
        let ticket = bench.publish(1, "room:1", "brief", brief);
        bench.until_status(BrokerStatus::Degraded);
        assert_eq!(bench.done(1, ticket), Err(PublishFailure::NotDone), "it was sent, and came back");
    });
    // Nothing waits that would show that Redis can again.
    assert!(bench.until_status(BrokerStatus::Ok).is_empty());
    bench.publish_from_outside("room:1", "after");
    assert_eq!(bench.publication(0).event.data_json(), "\"after\"");
}

#[test]
fn what_may_not_wait_is_answered_when_the_functions_cannot_be_loaded() {
    let mut bench = Bench::new(Some(Flavour::Tcp));
    bench.server().call(&["FUNCTION", "FLUSH"]);
    bench.server().call(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    bench.server().call(&["CLIENT", "KILL", "TYPE", "normal"]);
    let loads = |bench: &mut Bench| matches!(bench.server().call(&["CLIENT", "LIST"]), Reply::Text(list) if list.contains("cmd=function|load"));
    let give_up = std::time::Instant::now() + broker_support::bench::PATIENCE;
    while !loads(&mut bench) {
        assert!(std::time::Instant::now() < give_up, "the functions are loaded again");
        std::thread::yield_now();
    }
    let ticket = bench.publish(1, "room:1", "now", WhenDown::Reject);
    bench.server().call(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(bench.done(1, ticket), Err(PublishFailure::NotDone));
    assert_eq!(bench.broker.health().status.word(), "degraded");
    bench.server().call(&["CLIENT", "UNPAUSE"]);
    let give_up = std::time::Instant::now() + broker_support::bench::PATIENCE;
    while bench.broker.health().status != BrokerStatus::Ok {
        assert!(std::time::Instant::now() < give_up, "it comes back");
        std::thread::yield_now();
    }
}

/// Redis' count of how often it has read from a socket.
fn reads(bench: &mut Bench) -> u64 {
    let Reply::Text(stats) = bench.server().call(&["INFO", "stats"]) else { panic!("no stats") };
    let line = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn the_views_of_many_players_are_read_in_few_round_trips() {
    const PLAYERS: usize = 300;
    let mut bench = Bench::new(Some(Flavour::Tcp));
    let fill = "for p = 1, 300 do for c = 1, 3 do \
        redis.call('HSET', 'drawbridge:{player:p' .. p .. '}:views', 'room:' .. c, 'data.n > ' .. p) end end";
    bench.server().call(&["EVAL", fill, "0"]);
    // One whose views are none: it costs the others nothing.
    bench.server().call(&["SET", "drawbridge:{player:p7}:views", "text"]);
    let before = reads(&mut bench);
    let answers = bench.views_of((1..=PLAYERS).map(|player| format!("p{player}")));
    let trips = reads(&mut bench) - before;
    for (player, answer) in (1..).zip(answers) {
        match answer {
            Ok(views) => {
                let view = |channel: usize| (format!("room:{channel}"), format!("data.n > {player}"));
                assert_eq!(views, [view(1), view(2), view(3)], "p{player}");
            }
            Err(reason) => assert!(player == 7 && reason.starts_with("WRONGTYPE"), "p{player}: {reason}"),
        }
    }
    assert!(trips < PLAYERS as u64 / 3, "{trips} round trips");
}
