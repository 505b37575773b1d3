//! `watch`: a crowd that looks at a world which `world` moves. Each connection has its own area and keeps the
//! table that it receives: that only what entered is updated and leaves, that nothing is shown from elsewhere, and,
//! when the world stands still, that the table holds all that is in the area, as it was last.

use std::borrow::Cow;
use std::io;

use clap::Args;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, json};

use crate::client::{self, Crowd, Join, Member, Subscription, Target};
use crate::entity::{self, GridPoint, Sighting, World};
use crate::subscribe::{Latency, MAX_LATENCY_NS};

/// What rounding may do to a distance, in hundredths.
const ROUNDING: i64 = 1;

/// The flags of `watch`.
#[derive(Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    target: Target,
    /// The channel
    #[arg(long, default_value = "map:0")]
    channel: String,
    #[command(flatten)]
    world: World,
    /// The radius of each area
    #[arg(long, default_value_t = 40.0)]
    radius: f64,
    /// The node's `hysteresis`
    #[arg(long, default_value_t = 0.0)]
    hysteresis: f64,
    /// Areas follow the entity of the connection's own number, instead of standing somewhere
    #[arg(long)]
    follow: bool,
}

/// Joins, then counts until standard input ends.
pub(crate) fn run(args: WatchArgs) -> io::Result<()> {
    let WatchArgs { target, channel, world, radius, hysteresis, follow } = args;
    let stands = |number| if follow { None } else { Some(world.stand(number, radius)) };
    let numbers = target.first..target.first.saturating_add(target.connections);
    let crowd = Watchers {
        viewers: numbers.map(|number| Viewer { number, stand: stands(number), seen: Vec::new() }).collect(),
        begins: entity::event_begins(&channel),
        channel,
        world,
        radius,
        inside: (radius * 100.0) as i64 - ROUNDING,
        outside: ((radius + hysteresis) * 100.0).ceil() as i64 + ROUNDING,
        newest: None,
        counts: Counts::default(),
        latency: Histogram::new_with_max(MAX_LATENCY_NS, 3).map_err(io::Error::other)?,
    };
    client::run(target, Join::Message, crowd)
}

struct Watchers {
    viewers: Vec<Viewer>,
    channel: String,
    begins: Vec<u8>,
    world: World,
    radius: f64,
    /// What is nearer than this is in an area, in hundredths.
    inside: i64,
    /// What is farther than this is not, whatever it was before.
    outside: i64,
    /// The newest sighting of all: when it was sent, and its tick.
    newest: Option<(u64, u64)>,
    counts: Counts,
    latency: Histogram<u64>,
}

struct Viewer {
    /// The entity that it follows, if its area moves.
    number: u32,
    stand: Option<GridPoint>,
    /// The entities in view, in no order: they are few.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    entity: u32,
    /// Its tick, in the last event received.
    tick: u64,
}

/// What happened since the last report.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    /// Updates of what is in view.
    events: u64,
    enters: u64,
    leaves: u64,
    /// Tables that began again; one for each connection when it joins.
    resets: u64,
    /// Messages that are not from this world.
    foreign: u64,
    /// Updates and leaves of what is not in view, and enters of what is.
    strangers: u64,
    /// Updates from outside of an area that does not move.
    elsewhere: u64,
}

/// What the tables hold beside what they should: right once everything has arrived.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Tables {
    /// The last tick of which anything was seen.
    tick: Option<u64>,
    /// Entities in view, of all connections together.
    seen: u64,
    /// In an area, and not in its table.
    missing: u64,
    /// In a table, and not in its area.
    ghosts: u64,
    /// In a table as it was before the last tick.
    stale: u64,
}

#[derive(Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    counts: Counts,
    #[serde(flatten)]
    tables: Tables,
    latency_us: Latency,
}

#[derive(Deserialize)]
struct Enter<'a> {
    #[serde(default)]
    reset: bool,
    #[serde(borrow)]
    entities: Vec<Entered<'a>>,
}

#[derive(Deserialize)]
struct Entered<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Leave<'a> {
    #[serde(borrow)]
    keys: Vec<Cow<'a, str>>,
}

impl Watchers {
    fn saw(&mut self, sighting: &Sighting) {
        self.newest = self.newest.max(Some((sighting.sent, sighting.tick)));
    }

    /// Holds each table against the world as it is at the newest tick.
    fn tables(&self) -> Tables {
        let seen = self.viewers.iter().map(|viewer| viewer.seen.len() as u64).sum();
        let mut tables = Tables { seen, ..Tables::default() };
        let Some((_, tick)) = self.newest else { return tables };
        tables.tick = Some(tick);
        let places: Vec<GridPoint> =
            (0..self.world.entities).map(|entity| self.world.position(entity, tick)).collect();
        let mut is_seen = vec![false; places.len()];
        for viewer in &self.viewers {
            // Who follows an entity that does not exist has no area.
            let Some(center) = viewer.stand.or_else(|| places.get(viewer.number as usize).copied()) else {
                continue;
            };
            for seen in &viewer.seen {
                tables.stale += u64::from(seen.tick != tick);
                match places.get(seen.entity as usize) {
                    Some(at) if entity::is_near(*at, center, self.outside) => {
                        is_seen[seen.entity as usize] = true;
                    }
                    _ => tables.ghosts += 1,
                }
            }
            let due = |at: &GridPoint| entity::is_near(*at, center, self.inside);
            tables.missing +=
                places.iter().zip(&is_seen).filter(|(at, seen)| !**seen && due(at)).count() as u64;
            is_seen.fill(false);
        }
        tables
    }
}

impl Viewer {
    fn place_of(&self, entity: u32) -> Option<usize> {
        self.seen.iter().position(|seen| seen.entity == entity)
    }
}

impl Crowd for Watchers {
    type Report = Report;

    fn member(&self, index: usize) -> Member {
        let Viewer { number, stand, .. } = self.viewers[index];
        let radius = self.radius;
        let area = match stand.map(|stand| stand.map(|at| at as f64 / 100.0)) {
            Some([x, y]) => json!({"x": x, "y": y, "radius": radius}),
            None => json!({"follow": format!("e{number}"), "radius": radius}),
        };
        Member {
            player: format!("load-{number}"),
            claims: Map::new(),
            subscriptions: vec![Subscription { area: Some(area), ..Subscription::to(self.channel.clone()) }],
        }
    }

    fn event(&mut self, index: usize, now: u64, text: &[u8]) {
        let Some(sighting) = Sighting::of_event(text, &self.begins) else {
            self.counts.foreign += 1;
            return;
        };
        let viewer = &mut self.viewers[index];
        match viewer.place_of(sighting.entity) {
            Some(place) => viewer.seen[place].tick = sighting.tick,
            None => self.counts.strangers += 1,
        }
        if viewer.stand.is_some_and(|stand| !entity::is_near(sighting.at, stand, self.outside)) {
            self.counts.elsewhere += 1;
        }
        self.counts.events += 1;
        self.latency.saturating_record(now.saturating_sub(sighting.sent));
        self.saw(&sighting);
    }

    fn enter(&mut self, index: usize, text: &[u8]) {
        let Ok(enter) = serde_json::from_slice::<Enter<'_>>(text) else {
            self.counts.foreign += 1;
            return;
        };
        if enter.reset {
            self.counts.resets += 1;
            self.viewers[index].seen.clear();
        }
        for Entered { key, data } in &enter.entities {
            let sighting = Sighting::of_data(data.get().as_bytes());
            let Some(sighting) = sighting.filter(|it| entity::number_of(key) == Some(it.entity)) else {
                self.counts.foreign += 1;
                continue;
            };
            let Sighting { entity, tick, .. } = sighting;
            self.counts.enters += 1;
            self.saw(&sighting);
            let viewer = &mut self.viewers[index];
            match viewer.place_of(entity) {
                Some(_) => self.counts.strangers += 1,
                None => viewer.seen.push(Seen { entity, tick }),
            }
        }
    }

    fn leave(&mut self, index: usize, text: &[u8]) {
        let Ok(leave) = serde_json::from_slice::<Leave<'_>>(text) else {
            self.counts.foreign += 1;
            return;
        };
        for key in &leave.keys {
            self.counts.leaves += 1;
            let viewer = &mut self.viewers[index];
            match entity::number_of(key).and_then(|entity| viewer.place_of(entity)) {
                Some(place) => {
                    viewer.seen.swap_remove(place);
                }
                None => self.counts.strangers += 1,
            }
        }
    }

    fn report(&mut self) -> Report {
        let latency_us = Latency::of(&self.latency);
        self.latency.reset();
        Report { counts: std::mem::take(&mut self.counts), tables: self.tables(), latency_us }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A viewer in a small world, and the messages that a node would send it.
    struct Scene {
        watchers: Watchers,
    }

    impl Scene {
        /// An area, or one around entity 4, that holds some of the entities.
        fn new(follow: bool) -> Scene {
            let world = World { entities: 25, side: 100.0 };
            let stand = if follow { None } else { Some(world.position(4, 0)) };
            Scene {
                watchers: Watchers {
                    viewers: vec![Viewer { number: 4, stand, seen: Vec::new() }],
                    channel: "map:0".into(),
                    begins: entity::event_begins("map:0"),
                    world,
                    radius: 30.0,
                    inside: 2999,
                    outside: 3001,
                    newest: None,
                    counts: Counts::default(),
                    latency: Histogram::new_with_max(MAX_LATENCY_NS, 3).unwrap(),
                },
            }
        }

        fn near(&self, tick: u64) -> Vec<u32> {
            let world = self.watchers.world;
            let center = self.watchers.viewers[0].stand.unwrap_or_else(|| world.position(4, tick));
            (0..25).filter(|e| entity::is_near(world.position(*e, tick), center, 3000)).collect()
        }

        fn data(&self, entity: u32, tick: u64) -> String {
            let at = self.watchers.world.position(entity, tick);
            let mut payload = Vec::new();
            Sighting { sent: 1000 + tick, tick, entity, at }.write_payload(&mut payload).unwrap();
            let payload = String::from_utf8(payload).unwrap();
            payload.split_once(r#""data":"#).unwrap().1.strip_suffix('}').unwrap().to_owned()
        }

        fn enter(&mut self, entities: &[u32], tick: u64, reset: bool) {
            let entities: Vec<_> = entities
                .iter()
                .map(|e| format!(r#"{{"key":"e{e}","event":"move","data":{}}}"#, self.data(*e, tick)))
                .collect();
            let reset = if reset { r#""reset":true,"# } else { "" };
            let text = format!(
                r#"{{"type":"VIEW_ENTER","channel":"map:0",{reset}"complete":true,"entities":[{}]}}"#,
                entities.join(",")
            );
            self.watchers.enter(0, text.as_bytes());
        }

        fn update(&mut self, entity: u32, tick: u64) {
            let data = self.data(entity, tick);
            let text = format!(
                r#"{{"type":"EVENT","channel":"map:0","event":"move","data":{data},"key":"e{entity}","offset":1}}"#
            );
            self.watchers.event(0, 5000, text.as_bytes());
        }

        fn leave(&mut self, entity: u32) {
            let text =
                format!(r#"{{"type":"VIEW_LEAVE","channel":"map:0","keys":["e{entity}"],"reason":"view"}}"#);
            self.watchers.leave(0, text.as_bytes());
        }

        fn counts(&mut self) -> Counts {
            std::mem::take(&mut self.watchers.counts)
        }
    }

    #[test]
    fn a_table_that_is_told_rightly_has_no_faults() {
        for follow in [false, true] {
            let mut scene = Scene::new(follow);
            let near = scene.near(0);
            assert!(near.len() > 1 && near.len() < 25, "{near:?}");
            scene.enter(&[], 0, true);
            scene.enter(&near, 0, false);
            let tables = |tick, seen| Tables { tick: Some(tick), seen, ..Tables::default() };
            assert_eq!(scene.watchers.tables(), tables(0, near.len() as u64));
            near.iter().for_each(|entity| scene.update(*entity, 1));
            assert_eq!(scene.near(1), near);
            assert_eq!(scene.watchers.tables(), tables(1, near.len() as u64));
            let (events, enters) = (near.len() as u64, near.len() as u64);
            assert_eq!(scene.counts(), Counts { events, enters, resets: 1, ..Counts::default() });
        }
    }

    #[test]
    fn what_should_not_be_told_is_counted() {
        let mut scene = Scene::new(false);
        let near = scene.near(0);
        let far = (0..25).find(|entity| !near.contains(entity)).unwrap();
        scene.enter(&near, 0, true);
        scene.counts();

        scene.update(far, 0);
        assert_eq!(scene.counts(), Counts { events: 1, strangers: 1, elsewhere: 1, ..Counts::default() });
        scene.leave(far);
        scene.enter(&near[..1], 0, false);
        assert_eq!(scene.counts(), Counts { leaves: 1, enters: 1, strangers: 2, ..Counts::default() });
        scene.watchers.event(0, 0, br#"{"type":"EVENT","channel":"map:0","event":"tick","data":1}"#);
        scene.watchers.enter(0, br#"{"type":"VIEW_ENTER","entities":[{"key":"e1","data":1}]}"#);
        assert_eq!(scene.counts(), Counts { foreign: 2, ..Counts::default() });
    }

    #[test]
    fn what_is_not_told_shows_in_the_tables() {
        let mut scene = Scene::new(false);
        let near = scene.near(0);
        let far = (0..25).find(|entity| !near.contains(entity)).unwrap();
        scene.enter(&near, 0, true);
        scene.leave(near[0]);
        scene.enter(&[far], 0, false);
        let seen = near.len() as u64;
        assert_eq!(scene.watchers.tables(), Tables { tick: Some(0), seen, missing: 1, ghosts: 1, stale: 0 });
        // All but one are notified of the next tick.
        scene.leave(far);
        near[2..].iter().for_each(|entity| scene.update(*entity, 1));
        let tables = scene.watchers.tables();
        assert_eq!((tables.tick, tables.missing, tables.ghosts, tables.stale), (Some(1), 1, 0, 1));
    }
}
