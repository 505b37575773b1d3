//! What this shard's connections are subscribed to: each channel or pattern with its subscribers, and whether the
//! broker has confirmed it. It owns the indexes by name; it leaves rights to [`crate::permissions`] and the
//! connections' side of a subscription to [`crate::session`].

use std::ops::{Index, IndexMut};

use drawbridge_protocol::RequestId;
use hashbrown::HashMap;
use slab::Slab;

use crate::area::Area;
use crate::audience::{AudienceId, Audiences, EVERYBODY, NOBODY, Observer, Visibility};
use crate::class::{ClassId, Classes, Presence};
use crate::expr::Expr;
pub(crate) use crate::ids::TargetId;
use crate::io::{ChannelPosition, Publication, SessionId, Subject, SubjectRef, Ticket};
use crate::outbox::QueueId;
use crate::pattern_index::{PatternIndex, match_work};
use crate::phase::Phase;
pub(crate) use crate::position::LOST;
use crate::presence::changes::Notices;
use crate::session::Session;
use crate::work::WorkMeter;
use crate::world::World;

/// One channel or pattern that at least one connection of this shard wants.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) subject: Subject,
    /// The class of the channel; of a pattern none: its channels have their own.
    pub(crate) class: Option<ClassId>,
    /// The class that a pattern belongs to.
    pub(crate) pattern_class: Option<ClassId>,
    pub(crate) subscribers: Vec<Subscriber>,
    /// Who of them share a view; `None` while everybody is shown everything.
    pub(crate) audiences: Option<Box<Audiences>>,
    /// The entities, on an entity channel.
    pub(crate) world: Option<Box<World>>,
    /// The broker has confirmed it, and the link has not broken since. What that means for each subscriber is up to its
    /// [`Phase`].
    pub(crate) is_confirmed: bool,
    /// Where the channel stands, once it was confirmed.
    pub(crate) position: Option<ChannelPosition>,
    /// Who is notified when it is confirmed.
    pub(crate) waiters: Vec<Waiter>,
    /// What the class says of presence; of a pattern nothing.
    pub(crate) presence: Presence,
    /// What its subscribers are to be notified of, where the class says so.
    pub(crate) notices: Option<Box<Notices>>,
}

/// One connection on one target.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionId,
    pub(crate) phase: Phase,
    /// What its connection published up to this was before it subscribed, and is not shown to it.
    pub(crate) since: Ticket,
    /// The client's filter as it was requested: folded again when the claims change.
    pub(crate) filter: Option<Expr>,
    /// The client's area of interest.
    pub(crate) area: Option<Box<Area>>,
    /// With whom it shares its view, where the target has audiences; and its place among them.
    pub(crate) audience: AudienceId,
    pub(crate) member_index: u32,
    /// On an entity channel: the queue of its connection's outbox for this channel, if there is one.
    pub(crate) queue: Option<QueueId>,
    /// Of a channel without history: the number of the last event that was put into the outbox for it, or of the last
    /// position that its client was sent, whichever came later; of a pattern only whether there was one (not 0). [`LOST`]:
    /// no position of the client proves that it misses nothing.
    pub(crate) written: u64,
    /// Its client caused the snapshot that comes or is on its way, and pays for it.
    pub(crate) pays: bool,
    /// Its client was notified of the subscription, or will be by `WELCOME`.
    pub(crate) is_announced: bool,
    /// How many changes of the channel's players had come by then: it is notified of those behind them.
    pub(crate) notified_from: u64,
    /// Its session is present on the channel.
    pub(crate) is_present: bool,
    /// It was not notified of players who came or left, because its session could not be written to.
    pub(crate) missed_presence: bool,
}

impl Target {
    /// Panics in debug builds if audiences and subscribers do not name each other.
    pub(crate) fn check(&self) {
        debug_assert!(!self.subscribers.is_empty(), "a target of nobody");
        match &self.audiences {
            None => {
                let is_plain = |theirs: &Subscriber| matches!(theirs.audience, EVERYBODY | NOBODY);
                debug_assert!(self.subscribers.iter().all(is_plain), "an audience where there is none");
            }
            Some(audiences) => {
                let of =
                    |slot: u32| (self.subscriber_at(slot).audience, self.subscriber_at(slot).member_index);
                audiences.check(of);
                let members = audiences.iter().map(|(_, audience)| audience.members.len()).sum::<usize>();
                let placed = self.subscribers.iter().filter(|theirs| theirs.audience != NOBODY).count();
                debug_assert_eq!(members, placed, "subscribers in an audience");
                self.world.iter().for_each(|world| world.check(audiences));
            }
        }
    }

    /// The entities and who sees them, on an entity channel.
    pub(crate) fn table_mut(&mut self) -> Option<(&mut World, &mut Audiences)> {
        Some((self.world.as_mut()?, self.audiences.get_or_insert_default()))
    }

    /// The entry of a session; `None` if it is not subscribed.
    pub(crate) fn subscriber(&self, session: &Session, id: TargetId) -> Option<&Subscriber> {
        let slot = session.subscription(id)?.slot;
        Some(self.subscriber_at(slot))
    }

    /// As [`Target::subscriber`].
    pub(crate) fn subscriber_mut(&mut self, session: &Session, id: TargetId) -> Option<&mut Subscriber> {
        let slot = session.subscription(id)?.slot;
        Some(self.subscriber_at_mut(slot))
    }

    /// A subscriber's client is notified of its subscription.
    pub(crate) fn announce(&mut self, slot: u32) {
        let seq = self.notices.as_ref().map_or(0, |notices| notices.seq);
        let subscriber = self.subscriber_at_mut(slot);
        if !std::mem::replace(&mut subscriber.is_announced, true) {
            subscriber.notified_from = seq;
        }
    }

    /// The entry in this slot, which has one.
    #[inline]
    pub(crate) fn subscriber_at_mut(&mut self, slot: u32) -> &mut Subscriber {
        &mut self.subscribers[slot as usize]
    }

    /// The entry in this slot, which has one.
    #[inline]
    pub(crate) fn subscriber_at(&self, slot: u32) -> &Subscriber {
        &self.subscribers[slot as usize]
    }

    /// A client was sent the position of a channel: from now on that is the last that it must have received.
    pub(crate) fn note_position(&mut self, slot: u32) {
        let Some(position) = self.position.filter(|_| !self.subject.is_pattern()) else { return };
        self.subscriber_at_mut(slot).written = position.offset();
    }

    /// Puts a subscriber where it sees this.
    pub(crate) fn join_audience(&mut self, slot: u32, visibility: Visibility) {
        if self.audiences.is_none()
            && self.world.is_none()
            && matches!(visibility, Visibility::Filtered(None))
        {
            if let Some(subscriber) = self.subscribers.get_mut(slot as usize) {
                subscriber.audience = EVERYBODY;
            }
            return;
        }
        let (id, member_index) = match visibility {
            Visibility::Nothing => (NOBODY, 0),
            Visibility::Filtered(view) => self.audiences_mut().join(view, None, slot),
            Visibility::InArea(view, area) => {
                self.audiences_mut().join(view, Some(Observer::new(area)), slot)
            }
        };
        if let Some(subscriber) = self.subscribers.get_mut(slot as usize) {
            (subscriber.audience, subscriber.member_index) = (id, member_index);
        }
        if let (Some(world), Some(audiences)) = (&mut self.world, &mut self.audiences) {
            // What it sees first is told as a whole.
            world.add_observer(audiences, id, &mut Vec::new());
        }
    }

    /// The audiences; where there were none, all who are subscribed see everything.
    fn audiences_mut(&mut self) -> &mut Audiences {
        let subscribers = &mut self.subscribers;
        self.audiences.get_or_insert_with(|| {
            let mut audiences = Audiences::default();
            for (slot, subscriber) in subscribers.iter_mut().enumerate().filter(|(_, s)| s.audience != NOBODY)
            {
                (subscriber.audience, subscriber.member_index) = audiences.join(None, None, slot as u32);
            }
            Box::new(audiences)
        })
    }

    /// Takes a subscriber out of its audience.
    pub(crate) fn leave_audience(&mut self, slot: u32) {
        let Some(subscriber) = self.subscribers.get_mut(slot as usize) else { return };
        let id = std::mem::replace(&mut subscriber.audience, NOBODY);
        let member_index = subscriber.member_index;
        let Some(audiences) = self.audiences.as_mut().filter(|_| id != NOBODY) else { return };
        let (moved, gone) = audiences.leave(id, member_index);
        if let Some(moved) = moved.and_then(|slot| self.subscribers.get_mut(slot as usize)) {
            moved.member_index = member_index;
        }
        if let (Some(observer), Some(world)) = (gone.and_then(|audience| audience.observer), &mut self.world)
        {
            world.remove_observer(id, &observer);
        }
    }

    /// Takes a subscriber out; returns it, and the session that now has its slot.
    pub(crate) fn remove(&mut self, slot: u32) -> (Subscriber, Option<SessionId>) {
        self.leave_audience(slot);
        let left = self.subscribers.swap_remove(slot as usize);
        let moved = self.subscribers.get(slot as usize);
        if let (Some(moved), Some(audiences)) = (moved, &mut self.audiences)
            && moved.audience != NOBODY
        {
            audiences.moved(moved.audience, moved.member_index, slot);
        }
        (left, moved.map(|moved| moved.session))
    }
}

impl Subscriber {
    /// Whether this connection published it, before it subscribed.
    pub(crate) fn is_own_past(&self, connection: u64, publication: &Publication) -> bool {
        publication
            .sender
            .is_some_and(|sender| sender.ticket <= self.since && sender.connection == connection)
    }
}

/// A subscription that waits for the broker's confirmation.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) session: SessionId,
    pub(crate) reply: Reply,
}

/// What a connection is sent when its subscription is live.
#[derive(Debug)]
pub(crate) enum Reply {
    /// `CHANNEL_SUBSCRIBED` to this request.
    Request(RequestId),
    /// `CHANNEL_SUBSCRIBED` without an id: from a service.
    Server,
    /// `CHANNEL_SUBSCRIBED` without an id: from a template, or pending in `WELCOME`.
    Unsolicited,
    /// Nothing: a request without an id.
    Silent,
    /// `WELCOME` waits for it.
    Welcome,
    /// `RESYNC`: it was live before its link broke.
    Resync,
}

/// All targets of a shard.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    slab: Slab<Target>,
    by_subject: HashMap<Subject, TargetId>,
    patterns: PatternIndex<TargetId>,
    /// What matching the patterns of each class costs.
    match_work: HashMap<Option<ClassId>, usize>,
    /// Counts what is examined in all worlds.
    pub(crate) work: WorkMeter,
}

impl Targets {
    /// The target of this name.
    pub(crate) fn find(&self, subject: &Subject) -> Option<TargetId> {
        self.by_subject.get(subject).copied()
    }

    /// The target of this exact channel.
    pub(crate) fn find_channel(&self, name: &str) -> Option<TargetId> {
        self.by_subject.get(&SubjectRef::channel(name)).copied()
    }

    /// The target of this name, made if it is new; returns whether it is.
    pub(crate) fn find_or_insert(&mut self, subject: &Subject, classes: &Classes) -> (TargetId, bool) {
        if let Some(id) = self.find(subject) {
            return (id, false);
        }
        let class = if subject.is_pattern() { None } else { classes.class_of(&subject.name) };
        let pattern_class = if subject.is_pattern() { classes.of_pattern(&subject.name) } else { None };
        let pattern_class = pattern_class.map(|(id, _)| id);
        let rules = class.and_then(|(_, class)| class.entity.as_ref());
        let world = rules.map(|rules| World::new(rules, self.work.clone()));
        let target = Target {
            subject: subject.clone(),
            class: class.map(|(id, _)| id),
            pattern_class,
            subscribers: Vec::new(),
            audiences: None,
            world: world.map(Box::new),
            is_confirmed: false,
            position: None,
            waiters: Vec::new(),
            presence: class.map_or(Presence::Off, |(_, class)| class.presence),
            notices: None,
        };
        let id = TargetId(self.slab.insert(target) as u32);
        self.by_subject.insert(subject.clone(), id);
        if subject.is_pattern() {
            self.patterns.insert(subject.name.clone(), id);
            *self.match_work.entry(pattern_class).or_default() += match_work(&subject.name);
        }
        (id, true)
    }

    /// Forgets a target.
    pub(crate) fn remove(&mut self, id: TargetId) -> Target {
        let target = self.slab.remove(id.0 as usize);
        self.by_subject.remove(&target.subject);
        if target.subject.is_pattern() {
            self.patterns.remove(&target.subject.name);
            if let Some(work) = self.match_work.get_mut(&target.pattern_class) {
                *work -= match_work(&target.subject.name);
            }
        }
        target
    }

    /// Panics in debug builds if what matching the patterns costs is not what it was counted as.
    pub(crate) fn check(&self) {
        let mut counted = HashMap::<_, usize>::new();
        for (_, target) in self.iter().filter(|(_, target)| target.subject.is_pattern()) {
            *counted.entry(target.pattern_class).or_default() += match_work(&target.subject.name);
        }
        for (class, work) in &self.match_work {
            debug_assert_eq!(counted.remove(class).unwrap_or(0), *work, "the patterns of {class:?}");
        }
        debug_assert!(counted.is_empty(), "patterns that are not counted");
    }

    pub(crate) fn get(&self, id: TargetId) -> Option<&Target> {
        self.slab.get(id.0 as usize)
    }

    /// The patterns that match a real channel.
    pub(crate) fn matching_patterns(&mut self, channel: &str, found: &mut Vec<TargetId>) {
        if !self.patterns.is_empty() {
            self.patterns.for_each_match(channel, |_, id| found.push(*id));
        }
    }

    /// The patterns of a class.
    pub(crate) fn patterns_of<'s>(
        &'s self,
        class: ClassId,
        class_prefix: &'s str,
    ) -> impl Iterator<Item = &'s Target> {
        self.patterns
            .under(class_prefix)
            .filter_map(|(_, id)| self.get(*id))
            .filter(move |target| target.pattern_class == Some(class))
    }

    /// What matching one channel with the patterns of a class costs at most, in the units of [`match_work`].
    pub(crate) fn match_work_of(&self, class: ClassId) -> usize {
        self.match_work.get(&Some(class)).copied().unwrap_or(0)
    }

    pub(crate) fn get_mut(&mut self, id: TargetId) -> Option<&mut Target> {
        self.slab.get_mut(id.0 as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TargetId, &Target)> {
        self.slab.iter().map(|(id, target)| (TargetId(id as u32), target))
    }
}

/// Invariant: a session's subscriptions, and what waits in its name, name targets that exist; the last subscriber takes
/// the target with it. Such ids index the table.
impl Index<TargetId> for Targets {
    type Output = Target;

    #[inline]
    fn index(&self, id: TargetId) -> &Target {
        &self.slab[id.0 as usize]
    }
}

impl IndexMut<TargetId> for Targets {
    #[inline]
    fn index_mut(&mut self, id: TargetId) -> &mut Target {
        &mut self.slab[id.0 as usize]
    }
}
