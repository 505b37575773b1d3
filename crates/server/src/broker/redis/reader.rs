//! What the broker reads from Redis: tables of entity channels, and players' views. Each on a connection of its own, so
//! that a large table holds up neither publishes nor deliveries nor logins; it is opened when something is asked for
//! first. What is asked while Redis is away is answered when it is back.

use std::sync::Arc;
use std::time::Duration;

use drawbridge_engine::interest::{StoredEntity, StoredTable};
use drawbridge_engine::io::{BrokerEvent, PlayerViews};
use redis::Value;
use tokio::sync::{mpsc, watch};

use super::commands::{Commands, text};
use super::connect::{Attempts, Broken};
use super::{RedisSettings, is_passing};
use crate::broker::board::Board;
use crate::broker::interest::Order;
use crate::broker::outlet::Outlet;
use crate::broker::questions::Questions;

/// Questions asked in one pipeline.
const TOGETHER: usize = 256;
/// Entities read at once; between the parts other clients of Redis get their turn.
const SCAN_COUNT: usize = 512;
/// How long to wait when Redis says that it cannot just now.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What is not what was asked for is not taken for nothing.
const UNEXPECTED: &str = "an unexpected answer";

/// See the module.
pub(super) struct Reader {
    pub(super) questions: Questions,
    pub(super) settings: Arc<RedisSettings>,
    pub(super) board: Arc<Board>,
    pub(super) outlet: Outlet,
    pub(super) links: Vec<mpsc::WeakUnboundedSender<Order>>,
}

/// What one connection of the reader reads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reads {
    /// Tables of entity channels.
    Tables,
    /// Players' views.
    Views,
}

impl Reads {
    /// As the log names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Reads::Tables => "reader of tables",
            Reads::Views => "reader of views",
        }
    }
}

impl Reader {
    /// Reads these until it is told to stop. `part`: its place on the board, where it is down when it is asked and cannot
    /// connect.
    pub(super) async fn run(self: Arc<Self>, part: usize, reads: Reads, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.work(part, reads) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn work(&self, part: usize, reads: Reads) {
        let mut attempts = Attempts::new(reads.name().into(), &self.settings);
        let mut has_failed = false;
        // Without its views nobody can log in: whether they can be read is known from the start.
        let mut was_there = matches!(reads, Reads::Tables);
        let connection = match reads {
            Reads::Tables => "tables",
            Reads::Views => "views",
        };
        loop {
            let is_asked = match reads {
                Reads::Tables => self.questions.tables.len() > 0,
                Reads::Views => self.questions.views.len() > 0,
            };
            if was_there {
                if !is_asked {
                    self.board.set(part, true);
                }
                // Opened when something is asked for first.
                match reads {
                    Reads::Tables => drop(self.questions.tables.first(1).await),
                    Reads::Views => drop(self.questions.views.first(1).await),
                }
            }
            let broken = match Commands::open(self.settings.clone(), connection).await {
                Err(broken) => {
                    // Once may be chance, and the next attempt comes at once: players are not told of that.
                    if std::mem::replace(&mut has_failed, true) {
                        self.board.set(part, false);
                    }
                    broken
                }
                Ok(mut commands) => {
                    has_failed = false;
                    was_there = true;
                    attempts.up();
                    self.board.set(part, true);
                    loop {
                        let answered = match reads {
                            Reads::Tables => self.answer_table(&mut commands).await,
                            Reads::Views => self.answer_views(&mut commands).await,
                        };
                        if let Err(broken) = answered {
                            break broken;
                        }
                    }
                }
            };
            let wait = attempts.failed(&broken);
            self.board.failed(part, &broken.to_string());
            self.board.wait_for_another(wait).await;
        }
    }

    /// Answers the players that are asked about first.
    async fn answer_views(&self, commands: &mut Commands) -> Result<(), Broken> {
        let asked = next(commands, self.questions.views.first(TOGETHER)).await?;
        let mut pipeline = redis::Pipeline::new();
        pipeline.ignore_errors();
        for (_, player) in &asked {
            pipeline.cmd("HGETALL").arg(self.settings.views_key(player));
        }
        for (result, (key, player)) in commands.query(&pipeline).await?.into_iter().zip(asked) {
            let result = result.map_err(|error| super::commands::words(&error));
            if result.as_ref().is_err_and(|words| is_passing(words)) {
                tokio::time::sleep(RETRY_AFTER).await;
                return Ok(());
            }
            if self.questions.views.answered(&key, |asked| *asked == player) {
                let views = result.and_then(|views| player_views(&views)).map_err(Into::into);
                self.outlet.tell(key.0, BrokerEvent::Views { ticket: key.1, views });
            }
        }
        Ok(())
    }

    async fn answer_table(&self, commands: &mut Commands) -> Result<(), Broken> {
        let asked = next(commands, self.questions.tables.first(1)).await?;
        let Some((key, load)) = asked.into_iter().next() else { return Ok(()) };
        let table = match read_table(commands, &self.settings, &key.1).await? {
            Err(words) if is_passing(&words) => {
                tokio::time::sleep(RETRY_AFTER).await;
                return Ok(());
            }
            table => table.map_err(Into::into),
        };
        if self.questions.tables.answered(&key, |asked| *asked == load)
            && let Some(link) = self.links.get(key.0).and_then(mpsc::WeakUnboundedSender::upgrade)
        {
            let _ = link.send(Order::Loaded { channel: key.1, load, table });
        }
        Ok(())
    }
}

/// The next questions, unless the connection ends before there are any.
async fn next<Q>(commands: &mut Commands, questions: impl Future<Output = Q>) -> Result<Q, Broken> {
    tokio::select! {
        questions = questions => Ok(questions),
        broken = commands.ended() => Err(broken),
    }
}

fn player_views(reply: &Value) -> Result<PlayerViews, String> {
    let view = |(channel, view)| Some((text(channel)?.into(), text(view)?.into()));
    let views: Option<Vec<_>> = pairs(reply).map(view).collect();
    match reply {
        Value::Map(_) | Value::Array(_) => views.map(Into::into).ok_or_else(|| UNEXPECTED.to_owned()),
        _ => Err(UNEXPECTED.to_owned()),
    }
}

/// The fields and values of a hash, in either form of an answer.
fn pairs(reply: &Value) -> Box<dyn Iterator<Item = (&Value, &Value)> + '_> {
    match reply {
        Value::Map(entries) => Box::new(entries.iter().map(|(field, value)| (field, value))),
        Value::Array(items) => Box::new(items.chunks_exact(2).map(|pair| (&pair[0], &pair[1]))),
        _ => Box::new(std::iter::empty()),
    }
}

/// Reads a table in parts. Its version is read first: whatever changes meanwhile comes live with a higher one.
async fn read_table(
    commands: &mut Commands,
    settings: &RedisSettings,
    channel: &str,
) -> Result<Result<StoredTable, String>, Broken> {
    let key = &settings.table_key(channel);
    let mut begin = redis::Pipeline::new();
    begin.ignore_errors().cmd("TIME").cmd("HMGET").arg(key).arg("e").arg("s");
    let mut begun =
        commands.query(&begin).await?.into_iter().map(|r| r.map_err(|e| super::commands::words(&e)));
    let now_ms = match begun.next() {
        Some(Ok(Value::Array(time))) => milliseconds(&time),
        Some(Err(words)) => return Ok(Err(words)),
        _ => 0,
    };
    let mut table = StoredTable::default();
    match begun.next() {
        Some(Ok(Value::Array(version))) => {
            let field = |at: usize| version.get(at).and_then(text);
            table.epoch = field(0).unwrap_or_default();
            table.seq = field(1).and_then(|seq| seq.parse().ok()).unwrap_or(0);
        }
        Some(Err(words)) => return Ok(Err(words)),
        _ => {}
    }
    let mut cursor = "0".to_owned();
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(key).arg(&cursor).arg("COUNT").arg(SCAN_COUNT);
        let part = match commands.ask(&scan).await? {
            Ok(Value::Array(part)) => part,
            Ok(_) => return Ok(Err(UNEXPECTED.to_owned())),
            Err(words) => return Ok(Err(words)),
        };
        let rows = part.get(1).into_iter().flat_map(pairs);
        table.entities.extend(rows.filter_map(|(field, value)| entity(field, value, now_ms)));
        cursor = part.first().and_then(text).unwrap_or_default();
        if cursor == "0" || cursor.is_empty() {
            return Ok(Ok(table));
        }
    }
}

/// `TIME`: seconds and microseconds.
fn milliseconds(time: &[Value]) -> u64 {
    let part = |at: usize| time.get(at).and_then(text).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    part(0) * 1_000 + part(1) / 1_000
}

/// `k` and the key; when it was heard, and what was published.
fn entity(field: &Value, value: &Value, now_ms: u64) -> Option<StoredEntity> {
    let key = text(field)?.strip_prefix('k')?.to_owned();
    let Value::BulkString(value) = value else { return None };
    let space = value.iter().position(|byte| *byte == b' ')?;
    let heard_ms: u64 = std::str::from_utf8(&value[..space]).ok()?.parse().ok()?;
    let payload = bytes::Bytes::copy_from_slice(&value[space + 1..]);
    Some(StoredEntity { key, age_ms: now_ms.saturating_sub(heard_ms), payload })
}
