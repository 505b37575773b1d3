//! `world`: moves every entity of a world once a tick, each move a plain `PUBLISH`. An open loop: a tick's moves are
//! written when they are due, however far behind the reader is, and how late that was is reported.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;

use crate::console::say;
use crate::entity::{Sighting, World};
use crate::event::unix_nanos;
use crate::publish::{self, Done, How, LAST_REPLY, Pipeline, rate};

/// The flags of `world`.
#[derive(Args)]
pub(crate) struct WorldArgs {
    /// Redis' address
    #[arg(long, default_value = "127.0.0.1:6379")]
    redis: SocketAddr,
    /// The channel
    #[arg(long, default_value = "map:0")]
    channel: String,
    #[command(flatten)]
    world: World,
    /// Ticks a second
    #[arg(long, default_value_t = 20.0, value_parser = rate)]
    rate: f64,
    /// How long, in seconds
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    seconds: f64,
    /// The number of the first tick: where an earlier run has ended, so that nobody jumps
    #[arg(long, default_value_t = 0)]
    first_tick: u64,
    /// Parts in which a tick's moves are written, evenly over the tick; 1: all at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    parts: u32,
}

/// Publishes for the requested time, then waits for Redis to have answered everything.
pub(crate) fn run(args: WorldArgs) -> io::Result<()> {
    let link = TcpStream::connect(args.redis)?;
    link.set_nodelay(true)?;
    link.set_read_timeout(Some(LAST_REPLY + Duration::from_secs_f64(1.0 / args.rate)))?;
    let replies = link.try_clone()?;
    let ticks = (args.rate * args.seconds).round().max(1.0) as u64;
    let messages = ticks * u64::from(args.world.entities);
    let counter = thread::spawn(move || publish::count_replies(replies, messages));

    let start = Instant::now();
    let lag = move_all(Pipeline::new(link, How::Plain), &args, ticks, start)?;
    let seconds = start.elapsed().as_secs_f64();
    let receivers = counter.join().map_err(|_| io::Error::other("the reader of replies failed"))??;
    say(&Done {
        at: "done",
        messages,
        bursts: ticks,
        seconds,
        receivers,
        lag_p99_us: lag.value_at_quantile(0.99),
        lag_max_us: lag.max(),
    })
}

/// Writes every part of every tick at its time; returns how late each was completely written, in microseconds.
fn move_all(mut redis: Pipeline, args: &WorldArgs, ticks: u64, start: Instant) -> io::Result<Histogram<u64>> {
    let mut lag = publish::lag_histogram()?;
    let parts = u64::from(args.parts);
    let interval = 1.0 / (args.rate * parts as f64);
    let bound = |part: u64| (u64::from(args.world.entities) * part / parts) as u32;
    let mut payload = Vec::new();
    for step in 0..ticks * parts {
        let due = start + Duration::from_secs_f64(interval * step as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (tick, part) = (args.first_tick + step / parts, step % parts);
        for entity in bound(part)..bound(part + 1) {
            let at = args.world.position(entity, tick);
            payload.clear();
            Sighting { sent: unix_nanos(), tick, entity, at }.write_payload(&mut payload)?;
            redis.publish(&args.channel, &payload)?;
        }
        redis.flush()?;
        lag.saturating_record(due.elapsed().as_micros() as u64);
    }
    Ok(lag)
}
