//! What really happened to the logs: each logged event with the one before it, so that every history is a chain.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::plain::{PREFIX, Published};

/// One logged event.
#[derive(Clone, Debug)]
pub struct Fact {
    pub channel: String,
    pub number: u64,
    pub team: Option<String>,
    pub epoch: String,
    pub offset: u64,
    /// The event before it in its history.
    before: Option<usize>,
}

/// The end of one history.
#[derive(Clone, Debug, Default)]
struct End {
    /// The newest event, of this epoch or one before.
    newest: Option<usize>,
}

#[derive(Debug, Default)]
pub struct Facts {
    all: Vec<Fact>,
    by_number: BTreeMap<u64, usize>,
    /// Plain `PUBLISH`es.
    pub volatile: BTreeSet<u64>,
    /// Of channels without history.
    pub plain: Published,
    /// By channel and epoch.
    ends: BTreeMap<(String, String), End>,
}

impl Facts {
    /// Redis publishes this.
    pub fn published(&mut self, channel: &str, payload: &[u8], is_logged: bool) {
        if channel.starts_with(PREFIX) {
            return self.plain.take(channel, payload);
        }
        let envelope: Value = serde_json::from_slice(payload).unwrap();
        let number = envelope["data"]["n"].as_u64().unwrap();
        if !is_logged {
            self.volatile.insert(number);
            return;
        }
        let epoch = envelope["epoch"].as_str().unwrap().to_owned();
        let end = self.ends.entry((channel.to_owned(), epoch.clone())).or_default();
        let fact = Fact {
            channel: channel.to_owned(),
            number,
            team: envelope["data"]["team"].as_str().map(str::to_owned),
            epoch,
            offset: envelope["offset"].as_u64().unwrap(),
            before: end.newest,
        };
        end.newest = Some(self.all.len());
        self.by_number.insert(number, self.all.len());
        self.all.push(fact);
    }

    /// Redis has started again: on this channel another epoch goes on behind this offset of the one before.
    pub fn goes_on(&mut self, channel: &str, before: &str, epoch: &str, offset: u64) {
        let newest = self.at(channel, before, offset);
        self.ends.insert((channel.to_owned(), epoch.to_owned()), End { newest });
    }

    pub fn of_number(&self, number: u64) -> (usize, &Fact) {
        let at = *self.by_number.get(&number).unwrap_or_else(|| panic!("{number} was never logged"));
        (at, &self.all[at])
    }

    /// A history from its newest event back.
    fn back(&self, from: Option<usize>) -> impl Iterator<Item = (usize, &Fact)> {
        std::iter::successors(from, |at| self.all[*at].before).map(|at| (at, &self.all[at]))
    }

    fn newest(&self, channel: &str, epoch: &str) -> Option<usize> {
        self.ends.get(&(channel.to_owned(), epoch.to_owned())).and_then(|end| end.newest)
    }

    /// The event at this offset in an epoch's history, or the newest before it.
    fn at(&self, channel: &str, epoch: &str, offset: u64) -> Option<usize> {
        let mut back = self.back(self.newest(channel, epoch));
        back.find(|(_, fact)| fact.offset <= offset).map(|(at, _)| at)
    }

    /// Whether an event is in an epoch's history.
    pub fn has(&self, channel: &str, epoch: &str, event: usize) -> bool {
        self.back(self.newest(channel, epoch)).any(|(at, _)| at == event)
    }

    /// The events of an epoch's history behind one offset, up to another one.
    pub fn between<'f>(
        &'f self,
        channel: &str,
        epoch: &str,
        behind: u64,
        up_to: u64,
    ) -> impl Iterator<Item = &'f Fact> {
        self.back(self.newest(channel, epoch))
            .map(|(_, fact)| fact)
            .skip_while(move |fact| fact.offset > up_to)
            .take_while(move |fact| fact.offset > behind)
    }
}
