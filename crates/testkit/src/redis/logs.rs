//! Logs in virtual time, as the server's functions write them: those of one Redis, or of one master of a Cluster. A log that comes to
//! another Redis, by a failover, by a restart or with its slot, goes on under another epoch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{Epoch, LogEntry, LogPosition, LoggedOffset};
use drawbridge_engine::upstream::{LogRange, StoredLog, StoredLogEvent};

/// How many ended epochs a log remembers.
const ENDED_EPOCHS: usize = 8;
/// More epochs than one Redis begins.
const EPOCHS: u64 = 1 << 32;

/// The log of one channel.
#[derive(Clone, Debug)]
struct Log {
    last: LogPosition,
    events: VecDeque<(LoggedOffset, Bytes)>,
    /// The epochs before, each with the offset at which it ended.
    ended: Vec<LogPosition>,
}

/// An epoch of a log that goes on under another one.
#[derive(Clone, Debug)]
pub struct Rolled {
    pub channel: Arc<str>,
    /// The epoch that ended; some of its events, and of those before it, may be lost.
    pub before: Epoch,
    /// Where the log goes on.
    pub after: LogPosition,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Logs {
    logs: BTreeMap<Arc<str>, Log>,
    /// What the epochs begin with, so that no two Redis share one.
    life: u64,
    epochs: u64,
}

impl Log {
    /// Another epoch goes on where this one ends.
    fn roll(&mut self, epoch: Epoch) {
        self.ended.push(self.last);
        let forgotten = self.ended.len().saturating_sub(ENDED_EPOCHS);
        self.ended.drain(..forgotten);
        self.last.epoch = epoch;
    }

    /// The last `lost` events are gone.
    fn lose(&mut self, lost: usize) {
        for _ in 0..lost {
            let Some((offset, _)) = self.events.pop_back() else { break };
            self.last.offset = offset.previous();
        }
        // What was lost may reach back into an epoch before.
        while let Some(before) = self.ended.pop_if(|ended| ended.offset > self.last.offset) {
            self.last.epoch = before.epoch;
        }
    }
}

impl Logs {
    /// None, of a Redis with this number.
    pub fn new(life: u64) -> Self {
        Logs { life, ..Logs::default() }
    }

    fn next_epoch(&mut self) -> Epoch {
        self.epochs += 1;
        Epoch::new(self.life * EPOCHS + self.epochs)
    }

    fn log(&mut self, channel: &Arc<str>) -> &mut Log {
        if !self.logs.contains_key(channel) {
            let last = LogPosition { epoch: self.next_epoch(), offset: LoggedOffset(0) };
            self.logs.insert(channel.clone(), Log { last, events: VecDeque::new(), ended: Vec::new() });
        }
        self.logs.get_mut(channel).expect("it is there")
    }

    /// Appends an event to its channel's log; returns what is then to be published, and where it is.
    pub fn append(&mut self, channel: &Arc<str>, entry: &LogEntry) -> (Bytes, LogPosition) {
        let log = self.log(channel);
        log.last.offset = log.last.offset.next();
        let LogPosition { epoch, offset } = log.last;
        let object = entry.payload.strip_suffix(b"}").expect("an object");
        let place = format!(r#","offset":{},"epoch":"{}","id":"{}"}}"#, offset.0, epoch.as_str(), entry.id);
        let payload = Bytes::from([object, place.as_bytes()].concat());
        log.events.push_back((offset, payload.clone()));
        while log.events.len() as u64 > entry.max_events {
            log.events.pop_front();
        }
        (payload, LogPosition { epoch, offset })
    }

    /// Whether a log was begun.
    pub fn has(&self, channel: &str) -> bool {
        self.logs.contains_key(channel)
    }

    /// Reads a part of a log, which begins by this if there is none.
    pub fn read(&mut self, channel: &Arc<str>, range: LogRange, limit: usize) -> StoredLog {
        let log = self.log(channel);
        let event = |(offset, payload): &(LoggedOffset, Bytes)| StoredLogEvent {
            offset: *offset,
            payload: payload.clone(),
        };
        let events = match range {
            LogRange::After(after) => {
                log.events.iter().filter(|(offset, _)| *offset > after).take(limit).map(event).collect()
            }
            LogRange::Newest => {
                let skipped = log.events.len().saturating_sub(limit);
                log.events.iter().skip(skipped).map(event).collect()
            }
        };
        let first = log.events.front().map_or(log.last.offset.next(), |(offset, _)| *offset);
        StoredLog { last: log.last, first, ended: log.ended.clone(), events }
    }

    /// Where a log ends.
    pub fn end(&mut self, channel: &Arc<str>) -> LogPosition {
        self.log(channel).last
    }

    /// The oldest events of a log are no longer kept.
    pub fn trim(&mut self, channel: &Arc<str>, keep: usize) {
        let log = self.log(channel);
        while log.events.len() > keep {
            log.events.pop_front();
        }
    }

    /// Redis starts again, without the last writes to its logs: of each the last `lost` events.
    pub fn restart(&mut self, lost: usize) -> Vec<Rolled> {
        let channels: Vec<Arc<str>> = self.logs.keys().cloned().collect();
        let mut rolled = Vec::new();
        for channel in channels {
            let epoch = self.next_epoch();
            let Some(log) = self.logs.get_mut(&channel) else { continue };
            let before = log.last.epoch;
            log.lose(lost);
            log.roll(epoch);
            rolled.push(Rolled { channel, before, after: log.last });
        }
        rolled
    }

    /// A replica of this Redis, with another number, which lacks the last `lost` events of each log, is promoted.
    pub fn promote_replica(&self, life: u64, lost: usize) -> (Logs, Vec<Rolled>) {
        let mut replica = Logs { logs: self.logs.clone(), life, epochs: 0 };
        let rolled = replica.restart(lost);
        (replica, rolled)
    }

    /// The log of a channel goes to another Redis, with nothing lost.
    pub fn give(&mut self, channel: &Arc<str>, to: &mut Logs) -> Option<Rolled> {
        let mut log = self.logs.remove(channel)?;
        let before = log.last.epoch;
        log.roll(to.next_epoch());
        let after = log.last;
        to.logs.insert(channel.clone(), log);
        Some(Rolled { channel: channel.clone(), before, after })
    }

    /// The channels that have logs.
    pub fn channels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.logs.keys()
    }

    /// Redis starts again without anything.
    pub fn clear(&mut self) {
        self.logs.clear();
    }
}
