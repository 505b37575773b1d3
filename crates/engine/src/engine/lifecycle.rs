//! The lifecycle stream: what other services learn of players coming and going (contract §2).

use bytes::Bytes;

use super::Engine;
use crate::connection::Connection;
use crate::io::{BrokerCommand, ConnId, Output, Owner, WhenDown, Write, WriteKind};

impl Engine {
    pub(super) fn tell_connected(&mut self, id: ConnId) {
        if let Some(conn) = self.connections.get(id) {
            let entry = self.entry(conn, "connected", "", None);
            self.outputs.extend(entry);
        }
    }

    /// A connection that was welcomed is gone, and, as long as sessions do not outlive connections, so is the player.
    pub(super) fn tell_left(&mut self, conn: &Connection, code: u16, reason: &str) {
        let disconnected = self.entry(conn, "disconnected", reason, Some(code));
        let left = self.entry(conn, "left", reason, Some(code));
        self.outputs.extend(disconnected);
        self.outputs.extend(left);
    }

    fn entry(
        &self,
        conn: &Connection,
        event: &'static str,
        reason: &str,
        code: Option<u16>,
    ) -> Option<Output> {
        let stream = self.settings.lifecycle_stream.clone()?;
        let text = |text: String| Bytes::from(text);
        let fields = vec![
            ("event", Bytes::from_static(event.as_bytes())),
            ("player", text(conn.player()?.to_string())),
            ("connection", text(conn.public_name())),
            ("session", text(conn.session_name())),
            ("node", text(self.settings.node.to_string())),
            ("reason", text(reason.to_owned())),
            ("code", text(code.map(|code| code.to_string()).unwrap_or_default())),
            ("ts", text(self.now.unix_ms.to_string())),
        ];
        Some(Output::Broker(BrokerCommand::Write(Write {
            ticket: None,
            owner: Owner::Lifecycle,
            when_down: WhenDown::Queue,
            kind: WriteKind::Append { stream, fields },
        })))
    }
}
