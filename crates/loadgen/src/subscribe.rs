//! `subscribe`: a crowd that is spread evenly over the channels and checks every event it gets: the publisher's
//! numbers and the node's offsets go up by one, and the time since it was published goes into a histogram.

use std::io;

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, json};

use crate::channels::Channels;
use crate::client::{self, Crowd, Join, Member, Target};
use crate::event::{self, Stamp};

/// Latencies above this are recorded as this.
pub(crate) const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// The flags of `subscribe`.
#[derive(Args)]
pub(crate) struct SubscribeArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    channels: Channels,
    /// How a connection comes to its channel
    #[arg(long, value_enum, default_value_t = Join::Claims)]
    join: Join,
}

/// Joins the channels, then counts until standard input ends.
pub(crate) fn run(args: SubscribeArgs) -> io::Result<()> {
    let crowd = Subscribers {
        first: args.target.first as usize,
        begins: args.channels.names().map(|name| event_begins(&name)).collect(),
        channels: args.channels,
        progress: vec![Progress::default(); args.target.connections as usize],
        counts: Counts::default(),
        latency: Histogram::new_with_max(MAX_LATENCY_NS, 3).map_err(io::Error::other)?,
    };
    client::run(args.target, args.join, crowd)
}

/// How an event of a channel begins, as JSON.
fn event_begins(channel: &str) -> String {
    format!(r#"{{"type":"EVENT","channel":{},"#, json!(channel))
}

struct Subscribers {
    first: usize,
    channels: Channels,
    /// By channel.
    begins: Vec<String>,
    /// By connection.
    progress: Vec<Progress>,
    counts: Counts,
    latency: Histogram<u64>,
}

/// What a connection should get next.
#[derive(Clone, Default)]
struct Progress {
    number: u64,
    offset: Option<u64>,
}

/// What happened since the last report.
#[derive(Default, Serialize)]
struct Counts {
    /// Events of the connection's own channel that carry a stamp.
    events: u64,
    /// Events whose number says that some before it did not come.
    gaps: u64,
    /// Events that came again or too late.
    disorders: u64,
    /// Events whose offset does not follow the one before.
    offset_breaks: u64,
    /// Events of another channel, or without a stamp.
    foreign: u64,
}

#[derive(Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    counts: Counts,
    latency_us: Latency,
}

#[derive(Serialize)]
pub(crate) struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    mean: f64,
}

impl Crowd for Subscribers {
    type Report = Report;

    /// The claim that fills a template like `room:{room}` is named as the channels' prefix is.
    fn member(&self, index: usize) -> Member {
        let number = index % self.channels.count();
        let claim = self.channels.channel_prefix.trim_end_matches(':').to_owned();
        Member {
            player: format!("load-{}", self.first + index),
            claims: Map::from_iter([(claim, number.to_string().into())]),
            channels: vec![self.channels.name(number)],
            view: Map::new(),
        }
    }

    fn event(&mut self, index: usize, now: u64, text: &[u8]) {
        let begins = &self.begins[index % self.begins.len()];
        match event::stamp(text).filter(|_| text.starts_with(begins.as_bytes())) {
            Some(stamp) => {
                self.counts.events += 1;
                self.latency.saturating_record(now.saturating_sub(stamp.sent));
                self.counts.follow(&mut self.progress[index], &stamp);
            }
            None => self.counts.foreign += 1,
        }
    }

    fn report(&mut self) -> Report {
        let latency_us = Latency::of(&self.latency);
        self.latency.reset();
        Report { counts: std::mem::take(&mut self.counts), latency_us }
    }
}

impl Latency {
    /// Of a histogram of nanoseconds.
    pub(crate) fn of(latency: &Histogram<u64>) -> Self {
        let quantile = |at| micros(latency.value_at_quantile(at));
        Latency {
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: micros(latency.max()),
            mean: latency.mean() / 1e3,
        }
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

impl Counts {
    /// Checks one event against what should come next. Number 0 begins a new run of the publisher.
    fn follow(&mut self, progress: &mut Progress, stamp: &Stamp) {
        if stamp.number > progress.number {
            self.gaps += 1;
        } else if stamp.number < progress.number && stamp.number != 0 {
            self.disorders += 1;
        }
        progress.number = stamp.number + 1;
        if progress.offset.is_some_and(|last| stamp.offset != Some(last + 1)) {
            self.offset_breaks += 1;
        }
        progress.offset = stamp.offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stamps: &[(u64, Option<u64>)], gaps: u64, disorders: u64, offset_breaks: u64) {
        let (mut counts, mut progress) = (Counts::default(), Progress::default());
        for (number, offset) in stamps {
            counts.follow(&mut progress, &Stamp { sent: 0, number: *number, offset: *offset });
        }
        assert_eq!((counts.gaps, counts.disorders, counts.offset_breaks), (gaps, disorders, offset_breaks));
    }

    #[test]
    fn loss_repetition_and_breaks_are_told_apart() {
        check(&[(0, Some(7)), (1, Some(8)), (0, Some(9)), (1, Some(10))], 0, 0, 0);
        check(&[(0, None), (1, None)], 0, 0, 0);
        check(&[(0, Some(1)), (2, Some(2))], 1, 0, 0);
        check(&[(0, Some(1)), (1, Some(2)), (1, Some(2))], 0, 1, 1);
        check(&[(0, Some(1)), (1, None)], 0, 0, 1);
    }
}
