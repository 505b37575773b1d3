//! The link that gives a subject to another one: it delivers until it reads the marker, and hands the entry over as it is.

use super::super::hub::{Hub, State};
use super::super::io::{HubOutput, LinkCommand};
use super::super::tables::uncount;
use super::super::topology::Move;
use super::{Handover, Leaving, PeerMessage};
use crate::io::Subject;

impl Hub {
    /// This link gives a subject away.
    pub(in crate::upstream) fn give(&mut self, Move { subject, home, from, to, marker }: Move) {
        let is_home = from == home;
        if !self.entries.contains_key(&subject) {
            self.moves.place(&subject, !is_home, false);
            return self.send_to_peer(to, PeerMessage::Given(subject, None));
        }
        self.moves.markers.insert(marker.clone(), subject.clone());
        self.moves.leaving.insert(subject.clone(), Leaving { to, marker, is_home, is_asked: false });
        self.advance_leaving(&subject);
    }

    /// An entry that is to be given is live, or will not be: goes on with its move.
    pub(in crate::upstream) fn advance_leaving(&mut self, subject: &Subject) {
        let Some(leaving) = self.moves.leaving.get_mut(subject) else { return };
        match self.entries.get(subject).map(|entry| entry.state) {
            Some(State::Live) if leaving.is_asked => {}
            Some(State::Live) => {
                leaving.is_asked = true;
                let marker = Subject::channel(leaving.marker.clone());
                self.outputs.push_back(HubOutput::Link(LinkCommand::Subscribe(vec![marker])));
            }
            // Its answer is to come first.
            Some(State::Asked | State::Loading | State::Ending) => {}
            Some(State::Waiting) if self.link_up && self.barrier.is_open() => {}
            Some(State::Waiting) => self.hand_over(subject, true),
            None => self.hand_over(subject, true),
        }
    }

    /// Gives an entry away as it is.
    pub(super) fn hand_over(&mut self, subject: &Subject, broken: bool) {
        let Some(Leaving { to, marker, is_home, is_asked }) = self.moves.leaving.remove(subject) else {
            return;
        };
        self.moves.markers.remove(&marker);
        self.moves.place(subject, !is_home, false);
        let mut ended = Vec::new();
        if is_asked {
            ended.push(Subject::channel(marker));
        }
        let handover = self.take_out(subject, broken, &mut ended);
        self.end_for_move(ended);
        self.send_to_peer(to, PeerMessage::Given(subject.clone(), handover));
    }

    /// Takes an entry out, to be given. Adds it to `ended` if it is subscribed.
    pub(in crate::upstream) fn take_out(
        &mut self,
        subject: &Subject,
        broken: bool,
        ended: &mut Vec<Subject>,
    ) -> Option<Box<Handover>> {
        let (_, mut entry) = self.entries.remove_entry(subject)?;
        let mut broken = broken || entry.broken;
        if let Some(log) = entry.source.log_mut() {
            // What is held follows nothing on another link.
            broken |= log.is_reading();
            log.link_broke();
        }
        if !matches!(entry.state, State::Waiting) {
            ended.push(subject.clone());
        }
        self.live -= usize::from(entry.state == State::Live);
        self.interrupted -= usize::from(entry.broken);
        if let Some(table) = entry.source.table() {
            uncount(&mut self.stats, table);
            self.sweeps.remove(&(table.sweep_at_ms, subject.name.clone()));
            self.retries.remove(&(table.read_at_ms, subject.name.clone()));
        }
        let was_live = entry.state == State::Live;
        Some(Box::new(Handover { entry, was_live, broken }))
    }

    pub(in crate::upstream) fn end_for_move(&mut self, subjects: Vec<Subject>) {
        if !self.link_up || subjects.is_empty() {
            return;
        }
        for subject in &subjects {
            *self.moves.ending.entry(subject.clone()).or_default() += 1;
        }
        self.outputs.push_back(HubOutput::Link(LinkCommand::Unsubscribe(subjects)));
    }
}
