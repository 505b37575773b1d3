//! In a Cluster, what works with one master each: a publisher and two readers, so that a master that is away holds up nothing
//! that the others have. Each is for the master of one slot, its home, whichever server that is at the time; where a master has
//! no home slot of any, others are added.
//!
//! Writes go to the publisher of the master that has their slot, those that write two slots (records of sessions, presence: each
//! with an index of the node) to one more publisher, in whose batches every master takes part.
//!
//! Invariant: the writes of one slot are executed in their order. While a publisher has some that are not answered, those that
//! follow go to it, too, whoever has the slot by then: it follows redirections.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use drawbridge_engine::io::WriteKind;
use hashbrown::HashMap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::cluster_map::{Cluster, ClusterMap, slot_of};
use super::connector::Connector;
use super::publisher::Publisher;
use super::reader::{Reader, name_of};
use super::{Names, RedisAddress, RedisSettings};
use crate::broker::health_board::{HealthBoard, Need};
use crate::broker::jobs::{Job, JobReceiver};
use crate::broker::link_metrics::LinkMetrics;
use crate::broker::local::LocalDelivery;
use crate::broker::query_queue::{AnswerSize, QueryQueue};

/// The first home: there before any master is known, so that what is written meanwhile fares as its class says.
const FIRST_HOME: u16 = 0;

/// See the module.
pub(super) struct Masters {
    pub(super) cluster: Cluster,
    pub(super) settings: Arc<RedisSettings>,
    pub(super) jobs: JobReceiver,
    pub(super) queries: QueryQueue,
    pub(super) health_board: Arc<HealthBoard>,
    pub(super) link_metrics: Arc<LinkMetrics>,
    pub(super) local: LocalDelivery,
}

/// What works for the master of one slot.
struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    /// Ends its readers, and its publisher when that has done what waits.
    stop: watch::Sender<bool>,
}

/// Which publisher gets the writes of which slot.
#[derive(Default)]
struct Assignment {
    /// The home by the address of its master; of several the lowest.
    homes: HashMap<RedisAddress, u16>,
    /// The home whose publisher had the last write of a slot, and what each of these writes holds until it is answered.
    last: HashMap<u16, (u16, Arc<()>)>,
}

impl Masters {
    /// Runs until `stop`, and then until what waits is done.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let mut workers = BTreeMap::from([(FIRST_HOME, self.start(FIRST_HOME, &mut tasks))]);
        let indexed = self.start_publisher(&mut tasks, "publisher of sessions and presence", Need::Never, {
            let index = self.settings.names.node_sessions_key(&self.settings.lease.instance);
            slot_of(index.as_bytes())
        });
        let mut assignment = Assignment::default();
        let mut follower = self.cluster.follow();
        follower.mark_changed();
        loop {
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => dispatch(&self.settings.names, &self.cluster, &mut assignment, &workers, &indexed, job),
                    None => break,
                },
                Ok(()) = follower.changed() => {
                    let map = follower.borrow_and_update().clone();
                    self.adapt(&map, &mut assignment, &mut workers, &mut tasks);
                }
                _ = stop.wait_for(|stop| *stop), if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
        for worker in workers.values().chain([&indexed]) {
            let _ = worker.stop.send(true);
        }
        drop((workers, indexed));
        while tasks.join_next().await.is_some() {}
    }

    /// Adds what masters without a home slot need, and ends what two homes of one master do twice.
    fn adapt(
        &self,
        map: &ClusterMap,
        assignment: &mut Assignment,
        workers: &mut BTreeMap<u16, Worker>,
        tasks: &mut JoinSet<()>,
    ) {
        assignment.assign(map, workers.keys().copied());
        for master in map.masters() {
            if assignment.homes.contains_key(&master.address) {
                continue;
            }
            if let Some(home) = map.first_slot_of(&master.address) {
                workers.insert(home, self.start(home, tasks));
                assignment.homes.insert(master.address.clone(), home);
            }
        }
        workers.retain(|home, worker| {
            let is_used =
                assignment.homes.values().any(|used| used == home) || assignment.has_unanswered(*home);
            if !is_used && *home != FIRST_HOME {
                let _ = worker.stop.send(true);
            }
            is_used || *home == FIRST_HOME
        });
        // What a query needs may be another master's by now.
        self.queries.look_again();
    }

    /// Starts what works for the master of this slot.
    fn start(&self, home: u16, tasks: &mut JoinSet<()>) -> Worker {
        let worker = self.start_publisher(tasks, "publisher", Need::OneOf("publishers"), home);
        let connector = self.connector(home);
        for size in [AnswerSize::Large, AnswerSize::Small] {
            let name = format!("{}, slot {home}", name_of(size));
            let part = self.health_board.add((name, size == AnswerSize::Large, Need::OneOf(name_of(size))));
            let reader = Arc::new(Reader {
                queries: self.queries.clone(),
                connector: connector.clone(),
                health_board: self.health_board.clone(),
                link_metrics: self.link_metrics.clone(),
                lines: Default::default(),
            });
            let (stop, health_board) = (worker.stop.subscribe(), self.health_board.clone());
            tasks.spawn(async move {
                reader.run(part, size, stop).await;
                health_board.remove(part);
            });
        }
        worker
    }

    fn start_publisher(&self, tasks: &mut JoinSet<()>, what: &str, need: Need, home: u16) -> Worker {
        let (jobs, receiver) = self.jobs.branch();
        let (stop, stopping) = watch::channel(false);
        let part = self.health_board.add((format!("{what}, slot {home}"), false, need));
        let (health_board, metrics) = (self.health_board.clone(), self.link_metrics.clone());
        let publisher = Publisher::new(
            part,
            receiver,
            self.connector(home),
            health_board.clone(),
            metrics,
            self.local.clone(),
        );
        tasks.spawn(async move {
            publisher.run(stopping).await;
            health_board.remove(part);
        });
        Worker { jobs, stop }
    }

    fn connector(&self, home: u16) -> Connector {
        Connector::to_master_of(self.settings.clone(), self.cluster.clone(), home)
    }
}

/// Hands a write to the publisher that does it.
fn dispatch(
    names: &Names,
    cluster: &Cluster,
    assignment: &mut Assignment,
    workers: &BTreeMap<u16, Worker>,
    indexed: &Worker,
    mut job: Job,
) {
    let worker = match slot_of_write(names, &job.work) {
        None => Some(indexed),
        Some(slot) => {
            let owner = cluster.map().master_of(slot).map(|master| master.address.clone());
            let (home, hold) = assignment.home_for(slot, owner.as_ref());
            job.hold(hold);
            workers.get(&home)
        }
    };
    // One that is not there any more drops it: not done.
    if let Some(worker) = worker {
        let _ = worker.jobs.send(job);
    }
}

/// The slot in which a write is done; `None`: it writes two.
pub(super) fn slot_of_write(names: &Names, work: &WriteKind) -> Option<u16> {
    let key: Cow<'_, str> = match work {
        WriteKind::Publish { channel, .. }
        | WriteKind::Commit { channel, .. }
        | WriteKind::Log { channel, .. } => names.outward(channel),
        WriteKind::Append { stream, .. } => names.outward(stream),
        WriteKind::SetOverride { player, .. } => names.views_key(player).into(),
        WriteKind::SaveSession { .. } | WriteKind::EndSession { .. } | WriteKind::Presence { .. } => {
            return None;
        }
    };
    Some(slot_of(key.as_bytes()))
}

impl Assignment {
    /// Finds out which of these homes is for which master now.
    fn assign(&mut self, map: &ClusterMap, homes: impl Iterator<Item = u16>) {
        self.homes.clear();
        for home in homes {
            if let Some(master) = map.master_of(home) {
                self.homes.entry(master.address.clone()).or_insert(home);
            }
        }
        self.last.retain(|_, (_, hold)| Arc::strong_count(hold) > 1);
    }

    /// Whether a publisher has writes that are not answered.
    fn has_unanswered(&self, home: u16) -> bool {
        self.last.values().any(|(last, hold)| *last == home && Arc::strong_count(hold) > 1)
    }

    /// The home whose publisher gets the next write of this slot, and what the write is to hold until it is answered.
    fn home_for(&mut self, slot: u16, owner: Option<&RedisAddress>) -> (u16, Arc<()>) {
        let assigned = owner.and_then(|owner| self.homes.get(owner)).copied();
        let (home, hold) =
            self.last.entry(slot).or_insert_with(|| (assigned.unwrap_or(FIRST_HOME), Arc::new(())));
        if Arc::strong_count(hold) == 1
            && let Some(assigned) = assigned
        {
            *home = assigned;
        }
        (*home, hold.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u16) -> RedisAddress {
        RedisAddress::Tcp { host: "h".into(), port }
    }

    #[test]
    fn writes_of_a_slot_stay_where_some_are_not_answered() {
        let homes = HashMap::from_iter([(tcp(1), 10), (tcp(2), 20)]);
        let mut assignment = Assignment { homes, ..Assignment::default() };
        let (home, first) = assignment.home_for(7, Some(&tcp(1)));
        assert_eq!(home, 10);
        // The slot moves.
        let (home, second) = assignment.home_for(7, Some(&tcp(2)));
        assert_eq!((home, assignment.has_unanswered(10)), (10, true));
        drop(first);
        assert_eq!(assignment.home_for(7, Some(&tcp(2))).0, 10);
        drop(second);
        assert_eq!(assignment.home_for(7, Some(&tcp(2))).0, 20);
        assert!(!assignment.has_unanswered(10) && !assignment.has_unanswered(20));
    }

    #[test]
    fn a_slot_that_nobody_has_goes_where_it_went_last() {
        let homes = HashMap::from_iter([(tcp(2), 20)]);
        let mut assignment = Assignment { homes, ..Assignment::default() };
        assert_eq!(assignment.home_for(7, None).0, FIRST_HOME);
        assert_eq!(assignment.home_for(8, Some(&tcp(2))).0, 20);
        assert_eq!(assignment.home_for(8, None).0, 20);
    }
}
