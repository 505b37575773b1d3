//! The memory broker: the same hub as for Redis, and a small stand-in for the Redis behind it, in one task. It
//! answers subscriptions and sends copies of each publication in Redis' order: the exact subscription's first,
//! then one for each pattern. Nothing leaves the process, and what is appended to a stream is counted and gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_engine::interest::{HubInput, LinkCommand};
use drawbridge_engine::io::Subject;
use drawbridge_protocol::glob;
use tokio::sync::watch;

use super::board::Board;
use super::interest::{Interest, Order, OrderReceiver};
use super::jobs::{Job, JobReceiver, Work};
use super::meter::Meter;

/// How much is done before other tasks get their turn.
const TURN: usize = 256;

/// The memory broker.
pub(super) struct Memory {
    pub(super) interest: Interest,
    pub(super) orders: OrderReceiver,
    pub(super) jobs: JobReceiver,
    pub(super) board: Arc<Board>,
    pub(super) meter: Arc<Meter>,
    pub(super) stop: watch::Receiver<bool>,
}

/// What this stand-in for Redis knows: who is subscribed to what. Patterns in the order of subscription.
#[derive(Debug, Default)]
struct Subscriptions {
    channels: BTreeSet<Arc<str>>,
    patterns: Vec<Arc<str>>,
}

impl Memory {
    /// Runs until it is told to stop, or nobody is left to order anything.
    pub(super) async fn run(mut self) {
        let mut subscriptions = Subscriptions::default();
        self.interest.handle(HubInput::LinkUp);
        self.board.set(0, true);
        loop {
            self.answer(&mut subscriptions);
            self.meter.report(self.interest.stats());
            let due = self.interest.due();
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => break,
                order = self.orders.recv() => match order {
                    Some(order) => self.take_orders(order),
                    None => break,
                },
                Some(job) = self.jobs.recv() => self.take_jobs(job, &mut subscriptions),
                () = until(due) => {
                    self.interest.set_now(Instant::now());
                    self.interest.tick();
                }
            }
            tokio::task::yield_now().await;
        }
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            self.carry_out(job, &mut subscriptions);
        }
    }

    fn take_orders(&mut self, first: Order) {
        self.interest.set_now(Instant::now());
        self.interest.order(first);
        for _ in 1..TURN {
            let Ok(order) = self.orders.try_recv() else { break };
            self.interest.order(order);
        }
        self.interest.tick();
    }

    fn take_jobs(&mut self, first: Job, subscriptions: &mut Subscriptions) {
        self.interest.set_now(Instant::now());
        self.carry_out(first, subscriptions);
        for _ in 1..TURN {
            let Ok(job) = self.jobs.try_recv() else { break };
            self.carry_out(job, subscriptions);
        }
        self.interest.tick();
    }

    fn carry_out(&mut self, job: Job, subscriptions: &mut Subscriptions) {
        if let Work::Publish { channel, payload } = &job.work {
            let copies = subscriptions.copies(channel);
            self.meter.received(copies.len() as u64);
            for pattern in copies {
                let pattern = pattern.as_deref().map(str::as_bytes);
                let (channel, payload) = (channel.as_bytes(), payload.clone());
                self.interest.handle(HubInput::Message { pattern, channel, payload });
            }
        }
        job.answer(Ok(()));
    }

    /// Does what the hub asks of its link.
    fn answer(&mut self, subscriptions: &mut Subscriptions) {
        while !self.interest.commands.is_empty() {
            for command in std::mem::take(&mut self.interest.commands) {
                match command {
                    LinkCommand::Subscribe(subjects) => {
                        for subject in &subjects {
                            subscriptions.add(subject);
                            self.interest.handle(HubInput::Subscribed(subject));
                        }
                    }
                    LinkCommand::Unsubscribe(subjects) => {
                        for subject in &subjects {
                            subscriptions.remove(subject);
                            self.interest.handle(HubInput::Unsubscribed(subject));
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

/// Waits until this time, or for ever.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
