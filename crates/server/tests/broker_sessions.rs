//! Records of sessions in Redis, as nodes write, claim and lose them: brokers on one Redis are the nodes.
// Why: the Redis that they start runs on Unix.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker_support;

use broker_support::bench::Options;
use broker_support::proxy::Proxy;
use broker_support::server::Server;
use broker_support::{Bench, Flavour, Reply, until};
use bytes::Bytes;
use drawbridge::broker::{RedisAddress, RedisSettings};
use drawbridge_engine::io::{
    Answer, BrokerStatus, ClaimedSession, MAX_SESSION_BYTES, NewOwner, PublishFailure, QueryKind,
    SessionSecret, WriteKind,
};

const SECRET: SessionSecret = SessionSecret(0x1234_5678);

/// One more node on this Redis.
fn node(server: &Server) -> Bench {
    node_with(server.settings(1))
}

fn node_with(redis: RedisSettings) -> Bench {
    let mut bench = Bench::on(None, Some(redis), Options { shards: 1, pool: 1, ..Options::default() });
    bench.wait_for(BrokerStatus::Ok);
    bench
}

fn nodes<const COUNT: usize>(server: &Server) -> [Bench; COUNT] {
    std::array::from_fn(|_| node(server))
}

fn save(node: &mut Bench, player: &str, generation: u64, content: &str) -> Result<(), PublishFailure> {
    save_secret(node, player, SECRET, generation, content)
}

fn save_secret(
    node: &mut Bench,
    player: &str,
    secret: SessionSecret,
    generation: u64,
    content: &str,
) -> Result<(), PublishFailure> {
    let content = Bytes::copy_from_slice(content.as_bytes());
    let session = secret.hash();
    let kind = WriteKind::SaveSession { player: player.into(), session, generation, content };
    node.write_and_wait(kind).map_err(|failure| match failure {
        PublishFailure::TakenOver(owner) => PublishFailure::TakenOver(NewOwner { node: "".into(), ..owner }),
        failure => failure,
    })
}

fn end(node: &mut Bench, player: &str, generation: u64) -> Result<(), PublishFailure> {
    end_after(node, player, generation, 0)
}

/// Ends a session, which may still be claimed for so many milliseconds.
fn end_after(node: &mut Bench, player: &str, generation: u64, window_ms: u64) -> Result<(), PublishFailure> {
    let session = SECRET.hash();
    node.write_and_wait(WriteKind::EndSession { player: player.into(), session, generation, window_ms })
}

fn claim(node: &mut Bench, player: &str) -> Option<(u64, String)> {
    claim_secret(node, player, SECRET)
}

fn claim_secret(node: &mut Bench, player: &str, session: SessionSecret) -> Option<(u64, String)> {
    let ticket = node.ask(QueryKind::ClaimSession { player: player.into(), session });
    match node.answer(ticket) {
        Ok(Answer::Session(claimed)) => claimed.map(text),
        other => panic!("{other:?}"),
    }
}

/// A save was refused; without what its error says of the node.
fn taken_over_at(generation: u64) -> Result<(), PublishFailure> {
    Err(PublishFailure::TakenOver(NewOwner { node: "".into(), generation, is_free: false }))
}

fn text(ClaimedSession { generation, content, .. }: ClaimedSession) -> (u64, String) {
    (generation, String::from_utf8(content.to_vec()).unwrap())
}

fn record(server: &Server, player: &str) -> String {
    server.named(&format!("drawbridge:{{player:{player}}}:session:{}", SECRET.hash()))
}

/// The keys of sessions and of their indexes.
fn keys(server: &Server) -> Vec<String> {
    let Reply::List(keys) = server.call(&["KEYS", "*session*"]) else { panic!("no keys") };
    keys.into_iter()
        .map(|key| match key {
            Reply::Text(name) => name,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_session_moves_from_node_to_node_and_ends_without_a_trace() {
    for flavour in [Flavour::usual(), Flavour::Acl, Flavour::Prefixed, Flavour::Cluster] {
        let server = Server::start(flavour);
        let [mut one, mut two] = nodes(&server);
        assert_eq!(claim(&mut two, "alice"), None, "it never was");
        assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()));
        assert_eq!(save(&mut one, "alice", 1, "b"), Ok(()));
        assert_eq!(server.call(&["PTTL", &record(&server, "alice")]), Reply::Int(-1));
        assert_eq!(claim(&mut two, "bob"), None, "it is another player's");
        assert_eq!(claim(&mut two, "alice"), Some((2, "b".to_owned())));
        // Whoever has lost it writes nothing any more.
        assert_eq!(save(&mut one, "alice", 1, "stale"), taken_over_at(2));
        assert_eq!(end(&mut one, "alice", 1), Ok(()));
        assert_eq!(save(&mut two, "alice", 2, "c"), Ok(()));
        assert_eq!(claim(&mut one, "alice"), Some((3, "c".to_owned())), "and back");
        assert_eq!(end(&mut two, "alice", 2), Ok(()));
        assert_eq!(end(&mut one, "alice", 3), Ok(()));
        assert_eq!(claim(&mut two, "alice"), None, "it has ended");
        one.shut_down();
        two.shut_down();
        assert_eq!(keys(&server), Vec::<String>::new());
    }
}

#[test]
fn of_many_claims_exactly_one_gets_each_generation() {
    const CLAIMS: usize = 50;
    let server = Server::start(Flavour::usual());
    let mut nodes: [Bench; 3] = nodes(&server);
    assert_eq!(save(&mut nodes[0], "alice", 1, "content"), Ok(()));
    let mut generations = Vec::new();
    for _ in 0..CLAIMS {
        let question = QueryKind::ClaimSession { player: "alice".into(), session: SECRET };
        let tickets: Vec<_> = nodes.iter_mut().map(|node| node.ask(question.clone())).collect();
        for (node, ticket) in nodes.iter_mut().zip(tickets) {
            match node.answer(ticket) {
                Ok(Answer::Session(Some(claimed))) => generations.push(claimed.generation),
                other => panic!("{other:?}"),
            }
        }
    }
    generations.sort_unstable();
    assert_eq!(generations, (2..2 + 3 * CLAIMS as u64).collect::<Vec<_>>());
    let last = 1 + 3 * CLAIMS as u64;
    let may_save: Vec<_> = nodes.iter_mut().map(|node| save(node, "alice", last, "mine").is_ok()).collect();
    assert_eq!(may_save.iter().filter(|may| **may).count(), 1, "one owner: {may_save:?}");
    let owner = may_save.iter().position(|may| *may).unwrap();
    assert_eq!(end(&mut nodes[owner], "alice", last), Ok(()));
    assert_eq!(server.call(&["EXISTS", &record(&server, "alice")]), Reply::Int(0));
}

#[test]
fn a_node_claims_its_own_session_again() {
    let server = Server::start(Flavour::usual());
    let [mut one] = nodes(&server);
    assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()));
    assert_eq!(claim(&mut one, "alice"), Some((2, "a".to_owned())));
    assert_eq!(claim(&mut one, "alice"), Some((3, "a".to_owned())));
    assert_eq!(save(&mut one, "alice", 2, "stale"), taken_over_at(3));
    assert_eq!(save(&mut one, "alice", 3, "b"), Ok(()));
}

/// Behind a failover Redis may lack the last writes.
#[test]
fn what_redis_has_lost_is_written_again() {
    let server = Server::start(Flavour::usual());
    let [mut one, mut two] = nodes(&server);
    assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()));
    let dump = |server: &Server| match server.call(&["HGETALL", &record(server, "alice")]) {
        Reply::List(fields) => fields,
        other => panic!("{other:?}"),
    };
    let before = dump(&server);
    assert_eq!(claim(&mut two, "alice"), Some((2, "a".to_owned())));
    // The claim is lost.
    let mut restore = vec![Reply::Text("HSET".into()), Reply::Text(record(&server, "alice"))];
    restore.extend(before);
    let words: Vec<String> = restore
        .into_iter()
        .map(|word| match word {
            Reply::Text(word) => word,
            other => panic!("{other:?}"),
        })
        .collect();
    server.call(&words);
    assert_eq!(save(&mut two, "alice", 2, "b"), Ok(()), "the later claim counts");
    assert_eq!(save(&mut one, "alice", 1, "stale"), taken_over_at(2));
    // Everything is lost.
    server.call(&["FLUSHALL"]);
    assert_eq!(save(&mut two, "alice", 2, "c"), Ok(()));
    assert_eq!(claim(&mut one, "alice"), Some((3, "c".to_owned())));
}

#[test]
fn what_others_have_stored_does_no_harm() {
    let server = Server::start(Flavour::usual());
    let [mut one] = nodes(&server);
    let key = record(&server, "alice");
    let long = "x".repeat(MAX_SESSION_BYTES + 1);
    for rubbish in [
        vec!["SET", &key, "text"],
        vec!["HSET", &key, "n", "n1"],
        vec!["HSET", &key, "n", "n1", "g", "many"],
        vec!["HSET", &key, "n", "n1", "g", "0"],
        vec!["HSET", &key, "n", "n1", "g", "-1"],
        vec!["HSET", &key, "n", "n1", "g", "9007199254740993"],
        vec!["ZADD", &key, "1", "a"],
    ] {
        server.call(&rubbish);
        assert_eq!(claim(&mut one, "alice"), None, "{rubbish:?}");
        server.call(&rubbish);
        assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()), "{rubbish:?}");
        assert_eq!(end(&mut one, "alice", 1), Ok(()));
        server.call(&["DEL", &key]);
    }
    server.call(&["HSET", &key, "n", "n1", "g", "4", "c", &long]);
    assert_eq!(claim(&mut one, "alice"), Some((5, String::new())), "so much is no node's");
    assert_eq!(save(&mut one, "alice", 5, &long), Ok(()), "it is stored without its content");
    assert_eq!(claim(&mut one, "alice"), Some((6, String::new())));
}

#[test]
fn functions_that_were_lost_are_loaded_again_for_a_claim() {
    let server = Server::start(Flavour::usual());
    let [mut one, mut two] = nodes(&server);
    assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()));
    server.call(&["FUNCTION", "FLUSH"]);
    assert_eq!(claim(&mut two, "alice"), Some((2, "a".to_owned())));
}

/// Whoever withdrew the claim learns that it was executed, and gives the session back: it can be claimed again, and does not
/// stay for ever.
#[test]
fn a_claim_that_nobody_waits_for_gets_its_window() {
    let server = Server::start(Flavour::Tcp);
    let [mut one, mut two] = nodes(&server);
    assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()));
    server.freeze();
    let ticket = two.ask(QueryKind::ClaimSession { player: "alice".into(), session: SECRET });
    // The claim is longer than any ping.
    until("the claim is on its way", || server.unread_bytes() > 200);
    two.withdraw(ticket);
    server.thaw();
    let Ok(Answer::Session(Some(claimed))) = two.answer(ticket) else { panic!("not claimed") };
    assert_eq!((&*claimed.player, claimed.session, claimed.generation), ("alice", SECRET.hash(), 2));
    let key = record(&server, "alice");
    assert_eq!(end_after(&mut two, "alice", 2, 60_000), Ok(()));
    let has_window = |server: &Server| matches!(server.call(&["PTTL", &key]), Reply::Int(1..=60_000));
    assert!(has_window(&server));
    assert_eq!(claim(&mut one, "alice"), Some((3, "a".to_owned())));
    assert_eq!(end_after(&mut two, "alice", 2, 60_000), Ok(()));
    assert!(!has_window(&server), "who has claimed it keeps it");
    assert_eq!(save(&mut one, "alice", 3, "b"), Ok(()));
}

/// The connection broke before the claim was answered, and no one waits for it any more: it is looked at again, so that whoever
/// withdrew it can give the session back.
#[test]
fn a_claim_whose_answer_was_lost_is_found_again() {
    let server = Server::start(Flavour::Tcp);
    let mut one = node(&server);
    let proxy = Proxy::start(server.port());
    let location = RedisAddress::Tcp { host: "127.0.0.1".into(), port: proxy.port }.into();
    let mut two = node_with(RedisSettings { location, ..server.settings(1) });
    assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()));
    assert_eq!(claim(&mut two, "bob"), None, "its connection is open");
    // What follows a claim is done before this is answered.
    two.views("bob");
    proxy.keep_answers();
    let ticket = two.ask(QueryKind::ClaimSession { player: "alice".into(), session: SECRET });
    let key = record(&server, "alice");
    until("the claim is executed", || server.call(&["HGET", &key, "g"]) == Reply::Text("2".into()));
    two.withdraw(ticket);
    proxy.cut();
    let Ok(Answer::Session(Some(claimed))) = two.answer(ticket) else { panic!("not found") };
    assert_eq!((claimed.session, claimed.generation), (SECRET.hash(), 3));
    assert_eq!(end_after(&mut two, "alice", 3, 60_000), Ok(()));
    assert!(matches!(server.call(&["PTTL", &key]), Reply::Int(1..=60_000)));
    assert_eq!(claim(&mut one, "alice"), Some((4, "a".to_owned())));
}

/// Whether the session is another connection's, or waits to be claimed, decides by which code its first one is closed.
#[test]
fn a_refused_save_says_who_has_the_session_and_whether_it_is_free() {
    let server = Server::start(Flavour::usual());
    let [mut one, mut two] = nodes(&server);
    assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()));
    assert_eq!(claim(&mut two, "alice"), Some((2, "a".to_owned())));
    let Reply::Text(owner) = server.call(&["HGET", &record(&server, "alice"), "n"]) else {
        panic!("no owner")
    };
    for is_free in [false, true] {
        let content = Bytes::from_static(b"stale");
        let session = SECRET.hash();
        let kind = WriteKind::SaveSession { player: "alice".into(), session, generation: 1, content };
        let expected = NewOwner { node: owner.as_str().into(), generation: 2, is_free };
        assert_eq!(one.write_and_wait(kind), Err(PublishFailure::TakenOver(expected)));
        assert_eq!(end_after(&mut two, "alice", 2, 60_000), Ok(()));
    }
}

#[test]
fn what_looks_for_a_lost_claim_takes_no_session_from_another_node() {
    let server = Server::start(Flavour::usual());
    let [mut one] = nodes(&server);
    assert_eq!(save(&mut one, "alice", 1, "a"), Ok(()));
    let key = record(&server, "alice");
    let Reply::Text(owner) = server.call(&["HGET", &key, "n"]) else { panic!("no owner") };
    let claim = |node: &str| {
        server.call(&["FCALL", "drawbridge_session_claim", "1", &key, node, "nodes", r#"{"a":1}"#, "own"])
    };
    let Reply::List(answer) = claim("another") else { panic!("no answer") };
    assert_eq!(answer[1..], [Reply::Int(0)]);
    let Reply::List(answer) = claim(&owner) else { panic!("no answer") };
    assert_eq!(answer[1], Reply::Int(2));
}
