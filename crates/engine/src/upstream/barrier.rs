//! Recovery after a break: what a link lost is subscribed again only when every shard knows what services have commanded
//! meanwhile. Otherwise a player could be shown, for a moment, what a service has hidden from it (invariant 12).
//!
//! ```text
//!  a link's half (`RecoveryBarrier`)
//!
//!   Open ──the link broke──▶ Closed ──the node's own channel is confirmed──▶ Recovering ──every shard has passed──▶ Open
//!                              ▲  only the node's own channels are subscribed     │ each shard is sent `Recover` with a token
//!                              └──────────────the link broke again────────────────┘
//!
//!  a shard's half (`ShardBarrier`)
//!
//!   Clear ──Recover: all players' views are queried──▶ Waiting ──all answered, or withdrawn──▶ Clear: `Recovered` with the token
//! ```
//!
//! Invariant: a token opens only the recovery that it was made for: one of a break before says nothing of this one.

use super::hub::{Hub, State};
use super::io::HubOutput;
use super::shards::{ShardId, ShardSet};
use super::topology::LinkId;
use crate::io::{BrokerEvent, Ticket};

/// Names one recovery of one link. Opaque to shards, which give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierToken {
    link: LinkId,
    round: u64,
}

impl BarrierToken {
    /// The token of a link's recovery; `round` counts them.
    pub fn new(link: LinkId, round: u64) -> Self {
        BarrierToken { link, round }
    }

    /// The link that waits for it.
    pub fn link(self) -> LinkId {
        self.link
    }

    /// Which of the link's recoveries it is.
    pub fn round(self) -> u64 {
        self.round
    }
}

/// The phase of a link's recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Everything may be subscribed.
    Open,
    /// The link broke: commands are missed until the node's own channel is confirmed.
    Closed,
    /// These shards still have to learn what was commanded meanwhile.
    Recovering(ShardSet),
}

/// A link's half.
#[derive(Debug)]
pub(super) struct RecoveryBarrier {
    link: LinkId,
    round: u64,
    phase: Phase,
}

impl RecoveryBarrier {
    pub(super) fn new(link: LinkId) -> Self {
        RecoveryBarrier { link, round: 0, phase: Phase::Open }
    }

    /// Whether anything but the node's own channels may be subscribed.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The link broke. `missed`: commands may be missed, for the node's own channels were subscribed on it.
    pub(super) fn link_broke(&mut self, missed: bool) {
        if missed || !self.is_open() {
            self.close();
        }
    }

    /// Commands may be missed from now on, or were.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
    }

    /// From now on no command is missed, or none can be received at all. `was_live`: they were before. Returns what these
    /// shards are sent.
    pub(super) fn listening(&mut self, shards: ShardSet, was_live: bool) -> BrokerEvent {
        if self.is_open() {
            return BrokerEvent::Recover { dropped: was_live, barrier: None };
        }
        self.round += 1;
        self.phase = Phase::Recovering(shards);
        let token = BarrierToken { link: self.link, round: self.round };
        BrokerEvent::Recover { dropped: false, barrier: Some(token) }
    }

    /// As if every shard had passed.
    #[cfg(test)]
    pub(super) fn open(&mut self) {
        self.phase = Phase::Open;
    }

    /// A shard knows its players' views.
    pub(super) fn pass(&mut self, shard: ShardId, token: BarrierToken) {
        let Phase::Recovering(waiting) = &mut self.phase else { return };
        if (token.link, token.round) != (self.link, self.round) {
            return;
        }
        waiting.remove(shard);
        if waiting.is_empty() {
            self.phase = Phase::Open;
        }
    }
}

impl Hub {
    /// Every shard is to read its players' view overrides.
    pub(super) fn begin_listening(&mut self, was_live: bool) {
        let event = self.barrier.listening(self.all_shards, was_live);
        self.outputs.push_back(HubOutput::Shards(self.all_shards, event));
    }

    /// Whether no player command is missed on this link from now on, or none can be received because Redis refused their channel.
    pub(super) fn is_listening(&self) -> bool {
        let mut of_commands = self.entries.values().filter(|entry| entry.rules.is_of_commands()).peekable();
        let receives = of_commands.peek().is_none() || of_commands.any(|entry| entry.state == State::Live);
        self.link_up && !self.all_shards.is_empty() && receives
    }

    /// Whether anybody listens to player commands on this link.
    pub(super) fn wants_commands(&self) -> bool {
        self.entries.values().any(|entry| entry.rules.is_of_commands() && !entry.shards.is_empty())
    }
}

/// A shard's half: which links wait until the views that are being read are known.
#[derive(Debug, Default)]
pub(crate) struct ShardBarrier {
    tokens: Vec<BarrierToken>,
    /// The last query that has to be answered before.
    behind: Ticket,
}

impl ShardBarrier {
    /// All players' views are queried again, up to this ticket. A link's token replaces its one before.
    #[must_use]
    pub(crate) fn raised(mut self, token: Option<BarrierToken>, last: Ticket) -> Self {
        self.tokens.retain(|other| token.is_none_or(|token| token.link != other.link));
        self.tokens.extend(token);
        self.behind = last;
        self
    }

    /// The tokens to give back, now that this is the oldest query that waits.
    pub(crate) fn pass(&mut self, oldest: Option<Ticket>) -> Vec<BarrierToken> {
        match oldest.is_some_and(|oldest| oldest <= self.behind) {
            true => Vec::new(),
            false => std::mem::take(&mut self.tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(ids: &[u8]) -> ShardSet {
        let mut set = ShardSet::default();
        ids.iter().for_each(|id| set.insert(ShardId(*id)));
        set
    }

    fn token(event: &BrokerEvent) -> Option<BarrierToken> {
        match event {
            BrokerEvent::Recover { barrier, .. } => *barrier,
            _ => None,
        }
    }

    #[test]
    fn opens_when_every_shard_has_passed_this_recovery() {
        let mut barrier = RecoveryBarrier::new(LinkId::at(1));
        barrier.link_broke(true);
        let first =
            token(&barrier.listening(shards(&[0, 1]), true)).unwrap_or(BarrierToken::new(LinkId::at(9), 0));
        barrier.pass(ShardId(0), first);
        barrier.link_broke(false);
        barrier.pass(ShardId(1), first);
        assert!(!barrier.is_open(), "the link broke again");
        let second = token(&barrier.listening(shards(&[0, 1]), true)).unwrap_or(first);
        barrier.pass(ShardId(1), first);
        barrier.pass(ShardId(0), second);
        barrier.pass(ShardId(0), second);
        barrier.pass(ShardId(1), BarrierToken::new(LinkId::at(0), second.round()));
        assert!(!barrier.is_open());
        barrier.pass(ShardId(1), second);
        assert!(barrier.is_open());
    }

    #[test]
    fn stays_open_where_nothing_was_missed() {
        let mut barrier = RecoveryBarrier::new(LinkId::at(0));
        barrier.link_broke(false);
        assert!(barrier.is_open());
        let event = barrier.listening(shards(&[0]), true);
        assert!(matches!(event, BrokerEvent::Recover { dropped: true, barrier: None }));
    }

    #[test]
    fn a_shard_passes_when_all_that_was_queried_is_answered() {
        let (first, other) = (BarrierToken::new(LinkId::at(0), 1), BarrierToken::new(LinkId::at(1), 1));
        let again = BarrierToken::new(LinkId::at(0), 2);
        let mut barrier =
            ShardBarrier::default().raised(Some(first), Ticket(5)).raised(Some(other), Ticket(7));
        assert_eq!(barrier.pass(Some(Ticket(7))), []);
        barrier = barrier.raised(Some(again), Ticket(9));
        assert_eq!(barrier.pass(Some(Ticket(9))), []);
        assert_eq!(barrier.pass(Some(Ticket(10))), [other, again]);
        assert_eq!(barrier.pass(None), []);
    }
}
