//! What is due to one connection, while it waits: for the end of the turn or of the class's window, or for a socket that
//! does not read. There is one feed for the streams of a class together, whichever way they come, and one for each
//! entity channel. A feed owns order, conflation, the choice of `max_updates`, and snapshots; it leaves bounds in bytes
//! and frames to [`crate::engine`].

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashMap;

use smallvec::SmallVec;

use crate::area::Shape;
use crate::class::{ClassId, Delivery};
use crate::io::{EntityChange, Publication};
use crate::targets::TargetId;
use crate::world::{Change, EntityId};

/// Names one feed of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeedId {
    /// Of the entity channel that this subscription is for.
    Table(TargetId),
    /// Of all streams of this class.
    Stream(Option<ClassId>),
}

/// What an event is to whom it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An event of a stream.
    Event,
    /// A change of an entity.
    Entity(EntityId, Change),
}

/// One thing that is due.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) publication: Arc<Publication>,
    /// `None`: taken back.
    pub(crate) kind: Option<Kind>,
    /// The subscription by which it comes.
    pub(crate) target: TargetId,
    /// Of an entity: this state of it was not told before.
    pub(crate) is_news: bool,
    /// Since when its key waits, in monotonic milliseconds.
    pub(crate) since_ms: u64,
    /// About what it holds in memory: asked once, for where that stands is far away.
    weight: u32,
}

impl Due {
    #[inline]
    pub(crate) fn new(
        publication: Arc<Publication>,
        kind: Kind,
        target: TargetId,
        is_news: bool,
        since_ms: u64,
    ) -> Self {
        let weight = u32::try_from(size_of::<Due>() + publication.weight()).unwrap_or(u32::MAX);
        Due { publication, kind: Some(kind), target, is_news, since_ms, weight }
    }

    /// About what it holds in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.weight as usize
    }

    /// Whether `max_updates` counts it: not what makes a client forget.
    pub(crate) fn is_update(&self) -> bool {
        !matches!(self.kind, Some(Kind::Entity(_, Change::Hide | Change::Remove)))
    }

    /// Conflated are events of one key: an entity's by its place, others by the hash of channel and key (a pattern's
    /// come from many channels), and then those are compared.
    fn conflation_key(&self) -> Option<u64> {
        match self.kind? {
            Kind::Entity(id, _) => Some(u64::from(id)),
            Kind::Event => {
                let of = (&*self.publication.channel, self.publication.event.key()?);
                Some(foldhash::fast::FixedState::default().hash_one(of))
            }
        }
    }

    /// Whether it is of the key that an older one with the same conflation key is of. Of entities only one that comes into
    /// view can be another, at a place that is used again; the others are not looked at, for their texts are far away.
    fn is_of_the_key_of(&self, older: &Due) -> bool {
        if matches!(self.kind, Some(Kind::Entity(_, Change::Update | Change::Hide | Change::Remove))) {
            return true;
        }
        let (one, other) = (&self.publication, &older.publication);
        one.event.key() == other.event.key() && one.channel == other.channel
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    /// What came last, not yet held against the rest nor counted in `len` and `bytes`: see [`Feed::line_up`].
    fresh: Vec<Due>,
    /// What `fresh` holds in memory.
    fresh_bytes: usize,
    /// How `fresh` is to be pushed.
    fresh_conflates: bool,
    dues: Vec<Due>,
    /// While it conflates: the last place of each key in `dues`.
    newest: HashMap<u64, usize>,
    conflating: bool,
    /// Dues that are not taken back.
    len: usize,
    /// What the dues hold in memory.
    bytes: usize,
    /// When it leaves, in monotonic milliseconds; 0: at the end of the turn.
    pub(crate) flush_at_ms: u64,
    /// It is among those of its connection that have something.
    pub(crate) queued: bool,
    /// Events before the first due were given up: of which subscriptions, and up to which offset; 0 where all is told anew.
    pub(crate) gaps: SmallVec<[(TargetId, u64); 1]>,
    pub(crate) snapshot: Option<SnapshotState>,
}

/// How many dues of a feed are not counted yet at most, and about how many bytes they hold: one more may pass that.
const MAX_FRESH: usize = 64;
const MAX_FRESH_BYTES: usize = 16 * 1024;

/// How far a snapshot has come.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotState {
    /// It begins when there is room.
    Wanted,
    /// Some of it has left.
    Running(Snapshot),
}

/// All that is in view, on its way.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// In order.
    ids: Vec<EntityId>,
    next: usize,
}

impl Snapshot {
    pub(crate) fn new(ids: Vec<EntityId>) -> Self {
        Snapshot { ids, next: 0 }
    }

    /// Nothing of it has left yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.next == 0
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next >= self.ids.len()
    }

    /// The next entity.
    pub(crate) fn pop(&mut self) -> Option<EntityId> {
        let id = self.ids.get(self.next).copied();
        self.next += usize::from(id.is_some());
        id
    }

    fn will_tell(&self, id: EntityId) -> bool {
        self.ids.get(self.next..).is_some_and(|rest| rest.binary_search(&id).is_ok())
    }
}

/// How the older of two changes of one key is told with the newer: as one, or not at all.
enum Merged {
    One(Kind),
    Nothing,
    Both,
}

fn merge(older: &Due, newer: &Due) -> Merged {
    use Change::{Enter, Hide, Remove, Update};
    let (Some(before), Some(now)) = (older.kind, newer.kind) else { return Merged::Both };
    match (before, now) {
        (Kind::Event, Kind::Event) => Merged::One(now),
        (Kind::Entity(_, before), Kind::Entity(id, change)) => match (before, change) {
            (Enter, Update) => Merged::One(Kind::Entity(id, Enter)),
            (Enter, Hide | Remove) => Merged::Nothing,
            (Update, Update | Hide | Remove) => Merged::One(now),
            // It was away for a moment that its viewer never saw: nothing has happened, unless it is another now.
            (Hide, Enter) if !older.is_news && Arc::ptr_eq(&older.publication, &newer.publication) => {
                Merged::Nothing
            }
            (Hide | Remove, Enter) => Merged::One(Kind::Entity(id, Update)),
            _ => Merged::Both,
        },
        _ => Merged::Both,
    }
}

impl Feed {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && self.fresh.is_empty() && self.snapshot.is_none() && self.gaps.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lines one up behind the others and leaves the work for later, when much of it is done at once: where thousands of
    /// readers are told a little each, all that one of them owns is far away. Where [`Feed::may_line_up`] allows it.
    #[inline]
    pub(crate) fn line_up(&mut self, due: Due, conflate: bool) {
        self.fresh_conflates = conflate;
        self.fresh_bytes += due.bytes();
        self.fresh.push(due);
    }

    /// Whether it waits for the end of a window (or, then, for its socket), and little waits for [`Feed::settle`].
    #[inline]
    pub(crate) fn may_line_up(&self) -> bool {
        self.queued
            && self.flush_at_ms > 0
            && self.fresh.len() < MAX_FRESH
            && self.fresh_bytes < MAX_FRESH_BYTES
    }

    /// Does what [`Feed::line_up`] has put off: before a snapshot goes on, or anything is pushed or taken. Says how many
    /// were merged, as [`Feed::push`] does.
    pub(crate) fn settle(&mut self) -> u64 {
        let fresh = std::mem::take(&mut self.fresh);
        self.fresh_bytes = 0;
        if self.dues.is_empty() {
            self.dues.reserve(fresh.len());
            self.newest.reserve(if self.fresh_conflates { fresh.len() } else { 0 });
        }
        fresh.into_iter().map(|due| u64::from(self.push(due, self.fresh_conflates))).sum()
    }

    /// Pushes one behind the others. What a snapshot on its way will tell anyway is left to it. Says whether it was merged
    /// with an older one, or left to the snapshot.
    pub(crate) fn push(&mut self, due: Due, conflate: bool) -> bool {
        let before = self.len;
        self.push_due(due, conflate);
        self.len <= before
    }

    fn push_due(&mut self, due: Due, conflate: bool) {
        let told_anyway = match (&self.snapshot, due.kind) {
            (Some(SnapshotState::Wanted), Some(Kind::Entity(..))) => true,
            (Some(SnapshotState::Running(snapshot)), Some(Kind::Entity(id, _))) => snapshot.will_tell(id),
            _ => false,
        };
        if told_anyway {
            return;
        }
        if conflate {
            self.conflate();
        }
        if self.conflating { self.push_conflated(due) } else { self.append(due, None) }
    }

    fn push_conflated(&mut self, mut due: Due) {
        let Some(key) = due.conflation_key() else { return self.append(due, None) };
        let older = self.newest.get(&key).copied().and_then(|at| self.dues.get_mut(at));
        let Some(older) = older.filter(|older| due.is_of_the_key_of(older)) else {
            return self.append(due, Some(key));
        };
        let merged = merge(older, &due);
        if matches!(merged, Merged::Both) {
            return self.append(due, Some(key));
        }
        self.bytes -= older.bytes();
        self.len -= 1;
        older.kind = None;
        due.since_ms = older.since_ms;
        due.is_news |= older.is_news;
        self.newest.remove(&key);
        if let Merged::One(kind) = merged {
            due.kind = Some(kind);
            self.append(due, Some(key));
        }
        self.compact();
    }

    fn append(&mut self, due: Due, key: Option<u64>) {
        self.bytes += due.bytes();
        self.len += 1;
        if let Some(key) = key {
            self.newest.insert(key, self.dues.len());
        }
        self.dues.push(due);
    }

    /// Drops what was taken back once it is the larger part.
    fn compact(&mut self) {
        if self.dues.len() < 32 || self.dues.len() < 2 * self.len {
            return;
        }
        self.dues.retain(|due| due.kind.is_some());
        self.index();
    }

    fn index(&mut self) {
        self.newest.clear();
        if self.conflating {
            for (at, due) in self.dues.iter().enumerate() {
                if let Some(key) = due.conflation_key() {
                    self.newest.insert(key, at);
                }
            }
        }
    }

    /// From now on only the newest of each key is kept, until it is empty again.
    pub(crate) fn conflate(&mut self) {
        if std::mem::replace(&mut self.conflating, true) || self.dues.is_empty() {
            return;
        }
        let dues = self.take_out();
        for due in dues {
            self.push_conflated(due);
        }
    }

    /// Drops all.
    pub(crate) fn clear(&mut self) {
        self.fresh.clear();
        self.fresh_bytes = 0;
        self.take_out();
    }

    /// Takes out all but what is fresh.
    fn take_out(&mut self) -> Vec<Due> {
        self.newest.clear();
        (self.len, self.bytes) = (0, 0);
        std::mem::take(&mut self.dues)
    }

    /// What is due is void: all that is in view is told anew, behind a `RESYNC` of this subscription if there is one.
    pub(crate) fn begin_anew(&mut self, told: Option<TargetId>) {
        self.clear();
        self.conflating = false;
        self.snapshot = Some(SnapshotState::Wanted);
        if let Some(target) = told {
            self.gap(target, 0);
        }
    }

    /// Events of this subscription up to there were given up.
    fn gap(&mut self, target: TargetId, offset: u64) {
        match self.gaps.iter_mut().find(|(of, _)| *of == target) {
            Some((_, last)) => *last = offset,
            None => self.gaps.push((target, offset)),
        }
    }

    /// Gives up the oldest that hold so many bytes; says how many they were.
    pub(crate) fn drop_oldest(&mut self, bytes: usize) -> usize {
        let before = self.len;
        let mut freed = 0;
        let is_enough = |due: &Due| {
            let enough = freed >= bytes;
            freed += if due.kind.is_some() { due.bytes() } else { 0 };
            enough
        };
        let dropped = self.dues.iter().position(is_enough).unwrap_or(self.dues.len());
        for due in self.dues.drain(..dropped).collect::<Vec<_>>() {
            if due.kind.is_some() {
                self.bytes -= due.bytes();
                self.len -= 1;
                self.gap(due.target, due.publication.offset);
            }
        }
        self.index();
        before - self.len
    }

    /// This subscription has ended: nothing comes by it any more.
    pub(crate) fn forget(&mut self, target: TargetId) {
        self.gaps.retain(|(of, _)| *of != target);
        if self.dues.iter().any(|due| due.target == target) {
            let is_conflating = self.conflating;
            let mut dues = self.take_out();
            dues.retain(|due| due.target != target && due.kind.is_some());
            for due in dues {
                self.append(due, None);
            }
            self.conflating = is_conflating;
            self.index();
        }
    }

    /// Takes out what leaves now: at most about so many bytes, and of updates no more than `max_updates` of `delivery`,
    /// nearest and longest waiting first. Says whether something due now is left.
    pub(crate) fn take(
        &mut self,
        now_ms: u64,
        delivery: &Delivery,
        eye: Option<&Shape>,
        max_bytes: usize,
    ) -> (Vec<Due>, bool) {
        debug_assert!(self.fresh.is_empty(), "settle comes first");
        let mut dues = self.take_out();
        dues.retain(|due| due.kind.is_some());
        let mut later = match delivery.max_updates {
            Some(max) => put_off(&mut dues, max as usize, now_ms, delivery, eye),
            None => Vec::new(),
        };
        let mut bytes = 0;
        let fits = dues
            .iter()
            .position(|due| {
                let full = bytes >= max_bytes;
                bytes += due.bytes();
                full
            })
            .unwrap_or(dues.len());
        let mut rest = dues.split_off(fits);
        let more = !rest.is_empty();
        rest.append(&mut later);
        self.conflating &= !rest.is_empty();
        for due in rest {
            let key = if self.conflating { due.conflation_key() } else { None };
            self.append(due, key);
        }
        if self.len == 0 {
            // An idle feed holds nothing.
            self.dues = Vec::new();
            self.newest = HashMap::new();
        }
        (dues, more)
    }
}

/// Leaves the `max` most urgent updates in `dues` and gives the others. What makes a client forget is not counted,
/// and who has waited long enough goes out in any case.
fn put_off(
    dues: &mut Vec<Due>,
    max: usize,
    now_ms: u64,
    delivery: &Delivery,
    eye: Option<&Shape>,
) -> Vec<Due> {
    let counted = Due::is_update;
    let total = dues.iter().filter(|due| counted(due)).count();
    if total <= max {
        return Vec::new();
    }
    let reach = eye.map_or(1.0, |shape| {
        let bounds = shape.bounds();
        ((bounds.max.x - bounds.min.x).max(bounds.max.y - bounds.min.y) / 2.0).max(f64::MIN_POSITIVE)
    });
    let urgency = |due: &Due| {
        let waited_ms = now_ms.saturating_sub(due.since_ms);
        // At the end of the next window it would have waited too long.
        if waited_ms + delivery.batch_ms > delivery.max_wait_ms {
            return f64::INFINITY;
        }
        let waited = waited_ms as f64 / delivery.max_wait_ms.max(1) as f64;
        let distance = match (eye, due.publication.entity) {
            (Some(eye), Some(EntityChange::Set { position: Some(at) })) => eye.distance(at) / reach,
            _ => 0.0,
        };
        waited - distance
    };
    let mut order: Vec<(f64, usize)> =
        dues.iter().enumerate().filter(|(_, due)| counted(due)).map(|(at, due)| (urgency(due), at)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let overdue = order.iter().take_while(|(urgency, _)| *urgency == f64::INFINITY).count();
    let mut waits = vec![false; dues.len()];
    for (_, at) in order.iter().skip(max.max(overdue)) {
        waits[*at] = true;
    }
    let mut later = Vec::new();
    let mut at = 0;
    dues.retain(|due| {
        let wait = waits.get(at).copied().unwrap_or(false);
        at += 1;
        if wait {
            later.push(due.clone());
        }
        !wait
    });
    later
}

#[cfg(test)]
mod tests;
