//! What an operator reads on standard error.

use std::io::IsTerminal as _;

use drawbridge_engine::io::Notice;
use tracing_subscriber::EnvFilter;

/// The variable that says what is logged.
const VARIABLE: &str = "DRAWBRIDGE_LOG";

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

/// Logs what an engine has to say.
pub(crate) fn notice(notice: &Notice) {
    match notice {
        Notice::ClaimSkipped { player, template, claim, reason } => {
            tracing::warn!(%player, template, claim, reason, "a claim is not fit for a channel name and is skipped");
        }
        Notice::ViewsRefused { player, reason, withheld: true } => {
            tracing::error!(%player, reason, "Redis does not tell this player's views: nothing new is shown to it");
        }
        Notice::ViewsRefused { player, reason, withheld: false } => {
            tracing::error!(%player, reason, "Redis does not tell this player's views: its classes' alone hold");
        }
        Notice::SubscriptionRefused { subject, reason } => {
            tracing::error!(channel = %subject, reason, "Redis refused a subscription");
        }
    }
}
