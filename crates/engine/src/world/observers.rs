//! Observers of a world: what each has in its area, as entities move, areas follow them, and views change. The entities
//! themselves belong to [`super`].

use std::rc::Rc;

use smallvec::SmallVec;

use super::{Change, EntityId, VisibilityChange, World};
use crate::area::{Area, Point, Shape};
use crate::audience::{AudienceId, Audiences, Observer};
use crate::io::Publication;
use crate::view::{EffectiveView, EventScope};
use crate::work;

impl World {
    /// Observers: those that had it in their area, and those whose area it is in now.
    ///
    /// Invariant: `observers` of an entity and `seen` of the observers name each other, and `observers` is in order.
    pub(super) fn update_observers(
        &mut self,
        audiences: &mut Audiences,
        id: EntityId,
        position: Point,
        changes: &mut Vec<VisibilityChange>,
    ) {
        let (Some(spatial), Some(entity)) = (&mut self.space, self.entities.get_mut(id)) else {
            return;
        };
        spatial.grid.set_point(id, position);
        let hysteresis = spatial.hysteresis;
        let mut observers = std::mem::take(&mut entity.observers);
        observers.retain(|audience| {
            let audience = *audience;
            let Some(who) = audiences.get_mut(audience) else { return false };
            let Some(observer) = &mut who.observer else { return false };
            let stays = observer.shape.as_ref().is_some_and(|shape| shape.stays(position, hysteresis))
                && entity.is_shown_to(who.view.as_ref(), &self.work);
            let change = if stays { Change::Update } else { Change::Hide };
            if !stays {
                observer.seen.remove(&id);
            }
            changes.push(VisibilityChange { audience, entity: id, change, state: None });
            stays
        });
        let mut near: SmallVec<[AudienceId; 8]> = SmallVec::new();
        spatial.grid.regions_at(position, |audience| near.push(audience));
        near.sort_unstable();
        let mut at = 0;
        for audience in near {
            // Most see it already. Both lists are in order, so those are skipped.
            at += observers.iter().skip(at).take_while(|observer| **observer < audience).count();
            if observers.get(at) == Some(&audience) {
                continue;
            }
            let Some(who) = audiences.get_mut(audience) else { continue };
            let Some(observer) = &mut who.observer else { continue };
            if observer.shape.as_ref().is_some_and(|shape| shape.enters(position))
                && entity.is_shown_to(who.view.as_ref(), &self.work)
            {
                observer.seen.insert(id);
                observers.insert(at, audience);
                changes.push(VisibilityChange { audience, entity: id, change: Change::Enter, state: None });
            }
        }
        entity.observers = observers;
    }

    /// A followed entity is at a new position, in this state, or is gone; returns the observers whose area has changed. Whoever
    /// no longer sees the entity loses the area, as if the entity were gone.
    /// Why: the contents of an area reveal where its center is.
    pub(super) fn move_followers(
        &self,
        audiences: &mut Audiences,
        key: &str,
        now: Option<(Point, &Publication)>,
    ) -> Vec<AudienceId> {
        let followers = self.space.as_ref().and_then(|spatial| spatial.followers.get(key));
        let followers = followers.cloned().unwrap_or_default();
        for audience in &followers {
            let Some(who) = audiences.get_mut(*audience) else { continue };
            if let Some(observer) = &mut who.observer
                && let Area::Follow { radius, .. } = &observer.area
            {
                let radius = *radius;
                let center = now.filter(|(_, state)| self.may_follow(who.view.as_ref(), state));
                observer.shape = center.map(|(center, _)| Shape::Circle { center, radius });
            }
        }
        followers
    }

    /// An observer is new, has moved, or has another view: recomputes what it sees.
    ///
    /// Why two steps: entities leave by the wider bound (hysteresis) and enter by the narrower one, so an entity on the
    /// edge does not flicker.
    pub(crate) fn refresh_observer(
        &mut self,
        audiences: &mut Audiences,
        audience: AudienceId,
        changes: &mut Vec<VisibilityChange>,
    ) {
        let Some(spatial) = &mut self.space else { return };
        let Some(who) = audiences.get_mut(audience) else { return };
        let Some(observer) = &mut who.observer else { return };
        let hysteresis = spatial.hysteresis;
        match &observer.shape {
            Some(shape) => spatial.grid.set_region(audience, shape.bounds()),
            None => spatial.grid.remove_region(audience),
        }
        let (view, shape) = (who.view.as_ref(), observer.shape.as_ref());
        self.work.add(work::EXAMINE * observer.seen.len() as u64);
        let mut lost: Vec<EntityId> = Vec::new();
        for id in &observer.seen {
            let stays = self.entities.get_mut(*id).is_some_and(|entity| {
                let position = entity.position;
                let inside = shape.zip(position).is_some_and(|(shape, at)| shape.stays(at, hysteresis));
                inside && entity.is_shown_to(view, &self.work)
            });
            if !stays {
                lost.push(*id);
            }
        }
        let mut won: Vec<EntityId> = Vec::new();
        if let Some(shape) = shape {
            let examined = spatial.grid.points_in(shape.bounds(), |id, position| {
                if shape.enters(position) && !observer.seen.contains(&id) {
                    won.push(id);
                }
            });
            self.work.add(work::EXAMINE * examined as u64);
        }
        won.retain(|id| {
            let entity = self.entities.get_mut(*id);
            entity.is_some_and(|entity| entity.is_shown_to(view, &self.work))
        });
        won.sort_unstable();
        for (ids, change) in [(lost, Change::Hide), (won, Change::Enter)] {
            for id in ids {
                let Some(entity) = self.entities.get_mut(id) else { continue };
                if change == Change::Enter {
                    observer.seen.insert(id);
                    entity.watch(audience);
                } else {
                    observer.seen.remove(&id);
                    entity.unwatch(audience);
                }
                let bytes =
                    if change == Change::Enter { entity.publication.event.data_json().len() } else { 0 };
                self.work.add(work::to_send(bytes));
                changes.push(VisibilityChange {
                    audience,
                    entity: id,
                    change,
                    state: Some(entity.publication.clone()),
                });
            }
        }
    }

    /// How many entities an area holds at most, and how many bytes their data has together; without an area, all.
    pub(crate) fn count_in(&self, area: Option<&Area>) -> (usize, usize) {
        let (Some(area), Some(spatial)) = (area, &self.space) else { return (self.len(), self.data_bytes) };
        let Some(shape) = self.shape_of(area, None) else { return (0, 0) };
        let (mut count, mut bytes) = (0, 0);
        let examined = spatial.grid.points_in(shape.bounds(), |id, _| {
            count += 1;
            bytes += self.state(id).map_or(0, |state| state.event.data_json().len());
        });
        self.work.add(work::EXAMINE * examined as u64);
        (count, bytes)
    }

    /// Whether an area may follow an entity in this state, given the subscriber's view. Only the server's part counts: the
    /// client's filter hides nothing secret.
    fn may_follow(&self, view: Option<&Rc<EffectiveView>>, state: &Publication) -> bool {
        let shown =
            || view.and_then(|view| view.server()).is_none_or(|part| part.matches(&EventScope::of(state)));
        self.space.as_ref().is_some_and(|spatial| spatial.follow_hidden) || shown()
    }

    /// Where an area is now, for a subscriber with this view; `None` if there is nothing to follow.
    fn shape_of(&self, area: &Area, view: Option<&Rc<EffectiveView>>) -> Option<Shape> {
        match area {
            Area::Fixed(shape) => Some(*shape),
            Area::Follow { key, radius } => {
                let followed = self.find(key).and_then(|id| self.entities.get(id))?;
                let center = followed.position.filter(|_| self.may_follow(view, &followed.publication));
                center.map(|center| Shape::Circle { center, radius: *radius })
            }
        }
    }

    /// Adds an observer at the current position of its area.
    pub(crate) fn add_observer(
        &mut self,
        audiences: &mut Audiences,
        audience: AudienceId,
        changes: &mut Vec<VisibilityChange>,
    ) {
        let Some(who) = audiences.get_mut(audience) else { return };
        let Some(observer) = &mut who.observer else { return };
        if let (Area::Follow { key, .. }, Some(spatial)) = (&observer.area, &mut self.space) {
            spatial.followers.entry(key.clone()).or_default().push(audience);
        }
        observer.shape = self.shape_of(&observer.area, who.view.as_ref());
        self.refresh_observer(audiences, audience, changes);
    }

    /// An observer's area is about to change: it no longer follows an entity.
    pub(crate) fn stop_following(&mut self, area: &Area, audience: AudienceId) {
        let (Some(spatial), Area::Follow { key, .. }) = (&mut self.space, area) else { return };
        if let Some(followers) = spatial.followers.get_mut(key) {
            followers.retain(|follower| *follower != audience);
            if followers.is_empty() {
                spatial.followers.remove(key);
            }
        }
    }

    /// An observer is gone.
    pub(crate) fn remove_observer(&mut self, audience: AudienceId, observer: &Observer) {
        self.stop_following(&observer.area, audience);
        for id in &observer.seen {
            if let Some(entity) = self.entities.get_mut(*id) {
                entity.unwatch(audience);
            }
        }
        if let Some(spatial) = &mut self.space {
            spatial.grid.remove_region(audience);
        }
    }

    /// The table is read: every observer finds what it sees. No one is notified of single changes.
    pub(crate) fn add_observers(&mut self, audiences: &mut Audiences) {
        let mut changes = Vec::new();
        for audience in observers(audiences) {
            self.add_observer(audiences, audience, &mut changes);
            changes.clear();
        }
        self.loaded = true;
    }
}

/// The audiences that have an area.
pub(super) fn observers(audiences: &Audiences) -> Vec<AudienceId> {
    audiences.iter().filter(|(_, who)| who.observer.is_some()).map(|(id, _)| id).collect()
}
