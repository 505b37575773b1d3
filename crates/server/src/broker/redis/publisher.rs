//! The command connection: publishes and appends, in order, one pipeline at a time, through redis-rs. What Redis
//! has taken is acknowledged, what it refused is refused, and what was in flight when the connection broke is
//! `Unknown` and never sent again. What was not sent waits, or is refused where its class says so.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_engine::io::{PublishFailure, WhenDown};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connect::{Attempts, Broken, CONNECT_TIMEOUT, open};
use super::{RedisSettings, is_passing};
use crate::broker::DRAIN_TIMEOUT;
use crate::broker::board::Board;
use crate::broker::jobs::{Job, JobReceiver, Work};
use crate::broker::meter::Meter;

/// The bounds of one pipeline.
const PIPELINE_COMMANDS: usize = 512;
const PIPELINE_BYTES: usize = 1024 * 1024;
/// How long Redis may take to answer a pipeline.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often Redis is asked for a sign of life, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = ANSWER_TIMEOUT;
/// How long an answer that has come may take to be read.
const GRACE: Duration = Duration::from_millis(100);
/// How long publishes that waited go on waiting for the subscriptions to be restored, and how often this is looked at.
const LINKS_PATIENCE: Duration = Duration::from_secs(2);
const LINKS_POLL: Duration = Duration::from_millis(5);
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
        Publisher { part, jobs, waiting: VecDeque::new(), settings, board, meter }
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
        loop {
            while let Ok(job) = self.jobs.try_recv() {
                self.waiting.push_back(job);
            }
            if !self.waiting.is_empty() {
                self.send(stop, commands).await?;
                continue;
            }
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => self.waiting.push_back(job),
                    None => return Ok(Stopped),
                },
                broken = commands.ended() => return Err(broken),
                // From here on nothing comes in, and what is in goes out.
                _ = stop.wait_for(|stop| *stop), if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
    }

    /// Sends one pipeline and answers its jobs.
    async fn send(&mut self, stop: &mut Stop, commands: &mut Commands) -> Result<(), Broken> {
        let mut batch = self.next_batch();
        let pipeline = pipeline(&batch);
        batch.iter_mut().for_each(|job| job.set_handed(true));
        // Where this fails, the batch is dropped unanswered: nobody knows what became of it.
        let results = commands.query(&pipeline).await?;
        if self.settle(batch, results) {
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

    /// Answers what was answered. What Redis cannot do just now goes back to the front of the queue, unless
    /// something behind it was done, which it may not follow. Says whether all was answered.
    fn settle(&mut self, batch: Vec<Job>, results: Vec<RedisResult<Value>>) -> bool {
        let passing = |result: &RedisResult<Value>| result.as_ref().is_err_and(|e| is_passing(&words(e)));
        let redo_from = results.iter().rposition(|result| !passing(result)).map_or(0, |last| last + 1);
        let mut redo = Vec::new();
        for (at, (mut job, result)) in batch.into_iter().zip(results).enumerate() {
            match result {
                Ok(_) => job.answer(Ok(())),
                Err(error) if !is_passing(&words(&error)) => {
                    let words = words(&error);
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

fn pipeline(batch: &[Job]) -> redis::Pipeline {
    let mut pipeline = redis::Pipeline::with_capacity(batch.len());
    pipeline.ignore_errors();
    for job in batch {
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
        }
    }
    pipeline
}

/// What Redis said.
fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// One command connection.
struct Commands {
    connection: MultiplexedConnection,
    /// Moves the bytes; ends when the connection does.
    driver: JoinHandle<()>,
    /// Ends when Redis is silent.
    probe: JoinHandle<()>,
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.driver.abort();
        self.probe.abort();
    }
}

impl Commands {
    async fn open(settings: Arc<RedisSettings>) -> Result<Commands, Broken> {
        timeout(CONNECT_TIMEOUT, Commands::open_unbounded(&settings)).await.unwrap_or(Err(Broken::Silent))
    }

    async fn open_unbounded(settings: &RedisSettings) -> Result<Commands, Broken> {
        let stream = open(settings).await?;
        let mut who = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(i64::from(settings.db))
            .set_skip_set_lib_name();
        if let Some(password) = &settings.password {
            who = who
                .set_username(settings.username.as_deref().unwrap_or("default"))
                .set_password(password.expose());
        }
        // Time is kept here, for whole pipelines.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&who, stream, config).await.map_err(refused)?;
        let probe = tokio::spawn(probe(connection.clone()));
        let mut commands = Commands { connection, driver: tokio::spawn(driver), probe };
        if !settings.client_name.is_empty() {
            let mut set_name = redis::cmd("CLIENT");
            set_name.arg("SETNAME").arg(&settings.client_name);
            // Only a help for people; the user may lack the right.
            let _ = commands.connection.send_packed_command(&set_name).await;
        }
        commands.ready().await?;
        Ok(commands)
    }

    /// Whether Redis takes commands, or is loading, say.
    async fn ready(&mut self) -> Result<(), Broken> {
        match redis::cmd("PING").query_async::<Value>(&mut self.connection).await {
            Err(error) if error.code().is_none() || is_passing(&words(&error)) => Err(refused(error)),
            _ => Ok(()),
        }
    }

    /// The result of each command, or why nobody knows.
    async fn query(&mut self, pipeline: &redis::Pipeline) -> Result<Vec<RedisResult<Value>>, Broken> {
        let Commands { connection, driver, probe } = self;
        tokio::select! {
            biased;
            results = answer_within(ANSWER_TIMEOUT, pipeline.query_async(connection)) => match results {
                Some(results) => results.map_err(refused),
                None => Err(Broken::Silent),
            },
            broken = ended(driver, probe) => Err(broken),
        }
    }

    /// Waits for the end of the connection.
    async fn ended(&mut self) -> Broken {
        ended(&mut self.driver, &mut self.probe).await
    }
}

/// As a timeout, but when this process itself was stopped for a while, so that time is up and the answer is there
/// unread, the answer counts.
async fn answer_within<F: Future>(time: Duration, answer: F) -> Option<F::Output> {
    let mut answer = pin!(answer);
    match timeout(time, answer.as_mut()).await {
        Ok(answer) => Some(answer),
        Err(_) => timeout(GRACE, answer).await.ok(),
    }
}

async fn ended(driver: &mut JoinHandle<()>, probe: &mut JoinHandle<()>) -> Broken {
    tokio::select! {
        _ = driver => {
            Broken::Io(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "Redis closed the connection"))
        }
        _ = probe => Broken::Silent,
    }
}

/// Ends when Redis does not answer. Does not hold up what is published meanwhile.
async fn probe(mut connection: MultiplexedConnection) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let ping = redis::cmd("PING");
        if answer_within(PING_TIMEOUT, connection.send_packed_command(&ping)).await.is_none() {
            return;
        }
    }
}

fn refused(error: RedisError) -> Broken {
    Broken::refused(&words(&error))
}
