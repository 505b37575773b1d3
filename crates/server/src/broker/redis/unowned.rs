//! In a Cluster, what concerns slots that no master has: a master was removed with its slots, or they are not assigned yet. It
//! fares as with a master that is away. Part of Redis is away for players (`STATUS`), and what is read waits until a master has its
//! slot: its shard or hub answers for it in time, or withdraws it. Only players' views are answered at once, by an error, since
//! all others' subscriptions may wait for them ([`super::reader`]). What is written waits here, in the order of each slot, or fares
//! as its class says.

use std::collections::VecDeque;

use drawbridge_engine::io::QueryKind;
use hashbrown::HashMap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Names;
use super::cluster_map::{Cluster, ClusterMap, slot_of};
use super::publisher::refused_or_local;
use super::reader::{AWAY, key_of};
use crate::broker::health_board::{HealthBoard, Need, Trouble};
use crate::broker::jobs::Job;
use crate::broker::local::LocalDelivery;
use crate::broker::query_queue::{AnswerSize, QueryQueue};

/// How many queries are refused at once.
const TOGETHER: usize = 256;

/// The place on the health board of all slots that have no master; `is_up`: there are none.
pub(super) struct SlotsPart(usize);

impl SlotsPart {
    pub(super) fn new(health_board: &HealthBoard) -> Self {
        SlotsPart(health_board.add(("slots of the Cluster".to_owned(), true, Need::Never)))
    }

    /// The map is another one. Before the first one nothing is known of slots, and other parts say so.
    pub(super) fn adapt(&self, health_board: &HealthBoard, map: &ClusterMap) {
        let uncovered = if map.version() == 0 { 0 } else { map.uncovered() };
        if uncovered > 0 {
            let reason = format!("no master has {uncovered} of them");
            health_board.failed(self.0, Trouble { server: None, reason });
        }
        health_board.set(self.0, uncovered == 0);
    }
}

/// Refuses queries of players' views whose slots no master has, as they come, until `stop`.
pub(super) async fn refuse_views(
    queries: QueryQueue,
    cluster: Cluster,
    names: Names,
    mut stop: watch::Receiver<bool>,
) {
    let is_unowned = |kind: &QueryKind| {
        let map = cluster.map();
        matches!(kind, QueryKind::ViewOverrides { .. })
            && map.version() > 0
            && map.master_of(slot_of(key_of(&names, kind).as_bytes())).is_none()
    };
    let refuse = async {
        loop {
            for asked in queries.first(AnswerSize::Small, TOGETHER, is_unowned).await {
                queries.answer(&asked, Err(AWAY.into()));
            }
        }
    };
    tokio::select! {
        () = refuse => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Writes of slots that no master has.
#[derive(Default)]
pub(super) struct UnownedWrites {
    by_slot: HashMap<u16, VecDeque<Job>>,
    /// When the first of them is withdrawn; not after that time.
    next_expiry: Option<Instant>,
}

impl UnownedWrites {
    /// Whether writes of this slot wait: what follows them waits behind them.
    pub(super) fn has(&self, slot: u16) -> bool {
        self.by_slot.contains_key(&slot)
    }

    /// Keeps a write, or answers it, if it may not wait.
    pub(super) fn add(&mut self, slot: u16, job: Job, local: &LocalDelivery) {
        if let Some(job) = refused_or_local(job, local) {
            let expires = job.expires.map(Instant::from_std);
            self.next_expiry = self.next_expiry.into_iter().chain(expires).min();
            self.by_slot.entry(slot).or_default().push_back(job);
        }
    }

    /// Takes out all writes of slots for which this holds, those of each slot in their order.
    pub(super) fn take(&mut self, is_owned: impl Fn(u16) -> bool) -> Vec<Job> {
        self.by_slot.extract_if(|slot, _| is_owned(*slot)).flat_map(|(_, jobs)| jobs).collect()
    }

    /// When the first of them is withdrawn, if any is.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    /// Answers those whose time is over: they are never sent.
    pub(super) fn withdraw_expired(&mut self, now: Instant) {
        // Dropped unanswered: not done.
        self.by_slot.retain(|_, jobs| {
            jobs.retain(|job| job.expires.is_none_or(|expires| Instant::from_std(expires) > now));
            !jobs.is_empty()
        });
        let waiting = self.by_slot.values().flatten();
        self.next_expiry = waiting.filter_map(|job| job.expires).min().map(Instant::from_std);
    }
}
