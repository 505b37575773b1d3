//! What a subscriber is shown: made from the class's view, what services have narrowed for the player, and the
//! client's filter and area; made anew when one of them changes during play (contract §5, `FILTER_UPDATE`; §9, `view`).
//! What is asked of events stands in [`crate::view`], areas in [`crate::area`].

use std::sync::Arc;

use drawbridge_protocol::{ErrorCode, ErrorMessage, FilterUpdate, RequestId, ServerMessage};
use serde_json::value::RawValue;

use super::Engine;
use super::deliver::{delivery_of, outgoing};
use super::entities::Telling;
use super::subscribe::{Refusal, subject};
use crate::area::Area;
use crate::audience::{Audiences, NOBODY};
use crate::class::Class;
use crate::connection::{Connection, Phase};
use crate::expr::{self, Expr, Vars};
use crate::io::{
    BarrierToken, BrokerCommand, Claims, ConnId, Notice, Output, PlayerViews, Query, QueryKind, Subject,
    Ticket,
};
use crate::permissions::{self, Denied};
use crate::targets::{Reply, Sight, TargetId, Waiter};
use crate::view::{RuleScope, bind, bind_me};
use crate::work;
use crate::world::Change;

/// Where the compiler has no better one.
const FILTER_HINT: &str =
    "a filter is one condition of at most 1024 bytes, like: event == 'hit' && data.damage > 10";
/// What asking the filters of one channel, or of all patterns of one class, that no index answers may cost an event, in
/// the units of [`crate::filter_index`]; `docs/filters.md` says what that means.
pub(super) const MAX_FILTER_WORK: usize = 100_000;
/// How soon players' views are asked for again when Redis has refused to tell them.
const ASK_VIEWS_AGAIN_MS: u64 = 5_000;

impl Engine {
    pub(super) fn filter_update(&mut self, id: ConnId, request: Option<&RequestId>, update: &FilterUpdate) {
        let target = subject(&update.channel).ok().and_then(|subject| self.subscribed_target(id, &subject));
        let Some(target) = target else {
            let refusal = Refusal::new(ErrorCode::NotSubscribed, "there is no such subscription");
            return self.refuse_subscription(id, request, &update.channel, &refusal, false);
        };
        let judged = self.check_work(id).and_then(|()| {
            let (filter, area) = self.judge_update(id, target, update)?;
            // Without its area, what nothing but the area was asked about is asked about every event.
            if update.filter.is_some() || update.area.is_some() {
                let name = &update.channel;
                let subject = Subject::named(name.as_str());
                self.check_table(&subject, filter.as_ref(), area.as_deref())?;
                self.check_share(id, &subject, filter.as_ref())?;
                self.judge_work(id, &subject, filter.as_ref(), area.is_some())?;
            }
            Ok((filter, area))
        });
        match judged {
            Ok((filter, area)) => {
                // The reply is the boundary: what was due before is judged by the old view.
                self.flush_target(id, target);
                if let Some(request) = request {
                    let message = ServerMessage::FilterUpdated { id: request, channel: &update.channel };
                    self.send(id, &message);
                }
                self.set_view(id, target, filter, area);
                self.look_anew(id, target, true);
            }
            Err(refusal) => self.refuse_subscription(id, request, &update.channel, &refusal, false),
        }
    }

    /// The filter and the area as they will be.
    fn judge_update(
        &self,
        id: ConnId,
        target_id: TargetId,
        update: &FilterUpdate,
    ) -> Result<(Option<Expr>, Option<Box<Area>>), Refusal> {
        let gone = || Refusal::new(ErrorCode::NotSubscribed, "there is no such subscription");
        let conn = self.connections.get(id).ok_or_else(gone)?;
        let target = self.targets.get(target_id).ok_or_else(gone)?;
        let slot = conn.subscription(target_id).ok_or_else(gone)?.slot as usize;
        let subscriber = target.subscribers.get(slot).ok_or_else(gone)?;
        let filter = match &update.filter {
            None => subscriber.filter.clone(),
            Some(filter) => filter.as_deref().map(compile_filter).transpose()?,
        };
        let claims = conn.claims.as_ref().ok_or_else(gone)?;
        let area = match &update.area {
            None => subscriber.area.clone(),
            Some(None) => None,
            Some(Some(area)) => Some(self.judge_area(claims, &target.subject, area)?),
        };
        Ok((filter, area))
    }

    /// An area that the channel's class allows.
    pub(super) fn judge_area(
        &self,
        claims: &Claims,
        subject: &Subject,
        area: &RawValue,
    ) -> Result<Box<Area>, Refusal> {
        let invalid = |message: &str, position: usize, hint: &str| {
            let refusal = Refusal::new(ErrorCode::FilterInvalid, format!("area: {message}"));
            Refusal { position: Some(position as u64), hint: Some(hint.to_owned()), ..refusal }
        };
        let class = self.settings.classes.of_channel(&subject.name).filter(|_| !subject.is_pattern());
        let Some(space) = class.and_then(|(_, class, _)| class.space()) else {
            let hint = "an area needs a channel by its name, whose class has `position`";
            return Err(invalid("this subscription has no positions", 0, hint));
        };
        let area = Area::parse(area.get(), space.max_radius)
            .map_err(|error| invalid(&error.message, error.position, error.hint))?;
        if let Area::Follow { key, .. } = &area
            && !may_follow(&self.settings.classes, claims, &subject.name, &space.follow, key)
        {
            let denied = Denied(format!("follow = `{}`", space.follow));
            return Err(Refusal::new(ErrorCode::Forbidden, self.explain(denied)));
        }
        Ok(Box::new(area))
    }

    /// Whether new claims still allow what a subscription's area follows.
    pub(super) fn may_still_follow(&self, id: ConnId, target_id: TargetId, claims: &Claims) -> bool {
        let slot = self.connections.get(id).and_then(|conn| conn.subscription(target_id)).map(|s| s.slot);
        let (Some(slot), Some(target)) = (slot, self.targets.get(target_id)) else { return true };
        let area = target.subscribers.get(slot as usize).and_then(|subscriber| subscriber.area.as_deref());
        let class = target.class.and_then(|class| self.settings.classes.get(class));
        match (area, class.and_then(Class::space)) {
            (Some(Area::Follow { key, .. }), Some(space)) => {
                may_follow(&self.settings.classes, claims, &target.subject.name, &space.follow, key)
            }
            _ => true,
        }
    }

    /// Filters that no index answers are asked about every event: a channel bears only so many.
    pub(super) fn judge_work(
        &mut self,
        id: ConnId,
        subject: &Subject,
        filter: Option<&Expr>,
        has_area: bool,
    ) -> Result<(), Refusal> {
        let (Some(filter), Some(conn)) = (filter, self.connections.get(id)) else { return Ok(()) };
        let Some(claims) = conn.claims.as_ref().filter(|_| !has_area) else { return Ok(()) };
        let scope = RuleScope::new(claims, &subject.name, &[]);
        let view = if subject.is_pattern() {
            self.views.get(None, Some(bind_me(filter, &scope)))
        } else {
            let narrowed = conn.narrowed.of(&subject.name);
            let server = permissions::server_view(&self.settings, claims, &subject.name, narrowed);
            self.views.get(server, Some(bind(filter, &scope)))
        };
        let audiences = self.targets.find(subject).and_then(|id| self.targets.get(id)?.audiences.as_ref());
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

    pub(super) fn set_view(
        &mut self,
        id: ConnId,
        target_id: TargetId,
        filter: Option<Expr>,
        area: Option<Box<Area>>,
    ) {
        let slot = self.connections.get(id).and_then(|conn| conn.subscription(target_id)).map(|s| s.slot);
        let (Some(slot), Some(target)) = (slot, self.targets.get_mut(target_id)) else { return };
        if let Some(subscriber) = target.subscribers.get_mut(slot as usize) {
            (subscriber.filter, subscriber.area) = (filter, area);
        }
    }

    /// What a subscriber looks at, by its claims of now.
    fn sight(&mut self, id: ConnId, target_id: TargetId) -> Option<Sight> {
        let conn = self.connections.get(id)?;
        let claims = conn.claims.as_ref()?;
        let target = self.targets.get(target_id)?;
        let slot = conn.subscription(target_id)?.slot as usize;
        let subscriber = target.subscribers.get(slot)?;
        let name = &target.subject.name;
        let scope = RuleScope::new(claims, name, &[]);
        if let Some(filter) = &subscriber.filter {
            self.targets.work.add(work::to_evaluate(filter.work(), claims.json.len()));
        }
        if target.subject.is_pattern() {
            let client = subscriber.filter.as_ref().map(|filter| bind_me(filter, &scope));
            return Some(Sight::Open(self.views.get(None, client)));
        }
        let narrowed = conn.narrowed.of(name);
        let server = permissions::server_view(&self.settings, claims, name, narrowed);
        let client = subscriber.filter.as_ref().map(|filter| bind(filter, &scope));
        let class: Option<&Class> = target.class.and_then(|class| self.settings.classes.get(class));
        let space = class.and_then(Class::space);
        let area = subscriber.area.as_deref().cloned();
        let view = self.views.get(server, client);
        Some(match (space, area) {
            (Some(_), Some(area)) => Sight::Eye(view, area),
            (Some(space), None) if space.area_required => Sight::Nothing,
            _ => Sight::Open(view),
        })
    }

    /// Puts a subscriber where it sees what it is to see now. `tell`: what comes into view and what goes is told, which
    /// is not needed where all that is in view is told anew.
    pub(super) fn look_anew(&mut self, id: ConnId, target_id: TargetId, tell: bool) {
        let Some(sight) = self.sight(id, target_id) else { return };
        let slot = self.connections.get(id).and_then(|conn| conn.subscription(target_id)).map(|s| s.slot);
        let (Some(slot), Some(target)) = (slot, self.targets.get_mut(target_id)) else { return };
        let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { return };
        let audience = subscriber.audience;
        // What is not known well is not told: all of it follows when the table has come, and the views.
        let tell = tell && subscriber.live && target.world.as_ref().is_none_or(|world| world.loaded);
        if tell
            && target.world.is_some()
            && target.audiences.as_ref().is_some_and(|all| all.is_at(audience, &sight))
        {
            return;
        }
        if let (Some(queue), Some(conn)) = (subscriber.queue, self.connections.get_mut(id)) {
            let pays = &mut subscriber.pays;
            conn.outbox.change(&mut self.queues, queue, |queue| {
                if queue.snapshot.is_some() {
                    // A running snapshot starts again, with what is in view now.
                    queue.restart(None);
                    *pays = true;
                } else if !tell {
                    // A snapshot follows.
                    queue.clear();
                }
            });
        }
        let (Some(world), Some(audiences)) = (&mut target.world, &mut target.audiences) else {
            target.unplace(slot);
            return target.place(slot, sight);
        };
        let mut told = Vec::new();
        let sight = match sight {
            // It looks elsewhere, and keeps in sight what it would keep if the world had moved. Who is told all anew has
            // nothing to keep.
            Sight::Eye(view, area) if tell => {
                let eye = audiences.get_mut(audience).filter(|who| who.eye.is_some());
                if let Some(who) = eye
                    && let Some(eye) = &mut who.eye
                {
                    who.view = view;
                    let before = std::mem::replace(&mut eye.area, area);
                    world.stop_following(&before, audience);
                    world.open_eye(audiences, audience, &mut told);
                    return self.tell(target_id, None, &mut told);
                }
                Sight::Eye(view, area)
            }
            sight => sight,
        };
        let before = if tell { world.seen_by(audiences, audience) } else { Vec::new() };
        target.unplace(slot);
        target.place(slot, sight);
        if tell {
            self.tell_difference(target_id, slot, &before);
        }
    }

    /// Tells one subscriber what it sees now and did not before, and the other way round.
    fn tell_difference(&mut self, target_id: TargetId, slot: u32, before: &[u32]) {
        let Some(target) = self.targets.get_mut(target_id) else { return };
        let delivery = delivery_of(&self.settings, target.class);
        let (Some(world), Some(audiences)) = (&mut target.world, &target.audiences) else { return };
        let Some(subscriber) = target.subscribers.get_mut(slot as usize) else { return };
        let audience = subscriber.audience;
        let now = if audience == NOBODY { Vec::new() } else { world.seen_by(audiences, audience) };
        let gone = before.iter().filter(|id| now.binary_search(id).is_err());
        let new = now.iter().filter(|id| before.binary_search(id).is_err());
        let changes = gone.map(|id| (*id, Change::Hide)).chain(new.map(|id| (*id, Change::Enter)));
        let mut out = outgoing!(self);
        for (entity, change) in changes {
            if let Some(state) = world.state(entity) {
                let bytes = if change == Change::Enter { state.event.data_json().len() } else { 0 };
                world.work().add(work::to_send(bytes));
                let told = Telling { target: target_id, entity, change, state, is_news: false };
                out.tell(subscriber, &told, &delivery);
            }
        }
        let over = out.over;
        self.enforce_limit(over);
    }

    /// Asks what services have narrowed of a player's views; until it is told nothing new is shown.
    pub(super) fn load_views(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        let Some(player) = conn.player().cloned() else { return };
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let before = conn.narrowed.asked();
        conn.narrowed.ask(ticket);
        conn.deadlines.views_ms = 0;
        self.arm(id);
        self.forget_question(before);
        self.loading.insert(ticket, id);
        self.outputs
            .push_back(Output::Broker(BrokerCommand::Query(Query::new(ticket, QueryKind::Views { player }))));
    }

    /// What services have narrowed of anybody's views may be other than what is known. `dropped`: also of channels whose
    /// events go on coming.
    pub(super) fn recover(&mut self, dropped: bool, token: Option<BarrierToken>) {
        // Nothing passes while the queries before are withdrawn one by one.
        let barrier = std::mem::take(&mut self.barrier);
        self.load_all_views(dropped);
        self.barrier = barrier.raised(token, Ticket(self.next_ticket));
        self.pass_barrier();
    }

    fn load_all_views(&mut self, dropped: bool) {
        // Also an anonymous one's: once it has joined, services can know its name.
        let joined = |conn: &&Connection| !matches!(conn.phase, Phase::Connecting);
        let all: Vec<ConnId> = self.connections.iter().filter(joined).map(|conn| conn.id).collect();
        for id in all {
            self.load_views(id);
            if dropped {
                self.shut_gate(id);
            }
        }
    }

    /// Shows nothing more until the views are known; then tells of the gap.
    fn shut_gate(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        for subscription in conn.subscriptions.clone() {
            let Some(target) = self.targets.get_mut(subscription.target) else { continue };
            let subscriber = target.subscribers.get_mut(subscription.slot as usize);
            if subscriber.is_some_and(|theirs| std::mem::replace(&mut theirs.live, false)) {
                target.waiters.push(Waiter { conn: id, reply: conn.reply_behind_gate() });
            }
        }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn forget_question(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket
            && self.loading.remove(&ticket).is_some()
        {
            self.outputs.push_back(Output::Broker(BrokerCommand::Withdraw(ticket)));
            self.pass_barrier();
        }
    }

    /// Once the views of all are known that were queried again, what the links lost may come back.
    fn pass_barrier(&mut self) {
        let oldest = self.loading.first_key_value().map(|(oldest, _)| *oldest);
        for token in self.barrier.pass(oldest) {
            self.outputs.push_back(Output::Broker(BrokerCommand::Recovered(token)));
        }
    }

    pub(super) fn views_loaded(&mut self, ticket: Ticket, views: Result<PlayerViews, Arc<str>>) {
        let Some(id) = self.loading.remove(&ticket) else { return };
        let Some(conn) = self.connections.get_mut(id) else { return };
        match views {
            Ok(views) => {
                let compiled = views.iter().map(|(channel, view)| (channel.clone(), compile_view(view)));
                for channel in conn.narrowed.loaded(compiled) {
                    self.view_changed(id, &channel);
                }
                self.open_gate(id);
            }
            Err(reason) => self.views_refused(id, &reason),
        }
        self.pass_barrier();
    }

    fn views_refused(&mut self, id: ConnId, reason: &str) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        let player = conn.player().cloned().unwrap_or_default();
        let may_not_read = reason.starts_with("NOPERM");
        let opens = may_not_read && self.settings.views_open_without_permission;
        if opens {
            // The operator says that nobody uses views here: the class's hold.
            conn.narrowed.settle();
        } else {
            // They may be narrower than what is known: nothing new is shown until they are told. Not all ask at once.
            conn.narrowed.refused();
            let spread_ms = u64::from(id.index) % ASK_VIEWS_AGAIN_MS;
            conn.deadlines.views_ms = self.now.mono_ms + ASK_VIEWS_AGAIN_MS + spread_ms;
            self.arm(id);
        }
        self.notice(Notice::ViewsRefused { player, reason: reason.to_owned(), withheld: !opens });
        if opens {
            self.open_gate(id);
        } else if may_not_read {
            self.refuse_waiting(id, reason);
        }
    }

    /// Redis will not let this node read the player's views before somebody gives it the right: who waits for an answer
    /// is refused. Automatic subscriptions stay pending, and are confirmed once the views can be read.
    fn refuse_waiting(&mut self, id: ConnId, reason: &str) {
        let Some(conn) = self.connections.get(id) else { return };
        let targets: Vec<TargetId> =
            conn.subscriptions.iter().map(|subscription| subscription.target).collect();
        let text = format!("this player's views cannot be read: {}", self.refusal_text(reason));
        for target_id in targets {
            let Some(target) = self.targets.get_mut(target_id) else { continue };
            let channel = target.subject.name.clone();
            let Some(waiter) = target.waiters.iter_mut().find(|waiter| waiter.conn == id) else { continue };
            let reply = match waiter.reply {
                Reply::Request(_) | Reply::Silent => std::mem::replace(&mut waiter.reply, Reply::Silent),
                Reply::Welcome => std::mem::replace(&mut waiter.reply, Reply::Told),
                Reply::Server | Reply::Told | Reply::Resync => continue,
            };
            let error = ErrorMessage {
                channel: Some(&channel),
                ..ErrorMessage::new(ErrorCode::BrokerRefused, &text)
            };
            match reply {
                Reply::Welcome => {
                    self.error_behind_welcome(id, &error);
                    self.confirmed_for_welcome(id);
                    continue;
                }
                Reply::Request(request) => {
                    self.drop_subscription(id, target_id);
                    self.send_error(id, ErrorMessage { id: Some(&request), ..error });
                }
                _ => {
                    self.drop_subscription(id, target_id);
                    self.send_error(id, error);
                }
            }
        }
        self.run_deferred(id);
    }

    /// All that a connection's views are made of is known: what Redis has confirmed meanwhile is live.
    fn open_gate(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        for subscription in conn.subscriptions.clone() {
            let slot = self.connections.get(id).and_then(|conn| conn.subscription(subscription.target));
            let Some(slot) = slot.map(|subscription| subscription.slot as usize) else { continue };
            let Some(target) = self.targets.get_mut(subscription.target) else { continue };
            let Some(subscriber) = target.subscribers.get_mut(slot) else { continue };
            if subscriber.live {
                continue;
            }
            subscriber.live = target.live;
            let mut theirs = Vec::new();
            if target.live {
                let all = std::mem::take(&mut target.waiters);
                (theirs, target.waiters) = all.into_iter().partition(|waiter| waiter.conn == id);
            }
            self.look_anew(id, subscription.target, false);
            self.tell_waiters(subscription.target, theirs);
        }
    }

    /// A service narrows what a player is shown of a channel, or no longer.
    pub(super) fn narrow(&mut self, id: ConnId, channel: &Arc<str>, view: Option<&str>) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.narrowed.set(channel.clone(), view.map(compile_view));
        self.view_changed(id, channel);
    }

    /// What a player may be shown of a channel is other than it was.
    fn view_changed(&mut self, id: ConnId, channel: &Arc<str>) {
        // What came through patterns is judged by the view before.
        self.flush_channel(id, channel);
        let Some(conn) = self.connections.get_mut(id) else { return };
        if let Some(access) = &mut conn.access {
            access.forget(channel);
        }
        if let Some(target) = self.subscribed_target(id, &Subject::channel(channel.clone())) {
            self.flush_target(id, target);
            self.look_anew(id, target, true);
        }
    }
}

impl Connection {
    /// What is told of a subscription that was live, when its views are known again: the gap, or, where `WELCOME` is
    /// still to come, that it is live.
    pub(super) fn reply_behind_gate(&mut self) -> Reply {
        match &mut self.phase {
            Phase::Joining(joining) => {
                joining.unconfirmed += 1;
                Reply::Welcome
            }
            Phase::Connecting | Phase::Open => Reply::Resync,
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
fn compile_view(source: &str) -> Expr {
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
