//! From one publication to what each receiver is sent: a frame, written at the end of the turn, or, for a class with
//! batches, conflation or another policy for slow readers, an event in an outbound queue. Queues are flushed in
//! [`super::flush`]; entity channels are in [`super::entities`]; what goes over the limit is up to
//! [`super::slow_consumer`].

use std::sync::Arc;

use super::Engine;
use super::message_bounds::{MessageBounds, flush_bytes, too_large};
use super::outbound::Outbound;
use crate::access::Access;
use crate::class::{Class, ClassId, Delivery};
use crate::io::{ChannelPosition, InLog, Publication};
use crate::outbox::{QueueKind, Queued, QueuedKind};
use crate::session::Session;
use crate::settings::Settings;
use crate::targets::{LOST, Subscriber, TargetId};
use crate::view::{EffectiveViews, EventScope};

/// By which subscription an event of a stream comes, and how events of its channel's class leave.
pub(super) struct Route {
    pub(super) target: TargetId,
    pub(super) class: Option<ClassId>,
    pub(super) delivery: Delivery,
}

impl Engine {
    /// Hands a publication to every session that is subscribed to it and may see it, once each.
    ///
    /// Invariant: a session whose `last_seq` is the publication's has had its decision, so however many of its
    /// subscriptions match, it gets the event once. The subscription by the channel's name decides first.
    pub(super) fn publication(&mut self, publication: &Arc<Publication>) {
        if publication.in_log != InLog::NoLog && !self.continues_log(publication) {
            return;
        }
        self.deliver_to_all(publication);
    }

    /// As [`Engine::publication`], of one that is the next.
    pub(super) fn deliver_to_all(&mut self, publication: &Arc<Publication>) {
        self.out.publication_seq += 1;
        self.out.stats.publications += 1;
        let exact = self.targets.find_channel(&publication.channel);
        let mut matched = std::mem::take(&mut self.matched);
        self.targets.matching_patterns(&publication.channel, &mut matched);
        if let Some(id) = exact {
            self.deliver_exact(id, publication);
        }
        if !matched.is_empty() {
            self.deliver_patterns(&matched, exact, publication);
        }
        matched.clear();
        self.matched = matched;
    }

    /// To those who are subscribed by patterns, unless they have it by the channel's name.
    fn deliver_patterns(
        &mut self,
        patterns: &[TargetId],
        exact: Option<TargetId>,
        publication: &Arc<Publication>,
    ) {
        let class_id = publication.class;
        let class = class_id.and_then(|id| self.settings.classes.get(id));
        if !class.is_none_or(Class::is_shown_by_pattern) {
            return;
        }
        let delivery = delivery_of(&self.settings, class_id);
        // A table that its client keeps is told by its own subscription alone.
        let table = exact.filter(|id| self.targets[*id].world.is_some());
        for target in patterns {
            if let InLog::At(at) = publication.in_log {
                self.leave_suspended_behind(*target, &publication.channel, at);
            }
            let route = Route { target: *target, class: class_id, delivery };
            self.deliver_pattern(&route, table, publication);
        }
    }

    /// Why loops and not a chain: this is the path of every delivery, and each level borrows another part
    /// of the engine (targets, sessions, the way out).
    fn deliver_exact(&mut self, id: TargetId, publication: &Arc<Publication>) {
        let target = &mut self.targets[id];
        match (&mut target.position, publication.in_log) {
            (Some(ChannelPosition::Counted(position)), InLog::NoLog) => position.offset = publication.offset,
            (Some(ChannelPosition::Logged(position)), InLog::At(at)) => *position = at,
            _ => {}
        }
        if target.world.is_some() {
            return self.deliver_entity(id, publication);
        }
        let route =
            Route { target: id, class: target.class, delivery: delivery_of(&self.settings, target.class) };
        let (out, sessions) = (&mut self.out, &mut self.sessions);
        let before = out.stats.deliveries;
        let is_logged = publication.in_log.position().is_some();
        match &mut target.audiences {
            None => {
                for subscriber in &mut target.subscribers {
                    out.deliver(&mut sessions[subscriber.session], &route, subscriber, publication);
                }
            }
            Some(audiences) => {
                let scope = EventScope::of(publication);
                audiences.candidates(&scope, &mut self.found);
                for id in self.found.drain(..) {
                    if !audiences[id].is_shown(out.publication_seq, &scope) {
                        continue;
                    }
                    if is_logged {
                        audiences.set_last_shown(id, out.publication_seq);
                    }
                    let audience = &audiences[id];
                    for slot in &audience.members {
                        let subscriber = &mut target.subscribers[*slot as usize];
                        out.deliver(&mut sessions[subscriber.session], &route, subscriber, publication);
                    }
                }
            }
        }
        let shown = out.stats.deliveries - before;
        let hidden = (target.subscribers.len() as u64).saturating_sub(shown);
        out.stats.hidden += hidden;
        if hidden > 0 && is_logged && target.audiences.is_some() {
            self.logs.note_hidden(&publication.channel, out.publication_seq, out.now.mono_ms);
        }
        self.enforce_limits();
    }

    /// Why each session is authorized here and not when it subscribed: a pattern matches channels that nobody knew then.
    /// The answer is cached in the session.
    fn deliver_pattern(&mut self, route: &Route, table: Option<TargetId>, publication: &Arc<Publication>) {
        let target = &mut self.targets[route.target];
        let scope = EventScope::of(publication);
        let seq = self.out.publication_seq;
        let mut slots: Vec<u32> = Vec::new();
        match &mut target.audiences {
            None => slots.extend(0..target.subscribers.len() as u32),
            Some(audiences) => {
                audiences.candidates(&scope, &mut self.found);
                for audience in self.found.drain(..) {
                    let audience = &audiences[audience];
                    if audience.is_shown(seq, &scope) {
                        slots.extend(&audience.members);
                    }
                }
            }
        }
        if publication.in_log.position().is_some() && slots.len() < target.subscribers.len() {
            self.logs.note_hidden(&publication.channel, seq, self.out.now.mono_ms);
        }
        let is_logged = publication.in_log.position().is_some();
        for slot in slots {
            let subscriber = target.subscriber_at_mut(slot);
            let session = &mut self.sessions[subscriber.session];
            let is_held = is_logged && session.holds_events();
            if session.last_seq == seq
                || table.is_some_and(|exact| session.subscription(exact).is_some())
                || (is_logged && !is_held && session.is_catching_up(&publication.channel))
            {
                continue;
            }
            let is_shown = match access(&self.settings, &mut self.views, session, &publication.channel) {
                Access::Denied => false,
                Access::Granted(view) => view.as_ref().is_none_or(|view| view.shows(seq, &scope)),
            };
            if is_shown && is_held {
                // The log has it, but the client may not know the channel.
                session.shown_logs.get_or_insert_default().note(&publication.channel);
            } else if is_shown {
                if let InLog::At(at) = publication.in_log {
                    self.out.announce_position(session, subscriber, publication, at);
                }
                self.out.deliver(session, route, subscriber, publication);
            } else {
                // Whatever other patterns of its match.
                session.last_seq = seq;
                self.out.stats.hidden += 1;
                if is_logged {
                    self.logs.note_hidden(&publication.channel, seq, self.out.now.mono_ms);
                }
            }
        }
        self.enforce_limits();
    }
}

impl Outbound {
    /// Sends a subscriber an event of a stream: as a frame, or into a queue.
    #[inline]
    fn deliver(
        &mut self,
        session: &mut Session,
        route: &Route,
        subscriber: &mut Subscriber,
        publication: &Arc<Publication>,
    ) {
        if !subscriber.phase.shows(publication.in_log) || subscriber.is_own_past(session.public, publication)
        {
            return;
        }
        if !session.is_open() {
            return self.hold(session, route, subscriber, publication);
        }
        session.last_seq = self.publication_seq;
        self.stats.deliveries += 1;
        let before = subscriber.written;
        if publication.in_log == InLog::NoLog {
            // 0 is what nothing has.
            subscriber.written = publication.offset.0.max(1);
        }
        self.send_event(session, route, publication, before);
    }

    /// As [`Outbound::deliver`], of an event that was decided to be sent. `before`: [`Subscriber::written`] without it.
    #[inline]
    pub(super) fn send_event(
        &mut self,
        session: &mut Session,
        route: &Route,
        publication: &Arc<Publication>,
        before: u64,
    ) {
        let kind = QueueKind::Stream(route.class);
        let delivery = &route.delivery;
        // A class without windows has a queue where its events waited for a session that has just returned.
        let waits = session.outbox.has_queues() && session.outbox.find(kind).is_some();
        if (delivery.is_immediate() && !waits) || !must_queue(session, waits, delivery) {
            let bounds = MessageBounds::of(session, delivery);
            let frame = match bounds.excludes(session.encoding(), publication) {
                true => too_large(session.encoding(), publication, &mut self.stats),
                false => self.event_frame(session, publication),
            };
            return self.enqueue_frame(session, frame);
        }
        let event = QueuedKind::event(publication.offset.0, before);
        let queued = Queued::new(publication.clone(), event, route.target, true, self.now.mono_ms);
        self.enqueue(session, kind, queued, delivery);
    }

    /// Puts an event into the queue of a session that holds its events, unless one of its channel was dropped before. What is
    /// in a log waits there.
    #[cold]
    fn hold(
        &mut self,
        session: &mut Session,
        route: &Route,
        subscriber: &mut Subscriber,
        publication: &Arc<Publication>,
    ) {
        if !session.holds_events() {
            return;
        }
        session.last_seq = self.publication_seq;
        if publication.in_log != InLog::NoLog || subscriber.written == LOST {
            return;
        }
        self.stats.deliveries += 1;
        let before = std::mem::replace(&mut subscriber.written, publication.offset.0.max(1));
        let event = QueuedKind::event(publication.offset.0, before);
        let queued = Queued::new(publication.clone(), event, route.target, true, self.now.mono_ms);
        let (queue, _) = session.outbox.find_or_insert(&mut self.queues, QueueKind::Stream(route.class), 0);
        self.stats.conflated += session.outbox.enqueue(&mut self.queues, queue, queued, &route.delivery);
        // What waits for it is counted for the node, too.
        self.over_limit.push(session.id);
    }
}

/// Whether events of a class are kept in a log.
pub(super) fn is_logged(settings: &Settings, class: Option<ClassId>) -> bool {
    class.and_then(|id| settings.classes.get(id)).is_some_and(|class| class.history.is_some())
}

/// Whether an event goes into a queue, where it can still be conflated or dropped, and not into a frame at once.
/// `waits`: there is such a queue already.
pub(super) fn must_queue(session: &Session, waits: bool, delivery: &Delivery) -> bool {
    delivery.batch_ms > 0
        || delivery.conflate
        || session.is_blocked()
        || waits
        || session.outbox.frame_bytes() >= flush_bytes(session.outbox.limit())
}

/// How events of a class leave.
pub(super) fn delivery_of(settings: &Settings, class: Option<ClassId>) -> Delivery {
    class.and_then(|id| settings.classes.get(id)).map(|class| class.delivery).unwrap_or_default()
}

/// What a session may see of a real channel that comes by a pattern: decided once, and remembered.
pub(super) fn access<'s>(
    settings: &Settings,
    views: &mut EffectiveViews,
    session: &'s mut Session,
    channel: &Arc<str>,
) -> &'s Access {
    let Some(claims) = &session.claims else { return &Access::Denied };
    let overrides = &session.overrides;
    let cache = session.access.get_or_insert_default();
    cache.of(settings, claims, || overrides.of(channel), views, channel)
}
