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
//! The giver's half is in [`leaving`], the taker's in [`joining`], what waits for the entry in [`waiting`]; here is what both are sent, and what
//! Redis answers.
//!
//! Invariant: of the two links exactly one delivers a publication of a moving subject, or its subscribers are notified of a gap.

mod joining;
mod leaving;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;

use super::dedup::Content;
use super::hub::{Entry, Hub};
use super::io::HubOutput;
use super::slot_moves::GivenEntries;
use super::topology::LinkId;
use crate::io::Subject;
use waiting::Held;

/// How much the taker holds, in bytes; beyond that the move counts as a break.
const MAX_HELD_BYTES: usize = 1 << 20;
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

    fn send_to_peer(&mut self, link: LinkId, message: PeerMessage) {
        self.outputs.push_back(HubOutput::Peer(link, message));
    }
}
