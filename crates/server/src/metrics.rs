//! Metrics as text, made from plain numbers on request; nothing is counted here. `docs/metrics.md` describes each metric, and a
//! test compares it with what is written here.

use std::borrow::Cow;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::broker::{LinkStats, PROBE_BUCKETS, ProbeStats};
use crate::node::NodeStats;
use crate::shard::ShardStats;

/// The formats that scrapers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0: a counter's `# TYPE` line names it without `_total`, and `# EOF` ends the text.
    OpenMetrics,
    /// Prometheus' text format 0.0.4: the `# TYPE` line names the sample, so a counter's has `_total`. With another name
    /// scrapers take the counter for untyped.
    Prometheus,
}

/// All of a node's metrics as text.
pub fn encode(stats: &NodeStats, format: MetricsFormat) -> String {
    let mut registry = Registry::with_prefix("drawbridge");
    registry.register_collector(Box::new(Snapshot {
        format,
        samples: samples(stats),
        refusals: refusals(stats),
        round_trip: stats.broker.round_trip,
        probes: stats.broker.probes.clone(),
        links: stats.broker.links.clone(),
    }));
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = match format {
        MetricsFormat::OpenMetrics => text::encode(&mut text, &registry),
        MetricsFormat::Prometheus => text::encode_registry(&mut text, &registry),
    };
    text
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Gauge,
    Counter,
}

#[derive(Debug)]
struct Sample(MetricKind, &'static str, &'static str, u64);

#[derive(Debug)]
struct Snapshot {
    format: MetricsFormat,
    samples: Vec<Sample>,
    /// By reason.
    refusals: Vec<(&'static str, u64)>,
    /// Of the slowest link; `None`: not measured, and left out.
    round_trip: Option<Duration>,
    /// Of each link that is probed.
    probes: Vec<ProbeStats>,
    links: Vec<LinkStats>,
}

/// Refusals of the node and of its engines.
fn refusals(stats: &NodeStats) -> Vec<(&'static str, u64)> {
    let tokens = stats.shards.iter().map(|shard| shard.engine.tokens_refused).sum();
    stats.refusals.into_iter().chain([("token", tokens)]).collect()
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Sample(kind, name, help, value) in &self.samples {
            let (name, metric_type) = self.described(*kind, name);
            self.encode_value(*kind, *value, encoder.encode_descriptor(&name, help, None, metric_type)?)?;
        }
        if let Some(round_trip) = self.round_trip {
            let (name, help) = ("redis_round_trip_seconds", "Last measured round trip of the slowest link");
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(round_trip.as_secs_f64()).encode(metric)?;
        }
        self.encode_probes(&mut encoder)?;
        self.encode_links(&mut encoder)?;
        let (name, metric_type) = self.described(MetricKind::Counter, "refused");
        let help = "Connections and requests refused, by reason";
        let mut refused = encoder.encode_descriptor(&name, help, None, metric_type)?;
        for (reason, count) in &self.refusals {
            let labels = [("reason", *reason)];
            self.encode_value(MetricKind::Counter, *count, refused.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Snapshot {
    fn encode_probes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if self.probes.is_empty() {
            return Ok(());
        }
        let (name, help) = ("redis_probe_seconds", "Time from publishing a delivery probe to its arrival");
        let mut histogram = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for probes in &self.probes {
            let bounds = PROBE_BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(probes.arrived).collect();
            let (sum, count) = (probes.micros as f64 / 1e6, probes.arrived.iter().sum());
            let labels = [("link", probes.link.to_string())];
            histogram.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        let (name, metric_type) = self.described(MetricKind::Counter, "redis_probes_missing");
        let help = "Delivery probes that Redis accepted and that did not arrive";
        let mut missing = encoder.encode_descriptor(&name, help, None, metric_type)?;
        for probes in &self.probes {
            let labels = [("link", probes.link.to_string())];
            self.encode_value(MetricKind::Counter, probes.missing, missing.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_links(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Value = fn(&LinkStats) -> u64;
        let families: [(MetricKind, &str, &str, Value); 4] = [
            (MetricKind::Gauge, "redis_link_up", "Links that are connected and subscribed", |link| {
                link.is_up.into()
            }),
            (MetricKind::Gauge, "redis_link_subscriptions", "Channels and patterns of a link", |link| {
                link.subjects
            }),
            (MetricKind::Counter, "redis_link_messages", "Messages received on a link", |link| link.received),
            (
                MetricKind::Counter,
                "redis_link_subscriptions_moved",
                "Subscriptions that came to a link with slots of a Redis Cluster",
                |link| link.moved,
            ),
        ];
        for (kind, name, help, value) in families {
            let (name, metric_type) = self.described(kind, name);
            let mut family = encoder.encode_descriptor(&name, help, None, metric_type)?;
            for link in &self.links {
                // A counter goes on when the link gets another master.
                let master = if kind == MetricKind::Gauge { link.master.as_str() } else { "" };
                let all = [("link", link.link.to_string()), ("master", master.to_owned())];
                let labels = if master.is_empty() { &all[..1] } else { &all[..] };
                self.encode_value(kind, value(link), family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// The name and type in the `# TYPE` line.
    fn described<'n>(&self, kind: MetricKind, name: &'n str) -> (Cow<'n, str>, MetricType) {
        match (kind, self.format) {
            (MetricKind::Gauge, _) => (name.into(), MetricType::Gauge),
            (MetricKind::Counter, MetricsFormat::OpenMetrics) => (name.into(), MetricType::Counter),
            (MetricKind::Counter, MetricsFormat::Prometheus) => {
                (format!("{name}_total").into(), MetricType::Counter)
            }
        }
    }

    fn encode_value(
        &self,
        kind: MetricKind,
        value: u64,
        metric: MetricEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        match (kind, self.format) {
            (MetricKind::Counter, MetricsFormat::OpenMetrics) => ConstCounter::new(value).encode(metric),
            // Why: as a counter it would get `_total` a second time.
            (MetricKind::Counter, MetricsFormat::Prometheus) | (MetricKind::Gauge, _) => {
                ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
            }
        }
    }
}

fn samples(stats: &NodeStats) -> Vec<Sample> {
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

fn broker_samples(broker: &crate::broker::BrokerStats) -> Vec<Sample> {
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

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
