//! In a Cluster with sharded classes: to which master each link of sharded channels leads, and which slots go from link to
//! link when the map changes. The topology decides; this task brings it what the map says, and passes on what follows. What a
//! hub does with slots is in [`drawbridge_engine::upstream`], how a link connects in [`super::link`].

use std::sync::{Arc, PoisonError, RwLock};

use drawbridge_engine::io::Subject;
use drawbridge_engine::upstream::{LinkId, MasterSlots, SLOTS, ShardId, SlotSet, Topology};
use tokio::sync::{mpsc, watch};

use super::RedisAddress;
use super::cluster_map::{Cluster, ClusterMap};
use crate::broker::hub_driver::HubCommand;

/// How many masters of a Cluster a node subscribes on. Links without a master cost nothing but their place.
pub(in crate::broker) const MAX_MASTERS: usize = 64;

/// Where a link leads; `None`: it has no master.
pub(super) type Target = watch::Receiver<Option<RedisAddress>>;

/// See the module.
pub(super) struct MasterLinks {
    cluster: Cluster,
    topology: Arc<RwLock<Topology>>,
    /// All links of the node, by their places.
    links: Vec<mpsc::WeakUnboundedSender<HubCommand>>,
    /// The place of the first link of a master.
    first: usize,
    targets: Vec<watch::Sender<Option<RedisAddress>>>,
    /// Masters without a link, as far as the log knows.
    without_link: usize,
}

impl MasterLinks {
    /// The links from `first` on are those of masters.
    pub(super) fn new(
        cluster: Cluster,
        topology: Arc<RwLock<Topology>>,
        links: Vec<mpsc::WeakUnboundedSender<HubCommand>>,
        first: usize,
    ) -> Self {
        let targets = (first..links.len()).map(|_| watch::Sender::new(None)).collect();
        MasterLinks { cluster, topology, links, first, targets, without_link: 0 }
    }

    /// Where each of these links leads, in the order of their places.
    pub(super) fn targets(&self) -> Vec<Target> {
        self.targets.iter().map(watch::Sender::subscribe).collect()
    }

    /// Follows the map until `stop`.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut follower = self.cluster.follow();
        follower.mark_changed();
        loop {
            tokio::select! {
                Ok(()) = follower.changed() => {
                    let map = follower.borrow_and_update().clone();
                    if map.version() > 0 {
                        self.adapt(&map);
                    }
                }
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn adapt(&mut self, map: &ClusterMap) {
        let masters = slots_by_master(map);
        let mut moved = 0;
        let (without_link, targets) = {
            let mut topology = self.topology.write().unwrap_or_else(PoisonError::into_inner);
            let reassigned = topology.assign(&masters);
            for slots in reassigned.moves {
                moved += slots.slots.len();
                // Under the lock: whatever was commanded before is before it in its link's queue.
                self.send(slots.to, HubCommand::TakeSlots(slots.clone()));
                self.send(slots.from, HubCommand::GiveSlots(slots));
            }
            let everywhere = || Subject::channel(topology.everywhere().clone());
            for link in reassigned.opened {
                self.send(link, HubCommand::Want(ShardId::NODE, everywhere()));
            }
            for link in reassigned.closed {
                self.send(link, HubCommand::Unwant(ShardId::NODE, everywhere()));
            }
            let target = |place| {
                let name = topology.master_of(LinkId::at(place))?;
                let at = masters.iter().position(|master| master.master == *name)?;
                map.masters().get(at).map(|master| master.address.clone())
            };
            let targets: Vec<_> = (self.first..self.links.len()).map(target).collect();
            (reassigned.without_link, targets)
        };
        for (sender, target) in self.targets.iter().zip(targets) {
            sender.send_if_modified(|known| {
                let is_other = *known != target;
                *known = target;
                is_other
            });
        }
        if moved > 0 {
            tracing::info!(slots = moved, "sharded channels follow slots that have another master");
        }
        if without_link != self.without_link && without_link > 0 {
            let text = "the Cluster has more masters than a node subscribes on; sharded channels of the rest are not delivered";
            tracing::error!(masters = without_link, at_most = MAX_MASTERS, "{text}");
        }
        self.without_link = without_link;
    }

    fn send(&self, link: LinkId, command: HubCommand) {
        if let Some(link) = self.links.get(link.place()).and_then(mpsc::WeakUnboundedSender::upgrade) {
            let _ = link.send(command);
        }
    }
}

/// The slots of each master, in the order of the map; named by their addresses.
fn slots_by_master(map: &ClusterMap) -> Vec<MasterSlots> {
    let named = map.masters().iter().map(|master| master.address.to_string().into());
    let mut masters: Vec<MasterSlots> =
        named.map(|master| MasterSlots { master, slots: SlotSet::default() }).collect();
    for slot in 0..SLOTS {
        if let Some(master) = map.place_of_slot(slot).and_then(|place| masters.get_mut(place)) {
            master.slots.insert(slot);
        }
    }
    masters
}
