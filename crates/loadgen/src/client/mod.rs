//! A crowd of WebSocket clients in one epoll loop: opens them, sees that each has joined its channels, answers
//! pings, and hands events on. Who the members are and what their events mean is the [`Crowd`]'s business
//! (`subscribe`, `watch`, `idle`). A connection has no buffer of its own unless a frame is incomplete.

mod connect;
pub(crate) mod frame;
mod message;

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use drawbridge_protocol::websocket::OpCode;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use self::connect::{Join, Target};
use self::message::Message;
use crate::console::{self, Ask, Console, say};
use crate::event::unix_nanos;
use crate::handshake;
use crate::token::Mint;

/// What one read may bring: more than a burst of events leaves in one write.
const CHUNK_BYTES: usize = 256 << 10;
const CONSOLE: Token = Token(usize::MAX - 1);

/// Who a connection belongs to.
pub(crate) struct Member {
    /// The token's `sub`.
    pub(crate) player: String,
    /// The token's other claims.
    pub(crate) claims: Map<String, Value>,
    /// What must be live before the member counts as joined.
    pub(crate) subscriptions: Vec<Subscription>,
}

/// A `CHANNEL_SUBSCRIBE`.
#[derive(Serialize)]
pub(crate) struct Subscription {
    pub(crate) channel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) area: Option<Value>,
}

impl Subscription {
    /// To all of a channel.
    pub(crate) fn to(channel: String) -> Self {
        Subscription { channel, filter: None, area: None }
    }
}

#[derive(Serialize)]
struct Subscribe<'a> {
    r#type: &'static str,
    id: usize,
    #[serde(flatten)]
    subscription: &'a Subscription,
}

/// The members, and what becomes of their events.
pub(crate) trait Crowd {
    /// The part of a report that is the crowd's own.
    type Report: Serialize;
    /// The member with this index, the same each time it is requested.
    fn member(&self, index: usize) -> Member;
    /// An `EVENT` that was read at `now` (nanoseconds since 1970).
    fn event(&mut self, index: usize, now: u64, text: &[u8]);
    /// A `VIEW_ENTER`; nothing to a crowd that looks at no entities.
    fn enter(&mut self, _index: usize, _text: &[u8]) {}
    /// A `VIEW_LEAVE`, likewise.
    fn leave(&mut self, _index: usize, _text: &[u8]) {}
    /// What happened since the last report.
    fn report(&mut self) -> Self::Report;
}

/// Opens the crowd, reports when all have joined, and holds it until standard input ends.
pub(crate) fn run(target: Target, join: Join, crowd: impl Crowd) -> io::Result<()> {
    let poll = Poll::new()?;
    let console = console::listen(Waker::new(poll.registry(), CONSOLE)?);
    let pool = Pool {
        mint: Mint::new(&target.secret)?,
        target,
        join,
        crowd,
        poll,
        connections: Vec::new(),
        joined: 0,
        open: 0,
        chunk: vec![0; CHUNK_BYTES],
        counts: Counts::default(),
    };
    pool.run(&console)
}

#[derive(Serialize)]
struct Joined {
    at: &'static str,
    connections: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct Report<R> {
    at: &'static str,
    open: usize,
    #[serde(flatten)]
    counts: Counts,
    #[serde(flatten)]
    crowd: R,
}

/// What happened since the last report.
#[derive(Default, Serialize)]
struct Counts {
    reads: u64,
    bytes: u64,
    pongs: u64,
    resyncs: u64,
    closed: u64,
    problems: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_problem: Option<String>,
}

impl Counts {
    fn problem(&mut self, index: usize, what: &str) {
        self.problems += 1;
        self.first_problem.get_or_insert_with(|| format!("connection {index}: {what}"));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The upgrade is not answered yet.
    Upgrading,
    /// `WELCOME` is awaited.
    Waiting,
    /// So many channels are not live yet.
    Joining(usize),
    Joined,
    Closed,
}

struct Connection {
    stream: TcpStream,
    phase: Phase,
    /// The beginning of a frame, or of the answer's head.
    partial: Vec<u8>,
}

struct Pool<C> {
    target: Target,
    join: Join,
    mint: Mint,
    crowd: C,
    poll: Poll,
    connections: Vec<Connection>,
    /// How many have joined, ever.
    joined: usize,
    /// How many are not closed.
    open: usize,
    chunk: Vec<u8>,
    counts: Counts,
}

impl<C: Crowd> Pool<C> {
    fn run(mut self, console: &Console) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let deadline = start + Duration::from_secs(self.target.join_seconds);
        let total = self.target.connections as usize;
        let mut joining = true;
        loop {
            if joining {
                self.check_joining(deadline)?;
                self.open_more(total)?;
            }
            if joining && self.joined == total {
                joining = false;
                let seconds = start.elapsed().as_secs_f64();
                say(&Joined { at: "joined", connections: total, seconds })?;
            }
            let timeout = joining.then(|| deadline.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
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
                    Token(index) => self.read(index),
                }
            }
        }
    }

    /// Until all have joined, any problem ends the run: it would not measure what was requested.
    fn check_joining(&self, deadline: Instant) -> io::Result<()> {
        if let Some(problem) = &self.counts.first_problem {
            return Err(io::Error::other(problem.clone()));
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, format!("only {} have joined", self.joined)));
        }
        Ok(())
    }

    fn open_more(&mut self, total: usize) -> io::Result<()> {
        while self.connections.len() < total
            && self.connections.len() - self.joined < self.target.opening as usize
        {
            let index = self.connections.len();
            let member = self.crowd.member(index);
            let mut stream = match self.join {
                Join::Path => {
                    let first = member.subscriptions.first();
                    let channel = first.map_or("", |subscription| subscription.channel.as_str());
                    self.target.open(index, &format!("/ws?channel={channel}"), None)
                }
                Join::Claims | Join::Message => {
                    let token = self.mint.token(&member.player, member.claims)?;
                    self.target.open(index, "/ws", Some(&token))
                }
            }
            .map_err(|error| io::Error::new(error.kind(), format!("connection {index}: {error}")))?;
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            self.connections.push(Connection { stream, phase: Phase::Upgrading, partial: Vec::new() });
            self.open += 1;
        }
        Ok(())
    }

    fn report(&mut self) -> io::Result<()> {
        let counts = std::mem::take(&mut self.counts);
        say(&Report { at: "report", open: self.open, counts, crowd: self.crowd.report() })
    }

    /// Reads what there is; whatever goes wrong closes that connection and is counted.
    fn read(&mut self, index: usize) {
        if self.connections[index].phase == Phase::Closed {
            return;
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        if let Err(error) = self.read_all(index, &mut chunk) {
            self.counts.problem(index, &error.to_string());
            self.close(index);
        }
        self.chunk = chunk;
    }

    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.phase = Phase::Closed;
        connection.partial = Vec::new();
        // The socket itself goes with the pool; the peer learns of it now. It may know already.
        let _ = connection.stream.shutdown(std::net::Shutdown::Both);
        self.open -= 1;
        self.counts.closed += 1;
    }

    fn read_all(&mut self, index: usize, chunk: &mut [u8]) -> io::Result<()> {
        loop {
            let read = match self.connections[index].stream.read(chunk) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed without a close frame"));
                }
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.counts.reads += 1;
            self.counts.bytes += read as u64;
            let mut partial = std::mem::take(&mut self.connections[index].partial);
            let mut input = &chunk[..read];
            if !partial.is_empty() {
                partial.extend_from_slice(input);
                input = &partial;
            }
            self.take_frames(index, unix_nanos(), &mut input)?;
            self.connections[index].partial = input.to_vec();
            // A short read has emptied the socket: what comes later wakes the poll again.
            if read < chunk.len() {
                return Ok(());
            }
        }
    }

    /// Takes whole frames off the front of `input`.
    fn take_frames(&mut self, index: usize, now: u64, input: &mut &[u8]) -> io::Result<()> {
        if self.connections[index].phase == Phase::Upgrading {
            let Some(length) = handshake::head_length(input)? else { return Ok(()) };
            handshake::check_answer(&input[..length])?;
            *input = &input[length..];
            self.upgraded(index);
        }
        while let Some(frame) = frame::take(input)? {
            match frame.opcode {
                OpCode::Text => {
                    message::for_each(frame.payload, |message| self.message(index, now, message))?
                }
                OpCode::Ping => {
                    self.counts.pongs += 1;
                    self.send(index, OpCode::Pong, frame.payload)?;
                }
                OpCode::Close => return Err(io::Error::other(frame::close_reason(frame.payload))),
                OpCode::Pong => {}
                OpCode::Binary | OpCode::Continuation => {
                    return Err(io::Error::other("a frame of the wrong kind"));
                }
            }
        }
        Ok(())
    }

    fn upgraded(&mut self, index: usize) {
        match self.join {
            Join::Path => self.has_joined(index),
            Join::Claims | Join::Message => self.connections[index].phase = Phase::Waiting,
        }
    }

    fn has_joined(&mut self, index: usize) {
        self.connections[index].phase = Phase::Joined;
        self.joined += 1;
    }

    fn message(&mut self, index: usize, now: u64, message: Message<'_>) -> io::Result<()> {
        match message {
            Message::Event(text) => self.crowd.event(index, now, text),
            Message::Enter(text) => self.crowd.enter(index, text),
            Message::Leave(text) => self.crowd.leave(index, text),
            Message::Welcome(live) => {
                let mut missing = self.crowd.member(index).subscriptions;
                missing.retain(|subscription| !live.iter().any(|name| *name == subscription.channel));
                if self.join == Join::Message {
                    self.subscribe(index, &missing)?;
                }
                self.is_missing(index, missing.len());
            }
            Message::Subscribed(name) => {
                if let Phase::Joining(missing) = self.connections[index].phase
                    && self.crowd.member(index).subscriptions.iter().any(|one| one.channel == name)
                {
                    self.is_missing(index, missing - 1);
                }
            }
            Message::Resync => self.counts.resyncs += 1,
            Message::Problem(text) => self.counts.problem(index, &String::from_utf8_lossy(text)),
            Message::Other => {}
        }
        Ok(())
    }

    fn is_missing(&mut self, index: usize, missing: usize) {
        match missing {
            0 => self.has_joined(index),
            _ => self.connections[index].phase = Phase::Joining(missing),
        }
    }

    fn subscribe(&mut self, index: usize, subscriptions: &[Subscription]) -> io::Result<()> {
        for (id, subscription) in subscriptions.iter().enumerate() {
            let request = Subscribe { r#type: "CHANNEL_SUBSCRIBE", id, subscription };
            self.send(index, OpCode::Text, &serde_json::to_vec(&request)?)?;
        }
        Ok(())
    }

    /// Sends a small frame. A node that leaves no room for it does not read, and that ends the connection.
    fn send(&mut self, index: usize, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
        let frame = frame::masked(opcode, payload);
        match self.connections[index].stream.write(&frame)? {
            written if written == frame.len() => Ok(()),
            _ => Err(io::Error::other("the server does not read")),
        }
    }
}
