//! Player commands on their way to the shards (contract §9). Nodes tell each other on a channel of their own, which every
//! link of the pool subscribes to: a command is told by the link of the channel that it is about, so that it takes effect
//! in order with that channel's events. What a service was told is done holds for all that is published behind it, on
//! every node. What comes by the control channel is told as it comes.

use std::sync::Arc;

use drawbridge_engine::io::{BrokerEvent, PlayerAction, PlayerCommand, Subject};
use drawbridge_engine::settings::CONTROL_CHANNEL;
use drawbridge_engine::upstream::ShardId;
use drawbridge_protocol::channel::is_pattern;

use super::meter::Meter;
use super::outlet::Outlet;
use super::queue::Pushed;
use super::routes::Routes;
use crate::command;
use crate::log::Sparse;

/// The channels that player commands come on.
#[derive(Clone, Debug)]
pub struct CommandChannels {
    /// Where nodes tell each other.
    pub nodes: Arc<str>,
    /// Where services may say so themselves, if they may.
    pub control: Option<Arc<str>>,
}

impl CommandChannels {
    /// Those of this key prefix; `control`: services may command by Redis.
    pub fn new(key_prefix: &str, control: bool) -> Self {
        CommandChannels {
            nodes: format!("{key_prefix}nodes").into(),
            control: control.then(|| CONTROL_CHANNEL.into()),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.nodes).chain(&self.control)
    }

    /// Whether this is one of them.
    pub(super) fn contain(&self, channel: &str) -> bool {
        self.iter().any(|other| **other == *channel)
    }
}

/// What one link does with player commands.
#[derive(Debug)]
pub(super) struct Herald {
    pub(super) link: usize,
    pub(super) channels: CommandChannels,
    pub(super) routes: Arc<Routes>,
    pub(super) meter: Arc<Meter>,
    /// Commands that were not carried out.
    pub(super) failures: Sparse,
}

impl Herald {
    /// Tells the shards what came on one of the channels, if it is this link's to tell.
    pub(super) fn tell(&mut self, channel: &str, json: &str, outlet: &Outlet) {
        let by_service = self.channels.control.as_deref() == Some(channel);
        // What a node says was checked there; a view that this one cannot read shows nothing.
        let command = command::parse(json).and_then(|command| match by_service {
            true => command::check(&command).map(|()| command),
            false => Ok(command),
        });
        let command = match command {
            Ok(command) => command,
            Err(reason) => {
                self.meter.count_command(false);
                return self.failures.line(|unlogged| {
                    tracing::warn!(channel, reason, unlogged, "a player command could not be read");
                });
            }
        };
        if !by_service && self.link != self.link_of(&command) {
            return;
        }
        self.meter.count_command(true);
        let is_kept =
            !by_service || outlet.tell(ShardId::NODE, BrokerEvent::Command(command.clone())) == Pushed::Told;
        let is_told = outlet.tell_shards(&BrokerEvent::Command(command));
        if !is_kept || !is_told {
            self.meter.count_command(false);
            self.failures.line(|unlogged| {
                tracing::error!(unlogged, "a player command was dropped: too many at once");
            });
        }
    }

    fn link_of(&self, command: &PlayerCommand) -> usize {
        match &command.action {
            PlayerAction::Subscribe { channel }
            | PlayerAction::Unsubscribe { channel }
            | PlayerAction::View { channel, .. } => {
                self.routes.link_of(&Subject { name: channel.clone(), pattern: is_pattern(channel) })
            }
            PlayerAction::Disconnect { .. } => 0,
        }
    }
}
