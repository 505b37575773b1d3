//! What is stored of sessions, so that any node or shard can take one up (contract §7). A session's record is written when it
//! is welcomed, and within [`COALESCE_MS`] of a change of its subscriptions; it is deleted when the session ends. Nothing is
//! written for an event, and nothing periodically. A connection that resumes a session which this shard does not have claims
//! it: from then on the record is this node's, under the next generation, and whoever had it closes with 4505.
//!
//! ```text
//!   Returning ──claim──▶ Returning, claim out ──record──▶ Joining with what was stored ──▶ WELCOME resumed:true
//!                              └──no such session, no answer in time, Redis away──▶ a new session
//! ```

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_protocol::{CloseCode, SentArea, Subscribe};
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Engine;
use super::resume::SessionName;
use crate::io::{
    Answer, Answered, BrokerCommand, BrokerStatus, ClaimedSession, Claims, Holder, Outcome, Output, Owner,
    PublishFailure, Query, QueryKind, SessionHash, SessionId, Subject, Ticket, WhenDown, Write, WriteKind,
};
use crate::permissions;
use crate::session::{Arrival, Joining, Origin, Phase, Returning, Session};
use crate::targets::{LOST, TargetId};

/// Changes of a record within this time are written together. Why so long: a change that a killed node had not written is
/// made good by the client, which sends its own subscriptions.
const COALESCE_MS: u64 = 500;
/// When a save that Redis did not take is tried again.
const RETRY_MS: u64 = 2_000;
/// How long a resuming connection waits for the answer to its claim; then it gets a new session.
const CLAIM_TIMEOUT_MS: u64 = 2_000;
/// Over how long the records are written again that Redis has lost.
const REWRITE_MS: u64 = 5_000;
/// The form of [`Stored`].
const VERSION: u32 = 1;

/// Saves and claims whose answers are out. Bounded by the number of sessions: each has one of either at most.
#[derive(Debug, Default)]
pub(super) struct Records {
    saves: HashMap<Ticket, SessionId>,
    claims: HashMap<Ticket, ClaimOut>,
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

/// How far a session's record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordState {
    /// The outcome of a save is out.
    pub(crate) is_saving: bool,
    /// It had changed when the session's close was queued: if the session is detached, it is written at once.
    pub(crate) has_changed: bool,
    /// The claim of this connection, which is out.
    pub(crate) claim: Option<Ticket>,
    /// Another node or shard has claimed the session: here it ends, and lives on there.
    pub(crate) is_moved: bool,
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
        let (hash, generation) = (session.hash, session.generation);
        let content = self.content_of(id);
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.records.saves.insert(ticket, id);
        let owner = player.clone();
        let kind = WriteKind::SaveSession { player, session: hash, generation, content };
        self.write_record(Some(ticket), owner, kind);
    }

    fn write_record(&mut self, ticket: Option<Ticket>, player: Arc<str>, kind: WriteKind) {
        let write = Write { ticket, owner: Owner::Player(player), when_down: WhenDown::Queue, kind };
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

    /// The outcome of a save. Returns whether it was one.
    pub(super) fn record_saved(&mut self, ticket: Ticket, outcome: &Outcome) -> bool {
        let Some(id) = self.records.saves.remove(&ticket) else { return false };
        if self.sessions.get(id).is_none() {
            return true;
        }
        let now_ms = self.out.now.mono_ms;
        let session = &mut self.sessions[id];
        session.record.is_saving = false;
        match outcome {
            Err(PublishFailure::TakenOver) => self.lose_session(id),
            Err(PublishFailure::NotDone | PublishFailure::OverShare { .. } | PublishFailure::Unknown)
                if !session.is_closing() =>
            {
                session.deadlines.record_ms = now_ms + RETRY_MS;
                self.out.timers.arm(session);
            }
            // Redis' refusals are logged where they come.
            _ => {}
        }
        true
    }

    /// A session has ended: nothing is kept of it. If it lives on elsewhere its record is of a later generation, and stays; but
    /// a save that was on its way has left traces of this node's.
    pub(super) fn end_record(&mut self, session: &Session) {
        if let Some(player) = session.player().cloned().filter(|_| session.is_listed) {
            self.delete_record(player, session.hash, session.generation);
        }
    }

    fn delete_record(&mut self, player: Arc<str>, session: SessionHash, generation: u64) {
        let kind = WriteKind::EndSession { player: player.clone(), session, generation };
        self.write_record(None, player, kind);
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

    /// Another node or shard has claimed a session of this player.
    pub(super) fn taken_over(&mut self, id: SessionId, hash: SessionHash, node: &str) {
        let holder = Holder { shard: self.shard, session: id };
        let is_here = node == &*self.settings.instance && self.limits.sessions.find(hash) == Some(holder);
        if self.sessions[id].hash == hash && !is_here {
            self.lose_session(id);
        }
    }

    fn lose_session(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        session.record.is_moved = true;
        match session.link.is_some() {
            true => {
                self.out.stats.sessions_moved += 1;
                self.close(id, CloseCode::SessionTakenOver, "session taken over");
            }
            false => self.end_detached(id, "session taken over"),
        }
    }

    // --- claiming ---

    /// Claims the session that a connection resumes and that this shard does not have. Returns what it came with if it
    /// cannot be claimed.
    pub(super) fn claim(&mut self, id: SessionId, returning: Box<Returning>) -> Option<Box<Returning>> {
        let name = returning.arrival.resume.as_ref().and_then(|resume| SessionName::parse(&resume.session));
        let player = name.as_ref().and_then(|name| name.player(&returning, self.sessions[id].anonymous));
        let (Some(name), Some(player), BrokerStatus::Ok) = (&name, player, self.status) else {
            return Some(returning);
        };
        let kind = QueryKind::ClaimSession { player: player.into(), session: name.secret };
        let from = self.limits.sessions.find(name.hash);
        // This shard has it, and would have given it to its player.
        if from.is_some_and(|holder| holder.shard == self.shard) {
            return Some(returning);
        }
        // It is not found there while it is claimed: so that shard knows that it has lost it.
        from.into_iter().for_each(|holder| self.limits.sessions.leave(name.hash, holder));
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.records.claims.insert(ticket, ClaimOut { id, hash: name.hash, from });
        let session = &mut self.sessions[id];
        session.record.claim = Some(ticket);
        session.phase = Phase::Returning(returning);
        session.deadlines.phase_ms = self.out.now.mono_ms + CLAIM_TIMEOUT_MS;
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

    /// The answer to a claim. Returns whether it was one.
    pub(super) fn claim_answered(&mut self, ticket: Ticket, answer: &Answered) -> bool {
        let Some(out) = self.records.claims.remove(&ticket) else { return false };
        let id = out.id;
        if !matches!(answer, Ok(Answer::Session(Some(_)))) {
            self.not_claimed(out);
        }
        let Some(returning) = self.stop_returning(id) else { return true };
        match answer {
            Ok(Answer::Session(Some(claimed))) => self.take_up(id, returning, claimed),
            _ => self.join_anew(id, returning),
        }
        true
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
            self.delete_record(claims.player, name.hash, claimed.generation);
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
