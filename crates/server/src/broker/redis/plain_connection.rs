//! One connection that sends commands one after the other and reads their answers, for what is no part of the traffic:
//! sentinels, checks, and `drawbridge tail`. It also receives what is published on what it subscribed to: whether anything is,
//! or, made with [`PlainConnection::receiving`], what.

use std::io;

use redis::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::buffer::ReadBuffer;
use super::command_connection::text;
use super::connect::{Broken, Stream};
use super::reader::pairs;
use super::resp::{Decoder, Payload, Reply, Step, encode};
use crate::secret::Rotating;

/// Redis' answer to a command, or its error.
pub(super) type Answered = Result<Value, String>;

/// See the module.
pub(super) struct PlainConnection {
    stream: Stream,
    buffer: ReadBuffer,
    decoder: Decoder,
    /// A message was received that `event` has not reported yet.
    has_event: bool,
}

/// What was received on a subscription.
pub(super) enum Received {
    /// A publication.
    Message {
        /// The channel's name in Redis.
        channel: Vec<u8>,
        /// What was published, or its size in bytes if that is over the connection's bound.
        payload: Result<Vec<u8>, u64>,
    },
    /// Redis has ended a subscription: its slot has another master.
    Ended,
}

/// What came.
enum Came {
    Answer(Answered),
    /// The answer to a subscription command; unasked, the end of a subscription.
    Confirmed,
    Event(Received),
}

impl PlainConnection {
    pub(super) fn new(stream: Stream) -> Self {
        PlainConnection::receiving(stream, 0)
    }

    /// A connection whose publications are read with [`PlainConnection::received`]; of payloads over `max_payload` bytes only
    /// the size is.
    pub(super) fn receiving(stream: Stream, max_payload: usize) -> Self {
        let decoder = Decoder::new(max_payload);
        PlainConnection { stream, buffer: ReadBuffer::new(), decoder, has_event: false }
    }

    /// Begins RESP3, as this user if there is a password. Returns what Redis says of itself, or its error.
    pub(super) async fn hello(
        &mut self,
        username: Option<&str>,
        password: Option<&Rotating>,
    ) -> Result<Answered, Broken> {
        let password = password.map(Rotating::current);
        let mut parts = vec!["HELLO", "3"];
        if let Some(password) = &password {
            parts.extend(["AUTH", username.unwrap_or("default"), password.expose()]);
        }
        self.ask(&parts).await.map_err(|broken| match broken {
            Broken::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Broken::closed_at_hello(&error)
            }
            other => other,
        })
    }

    /// The answer to one command; a confirmed subscription answers with null.
    pub(super) async fn ask(&mut self, command: &[&str]) -> Result<Answered, Broken> {
        self.send(&[command]).await?;
        self.answer().await
    }

    /// Sends these commands; each is to be followed by one [`PlainConnection::answer`], and a subscription to several channels
    /// by one for each.
    pub(super) async fn send(&mut self, commands: &[&[&str]]) -> Result<(), Broken> {
        let mut out = Vec::new();
        for command in commands {
            encode(&mut out, command.iter().map(|part| part.as_bytes()));
        }
        self.stream.write_all(&out).await?;
        Ok(self.stream.flush().await?)
    }

    pub(super) async fn answer(&mut self) -> Result<Answered, Broken> {
        loop {
            match self.came().await? {
                Came::Answer(answer) => return Ok(answer),
                Came::Confirmed => return Ok(Ok(Value::Nil)),
                Came::Event(_) => self.has_event = true,
            }
        }
    }

    /// Waits until something is published. Safe to cancel.
    pub(super) async fn event(&mut self) -> Result<(), Broken> {
        while !std::mem::take(&mut self.has_event) {
            self.has_event = matches!(self.came().await?, Came::Event(_));
        }
        Ok(())
    }

    /// Waits for what is received on the one subscription of this connection; no command may be unanswered. Safe to cancel.
    pub(super) async fn received(&mut self) -> Result<Received, Broken> {
        loop {
            match self.came().await? {
                Came::Event(received) => return Ok(received),
                Came::Confirmed => return Ok(Received::Ended),
                Came::Answer(_) => {}
            }
        }
    }

    /// Safe to cancel.
    async fn came(&mut self) -> Result<Came, Broken> {
        loop {
            let (came, taken) = match self.decoder.step(self.buffer.filled())? {
                Step::More(bytes) => {
                    let read = self.stream.read(self.buffer.space(bytes)).await?;
                    if read == 0 {
                        let closed =
                            io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed");
                        return Err(closed.into());
                    }
                    self.buffer.filled_by(read);
                    continue;
                }
                Step::Skip(taken) => (None, taken),
                Step::Reply(reply, taken) => (came(reply)?, taken),
            };
            self.buffer.consume(taken);
            if let Some(came) = came {
                return Ok(came);
            }
        }
    }
}

fn came(reply: Reply<'_>) -> Result<Option<Came>, Broken> {
    Ok(match reply {
        Reply::Answer(answer) => {
            let value = redis::parse_redis_value(answer);
            Some(Came::Answer(Ok(value.map_err(|error| io::Error::other(error.to_string()))?)))
        }
        Reply::Error(message) => Some(Came::Answer(Err(String::from_utf8_lossy(message).into_owned()))),
        Reply::Confirmed { .. } => Some(Came::Confirmed),
        Reply::Message { channel, payload, .. } => {
            let payload = match payload {
                Payload::Whole(payload) => Ok(payload.to_vec()),
                Payload::Oversized(bytes) => Err(bytes),
            };
            Some(Came::Event(Received::Message { channel: channel.to_vec(), payload }))
        }
        Reply::Nameless | Reply::Push => None,
    })
}

/// The text of this member of a map, in either form of an answer.
pub(super) fn field(of: &Value, name: &str) -> Option<String> {
    pairs(of).find(|(field, _)| text(field).as_deref() == Some(name)).and_then(|(_, value)| text(value))
}
