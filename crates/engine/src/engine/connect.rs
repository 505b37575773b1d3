//! From an open socket to `WELCOME`, and what a token means afterwards: expiry and renewal (contract §2).

use drawbridge_protocol::{
    BadRequest, BadSubscribe, CloseCode, Connect, ErrorCode, ErrorMessage, RequestId, ServerMessage,
    Subscribe, SubscriptionInfo, Welcome, codec,
};
use hashbrown::HashSet;

use super::Engine;
use super::resume::Recovery;
use super::subscribe::Ended;
use crate::connecting::ConnectPlace;
use crate::io::{AuthFailure, BrokerStatus, Claims, Holder, Notice, Opened, Output, SessionId, Subject};
use crate::permissions::{self, Filled};
use crate::player_slots::Admission;
use crate::session::{ANONYMOUS_PREFIX, Arrival, Deadlines, Joining, Origin, PendingToken, Phase, Session};
use crate::targets::{Reply, TargetId};
use crate::work;

/// How long `WELCOME` waits for Redis; what is not confirmed then is listed as pending.
const JOIN_TIMEOUT_MS: u64 = 2_000;

impl Engine {
    pub(super) fn opened(&mut self, opened: Opened) {
        if let Some(id) = self.sessions.at_place(opened.conn) {
            // The shell uses the place again, so the socket that had it is gone.
            self.closed(id, 1006);
            self.finish_closings();
        }
        let deadlines = Deadlines {
            phase_ms: self.out.now.mono_ms + self.settings.connect_timeout_ms,
            heartbeat_ms: self.out.now.mono_ms + self.settings.heartbeat_ms,
            ..Deadlines::default()
        };
        let limit = self.settings.outbound_bytes;
        let id = self.sessions.insert(|id| Session::new(id, &opened, deadlines, limit));
        self.sessions.open_door(opened.conn, id);
        self.arm(id);
        // Its upgrade was on its way when the drain began.
        if let Some(until_ms) = self.drains_until_ms {
            self.say_goodbye(id, until_ms.saturating_sub(self.out.now.mono_ms));
        }
        match opened.token {
            None => {}
            Some(Err(failure)) => self.reject_token(id, None, &failure),
            Some(Ok(claims)) if opened.wait_for_connect => self.set_claims(id, claims),
            Some(Ok(claims)) => self.join(id, Arrival::default(), claims),
        }
    }

    /// `CONNECT` on a connection that waits for it.
    pub(super) fn connect(&mut self, id: SessionId, request: Option<RequestId>, connect: Connect) {
        let session = &mut self.sessions[id];
        if !matches!(session.phase, Phase::Connecting) {
            let reason = "type: CONNECT, and this connection is connected already".to_owned();
            return self.bad_request(id, &BadRequest { id: request, reason });
        }
        let too_many = connect.resume.as_ref().and_then(|resume| self.too_many_positions(resume));
        if let Some(reason) = too_many {
            return self.bad_request(id, &BadRequest { id: request, reason });
        }
        let arrival = Arrival { id: request, subscribe: connect.subscribe, resume: connect.resume };
        let session = &mut self.sessions[id];
        session.outbox.max_message_bytes = connect.max_message_bytes;
        if let Some(token) = connect.token {
            // It came in time; how long judging takes is not the client's fault.
            session.deadlines.phase_ms = 0;
            self.arm(id);
            return self.verify_token(id, token, PendingToken::Connect(arrival));
        }
        let claims = match session.claims.take() {
            Some(claims) => claims,
            None if self.settings.allow_anonymous => {
                session.anonymous = true;
                anonymous(session)
            }
            None => {
                let failure = AuthFailure::new(ErrorCode::Unauthenticated, "CONNECT: `token` is missing");
                return self.reject_token(id, arrival.id.as_ref(), &failure);
            }
        };
        self.join(id, arrival, claims);
    }

    /// Has a token verified; [`Engine::authenticated`] goes on. Without a socket nobody would be answered by the shell.
    pub(super) fn verify_token(&mut self, id: SessionId, token: String, pending_token: PendingToken) {
        let session = &mut self.sessions[id];
        if let Some(link) = &session.link {
            session.pending_token = Some(Box::new(pending_token));
            self.out.outputs.push_back(Output::Authenticate { conn: link.conn, token });
        } else {
            let lost = "the connection was lost before the token was verified";
            self.with_token(id, pending_token, Err(AuthFailure::new(ErrorCode::Internal, lost)));
        }
    }

    pub(super) fn authenticated(&mut self, id: SessionId, result: Result<Claims, AuthFailure>) {
        // Unless the shell answers twice.
        let Some(pending_token) = self.sessions[id].pending_token.take() else { return };
        self.charged(id, |engine| engine.with_token(id, *pending_token, result));
        self.retry_deferred(id);
    }

    /// Does what a token was sent for.
    fn with_token(
        &mut self,
        id: SessionId,
        pending_token: PendingToken,
        result: Result<Claims, AuthFailure>,
    ) {
        match (pending_token, result) {
            (PendingToken::Connect(arrival), Ok(claims)) => self.join(id, arrival, claims),
            (PendingToken::Connect(arrival), Err(failure)) => {
                self.reject_token(id, arrival.id.as_ref(), &failure)
            }
            (PendingToken::Refresh { id: request }, Ok(claims)) => self.refresh(id, request.as_ref(), claims),
            (PendingToken::Refresh { id: request }, Err(failure)) => {
                self.report_refused_token(id, &failure);
                self.refuse_token(id, request.as_ref(), &failure);
            }
        }
    }

    /// Closes a connection that has no good token, and reports it.
    fn reject_token(&mut self, id: SessionId, request: Option<&RequestId>, failure: &AuthFailure) {
        self.report_refused_token(id, failure);
        self.end_for_token(id, request, failure);
    }

    fn report_refused_token(&mut self, id: SessionId, failure: &AuthFailure) {
        let address = self.sessions[id].address;
        self.out.stats.tokens_refused += 1;
        self.notice(Notice::TokenRefused { address, code: failure.code, reason: failure.message.clone() });
    }

    fn end_for_token(&mut self, id: SessionId, request: Option<&RequestId>, failure: &AuthFailure) {
        if failure.code == ErrorCode::Internal && failure.retry_after_ms.is_none() {
            return self.close_overloaded(id, request, failure.code, &failure.message);
        }
        self.refuse_token(id, request, failure);
        match failure.code {
            // The client may come again, with the same token or another.
            _ if failure.retry_after_ms.is_some() => {
                self.close(id, CloseCode::TokenExpired, "token not valid yet");
            }
            ErrorCode::TokenExpired => self.close(id, CloseCode::TokenExpired, "token expired"),
            _ => self.close(id, CloseCode::Unauthenticated, "unauthenticated"),
        }
    }

    fn refuse_token(&mut self, id: SessionId, request: Option<&RequestId>, failure: &AuthFailure) {
        let error = ErrorMessage::new(failure.code, &failure.message);
        self.send_error(id, ErrorMessage { id: request, retry_after_ms: failure.retry_after_ms, ..error });
    }

    /// Takes the claims up and keeps their expiry.
    pub(super) fn set_claims(&mut self, id: SessionId, claims: Claims) {
        let now = self.out.now;
        let session = &mut self.sessions[id];
        let leeway_ms = self.settings.token_leeway_ms;
        let expires_in_ms = |at: u64| at.saturating_add(leeway_ms).saturating_sub(now.unix_ms).max(1);
        session.deadlines.expiry_ms =
            claims.expires_unix_ms.map_or(0, |at| now.mono_ms.saturating_add(expires_in_ms(at)));
        session.claims = Some(claims);
        session.access = None;
        self.out.timers.arm(session);
    }

    /// The player is known: resume its session, or subscribe what the templates and `CONNECT` name; then say `WELCOME`.
    pub(super) fn join(&mut self, id: SessionId, arrival: Arrival, claims: Claims) {
        let arrival = PendingToken::Connect(arrival);
        let Some((arrival, claims)) = self.take_place(id, arrival, claims) else { return };
        let PendingToken::Connect(arrival) = arrival else { return };
        if arrival.resume.is_some() && self.settings.resume_window_ms > 0 {
            return self.return_later(id, arrival, claims);
        }
        let Arrival { id: request, subscribe, .. } = arrival;
        if self.has_no_room_for_address(id) {
            return self.turn_away_over_address_limit(id, request.as_ref());
        }
        let auto = permissions::auto_channels(&self.settings, &claims);
        if !self.enter_player(id, claims) {
            return;
        }
        let session = &mut self.sessions[id];
        session.phase = Phase::Joining(Box::new(Joining::new(request, None)));
        // Services cannot have narrowed anything for an anonymous player, whose name is new.
        if !session.anonymous {
            self.load_overrides(id);
        }
        self.auto_subscribe_all(id, auto);
        self.subscribe_in_connect(id, subscribe.unwrap_or_default());
        self.await_welcome(id);
    }

    /// Lists the session under its player, sets its claims and applies the player's connection limit. Returns whether it is
    /// admitted.
    pub(super) fn enter_player(&mut self, id: SessionId, claims: Claims) -> bool {
        self.players.entry(claims.player.clone()).or_default().push(id);
        self.set_claims(id, claims);
        self.admit(id)
    }

    /// Subscribes the channels that templates name for this player, except those that the session has or its client left.
    pub(super) fn auto_subscribe_all(&mut self, id: SessionId, auto: permissions::Auto) {
        for notice in auto.skipped {
            self.notice(notice);
        }
        for channel in auto.channels {
            let has_left = self.sessions[id].left.as_ref().is_some_and(|left| left.contains(&*channel));
            if !has_left && !self.is_subscribed(id, &Subject::channel(&*channel)) {
                self.auto_subscribe(id, channel, Reply::Welcome);
            }
        }
        self.notify_cut(id, &auto.cut, true);
    }

    /// The client's own subscriptions, as `CONNECT` names them.
    pub(super) fn subscribe_in_connect(
        &mut self,
        id: SessionId,
        subscribe: Vec<Result<Subscribe, BadSubscribe>>,
    ) {
        for subscribe in subscribe {
            match subscribe {
                Ok(subscribe) => self.subscribe(id, None, subscribe, true),
                Err(bad) => {
                    self.out.stats.bad_messages += 1;
                    let error = ErrorMessage::new(ErrorCode::BadMessage, &bad.reason);
                    let channel = bad.channel.as_deref();
                    self.error_behind_welcome(id, &ErrorMessage { channel, ..error });
                }
            }
        }
    }

    /// Everything is requested that `WELCOME` waits for.
    pub(super) fn await_welcome(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        if session.is_closing() {
            return;
        }
        session.deadlines.phase_ms = self.out.now.mono_ms + JOIN_TIMEOUT_MS;
        self.out.timers.arm(session);
        self.confirmed_for_welcome(id);
        if self.status != BrokerStatus::Ok {
            self.welcome(id);
        }
    }

    /// Counts the connection for its player; returns whether it may stay.
    pub(super) fn admit(&mut self, id: SessionId) -> bool {
        let holder = Holder { shard: self.shard, session: id };
        let admission = self.sessions[id].player().map(|player| self.limits.enter(player, holder));
        match admission {
            Some(Admission::Refused) => self.close_as_too_many(id),
            Some(Admission::InPlaceOf(oldest)) => self.out.outputs.push_back(Output::Displace(oldest)),
            Some(Admission::Admitted) | None => {}
        }
        !self.sessions[id].is_closing()
    }

    /// A player has more sessions than a node holds of one, and this is the oldest. It may have ended meanwhile.
    pub(super) fn displaced(&mut self, id: SessionId) {
        if self.sessions.get(id).is_some() {
            self.close_as_too_many(id);
        }
    }

    fn close_as_too_many(&mut self, id: SessionId) {
        self.out.stats.too_many_connections += 1;
        self.close(id, CloseCode::TooManyConnections, "too many connections of this player");
    }

    /// Channels that templates give, and for which there is no room.
    pub(super) fn notify_cut(&mut self, id: SessionId, cut: &[String], in_connect: bool) {
        for (at, channel) in cut.iter().enumerate() {
            let mut text = self.too_many_subscriptions();
            if at + 1 == permissions::MAX_CUT {
                text += "; there may be more automatic subscriptions beyond it";
            }
            let error = ErrorMessage::new(ErrorCode::LimitExceeded, &text);
            let error = ErrorMessage { channel: Some(channel), ..error };
            if in_connect { self.error_behind_welcome(id, &error) } else { self.send_error(id, error) }
        }
    }

    /// One of the things that `WELCOME` waits for is settled.
    pub(super) fn confirmed_for_welcome(&mut self, id: SessionId) {
        if let Phase::Joining(joining) = &mut self.sessions[id].phase {
            joining.unconfirmed = joining.unconfirmed.saturating_sub(1);
            if joining.unconfirmed == 0 {
                self.welcome(id);
            }
        }
    }

    /// Says `WELCOME` to a joining session; what is not confirmed is listed as pending, and its confirmation is sent later.
    pub(super) fn welcome(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        let Some(joining) = session.phase.open() else { return };
        session.deadlines.phase_ms = 0;
        self.out.timers.arm(session);
        self.give_place_back(id);
        self.count_held(id);
        let recoveries = joining.resumed.as_ref().map(|resumed| self.judge_recovery(id, resumed));
        self.send_welcome(id, joining.id.as_ref(), recoveries.as_deref());
        self.notify_pending_later(id);
        if let Some(resumed) = &joining.resumed {
            self.await_verdicts(id);
            self.notify_forbidden(id, &resumed.forbidden);
        }
        for error in joining.errors {
            self.enqueue_frame(id, error);
        }
        if self.status != BrokerStatus::Ok {
            self.send(id, &ServerMessage::Status { broker: self.status.word() });
        }
        if let (Some(resumed), Some(recoveries)) = (&joining.resumed, &recoveries) {
            self.send_recovery(id, resumed, recoveries);
        }
        let targets: Vec<TargetId> = self.sessions[id].subscriptions.iter().map(|s| s.target).collect();
        for target in targets {
            self.want_snapshot(id, target);
        }
        match &joining.resumed {
            Some(_) => self.record_resumed(id),
            None => self.record_connected(id),
        }
        self.list(id);
        self.go_on_catching_up(id);
        self.retry_deferred(id);
    }

    /// From now on connections to the node's other shards find the session.
    fn list(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        if self.settings.resume_window_ms > 0 && !std::mem::replace(&mut session.is_listed, true) {
            self.limits.sessions.enter(session.hash, Holder { shard: self.shard, session: id });
            self.save_now(id);
        } else {
            self.save_soon(id);
        }
    }

    /// `recoveries`: of a session that returns, one for each subscription.
    fn send_welcome(&mut self, id: SessionId, request: Option<&RequestId>, recoveries: Option<&[Recovery]>) {
        let session = &self.sessions[id];
        let positions: Vec<_> =
            session.subscriptions.iter().map(|held| self.position_for(id, held.target)).collect();
        let recovery_of = |at: usize| recoveries.and_then(|recoveries| recoveries.get(at));
        for (at, held) in session.subscriptions.iter().enumerate() {
            let target = &mut self.targets[held.target];
            let is_shown = target.subscriber_at(held.slot).phase.is_shown_events();
            if is_shown && recovery_of(at).is_none_or(|recovery| recovery.recovered.is_none()) {
                target.note_position(held.slot);
            }
        }
        let mut subscriptions = Vec::with_capacity(session.subscriptions.len());
        for (at, held) in session.subscriptions.iter().enumerate() {
            let target = &self.targets[held.target];
            let recovery = recovery_of(at);
            let success = target.subscriber_at(held.slot).phase.success_so_far();
            let success = success.filter(|_| recovery.is_none_or(|recovery| !recovery.is_pending));
            let info = target.info(success.as_ref(), &positions[at]);
            subscriptions.push(SubscriptionInfo {
                auto: held.origin == Origin::Auto,
                offset: recovery.and_then(|recovery| recovery.position).or(info.offset),
                recovered: recovery.and_then(|recovery| recovery.recovered),
                ..info
            });
        }
        let player = session.player().cloned().unwrap_or_default();
        let (connection, secret) = (session.public_name(), session.session_name());
        let message = ServerMessage::Welcome(Welcome {
            id: request,
            connection: &connection,
            session: &secret,
            resumed: recoveries.is_some(),
            player: &player,
            node: &self.settings.node,
            server_time_ms: self.out.now.unix_ms,
            heartbeat_ms: self.settings.heartbeat_ms,
            resume_window_ms: self.settings.resume_window_ms,
            message_bytes: self.settings.message_bytes as u64,
            subscriptions_limit: self.settings.subscriptions as u64,
            subscriptions,
        });
        self.out.send(&mut self.sessions[id], &message);
        self.enforce_limits();
    }

    /// What was pending in `WELCOME` is confirmed by `CHANNEL_SUBSCRIBED`.
    fn notify_pending_later(&mut self, id: SessionId) {
        for subscription in &self.sessions[id].subscriptions {
            let waiters = &mut self.targets[subscription.target].waiters;
            for waiter in waiters.iter_mut().filter(|waiter| waiter.session == id) {
                if matches!(waiter.reply, Reply::Welcome) {
                    waiter.reply = Reply::Unsolicited;
                }
            }
        }
    }

    pub(super) fn phase_timed_out(&mut self, id: SessionId) {
        match &self.sessions[id].phase {
            Phase::Connecting if self.sessions[id].connect_place == ConnectPlace::Waiting => {
                self.turn_away(id)
            }
            Phase::Connecting => {
                let message = "no CONNECT within the time that this server allows";
                let failure = AuthFailure::new(ErrorCode::Unauthenticated, message);
                self.reject_token(id, None, &failure);
            }
            Phase::Joining(_) => self.welcome(id),
            Phase::Detached => self.end_window(id),
            Phase::Returning(_) => self.claim_timed_out(id),
            Phase::Open | Phase::Closing(_) => {}
        }
    }

    pub(super) fn expired(&mut self, id: SessionId) {
        let message = "the token expired; reconnect with a fresh one";
        self.end_for_token(id, None, &AuthFailure::new(ErrorCode::TokenExpired, message));
    }

    /// A new token for the same player: rights are judged again.
    fn refresh(&mut self, id: SessionId, request: Option<&RequestId>, claims: Claims) {
        // A token is renewed by a session that has one.
        let Some(old) = self.sessions[id].claims.clone() else { return };
        if old.player != claims.player {
            let text = "token: it names another player than this connection's";
            return self.refuse(id, request, ErrorCode::Forbidden, text);
        }
        let before = permissions::auto_channels(&self.settings, &old);
        let after = permissions::auto_channels(&self.settings, &claims);
        for notice in after.skipped {
            self.notice(notice);
        }
        let expires_ms = claims.expires_unix_ms;
        self.set_claims(id, claims.clone());
        if let Some(request) = request {
            self.send(id, &ServerMessage::TokenRefreshed { id: request, expires_ms });
        }
        // What is one too many to be subscribed again may stay where it is subscribed already.
        let filled = [&after.channels[..], &after.cut].concat();
        self.reauthorize(id, &claims, &filled);
        let mut cut = Vec::new();
        for channel in after.channels.into_iter().filter(|channel| !before.channels.contains(channel)) {
            if self.is_subscribed(id, &Subject::channel(&*channel)) {
                continue;
            }
            let held = self.sessions[id].subscriptions.len();
            if held < self.settings.subscriptions {
                self.auto_subscribe(id, channel, Reply::Unsolicited);
            } else {
                cut.push(channel);
            }
        }
        let subscribed = |channel: &String| self.is_subscribed(id, &Subject::channel(&**channel));
        cut.extend(after.cut.into_iter().filter(|cut| !before.cut.contains(cut) && !subscribed(cut)));
        cut.truncate(permissions::MAX_CUT);
        self.notify_cut(id, &cut, false);
    }

    /// Subscribes a channel that a template names for this player.
    pub(super) fn auto_subscribe(&mut self, id: SessionId, channel: String, reply: Reply) {
        if self.sessions[id].is_closing() {
            return;
        }
        let subject = Subject::channel(&*channel);
        let is_work = self.is_work(&subject, None);
        match self.take_subscribe(id).and_then(|()| if is_work { self.check_work(id) } else { Ok(()) }) {
            Ok(()) => self.add_subscription(id, &subject, Origin::Auto, None, None, reply),
            Err(refusal) => {
                let in_connect = matches!(reply, Reply::Welcome);
                self.refuse_subscription(id, None, &channel, &refusal, in_connect);
            }
        }
    }

    /// Ends what the new claims do not allow and folds them into the views of the rest.
    fn reauthorize(&mut self, id: SessionId, claims: &Claims, auto: &[String]) {
        let auto: HashSet<&str> = auto.iter().map(String::as_str).collect();
        let filled = Filled::default();
        for subscription in self.sessions[id].subscriptions.clone() {
            let name = self.targets[subscription.target].subject.name.clone();
            let is_filled = auto.contains(&*name);
            let allowed = self.may_keep(claims, subscription.target, subscription.origin, is_filled, &filled);
            if allowed && self.may_still_follow(id, subscription.target, claims) {
                self.flush_target(id, subscription.target);
                self.recompute_visibility_paid(id, subscription.target);
            } else {
                self.end_subscription(id, subscription.target, Ended::Forbidden);
            }
        }
    }
}

impl Engine {
    /// Whether these claims allow a subscription that is there. `is_filled`: a template names its channel.
    pub(super) fn may_keep(
        &self,
        claims: &Claims,
        target: TargetId,
        origin: Origin,
        is_filled: bool,
        filled: &Filled,
    ) -> bool {
        let subject = &self.targets[target].subject;
        self.targets.work.add(work::to_evaluate(work::AUTHORIZE as usize, claims.json.len()));
        match origin {
            Origin::Server => true,
            Origin::Auto => is_filled,
            Origin::Client if subject.is_pattern() => {
                permissions::may_subscribe_pattern(&self.settings, &subject.name).is_ok()
            }
            Origin::Client => {
                is_filled
                    || permissions::may_subscribe_filled(&self.settings, claims, &subject.name, filled)
                        .is_ok()
            }
        }
    }
}

/// A player without a token: its own name, and no claims but that it is anonymous.
fn anonymous(session: &Session) -> Claims {
    Claims::anonymous(&format!("{ANONYMOUS_PREFIX}{}", session.public_name()))
}

impl Engine {
    /// An error of `CONNECT.subscribe`, told behind `WELCOME`.
    pub(super) fn error_behind_welcome(&mut self, id: SessionId, error: &ErrorMessage<'_>) {
        self.count_error(error.code);
        let session = &mut self.sessions[id];
        let message = ServerMessage::Error(error.clone());
        match &mut session.phase {
            Phase::Joining(joining) => {
                let frame = codec::encode_frame(session.outbox.format().encoding, &message);
                joining.errors.push(frame);
            }
            Phase::Connecting | Phase::Open | Phase::Detached | Phase::Returning(_) | Phase::Closing(_) => {
                self.send(id, &message)
            }
        }
    }
}
