//! Catching up: pages of a log for a channel whose live stream had a gap, and for sessions that come back. Nothing is held for
//! them but a cursor: a page comes at the place of the queue where the live stream is, so that whoever is sent all of it goes
//! on with what follows. Each session takes as much as its outbox has room for, and requests the rest when that is sent.
//!
//! ```text
//!   catch_up ──▶ requested ──first page: what the position means to the log──▶ reported ([`Engine::recovered`])
//!                                                                             │ open, its views known, it reads
//!                                                                             ▼
//!              RESYNC, if something is missing ──▶ events by its views ──page ends at the live stream──▶ live
//! ```
//!
//! What a whole channel has missed is sent to all who see it at once; whoever of them has no room for more goes on alone, from
//! there. What a session catches up on alone is charged to its client as work, and a client that owes work requests no page: so
//! whoever comes back again and again is sent the logs no faster than anything else.
//!
//! Invariant: while a session catches up on a channel it is shown no live event of its log, by whichever subscription.
//! Volatile events have no place in the log, and come at once.

use std::sync::Arc;

use drawbridge_protocol::glob;

use super::Engine;
use super::deliver::{Route, access, delivery_of};
use super::requests::covers;
use crate::access::Access;
use crate::audience::NOBODY;
use crate::io::{ChannelPosition, LogPosition, Publication, Replay, SessionId};
use crate::session::{Phase, Session, Subscription};
use crate::targets::{LOST, Reply, TargetId, Waiter};
use crate::upstream::{Cursor, StoredLog};
use crate::view::EventScope;
use crate::work;

/// What the log says of the position with which a session comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Nothing is missing: what was missed is sent.
    Recovered,
    /// The log no longer has all of it: what it still has is sent behind a `RESYNC`.
    Gap,
    /// The position is of another history: the session goes on live behind a `RESYNC`.
    Epoch,
}

/// A session that catches up on one channel.
#[derive(Clone, Debug)]
pub(super) struct Resuming {
    pub(super) session: SessionId,
    /// The channel's own subscription, or a pattern.
    pub(super) target: TargetId,
    /// It has been sent everything up to here.
    pub(super) cursor: LogPosition,
    /// No position is known: all is missing.
    is_lost: bool,
    /// What its position means to the log, once that is known.
    pub(super) verdict: Option<Recovery>,
    /// `WELCOME` listed the channel as pending: `CHANNEL_SUBSCRIBED` follows when Redis has confirmed it and `verdict` is known.
    pub(super) is_pending: bool,
    /// The page that is out was requested before it came: that page may end before the session's position.
    is_late: bool,
    /// What its position means the hub's memory does not say: the store is to be read.
    pub(super) asks_store: bool,
    /// Why it is to be sent a `RESYNC` before the next event.
    resync: Option<&'static str>,
}

impl Engine {
    /// A session comes back to a channel with `history`, by its name or by a pattern (`target`), having been sent everything up
    /// to `since`; `None`: unknown. [`Engine::recovered`] reports once what the log says of it. What was missed is sent,
    /// behind `RESYNC` where something is lost, once the session is open and its views are known; until then, and until
    /// all of it is sent, it is shown no live event of the channel's log.
    pub(crate) fn catch_up(
        &mut self,
        id: SessionId,
        target: TargetId,
        channel: &Arc<str>,
        since: Option<LogPosition>,
    ) {
        // By its name it is shown everything that patterns show.
        let resuming =
            Resuming { is_lost: since.is_none(), ..Resuming::new(id, target, since.unwrap_or_default()) };
        self.resume_log(resuming, channel);
        self.ask_log(channel);
    }

    /// A session that has been shown a channel up to this position is shown no more of it with the others: what follows is sent
    /// to it alone, once it can take it.
    pub(super) fn go_on_alone(
        &mut self,
        id: SessionId,
        target: TargetId,
        channel: &Arc<str>,
        at: LogPosition,
    ) {
        // What the position means is not reported.
        let resuming = Resuming { verdict: Some(Recovery::Recovered), ..Resuming::new(id, target, at) };
        self.resume_log(resuming, channel);
    }

    /// A logged event is about to be shown to whoever sees its channel by this pattern. Those whose views are not known are shown
    /// nothing now: they go on alone from here when they are.
    pub(super) fn leave_suspended_behind(
        &mut self,
        pattern: TargetId,
        channel: &Arc<str>,
        next: LogPosition,
    ) {
        if self.targets[pattern].waiters.is_empty() {
            return;
        }
        let is_suspended = |waiter: &&Waiter| matches!(waiter.reply, Reply::Resync);
        let waiters = self.targets[pattern].waiters.iter().filter(is_suspended);
        let suspended: Vec<SessionId> = waiters.map(|waiter| waiter.session).collect();
        for id in suspended {
            if !self.sessions[id].is_catching_up(channel) && self.may_see(id, channel) {
                self.go_on_alone(id, pattern, channel, next.before());
            }
        }
    }

    fn resume_log(&mut self, resuming: Resuming, channel: &Arc<str>) {
        let id = resuming.session;
        let own =
            self.targets.find_channel(channel).filter(|own| self.sessions[id].subscription(*own).is_some());
        match own {
            Some(own) => {
                let slot = self.sessions[id].slot_of(own);
                self.targets[own].subscriber_at_mut(slot).phase.fall_behind();
            }
            None => self.follow_by_pattern(channel),
        }
        let behind = self.sessions[id].catching_up.get_or_insert_default();
        behind.channels.insert(channel.clone());
        let log = self.logs.get_or_insert(channel);
        log.resuming.retain(|one| one.session != id);
        let target = own.unwrap_or(resuming.target);
        log.resuming.push(Resuming { target, is_late: log.is_out, ..resuming });
    }

    /// A subscription that was shown events is shown none until its session's views are known. What comes meanwhile is then read
    /// from the channel's log, or the client is sent `RESYNC` if the channel has none.
    pub(super) fn suspended(&mut self, id: SessionId, target_id: TargetId) {
        let target = &self.targets[target_id];
        let channel = target.subject.name.clone();
        let at = self.logs.get(&channel).filter(|_| !target.subject.is_pattern()).and_then(|log| log.at);
        if let Some(at) = at {
            self.go_on_alone(id, target_id, &channel, at);
        }
        let session = &mut self.sessions[id];
        if at.is_none() || matches!(session.phase, Phase::Joining(_)) {
            let reply = session.reply_on_resume();
            self.targets[target_id].waiters.push(Waiter { session: id, reply });
        }
    }

    /// A session subscribes by name to a channel on which it catches up by a pattern: it does so by its name from now on.
    pub(super) fn catch_up_by_name(&mut self, id: SessionId, own: TargetId) {
        let channel = self.targets[own].subject.name.clone();
        let Some(log) = self.logs.get_mut(&channel) else { return };
        if let Some(one) = log.resuming.iter_mut().find(|one| one.session == id) {
            one.target = own;
            let slot = self.sessions[id].slot_of(own);
            self.targets[own].subscriber_at_mut(slot).phase.fall_behind();
        }
    }

    /// A session has no connection any more: of channels with `history` nothing is kept for it, for their logs have it. When
    /// it comes back [`Engine::catch_up`] is to be called for each of them, and [`Engine::show_logged`].
    pub(super) fn hide_logged(&mut self, id: SessionId) {
        for held in self.sessions[id].subscriptions.clone() {
            let target = &mut self.targets[held.target];
            let class = target.class.and_then(|class| self.settings.classes.get(class));
            if class.is_some_and(|class| class.history.is_some()) {
                target.subscriber_at_mut(held.slot).phase.fall_behind();
            }
        }
        let behind = self.sessions[id].catching_up.get_or_insert_default();
        behind.all = true;
        for channel in std::mem::take(&mut behind.channels) {
            if let Some(log) = self.logs.get_mut(&channel) {
                log.resuming.retain(|one| one.session != id);
            }
        }
    }

    /// The session is back: from now on it is shown what comes of channels on which it does not catch up.
    pub(super) fn show_logged(&mut self, id: SessionId) {
        if let Some(behind) = &mut self.sessions[id].catching_up {
            behind.all = false;
        }
        self.tidy_catching_up(id);
    }

    /// As [`Engine::catch_up`], of whichever subscription the session has to this channel. Returns whether it has one.
    pub fn catch_up_on(&mut self, id: SessionId, channel: &Arc<str>, since: Option<LogPosition>) -> bool {
        let target = self.sessions.get(id).and_then(|_| self.subscription_to(id, channel, None));
        if let Some(target) = target {
            self.catch_up(id, target, channel, since);
        }
        target.is_some()
    }

    /// A subscription of a session by which it receives a channel, other than `except`.
    fn subscription_to(&self, id: SessionId, channel: &str, except: Option<TargetId>) -> Option<TargetId> {
        let held = self.sessions[id].subscriptions.iter().map(|held| held.target);
        held.filter(|target| Some(*target) != except)
            .find(|target| covers(&self.targets[*target].subject.name, channel))
    }

    /// Where a session is in the channel of one of its subscriptions: what it is sent next follows that.
    pub(super) fn position_for(&self, id: SessionId, target: TargetId) -> Option<ChannelPosition> {
        let (session, target) = (&self.sessions[id], &self.targets[target]);
        let channel = &target.subject.name;
        if session.is_catching_up(channel)
            && let Some(log) = self.logs.get(channel)
            && let Some(one) = log.resuming.iter().find(|one| one.session == id && !one.is_lost)
        {
            return Some(ChannelPosition::Logged(one.cursor));
        }
        target.position
    }

    /// Whether a session that catches up can be sent a page now, or is to learn what its position means.
    pub(super) fn wants_page(&self, one: &Resuming) -> bool {
        one.verdict.is_none() || (self.takes_events(one.session) && self.targets[one.target].is_confirmed)
    }

    /// A session's client owes work: it requests pages again when that is paid.
    pub(super) fn catch_up_later(&mut self, id: SessionId, paid_in_ms: u64) {
        let at_ms = self.out.now.mono_ms + paid_in_ms;
        let session = &mut self.sessions[id];
        if !session.is_closing() && session.deadlines.catch_up_ms == 0 {
            session.deadlines.catch_up_ms = at_ms;
            self.out.timers.arm(session);
        }
    }

    /// What a session's client owed is paid, or a little later.
    pub(super) fn catch_up_again(&mut self, id: SessionId) {
        self.sessions[id].deadlines.catch_up_ms = 0;
        self.go_on_catching_up(id);
    }

    fn takes_events(&self, id: SessionId) -> bool {
        let session = &self.sessions[id];
        session.is_open() && !session.overrides.is_loading() && has_room(session)
    }

    /// A session may be able to take more of what it has missed.
    pub(super) fn go_on_catching_up(&mut self, id: SessionId) {
        let session = &self.sessions[id];
        let Some(behind) = session.catching_up.as_ref().filter(|_| session.deadlines.catch_up_ms == 0) else {
            return;
        };
        for channel in behind.channels.clone() {
            self.ask_log(&channel);
        }
    }

    /// A subscription ends: it catches up no more, unless another one shows the channel.
    pub(super) fn stop_catching_up(&mut self, id: SessionId, target: TargetId) {
        let Some(behind) = &mut self.sessions[id].catching_up else { return };
        for channel in std::mem::take(&mut behind.channels) {
            let other =
                self.subscription_to(id, &channel, Some(target)).filter(|_| self.may_see(id, &channel));
            let Some(log) = self.logs.get_mut(&channel) else { continue };
            let Some(at) = log.resuming.iter().position(|one| one.session == id) else { continue };
            match other {
                _ if log.resuming[at].target != target => {}
                Some(other) => {
                    let one = &mut log.resuming[at];
                    (one.target, one.is_pending) = (other, false);
                }
                None => {
                    log.resuming.remove(at);
                    continue;
                }
            }
            self.sessions[id].catching_up.get_or_insert_default().channels.insert(channel);
        }
        self.tidy_catching_up(id);
    }

    /// Whether a session's rights show it a channel, by whichever subscription.
    fn may_see(&mut self, id: SessionId, channel: &Arc<str>) -> bool {
        let session = &mut self.sessions[id];
        matches!(access(&self.settings, &mut self.views, session, channel), Access::Granted(_))
    }

    fn tidy_catching_up(&mut self, id: SessionId) {
        let behind = &mut self.sessions[id].catching_up;
        *behind = behind.take().filter(|behind| behind.all || !behind.channels.is_empty());
    }

    /// A page of a log.
    pub(super) fn replay(&mut self, replay: &Replay) {
        let channel = &replay.channel;
        let own = self.targets.find_channel(channel);
        let is_pending = own.is_some_and(|own| !self.targets[own].is_confirmed);
        let Some(log) = self.logs.get_mut(channel) else { return };
        log.is_out = false;
        // It is of a stream that is not the shard's: one before the channel was wanted again, or a pattern's on another
        // shard. Once the channel is confirmed it is requested again.
        if is_pending && (log.at.is_none() || replay.log.is_none()) {
            return;
        }
        let Some(stored) = &replay.log else { return self.replay_failed(channel) };
        let live = *log.at.get_or_insert(replay.live);
        self.set_position(channel, live);
        if self.logs.get(channel).is_some_and(|log| log.is_behind) {
            self.replay_to_all(replay, stored);
        }
        self.replay_to_resuming(replay, stored);
        self.ask_log(channel);
        self.enforce_limits();
    }

    /// The log cannot be read: whoever needs it gets `RESYNC`, and goes on live.
    fn replay_failed(&mut self, channel: &Arc<str>) {
        let Some((resuming, was_behind)) = self.logs.lose_position(channel) else { return };
        if was_behind {
            let viewers = self.viewers(channel);
            self.resync(&viewers, channel, "gap", None);
        }
        for mut one in resuming {
            self.report_verdict(&mut one, Recovery::Gap);
            if self.sessions[one.session].is_open() {
                self.caught_up(&one, channel);
                self.resync(&[one.session], channel, "gap", None);
            } else if let Some(log) = self.logs.get_mut(channel) {
                // `RESYNC` follows `WELCOME`.
                one.is_lost = true;
                log.resuming.push(one);
            }
        }
    }

    /// What a channel has missed, for all who see it.
    fn replay_to_all(&mut self, replay: &Replay, stored: &StoredLog) {
        let channel = &replay.channel;
        let Some(log) = self.logs.get_mut(channel) else { return };
        log.asks_store = false;
        let Some(mut at) = log.at else { return };
        match stored.cursor(at) {
            Cursor::Unknown if replay.is_remembered => {
                let log = self.logs.get_mut(channel);
                return log.into_iter().for_each(|log| log.asks_store = true);
            }
            Cursor::Unknown => return self.begin_again(channel, replay.live),
            Cursor::Gap => {
                at = stored.before_first();
                self.move_log(channel, at);
                let viewers = self.viewers(channel);
                self.resync(&viewers, channel, "gap", Some(ChannelPosition::Logged(at)));
            }
            Cursor::Continues => {}
        }
        if replay.after > at.offset {
            return;
        }
        let mut viewers = self.viewers(channel);
        for publication in replay.events.iter() {
            let Some(next) = publication.in_log.position().filter(|next| next.offset == at.offset.next())
            else {
                continue;
            };
            self.part_from_slow(&mut viewers, channel, at);
            at = next;
            self.log_goes_on(channel, next);
            self.deliver_to_all(publication);
        }
        if at.offset == replay.end.offset && at.offset == replay.live.offset {
            self.log_goes_on(channel, replay.live);
            self.set_position(channel, replay.live);
            if let Some(log) = self.logs.get_mut(channel) {
                log.is_behind = false;
            }
        }
    }

    /// Of those who are sent what a channel has missed, whoever has no room for more goes on alone: so that a replay never
    /// counts as slow consumption.
    fn part_from_slow(&mut self, viewers: &mut Vec<SessionId>, channel: &Arc<str>, at: LogPosition) {
        let sessions = &self.sessions;
        let is_slow = |id: &mut SessionId| sessions[*id].is_open() && !has_room(&sessions[*id]);
        for id in viewers.extract_if(.., is_slow).collect::<Vec<_>>() {
            if let Some(target) = self.subscription_to(id, channel, None) {
                self.go_on_alone(id, target, channel, at);
            }
        }
    }

    /// The log goes on with another history: what came before is void.
    fn begin_again(&mut self, channel: &Arc<str>, live: LogPosition) {
        self.move_log(channel, live);
        if let Some(log) = self.logs.get_mut(channel) {
            log.is_behind = false;
        }
        let viewers = self.viewers(channel);
        self.resync(&viewers, channel, "epoch", Some(ChannelPosition::Logged(live)));
    }

    fn move_log(&mut self, channel: &Arc<str>, at: LogPosition) {
        if let Some(log) = self.logs.get_mut(channel) {
            log.at = Some(at);
        }
        self.set_position(channel, at);
    }

    fn replay_to_resuming(&mut self, replay: &Replay, stored: &StoredLog) {
        let channel = &replay.channel;
        let Some(log) = self.logs.get_mut(channel) else { return };
        for mut one in std::mem::take(&mut log.resuming) {
            // What was reported of another one may have ended it.
            let behind = self.sessions[one.session].catching_up.as_ref();
            if behind.is_none_or(|behind| !behind.channels.contains(channel)) {
                continue;
            }
            let (mut is_done, price) = (false, if self.wants_page(&one) { work::PAGE } else { 0 });
            self.charged(one.session, |engine| {
                engine.targets.work.add(price);
                is_done = engine.replay_to(&mut one, replay, stored);
            });
            if is_done {
                self.caught_up(&one, channel);
            } else if let Some(log) = self.logs.get_mut(channel) {
                log.resuming.push(one);
            }
        }
    }

    /// Sends a session what it has missed, as far as the page and its outbox go. Returns whether it has caught up.
    fn replay_to(&mut self, one: &mut Resuming, replay: &Replay, stored: &StoredLog) -> bool {
        let (channel, id) = (&replay.channel, one.session);
        let is_unknown = stored.cursor(one.cursor) == Cursor::Unknown;
        one.asks_store = replay.is_remembered && is_unknown && !one.is_lost;
        if (std::mem::take(&mut one.is_late) && is_unknown) || one.asks_store {
            return false;
        }
        self.judge(one, stored);
        // What comes behind the page is its own only while it is confirmed.
        if !self.takes_events(id) || !self.targets[one.target].is_confirmed {
            return false;
        }
        if let Some(reason) = one.resync.take() {
            self.resync(&[id], channel, reason, Some(ChannelPosition::Logged(one.cursor)));
        }
        if replay.after > one.cursor.offset {
            return false;
        }
        let mut is_hidden = false;
        for publication in replay.events.iter() {
            let Some(next) = publication.in_log.position().filter(|next| next.offset > one.cursor.offset)
            else {
                continue;
            };
            if !self.takes_events(id) {
                return false;
            }
            if next.epoch != one.cursor.epoch {
                self.send_position(id, channel, LogPosition { offset: one.cursor.offset, ..next });
            }
            is_hidden = !self.replay_event(one, publication);
            one.cursor = next;
        }
        let log = self.logs.get(channel);
        let stream = log.filter(|log| !log.is_behind).and_then(|log| log.at);
        let is_at_end = one.cursor.offset == replay.end.offset && one.cursor.offset == replay.live.offset;
        let Some(stream) = stream.filter(|stream| is_at_end && stream.offset == one.cursor.offset) else {
            return false;
        };
        if is_hidden || stream.epoch != one.cursor.epoch {
            self.send_position(id, channel, stream);
        }
        true
    }

    /// What a session's position means to the log; and, where it is not in it any more, from where it goes on.
    fn judge(&mut self, one: &mut Resuming, stored: &StoredLog) {
        let recovery = match stored.cursor(one.cursor) {
            _ if one.is_lost => Recovery::Gap,
            Cursor::Continues => Recovery::Recovered,
            Cursor::Gap => Recovery::Gap,
            Cursor::Unknown => Recovery::Epoch,
        };
        match recovery {
            Recovery::Recovered => {}
            Recovery::Gap if one.is_lost => (one.cursor, one.resync) = (stored.last, Some("gap")),
            Recovery::Gap => (one.cursor, one.resync) = (stored.before_first(), Some("gap")),
            Recovery::Epoch => (one.cursor, one.resync) = (stored.last, Some("epoch")),
        }
        one.is_lost = false;
        self.report_verdict(one, recovery);
    }

    /// Sends one session a logged event again, if one of its subscriptions shows it. Returns whether one does.
    fn replay_event(&mut self, one: &Resuming, publication: &Arc<Publication>) -> bool {
        self.targets.work.add(work::to_send(publication.event.data_json().len()));
        let Some(route_target) = self.route_of(one.session, publication) else {
            self.out.stats.hidden += 1;
            return false;
        };
        let target = &self.targets[route_target];
        let class = publication.class;
        let route = Route { target: route_target, class, delivery: delivery_of(&self.settings, class) };
        let session = &mut self.sessions[one.session];
        let slot = session.slot_of(route_target);
        let subscriber = target.subscriber_at(slot);
        if let Some(at) = publication.in_log.position().filter(|_| target.subject.is_pattern()) {
            self.out.announce_position(session, subscriber, publication, at);
        }
        if !subscriber.is_own_past(session.public, publication) {
            self.out.stats.replayed += 1;
            self.out.send_event(session, &route, publication, LOST);
        }
        true
    }

    /// The subscription by which a session is shown an event: its own, or else a pattern.
    fn route_of(&mut self, id: SessionId, publication: &Arc<Publication>) -> Option<TargetId> {
        let scope = EventScope::of(publication);
        let channel = &publication.channel;
        let subscriptions = self.sessions[id].subscriptions.clone();
        let own = self.targets.find_channel(channel);
        if let Some(held) = subscriptions.iter().find(|held| Some(held.target) == own)
            && self.is_in_audience(held, &scope, publication)
        {
            return Some(held.target);
        }
        let by_pattern = subscriptions.iter().find(|held| {
            let subject = &self.targets[held.target].subject;
            subject.is_pattern()
                && glob::glob_matches(&subject.name, channel)
                && self.is_in_audience(held, &scope, publication)
        })?;
        let target = by_pattern.target;
        let session = &mut self.sessions[id];
        match access(&self.settings, &mut self.views, session, channel) {
            Access::Granted(view) if view.as_ref().is_none_or(|view| view.allows(&scope)) => Some(target),
            Access::Granted(_) | Access::Denied => None,
        }
    }

    /// Whether a subscription's view shows an event.
    fn is_in_audience(&self, held: &Subscription, scope: &EventScope<'_>, publication: &Publication) -> bool {
        let target = &self.targets[held.target];
        match (target.subscriber_at(held.slot).audience, &target.audiences) {
            (NOBODY, _) => false,
            (_, None) => true,
            (audience, Some(audiences)) => audiences.get(audience).is_some_and(|audience| {
                let steps = audience.view.as_ref().map_or(0, |view| view.steps(publication));
                self.targets.work.add(steps);
                audience.would_be_shown(scope)
            }),
        }
    }

    /// A session has been sent all that it had missed: it goes on live.
    fn caught_up(&mut self, one: &Resuming, channel: &Arc<str>) {
        if let Some(behind) = &mut self.sessions[one.session].catching_up {
            behind.channels.remove(channel);
        }
        self.tidy_catching_up(one.session);
        let target = &mut self.targets[one.target];
        if !target.subject.is_pattern() {
            let slot = self.sessions[one.session].slot_of(one.target);
            target.subscriber_at_mut(slot).phase.caught_up();
        }
    }
}

impl Resuming {
    fn new(session: SessionId, target: TargetId, cursor: LogPosition) -> Self {
        Resuming {
            session,
            target,
            cursor,
            is_lost: false,
            verdict: None,
            is_pending: false,
            is_late: false,
            asks_store: false,
            resync: None,
        }
    }
}

/// Whether a session's outbox has room for what was missed: half of it stays free for what comes live.
fn has_room(session: &Session) -> bool {
    !session.is_blocked() && session.outbox.bytes() < session.outbox.limit() / 2
}

impl StoredLog {
    /// The position before the first event that is kept.
    fn before_first(&self) -> LogPosition {
        let offset = self.first.previous();
        LogPosition { epoch: self.epoch_of(offset), offset }
    }
}
