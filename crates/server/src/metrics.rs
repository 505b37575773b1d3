//! Metrics in OpenMetrics text, made from plain numbers on request; nothing is counted here.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::node::NodeStats;
use crate::shard::ShardStats;

/// All of a node's metrics as text.
pub fn encode(stats: &NodeStats) -> String {
    let mut registry = Registry::with_prefix("drawbridge");
    registry.register_collector(Box::new(Snapshot { samples: samples(stats), refusals: refusals(stats) }));
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Debug, Clone, Copy)]
enum MetricKind {
    Gauge,
    Counter,
}

#[derive(Debug)]
struct Sample(MetricKind, &'static str, &'static str, u64);

#[derive(Debug)]
struct Snapshot {
    samples: Vec<Sample>,
    /// By reason.
    refusals: Vec<(&'static str, u64)>,
}

/// Refusals of the node and of its engines.
fn refusals(stats: &NodeStats) -> Vec<(&'static str, u64)> {
    let tokens = stats.shards.iter().map(|shard| shard.engine.tokens_refused).sum();
    stats.refusals.into_iter().chain([("token", tokens)]).collect()
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Sample(kind, name, help, value) in &self.samples {
            match kind {
                MetricKind::Gauge => {
                    let metric = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
                    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
                }
                MetricKind::Counter => {
                    let metric = ConstCounter::new(*value);
                    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
                }
            }
        }
        let help = "Connections and requests refused";
        let mut refused = encoder.encode_descriptor("refused", help, None, MetricType::Counter)?;
        for (reason, count) in &self.refusals {
            ConstCounter::new(*count).encode(refused.encode_family(&[("reason", *reason)])?)?;
        }
        Ok(())
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
        Sample(Gauge, "connections", "Connections, in any phase", engine.connections),
        Sample(Gauge, "connections_open", "Connections whose WELCOME was sent", engine.welcomed),
        Sample(Gauge, "sockets", "Sockets, closing ones included", shards.sockets),
        Sample(
            Gauge,
            "addresses",
            "Addresses that hold a connection, where they are counted",
            stats.addresses,
        ),
        Sample(Gauge, "subscriptions", "Subscriptions of connections", engine.subscriptions),
        Sample(Gauge, "targets", "Distinct channels and patterns, summed over the shards", engine.targets),
        Sample(Gauge, "views", "Distinct views, summed over the shards", engine.views),
        Sample(Gauge, "entities", "Entities of entity channels, summed over the shards", engine.entities),
        Sample(
            Gauge,
            "filter_work",
            "What asking the filters that no index answers costs an event, of the dearest channel",
            engine.filter_work,
        ),
        Sample(
            Gauge,
            "due_bytes",
            "Bytes of events that wait for a window or a slow reader",
            engine.queued_bytes,
        ),
        Sample(Counter, "view_enters", "Entities told to have come into view", engine.view_enters),
        Sample(Counter, "view_leaves", "Entities told to have gone out of view", engine.view_leaves),
        Sample(Counter, "view_snapshots", "Snapshots of entity channels begun", engine.snapshots),
        Sample(Counter, "conflated", "Events that a newer one of their key replaced", engine.conflated),
        Sample(Counter, "given_up", "Events given up for readers that do not read; RESYNC told", engine.shed),
        Sample(Gauge, "timers", "Timers armed", engine.timers),
        Sample(
            Gauge,
            "outbound_bytes",
            "Bytes that wait for sockets that do not take them",
            engine.frame_bytes,
        ),
        Sample(
            Gauge,
            "publishes_in_flight",
            "Publishes whose answer is out",
            engine.publishing + stats.bus_tickets,
        ),
        Sample(Gauge, "requests_deferred", "Requests that wait for an earlier one", engine.deferred),
        Sample(Counter, "requests", "Requests of clients", engine.requests),
        Sample(Counter, "bad_messages", "Messages that are not of the contract", engine.bad_messages),
        Sample(Counter, "rate_limited", "Requests over a rate limit", engine.rate_limited),
        Sample(Counter, "forbidden", "Requests that rights do not allow", engine.forbidden),
        Sample(
            Counter,
            "publications",
            "Events from the broker, once for each shard concerned",
            engine.publications,
        ),
        Sample(Counter, "deliveries", "Events queued to connections", engine.deliveries),
        Sample(Counter, "hidden", "Events that a view or a right hid from a subscriber", engine.hidden),
        Sample(Counter, "resyncs", "RESYNC messages", engine.resyncs),
        Sample(Counter, "published", "Publishes of clients that were acknowledged", engine.published),
        Sample(Counter, "publish_failures", "Publishes of clients that failed", engine.publish_failures),
        Sample(
            Counter,
            "slow_consumers",
            "Connections closed because they did not read (4001)",
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
            "Connections closed because they were silent (4002)",
            engine.heartbeats_missed,
        ),
        Sample(Counter, "socket_writes", "Writes to sockets", shards.writes),
        Sample(
            Counter,
            "outdated",
            "States of entities dropped because a shard was behind and newer ones waited",
            shards.superseded,
        ),
        Sample(Counter, "socket_bytes_out", "Bytes of frames written", shards.bytes_out),
        Sample(Counter, "socket_bytes_in", "Bytes of frames read", shards.bytes_in),
        Sample(
            Counter,
            "socket_bytes_inflated",
            "Bytes that clients' compressed messages were inflated to",
            shards.bytes_inflated,
        ),
        Sample(
            Counter,
            "socket_bytes_skipped",
            "Bytes read after a close and skipped to find the client's close frame",
            shards.bytes_skipped,
        ),
        Sample(Counter, "accepted", "Sockets taken in", stats.accepted),
        Sample(
            Gauge,
            "connections_unauthenticated",
            "Connections on the players' port without an accepted token, handshakes included",
            stats.unauthenticated,
        ),
        Sample(Counter, "commands", "Player commands carried out", stats.broker.commands),
        Sample(Counter, "bad_commands", "Player commands that could not be read", stats.broker.bad_commands),
        Sample(Gauge, "broker_ok", "1 while Redis is there", u64::from(stats.broker_ok)),
    ]
    .into_iter()
    .chain(broker_samples(broker))
    .collect()
}

fn broker_samples(broker: &crate::broker::BrokerStats) -> Vec<Sample> {
    use MetricKind::{Counter, Gauge};
    let round_trip_us = broker.round_trip.map_or(0, |time| time.as_micros() as u64);
    vec![
        Sample(
            Gauge,
            "redis_subscriptions",
            "Channels and patterns known to the links to Redis",
            broker.subjects,
        ),
        Sample(Gauge, "redis_subscriptions_live", "Of these, confirmed by Redis", broker.live),
        Sample(
            Gauge,
            "redis_patterns",
            "Patterns that Redis holds to cover all that players are subscribed to",
            broker.pattern_cover,
        ),
        Sample(
            Gauge,
            "pattern_channels",
            "Channels counted because patterns cover them",
            broker.pattern_channels,
        ),
        Sample(Gauge, "redis_questions", "Tables and players' views that are asked for", broker.queries),
        Sample(
            Counter,
            "redis_received",
            "Publications received from Redis, every copy counted",
            broker.received,
        ),
        Sample(
            Counter,
            "redis_reconnects",
            "Links and command connections that were lost",
            broker.reconnects,
        ),
        Sample(Counter, "redis_link_moves", "How often the links moved to another thread", broker.moves),
        Sample(Gauge, "redis_round_trip_microseconds", "The slowest link's last round trip", round_trip_us),
        Sample(Counter, "dropped_oversized", "Payloads over external_bytes", broker.dropped_oversized),
        Sample(
            Counter,
            "dropped_unreadable",
            "Payloads that an envelope class could not read",
            broker.dropped_unreadable,
        ),
        Sample(
            Counter,
            "dropped_bad_name",
            "Payloads on channels whose names are not well formed",
            broker.dropped_bad_name,
        ),
        Sample(Gauge, "table_entities", "Entities of the node's tables", broker.entities),
        Sample(
            Counter,
            "dropped_bad_key",
            "Events of entity channels without a good key",
            broker.dropped_bad_key,
        ),
        Sample(
            Counter,
            "dropped_bad_position",
            "Events of entity channels without a good position",
            broker.dropped_bad_position,
        ),
        Sample(
            Counter,
            "dropped_full",
            "Events of entities beyond entity_max or entity_bytes",
            broker.dropped_full,
        ),
        Sample(Counter, "table_gaps", "Tables read anew because an event was missing", broker.table_gaps),
        Sample(
            Gauge,
            "table_entity_bytes",
            "Bytes of the entities of the node's tables",
            broker.entity_bytes,
        ),
        Sample(
            Counter,
            "bad_stored",
            "Entities and players' views in Redis that are not as Drawbridge writes them, and are not used",
            broker.bad_stored,
        ),
        Sample(
            Counter,
            "redis_functions_replaced",
            "Functions in Redis that were not Drawbridge's and were replaced",
            broker.functions_replaced,
        ),
        Sample(
            Counter,
            "dropped_to_shards",
            "Events dropped because a shard was behind; RESYNC told",
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
            "Bytes of publishes that are not answered",
            broker.publish_queue_bytes,
        ),
        Sample(Counter, "redis_published", "Publishes and appends that Redis has taken", broker.published),
        Sample(
            Counter,
            "redis_publish_refused",
            "Publishes and appends that Redis refused",
            broker.publish_refused,
        ),
        Sample(
            Counter,
            "redis_publish_not_done",
            "Publishes and appends that did not happen",
            broker.publish_not_done,
        ),
        Sample(
            Gauge,
            "lifecycle_waiting",
            "Entries of the lifecycle stream that Redis has not taken yet",
            broker.lifecycle_waiting,
        ),
        Sample(
            Counter,
            "lifecycle_lost",
            "Entries of the lifecycle stream that were dropped: too many waited, or the node ended",
            broker.lifecycle_lost,
        ),
        Sample(
            Counter,
            "redis_publish_unknown",
            "Publishes and appends of which nobody knows",
            broker.publish_unknown,
        ),
    ]
}
