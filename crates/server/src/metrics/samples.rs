//! Each metric of a node that has no labels: its kind, name, help and value; and the refusals, by reason.

use crate::broker::BrokerStats;
use crate::node::NodeStats;
use crate::shard::ShardStats;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricKind {
    Gauge,
    Counter,
}

/// One metric: kind, name without prefix and suffix, help, value.
#[derive(Debug)]
pub(super) struct Sample(
    pub(super) MetricKind,
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) u64,
);

/// Refusals of the node and of its engines.
pub(super) fn refusals(stats: &NodeStats) -> Vec<(&'static str, u64)> {
    let tokens = stats.shards.iter().map(|shard| shard.engine.tokens_refused).sum();
    stats.refusals.into_iter().chain([("token", tokens)]).collect()
}

pub(super) fn samples(stats: &NodeStats) -> Vec<Sample> {
    use MetricKind::{Counter, Gauge};
    let mut shards = ShardStats::default();
    for shard in &stats.shards {
        shards += *shard;
    }
    let (engine, broker) = (shards.engine, &stats.broker);
    vec![
        Sample(Gauge, "connections", "Connections in any phase, the handshake done", engine.connections),
        Sample(Gauge, "connections_open", "Connections that have received WELCOME", engine.welcomed),
        Sample(
            Gauge,
            "connections_connecting",
            "Connections whose token is accepted and that have not received WELCOME",
            engine.connecting,
        ),
        Sample(
            Gauge,
            "connections_waiting",
            "Connections that wait because limits.connecting others are connecting",
            engine.connect_waiting,
        ),
        Sample(
            Counter,
            "connections_turned_away",
            "Connections closed with 4003: too many were connecting, or their address had no room for a new session",
            engine.turned_away,
        ),
        Sample(
            Gauge,
            "sessions_detached",
            "Sessions whose connection was lost and that may be resumed",
            engine.detached,
        ),
        Sample(
            Gauge,
            "sessions_detached_bytes",
            "Bytes of events that wait for detached sessions",
            engine.held_bytes,
        ),
        Sample(Counter, "sessions_resumed", "Sessions resumed on the node that had them", engine.resumed),
        Sample(
            Counter,
            "sessions_claimed",
            "Sessions resumed here that another node or shard had",
            engine.sessions_claimed,
        ),
        Sample(
            Counter,
            "sessions_moved",
            "Connections closed because another connection resumed their session (4505, or 1001)",
            engine.sessions_moved,
        ),
        Sample(
            Counter,
            "sessions_not_resumed",
            "CONNECTs with a session that had ended or was never there; they got a new one",
            engine.resumes_refused,
        ),
        Sample(
            Counter,
            "sessions_expired",
            "Detached sessions that ended because nobody resumed them in time",
            engine.windows_ended,
        ),
        Sample(
            Gauge,
            "session_records_ending",
            "Records of sessions in Redis that are to be removed and that Redis has not removed yet",
            engine.records_ending,
        ),
        Sample(
            Counter,
            "session_records_left",
            "Records of sessions that stay in Redis until this node ends, because too many waited to be removed",
            engine.records_left,
        ),
        Sample(Gauge, "sockets", "Open sockets, including those that are closing", shards.sockets),
        Sample(
            Gauge,
            "addresses",
            "Client addresses with at least one connection or detached session; 0 unless a limit for each address is configured",
            stats.addresses,
        ),
        Sample(Gauge, "subscriptions", "Subscriptions of all connections", engine.subscriptions),
        Sample(
            Gauge,
            "targets",
            "Distinct channels and patterns with subscribers, summed over the shards",
            engine.targets,
        ),
        Sample(
            Gauge,
            "views",
            "Distinct views (server view and client filter together), summed over the shards",
            engine.views,
        ),
        Sample(
            Gauge,
            "entities",
            "Entities of subscribed entity channels, summed over the shards",
            engine.entities,
        ),
        Sample(
            Gauge,
            "filter_work_steps",
            "Steps that evaluating the unindexed filters of one event takes, on the most expensive channel",
            engine.filter_work,
        ),
        Sample(
            Gauge,
            "outbound_queue_bytes",
            "Bytes of events in outbound queues, waiting for a window or a slow reader",
            engine.queued_bytes,
        ),
        Sample(
            Counter,
            "entity_enters",
            "Entities that came into a client's view, snapshots included",
            engine.view_enters,
        ),
        Sample(Counter, "entity_leaves", "Entities that went out of a client's view", engine.view_leaves),
        Sample(Counter, "entity_snapshots", "Snapshots of entity channels started", engine.snapshots),
        Sample(
            Counter,
            "events_conflated",
            "Events replaced by a newer one with the same key before they were sent",
            engine.conflated,
        ),
        Sample(
            Counter,
            "events_shed",
            "Events dropped because the client reads too slowly; the client receives RESYNC",
            engine.shed,
        ),
        Sample(
            Gauge,
            "presence_members",
            "Sessions present on channels, each once for each channel",
            engine.present,
        ),
        Sample(
            Gauge,
            "presence_writes_pending",
            "Sessions that joined or left a channel, and whose change Redis does not have yet",
            engine.presence_waiting,
        ),
        Sample(
            Gauge,
            "presence_reads_pending",
            "PRESENCE_GET requests that are not answered, and fences behind their answers",
            engine.presence_reads,
        ),
        Sample(
            Counter,
            "presence_notices",
            "PRESENCE_CHANGED messages enqueued for connections",
            engine.presence_notices,
        ),
        Sample(Gauge, "timers", "Armed timers", engine.timers),
        Sample(
            Gauge,
            "outbound_frame_bytes",
            "Bytes of frames that wait for sockets that accept no more data",
            engine.frame_bytes,
        ),
        Sample(
            Gauge,
            "publishes_in_flight",
            "Publishes that Redis has not answered",
            engine.publishing + stats.bus_tickets,
        ),
        Sample(
            Gauge,
            "logs",
            "Channels with history whose place in the log the shards know, summed over the shards",
            engine.logs,
        ),
        Sample(
            Gauge,
            "sessions_catching_up",
            "Sessions that are sent what they missed, each once for each channel",
            engine.catching_up,
        ),
        Sample(
            Gauge,
            "history_requests",
            "HISTORY_GET requests that wait for their answer",
            engine.histories,
        ),
        Sample(
            Counter,
            "events_replayed",
            "Logged events sent again to sessions that catch up",
            engine.replayed,
        ),
        Sample(
            Gauge,
            "requests_deferred",
            "Requests that wait for an earlier request of their connection",
            engine.deferred,
        ),
        Sample(Counter, "requests", "Requests received from clients", engine.requests),
        Sample(Counter, "messages_invalid", "Messages rejected with BAD_MESSAGE", engine.bad_messages),
        Sample(Counter, "requests_rate_limited", "Requests rejected with RATE_LIMITED", engine.rate_limited),
        Sample(Counter, "requests_forbidden", "Requests rejected with FORBIDDEN", engine.forbidden),
        Sample(
            Counter,
            "publications",
            "Events received from the broker, counted once for each shard with subscribers",
            engine.publications,
        ),
        Sample(Counter, "deliveries", "Events enqueued for connections", engine.deliveries),
        Sample(
            Counter,
            "events_hidden",
            "Events not delivered to a subscriber because of a view or a rule",
            engine.hidden,
        ),
        Sample(Counter, "resyncs", "RESYNC messages sent", engine.resyncs),
        Sample(
            Counter,
            "publishes_acknowledged",
            "Publishes of clients that Redis accepted",
            engine.published,
        ),
        Sample(Counter, "publishes_failed", "Publishes of clients that failed", engine.publish_failures),
        Sample(
            Counter,
            "slow_consumers",
            "Connections closed because they read too slowly (4001)",
            engine.slow_consumers,
        ),
        Sample(
            Counter,
            "too_many_connections",
            "Connections closed because their player had too many (4506)",
            engine.too_many_connections,
        ),
        Sample(
            Counter,
            "heartbeats_missed",
            "Connections closed because they answered no heartbeat (4002)",
            engine.heartbeats_missed,
        ),
        Sample(Counter, "socket_writes", "Writes to sockets", shards.writes),
        Sample(
            Counter,
            "entity_states_superseded",
            "Entity states skipped because a newer one waited for the same lagging shard",
            shards.superseded,
        ),
        Sample(Counter, "socket_sent_bytes", "Bytes of WebSocket frames sent", shards.bytes_out),
        Sample(Counter, "socket_received_bytes", "Bytes of WebSocket frames received", shards.bytes_in),
        Sample(
            Counter,
            "socket_inflated_bytes",
            "Bytes of clients' compressed messages after decompression",
            shards.bytes_inflated,
        ),
        Sample(
            Counter,
            "socket_skipped_bytes",
            "Bytes discarded after a close while waiting for the client's close frame",
            shards.bytes_skipped,
        ),
        Sample(Counter, "sockets_accepted", "Sockets accepted", stats.accepted),
        Sample(
            Gauge,
            "connections_unauthenticated",
            "Connections on the players' port without a valid token yet, including handshakes",
            stats.unauthenticated,
        ),
        Sample(Counter, "player_commands", "Player commands delivered to the shards", stats.broker.commands),
        Sample(
            Counter,
            "player_commands_failed",
            "Player commands that were malformed or could not be delivered to every shard",
            stats.broker.bad_commands,
        ),
        Sample(
            Gauge,
            "broker_ok",
            "1 while all connections to Redis work, otherwise 0",
            u64::from(stats.broker_ok),
        ),
    ]
    .into_iter()
    .chain(broker_samples(broker))
    .collect()
}

fn broker_samples(broker: &BrokerStats) -> Vec<Sample> {
    use MetricKind::{Counter, Gauge};
    vec![
        Sample(
            Gauge,
            "redis_subscriptions",
            "Channels and patterns that this node is subscribed to in Redis or is subscribing to",
            broker.subjects,
        ),
        Sample(Gauge, "redis_subscriptions_live", "Subscriptions confirmed by Redis", broker.live),
        Sample(
            Gauge,
            "redis_patterns",
            "Patterns subscribed in Redis; together they cover all patterns of the clients",
            broker.pattern_cover,
        ),
        Sample(
            Gauge,
            "pattern_channels",
            "Channels whose events are numbered because a pattern covers them",
            broker.pattern_channels,
        ),
        Sample(
            Gauge,
            "redis_queries_pending",
            "Reads of entity tables and view overrides that Redis has not answered",
            broker.queries,
        ),
        Sample(
            Counter,
            "redis_messages_received",
            "Messages received from Redis subscriptions, duplicates included",
            broker.received,
        ),
        Sample(Counter, "redis_reconnects", "Connections to Redis that were lost", broker.reconnects),
        Sample(Counter, "redis_link_moves", "Moves of the links to another thread", broker.moves),
        Sample(
            Counter,
            "dropped_oversized",
            "Payloads dropped because they exceed external_bytes",
            broker.dropped_oversized,
        ),
        Sample(
            Counter,
            "dropped_unreadable",
            "Payloads dropped because they are not a valid envelope",
            broker.dropped_unreadable,
        ),
        Sample(
            Counter,
            "dropped_bad_name",
            "Payloads dropped because their channel's name is invalid or too long",
            broker.dropped_bad_name,
        ),
        Sample(
            Counter,
            "dropped_foreign_name",
            "Payloads dropped because their channel's name does not begin with channel_prefix",
            broker.dropped_foreign_name,
        ),
        Sample(Gauge, "table_entities", "Entities in the node's tables", broker.entities),
        Sample(
            Counter,
            "dropped_bad_key",
            "Events of entity channels dropped because they have no valid key",
            broker.dropped_bad_key,
        ),
        Sample(
            Counter,
            "dropped_bad_position",
            "Events of entity channels dropped because they have no valid position",
            broker.dropped_bad_position,
        ),
        Sample(
            Counter,
            "dropped_full",
            "Events of entity channels dropped because entity_max or entity_bytes is reached",
            broker.dropped_full,
        ),
        Sample(
            Counter,
            "table_gaps",
            "Entity tables read again because an event was missing",
            broker.table_gaps,
        ),
        Sample(
            Counter,
            "log_reads",
            "Readings of logs: of positions, and of pages for subscribers that catch up",
            broker.log_reads,
        ),
        Sample(
            Counter,
            "log_pages_from_memory",
            "Pages of logs for subscribers that catch up, made of events in memory without a reading",
            broker.log_pages_from_memory,
        ),
        Sample(
            Gauge,
            "log_tail_bytes",
            "Bytes of the newest logged events that are kept for subscribers that catch up soon",
            broker.log_tail_bytes,
        ),
        Sample(
            Counter,
            "log_gaps",
            "Positions of logs read again because a logged event did not follow the one before",
            broker.log_gaps,
        ),
        Sample(
            Counter,
            "dropped_forged",
            "Events dropped because they name a place in a log that the log does not have",
            broker.dropped_forged,
        ),
        Sample(
            Counter,
            "dropped_volatile",
            "Plain PUBLISHes dropped on channels with plain_publish = \"ignore\"",
            broker.dropped_volatile,
        ),
        Sample(
            Gauge,
            "pattern_logs",
            "Channels with history that only patterns cover and whose place in the log is known",
            broker.pattern_logs,
        ),
        Sample(
            Gauge,
            "table_entity_bytes",
            "Bytes of the entities in the node's tables",
            broker.entity_bytes,
        ),
        Sample(
            Counter,
            "stored_values_invalid",
            "Entities and view overrides in Redis that were ignored because Drawbridge did not write them",
            broker.bad_stored,
        ),
        Sample(
            Counter,
            "redis_functions_replaced",
            "Redis functions replaced because they were not Drawbridge's",
            broker.functions_replaced,
        ),
        Sample(Gauge, "redis_sentinels", "Sentinels that answer this node", broker.sentinels),
        Sample(
            Counter,
            "redis_master_changes",
            "Failovers: the sentinels named another master than before",
            broker.master_changes,
        ),
        Sample(Counter, "lease_renewals", "Renewals of this node's lease in Redis", broker.lease_renewals),
        Sample(
            Counter,
            "lease_renewals_late",
            "Renewals of this node's lease that came late, near the time after which it counts as dead",
            broker.lease_renewals_late,
        ),
        Sample(
            Counter,
            "dead_nodes_cleaned",
            "Dead nodes behind which this node has removed what they left in Redis",
            broker.dead_nodes,
        ),
        Sample(
            Counter,
            "session_windows",
            "Sessions in Redis that got their resume window because their node died or ended",
            broker.session_windows,
        ),
        Sample(
            Counter,
            "dropped_to_shards",
            "Events dropped because a shard's queue was full; clients receive RESYNC",
            broker.dropped_to_shards,
        ),
        Sample(
            Gauge,
            "shard_queue_bytes",
            "Bytes of events that wait for the shards",
            broker.shard_queue_bytes,
        ),
        Sample(
            Gauge,
            "publish_queue_bytes",
            "Bytes of publishes that Redis has not answered",
            broker.publish_queue_bytes,
        ),
        Sample(
            Counter,
            "redis_writes_accepted",
            "Writes that Redis accepted: publishes, entity commits, view overrides and lifecycle entries",
            broker.published,
        ),
        Sample(
            Counter,
            "redis_writes_refused",
            "Writes that Redis refused: publishes, entity commits, view overrides and lifecycle entries",
            broker.publish_refused,
        ),
        Sample(
            Counter,
            "redis_writes_not_done",
            "Writes that did not happen because Redis was away or busy, or the queue was full: publishes, entity commits, view overrides and lifecycle entries",
            broker.publish_not_done,
        ),
        Sample(
            Counter,
            "publishes_local",
            "Publishes delivered on this node alone because Redis was away (when_broker_down = local)",
            broker.published_locally,
        ),
        Sample(
            Gauge,
            "lifecycle_entries_pending",
            "Entries of the lifecycle stream that Redis has not accepted",
            broker.lifecycle_waiting,
        ),
        Sample(
            Counter,
            "lifecycle_entries_lost",
            "Entries of the lifecycle stream dropped because too many waited or the node stopped",
            broker.lifecycle_lost,
        ),
        Sample(
            Counter,
            "redis_writes_unknown",
            "Writes whose answer was lost with the connection: publishes, entity commits, view overrides and lifecycle entries",
            broker.publish_unknown,
        ),
    ]
}
