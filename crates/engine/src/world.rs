//! The entities of one channel as one shard knows them, and who sees which: what an event changes is told as
//! [`Told`], audience by audience. It owns where entities are and what each eye has in its area; it leaves frames to
//! [`crate::engine`] and what is stored to the broker.
//!
//! Of an audience without an area nothing is remembered: whether it saw an entity's last state is asked of its view
//! again. Of one with an area it must be remembered, because an entity leaves later than it enters (hysteresis).

use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use crate::area::{Area, Point, Shape};
use crate::audience::{AudienceId, Audiences};
use crate::class::EntityRules;
use crate::grid::Grid;
use crate::io::{EntityChange, Publication};
use crate::view::{EventScope, View};
use crate::work::{self, WorkMeter};

/// Names an entity of one world; used again when it is gone.
pub(crate) type EntityId = u32;

/// What happened to an entity in the eyes of an audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It came into view.
    Enter,
    /// It stays in view, and is another.
    Update,
    /// It went out of view.
    Hide,
    /// It is gone.
    Remove,
}

/// One change for one audience.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) audience: AudienceId,
    pub(crate) entity: EntityId,
    pub(crate) change: Change,
    /// The entity's state now, where that is not the event in hand; where it is gone, the last.
    pub(crate) state: Option<Arc<Publication>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    /// The table has come, and no gap since.
    pub(crate) loaded: bool,
    entities: Slab<Entity>,
    by_key: HashMap<Box<str>, EntityId>,
    space: Option<Box<Places>>,
    /// Counts what is examined for whoever looks anew; not what events change.
    work: WorkMeter,
}

/// Where entities and eyes are, on a channel with positions.
#[derive(Debug)]
struct Places {
    grid: Grid,
    hysteresis: f64,
    /// See [`crate::class::Space::follow_hidden`].
    follow_hidden: bool,
    /// Eyes by the key that they follow.
    followers: HashMap<Arc<str>, Vec<AudienceId>>,
}

#[derive(Debug)]
struct Entity {
    publication: Arc<Publication>,
    position: Option<Point>,
    /// The eyes that have it in their area, in order: those whose `seen` it is in.
    watchers: SmallVec<[AudienceId; 4]>,
    /// What the last views that were asked said of this state.
    decided: SmallVec<[(u64, bool); 2]>,
}

/// How many views' answers an entity remembers.
const MAX_DECIDED: usize = 8;

impl Entity {
    fn watch(&mut self, audience: AudienceId) {
        if let Err(at) = self.watchers.binary_search(&audience) {
            self.watchers.insert(at, audience);
        }
    }

    fn unwatch(&mut self, audience: AudienceId) {
        if let Ok(at) = self.watchers.binary_search(&audience) {
            self.watchers.remove(at);
        }
    }

    /// Whether a view shows its present state; evaluated once for each state.
    fn is_shown_to(&mut self, view: Option<&Rc<View>>, work: &WorkMeter) -> bool {
        work.add(work::EXAMINE);
        let Some(view) = view else { return true };
        if let Some((_, shown)) = self.decided.iter().find(|(id, _)| *id == view.id) {
            return *shown;
        }
        work.add(view.steps(&self.publication));
        let shown = view.allows(&EventScope::of(&self.publication));
        if self.decided.len() >= MAX_DECIDED {
            self.decided.remove(0);
        }
        self.decided.push((view.id, shown));
        shown
    }
}

impl World {
    /// An empty world that waits for its table. `work` counts what is examined.
    pub(crate) fn new(rules: &EntityRules, work: WorkMeter) -> Self {
        let places = |space: &crate::class::Space| {
            Box::new(Places {
                grid: Grid::default(),
                hysteresis: space.hysteresis,
                follow_hidden: space.follow_hidden,
                followers: HashMap::new(),
            })
        };
        World {
            loaded: false,
            entities: Slab::new(),
            by_key: HashMap::new(),
            space: rules.space.as_ref().map(places),
            work,
        }
    }

    /// Panics in debug builds if an entity and the eyes that see it do not name each other.
    pub(crate) fn check(&self, audiences: &Audiences) {
        debug_assert_eq!(self.by_key.len(), self.entities.len(), "entities without a key");
        for (id, entity) in &self.entities {
            for audience in &entity.watchers {
                let eye = audiences.get(*audience).and_then(|who| who.eye.as_ref());
                debug_assert!(eye.is_some_and(|eye| eye.seen.contains(&(id as EntityId))), "a watcher");
            }
        }
        let seen = audiences.iter().filter_map(|(_, who)| who.eye.as_ref()).map(|eye| eye.seen.len());
        let watched = self.entities.iter().map(|(_, entity)| entity.watchers.len());
        debug_assert_eq!(seen.sum::<usize>(), watched.sum::<usize>(), "entities that are seen");
    }

    /// What counts the work over it.
    pub(crate) fn work(&self) -> &WorkMeter {
        &self.work
    }

    pub(crate) fn len(&self) -> usize {
        self.entities.len()
    }

    /// The last event of an entity.
    pub(crate) fn state(&self, entity: EntityId) -> Option<&Arc<Publication>> {
        self.entities.get(entity as usize).map(|entity| &entity.publication)
    }

    fn find(&self, key: &str) -> Option<EntityId> {
        self.by_key.get(key).copied()
    }

    /// Takes in an event, which is the one in hand.
    pub(crate) fn take(
        &mut self,
        audiences: &mut Audiences,
        publication: &Arc<Publication>,
        turn: u64,
        told: &mut Vec<Told>,
    ) {
        let Some(key) = publication.event.key() else { return };
        match publication.entity {
            Some(EntityChange::Set { position }) => {
                self.set(audiences, key, position, publication, turn, told)
            }
            Some(EntityChange::Remove) => self.remove(audiences, key, told),
            None => {}
        }
    }

    fn set(
        &mut self,
        audiences: &mut Audiences,
        key: &str,
        position: Option<Point>,
        publication: &Arc<Publication>,
        turn: u64,
        told: &mut Vec<Told>,
    ) {
        let (id, before) = self.replace(key, position, publication);
        self.tell_open(audiences, id, before.as_deref(), publication, turn, told);
        if let Some(position) = position {
            // First: whoever is followed never leaves the area around it.
            let followers = self.move_followers(audiences, key, Some((position, publication)));
            self.tell_eyes(audiences, id, position, told);
            for audience in followers {
                self.look(audiences, audience, told);
            }
        }
    }

    /// The entity has another state; gives the one before.
    fn replace(
        &mut self,
        key: &str,
        position: Option<Point>,
        publication: &Arc<Publication>,
    ) -> (EntityId, Option<Arc<Publication>>) {
        if let Some(id) = self.find(key)
            && let Some(entity) = self.entities.get_mut(id as usize)
        {
            entity.position = position;
            entity.decided.clear();
            return (id, Some(std::mem::replace(&mut entity.publication, publication.clone())));
        }
        let entity = Entity {
            publication: publication.clone(),
            position,
            watchers: SmallVec::new(),
            decided: SmallVec::new(),
        };
        let id = self.entities.insert(entity) as EntityId;
        self.by_key.insert(key.into(), id);
        (id, None)
    }

    /// Audiences without an area: by what their views say of the state before and the state now.
    ///
    /// Why the stamps: the index names candidates of either state, and who was told of the new one is not told that the
    /// old one went.
    fn tell_open(
        &self,
        audiences: &mut Audiences,
        entity: EntityId,
        before: Option<&Publication>,
        now: &Arc<Publication>,
        turn: u64,
        told: &mut Vec<Told>,
    ) {
        let mut found = Vec::new();
        audiences.candidates(&EventScope::of(now), &mut found);
        for audience in found.drain(..) {
            let Some(who) = audiences.get(audience) else { continue };
            if !who.is_shown(turn, &EventScope::of(now)) {
                continue;
            }
            let saw = before.is_some_and(|before| who.would_be_shown(&EventScope::of(before)));
            let change = if saw { Change::Update } else { Change::Enter };
            audiences.stamp(audience, turn);
            told.push(Told { audience, entity, change, state: None });
        }
        let Some(before) = before else { return };
        audiences.candidates(&EventScope::of(before), &mut found);
        for audience in found {
            let sees = audiences.get(audience).is_some_and(|who| who.would_be_shown(&EventScope::of(before)));
            if audiences.stamp(audience, turn) && sees {
                told.push(Told { audience, entity, change: Change::Hide, state: None });
            }
        }
    }

    /// Eyes: those that had it in their area, and those whose area it is in now.
    ///
    /// Invariant: `watchers` of an entity and `seen` of the eyes name each other, and `watchers` is in order.
    fn tell_eyes(&mut self, audiences: &mut Audiences, id: EntityId, position: Point, told: &mut Vec<Told>) {
        let (Some(places), Some(entity)) = (&mut self.space, self.entities.get_mut(id as usize)) else {
            return;
        };
        places.grid.set_point(id, position);
        let hysteresis = places.hysteresis;
        let mut watchers = std::mem::take(&mut entity.watchers);
        watchers.retain(|audience| {
            let audience = *audience;
            let Some(who) = audiences.get_mut(audience) else { return false };
            let Some(eye) = &mut who.eye else { return false };
            let stays = eye.shape.as_ref().is_some_and(|shape| shape.stays(position, hysteresis))
                && entity.is_shown_to(who.view.as_ref(), &self.work);
            let change = if stays { Change::Update } else { Change::Hide };
            if !stays {
                eye.seen.remove(&id);
            }
            told.push(Told { audience, entity: id, change, state: None });
            stays
        });
        let mut near: SmallVec<[AudienceId; 8]> = SmallVec::new();
        places.grid.regions_at(position, |audience| near.push(audience));
        near.sort_unstable();
        let mut at = 0;
        for audience in near {
            // Most have it in sight already. Both are in order, so those need not be looked at again.
            at += watchers.iter().skip(at).take_while(|watcher| **watcher < audience).count();
            if watchers.get(at) == Some(&audience) {
                continue;
            }
            let Some(who) = audiences.get_mut(audience) else { continue };
            let Some(eye) = &mut who.eye else { continue };
            if eye.shape.as_ref().is_some_and(|shape| shape.enters(position))
                && entity.is_shown_to(who.view.as_ref(), &self.work)
            {
                eye.seen.insert(id);
                watchers.insert(at, audience);
                told.push(Told { audience, entity: id, change: Change::Enter, state: None });
            }
        }
        entity.watchers = watchers;
    }

    /// Whom areas follow is there now, in this state, or is gone; returns the eyes whose area has changed. Who may not see
    /// the entity any more loses the area too, as if the entity were gone: what is in an area says where its middle is.
    fn move_followers(
        &self,
        audiences: &mut Audiences,
        key: &str,
        now: Option<(Point, &Publication)>,
    ) -> Vec<AudienceId> {
        let followers = self.space.as_ref().and_then(|places| places.followers.get(key));
        let followers = followers.cloned().unwrap_or_default();
        for audience in &followers {
            let Some(who) = audiences.get_mut(*audience) else { continue };
            if let Some(eye) = &mut who.eye
                && let Area::Follow { radius, .. } = &eye.area
            {
                let radius = *radius;
                let center = now.filter(|(_, state)| self.may_follow(who.view.as_ref(), state));
                eye.shape = center.map(|(center, _)| Shape::Circle { center, radius });
            }
        }
        followers
    }

    /// An entity is gone.
    pub(crate) fn remove(&mut self, audiences: &mut Audiences, key: &str, told: &mut Vec<Told>) {
        let Some(id) = self.by_key.remove(key) else { return };
        let Some(entity) = self.entities.try_remove(id as usize) else { return };
        let gone = |audience| {
            let state = Some(entity.publication.clone());
            Told { audience, entity: id, change: Change::Remove, state }
        };
        let scope = EventScope::of(&entity.publication);
        let mut found = Vec::new();
        audiences.candidates(&scope, &mut found);
        found.retain(|audience| audiences.get(*audience).is_some_and(|who| who.would_be_shown(&scope)));
        told.extend(found.into_iter().map(gone));
        for audience in &entity.watchers {
            if let Some(eye) = audiences.get_mut(*audience).and_then(|who| who.eye.as_mut()) {
                eye.seen.remove(&id);
                told.push(gone(*audience));
            }
        }
        if let Some(places) = &mut self.space {
            places.grid.remove_point(id);
        }
        for audience in self.move_followers(audiences, key, None) {
            self.look(audiences, audience, told);
        }
    }

    /// An eye is new, has moved, or has another view: what it sees is found anew.
    ///
    /// Why two steps: what was seen leaves by the wider bound (hysteresis), what is new enters by the narrower one, so an
    /// entity on the edge does not flicker.
    pub(crate) fn look(&mut self, audiences: &mut Audiences, audience: AudienceId, told: &mut Vec<Told>) {
        let Some(places) = &mut self.space else { return };
        let Some(who) = audiences.get_mut(audience) else { return };
        let Some(eye) = &mut who.eye else { return };
        let hysteresis = places.hysteresis;
        match &eye.shape {
            Some(shape) => places.grid.set_region(audience, shape.bounds()),
            None => places.grid.remove_region(audience),
        }
        let (view, shape) = (who.view.as_ref(), eye.shape.as_ref());
        self.work.add(work::EXAMINE * eye.seen.len() as u64);
        let mut lost: Vec<EntityId> = Vec::new();
        for id in &eye.seen {
            let stays = self.entities.get_mut(*id as usize).is_some_and(|entity| {
                let position = entity.position;
                let inside = shape.zip(position).is_some_and(|(shape, at)| shape.stays(at, hysteresis));
                inside && entity.is_shown_to(view, &self.work)
            });
            if !stays {
                lost.push(*id);
            }
        }
        lost.sort_unstable();
        let mut won: Vec<EntityId> = Vec::new();
        if let Some(shape) = shape {
            let examined = places.grid.points_in(shape.bounds(), |id, position| {
                if shape.enters(position) && !eye.seen.contains(&id) {
                    won.push(id);
                }
            });
            self.work.add(work::EXAMINE * examined as u64);
        }
        won.retain(|id| {
            let entity = self.entities.get_mut(*id as usize);
            entity.is_some_and(|entity| entity.is_shown_to(view, &self.work))
        });
        won.sort_unstable();
        for (ids, change) in [(lost, Change::Hide), (won, Change::Enter)] {
            for id in ids {
                let Some(entity) = self.entities.get_mut(id as usize) else { continue };
                if change == Change::Enter {
                    eye.seen.insert(id);
                    entity.watch(audience);
                } else {
                    eye.seen.remove(&id);
                    entity.unwatch(audience);
                }
                let bytes =
                    if change == Change::Enter { entity.publication.event.data_json().len() } else { 0 };
                self.work.add(work::to_send(bytes));
                told.push(Told { audience, entity: id, change, state: Some(entity.publication.clone()) });
            }
        }
    }

    /// How many entities an area holds at most; without one, all.
    pub(crate) fn count_in(&self, area: Option<&Area>) -> usize {
        let (Some(area), Some(places)) = (area, &self.space) else { return self.len() };
        let Some(shape) = self.shape_of(area, None) else { return 0 };
        let mut count = 0;
        let examined = places.grid.points_in(shape.bounds(), |_, _| count += 1);
        self.work.add(work::EXAMINE * examined as u64);
        count
    }

    /// Whether an area may show where an entity in this state is, to whom the server shows what this view says. The
    /// client's filter does not matter: it hides nothing that is secret.
    fn may_follow(&self, view: Option<&Rc<View>>, state: &Publication) -> bool {
        let shown =
            || view.and_then(|view| view.server()).is_none_or(|part| part.matches(&EventScope::of(state)));
        self.space.as_ref().is_some_and(|places| places.follow_hidden) || shown()
    }

    /// Where an area is now for whom this view is; `None` where there is nothing to follow.
    fn shape_of(&self, area: &Area, view: Option<&Rc<View>>) -> Option<Shape> {
        match area {
            Area::Fixed(shape) => Some(*shape),
            Area::Follow { key, radius } => {
                let followed = self.find(key).and_then(|id| self.entities.get(id as usize))?;
                let center = followed.position.filter(|_| self.may_follow(view, &followed.publication));
                center.map(|center| Shape::Circle { center, radius: *radius })
            }
        }
    }

    /// An eye opens on its area, wherever that is now.
    pub(crate) fn open_eye(&mut self, audiences: &mut Audiences, audience: AudienceId, told: &mut Vec<Told>) {
        let Some(who) = audiences.get_mut(audience) else { return };
        let Some(eye) = &mut who.eye else { return };
        if let (Area::Follow { key, .. }, Some(places)) = (&eye.area, &mut self.space) {
            places.followers.entry(key.clone()).or_default().push(audience);
        }
        eye.shape = self.shape_of(&eye.area, who.view.as_ref());
        self.look(audiences, audience, told);
    }

    /// An eye is about to look elsewhere: it follows nobody any more.
    pub(crate) fn stop_following(&mut self, area: &Area, audience: AudienceId) {
        let (Some(places), Area::Follow { key, .. }) = (&mut self.space, area) else { return };
        if let Some(followers) = places.followers.get_mut(key) {
            followers.retain(|follower| *follower != audience);
            if followers.is_empty() {
                places.followers.remove(key);
            }
        }
    }

    /// An eye is gone.
    pub(crate) fn close_eye(&mut self, audience: AudienceId, eye: &crate::audience::Eye) {
        self.stop_following(&eye.area, audience);
        for id in &eye.seen {
            if let Some(entity) = self.entities.get_mut(*id as usize) {
                entity.unwatch(audience);
            }
        }
        if let Some(places) = &mut self.space {
            places.grid.remove_region(audience);
        }
    }

    /// What an audience sees now, in the order of entities.
    pub(crate) fn seen_by(&mut self, audiences: &Audiences, audience: AudienceId) -> Vec<EntityId> {
        let Some(who) = audiences.get(audience) else { return Vec::new() };
        if let Some(eye) = &who.eye {
            self.work.add(work::EXAMINE * eye.seen.len() as u64);
            let mut seen: Vec<EntityId> = eye.seen.iter().copied().collect();
            seen.sort_unstable();
            return seen;
        }
        let view = who.view.as_ref();
        let work = &self.work;
        let shown =
            |(id, entity): (usize, &mut Entity)| entity.is_shown_to(view, work).then_some(id as EntityId);
        self.entities.iter_mut().filter_map(shown).collect()
    }

    /// An entity's state, if an audience sees it now.
    pub(crate) fn state_seen(
        &mut self,
        audiences: &Audiences,
        audience: AudienceId,
        id: EntityId,
    ) -> Option<&Arc<Publication>> {
        let who = audiences.get(audience)?;
        let entity = self.entities.get_mut(id as usize)?;
        let seen = match &who.eye {
            Some(eye) => eye.seen.contains(&id),
            None => entity.is_shown_to(who.view.as_ref(), &self.work),
        };
        seen.then_some(&entity.publication)
    }

    /// The table as it is: all that was known is void. Nobody is told of single changes.
    pub(crate) fn reset(&mut self, audiences: &mut Audiences, table: &[Arc<Publication>]) {
        self.work.add(work::INDEX * table.len() as u64);
        self.entities.clear();
        self.by_key.clear();
        let eyes: Vec<AudienceId> =
            audiences.iter().filter(|(_, who)| who.eye.is_some()).map(|(id, _)| id).collect();
        if let Some(places) = &mut self.space {
            places.grid = Grid::default();
            places.followers.clear();
        }
        for publication in table {
            let (Some(key), Some(EntityChange::Set { position })) =
                (publication.event.key(), publication.entity)
            else {
                continue;
            };
            let (id, _) = self.replace(key, position, publication);
            if let (Some(places), Some(position)) = (&mut self.space, position) {
                places.grid.set_point(id, position);
            }
        }
        let mut told = Vec::new();
        for audience in eyes {
            if let Some(eye) = audiences.get_mut(audience).and_then(|who| who.eye.as_mut()) {
                eye.seen.clear();
            }
            self.open_eye(audiences, audience, &mut told);
            told.clear();
        }
        self.loaded = true;
    }
}
