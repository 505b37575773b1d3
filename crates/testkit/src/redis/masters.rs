//! The masters of a Redis Cluster in virtual time: who has which slot, by the newest configuration and as each server knows it;
//! failovers to replicas that lack a tail, former masters that still accept writes, slots that move, and what all that does to
//! the links of sharded channels. What a node knows of it is left to [`crate::cluster`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::class::ShardedChannels;
use drawbridge_engine::io::Subject;
use drawbridge_engine::upstream::{LinkCommand, SlotHasher};

use super::logs::{Logs, Rolled};
use super::{Push, Redis};

/// One server of a Cluster, by its place.
pub type ServerId = usize;

/// Who has which slot; of the slots of the channels in use.
pub type Owners = BTreeMap<u16, ServerId>;

/// What a server is, as it knows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Master,
    Replica,
    Down,
}

#[derive(Debug)]
struct Server {
    name: Arc<str>,
    role: Role,
    /// As it knows it, at this version.
    owners: Owners,
    version: u64,
    /// Slots that it has given away and does not know it: their keys are gone.
    given: BTreeSet<u16>,
    logs: Logs,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Masters {
    servers: Vec<Server>,
    /// By the newest configuration, whose version counts the changes.
    owners: Owners,
    version: u64,
    masters: BTreeSet<ServerId>,
    channels: ShardedChannels,
    hasher: SlotHasher,
    /// How many servers' logs there were.
    lives: u64,
}

impl Masters {
    /// So many masters, which share the slots of these channels in turn; and as many replicas.
    pub fn new(count: usize, channels: ShardedChannels, names: &[&str]) -> Self {
        let hasher = SlotHasher::default();
        let slots: BTreeSet<u16> = names.iter().map(|name| hasher.slot_of(name)).collect();
        let owners: Owners = slots.into_iter().enumerate().map(|(at, slot)| (slot, at % count)).collect();
        let mut masters = Masters {
            owners,
            version: 1,
            masters: (0..count).collect(),
            channels,
            hasher,
            ..Masters::default()
        };
        for at in 0..2 * count {
            let logs = masters.new_logs();
            masters.servers.push(Server {
                name: format!("m{at}").into(),
                role: if at < count { Role::Master } else { Role::Replica },
                owners: masters.owners.clone(),
                version: 1,
                given: BTreeSet::new(),
                logs,
            });
        }
        masters
    }

    fn new_logs(&mut self) -> Logs {
        self.lives += 1;
        Logs::new(self.lives)
    }

    /// The slots in use.
    pub fn slots(&self) -> impl Iterator<Item = u16> {
        self.owners.keys().copied()
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there is no Cluster.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The masters, by the newest configuration.
    pub fn masters(&self) -> Vec<ServerId> {
        self.masters.iter().copied().collect()
    }

    pub fn name(&self, server: ServerId) -> &Arc<str> {
        &self.servers[server].name
    }

    /// The server of this name.
    pub fn named(&self, name: &str) -> Option<ServerId> {
        self.servers.iter().position(|server| *server.name == *name)
    }

    pub fn is_sharded(&self, channel: &str) -> bool {
        self.channels.contain(channel)
    }

    pub fn slot_of(&self, channel: &str) -> u16 {
        self.hasher.slot_of(channel)
    }

    /// The owner of a channel, by the newest configuration.
    pub fn owner_of(&self, channel: &str) -> ServerId {
        self.owners[&self.slot_of(channel)]
    }

    /// The owner of a slot, by the newest configuration.
    pub fn owner(&self, slot: u16) -> ServerId {
        self.owners[&slot]
    }

    /// Whether a link can lead there: a server that takes itself for a master.
    pub fn takes_links(&self, server: ServerId) -> bool {
        self.servers[server].role == Role::Master
    }

    /// What a server says of the slots, and at which version; `None`: it says nothing.
    pub fn says(&self, server: ServerId) -> Option<(&Owners, u64)> {
        let Server { owners, version, role, .. } = &self.servers[server];
        (*role != Role::Down).then_some((owners, *version))
    }

    fn serves(&self, server: ServerId, slot: u16) -> bool {
        let Server { role, owners, .. } = &self.servers[server];
        *role == Role::Master && owners.get(&slot) == Some(&server)
    }

    /// The server that executes what is sent to `first` about this channel, whichever redirections lead there; `None`: one on
    /// the way is down. `is_of_keys`: it reads or writes keys.
    pub fn route(&self, first: ServerId, channel: &str, is_of_keys: bool) -> Option<ServerId> {
        let slot = self.slot_of(channel);
        let mut at = first;
        for _ in 0..=self.servers.len() {
            let server = &self.servers[at];
            at = match self.serves(at, slot) {
                _ if server.role == Role::Down => return None,
                true if is_of_keys && server.given.contains(&slot) => self.owners[&slot],
                true => return Some(at),
                false if server.owners[&slot] == at => return None,
                false => server.owners[&slot],
            };
        }
        None
    }

    /// The logs of a server.
    pub fn logs(&mut self, server: ServerId) -> &mut Logs {
        &mut self.servers[server].logs
    }

    /// A slot gets another master, which has its keys and knows it at once. Returns which logs went with it.
    pub fn migrate(&mut self, slot: u16, to: ServerId) -> Vec<Rolled> {
        let from = self.owners[&slot];
        if from == to || !self.masters.contains(&to) || !self.takes_links(from) || !self.takes_links(to) {
            return Vec::new();
        }
        self.version += 1;
        self.owners.insert(slot, to);
        let hasher = self.hasher;
        let of_slot = |channel: &&Arc<str>| hasher.slot_of(channel) == slot;
        let channels: Vec<Arc<str>> = self.servers[from].logs.channels().filter(of_slot).cloned().collect();
        let [giver, taker] = self.servers.get_disjoint_mut([from, to]).expect("two servers");
        giver.given.insert(slot);
        taker.given.remove(&slot);
        taker.owners.insert(slot, to);
        let give = |channel: Arc<str>| giver.logs.give(&channel, &mut taker.logs);
        channels.into_iter().filter_map(give).collect()
    }

    /// A replica takes over from a master, without the last `lost` events of each log. The former one is down, or `stays`: cut
    /// off from the others, it goes on as a master until it learns of it. Returns how the logs go on, or `None` if there is no
    /// replica.
    pub fn fail_over(&mut self, from: ServerId, lost: usize, stays: bool) -> Option<Vec<Rolled>> {
        let replica = self.servers.iter().position(|server| server.role == Role::Replica)?;
        if !self.masters.remove(&from) {
            return None;
        }
        self.masters.insert(replica);
        self.version += 1;
        self.owners.values_mut().filter(|owner| **owner == from).for_each(|owner| *owner = replica);
        self.lives += 1;
        let (mut logs, rolled) = self.servers[from].logs.promote_replica(self.lives, lost);
        std::mem::swap(&mut self.servers[replica].logs, &mut logs);
        self.servers[replica].role = Role::Master;
        self.tell(replica);
        if !stays {
            self.servers[from].role = Role::Down;
        }
        Some(rolled)
    }

    /// A master starts again, perhaps without its last writes.
    pub fn restart(&mut self, server: ServerId, lost: usize) -> Vec<Rolled> {
        self.servers[server].logs.restart(lost)
    }

    /// A server that is down comes back as a replica.
    pub fn revive(&mut self, server: ServerId) {
        if self.servers[server].role == Role::Down {
            self.servers[server].role = Role::Replica;
            self.tell(server);
        }
    }

    /// A replica becomes a master without slots.
    pub fn add(&mut self) {
        if let Some(server) = self.servers.iter().position(|server| server.role == Role::Replica) {
            self.servers[server].role = Role::Master;
            self.servers[server].logs = self.new_logs();
            self.masters.insert(server);
            self.tell(server);
        }
    }

    /// A master without slots is one no more, if others are left.
    pub fn remove(&mut self, server: ServerId) {
        let has_slots = self.owners.values().any(|owner| *owner == server);
        if self.masters.len() > 1 && !has_slots && self.masters.remove(&server) {
            self.version += 1;
        }
    }

    /// A server learns the newest configuration.
    fn tell(&mut self, at: ServerId) {
        let (owners, version, is_master) = (self.owners.clone(), self.version, self.masters.contains(&at));
        let server = &mut self.servers[at];
        (server.owners, server.version) = (owners, version);
        server.given.clear();
        if server.role == Role::Master && !is_master {
            server.role = Role::Replica;
        }
    }
}

impl Redis {
    /// The logs of one Redis, or of this server of a Cluster.
    pub fn logs_at(&mut self, server: Option<ServerId>) -> &mut Logs {
        match server {
            Some(server) => self.masters.logs(server),
            None => &mut self.logs,
        }
    }

    /// A server learns the newest configuration: of channels whose slots it has no more it ends the subscriptions by itself.
    /// Returns whether it is a master no more, so that its links break.
    pub fn tell_server(&mut self, server: ServerId) -> bool {
        if self.masters.servers[server].role == Role::Down {
            return false;
        }
        let was_master = self.masters.takes_links(server);
        self.masters.tell(server);
        let masters = &self.masters;
        let is_lost = |subject: &Subject| {
            masters.is_sharded(&subject.name) && !masters.serves(server, masters.slot_of(&subject.name))
        };
        for link in self.links.iter_mut().filter(|link| link.server == Some(server)) {
            let lost = link.subscriptions.extract_if(.., |subject| is_lost(subject));
            link.unread.extend(lost.map(Push::Unsubscribed));
        }
        was_master && !self.masters.takes_links(server)
    }

    /// A server publishes on a sharded channel: to those who are subscribed there.
    pub fn publish_at(&mut self, server: ServerId, channel: &Arc<str>, payload: &Bytes) {
        let links = self.links.iter_mut().filter(|link| link.server == Some(server));
        links.for_each(|link| link.send(channel, payload));
    }

    /// The server of a link executes the next of what was sent to it. `refuses`: whether it cannot subscribe to anything of a
    /// slot just now. Returns whether there was anything.
    pub fn execute(&mut self, link: usize, mut refuses: impl FnMut() -> bool) -> bool {
        let Redis { links, masters, .. } = self;
        let link = &mut links[link];
        let (Some(command), Some(server)) = (link.requests.pop_front(), link.server) else { return false };
        let is_elsewhere = |subject: &Subject| {
            masters.is_sharded(&subject.name) && !masters.serves(server, masters.slot_of(&subject.name))
        };
        match command {
            LinkCommand::Subscribe(subjects) => {
                for subject in subjects {
                    match is_elsewhere(&subject) || (masters.is_sharded(&subject.name) && refuses()) {
                        true => link.unread.push_back(Push::Elsewhere(subject)),
                        false => link.subscribe(subject, false),
                    }
                }
            }
            LinkCommand::Unsubscribe(subjects) => {
                subjects.into_iter().for_each(|subject| link.unsubscribe(subject));
            }
            LinkCommand::Mark(marker) => panic!("sharded channels do not move one by one: {marker}"),
        }
        true
    }

    /// On which links a channel is subscribed to, and at which servers.
    pub fn subscribed_on(&self, channel: &str) -> Vec<(usize, Option<ServerId>)> {
        let subject = Subject::channel(channel);
        let links = self.links.iter().enumerate();
        links
            .filter(|(_, link)| link.subscriptions.contains(&subject))
            .map(|(at, link)| (at, link.server))
            .collect()
    }
}
