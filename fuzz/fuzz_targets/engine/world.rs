//! The engine, its hub and everything around them that the input decides on.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{
    Answer, BrokerCommand, BrokerEvent, BrokerStatus, ConnId, Input, MessageKind, Now, Opened, Output,
    PlayerAction, PlayerCommand, Position, PublishFailure, Query, QueryKind, Ticket, Write, WriteKind,
};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::settings::Settings;
use drawbridge_engine::upstream::{Hub, HubInput, HubOutput, HubSettings, LinkId, ShardId, StoredEntity};
use drawbridge_protocol::websocket::Window;
use drawbridge_protocol::{Encoding, Frame};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::json;

use crate::client::{self, Socket};
use crate::redis::{Push, Redis};

pub const MESSAGE_BYTES: usize = 4 << 10;
const OUTBOUND_BYTES: u64 = 8 << 10;
/// What may wait beside the bound: a turn's replies to one array, and one snapshot's part.
const SLACK_BYTES: u64 = 128 << 10;
const SHARD: ShardId = ShardId(0);
/// No queue of this small world is ever worked through in more steps.
const MAX_TURNS: usize = 100_000;

static SETTINGS: LazyLock<Arc<Settings>> = LazyLock::new(|| {
    let config = drawbridge::config::parse("fuzz", include_str!("drawbridge.toml"), &[]);
    Arc::new(config.unwrap_or_else(|errors| panic!("{errors}")).engine)
});

pub struct World<'a> {
    u: Unstructured<'a>,
    engine: Engine,
    hub: Hub,
    now: Now,
    redis: Redis,
    sockets: Vec<Socket>,
    opened: u32,
    orders: VecDeque<BrokerCommand>,
    publishes: VecDeque<Write>,
    questions: VecDeque<Ticket>,
    tokens: VecDeque<ConnId>,
    loads: VecDeque<(Arc<str>, u64)>,
    events: VecDeque<BrokerEvent>,
    /// Everything is answered, and every socket reads.
    settling: bool,
}

impl<'a> World<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let settings = SETTINGS.clone();
        let hub = Hub::new(HubSettings {
            link: LinkId::at(0),
            seed: 1,
            linger_ms: 50,
            external_bytes: settings.external_bytes,
            classes: settings.classes.clone(),
            reserved: settings.reserved.clone(),
        });
        let mut world = World {
            u: Unstructured::new(bytes),
            engine: Engine::new(settings.clone(), SharedLimits::new(&settings)),
            hub,
            now: Now { mono_ms: 1_000, unix_ms: 1_790_000_000_000 },
            redis: Redis::default(),
            sockets: Vec::new(),
            opened: 0,
            orders: VecDeque::new(),
            publishes: VecDeque::new(),
            questions: VecDeque::new(),
            tokens: VecDeque::new(),
            loads: VecDeque::new(),
            events: VecDeque::new(),
            settling: false,
        };
        world.link_up();
        world
    }

    /// One thing that the input says; false when it has ended.
    pub fn step(&mut self) -> bool {
        !self.u.is_empty() && self.try_step().is_ok()
    }

    fn try_step(&mut self) -> Result<()> {
        match self.u.int_in_range(0..=99)? {
            0..8 => self.open()?,
            8..40 => self.message()?,
            40..43 => self.control_frame()?,
            43..46 => self.close_one()?,
            46..50 => self.unblock_one(),
            50..53 => self.answer_token()?,
            53..65 => self.service_publishes()?,
            65..68 => self.lose_an_event()?,
            68..70 => self.break_or_mend()?,
            70..73 => self.command()?,
            73..79 => self.pass_time()?,
            79..80 => self.engine_turn(Input::Drain { window_ms: 200 }),
            80..86 => drop(self.carry_one_order()),
            86..90 => drop(self.answer_publish()?),
            90..93 => drop(self.answer_question()?),
            93..96 => drop(self.answer_load()?),
            _ => {
                for _ in 0..self.u.int_in_range(1..=20)? {
                    self.carry_one_push()?;
                    self.carry_one_event();
                }
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let encoding = if self.u.arbitrary()? { Encoding::Json } else { Encoding::MsgPack };
        let deflate = match self.u.int_in_range(0..=3)? {
            0 => Some(Window::W9),
            1 => Some(Window::W15),
            _ => None,
        };
        let token = match self.u.ratio(3, 4)? {
            true => Some(client::token(&mut self.u, self.now.unix_ms)?),
            false => None,
        };
        let wait_for_connect = self.u.ratio(1, 8)?;
        // A place is used again when it is free.
        let index = (0..).find(|index| self.sockets.iter().all(|socket| socket.conn.index != *index));
        self.opened += 1;
        let conn = ConnId { index: index.unwrap_or_default(), generation: self.opened };
        self.sockets.push(Socket { conn, encoding, deflate, blocked: false });
        self.engine_turn(Input::Opened(Opened {
            conn,
            connection: u64::from(self.opened) << 8,
            session: u128::from(self.opened),
            encoding,
            deflate,
            address: [127, 0, 0, 1].into(),
            token,
            wait_for_connect,
        }));
        Ok(())
    }

    fn some_socket(&mut self) -> Result<Option<usize>> {
        match self.sockets.len() {
            0 => Ok(None),
            count => Ok(Some(self.u.choose_index(count)?)),
        }
    }

    fn message(&mut self) -> Result<()> {
        let Some(at) = self.some_socket()? else { return Ok(()) };
        let (conn, encoding) = (self.sockets[at].conn, self.sockets[at].encoding);
        let payload = client::message(&mut self.u, encoding)?;
        let mut kind = match encoding {
            Encoding::Json => MessageKind::Text,
            Encoding::MsgPack => MessageKind::Binary,
        };
        if self.u.ratio(1, 64)? && std::str::from_utf8(&payload).is_ok() {
            kind = if kind == MessageKind::Text { MessageKind::Binary } else { MessageKind::Text };
        }
        let cost_bytes = u64::from(self.u.arbitrary::<u16>()?);
        self.engine_turn(Input::Message { conn, kind, payload: &payload, cost_bytes });
        Ok(())
    }

    fn control_frame(&mut self) -> Result<()> {
        let Some(at) = self.some_socket()? else { return Ok(()) };
        let conn = self.sockets[at].conn;
        let length = self.u.int_in_range(0..=125)?;
        match self.u.int_in_range(0..=2)? {
            0 => self.engine_turn(Input::Ping { conn, payload: &[b'p'; 125][..length] }),
            1 => self.engine_turn(Input::Pong { conn }),
            _ => self.engine_turn(Input::Oversized { conn, cost_bytes: 5_000 }),
        }
        Ok(())
    }

    fn close_one(&mut self) -> Result<()> {
        let Some(at) = self.some_socket()? else { return Ok(()) };
        let conn = self.sockets.remove(at).conn;
        let code = *self.u.choose(&[1000, 1001, 1002, 1006, 1009, 4999])?;
        self.engine_turn(Input::Closed { conn, code });
        Ok(())
    }

    fn unblock_one(&mut self) {
        if let Some(socket) = self.sockets.iter_mut().find(|socket| socket.blocked) {
            socket.blocked = false;
            let conn = socket.conn;
            self.engine_turn(Input::Writable { conn });
        }
    }

    fn answer_token(&mut self) -> Result<()> {
        let Some(conn) = self.tokens.pop_front() else { return Ok(()) };
        let result = client::token(&mut self.u, self.now.unix_ms)?;
        self.engine_turn(Input::Authenticated { conn, result });
        Ok(())
    }

    /// Another service publishes something, by the function or plainly.
    fn service_publishes(&mut self) -> Result<()> {
        let channel: Arc<str> = client::channel(&mut self.u)?.into();
        let payload: Bytes = match self.u.int_in_range(0..=7)? {
            0 => self.u.arbitrary::<&[u8]>()?.to_vec().into(),
            1 => vec![b'x'; usize::from(self.u.arbitrary::<u16>()?)].into(),
            2 => {
                // As a server would write it, with a version that the table never had.
                let seq = self.u.arbitrary::<u64>()?;
                let id = format!("db1.0000000000000100.{seq}@5e1f.{seq}");
                json!({ "event": "moved", "data": client::data(&mut self.u)?, "id": id }).to_string().into()
            }
            kind => {
                let event = if kind == 3 { "remove" } else { "moved" };
                json!({ "event": event, "data": client::data(&mut self.u)?, "from": "service" })
                    .to_string()
                    .into()
            }
        };
        self.redis.publish(&channel, &payload);
        Ok(())
    }

    /// The shard's queue was full: a publication became a gap, or the hub makes good all that were lost.
    fn lose_an_event(&mut self) -> Result<()> {
        if self.u.ratio(1, 4)? {
            self.events.retain(|event| !matches!(event, BrokerEvent::Publication(_)));
            self.hub_turn(HubInput::Lost { shard: SHARD });
            return Ok(());
        }
        for event in &mut self.events {
            if let BrokerEvent::Publication(publication) = event {
                let position = Position { epoch: publication.epoch, offset: publication.offset };
                *event = BrokerEvent::Gap { channel: publication.channel.clone(), position };
                break;
            }
        }
        Ok(())
    }

    fn break_or_mend(&mut self) -> Result<()> {
        if !self.redis.up {
            self.link_up();
            return Ok(());
        }
        for push in self.redis.cut() {
            if let Push::Fence { ticket, channel } = push {
                self.events.push_back(BrokerEvent::Answer { ticket, answer: Ok(Answer::Fence(channel)) });
            }
        }
        self.hub_turn(HubInput::LinkDown);
        self.events.push_back(BrokerEvent::Status(BrokerStatus::Degraded));
        Ok(())
    }

    fn link_up(&mut self) {
        self.redis.up = true;
        self.hub_turn(HubInput::LinkUp);
        self.events.push_back(BrokerEvent::Recover { dropped: false, barrier: None });
        self.events.push_back(BrokerEvent::Status(BrokerStatus::Ok));
    }

    /// A service commands something about a player; commands about patterns and channels have passed their checks.
    fn command(&mut self) -> Result<()> {
        let player: Arc<str> = client::player(&mut self.u)?.into();
        let channel: Arc<str> = client::subject(&mut self.u)?.into();
        if drawbridge_protocol::channel::validate_subject(&channel).is_err() {
            return Ok(());
        }
        let action = match self.u.int_in_range(0..=5)? {
            0 | 1 => PlayerAction::Subscribe { channel },
            2 => PlayerAction::Unsubscribe { channel },
            3 | 4 if !drawbridge_protocol::channel::is_pattern(&channel) => {
                let view = match self.u.arbitrary()? {
                    true => Some(client::filter(&mut self.u)?.into()),
                    false => None,
                };
                PlayerAction::View { channel, view }
            }
            _ => PlayerAction::Disconnect { reason: Some("enough".into()) },
        };
        self.events.push_back(BrokerEvent::Command(PlayerCommand { player, action }));
        Ok(())
    }

    fn pass_time(&mut self) -> Result<()> {
        let ms = match self.u.int_in_range(0..=3)? {
            0 => 1,
            1 => u64::from(self.u.arbitrary::<u8>()?),
            2 => u64::from(self.u.arbitrary::<u16>()?),
            _ => self.engine.next_deadline_ms().map_or(10, |at| at.saturating_sub(self.now.mono_ms)),
        };
        self.pass(ms);
        Ok(())
    }

    /// As the shell does it: a tick at each deadline on the way.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.now.mono_ms + ms;
        for _ in 0..MAX_TURNS {
            let deadline = self.engine.next_deadline_ms().unwrap_or(u64::MAX);
            let at_ms = deadline.clamp(self.now.mono_ms, until_ms);
            self.now.unix_ms += at_ms - self.now.mono_ms;
            self.now.mono_ms = at_ms;
            self.hub_turn(HubInput::Tick);
            self.engine_turn(Input::Tick);
            let next = self.engine.next_deadline_ms().unwrap_or(u64::MAX);
            assert!(next > at_ms, "a deadline that passed is still there");
            if at_ms == until_ms {
                return;
            }
        }
        panic!("deadlines without end");
    }

    fn carry_one_order(&mut self) -> bool {
        let Some(order) = self.orders.pop_front() else { return false };
        match &order {
            BrokerCommand::Want(subject) => {
                self.hub_turn(HubInput::Want { shard: SHARD, subject: subject.clone() })
            }
            BrokerCommand::Unwant(subject) => self.hub_turn(HubInput::Unwant { shard: SHARD, subject }),
            BrokerCommand::Refresh(subject) => self.hub_turn(HubInput::Refresh { shard: SHARD, subject }),
            BrokerCommand::Query(Query { ticket, kind: QueryKind::Fence { channel }, .. }) => {
                let (ticket, channel) = (*ticket, channel.clone());
                match self.redis.up {
                    true => self.redis.unread.push_back(Push::Fence { ticket, channel }),
                    false => self
                        .events
                        .push_back(BrokerEvent::Answer { ticket, answer: Ok(Answer::Fence(channel)) }),
                }
            }
            other => panic!("not an order: {other:?}"),
        }
        true
    }

    fn carry_one_push(&mut self) -> Result<bool> {
        let refuses = !self.settling && self.u.ratio(1, 32)?;
        let Some(push) = self.redis.unread.pop_front() else { return Ok(false) };
        match &push {
            Push::Subscribed(subject) if refuses => {
                self.redis.refuse(subject);
                self.hub_turn(HubInput::Refused { subject, reason: "NOPERM" });
            }
            Push::Subscribed(subject) => self.hub_turn(HubInput::Subscribed(subject)),
            Push::Unsubscribed(subject) => self.hub_turn(HubInput::Unsubscribed(subject)),
            Push::Fence { ticket, channel } => {
                self.events.push_back(BrokerEvent::Answer {
                    ticket: *ticket,
                    answer: Ok(Answer::Fence(channel.clone())),
                });
            }
            Push::Message { pattern, channel, payload } => {
                let (pattern, channel) = (pattern.as_deref().map(str::as_bytes), channel.as_bytes());
                match payload.len() > SETTINGS.external_bytes {
                    true => {
                        self.hub_turn(HubInput::OversizedMessage { pattern, channel, bytes: payload.len() })
                    }
                    false => self.hub_turn(HubInput::Message { pattern, channel, payload }),
                }
            }
        }
        Ok(true)
    }

    fn carry_one_event(&mut self) -> bool {
        let Some(event) = self.events.pop_front() else { return false };
        self.engine_turn(Input::Broker(event));
        true
    }

    fn failure(&mut self) -> Result<Option<PublishFailure>> {
        if self.settling {
            return Ok(None);
        }
        Ok(match self.u.int_in_range(0..=9)? {
            0 => Some(PublishFailure::NotDone),
            1 => Some(PublishFailure::Unknown),
            2 => Some(PublishFailure::Refused("OOM".into())),
            3 => Some(PublishFailure::LimitExceeded),
            _ => None,
        })
    }

    fn answer_publish(&mut self) -> Result<bool> {
        let failure = self.failure()?;
        let Some(publish) = self.publishes.pop_front() else { return Ok(false) };
        if failure.is_none() {
            match &publish.kind {
                WriteKind::Publish { channel, payload } => self.redis.publish(channel, payload),
                WriteKind::Commit { channel, commit } => self.redis.commit(channel, commit),
                WriteKind::SetOverride { .. } | WriteKind::Append { .. } => {}
            }
        }
        if let Some(ticket) = publish.ticket {
            self.events.push_back(BrokerEvent::Outcome { ticket, outcome: failure.map_or(Ok(()), Err) });
        }
        Ok(true)
    }

    fn answer_question(&mut self) -> Result<bool> {
        let Some(ticket) = self.questions.pop_front() else { return Ok(false) };
        let mut views = Vec::new();
        if !self.settling {
            if self.u.ratio(1, 8)? {
                let views = Err("NOPERM no permission".into());
                self.events.push_back(BrokerEvent::Answer { ticket, answer: views });
                return Ok(true);
            }
            for _ in 0..self.u.int_in_range(0..=3)? {
                views.push((client::subject(&mut self.u)?.into(), client::filter(&mut self.u)?.into()));
            }
        }
        self.events.push_back(BrokerEvent::Answer { ticket, answer: Ok(Answer::ViewOverrides(views.into())) });
        Ok(true)
    }

    /// The table as it is, or one that somebody else has written to.
    fn answer_load(&mut self) -> Result<bool> {
        let Some((channel, load)) = self.loads.pop_front() else { return Ok(false) };
        let mut table = Ok(self.redis.table(&channel));
        if !self.settling {
            match (self.u.int_in_range(0..=9)?, &mut table) {
                (0, table) => *table = Err("NOPERM no permission".into()),
                (1, Ok(table)) => table.epoch = self.u.arbitrary::<&str>()?.to_owned(),
                (2, Ok(table)) => table.seq = self.u.arbitrary()?,
                (3..6, Ok(table)) => {
                    let payload = match self.u.arbitrary()? {
                        true => {
                            json!({ "event": "moved", "data": client::data(&mut self.u)? }).to_string().into()
                        }
                        false => self.u.arbitrary::<&[u8]>()?.to_vec().into(),
                    };
                    let key = (*self.u.choose(&client::KEYS)?).to_owned();
                    table.entities.push(StoredEntity { key, age_ms: self.u.arbitrary()?, payload });
                }
                _ => {}
            }
        }
        self.hub_turn(HubInput::Loaded { channel: &channel, load, table });
        Ok(true)
    }

    fn hub_turn(&mut self, input: HubInput<'_>) {
        self.hub.handle(self.now.mono_ms, input);
        while let Some(output) = self.hub.poll_output() {
            match output {
                HubOutput::Link(command) => self.redis.command(command),
                HubOutput::Load { channel, load } => self.loads.push_back((channel, load)),
                HubOutput::Shards(shards, event) => {
                    assert!(shards.contains(SHARD));
                    self.events.push_back(event);
                }
                HubOutput::Peer(..) | HubOutput::Moved(_) => unreachable!("there is one link"),
                HubOutput::BadEntity { .. } | HubOutput::BadTable { .. } | HubOutput::Oversized { .. } => {}
            }
        }
    }

    fn engine_turn(&mut self, input: Input<'_>) {
        self.engine.handle(self.now, input);
        self.engine.check();
        let (mut stalled, mut displaced) = (Vec::new(), Vec::new());
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Write { conn, frames } => stalled.extend(self.written(conn, frames)),
                Output::Close { conn, frames, .. } => {
                    let at = self.sockets.iter().position(|socket| socket.conn == conn);
                    let socket = self.sockets.remove(at.expect("a close of who is there"));
                    frames.iter().for_each(|frame| client::check_frame(&socket, frame));
                    stalled.retain(|(other, _)| *other != conn);
                }
                Output::Authenticate { conn, .. } => self.tokens.push_back(conn),
                Output::Broker(command) => self.ordered(command),
                Output::Displace(holder) => displaced.push(holder.session),
                Output::Notice(_) => {}
            }
        }
        for session in displaced {
            self.engine_turn(Input::Displaced { session });
        }
        for (conn, unsent) in stalled {
            self.engine_turn(Input::Blocked { conn, unsent });
        }
        let stats = self.engine.stats();
        let bound = self.sockets.len() as u64 * (OUTBOUND_BYTES + SLACK_BYTES);
        assert!(stats.frame_bytes + stats.queued_bytes <= bound, "{stats:?}");
        assert_eq!(stats.connections, self.sockets.len() as u64);
    }

    /// The socket takes all of it, or returns the frames it has not begun.
    fn written(&mut self, conn: ConnId, mut frames: Vec<Frame>) -> Option<(ConnId, Vec<Frame>)> {
        let socket =
            self.sockets.iter_mut().find(|socket| socket.conn == conn).expect("a write to who is there");
        assert!(!socket.blocked, "a write to a socket that takes nothing");
        assert!(!frames.is_empty(), "a write of nothing");
        frames.iter().for_each(|frame| client::check_frame(socket, frame));
        if self.settling || !self.u.ratio(1, 10).unwrap_or(false) {
            return None;
        }
        socket.blocked = true;
        let taken = self.u.int_in_range(0..=frames.len()).unwrap_or(0);
        Some((conn, frames.split_off(taken)))
    }

    fn ordered(&mut self, command: BrokerCommand) {
        match command {
            BrokerCommand::Write(write) => self.publishes.push_back(write),
            BrokerCommand::Query(Query { ticket, kind: QueryKind::ViewOverrides { .. }, .. }) => {
                self.questions.push_back(ticket);
            }
            BrokerCommand::Withdraw(ticket) => self.questions.retain(|other| *other != ticket),
            BrokerCommand::Recovered(token) => {
                self.hub_turn(HubInput::Passed { shard: SHARD, token });
            }
            BrokerCommand::Want(_)
            | BrokerCommand::Unwant(_)
            | BrokerCommand::Refresh(_)
            | BrokerCommand::Query(_) => self.orders.push_back(command),
        }
    }

    pub fn everybody_leaves(&mut self) {
        while let Some(socket) = self.sockets.pop() {
            self.engine_turn(Input::Closed { conn: socket.conn, code: 1006 });
        }
    }

    /// Everything is carried and answered with the link up, until nothing is left to do.
    pub fn settle(&mut self) {
        self.settling = true;
        if !self.redis.up {
            self.link_up();
        }
        for _ in 0..20 {
            self.pass(50);
            let mut turns = 0;
            while self.carry_anything() {
                turns += 1;
                assert!(turns < MAX_TURNS, "it never comes to rest");
            }
        }
    }

    fn carry_anything(&mut self) -> bool {
        self.carry_one_order()
            || self.carry_one_push().unwrap_or(false)
            || self.answer_publish().unwrap_or(false)
            || self.answer_question().unwrap_or(false)
            || self.answer_load().unwrap_or(false)
            || self.carry_one_event()
    }

    pub fn check_nothing_is_left(&self) {
        let stats = self.engine.stats();
        let gauges = [
            stats.connections,
            stats.welcomed,
            stats.subscriptions,
            stats.targets,
            stats.views,
            stats.frame_bytes,
            stats.queued_bytes,
            stats.publishing,
            stats.loading,
            stats.deferred,
            stats.entities,
            stats.timers,
            stats.releasing,
        ];
        assert_eq!(gauges, [0; 13], "{stats:?}");
        let hub = self.hub.stats();
        assert_eq!((hub.subjects, hub.live, hub.pattern_channels, hub.entities), (0, 0, 0, 0));
    }
}
