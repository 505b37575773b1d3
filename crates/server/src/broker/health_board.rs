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
    /// The same encoding: since when some part is down and no interchangeable part is up.
    unserved_since: AtomicU64,
    /// Every part has been up at once.
    was_complete: AtomicBool,
    /// All that the node cannot serve without has been up at once.
    was_serving: AtomicBool,
    /// How many of the first parts are subscriber links.
    links: usize,
    parts: Mutex<Vec<Component>>,
    /// Why the functions that classes of this node need cannot be called, if they cannot.
    no_functions: Mutex<Option<Arc<str>>>,
    /// Why players' views cannot be read though Redis is there, if they cannot.
    no_views: Mutex<Option<Arc<str>>>,
    /// Counts how often a part has got through to Redis.
    came_up: watch::Sender<u64>,
    fanout: ShardFanout,
}

/// What it means for the node that a part is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The node serves no one.
    Always,
    /// It serves while this one is connected: what is not restored on it yet may be with a master of a Cluster that is away.
    Connected,
    /// It serves while another part of this group is up, which does the same for others: so do the publishers of a Cluster's masters.
    OneOf(&'static str),
    /// It serves, only less: in a Cluster the channels of one master are held up, or no other node knows that it lives.
    Never,
}

/// A part as it begins: its name, whether it is up, and what it means that it is not.
pub(super) type NewPart = (String, bool, Need);

#[derive(Debug)]
struct Component {
    name: String,
    is_up: bool,
    /// It has a connection. All that it had before need not be restored on it.
    is_connected: bool,
    need: Need,
    /// It has ended: its place can be taken.
    is_gone: bool,
    /// It is connected, but what is published does not reach it.
    is_cut_off: bool,
    /// Why it was down last.
    trouble: Option<Trouble>,
}

/// Why a part could not connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Where it was to connect, if that says more than the configuration; for operators alone.
    pub(super) server: Option<String>,
    /// Without addresses.
    pub(super) reason: String,
}

/// Who reads about connections to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever reaches the players' port: no addresses.
    Anyone,
    /// Those who run the node.
    Operators,
}

impl HealthBoard {
    /// A board of these links, in their order, and these other parts; every shard is notified that something is away. A part that
    /// is up from the start is one that connects when it is needed.
    pub(super) fn new(
        links: impl IntoIterator<Item = NewPart>,
        others: impl IntoIterator<Item = NewPart>,
        fanout: ShardFanout,
    ) -> Self {
        fanout.send_to_all(&BrokerEvent::Status(BrokerStatus::Degraded));
        let mut parts: Vec<Component> = links.into_iter().map(Component::new).collect();
        let links = parts.len();
        parts.extend(others.into_iter().map(Component::new));
        HealthBoard {
            started: Instant::now(),
            degraded_since: AtomicU64::new(1),
            unserved_since: AtomicU64::new(1),
            was_complete: AtomicBool::new(false),
            was_serving: AtomicBool::new(false),
            links,
            parts: Mutex::new(parts),
            no_functions: Mutex::new(None),
            no_views: Mutex::new(None),
            came_up: watch::Sender::new(0),
            fanout,
        }
    }

    /// One part says how it is.
    pub(super) fn set(&self, part: usize, is_up: bool) {
        let mut parts = self.parts();
        if parts.get(part).is_none_or(|part| (part.is_up, part.is_connected) == (is_up, is_up)) {
            return;
        }
        self.change(&mut parts, |parts| {
            let part = &mut parts[part];
            (part.is_up, part.is_connected) = (is_up, is_up);
            if is_up {
                part.trouble = None;
            }
        });
        if is_up {
            self.reached();
        }
    }

    /// A part that is down has a connection again, and restores what it had.
    pub(super) fn connected(&self, part: usize) {
        let mut parts = self.parts();
        self.change(&mut parts, |parts| {
            if let Some(part) = parts.get_mut(part) {
                (part.is_connected, part.trouble) = (true, None);
            }
        });
        drop(parts);
        self.reached();
    }

    /// One more part; returns its place.
    pub(super) fn add(&self, part: NewPart) -> usize {
        let mut parts = self.parts();
        let place = parts.iter().position(|part| part.is_gone).unwrap_or(parts.len());
        self.change(&mut parts, |parts| {
            let part = Component::new(part);
            match parts.get_mut(place) {
                Some(gone) => *gone = part,
                None => parts.push(part),
            }
        });
        place
    }

    /// A part has ended, and is missed by nobody.
    pub(super) fn remove(&self, part: usize) {
        let mut parts = self.parts();
        self.change(&mut parts, |parts| {
            if let Some(part) = parts.get_mut(part) {
                *part = Component { is_gone: true, ..Component::new((String::new(), true, Need::Never)) };
            }
        });
    }

    /// Changes parts, and notifies every shard if the sum changes.
    fn change(&self, parts: &mut Vec<Component>, change: impl FnOnce(&mut Vec<Component>)) {
        let before = (all_are_up(parts), all_are_served(parts));
        change(parts);
        let after = (all_are_up(parts), all_are_served(parts));
        let now = self.started.elapsed().as_millis() as u64 + 1;
        self.was_serving.fetch_or(after.1, Ordering::Relaxed);
        if before.1 != after.1 {
            self.unserved_since.store(if after.1 { 0 } else { now }, Ordering::Relaxed);
        }
        if before.0 != after.0 {
            self.degraded_since.store(if after.0 { 0 } else { now }, Ordering::Relaxed);
            self.was_complete.fetch_or(after.0, Ordering::Relaxed);
        }
        let [before, after] = [before, after].map(|(is_up, is_served)| status_of(is_up, is_served));
        if before != after {
            // Under the lock: the shards hear the changes in order.
            self.fanout.send_to_all(&BrokerEvent::Status(after));
        }
    }

    /// Whether what is published reaches this part.
    pub(super) fn set_cut_off(&self, part: usize, is_cut_off: bool) {
        if let Some(part) = self.parts().get_mut(part) {
            part.is_cut_off = is_cut_off;
        }
    }

    /// Which part what is published does not reach, of those without which the node serves no one; `None`: it reaches all.
    pub(super) fn no_delivery(&self) -> Option<String> {
        let parts = self.parts();
        let part = parts.iter().find(|part| part.is_cut_off && part.need != Need::Never)?;
        Some(format!("{}: Redis takes what is published, and it does not arrive", part.name))
    }

    /// One part could not connect, or its connection broke.
    pub(super) fn failed(&self, part: usize, trouble: Trouble) {
        if let Some(part) = self.parts().get_mut(part) {
            part.trouble = Some(trouble);
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

    /// Whether all that the node cannot serve without has been up at once since the start.
    pub(super) fn was_serving(&self) -> bool {
        self.was_serving.load(Ordering::Relaxed)
    }

    /// Whether this part is up.
    pub(super) fn is_up(&self, part: usize) -> bool {
        self.parts().get(part).is_some_and(|part| part.is_up)
    }

    /// Which part is away, and why as far as is known.
    pub(super) fn trouble(&self, audience: Audience) -> Option<String> {
        let parts = self.parts();
        let down = |part: &&Component| !part.is_up;
        let part = parts.iter().filter(down).find(|part| part.trouble.is_some());
        let Component { name, trouble, .. } = part.or_else(|| parts.iter().find(down))?;
        let Some(Trouble { server, reason }) = trouble else {
            return Some(format!("{name}: not connected yet"));
        };
        Some(match server.as_deref().filter(|_| audience == Audience::Operators) {
            Some(server) => format!("{name}: {server}: {reason}"),
            None => format!("{name}: {reason}"),
        })
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

    /// Whether all links are connected, and what was subscribed on them is again.
    pub(super) fn links_are_up(&self) -> bool {
        all_are_up(&self.parts()[..self.links])
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Component>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What shards were notified of last.
    pub(super) fn status(&self) -> BrokerStatus {
        let parts = self.parts();
        status_of(all_are_up(&parts), all_are_served(&parts))
    }

    /// For how long something has been away.
    pub(super) fn degraded_for(&self) -> Option<Duration> {
        self.since(&self.degraded_since)
    }

    /// For how long something has been away that no other part does: more than some masters of a Cluster.
    pub(super) fn unserved_for(&self) -> Option<Duration> {
        self.since(&self.unserved_since)
    }

    fn since(&self, began: &AtomicU64) -> Option<Duration> {
        let since = began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

impl Component {
    fn new((name, is_up, need): NewPart) -> Self {
        Component { name, is_up, is_connected: is_up, need, is_gone: false, is_cut_off: false, trouble: None }
    }
}

fn status_of(is_up: bool, is_served: bool) -> BrokerStatus {
    match (is_up, is_served) {
        (true, _) => BrokerStatus::Ok,
        (false, true) => BrokerStatus::Partial,
        (false, false) => BrokerStatus::Degraded,
    }
}

fn all_are_up(parts: &[Component]) -> bool {
    parts.iter().all(|part| part.is_up)
}

/// Whether the node serves, though some parts may be down.
fn all_are_served(parts: &[Component]) -> bool {
    parts.iter().all(|part| match part.need {
        Need::Always => part.is_up,
        Need::Connected => part.is_connected,
        Need::OneOf(_) => parts.iter().any(|other| other.is_up && other.need == part.need),
        Need::Never => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::queue::shard_queue;

    #[test]
    fn a_master_that_is_away_leaves_the_node_in_service_and_degraded() {
        let ((queue, mut inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let part = |name: &str, is_up, need| (name.to_owned(), is_up, need);
        let link = part("link", true, Need::Always);
        let health_board = HealthBoard::new([link], [], ShardFanout::new(vec![queue], node));
        let publishers =
            ["one", "two"].map(|name| health_board.add(part(name, false, Need::OneOf("publishers"))));
        let mut statuses = || {
            std::iter::from_fn(|| inbox.try_recv())
                .filter_map(|event| match event {
                    BrokerEvent::Status(status) => Some(status),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        publishers.iter().for_each(|part| health_board.set(*part, true));
        assert_eq!(statuses().last(), Some(&BrokerStatus::Ok));
        health_board.set(publishers[0], false);
        assert!(health_board.links_are_up(), "a publisher is no link");
        assert_eq!(statuses(), [BrokerStatus::Partial]);
        assert!(health_board.degraded_for().is_some() && health_board.unserved_for().is_none());
        health_board.set(publishers[1], false);
        assert_eq!(
            (statuses(), health_board.status()),
            (vec![BrokerStatus::Degraded], BrokerStatus::Degraded)
        );
        assert!(health_board.unserved_for().is_some());
        health_board.remove(publishers[0]);
        health_board.set(publishers[1], true);
        assert_eq!((statuses(), health_board.degraded_for()), (vec![BrokerStatus::Ok], None));
        assert_eq!(health_board.add(part("three", true, Need::Always)), publishers[0]);
    }

    #[test]
    fn a_node_serves_without_the_parts_of_a_master_that_was_away_from_the_start() {
        let ((queue, _inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let links = [("pool", Need::Connected), ("of a master", Need::Never)];
        let others = [("lease", Need::Never), ("one", Need::OneOf("it")), ("other", Need::OneOf("it"))];
        let down = |(name, need): (&str, Need)| (name.to_owned(), false, need);
        let fanout = ShardFanout::new(vec![queue], node);
        let health_board = HealthBoard::new(links.map(down), others.map(down), fanout);
        health_board.connected(0);
        assert!(!health_board.was_serving());
        health_board.set(4, true);
        assert!(health_board.was_serving() && health_board.unserved_for().is_none());
        assert!(!health_board.was_complete() && !health_board.links_are_up());
        health_board.set_cut_off(1, true);
        assert_eq!(health_board.no_delivery(), None, "only the channels of its master are concerned");
        health_board.set_cut_off(0, true);
        assert!(health_board.no_delivery().is_some_and(|reason| reason.starts_with("pool: ")));
    }

    #[test]
    fn the_address_of_a_server_is_for_operators() {
        let ((queue, _inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let publisher = ("publisher, slot 0".to_owned(), false, Need::Always);
        let health_board = HealthBoard::new([], [publisher], ShardFanout::new(vec![queue], node));
        let said = |audience| health_board.trouble(audience).expect("one is down");
        assert_eq!(said(Audience::Anyone), "publisher, slot 0: not connected yet");
        let server = Some("10.1.2.3:6379".to_owned());
        health_board.failed(0, Trouble { server, reason: "no answer in time".to_owned() });
        assert_eq!(said(Audience::Anyone), "publisher, slot 0: no answer in time");
        assert_eq!(said(Audience::Operators), "publisher, slot 0: 10.1.2.3:6379: no answer in time");
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_another_but_not_before_the_least_pause() {
        let ((queue, _), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let health_board = HealthBoard::new([], [], ShardFanout::new(vec![queue], node));
        let began = Instant::now();
        let waits = health_board.wait_for_another(Duration::from_secs(3_600));
        // It is not lost though it comes during the pause.
        tokio::join!(waits, async { health_board.reached() });
        assert!(began.elapsed() >= LEAST_PAUSE);
    }
}
