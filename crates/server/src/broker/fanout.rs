//! The broker's side of all shard queues: who gets what, and which shards could not be notified of a loss. It is the only way
//! from the broker to players, so errors that Redis returned lose the environment's prefix here.

use std::sync::Arc;

use drawbridge_engine::io::{BrokerEvent, PublishFailure};
use drawbridge_engine::upstream::{ShardId, ShardSet};

use super::queue::{Pushed, ShardQueue};
use super::redis::Names;

/// The queues of all shards and of the node.
#[derive(Clone, Debug)]
pub(super) struct ShardFanout {
    shards: Arc<[ShardQueue]>,
    node: ShardQueue,
    names: Names,
}

impl ShardFanout {
    pub(super) fn new(shards: Vec<ShardQueue>, node: ShardQueue) -> Self {
        ShardFanout { shards: shards.into(), node, names: Names::default() }
    }

    /// The same queues in the environment of these names.
    pub(super) fn with_names(self, names: Names) -> Self {
        ShardFanout { names, ..self }
    }

    /// Sends to one shard.
    pub(super) fn send(&self, shard: ShardId, event: BrokerEvent) -> Pushed {
        self.push(shard, self.without_prefix(event))
    }

    /// Sends to each of these. Returns those that could not be notified of a loss.
    pub(super) fn send_to_each(&self, shards: ShardSet, event: BrokerEvent) -> ShardSet {
        let event = self.without_prefix(event);
        let mut lost = ShardSet::default();
        for shard in shards.iter() {
            if self.push(shard, event.clone()) == Pushed::Lost {
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

    fn push(&self, shard: ShardId, event: BrokerEvent) -> Pushed {
        self.queue(shard).map_or(Pushed::Queued, |queue| queue.push(event))
    }

    /// Takes the prefix out of the error that Redis returned, if the event has one: with `explain` players read it.
    fn without_prefix(&self, event: BrokerEvent) -> BrokerEvent {
        let hidden = |message: &Arc<str>| self.names.hidden_in(message).into();
        match event {
            BrokerEvent::Refused { subject, reason } => {
                BrokerEvent::Refused { subject, reason: hidden(&reason) }
            }
            BrokerEvent::Answer { ticket, answer: Err(message) } => {
                BrokerEvent::Answer { ticket, answer: Err(hidden(&message)) }
            }
            BrokerEvent::Outcome { ticket, outcome: Err(PublishFailure::Refused(message)) } => {
                let failure = PublishFailure::Refused(hidden(&message));
                BrokerEvent::Outcome { ticket, outcome: Err(failure) }
            }
            event => event,
        }
    }

    fn queue(&self, shard: ShardId) -> Option<&ShardQueue> {
        if shard == ShardId::NODE { Some(&self.node) } else { self.shards.get(usize::from(shard.0)) }
    }
}

#[cfg(test)]
mod tests {
    use drawbridge_engine::io::{Subject, Ticket};

    use super::super::queue::shard_queue;
    use super::*;

    #[test]
    fn no_error_of_redis_reaches_a_shard_with_the_prefix() {
        let ((shard, mut inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let fanout = ShardFanout::new(vec![shard], node).with_names(Names::new("prod:", "drawbridge:"));
        let (ticket, message) = (Ticket(1), || Arc::from("NOPERM no right to 'prod:world:1'"));
        let (to, subject) = (ShardId(0), Subject::channel("world:1"));
        fanout.send(to, BrokerEvent::Answer { ticket, answer: Err(message()) });
        let refused = Err(PublishFailure::Refused(message()));
        fanout.send(to, BrokerEvent::Outcome { ticket, outcome: refused });
        let refused = BrokerEvent::Refused { subject: subject.clone(), reason: message() };
        fanout.send_to_each(ShardSet::only(to), refused);
        let hidden = || Arc::from("NOPERM no right to 'world:1'");
        let events = std::iter::from_fn(|| inbox.try_recv()).map(|event| format!("{event:?}"));
        let expected = [
            BrokerEvent::Answer { ticket, answer: Err(hidden()) },
            BrokerEvent::Outcome { ticket, outcome: Err(PublishFailure::Refused(hidden())) },
            BrokerEvent::Refused { subject, reason: hidden() },
        ];
        assert_eq!(events.collect::<Vec<_>>(), expected.map(|event| format!("{event:?}")));
    }
}
