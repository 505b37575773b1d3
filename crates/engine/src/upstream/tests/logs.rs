//! Logs of channels through the hub: pages that the live stream overtakes, and patterns that come and go.

use super::*;
use crate::class::{Class, History};
use crate::io::{Epoch, LogPosition, LoggedOffset};
use drawbridge_protocol::template::ClassName;

const CHANNEL: &str = "log:1";

/// A hub whose link is up, with a class that keeps logs.
fn bench() -> Bench {
    let class = Class {
        history: Some(History { events: 100, age_ms: 60_000 }),
        patterns: true,
        ..Class::plain(ClassName::parse("log:{log}").unwrap())
    };
    let settings = HubSettings { classes: Classes::new(vec![class]), external_bytes: 1_000, ..settings() };
    let mut bench = Bench { hub: Hub::new(settings), now_ms: 10 };
    bench.give(HubInput::LinkUp);
    bench
}

fn payload(offset: u64) -> String {
    let epoch = Epoch::new(1);
    format!(r#"{{"event":"e","data":{offset},"offset":{offset},"epoch":"{}","id":"db1.s"}}"#, epoch.as_str())
}

/// The log, of which the events behind `after` are read, at most `limit`.
fn stored(after: u64, last: u64, limit: u64) -> StoredLog {
    let event = |offset| StoredLogEvent { offset: LoggedOffset(offset), payload: payload(offset).into() };
    StoredLog {
        last: LogPosition { epoch: Epoch::new(1), offset: LoggedOffset(last) },
        first: LoggedOffset(1),
        ended: Vec::new(),
        events: (after + 1..=last).take(limit as usize).map(event).collect(),
    }
}

impl Bench {
    fn answer(&mut self, load: u64, log: StoredLog) -> Vec<String> {
        self.give(HubInput::LogRead { channel: CHANNEL, load, log: Ok(log) })
    }

    fn logged(&mut self, pattern: Option<&str>, offset: u64) -> Vec<String> {
        let (pattern, channel) = (pattern.map(str::as_bytes), CHANNEL.as_bytes());
        self.give(HubInput::Message { pattern, channel, payload: payload(offset).as_bytes() })
    }

    fn catch_up(&mut self, shard: ShardId, after: u64) -> Vec<String> {
        self.give(HubInput::CatchUp { shard, channel: &CHANNEL.into(), after: LoggedOffset(after) })
    }
}

/// Which reading of the log these outputs request, and how.
fn reading(outputs: &[String]) -> (u64, String) {
    let requested = outputs.iter().find_map(|output| output.strip_prefix("read log:1 ")).unwrap();
    let (load, range) = requested.split_once(' ').unwrap();
    (load.parse().unwrap(), range.to_owned())
}

/// A live channel whose log has come to this offset.
fn live(offset: u64) -> Bench {
    let (mut bench, channel) = (bench(), Subject::channel(CHANNEL));
    bench.want(A, &channel);
    let (load, _) = reading(&bench.give(HubInput::Subscribed(&channel)));
    assert_eq!(bench.answer(load, stored(offset, offset, 0)), [format!("0: confirmed {CHANNEL} {offset}")]);
    bench
}

/// Short: which events a page has, where it ends and where the live stream is.
fn page(outputs: &[String]) -> String {
    let [output] = outputs else { panic!("not a page alone: {outputs:?}") };
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let offset_behind = |text: &str| number(text.split("LoggedOffset(").nth(1).unwrap());
    let is_event = |part: &&str| part.contains("Publication");
    let events = output.split("in_log: At(").skip(1).map(offset_behind).collect::<Vec<_>>().join(" ");
    assert!(is_event(&output.as_str()) || events.is_empty(), "{output}");
    let end = offset_behind(output.rsplit("end: ").next().unwrap());
    let live = offset_behind(output.rsplit("live: ").next().unwrap());
    format!("{events} to {end} of {live}")
}

#[test]
fn a_page_that_the_live_stream_has_overtaken_is_sent_with_what_came_since() {
    let mut bench = live(3);
    let (load, range) = reading(&bench.catch_up(A, 0));
    assert_eq!(range, "After(LoggedOffset(0)) 256");
    // Redis has read it when this is published.
    assert_eq!(bench.logged(None, 4).len(), 1);
    assert_eq!(bench.logged(None, 5).len(), 1);
    assert_eq!(page(&bench.answer(load, stored(0, 3, 256))), "1 2 3 4 5 to 5 of 5");
    // What follows continues it.
    assert_eq!(bench.logged(None, 6), ["0: log:1 3 6"]);
}

/// A shard requests one page at a time: without an answer it would never request another.
#[test]
fn a_request_for_a_channel_that_nobody_wants_is_answered() {
    let mut bench = bench();
    let [answer] = &bench.catch_up(A, 0)[..] else { panic!("not one answer") };
    assert!(answer.contains("log: None"), "{answer}");
}

#[test]
fn an_overtaken_page_inside_a_log_is_sent_as_it_is() {
    let mut bench = live(3);
    let (load, _) = reading(&bench.catch_up(A, 0));
    bench.logged(None, 4);
    assert_eq!(page(&bench.answer(load, stored(0, 3, 2))), "1 2 to 2 of 4");
    let (load, range) = reading(&bench.catch_up(A, 2));
    assert_eq!(range, "After(LoggedOffset(2)) 256");
    bench.logged(None, 5);
    assert_eq!(page(&bench.answer(load, stored(2, 4, 256))), "3 4 5 to 5 of 5");
}

#[test]
fn what_was_delivered_beyond_the_bound_is_left_to_the_next_page() {
    let mut bench = live(3);
    let (load, _) = reading(&bench.catch_up(A, 0));
    (4..1_204).for_each(|offset| drop(bench.logged(None, offset)));
    let page = page(&bench.answer(load, stored(0, 3, 256)));
    assert!(page.ends_with(" 1026 1027 to 1027 of 1203"), "{page}");
}

#[test]
fn a_volatile_event_does_not_wait_for_the_position() {
    let mut bench = live(3);
    let (load, _) = reading(&bench.logged(None, 5));
    let volatile = br#"{"event":"e","data":0}"#;
    let message = HubInput::Message { pattern: None, channel: CHANNEL.as_bytes(), payload: volatile };
    let [event] = &bench.give(message)[..] else { panic!("not an event alone") };
    assert!(event.starts_with("0: log:1 "), "{event}");
    assert_eq!(bench.answer(load, stored(5, 5, 0)).len(), 2, "it moved, and the event");
}

/// After a break the position and the page are read at once.
#[test]
fn a_shard_that_missed_nothing_is_answered_by_the_position() {
    let mut bench = shown_by_pattern();
    bench.give(HubInput::LinkDown);
    bench.give(HubInput::LinkUp);
    bench.hub.barrier.open();
    bench.give(HubInput::Tick);
    bench.give(HubInput::Subscribed(&logs()));
    let (load, range) = reading(&bench.catch_up(A, 1));
    assert_eq!(range, "After(LoggedOffset(1)) 256");
    assert_eq!(page(&bench.answer(load, stored(1, 1, 256))), " to 1 of 1");

    let (load, range) = reading(&bench.catch_up(A, 0));
    assert_eq!(range, "After(LoggedOffset(0)) 256", "the tail begins behind it");
    assert_eq!(page(&bench.answer(load, stored(0, 1, 256))), "1 to 1 of 1");
}

/// A node died, and its players come back one after the other, also while events go on.
#[test]
fn who_comes_back_soon_after_others_costs_no_reading() {
    let (mut bench, channel) = (bench(), Subject::channel(CHANNEL));
    bench.want(A, &channel);
    assert_eq!(bench.catch_up(A, 1), NOTHING, "it is not confirmed yet");
    let (load, range) = reading(&bench.give(HubInput::Subscribed(&channel)));
    assert_eq!(range, "After(LoggedOffset(1)) 256", "the position and the page by one reading");
    let answered = bench.answer(load, stored(1, 3, 256));
    assert_eq!(answered[0], "0: confirmed log:1 3");
    assert_eq!(page(&answered[1..]), "2 3 to 3 of 3");
    for offset in 4..20 {
        bench.logged(None, offset);
        for (shard, after) in [(A, 1), (B, offset - 1), (A, offset)] {
            let expected: Vec<String> = (after + 1..=offset).map(|offset| offset.to_string()).collect();
            assert_eq!(
                page(&bench.catch_up(shard, after)),
                format!("{} to {offset} of {offset}", expected.join(" "))
            );
        }
    }
    let stats = bench.hub.stats();
    assert_eq!((stats.log_reads, stats.log_pages_from_memory), (1, 48));
    // Who was behind the first one is read for.
    let (load, _) = reading(&bench.catch_up(B, 0));
    bench.answer(load, stored(0, 19, 256));
    assert_eq!(bench.catch_up(A, 0).len(), 1);
    assert_eq!(bench.hub.stats().log_reads, 2);
    // What the link has not delivered yet is in no memory.
    assert_eq!(reading(&bench.catch_up(A, 20)).1, "After(LoggedOffset(20)) 256");
}

#[test]
fn what_is_kept_for_those_who_come_back_ends_with_its_time_and_with_the_link() {
    for breaks in [true, false] {
        let mut bench = live(3);
        let (load, _) = reading(&bench.catch_up(A, 0));
        bench.answer(load, stored(0, 3, 256));
        assert!(bench.hub.stats().log_tail_bytes > 0);
        if breaks {
            bench.give(HubInput::LinkDown);
        } else {
            let end_ms = bench.hub.next_deadline_ms().unwrap();
            bench.wait(end_ms - bench.now_ms);
            assert_eq!(bench.hub.next_deadline_ms(), None);
        }
        assert_eq!(bench.hub.stats().log_tail_bytes, 0);
    }
}

/// Events that no shard was to be shown are not of its stream: it begins again with the next one.
#[test]
fn a_log_is_not_known_any_more_once_an_event_came_that_nobody_was_to_be_shown() {
    let mut bench = shown_by_pattern();
    bench.unwant(A, &logs());
    assert_eq!(bench.logged(Some("log:*"), 2), NOTHING);
    bench.want(A, &logs());
    let (load, _) = reading(&bench.logged(Some("log:*"), 3));
    assert_eq!(bench.answer(load, stored(3, 3, 0)).len(), 1, "the event, and nothing of a gap");
}

/// Who comes back names a channel that has no log yet, and its first event comes while that is looked up.
#[test]
fn the_first_event_of_a_channel_that_somebody_has_named_is_shown_to_all() {
    let mut bench = bench();
    bench.live(A, &logs());
    bench.live(B, &logs());
    let (load, _) = reading(&bench.catch_up(B, 0));
    assert_eq!(bench.logged(Some("log:*"), 1), NOTHING, "it is held");
    let (load, _) = reading(&bench.answer(load, StoredLog::absent()));
    let outputs = bench.answer(load, stored(0, 1, 1));
    assert!(outputs.iter().any(|output| output == "0+1: log:1 1 1"), "{outputs:?}");
}

#[test]
fn a_log_is_not_known_any_more_once_no_pattern_that_is_left_shows_its_channel() {
    let mut bench = shown_by_pattern();
    assert_eq!(bench.hub.stats().pattern_logs, 1);
    bench.unwant(A, &logs());
    bench.wait(LINGER_MS);
    assert_eq!(bench.hub.stats().pattern_logs, 0);
}

fn logs() -> Subject {
    Subject::pattern("log:*")
}

/// A shard was shown the first event of a channel by a pattern; another one, of other channels, stays on the link.
fn shown_by_pattern() -> Bench {
    let mut bench = bench();
    bench.live(A, &logs());
    bench.live(B, &Subject::pattern("other:*"));
    let (load, _) = reading(&bench.logged(Some("log:*"), 1));
    assert_eq!(bench.answer(load, stored(1, 1, 0)), ["0: log:1 1 1"]);
    bench
}
