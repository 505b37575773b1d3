//! Why a request is refused, as its client is answered.

use drawbridge_protocol::{ErrorCode, ErrorMessage, RequestId};

/// A request that cannot be granted.
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) text: String,
    pub(super) position: Option<u64>,
    pub(super) hint: Option<String>,
    /// When the same request would be granted, with `RATE_LIMITED`.
    pub(super) retry_after_ms: Option<u64>,
    /// Refused too often for too long: the connection is closed with 4504.
    pub(super) is_abuse: bool,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Refusal { code, text: text.into(), position: None, hint: None, retry_after_ms: None, is_abuse: false }
    }

    /// As the client gets it.
    pub(super) fn error<'a>(
        &'a self,
        request: Option<&'a RequestId>,
        channel: Option<&'a str>,
    ) -> ErrorMessage<'a> {
        ErrorMessage {
            id: request,
            channel,
            position: self.position,
            hint: self.hint.as_deref(),
            retry_after_ms: self.retry_after_ms,
            ..ErrorMessage::new(self.code, &self.text)
        }
    }
}
