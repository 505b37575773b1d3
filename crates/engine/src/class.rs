//! Classes of channels: which one a name belongs to, and its rules. The first class whose name matches wins.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_protocol::event::{Payload, PayloadMode};
use drawbridge_protocol::glob;
use drawbridge_protocol::template::{ClassName, Params, Template};

use crate::area::Point;
use crate::expr::Expr;
use crate::key::key_from;
pub use crate::key::{FoundKey, KeyError, MAX_KEY_BYTES};
use crate::path::{self, Path, find_each};
use crate::rate::Rate;
use crate::reserved::Reserved;

/// The rules of the channels whose names match (contract §10, `[[channel]]`).
#[derive(Clone, Debug)]
pub struct Class {
    /// Which channels.
    pub name: ClassName,
    /// Who may subscribe, over `me`, `channel`, `params`.
    pub subscribe: Expr,
    /// Who may publish what, over `me`, `channel`, `params`, `event`, `data`, `key`.
    pub publish: Expr,
    /// What every subscriber is shown at most; `None`: everything.
    pub view: Option<Expr>,
    /// Whether clients may subscribe by pattern here.
    pub patterns: bool,
    /// How payloads from outside are read.
    pub payload: PayloadMode,
    /// What happens to publishes while Redis is away.
    pub when_broker_down: WhenDown,
    /// Publishes per connection.
    pub publishes: Option<Rate>,
    /// Append to this stream instead of publishing.
    pub forward: Option<Template>,
    /// Where an event names the entity that it is about; `None`: only its own `key` does.
    pub key: Option<Path>,
    /// `kind = "entity"`: events replace the last state of their key, and clients see a live table.
    pub entity: Option<EntityRules>,
    /// How fast, and how fresh, its events leave.
    pub delivery: Delivery,
    /// What is kept of its channels' events for those who come back; `None`: nothing.
    pub history: Option<History>,
    /// On a channel with history: a plain `PUBLISH`, which is in no log, is dropped.
    pub ignores_plain_publish: bool,
    /// Its channels are sharded: subscribed with `SSUBSCRIBE` and published on with `SPUBLISH`.
    pub sharded: bool,
    /// How the members of its channels are reported.
    pub presence: Presence,
    /// Who may request the members, over `me`, `channel`, `params`; `None`: who is subscribed.
    pub presence_rule: Option<Expr>,
}

/// How much of a channel's events its log keeps (contract §10, `history`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The most events; at least 1.
    pub events: u64,
    /// How long an event is kept, in milliseconds.
    pub age_ms: u64,
}

/// How the players who are subscribed to a channel are reported (contract §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Presence {
    /// Not at all: members are not counted.
    #[default]
    Off,
    /// On request.
    Query,
    /// On request, and to every subscriber when players join or leave.
    Notify,
}

impl Class {
    /// A class with a name only: it allows nothing.
    pub fn plain(name: ClassName) -> Self {
        Class {
            name,
            subscribe: Expr::never(),
            publish: Expr::never(),
            view: None,
            patterns: false,
            payload: PayloadMode::default(),
            when_broker_down: WhenDown::default(),
            publishes: None,
            forward: None,
            key: None,
            entity: None,
            delivery: Delivery::default(),
            history: None,
            ignores_plain_publish: false,
            sharded: false,
            presence: Presence::default(),
            presence_rule: None,
        }
    }

    /// The key of an event of this class: what the class's path finds, or else what the event itself names.
    ///
    /// # Errors
    /// Where the value is neither a string nor a number, or the key is empty or over [`MAX_KEY_BYTES`].
    pub fn key_of<'e>(&self, data: &'e str, tags: Option<&'e str>, own: Option<&'e str>) -> FoundKey<'e> {
        let found = self.key.as_ref().and_then(|path| path.find(data, tags));
        key_from(found, own.map(Cow::Borrowed))
    }

    /// The key of an event that this class can keep, or what is wrong with it. `key` is what [`Class::key_of`] found.
    pub(crate) fn required_key(
        &self,
        event: &str,
        data: &str,
        key: Result<Option<String>, KeyError>,
    ) -> Result<Option<String>, String> {
        // What is forwarded is an action; the service that reads it says what becomes of the entities.
        let Some(rules) = self.entity.as_ref().filter(|_| self.forward.is_none()) else {
            return Ok(key.ok().flatten());
        };
        let place = self.key.as_ref().map_or("key".to_owned(), |path| path.to_string());
        let key = match key {
            Ok(Some(key)) => key,
            Ok(None) => return Err(format!("`{place}` is missing: it names the entity")),
            Err(error) => return Err(format!("`{place}` {error}")),
        };
        if event != REMOVE_EVENT {
            let missing =
                |path: &Path| format!("`{path}` must be a finite number: it says where the entity is");
            rules.position_of(data, None).map_err(missing)?;
        }
        Ok(Some(key))
    }

    /// Where its entities are, if they have places.
    pub fn space(&self) -> Option<&Space> {
        self.entity.as_ref()?.space.as_ref()
    }

    /// Whether events of its channels are shown to those who subscribe by a pattern, which has no area and covers no sharded
    /// channel in Redis.
    pub fn is_shown_by_pattern(&self) -> bool {
        !self.sharded && self.space().is_none_or(|space| !space.area_required)
    }

    /// [`Class::key_of`] and [`EntityRules::position_of`] what was published, in one walk through it.
    pub fn entity_of<'p>(&self, payload: &Payload<'p>) -> (FoundKey<'p>, Result<Option<Point>, &Path>) {
        let space = self.space();
        let [x, y] = space.map_or([None; 2], |space| space.position.each_ref().map(Some));
        // Elsewhere than in place it is a string, where no path leads into.
        let data = payload.data_in_place().unwrap_or_default();
        let [key, x, y] = find_each([self.key.as_ref(), x, y], data, payload.tags_json());
        let key = key_from(key, payload.key().cloned());
        (key, space.map(|space| space.position_from([x, y])).transpose())
    }
}

/// The event that ends an entity.
pub const REMOVE_EVENT: &str = "remove";

/// What an entity channel keeps (contract §5).
#[derive(Clone, Debug)]
pub struct EntityRules {
    /// How many entities one channel holds; a new key beyond is refused.
    pub max: usize,
    /// What the keys and last events of a channel's entities take together, in bytes; what would take more is refused.
    pub max_bytes: usize,
    /// How long an entity outlives its last event, in milliseconds.
    pub ttl_ms: u64,
    /// Where entities are, for areas of interest.
    pub space: Option<Space>,
}

/// Positions of entities, and what an area may be.
#[derive(Clone, Debug)]
pub struct Space {
    /// The paths of x and y in an event.
    pub position: [Path; 2],
    /// How far beyond its area a viewer keeps what it sees.
    pub hysteresis: f64,
    /// The largest radius of a circle, or half side of a box; `None`: any.
    pub max_radius: Option<f64>,
    /// Without an area nothing is shown.
    pub area_required: bool,
    /// Whom an area may follow, over `key`, `me`, `channel`, `params`.
    pub follow: Expr,
    /// An area follows an entity also while the server's view hides it from the player, and so shows where it is.
    pub follow_hidden: bool,
}

impl EntityRules {
    /// Where an event of this class happens; `Ok(None)`: its channels have no positions.
    ///
    /// # Errors
    /// Where they have, and the event has no finite number there; names the path.
    pub fn position_of(&self, data: &str, tags: Option<&str>) -> Result<Option<Point>, &Path> {
        let Some(space) = &self.space else { return Ok(None) };
        space.position_from(find_each(space.position.each_ref().map(Some), data, tags)).map(Some)
    }
}

impl Space {
    /// The position at the paths of x and y.
    fn position_from(&self, found: [Option<&str>; 2]) -> Result<Point, &Path> {
        let [x, y] = &self.position;
        match found.map(|value| value.and_then(path::number)) {
            [Some(x), Some(y)] => Ok(Point { x, y }),
            [None, _] => Err(x),
            [_, None] => Err(y),
        }
    }
}

/// How events are delivered to a connection (contract §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Events within this many milliseconds are sent together; 0: at once.
    pub batch_ms: u64,
    /// Of several events of one key within the window only the newest leaves.
    pub conflate: bool,
    /// Events per window and connection.
    pub max_updates: Option<u32>,
    /// No event waits longer for its turn under `max_updates`, in milliseconds.
    pub max_wait_ms: u64,
    /// What happens when the connection does not read.
    pub slow_consumer: SlowConsumer,
    /// The longest message that clients take who name no limit, in bytes; `None`: any.
    pub max_message_bytes: Option<usize>,
}

impl Delivery {
    /// Which window of the class it is now. All connections' windows end together: one wake-up serves them all.
    pub(crate) fn window(&self, now_ms: u64) -> u64 {
        now_ms / self.batch_ms.max(1)
    }

    /// When the window of now ends, in monotonic milliseconds.
    pub(crate) fn window_end_ms(&self, now_ms: u64) -> u64 {
        (self.window(now_ms) + 1) * self.batch_ms.max(1)
    }

    /// Whether of an entity only the newest change waits: what is chosen key by key is kept key by key.
    pub(crate) fn conflates_entities(&self) -> bool {
        self.conflate || self.max_updates.is_some()
    }

    /// Whether events may be written as they come, without waiting, conflation or shedding.
    pub fn is_immediate(&self) -> bool {
        self.batch_ms == 0 && !self.conflate && self.slow_consumer == SlowConsumer::Disconnect
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            batch_ms: 0,
            conflate: false,
            max_updates: None,
            max_wait_ms: 1_000,
            slow_consumer: SlowConsumer::default(),
            max_message_bytes: None,
        }
    }
}

/// What happens to a publish while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WhenDown {
    /// Wait in the bounded queue.
    #[default]
    Queue,
    /// Wait there for so long at most: what was not handed to Redis by then is withdrawn, and answered as not done.
    QueueFor(Duration),
    /// Refuse with `BROKER_UNAVAILABLE`.
    Reject,
    /// Deliver it on this node alone, at once, and do not publish it later.
    Local,
}

/// What happens when what waits for a connection passes its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SlowConsumer {
    /// Only the newest event of each key is kept.
    Latest,
    /// The oldest events are dropped, and `RESYNC` marks the gap.
    DropOldest,
    /// It is closed with 4001.
    #[default]
    Disconnect,
}

/// A place in [`Classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClassId(pub u16);

/// All classes, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Classes(Vec<Class>);

impl Classes {
    /// At most `u16::MAX` classes are looked at.
    pub fn new(classes: Vec<Class>) -> Arc<Self> {
        Arc::new(Classes(classes))
    }

    /// The class that a real channel belongs to; for less than [`Classes::of_channel`] costs.
    pub fn class_of(&self, channel: &str) -> Option<(ClassId, &Class)> {
        self.iter().find(|(_, class)| class.name.includes(channel))
    }

    /// The class that a real channel belongs to, and what its placeholders take from the name.
    pub fn of_channel<'c>(&self, channel: &'c str) -> Option<(ClassId, &Class, Params<'_, 'c>)> {
        self.iter().find_map(|(id, class)| Some((id, class, class.name.matches(channel)?)))
    }

    /// The class that a pattern belongs to: by its fixed part, up to the first glob character.
    pub fn of_pattern(&self, pattern: &str) -> Option<(ClassId, &Class)> {
        let fixed = glob::literal_prefix(pattern);
        self.iter().find(|(_, class)| class.name.claims_pattern(&fixed))
    }

    /// By id.
    pub fn get(&self, id: ClassId) -> Option<&Class> {
        self.0.get(usize::from(id.0))
    }

    /// How a payload published on this channel from outside is read; `Auto` for a channel of no class.
    pub fn payload_mode(&self, channel: &str) -> PayloadMode {
        self.class_of(channel).map_or(PayloadMode::Auto, |(_, class)| class.payload)
    }

    /// Every class with its id.
    pub fn iter(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        self.0.iter().zip(0..=u16::MAX).map(|(class, id)| (ClassId(id), class))
    }
}

/// Which channels are sharded: those of classes with `sharded = true`, except the nodes' own. The name decides it. Only the code
/// that chooses a Redis command or a link needs to know.
#[derive(Clone, Debug, Default)]
pub struct ShardedChannels(Option<(Arc<Classes>, Reserved)>);

impl ShardedChannels {
    /// Those of these classes.
    pub fn new(classes: &Arc<Classes>, reserved: &Reserved) -> Self {
        let has_any = classes.iter().any(|(_, class)| class.sharded);
        ShardedChannels(has_any.then(|| (classes.clone(), reserved.clone())))
    }

    /// Whether there can be any.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this channel is sharded.
    pub fn contain(&self, channel: &str) -> bool {
        self.0.as_ref().is_some_and(|(classes, reserved)| {
            !reserved.holds(channel) && classes.class_of(channel).is_some_and(|(_, class)| class.sharded)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_channel_is_sharded_as_the_first_class_that_matches_says_and_the_nodes_own_never() {
        let class = |name: &str, sharded| Class { sharded, ..Class::plain(ClassName::parse(name).unwrap()) };
        let classes =
            Classes::new(vec![class("room:lobby", false), class("room:{r}", true), class("*", true)]);
        let sharded = ShardedChannels::new(&classes, &Reserved::new("drawbridge:"));
        for channel in ["room:1", "chat:1"] {
            assert!(sharded.contain(channel), "{channel}");
        }
        for channel in ["room:lobby", "drawbridge:nodes:0", "drawbridge:presence:room:1"] {
            assert!(!sharded.contain(channel), "{channel}");
        }
        assert!(
            ShardedChannels::new(&Classes::new(vec![class("a", false)]), &Reserved::new("own:")).is_empty()
        );
    }
}
