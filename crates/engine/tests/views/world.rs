//! Two nodes of a hub and one or two shards each, around one Redis, with players who come, look around, act, stall and
//! vanish. Every queue between the parts is stepped at random; time passes only when the seed says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::backlog::superseded;
use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{
    Answer, BrokerCommand, BrokerEvent, BrokerStatus, Commit, ConnId, Input, MessageKind, Now, Opened,
    Output, Position, PublishFailure, Query, QueryKind, Subject, Ticket, Write, WriteKind,
};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::upstream::{Hub, HubInput, HubOutput, ShardId, ShardSet};
use drawbridge_protocol::{Encoding, Frame};
use drawbridge_testkit::dice::{Chance, Dice};
use drawbridge_testkit::players::claims;
use drawbridge_testkit::settings::hub_settings;
use serde_json::{Value, json};

use crate::client::{Asked, Client, Known, Look};
use crate::facts::{Facts, Said};
use crate::redis::{NODES_CHANNEL, Push, Redis, Scan};
use crate::rules::{Area, CHANNELS, Filter, Rules, has_table, kind};

const NODES: usize = 2;
const MAX_CLIENTS: usize = 9;
const PLAYERS: usize = 5;
const TEAMS: [&str; 2] = ["red", "blue"];

struct Shard {
    engine: Engine,
    /// From the hub and from Redis.
    events: VecDeque<BrokerEvent>,
    /// Channels with a `Gap` among them, and how far their loss goes.
    marked: BTreeMap<Arc<str>, Position>,
    /// Something was dropped and not marked.
    lost: bool,
    next_conn: u32,
}

struct Node {
    hub: Hub,
    shards: Vec<Shard>,
    /// Wants, unwants, refreshes and what the shards know, on their way to the hub.
    orders: VecDeque<(usize, BrokerCommand)>,
    /// Publishes and commits on their way to Redis.
    publishes: VecDeque<(usize, Write)>,
    /// Who asks for a player's views.
    questions: VecDeque<(usize, Ticket, Arc<str>)>,
    scans: VecDeque<Scan>,
    /// By channel and key: the place of a plain event behind the last reading of the table, and when it was heard.
    plain: BTreeMap<(String, String), (usize, u64)>,
    degraded: bool,
}

pub struct World {
    pub dice: Dice,
    rules: Rules,
    now: Now,
    redis: Redis,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    facts: Facts,
    next_number: u64,
    tokens: VecDeque<(usize, usize, ConnId, &'static str)>,
    steps: usize,
    settling: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let rules = Rules::roll(&mut dice);
        if std::env::var("DRAWBRIDGE_SEED").is_ok() {
            eprintln!("{rules:#?}");
        }
        let settings = Arc::new(rules.settings());
        let shard = |_| Shard {
            engine: Engine::new(settings.clone(), SharedLimits::new(&settings)),
            events: VecDeque::new(),
            marked: BTreeMap::new(),
            lost: false,
            next_conn: 0,
        };
        let node = |at: usize| Node {
            hub: Hub::new(hub_settings(&settings, 0, at as u128)),
            shards: (0..rules.shards).map(shard).collect(),
            orders: VecDeque::new(),
            publishes: VecDeque::new(),
            questions: VecDeque::new(),
            scans: VecDeque::new(),
            plain: BTreeMap::new(),
            degraded: false,
        };
        let mut world = World {
            now: Now { mono_ms: 10_000_000, unix_ms: 1_790_000_000_000 },
            redis: Redis::default(),
            nodes: (0..NODES).map(node).collect(),
            clients: Vec::new(),
            facts: Facts::default(),
            next_number: 0,
            tokens: VecDeque::new(),
            steps: 0,
            settling: false,
            dice,
            rules,
        };
        world.redis.links.resize_with(NODES, Default::default);
        for node in 0..NODES {
            let subject = Subject::channel(NODES_CHANNEL);
            world.hub(node, HubInput::Want { shard: ShardId::NODE, subject });
            world.link_up(node);
        }
        world
    }

    /// One random thing.
    pub fn step(&mut self) {
        match self.dice.roll(1_000) {
            0..30 => self.connect(),
            30..90 => self.subscribe(),
            90..105 => self.unsubscribe(),
            105..165 => self.update_view(),
            165..285 => self.publish(),
            285..315 => self.publish_from_outside(),
            315..395 => self.commit_from_outside(),
            395..405 => self.vanish(),
            405..435 => self.unblock(),
            435..440 => self.cut_a_link(),
            440..460 => self.mend_links(),
            460..500 => {
                let ms = [5, 20, 50, 60][self.dice.roll(4)];
                self.pass(ms);
            }
            500..515 => self.refresh_token(),
            515..535 => self.narrow(),
            535..537 => self.redis.flush(),
            537..547 => self.send_lost(),
            547..557 => self.catch_up(),
            _ => {
                for _ in 0..=self.dice.roll(6) {
                    self.carry();
                }
            }
        }
        self.steps += 1;
        if self.steps.is_multiple_of(8) {
            self.check_bounds();
        }
    }

    /// Lets everything come to rest with all links up and all sockets reading; every table is written to once more.
    pub fn settle(&mut self) {
        self.settling = true;
        self.mend_links();
        self.rest(10);
        // Entities that lived their time are gone on every node before the last ones come.
        if self.rules.ttl_ms < 10_000 {
            self.rest((self.rules.ttl_ms / 50) as usize + 5);
        }
        for channel in CHANNELS.into_iter().filter(|channel| has_table(channel)) {
            for key in ["e0", "e2", "e5"] {
                self.commit_news(channel, Some(key), true);
            }
        }
        self.rest(if self.rules.ttl_ms < 10_000 { 6 } else { 10 });
    }

    /// Moves everything, and so many windows pass.
    fn rest(&mut self, windows: usize) {
        for _ in 0..windows {
            self.send_lost();
            for at in 0..self.clients.len() {
                self.unblock_client(at);
            }
            while self.carry_one_of_each() {}
            self.pass(50);
        }
        while self.carry_one_of_each() {}
    }

    pub fn check_settled(&self) {
        for client in self.clients.iter().filter(|client| client.closed.is_none()) {
            client.check_settled(&self.facts, &self.rules, |channel| self.known(client.node, channel));
        }
    }

    /// What a node knows of an entity channel: what Redis has, and on it what plain events said since it was read.
    fn known(&self, node: usize, channel: &str) -> Known {
        let mut known = Known::default();
        for (key, payload) in self.redis.rows(self.now.mono_ms, channel) {
            let number = Said::read(channel, &payload, true).number;
            known.states.insert(key, self.facts.places[&number]);
        }
        let alive = |updated_ms: u64| self.now.mono_ms < updated_ms + self.rules.ttl_ms;
        for ((of, key), (place, updated_ms)) in &self.nodes[node].plain {
            if of != channel {
                continue;
            }
            if self.facts.log[*place].is_remove() || !alive(*updated_ms) {
                known.states.remove(key);
            } else {
                // A new key may have been one too many.
                if self.rules.entity_max < 100 {
                    known.uncertain.insert(key.clone());
                }
                known.states.insert(key.clone(), *place);
            }
        }
        known
    }

    /// Everybody vanishes; nothing may be left.
    pub fn check_no_leak(&mut self) {
        for at in 0..self.clients.len() {
            self.vanish_client(at);
        }
        self.rest(10);
        assert_eq!(self.redis.subscriptions(), NODES, "Redis holds subscriptions that nobody wants");
        for node in &self.nodes {
            let stats = node.hub.stats();
            // Its own channel is left.
            assert_eq!((stats.subjects, stats.live, stats.entities, stats.pattern_channels), (1, 1, 0, 0));
            for shard in &node.shards {
                let stats = shard.engine.stats();
                let gauges = [
                    stats.connections,
                    stats.welcomed,
                    stats.subscriptions,
                    stats.targets,
                    stats.views,
                    stats.entities,
                    stats.queued_bytes,
                    stats.frame_bytes,
                    stats.publishing,
                    stats.deferred,
                    stats.timers,
                    stats.releasing,
                ];
                assert_eq!(gauges, [0; 12], "{stats:?}");
            }
        }
    }

    /// What waits is bounded, whoever does not read.
    fn check_bounds(&self) {
        for (node, at) in self.nodes.iter().enumerate() {
            for (shard, engine) in at.shards.iter().map(|shard| &shard.engine).enumerate() {
                let stats = engine.stats();
                let theirs = self.clients.iter().filter(|c| (c.node, c.shard) == (node, shard));
                let open = theirs.filter(|client| client.closed.is_none()).count();
                // A part of a snapshot or of a batch is made whole, and one event comes behind the bound.
                let slack = if self.rules.padding == 0 { 8_000 } else { 64 * 1024 + 2 * self.rules.padding };
                let bound = open * (2 * self.rules.outbound_bytes + slack);
                let waits = stats.queued_bytes + stats.frame_bytes;
                assert!(waits <= bound as u64, "{waits} bytes wait for {open} connections: {stats:?}");
            }
        }
    }

    fn connect(&mut self) {
        if self.clients.iter().filter(|client| client.closed.is_none()).count() >= MAX_CLIENTS {
            return;
        }
        let (node, shard) = (self.dice.roll(NODES), self.dice.roll(self.rules.shards));
        let player = format!("p{}", self.dice.roll(PLAYERS));
        let team = TEAMS[self.dice.roll(2)];
        let at = &mut self.nodes[node].shards[shard];
        let index = at.next_conn;
        at.next_conn += 1;
        let conn = ConnId { index, generation: index + 1 };
        let wait_for_connect = self.dice.roll(3) == 0;
        let patterns = self.dice.roll(3) == 0;
        let mut client = Client::new(player.clone(), team, (node, shard, conn), patterns);
        client.joined = !wait_for_connect;
        self.clients.push(client);
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
                token: Some(Ok(claims(&player, team))),
                wait_for_connect,
            }),
        );
        if wait_for_connect {
            self.send_connect(self.clients.len() - 1);
        }
    }

    fn send_connect(&mut self, at: usize) {
        let mut wishes = Vec::new();
        for channel in CHANNELS {
            if self.dice.roll(3) == 0 {
                let (filter, area) = self.look(channel);
                wishes.push(wish(channel, filter, area.as_ref()));
                self.clients[at].wishes_for(channel, Look::new(filter, area));
            }
        }
        self.clients[at].joined = true;
        self.send(at, json!({ "type": "CONNECT", "subscribe": wishes }));
    }

    /// A filter, and an area where the channel has positions, or now and then where it has none.
    fn look(&mut self, channel: &str) -> (Option<Filter>, Option<Area>) {
        let filter = (self.dice.roll(2) == 0).then(|| Filter::roll(&mut self.dice));
        let spatial = kind(channel) == 2 || self.dice.roll(20) == 0;
        let area = (spatial && self.dice.roll(5) > 0).then(|| Area::roll(&mut self.dice));
        (filter, area)
    }

    fn subscribe(&mut self) {
        let Some(at) = self.some_client() else { return };
        let name = match self.clients[at].patterns {
            true => ["ent:a", "sp:a", "st:a", "ent:*", "st:*", "sp:*"][self.dice.roll(6)],
            false => CHANNELS[self.dice.roll(CHANNELS.len())],
        };
        let (filter, area) = if name.contains('*') {
            ((self.dice.roll(2) == 0).then(|| Filter::roll(&mut self.dice)), None)
        } else {
            self.look(name)
        };
        let mut message = wish(name, filter, area.as_ref());
        message["type"] = "CHANNEL_SUBSCRIBE".into();
        let asked = Asked { filter: Some(filter), area: Some(area), ..asked("CHANNEL_SUBSCRIBE", name) };
        self.ask(at, asked, message);
    }

    fn unsubscribe(&mut self) {
        let Some((at, name)) = self.some_subscription() else { return };
        let message = json!({ "type": "CHANNEL_UNSUBSCRIBE", "channel": name });
        self.ask(at, asked("CHANNEL_UNSUBSCRIBE", &name), message);
    }

    fn update_view(&mut self) {
        let Some((at, name)) = self.some_subscription() else { return };
        let mut message = json!({ "type": "FILTER_UPDATE", "channel": name });
        let mut asked = asked("FILTER_UPDATE", &name);
        let (filter, area) = if name.contains('*') { (None, None) } else { self.look(&name) };
        if self.dice.roll(2) == 0 {
            message["filter"] = json!(filter.map(Filter::text));
            asked.filter = Some(filter);
        }
        if self.dice.roll(2) == 0 && !name.contains('*') {
            message["area"] = area.as_ref().map_or(Value::Null, Area::json);
            asked.area = Some(area);
        }
        self.ask(at, asked, message);
    }

    fn some_subscription(&mut self) -> Option<(usize, String)> {
        let at = self.some_client()?;
        let pick = self.dice.roll(self.clients[at].subscriptions.len() + 1);
        Some((at, self.clients[at].subscriptions.keys().nth(pick)?.clone()))
    }

    fn publish(&mut self) {
        let Some(at) = self.some_client() else { return };
        let channel = CHANNELS[self.dice.roll(CHANNELS.len())];
        let (event, data) = self.news(channel, None, false);
        let message = json!({ "type": "PUBLISH_EVENT", "channel": channel, "event": event, "data": data });
        let asked = Asked { number: self.next_number, ..asked("PUBLISH_EVENT", channel) };
        self.ask(at, asked, message);
    }

    /// A plain `PUBLISH`.
    fn publish_from_outside(&mut self) {
        let channel = CHANNELS[self.dice.roll(CHANNELS.len())];
        let (event, data) = self.news(channel, None, false);
        let payload = json!({ "event": event, "data": data }).to_string();
        self.redis_takes(&channel.into(), &payload.into(), false);
    }

    /// `drawbridge_publish`.
    fn commit_from_outside(&mut self) {
        let channel = ["ent:a", "ent:b", "sp:a", "sp:b"][self.dice.roll(4)];
        self.commit_news(channel, None, false);
    }

    fn commit_news(&mut self, channel: &str, key: Option<&str>, good: bool) {
        let (event, data) = self.news(channel, key, good);
        let payload: Bytes = json!({ "event": event, "data": data }).to_string().into();
        let said = Said::read(channel, &payload, true);
        if !said.is_good() {
            return;
        }
        let commit = Commit {
            key: said.key.as_deref().unwrap().into(),
            remove: said.is_remove(),
            payload,
            id: "db1.".to_owned(),
            max: self.rules.entity_max,
            max_bytes: 1 << 30,
            ttl_ms: self.rules.ttl_ms,
        };
        let channel = channel.into();
        if let Ok(payload) = self.redis.commit(self.now.mono_ms, &channel, &commit) {
            self.redis_takes(&channel, &payload, true);
        }
    }

    /// An event of an entity, mostly; `good`: certainly one of this key.
    fn news(&mut self, channel: &str, key: Option<&str>, good: bool) -> (&'static str, Value) {
        self.next_number += 1;
        let id = match self.dice.roll(9) {
            7 => json!(7),
            key => json!(format!("e{key}")),
        };
        let mut data = json!({ "n": self.next_number, "hp": self.dice.roll(10), "id": id });
        if let Some(key) = key {
            data["id"] = key.into();
        }
        if kind(channel) == 2 {
            data["x"] = self.dice.roll(100).into();
            data["y"] = self.dice.roll(100).into();
        }
        if self.dice.roll(2) == 0 {
            data["team"] = TEAMS[self.dice.roll(2)].into();
        }
        if self.rules.padding > 0 && self.dice.roll(2) == 0 {
            data["pad"] = "x".repeat(self.rules.padding).into();
        }
        if good {
            return ("e", data);
        }
        match self.dice.roll(40) {
            0 => data["id"] = json!({}),
            1 => data["id"] = Value::Null,
            2 => data["x"] = "here".into(),
            3 => data["y"] = Value::Null,
            _ => {}
        }
        (["e", "e", "e", "e", "f", "remove"][self.dice.roll(6)], data)
    }

    fn redis_takes(&mut self, channel: &Arc<str>, payload: &Bytes, committed: bool) {
        self.facts.take(Said::read(channel, payload, committed));
        self.redis.publish(channel, payload);
    }

    fn refresh_token(&mut self) {
        let Some(at) = self.some_client() else { return };
        let team = TEAMS[self.dice.roll(2)];
        self.send(at, json!({ "type": "TOKEN_REFRESH", "token": team }));
    }

    /// A service narrows what a player is shown, or no longer.
    fn narrow(&mut self) {
        let player: Arc<str> = format!("p{}", self.dice.roll(PLAYERS)).into();
        let channel: Arc<str> = CHANNELS[self.dice.roll(CHANNELS.len())].into();
        let view: Option<Arc<str>> =
            (self.dice.roll(3) > 0).then(|| Filter::roll(&mut self.dice).text().into());
        self.redis.set_view(&player, &channel, view.as_ref());
        self.facts.narrow(&player, &channel, view.as_deref().map(Filter::of_text));
    }

    fn ask(&mut self, at: usize, asked: Asked, mut message: Value) {
        message["id"] = self.clients[at].asks(asked).into();
        self.send(at, message);
    }

    fn send(&mut self, at: usize, message: Value) {
        let client = &self.clients[at];
        let (node, shard, conn) = (client.node, client.shard, client.conn);
        let text = message.to_string();
        self.input(
            node,
            shard,
            Input::Message { conn, kind: MessageKind::Text, payload: text.as_bytes(), cost_bytes: 0 },
        );
    }

    /// Other rights hold from now on; a ping tells where.
    fn fence(&mut self, at: usize, id: u64) {
        self.send(at, json!({ "type": "PING", "id": id }));
    }

    fn some_client(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.clients.len())
            .filter(|at| self.clients[*at].closed.is_none() && self.clients[*at].welcomed)
            .collect();
        if open.is_empty() { None } else { Some(open[self.dice.roll(open.len())]) }
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
        let node = self.dice.roll(NODES);
        if self.redis.links[node].up {
            for push in self.redis.cut(node) {
                if let Push::Fence { shard, ticket, channel } = push {
                    self.fenced(node, shard, ticket, channel);
                }
            }
            self.hub(node, HubInput::LinkDown);
            self.send_status(node);
        }
    }

    fn mend_links(&mut self) {
        for node in 0..NODES {
            if !self.redis.links[node].up {
                self.link_up(node);
            }
        }
    }

    fn link_up(&mut self, node: usize) {
        self.redis.connect(node);
        self.hub(node, HubInput::LinkUp);
        self.send_status(node);
    }

    fn send_status(&mut self, node: usize) {
        let degraded = !self.redis.links[node].up;
        let node = &mut self.nodes[node];
        if std::mem::replace(&mut node.degraded, degraded) != degraded {
            let status = if degraded { BrokerStatus::Degraded } else { BrokerStatus::Ok };
            for shard in &mut node.shards {
                shard.events.push_back(BrokerEvent::Status(status));
            }
        }
    }

    /// Shards that lost what could not be marked hear of it.
    fn send_lost(&mut self) {
        for node in 0..NODES {
            for shard in 0..self.rules.shards {
                if std::mem::take(&mut self.nodes[node].shards[shard].lost) {
                    self.hub(node, HubInput::Lost { shard: ShardId(shard as u8) });
                }
            }
        }
    }

    /// Time goes on, and everybody looks at the clock.
    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        for node in 0..NODES {
            self.hub(node, HubInput::Tick);
            for shard in 0..self.rules.shards {
                self.input(node, shard, Input::Tick);
            }
        }
    }

    /// One thing moves on in one of the queues.
    fn carry(&mut self) {
        let node = self.dice.roll(NODES);
        let shard = self.dice.roll(self.rules.shards);
        match self.dice.roll(11) {
            0..3 => self.carry_push(node),
            3 => self.carry_order(node),
            4 => self.carry_publish(node),
            5 => self.carry_scan(node),
            6 => self.carry_question(node),
            7 => self.carry_token(),
            _ => self.carry_event(node, shard),
        };
    }

    fn carry_one_of_each(&mut self) -> bool {
        let mut moved = self.carry_token();
        for node in 0..NODES {
            moved |= self.carry_push(node);
            moved |= self.carry_order(node);
            moved |= self.carry_publish(node);
            moved |= self.carry_scan(node);
            moved |= self.carry_question(node);
            for shard in 0..self.rules.shards {
                moved |= self.carry_event(node, shard);
            }
        }
        moved
    }

    fn carry_push(&mut self, node: usize) -> bool {
        let Some(push) = self.redis.links[node].unread.pop_front() else { return false };
        match &push {
            Push::Loaded { channel, load, table } => {
                let table = Ok(table.clone());
                self.hub(node, HubInput::Loaded { channel, load: *load, table });
            }
            Push::Command(command) => {
                // Where a shard's queue has no room, it is told so.
                let drops = !self.settling && self.dice.roll(100) < self.rules.drops;
                let event = match drops {
                    true => BrokerEvent::Recover { dropped: true, barrier: None },
                    false => BrokerEvent::Command(command.clone()),
                };
                self.send_to_shards(node, &event);
            }
            Push::Subscribed(subject) => self.hub(node, HubInput::Subscribed(subject)),
            Push::Unsubscribed(subject) => self.hub(node, HubInput::Unsubscribed(subject)),
            Push::Fence { shard, ticket, channel } => self.fenced(node, *shard, *ticket, channel.clone()),
            Push::Message { pattern, channel, payload } => {
                if pattern.is_none() && has_table(channel) {
                    self.note_plain(node, channel, payload);
                }
                self.hub(
                    node,
                    HubInput::Message {
                        pattern: pattern.as_deref().map(str::as_bytes),
                        channel: channel.as_bytes(),
                        payload,
                    },
                );
            }
        }
        true
    }

    /// The node hears what the others say, from now on: what they said before is to be made good.
    fn listening(&mut self, node: usize) {
        let mut shards = ShardSet::default();
        (0..self.nodes[node].shards.len()).for_each(|at| shards.insert(ShardId(at as u8)));
        self.hub(node, HubInput::Listening { shards, was_live: false });
    }

    fn send_to_shards(&mut self, node: usize, event: &BrokerEvent) {
        for shard in &mut self.nodes[node].shards {
            shard.events.push_back(event.clone());
        }
    }

    /// What a plain event says holds on its node until the key is written to, or the table is read again.
    fn note_plain(&mut self, node: usize, channel: &str, payload: &Bytes) {
        let number = Said::read(channel, payload, false).number;
        let (place, said) = self.facts.of_number(number);
        let Some(key) = said.key.clone().filter(|_| said.is_good()) else { return };
        let of = (channel.to_owned(), key);
        if said.committed {
            self.nodes[node].plain.remove(&of);
        } else {
            self.nodes[node].plain.insert(of, (place, self.now.mono_ms));
        }
    }

    fn fenced(&mut self, node: usize, shard: usize, ticket: Ticket, channel: Arc<str>) {
        self.nodes[node].shards[shard]
            .events
            .push_back(BrokerEvent::Answer { ticket, answer: Ok(Answer::Fence(channel)) });
    }

    fn carry_order(&mut self, node: usize) -> bool {
        let Some((at, command)) = self.nodes[node].orders.pop_front() else { return false };
        let shard = ShardId(at as u8);
        match &command {
            BrokerCommand::Want(subject) => {
                self.hub(node, HubInput::Want { shard, subject: subject.clone() })
            }
            BrokerCommand::Unwant(subject) => self.hub(node, HubInput::Unwant { shard, subject }),
            BrokerCommand::Refresh(subject) => self.hub(node, HubInput::Refresh { shard, subject }),
            BrokerCommand::Recovered(token) => self.hub(node, HubInput::Passed { shard, token: *token }),
            BrokerCommand::Query(Query { ticket, kind: QueryKind::Fence { channel }, .. }) => {
                match self.redis.links[node].up {
                    true => self.redis.links[node].unread.push_back(Push::Fence {
                        shard: at,
                        ticket: *ticket,
                        channel: channel.clone(),
                    }),
                    false => self.fenced(node, at, *ticket, channel.clone()),
                }
            }
            _ => unreachable!(),
        }
        true
    }

    fn carry_publish(&mut self, node: usize) -> bool {
        let Some((shard, write)) = self.nodes[node].publishes.pop_front() else { return false };
        let mut result = match self.dice.roll(20) {
            0 => Err(PublishFailure::Unknown),
            1 => Err(PublishFailure::NotDone),
            _ => Ok(()),
        };
        // Of an unknown one Redis may have heard or not.
        let heard = result.is_ok() || (result == Err(PublishFailure::Unknown) && self.dice.roll(2) == 0);
        let Some(ticket) = write.ticket else { unreachable!() };
        match write.kind {
            WriteKind::Publish { channel, payload } => {
                if heard {
                    self.redis_takes(&channel, &payload, false);
                }
            }
            WriteKind::Commit { channel, commit } => {
                if heard {
                    match self.redis.commit(self.now.mono_ms, &channel, &commit) {
                        Ok(payload) => self.redis_takes(&channel, &payload, true),
                        Err(refused) => result = Err(refused),
                    }
                }
            }
            _ => unreachable!(),
        }
        self.nodes[node].shards[shard].events.push_back(BrokerEvent::Outcome { ticket, outcome: result });
        true
    }

    fn carry_scan(&mut self, node: usize) -> bool {
        let Some(scan) = self.nodes[node].scans.front_mut() else { return false };
        let Some(table) = self.redis.scan(self.now.mono_ms, scan) else { return true };
        let Scan { channel, load, .. } = self.nodes[node].scans.pop_front().unwrap();
        let link = &mut self.redis.links[node];
        if link.up {
            link.unread.push_back(Push::Loaded { channel, load, table });
        }
        true
    }

    fn carry_question(&mut self, node: usize) -> bool {
        let Some((shard, ticket, player)) = self.nodes[node].questions.pop_front() else { return false };
        let views = Ok(Answer::ViewOverrides(self.redis.views(&player)));
        self.nodes[node].shards[shard].events.push_back(BrokerEvent::Answer { ticket, answer: views });
        true
    }

    fn carry_token(&mut self) -> bool {
        let Some((node, shard, conn, team)) = self.tokens.pop_front() else { return false };
        let at = self.client(node, shard, conn);
        let client = &mut self.clients[at];
        if client.closed.is_some() {
            return true;
        }
        let fence = client.is_of_team(team);
        let result = Ok(claims(&client.player, team));
        self.input(node, shard, Input::Authenticated { conn, result });
        self.fence(at, fence);
        true
    }

    fn carry_event(&mut self, node: usize, shard: usize) -> bool {
        let at = &mut self.nodes[node].shards[shard];
        let Some(mut event) = at.events.pop_front() else { return false };
        if let BrokerEvent::Gap { channel, position } = &mut event {
            *position = at.marked.remove(channel).unwrap();
        }
        self.input(node, shard, Input::Broker(event));
        true
    }

    /// A shard lags: what newer states of entities replace is dropped.
    fn catch_up(&mut self) {
        let node = self.dice.roll(self.nodes.len());
        let shard = self.dice.roll(self.nodes[node].shards.len());
        let events = &mut self.nodes[node].shards[shard].events;
        let mut superseded = superseded(events.iter()).into_iter();
        events.retain(|_| !superseded.next().unwrap());
    }

    fn hub(&mut self, node: usize, input: HubInput<'_>) {
        self.nodes[node].hub.handle(self.now.mono_ms, input);
        while let Some(output) = self.nodes[node].hub.poll_output() {
            match output {
                HubOutput::Link(command) => self.redis.command(node, command),
                HubOutput::Shards(shards, event) => {
                    for shard in shards.iter() {
                        if shard == ShardId::NODE {
                            if matches!(event, BrokerEvent::Confirmed { .. }) {
                                self.listening(node);
                            }
                            continue;
                        }
                        self.send_to_shard(node, usize::from(shard.0), event.clone());
                    }
                }
                HubOutput::Load { channel, load } => {
                    let salt = self.dice.roll(1 << 30) as u64;
                    let at = &mut self.nodes[node];
                    at.plain.retain(|(of, _), _| **of != *channel);
                    at.scans.push_back(Scan::new(channel, load, salt));
                }
                HubOutput::Peer(..) | HubOutput::Moved(_) => unreachable!("there is one link"),
                HubOutput::BadEntity { .. } => {}
                HubOutput::BadTable { .. } => unreachable!("nothing writes to the tables but the functions"),
                HubOutput::Oversized { .. } => unreachable!(),
            }
        }
    }

    /// The queue to a shard: what does not fit is dropped, and marked where the loss begins, or told later for all.
    fn send_to_shard(&mut self, node: usize, shard: usize, event: BrokerEvent) {
        let drops = !self.settling && self.dice.roll(1_000) < self.rules.drops;
        let at = &mut self.nodes[node].shards[shard];
        let BrokerEvent::Publication(publication) = &event else { return at.events.push_back(event) };
        let channel = &publication.channel;
        let position = Position { epoch: publication.epoch, offset: publication.offset };
        if let Some(marked) = at.marked.get_mut(channel) {
            *marked = position;
        } else if !drops {
            at.events.push_back(event);
        } else if self.dice.roll(4) == 0 {
            at.lost = true;
        } else {
            at.marked.insert(channel.clone(), position);
            at.events.push_back(BrokerEvent::Gap { channel: channel.clone(), position });
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
                Output::Broker(command) => self.order(node, shard, command),
                Output::Authenticate { conn, token } => {
                    let team = TEAMS.into_iter().find(|team| *team == token).unwrap();
                    self.tokens.push_back((node, shard, conn, team));
                }
                other @ (Output::Notice(_) | Output::Displace(_)) => panic!("unexpected {other:?}"),
            }
        }
    }

    fn order(&mut self, node: usize, shard: usize, command: BrokerCommand) {
        let at = &mut self.nodes[node];
        match command {
            BrokerCommand::Want(_)
            | BrokerCommand::Unwant(_)
            | BrokerCommand::Refresh(_)
            | BrokerCommand::Recovered(_)
            | BrokerCommand::Query(Query { kind: QueryKind::Fence { .. }, .. }) => {
                at.orders.push_back((shard, command));
            }
            BrokerCommand::Write(write) => at.publishes.push_back((shard, write)),
            BrokerCommand::Query(Query { ticket, kind: QueryKind::ViewOverrides { player }, .. }) => {
                at.questions.push_back((shard, ticket, player));
            }
            BrokerCommand::Withdraw(ticket) => {
                at.questions.retain(|(of, other, _)| (*of, *other) != (shard, ticket));
            }
            BrokerCommand::Query(_) => unreachable!(),
        }
    }

    /// The socket takes all of it, or only some frames and then no more for a while.
    fn write(&mut self, node: usize, shard: usize, conn: ConnId, mut frames: Vec<Frame>) {
        let client = self.client(node, shard, conn);
        assert!(!self.clients[client].blocked, "a write to a blocked socket");
        if self.settling || self.dice.roll(self.rules.blocks) > 0 {
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
            self.clients[client].read(frame, &self.facts, &self.rules);
        }
    }
}

fn asked(kind: &'static str, channel: &str) -> Asked {
    Asked { kind, channel: channel.to_owned(), filter: None, area: None, number: 0 }
}

/// A subscription as a client asks for it.
fn wish(channel: &str, filter: Option<Filter>, area: Option<&Area>) -> Value {
    let mut wish = json!({ "channel": channel });
    if let Some(filter) = filter {
        wish["filter"] = filter.text().into();
    }
    if let Some(area) = area {
        wish["area"] = area.json();
    }
    wish
}
