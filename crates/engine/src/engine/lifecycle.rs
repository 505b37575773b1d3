//! The lifecycle stream: what other services learn of players coming and going (contract §2).

use bytes::Bytes;

use super::Engine;
use crate::io::{BrokerCommand, Output, Owner, SessionId, WhenDown, Write, WriteKind};
use crate::session::Session;

impl Engine {
    pub(super) fn record_connected(&mut self, id: SessionId) {
        let entry = self.entry(&self.sessions[id], "connected", "", None);
        self.out.outputs.extend(entry);
    }

    /// A connection that was welcomed is gone, and, as long as sessions do not outlive connections, so is the player.
    pub(super) fn record_left(&mut self, session: &Session, code: u16, reason: &str) {
        let disconnected = self.entry(session, "disconnected", reason, Some(code));
        let left = self.entry(session, "left", reason, Some(code));
        self.out.outputs.extend(disconnected);
        self.out.outputs.extend(left);
    }

    fn entry(
        &self,
        session: &Session,
        event: &'static str,
        reason: &str,
        code: Option<u16>,
    ) -> Option<Output> {
        let stream = self.settings.lifecycle_stream.clone()?;
        let text = |text: String| Bytes::from(text);
        let fields = vec![
            ("event", Bytes::from_static(event.as_bytes())),
            ("player", text(session.player()?.to_string())),
            ("connection", text(session.public_name())),
            ("session", text(session.session_name())),
            ("node", text(self.settings.node.to_string())),
            ("reason", text(reason.to_owned())),
            ("code", text(code.map(|code| code.to_string()).unwrap_or_default())),
            ("ts", text(self.out.now.unix_ms.to_string())),
        ];
        Some(Output::Broker(BrokerCommand::Write(Write {
            ticket: None,
            owner: Owner::Lifecycle,
            when_down: WhenDown::Queue,
            kind: WriteKind::Append { stream, fields },
        })))
    }
}
