//! The link that takes a subject from another one: it subscribes, publishes the marker, and goes on with the entry that it is
//! given. What it holds meanwhile is in [`super::waiting`].

use super::super::due::pop_due;
use super::super::hub::{Hub, State};
use super::super::io::{HubOutput, LinkCommand};
use super::super::source::Source;
use super::super::tables::count;
use super::super::topology::Move;
use super::waiting::Held;
use super::{Early, Handover, Joining, PeerMessage, Subscribed, TIMEOUT_MS};
use crate::io::{BrokerEvent, Subject};

impl Hub {
    /// This link takes a subject.
    pub(in crate::upstream) fn take(&mut self, now_ms: u64, Move { subject, home, from, to, marker }: Move) {
        let Early { is_giver_ready, given } = self.moves.early.remove(&subject).unwrap_or_default();
        let deadline_ms = now_ms + TIMEOUT_MS;
        let joining = Joining {
            from,
            marker: marker.clone(),
            subscribed: [Subscribed::Asked; 2],
            is_giver_ready,
            is_marked: false,
            is_past_marker: false,
            is_broken: false,
            given,
            held: Vec::new(),
            held_bytes: 0,
            held_events: 0,
            deadline_ms,
        };
        self.moves.deadlines.insert((deadline_ms, subject.clone()));
        self.moves.markers.insert(marker.clone(), subject.clone());
        self.moves.place(&subject, to == home, true);
        self.moves.joining.insert(subject.clone(), joining);
        // Behind a break nothing is subscribed before the barrier opens: what moves then is given as broken.
        if self.link_up && self.barrier.is_open() {
            let both = vec![subject, Subject::channel(marker)];
            self.outputs.push_back(HubOutput::Link(LinkCommand::Subscribe(both)));
        } else if let Some(joining) = self.moves.joining.get_mut(&subject) {
            joining.subscribed = [Subscribed::No; 2];
            self.joining_fails(&subject);
            self.advance_joining(now_ms, &subject);
        }
    }

    /// Breaks the moves that take too long, say because Redis refuses to publish their markers.
    pub(in crate::upstream) fn end_late_moves(&mut self, now_ms: u64) {
        while let Some((_, subject)) = pop_due(&mut self.moves.deadlines, now_ms) {
            self.joining_fails(&subject);
            self.advance_joining(now_ms, &subject);
        }
    }

    /// The subject cannot be taken without a gap: nothing is waited for any more.
    pub(super) fn joining_fails(&mut self, subject: &Subject) {
        let Some(joining) = self.moves.joining.get_mut(subject) else { return };
        if std::mem::replace(&mut joining.is_broken, true) {
            return;
        }
        joining.held.retain(|held| !matches!(held, Held::Message(_) | Held::Oversized(_)));
        joining.held_events = 0;
        for event in joining.held.extract_if(.., |held| matches!(held, Held::Event(..))) {
            if let Held::Event(shards, event) = event {
                self.outputs.push_back(HubOutput::Shards(shards, event));
            }
        }
        if joining.given.is_none() {
            let from = joining.from;
            self.send_to_peer(from, PeerMessage::GiveNow(subject.clone()));
        }
    }

    pub(super) fn advance_joining(&mut self, now_ms: u64, subject: &Subject) {
        let Some(joining) = self.moves.joining.get_mut(subject) else { return };
        if joining.subscribed == [Subscribed::Yes; 2]
            && joining.is_giver_ready
            && !joining.is_marked
            && !joining.is_broken
        {
            joining.is_marked = true;
            self.outputs.push_back(HubOutput::Link(LinkCommand::Mark(joining.marker.clone())));
            return;
        }
        let gives_broken = match &joining.given {
            None => return,
            Some(given) => given.as_ref().is_none_or(|handover| handover.broken),
        };
        // An answer that is still to come would be taken for the answer to a later subscription.
        if joining.subscribed.contains(&Subscribed::Asked) {
            return;
        }
        // What was given whole waits for the marker; what was not does not.
        if joining.is_past_marker || joining.is_broken || gives_broken {
            self.take_over(now_ms, subject);
        }
    }

    /// Both links are done: the entry is this link's.
    fn take_over(&mut self, now_ms: u64, subject: &Subject) {
        let Some(joining) = self.moves.joining.remove(subject) else { return };
        self.moves.markers.remove(&joining.marker);
        self.moves.deadlines.remove(&(joining.deadline_ms, subject.clone()));
        let is_subscribed = joining.subscribed[0] == Subscribed::Yes;
        let mut ended = Vec::new();
        if joining.subscribed[1] == Subscribed::Yes {
            ended.push(Subject::channel(joining.marker.clone()));
        }
        let handover = joining.given.flatten();
        let is_whole = joining.is_past_marker && !joining.is_broken;
        if is_subscribed && handover.is_none() {
            ended.push(subject.clone());
        }
        self.end_for_move(ended);
        if let Some(handover) = handover {
            self.insert_moved(now_ms, subject, *handover, is_subscribed, is_whole);
        }
        for held in joining.held {
            self.carry_out_held(now_ms, subject, held);
        }
        self.outputs.push_back(HubOutput::Moved(subject.clone()));
    }

    fn insert_moved(&mut self, now_ms: u64, subject: &Subject, moved: Handover, live: bool, is_whole: bool) {
        let is_whole = is_whole && moved.was_live && !moved.broken && live;
        if !is_whole && !self.all_shards.is_empty() {
            // A player command may be lost, about anybody who is subscribed or is to be.
            let recover = BrokerEvent::Recover { dropped: true, barrier: None };
            self.outputs.push_back(HubOutput::Shards(self.all_shards, recover));
        }
        self.insert_given(now_ms, subject, moved, live, is_whole);
    }

    /// Puts an entry in that was given; one that is not `is_whole` has a gap.
    pub(in crate::upstream) fn insert_given(
        &mut self,
        now_ms: u64,
        subject: &Subject,
        moved: Handover,
        live: bool,
        is_whole: bool,
    ) {
        let Handover { mut entry, was_live, .. } = moved;
        let shards = entry.shards;
        if was_live && !is_whole && !shards.is_empty() {
            self.outputs.push_back(HubOutput::Shards(shards, BrokerEvent::Interrupted(subject.clone())));
        }
        entry.broken = !is_whole && (entry.broken || was_live);
        entry.state = if is_whole { State::Live } else { State::Waiting };
        self.live += usize::from(is_whole);
        self.interrupted += usize::from(entry.broken);
        if is_whole && let Some(table) = entry.source.table() {
            count(&mut self.stats, table);
            self.sweeps.insert((table.sweep_at_ms, subject.name.clone()));
        } else if let Source::Table(table) = &mut entry.source {
            table.begin(0);
        }
        if shards.is_empty() {
            self.linger(now_ms, subject, &mut entry);
        }
        let reads = entry.source.is_stored();
        self.entries.insert(subject.clone(), entry);
        match (is_whole, live) {
            (true, _) => self.serve_catch_ups(&subject.name),
            (false, true) if reads => self.load(now_ms, subject),
            (false, true) => self.goes_live(now_ms, subject),
            (false, false) => self.waiting.push_back(subject.clone()),
        }
    }
}
