//! Commands that came for slots before these were given to the link ([`super::slot_moves`]): in the order of their coming, found by
//! their slots and by what they are about, so that what many channels wait for costs each of them no more.
//!
//! Invariant: of each shard and subject at most an unwant, a want, a refresh and what it catches up on are held behind one move.
//! Between what is held behind two moves the slots are away, and commands about them are at another link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use super::shards::ShardId;
use super::slot_moves::SlotMove;
use super::slots::SlotSet;
use crate::io::{LoggedOffset, Subject};

/// What came for slots before they were given.
#[derive(Debug)]
pub(super) enum Command {
    Want(ShardId, Subject),
    Unwant(ShardId, Subject),
    Refresh(ShardId, Subject),
    CatchUp(ShardId, Arc<str>, LoggedOffset),
    Give(SlotMove),
}

/// What is held once at most behind one move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Once {
    Want,
    Refresh,
    CatchUp,
}

/// Names such a command: behind which move, what, of which shard, about what.
type Key = (u64, Once, ShardId, Arc<str>);

/// A command that is held until this move, and all before it that concern it, are over. Moves behind it do not concern it: one of
/// them may wait for it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) behind: u64,
    pub(super) command: Command,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HeldCommands {
    came: u64,
    /// By the number of their coming, with the slot that each is about; `None`: it gives several.
    held: BTreeMap<u64, (Option<u16>, Held)>,
    by_slot: HashMap<u16, BTreeSet<u64>>,
    gives: BTreeSet<u64>,
    by_key: HashMap<Key, u64>,
}

impl Held {
    fn key(&self) -> Option<Key> {
        let (once, shard, name) = match &self.command {
            Command::Want(shard, subject) => (Once::Want, shard, &subject.name),
            Command::Refresh(shard, subject) => (Once::Refresh, shard, &subject.name),
            Command::CatchUp(shard, channel, _) => (Once::CatchUp, shard, channel),
            Command::Unwant(..) | Command::Give(_) => return None,
        };
        Some((self.behind, once, *shard, name.clone()))
    }
}

impl HeldCommands {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Adds a command about this slot; `None`: it gives slots. What is held already of a refresh or of what a shard catches up on
    /// covers the new one.
    pub(super) fn add(&mut self, slot: Option<u16>, held: Held) {
        let key = held.key();
        if let Some(before) = key.as_ref().and_then(|key| self.by_key.get(key)) {
            if let (
                Command::CatchUp(.., after),
                Some((_, Held { command: Command::CatchUp(.., from), .. })),
            ) = (&held.command, self.held.get_mut(before))
            {
                *from = (*from).min(*after);
            }
            return;
        }
        self.came += 1;
        match slot {
            Some(slot) => self.by_slot.entry(slot).or_default().insert(self.came),
            None => self.gives.insert(self.came),
        };
        if let Some(key) = key {
            self.by_key.insert(key, self.came);
        }
        self.held.insert(self.came, (slot, held));
    }

    /// Takes out a want of this shard behind this move, if one is held.
    pub(super) fn withdraw_want(&mut self, behind: u64, shard: ShardId, subject: &Subject) -> bool {
        let number = self.by_key.get(&(behind, Once::Want, shard, subject.name.clone())).copied();
        number.is_some_and(|number| self.take(number).is_some())
    }

    /// Takes out those that these slots concern and that are not `due_later`, in the order of their coming.
    pub(super) fn take_due(
        &mut self,
        slots: &SlotSet,
        due_later: impl Fn(Option<u16>, &Held) -> bool,
    ) -> Vec<Held> {
        let of_slots = slots.iter().filter_map(|slot| self.by_slot.get(&slot)).flatten();
        let concerned: BTreeSet<u64> = of_slots.chain(&self.gives).copied().collect();
        let is_due = |number: &u64| self.held.get(number).is_some_and(|(slot, held)| !due_later(*slot, held));
        let due: Vec<u64> = concerned.into_iter().filter(is_due).collect();
        due.into_iter().filter_map(|number| self.take(number)).collect()
    }

    fn take(&mut self, number: u64) -> Option<Held> {
        let (slot, held) = self.held.remove(&number)?;
        match slot {
            Some(slot) => {
                if let Some(numbers) = self.by_slot.get_mut(&slot) {
                    numbers.remove(&number);
                    if numbers.is_empty() {
                        self.by_slot.remove(&slot);
                    }
                }
            }
            None => drop(self.gives.remove(&number)),
        }
        if let Some(key) = held.key() {
            self.by_key.remove(&key);
        }
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn want(behind: u64, name: &str) -> Held {
        Held { behind, command: Command::Want(SHARD, Subject::channel(name)) }
    }

    fn names(held: Vec<Held>) -> Vec<String> {
        let name = |held: Held| match held.command {
            Command::Want(_, subject) => format!("want {}", subject.name),
            Command::Unwant(_, subject) => format!("unwant {}", subject.name),
            Command::Refresh(_, subject) => format!("refresh {}", subject.name),
            Command::CatchUp(_, channel, after) => format!("catch up {channel} {}", after.0),
            Command::Give(moved) => format!("give {}", moved.number),
        };
        held.into_iter().map(name).collect()
    }

    #[test]
    fn what_is_due_comes_in_order_and_the_rest_stays() {
        let mut held = HeldCommands::default();
        for (slot, name) in [(1, "a"), (2, "b"), (1, "c"), (3, "d")] {
            held.add(Some(slot), want(1, name));
        }
        let slots: SlotSet = [1, 3].into_iter().collect();
        assert_eq!(names(held.take_due(&slots, |slot, _| slot == Some(3))), ["want a", "want c"]);
        assert_eq!(names(held.take_due(&slots, |_, _| false)), ["want d"]);
        assert_eq!((held.len(), held.by_slot.len(), held.by_key.len()), (1, 1, 1));
    }

    #[test]
    fn the_same_is_held_once_behind_each_move() {
        let mut held = HeldCommands::default();
        let catch_up = |behind, after| {
            let command = Command::CatchUp(SHARD, "a".into(), LoggedOffset(after));
            Held { behind, command }
        };
        for (behind, after) in [(1, 5), (1, 3), (1, 4), (2, 9)] {
            held.add(Some(1), catch_up(behind, after));
        }
        for behind in [1, 1, 2] {
            held.add(Some(1), Held { behind, command: Command::Refresh(SHARD, Subject::channel("a")) });
        }
        let all = names(held.take_due(&[1].into_iter().collect(), |_, _| false));
        assert_eq!(all, ["catch up a 3", "catch up a 9", "refresh a", "refresh a"]);
    }

    #[test]
    fn a_want_ends_with_its_unwant() {
        let mut held = HeldCommands::default();
        held.add(Some(1), want(1, "a"));
        let a = Subject::channel("a");
        assert!(!held.withdraw_want(2, SHARD, &a) && !held.withdraw_want(1, ShardId(1), &a));
        assert!(held.withdraw_want(1, SHARD, &a) && !held.withdraw_want(1, SHARD, &a));
        assert_eq!((held.len(), held.by_slot.len(), held.by_key.len()), (0, 0, 0));
    }
}
