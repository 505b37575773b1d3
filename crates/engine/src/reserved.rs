//! The server's own channel names: no client sees or touches them.

use std::sync::Arc;

/// The channel on which services command players, where it is on (contract §9).
pub const CONTROL_CHANNEL: &str = "drawbridge:control";

/// The server's own channel names: all that begin with the prefix of its keys, and [`CONTROL_CHANNEL`].
#[derive(Clone, Debug)]
pub struct Reserved {
    prefix: Arc<str>,
}

impl Reserved {
    /// Everything under this prefix; it must not be empty.
    pub fn new(prefix: impl Into<Arc<str>>) -> Self {
        Reserved { prefix: prefix.into() }
    }

    /// Whether this channel or key is the server's own.
    pub fn holds(&self, name: &str) -> bool {
        name.starts_with(&*self.prefix) || name == CONTROL_CHANNEL
    }

    /// The channel on which the subscribers of a channel are notified of players who come and go.
    pub fn presence_channel(&self, channel: &str) -> String {
        format!("{}presence:{channel}", self.prefix)
    }

    /// The channel whose subscribers are notified on this one ([`Reserved::presence_channel`]).
    pub fn of_presence_channel<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(&*self.prefix)?.strip_prefix("presence:")
    }

    /// What the names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}
