//! In a Cluster, what works with one master each: two publishers and two readers, so that a master that is away holds up nothing
//! that the others have. Each is for the master of one slot, its home, whichever server that is at the time; where a master has
//! no home slot of any, others are added.
//!
//! Writes go to a publisher of the master that has their slot; those that also write an index of the node in another slot (records
//! of sessions, presence) to the second one, in whose batches the index' master takes part. Of what may wait each master has a
//! share ([`MasterShare`]). Writes of slots that no master has wait in [`super::unowned`].
//!
//! Invariant: the writes of one slot are executed in their order. While a publisher has some that are not answered, those that
//! follow go to it, too, whoever has the slot by then: it follows redirections.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use drawbridge_engine::io::{PublishFailure, WriteKind};
use hashbrown::HashMap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster_map::{Cluster, ClusterMap, slot_of};
use super::connector::Connector;
use super::publisher::{Publisher, expiry};
use super::reader::{Reader, name_of};
use super::unowned::{self, SlotsPart, UnownedWrites};
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
    /// Of those that write an index, too.
    indexed: mpsc::UnboundedSender<Job>,
    share: Arc<MasterShare>,
    /// Ends its readers, and its publishers when these have done what waits.
    stop: watch::Sender<bool>,
}

/// How many of the bytes that all writes may take those of one master may: a half.
const MASTER_SHARE: usize = 2;
/// How many writes of presence may be out to one master. A shard has more than that out to all of them.
const PRESENCE_OUT: usize = 1_024;

/// What is out to one master, or waits for it: it may not take all that there is for all of them.
#[derive(Debug, Default)]
struct MasterShare {
    bytes: AtomicUsize,
    presence: AtomicUsize,
}

/// One write's part of it, until it is over.
#[derive(Debug)]
struct Part {
    share: Arc<MasterShare>,
    bytes: usize,
    presence: usize,
}

impl MasterShare {
    /// The part that this write takes; `None`: there is no room for it. Where nothing is out there is, however large it is.
    fn part(self: &Arc<Self>, job: &Job, bound_bytes: usize) -> Option<Part> {
        let presence = usize::from(matches!(job.work, WriteKind::Presence { .. }));
        // Entries of the lifecycle stream have their own bound.
        let bytes = if job.is_lifecycle() { 0 } else { job.bytes };
        let (before, out) = (self.bytes.load(Ordering::Relaxed), self.presence.load(Ordering::Relaxed));
        let is_full = before > 0 && bytes > 0 && before + bytes > bound_bytes / MASTER_SHARE;
        if is_full || out + presence > PRESENCE_OUT {
            return None;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.presence.fetch_add(presence, Ordering::Relaxed);
        Some(Part { share: self.clone(), bytes, presence })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.share.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.share.presence.fetch_sub(self.presence, Ordering::Relaxed);
    }
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
        let mut assignment = Assignment::default();
        let mut unowned = UnownedWrites::default();
        let slots = SlotsPart::new(&self.health_board);
        let (queries, cluster) = (self.queries.clone(), self.cluster.clone());
        tasks.spawn(unowned::refuse_views(queries, cluster, self.settings.names.clone(), stop.clone()));
        let mut follower = self.cluster.follow();
        follower.mark_changed();
        loop {
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => self.dispatch(&mut assignment, &workers, &mut unowned, job),
                    None => break,
                },
                Ok(()) = follower.changed() => {
                    let map = follower.borrow_and_update().clone();
                    slots.adapt(&self.health_board, &map);
                    self.adapt(&map, &mut assignment, &mut workers, &mut tasks);
                    for job in unowned.take(|slot| assignment.is_assigned(&map, slot)) {
                        self.dispatch(&mut assignment, &workers, &mut unowned, job);
                    }
                }
                () = expiry(unowned.next_expiry()) => unowned.withdraw_expired(Instant::now()),
                _ = stop.wait_for(|stop| *stop), if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
        for worker in workers.values() {
            let _ = worker.stop.send(true);
        }
        drop((workers, unowned));
        while tasks.join_next().await.is_some() {}
    }

    /// Hands a write to the publisher that does it, or keeps it, where no master has its slot.
    fn dispatch(
        &self,
        assignment: &mut Assignment,
        workers: &BTreeMap<u16, Worker>,
        unowned: &mut UnownedWrites,
        mut job: Job,
    ) {
        let slot = slot_of_write(&self.settings.names, &job.work);
        let owner = self.cluster.map().master_of(slot).map(|master| master.address.clone());
        let assigned = match unowned.has(slot) {
            true => None,
            false => assignment.home_for(slot, owner.as_ref()),
        };
        let Some((home, hold)) = assigned else { return unowned.add(slot, job, &self.local) };
        // One that is not there any more drops it: not done.
        let Some(worker) = workers.get(&home) else { return };
        let Some(part) = worker.share.part(&job, self.jobs.bound_bytes()) else {
            return job.answer(Err(PublishFailure::NotDone));
        };
        job.hold((hold, part));
        let jobs = if is_indexed(&job.work) { &worker.indexed } else { &worker.jobs };
        let _ = jobs.send(job);
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
        let (stop, stopping) = watch::channel(false);
        let start = |tasks: &mut JoinSet<()>, what, need| {
            self.start_publisher(tasks, what, need, home, stopping.clone())
        };
        let jobs = start(tasks, "publisher", Need::OneOf("publishers"));
        let indexed = start(tasks, "publisher of sessions and presence", Need::Never);
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
            let (stopping, health_board) = (stopping.clone(), self.health_board.clone());
            tasks.spawn(async move {
                reader.run(part, size, stopping).await;
                health_board.remove(part);
            });
        }
        Worker { jobs, indexed, share: Arc::default(), stop }
    }

    fn start_publisher(
        &self,
        tasks: &mut JoinSet<()>,
        what: &str,
        need: Need,
        home: u16,
        stopping: watch::Receiver<bool>,
    ) -> mpsc::UnboundedSender<Job> {
        let (jobs, receiver) = self.jobs.branch();
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
        jobs
    }

    fn connector(&self, home: u16) -> Connector {
        Connector::to_master_of(self.settings.clone(), self.cluster.clone(), home)
    }
}

/// The slot in which a write is done, beside that of an index.
pub(super) fn slot_of_write(names: &Names, work: &WriteKind) -> u16 {
    let key: Cow<'_, str> = match work {
        WriteKind::Publish { channel, .. }
        | WriteKind::Commit { channel, .. }
        | WriteKind::Log { channel, .. }
        | WriteKind::Presence { channel, .. } => names.outward(channel),
        WriteKind::Append { stream, .. } => names.outward(stream),
        WriteKind::SetOverride { player, .. }
        | WriteKind::SaveSession { player, .. }
        | WriteKind::EndSession { player, .. } => names.views_key(player).into(),
    };
    slot_of(key.as_bytes())
}

/// Whether it also writes an index of the node, in another slot.
fn is_indexed(work: &WriteKind) -> bool {
    matches!(work, WriteKind::SaveSession { .. } | WriteKind::EndSession { .. } | WriteKind::Presence { .. })
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

    /// Whether there is a publisher for the master that has this slot.
    fn is_assigned(&self, map: &ClusterMap, slot: u16) -> bool {
        map.master_of(slot).is_some_and(|master| self.homes.contains_key(&master.address))
    }

    /// The home whose publisher gets the next write of this slot, and what the write is to hold until it is answered; `None`: no
    /// master has the slot, and no write of it is unanswered.
    fn home_for(&mut self, slot: u16, owner: Option<&RedisAddress>) -> Option<(u16, Arc<()>)> {
        let assigned = owner.and_then(|owner| self.homes.get(owner)).copied();
        if let Some((home, hold)) = self.last.get(&slot)
            && Arc::strong_count(hold) > 1
        {
            return Some((*home, hold.clone()));
        }
        let hold = Arc::new(());
        self.last.insert(slot, (assigned?, hold.clone()));
        Some((assigned?, hold))
    }
}

#[cfg(test)]
mod tests {
    use drawbridge_engine::io::{Owner, WhenDown, Write};
    use drawbridge_engine::upstream::ShardId;

    use super::super::super::fanout::ShardFanout;
    use super::super::super::jobs::jobs;
    use super::super::super::queue::shard_queue;
    use super::*;

    fn tcp(port: u16) -> RedisAddress {
        RedisAddress::Tcp { host: "h".into(), port }
    }

    #[test]
    fn writes_of_a_slot_stay_where_some_are_not_answered() {
        let homes = HashMap::from_iter([(tcp(1), 10), (tcp(2), 20)]);
        let mut assignment = Assignment { homes, ..Assignment::default() };
        let mut next = |owner: Option<u16>| assignment.home_for(7, owner.map(tcp).as_ref()).expect("a home");
        let (home, first) = next(Some(1));
        assert_eq!(home, 10);
        // The slot moves, and then no master has it.
        let (home, second) = next(Some(2));
        let (then, third) = next(None);
        assert_eq!((home, then), (10, 10));
        drop((first, third));
        assert_eq!(next(Some(2)).0, 10);
        drop(second);
        assert_eq!(next(Some(2)).0, 20);
        assert!(!assignment.has_unanswered(10) && !assignment.has_unanswered(20));
    }

    #[test]
    fn a_slot_that_nobody_has_has_no_home() {
        let homes = HashMap::from_iter([(tcp(2), 20)]);
        let mut assignment = Assignment { homes, ..Assignment::default() };
        assert_eq!(assignment.home_for(7, None), None);
        assert_eq!(assignment.home_for(8, Some(&tcp(2))).map(|(home, _)| home), Some(20));
        assert_eq!(assignment.home_for(8, None), None);
        assert_eq!(assignment.home_for(9, Some(&tcp(3))), None, "its publisher is not there yet");
    }

    #[test]
    fn a_master_takes_its_share_and_no_more() {
        let bound = 1_000;
        let (share, mut jobs) = (Arc::<MasterShare>::default(), some_jobs());
        let large = jobs.remove(0);
        assert!(large.bytes > bound / MASTER_SHARE);
        let first = share.part(&large, bound).expect("nothing else is out");
        assert!(share.part(&jobs[0], bound).is_none());
        drop(first);
        let second = share.part(&jobs[0], bound).expect("room");
        assert!(share.part(&jobs[0], bound).is_some(), "a small one fits beside it");
        drop(second);
        assert_eq!(share.bytes.load(Ordering::Relaxed), 0);
    }

    /// A large publish, and a small one.
    fn some_jobs() -> Vec<Job> {
        let ((shard, _), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let (sender, mut receiver) = jobs(1 << 20, ShardFanout::new(vec![shard], node));
        let publish = |bytes: usize| {
            let kind = WriteKind::Publish { channel: "room:1".into(), payload: vec![b'x'; bytes].into() };
            let write = Write { ticket: None, owner: Owner::Services, when_down: WhenDown::Queue, kind };
            sender.push(ShardId(0), write);
            receiver.try_recv().expect("a job")
        };
        [2_000, 1].map(publish).into()
    }
}
