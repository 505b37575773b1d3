//! Slots of a Cluster that get another master: what a link has of them goes to the link of that master, all at once. The two
//! masters have no common order, so there is no place at which both streams could be cut, as [`super::moves`] does it: the
//! entries are given as broken, and nothing else of either link is touched.
//!
//! ```text
//!            the link that gives                               the link that takes
//!   give ──▶ takes its entries out, unsubscribes               holds commands about these slots   ◀── take
//!            └──────────────given: the entries───────────────▶ their subscribers are notified of a break
//!                                                              every shard reads its players' view overrides again
//!                                                              carries out what it held, subscribes
//! ```
//!
//! Why the view overrides: a player command between the two links may be lost, and nothing is shown before they are known.
//!
//! Also here: what Redis cannot subscribe to just now, because the slot is on its way, is deferred and requested again.
//!
//! Invariant: an entry is at one link at any time, or on its way to one that holds every command about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::due::pop_due;
use super::held_commands::{Command, Held, HeldCommands};
use super::hub::{Hub, State};
use super::io::{HubInput, HubOutput};
use super::moves::{Handover, PeerMessage};
use super::slots::SlotSet;
use super::topology::LinkId;
use crate::io::Subject;

/// How long a subscription that Redis cannot begin just now waits until it is requested again, in milliseconds.
const DEFER_MS: u64 = 100;

/// Slots that go from one link to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMove {
    /// Names it; unique in its node.
    pub number: u64,
    /// The link that gives them away.
    pub from: LinkId,
    /// The link that takes them.
    pub to: LinkId,
    /// Which slots.
    pub slots: Arc<SlotSet>,
}

/// What a link had of the slots that it gives.
pub type GivenEntries = Vec<(Subject, Box<Handover>)>;

/// The moves of slots of one link.
#[derive(Debug, Default)]
pub(super) struct SlotMoves {
    /// Slots that this link takes and has not been given, by the moves' numbers.
    joining: BTreeMap<u64, Arc<SlotSet>>,
    /// What was given before this link knew that it takes.
    early: BTreeMap<u64, GivenEntries>,
    held: HeldCommands,
    /// When which subject is requested again.
    deferred: BTreeSet<(u64, Subject)>,
}

impl SlotMoves {
    /// The newest move to this link, if there is one that is not over, with slots that concern a command.
    fn newest_that(&self, concerns: impl Fn(&SlotSet) -> bool) -> Option<u64> {
        self.joining.iter().rev().find(|(_, slots)| concerns(slots)).map(|(number, _)| *number)
    }

    /// Takes out the commands that these slots, which have been given, concern and that wait for no other move.
    fn take_due(&mut self, slots: &SlotSet) -> Vec<Held> {
        let SlotMoves { joining, held, .. } = self;
        held.take_due(slots, |slot, Held { behind, command }| {
            joining.range(..=*behind).any(|(_, joining)| match (slot, command) {
                (_, Command::Give(moved)) => joining.intersects(&moved.slots),
                (Some(slot), _) => joining.contains(slot),
                (None, _) => false,
            })
        })
    }

    /// How many commands are held, and how many subscriptions are requested again, because their slots are on their way or no
    /// master has them.
    pub(super) fn waiting(&self) -> usize {
        self.held.len() + self.deferred.len()
    }

    /// When the next subject is requested again.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.deferred.first().map(|(at, _)| *at)
    }

    /// The link is gone: everything is requested again when it is back.
    pub(super) fn link_broke(&mut self) {
        self.deferred.clear();
    }
}

impl Hub {
    /// Holds an input about slots that are not given yet; `None`: it is held.
    pub(super) fn unless_held<'i>(&mut self, input: HubInput<'i>) -> Option<HubInput<'i>> {
        if self.slot_moves.joining.is_empty() {
            return Some(input);
        }
        let behind = match &input {
            HubInput::Want { subject, .. } => self.held_behind(&subject.name),
            HubInput::Unwant { subject, .. } | HubInput::Refresh { subject, .. } => {
                self.held_behind(&subject.name)
            }
            HubInput::CatchUp { channel, .. } => self.held_behind(channel),
            HubInput::GiveSlots(moved) => self.slot_moves.newest_that(|slots| slots.intersects(&moved.slots)),
            _ => None,
        };
        let Some(behind) = behind else { return Some(input) };
        let command = match input {
            HubInput::Want { shard, subject } => Command::Want(shard, subject),
            HubInput::Unwant { shard, subject } => {
                // A want that is held ends with its unwant.
                if self.slot_moves.held.withdraw_want(behind, shard, subject) {
                    self.release(shard, subject);
                    return None;
                }
                Command::Unwant(shard, subject.clone())
            }
            HubInput::Refresh { shard, subject } => Command::Refresh(shard, subject.clone()),
            HubInput::CatchUp { shard, channel, after } => Command::CatchUp(shard, channel.clone(), after),
            HubInput::GiveSlots(moved) => Command::Give(moved),
            input => return Some(input),
        };
        let slot = match &command {
            Command::Want(_, Subject { name, .. })
            | Command::Unwant(_, Subject { name, .. })
            | Command::Refresh(_, Subject { name, .. })
            | Command::CatchUp(_, name, _) => self.slot_of(name),
            Command::Give(_) => None,
        };
        self.slot_moves.held.add(slot, Held { behind, command });
        None
    }

    /// The newest move that commands about a channel wait for.
    fn held_behind(&self, channel: &str) -> Option<u64> {
        let slot = self.slot_of(channel)?;
        self.slot_moves.newest_that(|slots| slots.contains(slot))
    }

    /// The slot of a channel; `None` for the nodes' own, which never move.
    fn slot_of(&self, channel: &str) -> Option<u16> {
        (!self.settings.reserved.holds(channel)).then(|| self.settings.slots.slot_of(channel))
    }

    /// This link gives slots away, with all that it has of them.
    pub(super) fn give_slots(&mut self, SlotMove { number, to, slots, .. }: SlotMove) {
        let is_given =
            |subject: &&Subject| self.slot_of(&subject.name).is_some_and(|slot| slots.contains(slot));
        let mut subjects: Vec<Subject> = self.entries.keys().filter(is_given).cloned().collect();
        subjects.sort_unstable();
        let (mut given, mut ended) = (Vec::with_capacity(subjects.len()), Vec::new());
        for subject in subjects {
            if let Some(handover) = self.take_out(&subject, true, &mut ended) {
                given.push((subject, handover));
            }
        }
        self.end_for_move(ended);
        self.outputs.push_back(HubOutput::Peer(to, PeerMessage::GivenSlots(number, given)));
    }

    /// This link takes slots.
    pub(super) fn take_slots(&mut self, now_ms: u64, SlotMove { number, slots, .. }: SlotMove) {
        self.slot_moves.joining.insert(number, slots);
        if let Some(given) = self.slot_moves.early.remove(&number) {
            self.slots_given(now_ms, number, given);
        }
    }

    /// The other link of a move of slots has given.
    pub(super) fn slots_given(&mut self, now_ms: u64, number: u64, given: GivenEntries) {
        let Some(slots) = self.slot_moves.joining.remove(&number) else {
            self.slot_moves.early.insert(number, given);
            return;
        };
        if !given.is_empty() {
            self.views_are_stale();
        }
        self.stats.moved += given.len() as u64;
        for (subject, handover) in given {
            self.insert_given(now_ms, &subject, *handover, false, false);
        }
        for held in self.slot_moves.take_due(&slots) {
            self.carry_out_of_slots(now_ms, &held.command);
        }
    }

    /// Carries out what was held.
    fn carry_out_of_slots(&mut self, now_ms: u64, command: &Command) {
        let input = match command {
            Command::Want(shard, subject) => HubInput::Want { shard: *shard, subject: subject.clone() },
            Command::Unwant(shard, subject) => HubInput::Unwant { shard: *shard, subject },
            Command::Refresh(shard, subject) => HubInput::Refresh { shard: *shard, subject },
            Command::CatchUp(shard, channel, after) => {
                HubInput::CatchUp { shard: *shard, channel, after: *after }
            }
            Command::Give(moved) => HubInput::GiveSlots(moved.clone()),
        };
        self.take_in(now_ms, input);
    }

    /// Player commands may have been missed: nothing that waits is subscribed before every shard has read its players' view
    /// overrides again.
    fn views_are_stale(&mut self) {
        self.barrier.close();
        if self.is_listening() {
            self.begin_listening(false);
        }
    }

    /// Redis cannot begin a subscription just now, because its slot is on its way: it is requested again soon.
    pub(super) fn deferred(&mut self, now_ms: u64, subject: &Subject) {
        self.asked = self.asked.saturating_sub(1);
        let Some(entry) = self.entries.get_mut(subject).filter(|entry| entry.state == State::Asked) else {
            return;
        };
        entry.state = State::Waiting;
        self.slot_moves.deferred.insert((now_ms + DEFER_MS, subject.clone()));
    }

    pub(super) fn end_deferring(&mut self, now_ms: u64) {
        while let Some((_, subject)) = pop_due(&mut self.slot_moves.deferred, now_ms) {
            if self.entries.get(&subject).is_some_and(|entry| entry.state == State::Waiting) {
                self.waiting.push_back(subject);
            }
        }
    }
}
