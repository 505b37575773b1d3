//! How a shard reads its sockets: as much as the turn has work for, message by message into the engine; and how a socket goes
//! to the shard that has the session which its first message resumes. Writing and closing are in [`super`].

use std::rc::Rc;
use std::sync::atomic::Ordering;

use drawbridge_engine::io::{Input, MessageKind, Standing};
use drawbridge_engine::upstream::ShardId;
use drawbridge_protocol::websocket::{Limits, OpCode, Received, encode_frame};

use super::{ABNORMAL, Shard, close_frame};
use crate::shard::ShardStats;
use crate::shard::newcomer::{Destination, Newcomer};
use crate::shard::socket::{Incoming, Socket};
use crate::shard::transport::ReadBytes;

/// After a read of this many bytes the other tasks of the thread have their turn.
const MUCH_BYTES: usize = 4 * 1024;
/// Before a token is accepted, a message holds no more than this, and all compressed ones together are inflated to no more.
const UNAUTHENTICATED_BYTES: usize = 64 * 1024;
/// What a closing socket may still send, in bytes; then it is dropped.
const CLOSE_BYTES: u64 = 1024 * 1024;
/// The status for a close frame without one (RFC 6455 §7.4.1).
const NO_STATUS: u16 = 1005;

/// How a reading task continues.
enum Next {
    Read,
    /// After the other tasks of the thread.
    Yield,
    End,
}

/// Waits for bytes and hands them to the engine, until the socket ends.
pub(super) async fn read_loop(shard: Rc<Shard>, socket: Rc<Socket>) {
    while socket.has_unread() || socket.transport.readable().await.is_ok() {
        shard.until_there_is_work_left().await;
        match shard.read(&socket) {
            Next::Read => tokio::task::consume_budget().await,
            // Why: a socket that always has more would otherwise be the only one to be read.
            Next::Yield => tokio::task::yield_now().await,
            Next::End => break,
        }
    }
    shard.remove(socket.id);
}

impl Shard {
    /// Decodes what an earlier turn left, or reads once.
    fn read(self: &Rc<Self>, socket: &Rc<Socket>) -> Next {
        self.read_clocks();
        let mut unread = socket.take_unread();
        if !unread.is_empty() {
            self.decode(socket, &mut unread);
            return self.next(socket, unread.len());
        }
        let mut buffers = self.buffers.borrow_mut();
        match socket.transport.read(&mut buffers) {
            Ok(ReadBytes::WouldBlock) => Next::Read,
            Ok(ReadBytes::Some { bytes, last }) => {
                let read = bytes.len();
                self.count_in(read);
                self.spend(read);
                socket.ended.set(last);
                if self.try_hand_over(socket, bytes) {
                    return Next::End;
                }
                self.decode(socket, bytes);
                self.next(socket, read)
            }
            Ok(ReadBytes::End) | Err(_) => {
                self.input_and_wake(Input::Closed { conn: socket.id, code: ABNORMAL });
                Next::End
            }
        }
    }

    /// Hands the socket over if what was read resumes a session of another shard; returns whether it did.
    pub(super) fn try_hand_over(self: &Rc<Self>, socket: &Rc<Socket>, read: &[u8]) -> bool {
        let Some(mut newcomer) = socket.newcomer.take() else { return false };
        // Once its close has begun, nothing that it sends counts.
        if socket.closing.get() || self.engine.borrow().standing(socket.id) == Standing::Gone {
            return false;
        }
        let destination = {
            let limits = self.limits_of(socket, Standing::Unauthenticated);
            let mut inflater = self.inflater.borrow_mut();
            let before = inflater.inflated_bytes();
            let destination = newcomer.destination(read, &limits, &mut inflater, &self.engine.borrow());
            let inflated = (inflater.inflated_bytes() - before) as usize;
            self.spend(inflated + newcomer.bytes.len());
            self.count_inflated(inflated);
            socket.inflated_unauthenticated.set(inflated);
            destination
        };
        match destination {
            Destination::Unknown => {
                socket.newcomer.replace(Some(newcomer));
                false
            }
            Destination::Shard(shard) if shard != self.parts.id => {
                self.hand_over(socket, shard, *newcomer);
                true
            }
            Destination::Here | Destination::Shard(_) => false,
        }
    }

    /// Has the engine forget a connection to which nothing was said, and passes its socket on.
    fn hand_over(self: &Rc<Self>, socket: &Rc<Socket>, to: ShardId, newcomer: Newcomer) {
        self.input_and_wake(Input::Closed { conn: socket.id, code: ABNORMAL });
        // Counted here until it is counted there: a drain waits for all.
        self.open_sockets.fetch_add(1, Ordering::Relaxed);
        self.remove(socket.id);
        let (peers, mut socket) = (self.parts.peers.clone(), socket.clone());
        let open_sockets = self.open_sockets.clone();
        tokio::task::spawn_local(async move {
            // Why: its tasks hold it until they run the next time, and end.
            let socket = loop {
                match Rc::try_unwrap(socket) {
                    Ok(socket) => break socket,
                    Err(held) => socket = held,
                }
                tokio::task::yield_now().await;
            };
            match socket.into_new(newcomer) {
                Ok(socket) => peers.hand_over(to, socket),
                Err(error) => tracing::warn!(%error, "a socket could not be handed over"),
            }
            open_sockets.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// How the reading task goes on behind so many bytes.
    fn next(&self, socket: &Socket, bytes: usize) -> Next {
        if socket.has_unread() {
            return Next::Read;
        }
        if socket.ended.get() {
            self.input_and_wake(Input::Closed { conn: socket.id, code: ABNORMAL });
            return Next::End;
        }
        let is_done = socket.peer_closed.get() && !socket.waiting.get();
        match () {
            () if socket.closing.get() && (is_done || socket.skipped_bytes() > CLOSE_BYTES) => Next::End,
            () if bytes >= MUCH_BYTES => Next::Yield,
            () => Next::Read,
        }
    }

    /// Hands what was read to the engine, message by message, as long as the turn has work to spend; the socket keeps the
    /// rest. Once the connection is closed, by whomever, nothing more is decoded.
    pub(super) fn decode(self: &Rc<Self>, socket: &Rc<Socket>, mut input: &mut [u8]) {
        while !input.is_empty() {
            let standing = self.engine.borrow().standing(socket.id);
            if standing == Standing::Gone || socket.closing.get() {
                socket.skip(input);
                let stats = self.stats.get();
                let bytes_skipped = stats.bytes_skipped + input.len() as u64;
                self.stats.set(ShardStats { bytes_skipped, ..stats });
                break;
            }
            if self.work_left.get() == 0 {
                socket.keep_unread(input);
                break;
            }
            if !self.decode_message(socket, standing, &mut input) {
                break;
            }
        }
        self.wake.notify_one();
    }

    /// Decodes one message and hands it to the engine; returns whether there may be another.
    fn decode_message(
        self: &Rc<Self>,
        socket: &Rc<Socket>,
        standing: Standing,
        input: &mut &mut [u8],
    ) -> bool {
        let (conn, limits) = (socket.id, self.limits_of(socket, standing));
        let mut incoming = socket.incoming.borrow_mut();
        let Incoming::Frames(decoder) = &mut *incoming else { return false };
        let mut inflater = self.inflater.borrow_mut();
        let inflated = inflater.inflated_bytes();
        let received = decoder.decode(&limits, &mut inflater, input);
        let inflated = (inflater.inflated_bytes() - inflated) as usize;
        self.spend(inflated);
        let cost_bytes = inflater.cost();
        drop(inflater);
        self.count_inflated(inflated);
        if standing == Standing::Unauthenticated {
            let so_far = socket.inflated_unauthenticated.get();
            socket.inflated_unauthenticated.set(so_far.saturating_add(inflated));
        }
        match received {
            Ok(None) => return false,
            Ok(Some(Received::Text(text))) => {
                self.client_input(Input::Message {
                    conn,
                    kind: MessageKind::Text,
                    payload: text.as_bytes(),
                    cost_bytes,
                });
            }
            Ok(Some(Received::Binary(payload))) => {
                self.client_input(Input::Message { conn, kind: MessageKind::Binary, payload, cost_bytes });
            }
            Ok(Some(Received::Oversized { .. })) => self.client_input(Input::Oversized { conn, cost_bytes }),
            Ok(Some(Received::Ping(payload))) => self.client_input(Input::Ping { conn, payload }),
            Ok(Some(Received::Pong(_))) => self.client_input(Input::Pong { conn }),
            Ok(Some(Received::Close { code, .. })) => {
                drop(incoming);
                socket.peer_closed.set(true);
                self.input_and_wake(Input::Closed { conn, code: code.unwrap_or(NO_STATUS) });
                let payload = code.map(u16::to_be_bytes);
                let payload = payload.as_ref().map_or(&[][..], |code| code);
                self.begin_close(socket, [encode_frame(OpCode::Close, payload)]);
                return false;
            }
            Err(violation) => {
                drop(incoming);
                self.input_and_wake(Input::Closed { conn, code: violation.code.as_u16() });
                self.begin_close(socket, [close_frame(violation.code, violation.reason)]);
                return false;
            }
        }
        self.note_standing(socket);
        true
    }

    /// What a connection's messages may have: little, until a token of it was accepted.
    fn limits_of(&self, socket: &Socket, standing: Standing) -> Limits {
        if standing == Standing::Authenticated {
            return self.limits;
        }
        let bytes = self.limits.message_bytes.min(UNAUTHENTICATED_BYTES);
        let inflated_bytes = bytes.saturating_sub(socket.inflated_unauthenticated.get());
        Limits { inflated_bytes, ..Limits::new(bytes) }
    }

    fn count_in(&self, bytes: usize) {
        let stats = self.stats.get();
        self.stats.set(ShardStats { bytes_in: stats.bytes_in + bytes as u64, ..stats });
    }

    fn count_inflated(&self, bytes: usize) {
        let stats = self.stats.get();
        self.stats.set(ShardStats { bytes_inflated: stats.bytes_inflated + bytes as u64, ..stats });
    }
}
