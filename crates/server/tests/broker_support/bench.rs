//! A broker under test with the queues of its shards, whichever broker it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use drawbridge::broker::{
    Broker, BrokerBackend, BrokerSettings, BrokerStats, CommandChannels, RedisSettings, ShardInbox,
    ThreadPlacement, shard_queue,
};
use drawbridge_engine::class::{Class, Classes, EntityRules, History, Space};
use drawbridge_engine::io::{
    Answer, Answered, BrokerCommand, BrokerEvent, BrokerStatus, Commit, LogEntry, LogPosition, LogReader,
    Owner, Publication, PublishFailure, Query, QueryKind, Subject, Ticket, WhenDown, Write, WriteKind,
};
use drawbridge_engine::upstream::{HubSettings, LogRange, ShardId, StoredLog};
use drawbridge_protocol::event::PayloadMode;
use drawbridge_testkit::classes::{open, path, space};
use drawbridge_testkit::settings::{hub_settings, settings};

use tokio::sync::oneshot;

use super::server::{Flavour, Server};

/// No wait lasts longer; nothing is expected to take so long.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What an entity channel holds, and for how long.
pub const ENTITY_MAX: usize = 20;
/// What the entities of one channel take at most.
pub const ENTITY_BYTES: usize = 16 << 20;
pub const ENTITY_TTL_MS: u64 = 2_000;
/// What the logs of `logged:…` keep: so many events, for longer than any test takes. Those of `brief:…` keep any for a moment.
pub const HISTORY: History = History { events: 20, age_ms: 600_000 };
pub const BRIEF_HISTORY: History = History { events: 100_000, age_ms: 400 };
pub const EXTERNAL_BYTES: usize = 64 * 1024;
/// How long entities live that no test outlives.
const LONG_TTL_MS: u64 = 600_000;
pub const LINGER_MS: u64 = 50;
pub const RESUME_WINDOW: Duration = Duration::from_secs(60);

/// Names one start of a node.
pub fn instance() -> Arc<str> {
    static STARTS: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", STARTS.fetch_add(1, Ordering::Relaxed)).into()
}

/// What a bench is made with.
pub struct Options {
    pub shards: usize,
    pub pool: usize,
    pub shard_bytes: usize,
    pub queue_bytes: usize,
    /// The links move to another thread and back, without a rest.
    pub restless: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { shards: 2, pool: 2, shard_bytes: 64 << 20, queue_bytes: 1 << 20, restless: false }
    }
}

/// A broker, its shards, and the Redis behind it where there is one.
pub struct Bench {
    pub broker: Broker,
    pub server: Option<Server>,
    inboxes: Vec<ShardInbox>,
    node: ShardInbox,
    /// The statuses that each shard heard, in order.
    pub statuses: Vec<Vec<BrokerStatus>>,
    runtime: tokio::runtime::Runtime,
    /// The links' other thread, until this is dropped.
    _other_thread: Option<oneshot::Sender<()>>,
    tickets: AtomicU64,
    /// How often the shards were notified that what they had stored is lost.
    pub store_lost: usize,
}

impl Bench {
    /// On the memory broker, or on its own Redis; connected.
    pub fn new(flavour: Option<Flavour>) -> Bench {
        Bench::with(flavour, Options::default())
    }

    /// Whatever a flavour shows of a Redis over plain TCP it shows of links that do not rest; what needs no Redis is
    /// shown of links that do.
    pub fn with(flavour: Option<Flavour>, mut options: Options) -> Bench {
        options.restless |= !matches!(flavour, None | Some(Flavour::Tcp));
        let server = flavour.map(Server::start);
        let redis = server.as_ref().map(|server| server.settings(options.pool));
        let mut bench = Bench::on(server, redis, options);
        bench.wait_for(BrokerStatus::Ok);
        bench
    }

    /// On a server that may be away; does not wait for it.
    pub fn on(server: Option<Server>, redis: Option<RedisSettings>, options: Options) -> Bench {
        let (queues, inboxes): (Vec<_>, Vec<_>) =
            (0..options.shards).map(|_| shard_queue(options.shard_bytes)).unzip();
        let (node_queue, node) = shard_queue(options.shard_bytes);
        let (placement, other_thread) = options.restless.then(restless_placement).unzip();
        let settings = BrokerSettings {
            kind: redis.map_or(BrokerBackend::Memory, |redis| BrokerBackend::Redis(redis.into())),
            hub: HubSettings {
                external_bytes: EXTERNAL_BYTES,
                linger_ms: LINGER_MS,
                classes: server.as_ref().map_or_else(classes, Server::classes),
                ..hub_settings(&settings(Vec::new()), 0, 1)
            },
            queue_bytes: options.queue_bytes,
            commands: CommandChannels::new("drawbridge:", 0, true),
            placement,
        };
        Bench {
            broker: Broker::start(settings, queues, node_queue).unwrap(),
            server,
            statuses: vec![Vec::new(); inboxes.len()],
            inboxes,
            node,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            _other_thread: other_thread,
            tickets: AtomicU64::new(1),
            store_lost: 0,
        }
    }

    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a Redis")
    }

    pub fn want(&self, shard: u8, subject: &Subject) {
        self.broker.command(ShardId(shard), BrokerCommand::Want(subject.clone()));
    }

    pub fn unwant(&self, shard: u8, subject: &Subject) {
        self.broker.command(ShardId(shard), BrokerCommand::Unwant(subject.clone()));
    }

    /// Wants it and waits for the first confirmation.
    pub fn subscribe(&mut self, shard: u8, subject: &Subject) {
        self.want(shard, subject);
        match self.next(shard) {
            BrokerEvent::Confirmed { subject: confirmed, after_break: false, .. }
                if confirmed == *subject => {}
            other => panic!("expected the confirmation of {subject:?}, got {other:?}"),
        }
    }

    /// Writes and publishes an event of an entity channel, and waits for the answer.
    pub fn commit(&mut self, shard: u8, channel: &str, key: &str, n: usize) -> Result<(), PublishFailure> {
        let ticket = self.commit_later(shard, channel, key, Some(n));
        self.done(shard, ticket)
    }

    /// As [`Bench::commit`], without waiting; without a number the entity ends.
    pub fn commit_later(&mut self, shard: u8, channel: &str, key: &str, n: Option<usize>) -> Ticket {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let event = if n.is_some() { "e" } else { "remove" };
        let payload =
            format!(r#"{{"event":"{event}","data":{{"id":"{key}","n":{}}},"key":"{key}"}}"#, n.unwrap_or(0));
        let commit = Commit {
            key: key.into(),
            remove: n.is_none(),
            payload: payload.into(),
            id: format!("db1.0000000000000001.{}", ticket.0),
            max: ENTITY_MAX,
            max_bytes: ENTITY_BYTES,
            ttl_ms: if channel.starts_with("own:") { LONG_TTL_MS } else { ENTITY_TTL_MS },
        };
        let kind = WriteKind::Commit { channel: channel.into(), commit };
        self.write(ShardId(shard), ticket, Owner::Services, WhenDown::Queue, kind);
        ticket
    }

    /// Appends an event to the log of a channel of the class `logged:…`; returns the ticket.
    pub fn log_later(&self, shard: u8, channel: &str, data: &str, once: Option<&str>) -> Ticket {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let history = if channel.starts_with("brief:") { BRIEF_HISTORY } else { HISTORY };
        let entry = LogEntry {
            payload: format!(r#"{{"event":"e","data":{data}}}"#).into(),
            id: format!("db1.0000000000000001.{}", ticket.0),
            max_events: history.events,
            age_ms: history.age_ms,
            once: once.map(Into::into),
        };
        let kind = WriteKind::Log { channel: channel.into(), entry };
        self.write(ShardId(shard), ticket, Owner::Services, WhenDown::Queue, kind);
        ticket
    }

    /// The answer to an append, which is the next event.
    pub fn logged(&mut self, shard: u8, ticket: Ticket) -> Result<LogPosition, PublishFailure> {
        match self.next(shard) {
            BrokerEvent::Outcome { ticket: answered, outcome } if answered == ticket => {
                outcome.map(|position| position.expect("a position"))
            }
            other => panic!("expected the answer to {ticket:?}, got {other:?}"),
        }
    }

    /// Appends an event and waits for its position.
    pub fn log(&mut self, channel: &str, data: &str) -> LogPosition {
        let ticket = self.log_later(0, channel, data, None);
        self.logged(0, ticket).expect("it is taken")
    }

    /// These parts of logs, requested all at once.
    pub fn read_logs(
        &mut self,
        parts: impl Iterator<Item = (String, LogRange, usize)>,
        reader: LogReader,
    ) -> Vec<Result<StoredLog, String>> {
        let ask = |(channel, range, limit): (String, LogRange, usize)| {
            let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
            let kind = QueryKind::Log { channel: channel.into(), range, limit, reader };
            self.broker.command(ShardId(0), BrokerCommand::Query(Query::new(ticket, kind)));
            ticket
        };
        let tickets: Vec<Ticket> = parts.map(ask).collect();
        let mut answers: Vec<_> = tickets.iter().map(|_| None).collect();
        for _ in &tickets {
            let BrokerEvent::Answer { ticket, answer } = self.next(0) else { panic!("expected a log") };
            let at = tickets.iter().position(|asked| *asked == ticket).expect("it was asked");
            answers[at] = Some(match answer {
                Ok(Answer::Log(log)) => Ok(log),
                Ok(other) => panic!("expected a log, got {other:?}"),
                Err(message) => Err(message.to_string()),
            });
        }
        answers.into_iter().map(|answer| answer.expect("an answer")).collect()
    }

    /// A part of a log, as hubs read it.
    pub fn read_log(&mut self, channel: &str, range: LogRange, limit: usize) -> StoredLog {
        self.read_log_as(channel, range, limit, LogReader::Hub)
    }

    /// A part of a log.
    pub fn read_log_as(
        &mut self,
        channel: &str,
        range: LogRange,
        limit: usize,
        reader: LogReader,
    ) -> StoredLog {
        let mut read = self.read_logs([(channel.to_owned(), range, limit)].into_iter(), reader);
        read.remove(0).expect("a log")
    }

    /// The answer to a query, which is the next event.
    pub fn query(&mut self, kind: QueryKind) -> Answered {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        self.broker.command(ShardId(0), BrokerCommand::Query(Query::new(ticket, kind)));
        match self.next(0) {
            BrokerEvent::Answer { ticket: answered, answer } if answered == ticket => answer,
            other => panic!("expected the answer to {ticket:?}, got {other:?}"),
        }
    }

    /// Keeps a view and waits for the answer.
    pub fn set_view(
        &mut self,
        player: &str,
        channel: &str,
        view: Option<&str>,
    ) -> Result<(), PublishFailure> {
        self.set_view_from(0, player, channel, view)
    }

    /// As [`Bench::set_view`], of another shard.
    pub fn set_view_from(
        &mut self,
        shard: u8,
        player: &str,
        channel: &str,
        view: Option<&str>,
    ) -> Result<(), PublishFailure> {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let kind = WriteKind::SetOverride {
            player: player.into(),
            channel: channel.into(),
            view: view.map(Into::into),
            announcement: ("room:told".into(), "told".into()),
            if_absent: false,
        };
        self.write(ShardId(shard), ticket, Owner::Services, WhenDown::Reject, kind);
        self.done(shard, ticket)
    }

    fn write(&self, shard: ShardId, ticket: Ticket, owner: Owner, when_down: WhenDown, kind: WriteKind) {
        let write = Write { ticket: Some(ticket), owner, when_down, kind };
        self.broker.command(shard, BrokerCommand::Write(write));
    }

    /// Writes this, which may wait while Redis is away, and does not wait for it.
    pub fn write_later(&self, owner: Owner, kind: WriteKind) -> Ticket {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        self.write(ShardId(0), ticket, owner, WhenDown::Queue, kind);
        ticket
    }

    /// Writes this and waits for what becomes of it.
    pub fn write_and_wait(&mut self, kind: WriteKind) -> Result<(), PublishFailure> {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        self.write(ShardId(0), ticket, Owner::Services, WhenDown::Queue, kind);
        self.done(0, ticket)
    }

    /// Writes all of this and waits until it is done.
    pub fn write_all(&mut self, kinds: impl IntoIterator<Item = WriteKind>) {
        let write = |kind| {
            let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
            self.write(ShardId(0), ticket, Owner::Services, WhenDown::Queue, kind);
            ticket
        };
        let tickets: Vec<_> = kinds.into_iter().map(write).collect();
        tickets.into_iter().for_each(|ticket| assert_eq!(self.done(0, ticket), Ok(())));
    }

    /// Asks this, without waiting for the answer.
    pub fn ask(&mut self, kind: QueryKind) -> Ticket {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        self.broker.command(ShardId(0), BrokerCommand::Query(Query::new(ticket, kind)));
        ticket
    }

    /// Nobody waits for the answer any more.
    pub fn withdraw(&mut self, ticket: Ticket) {
        self.broker.command(ShardId(0), BrokerCommand::Withdraw(ticket));
    }

    /// The answer to this question, which is the next event that is no player command.
    pub fn answer(&mut self, ticket: Ticket) -> Answered {
        loop {
            match self.next(0) {
                BrokerEvent::Answer { ticket: answered, answer } if answered == ticket => return answer,
                BrokerEvent::Command(_) => {}
                other => panic!("expected the answer to {ticket:?}, got {other:?}"),
            }
        }
    }

    /// A player's views.
    pub fn views(&mut self, player: &str) -> Vec<(String, String)> {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let query = Query::new(ticket, QueryKind::ViewOverrides { player: player.into() });
        self.broker.command(ShardId(0), BrokerCommand::Query(query));
        match self.next(0) {
            BrokerEvent::Answer { ticket: answered, answer: Ok(Answer::ViewOverrides(views)) }
                if answered == ticket =>
            {
                let mut views: Vec<_> =
                    views.iter().map(|(channel, view)| (channel.to_string(), view.to_string())).collect();
                views.sort();
                views
            }
            other => panic!("expected views, got {other:?}"),
        }
    }

    /// The views of these players, which are requested all at once, or the error that Redis returned.
    #[allow(dead_code, reason = "not every test that has this bench uses it")]
    pub fn views_of(
        &mut self,
        players: impl Iterator<Item = String>,
    ) -> Vec<Result<Vec<(String, String)>, String>> {
        let ask = |player: String| {
            let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
            let query = Query::new(ticket, QueryKind::ViewOverrides { player: player.into() });
            self.broker.command(ShardId(0), BrokerCommand::Query(query));
            ticket
        };
        let tickets: Vec<Ticket> = players.map(ask).collect();
        let mut answers: Vec<_> = tickets.iter().map(|_| Ok(Vec::new())).collect();
        for _ in &tickets {
            let BrokerEvent::Answer { ticket, answer } = self.next(0) else { panic!("expected views") };
            let views = answer.map(|answer| match answer {
                Answer::ViewOverrides(views) => views,
                other => panic!("expected views, got {other:?}"),
            });
            let at = tickets.iter().position(|asked| *asked == ticket).expect("it was asked");
            answers[at] = views.map_err(|words| words.to_string()).map(|views| {
                let mut views: Vec<_> =
                    views.iter().map(|(channel, view)| (channel.to_string(), view.to_string())).collect();
                views.sort();
                views
            });
        }
        answers
    }

    /// The table of an entity channel, behind the confirmation or where it is sent again: key and number of each, by key.
    pub fn table(&mut self, shard: u8) -> Vec<(String, String)> {
        let BrokerEvent::Table { entities, .. } = self.next(shard) else { panic!("expected a table") };
        let mut table: Vec<_> = entities.iter().map(|entity| state(entity)).collect();
        table.sort();
        table
    }

    /// The next event of a shard that is neither a status nor the answer to an unwant.
    pub fn next(&mut self, shard: u8) -> BrokerEvent {
        loop {
            match self.next_of_any_kind(shard) {
                BrokerEvent::Status(status) => self.statuses[usize::from(shard)].push(status),
                BrokerEvent::Released(_) => {}
                event => return event,
            }
        }
    }

    fn next_of_any_kind(&mut self, shard: u8) -> BrokerEvent {
        loop {
            let inbox = &mut self.inboxes[usize::from(shard)];
            let waited = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, inbox.recv()).await });
            match waited.expect("an event in time").expect("the broker lives") {
                BrokerEvent::StoreLost => self.store_lost += 1,
                event if self.is_of_a_master_link(&event) => {}
                BrokerEvent::Status(status) => {
                    if let Some(status) = self.news(shard, status) {
                        return BrokerEvent::Status(status);
                    }
                }
                event => return event,
            }
        }
    }

    /// What players are notified of when this status comes: one master of a Cluster that is away is as all of them.
    fn news(&self, shard: u8, status: BrokerStatus) -> Option<BrokerStatus> {
        let status = if status == BrokerStatus::Partial { BrokerStatus::Degraded } else { status };
        (self.statuses[usize::from(shard)].last() != Some(&status)).then_some(status)
    }

    /// A link of a master receives player commands from now on, whoever wants them.
    fn is_of_a_master_link(&self, event: &BrokerEvent) -> bool {
        self.server.as_ref().is_some_and(Server::has_master_links)
            && matches!(event, BrokerEvent::Recover { dropped: false, barrier: None })
    }

    /// Waits until a shard is notified that what it had stored is lost, whatever comes before.
    pub fn wait_for_store_lost(&mut self, shard: u8) {
        let inbox = &mut self.inboxes[usize::from(shard)];
        let lost = async { while !matches!(inbox.recv().await, Some(BrokerEvent::StoreLost)) {} };
        let waited = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, lost).await });
        waited.expect("the notice in time");
    }

    /// The next event, a publication.
    pub fn publication(&mut self, shard: u8) -> Arc<Publication> {
        match self.next(shard) {
            BrokerEvent::Publication(publication) => publication,
            other => panic!("expected a publication, got {other:?}"),
        }
    }

    /// The next event, a gap that ends here.
    pub fn gap(&mut self, shard: u8, channel: &str, offset: u64) {
        match self.next(shard) {
            BrokerEvent::Gap { channel: of, position, .. } if *of == *channel => {
                assert_eq!(position.offset.0, offset)
            }
            other => panic!("expected a gap, got {other:?}"),
        }
    }

    /// Whatever waits for a shard now.
    pub fn waiting(&mut self, shard: u8) -> Vec<BrokerEvent> {
        let mut waiting: Vec<_> =
            std::iter::from_fn(|| self.inboxes[usize::from(shard)].try_recv()).collect();
        waiting.retain(|event| !self.is_of_a_master_link(event));
        waiting
    }

    /// Waits until the first shard hears this status, from where it is.
    pub fn wait_for(&mut self, status: BrokerStatus) {
        loop {
            match self.next_of_any_kind(0) {
                BrokerEvent::Status(heard) => {
                    self.statuses[0].push(heard);
                    if heard == status {
                        return;
                    }
                }
                other => panic!("expected status {status:?}, got {other:?}"),
            }
        }
    }

    /// As [`Bench::wait_for`], with whatever comes before it.
    pub fn until_status(&mut self, status: BrokerStatus) -> Vec<BrokerEvent> {
        let mut before = Vec::new();
        loop {
            match self.next_of_any_kind(0) {
                BrokerEvent::Status(heard) => {
                    self.statuses[0].push(heard);
                    if heard == status {
                        return before;
                    }
                }
                other => before.push(other),
            }
        }
    }

    /// Publishes through the broker; returns the ticket.
    pub fn publish(
        &self,
        shard: u8,
        channel: &str,
        payload: impl Into<Bytes>,
        when_down: WhenDown,
    ) -> Ticket {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let (channel, payload) = (channel.into(), payload.into());
        // Each its own player's: the bound of the whole queue is what counts here.
        let player = format!("p{}", ticket.0).into();
        let kind = WriteKind::Publish { channel, payload };
        self.write(ShardId(shard), ticket, Owner::Player(player), when_down, kind);
        ticket
    }

    /// Appends through the broker; returns the ticket.
    pub fn append(&self, shard: u8, stream: &str, fields: &[(&'static str, &'static str)]) -> Ticket {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let fields =
            fields.iter().map(|(name, value)| (*name, Bytes::from_static(value.as_bytes()))).collect();
        let kind = WriteKind::Append { stream: stream.into(), fields };
        self.write(ShardId(shard), ticket, Owner::Services, WhenDown::Queue, kind);
        ticket
    }

    /// The answer to a publish, which is the next event.
    pub fn done(&mut self, shard: u8, ticket: Ticket) -> Result<(), PublishFailure> {
        match self.next(shard) {
            BrokerEvent::Outcome { ticket: answered, outcome } if answered == ticket => outcome.map(|_| ()),
            other => panic!("expected the answer to {ticket:?}, got {other:?}"),
        }
    }

    /// Publishes as another service does, straight into Redis, and waits until it is done. The memory broker has no
    /// outside: there the node itself publishes.
    pub fn publish_from_outside(&mut self, channel: &str, payload: impl Into<Bytes>) {
        let payload = payload.into();
        if let Some(server) = &self.server {
            let command = server.publish_command(channel).as_bytes();
            let reply = server.call(&[command, server.named(channel).as_bytes(), &payload]);
            assert!(matches!(reply, super::server::Reply::Int(_)), "{reply:?}");
            return;
        }
        let (ticket, channel, when_down) = (Ticket(0), channel.into(), WhenDown::Queue);
        let kind = WriteKind::Publish { channel, payload };
        self.write(ShardId::NODE, ticket, Owner::Services, when_down, kind);
        let node = &mut self.node;
        self.runtime.block_on(async {
            let done = async { while !matches!(node.recv().await, Some(BrokerEvent::Outcome { .. })) {} };
            tokio::time::timeout(PATIENCE, done).await.expect("an answer in time");
        });
    }

    /// Waits until every connection to Redis is lost; there are `pool` links and the publisher.
    pub fn wait_until_cut_off(&self, connections: u64) {
        self.wait_until("cut off", |stats| stats.reconnects >= connections);
    }

    /// Waits until the stats say so.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&BrokerStats) -> bool) {
        let give_up = std::time::Instant::now() + PATIENCE;
        while !holds(&self.broker.stats()) {
            assert!(std::time::Instant::now() < give_up, "{what}: {:?}", self.broker.stats());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn shut_down(&self) {
        self.runtime.block_on(self.broker.shutdown());
    }
}

/// An entity's key, and what its data says of `n`.
pub fn state(entity: &Publication) -> (String, String) {
    let data: serde_json::Value = serde_json::from_str(entity.event.data_json()).unwrap();
    (entity.event.key().unwrap_or_default().to_owned(), data["n"].to_string())
}

/// The classes of every scenario.
pub fn classes() -> Arc<Classes> {
    let world = Class {
        key: Some(path("data.id")),
        entity: Some(EntityRules {
            max: ENTITY_MAX,
            max_bytes: ENTITY_BYTES,
            ttl_ms: ENTITY_TTL_MS,
            space: None,
        }),
        ..open("world:{world}")
    };
    let space = Space { hysteresis: 0.0, max_radius: None, ..space() };
    // Room for whatever is published there, read in each of the ways.
    let roomy = |space| Some(EntityRules { max: 1_000_000, max_bytes: 1 << 30, ttl_ms: LONG_TTL_MS, space });
    let by_id = || Some(path("data.id"));
    let map = Class { key: by_id(), entity: roomy(Some(space)), ..open("map:{map}") };
    let own = Class { payload: PayloadMode::Envelope, entity: roomy(None), ..open("own:{own}") };
    let raw = Class { payload: PayloadMode::Raw, key: by_id(), entity: roomy(None), ..open("raw:{raw}") };
    let tagged = Class { key: Some(path("tags.id")), entity: roomy(None), ..open("tagged:{tagged}") };
    let room = Class { patterns: true, ..open("room:{room}") };
    let logged = |name, history| Class { history: Some(history), ..open(name) };
    let logs = [logged("logged:{log}", HISTORY), logged("brief:{log}", BRIEF_HISTORY)];
    let others = [room, open("chat:{name}"), world, map, own, raw, tagged];
    Classes::new(others.into_iter().chain(logs).collect())
}

/// Beside this thread it is always too crowded, and elsewhere always calm.
fn restless_placement() -> (ThreadPlacement, oneshot::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let thread = runtime.handle().clone();
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || runtime.block_on(ended));
    let sample_every = Duration::from_millis(1);
    (ThreadPlacement { thread, sample_every, high_watermark: -1.0, low_watermark: f64::INFINITY }, end)
}
