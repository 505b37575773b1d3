//! What a client sends: decoded, counted against its limits, put in order, and handed to the file that does it.
//!
//! Requests of one connection about one channel take effect in the order sent (contract §1). Where an earlier one
//! still waits for Redis, a later one that depends on it waits too, in a bounded queue; the others pass.

use drawbridge_protocol::{
    BadRequest, ClientMessage, CloseCode, Encoding, ErrorCode, ErrorMessage, Request, RequestId,
    ServerMessage, channel, codec, glob,
};

use drawbridge_protocol::websocket::{OpCode, encode_frame};

use super::Engine;
use super::subscribe::UNCONFIRMED;
use crate::io::{BrokerStatus, Claims, MessageKind, SessionId, WhenDown};
use crate::rate_limit::{ABUSE_WINDOW_MS, Verdict};
use crate::session::{Deferred, PendingToken, Phase, Session};

/// After so many `BAD_MESSAGE`s in a row within [`BAD_WINDOW_MS`] the connection is closed (contract §1). Fewer are, say, the
/// heartbeats of a library that knows another protocol.
const BAD_MESSAGES: usize = 10;
const BAD_WINDOW_MS: u64 = 10_000;
/// How many requests of one connection may wait for earlier ones.
const MAX_DEFERRED: usize = 512;
/// And how many bytes of them, in messages of the largest size.
const MAX_DEFERRED_MESSAGES: usize = 4;
/// Publishes that wait are held against each change of a pattern that waits: so many pairs of them may there be.
const MAX_DEFERRED_PAIRS: usize = 4_096;

impl Engine {
    /// Why requests that came together are handled one by one: an earlier one may close the session, or
    /// make a later one wait.
    pub(super) fn message(&mut self, id: SessionId, kind: MessageKind, payload: &[u8], cost_bytes: u64) {
        let encoding = self.sessions[id].encoding();
        // JSON in a binary frame is read: some game engines send nothing else. MessagePack is never text.
        if (encoding, kind) == (Encoding::MsgPack, MessageKind::Text) {
            return self.close(
                id,
                CloseCode::UnsupportedData,
                "frame of the wrong kind for the sub-protocol",
            );
        }
        let cost_bytes = cost_bytes.max(payload.len() as u64);
        let by_bytes = self.take_bytes(id, cost_bytes);
        let requests = codec::decode(encoding, payload);
        let bytes = payload.len() / requests.len().max(1);
        for request in requests {
            self.out.stats.requests += 1;
            // Counted in any case: who is over one limit must not be free of the other.
            let verdict = match (by_bytes, self.take_message(id)) {
                (Verdict::Allowed, by_messages) => by_messages,
                (_, Verdict::Abuse) => Verdict::Abuse,
                (limited, _) => limited,
            };
            let request_id = match &request {
                Ok(request) => request.id.as_ref(),
                Err(bad) => bad.id.as_ref(),
            };
            if !self.within_limits(id, request_id, verdict) {
                continue;
            }
            match request {
                Ok(request) => self.request(id, request, bytes),
                Err(bad) => self.bad_request(id, &bad),
            }
            self.finish_step();
        }
    }

    pub(super) fn oversized(&mut self, id: SessionId, cost_bytes: u64) {
        let bytes = self.settings.message_bytes;
        // What was discarded came in, and may have been inflated, all the same.
        let verdict = self.take_bytes(id, cost_bytes.max(bytes as u64));
        let text = format!("a message may have {bytes} bytes");
        self.refuse(id, None, ErrorCode::TooLarge, &text);
        if verdict == Verdict::Abuse {
            self.close(id, CloseCode::RateAbuse, "rate abuse");
        }
    }

    /// A WebSocket ping counts as a message; over the limit it stays unanswered.
    pub(super) fn pinged(&mut self, id: SessionId, payload: &[u8]) {
        match self.heartbeat_answered(id) {
            Verdict::Allowed => self.enqueue_frame(id, encode_frame(OpCode::Pong, payload)),
            Verdict::Limited { .. } => {}
            Verdict::Abuse => self.close(id, CloseCode::RateAbuse, "rate abuse"),
        }
    }

    /// A WebSocket pong too: a flood of them is work like any other.
    pub(super) fn ponged(&mut self, id: SessionId) {
        if self.heartbeat_answered(id) == Verdict::Abuse {
            self.close(id, CloseCode::RateAbuse, "rate abuse");
        }
    }

    /// The limit of bytes; whoever sends any is alive.
    fn take_bytes(&mut self, id: SessionId, cost_bytes: u64) -> Verdict {
        // Input comes from a link.
        let Some(link) = &mut self.sessions[id].link else { return Verdict::Allowed };
        link.received();
        link.bytes.take(self.out.now.mono_ms, self.settings.bytes, cost_bytes)
    }

    fn heartbeat_answered(&mut self, id: SessionId) -> Verdict {
        if let Some(link) = &mut self.sessions[id].link {
            link.received();
        }
        self.take_message(id)
    }

    fn take_message(&mut self, id: SessionId) -> Verdict {
        let (session, now_ms) = (&mut self.sessions[id], self.out.now.mono_ms);
        let by_link = match &mut session.link {
            Some(link) if !matches!(session.phase, Phase::Closing(_)) => {
                link.messages.take(now_ms, self.settings.messages, 1)
            }
            _ => return Verdict::Allowed,
        };
        match by_link {
            Verdict::Allowed => self.limits.take(now_ms, session.player(), session.address),
            verdict => verdict,
        }
    }

    /// Answers what is over a limit; returns whether to go on.
    fn within_limits(&mut self, id: SessionId, request: Option<&RequestId>, verdict: Verdict) -> bool {
        let retry_after_ms = match verdict {
            Verdict::Allowed => return !self.sessions[id].is_closing(),
            Verdict::Limited { retry_after_ms } => retry_after_ms,
            Verdict::Abuse => ABUSE_WINDOW_MS,
        };
        self.send_error(
            id,
            ErrorMessage {
                id: request,
                retry_after_ms: Some(retry_after_ms),
                ..ErrorMessage::new(ErrorCode::RateLimited, "too much, too fast: slow down")
            },
        );
        if verdict == Verdict::Abuse {
            self.close(id, CloseCode::RateAbuse, "rate abuse");
        }
        false
    }

    pub(super) fn bad_request(&mut self, id: SessionId, bad: &BadRequest) {
        self.refuse(id, bad.id.as_ref(), ErrorCode::BadMessage, &bad.reason);
        let now_ms = self.out.now.mono_ms;
        let link = self.sessions[id].link.as_mut();
        if link.is_some_and(|link| link.count_bad_message(now_ms, BAD_WINDOW_MS) >= BAD_MESSAGES) {
            self.close(id, CloseCode::ProtocolAbuse, "protocol abuse");
        }
    }

    /// Carries a request out, or makes it wait.
    ///
    /// Invariant: requests of one session about one channel take effect in the order sent, whichever of them waits.
    fn request(&mut self, id: SessionId, request: Request, bytes: usize) {
        let verdict = self.take_kind(id, &request.message);
        if !self.within_limits(id, request.id.as_ref(), verdict) {
            return;
        }
        if let Some(name) = changes(&request.message)
            && self.may_receive_own(&self.sessions[id], name)
        {
            self.fence_published(id, name);
        }
        let session = &self.sessions[id];
        let earlier = session.deferred.as_ref().map_or(&[][..], |deferred| deferred.requests.as_slice());
        if self.must_wait(session, &request.message, earlier) {
            self.defer(id, request, bytes);
        } else if self.ends_unconfirmed(session, &request.message) {
            let mut deferred = self.sessions[id].deferred.take();
            self.end_unconfirmed(id, request, deferred.as_deref_mut());
            self.sessions[id].deferred = deferred;
            self.retry_deferred(id);
        } else {
            self.execute(id, request, None);
        }
    }

    /// Whether this ends a subscription that Redis, part of which is away, has not confirmed: that needs nothing from Redis. While
    /// Redis is there its answer comes first, as for all requests about one channel.
    fn ends_unconfirmed(&self, session: &Session, message: &ClientMessage) -> bool {
        match message {
            ClientMessage::Unsubscribe { channel } => {
                self.status != BrokerStatus::Ok && self.has_pending(session, |name| name == channel)
            }
            _ => false,
        }
    }

    /// Carries out a request that [`Engine::ends_unconfirmed`] is true for. Earlier requests that were to change the
    /// subscription have nothing to act on any more; others go on waiting.
    fn end_unconfirmed(&mut self, id: SessionId, request: Request, deferred: Option<&mut Deferred>) {
        let name = channel_of(&request.message).map(str::to_owned);
        let earlier: Vec<Waiting> = deferred.map_or_else(Vec::new, |deferred| {
            let is_same = |waiting: &mut Waiting| changes(&waiting.request.message) == name.as_deref();
            let earlier: Vec<Waiting> = deferred.requests.extract_if(.., is_same).collect();
            deferred.bytes -= earlier.iter().map(|waiting| waiting.bytes).sum::<usize>();
            earlier
        });
        for Waiting { request: Request { id: earlier, message }, .. } in &earlier {
            let error = ErrorMessage::new(ErrorCode::NotSubscribed, UNCONFIRMED);
            if earlier.is_some() {
                self.send_error(
                    id,
                    ErrorMessage { id: earlier.as_ref(), channel: channel_of(message), ..error },
                );
            }
        }
        self.execute(id, request, None);
    }

    /// The limits of subscribes and of the class's publishes.
    fn take_kind(&mut self, id: SessionId, message: &ClientMessage) -> Verdict {
        let now = self.out.now.mono_ms;
        // Input comes from a link.
        let Some(link) = &mut self.sessions[id].link else { return Verdict::Allowed };
        match message {
            ClientMessage::Subscribe(_) | ClientMessage::HistoryGet(_) | ClientMessage::PresenceGet(_) => {
                link.subscribes.take(now, self.settings.subscribes, 1)
            }
            ClientMessage::Publish(publish) => {
                let class = self.settings.classes.class_of(&publish.channel);
                match class.and_then(|(class_id, class)| Some((class_id, class.publishes?))) {
                    // A name that is not well formed is of no class, whatever it looks like.
                    Some((class_id, rate)) if channel::validate(&publish.channel).is_ok() => {
                        link.publish_bucket(class_id).take(now, rate, 1)
                    }
                    _ => Verdict::Allowed,
                }
            }
            _ => Verdict::Allowed,
        }
    }

    /// Whether a request depends on something before it that is not settled.
    fn must_wait(&self, session: &Session, message: &ClientMessage, earlier: &[Waiting]) -> bool {
        match session.phase {
            Phase::Connecting => return session.pending_token.is_some(),
            Phase::Joining(_) | Phase::Returning(_) => return true,
            Phase::Open | Phase::Detached | Phase::Closing(_) => {}
        }
        if session.pending_token.is_some() {
            return !matches!(message, ClientMessage::Ping { .. });
        }
        let Some(channel) = channel_of(message) else { return false };
        if self.ends_unconfirmed(session, message) {
            return false;
        }
        let mut earlier = earlier.iter().map(|waiting| &waiting.request.message);
        match message {
            // What it published before is still to be heard as it was then.
            _ if changes(message).is_some() => {
                let is_before = |earlier: &ClientMessage| match earlier {
                    ClientMessage::Publish(publish) => covers(channel, &publish.channel),
                    earlier => channel_of(earlier) == Some(channel),
                };
                self.has_pending(session, |name| name == channel)
                    || earlier.any(is_before)
                    || (publishes(session, channel) && self.may_receive_own(session, channel))
            }
            // One page at a time, with what its client published before, and by the views of now.
            ClientMessage::HistoryGet(_) if self.status == BrokerStatus::Degraded => false,
            // What else is waited for may be with the part that is away.
            ClientMessage::HistoryGet(_) if self.status == BrokerStatus::Partial => {
                session.history.is_some()
                    || earlier.any(|earlier| matches!(earlier, ClientMessage::HistoryGet(_)))
            }
            ClientMessage::HistoryGet(_) => {
                session.history.is_some()
                    || session.overrides.is_loading()
                    || publishes(session, channel)
                    || earlier.any(|earlier| {
                        matches!(earlier, ClientMessage::HistoryGet(_))
                            || channel_of(earlier) == Some(channel)
                    })
            }
            ClientMessage::Publish(_) if self.refuses_now(channel) => false,
            ClientMessage::Publish(_) => {
                let is_before = |earlier: &ClientMessage| match changes(earlier) {
                    Some(name) => covers(name, channel),
                    None => channel_of(earlier) == Some(channel),
                };
                earlier.any(is_before) || self.has_pending(session, |name| covers(name, channel))
            }
            // One at a time; behind the subscribe that may grant it.
            ClientMessage::PresenceGet(_) => {
                self.presence.reads.is_asking(session.id)
                    || earlier.any(|earlier| changes(earlier).is_some_and(|name| covers(name, channel)))
                    || (self.status == BrokerStatus::Ok
                        && self.has_pending(session, |name| covers(name, channel)))
            }
            _ => earlier.any(|earlier| channel_of(earlier) == Some(channel)),
        }
    }

    /// Whether what the connection published may still come by a subscription of this name: Redis is there, and it has one,
    /// confirmed or not.
    fn may_receive_own(&self, session: &Session, name: &str) -> bool {
        let mut targets = session.subscriptions.iter().map(|held| &self.targets[held.target]);
        self.status == BrokerStatus::Ok
            && session.publishing.is_some()
            && targets.any(|target| *target.subject.name == *name)
    }

    /// A class that refuses while Redis is away has nothing to wait for; of a part that is away the broker knows whether it is the
    /// channel's.
    fn refuses_now(&self, channel: &str) -> bool {
        self.status != BrokerStatus::Ok
            && self
                .settings
                .classes
                .class_of(channel)
                .is_some_and(|(_, class)| class.when_broker_down == WhenDown::Reject)
    }

    /// Whether the connection has a subscription of this kind that waits for Redis: one that is not confirmed yet, or
    /// one that was requested again while the link is broken.
    fn has_pending(&self, session: &Session, which: impl Fn(&str) -> bool) -> bool {
        session.subscriptions.iter().any(|subscription| {
            let target = &self.targets[subscription.target];
            let waits = target.subscriber_at(subscription.slot).phase.is_pending()
                || target.waiters.iter().any(|waiter| waiter.session == session.id);
            waits && which(&target.subject.name)
        })
    }

    /// Keeps a request until what it waits for is settled, within the bounds. An unsubscribe is never refused: whoever
    /// is at a bound must be able to ask for less.
    fn defer(&mut self, id: SessionId, request: Request, bytes: usize) {
        let session = &self.sessions[id];
        if !self.has_room_for(session, &request.message, bytes) {
            match &request.message {
                // There is at most one for each subscription, and for each subscribe that waits.
                ClientMessage::Unsubscribe { channel } if self.has_to_end(session, channel) => {}
                ClientMessage::Unsubscribe { channel } => {
                    return self.not_subscribed(id, request.id.as_ref(), channel);
                }
                _ => return self.too_much_waits(id, &request),
            }
        }
        let session = &mut self.sessions[id];
        let claims = if session.pending_token.is_none() { session.claims.clone() } else { None };
        let deferred = session.deferred.get_or_insert_default();
        deferred.bytes += bytes;
        deferred.requests.push(Waiting { request, bytes, claims });
    }

    fn has_room_for(&self, session: &Session, message: &ClientMessage, bytes: usize) -> bool {
        let none = Deferred::default();
        let deferred = session.deferred.as_deref().unwrap_or(&none);
        let (mut patterns, mut publishes) = (0, 0);
        let waiting = deferred.requests.iter().map(|waiting| &waiting.request.message);
        for message in waiting.chain([message]) {
            patterns += usize::from(changes(message).is_some_and(channel::is_pattern));
            publishes += usize::from(matches!(message, ClientMessage::Publish(_)));
        }
        let bound = self.settings.message_bytes.saturating_mul(MAX_DEFERRED_MESSAGES);
        deferred.requests.is_empty()
            || deferred.requests.len() < MAX_DEFERRED
                && deferred.bytes + bytes <= bound
                && patterns * publishes <= MAX_DEFERRED_PAIRS
    }

    /// Whether an unsubscribe from this name has something to end: the last request about it that waits subscribes, or
    /// none waits and there is a subscription.
    fn has_to_end(&self, session: &Session, name: &str) -> bool {
        let waiting = session.deferred.iter().flat_map(|deferred| &deferred.requests);
        let last = waiting.map(|waiting| &waiting.request.message).rfind(|message| {
            let is_subscribe = matches!(message, ClientMessage::Subscribe(_));
            let is_unsubscribe = matches!(message, ClientMessage::Unsubscribe { .. });
            (is_subscribe || is_unsubscribe) && changes(message) == Some(name)
        });
        match last {
            Some(message) => matches!(message, ClientMessage::Subscribe(_)),
            None => {
                let mut held = session.subscriptions.iter().map(|held| &self.targets[held.target]);
                let joining = match session.pending_token.as_deref() {
                    Some(PendingToken::Connect(arrival)) => arrival.subscribe.as_deref().unwrap_or_default(),
                    _ => &[],
                };
                held.any(|target| *target.subject.name == *name)
                    || joining.iter().flatten().any(|subscribe| subscribe.channel == name)
            }
        }
    }

    fn too_much_waits(&mut self, id: SessionId, request: &Request) {
        self.send_error(
            id,
            ErrorMessage {
                id: request.id.as_ref(),
                channel: channel_of(&request.message),
                outcome: Some("not_done"),
                ..ErrorMessage::new(
                    ErrorCode::BrokerUnavailable,
                    "too many requests of this connection wait for Redis or for a token",
                )
            },
        );
    }

    /// A precondition changed: deferred requests are tried again after the current step.
    pub(super) fn retry_deferred(&mut self, id: SessionId) {
        if self.sessions[id].deferred.is_some() {
            self.ready.push(id);
        }
    }

    /// Ends a step: a request, or an input that is not one. Carries out what has become ready.
    ///
    /// Why not where it becomes ready: a deferred request may end subscriptions, and whoever settles something may be
    /// going through them. In order, and each of them may make others ready.
    pub(super) fn finish_step(&mut self) {
        while !self.ready.is_empty() {
            for id in std::mem::take(&mut self.ready) {
                self.run_deferred(id);
            }
        }
    }

    /// Goes through what waits, in order.
    ///
    /// Invariant: a request that goes on waiting stays behind all that were sent before it, and makes those that depend
    /// on it wait too.
    fn run_deferred(&mut self, id: SessionId) {
        let requests = self.sessions[id].deferred.take().map_or(Vec::new(), |deferred| deferred.requests);
        let (mut kept, mut ended) = (Deferred::default(), false);
        for mut waiting in requests {
            let session = &self.sessions[id];
            if session.is_closing() {
                return;
            }
            // Every token sent before it has been judged: from here on no later one changes what it may do.
            if waiting.claims.is_none() && session.pending_token.is_none() {
                waiting.claims = session.claims.clone();
            }
            if self.must_wait(session, &waiting.request.message, &kept.requests) {
                kept.bytes += waiting.bytes;
                kept.requests.push(waiting);
            } else if self.ends_unconfirmed(session, &waiting.request.message) {
                self.end_unconfirmed(id, waiting.request, Some(&mut kept));
                ended = true;
            } else {
                self.execute(id, waiting.request, waiting.claims);
            }
        }
        if !kept.requests.is_empty() {
            self.sessions[id].deferred = Some(Box::new(kept));
            // What waited for a subscription that is gone waits no longer. Each round ends one, so there are not many.
            if ended {
                self.retry_deferred(id);
            }
        }
    }

    /// `claims` are those under which it was sent, where that was earlier.
    fn execute(&mut self, id: SessionId, request: Request, claims: Option<Claims>) {
        self.charged(id, |engine| engine.carry_out(id, request, claims));
    }

    fn carry_out(
        &mut self,
        id: SessionId,
        Request { id: request, message }: Request,
        claims: Option<Claims>,
    ) {
        let session = &mut self.sessions[id];
        if matches!(session.phase, Phase::Connecting) && !matches!(message, ClientMessage::Connect(_)) {
            return self.not_connected(id, request.as_ref());
        }
        let is_good =
            !matches!(message, ClientMessage::Connect(_)) || matches!(session.phase, Phase::Connecting);
        if let Some(link) = session.link.as_mut().filter(|_| is_good) {
            link.forget_bad_messages();
        }
        match message {
            ClientMessage::Connect(connect) => self.connect(id, request, connect),
            ClientMessage::TokenRefresh { token } => {
                // Before its token is verified, so that none is applied by half.
                if let Err(refusal) = self.check_work(id) {
                    return self.send_error(id, refusal.error(request.as_ref(), None));
                }
                self.verify_token(id, token, PendingToken::Refresh { id: request });
            }
            ClientMessage::Subscribe(subscribe) => self.subscribe(id, request, subscribe, false),
            ClientMessage::Unsubscribe { channel } => {
                self.charged(id, |engine| engine.unsubscribe(id, request.as_ref(), &channel));
            }
            ClientMessage::Publish(publish) => self.publish(id, request, &publish, claims),
            ClientMessage::Ping { t } => {
                if let Some(request) = &request {
                    let server_time_ms = self.out.now.unix_ms;
                    self.send(id, &ServerMessage::Pong { id: request, t: t.as_deref(), server_time_ms });
                }
            }
            ClientMessage::FilterUpdate(update) => self.filter_update(id, request.as_ref(), &update),
            ClientMessage::PresenceGet(get) => self.presence_get(id, request, get),
            ClientMessage::HistoryGet(get) => self.history_get(id, request, &get),
        }
    }

    /// Something else than `CONNECT` came first.
    fn not_connected(&mut self, id: SessionId, request: Option<&RequestId>) {
        if self.sessions[id].claims.is_some() {
            let text = "type: CONNECT must come first on this connection (the URL says connect=1)";
            return self.bad_request(id, &BadRequest { id: request.cloned(), reason: text.to_owned() });
        }
        self.refuse(id, request, ErrorCode::Unauthenticated, "CONNECT must come first");
        self.close(id, CloseCode::Unauthenticated, "unauthenticated");
    }
}

use crate::session::Waiting;

/// The channel or pattern that a request is about. One that is longer than any may be is about none: it waits for
/// nothing, and is refused.
fn channel_of(message: &ClientMessage) -> Option<&str> {
    let name = match message {
        ClientMessage::Subscribe(subscribe) => &subscribe.channel,
        ClientMessage::Unsubscribe { channel } => channel,
        ClientMessage::Publish(publish) => &publish.channel,
        ClientMessage::FilterUpdate(update) => &update.channel,
        ClientMessage::PresenceGet(get) => &get.channel,
        ClientMessage::HistoryGet(get) => &get.channel,
        _ => return None,
    };
    (name.len() <= channel::MAX_NAME_BYTES).then_some(name)
}

/// The channel or pattern of which a request changes what its connection hears.
fn changes(message: &ClientMessage) -> Option<&str> {
    match message {
        ClientMessage::Subscribe(_) | ClientMessage::Unsubscribe { .. } | ClientMessage::FilterUpdate(_) => {
            channel_of(message)
        }
        _ => None,
    }
}

/// Whether the connection has published something that a subscription to this name hears, and that may not have come.
fn publishes(session: &Session, name: &str) -> bool {
    let mut in_flight = session.publishing.iter().flat_map(|publishing| &publishing.in_flight);
    in_flight.any(|(_, channel)| covers(name, channel))
}

/// Whether a subscription to this name hears this real channel.
pub(super) fn covers(name: &str, channel: &str) -> bool {
    if channel::is_pattern(name) { glob::glob_matches(name, channel) } else { name == channel }
}
