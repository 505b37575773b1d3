//! Logs of channels with history in the memory broker. It does what `redis/functions/log.lua` does; a log has one epoch here,
//! for nothing survives the process.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use drawbridge_engine::class::{Classes, History};
use drawbridge_engine::io::{Epoch, LogEntry, LogPosition, LogReader, LoggedOffset, PublishFailure};
use drawbridge_engine::upstream::{LogRange, StoredLog, StoredLogEvent};
use hashbrown::HashMap;

use crate::broker::jobs::open_object;

/// How long a repeat is recognised, in milliseconds.
const ONCE_MS: u64 = 120_000;
const DAY_MS: u64 = 24 * 3_600_000;
/// So many idempotency keys and logs may be stored before those whose time is over are looked for.
const FEW: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct Logs {
    classes: Arc<Classes>,
    external_bytes: usize,
    logs: HashMap<Arc<str>, Log>,
    /// When each idempotency key is forgotten, and the position that its event got.
    once: HashMap<(Arc<str>, Arc<str>), (u64, LogPosition)>,
    /// Where those whose time is over are looked for.
    purge_at: [usize; 2],
}

#[derive(Debug)]
struct Log {
    epoch: Epoch,
    last: u64,
    /// The newest events, up to `last`, with when they were appended.
    events: VecDeque<(u64, Bytes)>,
    /// When epoch and last offset are forgotten.
    forgotten_ms: u64,
}

impl Log {
    /// Takes out what is too much or too old.
    fn trim(&mut self, now_ms: u64, History { events, age_ms }: History) {
        let is_old = |(appended_ms, _): &(u64, Bytes)| now_ms >= appended_ms + age_ms;
        while self.events.len() as u64 > events || self.events.front().is_some_and(is_old) {
            self.events.pop_front();
        }
    }

    fn first(&self) -> u64 {
        self.last + 1 - self.events.len() as u64
    }
}

/// How long epoch and last offset outlive what was done last, in milliseconds.
fn outlives_ms(age_ms: u64) -> u64 {
    age_ms + DAY_MS.max(2 * age_ms)
}

impl Logs {
    /// No logs yet; of channels of these classes, with events of at most so many bytes.
    pub(super) fn new(classes: Arc<Classes>, external_bytes: usize) -> Self {
        Logs { classes, external_bytes, logs: HashMap::new(), once: HashMap::new(), purge_at: [FEW; 2] }
    }

    /// Appends an event; returns its position, and what is to be published, which a repeat is not.
    pub(super) fn append(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        entry: &LogEntry,
    ) -> Result<(LogPosition, Option<Bytes>), PublishFailure> {
        let once = entry.once.as_ref().map(|once| (channel.clone(), once.clone()));
        let before = once.as_ref().and_then(|once| self.once.get(once));
        if let Some((_, position)) = before.filter(|(until_ms, _)| now_ms < *until_ms) {
            return Ok((*position, None));
        }
        if entry.published_bytes() > self.external_bytes {
            let most = self.external_bytes;
            let refused = format!("TOOLARGE an event has at most {most} bytes, with its envelope");
            return Err(PublishFailure::Refused(refused.into()));
        }
        let log = self.log(now_ms, channel, entry.age_ms);
        log.forgotten_ms = now_ms + outlives_ms(entry.age_ms);
        log.last += 1;
        let position = LogPosition { epoch: log.epoch, offset: LoggedOffset(log.last) };
        let (epoch, offset) = (log.epoch.as_str(), log.last);
        let mut payload = BytesMut::from(open_object(&entry.payload));
        let id = serde_json::Value::from(format!("{}@{epoch}.{offset}", entry.id));
        payload.put_slice(format!(",\"offset\":{offset},\"epoch\":\"{epoch}\",\"id\":{id}}}").as_bytes());
        let payload = payload.freeze();
        log.events.push_back((now_ms, payload.clone()));
        log.trim(now_ms, History { events: entry.max_events, age_ms: entry.age_ms });
        if let Some(once) = once {
            self.once.insert(once, (now_ms + ONCE_MS, position));
        }
        self.purge(now_ms);
        Ok((position, Some(payload)))
    }

    /// A part of a log; `None`: its channel has no history.
    pub(super) fn read(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        range: LogRange,
        limit: usize,
        reader: LogReader,
    ) -> Option<StoredLog> {
        let history = self.classes.of_channel(channel).and_then(|(_, class, _)| class.history)?;
        self.purge(now_ms);
        let is_kept = self.logs.get(channel).is_some_and(|log| now_ms < log.forgotten_ms);
        if reader != LogReader::Hub && !is_kept {
            return Some(StoredLog::absent());
        }
        let log = self.log(now_ms, channel, history.age_ms);
        log.trim(now_ms, history);
        let first = log.first();
        let start = match range {
            LogRange::After(offset) => first.max(offset.0.saturating_add(1)),
            LogRange::Newest => first.max((log.last + 1).saturating_sub(limit as u64)),
        };
        let events = log.events.iter().zip(first..).skip((start - first) as usize).take(limit);
        let mut events: VecDeque<_> =
            events.map(|((_, payload), offset)| (offset, payload.clone())).collect();
        let mut bytes: usize = events.iter().map(|(_, payload)| payload.len()).sum();
        while bytes > reader.max_bytes() && events.len() > 1 {
            let left_out = match range {
                LogRange::After(_) => events.pop_back(),
                LogRange::Newest => events.pop_front(),
            };
            bytes -= left_out.map_or(0, |(_, payload)| payload.len());
        }
        let event = |(offset, payload)| StoredLogEvent { offset: LoggedOffset(offset), payload };
        Some(StoredLog {
            last: LogPosition { epoch: log.epoch, offset: LoggedOffset(log.last) },
            first: LoggedOffset(first),
            ended: Vec::new(),
            events: events.into_iter().map(event).collect(),
        })
    }

    fn log(&mut self, now_ms: u64, channel: &Arc<str>, age_ms: u64) -> &mut Log {
        if self.logs.get(channel).is_some_and(|log| now_ms >= log.forgotten_ms) {
            self.logs.remove(channel);
        }
        self.logs.entry(channel.clone()).or_insert_with(|| Log {
            epoch: new_epoch(),
            last: 0,
            events: VecDeque::new(),
            forgotten_ms: now_ms + outlives_ms(age_ms),
        })
    }

    /// Forgets what is over, when there is twice as much as the last time.
    fn purge(&mut self, now_ms: u64) {
        let [logs, once] = &mut self.purge_at;
        if self.logs.len() > *logs {
            self.logs.retain(|_, log| now_ms < log.forgotten_ms);
            *logs = FEW.max(2 * self.logs.len());
        }
        if self.once.len() > *once {
            self.once.retain(|_, (until_ms, _)| now_ms < *until_ms);
            *once = FEW.max(2 * self.once.len());
        }
    }
}

/// An epoch that no other log has, nor one of another process.
fn new_epoch() -> Epoch {
    let mut bytes = [0; 8];
    // Without randomness it is unique in this process no longer; nothing is stored beyond it.
    let _ = getrandom::fill(&mut bytes);
    Epoch::new(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_engine::class::Class;
    use drawbridge_protocol::template::ClassName;

    use super::*;

    const HISTORY: History = History { events: 3, age_ms: 1_000 };

    fn logs() -> Logs {
        let class = Class { history: Some(HISTORY), ..Class::plain(ClassName::parse("log:{l}").unwrap()) };
        Logs::new(Classes::new(vec![class]), 1_000)
    }

    fn append(logs: &mut Logs, now_ms: u64, once: Option<&str>) -> (u64, bool) {
        let entry = LogEntry {
            payload: r#"{"event":"e"}"#.into(),
            id: "db1.1".into(),
            max_events: HISTORY.events,
            age_ms: HISTORY.age_ms,
            once: once.map(Into::into),
        };
        let (position, published) = logs.append(now_ms, &"log:1".into(), &entry).unwrap();
        (position.offset.0, published.is_some())
    }

    fn kept(logs: &mut Logs, now_ms: u64) -> (u64, u64, Vec<u64>) {
        let log =
            logs.read(now_ms, &"log:1".into(), LogRange::After(LoggedOffset(0)), 9, LogReader::Hub).unwrap();
        let offsets = log.events.iter().map(|event| event.offset.0).collect();
        (log.first.0, log.last.offset.0, offsets)
    }

    #[test]
    fn events_are_forgotten_before_their_position_is() {
        let mut logs = logs();
        assert_eq!(kept(&mut logs, 0), (1, 0, vec![]));
        for now_ms in [100, 200, 300, 400] {
            append(&mut logs, now_ms, None);
        }
        assert_eq!(kept(&mut logs, 1_199), (2, 4, vec![2, 3, 4]));
        assert_eq!(kept(&mut logs, 1_200), (3, 4, vec![3, 4]));
        assert_eq!(kept(&mut logs, 1_400), (5, 4, vec![]));
        let forgotten_ms = 400 + HISTORY.age_ms + DAY_MS;
        assert_eq!(kept(&mut logs, forgotten_ms - 1), (5, 4, vec![]));
        assert_eq!(kept(&mut logs, forgotten_ms), (1, 0, vec![]), "a new log");
    }

    #[test]
    fn a_repeat_is_recognised_for_two_minutes() {
        let mut logs = logs();
        assert_eq!(append(&mut logs, 0, Some("k")), (1, true));
        assert_eq!(append(&mut logs, ONCE_MS - 1, Some("k")), (1, false));
        assert_eq!(append(&mut logs, ONCE_MS, Some("k")), (2, true));
    }

    #[test]
    fn requests_begin_no_log_and_what_hubs_begin_is_forgotten_by_reads_alone() {
        let mut logs = logs();
        let request = LogReader::Request { max_bytes: 1_000 };
        let mut read = |now_ms, channel: &str, range, reader| {
            let log = logs.read(now_ms, &channel.into(), range, 9, reader).unwrap();
            (log, logs.logs.len())
        };
        assert_eq!(read(0, "log:1", LogRange::Newest, request), (StoredLog::absent(), 0));
        let beyond = LogRange::After(LoggedOffset(u64::MAX));
        for at in 0..=FEW {
            let (log, _) = read(0, &format!("log:{at}"), beyond, LogReader::Hub);
            assert_ne!(log.last.epoch, StoredLog::absent().last.epoch);
            assert_eq!(log.events, []);
        }
        let forgotten_ms = HISTORY.age_ms + DAY_MS;
        assert_eq!(read(forgotten_ms, "log:1", LogRange::Newest, request), (StoredLog::absent(), 0));
    }

    #[test]
    fn a_request_reads_no_more_than_its_bytes() {
        let mut logs = logs();
        for at in 0..3 {
            append(&mut logs, at, None);
        }
        let mut read = |range, max_bytes| {
            let log = logs.read(9, &"log:1".into(), range, 9, LogReader::Request { max_bytes }).unwrap();
            log.events.iter().map(|event| event.offset.0).collect::<Vec<_>>()
        };
        assert_eq!(read(LogRange::Newest, 1), [3]);
        assert_eq!(read(LogRange::After(LoggedOffset(0)), 1), [1]);
        assert_eq!(read(LogRange::Newest, 1_000), [1, 2, 3]);
    }
}
