//! What must not be left of a cluster when everybody is gone and all has come to rest.

use super::Cluster;

impl Cluster {
    /// Whether a shard has yet to write who is present, or that a session has ended: what failed is written again after a while.
    pub fn is_writing(&self) -> bool {
        let shards = self.nodes.iter().flat_map(|node| &node.shards);
        let mut stats = shards.map(|shard| shard.engine.stats());
        stats.any(|stats| stats.presence_waiting > 0 || stats.records_ending > 0)
    }

    /// Behind the last client, when all has come to rest: only the nodes' own channel is left.
    pub fn check_nothing_is_left(&self) {
        let in_use = |link: &usize| !self.is_of_master(*link) || self.target_of(*link).is_some();
        let links = (0..self.redis.links.len()).filter(in_use).count();
        assert!(self.redis.presence.is_empty(), "present where no one is: {:?}", self.redis.presence);
        assert_eq!(self.redis.subscriptions(), links, "Redis holds subscriptions that no one wants");
        for (at, node) in self.nodes.iter().enumerate() {
            for (place, hub) in node.hubs.iter().enumerate() {
                let (stats, expected) = (hub.stats(), usize::from(in_use(&(at * self.links + place))));
                let counts =
                    [stats.entities, stats.pattern_channels, stats.pattern_logs, stats.waiting_for_slots];
                assert_eq!(([stats.subjects, stats.live], counts), ([expected; 2], [0; 4]), "{stats:?}");
            }
            for shard in &node.shards {
                let stats = shard.engine.stats();
                let gauges = [
                    stats.connections,
                    stats.detached,
                    stats.held_bytes,
                    stats.welcomed,
                    stats.subscriptions,
                    stats.targets,
                    stats.views,
                    stats.entities,
                    stats.frame_bytes,
                    stats.queued_bytes,
                    stats.publishing,
                    stats.loading,
                    stats.deferred,
                    stats.timers,
                    stats.releasing,
                    stats.present,
                    stats.presence_waiting,
                    stats.presence_reads,
                    stats.logs,
                    stats.catching_up,
                    stats.histories,
                    stats.records_ending,
                ];
                assert_eq!(gauges, [0; 22], "{stats:?}");
            }
        }
    }
}
