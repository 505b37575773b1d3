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
    every: Duration,
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
    /// Redis has not confirmed the channel, or does not let this node use it.
    Unsubscribed,
    /// None is under way.
    Idle,
    /// Handed to the publisher.
    Published { at: Instant, has_arrived: bool },
    /// Redis has taken it, and a ping follows it on the link.
    Accepted { at: Instant, has_arrived: bool },
}

impl Probe {
    /// The probe of a link, which publishes so often.
    pub(super) fn new(link: usize, every: Duration, names: &Names, line: ProbeLine) -> Self {
        // Why random: several nodes, also by mistake of one name, share a Redis.
        let random = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let channel: Arc<str> = format!("{}probe:{random:016x}:{link}", names.key_prefix()).into();
        let outward = names.outward(&channel).as_bytes().into();
        let (seq, state, due) = (0, State::Unsubscribed, Instant::now());
        Probe {
            every,
            channel,
            outward,
            line,
            seq,
            state,
            due,
            missing: 0,
            arrived_at: None,
            is_cut_off: false,
        }
    }

    /// The channel that it comes on.
    pub(super) fn channel(&self) -> &Arc<str> {
        &self.channel
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
        self.state = State::Unsubscribed;
        self.missing = 0;
        self.arrived_at = None;
    }

    /// Redis has confirmed the channel: the first probe follows at once.
    pub(super) fn confirmed(&mut self, now: Instant) {
        self.state = State::Idle;
        self.due = now;
    }

    /// Redis refuses the channel, or has ended the subscription: this connection is not probed.
    pub(super) fn refused(&mut self) {
        self.state = State::Unsubscribed;
        // Else it would be so for ever.
        self.is_cut_off = false;
    }

    /// When [`Probe::tick`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.state == State::Idle).then_some(self.due)
    }

    /// Publishes the next one, if it is time.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
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
        let (State::Published { at, has_arrived } | State::Accepted { at, has_arrived }) = &mut self.state
        else {
            return None;
        };
        *has_arrived = true;
        let round_trip = now.saturating_duration_since(*at);
        (self.missing, self.arrived_at, self.is_cut_off) = (0, Some(now), false);
        Some(round_trip)
    }

    /// What became of a publish. Returns whether a ping is to follow on the link ([`ProbeStep::Passed`]); the failure is
    /// Redis' refusal.
    pub(super) fn published(&mut self, seq: u64, outcome: Outcome) -> Result<bool, Arc<str>> {
        let State::Published { at, has_arrived } = self.state else { return Ok(false) };
        if seq != self.seq {
            return Ok(false);
        }
        match outcome {
            Ok(_) if !has_arrived => {
                self.state = State::Accepted { at, has_arrived };
                return Ok(true);
            }
            // Redis was not there, or too much waited for it: that says nothing of the link.
            _ => self.state = State::Idle,
        }
        match outcome {
            Err(PublishFailure::Refused(reason)) => Err(reason),
            _ => Ok(false),
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
        fn new() -> Self {
            let ((shard, _), (node, _)) = (shard_queue(1 << 20), shard_queue(1 << 20));
            let (sender, jobs) = jobs(1 << 20, ShardFanout::new(vec![shard], node));
            let (link, steps) = mpsc::unbounded_channel();
            let line = ProbeLine { jobs: sender, link: link.downgrade() };
            let probe = Probe::new(3, EVERY, &Names::new("prod:", "drawbridge:"), line);
            Link { probe, jobs, steps, _link: link, now: Instant::now() }
        }

        /// Lets the next probe be published and answered so; what the link learns of it.
        fn publish(&mut self, outcome: Outcome) -> Result<bool, Arc<str>> {
            self.now += EVERY;
            self.probe.tick(self.now);
            self.jobs.try_recv().expect("a probe").answer(outcome);
            match self.steps.try_recv() {
                Ok(HubCommand::Probe(ProbeStep::Published(seq, outcome))) => {
                    self.probe.published(seq, outcome)
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
        let mut link = Link::new();
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
        let mut link = Link::new();
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
        let mut link = Link::new();
        link.probe.confirmed(link.now);
        for _ in 0..5 {
            for _ in 0..2 {
                assert_eq!(link.publish(Ok(None)), Ok(true));
                assert_eq!(link.passed(), Verdict::Missing);
            }
            link.now += EVERY;
            link.probe.tick(link.now);
            assert!(link.arrives().is_some());
            link.jobs.try_recv().expect("a probe").answer(Ok(None));
            let Ok(HubCommand::Probe(ProbeStep::Published(seq, outcome))) = link.steps.try_recv() else {
                panic!("no step")
            };
            assert_eq!(link.probe.published(seq, outcome), Ok(false));
        }
    }

    #[test]
    fn an_answer_that_is_another_connections_says_nothing() {
        let mut link = Link::new();
        link.probe.confirmed(link.now);
        assert_eq!(link.publish(Ok(None)), Ok(true));
        let before = link.probe.seq;
        link.probe.connection_ended();
        assert_eq!(link.probe.passed(before, link.now), Verdict::Nothing);
        link.probe.confirmed(link.now);
        link.now += EVERY;
        link.probe.tick(link.now);
        assert_eq!(link.probe.published(before, Ok(None)), Ok(false));
        assert_eq!(link.probe.arrived(before.to_string().as_bytes(), link.now), None);
    }

    #[test]
    fn only_one_is_under_way_and_they_keep_their_pace() {
        let mut link = Link::new();
        link.probe.confirmed(link.now);
        link.probe.tick(link.now);
        for _ in 0..10 {
            link.now += EVERY;
            link.probe.tick(link.now);
        }
        assert!(link.jobs.try_recv().is_some());
        assert!(link.jobs.try_recv().is_none());
        assert_eq!(link.probe.due(), None);
    }
}
