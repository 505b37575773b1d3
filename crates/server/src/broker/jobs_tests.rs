//! Tests of [`super`]: the bounds of the queue of publishes, and its answers.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::super::queue::{ShardInbox, shard_queue};
use super::*;

const BOUND: usize = 64 * 1024;

struct Bench {
    sender: JobSender,
    receiver: JobReceiver,
    inbox: ShardInbox,
    tickets: u64,
}

impl Bench {
    fn new() -> Self {
        let ((queue, inbox), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
        let (sender, receiver) = jobs(BOUND, ShardFanout::new(vec![queue], node));
        Bench { sender, receiver, inbox, tickets: 0 }
    }

    /// Publishes so many bytes; returns the answer if it is there at once.
    fn publish(&mut self, owner: Owner, bytes: usize) -> Option<Outcome> {
        self.tickets += 1;
        let kind = WriteKind::Publish { channel: "room".into(), payload: vec![b'x'; bytes].into() };
        let ticket = Some(Ticket(self.tickets));
        self.sender.push(ShardId(0), Write { ticket, owner, when_down: WhenDown::Queue, kind });
        self.answer()
    }

    fn lifecycle(&mut self, bytes: usize) {
        let kind =
            WriteKind::Append { stream: "s".into(), fields: vec![("event", vec![b'x'; bytes].into())] };
        let (owner, when_down) = (Owner::Lifecycle, WhenDown::Queue);
        self.sender.push(ShardId(0), Write { ticket: None, owner, when_down, kind });
    }

    fn answer(&mut self) -> Option<Outcome> {
        std::iter::from_fn(|| self.inbox.try_recv()).find_map(|event| match event {
            BrokerEvent::Outcome { outcome, .. } => Some(outcome),
            _ => None,
        })
    }

    fn fill(&mut self, owner: &Owner) -> usize {
        (0..1_000).take_while(|_| self.publish(owner.clone(), 1_000).is_none()).count()
    }
}

fn player(name: &str) -> Owner {
    Owner::Player(name.into())
}

#[test]
fn nobody_fills_more_than_a_share_and_the_others_keep_theirs() {
    let mut bench = Bench::new();
    assert_eq!(bench.fill(&player("mallory")), 7);
    let over = Some(Err(PublishFailure::OverShare { bytes: BOUND / 8 }));
    assert_eq!(bench.publish(player("mallory"), 1_000), over);
    assert_eq!(bench.publish(player("alice"), 1_000), None);
    assert_eq!(bench.fill(&Owner::Services), 28);
    assert_eq!(
        bench.publish(Owner::Services, 1_000),
        Some(Err(PublishFailure::OverShare { bytes: BOUND / 2 }))
    );
    assert_eq!(bench.publish(player("bob"), 1_000), None);
    assert_eq!(bench.sender.ledger().shares.lock().unwrap().len(), 4);
    while let Some(job) = bench.receiver.try_recv() {
        job.answer(Ok(None));
    }
    assert_eq!(bench.sender.ledger().bytes.load(Ordering::Relaxed), 0);
    assert!(bench.sender.ledger().shares.lock().unwrap().is_empty(), "who has nothing there is forgotten");
    while bench.answer().is_some() {}
    assert_eq!(bench.fill(&player("mallory")), 7);
}

#[test]
fn what_is_on_its_way_to_redis_counts_until_it_is_answered() {
    let mut bench = Bench::new();
    bench.fill(&player("mallory"));
    let mut on_its_way: Vec<Job> = std::iter::from_fn(|| bench.receiver.try_recv()).collect();
    on_its_way.iter_mut().for_each(|job| job.set_handed(true));
    assert!(matches!(bench.publish(player("mallory"), 1_000), Some(Err(PublishFailure::OverShare { .. }))));
    drop(on_its_way);
    assert_eq!(bench.answer(), Some(Err(PublishFailure::Unknown)));
    while bench.answer().is_some() {}
    assert_eq!(bench.fill(&player("mallory")), 7);
}

#[test]
fn one_large_publish_passes_and_the_whole_bound_holds() {
    let mut bench = Bench::new();
    assert_eq!(bench.publish(player("alice"), BOUND / 2), None);
    assert!(matches!(bench.publish(player("alice"), 1), Some(Err(PublishFailure::OverShare { .. }))));
    assert_eq!(bench.publish(player("bob"), BOUND / 2), Some(Err(PublishFailure::NotDone)));
}

#[test]
fn lifecycle_entries_have_a_bound_of_their_own_and_are_counted() {
    let mut bench = Bench::new();
    for _ in 0..10 {
        bench.lifecycle(1 << 20);
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let ledger = bench.sender.ledger();
    assert_eq!((count(&ledger.lifecycle_waiting), count(&ledger.lifecycle_lost)), (7, 3));
    assert_eq!(bench.publish(player("alice"), 1_000), None, "they take no room of publishes");
    while let Some(job) = bench.receiver.try_recv() {
        job.answer(Ok(None));
    }
    assert_eq!(count(&bench.sender.ledger().lifecycle_waiting), 0);
}
