//! One connection of a subscriber link: opens it, reads and writes, and detects a Redis that does not answer. Commands and
//! their answers are in [`super::conversation`]; what follows from them is in [`super::link`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::RedisAddress;
use super::buffer::ReadBuffer;
use super::connect::{Broken, CONNECT_TIMEOUT, Stream, open};
use super::connector::Connector;
use super::conversation::Conversation;
use super::resp::{Decoder, Garbage, Reply, Step};

/// How often Redis is pinged.
const PING_EVERY: Duration = Duration::from_secs(2);
/// A link that stayed silent so long after a ping is dead.
const SILENCE: Duration = Duration::from_secs(3);

/// One connection of a link.
pub(super) struct Session {
    /// Of the master that it leads to; `None`: the connection is to where the settings say.
    pub(super) address: Option<RedisAddress>,
    pub(super) stream: Stream,
    pub(super) buffer: ReadBuffer,
    pub(super) decoder: Decoder,
    /// What the buffer must hold for the decoder to go on.
    pub(super) needed: usize,
    pub(super) conversation: Conversation,
    /// TLS may hold what was written.
    pub(super) unflushed: bool,
    /// All that was subscribed before is subscribed again, and the health board knows.
    pub(super) is_up: bool,
    /// When the last bytes came.
    pub(super) last_received: Instant,
    /// When the ping was sent that is not answered.
    pub(super) pinged: Option<Instant>,
    pub(super) next_ping: Instant,
}

/// What a connection has done.
pub(super) enum Progress {
    Read(usize),
    Wrote,
}

impl Session {
    /// A connection that is ready to subscribe.
    pub(super) async fn open(
        connector: Connector,
        index: usize,
        external_bytes: usize,
    ) -> Result<Session, Broken> {
        let (address, settings) = (connector.address().await?, &*connector.settings);
        let open = timeout(CONNECT_TIMEOUT, async {
            let stream = open(settings, address.as_ref()).await?;
            let now = Instant::now();
            let mut session = Session {
                address: address.clone(),
                stream,
                buffer: ReadBuffer::new(),
                decoder: Decoder::new(external_bytes),
                needed: 1,
                conversation: Conversation::new(
                    settings.names.clone(),
                    settings.sharded.clone(),
                    settings.slots(),
                ),
                unflushed: false,
                is_up: false,
                last_received: now,
                pinged: None,
                next_ping: now + PING_EVERY,
            };
            let name = settings.connection_name(&format!("link{index}"));
            session.conversation.hello(settings, name.as_deref());
            session.welcomed().await?;
            Ok(session)
        });
        tokio::select! {
            session = open => session.unwrap_or(Err(Broken::Silent)),
            () = connector.left(address.as_ref()) => Err(Broken::Left),
        }
    }

    /// Waits for the answer to `HELLO`.
    pub(super) async fn welcomed(&mut self) -> Result<(), Broken> {
        loop {
            match self.progress().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Broken::closed_at_hello(&error));
                }
                progress => progress?,
            };
            match self.decoder.step(self.buffer.filled())? {
                Step::More(bytes) => self.needed = bytes,
                Step::Reply(Reply::Answer(answer), taken) => {
                    self.conversation.answered(answer)?;
                    self.buffer.consume(taken);
                    return Ok(());
                }
                Step::Reply(Reply::Error(message), _) => {
                    return Err(Broken::no_hello(&String::from_utf8_lossy(message)));
                }
                _ => return Err(Garbage("something before the answer to HELLO").into()),
            }
        }
    }

    /// Writes what is to be written, or reads. Safe to cancel.
    pub(super) async fn progress(&mut self) -> io::Result<Progress> {
        poll_fn(|cx| {
            let mut stream = Pin::new(&mut self.stream);
            if !self.conversation.unsent().is_empty() {
                if let Poll::Ready(bytes) = stream.as_mut().poll_write(cx, self.conversation.unsent())? {
                    if bytes == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    self.conversation.sent(bytes);
                    self.unflushed = true;
                    return Poll::Ready(Ok(Progress::Wrote));
                }
            } else if self.unflushed && stream.as_mut().poll_flush(cx)?.is_ready() {
                self.unflushed = false;
            }
            let mut space = ReadBuf::new(self.buffer.space(self.needed));
            match stream.poll_read(cx, &mut space)? {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    let bytes = space.filled().len();
                    if bytes == 0 {
                        let closed =
                            io::Error::new(io::ErrorKind::UnexpectedEof, "Redis closed the connection");
                        return Poll::Ready(Err(closed));
                    }
                    self.buffer.filled_by(bytes);
                    self.needed = 1;
                    Poll::Ready(Ok(Progress::Read(bytes)))
                }
            }
        })
        .await
    }

    /// Sends a ping when it is time.
    ///
    /// # Errors
    /// [`Broken::Silent`] if nothing was received for too long after a ping.
    pub(super) fn keep_alive(&mut self, now: Instant) -> Result<(), Broken> {
        match self.pinged {
            Some(at) if now >= at.max(self.last_received) + SILENCE => Err(Broken::Silent),
            None if now >= self.next_ping => {
                self.conversation.ping();
                self.pinged = Some(now);
                self.next_ping = now + PING_EVERY;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// When [`Session::keep_alive`] has something to do.
    pub(super) fn due(&self) -> Instant {
        self.pinged.map_or(self.next_ping, |at| at.max(self.last_received) + SILENCE)
    }
}
