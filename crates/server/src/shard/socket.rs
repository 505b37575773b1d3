//! One socket of a shard: its frame decoder, what was read and not decoded yet, and at most one frame that is half
//! written. What waits for it in whole frames belongs to the engine.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use drawbridge_engine::address_slots::AddressSlot;
use drawbridge_engine::io::ConnId;
use drawbridge_protocol::Frame;
use drawbridge_protocol::websocket::{Decoder, Drain, Drained};
use tokio::task::AbortHandle;

use super::NewSocket;
use super::newcomer::Newcomer;
use super::transport::Transport;
use crate::slots::Share;

/// Frames up to this together are copied into one contiguous write.
const CHUNK_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct Socket {
    pub(super) id: ConnId,
    pub(super) transport: Transport,
    pub(super) incoming: RefCell<Incoming>,
    /// What was read and waits for the next turn; no more than one read.
    unread: RefCell<Vec<u8>>,
    /// The peer sends no more than what was read.
    pub(super) ended: Cell<bool>,
    /// Bytes that were inflated before a token was accepted.
    pub(super) inflated_unauthenticated: Cell<usize>,
    /// The rest of a frame that is half written; while closing, all that is still to be written.
    rest: RefCell<VecDeque<Bytes>>,
    /// A task waits for the socket to take bytes again.
    pub(super) waiting: Cell<bool>,
    pub(super) closing: Cell<bool>,
    /// The peer has sent its close frame.
    pub(super) peer_closed: Cell<bool>,
    /// The tasks that hold this socket, ended with it.
    pub(super) reader: Cell<Option<AbortHandle>>,
    pub(super) writer: Cell<Option<AbortHandle>>,
    /// Counts this connection among those that have not authenticated, until it has.
    unauthenticated: Cell<Option<Share>>,
    /// Until its first message is complete, where another shard may have its session.
    pub(super) newcomer: Cell<Option<Box<Newcomer>>>,
    /// Counts this connection for its address until it is gone.
    slot: AddressSlot,
}

/// What is made of a socket's bytes.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Messages.
    Frames(Decoder),
    /// The connection is being closed: only the peer's close frame is looked for.
    Draining {
        drain: Drain,
        /// Bytes skipped so far.
        skipped: u64,
    },
}

/// What became of some frames.
pub(super) enum Sent {
    /// They are with the kernel.
    All,
    /// The socket is full; these were not begun.
    Blocked(Vec<Frame>),
}

impl Socket {
    pub(super) fn new(
        id: ConnId,
        transport: Transport,
        inflates: bool,
        slot: AddressSlot,
        unauthenticated: Option<Share>,
        newcomer: Option<Box<Newcomer>>,
    ) -> Self {
        Socket {
            id,
            transport,
            incoming: RefCell::new(Incoming::Frames(if inflates {
                Decoder::inflating()
            } else {
                Decoder::new()
            })),
            unread: RefCell::default(),
            ended: Cell::new(false),
            inflated_unauthenticated: Cell::new(0),
            rest: RefCell::new(VecDeque::new()),
            waiting: Cell::new(false),
            closing: Cell::new(false),
            peer_closed: Cell::new(false),
            reader: Cell::new(None),
            writer: Cell::new(None),
            unauthenticated: Cell::new(unauthenticated),
            newcomer: Cell::new(newcomer),
            slot,
        }
    }

    /// The socket as it came, for another shard.
    ///
    /// # Errors
    /// Where the runtime cannot let go of it.
    pub(super) fn into_new(self, newcomer: Newcomer) -> io::Result<NewSocket> {
        let (stream, tls) = self.transport.into_parts()?;
        Ok(NewSocket {
            stream,
            tls,
            read_ahead: newcomer.bytes.into(),
            handshake: newcomer.handshake,
            slot: self.slot,
            unauthenticated: self.unauthenticated.into_inner(),
        })
    }

    /// It counts among the connections that have not authenticated.
    pub(super) fn is_counted_unauthenticated(&self) -> bool {
        let share = self.unauthenticated.take();
        let is_counted = share.is_some();
        self.unauthenticated.set(share);
        is_counted
    }

    /// A token of it was accepted.
    pub(super) fn authenticated(&self) {
        self.unauthenticated.take();
    }

    /// Skips bytes of a connection that is being closed. The first call ends decoding for good and frees what was
    /// incomplete.
    pub(super) fn skip(&self, input: &[u8]) {
        let mut incoming = self.incoming.borrow_mut();
        if let Incoming::Frames(decoder) = &*incoming {
            *incoming = Incoming::Draining { drain: decoder.drain(), skipped: 0 };
        }
        if let Incoming::Draining { drain, skipped } = &mut *incoming {
            *skipped += input.len() as u64;
            if drain.skip(input) == Drained::Closed {
                self.peer_closed.set(true);
            }
        }
    }

    /// Bytes skipped since the close was decided.
    pub(super) fn skipped_bytes(&self) -> u64 {
        match &*self.incoming.borrow() {
            Incoming::Frames(_) => 0,
            Incoming::Draining { skipped, .. } => *skipped,
        }
    }

    /// Keeps what a turn could not decode any more.
    pub(super) fn keep_unread(&self, input: &[u8]) {
        *self.unread.borrow_mut() = input.to_vec();
    }

    /// Takes what an earlier turn could not decode.
    pub(super) fn take_unread(&self) -> Vec<u8> {
        self.unread.take()
    }

    /// Whether something that was read waits to be decoded.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.borrow().is_empty()
    }

    /// Writes frames, together where they are small. Not called while an earlier write is blocked.
    pub(super) fn send(&self, mut frames: Vec<Frame>, scratch: &mut Vec<u8>) -> io::Result<Sent> {
        let mut sent = 0;
        while sent < frames.len() {
            let (end, bytes) = chunk(&frames, sent, scratch);
            let mut written = self.transport.write(bytes)?;
            let complete = written == bytes.len();
            if complete && self.transport.is_flushed() {
                sent = end;
                continue;
            }
            while sent < end && written >= frames[sent].len() {
                written -= frames[sent].len();
                sent += 1;
            }
            let mut unsent = frames.split_off(sent);
            if written > 0 {
                self.rest.borrow_mut().push_back(unsent.remove(0).slice(written..));
            }
            return Ok(Sent::Blocked(unsent));
        }
        Ok(Sent::All)
    }

    /// Lines frames up behind what is half written; for closing.
    pub(super) fn append(&self, frames: impl IntoIterator<Item = Frame>) {
        self.rest.borrow_mut().extend(frames);
    }

    /// Writes what is half written; returns whether all of it has left.
    pub(super) fn write_rest(&self) -> io::Result<bool> {
        self.transport.flush()?;
        let mut rest = self.rest.borrow_mut();
        while let Some(front) = rest.front_mut() {
            if !self.transport.is_flushed() {
                return Ok(false);
            }
            let written = self.transport.write(front)?;
            if written < front.len() {
                *front = front.slice(written..);
                return Ok(false);
            }
            rest.pop_front();
        }
        Ok(self.transport.is_flushed())
    }
}

/// The next frames to write in one go, from `start`: a single one as it is, small ones copied together.
fn chunk<'b>(frames: &'b [Frame], start: usize, scratch: &'b mut Vec<u8>) -> (usize, &'b [u8]) {
    let first = &frames[start];
    if start + 1 == frames.len() || first.len() + frames[start + 1].len() > CHUNK_BYTES {
        return (start + 1, first);
    }
    scratch.clear();
    let mut end = start;
    while end < frames.len() && scratch.len() + frames[end].len() <= CHUNK_BYTES {
        scratch.extend_from_slice(&frames[end]);
        end += 1;
    }
    (end, scratch)
}
