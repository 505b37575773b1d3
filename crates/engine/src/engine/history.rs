//! `HISTORY_GET` (contract §8): a page of a channel's log, by the views of its session. The log is read through the broker; what
//! is read is evaluated and encoded when the answer comes, and charged then.

use std::collections::VecDeque;
use std::sync::Arc;

use drawbridge_protocol::event::{HistoryPage, encode_history, encode_logged};
use drawbridge_protocol::{ErrorCode, ErrorMessage, HistoryGet, RequestId, channel};

use super::Engine;
use super::message_bounds::composed_bytes;
use super::refusal::Refusal;
use crate::io::{
    Answer, Answered, BrokerCommand, BrokerStatus, Epoch, LogPosition, LogReader, LoggedOffset, Output,
    Query, QueryKind, SessionId, Ticket,
};
use crate::permissions;
use crate::upstream::{Cursor, LogRange, StoredLog, read_entry};
use crate::view::EventScope;
use crate::work;

/// The most events that are read for one page, and how many if the client does not say.
const MAX_LIMIT: u64 = 1_000;
const DEFAULT_LIMIT: u64 = 100;
/// How long a page may take, in milliseconds; then `BROKER_UNAVAILABLE` is the answer.
const TIMEOUT_MS: u64 = 5_000;
/// What a page has beside its events, in bytes, at most, without the channel's name.
const HEAD_BYTES: usize = 256;

/// A request for a page whose answer is out.
#[derive(Debug)]
pub(super) struct HistoryOut {
    pub(super) session: SessionId,
    request: Option<RequestId>,
    channel: Arc<str>,
    /// Where the client is; `None`: it wants the newest.
    since: Option<LogPosition>,
    /// It is to start at the oldest, because its position says nothing.
    is_lost: bool,
    limit: usize,
}

impl Engine {
    pub(super) fn history_get(&mut self, id: SessionId, request: Option<RequestId>, get: &HistoryGet) {
        match self.authorize_history(id, get) {
            Ok(()) => {}
            Err(refusal) => {
                let refusal = self.denied(id, "HISTORY_GET", &get.channel, refusal);
                let error = refusal.error(request.as_ref(), Some(&get.channel));
                let outcome = (refusal.code == ErrorCode::BrokerUnavailable).then_some("not_done");
                return self.send_error(id, ErrorMessage { outcome, ..error });
            }
        }
        // An epoch that cannot be one is of no log.
        let position = get.since.as_ref().map(|since| {
            let epoch = Epoch::parse(&since.epoch);
            epoch.map(|epoch| LogPosition { epoch, offset: LoggedOffset(since.offset) })
        });
        let out = HistoryOut {
            session: id,
            request,
            channel: get.channel.as_str().into(),
            since: position.flatten(),
            is_lost: position == Some(None),
            limit: get.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT) as usize,
        };
        self.read_history(out);
    }

    fn authorize_history(&self, id: SessionId, get: &HistoryGet) -> Result<(), Refusal> {
        let name = get.channel.as_str();
        channel::validate(name)
            .map_err(|error| Refusal::new(ErrorCode::ChannelInvalid, format!("channel: {error}")))?;
        let claims = self.sessions[id].claims.as_ref();
        let claims = claims.ok_or_else(|| Refusal::new(ErrorCode::Unauthenticated, "no token yet"))?;
        permissions::may_subscribe(&self.settings, claims, name).map_err(Refusal::forbidden)?;
        let class = self.settings.classes.class_of(name);
        if class.is_none_or(|(_, class)| class.history.is_none()) {
            return Err(Refusal::new(ErrorCode::Unsupported, "the class of this channel keeps no history"));
        }
        if self.status == BrokerStatus::Degraded {
            return Err(Refusal::new(ErrorCode::BrokerUnavailable, "Redis is away"));
        }
        self.check_work(id)
    }

    fn read_history(&mut self, out: HistoryOut) {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let range = match (out.is_lost, out.since) {
            (true, _) => LogRange::After(LoggedOffset(0)),
            (false, Some(since)) => LogRange::After(since.offset),
            (false, None) => LogRange::Newest,
        };
        // Why twice the page: a stored event is larger than the element that is sent, and the views hide some.
        let reader = LogReader::Request { max_bytes: 2 * composed_bytes(&self.sessions[out.session]) };
        let kind = QueryKind::Log { channel: out.channel.clone(), range, limit: out.limit, reader };
        let session = &mut self.sessions[out.session];
        session.history = Some(ticket);
        session.deadlines.history_ms = self.out.now.mono_ms + TIMEOUT_MS;
        self.out.timers.arm(session);
        self.histories.insert(ticket, out);
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Query(Query::new(ticket, kind))));
    }

    /// The page has not come in time: what keeps the log is away.
    pub(super) fn history_too_late(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        session.deadlines.history_ms = 0;
        let Some(ticket) = session.history.take() else { return };
        let Some(out) = self.histories.remove(&ticket) else { return };
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Withdraw(ticket)));
        self.refuse_history(&out, "Redis did not answer in time");
        self.retry_deferred(id);
    }

    /// The page cannot be read now.
    fn refuse_history(&mut self, out: &HistoryOut, text: &str) {
        let error = ErrorMessage {
            id: out.request.as_ref(),
            channel: Some(&out.channel),
            outcome: Some("not_done"),
            ..ErrorMessage::new(ErrorCode::BrokerUnavailable, text)
        };
        self.send_error(out.session, error);
    }

    /// The page is not waited for any more.
    pub(super) fn cancel_history(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket
            && self.histories.remove(&ticket).is_some()
        {
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Withdraw(ticket)));
        }
    }

    /// The log was read. Returns the answer if it is not one to a request for a page.
    pub(super) fn history_read(&mut self, ticket: Ticket, answer: Answered) -> Option<Answered> {
        let Some(out) = self.histories.remove(&ticket) else { return Some(answer) };
        let id = out.session;
        let session = &mut self.sessions[id];
        (session.history, session.deadlines.history_ms) = (None, 0);
        self.out.timers.arm(session);
        match answer {
            Ok(Answer::Log(stored)) => self.charged(id, |engine| engine.answer_history(out, &stored)),
            Ok(_) => {}
            Err(reason) => {
                let text = self.refusal_text(&reason);
                let error = ErrorMessage {
                    id: out.request.as_ref(),
                    channel: Some(&out.channel),
                    ..ErrorMessage::new(ErrorCode::BrokerRefused, &text)
                };
                self.send_error(id, error);
            }
        }
        self.retry_deferred(id);
        None
    }

    fn answer_history(&mut self, mut out: HistoryOut, stored: &StoredLog) {
        let cursor = out.since.map(|since| stored.cursor(since));
        if cursor == Some(Cursor::Unknown) && !out.is_lost {
            // Its offset is of another history: from the oldest on.
            out.is_lost = true;
            return self.read_history(out);
        }
        let id = out.session;
        // A request without an id gets no answer.
        let Some(request) = &out.request else { return };
        let session = &self.sessions[id];
        let Some(claims) = session.claims.clone().filter(|_| !session.overrides.is_loading()) else {
            return self.refuse_history(&out, "this player's views are being read");
        };
        let view_override = session.overrides.of(&out.channel);
        let view = permissions::server_view(&self.settings, &claims, &out.channel, view_override);
        let view = self.views.get(view, None);
        let encoding = session.encoding();
        let bound = composed_bytes(session);
        let class = self.settings.classes.class_of(&out.channel).map(|(id, class)| (class, id));
        // Of the newest events the older ones give way; of those behind a position the later ones come on the next page.
        let is_newest = out.since.is_none() && !out.is_lost;
        let head = HEAD_BYTES + out.channel.len();
        let (mut events, mut bytes, mut last) = (VecDeque::<bytes::Bytes>::new(), head, None);
        for entry in &stored.events {
            let event = class.and_then(|class| read_entry(class, &out.channel, entry));
            if let Some(event) = event {
                let is_shown = view.as_ref().is_none_or(|view| view.allows(&EventScope::of(&event)));
                let steps = view.as_ref().map_or(0, |view| view.steps(&event));
                self.targets.work.add(steps + work::to_send(event.event.data_json().len()));
                if is_shown {
                    let element = encode_logged(encoding, &event.event);
                    while is_newest && bytes + element.len() > bound {
                        let Some(oldest) = events.pop_front() else { break };
                        bytes -= oldest.len() + 1;
                    }
                    let fits = bytes + element.len() <= bound;
                    if !fits && !events.is_empty() {
                        break;
                    }
                    // What the client cannot take at all is left out.
                    if fits || session.outbox.max_message_bytes.is_none() {
                        bytes += element.len() + 1;
                        events.push_back(element);
                    }
                }
            }
            last = Some(entry.offset);
        }
        let is_gap = out.is_lost || cursor.is_some_and(|cursor| cursor != Cursor::Continues);
        let next = last.filter(|last| *last < stored.last.offset).map(|last| last.0);
        let epoch = stored.last.epoch;
        let page = HistoryPage {
            id: request,
            channel: &out.channel,
            epoch: epoch.as_str(),
            gap: is_gap,
            events: events.make_contiguous(),
            next,
        };
        let frame = encode_history(encoding, &page);
        self.enqueue_frame(id, frame);
    }
}
