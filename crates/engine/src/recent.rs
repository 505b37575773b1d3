//! What was found out about the channels that were seen last, within a bound. Two generations: what is looked up moves to
//! the young one, and when that is full the old one is forgotten. So room is made a part at a time, without a clock or a
//! list, and a channel that is in use stays.

use std::sync::Arc;

use hashbrown::HashMap;

/// Values by channel; at most twice `room`, in the units of [`Recent::insert`].
#[derive(Debug)]
pub(crate) struct Recent<V> {
    young: HashMap<Arc<str>, Entry<V>>,
    old: HashMap<Arc<str>, Entry<V>>,
    /// What the young generation weighs, and may weigh.
    weight: usize,
    room: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
}

impl<V> Recent<V> {
    /// Holds nothing yet.
    pub(crate) fn new(room: usize) -> Self {
        Recent { young: HashMap::new(), old: HashMap::new(), weight: 0, room }
    }

    /// What is known of a channel.
    pub(crate) fn get(&mut self, channel: &str) -> Option<&mut V> {
        if !self.young.contains_key(channel) {
            let (channel, entry) = self.old.remove_entry(channel)?;
            self.put(channel, entry);
        }
        self.young.get_mut(channel).map(|entry| &mut entry.value)
    }

    /// Keeps a value of this weight, in place of the one before.
    pub(crate) fn insert(&mut self, channel: Arc<str>, value: V, weight: usize) {
        self.remove(&channel);
        self.put(channel, Entry { value, weight });
    }

    /// Forgets one channel.
    pub(crate) fn remove(&mut self, channel: &str) {
        if let Some(entry) = self.young.remove(channel) {
            self.weight -= entry.weight;
        } else {
            self.old.remove(channel);
        }
    }

    fn put(&mut self, channel: Arc<str>, entry: Entry<V>) {
        if self.weight + entry.weight > self.room {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.weight += entry.weight;
        self.young.insert(channel, entry);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_in_use_stays_and_the_rest_is_bounded() {
        let mut recent = Recent::new(10);
        recent.insert("kept".into(), 7, 1);
        for n in 0..1_000 {
            recent.insert(format!("{n}").into(), n, 1);
            assert_eq!(recent.get("kept").copied(), Some(7));
            assert!(recent.young.len() + recent.old.len() <= 20);
        }
        assert_eq!(recent.get("999").copied(), Some(999));
        assert_eq!(recent.get("900"), None);
    }

    #[test]
    fn weights_follow_what_is_replaced_and_forgotten() {
        let mut recent = Recent::new(10);
        recent.insert("a".into(), 1, 8);
        recent.insert("a".into(), 2, 3);
        recent.insert("b".into(), 3, 7);
        assert_eq!((recent.weight, recent.old.len()), (10, 0), "both fit");
        recent.remove("b");
        assert_eq!((recent.weight, recent.get("b")), (3, None));
        recent.insert("c".into(), 4, 50);
        assert_eq!(recent.get("a").copied(), Some(2), "one generation back");
    }
}
