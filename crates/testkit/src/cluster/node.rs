//! One node of a cluster: its engines, its hubs and the queues between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use drawbridge_engine::class::ShardedChannels;
use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::{
    BrokerCommand, BrokerEvent, BrokerStatus, ConnId, LogPosition, LogReader, Position, Query, QueryKind,
    Subject, Ticket, Write,
};
use drawbridge_engine::rate_limit::SharedLimits;
use drawbridge_engine::settings::Settings;
use drawbridge_engine::upstream::{
    Hub, LogRange, Move, PeerMessage, ShardId, ShardSet, SlotHasher, SlotMove, StoredLog, Topology,
};

use super::outside::Outside;
use crate::redis::masters::{Owners, ServerId};
use crate::redis::{NODES_CHANNEL, Scan};
use crate::settings::hub_settings;

/// One engine and the queue to it.
pub struct Shard {
    pub engine: Engine,
    pub events: VecDeque<BrokerEvent>,
    /// Channels with a `Gap` in the queue: how far their loss goes, and its first logged event.
    pub(super) marked: BTreeMap<Arc<str>, (Position, Option<LogPosition>)>,
    /// Something was dropped and not marked.
    pub lost: bool,
    pub(super) next_conn: u32,
}

/// One node: its hubs, its shards, and what is on its way between them and to Redis.
pub struct Node {
    pub hubs: Vec<Hub>,
    pub shards: Vec<Shard>,
    pub(super) topology: Topology,
    /// Which masters have which slots as it knows it, at this version.
    pub(super) owners: Owners,
    pub(super) version: u64,
    /// Where the links of masters are to lead.
    pub(super) targets: Vec<Option<ServerId>>,
    /// What is on its way to each hub.
    pub(super) commands: Vec<VecDeque<HubCommand>>,
    pub(super) writes: VecDeque<(usize, Write)>,
    /// What shards want to read, by other ways than a hub.
    pub(super) queries: VecDeque<(usize, Query)>,
    /// Readings of logs that Redis has not executed, and their answers that have not come.
    pub(super) log_reads: VecDeque<LogRead>,
    pub(super) log_answers: VecDeque<(LogAsker, Arc<str>, StoredLog)>,
    /// Tables that are read for a hub.
    pub(super) scans: VecDeque<(usize, Scan)>,
    pub(super) status: BrokerStatus,
    /// Names this start of the node.
    pub(super) instance: Arc<str>,
}

/// Who reads a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogAsker {
    Hub { link: usize, load: u64 },
    Shard(usize, Ticket),
}

/// A reading of a log.
#[derive(Debug)]
pub(super) struct LogRead {
    pub(super) asker: LogAsker,
    pub(super) channel: Arc<str>,
    pub(super) range: LogRange,
    pub(super) limit: usize,
    pub(super) reader: LogReader,
}

/// What is on its way to a hub, in order.
pub(super) enum HubCommand {
    Shard(usize, BrokerCommand),
    Give(Move),
    Take(Move),
    GiveSlots(SlotMove),
    TakeSlots(SlotMove),
    Peer(PeerMessage),
}

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub shards: usize,
    /// Of each node to Redis.
    pub links: usize,
}

impl Node {
    /// The node's first start (0), or a later one. `master_links`: to masters of a Cluster, beside those of `size`.
    pub(super) fn new(
        settings: &Arc<Settings>,
        size: Size,
        master_links: usize,
        at: usize,
        start: usize,
    ) -> Self {
        let links = size.links + master_links;
        let instance: Arc<str> = format!("n{at}-{start}").into();
        let settings = &Arc::new(Settings { instance: instance.clone(), ..(**settings).clone() });
        let limits = SharedLimits::new(settings);
        let shard = |shard: usize| Shard {
            engine: Engine::new(settings.clone(), limits.clone()).on_shard(ShardId(shard as u8)),
            events: VecDeque::new(),
            marked: BTreeMap::new(),
            lost: false,
            next_conn: 0,
        };
        let hub = |link| Hub::new(hub_settings(settings, link, (at * links + link) as u128));
        let (classes, reserved) = (&settings.classes, &settings.reserved);
        let sharded = ShardedChannels::new(classes, reserved);
        Node {
            hubs: (0..links).map(hub).collect(),
            shards: (0..size.shards).map(shard).collect(),
            topology: Topology::standalone(size.links, classes, reserved, NODES_CHANNEL.into(), at as u128)
                .with_masters(master_links, sharded, SlotHasher::default()),
            owners: Owners::new(),
            version: 0,
            targets: vec![None; master_links],
            commands: (0..links).map(|_| VecDeque::new()).collect(),
            writes: VecDeque::new(),
            queries: VecDeque::new(),
            log_reads: VecDeque::new(),
            log_answers: VecDeque::new(),
            scans: VecDeque::new(),
            status: BrokerStatus::Ok,
            instance,
        }
    }

    pub(super) fn all_shards(&self) -> ShardSet {
        let mut all = ShardSet::default();
        (0..self.shards.len()).for_each(|shard| all.insert(ShardId(shard as u8)));
        all
    }

    pub(super) fn send_to_all(&mut self, event: &BrokerEvent) {
        self.shards.iter_mut().for_each(|shard| shard.events.push_back(event.clone()));
    }

    /// Passes a command on to the link that its subject is on now.
    pub(super) fn send_to_hub(&mut self, shard: usize, command: BrokerCommand) {
        let link = match &command {
            BrokerCommand::Recovered(token) => token.link(),
            BrokerCommand::Want(subject)
            | BrokerCommand::Unwant(subject)
            | BrokerCommand::Refresh(subject) => self.topology.link_of(subject),
            BrokerCommand::CatchUp { channel, .. }
            | BrokerCommand::Query(Query { kind: QueryKind::Fence { channel }, .. }) => {
                self.topology.link_of(&Subject::channel(channel.clone()))
            }
            other => panic!("not for a hub: {other:?}"),
        };
        self.commands[link.place()].push_back(HubCommand::Shard(shard, command));
    }
}

impl Shard {
    /// What does not fit into the queue is dropped, and marked where the loss begins, or reported later for all channels.
    pub(super) fn push(&mut self, event: BrokerEvent, outside: &mut impl Outside) {
        let is_dropped = outside.drops(&event);
        if let BrokerEvent::Replay(replay) = &event {
            let has_room = !is_dropped && !self.marked.contains_key(&replay.channel);
            let replay = if has_room { replay.clone() } else { Arc::new(replay.without_events()) };
            return self.events.push_back(BrokerEvent::Replay(replay));
        }
        if let (BrokerEvent::Presence { notices, .. }, true) = (&event, is_dropped) {
            let missed = BrokerEvent::Presence { notices: notices.clone(), change: None };
            return self.events.push_back(missed);
        }
        let BrokerEvent::Publication(publication) = &event else { return self.events.push_back(event) };
        let logged = publication.in_log.position();
        let channel = &publication.channel;
        let position = Position { epoch: publication.epoch, offset: publication.offset };
        if let Some(marked) = self.marked.get_mut(channel) {
            *marked = (position, marked.1.or(logged));
        } else if !is_dropped {
            self.events.push_back(event);
        } else if outside.roll(4) == 0 {
            self.lost = true;
        } else {
            self.marked.insert(channel.clone(), (position, logged));
            self.events.push_back(BrokerEvent::Gap { channel: channel.clone(), position, logged });
        }
    }

    /// The newest event becomes a gap, as where the queue had no room for it.
    pub fn drop_newest_event(&mut self) {
        let newest = self.events.iter_mut().rev().find_map(|event| match event {
            BrokerEvent::Publication(publication) => Some((publication.clone(), event)),
            _ => None,
        });
        if let Some((publication, event)) = newest
            && !self.marked.contains_key(&publication.channel)
        {
            let channel = publication.channel.clone();
            let position = Position { epoch: publication.epoch, offset: publication.offset };
            let logged = publication.in_log.position();
            self.marked.insert(channel.clone(), (position, logged));
            *event = BrokerEvent::Gap { channel, position, logged };
        }
    }

    /// A name for one more connection.
    pub fn next_conn(&mut self) -> ConnId {
        let index = self.next_conn;
        self.next_conn += 1;
        ConnId { index, generation: index + 1 }
    }
}
