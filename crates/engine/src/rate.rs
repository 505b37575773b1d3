//! How fast something may come. How that is counted is in [`crate::rate_limit`].

/// A token bucket: refilled at `per_second`, holding at most `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second; at least 1.
    pub per_second: u64,
    /// The most tokens that can be saved up; at least 1.
    pub burst: u64,
}
