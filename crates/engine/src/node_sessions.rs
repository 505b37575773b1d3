//! What the shards of a node know of each other's sessions: which shard has each one that may be resumed, how many of a
//! player are detached, and what waits for all that are. Used when connections come and go, and while events wait for a
//! detached session; never for another event.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use crate::io::{Holder, SessionHash};
use crate::player_slots::{Admission, PlayerSlots};
use crate::settings::{PlayerConnections, Settings, WhenExceeded};

/// See the module.
#[derive(Debug)]
pub(crate) struct NodeSessions {
    /// Sessions that were welcomed and have not ended. Connections and `detached_per_player` bound it.
    places: Mutex<HashMap<SessionHash, Holder>>,
    /// The detached ones of each player, the oldest first.
    detached: PlayerSlots,
    /// What waits for detached sessions, in bytes.
    held_bytes: AtomicUsize,
    /// The bound of that.
    max_bytes: usize,
}

impl NodeSessions {
    pub(crate) fn new(settings: &Settings) -> Self {
        let per_player = PlayerConnections {
            max: settings.detached_per_player.max(1),
            when_exceeded: WhenExceeded::CloseOldest,
        };
        NodeSessions {
            places: Mutex::default(),
            detached: PlayerSlots::new(per_player),
            held_bytes: AtomicUsize::new(0),
            max_bytes: settings.detached_bytes,
        }
    }

    /// From now on this session is found here.
    pub(crate) fn enter(&self, session: SessionHash, holder: Holder) {
        self.places().insert(session, holder);
    }

    /// The session has ended there.
    pub(crate) fn leave(&self, session: SessionHash, holder: Holder) {
        let mut places = self.places();
        if places.get(&session) == Some(&holder) {
            places.remove(&session);
        }
    }

    /// Where this session is.
    pub(crate) fn find(&self, session: SessionHash) -> Option<Holder> {
        self.places().get(&session).copied()
    }

    /// A session of this player is detached. Returns the one that ends in its place, if there are too many.
    pub(crate) fn detach(&self, player: &Arc<str>, holder: Holder) -> Option<Holder> {
        match self.detached.enter(player, holder) {
            Admission::InPlaceOf(oldest) => Some(oldest),
            Admission::Admitted | Admission::Refused => None,
        }
    }

    /// It is detached no longer.
    pub(crate) fn attach(&self, player: &Arc<str>, holder: Holder) {
        self.detached.leave(player, holder);
    }

    /// What waits for one of the detached sessions has changed, in bytes.
    pub(crate) fn count_bytes(&self, before: usize, now: usize) {
        if now >= before {
            self.held_bytes.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.held_bytes.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Whether more waits for detached sessions than may, after making room for `spare` bytes more.
    pub(crate) fn is_over_limit(&self, spare: usize) -> bool {
        self.held_bytes.load(Ordering::Relaxed).saturating_add(spare) > self.max_bytes
    }

    /// The room that is made where more waits than may: so not every further event has to make some.
    pub(crate) fn spare(&self) -> usize {
        self.max_bytes / 8
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.places().len()
    }

    fn places(&self) -> MutexGuard<'_, HashMap<SessionHash, Holder>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SessionId;
    use crate::upstream::ShardId;

    fn holder(shard: u8, index: u32) -> Holder {
        Holder { shard: ShardId(shard), session: SessionId { index, generation: 1 } }
    }

    #[test]
    fn a_session_is_where_it_came_last() {
        let sessions = NodeSessions {
            places: Mutex::default(),
            detached: PlayerSlots::new(PlayerConnections {
                max: 1,
                when_exceeded: WhenExceeded::CloseOldest,
            }),
            held_bytes: AtomicUsize::new(0),
            max_bytes: 80,
        };
        let hash = SessionHash(7);
        sessions.enter(hash, holder(0, 1));
        sessions.enter(hash, holder(1, 1));
        sessions.leave(hash, holder(0, 1));
        assert_eq!(sessions.find(hash), Some(holder(1, 1)));
        sessions.leave(hash, holder(1, 1));
        assert_eq!((sessions.find(hash), sessions.len()), (None, 0));

        let ann = "ann".into();
        assert_eq!(sessions.detach(&ann, holder(0, 1)), None);
        assert_eq!(sessions.detach(&ann, holder(0, 2)), Some(holder(0, 1)));
        sessions.attach(&ann, holder(0, 2));
        assert_eq!(sessions.detach(&ann, holder(0, 3)), None);

        sessions.count_bytes(0, 80);
        assert!(!sessions.is_over_limit(0) && sessions.is_over_limit(sessions.spare()));
        sessions.count_bytes(80, 70);
        assert!(!sessions.is_over_limit(sessions.spare()));
    }
}
