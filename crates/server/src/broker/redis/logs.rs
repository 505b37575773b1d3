//! Logs of channels with history, as the functions return them: [`read`], and what counts as a log.

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_engine::io::{Epoch, LogPosition, LogReader, LoggedOffset};
use drawbridge_engine::upstream::{LogRange, StoredLog, StoredLogEvent};
use redis::Value;

use super::RedisSettings;
use super::batch::Batch;
use super::command_connection::{error_message, text};
use super::commands::Commands;
use super::connect::Broken;
use super::writes::{UNPROVEN, marked};

/// The most events of one answer.
const PART_EVENTS: usize = 10_000;

/// A part of a log that is read.
pub(super) struct Part {
    pub(super) channel: Arc<str>,
    pub(super) range: LogRange,
    pub(super) limit: usize,
    pub(super) reader: LogReader,
}

/// These parts, or the error that Redis returned, in their order. All are in one batch: more than one only where they hold
/// no events.
pub(super) async fn read(
    commands: &mut Commands,
    settings: &RedisSettings,
    parts: &[Part],
) -> Result<Vec<Result<StoredLog, String>>, Broken> {
    let mut batch = Batch::with_capacity(parts.len());
    let mut is_asked = Vec::with_capacity(parts.len());
    for Part { channel, range, limit, reader } in parts {
        let history = settings.library.history(channel);
        is_asked.push(history.is_some());
        let Some(history) = history else { continue };
        batch.cmd("FCALL").arg("drawbridge_log").arg(2).arg(&settings.names.log_keys(channel)[..]);
        batch.arg(history.events).arg(history.age_ms);
        match range {
            LogRange::After(offset) => batch.arg(offset.0),
            LogRange::Newest => batch.arg("newest"),
        };
        batch.arg((*limit).min(PART_EVENTS)).arg(reader.max_bytes());
        batch.arg(u8::from(*reader == LogReader::Hub));
    }
    let mut answers = match is_asked.contains(&true) {
        true => commands.query(&batch).await?.into_iter(),
        false => Vec::new().into_iter(),
    };
    let read = is_asked.into_iter().map(|is_asked| {
        if !is_asked {
            return Err("UNSUPPORTED the channel has no history".to_owned());
        }
        let answer = answers.next().unwrap_or(Ok(Value::Nil)).map_err(|error| error_message(&error))?;
        stored_log(&answer).ok_or_else(|| UNPROVEN.to_owned())
    });
    Ok(read.collect())
}

/// The log in the answer of `drawbridge_log`; `None`: another function has answered.
fn stored_log(answer: &Value) -> Option<StoredLog> {
    let [epoch, last, first, ended, from, payloads @ ..] = marked(answer)? else { return None };
    let epoch = Epoch::parse(&text(epoch)?)?;
    let (last, first, from) = (offset(last)?, offset(first)?, offset(from)?);
    let events = payloads.iter().zip(from..).map(|(payload, offset)| match payload {
        Value::BulkString(payload) => {
            let payload = Bytes::copy_from_slice(payload);
            Some(StoredLogEvent { offset: LoggedOffset(offset), payload })
        }
        _ => None,
    });
    Some(StoredLog {
        last: LogPosition { epoch, offset: LoggedOffset(last) },
        first: LoggedOffset(first),
        ended: ended_epochs(&text(ended)?, last).unwrap_or_default(),
        events: events.collect::<Option<_>>()?,
    })
}

fn offset(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// Pairs of an epoch and the offset at which it ended; `None`: the functions write no such thing, so none of them counts.
fn ended_epochs(text: &str, last: u64) -> Option<Vec<LogPosition>> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (pairs, []) = words.as_chunks::<2>() else { return None };
    let mut ended: Vec<LogPosition> = Vec::with_capacity(pairs.len());
    for [epoch, offset] in pairs {
        let position =
            LogPosition { epoch: Epoch::parse(epoch)?, offset: LoggedOffset(offset.parse().ok()?) };
        let is_in_order = ended.last().is_none_or(|before| before.offset <= position.offset);
        if !is_in_order || position.offset.0 > last {
            return None;
        }
        ended.push(position);
    }
    Some(ended)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn answer(epoch: &str, last: i64, ended: &str, events: &[&str]) -> Value {
        let head =
            [bulk("drawbridge"), bulk(epoch), Value::Int(last), Value::Int(2), bulk(ended), Value::Int(3)];
        Value::Array(head.into_iter().chain(events.iter().map(|event| bulk(event))).collect())
    }

    fn at(epoch: u64, offset: u64) -> LogPosition {
        LogPosition { epoch: Epoch::new(epoch), offset: LoggedOffset(offset) }
    }

    #[test]
    fn a_log_is_read_as_the_functions_return_it() {
        let ended = " 0000000000000001 1 0000000000000002 4";
        let log = stored_log(&answer("0000000000000003", 4, ended, &["{}", "[]"])).unwrap();
        assert_eq!((log.last, log.first), (at(3, 4), LoggedOffset(2)));
        assert_eq!(log.ended, [at(1, 1), at(2, 4)]);
        let events: Vec<_> = log.events.iter().map(|event| (event.offset.0, &event.payload[..])).collect();
        assert_eq!(events, [(3, b"{}".as_slice()), (4, b"[]")]);
    }

    #[test]
    fn of_ended_epochs_that_cannot_be_right_none_counts() {
        for ended in [
            "0000000000000001",
            "0000000000000001 5",
            "0000000000000001 -1",
            "1 1",
            "0000000000000001 3 0000000000000002 1",
        ] {
            assert_eq!(stored_log(&answer("0000000000000003", 4, ended, &[])).unwrap().ended, [], "{ended}");
        }
        for bad in
            [answer("3", 4, "", &[]), answer("0000000000000003", -1, "", &[]), Value::Int(1), Value::Nil]
        {
            assert_eq!(stored_log(&bad), None);
        }
    }
}
