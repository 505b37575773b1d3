//! Channels with `history` through the hub: their positions are read when Redis has confirmed the subscription, and again
//! wherever an event does not follow; and shards that are behind are sent pages of the log, where the live stream goes on.
//! What follows what is in [`super::log`].
//!
//! A page is complete if it ends where the channel's live stream is when the page is sent, in the same queue: then every later
//! event of the queue continues it. A page that was read ahead of the link waits for it; what the link delivered since the
//! page was requested is added to it.

use std::sync::Arc;

use drawbridge_protocol::event::{Event, Payload};
use drawbridge_protocol::glob;
use hashbrown::HashMap;

use super::due::pop_due;
use super::hub::{Hub, State};
use super::io::{HubOutput, HubSettings};
use super::log::{AfterReading, CatchUpRequest, Fate, Log, Moved, Page, PageOut, TailPage};
use super::shards::{ShardId, ShardSet};
use super::source::Source;
use super::stored_log::{Cursor, LogRange, StoredLog, StoredLogEvent};
use crate::class::{Class, ClassId};
use crate::io::{
    BrokerEvent, Epoch, InLog, LocalOffset, LogPosition, LogReader, LoggedOffset, Publication, Replay,
    Subject, SubjectRef,
};

/// The most events of one page; a reading ends earlier where they take more than a part of an answer may.
const PAGE: usize = 256;
/// How long a page waits for the link, in milliseconds. After that the log has what was never published.
const LINK_MS: u64 = 2_000;
/// How many channels that only patterns cover one generation holds; there are two. Those in use stay.
const GENERATION: usize = 16_384;

/// The logs of channels that only patterns cover, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct PatternLogs {
    recent: HashMap<Arc<str>, Log>,
    older: HashMap<Arc<str>, Log>,
}

impl PatternLogs {
    fn get(&mut self, channel: &str) -> Option<(&Arc<str>, &mut Log)> {
        if !self.recent.contains_key(channel) {
            let (name, log) = self.older.remove_entry(channel)?;
            self.put(name, log);
        }
        self.recent.get_key_value_mut(channel)
    }

    fn take(&mut self, channel: &str) -> Option<Log> {
        self.recent.remove(channel).or_else(|| self.older.remove(channel))
    }

    fn put(&mut self, channel: Arc<str>, log: Log) {
        if self.recent.len() >= GENERATION {
            let older = std::mem::replace(&mut self.older, std::mem::take(&mut self.recent));
            self.recent.extend(older.into_iter().filter(|(_, log)| log.is_busy()));
        }
        self.recent.insert(channel, log);
    }

    fn retain(&mut self, mut is_kept: impl FnMut(&str, &Log) -> bool) {
        for logs in [&mut self.recent, &mut self.older] {
            logs.retain(|name, log| is_kept(name, log));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }
}

impl Hub {
    /// What is known of the log of a channel that is wanted from now on; it is this entry's.
    pub(super) fn log_source(&mut self, channel: &str) -> Source {
        Source::Log(Box::new(self.pattern_logs.take(channel).unwrap_or_default()))
    }

    /// An entry is gone: what is known of its channel's log stays where a pattern covers it.
    pub(super) fn keep_log(&mut self, channel: &Arc<str>, log: Log) {
        if self.is_followed(channel, &log) {
            self.pattern_logs.put(channel.clone(), log);
            self.serve_catch_ups(channel);
        }
    }

    /// Whether a shard is shown a channel by a pattern, or was until the link broke; or catches up on it. Of any other channel
    /// events come and go unnoticed, and the next one follows nothing.
    fn is_followed(&mut self, channel: &str, log: &Log) -> bool {
        let (mut is_followed, is_busy) = (false, log.is_busy());
        self.patterns.for_each_match(channel, |_, pattern| {
            is_followed |= !pattern.shards.is_empty() && (pattern.is_live || pattern.broken || is_busy);
        });
        is_followed
    }

    /// An event came of a channel that no shard is shown: the next one follows nothing.
    pub(super) fn pass_over_log(&mut self, channel: &str) {
        let Some(mut log) = self.pattern_logs.take(channel).filter(Log::is_busy) else { return };
        log.link_broke();
        log.at = None;
        let name: Arc<str> = channel.into();
        self.pattern_waiting.insert(name.clone());
        self.pattern_logs.put(name, log);
    }

    /// A pattern is gone: what is known of logs is of no use where no other one shows their channels.
    pub(super) fn forget_pattern_logs(&mut self, pattern: &str) {
        let mut logs = std::mem::take(&mut self.pattern_logs);
        logs.retain(|channel, log| !glob::glob_matches(pattern, channel) || self.is_followed(channel, log));
        self.pattern_waiting
            .retain(|channel| logs.recent.contains_key(channel) || logs.older.contains_key(channel));
        self.pattern_logs = logs;
    }

    /// The log of a channel that is wanted, by its name or by patterns alone.
    fn log_of(&mut self, channel: &str) -> Option<&mut Log> {
        match self.entries.get_mut(&SubjectRef::channel(channel)) {
            Some(entry) => entry.source.log_mut(),
            None => self.pattern_logs.get(channel).map(|(_, log)| log),
        }
    }

    /// Who is shown the events of a channel now.
    fn log_shards(&mut self, channel: &str) -> ShardSet {
        let by_pattern = self.pattern_shards(channel);
        match self.entries.get(&SubjectRef::channel(channel)) {
            Some(entry) if entry.state == State::Live => by_pattern.union(entry.shards),
            _ => by_pattern,
        }
    }

    /// As [`Hub::log_shards`], of a volatile event: also those who were shown the channel until the link broke, while its
    /// position is being read.
    fn volatile_shards(&mut self, channel: &str) -> ShardSet {
        let shards = self.log_shards(channel);
        match self.entries.get(&SubjectRef::channel(channel)) {
            Some(entry) if entry.state == State::Loading && entry.broken => shards.union(entry.shards),
            _ => shards,
        }
    }

    /// Where an event of a channel with `history` says that it is.
    pub(super) fn in_log(class: Option<&Class>, payload: &Payload<'_>) -> InLog {
        if class.is_none_or(|class| class.history.is_none()) {
            return InLog::NoLog;
        }
        logged(payload).map_or(InLog::Volatile, InLog::At)
    }

    /// An event of a channel with `history`, from the canonical subscription. `starts`: where its position is not known the
    /// stream begins with it.
    pub(super) fn log_event(&mut self, name: &Arc<str>, publication: &Arc<Publication>, starts: bool) {
        if starts && self.log_of(name).is_none() && !self.entries.contains_key(&SubjectRef::channel(name)) {
            self.pattern_logs.put(name.clone(), Log::default());
        }
        let Some(log) = self.log_of(name) else { return };
        match log.take(publication, starts) {
            Fate::Deliver => self.deliver_logged(name, publication),
            Fate::Known | Fate::Held => {}
            Fate::Gap => {
                self.stats.log_gaps += u64::from(log.at.is_some());
                self.begin_log(name);
                self.log_of(name).into_iter().for_each(|log| log.hold(publication, starts));
            }
        }
    }

    fn deliver_logged(&mut self, name: &Arc<str>, publication: &Arc<Publication>) {
        let shards = match publication.in_log.position() {
            Some(_) => self.log_shards(name),
            None => self.volatile_shards(name),
        };
        if !shards.is_empty() {
            let event = BrokerEvent::Publication(publication.clone());
            self.outputs.push_back(HubOutput::Shards(shards, event));
        }
        let Some(log) = self.log_of(name) else { return };
        log.delivered(publication);
        if log.has_come_to_page() {
            self.finish_page(name);
        }
    }

    /// Reads the position of a log, and with it the page that a shard waits for.
    pub(super) fn begin_log(&mut self, name: &Arc<str>) {
        let is_wanted = self.entries.contains_key(&SubjectRef::channel(name));
        let reader = match self.log_of(name) {
            Some(log) if !is_wanted && log.is_only_named() => LogReader::Pattern,
            _ => LogReader::Hub,
        };
        self.begin_log_as(name, reader);
    }

    fn begin_log_as(&mut self, name: &Arc<str>, reader: LogReader) {
        self.loads += 1;
        let load = self.loads;
        let Some(log) = self.log_of(name) else { return };
        let (range, limit) = match log.begin(load, reader) {
            Some(after) => (LogRange::After(after), PAGE),
            None => (LogRange::Newest, 0),
        };
        self.read_log(name, load, (range, limit), reader);
    }

    fn read_log(&mut self, name: &Arc<str>, load: u64, (range, limit): (LogRange, usize), reader: LogReader) {
        self.stats.log_reads += 1;
        self.outputs.push_back(HubOutput::ReadLog { channel: name.clone(), load, range, limit, reader });
    }

    /// A log never was: who catches up on it has nothing to catch up on, and its first event starts the stream. Where something has
    /// come of it meanwhile, or it is wanted by its name, it is begun.
    fn log_absent(&mut self, name: &Arc<str>) {
        let is_wanted = self.entries.contains_key(&SubjectRef::channel(name));
        if is_wanted || self.log_of(name).is_none_or(|log| !log.is_only_named()) {
            return self.begin_log_as(name, LogReader::Hub);
        }
        self.pattern_waiting.remove(name);
        let waiting = self.pattern_logs.take(name).and_then(|log| log.catch_ups);
        let waiting = waiting.map_or(ShardSet::default(), |catch_ups| catch_ups.shards());
        if !waiting.is_empty() {
            let failed = BrokerEvent::Replay(Arc::new(Replay::failed(name.clone())));
            self.outputs.push_back(HubOutput::Shards(waiting, failed));
        }
    }

    /// A part of a log was read.
    pub(super) fn log_read(
        &mut self,
        now_ms: u64,
        channel: &str,
        load: u64,
        stored: Result<StoredLog, Arc<str>>,
    ) {
        let key = SubjectRef::channel(channel);
        let name = match self.entries.get_key_value(&key) {
            Some((subject, _)) => Some(subject.name.clone()),
            None => self.pattern_logs.get(channel).map(|(name, _)| name.clone()),
        };
        let Some(name) = name else { return };
        let Some(log) = self.log_of(&name) else { return };
        match stored {
            Ok(stored) if log.awaits(load) && log.is_read_for_pattern() && stored.is_absent() => {
                self.log_absent(&name);
            }
            Ok(stored) if log.awaits(load) => self.position_read(now_ms, &name, stored),
            Ok(stored) if log.awaits_page(load) => self.page_read(now_ms, &name, stored),
            Err(reason) if log.awaits(load) || log.awaits_page(load) => self.log_refused(&name, &reason),
            // The link has broken since, or it was requested again.
            Ok(_) | Err(_) => {}
        }
    }

    fn position_read(&mut self, now_ms: u64, name: &Arc<str>, stored: StoredLog) {
        let Some(log) = self.log_of(name) else { return };
        let after = log.reads_after();
        let AfterReading { moved, events, forged, is_behind } = log.settle(&stored);
        self.stats.dropped_forged += forged as u64;
        if let Some(Moved { from, to, is_whole }) = moved {
            log_put_back(self.log_of(name));
            let entry = self.entries.get(&SubjectRef::channel(name)).map(|entry| entry.shards);
            let shards = self.pattern_shards(name).union(entry.unwrap_or_default());
            if !shards.is_empty() {
                let event = BrokerEvent::LogMoved { channel: name.clone(), from, to, is_whole };
                self.outputs.push_back(HubOutput::Shards(shards, event));
            }
        }
        let subject = Subject::channel(name.clone());
        if self.entries.get(&subject).is_some_and(|entry| entry.state == State::Loading) {
            self.goes_live(now_ms, &subject);
        }
        events.iter().for_each(|publication| self.deliver_logged(name, publication));
        if is_behind {
            self.begin_log(name);
        } else if self.log_of(name).is_some_and(|log| log.page_from_position(&stored, after, &events)) {
            self.page_read(now_ms, name, stored);
        }
        self.serve_catch_ups(name);
    }

    /// Redis does not return the log. Who subscribes by the channel's name is refused; others are notified of a gap.
    fn log_refused(&mut self, name: &Arc<str>, reason: &Arc<str>) {
        let shards = self.log_shards(name);
        let Some(log) = self.log_of(name) else { return };
        let waiting = log.catch_ups.take().map_or(ShardSet::default(), |catch_ups| catch_ups.shards());
        *log = Log::default();
        let failed = Replay::failed(name.clone());
        let shards = shards.union(waiting);
        if !shards.is_empty() {
            self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Replay(Arc::new(failed))));
        }
        let subject = Subject::channel(name.clone());
        let state = self.entries.get(&subject).map(|entry| entry.state);
        if let Some(state @ (State::Loading | State::Live)) = state {
            self.live -= usize::from(state == State::Live);
            self.load_refused(&subject, reason);
        }
    }

    /// A shard needs all behind this offset.
    pub(super) fn catch_up(&mut self, shard: ShardId, channel: &Arc<str>, after: LoggedOffset) {
        if self.holds_catch_up(shard, channel, after) {
            return;
        }
        let request = CatchUpRequest { shards: ShardSet::only(shard), after };
        let is_wanted = self.entries.contains_key(&SubjectRef::channel(channel));
        let is_logged =
            self.rules_of(channel).class(&self.settings).is_some_and(|class| class.history.is_some());
        if !is_wanted && is_logged && self.pattern_logs.get(channel).is_none() {
            let mut is_covered = false;
            self.patterns.for_each_match(channel, |_, _| is_covered = true);
            if !is_covered {
                return self.refuse_catch_up(shard, channel);
            }
            self.pattern_logs.put(channel.clone(), Log::default());
        }
        let Some(log) = self.log_of(channel) else { return self.refuse_catch_up(shard, channel) };
        log.catch_ups.get_or_insert_default().want(request);
        self.serve_catch_ups(channel);
    }

    /// Nobody wants the channel here. The shard is answered all the same: it requests nothing more until then.
    fn refuse_catch_up(&mut self, shard: ShardId, channel: &Arc<str>) {
        let failed = BrokerEvent::Replay(Arc::new(Replay::failed(channel.clone())));
        self.outputs.push_back(HubOutput::Shards(ShardSet::only(shard), failed));
    }

    /// Reads the next page of a log, if a shard waits for it and the channel is live.
    pub(super) fn serve_catch_ups(&mut self, name: &Arc<str>) {
        let state = self.entries.get(&SubjectRef::channel(name)).map(|entry| entry.state);
        let by_pattern = !self.pattern_shards(name).is_empty();
        let is_live = match state {
            Some(State::Live) => true,
            Some(State::Loading) => false,
            None | Some(State::Waiting | State::Asked | State::Ending) => by_pattern,
        };
        let load = self.loads + 1;
        let Some(log) = self.log_of(name) else { return };
        if !log.is_busy() || log.is_reading() {
            return;
        }
        if !is_live {
            if state.is_none() {
                self.pattern_waiting.insert(name.clone());
            }
            return;
        }
        if log.is_lost() {
            return self.begin_log(name);
        }
        if let Some(page) = log.page_from_tail() {
            return self.send_tail(name, page);
        }
        if let Some(after) = log.begin_page(load) {
            self.loads = load;
            self.read_log(name, load, (LogRange::After(after), PAGE), LogReader::Hub);
        }
    }

    /// A pattern is live: reads for those who wait for channels under it.
    pub(super) fn serve_pattern(&mut self, pattern: &str) {
        if self.pattern_waiting.is_empty() {
            return;
        }
        let is_under = |channel: &Arc<str>| glob::glob_matches(pattern, channel);
        let mut channels: Vec<Arc<str>> = self.pattern_waiting.extract_if(is_under).collect();
        channels.sort_unstable();
        for channel in channels {
            self.serve_catch_ups(&channel);
        }
    }

    fn page_read(&mut self, now_ms: u64, name: &Arc<str>, stored: StoredLog) {
        let Some(log) = self.log_of(name) else { return };
        let Some(at) = log.at.filter(|_| !log.is_reading()) else { return log.put_back() };
        // Why not `at`: the link may have delivered what was published after the page was read.
        let is_same = at.epoch == stored.last.epoch;
        let covered = if is_same { at.offset.min(stored.last.offset) } else { at.offset };
        if stored.cursor(LogPosition { offset: covered, ..at }) == Cursor::Unknown {
            log.put_back();
            return self.begin_log(name);
        }
        let is_last = stored.events.last().is_none_or(|last| last.offset >= stored.last.offset);
        let is_ahead = is_last && stored.last.offset > at.offset;
        let deadline_ms = if is_ahead { now_ms + LINK_MS } else { 0 };
        log.keep_page(stored, deadline_ms);
        if is_ahead {
            self.log_deadlines.insert((deadline_ms, name.clone()));
        } else {
            self.finish_page(name);
        }
    }

    /// Sends a page from memory to those who wait for it.
    fn send_tail(&mut self, name: &Arc<str>, TailPage { live, request, stored, events }: TailPage) {
        self.stats.log_pages_from_memory += 1;
        let replay = Replay {
            channel: name.clone(),
            log: Some(stored),
            is_remembered: true,
            after: request.after,
            events: events.into(),
            end: live,
            live,
        };
        self.outputs.push_back(HubOutput::Shards(request.shards, BrokerEvent::Replay(Arc::new(replay))));
    }

    /// Sends a page that was read to those who wait for it.
    fn finish_page(&mut self, name: &Arc<str>) {
        let rules = self.rules_of(name);
        let Some(log) = self.log_of(name) else { return };
        let Some((live, PageOut { request, since, read: Some(mut stored), deadline_ms, .. })) =
            log.take_page()
        else {
            return;
        };
        self.log_deadlines.remove(&(deadline_ms, name.clone()));
        let read_up_to = stored.events.last().map_or(stored.last.offset, |last| last.offset);
        let class = rules.class(&self.settings).zip(rules.class_id());
        let mut events = Vec::new();
        for entry in std::mem::take(&mut stored.events) {
            let offset = entry.offset;
            match class.and_then(|class| read_stored(&self.settings, class, name, &stored, entry)) {
                Some(event) => events.push(Arc::new(event)),
                // What cannot be read counts as no longer kept.
                None => {
                    events.clear();
                    stored.first = offset.next();
                    self.stats.bad_rows += 1;
                }
            }
        }
        let page = Page::new(&stored, events, read_up_to, since);
        // The log has what the link delivered, too: positions up to there are of this history.
        if live.epoch == stored.last.epoch {
            stored.last.offset = stored.last.offset.max(live.offset);
        }
        self.remember(name, &stored, request.after, &page, live);
        let replay = Replay {
            channel: name.clone(),
            log: Some(stored),
            is_remembered: false,
            after: request.after,
            events: page.events.into(),
            end: page.end,
            live,
        };
        self.outputs.push_back(HubOutput::Shards(request.shards, BrokerEvent::Replay(Arc::new(replay))));
        self.serve_catch_ups(name);
    }

    /// Keeps a page that ends where the live stream is, for those who come back soon.
    fn remember(
        &mut self,
        name: &Arc<str>,
        stored: &StoredLog,
        after: LoggedOffset,
        page: &Page,
        live: LogPosition,
    ) {
        let is_whole = page.end == live && stored.last == live && after <= live.offset;
        // What could not be read is not in it.
        let after = LoggedOffset(after.0.max(stored.first.previous().0));
        // Another page, such as one for a position that no log ever had, says nothing of what is kept.
        if !is_whole {
            return;
        }
        let tail = self.tails.begin(name, stored, after, &page.events);
        if let Some(log) = self.log_of(name) {
            log.tail = tail;
        }
    }

    /// Drops what was kept for those who come back, when its time is over.
    fn end_tails(&mut self, now_ms: u64) {
        while let Some(name) = self.tails.pop_due(now_ms) {
            let log = self.log_of(&name);
            log.into_iter().for_each(|log| drop(log.tail.take_if(|tail| tail.is_over(now_ms))));
        }
    }

    /// When [`Hub::end_waiting_pages`] must be called at the latest.
    pub(super) fn log_deadline_ms(&self) -> Option<u64> {
        let page = self.log_deadlines.first().map(|(at, _)| *at);
        page.into_iter().chain(self.tails.next_deadline_ms()).min()
    }

    /// Pages that wait for the link in vain: the stream goes on behind what the log has.
    pub(super) fn end_waiting_pages(&mut self, now_ms: u64) {
        self.end_tails(now_ms);
        while let Some((at, name)) = pop_due(&mut self.log_deadlines, now_ms) {
            let Some(log) = self.log_of(&name) else { continue };
            if log.has_page_of(at) {
                log.put_back();
                if !log.is_reading() {
                    self.begin_log(&name);
                }
            }
        }
    }

    /// What these channels lost with the link, that only patterns cover, is read when something of them comes, or is waited for:
    /// a shard requests what it follows as soon as its pattern is live again.
    pub(super) fn pattern_logs_break(&mut self, is_broken: impl Fn(&str) -> bool) {
        let PatternLogs { recent, older } = &mut self.pattern_logs;
        for (name, log) in recent.iter_mut().chain(older).filter(|(name, _)| is_broken(name)) {
            log.link_broke();
            if log.is_busy() {
                self.pattern_waiting.insert(name.clone());
            }
        }
    }
}

fn log_put_back(log: Option<&mut Log>) {
    log.into_iter().for_each(Log::put_back);
}

/// The position that a payload says it has.
fn logged(payload: &Payload<'_>) -> Option<LogPosition> {
    let (epoch, offset) = payload.logged()?;
    Some(LogPosition { epoch: Epoch::parse(epoch)?, offset: LoggedOffset(offset) })
}

/// An event as the log has it; `None`: it is not as the functions in Redis write it.
pub(crate) fn read_entry(
    (class, id): (&Class, ClassId),
    channel: &Arc<str>,
    StoredLogEvent { offset, payload }: &StoredLogEvent,
) -> Option<Publication> {
    let mut payload = Payload::read(payload, class.payload).ok()?;
    let position = logged(&payload).filter(|position| position.offset == *offset)?;
    if let Ok(Some(key)) = class.entity_of(&payload).0 {
        payload.set_key(key);
    }
    let event = Event::new(&payload, channel, Some(offset.0));
    let mut publication = Publication::new(channel.clone(), event, LocalOffset(0));
    (publication.class, publication.in_log) = (Some(id), InLog::At(position));
    Some(publication)
}

fn read_stored(
    settings: &HubSettings,
    class: (&Class, ClassId),
    channel: &Arc<str>,
    _log: &StoredLog,
    entry: StoredLogEvent,
) -> Option<Publication> {
    Some(entry)
        .filter(|entry| entry.payload.len() <= settings.external_bytes)
        .and_then(|entry| read_entry(class, channel, &entry))
}
