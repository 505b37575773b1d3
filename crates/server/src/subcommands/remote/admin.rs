//! The admin API of a node: one request, and its answer.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::unreachable_node;
use crate::https;

/// Of an answer; more is never read.
const MAX_BODY_BYTES: u64 = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes by `POST /api/publish`; returns the answer.
///
/// # Errors
/// Why it was not published, in the words of the node.
pub(in crate::subcommands) fn publish(
    base: &str,
    api_key: &str,
    ca_file: Option<&Path>,
    body: &str,
) -> Result<Value, String> {
    if !base.starts_with("http://") && !base.starts_with("https://") {
        return Err(format!(
            "{base}: with --api-key the URL is that of a node's admin listener, such as http://127.0.0.1:8001"
        ));
    }
    let url = format!("{}/api/publish", base.trim_end_matches('/'));
    let failed = |error: ureq::Error| match error {
        ureq::Error::Io(error) => format!("{url}: {}", unreachable_node(&error)),
        error => format!("{url}: {error}"),
    };
    let roots = match url.starts_with("https://") {
        true => https::roots(ca_file)?,
        false => Vec::new(),
    };
    let request = https::agent(&url, roots, TIMEOUT).post(&url);
    let request = request.config().http_status_as_error(false).build();
    let request = request.header("authorization", &format!("Bearer {api_key}"));
    let mut response = request.header("content-type", "application/json").send(body).map_err(failed)?;
    let text = response.body_mut().with_config().limit(MAX_BODY_BYTES).read_to_string().map_err(failed)?;
    let status = response.status();
    match serde_json::from_str::<Value>(&text) {
        Ok(answer) if status.is_success() => Ok(answer),
        Ok(answer) => Err(format!("{url}: {status}: {}", message_of(&answer).unwrap_or(&text))),
        Err(_) => Err(format!("{url}: {status}; is this the address of a node's admin listener?")),
    }
}

fn message_of(answer: &Value) -> Option<&str> {
    let error = answer.get("error").unwrap_or(answer);
    error.get("message")?.as_str()
}
