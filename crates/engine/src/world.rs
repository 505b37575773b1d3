//! The entities of one channel as one shard knows them, and who sees which: it returns what an event changes as
//! [`VisibilityChange`], audience by audience. It owns where entities are; what each observer has in its area is in
//! [`observers`]. Frames belong to [`crate::engine`], stored tables to the broker.
//!
//! For an audience without an area nothing is remembered: its view is evaluated again for an entity's last state. Of one with
//! an area it must be remembered, because an entity leaves later than it enters (hysteresis).

mod observers;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use self::observers::observers;
use crate::area::Point;
use crate::audience::{Audience, AudienceId, Audiences};
use crate::class::EntityRules;
use crate::grid::Grid;
use crate::io::{EntityChange, Publication};
use crate::keyed_slab::{Keyed, KeyedSlab};
use crate::view::{EffectiveView, EventScope};
use crate::work::{self, WorkMeter};

/// Names an entity of one world; reused after the entity is gone.
pub(crate) type EntityId = u32;

/// What happened to an entity in the view of an audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It came into view.
    Enter,
    /// It stays in view, with a new state.
    Update,
    /// It went out of view.
    Hide,
    /// It is gone.
    Remove,
}

/// What an audience saw of a world.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Without an area: all that this view shows.
    Shown(Option<Rc<EffectiveView>>),
    /// With an area: these.
    InArea(BTreeSet<EntityId>),
}

/// One change for one audience.
#[derive(Debug)]
pub(crate) struct VisibilityChange {
    pub(crate) audience: AudienceId,
    pub(crate) entity: EntityId,
    pub(crate) change: Change,
    /// The entity's current state, or its last one if it is gone; `None`: that of the current event.
    pub(crate) state: Option<Arc<Publication>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    /// The table was received, and no gap since.
    pub(crate) loaded: bool,
    entities: KeyedSlab<Entity>,
    /// What the data of all entities has together, in bytes.
    data_bytes: usize,
    space: Option<Box<Spatial>>,
    /// Counts what is examined for visibility, except for what events change.
    work: WorkMeter,
}

/// Where entities and observers are, on a channel with positions.
#[derive(Debug)]
struct Spatial {
    grid: Grid,
    hysteresis: f64,
    /// See [`crate::class::Space::follow_hidden`].
    follow_hidden: bool,
    /// Observers by the key that they follow.
    followers: HashMap<Arc<str>, Vec<AudienceId>>,
}

#[derive(Debug)]
struct Entity {
    publication: Arc<Publication>,
    position: Option<Point>,
    /// The observers that have it in their area, in order: those whose `seen` it is in.
    observers: SmallVec<[AudienceId; 4]>,
    /// The results of the last views that were evaluated for this state.
    decided: SmallVec<[(u64, bool); 2]>,
}

/// How many views' results an entity remembers.
const MAX_DECIDED: usize = 8;

impl Keyed for Entity {
    fn key(&self) -> &str {
        self.publication.event.key().unwrap_or_default()
    }
}

impl Entity {
    fn watch(&mut self, audience: AudienceId) {
        if let Err(at) = self.observers.binary_search(&audience) {
            self.observers.insert(at, audience);
        }
    }

    fn unwatch(&mut self, audience: AudienceId) {
        if let Ok(at) = self.observers.binary_search(&audience) {
            self.observers.remove(at);
        }
    }

    /// Whether a view shows its present state; evaluated once for each state.
    fn is_shown_to(&mut self, view: Option<&Rc<EffectiveView>>, work: &WorkMeter) -> bool {
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
        let spatial = |space: &crate::class::Space| {
            Box::new(Spatial {
                grid: Grid::default(),
                hysteresis: space.hysteresis,
                follow_hidden: space.follow_hidden,
                followers: HashMap::new(),
            })
        };
        World {
            loaded: false,
            entities: KeyedSlab::default(),
            data_bytes: 0,
            space: rules.space.as_ref().map(spatial),
            work,
        }
    }

    /// Panics in debug builds if an entity and the observers that see it do not name each other.
    pub(crate) fn check(&self, audiences: &Audiences) {
        self.entities.check();
        for (id, entity) in self.entities.iter() {
            for audience in &entity.observers {
                let observer = audiences.get(*audience).and_then(|who| who.observer.as_ref());
                debug_assert!(observer.is_some_and(|observer| observer.seen.contains(&id)), "a watcher");
            }
        }
        let seen =
            audiences.iter().filter_map(|(_, who)| who.observer.as_ref()).map(|observer| observer.seen.len());
        let watched = self.entities.iter().map(|(_, entity)| entity.observers.len());
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
        self.entities.get(entity).map(|entity| &entity.publication)
    }

    fn find(&self, key: &str) -> Option<EntityId> {
        self.entities.find(key)
    }

    /// Applies the current event.
    pub(crate) fn apply(
        &mut self,
        audiences: &mut Audiences,
        publication: &Arc<Publication>,
        publication_seq: u64,
        changes: &mut Vec<VisibilityChange>,
    ) {
        let Some(key) = publication.event.key() else { return };
        match publication.entity {
            Some(EntityChange::Set { position }) => {
                self.set(audiences, key, position, publication, publication_seq, changes)
            }
            Some(EntityChange::Remove) => self.remove(audiences, key, changes),
            None => {}
        }
    }

    fn set(
        &mut self,
        audiences: &mut Audiences,
        key: &str,
        position: Option<Point>,
        publication: &Arc<Publication>,
        publication_seq: u64,
        changes: &mut Vec<VisibilityChange>,
    ) {
        let (id, before) = self.replace(key, position, publication);
        self.update_open_audiences(audiences, id, before.as_deref(), publication, publication_seq, changes);
        if let Some(position) = position {
            // First: whoever is followed never leaves the area around it.
            let followers = self.move_followers(audiences, key, Some((position, publication)));
            self.update_observers(audiences, id, position, changes);
            for audience in followers {
                self.refresh_observer(audiences, audience, changes);
            }
        }
    }

    /// Sets the entity's state; returns the previous one.
    fn replace(
        &mut self,
        key: &str,
        position: Option<Point>,
        publication: &Arc<Publication>,
    ) -> (EntityId, Option<Arc<Publication>>) {
        if let Some(id) = self.find(key)
            && let Some(entity) = self.entities.get_mut(id)
        {
            entity.position = position;
            entity.decided.clear();
            self.data_bytes += publication.event.data_json().len();
            self.data_bytes -= entity.publication.event.data_json().len();
            return (id, Some(std::mem::replace(&mut entity.publication, publication.clone())));
        }
        let entity = Entity {
            publication: publication.clone(),
            position,
            observers: SmallVec::new(),
            decided: SmallVec::new(),
        };
        self.data_bytes += publication.event.data_json().len();
        (self.entities.insert(entity), None)
    }

    /// Audiences without an area: compares their views' results for the previous and the new state.
    ///
    /// Why the stamps: the index returns candidates of either state, and a subscriber who was notified of the new state is
    /// not also notified that the old one left.
    fn update_open_audiences(
        &self,
        audiences: &mut Audiences,
        entity: EntityId,
        before: Option<&Publication>,
        now: &Arc<Publication>,
        publication_seq: u64,
        changes: &mut Vec<VisibilityChange>,
    ) {
        let mut found = Vec::new();
        audiences.candidates(&EventScope::of(now), &mut found);
        for audience in found.drain(..) {
            let Some(who) = audiences.get(audience) else { continue };
            if !who.is_shown(publication_seq, &EventScope::of(now)) {
                continue;
            }
            let saw = before.is_some_and(|before| who.would_be_shown(&EventScope::of(before)));
            let change = if saw { Change::Update } else { Change::Enter };
            audiences.stamp(audience, publication_seq);
            changes.push(VisibilityChange { audience, entity, change, state: None });
        }
        let Some(before) = before else { return };
        audiences.candidates(&EventScope::of(before), &mut found);
        for audience in found {
            let sees = audiences.get(audience).is_some_and(|who| who.would_be_shown(&EventScope::of(before)));
            if audiences.stamp(audience, publication_seq) && sees {
                changes.push(VisibilityChange { audience, entity, change: Change::Hide, state: None });
            }
        }
    }

    /// An entity is gone.
    pub(crate) fn remove(
        &mut self,
        audiences: &mut Audiences,
        key: &str,
        changes: &mut Vec<VisibilityChange>,
    ) {
        let Some((id, entity)) = self.entities.remove(key) else { return };
        self.data_bytes -= entity.publication.event.data_json().len();
        let gone = |audience| {
            let state = Some(entity.publication.clone());
            VisibilityChange { audience, entity: id, change: Change::Remove, state }
        };
        let scope = EventScope::of(&entity.publication);
        let mut found = Vec::new();
        audiences.candidates(&scope, &mut found);
        found.retain(|audience| audiences.get(*audience).is_some_and(|who| who.would_be_shown(&scope)));
        changes.extend(found.into_iter().map(gone));
        for audience in &entity.observers {
            if let Some(observer) = audiences.get_mut(*audience).and_then(|who| who.observer.as_mut()) {
                observer.seen.remove(&id);
                changes.push(gone(*audience));
            }
        }
        if let Some(spatial) = &mut self.space {
            spatial.grid.remove_point(id);
        }
        for audience in self.move_followers(audiences, key, None) {
            self.refresh_observer(audiences, audience, changes);
        }
    }

    /// The first entity from this id on that an audience can see; [`World::state_seen`] says whether it does.
    pub(crate) fn next_candidate(
        &self,
        audiences: &Audiences,
        audience: AudienceId,
        from: EntityId,
    ) -> Option<EntityId> {
        match &audiences.get(audience)?.observer {
            Some(observer) => observer.seen.range(from..).next().copied(),
            None => (from..self.entities.end()).find(|id| self.entities.contains(*id)),
        }
    }

    /// What an audience sees, to be compared later with what a subscriber sees instead.
    pub(crate) fn seen_by(&self, audiences: &Audiences, audience: AudienceId) -> Seen {
        match audiences.get(audience) {
            Some(Audience { observer: None, view, .. }) => Seen::Shown(view.clone()),
            Some(Audience { observer: Some(observer), .. }) => Seen::InArea(observer.seen.clone()),
            None => Seen::InArea(BTreeSet::new()),
        }
    }

    /// What went out of view and what came into view for a subscriber that saw `before` and is in this audience now, both in
    /// the order of ids; `None`: more than `max` entities together.
    pub(crate) fn difference(
        &mut self,
        before: &Seen,
        audiences: &Audiences,
        audience: AudienceId,
        max: usize,
    ) -> Option<(Vec<EntityId>, Vec<EntityId>)> {
        let (work, who) = (&self.work, audiences.get(audience));
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for (id, entity) in self.entities.iter_mut() {
            let saw = match before {
                Seen::Shown(view) => entity.is_shown_to(view.as_ref(), work),
                Seen::InArea(seen) => seen.contains(&id),
            };
            let sees = who.is_some_and(|who| match &who.observer {
                Some(observer) => observer.seen.contains(&id),
                None => entity.is_shown_to(who.view.as_ref(), work),
            });
            match (saw, sees) {
                (true, false) => gone.push(id),
                (false, true) => new.push(id),
                _ => continue,
            }
            if gone.len() + new.len() > max {
                return None;
            }
        }
        Some((gone, new))
    }

    /// An entity's state, if an audience sees it now.
    pub(crate) fn state_seen(
        &mut self,
        audiences: &Audiences,
        audience: AudienceId,
        id: EntityId,
    ) -> Option<&Arc<Publication>> {
        let who = audiences.get(audience)?;
        let entity = self.entities.get_mut(id)?;
        let seen = match &who.observer {
            Some(observer) => {
                self.work.add(work::EXAMINE);
                observer.seen.contains(&id)
            }
            None => entity.is_shown_to(who.view.as_ref(), &self.work),
        };
        seen.then_some(&entity.publication)
    }

    /// Replaces all entities by this table. No area sees any of them before [`World::add_observers`].
    pub(crate) fn read_table(&mut self, audiences: &mut Audiences, table: &[Arc<Publication>]) {
        self.work.add(work::INDEX * table.len() as u64);
        self.loaded = false;
        self.entities = KeyedSlab::default();
        self.entities.reserve(table.len());
        self.data_bytes = 0;
        for audience in observers(audiences) {
            if let Some(observer) = audiences.get_mut(audience).and_then(|who| who.observer.as_mut()) {
                observer.seen.clear();
            }
        }
        if let Some(spatial) = &mut self.space {
            spatial.grid = Grid::default();
            spatial.followers.clear();
        }
        for publication in table {
            let (Some(key), Some(EntityChange::Set { position })) =
                (publication.event.key(), publication.entity)
            else {
                continue;
            };
            let (id, _) = self.replace(key, position, publication);
            if let (Some(spatial), Some(position)) = (&mut self.space, position) {
                spatial.grid.set_point(id, position);
            }
        }
    }
}
