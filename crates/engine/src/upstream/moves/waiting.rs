//! What comes for a subject that is on its way to this link: held until the entry is there, and then carried out in the order in
//! which it came.

use std::sync::Arc;

use super::super::dedup::Content;
use super::super::hub::Hub;
use super::super::io::HubOutput;
use super::super::shards::{ShardId, ShardSet};
use crate::io::{BrokerEvent, LoggedOffset, Subject};

/// How many events for the shards a move holds beside messages; beyond that it counts as a break.
const MAX_HELD_EVENTS: usize = 1_024;

/// What came for a subject before it was handed over.
#[derive(Debug)]
pub(super) enum Held {
    Message(Box<[u8]>),
    Oversized(usize),
    Want(ShardId),
    Unwant(ShardId),
    Refresh(ShardId),
    CatchUp(ShardId, LoggedOffset),
    Event(ShardSet, BrokerEvent),
}

impl Hub {
    /// Sends shards an event about a subject behind what is held of it. `false`: it can be sent at once, and was not sent:
    /// nothing is held, or the move is broken, so that its order with the channel's events is void.
    pub fn send_behind(&mut self, subject: &Subject, shards: ShardSet, event: BrokerEvent) -> bool {
        let Some(joining) = self.moves.joining.get_mut(subject) else { return false };
        if joining.held_events >= MAX_HELD_EVENTS {
            self.joining_fails(subject);
        }
        let Some(joining) = self.moves.joining.get_mut(subject).filter(|joining| !joining.is_broken) else {
            return false;
        };
        joining.held_events += 1;
        joining.held.push(Held::Event(shards, event));
        true
    }

    /// Holds a command about a subject that is being taken. Returns whether it did.
    pub(in crate::upstream) fn holds_want(&mut self, shard: ShardId, subject: &Subject) -> bool {
        self.hold(subject, Held::Want(shard))
    }

    /// As [`Hub::holds_want`]. A shard's want that is held ends with it, so that of each shard at most an unwant, a want and
    /// a refresh are held.
    pub(in crate::upstream) fn holds_unwant(&mut self, shard: ShardId, subject: &Subject) -> bool {
        let joining = self.moves.joining.get_mut(subject);
        let is_want = |held: &Held| matches!(held, Held::Want(by) if *by == shard);
        if let Some(joining) = joining
            && let Some(at) = joining.held.iter().rposition(is_want)
        {
            joining.held.remove(at);
            self.release(shard, subject);
            return true;
        }
        self.hold(subject, Held::Unwant(shard))
    }

    /// As [`Hub::holds_want`].
    pub(in crate::upstream) fn holds_refresh(&mut self, shard: ShardId, subject: &Subject) -> bool {
        let is_same = |held: &Held| matches!(held, Held::Refresh(by) if *by == shard);
        let joining = self.moves.joining.get(subject);
        joining.is_some_and(|joining| joining.held.iter().any(is_same))
            || self.hold(subject, Held::Refresh(shard))
    }

    /// As [`Hub::holds_want`]; of each shard one, for all that it needs.
    pub(in crate::upstream) fn holds_catch_up(
        &mut self,
        shard: ShardId,
        channel: &Arc<str>,
        after: LoggedOffset,
    ) -> bool {
        if self.moves.joining.is_empty() {
            return false;
        }
        let subject = Subject::channel(channel.clone());
        let held = self.moves.joining.get_mut(&subject).into_iter().flat_map(|joining| &mut joining.held);
        for held in held {
            if let Held::CatchUp(by, from) = held
                && *by == shard
            {
                *from = (*from).min(after);
                return true;
            }
        }
        self.hold(&subject, Held::CatchUp(shard, after))
    }

    fn hold(&mut self, subject: &Subject, held: Held) -> bool {
        if self.moves.joining.is_empty() {
            return false;
        }
        let Some(joining) = self.moves.joining.get_mut(subject) else { return false };
        joining.held.push(held);
        true
    }

    pub(super) fn carry_out_held(&mut self, now_ms: u64, subject: &Subject, held: Held) {
        match held {
            Held::Message(payload) => {
                self.message(now_ms, None, subject.name.as_bytes(), Content::Whole(&payload))
            }
            Held::Oversized(bytes) => {
                self.message(now_ms, None, subject.name.as_bytes(), Content::Oversized(bytes));
            }
            Held::Want(shard) => self.want(shard, subject.clone()),
            Held::Unwant(shard) => self.unwant(now_ms, shard, subject),
            Held::Refresh(shard) => self.refresh(shard, subject),
            Held::CatchUp(shard, after) => self.catch_up(shard, &subject.name, after),
            Held::Event(shards, event) => self.outputs.push_back(HubOutput::Shards(shards, event)),
        }
    }
}
