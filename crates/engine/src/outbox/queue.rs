//! One outbound queue: events of one connection that wait for the end of the turn or of the class's window, or for a
//! socket that does not read. All stream channels of a class share one queue, whichever way their events come; each
//! entity channel has one. A queue owns order, conflation, the choice of `max_updates`, and snapshots. It leaves byte
//! counts and limits to [`super::Outbox`], frames to [`crate::engine`].

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashMap;

use smallvec::SmallVec;

use crate::area::Shape;
use crate::class::{ClassId, Delivery};
use crate::io::{EntityChange, Publication};
use crate::targets::{LOST, TargetId};
use crate::world::{Change, EntityId};

/// Whose events a queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueKind {
    /// The changes of one entity channel.
    Table(TargetId),
    /// The events of all stream channels of this class; `None`: of channels without a class.
    Stream(Option<ClassId>),
}

/// What a queued event is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueuedKind {
    /// An event of a stream channel, so far behind the one that its receiver was sent before it ([`Queued::before`]).
    Event { behind: u32 },
    /// A change of an entity.
    Entity(EntityId, Change),
}

/// In [`QueuedKind::Event`]: it is not known.
const UNKNOWN: u32 = u32::MAX;

impl QueuedKind {
    /// An event with this number, whose receiver was sent `before` last ([`Subscriber::written`](crate::targets::Subscriber)).
    #[inline]
    pub(crate) fn event(offset: u64, before: u64) -> Self {
        let behind = offset.checked_sub(before).and_then(|behind| u32::try_from(behind).ok());
        QueuedKind::Event { behind: behind.unwrap_or(UNKNOWN) }
    }
}

/// One event that waits.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) publication: Arc<Publication>,
    /// `None`: merged into a newer one, or dropped; skipped when the queue is flushed.
    pub(crate) kind: Option<QueuedKind>,
    /// The subscription by which it comes.
    pub(crate) target: TargetId,
    /// Of an entity: the receiver has not been sent this state before.
    pub(crate) is_new_state: bool,
    /// Since when its key waits, in monotonic milliseconds.
    pub(crate) since_ms: u64,
    /// Approximate size in memory. Why a field: the publication is in another cache line, and is read only once.
    weight: u32,
}

impl Queued {
    #[inline]
    pub(crate) fn new(
        publication: Arc<Publication>,
        kind: QueuedKind,
        target: TargetId,
        is_new_state: bool,
        since_ms: u64,
    ) -> Self {
        let weight = u32::try_from(size_of::<Queued>() + publication.weight()).unwrap_or(u32::MAX);
        Queued { publication, kind: Some(kind), target, is_new_state, since_ms, weight }
    }

    /// Approximate size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.weight as usize
    }

    /// Whether `max_updates` counts it. Leaves and removals are not counted.
    pub(crate) fn is_update(&self) -> bool {
        !matches!(self.kind, Some(QueuedKind::Entity(_, Change::Hide | Change::Remove)))
    }

    /// Of an event of a stream: what its receiver was sent last before it, or [`LOST`].
    pub(crate) fn before(&self) -> u64 {
        match self.kind {
            Some(QueuedKind::Event { behind }) if behind != UNKNOWN => {
                self.publication.offset.0.saturating_sub(u64::from(behind))
            }
            _ => LOST,
        }
    }

    /// Events with one key are conflated: entities by their id, others by the hash of channel and key (events of many
    /// channels come through a pattern), and then those are compared.
    fn conflation_key(&self) -> Option<u64> {
        match self.kind? {
            QueuedKind::Entity(id, _) => Some(u64::from(id)),
            QueuedKind::Event { .. } => {
                let of = (&*self.publication.channel, self.publication.event.key()?);
                Some(foldhash::fast::FixedState::default().hash_one(of))
            }
        }
    }

    /// Whether it has the key of an older one with the same conflation key. Why not always compared: only an entity that
    /// enters can differ, where its id is reused, and the keys are in other cache lines.
    fn has_key_of(&self, older: &Queued) -> bool {
        if matches!(self.kind, Some(QueuedKind::Entity(_, Change::Update | Change::Hide | Change::Remove))) {
            return true;
        }
        let (one, other) = (&self.publication, &older.publication);
        one.event.key() == other.event.key() && one.channel == other.channel
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct OutboundQueue {
    /// The newest events, not yet conflated with the rest nor counted in `len` and `bytes`: see [`OutboundQueue::stage`].
    staged: Vec<Queued>,
    /// What `staged` holds in memory.
    staged_bytes: usize,
    /// Whether `commit` conflates `staged`.
    staged_conflates: bool,
    events: Vec<Queued>,
    /// While it conflates: the last index of each key in `events`.
    newest: HashMap<u64, usize>,
    conflating: bool,
    /// Events whose kind is not `None`.
    len: usize,
    /// What these hold in memory.
    bytes: usize,
    /// When it is flushed, in monotonic milliseconds; 0: at the end of the turn.
    pub(crate) flush_at_ms: u64,
    /// Events before the first were dropped: of which subscriptions, and up to which offset; 0 where a snapshot follows, or
    /// where they had none.
    pub(crate) gaps: SmallVec<[(TargetId, u64); 1]>,
    pub(crate) snapshot: Option<Snapshot>,
}

/// Bounds of what is staged in one queue: events, and bytes that the last event may exceed.
const MAX_STAGED: usize = 64;
const MAX_STAGED_BYTES: usize = 16 * 1024;

/// All entities in view, sent in parts, in the order of their ids. It has none of them: it shows each as it is when it comes
/// to it.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The first entity that it has not reached.
    pub(crate) next: EntityId,
    /// Entities that it leaves out: each has the key of one that it has sent and whose end waits behind it, so it follows as a
    /// change behind that end.
    follow: Vec<EntityId>,
    /// A part of it was sent.
    pub(crate) is_begun: bool,
}

impl Snapshot {
    /// Whether it has yet to come to an entity, so that a change of it is needless.
    ///
    /// Invariant: that holds of an entity that comes into view, too, and of one that leaves it and was never sent. What
    /// happens to ids before `next` follows the snapshot as changes.
    fn is_before(&self, id: EntityId) -> bool {
        self.next <= id && !self.leaves_out(id)
    }

    /// Whether this entity follows as a change, wherever the snapshot is.
    pub(crate) fn leaves_out(&self, id: EntityId) -> bool {
        self.follow.contains(&id)
    }
}

/// What becomes of an older and a newer change of one key.
enum Merged {
    /// They are sent as one.
    One(QueuedKind),
    /// They cancel out.
    Nothing,
    /// Both are sent.
    Both,
}

/// Invariant: the client ends in the same state as if it had been sent both. It is never sent an entity twice as
/// entering, nor the end of one that it was never sent.
fn merge(older: &Queued, newer: &Queued) -> Merged {
    use Change::{Enter, Hide, Remove, Update};
    let (Some(before), Some(now)) = (older.kind, newer.kind) else { return Merged::Both };
    match (before, now) {
        (QueuedKind::Event { .. }, QueuedKind::Event { .. }) => {
            Merged::One(QueuedKind::event(newer.publication.offset.0, older.before()))
        }
        (QueuedKind::Entity(_, before), QueuedKind::Entity(id, change)) => match (before, change) {
            (Enter, Update) => Merged::One(QueuedKind::Entity(id, Enter)),
            (Enter, Hide | Remove) => Merged::Nothing,
            (Update, Update | Hide | Remove) => Merged::One(now),
            // It left and came back before the client saw either: nothing happened, unless its state has changed.
            (Hide, Enter) if !older.is_new_state && Arc::ptr_eq(&older.publication, &newer.publication) => {
                Merged::Nothing
            }
            (Hide | Remove, Enter) => Merged::One(QueuedKind::Entity(id, Update)),
            _ => Merged::Both,
        },
        _ => Merged::Both,
    }
}

impl OutboundQueue {
    /// An empty queue that is flushed at this time.
    pub(super) fn new(flush_at_ms: u64) -> Self {
        OutboundQueue { flush_at_ms, ..OutboundQueue::default() }
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && self.staged.is_empty() && self.snapshot.is_none() && self.gaps.is_empty()
    }

    /// Panics in debug builds if a count is wrong.
    pub(super) fn check(&self) {
        let counted = || self.events.iter().filter(|queued| queued.kind.is_some());
        debug_assert_eq!(self.len, counted().count(), "events of a queue");
        debug_assert_eq!(self.bytes, counted().map(Queued::bytes).sum::<usize>(), "bytes of a queue");
        debug_assert_eq!(
            self.staged_bytes,
            self.staged.iter().map(Queued::bytes).sum::<usize>(),
            "staged bytes"
        );
        debug_assert!(self.newest.values().all(|at| *at < self.events.len()), "an index of a queue");
    }

    /// What the committed events hold in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends one event and leaves conflation and counting to [`OutboundQueue::commit`], for many at once. Why: with
    /// thousands of receivers of a few events each, everything of one receiver is a cache miss away (ADR 0014).
    #[inline]
    pub(super) fn stage(&mut self, queued: Queued, conflate: bool) {
        self.staged_conflates = conflate;
        self.staged_bytes += queued.bytes();
        self.staged.push(queued);
    }

    /// Whether events may be staged: a flush at the end of a window (or later, while the socket is blocked) is scheduled,
    /// and little is staged.
    #[inline]
    pub(super) fn may_stage(&self) -> bool {
        self.flush_at_ms > 0 && self.staged.len() < MAX_STAGED && self.staged_bytes < MAX_STAGED_BYTES
    }

    /// Conflates and counts what is staged; required before a snapshot goes on and before anything is enqueued or taken.
    /// Returns how many events were merged.
    pub(super) fn commit(&mut self) -> u64 {
        let staged = std::mem::take(&mut self.staged);
        self.staged_bytes = 0;
        if self.events.is_empty() {
            self.events.reserve(staged.len());
            self.newest.reserve(if self.staged_conflates { staged.len() } else { 0 });
        }
        staged.into_iter().map(|queued| u64::from(self.enqueue(queued, self.staged_conflates))).sum()
    }

    /// Appends one event, unless a running snapshot will include it. Returns whether it was merged with an older one or
    /// left to the snapshot.
    pub(super) fn enqueue(&mut self, queued: Queued, conflate: bool) -> bool {
        let before = self.len;
        self.order_behind_end(&queued);
        if !self.is_absorbed(&queued) {
            if conflate {
                self.conflate();
            }
            if self.conflating { self.enqueue_conflated(queued) } else { self.append(queued, None) }
        }
        self.len <= before
    }

    /// An entity that comes back under another id, which a running snapshot has not reached, follows the end of what it was before.
    fn order_behind_end(&mut self, queued: &Queued) {
        let (Some(snapshot), Some(QueuedKind::Entity(id, Change::Enter))) = (&mut self.snapshot, queued.kind)
        else {
            return;
        };
        let is_end = |older: &Queued| {
            matches!(older.kind, Some(QueuedKind::Entity(_, Change::Hide | Change::Remove)))
                && older.publication.event.key() == queued.publication.event.key()
        };
        if snapshot.is_begun && snapshot.is_before(id) && self.events.iter().any(is_end) {
            snapshot.follow.push(id);
        }
    }

    /// Whether a snapshot that is wanted or running makes a change needless.
    fn is_absorbed(&self, queued: &Queued) -> bool {
        match (&self.snapshot, queued.kind) {
            (Some(snapshot), Some(QueuedKind::Entity(id, _))) => snapshot.is_before(id),
            _ => false,
        }
    }

    /// Invariant: the merged event takes the place of the newer one, at the end, and the time since when its key waits of
    /// the older one. So order among keys is that of their newest states, and nothing waits forever by being replaced.
    fn enqueue_conflated(&mut self, mut queued: Queued) {
        let Some(key) = queued.conflation_key() else { return self.append(queued, None) };
        let older = self.newest.get(&key).copied().and_then(|at| self.events.get_mut(at));
        let Some(older) = older.filter(|older| queued.has_key_of(older)) else {
            return self.append(queued, Some(key));
        };
        let merged = merge(older, &queued);
        if matches!(merged, Merged::Both) {
            return self.append(queued, Some(key));
        }
        self.bytes -= older.bytes();
        self.len -= 1;
        older.kind = None;
        queued.since_ms = older.since_ms;
        queued.is_new_state |= older.is_new_state;
        self.newest.remove(&key);
        if let Merged::One(kind) = merged {
            queued.kind = Some(kind);
            self.append(queued, Some(key));
        }
        self.compact();
    }

    fn append(&mut self, queued: Queued, key: Option<u64>) {
        self.bytes += queued.bytes();
        self.len += 1;
        if let Some(key) = key {
            self.newest.insert(key, self.events.len());
        }
        self.events.push(queued);
    }

    /// Drops merged events once they are the larger part.
    fn compact(&mut self) {
        if self.events.len() < 32 || self.events.len() < 2 * self.len {
            return;
        }
        self.events.retain(|queued| queued.kind.is_some());
        self.index();
    }

    fn index(&mut self) {
        self.newest.clear();
        if self.conflating {
            for (at, queued) in self.events.iter().enumerate() {
                if let Some(key) = queued.conflation_key() {
                    self.newest.insert(key, at);
                }
            }
        }
    }

    /// Keeps only the newest event of each key from now on, until the queue is empty.
    pub(crate) fn conflate(&mut self) {
        if std::mem::replace(&mut self.conflating, true) || self.events.is_empty() {
            return;
        }
        for queued in self.take_events() {
            self.enqueue_conflated(queued);
        }
    }

    /// Drops all events.
    pub(crate) fn clear(&mut self) {
        self.staged.clear();
        self.staged_bytes = 0;
        self.take_events();
    }

    /// Takes all events that are committed.
    fn take_events(&mut self) -> Vec<Queued> {
        self.newest.clear();
        (self.len, self.bytes) = (0, 0);
        std::mem::take(&mut self.events)
    }

    /// Drops all events and sends a snapshot instead, behind a `RESYNC` of this subscription if one is given.
    pub(crate) fn restart(&mut self, resync: Option<TargetId>) {
        self.clear();
        self.conflating = false;
        self.snapshot = Some(Snapshot::default());
        if let Some(target) = resync {
            self.add_gap(target, 0);
        }
    }

    /// Events of this subscription up to `offset` were dropped.
    fn add_gap(&mut self, target: TargetId, offset: u64) {
        match self.gaps.iter_mut().find(|(of, _)| *of == target) {
            Some((_, last)) => *last = if offset > 0 { offset } else { *last },
            None => self.gaps.push((target, offset)),
        }
    }

    /// Drops the oldest events, about `bytes` of them; returns their number.
    ///
    /// Invariant: no loss is silent. What is dropped leaves a gap of its subscription, which is sent as `RESYNC`.
    pub(crate) fn drop_oldest(&mut self, bytes: usize) -> usize {
        let before = self.len;
        let mut freed = 0;
        let is_enough = |queued: &Queued| {
            let enough = freed >= bytes;
            freed += if queued.kind.is_some() { queued.bytes() } else { 0 };
            enough
        };
        let dropped = self.events.iter().position(is_enough).unwrap_or(self.events.len());
        for queued in self.events.drain(..dropped).collect::<Vec<_>>() {
            if queued.kind.is_some() {
                self.bytes -= queued.bytes();
                self.len -= 1;
                let offset = queued.publication.shown_position().map_or(0, |(_, offset)| offset);
                self.add_gap(queued.target, offset);
            }
        }
        self.index();
        before - self.len
    }

    /// The subscriptions whose events wait, each with what its client was sent last before the first of them; [`LOST`] where
    /// some were dropped.
    pub(crate) fn proofs(&self) -> SmallVec<[(TargetId, u64); 4]> {
        let mut proofs: SmallVec<[(TargetId, u64); 4]> = SmallVec::new();
        let dropped = self.gaps.iter().map(|(target, _)| (*target, LOST));
        let waiting = self.events.iter().filter(|queued| queued.kind.is_some());
        // Why the smallest: a merged event is moved to the end, but keeps the offset before the older one.
        for (target, before) in dropped.chain(waiting.map(|queued| (queued.target, queued.before()))) {
            match proofs.iter_mut().find(|(of, _)| *of == target) {
                Some((_, LOST)) => {}
                Some((_, first)) => *first = if before == LOST { LOST } else { before.min(*first) },
                None => proofs.push((target, before)),
            }
        }
        proofs
    }

    /// Drops the events of a subscription that has ended.
    pub(crate) fn forget(&mut self, target: TargetId) {
        self.gaps.retain(|(of, _)| *of != target);
        if self.events.iter().any(|queued| queued.target == target) {
            let is_conflating = self.conflating;
            let mut events = self.take_events();
            events.retain(|queued| queued.target != target && queued.kind.is_some());
            for queued in events {
                self.append(queued, None);
            }
            self.conflating = is_conflating;
            self.index();
        }
    }

    /// Takes the events to send now: at most about `max_bytes`, and of updates at most `max_updates` of `delivery`, the
    /// nearest and the longest waiting first. The second value says whether more can be sent now.
    pub(crate) fn take(
        &mut self,
        now_ms: u64,
        delivery: &Delivery,
        area: Option<&Shape>,
        max_bytes: usize,
    ) -> (Vec<Queued>, bool) {
        debug_assert!(self.staged.is_empty(), "`commit` comes first");
        let mut events = self.take_events();
        events.retain(|queued| queued.kind.is_some());
        let mut later = match delivery.max_updates {
            Some(max) => postpone(&mut events, max as usize, now_ms, delivery, area),
            None => Vec::new(),
        };
        let mut bytes = 0;
        let fits = events
            .iter()
            .position(|queued| {
                let full = bytes >= max_bytes;
                bytes += queued.bytes();
                full
            })
            .unwrap_or(events.len());
        let mut rest = events.split_off(fits);
        let more = !rest.is_empty();
        rest.append(&mut later);
        self.conflating &= !rest.is_empty();
        for queued in rest {
            let key = if self.conflating { queued.conflation_key() } else { None };
            self.append(queued, key);
        }
        if self.len == 0 {
            // An idle queue holds no memory.
            self.events = Vec::new();
            self.newest = HashMap::new();
        }
        (events, more)
    }
}

/// Leaves the `max` most urgent updates in `events` and returns the others. Leaves and removals are not counted, and an
/// update that has waited for `max_wait` is always sent.
fn postpone(
    events: &mut Vec<Queued>,
    max: usize,
    now_ms: u64,
    delivery: &Delivery,
    area: Option<&Shape>,
) -> Vec<Queued> {
    let counted = Queued::is_update;
    let total = events.iter().filter(|queued| counted(queued)).count();
    if total <= max {
        return Vec::new();
    }
    let reach = area.map_or(1.0, |shape| {
        let bounds = shape.bounds();
        ((bounds.max.x - bounds.min.x).max(bounds.max.y - bounds.min.y) / 2.0).max(f64::MIN_POSITIVE)
    });
    let urgency = |queued: &Queued| {
        let waited_ms = now_ms.saturating_sub(queued.since_ms);
        // At the end of the next window it would have waited too long.
        if waited_ms + delivery.batch_ms > delivery.max_wait_ms {
            return f64::INFINITY;
        }
        let waited = waited_ms as f64 / delivery.max_wait_ms.max(1) as f64;
        let distance = match (area, queued.publication.entity) {
            (Some(area), Some(EntityChange::Set { position: Some(at) })) => area.distance(at) / reach,
            _ => 0.0,
        };
        waited - distance
    };
    let updates = events.iter().enumerate().filter(|(_, queued)| counted(queued));
    let mut order: Vec<(f64, usize)> = updates.map(|(at, queued)| (urgency(queued), at)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let overdue = order.iter().take_while(|(urgency, _)| *urgency == f64::INFINITY).count();
    let mut waits = vec![false; events.len()];
    for (_, at) in order.iter().skip(max.max(overdue)) {
        waits[*at] = true;
    }
    let mut later = Vec::new();
    let mut at = 0;
    events.retain(|queued| {
        let wait = waits.get(at).copied().unwrap_or(false);
        at += 1;
        if wait {
            later.push(queued.clone());
        }
        !wait
    });
    later
}

#[cfg(test)]
mod tests;
