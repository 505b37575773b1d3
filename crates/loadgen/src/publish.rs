//! `publish`: plain `PUBLISH`, `SPUBLISH` on one master of a Cluster, or the function `drawbridge_publish`, at a fixed rate. It is an open loop: nothing that happens to a message slows the
//! next one, and how far the publisher itself fell behind its schedule is reported. Each payload carries when it
//! was written and its number on its channel, for `subscribe` to check.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::channels::Channels;
use crate::console::say;
use crate::event::{self, unix_nanos};
use crate::redis::{self, Reply};

/// How long Redis may be silent, beside the time between two bursts.
pub(crate) const LAST_REPLY: Duration = Duration::from_secs(10);
/// What is lined up before it is written: of a large burst the first message is not held back by the last.
const PIPELINE_BYTES: usize = 32 << 10;

/// The flags of `publish`.
#[derive(Args)]
pub(crate) struct PublishArgs {
    /// Redis' address
    #[arg(long, default_value = "127.0.0.1:6379")]
    redis: SocketAddr,
    #[command(flatten)]
    channels: Channels,
    /// Messages a second on each channel
    #[arg(long, default_value_t = 50.0, value_parser = rate)]
    rate: f64,
    /// Messages of one channel that are written at once; bursts keep the rate, so they come more rarely
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    burst: u32,
    /// The bursts of all channels are written together, as of a game that ticks, and not evenly one after the other
    #[arg(long)]
    at_once: bool,
    /// Publish by the function `drawbridge_publish`, as services do on channels with history
    #[arg(long)]
    function: bool,
    /// Publish by `SPUBLISH`, and only on the channels of these slots of a Cluster: those of the master at `--redis`
    #[arg(long, value_name = "FIRST-LAST", value_parser = slots, conflicts_with = "function")]
    slots: Option<Slots>,
    /// Messages name groups of subscribers in turn (`data.id`), as many as this: for `subscribe --filter`
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    groups: Option<u32>,
    /// How long, in seconds
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    seconds: f64,
    /// The size of a payload
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(100..=1_048_576))]
    bytes: u32,
}

/// A range of a Cluster's slots, with both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slots {
    first: u16,
    last: u16,
}

fn slots(text: &str) -> Result<Slots, String> {
    let range =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match range {
        Some((first, last)) if first <= last && last < redis::SLOTS => Ok(Slots { first, last }),
        _ => Err("a range of slots, such as 0-5460".into()),
    }
}

/// A number of seconds, or of things a second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.001..=1e7).contains(&value) => Ok(value),
        _ => Err("a number between 0.001 and 10000000".into()),
    }
}

/// A publisher's final report.
#[derive(Serialize)]
pub(crate) struct Done {
    pub(crate) at: &'static str,
    pub(crate) messages: u64,
    /// How often it was time to write.
    pub(crate) bursts: u64,
    pub(crate) seconds: f64,
    /// The sum of what Redis answered: one for each subscriber of Redis (not of the node) that it went to; of the function:
    /// the sum of offsets.
    pub(crate) receivers: u64,
    pub(crate) lag_p99_us: u64,
    pub(crate) lag_max_us: u64,
}

/// Publishes for the requested time, then waits for Redis to have answered everything.
pub(crate) fn run(args: PublishArgs) -> io::Result<()> {
    let link = TcpStream::connect(args.redis)?;
    link.set_nodelay(true)?;
    let names = channels(&args)?;
    let schedule = Schedule::new(&args, names.len());
    link.set_read_timeout(Some(LAST_REPLY + schedule.interval))?;
    let replies = link.try_clone()?;
    let expected = schedule.bursts * schedule.channels as u64 * u64::from(args.burst);
    let counter = thread::spawn(move || count_replies(replies, expected));

    let start = Instant::now();
    let how = match (args.function, args.slots) {
        (true, _) => How::Function,
        (false, Some(_)) => How::Sharded,
        (false, None) => How::Plain,
    };
    let lag = publish(Pipeline::new(link, how), &names, &args, &schedule, start)?;
    let seconds = start.elapsed().as_secs_f64();
    let receivers = counter.join().map_err(|_| io::Error::other("the reader of replies failed"))??;
    say(&Done {
        at: "done",
        messages: expected,
        bursts: schedule.bursts,
        seconds,
        receivers,
        lag_p99_us: lag.value_at_quantile(0.99),
        lag_max_us: lag.max(),
    })
}

/// The channels to publish on; at least one.
fn channels(args: &PublishArgs) -> io::Result<Vec<String>> {
    let wanted = |name: &String| match args.slots {
        Some(Slots { first, last }) => (first..=last).contains(&redis::slot_of(name)),
        None => true,
    };
    let names: Vec<String> = args.channels.names().filter(wanted).collect();
    if names.is_empty() {
        return Err(io::Error::other("no channel is in these slots"));
    }
    Ok(names)
}

/// When bursts are due: evenly, one channel after the other, or all of them together.
struct Schedule {
    interval: Duration,
    bursts: u64,
    /// How many channels have a burst at a time.
    channels: usize,
}

impl Schedule {
    fn new(args: &PublishArgs, all: usize) -> Schedule {
        let channels = if args.at_once { all } else { 1 };
        let per_second = args.rate * all as f64 / channels as f64 / f64::from(args.burst);
        let bursts = (per_second * args.seconds).round().max(1.0) as u64;
        Schedule { interval: Duration::from_secs_f64(1.0 / per_second), bursts, channels }
    }

    fn due(&self, start: Instant, burst: u64) -> Instant {
        start + Duration::from_secs_f64(self.interval.as_secs_f64() * burst as f64)
    }
}

/// For how late bursts are, in microseconds: up to a minute. (One without a bound records only small values.)
pub(crate) fn lag_histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_max(60_000_000, 3).map_err(io::Error::other)
}

/// Publishes without waiting for replies, which the caller must read.
pub(crate) struct Pipeline {
    link: TcpStream,
    out: Vec<u8>,
    how: How,
}

/// By which command.
#[derive(Clone, Copy)]
pub(crate) enum How {
    Plain,
    Sharded,
    Function,
}

impl Pipeline {
    pub(crate) fn new(link: TcpStream, how: How) -> Self {
        Pipeline { link, out: Vec::with_capacity(2 * PIPELINE_BYTES), how }
    }

    /// Lines a message up, and writes what is lined up where that is much.
    pub(crate) fn publish(&mut self, channel: &str, payload: &[u8]) -> io::Result<()> {
        let channel = channel.as_bytes();
        match self.how {
            How::Plain => redis::write_command(&mut self.out, &[b"PUBLISH", channel, payload]),
            How::Sharded => redis::write_command(&mut self.out, &[b"SPUBLISH", channel, payload]),
            How::Function => redis::write_command(
                &mut self.out,
                &[b"FCALL", b"drawbridge_publish", b"1", channel, payload],
            ),
        }
        if self.out.len() >= PIPELINE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what is lined up.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.link.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }
}

/// Writes every burst at its time; returns how late each was, in microseconds.
fn publish(
    mut redis: Pipeline,
    names: &[String],
    args: &PublishArgs,
    schedule: &Schedule,
    start: Instant,
) -> io::Result<Histogram<u64>> {
    let mut lag = lag_histogram()?;
    let mut sent = vec![0u64; names.len()];
    for burst in 0..schedule.bursts {
        let due = schedule.due(start, burst);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        lag.saturating_record(due.elapsed().as_micros() as u64);

        let first = (burst % names.len() as u64) as usize;
        for step in 0..schedule.channels {
            let channel = (first + step) % names.len();
            for _ in 0..args.burst {
                let number = sent[channel];
                let group = args.groups.map(|groups| number % u64::from(groups));
                let payload = event::payload(unix_nanos(), number, group, args.bytes as usize);
                redis.publish(&names[channel], payload.as_bytes())?;
                sent[channel] += 1;
            }
        }
        redis.flush()?;
    }
    Ok(lag)
}

/// Reads the reply of every publish; answers the sum of the receivers.
pub(crate) fn count_replies(mut link: TcpStream, expected: u64) -> io::Result<u64> {
    let mut chunk = vec![0; 64 << 10];
    let mut unread = Vec::new();
    let (mut replies, mut receivers) = (0, 0);
    while replies < expected {
        let read = link.read(&mut chunk)?;
        if read == 0 {
            return Err(io::Error::other("Redis closed the link"));
        }
        unread.extend_from_slice(&chunk[..read]);
        let mut rest = &unread[..];
        while let Some(reply) = redis::take_reply(&mut rest)? {
            match reply {
                Reply::Integer(count) => receivers += u64::try_from(count).unwrap_or(0),
                other => return Err(io::Error::other(format!("Redis refused a publish: {other:?}"))),
            }
            replies += 1;
        }
        let taken = unread.len() - rest.len();
        unread.drain(..taken);
    }
    Ok(receivers)
}
