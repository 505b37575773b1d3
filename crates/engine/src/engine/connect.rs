//! From an open socket to `WELCOME`, and what a token means afterwards: expiry and renewal (contract §2).

use std::sync::Arc;

use drawbridge_protocol::{
    BadRequest, BadSubscribe, CloseCode, Connect, ErrorCode, ErrorMessage, RequestId, ServerMessage,
    Subscribe, SubscriptionInfo, Welcome,
};

use super::Engine;
use super::subscribe::Ended;
use crate::connection::{Connection, Deadlines, Joining, Judging, Origin, Phase};
use crate::io::{AuthFailure, BrokerStatus, Claims, ConnId, Holder, Notice, Opened, Output, Subject};
use crate::permissions;
use crate::player_slots::Admission;
use crate::targets::{Reply, TargetId};
use crate::work;

/// How long `WELCOME` waits for Redis; what is not confirmed then is listed as pending.
const JOIN_TIMEOUT_MS: u64 = 2_000;

impl Engine {
    pub(super) fn opened(&mut self, opened: Opened) {
        let id = opened.conn;
        let deadlines = Deadlines {
            phase_ms: self.now.mono_ms + self.settings.connect_timeout_ms,
            heartbeat_ms: self.now.mono_ms + self.settings.heartbeat_ms,
            ..Deadlines::default()
        };
        self.connections.insert(Box::new(Connection::new(&opened, deadlines, self.settings.outbound_bytes)));
        self.arm(id);
        if self.draining {
            return self.close(id, CloseCode::Drain, "drain");
        }
        match opened.token {
            None => {}
            Some(Err(failure)) => self.reject_token(id, None, &failure),
            Some(Ok(claims)) if opened.wait_for_connect => self.set_claims(id, claims),
            Some(Ok(claims)) => self.join(id, None, claims, Vec::new()),
        }
    }

    /// `CONNECT` on a connection that waits for it.
    pub(super) fn connect(&mut self, id: ConnId, request: Option<RequestId>, connect: Connect) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        if !matches!(conn.phase, Phase::Connecting) {
            let reason = "type: CONNECT, and this connection is connected already".to_owned();
            return self.bad_request(id, &BadRequest { id: request, reason });
        }
        if connect.resume.is_some() {
            let text = "resume: sessions are not kept by this server; send CONNECT without it";
            return self.refuse(id, request.as_ref(), ErrorCode::Unsupported, text);
        }
        conn.max_message_bytes = connect.max_message_bytes;
        if let Some(token) = connect.token {
            conn.judging = Some(Box::new(Judging::Connect { id: request, subscribe: connect.subscribe }));
            // It came in time; how long judging takes is not the client's fault.
            conn.deadlines.phase_ms = 0;
            self.arm(id);
            return self.outputs.push_back(Output::Authenticate { conn: id, token });
        }
        let claims = match conn.claims.take() {
            Some(claims) => claims,
            None if self.settings.allow_anonymous => {
                conn.anonymous = true;
                anonymous(conn)
            }
            None => {
                let failure = AuthFailure::new(ErrorCode::Unauthenticated, "CONNECT: `token` is missing");
                return self.reject_token(id, request.as_ref(), &failure);
            }
        };
        self.join(id, request, claims, connect.subscribe);
    }

    pub(super) fn authenticated(&mut self, id: ConnId, result: Result<Claims, AuthFailure>) {
        let Some(judging) = self.connections.get_mut(id).and_then(|conn| conn.judging.take()) else { return };
        self.charged(id, |engine| engine.with_token(id, *judging, result));
        self.run_deferred(id);
    }

    /// Does what a token was sent for.
    fn with_token(&mut self, id: ConnId, judging: Judging, result: Result<Claims, AuthFailure>) {
        match (judging, result) {
            (Judging::Connect { id: request, subscribe }, Ok(claims)) => {
                self.join(id, request, claims, subscribe)
            }
            (Judging::Connect { id: request, .. }, Err(failure)) => {
                self.reject_token(id, request.as_ref(), &failure)
            }
            (Judging::Refresh { id: request }, Ok(claims)) => self.refresh(id, request.as_ref(), claims),
            (Judging::Refresh { id: request }, Err(failure)) => {
                self.report_refused_token(id, &failure);
                self.refuse_token(id, request.as_ref(), &failure);
            }
        }
    }

    /// Closes a connection that has no good token, and reports it.
    fn reject_token(&mut self, id: ConnId, request: Option<&RequestId>, failure: &AuthFailure) {
        self.report_refused_token(id, failure);
        self.end_for_token(id, request, failure);
    }

    fn report_refused_token(&mut self, id: ConnId, failure: &AuthFailure) {
        let Some(address) = self.connections.get(id).map(|conn| conn.address) else { return };
        self.stats.tokens_refused += 1;
        self.notice(Notice::TokenRefused { address, code: failure.code, reason: failure.message.clone() });
    }

    fn end_for_token(&mut self, id: ConnId, request: Option<&RequestId>, failure: &AuthFailure) {
        self.refuse_token(id, request, failure);
        match failure.code {
            // The client may come again, with the same token or another.
            _ if failure.retry_after_ms.is_some() => {
                self.close(id, CloseCode::TokenExpired, "token not valid yet");
            }
            ErrorCode::TokenExpired => self.close(id, CloseCode::TokenExpired, "token expired"),
            ErrorCode::Internal => self.close(id, CloseCode::Overloaded, "tokens cannot be judged now"),
            _ => self.close(id, CloseCode::Unauthenticated, "unauthenticated"),
        }
    }

    fn refuse_token(&mut self, id: ConnId, request: Option<&RequestId>, failure: &AuthFailure) {
        let error = ErrorMessage::new(failure.code, &failure.message);
        self.send_error(id, ErrorMessage { id: request, retry_after_ms: failure.retry_after_ms, ..error });
    }

    /// Takes the claims up and keeps their expiry.
    fn set_claims(&mut self, id: ConnId, claims: Claims) {
        let now = self.now;
        let Some(conn) = self.connections.get_mut(id) else { return };
        let leeway_ms = self.settings.token_leeway_ms;
        let expires_in_ms = |at: u64| at.saturating_add(leeway_ms).saturating_sub(now.unix_ms).max(1);
        conn.deadlines.expiry_ms =
            claims.expires_unix_ms.map_or(0, |at| now.mono_ms.saturating_add(expires_in_ms(at)));
        conn.claims = Some(claims);
        conn.access = None;
        self.arm(id);
    }

    /// The player is known: subscribe what the templates and `CONNECT` ask for, then say `WELCOME`.
    fn join(
        &mut self,
        id: ConnId,
        request: Option<RequestId>,
        claims: Claims,
        subscribe: Vec<Result<Subscribe, BadSubscribe>>,
    ) {
        let auto = permissions::auto_channels(&self.settings, &claims);
        self.players.entry(claims.player.clone()).or_default().push(id);
        self.set_claims(id, claims);
        if !self.admit(id) {
            return;
        }
        for notice in auto.skipped {
            self.notice(notice);
        }
        let Some(conn) = self.connections.get_mut(id) else { return };
        // One more than there are, so that nothing is complete before everything is asked for.
        // Services cannot have narrowed anything for an anonymous player, whose name is new.
        let named = !conn.anonymous;
        let joining = Joining { id: request, unconfirmed: 1, errors: Vec::new(), limited: 0 };
        conn.phase = Phase::Joining(Box::new(joining));
        if named {
            self.load_views(id);
        }
        for channel in auto.channels {
            self.auto_subscribe(id, channel, Reply::Welcome);
        }
        self.tell_cut(id, &auto.cut, true);
        for subscribe in subscribe {
            match subscribe {
                Ok(subscribe) => self.subscribe(id, None, subscribe, true),
                Err(bad) => {
                    self.stats.bad_messages += 1;
                    let error = ErrorMessage::new(ErrorCode::BadMessage, &bad.reason);
                    let channel = bad.channel.as_deref();
                    self.error_behind_welcome(id, &ErrorMessage { channel, ..error });
                }
            }
        }
        if let Some(conn) = self.connections.get_mut(id) {
            conn.deadlines.phase_ms = self.now.mono_ms + JOIN_TIMEOUT_MS;
            self.arm(id);
        }
        self.confirmed_for_welcome(id);
        if self.status == BrokerStatus::Degraded {
            self.welcome(id);
        }
    }

    /// Counts the connection for its player; says whether it may stay.
    fn admit(&mut self, id: ConnId) -> bool {
        let Some(player) = self.connections.get(id).and_then(|conn| conn.player()) else { return false };
        match self.limits.enter(player, Holder { shard: self.shard, conn: id }) {
            Admission::Admitted => return true,
            Admission::InPlaceOf(oldest) => {
                self.outputs.push_back(Output::Displace(oldest));
                return true;
            }
            Admission::Refused => self.close_as_too_many(id),
        }
        false
    }

    /// The player has more connections than a node holds of one, and this is the one to go.
    pub(super) fn close_as_too_many(&mut self, id: ConnId) {
        if self.connections.get(id).is_none() {
            return;
        }
        self.stats.too_many_connections += 1;
        self.close(id, CloseCode::TooManyConnections, "too many connections of this player");
    }

    /// Channels that templates give, and for which there is no room.
    fn tell_cut(&mut self, id: ConnId, cut: &[String], in_connect: bool) {
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
    pub(super) fn confirmed_for_welcome(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        let Phase::Joining(joining) = &mut conn.phase else { return };
        joining.unconfirmed = joining.unconfirmed.saturating_sub(1);
        if joining.unconfirmed == 0 {
            self.welcome(id);
        }
    }

    /// Says `WELCOME` to a joining connection; what is not confirmed is listed as pending and told later.
    pub(super) fn welcome(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        if !matches!(conn.phase, Phase::Joining(_)) {
            return;
        }
        let Phase::Joining(joining) = std::mem::replace(&mut conn.phase, Phase::Open) else { return };
        conn.deadlines.phase_ms = 0;
        self.arm(id);
        self.send_welcome(id, joining.id.as_ref());
        self.tell_pending_later(id);
        for error in joining.errors {
            self.push(id, error);
        }
        if self.status == BrokerStatus::Degraded {
            self.send(id, &ServerMessage::Status { broker: "degraded" });
        }
        let targets: Vec<TargetId> = self
            .connections
            .get(id)
            .map_or(Vec::new(), |conn| conn.subscriptions.iter().map(|s| s.target).collect());
        for target in targets {
            self.want_snapshot(id, target);
        }
        self.tell_connected(id);
        self.run_deferred(id);
    }

    fn send_welcome(&mut self, id: ConnId, request: Option<&RequestId>) {
        let Some(conn) = self.connections.get(id) else { return };
        let subscriptions = conn
            .subscriptions
            .iter()
            .filter_map(|subscription| {
                let target = self.targets.get(subscription.target)?;
                let subscriber = target.subscribers.get(subscription.slot as usize)?;
                Some(SubscriptionInfo {
                    auto: subscription.origin == Origin::Auto,
                    ..target.info(subscriber.live)
                })
            })
            .collect();
        let (connection, session) = (conn.public_name(), conn.session_name());
        let Some(player) = conn.player().cloned() else { return };
        let settings = self.settings.clone();
        let message = ServerMessage::Welcome(Welcome {
            id: request,
            connection: &connection,
            session: &session,
            resumed: false,
            player: &player,
            node: &settings.node,
            server_time_ms: self.now.unix_ms,
            heartbeat_ms: settings.heartbeat_ms,
            resume_window_ms: 0,
            message_bytes: settings.message_bytes as u64,
            subscriptions_limit: settings.subscriptions as u64,
            subscriptions,
        });
        let frame = drawbridge_protocol::codec::encode_frame(conn.encoding, &message);
        drop(message);
        self.push(id, frame);
    }

    /// What was pending in `WELCOME` is confirmed by `CHANNEL_SUBSCRIBED`.
    fn tell_pending_later(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get(id) else { return };
        for subscription in &conn.subscriptions {
            let Some(target) = self.targets.get_mut(subscription.target) else { continue };
            for waiter in target.waiters.iter_mut().filter(|waiter| waiter.conn == id) {
                if matches!(waiter.reply, Reply::Welcome) {
                    waiter.reply = Reply::Told;
                }
            }
        }
    }

    pub(super) fn phase_timed_out(&mut self, id: ConnId) {
        match self.connections.get(id).map(|conn| &conn.phase) {
            Some(Phase::Connecting) => {
                let message = "no CONNECT within the time that this server allows";
                let failure = AuthFailure::new(ErrorCode::Unauthenticated, message);
                self.reject_token(id, None, &failure);
            }
            Some(Phase::Joining(_)) => self.welcome(id),
            Some(Phase::Open) | None => {}
        }
    }

    pub(super) fn expired(&mut self, id: ConnId) {
        let message = "the token expired; reconnect with a fresh one";
        self.end_for_token(id, None, &AuthFailure::new(ErrorCode::TokenExpired, message));
    }

    /// A new token for the same player: rights are judged anew.
    fn refresh(&mut self, id: ConnId, request: Option<&RequestId>, claims: Claims) {
        let Some(old) = self.connections.get(id).and_then(|conn| conn.claims.clone()) else { return };
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
        // What is one too many to be subscribed anew may stay where it is subscribed already.
        let filled = [&after.channels[..], &after.cut].concat();
        self.judge_anew(id, &claims, &filled);
        let mut cut = Vec::new();
        for channel in after.channels.into_iter().filter(|channel| !before.channels.contains(channel)) {
            if self.is_subscribed(id, &Subject::channel(&*channel)) {
                continue;
            }
            let held = self.connections.get(id).map_or(0, |conn| conn.subscriptions.len());
            if held < self.settings.subscriptions {
                self.auto_subscribe(id, channel, Reply::Told);
            } else {
                cut.push(channel);
            }
        }
        let subscribed = |channel: &String| self.is_subscribed(id, &Subject::channel(&**channel));
        cut.extend(after.cut.into_iter().filter(|cut| !before.cut.contains(cut) && !subscribed(cut)));
        cut.truncate(permissions::MAX_CUT);
        self.tell_cut(id, &cut, false);
    }

    /// Subscribes a channel that a template names for this player.
    fn auto_subscribe(&mut self, id: ConnId, channel: String, reply: Reply) {
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
    fn judge_anew(&mut self, id: ConnId, claims: &Claims, auto: &[String]) {
        let Some(conn) = self.connections.get(id) else { return };
        for subscription in conn.subscriptions.clone() {
            let Some(target) = self.targets.get(subscription.target) else { continue };
            let name = target.subject.name.clone();
            self.targets.work.add(work::to_evaluate(work::AUTHORIZE as usize, claims.json.len()));
            let allowed = match subscription.origin {
                Origin::Server => true,
                Origin::Auto => auto.iter().any(|channel| **channel == *name),
                Origin::Client if target.subject.is_pattern() => {
                    permissions::may_subscribe_pattern(&self.settings, &name).is_ok()
                }
                // The templates are filled once for all subscriptions: it costs a walk through the claims.
                Origin::Client => {
                    auto.iter().any(|channel| **channel == *name)
                        || permissions::may_subscribe(&self.settings, claims, &name).is_ok()
                }
            };
            if allowed && self.may_still_follow(id, subscription.target, claims) {
                self.flush_target(id, subscription.target);
                self.look_anew(id, subscription.target, true);
            } else {
                self.end_subscription(id, subscription.target, Ended::Forbidden);
            }
        }
    }
}

/// A player without a token: a name of its own, and no claims but that it is anonymous.
fn anonymous(conn: &Connection) -> Claims {
    let player: Arc<str> = format!("anonymous-{}", conn.public_name()).into();
    let json = format!(r#"{{"sub":"{player}","anonymous":true}}"#).into();
    Claims { player, expires_unix_ms: None, json }
}

impl Engine {
    /// An error of `CONNECT.subscribe`, told behind `WELCOME`.
    pub(super) fn error_behind_welcome(&mut self, id: ConnId, error: &ErrorMessage<'_>) {
        self.count_error(error.code);
        let Some(conn) = self.connections.get_mut(id) else { return };
        let frame =
            drawbridge_protocol::codec::encode_frame(conn.encoding, &ServerMessage::Error(error.clone()));
        match &mut conn.phase {
            Phase::Joining(joining) => joining.errors.push(frame),
            Phase::Connecting | Phase::Open => self.push(id, frame),
        }
    }
}
