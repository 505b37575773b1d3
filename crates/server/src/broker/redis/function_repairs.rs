//! How often the functions in Redis are repaired: replaced where they are others', and called again where they were missing.

use std::time::Duration;

use tokio::time::Instant;

use super::command_connection::Loaded;

/// How often others' functions were replaced by ours: two who replace each other's must not do so for ever.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    times: u32,
    last: Option<Instant>,
}

impl Replaced {
    /// So often it is done at once; then it waits twice as long each time, from the shortest pause up to the longest.
    const AT_ONCE: u32 = 3;
    const PAUSE: Duration = Duration::from_secs(10);
    const LONGEST_PAUSE: Duration = Duration::from_secs(640);

    pub(super) fn may_again(&self) -> bool {
        let pause = match self.times.checked_sub(Self::AT_ONCE) {
            None => Duration::ZERO,
            Some(more) => (Self::PAUSE * 2u32.saturating_pow(more.min(6))).min(Self::LONGEST_PAUSE),
        };
        self.last.is_none_or(|last| last.elapsed() >= pause)
    }

    pub(super) fn again(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() >= 2 * Self::LONGEST_PAUSE) {
            self.times = 0;
        }
        (self.times, self.last) = (self.times + 1, Some(Instant::now()));
    }
}

/// How often calls failed because the functions, or this node's entry, were missing, since one succeeded.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// In a row they were there when this node looked. Once, another node may have restored them; twice, they do not answer.
    kept: u32,
    /// They had to be loaded.
    loaded: u32,
}

/// What to do about calls that failed because the functions were missing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Retry {
    AtOnce,
    /// They are removed again and again.
    Later,
    /// They are not Drawbridge's.
    Never,
}

impl Missing {
    const AT_ONCE: u32 = 3;

    /// Counts one failure, after which this was found.
    pub(super) fn count(&mut self, found: Loaded) -> Retry {
        match found {
            Loaded::Kept => self.kept += 1,
            Loaded::Anew | Loaded::Replaced => *self = Missing { kept: 0, loaded: self.loaded + 1 },
        }
        match self {
            _ if self.kept > 1 => Retry::Never,
            _ if found != Loaded::Kept && self.loaded > Self::AT_ONCE => Retry::Later,
            _ => Retry::AtOnce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_lack_functions_are_sent_again_and_not_for_ever() {
        let mut missing = Missing::default();
        // Each time they were lost indeed, whoever restored them.
        for found in [Loaded::Anew, Loaded::Kept, Loaded::Replaced, Loaded::Kept, Loaded::Anew] {
            assert_eq!(missing.count(found), Retry::AtOnce);
        }
        assert_eq!(missing.count(Loaded::Anew), Retry::Later);
        assert_eq!(missing.count(Loaded::Kept), Retry::AtOnce);
        assert_eq!(missing.count(Loaded::Kept), Retry::Never);
    }

    #[test]
    fn functions_are_replaced_a_few_times_at_once_and_then_seldom() {
        let mut replaced = Replaced::default();
        for _ in 0..Replaced::AT_ONCE {
            assert!(replaced.may_again());
            replaced.again();
        }
        assert!(!replaced.may_again());
        replaced.last = replaced.last.map(|last| last - Replaced::PAUSE);
        assert!(replaced.may_again());
    }
}
