//! Delivery on this node alone: what a class with `when_broker_down = "local"` does while Redis cannot publish. It is
//! the one exception to the rule that events arrive from Redis only, and it takes the same way in: the hub of the channel's
//! link, which puts it in order with all other events of the channel.

use std::sync::{Arc, PoisonError, RwLock};

use drawbridge_engine::io::{Outcome, PublishFailure, Subject, WriteKind};
use drawbridge_engine::upstream::Topology;
use tokio::sync::mpsc;

use super::hub_driver::HubCommand;
use super::jobs::Job;

/// The way to the hubs.
#[derive(Clone, Debug)]
pub(super) struct LocalDelivery {
    pub(super) topology: Arc<RwLock<Topology>>,
    /// By the links' places.
    pub(super) links: Vec<mpsc::WeakUnboundedSender<HubCommand>>,
}

impl LocalDelivery {
    /// Delivers a publish, and answers it.
    pub(super) fn deliver(&self, job: Job) {
        let outcome = self.outcome_of(&job.work);
        job.answer(outcome);
    }

    /// Invariant: what is delivered is never published later, and what cannot be is not done at all.
    fn outcome_of(&self, work: &WriteKind) -> Outcome {
        // The configuration allows it for nothing else: tables, logs and streams are Redis'.
        let WriteKind::Publish { channel, payload } = work else { return Err(PublishFailure::NotDone) };
        let topology = self.topology.read().unwrap_or_else(PoisonError::into_inner);
        let place = topology.link_of(&Subject::channel(channel.clone())).place();
        drop(topology);
        let Some(link) = self.links.get(place).and_then(mpsc::WeakUnboundedSender::upgrade) else {
            return Err(PublishFailure::NotDone);
        };
        match link.send(HubCommand::Local(channel.clone(), payload.clone())) {
            Ok(()) => Err(PublishFailure::OnlyLocal),
            Err(_) => Err(PublishFailure::NotDone),
        }
    }
}
