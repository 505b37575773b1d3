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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::hub::{Hub, State};
use super::io::{HubInput, HubOutput};
use super::moves::{Handover, PeerMessage};
use super::shards::ShardId;
use super::slots::SlotSet;
use super::topology::LinkId;
use crate::io::{LoggedOffset, Subject};

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

/// What came for slots before they were given.
#[derive(Debug)]
enum Command {
    Want(ShardId, Subject),
    Unwant(ShardId, Subject),
    Refresh(ShardId, Subject),
    CatchUp(ShardId, Arc<str>, LoggedOffset),
    Give(SlotMove),
}

/// A command that is held until this move, and all before it that concern it, are over. Moves behind it do not concern it: one of
/// them may wait for it.
#[derive(Debug)]
struct Held {
    behind: u64,
    command: Command,
}

/// The moves of slots of one link.
#[derive(Debug, Default)]
pub(super) struct SlotMoves {
    /// Slots that this link takes and has not been given, by the moves' numbers.
    joining: BTreeMap<u64, Arc<SlotSet>>,
    /// What was given before this link knew that it takes.
    early: BTreeMap<u64, GivenEntries>,
    /// In the order of their coming.
    held: VecDeque<Held>,
    /// When which subject is requested again.
    deferred: BTreeSet<(u64, Subject)>,
}

impl SlotMoves {
    /// The newest move to this link, if there is one that is not over, with slots that concern a command.
    fn newest_that(&self, concerns: impl Fn(&SlotSet) -> bool) -> Option<u64> {
        self.joining.iter().rev().find(|(_, slots)| concerns(slots)).map(|(number, _)| *number)
    }

    /// Whether a command waits for a move that is not over, up to the one that it is held behind.
    fn is_due_later(&self, behind: u64, concerns: impl Fn(&SlotSet) -> bool) -> bool {
        self.joining.range(..=behind).any(|(_, slots)| concerns(slots))
    }

    /// How many commands are held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
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
        match input {
            HubInput::Want { shard, subject } => self.hold_slots(behind, Command::Want(shard, subject)),
            HubInput::Unwant { shard, subject } => {
                if !self.withdraw_want(behind, shard, subject) {
                    self.hold_slots(behind, Command::Unwant(shard, subject.clone()));
                }
            }
            HubInput::Refresh { shard, subject } => {
                if !self.is_refresh_held(behind, shard, subject) {
                    self.hold_slots(behind, Command::Refresh(shard, subject.clone()));
                }
            }
            HubInput::CatchUp { shard, channel, after } => {
                if !self.joins_catch_up(behind, shard, channel, after) {
                    self.hold_slots(behind, Command::CatchUp(shard, channel.clone(), after));
                }
            }
            HubInput::GiveSlots(moved) => self.hold_slots(behind, Command::Give(moved)),
            input => return Some(input),
        }
        None
    }

    /// The newest move that commands about a channel wait for.
    fn held_behind(&self, channel: &str) -> Option<u64> {
        let slot = self.slot_of(channel)?;
        self.slot_moves.newest_that(|slots| slots.contains(slot))
    }

    fn hold_slots(&mut self, behind: u64, command: Command) {
        self.slot_moves.held.push_back(Held { behind, command });
    }

    /// The slot of a channel; `None` for the nodes' own, which never move.
    fn slot_of(&self, channel: &str) -> Option<u16> {
        (!self.settings.reserved.holds(channel)).then(|| self.settings.slots.slot_of(channel))
    }

    /// A want that is held ends with its unwant, so that of each shard and subject at most an unwant, a want, a refresh and what
    /// it catches up on are held behind one move. Between what is held behind two moves the slots are away, and commands about
    /// them are at another link.
    fn withdraw_want(&mut self, behind: u64, shard: ShardId, subject: &Subject) -> bool {
        let is_want =
            |command: &Command| matches!(command, Command::Want(by, of) if (*by, of) == (shard, subject));
        let mut held = self.slot_moves.held.iter();
        let Some(at) = held.rposition(|held| held.behind == behind && is_want(&held.command)) else {
            return false;
        };
        self.slot_moves.held.remove(at);
        self.release(shard, subject);
        true
    }

    fn is_refresh_held(&self, behind: u64, shard: ShardId, subject: &Subject) -> bool {
        let is_same =
            |command: &Command| matches!(command, Command::Refresh(by, of) if (*by, of) == (shard, subject));
        self.slot_moves.held.iter().any(|held| held.behind == behind && is_same(&held.command))
    }

    /// What a shard catches up on is added to what is held of that.
    fn joins_catch_up(
        &mut self,
        behind: u64,
        shard: ShardId,
        channel: &Arc<str>,
        after: LoggedOffset,
    ) -> bool {
        for held in self.slot_moves.held.iter_mut().filter(|held| held.behind == behind) {
            if let Command::CatchUp(by, of, from) = &mut held.command
                && (*by, &*of) == (shard, channel)
            {
                *from = (*from).min(after);
                return true;
            }
        }
        false
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
        if self.slot_moves.joining.remove(&number).is_none() {
            self.slot_moves.early.insert(number, given);
            return;
        }
        if !given.is_empty() {
            self.views_are_stale();
        }
        self.stats.moved += given.len() as u64;
        for (subject, handover) in given {
            self.insert_given(now_ms, &subject, *handover, false, false);
        }
        for held in std::mem::take(&mut self.slot_moves.held) {
            self.carry_out_of_slots(now_ms, held);
        }
    }

    /// Carries out what was held, or holds it on, where it is about slots that are still to be given.
    fn carry_out_of_slots(&mut self, now_ms: u64, held: Held) {
        let Held { behind, command } = &held;
        let is_due_later = match command {
            Command::Want(_, Subject { name, .. })
            | Command::Unwant(_, Subject { name, .. })
            | Command::Refresh(_, Subject { name, .. })
            | Command::CatchUp(_, name, _) => self
                .slot_of(name)
                .is_some_and(|slot| self.slot_moves.is_due_later(*behind, |slots| slots.contains(slot))),
            Command::Give(moved) => {
                self.slot_moves.is_due_later(*behind, |slots| slots.intersects(&moved.slots))
            }
        };
        if is_due_later {
            return self.slot_moves.held.push_back(held);
        }
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
        while let Some((at, subject)) = self.slot_moves.deferred.pop_first() {
            if at > now_ms {
                self.slot_moves.deferred.insert((at, subject));
                return;
            }
            if self.entries.get(&subject).is_some_and(|entry| entry.state == State::Waiting) {
                self.waiting.push_back(subject);
            }
        }
    }
}
