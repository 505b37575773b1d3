//! What must hold between two inputs, written as assertions: every count, and every reference with the one back.

use std::sync::Arc;

use drawbridge_protocol::glob;
use hashbrown::HashMap;

use super::Engine;
use super::publish::InFlight;
use crate::audience::NOBODY;
use crate::expr::Expr;
use crate::outbox::QueueKind;
use crate::pattern_index::match_work;
use crate::session::{Phase, Session};
use crate::targets::{Reply, Target, TargetId};

impl Engine {
    /// Panics in debug builds if a count or a back-reference is wrong; for simulations, after each step. Costs as much as
    /// there is; nothing in other builds.
    pub fn check(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        debug_assert!(self.closing.is_empty(), "a close that was not carried out");
        debug_assert!(self.returning.is_empty(), "connections that resume nothing");
        debug_assert!(self.ready.is_empty(), "requests that were not looked at again");
        debug_assert!(self.out.over_limit.is_empty(), "a limit that was not enforced");
        self.sessions.check();
        self.sessions.iter().for_each(|session| self.check_session(session));
        self.check_presence();
        self.targets.iter().for_each(|(id, target)| self.check_target(id, target));
        let queues: usize = self.sessions.iter().map(|session| session.outbox.queues().len()).sum();
        debug_assert_eq!(queues, self.out.queues.len(), "queues of nobody");
        let armed = self.sessions.iter().filter(|session| session.deadlines.armed_ms > 0).count();
        debug_assert_eq!(armed, self.out.timers.len(), "timers of nobody");
        for (ticket, id) in &self.loading {
            let asked = self.sessions.get(*id).and_then(|session| session.overrides.query());
            debug_assert_eq!(asked, Some(*ticket), "a question of nobody");
        }
        self.check_shares();
        self.check_logs();
        self.check_in_flight();
        for (player, ids) in &self.players {
            let is_theirs = |session: &Session| session.player() == Some(player);
            let are_theirs = ids.iter().all(|id| self.sessions.get(*id).is_some_and(is_theirs));
            debug_assert!(are_theirs && !ids.is_empty(), "sessions of {player}");
        }
    }

    /// What players hold together, counted again.
    fn check_shares(&self) {
        let (mut filters, mut patterns) = (HashMap::new(), HashMap::new());
        for session in self.sessions.iter() {
            for held in &session.subscriptions {
                let target = &self.targets[held.target];
                let is_pattern = target.subject.is_pattern();
                let work = target.subscriber_at(held.slot).filter.as_ref().map_or(0, Expr::work);
                if session.anonymous && work > 0 {
                    *filters.entry((session.address, (!is_pattern).then_some(held.target))).or_default() +=
                        work;
                }
                if let (true, Some(player)) = (is_pattern, session.player()) {
                    let (count, work): &mut (usize, usize) = patterns.entry(player.clone()).or_default();
                    (*count, *work) = (*count + 1, *work + match_work(&target.subject.name));
                }
            }
        }
        debug_assert_eq!(filters, self.anonymous_filters, "filters of anonymous players");
        // Other shards count in the same table.
        let is_alone = Arc::strong_count(&self.limits) == 1;
        for (player, held) in &patterns {
            let counted = self.limits.patterns_held(player);
            debug_assert!(counted.0 >= held.0 && counted.1 >= held.1, "patterns of {player}");
            debug_assert!(!is_alone || counted == *held, "patterns of {player}");
        }
        debug_assert!(!is_alone || self.limits.players_with_patterns() == patterns.len(), "patterns");
        debug_assert!(self.releasing.values().all(|count| *count > 0), "an unwant that was answered");
        self.targets.check();
    }

    /// Who catches up on what, said by the logs, the sessions and the subscriptions alike.
    fn check_logs(&self) {
        for (channel, log) in self.logs.iter() {
            let has_target = self.targets.find_channel(channel).is_some();
            debug_assert!(
                has_target || self.logs.is_by_pattern(channel),
                "the log of {channel} stays for ever"
            );
            let mut subjects = self.targets.iter().map(|(_, target)| &target.subject);
            let is_seen =
                has_target || subjects.any(|one| one.is_pattern() && glob::glob_matches(&one.name, channel));
            debug_assert!(is_seen, "the log of {channel} goes on unnoticed");
            for one in &log.resuming {
                let session = self.sessions.get(one.session);
                let held = session.and_then(|session| session.subscription(one.target));
                debug_assert!(held.is_some(), "{channel} is caught up on without a subscription");
                let behind = session.and_then(|session| session.catching_up.as_ref());
                let is_known = behind.is_some_and(|behind| behind.channels.contains(channel));
                debug_assert!(is_known, "a session does not know that it catches up on {channel}");
            }
        }
        for session in self.sessions.iter() {
            let channels = session.catching_up.iter().flat_map(|behind| &behind.channels);
            for channel in channels {
                let log = self.logs.get(channel);
                let theirs =
                    log.map_or(0, |log| log.resuming.iter().filter(|one| one.session == session.id).count());
                debug_assert_eq!(theirs, 1, "catching up on {channel}");
            }
            let waits = session.history.is_none_or(|ticket| self.histories.contains_key(&ticket));
            debug_assert!(waits, "a page of history that will not come");
            for held in &session.subscriptions {
                let target = &self.targets[held.target];
                let is_behind = session.is_catching_up(&target.subject.name);
                let is_caught_up = target.subscriber_at(held.slot).phase.is_caught_up();
                debug_assert!(is_caught_up || is_behind, "{} waits for nothing", target.subject.name);
            }
        }
        let waiting = self.sessions.iter().filter(|session| session.history.is_some()).count();
        debug_assert_eq!(waiting, self.histories.len(), "pages of history for nobody");
    }

    /// Publishes and fences whose answers are out: what their sessions know of them.
    fn check_in_flight(&self) {
        let mut known = 0;
        for session in self.sessions.iter() {
            for (ticket, channel) in session.publishing.iter().flat_map(|publishing| &publishing.in_flight) {
                let theirs = self.tickets.get(ticket).is_some_and(|out| out.is_of(session.id, channel));
                debug_assert!(theirs, "an answer to {ticket:?} that will not come");
                known += 1;
            }
        }
        let is_there = |out: &&InFlight| self.sessions.get(out.session()).is_some();
        debug_assert_eq!(known, self.tickets.values().filter(is_there).count(), "answers for nobody");
    }

    fn check_session(&self, session: &Session) {
        debug_assert!(!session.is_closing(), "a session that is to be forgotten");
        session.outbox.check(&self.out.queues);
        let is_detached = matches!(session.phase, Phase::Detached);
        debug_assert_eq!(is_detached, session.link.is_none(), "a session without a link is detached");
        let held_bytes = if session.holds_events() { session.outbox.queue_bytes() } else { 0 };
        debug_assert_eq!(session.held_bytes, held_bytes, "bytes that wait for {:?}", session.id);
        debug_assert!(!is_detached || !session.outbox.has_frames(), "frames of a detached session");
        let listed = self.limits.sessions.find(session.hash).filter(|holder| holder.session == session.id);
        // While another shard claims it, it is not found here.
        debug_assert!(session.is_listed || listed.is_none(), "the place of {:?}", session.id);
        self.out.check(session);
        let mut waits_for_welcome = 0;
        for held in &session.subscriptions {
            let target = &self.targets[held.target];
            let subscriber = target.subscriber_at(held.slot);
            debug_assert_eq!(subscriber.session, session.id, "slot of a subscriber");
            let found = session.outbox.find(QueueKind::Table(held.target));
            debug_assert_eq!(subscriber.queue, found, "queue of a subscriber");
            let is_table = target.world.is_some();
            debug_assert!(!is_detached || !is_table || subscriber.audience == NOBODY, "a table costs");
            let theirs = target.waiters.iter().filter(|waiter| waiter.session == session.id);
            waits_for_welcome += theirs.filter(|waiter| matches!(waiter.reply, Reply::Welcome)).count();
        }
        match &session.phase {
            Phase::Joining(joining) => {
                let logged = joining.resumed.iter().flat_map(|resumed| &resumed.logged);
                let unread = logged.filter(|(_, said)| said.is_none()).count();
                debug_assert_eq!(joining.unconfirmed, waits_for_welcome + unread, "WELCOME");
            }
            _ => debug_assert_eq!(waits_for_welcome, 0, "a WELCOME that was sent"),
        }
        let is_pattern = |target: TargetId| self.targets[target].subject.is_pattern();
        let patterns = session.subscriptions.iter().filter(|held| is_pattern(held.target)).count();
        debug_assert_eq!(session.patterns, patterns, "patterns of a session");
        if let Some(deferred) = &session.deferred {
            let bytes: usize = deferred.requests.iter().map(|waiting| waiting.bytes).sum();
            debug_assert_eq!(deferred.bytes, bytes, "bytes of deferred requests");
        }
    }

    fn check_target(&self, id: TargetId, target: &Target) {
        target.check();
        if self.releasing.contains_key(&target.subject) {
            let is_loaded = target.world.as_ref().is_some_and(|world| world.loaded);
            debug_assert!(!target.is_confirmed && !is_loaded, "confirmed by an answer of the past");
        }
        for (slot, subscriber) in target.subscribers.iter().enumerate() {
            let session = self.sessions.get(subscriber.session);
            let held = session.and_then(|session| session.subscription(id));
            debug_assert_eq!(held.map(|held| held.slot), Some(slot as u32), "subscription of a subscriber");
        }
        for waiter in &target.waiters {
            let session = self.sessions.get(waiter.session);
            debug_assert!(
                session.is_some_and(|session| target.subscriber(session, id).is_some()),
                "an answer for nobody"
            );
        }
    }
}
