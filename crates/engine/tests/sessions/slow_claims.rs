//! A claim whose answer is late: a Redis that is slow is waited for, one that is away only for a moment.

use drawbridge_engine::io::{BrokerEvent, BrokerStatus, Input};
use drawbridge_testkit::cluster::SocketId;
use serde_json::json;

use super::claims::Bench;

/// How long a `CONNECT` may take.
const CONNECT_MS: u64 = 5_000;
/// How long a claim waits for a Redis that is away.
const AWAY_MS: u64 = 2_000;

/// A connection whose claim no one has answered yet, and the session that it resumes.
fn claiming() -> (Bench, SocketId, serde_json::Value) {
    claiming_behind(|_| {})
}

/// As [`claiming`]; `before`: what happens before the connection comes.
fn claiming_behind(before: impl FnOnce(&mut Bench)) -> (Bench, SocketId, serde_json::Value) {
    let mut bench = Bench::with(|settings| settings.connect_timeout_ms = CONNECT_MS);
    let (first, session) = bench.join((0, 0));
    bench.close(first, 1006);
    bench.rest();
    before(&mut bench);
    let second = bench.connect((1, 0), json!({ "resume": { "session": session, "positions": {} } }));
    (bench, second, session)
}

/// Time goes on, and nothing moves.
fn wait(bench: &mut Bench, ms: u64) {
    bench.cluster.pass_by_deadlines(ms, &mut bench.sockets);
}

#[test]
fn a_session_is_resumed_however_slow_redis_is_within_the_time_of_a_connect() {
    let (mut bench, second, session) = claiming();
    wait(&mut bench, CONNECT_MS - 1);
    bench.rest();
    let (welcome, _) = bench.welcome(second);
    assert_eq!((&welcome["resumed"], &welcome["session"]), (&json!(true), &session));
    bench.check_one_owner();
}

#[test]
fn behind_that_time_the_player_gets_a_new_session_and_the_late_answer_is_given_back() {
    let (mut bench, second, session) = claiming();
    wait(&mut bench, CONNECT_MS);
    bench.rest();
    let (welcome, _) = bench.welcome(second);
    assert_eq!(welcome["resumed"], false, "{welcome}");
    assert_ne!(welcome["session"], session);
    // The old one was not claimed: it waits where it was.
    let stats = bench.stats();
    assert_eq!((stats.welcomed, stats.detached), (1, 1));
}

/// A part of Redis is away for the node that the player returns to.
fn degrade(bench: &mut Bench) {
    bench.cluster.input(1, 0, Input::Broker(BrokerEvent::Status(BrokerStatus::Degraded)), &mut bench.sockets);
}

#[test]
fn when_redis_goes_away_meanwhile_the_player_does_not_wait_much_longer() {
    let (mut bench, second, _) = claiming();
    wait(&mut bench, 500);
    degrade(&mut bench);
    wait(&mut bench, AWAY_MS - 1);
    assert!(bench.take(second).is_empty());
    wait(&mut bench, 1);
    let (welcome, _) = bench.welcome(second);
    assert_eq!(welcome["resumed"], false, "{welcome}");
}

#[test]
fn while_another_part_of_redis_is_away_a_session_is_resumed() {
    let (mut bench, second, session) = claiming_behind(degrade);
    wait(&mut bench, AWAY_MS - 1);
    bench.rest();
    let (welcome, _) = bench.welcome(second);
    assert_eq!((&welcome["resumed"], &welcome["session"]), (&json!(true), &session));
    bench.check_one_owner();
}

#[test]
fn while_redis_is_away_the_player_gets_a_new_session_after_a_moment() {
    let (mut bench, second, _) = claiming_behind(degrade);
    wait(&mut bench, AWAY_MS);
    let (welcome, _) = bench.welcome(second);
    assert_eq!(welcome["resumed"], false, "{welcome}");
}
