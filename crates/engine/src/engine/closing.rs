//! How a session ends, or loses its connection. Whoever decides it queues it; the session stays in every table, silent, until
//! the end of `handle`. So nothing that sends can take away what its caller holds.

use std::borrow::Cow;

use drawbridge_protocol::{CloseCode, Frame};

use super::Engine;
use crate::io::{Holder, Output, SessionId};
use crate::session::{Before, Deadlines, Phase, Session};

/// A session whose close is queued.
#[derive(Debug)]
pub(super) struct Closing {
    id: SessionId,
    /// For the lifecycle stream.
    code: u16,
    word: Box<str>,
    /// The close code and reason for the client; `None` if its socket is gone.
    farewell: Option<(CloseCode, Cow<'static, str>)>,
}

/// A client's close with this code ends its session; every other end of the connection keeps it.
const ENDS_SESSION: u16 = 1000;

/// What is sent before a close. A slow consumer is sent nothing: what waits is of no use to it, and what came behind the
/// decision would follow on a gap.
pub(super) fn last_frames(code: CloseCode, frames: Vec<Frame>) -> Vec<Frame> {
    if code == CloseCode::SlowConsumer { Vec::new() } else { frames }
}

impl Closing {
    /// Whether this end of a connection is none of its session (contract §7).
    fn keeps_session(&self) -> bool {
        match &self.farewell {
            Some((code, _)) => {
                !(4500..=4999).contains(&code.as_u16()) || *code == CloseCode::SessionTakenOver
            }
            None => self.code != ENDS_SESSION,
        }
    }
}

impl Engine {
    /// Ends a session from our side: what waits for it goes out first.
    pub(super) fn close(&mut self, id: SessionId, code: CloseCode, reason: &'static str) {
        self.close_with_word(id, code, reason, reason);
    }

    /// As [`Engine::close`], with a separate word for the lifecycle stream.
    pub(super) fn close_with_word(
        &mut self,
        id: SessionId,
        code: CloseCode,
        reason: impl Into<Cow<'static, str>>,
        word: &str,
    ) {
        // What waits is of no use to a client that does not read.
        if code != CloseCode::SlowConsumer && !self.sessions[id].is_closing() {
            self.flush_all(id);
        }
        let farewell = Some((code, reason.into()));
        self.queue_closing(Closing { id, code: code.as_u16(), word: word.into(), farewell });
    }

    /// The socket is gone: the client closed it, or it broke.
    pub(super) fn closed(&mut self, id: SessionId, code: u16) {
        // A client may say these codes too; then it is its word.
        let word = match code {
            1006 => "lost",
            1002 | 1007 | 1009 => "protocol violation",
            _ => "client",
        };
        self.queue_closing(Closing { id, code, word: word.into(), farewell: None });
    }

    /// From now on nothing is sent to the session, nothing of it is carried out, and no timer of it runs. The first reason
    /// counts.
    fn queue_closing(&mut self, closing: Closing) {
        let session = &mut self.sessions[closing.id];
        if session.is_closing() {
            return;
        }
        let before = match &session.phase {
            Phase::Open => Before::Open,
            _ if session.holds_events() => Before::Detached,
            _ => Before::Welcome,
        };
        session.phase = Phase::Closing(before);
        session.record.has_changed = session.deadlines.record_ms > 0;
        // Invariant: a closing session has no deadline, because its deadlines are not run.
        session.deadlines = Deadlines { armed_ms: session.deadlines.armed_ms, ..Deadlines::default() };
        self.out.timers.arm(session);
        self.closing.push(closing);
    }

    /// A detached session ends, or one that is about to return.
    pub(super) fn end_detached(&mut self, id: SessionId, word: &str) {
        self.queue_closing(Closing { id, code: ENDS_SESSION, word: word.into(), farewell: None });
    }

    /// Carries out the queued closes. Nothing of a session that ends stays but publishes on their way.
    pub(super) fn finish_closings(&mut self) {
        while !self.closing.is_empty() {
            for closing in std::mem::take(&mut self.closing) {
                self.finish_closing(closing);
            }
        }
    }

    fn finish_closing(&mut self, closing: Closing) {
        let was_welcomed = !matches!(self.sessions[closing.id].phase, Phase::Closing(Before::Welcome));
        let is_moved = self.sessions[closing.id].record.is_moved;
        let keeps_session =
            was_welcomed && !is_moved && self.settings.resume_window_ms > 0 && closing.keeps_session();
        let Closing { id, code, word, farewell } = closing;
        if keeps_session {
            return self.detach(id, code, &word, farewell);
        }
        let mut session = self.forget(id);
        self.end_record(&session);
        if let Phase::Closing(before) = session.phase {
            self.record_end(&session, before, code, &word);
        }
        if let (Some((code, reason)), Some(link)) = (farewell, &session.link) {
            let frames = session.outbox.take_frames();
            let frames = last_frames(code, frames);
            self.out.outputs.push_back(Output::Close { conn: link.conn, frames, code, reason });
        }
    }

    /// Takes a session out of every table.
    ///
    /// Invariant: this and [`Engine::detach`] alone shut a door, and no id of the session stays but in `tickets`.
    pub(super) fn forget(&mut self, id: SessionId) -> Box<Session> {
        self.forget_presence_read(id);
        self.give_place_back(id);
        // All at once: otherwise the queues would be searched for each subscription.
        self.sessions[id].outbox.remove_streams(&mut self.out.queues);
        while let Some(subscription) = self.sessions[id].subscriptions.last() {
            self.drop_subscription(id, subscription.target);
        }
        let session = self.sessions.remove(id);
        debug_assert!(!session.outbox.has_queues(), "a queue without a subscription");
        if let Some(link) = &session.link {
            self.sessions.shut_door(link.conn);
        }
        self.cancel_query(session.overrides.query());
        self.cancel_history(session.history);
        self.withdraw_claim(session.record.claim);
        let holder = Holder { shard: self.shard, session: id };
        self.limits.sessions.count_bytes(session.held_bytes, 0);
        if session.is_listed {
            self.limits.sessions.leave(session.hash, holder);
            session.player().into_iter().for_each(|player| self.limits.sessions.attach(player, holder));
        }
        if let Some(player) = session.player()
            && let Some(ids) = self.players.get_mut(player)
        {
            ids.retain(|other| *other != id);
            self.limits.leave(player, holder);
            if ids.is_empty() {
                self.players.remove(player);
            }
        }
        session
    }
}
