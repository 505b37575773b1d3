//! The two clocks of the process, read in one place: the core receives the time and never reads it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use drawbridge_engine::io::Now;

/// A monotonic clock that all threads share the zero of, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
}

impl Clock {
    /// A clock that starts now. One per process: shards compare its readings.
    pub fn start() -> Self {
        Clock { zero: Instant::now() }
    }

    /// Both clocks. Monotonic time starts at 1 s, so that 0 can mean "never".
    pub fn now(&self) -> Now {
        Now { mono_ms: self.zero.elapsed().as_millis() as u64 + 1_000, unix_ms: unix_ms() }
    }

    /// The instant of this monotonic time.
    pub fn instant(&self, mono_ms: u64) -> Instant {
        self.zero + std::time::Duration::from_millis(mono_ms.saturating_sub(1_000))
    }
}

/// Unix milliseconds.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
