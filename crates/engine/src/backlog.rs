//! Which events a lagging shard may skip: where states of entities arrive faster than they can be delivered, only the newest
//! of each counts. The shard's thread decides when it lags.

use drawbridge_protocol::channel::is_pattern;
use hashbrown::{HashMap, HashSet};

use crate::io::{Answer, BrokerEvent, EntityChange, PlayerAction};

/// For each waiting event: whether it is the state of an entity that a later one replaces, where only the
/// newest counts ([`crate::io::Publication::conflates`]). Nothing is skipped in favour of a state that follows an event
/// which must be delivered between them, such as a command about the channel.
pub fn superseded<'e>(waiting: impl DoubleEndedIterator<Item = &'e BrokerEvent>) -> Vec<bool> {
    let mut newer: HashMap<&str, HashSet<&str>> = HashMap::new();
    let is_superseded = |event: &'e BrokerEvent| {
        let BrokerEvent::Publication(publication) = event else {
            match barrier(event) {
                Barrier::Nothing => {}
                Barrier::Channel(channel) => drop(newer.remove(channel)),
                Barrier::All => newer.clear(),
            }
            return false;
        };
        // Most events get no further than this: their texts are in other cache lines.
        let Some(change) = publication.entity.filter(|_| publication.conflates) else { return false };
        let Some(key) = publication.event.key() else { return false };
        let newer = newer.entry(&publication.channel).or_default();
        match change {
            EntityChange::Set { .. } => !newer.insert(key),
            EntityChange::Remove => {
                newer.remove(key);
                false
            }
        }
    };
    let mut superseded: Vec<bool> = waiting.rev().map(is_superseded).collect();
    superseded.reverse();
    superseded
}

/// The channels whose earlier events must be delivered before this one.
enum Barrier<'e> {
    Nothing,
    Channel(&'e str),
    All,
}

/// Of a channel, or of a pattern.
fn of(name: &str) -> Barrier<'_> {
    if is_pattern(name) { Barrier::All } else { Barrier::Channel(name) }
}

fn barrier(event: &BrokerEvent) -> Barrier<'_> {
    match event {
        // A publish that is answered has its event still to come, and who is shown more or less from now on is shown the
        // newest.
        BrokerEvent::Publication(_)
        | BrokerEvent::Outcome { .. }
        | BrokerEvent::Presence { .. }
        | BrokerEvent::StoreLost
        | BrokerEvent::Question(_)
        | BrokerEvent::Status(_) => Barrier::Nothing,
        BrokerEvent::Answer { answer: Ok(Answer::Fence(channel)), .. } => Barrier::Channel(channel),
        BrokerEvent::Answer { .. } => Barrier::Nothing,
        BrokerEvent::Confirmed { subject, .. }
        | BrokerEvent::Refused { subject, .. }
        | BrokerEvent::Released(subject)
        | BrokerEvent::Interrupted(subject) => of(&subject.name),
        BrokerEvent::Replay(replay) => Barrier::Channel(&replay.channel),
        BrokerEvent::Gap { channel, .. }
        | BrokerEvent::LogMoved { channel, .. }
        | BrokerEvent::Table { channel, .. }
        | BrokerEvent::Expired { channel, .. } => Barrier::Channel(channel),
        BrokerEvent::Command(command) => match &command.action {
            PlayerAction::Subscribe { channel }
            | PlayerAction::Unsubscribe { channel }
            | PlayerAction::View { channel, .. } => of(channel),
            PlayerAction::TakenOver { .. } | PlayerAction::Disconnect { .. } => Barrier::Nothing,
        },
        BrokerEvent::Recover { .. } => Barrier::All,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use drawbridge_protocol::event::{Event, Payload, PayloadMode};

    use super::*;
    use crate::io::{BrokerStatus, LocalOffset, Publication, Subject, Ticket};

    fn event(channel: &Arc<str>, key: &str, change: Option<EntityChange>, conflates: bool) -> BrokerEvent {
        let payload = format!(r#"{{"event":"e","key":"{key}"}}"#);
        let event = Event::new(&Payload::read(payload.as_bytes(), PayloadMode::Auto).unwrap(), channel, None);
        let mut publication = Publication::with_entity(channel.clone(), event, LocalOffset(1), change);
        publication.conflates = conflates;
        BrokerEvent::Publication(Arc::new(publication))
    }

    #[test]
    fn only_what_nobody_would_miss_is_superseded() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (set, remove) = (Some(EntityChange::Set { position: None }), Some(EntityChange::Remove));
        let done = BrokerEvent::Outcome { ticket: Ticket(1), outcome: Ok(None) };
        let fenced = BrokerEvent::Answer { ticket: Ticket(1), answer: Ok(Answer::Fence(a.clone())) };
        let rows = [
            (event(&a, "1", set, true), true),
            (event(&b, "1", set, true), false),
            (event(&a, "2", set, true), false),
            (done, false),
            (event(&a, "1", set, true), true),
            (event(&a, "1", set, true), false),
            (event(&a, "2", remove, true), false),
            (event(&a, "2", set, true), false),
            (fenced, false),
            (event(&a, "1", set, true), true),
            (BrokerEvent::Interrupted(Subject::channel(b.clone())), false),
            (event(&a, "1", set, true), false),
            (event(&a, "1", None, true), false),
            (event(&a, "3", set, false), false),
            (event(&a, "3", set, false), false),
            (BrokerEvent::Status(BrokerStatus::Ok), false),
            (event(&a, "2", set, true), false),
            (event(&b, "1", set, true), false),
        ];
        let (waiting, expected): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        assert_eq!(superseded(waiting.iter()), expected);
    }
}
