//! The admin API's reads of the whole cluster (contract §9): channels, who is present, a player's sessions, the nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use drawbridge_engine::class::Presence;
use drawbridge_engine::io::{MAX_CHANNELS, QuestionKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{ApiError, bad_request, check_channel, unsupported};
use crate::cluster_reads::Collected;
use crate::node::Node;
use crate::player_command;

/// Without `limit`.
const DEFAULT_LIMIT: usize = 100;

type Shared = State<Arc<Node>>;
type Answer = Result<Response, ApiError>;

/// Which page is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct PageQuery {
    after: Option<String>,
    limit: Option<String>,
}

impl PageQuery {
    fn limit(&self) -> Result<usize, ApiError> {
        let Some(limit) = &self.limit else { return Ok(DEFAULT_LIMIT) };
        match limit.parse::<usize>() {
            Ok(limit) if limit > 0 => Ok(limit.min(MAX_CHANNELS)),
            _ => Err(bad_request(format!("`limit`: an integer from 1 to {MAX_CHANNELS}"))),
        }
    }
}

/// `GET /api/channels/{channel}/presence`.
pub(super) async fn presence(
    State(node): Shared,
    Path(channel): Path<String>,
    Query(query): Query<PageQuery>,
) -> Answer {
    check_channel(&node, &channel, false)?;
    let class = node.config.engine.classes.of_channel(&channel);
    if class.is_none_or(|(_, class, _)| class.presence == Presence::Off) {
        return Err(unsupported("the channel's class has no `presence`"));
    }
    let page = node.bus.presence(&channel, query.after.as_deref(), query.limit()?).await?;
    let next = page.players.last().filter(|_| page.has_more).map(|(player, _)| player.to_string());
    let player =
        |(player, connections): &(Arc<str>, u64)| json!({ "player": &**player, "connections": connections });
    let players: Vec<Value> = page.players.iter().map(player).collect();
    let mut answer = json!({ "channel": channel, "players": players, "total": page.total });
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(axum::Json(answer).into_response())
}

/// `GET /api/players/{player}`.
pub(super) async fn player(State(node): Shared, Path(player): Path<String>) -> Answer {
    player_command::check_player(&player).map_err(bad_request)?;
    let question = QuestionKind::Player { player: player.as_str().into() };
    let collected = node.bus.ask(question).await?.collect().await?;
    let sessions: Vec<&Value> = collected.items().collect();
    let mut answer = json!({ "player": player, "sessions": sessions, "nodes": collected.completeness() });
    if collected.has_more() {
        answer["more"] = true.into();
    }
    Ok(axum::Json(answer).into_response())
}

/// `GET /api/channels`.
pub(super) async fn channels(State(node): Shared, Query(query): Query<PageQuery>) -> Answer {
    let limit = query.limit()?;
    let question = QuestionKind::Channels { after: query.after.map(Into::into), limit };
    let collected = node.bus.ask(question).await?.collect().await?;
    let (channels, next) = merged(&collected, limit);
    let channel =
        |(channel, subscribers): &(String, u64)| json!({ "channel": channel, "subscribers": subscribers });
    let page: Vec<Value> = channels.iter().map(channel).collect();
    let mut answer = json!({ "channels": page, "nodes": collected.completeness() });
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(axum::Json(answer).into_response())
}

/// The first channels of all answers with all of their subscribers, and the last of them where more follow.
///
/// Why the bound: a shard whose answer was cut may have more subscribers of whatever is behind its last channel.
fn merged(collected: &Collected, limit: usize) -> (Vec<(String, u64)>, Option<String>) {
    let items = |answer: &Value| answer["items"].as_array().cloned().unwrap_or_default();
    let name = |item: &Value| item[0].as_str().unwrap_or_default().to_owned();
    let cut = collected.answers.iter().filter(|answer| answer["more"] == true);
    let bound = cut.filter_map(|answer| items(answer).last().map(name)).min();
    let mut channels = BTreeMap::<String, u64>::new();
    for item in collected.answers.iter().flat_map(items) {
        *channels.entry(name(&item)).or_default() += item[1].as_u64().unwrap_or(0);
    }
    let all = channels.len();
    let is_known = |channel: &String| bound.as_ref().is_none_or(|bound| channel <= bound);
    let page: Vec<_> = channels.into_iter().filter(|(channel, _)| is_known(channel)).take(limit).collect();
    let next =
        page.last().filter(|_| page.len() < all || bound.is_some()).map(|(channel, _)| channel.clone());
    (page, next)
}

/// `GET /api/nodes`.
pub(super) async fn nodes(State(node): Shared) -> Answer {
    let nodes = node.bus.live_nodes().await?;
    let shown = |live: drawbridge_engine::io::LiveNode| {
        let mut shown = json!({ "instance": &*live.instance, "lease_age_ms": live.age_ms });
        if let (Ok(Value::Object(about)), Some(shown)) =
            (serde_json::from_str(&live.about), shown.as_object_mut())
        {
            shown.extend(about);
        }
        shown
    };
    let nodes: Vec<Value> = nodes.into_iter().map(shown).collect();
    Ok(axum::Json(json!({ "nodes": nodes })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(answers: &[(Value, bool)]) -> Collected {
        let answers = answers.iter().map(|(items, more)| json!({ "items": items, "more": more })).collect();
        Collected { answers, answered: 1, nodes: 1 }
    }

    #[test]
    fn channels_of_all_shards_are_counted_together() {
        let all = collected(&[
            (json!([["a", 1], ["c", 2]]), false),
            (json!([["a", 3], ["b", 1]]), false),
            (json!([]), false),
        ]);
        let three = vec![("a".to_owned(), 4), ("b".to_owned(), 1), ("c".to_owned(), 2)];
        assert_eq!(merged(&all, 9), (three.clone(), None));
        assert_eq!(merged(&all, 3), (three.clone(), None));
        assert_eq!(merged(&all, 2), (three[..2].to_vec(), Some("b".to_owned())));
    }

    #[test]
    fn nothing_behind_the_end_of_a_cut_answer_is_shown() {
        let cut = collected(&[(json!([["a", 1], ["b", 1]]), true), (json!([["a", 1], ["c", 5]]), false)]);
        let known = vec![("a".to_owned(), 2), ("b".to_owned(), 1)];
        assert_eq!(merged(&cut, 2), (known, Some("b".to_owned())));
    }
}
