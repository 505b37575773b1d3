//! Two nodes of two shards and two links each, around one Redis, with players who come, act, stall and vanish.
//! Every queue between the parts is stepped at random; time passes only when the seed says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::class::{Class, Classes};
use drawbridge_engine::engine::Engine;
use drawbridge_engine::engine::attach::AttachError;
use drawbridge_engine::expr::{Vars, compile};
use drawbridge_engine::io::{
    Answer, BrokerCommand, BrokerEvent, BrokerStatus, Claims, ConnId, Format, Input, MessageKind, Now,
    Opened, Output, PlayerAction, PlayerCommand, PublishFailure, Query, QueryKind, Subject, Ticket, Write,
    WriteKind,
};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::settings::{Rate, Reserved, Settings};
use drawbridge_engine::upstream::{
    Hub, HubInput, HubOutput, HubSettings, LinkId, Move, PeerMessage, ShardId, ShardSet, Topology,
};
use drawbridge_protocol::template::{ClassName, Template};
use drawbridge_protocol::{Encoding, Frame};
use serde_json::{Value, json};

use crate::client::{Client, Subscription};
use crate::redis::{Push, Redis};

const NODES: usize = 2;
const SHARDS: usize = 2;
const LINKS: usize = 2;
const LINGER_MS: u64 = 50;

/// Numbers from a seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// What really happened, as the clients are judged by.
#[derive(Default)]
pub struct Facts {
    /// Redis' log.
    pub log: Vec<(String, u64)>,
    /// Each number's place in it.
    pub places: BTreeMap<u64, usize>,
    /// Each number's data.
    pub data: BTreeMap<u64, Value>,
}

struct Shard {
    engine: Engine,
    /// From the hubs and the publisher.
    events: VecDeque<BrokerEvent>,
    next_conn: u32,
}

struct Node {
    hubs: Vec<Hub>,
    shards: Vec<Shard>,
    /// Which link carries which channel.
    topology: Topology,
    /// Wants and unwants on their way to each hub, and what the hubs say to each other about entries that move: in order.
    orders: Vec<VecDeque<Order>>,
    /// Publishes on their way to Redis.
    publishes: VecDeque<(usize, Ticket, Arc<str>, Bytes)>,
    degraded: bool,
}

/// What is on its way to a hub.
enum Order {
    Shard(usize, BrokerCommand),
    Give(Move),
    Take(Move),
    Peer(PeerMessage),
}

pub struct World {
    pub dice: Dice,
    /// No link breaks.
    pub calm: bool,
    now: Now,
    redis: Redis,
    nodes: Vec<Node>,
    pub clients: Vec<Client>,
    facts: Facts,
    next_number: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let settings = Arc::new(settings());
        let node = |at: usize| Node {
            hubs: (0..LINKS).map(|link| Hub::new(hub_settings(&settings, at, link))).collect(),
            shards: (0..SHARDS)
                .map(|_| Shard {
                    engine: Engine::new(settings.clone(), SharedLimits::new(&settings)),
                    events: VecDeque::new(),
                    next_conn: 0,
                })
                .collect(),
            topology: topology(&settings, at),
            orders: (0..LINKS).map(|_| VecDeque::new()).collect(),
            publishes: VecDeque::new(),
            degraded: false,
        };
        let mut world = World {
            dice: Dice(seed),
            calm: false,
            now: Now { mono_ms: 1_000, unix_ms: 1_790_000_000_000 },
            redis: Redis::default(),
            nodes: (0..NODES).map(node).collect(),
            clients: Vec::new(),
            facts: Facts::default(),
            next_number: 0,
        };
        world.redis.refuses_narrow = world.dice.roll(3) == 0;
        world.redis.links.resize_with(NODES * LINKS, Default::default);
        for link in 0..NODES * LINKS {
            world.link_up(link);
            // Player commands are received from the beginning.
            let mut shards = ShardSet::default();
            (0..SHARDS).for_each(|shard| shards.insert(ShardId(shard as u8)));
            world.hub(link, HubInput::Listening { shards, was_live: false });
        }
        world
    }

    /// One random thing.
    pub fn step(&mut self) {
        match self.dice.roll(100) {
            0..4 => self.connect(),
            4..14 => self.subscribe(),
            14..18 => self.unsubscribe(),
            18..34 => self.publish(),
            34..42 => self.publish_from_outside(),
            42..44 => self.vanish(),
            44..46 => self.unblock(),
            46..47 => self.cut_a_link(),
            47..50 => self.mend_links(),
            50..52 => self.pass(20),
            // Long enough for a cover to narrow.
            52..53 => self.pass(300),
            53..55 => self.subscribe_to_and_fro(),
            55..58 => self.command(),
            58..60 => self.detach(),
            60..63 => self.attach(),
            63..66 => self.move_a_channel(),
            _ => self.carry(),
        }
    }

    /// Lets everything come to rest with all links up and all sockets reading.
    pub fn settle(&mut self) {
        self.mend_links();
        for _ in 0..40 {
            for at in 0..self.clients.len() {
                self.attach_client(at);
                self.unblock_client(at);
            }
            while self.carry_one_of_each() {}
            self.pass(100);
        }
    }

    pub fn check_settled(&self) {
        self.redis.check_covers();
        for client in self.clients.iter().filter(|client| client.closed.is_none()) {
            assert!(client.welcomed, "{} was never welcomed", client.player);
            assert!(client.asked.is_empty(), "{} waits for {:?}", client.player, client.asked);
            client.check_nothing_is_missing(&self.facts);
        }
    }

    /// While no link breaks, moves alone cost nobody a gap.
    pub fn check_no_gaps(&self) {
        for client in &self.clients {
            assert!(client.resynced.is_empty(), "{} was told of gaps: {:?}", client.player, client.resynced);
        }
    }

    /// Everybody vanishes; nothing may be left.
    pub fn check_no_leak(&mut self) {
        for at in 0..self.clients.len() {
            self.vanish_client(at);
        }
        self.settle();
        assert_eq!(self.redis.subscriptions(), 0, "Redis holds subscriptions that nobody wants");
        for node in &self.nodes {
            for hub in &node.hubs {
                let stats = hub.stats();
                assert_eq!((stats.subjects, stats.live, stats.pattern_channels), (0, 0, 0));
            }
            for shard in &node.shards {
                let stats = shard.engine.stats();
                let gauges = [
                    stats.connections,
                    stats.welcomed,
                    stats.subscriptions,
                    stats.targets,
                    stats.views,
                    stats.frame_bytes,
                    stats.publishing,
                    stats.deferred,
                    stats.timers,
                    stats.releasing,
                ];
                assert_eq!(gauges, [0; 10], "{stats:?}");
            }
        }
    }

    fn connect(&mut self) {
        let node = self.dice.roll(NODES);
        let shard = self.dice.roll(SHARDS);
        let player = format!("p{}", self.dice.roll(8));
        let team = ["red", "blue"][self.dice.roll(2)];
        let rooms: Vec<u64> = (0..4).filter(|_| self.dice.roll(2) == 0).collect();
        let index = self.nodes[node].shards[shard].next_conn;
        self.nodes[node].shards[shard].next_conn += 1;
        let conn = ConnId { index, generation: index + 1 };
        let names: Vec<String> = rooms.iter().map(ToString::to_string).collect();
        let json = json!({ "sub": player, "team": team, "rooms": names }).to_string();
        let claims = Claims { player: player.as_str().into(), expires_unix_ms: None, json: json.into() };
        self.clients.push(Client::new(player, team, rooms, node, shard, conn));
        self.input(
            node,
            shard,
            Input::Opened(Opened {
                conn,
                // Unique in the cluster, as random names are.
                connection: (self.clients.len() as u64) << 8,
                session: u128::from(index),
                encoding: Encoding::Json,
                deflate: None,
                address: [127, 0, 0, 1].into(),
                token: Some(Ok(claims)),
                wait_for_connect: false,
            }),
        );
    }

    fn subscribe(&mut self) {
        let names = [
            "room:0",
            "room:1",
            "room:2",
            "game:a",
            "game:b",
            "room:*",
            "game:*",
            "room:[01]",
            "game:?",
            "lobby:a",
            "lobby:b",
            "lobby:c",
            "lobby:a",
            "lobby:b",
        ];
        // Wider and narrower, so that what covers them in Redis changes.
        let narrower = ["room:0*", "room:1*", "room:0?*", "game:a*", "game:b*", "game:[ab]*"];
        let name = match self.dice.roll(3) {
            0 => narrower[self.dice.roll(narrower.len())],
            _ => names[self.dice.roll(names.len())],
        };
        let filtered = self.dice.roll(3) == 0;
        let Some(at) = self.some_client() else { return };
        let mut message = json!({ "type": "CHANNEL_SUBSCRIBE", "channel": name });
        if filtered {
            message["filter"] = "data.n % 2 == 0".into();
        }
        // A subscription that is requested again may be shown by its old or its new filter until it is answered:
        // the model asks only for what it does not hold.
        let client = &mut self.clients[at];
        let again = client.subscriptions.contains_key(name)
            || client
                .asked
                .values()
                .any(|asked| asked["channel"] == name && asked["type"] != "PUBLISH_EVENT");
        if again {
            return;
        }
        let allowed = match name.strip_prefix("room:") {
            Some(room) if !name.contains(['*', '[', '?']) => {
                client.rooms.iter().any(|own| own.to_string() == room)
            }
            _ => true,
        };
        if allowed {
            let began = client.next_id;
            client
                .subscriptions
                .insert(name.to_owned(), Subscription { confirmed_at: None, filtered, began });
        }
        self.send(at, message);
    }

    /// Several requests about one channel in one message: each is answered, and the last holds.
    fn subscribe_to_and_fro(&mut self) {
        let name = ["game:a", "game:b", "game:*", "game:?"][self.dice.roll(4)];
        let Some(at) = self.some_client() else { return };
        let client = &mut self.clients[at];
        if client.subscriptions.contains_key(name)
            || client.asked.values().any(|asked| asked["channel"] == name)
        {
            return;
        }
        let mut messages = Vec::new();
        for kind in ["CHANNEL_SUBSCRIBE", "CHANNEL_SUBSCRIBE", "CHANNEL_UNSUBSCRIBE", "CHANNEL_SUBSCRIBE"] {
            client.next_id += 1;
            let message = json!({ "type": kind, "channel": name, "id": client.next_id });
            client.asked.insert(client.next_id, message.clone());
            messages.push(message);
        }
        let (node, shard, conn) = (client.node, client.shard, client.conn);
        let text = Value::from(messages).to_string();
        self.input(
            node,
            shard,
            Input::Message { conn, kind: MessageKind::Text, payload: text.as_bytes(), cost_bytes: 0 },
        );
    }

    /// A service's word about a player, on every node.
    fn command(&mut self) {
        let player: Arc<str> = format!("p{}", self.dice.roll(8)).into();
        let channel: Arc<str> = ["game:a", "game:b", "game:*", "room:1"][self.dice.roll(4)].into();
        let action = match self.dice.roll(5) {
            0 | 1 if *channel != *"room:1" => PlayerAction::Subscribe { channel },
            2 | 3 => PlayerAction::Unsubscribe { channel },
            _ => return,
        };
        let command = PlayerCommand { player, action };
        for node in 0..NODES {
            for shard in 0..SHARDS {
                self.input(node, shard, Input::Broker(BrokerEvent::Command(command.clone())));
            }
        }
    }

    fn unsubscribe(&mut self) {
        let Some(at) = self.some_client() else { return };
        let sides = self.clients[at].subscriptions.len() + 1;
        let pick = self.dice.roll(sides);
        let client = &self.clients[at];
        let Some(name) = client.subscriptions.keys().nth(pick).cloned() else { return };
        if client.asked.values().all(|asked| asked["channel"] != *name) {
            self.send(at, json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": name }));
        }
    }

    fn publish(&mut self) {
        let Some(at) = self.some_client() else { return };
        let (channel, data) = self.news();
        let client = &mut self.clients[at];
        client.published.insert(self.next_number, client.next_id + 1);
        self.send(at, json!({ "type": "PUBLISH_EVENT", "channel": channel, "event": "e", "data": data }));
    }

    fn publish_from_outside(&mut self) {
        let (channel, data) = self.news();
        let payload = json!({ "event": "e", "data": data }).to_string();
        self.redis_takes(&channel.into(), &payload.into());
    }

    fn news(&mut self) -> (&'static str, Value) {
        let channel = [
            "room:0",
            "room:1",
            "room:2",
            "room:3",
            "game:a",
            "game:b",
            "player:p1",
            "lobby:a",
            "lobby:b",
            "lobby:c",
            "lobby:a",
        ][self.dice.roll(11)];
        self.next_number += 1;
        let mut data = json!({ "n": self.next_number });
        if self.dice.roll(3) == 0 {
            data["team"] = ["red", "blue"][self.dice.roll(2)].into();
        }
        self.facts.data.insert(self.next_number, data.clone());
        (channel, data)
    }

    fn redis_takes(&mut self, channel: &Arc<str>, payload: &Bytes) {
        let envelope: Value = serde_json::from_slice(payload).unwrap();
        let number = envelope["data"]["n"].as_u64().unwrap();
        self.facts.places.insert(number, self.facts.log.len());
        self.facts.log.push((channel.to_string(), number));
        self.redis.publish(channel, number, payload);
    }

    fn send(&mut self, at: usize, mut message: Value) {
        let client = &mut self.clients[at];
        if !client.welcomed {
            // A client that has not been welcomed holds nothing that it could lose track of.
            client.subscriptions.clear();
            return;
        }
        client.next_id += 1;
        message["id"] = client.next_id.into();
        client.asked.insert(client.next_id, message.clone());
        let (node, shard, conn) = (client.node, client.shard, client.conn);
        let text = message.to_string();
        self.input(
            node,
            shard,
            Input::Message { conn, kind: MessageKind::Text, payload: text.as_bytes(), cost_bytes: 0 },
        );
    }

    fn some_client(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.clients.len())
            .filter(|at| {
                let client = &self.clients[*at];
                client.closed.is_none() && client.welcomed && client.detached.is_none()
            })
            .collect();
        if open.is_empty() { None } else { Some(open[self.dice.roll(open.len())]) }
    }

    /// A player's socket is gone, and the session stays.
    fn detach(&mut self) {
        let Some(at) = self.some_client() else { return };
        let client = &mut self.clients[at];
        let (node, shard, conn) = (client.node, client.shard, client.conn);
        let engine = &mut self.nodes[node].shards[shard].engine;
        let session = engine.session_of(conn).unwrap();
        assert!(engine.detach(session, Vec::new()));
        (client.detached, client.blocked) = (Some(session), false);
        // What the socket says late concerns nobody.
        self.input(node, shard, Input::Closed { conn, code: 1006 });
    }

    fn attach(&mut self) {
        let detached: Vec<usize> =
            (0..self.clients.len()).filter(|at| self.clients[*at].detached.is_some()).collect();
        if !detached.is_empty() {
            let pick = self.dice.roll(detached.len());
            self.attach_client(detached[pick]);
        }
    }

    /// The player comes again by another socket, unless too much has waited.
    fn attach_client(&mut self, at: usize) {
        let Some(session) = self.clients[at].detached.take() else { return };
        let (node, shard) = (self.clients[at].node, self.clients[at].shard);
        let there = &mut self.nodes[node].shards[shard];
        let index = there.next_conn;
        there.next_conn += 1;
        let conn = ConnId { index, generation: index + 1 };
        let format = Format { encoding: Encoding::Json, deflate: None };
        match there.engine.attach(self.now, session, conn, format) {
            Ok(()) => self.clients[at].conn = conn,
            Err(error) => {
                assert_eq!(error, AttachError::Gone);
                self.clients[at].closed = Some(4001);
            }
        }
        self.input(node, shard, Input::Tick);
    }

    fn vanish(&mut self) {
        if let Some(at) = self.some_client() {
            self.vanish_client(at);
        }
    }

    fn vanish_client(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.closed.is_none() {
            client.closed = Some(1006);
            let (node, shard, conn) = (client.node, client.shard, client.conn);
            self.input(node, shard, Input::Closed { conn, code: 1006 });
        }
    }

    fn unblock(&mut self) {
        if let Some(at) = self.some_client() {
            self.unblock_client(at);
        }
    }

    fn unblock_client(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if std::mem::take(&mut client.blocked) && client.closed.is_none() {
            let (node, shard, conn) = (client.node, client.shard, client.conn);
            self.input(node, shard, Input::Writable { conn });
        }
    }

    fn cut_a_link(&mut self) {
        let link = self.dice.roll(NODES * LINKS);
        if self.calm {
            return;
        }
        if self.redis.links[link].up {
            for push in self.redis.cut(link) {
                if let Push::Fence { shard, ticket, channel } = push {
                    self.fenced(link, shard, ticket, channel);
                }
            }
            self.hub(link, HubInput::LinkDown);
            self.send_status(link / LINKS);
        }
    }

    fn mend_links(&mut self) {
        for link in 0..NODES * LINKS {
            if !self.redis.links[link].up {
                self.link_up(link);
            }
        }
    }

    fn link_up(&mut self, link: usize) {
        self.redis.links[link].up = true;
        self.hub(link, HubInput::LinkUp);
        self.send_status(link / LINKS);
    }

    fn send_status(&mut self, node: usize) {
        let degraded = (0..LINKS).any(|link| !self.redis.links[node * LINKS + link].up);
        let node = &mut self.nodes[node];
        if std::mem::replace(&mut node.degraded, degraded) != degraded {
            let status = if degraded { BrokerStatus::Degraded } else { BrokerStatus::Ok };
            for shard in &mut node.shards {
                shard.events.push_back(BrokerEvent::Status(status));
            }
        }
    }

    /// Time goes on, and everybody looks at the clock.
    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        for link in 0..NODES * LINKS {
            self.hub(link, HubInput::Tick);
        }
        for node in 0..NODES {
            for shard in 0..SHARDS {
                self.input(node, shard, Input::Tick);
            }
        }
    }

    /// One thing moves on in one of the queues.
    fn carry(&mut self) {
        let (node, link) = (self.dice.roll(NODES), self.dice.roll(LINKS));
        match self.dice.roll(4) {
            0 => self.carry_push(node * LINKS + link),
            1 => self.carry_order(node, link),
            2 => self.carry_publish(node),
            _ => {
                let shard = self.dice.roll(SHARDS);
                self.carry_event(node, shard)
            }
        };
    }

    fn carry_one_of_each(&mut self) -> bool {
        let mut moved = false;
        for node in 0..NODES {
            for link in 0..LINKS {
                moved |= self.carry_push(node * LINKS + link);
            }
            for link in 0..LINKS {
                moved |= self.carry_order(node, link);
            }
            moved |= self.carry_publish(node);
            for shard in 0..SHARDS {
                moved |= self.carry_event(node, shard);
            }
        }
        moved
    }

    fn carry_push(&mut self, link: usize) -> bool {
        let Some(push) = self.redis.links[link].unread.pop_front() else { return false };
        match &push {
            Push::Subscribed(subject) => self.hub(link, HubInput::Subscribed(subject)),
            Push::Unsubscribed(subject) => self.hub(link, HubInput::Unsubscribed(subject)),
            Push::Refused(subject) => self.hub(link, HubInput::Refused { subject, reason: "NOPERM" }),
            Push::Fence { shard, ticket, channel } => self.fenced(link, *shard, *ticket, channel.clone()),
            Push::Message { pattern, channel, payload } => self.hub(
                link,
                HubInput::Message {
                    pattern: pattern.as_deref().map(str::as_bytes),
                    channel: channel.as_bytes(),
                    payload,
                },
            ),
        }
        true
    }

    fn fenced(&mut self, link: usize, shard: usize, ticket: Ticket, channel: Arc<str>) {
        let node = &mut self.nodes[link / LINKS];
        let answer = BrokerEvent::Answer { ticket, answer: Ok(Answer::Fence(channel.clone())) };
        let to = ShardSet::only(ShardId(shard as u8));
        // Of a channel that is on its way here, behind what is held of it.
        if !node.hubs[link % LINKS].send_behind(&Subject::channel(channel), to, answer.clone()) {
            node.shards[shard].events.push_back(answer);
        }
    }

    /// An entry moves to another link of its node.
    fn move_a_channel(&mut self) {
        let names = ["lobby:a", "lobby:b", "lobby:c"];
        let (node, to) = (self.dice.roll(NODES), LinkId::at(self.dice.roll(LINKS)));
        let subject = Subject::channel(names[self.dice.roll(names.len())]);
        let at = &mut self.nodes[node];
        if let Some(moves) = at.topology.begin_move(subject, to) {
            at.orders[moves.from.place()].push_back(Order::Give(moves.clone()));
            // The giver's thread may be faster than the one that commands both.
            for _ in 0..self.dice.roll(8) {
                let link = self.dice.roll(LINKS);
                self.carry_order(node, link);
            }
            self.nodes[node].orders[moves.to.place()].push_back(Order::Take(moves));
        }
    }

    /// Sends what a shard wants to the link that carries its subject now.
    fn order(&mut self, node: usize, shard: usize, command: BrokerCommand) {
        let subject = match &command {
            BrokerCommand::Want(subject) | BrokerCommand::Unwant(subject) => subject.clone(),
            BrokerCommand::Query(Query { kind: QueryKind::Fence { channel }, .. }) => {
                Subject::channel(channel.clone())
            }
            other => panic!("not an order: {other:?}"),
        };
        let at = &mut self.nodes[node];
        let link = at.topology.link_of(&subject);
        at.orders[link.place()].push_back(Order::Shard(shard, command));
    }

    fn carry_order(&mut self, node: usize, link: usize) -> bool {
        let Some(order) = self.nodes[node].orders[link].pop_front() else { return false };
        let at = node * LINKS + link;
        match order {
            Order::Shard(shard, command) => self.carry_out(at, shard, command),
            Order::Give(moves) => self.hub(at, HubInput::Give(moves)),
            Order::Take(moves) => self.hub(at, HubInput::Take(moves)),
            Order::Peer(message) => self.hub(at, HubInput::Peer(message)),
        }
        true
    }

    fn carry_out(&mut self, at: usize, shard: usize, command: BrokerCommand) {
        let id = ShardId(shard as u8);
        match command {
            BrokerCommand::Want(subject) => self.hub(at, HubInput::Want { shard: id, subject }),
            BrokerCommand::Unwant(subject) => {
                self.hub(at, HubInput::Unwant { shard: id, subject: &subject });
            }
            BrokerCommand::Query(Query { ticket, kind: QueryKind::Fence { channel }, .. }) => {
                match self.redis.links[at].up {
                    true => self.redis.links[at].unread.push_back(Push::Fence { shard, ticket, channel }),
                    false => self.fenced(at, shard, ticket, channel),
                }
            }
            _ => unreachable!(),
        }
    }

    fn carry_publish(&mut self, node: usize) -> bool {
        let Some((shard, ticket, channel, payload)) = self.nodes[node].publishes.pop_front() else {
            return false;
        };
        let result = match self.dice.roll(20) {
            0 => Err(PublishFailure::Unknown),
            1 => Err(PublishFailure::NotDone),
            _ => Ok(()),
        };
        // Of an unknown one Redis may have heard or not.
        if result != Err(PublishFailure::NotDone) && (result.is_ok() || self.dice.roll(2) == 0) {
            self.redis_takes(&channel, &payload);
        }
        self.nodes[node].shards[shard].events.push_back(BrokerEvent::Outcome { ticket, outcome: result });
        true
    }

    fn carry_event(&mut self, node: usize, shard: usize) -> bool {
        let Some(event) = self.nodes[node].shards[shard].events.pop_front() else { return false };
        self.input(node, shard, Input::Broker(event));
        true
    }

    fn hub(&mut self, link: usize, input: HubInput<'_>) {
        let node = &mut self.nodes[link / LINKS];
        let hub = &mut node.hubs[link % LINKS];
        hub.handle(self.now.mono_ms, input);
        while let Some(output) = hub.poll_output() {
            match output {
                HubOutput::Link(command) => self.redis.command(link, command),
                HubOutput::Shards(shards, event) => {
                    for shard in shards.iter() {
                        node.shards[usize::from(shard.0)].events.push_back(event.clone());
                    }
                }
                HubOutput::Peer(to, message) => node.orders[to.place()].push_back(Order::Peer(message)),
                HubOutput::Moved(subject) => node.topology.end_move(&subject),
                HubOutput::Load { .. }
                | HubOutput::BadEntity { .. }
                | HubOutput::BadTable { .. }
                | HubOutput::Oversized { .. } => {
                    unreachable!()
                }
            }
        }
    }

    fn input(&mut self, node: usize, shard: usize, input: Input<'_>) {
        self.nodes[node].shards[shard].engine.handle(self.now, input);
        self.nodes[node].shards[shard].engine.check();
        while let Some(output) = self.nodes[node].shards[shard].engine.poll_output() {
            match output {
                Output::Write { conn, frames } => self.write(node, shard, conn, frames),
                Output::Close { conn, frames, code, .. } => {
                    let client = self.client(node, shard, conn);
                    self.read_all(client, &frames);
                    self.clients[client].closed = Some(code.as_u16());
                }
                Output::Broker(
                    command @ (BrokerCommand::Want(_)
                    | BrokerCommand::Unwant(_)
                    | BrokerCommand::Query(Query { kind: QueryKind::Fence { .. }, .. })),
                ) => {
                    self.order(node, shard, command);
                }
                Output::Broker(BrokerCommand::Write(Write {
                    ticket: Some(ticket),
                    kind: WriteKind::Publish { channel, payload },
                    ..
                })) => {
                    self.nodes[node].publishes.push_back((shard, ticket, channel, payload));
                }
                Output::Broker(BrokerCommand::Query(Query {
                    ticket,
                    kind: QueryKind::ViewOverrides { .. },
                    ..
                })) => {
                    let views = BrokerEvent::Answer { ticket, answer: Ok(Answer::ViewOverrides([].into())) };
                    self.nodes[node].shards[shard].events.push_back(views);
                }
                // The answer to a question that nobody waits for is of no use, and does no harm.
                Output::Broker(BrokerCommand::Withdraw(_)) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// The socket takes all of it, or only some frames and then no more for a while.
    fn write(&mut self, node: usize, shard: usize, conn: ConnId, mut frames: Vec<Frame>) {
        let client = self.client(node, shard, conn);
        assert!(!self.clients[client].blocked, "a write to a blocked socket");
        if self.dice.roll(12) > 0 {
            return self.read_all(client, &frames);
        }
        let unsent = frames.split_off(self.dice.roll(frames.len() + 1));
        self.clients[client].blocked = true;
        self.read_all(client, &frames);
        let engine = &mut self.nodes[node].shards[shard].engine;
        engine.handle(self.now, Input::Blocked { conn, unsent });
        engine.check();
    }

    fn client(&self, node: usize, shard: usize, conn: ConnId) -> usize {
        let theirs = |client: &Client| (client.node, client.shard, client.conn) == (node, shard, conn);
        self.clients.iter().position(theirs).unwrap()
    }

    fn read_all(&mut self, client: usize, frames: &[Frame]) {
        for frame in frames {
            self.clients[client].read(frame, &self.facts);
        }
    }
}

fn topology(settings: &Settings, node: usize) -> Topology {
    let everywhere = "drawbridge:nodes".into();
    Topology::standalone(LINKS, &settings.classes, &settings.reserved, everywhere, node as u128)
}

fn hub_settings(settings: &Settings, node: usize, link: usize) -> HubSettings {
    HubSettings {
        link: LinkId::at(link),
        seed: (node * LINKS + link) as u128,
        linger_ms: LINGER_MS,
        external_bytes: 1 << 20,
        classes: settings.classes.clone(),
        reserved: settings.reserved.clone(),
    }
}

fn settings() -> Settings {
    let plenty = Rate { per_second: 1_000_000, burst: 1_000_000 };
    let class = |name: &str, right: &str, view: Option<&str>| Class {
        subscribe: compile(right, Vars::SUBSCRIBE_RULE).unwrap(),
        publish: compile("true", Vars::PUBLISH_RULE).unwrap(),
        view: view.map(|view| compile(view, Vars::VIEW_RULE).unwrap()),
        patterns: true,
        ..Class::plain(ClassName::parse(name).unwrap())
    };
    Settings {
        node: "n".into(),
        classes: Classes::new(vec![
            class("room:{room}", "params.room in me.rooms", None),
            class("game:{game}", "true", Some("!has(data.team) || data.team == me.team")),
            class("player:{player}", "false", None),
            // Without patterns: its channels may move between links.
            Class { patterns: false, ..class("lobby:{lobby}", "true", None) },
        ]),
        auto_subscribe: vec![Template::parse("player:{sub}").unwrap()],
        allow_anonymous: false,
        connect_timeout_ms: 5_000,
        token_leeway_ms: 0,
        heartbeat_ms: 1_000_000_000,
        outbound_bytes: 4_000,
        message_bytes: 65_536,
        subscriptions: 256,
        patterns_per_player: 256,
        messages: plenty,
        subscribes: plenty,
        work: plenty,
        bytes: Rate { per_second: 1 << 30, burst: 1 << 30 },
        connections_per_player: None,
        messages_per_player: None,
        messages_per_address: None,
        lifecycle_stream: None,
        reserved: Reserved::new("drawbridge:"),
        external_bytes: 1 << 20,
        views_open_without_permission: false,
        explain: false,
    }
}
