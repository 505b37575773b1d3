//! The command connection: publishes and appends, in order, one pipeline at a time, through redis-rs. What Redis
//! has taken is acknowledged, what it refused is refused, and what was in flight when the connection broke is
//! `Unknown` and never sent again. What was not sent waits, or is refused where its class says so.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_engine::io::{PublishFailure, WhenDown};
use redis::{RedisResult, Value};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::commands::{Commands, text, words};
use super::connect::{Attempts, Broken};
use super::{RedisSettings, code_of, is_passing};
use crate::broker::DRAIN_TIMEOUT;
use crate::broker::board::Board;
use crate::broker::jobs::{Job, JobReceiver, Work, open_object};
use crate::broker::meter::Meter;

/// The bounds of one pipeline.
const PIPELINE_COMMANDS: usize = 512;
const PIPELINE_BYTES: usize = 1024 * 1024;
/// How long publishes that waited go on waiting for the subscriptions to be restored, and how often this is looked at.
const LINKS_PATIENCE: Duration = Duration::from_secs(2);
const LINKS_POLL: Duration = Duration::from_millis(5);
/// How often it is looked whether Redis still has the functions: a service that calls them cannot load them again.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long to wait when Redis says that it cannot just now.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The publisher.
pub(super) struct Publisher {
    /// Its place on the board.
    part: usize,
    jobs: JobReceiver,
    /// Taken from `jobs`, not yet sent.
    waiting: VecDeque<Job>,
    settings: Arc<RedisSettings>,
    board: Arc<Board>,
    meter: Arc<Meter>,
    /// The functions have been looked after once.
    began: bool,
    /// Why Redis does not let us load them, if it does not.
    not_loaded: Option<String>,
}

/// Nothing more is to be done.
struct Stopped;

type Stop = watch::Receiver<bool>;

impl Publisher {
    pub(super) fn new(
        part: usize,
        jobs: JobReceiver,
        settings: Arc<RedisSettings>,
        board: Arc<Board>,
        meter: Arc<Meter>,
    ) -> Self {
        Publisher {
            part,
            jobs,
            waiting: VecDeque::new(),
            settings,
            board,
            meter,
            began: false,
            not_loaded: None,
        }
    }

    /// Runs until it is told to stop, or nobody is left to publish. What is queued then gets [`DRAIN_TIMEOUT`] if
    /// Redis is there.
    pub(super) async fn run(self, mut stop: Stop) {
        let work = self.work(stop.clone());
        let overtime = async move {
            // A stop that nobody can give any more is one.
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            () = work => {}
            () = overtime => {}
        }
    }

    async fn work(mut self, mut stop: Stop) {
        let mut attempts = Attempts::new("publisher".into(), &self.settings);
        loop {
            let commands = Commands::open(self.settings.clone());
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
            let wait = attempts.failed(&broken);
            let board = self.board.clone();
            if self.meanwhile(&mut stop, board.wait_for_another(wait)).await.is_err() {
                return;
            }
        }
    }

    /// Waits while Redis cannot be asked: what may wait is queued, the rest is refused.
    async fn meanwhile<F: Future>(&mut self, stop: &mut Stop, waited_for: F) -> Result<F::Output, Stopped> {
        let mut waited_for = pin!(waited_for);
        loop {
            tokio::select! {
                output = &mut waited_for => return Ok(output),
                job = self.jobs.recv() => match job.ok_or(Stopped)? {
                    job if job.when_down == WhenDown::Reject => job.answer(Err(PublishFailure::NotDone)),
                    job => self.waiting.push_back(job),
                },
                _ = stop.wait_for(|stop| *stop) => return Err(Stopped),
            }
        }
    }

    /// The life of one connection.
    async fn live(&mut self, stop: &mut Stop, mut commands: Commands) -> Result<Stopped, Broken> {
        self.load_library(&mut commands).await?;
        self.board.set(self.part, true);
        if !self.waiting.is_empty() && self.wait_for_links(stop).await.is_err() {
            return Ok(Stopped);
        }
        let end = self.serve(stop, &mut commands).await;
        self.away();
        self.meter.reconnected();
        end
    }

    /// What waited for Redis goes out when the subscriptions are back too, so that this node's own players hear it.
    async fn wait_for_links(&mut self, stop: &mut Stop) -> Result<(), Stopped> {
        let (board, part) = (self.board.clone(), self.part);
        let restored = async move {
            while !board.others_are_up(part) {
                tokio::time::sleep(LINKS_POLL).await;
            }
        };
        self.meanwhile(stop, timeout(LINKS_PATIENCE, restored)).await.map(|_| ())
    }

    /// Redis cannot be asked now.
    fn away(&mut self) {
        self.board.set(self.part, false);
        // Who may not wait is told, dropped unanswered; the others keep their order.
        self.waiting.retain(|job| job.when_down == WhenDown::Queue);
    }

    async fn serve(&mut self, stop: &mut Stop, commands: &mut Commands) -> Result<Stopped, Broken> {
        let mut look = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Ok(job) = self.jobs.try_recv() {
                self.waiting.push_back(job);
            }
            if !self.waiting.is_empty() {
                self.send(stop, commands).await?;
                continue;
            }
            let is_to_look = tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => {
                        self.waiting.push_back(job);
                        false
                    }
                    None => return Ok(Stopped),
                },
                broken = commands.ended() => return Err(broken),
                _ = look.tick() => self.settings.library.is_needed,
                // From here on nothing comes in, and what is in goes out.
                _ = stop.wait_for(|stop| *stop), if !self.jobs.is_closed() => {
                    self.jobs.close();
                    false
                }
            };
            if is_to_look {
                self.look_after_library(commands).await?;
            }
        }
    }

    /// Sends one pipeline and answers its jobs.
    async fn send(&mut self, stop: &mut Stop, commands: &mut Commands) -> Result<(), Broken> {
        let mut batch = self.next_batch();
        let (pipeline, counts) = pipeline(&batch, &self.settings);
        batch.iter_mut().for_each(|job| job.set_handed(true));
        // Where this fails, the batch is dropped unanswered: nobody knows what became of it.
        let outcomes = outcomes(commands.query(&pipeline).await?, &counts);
        let functions_are_missing =
            outcomes.iter().any(|outcome| outcome.as_ref().is_err_and(|words| is_missing_function(words)));
        if functions_are_missing && self.not_loaded.is_none() {
            self.load_library(commands).await?;
        }
        if self.settle(batch, outcomes) {
            self.board.set(self.part, true);
            return Ok(());
        }
        self.away();
        let mut pause = pin!(async {
            tokio::select! {
                () = tokio::time::sleep(RETRY_AFTER) => Ok(()),
                broken = commands.ended() => Err(broken),
            }
        });
        match self.meanwhile(stop, pause.as_mut()).await {
            Ok(end) => end,
            // It is told to stop: what waits is tried again all the same, until the time is over.
            Err(Stopped) => pause.await,
        }
    }

    /// At least one job, and as many more as the bounds allow.
    fn next_batch(&mut self) -> Vec<Job> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(job) = self.waiting.front() {
            bytes += job.bytes;
            if !batch.is_empty() && (batch.len() == PIPELINE_COMMANDS || bytes > PIPELINE_BYTES) {
                break;
            }
            batch.extend(self.waiting.pop_front());
        }
        batch
    }

    /// Sees to it that Redis has the functions. Where it does not let us, what needs them is refused.
    async fn load_library(&mut self, commands: &mut Commands) -> Result<(), Broken> {
        let begins = !std::mem::replace(&mut self.began, true);
        let refused = commands.load(&self.settings.library, begins).await?.err();
        if let Some(reason) = &refused
            && self.not_loaded != refused
        {
            if self.settings.library.is_needed {
                tracing::error!(reason, "the Redis functions of entity channels cannot be loaded");
            } else {
                tracing::debug!(reason, "the Redis functions cannot be loaded");
            }
        }
        self.not_loaded = refused;
        Ok(())
    }

    /// Loads the functions where Redis has lost them, though nothing of ours has asked for them since.
    async fn look_after_library(&mut self, commands: &mut Commands) -> Result<(), Broken> {
        if commands.lacks_library().await? { self.load_library(commands).await } else { Ok(()) }
    }

    /// Answers what was answered. What Redis cannot do just now goes back to the front of the queue, unless
    /// something behind it was done, which it may not follow. Says whether all was answered.
    fn settle(&mut self, batch: Vec<Job>, outcomes: Vec<Result<(), String>>) -> bool {
        let will_pass =
            |words: &str| is_passing(words) || (is_missing_function(words) && self.not_loaded.is_none());
        let passing = |outcome: &Result<(), String>| outcome.as_ref().is_err_and(|words| will_pass(words));
        let redo_from = outcomes.iter().rposition(|outcome| !passing(outcome)).map_or(0, |last| last + 1);
        let mut redo = Vec::new();
        for (at, (mut job, outcome)) in batch.into_iter().zip(outcomes).enumerate() {
            match outcome {
                Ok(()) => job.answer(Ok(())),
                Err(words) if code_of(&words) == "LIMIT_EXCEEDED" => {
                    job.answer(Err(PublishFailure::LimitExceeded));
                }
                Err(words) if !will_pass(&words) => {
                    tracing::debug!(subject = job.work.subject(), reason = words, "Redis refused a publish");
                    job.answer(Err(PublishFailure::Refused(words.into())));
                }
                Err(_) if at < redo_from => job.answer(Err(PublishFailure::NotDone)),
                Err(_) => {
                    job.set_handed(false);
                    redo.push(job);
                }
            }
        }
        let all_answered = redo.is_empty();
        for job in redo.into_iter().rev() {
            self.waiting.push_front(job);
        }
        all_answered
    }
}

/// A batch as commands, and how many jobs each of them is for: events of one entity channel that follow one another are
/// written by one call.
fn pipeline(batch: &[Job], settings: &RedisSettings) -> (redis::Pipeline, Vec<usize>) {
    let mut pipeline = redis::Pipeline::with_capacity(batch.len());
    pipeline.ignore_errors();
    let mut counts = Vec::with_capacity(batch.len());
    let mut rest = batch;
    while let Some(job) = rest.first() {
        let alike = rest.iter().take_while(|other| other.work.joins(&job.work)).count();
        let (now, later) = rest.split_at(alike.max(1));
        rest = later;
        counts.push(now.len());
        match &job.work {
            Work::Publish { channel, payload } => {
                pipeline.cmd("PUBLISH").arg(&**channel).arg(&payload[..]);
            }
            Work::Append { stream, fields } => {
                pipeline.cmd("XADD").arg(&**stream).arg("*");
                for (name, value) in fields {
                    pipeline.arg(*name).arg(&value[..]);
                }
            }
            Work::Commit { channel, commit } => {
                pipeline.cmd("FCALL").arg("drawbridge_commit").arg(1).arg(&**channel);
                pipeline.arg(commit.max).arg(commit.ttl_ms);
                for job in now {
                    let Work::Commit { commit, .. } = &job.work else { continue };
                    pipeline.arg(&*commit.key).arg(u8::from(commit.remove));
                    pipeline.arg(open_object(&commit.payload)).arg(&commit.id);
                }
            }
            Work::View { player, channel, view, tell: (nodes, told), unless_kept } => {
                pipeline.cmd("FCALL").arg("drawbridge_view").arg(1).arg(settings.views_key(player));
                pipeline.arg(&**channel).arg(view.as_deref().unwrap_or_default());
                pipeline.arg(&**nodes).arg(&**told).arg(u8::from(*unless_kept));
            }
        }
    }
    (pipeline, counts)
}

/// An outcome for each job: Redis' words where it was not done.
fn outcomes(results: Vec<RedisResult<Value>>, counts: &[usize]) -> Vec<Result<(), String>> {
    let mut outcomes = Vec::new();
    for (result, count) in results.into_iter().zip(counts) {
        match result {
            Ok(Value::Array(answers)) if answers.len() == *count => {
                let refused = |answer: &Value| text(answer).map_or(Ok(()), Err);
                outcomes.extend(answers.iter().map(refused));
            }
            Ok(_) => outcomes.extend((0..*count).map(|_| Ok(()))),
            Err(error) => outcomes.extend((0..*count).map(|_| Err(words(&error)))),
        }
    }
    outcomes
}

/// Whether Redis has lost its functions, so that nothing was done.
fn is_missing_function(words: &str) -> bool {
    words.contains("Function not found")
}
