//! What the broker reads from Redis: on one connection tables of entity channels and events of logs, on another players' views,
//! positions of logs, and the sessions that it claims. So a large table holds up neither publishes nor deliveries nor logins;
//! each is opened when something is requested first. What is requested while Redis is away is answered when it is back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drawbridge_engine::class::MAX_KEY_BYTES;
use drawbridge_engine::io::{Answer, QueryKind};
use drawbridge_engine::upstream::{LoadedTable, StoredEntity};
use redis::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::batch::Batch;
use super::command_connection::{error_message, text};
use super::commands::Commands;
use super::connect::{Attempts, Broken};
use super::connector::Connector;
use super::logs::{self, Part};
use super::refusals::{explained_for, is_missing_function};
use super::sessions::{self, Claim, FollowUp};
use super::{Names, RedisSettings, UNANSWERED, code_of, is_passing, lease, presence, views};
use crate::broker::health_board::HealthBoard;
use crate::broker::link_metrics::LinkMetrics;
use crate::broker::query_queue::{AnswerSize, Asked, QueryQueue};
use crate::log::Sparse;

/// Queries sent in one pipeline.
const TOGETHER: usize = 256;
/// Entities read at once, at first and at most, and about how many bytes: between the parts other clients of Redis get
/// their turn.
const FIRST_SCAN_COUNT: usize = 32;
const SCAN_COUNT: usize = 512;
const PART_BYTES: usize = 256 << 10;
/// What the values of a table's header take at most, and its largest count.
const MAX_HEADER_BYTES: i64 = 32;
const MAX_COUNT: u64 = (1 << 53) - 1;
/// The digits of a time and the space behind them.
const MAX_TIME_BYTES: usize = 21;
/// How often it is looked whether this node may read views, while it may not.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long to wait when Redis says that it cannot just now.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Redis answered with another type than the command returns. That is an error, and not an empty result.
pub(super) const UNEXPECTED: &str = "an unexpected answer";

/// The answer about players' views whose master is away.
pub(super) const AWAY: &str = "CLUSTERDOWN the master of the Cluster that has them is away";

/// See the module.
pub(super) struct Reader {
    pub(super) queries: QueryQueue,
    pub(super) connector: Connector,
    pub(super) health_board: Arc<HealthBoard>,
    pub(super) link_metrics: Arc<LinkMetrics>,
    pub(super) lines: Mutex<Sparse>,
}

/// How the log and the health board name the connection that reads answers of this size.
pub(super) fn name_of(answer_size: AnswerSize) -> &'static str {
    match answer_size {
        AnswerSize::Large => "reader of tables",
        AnswerSize::Small => "reader of views",
    }
}

/// A key in the slot of what is read.
pub(super) fn key_of(names: &Names, kind: &QueryKind) -> String {
    match kind {
        QueryKind::Table { channel }
        | QueryKind::Log { channel, .. }
        | QueryKind::Presence { channel, .. }
        | QueryKind::Fence { channel, .. } => names.outward(channel).into_owned(),
        QueryKind::ViewOverrides { player } | QueryKind::ClaimSession { player, .. } => {
            names.views_key(player)
        }
        QueryKind::Nodes => names.lease_keys()[0].clone(),
    }
}

impl Reader {
    /// Answers queries of this size until `stop`. `part`: its place on the health board, where it is down if it is needed and
    /// cannot connect.
    pub(super) async fn run(
        self: Arc<Self>,
        part: usize,
        answer_size: AnswerSize,
        mut stop: watch::Receiver<bool>,
    ) {
        tokio::select! {
            () = self.work(part, answer_size) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Whether this one answers such a query: in a Cluster, where its master has what is read.
    fn is_for(&self, kind: &QueryKind) -> bool {
        self.connector.has(|| key_of(&self.connector.settings.names, kind))
    }

    async fn work(&self, part: usize, answer_size: AnswerSize) {
        let mut attempts = Attempts::new(name_of(answer_size).into(), &self.connector.settings);
        let mut has_failed = false;
        // Without its views nobody can log in: whether they can be read is known from the start.
        let (connection, mut was_there) = match answer_size {
            AnswerSize::Large => ("tables", true),
            AnswerSize::Small => ("views", false),
        };
        let mut together = TOGETHER;
        loop {
            if was_there {
                if self.queries.is_empty(answer_size, |kind| self.is_for(kind)) {
                    self.health_board.set(part, true);
                }
                // Opened when something is requested first.
                self.queries.some(answer_size, |kind| self.is_for(kind)).await;
            }
            let tried_by = self.connector.map_version();
            let opened = match answer_size {
                AnswerSize::Small => lease::open_with_lease(&self.connector, connection).await,
                AnswerSize::Large => Commands::open(&self.connector, connection).await,
            };
            let broken = match opened {
                Err(broken) => {
                    // The first failure may be chance, and the next attempt follows at once: players are not notified of it.
                    if std::mem::replace(&mut has_failed, true) {
                        self.health_board.set(part, false);
                        self.refuse_views(answer_size);
                    }
                    broken
                }
                Ok(mut commands) => {
                    has_failed = false;
                    was_there = true;
                    attempts.up();
                    self.health_board.set(part, true);
                    if answer_size == AnswerSize::Small
                        && let Err(broken) = self.probe_views(&mut commands).await
                    {
                        tracing::debug!(%broken, "the right to read players' views could not be checked");
                    }
                    loop {
                        match self.answer(&mut commands, answer_size, together).await {
                            Ok(()) => together = (2 * together).min(TOGETHER),
                            Err(broken) => {
                                // The next one shows whose it is.
                                together = if matches!(broken, Broken::Oversized) { 1 } else { TOGETHER };
                                break broken;
                            }
                        }
                    }
                }
            };
            let wait = attempts.failed(&broken, self.connector.server());
            self.health_board.failed(part, self.connector.trouble(&broken));
            self.connector.wait_to_try_again(&self.health_board, wait, tried_by).await;
        }
    }

    /// In a Cluster, answers queries of views whose master is away, by an error: nothing new is shown to these players until they can
    /// be read. Why: a link that has moved to another master restores nothing before the views of all players are known, or known
    /// to be unknown, and most players' are on masters that answer.
    fn refuse_views(&self, answer_size: AnswerSize) {
        if self.connector.cluster().is_some() {
            let is_view =
                |kind: &QueryKind| matches!(kind, QueryKind::ViewOverrides { .. }) && self.is_for(kind);
            self.queries.refuse_all(answer_size, is_view, &AWAY.into());
        }
    }

    /// Answers the first queries of this size. `most`: how many small ones at once.
    async fn answer(
        &self,
        commands: &mut Commands,
        answer_size: AnswerSize,
        most: usize,
    ) -> Result<(), Broken> {
        match answer_size {
            AnswerSize::Small => self.answer_small(commands, most).await,
            AnswerSize::Large => self.answer_large(commands).await,
        }
    }

    async fn answer_small(&self, commands: &mut Commands, most: usize) -> Result<(), Broken> {
        let asked = next(commands, self.queries.first(AnswerSize::Small, most, |kind| self.is_for(kind)));
        let asked = match self.health_board.no_views() {
            None => asked.await?,
            // The right may be granted while no query waits.
            Some(_) => match timeout(PROBE_EVERY, asked).await {
                Ok(asked) => asked?,
                Err(_) => return self.probe_views(commands).await,
            },
        };
        let Small { views, claims, logs } = Small::of(asked);
        if !claims.is_empty() {
            self.answer_claims(commands, claims).await?;
        }
        if !logs.is_empty() {
            self.answer_logs(commands, logs).await?;
        }
        match views.is_empty() {
            true => Ok(()),
            false => self.answer_views(commands, views, most).await,
        }
    }

    async fn answer_claims(&self, commands: &mut Commands, asked: Vec<(Asked, Claim)>) -> Result<(), Broken> {
        let claims: Vec<Claim> = asked.iter().map(|(_, claim)| claim.clone()).collect();
        let all_claimed = sessions::claim(commands, &self.connector.settings, &claims).await?;
        let mut follow_up = FollowUp::new(&self.connector.settings);
        let (mut must_wait, mut lacks_functions) = (false, false);
        for ((asked, claim), claimed) in asked.into_iter().zip(all_claimed) {
            match claimed {
                Ok(claimed) => {
                    let session = claimed.as_ref().map(|claimed| claimed.session.clone());
                    self.queries.answer_in_any_case(asked, Ok(Answer::Session(session)));
                    follow_up.add(&claim, claimed.as_ref());
                }
                // These stay in the queue, and are claimed again.
                Err(message) if is_passing(&message) => {
                    must_wait = true;
                    self.queries.refused_for_now(&asked, code_of(&message) == UNANSWERED);
                }
                Err(message) if !lacks_functions && is_missing_function(&message) => {
                    lacks_functions = true;
                    match commands.load(&self.connector.settings.library, false, false).await? {
                        (_, Ok(())) => must_wait = true,
                        (_, Err(message)) => drop(self.queries.answer(&asked, Err(message.into()))),
                    }
                }
                Err(message) if is_missing_function(&message) => must_wait = true,
                Err(message) => drop(self.queries.answer(&asked, Err(message.into()))),
            }
        }
        follow_up.send(commands).await?;
        if must_wait {
            tokio::time::sleep(RETRY_AFTER).await;
        }
        Ok(())
    }

    /// Answers queries of logs by one pipeline: many of positions, or one of events.
    async fn answer_logs(&self, commands: &mut Commands, asked: Vec<Asked>) -> Result<(), Broken> {
        let (asked, parts): (Vec<Asked>, Vec<Part>) =
            asked.into_iter().filter_map(|asked| part_of(&asked).map(|part| (asked, part))).unzip();
        let mut read = logs::read(commands, &self.connector.settings, &parts).await?;
        let lacks_functions = read.iter().any(|log| log.as_ref().is_err_and(|why| is_missing_function(why)));
        // The publisher loads them, too, and not always before.
        if lacks_functions && commands.load(&self.connector.settings.library, false, false).await?.1.is_ok() {
            read = logs::read(commands, &self.connector.settings, &parts).await?;
        }
        for (asked, log) in asked.into_iter().zip(read) {
            if log.as_ref().is_err_and(|message| is_passing(message)) {
                tokio::time::sleep(RETRY_AFTER).await;
                return Ok(());
            }
            let explained = |message| explained_for("channels with history", message).into();
            self.queries.answer(&asked, log.map(Answer::Log).map_err(explained));
        }
        Ok(())
    }

    async fn answer_views(
        &self,
        commands: &mut Commands,
        asked: Vec<(Asked, Arc<str>)>,
        most: usize,
    ) -> Result<(), Broken> {
        let keys = asked.iter().map(|(_, player)| self.connector.settings.names.views_key(player)).collect();
        let read = match views::read(commands, keys).await {
            // One of them holds what no service has set.
            Err(Broken::Oversized) if most == 1 => asked
                .iter()
                .map(|_| Err("DAMAGED what is stored for them is over 64 MiB".to_owned()))
                .collect(),
            read => read?,
        };
        for (views, (asked, player)) in read.into_iter().zip(asked) {
            if views.as_ref().is_err_and(|message| is_passing(message)) {
                tokio::time::sleep(RETRY_AFTER).await;
                return Ok(());
            }
            self.note_right(views.as_ref().err());
            let bad = views.as_ref().map_or(0, |stored| stored.bad);
            let answer = views.map(|stored| Answer::ViewOverrides(stored.views)).map_err(Into::into);
            if self.queries.answer(&asked, answer) {
                self.report_bad_views(&player, bad);
            }
        }
        Ok(())
    }

    /// Looks whether this node may read views, of a player that cannot exist.
    async fn probe_views(&self, commands: &mut Commands) -> Result<(), Broken> {
        let mut length = redis::cmd("HLEN");
        length.arg(self.connector.settings.names.views_key(""));
        let looked = commands.ask(&length).await?;
        self.note_right(looked.as_ref().err());
        Ok(())
    }

    /// Without the right nothing is shown to anybody, and the node is of no use.
    fn note_right(&self, refused: Option<&String>) {
        let forbidden = refused.filter(|message| code_of(message) == "NOPERM");
        if self.connector.settings.views_open_without_permission
            || forbidden.is_some() == self.health_board.no_views().is_some()
        {
            return;
        }
        self.health_board.set_views(forbidden.map(|message| {
            tracing::error!(
                reason = message,
                "Redis does not let this node read players' views: nothing is shown to players"
            );
            format!("Redis does not let this node read players' views: {}", code_of(message)).into()
        }));
    }

    fn report_bad_views(&self, player: &str, bad: usize) {
        if bad > 0 {
            self.link_metrics.count_bad_views(bad as u64);
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.line(|unlogged| {
                let text =
                    "stored views are not as services set them: their channels are not shown to the player";
                tracing::warn!(player, count = bad, unlogged, "{text}");
            });
        }
    }

    /// The answer of a function, which is loaded first where Redis has lost it.
    async fn call(
        &self,
        commands: &mut Commands,
        call: &redis::Cmd,
    ) -> Result<Result<Value, String>, Broken> {
        let answer = commands.ask(call).await?;
        let is_missing = answer.as_ref().is_err_and(|message| is_missing_function(message));
        // The publisher loads them, too, and not always before.
        if is_missing && commands.load(&self.connector.settings.library, false, false).await?.1.is_ok() {
            return commands.ask(call).await;
        }
        Ok(answer)
    }

    async fn answer_large(&self, commands: &mut Commands) -> Result<(), Broken> {
        let asked =
            next(commands, self.queries.first(AnswerSize::Large, 1, |kind| self.is_for(kind))).await?;
        let Some(asked) = asked.into_iter().next() else { return Ok(()) };
        let read = match &asked.query.kind {
            QueryKind::Table { channel } => read_table(commands, &self.connector.settings, channel)
                .await
                .map(|table| table.map(Answer::Table)),
            QueryKind::Log { .. } => match self.answer_logs(commands, vec![asked.clone()]).await {
                // Not read again: it would be as large.
                Err(Broken::Oversized) => Ok(Err("DAMAGED a part of the log is over 64 MiB".to_owned())),
                answered => return answered,
            },
            QueryKind::Presence { channel, after, limit } => {
                let call = presence::page_call(&self.connector.settings, channel, after.as_deref(), *limit);
                let page = self.call(commands, &call).await;
                page.map(|page| {
                    page.and_then(|page| presence::read_page(&page, *limit)).map(Answer::Presence)
                })
            }
            QueryKind::Nodes => {
                let nodes = self.call(commands, &lease::list_call(&self.connector.settings)).await;
                nodes.map(|nodes| nodes.and_then(|nodes| lease::read_list(&nodes)).map(Answer::Nodes))
            }
            // Read on the other connection, or by a link.
            _ => Ok(Err(UNEXPECTED.to_owned())),
        };
        let answer = match read {
            Ok(Err(message)) if is_passing(&message) => {
                tokio::time::sleep(RETRY_AFTER).await;
                return Ok(());
            }
            // Not read again: it would be as large.
            Err(Broken::Oversized) => Err("DAMAGED a part of the table is over 64 MiB".into()),
            read => read?.map_err(Into::into),
        };
        self.queries.answer(&asked, answer);
        Ok(())
    }
}

/// Queries with small answers, by kind.
#[derive(Default)]
struct Small {
    /// Each with the player whose views they are.
    views: Vec<(Asked, Arc<str>)>,
    claims: Vec<(Asked, Claim)>,
    /// Of positions alone.
    logs: Vec<Asked>,
}

impl Small {
    fn of(all: Vec<Asked>) -> Self {
        let mut small = Small::default();
        for asked in all {
            match &asked.query.kind {
                QueryKind::ViewOverrides { player } => {
                    let player = player.clone();
                    small.views.push((asked, player));
                }
                QueryKind::ClaimSession { player, session } => {
                    let (player, session) = (player.clone(), session.hash());
                    let claim = Claim { player, session, only_own: asked.is_withdrawn };
                    small.claims.push((asked, claim));
                }
                QueryKind::Log { .. } => small.logs.push(asked),
                // Their answers are large, or a link's.
                QueryKind::Table { .. }
                | QueryKind::Presence { .. }
                | QueryKind::Nodes
                | QueryKind::Fence { .. } => {}
            }
        }
        small
    }
}

/// What is read of a log for this query.
fn part_of(asked: &Asked) -> Option<Part> {
    match &asked.query.kind {
        QueryKind::Log { channel, range, limit, reader } => {
            Some(Part { channel: channel.clone(), range: *range, limit: *limit, reader: *reader })
        }
        _ => None,
    }
}

/// Waits for queries, and returns them unless the connection ends first.
async fn next<Q>(commands: &mut Commands, queries: impl Future<Output = Q>) -> Result<Q, Broken> {
    tokio::select! {
        queries = queries => Ok(queries),
        broken = commands.ended() => Err(broken),
    }
}

/// The fields and values of a hash, in either form of an answer.
pub(super) fn pairs(reply: &Value) -> Box<dyn Iterator<Item = (&Value, &Value)> + '_> {
    match reply {
        Value::Map(entries) => Box::new(entries.iter().map(|(field, value)| (field, value))),
        Value::Array(items) => Box::new(items.chunks_exact(2).map(|pair| (&pair[0], &pair[1]))),
        _ => Box::new(std::iter::empty()),
    }
}

/// The header of a table that can go on; `None`: there is none that the functions would go on with.
async fn read_header(
    commands: &mut Commands,
    key: &str,
) -> Result<Result<Option<(String, u64)>, String>, Broken> {
    let mut lengths = Batch::new();
    for field in ["e", "s"] {
        lengths.cmd("HSTRLEN").arg(key).arg(field);
    }
    for length in commands.query(&lengths).await? {
        match length.map_err(|error| error_message(&error)) {
            Ok(Value::Int(1..=MAX_HEADER_BYTES)) => {}
            Ok(_) => return Ok(Ok(None)),
            Err(message) => return Ok(Err(message)),
        }
    }
    let mut get = redis::cmd("HMGET");
    get.arg(key).arg("e").arg("s");
    Ok(match commands.ask(&get).await? {
        Ok(Value::Array(fields)) => Ok(header(&fields)),
        Ok(_) => Err(UNEXPECTED.to_owned()),
        Err(message) => Err(message),
    })
}

fn header(fields: &[Value]) -> Option<(String, u64)> {
    let [epoch, seq] = fields else { return None };
    let epoch = text(epoch).filter(|epoch| epoch.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
    let seq: u64 = text(seq).filter(|seq| seq.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
    (!epoch.is_empty() && seq < MAX_COUNT).then_some((epoch, seq))
}

/// Reads a table in parts. Its version is read first: whatever changes meanwhile comes live with a higher one.
async fn read_table(
    commands: &mut Commands,
    settings: &RedisSettings,
    channel: &Arc<str>,
) -> Result<Result<LoadedTable, String>, Broken> {
    let key = &settings.names.table_key(channel);
    let bounds = settings.library.table_bounds(channel);
    let mut begin = Batch::new();
    begin.cmd("TIME").cmd("HLEN").arg(key);
    let mut begun =
        commands.query(&begin).await?.into_iter().map(|result| result.map_err(|error| error_message(&error)));
    let now_ms = match begun.next() {
        Some(Ok(Value::Array(time))) => milliseconds(&time),
        Some(Err(message)) => return Ok(Err(message)),
        _ => return Ok(Err(UNEXPECTED.to_owned())),
    };
    match begun.next() {
        Some(Ok(Value::Int(fields)))
            if usize::try_from(fields).is_ok_and(|fields| fields <= bounds.fields) => {}
        Some(Ok(Value::Int(fields))) => {
            let most = bounds.fields;
            return Ok(Err(format!("DAMAGED the table has {fields} fields, and {most} at most are read")));
        }
        Some(Err(message)) => return Ok(Err(message)),
        _ => return Ok(Err(UNEXPECTED.to_owned())),
    }
    let (epoch, seq) = match read_header(commands, key).await? {
        Ok(Some(header)) => header,
        // The next event begins it again.
        Ok(None) => return Ok(Ok(LoadedTable::default())),
        Err(message) => return Ok(Err(message)),
    };
    let class = settings.classes.class_of(channel).map(|(_, class)| class);
    let mut table = LoadedTable { epoch, seq, ..LoadedTable::default() };
    let (mut cursor, mut bytes, mut count) = ("0".to_owned(), 0, FIRST_SCAN_COUNT);
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(key).arg(&cursor).arg("COUNT").arg(count);
        let part = match commands.ask(&scan).await? {
            Ok(Value::Array(part)) => part,
            Ok(_) => return Ok(Err(UNEXPECTED.to_owned())),
            Err(message) => return Ok(Err(message)),
        };
        for (field, value) in part.get(1).into_iter().flat_map(pairs) {
            bytes += size(field) + size(value);
            match entity(field, value, now_ms, settings.library.external_bytes()) {
                Some(entity) => table.add(class, channel, &entity),
                None if is_header(field) => {}
                None => table.unreadable += 1,
            }
        }
        if bytes > bounds.bytes {
            let most = bounds.bytes;
            return Ok(Err(format!("DAMAGED the table's entities take over {most} bytes")));
        }
        count = (PART_BYTES * table.rows.len().max(1) / bytes.max(1)).clamp(FIRST_SCAN_COUNT, SCAN_COUNT);
        cursor = part.first().and_then(text).unwrap_or_default();
        if cursor == "0" || cursor.is_empty() {
            break;
        }
    }
    table.sort();
    Ok(read_header(commands, key).await?.map(|header| {
        // What began again meanwhile is of another life, which its rows say themselves.
        table.last_seq = match header {
            Some((epoch, last)) if epoch == table.epoch => last,
            _ => u64::MAX,
        };
        table
    }))
}

fn size(value: &Value) -> usize {
    match value {
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    }
}

fn is_header(field: &Value) -> bool {
    matches!(field, Value::BulkString(name) if matches!(&name[..], b"e" | b"s" | b"b" | b"r"))
}

/// `TIME`: seconds and microseconds.
fn milliseconds(time: &[Value]) -> u64 {
    let part = |at: usize| time.get(at).and_then(text).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    part(0).saturating_mul(1_000).saturating_add(part(1) / 1_000)
}

/// `k` and the key; when it was heard, and what was published. `None`: the functions write no such thing.
fn entity(field: &Value, value: &Value, now_ms: u64, external_bytes: usize) -> Option<StoredEntity> {
    let (Value::BulkString(field), Value::BulkString(value)) = (field, value) else { return None };
    let key = std::str::from_utf8(field).ok()?.strip_prefix('k')?;
    let space = value.iter().take(MAX_TIME_BYTES).position(|byte| *byte == b' ')?;
    let updated_ms: u64 = std::str::from_utf8(&value[..space]).ok()?.parse().ok()?;
    let payload = &value[space + 1..];
    if key.is_empty() || key.len() > MAX_KEY_BYTES || payload.len() > external_bytes {
        return None;
    }
    let payload = bytes::Bytes::copy_from_slice(payload);
    Some(StoredEntity { key: key.to_owned(), age_ms: now_ms.saturating_sub(updated_ms), payload })
}

/// The entities in a table's fields that are at hand; for [`crate::fuzzing`].
pub(crate) fn entities_in(
    fields: &[(Vec<u8>, Vec<u8>)],
    now_ms: u64,
    external_bytes: usize,
) -> Vec<StoredEntity> {
    let bulk = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
    fields
        .iter()
        .filter_map(|(field, value)| entity(&bulk(field), &bulk(value), now_ms, external_bytes))
        .collect()
}
