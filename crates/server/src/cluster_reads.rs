//! What the admin API reads from the whole cluster: pages of presence and the live nodes through the broker, and what all
//! shards of all nodes answer to a question ([`Question`]) within a bound of time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drawbridge_engine::io::{
    Answer, LiveNode, PresencePage, PublishFailure, QueryKind, Question, QuestionKind, WhenDown,
};
use hashbrown::{HashMap, HashSet};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bus::Bus;

/// How long all shards of all nodes have to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long all shards of all nodes have to apply a view.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two requests whether they have.
const APPLY_PAUSE: Duration = Duration::from_millis(5);
/// Answers to one question that wait to be read; more are dropped, and the question is answered in part.
const MAX_ANSWERS: usize = 4_096;

/// Who waits for answers.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    questions: Mutex<HashMap<u64, mpsc::Sender<Value>>>,
}

impl Waiting {
    /// A shard has answered a question.
    pub(crate) fn replied(&self, json: &str) {
        let Ok(answer) = serde_json::from_str::<Value>(json) else { return };
        let Some(number) = answer.get("number").and_then(Value::as_u64) else { return };
        if let Some(waiting) = self.questions.lock().unwrap_or_else(PoisonError::into_inner).get(&number) {
            let _ = waiting.try_send(answer);
        }
    }
}

/// A question whose answers are collected.
#[derive(Debug)]
pub(crate) struct Collector<'b> {
    bus: &'b Bus,
    number: u64,
    answers: mpsc::Receiver<Value>,
    deadline: Instant,
}

impl Drop for Collector<'_> {
    fn drop(&mut self) {
        self.bus.questions.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// What the cluster answered.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// One of each shard that answered.
    pub(crate) answers: Vec<Value>,
    /// Live nodes of which all shards have answered.
    pub(crate) answered: usize,
    /// Live nodes.
    pub(crate) nodes: usize,
}

impl Collected {
    /// The items of all answers.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Value> {
        self.answers.iter().filter_map(|answer| answer["items"].as_array()).flatten()
    }

    /// Whether every shard of every live node has answered, and all that they answered is true.
    fn is_yes(&self) -> bool {
        self.answered == self.nodes && self.items().all(|item| *item == Value::Bool(true))
    }

    /// Whether an answer had more than fits.
    pub(crate) fn has_more(&self) -> bool {
        self.answers.iter().any(|answer| answer["more"] == true)
    }

    /// How complete it is.
    pub(crate) fn completeness(&self) -> Value {
        serde_json::json!({ "answered": self.answered, "of": self.nodes })
    }
}

impl Bus {
    /// Reads something through the broker.
    ///
    /// # Errors
    /// Where Redis refuses, or does not answer in time.
    async fn read(&self, kind: QueryKind) -> Result<Answer, PublishFailure> {
        match self.query(kind).await {
            Some(answer) => answer.map_err(PublishFailure::Refused),
            None => Err(PublishFailure::NotDone),
        }
    }

    /// A page of who is present on a channel.
    ///
    /// # Errors
    /// As [`Bus::read`].
    pub(crate) async fn presence(
        &self,
        channel: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<PresencePage, PublishFailure> {
        let (channel, after) = (channel.into(), after.map(Into::into));
        match self.read(QueryKind::Presence { channel, after, limit }).await? {
            Answer::Presence(page) => Ok(page),
            _ => Err(PublishFailure::Unknown),
        }
    }

    /// The nodes that live, by their leases.
    ///
    /// # Errors
    /// As [`Bus::read`].
    pub(crate) async fn live_nodes(&self) -> Result<Vec<LiveNode>, PublishFailure> {
        match self.read(QueryKind::Nodes).await? {
            Answer::Nodes(nodes) => Ok(nodes),
            _ => Err(PublishFailure::Unknown),
        }
    }

    /// Publishes a question to all shards of all nodes.
    ///
    /// # Errors
    /// Where Redis does not take it.
    pub(crate) async fn ask(&self, kind: QuestionKind) -> Result<Collector<'_>, PublishFailure> {
        let (number, deadline) = (self.next_id(), Instant::now() + ANSWER_TIMEOUT);
        let (sender, answers) = mpsc::channel(MAX_ANSWERS);
        self.questions.questions.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        let collector = Collector { bus: self, number, answers, deadline };
        let question = Question { reply_to: self.replies().clone(), number, kind };
        self.publish(self.nodes_channel(), question.to_payload().into(), WhenDown::Reject).await?;
        Ok(collector)
    }
}

impl Bus {
    /// Waits until all live nodes show a player a channel by this view. For a Redis Cluster: there a command may reach a node later
    /// than events that were published behind it, for they pass other masters.
    ///
    /// # Errors
    /// Unknown, where a node that should live does not say so in time.
    pub(crate) async fn wait_for_view(
        &self,
        player: &Arc<str>,
        channel: &Arc<str>,
        view: Option<&Arc<str>>,
    ) -> Result<(), PublishFailure> {
        let deadline = Instant::now() + APPLY_TIMEOUT;
        loop {
            let (player, channel, view) = (player.clone(), channel.clone(), view.cloned());
            let question = self.ask(QuestionKind::View { player, channel, view }).await;
            let collected = match question {
                Ok(question) => question.collect().await,
                Err(failure) => Err(failure),
            };
            match collected {
                Ok(collected) if collected.is_yes() => return Ok(()),
                _ if Instant::now() >= deadline => return Err(PublishFailure::Unknown),
                _ => tokio::time::sleep(APPLY_PAUSE).await,
            }
        }
    }
}

impl Collector<'_> {
    /// Waits until all live nodes have answered, or for [`ANSWER_TIMEOUT`] since the question.
    ///
    /// # Errors
    /// Where Redis does not say which nodes live.
    pub(crate) async fn collect(mut self) -> Result<Collected, PublishFailure> {
        let nodes = self.bus.live_nodes().await?;
        let mut collected = Collected { nodes: nodes.len(), ..Collected::default() };
        let mut seen = HashSet::<(Arc<str>, u64)>::new();
        let is_complete = |node: &LiveNode, seen: &HashSet<(Arc<str>, u64)>| {
            let theirs = seen.iter().filter(|(instance, _)| *instance == node.instance).count() as u64;
            shards_of(node).is_some_and(|shards| theirs >= shards)
        };
        loop {
            collected.answered = nodes.iter().filter(|node| is_complete(node, &seen)).count();
            if collected.answered == collected.nodes {
                return Ok(collected);
            }
            let Ok(Some(answer)) = tokio::time::timeout_at(self.deadline, self.answers.recv()).await else {
                return Ok(collected);
            };
            let (instance, shard) = (answer["instance"].as_str(), answer["shard"].as_u64());
            if let (Some(instance), Some(shard)) = (instance, shard)
                && seen.insert((instance.into(), shard))
            {
                collected.answers.push(answer);
            }
        }
    }
}

/// How many shards a node says that it has.
fn shards_of(node: &LiveNode) -> Option<u64> {
    serde_json::from_str::<Value>(&node.about).ok()?.get("shards")?.as_u64()
}
