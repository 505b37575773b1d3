//! What an operator reads on standard error.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use drawbridge_engine::io::Notice;
use tracing_subscriber::EnvFilter;

/// The variable that says what is logged.
const VARIABLE: &str = "DRAWBRIDGE_LOG";

/// How many lines of one kind are logged in a [`WHILE`].
const LINES: u32 = 10;
const WHILE: Duration = Duration::from_secs(10);

/// Starts logging to standard error; `DRAWBRIDGE_LOG` filters, `info` by default.
pub fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var(VARIABLE)
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Lines of one kind, which others can cause: the first few of a while are logged, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    since: Option<Instant>,
    lines: u32,
    unlogged: u64,
}

impl Sparse {
    /// Logs a line, or counts it; `line` is told how many were counted since the last.
    pub(crate) fn line(&mut self, line: impl FnOnce(u64)) {
        if self.since.is_none_or(|since| since.elapsed() >= WHILE) {
            (self.since, self.lines) = (Some(Instant::now()), 0);
        }
        if self.lines == LINES {
            self.unlogged += 1;
        } else {
            self.lines += 1;
            line(std::mem::take(&mut self.unlogged));
        }
    }
}

/// What one engine has to say.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    claims: Sparse,
    views: Sparse,
    subscriptions: Sparse,
}

impl Notices {
    /// Logs it.
    pub(crate) fn log(&mut self, notice: &Notice) {
        match notice {
            Notice::ClaimSkipped { player, template, claim, reason } => self.claims.line(|unlogged| {
                let text = "a claim is not fit for a channel name and is skipped";
                tracing::warn!(%player, template, claim, reason, unlogged, "{text}");
            }),
            Notice::ViewsRefused { player, reason, withheld } => self.views.line(|unlogged| {
                let what = if *withheld { "nothing new is shown to it" } else { "its classes' alone hold" };
                tracing::error!(%player, reason, unlogged, "Redis does not tell this player's views: {what}");
            }),
            Notice::SubscriptionRefused { subject, reason } => self.subscriptions.line(|unlogged| {
                tracing::error!(channel = %subject, reason, unlogged, "Redis refused a subscription");
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_a_while_are_logged_and_the_others_counted() {
        let (mut sparse, mut logged) = (Sparse::default(), Vec::new());
        for _ in 0..LINES + 3 {
            sparse.line(|unlogged| logged.push(unlogged));
        }
        assert_eq!(logged, [0; LINES as usize]);
        sparse.since = sparse.since.and_then(|since| since.checked_sub(WHILE));
        sparse.line(|unlogged| logged.push(unlogged));
        assert_eq!(logged.last(), Some(&3));
    }
}
