//! What becomes of a batch that Redis has answered: each job is answered, put back to be sent again, or held. When the next
//! batch goes out is up to [`super`].

use drawbridge_engine::io::{PublishFailure, WriteKind};
use hashbrown::HashMap;
use tokio::time::Instant;

use super::Publisher;
use crate::broker::jobs::Job;
use crate::broker::redis::refusals::{explained, is_missing_function};
use crate::broker::redis::sessions;
use crate::broker::redis::writes::WriteOutcome;
use crate::broker::redis::{READONLY, UNANSWERED, code_of, is_moving, is_passing};

/// In the error that Redis returns where a function needs a key that is on its way to another master, or has gone, before Redis 8
/// and since: by then it may have done something.
const HALF_DONE: [&str; 2] = ["non local key", "undeclared keys"];

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchOutcome {
    /// All is answered, held, or can be sent again at once.
    All,
    /// Redis cannot do it all just now.
    TryAgain,
    /// The keys of some that write two slots are on their way to another master of the Cluster. The others can be written.
    SlotMoves,
    /// Redis is the master no longer.
    NotMaster,
}

impl Publisher {
    /// Answers what was answered. What Redis cannot do just now goes back to the front of the queue, unless
    /// something behind it was done that it may not follow. Lifecycle entries that Redis did not take are held.
    pub(super) fn complete_batch(
        &mut self,
        batch: Vec<(u64, Job)>,
        outcomes: Vec<WriteOutcome>,
    ) -> BatchOutcome {
        let will_pass = |message: &str| {
            is_passing(message) || (is_missing_function(message) && self.not_loaded.is_none())
        };
        let is_unknown = |message: &str| {
            code_of(message) == UNANSWERED || HALF_DONE.iter().any(|words| message.contains(words))
        };
        let passing = |outcome: &WriteOutcome| {
            outcome.as_ref().is_err_and(|message| will_pass(message) && !is_unknown(message))
        };
        let any = |is: fn(&str) -> bool| {
            outcomes.iter().any(|outcome| outcome.as_ref().is_err_and(|message| is(message)))
        };
        let is_busy = any(|message| is_passing(message) && !is_moving(message));
        let is_on_the_move = any(is_moving);
        let is_replica = any(|message| code_of(message) == READONLY);
        // The place of the last that is over, of those that keep their order: in a Cluster those of one slot. It matters only to
        // what is done again.
        let mut over: HashMap<Option<u16>, usize> = HashMap::new();
        if outcomes.iter().any(passing) {
            for (at, ((_, job), _)) in
                batch.iter().zip(&outcomes).enumerate().filter(|(_, (_, outcome))| !passing(outcome))
            {
                over.insert(self.order_of(job), at);
            }
        }
        let mut batch_outcome = if is_replica { BatchOutcome::NotMaster } else { BatchOutcome::All };
        let (mut redo, mut held, mut is_refused, mut is_taken) = (Vec::new(), Vec::new(), false, false);
        for (at, ((number, mut job), outcome)) in batch.into_iter().zip(outcomes).enumerate() {
            match outcome {
                // A replica takes a plain publish, and it reaches nobody.
                Ok(_) if is_replica && matches!(job.work, WriteKind::Publish { .. }) => {
                    job.answer(Err(PublishFailure::Unknown));
                }
                Ok(position) => {
                    is_taken |= job.is_lifecycle();
                    job.answer(Ok(position));
                }
                Err(message) if job.is_lifecycle() => {
                    if !will_pass(&message) {
                        is_refused = true;
                        self.refusals.log(&job.work, &message);
                    }
                    held.push((number, job));
                }
                Err(message) if is_unknown(&message) => job.answer(Err(PublishFailure::Unknown)),
                Err(message) if code_of(&message) == "LIMIT_EXCEEDED" => {
                    job.answer(Err(PublishFailure::LimitExceeded));
                }
                Err(message) if code_of(&message) == sessions::TAKEN_OVER => {
                    job.answer(Err(PublishFailure::TakenOver(sessions::new_owner(&message))));
                }
                Err(message) if !will_pass(&message) => {
                    self.refusals.log(&job.work, &message);
                    let message = explained(&job.work, message);
                    job.answer(Err(PublishFailure::Refused(message.into())));
                }
                Err(_) if over.get(&self.order_of(&job)).is_some_and(|last| at < *last) => {
                    job.answer(Err(PublishFailure::NotDone));
                }
                Err(message) => {
                    job.set_handed(false);
                    match self.order_of(&job).filter(|_| is_moving(&message)) {
                        Some(slot) => self.moving.add(slot, number, job, Instant::now()),
                        None => redo.push((number, job)),
                    }
                }
            }
        }
        match is_refused {
            true => self.backlog.refused(),
            false if is_taken => self.backlog.taken(),
            false => {}
        }
        // What lacked functions that are loaded by now need not wait.
        if batch_outcome == BatchOutcome::All
            && is_busy
            && (!redo.is_empty() || (!held.is_empty() && !is_refused))
        {
            batch_outcome = BatchOutcome::TryAgain;
        }
        if batch_outcome == BatchOutcome::All && is_on_the_move && !(redo.is_empty() && held.is_empty()) {
            batch_outcome = BatchOutcome::SlotMoves;
        }
        self.backlog.put_back(held);
        for job in redo.into_iter().rev() {
            self.waiting.push_front(job);
        }
        match is_on_the_move {
            true => self.find_next_expiry(),
            false => self.moving.settled(),
        }
        batch_outcome
    }
}
