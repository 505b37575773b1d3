//! Snapshots of entity channels: all that is in view, sent in parts. When a part is made is up to [`super`]; what is in
//! view is up to the world, entity by entity, when the snapshot comes to it.

use drawbridge_protocol::event::{AREA_REQUIRED, ViewEnter, encode_view_enter};

use super::messages::MAX_ENTITIES;
use crate::audience::{AudienceId, NOBODY};
use crate::engine::message_bounds::{MessageBounds, head_bytes};
use crate::outbox::Snapshot;
use crate::session::Session;
use crate::stats::Stats;
use crate::targets::{Target, TargetId};
use crate::work;

/// What the next part of a snapshot needs beside connection and target.
pub(super) struct SnapshotPart {
    pub(super) target_id: TargetId,
    pub(super) audience: AudienceId,
    pub(super) bounds: MessageBounds,
    /// All messages together have at most so many bytes, except for one that a single entity fills.
    pub(super) max_bytes: usize,
    /// It does at most so many steps of work, and those of one entity.
    pub(super) max_steps: u64,
}

impl SnapshotPart {
    /// Sends the next part; returns the rest of the snapshot, if any.
    ///
    /// Why in parts, and none ready before its time: a table may be larger than the limit of what waits, and frames cannot
    /// be dropped; and while one snapshot is made, everyone else on the shard waits.
    pub(super) fn send(
        &self,
        session: &mut Session,
        target: &mut Target,
        mut snapshot: Snapshot,
        stats: &mut Stats,
    ) -> Option<Snapshot> {
        let (Some(world), Some(audiences)) = (&mut target.world, &target.audiences) else { return None };
        if self.max_steps == 0 {
            return Some(snapshot);
        }
        let work = world.work().clone();
        let end = work.total().saturating_add(self.max_steps);
        if snapshot.next == 0 && !snapshot.is_begun {
            stats.snapshots += 1;
            session.outbox.start_table(self.target_id);
        }
        let name = &target.subject.name;
        // Why not as long as the client accepts: frames cannot be dropped when it does not read.
        let composed = self.bounds.composed.min(self.max_bytes / 2);
        let mut sent_bytes = 0;
        while work.total() < end && (sent_bytes == 0 || sent_bytes + composed <= self.max_bytes) {
            let (mut elements, mut bytes) = (Vec::new(), head_bytes(name));
            while elements.len() < MAX_ENTITIES
                && work.total() < end
                && let Some(id) = world.next_candidate(audiences, self.audience, snapshot.next)
            {
                let state = world.state_seen(audiences, self.audience, id);
                if let Some(state) = state.filter(|_| !snapshot.leaves_out(id)) {
                    let element = state.element(session.encoding());
                    if self.bounds.excludes_entity(session.encoding(), state) {
                        session.outbox.leave_out(self.target_id, id);
                    } else if !elements.is_empty() && bytes + element.len() >= composed {
                        break;
                    } else {
                        bytes += element.len() + 1;
                        work.add(work::to_send(element.len()));
                        elements.push(element.clone());
                    }
                }
                snapshot.next = id + 1;
            }
            let complete = world.next_candidate(audiences, self.audience, snapshot.next).is_none();
            // All that it came to is hidden.
            if elements.is_empty() && !complete {
                continue;
            }
            stats.view_enters += elements.len() as u64;
            // A named subscription of an entity channel has an audience, except where the class requires an area that it lacks.
            let reason = (self.audience == NOBODY).then_some(AREA_REQUIRED);
            let reset = !snapshot.is_begun;
            let message = ViewEnter { channel: name, reset, complete, reason, entities: &elements };
            session.outbox.enqueue_frame(encode_view_enter(session.encoding(), &message));
            snapshot.is_begun = true;
            sent_bytes += bytes;
            if complete {
                return None;
            }
        }
        Some(snapshot)
    }
}
