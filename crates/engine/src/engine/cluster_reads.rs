//! What the admin API of any node wants to know of this shard ([`crate::question`]).

use std::collections::BTreeMap;

use serde_json::json;

use super::Engine;
use super::views::compile_view;
use crate::io::{BrokerCommand, Output, Owner, WhenDown, Write, WriteKind};
use crate::question::{Items, Question, QuestionKind};
use crate::session::Session;

impl Engine {
    /// Answers on the channel of the node that published the question.
    pub(super) fn question(&mut self, question: &Question) {
        let Items { items, is_cut, .. } = match &question.kind {
            QuestionKind::Player { player } => self.sessions_of_player(player),
            QuestionKind::Channels { after, limit } => self.channels_behind(after.as_deref(), *limit),
            QuestionKind::View { player, channel, view } => {
                self.view_applies(player, channel, view.as_deref())
            }
        };
        let answer = json!({
            "number": question.number,
            "node": &*self.settings.node,
            "instance": &*self.settings.instance,
            "shard": self.shard.0,
            "items": items,
            "more": is_cut,
        });
        let (channel, payload) = (question.reply_to.clone(), answer.to_string().into());
        let kind = WriteKind::Publish { channel, payload };
        let write = Write { ticket: None, owner: Owner::Services, when_down: WhenDown::Reject, kind };
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Write(write)));
    }

    fn sessions_of_player(&self, player: &str) -> Items {
        let mut sessions = Items::default();
        for session in self.players.get(player).into_iter().flatten().map(|id| &self.sessions[*id]) {
            let (channels, bytes) = self.channels_of(session);
            let connection = session.link.as_ref().map(|_| session.public_name());
            let item =
                json!({ "connection": connection, "node": &*self.settings.node, "channels": channels });
            sessions.push(item, bytes);
        }
        sessions
    }

    /// One item: whether every session of this player has loaded its view overrides and has exactly this one on the channel.
    fn view_applies(&self, player: &str, channel: &str, view: Option<&str>) -> Items {
        let view = view.map(compile_view);
        let mut sessions = self.players.get(player).into_iter().flatten().map(|id| &self.sessions[*id]);
        let applies = sessions
            .all(|session| !session.overrides.is_loading() && session.overrides.of(channel) == view.as_ref());
        let mut items = Items::default();
        items.push(json!(applies), 8);
        items
    }

    /// What a session is subscribed to, and about how many bytes that is.
    fn channels_of(&self, session: &Session) -> (Vec<&str>, usize) {
        let held = session.subscriptions.iter().map(|held| &*self.targets[held.target].subject.name);
        let mut channels: Vec<&str> = held.collect();
        channels.sort_unstable();
        let bytes = channels.iter().map(|name| name.len() + 4).sum::<usize>() + 128;
        (channels, bytes)
    }

    /// Channels and their subscribers. Looks at all of the shard's targets and keeps so many of them.
    fn channels_behind(&self, after: Option<&str>, limit: usize) -> Items {
        let (mut first, mut is_cut) = (BTreeMap::new(), false);
        for (_, target) in self.targets.iter().filter(|(_, target)| !target.subject.is_pattern()) {
            let name = &*target.subject.name;
            if after.is_none_or(|after| name > after) {
                first.insert(name, target.subscribers.len());
                if first.len() > limit {
                    first.pop_last();
                    is_cut = true;
                }
            }
        }
        let mut channels = Items::default();
        for (name, subscribers) in first {
            channels.push(json!([name, subscribers]), name.len() + 16);
        }
        channels.is_cut |= is_cut;
        channels
    }
}
