//! Notices: who is notified of players who come to a channel and leave it, when, and by which `PRESENCE_CHANGED`. What the
//! store says comes on a separate channel, which is wanted before the channel itself. Who is present is decided in [`super`].

use std::sync::Arc;

use drawbridge_protocol::{Encoding, Frame, ServerMessage, codec};
use hashbrown::HashMap;

use crate::class::Presence;
use crate::engine::Engine;
use crate::engine::broker_events::SharedFrames;
use crate::io::{BrokerCommand, Output, Query, QueryKind, SessionId, Subject, Ticket};
use crate::presence::changes::{Flushed, Notices, PresenceChange, WINDOW_MS};
use crate::session::Session;
use crate::targets::TargetId;

impl Engine {
    /// The subjects that a new target is wanted by, now: the channel, or first the one by which its subscribers are notified.
    pub(in crate::engine) fn begin_notices(&mut self, target_id: TargetId) -> Subject {
        let reserved = &self.settings.reserved;
        let target = &mut self.targets[target_id];
        if target.presence != Presence::Notify {
            return target.subject.clone();
        }
        let subject = Subject::channel(reserved.presence_channel(&target.subject.name));
        target.notices = Some(Box::new(Notices::new(subject.clone())));
        subject
    }

    /// Whether this is a channel of notices.
    pub(in crate::engine) fn is_of_notices(&self, subject: &Subject) -> bool {
        !subject.is_pattern() && self.settings.reserved.of_presence_channel(&subject.name).is_some()
    }

    /// The target whose subscribers are notified on this channel of the server's own.
    pub(in crate::engine) fn notified_by(&self, name: &str) -> Option<TargetId> {
        self.targets.find_channel(self.settings.reserved.of_presence_channel(name)?)
    }

    /// Redis has confirmed a channel of notices: now the channel itself is wanted.
    pub(in crate::engine) fn notices_confirmed(&mut self, subject: &Subject, after_break: bool) {
        let Some(target_id) =
            self.notified_by(&subject.name).filter(|_| !self.releasing.contains_key(subject))
        else {
            return;
        };
        let target = &mut self.targets[target_id];
        let Some(notices) = &mut target.notices else { return };
        if !std::mem::replace(&mut notices.is_ready, true) {
            self.out.outputs.push_back(Output::Broker(BrokerCommand::Want(target.subject.clone())));
        }
        if after_break {
            self.presence_missed(target_id);
        }
    }

    /// What the store says of a channel's players; `None`: something was missed.
    pub(in crate::engine) fn presence_changed(&mut self, notices: &str, change: Option<&PresenceChange>) {
        let Some(target_id) = self.notified_by(notices) else { return };
        match (change, &mut self.targets[target_id].notices) {
            (Some(change), Some(notices)) => notices.add(change),
            (None, _) => return self.presence_missed(target_id),
            (_, None) => return,
        }
        self.schedule_notices(target_id);
    }

    /// What the subscribers of a channel are to be notified of.
    pub(super) fn notices_of(&mut self, channel: &str) -> Option<&mut Notices> {
        let target_id = self.targets.find_channel(channel)?;
        self.targets[target_id].notices.as_deref_mut()
    }

    /// A page was read: behind this fence all that the store had said before has come.
    pub(super) fn fence_notices(&mut self, channel: &str, read: Ticket) {
        let ticket = Ticket(self.next_ticket + 1);
        let Some(notices) = self.notices_of(channel) else { return };
        notices.read_ended(read, Some(ticket));
        let channel = notices.subject.name.clone();
        self.next_ticket += 1;
        self.presence.fences.insert(ticket, channel.clone());
        let query = Query::new(ticket, QueryKind::Fence { channel });
        self.out.outputs.push_back(Output::Broker(BrokerCommand::Query(query)));
    }

    /// The answer to a fence. Returns whether it was one behind a page.
    pub(in crate::engine) fn presence_fenced(&mut self, ticket: Ticket) -> bool {
        let Some(channel) = self.presence.fences.remove(&ticket) else { return false };
        let target_id = self.notified_by(&channel);
        if let Some(notices) = target_id.and_then(|id| self.targets[id].notices.as_mut()) {
            notices.fence_passed(ticket);
        }
        true
    }

    /// How many reads and fences are out.
    pub(in crate::engine) fn presence_queries(&self) -> usize {
        self.presence.reads.len() + self.presence.fences.len()
    }

    /// Subscribers are notified that changes were missed.
    fn presence_missed(&mut self, target_id: TargetId) {
        if let Some(notices) = &mut self.targets[target_id].notices {
            notices.miss();
            self.schedule_notices(target_id);
        }
    }

    fn schedule_notices(&mut self, target_id: TargetId) {
        let target = &mut self.targets[target_id];
        let class = target.class.and_then(|id| self.settings.classes.get(id));
        let window_ms = class.map_or(0, |class| class.delivery.batch_ms).max(WINDOW_MS);
        let Some(notices) = &mut target.notices else { return };
        if notices.flush_at_ms == 0 && !notices.is_empty() {
            notices.flush_at_ms = self.out.now.mono_ms + window_ms;
            self.presence.windows.insert((notices.flush_at_ms, target_id));
        }
    }

    /// A target is forgotten, and with it the notification of its subscribers.
    pub(in crate::engine) fn end_notices(&mut self, target_id: TargetId, notices: Notices) {
        self.presence.windows.remove(&(notices.flush_at_ms, target_id));
        self.unwant(notices.subject);
    }

    /// Redis refuses the channel by which subscribers of another are notified: they are refused, too.
    pub(in crate::engine) fn notices_refused(&mut self, subject: &Subject, reason: &Arc<str>) {
        let Some(target_id) =
            self.notified_by(&subject.name).filter(|_| !self.releasing.contains_key(subject))
        else {
            return;
        };
        let target = &mut self.targets[target_id];
        let notices = target.notices.take();
        let (channel, is_ready) =
            (target.subject.clone(), notices.as_ref().is_some_and(|notices| notices.is_ready));
        if let Some(notices) = notices {
            self.presence.windows.remove(&(notices.flush_at_ms, target_id));
        }
        self.refused(&channel, reason);
        if is_ready {
            self.unwant(channel);
        }
    }

    /// A window has ended: subscribers are notified of who came and left.
    pub(super) fn notify_presence(&mut self, target_id: TargetId) {
        let Some(notices) = self.targets.get_mut(target_id).and_then(|target| target.notices.as_mut()) else {
            return;
        };
        notices.flush_at_ms = 0;
        let flushed = notices.flush();
        self.schedule_notices(target_id);
        let channel = self.targets[target_id].subject.name.clone();
        let target = &mut self.targets[target_id];
        let message = Notification::new(&channel, &flushed);
        if message.is_empty() {
            return;
        }
        let mut frames = SharedFrames::default();
        for subscriber in target.subscribers.iter_mut().filter(|subscriber| subscriber.is_announced) {
            let session = &mut self.sessions[subscriber.session];
            if !session.is_open() {
                continue;
            }
            if session.is_blocked() {
                // Why not queued: a client that does not read would be closed for it.
                (subscriber.missed_presence, session.missed_presence) = (true, true);
                continue;
            }
            if let Some(frame) = message.frame_for(session, subscriber.notified_from, &mut frames) {
                self.out.stats.presence_notices += 1;
                self.out.enqueue_frame(session, frame);
            }
        }
        self.enforce_limits();
    }

    /// A session was detached: what it was notified of may be lost, and nobody is notified until it returns.
    pub(in crate::engine) fn miss_presence(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        for held in &session.subscriptions {
            let target = &mut self.targets[held.target];
            if target.presence == Presence::Notify {
                target.subscriber_at_mut(held.slot).missed_presence = true;
                session.missed_presence = true;
            }
        }
    }

    /// A session takes messages again: where it was not notified of players, it receives `reset`.
    pub(in crate::engine) fn send_missed_presence(&mut self, id: SessionId) {
        if !std::mem::take(&mut self.sessions[id].missed_presence) {
            return;
        }
        for held in self.sessions[id].subscriptions.clone() {
            let target = &mut self.targets[held.target];
            if std::mem::take(&mut target.subscriber_at_mut(held.slot).missed_presence) {
                let channel = &target.subject.name;
                let message = ServerMessage::PresenceChanged { channel, joined: &[], left: &[], reset: true };
                self.out.send(&mut self.sessions[id], &message);
            }
        }
        self.enforce_limits();
    }
}

/// One `PRESENCE_CHANGED`, as each subscriber gets it.
struct Notification<'a> {
    channel: &'a str,
    joined: Vec<&'a str>,
    left: Vec<&'a str>,
    reset: bool,
    /// The place of each player's change.
    seqs: HashMap<&'a str, u64>,
    /// The first of these.
    first_seq: u64,
}

impl<'a> Notification<'a> {
    fn new(channel: &'a str, flushed: &'a Flushed) -> Self {
        let [joined, left] = [&flushed.joined, &flushed.left].map(|names| names.iter().map(|name| &**name));
        let named = joined.clone().chain(left.clone());
        let (reset, first_seq) = (flushed.reset, flushed.seqs.iter().min().copied().unwrap_or(0));
        let seqs = named.zip(flushed.seqs.iter().copied()).collect();
        Notification { channel, joined: joined.collect(), left: left.collect(), reset, seqs, first_seq }
    }

    fn is_empty(&self) -> bool {
        self.seqs.is_empty() && !self.reset
    }

    /// The frame for one session, in its encoding: without its own player, and without what happened before it was notified
    /// of its subscription (`from`); `None`: nothing is left. One that is too long for its client says only that something
    /// changed.
    fn frame_for(&self, session: &Session, from: u64, frames: &mut SharedFrames) -> Option<Frame> {
        let encoding = session.encoding();
        let own = session.player().map_or("", |player| player);
        let gets_all = from < self.first_seq && !self.seqs.contains_key(own);
        let frame = if gets_all || self.reset {
            frames.get(encoding, &self.message(&self.joined, &self.left))
        } else {
            let is_theirs = |name: &&str| *name != own && self.seqs.get(name).is_some_and(|seq| *seq > from);
            let [joined, left] = [&self.joined, &self.left]
                .map(|names| names.iter().copied().filter(is_theirs).collect::<Vec<_>>());
            if joined.is_empty() && left.is_empty() {
                return None;
            }
            codec::encode_frame(encoding, &self.message(&joined, &left))
        };
        let is_too_long = session.outbox.max_message_bytes.is_some_and(|bound| frame.len() > bound);
        Some(if is_too_long { self.reset(encoding) } else { frame })
    }

    fn message<'m>(&'m self, joined: &'m [&'m str], left: &'m [&'m str]) -> ServerMessage<'m> {
        ServerMessage::PresenceChanged { channel: self.channel, joined, left, reset: self.reset }
    }

    fn reset(&self, encoding: Encoding) -> Frame {
        let channel = self.channel;
        let message = ServerMessage::PresenceChanged { channel, joined: &[], left: &[], reset: true };
        codec::encode_frame(encoding, &message)
    }
}
