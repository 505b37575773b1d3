//! The records of sessions that nodes keep for one another, as the server's functions in Redis keep them: a claim is a
//! compare-and-set with a growing generation, and whoever has an older one can neither change nor end the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{ClaimedSession, NewOwner, PublishFailure, SessionHash};

/// One session.
#[derive(Clone, Debug)]
struct Record {
    player: Arc<str>,
    /// Which start of a node has it.
    instance: Arc<str>,
    generation: u64,
    content: Bytes,
    /// Its node has died: until then it may be claimed.
    expires_ms: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct SessionStore(BTreeMap<u128, Record>);

impl SessionStore {
    /// Stores what a session consists of.
    ///
    /// # Errors
    /// If another start of a node has claimed it.
    pub fn save(
        &mut self,
        instance: &Arc<str>,
        player: Arc<str>,
        session: SessionHash,
        generation: u64,
        content: Bytes,
    ) -> Result<(), PublishFailure> {
        if self.is_taken_over(instance, session, generation)
            && let Some(record) = self.0.get(&session.0)
        {
            let (node, is_free) = (record.instance.clone(), record.expires_ms.is_some());
            let owner = NewOwner { node, generation: record.generation, is_free };
            return Err(PublishFailure::TakenOver(owner));
        }
        let instance = instance.clone();
        self.0.insert(session.0, Record { player, instance, generation, content, expires_ms: None });
        Ok(())
    }

    /// A session has ended, unless it was claimed since. `window_ms`: it may still be claimed for so long.
    pub fn end(
        &mut self,
        now_ms: u64,
        instance: &Arc<str>,
        session: SessionHash,
        generation: u64,
        window_ms: u64,
    ) {
        if self.is_taken_over(instance, session, generation) {
            return;
        }
        match self.0.get_mut(&session.0).filter(|_| window_ms > 0) {
            Some(record) => record.expires_ms = Some(now_ms + window_ms),
            None => drop(self.0.remove(&session.0)),
        }
    }

    /// This start of a node claims a player's session.
    pub fn claim(
        &mut self,
        now_ms: u64,
        instance: &Arc<str>,
        player: &str,
        session: SessionHash,
    ) -> Option<ClaimedSession> {
        self.expire(now_ms);
        let record = self.0.get_mut(&session.0).filter(|record| *record.player == *player)?;
        record.generation += 1;
        (record.instance, record.expires_ms) = (instance.clone(), None);
        let (player, content) = (record.player.clone(), record.content.clone());
        Some(ClaimedSession { player, session, generation: record.generation, content })
    }

    /// This start of a node has died: a survivor gives its records their window.
    pub fn died(&mut self, instance: &Arc<str>, expires_ms: u64) {
        let theirs = self.0.values_mut().filter(|record| record.instance == *instance);
        theirs.for_each(|record| record.expires_ms = Some(expires_ms));
    }

    /// How many sessions there are, and how many of them this start of a node has.
    pub fn count(&mut self, now_ms: u64, instance: &Arc<str>) -> (usize, usize) {
        self.expire(now_ms);
        (self.0.len(), self.0.values().filter(|record| record.instance == *instance).count())
    }

    fn expire(&mut self, now_ms: u64) {
        self.0.retain(|_, record| record.expires_ms.is_none_or(|at| now_ms < at));
    }

    fn is_taken_over(&self, instance: &Arc<str>, session: SessionHash, generation: u64) -> bool {
        self.0.get(&session.0).is_some_and(|record| {
            record.generation > generation
                || (record.generation == generation && record.instance != *instance)
        })
    }
}
