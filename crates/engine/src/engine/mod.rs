//! One shard's engine: takes in what happens ([`Input`]), says what is to be done ([`Output`]).
//!
//! A *turn* is a number of [`Engine::handle`] calls followed by draining [`Engine::poll_output`]: all that a turn
//! made due for one connection leaves in one [`Output::Write`]. This file owns the connection table, the timers
//! and the turn; what each input means stands in the files beside it.

mod broker_events;
mod commands;
mod connect;
mod costs;
mod deliver;
mod entities;
mod flush;
mod lifecycle;
mod publish;
mod requests;
mod subscribe;
mod views;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use drawbridge_protocol::websocket::Compressor;
use drawbridge_protocol::{CloseCode, ErrorCode, ErrorMessage, Frame, RequestId, ServerMessage, codec};
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::audience::AudienceId;
use crate::connection::Connection;
use crate::io::{BrokerStatus, ConnId, Holder, Input, Notice, Now, Output, Standing, Subject, Ticket};
use crate::outbox::{QueueKind, Queues};
use crate::rate_limit::SharedLimits;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::targets::{TargetId, Targets};
use crate::upstream::{ShardBarrier, ShardId};
use crate::view::Views;
use crate::world::Told;

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
    now: Now,
    connections: Connections,
    /// The queues of the connections' outboxes.
    queues: Queues,
    players: HashMap<Arc<str>, SmallVec<[ConnId; 1]>>,
    targets: Targets,
    /// How many unwants of a subject the broker has not answered yet.
    releasing: HashMap<Subject, u32>,
    views: Views,
    /// At most one entry per connection.
    timers: BTreeSet<(u64, ConnId)>,
    tickets: HashMap<Ticket, publish::InFlight>,
    /// Questions for players' views that are out.
    loading: BTreeMap<Ticket, ConnId>,
    /// Links that wait until players' views are known again.
    barrier: ShardBarrier,
    next_ticket: u64,
    /// Counts publications, so that a connection and a view know which they have decided.
    publication: u64,
    status: BrokerStatus,
    draining: bool,
    /// Connections with something to write.
    dirty: Vec<ConnId>,
    outputs: VecDeque<Output>,
    /// Scratch: the patterns that match the publication in hand.
    matched: Vec<TargetId>,
    /// Scratch: the audiences that the publication in hand can be for.
    found: Vec<AudienceId>,
    /// Scratch: what it changes for whom.
    told: Vec<Told>,
    compressor: Compressor,
    stats: Stats,
}

impl Engine {
    /// An engine without connections. `limits` are shared by the node's shards.
    pub fn new(settings: Arc<Settings>, limits: Arc<SharedLimits>) -> Self {
        Engine {
            settings,
            limits,
            shard: ShardId(0),
            now: Now { mono_ms: 0, unix_ms: 0 },
            connections: Connections::default(),
            queues: Queues::default(),
            players: HashMap::new(),
            targets: Targets::default(),
            releasing: HashMap::new(),
            views: Views::default(),
            timers: BTreeSet::new(),
            tickets: HashMap::new(),
            loading: BTreeMap::new(),
            barrier: ShardBarrier::default(),
            next_ticket: 0,
            publication: 0,
            status: BrokerStatus::Ok,
            draining: false,
            dirty: Vec::new(),
            outputs: VecDeque::new(),
            matched: Vec::new(),
            found: Vec::new(),
            told: Vec::new(),
            compressor: Compressor::default(),
            stats: Stats::default(),
        }
    }

    /// The same engine as the shard of this name; without it, it is the first.
    pub fn on_shard(self, shard: ShardId) -> Self {
        Engine { shard, ..self }
    }

    /// Takes in one thing that happened. Time never goes back.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.now = now;
        match input {
            Input::Opened(opened) => self.opened(opened),
            Input::Message { conn, kind, payload, cost_bytes } => {
                self.message(conn, kind, payload, cost_bytes);
            }
            Input::Oversized { conn, cost_bytes } => self.oversized(conn, cost_bytes),
            Input::Ping { conn, payload } => self.pinged(conn, payload),
            Input::Pong { conn } => self.ponged(conn),
            Input::Blocked { conn, unsent } => self.blocked(conn, unsent),
            Input::Writable { conn } => self.writable(conn),
            Input::Closed { conn, code } => self.closed(conn, code),
            Input::Authenticated { conn, result } => self.authenticated(conn, result),
            Input::Broker(event) => self.broker_event(event),
            Input::Displaced { conn } => self.close_as_too_many(conn),
            Input::Drain { window_ms } => self.drain(window_ms),
            Input::Tick => {}
        }
        self.run_timers();
    }

    /// What is to be done, in order; `None` ends the turn.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        while let Some(id) = self.dirty.pop() {
            let Some(conn) = self.connections.get_mut(id) else { continue };
            conn.dirty = false;
            if conn.blocked {
                continue;
            }
            self.flush_due(id);
            let Some(conn) = self.connections.get_mut(id) else { continue };
            if conn.outbox.has_frames() {
                return Some(Output::Write { conn: id, frames: conn.outbox.take_frames() });
            }
        }
        None
    }

    /// When [`Input::Tick`] is due at the latest, in monotonic milliseconds.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How far this connection is trusted now. A close takes effect with the input that causes it, before its output is
    /// polled.
    pub fn standing(&self, conn: ConnId) -> Standing {
        match self.connections.get(conn) {
            None => Standing::Gone,
            Some(conn) if conn.claims.is_none() => Standing::Unauthenticated,
            Some(_) => Standing::Authenticated,
        }
    }

    /// Requests taken in so far: a message may hold many. Only grows.
    pub fn requests(&self) -> u64 {
        self.stats.requests
    }

    /// Gauges and counters.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            connections: self.connections.len() as u64,
            targets: self.targets.len() as u64,
            views: self.views.len() as u64,
            releasing: self.releasing.len() as u64,
            publishing: self.tickets.len() as u64,
            loading: self.loading.len() as u64,
            timers: self.timers.len() as u64,
            work: self.targets.work.total(),
            ..self.stats
        };
        for target in self.targets.iter() {
            stats.entities += target.world.as_ref().map_or(0, |world| world.len() as u64);
            let work = target.audiences.as_ref().map_or(0, |audiences| audiences.work() as u64);
            stats.filter_work = stats.filter_work.max(work);
        }
        for conn in self.connections.iter() {
            stats.welcomed += u64::from(conn.is_open());
            stats.subscriptions += conn.subscriptions.len() as u64;
            stats.due_bytes += conn.outbox.queue_bytes() as u64;
            stats.pending_bytes += conn.outbox.frame_bytes() as u64;
            stats.deferred += conn.deferred.as_ref().map_or(0, |deferred| deferred.requests.len() as u64);
        }
        stats
    }

    /// Panics in debug builds if a count or a back-reference is wrong; for simulations, after each step.
    pub fn check(&self) {
        let mut queues = 0;
        for conn in self.connections.iter() {
            conn.outbox.check(&self.queues);
            queues += conn.outbox.queues().len();
            for subscription in &conn.subscriptions {
                let target = self.targets.get(subscription.target);
                let subscriber = target.and_then(|target| target.subscribers.get(subscription.slot as usize));
                debug_assert!(
                    subscriber.is_some_and(|theirs| theirs.conn == conn.id),
                    "slot of a subscriber"
                );
                let kept = subscriber.and_then(|theirs| theirs.queue);
                let found = conn.outbox.find(QueueKind::Table(subscription.target));
                debug_assert_eq!(kept, found, "queue of a subscriber");
            }
        }
        debug_assert_eq!(queues, self.queues.len(), "queues of nobody");
    }

    fn send(&mut self, id: ConnId, message: &ServerMessage<'_>) {
        if let Some(conn) = self.connections.get(id) {
            let frame = codec::encode_frame(conn.encoding, message);
            self.push(id, frame);
        }
    }

    fn send_error(&mut self, id: ConnId, error: ErrorMessage<'_>) {
        self.count_error(error.code);
        self.send(id, &ServerMessage::Error(error));
    }

    fn count_error(&mut self, code: ErrorCode) {
        match code {
            ErrorCode::RateLimited => self.stats.rate_limited += 1,
            ErrorCode::Forbidden => self.stats.forbidden += 1,
            ErrorCode::BadMessage => self.stats.bad_messages += 1,
            _ => {}
        }
    }

    /// An error that answers one request.
    fn refuse(&mut self, id: ConnId, request: Option<&RequestId>, code: ErrorCode, message: &str) {
        self.send_error(id, ErrorMessage { id: request, ..ErrorMessage::new(code, message) });
    }

    fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }

    /// Ends a connection from our side: what waits for it goes out first.
    fn close(&mut self, id: ConnId, code: CloseCode, reason: &'static str) {
        self.close_with_word(id, code, reason, reason);
    }

    /// As [`Engine::close`], with a word of its own for the lifecycle stream.
    fn close_with_word(
        &mut self,
        id: ConnId,
        code: CloseCode,
        reason: impl Into<Cow<'static, str>>,
        word: &str,
    ) {
        if code != CloseCode::SlowConsumer {
            self.flush_all(id);
        }
        if let Some(mut conn) = self.forget(id, code.as_u16(), word) {
            self.outputs.push_back(Output::Close {
                conn: id,
                frames: conn.outbox.take_frames(),
                code,
                reason: reason.into(),
            });
        }
    }

    fn closed(&mut self, id: ConnId, code: u16) {
        // A client may say these codes too; then it is its word.
        let reason = match code {
            1006 => "lost",
            1002 | 1007 | 1009 => "protocol violation",
            _ => "client",
        };
        self.forget(id, code, reason);
    }

    /// Takes a connection out of every table. Nothing of it stays but publishes on their way.
    fn forget(&mut self, id: ConnId, code: u16, reason: &str) -> Option<Box<Connection>> {
        // All at once: otherwise the queues would be searched for each subscription.
        self.connections.get_mut(id)?.outbox.remove_streams(&mut self.queues);
        while let Some(subscription) = self.connections.get(id)?.subscriptions.last() {
            self.drop_subscription(id, subscription.target);
        }
        let conn = self.connections.remove(id)?;
        self.forget_question(conn.narrowed.asked());
        self.timers.remove(&(conn.deadlines.armed_ms, id));
        if let Some(player) = conn.player()
            && let Some(ids) = self.players.get_mut(player)
        {
            ids.retain(|other| *other != id);
            self.limits.leave(player, Holder { shard: self.shard, conn: id });
            if ids.is_empty() {
                self.players.remove(player);
            }
        }
        if conn.is_open() {
            self.tell_left(&conn, code, reason);
        }
        Some(conn)
    }

    fn alive(&mut self, id: ConnId) {
        if let Some(conn) = self.connections.get_mut(id) {
            conn.silent_heartbeats = 0;
        }
    }

    /// Makes the one timer of a connection agree with its deadlines.
    fn arm(&mut self, id: ConnId) {
        if let Some(conn) = self.connections.get_mut(id) {
            conn.arm(&mut self.timers);
        }
    }

    fn run_timers(&mut self) {
        while let Some((at, id)) = self.timers.first().copied()
            && at <= self.now.mono_ms
        {
            self.timers.pop_first();
            if let Some(conn) = self.connections.get_mut(id) {
                conn.deadlines.armed_ms = 0;
                self.run_deadlines(id);
                self.arm(id);
            }
        }
    }

    fn run_deadlines(&mut self, id: ConnId) {
        let now = self.now.mono_ms;
        let Some(conn) = self.connections.get_mut(id) else { return };
        let due = |at: u64| at > 0 && at <= now;
        let deadlines = conn.deadlines;
        if due(deadlines.drain_ms) {
            return self.close(id, CloseCode::Drain, "drain");
        }
        if due(deadlines.expiry_ms) {
            return self.expired(id);
        }
        if due(deadlines.phase_ms) {
            conn.deadlines.phase_ms = 0;
            self.phase_timed_out(id);
        }
        if due(deadlines.views_ms) {
            self.load_views(id);
        }
        if due(deadlines.flush_ms)
            && let Some(conn) = self.connections.get_mut(id)
        {
            conn.deadlines.flush_ms = 0;
            conn.mark_dirty(&mut self.dirty);
        }
        if due(deadlines.heartbeat_ms) {
            self.heartbeat(id);
        }
    }

    fn heartbeat(&mut self, id: ConnId) {
        let heartbeat_ms = self.settings.heartbeat_ms;
        let Some(conn) = self.connections.get_mut(id) else { return };
        if conn.silent_heartbeats >= SILENT_HEARTBEATS {
            self.stats.heartbeats_missed += 1;
            return self.close(id, CloseCode::HeartbeatMissed, "heartbeat missed");
        }
        conn.silent_heartbeats += 1;
        conn.deadlines.heartbeat_ms = self.now.mono_ms + heartbeat_ms;
        self.push(id, PING);
    }

    /// Says goodbye to everyone and spreads the closes over the window.
    fn drain(&mut self, window_ms: u64) {
        /// A node with few connections need not take its whole window.
        const MS_PER_CONNECTION: u64 = 5;
        /// So that a load balancer sees that the node is not ready before its last socket closes.
        const AT_LEAST_MS: u64 = 500;
        self.draining = true;
        let ids: Vec<ConnId> = self.connections.iter().map(|conn| conn.id).collect();
        let spread_ms = (window_ms * 8 / 10).min((ids.len() as u64 * MS_PER_CONNECTION).max(AT_LEAST_MS));
        for (at, id) in ids.iter().enumerate() {
            let in_ms = spread_ms * (at as u64 + 1) / ids.len() as u64;
            self.send(*id, &ServerMessage::Goodbye { reason: "drain", reconnect_in_ms: in_ms });
            if let Some(conn) = self.connections.get_mut(*id) {
                conn.deadlines.drain_ms = self.now.mono_ms + in_ms.max(1);
                self.arm(*id);
            }
        }
    }
}

impl Connection {
    /// Makes its one timer agree with its deadlines.
    fn arm(&mut self, timers: &mut BTreeSet<(u64, ConnId)>) {
        let at = self.deadlines.earliest();
        let armed = std::mem::replace(&mut self.deadlines.armed_ms, at);
        if armed == at {
            return;
        }
        timers.remove(&(armed, self.id));
        if at > 0 {
            timers.insert((at, self.id));
        }
    }
}

/// The connection table: by place, checked by generation.
#[derive(Debug, Default)]
struct Connections {
    places: Vec<Option<Box<Connection>>>,
    count: usize,
}

impl Connections {
    fn insert(&mut self, conn: Box<Connection>) {
        let place = conn.id.index as usize;
        if place >= self.places.len() {
            self.places.resize_with(place + 1, || None);
        }
        self.count += usize::from(self.places[place].is_none());
        self.places[place] = Some(conn);
    }

    fn get(&self, id: ConnId) -> Option<&Connection> {
        self.places.get(id.index as usize)?.as_deref().filter(|conn| conn.id == id)
    }

    fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.places.get_mut(id.index as usize)?.as_deref_mut().filter(|conn| conn.id == id)
    }

    fn remove(&mut self, id: ConnId) -> Option<Box<Connection>> {
        self.get(id)?;
        self.count -= 1;
        self.places.get_mut(id.index as usize)?.take()
    }

    fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.places.iter().flatten().map(|conn| &**conn)
    }

    fn len(&self) -> usize {
        self.count
    }
}
