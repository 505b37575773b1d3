//! The memory broker: the same hub as for Redis, and a small stand-in for the Redis behind it, in one task. It
//! answers subscriptions and sends copies of each publication in Redis' order: the exact subscription's first,
//! then one for each pattern. Nothing leaves the process, and what is appended to a stream is counted and gone. What it
//! keeps of entities and views stands in [`store`].

mod store;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_engine::io::{BrokerEvent, Subject, Ticket};
use drawbridge_engine::upstream::{HubInput, LinkCommand, ShardId};
use drawbridge_protocol::glob;
use tokio::sync::watch;

use self::store::Store;
use super::board::Board;
use super::interest::{Order, until};
use super::jobs::{Job, JobReceiver, Work};
use super::outlet::Outlet;
use super::questions::Questions;
use super::{Part, Shell};

/// How much is done before other tasks get their turn.
const TURN: usize = 256;

/// Runs the memory broker until it is told to stop, or nobody is left to order anything.
pub(super) async fn run(shell: Shell) {
    let Shell { parts, jobs, board, stop, questions, outlet, .. } = shell;
    let Some(part) = parts.into_iter().next() else { return };
    let started = Instant::now();
    Memory { part, jobs, board, questions, outlet, store: Store::default(), started }.run(stop).await;
}

struct Memory {
    part: Part,
    jobs: JobReceiver,
    board: Arc<Board>,
    questions: Questions,
    outlet: Outlet,
    store: Store,
    started: Instant,
}

/// What this stand-in for Redis knows: who is subscribed to what. Patterns in the order of subscription.
#[derive(Debug, Default)]
struct Subscriptions {
    channels: BTreeSet<Arc<str>>,
    patterns: Vec<Arc<str>>,
}

impl Memory {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut subscriptions = Subscriptions::default();
        self.part.interest.handle(HubInput::LinkUp);
        self.board.set(0, true);
        loop {
            self.answer(&mut subscriptions);
            self.part.meter.report(self.part.interest.stats());
            let due = self.part.interest.due();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                order = self.part.orders.recv() => match order {
                    Some(order) => self.take_orders(order),
                    None => break,
                },
                Some(job) = self.jobs.recv() => self.take_jobs(job, &mut subscriptions),
                asked = self.questions.views.first(TURN) => self.tell(asked),
                () = until(due) => {
                    self.part.interest.set_now(Instant::now());
                    self.part.interest.tick();
                }
            }
            tokio::task::yield_now().await;
        }
        self.jobs.close();
        while let Some(job) = self.jobs.try_recv() {
            self.carry_out(job, &mut subscriptions);
        }
    }

    fn take_orders(&mut self, first: Order) {
        self.part.interest.set_now(Instant::now());
        self.part.interest.order(first);
        for _ in 1..TURN {
            let Ok(order) = self.part.orders.try_recv() else { break };
            self.part.interest.order(order);
        }
        self.part.interest.tick();
    }

    fn take_jobs(&mut self, first: Job, subscriptions: &mut Subscriptions) {
        self.part.interest.set_now(Instant::now());
        self.carry_out(first, subscriptions);
        for _ in 1..TURN {
            let Some(job) = self.jobs.try_recv() else { break };
            self.carry_out(job, subscriptions);
        }
        self.part.interest.tick();
    }

    fn carry_out(&mut self, job: Job, subscriptions: &mut Subscriptions) {
        let now_ms = self.now_ms();
        let result = match &job.work {
            Work::Publish { channel, payload } => {
                self.publish(channel, payload, subscriptions);
                Ok(())
            }
            Work::Commit { channel, commit } => self
                .store
                .commit(now_ms, channel, commit)
                .map(|payload| self.publish(channel, &payload, subscriptions)),
            Work::View { player, channel, view, tell: (nodes, told), unless_kept } => {
                match self.store.set_view(player, channel, view.as_ref()) {
                    Ok(is_new) if is_new || !unless_kept => {
                        self.publish(nodes, told, subscriptions);
                        Ok(())
                    }
                    kept => kept.map(|_| ()),
                }
            }
            Work::Append { .. } => Ok(()),
        };
        job.answer(result);
    }

    fn publish(&mut self, channel: &str, payload: &[u8], subscriptions: &Subscriptions) {
        let copies = subscriptions.copies(channel);
        self.part.meter.count(copies.len() as u64);
        for pattern in copies {
            let pattern = pattern.as_deref().map(str::as_bytes);
            let channel = channel.as_bytes();
            self.part.interest.handle(HubInput::Message { pattern, channel, payload });
        }
    }

    /// Answers shards.
    fn tell(&mut self, asked: Vec<((ShardId, Ticket), Arc<str>)>) {
        for (key, player) in asked {
            if self.questions.views.answered(&key, |asked| *asked == player) {
                let views = Ok(self.store.views(&player));
                self.outlet.tell(key.0, BrokerEvent::Views { ticket: key.1, views });
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Does what the hub asks of its link.
    fn answer(&mut self, subscriptions: &mut Subscriptions) {
        while !self.part.interest.commands.is_empty() || !self.part.interest.loads.is_empty() {
            for (channel, load) in std::mem::take(&mut self.part.interest.loads) {
                let table = Ok(self.store.table(self.now_ms(), &channel));
                self.part.interest.handle(HubInput::Loaded { channel: &channel, load, table });
            }
            for command in std::mem::take(&mut self.part.interest.commands) {
                match command {
                    LinkCommand::Subscribe(subjects) => {
                        for subject in &subjects {
                            subscriptions.add(subject);
                            self.part.interest.handle(HubInput::Subscribed(subject));
                        }
                    }
                    LinkCommand::Unsubscribe(subjects) => {
                        for subject in &subjects {
                            subscriptions.remove(subject);
                            self.part.interest.handle(HubInput::Unsubscribed(subject));
                        }
                    }
                }
            }
        }
    }
}

impl Subscriptions {
    fn add(&mut self, subject: &Subject) {
        if !subject.pattern {
            self.channels.insert(subject.name.clone());
        } else if !self.patterns.contains(&subject.name) {
            self.patterns.push(subject.name.clone());
        }
    }

    fn remove(&mut self, subject: &Subject) {
        if subject.pattern {
            self.patterns.retain(|pattern| *pattern != subject.name);
        } else {
            self.channels.remove(&subject.name);
        }
    }

    /// The pattern of each copy of a publication; `None`: the exact subscription's.
    fn copies(&self, channel: &str) -> Vec<Option<Arc<str>>> {
        let exact = self.channels.contains(channel).then_some(None);
        let patterns = self.patterns.iter().filter(|pattern| glob::glob_matches(pattern, channel));
        exact.into_iter().chain(patterns.map(|pattern| Some(pattern.clone()))).collect()
    }
}
