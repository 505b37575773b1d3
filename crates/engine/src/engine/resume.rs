//! `CONNECT` with `resume` (contract §7): a connection takes up the session that it had, with what waits for it.
//!
//! ```text
//!   Returning ──the end of `handle`──▶ is there such a session? ──no──▶ a new session, as any other
//!                                            │ yes: its link is this connection now; a link that it had is closed (4505)
//!                                            ▼
//!                                   rights and views by the new token; meanwhile events go on waiting
//!                                            ▼
//!               WELCOME, what is not allowed any more, RESYNC where proof is missing, what waited, live events
//! ```

use std::sync::Arc;

use drawbridge_protocol::{
    ClientMessage, CloseCode, Connect, Encoding, Resume, SentPosition, ServerMessage, Subscribe, codec,
};
use hashbrown::{HashMap, HashSet};

use super::Engine;
use super::catch_up::Recovery as LogRecovery;
use super::deliver::{access, is_logged};
use super::requests::covers;
use crate::access::Access;
use crate::io::{
    ChannelPosition, Claims, Epoch, Format, Holder, LogPosition, LoggedOffset, SessionHash, SessionId,
    SessionSecret, Subject,
};
use crate::link::Link;
use crate::pattern_index::match_work;
use crate::permissions::{self, Filled};
use crate::session::{
    ANONYMOUS_PREFIX, Arrival, Deadlines, Joining, Origin, Ownership, Phase, Resumed, Returning, Session,
    Subscription,
};
use crate::targets::{LOST, Reply, Target, TargetId};
use crate::upstream::ShardId;
use crate::work;

/// A client names at most so many positions for each subscription that it may hold: it may have seen channels by patterns.
const POSITIONS_PER_SUBSCRIPTION: usize = 4;

/// A session's name as its client sends it.
pub(super) struct SessionName {
    pub(super) secret: SessionSecret,
    pub(super) hash: SessionHash,
    /// The player's name, of an anonymous one.
    anonymous: Option<String>,
}

impl SessionName {
    /// 32 hexadecimal digits, and for an anonymous player the 16 of its name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (secret, rest) = name.split_at_checked(32)?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let anonymous = match rest.len() {
            0 => None,
            16 if rest.bytes().all(is_hex) => Some(format!("{ANONYMOUS_PREFIX}{rest}")),
            _ => return None,
        };
        let secret = SessionSecret::parse(secret)?;
        Some(SessionName { secret, hash: secret.hash(), anonymous })
    }

    /// The player that it must be of.
    pub(super) fn player<'s>(&'s self, returning: &'s Returning, is_anonymous: bool) -> Option<&'s str> {
        match &self.anonymous {
            Some(player) => is_anonymous.then_some(player),
            None => (!is_anonymous).then_some(&*returning.claims.player),
        }
    }

    /// The claims of the anonymous player that it is of.
    pub(super) fn anonymous_claims(&self) -> Option<Claims> {
        self.anonymous.as_ref().map(|player| Claims::anonymous(player))
    }
}

/// What `WELCOME` reports of one subscription when its session returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recovery {
    pub(super) target: TargetId,
    /// `None`: not reported.
    pub(super) recovered: Option<bool>,
    /// `RESYNC` follows.
    pub(super) resync: bool,
    /// Behind which number events follow, where nothing is missing.
    pub(super) position: Option<u64>,
    /// Redis has not confirmed it, or its log has not said what the client's position means: `CHANNEL_SUBSCRIBED` reports that.
    pub(super) is_pending: bool,
}

impl Engine {
    /// Which shard of the node has the session that a `CONNECT` in this message resumes; `None`: there is no such `CONNECT`, or
    /// no shard has it.
    pub fn shard_of_resumed(&self, encoding: Encoding, payload: &[u8]) -> Option<ShardId> {
        codec::decode(encoding, payload).into_iter().flatten().find_map(|request| match request.message {
            ClientMessage::Connect(Connect { resume: Some(resume), .. }) => {
                let name = SessionName::parse(&resume.session)?;
                self.limits.sessions.find(name.hash).map(|holder| holder.shard)
            }
            _ => None,
        })
    }

    /// What is wrong with a `CONNECT.resume` that names too many positions.
    pub(super) fn too_many_positions(&self, resume: &Resume) -> Option<String> {
        let most = self.settings.subscriptions.saturating_mul(POSITIONS_PER_SUBSCRIPTION);
        (resume.positions.len() > most).then(|| {
            format!("`resume.positions` holds more than {most} channels: four for each subscription")
        })
    }

    /// A connection whose player is known resumes a session: at the end of the current input.
    pub(super) fn return_later(&mut self, id: SessionId, arrival: Arrival, claims: Claims) {
        let session = &mut self.sessions[id];
        session.phase = Phase::Returning(Box::new(Returning { arrival, claims }));
        self.returning.push(id);
    }

    /// Gives connections the sessions that they resume, or new ones.
    ///
    /// Why not at once: a connection that becomes another session's leaves the table, and its requests are still being
    /// gone through.
    pub(super) fn finish_returns(&mut self) {
        for id in std::mem::take(&mut self.returning) {
            // It may have been closed since, and is gone then.
            let Some(Phase::Returning(_)) = self.sessions.get(id).map(|session| &session.phase) else {
                continue;
            };
            let phase = std::mem::replace(&mut self.sessions[id].phase, Phase::Connecting);
            let Phase::Returning(returning) = phase else { continue };
            match self.find_session(id, &returning) {
                Some(theirs) => self.give_link(id, theirs, *returning),
                None => {
                    if let Some(returning) = self.claim(id, returning) {
                        self.join_anew(id, *returning);
                    }
                }
            }
            self.finish_step();
            self.enforce_limits();
            self.finish_closings();
        }
    }

    /// The session that a connection resumes, if it is there and the player's.
    fn find_session(&self, id: SessionId, returning: &Returning) -> Option<SessionId> {
        let name = SessionName::parse(&returning.arrival.resume.as_ref()?.session)?;
        let player = name.player(returning, self.sessions[id].anonymous)?;
        let Holder { shard, session } = self.limits.sessions.find(name.hash)?;
        let session = self.sessions.get(session).filter(|_| shard == self.shard)?;
        let is_theirs =
            session.hash == name.hash && session.player().is_some_and(|theirs| **theirs == *player);
        let may_return = session.is_open() || session.holds_events();
        (is_theirs && may_return).then_some(session.id)
    }

    /// A connection becomes that of the session that it resumes.
    fn give_link(&mut self, id: SessionId, theirs: SessionId, returning: Returning) {
        self.take_link(theirs);
        let session = &mut self.sessions[id];
        let drain_ms = session.deadlines.drain_ms;
        let place = std::mem::take(&mut session.connect_place);
        session.deadlines = Deadlines { armed_ms: session.deadlines.armed_ms, ..Deadlines::default() };
        self.out.timers.arm(session);
        let mut came = self.forget(id);
        came.deadlines.drain_ms = drain_ms;
        self.sessions[theirs].connect_place = place;
        // Input comes from a link.
        let Some(link) = came.link.take() else { return };
        let Returning { arrival, claims } = returning;
        self.out.stats.resumed += 1;
        let holder = Holder { shard: self.shard, session: theirs };
        self.limits.sessions.attach(&self.sessions[theirs].player().cloned().unwrap_or_default(), holder);
        self.move_anonymous_filters(theirs, came.address);
        self.attach(theirs, link, &mut came);
        // An anonymous player keeps the name and the claims that it had.
        let claims = match &self.sessions[theirs].claims {
            Some(kept) if self.sessions[theirs].anonymous => kept.clone(),
            _ => claims,
        };
        self.charged(theirs, |engine| engine.rejoin(theirs, arrival, claims));
        self.retry_deferred(theirs);
    }

    /// Closes the connection that a session still has, because another one resumes it.
    fn take_link(&mut self, id: SessionId) {
        let session = &self.sessions[id];
        if session.link.is_none() {
            return;
        }
        self.out.stats.sessions_moved += 1;
        self.close(id, CloseCode::SessionTakenOver, "session taken over");
        self.finish_closings();
    }

    /// Gives a detached session the link of a connection, with what belongs to that.
    fn attach(&mut self, id: SessionId, link: Link, came: &mut Session) {
        self.sessions.open_door(link.conn, id);
        let now_ms = self.out.now.mono_ms;
        let session = &mut self.sessions[id];
        session.link = Some(link);
        session.slot = None;
        session.record.ownership = Ownership::Assumed;
        (session.public, session.address) = (came.public, came.address);
        session.deferred = came.deferred.take();
        let Format { encoding, deflate } = came.outbox.format();
        session.outbox.set_format(Format { encoding, deflate });
        session.outbox.max_message_bytes = came.outbox.max_message_bytes;
        // What the connection was answered before.
        session.outbox.return_frames(came.outbox.take_frames());
        let overrides_ms = session.deadlines.overrides_ms;
        session.deadlines = Deadlines {
            heartbeat_ms: now_ms + self.settings.heartbeat_ms,
            overrides_ms,
            drain_ms: came.deadlines.drain_ms,
            armed_ms: session.deadlines.armed_ms,
            ..Deadlines::default()
        };
        self.out.timers.arm(session);
        if session.outbox.has_frames() {
            self.out.mark_dirty(session);
        }
    }

    /// The subscriptions and views of a session that returns, by the claims of now.
    fn rejoin(&mut self, id: SessionId, arrival: Arrival, claims: Claims) {
        let Arrival { id: request, subscribe, resume } = arrival;
        let before = self.sessions[id].claims.clone();
        let auto = permissions::auto_channels(&self.settings, &claims);
        let positions = resume.map(|resume| resume.positions).unwrap_or_default();
        self.sessions[id].phase = Phase::Joining(Box::new(Joining::new(request, Some(positions))));
        self.set_claims(id, claims.clone());
        {
            let filled: HashSet<&str> = auto.channels.iter().chain(&auto.cut).map(String::as_str).collect();
            let named = subscribe.as_ref().map(|list| list.iter().flatten());
            let own: Option<HashSet<&str>> =
                named.map(|named| named.map(|Subscribe { channel, .. }| channel.as_str()).collect());
            self.end_what_is_over(id, &claims, &filled, own.as_ref());
        }
        self.see_again(id, before.as_ref(), &claims);
        self.auto_subscribe_all(id, auto);
        self.subscribe_in_connect(id, subscribe.unwrap_or_default());
        self.catch_up_on_all(id);
        self.await_welcome(id);
    }

    /// Ends the subscriptions that a session does not return to: those that its token does not allow, and those that its client
    /// does not name.
    fn end_what_is_over(
        &mut self,
        id: SessionId,
        claims: &Claims,
        filled: &HashSet<&str>,
        own: Option<&HashSet<&str>>,
    ) {
        let rights = Filled::default();
        for Subscription { target, origin, .. } in self.sessions[id].subscriptions.clone() {
            let name = self.targets[target].subject.name.clone();
            let is_named = own.is_none_or(|own| own.contains(&*name));
            let is_filled = filled.contains(&*name);
            if origin == Origin::Client && !is_named && !is_filled {
                self.drop_subscription(id, target);
                continue;
            }
            // Whoever it is from: it stays for as long as there is a reason.
            let origin = match origin {
                Origin::Auto if !is_filled && own.is_some() && is_named => Origin::Client,
                Origin::Client if !is_named => Origin::Auto,
                origin => origin,
            };
            let is_allowed = self.may_keep(claims, target, origin, is_filled, &rights);
            if is_allowed && self.may_still_follow(id, target, claims) {
                self.set_origin(id, target, origin);
                continue;
            }
            self.drop_subscription(id, target);
            if let Some(resumed) = self.sessions[id].resumed_mut() {
                resumed.forbidden.push(name);
            }
        }
        let stored = self.sessions[id].subscriptions.iter().map(|held| held.target).collect();
        if let Some(resumed) = self.sessions[id].resumed_mut() {
            resumed.stored = stored;
        }
    }

    fn set_origin(&mut self, id: SessionId, target: TargetId, origin: Origin) {
        let held = self.sessions[id].subscriptions.iter_mut().find(|held| held.target == target);
        held.into_iter().for_each(|held| held.origin = origin);
    }

    /// Finds the place of each subscription by the claims of now; where the view differs from that of `before`, what waits
    /// is dropped ([`Engine::recompute_visibility`] does so for channels). `WELCOME` waits for those that are not confirmed.
    fn see_again(&mut self, id: SessionId, before: Option<&Claims>, claims: &Claims) {
        let same_rules = self.sessions[id].patterns == 0
            || before
                .is_some_and(|before| permissions::are_patterns_seen_alike(&self.settings, before, claims));
        for Subscription { target: target_id, origin, .. } in self.sessions[id].subscriptions.clone() {
            let target = &mut self.targets[target_id];
            let (is_pattern, is_table) = (target.subject.is_pattern(), target.world.is_some());
            let mut waiters = target.waiters.iter_mut().filter(|waiter| waiter.session == id);
            let (mut waits, mut was_broken) = (0, false);
            waiters.by_ref().for_each(|waiter| {
                was_broken |= matches!(waiter.reply, Reply::Resync);
                waits += 1;
                waiter.reply = Reply::Welcome;
            });
            if let Phase::Joining(joining) = &mut self.sessions[id].phase {
                joining.unconfirmed += waits;
            }
            if was_broken || (is_pattern && !same_rules) {
                self.lose(id, target_id);
            }
            self.recompute_visibility(id, target_id, false);
            if is_table {
                let session = &self.sessions[id];
                let slot = session.slot_of(target_id);
                self.targets[target_id].subscriber_at_mut(slot).pays |= origin != Origin::Server;
            }
        }
    }

    /// Has the logs of channels with history say what the client's positions mean, and send what it has missed, once it is
    /// open. `WELCOME` waits for the former.
    pub(super) fn catch_up_on_all(&mut self, id: SessionId) {
        let Some(resumed) = self.sessions[id].resumed_mut() else { return };
        let (positions, stored) = (resumed.positions.clone(), resumed.stored.clone());
        let mut wanted: Vec<(TargetId, Arc<str>, Option<LogPosition>)> = Vec::new();
        let since = |sent: &SentPosition| LogPosition {
            // One that is none is not the log's.
            epoch: Epoch::parse(&sent.epoch).unwrap_or_default(),
            offset: LoggedOffset(sent.offset),
        };
        let by_name = positions.iter().map(|(channel, sent)| (channel.as_str(), sent));
        let by_name: hashbrown::HashMap<&str, &SentPosition> = by_name.collect();
        let mut by_pattern = HashSet::new();
        let is_paid = self.work_is_paid_in_ms(id).is_none();
        for Subscription { target, .. } in self.sessions[id].subscriptions.clone() {
            let subject = self.targets[target].subject.clone();
            if !subject.is_pattern() {
                let position = by_name.get(&*subject.name).map(|sent| since(sent));
                if is_logged(&self.settings, self.targets[target].class)
                    && (position.is_some() || stored.contains(&target))
                {
                    wanted.push((target, subject.name, position));
                }
                continue;
            }
            if !is_paid && !positions.is_empty() {
                // Its client owes work: nothing is proven, and nothing is read.
                if let Some(resumed) = self.sessions[id].resumed_mut() {
                    resumed.logged.push((target, Some(false)));
                }
                continue;
            }
            self.targets.work.add((match_work(&subject.name) * positions.len()) as u64);
            for (channel, sent) in positions.iter().filter(|(channel, _)| covers(&subject.name, channel)) {
                self.targets.work.add(work::AUTHORIZE);
                let channel: Arc<str> = channel.as_str().into();
                let class = self.settings.classes.class_of(&channel).map(|(class, _)| class);
                let is_own = self.is_subscribed(id, &Subject::channel(channel.clone()));
                if is_own || !is_logged(&self.settings, class) {
                    continue;
                }
                let session = &mut self.sessions[id];
                let access = access(&self.settings, &mut self.views, session, &channel);
                if matches!(access, Access::Granted(_)) && by_pattern.insert(channel.clone()) {
                    wanted.push((target, channel, Some(since(sent))));
                }
            }
        }
        for (target, channel, position) in wanted {
            if let Phase::Joining(joining) = &mut self.sessions[id].phase
                && let Some(resumed) = &mut joining.resumed
            {
                joining.unconfirmed += 1;
                resumed.logged.push((target, None));
            }
            self.catch_up(id, target, &channel, position);
        }
        self.show_logged(id);
    }

    /// What the log says of a position with which a session came back. `target`: as [`Engine::catch_up`] found it.
    pub(super) fn recovered(&mut self, id: SessionId, target: TargetId, recovery: LogRecovery) {
        let Some(resumed) = self.sessions[id].resumed_mut() else { return };
        let said = resumed.logged.iter_mut().find(|(of, said)| *of == target && said.is_none());
        if let Some((_, said)) = said {
            *said = Some(recovery == LogRecovery::Recovered);
            self.confirmed_for_welcome(id);
        }
    }

    /// What can be said of each subscription of a session that returns, now that nothing waits any more. What cannot be proven
    /// is dropped.
    pub(super) fn judge_recovery(&mut self, id: SessionId, resumed: &Resumed) -> Vec<Recovery> {
        let session = &self.sessions[id];
        let queues = session.outbox.queues().iter().flat_map(|(_, queue)| self.out.queues.proofs(*queue));
        let proofs: Vec<(TargetId, u64)> = queues.collect();
        let positions = resumed.positions.iter().map(|(channel, position)| (channel.as_str(), position));
        let positions: HashMap<&str, &SentPosition> = positions.collect();
        let mut recoveries = Vec::with_capacity(session.subscriptions.len());
        for held in &session.subscriptions {
            let target = &self.targets[held.target];
            let subscriber = target.subscriber_at(held.slot);
            let position = positions.get(&*target.subject.name).copied();
            let is_new = !resumed.stored.contains(&held.target);
            let nothing = Recovery {
                target: held.target,
                recovered: None,
                resync: false,
                position: None,
                is_pending: false,
            };
            // Whether its client has held a pattern before (a service may have ended it) no position says.
            if target.world.is_some() || (is_new && position.is_none() && !target.subject.is_pattern()) {
                recoveries.push(nothing);
                continue;
            }
            let queued = proofs.iter().find(|(of, _)| *of == held.target).map(|(_, before)| *before);
            let last = queued.unwrap_or(subscriber.written);
            let is_live = subscriber.phase.is_shown_events() && !is_new && last != LOST;
            let mut logged = resumed.logged.iter().filter(|(of, _)| *of == held.target);
            if is_logged(&self.settings, target.class) {
                // The log sends `RESYNC` itself, where it does not have everything.
                let said = logged.next().map(|(_, said)| *said);
                let is_waiting = said == Some(None) || subscriber.phase.success_so_far().is_none();
                let is_pending = said.is_some() && is_waiting;
                let recovered = said.flatten().filter(|_| !is_pending);
                recoveries.push(Recovery { recovered, is_pending, ..nothing });
                continue;
            }
            if target.subject.is_pattern() {
                let said: Vec<bool> = logged.map(|(_, said)| *said == Some(true)).collect();
                let is_whole =
                    is_live && last == 0 && !self.may_have_lost_logged(session, target, &positions);
                // Channels that the client does not name are not part of the answer: it is sent `RESYNC` for them.
                let is_named = is_logged(&self.settings, target.pattern_class) && !said.is_empty();
                let recovered = (is_whole || is_named) && said.iter().all(|recovered| *recovered);
                let resync = !(is_whole && recovered);
                recoveries.push(Recovery { recovered: Some(recovered), resync, ..nothing });
                continue;
            }
            let proven = match position {
                Some(SentPosition { epoch, offset }) => {
                    is_live
                        && *offset == last
                        && target.position.is_some_and(|position| position.epoch().as_str() == epoch)
                }
                None => false,
            };
            recoveries.push(match proven {
                true => Recovery { recovered: Some(true), position: Some(last), ..nothing },
                false => Recovery { recovered: Some(false), resync: true, ..nothing },
            });
        }
        self.judge_patterns(id, &mut recoveries);
        for recovery in recoveries.iter().filter(|recovery| recovery.resync) {
            // Of a pattern through which only logged events came, `shown_logs` says what may be missing, also next time.
            if !self.is_kept_pattern_of_logs(id, recovery.target, resumed) {
                self.lose(id, recovery.target);
            }
        }
        recoveries
    }

    /// Whether events of a log may be missing behind a pattern: of a channel that was shown through it, and that the client
    /// names no position of.
    fn may_have_lost_logged(
        &self,
        session: &Session,
        pattern: &Target,
        positions: &HashMap<&str, &SentPosition>,
    ) -> bool {
        let is_known = |channel: &str| {
            !covers(&pattern.subject.name, channel)
                || positions.contains_key(channel)
                || self.is_subscribed(session.id, &Subject::channel(channel))
        };
        session.shown_logs.as_ref().is_some_and(|shown| shown.may_lack(is_known))
    }

    /// Whether this is a pattern that the session has kept, and of which no event without a log was sent, and no `RESYNC` that
    /// the client may not have received.
    fn is_kept_pattern_of_logs(&self, id: SessionId, target: TargetId, resumed: &Resumed) -> bool {
        let subscriber = self.targets[target].subscriber_at(self.sessions[id].slot_of(target));
        self.targets[target].subject.is_pattern()
            && resumed.stored.contains(&target)
            && subscriber.written == 0
    }

    /// An event is counted for one subscription that shows it, though others may show it, too: so patterns have recovered
    /// together, and only with the channels that they show and the session holds by name; and where one of them may have lost
    /// events, so may the others.
    fn judge_patterns(&self, id: SessionId, recoveries: &mut [Recovery]) {
        let session = &self.sessions[id];
        if session.patterns == 0 {
            return;
        }
        let subject = |recovery: &Recovery| &self.targets[recovery.target].subject;
        let patterns: Vec<&Subject> =
            recoveries.iter().map(subject).filter(|subject| subject.is_pattern()).collect();
        let is_shown = |name: &str| patterns.iter().any(|pattern| covers(&pattern.name, name));
        let are_lost = recoveries.iter().any(|recovery| {
            let subject = subject(recovery);
            recovery.recovered == Some(false) && (subject.is_pattern() || is_shown(&subject.name))
        });
        let may_be_lost =
            are_lost || recoveries.iter().any(|recovery| recovery.resync && subject(recovery).is_pattern());
        for recovery in recoveries.iter_mut().filter(|recovery| subject(recovery).is_pattern()) {
            recovery.recovered = recovery.recovered.map(|recovered| recovered && !are_lost);
            recovery.resync |= may_be_lost;
        }
    }

    /// Behind the `WELCOME` of a session that returned: what is no longer allowed.
    pub(super) fn notify_forbidden(&mut self, id: SessionId, forbidden: &[Arc<str>]) {
        for channel in forbidden {
            let reason = "forbidden";
            self.send(id, &ServerMessage::Unsubscribed { id: None, channel, reason, by_server: false });
        }
    }

    /// `RESYNC` where something may be missing; then what waits leaves.
    ///
    /// Invariant: as for [`Engine::note_resync`]: the position of the `RESYNC` proves something only if the client has named
    /// another one.
    pub(super) fn send_recovery(&mut self, id: SessionId, resumed: &Resumed, recoveries: &[Recovery]) {
        for recovery in recoveries.iter().filter(|recovery| recovery.resync) {
            let target = &self.targets[recovery.target];
            let (name, position) = (target.subject.name.clone(), target.position);
            let message = ServerMessage::Resync {
                channel: &name,
                reason: "gap",
                epoch: position.as_ref().map(|position| position.epoch().as_str()),
                offset: position.as_ref().map(ChannelPosition::offset),
            };
            self.out.stats.resyncs += 1;
            self.send(id, &message);
            let is_named = |position: &ChannelPosition| {
                resumed.positions.iter().any(|(channel, sent)| {
                    **channel == *name
                        && sent.offset == position.offset()
                        && sent.epoch == position.epoch().as_str()
                })
            };
            let written = position.filter(|position| !is_named(position)).map(|position| position.offset());
            if self.is_kept_pattern_of_logs(id, recovery.target, resumed) {
                continue;
            }
            let slot = self.sessions[id].slot_of(recovery.target);
            self.targets[recovery.target].subscriber_at_mut(slot).written = written.unwrap_or(LOST);
        }
        self.send_missed_presence(id);
        let session = &mut self.sessions[id];
        if session.outbox.has_queues() {
            self.out.mark_dirty(session);
        }
    }
}
