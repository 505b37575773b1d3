//! The memory broker: the same hub as for Redis, and a small stand-in for the Redis behind it, in one task. It
//! answers subscriptions and sends copies of each publication in Redis' order: the exact subscription's first,
//! then one for each pattern. Nothing leaves the process, and what is appended to a stream is counted and gone. What it
//! keeps of entities and views is in [`store`], of logs in [`logs`], of presence in [`presence`], of sessions in
//! [`sessions`].

mod logs;
mod presence;
mod sessions;
mod store;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_engine::class::Classes;
use drawbridge_engine::io::{
    Answer, Answered, BrokerEvent, ClaimedSession, LiveNode, Outcome, PlayerAction, PlayerCommand, QueryKind,
    SessionSecret, Subject, WriteKind,
};
use drawbridge_engine::upstream::{HubInput, LinkCommand, LoadedTable};
use drawbridge_protocol::glob;
use tokio::sync::watch;

use self::logs::Logs;
use self::presence::PresenceStore;
use self::sessions::SessionStore;
use self::store::Store;
use super::fanout::ShardFanout;
use super::health_board::HealthBoard;
use super::hub_driver::{HubCommand, until};
use super::jobs::{Job, JobReceiver};
use super::query_queue::{AnswerSize, Asked, QueryQueue};
use super::redis::NodeReport;
use super::{HubTask, Shell};

/// How much is done before other tasks get their turn.
const TURN: usize = 256;

/// Runs the memory broker until `stop`, or until no sender of commands is left.
/// Its logs are those of these classes.
pub(super) async fn run(shell: Shell, classes: Arc<Classes>, external_bytes: usize) {
    let Shell { parts, jobs, health_board, stop, queries, report, fanout, .. } = shell;
    let Some(part) = parts.into_iter().next() else { return };
    let started = Instant::now();
    Memory {
        part,
        jobs,
        health_board,
        queries,
        store: Store::default(),
        logs: Logs::new(classes.clone(), external_bytes),
        classes,
        presence: PresenceStore::default(),
        sessions: SessionStore::default(),
        fanout,
        report,
        started,
    }
    .run(stop)
    .await;
}

struct Memory {
    part: HubTask,
    jobs: JobReceiver,
    health_board: Arc<HealthBoard>,
    queries: QueryQueue,
    store: Store,
    classes: Arc<Classes>,
    logs: Logs,
    presence: PresenceStore,
    sessions: SessionStore,
    fanout: ShardFanout,
    /// What the node says of itself: it is the only one.
    report: NodeReport,
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
        self.part.driver.handle(HubInput::LinkUp);
        self.health_board.set(0, true);
        loop {
            self.answer(&mut subscriptions);
            self.part.link_metrics.report(self.part.driver.stats());
            let due = self.part.driver.due();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                command = self.part.commands.recv() => match command {
                    Some(command) => self.take_commands(command),
                    None => break,
                },
                Some(job) = self.jobs.recv() => self.take_jobs(job, &mut subscriptions),
                asked = self.queries.first(AnswerSize::Small, TURN, |_| true) => self.answer_all(&asked),
                asked = self.queries.first(AnswerSize::Large, TURN, |_| true) => self.answer_all(&asked),
                () = until(due) => {
                    self.part.driver.set_now(Instant::now());
                    self.part.driver.tick();
                }
            }
            tokio::task::yield_now().await;
        }
        self.jobs.close();
        while let Some(job) = self.jobs.try_recv() {
            self.carry_out(job, &mut subscriptions);
        }
    }

    fn take_commands(&mut self, first: HubCommand) {
        self.part.driver.set_now(Instant::now());
        self.part.driver.command(first);
        for _ in 1..TURN {
            let Ok(command) = self.part.commands.try_recv() else { break };
            self.part.driver.command(command);
        }
        self.part.driver.tick();
    }

    fn take_jobs(&mut self, first: Job, subscriptions: &mut Subscriptions) {
        self.part.driver.set_now(Instant::now());
        self.carry_out(first, subscriptions);
        for _ in 1..TURN {
            let Some(job) = self.jobs.try_recv() else { break };
            self.carry_out(job, subscriptions);
        }
        self.part.driver.tick();
    }

    fn carry_out(&mut self, job: Job, subscriptions: &mut Subscriptions) {
        let outcome = self.write(&job.work, subscriptions);
        job.answer(outcome);
    }

    fn write(&mut self, work: &WriteKind, subscriptions: &Subscriptions) -> Outcome {
        let now_ms = self.now_ms();
        match work {
            WriteKind::Publish { channel, payload } => {
                self.publish(channel, payload, subscriptions);
            }
            WriteKind::Commit { channel, commit } => {
                let payload = self.store.commit(now_ms, channel, commit)?;
                self.publish(channel, &payload, subscriptions);
            }
            WriteKind::Log { channel, entry } => {
                let (position, payload) = self.logs.append(now_ms, channel, entry)?;
                if let Some(payload) = payload {
                    self.publish(channel, &payload, subscriptions);
                }
                return Ok(Some(position));
            }
            WriteKind::SetOverride { player, channel, view, announcement: (nodes, payload), if_absent } => {
                let is_new = self.store.set_view(player, channel, view.as_ref())?;
                if is_new || !if_absent {
                    self.publish(nodes, payload, subscriptions);
                }
            }
            WriteKind::Presence { channel, player, session, generation, is_present, notify } => {
                let change = self.presence.write(channel, player, *session, *generation, *is_present);
                if let Some(change) = change.filter(|_| *notify) {
                    let notices = self.part.driver.presence_channel(channel);
                    self.publish(&notices, &change.to_payload(), subscriptions);
                }
            }
            WriteKind::Append { .. } => {}
            WriteKind::SaveSession { player, session, generation, content } => {
                let node = self.this_node().instance;
                self.sessions.save(&node, player, *session, *generation, content)?;
            }
            WriteKind::EndSession { session, generation, window_ms, .. } => {
                self.sessions.end(self.now_ms(), *session, *generation, *window_ms);
            }
        }
        Ok(None)
    }

    /// Gives a session to the shard that claims it; the others learn that it is theirs no longer.
    fn claim(&mut self, player: &Arc<str>, session: SessionSecret) -> Option<ClaimedSession> {
        let session = session.hash();
        let claimed = self.sessions.claim(self.now_ms(), player, session)?;
        let (generation, node) = (claimed.generation, self.this_node().instance);
        let action = PlayerAction::TakenOver { session, generation, node };
        let command = PlayerCommand { player: player.clone(), action };
        self.fanout.send_to_shards(&BrokerEvent::Command(command));
        Some(claimed)
    }

    fn publish(&mut self, channel: &str, payload: &[u8], subscriptions: &Subscriptions) {
        let copies = subscriptions.copies(channel);
        self.part.link_metrics.count(copies.len() as u64);
        for pattern in copies {
            let pattern = pattern.as_deref().map(str::as_bytes);
            let channel = channel.as_bytes();
            self.part.driver.handle(HubInput::Message { pattern, channel, payload });
        }
    }

    fn answer_all(&mut self, all: &[Asked]) {
        for asked in all {
            let answer = self.answer_of(&asked.query.kind);
            match asked.query.kind {
                QueryKind::ClaimSession { .. } => self.queries.answer_in_any_case(asked.clone(), answer),
                _ => drop(self.queries.answer(asked, answer)),
            }
        }
    }

    fn answer_of(&mut self, query: &QueryKind) -> Answered {
        Ok(match query {
            QueryKind::ViewOverrides { player } => Answer::ViewOverrides(self.store.views(player)),
            QueryKind::Table { channel } => {
                let stored = self.store.table(self.now_ms(), channel);
                Answer::Table(LoadedTable::read(&self.classes, channel, stored))
            }
            QueryKind::Log { channel, range, limit, reader } => {
                let log = self.logs.read(self.now_ms(), channel, *range, *limit, *reader);
                Answer::Log(log.ok_or("UNSUPPORTED the channel has no history")?)
            }
            QueryKind::Fence { channel } => Answer::Fence(channel.clone()),
            QueryKind::Nodes => Answer::Nodes(vec![self.this_node()]),
            QueryKind::Presence { channel, after, limit } => {
                Answer::Presence(self.presence.page(channel, after.as_ref(), *limit))
            }
            QueryKind::ClaimSession { player, session } => Answer::Session(self.claim(player, *session)),
        })
    }

    fn this_node(&self) -> LiveNode {
        let about = self.report.make();
        let said: serde_json::Value = serde_json::from_str(&about).unwrap_or_default();
        let instance = said["instance"].as_str().unwrap_or_default().into();
        LiveNode { instance, age_ms: 0, about: about.into() }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Does what the hub asks of its link.
    fn answer(&mut self, subscriptions: &mut Subscriptions) {
        while !self.part.driver.commands.is_empty() || !self.part.driver.queries.is_empty() {
            for query in std::mem::take(&mut self.part.driver.queries) {
                let answer = self.answer_of(&query.kind);
                self.part.driver.command(HubCommand::Answer(query, answer));
            }
            for command in std::mem::take(&mut self.part.driver.commands) {
                match command {
                    LinkCommand::Mark(marker) => self.publish(&marker, b"", subscriptions),
                    LinkCommand::Subscribe(subjects) => {
                        for subject in &subjects {
                            subscriptions.add(subject);
                            self.part.driver.handle(HubInput::Subscribed(subject));
                        }
                    }
                    LinkCommand::Unsubscribe(subjects) => {
                        for subject in &subjects {
                            subscriptions.remove(subject);
                            self.part.driver.handle(HubInput::Unsubscribed(subject));
                        }
                    }
                }
            }
        }
    }
}

impl Subscriptions {
    fn add(&mut self, subject: &Subject) {
        if !subject.is_pattern() {
            self.channels.insert(subject.name.clone());
        } else if !self.patterns.contains(&subject.name) {
            self.patterns.push(subject.name.clone());
        }
    }

    fn remove(&mut self, subject: &Subject) {
        if subject.is_pattern() {
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
