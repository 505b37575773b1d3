//! `floor`: the least that a fan-out can cost, to hold a node's figures against. One thread, one epoll loop: it
//! subscribes to the channels, encodes one frame for each message, and writes that frame to each socket of the
//! channel with its own write. No rights, no views, no limits, no reconnecting: a client names in its URL
//! (`/ws?channel=room:7`) what it gets.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use bytes::Bytes;
use clap::Args;
use drawbridge_protocol::websocket::{OpCode, encode_frame};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use slab::Slab;

use crate::channels::Channels;
use crate::console::{self, Ask, Console, say};
use crate::handshake;
use crate::redis::{self, Reply};

/// What a socket may owe its client before it is dropped.
const MAX_UNSENT_BYTES: usize = 1 << 20;

const LISTENER: Token = Token(0);
const REDIS: Token = Token(1);
const CONSOLE: Token = Token(2);
const FIRST_SOCKET: usize = 3;

/// The flags of `floor`.
#[derive(Args)]
pub(crate) struct FloorArgs {
    /// Redis' address
    #[arg(long, default_value = "127.0.0.1:6379")]
    redis: SocketAddr,
    /// Where clients connect; port 0 takes any
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    channels: Channels,
}

/// Runs until standard input ends.
pub(crate) fn run(args: FloorArgs) -> io::Result<()> {
    let poll = Poll::new()?;
    let mut listener = TcpListener::bind(args.listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut link = subscribe(&args)?;
    poll.registry().register(&mut link, REDIS, Interest::READABLE)?;
    let console = console::listen(Waker::new(poll.registry(), CONSOLE)?);
    let listen = listener.local_addr()?;

    let channels =
        args.channels.names().map(|name| Channel { name, offset: 0, sockets: Vec::new() }).collect();
    let floor = Floor {
        poll,
        listener,
        link,
        unread: Vec::new(),
        chunk: vec![0; 64 << 10],
        by_name: args.channels.names().enumerate().map(|(number, name)| (name, number)).collect(),
        channels,
        sockets: Slab::new(),
        counts: Counts::default(),
    };
    say(&Ready { at: "ready", listen })?;
    floor.run(&console)
}

/// Connects to Redis and subscribes to every channel; the confirmations are read like anything else.
fn subscribe(args: &FloorArgs) -> io::Result<TcpStream> {
    let mut link = std::net::TcpStream::connect(args.redis)?;
    link.set_nodelay(true)?;
    let mut out = Vec::new();
    for name in args.channels.names() {
        redis::write_command(&mut out, &[b"SUBSCRIBE", name.as_bytes()]);
    }
    link.write_all(&out)?;
    link.set_nonblocking(true)?;
    Ok(TcpStream::from_std(link))
}

#[derive(Serialize)]
struct Ready {
    at: &'static str,
    listen: SocketAddr,
}

#[derive(Default, Serialize)]
struct Counts {
    messages: u64,
    writes: u64,
    blocked: u64,
    dropped: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    at: &'static str,
    sockets: usize,
    #[serde(flatten)]
    counts: &'a Counts,
}

struct Channel {
    name: String,
    offset: u64,
    /// Keys of [`Floor::sockets`].
    sockets: Vec<usize>,
}

struct Socket {
    stream: TcpStream,
    /// What of the request's head has come.
    head: Vec<u8>,
    /// Its place in [`Floor::channels`], once the handshake is done.
    channel: Option<usize>,
    /// The rest of frames that the kernel did not take.
    unsent: Vec<u8>,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    link: TcpStream,
    /// An incomplete reply of Redis.
    unread: Vec<u8>,
    chunk: Vec<u8>,
    by_name: HashMap<String, usize>,
    channels: Vec<Channel>,
    sockets: Slab<Socket>,
    counts: Counts,
}

impl Floor {
    fn run(mut self, console: &Console) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    REDIS => self.read_redis()?,
                    CONSOLE => {
                        for ask in console.asked() {
                            say(&Report { at: "report", sockets: self.sockets.len(), counts: &self.counts })?;
                            if ask == Ask::Stop {
                                return Ok(());
                            }
                        }
                    }
                    Token(token) => self.serve(token - FIRST_SOCKET),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let entry = self.sockets.vacant_entry();
            let token = Token(entry.key() + FIRST_SOCKET);
            self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            entry.insert(Socket { stream, head: Vec::new(), channel: None, unsent: Vec::new() });
        }
    }

    /// Reads and writes what a socket is ready for; a socket that fails is dropped.
    fn serve(&mut self, key: usize) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let done = socket.flush().and_then(|()| socket.read(&mut self.chunk, &self.by_name));
        match done {
            Ok(Some(channel)) => self.channels[channel].sockets.push(key),
            Ok(None) => {}
            Err(_) => self.drop_socket(key),
        }
    }

    fn drop_socket(&mut self, key: usize) {
        let socket = self.sockets.remove(key);
        if let Some(channel) = socket.channel {
            self.channels[channel].sockets.retain(|other| *other != key);
        }
    }

    /// Reads until Redis has nothing more, and sends on each message as it is found.
    fn read_redis(&mut self) -> io::Result<()> {
        loop {
            match self.link.read(&mut self.chunk) {
                Ok(0) => return Err(io::Error::other("Redis closed the link")),
                Ok(read) => self.unread.extend_from_slice(&self.chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            let unread = std::mem::take(&mut self.unread);
            let mut rest = &unread[..];
            while let Some(reply) = redis::take_reply(&mut rest)? {
                let Reply::List(parts) = reply else { continue };
                if let [Reply::Bulk(b"message"), Reply::Bulk(channel), Reply::Bulk(payload)] = parts[..] {
                    self.fan_out(channel, payload);
                }
            }
            self.unread = rest.to_vec();
        }
    }

    /// One frame, and one write for each socket.
    fn fan_out(&mut self, channel: &[u8], payload: &[u8]) {
        let number = std::str::from_utf8(channel).ok().and_then(|name| self.by_name.get(name));
        let Some(channel) = number.and_then(|number| self.channels.get_mut(*number)) else { return };
        channel.offset += 1;
        self.counts.messages += 1;
        let Some(frame) = encode(channel, payload) else { return };
        let mut gone = Vec::new();
        for key in &channel.sockets {
            self.counts.writes += 1;
            let socket = &mut self.sockets[*key];
            if socket.send(&frame).is_err() {
                gone.push(*key);
            } else if !socket.unsent.is_empty() {
                self.counts.blocked += 1;
            }
        }
        self.counts.dropped += gone.len() as u64;
        gone.into_iter().for_each(|key| self.drop_socket(key));
    }
}

impl Socket {
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let sent = if self.unsent.is_empty() { write(&mut self.stream, frame)? } else { 0 };
        self.unsent.extend_from_slice(&frame[sent..]);
        if self.unsent.len() > MAX_UNSENT_BYTES {
            return Err(io::Error::other("the client does not read"));
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let sent = write(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
        }
        Ok(())
    }

    /// Reads what there is: the handshake first, whose channel is answered once; then nothing that matters.
    fn read(&mut self, chunk: &mut [u8], by_name: &HashMap<String, usize>) -> io::Result<Option<usize>> {
        let mut joined = None;
        loop {
            let read = match self.stream.read(chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(joined),
                Err(error) => return Err(error),
            };
            if self.channel.is_some() {
                continue;
            }
            self.head.extend_from_slice(&chunk[..read]);
            if handshake::head_length(&self.head)?.is_some() {
                let head = std::mem::take(&mut self.head);
                let (answer, channel) = handshake::answer(&head)?;
                self.channel = by_name.get(channel).copied();
                joined = Some(self.channel.ok_or(ErrorKind::NotFound)?);
                self.send(answer.as_bytes())?;
            }
        }
    }
}

fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        outcome => outcome,
    }
}

/// The `EVENT` as a node sends it.
#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    channel: &'a str,
    event: &'a str,
    data: &'a RawValue,
    offset: u64,
}

/// What is read of a payload.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    event: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The frame for a message; `None` for a payload that is not an event.
fn encode(channel: &Channel, payload: &[u8]) -> Option<Bytes> {
    let Payload { event, data } = serde_json::from_slice(payload).ok()?;
    let event = Event { r#type: "EVENT", channel: &channel.name, event, data, offset: channel.offset };
    Some(encode_frame(OpCode::Text, &serde_json::to_vec(&event).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Stamp, payload, stamp};

    #[test]
    fn a_message_becomes_one_text_frame_that_keeps_its_data() {
        let channel = Channel { name: "room:1".into(), offset: 3, sockets: Vec::new() };
        let frame = encode(&channel, payload(5, 6, None, 200).as_bytes()).unwrap_or_default();
        assert_eq!(frame.first(), Some(&0x81));
        assert_eq!(stamp(&frame), Some(Stamp { sent: 5, number: 6, offset: Some(3) }));
        assert!(encode(&channel, b"no event").is_none());
    }
}
