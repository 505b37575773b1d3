//! A session outlives its socket: it is detached from one and attached to another. Meanwhile it keeps its subscriptions,
//! and what arrives waits in its outbox, under the same limit as for a socket that does not read.

use drawbridge_protocol::Frame;

use super::Engine;
use crate::io::{ConnId, Format, Now, SessionId};
use crate::link::Link;
use crate::session::{Phase, Session};

/// Why a session cannot have a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// It has ended.
    Gone,
    /// It has a connection.
    Attached,
    /// The connection, or one in its place, belongs to a session.
    ConnectionInUse,
    /// What waits is encoded or compressed in another way.
    OtherFormat,
}

impl Engine {
    /// The session of a connection.
    pub fn session_of(&self, conn: ConnId) -> Option<SessionId> {
        self.sessions.of(conn)
    }

    /// Takes the connection away from a session, which lives on. Nothing that comes from the connection reaches the engine
    /// any more. Returns false where the session stays as it is: it has ended or is detached already; it was not welcomed
    /// yet; or a token of it is being verified, and the answer would find nobody.
    ///
    /// `unsent` are whole frames that the socket has not begun, in order: they are the first to leave through the next one.
    pub fn detach(&mut self, id: SessionId, unsent: Vec<Frame>) -> bool {
        let may_detach = |session: &Session| {
            matches!(session.phase, Phase::Open) && session.pending_token.is_none() && session.link.is_some()
        };
        if !self.sessions.get(id).is_some_and(may_detach) {
            return false;
        }
        let session = &mut self.sessions[id];
        let link = session.link.take();
        session.deadlines.heartbeat_ms = 0;
        self.out.timers.arm(session);
        session.outbox.return_frames(unsent);
        link.iter().for_each(|link| self.sessions.shut_door(link.conn));
        // What waits counts from now on, as when a socket blocks.
        self.out.over_limit.push(id);
        self.enforce_limits();
        self.finish_closings();
        true
    }

    /// Gives a detached session a connection: what waits leaves through it at the end of the turn. For now only one of the
    /// same format as the one before, because frames are encoded when they begin to wait.
    ///
    /// # Errors
    /// If the session cannot have this connection. Then nothing has changed.
    pub fn attach(
        &mut self,
        now: Now,
        id: SessionId,
        conn: ConnId,
        format: Format,
    ) -> Result<(), AttachError> {
        self.out.now = now;
        let session = self.sessions.get(id).ok_or(AttachError::Gone)?;
        match () {
            () if session.link.is_some() => return Err(AttachError::Attached),
            () if self.sessions.at_place(conn).is_some() => return Err(AttachError::ConnectionInUse),
            () if session.outbox.format() != format => return Err(AttachError::OtherFormat),
            () => {}
        }
        let session = &mut self.sessions[id];
        session.link = Some(Link::new(conn));
        session.deadlines.heartbeat_ms = now.mono_ms + self.settings.heartbeat_ms;
        session.deadlines.drain_ms = self.drains_until_ms.map_or(0, |until_ms| until_ms.max(now.mono_ms + 1));
        self.out.timers.arm(session);
        self.out.mark_dirty(session);
        self.sessions.open_door(conn, id);
        self.send_missed_presence(id);
        self.go_on_catching_up(id);
        Ok(())
    }
}
