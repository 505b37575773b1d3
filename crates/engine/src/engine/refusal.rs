//! Why a request is refused, as its client is answered, and what the operator reads of it.

use drawbridge_protocol::{ErrorCode, ErrorMessage, RequestId};

use super::Engine;
use crate::io::{Notice, SessionId};
use crate::permissions::Denied;

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

    /// With the reason, which [`Engine::denied`] keeps from clients.
    pub(super) fn forbidden(Denied(why): Denied) -> Self {
        Refusal::new(ErrorCode::Forbidden, why)
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

impl Engine {
    /// A refusal as the client is sent it. If it is about a right, the reason is for the operator, and for the client only where
    /// the settings explain. `request` is the type of the message.
    pub(super) fn denied(
        &mut self,
        id: SessionId,
        request: &'static str,
        channel: &str,
        refusal: Refusal,
    ) -> Refusal {
        let player = self.sessions[id].player().cloned();
        let Some(player) = player.filter(|_| refusal.code == ErrorCode::Forbidden) else { return refusal };
        let (channel, why) = (channel.to_owned(), refusal.text.clone());
        self.notice(Notice::AccessDenied { player, request, channel, why });
        match self.settings.explain {
            true => refusal,
            false => Refusal { text: "not allowed".to_owned(), ..refusal },
        }
    }
}
