//! What a node does behind another one that died, or for itself when it ends, in parts that hold up nothing else in Redis.
//!
//! ```text
//!   claim ──▶ records get their window ──▶ the window ends ──▶ presence is removed ──▶ the lease is forgotten
//! ```
//!
//! The claim is renewed with each part and ends by itself, so that another node goes on where this one dies, too. Every part
//! begins where the indexes of the dead node say: what is done is taken out of them, and may be done twice.
//!
//! Invariant: nothing is done to a node that came back. Its renewal ends the claim, no call is executed later than
//! [`DEADLINE`] behind the last look at the claim, and the node waits longer than that before it writes again.

use std::time::Duration;

use drawbridge_engine::io::SessionHash;
use redis::{RedisResult, Value};

use super::batch::Batch;
use super::command_connection::{error_message, text};
use super::commands::Commands;
use super::connect::Broken;
use super::library::MARK;
use super::{RedisSettings, code_of, presence, sessions};
use crate::broker::link_metrics::LinkMetrics;

/// The pause behind each part.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// How long behind a look at the claim, by Redis' clock, a part may be executed.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
/// Records in one part.
const RECORDS: usize = 500;
/// Channels in one part, and about how many fields of each are looked through.
const CHANNELS: usize = 16;
const FIELDS: usize = 1_000;

/// A node that died, and how far it is cleaned up behind.
#[derive(Debug, Default)]
pub(super) struct DeadNode {
    pub(super) instance: String,
    /// Nothing is to be done before the next renewal.
    pub(super) waits: bool,
    /// Channels with more members than one part takes, each with where the next part begins.
    large: Vec<(String, String)>,
}

impl DeadNode {
    /// Those that a renewal has found; what is known of them is kept.
    pub(super) fn merge(mut known: Vec<DeadNode>, found: Vec<(String, u64)>) -> Vec<DeadNode> {
        let node =
            |(instance, _): (String, u64)| match known.iter().position(|node| node.instance == instance) {
                Some(at) => DeadNode { waits: false, ..known.swap_remove(at) },
                None => DeadNode { instance, ..DeadNode::default() },
            };
        found.into_iter().map(node).collect()
    }
}

/// What a part has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Another part follows.
    More,
    /// Another node cleans up, the window has not ended, the node came back, or Redis refuses: the next renewal shows.
    Wait,
    /// Nothing is left of the node.
    Done,
}

/// See the module.
pub(super) struct Cleanup<'c> {
    pub(super) commands: &'c mut Commands,
    pub(super) settings: &'c RedisSettings,
    pub(super) link_metrics: &'c LinkMetrics,
}

/// What a call of our functions has answered, as far as it is to be acted on.
enum Called {
    /// Behind the mark.
    Parts(Vec<Value>),
    /// An error, or another function's answer.
    Refused,
}

/// One part's bounds in time.
#[derive(Clone, Copy)]
struct Claimed {
    /// How old the dead node's lease is.
    age: Duration,
    /// In milliseconds of Redis' clock.
    deadline_ms: u64,
}

impl Cleanup<'_> {
    /// One part of what is to be done behind this node.
    pub(super) async fn step(&mut self, dead: &mut DeadNode) -> Result<Step, Broken> {
        let Some(claimed) = self.claim(&dead.instance).await? else { return Ok(Step::Wait) };
        let window = self.settings.lease.resume_window;
        let left = window.saturating_sub(claimed.age);
        match self.set_windows(&dead.instance, left, Some(claimed.deadline_ms)).await? {
            Part::Nothing => {}
            Part::Some => return Ok(Step::More),
            Part::Refused => return Ok(Step::Wait),
        }
        if !left.is_zero() {
            return Ok(Step::Wait);
        }
        match self.remove_presence(dead, claimed.deadline_ms).await? {
            Part::Nothing => {}
            Part::Some => return Ok(Step::More),
            Part::Refused => return Ok(Step::Wait),
        }
        self.end_lease(&dead.instance).await?;
        self.link_metrics.count_dead_node();
        tracing::info!(node = dead.instance, "cleaned up behind a node that died");
        Ok(Step::Done)
    }

    /// All that a node that ends does for itself.
    pub(super) async fn hand_over(&mut self) -> Result<(), Broken> {
        let lease = &self.settings.lease;
        loop {
            match self.set_windows(&lease.instance, lease.resume_window, None).await? {
                Part::Some => {}
                Part::Nothing => break,
                // The lease stays: when it is old, another node does it.
                Part::Refused => return Ok(()),
            }
        }
        // Where its sessions are present the lease stays: when it is old, another node removes them.
        let channels = self.settings.names.node_presence_key(&lease.instance);
        match self.some_of(&channels, 1).await? {
            Some(channels) if channels.is_empty() => self.end_lease(&lease.instance).await,
            _ => Ok(()),
        }
    }

    /// Claims a dead node for this one, or keeps the claim. `None`: another one has it, or the node came back.
    async fn claim(&mut self, dead: &str) -> Result<Option<Claimed>, Broken> {
        let lease = &self.settings.lease;
        let mut call = redis::cmd("FCALL");
        call.arg("drawbridge_lease_claim").arg(3).arg(&self.settings.names.lease_keys()[..]);
        call.arg(dead).arg(&*lease.instance);
        let dead_after = lease.dead_after.as_millis() as u64;
        call.arg(dead_after).arg(dead_after);
        let Called::Parts(parts) = self.call(&call).await? else { return Ok(None) };
        let [Value::Int(now_ms), Value::Int(1), Value::Int(age_ms)] = parts[..] else { return Ok(None) };
        let (Ok(now_ms), Ok(age_ms)) = (u64::try_from(now_ms), u64::try_from(age_ms)) else {
            return Ok(None);
        };
        let deadline_ms = now_ms + DEADLINE.as_millis() as u64;
        Ok(Some(Claimed { age: Duration::from_millis(age_ms), deadline_ms }))
    }

    /// Lets some of a node's records go after so long.
    async fn set_windows(
        &mut self,
        instance: &str,
        left: Duration,
        deadline_ms: Option<u64>,
    ) -> Result<Part, Broken> {
        let index = self.settings.names.node_sessions_key(instance);
        let Some(entries) = self.some_of(&index, RECORDS).await? else { return Ok(Part::Refused) };
        if entries.is_empty() {
            return Ok(Part::Nothing);
        }
        let records: Vec<(&str, SessionHash)> =
            entries.iter().filter_map(|entry| sessions::parse_entry(entry)).collect();
        let mut batch = Batch::with_capacity(records.len());
        for record in &records {
            let left_ms = left.as_millis() as u64;
            sessions::set_window(&mut batch, self.settings, *record, instance, left_ms, deadline_ms);
        }
        let mut set = 0;
        if !records.is_empty() {
            for result in self.commands.query(&batch).await? {
                match called(result) {
                    Called::Parts(parts) => set += u64::from(parts[..] == [Value::Int(1)]),
                    Called::Refused => return Ok(Part::Refused),
                }
            }
        }
        self.link_metrics.count_windows(set);
        self.forget(&index, &entries).await
    }

    /// Removes some of a node's presence: the next part of a large channel, or all of some small ones.
    async fn remove_presence(&mut self, dead: &mut DeadNode, deadline_ms: u64) -> Result<Part, Broken> {
        let index = self.settings.names.node_presence_key(&dead.instance);
        let mut parts = match dead.large.pop() {
            Some(part) => vec![part],
            None => {
                let Some(entries) = self.some_of(&index, CHANNELS).await? else { return Ok(Part::Refused) };
                entries.into_iter().map(|entry| (entry, "0".to_owned())).collect::<Vec<_>>()
            }
        };
        if parts.is_empty() {
            return Ok(Part::Nothing);
        }
        let mut batch = Batch::with_capacity(parts.len());
        for (entry, cursor) in &parts {
            let (channel, notices) = presence::parse_entry(&self.settings.names, entry);
            batch.cmd("FCALL").arg("drawbridge_presence_clean").arg(2);
            batch.arg(&self.settings.names.presence_keys(channel)[..]);
            batch.arg(&dead.instance).arg(notices).arg(deadline_ms).arg(cursor).arg(FIELDS);
        }
        let mut done = Vec::new();
        for (result, (entry, cursor)) in self.commands.query(&batch).await?.into_iter().zip(parts.drain(..)) {
            let Called::Parts(answer) = called(result) else { return Ok(Part::Refused) };
            match &answer[..] {
                [_, next] if text(next).as_deref() == Some("0") => done.push(entry),
                [_, next] => dead.large.push((entry, text(next).unwrap_or(cursor))),
                _ => return Ok(Part::Refused),
            }
        }
        match done.is_empty() {
            true => Ok(Part::Some),
            false => self.forget(&index, &done).await,
        }
    }

    /// Forgets a node of which nothing is left.
    async fn end_lease(&mut self, dead: &str) -> Result<(), Broken> {
        let mut call = redis::cmd("FCALL");
        call.arg("drawbridge_lease_end").arg(3).arg(&self.settings.names.lease_keys()[..]);
        call.arg(dead).arg(&*self.settings.lease.instance);
        self.call(&call).await.map(|_| ())
    }

    /// Some entries of an index; `None`: Redis does not return them. A key that is no set is removed.
    async fn some_of(&mut self, index: &str, most: usize) -> Result<Option<Vec<String>>, Broken> {
        let mut some = redis::cmd("SRANDMEMBER");
        some.arg(index).arg(most);
        match self.commands.ask(&some).await? {
            Ok(Value::Array(entries) | Value::Set(entries)) => {
                Ok(Some(entries.iter().filter_map(text).collect()))
            }
            Err(message) if code_of(&message) == "WRONGTYPE" => {
                let mut unlink = redis::cmd("UNLINK");
                unlink.arg(index);
                Ok(self.commands.ask(&unlink).await?.ok().map(|_| Vec::new()))
            }
            _ => Ok(None),
        }
    }

    /// Takes what is done out of an index.
    async fn forget(&mut self, index: &str, entries: &[String]) -> Result<Part, Broken> {
        let mut remove = redis::cmd("SREM");
        remove.arg(index).arg(entries);
        Ok(match self.commands.ask(&remove).await? {
            Ok(_) => Part::Some,
            Err(_) => Part::Refused,
        })
    }

    async fn call(&mut self, call: &redis::Cmd) -> Result<Called, Broken> {
        Ok(match self.commands.ask(call).await? {
            Ok(answer) => called(Ok(answer)),
            Err(message) => {
                log_refused(&message);
                Called::Refused
            }
        })
    }
}

/// What a part has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// There was nothing to do.
    Nothing,
    Some,
    /// Redis refuses, or the node may have come back.
    Refused,
}

fn called(result: RedisResult<Value>) -> Called {
    match result {
        Ok(Value::Array(mut parts)) if parts.first().and_then(text).as_deref() == Some(MARK) => {
            parts.remove(0);
            Called::Parts(parts)
        }
        Ok(_) => Called::Refused,
        Err(error) => {
            log_refused(&error_message(&error));
            Called::Refused
        }
    }
}

/// At most a line every few seconds: it is tried again at the next renewal.
fn log_refused(message: &str) {
    let reason = super::without_arguments(message);
    tracing::warn!(reason, "Redis refused a call that cleans up behind a node that died");
}
