//! The hub's laws under random orders, delays, breaks and refusals, against a model of what Redis does on one link.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use drawbridge_protocol::glob::{glob_matches, literal_prefix};
use drawbridge_protocol::template::ClassName;
use proptest::prelude::*;

use super::super::cover::Cover;
use super::super::*;
use super::{LINGER_MS, settings};
use crate::class::{Class, Classes};
use crate::io::{BrokerEvent, ChannelPosition, Epoch, Position, Subject};

const SHARDS: u8 = 3;
const CHANNELS: [&str; 5] = ["room:1", "room:2", "room:33", "chat:1", "own:1"];
/// Of two classes, and of none.
const PATTERNS: [&str; 10] =
    ["room:*", "r*", "*", "room:?", "room:1*", "room:2?*", "room:[12]", "room:3*", "chat:1*", "chat:*1"];
/// What Redis may hold to cover them.
const COVERS: [&str; 8] = ["room:*", "r*", "*", "room:1*", "room:2*", "room:3*", "chat:1*", "chat:*"];
/// So that few are many.
const PREFIXES_PER_CLASS: usize = 3;

fn subject(index: usize) -> Subject {
    match CHANNELS.get(index) {
        Some(channel) => Subject::channel(*channel),
        None => Subject::pattern(PATTERNS[index - CHANNELS.len()]),
    }
}

/// What a link may ask for.
fn asked(index: usize) -> Subject {
    match CHANNELS.get(index) {
        Some(channel) => Subject::channel(*channel),
        None => Subject::pattern(COVERS[index - CHANNELS.len()]),
    }
}

fn shows(subject: &Subject, channel: &str) -> bool {
    match subject.is_pattern() {
        true => !channel.starts_with("own:") && glob_matches(&subject.name, channel),
        false => *subject.name == *channel,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Want(u8, usize),
    Unwant(u8, usize),
    Publish(usize),
    /// Redis takes in so many of the link's commands.
    Redis(usize),
    /// The link reads so many pushes.
    Read(usize),
    Break,
    Connect,
    /// The shards know what the node's own channels said while the link was down.
    Release,
    /// Redis refuses this channel or cover from now on, or takes it again.
    Forbid(usize, bool),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let subjects = CHANNELS.len() + PATTERNS.len();
    prop_oneof![
        6 => (0..SHARDS, 0..subjects).prop_map(|(shard, subject)| Op::Want(shard, subject)),
        4 => (0..SHARDS, 0..subjects).prop_map(|(shard, subject)| Op::Unwant(shard, subject)),
        8 => (0..CHANNELS.len()).prop_map(Op::Publish),
        6 => (1usize..4).prop_map(Op::Redis),
        6 => (1usize..8).prop_map(Op::Read),
        1 => Just(Op::Break),
        2 => Just(Op::Connect),
        2 => Just(Op::Release),
        1 => (0..CHANNELS.len() + COVERS.len(), any::<bool>()).prop_map(|(subject, forbidden)| Op::Forbid(subject, forbidden)),
        4 => (1..LINGER_MS).prop_map(Op::Wait),
    ]
}

#[derive(Debug)]
enum Push {
    Subscribed(Subject),
    Unsubscribed(Subject),
    Refused(Subject),
    Copy(Option<Subject>, &'static str, u64),
}

/// What one shard has heard.
#[derive(Default)]
struct Shard {
    wanted: BTreeSet<Subject>,
    /// Of these, confirmed.
    live: BTreeSet<Subject>,
    /// The last publication and its position, by channel.
    last: BTreeMap<String, (u64, Position)>,
    /// Publications that must come while nothing breaks, and on which channel.
    due: BTreeMap<u64, &'static str>,
}

struct World {
    hub: Hub,
    now_ms: u64,
    up: bool,
    commands: VecDeque<LinkCommand>,
    subscriptions: Vec<Subject>,
    forbidden: BTreeSet<Subject>,
    unread: VecDeque<Push>,
    shards: Vec<Shard>,
    published: u64,
    /// One publication has one position, whoever sees it.
    positions: BTreeMap<u64, Position>,
    /// Whose count an epoch is.
    epochs: BTreeMap<Epoch, String>,
}

impl World {
    fn open(&mut self) {
        self.hub.barrier.open();
        self.give(HubInput::Tick);
    }

    fn new() -> World {
        let class = |name| Class { patterns: true, ..Class::plain(ClassName::parse(name).unwrap()) };
        let classes = Classes::new(vec![class("room:{n}"), class("chat:{n}")]);
        let mut hub = Hub::new(HubSettings { classes, ..settings() });
        hub.cover = Cover::new(LINGER_MS, PREFIXES_PER_CLASS);
        World {
            hub,
            now_ms: 0,
            up: false,
            commands: VecDeque::new(),
            subscriptions: Vec::new(),
            forbidden: BTreeSet::new(),
            unread: VecDeque::new(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            published: 0,
            positions: BTreeMap::new(),
            epochs: BTreeMap::new(),
        }
    }

    fn give(&mut self, input: HubInput<'_>) {
        self.hub.handle(self.now_ms, input);
        while let Some(output) = self.hub.poll_output() {
            match output {
                HubOutput::Peer(..) | HubOutput::Moved(_) => unreachable!("nothing moves"),
                HubOutput::Link(command) => {
                    assert!(self.up, "a command for a link that is down");
                    if let LinkCommand::Subscribe(subjects) = &command
                        && !self.hub.barrier.is_open()
                    {
                        assert!(
                            subjects.iter().all(|subject| subject.name.starts_with("own:")),
                            "not held back"
                        );
                    }
                    self.commands.push_back(command);
                }
                HubOutput::Shards(shards, event) => {
                    assert!(!shards.is_empty(), "told to nobody: {event:?}");
                    shards.iter().for_each(|shard| self.hear(shard, &event));
                }
                HubOutput::Oversized { .. }
                | HubOutput::Load { .. }
                | HubOutput::ReadLog { .. }
                | HubOutput::BadEntity { .. }
                | HubOutput::BadTable { .. } => {
                    panic!("nothing is oversized, and nothing has entities")
                }
            }
        }
    }

    fn hear(&mut self, shard: ShardId, event: &BrokerEvent) {
        let shard = &mut self.shards[usize::from(shard.0)];
        match event {
            BrokerEvent::Confirmed { subject, position: ChannelPosition::Counted(position), .. } => {
                assert!(shard.wanted.contains(subject), "confirmed, but not wanted: {subject:?}");
                shard.live.insert(subject.clone());
                if let Some((_, last)) = shard.last.get(&*subject.name) {
                    assert!(
                        position.epoch != last.epoch || position.offset >= last.offset,
                        "the count went back"
                    );
                }
            }
            BrokerEvent::Interrupted(subject) => {
                assert!(shard.live.remove(subject), "interrupted, but not live: {subject:?}");
            }
            BrokerEvent::Refused { subject, .. } => {
                assert!(!shard.live.contains(subject) && shard.wanted.remove(subject));
            }
            BrokerEvent::Released(subject) => assert!(!shard.wanted.contains(subject)),
            BrokerEvent::Publication(publication) => {
                let channel = publication.channel.to_string();
                let number: u64 = publication.event.data_json().trim_matches('"').parse().unwrap();
                assert!(
                    shard.live.iter().any(|subject| shows(subject, &channel)),
                    "shown to who has no live subscription"
                );
                let position = Position { epoch: publication.epoch, offset: publication.offset };
                if let Some((last, before)) = shard.last.get(&channel) {
                    assert!(number > *last, "{channel}: {number} after {last}: doubled or out of order");
                    let goes_on = position.epoch == before.epoch;
                    assert!(!goes_on || position.offset > before.offset, "{channel}: the count went back");
                }
                assert_eq!(*self.positions.entry(number).or_insert(position), position);
                // An epoch is one count of one channel, from 1 on.
                let of = self.epochs.entry(position.epoch).or_insert_with(|| channel.clone());
                assert_eq!(*of, channel, "two counts share an epoch");
                shard.last.insert(channel, (number, position));
                shard.due.remove(&number);
            }
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Want(shard, index) => {
                let (shard, subject) = (ShardId(*shard), subject(*index));
                // As an engine does: it wants what it does not want already.
                if self.shards[usize::from(shard.0)].wanted.insert(subject.clone()) {
                    self.give(HubInput::Want { shard, subject });
                }
            }
            Op::Unwant(shard, index) => self.unwant(*shard, &subject(*index)),
            Op::Publish(index) => self.publish(CHANNELS[*index]),
            Op::Redis(count) => (0..*count).for_each(|_| self.take_command()),
            Op::Read(count) => (0..*count).for_each(|_| self.read()),
            Op::Break => self.cut(),
            Op::Connect => self.connect(),
            Op::Release => self.open(),
            Op::Forbid(index, true) => _ = self.forbidden.insert(asked(*index)),
            Op::Forbid(index, false) => _ = self.forbidden.remove(&asked(*index)),
            Op::Wait(ms) => {
                self.now_ms += ms;
                self.give(HubInput::Tick);
            }
        }
    }

    fn unwant(&mut self, shard: u8, subject: &Subject) {
        let state = &mut self.shards[usize::from(shard)];
        if !state.wanted.remove(subject) {
            return;
        }
        state.live.remove(subject);
        let live = &state.live;
        state.due.retain(|_, channel| live.iter().any(|subject| shows(subject, channel)));
        self.give(HubInput::Unwant { shard: ShardId(shard), subject });
    }

    fn publish(&mut self, channel: &'static str) {
        self.published += 1;
        let number = self.published;
        if !self.up {
            return;
        }
        for shard in &mut self.shards {
            if shard.live.iter().any(|subject| shows(subject, channel)) {
                shard.due.insert(number, channel);
            }
        }
        let mut copies: Vec<Subject> = self
            .subscriptions
            .iter()
            .filter(|subject| subject.is_pattern() && glob_matches(&subject.name, channel))
            .cloned()
            .collect();
        // Redis keeps patterns in a hash table: any order, and another one when the table grows.
        if number.is_multiple_of(3) {
            copies.reverse();
        }
        if self.subscriptions.contains(&Subject::channel(channel)) {
            self.unread.push_back(Push::Copy(None, channel, number));
        }
        self.unread.extend(copies.into_iter().map(|pattern| Push::Copy(Some(pattern), channel, number)));
    }

    fn take_command(&mut self) {
        match self.commands.pop_front() {
            None => {}
            Some(LinkCommand::Subscribe(subjects)) => {
                for subject in subjects {
                    assert!(!self.subscriptions.contains(&subject), "subscribed twice: {subject:?}");
                    if self.forbidden.contains(&subject) {
                        self.unread.push_back(Push::Refused(subject));
                    } else {
                        self.subscriptions.push(subject.clone());
                        self.unread.push_back(Push::Subscribed(subject));
                    }
                }
            }
            Some(LinkCommand::Mark(_)) => unreachable!("nothing moves"),
            Some(LinkCommand::Unsubscribe(subjects)) => {
                for subject in subjects {
                    self.subscriptions.retain(|other| *other != subject);
                    self.unread.push_back(Push::Unsubscribed(subject));
                }
            }
        }
    }

    fn read(&mut self) {
        match self.unread.pop_front() {
            None => {}
            Some(Push::Subscribed(subject)) => self.give(HubInput::Subscribed(&subject)),
            Some(Push::Unsubscribed(subject)) => self.give(HubInput::Unsubscribed(&subject)),
            Some(Push::Refused(subject)) => {
                self.give(HubInput::Refused { subject: &subject, reason: "NOPERM" })
            }
            Some(Push::Copy(pattern, channel, number)) => {
                let pattern = pattern.as_ref().map(|pattern| pattern.name.as_bytes());
                let (channel, payload) = (channel.as_bytes(), number.to_string());
                self.give(HubInput::Message { pattern, channel, payload: payload.as_bytes() });
            }
        }
        if self.unread.is_empty() {
            for (index, shard) in self.shards.iter().enumerate() {
                assert!(shard.due.is_empty(), "shard {index} was not shown {:?}", shard.due);
            }
        }
    }

    fn cut(&mut self) {
        if !std::mem::replace(&mut self.up, false) {
            return;
        }
        self.commands.clear();
        self.subscriptions.clear();
        self.unread.clear();
        self.shards.iter_mut().for_each(|shard| shard.due.clear());
        self.give(HubInput::LinkDown);
        assert!(self.shards.iter().all(|shard| shard.live.is_empty()), "live without a link");
    }

    fn connect(&mut self) {
        if !std::mem::replace(&mut self.up, true) {
            self.give(HubInput::LinkUp);
        }
    }

    /// Everything that is on its way arrives.
    fn settle(&mut self) {
        while !self.commands.is_empty() || !self.unread.is_empty() {
            self.take_command();
            self.read();
        }
    }

    fn wait_and_settle(&mut self) {
        for _ in 0..3 {
            self.now_ms += LINGER_MS;
            self.give(HubInput::Tick);
            self.settle();
        }
    }

    /// Redis holds no prefix under another, no more than it may, and none without need.
    fn covers_minimally(&self) {
        let held: Vec<&Subject> = self.subscriptions.iter().filter(|subject| subject.is_pattern()).collect();
        let wanted: BTreeSet<&Subject> = self.shards.iter().flat_map(|shard| &shard.wanted).collect();
        for cover in &held {
            let prefix = literal_prefix(&cover.name);
            let is_under =
                |other: &&&Subject| *other != cover && prefix.starts_with(&*literal_prefix(&other.name));
            assert!(!held.iter().any(|other| is_under(&other)), "nested: {held:?}");
            let needs =
                |wanted: &&Subject| wanted.is_pattern() && literal_prefix(&wanted.name).starts_with(&*prefix);
            assert!(wanted.iter().any(needs), "not needed: {cover:?}");
        }
        for class in ["room:", "chat:"] {
            let of_class = held.iter().filter(|cover| cover.name.starts_with(class));
            assert!(of_class.count() <= PREFIXES_PER_CLASS, "{held:?}");
        }
    }

    /// All that is wanted and allowed is live in the end, and nothing is left when nobody wants anything.
    fn end(&mut self) {
        self.connect();
        self.settle();
        self.open();
        self.settle();
        for shard in &self.shards {
            assert_eq!(shard.live, shard.wanted);
        }
        assert_eq!(self.hub.interrupted(), 0);
        self.wait_and_settle();
        self.covers_minimally();
        for shard in 0..SHARDS {
            for subject in self.shards[usize::from(shard)].wanted.clone() {
                self.unwant(shard, &subject);
            }
        }
        self.wait_and_settle();
        let stats = self.hub.stats();
        assert_eq!((stats.subjects, stats.live, stats.pattern_channels), (0, 0, 0));
        assert_eq!(self.hub.next_deadline_ms(), None);
        assert!(self.subscriptions.is_empty(), "left in Redis: {:?}", self.subscriptions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn keeps_its_laws_whatever_happens(ops in proptest::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        world.connect();
        for op in &ops {
            world.apply(op);
        }
        world.end();
    }
}
