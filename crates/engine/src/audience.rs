//! The subscribers of one channel or pattern, grouped by what they are shown. All with the same view are one *audience*:
//! the view is evaluated once for all of them, and the index names the few audiences that an event can be for. A viewer
//! with an area of interest is its own audience, with an *observer*. The subscribers belong to the target, the entities
//! to the world ([`crate::world`]).

use std::collections::BTreeSet;
use std::ops::Index;
use std::rc::Rc;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::{SmallVec, smallvec};

use crate::area::{Area, Shape};
use crate::filter_index::FilterIndex;
use crate::view::{EffectiveView, EventScope};

/// Names an audience of one target.
pub(crate) type AudienceId = u32;
/// No audience: shown nothing.
pub(crate) const NOBODY: AudienceId = u32::MAX;
/// Where a target has no audiences: shown everything, like all others.
pub(crate) const EVERYBODY: AudienceId = 0;

/// What a subscriber looks at.
#[derive(Debug)]
pub(crate) enum Visibility {
    /// What the view shows; `None`: everything.
    Filtered(Option<Rc<EffectiveView>>),
    /// What the view shows, in an area.
    InArea(Option<Rc<EffectiveView>>, Area),
    /// Nothing: its class wants an area, and it has none.
    Nothing,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Audiences {
    all: Slab<Audience>,
    /// Those without an observer, by their view; 0: everything.
    by_view: HashMap<u64, AudienceId>,
    index: FilterIndex,
}

/// Subscribers that share a view.
#[derive(Debug)]
pub(crate) struct Audience {
    /// `None`: everything.
    pub(crate) view: Option<Rc<EffectiveView>>,
    /// Their places among the target's subscribers.
    pub(crate) members: SmallVec<[u32; 4]>,
    /// With an area of interest; then there is one member.
    pub(crate) observer: Option<Box<Observer>>,
    /// The last event that it was found for.
    stamp: u64,
    /// The last event of a log that it was shown.
    last_shown: u64,
}

/// An area of interest and what is seen in it.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) area: Area,
    /// Where it is now; `None` while there is nothing to follow.
    pub(crate) shape: Option<Shape>,
    /// The entities in it. Why in order: a snapshot goes through them in parts.
    pub(crate) seen: BTreeSet<u32>,
}

impl Observer {
    /// An observer whose view is not computed yet.
    pub(crate) fn new(area: Area) -> Box<Self> {
        Box::new(Observer { area, shape: None, seen: BTreeSet::new() })
    }
}

fn key_of(view: Option<&Rc<EffectiveView>>) -> u64 {
    view.map_or(0, |view| view.id)
}

impl Audience {
    /// Whether it is shown the current event.
    pub(crate) fn is_shown(&self, publication_seq: u64, scope: &EventScope<'_>) -> bool {
        self.view.as_ref().is_none_or(|view| view.shows(publication_seq, scope))
    }

    /// Whether it was shown an event of a log since this one.
    pub(crate) fn was_shown_since(&self, publication_seq: u64) -> bool {
        self.last_shown >= publication_seq
    }

    /// Whether it is shown an event that is not the current one.
    pub(crate) fn would_be_shown(&self, scope: &EventScope<'_>) -> bool {
        self.view.as_ref().is_none_or(|view| view.allows(scope))
    }
}

impl Audiences {
    /// Adds a subscriber; returns its audience and its index among the members.
    pub(crate) fn join(
        &mut self,
        view: Option<Rc<EffectiveView>>,
        observer: Option<Box<Observer>>,
        slot: u32,
    ) -> (AudienceId, u32) {
        let key = key_of(view.as_ref());
        if observer.is_none()
            && let Some(id) = self.by_view.get(&key).copied()
            && let Some(audience) = self.all.get_mut(id as usize)
        {
            audience.members.push(slot);
            return (id, audience.members.len() as u32 - 1);
        }
        let indexed = observer.is_none();
        let audience = Audience { view, members: smallvec![slot], observer, stamp: 0, last_shown: 0 };
        let (server, client) = match &audience.view {
            Some(view) => (view.server().cloned(), view.client().cloned()),
            None => (None, None),
        };
        let id = self.all.insert(audience) as AudienceId;
        if indexed {
            self.by_view.insert(key, id);
            self.index.insert(id, server.as_ref(), client.as_ref());
        }
        (id, 0)
    }

    /// Removes a subscriber. Returns the one that now has its index, and the audience if it was the last member.
    pub(crate) fn leave(&mut self, id: AudienceId, member_index: u32) -> (Option<u32>, Option<Audience>) {
        let Some(audience) = self.all.get_mut(id as usize) else { return (None, None) };
        if (member_index as usize) < audience.members.len() {
            audience.members.swap_remove(member_index as usize);
        }
        if !audience.members.is_empty() {
            return (audience.members.get(member_index as usize).copied(), None);
        }
        let audience = self.all.remove(id as usize);
        if audience.observer.is_none() {
            self.by_view.remove(&key_of(audience.view.as_ref()));
            self.index.remove(id);
        }
        (None, Some(audience))
    }

    /// A subscriber has another place among the target's.
    pub(crate) fn moved(&mut self, id: AudienceId, member_index: u32, slot: u32) {
        if let Some(audience) = self.all.get_mut(id as usize)
            && let Some(member) = audience.members.get_mut(member_index as usize)
        {
            *member = slot;
        }
    }

    pub(crate) fn get(&self, id: AudienceId) -> Option<&Audience> {
        self.all.get(id as usize)
    }

    pub(crate) fn get_mut(&mut self, id: AudienceId) -> Option<&mut Audience> {
        self.all.get_mut(id as usize)
    }

    /// Whether this audience sees exactly this already.
    pub(crate) fn is_at(&self, id: AudienceId, visibility: &Visibility) -> bool {
        let who = self.get(id);
        match (who, visibility) {
            (None, Visibility::Nothing) => id == NOBODY,
            (Some(who), Visibility::Filtered(view)) => {
                who.observer.is_none() && key_of(who.view.as_ref()) == key_of(view.as_ref())
            }
            (Some(who), Visibility::InArea(view, area)) => {
                who.observer.as_ref().is_some_and(|observer| observer.area == *area)
                    && key_of(who.view.as_ref()) == key_of(view.as_ref())
            }
            _ => false,
        }
    }

    /// Panics in debug builds if members do not know their place. `of`: the audience and the place of a slot.
    pub(crate) fn check(&self, of: impl Fn(u32) -> (AudienceId, u32)) {
        for (id, audience) in self.iter() {
            debug_assert!(!audience.members.is_empty(), "an audience of nobody");
            debug_assert!(
                audience.observer.is_none() || audience.members.len() == 1,
                "an eye is one member's"
            );
            for (member_index, slot) in audience.members.iter().enumerate() {
                debug_assert_eq!(of(*slot), (id, member_index as u32), "the place of a member");
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AudienceId, &Audience)> {
        self.all.iter().map(|(id, audience)| (id as AudienceId, audience))
    }

    /// The audiences without an observer whose views can match an event; each view is still to be evaluated.
    pub(crate) fn candidates(&mut self, scope: &EventScope<'_>, found: &mut Vec<AudienceId>) {
        self.index.candidates(scope, found);
    }

    /// Marks the audience as found for the event `publication_seq`. Returns whether it was not marked before.
    pub(crate) fn stamp(&mut self, id: AudienceId, publication_seq: u64) -> bool {
        self.all.get_mut(id as usize).is_some_and(|audience| {
            std::mem::replace(&mut audience.stamp, publication_seq) != publication_seq
        })
    }

    /// The audience was shown this event of a log.
    #[inline]
    pub(crate) fn set_last_shown(&mut self, id: AudienceId, publication_seq: u64) {
        if let Some(audience) = self.all.get_mut(id as usize) {
            audience.last_shown = publication_seq;
        }
    }

    /// What evaluating all views for one event would cost at most with this one added; 0 if it is there already.
    pub(crate) fn work_with(&self, view: Option<&Rc<EffectiveView>>) -> usize {
        let Some(view) = view.filter(|view| !self.by_view.contains_key(&view.id)) else { return 0 };
        self.index.work() + self.index.work_of(view.server(), view.client())
    }

    /// What evaluating all views for one event costs at most.
    pub(crate) fn work(&self) -> usize {
        self.index.work()
    }
}

/// For ids that the index or the world has just named: audiences leave both before they leave this table.
impl Index<AudienceId> for Audiences {
    type Output = Audience;

    #[inline]
    fn index(&self, id: AudienceId) -> &Audience {
        &self.all[id as usize]
    }
}
