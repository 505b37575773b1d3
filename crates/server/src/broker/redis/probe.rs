//! The delivery probe of one link. A ping proves that a server answers, not that publications arrive: after a DNS name has
//! moved, a link can stay on a former master that answers all it is sent. So each link subscribes to a channel that nobody
//! else uses, and the publisher publishes there as it publishes everything.
//!
//! ```text
//!   Unsubscribed ── the channel is confirmed ──▶ Idle ── `due` ──▶ Published ── Redis accepts it ──▶ Accepted ── ping
//!                                                 ▲                    │                                │      answered
//!                                                 └── not taken: says nothing of the link ◀─────────────┴─────────┘
//! ```
//!
//! Why a ping behind it: Redis puts a publication into the link's output before it acknowledges it. What is not there
//! before the answer to a later ping never comes, however far the link is behind. No clock decides.
//!
//! In a Cluster ([`Reach`]) the bus carries a publication to the link's master after it was acknowledged by another one, so the
//! ping follows [`BUS_TIME`] later. A link of sharded channels is probed by `SPUBLISH` on a channel in one of its master's slots;
//! when the slot moves it subscribes to another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use drawbridge_engine::io::{Outcome, PublishFailure};
use tokio::sync::mpsc;

use super::Names;
use crate::broker::hub_driver::HubCommand;
use crate::broker::jobs::JobSender;

/// So many missing in a row, and the link is cut off.
const CUT_OFF_AFTER: u32 = 3;

/// How long the bus of a Cluster may take to carry a publication from one master to another, however busy the machines are.
const BUS_TIME: Duration = Duration::from_secs(1);
/// How what is published reaches a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is published on the link's own server.
    Server,
    /// Over the bus of a Cluster, if it is published on another master.
    Bus,
    /// As a sharded channel, on the link's own master.
    Master,
}

/// What a link does for its probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// It sends a ping and notifies the probe of the answer ([`ProbeStep::Passed`]).
    Ping(u64),
    /// It subscribes to the channel.
    Subscribe,
}

/// Where probes go, and where their outcomes are sent: to their link.
#[derive(Debug)]
pub(in crate::broker) struct ProbeLine {
    pub(in crate::broker) jobs: JobSender,
    pub(in crate::broker) link: mpsc::WeakUnboundedSender<HubCommand>,
}

/// What the link is notified of.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::broker) enum ProbeStep {
    /// What became of a probe's publish.
    Published(u64, Outcome),
    /// A ping behind it was answered on the link.
    Passed(u64),
}

/// What the answer to a ping proves about the probe before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It arrived, or was forgotten with another connection.
    Nothing,
    /// Redis took it, and it did not arrive.
    Missing,
    /// As so many before it: publications do not reach this link.
    CutOff { missing: u32, last: Option<Duration> },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Probe {
    link: usize,
    every: Duration,
    reach: Reach,
    names: Names,
    random: u64,
    /// As the node knows it.
    channel: Arc<str>,
    /// As Redis knows it.
    outward: Box<[u8]>,
    line: ProbeLine,
    /// The number of the last probe. Grows over all connections, so that an answer is never taken for another's.
    seq: u64,
    state: State,
    /// When the next one is published, if none is under way.
    due: Instant,
    missing: u32,
    /// When one arrived last on this connection.
    arrived_at: Option<Instant>,
    /// Publications did not reach the connection before, and none has reached this one yet.
    is_cut_off: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Redis has not confirmed the channel, or does not let this node use it. It subscribes again at this time, if at all.
    Unsubscribed { again: Option<Instant> },
    /// None is under way.
    Idle,
    /// Handed to the publisher.
    Published { at: Instant, has_arrived: bool },
    /// Redis has taken it, and a ping follows it on the link: at this time, if it was not sent yet.
    Accepted { at: Instant, has_arrived: bool, ping_at: Option<Instant> },
}

impl Probe {
    /// The probe of a link, which publishes so often.
    pub(super) fn new(link: usize, every: Duration, reach: Reach, names: &Names, line: ProbeLine) -> Self {
        let random = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let mut probe = Probe {
            link,
            every,
            reach,
            names: names.clone(),
            random,
            channel: "".into(),
            outward: Box::default(),
            line,
            seq: 0,
            state: State::Unsubscribed { again: None },
            due: Instant::now(),
            missing: 0,
            arrived_at: None,
            is_cut_off: false,
        };
        probe.set_channel(names.probe_channel(random, link));
        probe
    }

    fn set_channel(&mut self, channel: String) {
        self.outward = self.names.outward(&channel).as_bytes().into();
        self.channel = channel.into();
    }

    /// Chooses the channel for a connection to a master; `slot`: one that this has. Returns whether there is a channel.
    pub(super) fn choose_channel(&mut self, slot: Option<u16>) -> bool {
        if self.reach != Reach::Master {
            return true;
        }
        if let Some(slot) = slot {
            self.set_channel(self.names.sharded_probe_channel(self.random, self.link, slot));
        }
        slot.is_some()
    }

    /// Where the channel's slot is not on this connection's master any more, it subscribes to another channel.
    pub(super) fn check_slot(&mut self, has_slot: impl Fn(&[u8]) -> bool, now: Instant) {
        let is_subscribed = !matches!(self.state, State::Unsubscribed { .. });
        if self.reach == Reach::Master && is_subscribed && !has_slot(&self.outward) {
            self.state = State::Unsubscribed { again: Some(now) };
        }
    }

    /// The channel that it comes on.
    pub(super) fn channel(&self) -> &Arc<str> {
        &self.channel
    }

    /// How what is published reaches the link.
    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// Whether Redis means that channel.
    #[inline]
    pub(super) fn is_own(&self, channel: &[u8]) -> bool {
        *channel == *self.outward
    }

    /// Whether no publication has reached the link since it was found cut off.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// The connection has ended. What of it is still under way says nothing of the next one.
    pub(super) fn connection_ended(&mut self) {
        self.state = State::Unsubscribed { again: None };
        self.missing = 0;
        self.arrived_at = None;
    }

    /// Redis has confirmed the channel: the first probe follows at once.
    pub(super) fn confirmed(&mut self, now: Instant) {
        self.state = State::Idle;
        self.due = now;
    }

    /// Redis refuses the channel: this connection is not probed.
    pub(super) fn refused(&mut self) {
        self.state = State::Unsubscribed { again: None };
        // Else it would be so for ever.
        self.is_cut_off = false;
    }

    /// The subscription has ended, or there was none: the slot is, or will be, another master's. It subscribes to another channel
    /// a little later.
    pub(super) fn ended(&mut self, now: Instant) {
        self.state = State::Unsubscribed { again: Some(now + self.every) };
    }

    /// The link leads to another master than before: what the one before could not do says nothing of it.
    pub(super) fn led_elsewhere(&mut self) {
        self.is_cut_off = false;
    }

    /// When [`Probe::tick`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Unsubscribed { again } => again,
            State::Idle => Some(self.due),
            State::Published { .. } => None,
            State::Accepted { ping_at, .. } => ping_at,
        }
    }

    /// Publishes the next one if it is time, or returns what the link is to do.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Task> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        match &mut self.state {
            State::Unsubscribed { again } => {
                *again = None;
                Some(Task::Subscribe)
            }
            State::Accepted { ping_at, .. } => {
                *ping_at = None;
                Some(Task::Ping(self.seq))
            }
            State::Idle | State::Published { .. } => {
                self.publish(now);
                None
            }
        }
    }

    fn publish(&mut self, now: Instant) {
        self.seq += 1;
        self.state = State::Published { at: now, has_arrived: false };
        self.due = now + self.every;
        let payload = Bytes::from(self.seq.to_string());
        self.line.jobs.push_probe(self.channel.clone(), payload, self.seq, self.line.link.clone());
    }

    /// One has arrived. Returns how long ago it was published, unless it is another connection's.
    pub(super) fn arrived(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        if payload != self.seq.to_string().as_bytes() {
            return None;
        }
        let at = match &mut self.state {
            State::Published { at, has_arrived } | State::Accepted { at, has_arrived, .. } => {
                *has_arrived = true;
                *at
            }
            State::Unsubscribed { .. } | State::Idle => return None,
        };
        if matches!(self.state, State::Accepted { ping_at: Some(_), .. }) {
            self.state = State::Idle;
        }
        (self.missing, self.arrived_at, self.is_cut_off) = (0, Some(now), false);
        Some(now.saturating_duration_since(at))
    }

    /// What became of a publish; the failure is Redis' refusal.
    pub(super) fn published(&mut self, seq: u64, outcome: Outcome, now: Instant) -> Result<(), Arc<str>> {
        let State::Published { at, has_arrived } = self.state else { return Ok(()) };
        if seq != self.seq {
            return Ok(());
        }
        match outcome {
            Ok(_) if !has_arrived => {
                let bus_time = if self.reach == Reach::Bus { BUS_TIME } else { Duration::ZERO };
                self.state = State::Accepted { at, has_arrived, ping_at: Some(now + bus_time) };
                return Ok(());
            }
            // Redis was not there, or too much waited for it: that says nothing of the link.
            _ => self.state = State::Idle,
        }
        match outcome {
            Err(PublishFailure::Refused(reason)) => Err(reason),
            _ => Ok(()),
        }
    }

    /// All that Redis had published on this connection by the time that it took a probe has been read.
    pub(super) fn passed(&mut self, seq: u64, now: Instant) -> Verdict {
        let State::Accepted { has_arrived, .. } = self.state else { return Verdict::Nothing };
        if seq != self.seq {
            return Verdict::Nothing;
        }
        self.state = State::Idle;
        if has_arrived {
            return Verdict::Nothing;
        }
        self.missing += 1;
        if self.missing < CUT_OFF_AFTER {
            return Verdict::Missing;
        }
        self.is_cut_off = true;
        let last = self.arrived_at.map(|at| now.saturating_duration_since(at));
        Verdict::CutOff { missing: self.missing, last }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fanout::ShardFanout;
    use super::super::super::jobs::{JobReceiver, jobs};
    use super::super::super::queue::shard_queue;
    use super::super::cluster_map::slot_of;
    use super::*;

    const EVERY: Duration = Duration::from_secs(2);

    struct Link {
        probe: Probe,
        jobs: JobReceiver,
        steps: mpsc::UnboundedReceiver<HubCommand>,
        _link: mpsc::UnboundedSender<HubCommand>,
        now: Instant,
    }

    impl Link {
        fn new(reach: Reach) -> Self {
            let ((shard, _), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
            let (sender, jobs) = jobs(1 << 20, ShardFanout::new(vec![shard], node));
            let (link, steps) = mpsc::unbounded_channel();
            let line = ProbeLine { jobs: sender, link: link.downgrade() };
            let probe = Probe::new(3, EVERY, reach, &Names::new("prod:", "drawbridge:"), line);
            Link { probe, jobs, steps, _link: link, now: Instant::now() }
        }

        /// Lets the next probe be published and answered so; whether a ping follows it at once.
        fn publish(&mut self, outcome: Outcome) -> Result<bool, Arc<str>> {
            self.now += EVERY;
            assert_eq!(self.probe.tick(self.now), None);
            self.jobs.try_recv().expect("a probe").answer(outcome);
            self.is_answered()?;
            Ok(self.probe.tick(self.now) == Some(Task::Ping(self.probe.seq)))
        }

        fn is_answered(&mut self) -> Result<(), Arc<str>> {
            match self.steps.try_recv() {
                Ok(HubCommand::Probe(ProbeStep::Published(seq, outcome))) => {
                    self.probe.published(seq, outcome, self.now)
                }
                other => panic!("{other:?}"),
            }
        }

        fn passed(&mut self) -> Verdict {
            self.probe.passed(self.probe.seq, self.now)
        }

        fn arrives(&mut self) -> Option<Duration> {
            self.probe.arrived(self.probe.seq.to_string().as_bytes(), self.now)
        }
    }

    #[test]
    fn three_that_redis_took_and_a_ping_overtook_are_a_link_that_is_cut_off() {
        let mut link = Link::new(Reach::Server);
        assert!(link.probe.is_own(link.probe.outward.clone().as_ref()));
        assert!(link.probe.outward.starts_with(b"prod:drawbridge:probe:"));
        assert_eq!(link.probe.due(), None, "not before it is subscribed");
        link.probe.confirmed(link.now);
        assert_eq!(link.publish(Ok(None)), Ok(true));
        link.now += Duration::from_millis(5);
        assert_eq!(link.arrives(), Some(Duration::from_millis(5)));
        assert_eq!(link.passed(), Verdict::Nothing);
        for verdict in [Verdict::Missing, Verdict::Missing] {
            assert_eq!(link.publish(Ok(None)), Ok(true));
            assert_eq!(link.passed(), verdict);
        }
        assert!(!link.probe.is_cut_off());
        assert_eq!(link.publish(Ok(None)), Ok(true));
        assert_eq!(link.passed(), Verdict::CutOff { missing: 3, last: Some(3 * EVERY) });
        link.probe.connection_ended();
        link.probe.confirmed(link.now);
        assert!(link.probe.is_cut_off(), "until one arrives");
        assert_eq!(link.publish(Ok(None)), Ok(true));
        assert!(link.arrives().is_some() && !link.probe.is_cut_off());
    }

    #[test]
    fn what_redis_has_not_taken_is_not_missing() {
        let mut link = Link::new(Reach::Server);
        link.probe.confirmed(link.now);
        for _ in 0..10 {
            for failure in [PublishFailure::NotDone, PublishFailure::Unknown] {
                assert_eq!(link.publish(Err(failure)), Ok(false));
                assert_eq!(link.passed(), Verdict::Nothing);
            }
        }
        let reason: Arc<str> = "NOPERM".into();
        assert_eq!(link.publish(Err(PublishFailure::Refused(reason.clone()))), Err(reason));
        assert!(!link.probe.is_cut_off());
    }

    #[test]
    fn one_that_arrives_before_its_publish_is_answered_needs_no_ping_and_ends_a_series() {
        let mut link = Link::new(Reach::Server);
        link.probe.confirmed(link.now);
        for _ in 0..5 {
            for _ in 0..2 {
                assert_eq!(link.publish(Ok(None)), Ok(true));
                assert_eq!(link.passed(), Verdict::Missing);
            }
            link.now += EVERY;
            assert_eq!(link.probe.tick(link.now), None);
            assert!(link.arrives().is_some());
            link.jobs.try_recv().expect("a probe").answer(Ok(None));
            assert_eq!(link.is_answered(), Ok(()));
            assert_eq!(link.probe.tick(link.now), None);
        }
    }

    #[test]
    fn what_a_cluster_carries_late_is_not_missing() {
        let mut link = Link::new(Reach::Bus);
        link.probe.confirmed(link.now);
        for _ in 0..5 {
            assert_eq!(link.publish(Ok(None)), Ok(false), "the bus has its time");
            link.now += BUS_TIME / 2;
            assert_eq!(link.probe.tick(link.now), None);
            assert_eq!(link.arrives(), Some(BUS_TIME / 2));
        }
        for verdict in [Verdict::Missing, Verdict::Missing] {
            assert_eq!(link.publish(Ok(None)), Ok(false));
            link.now += BUS_TIME;
            assert_eq!(link.probe.tick(link.now), Some(Task::Ping(link.probe.seq)));
            assert_eq!(link.passed(), verdict);
        }
        assert_eq!(link.publish(Ok(None)), Ok(false));
        link.now += BUS_TIME;
        assert_eq!(link.probe.tick(link.now), Some(Task::Ping(link.probe.seq)));
        assert!(matches!(link.passed(), Verdict::CutOff { missing: 3, .. }));
    }

    #[test]
    fn a_sharded_probe_is_in_a_slot_of_the_links_master_and_follows_it() {
        let mut link = Link::new(Reach::Master);
        assert!(link.probe.choose_channel(Some(3)));
        assert_eq!(slot_of(&link.probe.outward), 3);
        assert!(Names::new("prod:", "drawbridge:").is_sharded_probe(link.probe.channel()));
        link.probe.confirmed(link.now);
        link.probe.check_slot(|channel| slot_of(channel) == 3, link.now);
        assert_eq!(link.publish(Ok(None)), Ok(true), "it is published where the link is");
        link.probe.check_slot(|channel| slot_of(channel) == 4, link.now);
        assert_eq!(link.passed(), Verdict::Nothing);
        assert_eq!(link.probe.tick(link.now), Some(Task::Subscribe));
        assert!(link.probe.choose_channel(Some(4)) && slot_of(&link.probe.outward) == 4);
        link.probe.ended(link.now);
        assert_eq!((link.probe.tick(link.now), link.probe.due()), (None, Some(link.now + EVERY)));
        assert!(!link.probe.choose_channel(None));
    }

    #[test]
    fn an_answer_that_is_another_connections_says_nothing() {
        let mut link = Link::new(Reach::Server);
        link.probe.confirmed(link.now);
        assert_eq!(link.publish(Ok(None)), Ok(true));
        let before = link.probe.seq;
        link.probe.connection_ended();
        assert_eq!(link.probe.passed(before, link.now), Verdict::Nothing);
        link.probe.confirmed(link.now);
        link.now += EVERY;
        assert_eq!(link.probe.tick(link.now), None);
        assert_eq!(link.probe.published(before, Ok(None), link.now), Ok(()));
        assert_eq!(link.probe.arrived(before.to_string().as_bytes(), link.now), None);
    }

    #[test]
    fn only_one_is_under_way_and_they_keep_their_pace() {
        let mut link = Link::new(Reach::Server);
        link.probe.confirmed(link.now);
        for _ in 0..10 {
            assert_eq!(link.probe.tick(link.now), None);
            link.now += EVERY;
        }
        assert!(link.jobs.try_recv().is_some());
        assert!(link.jobs.try_recv().is_none());
        assert_eq!(link.probe.due(), None);
    }
}
