//! Which sessions may connect now, which wait for that, and which are turned away ([`crate::connecting`]).

use drawbridge_protocol::{CloseCode, ErrorCode, ErrorMessage, RequestId};

use super::Engine;
use crate::connecting::{ConnectPlace, Entered, retry_after_ms};
use crate::io::{Claims, SessionId};
use crate::session::PendingToken;

impl Engine {
    /// A session's token is good: returns what it came with if it may connect now. Else it waits, as if its token were still being
    /// verified, or is turned away.
    pub(super) fn take_place(
        &mut self,
        id: SessionId,
        arrival: PendingToken,
        claims: Claims,
    ) -> Option<(PendingToken, Claims)> {
        if self.sessions[id].connect_place == ConnectPlace::Held {
            return Some((arrival, claims));
        }
        match self.connecting.enter(id, arrival.resumes(), claims) {
            Entered::Now(claims) => {
                self.sessions[id].connect_place = ConnectPlace::Held;
                Some((arrival, claims))
            }
            Entered::Waits(displaced) => {
                let session = &mut self.sessions[id];
                session.connect_place = ConnectPlace::Waiting;
                session.pending_token = Some(Box::new(arrival));
                session.deadlines.phase_ms = self.out.now.mono_ms + self.settings.connect_timeout_ms;
                self.arm(id);
                if let Some(displaced) = displaced {
                    self.sessions[displaced].connect_place = ConnectPlace::None;
                    self.turn_away(displaced);
                }
                None
            }
            Entered::Full => {
                self.sessions[id].pending_token = Some(Box::new(arrival));
                self.turn_away(id);
                None
            }
        }
    }

    /// A session was welcomed or has ended: another one may have its place.
    pub(super) fn give_place_back(&mut self, id: SessionId) {
        match std::mem::take(&mut self.sessions[id].connect_place) {
            ConnectPlace::None => {}
            ConnectPlace::Waiting => self.connecting.forget(id),
            ConnectPlace::Held => self.connecting.leave(),
        }
    }

    /// Assigns free places to waiting connections.
    pub(super) fn admit_waiting(&mut self) {
        while let Some((id, claims)) = self.connecting.next() {
            let session = &mut self.sessions[id];
            session.connect_place = ConnectPlace::Held;
            session.deadlines.phase_ms = 0;
            self.arm(id);
            self.authenticated(id, Ok(claims));
            self.finish_step();
            self.enforce_limits();
            self.finish_closings();
            self.finish_returns();
        }
    }

    /// Closes a connection for which there is no room, and says when to come back.
    pub(super) fn turn_away(&mut self, id: SessionId) {
        let request = self.sessions[id].pending_token.take().and_then(|arrival| arrival.request());
        self.out.stats.turned_away += 1;
        self.close_overloaded(
            id,
            request.as_ref(),
            ErrorCode::RateLimited,
            "too many clients connect to this node at once",
        );
    }

    /// Whether a connection was let in only because it might resume a detached session of its address, and there is still no
    /// room for a new one.
    pub(super) fn has_no_room_for_address(&self, id: SessionId) -> bool {
        let session = &self.sessions[id];
        session.must_resume && self.limits.connections().is_over(session.address)
    }

    /// Closes a connection that resumes no session, where its address has no room for a new one.
    pub(super) fn turn_away_over_address_limit(&mut self, id: SessionId, request: Option<&RequestId>) {
        self.out.stats.turned_away += 1;
        let why = "this address has as many connections and detached sessions as it may \
                   (limits.connections_per_address)";
        self.close_overloaded(id, request, ErrorCode::RateLimited, why);
    }

    /// Closes a connection of a node that has too much to do. `retry_after_ms` is random, so that not all
    /// clients return at once.
    pub(super) fn close_overloaded(
        &mut self,
        id: SessionId,
        request: Option<&RequestId>,
        code: ErrorCode,
        why: &str,
    ) {
        let retry_after_ms = retry_after_ms(self.sessions[id].public);
        let text = format!("{why}; retry in {retry_after_ms} ms");
        let error = ErrorMessage::new(code, &text);
        self.send_error(id, ErrorMessage { id: request, retry_after_ms: Some(retry_after_ms), ..error });
        self.close(id, CloseCode::Overloaded, "overloaded");
    }
}
