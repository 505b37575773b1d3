//! What the broker is asked to read: tables of entity channels and players' views, in lanes of their own, so that a
//! large table holds up no player. Each question is answered once, however long Redis is away.
//!
//! A lane holds one question a key, and none that was taken back: at most one for each entity channel, and one for each
//! connection.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use drawbridge_engine::io::Ticket;
use drawbridge_engine::upstream::ShardId;
use hashbrown::HashMap;
use tokio::sync::Notify;

/// Tables: by link and channel, which loading it is for; an [`Order::Loaded`](super::interest::Order) answers.
pub(super) type TableLane = Lane<(usize, Arc<str>), u64>;
/// Players' views: by who asks, whose; a `BrokerEvent::Views` answers.
pub(super) type ViewLane = Lane<(ShardId, Ticket), Arc<str>>;

/// All that is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    pub(super) tables: Arc<TableLane>,
    pub(super) views: Arc<ViewLane>,
}

impl Questions {
    pub(super) fn len(&self) -> usize {
        self.tables.len() + self.views.len()
    }
}

/// Questions of one kind, first come, first answered.
#[derive(Debug)]
pub(super) struct Lane<K, V> {
    waiting: Mutex<Waiting<K, V>>,
    asked: Notify,
}

#[derive(Debug)]
struct Waiting<K, V> {
    places: HashMap<K, u64>,
    in_order: BTreeMap<u64, (K, V)>,
    next_place: u64,
}

impl<K, V> Default for Lane<K, V> {
    fn default() -> Self {
        let waiting = Waiting { places: HashMap::new(), in_order: BTreeMap::new(), next_place: 0 };
        Lane { waiting: Mutex::new(waiting), asked: Notify::new() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Lane<K, V> {
    /// Asks; a question of the same key that waits is replaced.
    pub(super) fn ask(&self, key: K, question: V) {
        let mut waiting = self.waiting();
        waiting.take(&key);
        let place = waiting.next_place;
        waiting.next_place += 1;
        waiting.places.insert(key.clone(), place);
        waiting.in_order.insert(place, (key, question));
        drop(waiting);
        self.asked.notify_one();
    }

    /// Nobody waits for the answer any more.
    pub(super) fn take_back(&self, key: &K) {
        self.waiting().take(key);
    }

    /// The first questions, at most so many, as soon as there are any. They wait until they are [`Lane::answered`].
    pub(super) async fn first(&self, most: usize) -> Vec<(K, V)> {
        loop {
            let first: Vec<(K, V)> = self.waiting().in_order.values().take(most).cloned().collect();
            if !first.is_empty() {
                return first;
            }
            self.asked.notified().await;
        }
    }

    /// Takes an answered question out, and says whether somebody waits for just this answer.
    pub(super) fn answered(&self, key: &K, is_same: impl FnOnce(&V) -> bool) -> bool {
        let mut waiting = self.waiting();
        let place = waiting.places.get(key).copied();
        let wanted = place.and_then(|place| waiting.in_order.get(&place)).is_some_and(|(_, v)| is_same(v));
        if wanted {
            waiting.take(key);
        }
        wanted
    }

    pub(super) fn len(&self) -> usize {
        self.waiting().places.len()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting<K, V>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V> Waiting<K, V> {
    fn take(&mut self, key: &K) {
        if let Some(place) = self.places.remove(key) {
            self.in_order.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_question_a_key_in_order() {
        let lane = Lane::default();
        for (key, question) in [("a", 1), ("b", 2), ("c", 3), ("a", 4)] {
            lane.ask(key, question);
        }
        assert_eq!(lane.first(2).await, [("b", 2), ("c", 3)]);
        lane.take_back(&"c");
        assert!(lane.answered(&"b", |question| *question == 2));
        assert!(!lane.answered(&"c", |_| true), "taken back");
        assert!(!lane.answered(&"a", |question| *question == 1), "asked anew meanwhile");
        assert_eq!(lane.first(9).await, [("a", 4)]);
        assert_eq!(lane.len(), 1);
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_next_question() {
        let lane = Lane::default();
        let (first, ()) = tokio::join!(lane.first(1), async { lane.ask("a", 1) });
        assert_eq!(first, [("a", 1)]);
    }
}
