//! The subscribers of one channel or pattern by what they are shown. All who hold the same view are one *audience*:
//! the view is asked once for all of them, and the index names the few audiences that an event can be for. A viewer
//! with an area of interest is an audience of its own, with an *eye*. Who the subscribers are is the target's
//! business, which entities there are the world's ([`crate::world`]).

use std::ops::Index;
use std::rc::Rc;

use hashbrown::{HashMap, HashSet};
use slab::Slab;
use smallvec::{SmallVec, smallvec};

use crate::area::{Area, Shape};
use crate::filter_index::FilterIndex;
use crate::targets::Sight;
use crate::view::{EventScope, View};

/// Names an audience of one target.
pub(crate) type AudienceId = u32;
/// No audience: shown nothing.
pub(crate) const NOBODY: AudienceId = u32::MAX;
/// Where a target has no audiences: shown everything, like all others.
pub(crate) const EVERYBODY: AudienceId = 0;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Audiences {
    all: Slab<Audience>,
    /// Those without an eye, by their view; 0: everything.
    by_view: HashMap<u64, AudienceId>,
    index: FilterIndex,
}

/// Who share a view.
#[derive(Debug)]
pub(crate) struct Audience {
    /// `None`: everything.
    pub(crate) view: Option<Rc<View>>,
    /// Their places among the target's subscribers.
    pub(crate) members: SmallVec<[u32; 4]>,
    /// With an area of interest; then there is one member.
    pub(crate) eye: Option<Box<Eye>>,
    /// The last event that it was found for.
    stamp: u64,
}

/// An area of interest and what is seen in it.
#[derive(Debug)]
pub(crate) struct Eye {
    pub(crate) area: Area,
    /// Where it is now; `None` while there is nothing to follow.
    pub(crate) shape: Option<Shape>,
    /// The entities in it.
    pub(crate) seen: HashSet<u32>,
}

impl Eye {
    /// An eye that has not looked yet.
    pub(crate) fn new(area: Area) -> Box<Self> {
        Box::new(Eye { area, shape: None, seen: HashSet::new() })
    }
}

fn key_of(view: Option<&Rc<View>>) -> u64 {
    view.map_or(0, |view| view.id)
}

impl Audience {
    /// Whether it is shown this event, which is the one in hand.
    pub(crate) fn is_shown(&self, turn: u64, scope: &EventScope<'_>) -> bool {
        self.view.as_ref().is_none_or(|view| view.shows(turn, scope))
    }

    /// Whether it is shown this event, which is not the one in hand.
    pub(crate) fn would_be_shown(&self, scope: &EventScope<'_>) -> bool {
        self.view.as_ref().is_none_or(|view| view.allows(scope))
    }
}

impl Audiences {
    /// Puts a subscriber in; gives its audience and its place there.
    pub(crate) fn join(
        &mut self,
        view: Option<Rc<View>>,
        eye: Option<Box<Eye>>,
        slot: u32,
    ) -> (AudienceId, u32) {
        let key = key_of(view.as_ref());
        if eye.is_none()
            && let Some(id) = self.by_view.get(&key).copied()
            && let Some(audience) = self.all.get_mut(id as usize)
        {
            audience.members.push(slot);
            return (id, audience.members.len() as u32 - 1);
        }
        let indexed = eye.is_none();
        let audience = Audience { view, members: smallvec![slot], eye, stamp: 0 };
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

    /// Takes a subscriber out; gives the one that now has its place, and the audience if it was the last.
    pub(crate) fn leave(&mut self, id: AudienceId, place: u32) -> (Option<u32>, Option<Audience>) {
        let Some(audience) = self.all.get_mut(id as usize) else { return (None, None) };
        if (place as usize) < audience.members.len() {
            audience.members.swap_remove(place as usize);
        }
        if !audience.members.is_empty() {
            return (audience.members.get(place as usize).copied(), None);
        }
        let audience = self.all.remove(id as usize);
        if audience.eye.is_none() {
            self.by_view.remove(&key_of(audience.view.as_ref()));
            self.index.remove(id);
        }
        (None, Some(audience))
    }

    /// A subscriber has another place among the target's.
    pub(crate) fn moved(&mut self, id: AudienceId, place: u32, slot: u32) {
        if let Some(audience) = self.all.get_mut(id as usize)
            && let Some(member) = audience.members.get_mut(place as usize)
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
    pub(crate) fn is_at(&self, id: AudienceId, sight: &Sight) -> bool {
        let who = self.get(id);
        match (who, sight) {
            (None, Sight::Nothing) => id == NOBODY,
            (Some(who), Sight::Open(view)) => {
                who.eye.is_none() && key_of(who.view.as_ref()) == key_of(view.as_ref())
            }
            (Some(who), Sight::Eye(view, area)) => {
                who.eye.as_ref().is_some_and(|eye| eye.area == *area)
                    && key_of(who.view.as_ref()) == key_of(view.as_ref())
            }
            _ => false,
        }
    }

    /// Panics in debug builds if members do not know their place. `of`: the audience and the place of a slot.
    pub(crate) fn check(&self, of: impl Fn(u32) -> (AudienceId, u32)) {
        for (id, audience) in self.iter() {
            debug_assert!(!audience.members.is_empty(), "an audience of nobody");
            debug_assert!(audience.eye.is_none() || audience.members.len() == 1, "an eye is one member's");
            for (place, slot) in audience.members.iter().enumerate() {
                debug_assert_eq!(of(*slot), (id, place as u32), "the place of a member");
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AudienceId, &Audience)> {
        self.all.iter().map(|(id, audience)| (id as AudienceId, audience))
    }

    /// The audiences without an eye that an event can be for; each is still to be asked.
    pub(crate) fn candidates(&mut self, scope: &EventScope<'_>, found: &mut Vec<AudienceId>) {
        self.index.candidates(scope, found);
    }

    /// The audience is found for the event `turn`; says whether it was not before.
    pub(crate) fn stamp(&mut self, id: AudienceId, turn: u64) -> bool {
        self.all
            .get_mut(id as usize)
            .is_some_and(|audience| std::mem::replace(&mut audience.stamp, turn) != turn)
    }

    /// What asking views about an event would cost at most, with this one among them; 0 where it is already.
    pub(crate) fn work_with(&self, view: Option<&Rc<View>>) -> usize {
        let Some(view) = view.filter(|view| !self.by_view.contains_key(&view.id)) else { return 0 };
        self.index.work() + self.index.work_of(view.server(), view.client())
    }

    /// What asking views about an event costs at most.
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
