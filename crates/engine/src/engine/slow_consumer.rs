//! Sockets that take no more, and what happens when more waits for a session than its limit allows: its queues shed what
//! their classes permit, and where that is not enough the session is closed with 4001.

use drawbridge_protocol::{CloseCode, Frame};

use super::Engine;
use super::deliver::delivery_of;
use crate::class::SlowConsumer;
use crate::io::SessionId;
use crate::outbox::{OutboundQueue, QueueKind};
use crate::settings::Settings;
use crate::targets::Targets;

impl Engine {
    /// Sheds or closes what went over the limit since this was called last.
    ///
    /// Why not at once: whoever sends holds a target and its subscribers. Every function that sends calls this before it
    /// returns.
    pub(super) fn enforce_limits(&mut self) {
        if self.out.over_limit.is_empty() {
            return;
        }
        let mut over_limit = std::mem::take(&mut self.out.over_limit);
        over_limit.dedup();
        for id in over_limit {
            self.enforce_limit(id);
        }
    }

    /// More may wait for this session than the limit allows.
    fn enforce_limit(&mut self, id: SessionId) {
        let session = &self.sessions[id];
        if session.holds_events() {
            return self.enforce_held_limit(id);
        }
        if session.is_closing() || self.shed(id) {
            return;
        }
        self.out.stats.slow_consumers += 1;
        self.close(id, CloseCode::SlowConsumer, "slow consumer");
    }

    pub(super) fn blocked(&mut self, id: SessionId, unsent: Vec<Frame>) {
        let session = &mut self.sessions[id];
        if let Some(link) = &mut session.link {
            link.is_blocked = true;
        }
        session.outbox.return_frames(unsent);
        // Until a socket blocks its queues may exceed the limit: it was about to take them.
        self.enforce_limit(id);
    }

    pub(super) fn writable(&mut self, id: SessionId) {
        let session = &mut self.sessions[id];
        if let Some(link) = &mut session.link {
            link.is_blocked = false;
        }
        self.send_missed_presence(id);
        let session = &mut self.sessions[id];
        if session.outbox.has_frames() || session.outbox.has_queues() {
            self.out.mark_dirty(session);
        }
        self.go_on_catching_up(id);
    }

    /// Lets queues conflate, then drops the oldest events of the largest. Returns whether that is enough. Tables of entities
    /// conflate as soon as the socket blocks, for a newer state replaces an older one anyway; streams only beyond the limit.
    ///
    /// Invariant: frames are never dropped, and no queue of a class with `disconnect` is touched. Each round of the loop
    /// empties a queue or frees at least an eighth of the limit, so it ends.
    pub(super) fn shed(&mut self, id: SessionId) -> bool {
        let session = &mut self.sessions[id];
        if session.outbox.has_too_many_frames() {
            return false;
        }
        let (mut may_lose, mut is_strict) = (Vec::new(), false);
        for (kind, queue) in session.outbox.queues().to_vec() {
            let policy = policy_of(&self.settings, &self.targets, kind);
            match policy {
                SlowConsumer::Latest => {
                    if matches!(kind, QueueKind::Table(_)) || session.outbox.is_over_limit() {
                        session.outbox.change(&mut self.out.queues, queue, OutboundQueue::conflate);
                    }
                    may_lose.push((kind, queue, policy));
                }
                SlowConsumer::DropOldest => may_lose.push((kind, queue, policy)),
                SlowConsumer::Disconnect => is_strict = true,
            }
        }
        while session.outbox.is_over_limit() {
            // Of the largest the first.
            let sizes = may_lose.iter().rev().map(|queue| (self.out.queues.bytes(queue.1), *queue));
            let largest = sizes.filter(|(bytes, _)| *bytes > 0).max_by_key(|(bytes, _)| *bytes);
            let Some((_, (kind, queue, policy))) = largest else { return !is_strict };
            // Some more than is needed, so that not every further event has to make room.
            let excess = session.outbox.bytes() - session.outbox.limit() + session.outbox.limit() / 8;
            let dropped = session.outbox.change(&mut self.out.queues, queue, |queue| match kind {
                QueueKind::Table(target) => {
                    queue.restart((policy == SlowConsumer::DropOldest).then_some(target));
                    0
                }
                QueueKind::Stream(_) => queue.drop_oldest(excess),
            });
            self.out.stats.shed += dropped as u64;
        }
        true
    }
}

/// What happens to a queue when more waits than the limit allows.
pub(super) fn policy_of(settings: &Settings, targets: &Targets, kind: QueueKind) -> SlowConsumer {
    let class = match kind {
        QueueKind::Table(target) => targets[target].class,
        QueueKind::Stream(class) => class,
    };
    delivery_of(settings, class).slow_consumer
}
