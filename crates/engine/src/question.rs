//! What nodes request from each other for the admin API: every shard of every node answers on the channel of the node that
//! published the question. JSON, on channels under `key_prefix`.

use std::sync::Arc;

use serde_json::{Value, json};

/// How long an answer is, in bytes, about: links take 64 KiB in any case.
const MAX_ANSWER_BYTES: usize = 40 * 1024;
/// The most channels of one answer.
pub const MAX_CHANNELS: usize = 1_000;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The channel on which it is answered, under `key_prefix`.
    pub reply_to: Arc<str>,
    /// Names it for its answers.
    pub number: u64,
    /// What is wanted.
    pub kind: QuestionKind,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuestionKind {
    /// The sessions of a player.
    Player {
        /// The player id.
        player: Arc<str>,
    },
    /// The channels that sessions are subscribed to by name, in their order.
    Channels {
        /// The channels behind this one; `None`: from the first.
        after: Option<Arc<str>>,
        /// The most channels.
        limit: usize,
    },
    /// Whether all sessions of a player are shown a channel by this view, and no other.
    View {
        /// The player id.
        player: Arc<str>,
        /// The channel.
        channel: Arc<str>,
        /// The view override; `None`: none is set.
        view: Option<Arc<str>>,
    },
}

impl Question {
    /// As it is published.
    pub fn to_payload(&self) -> String {
        let question = match &self.kind {
            QuestionKind::Player { player } => json!({ "player": &**player }),
            QuestionKind::Channels { after, limit } => json!({ "after": after.as_deref(), "limit": limit }),
            QuestionKind::View { player, channel, view } => {
                json!({ "viewer": &**player, "channel": &**channel, "view": view.as_deref() })
            }
        };
        json!({ "question": question, "reply_to": &*self.reply_to, "number": self.number }).to_string()
    }

    /// Reads what [`Question::to_payload`] writes; `None`: it is something else.
    pub fn parse(json: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(json).ok()?;
        let question = value.get("question")?;
        let text = |name: &str| Some(question.get(name)?.as_str()?.into());
        let kind = if question.get("player").is_some() {
            QuestionKind::Player { player: text("player")? }
        } else if question.get("viewer").is_some() {
            QuestionKind::View { player: text("viewer")?, channel: text("channel")?, view: text("view") }
        } else {
            let limit = (question.get("limit")?.as_u64()? as usize).min(MAX_CHANNELS);
            QuestionKind::Channels { after: text("after"), limit }
        };
        let (reply_to, number) = (value.get("reply_to")?.as_str()?.into(), value.get("number")?.as_u64()?);
        Some(Question { reply_to, number, kind })
    }
}

/// Items of an answer, as many as fit.
#[derive(Debug, Default)]
pub(crate) struct Items {
    pub(crate) items: Vec<Value>,
    bytes: usize,
    /// Some did not fit.
    pub(crate) is_cut: bool,
}

impl Items {
    /// Adds an item of about so many bytes, unless there is no room. The first always fits.
    pub(crate) fn push(&mut self, item: Value, bytes: usize) {
        self.is_cut |= !self.items.is_empty() && self.bytes + bytes > MAX_ANSWER_BYTES;
        if !self.is_cut {
            self.bytes += bytes;
            self.items.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_survive_the_way_between_nodes() {
        let kinds = [
            QuestionKind::Player { player: "al\"ice".into() },
            QuestionKind::Channels { after: None, limit: 10 },
            QuestionKind::Channels { after: Some("room:1".into()), limit: 1_000 },
            QuestionKind::View { player: "a".into(), channel: "room:1".into(), view: Some("1 > 0".into()) },
            QuestionKind::View { player: "a".into(), channel: "room:1".into(), view: None },
        ];
        for kind in kinds {
            let question = Question { reply_to: "drawbridge:replies:n1-a".into(), number: 7, kind };
            assert_eq!(Question::parse(&question.to_payload()), Some(question));
        }
        for other in [r#"{"command":"disconnect","player":"alice"}"#, "[]", "{", r#"{"question":{}}"#] {
            assert_eq!(Question::parse(other), None, "{other}");
        }
    }
}
