//! `resume`: players that lose their connections at random and come back, to any of several nodes, with the session and the
//! position that they had. Each has one logged channel, its own or one that a few share, and checks that it gets every event
//! once and in order. What a return takes is measured: until `WELCOME`, and until the last event that was published before the player came back.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Args;
use drawbridge_protocol::websocket::OpCode;
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, json};

use crate::client::{Target, frame};
use crate::console::{self, Ask, Console, say};
use crate::event::{self, unix_nanos};
use crate::handshake;
use crate::publish::rate;
use crate::subscribe::{Latency, MAX_LATENCY_NS};
use crate::token::Mint;

const CHUNK_BYTES: usize = 256 << 10;
const CONSOLE: Token = Token(usize::MAX - 1);
/// The first bound of the random delay before the next attempt, and the last; it doubles with each failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// The flags of `resume`. The nodes' `auto_subscribe` must be `room:{room}`, a channel with history.
#[derive(Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    target: Target,
    /// Other nodes: players return to one of them all, in turn; they begin at `target`
    #[arg(long)]
    also: Vec<SocketAddr>,
    /// How many players share a channel
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    together: u32,
    /// How long a connection holds before it is cut, in seconds, on average; absent: for ever
    #[arg(long, value_parser = rate)]
    every: Option<f64>,
    /// How long a player then stays away, in seconds, at most
    #[arg(long, default_value_t = 2.0, value_parser = rate)]
    away: f64,
    /// What the random times are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Joins, then cuts and resumes until standard input ends.
pub(crate) fn run(args: ResumeArgs) -> io::Result<()> {
    let poll = Poll::new()?;
    let console = console::listen(Waker::new(poll.registry(), CONSOLE)?);
    let mint = Mint::new(&args.target.secret)?;
    let players = (0..args.target.connections as usize)
        .map(|index| Player::new(args.target.first + index as u32, args.together, &mint))
        .collect::<io::Result<Vec<_>>>()?;
    let mut targets = args.also.clone();
    targets.insert(0, args.target.target);
    let crowd = Crowd {
        dice: Dice(args.seed | 1),
        due: (0..players.len()).map(|index| Reverse((Instant::now(), index))).collect(),
        targets,
        args,
        poll,
        players,
        attempts: 0,
        opening: 0,
        chunk: vec![0; CHUNK_BYTES],
        counts: Counts::default(),
        welcome: Histogram::new_with_max(MAX_LATENCY_NS, 3).map_err(io::Error::other)?,
        replay: Histogram::new_with_max(MAX_LATENCY_NS, 3).map_err(io::Error::other)?,
    };
    crowd.run(&console)
}

/// One player, with or without a connection.
struct Player {
    channel: String,
    token: String,
    socket: Option<Socket>,
    session: Option<String>,
    /// The last event's.
    position: Option<Position>,
    /// The number that the next event should have; `None`: any.
    next: Option<u64>,
    failures: u32,
    /// A return that is not over yet.
    returning: Option<Return>,
}

struct Socket {
    stream: TcpStream,
    phase: Phase,
    /// The beginning of a frame, or of the answer's head.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Upgrading,
    Connecting,
    Joined,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Position {
    epoch: String,
    offset: u64,
}

/// A player that comes back: events from before are its replay.
struct Return {
    /// When it began to connect, in nanoseconds since 1970.
    began: u64,
    /// When the last event arrived that was published before, or else `WELCOME`.
    caught_up: u64,
}

/// What happened since the last report.
#[derive(Default, Serialize)]
struct Counts {
    events: u64,
    /// Of these, those that were published while the player was away.
    replayed: u64,
    lost: u64,
    doubled: u64,
    resyncs: u64,
    cuts: u64,
    /// Connections that ended, or could not be opened, without the player's doing.
    broken: u64,
    resumed: u64,
    /// `WELCOME`s with `resumed: false` to a player that had a session.
    not_resumed: u64,
    problems: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_problem: Option<String>,
    /// When the last `WELCOME` arrived, in nanoseconds since 1970.
    last_welcome: u64,
}

#[derive(Serialize)]
struct Report {
    at: &'static str,
    open: usize,
    #[serde(flatten)]
    counts: Counts,
    /// From the beginning of a connection attempt to `WELCOME`.
    welcome_us: Latency,
    /// From the beginning of a connection attempt to the last event that was published before it.
    replay_us: Latency,
}

#[derive(Serialize)]
struct Joined {
    at: &'static str,
    connections: usize,
    seconds: f64,
}

#[derive(Deserialize)]
struct Message<'a> {
    r#type: &'a str,
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    resumed: bool,
    #[serde(default)]
    epoch: Option<String>,
    #[serde(default)]
    offset: Option<u64>,
    #[serde(default)]
    subscriptions: Vec<Subscription>,
}

#[derive(Deserialize)]
struct Subscription {
    channel: String,
    #[serde(default)]
    epoch: Option<String>,
    #[serde(default)]
    offset: Option<u64>,
}

struct Crowd {
    args: ResumeArgs,
    targets: Vec<SocketAddr>,
    poll: Poll,
    players: Vec<Player>,
    /// When a player connects (without a socket) or is cut (with one).
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    dice: Dice,
    attempts: usize,
    /// Connections without a `WELCOME` yet.
    opening: usize,
    chunk: Vec<u8>,
    counts: Counts,
    welcome: Histogram<u64>,
    replay: Histogram<u64>,
}

impl Player {
    fn new(number: u32, together: u32, mint: &Mint) -> io::Result<Self> {
        let room = (number / together).to_string();
        Ok(Player {
            channel: format!("room:{room}"),
            token: mint.token(&format!("load-{number}"), Map::from_iter([("room".into(), room.into())]))?,
            socket: None,
            session: None,
            position: None,
            next: None,
            failures: 0,
            returning: None,
        })
    }

    fn is_joined(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.phase == Phase::Joined)
    }

    fn connect_message(&self) -> io::Result<Vec<u8>> {
        let mut message = json!({"type": "CONNECT", "id": 1, "token": self.token});
        if let Some(session) = &self.session {
            let positions: HashMap<&str, &Position> =
                self.position.iter().map(|position| (self.channel.as_str(), position)).collect();
            message["resume"] = json!({"session": session, "positions": positions});
        }
        Ok(serde_json::to_vec(&message)?)
    }
}

impl Crowd {
    fn run(mut self, console: &Console) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let mut has_joined = false;
        loop {
            self.act()?;
            if !has_joined {
                has_joined = self.check_joining(start)?;
            }
            match self.poll.poll(&mut events, Some(self.idle_for())) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                match event.token() {
                    CONSOLE => {
                        for ask in console.asked() {
                            self.report()?;
                            if ask == Ask::Stop {
                                return Ok(());
                            }
                        }
                    }
                    Token(index) => self.read(index, event.is_read_closed()),
                }
            }
        }
    }

    /// Says when all have joined; returns whether they have.
    fn check_joining(&self, start: Instant) -> io::Result<bool> {
        let joined = self.players.iter().filter(|player| player.session.is_some()).count();
        if joined == self.players.len() {
            let seconds = start.elapsed().as_secs_f64();
            say(&Joined { at: "joined", connections: joined, seconds })?;
            return Ok(true);
        }
        if start.elapsed() > Duration::from_secs(self.args.target.join_seconds) {
            let problem = self.counts.first_problem.clone().unwrap_or_default();
            return Err(io::Error::new(ErrorKind::TimedOut, format!("only {joined} have joined; {problem}")));
        }
        Ok(false)
    }

    fn has_room(&self) -> bool {
        self.opening < self.args.target.opening as usize
    }

    fn idle_for(&self) -> Duration {
        match self.due.peek() {
            Some(Reverse((when, _))) if self.has_room() => when.saturating_duration_since(Instant::now()),
            _ => Duration::from_millis(100),
        }
    }

    /// Cuts and connects whoever it is time for.
    fn act(&mut self) -> io::Result<()> {
        while self.has_room()
            && let Some(Reverse((when, _))) = self.due.peek()
            && *when <= Instant::now()
            && let Some(Reverse((_, index))) = self.due.pop()
        {
            if self.players[index].is_joined() {
                self.counts.cuts += 1;
                self.leave(index);
                let away = Duration::from_secs_f64(self.args.away).mul_f64(self.dice.share());
                self.due.push(Reverse((Instant::now() + away, index)));
            } else if self.players[index].socket.is_none() {
                self.connect(index)?;
            }
        }
        Ok(())
    }

    /// Goes away without a word.
    fn leave(&mut self, index: usize) {
        let player = &mut self.players[index];
        let Some(socket) = player.socket.take() else { return };
        if socket.phase != Phase::Joined {
            self.opening -= 1;
        }
        if let Some(back) = player.returning.take().filter(|_| socket.phase == Phase::Joined) {
            self.replay.saturating_record(back.caught_up.saturating_sub(back.began));
        }
    }

    fn connect(&mut self, index: usize) -> io::Result<()> {
        // Those that are new are all on the first.
        let is_new = self.players[index].session.is_none();
        let (first, count) = if is_new { (0, 1) } else { (self.attempts, self.targets.len()) };
        self.attempts += 1;
        let began = unix_nanos();
        // As behind a load balancer, which goes on to the next where a connection is refused.
        let open = |at| {
            self.args.target.open_to(self.targets[(first + at) % self.targets.len()], index, "/ws", None)
        };
        match (0..count).find_map(|at| open(at).ok()) {
            Some(mut stream) => {
                self.poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
                let player = &mut self.players[index];
                player.socket = Some(Socket { stream, phase: Phase::Upgrading, partial: Vec::new() });
                player.returning = Some(Return { began, caught_up: began });
                self.opening += 1;
            }
            None => self.fail(index),
        }
        Ok(())
    }

    /// The connection is gone: the next attempt comes after a random delay.
    fn fail(&mut self, index: usize) {
        self.counts.broken += 1;
        self.leave(index);
        let player = &mut self.players[index];
        let bound = BACKOFF.1.min(BACKOFF.0 * 2u32.saturating_pow(player.failures));
        player.failures = (player.failures + 1).min(10);
        self.due.push(Reverse((Instant::now() + bound.mul_f64(self.dice.share()), index)));
    }

    fn report(&mut self) -> io::Result<()> {
        let report = Report {
            at: "report",
            open: self.players.iter().filter(|player| player.is_joined()).count(),
            counts: std::mem::take(&mut self.counts),
            welcome_us: Latency::of(&self.welcome),
            replay_us: Latency::of(&self.replay),
        };
        self.welcome.reset();
        self.replay.reset();
        say(&report)
    }

    /// `has_ended`: the end came with what there is to read, and wakes the poll no more.
    fn read(&mut self, index: usize, has_ended: bool) {
        let mut chunk = std::mem::take(&mut self.chunk);
        if let Err(error) = self.read_all(index, has_ended, &mut chunk) {
            if error.kind() == ErrorKind::InvalidData {
                self.problem(index, &error.to_string());
            }
            self.fail(index);
        }
        self.chunk = chunk;
    }

    fn problem(&mut self, index: usize, what: &str) {
        self.counts.problems += 1;
        self.counts.first_problem.get_or_insert_with(|| format!("player {index}: {what}"));
    }

    fn read_all(&mut self, index: usize, has_ended: bool, chunk: &mut [u8]) -> io::Result<()> {
        loop {
            let Some(socket) = &mut self.players[index].socket else { return Ok(()) };
            let read = match socket.stream.read(chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut input = std::mem::take(&mut socket.partial);
            input.extend_from_slice(&chunk[..read]);
            let mut rest = &input[..];
            self.take_frames(index, &mut rest)?;
            if let Some(socket) = &mut self.players[index].socket {
                socket.partial = rest.to_vec();
            }
            if read < chunk.len() && !has_ended {
                return Ok(());
            }
        }
    }

    fn take_frames(&mut self, index: usize, input: &mut &[u8]) -> io::Result<()> {
        if self.players[index].socket.as_ref().is_some_and(|socket| socket.phase == Phase::Upgrading) {
            let Some(length) = handshake::head_length(input)? else { return Ok(()) };
            // Whoever is refused tries again: a node that drains answers 503.
            handshake::check_answer(&input[..length])
                .map_err(|_| io::Error::from(ErrorKind::ConnectionRefused))?;
            *input = &input[length..];
            let message = self.players[index].connect_message()?;
            if let Some(socket) = &mut self.players[index].socket {
                socket.phase = Phase::Connecting;
            }
            self.send(index, OpCode::Text, &message)?;
        }
        while let Some(frame) = frame::take(input)? {
            match frame.opcode {
                OpCode::Text => self.text(index, frame.payload)?,
                OpCode::Ping => self.send(index, OpCode::Pong, frame.payload)?,
                OpCode::Close => return Err(ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn send(&mut self, index: usize, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
        let frame = frame::masked(opcode, payload);
        let Some(socket) = &mut self.players[index].socket else { return Ok(()) };
        match socket.stream.write(&frame)? {
            written if written == frame.len() => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }

    fn text(&mut self, index: usize, text: &[u8]) -> io::Result<()> {
        if text.starts_with(b"[") {
            let elements: Vec<&RawValue> = serde_json::from_slice(text)?;
            return elements
                .into_iter()
                .try_for_each(|element| self.message(index, element.get().as_bytes()));
        }
        self.message(index, text)
    }

    fn message(&mut self, index: usize, text: &[u8]) -> io::Result<()> {
        if text.starts_with(br#"{"type":"EVENT","#) {
            self.event(index, text);
            return Ok(());
        }
        let message: Message<'_> = serde_json::from_slice(text)?;
        match message.r#type {
            "WELCOME" => self.welcomed(index, message),
            "RESYNC" => {
                self.counts.resyncs += 1;
                self.players[index].next = None;
                self.set_position(index, message.epoch, message.offset);
            }
            "POSITION" | "CHANNEL_SUBSCRIBED" => self.set_position(index, message.epoch, message.offset),
            "ERROR" => self.problem(index, &String::from_utf8_lossy(text)),
            _ => {}
        }
        Ok(())
    }

    fn welcomed(&mut self, index: usize, message: Message<'_>) {
        let now = unix_nanos();
        let player = &mut self.players[index];
        let Some(socket) = &mut player.socket else { return };
        socket.phase = Phase::Joined;
        self.opening -= 1;
        player.failures = 0;
        match (&player.session, message.resumed) {
            (None, _) => {}
            (Some(_), true) => self.counts.resumed += 1,
            (Some(_), false) => {
                self.counts.not_resumed += 1;
                player.next = None;
            }
        }
        let is_new = player.session.is_none() || !message.resumed;
        player.session = message.session;
        if let Some(back) = &mut player.returning {
            self.welcome.saturating_record(now.saturating_sub(back.began));
            back.caught_up = now;
        }
        self.counts.last_welcome = now;
        let own = message.subscriptions.into_iter().find(|one| one.channel == player.channel);
        if let Some(own) = own.filter(|_| is_new) {
            self.set_position(index, own.epoch, own.offset);
        }
        if let Some(every) = self.args.every {
            // Between none and twice the average, so that no two players keep step.
            let held = Duration::from_secs_f64(2.0 * every * self.dice.share());
            self.due.push(Reverse((Instant::now() + held, index)));
        }
    }

    fn set_position(&mut self, index: usize, epoch: Option<String>, offset: Option<u64>) {
        if let (Some(epoch), Some(offset)) = (epoch, offset) {
            self.players[index].position = Some(Position { epoch, offset });
        }
    }

    fn event(&mut self, index: usize, text: &[u8]) {
        let now = unix_nanos();
        let Some(stamp) = event::stamp(text) else { return self.problem(index, "an event without a stamp") };
        let player = &mut self.players[index];
        self.counts.events += 1;
        if let (Some(position), Some(offset)) = (&mut player.position, stamp.offset) {
            position.offset = offset;
        }
        match player.next {
            Some(next) if stamp.number > next => self.counts.lost += stamp.number - next,
            Some(next) if stamp.number < next && stamp.number != 0 => self.counts.doubled += 1,
            _ => {}
        }
        player.next = Some(stamp.number + 1);
        match &mut player.returning {
            Some(back) if stamp.sent < back.began => {
                self.counts.replayed += 1;
                back.caught_up = now;
            }
            Some(back) => {
                self.replay.saturating_record(back.caught_up.saturating_sub(back.began));
                player.returning = None;
            }
            None => {}
        }
    }
}

/// Numbers from a seed (xorshift64): enough to spread players over time.
struct Dice(u64);

impl Dice {
    /// From 0 to less than 1.
    fn share(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::token::Secret;

    fn player() -> Player {
        let mint = Mint::new(&Secret { secret: "a secret that is long enough for this".into() }).unwrap();
        Player::new(7, 2, &mint).unwrap()
    }

    #[test]
    fn a_player_resumes_with_its_session_and_position() {
        let mut player = player();
        let message = |player: &Player| -> serde_json::Value {
            serde_json::from_slice(&player.connect_message().unwrap()).unwrap()
        };
        assert_eq!(message(&player)["type"], "CONNECT");
        assert!(message(&player).get("resume").is_none());
        player.session = Some("s".into());
        player.position = Some(Position { epoch: "e".into(), offset: 3 });
        let expected = json!({"session": "s", "positions": {"room:3": {"epoch": "e", "offset": 3}}});
        assert_eq!(message(&player)["resume"], expected);
    }

    #[test]
    fn the_dice_stay_within_their_range_and_differ() {
        let mut dice = Dice(1);
        let drawn: Vec<f64> = (0..1000).map(|_| dice.share()).collect();
        assert!(drawn.iter().all(|share| (0.0..1.0).contains(share)));
        assert!(drawn.windows(2).all(|pair| pair[0] != pair[1]));
        let mean = drawn.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
