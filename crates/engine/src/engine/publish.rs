//! A client's publish (contract §4): judged, handed to the broker, and acknowledged when Redis has it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use drawbridge_protocol::event::{BASE64_ENCODING, Envelope};
use drawbridge_protocol::template::{Params, Template};
use drawbridge_protocol::{ErrorCode, ErrorMessage, Publish, RequestId, ServerMessage, channel};

use super::Engine;
use super::refusal::Refusal;
use super::requests::covers;
use crate::class::{Class, REMOVE_EVENT};
use crate::io::{
    BrokerCommand, BrokerStatus, Claims, Commit, LogEntry, MAX_IDEMPOTENCY_KEY_BYTES, Outcome, Output, Owner,
    PublishFailure, Query, QueryKind, Sender, SessionId, Ticket, WhenDown, Write, WriteKind, once_of,
};
use crate::permissions;
use crate::session::Publishing;

/// Of so many channels a connection is remembered to have published on them.
const MAX_PUBLISHED: usize = 8;

/// A publish whose answer is out.
#[derive(Debug)]
pub(super) struct InFlight {
    session: SessionId,
    /// The connection's public name: another one of the session is not answered.
    connection: u64,
    request: Option<RequestId>,
    channel: Arc<str>,
    /// It was answered, and its event may be on its way.
    is_answered: bool,
}

impl InFlight {
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Whether this is what a session published on this channel, or a fence behind that.
    pub(super) fn is_of(&self, session: SessionId, channel: &str) -> bool {
        self.session == session && *self.channel == *channel
    }
}

impl Engine {
    /// By the claims under which it was sent; `None`: those of now.
    pub(super) fn publish(
        &mut self,
        id: SessionId,
        request: Option<RequestId>,
        publish: &Publish,
        claims: Option<Claims>,
    ) {
        let claims = claims.or_else(|| self.sessions[id].claims.clone());
        match self.authorize_publish(id, request.as_ref(), publish, claims.as_ref()) {
            Ok(write) => {
                let (ticket, channel) =
                    (Ticket(self.next_ticket), Arc::<str>::from(publish.channel.as_str()));
                let session = &mut self.sessions[id];
                let connection = session.public;
                let publishing = session.publishing.get_or_insert_default();
                publishing.in_flight.push_back((ticket, channel.clone()));
                let in_flight = InFlight { session: id, connection, request, channel, is_answered: false };
                self.tickets.insert(ticket, in_flight);
                self.out.outputs.push_back(Output::Broker(BrokerCommand::Write(write)));
            }
            Err((code, mut text)) => {
                if code == ErrorCode::Forbidden
                    && let Some(claims) = &claims
                {
                    let misfit = permissions::publish_misfit(&self.settings, claims, publish);
                    text.extend(misfit.map(|misfit| format!("; {misfit}")));
                }
                let Refusal { code, text, .. } =
                    self.denied(id, "PUBLISH_EVENT", &publish.channel, Refusal::new(code, text));
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
    fn authorize_publish(
        &mut self,
        id: SessionId,
        request: Option<&RequestId>,
        publish: &Publish,
        claims: Option<&Claims>,
    ) -> Result<Write, (ErrorCode, String)> {
        channel::validate(&publish.channel)
            .map_err(|error| (ErrorCode::ChannelInvalid, format!("channel: {error}")))?;
        let claims = claims.ok_or((ErrorCode::Unauthenticated, "no token yet".to_owned()))?;
        let settings = self.settings.clone();
        let key = permissions::key_of(&settings, publish);
        let (_, class, params) = permissions::may_publish(
            &settings,
            claims,
            &publish.channel,
            &publish.event,
            publish.data.get(),
            key.as_ref().ok().and_then(|key| key.as_deref()),
        )
        .map_err(|denied| (ErrorCode::Forbidden, denied.0))?;
        if let Some(key) = &publish.idempotency_key {
            check_idempotency_key(class, key)?;
        }
        if class.when_broker_down == WhenDown::Reject && self.status == BrokerStatus::Degraded {
            return Err((ErrorCode::BrokerUnavailable, "Redis is away".to_owned()));
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let key = class
            .required_key(&publish.event, publish.data.get(), key)
            .map_err(|text| (ErrorCode::BadMessage, text))?;
        if let Some(name) = class.forward.as_ref().and_then(|forward| runs_into_the_next(forward, &params)) {
            let text =
                format!("channel: `{{{name}}}` holds a character that ends it in the class's `forward`");
            return Err((ErrorCode::ChannelInvalid, text));
        }
        self.write_of(id, ticket, request, publish, (class, &params), key.as_deref())
            .ok_or((ErrorCode::Internal, "the class's `forward` could not be filled".to_owned()))
            .and_then(|write| self.check_write(write))
    }

    /// What the broker would drop, or what would write under our own keys, is refused here.
    fn check_write(&self, write: Write) -> Result<Write, (ErrorCode, String)> {
        let bytes = match &write.kind {
            WriteKind::Publish { payload, .. } => payload.len(),
            WriteKind::Commit { commit, .. } => commit.published_bytes(),
            WriteKind::Log { entry, .. } => entry.published_bytes(),
            _ => 0,
        };
        if bytes > self.settings.external_bytes {
            let text = format!("an event may have {} bytes, with its envelope", self.settings.external_bytes);
            return Err((ErrorCode::TooLarge, text));
        }
        match &write.kind {
            WriteKind::Append { stream, .. } if self.settings.reserved.holds(stream) => {
                Err((ErrorCode::Forbidden, "the stream's name is the server's own".to_owned()))
            }
            _ => Ok(write),
        }
    }

    fn write_of(
        &self,
        id: SessionId,
        ticket: Ticket,
        request: Option<&RequestId>,
        publish: &Publish,
        (class, params): (&Class, &Params<'_, '_>),
        key: Option<&str>,
    ) -> Option<Write> {
        let session = &self.sessions[id];
        let player = session.player()?;
        let write = |kind| Write {
            ticket: Some(ticket),
            owner: Owner::Player(player.clone()),
            when_down: class.when_broker_down,
            kind,
        };
        if let Some(template) = &class.forward {
            let stream = template.fill(|name| params.get(name).map(Into::into))?.into();
            let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
            let mut fields = vec![
                ("player", text(player)),
                ("channel", text(&publish.channel)),
                ("event", text(&publish.event)),
                ("data", text(publish.data.get())),
                ("id", request.map_or_else(Bytes::new, request_text)),
                ("connection", text(&session.public_name())),
                ("ts", text(&self.out.now.unix_ms.to_string())),
            ];
            if publish.is_base64 {
                fields.push(("encoding", text(BASE64_ENCODING)));
            }
            return Some(write(WriteKind::Append { stream, fields }));
        }
        let sender = Sender { connection: session.public, ticket }.to_id();
        let envelope = Envelope {
            event: &publish.event,
            data: publish.data.get(),
            is_base64: publish.is_base64,
            from: Some(player),
            tags: None,
            key,
            ts: Some(self.out.now.unix_ms),
            id: Some(&sender),
        };
        let channel = publish.channel.as_str().into();
        if let Some(history) = class.history {
            let entry = LogEntry {
                payload: Envelope { id: None, ..envelope }.to_payload(),
                id: sender,
                max_events: history.events,
                age_ms: history.age_ms,
                once: publish.idempotency_key.as_deref().map(|key| once_of(Some(player), key)),
            };
            return Some(write(WriteKind::Log { channel, entry }));
        }
        let (Some(rules), Some(key)) = (&class.entity, key) else {
            return Some(write(WriteKind::Publish { channel, payload: envelope.to_payload() }));
        };
        let commit = Commit {
            key: key.into(),
            remove: publish.event == REMOVE_EVENT,
            payload: Envelope { id: None, ..envelope }.to_payload(),
            id: sender.clone(),
            max: rules.max,
            max_bytes: rules.max_bytes,
            ttl_ms: rules.ttl_ms,
        };
        Some(write(WriteKind::Commit { channel, commit }))
    }

    /// A publish or a fence was answered. Behind a publish its event is still to come.
    ///
    /// Why the answered channels are kept: before a subscription changes, the session's own events on it must have come,
    /// and only a fence says when they have.
    fn complete_in_flight(&mut self, ticket: Ticket, in_flight: &InFlight) {
        let InFlight { session: id, channel, is_answered, .. } = in_flight;
        let session = &mut self.sessions[*id];
        let waits = session.deferred.is_some();
        let Publishing { in_flight: all, answered } = &mut **session.publishing.get_or_insert_default();
        // Answers come in order, except for those of different kinds.
        if let Some(at) = all.iter().position(|(other, _)| *other == ticket) {
            all.remove(at);
        }
        if all.is_empty() {
            *all = VecDeque::new();
        }
        if *is_answered {
            return;
        }
        if waits {
            self.fence(*id, channel.clone());
        } else if !answered.contains(channel) {
            if answered.len() >= MAX_PUBLISHED {
                answered.remove(0);
            }
            answered.push(channel.clone());
        }
    }

    /// Before a subscription to this name changes, what its session published is to have come.
    pub(super) fn fence_published(&mut self, id: SessionId, name: &str) {
        let mut to_come = Vec::new();
        if let Some(Publishing { answered, .. }) = self.sessions[id].publishing.as_deref_mut() {
            to_come = answered.extract_if(.., |channel| covers(name, channel)).collect();
        }
        for channel in to_come {
            self.fence(id, channel);
        }
    }

    fn fence(&mut self, id: SessionId, channel: Arc<str>) {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let session = &mut self.sessions[id];
        let connection = session.public;
        let publishing = session.publishing.get_or_insert_default();
        publishing.in_flight.push_back((ticket, channel.clone()));
        let fence =
            InFlight { session: id, connection, request: None, channel: channel.clone(), is_answered: true };
        self.tickets.insert(ticket, fence);
        let query = Query::new(ticket, QueryKind::Fence { channel });
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Query(query)));
    }

    pub(super) fn publish_done(&mut self, ticket: Ticket, result: Outcome) {
        let Some(in_flight) = self.tickets.remove(&ticket) else { return };
        // It may have ended since: what it published is carried out all the same.
        let is_there = self.sessions.get(in_flight.session).is_some();
        if is_there {
            self.complete_in_flight(ticket, &in_flight);
        }
        if in_flight.is_answered {
            if is_there {
                self.retry_deferred(in_flight.session);
            }
            return;
        }
        match result {
            Ok(_) | Err(PublishFailure::OnlyLocal) => self.out.stats.published += 1,
            Err(_) => self.out.stats.publish_failures += 1,
        }
        if is_there && self.sessions[in_flight.session].public == in_flight.connection {
            self.answer_publish(in_flight, result);
        }
    }

    fn acknowledge(
        &mut self,
        id: SessionId,
        request: Option<&RequestId>,
        channel: &str,
        offset: Option<u64>,
        is_local: bool,
    ) {
        if let Some(id_of_request) = request {
            let message = ServerMessage::Published { id: id_of_request, channel, offset, is_local };
            self.send(id, &message);
        }
    }

    /// Says what became of a publish.
    fn answer_publish(&mut self, in_flight: InFlight, result: Outcome) {
        let InFlight { session: id, request, channel, .. } = in_flight;
        let text;
        let (code, outcome, text) = match result {
            Ok(logged) => {
                let offset = logged.map(|position| position.offset.0);
                return self.acknowledge(id, request.as_ref(), &channel, offset, false);
            }
            Err(PublishFailure::OnlyLocal) => {
                return self.acknowledge(id, request.as_ref(), &channel, None, true);
            }
            Err(PublishFailure::NotDone) => (
                ErrorCode::BrokerUnavailable,
                Some("not_done"),
                "Redis is away and what waits for it is full or refused",
            ),
            Err(PublishFailure::OverShare { bytes }) => {
                text = format!(
                    "too many of your publishes wait for Redis: one player may have {bytes} bytes in the queue"
                );
                (ErrorCode::BrokerUnavailable, Some("not_done"), text.as_str())
            }
            // Of sessions alone.
            Err(PublishFailure::TakenOver(_) | PublishFailure::Unknown) => (
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

/// Whether a repeat of what has this key can be recognised.
fn check_idempotency_key(class: &Class, key: &str) -> Result<(), (ErrorCode, String)> {
    if class.history.is_none() {
        let text = "idempotency_key: this channel is not logged, so a repeat cannot be recognised";
        return Err((ErrorCode::Unsupported, text.to_owned()));
    }
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        let text = format!("idempotency_key: must have 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes");
        return Err((ErrorCode::BadMessage, text));
    }
    Ok(())
}

/// The first placeholder of a stream's name whose value would run into the next placeholder's, so that other values could make
/// the same name.
fn runs_into_the_next<'t>(forward: &'t Template, params: &Params<'_, '_>) -> Option<&'t str> {
    let next = forward.placeholders().skip(1);
    let mut followed = forward.placeholders().zip(next).map(|(name, _)| name);
    followed.find(|name| params.get(name).is_some_and(|value| forward.ends_within(name, value)))
}

/// The request's id as text, for the forwarded entry.
fn request_text(id: &RequestId) -> Bytes {
    match id {
        RequestId::Number(number) => number.to_string().into(),
        RequestId::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use drawbridge_protocol::template::ClassName;

    use super::*;

    #[test]
    fn no_two_channels_of_a_class_are_forwarded_to_one_stream() {
        let rows = [
            ("game:{g}:{r}", "game:a-b:c", "actions:{g}-{r}", Some("g")),
            ("game:{g}:{r}", "game:a:b-c", "actions:{g}-{r}", None),
            ("game:{g}:{r}", "game:a.b:c", "actions.{g}.{r}", Some("g")),
            ("game:{g}:{r}", "game:a-b:c", "actions:{g}:{r}", None),
            // One value alone is as long as it is.
            ("match:{id}", "match:9f3e-11", "match-{id}-actions", None),
            ("match:{id}", "match:9f3e-11", "actions", None),
        ];
        for (class, channel, forward, found) in rows {
            let (class, forward) = (ClassName::parse(class).unwrap(), Template::parse(forward).unwrap());
            let params = class.matches(channel).unwrap();
            assert_eq!(runs_into_the_next(&forward, &params), found, "{channel} to {forward}");
        }
    }
}
