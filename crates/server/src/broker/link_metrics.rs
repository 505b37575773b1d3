//! What one link counts for the metrics, or what is of no link: a snapshot that a task leaves and any thread reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use drawbridge_engine::upstream::HubStats;

/// The snapshot of one link.
#[derive(Debug, Default)]
pub(super) struct LinkMetrics {
    hub: Mutex<HubStats>,
    messages: AtomicU64,
    nameless: AtomicU64,
    foreign: AtomicU64,
    reconnects: AtomicU64,
    moves: AtomicU64,
    commands: AtomicU64,
    bad_commands: AtomicU64,
    bad_views: AtomicU64,
    functions_replaced: AtomicU64,
    lease_renewals: AtomicU64,
    lease_renewals_late: AtomicU64,
    dead_nodes: AtomicU64,
    session_windows: AtomicU64,
    sentinels: AtomicU64,
    master_changes: AtomicU64,
    /// Microseconds and 1; 0: not measured.
    round_trip: AtomicU64,
    /// Of a link that is probed.
    probes: Mutex<Option<ProbeStats>>,
    /// It is connected, and all that was subscribed is again.
    is_up: AtomicBool,
}

/// One link as the metrics show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Which link.
    pub link: usize,
    /// The master that it leads to; empty: it is of no master alone.
    pub master: String,
    /// Gauge: whether it is connected and all that was subscribed is again.
    pub is_up: bool,
    /// Gauge: what it is subscribed to, or is subscribing to.
    pub subjects: u64,
    /// Publications received, every copy counted.
    pub received: u64,
    /// Subscriptions that came to it with slots of a Cluster.
    pub moved: u64,
    /// Gauge: what waits until slots of a Cluster are at this link's master.
    pub waiting_for_slots: u64,
}

/// The upper bounds of the buckets of [`ProbeStats`], in microseconds; a last one has none.
pub(crate) const PROBE_BUCKETS: [u64; 12] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// The delivery probes of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeStats {
    /// Which link.
    pub link: usize,
    /// Those that arrived, by the bucket of their round trip.
    pub arrived: [u64; PROBE_BUCKETS.len() + 1],
    /// Their round trips together, in microseconds.
    pub micros: u64,
    /// Those that Redis took and that did not arrive.
    pub missing: u64,
}

impl LinkMetrics {
    pub(super) fn report(&self, hub: HubStats) {
        *self.hub.lock().unwrap_or_else(PoisonError::into_inner) = hub;
    }

    pub(super) fn count(&self, messages: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
    }

    /// A publication's channel has a name that is too long to be read.
    pub(super) fn count_nameless(&self) {
        self.nameless.fetch_add(1, Ordering::Relaxed);
    }

    /// A publication's channel has a name of another environment.
    pub(super) fn count_foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
    }

    /// A player command was delivered; or it was malformed, or a shard had no room for it.
    pub(super) fn count_command(&self, is_delivered: bool) {
        let counter = if is_delivered { &self.commands } else { &self.bad_commands };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The links moved to another thread.
    pub(super) fn count_move(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reconnected(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_round_trip(&self, time: Option<Duration>) {
        let micros = time.map_or(0, |time| time.as_micros() as u64 + 1);
        self.round_trip.store(micros, Ordering::Relaxed);
    }

    /// This is a link with this number, and it is probed.
    pub(super) fn begin_probes(&self, link: usize) {
        *self.lock_probes() = Some(ProbeStats { link, ..ProbeStats::default() });
    }

    /// A probe has arrived, or has not.
    pub(super) fn count_probe(&self, round_trip: Option<Duration>) {
        let mut probes = self.lock_probes();
        let Some(probes) = &mut *probes else { return };
        let Some(round_trip) = round_trip else {
            probes.missing += 1;
            return;
        };
        let micros = round_trip.as_micros() as u64;
        let bucket = PROBE_BUCKETS.partition_point(|bound| *bound < micros);
        probes.arrived[bucket] += 1;
        probes.micros += micros;
    }

    /// The probes of a link that is probed.
    pub(super) fn probes(&self) -> Option<ProbeStats> {
        *self.lock_probes()
    }

    fn lock_probes(&self) -> std::sync::MutexGuard<'_, Option<ProbeStats>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many views of a player are not as services set them.
    pub(super) fn count_bad_views(&self, views: u64) {
        self.bad_views.fetch_add(views, Ordering::Relaxed);
    }

    /// Other functions than Drawbridge's stood under their names.
    pub(super) fn count_functions_replaced(&self) {
        self.functions_replaced.fetch_add(1, Ordering::Relaxed);
    }

    /// This node's lease was renewed.
    pub(super) fn count_lease(&self, is_late: bool) {
        self.lease_renewals.fetch_add(1, Ordering::Relaxed);
        self.lease_renewals_late.fetch_add(u64::from(is_late), Ordering::Relaxed);
    }

    /// Nothing is left of a dead node.
    pub(super) fn count_dead_node(&self) {
        self.dead_nodes.fetch_add(1, Ordering::Relaxed);
    }

    /// So many records of sessions got their window.
    pub(super) fn count_windows(&self, records: u64) {
        self.session_windows.fetch_add(records, Ordering::Relaxed);
    }

    /// So many sentinels answer.
    pub(super) fn set_sentinels(&self, sentinels: u64) {
        self.sentinels.store(sentinels, Ordering::Relaxed);
    }

    /// The sentinels name another master than before.
    pub(super) fn count_master_change(&self) {
        self.master_changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sentinels(&self) -> u64 {
        self.sentinels.load(Ordering::Relaxed)
    }

    pub(super) fn master_changes(&self) -> u64 {
        self.master_changes.load(Ordering::Relaxed)
    }

    pub(super) fn lease_renewals(&self) -> u64 {
        self.lease_renewals.load(Ordering::Relaxed)
    }

    pub(super) fn lease_renewals_late(&self) -> u64 {
        self.lease_renewals_late.load(Ordering::Relaxed)
    }

    pub(super) fn dead_nodes(&self) -> u64 {
        self.dead_nodes.load(Ordering::Relaxed)
    }

    pub(super) fn session_windows(&self) -> u64 {
        self.session_windows.load(Ordering::Relaxed)
    }

    pub(super) fn bad_views(&self) -> u64 {
        self.bad_views.load(Ordering::Relaxed)
    }

    pub(super) fn functions_replaced(&self) -> u64 {
        self.functions_replaced.load(Ordering::Relaxed)
    }

    pub(super) fn hub(&self) -> HubStats {
        let mut hub = *self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        hub.dropped_bad_name += self.nameless.load(Ordering::Relaxed);
        hub
    }

    pub(super) fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }

    /// This link, which leads to this master.
    pub(super) fn link(&self, link: usize, master: String) -> LinkStats {
        let hub = self.hub();
        let (is_up, subjects) = (self.is_up.load(Ordering::Relaxed), (hub.subjects + hub.cover) as u64);
        LinkStats {
            link,
            master,
            is_up,
            subjects,
            received: self.received(),
            moved: hub.moved,
            waiting_for_slots: hub.waiting_for_slots as u64,
        }
    }

    pub(super) fn foreign(&self) -> u64 {
        self.foreign.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(super) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    pub(super) fn bad_commands(&self) -> u64 {
        self.bad_commands.load(Ordering::Relaxed)
    }

    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }
}
