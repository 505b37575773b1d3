//! Events that are staged and committed later become what enqueueing them at once makes of them.
#![allow(clippy::unwrap_used)]

use drawbridge_protocol::event::{Event, Payload, PayloadMode};
use proptest::prelude::*;

use super::*;

const TARGET: TargetId = TargetId(0);

/// What happens to a place of the world: entities come, change, are hidden or removed there, and others come after them.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It comes into view (another than before, where the one before was removed), or changes.
    Show(EntityId),
    Hide(EntityId),
    Remove(EntityId),
    /// The queue is flushed.
    Leave,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0u32..3;
    let step = prop_oneof![
        6 => id.clone().prop_map(Step::Show),
        3 => id.clone().prop_map(Step::Hide),
        2 => id.prop_map(Step::Remove),
        1 => Just(Step::Leave),
    ];
    proptest::collection::vec(step, 0..200)
}

fn state(key: &str, size: usize) -> Arc<Publication> {
    let payload = format!(r#"{{"event":"e","key":"{key}","data":"{}"}}"#, "x".repeat(size));
    let event = Event::new(&Payload::read(payload.as_bytes(), PayloadMode::Auto).unwrap(), "c", None);
    Arc::new(Publication::new("c".into(), event, crate::io::LocalOffset(1)))
}

/// The entity at a place, as the world and its viewer know it.
#[derive(Clone)]
struct Watched {
    state: Arc<Publication>,
    tenant: usize,
    seen: bool,
}

impl Watched {
    /// The change that this step makes in the view of the viewer.
    fn step(&mut self, id: EntityId, step: Step, size: usize) -> Option<Change> {
        let seen = std::mem::replace(&mut self.seen, matches!(step, Step::Show(_)));
        match (step, seen) {
            (Step::Show(_), _) => {
                self.state = state(&format!("{id}.{}", self.tenant), size);
                Some(if seen { Change::Update } else { Change::Enter })
            }
            (Step::Hide(_), true) => Some(Change::Hide),
            (Step::Remove(_), seen) => {
                self.tenant += 1;
                seen.then_some(Change::Remove)
            }
            _ => None,
        }
    }
}

type Sent = Vec<(Option<QueuedKind>, String, bool)>;

fn sent(queue: &mut OutboundQueue, conflate: bool) -> Sent {
    let delivery = Delivery { conflate, batch_ms: 50, ..Delivery::default() };
    let (events, more) = queue.take(0, &delivery, None, usize::MAX);
    assert!(!more);
    assert_eq!((queue.len, queue.bytes()), (0, 0));
    let text = |queued: &Queued| queued.publication.event.json().to_owned();
    events.iter().map(|queued| (queued.kind, text(queued), queued.is_new_state)).collect()
}

proptest! {
    #[test]
    fn staging_and_committing_is_enqueueing(
        steps in steps(),
        conflate in any::<bool>(),
        size in prop_oneof![Just(1usize), Just(5_000)],
    ) {
        let (mut direct, mut staged) = (OutboundQueue::default(), OutboundQueue::default());
        let mut merged = [0, 0];
        let mut watched_entities = vec![Watched { state: state("-", 1), tenant: 0, seen: false }; 3];
        for step in steps {
            let id = match step {
                Step::Show(id) | Step::Hide(id) | Step::Remove(id) => id,
                Step::Leave => {
                    merged[1] += staged.commit();
                    prop_assert_eq!(direct.bytes(), staged.bytes());
                    prop_assert_eq!(merged[0], merged[1]);
                    prop_assert_eq!(sent(&mut direct, conflate), sent(&mut staged, conflate));
                    staged.flush_at_ms = 0;
                    continue;
                }
            };
            let watched = &mut watched_entities[id as usize];
            let Some(change) = watched.step(id, step, size) else { continue };
            let queued = Queued::new(watched.state.clone(), QueuedKind::Entity(id, change), TARGET, true, 0);
            merged[0] += u64::from(direct.enqueue(queued.clone(), conflate));
            if staged.may_stage() {
                staged.stage(queued, conflate);
            } else {
                merged[1] += staged.commit() + u64::from(staged.enqueue(queued, conflate));
                staged.flush_at_ms = 50;
            }
            prop_assert!(staged.staged.len() <= MAX_STAGED);
            prop_assert!(staged.staged_bytes <= MAX_STAGED_BYTES + 6_000);
        }
    }
}
