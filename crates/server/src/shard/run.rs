//! A shard's loop: what wakes it, what a turn does, and how sockets are read, written and closed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{BrokerEvent, ConnId, Input, MessageKind, Now, Opened, Output, Standing};
use drawbridge_engine::upstream::ShardId;
use drawbridge_engine::work::STEPS_PER_TOKEN;
use drawbridge_protocol::websocket::{Inflater, Limits, OpCode, Received, encode_close, encode_frame};
use drawbridge_protocol::{CloseCode, Frame};
use slab::Slab;
use tokio::sync::{Notify, mpsc};

use super::newcomer::{Destination, Newcomer};
use super::socket::{Incoming, Sent, Socket};
use super::transport::{ReadBuffers, ReadBytes, Transport};
use super::{Mail, NewSocket, ShardParts, ShardStats};
use crate::broker::ShardInbox;
use crate::log::Notices;

/// Mail and events taken in by one turn at most.
const TURN: usize = 256;
/// A shard for which more waits than a turn takes in lags after this long: from then on what newer events replace is
/// dropped.
const LAGGING_MS: u64 = 200;
/// Writes after which the other tasks of the thread get a turn.
const WRITES_PER_YIELD: usize = 512;
/// After a read of this many bytes the other tasks of the thread have their turn.
const MUCH_BYTES: usize = 4 * 1024;
/// What all sockets together may have decoded and done between two runs of the loop, in bytes read and inflated. However many
/// sockets send however much, an event from the broker waits for no more than this and one message.
const TURN_WORK: usize = 128 * 1024;
/// What a message and each of its requests count as, in bytes, beside those that they have.
const MESSAGE_WORK: usize = 512;
/// What a step of work over entities and filters counts as, in bytes: a token of `limits.work` is as much as a message.
const STEP_WORK: usize = MESSAGE_WORK / STEPS_PER_TOKEN as usize;
/// Before a token is accepted, a message holds no more than this, and all compressed ones together are inflated to no more.
const UNAUTHENTICATED_BYTES: usize = 64 * 1024;
/// What a closing socket may still send, in bytes; then it is dropped.
const CLOSE_BYTES: u64 = 1024 * 1024;
/// How long a closing socket may take to read what is left for it and to close its side.
const CLOSE_TIMEOUT_MS: u64 = 5_000;
/// The status for a connection that ended without a close frame (RFC 6455 §7.4.1).
const ABNORMAL: u16 = 1006;
/// The status for a close frame without one (RFC 6455 §7.4.1).
const NO_STATUS: u16 = 1005;

/// The state of a shard, shared by the tasks of its thread.
struct Shard {
    parts: ShardParts,
    limits: Limits,
    inflater: RefCell<Inflater>,
    /// What is left of [`TURN_WORK`].
    work_left: Cell<usize>,
    engine: RefCell<Engine>,
    sockets: RefCell<Slab<Rc<Socket>>>,
    generation: Cell<u32>,
    /// In order of their deadlines.
    closing: RefCell<VecDeque<(u64, ConnId)>>,
    buffers: RefCell<ReadBuffers>,
    scratch: RefCell<Vec<u8>>,
    /// The time for all that a turn takes in, and a read of a socket: the clocks are read once for each.
    now: Cell<Now>,
    /// A task has passed an input to the engine.
    wake: Notify,
    answers: mpsc::WeakUnboundedSender<Mail>,
    open_sockets: Arc<AtomicUsize>,
    stats: Cell<ShardStats>,
    notices: RefCell<Notices>,
}

/// What wakes the loop.
enum Woken {
    Mail(Mail),
    Event(BrokerEvent),
    /// A task has passed an input to the engine.
    Given,
    /// A deadline has come.
    Due,
}

/// Runs a shard until all senders of its mail are gone.
pub(super) async fn run(
    parts: ShardParts,
    mut mail: mpsc::UnboundedReceiver<Mail>,
    mut events: ShardInbox,
    answers: mpsc::WeakUnboundedSender<Mail>,
    open_sockets: Arc<AtomicUsize>,
) {
    let shard = Rc::new(Shard::new(parts, answers, open_sockets));
    // One timer that is moved when the next deadline does, not one per turn.
    let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
    let mut armed = None;
    let mut given = pin!(shard.wake.notified());
    let mut lagging_since_ms = None;
    loop {
        let deadline = shard.next_deadline();
        if let Some(at) = deadline.filter(|at| armed != Some(*at)) {
            alarm.as_mut().reset(at.into());
        }
        armed = deadline;
        // Whichever of these it is, the others are looked at below; but not the time.
        let woken = tokio::select! {
            biased;
            () = alarm.as_mut(), if armed.is_some() => Woken::Due,
            Some(event) = events.recv() => Woken::Event(event),
            received = mail.recv() => match received {
                Some(received) => Woken::Mail(received),
                None => return,
            },
            () = given.as_mut() => Woken::Given,
        };
        shard.read_clocks();
        match woken {
            Woken::Mail(received) => shard.mail(received),
            Woken::Event(event) => shard.input(Input::Broker(event)),
            Woken::Given => given.set(shard.wake.notified()),
            Woken::Due => {
                armed = None;
                shard.tick();
            }
        }
        for _ in 0..TURN {
            if shard.work_left.get() == 0 {
                break;
            }
            let event = events.try_recv();
            let received = mail.try_recv().ok();
            if event.is_none() && received.is_none() {
                break;
            }
            if let Some(received) = received {
                shard.mail(received);
            }
            if let Some(event) = event {
                shard.input(Input::Broker(event));
            }
        }
        shard.carry_out().await;
        shard.work_left.set(TURN_WORK);
        if shard.keep_up(&mut events, &mut lagging_since_ms) {
            // Where there is always more, the other tasks of the thread get their turn all the same.
            tokio::task::yield_now().await;
        }
    }
}

impl Shard {
    fn new(
        parts: ShardParts,
        answers: mpsc::WeakUnboundedSender<Mail>,
        open_sockets: Arc<AtomicUsize>,
    ) -> Self {
        Shard {
            limits: Limits::new(parts.settings.message_bytes),
            inflater: RefCell::default(),
            work_left: Cell::new(TURN_WORK),
            engine: RefCell::new(
                Engine::new(parts.settings.clone(), parts.limits.clone()).on_shard(parts.id),
            ),
            sockets: RefCell::default(),
            generation: Cell::new(0),
            closing: RefCell::default(),
            buffers: RefCell::new(ReadBuffers::new()),
            scratch: RefCell::default(),
            now: Cell::new(parts.clock.now()),
            wake: Notify::new(),
            answers,
            open_sockets,
            stats: Cell::default(),
            notices: RefCell::default(),
            parts,
        }
    }

    fn read_clocks(&self) {
        self.now.set(self.parts.clock.now());
    }

    fn input(&self, input: Input<'_>) {
        self.engine.borrow_mut().handle(self.now.get(), input);
    }

    /// As [`Shard::input`], of what a client caused: its work is spent from the turn's.
    fn client_input(&self, input: Input<'_>) {
        let mut engine = self.engine.borrow_mut();
        let (requests, steps) = (engine.requests(), engine.work());
        engine.handle(self.now.get(), input);
        let requests = (engine.requests() - requests) as usize;
        let steps = (engine.work() - steps) as usize;
        self.spend(MESSAGE_WORK.saturating_mul(1 + requests).saturating_add(STEP_WORK.saturating_mul(steps)));
    }

    /// As [`Shard::input`], from a task beside the loop.
    fn input_and_wake(&self, input: Input<'_>) {
        self.input(input);
        self.wake.notify_one();
    }

    /// Where more waits than a turn takes in, and has for a while, drops superseded states of entities instead of
    /// delivering them later and later. Returns whether more waits than a turn takes in.
    fn keep_up(&self, events: &mut ShardInbox, since_ms: &mut Option<u64>) -> bool {
        if events.len() <= TURN {
            *since_ms = None;
            return false;
        }
        self.read_clocks();
        let now = self.now.get().mono_ms;
        if now - *since_ms.get_or_insert(now) >= LAGGING_MS {
            let superseded = events.drop_superseded() as u64;
            let stats = self.stats.get();
            self.stats.set(ShardStats { superseded: stats.superseded + superseded, ..stats });
        }
        true
    }

    fn next_deadline(&self) -> Option<Instant> {
        let engine = self.engine.borrow().next_deadline_ms();
        let closing = self.closing.borrow().front().map(|(at, _)| *at);
        let at = [engine, closing].into_iter().flatten().min()?;
        Some(self.parts.clock.instant(at))
    }

    fn tick(&self) {
        self.input(Input::Tick);
        let now = self.now.get().mono_ms;
        loop {
            let Some((at, id)) = self.closing.borrow().front().copied() else { return };
            if at > now {
                return;
            }
            self.closing.borrow_mut().pop_front();
            self.remove(id);
        }
    }

    fn mail(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Socket(socket) => {
                let newcomer =
                    self.parts.peers.are_several().then(|| Newcomer::of(&socket.handshake)).flatten();
                self.open(*socket, newcomer);
            }
            Mail::HandedOver(socket) => self.open(*socket, None),
            Mail::Authenticated { conn, result } => {
                self.client_input(Input::Authenticated { conn, result });
                self.socket(conn).iter().for_each(|socket| self.note_standing(socket));
            }
            Mail::Displaced { session } => self.input(Input::Displaced { session }),
            Mail::DetachedTooMany { session } => self.input(Input::DetachedTooMany { session }),
            Mail::Drain { window_ms } => self.input(Input::Drain { window_ms }),
            Mail::Stats(reply) => {
                let engine = self.engine.borrow().stats();
                let sockets = self.sockets.borrow().len() as u64;
                let _ = reply.send(ShardStats { engine, sockets, ..self.stats.get() });
            }
        }
    }

    fn open(self: &Rc<Self>, new: NewSocket, newcomer: Option<Box<Newcomer>>) {
        let stream = match tokio::net::TcpStream::from_std(new.stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a socket could not be taken over");
                self.open_sockets.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        };
        let transport = Transport::new(stream, new.tls);
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let mut sockets = self.sockets.borrow_mut();
        let entry = sockets.vacant_entry();
        let id = ConnId { index: entry.key() as u32, generation };
        let inflates = new.handshake.deflate.is_some();
        let must_resume = new.slot.must_resume();
        let socket = Rc::new(Socket::new(id, transport, inflates, new.slot, new.unauthenticated, newcomer));
        entry.insert(socket.clone());
        drop(sockets);
        self.input(Input::Opened(Opened {
            conn: id,
            connection: random(),
            session: u128::from(random()) << 64 | u128::from(random()),
            encoding: new.handshake.encoding,
            deflate: new.handshake.deflate,
            address: new.handshake.address,
            token: new.handshake.token,
            wait_for_connect: new.handshake.wait_for_connect,
            must_resume,
        }));
        let mut early = new.read_ahead.to_vec();
        if socket.transport.read_early(&mut early).is_ok()
            && !early.is_empty()
            && !self.try_hand_over(&socket, &early)
        {
            self.decode(&socket, &mut early);
        }
        // It may have ended already, and then nothing would end its task.
        if self.socket(id).is_none() {
            return;
        }
        let task = tokio::task::spawn_local(read_loop(self.clone(), socket.clone()));
        socket.reader.replace(Some(task.abort_handle()));
    }

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
    fn try_hand_over(self: &Rc<Self>, socket: &Rc<Socket>, read: &[u8]) -> bool {
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
    fn decode(self: &Rc<Self>, socket: &Rc<Socket>, mut input: &mut [u8]) {
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

    /// A connection that has authenticated no longer counts among those that have not.
    fn note_standing(&self, socket: &Socket) {
        if socket.is_counted_unauthenticated()
            && self.engine.borrow().standing(socket.id) == Standing::Authenticated
        {
            socket.authenticated();
        }
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

    /// Counts work of this turn.
    fn spend(&self, bytes: usize) {
        self.work_left.set(self.work_left.get().saturating_sub(bytes));
    }

    /// Waits until the loop has run, where the sockets have done what they may until then.
    async fn until_there_is_work_left(&self) {
        while self.work_left.get() == 0 {
            self.wake.notify_one();
            tokio::task::yield_now().await;
        }
    }

    /// Carries out what the engine wants.
    async fn carry_out(self: &Rc<Self>) {
        let mut writes = 0;
        loop {
            let Some(output) = self.engine.borrow_mut().poll_output() else { return };
            match output {
                Output::Write { conn, frames } => {
                    self.write(conn, frames);
                    writes += 1;
                }
                Output::Close { conn, mut frames, code, reason } => {
                    if let Some(socket) = self.socket(conn) {
                        frames.push(close_frame(code, &reason));
                        self.begin_close(&socket, frames);
                    }
                }
                Output::Authenticate { conn, token } => self.authenticate(conn, token),
                Output::Displace(holder) => self.parts.peers.displace(holder),
                Output::EndDetached(holder) => self.parts.peers.end_detached(holder),
                Output::Broker(command) => self.parts.broker.command(self.parts.id, command),
                Output::Notice(notice) => self.notices.borrow_mut().log(&notice),
            }
            if writes >= WRITES_PER_YIELD {
                writes = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    fn authenticate(&self, conn: ConnId, token: String) {
        let answers = self.answers.clone();
        self.parts.token_verifier.verify_in_background(token, move |result| {
            if let Some(answers) = answers.upgrade() {
                let _ = answers.send(Mail::Authenticated { conn, result });
            }
        });
    }

    fn write(self: &Rc<Self>, conn: ConnId, frames: Vec<Frame>) {
        let Some(socket) = self.socket(conn) else { return };
        if socket.closing.get() {
            return;
        }
        self.count_out(&frames);
        // Why here: a `CONNECT` may be accepted long after it was read, when its session has been claimed.
        self.note_standing(&socket);
        match socket.send(frames, &mut self.scratch.borrow_mut()) {
            Ok(Sent::All) => {}
            Ok(Sent::Blocked(unsent)) => {
                self.input(Input::Blocked { conn, unsent });
                self.wait_until_writable(socket);
            }
            Err(_) => {
                self.input(Input::Closed { conn, code: ABNORMAL });
                self.remove(conn);
            }
        }
    }

    fn wait_until_writable(self: &Rc<Self>, socket: Rc<Socket>) {
        if !socket.waiting.replace(true) {
            let task = tokio::task::spawn_local(write_loop(self.clone(), socket.clone()));
            socket.writer.replace(Some(task.abort_handle()));
        }
    }

    /// Ends a connection that the engine has removed: writes what is left, then closes the socket.
    fn begin_close(self: &Rc<Self>, socket: &Rc<Socket>, frames: impl IntoIterator<Item = Frame>) {
        if socket.closing.replace(true) {
            return;
        }
        let at = self.now.get().mono_ms + CLOSE_TIMEOUT_MS;
        self.closing.borrow_mut().push_back((at, socket.id));
        socket.append(frames);
        match socket.write_rest() {
            Ok(true) => self.finish(socket),
            Ok(false) => self.wait_until_writable(socket.clone()),
            Err(_) => self.remove(socket.id),
        }
    }

    /// All is written: the peer has the last word.
    fn finish(&self, socket: &Rc<Socket>) {
        socket.transport.finish();
        if socket.peer_closed.get() {
            self.remove(socket.id);
        }
    }

    fn socket(&self, conn: ConnId) -> Option<Rc<Socket>> {
        self.sockets.borrow().get(conn.index as usize).filter(|socket| socket.id == conn).cloned()
    }

    /// Lets go of a socket. Its file closes when the tasks that hold it have ended.
    fn remove(&self, conn: ConnId) {
        if let Some(socket) = self.socket(conn) {
            self.sockets.borrow_mut().remove(conn.index as usize);
            self.open_sockets.fetch_sub(1, Ordering::Relaxed);
            for task in [&socket.reader, &socket.writer] {
                if let Some(task) = task.take() {
                    task.abort();
                }
            }
        }
    }

    fn count_in(&self, bytes: usize) {
        let stats = self.stats.get();
        self.stats.set(ShardStats { bytes_in: stats.bytes_in + bytes as u64, ..stats });
    }

    fn count_inflated(&self, bytes: usize) {
        let stats = self.stats.get();
        self.stats.set(ShardStats { bytes_inflated: stats.bytes_inflated + bytes as u64, ..stats });
    }

    fn count_out(&self, frames: &[Frame]) {
        let stats = self.stats.get();
        let bytes: usize = frames.iter().map(Frame::len).sum();
        self.stats.set(ShardStats {
            writes: stats.writes + 1,
            bytes_out: stats.bytes_out + bytes as u64,
            ..stats
        });
    }
}

/// How a reading task continues.
enum Next {
    Read,
    /// After the other tasks of the thread.
    Yield,
    End,
}

/// Waits for bytes and hands them to the engine, until the socket ends.
async fn read_loop(shard: Rc<Shard>, socket: Rc<Socket>) {
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

/// Waits until a full socket takes bytes again, writes what is half written, and notifies the engine.
async fn write_loop(shard: Rc<Shard>, socket: Rc<Socket>) {
    loop {
        let written = match socket.transport.writable().await {
            Ok(()) => socket.write_rest(),
            Err(error) => Err(error),
        };
        shard.read_clocks();
        match written {
            Ok(false) => continue,
            Ok(true) if socket.closing.get() => shard.finish(&socket),
            Ok(true) => shard.input_and_wake(Input::Writable { conn: socket.id }),
            Err(_) => {
                shard.input_and_wake(Input::Closed { conn: socket.id, code: ABNORMAL });
                shard.remove(socket.id);
            }
        }
        socket.waiting.set(false);
        return;
    }
}

fn close_frame(code: CloseCode, reason: &str) -> Frame {
    encode_close(code.as_u16(), reason)
}

/// 64 unguessable bits.
fn random() -> u64 {
    // Without randomness there are no secret session names: the process cannot go on.
    getrandom::u64().unwrap_or_else(|error| {
        tracing::error!(%error, "the system returned no random bytes");
        std::process::abort()
    })
}
