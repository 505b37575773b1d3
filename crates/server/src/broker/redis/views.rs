//! Players' views as Redis keeps them: how many there are and how long they are is asked before they are read, and what
//! is not as services set it hides its channel.

use std::sync::Arc;

use drawbridge_engine::expr::MAX_RULE_BYTES;
use drawbridge_engine::io::PlayerViews;
use drawbridge_protocol::channel;
use redis::{Pipeline, RedisResult, Value};

use super::commands::{Commands, words};
use super::connect::Broken;
use super::reader::UNEXPECTED;

/// How many views a player has at most; `library.lua` has the same bound.
const MAX_VIEWS: i64 = 256;
/// A view that shows nothing.
const NOTHING: &str = "false";

/// One player's views.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StoredViews {
    pub(super) views: PlayerViews,
    /// How many of them are not as services set them; where they name a channel, it is not shown.
    pub(super) bad: usize,
}

/// The views under each of these keys, or Redis' words, in the order of the keys.
pub(super) async fn read(
    commands: &mut Commands,
    keys: Vec<String>,
) -> Result<Vec<Result<StoredViews, String>>, Broken> {
    let mut read: Vec<Result<StoredViews, String>> = Vec::new();
    let mut some = Vec::new();
    for (at, length) in ask(commands, &keys, |key, pipeline| {
        pipeline.cmd("HLEN").arg(key);
    })
    .await?
    .into_iter()
    .enumerate()
    {
        read.push(match length {
            Ok(Value::Int(0)) => Ok(StoredViews::default()),
            Ok(Value::Int(1..=MAX_VIEWS)) => {
                some.push((at, &keys[at]));
                Ok(StoredViews::default())
            }
            Ok(Value::Int(fields)) => {
                Err(format!("DAMAGED there are {fields}, and a player has at most {MAX_VIEWS}"))
            }
            Ok(_) => Err(UNEXPECTED.to_owned()),
            Err(words) => Err(words),
        });
    }
    let names = ask(commands, &some, |(_, key), pipeline| {
        pipeline.cmd("HKEYS").arg(key);
    })
    .await?;
    for ((at, key), names) in some.into_iter().zip(names) {
        read[at] = match names {
            Ok(Value::Array(names) | Value::Set(names)) => read_one(commands, key, names).await?,
            Ok(_) => Err(UNEXPECTED.to_owned()),
            Err(words) => Err(words),
        };
    }
    Ok(read)
}

/// The views of these channels.
async fn read_one(
    commands: &mut Commands,
    key: &str,
    names: Vec<Value>,
) -> Result<Result<StoredViews, String>, Broken> {
    let mut stored = StoredViews::default();
    let fit = |name: &Value| match name {
        Value::BulkString(name) => {
            std::str::from_utf8(name).ok().filter(|name| channel::validate(name).is_ok()).map(str::to_owned)
        }
        _ => None,
    };
    let channels: Vec<String> = names.iter().filter_map(fit).collect();
    stored.bad = names.len() - channels.len();
    let lengths = ask(commands, &channels, |channel, pipeline| {
        pipeline.cmd("HSTRLEN").arg(key).arg(channel);
    })
    .await?;
    let mut views: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    let mut readable = Vec::new();
    for (channel, length) in channels.into_iter().zip(lengths) {
        match length {
            Ok(Value::Int(length))
                if usize::try_from(length).is_ok_and(|length| length <= MAX_RULE_BYTES) =>
            {
                readable.push(channel);
            }
            Ok(_) => {
                stored.bad += 1;
                views.push((channel.into(), NOTHING.into()));
            }
            Err(words) => return Ok(Err(words)),
        }
    }
    let values = ask(commands, &readable, |channel, pipeline| {
        pipeline.cmd("HGET").arg(key).arg(channel);
    })
    .await?;
    for (channel, value) in readable.into_iter().zip(values) {
        match value {
            Ok(Value::BulkString(view)) => {
                let view = std::str::from_utf8(&view).ok().filter(|view| is_view(view));
                stored.bad += usize::from(view.is_none());
                views.push((channel.into(), view.unwrap_or(NOTHING).into()));
            }
            // A service took it back meanwhile.
            Ok(Value::Nil) => {}
            Ok(_) => return Ok(Err(UNEXPECTED.to_owned())),
            Err(words) => return Ok(Err(words)),
        }
    }
    stored.views = views.into();
    Ok(Ok(stored))
}

fn is_view(source: &str) -> bool {
    drawbridge_engine::expr::compile(source, drawbridge_engine::expr::Vars::VIEW_RULE).is_ok()
}

/// One command for each of these.
async fn ask<T>(
    commands: &mut Commands,
    of: &[T],
    command: impl Fn(&T, &mut Pipeline),
) -> Result<Vec<Result<Value, String>>, Broken> {
    if of.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = Pipeline::with_capacity(of.len());
    pipeline.ignore_errors();
    of.iter().for_each(|each| command(each, &mut pipeline));
    let result = |result: RedisResult<Value>| result.map_err(|error| words(&error));
    Ok(commands.query(&pipeline).await?.into_iter().map(result).collect())
}
