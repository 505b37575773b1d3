//! Slots that get another master: what goes with them, what stays, and what waits meanwhile.

use super::*;
use crate::io::LoggedOffset;

const GIVER: usize = 0;
const TAKER: usize = 1;
const THIRD: usize = 2;
const NODES: &str = "own:nodes";

/// The hubs of three masters.
type Masters = Hubs<3>;

impl Masters {
    /// With links that are up and receive player commands; `a` and `b` are live at the giver's, `c` at the taker's.
    fn new() -> Masters {
        let mut masters = Masters::at_start();
        for at in [GIVER, TAKER, THIRD] {
            masters.give(at, HubInput::Want { shard: ShardId::NODE, subject: Subject::channel(NODES) });
            masters.comes_up(at);
        }
        for (at, name) in [(GIVER, "a"), (GIVER, "b"), (TAKER, "c")] {
            masters.give(at, HubInput::Want { shard: A, subject: Subject::channel(name) });
            masters.give(at, HubInput::Subscribed(&Subject::channel(name)));
        }
        masters
    }

    fn comes_up(&mut self, at: usize) -> Vec<String> {
        let mut said = self.give(at, HubInput::LinkUp);
        said.extend(self.give(at, HubInput::Subscribed(&Subject::channel(NODES))));
        said.extend(self.give(at, HubInput::Listening { shards: ShardSet::only(A), was_live: false }));
        said
    }

    fn want(&mut self, at: usize, shard: ShardId, name: &str) -> Vec<String> {
        self.give(at, HubInput::Want { shard, subject: Subject::channel(name) })
    }

    fn unwant(&mut self, at: usize, shard: ShardId, name: &str) -> Vec<String> {
        self.give(at, HubInput::Unwant { shard, subject: &Subject::channel(name) })
    }

    fn message(&mut self, at: usize, name: &str) -> Vec<String> {
        self.give(at, HubInput::Message { pattern: None, channel: name.as_bytes(), payload: b"1" })
    }

    /// Every shard has read its players' view overrides.
    fn pass(&mut self, at: usize, round: u64) -> Vec<String> {
        self.give(at, HubInput::Passed { shard: A, token: BarrierToken::new(LinkId::at(at), round) })
    }
}

fn slots_of(names: &[&str]) -> Arc<SlotSet> {
    Arc::new(names.iter().map(|name| SlotHasher::default().slot_of(name)).collect())
}

fn a_move(number: u64, from: usize, to: usize, names: &[&str]) -> SlotMove {
    SlotMove { number, from: LinkId::at(from), to: LinkId::at(to), slots: slots_of(names) }
}

fn recover(at: usize, round: u64) -> String {
    format!(
        "0: {:?}",
        BrokerEvent::Recover { dropped: false, barrier: Some(BarrierToken::new(LinkId::at(at), round)) }
    )
}

#[test]
fn what_belongs_to_the_slots_goes_with_a_gap_and_nothing_else_is_touched() {
    let mut masters = Masters::new();
    assert_eq!(masters.message(GIVER, "a"), ["0: a 1 1"]);
    assert_eq!(masters.give(GIVER, HubInput::GiveSlots(a_move(1, GIVER, TAKER, &["a"]))), ["unsubscribe a"]);
    assert_eq!(masters.message(GIVER, "a"), NOTHING, "it is not this link's any more");
    assert_eq!(masters.message(GIVER, "b"), ["0: b 1 1"]);
    assert_eq!(masters.give(TAKER, HubInput::TakeSlots(a_move(1, GIVER, TAKER, &["a"]))), NOTHING);
    assert_eq!(masters.hear(TAKER), [recover(TAKER, 1), "0: interrupted a".to_owned()]);
    assert_eq!(masters.message(TAKER, "c"), ["0: c 1 1"], "what is live stays so");
    assert_eq!(masters.pass(TAKER, 1), ["subscribe a"], "not before the views are known");
    let confirmed = masters.give(TAKER, HubInput::Subscribed(&Subject::channel("a")));
    assert_eq!(confirmed, ["0: confirmed a 1 after break"]);
    assert_eq!(masters.message(TAKER, "a"), ["0: a 2 1"]);
    // The giver's master answers at last.
    assert_eq!(masters.give(GIVER, HubInput::Unsubscribed(&Subject::channel("a"))), NOTHING);
    let stats = masters.hubs.each_ref().map(|hub| hub.stats());
    assert_eq!(stats.map(|stats| (stats.subjects, stats.live)), [(2, 2), (3, 3), (1, 1)]);
}

#[test]
fn commands_wait_for_what_is_given_whichever_comes_first() {
    for gives_first in [true, false] {
        let mut masters = Masters::new();
        let slots = || a_move(1, GIVER, TAKER, &["a", "b"]);
        if gives_first {
            masters.give(GIVER, HubInput::GiveSlots(slots()));
            assert_eq!(masters.hear(TAKER), NOTHING, "it does not know that it takes");
        }
        let mut said = masters.give(TAKER, HubInput::TakeSlots(slots()));
        if !gives_first {
            assert_eq!(said, NOTHING);
            assert_eq!(masters.want(TAKER, B, "a"), NOTHING);
            assert_eq!(masters.unwant(TAKER, A, "b"), NOTHING);
            assert_eq!(masters.want(TAKER, B, "b"), NOTHING);
            assert_eq!(masters.unwant(TAKER, B, "b"), ["1: released b"], "both are held, and undone");
            masters.give(GIVER, HubInput::GiveSlots(slots()));
            said = masters.hear(TAKER);
        }
        let interrupted = [recover(TAKER, 1), "0: interrupted a".into(), "0: interrupted b".into()];
        assert_eq!(said[..3], interrupted);
        let released: &[&str] = if gives_first { &[] } else { &["0: released b"] };
        assert_eq!(said[3..], *released);
        masters.pass(TAKER, 1);
        let confirmed = masters.give(TAKER, HubInput::Subscribed(&Subject::channel("a")));
        let who = if gives_first { "0" } else { "0+1" };
        assert_eq!(confirmed, [format!("{who}: confirmed a 0 after break")]);
    }
}

#[test]
fn slots_that_move_on_at_once_take_with_them_what_was_not_given_yet() {
    let mut masters = Masters::new();
    let (first, second) = (a_move(1, GIVER, TAKER, &["a"]), a_move(2, TAKER, THIRD, &["a", "c"]));
    masters.give(TAKER, HubInput::TakeSlots(first.clone()));
    assert_eq!(masters.give(TAKER, HubInput::GiveSlots(second.clone())), NOTHING);
    masters.give(THIRD, HubInput::TakeSlots(second));
    masters.give(GIVER, HubInput::GiveSlots(first));
    let said = masters.hear(TAKER);
    assert_eq!(said[1..], ["0: interrupted a", "unsubscribe c"]);
    let said = masters.hear(THIRD);
    assert_eq!(said, [recover(THIRD, 1), "0: interrupted c".to_owned()], "what is interrupted is so already");
    assert_eq!(masters.pass(THIRD, 1), ["subscribe a c"]);
    for name in ["a", "c"] {
        let confirmed = masters.give(THIRD, HubInput::Subscribed(&Subject::channel(name)));
        assert_eq!(confirmed, [format!("0: confirmed {name} 0 after break")]);
    }
}

#[test]
fn slots_that_go_to_and_fro_before_anything_is_given_come_to_rest() {
    let mut masters = Masters::new();
    let there = |number| a_move(number, GIVER, TAKER, &["a"]);
    let back = a_move(2, TAKER, GIVER, &["a"]);
    masters.give(TAKER, HubInput::TakeSlots(there(1)));
    assert_eq!(masters.unwant(TAKER, A, "a"), NOTHING);
    masters.give(TAKER, HubInput::GiveSlots(back.clone()));
    masters.give(TAKER, HubInput::TakeSlots(there(3)));
    assert_eq!(masters.want(TAKER, B, "a"), NOTHING);
    assert_eq!(masters.give(GIVER, HubInput::GiveSlots(there(1))), ["unsubscribe a"]);
    masters.give(GIVER, HubInput::TakeSlots(back));
    assert_eq!(masters.give(GIVER, HubInput::GiveSlots(there(3))), NOTHING, "it has them not yet");
    let released = "0: released a".to_owned();
    assert_eq!(masters.hear(TAKER), [recover(TAKER, 1), "0: interrupted a".to_owned(), released]);
    masters.hear(GIVER);
    masters.hear(TAKER);
    masters.pass(TAKER, 1);
    assert_eq!(masters.pass(TAKER, 2), ["subscribe a"]);
    let confirmed = masters.give(TAKER, HubInput::Subscribed(&Subject::channel("a")));
    assert_eq!(confirmed, ["1: confirmed a 0 after break"]);
    assert_eq!(masters.hubs[GIVER].stats().subjects, 2);
}

#[test]
fn an_unwant_ends_no_want_that_was_held_before_the_slots_moved_on() {
    let mut masters = Masters::new();
    let there = |number| a_move(number, GIVER, TAKER, &["e"]);
    let back = a_move(2, TAKER, GIVER, &["e"]);
    // At the taker a want, at the giver an unwant and a want, at the taker an unwant.
    masters.give(TAKER, HubInput::TakeSlots(there(1)));
    masters.want(TAKER, B, "e");
    masters.give(TAKER, HubInput::GiveSlots(back.clone()));
    masters.give(TAKER, HubInput::TakeSlots(there(3)));
    assert_eq!(masters.unwant(TAKER, B, "e"), NOTHING, "behind what is still to come");
    masters.give(GIVER, HubInput::GiveSlots(there(1)));
    masters.give(GIVER, HubInput::TakeSlots(back));
    masters.unwant(GIVER, B, "e");
    masters.want(GIVER, B, "e");
    masters.give(GIVER, HubInput::GiveSlots(there(3)));
    masters.hear(TAKER);
    masters.hear(GIVER);
    assert_eq!(masters.hear(TAKER).last().map(String::as_str), Some("1: released e"));
    masters.now_ms += LINGER_MS;
    for at in [GIVER, TAKER] {
        masters.give(at, HubInput::Tick);
        assert_eq!(masters.hubs[at].stats().subjects, [3, 2][at], "nobody wants it");
    }
}

#[test]
fn slots_that_come_from_two_links_move_on_when_both_have_given() {
    let mut masters = Masters::new();
    let on = a_move(3, TAKER, GIVER, &["a", "d"]);
    masters.want(THIRD, B, "d");
    masters.give(TAKER, HubInput::TakeSlots(a_move(1, GIVER, TAKER, &["a"])));
    masters.give(TAKER, HubInput::TakeSlots(a_move(2, THIRD, TAKER, &["d"])));
    masters.give(TAKER, HubInput::GiveSlots(on.clone()));
    masters.give(THIRD, HubInput::GiveSlots(a_move(2, THIRD, TAKER, &["d"])));
    masters.hear(TAKER);
    assert_eq!(masters.hubs[TAKER].stats().subjects, 3, "the other one has not given");
    masters.give(GIVER, HubInput::GiveSlots(a_move(1, GIVER, TAKER, &["a"])));
    masters.hear(TAKER);
    masters.give(GIVER, HubInput::TakeSlots(on));
    masters.hear(GIVER);
    let subjects = masters.hubs.each_ref().map(|hub| hub.stats().subjects);
    assert_eq!(subjects, [4, 2, 1]);
}

#[test]
fn what_shards_request_meanwhile_does_not_pile_up() {
    let mut masters = Masters::new();
    let slots = || a_move(1, GIVER, TAKER, &["a"]);
    let (a, name): (_, Arc<str>) = (Subject::channel("a"), "a".into());
    masters.give(TAKER, HubInput::TakeSlots(slots()));
    for after in [5, 3, 4] {
        masters.give(TAKER, HubInput::Refresh { shard: A, subject: &a });
        masters.give(TAKER, HubInput::CatchUp { shard: A, channel: &name, after: LoggedOffset(after) });
    }
    assert_eq!(masters.hubs[TAKER].stats().waiting_for_slots, 2);
    masters.give(GIVER, HubInput::GiveSlots(slots()));
    let said = masters.hear(TAKER);
    assert_eq!(said.iter().filter(|said| said.starts_with("0: Replay")).count(), 1, "{said:?}");
    assert_eq!(masters.hubs[TAKER].stats().waiting_for_slots, 0);
}

#[test]
fn what_a_link_takes_is_subscribed_where_redis_refuses_the_nodes_channel() {
    let mut masters = Masters::new();
    masters.give(TAKER, HubInput::LinkDown);
    masters.give(TAKER, HubInput::LinkUp);
    masters.give(TAKER, HubInput::Refused { subject: &Subject::channel(NODES), reason: "NOPERM" });
    masters.give(TAKER, HubInput::Listening { shards: ShardSet::only(A), was_live: false });
    assert_eq!(masters.pass(TAKER, 1), ["subscribe c"]);
    masters.give(TAKER, HubInput::Subscribed(&Subject::channel("c")));
    masters.give(GIVER, HubInput::GiveSlots(a_move(1, GIVER, TAKER, &["a"])));
    masters.give(TAKER, HubInput::TakeSlots(a_move(1, GIVER, TAKER, &["a"])));
    assert_eq!(masters.hear(TAKER), [recover(TAKER, 2), "0: interrupted a".to_owned()]);
    assert_eq!(masters.pass(TAKER, 2), ["subscribe a"]);
}

#[test]
fn a_link_that_listens_again_subscribes_nothing_before_the_views_are_known() {
    let mut masters = Masters::new();
    masters.unwant(TAKER, ShardId::NODE, NODES);
    masters.give(TAKER, HubInput::LinkDown);
    masters.give(TAKER, HubInput::Want { shard: ShardId::NODE, subject: Subject::channel(NODES) });
    let said = masters.comes_up(TAKER);
    assert_eq!(
        said,
        ["subscribe own:nodes".to_owned(), "63: confirmed own:nodes 0".to_owned(), recover(TAKER, 1)]
    );
    assert_eq!(masters.pass(TAKER, 1), ["subscribe c"]);
}

#[test]
fn what_a_link_takes_while_it_is_away_is_subscribed_when_it_is_back() {
    let mut masters = Masters::new();
    masters.give(TAKER, HubInput::LinkDown);
    masters.give(GIVER, HubInput::GiveSlots(a_move(1, GIVER, TAKER, &["a"])));
    masters.give(TAKER, HubInput::TakeSlots(a_move(1, GIVER, TAKER, &["a"])));
    assert_eq!(masters.hear(TAKER), ["0: interrupted a"]);
    let said = masters.comes_up(TAKER);
    assert!(!said.iter().any(|said| said.contains("subscribe a")), "{said:?}");
    assert_eq!(masters.pass(TAKER, 1), ["subscribe c a"]);
}

#[test]
fn what_was_never_live_goes_without_a_gap() {
    let mut masters = Masters::new();
    assert_eq!(masters.want(GIVER, B, "d"), ["subscribe d"]);
    assert_eq!(masters.give(GIVER, HubInput::GiveSlots(a_move(1, GIVER, TAKER, &["d"]))), ["unsubscribe d"]);
    masters.give(TAKER, HubInput::TakeSlots(a_move(1, GIVER, TAKER, &["d"])));
    masters.hear(TAKER);
    assert_eq!(masters.pass(TAKER, 1), ["subscribe d"]);
    let confirmed = masters.give(TAKER, HubInput::Subscribed(&Subject::channel("d")));
    assert_eq!(confirmed, ["1: confirmed d 0"]);
    // The giver's link has its answers in between, and asks for more behind them.
    masters.give(GIVER, HubInput::Subscribed(&Subject::channel("d")));
    masters.give(GIVER, HubInput::Unsubscribed(&Subject::channel("d")));
    assert_eq!(masters.want(GIVER, B, "e"), ["subscribe e"]);
}

#[test]
fn what_redis_cannot_subscribe_to_just_now_is_requested_again_soon_and_holds_up_nothing() {
    let mut bench = Bench::new();
    let a = Subject::channel("a");
    assert_eq!(bench.want(A, &a), ["subscribe a"]);
    assert_eq!(bench.want(A, &Subject::channel("b")), NOTHING, "one batch after the other");
    assert_eq!(bench.give(HubInput::Deferred(&a)), ["subscribe b"]);
    bench.give(HubInput::Subscribed(&Subject::channel("b")));
    assert_eq!(bench.hub.next_deadline_ms(), Some(bench.now_ms + 100));
    assert_eq!(bench.wait(100), ["subscribe a"]);
    assert_eq!(bench.give(HubInput::Subscribed(&a)), ["0: confirmed a 0"]);
    // Who leaves meanwhile leaves nothing.
    let c = Subject::channel("c");
    bench.want(A, &c);
    bench.give(HubInput::Deferred(&c));
    bench.unwant(A, &c);
    assert_eq!(bench.wait(2 * LINGER_MS), NOTHING);
    assert_eq!(bench.hub.stats().subjects, 2);
}
