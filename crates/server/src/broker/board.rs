//! Whether Redis is there, all of it: each part of the broker (a link, the publisher, a reader) says whether it is up,
//! and every shard is told when the sum changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_engine::io::{BrokerEvent, BrokerStatus};

use super::outlet::Outlet;

/// The state of all parts.
#[derive(Debug)]
pub(super) struct Board {
    started: Instant,
    /// Milliseconds after the start since when something is away, and 1; 0: all is up.
    degraded_since: AtomicU64,
    up: Mutex<Vec<bool>>,
    came_up: tokio::sync::Notify,
    outlet: Outlet,
}

impl Board {
    /// A board whose parts are all down; every shard is told so. Behind them are parts that are up while nobody needs them.
    pub(super) fn new(parts: usize, at_need: usize, outlet: Outlet) -> Self {
        outlet.tell_all(&BrokerEvent::Status(BrokerStatus::Degraded));
        Board {
            started: Instant::now(),
            degraded_since: AtomicU64::new(1),
            up: Mutex::new([vec![false; parts], vec![true; at_need]].concat()),
            came_up: tokio::sync::Notify::new(),
            outlet,
        }
    }

    /// One part says how it is.
    pub(super) fn set(&self, part: usize, is_up: bool) {
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = up.get_mut(part) else { return };
        if *place == is_up {
            return;
        }
        let before = up.iter().all(|up| *up);
        up[part] = is_up;
        if is_up {
            self.reached();
        }
        let after = up.iter().all(|up| *up);
        if before != after {
            let status = if after { BrokerStatus::Ok } else { BrokerStatus::Degraded };
            let since = if after { 0 } else { self.started.elapsed().as_millis() as u64 + 1 };
            self.degraded_since.store(since, Ordering::Relaxed);
            // Under the lock: the shards hear the changes in order.
            self.outlet.tell_all(&BrokerEvent::Status(status));
        }
    }

    /// A connection to Redis was made: who waits to try again tries now.
    pub(super) fn reached(&self) {
        self.came_up.notify_waiters();
    }

    /// Waits so long, or until another part has got through: where one does, the others may too.
    pub(super) async fn wait_for_another(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.came_up.notified()).await;
    }

    /// Whether all parts but this one are up.
    pub(super) fn others_are_up(&self, part: usize) -> bool {
        let up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        up.iter().enumerate().all(|(at, up)| *up || at == part)
    }

    /// For how long something has been away.
    pub(super) fn degraded_for(&self) -> Option<Duration> {
        let since = self.degraded_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}
