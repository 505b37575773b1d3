//! One shard's engine: takes in what happens ([`Input`]), says what is to be done ([`Output`]).
//!
//! A *turn* is a number of [`Engine::handle`] calls followed by draining [`Engine::poll_output`]: all that a turn
//! made due for one connection leaves in one [`Output::Write`]. This file owns the order of a turn; what each input
//! means is in the files beside it.
//!
//! ```text
//!   handle:  input ─▶ what it means ─▶ deferred requests ─▶ timers ─▶ deferred requests ─▶ queued closes
//!   poll:    outputs, then for each session with something to write: flush its queues, one write
//! ```

mod admission;
mod broker_events;
mod catch_up;
mod check;
mod closing;
mod cluster_reads;
mod connect;
mod costs;
mod deliver;
mod detach;
mod entities;
mod flush;
mod history;
mod lifecycle;
mod logs;
mod message_bounds;
mod outbound;
mod player_commands;
mod presence;
mod publish;
mod records;
mod refusal;
mod requests;
mod resume;
mod sessions;
mod slow_consumer;
mod subscribe;
mod verdicts;
mod views;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use drawbridge_protocol::{CloseCode, ErrorCode, ErrorMessage, Frame, RequestId, ServerMessage};
use hashbrown::HashMap;
use smallvec::SmallVec;

use self::closing::Closing;
use self::history::HistoryOut;
use self::logs::ChannelLogs;
use self::outbound::Outbound;
use self::presence::PresenceState;
use self::records::Records;
use self::sessions::Sessions;
use crate::audience::AudienceId;
use crate::connecting::Connecting;
use crate::io::{
    BrokerStatus, Claims, ConnId, Input, Notice, Now, Output, SessionId, Standing, Subject, Ticket,
};
use crate::rate_limit::SharedLimits;
use crate::session::Phase;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::targets::{TargetId, Targets};
use crate::upstream::{ShardBarrier, ShardId};
use crate::view::EffectiveViews;
use crate::world::VisibilityChange;

/// An unmasked ping without a payload.
const PING: Frame = Frame::from_static(&[0x89, 0x00]);
/// After so many silent heartbeats the connection is closed with 4002.
const SILENT_HEARTBEATS: u8 = 2;

/// One shard's state. See the module.
#[derive(Debug)]
pub struct Engine {
    settings: Arc<Settings>,
    limits: Arc<SharedLimits>,
    shard: ShardId,
    sessions: Sessions,
    players: HashMap<Arc<str>, SmallVec<[SessionId; 1]>>,
    targets: Targets,
    /// Where the logs of its channels are.
    logs: ChannelLogs,
    /// Queries for pages of history that are out.
    histories: BTreeMap<Ticket, HistoryOut>,
    /// The work of anonymous players' filters together: of each address, on each channel, and on all patterns (`None`).
    anonymous_filters: HashMap<(IpAddr, Option<TargetId>), usize>,
    /// How many unwants of a subject the broker has not answered yet.
    releasing: HashMap<Subject, u32>,
    views: EffectiveViews,
    /// What all outboxes share.
    out: Outbound,
    /// Who connects, and who waits for that with these claims.
    connecting: Connecting<Claims>,
    /// Closes that are carried out at the end of the current input.
    closing: Vec<Closing>,
    /// Connections that become another session's at the end of the current input.
    returning: Vec<SessionId>,
    /// Sessions whose deferred requests are tried again after the current step.
    ready: Vec<SessionId>,
    tickets: HashMap<Ticket, publish::InFlight>,
    /// Queries for players' view overrides that are out.
    loading: BTreeMap<Ticket, SessionId>,
    presence: PresenceState,
    records: Records,
    /// Links that wait until players' views are known again.
    barrier: ShardBarrier,
    next_ticket: u64,
    status: BrokerStatus,
    /// When the last connection of a drain is closed, in monotonic milliseconds; `None`: the node does not drain.
    drains_until_ms: Option<u64>,
    /// Scratch: the patterns that match the current publication.
    matched: Vec<TargetId>,
    /// Scratch: the audiences that the current publication can be for.
    found: Vec<AudienceId>,
    /// Scratch: what it changes for whom.
    changes: Vec<VisibilityChange>,
}

impl Engine {
    /// An engine without sessions. `limits` are shared by the node's shards.
    pub fn new(settings: Arc<Settings>, limits: Arc<SharedLimits>) -> Self {
        Engine {
            limits,
            shard: ShardId(0),
            sessions: Sessions::default(),
            players: HashMap::new(),
            targets: Targets::default(),
            logs: ChannelLogs::default(),
            histories: BTreeMap::new(),
            anonymous_filters: HashMap::new(),
            releasing: HashMap::new(),
            views: EffectiveViews::default(),
            out: Outbound::new(settings.snapshot_steps),
            connecting: Connecting::new(settings.connecting),
            closing: Vec::new(),
            returning: Vec::new(),
            ready: Vec::new(),
            tickets: HashMap::new(),
            loading: BTreeMap::new(),
            presence: PresenceState::default(),
            records: Records::default(),
            barrier: ShardBarrier::default(),
            next_ticket: 0,
            status: BrokerStatus::Ok,
            drains_until_ms: None,
            matched: Vec::new(),
            found: Vec::new(),
            changes: Vec::new(),
            settings,
        }
    }

    /// The same engine as the shard of this name; without it, it is the first.
    pub fn on_shard(self, shard: ShardId) -> Self {
        Engine { shard, ..self }
    }

    /// Takes in one thing that happened. Time never goes back.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.out.now = now;
        match input {
            Input::Opened(opened) => self.opened(opened),
            Input::Broker(event) => self.broker_event(event),
            Input::Displaced { session } => self.displaced(session),
            Input::DetachedTooMany { session } => self.detached_too_many(session),
            Input::Drain { window_ms } => self.drain(window_ms),
            Input::Tick => {}
            Input::Message { conn, .. }
            | Input::Oversized { conn, .. }
            | Input::Ping { conn, .. }
            | Input::Pong { conn }
            | Input::Blocked { conn, .. }
            | Input::Writable { conn }
            | Input::Closed { conn, .. }
            | Input::Authenticated { conn, .. } => {
                // What comes late from a connection that has ended, or was detached, concerns nobody.
                if let Some(id) = self.sessions.of(conn) {
                    self.session_input(id, input);
                }
            }
        }
        self.finish_step();
        self.run_timers();
        self.run_presence();
        self.end_again();
        self.finish_step();
        // Why: single frames (an answer, a heartbeat) may be the last straw, too.
        self.enforce_limits();
        self.finish_closings();
        self.finish_returns();
        self.enforce_limits();
        self.finish_closings();
        self.admit_waiting();
        self.write_presence();
    }

    /// What a session's connection says.
    fn session_input(&mut self, id: SessionId, input: Input<'_>) {
        match input {
            Input::Message { kind, payload, cost_bytes, .. } => self.message(id, kind, payload, cost_bytes),
            Input::Oversized { cost_bytes, .. } => self.oversized(id, cost_bytes),
            Input::Ping { payload, .. } => self.pinged(id, payload),
            Input::Pong { .. } => self.ponged(id),
            Input::Blocked { unsent, .. } => self.blocked(id, unsent),
            Input::Writable { .. } => self.writable(id),
            Input::Closed { code, .. } => self.closed(id, code),
            Input::Authenticated { result, .. } => self.authenticated(id, result),
            Input::Opened(_)
            | Input::Broker(_)
            | Input::Displaced { .. }
            | Input::DetachedTooMany { .. }
            | Input::Drain { .. }
            | Input::Tick => {
                debug_assert!(false, "not of one connection");
            }
        }
    }

    /// What is to be done, in order; `None` ends the turn. What the turn left to the next one is due at once
    /// ([`Engine::next_deadline_ms`]).
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.out.outputs.pop_front() {
            return Some(output);
        }
        while let Some(id) = self.next_to_flush() {
            if let Some(write) = self.next_write(id) {
                return Some(write);
            }
        }
        // What was written may have made room for more.
        let output = self.out.outputs.pop_front();
        if output.is_none() {
            self.out.snapshot_steps_left = self.settings.snapshot_steps;
        }
        output
    }

    /// The next session whose outbox is to be flushed, if it has not ended since it was marked.
    fn next_to_flush(&mut self) -> Option<SessionId> {
        if let Some(id) = self.out.pop_dirty() {
            if self.sessions.get(id).is_some() {
                self.sessions[id].is_dirty = false;
            }
            return Some(id);
        }
        let id = self.out.pop_unfinished()?;
        if self.sessions.get(id).is_some() {
            self.sessions[id].is_unfinished = false;
        }
        Some(id)
    }

    /// What a session is to be sent.
    ///
    /// Invariant: nothing closes here, because flushing makes frames of what was counted already.
    fn next_write(&mut self, id: SessionId) -> Option<Output> {
        // It may have ended since it was marked.
        if self.sessions.get(id)?.is_blocked() {
            return None;
        }
        self.flush_outbox(id);
        let session = &mut self.sessions[id];
        let conn = session.link.as_ref()?.conn;
        let frames = session.outbox.take_frames();
        if session.catching_up.is_some() {
            self.go_on_catching_up(id);
        }
        (!frames.is_empty()).then_some(Output::Write { conn, frames })
    }

    /// When [`Input::Tick`] must come at the latest, in monotonic milliseconds.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let session = self.out.timers.first_ms();
        let presence = self.presence.next_deadline_ms(self.status);
        let unfinished = self.out.is_unfinished().then_some(self.out.now.mono_ms);
        let others = [presence, self.logs.next_deadline_ms(), self.records.next_deadline_ms(), unfinished];
        session.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// How far this connection is trusted now. A close takes effect with the input that causes it, before its output is
    /// polled.
    pub fn standing(&self, conn: ConnId) -> Standing {
        match self.sessions.of(conn) {
            None => Standing::Gone,
            Some(id) if self.sessions[id].claims.is_none() => Standing::Unauthenticated,
            Some(_) => Standing::Authenticated,
        }
    }

    /// Requests taken in so far: a message may hold many. Only grows.
    pub fn requests(&self) -> u64 {
        self.out.stats.requests
    }

    /// Steps of work done so far ([`crate::work`]). Only grows.
    pub fn work(&self) -> u64 {
        self.targets.work.total()
    }

    /// The session of a connection.
    pub fn session_of(&self, conn: ConnId) -> Option<SessionId> {
        self.sessions.of(conn)
    }

    /// Gauges and counters.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            targets: self.targets.len() as u64,
            views: self.views.len() as u64,
            releasing: self.releasing.len() as u64,
            publishing: self.tickets.len() as u64,
            loading: self.loading.len() as u64,
            timers: self.out.timers.len() as u64,
            connecting: self.connecting.places() as u64,
            connect_waiting: self.connecting.waiting() as u64,
            present: self.presence.present,
            presence_waiting: self.presence.ledger.len() as u64,
            presence_reads: self.presence_queries() as u64,
            work: self.targets.work.total(),
            logs: self.logs.len() as u64,
            catching_up: self.logs.catching_up() as u64,
            histories: self.histories.len() as u64,
            records_ending: self.records.ending() as u64,
            ..self.out.stats
        };
        for (_, target) in self.targets.iter() {
            stats.entities += target.world.as_ref().map_or(0, |world| world.len() as u64);
            let work = target.audiences.as_ref().map_or(0, |audiences| audiences.work() as u64);
            stats.filter_work = stats.filter_work.max(work);
        }
        for session in self.sessions.iter() {
            stats.connections += u64::from(session.link.is_some());
            stats.welcomed += u64::from(session.is_open());
            stats.detached += u64::from(matches!(session.phase, Phase::Detached));
            stats.held_bytes += session.held_bytes as u64;
            stats.subscriptions += session.subscriptions.len() as u64;
            stats.queued_bytes += session.outbox.queue_bytes() as u64;
            stats.frame_bytes += session.outbox.frame_bytes() as u64;
            stats.deferred += session.deferred.as_ref().map_or(0, |deferred| deferred.requests.len() as u64);
        }
        stats
    }

    fn send(&mut self, id: SessionId, message: &ServerMessage<'_>) {
        self.out.send(&mut self.sessions[id], message);
        self.enforce_limits();
    }

    /// Appends a frame to one session's outbox.
    fn enqueue_frame(&mut self, id: SessionId, frame: Frame) {
        self.out.enqueue_frame(&mut self.sessions[id], frame);
        self.enforce_limits();
    }

    fn send_error(&mut self, id: SessionId, error: ErrorMessage<'_>) {
        self.count_error(error.code);
        self.send(id, &ServerMessage::Error(error));
    }

    fn count_error(&mut self, code: ErrorCode) {
        match code {
            ErrorCode::RateLimited => self.out.stats.rate_limited += 1,
            ErrorCode::Forbidden => self.out.stats.forbidden += 1,
            ErrorCode::BadMessage => self.out.stats.bad_messages += 1,
            _ => {}
        }
    }

    /// An error that answers one request.
    fn refuse(&mut self, id: SessionId, request: Option<&RequestId>, code: ErrorCode, message: &str) {
        self.send_error(id, ErrorMessage { id: request, ..ErrorMessage::new(code, message) });
    }

    fn notice(&mut self, notice: Notice) {
        self.out.notice(notice);
    }

    /// Makes the one timer of a session agree with its deadlines.
    fn arm(&mut self, id: SessionId) {
        self.out.timers.arm(&mut self.sessions[id]);
    }

    fn run_timers(&mut self) {
        while let Some(id) = self.out.timers.pop_due(self.out.now.mono_ms) {
            self.sessions[id].deadlines.armed_ms = 0;
            self.run_deadlines(id);
            self.arm(id);
        }
        self.send_hidden_positions();
    }

    /// Handles the deadlines of a session that have passed; one that closes it clears the others.
    fn run_deadlines(&mut self, id: SessionId) {
        let now = self.out.now.mono_ms;
        let is_due = |at: u64| at > 0 && at <= now;
        let due = self.sessions[id].deadlines;
        if is_due(due.drain_ms) {
            return self.close(id, CloseCode::Drain, "drain");
        }
        if is_due(due.expiry_ms) {
            return self.expired(id);
        }
        if is_due(due.phase_ms) {
            self.sessions[id].deadlines.phase_ms = 0;
            self.phase_timed_out(id);
        }
        if self.sessions[id].is_closing() {
            return;
        }
        if is_due(due.overrides_ms) {
            self.load_overrides(id);
        }
        if is_due(due.history_ms) {
            self.history_too_late(id);
        }
        if is_due(due.record_ms) {
            self.save_now(id);
        }
        if is_due(due.catch_up_ms) {
            self.catch_up_again(id);
        }
        if is_due(due.flush_ms) {
            let session = &mut self.sessions[id];
            session.deadlines.flush_ms = 0;
            self.out.mark_dirty(session);
        }
        if is_due(due.heartbeat_ms) {
            self.heartbeat(id);
        }
    }

    fn heartbeat(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        session.deadlines.heartbeat_ms = 0;
        // Who is detached has no socket that could be dead.
        let Some(link) = &mut session.link else { return };
        if link.is_dead_at_heartbeat(SILENT_HEARTBEATS) {
            self.out.stats.heartbeats_missed += 1;
            return self.close(id, CloseCode::HeartbeatMissed, "heartbeat missed");
        }
        session.deadlines.heartbeat_ms = self.out.now.mono_ms + self.settings.heartbeat_ms;
        self.enqueue_frame(id, PING);
    }

    /// Says goodbye to everyone and spreads the closes over the window.
    fn drain(&mut self, window_ms: u64) {
        /// A node with few connections need not take its whole window.
        const MS_PER_CONNECTION: u64 = 5;
        /// So that a load balancer sees that the node is not ready before its last socket closes.
        const AT_LEAST_MS: u64 = 500;
        // A detached session has no client to notify.
        let linked = self.sessions.iter().filter(|session| session.link.is_some());
        let ids: Vec<SessionId> = linked.map(|session| session.id).collect();
        let spread_ms = (window_ms * 8 / 10).min((ids.len() as u64 * MS_PER_CONNECTION).max(AT_LEAST_MS));
        self.drains_until_ms = Some(self.out.now.mono_ms + spread_ms);
        for (at, id) in ids.iter().enumerate() {
            self.say_goodbye(*id, spread_ms * (at as u64 + 1) / ids.len() as u64);
        }
    }

    /// Says when the connection will be closed, in milliseconds from now, and closes it then.
    fn say_goodbye(&mut self, id: SessionId, in_ms: u64) {
        self.send(id, &ServerMessage::Goodbye { reason: "drain", reconnect_in_ms: in_ms });
        let session = &mut self.sessions[id];
        if !session.is_closing() {
            session.deadlines.drain_ms = self.out.now.mono_ms + in_ms.max(1);
            self.out.timers.arm(session);
        }
    }
}
