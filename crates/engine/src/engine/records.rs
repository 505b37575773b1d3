//! What is stored of sessions, so that any node or shard can take one up (contract §7). A session's record is written when it
//! is welcomed, and within [`COALESCE_MS`] of a change of its subscriptions; it is deleted when the session ends. Nothing is
//! written for an event, and nothing periodically. A connection that resumes a session which this shard does not have claims
//! it: from then on the record is this node's, under the next generation, and whoever had it closes with 4505.
//!
//! ```text
//!   Returning ──claim──▶ Returning, claim out ──record──▶ Joining with what was stored ──▶ WELCOME resumed:true
//!                              └──no such session, no answer in time, Redis away──▶ a new session
//! ```
//!
//! Invariant: a record that names this node is that of a session which one of its shards has, or a write that ends it is on its
//! way. So what was claimed for a connection that is gone is given back, and a record is ended until Redis has done it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_protocol::{CloseCode, SentArea, Subscribe};
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Engine;
use super::resume::SessionName;
use crate::io::{
    Answer, Answered, BrokerCommand, BrokerStatus, ClaimedSession, Claims, Holder, NewOwner, Outcome, Output,
    Owner, PublishFailure, Query, QueryKind, SessionHash, SessionId, Subject, Ticket, WhenDown, Write,
    WriteKind,
};
use crate::permissions;
use crate::session::{Arrival, Joining, Origin, Ownership, Phase, Returning, Session};
use crate::targets::{LOST, TargetId};

/// Changes of a record within this time are written together. Why so long: a change that a killed node had not written is
/// made good by the client, which sends its own subscriptions.
const COALESCE_MS: u64 = 500;
/// When a save that Redis did not take is tried again.
const RETRY_MS: u64 = 2_000;
/// How long a resuming connection waits for the answer to its claim when Redis, or a part of it, is away; then it gets a new session. While
/// Redis is there, however slow, it waits for as long as a `CONNECT` may take, but not less.
const CLAIM_TIMEOUT_MS: u64 = 2_000;
/// Over how long the records are written again that Redis has lost.
const REWRITE_MS: u64 = 5_000;
/// How many records may wait to be removed after a failed attempt. Beyond that the oldest are dropped from the list and counted; their
/// records stay in the store until this node ends.
const MAX_UNENDED: usize = 16_384;
/// The form of [`Stored`].
const VERSION: u32 = 1;

/// Saves and claims whose answers are out, and what has to go. The former are bounded by the number of sessions (each has one
/// of either at most), the endings that are out by the queue of writes.
#[derive(Debug, Default)]
pub(super) struct Records {
    saves: HashMap<Ticket, SessionId>,
    claims: HashMap<Ticket, ClaimOut>,
    /// Endings whose outcome is out.
    endings: HashMap<Ticket, Ending>,
    /// Those that Redis did not take, each with when it is written again: the earliest first.
    unended: VecDeque<(u64, Ending)>,
}

impl Records {
    /// When [`Engine::end_again`] must be called at the latest.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.unended.front().map(|(at, _)| *at)
    }

    /// How many records are to go.
    pub(super) fn ending(&self) -> usize {
        self.endings.len() + self.unended.len()
    }

    /// The removal of this record failed: it is repeated. Returns whether another one was dropped because too many wait.
    fn end_later(&mut self, now_ms: u64, ending: Ending) -> bool {
        let are_too_many = self.unended.len() >= MAX_UNENDED;
        if are_too_many {
            self.unended.pop_front();
        }
        self.unended.push_back((now_ms + RETRY_MS, ending));
        are_too_many
    }
}

/// A record that goes, if no later claim has it: its session has ended, or no connection has taken it up.
#[derive(Clone, Debug)]
struct Ending {
    player: Arc<str>,
    session: SessionHash,
    generation: u64,
    /// How long it may still be claimed, in milliseconds.
    window_ms: u64,
}

/// A claim whose answer is out.
#[derive(Clone, Copy, Debug)]
struct ClaimOut {
    /// Whose connection claims.
    id: SessionId,
    /// The session that it claims, and which of the node's other shards had it.
    hash: SessionHash,
    from: Option<Holder>,
}

/// A record's content. Invariant: what another version wrote is read, or refused as a whole.
#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    #[serde(default)]
    subscriptions: Vec<StoredSubscription>,
    /// Automatic channels that the client has left.
    #[serde(default)]
    left: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredSubscription {
    channel: String,
    origin: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    area: Option<Box<RawValue>>,
}

impl Stored {
    /// What was stored; `None`: it cannot be read. Nothing at all: the session is known by its name only.
    fn read(content: &Bytes) -> Option<Self> {
        if content.is_empty() {
            return Some(Stored { v: VERSION, subscriptions: Vec::new(), left: Vec::new() });
        }
        serde_json::from_slice(content).ok().filter(|stored: &Stored| stored.v == VERSION)
    }
}

impl Engine {
    // --- saving ---

    /// A session's record is to be written soon: its subscriptions have changed.
    pub(super) fn save_soon(&mut self, id: SessionId) {
        let now_ms = self.out.now.mono_ms;
        let session = &mut self.sessions[id];
        if !session.is_listed || session.is_closing() || session.deadlines.record_ms > 0 {
            return;
        }
        session.deadlines.record_ms = now_ms + COALESCE_MS;
        self.out.timers.arm(session);
    }

    /// Writes a session's record, unless the outcome of the last write is still out.
    pub(super) fn save_now(&mut self, id: SessionId) {
        let now_ms = self.out.now.mono_ms;
        let session = &mut self.sessions[id];
        session.deadlines.record_ms = 0;
        if session.record.is_moved || self.settings.resume_window_ms == 0 {
            return;
        }
        if session.record.is_saving {
            session.deadlines.record_ms = now_ms + COALESCE_MS;
            return self.out.timers.arm(session);
        }
        let Some(player) = session.player().cloned() else { return };
        session.record.is_saving = true;
        if session.record.ownership == Ownership::Assumed {
            session.record.ownership = Ownership::Checking;
        }
        let (hash, generation) = (session.hash, session.generation);
        let content = self.content_of(id);
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.records.saves.insert(ticket, id);
        let owner = player.clone();
        let kind = WriteKind::SaveSession { player, session: hash, generation, content };
        self.write_record(ticket, owner, kind);
    }

    fn write_record(&mut self, ticket: Ticket, player: Arc<str>, kind: WriteKind) {
        let write =
            Write { ticket: Some(ticket), owner: Owner::Player(player), when_down: WhenDown::Queue, kind };
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Write(write)));
    }

    fn content_of(&self, id: SessionId) -> Bytes {
        let session = &self.sessions[id];
        let stored = |held: &crate::session::Subscription| {
            let target = &self.targets[held.target];
            let subscriber = target.subscriber_at(held.slot);
            StoredSubscription {
                channel: target.subject.name.to_string(),
                origin: held.origin,
                filter: subscriber.filter.as_ref().map(ToString::to_string),
                area: subscriber.area.as_ref().and_then(|area| RawValue::from_string(area.to_json()).ok()),
            }
        };
        let left = session.left.iter().flat_map(|left| left.iter());
        let mut left: Vec<String> = left.map(|channel| channel.to_string()).collect();
        left.sort_unstable();
        let stored =
            Stored { v: VERSION, subscriptions: session.subscriptions.iter().map(stored).collect(), left };
        // Strings and checked JSON always serialise.
        serde_json::to_vec(&stored).unwrap_or_default().into()
    }

    /// The outcome of a write of a record. Returns whether it was one.
    pub(super) fn record_written(&mut self, ticket: Ticket, outcome: &Outcome) -> bool {
        if let Some(ending) = self.records.endings.remove(&ticket) {
            self.record_ended(ending, outcome);
            return true;
        }
        let Some(id) = self.records.saves.remove(&ticket) else { return false };
        if self.sessions.get(id).is_some() {
            self.record_saved(id, outcome);
        }
        true
    }

    fn record_saved(&mut self, id: SessionId, outcome: &Outcome) {
        let now_ms = self.out.now.mono_ms;
        let session = &mut self.sessions[id];
        session.record.is_saving = false;
        match outcome {
            Ok(_) if session.record.ownership == Ownership::Checking => {
                session.record.ownership = Ownership::Known;
            }
            Err(PublishFailure::TakenOver(owner)) => self.found_taken_over(id, owner),
            Err(PublishFailure::NotDone | PublishFailure::OverShare { .. } | PublishFailure::Unknown)
                if !session.is_closing() =>
            {
                session.deadlines.record_ms = now_ms + RETRY_MS;
                self.out.timers.arm(session);
            }
            // Redis' refusals are logged where they come.
            _ => {}
        }
    }

    /// A session has ended: nothing is kept of it. If it lives on elsewhere its record is of a later generation, and stays; but
    /// a save that was on its way has left traces of this node's.
    pub(super) fn end_record(&mut self, session: &Session) {
        if let Some(player) = session.player().cloned().filter(|_| session.is_listed) {
            let (session, generation) = (session.hash, session.generation);
            self.end(Ending { player, session, generation, window_ms: 0 });
        }
    }

    fn end(&mut self, ending: Ending) {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let Ending { player, session, generation, window_ms } = ending.clone();
        self.records.endings.insert(ticket, ending);
        let owner = player.clone();
        let kind = WriteKind::EndSession { player, session, generation, window_ms };
        self.write_record(ticket, owner, kind);
    }

    fn record_ended(&mut self, ending: Ending, outcome: &Outcome) {
        // Else it is done, or another's. Redis' refusals are logged where they come.
        if let Err(PublishFailure::NotDone | PublishFailure::OverShare { .. } | PublishFailure::Unknown) =
            outcome
        {
            let is_one_left = self.records.end_later(self.out.now.mono_ms, ending);
            self.out.stats.records_left += u64::from(is_one_left);
        }
    }

    /// Writes again what Redis did not take.
    pub(super) fn end_again(&mut self) {
        let now_ms = self.out.now.mono_ms;
        while self.records.next_deadline_ms().is_some_and(|at| at <= now_ms)
            && let Some((_, ending)) = self.records.unended.pop_front()
        {
            self.end(ending);
        }
    }

    /// Redis has lost what it had: all records are written again, spread over a while.
    pub(super) fn rewrite_records(&mut self) {
        let now_ms = self.out.now.mono_ms;
        let ids: Vec<SessionId> =
            self.sessions.iter().filter(|session| session.is_listed).map(|session| session.id).collect();
        for id in ids {
            let session = &mut self.sessions[id];
            session.deadlines.record_ms = now_ms + 1 + (session.hash.0 % u128::from(REWRITE_MS)) as u64;
            self.out.timers.arm(session);
        }
    }

    // --- losing ---

    /// Another node or shard has claimed a session of this player. The word of an older claim than the session's own is late.
    pub(super) fn taken_over(&mut self, id: SessionId, hash: SessionHash, generation: u64, node: &str) {
        let session = &self.sessions[id];
        if session.hash != hash || session.generation >= generation {
            return;
        }
        self.lose_session(id, self.is_given_up(id, node));
    }

    /// A save was refused: another node or shard has claimed the session, and its announcement was late or lost.
    ///
    /// Why it matters whether that one still has it: 4505 sends the client away for good, and is right only where another connection of
    /// the player has the session. Who is closed with 1001 resumes it again.
    fn found_taken_over(&mut self, id: SessionId, owner: &NewOwner) {
        let session = &self.sessions[id];
        let is_undecided = owner.generation <= session.generation;
        let is_given_up = owner.is_free || self.is_given_up(id, &owner.node);
        self.lose_session(id, is_undecided || is_given_up);
    }

    /// Whether this node has claimed the session for another of its shards, and the connection that wanted it is gone.
    fn is_given_up(&self, id: SessionId, node: &str) -> bool {
        let holder = Holder { shard: self.shard, session: id };
        node == &*self.settings.instance && self.limits.sessions.find(self.sessions[id].hash) == Some(holder)
    }

    /// A session is this node's no longer. `is_free`: it is not known to be another connection's.
    fn lose_session(&mut self, id: SessionId, is_free: bool) {
        let session = &mut self.sessions[id];
        session.record.is_moved = true;
        if session.link.is_none() {
            return self.end_detached(id, "session taken over");
        }
        self.out.stats.sessions_moved += 1;
        match is_free || session.record.ownership != Ownership::Known {
            true => self.close(id, CloseCode::GoingAway, "session claimed elsewhere before; resume it again"),
            false => self.close(id, CloseCode::SessionTakenOver, "session taken over"),
        }
    }

    // --- claiming ---

    /// Claims the session that a connection resumes and that this shard does not have. Returns what it came with if it
    /// cannot be claimed.
    pub(super) fn claim(&mut self, id: SessionId, returning: Box<Returning>) -> Option<Box<Returning>> {
        let name = returning.arrival.resume.as_ref().and_then(|resume| SessionName::parse(&resume.session));
        let player = name.as_ref().and_then(|name| name.player(&returning, self.sessions[id].anonymous));
        let (Some(name), Some(player)) = (&name, player) else { return Some(returning) };
        let kind = QueryKind::ClaimSession { player: player.into(), session: name.secret };
        let mut from = self.limits.sessions.find(name.hash);
        if let Some(holder) = from.filter(|holder| holder.shard == self.shard) {
            // This shard has it, and would have given it to its player.
            if self.sessions.get(holder.session).is_some_and(|session| session.hash == name.hash) {
                return Some(returning);
            }
            // It ended here while another shard claimed it, and that shard has entered it again.
            self.limits.sessions.leave(name.hash, holder);
            from = None;
        }
        // It is not found there while it is claimed: so that shard knows that it has lost it.
        from.into_iter().for_each(|holder| self.limits.sessions.leave(name.hash, holder));
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.records.claims.insert(ticket, ClaimOut { id, hash: name.hash, from });
        let session = &mut self.sessions[id];
        session.record.claim = Some(ticket);
        session.phase = Phase::Returning(returning);
        // Why it is asked for in any case: what is away may be another master of a Cluster, or a link that restores its channels.
        let patience_ms = match self.status {
            BrokerStatus::Ok => self.settings.connect_timeout_ms.max(CLAIM_TIMEOUT_MS),
            BrokerStatus::Partial | BrokerStatus::Degraded => CLAIM_TIMEOUT_MS,
        };
        session.deadlines.phase_ms = self.out.now.mono_ms + patience_ms;
        self.out.timers.arm(session);
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Query(Query::new(ticket, kind))));
        None
    }

    /// The answer to a claim is not wanted any more.
    pub(super) fn withdraw_claim(&mut self, claim: Option<Ticket>) {
        if let Some(ticket) = claim
            && let Some(out) = self.records.claims.remove(&ticket)
        {
            self.not_claimed(out);
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Withdraw(ticket)));
        }
    }

    /// A session stays where it was.
    fn not_claimed(&self, ClaimOut { hash, from, .. }: ClaimOut) {
        if let Some(holder) = from.filter(|_| self.limits.sessions.find(hash).is_none()) {
            self.limits.sessions.enter(hash, holder);
        }
    }

    /// A session was claimed for a connection that is gone, or that was given another one: it may be claimed for as long as any
    /// other that no node has.
    pub(super) fn claimed_late(&mut self, claimed: &ClaimedSession) {
        self.leave_claimed(claimed, self.settings.resume_window_ms);
    }

    fn leave_claimed(&mut self, claimed: &ClaimedSession, window_ms: u64) {
        let ClaimedSession { player, session, generation, .. } = claimed;
        let (player, session, generation) = (player.clone(), *session, *generation);
        self.end(Ending { player, session, generation, window_ms });
    }

    /// The answer to a claim. Returns whether a connection waited for it.
    pub(super) fn claim_answered(&mut self, ticket: Ticket, answer: &Answered) -> bool {
        let Some(out) = self.records.claims.remove(&ticket) else { return false };
        let id = out.id;
        if !matches!(answer, Ok(Answer::Session(Some(_)))) {
            self.not_claimed(out);
        }
        let Some(returning) = self.stop_returning(id) else { return false };
        match answer {
            Ok(Answer::Session(Some(claimed))) => {
                self.charged(id, |engine| engine.take_up(id, returning, claimed));
            }
            _ => self.join_anew(id, returning),
        }
        true
    }

    /// Redis has gone away: if this connection waits for the answer to a claim, it does not wait much longer.
    pub(super) fn hasten_claim(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        if session.record.claim.is_some() {
            let at_ms = self.out.now.mono_ms + CLAIM_TIMEOUT_MS;
            session.deadlines.phase_ms = session.deadlines.phase_ms.min(at_ms);
            self.out.timers.arm(session);
        }
    }

    /// No answer to its claim came in time.
    pub(super) fn claim_timed_out(&mut self, id: SessionId) {
        let claim = self.sessions[id].record.claim;
        self.withdraw_claim(claim);
        if let Some(returning) = self.stop_returning(id) {
            self.join_anew(id, returning);
        }
    }

    fn stop_returning(&mut self, id: SessionId) -> Option<Returning> {
        // It may have been closed, and be gone.
        self.sessions.get(id)?;
        let session = &mut self.sessions[id];
        if !matches!(session.phase, Phase::Returning(_)) {
            return None;
        }
        session.record.claim = None;
        session.deadlines.phase_ms = 0;
        match std::mem::replace(&mut session.phase, Phase::Connecting) {
            Phase::Returning(returning) => Some(*returning),
            _ => None,
        }
    }

    /// The session that a connection wanted is not there: it gets a new one.
    pub(super) fn join_anew(&mut self, id: SessionId, returning: Returning) {
        self.out.stats.resumes_refused += 1;
        let Returning { arrival, claims } = returning;
        self.join(id, Arrival { resume: None, ..arrival }, claims);
        self.retry_deferred(id);
    }

    /// A connection becomes that of a session which another node or shard had.
    fn take_up(&mut self, id: SessionId, returning: Returning, claimed: &ClaimedSession) {
        let name = returning.arrival.resume.as_ref().and_then(|resume| SessionName::parse(&resume.session));
        // It was claimed by this name.
        let Some(name) = name else { return self.join_anew(id, returning) };
        let claims = name.anonymous_claims().unwrap_or_else(|| returning.claims.clone());
        let Some(stored) = Stored::read(&claimed.content) else {
            // No node could take it up.
            self.leave_claimed(claimed, 0);
            return self.join_anew(id, returning);
        };
        let Returning { arrival, .. } = returning;
        let holder = Holder { shard: self.shard, session: id };
        let session = &mut self.sessions[id];
        (session.secret, session.hash, session.generation) = (name.secret, name.hash, claimed.generation);
        let left: HashSet<Arc<str>> = stored.left.iter().map(|channel| channel.as_str().into()).collect();
        session.left = (!left.is_empty()).then(|| Box::new(left));
        session.is_listed = true;
        self.limits.sessions.enter(name.hash, holder);
        if !self.enter_player(id, claims.clone()) {
            return;
        }
        self.out.stats.sessions_claimed += 1;
        let Arrival { id: request, subscribe, resume } = arrival;
        let positions = resume.map(|resume| resume.positions).unwrap_or_default();
        self.sessions[id].phase = Phase::Joining(Box::new(Joining::new(request, Some(positions))));
        self.load_overrides(id);
        self.subscribe_again(id, &claims, stored, subscribe);
        self.catch_up_on_all(id);
        self.await_welcome(id);
        self.retry_deferred(id);
    }

    /// The subscriptions of a session that was claimed: automatic ones by its token, those of services, and its client's, as
    /// `CONNECT` names them or else as they were stored.
    fn subscribe_again(
        &mut self,
        id: SessionId,
        claims: &Claims,
        stored: Stored,
        own: Option<Vec<Result<Subscribe, drawbridge_protocol::BadSubscribe>>>,
    ) {
        self.auto_subscribe_all(id, permissions::auto_channels(&self.settings, claims));
        let is_named = own.is_some();
        self.subscribe_in_connect(id, own.unwrap_or_default());
        let names: Vec<String> = stored.subscriptions.iter().map(|one| one.channel.clone()).collect();
        for StoredSubscription { channel, origin, filter, area } in stored.subscriptions {
            if self.sessions[id].is_closing() {
                return;
            }
            if self.is_subscribed(id, &Subject::named(channel.as_str())) {
                continue;
            }
            let is_allowed = match origin {
                Origin::Server => {
                    self.subscribe_by_server(id, &channel);
                    continue;
                }
                Origin::Client if is_named => continue,
                Origin::Auto => false,
                Origin::Client if Subject::named(channel.as_str()).is_pattern() => {
                    permissions::may_subscribe_pattern(&self.settings, &channel).is_ok()
                }
                Origin::Client => permissions::may_subscribe(&self.settings, claims, &channel).is_ok(),
            };
            if is_allowed {
                let area = area.map(SentArea::from_json);
                self.subscribe_in_connect(id, vec![Ok(Subscribe { channel, filter, area })]);
            } else if let Some(resumed) = self.sessions[id].resumed_mut() {
                resumed.forbidden.push(channel.into());
            }
        }
        self.nothing_is_proven(id, &names);
    }

    /// What was sent on these subscriptions before, and what has come since, this node cannot know.
    fn nothing_is_proven(&mut self, id: SessionId, names: &[String]) {
        let held = names.iter().filter_map(|name| self.subscribed_target(id, &Subject::named(name.as_str())));
        let held: Vec<TargetId> = held.collect();
        for target in &held {
            let slot = self.sessions[id].slot_of(*target);
            self.targets[*target].subscriber_at_mut(slot).written = LOST;
        }
        if let Some(resumed) = self.sessions[id].resumed_mut() {
            resumed.stored = held;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_endings_the_first_are_dropped() {
        let mut records = Records::default();
        let ending = |n: usize| Ending {
            player: "ann".into(),
            session: SessionHash(n as u128),
            generation: 1,
            window_ms: 0,
        };
        let dropped = (0..MAX_UNENDED + 3).filter(|n| records.end_later(*n as u64, ending(*n))).count();
        assert_eq!((dropped, records.ending()), (3, MAX_UNENDED));
        assert_eq!(records.next_deadline_ms(), Some(3 + RETRY_MS));
    }
}
