//! Player commands on their way to the shards (contract §9). Nodes send them to each other on their own channel, which every
//! link of the pool subscribes to. A command is delivered by the link of the channel that it is about, so that it takes
//! effect in order with that channel's events: once a service's command is acknowledged, it applies to all that is published
//! after it, on every node. What comes by the control channel is delivered as it comes.

use std::sync::{Arc, PoisonError, RwLock};

use drawbridge_engine::io::{BrokerEvent, PlayerAction, PlayerCommand, Question, Subject};
use drawbridge_engine::settings::CONTROL_CHANNEL;
use drawbridge_engine::upstream::{LinkId, ShardId, Topology};

use super::fanout::ShardFanout;
use super::link_metrics::LinkMetrics;
use super::queue::Pushed;
use crate::log::Sparse;
use crate::player_command;

/// The channels that player commands come on.
#[derive(Clone, Debug)]
pub struct CommandChannels {
    /// What the channels begin with on which nodes answer each other's questions.
    pub replies: Arc<str>,
    /// Where nodes send commands to each other.
    pub nodes: Arc<str>,
    /// Where services send commands through Redis, if they may.
    pub control: Option<Arc<str>>,
}

impl CommandChannels {
    /// Those of this key prefix. `control`: services may send commands through Redis. Pub/Sub has no databases, and the keys
    /// that commands refer to are in one, so the name of the nodes' channel contains its number.
    pub fn new(key_prefix: &str, db: u8, control: bool) -> Self {
        CommandChannels {
            replies: format!("{key_prefix}replies:").into(),
            nodes: format!("{key_prefix}nodes:{db}").into(),
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
pub(super) struct CommandRouter {
    pub(super) link: LinkId,
    pub(super) channels: CommandChannels,
    pub(super) topology: Arc<RwLock<Topology>>,
    pub(super) link_metrics: Arc<LinkMetrics>,
    /// Commands that were not carried out.
    pub(super) failures: Sparse,
}

impl CommandRouter {
    /// Sends a node's question to the shards, if this is one and this link is to do so. Returns whether it is one.
    pub(super) fn sends_question(&mut self, channel: &str, json: &str, fanout: &ShardFanout) -> bool {
        if self.is_control(channel) {
            return false;
        }
        let Some(question) = Question::parse(json) else { return false };
        if self.is_placed_here(None) {
            fanout.send_to_shards(&BrokerEvent::Question(Arc::new(question)));
        }
        true
    }

    /// What came on one of the channels, if it can be read.
    pub(super) fn read(&mut self, channel: &str, json: &str) -> Option<PlayerCommand> {
        // A node has checked what it sends; a view that this one cannot read shows nothing.
        let command = player_command::parse(json).and_then(|command| match self.is_control(channel) {
            true => player_command::check(&command).map(|()| command),
            false => Ok(command),
        });
        match command {
            Ok(command) => Some(command),
            Err(reason) => {
                self.link_metrics.count_command(false);
                self.failures.line(|unlogged| {
                    tracing::warn!(channel, reason, unlogged, "a player command could not be read");
                });
                None
            }
        }
    }

    /// Whether services write on this channel, whose commands are delivered as they come.
    pub(super) fn is_control(&self, channel: &str) -> bool {
        self.channels.control.as_deref() == Some(channel)
    }

    /// Whether this link is where the topology has placed what a command is about.
    pub(super) fn is_placed_here(&self, subject: Option<&Subject>) -> bool {
        let topology = self.topology.read().unwrap_or_else(PoisonError::into_inner);
        self.link == subject.map_or(LinkId::at(0), |subject| topology.home_of(subject))
    }

    /// Sends a command to the shards; one that a service wrote on the control channel also to the node.
    pub(super) fn route(&mut self, by_service: bool, command: PlayerCommand, fanout: &ShardFanout) {
        self.link_metrics.count_command(true);
        let is_kept = !by_service
            || fanout.send(ShardId::NODE, BrokerEvent::Command(command.clone())) == Pushed::Queued;
        let is_sent = fanout.send_to_shards(&BrokerEvent::Command(command));
        if !is_kept || !is_sent {
            self.count_dropped();
        }
    }

    /// A command did not reach every shard.
    pub(super) fn count_dropped(&mut self) {
        self.link_metrics.count_command(false);
        self.failures.line(|unlogged| {
            tracing::error!(unlogged, "a player command was dropped: too many at once");
        });
    }
}

/// What a command is about; `None`: the player itself.
pub(super) fn subject_of(command: &PlayerCommand) -> Option<Subject> {
    match &command.action {
        PlayerAction::Subscribe { channel }
        | PlayerAction::Unsubscribe { channel }
        | PlayerAction::View { channel, .. } => Some(Subject::named(channel.clone())),
        PlayerAction::TakenOver { .. } | PlayerAction::Disconnect { .. } => None,
    }
}
