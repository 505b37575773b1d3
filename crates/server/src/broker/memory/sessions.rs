//! Sessions as the memory broker keeps them: another shard of the node may take one up. As `redis/functions/session.lua`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{ClaimedSession, NewOwner, PublishFailure, SessionHash};
use hashbrown::HashMap;

/// See the module. Bounded by the node's sessions: each that ends is removed, and one that no connection has taken up is when its
/// window has passed.
#[derive(Debug, Default)]
pub(super) struct SessionStore {
    records: HashMap<SessionHash, Record>,
    /// Records that no connection has taken up, with when they go.
    left: BTreeSet<(u64, SessionHash)>,
}

#[derive(Debug)]
struct Record {
    player: Arc<str>,
    generation: u64,
    content: Bytes,
    /// When it goes, unless it is claimed; 0: not by itself.
    expires_ms: u64,
}

impl SessionStore {
    /// Stores what a session of this node consists of, unless it was claimed since.
    pub(super) fn save(
        &mut self,
        node: &Arc<str>,
        player: &Arc<str>,
        session: SessionHash,
        generation: u64,
        content: &Bytes,
    ) -> Result<(), PublishFailure> {
        if let Some(record) = self.records.get(&session).filter(|record| record.generation > generation) {
            let (node, is_free) = (node.clone(), record.expires_ms > 0);
            let owner = NewOwner { node, generation: record.generation, is_free };
            return Err(PublishFailure::TakenOver(owner));
        }
        self.remove(session);
        let (player, content) = (player.clone(), content.clone());
        self.records.insert(session, Record { player, generation, content, expires_ms: 0 });
        Ok(())
    }

    /// A session has ended, unless it was claimed since. `window_ms`: it may still be claimed for so long.
    pub(super) fn end(&mut self, now_ms: u64, session: SessionHash, generation: u64, window_ms: u64) {
        self.expire(now_ms);
        let Some(record) = self.records.get_mut(&session).filter(|record| record.generation <= generation)
        else {
            return;
        };
        if window_ms == 0 {
            return self.remove(session);
        }
        self.left.remove(&(record.expires_ms, session));
        record.expires_ms = now_ms + window_ms;
        self.left.insert((record.expires_ms, session));
    }

    /// Claims a player's session and returns it, under the next generation; `None` if the player has no such session.
    pub(super) fn claim(
        &mut self,
        now_ms: u64,
        player: &str,
        session: SessionHash,
    ) -> Option<ClaimedSession> {
        self.expire(now_ms);
        let record = self.records.get_mut(&session).filter(|record| *record.player == *player)?;
        self.left.remove(&(record.expires_ms, session));
        (record.generation, record.expires_ms) = (record.generation + 1, 0);
        let (player, content) = (record.player.clone(), record.content.clone());
        Some(ClaimedSession { player, session, generation: record.generation, content })
    }

    fn remove(&mut self, session: SessionHash) {
        if let Some(record) = self.records.remove(&session) {
            self.left.remove(&(record.expires_ms, session));
        }
    }

    fn expire(&mut self, now_ms: u64) {
        while let Some((_, session)) = self.left.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.remove(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_claims_has_it_and_who_had_it_can_neither_change_nor_end_it() {
        let (mut sessions, node) = (SessionStore::default(), Arc::from("n1"));
        let (ann, hash, content) = ("ann".into(), SessionHash(1), Bytes::from_static(b"a"));
        let claimed = |generation| ClaimedSession {
            player: "ann".into(),
            session: hash,
            generation,
            content: Bytes::from_static(b"a"),
        };
        assert_eq!(sessions.save(&node, &ann, hash, 1, &content), Ok(()));
        assert_eq!(sessions.claim(0, "bob", hash), None);
        assert_eq!(sessions.claim(0, "ann", hash), Some(claimed(2)));
        let taken_over =
            |is_free| Err(PublishFailure::TakenOver(NewOwner { node: "n1".into(), generation: 2, is_free }));
        assert_eq!(sessions.save(&node, &ann, hash, 1, &content), taken_over(false));
        sessions.end(0, hash, 2, 500);
        assert_eq!(sessions.save(&node, &ann, hash, 1, &content), taken_over(true));
        sessions.end(0, hash, 1, 0);
        assert_eq!(sessions.save(&node, &ann, hash, 2, &content), Ok(()));
        sessions.end(0, hash, 2, 0);
        assert_eq!(sessions.claim(0, "ann", hash), None);
    }

    #[test]
    fn a_session_that_was_not_taken_up_goes_when_its_window_ends() {
        let (mut sessions, node) = (SessionStore::default(), Arc::from("n1"));
        let (ann, content) = ("ann".into(), Bytes::new());
        for hash in [SessionHash(1), SessionHash(2), SessionHash(3)] {
            assert_eq!(sessions.save(&node, &ann, hash, 1, &content), Ok(()));
            sessions.end(1_000, hash, 1, 500);
        }
        let generation = |claimed: Option<ClaimedSession>| claimed.map(|claimed| claimed.generation);
        assert_eq!(generation(sessions.claim(1_499, "ann", SessionHash(1))), Some(2));
        assert_eq!(sessions.save(&node, &ann, SessionHash(2), 1, &content), Ok(()));
        assert_eq!(generation(sessions.claim(1_500, "ann", SessionHash(3))), None);
        // The others were taken up in time.
        sessions.expire(u64::MAX);
        assert_eq!((sessions.records.len(), sessions.left.len()), (2, 0));
    }
}
