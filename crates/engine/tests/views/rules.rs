//! What a seed's classes say, and the filters, views and areas that players and services choose from, each as its
//! text and as what it means.

use std::sync::Arc;

use drawbridge_engine::class::{Class, Delivery, EntityRules, SlowConsumer, Space};
use drawbridge_engine::expr::Vars;
use drawbridge_engine::settings::Settings;
use drawbridge_engine::work::SNAPSHOT_STEPS;
use drawbridge_testkit::classes::{self, open, path, rule};
use drawbridge_testkit::dice::{Chance, Dice};
use drawbridge_testkit::facts::{self, Said};
use drawbridge_testkit::settings::settings;
use serde_json::{Value, json};

pub const CHANNELS: [&str; 6] = ["st:a", "st:b", "ent:a", "ent:b", "sp:a", "sp:b"];
pub const HYSTERESIS: f64 = 5.0;
pub const MAX_RADIUS: f64 = 60.0;
/// Whom an area may follow.
const FOLLOW: &str = "me.team == 'red' || key != 'e1'";

/// One choice of the dice for a whole run.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Of `st:*`, `ent:*` and `sp:*`.
    pub deliveries: [Delivery; 3],
    pub area_required: bool,
    pub entity_max: usize,
    pub ttl_ms: u64,
    pub outbound_bytes: usize,
    /// How much each event carries beside what matters, in bytes.
    pub padding: usize,
    pub shards: usize,
    /// Of a thousand publications to a shard so many are dropped.
    pub drops: usize,
    /// One of so many writes blocks the socket.
    pub blocks: usize,
    /// What snapshots do in a turn.
    pub snapshot_steps: u64,
}

impl Rules {
    pub fn roll(dice: &mut Dice) -> Self {
        let delivery = |dice: &mut Dice| {
            let batch_ms = [0, 50][dice.roll(2)];
            let conflate = dice.roll(2) == 0;
            let chosen = batch_ms > 0 && dice.roll(3) == 0;
            let policies = [SlowConsumer::Latest, SlowConsumer::DropOldest, SlowConsumer::Disconnect];
            Delivery {
                batch_ms,
                conflate,
                max_updates: chosen.then_some(2),
                max_wait_ms: 200,
                slow_consumer: policies[dice.roll(3)],
                max_message_bytes: None,
            }
        };
        let deliveries = [delivery(dice), delivery(dice), delivery(dice)];
        let padding = [0, 0, 0, 20_000][dice.roll(4)];
        let bounds = if padding > 0 { [150_000, 1 << 20, 400_000] } else { [3_000, 8_000, 1 << 20] };
        Rules {
            deliveries,
            area_required: dice.roll(2) == 0,
            entity_max: [1_000, 1_000, 5][dice.roll(3)],
            ttl_ms: [3_600_000, 3_600_000, 600][dice.roll(3)],
            outbound_bytes: bounds[dice.roll(3)],
            padding,
            shards: 1 + dice.roll(2),
            drops: [0, 0, 10, 40][dice.roll(4)],
            blocks: [6, 12, 40][dice.roll(3)],
            snapshot_steps: [SNAPSHOT_STEPS, 1, 200][dice.roll(3)],
        }
    }

    pub fn delivery(&self, channel: &str) -> &Delivery {
        &self.deliveries[kind(channel)]
    }

    /// Events are told in their order only key by key.
    pub fn is_by_key(&self, channel: &str) -> bool {
        let delivery = self.delivery(channel);
        // A reader that is slow is shown the newest of each key, too.
        let conflates = delivery.conflate || delivery.slow_consumer == SlowConsumer::Latest;
        delivery.max_updates.is_some() && conflates
    }

    pub fn settings(&self) -> Settings {
        let class = |name: &str, delivery: Delivery, entity: Option<EntityRules>| Class {
            view: Some(rule("!has(data.team) || data.team == me.team", Vars::VIEW_RULE)),
            patterns: true,
            key: Some(path("data.id")),
            entity,
            delivery,
            ..open(name)
        };
        let entities =
            |space| EntityRules { max: self.entity_max, ttl_ms: self.ttl_ms, space, ..classes::entities() };
        let space = Space {
            hysteresis: HYSTERESIS,
            max_radius: Some(MAX_RADIUS),
            area_required: self.area_required,
            follow: rule(FOLLOW, Vars::PUBLISH_RULE),
            ..classes::space()
        };
        let classes = vec![
            class("st:{name}", self.deliveries[0], None),
            class("ent:{name}", self.deliveries[1], Some(entities(None))),
            class("sp:{name}", self.deliveries[2], Some(entities(Some(space)))),
        ];
        let Rules { outbound_bytes, snapshot_steps, .. } = *self;
        Settings { outbound_bytes, snapshot_steps, ..settings(classes) }
    }
}

/// What really happened, with what filters mean.
pub type Facts = facts::Facts<Filter>;

/// Whether its channel's class can keep what was said.
pub fn is_good(said: &Said) -> bool {
    match kind(&said.channel) {
        0 => true,
        1 => said.key.is_some(),
        _ => said.key.is_some() && (said.is_remove() || said.position().is_some()),
    }
}

/// 0: a stream, 1: entities, 2: entities with positions.
pub fn kind(channel: &str) -> usize {
    match channel.split_once(':') {
        Some(("st", _)) => 0,
        Some(("ent", _)) => 1,
        Some(("sp", _)) => 2,
        _ => panic!("{channel} is of no class"),
    }
}

pub fn has_table(name: &str) -> bool {
    !name.contains('*') && kind(name) > 0
}

/// A filter of a client, or a view that a service narrows a player to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Filter(usize);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

type Meaning = fn(&Said) -> bool;

const FILTERS: [(&str, Meaning); 7] = [
    ("data.hp < 5", |said| said.hp() < 5),
    ("data.n % 2 == 0", |said| said.number.is_multiple_of(2)),
    ("key in ['e1', 'e2', 'e3', '7']", |said| matches!(said.key.as_deref(), Some("e1" | "e2" | "e3" | "7"))),
    ("data.team == 'red'", |said| said.team() == Some("red")),
    ("has(data.team) && data.hp >= 2", |said| said.team().is_some() && said.hp() >= 2),
    ("event != 'e' || data.hp != 3", |said| said.event != "e" || said.hp() != 3),
    // A key that is not there is null.
    ("key != 'e0'", |said| said.key.as_deref() != Some("e0")),
];

impl Filter {
    pub fn roll(dice: &mut Dice) -> Self {
        Filter(dice.roll(FILTERS.len()))
    }
    pub fn text(self) -> &'static str {
        FILTERS[self.0].0
    }
    pub fn of_text(text: &str) -> Self {
        Filter(FILTERS.iter().position(|(known, _)| *known == text).unwrap())
    }
    pub fn shows(self, said: &Said) -> bool {
        FILTERS[self.0].1(said)
    }
}

/// An area as its client asked for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Area {
    Circle { center: (f64, f64), radius: f64 },
    Rect { min: (f64, f64), max: (f64, f64) },
    Follow { key: Arc<str>, radius: f64 },
}

impl Area {
    pub fn roll(dice: &mut Dice) -> Self {
        // Now and then one that is too large.
        let radius = |dice: &mut Dice| (5 + dice.roll(58)) as f64;
        let place = |dice: &mut Dice| (dice.roll(100) as f64, dice.roll(100) as f64);
        match dice.roll(3) {
            0 => Area::Circle { center: place(dice), radius: radius(dice) },
            1 => {
                let (x, y) = place(dice);
                Area::Rect { min: (x, y), max: (x + radius(dice), y + radius(dice)) }
            }
            _ => Area::Follow { key: format!("e{}", dice.roll(4)).into(), radius: radius(dice) },
        }
    }

    pub fn json(&self) -> Value {
        match self {
            Area::Circle { center: (x, y), radius } => json!({ "x": x, "y": y, "radius": radius }),
            Area::Rect { min, max } => json!({ "min": [min.0, min.1], "max": [max.0, max.1] }),
            Area::Follow { key, radius } => json!({ "follow": &**key, "radius": radius }),
        }
    }

    /// Whether a place is in it, grown by so much; `followed`: where whom it follows is.
    pub fn holds(&self, at: (f64, f64), followed: Option<(f64, f64)>, grown: f64) -> bool {
        let near =
            |center: (f64, f64), radius: f64| (center.0 - at.0).hypot(center.1 - at.1) <= radius + grown;
        match self {
            Area::Circle { center, radius } => near(*center, *radius),
            Area::Rect { min, max } => {
                min.0 - grown <= at.0
                    && at.0 <= max.0 + grown
                    && min.1 - grown <= at.1
                    && at.1 <= max.1 + grown
            }
            Area::Follow { radius, .. } => followed.is_some_and(|center| near(center, *radius)),
        }
    }
}
