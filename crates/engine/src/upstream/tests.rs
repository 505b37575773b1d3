//! The hub against a scripted link, and against a model Redis under random orders, delays, breaks and refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cover;
mod logs;
mod model;
mod moves;
mod slot_moves;
mod tables;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::hub::BATCH;
use super::*;
use crate::class::Classes;
use crate::io::{BrokerEvent, Subject};

const LINGER_MS: u64 = 2000;
const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn settings() -> HubSettings {
    HubSettings {
        link: LinkId::at(0),
        seed: 1,
        linger_ms: LINGER_MS,
        external_bytes: 100,
        classes: Arc::new(Classes::default()),
        reserved: crate::settings::Reserved::new("own:"),
        slots: SlotHasher::default(),
    }
}

/// A hub with its clock; outputs as short texts.
struct Bench {
    hub: Hub,
    now_ms: u64,
}

impl Bench {
    /// With a link that is up.
    fn new() -> Bench {
        let mut bench = Bench { hub: Hub::new(settings()), now_ms: 10 };
        bench.give(HubInput::LinkUp);
        bench
    }

    fn give(&mut self, input: HubInput<'_>) -> Vec<String> {
        self.hub.handle(self.now_ms, input);
        std::iter::from_fn(|| self.hub.poll_output()).map(|output| describe(&output)).collect()
    }

    /// Every shard knows what was commanded meanwhile.
    fn give_open(&mut self) -> Vec<String> {
        self.hub.barrier.open();
        self.give(HubInput::Tick)
    }

    fn want(&mut self, shard: ShardId, subject: &Subject) -> Vec<String> {
        self.give(HubInput::Want { shard, subject: subject.clone() })
    }

    fn unwant(&mut self, shard: ShardId, subject: &Subject) -> Vec<String> {
        self.give(HubInput::Unwant { shard, subject })
    }

    /// Wanted and confirmed.
    fn live(&mut self, shard: ShardId, subject: &Subject) {
        self.want(shard, subject);
        self.give(HubInput::Subscribed(subject));
    }

    fn copy(&mut self, pattern: Option<&str>, channel: &str, payload: &'static str) -> Vec<String> {
        let (pattern, channel) = (pattern.map(str::as_bytes), channel.as_bytes());
        self.give(HubInput::Message { pattern, channel, payload: payload.as_bytes() })
    }

    fn wait(&mut self, ms: u64) -> Vec<String> {
        self.now_ms += ms;
        self.give(HubInput::Tick)
    }
}

/// The hubs of several links, and the messages between them that wait.
struct Hubs<const LINKS: usize> {
    hubs: [Hub; LINKS],
    now_ms: u64,
    peer: [VecDeque<PeerMessage>; LINKS],
}

impl<const LINKS: usize> Hubs<LINKS> {
    fn at_start() -> Self {
        let hub = |at| Hub::new(HubSettings { link: LinkId::at(at), ..settings() });
        Hubs { hubs: std::array::from_fn(hub), now_ms: 10, peer: std::array::from_fn(|_| VecDeque::new()) }
    }

    fn give(&mut self, at: usize, input: HubInput<'_>) -> Vec<String> {
        self.hubs[at].handle(self.now_ms, input);
        let mut said = Vec::new();
        while let Some(output) = self.hubs[at].poll_output() {
            match output {
                HubOutput::Peer(to, message) => self.peer[to.place()].push_back(message),
                output => said.push(describe(&output)),
            }
        }
        said
    }

    /// The hub receives what the others sent.
    fn hear(&mut self, at: usize) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(message) = self.peer[at].pop_front() {
            said.extend(self.give(at, HubInput::Peer(message)));
        }
        said
    }
}

fn describe(output: &HubOutput) -> String {
    let names =
        |subjects: &[Subject]| subjects.iter().map(|s| s.name.to_string()).collect::<Vec<_>>().join(" ");
    match output {
        HubOutput::Link(LinkCommand::Subscribe(subjects)) => format!("subscribe {}", names(subjects)),
        HubOutput::Link(LinkCommand::Unsubscribe(subjects)) => format!("unsubscribe {}", names(subjects)),
        HubOutput::Link(LinkCommand::Mark(marker)) => format!("mark {marker}"),
        HubOutput::Peer(link, message) => format!("peer {} {message:?}", link.place()),
        HubOutput::Moved(subject) => format!("moved {}", subject.name),
        HubOutput::Oversized { channel, bytes } => format!("oversized {channel} {bytes}"),
        HubOutput::Load { channel, load } => format!("load {channel} {load}"),
        HubOutput::ReadLog { channel, load, range, limit, .. } => {
            format!("read {channel} {load} {range:?} {limit}")
        }
        HubOutput::BadEntity { channel, reason } => format!("bad entity {channel} {reason:?}"),
        HubOutput::BadTable { channel, reason } => format!("bad table {channel} {reason:?}"),
        HubOutput::Shards(shards, event) => {
            let to = shards.iter().map(|shard| shard.0.to_string()).collect::<Vec<_>>().join("+");
            format!("{to}: {}", describe_event(event))
        }
    }
}

fn describe_event(event: &BrokerEvent) -> String {
    match event {
        BrokerEvent::Confirmed { subject, position, after_break } => {
            let offset = position.offset();
            format!("confirmed {} {offset}{}", subject.name, if *after_break { " after break" } else { "" })
        }
        BrokerEvent::Publication(publication) => {
            format!("{} {} {}", publication.channel, publication.offset, publication.event.data_json())
        }
        BrokerEvent::Table { channel, entities } => {
            let states: Vec<&str> = entities.iter().map(|entity| entity.event.data_json()).collect();
            format!("table {channel} {}", states.join(" "))
        }
        BrokerEvent::Expired { channel, keys } => format!("expired {channel} {}", keys.join(" ")),
        BrokerEvent::Gap { channel, position, .. } => format!("gap {channel} {}", position.offset),
        BrokerEvent::Released(subject) => format!("released {}", subject.name),
        BrokerEvent::Interrupted(subject) => format!("interrupted {}", subject.name),
        BrokerEvent::Refused { subject, reason } => format!("refused {} {reason}", subject.name),
        other => format!("{other:?}"),
    }
}

fn room() -> Subject {
    Subject::channel("room")
}

fn rooms() -> Subject {
    Subject::pattern("room*")
}

const NOTHING: [&str; 0] = [];

#[test]
fn confirms_only_what_redis_has_confirmed() {
    let mut bench = Bench::new();
    assert_eq!(bench.want(A, &room()), ["subscribe room"]);
    assert_eq!(bench.want(B, &room()), NOTHING, "one subscription, however many want it");
    assert_eq!(bench.give(HubInput::Subscribed(&room())), ["0+1: confirmed room 0"]);
    assert_eq!(bench.copy(None, "room", "7"), ["0+1: room 1 7"]);
}

#[test]
fn a_newcomer_to_a_live_channel_is_confirmed_at_once_where_the_count_stands() {
    let mut bench = Bench::new();
    bench.live(A, &room());
    bench.copy(None, "room", "7");
    assert_eq!(bench.want(B, &room()), ["1: confirmed room 1"]);
}

#[test]
fn a_subscription_lingers_and_a_return_costs_nothing() {
    let mut bench = Bench::new();
    bench.live(A, &room());
    assert_eq!(bench.unwant(A, &room()), ["0: released room"]);
    assert_eq!(bench.copy(None, "room", "1"), NOTHING);
    assert_eq!(bench.wait(LINGER_MS - 1), NOTHING);
    assert_eq!(bench.want(A, &room()), ["0: confirmed room 0"]);
    assert_eq!(bench.wait(LINGER_MS), NOTHING, "the old linger is void");
    bench.unwant(A, &room());
    assert_eq!(bench.hub.next_deadline_ms(), Some(bench.now_ms + LINGER_MS));
    assert_eq!(bench.wait(LINGER_MS), ["unsubscribe room"]);
    bench.give(HubInput::Unsubscribed(&room()));
    assert_eq!((bench.hub.stats(), bench.hub.next_deadline_ms()), (HubStats::default(), None));
}

#[test]
fn who_returns_while_a_subscription_ends_is_subscribed_anew() {
    let mut bench = Bench::new();
    bench.live(A, &room());
    bench.copy(None, "room", "1");
    bench.unwant(A, &room());
    assert_eq!(bench.wait(LINGER_MS), ["unsubscribe room"]);
    assert_eq!(bench.want(A, &room()), NOTHING, "not before Redis has ended it");
    assert_eq!(bench.copy(None, "room", "2"), NOTHING);
    assert_eq!(bench.give(HubInput::Unsubscribed(&room())), ["subscribe room"]);
    assert_eq!(bench.give(HubInput::Subscribed(&room())), ["0: confirmed room 1"], "the count goes on");
}

#[test]
fn who_leaves_before_the_confirmation_leaves_nothing() {
    let mut bench = Bench::new();
    bench.want(A, &room());
    bench.unwant(A, &room());
    assert_eq!(bench.wait(2 * LINGER_MS), NOTHING);
    assert_eq!(bench.give(HubInput::Subscribed(&room())), NOTHING);
    assert_eq!(bench.wait(LINGER_MS), ["unsubscribe room"]);
    bench.give(HubInput::Unsubscribed(&room()));
    assert_eq!(bench.hub.stats().subjects, 0);
}

#[test]
fn a_refusal_is_told_and_forgotten() {
    let mut bench = Bench::new();
    bench.want(A, &room());
    bench.want(B, &room());
    let refused = bench.give(HubInput::Refused { subject: &room(), reason: "NOPERM" });
    assert_eq!(refused, ["0+1: refused room NOPERM"]);
    assert_eq!(bench.hub.stats().subjects, 0);
    assert_eq!(bench.want(A, &room()), ["subscribe room"], "asking again asks Redis again");
}

#[test]
fn the_exact_copy_is_canonical_where_there_is_one() {
    let mut bench = Bench::new();
    bench.live(A, &rooms());
    assert_eq!(
        bench.want(B, &Subject::pattern("room?*")),
        ["1: confirmed room?* 0"],
        "Redis covers it already"
    );
    assert_eq!(bench.copy(Some("room*"), "rooms", "1"), ["0+1: rooms 1 1"]);
    assert_eq!(bench.copy(Some("room*"), "room", "1"), ["0: room 1 1"]);

    bench.want(B, &room());
    assert_eq!(bench.copy(Some("room*"), "room", "2"), ["0: room 2 2"], "Redis sends no exact copy yet");
    assert_eq!(bench.give(HubInput::Subscribed(&room())), ["1: confirmed room 2"]);
    assert_eq!(bench.copy(None, "room", "3"), ["0+1: room 3 3"]);
    assert_eq!(bench.copy(Some("room*"), "room", "3"), NOTHING);

    bench.unwant(B, &room());
    bench.wait(LINGER_MS);
    assert_eq!(bench.copy(None, "room", "4"), ["0: room 4 4"], "until Redis has ended it");
    bench.give(HubInput::Unsubscribed(&room()));
    assert_eq!(bench.copy(Some("room*"), "room", "5"), ["0: room 5 5"], "one count through all of it");
}

#[test]
fn patterns_show_neither_reserved_nor_ill_named_channels() {
    let mut bench = Bench::new();
    let all = Subject::pattern("*");
    bench.live(A, &all);
    bench.live(B, &Subject::channel("own:control"));
    let envelope = r#"{"event":"x","data":1}"#;
    assert_eq!(
        bench.copy(None, "own:control", envelope),
        [format!("1: own:control 1 {envelope}")],
        "as it is"
    );
    assert_eq!(bench.copy(Some("*"), "own:control", envelope), NOTHING);
    assert_eq!(bench.copy(Some("*"), "own:other", "1"), NOTHING);
    assert_eq!(bench.copy(Some("*"), "two words", "1"), NOTHING);
    let not_text = HubInput::Message { pattern: Some(b"*"), channel: b"\xff", payload: b"" };
    assert_eq!(bench.give(not_text), NOTHING);
    assert_eq!(bench.hub.stats().dropped_bad_name, 2);
}

#[test]
fn an_oversized_payload_is_counted_once_and_only_where_it_would_have_been_shown() {
    let mut bench = Bench::new();
    bench.live(A, &room());
    bench.live(A, &rooms());
    let oversized = |pattern: Option<&'static str>, channel: &'static str| HubInput::OversizedMessage {
        pattern: pattern.map(str::as_bytes),
        channel: channel.as_bytes(),
        bytes: 5000,
    };
    assert_eq!(bench.give(oversized(None, "room")), ["oversized room 5000", "0: gap room 1"]);
    assert_eq!(bench.give(oversized(Some("room*"), "room")), NOTHING);
    assert_eq!(bench.give(oversized(None, "elsewhere")), NOTHING);
    let held = HubInput::Message { pattern: None, channel: b"room", payload: &[b'x'; 101] };
    assert_eq!(bench.give(held), ["oversized room 101", "0: gap room 2"]);
    assert_eq!(bench.hub.stats().dropped_oversized, 2);
    assert_eq!(bench.copy(None, "room", "1"), ["0: room 3 1"], "what is missing has its numbers");
    let by_pattern = ["oversized room:2 5000", "0: gap room:2 1"];
    assert_eq!(bench.give(oversized(Some("room*"), "room:2")), by_pattern);
    assert_eq!(bench.copy(Some("room*"), "room:2", "1"), ["0: room:2 2 1"]);
}

#[test]
fn a_broken_link_interrupts_and_restores_in_batches() {
    let mut bench = Bench::new();
    let subjects: Vec<Subject> = (0..1200).map(|n| Subject::channel(format!("room:{n:04}"))).collect();
    for subject in &subjects {
        bench.hub.handle(bench.now_ms, HubInput::Want { shard: A, subject: subject.clone() });
    }
    for subject in &subjects {
        bench.hub.handle(bench.now_ms, HubInput::Subscribed(subject));
    }
    while bench.hub.poll_output().is_some() {}
    assert_eq!(bench.hub.stats().live, 1200);

    let interrupted = bench.give(HubInput::LinkDown);
    assert_eq!(interrupted.len(), 1200);
    assert_eq!(interrupted[7], "0: interrupted room:0007", "in an order that does not hang on a hash");
    assert_eq!((bench.hub.interrupted(), bench.hub.stats().live), (1200, 0));
    assert_eq!(bench.give(HubInput::LinkDown), NOTHING);

    let mut outputs = bench.give(HubInput::LinkUp);
    for batch in subjects.chunks(BATCH) {
        assert_eq!(outputs.len(), 1);
        assert_eq!(outputs[0].split(' ').count(), batch.len() + 1);
        outputs.clear();
        for subject in batch {
            outputs.extend(bench.give(HubInput::Subscribed(subject)));
        }
        outputs.retain(|output| !output.ends_with("after break"));
    }
    assert!(outputs.is_empty());
    assert_eq!((bench.hub.interrupted(), bench.hub.stats().live), (0, 1200));
}

#[test]
fn what_only_lingers_does_not_survive_a_break() {
    let mut bench = Bench::new();
    bench.live(A, &room());
    bench.live(A, &rooms());
    bench.copy(Some("room*"), "room:2", "1");
    bench.unwant(A, &room());
    bench.unwant(A, &rooms());
    assert_eq!(bench.give(HubInput::LinkDown), NOTHING);
    assert_eq!(bench.hub.stats(), HubStats::default());
    assert_eq!(bench.give(HubInput::LinkUp), NOTHING);
}

#[test]
fn a_subscription_that_redis_ends_by_itself_is_a_break_of_this_one() {
    let mut bench = Bench::new();
    bench.live(A, &room());
    let outputs = bench.give(HubInput::Unsubscribed(&room()));
    assert_eq!(outputs, ["0: interrupted room", "subscribe room"]);
    assert_eq!(bench.give(HubInput::Subscribed(&room())), ["0: confirmed room 0 after break"]);
}

#[test]
fn a_shard_that_lost_something_hears_so_for_all_that_it_holds() {
    let mut bench = Bench::new();
    bench.live(A, &room());
    bench.want(B, &room());
    bench.live(B, &Subject::channel("other"));
    let told = bench.give(HubInput::Lost { shard: A });
    assert_eq!(told, ["0: interrupted room", "0: confirmed room 0 after break"]);
}

#[test]
fn counts_of_channels_that_only_patterns_cover_end_with_the_last_pattern() {
    let mut bench = Bench::new();
    bench.live(A, &rooms());
    assert_eq!(bench.copy(Some("room*"), "room:1", "1"), ["0: room:1 1 1"]);
    assert_eq!(bench.copy(Some("room*"), "room:1", "2"), ["0: room:1 2 2"]);
    assert_eq!(bench.hub.stats().pattern_channels, 1);
    bench.unwant(A, &rooms());
    bench.wait(LINGER_MS);
    bench.give(HubInput::Unsubscribed(&rooms()));
    assert_eq!(bench.hub.stats().pattern_channels, 0, "no pattern, no counts");
    bench.live(A, &rooms());
    assert_eq!(bench.copy(Some("room*"), "room:1", "3"), ["0: room:1 1 3"], "another count");
    assert_eq!(bench.copy(Some("room*"), "room:9", "4"), ["0: room:9 1 4"], "from 0, whatever others count");
}

#[test]
fn subjects_that_come_and_go_while_the_link_is_away_do_not_pile_up() {
    let mut bench = Bench { hub: Hub::new(settings()), now_ms: 0 };
    bench.want(A, &room());
    for n in 0..5000 {
        let subject = Subject::channel(format!("player:{n}"));
        bench.want(A, &subject);
        bench.unwant(A, &subject);
        bench.wait(LINGER_MS);
    }
    assert_eq!(bench.hub.stats().subjects, 1);
    assert!(bench.hub.waiting_len() <= 2 * BATCH, "{}", bench.hub.waiting_len());
    assert_eq!(bench.give(HubInput::LinkUp), ["subscribe room"]);
}

/// What nodes said to each other while the link was down is made good before anything else comes back.
#[test]
fn behind_a_break_the_nodes_own_channels_come_first_and_the_rest_when_it_is_let_go() {
    let mut bench = Bench::new();
    let (own, room) = (Subject::channel("own:nodes"), Subject::channel("a-room"));
    assert_eq!(bench.want(ShardId::NODE, &own), ["subscribe own:nodes"]);
    bench.give(HubInput::Subscribed(&own));
    bench.live(A, &room);
    assert!(bench.hub.barrier.is_open(), "nothing was missed");
    bench.give(HubInput::LinkDown);
    assert!(!bench.hub.barrier.is_open());
    assert_eq!(bench.give(HubInput::LinkUp), ["subscribe own:nodes"]);
    assert_eq!(bench.give(HubInput::Subscribed(&own)).len(), 1, "confirmed, and nothing asked");
    assert_eq!(bench.want(B, &Subject::channel("b-room")), [""; 0]);
    assert_eq!(bench.want(ShardId::NODE, &Subject::channel("own:late")), ["subscribe own:late"]);
    bench.give(HubInput::Subscribed(&Subject::channel("own:late")));
    assert_eq!(bench.give_open(), ["subscribe a-room b-room"]);
    // A hub that has no such channel waits for nobody.
    let mut bench = Bench::new();
    bench.live(A, &room);
    bench.give(HubInput::LinkDown);
    assert_eq!(bench.give(HubInput::LinkUp), ["subscribe a-room"]);
}
