//! What an engine counts. Plain numbers of one thread, summed over the shards on request.

/// Gauges and counters of one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gauge: connections, in any phase.
    pub connections: u64,
    /// Gauge: sessions whose connection was lost, and which may be resumed.
    pub detached: u64,
    /// Gauge: bytes of events that wait for such sessions.
    pub held_bytes: u64,
    /// Gauge: connections whose `WELCOME` was sent.
    pub welcomed: u64,
    /// Gauge: sessions that are connecting, between a good token and `WELCOME`.
    pub connecting: u64,
    /// Gauge: those that wait until fewer are.
    pub connect_waiting: u64,
    /// Connections turned away because too many were connecting (4003).
    pub turned_away: u64,
    /// Gauge: subscriptions of connections.
    pub subscriptions: u64,
    /// Gauge: distinct channels and patterns of this shard.
    pub targets: u64,
    /// Gauge: unsubscribed channels and patterns that the broker has not released yet.
    pub releasing: u64,
    /// Gauge: distinct views.
    pub views: u64,
    /// Gauge: bytes that wait for blocked sockets.
    pub frame_bytes: u64,
    /// Gauge: publishes whose acknowledgement is out.
    pub publishing: u64,
    /// Gauge: connections whose views are being read.
    pub loading: u64,
    /// Gauge: channels with history whose place in the log is known.
    pub logs: u64,
    /// Gauge: sessions that catch up, each once for each channel.
    pub catching_up: u64,
    /// Gauge: requests for pages of history whose answer is out.
    pub histories: u64,
    /// Gauge: records of sessions that are to be removed from the store.
    pub records_ending: u64,
    /// Records of ended sessions that could not be removed and are no longer retried: they stay in the store until this node ends.
    pub records_left: u64,
    /// Gauge: requests that wait for something before them.
    pub deferred: u64,
    /// Gauge: sessions that are present, each once for each channel.
    pub present: u64,
    /// Gauge: of these, and of those who left, what the store has not taken yet.
    pub presence_waiting: u64,
    /// Gauge: `PRESENCE_GET`s that are not answered, and fences behind their answers.
    pub presence_reads: u64,
    /// `PRESENCE_CHANGED`s.
    pub presence_notices: u64,
    /// Gauge: timers armed.
    pub timers: u64,
    /// Requests taken in.
    pub requests: u64,
    /// Publications that came from the broker.
    pub publications: u64,
    /// Frames of events queued to connections.
    pub deliveries: u64,
    /// Events sent again from logs, to sessions that catch up.
    pub replayed: u64,
    /// Events that a view or a right hid from a subscriber.
    pub hidden: u64,
    /// Gauge: entities of this shard's channels.
    pub entities: u64,
    /// Gauge: what evaluating the unindexed filters of one event costs, on the most expensive channel.
    pub filter_work: u64,
    /// Gauge: bytes of events that wait for a window or a blocked socket, beside up to 16 KiB and one event of each entity
    /// channel of a connection, which are counted later.
    pub queued_bytes: u64,
    /// Entities that came into a client's view, snapshots included.
    pub view_enters: u64,
    /// Entities that went out of a client's view.
    pub view_leaves: u64,
    /// Snapshots of entity channels begun.
    pub snapshots: u64,
    /// Events that a newer one of their key replaced before they left.
    pub conflated: u64,
    /// Events dropped for connections that do not read; the client receives `RESYNC`.
    pub shed: u64,
    /// `BAD_MESSAGE`s.
    pub bad_messages: u64,
    /// `RATE_LIMITED`s.
    pub rate_limited: u64,
    /// `FORBIDDEN`s.
    pub forbidden: u64,
    /// Tokens refused, missing ones included; not those that expired while connected.
    pub tokens_refused: u64,
    /// Connections closed because their player had too many (4506).
    pub too_many_connections: u64,
    /// Connections closed because they did not read (4001).
    pub slow_consumers: u64,
    /// Connections closed because heartbeats stayed unanswered (4002).
    pub heartbeats_missed: u64,
    /// Sessions resumed by a connection to their node.
    pub resumed: u64,
    /// Sessions that still had a connection when another one resumed them; it was closed (4505).
    pub sessions_moved: u64,
    /// Sessions that connections have claimed from another node or shard.
    pub sessions_claimed: u64,
    /// `CONNECT`s with a session that could not be resumed.
    pub resumes_refused: u64,
    /// Sessions that ended because no one came back in time.
    pub windows_ended: u64,
    /// `RESYNC`s.
    pub resyncs: u64,
    /// Steps of work over entity tables and filters, whoever caused them.
    pub work: u64,
    /// Steps of it that clients caused and were charged for.
    pub work_charged: u64,
    /// Publishes acknowledged.
    pub published: u64,
    /// Publishes that failed, whatever the reason.
    pub publish_failures: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        self.connections += other.connections;
        self.detached += other.detached;
        self.held_bytes += other.held_bytes;
        self.welcomed += other.welcomed;
        self.connecting += other.connecting;
        self.connect_waiting += other.connect_waiting;
        self.turned_away += other.turned_away;
        self.subscriptions += other.subscriptions;
        self.targets += other.targets;
        self.releasing += other.releasing;
        self.views += other.views;
        self.frame_bytes += other.frame_bytes;
        self.publishing += other.publishing;
        self.loading += other.loading;
        self.logs += other.logs;
        self.catching_up += other.catching_up;
        self.histories += other.histories;
        self.records_ending += other.records_ending;
        self.records_left += other.records_left;
        self.replayed += other.replayed;
        self.deferred += other.deferred;
        self.present += other.present;
        self.presence_waiting += other.presence_waiting;
        self.presence_reads += other.presence_reads;
        self.presence_notices += other.presence_notices;
        self.timers += other.timers;
        self.requests += other.requests;
        self.publications += other.publications;
        self.deliveries += other.deliveries;
        self.hidden += other.hidden;
        self.entities += other.entities;
        self.filter_work = self.filter_work.max(other.filter_work);
        self.queued_bytes += other.queued_bytes;
        self.view_enters += other.view_enters;
        self.view_leaves += other.view_leaves;
        self.snapshots += other.snapshots;
        self.conflated += other.conflated;
        self.shed += other.shed;
        self.bad_messages += other.bad_messages;
        self.rate_limited += other.rate_limited;
        self.forbidden += other.forbidden;
        self.tokens_refused += other.tokens_refused;
        self.slow_consumers += other.slow_consumers;
        self.too_many_connections += other.too_many_connections;
        self.heartbeats_missed += other.heartbeats_missed;
        self.resumed += other.resumed;
        self.sessions_moved += other.sessions_moved;
        self.sessions_claimed += other.sessions_claimed;
        self.resumes_refused += other.resumes_refused;
        self.windows_ended += other.windows_ended;
        self.resyncs += other.resyncs;
        self.work += other.work;
        self.work_charged += other.work_charged;
        self.published += other.published;
        self.publish_failures += other.publish_failures;
    }
}
