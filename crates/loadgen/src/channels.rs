//! Which channels a run is about: the same two flags for who subscribes and who publishes.

use clap::Args;

/// A family of channels, numbered from 0.
#[derive(Args, Clone, Debug)]
pub(crate) struct Channels {
    /// What every channel's name begins with; its number follows
    #[arg(long, default_value = "room:", value_name = "PREFIX")]
    pub(crate) channel_prefix: String,
    /// How many channels there are
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) channels: u32,
}

impl Channels {
    /// How many there are; at least one.
    pub(crate) fn count(&self) -> usize {
        self.channels as usize
    }

    /// The name of one.
    pub(crate) fn name(&self, number: usize) -> String {
        format!("{}{number}", self.channel_prefix)
    }

    /// All names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.count()).map(|number| self.name(number))
    }
}
