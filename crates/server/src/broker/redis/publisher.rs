//! The command connection: publishes and appends, in order, one pipeline at a time, through redis-rs. What Redis
//! has taken is acknowledged, what it refused is refused, and what was in flight when the connection broke is
//! `Unknown` and never sent again. What was not sent waits, or is refused where its class says so, or is withdrawn when
//! its time is over. Entries of the lifecycle stream are sent until Redis has them ([`super::lifecycle_backlog`]). What becomes
//! of a batch that is answered is in [`completion`].

mod completion;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use drawbridge_engine::io::{PublishFailure, WhenDown, WriteKind};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::completion::BatchOutcome;
use super::batch::Batch;
use super::command_connection::Loaded;
use super::commands::Commands;
use super::connect::{Attempts, Broken};
use super::connector::Connector;
use super::function_repairs::{Missing, Replaced, Retry};
use super::lease;
use super::lifecycle_backlog::LifecycleBacklog;
use super::masters::slot_of_write;
use super::moving_slots::MovingSlots;
use super::presence::{self, PresenceIndex};
use super::refusals::{Refusals, is_missing_function};
use super::writes::{Call, WriteOutcome, batch_of, needs_functions, outcomes};
use super::{RedisSettings, is_passing, public_part, without_arguments};
use crate::broker::DRAIN_TIMEOUT;
use crate::broker::health_board::HealthBoard;
use crate::broker::jobs::{Job, JobReceiver};
use crate::broker::link_metrics::LinkMetrics;
use crate::broker::local::LocalDelivery;

/// The bounds of one pipeline.
const PIPELINE_COMMANDS: usize = 512;
const PIPELINE_BYTES: usize = 1024 * 1024;
/// How long publishes that waited go on waiting for the subscriptions to be restored, and how often this is looked at.
const LINKS_PATIENCE: Duration = Duration::from_secs(2);
const LINKS_POLL: Duration = Duration::from_millis(5);
/// How often it is looked whether Redis still has the functions and this node's entry: a service that calls them cannot load
/// them again.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// When it is looked again where Redis could not answer just then.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long to wait when Redis says that it cannot just now.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long to wait where a write of two slots needs keys that are on their way; the router has waited before.
const MOVE_PAUSE: Duration = Duration::from_millis(20);
/// What is to be withdrawn within this time is withdrawn together.
const EXPIRE_TOGETHER: Duration = Duration::from_millis(50);

/// The publisher.
pub(super) struct Publisher {
    /// Its place on the board.
    part: usize,
    jobs: JobReceiver,
    /// Taken from `jobs`, not yet sent, by the number of their coming.
    waiting: VecDeque<(u64, Job)>,
    moving: MovingSlots,
    /// Entries of the lifecycle stream, not yet taken by Redis.
    backlog: LifecycleBacklog,
    presence_index: PresenceIndex,
    /// How many jobs have come.
    came: u64,
    /// When the first of what waits is withdrawn; not after that time, and seldom before it.
    next_expiry: Option<Instant>,
    refusals: Refusals,
    connector: Connector,
    settings: Arc<RedisSettings>,
    health_board: Arc<HealthBoard>,
    link_metrics: Arc<LinkMetrics>,
    /// What is done while Redis is away with publishes of classes that say so.
    local: LocalDelivery,
    /// Nothing has held this node's entry of the functions since it started.
    begins: bool,
    /// When it is to be looked whether they are there and hold it.
    next_look: Instant,
    missing: Missing,
    /// The last pipeline was refused for a moment (`BUSY`, `LOADING`), and none has succeeded since.
    is_paused: bool,
    /// Why Redis does not let us load them, if it does not.
    not_loaded: Option<String>,
    replaced: Replaced,
}

/// Nothing more is to be done.
struct Stopped;

type Stop = watch::Receiver<bool>;

impl Publisher {
    pub(super) fn new(
        part: usize,
        jobs: JobReceiver,
        connector: Connector,
        health_board: Arc<HealthBoard>,
        link_metrics: Arc<LinkMetrics>,
        local: LocalDelivery,
    ) -> Self {
        Publisher {
            part,
            jobs,
            waiting: VecDeque::new(),
            moving: MovingSlots::default(),
            backlog: LifecycleBacklog::default(),
            presence_index: PresenceIndex::default(),
            came: 0,
            next_expiry: None,
            refusals: Refusals::default(),
            settings: connector.settings.clone(),
            connector,
            health_board,
            link_metrics,
            local,
            begins: true,
            next_look: Instant::now(),
            missing: Missing::default(),
            is_paused: false,
            not_loaded: None,
            replaced: Replaced::default(),
        }
    }

    /// Runs until it is stopped, or no one is left to publish. What is queued then gets [`DRAIN_TIMEOUT`] if
    /// Redis is there.
    pub(super) async fn run(self, mut stop: Stop) {
        let ledger = self.jobs.ledger().clone();
        let work = self.work(stop.clone());
        let overtime = async move {
            // A stop that nobody can give any more is one.
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        let lost_before = ledger.lifecycle_lost.load(Ordering::Relaxed);
        // All that is not sent by then is dropped with the work.
        tokio::select! {
            () = work => {}
            () = overtime => {}
        }
        let entries = ledger.lifecycle_lost.load(Ordering::Relaxed).saturating_sub(lost_before);
        if entries > 0 {
            tracing::warn!(
                entries,
                "entries of the lifecycle stream are lost: Redis did not take them before the end"
            );
        }
    }

    async fn work(mut self, mut stop: Stop) {
        let mut attempts = Attempts::new("publisher".into(), &self.settings);
        loop {
            let connector = self.connector.clone();
            let tried_by = connector.map_version();
            let commands = Commands::open(&connector, "publisher");
            let broken = match self.meanwhile(&mut stop, commands).await {
                Err(Stopped) => return,
                Ok(Err(broken)) => broken,
                Ok(Ok(commands)) => {
                    attempts.up();
                    match self.live(&mut stop, commands).await {
                        Ok(Stopped) => return,
                        Err(broken) => broken,
                    }
                }
            };
            let wait = attempts.failed(&broken, self.connector.server());
            let health_board = self.health_board.clone();
            health_board.failed(self.part, self.connector.trouble(&broken));
            if let Broken::Unsupported(what) = &broken {
                self.refuse_unsupported(what);
            }
            let pause = connector.wait_to_try_again(&health_board, wait, tried_by);
            if self.meanwhile(&mut stop, pause).await.is_err() {
                return;
            }
        }
    }

    /// Refuses what waits, where this Redis can never take it; what comes later waits for the next attempt. Entries of the
    /// lifecycle stream wait for another Redis.
    fn refuse_unsupported(&mut self, what: &str) {
        let reason: Arc<str> = format!("UNSUPPORTED {what}").into();
        for (_, job) in self.waiting.drain(..) {
            job.answer(Err(PublishFailure::Refused(reason.clone())));
        }
    }

    /// Waits while Redis cannot be asked: what may wait is queued, the rest is refused.
    async fn meanwhile<F: Future>(&mut self, stop: &mut Stop, waited_for: F) -> Result<F::Output, Stopped> {
        let mut waited_for = pin!(waited_for);
        loop {
            tokio::select! {
                output = &mut waited_for => return Ok(output),
                job = self.jobs.recv() => {
                    if let Some(job) = refused_or_local(job.ok_or(Stopped)?, &self.local) {
                        self.take(job);
                    }
                }
                () = expiry(self.next_expiry) => self.withdraw_expired(),
                _ = stop.wait_for(|stop| *stop) => return Err(Stopped),
            }
        }
    }

    /// Takes in what comes while Redis is asked, and withdraws what may wait no longer.
    async fn attend<F: Future>(&mut self, waited_for: F) -> F::Output {
        let mut waited_for = pin!(waited_for);
        loop {
            tokio::select! {
                output = &mut waited_for => return output,
                Some(job) = self.jobs.recv() => self.take(job),
                () = expiry(self.next_expiry) => self.withdraw_expired(),
            }
        }
    }

    fn take(&mut self, job: Job) {
        self.came += 1;
        if job.is_lifecycle() {
            return self.backlog.push(self.came, job);
        }
        self.expect_expiry(&job);
        self.waiting.push_back((self.came, job));
    }

    /// A job that may wait only so long is among those that wait.
    fn expect_expiry(&mut self, job: &Job) {
        if let Some(expires) = job.expires.map(Instant::from_std) {
            self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
        }
    }

    /// Answers those whose time is over: they are never sent.
    fn withdraw_expired(&mut self) {
        let until = Instant::now() + EXPIRE_TOGETHER;
        // Dropped unanswered, and not handed to Redis: not done.
        let is_kept = |job: &Job| job.expires.is_none_or(|expires| Instant::from_std(expires) > until);
        self.waiting.retain(|(_, job)| is_kept(job));
        self.moving.retain(is_kept);
        self.find_next_expiry();
    }

    fn find_next_expiry(&mut self) {
        let waiting = self.waiting.iter().map(|(_, job)| job).chain(self.moving.jobs());
        self.next_expiry = waiting.filter_map(|job| job.expires).min().map(Instant::from_std);
    }

    /// The life of one connection.
    async fn live(&mut self, stop: &mut Stop, mut commands: Commands) -> Result<Stopped, Broken> {
        if let Err(broken) = self.prepare(&mut commands).await {
            self.away();
            return Err(broken);
        }
        self.is_paused = false;
        self.health_board.set(self.part, true);
        if !self.waiting.is_empty() && self.wait_for_links(stop).await.is_err() {
            return Ok(Stopped);
        }
        let end = self.serve(stop, &mut commands).await;
        self.away();
        self.link_metrics.reconnected();
        end
    }

    /// Ensures that the functions are there, and by them that others find what is written here.
    async fn prepare(&mut self, commands: &mut Commands) -> Result<(), Broken> {
        self.load_library(commands).await?;
        let connector = self.connector.clone();
        self.attend(lease::hold(&connector, commands)).await
    }

    /// What waited for Redis goes out when the subscriptions are back too, so that this node's own players hear it.
    async fn wait_for_links(&mut self, stop: &mut Stop) -> Result<(), Stopped> {
        let health_board = self.health_board.clone();
        let restored = async move {
            while !health_board.links_are_up() {
                tokio::time::sleep(LINKS_POLL).await;
            }
        };
        self.meanwhile(stop, timeout(LINKS_PATIENCE, restored)).await.map(|_| ())
    }

    /// Redis cannot be asked now.
    fn away(&mut self) {
        self.health_board.set(self.part, false);
        self.moving.put_back(&mut self.waiting);
        // The others keep their order.
        for (number, job) in std::mem::take(&mut self.waiting) {
            if let Some(job) = refused_or_local(job, &self.local) {
                self.waiting.push_back((number, job));
            }
        }
    }

    async fn serve(&mut self, stop: &mut Stop, commands: &mut Commands) -> Result<Stopped, Broken> {
        loop {
            while let Some(job) = self.jobs.try_recv() {
                self.take(job);
            }
            if self.moving.again().is_some_and(|at| at <= Instant::now()) {
                self.moving.put_back(&mut self.waiting);
            }
            if self.is_paused && self.waiting.is_empty() {
                self.ask_again(stop, commands).await?;
                continue;
            }
            if !self.is_paused && self.next_look <= Instant::now() {
                self.load_library(commands).await?;
            }
            let held = self.backlog.ready_at();
            let is_due = held.is_some_and(|at| at <= Instant::now());
            if is_due || !self.waiting.is_empty() || self.presence_index.has_left() {
                self.send(stop, commands).await?;
                continue;
            }
            let is_done = self.backlog.is_empty() && self.moving.is_empty();
            let has_late = held.is_some() || !self.moving.is_empty();
            tokio::select! {
                job = self.jobs.recv(), if !(self.jobs.is_closed() && has_late) => match job {
                    Some(job) => self.take(job),
                    None if is_done => return Ok(Stopped),
                    None => {}
                },
                broken = commands.ended() => return Err(broken),
                () = expiry(held) => {}
                () = expiry(self.moving.again()) => {}
                () = expiry(self.next_expiry) => self.withdraw_expired(),
                () = sleep_until(self.next_look) => {}
                // From here on nothing comes in, and what is in goes out.
                _ = stop.wait_for(|stop| *stop), if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
    }

    /// Sends one pipeline and answers its jobs.
    async fn send(&mut self, stop: &mut Stop, commands: &mut Commands) -> Result<(), Broken> {
        let mut batch = self.next_batch();
        if batch.is_empty() && !self.presence_index.has_left() {
            return Ok(());
        }
        let settings = self.settings.clone();
        presence::gather(&mut batch);
        let (commands_of_batch, calls) = batch_of(&batch, &settings, &mut self.presence_index);
        batch.iter_mut().for_each(|(_, job)| job.set_handed(true));
        let results = match self.attend(commands.query(&commands_of_batch)).await {
            Ok(results) => results,
            Err(broken) => return Err(self.unanswered(batch, broken)),
        };
        let outcomes = outcomes(results, &calls, &mut self.presence_index);
        if let Err(broken) = self.restore_functions(commands, &batch, &outcomes).await {
            return Err(self.unanswered(batch, broken));
        }
        match self.complete_batch(batch, outcomes) {
            BatchOutcome::All => {
                self.is_paused = false;
                self.health_board.set(self.part, true);
                return Ok(());
            }
            BatchOutcome::NotMaster => {
                self.away();
                return Err(Broken::NotMaster("replica".to_owned()));
            }
            BatchOutcome::SlotMoves => {
                self.attend(tokio::time::sleep(MOVE_PAUSE)).await;
                return Ok(());
            }
            BatchOutcome::TryAgain => {
                self.is_paused = true;
                self.away();
            }
        }
        self.pause(stop, commands).await
    }

    /// Where calls failed because the functions are missing, ensures that they are there, so that what failed can be sent
    /// again.
    async fn restore_functions(
        &mut self,
        commands: &mut Commands,
        batch: &[(u64, Job)],
        outcomes: &[WriteOutcome],
    ) -> Result<(), Broken> {
        let is_missing =
            |outcome: &WriteOutcome| outcome.as_ref().is_err_and(|message| is_missing_function(message));
        if !outcomes.iter().any(is_missing) {
            let mut works = batch.iter().map(|(_, job)| &job.work);
            if works.any(|work| needs_functions(work).is_some()) {
                self.missing = Missing::default();
            }
            return Ok(());
        }
        if self.not_loaded.is_none()
            && let Some(found) = self.load_library(commands).await?
        {
            match self.missing.count(found) {
                Retry::AtOnce => {}
                Retry::Later => self.attend(tokio::time::sleep(RETRY_AFTER)).await,
                Retry::Never => {
                    self.set_not_loaded(Some("they do not answer as Drawbridge's do".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Nothing waits that would show whether Redis, which could do nothing just now, can again: asks it.
    async fn ask_again(&mut self, stop: &mut Stop, commands: &mut Commands) -> Result<(), Broken> {
        let ping = Batch::of(redis::cmd("PING"));
        let results = self.attend(commands.query(&ping)).await?;
        let outcomes = outcomes(results, &[Call::Plain], &mut self.presence_index);
        if outcomes.iter().all(|outcome| !outcome.as_ref().is_err_and(|message| is_passing(message))) {
            self.is_paused = false;
            self.health_board.set(self.part, true);
            return Ok(());
        }
        self.pause(stop, commands).await
    }

    /// Gives Redis a while before it is asked again.
    async fn pause(&mut self, stop: &mut Stop, commands: &mut Commands) -> Result<(), Broken> {
        let mut pause = pin!(async {
            tokio::select! {
                () = tokio::time::sleep(RETRY_AFTER) => Ok(()),
                broken = commands.ended() => Err(broken),
            }
        });
        match self.meanwhile(stop, pause.as_mut()).await {
            Ok(end) => end,
            // It is stopped: what waits is tried again all the same, until the time is over.
            Err(Stopped) => pause.await,
        }
    }

    /// The connection broke, and it is not known what became of a batch: it is dropped unanswered, except for entries of the
    /// lifecycle stream, which come twice rather than never.
    fn unanswered(&mut self, batch: Vec<(u64, Job)>, broken: Broken) -> Broken {
        self.presence_index.broken();
        self.backlog.put_back(batch.into_iter().filter(|(_, job)| job.is_lifecycle()).collect());
        broken
    }

    /// As many jobs as the bounds allow, in the order of their coming.
    fn next_batch(&mut self) -> Vec<(u64, Job)> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        self.backlog.begin();
        let now = Instant::now();
        while batch.len() < PIPELINE_COMMANDS && bytes < PIPELINE_BYTES {
            let first = self.waiting.front().map(|(number, _)| *number);
            let Some((number, job)) = self.backlog.next_before(first).or_else(|| self.waiting.pop_front())
            else {
                break;
            };
            if job.expires.is_some_and(|expires| Instant::from_std(expires) <= now) {
                job.answer(Err(PublishFailure::NotDone));
                continue;
            }
            // Those of the backlog keep no order with others.
            let kept = match self.moving.is_empty() || job.is_lifecycle() {
                true => Some((number, job)),
                false => self.moving.keep_behind(self.order_of(&job), number, job),
            };
            let Some((number, job)) = kept else { continue };
            bytes += job.bytes;
            batch.push((number, job));
        }
        batch
    }

    /// Ensures that Redis has the functions and this node's entry. Where it does not let us, what needs them is refused.
    /// Returns what was done; `None`: they cannot be used, or Redis could not say so just now.
    async fn load_library(&mut self, commands: &mut Commands) -> Result<Option<Loaded>, Broken> {
        let (settings, begins, may_replace) = (self.settings.clone(), self.begins, self.replaced.may_again());
        let load = commands.load(&settings.library, begins, may_replace);
        let (done, usable) = self.attend(load).await?;
        self.next_look = Instant::now() + LOOK_EVERY;
        if done == Loaded::Replaced {
            self.replaced.again();
            self.link_metrics.count_functions_replaced();
            tracing::warn!("the Redis functions were not Drawbridge's, or changed, and are replaced");
        }
        match usable {
            Ok(()) => {
                self.begins = false;
                self.set_not_loaded(None);
                Ok(Some(done))
            }
            Err(message) if is_passing(&message) => {
                self.next_look = Instant::now() + LOOK_AGAIN;
                Ok(None)
            }
            Err(message) => {
                self.set_not_loaded(Some(message));
                Ok(None)
            }
        }
    }

    fn set_not_loaded(&mut self, refused: Option<String>) {
        let is_needed = self.settings.library.is_needed;
        let text = |reason| {
            format!("the Redis functions (FUNCTION and FCALL, since Redis 7.0) cannot be used: {reason}")
        };
        match refused.as_deref().map(without_arguments).map(text) {
            Some(text) if self.not_loaded != refused && is_needed => {
                tracing::error!(
                    "{text}; what is published on entity channels and on channels with history is refused"
                );
            }
            Some(text) if self.not_loaded != refused => {
                tracing::warn!("{text}; services cannot set players' views");
            }
            None if self.not_loaded.is_some() => tracing::info!("the Redis functions can be used again"),
            _ => {}
        }
        if is_needed {
            self.health_board.set_functions(refused.as_deref().map(public_part).map(text).map(Into::into));
        }
        self.not_loaded = refused;
    }

    /// What keeps its order with others of the same: in a Cluster the writes of one slot, else all.
    fn order_of(&self, job: &Job) -> Option<u16> {
        self.connector.cluster()?;
        Some(slot_of_write(&self.settings.names, &job.work))
    }
}

/// Redis is away, or a part of it: what may not wait is answered. The rest is returned.
pub(super) fn refused_or_local(job: Job, local: &LocalDelivery) -> Option<Job> {
    match (job.when_down, &job.work) {
        // Shards have all that the store lacks of presence, and write it again a little later.
        (WhenDown::Reject, _) | (_, WriteKind::Presence { .. }) => job.answer(Err(PublishFailure::NotDone)),
        (WhenDown::Local, _) => local.deliver(job),
        (WhenDown::Queue | WhenDown::QueueFor(_), _) => return Some(job),
    }
    None
}

/// Waits until then; for ever, where there is no such time.
pub(super) async fn expiry(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
