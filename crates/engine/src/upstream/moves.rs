//! Moving an entry from one link to another, without a gap or a duplicate. Both links lead to one Redis, which sends every
//! publication to all its subscribers at one moment. So a marker, published when both links are subscribed to it and to what
//! moves, cuts both streams at the same place: the giver delivers what comes before it, the taker what comes behind.
//!
//! ```text
//!            the link that gives                              the link that takes
//!   give ──▶ Subscribing: to the marker                       Subscribing: to the subject and the marker  ◀── take
//!            │ still delivers                                 │ drops what comes, holds commands about it
//!            confirmed ─────────────ready────────────────────▶ all confirmed: publishes the marker
//!            reads the marker: stops, unsubscribes            reads the marker: holds what comes
//!            └──────────────given: count, source, shards─────▶ both done: delivers what it held, and is live
//! ```
//!
//! Whatever goes wrong (a link breaks, Redis refuses or does not answer in time, too much is held) the entry is given at once
//! and counts as broken: its subscribers get `RESYNC`, as after any break, and all shards read their players' view overrides
//! again, because a player command between the two links may be lost. What the giver sends can arrive before the taker knows
//! of the move; it is kept until then. Commands about the subject go to the taker from the beginning, which carries
//! them out behind the hand-over, in the order in which they came.
//!
//! Invariant: of the two links exactly one delivers a publication of a moving subject, or its subscribers are notified of a gap.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;

use super::dedup::Content;
use super::hub::{Entry, Hub, State};
use super::io::{HubOutput, LinkCommand};
use super::shards::{ShardId, ShardSet};
use super::slot_moves::GivenEntries;
use super::source::Source;
use super::tables::{count, uncount};
use super::topology::{LinkId, Move};
use crate::io::{BrokerEvent, LoggedOffset, Subject};

/// How much the taker holds, in bytes; beyond that the move counts as a break.
const MAX_HELD_BYTES: usize = 1 << 20;
/// How many events for the shards it holds beside those; beyond that the move counts as a break.
const MAX_HELD_EVENTS: usize = 1_024;
/// A move that takes longer counts as a break, in milliseconds.
const TIMEOUT_MS: u64 = 10_000;
/// What a held message costs beside its payload; an estimate.
const OVERHEAD: usize = 64;

/// What the two links of a move say to each other.
#[derive(Debug)]
pub enum PeerMessage {
    /// The giver is subscribed to the marker.
    Ready(Subject),
    /// The taker cannot read the marker: give at once.
    GiveNow(Subject),
    /// The entry; `None`: nobody wanted the subject.
    Given(Subject, Option<Box<Handover>>),
    /// The entries of all slots of a move of slots.
    GivenSlots(u64, GivenEntries),
}

/// Messages are the same if they say the same of one subject or one move: an entry is given once.
impl PartialEq for PeerMessage {
    fn eq(&self, other: &Self) -> bool {
        use PeerMessage::{GiveNow, Given, GivenSlots, Ready};
        match (self, other) {
            (Ready(one), Ready(other))
            | (GiveNow(one), GiveNow(other))
            | (Given(one, _), Given(other, _)) => one == other,
            (GivenSlots(one, _), GivenSlots(other, _)) => one == other,
            _ => false,
        }
    }
}

impl Eq for PeerMessage {}

/// An entry on its way.
#[derive(Debug)]
pub struct Handover {
    entry: Entry,
    /// It was live; not confirmed, interrupted or refused meanwhile.
    was_live: bool,
    /// Something may be missing.
    broken: bool,
}

/// Whether a link sends services' commands about a subject to the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// As the topology says: it never moved here or away.
    AsPlaced,
    /// It does.
    Yes,
    /// Another one does.
    No,
    /// It will, behind the hand-over.
    Later,
}

/// A subject that this link gives away.
#[derive(Debug)]
struct Leaving {
    to: LinkId,
    marker: Arc<str>,
    /// This is the link that the subject's name chooses.
    is_home: bool,
    /// The marker is requested.
    is_asked: bool,
}

/// A subject that this link takes.
#[derive(Debug)]
struct Joining {
    from: LinkId,
    marker: Arc<str>,
    /// The subject and the marker, on this link.
    subscribed: [Subscribed; 2],
    is_giver_ready: bool,
    is_marked: bool,
    /// The marker was read.
    is_past_marker: bool,
    /// It cannot be taken without a gap.
    is_broken: bool,
    /// The giver has given; `Some(None)`: nothing.
    given: Option<Option<Box<Handover>>>,
    held: Vec<Held>,
    held_bytes: usize,
    /// How many of what is held are events.
    held_events: usize,
    /// When it counts as broken.
    deadline_ms: u64,
}

/// What the giver of a move sent before this link knew that it takes.
#[derive(Debug, Default)]
struct Early {
    is_giver_ready: bool,
    given: Option<Option<Box<Handover>>>,
}

/// What Redis said of a subscription that a move asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subscribed {
    No,
    Asked,
    Yes,
}

/// What came for a subject before it was handed over.
#[derive(Debug)]
enum Held {
    Message(Box<[u8]>),
    Oversized(usize),
    Want(ShardId),
    Unwant(ShardId),
    Refresh(ShardId),
    CatchUp(ShardId, LoggedOffset),
    Event(ShardSet, BrokerEvent),
}

/// The moves of one link.
#[derive(Debug, Default)]
pub(super) struct Moves {
    leaving: HashMap<Subject, Leaving>,
    joining: HashMap<Subject, Joining>,
    /// Of moves to this link that it does not know yet: at most one for each subject on its way.
    early: HashMap<Subject, Early>,
    /// When which move to this link counts as broken.
    deadlines: BTreeSet<(u64, Subject)>,
    /// Subjects by the markers of their moves.
    markers: HashMap<Arc<str>, Subject>,
    /// Whether a subject that moved is on this link: no entry for what is as the topology placed it.
    placed: HashMap<Subject, bool>,
    /// Subscriptions that this link has ended and Redis has not confirmed as ended.
    ending: HashMap<Subject, u32>,
}

impl Moves {
    /// A subject is on this link from now on, or is not; `as_placed`: that is where its name places it.
    fn place(&mut self, subject: &Subject, as_placed: bool, is_here: bool) {
        match as_placed {
            true => self.placed.remove(subject),
            false => self.placed.insert(subject.clone(), is_here),
        };
    }

    /// When the next move counts as broken.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }
}

impl Hub {
    /// This link gives a subject away.
    pub(super) fn give(&mut self, Move { subject, home, from, to, marker }: Move) {
        let is_home = from == home;
        if !self.entries.contains_key(&subject) {
            self.moves.place(&subject, !is_home, false);
            return self.send_to_peer(to, PeerMessage::Given(subject, None));
        }
        self.moves.markers.insert(marker.clone(), subject.clone());
        self.moves.leaving.insert(subject.clone(), Leaving { to, marker, is_home, is_asked: false });
        self.advance_leaving(&subject);
    }

    /// This link takes a subject.
    pub(super) fn take(&mut self, now_ms: u64, Move { subject, home, from, to, marker }: Move) {
        let Early { is_giver_ready, given } = self.moves.early.remove(&subject).unwrap_or_default();
        let deadline_ms = now_ms + TIMEOUT_MS;
        let joining = Joining {
            from,
            marker: marker.clone(),
            subscribed: [Subscribed::Asked; 2],
            is_giver_ready,
            is_marked: false,
            is_past_marker: false,
            is_broken: false,
            given,
            held: Vec::new(),
            held_bytes: 0,
            held_events: 0,
            deadline_ms,
        };
        self.moves.deadlines.insert((deadline_ms, subject.clone()));
        self.moves.markers.insert(marker.clone(), subject.clone());
        self.moves.place(&subject, to == home, true);
        self.moves.joining.insert(subject.clone(), joining);
        // Behind a break nothing is subscribed before the barrier opens: what moves then is given as broken.
        if self.link_up && self.barrier.is_open() {
            let both = vec![subject, Subject::channel(marker)];
            self.outputs.push_back(HubOutput::Link(LinkCommand::Subscribe(both)));
        } else if let Some(joining) = self.moves.joining.get_mut(&subject) {
            joining.subscribed = [Subscribed::No; 2];
            self.joining_fails(&subject);
            self.advance_joining(now_ms, &subject);
        }
    }

    /// Breaks the moves that take too long, say because Redis refuses to publish their markers.
    pub(super) fn end_late_moves(&mut self, now_ms: u64) {
        while let Some((at, subject)) = self.moves.deadlines.pop_first() {
            if at > now_ms {
                self.moves.deadlines.insert((at, subject));
                return;
            }
            self.joining_fails(&subject);
            self.advance_joining(now_ms, &subject);
        }
    }

    /// The other link of a move says something.
    pub(super) fn peer(&mut self, now_ms: u64, message: PeerMessage) {
        match message {
            PeerMessage::Ready(subject) => {
                if let Some(joining) = self.moves.joining.get_mut(&subject) {
                    joining.is_giver_ready = true;
                    self.advance_joining(now_ms, &subject);
                } else {
                    self.moves.early.entry(subject).or_default().is_giver_ready = true;
                }
            }
            PeerMessage::GiveNow(subject) => self.hand_over(&subject, true),
            PeerMessage::Given(subject, handover) => {
                if let Some(joining) = self.moves.joining.get_mut(&subject) {
                    joining.given = Some(handover);
                    self.advance_joining(now_ms, &subject);
                } else {
                    self.moves.early.entry(subject).or_default().given = Some(handover);
                }
            }
            PeerMessage::GivenSlots(number, given) => self.slots_given(now_ms, number, given),
        }
    }

    /// Whether this link delivers service commands about a subject.
    pub fn carries(&self, subject: &Subject) -> Carries {
        match (self.moves.joining.get(subject), self.moves.placed.get(subject)) {
            (Some(joining), _) if joining.is_past_marker || joining.given.is_some() => Carries::Later,
            (Some(_), _) => Carries::No,
            (None, Some(true)) => Carries::Yes,
            (None, Some(false)) => Carries::No,
            (None, None) => Carries::AsPlaced,
        }
    }

    /// Sends shards an event about a subject behind what is held of it. `false`: it can be sent at once, and was not sent:
    /// nothing is held, or the move is broken, so that its order with the channel's events is void.
    pub fn send_behind(&mut self, subject: &Subject, shards: ShardSet, event: BrokerEvent) -> bool {
        let Some(joining) = self.moves.joining.get_mut(subject) else { return false };
        if joining.held_events >= MAX_HELD_EVENTS {
            self.joining_fails(subject);
        }
        let Some(joining) = self.moves.joining.get_mut(subject).filter(|joining| !joining.is_broken) else {
            return false;
        };
        joining.held_events += 1;
        joining.held.push(Held::Event(shards, event));
        true
    }

    /// Holds a command about a subject that is being taken. Returns whether it did.
    pub(super) fn holds_want(&mut self, shard: ShardId, subject: &Subject) -> bool {
        self.hold(subject, Held::Want(shard))
    }

    /// As [`Hub::holds_want`]. A shard's want that is held ends with it, so that of each shard at most an unwant, a want and
    /// a refresh are held.
    pub(super) fn holds_unwant(&mut self, shard: ShardId, subject: &Subject) -> bool {
        let joining = self.moves.joining.get_mut(subject);
        let is_want = |held: &Held| matches!(held, Held::Want(by) if *by == shard);
        if let Some(joining) = joining
            && let Some(at) = joining.held.iter().rposition(is_want)
        {
            joining.held.remove(at);
            self.release(shard, subject);
            return true;
        }
        self.hold(subject, Held::Unwant(shard))
    }

    /// As [`Hub::holds_want`].
    pub(super) fn holds_refresh(&mut self, shard: ShardId, subject: &Subject) -> bool {
        let is_same = |held: &Held| matches!(held, Held::Refresh(by) if *by == shard);
        let joining = self.moves.joining.get(subject);
        joining.is_some_and(|joining| joining.held.iter().any(is_same))
            || self.hold(subject, Held::Refresh(shard))
    }

    /// As [`Hub::holds_want`]; of each shard one, for all that it needs.
    pub(super) fn holds_catch_up(&mut self, shard: ShardId, channel: &Arc<str>, after: LoggedOffset) -> bool {
        if self.moves.joining.is_empty() {
            return false;
        }
        let subject = Subject::channel(channel.clone());
        let held = self.moves.joining.get_mut(&subject).into_iter().flat_map(|joining| &mut joining.held);
        for held in held {
            if let Held::CatchUp(by, from) = held
                && *by == shard
            {
                *from = (*from).min(after);
                return true;
            }
        }
        self.hold(&subject, Held::CatchUp(shard, after))
    }

    fn hold(&mut self, subject: &Subject, held: Held) -> bool {
        if self.moves.joining.is_empty() {
            return false;
        }
        let Some(joining) = self.moves.joining.get_mut(subject) else { return false };
        joining.held.push(held);
        true
    }

    /// A message on a channel that has no entry: a marker, or of a subject that is being taken.
    pub(super) fn message_of_a_move(&mut self, now_ms: u64, channel: &str, content: Content<'_>) {
        if self.moves.markers.is_empty() {
            return;
        }
        if let Some(subject) = self.moves.markers.get(channel).cloned() {
            if let Some(joining) = self.moves.joining.get_mut(&subject)
                && *joining.marker == *channel
            {
                joining.is_past_marker = true;
                return self.advance_joining(now_ms, &subject);
            }
            return self.hand_over(&subject, false);
        }
        let Some(joining) = self.moves.joining.get_mut(&Subject::channel(channel)) else { return };
        if !joining.is_past_marker || joining.is_broken {
            return;
        }
        let held = match content {
            Content::Whole(payload) => Held::Message(payload.into()),
            Content::Oversized(bytes) => Held::Oversized(bytes),
        };
        joining.held_bytes += OVERHEAD + if let Held::Message(payload) = &held { payload.len() } else { 0 };
        if joining.held_bytes > MAX_HELD_BYTES {
            self.joining_fails(&Subject::channel(channel));
            self.advance_joining(now_ms, &Subject::channel(channel));
        } else {
            joining.held.push(held);
        }
    }

    /// Redis confirmed a subscription that a move asked for. Returns whether it was one.
    pub(super) fn move_subscribed(&mut self, now_ms: u64, subject: &Subject) -> bool {
        if let Some(of) = self.moves.markers.get(&subject.name).cloned() {
            if let Some(joining) = self.moves.joining.get_mut(&of)
                && joining.marker == subject.name
            {
                joining.subscribed[1] = Subscribed::Yes;
                self.advance_joining(now_ms, &of);
            } else if let Some(leaving) = self.moves.leaving.get(&of) {
                self.send_to_peer(leaving.to, PeerMessage::Ready(of));
            }
            return true;
        }
        // The marker of a move that ended meanwhile.
        if self.moves.ending.contains_key(subject) && self.settings.reserved.holds(&subject.name) {
            return true;
        }
        let Some(joining) = self.moves.joining.get_mut(subject) else { return false };
        joining.subscribed[0] = Subscribed::Yes;
        self.advance_joining(now_ms, &subject.clone());
        true
    }

    /// Redis ended a subscription. Returns whether that concerns moves alone.
    pub(super) fn move_unsubscribed(&mut self, now_ms: u64, subject: &Subject) -> bool {
        if let Some(count) = self.moves.ending.get_mut(subject) {
            *count -= 1;
            if *count == 0 {
                self.moves.ending.remove(subject);
            }
            return true;
        }
        let Some(joining) = self.moves.joining.get_mut(subject) else { return false };
        joining.subscribed[0] = Subscribed::No;
        self.joining_fails(subject);
        self.advance_joining(now_ms, subject);
        true
    }

    /// Redis refused a subscription. Returns whether a move asked for it.
    pub(super) fn move_refused(&mut self, now_ms: u64, subject: &Subject) -> bool {
        let of = self.moves.markers.get(&subject.name).cloned();
        let of = of.or_else(|| self.moves.joining.contains_key(subject).then(|| subject.clone()));
        let Some(of) = of else { return false };
        if let Some(joining) = self.moves.joining.get_mut(&of) {
            let subscribed = &mut joining.subscribed[usize::from(of != *subject)];
            // A marker that is subscribed already was refused as a publication, and is to be unsubscribed.
            if *subscribed == Subscribed::Asked {
                *subscribed = Subscribed::No;
            }
            self.joining_fails(&of);
            self.advance_joining(now_ms, &of);
        } else {
            self.hand_over(&of, true);
        }
        true
    }

    /// The link is gone, and with it every subscription of every move.
    pub(super) fn moves_break(&mut self, now_ms: u64) {
        self.moves.ending.clear();
        let mut leaving: Vec<Subject> = self.moves.leaving.keys().cloned().collect();
        leaving.sort_unstable();
        leaving.iter().for_each(|subject| self.hand_over(subject, true));
        let mut joining: Vec<Subject> = self.moves.joining.keys().cloned().collect();
        joining.sort_unstable();
        for subject in joining {
            if let Some(joining) = self.moves.joining.get_mut(&subject) {
                joining.subscribed = [Subscribed::No; 2];
                self.joining_fails(&subject);
                self.advance_joining(now_ms, &subject);
            }
        }
    }

    /// An entry that is to be given is live, or will not be: goes on with its move.
    pub(super) fn advance_leaving(&mut self, subject: &Subject) {
        let Some(leaving) = self.moves.leaving.get_mut(subject) else { return };
        match self.entries.get(subject).map(|entry| entry.state) {
            Some(State::Live) if leaving.is_asked => {}
            Some(State::Live) => {
                leaving.is_asked = true;
                let marker = Subject::channel(leaving.marker.clone());
                self.outputs.push_back(HubOutput::Link(LinkCommand::Subscribe(vec![marker])));
            }
            // Its answer is to come first.
            Some(State::Asked | State::Loading | State::Ending) => {}
            Some(State::Waiting) if self.link_up && self.barrier.is_open() => {}
            Some(State::Waiting) => self.hand_over(subject, true),
            None => self.hand_over(subject, true),
        }
    }

    /// Gives an entry away as it is.
    fn hand_over(&mut self, subject: &Subject, broken: bool) {
        let Some(Leaving { to, marker, is_home, is_asked }) = self.moves.leaving.remove(subject) else {
            return;
        };
        self.moves.markers.remove(&marker);
        self.moves.place(subject, !is_home, false);
        let mut ended = Vec::new();
        if is_asked {
            ended.push(Subject::channel(marker));
        }
        let handover = self.take_out(subject, broken, &mut ended);
        self.end_for_move(ended);
        self.send_to_peer(to, PeerMessage::Given(subject.clone(), handover));
    }

    /// Takes an entry out, to be given. Adds it to `ended` if it is subscribed.
    pub(super) fn take_out(
        &mut self,
        subject: &Subject,
        broken: bool,
        ended: &mut Vec<Subject>,
    ) -> Option<Box<Handover>> {
        let (_, mut entry) = self.entries.remove_entry(subject)?;
        let mut broken = broken || entry.broken;
        if let Some(log) = entry.source.log_mut() {
            // What is held follows nothing on another link.
            broken |= log.is_reading();
            log.link_broke();
        }
        if !matches!(entry.state, State::Waiting) {
            ended.push(subject.clone());
        }
        self.live -= usize::from(entry.state == State::Live);
        self.interrupted -= usize::from(entry.broken);
        if let Some(table) = entry.source.table() {
            uncount(&mut self.stats, table);
            self.sweeps.remove(&(table.sweep_at_ms, subject.name.clone()));
            self.retries.remove(&(table.read_at_ms, subject.name.clone()));
        }
        let was_live = entry.state == State::Live;
        Some(Box::new(Handover { entry, was_live, broken }))
    }

    pub(super) fn end_for_move(&mut self, subjects: Vec<Subject>) {
        if !self.link_up || subjects.is_empty() {
            return;
        }
        for subject in &subjects {
            *self.moves.ending.entry(subject.clone()).or_default() += 1;
        }
        self.outputs.push_back(HubOutput::Link(LinkCommand::Unsubscribe(subjects)));
    }

    /// The subject cannot be taken without a gap: nothing is waited for any more.
    fn joining_fails(&mut self, subject: &Subject) {
        let Some(joining) = self.moves.joining.get_mut(subject) else { return };
        if std::mem::replace(&mut joining.is_broken, true) {
            return;
        }
        joining.held.retain(|held| !matches!(held, Held::Message(_) | Held::Oversized(_)));
        joining.held_events = 0;
        for event in joining.held.extract_if(.., |held| matches!(held, Held::Event(..))) {
            if let Held::Event(shards, event) = event {
                self.outputs.push_back(HubOutput::Shards(shards, event));
            }
        }
        if joining.given.is_none() {
            let from = joining.from;
            self.send_to_peer(from, PeerMessage::GiveNow(subject.clone()));
        }
    }

    fn advance_joining(&mut self, now_ms: u64, subject: &Subject) {
        let Some(joining) = self.moves.joining.get_mut(subject) else { return };
        if joining.subscribed == [Subscribed::Yes; 2]
            && joining.is_giver_ready
            && !joining.is_marked
            && !joining.is_broken
        {
            joining.is_marked = true;
            self.outputs.push_back(HubOutput::Link(LinkCommand::Mark(joining.marker.clone())));
            return;
        }
        let gives_broken = match &joining.given {
            None => return,
            Some(given) => given.as_ref().is_none_or(|handover| handover.broken),
        };
        // An answer that is still to come would be taken for the answer to a later subscription.
        if joining.subscribed.contains(&Subscribed::Asked) {
            return;
        }
        // What was given whole waits for the marker; what was not does not.
        if joining.is_past_marker || joining.is_broken || gives_broken {
            self.take_over(now_ms, subject);
        }
    }

    /// Both links are done: the entry is this link's.
    fn take_over(&mut self, now_ms: u64, subject: &Subject) {
        let Some(joining) = self.moves.joining.remove(subject) else { return };
        self.moves.markers.remove(&joining.marker);
        self.moves.deadlines.remove(&(joining.deadline_ms, subject.clone()));
        let is_subscribed = joining.subscribed[0] == Subscribed::Yes;
        let mut ended = Vec::new();
        if joining.subscribed[1] == Subscribed::Yes {
            ended.push(Subject::channel(joining.marker.clone()));
        }
        let handover = joining.given.flatten();
        let is_whole = joining.is_past_marker && !joining.is_broken;
        if is_subscribed && handover.is_none() {
            ended.push(subject.clone());
        }
        self.end_for_move(ended);
        if let Some(handover) = handover {
            self.insert_moved(now_ms, subject, *handover, is_subscribed, is_whole);
        }
        for held in joining.held {
            self.carry_out_held(now_ms, subject, held);
        }
        self.outputs.push_back(HubOutput::Moved(subject.clone()));
    }

    fn insert_moved(&mut self, now_ms: u64, subject: &Subject, moved: Handover, live: bool, is_whole: bool) {
        let is_whole = is_whole && moved.was_live && !moved.broken && live;
        if !is_whole && !self.all_shards.is_empty() {
            // A player command may be lost, about anybody who is subscribed or is to be.
            let recover = BrokerEvent::Recover { dropped: true, barrier: None };
            self.outputs.push_back(HubOutput::Shards(self.all_shards, recover));
        }
        self.insert_given(now_ms, subject, moved, live, is_whole);
    }

    /// Puts an entry in that was given; one that is not `is_whole` has a gap.
    pub(super) fn insert_given(
        &mut self,
        now_ms: u64,
        subject: &Subject,
        moved: Handover,
        live: bool,
        is_whole: bool,
    ) {
        let Handover { mut entry, was_live, .. } = moved;
        let shards = entry.shards;
        if was_live && !is_whole && !shards.is_empty() {
            self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Interrupted(subject.clone())));
        }
        entry.broken = !is_whole && (entry.broken || was_live);
        entry.state = if is_whole { State::Live } else { State::Waiting };
        self.live += usize::from(is_whole);
        self.interrupted += usize::from(entry.broken);
        if is_whole && let Some(table) = entry.source.table() {
            count(&mut self.stats, table);
            self.sweeps.insert((table.sweep_at_ms, subject.name.clone()));
        } else if let Source::Table(table) = &mut entry.source {
            table.begin(0);
        }
        if shards.is_empty() {
            self.linger(now_ms, subject, &mut entry);
        }
        let reads = entry.source.is_stored();
        self.entries.insert(subject.clone(), entry);
        match (is_whole, live) {
            (true, _) => self.serve_catch_ups(&subject.name),
            (false, true) if reads => self.load(now_ms, subject),
            (false, true) => self.goes_live(now_ms, subject),
            (false, false) => self.waiting.push_back(subject.clone()),
        }
    }

    fn carry_out_held(&mut self, now_ms: u64, subject: &Subject, held: Held) {
        match held {
            Held::Message(payload) => {
                self.message(now_ms, None, subject.name.as_bytes(), Content::Whole(&payload))
            }
            Held::Oversized(bytes) => {
                self.message(now_ms, None, subject.name.as_bytes(), Content::Oversized(bytes));
            }
            Held::Want(shard) => self.want(shard, subject.clone()),
            Held::Unwant(shard) => self.unwant(now_ms, shard, subject),
            Held::Refresh(shard) => self.refresh(shard, subject),
            Held::CatchUp(shard, after) => self.catch_up(shard, &subject.name, after),
            Held::Event(shards, event) => self.outputs.push_back(HubOutput::Shards(shards, event)),
        }
    }

    fn send_to_peer(&mut self, link: LinkId, message: PeerMessage) {
        self.outputs.push_back(HubOutput::Peer(link, message));
    }
}
