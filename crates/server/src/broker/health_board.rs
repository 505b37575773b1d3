//! Whether Redis is there, all of it: each part of the broker (a link, the publisher, a reader) says whether it is up,
//! and every shard is notified when the sum changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_engine::io::{BrokerEvent, BrokerStatus};

use tokio::sync::watch;

use super::fanout::ShardFanout;

/// How long a part waits at least before it tries again, if it is to wait so long at all.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// The state of all parts.
#[derive(Debug)]
pub(super) struct HealthBoard {
    started: Instant,
    /// Milliseconds after the start since when something is away, and 1; 0: all is up.
    degraded_since: AtomicU64,
    /// Every part has been up at once.
    was_complete: AtomicBool,
    parts: Mutex<Vec<Component>>,
    /// Why the functions that classes of this node need cannot be called, if they cannot.
    no_functions: Mutex<Option<Arc<str>>>,
    /// Why players' views cannot be read though Redis is there, if they cannot.
    no_views: Mutex<Option<Arc<str>>>,
    /// Counts how often a part has got through to Redis.
    came_up: watch::Sender<u64>,
    fanout: ShardFanout,
}

#[derive(Debug)]
struct Component {
    name: String,
    is_up: bool,
    /// It is connected, but what is published does not reach it.
    is_cut_off: bool,
    /// Why it was down last.
    trouble: Option<String>,
}

impl HealthBoard {
    /// A board of these parts, by name and whether each is up; every shard is told that something is away. A part that is
    /// up from the start is one that connects when it is needed.
    pub(super) fn new(parts: impl IntoIterator<Item = (String, bool)>, fanout: ShardFanout) -> Self {
        fanout.send_to_all(&BrokerEvent::Status(BrokerStatus::Degraded));
        let parts = parts.into_iter().map(|(name, is_up)| Component {
            name,
            is_up,
            is_cut_off: false,
            trouble: None,
        });
        HealthBoard {
            started: Instant::now(),
            degraded_since: AtomicU64::new(1),
            was_complete: AtomicBool::new(false),
            parts: Mutex::new(parts.collect()),
            no_functions: Mutex::new(None),
            no_views: Mutex::new(None),
            came_up: watch::Sender::new(0),
            fanout,
        }
    }

    /// One part says how it is.
    pub(super) fn set(&self, part: usize, is_up: bool) {
        let mut parts = self.parts();
        if parts.get(part).is_none_or(|part| part.is_up == is_up) {
            return;
        }
        let before = all_are_up(&parts);
        parts[part].is_up = is_up;
        if is_up {
            parts[part].trouble = None;
            self.reached();
        }
        let after = all_are_up(&parts);
        if before != after {
            let status = if after { BrokerStatus::Ok } else { BrokerStatus::Degraded };
            let since = if after { 0 } else { self.started.elapsed().as_millis() as u64 + 1 };
            self.degraded_since.store(since, Ordering::Relaxed);
            self.was_complete.fetch_or(after, Ordering::Relaxed);
            // Under the lock: the shards hear the changes in order.
            self.fanout.send_to_all(&BrokerEvent::Status(status));
        }
    }

    /// Whether what is published reaches this part.
    pub(super) fn set_cut_off(&self, part: usize, is_cut_off: bool) {
        if let Some(part) = self.parts().get_mut(part) {
            part.is_cut_off = is_cut_off;
        }
    }

    /// Which part what is published does not reach; `None`: it reaches all.
    pub(super) fn no_delivery(&self) -> Option<String> {
        let parts = self.parts();
        let part = parts.iter().find(|part| part.is_cut_off)?;
        Some(format!("{}: Redis takes what is published, and it does not arrive", part.name))
    }

    /// One part could not connect, or its connection broke.
    pub(super) fn failed(&self, part: usize, reason: &str) {
        if let Some(part) = self.parts().get_mut(part) {
            part.trouble = Some(reason.to_owned());
        }
    }

    /// Whether the functions that classes of this node need can be called, and if not, why.
    pub(super) fn set_functions(&self, missing: Option<Arc<str>>) {
        *self.no_functions.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Why the functions that classes of this node need cannot be called; `None`: they can, or none are needed.
    pub(super) fn no_functions(&self) -> Option<Arc<str>> {
        self.no_functions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether Redis lets this node read players' views, and if not, why.
    pub(super) fn set_views(&self, forbidden: Option<Arc<str>>) {
        *self.no_views.lock().unwrap_or_else(PoisonError::into_inner) = forbidden;
    }

    /// Why players' views cannot be read though Redis is there; `None`: they can.
    pub(super) fn no_views(&self) -> Option<Arc<str>> {
        self.no_views.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether all parts have been up at once since the start.
    pub(super) fn was_complete(&self) -> bool {
        self.was_complete.load(Ordering::Relaxed)
    }

    /// Which part is away, and why as far as is known.
    pub(super) fn trouble(&self) -> Option<String> {
        let parts = self.parts();
        let down = |part: &&Component| !part.is_up;
        let part = parts.iter().filter(down).find(|part| part.trouble.is_some());
        let Component { name, trouble, .. } = part.or_else(|| parts.iter().find(down))?;
        Some(format!("{name}: {}", trouble.as_deref().unwrap_or("not connected yet")))
    }

    /// A connection to Redis was made: who waits to try again tries now.
    pub(super) fn reached(&self) {
        self.came_up.send_modify(|times| *times += 1);
    }

    /// Waits so long, or until another part has got through: where one does, the others may too. Why the least pause:
    /// parts whose connections are made and break again would wake one another without any.
    pub(super) async fn wait_for_another(&self, time: Duration) {
        let mut came_up = self.came_up.subscribe();
        let least = time.min(LEAST_PAUSE);
        tokio::time::sleep(least).await;
        let _ = tokio::time::timeout(time - least, came_up.changed()).await;
    }

    /// Whether all parts but this one are up.
    pub(super) fn others_are_up(&self, part: usize) -> bool {
        self.parts().iter().enumerate().all(|(at, other)| other.is_up || at == part)
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Component>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long something has been away.
    pub(super) fn degraded_for(&self) -> Option<Duration> {
        let since = self.degraded_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

fn all_are_up(parts: &[Component]) -> bool {
    parts.iter().all(|part| part.is_up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::queue::shard_queue;

    #[tokio::test]
    async fn who_waits_is_woken_by_another_but_not_before_the_least_pause() {
        let ((queue, _), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let parts = [("one".to_owned(), false), ("other".to_owned(), false)];
        let health_board = HealthBoard::new(parts, ShardFanout::new(vec![queue], node));
        let began = Instant::now();
        let waits = health_board.wait_for_another(Duration::from_secs(3_600));
        // It is not lost though it comes during the pause.
        tokio::join!(waits, async { health_board.reached() });
        assert!(began.elapsed() >= LEAST_PAUSE);
    }
}
