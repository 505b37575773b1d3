//! Snapshots of entity channels: sent in parts, as fast as the socket takes them. When one begins is up to [`super`].

use drawbridge_protocol::event::{AREA_REQUIRED, ViewEnter, encode_view_enter};

use super::messages::MAX_ENTITIES;
use crate::audience::{AudienceId, NOBODY};
use crate::engine::message_bounds::{MessageBounds, head_bytes};
use crate::outbox::{Snapshot, SnapshotState};
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
}

impl SnapshotPart {
    /// Sends the next part; returns the rest of the snapshot, if any.
    ///
    /// Why in parts, and none ready before its time: a table may be larger than the limit of what waits, and frames cannot
    /// be dropped.
    pub(super) fn send(
        &self,
        session: &mut Session,
        target: &mut Target,
        snapshot: SnapshotState,
        stats: &mut Stats,
    ) -> Option<Snapshot> {
        let (Some(world), Some(audiences)) = (&mut target.world, &target.audiences) else { return None };
        let mut snapshot = match snapshot {
            SnapshotState::Running(snapshot) => snapshot,
            SnapshotState::Wanted => {
                stats.snapshots += 1;
                session.outbox.start_table(self.target_id);
                Snapshot::new(world.seen_by(audiences, self.audience))
            }
        };
        let name = &target.subject.name;
        // Why not as long as the client accepts: frames cannot be dropped when it does not read.
        let composed = self.bounds.composed.min(self.max_bytes / 2);
        let mut sent_bytes = 0;
        while sent_bytes == 0 || sent_bytes + composed <= self.max_bytes {
            let reset = snapshot.is_fresh();
            let (mut elements, mut bytes, mut steps) = (Vec::new(), head_bytes(name), 0);
            while elements.len() < MAX_ENTITIES
                && let Some(id) = snapshot.peek()
            {
                if let Some(state) = world.state_seen(audiences, self.audience, id) {
                    let element = state.element(session.encoding());
                    if self.bounds.excludes_entity(session.encoding(), state) {
                        session.outbox.leave_out(self.target_id, id);
                    } else if !elements.is_empty() && bytes + element.len() >= composed {
                        break;
                    } else {
                        bytes += element.len() + 1;
                        steps += work::to_send(element.len());
                        elements.push(element.clone());
                    }
                }
                snapshot.advance();
            }
            world.work().add(steps);
            stats.view_enters += elements.len() as u64;
            let complete = snapshot.is_done();
            // A named subscription of an entity channel has an audience, except where the class requires an area that it lacks.
            let reason = (self.audience == NOBODY).then_some(AREA_REQUIRED);
            let message = ViewEnter { channel: name, reset, complete, reason, entities: &elements };
            session.outbox.enqueue_frame(encode_view_enter(session.encoding(), &message));
            sent_bytes += bytes;
            if complete {
                return None;
            }
        }
        Some(snapshot)
    }
}
