//! What a subscriber is shown: made from the class's view, the view overrides for the player, and the
//! client's filter and area; made again when one of them changes during play (contract §5, `FILTER_UPDATE`; §9, `view`).
//! What is asked of events stands in [`crate::view`], areas in [`crate::area`].

use std::sync::Arc;

use drawbridge_protocol::{ErrorCode, ErrorMessage, FilterUpdate, RequestId, SentArea, ServerMessage};

use super::Engine;
use super::deliver::delivery_of;
use super::entities::EntityUpdate;
use super::refusal::Refusal;
use crate::area::Area;
use crate::audience::{Audiences, EVERYBODY, Visibility};
use crate::class::Class;
use crate::expr::{self, Expr, Vars};
use crate::io::{
    BarrierToken, BrokerCommand, Claims, Notice, Output, PlayerOverrides, Query, QueryKind, SessionId,
    Subject, Ticket,
};
use crate::permissions::{self, Denied};
use crate::session::{Phase, Session};
use crate::targets::{Reply, TargetId, Waiter};
use crate::view::{RuleScope, bind, bind_me};
use crate::work;
use crate::world::{Change, Seen};

/// Where the compiler has no better one.
const FILTER_HINT: &str =
    "a filter is one condition of at most 1024 bytes, like: event == 'hit' && data.damage > 10";
/// What asking the filters of one channel, or of all patterns of one class, that no index answers may cost an event, in
/// the units of [`crate::filter_index`]; `docs/filters.md` says what that means.
pub(super) const MAX_FILTER_WORK: usize = 100_000;
/// The pause before players' views are requested again after Redis has refused, in milliseconds.
const RETRY_OVERRIDES_MS: u64 = 5_000;

/// More changes than this are sent as a new snapshot. Why: a snapshot is made in parts, as fast as the socket takes them,
/// while changes are all enqueued at once, and everyone else on the shard waits for that.
const MAX_DIFFERENCE: usize = 2_048;

impl Engine {
    pub(super) fn filter_update(
        &mut self,
        id: SessionId,
        request: Option<&RequestId>,
        update: &FilterUpdate,
    ) {
        let target =
            Subject::parse(&update.channel).ok().and_then(|subject| self.subscribed_target(id, &subject));
        let Some(target) = target else {
            let refusal = Refusal::new(ErrorCode::NotSubscribed, "there is no such subscription");
            return self.refuse_subscription(id, request, &update.channel, &refusal, false);
        };
        let authorized = self.check_work(id).and_then(|()| {
            let (filter, area) = self.authorize_update(id, target, update)?;
            // Without its area, what nothing but the area was asked about is asked about every event.
            if update.filter.is_some() || update.area.is_some() {
                let name = &update.channel;
                let subject = Subject::named(name.as_str());
                self.check_table(&subject, filter.as_ref(), area.as_deref())?;
                self.check_share(id, &subject, filter.as_ref())?;
                self.check_filter_work(id, &subject, filter.as_ref(), area.is_some())?;
            }
            Ok((filter, area))
        });
        match authorized {
            Ok((filter, area)) => {
                // The reply is the boundary: what was due before is evaluated by the old view.
                self.flush_target(id, target);
                if let Some(request) = request {
                    let message = ServerMessage::FilterUpdated { id: request, channel: &update.channel };
                    self.send(id, &message);
                }
                self.set_view(id, target, filter, area);
                self.save_soon(id);
                self.recompute_visibility_paid(id, target);
            }
            Err(refusal) => {
                let refusal = self.denied(id, "FILTER_UPDATE", &update.channel, refusal);
                self.refuse_subscription(id, request, &update.channel, &refusal, false);
            }
        }
    }

    /// The filter and the area as they will be.
    fn authorize_update(
        &self,
        id: SessionId,
        target_id: TargetId,
        update: &FilterUpdate,
    ) -> Result<(Option<Expr>, Option<Box<Area>>), Refusal> {
        let gone = || Refusal::new(ErrorCode::NotSubscribed, "there is no such subscription");
        let (session, target) = (&self.sessions[id], &self.targets[target_id]);
        let subscriber = target.subscriber(session, target_id).ok_or_else(gone)?;
        let filter = match &update.filter {
            None => subscriber.filter.clone(),
            Some(filter) => filter.as_deref().map(compile_filter).transpose()?,
        };
        let claims = session.claims.as_ref().ok_or_else(gone)?;
        let area = match &update.area {
            None => subscriber.area.clone(),
            Some(None) => None,
            Some(Some(area)) => Some(self.authorize_area(claims, &target.subject, area)?),
        };
        Ok((filter, area))
    }

    /// An area that the channel's class allows.
    pub(super) fn authorize_area(
        &self,
        claims: &Claims,
        subject: &Subject,
        area: &SentArea,
    ) -> Result<Box<Area>, Refusal> {
        let invalid = |message: &str, position: usize, hint: &str| {
            let refusal = Refusal::new(ErrorCode::FilterInvalid, format!("area: {message}"));
            Refusal { position: Some(position as u64), hint: Some(hint.to_owned()), ..refusal }
        };
        let class = self.settings.classes.class_of(&subject.name).filter(|_| !subject.is_pattern());
        let Some(space) = class.and_then(|(_, class)| class.space()) else {
            let hint = "an area needs a channel by its name, whose class has `position`";
            return Err(invalid("this subscription has no positions", 0, hint));
        };
        let area = Area::parse(area.get(), space.max_radius)
            .map_err(|error| invalid(&error.message, area.sent_at(error.position), error.hint))?;
        if let Area::Follow { key, .. } = &area
            && !may_follow(&self.settings.classes, claims, &subject.name, &space.follow, key)
        {
            let denied = Denied(format!("follow = `{}`", space.follow));
            return Err(Refusal::forbidden(denied));
        }
        Ok(Box::new(area))
    }

    /// Whether new claims still allow what a subscription's area follows.
    pub(super) fn may_still_follow(&self, id: SessionId, target_id: TargetId, claims: &Claims) -> bool {
        let target = &self.targets[target_id];
        let subscriber = target.subscriber(&self.sessions[id], target_id);
        let area = subscriber.and_then(|subscriber| subscriber.area.as_deref());
        let class = target.class.and_then(|class| self.settings.classes.get(class));
        match (area, class.and_then(Class::space)) {
            (Some(Area::Follow { key, .. }), Some(space)) => {
                may_follow(&self.settings.classes, claims, &target.subject.name, &space.follow, key)
            }
            _ => true,
        }
    }

    /// Filters that no index answers are asked about every event: a channel bears only so many.
    pub(super) fn check_filter_work(
        &mut self,
        id: SessionId,
        subject: &Subject,
        filter: Option<&Expr>,
        has_area: bool,
    ) -> Result<(), Refusal> {
        let session = &self.sessions[id];
        let (Some(filter), Some(claims), false) = (filter, &session.claims, has_area) else { return Ok(()) };
        let scope = RuleScope::new(claims, &subject.name, &[]);
        let view = if subject.is_pattern() {
            self.views.get(None, Some(bind_me(filter, &scope)))
        } else {
            let view_override = session.overrides.of(&subject.name);
            let server = permissions::server_view(&self.settings, claims, &subject.name, view_override);
            self.views.get(server, Some(bind(filter, &scope)))
        };
        let audiences = self.targets.find(subject).and_then(|id| self.targets[id].audiences.as_ref());
        let work = match audiences {
            Some(audiences) => audiences.work_with(view.as_ref()),
            None => Audiences::default().work_with(view.as_ref()),
        };
        if work + self.filter_work_beside(subject) <= MAX_FILTER_WORK {
            return Ok(());
        }
        let text = "filter: the filters of this channel, or of its class's patterns, cost as much an event as they may together";
        let hint = "compare a field of the event with a constant, a list or a range: such filters are found without asking";
        Err(Refusal { hint: Some(hint.to_owned()), ..Refusal::new(ErrorCode::LimitExceeded, text) })
    }

    /// What the filters of other patterns of the same class cost: one event may be for all of them.
    fn filter_work_beside(&self, subject: &Subject) -> usize {
        let class = self.settings.classes.of_pattern(&subject.name).filter(|_| subject.is_pattern());
        let Some((id, class)) = class else { return 0 };
        let others = self.targets.patterns_of(id, class.name.literal_prefix());
        let audiences =
            others.filter(|target| target.subject != *subject).filter_map(|t| t.audiences.as_ref());
        audiences.map(|audiences| audiences.work()).sum()
    }

    fn set_view(
        &mut self,
        id: SessionId,
        target_id: TargetId,
        filter: Option<Expr>,
        area: Option<Box<Area>>,
    ) {
        self.count_anonymous_filter(id, target_id, filter.as_ref());
        let target = &mut self.targets[target_id];
        if let Some(subscriber) = target.subscriber_mut(&self.sessions[id], target_id) {
            (subscriber.filter, subscriber.area) = (filter, area);
        }
    }

    /// What a subscriber looks at, by its claims of now.
    fn visibility(&mut self, id: SessionId, target_id: TargetId) -> Option<Visibility> {
        let session = &self.sessions[id];
        let claims = session.claims.as_ref()?;
        let target = &self.targets[target_id];
        let subscriber = target.subscriber(session, target_id)?;
        let name = &target.subject.name;
        let scope = RuleScope::new(claims, name, &[]);
        if let Some(filter) = &subscriber.filter {
            self.targets.work.add(work::to_evaluate(filter.work(), claims.json.len()));
        }
        if target.subject.is_pattern() {
            let client = subscriber.filter.as_ref().map(|filter| bind_me(filter, &scope));
            return Some(Visibility::Filtered(self.views.get(None, client)));
        }
        let view_override = session.overrides.of(name);
        let server = permissions::server_view(&self.settings, claims, name, view_override);
        let client = subscriber.filter.as_ref().map(|filter| bind(filter, &scope));
        let class: Option<&Class> = target.class.and_then(|class| self.settings.classes.get(class));
        let space = class.and_then(Class::space);
        let area = subscriber.area.as_deref().cloned();
        let view = self.views.get(server, client);
        Some(match (space, area) {
            (Some(_), Some(area)) => Visibility::InArea(view, area),
            (Some(space), None) if space.area_required => Visibility::Nothing,
            _ => Visibility::Filtered(view),
        })
    }

    /// Moves a subscriber to the audience of its current view. `notify`: it is notified of what enters and leaves its view, which
    /// is not needed if all that is in view is sent again. Returns whether a snapshot starts, or a running one again.
    ///
    /// Invariant: what the client knows of a table afterwards, with what waits for it, is what its new view shows. A
    /// snapshot that is wanted or running starts again; without one the client is notified of the difference.
    pub(super) fn recompute_visibility(&mut self, id: SessionId, target_id: TargetId, notify: bool) -> bool {
        if matches!(self.sessions[id].phase, Phase::Detached) && self.targets[target_id].world.is_some() {
            // It finds its place when it returns.
            return false;
        }
        // Without claims, or without the subscription, there is nothing to see.
        let Some(visibility) = self.visibility(id, target_id) else { return false };
        if self.sessions[id].holds_events() && !self.is_seen_so(id, target_id, &visibility) {
            self.lose(id, target_id);
        }
        let (session, target) = (&mut self.sessions[id], &mut self.targets[target_id]);
        let slot = session.slot_of(target_id);
        let subscriber = &mut target.subscribers[slot as usize];
        let audience = subscriber.audience;
        // Nothing is sent about an incomplete table: all of it follows when the table and the views are known.
        let is_loaded = target.world.as_ref().is_none_or(|world| world.loaded);
        let notify = notify && subscriber.phase.is_shown_events() && is_loaded;
        if notify
            && target.world.is_some()
            && target.audiences.as_ref().is_some_and(|all| all.is_at(audience, &visibility))
        {
            return false;
        }
        let mut is_restarted = false;
        if let Some(queue) = subscriber.queue {
            is_restarted = self.out.queues.has_snapshot(queue);
            self.out.change(session, queue, |queue| match queue.snapshot {
                // A running snapshot starts again, with what is in view now.
                Some(_) => queue.restart(None),
                // A snapshot follows.
                None if !notify => queue.clear(),
                None => {}
            });
        }
        if notify && target.world.is_some() {
            is_restarted |= self.change_visibility(target_id, slot, visibility);
        } else {
            target.leave_audience(slot);
            target.join_audience(slot, visibility);
        }
        is_restarted
    }

    /// Whether a subscriber is where it sees this.
    fn is_seen_so(&self, id: SessionId, target_id: TargetId, visibility: &Visibility) -> bool {
        let target = &self.targets[target_id];
        let audience = target.subscriber_at(self.sessions[id].slot_of(target_id)).audience;
        match &target.audiences {
            Some(audiences) => audiences.is_at(audience, visibility),
            None => audience == EVERYBODY && matches!(visibility, Visibility::Filtered(None)),
        }
    }

    /// As [`Engine::recompute_visibility`], at the client's request: it is charged for a snapshot that starts again.
    pub(super) fn recompute_visibility_paid(&mut self, id: SessionId, target_id: TargetId) {
        let is_restarted = self.recompute_visibility(id, target_id, true);
        if let Some(subscriber) = self.targets[target_id].subscriber_mut(&self.sessions[id], target_id) {
            subscriber.pays |= is_restarted;
        }
    }

    /// Gives a subscriber of a table another visibility, and notifies it of the changes. Returns whether it sends a new
    /// snapshot instead.
    fn change_visibility(&mut self, target_id: TargetId, slot: u32, visibility: Visibility) -> bool {
        let target = &mut self.targets[target_id];
        let audience = target.subscriber_at(slot).audience;
        let Some((world, audiences)) = target.table_mut() else { return false };
        let observer =
            audiences.get_mut(audience).and_then(|who| who.observer.as_mut().zip(Some(&mut who.view)));
        match (observer, visibility) {
            // The area moves; what it would keep in view if the world had moved stays in view.
            (Some((observer, seen_by)), Visibility::InArea(view, area)) => {
                *seen_by = view;
                let before = std::mem::replace(&mut observer.area, area);
                world.stop_following(&before, audience);
                let mut changes = Vec::new();
                world.add_observer(audiences, audience, &mut changes);
                self.notify_audiences(target_id, None, &mut changes);
                false
            }
            (_, visibility) => {
                let before = world.seen_by(audiences, audience);
                target.leave_audience(slot);
                target.join_audience(slot, visibility);
                self.notify_difference(target_id, slot, &before)
            }
        }
    }

    /// Notifies one subscriber of what it sees now and did not before, and the other way round. Returns whether it
    /// sends a new snapshot instead.
    fn notify_difference(&mut self, target_id: TargetId, slot: u32, before: &Seen) -> bool {
        let target = &mut self.targets[target_id];
        let delivery = delivery_of(&self.settings, target.class);
        let audience = target.subscriber_at(slot).audience;
        let Some((world, audiences)) = target.table_mut() else { return false };
        let Some((gone, new)) = world.difference(before, audiences, audience, MAX_DIFFERENCE) else {
            let session = target.subscriber_at(slot).session;
            self.want_snapshot(session, target_id);
            return true;
        };
        let gone = gone.into_iter().map(|id| (id, Change::Hide));
        let changes = gone.chain(new.into_iter().map(|id| (id, Change::Enter)));
        let states = changes.filter_map(|(id, change)| Some((id, change, world.state(id)?.clone())));
        for (entity, change, state) in states.collect::<Vec<_>>() {
            let bytes = if change == Change::Enter { state.event.data_json().len() } else { 0 };
            self.targets.work.add(work::to_send(bytes));
            let update =
                EntityUpdate { target: target_id, entity, change, state: &state, is_new_state: false };
            let subscriber = self.targets[target_id].subscriber_at_mut(slot);
            self.out.notify(&mut self.sessions, subscriber, &update, &delivery);
        }
        self.enforce_limits();
        false
    }

    /// Reads a player's view overrides; until they are known nothing new is shown.
    pub(super) fn load_overrides(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        // Views are a player's: who is not known yet has none to be read.
        let Some(player) = session.player().cloned() else { return };
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let before = session.overrides.query();
        session.overrides.start_loading(ticket);
        session.deadlines.overrides_ms = 0;
        self.out.timers.arm(session);
        self.cancel_query(before);
        self.loading.insert(ticket, id);
        let query = Query::new(ticket, QueryKind::ViewOverrides { player });
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Query(query)));
    }

    /// Anybody's view overrides may be other than what is known. `dropped`: also of channels whose
    /// events go on coming.
    pub(super) fn recover(&mut self, dropped: bool, token: Option<BarrierToken>) {
        // Nothing passes while the queries before are withdrawn one by one.
        let barrier = std::mem::take(&mut self.barrier);
        self.load_all_overrides(dropped);
        self.barrier = barrier.raised(token, Ticket(self.next_ticket));
        self.pass_barrier();
    }

    fn load_all_overrides(&mut self, dropped: bool) {
        // Also an anonymous one's: once it has joined, services can know its name.
        let joined =
            |session: &&Session| matches!(session.phase, Phase::Joining(_) | Phase::Open | Phase::Detached);
        let all: Vec<SessionId> = self.sessions.iter().filter(joined).map(|session| session.id).collect();
        for id in all {
            self.load_overrides(id);
            if dropped {
                self.suspend_delivery(id);
            }
        }
    }

    /// Shows nothing more until the views are known.
    fn suspend_delivery(&mut self, id: SessionId) {
        for subscription in self.sessions[id].subscriptions.clone() {
            let target = &mut self.targets[subscription.target];
            if target.subscriber_at_mut(subscription.slot).phase.suspend() {
                self.suspended(id, subscription.target);
            }
        }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn cancel_query(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket
            && self.loading.remove(&ticket).is_some()
        {
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Withdraw(ticket)));
            self.pass_barrier();
        }
    }

    /// Once the views of all are known that were queried again, what the links lost may come back.
    fn pass_barrier(&mut self) {
        let oldest = self.loading.first_key_value().map(|(oldest, _)| *oldest);
        for token in self.barrier.pass(oldest) {
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Recovered(token)));
        }
    }

    pub(super) fn overrides_loaded(&mut self, ticket: Ticket, views: Result<PlayerOverrides, Arc<str>>) {
        // It was asked again meanwhile, or its session has ended.
        let Some(id) = self.loading.remove(&ticket) else { return };
        match views {
            Ok(views) => {
                let compiled = views.iter().map(|(channel, view)| (channel.clone(), compile_view(view)));
                for channel in self.sessions[id].overrides.finish_loading(compiled) {
                    self.override_changed(id, &channel);
                }
                self.resume_delivery(id);
            }
            Err(reason) => self.overrides_refused(id, &reason),
        }
        self.pass_barrier();
    }

    fn overrides_refused(&mut self, id: SessionId, reason: &str) {
        let session = &mut self.sessions[id];
        let player = session.player().cloned().unwrap_or_default();
        let may_not_read = reason.starts_with("NOPERM");
        let opens = may_not_read && self.settings.views_open_without_permission;
        if opens {
            // The operator says that nobody uses views here: the class's hold.
            session.overrides.keep_known();
        } else {
            // They may be narrower than what is known: nothing new is shown until they are told. Not all ask at once.
            session.overrides.refused();
            self.retry_overrides(id);
        }
        self.notice(Notice::OverridesRefused { player, reason: reason.to_owned(), withheld: !opens });
        if opens {
            self.resume_delivery(id);
        } else if may_not_read {
            self.refuse_waiting(id, reason);
        }
    }

    /// Requests a player's view overrides again a little later.
    pub(super) fn retry_overrides(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        let spread_ms = u64::from(id.index) % RETRY_OVERRIDES_MS;
        session.deadlines.overrides_ms = self.out.now.mono_ms + RETRY_OVERRIDES_MS + spread_ms;
        self.out.timers.arm(session);
    }

    /// Redis will not let this node read the player's views before somebody gives it the right: who waits for an answer
    /// is refused. Automatic subscriptions stay pending, and are confirmed once the views can be read.
    fn refuse_waiting(&mut self, id: SessionId, reason: &str) {
        let targets: Vec<TargetId> =
            self.sessions[id].subscriptions.iter().map(|subscription| subscription.target).collect();
        let text = format!("this player's views cannot be read: {}", self.refusal_text(reason));
        for target_id in targets {
            self.refuse_waiting_for(id, target_id, &text);
        }
        self.retry_deferred(id);
    }

    /// Refuses whoever waits in this session's name for an answer about one target. What was there before the requests, from
    /// a template or a service, stays.
    fn refuse_waiting_for(&mut self, id: SessionId, target_id: TargetId, text: &str) {
        let target = &mut self.targets[target_id];
        let channel = target.subject.name.clone();
        let is_answered = |reply: &Reply| matches!(reply, Reply::Request(_) | Reply::Silent | Reply::Welcome);
        let theirs = |waiter: &mut Waiter| waiter.session == id && is_answered(&waiter.reply);
        let refused: Vec<Reply> = target.waiters.extract_if(.., theirs).map(|waiter| waiter.reply).collect();
        if refused.is_empty() {
            return;
        }
        if refused.iter().any(|reply| matches!(reply, Reply::Welcome)) {
            target.waiters.push(Waiter { session: id, reply: Reply::Unsolicited });
        }
        if !target.waiters.iter().any(|waiter| waiter.session == id) {
            self.drop_subscription(id, target_id);
        }
        for reply in &refused {
            let error =
                ErrorMessage { channel: Some(&channel), ..ErrorMessage::new(ErrorCode::BrokerRefused, text) };
            match reply {
                Reply::Welcome => {
                    self.error_behind_welcome(id, &error);
                    self.confirmed_for_welcome(id);
                }
                Reply::Request(request) => self.send_error(id, ErrorMessage { id: Some(request), ..error }),
                _ => self.send_error(id, error),
            }
        }
    }

    /// All that a session's views are made of is known: what Redis has confirmed meanwhile is live.
    ///
    /// Why its place is found before anybody is answered: the first thing that is shown must be by the views of now.
    fn resume_delivery(&mut self, id: SessionId) {
        for subscription in self.sessions[id].subscriptions.clone() {
            let target = &mut self.targets[subscription.target];
            let phase = &mut target.subscriber_at_mut(subscription.slot).phase;
            if phase.is_shown_events() {
                continue;
            }
            phase.overrides_known();
            let answers = self.take_answers(subscription.target, |waiting| waiting == id);
            self.recompute_visibility(id, subscription.target, false);
            self.notify_waiters(subscription.target, answers);
        }
        self.go_on_catching_up(id);
        self.retry_deferred(id);
    }

    /// A service narrows what a player is shown of a channel, or no longer.
    pub(super) fn override_view(&mut self, id: SessionId, channel: &Arc<str>, view: Option<&str>) {
        self.sessions[id].overrides.set(channel.clone(), view.map(compile_view));
        self.override_changed(id, channel);
    }

    /// What a player may be shown of a channel is other than it was.
    fn override_changed(&mut self, id: SessionId, channel: &Arc<str>) {
        // What came through patterns is evaluated by the view before.
        self.flush_channel(id, channel);
        if self.sessions[id].holds_events() {
            self.lose_channel(id, channel);
        }
        if let Some(access) = &mut self.sessions[id].access {
            access.forget(channel);
        }
        if let Some(target) = self.subscribed_target(id, &Subject::channel(channel.clone())) {
            self.flush_target(id, target);
            self.recompute_visibility(id, target, true);
        }
    }
}

impl Session {
    /// What is sent about a subscription that was live, when its views are known again: the gap, or, where `WELCOME` is
    /// still to come, that it is live.
    pub(super) fn reply_on_resume(&mut self) -> Reply {
        match &mut self.phase {
            Phase::Joining(joining) => {
                joining.unconfirmed += 1;
                Reply::Welcome
            }
            Phase::Connecting | Phase::Open | Phase::Detached | Phase::Returning(_) | Phase::Closing(_) => {
                Reply::Resync
            }
        }
    }
}

/// A client's filter, or what is wrong with it.
pub(super) fn compile_filter(source: &str) -> Result<Expr, Refusal> {
    expr::compile_filter(source).map_err(|error| Refusal {
        position: Some(error.position as u64),
        hint: Some(error.hint.clone().unwrap_or_else(|| FILTER_HINT.to_owned())),
        ..Refusal::new(ErrorCode::FilterInvalid, format!("filter: {error}"))
    })
}

/// A view that was checked when it was set. One that cannot be read all the same shows nothing: it was to narrow.
pub(super) fn compile_view(source: &str) -> Expr {
    expr::compile(source, Vars::VIEW_RULE).unwrap_or_else(|_| Expr::never())
}

/// Whether this player's area may follow this entity.
fn may_follow(
    classes: &crate::class::Classes,
    claims: &Claims,
    channel: &str,
    follow: &Expr,
    key: &str,
) -> bool {
    let params = classes.of_channel(channel).map(|(_, _, params)| params).unwrap_or_default();
    follow.matches(&RuleScope { key: Some(key), ..RuleScope::new(claims, channel, &params) })
}
