//! `[connection]`, `[limits]` and `[lifecycle]`: how one connection is treated.

use std::sync::Arc;
use std::time::Duration;

use drawbridge_engine::settings::{PlayerConnections, Rate, WhenExceeded};
use drawbridge_protocol::template::Template;

use super::reader::{Field, Section, excerpt};

/// `[connection]`.
pub(super) struct Connection {
    pub(super) auto_subscribe: Vec<Template>,
    pub(super) connect_timeout: Duration,
    pub(super) heartbeat: Duration,
    pub(super) resume_window: Duration,
    pub(super) allowed_origins: Option<Vec<String>>,
    pub(super) outbound_bytes: usize,
    pub(super) compression: bool,
    pub(super) linger: Duration,
}

/// `[limits]`.
pub(super) struct Limits {
    pub(super) message_bytes: usize,
    pub(super) subscriptions: usize,
    pub(super) patterns_per_player: usize,
    pub(super) connecting: usize,
    pub(super) messages: Rate,
    pub(super) subscribes: Rate,
    pub(super) bytes: Rate,
    pub(super) work: Rate,
    pub(super) detached_per_player: usize,
    pub(super) detached_bytes: usize,
    pub(super) connections_per_address: Option<u32>,
    pub(super) connections_per_player: Option<PlayerConnections>,
    pub(super) messages_per_player: Option<Rate>,
    pub(super) messages_per_address: Option<Rate>,
}

const MOMENT: Duration = Duration::from_millis(10);
const MINUTE: Duration = Duration::from_secs(60);
const MAX_TEMPLATES: usize = 64;
const DEFAULT_MESSAGES: Rate = Rate { per_second: 50, burst: 100 };
const DEFAULT_SUBSCRIBES: Rate = Rate { per_second: 20, burst: 40 };
const DEFAULT_WORK: Rate = Rate { per_second: 2_000, burst: 4_000 };
const DEFAULT_BYTES: Rate = Rate { per_second: 64 << 10, burst: 256 << 10 };

pub(super) fn read(section: &Section<'_>) -> Connection {
    let connection = Connection {
        auto_subscribe: templates(section.field("auto_subscribe")),
        connect_timeout: section.duration("connect_timeout", Duration::from_secs(5), MOMENT..=5 * MINUTE),
        heartbeat: section.duration("heartbeat", Duration::from_secs(25), MOMENT..=10 * MINUTE),
        resume_window: section.duration("resume_window", MINUTE, Duration::ZERO..=60 * MINUTE),
        allowed_origins: section
            .strings("allowed_origins")
            .map(|origins| origins.iter().filter_map(origin).collect()),
        outbound_bytes: section.size("outbound_bytes", 1 << 20, 1 << 10..=1 << 30) as usize,
        compression: section.boolean("compression", true),
        linger: section.duration("linger", Duration::from_secs(2), Duration::ZERO..=MINUTE),
    };
    section.close();
    connection
}

pub(super) fn read_limits(section: &Section<'_>) -> Limits {
    let limits = Limits {
        message_bytes: section.size("message_bytes", 64 << 10, 128..=16 << 20) as usize,
        subscriptions: section.number("subscriptions", 256, 1..=100_000) as usize,
        patterns_per_player: section.number("patterns_per_player", 32, 1..=100_000) as usize,
        connecting: section.number("connecting", 1_000, 1..=100_000) as usize,
        messages: section.rate("messages", Some(DEFAULT_MESSAGES)).unwrap_or(DEFAULT_MESSAGES),
        subscribes: section.rate("subscribes", Some(DEFAULT_SUBSCRIBES)).unwrap_or(DEFAULT_SUBSCRIBES),
        bytes: section.byte_rate("bytes", Some(DEFAULT_BYTES)).unwrap_or(DEFAULT_BYTES),
        work: section.rate("work", Some(DEFAULT_WORK)).unwrap_or(DEFAULT_WORK),
        detached_per_player: section.number("detached_per_player", 4, 1..=10_000) as usize,
        detached_bytes: section.size("detached_bytes", 64 << 20, 1 << 10..=1 << 40) as usize,
        connections_per_address: section
            .field("connections_per_address")
            .and_then(|field| field.number(1..=u64::from(u32::MAX)))
            .and_then(|number| u32::try_from(number).ok()),
        connections_per_player: connections_per_player(section),
        messages_per_player: section.rate("messages_per_player", None),
        messages_per_address: section.rate("messages_per_address", None),
    };
    section.close();
    limits
}

fn connections_per_player(section: &Section<'_>) -> Option<PlayerConnections> {
    let max = section.field("connections_per_player").map(|field| field.number(1..=1_000_000));
    let when_exceeded = section.field("when_exceeded").and_then(|field| {
        if max.is_none() {
            field.error("needs `connections_per_player`", "say how many: connections_per_player = 1");
        }
        field.choice(&[("close_oldest", WhenExceeded::CloseOldest), ("refuse", WhenExceeded::Refuse)])
    });
    let when_exceeded = when_exceeded.unwrap_or(WhenExceeded::CloseOldest);
    Some(PlayerConnections { max: max.flatten()? as usize, when_exceeded })
}

/// `[lifecycle]`: the stream's key.
pub(super) fn read_lifecycle(section: &Section<'_>) -> Option<Arc<str>> {
    let stream = section.field("stream").and_then(|field| {
        let stream = field.text()?;
        if stream.len() > 255 || stream.contains(|c: char| c.is_whitespace() || c.is_control()) {
            field.error(
                "is not fit for a stream's key",
                "at most 255 bytes, without white space, like \"drawbridge:lifecycle\"",
            );
            return None;
        }
        Some(Arc::from(stream))
    });
    section.close();
    stream
}

fn templates(field: Option<Field<'_>>) -> Vec<Template> {
    let Some(field) = field else { return Vec::new() };
    let (cx, path, place) = (field.cx, field.path.clone(), field.place.clone());
    let fields = field.strings().unwrap_or_default();
    if fields.len() > MAX_TEMPLATES {
        cx.error(&place, format_args!("`{path}` holds more than {MAX_TEMPLATES} templates"), None);
    }
    fields.iter().filter_map(template).collect()
}

/// A template, or what is wrong with it.
pub(super) fn template(field: &Field<'_>) -> Option<Template> {
    let text = field.text()?;
    match Template::parse(&text) {
        Ok(template) => Some(template),
        Err(error) => {
            field.error(
                format_args!("contains an invalid template: \"{}\": {error}", excerpt(&text)),
                "a template is written like \"room:{room}\"",
            );
            None
        }
    }
}

/// `*`, `null`, or scheme and host as a browser sends them.
fn origin(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if matches!(&*text, "*" | "null") {
        return Some(text);
    }
    let origin = text.split_once("://").filter(|(scheme, rest)| {
        let unfit = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '?' | '#' | '@' | '*');
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        !scheme.is_empty() && scheme.chars().all(is_scheme) && !rest.is_empty() && !rest.contains(unfit)
    });
    match origin {
        Some(_) => Some(text.to_ascii_lowercase()),
        None => {
            field.error(
                format_args!("contains an invalid origin: \"{}\"", excerpt(&text)),
                "an origin is written like \"https://play.example\", without a path or a slash at the end; [\"*\"] allows any",
            );
            None
        }
    }
}
