//! How many connections of one player the node holds, where the configuration bounds it. Shared by the node's shards:
//! used when a player is known and when a connection ends, never for an event. Closing the connection it names is left to the
//! shard that holds the connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use crate::io::SessionId;
use crate::settings::{PlayerConnections, WhenExceeded};
use crate::upstream::ShardId;

/// One connection of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The shard that holds it.
    pub shard: ShardId,
    /// Its name there.
    pub session: SessionId,
}

/// What becomes of a connection whose player is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// There is room.
    Admitted,
    /// There is room once the player's oldest connection is closed.
    InPlaceOf(Holder),
    /// There is none.
    Refused,
}

/// The connections of each player, the oldest first. Holds what the node's connections hold, and no more.
#[derive(Debug)]
pub(crate) struct PlayerSlots {
    rule: PlayerConnections,
    held: Mutex<HashMap<Arc<str>, VecDeque<Holder>>>,
}

impl PlayerSlots {
    pub(crate) fn new(rule: PlayerConnections) -> Self {
        PlayerSlots { rule, held: Mutex::default() }
    }

    /// Counts a connection of this player, unless it is refused. One that is displaced counts no more.
    pub(crate) fn enter(&self, player: &Arc<str>, holder: Holder) -> Admission {
        let mut held = self.lock();
        let theirs = held.entry(player.clone()).or_default();
        let is_full = theirs.len() >= self.rule.max;
        if is_full && self.rule.when_exceeded == WhenExceeded::Refuse {
            return Admission::Refused;
        }
        let oldest = if is_full { theirs.pop_front() } else { None };
        theirs.push_back(holder);
        oldest.map_or(Admission::Admitted, Admission::InPlaceOf)
    }

    /// The connection has ended. Of one that was refused or displaced nothing is left to count.
    pub(crate) fn leave(&self, player: &Arc<str>, holder: Holder) {
        let mut held = self.lock();
        let Some(theirs) = held.get_mut(player) else { return };
        theirs.retain(|other| *other != holder);
        if theirs.is_empty() {
            held.remove(player);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, VecDeque<Holder>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(shard: u8, index: u32) -> Holder {
        Holder { shard: ShardId(shard), session: SessionId { index, generation: 1 } }
    }

    fn slots(max: usize, when_exceeded: WhenExceeded) -> PlayerSlots {
        PlayerSlots::new(PlayerConnections { max, when_exceeded })
    }

    #[test]
    fn the_oldest_makes_room_on_whichever_shard_it_is() {
        let (slots, alice) = (slots(2, WhenExceeded::CloseOldest), Arc::from("alice"));
        assert_eq!(slots.enter(&alice, holder(0, 1)), Admission::Admitted);
        assert_eq!(slots.enter(&alice, holder(1, 1)), Admission::Admitted);
        assert_eq!(slots.enter(&Arc::from("bob"), holder(0, 2)), Admission::Admitted);
        assert_eq!(slots.enter(&alice, holder(0, 3)), Admission::InPlaceOf(holder(0, 1)));
        // Its end, a moment later, frees no second place.
        slots.leave(&alice, holder(0, 1));
        assert_eq!(slots.enter(&alice, holder(0, 4)), Admission::InPlaceOf(holder(1, 1)));
    }

    #[test]
    fn who_is_refused_takes_no_place() {
        let (slots, alice) = (slots(1, WhenExceeded::Refuse), Arc::from("alice"));
        assert_eq!(slots.enter(&alice, holder(0, 1)), Admission::Admitted);
        assert_eq!(slots.enter(&alice, holder(0, 2)), Admission::Refused);
        slots.leave(&alice, holder(0, 2));
        assert_eq!(slots.enter(&alice, holder(0, 3)), Admission::Refused);
        slots.leave(&alice, holder(0, 1));
        assert_eq!(slots.enter(&alice, holder(0, 3)), Admission::Admitted);
        slots.leave(&alice, holder(0, 3));
        assert!(slots.lock().is_empty());
    }
}
