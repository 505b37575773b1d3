//! The live stream of one channel with `history`: which logged event comes next, what is held while the log's position is
//! read, and the readings of those who catch up. When anything is read, and who gets what, is left to [`super::logs`].
//!
//! ```text
//!   not known ──position read──▶ live at P ──P+1 comes──▶ live at P+1
//!                                   │  any other: held, as is all that comes until the position is read
//!                                   ▼
//!                                reading ──read up to Q──▶ live at Q: what is held behind Q follows; of what is missing
//!                                                          between P and Q the shards are notified, and read it
//! ```
//!
//! Invariant: of two logged events that are delivered one after the other without a notice between them, the second follows
//! the first in the log. Nothing that the log does not have is delivered as logged.

use std::collections::VecDeque;
use std::sync::Arc;

use super::shards::ShardSet;
use super::stored_log::{Cursor, StoredLog};
use super::tail::Tail;
use crate::io::{LogPosition, LogReader, LoggedOffset, Publication};

/// How many logged events are held while a position is read, or kept for those who catch up, and what they take in bytes. Beyond
/// that nothing more is held: what is missing then is read from the log.
const MAX_HELD: usize = 1_024;
const MAX_HELD_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Every event up to here was delivered, or the shards were notified; `None`: not known yet.
    pub(super) at: Option<LogPosition>,
    /// The link broke there: where the stream goes on is not known.
    is_stale: bool,
    /// While its position is being read.
    reading: Option<Reading>,
    /// Who catches up.
    pub(super) catch_ups: Option<Box<CatchUps>>,
    /// The newest events, for those who catch up soon.
    pub(super) tail: Option<Box<Tail>>,
}

#[derive(Debug)]
struct Reading {
    load: u64,
    /// It reads a page, too: all behind this.
    after: Option<LoggedOffset>,
    reader: LogReader,
    held: Kept,
    /// How many of the held events came before this reading was requested: what it does not cover of them the log does
    /// not have.
    before: usize,
    /// The stream begins with the first of them, if the log has it.
    starts: bool,
}

/// Events in order, within the bound.
#[derive(Debug, Default)]
pub(super) struct Kept {
    events: VecDeque<Arc<Publication>>,
    bytes: usize,
    /// Some are missing behind those that are kept.
    is_over: bool,
}

/// Those who catch up on one channel: one reading at a time, and the next for all who come meanwhile.
#[derive(Debug, Default)]
pub(super) struct CatchUps {
    /// Not read yet.
    pub(super) waiting: Option<CatchUpRequest>,
    /// Being read.
    pub(super) out: Option<PageOut>,
}

/// What shards need of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CatchUpRequest {
    pub(super) shards: ShardSet,
    /// All behind this.
    pub(super) after: LoggedOffset,
}

/// A page that is being read, or was read ahead of the live stream.
#[derive(Debug)]
pub(super) struct PageOut {
    pub(super) load: u64,
    pub(super) request: CatchUpRequest,
    /// What was delivered since it was requested.
    pub(super) since: Kept,
    /// It was read, and ends where the live stream has not come yet.
    pub(super) read: Option<StoredLog>,
    /// Until when it waits for that, in milliseconds; 0: it does not.
    pub(super) deadline_ms: u64,
}

/// A page that was made of a tail.
#[derive(Debug)]
pub(super) struct TailPage {
    /// Where the live stream is, and where the page ends.
    pub(super) live: LogPosition,
    pub(super) request: CatchUpRequest,
    /// Without events.
    pub(super) stored: StoredLog,
    pub(super) events: Vec<Arc<Publication>>,
}

/// What becomes of a live event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is to be delivered now.
    Deliver,
    /// It was delivered before.
    Known,
    /// It is held, and the position is being read.
    Held,
    /// It does not follow: the position is to be read. It is not held yet.
    Gap,
}

/// What a reading of the position says of the stream so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) from: LogPosition,
    pub(super) to: LogPosition,
    /// Nothing is missing between them: another epoch goes on where the one before ended.
    pub(super) is_whole: bool,
}

/// What follows from a reading of the position.
#[derive(Debug, Default)]
pub(super) struct AfterReading {
    /// The stream goes on elsewhere.
    pub(super) moved: Option<Moved>,
    /// What was held and is to be delivered now, in order.
    pub(super) events: Vec<Arc<Publication>>,
    /// How many events were dropped, because the log does not have them where they say.
    pub(super) forged: usize,
    /// An event does not follow: the position is to be read again.
    pub(super) is_behind: bool,
}

impl Kept {
    fn push(&mut self, publication: Arc<Publication>) {
        let weight = publication.weight();
        if self.is_over || self.events.len() >= MAX_HELD || self.bytes + weight > MAX_HELD_BYTES {
            self.is_over = true;
            return;
        }
        self.bytes += weight;
        self.events.push_back(publication);
    }

    /// The logged events behind this offset.
    fn behind(self, offset: LoggedOffset) -> impl Iterator<Item = Arc<Publication>> {
        let is_behind =
            move |event: &Arc<Publication>| event.in_log.position().is_some_and(|at| at.offset > offset);
        self.events.into_iter().filter(is_behind)
    }
}

impl Log {
    /// Whether its position is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Whether its position has to be read before anything else of it.
    pub(super) fn is_lost(&self) -> bool {
        self.at.is_none() || self.is_stale
    }

    /// Whether its position is read by this reading.
    pub(super) fn awaits(&self, load: u64) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.load == load)
    }

    /// Whether that the log never was, as this reading found, concerns only those who catch up on it: nothing of it was delivered,
    /// and nothing is held.
    pub(super) fn is_only_named(&self) -> bool {
        let is_empty = |reading: &Reading| reading.held.events.is_empty() && !reading.held.is_over;
        self.at.is_none() && self.reading.as_ref().is_none_or(is_empty)
    }

    /// Whether its position is read without beginning it.
    pub(super) fn is_read_for_pattern(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.reader == LogReader::Pattern)
    }

    /// The position is read from now on; with it a page, if a shard waits for one. Returns behind which offset.
    pub(super) fn begin(&mut self, load: u64, reader: LogReader) -> Option<LoggedOffset> {
        let after =
            self.catch_ups.as_ref().and_then(|catch_ups| catch_ups.waiting).map(|request| request.after);
        let (held, starts) =
            self.reading.take().map(|reading| (reading.held, reading.starts)).unwrap_or_default();
        let before = held.events.len();
        self.reading = Some(Reading { load, after, reader, held, before, starts });
        after
    }

    /// The link is gone: what comes on the next one follows nothing. Who catches up is read for again.
    pub(super) fn link_broke(&mut self) {
        (self.reading, self.tail) = (None, None);
        self.is_stale = true;
        self.put_back();
    }

    /// The page that is being read is of no use: it is read again.
    pub(super) fn put_back(&mut self) {
        if let Some(catch_ups) = &mut self.catch_ups
            && let Some(out) = catch_ups.out.take()
        {
            catch_ups.want(out.request);
        }
    }

    /// Whether a shard catches up.
    pub(super) fn is_busy(&self) -> bool {
        self.catch_ups.as_ref().is_some_and(|catch_ups| !catch_ups.is_idle())
    }

    fn page(&self) -> Option<&PageOut> {
        self.catch_ups.as_ref()?.out.as_ref()
    }

    /// Whether its next page is read by this reading.
    pub(super) fn awaits_page(&self, load: u64) -> bool {
        self.page().is_some_and(|out| out.load == load && out.read.is_none())
    }

    /// Whether a page waits for the link until then.
    pub(super) fn has_page_of(&self, deadline_ms: u64) -> bool {
        self.page().is_some_and(|out| out.read.is_some() && out.deadline_ms == deadline_ms)
    }

    /// Whether the stream has come to the end of the page that waits for it.
    pub(super) fn has_come_to_page(&self) -> bool {
        let end = self.page().and_then(|out| out.read.as_ref()).map(|read| read.last.offset);
        self.at.zip(end).is_some_and(|(at, end)| at.offset >= end)
    }

    /// The next page is read by this reading, if a shard waits for it. Returns behind which offset.
    pub(super) fn begin_page(&mut self, load: u64) -> Option<LoggedOffset> {
        let catch_ups = self.catch_ups.as_mut().filter(|catch_ups| catch_ups.out.is_none())?;
        let request = catch_ups.waiting.take()?;
        catch_ups.out = Some(PageOut::new(load, request));
        Some(request.after)
    }

    /// Behind which offset the reading of the position reads a page, too.
    pub(super) fn reads_after(&self) -> Option<LoggedOffset> {
        self.reading.as_ref()?.after
    }

    /// The position was read, and what was read with it is the page of those who catch up: they need all behind `after`, or
    /// nothing but these events, which were delivered since. Returns whether that is so.
    pub(super) fn page_from_position(
        &mut self,
        stored: &StoredLog,
        after: Option<LoggedOffset>,
        since: &[Arc<Publication>],
    ) -> bool {
        let Some(catch_ups) = self.catch_ups.as_mut().filter(|catch_ups| catch_ups.out.is_none()) else {
            return false;
        };
        let is_read = |request: &mut CatchUpRequest| {
            request.after >= stored.last.offset || after.is_some_and(|after| after <= request.after)
        };
        let Some(request) = catch_ups.waiting.take_if(is_read) else { return false };
        let read_after = after.map_or(request.after, |after| after.min(request.after));
        let request = CatchUpRequest { after: read_after, ..request };
        let mut out = PageOut::new(0, request);
        since.iter().for_each(|publication| out.since.push(publication.clone()));
        catch_ups.out = Some(out);
        true
    }

    /// The page of those who catch up, if all that they need is in the tail.
    pub(super) fn page_from_tail(&mut self) -> Option<TailPage> {
        let catch_ups = self.catch_ups.as_mut().filter(|catch_ups| catch_ups.out.is_none())?;
        let (live, request) = (self.at?, catch_ups.waiting?);
        let (stored, events) = self.tail.as_ref()?.behind(request.after, live)?;
        self.catch_ups = None;
        Some(TailPage { live, request, stored, events })
    }

    /// The page was read.
    pub(super) fn keep_page(&mut self, stored: StoredLog, deadline_ms: u64) {
        if let Some(out) = self.catch_ups.as_mut().and_then(|catch_ups| catch_ups.out.as_mut()) {
            (out.read, out.deadline_ms) = (Some(stored), deadline_ms);
        }
    }

    /// Takes the page out, to be sent at this position of the stream.
    pub(super) fn take_page(&mut self) -> Option<(LogPosition, PageOut)> {
        let at = self.at?;
        let catch_ups = self.catch_ups.as_mut()?;
        let out = catch_ups.out.take()?;
        if catch_ups.is_idle() {
            self.catch_ups = None;
        }
        Some((at, out))
    }

    /// What becomes of a live event. A volatile one has no place in the log: it waits for nothing. `starts`: as for [`Log::hold`].
    pub(super) fn take(&mut self, publication: &Arc<Publication>, starts: bool) -> Fate {
        let Some(next) = publication.in_log.position() else { return Fate::Deliver };
        if let Some(reading) = &mut self.reading {
            // Why also here: who catches up may have begun the reading, and it may find this event; the others were not shown it.
            reading.starts |= starts && self.at.is_none() && reading.held.events.is_empty();
            reading.held.push(publication.clone());
            return Fate::Held;
        }
        match self.at {
            None => return Fate::Gap,
            Some(at) if at.epoch != next.epoch => return Fate::Gap,
            Some(at) if next.offset <= at.offset => return Fate::Known,
            Some(at) if next.offset != at.offset.next() => return Fate::Gap,
            Some(_) => {}
        }
        (self.at, self.is_stale) = (Some(next), false);
        Fate::Deliver
    }

    /// Holds an event until the position is read. `starts`: where no position is known the stream begins with this event,
    /// if the log has it.
    pub(super) fn hold(&mut self, publication: &Arc<Publication>, starts: bool) {
        if let Some(reading) = &mut self.reading {
            reading.held.push(publication.clone());
            reading.before = reading.held.events.len();
            reading.starts = starts && self.at.is_none();
        }
    }

    /// An event was delivered: whoever catches up needs it behind the page.
    pub(super) fn delivered(&mut self, publication: &Arc<Publication>) {
        self.tail.take_if(|tail| !tail.follow(publication));
        if let Some(out) = self.catch_ups.as_mut().and_then(|catch_ups| catch_ups.out.as_mut())
            && publication.in_log.position().is_some()
        {
            out.since.push(publication.clone());
        }
    }

    /// The position was read: goes on from there, with what was held.
    pub(super) fn settle(&mut self, stored: &StoredLog) -> AfterReading {
        let Some(Reading { load, held, before, starts, .. }) = self.reading.take() else {
            return AfterReading::default();
        };
        let moved = self.go_on(stored, &held, starts);
        self.is_stale = false;
        let mut settled = AfterReading { moved, ..AfterReading::default() };
        let Kept { mut events, is_over, .. } = held;
        let mut taken = 0;
        while let Some(publication) = events.pop_front() {
            taken += 1;
            let (Some(next), Some(at)) = (publication.in_log.position(), self.at) else {
                settled.events.push(publication);
                continue;
            };
            match () {
                () if is_covered(stored, at, next) => {}
                () if follows(stored, at, next) => {
                    self.at = Some(next);
                    settled.events.push(publication);
                }
                () if taken <= before => settled.forged += 1,
                () => {
                    events.push_front(publication);
                    break;
                }
            }
        }
        settled.is_behind = is_over || !events.is_empty();
        if settled.is_behind {
            // With what is held; without what was not, it is the log that says what follows.
            let mut held = Kept::default();
            events.into_iter().for_each(|publication| held.push(publication));
            let before = held.events.len();
            self.reading =
                Some(Reading { load, after: None, reader: LogReader::Hub, held, before, starts: false });
        }
        settled
    }

    /// Where the stream goes on: where it is, if what was held follows; else with what was held, if the log has it, so that a
    /// shard that is new to the channel is shown it; else behind all that the log has.
    fn go_on(&mut self, stored: &StoredLog, held: &Kept, starts: bool) -> Option<Moved> {
        let is_kept = |first: &LogPosition| {
            first.offset <= stored.last.offset && first.epoch == stored.epoch_of(first.offset)
        };
        let start = |first: LogPosition| LogPosition { offset: first.offset.previous(), ..first };
        let Some(from) = self.at else {
            let first = held.events.iter().find_map(|event| event.in_log.position()).filter(|_| starts);
            self.at = Some(first.filter(is_kept).map_or(stored.last, start));
            return None;
        };
        let cursor = stored.cursor(from);
        let mut positions = held.events.iter().filter_map(|event| event.in_log.position());
        let next = positions.find(|next| !is_covered(stored, from, *next));
        if cursor != Cursor::Unknown && next.is_some_and(|next| follows(stored, from, next)) {
            return None;
        }
        if from == stored.last {
            return None;
        }
        let to = next.filter(is_kept).map_or(stored.last, start);
        self.at = Some(to);
        let is_whole = cursor == Cursor::Continues && from.offset == to.offset;
        Some(Moved { from, to, is_whole })
    }
}

/// Whether an event is of the past of a stream that has come to `at`.
fn is_covered(stored: &StoredLog, at: LogPosition, event: LogPosition) -> bool {
    let is_known = event.epoch == at.epoch || stored.ended.iter().any(|ended| ended.epoch == event.epoch);
    is_known && event.offset <= at.offset
}

/// Whether an event is the next of a stream that has come to `at`.
fn follows(stored: &StoredLog, at: LogPosition, event: LogPosition) -> bool {
    let is_next = event.offset == at.offset.next();
    is_next && (event.epoch == at.epoch || event.epoch == stored.epoch_of(event.offset))
}

impl CatchUps {
    /// Adds what a shard needs.
    pub(super) fn want(&mut self, request: CatchUpRequest) {
        let waiting = self.waiting.get_or_insert(request);
        waiting.shards = waiting.shards.union(request.shards);
        waiting.after = waiting.after.min(request.after);
    }

    /// All who catch up.
    pub(super) fn shards(&self) -> ShardSet {
        let out = self.out.as_ref().map(|out| out.request);
        let all = self.waiting.into_iter().chain(out).map(|request| request.shards);
        all.fold(ShardSet::default(), ShardSet::union)
    }

    /// Whether no shard catches up.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.out.is_none()
    }
}

impl PageOut {
    /// A page that is requested now.
    pub(super) fn new(load: u64, request: CatchUpRequest) -> Self {
        PageOut { load, request, since: Kept::default(), read: None, deadline_ms: 0 }
    }
}

/// A page and what was delivered live since it was requested.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) events: Vec<Arc<Publication>>,
    /// All up to here is in it.
    pub(super) end: LogPosition,
}

impl Page {
    /// Puts a page that was read together with what came since; `stored`: as [`publications`](super::logs) read it.
    pub(super) fn new(
        log: &StoredLog,
        stored: Vec<Arc<Publication>>,
        read_up_to: LoggedOffset,
        since: Kept,
    ) -> Self {
        let mut page = Page { events: stored, end: position_of(log, read_up_to) };
        if read_up_to < log.last.offset {
            return page;
        }
        page.end = log.last;
        for publication in since.behind(log.last.offset) {
            // What was not kept leaves a hole only behind all that was.
            let at = publication.in_log.position();
            let Some(at) = at.filter(|at| at.offset == page.end.offset.next()) else { break };
            page.end = at;
            page.events.push(publication);
        }
        page
    }
}

/// The position of an offset that the log has had.
pub(super) fn position_of(log: &StoredLog, offset: LoggedOffset) -> LogPosition {
    LogPosition { epoch: log.epoch_of(offset), offset }
}
