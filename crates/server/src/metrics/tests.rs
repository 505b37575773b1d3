//! What `/metrics` prints in each format, and that the pages name metrics as it does.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::*;
use crate::broker::redis::{Library, Names};
use crate::broker::{BrokerStats, LinkStats};
use crate::refusals::Refusals;
use crate::shard::ShardStats;

/// Two that took less than a millisecond, one that took three seconds, and four that did not arrive.
fn probes() -> ProbeStats {
    let mut probes = ProbeStats { link: 1, micros: 3_001_500, missing: 4, ..ProbeStats::default() };
    (probes.arrived[2], probes.arrived[12]) = (2, 1);
    probes
}

fn stats(round_trip: Option<Duration>) -> NodeStats {
    NodeStats {
        shards: vec![ShardStats::default(); 2],
        broker: BrokerStats {
            published: 7,
            round_trip,
            probes: vec![probes()],
            links: links(),
            ..BrokerStats::default()
        },
        broker_ok: true,
        addresses: 0,
        accepted: 3,
        refusals: Refusals::default().counts(),
        unauthenticated: 0,
        bus_tickets: 0,
    }
}

fn printed(format: MetricsFormat) -> String {
    encode(&stats(Some(Duration::from_millis(1))), format)
}

/// The name, type and labels of each sample, with what the `# TYPE` line in front of it names.
fn samples_in(text: &str) -> BTreeMap<String, (String, String, BTreeSet<String>)> {
    let (mut found, mut family) = (BTreeMap::new(), ("", ""));
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            family = described.split_once(' ').unwrap();
        } else if !line.starts_with('#') {
            let (sample, _) = line.split_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            let labels = labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le").collect();
            // A histogram has several samples.
            let name = if family.1 == "histogram" { family.0 } else { name };
            found.insert(name.to_owned(), (family.0.to_owned(), family.1.to_owned(), labels));
        }
    }
    found
}

#[test]
fn both_formats_have_the_same_samples_and_their_own_type_lines() {
    let (open, plain) = (printed(MetricsFormat::OpenMetrics), printed(MetricsFormat::Prometheus));
    let values = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values(&open), values(&plain));
    assert!(open.ends_with("# EOF\n") && !plain.contains("# EOF"));
    for (name, (family, kind, _)) in samples_in(&plain) {
        assert_eq!(name, family, "in format 0.0.4 the type line names the sample");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
    for (name, (family, kind, _)) in samples_in(&open) {
        assert_eq!(name, if kind == "counter" { format!("{family}_total") } else { family });
    }
    for line in
        ["# TYPE drawbridge_redis_writes_accepted_total counter", "drawbridge_redis_writes_accepted_total 7"]
    {
        assert!(plain.lines().any(|other| other == line), "{line}");
    }
    assert!(
        plain.contains("# HELP drawbridge_refused_total ")
            && plain.contains("drawbridge_refused_total{reason=\"token\"} 0\n")
    );
}

#[test]
fn a_round_trip_that_was_not_measured_is_left_out() {
    let text = encode(&stats(None), MetricsFormat::Prometheus);
    assert!(!text.contains("redis_round_trip"));
    assert!(printed(MetricsFormat::Prometheus).contains("drawbridge_redis_round_trip_seconds 0.001\n"));
}

/// One of the pool, and one of a master.
fn links() -> Vec<LinkStats> {
    let of_master = LinkStats {
        link: 2,
        master: "h1:7".into(),
        is_up: true,
        subjects: 5,
        received: 6,
        moved: 3,
        waiting_for_slots: 4,
    };
    vec![LinkStats { link: 0, is_up: true, ..LinkStats::default() }, of_master]
}

#[test]
fn a_link_shows_its_master_where_that_breaks_no_counter() {
    let text = printed(MetricsFormat::Prometheus);
    for line in [
        r#"drawbridge_redis_link_up{link="0"} 1"#,
        r#"drawbridge_redis_link_up{link="2",master="h1:7"} 1"#,
        r#"drawbridge_redis_link_subscriptions{link="2",master="h1:7"} 5"#,
        r#"drawbridge_redis_link_messages_total{link="2"} 6"#,
        r#"drawbridge_redis_link_subscriptions_moved_total{link="2"} 3"#,
        r#"drawbridge_redis_link_waiting_for_slots{link="2",master="h1:7"} 4"#,
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in {text}");
    }
}

#[test]
fn a_links_probes_are_a_histogram() {
    let text = printed(MetricsFormat::Prometheus);
    for line in [
        r#"drawbridge_redis_probe_seconds_sum{link="1"} 3.0015"#,
        r#"drawbridge_redis_probe_seconds_count{link="1"} 3"#,
        r#"drawbridge_redis_probe_seconds_bucket{le="0.0005",link="1"} 0"#,
        r#"drawbridge_redis_probe_seconds_bucket{le="0.001",link="1"} 2"#,
        r#"drawbridge_redis_probe_seconds_bucket{le="1.0",link="1"} 2"#,
        r#"drawbridge_redis_probe_seconds_bucket{le="+Inf",link="1"} 3"#,
        r#"drawbridge_redis_probes_missing_total{link="1"} 4"#,
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in {text}");
    }
    let mut unprobed = stats(None);
    unprobed.broker.probes.clear();
    assert!(!encode(&unprobed, MetricsFormat::Prometheus).contains("probe"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The texts in backquotes in a cell.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_page_describes_each_metric_and_no_other() {
    let mut described = BTreeMap::new();
    let (page, text) = (page("docs/metrics.md"), printed(MetricsFormat::Prometheus));
    for line in page.lines().filter(|line| line.starts_with("| `drawbridge_")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, _, _] = cells[..] else { continue };
        assert!(!meaning.is_empty(), "{name}");
        let name = name.trim_matches('`').to_owned();
        let before = described.insert(name.clone(), (name, kind.to_owned(), quoted(labels)));
        assert_eq!(before, None, "described twice");
    }
    assert_eq!(described, samples_in(&text));
    let reasons = text.lines().filter_map(|line| line.strip_prefix("drawbridge_refused_total{reason="));
    for reason in reasons.filter_map(|rest| rest.split('"').nth(1)) {
        assert!(page.contains(&format!("| `{reason}` |")), "no row for the reason {reason}");
    }
}

/// The names with Drawbridge's prefix, except for parts of names, as in `drawbridge_…`.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("drawbridge_") && !word.ends_with('_')).map(str::to_owned).collect()
}

#[test]
fn pages_name_metrics_as_they_are_printed() {
    let names = Names::new("", "drawbridge:");
    let functions = names_in(&Library::new(&Default::default(), &names, 0).code());
    let samples = samples_in(&printed(MetricsFormat::Prometheus));
    let in_directory = |directory: &str| {
        let entries = std::fs::read_dir(root().join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let pages = ["README.md", "CHANGELOG.md", "ARCHITECTURE.md"].map(|name| root().join(name));
    let mut pages = pages.into_iter().chain(in_directory("docs")).chain(in_directory("docs/adr"));
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    for path in pages.by_ref().filter(is_page) {
        let text = std::fs::read_to_string(&path).unwrap();
        for name in names_in(&text) {
            let is_known = functions.contains(&name) || samples.contains_key(&name);
            assert!(is_known, "{}: {name} is no metric", path.display());
        }
    }
}
