//! What a shard that is behind may leave out: where states of entities pile up faster than they can be told, only the newest
//! of each is worth telling. When a shard is behind is for its thread to say.

use std::sync::Arc;

use hashbrown::HashSet;

use crate::io::{BrokerEvent, EntityChange};

/// Says of each event that waits whether it is the state of an entity which a later one among them replaces, in a class that
/// conflates. Nothing is left out for the sake of what comes behind something else than events: it may change who sees
/// what. What only answers a publish is no such thing.
pub fn outdated<'e>(waiting: impl DoubleEndedIterator<Item = &'e BrokerEvent>) -> Vec<bool> {
    let mut newer: HashSet<(*const str, &str)> = HashSet::new();
    let mut outdated: Vec<bool> = waiting
        .rev()
        .map(|event| match event {
            BrokerEvent::Publication(publication) => {
                let Some(key) = publication.event.key().filter(|_| publication.conflates) else {
                    return false;
                };
                // Of one channel all have the same name.
                let entity = (Arc::as_ptr(&publication.channel), key);
                if publication.entity == Some(EntityChange::Remove) {
                    newer.remove(&entity);
                    return false;
                }
                !newer.insert(entity)
            }
            BrokerEvent::Done { .. } => false,
            _ => {
                newer.clear();
                false
            }
        })
        .collect();
    outdated.reverse();
    outdated
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_protocol::event::{Event, Payload, PayloadMode};

    use super::*;
    use crate::io::{BrokerStatus, Publication, Subject, Ticket};

    fn event(channel: &Arc<str>, key: &str, change: EntityChange, conflates: bool) -> BrokerEvent {
        let payload = format!(r#"{{"event":"e","key":"{key}"}}"#);
        let event = Event::new(&Payload::read(payload.as_bytes(), PayloadMode::Auto).unwrap(), channel, None);
        let mut publication = Publication::with_entity(channel.clone(), event, 1, Some(change));
        publication.conflates = conflates;
        BrokerEvent::Publication(Arc::new(publication))
    }

    #[test]
    fn only_what_nobody_would_miss_is_outdated() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (set, remove) = (EntityChange::Set { position: None }, EntityChange::Remove);
        let done = BrokerEvent::Done { ticket: Ticket(1), result: Ok(()) };
        let rows = [
            (event(&a, "1", set, true), true),
            (event(&b, "1", set, true), false),
            (event(&a, "2", set, true), false),
            (done, false),
            (event(&a, "1", set, true), true),
            (event(&a, "1", set, true), false),
            (event(&a, "2", remove, true), false),
            (event(&a, "2", set, true), false),
            (BrokerEvent::Interrupted(Subject::channel(b.clone())), false),
            (event(&a, "1", set, true), false),
            (event(&a, "3", set, false), false),
            (event(&a, "3", set, false), false),
            (BrokerEvent::Status(BrokerStatus::Ok), false),
            (event(&a, "2", set, true), false),
        ];
        let (waiting, expected): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        assert_eq!(outdated(waiting.iter()), expected);
    }
}
