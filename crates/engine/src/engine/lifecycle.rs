//! The lifecycle stream: what other services learn of players coming and going (contract §2).

use bytes::Bytes;

use super::Engine;
use crate::io::{BrokerCommand, Output, Owner, SessionId, WhenDown, Write, WriteKind};
use crate::session::{Before, Session};

impl Engine {
    pub(super) fn record_connected(&mut self, id: SessionId) {
        let entry = self.entry(&self.sessions[id], "connected", "", None);
        self.out.outputs.extend(entry);
    }

    pub(super) fn record_resumed(&mut self, id: SessionId) {
        let entry = self.entry(&self.sessions[id], "resumed", "", None);
        self.out.outputs.extend(entry);
    }

    /// A connection that was welcomed is gone; its session may be resumed.
    pub(super) fn record_disconnected(&mut self, id: SessionId, code: u16, reason: &str) {
        let entry = self.entry(&self.sessions[id], "disconnected", reason, Some(code));
        self.out.outputs.extend(entry);
    }

    /// A session has ended here, and its connection, if it had one. One that was claimed lives on elsewhere.
    pub(super) fn record_end(&mut self, session: &Session, before: Before, code: u16, reason: &str) {
        let code = (before == Before::Open).then_some(code);
        let disconnected = code.and_then(|code| self.entry(session, "disconnected", reason, Some(code)));
        self.out.outputs.extend(disconnected);
        if before != Before::Welcome && !session.record.is_moved {
            let left = self.entry(session, "left", reason, code);
            self.out.outputs.extend(left);
        }
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
            ("session", text(session.hash.to_string())),
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
