//! A client's publish (contract §4): judged, handed to the broker, and acknowledged when Redis has it.

use std::sync::Arc;

use bytes::Bytes;
use drawbridge_protocol::event::Envelope;
use drawbridge_protocol::template::Params;
use drawbridge_protocol::{ErrorCode, ErrorMessage, Publish, RequestId, ServerMessage, channel};

use super::Engine;
use crate::class::Class;
use crate::io::{BrokerCommand, BrokerStatus, ConnId, Output, PublishFailure, Sender, Ticket, WhenDown};
use crate::permissions;

/// A publish whose answer is out.
#[derive(Debug)]
pub(super) struct InFlight {
    conn: ConnId,
    request: Option<RequestId>,
    channel: Arc<str>,
}

impl Engine {
    pub(super) fn publish(&mut self, id: ConnId, request: Option<RequestId>, publish: &Publish) {
        match self.judge_publish(id, request.as_ref(), publish) {
            Ok(command) => {
                let channel = publish.channel.as_str().into();
                self.tickets.insert(Ticket(self.next_ticket), InFlight { conn: id, request, channel });
                self.outputs.push_back(Output::Broker(command));
            }
            Err((code, text)) => {
                let outcome = (code == ErrorCode::BrokerUnavailable).then_some("not_done");
                self.send_error(
                    id,
                    ErrorMessage {
                        id: request.as_ref(),
                        channel: Some(&publish.channel),
                        outcome,
                        ..ErrorMessage::new(code, &text)
                    },
                );
            }
        }
    }

    /// The checks that follow those of size and rate, in the contract's order.
    fn judge_publish(
        &mut self,
        id: ConnId,
        request: Option<&RequestId>,
        publish: &Publish,
    ) -> Result<BrokerCommand, (ErrorCode, String)> {
        channel::validate(&publish.channel)
            .map_err(|error| (ErrorCode::ChannelInvalid, format!("channel: {error}")))?;
        let conn =
            self.connections.get(id).ok_or((ErrorCode::Internal, "the connection is gone".to_owned()))?;
        let claims = conn.claims.as_ref().ok_or((ErrorCode::Unauthenticated, "no token yet".to_owned()))?;
        let settings = self.settings.clone();
        let (_, class, params) = permissions::may_publish(
            &settings,
            claims,
            &publish.channel,
            &publish.event,
            publish.data.get(),
            publish.key.as_deref(),
        )
        .map_err(|denied| (ErrorCode::Forbidden, self.explain(denied)))?;
        if publish.idempotency_key.is_some() {
            let text = "idempotency_key: this channel is not logged, so a repeat cannot be recognised";
            return Err((ErrorCode::Unsupported, text.to_owned()));
        }
        if class.when_broker_down == WhenDown::Reject && self.status == BrokerStatus::Degraded {
            return Err((ErrorCode::BrokerUnavailable, "Redis is away".to_owned()));
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.broker_command(id, ticket, request, publish, class, &params)
            .ok_or((ErrorCode::Internal, "the class's `forward` could not be filled".to_owned()))
            .and_then(|command| self.check_command(command))
    }

    /// What the broker would drop, or what would write under our own keys, is refused here.
    fn check_command(&self, command: BrokerCommand) -> Result<BrokerCommand, (ErrorCode, String)> {
        match &command {
            BrokerCommand::Publish { payload, .. } if payload.len() > self.settings.external_bytes => {
                let text =
                    format!("an event may have {} bytes, with its envelope", self.settings.external_bytes);
                Err((ErrorCode::TooLarge, text))
            }
            BrokerCommand::Append { stream, .. } if self.settings.reserved.holds(stream) => {
                Err((ErrorCode::Forbidden, "the stream's name is the server's own".to_owned()))
            }
            _ => Ok(command),
        }
    }

    fn broker_command(
        &self,
        id: ConnId,
        ticket: Ticket,
        request: Option<&RequestId>,
        publish: &Publish,
        class: &Class,
        params: &Params<'_, '_>,
    ) -> Option<BrokerCommand> {
        let conn = self.connections.get(id)?;
        let player = conn.player()?;
        let when_down = class.when_broker_down;
        if let Some(template) = &class.forward {
            let stream = template.fill(|name| params.get(name).map(Into::into))?.into();
            let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
            let fields = vec![
                ("player", text(player)),
                ("channel", text(&publish.channel)),
                ("event", text(&publish.event)),
                ("data", text(publish.data.get())),
                ("id", request.map_or_else(Bytes::new, request_text)),
                ("connection", text(&conn.public_name())),
                ("ts", text(&self.now.unix_ms.to_string())),
            ];
            return Some(BrokerCommand::Append { ticket: Some(ticket), stream, fields, when_down });
        }
        let payload = Envelope {
            event: &publish.event,
            data: publish.data.get(),
            from: Some(player),
            tags: None,
            key: publish.key.as_deref(),
            ts: Some(self.now.unix_ms),
            id: Some(&Sender { connection: conn.connection, ticket }.to_id()),
        }
        .to_payload();
        Some(BrokerCommand::Publish { ticket, channel: publish.channel.as_str().into(), payload, when_down })
    }

    pub(super) fn publish_done(&mut self, ticket: Ticket, result: Result<(), PublishFailure>) {
        let Some(InFlight { conn: id, request, channel }) = self.tickets.remove(&ticket) else { return };
        match result.is_ok() {
            true => self.stats.published += 1,
            false => self.stats.publish_failures += 1,
        }
        let text;
        let (code, outcome, text) = match result {
            Ok(()) => {
                if let Some(request) = &request {
                    self.send(id, &ServerMessage::Published { id: request, channel: &channel, offset: None });
                }
                return;
            }
            Err(PublishFailure::NotDone) => (
                ErrorCode::BrokerUnavailable,
                Some("not_done"),
                "Redis is away and what waits for it is full or refused",
            ),
            Err(PublishFailure::Unknown) => (
                ErrorCode::BrokerUnavailable,
                Some("unknown"),
                "Redis did not answer: it may have been published or not",
            ),
            Err(PublishFailure::LimitExceeded) => {
                (ErrorCode::LimitExceeded, None, "the channel holds as many entities as it may (entity_max)")
            }
            Err(PublishFailure::Refused(reason)) => {
                text = self.refusal_text(&reason);
                (ErrorCode::BrokerRefused, None, text.as_str())
            }
        };
        self.send_error(
            id,
            ErrorMessage {
                id: request.as_ref(),
                channel: Some(&channel),
                outcome,
                ..ErrorMessage::new(code, text)
            },
        );
    }
}

/// The request's id as text, for the forwarded entry.
fn request_text(id: &RequestId) -> Bytes {
    match id {
        RequestId::Number(number) => number.to_string().into(),
        RequestId::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
    }
}
