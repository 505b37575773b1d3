//! Metrics as text, made from plain numbers on request; nothing is counted here. `docs/metrics.md` describes each metric, and a
//! test compares it with what is written here. Which metrics there are is in [`samples`].

mod samples;

use std::borrow::Cow;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use self::samples::{MetricKind, Sample, refusals, samples};
use crate::broker::{LinkStats, PROBE_BUCKETS, ProbeStats};
use crate::node::NodeStats;

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
        let families: [(MetricKind, &str, &str, Value); 5] = [
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
            (
                MetricKind::Gauge,
                "redis_link_waiting_for_slots",
                "Subscriptions and requests that wait for slots of a Redis Cluster",
                |link| link.waiting_for_slots,
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

#[cfg(test)]
mod tests;
