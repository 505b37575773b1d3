//! What the broker says: confirmations, breaks, gaps, answers to publishes, and whether Redis is there.

use std::sync::Arc;

use drawbridge_protocol::{Encoding, ErrorCode, ErrorMessage, Frame, ServerMessage, codec};
use smallvec::SmallVec;

use super::Engine;
use crate::io::{
    Answer, Answered, BrokerEvent, BrokerStatus, ChannelPosition, LogPosition, Notice, Position, SessionId,
    Subject, Ticket,
};
use crate::phase::{OnConfirmed, Success};
use crate::targets::{Reply, Subscriber, TargetId, Waiter};

/// The code of refusals in the broker's own words: what Redis lacks.
const UNSUPPORTED: &str = "UNSUPPORTED";

impl Engine {
    pub(super) fn broker_event(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Publication(publication) => self.publication(&publication),
            BrokerEvent::Confirmed { subject, after_break, .. } if self.is_of_notices(&subject) => {
                self.notices_confirmed(&subject, after_break);
            }
            BrokerEvent::Confirmed { subject, position, after_break } => {
                self.confirmed(subject, position, after_break);
            }
            BrokerEvent::Released(subject) => self.released(&subject),
            BrokerEvent::Interrupted(subject) => {
                if let Some(id) = self.targets.find(&subject) {
                    self.interrupted(id);
                }
            }
            BrokerEvent::Refused { subject, reason } if self.is_of_notices(&subject) => {
                self.notices_refused(&subject, &reason);
            }
            BrokerEvent::Refused { subject, reason } => self.refused(&subject, &reason),
            BrokerEvent::Presence { notices, change } => self.presence_changed(&notices, change.as_deref()),
            BrokerEvent::Gap { channel, position, logged } => self.gap(&channel, position, logged),
            BrokerEvent::LogMoved { channel, from, to, is_whole } => {
                self.log_moved(&channel, from, to, is_whole);
            }
            BrokerEvent::Replay(replay) => self.replay(&replay),
            BrokerEvent::Table { channel, entities } => self.table(&channel, &entities),
            BrokerEvent::Expired { channel, keys } => self.expired_entities(&channel, &keys),
            BrokerEvent::Command(command) => self.command(&command),
            BrokerEvent::Recover { dropped, barrier } => self.recover(dropped, barrier),
            BrokerEvent::Outcome { ticket, outcome } if self.record_written(ticket, &outcome) => {}
            BrokerEvent::Outcome { ticket, outcome } => {
                match self.presence.ledger.answered(self.out.now.mono_ms, ticket, &outcome) {
                    Some(member) => self.presence_written(&member),
                    None => self.publish_done(ticket, outcome),
                }
            }
            BrokerEvent::Answer { ticket, answer } => self.answered(ticket, answer),
            BrokerEvent::Question(question) => self.question(&question),
            BrokerEvent::StoreLost => {
                self.rewrite_records();
                self.rewrite_presence();
            }
            BrokerEvent::Status(status) => self.broker_status(status),
        }
    }

    fn answered(&mut self, ticket: Ticket, answer: Answered) {
        if self.claim_answered(ticket, &answer) || self.presence_read(ticket, &answer) {
            return;
        }
        let Some(answer) = self.history_read(ticket, answer) else { return };
        match answer {
            Ok(Answer::ViewOverrides(views)) => self.overrides_loaded(ticket, Ok(views)),
            Ok(Answer::Fence(_)) if self.presence_fenced(ticket) => {}
            Ok(Answer::Fence(_)) => self.publish_done(ticket, Ok(None)),
            // Only hubs ask for tables.
            Ok(Answer::Table(_)) => {}
            // The read was withdrawn.
            Ok(Answer::Presence(_)) => {}
            // Only the admin API reads them.
            Ok(Answer::Nodes(_)) => {}
            // The request for it was withdrawn.
            Ok(Answer::Log(_) | Answer::Session(None)) => {}
            Ok(Answer::Session(Some(claimed))) => self.claimed_late(&claimed),
            Err(reason) => self.overrides_loaded(ticket, Err(reason)),
        }
    }

    /// The link that carries a subject has broken: it is confirmed again when there is another.
    fn interrupted(&mut self, id: TargetId) {
        let target = &mut self.targets[id];
        target.is_confirmed = false;
        target.subscribers.iter_mut().for_each(|subscriber| subscriber.phase.interrupt());
        self.table_is_void(id, false);
    }

    /// Redis has confirmed a subject.
    ///
    /// Invariant: while an `Unwant` of the subject is not answered, what the broker says of it belongs to its past, and
    /// confirms nothing.
    fn confirmed(&mut self, subject: Subject, position: ChannelPosition, after_break: bool) {
        let Some(id) = self.targets.find(&subject).filter(|_| !self.releasing.contains_key(&subject)) else {
            return;
        };
        let target = &mut self.targets[id];
        target.is_confirmed = true;
        target.position = (!subject.is_pattern()).then_some(position);
        let mut is_made_good = false;
        if let ChannelPosition::Logged(live) = position {
            let (at, is_known) = self.log_confirmed(&subject.name, live);
            self.targets[id].position = Some(ChannelPosition::Logged(at));
            // What was missed is read from the log.
            is_made_good = is_known;
        }
        let target = &mut self.targets[id];
        let (mut broken, mut suspended): (SmallVec<[SessionId; 8]>, SmallVec<[SessionId; 8]>) =
            Default::default();
        for subscriber in &mut target.subscribers {
            let session = &mut self.sessions[subscriber.session];
            match subscriber.phase.confirm(!session.overrides.is_loading(), after_break) {
                OnConfirmed::LiveAfterBreak if is_made_good => {}
                OnConfirmed::LiveAfterBreak => broken.push(session.id),
                OnConfirmed::Suspended => suspended.push(session.id),
                // Those whose views are not known yet are notified when they are.
                OnConfirmed::Live | OnConfirmed::StillWaiting => {}
            }
        }
        let position = target.position;
        suspended.into_iter().for_each(|session| self.suspended(session, id));
        self.mark_present(id);
        let answers = self.take_answers(id, |_| true);
        self.resync(&broken, &subject.name, "broker", position);
        self.notify_waiters(id, answers);
        let resumes = |theirs: &&Subscriber| self.sessions[theirs.session].catching_up.is_some();
        let resuming: Vec<SessionId> =
            self.targets[id].subscribers.iter().filter(resumes).map(|theirs| theirs.session).collect();
        resuming.into_iter().for_each(|session| self.go_on_catching_up(session));
        if subject.is_pattern() && after_break {
            self.pattern_confirmed_again(&subject.name);
        }
    }

    /// Takes out of those who wait for a target's subscriptions whoever can be answered now, each with its success.
    pub(super) fn take_answers(
        &mut self,
        id: TargetId,
        is_wanted: impl Fn(SessionId) -> bool,
    ) -> Vec<(Waiter, Success)> {
        let target = &mut self.targets[id];
        let mut answers = Vec::new();
        for waiter in std::mem::take(&mut target.waiters) {
            let session = &self.sessions[waiter.session];
            let subscriber = target.subscriber_mut(session, id).filter(|_| is_wanted(session.id));
            match subscriber.and_then(|theirs| theirs.phase.success()) {
                Some(success) => answers.push((waiter, success)),
                None => target.waiters.push(waiter),
            }
        }
        answers
    }

    /// The broker has let go of a subject. Whatever it says of it from now on answers a later want.
    fn released(&mut self, subject: &Subject) {
        if let Some(count) = self.releasing.get_mut(subject) {
            *count -= 1;
            if *count == 0 {
                self.releasing.remove(subject);
            }
        }
    }

    /// Answers who waited for a subscription of this target, each with its success.
    pub(super) fn notify_waiters(&mut self, id: TargetId, answers: Vec<(Waiter, Success)>) {
        for (Waiter { session, reply }, success) in &answers {
            if matches!(reply, Reply::Resync) {
                let target = &self.targets[id];
                let (name, position) = (target.subject.name.clone(), target.position);
                self.resync(&[*session], &name, "broker", position);
            }
            self.notify_subscribed(*session, id, reply, success);
            if matches!(reply, Reply::Welcome) {
                self.confirmed_for_welcome(*session);
            }
        }
        for (Waiter { session, .. }, _) in answers {
            self.retry_deferred(session);
        }
    }

    /// Says once to each that something of the channel may be missing.
    pub(super) fn resync(
        &mut self,
        sessions: &[SessionId],
        channel: &str,
        reason: &str,
        position: Option<ChannelPosition>,
    ) {
        let message = ServerMessage::Resync {
            channel,
            reason,
            epoch: position.as_ref().map(|position| position.epoch().as_str()),
            offset: position.as_ref().map(ChannelPosition::offset),
        };
        let mut frames = SharedFrames::default();
        let subject = Subject::named(channel);
        let target = self.targets.find(&subject);
        for session in sessions {
            if self.sessions[*session].holds_events() {
                self.lose_channel(*session, channel);
                continue;
            }
            // What came before the gap is told before it.
            target.into_iter().for_each(|target| self.flush_target(*session, target));
            if !subject.is_pattern() {
                self.flush_channel(*session, channel);
            }
            let theirs = &mut self.sessions[*session];
            if theirs.is_open() {
                let frame = frames.get(theirs.encoding(), &message);
                self.out.stats.resyncs += 1;
                self.out.enqueue_frame(theirs, frame);
                self.note_resync(*session, channel, position);
            }
        }
        self.enforce_limits();
    }

    /// Redis will not let us subscribe; the broker has forgotten the subject, and so do we.
    pub(super) fn refused(&mut self, subject: &Subject, reason: &Arc<str>) {
        self.notice(Notice::SubscriptionRefused {
            subject: subject.name.clone(),
            reason: reason.to_string(),
        });
        let Some(id) = self.targets.find(subject).filter(|_| !self.releasing.contains_key(subject)) else {
            return;
        };
        let target = &mut self.targets[id];
        let mut waiters = std::mem::take(&mut target.waiters);
        // Who only waits to hear of a gap was subscribed, and is told that this ends.
        waiters.retain(|waiter| !matches!(waiter.reply, Reply::Resync));
        let subscribers: Vec<SessionId> =
            target.subscribers.iter().map(|subscriber| subscriber.session).collect();
        for session in &subscribers {
            // What came before is told, also where it comes by a pattern from now on.
            self.flush_target(*session, id);
            self.leave_target(*session, id);
        }
        if let Some(notices) = self.remove_target(id).notices {
            self.end_notices(id, *notices);
        }
        for session in subscribers.iter().copied() {
            if self.sessions[session].is_open() && !waiters.iter().any(|waiter| waiter.session == session) {
                let channel = &*subject.name;
                let message = ServerMessage::Unsubscribed {
                    id: None,
                    channel,
                    reason: "broker_refused",
                    by_server: false,
                };
                self.send(session, &message);
            }
        }
        let text = self.refusal_text(reason);
        for Waiter { session, reply } in &waiters {
            let session = *session;
            let error = ErrorMessage {
                channel: Some(&subject.name),
                ..ErrorMessage::new(ErrorCode::BrokerRefused, &text)
            };
            match reply {
                Reply::Welcome => {
                    self.error_behind_welcome(session, &error);
                    self.confirmed_for_welcome(session);
                }
                Reply::Request(request) => {
                    self.send_error(session, ErrorMessage { id: Some(request), ..error })
                }
                Reply::Server | Reply::Unsolicited | Reply::Silent | Reply::Resync => {
                    self.send_error(session, error)
                }
            }
        }
        for session in subscribers {
            self.retry_deferred(session);
        }
    }

    /// What a client is sent about Redis' refusal: its code, for the words may name users and rules; but the whole of what
    /// names no more than something that Redis lacks.
    pub(super) fn refusal_text(&self, message: &str) -> String {
        let code = message.split_whitespace().next().unwrap_or("an error");
        let shown = match () {
            () if self.settings.explain || code == UNSUPPORTED => message,
            () if message.contains("unknown command") => message.split(", with args").next().unwrap_or(code),
            () => code,
        };
        format!("Redis refused: {shown}")
    }

    /// Events of a real channel were dropped on the way here: everybody who might have seen them is told.
    fn gap(&mut self, channel: &Arc<str>, position: Position, logged: Option<LogPosition>) {
        if let Some(first) = logged {
            return self.log_gap(channel, first);
        }
        let class = self.settings.classes.class_of(channel);
        // Volatile events are not recovered.
        if class.is_some_and(|(_, class)| class.history.is_some()) {
            return;
        }
        let position = ChannelPosition::Counted(position);
        let exact = self.targets.find_channel(channel);
        if let Some(id) = exact {
            self.targets[id].position = Some(position);
        }
        let sessions = self.viewers(channel);
        self.resync(&sessions, channel, "gap", Some(position));
        if let Some(id) = exact {
            self.table_is_void(id, true);
        }
    }

    fn broker_status(&mut self, status: BrokerStatus) {
        let before = std::mem::replace(&mut self.status, status);
        if before == status {
            return;
        }
        if before == BrokerStatus::Degraded || status == BrokerStatus::Ok {
            self.presence.ledger.hold(self.out.now.mono_ms);
        }
        let broker = status.word();
        let is_other_word = broker != before.word();
        let mut frames = SharedFrames::default();
        let all: Vec<(SessionId, Encoding, bool)> =
            self.sessions.iter().map(|session| (session.id, session.encoding(), session.is_open())).collect();
        for (id, encoding, open) in all {
            if open && is_other_word {
                self.enqueue_frame(id, frames.get(encoding, &ServerMessage::Status { broker }));
            } else if !open && status != BrokerStatus::Ok {
                self.welcome(id);
                self.hasten_claim(id);
            }
            // Publishes of classes that refuse while Redis is away no longer have to wait.
            self.retry_deferred(id);
            let session = &self.sessions[id];
            // What could not be read while part of Redis was away can be now.
            if status == BrokerStatus::Ok && session.deadlines.overrides_ms > 0 && !session.is_closing() {
                self.load_overrides(id);
            }
        }
    }
}

/// One message to many connections, encoded once per encoding.
#[derive(Default)]
pub(super) struct SharedFrames([Option<Frame>; 2]);

impl SharedFrames {
    pub(super) fn get(&mut self, encoding: Encoding, message: &ServerMessage<'_>) -> Frame {
        self.0[encoding as usize].get_or_insert_with(|| codec::encode_frame(encoding, message)).clone()
    }
}
