//! Records of sessions in Redis: written, ended and claimed by the functions of `functions/sessions.lua`, each call about one record. A
//! set for each start of a node indexes the records that it has written, so that whoever cleans up behind it finds them.
//!
//! Invariant: a record that names a node is in that node's index. So an entry is added before the record is written, and
//! removed after it has gone. An entry names the generation, so that what ends a claim leaves the entry of the next one.

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{ClaimedSession, MAX_SESSION_BYTES, NewOwner, SessionHash};
use redis::Value;

use super::RedisSettings;
use super::batch::{Batch, Step};
use super::command_connection::{error_message, text};
use super::commands::Commands;
use super::connect::Broken;
use super::library::MARK;
use super::writes::UNPROVEN;
use crate::player_command;

/// The generation of a claim that is not answered yet.
const CLAIMING: u64 = 0;
/// The argument of a claim that takes a session from no other node.
const ONLY_OWN: &str = "own";

/// One session of a player as a node has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    pub(super) player: &'a str,
    pub(super) session: SessionHash,
    pub(super) generation: u64,
}

impl Held<'_> {
    /// How it is named in the index of a node's sessions.
    pub(super) fn entry(&self) -> String {
        let Held { player, session, generation } = self;
        format!("{session}:{generation}:{player}")
    }
}

/// The player and the session of an entry of an index; `None`: no node has written it.
pub(super) fn parse_entry(entry: &str) -> Option<(&str, SessionHash)> {
    let (session, rest) = entry.split_once(':')?;
    let (_generation, player) = rest.split_once(':')?;
    Some((player, SessionHash::parse(session)?))
}

/// Stores a record: an entry of the index, and the call.
pub(super) fn save(batch: &mut Batch, settings: &RedisSettings, held: &Held<'_>, content: &[u8]) {
    let (names, instance) = (&settings.names, &*settings.lease.instance);
    let bytes = content.len();
    let content = if bytes <= MAX_SESSION_BYTES { content } else { b"" };
    if bytes > MAX_SESSION_BYTES {
        let session = held.session;
        tracing::warn!(%session, bytes, "a session is stored without its content: it is over {MAX_SESSION_BYTES} bytes");
    }
    batch.begin(Step::Before, "SADD").arg(names.node_sessions_key(instance)).arg(held.entry());
    batch.cmd("FCALL").arg("drawbridge_session_save").arg(1);
    batch.arg(names.session_key(held.player, held.session)).arg(instance);
    batch.arg(held.generation).arg(content);
}

/// The code of the error that a save is refused with because another node has claimed the session.
pub(super) const TAKEN_OVER: &str = "TAKENOVER";

/// Who has the session, as the error of a refused save says.
pub(super) fn new_owner(message: &str) -> NewOwner {
    let mut words = message.splitn(4, ' ').skip(1);
    let mut word = || words.next().unwrap_or_default();
    // Functions of an earlier version do not say it: then another connection has it, as far as is known.
    let generation = word().parse().unwrap_or(u64::MAX);
    let is_free = word() == "1";
    NewOwner { generation, is_free, node: word().into() }
}

/// Removes a record, after so many milliseconds if not at once: the call, and then the entry of the index.
pub(super) fn end(batch: &mut Batch, settings: &RedisSettings, held: &Held<'_>, window_ms: u64) {
    let (names, instance) = (&settings.names, &*settings.lease.instance);
    batch.cmd("FCALL").arg("drawbridge_session_end").arg(1);
    batch.arg(names.session_key(held.player, held.session)).arg(instance).arg(held.generation);
    if window_ms > 0 {
        batch.arg(window_ms);
    }
    batch.begin(Step::After, "SREM").arg(names.node_sessions_key(instance)).arg(held.entry());
}

/// Lets the record of a node's session go after so many milliseconds, unless Redis' clock is past the deadline.
pub(super) fn set_window(
    batch: &mut Batch,
    settings: &RedisSettings,
    (player, session): (&str, SessionHash),
    instance: &str,
    window_ms: u64,
    deadline_ms: Option<u64>,
) {
    batch.cmd("FCALL").arg("drawbridge_session_window").arg(1);
    batch.arg(settings.names.session_key(player, session)).arg(instance).arg(window_ms);
    batch.arg(deadline_ms.map_or_else(String::new, |deadline| deadline.to_string()));
}

/// A session that a client wants to resume.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) player: Arc<str>,
    pub(super) session: SessionHash,
    /// Nobody waits for it any more, and the answer to the same claim was lost: it finds out whether that was executed, and takes
    /// the session from no other node.
    pub(super) only_own: bool,
}

/// What a claim has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) session: ClaimedSession,
    /// The start of a node that had it before, and under which generation.
    before: (String, u64),
}

/// Claims these sessions for this node, each announced on the nodes' channel. Returns for each what was found, or Redis'
/// error.
pub(super) async fn claim(
    commands: &mut Commands,
    settings: &RedisSettings,
    claims: &[Claim],
) -> Result<Vec<Result<Option<Claimed>, String>>, Broken> {
    let (names, instance) = (&settings.names, &settings.lease.instance);
    let mut batch = Batch::with_capacity(claims.len() + 1);
    batch.begin(Step::Before, "SADD").arg(names.node_sessions_key(instance));
    for Claim { player, session, .. } in claims {
        batch.arg(Held { player, session: *session, generation: CLAIMING }.entry());
    }
    let channel = names.outward(&settings.node_channel);
    for Claim { player, session, only_own } in claims {
        let announcement = player_command::claim_announcement(player, *session, instance);
        batch.cmd("FCALL").arg("drawbridge_session_claim").arg(1).arg(names.session_key(player, *session));
        batch.arg(&**instance).arg(&*channel).arg(&announcement[..]);
        if *only_own {
            batch.arg(ONLY_OWN);
        }
    }
    let mut results = commands.query(&batch).await?.into_iter();
    let indexed = results.next().unwrap_or(Ok(Value::Nil)).map_err(|error| error_message(&error));
    let claimed = claims.iter().zip(results).map(|(claim, result)| match (&indexed, result) {
        // Why it counts as not claimed: nobody would clean it up behind this node. The client's next attempt claims it again.
        (Err(message), _) => Err(message.clone()),
        (Ok(_), Ok(answer)) => read_claimed(claim, &answer),
        (Ok(_), Err(error)) => Err(error_message(&error)),
    });
    Ok(claimed.collect())
}

/// The answer of `drawbridge_session_claim`.
fn read_claimed(claim: &Claim, answer: &Value) -> Result<Option<Claimed>, String> {
    let Value::Array(parts) = answer else { return Err(UNPROVEN.to_owned()) };
    match &parts[..] {
        [mark, Value::Int(0)] if is_mark(mark) => Ok(None),
        [mark, Value::Int(generation), owner, generation_before, Value::BulkString(content)]
            if is_mark(mark) =>
        {
            let number = |value| text(value).and_then(|digits| digits.parse().ok());
            let (Some(owner), Some(before), Ok(generation)) =
                (text(owner), number(generation_before), u64::try_from(*generation))
            else {
                return Err(UNPROVEN.to_owned());
            };
            let Claim { player, session, .. } = claim.clone();
            let content = Bytes::copy_from_slice(content);
            let session = ClaimedSession { player, session, generation, content };
            Ok(Some(Claimed { session, before: (owner, before) }))
        }
        _ => Err(UNPROVEN.to_owned()),
    }
}

fn is_mark(value: &Value) -> bool {
    text(value).as_deref() == Some(MARK)
}

/// What follows claims: entries of the indexes of this node and of those that had the sessions before.
pub(super) struct FollowUp<'s> {
    settings: &'s RedisSettings,
    batch: Batch,
}

impl<'s> FollowUp<'s> {
    pub(super) fn new(settings: &'s RedisSettings) -> Self {
        FollowUp { settings, batch: Batch::new() }
    }

    /// This claim was answered.
    pub(super) fn add(&mut self, claim: &Claim, claimed: Option<&Claimed>) {
        let FollowUp { settings, batch } = self;
        let Claim { player, session, .. } = claim;
        let held = |generation| Held { player, session: *session, generation };
        let (names, instance) = (&settings.names, &*settings.lease.instance);
        let own_index = names.node_sessions_key(instance);
        if let Some(claimed) = claimed {
            batch.cmd("SADD").arg(&own_index).arg(held(claimed.session.generation).entry());
            let (owner, generation) = &claimed.before;
            batch
                .begin(Step::After, "SREM")
                .arg(names.node_sessions_key(owner))
                .arg(held(*generation).entry());
            if owner != instance {
                // That node may have died between its claim and what was to follow.
                batch.arg(held(CLAIMING).entry());
            }
        }
        batch.begin(Step::After, "SREM").arg(&own_index).arg(held(CLAIMING).entry());
    }

    pub(super) async fn send(self, commands: &mut Commands) -> Result<(), Broken> {
        match self.batch.is_empty() {
            true => Ok(()),
            // Where Redis refuses it, the entries stay until their nodes end.
            false => commands.query(&self.batch).await.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_index_names_its_record() {
        for player in ["alice", "a:b", "}", ":", "1:2:3"] {
            let held = Held { player, session: SessionHash(0xabc), generation: 3 };
            assert_eq!(parse_entry(&held.entry()), Some((player, SessionHash(0xabc))));
        }
        for bad in ["", ":", "::", "abc:1:alice", "0000000000000000000000000000000g:1:alice"] {
            assert_eq!(parse_entry(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refused_save_names_the_new_owner() {
        let owner = |node: &str, generation, is_free| NewOwner { node: node.into(), generation, is_free };
        assert_eq!(new_owner("TAKENOVER 3 0 n1-ab"), owner("n1-ab", 3, false));
        assert_eq!(new_owner("TAKENOVER 4 1 my node-ab"), owner("my node-ab", 4, true));
        let before = "TAKENOVER another node has claimed the session";
        assert_eq!((new_owner(before).generation, new_owner(before).is_free), (u64::MAX, false));
    }

    /// `docs/redis.md` and `docs/benchmarks.md` state what these cost.
    #[test]
    fn a_session_costs_redis_as_much_as_is_documented() {
        let instance = "n1-0123456789abcdef".into();
        let lease = super::super::LeaseSettings::new(instance, std::time::Duration::from_secs(60));
        let settings = RedisSettings { lease, ..super::super::tests::settings() };
        let held = Held { player: "alice", session: SessionHash(7), generation: 1 };
        let cost = |batch: Batch| (batch.len(), batch.pipeline().get_packed_pipeline().len());
        let (mut saved, mut ended) = (Batch::new(), Batch::new());
        save(&mut saved, &settings, &held, b"");
        end(&mut ended, &settings, &held, 0);
        assert_eq!((cost(saved), cost(ended)), ((2, 278), (2, 271)));
    }

    #[test]
    fn only_our_functions_answers_are_claims() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let claimed = |mark: &str| {
            Value::Array(vec![bulk(mark), Value::Int(3), bulk("n1-a"), bulk("2"), bulk("content")])
        };
        let claim = Claim { player: "alice".into(), session: SessionHash(7), only_own: false };
        let Claim { player, session, .. } = claim.clone();
        let content = Bytes::from_static(b"content");
        let session = ClaimedSession { player, session, generation: 3, content };
        let expected = Claimed { session, before: ("n1-a".to_owned(), 2) };
        assert_eq!(read_claimed(&claim, &claimed(MARK)), Ok(Some(expected)));
        assert_eq!(read_claimed(&claim, &Value::Array(vec![bulk(MARK), Value::Int(0)])), Ok(None));
        for other in [claimed("other"), Value::Int(1), Value::Nil, Value::Array(vec![bulk(MARK)])] {
            assert_eq!(read_claimed(&claim, &other), Err(UNPROVEN.to_owned()));
        }
    }
}
