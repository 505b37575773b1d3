//! Nodes of engines and hubs around one [`Redis`], or around the masters of a Redis Cluster, in virtual time. Every queue between the parts is stepped on its own, by
//! whoever drives it; what is at the end of each socket, and what fails, is [`Outside`].

mod engines;
mod leftovers;
mod links;
mod lives;
mod masters;
mod node;
mod outside;
mod store;

use std::sync::Arc;

use drawbridge_engine::class::ShardedChannels;
use drawbridge_engine::io::{Input, Now, Subject, WriteKind};
use drawbridge_engine::settings::Settings;
use drawbridge_engine::upstream::{HubInput, ShardId};

use crate::redis::masters::Masters;
use crate::redis::{NODES_CHANNEL, Redis};
use crate::sessions::SessionStore;
pub use node::{Node, Shard, Size};
pub use outside::{Outside, SocketId};

/// More are never on the way to a later time.
const MAX_DEADLINES: usize = 100_000;

/// See the module.
pub struct Cluster {
    pub now: Now,
    pub redis: Redis,
    pub nodes: Vec<Node>,
    /// What was appended to streams since a test took it last.
    pub appended: Vec<WriteKind>,
    /// What nodes keep of their sessions for one another; `None`: nothing, and who resumes elsewhere gets a new session.
    pub sessions: Option<SessionStore>,
    settings: Arc<Settings>,
    /// Of each node.
    links: usize,
    /// How many of these are not of masters.
    pool: usize,
    /// How often a node has started again.
    restarts: usize,
}

impl Cluster {
    /// All links are up, and every node listens to what the others say.
    pub fn new(settings: &Arc<Settings>, size: Size, outside: &mut impl Outside) -> Self {
        Cluster::build(settings, size, 0, outside)
    }

    fn build(settings: &Arc<Settings>, size: Size, master_links: usize, outside: &mut impl Outside) -> Self {
        let links = size.links + master_links;
        let mut cluster = Cluster {
            now: Now { mono_ms: 10_000_000, unix_ms: 1_790_000_000_000 },
            redis: Redis::new(size.nodes * links),
            nodes: (0..size.nodes).map(|at| Node::new(settings, size, master_links, at, 0)).collect(),
            appended: Vec::new(),
            sessions: None,
            settings: settings.clone(),
            links,
            pool: size.links,
            restarts: 0,
        };
        for link in (0..cluster.redis.links.len()).filter(|link| link % links < size.links) {
            cluster.listen_on(link, outside);
            cluster.link_up(link, outside);
        }
        cluster
    }

    /// From now on the node wants what others say on this link.
    fn listen_on(&mut self, link: usize, outside: &mut impl Outside) {
        let subject = Subject::channel(NODES_CHANNEL);
        self.hub(link, HubInput::Want { shard: ShardId::NODE, subject }, outside);
    }

    /// As [`Cluster::new`], around so many masters of a Redis Cluster that share the slots of these channels. No node knows them
    /// yet.
    pub fn with_masters(
        settings: &Arc<Settings>,
        size: Size,
        (count, channels): (usize, &[&str]),
        outside: &mut impl Outside,
    ) -> Self {
        // A node may know of all servers as masters for a while.
        let mut cluster = Cluster::build(settings, size, 2 * count, outside);
        let sharded = ShardedChannels::new(&settings.classes, &settings.reserved);
        cluster.redis.masters = Masters::new(count, sharded, channels);
        cluster
    }

    /// Each shard of each node.
    fn shards(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let shards: Vec<usize> = self.nodes.iter().map(|node| node.shards.len()).collect();
        shards.into_iter().enumerate().flat_map(|(node, count)| (0..count).map(move |shard| (node, shard)))
    }

    pub fn shard(&mut self, node: usize, shard: usize) -> &mut Shard {
        &mut self.nodes[node].shards[shard]
    }

    /// When one of the engines must look at the clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let shards = self.nodes.iter().flat_map(|node| &node.shards);
        shards.filter_map(|shard| shard.engine.next_deadline_ms()).min()
    }

    /// Time goes on, and everyone looks at the clock late: once, at the end.
    pub fn pass(&mut self, ms: u64, outside: &mut impl Outside) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        self.tick(outside);
    }

    /// Time goes on; everyone looks at the clock at each deadline on the way, as the server does.
    pub fn pass_by_deadlines(&mut self, ms: u64, outside: &mut impl Outside) {
        let until_ms = self.now.mono_ms + ms;
        for _ in 0..MAX_DEADLINES {
            let deadline_ms = self.next_deadline_ms().unwrap_or(u64::MAX);
            let at_ms = deadline_ms.clamp(self.now.mono_ms, until_ms);
            self.now.unix_ms += at_ms - self.now.mono_ms;
            self.now.mono_ms = at_ms;
            self.tick(outside);
            assert!(
                self.next_deadline_ms().is_none_or(|next| next > at_ms),
                "a deadline that passed is still there"
            );
            if at_ms == until_ms {
                return;
            }
        }
        panic!("deadlines without end");
    }

    fn tick(&mut self, outside: &mut impl Outside) {
        for (notices, payload) in self.redis.presence.remove_dead(self.now.mono_ms) {
            self.redis.publish(&notices, &payload.into());
        }
        for link in 0..self.redis.links.len() {
            self.hub(link, HubInput::Tick, outside);
        }
        for (node, shard) in self.shards() {
            self.input(node, shard, Input::Tick, outside);
            while self.take_turn(node, shard, outside) {}
        }
    }

    /// One more turn of an engine, if the last one left something to it.
    fn take_turn(&mut self, node: usize, shard: usize, outside: &mut impl Outside) -> bool {
        let deadline_ms = self.nodes[node].shards[shard].engine.next_deadline_ms();
        let is_due = deadline_ms.is_some_and(|at| at <= self.now.mono_ms);
        if is_due {
            self.input(node, shard, Input::Tick, outside);
        }
        is_due
    }

    /// One thing moves on in one of the queues.
    pub fn carry(&mut self, outside: &mut impl Outside) -> bool {
        let node = outside.roll(self.nodes.len());
        let shard = outside.roll(self.nodes[node].shards.len());
        let link = node * self.links + outside.roll(self.links);
        match outside.roll(10) {
            0..3 if self.is_of_master(link) => match outside.roll(4) {
                0 => self.carry_target(link, outside),
                1 => self.carry_request(link, outside),
                _ => self.carry_push(link, outside),
            },
            0..3 => self.carry_push(link, outside),
            3 => self.carry_command(link, outside),
            4 => self.carry_write(node, outside),
            5 if outside.roll(2) == 0 => {
                self.carry_log_read(node, outside) || self.carry_log_answer(node, outside)
            }
            5 => self.carry_scan(node),
            6 => self.carry_query(node, outside),
            _ => self.carry_event(node, shard, outside),
        }
    }

    /// One thing moves on in each of the queues. `false`: all are empty.
    pub fn carry_one_of_each(&mut self, outside: &mut impl Outside) -> bool {
        let mut moved = false;
        for link in 0..self.redis.links.len() {
            moved |= self.carry_target(link, outside);
            moved |= self.carry_request(link, outside);
            moved |= self.carry_push(link, outside);
            moved |= self.carry_command(link, outside);
        }
        for node in 0..self.nodes.len() {
            moved |= self.carry_write(node, outside);
            moved |= self.carry_scan(node);
            moved |= self.carry_log_read(node, outside);
            moved |= self.carry_log_answer(node, outside);
            moved |= self.carry_query(node, outside);
        }
        for (node, shard) in self.shards() {
            moved |= self.carry_event(node, shard, outside);
            moved |= self.take_turn(node, shard, outside);
        }
        moved
    }
}
