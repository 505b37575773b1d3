//! What is lined up and settled later is what would have been pushed at once.
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
    /// All that is due leaves.
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
    Arc::new(Publication::new("c".into(), event, 1))
}

/// The entity at a place, as the world and its viewer know it.
#[derive(Clone)]
struct Place {
    state: Arc<Publication>,
    tenant: usize,
    seen: bool,
}

impl Place {
    /// The change that this step makes in the eyes of the viewer.
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

type Told = Vec<(Option<Kind>, String, bool)>;

fn told(feed: &mut Feed, conflate: bool) -> Told {
    let delivery = Delivery { conflate, batch_ms: 50, ..Delivery::default() };
    let (dues, more) = feed.take(0, &delivery, None, usize::MAX);
    assert!(!more);
    assert_eq!((feed.len, feed.bytes()), (0, 0));
    let text = |due: &Due| due.publication.event.json().to_owned();
    dues.iter().map(|due| (due.kind, text(due), due.is_news)).collect()
}

proptest! {
    #[test]
    fn lining_up_and_settling_is_pushing(
        steps in steps(),
        conflate in any::<bool>(),
        size in prop_oneof![Just(1usize), Just(5_000)],
    ) {
        let (mut pushed, mut lined_up) = (Feed::default(), Feed::default());
        let mut merged = [0, 0];
        let mut places = vec![Place { state: state("-", 1), tenant: 0, seen: false }; 3];
        for step in steps {
            let id = match step {
                Step::Show(id) | Step::Hide(id) | Step::Remove(id) => id,
                Step::Leave => {
                    merged[1] += lined_up.settle();
                    prop_assert_eq!(pushed.bytes(), lined_up.bytes());
                    prop_assert_eq!(merged[0], merged[1]);
                    prop_assert_eq!(told(&mut pushed, conflate), told(&mut lined_up, conflate));
                    (lined_up.queued, lined_up.flush_at_ms) = (false, 0);
                    continue;
                }
            };
            let place = &mut places[id as usize];
            let Some(change) = place.step(id, step, size) else { continue };
            let due = Due::new(place.state.clone(), Kind::Entity(id, change), TARGET, true, 0);
            merged[0] += u64::from(pushed.push(due.clone(), conflate));
            if lined_up.may_line_up() {
                lined_up.line_up(due, conflate);
            } else {
                merged[1] += lined_up.settle() + u64::from(lined_up.push(due, conflate));
                (lined_up.queued, lined_up.flush_at_ms) = (true, 50);
            }
            prop_assert!(lined_up.fresh.len() <= MAX_FRESH);
            prop_assert!(lined_up.fresh_bytes <= MAX_FRESH_BYTES + 6_000);
        }
    }
}
