//! The keys of a class for entities, areas and delivery (contract §5, §6, §10).

use std::time::Duration;

use drawbridge_engine::class::{Delivery, EntityRules, SlowConsumer, Space};
use drawbridge_engine::expr::{Expr, Vars};
use drawbridge_engine::path::Path;
use drawbridge_protocol::{MAX_MESSAGE_BYTES, MIN_MESSAGE_BYTES};

use super::channel::compile;
use super::reader::{Field, Section, excerpt};

const ENTITY_MAX: u64 = 10_000;
const ENTITY_BYTES: u64 = 16 << 20;
const ENTITY_TTL: Duration = Duration::from_secs(3_600);
const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 3_600);
const LONGEST_WINDOW: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A class's keys for entities and delivery.
pub(super) struct Views {
    pub(super) key: Option<Path>,
    pub(super) entity: Option<EntityRules>,
    pub(super) delivery: Delivery,
}

pub(super) fn read(section: &Section<'_>, params: Option<&[&str]>) -> Views {
    let is_entity = section.choice("kind", false, &[("stream", false), ("entity", true)]);
    let key = section.field("key").and_then(|field| path(&field));
    let max = section.number("entity_max", ENTITY_MAX, 1..=10_000_000) as usize;
    let max_bytes = section.size("entity_bytes", ENTITY_BYTES, 1 << 10..=1 << 30) as usize;
    let ttl = section.duration("entity_ttl", ENTITY_TTL, Duration::from_millis(100)..=LONGEST_TTL);
    let space = space(section, is_entity, params);
    let entity = is_entity.then_some(EntityRules { max, max_bytes, ttl_ms: ttl.as_millis() as u64, space });
    Views { key, entity, delivery: delivery(section, is_entity) }
}

fn path(field: &Field<'_>) -> Option<Path> {
    let text = field.string()?;
    Path::parse(&text)
        .map_err(|error| {
            field.error(format_args!("is not a path: \"{}\"", excerpt(&text)), error.to_string())
        })
        .ok()
}

/// Where entities are. It has no effect on a class without entities or positions.
fn space(section: &Section<'_>, is_entity: bool, params: Option<&[&str]>) -> Option<Space> {
    let given = section.has("position");
    let position = section.field("position").and_then(position);
    // What refers to places needs places.
    let field = |key: &str| {
        let field = section.field(key)?;
        if !given && !field.is_false() {
            field.error(
                "needs `position`",
                "say where an event has its place: position = [\"data.x\", \"data.y\"]",
            );
        }
        Some(field)
    };
    let hysteresis = field("hysteresis").and_then(|field| field.decimal()).unwrap_or(0.0);
    let max_radius = field("max_radius").and_then(|field| field.decimal());
    let area_required = field("area_required").and_then(|field| field.boolean()).unwrap_or(false);
    let follow = match field("follow") {
        Some(field) => compile(&field, Vars::FOLLOW_RULE, params)?,
        None => Expr::never(),
    };
    let follow_hidden = field("follow_hidden").and_then(|field| field.boolean()).unwrap_or(false);
    if given && !is_entity {
        section.cx().warn("`channel.position` says nothing on a class whose kind is not \"entity\"");
    }
    Some(Space { position: position?, hysteresis, max_radius, area_required, follow, follow_hidden })
}

fn position(field: Field<'_>) -> Option<[Path; 2]> {
    let place = field.clone();
    let paths: Vec<Path> = field.strings()?.iter().map(path).collect::<Option<_>>()?;
    <[Path; 2]>::try_from(paths)
        .map_err(|paths| {
            place.error(
                format_args!("has {} paths, not two", paths.len()),
                "x and y: position = [\"data.x\", \"data.y\"]",
            )
        })
        .ok()
}

fn delivery(section: &Section<'_>, is_entity: bool) -> Delivery {
    let defaults = Delivery::default();
    let batch = section.duration("batch", Duration::ZERO, Duration::ZERO..=LONGEST_WINDOW);
    // It is counted by windows.
    let field = |key: &str| {
        let field = section.field(key)?;
        if batch.is_zero() {
            field.error("needs `batch`", "say how long a window is: batch = \"50ms\"");
        }
        Some(field)
    };
    let max_updates = field("max_updates").and_then(|field| field.number(1..=1_000_000));
    let max_wait = field("max_wait").and_then(|field| {
        let wait = field.duration(Duration::from_millis(1)..=LONGEST_WAIT)?;
        if wait < batch {
            field.error("is shorter than `batch`", "what waits, waits for one window at least");
        }
        Some(wait)
    });
    let max_wait = max_wait.unwrap_or(Duration::from_millis(defaults.max_wait_ms).max(batch));
    let conflate = section.boolean("conflate", false);
    let usual = if is_entity { SlowConsumer::Latest } else { SlowConsumer::Disconnect };
    let slow_consumer = section.choice(
        "slow_consumer",
        usual,
        &[
            ("latest", SlowConsumer::Latest),
            ("drop_oldest", SlowConsumer::DropOldest),
            ("disconnect", SlowConsumer::Disconnect),
        ],
    );
    let max_message_bytes = section
        .field("message_bytes_out")
        .and_then(|field| field.size(MIN_MESSAGE_BYTES as u64..=MAX_MESSAGE_BYTES as u64));
    Delivery {
        batch_ms: batch.as_millis() as u64,
        conflate,
        max_updates: max_updates.map(|max| max as u32),
        max_wait_ms: max_wait.as_millis() as u64,
        slow_consumer,
        max_message_bytes: max_message_bytes.map(|bytes| bytes as usize),
    }
}
