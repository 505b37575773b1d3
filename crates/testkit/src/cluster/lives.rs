//! How nodes of a cluster die and start again, and what they keep of their sessions for one another.

use std::sync::Arc;

use drawbridge_engine::io::{ClaimedSession, Outcome, PlayerAction, PlayerCommand, SessionHash, WriteKind};

use super::node::{Node, Size};
use super::{Cluster, Outside};

impl Cluster {
    /// A node dies with all that it has, and starts again with nothing; its links are down. Not of a Redis Cluster.
    pub fn crash(&mut self, at: usize, outside: &mut impl Outside) {
        assert_eq!(self.pool, self.links, "nodes around masters do not crash");
        let size = Size { nodes: self.nodes.len(), shards: self.nodes[at].shards.len(), links: self.links };
        self.restarts += 1;
        let mut node = Node::new(&self.settings, size, 0, at, self.restarts);
        // No socket has the name of one before.
        for (new, old) in node.shards.iter_mut().zip(&self.nodes[at].shards) {
            new.next_conn = old.next_conn;
        }
        let died = std::mem::replace(&mut self.nodes[at], node);
        let window_ends_ms = self.now.mono_ms + self.settings.resume_window_ms;
        if let Some(sessions) = &mut self.sessions {
            sessions.died(&died.instance, window_ends_ms);
        }
        self.redis.presence.died(&died.instance, window_ends_ms);
        for link in at * self.links..(at + 1) * self.links {
            self.redis.cut(link);
            self.listen_on(link, outside);
        }
    }

    /// How many records of sessions there are, and how many of them name a node as it runs now.
    pub fn stored_sessions(&mut self) -> (usize, usize) {
        let Some(sessions) = &mut self.sessions else { return (0, 0) };
        let now_ms = self.now.mono_ms;
        let counts: Vec<(usize, usize)> =
            self.nodes.iter().map(|node| sessions.count(now_ms, &node.instance)).collect();
        (counts.first().map_or(0, |(all, _)| *all), counts.iter().map(|(_, live)| live).sum())
    }

    /// Redis takes a write about a session, of this node.
    pub(super) fn take_record(&mut self, node: usize, write: WriteKind) -> Outcome {
        let Some(sessions) = &mut self.sessions else { return Ok(None) };
        let instance = &self.nodes[node].instance;
        match write {
            WriteKind::SaveSession { player, session, generation, content } => {
                sessions.save(instance, player, session, generation, content)?;
            }
            WriteKind::EndSession { session, generation, window_ms, .. } => {
                sessions.end(self.now.mono_ms, instance, session, generation, window_ms);
            }
            other => panic!("not about a session: {other:?}"),
        }
        Ok(None)
    }

    /// Redis lets a node claim a session, and announces it.
    pub(super) fn claim(
        &mut self,
        node: usize,
        player: Arc<str>,
        session: SessionHash,
    ) -> Option<ClaimedSession> {
        let node = self.nodes[node].instance.clone();
        let claimed = self.sessions.as_mut()?.claim(self.now.mono_ms, &node, &player, session)?;
        let action = PlayerAction::TakenOver { session, generation: claimed.generation, node };
        self.redis.command_player(&PlayerCommand { player, action });
        Some(claimed)
    }
}
