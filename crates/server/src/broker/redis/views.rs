//! Players' views as Redis keeps them: how many there are and how long they are is asked before they are read, and what
//! is not as services set it hides its channel.

use std::sync::Arc;

use drawbridge_engine::expr::MAX_RULE_BYTES;
use drawbridge_engine::io::PlayerOverrides;
use drawbridge_protocol::channel;
use redis::{RedisResult, Value};

use super::batch::Batch;
use super::command_connection::error_message;
use super::commands::Commands;
use super::connect::Broken;
use super::reader::UNEXPECTED;

/// How many views a player has at most; `functions/views.lua` has the same bound.
const MAX_VIEWS: i64 = 256;
/// So many views are read by one pipeline at most, or those of one player.
const MAX_COMMANDS: usize = 2 * MAX_VIEWS as usize;
/// And so many bytes of them.
const MAX_BYTES: usize = 1 << 20;
/// A view that shows nothing.
const NOTHING: &str = "false";

/// One player's views.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StoredOverrides {
    pub(super) views: PlayerOverrides,
    /// How many of them are not as services set them; where they name a channel, it is not shown.
    pub(super) bad: usize,
}

/// The views under each of these keys, or the error that Redis returned, in the order of the keys.
pub(super) async fn read(
    commands: &mut Commands,
    keys: Vec<String>,
) -> Result<Vec<Result<StoredOverrides, String>>, Broken> {
    let mut read: Vec<Result<StoredOverrides, String>> = Vec::new();
    let mut some = Vec::new();
    for (at, length) in ask(commands, &keys, |key, batch| {
        batch.cmd("HLEN").arg(key);
    })
    .await?
    .into_iter()
    .enumerate()
    {
        read.push(match length {
            Ok(Value::Int(0)) => Ok(StoredOverrides::default()),
            Ok(Value::Int(fields @ 1..=MAX_VIEWS)) => {
                some.push((at, keys[at].as_str(), fields as usize));
                Ok(StoredOverrides::default())
            }
            Ok(Value::Int(fields)) => {
                Err(format!("DAMAGED there are {fields}, and a player has at most {MAX_VIEWS}"))
            }
            Ok(_) => Err(UNEXPECTED.to_owned()),
            Err(message) => Err(message),
        });
    }
    for part in parts(some, MAX_COMMANDS, |(_, _, fields)| *fields) {
        let names = ask(commands, &part, |(_, key, _), batch| {
            batch.cmd("HKEYS").arg(key);
        })
        .await?;
        let mut named = Vec::new();
        for ((at, key, _), names) in part.into_iter().zip(names) {
            match names {
                Ok(Value::Array(names) | Value::Set(names)) => {
                    let channels = channels(&names);
                    if let Ok(stored) = &mut read[at] {
                        stored.bad = names.len() - channels.len();
                    }
                    named.extend(channels.into_iter().map(|channel| View { at, key, channel, bytes: 0 }));
                }
                Ok(_) => read[at] = Err(UNEXPECTED.to_owned()),
                Err(message) => read[at] = Err(message),
            }
        }
        read_views(commands, named, &mut read).await?;
    }
    Ok(read)
}

/// A view of one player that is to be read.
struct View<'k> {
    /// The player's place among those that are read together.
    at: usize,
    key: &'k str,
    channel: String,
    /// How long it is.
    bytes: usize,
}

/// Reads the views of several players into `read`: in one round trip how long they are, then as many at once as have
/// [`MAX_BYTES`] together.
async fn read_views(
    commands: &mut Commands,
    named: Vec<View<'_>>,
    read: &mut [Result<StoredOverrides, String>],
) -> Result<(), Broken> {
    let mut views: Vec<Vec<(Arc<str>, Arc<str>)>> = vec![Vec::new(); read.len()];
    let mut readable = Vec::new();
    let lengths = ask(commands, &named, |view, batch| {
        batch.cmd("HSTRLEN").arg(view.key).arg(&view.channel);
    })
    .await?;
    for (view, length) in named.into_iter().zip(lengths) {
        let View { at, .. } = view;
        match (length, &mut read[at]) {
            (Ok(Value::Int(length)), _)
                if usize::try_from(length).is_ok_and(|length| length <= MAX_RULE_BYTES) =>
            {
                readable.push(View { bytes: length as usize, ..view });
            }
            (Ok(_), Ok(stored)) => {
                stored.bad += 1;
                views[at].push((view.channel.into(), NOTHING.into()));
            }
            (Err(message), theirs @ Ok(_)) => *theirs = Err(message),
            (_, Err(_)) => {}
        }
    }
    for part in parts(readable, MAX_BYTES, |view| view.bytes) {
        let values = ask(commands, &part, |view, batch| {
            batch.cmd("HGET").arg(view.key).arg(&view.channel);
        })
        .await?;
        for (View { at, channel, .. }, value) in part.into_iter().zip(values) {
            match (value, &mut read[at]) {
                (Ok(Value::BulkString(view)), Ok(stored)) => {
                    let view = std::str::from_utf8(&view).ok().filter(|view| is_view(view));
                    stored.bad += usize::from(view.is_none());
                    views[at].push((channel.into(), view.unwrap_or(NOTHING).into()));
                }
                // A service took it back meanwhile.
                (Ok(Value::Nil), _) | (_, Err(_)) => {}
                (Ok(_), theirs) => *theirs = Err(UNEXPECTED.to_owned()),
                (Err(message), theirs) => *theirs = Err(message),
            }
        }
    }
    for (theirs, views) in read.iter_mut().zip(views).filter(|(_, views)| !views.is_empty()) {
        if let Ok(stored) = theirs {
            stored.views = views.into();
        }
    }
    Ok(())
}

/// The names that can be channels.
fn channels(names: &[Value]) -> Vec<String> {
    let fit = |name: &Value| match name {
        Value::BulkString(name) => {
            std::str::from_utf8(name).ok().filter(|name| channel::validate(name).is_ok()).map(str::to_owned)
        }
        _ => None,
    };
    names.iter().filter_map(fit).collect()
}

/// Divides these into parts whose sizes add up to at most `bound`, or that have one element.
fn parts<T>(all: Vec<T>, bound: usize, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut parts, mut total) = (Vec::new(), 0);
    for each in all {
        total += size(&each);
        match parts.last_mut() {
            Some(part) if total <= bound => Vec::push(part, each),
            _ => {
                total = size(&each);
                parts.push(vec![each]);
            }
        }
    }
    parts
}

fn is_view(source: &str) -> bool {
    drawbridge_engine::expr::compile(source, drawbridge_engine::expr::Vars::VIEW_RULE).is_ok()
}

/// One command for each of these.
async fn ask<T>(
    commands: &mut Commands,
    of: &[T],
    command: impl Fn(&T, &mut Batch),
) -> Result<Vec<Result<Value, String>>, Broken> {
    if of.is_empty() {
        return Ok(Vec::new());
    }
    let mut batch = Batch::with_capacity(of.len());
    of.iter().for_each(|each| command(each, &mut batch));
    let result = |result: RedisResult<Value>| result.map_err(|error| error_message(&error));
    Ok(commands.query(&batch).await?.into_iter().map(result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_the_order_and_the_bound() {
        let divided = |sizes: &[usize]| parts(sizes.to_vec(), 10, |size| *size);
        assert_eq!(divided(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(divided(&[4, 6, 1, 12, 3, 3]), [vec![4, 6], vec![1], vec![12], vec![3, 3]]);
    }
}
