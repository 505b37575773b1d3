//! Who is present on channels, as Redis keeps it: written and read by the functions of `functions/presence.lua`. A set for
//! each start of a node indexes the channels on which its sessions are present, so that they can be removed behind it.
//!
//! Invariant: where a node's session is present, the channel is in that node's index. An entry is added before, and removed
//! in a later pipeline than the call that says that none is left; only the publisher writes for a live node, in order.

use std::sync::Arc;

use drawbridge_engine::io::{PresencePage, WriteKind};
use hashbrown::HashMap;
use redis::Value;

use super::batch::{Batch, Step};
use super::command_connection::text;
use super::library::MARK;
use super::writes::UNPROVEN;
use super::{Names, RedisSettings};
use crate::broker::jobs::{Held, Job};

/// The most players of one page.
const MAX_PAGE: usize = 1_000;

/// How a channel is named in the index of a node, with whether its subscribers are notified.
pub(super) fn entry(channel: &str, notify: bool) -> String {
    format!("{}{channel}", u8::from(notify))
}

/// The channel of an entry, and where its subscribers are notified; empty: they are not.
pub(super) fn parse_entry<'e>(names: &Names, entry: &'e str) -> (&'e str, String) {
    match entry.strip_prefix('1') {
        Some(channel) => (channel, names.presence_notices(channel)),
        None => (entry.strip_prefix('0').unwrap_or(entry), String::new()),
    }
}

/// Moves the presence writes of each channel together, behind all other jobs, so that one call writes them. Those of one
/// channel keep their order; they say nothing about the order of anything else.
pub(super) fn gather(batch: &mut [(u64, Job)]) {
    let channel = |job: &Job| match &job.work {
        WriteKind::Presence { channel, .. } => Some(channel.clone()),
        _ => None,
    };
    if batch.iter().any(|(_, job)| matches!(job.work, WriteKind::Presence { .. })) {
        batch.sort_by_cached_key(|(_, job)| channel(job));
    }
}

/// What a publisher knows of the index of its node.
#[derive(Debug, Default)]
pub(super) struct PresenceIndex {
    /// Entries of channels on which no session of the node is present any more; no more than calls in one pipeline. Each with what
    /// its write held: in a Cluster no other publisher may write about the channel before the entry is removed.
    left: Vec<(String, Option<Arc<dyn Held>>)>,
    /// What the entries held that are being removed.
    leaving: Vec<(String, Option<Arc<dyn Held>>)>,
    /// What the writes hold whose answer is out, by their entries.
    writing: HashMap<String, Arc<dyn Held>>,
}

impl PresenceIndex {
    /// Whether entries are to be removed. They are sent even if nothing else is written, because the next write may be long in coming.
    pub(super) fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// Takes out of the index what the last pipeline has emptied. Returns whether that takes a command.
    pub(super) fn begin(&mut self, batch: &mut Batch, settings: &RedisSettings) -> bool {
        self.writing.clear();
        self.leaving = std::mem::take(&mut self.left);
        if self.leaving.is_empty() {
            return false;
        }
        let entries: Vec<&str> = self.leaving.iter().map(|(entry, _)| &**entry).collect();
        batch
            .begin(Step::Before, "SREM")
            .arg(settings.names.node_presence_key(&settings.lease.instance))
            .arg(entries);
        true
    }

    /// The connection broke: what was under way is over, done or not, and holds nothing up.
    pub(super) fn broken(&mut self) {
        self.writing.clear();
        self.leaving.clear();
    }

    /// What [`PresenceIndex::begin`] has taken out is over, done or not: an entry too many is found and removed by whoever cleans
    /// up behind the node.
    pub(super) fn removed(&mut self) {
        self.leaving.clear();
    }

    /// What a call has left of the node's sessions on its channel.
    pub(super) fn note(&mut self, entry: &str, present: i64) {
        self.left.retain(|(left, _)| left != entry);
        let held = self.writing.remove(entry);
        if present == 0 {
            self.left.push((entry.to_owned(), held));
        }
    }
}

/// Writes who is present on one channel: the entry of the index, and the call.
pub(super) fn write(
    batch: &mut Batch,
    settings: &RedisSettings,
    index: &mut PresenceIndex,
    now: &[(u64, Job)],
) {
    let Some((_, first @ Job { work: WriteKind::Presence { channel, notify, .. }, .. })) = now.first() else {
        return;
    };
    let (names, instance) = (&settings.names, &*settings.lease.instance);
    let entry = entry(channel, *notify);
    batch.begin(Step::Before, "SADD").arg(names.node_presence_key(instance)).arg(&*entry);
    if let Some(held) = first.held() {
        index.writing.insert(entry, held);
    }
    batch.cmd("FCALL").arg("drawbridge_presence_write").arg(2).arg(&names.presence_keys(channel)[..]);
    batch.arg(instance).arg(if *notify { names.presence_notices(channel) } else { String::new() });
    for (_, job) in now {
        let WriteKind::Presence { player, session, generation, is_present, .. } = &job.work else { continue };
        batch.arg(&**player).arg(session.to_string()).arg(*generation).arg(u8::from(*is_present));
    }
}

/// The call that reads a page.
pub(super) fn page_call(
    settings: &RedisSettings,
    channel: &str,
    after: Option<&str>,
    limit: usize,
) -> redis::Cmd {
    let mut call = redis::cmd("FCALL");
    call.arg("drawbridge_presence_page").arg(2).arg(&settings.names.presence_keys(channel)[..]);
    call.arg(after.unwrap_or_default()).arg(limit.min(MAX_PAGE) + 1);
    call
}

/// The answer of `drawbridge_presence_page`, which has one player more than the page where there are more.
pub(super) fn read_page(answer: &Value, limit: usize) -> Result<PresencePage, String> {
    let unproven = || UNPROVEN.to_owned();
    let Value::Array(parts) = answer else { return Err(unproven()) };
    let [mark, Value::Int(total), listed @ ..] = &parts[..] else { return Err(unproven()) };
    if text(mark).as_deref() != Some(MARK) {
        return Err(unproven());
    }
    let player = |pair: &[Value]| match pair {
        [name, Value::Int(sessions)] => Some((Arc::from(text(name)?), u64::try_from(*sessions).ok()?)),
        _ => None,
    };
    let mut players: Vec<_> = listed.chunks_exact(2).filter_map(player).collect();
    let limit = limit.min(MAX_PAGE);
    let has_more = players.len() > limit;
    players.truncate(limit);
    Ok(PresencePage { players, total: u64::try_from(*total).unwrap_or(0), has_more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_more_follow() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let answer = Value::Array(vec![
            bulk(MARK),
            Value::Int(9),
            bulk("a"),
            Value::Int(1),
            bulk("b"),
            Value::Int(2),
            bulk("c"),
            Value::Int(1),
        ]);
        let players = |names: &[(&str, u64)]| {
            names.iter().map(|(name, sessions)| (Arc::from(*name), *sessions)).collect::<Vec<_>>()
        };
        let page = |limit| read_page(&answer, limit).map(|page| (page.players, page.total, page.has_more));
        assert_eq!(page(2), Ok((players(&[("a", 1), ("b", 2)]), 9, true)));
        assert_eq!(page(3), Ok((players(&[("a", 1), ("b", 2), ("c", 1)]), 9, false)));
        assert_eq!(read_page(&Value::Int(1), 2), Err(UNPROVEN.to_owned()));
    }

    #[test]
    fn an_entry_says_where_subscribers_are_notified() {
        let names = Names::new("prod:", "drawbridge:");
        let notices = "prod:drawbridge:presence:room:1".to_owned();
        assert_eq!(parse_entry(&names, &entry("room:1", true)), ("room:1", notices));
        assert_eq!(parse_entry(&names, &entry("10", false)), ("10", String::new()));
    }

    #[test]
    fn an_entry_goes_with_the_last_session_and_stays_with_the_next() {
        let mut index = PresenceIndex::default();
        index.note("1room:1", 0);
        index.note("1room:2", 0);
        index.note("1room:1", 1);
        let left: Vec<&str> = index.left.iter().map(|(entry, _)| &**entry).collect();
        assert_eq!(left, ["1room:2"]);
    }
}
