//! What is to be written to the store of presence for this shard's sessions: of each session on each channel the newest
//! state, until the store has it.
//!
//! ```text
//!   set ──▶ waiting ──poll──▶ written, not answered ──taken──▶ gone
//!             ▲  ▲ a newer state waits behind it │
//!             │  └───────────────────────────────┘
//!             └──────── not done, unknown or refused: again after a while
//! ```
//!
//! Invariant: there is an entry only for what the store may not have, and one for each session and channel. So however long
//! Redis is away, no more wait than there are subscriptions now and sessions in the store: who comes and leaves meanwhile
//! leaves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::io::{Outcome, PublishFailure, SessionHash, Ticket};

/// How many members are written in one turn of a shard, so that a node that loses thousands of sessions at once goes on serving
/// the others.
pub(crate) const WRITES_PER_TURN: usize = 256;
/// How many writes may be out.
const MAX_IN_FLIGHT: usize = 512;
/// What failed is written again after this and up to [`SPREAD_MS`] more; each time after twice as long, up to so many times. Why: a
/// part of the store may be away for long, with thousands of members.
const RETRY_MS: u64 = 500;
const MOST_DOUBLINGS: u32 = 2;
/// What Redis refused is written again after this.
const REFUSED_MS: u64 = 5_000;
/// Over this time the shards of all nodes spread what they write when Redis is back.
pub(crate) const SPREAD_MS: u64 = 1_000;

/// A session on a channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) channel: Arc<str>,
    pub(crate) session: SessionHash,
}

/// What is written of a [`Member`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberState {
    pub(crate) player: Arc<str>,
    pub(crate) generation: u64,
    pub(crate) is_present: bool,
    /// Whether the channel's subscribers are notified.
    pub(crate) notify: bool,
}

#[derive(Debug)]
struct Entry {
    /// To be written, and its place in the queue.
    waiting: Option<(MemberState, Place)>,
    /// Written and not answered.
    written: Option<MemberState>,
    /// The store may have the session.
    may_be_stored: bool,
    /// How often in a row it could not be written.
    failures: u32,
}

/// When it is to be written, and how many were queued before.
type Place = (u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: HashMap<Member, Entry>,
    queue: BTreeMap<Place, Member>,
    in_flight: HashMap<Ticket, Member>,
    queued: u64,
    /// Nothing is written before this: Redis has just come back.
    held_until_ms: u64,
    /// In which turn something was written last, and how much.
    turn: (u64, usize),
}

impl Ledger {
    /// From now on this is to be written, at the earliest at `due_ms`.
    pub(crate) fn set(&mut self, member: Member, state: MemberState, due_ms: u64) {
        // Who has just come is not stored, unless another node had the session before; who leaves was.
        let may_be_stored = !state.is_present || state.generation > 1;
        let new = || Entry { waiting: None, written: None, may_be_stored, failures: 0 };
        let entry = self.entries.entry(member.clone()).or_insert_with(new);
        if let Some((_, place)) = entry.waiting.take() {
            self.queue.remove(&place);
        }
        if !state.is_present && !entry.may_be_stored {
            self.entries.remove(&member);
            return;
        }
        self.enqueue(member, state, due_ms);
    }

    /// Says again that a session is present: the store has lost what it had, or may have.
    pub(crate) fn set_again(&mut self, member: Member, state: MemberState, due_ms: u64) {
        match self.entries.get_mut(&member) {
            // What waits says so, or is newer.
            Some(Entry { waiting: Some(_), .. }) => {}
            Some(entry) => {
                entry.may_be_stored = true;
                self.enqueue(member, state, due_ms);
            }
            None => {
                let entry = Entry { waiting: None, written: None, may_be_stored: true, failures: 0 };
                self.entries.insert(member.clone(), entry);
                self.enqueue(member, state, due_ms);
            }
        }
    }

    fn enqueue(&mut self, member: Member, state: MemberState, due_ms: u64) {
        self.queued += 1;
        let place = (due_ms, self.queued);
        if let Some(entry) = self.entries.get_mut(&member) {
            entry.waiting = Some((state, place));
            self.queue.insert(place, member);
        }
    }

    /// The next write of this turn, under this ticket.
    pub(crate) fn poll(
        &mut self,
        now_ms: u64,
        ticket: impl FnOnce() -> Ticket,
    ) -> Option<(Ticket, Member, MemberState)> {
        let is_full = self.in_flight.len() >= MAX_IN_FLIGHT || now_ms < self.held_until_ms;
        let is_first = self.turn.0 != now_ms;
        if is_full || (!is_first && self.turn.1 >= WRITES_PER_TURN) {
            return None;
        }
        let member = loop {
            let (&place, _) = self.queue.first_key_value().filter(|((due_ms, _), _)| *due_ms <= now_ms)?;
            let member = self.queue.remove(&place)?;
            match self.entries.get_mut(&member) {
                // It is queued again when the answer to the one before has come.
                Some(Entry { written: Some(_), .. }) => {}
                Some(_) => break member,
                None => debug_assert!(false, "{member:?} is queued and not known"),
            }
        };
        let entry = self.entries.get_mut(&member)?;
        let (state, _) = entry.waiting.take()?;
        (entry.written, entry.may_be_stored) = (Some(state.clone()), true);
        let ticket = ticket();
        self.in_flight.insert(ticket, member.clone());
        self.turn = (now_ms, if is_first { 1 } else { self.turn.1 + 1 });
        Some((ticket, member, state))
    }

    /// What became of a write; `None`: it was none of these. Returns whose it was.
    pub(crate) fn answered(&mut self, now_ms: u64, ticket: Ticket, outcome: &Outcome) -> Option<Member> {
        let member = self.in_flight.remove(&ticket)?;
        let entry = self.entries.get_mut(&member)?;
        let state = entry.written.take()?;
        let is_done = matches!(outcome, Ok(_) | Err(PublishFailure::TakenOver(_)));
        match (entry.waiting.take(), is_done) {
            (None, true) => drop(self.entries.remove(&member)),
            (None, false) => {
                let after_ms = match outcome {
                    Err(PublishFailure::Refused(_) | PublishFailure::LimitExceeded) => REFUSED_MS,
                    _ => RETRY_MS << entry.failures.min(MOST_DOUBLINGS),
                };
                entry.failures += 1;
                let due_ms = now_ms + after_ms + spread(&member, SPREAD_MS);
                self.enqueue(member.clone(), state, due_ms);
            }
            // A newer one has waited for this answer, and may have lost its place meanwhile.
            (Some((newer, place)), _) => {
                self.queue.remove(&place);
                self.enqueue(member.clone(), newer, place.0);
            }
        }
        Some(member)
    }

    /// Redis is back: what waits is written from now on, not by all shards at the same moment.
    pub(crate) fn hold(&mut self, now_ms: u64) {
        let first = self.queue.first_key_value();
        self.held_until_ms = first.map_or(0, |(_, member)| now_ms + spread(member, SPREAD_MS));
    }

    /// Whether the store may not have the newest state of a member yet.
    pub(crate) fn has(&self, member: &Member) -> bool {
        self.entries.contains_key(member)
    }

    /// When [`Ledger::poll`] has something.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let ((due_ms, _), _) = self.queue.first_key_value()?;
        let after_turn_ms = if self.turn.1 >= WRITES_PER_TURN { self.turn.0 + 1 } else { 0 };
        Some((*due_ms).max(self.held_until_ms).max(after_turn_ms))
    }

    /// How many members wait to be written, or for an answer.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Panics in debug builds if queue, entries and writes do not name each other.
    pub(crate) fn check(&self) {
        for (member, entry) in &self.entries {
            debug_assert!(
                entry.waiting.is_some() || entry.written.is_some(),
                "nothing is to be written of {member:?}"
            );
            if let Some((_, place)) = &entry.waiting {
                let is_queued = self.queue.get(place) == Some(member);
                debug_assert!(is_queued || entry.written.is_some(), "{member:?} waits and is not queued");
            }
        }
        debug_assert!(self.queue.len() <= self.entries.len(), "a queue of more than there is");
        let written = self.entries.values().filter(|entry| entry.written.is_some()).count();
        debug_assert_eq!(written, self.in_flight.len(), "writes of nobody");
    }
}

/// A time below `max_ms` that differs from session to session: their names are random.
pub(crate) fn spread(member: &Member, max_ms: u64) -> u64 {
    (member.session.0 % u128::from(max_ms.max(1))) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn member(session: u128) -> Member {
        Member { channel: "room:1".into(), session: SessionHash(session) }
    }

    fn state(is_present: bool, generation: u64) -> MemberState {
        MemberState { player: "alice".into(), generation, is_present, notify: false }
    }

    /// What is written at this time: of whom, and whether they are present.
    fn poll(ledger: &mut Ledger, now_ms: u64) -> Vec<(Ticket, u128, bool)> {
        let mut polled = Vec::new();
        loop {
            let number = now_ms * 1_000 + polled.len() as u64;
            let next = ledger.poll(now_ms, || Ticket(number));
            ledger.check();
            let Some((ticket, member, state)) = next else { return polled };
            polled.push((ticket, member.session.0, state.is_present));
        }
    }

    #[test]
    fn who_comes_and_leaves_while_nothing_is_written_leaves_nothing() {
        let mut ledger = Ledger::default();
        ledger.set(member(1), state(true, 1), 0);
        ledger.set(member(1), state(false, 1), 0);
        assert_eq!((ledger.len(), poll(&mut ledger, 1)), (0, vec![]));
        // Of a session that another node had the store knows.
        ledger.set(member(2), state(true, 2), 0);
        ledger.set(member(2), state(false, 2), 0);
        // As of one that was present before.
        ledger.set(member(3), state(false, 1), 0);
        ledger.set(member(3), state(true, 1), 0);
        ledger.set(member(3), state(false, 1), 0);
        let polled: Vec<_> = poll(&mut ledger, 1).into_iter().map(|(_, who, there)| (who, there)).collect();
        assert_eq!(polled, [(2, false), (3, false)]);
    }

    #[test]
    fn the_newest_state_waits_for_the_answer_to_the_one_before() {
        let mut ledger = Ledger::default();
        ledger.set(member(1), state(true, 1), 0);
        let (ticket, ..) = poll(&mut ledger, 1)[0];
        ledger.set(member(1), state(false, 1), 2);
        ledger.set(member(1), state(true, 1), 2);
        ledger.set(member(1), state(false, 1), 2);
        assert_eq!(poll(&mut ledger, 3), []);
        assert_eq!(ledger.answered(3, ticket, &Ok(None)), Some(member(1)));
        let polled = poll(&mut ledger, 4);
        assert_eq!((polled.len(), polled[0].2), (1, false));
        ledger.answered(4, polled[0].0, &Ok(None)).unwrap();
        assert!(!ledger.has(&member(1)));
        assert_eq!(ledger.next_deadline_ms(), None);
    }

    #[test]
    fn what_failed_is_written_again_and_what_is_newer_instead_of_it() {
        let mut ledger = Ledger::default();
        for failure in
            [PublishFailure::NotDone, PublishFailure::Unknown, PublishFailure::Refused("OOM".into())]
        {
            let mut now_ms = ledger.turn.0 + 1;
            ledger.set(member(7), state(true, 1), now_ms);
            let (ticket, ..) = poll(&mut ledger, now_ms)[0];
            ledger.answered(now_ms, ticket, &Err(failure)).unwrap();
            assert_eq!(poll(&mut ledger, now_ms + 1), []);
            now_ms = ledger.next_deadline_ms().unwrap();
            let polled = poll(&mut ledger, now_ms);
            assert_eq!(polled.len(), 1);
            ledger.set(member(7), state(false, 1), now_ms);
            ledger.answered(now_ms, polled[0].0, &Err(PublishFailure::Unknown)).unwrap();
            let polled = poll(&mut ledger, now_ms + 1);
            assert!(!polled[0].2, "the newer one");
            ledger.answered(now_ms + 1, polled[0].0, &Ok(None)).unwrap();
            assert_eq!(ledger.len(), 0);
        }
    }

    #[test]
    fn a_turn_writes_so_many_and_so_many_are_out() {
        let mut ledger = Ledger::default();
        (0..2_000).for_each(|n| ledger.set(member(n), state(true, 1), 0));
        let first = poll(&mut ledger, 1);
        assert_eq!((first.len(), ledger.next_deadline_ms()), (WRITES_PER_TURN, Some(2)));
        let second = poll(&mut ledger, 2);
        assert_eq!((second.len(), ledger.next_deadline_ms()), (WRITES_PER_TURN, None));
        assert_eq!(poll(&mut ledger, 3).len(), 0, "{MAX_IN_FLIGHT} are out");
        for (ticket, ..) in first.into_iter().chain(second) {
            ledger.answered(3, ticket, &Ok(None)).unwrap();
        }
        assert_eq!((poll(&mut ledger, 4).len(), ledger.len()), (WRITES_PER_TURN, 2_000 - MAX_IN_FLIGHT));
    }

    #[test]
    fn nothing_is_written_while_redis_is_just_back() {
        let mut ledger = Ledger::default();
        ledger.set(member(700), state(true, 1), 0);
        ledger.hold(10_000);
        assert_eq!((poll(&mut ledger, 10_699).len(), ledger.next_deadline_ms()), (0, Some(10_700)));
        assert_eq!(poll(&mut ledger, 10_700).len(), 1);
    }
}
