//! A save that is refused because another node has claimed the session, where the announcement of the claim was lost: by which code
//! the connection is closed that this node still has. 4505 sends a client away for good.

use serde_json::json;

use drawbridge_testkit::cluster::SocketId;

use super::claims::Bench;

/// The session's first connection is on this node, and is known to be its own. Its name, too.
fn first() -> (Bench, SocketId, serde_json::Value) {
    let mut bench = Bench::new();
    let (first, session) = bench.join((0, 0));
    bench.pass(1_000);
    (bench, first, session)
}

/// The node learns of nothing that was announced meanwhile, and its session is saved.
fn save(bench: &mut Bench, socket: SocketId) {
    bench.cluster.cut(0, &mut bench.sockets);
    bench.cluster.mend(&mut bench.sockets);
    bench.rest();
    let subscribe = json!({ "type": "CHANNEL_SUBSCRIBE", "channel": "log:a" });
    bench.cluster.text(socket, &subscribe.to_string(), &mut bench.sockets);
    bench.pass(1_000);
}

#[test]
fn who_was_taken_over_by_another_connection_is_closed_with_4505() {
    let (mut bench, first, session) = first();
    let second = bench.resume((1, 0), &session, Some(0));
    save(&mut bench, first);
    assert_eq!((bench.closed(first), bench.closed(second)), (Some(4505), None));
    bench.check_one_owner();
}

#[test]
fn who_has_the_only_connection_left_is_asked_to_come_again() {
    for elsewhere in [(1, 0), (0, 1)] {
        let (mut bench, first, session) = first();
        let gone = bench.connect(elsewhere, json!({ "resume": { "session": session, "positions": {} } }));
        assert!(bench.cluster.carry_query(elsewhere.0, &mut bench.sockets), "the claim");
        bench.close(gone, 1006);
        bench.rest_without_link(0);
        save(&mut bench, first);
        assert_eq!(bench.closed(first), Some(1001), "{elsewhere:?}");
        let again = bench.resume((0, 0), &session, None);
        bench.pass(1_000);
        assert_eq!(bench.closed(again), None);
        bench.check_one_owner();
    }
}

/// Redis has lost one of two claims, so that both have the same generation: it is not known which connection is the newer one.
#[test]
fn who_may_have_the_newer_connection_is_asked_to_come_again() {
    let (mut bench, first, session) = first();
    bench.close(first, 1006);
    bench.rest();
    let before = bench.cluster.sessions.clone();
    let lost = bench.resume((0, 1), &session, None);
    bench.pass(1_000);
    bench.cluster.sessions = before;
    let kept = bench.resume((1, 0), &session, Some(0));
    save(&mut bench, lost);
    assert_eq!((bench.closed(lost), bench.closed(kept)), (Some(1001), None));
    bench.check_one_owner();
}
