//! [`Settings`] with plenty of everything, of which a test changes what it is about.

use drawbridge_engine::class::{Class, Classes};
use drawbridge_engine::settings::{Rate, Reserved, Settings};
use drawbridge_engine::upstream::{HubSettings, LinkId, SlotHasher};
use drawbridge_engine::work::SNAPSHOT_STEPS;

/// More than any test uses.
pub const PLENTY: Rate = Rate { per_second: 1 << 20, burst: 1 << 20 };

/// What the names of the server's own channels begin with.
pub const RESERVED: &str = "drawbridge:";

/// No limit that a test meets by accident, no heartbeat, no sessions without a connection, and no channels except those of these classes.
pub fn settings(classes: Vec<Class>) -> Settings {
    Settings {
        node: "n".into(),
        instance: "n-1".into(),
        classes: Classes::new(classes),
        auto_subscribe: vec![],
        allow_anonymous: false,
        connect_timeout_ms: 1_000_000,
        token_leeway_ms: 0,
        heartbeat_ms: 1_000_000_000,
        resume_window_ms: 0,
        detached_per_player: 256,
        detached_bytes: 64 << 20,
        outbound_bytes: 1 << 20,
        message_bytes: 65_536,
        subscriptions: 256,
        patterns_per_player: 256,
        connecting: 1 << 20,
        messages: PLENTY,
        subscribes: PLENTY,
        bytes: Rate { per_second: 1 << 30, burst: 1 << 30 },
        connections_per_player: None,
        work: PLENTY,
        messages_per_player: None,
        connections_per_address: None,
        messages_per_address: None,
        lifecycle_stream: None,
        reserved: Reserved::new(RESERVED),
        external_bytes: 1 << 20,
        views_open_without_permission: false,
        snapshot_steps: SNAPSHOT_STEPS,
        explain: true,
    }
}

/// Those of a hub on a node with these settings, where subscriptions linger for 50 ms.
pub fn hub_settings(settings: &Settings, link: usize, seed: u128) -> HubSettings {
    HubSettings {
        link: LinkId::at(link),
        seed,
        linger_ms: 50,
        external_bytes: settings.external_bytes,
        classes: settings.classes.clone(),
        reserved: settings.reserved.clone(),
        slots: SlotHasher::default(),
    }
}
