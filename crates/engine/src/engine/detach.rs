//! A session outlives its connection (contract §7): it is detached, keeps its subscriptions, and holds what arrives on channels
//! without history in its outbox, as events, within the same limit as for a socket that does not read. Entity channels keep
//! nothing: who returns is sent all that is in view. Its return is in [`super::resume`].
//!
//! Nothing is said to be recovered without proof: [`Subscriber::written`](crate::targets::Subscriber) is what the client
//! must have received. Where anything is dropped that becomes [`LOST`], and the rest of that channel need not be held either.

use std::borrow::Cow;

use drawbridge_protocol::CloseCode;
use drawbridge_protocol::channel::is_pattern;

use super::Engine;
use super::closing::last_frames;
use super::deliver::is_logged;
use super::requests::covers;
use super::slow_consumer::policy_of;
use crate::class::SlowConsumer;
use crate::io::{ChannelPosition, Holder, Output, SessionId};
use crate::outbox::{QueueId, QueueKind};
use crate::session::{Before, Deadlines, Phase};
use crate::targets::{LOST, Reply, TargetId};

impl Engine {
    /// Takes the connection away from a session whose close was queued, and which lives on.
    ///
    /// Frames that wait are dropped, or leave with the close: whether they were received, the client's positions will say.
    pub(super) fn detach(
        &mut self,
        id: SessionId,
        code: u16,
        word: &str,
        farewell: Option<(CloseCode, Cow<'static, str>)>,
    ) {
        let window_ms = self.settings.resume_window_ms;
        let session = &mut self.sessions[id];
        let has_changed = std::mem::take(&mut session.record.has_changed);
        let was_open = matches!(session.phase, Phase::Closing(Before::Open));
        session.phase = Phase::Detached;
        session.slot = Some(Box::new(self.limits.connections().take_detached(session.address)));
        let frames = session.outbox.take_frames();
        if let Some(link) = session.link.take() {
            self.sessions.shut_door(link.conn);
            if let Some((code, reason)) = farewell {
                let frames = last_frames(code, frames);
                self.out.outputs.push_back(Output::Close { conn: link.conn, frames, code, reason });
            }
        }
        let session = &mut self.sessions[id];
        (session.deferred, session.pending_token) = (None, None);
        let phase_ms = self.out.now.mono_ms + window_ms;
        session.deadlines =
            Deadlines { phase_ms, armed_ms: session.deadlines.armed_ms, ..Deadlines::default() };
        self.out.timers.arm(session);
        // No one waits for the answers of requests.
        for held in &session.subscriptions {
            let waiters = self.targets[held.target].waiters.iter_mut();
            for waiter in
                waiters.filter(|waiter| waiter.session == id && !matches!(waiter.reply, Reply::Resync))
            {
                waiter.reply = Reply::Silent;
            }
        }
        if session.overrides.is_loading() && session.overrides.query().is_none() {
            self.retry_overrides(id);
        }
        if has_changed {
            self.save_now(id);
        }
        self.give_place_back(id);
        let history = self.sessions[id].history.take();
        self.cancel_history(history);
        self.hide_logged(id);
        self.forget_presence_read(id);
        self.miss_presence(id);
        self.drop_what_is_not_held(id, code == CloseCode::SlowConsumer.as_u16());
        self.count_held(id);
        if was_open {
            self.record_disconnected(id, code, word);
        }
        let holder = Holder { shard: self.shard, session: id };
        let player = self.sessions[id].player().cloned().unwrap_or_default();
        // One that was moved is attached again at once.
        if code != CloseCode::SessionTakenOver.as_u16()
            && let Some(oldest) = self.limits.sessions.detach(&player, holder)
        {
            self.out.outputs.push_back(Output::EndDetached(oldest));
        }
        self.out.over_limit.push(id);
        self.enforce_limits();
    }

    /// Of a session that was just detached: tables, logged events, and, where its client did not read, all that waited.
    fn drop_what_is_not_held(&mut self, id: SessionId, all: bool) {
        for (kind, queue) in self.sessions[id].outbox.queues().to_vec() {
            match kind {
                QueueKind::Table(target) => {
                    let session = &mut self.sessions[id];
                    session.outbox.remove(&mut self.out.queues, queue);
                    self.targets[target].subscriber_at_mut(session.slot_of(target)).queue = None;
                }
                // The client's positions say what it has received of it, and the log has the rest.
                QueueKind::Stream(class) if is_logged(&self.settings, class) => {
                    self.sessions[id].outbox.remove(&mut self.out.queues, queue);
                }
                QueueKind::Stream(_) if all => self.lose_queue(id, queue),
                QueueKind::Stream(_) => {}
            }
        }
        for held in &self.sessions[id].subscriptions {
            let target = &mut self.targets[held.target];
            if target.world.is_some() {
                // It costs nothing until it returns.
                target.leave_audience(held.slot);
                target.subscriber_at_mut(held.slot).pays = false;
            }
        }
    }

    /// The window of a detached session has passed.
    pub(super) fn end_window(&mut self, id: SessionId) {
        self.out.stats.windows_ended += 1;
        self.end_detached(id, "resume window ended");
    }

    /// Of the sessions of a player there are more detached than may be, and this is the oldest. It may have ended or returned.
    pub(super) fn detached_too_many(&mut self, id: SessionId) {
        if self.sessions.get(id).is_some_and(|session| matches!(session.phase, Phase::Detached)) {
            self.end_detached(id, "too many detached sessions of this player");
        }
    }

    /// More waits for a session that holds its events than may, or it was counted last before something arrived.
    pub(super) fn enforce_held_limit(&mut self, id: SessionId) {
        if self.sessions[id].outbox.is_over_limit() && !self.shed(id) {
            for (kind, queue) in self.sessions[id].outbox.queues().to_vec() {
                if policy_of(&self.settings, &self.targets, kind) == SlowConsumer::Disconnect {
                    self.lose_queue(id, queue);
                }
            }
        }
        self.count_held(id);
        if self.limits.sessions.is_over_limit(0) {
            self.shed_node();
        }
    }

    /// More waits for the node's detached sessions than may: of those of this shard, the largest lose what waits for them.
    ///
    /// Why not the node's largest: a shard does not see the others' sessions. Whoever adds something makes room for it, so
    /// the bound holds.
    fn shed_node(&mut self) {
        let spare = self.limits.sessions.spare();
        let held = self.sessions.iter().filter(|session| session.held_bytes > 0);
        let mut held: Vec<(usize, SessionId)> =
            held.map(|session| (session.held_bytes, session.id)).collect();
        held.sort_unstable();
        while self.limits.sessions.is_over_limit(spare)
            && let Some((_, id)) = held.pop()
        {
            for (_, queue) in self.sessions[id].outbox.queues().to_vec() {
                self.lose_queue(id, queue);
            }
            self.count_held(id);
        }
    }

    /// Counts for the node what waits for a session that holds its events; nothing for another.
    pub(super) fn count_held(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        let now = if session.holds_events() { session.outbox.queue_bytes() } else { 0 };
        let before = std::mem::replace(&mut session.held_bytes, now);
        if before != now {
            self.limits.sessions.count_bytes(before, now);
        }
    }

    /// Drops a queue of streams, and all that arrives for its subscriptions until the session returns.
    fn lose_queue(&mut self, id: SessionId, queue: QueueId) {
        let session = &mut self.sessions[id];
        for (target, _) in self.out.queues.proofs(queue) {
            self.targets[target].subscriber_at_mut(session.slot_of(target)).written = LOST;
        }
        session.outbox.remove(&mut self.out.queues, queue);
    }

    /// Events of a channel are missing, or were shown by another view than holds now: drops those of it that wait for a session
    /// that holds its events. `name`: the channel, or the pattern.
    pub(super) fn lose_channel(&mut self, id: SessionId, name: &str) {
        let is_of = |target: &TargetId| {
            let subject = &self.targets[*target].subject.name;
            **subject == *name || (!is_pattern(name) && covers(subject, name))
        };
        let targets = self.sessions[id].subscriptions.iter().map(|held| held.target).filter(is_of);
        for target in targets.collect::<Vec<_>>() {
            self.lose(id, target);
        }
    }

    /// As [`Engine::lose_channel`], of one subscription.
    pub(super) fn lose(&mut self, id: SessionId, target: TargetId) {
        let session = &mut self.sessions[id];
        self.targets[target].subscriber_at_mut(session.slot_of(target)).written = LOST;
        session.outbox.forget(&mut self.out.queues, target);
        self.count_held(id);
    }

    /// A subscription by name has ended. Its events were not counted for the patterns that show the channel, too: whether they
    /// were received is not known any more, unless the client names a position in the channel's log.
    pub(super) fn patterns_take_over(&mut self, id: SessionId, ended: TargetId) {
        let session = &self.sessions[id];
        if session.patterns == 0 || self.targets[ended].subject.is_pattern() {
            return;
        }
        let name = self.targets[ended].subject.name.clone();
        if is_logged(&self.settings, self.targets[ended].class) {
            return self.sessions[id].shown_logs.get_or_insert_default().note(&name);
        }
        for held in &session.subscriptions {
            let target = &mut self.targets[held.target];
            if target.subject.is_pattern() && covers(&target.subject.name, &name) {
                let written = &mut target.subscriber_at_mut(held.slot).written;
                *written = (*written).max(1);
            }
        }
    }

    /// A client was sent `RESYNC` of a channel or pattern, at this position.
    ///
    /// Invariant: a position that the client may have without having received this `RESYNC` proves nothing.
    pub(super) fn note_resync(&mut self, id: SessionId, name: &str, position: Option<ChannelPosition>) {
        for held in &self.sessions[id].subscriptions {
            let target = &mut self.targets[held.target];
            let offset = position.filter(|_| *target.subject.name == *name).map(|position| position.offset());
            let is_of = *target.subject.name == *name
                || (target.subject.is_pattern() && !is_pattern(name) && covers(&target.subject.name, name));
            if is_of {
                let written = &mut target.subscriber_at_mut(held.slot).written;
                *written = offset.filter(|offset| *offset != *written && *written != LOST).unwrap_or(LOST);
            }
        }
    }
}
