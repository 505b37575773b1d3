//! Which patterns match a channel, without trying every pattern: they are grouped by their fixed part, so a
//! channel looks up its own beginnings. The same index serves the hub and the engine.

use std::sync::Arc;

use drawbridge_protocol::glob;
use hashbrown::HashMap;

/// Patterns with a value each.
#[derive(Debug)]
pub struct PatternIndex<T> {
    by_prefix: HashMap<Box<str>, Vec<(Arc<str>, T)>>,
    /// The distinct lengths of the fixed parts, with how many groups have each; ascending.
    lengths: Vec<(usize, usize)>,
}

impl<T> Default for PatternIndex<T> {
    fn default() -> Self {
        PatternIndex { by_prefix: HashMap::new(), lengths: Vec::new() }
    }
}

impl<T> PatternIndex<T> {
    /// Adds a pattern that is not in the index.
    pub fn insert(&mut self, pattern: Arc<str>, value: T) {
        let prefix = glob::literal_prefix(&pattern);
        let length = prefix.len();
        let group = self.by_prefix.entry(prefix.as_ref().into()).or_default();
        if group.is_empty() {
            match self.lengths.binary_search_by_key(&length, |(l, _)| *l) {
                Ok(at) => self.lengths[at].1 += 1,
                Err(at) => self.lengths.insert(at, (length, 1)),
            }
        }
        group.push((pattern, value));
    }

    /// Takes a pattern out.
    pub fn remove(&mut self, pattern: &str) -> Option<T> {
        let prefix = glob::literal_prefix(pattern);
        let group = self.by_prefix.get_mut(&*prefix)?;
        let at = group.iter().position(|(p, _)| &**p == pattern)?;
        let (_, value) = group.swap_remove(at);
        if group.is_empty() {
            self.by_prefix.remove(&*prefix);
            if let Ok(at) = self.lengths.binary_search_by_key(&prefix.len(), |(l, _)| *l) {
                self.lengths[at].1 -= 1;
                if self.lengths[at].1 == 0 {
                    self.lengths.remove(at);
                }
            }
        }
        Some(value)
    }

    /// Calls `found` for every pattern that matches.
    pub fn for_each_match<'s>(&'s self, channel: &str, mut found: impl FnMut(&'s Arc<str>, &'s T)) {
        for (length, _) in &self.lengths {
            let Some(prefix) = channel.as_bytes().get(..*length) else { break };
            let Ok(prefix) = std::str::from_utf8(prefix) else { continue };
            for (pattern, value) in self.by_prefix.get(prefix).into_iter().flatten() {
                if glob::glob_matches(pattern, channel) {
                    found(pattern, value);
                }
            }
        }
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}
