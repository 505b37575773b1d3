//! Moves that go wrong: what comes early, what is refused, what takes too long, and what waits meanwhile.

use super::*;

const GIVER: usize = 0;
const TAKER: usize = 1;
const MARKER: &str = "own:move:1";

/// The two hubs of a move.
type Pair = Hubs<2>;

impl Pair {
    /// With links that are up, and a channel that is live on the giver's.
    fn new() -> Pair {
        let mut pair = Pair::at_start();
        for at in [GIVER, TAKER] {
            pair.give(at, HubInput::LinkUp);
            pair.give(at, HubInput::Listening { shards: ShardSet::only(A), was_live: false });
        }
        pair.give(GIVER, HubInput::Want { shard: A, subject: room() });
        pair.give(GIVER, HubInput::Subscribed(&room()));
        pair
    }

    fn subscribed(&mut self, at: usize, names: &[&str]) -> Vec<String> {
        names.iter().flat_map(|name| self.give(at, HubInput::Subscribed(&Subject::channel(*name)))).collect()
    }

    /// Until the taker has sent the marker.
    fn until_marked(&mut self) {
        self.give(GIVER, HubInput::Give(a_move()));
        self.give(TAKER, HubInput::Take(a_move()));
        self.subscribed(GIVER, &[MARKER]);
        self.subscribed(TAKER, &["room", MARKER]);
        assert_eq!(self.hear(TAKER), [format!("mark {MARKER}")]);
    }

    fn read_marker(&mut self, at: usize) -> Vec<String> {
        self.give(at, HubInput::Message { pattern: None, channel: MARKER.as_bytes(), payload: b"" })
    }
}

fn a_move() -> Move {
    let (from, to) = (LinkId::at(GIVER), LinkId::at(TAKER));
    Move { subject: room(), home: from, from, to, marker: MARKER.into() }
}

/// What follows a break, where the channel is subscribed on the taker's link already.
fn broken() -> [String; 4] {
    [
        "0: Recover { dropped: true, barrier: None }".to_owned(),
        "0: interrupted room".to_owned(),
        "0: confirmed room 0 after break".to_owned(),
        "moved room".to_owned(),
    ]
}

#[test]
fn what_the_giver_says_before_the_taker_knows_is_kept() {
    let mut pair = Pair::new();
    pair.give(GIVER, HubInput::Give(a_move()));
    pair.subscribed(GIVER, &[MARKER]);
    assert_eq!(pair.hear(TAKER), NOTHING, "it is ready");
    pair.give(TAKER, HubInput::Take(a_move()));
    assert_eq!(pair.subscribed(TAKER, &["room", MARKER]), [format!("mark {MARKER}")]);
    pair.read_marker(GIVER);
    pair.read_marker(TAKER);
    assert_eq!(pair.hear(TAKER), [format!("unsubscribe {MARKER}"), "moved room".to_owned()]);
    assert_eq!(pair.hubs[TAKER].stats().live, 1);
}

#[test]
fn an_entry_that_is_given_before_the_taker_knows_is_not_lost() {
    let mut pair = Pair::new();
    pair.give(GIVER, HubInput::Give(a_move()));
    pair.give(GIVER, HubInput::LinkDown);
    pair.hear(TAKER);
    pair.give(TAKER, HubInput::Take(a_move()));
    let said = pair.subscribed(TAKER, &["room", MARKER]);
    assert_eq!(said.last().map(String::as_str), Some("moved room"), "{said:?}");
    assert_eq!((pair.hubs[TAKER].stats().live, pair.hubs[GIVER].stats().subjects), (1, 0));
}

#[test]
fn a_marker_that_may_not_be_published_breaks_the_move_and_leaves_no_subscription() {
    let mut pair = Pair::new();
    pair.until_marked();
    pair.give(TAKER, HubInput::Refused { subject: &Subject::channel(MARKER), reason: "NOPERM" });
    let given = pair.hear(GIVER);
    assert_eq!(given, [format!("unsubscribe {MARKER} room")]);
    let [recover, interrupted, confirmed, moved] = broken();
    let ended = format!("unsubscribe {MARKER}");
    assert_eq!(pair.hear(TAKER), [ended, recover, interrupted, confirmed, moved]);
}

#[test]
fn a_move_that_takes_too_long_is_broken() {
    let mut pair = Pair::new();
    pair.until_marked();
    let deadline_ms = pair.hubs[TAKER].next_deadline_ms().unwrap();
    pair.now_ms = deadline_ms - 1;
    pair.give(TAKER, HubInput::Tick);
    assert_eq!(pair.hear(GIVER), NOTHING);
    pair.now_ms = deadline_ms;
    pair.give(TAKER, HubInput::Tick);
    assert_eq!(pair.hear(GIVER), [format!("unsubscribe {MARKER} room")]);
    assert_eq!(pair.hear(TAKER).last().map(String::as_str), Some("moved room"));
    assert_eq!((pair.hubs[TAKER].stats().live, pair.hubs[TAKER].next_deadline_ms()), (1, None));
}

#[test]
fn what_shards_command_meanwhile_does_not_pile_up() {
    let mut pair = Pair::new();
    pair.until_marked();
    for _ in 0..100 {
        assert_eq!(pair.give(TAKER, HubInput::Want { shard: B, subject: room() }), NOTHING);
        assert_eq!(pair.give(TAKER, HubInput::Refresh { shard: A, subject: &room() }), NOTHING);
        let released = pair.give(TAKER, HubInput::Unwant { shard: B, subject: &room() });
        assert_eq!(released, ["1: released room"]);
    }
    pair.give(TAKER, HubInput::Want { shard: B, subject: room() });
    pair.read_marker(GIVER);
    pair.read_marker(TAKER);
    let said = pair.hear(TAKER);
    assert_eq!(said[1..], ["1: confirmed room 0", "moved room"], "{said:?}");
}

#[test]
fn too_many_held_events_break_the_move_and_keep_their_order() {
    let mut pair = Pair::new();
    pair.until_marked();
    pair.read_marker(TAKER);
    let event = || BrokerEvent::Released(rooms());
    let held = (0..).take_while(|_| pair.hubs[TAKER].send_behind(&room(), ShardSet::only(A), event()));
    let held = held.count();
    assert_eq!(held, 1_024);
    let said = pair.give(TAKER, HubInput::Tick);
    assert_eq!(said.iter().filter(|said| *said == "0: released room*").count(), held);
    assert!(!pair.hubs[TAKER].send_behind(&room(), ShardSet::only(A), event()));
    pair.hear(GIVER);
    assert_eq!(pair.hear(TAKER).last().map(String::as_str), Some("moved room"));
}
