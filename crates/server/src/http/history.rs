//! `GET /api/channels/{channel}/history`: a page of a channel's log, as operators and services read it: no view applies.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use drawbridge_engine::class::Class;
use drawbridge_engine::io::{Answer, Epoch, LogPosition, LogReader, LoggedOffset, PublishFailure, QueryKind};
use drawbridge_engine::upstream::{Cursor, LogRange, StoredLog};
use drawbridge_protocol::ErrorCode;
use drawbridge_protocol::event::{Event, Payload};
use http::{StatusCode, header};
use serde_json::json;

use super::admin::{Answer as Response, ApiError, Shared, bad_request, check_channel, unsupported};
use crate::node::Node;

/// Events of a page, by default and at most.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;
/// What the events of a page take together, about, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// No log has a larger offset.
const MAX_OFFSET: u64 = (1 << 53) - 1;

/// The names of the parameters.
const PARAMETERS: [&str; 3] = ["limit", "since_epoch", "since_offset"];

/// A page of a log.
pub(super) async fn page(
    State(node): Shared,
    Path(channel): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    check_channel(&node, &channel, false)?;
    let class = node.config.engine.classes.of_channel(&channel).map(|(_, class, _)| class);
    let Some(class) = class.filter(|class| class.history.is_some()) else {
        return Err(unsupported("the channel's class has no history"));
    };
    let wanted = Wanted::read(&parameters)?;
    let channel: Arc<str> = channel.into();
    let (log, has_gap) = read(&node, &channel, &wanted).await?;
    let text = show(class, &channel, &log, has_gap);
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// Which page.
struct Wanted {
    limit: usize,
    /// The events behind this position; `None`: the newest. An epoch that is no epoch is one that no log knows.
    since: Option<(Option<Epoch>, LoggedOffset)>,
}

impl Wanted {
    fn read(parameters: &[(String, String)]) -> Result<Self, ApiError> {
        if let Some((name, _)) = parameters.iter().find(|(name, _)| !PARAMETERS.contains(&name.as_str())) {
            return Err(bad_request(format!(
                "`{name}` is no parameter; there are {}",
                PARAMETERS.join(", ")
            )));
        }
        let text =
            |name: &str| parameters.iter().rev().find(|(given, _)| given == name).map(|(_, text)| &**text);
        let number = |name: &str| {
            let number = |text: &str| {
                text.parse::<u64>().map_err(|_| bad_request(format!("`{name}`: expected a whole number")))
            };
            text(name).map(number).transpose()
        };
        let limit = number("limit")?.map_or(LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(bad_request(format!("`limit`: must be 1 to {MAX_LIMIT}")));
        }
        let since = match (text("since_epoch"), number("since_offset")?) {
            (None, None) => None,
            (Some(_), Some(offset)) if offset > MAX_OFFSET => {
                return Err(bad_request(format!("`since_offset`: must be at most {MAX_OFFSET}")));
            }
            (Some(epoch), Some(offset)) => Some((Epoch::parse(epoch), LoggedOffset(offset))),
            _ => {
                return Err(bad_request(
                    "`since_epoch` and `since_offset` go together: they are one position",
                ));
            }
        };
        Ok(Wanted { limit, since })
    }
}

/// The log with the events of this page, and whether some before them are missing.
async fn read(node: &Node, channel: &Arc<str>, wanted: &Wanted) -> Result<(StoredLog, bool), ApiError> {
    let Some((epoch, offset)) = wanted.since else {
        return Ok((part(node, channel, LogRange::Newest, wanted.limit).await?, false));
    };
    let log = part(node, channel, LogRange::After(offset), wanted.limit).await?;
    let cursor = epoch.map_or(Cursor::Unknown, |epoch| log.cursor(LogPosition { epoch, offset }));
    match cursor {
        Cursor::Continues => Ok((log, false)),
        Cursor::Gap => Ok((log, true)),
        Cursor::Unknown => {
            Ok((part(node, channel, LogRange::After(LoggedOffset(0)), wanted.limit).await?, true))
        }
    }
}

async fn part(node: &Node, channel: &Arc<str>, range: LogRange, limit: usize) -> Result<StoredLog, ApiError> {
    let reader = LogReader::Request { max_bytes: MAX_BYTES };
    match node.bus.query(QueryKind::Log { channel: channel.clone(), range, limit, reader }).await {
        Some(Ok(Answer::Log(log))) => Ok(log),
        Some(Err(reason)) => Err(ApiError::code(
            StatusCode::BAD_GATEWAY,
            ErrorCode::BrokerRefused,
            format!("Redis refused: {reason}"),
        )),
        Some(Ok(_)) | None => Err(PublishFailure::NotDone.into()),
    }
}

/// The page as JSON: the events are passed on byte for byte.
fn show(class: &Class, channel: &str, log: &StoredLog, has_gap: bool) -> String {
    let event = |stored: &drawbridge_engine::upstream::StoredLogEvent| {
        let payload = Payload::read(&stored.payload, class.payload).ok()?;
        Some(Event::new(&payload, channel, Some(stored.offset.0)).json().to_owned())
    };
    let events: Vec<String> = log.events.iter().filter_map(event).collect();
    let mut rest =
        json!({ "channel": channel, "epoch": log.last.epoch.as_str(), "offset": log.last.offset.0 });
    if has_gap {
        rest["gap"] = true.into();
    }
    if let Some(last) = log.events.last().filter(|last| last.offset < log.last.offset) {
        rest["next"] = json!({ "epoch": log.epoch_of(last.offset).as_str(), "offset": last.offset.0 });
    }
    let rest = rest.to_string();
    format!("{{\"events\":[{}],{}", events.join(","), rest.trim_start_matches('{'))
}
