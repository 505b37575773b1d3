//! `subscribe`: a crowd that is spread evenly over the channels and checks every event it gets: the publisher's
//! numbers and the node's offsets go up by one, and the time since it was published goes into a histogram. With
//! `filter`, connections are in groups, and each gets the events for its group: one of every so many.

use std::io;

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, json};

use crate::channels::Channels;
use crate::client::{self, Crowd, Join, Member, Subscription, Target};
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
    /// Each connection has a filter that no other has, and which lets through what is for its group (needs `join message`)
    #[arg(long, value_enum)]
    filter: Option<Filter>,
    /// How many connections of a channel are one group, with `filter`
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    together: u32,
    /// How many groups the publisher sends to, from the first on: its own `groups`
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    groups: u32,
}

/// What a connection's filter looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Filter {
    /// One field is one of two: `data.id in ['p17', 'g1']`
    Set,
    /// One field is this, and another is not that: `data.id == 'g1' && event != 'p17'`
    Pair,
}

impl Filter {
    /// The filter of this player, who is in this group.
    fn text(self, player: usize, group: u64) -> String {
        match self {
            Filter::Set => format!("data.id in ['p{player}', 'g{group}']"),
            Filter::Pair => format!("data.id == 'g{group}' && event != 'p{player}'"),
        }
    }
}

/// Joins the channels, then counts until standard input ends.
pub(crate) fn run(args: SubscribeArgs) -> io::Result<()> {
    if args.filter.is_some() && args.join != Join::Message {
        return Err(io::Error::other("a filter is said with `--join message`"));
    }
    let mut crowd = Subscribers {
        first: args.target.first as usize,
        begins: args.channels.names().map(|name| event_begins(&name)).collect(),
        channels: args.channels,
        filter: args.filter,
        together: args.together as usize,
        groups: u64::from(args.groups),
        progress: Vec::new(),
        counts: Counts::default(),
        latency: Histogram::new_with_max(MAX_LATENCY_NS, 3).map_err(io::Error::other)?,
    };
    crowd.progress = (0..args.target.connections as usize).map(|index| crowd.beginning(index)).collect();
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
    filter: Option<Filter>,
    together: usize,
    groups: u64,
    /// By connection.
    progress: Vec<Progress>,
    counts: Counts,
    latency: Histogram<u64>,
}

/// What a connection should get next.
#[derive(Debug)]
struct Progress {
    /// It gets one of so many events.
    step: u64,
    /// The number that comes first; `step` and beyond: none does.
    begins: u64,
    number: u64,
    /// Of the last event.
    offset: Option<u64>,
}

impl Progress {
    fn new(step: u64, begins: u64) -> Self {
        Progress { step, begins, number: begins, offset: None }
    }

    /// Whether this event is for the connection.
    fn takes(&self, stamp: &Stamp) -> bool {
        stamp.number % self.step == self.begins
    }
}

impl Subscribers {
    /// The group of a connection: those on a channel are in order.
    fn group(&self, index: usize) -> u64 {
        (index / self.channels.count() / self.together) as u64
    }

    fn beginning(&self, index: usize) -> Progress {
        match self.filter {
            Some(_) => Progress::new(self.groups, self.group(index)),
            None => Progress::new(1, 0),
        }
    }
}

/// What happened since the last report.
#[derive(Default, Serialize)]
struct Counts {
    /// Events of the connection's own channel that carry a stamp.
    events: u64,
    /// Events whose number shows that earlier ones are missing.
    gaps: u64,
    /// Events that came again or too late.
    disorders: u64,
    /// Events whose offset does not follow the one before.
    offset_breaks: u64,
    /// Events of another channel or group, or without a stamp.
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
        let player = self.first + index;
        let filter = self.filter.map(|filter| filter.text(player, self.group(index)));
        Member {
            player: format!("load-{player}"),
            claims: Map::from_iter([(claim, number.to_string().into())]),
            subscriptions: vec![Subscription { filter, ..Subscription::to(self.channels.name(number)) }],
        }
    }

    fn event(&mut self, index: usize, now: u64, text: &[u8]) {
        let begins = &self.begins[index % self.begins.len()];
        let stamp = event::stamp(text).filter(|_| text.starts_with(begins.as_bytes()));
        let progress = &mut self.progress[index];
        match stamp.filter(|stamp| progress.takes(stamp)) {
            Some(stamp) => {
                self.counts.events += 1;
                self.latency.saturating_record(now.saturating_sub(stamp.sent));
                self.counts.follow(progress, &stamp);
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
    /// Checks one event against what should come next. The connection's first number begins a new run of the
    /// publisher.
    fn follow(&mut self, progress: &mut Progress, stamp: &Stamp) {
        let anew = stamp.number == progress.begins;
        if stamp.number > progress.number {
            self.gaps += 1;
        } else if stamp.number < progress.number && !anew {
            self.disorders += 1;
        }
        progress.number = stamp.number + progress.step;
        // How many events others got between two runs is not known.
        let known = progress.step == 1 || !anew;
        if known && progress.offset.is_some_and(|last| stamp.offset != Some(last + progress.step)) {
            self.offset_breaks += 1;
        }
        progress.offset = stamp.offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stamps: &[(u64, Option<u64>)], gaps: u64, disorders: u64, offset_breaks: u64) {
        let (mut counts, mut progress) = (Counts::default(), Progress::new(1, 0));
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

    #[test]
    fn a_filtered_connection_gets_what_is_for_its_group() {
        let (mut counts, mut progress) = (Counts::default(), Progress::new(10, 3));
        let stamp = |number, offset| Stamp { sent: 0, number, offset: Some(offset) };
        for (number, offset) in [(3, 4), (13, 14), (3, 20), (13, 30)] {
            assert!(progress.takes(&stamp(number, offset)));
            counts.follow(&mut progress, &stamp(number, offset));
        }
        assert_eq!((counts.gaps, counts.disorders, counts.offset_breaks), (0, 0, 0));
        counts.follow(&mut progress, &stamp(33, 50));
        assert_eq!((counts.gaps, counts.disorders, counts.offset_breaks), (1, 0, 1));
        assert!(!progress.takes(&stamp(34, 51)));
        // Nothing is for a group that is not spoken to.
        let unspoken = Progress::new(10, 10);
        assert!((0..100).all(|number| !unspoken.takes(&stamp(number, 1))));
    }

    #[test]
    fn filters_differ_and_say_the_group() {
        assert_eq!(Filter::Set.text(17, 1), "data.id in ['p17', 'g1']");
        assert_eq!(Filter::Pair.text(17, 1), "data.id == 'g1' && event != 'p17'");
    }
}
