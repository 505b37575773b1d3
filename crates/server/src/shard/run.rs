//! A shard's loop: what wakes it, what a turn does, and how sockets are opened, written and closed. How they are read is in
//! [`reading`].

mod reading;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{BrokerEvent, ConnId, Input, Now, Opened, Output, Standing};
use drawbridge_engine::work::STEPS_PER_TOKEN;
use drawbridge_protocol::websocket::{Inflater, Limits, encode_close};
use drawbridge_protocol::{CloseCode, Frame};
use slab::Slab;
use tokio::sync::{Notify, mpsc};

use self::reading::read_loop;
use super::newcomer::Newcomer;
use super::socket::{Sent, Socket};
use super::transport::{ReadBuffers, Transport};
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
/// What all sockets together may have decoded and done between two runs of the loop, in bytes read and inflated. However many
/// sockets send however much, an event from the broker waits for no more than this and one message.
const TURN_WORK: usize = 128 * 1024;
/// What a message and each of its requests count as, in bytes, beside those that they have.
const MESSAGE_WORK: usize = 512;
/// What a step of work over entities and filters counts as, in bytes: a token of `limits.work` is as much as a message.
const STEP_WORK: usize = MESSAGE_WORK / STEPS_PER_TOKEN as usize;
/// How long a closing socket may take to read what is left for it and to close its side.
const CLOSE_TIMEOUT_MS: u64 = 5_000;
/// The status for a connection that ended without a close frame (RFC 6455 §7.4.1).
const ABNORMAL: u16 = 1006;

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
        let deadline_ms = shard.next_deadline_ms();
        if let Some(at_ms) = deadline_ms.filter(|at_ms| armed != Some(*at_ms)) {
            alarm.as_mut().reset(shard.parts.clock.instant(at_ms).into());
        }
        armed = deadline_ms;
        let is_due = deadline_ms.is_some_and(|at_ms| at_ms <= shard.now.get().mono_ms);
        if is_due {
            // The engine has left something to this turn: the other tasks of the thread get theirs before.
            tokio::task::yield_now().await;
        }
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
            // Why not by the alarm: it rings a millisecond later.
            () = std::future::ready(()), if is_due => Woken::Due,
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

    /// When [`Shard::tick`] must come at the latest, in monotonic milliseconds.
    fn next_deadline_ms(&self) -> Option<u64> {
        let engine = self.engine.borrow().next_deadline_ms();
        let closing = self.closing.borrow().front().map(|(at, _)| *at);
        engine.into_iter().chain(closing).min()
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

    /// A connection that has authenticated no longer counts among those that have not.
    fn note_standing(&self, socket: &Socket) {
        if socket.is_counted_unauthenticated()
            && self.engine.borrow().standing(socket.id) == Standing::Authenticated
        {
            socket.authenticated();
        }
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
