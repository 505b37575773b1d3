//! Publications through the hub. Redis sends one copy for each subscription of the link that matches; one of them
//! is canonical, is read, numbered and passed on, and the others are dropped.

use std::sync::Arc;

use drawbridge_protocol::channel;
use drawbridge_protocol::event::{Event, Payload, PayloadMode};

use super::hub::{Hub, State};
use super::io::{BadEntity, HubOutput, HubSettings};
use super::shards::ShardSet;
use super::source::Source;
use super::table::ApplyOutcome;
use super::tables::{put, read_entity};
use crate::class::{Class, ClassId};
use crate::io::{BrokerEvent, EntityChange, InLog, Position, PresenceChange, Publication, SubjectRef};

/// What was published, as far as it was held.
#[derive(Debug)]
pub(super) enum Content<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was over the bound; its size.
    Oversized(usize),
}

/// How the events of a channel are read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// It is the node's own: taken as it is, and never shown through patterns.
    reserved: bool,
    /// The store's notices of players who come and go.
    presence: bool,
    /// It is sharded: what came by a pattern was published with `PUBLISH`, and is not its event.
    sharded: bool,
    class: Option<ClassId>,
}

impl Rules {
    /// Whether player commands come on it.
    pub(super) fn is_of_commands(self) -> bool {
        self.reserved && !self.presence
    }

    /// Whether patterns show nothing of it.
    fn is_by_name_only(self) -> bool {
        self.reserved || self.sharded
    }

    pub(super) fn class_id(self) -> Option<ClassId> {
        self.class
    }

    pub(super) fn class(self, settings: &HubSettings) -> Option<&Class> {
        self.class.and_then(|id| settings.classes.get(id))
    }
}

/// Why a publication is dropped.
enum Dropped<'a> {
    /// It is over the bound; its size.
    Oversized(usize),
    /// Its class does not take what it holds.
    Unreadable,
    /// It says nothing good of an entity; what it says.
    Entity(BadEntity, Box<Payload<'a>>),
}

impl Hub {
    pub(super) fn rules_of(&self, channel: &str) -> Rules {
        let reserved = self.settings.reserved.holds(channel);
        let class = if reserved { None } else { self.settings.classes.class_of(channel) };
        let presence = reserved && self.settings.reserved.of_presence_channel(channel).is_some();
        let sharded = class.is_some_and(|(_, class)| class.sharded);
        Rules { reserved, presence, sharded, class: class.map(|(id, _)| id) }
    }

    pub(super) fn message(
        &mut self,
        now_ms: u64,
        pattern: Option<&[u8]>,
        channel: &[u8],
        content: Content<'_>,
    ) {
        let Ok(channel) = std::str::from_utf8(channel) else {
            self.stats.dropped_bad_name += 1;
            return;
        };
        match pattern {
            None => self.exact_copy(now_ms, channel, content),
            Some(pattern) => self.pattern_copy(pattern, channel, content),
        }
    }

    /// The exact subscription's copy is canonical wherever there is one.
    fn exact_copy(&mut self, now_ms: u64, channel: &str, content: Content<'_>) {
        let matched = self.pattern_shards(channel);
        let key = SubjectRef::channel(channel);
        let Some((subject, entry)) = self.entries.get_key_value_mut(&key) else {
            return self.message_of_a_move(now_ms, channel, content);
        };
        if entry.rules.presence {
            let shards = if entry.state == State::Live { entry.shards } else { ShardSet::default() };
            let notices = subject.name.clone();
            return self.presence_notice(shards, notices, content);
        }
        let by_pattern = if entry.rules.is_by_name_only() { ShardSet::default() } else { matched };
        let mut shards = by_pattern;
        if entry.state == State::Live {
            shards = shards.union(entry.shards);
        }
        if matches!(entry.source, Source::Log(_)) {
            // A log is followed also while no one is shown it.
            if !shards.is_empty() || entry.state != State::Ending {
                let (name, rules) = (subject.name.clone(), entry.rules);
                self.logged_copy(&name, rules, content, false);
            }
            return;
        }
        let table = entry.source.table_mut().filter(|_| entry.state != State::Ending);
        if shards.is_empty() && table.is_none() {
            return;
        }
        let rules = entry.rules;
        let position = Position { offset: entry.position.offset.next(), ..entry.position };
        let read = match read(&self.settings, rules, content) {
            Ok(read) => read,
            Err(Dropped::Entity(reason, payload)) if table.is_some() => {
                self.drop_entity(channel, reason);
                return self.end_unreadable(now_ms, channel, &payload);
            }
            Err(Dropped::Oversized(bytes)) => {
                let name = subject.name.clone();
                // Nobody counts on the node's own channels.
                if rules.reserved {
                    return self.oversized(&name, bytes);
                }
                entry.position = position;
                return self.skip(shards, name, position, bytes);
            }
            Err(reason) => return self.dropped(channel, reason),
        };
        let by = if by_pattern.is_empty() { ReceivedBy::Name } else { ReceivedBy::Pattern };
        let (name, number) = (subject.name.clone(), Number::Own(position));
        let mut publication = publication(&self.settings, rules, name, number, by, read);
        let (outcome, gone) = match table {
            Some(table) => put(&mut self.stats, table, now_ms, &publication),
            None => (ApplyOutcome::Changed, Vec::new()),
        };
        if outcome == ApplyOutcome::Full {
            return self.drop_entity(channel, BadEntity::Full);
        }
        entry.position = position;
        if !self.kept(now_ms, &publication.channel, outcome, gone) {
            // For the table it is no news; through patterns it is an event like any other.
            shards = by_pattern;
            if let Some(publication) = Arc::get_mut(&mut publication) {
                publication.entity = None;
            }
        }
        if !shards.is_empty() {
            self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Publication(publication)));
        }
    }

    /// What the store says of a channel's players. What cannot be read is missed.
    fn presence_notice(&mut self, shards: ShardSet, notices: Arc<str>, content: Content<'_>) {
        let change = match content {
            Content::Whole(payload) => PresenceChange::read(payload).map(Arc::new),
            Content::Oversized(_) => None,
        };
        self.stats.dropped_unreadable += u64::from(change.is_none());
        if !shards.is_empty() {
            self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Presence { notices, change }));
        }
    }

    /// Where Redis holds the channel by name, too, that copy is canonical; else the cover says which.
    fn pattern_copy(&mut self, pattern: &[u8], channel: &str, content: Content<'_>) {
        let key = SubjectRef::channel(channel);
        let exact = self.entries.get(&key).map(|entry| entry.state);
        if exact.is_some_and(|state| matches!(state, State::Loading | State::Live | State::Ending)) {
            return;
        }
        if !self.cover.is_canonical(pattern, channel) {
            return;
        }
        // What nobody wants is dropped before anything of it is read.
        let shards = self.pattern_shards(channel);
        if shards.is_empty() {
            return self.pass_over_log(channel);
        }
        let rules = self.rules_of(channel);
        if rules.is_by_name_only() {
            return;
        }
        if channel::validate(channel).is_err() {
            self.stats.dropped_bad_name += 1;
            return;
        }
        if rules.class(&self.settings).is_some_and(|class| class.history.is_some()) {
            return self.logged_copy(&channel.into(), rules, content, true);
        }
        let read = match read(&self.settings, rules, content) {
            Ok(read) => read,
            Err(Dropped::Oversized(bytes)) => {
                let (name, position) = self.count_by_pattern(channel);
                return self.skip(shards, name, position, bytes);
            }
            Err(reason) => return self.dropped(channel, reason),
        };
        let (name, position) = self.count_by_pattern(channel);
        let number = Number::Own(position);
        let publication = publication(&self.settings, rules, name, number, ReceivedBy::Pattern, read);
        self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Publication(publication)));
    }

    /// An event that Redis cannot publish, for all shards that want its channel. Shards show it to those who were
    /// subscribed before Redis went away.
    ///
    /// Invariant: it takes no number. Those of the channel go on where they were, and it carries the last one, so that
    /// whatever is said of it later (that it was dropped, say) is said of that place.
    pub(super) fn local_event(&mut self, channel: &str, payload: &[u8]) {
        let mut by_pattern = ShardSet::default();
        self.patterns.for_each_match(channel, |_, pattern| by_pattern = by_pattern.union(pattern.shards));
        let entry = self.entries.get_key_value(&SubjectRef::channel(channel));
        let (rules, known) = match entry {
            Some((subject, entry)) => {
                (entry.rules, Some((subject.name.clone(), entry.position, entry.shards)))
            }
            None => (self.rules_of(channel), None),
        };
        if rules.reserved {
            return;
        }
        if rules.is_by_name_only() {
            by_pattern = ShardSet::default();
        }
        let shards = known.as_ref().map_or(by_pattern, |(_, _, by_name)| by_pattern.union(*by_name));
        if shards.is_empty() {
            return;
        }
        let (name, position) = match known {
            Some((name, position, _)) => (name, position),
            None => self.counters.current(channel),
        };
        let read = match read(&self.settings, rules, Content::Whole(payload)) {
            Ok(read) => read,
            Err(reason) => return self.dropped(channel, reason),
        };
        let by = if by_pattern.is_empty() { ReceivedBy::Name } else { ReceivedBy::Pattern };
        let publication = publication(&self.settings, rules, name, Number::Last(position), by, read);
        self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Publication(publication)));
    }

    /// The canonical copy of an event of a channel with `history`. `by_pattern`: the channel is not wanted by its name.
    fn logged_copy(&mut self, name: &Arc<str>, rules: Rules, content: Content<'_>, by_pattern: bool) {
        let (payload, change) = match read(&self.settings, rules, content) {
            Ok(read) => read,
            // What is in the log is never so large: nothing of it is missing.
            Err(reason) => return self.dropped(name, reason),
        };
        let class = rules.class(&self.settings);
        let in_log = Hub::in_log(class, &payload);
        if in_log == InLog::Volatile && class.is_some_and(|class| class.ignores_plain_publish) {
            self.stats.dropped_volatile += 1;
            return;
        }
        let (name, position) = self.count_by_pattern(name);
        let shown = in_log.position().map(|at| at.offset.0);
        let event = Event::new(&payload, &name, shown);
        let mut publication = Publication::with_entity(name.clone(), event, position.offset, change);
        publication.epoch = position.epoch;
        publication.class = rules.class;
        publication.in_log = in_log;
        self.log_event(&name, &Arc::new(publication), by_pattern);
    }

    /// The next number of a channel whose pattern copies are canonical, with the channel's shared name.
    fn count_by_pattern(&mut self, channel: &str) -> (Arc<str>, Position) {
        // An exact subscription that is requested but not confirmed counts on in its own entry.
        match self.entries.get_key_value_mut(&SubjectRef::channel(channel)) {
            Some((subject, entry)) => {
                entry.position.offset = entry.position.offset.next();
                (subject.name.clone(), entry.position)
            }
            None => self.counters.next(channel),
        }
    }

    fn dropped(&mut self, channel: &str, reason: Dropped<'_>) {
        match reason {
            Dropped::Unreadable => self.stats.dropped_unreadable += 1,
            Dropped::Entity(reason, _) => self.drop_entity(channel, reason),
            Dropped::Oversized(bytes) => self.oversized(channel, bytes),
        }
    }

    /// An event is too large to be passed on: it has its number, and these shards learn that it is missing.
    fn skip(&mut self, shards: ShardSet, channel: Arc<str>, position: Position, bytes: usize) {
        self.oversized(&channel, bytes);
        if !shards.is_empty() {
            let event = BrokerEvent::Gap { channel, position, logged: None };
            self.outputs.push_back(HubOutput::Shards(shards, event));
        }
    }

    fn oversized(&mut self, channel: &str, bytes: usize) {
        self.stats.dropped_oversized += 1;
        self.outputs.push_back(HubOutput::Oversized { channel: channel.to_owned(), bytes });
    }
}

/// What was published, with its key, and what it does to the entity of that key.
fn read<'a>(
    settings: &HubSettings,
    rules: Rules,
    content: Content<'a>,
) -> Result<(Payload<'a>, Option<EntityChange>), Dropped<'a>> {
    let payload = match content {
        Content::Whole(payload) if payload.len() <= settings.external_bytes || rules.reserved => payload,
        Content::Whole(payload) => return Err(Dropped::Oversized(payload.len())),
        Content::Oversized(bytes) => return Err(Dropped::Oversized(bytes)),
    };
    let class = rules.class(settings);
    let mode = match class {
        Some(class) => class.payload,
        None if rules.reserved => PayloadMode::Raw,
        None => PayloadMode::Auto,
    };
    let mut payload = Payload::read(payload, mode).map_err(|_| Dropped::Unreadable)?;
    match class.map_or(Ok(None), |class| read_entity(class, &mut payload)) {
        Ok(change) => Ok((payload, change)),
        Err(reason) => Err(Dropped::Entity(reason, payload.into())),
    }
}

/// How the shards receive an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReceivedBy {
    /// By the channel's name alone.
    Name,
    /// Some of them by a pattern.
    Pattern,
}

/// The number that an event carries in its channel's count.
enum Number {
    /// It is its own.
    Own(Position),
    /// It has none: that of the event before it, which clients are not shown.
    Last(Position),
}

/// An event as the shards get it.
fn publication(
    settings: &HubSettings,
    rules: Rules,
    channel: Arc<str>,
    number: Number,
    by: ReceivedBy,
    (payload, change): (Payload<'_>, Option<EntityChange>),
) -> Arc<Publication> {
    let class = rules.class(settings);
    let delivery = class.map(|class| class.delivery).unwrap_or_default();
    // By a pattern it is an event like any other: which of them filters let through is not known here.
    let is_state = by == ReceivedBy::Name || class.is_some_and(|class| !class.is_shown_by_pattern());
    // Where events of different keys may be told in another order, clients are shown no offset.
    let (Position { epoch, offset }, is_shown) = match number {
        Number::Own(position) => (position, delivery.max_updates.is_none()),
        Number::Last(position) => (position, false),
    };
    let event = Event::new(&payload, &channel, is_shown.then_some(offset.0));
    let mut publication = Publication::with_entity(channel, event, offset, change);
    publication.epoch = epoch;
    publication.class = rules.class;
    publication.conflates = delivery.conflate && change.is_some() && is_state;
    Arc::new(publication)
}
