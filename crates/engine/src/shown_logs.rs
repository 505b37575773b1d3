//! Which channels with history a session was shown through its patterns: by name, what its client must know a position of if it
//! has received everything. A channel that it names no position of, and that is here, may have lost events.

use std::sync::Arc;

use hashbrown::HashSet;

/// As many as a client may name with the default limits. Beyond that nothing is known, so that every pattern may have lost events.
const MAX_CHANNELS: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ShownLogs {
    channels: HashSet<Arc<str>>,
    /// There were more than are kept.
    is_incomplete: bool,
}

impl ShownLogs {
    /// A logged event of this channel is sent through a pattern, or would have been if the session had a connection.
    pub(crate) fn note(&mut self, channel: &Arc<str>) {
        if self.is_incomplete || self.channels.contains(channel) {
            return;
        }
        self.is_incomplete = self.channels.len() >= MAX_CHANNELS;
        match self.is_incomplete {
            // They say nothing any more.
            true => self.channels = HashSet::new(),
            false => drop(self.channels.insert(channel.clone())),
        }
    }

    /// Whether there may be a channel of which this is not true.
    pub(crate) fn may_lack(&self, mut is_known: impl FnMut(&str) -> bool) -> bool {
        self.is_incomplete || self.channels.iter().any(|channel| !is_known(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_channels_nothing_is_known() {
        let mut shown = ShownLogs::default();
        assert!(!shown.may_lack(|_| false), "nothing was shown");
        for n in 0..MAX_CHANNELS {
            shown.note(&format!("log:{n}").into());
            shown.note(&"log:0".into());
        }
        assert!(!shown.may_lack(|channel| channel.starts_with("log:")));
        assert!(shown.may_lack(|channel| channel != "log:7"));
        shown.note(&"log:one more".into());
        assert!(shown.may_lack(|_| true));
        assert!(shown.channels.is_empty());
    }
}
