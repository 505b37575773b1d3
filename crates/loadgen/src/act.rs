//! `act`: the life of a channel, published plainly, in ticks: groups that are spoken to in turn, entities that wander in
//! a square, or a few events for each of many players. An open loop: each tick's messages are written at once when it is
//! due, however far behind the reader is.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;

use crate::console::say;
use crate::event::unix_nanos;
use crate::publish::{Done, count_replies};
use crate::redis;
use crate::watch::place;

/// How long Redis may be silent.
const LAST_REPLY: Duration = Duration::from_secs(20);

/// The flags of `act`.
#[derive(Args)]
pub(crate) struct ActArgs {
    /// Redis' address
    #[arg(long, default_value = "127.0.0.1:6379")]
    redis: SocketAddr,
    /// The channel; with `own`, what each player's channel begins with
    #[arg(long, default_value = "watch:0")]
    channel: String,
    /// What happens
    #[arg(long, value_enum)]
    life: Life,
    /// Groups, entities or players
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Messages of a tick for one group or player; each entity moves once a tick
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    each: u32,
    /// Ticks a second
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// How long, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The side of the square in which entities wander
    #[arg(long, default_value_t = 1000.0)]
    side: f64,
    /// Parts in which a tick's messages are written, evenly over the tick
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    parts: u32,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Life {
    /// Each tick speaks to the next group
    Groups,
    /// Each tick moves every entity
    Entities,
    /// Each tick speaks to every player on its own channel
    Own,
    /// Each tick speaks to the channel, of as many entities as there are messages
    Room,
}

/// Publishes for as long as was asked, then waits for Redis to have answered everything.
pub(crate) fn run(args: ActArgs) -> io::Result<()> {
    let link = TcpStream::connect(args.redis)?;
    link.set_nodelay(true)?;
    link.set_read_timeout(Some(LAST_REPLY))?;
    let replies = link.try_clone()?;
    let ticks = (args.rate * args.seconds).round().max(1.0) as u64;
    let per_tick = match args.life {
        Life::Groups | Life::Room => u64::from(args.each),
        Life::Entities => u64::from(args.count),
        Life::Own => u64::from(args.count) * u64::from(args.each),
    };
    let expected = ticks * per_tick;
    let counter = thread::spawn(move || count_replies(replies, expected));
    let start = Instant::now();
    let mut actor = Actor { link, out: Vec::new(), numbers: 0, args };
    let lag = actor.act(start, ticks)?;
    let seconds = start.elapsed().as_secs_f64();
    let receivers = counter.join().map_err(|_| io::Error::other("the reader of replies failed"))??;
    say(&Done {
        at: "done",
        messages: expected,
        bursts: ticks,
        seconds,
        receivers,
        lag_p99_us: lag.value_at_quantile(0.99),
        lag_max_us: lag.max(),
    })
}

struct Actor {
    link: TcpStream,
    out: Vec<u8>,
    numbers: u64,
    args: ActArgs,
}

impl Actor {
    /// Writes every part of every tick when it is due; answers how late each was, in microseconds.
    fn act(&mut self, start: Instant, ticks: u64) -> io::Result<Histogram<u64>> {
        let mut lag = Histogram::new(3).map_err(io::Error::other)?;
        let parts = u64::from(self.args.parts);
        let interval = 1.0 / self.args.rate / parts as f64;
        for at in 0..ticks * parts {
            let due = start + Duration::from_secs_f64(interval * at as f64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            lag.saturating_record(due.elapsed().as_micros() as u64);
            self.out.clear();
            self.part(at / parts, at % parts);
            self.link.write_all(&self.out)?;
        }
        Ok(lag)
    }

    fn part(&mut self, tick: u64, part: u64) {
        let (count, each) = (u64::from(self.args.count), u64::from(self.args.each));
        let channel = self.args.channel.clone();
        let parts = u64::from(self.args.parts);
        let mine = move |at: u64| at % parts == part;
        match self.args.life {
            Life::Groups => (0..each)
                .filter(|at| mine(*at))
                .for_each(|at| self.say(&channel, &format!(r#""id":"g{}""#, (tick * each + at) % count))),
            Life::Room => (0..each)
                .filter(|at| mine(*at))
                .for_each(|at| self.say(&channel, &format!(r#""id":"e{at}""#))),
            Life::Own => {
                for player in (0..count).filter(|at| mine(*at)) {
                    let channel = format!("{channel}{player}");
                    (0..each).for_each(|at| self.say(&channel, &format!(r#""id":"e{at}""#)));
                }
            }
            Life::Entities => {
                for entity in (0..count).filter(|at| mine(*at)) {
                    let [x, y] = self.wander(entity, tick);
                    self.say(&channel, &format!(r#""id":"e{entity}","x":{x:.2},"y":{y:.2}"#));
                }
            }
        }
    }

    /// Around its place in small circles, each at a pace of its own.
    fn wander(&self, entity: u64, tick: u64) -> [f64; 2] {
        let [x, y] = place(entity as usize).map(|at| at * self.args.side);
        let turn = tick as f64 * (0.02 + (entity % 7) as f64 * 0.005) + entity as f64;
        let reach = self.args.side / 50.0;
        [x + reach * turn.cos(), y + reach * turn.sin()]
    }

    fn say(&mut self, channel: &str, rest: &str) {
        let payload =
            format!(r#"{{"event":"move","data":{{"t":{},"n":{},{rest}}}}}"#, unix_nanos(), self.numbers);
        self.numbers += 1;
        redis::write_command(&mut self.out, &[b"PUBLISH", channel.as_bytes(), payload.as_bytes()]);
    }
}
