//! Sessions as the memory broker keeps them: another shard of the node may take one up. As `redis/functions/session.lua`.

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{ClaimedSession, PublishFailure, SessionHash};
use hashbrown::HashMap;

/// See the module. Bounded by the node's sessions: each that ends is removed.
#[derive(Debug, Default)]
pub(super) struct SessionStore(HashMap<SessionHash, Record>);

#[derive(Debug)]
struct Record {
    player: Arc<str>,
    generation: u64,
    content: Bytes,
}

impl SessionStore {
    /// Stores what a session consists of, unless it was claimed since.
    pub(super) fn save(
        &mut self,
        player: &Arc<str>,
        session: SessionHash,
        generation: u64,
        content: &Bytes,
    ) -> Result<(), PublishFailure> {
        if self.0.get(&session).is_some_and(|record| record.generation > generation) {
            return Err(PublishFailure::TakenOver);
        }
        self.0.insert(session, Record { player: player.clone(), generation, content: content.clone() });
        Ok(())
    }

    /// A session has ended, unless it was claimed since.
    pub(super) fn end(&mut self, session: SessionHash, generation: u64) {
        if self.0.get(&session).is_some_and(|record| record.generation <= generation) {
            self.0.remove(&session);
        }
    }

    /// Claims a player's session and returns it, under the next generation; `None` if the player has no such session.
    pub(super) fn claim(&mut self, player: &str, session: SessionHash) -> Option<ClaimedSession> {
        let record = self.0.get_mut(&session).filter(|record| *record.player == *player)?;
        record.generation += 1;
        Some(ClaimedSession { generation: record.generation, content: record.content.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_claims_has_it_and_who_had_it_can_neither_change_nor_end_it() {
        let mut sessions = SessionStore::default();
        let (ann, hash, content) = ("ann".into(), SessionHash(1), Bytes::from_static(b"a"));
        assert_eq!(sessions.save(&ann, hash, 1, &content), Ok(()));
        assert_eq!(sessions.claim("bob", hash), None);
        assert_eq!(
            sessions.claim("ann", hash),
            Some(ClaimedSession { generation: 2, content: content.clone() })
        );
        assert_eq!(sessions.save(&ann, hash, 1, &content), Err(PublishFailure::TakenOver));
        sessions.end(hash, 1);
        assert_eq!(sessions.save(&ann, hash, 2, &content), Ok(()));
        sessions.end(hash, 2);
        assert_eq!(sessions.claim("ann", hash), None);
    }
}
