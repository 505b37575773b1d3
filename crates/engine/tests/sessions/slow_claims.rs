//! A claim whose answer is late: a Redis that is slow is waited for, one that has gone away is not.

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
    let mut bench = Bench::with(|settings| settings.connect_timeout_ms = CONNECT_MS);
    let (first, session) = bench.join((0, 0));
    bench.close(first, 1006);
    bench.rest();
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

#[test]
fn when_redis_goes_away_meanwhile_the_player_does_not_wait_much_longer() {
    let (mut bench, second, _) = claiming();
    wait(&mut bench, 500);
    let away = || Input::Broker(BrokerEvent::Status(BrokerStatus::Degraded));
    bench.cluster.input(1, 0, away(), &mut bench.sockets);
    wait(&mut bench, AWAY_MS - 1);
    assert!(bench.take(second).is_empty());
    wait(&mut bench, 1);
    let (welcome, _) = bench.welcome(second);
    assert_eq!(welcome["resumed"], false, "{welcome}");
}
