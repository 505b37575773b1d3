//! What requests cost beside the messages that carry them, and who pays: subscriptions and work, drawn from buckets of
//! the connection and of its player. The buckets themselves are in [`crate::rate_limit`], what work is in
//! [`crate::work`], the limits of messages and bytes in `requests`.
//!
//! Work is charged when it is done, because only then is it known: a request passes while nothing is owed, and what
//! it cost is paid off before the next one. So no request is refused halfway. What one request may cost is bounded by
//! the size of the table, and for a client's filter by [`Engine::check_table`].

use std::net::IpAddr;

use drawbridge_protocol::ErrorCode;

use super::Engine;
use super::refusal::Refusal;
use super::subscribe::Ended;
use crate::area::Area;
use crate::expr::Expr;
use crate::io::{SessionId, Subject};
use crate::rate_limit::{ABUSE_WINDOW_MS, Account, PLAYERS_PER_ADDRESS, SharedLimits, Verdict};
use crate::session::{Phase, Session};
use crate::settings::{Rate, Settings};
use crate::targets::TargetId;
use crate::work;

/// What the filters of one player on one channel may cost together, in steps: a sixteenth of what the channel bears.
const FILTER_SHARE: usize = super::views::MAX_FILTER_WORK / 16;

impl Engine {
    /// Draws one subscription from the player's bucket, before anything is done for it.
    pub(super) fn take_subscribe(&mut self, id: SessionId) -> Result<(), Refusal> {
        let Some(account) = self.sessions[id].account() else { return Ok(()) };
        let verdict = self.limits.take_subscribe(self.out.now.mono_ms, &account);
        let rate = self.settings.subscribes_per_player();
        let (retry_after_ms, is_abuse) = match verdict {
            Verdict::Allowed => return Ok(()),
            Verdict::Limited { retry_after_ms } => (retry_after_ms, false),
            Verdict::Abuse => (ABUSE_WINDOW_MS, true),
        };
        let refusal =
            rate_limited("subscriptions of a player", rate, retry_after_ms + self.retry_spread_ms(id, rate));
        Err(Refusal { is_abuse, ..refusal })
    }

    /// Does what a client asked for, and charges the client for the work.
    pub(super) fn charged(&mut self, id: SessionId, request: impl FnOnce(&mut Self)) {
        let before = self.targets.work.total();
        request(self);
        self.charge(id, self.targets.work.total() - before);
    }

    /// Charges a client for work that was done.
    pub(super) fn charge(&mut self, id: SessionId, steps: u64) {
        let session = &mut self.sessions[id];
        session.charge_work(&self.limits, &self.settings, self.out.now.mono_ms, steps);
        self.out.stats.work_charged += steps;
    }

    /// Whether neither the connection nor its player owes anything for work.
    pub(super) fn check_work(&self, id: SessionId) -> Result<(), Refusal> {
        match self.work_is_paid_in_ms(id) {
            None => Ok(()),
            Some(retry_after_ms) => Err(rate_limited("work", self.settings.work, retry_after_ms)),
        }
    }

    /// In how many milliseconds the connection and its player have paid for what was done for them; `None`: they owe nothing.
    pub(super) fn work_is_paid_in_ms(&self, id: SessionId) -> Option<u64> {
        let session = &self.sessions[id];
        let (now_ms, rate) = (self.out.now.mono_ms, self.settings.work);
        let by_link = session.link.as_ref().map(|link| link.work.check(now_ms, work::in_steps(rate)));
        let verdict = match by_link.unwrap_or(Verdict::Allowed) {
            Verdict::Allowed => {
                session.account().map_or(Verdict::Allowed, |account| self.limits.check_work(now_ms, &account))
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Allowed => None,
            Verdict::Limited { retry_after_ms } => Some(retry_after_ms),
            Verdict::Abuse => Some(ABUSE_WINDOW_MS),
        }
    }

    /// Whether a subscription to this causes more work than its message pays for.
    pub(super) fn is_work(&self, subject: &Subject, filter: Option<&Expr>) -> bool {
        let class = self.settings.classes.class_of(&subject.name).filter(|_| !subject.is_pattern());
        filter.is_some() || class.is_some_and(|(_, class)| class.entity.is_some())
    }

    /// Whether evaluating a client's filter about all that is in its area takes no longer than the whole burst of work:
    /// until it is done, everybody else on the shard waits.
    pub(super) fn check_table(
        &self,
        subject: &Subject,
        filter: Option<&Expr>,
        area: Option<&Area>,
    ) -> Result<(), Refusal> {
        let target = self.targets.find(subject).map(|id| &self.targets[id]);
        let (Some(filter), Some(world)) = (filter, target.and_then(|target| target.world.as_ref())) else {
            return Ok(());
        };
        let (entities, bytes) = world.count_in(area);
        let steps = work::to_show_all(filter.work(), entities, bytes);
        let bound = work::in_steps(self.settings.work).burst;
        if steps <= bound {
            return Ok(());
        }
        let text = format!(
            "filter: evaluating it about {entities} entities takes {steps} steps; at most {bound} are allowed"
        );
        let hint = "use a shorter filter, or an area with fewer entities in it";
        Err(Refusal { hint: Some(hint.to_owned()), ..Refusal::new(ErrorCode::LimitExceeded, text) })
    }

    /// Ends subscriptions whose filter is too dear for a table that was not known when they were made ([`Engine::check_table`]).
    pub(super) fn end_too_dear(&mut self, target_id: TargetId) {
        let target = &self.targets[target_id];
        let subject = target.subject.clone();
        let new = target.subscribers.iter().filter(|one| one.pays && one.filter.is_some());
        let new: Vec<_> = new.map(|one| (one.session, one.filter.clone(), one.area.clone())).collect();
        for (id, filter, area) in new {
            if let Err(refusal) = self.check_table(&subject, filter.as_ref(), area.as_deref()) {
                self.error_behind_welcome(id, &refusal.error(None, Some(&subject.name)));
                self.end_subscription(id, target_id, Ended::OverLimit);
            }
        }
    }

    /// Whether a filter fits into what one player's filters may take of this channel or pattern, beside an area too. Only
    /// so can no player alone use up what all of them share ([`Engine::check_filter_work`]).
    pub(super) fn check_share(
        &self,
        id: SessionId,
        subject: &Subject,
        filter: Option<&Expr>,
    ) -> Result<(), Refusal> {
        let account = self.sessions[id].account();
        let (Some(filter), Some(account)) = (filter, account) else { return Ok(()) };
        let (whose, share) = match &account {
            Account::Player(_) => ("this player", FILTER_SHARE),
            Account::Address(_) => {
                ("the anonymous players of this address", FILTER_SHARE * PLAYERS_PER_ADDRESS as usize)
            }
        };
        let target = self.targets.find(subject);
        let held = match &account {
            Account::Player(player) => self.filters_of(player, id, subject, target),
            Account::Address(address) => {
                // All patterns share one bound.
                let all = match (subject.is_pattern(), target) {
                    (true, _) => self.anonymous_filters.get(&(*address, None)),
                    (false, Some(target)) => self.anonymous_filters.get(&(*address, Some(target))),
                    (false, None) => None,
                };
                all.copied().unwrap_or(0) - target.map_or(0, |target| self.filter_work_of(id, target))
            }
        };
        let steps = filter.work();
        if held + steps <= share {
            return Ok(());
        }
        let text = format!(
            "filter: it takes {steps} steps, and the filters of {whose} on this channel take {held} already; \
             at most {share} are allowed"
        );
        Err(Refusal::new(ErrorCode::LimitExceeded, text))
    }

    /// The work of a player's filters that share a bound with one on `subject`, except the one that it would replace.
    fn filters_of(&self, player: &str, id: SessionId, subject: &Subject, target: Option<TargetId>) -> usize {
        let mut held = 0;
        for session in self.players.get(player).into_iter().flatten().map(|id| &self.sessions[*id]) {
            self.targets.work.add(work::EXAMINE * session.subscriptions.len() as u64);
            for subscription in &session.subscriptions {
                // All patterns are evaluated together, whatever their names.
                let other = &self.targets[subscription.target];
                let is_same = Some(subscription.target) == target;
                let shares = if subject.is_pattern() { other.subject.is_pattern() } else { is_same };
                if shares && !(session.id == id && is_same) {
                    held += other.subscriber_at(subscription.slot).filter.as_ref().map_or(0, Expr::work);
                }
            }
        }
        held
    }

    /// The work of the filter that a session has on a target; 0 without one.
    fn filter_work_of(&self, id: SessionId, target: TargetId) -> usize {
        let Some(held) = self.sessions[id].subscription(target) else { return 0 };
        self.targets[target].subscriber_at(held.slot).filter.as_ref().map_or(0, Expr::work)
    }

    /// Counts a filter of an anonymous player, which is about to replace the one that it has, for its address.
    pub(super) fn count_anonymous_filter(
        &mut self,
        id: SessionId,
        target_id: TargetId,
        filter: Option<&Expr>,
    ) {
        let session = &self.sessions[id];
        if !session.anonymous {
            return;
        }
        // All patterns share one bound.
        let key = (session.address, (!self.targets[target_id].subject.is_pattern()).then_some(target_id));
        let (before, now) = (self.filter_work_of(id, target_id), filter.map_or(0, Expr::work));
        if before == now {
            return;
        }
        let held = self.anonymous_filters.entry(key).or_default();
        *held = held.saturating_sub(before) + now;
        if *held == 0 {
            self.anonymous_filters.remove(&key);
        }
    }

    /// A session's connection comes from another address: its filters count for that one, where it is anonymous.
    pub(super) fn move_anonymous_filters(&mut self, id: SessionId, to: IpAddr) {
        let session = &mut self.sessions[id];
        let from = std::mem::replace(&mut session.address, to);
        if !session.anonymous || from == to {
            return;
        }
        for held in &session.subscriptions {
            let target = &self.targets[held.target];
            let work = target.subscriber_at(held.slot).filter.as_ref().map_or(0, Expr::work);
            let place = (!target.subject.is_pattern()).then_some(held.target);
            if work == 0 {
                continue;
            }
            if let Some(before) = self.anonymous_filters.get_mut(&(from, place)) {
                *before = before.saturating_sub(work);
                if *before == 0 {
                    self.anonymous_filters.remove(&(from, place));
                }
            }
            *self.anonymous_filters.entry((to, place)).or_default() += work;
        }
    }

    /// How much later than the first one that `CONNECT` was refused this one is granted, so that not all of them are
    /// retried at the moment at which one would be granted.
    fn retry_spread_ms(&mut self, id: SessionId, rate: Rate) -> u64 {
        match &mut self.sessions[id].phase {
            Phase::Joining(joining) => {
                joining.limited += 1;
                (joining.limited - 1).saturating_mul(1_000) / rate.per_second.max(1)
            }
            _ => 0,
        }
    }
}

impl Session {
    /// Charges the connection and its player for work that was done.
    pub(super) fn charge_work(
        &mut self,
        limits: &SharedLimits,
        settings: &Settings,
        now_ms: u64,
        steps: u64,
    ) {
        if steps == 0 {
            return;
        }
        if let Some(link) = &mut self.link {
            link.work.charge(now_ms, work::in_steps(settings.work), steps);
        }
        if let Some(account) = self.account() {
            limits.charge_work(now_ms, &account, steps);
        }
    }
}

/// The refusal of a request over a rate. `of`: what the rate limits.
fn rate_limited(of: &str, rate: Rate, retry_after_ms: u64) -> Refusal {
    let Rate { per_second, burst } = rate;
    let text =
        format!("rate limit exceeded ({of}: {per_second}/s, burst {burst}); retry in {retry_after_ms} ms");
    Refusal { retry_after_ms: Some(retry_after_ms), ..Refusal::new(ErrorCode::RateLimited, text) }
}
