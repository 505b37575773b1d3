//! Tests of [`super`]: the queue between the broker and a shard.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use drawbridge_engine::io::{BrokerStatus, EntityChange, InLog, LocalOffset, LoggedOffset};
use drawbridge_protocol::event::{Event, Payload, PayloadMode};
use proptest::prelude::*;

use super::*;

fn publication(channel: &str, offset: u64, bytes: usize) -> BrokerEvent {
    let payload = vec![b'x'; bytes];
    let event = Event::new(&Payload::read(&payload, PayloadMode::Raw).unwrap(), channel, Some(offset));
    let mut publication = Publication::new(channel.into(), event, LocalOffset(offset));
    let at = LogPosition { offset: LoggedOffset(offset), ..LogPosition::default() };
    publication.in_log = InLog::At(at);
    BrokerEvent::Publication(Arc::new(publication))
}

/// A state of an entity, of a class that conflates.
fn state(channel: &Arc<str>, key: &str, offset: u64) -> BrokerEvent {
    let payload = format!(r#"{{"event":"e","key":"{key}"}}"#);
    let payload = Payload::read(payload.as_bytes(), PayloadMode::Auto).unwrap();
    let change = Some(EntityChange::Set { position: None });
    let event = Event::new(&payload, channel, Some(offset));
    let mut publication = Publication::with_entity(channel.clone(), event, LocalOffset(offset), change);
    publication.conflates = true;
    BrokerEvent::Publication(Arc::new(publication))
}

/// What comes out, as texts; `!` before a gap.
fn drain(inbox: &mut ShardInbox) -> Vec<String> {
    std::iter::from_fn(|| inbox.try_recv())
        .map(|event| match event {
            BrokerEvent::Publication(publication) => {
                format!("{} {}", publication.channel, publication.offset.0)
            }
            BrokerEvent::Gap { channel, position, .. } => {
                format!("!{channel} {}", position.offset.0)
            }
            other => format!("{other:?}"),
        })
        .collect()
}

fn queue(bound_bytes: usize) -> (ShardQueue, ShardInbox) {
    shard_queue(bound_bytes)
}

/// A payload that was too large.
fn gap(channel: &str, offset: u64) -> BrokerEvent {
    BrokerEvent::Gap {
        channel: channel.into(),
        position: Position { offset: LocalOffset(offset), ..Position::default() },
        logged: None,
    }
}

#[test]
fn a_gap_from_outside_drops_nothing_behind_it() {
    let (queue, mut inbox) = queue(1 << 20);
    queue.push(publication("a", 1, 10));
    queue.push(gap("a", 2));
    queue.push(publication("a", 3, 10));
    assert_eq!(drain(&mut inbox), ["a 1", "!a 2", "a 3"]);
    assert_eq!((queue.bytes(), queue.dropped()), (0, 0));
}

#[test]
fn a_gap_from_outside_before_and_behind_a_mark_is_not_taken_for_it() {
    let (queue, mut inbox) = queue(2 * (10 + 1 + OVERHEAD) + 100);
    queue.push(gap("a", 1));
    for offset in 2..5 {
        queue.push(publication("a", offset, 10));
    }
    queue.push(gap("a", 5));
    queue.push(publication("a", 6, 10));
    assert_eq!(drain(&mut inbox), ["!a 1", "a 2", "!a 6"]);
    assert_eq!((queue.bytes(), queue.dropped()), (0, 4));
    queue.push(publication("a", 7, 10));
    assert_eq!(drain(&mut inbox), ["a 7"]);
}

#[test]
fn gaps_from_outside_are_bounded_too() {
    let (queue, mut inbox) = queue(4 * gap_weight("a"));
    for offset in 1..=100 {
        queue.push(gap("a", offset));
    }
    assert_eq!(drain(&mut inbox), ["!a 1", "!a 2", "!a 3", "!a 4", "!a 100"]);
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn passes_everything_in_order_while_there_is_room() {
    let (queue, mut inbox) = queue(1 << 20);
    queue.push(BrokerEvent::Status(BrokerStatus::Ok));
    queue.push(publication("a", 1, 10));
    queue.push(publication("b", 1, 10));
    queue.push(publication("a", 2, 10));
    assert!(queue.bytes() > 3 * 10);
    assert_eq!(drain(&mut inbox), ["Status(Ok)", "a 1", "b 1", "a 2"]);
    assert_eq!((queue.bytes(), queue.dropped()), (0, 0));
}

#[test]
fn drops_what_newer_states_replace_and_keeps_the_rest_in_order() {
    let (queue, mut inbox) = queue(2_000);
    let world: Arc<str> = "w".into();
    queue.push(state(&world, "a", 1));
    queue.push(state(&world, "b", 2));
    queue.push(state(&world, "a", 3));
    queue.push(publication("s", 1, 10));
    queue.push(BrokerEvent::Status(BrokerStatus::Ok));
    queue.push(state(&world, "b", 4));
    let held = queue.bytes();
    assert_eq!((inbox.drop_superseded(), inbox.len()), (2, 4));
    assert!(queue.bytes() < held);
    // What was looked through still takes room, and what comes later waits behind it.
    queue.push(state(&world, "b", 5));
    queue.push(publication("s", 2, 2_000));
    (0..3).for_each(|_| _ = queue.push(BrokerEvent::Status(BrokerStatus::Ok)));
    assert_eq!((inbox.drop_superseded(), inbox.len()), (1, 8));
    // It is looked through again when enough has come.
    queue.push(state(&world, "b", 6));
    assert_eq!((inbox.drop_superseded(), inbox.len()), (0, 9));
    assert_eq!(
        drain(&mut inbox),
        ["w 3", "s 1", "Status(Ok)", "w 5", "!s 2", "Status(Ok)", "Status(Ok)", "Status(Ok)", "w 6"]
    );
    assert_eq!((queue.bytes(), queue.dropped(), inbox.is_empty()), (0, 1, true));
}

#[test]
fn marks_a_loss_once_with_how_far_it_goes() {
    let (queue, mut inbox) = queue(3000);
    queue.push(publication("a", 1, 1000));
    queue.push(publication("a", 2, 1000));
    for offset in 3..8 {
        queue.push(publication("a", offset, 1000));
    }
    queue.push(BrokerEvent::Status(BrokerStatus::Degraded));
    queue.push(publication("b", 1, 1000));
    assert_eq!(drain(&mut inbox), ["a 1", "a 2", "!a 7", "Status(Degraded)", "!b 1"]);
    queue.push(publication("a", 8, 1000));
    assert_eq!(drain(&mut inbox), ["a 8"]);
    assert_eq!((queue.bytes(), queue.dropped()), (0, 6));
}

#[test]
fn nothing_follows_a_mark_that_came_before_the_end_of_its_loss() {
    let (queue, mut inbox) = queue(3000);
    queue.push(publication("a", 1, 1000));
    queue.push(publication("b", 1, 1000));
    queue.push(publication("a", 2, 1000));
    assert!(matches!(inbox.try_recv(), Some(BrokerEvent::Publication(_))));
    // There is room again, but the mark was not read: `a` stays lost, `c` does not.
    queue.push(publication("a", 3, 1000));
    queue.push(publication("c", 1, 1000));
    assert_eq!(drain(&mut inbox), ["b 1", "!a 3", "c 1"]);
}

#[test]
fn takes_one_publication_of_any_size() {
    let (queue, mut inbox) = queue(10);
    queue.push(publication("a", 1, 5000));
    queue.push(publication("a", 2, 1));
    assert_eq!(drain(&mut inbox), ["a 1", "!a 2"]);
}

#[test]
fn says_when_it_cannot_even_mark_a_loss() {
    let (queue, mut inbox) = queue(10);
    assert_eq!(queue.push(publication("first", 1, 100)), Pushed::Queued);
    for channel in 0..MAX_GAPS {
        assert_eq!(queue.push(publication(&format!("c{channel}"), 1, 1)), Pushed::Queued);
    }
    assert_eq!(queue.push(publication("one too many", 1, 1)), Pushed::Lost);
    assert_eq!(queue.push(publication("c7", 2, 1)), Pushed::Queued);
    assert!(!queue.has_room_for_gaps());
    assert_eq!(drain(&mut inbox).len(), MAX_GAPS + 1);
    assert!(queue.has_room_for_gaps());
}

#[tokio::test]
async fn wakes_the_shard_and_ends_with_the_broker() {
    let (queue, mut inbox) = queue(10);
    let shard = tokio::spawn(async move { (inbox.recv().await.is_some(), inbox.recv().await.is_none()) });
    tokio::task::yield_now().await;
    queue.push(publication("a", 1, 1));
    drop(queue);
    assert_eq!(shard.await.unwrap(), (true, true));
}

proptest! {
    /// Every publication is delivered or covered by a gap, in the order of its channel, and nothing is both.
    #[test]
    fn no_loss_is_silent(ops in proptest::collection::vec((0usize..4, 0usize..600), 1..300)) {
        let (queue, mut inbox) = queue(3000);
        let (mut sent, mut seen) = (BTreeMap::new(), BTreeMap::<String, u64>::new());
        let mut take = |event: BrokerEvent| match event {
            BrokerEvent::Publication(publication) => {
                let last = seen.insert(publication.channel.to_string(), publication.offset.0).unwrap_or(0);
                assert_eq!(publication.offset.0, last + 1, "on {}", publication.channel);
            }
            BrokerEvent::Gap { channel, position, logged } => {
                let last = seen.insert(channel.to_string(), position.offset.0).unwrap_or(0);
                assert!(position.offset.0 > last, "a gap of nothing");
                assert_eq!(logged.map(|first| first.offset.0), Some(last + 1), "the first that is missing");
            }
            other => panic!("{other:?}"),
        };
        for (channel, bytes) in ops {
            if channel == 3 {
                inbox.try_recv().into_iter().for_each(&mut take);
                continue;
            }
            let channel = ["a", "b", "c"][channel];
            let offset = sent.entry(channel.to_owned()).or_insert(0);
            *offset += 1;
            queue.push(publication(channel, *offset, bytes));
            prop_assert!(queue.bytes() <= 3000);
        }
        std::iter::from_fn(|| inbox.try_recv()).for_each(&mut take);
        prop_assert_eq!(seen, sent);
        prop_assert_eq!(queue.bytes(), 0);
    }
}

fn command(view: usize) -> BrokerEvent {
    let action = PlayerAction::View { channel: "a".into(), view: Some("x".repeat(view).into()) };
    BrokerEvent::Command(PlayerCommand { player: "alice".into(), action })
}

#[test]
fn many_events_keep_no_command_out() {
    let (queue, mut inbox) = queue(3000);
    for offset in 1..9 {
        queue.push(publication("a", offset, 1000));
    }
    assert_eq!(queue.push(command(1000)), Pushed::Queued);
    let last = drain(&mut inbox).pop().unwrap();
    assert!(last.starts_with("Command"), "{last}");
}

/// What a player must not see any more could follow: the shard hears of it where the command would have been.
#[test]
fn a_command_without_room_is_marked_once_at_its_place() {
    let (queue, mut inbox) = queue(1 << 20);
    let many = COMMAND_BYTES / 2 / (1 << 20);
    for _ in 0..many + 3 {
        queue.push(command(1 << 20));
    }
    assert_eq!(queue.push(command(1 << 20)), Pushed::Lost);
    queue.push(publication("a", 1, 10));
    let events = drain(&mut inbox);
    let places: Vec<usize> = events
        .iter()
        .enumerate()
        .filter(|(_, event)| event.starts_with("Recover"))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(
        places,
        [events.len() - 2],
        "{:?}",
        events.iter().map(|event| &event[..12]).collect::<Vec<_>>()
    );
    assert!(events[..events.len() - 2].iter().all(|event| event.starts_with("Command")));
    // Read, it can be marked again.
    for _ in 0..many + 1 {
        queue.push(command(1 << 20));
    }
    assert!(drain(&mut inbox).last().unwrap().starts_with("Recover"));
}

/// A kick cannot be read again: views leave room for it.
#[test]
fn many_views_keep_no_kick_out() {
    let (queue, mut inbox) = queue(3000);
    while queue.push(command(1 << 20)) == Pushed::Queued {}
    let kick = PlayerCommand { player: "alice".into(), action: PlayerAction::Disconnect { reason: None } };
    assert_eq!(queue.push(BrokerEvent::Command(kick)), Pushed::Queued);
    assert!(drain(&mut inbox).last().unwrap().contains("Disconnect"));
}
