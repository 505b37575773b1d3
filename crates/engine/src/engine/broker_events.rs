//! What the broker says: confirmations, breaks, gaps, answers to publishes, and whether Redis is there.

use std::sync::Arc;

use drawbridge_protocol::{Encoding, ErrorCode, ErrorMessage, Frame, ServerMessage, codec};
use smallvec::SmallVec;

use super::Engine;
use super::deliver::access;
use crate::access::Access;
use crate::io::{Answer, Answered, BrokerEvent, BrokerStatus, ConnId, Notice, Position, Subject, Ticket};
use crate::targets::{Reply, TargetId, Waiter};

/// The code of refusals in the broker's own words: what Redis lacks.
const UNSUPPORTED: &str = "UNSUPPORTED";

impl Engine {
    pub(super) fn broker_event(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Publication(publication) => self.publication(&publication),
            BrokerEvent::Confirmed { subject, position, after_break } => {
                self.confirmed(subject, position, after_break);
            }
            BrokerEvent::Released(subject) => self.released(&subject),
            BrokerEvent::Interrupted(subject) => {
                if let Some(id) = self.targets.find(&subject)
                    && let Some(target) = self.targets.get_mut(id)
                {
                    target.live = false;
                    self.table_is_void(id, false);
                }
            }
            BrokerEvent::Refused { subject, reason } => self.refused(&subject, &reason),
            BrokerEvent::Gap { channel, position } => self.gap(&channel, position),
            BrokerEvent::Table { channel, entities } => self.table(&channel, &entities),
            BrokerEvent::Expired { channel, keys } => self.expired_entities(&channel, &keys),
            BrokerEvent::Command(command) => self.command(&command),
            BrokerEvent::Recover { dropped, barrier } => self.recover(dropped, barrier),
            BrokerEvent::Outcome { ticket, outcome } => self.publish_done(ticket, outcome),
            BrokerEvent::Answer { ticket, answer } => self.answered(ticket, answer),
            BrokerEvent::Status(status) => self.broker_status(status),
        }
    }

    fn answered(&mut self, ticket: Ticket, answer: Answered) {
        match answer {
            Ok(Answer::Views(views)) => self.views_loaded(ticket, Ok(views)),
            Ok(Answer::Fence(_)) => self.publish_done(ticket, Ok(())),
            // Only hubs ask for tables.
            Ok(Answer::Table(_)) => {}
            Err(reason) => self.views_loaded(ticket, Err(reason)),
        }
    }

    fn confirmed(&mut self, subject: Subject, position: Position, after_break: bool) {
        let Some(id) = self.targets.find(&subject).filter(|_| !self.releasing.contains_key(&subject)) else {
            return;
        };
        let Some(target) = self.targets.get_mut(id) else { return };
        target.live = true;
        target.position = (!subject.is_pattern()).then_some(position);
        let mut broken: SmallVec<[ConnId; 8]> = SmallVec::new();
        for subscriber in &mut target.subscribers {
            if !is_gated(&self.connections, subscriber.conn) {
                if std::mem::replace(&mut subscriber.live, true) && after_break {
                    broken.push(subscriber.conn);
                }
            } else if subscriber.live
                && after_break
                && let Some(conn) = self.connections.get_mut(subscriber.conn)
            {
                // Until its views are known again it is shown nothing.
                subscriber.live = false;
                target.waiters.push(Waiter { conn: subscriber.conn, reply: conn.reply_behind_gate() });
            }
        }
        // Those whose views are not known yet are told when they are.
        let all = std::mem::take(&mut target.waiters);
        let (gated, waiters) = all.into_iter().partition(|waiter| is_gated(&self.connections, waiter.conn));
        target.waiters = gated;
        self.resync(&broken, &subject.name, "broker", self.targets.get(id).and_then(|t| t.position));
        self.tell_waiters(id, waiters);
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

    pub(super) fn tell_waiters(&mut self, target: TargetId, waiters: Vec<Waiter>) {
        for Waiter { conn, reply } in &waiters {
            if matches!(reply, Reply::Resync)
                && let Some(target) = self.targets.get(target)
            {
                let (name, position) = (target.subject.name.clone(), target.position);
                self.resync(&[*conn], &name, "broker", position);
            }
            self.tell_subscribed(*conn, target, reply);
            if matches!(reply, Reply::Welcome) {
                self.confirmed_for_welcome(*conn);
            }
        }
        // Only now: what was deferred may end the subscriptions that the others wait for.
        for Waiter { conn, .. } in waiters {
            self.run_deferred(conn);
        }
    }

    /// Says once to each that something of the channel may be missing.
    fn resync(&mut self, conns: &[ConnId], channel: &str, reason: &str, position: Option<Position>) {
        let message = ServerMessage::Resync {
            channel,
            reason,
            epoch: position.as_ref().map(|position| position.epoch.as_str()),
            offset: position.map(|position| position.offset.0),
        };
        let mut frames = SharedFrames::default();
        let subject = Subject::named(channel);
        let target = self.targets.find(&subject);
        for conn in conns {
            // What came before the gap is told before it.
            target.into_iter().for_each(|target| self.flush_target(*conn, target));
            if !subject.is_pattern() {
                self.flush_channel(*conn, channel);
            }
            if let Some(open) = self.connections.get(*conn).filter(|conn| conn.is_open()) {
                let frame = frames.get(open.encoding, &message);
                self.stats.resyncs += 1;
                self.push(*conn, frame);
            }
        }
    }

    /// Redis will not let us subscribe; the broker has forgotten the subject, and so do we.
    fn refused(&mut self, subject: &Subject, reason: &Arc<str>) {
        self.notice(Notice::SubscriptionRefused {
            subject: subject.name.clone(),
            reason: reason.to_string(),
        });
        let Some(id) = self.targets.find(subject).filter(|_| !self.releasing.contains_key(subject)) else {
            return;
        };
        let Some(target) = self.targets.get_mut(id) else { return };
        let mut waiters = std::mem::take(&mut target.waiters);
        // Who only waits to hear of a gap was subscribed, and is told that this ends.
        waiters.retain(|waiter| !matches!(waiter.reply, Reply::Resync));
        let subscribers: Vec<ConnId> = target.subscribers.iter().map(|subscriber| subscriber.conn).collect();
        for conn in &subscribers {
            // What came before is told, also where it comes by a pattern from now on.
            self.flush_target(*conn, id);
            self.leave_target(*conn, id);
        }
        self.targets.remove(id);
        for conn in subscribers.iter().copied() {
            let open = self.connections.get(conn).is_some_and(|conn| conn.is_open());
            if open && !waiters.iter().any(|waiter| waiter.conn == conn) {
                let channel = &*subject.name;
                let message = ServerMessage::Unsubscribed {
                    id: None,
                    channel,
                    reason: "broker_refused",
                    by_server: false,
                };
                self.send(conn, &message);
            }
        }
        let text = self.refusal_text(reason);
        for Waiter { conn, reply } in &waiters {
            let conn = *conn;
            let error = ErrorMessage {
                channel: Some(&subject.name),
                ..ErrorMessage::new(ErrorCode::BrokerRefused, &text)
            };
            match reply {
                Reply::Welcome => {
                    self.error_behind_welcome(conn, &error);
                    self.confirmed_for_welcome(conn);
                }
                Reply::Request(request) => self.send_error(conn, ErrorMessage { id: Some(request), ..error }),
                Reply::Server | Reply::Told | Reply::Silent | Reply::Resync => self.send_error(conn, error),
            }
        }
        for conn in subscribers {
            self.run_deferred(conn);
        }
    }

    /// What a client is told of Redis' refusal: its code, for the words may name users and rules; but the whole of what
    /// names no more than something that Redis lacks.
    pub(super) fn refusal_text(&self, words: &str) -> String {
        let code = words.split_whitespace().next().unwrap_or("an error");
        let shown = match () {
            () if self.settings.explain || code == UNSUPPORTED => words,
            () if words.contains("unknown command") => words.split(", with args").next().unwrap_or(code),
            () => code,
        };
        format!("Redis refused: {shown}")
    }

    /// Events of a real channel were dropped on the way here: everybody who might have seen them is told.
    fn gap(&mut self, channel: &Arc<str>, position: Position) {
        let mut conns = Vec::new();
        if let Some(id) = self.targets.find_channel(channel)
            && let Some(target) = self.targets.get_mut(id)
        {
            target.position = Some(position);
            conns.extend(target.subscribers.iter().filter(|s| s.live).map(|s| s.conn));
        }
        let mut matched = std::mem::take(&mut self.matched);
        self.targets.matching_patterns(channel, &mut matched);
        for id in matched.drain(..) {
            let Some(target) = self.targets.get(id) else { continue };
            for subscriber in target.subscribers.iter().filter(|subscriber| subscriber.live) {
                let Some(conn) = self.connections.get_mut(subscriber.conn) else { continue };
                let access = access(&self.settings, &mut self.views, conn, channel);
                if matches!(access, Access::Granted(_)) {
                    conns.push(subscriber.conn);
                }
            }
        }
        self.matched = matched;
        conns.sort_unstable();
        conns.dedup();
        self.resync(&conns, channel, "gap", Some(position));
        if let Some(id) = self.targets.find_channel(channel) {
            self.table_is_void(id, true);
        }
    }

    fn broker_status(&mut self, status: BrokerStatus) {
        if std::mem::replace(&mut self.status, status) == status {
            return;
        }
        let broker = match status {
            BrokerStatus::Ok => "ok",
            BrokerStatus::Degraded => "degraded",
        };
        let mut frames = SharedFrames::default();
        let all: Vec<(ConnId, Encoding, bool)> =
            self.connections.iter().map(|conn| (conn.id, conn.encoding, conn.is_open())).collect();
        for (id, encoding, open) in all {
            if open {
                self.push(id, frames.get(encoding, &ServerMessage::Status { broker }));
            } else if status == BrokerStatus::Degraded {
                self.welcome(id);
            }
            // Publishes of classes that refuse while Redis is away no longer have to wait.
            self.run_deferred(id);
        }
    }
}

/// Whether a connection's views are not known yet.
fn is_gated(connections: &super::Connections, conn: ConnId) -> bool {
    connections.get(conn).is_some_and(|conn| conn.narrowed.is_loading())
}

/// One message to many connections, encoded once per encoding.
#[derive(Default)]
struct SharedFrames([Option<Frame>; 2]);

impl SharedFrames {
    fn get(&mut self, encoding: Encoding, message: &ServerMessage<'_>) -> Frame {
        self.0[encoding as usize].get_or_insert_with(|| codec::encode_frame(encoding, message)).clone()
    }
}
