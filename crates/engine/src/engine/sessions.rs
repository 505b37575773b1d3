//! The table of a shard's sessions, and the door: which connection of the shell belongs to which of them.

use std::ops::{Index, IndexMut};

use slab::Slab;

use crate::io::{ConnId, SessionId};
use crate::session::Session;

/// See the module.
///
/// Invariant: ids in the engine's own tables (subscribers, players, timers, queries, what is to be flushed) name
/// sessions that exist, because a session leaves all of them before it leaves this one, and does both only at the end of
/// `handle`. Such ids index the table. Ids that come from outside, or that wait for an answer from outside, may be stale:
/// for them there is [`Sessions::get`].
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slab: Slab<Box<Session>>,
    /// The generation of the newest session.
    generation: u32,
    /// By the place of the connection: its session, or [`NOBODY`]. Which use of the place it is, the session's link says.
    doors: Vec<SessionId>,
}

/// No session has this id.
const NOBODY: SessionId = SessionId { index: u32::MAX, generation: 0 };

impl Sessions {
    /// Puts a session in, made by `make` for its id.
    pub(super) fn insert(&mut self, make: impl FnOnce(SessionId) -> Session) -> SessionId {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.slab.vacant_entry();
        let id = SessionId { index: entry.key() as u32, generation: self.generation };
        entry.insert(Box::new(make(id)));
        id
    }

    /// The session with this id, if it has not ended.
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.slab.get(id.index as usize).filter(|session| session.id == id).map(|session| &**session)
    }

    /// Takes a session out.
    pub(super) fn remove(&mut self, id: SessionId) -> Box<Session> {
        debug_assert!(self.get(id).is_some(), "stale {id:?}");
        self.slab.remove(id.index as usize)
    }

    /// The session of a connection.
    pub(super) fn of(&self, conn: ConnId) -> Option<SessionId> {
        let is_theirs = |id: &SessionId| self[*id].link.as_ref().is_some_and(|link| link.conn == conn);
        self.at_place(conn).filter(is_theirs)
    }

    /// The session of whichever connection has this place.
    pub(super) fn at_place(&self, conn: ConnId) -> Option<SessionId> {
        self.doors.get(conn.index as usize).copied().filter(|id| *id != NOBODY)
    }

    /// From now on this connection is the session's, whose link says so.
    pub(super) fn open_door(&mut self, conn: ConnId, id: SessionId) {
        let place = conn.index as usize;
        if place >= self.doors.len() {
            self.doors.resize(place + 1, NOBODY);
        }
        debug_assert_eq!(self.doors[place], NOBODY, "a place has one connection");
        self.doors[place] = id;
    }

    /// From now on this connection is nobody's.
    pub(super) fn shut_door(&mut self, conn: ConnId) {
        debug_assert!(self.at_place(conn).is_some(), "the door of {conn:?} is shut already");
        if let Some(door) = self.doors.get_mut(conn.index as usize) {
            *door = NOBODY;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slab.iter().map(|(_, session)| &**session)
    }

    /// Panics in debug builds if doors and links do not name each other.
    pub(super) fn check(&self) {
        for session in self.iter() {
            debug_assert!(self.get(session.id).is_some(), "the place of {:?}", session.id);
            if let Some(link) = &session.link {
                debug_assert_eq!(self.of(link.conn), Some(session.id), "the door of {:?}", link.conn);
            }
        }
        let linked = self.iter().filter(|session| session.link.is_some()).count();
        debug_assert_eq!(
            self.doors.iter().filter(|id| **id != NOBODY).count(),
            linked,
            "doors without a session"
        );
    }
}

impl Index<SessionId> for Sessions {
    type Output = Session;

    #[inline]
    fn index(&self, id: SessionId) -> &Session {
        let session = &*self.slab[id.index as usize];
        debug_assert_eq!(session.id, id, "stale id of a session");
        session
    }
}

impl IndexMut<SessionId> for Sessions {
    #[inline]
    fn index_mut(&mut self, id: SessionId) -> &mut Session {
        let session = &mut *self.slab[id.index as usize];
        debug_assert_eq!(session.id, id, "stale id of a session");
        session
    }
}
