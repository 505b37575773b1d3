//! How each kind of write is sent to Redis and what its answer means: the one place of the Redis broker that knows the kinds.

use drawbridge_engine::io::{Epoch, LogPosition, LoggedOffset, WriteKind};
use redis::{RedisResult, Value};

use super::RedisSettings;
use super::batch::Batch;
use super::command_connection::{error_message, text};
use super::library::MARK;
use super::presence::{self, PresenceIndex};
use super::sessions::{self, Held};
use crate::broker::jobs::{Job, open_object};

/// What functions that are not ours answer counts as this.
pub(super) const UNPROVEN: &str = "UNPROVEN the functions in Redis do not answer as Drawbridge's do";

/// What became of one write: where it is in its channel's log, if it was logged; or the error that Redis returned.
pub(super) type WriteOutcome = Result<Option<LogPosition>, String>;

/// The command of Redis that does this.
pub(super) fn command_of(work: &WriteKind) -> &'static str {
    match work {
        WriteKind::Publish { .. } => "PUBLISH",
        WriteKind::Append { .. } => "XADD",
        WriteKind::Commit { .. } => "FCALL drawbridge_entity_write",
        WriteKind::Log { .. } => "FCALL drawbridge_append",
        WriteKind::SetOverride { .. } => "FCALL drawbridge_view",
        WriteKind::SaveSession { .. } => "FCALL drawbridge_session_save",
        WriteKind::EndSession { .. } => "FCALL drawbridge_session_end",
        WriteKind::Presence { .. } => "FCALL drawbridge_presence_write",
    }
}

/// What needs our functions in Redis, for a person; `None`: this does not.
pub(super) fn needs_functions(work: &WriteKind) -> Option<&'static str> {
    match work {
        WriteKind::Commit { .. } => Some("entity channels"),
        WriteKind::Log { .. } => Some("channels with history"),
        WriteKind::SetOverride { .. } => Some("players' views"),
        WriteKind::SaveSession { .. } | WriteKind::EndSession { .. } => {
            Some("sessions that outlive their node")
        }
        WriteKind::Presence { .. } => Some("presence"),
        WriteKind::Publish { .. } | WriteKind::Append { .. } => None,
    }
}

/// What one or two commands of a pipeline are answered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Anything but an error.
    Plain,
    /// By our function: the mark that only it gives, and a number.
    SetOverride,
    /// By our function: that, or an error's words, for each of so many jobs.
    Commit(usize),
    /// By our function: the mark and a position, or an error's words, for each of so many jobs.
    Log(usize),
    /// A call of our function and a command about the node's index, in either order: the mark and a number, and a number.
    Indexed,
    /// A command about the node's index of channels, and a call of our function for so many jobs: a number; the mark and how
    /// many sessions of the node are present now.
    Presence {
        jobs: usize,
        /// The channel, as the index has it.
        entry: String,
    },
    /// By anything: no job waits for it.
    Upkeep,
}

/// A batch as commands, and what each of them is: events of one entity channel, or of one log, that follow one another are
/// written by one call.
pub(super) fn batch_of(
    jobs: &[(u64, Job)],
    settings: &RedisSettings,
    index: &mut PresenceIndex,
) -> (Batch, Vec<Call>) {
    let mut batch = Batch::with_capacity(jobs.len());
    let names = &settings.names;
    let mut calls = Vec::with_capacity(jobs.len());
    if index.begin(&mut batch, settings) {
        calls.push(Call::Upkeep);
    }
    let mut rest = jobs;
    while let Some((_, job)) = rest.first() {
        let alike = rest.iter().take_while(|(_, other)| other.work.joins(&job.work)).count();
        let (now, later) = rest.split_at(alike.max(1));
        rest = later;
        calls.push(match &job.work {
            WriteKind::SetOverride { .. } => Call::SetOverride,
            WriteKind::Commit { .. } => Call::Commit(now.len()),
            WriteKind::Log { .. } => Call::Log(now.len()),
            WriteKind::SaveSession { .. } | WriteKind::EndSession { .. } => Call::Indexed,
            WriteKind::Presence { channel, notify, .. } => {
                Call::Presence { jobs: now.len(), entry: presence::entry(channel, *notify) }
            }
            WriteKind::Publish { .. } | WriteKind::Append { .. } => Call::Plain,
        });
        match &job.work {
            WriteKind::Publish { channel, payload } => {
                let command = for_delivery(channel, "PUBLISH", "SPUBLISH", settings);
                batch.cmd(command).arg(&*names.outward(channel)).arg(&payload[..]);
            }
            WriteKind::Append { stream, fields } => {
                batch.cmd("XADD").arg(&*names.outward(stream)).arg("*");
                for (name, value) in fields {
                    batch.arg(*name).arg(&value[..]);
                }
            }
            WriteKind::Commit { channel, commit } => {
                let function = for_delivery(
                    channel,
                    "drawbridge_entity_write",
                    "drawbridge_entity_write_sharded",
                    settings,
                );
                batch.cmd("FCALL").arg(function).arg(2).arg(&names.table_keys(channel)[..]);
                batch.arg(&*names.outward(channel));
                batch.arg(commit.max).arg(commit.ttl_ms).arg(commit.max_bytes);
                batch.arg(names.channel_prefix());
                for (_, job) in now {
                    let WriteKind::Commit { commit, .. } = &job.work else { continue };
                    batch.arg(&*commit.key).arg(u8::from(commit.remove));
                    batch.arg(open_object(&commit.payload)).arg(&commit.id);
                }
            }
            WriteKind::Log { channel, .. } => append(&mut batch, channel, now, settings),
            WriteKind::SetOverride { player, channel, view, announcement: (nodes, payload), if_absent } => {
                batch.cmd("FCALL").arg("drawbridge_view").arg(1).arg(names.views_key(player));
                batch.arg(&**channel).arg(view.as_deref().unwrap_or_default());
                batch.arg(&*names.outward(nodes)).arg(&**payload).arg(u8::from(*if_absent));
            }
            WriteKind::SaveSession { player, session, generation, content } => {
                let held = Held { player, session: *session, generation: *generation };
                sessions::save(&mut batch, settings, &held, content);
            }
            WriteKind::EndSession { player, session, generation, window_ms } => {
                let held = Held { player, session: *session, generation: *generation };
                sessions::end(&mut batch, settings, &held, *window_ms);
            }
            WriteKind::Presence { .. } => presence::write(&mut batch, settings, index, now),
        }
    }
    (batch, calls)
}

/// Which of two names, of a command or a function, fits how this channel is delivered.
fn for_delivery(
    channel: &str,
    classic: &'static str,
    sharded: &'static str,
    settings: &RedisSettings,
) -> &'static str {
    let is_sharded = settings.sharded.contain(channel) || settings.names.is_sharded_probe(channel);
    if is_sharded { sharded } else { classic }
}

/// Appends the events of these jobs to the log of their channel, by one call.
fn append(batch: &mut Batch, channel: &str, jobs: &[(u64, Job)], settings: &RedisSettings) {
    let entries = || {
        jobs.iter().filter_map(|(_, job)| match &job.work {
            WriteKind::Log { entry, .. } => Some(entry),
            _ => None,
        })
    };
    let Some(first) = entries().next() else { return };
    let names = &settings.names;
    let onces: Vec<_> =
        entries().filter_map(|entry| Some(names.once_key(channel, entry.once.as_deref()?))).collect();
    let function = for_delivery(channel, "drawbridge_append", "drawbridge_append_sharded", settings);
    batch.cmd("FCALL").arg(function).arg(2 + onces.len());
    batch.arg(&names.log_keys(channel)[..]).arg(&onces[..]);
    batch.arg(&*names.outward(channel)).arg(first.max_events).arg(first.age_ms);
    batch.arg(settings.library.external_bytes());
    let mut keys = 0;
    for entry in entries() {
        // The number of its key among those of this call; 0: it has none.
        keys += usize::from(entry.once.is_some());
        let once = if entry.once.is_some() { keys } else { 0 };
        batch.arg(open_object(&entry.payload)).arg(&entry.id).arg(once);
    }
}

/// An outcome for each job. What other functions answer under the names of ours is taken for nothing.
pub(super) fn outcomes(
    results: Vec<RedisResult<Value>>,
    calls: &[Call],
    index: &mut PresenceIndex,
) -> Vec<WriteOutcome> {
    let mut outcomes = Vec::new();
    let mut results = results.into_iter();
    for call in calls {
        let Some(result) = results.next() else { break };
        let result = result.map_err(|error| error_message(&error));
        let mut next = || results.next().map(|result| result.map_err(|error| error_message(&error)));
        match call {
            Call::Upkeep => index.removed(),
            Call::Indexed => outcomes.push(indexed([Some(result), next()]).map(|_| None)),
            Call::Presence { jobs, entry } => {
                let present = indexed([Some(result), next()]);
                if let Ok(present) = present {
                    index.note(entry, present);
                }
                outcomes.extend((0..*jobs).map(|_| present.clone().map(|_| None)));
            }
            Call::Plain => outcomes.push(result.map(|_| None)),
            Call::SetOverride => outcomes.push(result.and_then(|answer| proven(&answer))),
            Call::Commit(count) => outcomes.extend(each(result, *count, proven)),
            Call::Log(count) => outcomes.extend(each(result, *count, position)),
        }
    }
    outcomes
}

/// The answers to a call of our function and to a command about the node's index, in either order: our function's number.
fn indexed(results: [Option<Result<Value, String>>; 2]) -> Result<i64, String> {
    let mut number = Err(UNPROVEN.to_owned());
    for result in results.into_iter().flatten() {
        match result? {
            Value::Int(_) => {}
            answer => number = proven_number(&answer),
        }
    }
    number
}

/// The outcomes of so many jobs that one call has done: an error's words, or what `read` makes of the answer.
fn each(result: Result<Value, String>, count: usize, read: fn(&Value) -> WriteOutcome) -> Vec<WriteOutcome> {
    match result {
        Ok(Value::Array(answers)) if answers.len() == count => {
            answers.iter().map(|answer| text(answer).map_or_else(|| read(answer), Err)).collect()
        }
        Ok(_) => vec![Err(UNPROVEN.to_owned()); count],
        Err(message) => vec![Err(message); count],
    }
}

/// What follows our mark.
pub(super) fn marked(answer: &Value) -> Option<&[Value]> {
    let Value::Array(parts) = answer else { return None };
    let (mark, rest) = parts.split_first()?;
    (text(mark).as_deref() == Some(MARK)).then_some(rest)
}

fn proven(answer: &Value) -> WriteOutcome {
    proven_number(answer).map(|_| None)
}

fn proven_number(answer: &Value) -> Result<i64, String> {
    match marked(answer) {
        Some([Value::Int(number @ 0..)]) => Ok(*number),
        _ => Err(UNPROVEN.to_owned()),
    }
}

fn position(answer: &Value) -> WriteOutcome {
    let position = || {
        let [epoch, Value::Int(offset)] = marked(answer)? else { return None };
        let epoch = Epoch::parse(&text(epoch)?)?;
        Some(LogPosition { epoch, offset: LoggedOffset(u64::try_from(*offset).ok()?) })
    };
    position().map(Some).ok_or_else(|| UNPROVEN.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn a_record_is_written_where_it_is_in_the_index_too() {
        let done = || Ok(Value::Array(vec![bulk("drawbridge"), Value::Int(1)]));
        let refused = || {
            let kind = redis::ErrorKind::Extension;
            Err(redis::RedisError::from((kind, "NOPERM", "no".to_owned())))
        };
        let outcome = |results: Vec<RedisResult<Value>>| {
            outcomes(results, &[Call::Indexed], &mut PresenceIndex::default())
        };
        assert_eq!(outcome(vec![Ok(Value::Int(0)), done()]), [Ok(None)]);
        assert_eq!(outcome(vec![done(), Ok(Value::Int(1))]), [Ok(None)]);
        assert!(outcome(vec![refused(), done()])[0].is_err(), "nobody would find it");
        assert!(outcome(vec![done(), refused()])[0].is_err());
        assert_eq!(outcome(vec![Ok(Value::Int(1)), Ok(Value::Int(1))]), [Err(UNPROVEN.to_owned())]);
    }

    #[test]
    fn only_our_functions_answers_are_taken_for_done() {
        let done_at =
            |offset| Value::Array(vec![bulk("drawbridge"), bulk("00000000000000ab"), Value::Int(offset)]);
        let at = |offset| Some(LogPosition { epoch: Epoch::new(0xab), offset: LoggedOffset(offset) });
        let done = || Value::Array(vec![bulk("drawbridge"), Value::Int(1)]);
        let refused = || bulk("LIMIT_EXCEEDED no");
        let unproven = || Err(UNPROVEN.to_owned());
        for (call, answer, expected) in [
            (
                Call::Commit(2),
                Value::Array(vec![done(), refused()]),
                vec![Ok(None), Err("LIMIT_EXCEEDED no".to_owned())],
            ),
            (Call::Commit(2), Value::Array(vec![done()]), vec![unproven(), unproven()]),
            (Call::Commit(1), Value::Array(vec![Value::Int(1)]), vec![unproven()]),
            (Call::Commit(1), Value::Int(1), vec![unproven()]),
            (Call::Commit(1), Value::Okay, vec![unproven()]),
            (
                Call::Log(2),
                Value::Array(vec![done_at(7), refused()]),
                vec![Ok(at(7)), Err("LIMIT_EXCEEDED no".to_owned())],
            ),
            (Call::Log(1), Value::Array(vec![done()]), vec![unproven()]),
            (Call::Log(1), Value::Array(vec![done_at(-1)]), vec![unproven()]),
            (Call::SetOverride, done(), vec![Ok(None)]),
            (Call::SetOverride, Value::Int(1), vec![unproven()]),
            (Call::SetOverride, Value::Array(vec![bulk("other"), Value::Int(1)]), vec![unproven()]),
            (Call::Plain, Value::Int(0), vec![Ok(None)]),
        ] {
            let outcome = outcomes(
                vec![Ok(answer.clone())],
                std::slice::from_ref(&call),
                &mut PresenceIndex::default(),
            );
            assert_eq!(outcome, expected, "{call:?} {answer:?}");
        }
    }
}
