//! `watch`: a crowd on one channel in which everybody looks at a part of it, by a filter or an area, and what each is
//! shown is counted and timed. What is published is `act`'s.

use std::io;

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::client::{self, Crowd, Join, Member, Target};
use crate::event;
use crate::subscribe::{Latency, MAX_LATENCY_NS};

/// The flags of `watch`.
#[derive(Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    target: Target,
    /// The channel; with `own`, what each player's channel begins with
    #[arg(long, default_value = "watch:0")]
    channel: String,
    /// What each connection looks at
    #[arg(long, value_enum)]
    view: View,
    /// How many connections are shown the same event, with `filter`
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    together: u32,
    /// The side of the square in which areas lie, with `area`
    #[arg(long, default_value_t = 1000.0)]
    side: f64,
    /// The radius of an area
    #[arg(long, default_value_t = 40.0)]
    radius: f64,
}

/// What a connection looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum View {
    /// Everything
    All,
    /// A channel of its own
    Own,
    /// Its own name or that of a group of `together`: a filter that no other connection has
    Filter,
    /// A circle of its own
    Area,
    /// A circle around the entity of its own number
    Follow,
}

/// Joins, then counts until standard input ends.
pub(crate) fn run(args: WatchArgs) -> io::Result<()> {
    let latency = Histogram::new_with_max(MAX_LATENCY_NS, 3).map_err(io::Error::other)?;
    let target = args.target.clone();
    client::run(target, Join::Message, Watchers { args, events: 0, wrong: 0, latency })
}

struct Watchers {
    args: WatchArgs,
    events: u64,
    wrong: u64,
    latency: Histogram<u64>,
}

#[derive(Serialize)]
pub(crate) struct Report {
    /// Events that carry a stamp.
    events: u64,
    /// Events that the connection's filter does not let through.
    wrong: u64,
    latency_us: Latency,
}

impl Watchers {
    /// The view of a connection, as its `CHANNEL_SUBSCRIBE` says it.
    fn view(&self, index: usize) -> Map<String, Value> {
        let number = self.args.target.first as usize + index;
        let view = match self.args.view {
            View::All | View::Own => json!({}),
            View::Filter => {
                json!({ "filter": format!("data.id in ['p{number}', '{}']", self.group(number)) })
            }
            View::Area => {
                let [x, y] = place(number).map(|at| at * self.args.side);
                json!({ "area": { "x": x, "y": y, "radius": self.args.radius } })
            }
            View::Follow => json!({ "area": { "follow": format!("e{number}"), "radius": self.args.radius } }),
        };
        view.as_object().cloned().unwrap_or_default()
    }

    fn group(&self, number: usize) -> String {
        format!("g{}", number / self.args.together as usize)
    }
}

/// Somewhere in the unit square, always the same for a number: points that lie evenly (the R2 sequence).
pub(crate) fn place(number: usize) -> [f64; 2] {
    const STEPS: [f64; 2] = [0.754_877_666_246_692_8, 0.569_840_290_998_053_3];
    STEPS.map(|step| (0.5 + step * number as f64).fract())
}

impl Crowd for Watchers {
    type Report = Report;

    fn member(&self, index: usize) -> Member {
        let number = self.args.target.first as usize + index;
        let channel = match self.args.view {
            View::Own => format!("{}{number}", self.args.channel),
            _ => self.args.channel.clone(),
        };
        Member {
            player: format!("load-{number}"),
            claims: Map::new(),
            channels: vec![channel],
            view: self.view(index),
        }
    }

    fn event(&mut self, index: usize, now: u64, text: &[u8]) {
        let Some(stamp) = event::stamp(text) else {
            self.wrong += 1;
            return;
        };
        self.events += 1;
        self.latency.saturating_record(now.saturating_sub(stamp.sent));
        if self.args.view == View::Filter {
            let number = self.args.target.first as usize + index;
            let id = format!(r#""id":"{}""#, self.group(number));
            self.wrong += u64::from(memchr::memmem::find(text, id.as_bytes()).is_none());
        }
    }

    fn report(&mut self) -> Report {
        let latency_us = Latency::of(&self.latency);
        self.latency.reset();
        Report {
            events: std::mem::take(&mut self.events),
            wrong: std::mem::take(&mut self.wrong),
            latency_us,
        }
    }
}
