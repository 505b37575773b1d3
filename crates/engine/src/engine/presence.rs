//! Presence (contract §8): when this shard's sessions are present on a channel, and who is answered what about that. Who is
//! notified of players who come and go is in [`notices`].
//!
//! A session is present on a channel of a class with `presence` from the moment in which Redis has confirmed its subscription
//! by name until the subscription ends, whether it has a connection or not.

mod notices;

use std::sync::Arc;

use drawbridge_protocol::{
    ErrorCode, ErrorMessage, PresenceGet, PresenceList, RequestId, ServerMessage, channel,
};
use hashbrown::HashMap;

use super::Engine;
use super::deliver::access;
use super::refusal::Refusal;
use super::requests::covers;
use crate::access::Access;
use crate::class::Presence;
use crate::io::{
    Answer, Answered, BrokerCommand, BrokerStatus, Output, Owner, PresencePage, Query, QueryKind, SessionId,
    Subject, Ticket, WhenDown, Write, WriteKind,
};
use crate::permissions;
use crate::presence::changes::{MESSAGE_BYTES, text_bytes};
use crate::presence::ledger::{Ledger, Member, MemberState, spread};
use crate::presence::reads::{Asker, PageKey, Reads};
use crate::targets::TargetId;
use crate::work;

/// How many players a page has at most.
const MAX_PAGE: usize = 1_000;
/// The shortest name of a player takes so many bytes on a page.
const SHORTEST_PLAYER_BYTES: usize = PLAYER_BYTES + 1;
/// What a player of a page takes beside the name, in bytes, at most.
const PLAYER_BYTES: usize = 48;
/// What a page takes beside its players and the channel, in bytes, at most.
const PAGE_BYTES: usize = 320;
/// So long a session that another node has claimed stays present here, so that it is present there before.
const MOVED_MS: u64 = 10_000;
/// Over this time all members are written again when the store has lost them.
const REWRITE_MS: u64 = 5_000;

/// What a shard knows of presence.
#[derive(Debug, Default)]
pub(super) struct PresenceState {
    pub(super) ledger: Ledger,
    pub(super) reads: Reads,
    /// When the subscribers of which target are notified.
    windows: std::collections::BTreeSet<(u64, TargetId)>,
    /// Fences behind reads of pages, with the channels of notices that they are on.
    fences: HashMap<Ticket, Arc<str>>,
    /// Subscribers of these targets are to be written again, up to this slot.
    rewriting: Vec<(TargetId, usize)>,
    /// How many sessions are present, each once for each channel.
    pub(super) present: u64,
    /// The sessions that end now were claimed by other nodes.
    pub(super) is_moving: bool,
}

impl PresenceState {
    /// When something is to be done.
    pub(super) fn next_deadline_ms(&self, status: BrokerStatus) -> Option<u64> {
        let ledger = self.ledger.next_deadline_ms().filter(|_| status != BrokerStatus::Degraded);
        let window = self.windows.first().map(|(at, _)| *at);
        ledger.into_iter().chain(self.reads.next_deadline_ms()).chain(window).min()
    }
}

impl Engine {
    /// Redis has confirmed a channel: its subscribers are present.
    pub(super) fn mark_present(&mut self, target_id: TargetId) {
        let target = &self.targets[target_id];
        if target.presence != Presence::Off && target.is_confirmed {
            (0..target.subscribers.len() as u32).for_each(|slot| self.mark_slot_present(target_id, slot));
        }
    }

    /// As [`Engine::mark_present`], of one subscriber.
    pub(super) fn mark_slot_present(&mut self, target_id: TargetId, slot: u32) {
        let target = &mut self.targets[target_id];
        if target.presence == Presence::Off || !target.is_confirmed {
            return;
        }
        let subscriber = target.subscriber_at_mut(slot);
        if std::mem::replace(&mut subscriber.is_present, true) {
            return;
        }
        let id = subscriber.session;
        self.presence.present += 1;
        if let Some((member, state)) = self.member(id, target_id, true) {
            self.presence.ledger.set(member, state, self.out.now.mono_ms);
        }
    }

    /// A subscription that made its session present has ended.
    pub(super) fn mark_absent(&mut self, id: SessionId, target_id: TargetId) {
        self.presence.present -= 1;
        let after_ms = if self.presence.is_moving { MOVED_MS } else { 0 };
        if let Some((member, state)) = self.member(id, target_id, false) {
            self.presence.ledger.set(member, state, self.out.now.mono_ms + after_ms);
        }
    }

    /// A session on a channel, as it is written to the store.
    fn member(&self, id: SessionId, target_id: TargetId, is_present: bool) -> Option<(Member, MemberState)> {
        let (session, target) = (&self.sessions[id], &self.targets[target_id]);
        let member = Member { channel: target.subject.name.clone(), session: session.hash() };
        let player = session.player()?.clone();
        let notify = target.presence == Presence::Notify;
        Some((member, MemberState { player, generation: session.generation(), is_present, notify }))
    }

    /// The store has lost what it had: all members are written again, spread over a while.
    pub(super) fn rewrite_presence(&mut self) {
        let counted = self.targets.iter().filter(|(_, target)| target.presence != Presence::Off);
        self.presence.rewriting = counted.map(|(id, target)| (id, target.subscribers.len())).collect();
    }

    /// Puts the next members that are to be written again into the ledger.
    ///
    /// Why from the last slot to the first: a subscriber that leaves is replaced by the last one, which was processed already, and
    /// a new one is written when it subscribes.
    fn go_on_rewriting(&mut self) {
        let mut left = crate::presence::ledger::WRITES_PER_TURN;
        while let Some((target_id, slots)) = self.presence.rewriting.pop() {
            let Some(target) = self.targets.get(target_id) else { continue };
            let end = slots.min(target.subscribers.len());
            let begin = end.saturating_sub(left);
            for slot in (begin..end).rev() {
                let subscriber = &self.targets[target_id].subscribers[slot];
                if !subscriber.is_present {
                    continue;
                }
                if let Some((member, state)) = self.member(subscriber.session, target_id, true) {
                    let due_ms = self.out.now.mono_ms + spread(&member, REWRITE_MS);
                    self.presence.ledger.set_again(member, state, due_ms);
                }
            }
            left -= end - begin;
            if begin > 0 {
                self.presence.rewriting.push((target_id, begin));
            }
            if left == 0 {
                return;
            }
        }
    }

    /// Handles deadlines: notices, and answers that come too late.
    pub(super) fn run_presence(&mut self) {
        let now_ms = self.out.now.mono_ms;
        while let Some((at, target)) = self.presence.windows.first().copied().filter(|(at, _)| *at <= now_ms)
        {
            self.presence.windows.remove(&(at, target));
            self.notify_presence(target);
        }
        while let Some(session) = self.presence.reads.overdue(now_ms) {
            self.presence_too_late(session);
        }
    }

    /// Writes who has come and left, as much as one turn may.
    pub(super) fn write_presence(&mut self) {
        let now_ms = self.out.now.mono_ms;
        self.go_on_rewriting();
        while self.status != BrokerStatus::Degraded {
            let next_ticket = &mut self.next_ticket;
            let ticket = || {
                *next_ticket += 1;
                Ticket(*next_ticket)
            };
            let Some((ticket, member, state)) = self.presence.ledger.poll(now_ms, ticket) else { break };
            let MemberState { player, generation, is_present, notify } = state;
            let (channel, session) = (member.channel, member.session);
            let kind = WriteKind::Presence { channel, player, session, generation, is_present, notify };
            let (ticket, owner, when_down) = (Some(ticket), Owner::Presence, WhenDown::Queue);
            let write = Write { ticket, owner, when_down, kind };
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Write(write)));
        }
    }

    /// A member was written, and a request that waited for that is answered by a read from now on.
    pub(super) fn presence_written(&mut self, member: &Member) {
        if !self.presence.ledger.has(member)
            && let Some(page) = self.presence.reads.written(member)
        {
            self.read_presence(&page);
        }
    }

    /// `PRESENCE_GET`.
    pub(super) fn presence_get(&mut self, id: SessionId, request: Option<RequestId>, get: PresenceGet) {
        if let Err(refusal) = self.authorize_presence(id, &get.channel) {
            let refusal = self.denied(id, "PRESENCE_GET", &get.channel, refusal);
            return self.send_error(id, refusal.error(request.as_ref(), Some(&get.channel)));
        }
        // Without an id there is no answer.
        let Some(request) = request else { return };
        let fitting = (self.presence_bytes(id) / SHORTEST_PLAYER_BYTES).clamp(1, MAX_PAGE);
        let limit = get.limit.unwrap_or(u64::MAX).min(fitting as u64) as usize;
        let page = PageKey { channel: get.channel.into(), after: get.after.map(Into::into), limit };
        let member = Member { channel: page.channel.clone(), session: self.sessions[id].hash() };
        let behind = self.presence.ledger.has(&member).then_some(member);
        let is_now = behind.is_none();
        self.presence.reads.ask(self.out.now.mono_ms, id, request, page.clone(), behind);
        if is_now {
            self.read_presence(&page);
        }
    }

    /// The right to know who is on a channel: the class's rule, or else to be subscribed.
    fn authorize_presence(&mut self, id: SessionId, name: &str) -> Result<(), Refusal> {
        channel::validate(name)
            .map_err(|error| Refusal::new(ErrorCode::ChannelInvalid, format!("channel: {error}")))?;
        let settings = self.settings.clone();
        let session = &self.sessions[id];
        let claims = session.claims.as_ref();
        let claims = claims.ok_or_else(|| Refusal::new(ErrorCode::Unauthenticated, "no token yet"))?;
        let may = permissions::may_read_presence(&settings, claims, name).map_err(Refusal::forbidden)?;
        match may {
            permissions::MayReadPresence::NoPresence => {
                let text = "PRESENCE_GET: the channel's class has no `presence`";
                Err(Refusal::new(ErrorCode::Unsupported, text))
            }
            permissions::MayReadPresence::Yes => self.check_work(id),
            permissions::MayReadPresence::Subscribers if self.is_shown(id, name) => self.check_work(id),
            permissions::MayReadPresence::Subscribers => {
                let text =
                    "presence: only for subscribers of the channel, unless the class has a `presence_rule`";
                Err(Refusal::forbidden(permissions::Denied(text.to_owned())))
            }
        }
    }

    /// Whether a session is subscribed to a channel, by its name or by a pattern that shows it.
    fn is_shown(&mut self, id: SessionId, name: &str) -> bool {
        if self.is_subscribed(id, &Subject::channel(name)) {
            return true;
        }
        let session = &mut self.sessions[id];
        let mut held = session.subscriptions.iter().map(|held| &self.targets[held.target].subject);
        if !held.any(|subject| subject.is_pattern() && covers(&subject.name, name)) {
            return false;
        }
        let access = access(&self.settings, &mut self.views, session, &name.into());
        matches!(access, Access::Granted(_))
    }

    /// Reads a page for all who wait for it, unless it is being read.
    fn read_presence(&mut self, page: &PageKey) {
        let next_ticket = &mut self.next_ticket;
        let ticket = self.presence.reads.begin(page, || {
            *next_ticket += 1;
            Ticket(*next_ticket)
        });
        if let Some(ticket) = ticket {
            let PageKey { channel, after, limit } = page.clone();
            if let Some(notices) = self.notices_of(&channel) {
                notices.read_begun(ticket);
            }
            let query = Query::new(ticket, QueryKind::Presence { channel, after, limit });
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Query(query)));
        }
    }

    /// The answer to a read of presence. Returns whether it was one.
    pub(super) fn presence_read(&mut self, ticket: Ticket, answer: &Answered) -> bool {
        let Some((page, askers)) = self.presence.reads.answered(ticket) else { return false };
        self.fence_notices(&page.channel, ticket);
        for asker in askers {
            match answer {
                Ok(Answer::Presence(found)) => self.answer_presence(&asker, found),
                Ok(_) => self.refuse_presence(&asker, ErrorCode::Internal, "the answer is of another kind"),
                Err(reason) => {
                    let text = self.refusal_text(reason);
                    self.refuse_presence(&asker, ErrorCode::BrokerRefused, &text);
                }
            }
            self.retry_deferred(asker.session);
        }
        self.read_presence(&page);
        true
    }

    /// What a page for this client takes at most, in bytes.
    fn presence_bytes(&self, id: SessionId) -> usize {
        self.sessions[id].outbox.max_message_bytes.unwrap_or(MESSAGE_BYTES).min(MESSAGE_BYTES)
    }

    fn answer_presence(&mut self, asker: &Asker, found: &PresencePage) {
        let id = asker.session;
        let channel = &*asker.page.channel;
        let bound = self.presence_bytes(id);
        let mut bytes = PAGE_BYTES + text_bytes(channel);
        let mut players: Vec<(&str, u64)> = Vec::with_capacity(found.players.len());
        for (player, connections) in &found.players {
            // The last one is named twice: `next`.
            bytes += text_bytes(player) + PLAYER_BYTES;
            if !players.is_empty() && bytes + text_bytes(player) > bound {
                break;
            }
            players.push((player, *connections));
        }
        let is_last = !found.has_more && players.len() == found.players.len();
        let next = players.last().filter(|_| !is_last).map(|(player, _)| *player);
        let (request, total) = (&asker.request, found.total);
        let message = PresenceList { id: request, channel, players: &players, total, next };
        self.charge(id, work::to_send(bytes));
        self.send(id, &ServerMessage::Presence(message));
    }

    fn presence_too_late(&mut self, session: SessionId) {
        let Some((asker, withdrawn)) = self.presence.reads.forget(session) else { return };
        self.withdraw_presence(&asker.page.channel, withdrawn);
        let text = "Redis did not answer in time";
        self.refuse_presence(&asker, ErrorCode::BrokerUnavailable, text);
        self.retry_deferred(session);
    }

    fn refuse_presence(&mut self, asker: &Asker, code: ErrorCode, text: &str) {
        let (request, channel) = (Some(&asker.request), Some(&*asker.page.channel));
        let outcome = (code == ErrorCode::BrokerUnavailable).then_some("not_done");
        let error = ErrorMessage { id: request, channel, outcome, ..ErrorMessage::new(code, text) };
        self.send_error(asker.session, error);
    }

    /// A session ends: its request needs no answer.
    pub(super) fn forget_presence_read(&mut self, id: SessionId) {
        if let Some((asker, withdrawn)) = self.presence.reads.forget(id) {
            self.withdraw_presence(&asker.page.channel, withdrawn);
        }
    }

    fn withdraw_presence(&mut self, channel: &str, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            if let Some(notices) = self.notices_of(channel) {
                notices.read_ended(ticket, None);
            }
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Withdraw(ticket)));
        }
    }
}

/// Whether what a shard knows of presence is right, for [`Engine::check`].
impl Engine {
    pub(super) fn check_presence(&self) {
        self.presence.ledger.check();
        self.presence.reads.check();
        let mut present = 0;
        for (id, target) in self.targets.iter() {
            let is_counted = target.presence != Presence::Off;
            for subscriber in &target.subscribers {
                present += u64::from(subscriber.is_present);
                debug_assert!(is_counted || !subscriber.is_present, "present where nobody is");
                debug_assert!(
                    !target.is_confirmed || !is_counted || subscriber.is_present,
                    "subscribed and not present"
                );
            }
            let at = target.notices.as_ref().map_or(0, |notices| notices.flush_at_ms);
            debug_assert!(at == 0 || self.presence.windows.contains(&(at, id)), "a notice that is lost");
            debug_assert_eq!(target.notices.is_some(), target.presence == Presence::Notify, "notices");
        }
        debug_assert_eq!(present, self.presence.present, "who is present");
    }
}
