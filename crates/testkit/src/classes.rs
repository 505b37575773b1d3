//! Classes of channels that many tests have in common, and what classes are made of.

use drawbridge_engine::class::{Class, Delivery, EntityRules, Space};
use drawbridge_engine::expr::{Expr, Vars, compile};
use drawbridge_engine::path::Path;
use drawbridge_protocol::template::ClassName;

/// An expression over these variables.
pub fn rule(text: &str, vars: Vars) -> Expr {
    compile(text, vars).unwrap()
}

/// A path into an event.
pub fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

/// A class whose channels everyone may subscribe to and publish on.
pub fn open(name: &str) -> Class {
    Class {
        subscribe: rule("true", Vars::SUBSCRIBE_RULE),
        publish: rule("true", Vars::PUBLISH_RULE),
        ..Class::plain(ClassName::parse(name).unwrap())
    }
}

/// Entities without positions, which live for ten seconds.
pub fn entities() -> EntityRules {
    EntityRules { max: 1_000, max_bytes: 1 << 30, ttl_ms: 10_000, space: None }
}

/// Positions at `data.x` and `data.y`; areas are optional and may follow any entity that is shown.
pub fn space() -> Space {
    Space {
        position: [path("data.x"), path("data.y")],
        hysteresis: 2.0,
        max_radius: Some(100.0),
        area_required: false,
        follow: rule("true", Vars::PUBLISH_RULE),
        follow_hidden: false,
    }
}

/// `world:{world}`: entities with the key `data.id`, of which players see their team's and public ones.
pub fn world(delivery: Delivery, has_space: bool) -> Class {
    Class {
        view: Some(rule("data.team == me.team || data.public", Vars::VIEW_RULE)),
        key: Some(path("data.id")),
        entity: Some(EntityRules { space: has_space.then(space), ..entities() }),
        delivery,
        ..open("world:{world}")
    }
}

/// As [`world`] with positions, for up to 20,000 entities that do not expire and areas of any size.
pub fn large_world(delivery: Delivery) -> Class {
    let space = Space { max_radius: None, ..space() };
    let rules = EntityRules { max: 20_000, ttl_ms: 1_000_000_000, space: Some(space), ..entities() };
    Class { entity: Some(rules), ..world(delivery, true) }
}

/// `world:{world}`: events with the key `data.id`, which services alone publish.
pub fn stream(delivery: Delivery) -> Class {
    Class { publish: Expr::never(), key: Some(path("data.id")), delivery, ..open("world:{world}") }
}
