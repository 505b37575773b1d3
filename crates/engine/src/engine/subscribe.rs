//! Subscribing and unsubscribing (contract §3): a connection's part, and this shard's interest in a channel, which
//! the broker is notified when the first subscriber comes and when the last one leaves.

use drawbridge_protocol::{
    CloseCode, ErrorCode, ErrorMessage, RequestId, ServerMessage, Subscribe, SubscriptionInfo,
};

use super::Engine;
use super::refusal::Refusal;
use super::views::compile_filter;
use crate::area::Area;
use crate::audience::NOBODY;
use crate::expr::Expr;
use crate::io::{BrokerCommand, ChannelPosition, Output, SessionId, Subject, Ticket};
use crate::pattern_index::match_work;
use crate::permissions;
use crate::phase::{Phase as SubscriptionPhase, Success};
use crate::rate_limit::PatternsFull;
use crate::session::{Origin, Phase, Subscription};
use crate::targets::{LOST, Reply, Subscriber, Target, TargetId, Waiter};

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
    /// Its filter would take too long over the channel's table.
    OverLimit,
}

/// What a subscription is to be.
struct SubscribeSpec {
    subject: Subject,
    filter: Option<Expr>,
    area: Option<Box<Area>>,
}

impl Engine {
    /// A client's subscribe request, by itself or (`in_connect`) as part of its `CONNECT`.
    pub(super) fn subscribe(
        &mut self,
        id: SessionId,
        request: Option<RequestId>,
        subscribe: Subscribe,
        in_connect: bool,
    ) {
        if self.sessions[id].is_closing() {
            return;
        }
        // Cheap, and not to be retried: before anything is drawn for it.
        let authorized = self.check_room(id, &subscribe.channel).and_then(|()| {
            self.take_subscribe(id)?;
            let spec = self.authorize_subscribe(id, &subscribe)?;
            if self.is_work(&spec.subject, spec.filter.as_ref()) {
                self.check_work(id)?;
            }
            self.check_table(&spec.subject, spec.filter.as_ref(), spec.area.as_deref())?;
            self.check_share(id, &spec.subject, spec.filter.as_ref())?;
            self.check_filter_work(id, &spec.subject, spec.filter.as_ref(), spec.area.is_some())?;
            self.take_pattern(id, &spec.subject)?;
            Ok(spec)
        });
        match authorized {
            Ok(SubscribeSpec { subject, filter, area }) => {
                let reply = match request {
                    _ if in_connect => Reply::Welcome,
                    Some(request) => Reply::Request(request),
                    None => Reply::Silent,
                };
                self.add_subscription(id, &subject, Origin::Client, filter, area, reply);
            }
            Err(mut refusal) => {
                if refusal.code == ErrorCode::Forbidden
                    && let Some(claims) = &self.sessions[id].claims
                {
                    let misfit = permissions::subscribe_misfit(&self.settings, claims, &subscribe.channel);
                    refusal.text.extend(misfit.map(|misfit| format!("; {misfit}")));
                }
                let refusal = self.denied(id, "CHANNEL_SUBSCRIBE", &subscribe.channel, refusal);
                self.refuse_subscription(id, request.as_ref(), &subscribe.channel, &refusal, in_connect);
            }
        }
    }

    pub(super) fn refuse_subscription(
        &mut self,
        id: SessionId,
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

    fn authorize_subscribe(&self, id: SessionId, subscribe: &Subscribe) -> Result<SubscribeSpec, Refusal> {
        let claims = self.sessions[id].claims.as_ref();
        let claims = claims.ok_or_else(|| Refusal::new(ErrorCode::Unauthenticated, "no token yet"))?;
        let subject = Subject::parse(&subscribe.channel)
            .map_err(|text| Refusal::new(ErrorCode::ChannelInvalid, text))?;
        let right = match subject.is_pattern() {
            true => permissions::may_subscribe_pattern(&self.settings, &subject.name),
            false => permissions::may_subscribe(&self.settings, claims, &subject.name),
        };
        right.map_err(Refusal::forbidden)?;
        let filter = subscribe.filter.as_deref().map(compile_filter).transpose()?;
        let area = match &subscribe.area {
            Some(area) => Some(self.authorize_area(claims, &subject, area)?),
            None => None,
        };
        Ok(SubscribeSpec { subject, filter, area })
    }

    /// Takes the player's share for one more pattern, and the class's; [`Engine::leave_target`] gives it back.
    pub(super) fn take_pattern(&self, id: SessionId, subject: &Subject) -> Result<(), Refusal> {
        let player = self.sessions[id].player();
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
    fn check_room(&self, id: SessionId, name: &str) -> Result<(), Refusal> {
        let held = self.sessions[id].subscriptions.len();
        let is_new = || Subject::parse(name).is_ok_and(|subject| !self.is_subscribed(id, &subject));
        if held >= self.settings.subscriptions && is_new() {
            return Err(Refusal::new(ErrorCode::LimitExceeded, self.too_many_subscriptions()));
        }
        Ok(())
    }

    pub(super) fn is_subscribed(&self, id: SessionId, subject: &Subject) -> bool {
        self.subscribed_target(id, subject).is_some()
    }

    /// The target of this subject, if the connection is subscribed to it.
    pub(super) fn subscribed_target(&self, id: SessionId, subject: &Subject) -> Option<TargetId> {
        let target = self.targets.find(subject)?;
        self.sessions[id].subscription(target).map(|_| target)
    }

    /// Subscribes a session, or gives its subscription another filter; `reply` follows when it is live. For a pattern
    /// that it does not hold, [`Engine::take_pattern`] comes first.
    ///
    /// Invariant: a reply is sent now, with the [`Success`] of the subscription's phase, or waits in the target for one.
    pub(super) fn add_subscription(
        &mut self,
        id: SessionId,
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
        let target_id = self.target_of(subject);
        if self.sessions[id].subscription(target_id).is_some() {
            // What was due before the reply is evaluated by the old filter.
            self.flush_target(id, target_id);
        } else {
            self.enter_target(id, target_id, origin);
        }
        self.count_anonymous_filter(id, target_id, filter.as_ref());
        self.save_soon(id);
        let session = &mut self.sessions[id];
        if let Some(left) = &mut session.left {
            left.remove(&*subject.name);
        }
        let target = &mut self.targets[target_id];
        let subscriber = target.subscriber_at_mut(session.slot_of(target_id));
        subscriber.pays |= origin != Origin::Server;
        (subscriber.filter, subscriber.area) = (filter, area);
        let success = subscriber.phase.success();
        let Some(success) = success else {
            if let (Reply::Welcome, Phase::Joining(joining)) = (&reply, &mut session.phase) {
                joining.unconfirmed += 1;
            }
            target.waiters.push(Waiter { session: id, reply });
            self.recompute_visibility(id, target_id, false);
            return;
        };
        self.recompute_visibility(id, target_id, false);
        self.notify_subscribed(id, target_id, &reply, &success);
    }

    /// Returns the target of a subject. A new one is requested from the broker.
    fn target_of(&mut self, subject: &Subject) -> TargetId {
        let (id, is_new) = self.targets.find_or_insert(subject, &self.settings.classes);
        if is_new {
            let first = self.begin_notices(id);
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Want(first)));
        }
        id
    }

    /// Puts a session among a target's subscribers.
    fn enter_target(&mut self, id: SessionId, target_id: TargetId, origin: Origin) {
        let (session, target) = (&mut self.sessions[id], &mut self.targets[target_id]);
        let slot = target.subscribers.len() as u32;
        session.subscriptions.push(Subscription { target: target_id, slot, origin });
        session.patterns += usize::from(target.subject.is_pattern());
        if target.subscribers.is_empty() {
            // Most channels of a player's own have one, and ever only one.
            target.subscribers.reserve_exact(1);
        }
        target.subscribers.push(Subscriber {
            session: id,
            phase: SubscriptionPhase::start(target.is_confirmed, !session.overrides.is_loading()),
            since: Ticket(self.next_ticket),
            filter: None,
            area: None,
            audience: NOBODY,
            member_index: 0,
            queue: None,
            // Of a pattern nothing was sent yet; of a channel not even its position.
            written: if target.subject.is_pattern() { 0 } else { LOST },
            pays: false,
            is_announced: false,
            notified_from: 0,
            is_present: false,
            missed_presence: false,
        });
        self.mark_slot_present(target_id, slot);
        self.catch_up_by_name(id, target_id);
    }

    /// Says that a subscription is live, to whom it is to be said, and sends what is in view.
    pub(super) fn notify_subscribed(
        &mut self,
        id: SessionId,
        target_id: TargetId,
        reply: &Reply,
        success: &Success,
    ) {
        let slot = self.sessions[id].slot_of(target_id);
        self.targets[target_id].announce(slot);
        let (request, by_server) = match reply {
            Reply::Request(request) => (Some(request), false),
            Reply::Server => (None, true),
            Reply::Unsolicited if self.confirm_with_verdict(id, target_id, success) => return,
            Reply::Unsolicited => (None, false),
            Reply::Silent | Reply::Welcome | Reply::Resync => return self.want_snapshot(id, target_id),
        };
        let session = &mut self.sessions[id];
        let auto = session.subscription(target_id).is_some_and(|held| held.origin == Origin::Auto);
        let position = self.position_for(id, target_id);
        let session = &mut self.sessions[id];
        let subscription =
            SubscriptionInfo { auto, ..self.targets[target_id].info(Some(success), &position) };
        let message = ServerMessage::Subscribed { id: request, subscription, by_server };
        self.out.send(session, &message);
        if session.is_open() {
            let slot = session.slot_of(target_id);
            self.targets[target_id].note_position(slot);
        }
        self.enforce_limits();
        self.want_snapshot(id, target_id);
    }

    pub(super) fn unsubscribe(&mut self, id: SessionId, request: Option<&RequestId>, channel: &str) {
        let target = Subject::parse(channel).ok().and_then(|subject| self.subscribed_target(id, &subject));
        let Some(target) = target else { return self.not_subscribed(id, request, channel) };
        let waiting = self.take_waiters(id, target);
        self.flush_target(id, target);
        let session = &mut self.sessions[id];
        if session.subscription(target).is_some_and(|held| held.origin == Origin::Auto) {
            session.left.get_or_insert_default().insert(channel.into());
        }
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

    pub(super) fn not_subscribed(&mut self, id: SessionId, request: Option<&RequestId>, channel: &str) {
        let error = ErrorMessage::new(ErrorCode::NotSubscribed, "there is no such subscription");
        self.send_error(id, ErrorMessage { id: request, channel: Some(channel), ..error });
    }

    /// Ends a subscription that its client did not end, and tells it.
    pub(super) fn end_subscription(&mut self, id: SessionId, target_id: TargetId, ended: Ended) {
        let channel = self.targets[target_id].subject.name.clone();
        let replies = self.take_waiters(id, target_id);
        self.flush_target(id, target_id);
        self.drop_subscription(id, target_id);
        let (reason, by_server, code) = match ended {
            Ended::Forbidden => ("forbidden", false, ErrorCode::Forbidden),
            Ended::ByServer => ("server", true, ErrorCode::Forbidden),
            Ended::OverLimit => ("limit", false, ErrorCode::LimitExceeded),
        };
        // Before `WELCOME` nothing was sent about it.
        if self.sessions[id].is_open() {
            self.send(id, &ServerMessage::Unsubscribed { id: None, channel: &channel, reason, by_server });
        }
        let text = "the subscription was ended before it was confirmed";
        for reply in replies {
            self.refuse_waiter(id, &channel, &reply, code, text);
        }
        // Nothing is confirmed any more that later requests could wait for.
        self.retry_deferred(id);
    }

    /// The answers of a connection that wait for the confirmation of a subscription that ends.
    fn take_waiters(&mut self, id: SessionId, target_id: TargetId) -> Vec<Reply> {
        let target = &mut self.targets[target_id];
        target.waiters.extract_if(.., |waiter| waiter.session == id).map(|waiter| waiter.reply).collect()
    }

    /// Answers who waits for the confirmation of a subscription that will not be confirmed.
    fn refuse_waiter(&mut self, id: SessionId, channel: &str, reply: &Reply, code: ErrorCode, text: &str) {
        match reply {
            Reply::Welcome => self.confirmed_for_welcome(id),
            Reply::Request(request) => {
                let error = ErrorMessage::new(code, text);
                self.send_error(id, ErrorMessage { id: Some(request), channel: Some(channel), ..error });
            }
            Reply::Server | Reply::Unsolicited | Reply::Silent | Reply::Resync => {}
        }
    }

    pub(super) fn too_many_subscriptions(&self) -> String {
        format!("a connection may hold {} subscriptions", self.settings.subscriptions)
    }

    /// Takes a session out of a target, and the target out of the shard with its last subscriber.
    pub(super) fn drop_subscription(&mut self, id: SessionId, target_id: TargetId) {
        self.leave_target(id, target_id);
        if self.targets[target_id].subscribers.is_empty() {
            let target = self.remove_target(target_id);
            let notices = target.notices.as_ref();
            if notices.is_none_or(|notices| notices.is_ready) {
                self.unwant(target.subject);
            }
            if let Some(notices) = target.notices {
                self.end_notices(target_id, *notices);
            }
        }
    }

    /// Nobody in this shard is subscribed any more.
    pub(super) fn unwant(&mut self, subject: Subject) {
        *self.releasing.entry(subject.clone()).or_insert(0) += 1;
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Unwant(subject)));
    }

    /// Takes a session out of a target.
    ///
    /// Invariant: slots are dense. The last subscriber moves into the slot that becomes free, and its session and its
    /// audience are updated.
    pub(super) fn leave_target(&mut self, id: SessionId, target_id: TargetId) {
        self.count_anonymous_filter(id, target_id, None);
        self.save_soon(id);
        let held = self.sessions[id].subscription(target_id).copied();
        if held.is_some_and(|held| self.targets[target_id].subscriber_at(held.slot).is_present) {
            self.mark_absent(id, target_id);
        }
        self.stop_catching_up(id, target_id);
        let (session, target) = (&mut self.sessions[id], &mut self.targets[target_id]);
        let Some(at) = session.subscriptions.iter().position(|held| held.target == target_id) else {
            debug_assert!(false, "{id:?} leaves what it did not hold");
            return;
        };
        let slot = session.subscriptions.remove(at).slot;
        if target.subject.is_pattern() {
            session.patterns -= 1;
            if session.patterns == 0 {
                (session.access, session.shown_logs) = (None, None);
            }
            if let Some(player) = session.player() {
                self.limits.release_pattern(player, match_work(&target.subject.name));
            }
        }
        target.waiters.retain(|waiter| waiter.session != id);
        let (left, moved) = target.remove(slot);
        debug_assert_eq!(left.session, id, "the slot of a subscriber");
        if let Some(queue) = left.queue {
            session.outbox.remove(&mut self.out.queues, queue);
        }
        session.outbox.forget(&mut self.out.queues, target_id);
        self.count_held(id);
        self.patterns_take_over(id, target_id);
        if let Some(moved) = moved {
            self.sessions[moved].set_slot(target_id, slot);
        }
    }
}

impl Target {
    /// As it is listed for a subscriber: confirmed with its [`Success`], otherwise pending.
    /// `position`: where the subscriber is in the channel.
    pub(super) fn info<'t>(
        &'t self,
        success: Option<&Success>,
        position: &'t Option<ChannelPosition>,
    ) -> SubscriptionInfo<'t> {
        let position = position.as_ref().filter(|_| success.is_some() && !self.subject.is_pattern());
        SubscriptionInfo {
            channel: &self.subject.name,
            auto: false,
            pending: success.is_none(),
            pattern: self.subject.is_pattern(),
            epoch: position.map(|position| position.epoch().as_str()),
            offset: position.map(ChannelPosition::offset),
            recovered: None,
        }
    }
}
