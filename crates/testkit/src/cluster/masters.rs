//! A cluster around the masters of a Redis Cluster: what each node knows of them, and where its links of sharded channels lead.

use std::collections::BTreeMap;

use drawbridge_engine::io::{BrokerCommand, PublishFailure, Subject};
use drawbridge_engine::upstream::{LinkId, MasterSlots, ShardId, SlotSet};

use super::node::HubCommand;
use super::{Cluster, Outside};
use crate::redis::NODES_CHANNEL;
use crate::redis::masters::ServerId;

impl Cluster {
    /// A node reads from a server which master has which slot. What is older than it knows is not believed.
    pub fn learn(&mut self, node: usize, server: ServerId) {
        let known = &mut self.nodes[node];
        let Some((owners, version)) =
            self.redis.masters.says(server).filter(|(_, version)| *version >= known.version)
        else {
            return;
        };
        (known.owners, known.version) = (owners.clone(), version);
        self.adapt(node);
    }

    /// A node is redirected by a server, and learns of one slot which master has it.
    pub fn learn_slot(&mut self, node: usize, slot: u16, server: ServerId) {
        let said = self.redis.masters.says(server).and_then(|(owners, _)| owners.get(&slot).copied());
        if let Some(owner) = said {
            self.nodes[node].owners.insert(slot, owner);
            self.adapt(node);
        }
    }

    fn adapt(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let mut slots: BTreeMap<ServerId, SlotSet> = BTreeMap::new();
        node.owners.iter().for_each(|(slot, owner)| slots.entry(*owner).or_default().insert(*slot));
        let name = |server: ServerId| self.redis.masters.name(server).clone();
        let masters = slots.into_iter().map(|(server, slots)| MasterSlots { master: name(server), slots });
        let reassigned = node.topology.assign(&masters.collect::<Vec<_>>());
        assert_eq!(reassigned.without_link, 0, "there are links for all");
        for slots in reassigned.moves {
            node.commands[slots.to.place()].push_back(HubCommand::TakeSlots(slots.clone()));
            node.commands[slots.from.place()].push_back(HubCommand::GiveSlots(slots));
        }
        let of_node = |command| HubCommand::Shard(usize::from(ShardId::NODE.0), command);
        let nodes_channel = || Subject::channel(NODES_CHANNEL);
        for link in reassigned.opened {
            node.commands[link.place()].push_back(of_node(BrokerCommand::Want(nodes_channel())));
        }
        for link in reassigned.closed {
            node.commands[link.place()].push_back(of_node(BrokerCommand::Unwant(nodes_channel())));
        }
        for (at, target) in node.targets.iter_mut().enumerate() {
            let master = node.topology.master_of(LinkId::at(self.pool + at));
            *target = master.and_then(|master| self.redis.masters.named(master));
        }
    }

    /// Where the link of a master is to lead; `None`: it is to be down, or is of the pool.
    pub(super) fn target_of(&self, link: usize) -> Option<ServerId> {
        let place = (link % self.links).checked_sub(self.pool)?;
        self.nodes[link / self.links].targets[place]
    }

    /// Whether this is the link of a master.
    pub(super) fn is_of_master(&self, link: usize) -> bool {
        link % self.links >= self.pool
    }

    /// The link of a master that does not lead where it is to breaks, or one that is down comes up.
    pub fn carry_target(&mut self, link: usize, outside: &mut impl Outside) -> bool {
        if !self.is_of_master(link) {
            return false;
        }
        let target = self.target_of(link);
        match (self.redis.links[link].server, target) {
            (None, Some(server)) if self.redis.masters.takes_links(server) => {
                self.redis.links[link].server = target;
                self.link_up(link, outside);
            }
            (Some(_), _) if self.redis.links[link].server != target => self.cut(link, outside),
            _ => return false,
        }
        true
    }

    /// The server of a link executes the next of what was sent to it.
    pub fn carry_request(&mut self, link: usize, outside: &mut impl Outside) -> bool {
        self.redis.execute(link, || outside.defers())
    }

    /// All links to a server break.
    pub fn cut_server(&mut self, server: ServerId, outside: &mut impl Outside) {
        for link in 0..self.redis.links.len() {
            if self.redis.links[link].server == Some(server) {
                self.cut(link, outside);
            }
        }
    }

    /// The server that executes a command about a sharded channel; `None`: there is one Redis. `node`: who sends it; a service
    /// begins at any server.
    ///
    /// # Errors
    /// If it reaches none.
    pub(super) fn route(
        &self,
        node: Option<usize>,
        channel: &str,
        is_of_keys: bool,
        outside: &mut impl Outside,
    ) -> Result<Option<ServerId>, PublishFailure> {
        let masters = &self.redis.masters;
        if !masters.is_sharded(channel) {
            return Ok(None);
        }
        let known = node.map(|node| self.nodes[node].owners.get(&masters.slot_of(channel)).copied());
        let first = match known {
            Some(known) => known.unwrap_or_default(),
            None => outside.roll(masters.len()),
        };
        masters.route(first, channel, is_of_keys).map(Some).ok_or(PublishFailure::NotDone)
    }

    /// When all has come to rest: each sharded channel that a node wants is subscribed to once, on the link to its owner, and no
    /// other one is. `wants`: whether a node wants a channel.
    pub fn check_subscriptions(&self, channels: &[&str], wants: impl Fn(usize, &str) -> bool) {
        for channel in channels {
            let owner = self.redis.masters.owner_of(channel);
            let on = self.redis.subscribed_on(channel);
            for node in 0..self.nodes.len() {
                let of_node = on.iter().filter(|(link, _)| link / self.links == node);
                let servers: Vec<_> = of_node.map(|(_, server)| *server).collect();
                let expected = if wants(node, channel) { vec![Some(owner)] } else { vec![] };
                assert_eq!(servers, expected, "where node {node} is subscribed to {channel}");
            }
        }
    }
}
