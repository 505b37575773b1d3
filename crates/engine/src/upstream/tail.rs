//! The newest events of a log that a page was read of, kept for a while: whoever comes back meanwhile is sent them, and the store is
//! read once for all. When a page is made of them, and who gets it, is left to [`super::logs`].
//!
//! Invariant: a tail has every logged event behind `after` up to the position of the live stream. It follows the stream event by
//! event, and is dropped where that goes on elsewhere.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::stored_log::StoredLog;
use crate::io::{LogPosition, LoggedOffset, Publication};

/// How long a tail is kept behind the reading, in milliseconds: as long as those who lost the same node may take to come back.
const KEEP_MS: u64 = 30_000;
/// How many events a tail has at most, and what they take in bytes. The oldest give way.
const MAX_EVENTS: usize = 256;
const MAX_BYTES: usize = 64 << 10;
/// What all tails of a hub take, in bytes. Beyond that no other one is kept, and pages are read from the store.
const MAX_TOTAL_BYTES: usize = 8 << 20;
/// What a tail takes without its events, in bytes.
const BASE_BYTES: usize = 256;

/// All tails of a hub: what they take, and when they end.
#[derive(Debug, Default)]
pub(super) struct Tails {
    bytes: Arc<AtomicUsize>,
    deadlines: BTreeSet<(u64, Arc<str>)>,
    /// The time of the current input.
    pub(super) now_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    /// The log as it was read, without events. Its end follows the stream.
    log: StoredLog,
    after: LoggedOffset,
    events: VecDeque<Arc<Publication>>,
    bytes: usize,
    /// What all of the hub take.
    total: Arc<AtomicUsize>,
    /// When it ends.
    until_ms: u64,
}

impl Tails {
    /// Begins a tail with a page that ends where the live stream is. `log`: as it was read, with that end, and without events.
    /// `None`: there is no room for it.
    pub(super) fn begin(
        &mut self,
        name: &Arc<str>,
        log: &StoredLog,
        after: LoggedOffset,
        events: &[Arc<Publication>],
    ) -> Option<Box<Tail>> {
        if self.bytes.load(Ordering::Relaxed) + BASE_BYTES > MAX_TOTAL_BYTES {
            return None;
        }
        self.bytes.fetch_add(BASE_BYTES, Ordering::Relaxed);
        let until_ms = self.now_ms + KEEP_MS;
        let total = self.bytes.clone();
        let mut tail =
            Tail { log: log.clone(), after, events: VecDeque::new(), bytes: BASE_BYTES, total, until_ms };
        if !events.iter().all(|event| tail.keep(event)) {
            return None;
        }
        self.deadlines.insert((until_ms, name.clone()));
        Some(Box::new(tail))
    }

    /// When [`Tails::pop_due`] must be called at the latest.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A channel whose tail may end now.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<Arc<str>> {
        self.deadlines.first().filter(|(at, _)| *at <= now_ms)?;
        self.deadlines.pop_first().map(|(_, name)| name)
    }

    /// What they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Tail {
    /// Whether it has ended by now.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.until_ms <= now_ms
    }

    /// The stream goes on with this event. Returns whether the tail follows it; otherwise it is to be dropped.
    pub(super) fn follow(&mut self, publication: &Arc<Publication>) -> bool {
        let Some(next) = publication.in_log.position() else { return true };
        let last = &mut self.log.last;
        if next.epoch != last.epoch || next.offset != last.offset.next() {
            return false;
        }
        *last = next;
        self.keep(publication)
    }

    /// Adds an event, and drops the oldest ones beyond the bound. Returns false where all tails take too much.
    fn keep(&mut self, publication: &Arc<Publication>) -> bool {
        let weight = publication.weight();
        self.events.push_back(publication.clone());
        self.count(weight as isize);
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.count(-(oldest.weight() as isize));
            self.after = oldest.in_log.position().map_or(self.after, |at| at.offset);
        }
        self.total.load(Ordering::Relaxed) <= MAX_TOTAL_BYTES
    }

    fn count(&mut self, bytes: isize) {
        self.bytes = self.bytes.saturating_add_signed(bytes);
        let delta = bytes.unsigned_abs();
        match bytes >= 0 {
            true => self.total.fetch_add(delta, Ordering::Relaxed),
            false => self.total.fetch_sub(delta, Ordering::Relaxed),
        };
    }

    /// All events behind an offset, and the log with the position of the stream as its end. `None`: they are not all here, or the
    /// stream is elsewhere.
    pub(super) fn behind(
        &self,
        after: LoggedOffset,
        live: LogPosition,
    ) -> Option<(StoredLog, Vec<Arc<Publication>>)> {
        if live != self.log.last || after < self.after || after > live.offset {
            return None;
        }
        let is_behind =
            |event: &&Arc<Publication>| event.in_log.position().is_some_and(|at| at.offset > after);
        Some((self.log.clone(), self.events.iter().filter(is_behind).cloned().collect()))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_protocol::event::{Event, Payload, PayloadMode};

    use super::*;
    use crate::io::{Epoch, InLog, LocalOffset};

    fn at(epoch: u64, offset: u64) -> LogPosition {
        LogPosition { epoch: Epoch::new(epoch), offset: LoggedOffset(offset) }
    }

    fn event(position: LogPosition, bytes: usize) -> Arc<Publication> {
        let channel: Arc<str> = "log:1".into();
        let data = format!(r#"{{"event":"e","data":"{}"}}"#, "x".repeat(bytes));
        let payload = Payload::read(data.as_bytes(), PayloadMode::Auto).unwrap();
        let event = Event::new(&payload, &channel, Some(position.offset.0));
        let mut publication = Publication::new(channel, event, LocalOffset(0));
        publication.in_log = InLog::At(position);
        Arc::new(publication)
    }

    /// A tail that was read up to offset 10.
    fn tail(tails: &mut Tails, after: u64) -> Option<Box<Tail>> {
        let log =
            StoredLog { last: at(1, 10), first: LoggedOffset(1), ended: Vec::new(), events: Vec::new() };
        let events: Vec<_> = (after + 1..=10).map(|offset| event(at(1, offset), 10)).collect();
        tails.begin(&"log:1".into(), &log, LoggedOffset(after), &events)
    }

    fn offsets(tail: &Tail, after: u64, live: LogPosition) -> Option<Vec<u64>> {
        let (log, events) = tail.behind(LoggedOffset(after), live)?;
        assert_eq!(log.last, live);
        Some(events.iter().map(|event| event.in_log.position().unwrap().offset.0).collect())
    }

    #[test]
    fn it_has_what_was_read_and_what_came_since_and_nothing_else() {
        let mut tails = Tails::default();
        let mut tail = tail(&mut tails, 7).unwrap();
        assert_eq!(offsets(&tail, 7, at(1, 10)), Some(vec![8, 9, 10]));
        assert_eq!(offsets(&tail, 10, at(1, 10)), Some(vec![]));
        assert_eq!(offsets(&tail, 6, at(1, 10)), None, "7 is missing");
        assert_eq!(offsets(&tail, 11, at(1, 10)), None, "the stream is not there yet");
        assert!(tail.follow(&event(at(1, 11), 10)));
        assert_eq!(offsets(&tail, 9, at(1, 11)), Some(vec![10, 11]));
        assert_eq!(offsets(&tail, 9, at(1, 12)), None, "the stream is elsewhere");
        assert!(!tail.follow(&event(at(1, 13), 10)), "12 is missing");
        assert!(!tail.follow(&event(at(2, 12), 10)), "another epoch");
    }

    #[test]
    fn the_oldest_give_way() {
        let mut tails = Tails::default();
        let mut tail = tail(&mut tails, 0).unwrap();
        let last = 10 + MAX_EVENTS as u64;
        (11..=last).for_each(|offset| assert!(tail.follow(&event(at(1, offset), 10))));
        assert_eq!(offsets(&tail, 9, at(1, last)), None, "there is no room for all");
        assert_eq!(offsets(&tail, last - 9, at(1, last)).unwrap().len(), 9);
        assert!(tails.bytes() <= MAX_BYTES, "{}", tails.bytes());
        // One that is larger than a tail leaves nothing, and what follows is kept again.
        assert!(tail.follow(&event(at(1, last + 1), 2 * MAX_BYTES)));
        assert_eq!(offsets(&tail, last, at(1, last + 1)), None);
        assert!(tail.follow(&event(at(1, last + 2), 10)));
        assert_eq!(offsets(&tail, last + 1, at(1, last + 2)), Some(vec![last + 2]));
        assert!(tails.bytes() < MAX_BYTES);
        drop(tail);
        assert_eq!(tails.bytes(), 0);
    }

    #[test]
    fn all_of_a_hub_are_bounded() {
        let mut tails = Tails::default();
        let mut kept = Vec::new();
        while let Some(mut tail) = tail(&mut tails, 10) {
            if !tail.follow(&event(at(1, 11), MAX_BYTES / 2)) {
                break;
            }
            kept.push(tail);
            assert!(tails.bytes() <= MAX_TOTAL_BYTES, "{}", tails.bytes());
        }
        assert!(kept.len() > MAX_TOTAL_BYTES / MAX_BYTES);
        kept.clear();
        assert_eq!(tails.bytes(), 0);
    }
}
