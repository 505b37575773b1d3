//! What Redis holds for patterns: as little as covers them, changed without a gap and without a double.

use super::*;
use crate::class::Class;
use crate::upstream::hub::PREFIXES_PER_CLASS;
use drawbridge_protocol::template::ClassName;

fn bench() -> Bench {
    let class = |name| Class { patterns: true, ..Class::plain(ClassName::parse(name).unwrap()) };
    let classes = Classes::new(vec![class("room:vip:{n}"), class("room:{n}"), class("chat:*")]);
    let mut bench = Bench { hub: Hub::new(HubSettings { classes, ..settings() }), now_ms: 10 };
    bench.give(HubInput::LinkUp);
    bench
}

fn pattern(name: &str) -> Subject {
    Subject::pattern(name)
}

impl Bench {
    fn subscribed(&mut self, name: &str) -> Vec<String> {
        self.give(HubInput::Subscribed(&pattern(name)))
    }

    fn unsubscribed(&mut self, name: &str) -> Vec<String> {
        self.give(HubInput::Unsubscribed(&pattern(name)))
    }

    fn refused(&mut self, name: &str) -> Vec<String> {
        self.give(HubInput::Refused { subject: &pattern(name), reason: "NOPERM" })
    }
}

#[test]
fn redis_is_asked_for_the_literal_prefix_and_once() {
    let mut bench = bench();
    assert_eq!(bench.want(A, &pattern("room:4[a-b]?x*")), ["subscribe room:4*"]);
    assert_eq!(bench.want(B, &pattern("room:4*")), NOTHING);
    assert_eq!(bench.want(A, &pattern("room:42*")), NOTHING, "it lies under what is asked for");
    assert_eq!(
        bench.subscribed("room:4*"),
        ["0: confirmed room:4[a-b]?x* 0", "1: confirmed room:4* 0", "0: confirmed room:42* 0"]
    );
    for n in 0..1_000 {
        let name = format!("room:4{}*", "?".repeat(n % 9) + &n.to_string());
        assert_eq!(bench.want(A, &pattern(&name)), [format!("0: confirmed {name} 0")]);
        assert_eq!(bench.unwant(A, &pattern(&name)), [format!("0: released {name}")]);
    }
    assert_eq!(
        bench.wait(2 * LINGER_MS),
        NOTHING,
        "patterns that come and go under a prefix are nothing to Redis"
    );
    assert_eq!(bench.hub.stats().cover, 1);
}

#[test]
fn a_glob_character_of_the_prefix_is_escaped() {
    let mut bench = bench();
    assert_eq!(bench.want(A, &pattern(r"room:\*\[a\\?")), [r"subscribe room:\*\[a\\*"]);
    assert_eq!(bench.subscribed(r"room:\*\[a\\*").len(), 1);
}

#[test]
fn what_nobody_wants_is_dropped_unread_and_one_copy_is_passed_on() {
    let mut bench = bench();
    bench.want(A, &pattern("room:*4"));
    bench.want(B, &pattern("room:[0-9]*"));
    bench.subscribed("room:*");
    assert_eq!(bench.copy(Some("room:*"), "room:14", "1"), ["0+1: room:14 1 1"]);
    assert_eq!(bench.copy(Some("room:*"), "room:x4", "1"), ["0: room:x4 1 1"]);
    assert_eq!(bench.copy(Some("room:*"), "room:x", "1"), NOTHING);
    let oversized = HubInput::OversizedMessage { pattern: Some(b"room:*"), channel: b"room:x", bytes: 5000 };
    assert_eq!(bench.give(oversized), NOTHING);
    assert_eq!((bench.hub.stats().dropped_oversized, bench.hub.stats().pattern_channels), (0, 2));
}

#[test]
fn a_wider_prefix_is_confirmed_before_the_narrower_ends() {
    let mut bench = bench();
    bench.want(A, &pattern("room:4*"));
    bench.subscribed("room:4*");
    assert_eq!(bench.want(B, &pattern("room:*")), ["subscribe room:*"]);
    assert_eq!(bench.copy(Some("room:4*"), "room:4", "1"), ["0: room:4 1 1"]);
    assert_eq!(bench.subscribed("room:*"), ["1: confirmed room:* 0", "unsubscribe room:4*"]);
    assert_eq!(
        bench.copy(Some("room:4*"), "room:4", "2"),
        NOTHING,
        "until Redis has ended it there are two copies"
    );
    assert_eq!(bench.copy(Some("room:*"), "room:4", "2"), ["0+1: room:4 2 2"]);
    bench.unsubscribed("room:4*");
    assert_eq!(bench.copy(Some("room:*"), "room:4", "3"), ["0+1: room:4 3 3"]);
}

#[test]
fn a_cover_narrows_when_it_was_left_alone_and_the_wider_ends_last() {
    let mut bench = bench();
    bench.want(A, &pattern("room:*"));
    bench.subscribed("room:*");
    bench.want(B, &pattern("room:4*"));
    bench.want(B, &pattern("room:vip:*"));
    bench.unwant(A, &pattern("room:*"));
    assert_eq!(bench.wait(LINGER_MS), NOTHING);
    assert_eq!(bench.wait(LINGER_MS - 1), NOTHING);
    assert_eq!(bench.wait(1), ["subscribe room:4* room:vip:*"]);
    assert_eq!(bench.subscribed("room:4*"), NOTHING);
    assert_eq!(bench.copy(Some("room:4*"), "room:4", "1"), NOTHING);
    assert_eq!(bench.copy(Some("room:*"), "room:4", "1"), ["1: room:4 1 1"]);
    assert_eq!(bench.subscribed("room:vip:*"), ["unsubscribe room:*"]);
    bench.unsubscribed("room:*");
    assert_eq!(bench.copy(Some("room:4*"), "room:4", "2"), ["1: room:4 2 2"]);
}

#[test]
fn who_comes_while_a_cover_narrows_keeps_the_wider() {
    let mut bench = bench();
    bench.want(A, &pattern("room:*"));
    bench.subscribed("room:*");
    bench.want(B, &pattern("room:4*"));
    bench.unwant(A, &pattern("room:*"));
    bench.wait(LINGER_MS);
    assert_eq!(bench.wait(LINGER_MS), ["subscribe room:4*"]);
    assert_eq!(bench.want(A, &pattern("room:7*")), ["0: confirmed room:7* 0"]);
    assert_eq!(bench.subscribed("room:4*"), ["unsubscribe room:4*"], "the wider one stays");
    bench.unsubscribed("room:4*");
    assert_eq!(bench.wait(LINGER_MS), ["subscribe room:4* room:7*"], "and is replaced later");
}

#[test]
fn many_prefixes_give_way_to_the_class() {
    let mut bench = bench();
    let narrow: Vec<String> = (0..PREFIXES_PER_CLASS).map(|n| format!("room:{n:02}*")).collect();
    for name in &narrow {
        assert_eq!(bench.want(A, &pattern(name)), [format!("subscribe {name}")]);
        bench.subscribed(name);
    }
    assert_eq!(bench.want(A, &pattern("room:x*")), ["subscribe room:*"]);
    assert_eq!(bench.want(A, &pattern("chat:x*")), NOTHING, "one batch at a time");
    let confirmed = bench.subscribed("room:*");
    let ended = format!("unsubscribe {}", narrow.join(" "));
    assert_eq!(
        confirmed,
        ["0: confirmed room:x* 0", &ended, "subscribe chat:x*"],
        "another class has its own"
    );
    bench.subscribed("chat:x*");
    for name in &narrow {
        bench.unsubscribed(name);
    }
    assert_eq!(bench.hub.stats().cover, 2);
    // At half as many it is worth being narrow again.
    for name in &narrow[PREFIXES_PER_CLASS / 2 - 1..] {
        bench.unwant(A, &pattern(name));
    }
    bench.wait(LINGER_MS);
    let narrowed = bench.wait(LINGER_MS);
    assert_eq!(narrowed.len(), 1);
    assert!(narrowed[0].ends_with("room:30* room:x*"), "{narrowed:?}");
}

#[test]
fn where_a_narrower_prefix_is_refused_the_class_is_asked_for() {
    let mut bench = bench();
    assert_eq!(bench.want(A, &pattern("room:4*")), ["subscribe room:4*"]);
    assert_eq!(bench.refused("room:4*"), ["subscribe room:*"]);
    assert_eq!(bench.subscribed("room:*"), ["0: confirmed room:4* 0"]);
    assert_eq!(bench.want(B, &pattern("room:5*")), ["1: confirmed room:5* 0"]);
    assert_eq!(bench.wait(3 * LINGER_MS), NOTHING, "it does not try to be narrower again");
    bench.give(HubInput::LinkDown);
    assert_eq!(bench.give(HubInput::LinkUp), ["subscribe room:4* room:5*"], "but on another connection");
}

#[test]
fn where_the_class_is_refused_too_the_pattern_is() {
    let mut bench = bench();
    bench.want(A, &pattern("room:4*"));
    bench.subscribed("room:4*");
    bench.want(B, &pattern("room:5*"));
    assert_eq!(bench.refused("room:5*"), ["subscribe room:*"]);
    assert_eq!(bench.refused("room:*"), ["1: refused room:5* NOPERM"]);
    assert_eq!(bench.want(B, &pattern("room:4?")), ["1: confirmed room:4? 0"], "what is allowed stays");
    assert_eq!(bench.want(B, &pattern("room:6*")), ["subscribe room:6*"], "asking again asks Redis again");
}

#[test]
fn who_waits_for_a_class_that_is_refused_is_tried_narrower() {
    let mut bench = bench();
    bench.want(A, &pattern("room:5*"));
    bench.refused("room:5*");
    assert_eq!(bench.want(B, &pattern("room:4*")), NOTHING, "the class is asked for");
    assert_eq!(bench.refused("room:*"), ["0: refused room:5* NOPERM", "subscribe room:4*"]);
    assert_eq!(bench.subscribed("room:4*"), ["1: confirmed room:4* 0"]);
}

#[test]
fn a_break_restores_a_cover_of_what_is_still_wanted() {
    let mut bench = bench();
    bench.want(A, &pattern("room:*"));
    bench.subscribed("room:*");
    bench.want(B, &pattern("room:4?"));
    bench.unwant(A, &pattern("room:*"));
    assert_eq!(bench.give(HubInput::LinkDown), ["1: interrupted room:4?"]);
    assert_eq!(bench.give(HubInput::LinkUp), ["subscribe room:4*"]);
    assert_eq!(bench.subscribed("room:4*"), ["1: confirmed room:4? 0 after break"]);
    assert_eq!(bench.hub.interrupted(), 0);
}

#[test]
fn a_prefix_that_redis_ends_by_itself_is_a_break_of_its_patterns() {
    let mut bench = bench();
    bench.want(A, &pattern("room:4?"));
    bench.subscribed("room:4*");
    assert_eq!(bench.unsubscribed("room:4*"), ["0: interrupted room:4?", "subscribe room:4*"]);
    assert_eq!(bench.subscribed("room:4*"), ["0: confirmed room:4? 0 after break"]);
}

#[test]
fn what_is_published_plainly_on_a_sharded_channel_is_not_its_event() {
    let class = |name: &str, sharded: bool| Class {
        patterns: !sharded,
        sharded,
        ..Class::plain(ClassName::parse(name).unwrap())
    };
    let classes = Classes::new(vec![class("room:vip:{n}", true), class("room:{n}", false)]);
    let mut bench = Bench { hub: Hub::new(HubSettings { classes, ..settings() }), now_ms: 10 };
    bench.give(HubInput::LinkUp);
    bench.want(A, &pattern("room:*"));
    bench.subscribed("room:*");
    let vip = Subject::channel("room:vip:1");
    assert_eq!(bench.copy(Some("room:*"), "room:vip:1", "plain"), NOTHING, "only the pattern covers it");
    bench.want(B, &vip);
    assert_eq!(bench.copy(Some("room:*"), "room:vip:1", "plain"), NOTHING, "it is asked for");
    bench.give(HubInput::Subscribed(&vip));
    assert_eq!(bench.copy(Some("room:*"), "room:vip:1", "plain"), NOTHING);
    let said = bench.copy(None, "room:vip:1", "sharded");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("1: "), "patterns show nothing of it: {said:?}");
}
