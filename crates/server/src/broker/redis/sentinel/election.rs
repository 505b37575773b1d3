//! Which of the sentinels' reports to believe. No I/O.
//!
//! A sentinel that was cut off, stopped or restarted may name a master that has been replaced. Each report carries the
//! configuration epoch, which counts up with every failover: the report of the newest epoch is believed. An older epoch, or
//! another address under the same one, is believed only if most sentinels of the service agree: they were set up again, and
//! their epochs began again.

use std::collections::HashMap;

use super::super::RedisAddress;

/// The name by which sentinels know one another, also where one has several addresses.
pub(in crate::broker::redis) type SentinelId = String;

/// What one sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::broker::redis) struct Report {
    pub(in crate::broker::redis) id: SentinelId,
    /// The master that it names.
    pub(in crate::broker::redis) master: RedisAddress,
    /// The configuration epoch under which it does.
    pub(in crate::broker::redis) epoch: u64,
    /// The other sentinels that it knows.
    pub(in crate::broker::redis) others: Vec<(SentinelId, RedisAddress)>,
}

/// The last report of each sentinel that answers, and the master that is believed.
#[derive(Debug, Default)]
pub(super) struct Election {
    reports: HashMap<RedisAddress, Report>,
    /// The master and its epoch.
    elected: Option<(RedisAddress, u64)>,
}

impl Election {
    /// The sentinel at this address said this; `None`: it does not answer.
    pub(super) fn note(&mut self, sentinel: RedisAddress, report: Option<Report>) {
        match report {
            Some(report) => drop(self.reports.insert(sentinel, report)),
            None => drop(self.reports.remove(&sentinel)),
        }
    }

    /// Drops the reports of sentinels that are no longer followed.
    pub(super) fn retain(&mut self, is_followed: impl Fn(&RedisAddress) -> bool) {
        self.reports.retain(|sentinel, _| is_followed(sentinel));
    }

    /// The sentinels that answer.
    pub(super) fn answering(&self) -> usize {
        self.by_id().len()
    }

    /// Whether this sentinel answers, at whatever address.
    pub(super) fn has(&self, id: &str) -> bool {
        self.reports.values().any(|report| report.id == id)
    }

    /// The other sentinels that those know that answer.
    pub(super) fn others(&self) -> impl Iterator<Item = &(SentinelId, RedisAddress)> {
        self.reports.values().flat_map(|report| &report.others)
    }

    /// Elects the master by the reports. Returns it if it is another than before.
    pub(super) fn elect(&mut self) -> Option<RedisAddress> {
        let by_id = self.by_id();
        // The sentinels that exist, whether they answer or not.
        let all = by_id.values().map(|report| report.others.len() + 1).max()?;
        let votes = |address: &RedisAddress| by_id.values().filter(|of| of.master == *address).count();
        let best = by_id.values().max_by_key(|report| {
            let is_elected = self.elected.as_ref().is_some_and(|(master, _)| *master == report.master);
            (report.epoch, votes(&report.master), is_elected)
        })?;
        let is_believed = match &self.elected {
            None => true,
            Some((master, epoch)) => {
                best.epoch > *epoch
                    || (best.epoch == *epoch && best.master == *master)
                    || 2 * votes(&best.master) > all
            }
        };
        let (master, epoch) = (best.master.clone(), best.epoch);
        if !is_believed {
            return None;
        }
        let before = self.elected.replace((master.clone(), epoch));
        (before.map(|(before, _)| before).as_ref() != Some(&master)).then_some(master)
    }

    fn by_id(&self) -> HashMap<&str, &Report> {
        self.reports.values().map(|report| (&*report.id, report)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u16 = 1;
    const NEW: u16 = 2;

    fn address(port: u16) -> RedisAddress {
        RedisAddress::Tcp { host: "h".into(), port }
    }

    /// Sentinel `number` of three names the server at this port.
    fn names(election: &mut Election, number: u16, master: u16, epoch: u64) -> Option<u16> {
        let others = (1..=3).filter(|other| *other != number);
        let report = Report {
            id: format!("s{number}"),
            master: address(master),
            epoch,
            others: others.map(|other| (format!("s{other}"), address(100 + other))).collect(),
        };
        election.note(address(100 + number), Some(report));
        elected(election)
    }

    fn elected(election: &mut Election) -> Option<u16> {
        election.elect().map(|master| match master {
            RedisAddress::Tcp { port, .. } => port,
            RedisAddress::Unix(_) => 0,
        })
    }

    #[test]
    fn the_first_sentinel_that_answers_is_believed_until_a_newer_epoch_is_there() {
        let mut election = Election::default();
        assert_eq!(elected(&mut election), None);
        assert_eq!(names(&mut election, 1, OLD, 3), Some(OLD));
        assert_eq!(names(&mut election, 2, OLD, 3), None);
        assert_eq!(names(&mut election, 3, NEW, 4), Some(NEW));
        // Two of three are late: the epoch counts, not the number.
        assert_eq!(names(&mut election, 1, OLD, 3), None);
    }

    #[test]
    fn a_sentinel_that_comes_back_with_an_old_epoch_is_not_believed() {
        let mut election = Election::default();
        assert_eq!(names(&mut election, 1, NEW, 4), Some(NEW));
        election.note(address(101), None);
        assert_eq!(election.answering(), 0);
        assert_eq!(names(&mut election, 2, OLD, 3), None);
        // The same epoch with another address: this one has not heard of the whole failover.
        assert_eq!(names(&mut election, 2, OLD, 4), None);
    }

    #[test]
    fn most_sentinels_are_believed_under_any_epoch_because_they_were_set_up_again() {
        let mut election = Election::default();
        assert_eq!(names(&mut election, 1, OLD, 9), Some(OLD));
        election.note(address(101), None);
        assert_eq!(names(&mut election, 2, NEW, 0), None);
        assert_eq!(names(&mut election, 3, NEW, 0), Some(NEW));
        assert_eq!(names(&mut election, 2, OLD, 1), Some(OLD));
    }

    #[test]
    fn one_sentinel_at_two_addresses_has_one_vote() {
        let mut election = Election::default();
        assert_eq!(names(&mut election, 1, OLD, 9), Some(OLD));
        let report = election.reports[&address(101)].clone();
        election.note(address(101), None);
        for port in [201, 202] {
            let report = Report { master: address(NEW), epoch: 0, ..report.clone() };
            election.note(address(port), Some(report));
        }
        assert_eq!((elected(&mut election), election.answering()), (None, 1));
        assert!(election.has("s1") && !election.has("s2"));
    }
}
