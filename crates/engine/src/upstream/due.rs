//! What is to be done at which time.

use std::collections::BTreeSet;

/// Takes the first whose time has come, with that time. Hubs look at each input: what is not due stays where it is.
pub(super) fn pop_due<T: Ord>(times: &mut BTreeSet<(u64, T)>, now_ms: u64) -> Option<(u64, T)> {
    if times.first().is_some_and(|(at, _)| *at <= now_ms) { times.pop_first() } else { None }
}
