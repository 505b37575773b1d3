//! Subscribing and unsubscribing (contract §3): a connection's part, and this shard's interest in a channel, which
//! the broker is told when the first subscriber comes and when the last one leaves.

use drawbridge_protocol::{
    CloseCode, ErrorCode, ErrorMessage, RequestId, ServerMessage, Subscribe, SubscriptionInfo, channel,
};

use super::Engine;
use super::views::compile_filter;
use crate::area::Area;
use crate::audience::NOBODY;
use crate::connection::{Origin, Subscription};
use crate::expr::Expr;
use crate::io::{BrokerCommand, Claims, ConnId, Notice, Output, Subject, Ticket};
use crate::permissions::{self, Denied};
use crate::rate_limit::PatternsFull;
use crate::targets::{Reply, Subscriber, Target, TargetId, Waiter};
use crate::upstream::match_work;

/// What matching one channel with the patterns of one class may cost in a shard, for each byte of the channel, in the
/// units of [`match_work`].
const MAX_MATCH_WORK: usize = 65_536;

/// Why a request about a subscription fails that its client ended meanwhile.
pub(super) const UNCONFIRMED: &str = "unsubscribed before Redis had confirmed the subscription";

/// Why a subscription ends without its client having asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The claims no longer allow it.
    Forbidden,
    /// A service ended it.
    ByServer,
}

/// A subscription request that cannot be granted.
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) text: String,
    pub(super) position: Option<u64>,
    pub(super) hint: Option<String>,
    /// When the same request would be granted, with `RATE_LIMITED`.
    pub(super) retry_after_ms: Option<u64>,
    /// Refused too often for too long: the connection is closed with 4504.
    pub(super) is_abuse: bool,
}

/// What a subscription is to be.
struct Wish {
    subject: Subject,
    filter: Option<Expr>,
    area: Option<Box<Area>>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Refusal { code, text: text.into(), position: None, hint: None, retry_after_ms: None, is_abuse: false }
    }
}

impl Refusal {
    /// As the client gets it.
    pub(super) fn error<'a>(
        &'a self,
        request: Option<&'a RequestId>,
        channel: Option<&'a str>,
    ) -> ErrorMessage<'a> {
        ErrorMessage {
            id: request,
            channel,
            position: self.position,
            hint: self.hint.as_deref(),
            retry_after_ms: self.retry_after_ms,
            ..ErrorMessage::new(self.code, &self.text)
        }
    }
}

impl Engine {
    /// A client's subscribe request, by itself or (`in_connect`) as part of its `CONNECT`.
    pub(super) fn subscribe(
        &mut self,
        id: ConnId,
        request: Option<RequestId>,
        subscribe: Subscribe,
        in_connect: bool,
    ) {
        // Cheap, and not to be retried: before anything is drawn for it.
        let judged = self.check_room(id, &subscribe.channel).and_then(|()| {
            self.take_subscribe(id)?;
            let wish = self.judge_subscribe(id, &subscribe)?;
            if self.is_work(&wish.subject, wish.filter.as_ref()) {
                self.check_work(id)?;
            }
            self.check_table(&wish.subject, wish.filter.as_ref(), wish.area.as_deref())?;
            self.check_share(id, &wish.subject, wish.filter.as_ref())?;
            self.judge_work(id, &wish.subject, wish.filter.as_ref(), wish.area.is_some())?;
            self.take_pattern(id, &wish.subject)?;
            Ok(wish)
        });
        match judged {
            Ok(Wish { subject, filter, area }) => {
                let reply = match request {
                    _ if in_connect => Reply::Welcome,
                    Some(request) => Reply::Request(request),
                    None => Reply::Silent,
                };
                self.add_subscription(id, &subject, Origin::Client, filter, area, reply);
            }
            Err(mut refusal) => {
                let claims = self.connections.get(id).and_then(|conn| conn.claims.clone());
                if refusal.code == ErrorCode::Forbidden
                    && let Some(claims) = claims
                {
                    let misfit = permissions::subscribe_misfit(&self.settings, &claims, &subscribe.channel);
                    self.explain_misfit(&claims, &subscribe.channel, &mut refusal.text, misfit);
                }
                self.refuse_subscription(id, request.as_ref(), &subscribe.channel, &refusal, in_connect);
            }
        }
    }

    pub(super) fn refuse_subscription(
        &mut self,
        id: ConnId,
        request: Option<&RequestId>,
        channel: &str,
        refusal: &Refusal,
        in_connect: bool,
    ) {
        if in_connect {
            self.error_behind_welcome(id, &refusal.error(request, Some(channel)));
        } else {
            self.send_error(id, refusal.error(request, Some(channel)));
        }
        if refusal.is_abuse {
            self.close(id, CloseCode::RateAbuse, "rate abuse");
        }
    }

    fn judge_subscribe(&self, id: ConnId, subscribe: &Subscribe) -> Result<Wish, Refusal> {
        let Some(conn) = self.connections.get(id) else {
            return Err(Refusal::new(ErrorCode::Internal, "the connection is gone"));
        };
        let Some(claims) = &conn.claims else {
            return Err(Refusal::new(ErrorCode::Unauthenticated, "no token yet"));
        };
        let subject =
            subject(&subscribe.channel).map_err(|text| Refusal::new(ErrorCode::ChannelInvalid, text))?;
        let right = match subject.is_pattern() {
            true => permissions::may_subscribe_pattern(&self.settings, &subject.name),
            false => permissions::may_subscribe(&self.settings, claims, &subject.name),
        };
        right.map_err(|denied| Refusal::new(ErrorCode::Forbidden, self.explain(denied)))?;
        let filter = subscribe.filter.as_deref().map(compile_filter).transpose()?;
        let area = match &subscribe.area {
            Some(area) => Some(self.judge_area(claims, &subject, area)?),
            None => None,
        };
        Ok(Wish { subject, filter, area })
    }

    /// Takes the player's share for one more pattern, and the class's; [`Engine::leave_target`] gives it back.
    pub(super) fn take_pattern(&self, id: ConnId, subject: &Subject) -> Result<(), Refusal> {
        let player = self.connections.get(id).and_then(|conn| conn.player());
        let (true, Some(player)) = (subject.is_pattern() && !self.is_subscribed(id, subject), player) else {
            return Ok(());
        };
        let full = |text: String| Err(Refusal::new(ErrorCode::LimitExceeded, text));
        let work = match_work(&subject.name);
        let class = self.settings.classes.of_pattern(&subject.name);
        if let Some((id, class)) = class
            && self.targets.find(subject).is_none()
            && self.targets.match_work_of(id) + work > MAX_MATCH_WORK
        {
            return full(format!("the patterns of class `{}` cost as much an event as they may", class.name));
        }
        match self.limits.take_pattern(player, work) {
            Ok(()) => Ok(()),
            Err(PatternsFull::Count) => {
                let limit = self.settings.patterns_per_player;
                full(format!("a player may hold {limit} patterns, over all its connections to this node"))
            }
            Err(PatternsFull::Work) => full(
                "this player's patterns cost as much an event as they may; use fewer letters behind a `*`"
                    .into(),
            ),
        }
    }

    /// Whether the connection may hold this subscription beside those that it has.
    fn check_room(&self, id: ConnId, name: &str) -> Result<(), Refusal> {
        let held = self.connections.get(id).map_or(0, |conn| conn.subscriptions.len());
        let is_new = || subject(name).is_ok_and(|subject| !self.is_subscribed(id, &subject));
        if held >= self.settings.subscriptions && is_new() {
            return Err(Refusal::new(ErrorCode::LimitExceeded, self.too_many_subscriptions()));
        }
        Ok(())
    }

    /// What a client is told of a right that it lacks.
    pub(super) fn explain(&self, denied: Denied) -> String {
        if self.settings.explain { denied.0 } else { "not allowed".to_owned() }
    }

    /// Tells the operator, and where the settings explain the client, that the rule could not hold.
    pub(super) fn explain_misfit(
        &mut self,
        claims: &Claims,
        channel: &str,
        text: &mut String,
        misfit: Option<String>,
    ) {
        let Some(why) = misfit else { return };
        if self.settings.explain {
            *text += &format!("; {why}");
        }
        let (player, channel) = (claims.player.clone(), channel.to_owned());
        self.notice(Notice::RuleMisfit { player, channel, why });
    }

    pub(super) fn is_subscribed(&self, id: ConnId, subject: &Subject) -> bool {
        self.subscribed_target(id, subject).is_some()
    }

    /// The target of this subject, if the connection is subscribed to it.
    pub(super) fn subscribed_target(&self, id: ConnId, subject: &Subject) -> Option<TargetId> {
        let target = self.targets.find(subject)?;
        self.connections.get(id)?.subscription(target).map(|_| target)
    }

    /// Whether Redis has confirmed this subscription of this connection.
    pub(super) fn is_live(&self, id: ConnId, target: TargetId) -> bool {
        let slot =
            self.connections.get(id).and_then(|conn| conn.subscription(target)).map(|s| s.slot as usize);
        let subscribers = self.targets.get(target).map(|target| &target.subscribers);
        matches!((slot, subscribers), (Some(slot), Some(all)) if all.get(slot).is_some_and(|one| one.live))
    }

    /// Subscribes a connection, or gives its subscription another filter; `reply` follows when it is live. For a pattern
    /// that it does not hold, [`Engine::take_pattern`] comes first.
    pub(super) fn add_subscription(
        &mut self,
        id: ConnId,
        subject: &Subject,
        origin: Origin,
        filter: Option<Expr>,
        area: Option<Box<Area>>,
        reply: Reply,
    ) {
        if !subject.is_pattern() {
            // From now on its own subscription alone tells its table.
            self.flush_channel(id, &subject.name);
        }
        let Some(conn) = self.connections.get_mut(id) else { return };
        let (target_id, new) = self.targets.find_or_insert(subject, &self.settings.classes);
        if new {
            self.outputs.push_back(Output::Broker(BrokerCommand::Want(subject.clone())));
        }
        let Some(target) = self.targets.get_mut(target_id) else { return };
        let gated = conn.narrowed.is_loading();
        let known = conn.subscription(target_id).is_some();
        if !known {
            let slot = target.subscribers.len() as u32;
            conn.subscriptions.push(Subscription { target: target_id, slot, origin });
            conn.patterns += usize::from(subject.is_pattern());
            if target.subscribers.is_empty() {
                // Most channels of a player's own have one, and ever only one.
                target.subscribers.reserve_exact(1);
            }
            target.subscribers.push(Subscriber {
                conn: id,
                live: target.live && !gated,
                since: Ticket(self.next_ticket),
                filter: None,
                area: None,
                audience: NOBODY,
                place: 0,
                queue: None,
                pays: false,
            });
        }
        let slot = conn.subscription(target_id).map(|subscription| subscription.slot as usize);
        if let Some(subscriber) = slot.and_then(|slot| target.subscribers.get_mut(slot)) {
            subscriber.pays |= origin != Origin::Server;
        }
        let is_live = slot.and_then(|slot| target.subscribers.get(slot)).is_some_and(|theirs| theirs.live);
        let confirmed = target.live && is_live;
        if known {
            // What was due before the reply is judged by the old filter.
            self.flush_target(id, target_id);
        }
        if !confirmed {
            let (Some(conn), Some(target)) = (self.connections.get_mut(id), self.targets.get_mut(target_id))
            else {
                return;
            };
            if matches!(reply, Reply::Welcome)
                && let crate::connection::Phase::Joining(joining) = &mut conn.phase
            {
                joining.unconfirmed += 1;
            }
            target.waiters.push(Waiter { conn: id, reply });
            self.set_view(id, target_id, filter, area);
            return self.look_anew(id, target_id, false);
        }
        self.set_view(id, target_id, filter, area);
        self.look_anew(id, target_id, false);
        self.tell_subscribed(id, target_id, &reply);
    }

    pub(super) fn tell_subscribed(&mut self, id: ConnId, target_id: TargetId, reply: &Reply) {
        let (request, by_server) = match reply {
            Reply::Request(request) => (Some(request), false),
            Reply::Server => (None, true),
            Reply::Told => (None, false),
            Reply::Silent | Reply::Welcome | Reply::Resync => return self.want_snapshot(id, target_id),
        };
        let Some(conn) = self.connections.get(id) else { return };
        let auto =
            conn.subscription(target_id).is_some_and(|subscription| subscription.origin == Origin::Auto);
        let Some(target) = self.targets.get(target_id) else { return };
        let subscription = SubscriptionInfo { auto, ..target.info(true) };
        let message = ServerMessage::Subscribed { id: request, subscription, by_server };
        let frame = drawbridge_protocol::codec::encode_frame(conn.encoding, &message);
        self.push(id, frame);
        self.want_snapshot(id, target_id);
    }

    pub(super) fn unsubscribe(&mut self, id: ConnId, request: Option<&RequestId>, channel: &str) {
        let target = subject(channel).ok().and_then(|subject| self.subscribed_target(id, &subject));
        let Some(target) = target else { return self.not_subscribed(id, request, channel) };
        let waiting = self.take_waiters(id, target);
        self.flush_target(id, target);
        self.drop_subscription(id, target);
        for reply in waiting {
            self.refuse_waiter(id, channel, &reply, ErrorCode::NotSubscribed, UNCONFIRMED);
        }
        if request.is_some() {
            let message =
                ServerMessage::Unsubscribed { id: request, channel, reason: "client", by_server: false };
            self.send(id, &message);
        }
    }

    pub(super) fn not_subscribed(&mut self, id: ConnId, request: Option<&RequestId>, channel: &str) {
        let error = ErrorMessage::new(ErrorCode::NotSubscribed, "there is no such subscription");
        self.send_error(id, ErrorMessage { id: request, channel: Some(channel), ..error });
    }

    /// Ends a subscription that its client did not end, and tells it.
    pub(super) fn end_subscription(&mut self, id: ConnId, target_id: TargetId, ended: Ended) {
        let Some(channel) = self.targets.get(target_id).map(|target| target.subject.name.clone()) else {
            return;
        };
        let replies = self.take_waiters(id, target_id);
        self.flush_target(id, target_id);
        self.drop_subscription(id, target_id);
        let (reason, by_server) = match ended {
            Ended::Forbidden => ("forbidden", false),
            Ended::ByServer => ("server", true),
        };
        // Before `WELCOME` nothing was told of it.
        if self.connections.get(id).is_some_and(|conn| conn.is_open()) {
            self.send(id, &ServerMessage::Unsubscribed { id: None, channel: &channel, reason, by_server });
        }
        let text = "the subscription was ended before it was confirmed";
        for reply in replies {
            self.refuse_waiter(id, &channel, &reply, ErrorCode::Forbidden, text);
        }
    }

    /// The answers of a connection that wait for the confirmation of a subscription that ends.
    fn take_waiters(&mut self, id: ConnId, target_id: TargetId) -> Vec<Reply> {
        let Some(target) = self.targets.get_mut(target_id) else { return Vec::new() };
        target.waiters.extract_if(.., |waiter| waiter.conn == id).map(|waiter| waiter.reply).collect()
    }

    /// Answers who waits for the confirmation of a subscription that will not be confirmed.
    fn refuse_waiter(&mut self, id: ConnId, channel: &str, reply: &Reply, code: ErrorCode, text: &str) {
        match reply {
            Reply::Welcome => self.confirmed_for_welcome(id),
            Reply::Request(request) => {
                let error = ErrorMessage::new(code, text);
                self.send_error(id, ErrorMessage { id: Some(request), channel: Some(channel), ..error });
            }
            Reply::Server | Reply::Told | Reply::Silent | Reply::Resync => {}
        }
    }

    pub(super) fn too_many_subscriptions(&self) -> String {
        format!("a connection may hold {} subscriptions", self.settings.subscriptions)
    }

    /// Takes a connection out of a target, and the target out of the shard with its last subscriber.
    pub(super) fn drop_subscription(&mut self, id: ConnId, target_id: TargetId) {
        self.leave_target(id, target_id);
        if self.targets.get(target_id).is_some_and(|target| target.subscribers.is_empty())
            && let Some(target) = self.targets.remove(target_id)
        {
            *self.releasing.entry(target.subject.clone()).or_insert(0) += 1;
            self.outputs.push_back(Output::Broker(BrokerCommand::Unwant(target.subject)));
        }
    }

    /// Takes a connection out of a target.
    pub(super) fn leave_target(&mut self, id: ConnId, target_id: TargetId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        let Some(at) = conn.subscriptions.iter().position(|s| s.target == target_id) else { return };
        let slot = conn.subscriptions.remove(at).slot as usize;
        let Some(target) = self.targets.get_mut(target_id) else { return };
        if target.subject.is_pattern() {
            conn.patterns -= 1;
            if conn.patterns == 0 {
                conn.access = None;
            }
            if let Some(player) = conn.player() {
                self.limits.release_pattern(player, match_work(&target.subject.name));
            }
        }
        target.waiters.retain(|waiter| waiter.conn != id);
        let queue = target.subscribers.get_mut(slot).and_then(|subscriber| subscriber.queue.take());
        let moved = target.remove(slot as u32);
        if let Some(queue) = queue {
            conn.outbox.remove(&mut self.queues, queue);
        }
        conn.outbox.forget(&mut self.queues, target_id);
        if let Some(other) = moved.and_then(|moved| self.connections.get_mut(moved))
            && let Some(subscription) = other.subscriptions.iter_mut().find(|s| s.target == target_id)
        {
            subscription.slot = slot as u32;
        }
    }
}

/// A well-formed name as a subject, or what is wrong with it.
pub(super) fn subject(name: &str) -> Result<Subject, String> {
    let is_pattern = channel::validate_subject(name).map_err(|error| format!("channel: {error}"))?;
    Ok(if is_pattern { Subject::pattern(name) } else { Subject::channel(name) })
}

impl Target {
    /// As it is shown to a subscriber for whom it is live, or not yet.
    pub(super) fn info(&self, live: bool) -> SubscriptionInfo<'_> {
        let position = self.position.as_ref().filter(|_| live && !self.subject.is_pattern());
        SubscriptionInfo {
            channel: &self.subject.name,
            auto: false,
            pending: !live,
            pattern: self.subject.is_pattern(),
            epoch: position.map(|position| position.epoch.as_str()),
            offset: position.map(|position| position.offset.0),
        }
    }
}
