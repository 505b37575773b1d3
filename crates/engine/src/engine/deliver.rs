//! From one publication to the frames that wait for each connection; and the bound on what waits.

use std::rc::Rc;
use std::sync::Arc;

use drawbridge_protocol::{CloseCode, Frame};

use super::Engine;
use crate::connection::Connection;
use crate::expr::Expr;
use crate::io::{Claims, ConnId, Publication};
use crate::permissions;
use crate::settings::Settings;
use crate::targets::{Judgement, TargetId};
use crate::view::{EventScope, RuleScope, View, Views, bind_me};

impl Engine {
    /// Hands a publication to every connection that is subscribed to it and may see it, once each.
    pub(super) fn publication(&mut self, publication: &Arc<Publication>) {
        self.publication += 1;
        self.stats.publications += 1;
        let exact = self.targets.find_channel(&publication.channel);
        if let Some(id) = exact {
            self.deliver_exact(id, publication);
        }
        let mut matched = std::mem::take(&mut self.matched);
        self.targets.matching_patterns(&publication.channel, &mut matched);
        for id in matched.drain(..) {
            self.deliver_pattern(id, publication);
        }
        self.matched = matched;
    }

    fn deliver_exact(&mut self, id: TargetId, publication: &Publication) {
        let Some(target) = self.targets.get_mut(id) else { return };
        if let Some(position) = &mut target.position {
            position.offset = publication.offset;
        }
        let scope = EventScope { channel: &publication.channel, event: &publication.event };
        let turn = self.publication;
        let mut slow = Vec::new();
        for subscriber in &target.subscribers {
            let Some(conn) = self.connections.get_mut(subscriber.conn) else { continue };
            if !subscriber.live || !conn.is_open() || subscriber.is_own_past(conn.connection, publication) {
                continue;
            }
            if subscriber.view.as_ref().is_some_and(|view| !view.shows(turn, &scope)) {
                self.stats.hidden += 1;
                continue;
            }
            self.stats.deliveries += 1;
            if conn.deliver(publication, turn, &mut self.dirty) > self.settings.outbound_bytes {
                slow.push(subscriber.conn);
            }
        }
        self.close_slow(slow);
    }

    fn deliver_pattern(&mut self, id: TargetId, publication: &Arc<Publication>) {
        let scope = EventScope { channel: &publication.channel, event: &publication.event };
        let turn = self.publication;
        let mut slow = Vec::new();
        let Some(target) = self.targets.get_mut(id) else { return };
        for subscriber in &mut target.subscribers {
            let Some(conn) = self.connections.get_mut(subscriber.conn) else { continue };
            if !subscriber.live
                || !conn.is_open()
                || conn.last_turn == turn
                || subscriber.is_own_past(conn.connection, publication)
            {
                continue;
            }
            let Some(claims) = &conn.claims else { continue };
            let judged = conn.judged.get_or_insert_default();
            let view = match judged.get(id, &publication.channel) {
                Some(judgement) => judgement.clone(),
                None => {
                    let client = subscriber.filter.as_ref();
                    let judgement =
                        judge(&self.settings, &mut self.views, claims, client, &publication.channel);
                    judged.insert(id, publication.channel.clone(), judgement.clone());
                    judgement
                }
            };
            if !shows(&view, turn, &scope) {
                self.stats.hidden += 1;
                continue;
            }
            self.stats.deliveries += 1;
            if conn.deliver(publication, turn, &mut self.dirty) > self.settings.outbound_bytes {
                slow.push(subscriber.conn);
            }
        }
        self.close_slow(slow);
    }

    /// Queues a frame to one connection.
    pub(super) fn push(&mut self, id: ConnId, frame: Frame) {
        let bound = self.settings.outbound_bytes;
        let Some(conn) = self.connections.get_mut(id) else { return };
        if conn.queue(frame, &mut self.dirty) > bound {
            self.close_slow(vec![id]);
        }
    }

    fn close_slow(&mut self, slow: Vec<ConnId>) {
        for id in slow {
            // What waits is of no use to a reader that does not read.
            if let Some(conn) = self.connections.get_mut(id) {
                conn.pending = Vec::new();
                self.stats.slow_consumers += 1;
            }
            self.close(id, CloseCode::SlowConsumer, "slow consumer");
        }
    }

    pub(super) fn blocked(&mut self, id: ConnId, mut unsent: Vec<Frame>) {
        let bound = self.settings.outbound_bytes;
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.blocked = true;
        unsent.append(&mut conn.pending);
        conn.pending = unsent;
        conn.pending_bytes = conn.pending.iter().map(Frame::len).sum();
        if conn.pending_bytes > bound {
            self.close_slow(vec![id]);
        }
    }

    pub(super) fn writable(&mut self, id: ConnId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.blocked = false;
        if !conn.pending.is_empty() && !conn.dirty {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }
}

impl Connection {
    /// Queues an event and remembers that this publication is decided; gives what [`Connection::queue`] gives.
    fn deliver(&mut self, publication: &Publication, turn: u64, dirty: &mut Vec<ConnId>) -> usize {
        self.last_turn = turn;
        self.queue(publication.frame(self.encoding).clone(), dirty)
    }

    /// Queues a frame; gives what waits in bytes where that can grow without end: while the socket is blocked.
    fn queue(&mut self, frame: Frame, dirty: &mut Vec<ConnId>) -> usize {
        self.pending_bytes += frame.len();
        self.pending.push(frame);
        if self.blocked {
            return self.pending_bytes;
        }
        if !self.dirty {
            self.dirty = true;
            dirty.push(self.id);
        }
        0
    }
}

/// What one pattern subscriber may see of one real channel.
fn judge(
    settings: &Settings,
    views: &mut Views,
    claims: &Claims,
    filter: Option<&Expr>,
    channel: &str,
) -> Judgement {
    if permissions::may_subscribe(settings, claims, channel).is_err() {
        return Judgement::Hidden;
    }
    let scope = RuleScope::new(claims, channel, &[]);
    let client = filter.map(|filter| bind_me(filter, &scope));
    Judgement::Shown(views.get(permissions::server_view(settings, claims, channel), client))
}

fn shows(judgement: &Judgement, turn: u64, scope: &EventScope<'_>) -> bool {
    match judgement {
        Judgement::Hidden => false,
        Judgement::Shown(view) => view.as_ref().is_none_or(|view: &Rc<View>| view.shows(turn, scope)),
    }
}
