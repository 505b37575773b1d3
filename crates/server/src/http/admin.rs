//! The admin API (contract §9): for services and operators, on its own listener, with an API key.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use drawbridge_engine::class::Class;
use drawbridge_engine::io::{
    MAX_IDEMPOTENCY_KEY_BYTES, PlayerAction, PlayerCommand, PublishFailure, QuestionKind,
};
use drawbridge_protocol::event::Envelope;
use drawbridge_protocol::json::{self, JsonKind, Value};
use drawbridge_protocol::{ErrorCode, MAX_DATA_DEPTH, channel};
use http::{HeaderMap, StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;

use super::history;
use super::listener::accept;
use super::pages;
use super::reads;
use super::write_timeout::WriteTimeout;
use crate::broker::Audience;
use crate::bus::EventRefused;
use crate::clock::unix_ms;
use crate::cluster_reads::Collector;
use crate::log::Sparse;
use crate::node::Node;
use crate::object;
use crate::player_command::{self, check_view};
use crate::refusals::Reason;

/// Beside the payload: names, tags and JSON.
const BODY_OVERHEAD_BYTES: usize = 16 * 1024;

pub(super) type Shared = State<Arc<Node>>;
pub(super) type Answer = Result<Response, ApiError>;

/// How long a connection may take for a request's head, the wait for the next one included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may leave an answer unread when its buffers are full.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until the process ends.
pub(crate) async fn run(node: Arc<Node>, listener: tokio::net::TcpListener) {
    let router = router(node.clone());
    let mut failures = Sparse::default();
    loop {
        let (stream, peer) = accept(&listener, &mut failures).await;
        let Some(share) = node.admin_connections.take(Some(peer.ip())) else {
            node.refusals.refuse(Reason::Admin, |unlogged| {
                let (taken, config) =
                    (node.admin_connections.taken(), "none: close connections that are not used");
                tracing::warn!(reason = "admin", %peer, taken, config, unlogged, "connection_refused");
            });
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(WriteTimeout::new(stream, WRITE_TIMEOUT)), service);
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%peer, %error, "an admin connection ended early");
            }
            drop(share);
        });
    }
}

/// `dev` shows its key on a page: it answers no request that may come from a page elsewhere.
async fn require_local_host(State(node): Shared, request: Request, next: Next) -> Response {
    match pages::foreign_host(&node, request.headers()) {
        Some(refused) => refused.into_response(),
        None => next.run(request).await,
    }
}

/// Reads the body within [`BODY_TIMEOUT`], before a handler waits for it.
async fn read_body(State(node): Shared, request: Request, next: Next) -> Answer {
    let (parts, body) = request.into_parts();
    let too_large =
        || ApiError::code(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, "over external_bytes");
    let reading = axum::body::to_bytes(body, body_bytes(&node));
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(bytes)) => Ok(next.run(Request::from_parts(parts, bytes.into())).await),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let text = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
            Err(ApiError::code(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadMessage, text))
        }
    }
}

/// The longest body of a request.
fn body_bytes(node: &Node) -> usize {
    node.config.broker.external_bytes + BODY_OVERHEAD_BYTES
}

fn router(node: Arc<Node>) -> Router {
    let api = Router::new()
        .route("/api/publish", post(publish))
        .route("/api/players/{player}/subscribe", post(subscribe))
        .route("/api/players/{player}/unsubscribe", post(unsubscribe))
        .route("/api/players/{player}/disconnect", post(disconnect))
        .route("/api/players/{player}/view", post(view))
        .route("/api/players/{player}", get(reads::player))
        .route("/api/rooms/{room}/signal", post(not_built))
        .route("/api/rooms", get(not_built))
        .route("/api/channels", get(reads::channels))
        .route("/api/channels/{channel}/presence", get(reads::presence))
        .route("/api/channels/{channel}/history", get(history::page))
        .route("/api/nodes", get(reads::nodes))
        .layer(middleware::from_fn_with_state(node.clone(), read_body))
        .layer(middleware::from_fn_with_state(node.clone(), require_key));
    Router::new()
        .merge(api)
        .route("/api/openapi.json", get(openapi))
        .route("/healthz", get(async || pages::text(StatusCode::OK, "ok\n")))
        .route("/readyz", get(async |State(node): Shared| pages::ready(&node, Audience::Operators)))
        .route(
            "/metrics",
            get(async |State(node): Shared, headers: HeaderMap| pages::metrics(&node, &headers).await),
        )
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "not with this method")
        })
        .layer(DefaultBodyLimit::max(body_bytes(&node)))
        .layer(middleware::from_fn_with_state(node.clone(), require_local_host))
        .with_state(node)
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

async fn require_key(State(node): Shared, request: Request, next: Next) -> Answer {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match (given, &node.config.admin) {
        (Some((_, key)), Some(admin)) if admin.api_key.current().matches(key.trim()) => {
            Ok(next.run(request).await)
        }
        _ => Err(ApiError::code(
            StatusCode::UNAUTHORIZED,
            ErrorCode::Unauthenticated,
            "Authorization: Bearer with the admin API key is needed",
        )),
    }
}

async fn publish(State(node): Shared, body: Bytes) -> Answer {
    let [channel, event, data, tags, key, idempotency_key] =
        body_of(&body, ["channel", "event", "data", "tags", "key", "idempotency_key"])?;
    let channel = object::needed("channel", channel).map_err(bad_request)?;
    check_channel(&node, &channel, false)?;
    let name = object::needed("event", event).map_err(bad_request)?;
    let class = node.config.engine.classes.of_channel(&channel).map(|(_, class, _)| class);
    let once = object::string("idempotency_key", idempotency_key).map_err(bad_request)?;
    if let Some(key) = &once {
        check_idempotency_key(class, key)?;
    }
    let tags = tags.filter(|tags| tags.kind != JsonKind::Null);
    if tags.is_some_and(|tags| tags.kind != JsonKind::Object) {
        return Err(bad_request("`tags`: expected an object"));
    }
    for (name, value) in [("data", data), ("tags", tags)] {
        if value.is_some_and(|value| value.depth > MAX_DATA_DEPTH) {
            return Err(bad_request(format!("`{name}`: at most {MAX_DATA_DEPTH} deep")));
        }
    }
    let key = key_of(key).map_err(bad_request)?;
    let event = Envelope {
        event: &name,
        data: data.map_or("null", |data| data.text),
        is_base64: false,
        from: None,
        tags: tags.map(|tags| tags.text),
        key: key.as_deref(),
        ts: Some(unix_ms()),
        id: Some(&format!("db1.{}.{}", node.config.node, node.bus.next_id())),
    };
    let external_bytes = node.config.broker.external_bytes;
    let mut answer = serde_json::json!({ "channel": channel });
    match node.bus.publish_event(class, &channel, &event, once.as_deref(), external_bytes).await {
        Err(EventRefused::Broker(PublishFailure::OnlyLocal)) => answer["local"] = true.into(),
        done => {
            if let Some(position) = done? {
                answer["offset"] = position.offset.0.into();
                answer["epoch"] = position.epoch.as_str().into();
            }
        }
    }
    Ok(axum::Json(answer).into_response())
}

/// Whether a repeat of what has this key can be recognised.
fn check_idempotency_key(class: Option<&Class>, key: &str) -> Result<(), ApiError> {
    if class.is_none_or(|class| class.history.is_none()) {
        return Err(unsupported(
            "idempotency_key: this channel is not logged, so a repeat cannot be recognised",
        ));
    }
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return Err(bad_request(format!(
            "`idempotency_key`: must have 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes"
        )));
    }
    Ok(())
}

/// The entity's key: a number counts as its decimal text.
fn key_of(member: Option<Value<'_>>) -> Result<Option<Cow<'_, str>>, String> {
    match member {
        Some(number) if number.kind == JsonKind::Number => Ok(Some(json::decimal_text(number.text))),
        other => object::string("key", other),
    }
}

async fn subscribe(State(node): Shared, Path(player): Path<String>, body: Bytes) -> Answer {
    let channel = channel_of(&node, &body)?;
    command(&node, player, PlayerAction::Subscribe { channel }).await
}

async fn unsubscribe(State(node): Shared, Path(player): Path<String>, body: Bytes) -> Answer {
    let channel = channel_of(&node, &body)?;
    command(&node, player, PlayerAction::Unsubscribe { channel }).await
}

/// The channel or pattern that a body names.
fn channel_of(node: &Node, body: &[u8]) -> Result<Arc<str>, ApiError> {
    let [channel] = body_of(body, ["channel"])?;
    let channel = object::needed("channel", channel).map_err(bad_request)?;
    check_channel(node, &channel, true)?;
    Ok(channel.into())
}

/// What a player is shown of a channel is narrowed, or no longer.
async fn view(State(node): Shared, Path(player): Path<String>, body: Bytes) -> Answer {
    player_command::check_player(&player).map_err(bad_request)?;
    let [channel, view] = body_of(&body, ["channel", "view"])?;
    let channel = object::needed("channel", channel).map_err(bad_request)?;
    check_channel(&node, &channel, false)?;
    let view = player_command::view_of(view).map_err(bad_request)?;
    if let Some(view) = &view {
        check_view(view).map_err(|error| ApiError {
            position: Some(error.position),
            hint: error.hint.clone(),
            ..ApiError::code(StatusCode::BAD_REQUEST, ErrorCode::FilterInvalid, format!("view: {error}"))
        })?;
    }
    let name: Arc<str> = player.as_str().into();
    let question = node.bus.ask(QuestionKind::Player { player: name.clone() }).await?;
    node.bus.set_view(name, channel.into(), view).await?;
    reached(&player, question).await
}

async fn disconnect(State(node): Shared, Path(player): Path<String>, body: Bytes) -> Answer {
    let [reason] = if body.is_empty() { [None] } else { body_of(&body, ["reason"])? };
    let reason = object::string("reason", reason).map_err(bad_request)?.map(Into::into);
    command(&node, player, PlayerAction::Disconnect { reason }).await
}

async fn command(node: &Node, player: String, action: PlayerAction) -> Answer {
    player_command::check_player(&player).map_err(bad_request)?;
    let command = PlayerCommand { player: player.as_str().into(), action };
    player_command::check(&command).map_err(bad_request)?;
    // Before the command: it reaches the sessions that are there now, and may end them.
    let question = node.bus.ask(QuestionKind::Player { player: command.player.clone() }).await?;
    node.bus.command(&command).await?;
    reached(&player, question).await
}

/// How many sessions a command reached, on the nodes that have answered; or why that is not known. The command is done in any
/// case.
async fn reached(player: &str, question: Collector<'_>) -> Answer {
    let answer = match question.collect().await {
        Ok(collected) => {
            let (reached, nodes) = (collected.items().count(), collected.completeness());
            serde_json::json!({ "player": player, "reached": reached, "nodes": nodes })
        }
        Err(failure) => {
            let problem = ApiError::from(failure).message;
            serde_json::json!({ "player": player, "reached": null, "nodes": null, "problem": problem })
        }
    };
    Ok(axum::Json(answer).into_response())
}

async fn not_built() -> ApiError {
    unsupported("this part of the API is not supported by this server")
}

/// The members of a body by these names.
fn body_of<'b, const N: usize>(body: &'b [u8], names: [&str; N]) -> Result<[Option<Value<'b>>; N], ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| bad_request("the body: not UTF-8"))?;
    object::members(text, names).map_err(|problem| bad_request(format!("the body: {problem}")))
}

pub(super) fn check_channel(node: &Node, name: &str, pattern_allowed: bool) -> Result<(), ApiError> {
    let pattern = channel::is_pattern(name) && pattern_allowed;
    let valid = if pattern { channel::validate_pattern(name) } else { channel::validate(name) };
    valid.map_err(|error| {
        ApiError::code(StatusCode::BAD_REQUEST, ErrorCode::ChannelInvalid, format!("channel: {error}"))
    })?;
    let forbidden = |text| Err(ApiError::code(StatusCode::FORBIDDEN, ErrorCode::Forbidden, text));
    let settings = &node.config.engine;
    if settings.reserved.holds(name) {
        return forbidden("channel: this name is the server's own");
    }
    if pattern && settings.classes.of_pattern(name).is_none_or(|(_, class)| !class.patterns) {
        return forbidden("channel: no class with `patterns = true` has this pattern");
    }
    Ok(())
}

/// What went wrong, with the code of the wire contract where it has one.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    outcome: Option<&'static str>,
    /// Of an expression: where it is wrong, in bytes, and what would be right.
    position: Option<usize>,
    hint: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, code, message: message.into(), outcome: None, position: None, hint: None }
    }

    pub(super) fn code(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(status, code.as_str(), message)
    }
}

pub(super) fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::code(StatusCode::BAD_REQUEST, ErrorCode::BadMessage, message)
}

pub(super) fn unsupported(message: &str) -> ApiError {
    ApiError::code(StatusCode::NOT_IMPLEMENTED, ErrorCode::Unsupported, message)
}

impl From<EventRefused> for ApiError {
    fn from(refused: EventRefused) -> Self {
        match refused {
            EventRefused::Bad(text) => bad_request(text),
            EventRefused::TooLarge => {
                ApiError::code(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, "over external_bytes")
            }
            EventRefused::Broker(failure) => failure.into(),
        }
    }
}

impl From<PublishFailure> for ApiError {
    fn from(failure: PublishFailure) -> Self {
        let unavailable = |outcome, message: &str| ApiError {
            outcome: Some(outcome),
            ..ApiError::code(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::BrokerUnavailable, message)
        };
        match failure {
            // Events are answered with it; no command is for one node alone.
            PublishFailure::NotDone | PublishFailure::OnlyLocal => unavailable("not_done", "Redis is away"),
            PublishFailure::OverShare { bytes } => unavailable(
                "not_done",
                &format!(
                    "too many publishes of services wait for Redis: together they may have {bytes} bytes in the queue"
                ),
            ),
            // Of sessions alone.
            PublishFailure::TakenOver(_) | PublishFailure::Unknown => {
                unavailable("unknown", "Redis did not answer: it may have happened or not")
            }
            PublishFailure::LimitExceeded => ApiError::code(
                StatusCode::CONFLICT,
                ErrorCode::LimitExceeded,
                "there are as many as there may be",
            ),
            PublishFailure::Refused(reason) => ApiError::code(
                StatusCode::BAD_GATEWAY,
                ErrorCode::BrokerRefused,
                format!("Redis refused: {reason}"),
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = serde_json::json!({ "code": self.code, "message": self.message });
        if let Some(outcome) = self.outcome {
            error["outcome"] = outcome.into();
        }
        if let Some(position) = self.position {
            error["position"] = position.into();
        }
        if let Some(hint) = self.hint {
            error["hint"] = hint.into();
        }
        (self.status, axum::Json(serde_json::json!({ "error": error }))).into_response()
    }
}
