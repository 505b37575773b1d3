//! The law of [`super`]: whatever comes in which order, each version is taken once, in order, with none missing; or the
//! merge says that there is a gap.

#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use proptest::prelude::*;

use super::*;
use crate::io::Epoch;

/// A life and a number.
type Version = (u64, u64);

/// What happens on the way.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Redis takes an event.
    Write,
    /// Redis loses its history, and the next event begins another one.
    Lose,
    /// The link reads the next event, or loses it.
    Live { lost: bool },
    /// The link sends the event before the next one again, as two links do that carry a channel while it moves.
    Again,
    /// The stored part is read from now on, as of now.
    Begin,
    /// It was read.
    Read,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => Just(Op::Write),
        1 => Just(Op::Lose),
        8 => prop::bool::weighted(0.05).prop_map(|lost| Op::Live { lost }),
        2 => Just(Op::Again),
        2 => Just(Op::Begin),
        4 => Just(Op::Read),
    ];
    proptest::collection::vec(op, 0..120)
}

/// Redis: all that was written, with its life and number.
#[derive(Default)]
struct History {
    all: Vec<(u64, u64)>,
    life: u64,
    seq: u64,
    /// How much of it the link has read.
    read: usize,
}

impl History {
    fn write(&mut self) {
        self.seq += 1;
        self.all.push((self.life, self.seq));
    }

    fn lose(&mut self) {
        (self.life, self.seq) = (self.life + 1, 0);
    }

    fn next(&mut self) -> Option<(u64, u64)> {
        let next = self.all.get(self.read).copied();
        self.read += usize::from(next.is_some());
        next
    }

    fn version(&self) -> Option<(u64, u64)> {
        (self.seq > 0).then_some((self.life, self.seq))
    }
}

/// A user of the merge that only wants to know: which version is it at, and was one missed or taken twice?
fn check_merge<S: Seq + Debug>(ops: &[Op], seq: impl Fn(u64) -> S) -> Result<(), TestCaseError> {
    let (mut history, mut merge) = (History::default(), Merge::<Epoch, S>::new());
    let epoch = Epoch::new;
    // The version read with the stored part; and what is known to be complete: the last version taken.
    let mut reading: Option<Option<Version>> = None;
    let mut at: Option<Version> = None;
    let mut live: Vec<(u64, u64)> = Vec::new();
    let mut is_known = true;
    for op in ops {
        let (event, lost) = match op {
            Op::Write => {
                history.write();
                continue;
            }
            Op::Lose => {
                history.lose();
                continue;
            }
            Op::Begin => {
                merge.begin();
                reading = Some(history.version());
                live.clear();
                continue;
            }
            Op::Read => {
                let Some(version) = reading.take() else { continue };
                let stored = version.map(|(life, number)| (epoch(life), seq(number)));
                if merge.finish(stored, false) {
                    // All of the stored life, and what came live behind it, without a hole.
                    let last = live.last().copied();
                    let expected = match (version, last) {
                        (None, last) => last,
                        (Some(version), Some(last)) if last.0 == version.0 => Some(last.max(version)),
                        (version, None) => version,
                        (Some(_), Some(_)) => return Err(TestCaseError::fail("two lives fit")),
                    };
                    at = expected;
                    is_known = true;
                    prop_assert_eq!(merge.seq(), at.map(|(_, number)| seq(number)));
                } else {
                    is_known = false;
                }
                continue;
            }
            Op::Live { lost } => (history.next(), *lost),
            Op::Again => (history.read.checked_sub(1).and_then(|at| history.all.get(at)).copied(), false),
        };
        let Some((life, number)) = event.filter(|_| !lost) else { continue };
        match merge.live(&epoch(life), seq(number)) {
            Fate::Buffered { other_life } => {
                prop_assert!(reading.is_some());
                prop_assert_eq!(other_life, live.last().is_some_and(|(before, _)| *before != life));
                if other_life {
                    live.clear();
                }
                live.push((life, number));
            }
            fate if is_known => {
                let expected = match at {
                    Some((known, last)) if known == life && number <= last => Fate::Known,
                    Some((known, last)) if known == life && number == last + 1 => Fate::Next,
                    Some((known, _)) if known != life && number == 1 => Fate::Begins,
                    None if number == 1 => Fate::Begins,
                    _ => Fate::Gap,
                };
                prop_assert_eq!(fate, expected);
                if matches!(fate, Fate::Next | Fate::Begins) {
                    at = Some((life, number));
                }
                is_known = fate != Fate::Gap;
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn changes_of_a_table_are_taken_once_in_order_or_a_gap_is_said(ops in ops()) {
        check_merge(&ops, |number| number)?;
    }
}
