//! The broker's side of all shard queues: who gets what, and which shards could not be notified of a loss.

use std::sync::Arc;

use drawbridge_engine::io::BrokerEvent;
use drawbridge_engine::upstream::{ShardId, ShardSet};

use super::queue::{Pushed, ShardQueue};

/// The queues of all shards and of the node.
#[derive(Clone, Debug)]
pub(super) struct ShardFanout {
    shards: Arc<[ShardQueue]>,
    node: ShardQueue,
}

impl ShardFanout {
    pub(super) fn new(shards: Vec<ShardQueue>, node: ShardQueue) -> Self {
        ShardFanout { shards: shards.into(), node }
    }

    /// Sends to one shard.
    pub(super) fn send(&self, shard: ShardId, event: BrokerEvent) -> Pushed {
        self.queue(shard).map_or(Pushed::Queued, |queue| queue.push(event))
    }

    /// Sends to each of these. Returns those that could not be notified of a loss.
    pub(super) fn send_to_each(&self, shards: ShardSet, event: BrokerEvent) -> ShardSet {
        let mut lost = ShardSet::default();
        for shard in shards.iter() {
            if self.send(shard, event.clone()) == Pushed::Lost {
                lost.insert(shard);
            }
        }
        lost
    }

    /// Sends to every shard, but not to the node. Returns whether all of them had room.
    pub(super) fn send_to_shards(&self, event: &BrokerEvent) -> bool {
        let missed = self.shards.iter().filter(|queue| queue.push(event.clone()) == Pushed::Lost);
        missed.count() == 0
    }

    /// Every shard, but not the node.
    pub(super) fn all_shards(&self) -> ShardSet {
        let mut all = ShardSet::default();
        (0..self.shards.len()).for_each(|at| all.insert(ShardId(at as u8)));
        all
    }

    /// Sends to all shards and the node.
    pub(super) fn send_to_all(&self, event: &BrokerEvent) {
        for queue in self.queues() {
            queue.push(event.clone());
        }
    }

    /// Whether a shard that lost something has room for the notice.
    pub(super) fn can_receive(&self, shard: ShardId) -> bool {
        self.queue(shard).is_none_or(ShardQueue::has_room_for_gaps)
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = &ShardQueue> {
        self.shards.iter().chain([&self.node])
    }

    fn queue(&self, shard: ShardId) -> Option<&ShardQueue> {
        if shard == ShardId::NODE { Some(&self.node) } else { self.shards.get(usize::from(shard.0)) }
    }
}
