//! A cluster of one engine and one hub, and everything around it that the input decides on.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use drawbridge_engine::io::{
    BrokerEvent, ConnId, Input, MessageKind, Notice, Opened, PlayerAction, PlayerCommand, PlayerOverrides,
    PublishFailure, Subject,
};
use drawbridge_engine::settings::Settings;
use drawbridge_engine::upstream::{HubOutput, StoredEntity, StoredTable};
use drawbridge_protocol::websocket::Window;
use drawbridge_protocol::{Encoding, Frame};
use drawbridge_testkit::cluster::{Cluster, Outside, Size, SocketId};
use drawbridge_testkit::dice::Chance;
use drawbridge_testkit::frames;
use drawbridge_testkit::redis::NODES_CHANNEL;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::json;

use crate::client::{self, Socket};

pub const MESSAGE_BYTES: usize = 4 << 10;
const OUTBOUND_BYTES: u64 = 8 << 10;
/// What may wait beside the bound: a turn's replies to one array, and one snapshot's part.
const SLACK_BYTES: u64 = 128 << 10;
/// No queue of this small world is ever worked through in more steps.
const MAX_TURNS: usize = 100_000;

static SETTINGS: LazyLock<Arc<Settings>> = LazyLock::new(|| {
    let config = drawbridge::config::parse("fuzz", include_str!("drawbridge.toml"), &[]);
    Arc::new(config.unwrap_or_else(|errors| panic!("{errors}")).engine)
});

/// Everyone at the sockets, and what goes wrong, as the input says.
struct Players<'a> {
    u: Unstructured<'a>,
    sockets: Vec<Socket>,
    tokens: VecDeque<ConnId>,
    /// Everything is answered, and every socket reads.
    settling: bool,
}

pub struct World<'a> {
    cluster: Cluster,
    players: Players<'a>,
    opened: u32,
}

impl Chance for Players<'_> {
    fn roll(&mut self, sides: usize) -> usize {
        self.u.int_in_range(0..=sides - 1).unwrap_or(0)
    }
}

impl Outside for Players<'_> {
    /// The socket takes all of it, or returns the frames it has not begun.
    fn write(&mut self, socket: SocketId, mut frames: Vec<Frame>) -> Option<Vec<Frame>> {
        let socket = self.sockets.iter_mut().find(|other| other.conn == socket.conn);
        let socket = socket.expect("a write to who is there");
        assert!(!socket.blocked, "a write to a socket that takes nothing");
        assert!(!frames.is_empty(), "a write of nothing");
        frames.iter().for_each(|frame| check_frame(socket, frame));
        if self.settling || !self.u.ratio(1, 10).unwrap_or(false) {
            return None;
        }
        socket.blocked = true;
        let taken = self.u.int_in_range(0..=frames.len()).unwrap_or(0);
        Some(frames.split_off(taken))
    }

    fn close(&mut self, socket: SocketId, frames: Vec<Frame>, _code: u16) {
        let at = self.sockets.iter().position(|other| other.conn == socket.conn);
        let socket = self.sockets.remove(at.expect("a close of who is there"));
        frames.iter().for_each(|frame| check_frame(&socket, frame));
    }

    fn authenticate(&mut self, socket: SocketId, _token: &str) {
        self.tokens.push_back(socket.conn);
    }

    fn notice(&mut self, _notice: Notice) {}

    fn unreadable(&mut self, _what: &HubOutput) {}

    fn refuses(&mut self, subject: &Subject) -> bool {
        *subject.name != *NODES_CHANNEL && self.happens(32)
    }

    fn failure(&mut self) -> Option<PublishFailure> {
        if self.settling {
            return None;
        }
        match self.roll(10) {
            0 => Some(PublishFailure::NotDone),
            1 => Some(PublishFailure::Unknown),
            2 => Some(PublishFailure::Refused("OOM".into())),
            3 => Some(PublishFailure::LimitExceeded),
            _ => None,
        }
    }

    /// What is stored, or more: whatever others have written.
    fn overrides(&mut self, stored: PlayerOverrides) -> std::result::Result<PlayerOverrides, Arc<str>> {
        if self.happens(8) {
            return Err("NOPERM no permission".into());
        }
        let mut views = stored.to_vec();
        let more = if self.settling { 0 } else { self.roll(4) };
        for _ in 0..more {
            let (Ok(subject), Ok(filter)) = (client::subject(&mut self.u), client::filter(&mut self.u))
            else {
                break;
            };
            views.push((subject.into(), filter.into()));
        }
        Ok(views.into())
    }

    fn table(&mut self, mut stored: StoredTable) -> std::result::Result<StoredTable, Arc<str>> {
        if self.happens(10) {
            return Err("NOPERM no permission".into());
        }
        if !self.settling {
            // Where the input has ended the table stays as it is.
            let _ = self.change(&mut stored);
        }
        Ok(stored)
    }
}

impl Players<'_> {
    /// Once in so many times.
    fn happens(&mut self, times: usize) -> bool {
        !self.settling && self.roll(times) == times - 1
    }

    /// Somebody else writes to a table.
    fn change(&mut self, table: &mut StoredTable) -> Result<()> {
        match self.u.int_in_range(0..=9)? {
            1 => table.epoch = self.u.arbitrary::<&str>()?.to_owned(),
            2 => table.seq = self.u.arbitrary()?,
            3..6 => {
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
        Ok(())
    }
}

/// One frame as this socket gets it: whole, of the right kind, and messages of the contract.
fn check_frame(socket: &Socket, frame: &[u8]) {
    frames::read(frame, socket.encoding, socket.deflate.is_some());
}

impl<'a> World<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let (sockets, tokens) = (Vec::new(), VecDeque::new());
        let mut players = Players { u: Unstructured::new(bytes), sockets, tokens, settling: false };
        let size = Size { nodes: 1, shards: 1, links: 1 };
        let cluster = Cluster::new(&SETTINGS, size, &mut players);
        World { cluster, players, opened: 0 }
    }

    /// One thing that the input says; false when it has ended.
    pub fn step(&mut self) -> bool {
        !self.players.u.is_empty() && self.try_step().is_ok()
    }

    fn try_step(&mut self) -> Result<()> {
        match self.players.u.int_in_range(0..=99)? {
            0..8 => self.open()?,
            8..40 => self.message()?,
            40..43 => self.control_frame()?,
            43..46 => self.close_one()?,
            46..50 => self.unblock_one(),
            50..53 => self.answer_token()?,
            53..65 => self.service_publishes()?,
            65..68 => self.lose_an_event()?,
            68..70 => self.break_or_mend(),
            70..73 => self.command()?,
            73..79 => self.pass_time()?,
            79..80 => self.engine_turn(Input::Drain { window_ms: 200 }),
            80..86 => drop(self.cluster.carry_command(0, &mut self.players)),
            86..90 => drop(self.cluster.carry_write(0, &mut self.players)),
            90..92 => drop(self.cluster.carry_query(0, &mut self.players)),
            92..96 => drop(self.cluster.carry_scan(0)),
            _ => {
                for _ in 0..self.players.u.int_in_range(1..=20)? {
                    self.cluster.carry_push(0, &mut self.players);
                    self.cluster.carry_event(0, 0, &mut self.players);
                }
            }
        }
        self.check_bounds();
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let encoding = if self.players.u.arbitrary()? { Encoding::Json } else { Encoding::MsgPack };
        let deflate = match self.players.u.int_in_range(0..=3)? {
            0 => Some(Window::W9),
            1 => Some(Window::W15),
            _ => None,
        };
        let token = match self.players.u.ratio(3, 4)? {
            true => Some(client::token(&mut self.players.u, self.cluster.now.unix_ms)?),
            false => None,
        };
        let wait_for_connect = self.players.u.ratio(1, 8)?;
        // A place is used again when it is free.
        let index = (0..).find(|index| self.players.sockets.iter().all(|socket| socket.conn.index != *index));
        self.opened += 1;
        let conn = ConnId { index: index.unwrap_or_default(), generation: self.opened };
        self.players.sockets.push(Socket { conn, encoding, deflate, blocked: false });
        self.engine_turn(Input::Opened(Opened {
            conn,
            connection: u64::from(self.opened) << 8,
            session: u128::from(self.opened),
            encoding,
            deflate,
            address: [127, 0, 0, 1].into(),
            token,
            wait_for_connect,
            must_resume: false,
        }));
        Ok(())
    }

    fn some_socket(&mut self) -> Result<Option<usize>> {
        match self.players.sockets.len() {
            0 => Ok(None),
            count => Ok(Some(self.players.u.choose_index(count)?)),
        }
    }

    fn message(&mut self) -> Result<()> {
        let Some(at) = self.some_socket()? else { return Ok(()) };
        let (conn, encoding) = (self.players.sockets[at].conn, self.players.sockets[at].encoding);
        let payload = client::message(&mut self.players.u, encoding)?;
        let mut kind = match encoding {
            Encoding::Json => MessageKind::Text,
            Encoding::MsgPack => MessageKind::Binary,
        };
        if self.players.u.ratio(1, 64)? && std::str::from_utf8(&payload).is_ok() {
            kind = if kind == MessageKind::Text { MessageKind::Binary } else { MessageKind::Text };
        }
        let cost_bytes = u64::from(self.players.u.arbitrary::<u16>()?);
        self.engine_turn(Input::Message { conn, kind, payload: &payload, cost_bytes });
        Ok(())
    }

    fn control_frame(&mut self) -> Result<()> {
        let Some(at) = self.some_socket()? else { return Ok(()) };
        let conn = self.players.sockets[at].conn;
        let length = self.players.u.int_in_range(0..=125)?;
        match self.players.u.int_in_range(0..=2)? {
            0 => self.engine_turn(Input::Ping { conn, payload: &[b'p'; 125][..length] }),
            1 => self.engine_turn(Input::Pong { conn }),
            _ => self.engine_turn(Input::Oversized { conn, cost_bytes: 5_000 }),
        }
        Ok(())
    }

    fn close_one(&mut self) -> Result<()> {
        let Some(at) = self.some_socket()? else { return Ok(()) };
        let conn = self.players.sockets.remove(at).conn;
        let code = *self.players.u.choose(&[1000, 1001, 1002, 1006, 1009, 4999])?;
        self.engine_turn(Input::Closed { conn, code });
        Ok(())
    }

    fn unblock_one(&mut self) {
        if let Some(socket) = self.players.sockets.iter_mut().find(|socket| socket.blocked) {
            socket.blocked = false;
            let conn = socket.conn;
            self.engine_turn(Input::Writable { conn });
        }
    }

    fn answer_token(&mut self) -> Result<()> {
        let Some(conn) = self.players.tokens.pop_front() else { return Ok(()) };
        let result = client::token(&mut self.players.u, self.cluster.now.unix_ms)?;
        self.engine_turn(Input::Authenticated { conn, result });
        Ok(())
    }

    /// Another service publishes something, by the function or plainly.
    fn service_publishes(&mut self) -> Result<()> {
        let channel: Arc<str> = client::channel(&mut self.players.u)?.into();
        let payload: Bytes = match self.players.u.int_in_range(0..=7)? {
            0 => self.players.u.arbitrary::<&[u8]>()?.to_vec().into(),
            1 => vec![b'x'; usize::from(self.players.u.arbitrary::<u16>()?)].into(),
            2 => {
                // As a server would write it, with a version that the table never had.
                let seq = self.players.u.arbitrary::<u64>()?;
                let id = format!("db1.0000000000000100.{seq}@t1.{seq}");
                json!({ "event": "moved", "data": client::data(&mut self.players.u)?, "id": id })
                    .to_string()
                    .into()
            }
            kind => {
                let event = if kind == 3 { "remove" } else { "moved" };
                json!({ "event": event, "data": client::data(&mut self.players.u)?, "from": "service" })
                    .to_string()
                    .into()
            }
        };
        self.cluster.publish(&channel, &payload, &mut self.players);
        Ok(())
    }

    /// The shard's queue was full: a publication became a gap, or the hub makes good all that were lost.
    fn lose_an_event(&mut self) -> Result<()> {
        if self.players.u.ratio(1, 4)? {
            let shard = self.cluster.shard(0, 0);
            shard.events.retain(|event| !matches!(event, BrokerEvent::Publication(_)));
            shard.lost = true;
            self.cluster.send_lost(&mut self.players);
        } else {
            self.cluster.shard(0, 0).drop_newest_event();
        }
        Ok(())
    }

    fn break_or_mend(&mut self) {
        match self.cluster.is_up(0) {
            true => self.cluster.cut(0, &mut self.players),
            false => self.cluster.mend(&mut self.players),
        }
    }

    /// A service commands something about a player; commands about patterns and channels have passed their checks.
    fn command(&mut self) -> Result<()> {
        let player: Arc<str> = client::player(&mut self.players.u)?.into();
        let channel: Arc<str> = client::subject(&mut self.players.u)?.into();
        if drawbridge_protocol::channel::validate_subject(&channel).is_err() {
            return Ok(());
        }
        let action = match self.players.u.int_in_range(0..=5)? {
            0 | 1 => PlayerAction::Subscribe { channel },
            2 => PlayerAction::Unsubscribe { channel },
            3 | 4 if !drawbridge_protocol::channel::is_pattern(&channel) => {
                let view = match self.players.u.arbitrary()? {
                    true => Some(client::filter(&mut self.players.u)?.into()),
                    false => None,
                };
                PlayerAction::View { channel, view }
            }
            _ => PlayerAction::Disconnect { reason: Some("enough".into()) },
        };
        self.cluster.redis.command_player(&PlayerCommand { player, action });
        Ok(())
    }

    fn pass_time(&mut self) -> Result<()> {
        let ms = match self.players.u.int_in_range(0..=3)? {
            0 => 1,
            1 => u64::from(self.players.u.arbitrary::<u8>()?),
            2 => u64::from(self.players.u.arbitrary::<u16>()?),
            _ => self.cluster.next_deadline_ms().map_or(10, |at| at.saturating_sub(self.cluster.now.mono_ms)),
        };
        self.cluster.pass_by_deadlines(ms, &mut self.players);
        Ok(())
    }

    fn engine_turn(&mut self, input: Input<'_>) {
        self.cluster.input(0, 0, input, &mut self.players);
    }

    /// What waits is bounded, and no connection is left that has gone.
    fn check_bounds(&mut self) {
        let sockets = self.players.sockets.len() as u64;
        let stats = self.cluster.shard(0, 0).engine.stats();
        let bound = sockets * (OUTBOUND_BYTES + SLACK_BYTES);
        assert!(stats.frame_bytes + stats.queued_bytes <= bound, "{stats:?}");
        assert_eq!(stats.connections, sockets);
    }

    pub fn everybody_leaves(&mut self) {
        while let Some(socket) = self.players.sockets.pop() {
            self.engine_turn(Input::Closed { conn: socket.conn, code: 1006 });
        }
    }

    /// Everything is carried and answered with the link up, until nothing is left to do.
    pub fn settle(&mut self) {
        self.players.settling = true;
        self.cluster.mend(&mut self.players);
        for _ in 0..20 {
            self.cluster.pass_by_deadlines(50, &mut self.players);
            let mut turns = 0;
            while self.cluster.carry_one_of_each(&mut self.players) {
                turns += 1;
                assert!(turns < MAX_TURNS, "it never comes to rest");
            }
            self.check_bounds();
        }
    }

    pub fn check_nothing_is_left(&self) {
        self.cluster.check_nothing_is_left();
    }
}
