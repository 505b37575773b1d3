//! To which server a part of the broker connects: the only one, or in a Cluster the master of its home slot, or any master.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::cluster_map::{Cluster, ClusterMap, slot_of};
use super::connect::Broken;
use super::master_links::Target;
use super::probe::Reach;
use super::{RedisAddress, RedisSettings};
use crate::broker::health_board::{HealthBoard, Trouble};

/// How long a part waits for the Cluster's map before it says that there is none.
const MAP_PATIENCE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) settings: Arc<RedisSettings>,
    home: Home,
}

#[derive(Clone, Debug)]
enum Home {
    /// Wherever the settings say.
    Settings,
    /// The master of this slot, whichever that is.
    MasterOf(Cluster, u16),
    /// One of the masters: the one with this number, or those behind it where it cannot be reached.
    Any(Cluster, usize),
    /// The master that the topology has given a link of sharded channels, if it has.
    Link(Cluster, Target),
}

impl Connector {
    /// To the Redis of the settings.
    pub(super) fn to_settings(settings: Arc<RedisSettings>) -> Self {
        Connector { settings, home: Home::Settings }
    }

    /// To the master of this slot, at each attempt the one that has it then.
    pub(super) fn to_master_of(settings: Arc<RedisSettings>, cluster: Cluster, slot: u16) -> Self {
        Connector { settings, home: Home::MasterOf(cluster, slot) }
    }

    /// To any master; `number` spreads connections over them.
    pub(super) fn to_any(settings: Arc<RedisSettings>, cluster: Cluster, number: usize) -> Self {
        Connector { settings, home: Home::Any(cluster, number) }
    }

    /// To the master of a link of sharded channels; waits for as long as it has none.
    pub(super) fn to_master_of_link(settings: Arc<RedisSettings>, cluster: Cluster, target: Target) -> Self {
        Connector { settings, home: Home::Link(cluster, target) }
    }

    /// How publications reach what it connects.
    pub(super) fn reach(&self) -> Reach {
        match &self.home {
            Home::Settings => Reach::Server,
            Home::MasterOf(..) | Home::Any(..) => Reach::Bus,
            Home::Link(..) => Reach::Master,
        }
    }

    /// Whether the master at this address has the slot of this channel, as Redis knows it; so does the only server.
    pub(super) fn has_slot(&self, address: Option<&RedisAddress>, channel: &[u8]) -> bool {
        match (self.cluster(), address) {
            (Some((cluster, _)), Some(address)) => {
                cluster.map().master_of(slot_of(channel)).is_some_and(|master| master.address == *address)
            }
            _ => true,
        }
    }

    /// A slot of the master at this address; `None`: it has none.
    pub(super) fn a_slot_of(&self, address: Option<&RedisAddress>) -> Option<u16> {
        let (cluster, _) = self.cluster()?;
        cluster.map().first_slot_of(address?)
    }

    /// Whether it leads nowhere now, and need not: what is to connect waits until it does.
    pub(super) fn is_idle(&self) -> bool {
        matches!(&self.home, Home::Link(_, target) if target.borrow().is_none())
    }

    /// Marks the current target as seen; [`Connector::redirected`] waits for the next one.
    pub(super) fn mark_seen(&mut self) {
        if let Home::Link(_, target) = &mut self.home {
            target.mark_unchanged();
        }
    }

    /// Waits until it leads elsewhere than when [`Connector::mark_seen`] was called last; for ever where it cannot be known.
    pub(super) fn redirected(&self) -> impl Future<Output = ()> + use<> {
        let target = match &self.home {
            Home::Link(_, target) => Some(target.clone()),
            _ => None,
        };
        async move {
            if let Some(mut target) = target
                && target.changed().await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }

    /// The map by which the next attempt finds its server; 0: none is known, or none is needed.
    pub(super) fn map_version(&self) -> u64 {
        self.cluster().map_or(0, |(cluster, _)| cluster.map().version())
    }

    /// Waits so long before the next attempt, or until that may succeed: another part has reached Redis, or the map is another one
    /// than at the last attempt.
    pub(super) async fn wait_to_try_again(&self, health_board: &HealthBoard, wait: Duration, tried_by: u64) {
        let is_other_map = async {
            if let Some((cluster, _)) = self.cluster()
                && cluster.follow().wait_for(|map| map.version() != tried_by).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = health_board.wait_for_another(wait) => {}
            () = is_other_map => {}
        }
    }

    /// Something contradicts the map of the Cluster.
    pub(super) fn doubt(&self) {
        if let Some((cluster, _)) = self.cluster() {
            cluster.doubt();
        }
    }

    /// Why a connection broke or could not be made.
    pub(super) fn trouble(&self, broken: &Broken) -> Trouble {
        Trouble { server: self.server(), reason: broken.public_reason() }
    }

    /// To which master of a Cluster the next connection leads, if that is known.
    pub(super) fn server(&self) -> Option<String> {
        match &self.home {
            Home::MasterOf(cluster, slot) => {
                cluster.map().master_of(*slot).map(|master| master.address.to_string())
            }
            Home::Any(cluster, number) => {
                any_master(&cluster.map(), *number).map(|master| master.to_string())
            }
            Home::Link(_, target) => target.borrow().as_ref().map(RedisAddress::to_string),
            Home::Settings => None,
        }
    }

    /// The Cluster, if it is one, and the home slot, if there is one.
    pub(super) fn cluster(&self) -> Option<(&Cluster, Option<u16>)> {
        match &self.home {
            Home::Settings => None,
            Home::MasterOf(cluster, slot) => Some((cluster, Some(*slot))),
            Home::Any(cluster, _) | Home::Link(cluster, _) => Some((cluster, None)),
        }
    }

    /// Where the next connection is made; `None`: where the settings say.
    ///
    /// # Errors
    /// Where no master is known.
    pub(super) async fn address(&self) -> Result<Option<RedisAddress>, Broken> {
        let cluster = match &self.home {
            Home::Settings => return Ok(None),
            Home::MasterOf(cluster, _) | Home::Any(cluster, _) => cluster,
            Home::Link(_, target) => {
                let mut target = target.clone();
                return match target.wait_for(Option::is_some).await {
                    Ok(address) => Ok(address.clone()),
                    Err(_) => Err(unknown("the node stops")),
                };
            }
        };
        let mut follower = cluster.follow();
        let known = timeout(MAP_PATIENCE, follower.wait_for(|map| map.version() > 0)).await;
        let map = match known {
            Ok(Ok(map)) => map.clone(),
            _ => return Err(unknown("no server of the Cluster has said yet which masters there are")),
        };
        let address = match &self.home {
            Home::MasterOf(_, slot) => map.master_of(*slot).map(|master| master.address.clone()),
            Home::Any(_, number) => any_master(&map, *number),
            Home::Settings | Home::Link(..) => None,
        };
        match address {
            Some(address) => Ok(Some(address)),
            None => Err(unknown("no master of the Cluster has the slots of this connection")),
        }
    }

    /// The last attempt failed, or its connection broke: the map may be old, and another master may do as well.
    pub(super) fn failed(&mut self) {
        if let Home::Any(_, number) = &mut self.home {
            *number = number.wrapping_add(1);
        }
        self.doubt();
    }

    /// Waits until the Cluster says that this is no longer the address of a working master, or the link has another address.
    /// Outside a Cluster it never returns.
    pub(super) async fn left(&self, address: Option<&RedisAddress>) {
        let elsewhere = async {
            if let Home::Link(_, target) = &self.home
                && target.clone().wait_for(|target| target.as_ref() != address).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = elsewhere => {}
            () = self.left_by_map(address) => {}
        }
    }

    async fn left_by_map(&self, address: Option<&RedisAddress>) {
        match (self.cluster(), address) {
            (Some((cluster, _)), Some(address)) => left(cluster, address).await,
            _ => std::future::pending().await,
        }
    }

    /// Whether what has this key in Redis is for the connection of this connector.
    pub(super) fn has(&self, key: impl FnOnce() -> String) -> bool {
        let Home::MasterOf(cluster, home) = &self.home else { return true };
        let map = cluster.map();
        match map.master_of(slot_of(key().as_bytes())) {
            Some(owner) => map.master_of(*home).is_some_and(|master| master.address == owner.address),
            None => false,
        }
    }
}

/// Waits until the Cluster says that this is no longer the address of a master that works.
pub(super) async fn left(cluster: &Cluster, address: &RedisAddress) {
    let works =
        |map: &ClusterMap| map.masters().iter().any(|master| master.address == *address && !master.is_failed);
    let mut follower = cluster.follow();
    // Who could change the map and is gone changes it no more.
    if follower.wait_for(|map| !works(map)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The master with this number, of those that work; of all where none does.
fn any_master(map: &ClusterMap, number: usize) -> Option<RedisAddress> {
    let working: Vec<_> = map.masters().iter().filter(|master| !master.is_failed).collect();
    let masters = if working.is_empty() { map.masters().iter().collect() } else { working };
    let at = number.checked_rem(masters.len())?;
    Some(masters[at].address.clone())
}

fn unknown(what: &str) -> Broken {
    Broken::Io(io::Error::new(io::ErrorKind::NotFound, what))
}

#[cfg(test)]
mod tests {
    use super::super::super::fanout::ShardFanout;
    use super::super::super::queue::shard_queue;
    use super::super::tests::settings;
    use super::*;

    #[tokio::test]
    async fn another_map_ends_the_wait_for_the_next_attempt() {
        let cluster = Cluster::default();
        let connector = Connector::to_master_of(Arc::new(settings()), cluster.clone(), 7);
        let ((queue, _), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let health_board = HealthBoard::new([], [], ShardFanout::new(vec![queue], node));
        let tried_by = connector.map_version();
        let wait = connector.wait_to_try_again(&health_board, Duration::from_secs(3_600), tried_by);
        let promoted = RedisAddress::Tcp { host: "h".into(), port: 1 };
        tokio::join!(wait, async { cluster.moved(7, &promoted) });
        assert_ne!(connector.map_version(), tried_by);
    }
}
