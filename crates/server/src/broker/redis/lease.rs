//! How a node proves to the others that it lives, and what it does about those that died: it renews its lease every few
//! seconds, by Redis' clock, and each renewal returns whose leases are too old. Behind these it cleans up ([`Cleanup`]), one
//! part at a time, so that its own renewals stay on time.
//!
//! ```text
//!   connect ──▶ renew ──▶ clean up a part, pause, the next part … ──▶ renew ──▶ …
//!                 └── Redis has lost the lease, or another node has begun to clean up behind this one:
//!                     a little later the shards write all that they had stored (BrokerEvent::StoreLost)
//! ```
//!
//! Why not at once: until [`DEADLINE`] the other node's last part may still come.
//!
//! Why other connections ensure it, too ([`hold`]): behind a failover Redis may lack it, and what they write then must be found
//! also if this node dies before it renews.
//!
//! Why a node cleans up only when its renewals have followed one another for as long as a lease lasts: after an outage of
//! Redis everyone's lease is old, and the first to come back would take the others for dead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drawbridge_engine::io::{BrokerEvent, LiveNode};
use redis::Value;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::cleanup::{Cleanup, DEADLINE, DeadNode, PAUSE, Step};
use super::command_connection::text;
use super::commands::Commands;
use super::connect::{Attempts, Broken, spread};
use super::connector::Connector;
use super::library::MARK;
use super::refusals::is_missing_function;
use super::writes::UNPROVEN;
use super::{RedisSettings, is_passing};
use crate::broker::fanout::ShardFanout;
use crate::broker::health_board::HealthBoard;
use crate::broker::link_metrics::LinkMetrics;

/// How often a lease is renewed, give or take a fifth.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// A node whose lease is older is dead.
const DEAD_AFTER: Duration = Duration::from_secs(10);
/// How long to wait when Redis says that it cannot just now, or lacks the functions.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long to wait where Redis does not let this node renew its lease.
const REFUSED_AFTER: Duration = Duration::from_secs(10);
/// How long a node that ends may take to hand over its sessions, and to wait for its last writes before.
const HAND_OVER: Duration = Duration::from_millis(1_500);

/// See the module.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Names this start of the node, and no other start of any node.
    pub instance: Arc<str>,
    /// How long a session can be resumed behind the death of its node, or its end.
    pub resume_window: Duration,
    /// How often the lease is renewed, about.
    pub renew_every: Duration,
    /// A node whose lease is older is dead: the same on all nodes of an environment.
    pub dead_after: Duration,
}

impl LeaseSettings {
    /// With the times that all nodes of an environment share.
    pub fn new(instance: Arc<str>, resume_window: Duration) -> Self {
        LeaseSettings { instance, resume_window, renew_every: RENEW_EVERY, dead_after: DEAD_AFTER }
    }
}

/// What a node says of itself to the others, as a JSON object: made at each renewal.
#[derive(Clone, Default)]
pub(in crate::broker) struct NodeReport(Arc<Mutex<Option<MakeReport>>>);

type MakeReport = Box<dyn Fn() -> String + Send>;

impl NodeReport {
    /// From here on this makes it.
    pub(in crate::broker) fn set(&self, make: impl Fn() -> String + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(make));
    }

    pub(in crate::broker) fn make(&self) -> String {
        let make = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        make.as_ref().map_or_else(|| "{}".to_owned(), |make| make())
    }
}

impl std::fmt::Debug for NodeReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeReport")
    }
}

/// The call that lists the nodes whose leases hold.
pub(super) fn list_call(settings: &RedisSettings) -> redis::Cmd {
    let mut call = redis::cmd("FCALL_RO");
    call.arg("drawbridge_leases").arg(3).arg(&settings.names.lease_keys()[..]);
    call.arg(settings.lease.dead_after.as_millis() as u64);
    call
}

/// Ensures that others clean up behind this node, on a connection on which is written what they find: that the node has a lease. Not in
/// a Cluster, where another master may have the leases, and one that is away holds up nothing else.
pub(super) async fn hold(connector: &Connector, commands: &mut Commands) -> Result<(), Broken> {
    if connector.cluster().is_none() {
        let settings = &connector.settings;
        let mut call = redis::cmd("FCALL");
        call.arg("drawbridge_lease_hold").arg(3).arg(&settings.names.lease_keys()[..]);
        call.arg(&*settings.lease.instance);
        // Where Redis refuses it, or lacks the functions, the next renewal says so.
        drop(commands.ask(&call).await?);
    }
    Ok(())
}

/// Opens a connection, and ensures the lease ([`hold`]).
pub(super) async fn open_with_lease(connector: &Connector, part: &str) -> Result<Commands, Broken> {
    let mut commands = Commands::open(connector, part).await?;
    hold(connector, &mut commands).await?;
    Ok(commands)
}

/// The answer to [`list_call`].
pub(super) fn read_list(answer: &Value) -> Result<Vec<LiveNode>, String> {
    let unproven = || UNPROVEN.to_owned();
    let Value::Array(parts) = answer else { return Err(unproven()) };
    let [mark, Value::Int(_), listed @ ..] = &parts[..] else { return Err(unproven()) };
    if text(mark).as_deref() != Some(MARK) {
        return Err(unproven());
    }
    let node = |value: &Value| match value {
        Value::Array(parts) => match &parts[..] {
            [instance, Value::Int(age_ms), about] => Some(LiveNode {
                instance: text(instance)?.into(),
                age_ms: u64::try_from(*age_ms).unwrap_or(0),
                about: text(about)?.into(),
            }),
            _ => None,
        },
        _ => None,
    };
    listed.iter().map(|listed| node(listed).ok_or_else(unproven)).collect()
}

/// See the module.
pub(super) struct Lease {
    /// Its place on the health board, where it is up from the first renewal on: until then nothing would be cleaned up behind
    /// this node.
    pub(super) part: usize,
    pub(super) connector: Connector,
    pub(super) health_board: Arc<HealthBoard>,
    pub(super) fanout: ShardFanout,
    pub(super) link_metrics: Arc<LinkMetrics>,
    pub(super) report: NodeReport,
    pub(super) state: LeaseState,
}

/// What a node knows of its lease.
#[derive(Debug, Default)]
pub(super) struct LeaseState {
    /// When it was renewed last, in milliseconds of Redis' clock.
    renewed_ms: Option<u64>,
    /// Since when the renewals have followed one another.
    steady_since_ms: Option<u64>,
    /// When it was found that what this node had stored is to be written again, in milliseconds of Redis' clock.
    lost_ms: Option<u64>,
    /// The error that the log knows.
    refused: Option<String>,
}

/// The answer to a renewal.
#[derive(Debug, PartialEq, Eq)]
struct Renewal {
    now_ms: u64,
    is_lost: bool,
    /// The dead nodes, each with its lease's age in milliseconds.
    dead: Vec<(String, u64)>,
}

impl Lease {
    /// Runs until `stop`; then waits until the last writes are done, and hands over the node's sessions.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>, written: oneshot::Receiver<()>) {
        tokio::select! {
            () = self.work() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        // The publisher has its own time; a node that is there in vain ends with it.
        let _ = written.await;
        if self.state.renewed_ms.is_some() && timeout(HAND_OVER, self.hand_over()).await.is_err() {
            tracing::warn!(
                "not all sessions were handed over before the end: other nodes find them by the lease"
            );
        }
    }

    async fn work(&mut self) {
        let mut attempts = Attempts::new("lease".into(), &self.connector.settings);
        loop {
            self.state.steady_since_ms = None;
            let tried_by = self.connector.map_version();
            let broken = match Commands::open(&self.connector, "lease").await {
                Err(broken) => broken,
                Ok(mut commands) => {
                    attempts.up();
                    match self.live(&mut commands).await {
                        Ok(never) => match never {},
                        Err(broken) => broken,
                    }
                }
            };
            let wait = attempts.failed(&broken, self.connector.server());
            self.health_board.failed(self.part, self.connector.trouble(&broken));
            self.connector.wait_to_try_again(&self.health_board, wait, tried_by).await;
        }
    }

    /// The life of one connection.
    async fn live(&mut self, commands: &mut Commands) -> Result<std::convert::Infallible, Broken> {
        let mut dead: Vec<DeadNode> = Vec::new();
        let mut next_renewal = Instant::now();
        let mut next_part = None;
        loop {
            let next = next_part.map_or(next_renewal, |part: Instant| part.min(next_renewal));
            tokio::select! {
                () = sleep_until(next) => {}
                broken = commands.ended() => return Err(broken),
            }
            if next_renewal <= Instant::now() {
                let (wait, found) = self.renew(commands).await?;
                next_renewal = Instant::now() + wait;
                if let Some(found) = found {
                    dead = DeadNode::merge(dead, found);
                }
            }
            next_part = match self.clean_up(commands, &mut dead).await? {
                true => Some(Instant::now() + PAUSE),
                false => None,
            };
        }
    }

    /// One part of what is to be cleaned up. Returns whether there is more to do before the next renewal.
    async fn clean_up(&mut self, commands: &mut Commands, dead: &mut Vec<DeadNode>) -> Result<bool, Broken> {
        let mut cleanup =
            Cleanup { commands, settings: &self.connector.settings, link_metrics: &self.link_metrics };
        while let Some(at) = dead.iter().position(|node| !node.waits) {
            match cleanup.step(&mut dead[at]).await? {
                Step::More => return Ok(true),
                Step::Wait => dead[at].waits = true,
                Step::Done => drop(dead.remove(at)),
            }
        }
        Ok(false)
    }

    /// Renews the lease. Returns when it is to be renewed again and, where this node may clean up, who is dead.
    async fn renew(
        &mut self,
        commands: &mut Commands,
    ) -> Result<(Duration, Option<Vec<(String, u64)>>), Broken> {
        let settings = self.connector.settings.clone();
        let lease = &settings.lease;
        let mut call = redis::cmd("FCALL");
        call.arg("drawbridge_lease_renew").arg(3).arg(&self.connector.settings.names.lease_keys()[..]);
        call.arg(&*lease.instance).arg(self.report.make()).arg(lease.dead_after.as_millis() as u64);
        call.arg(self.state.renewed_ms.map_or_else(String::new, |time| time.to_string()));
        let answer = commands.ask(&call).await?.and_then(|answer| read_renewal(&answer));
        let renewal = match answer {
            Ok(renewal) => renewal,
            Err(message) => return Ok((self.not_renewed(commands, message).await?, None)),
        };
        if self.state.refused.take().is_some() {
            tracing::info!("this node's lease can be renewed again");
        }
        self.health_board.set(self.part, true);
        let is_late = |lost: &mut u64| renewal.now_ms.abs_diff(*lost) > DEADLINE.as_millis() as u64;
        if self.state.lost_ms.take_if(is_late).is_some() {
            self.fanout.send_to_shards(&BrokerEvent::StoreLost);
        }
        if renewal.is_lost {
            tracing::warn!(
                "Redis has lost this node's lease, or another node took this one for dead: what is stored of its sessions \
                 is written again"
            );
            self.state.lost_ms = Some(renewal.now_ms);
        }
        self.note(renewal.now_ms);
        let every = lease.renew_every;
        let wait = every.mul_f64(0.8) + spread(every.mul_f64(0.4));
        let dead_after = lease.dead_after.as_millis() as u64;
        let is_steady = self.state.steady_since_ms.is_some_and(|since| renewal.now_ms >= since + dead_after);
        Ok((wait, is_steady.then_some(renewal.dead)))
    }

    /// The lease was renewed at this time of Redis' clock.
    fn note(&mut self, now_ms: u64) {
        let LeaseState { renewed_ms, steady_since_ms, .. } = &mut self.state;
        let gap_ms = renewed_ms.map_or(0, |last| now_ms.saturating_sub(last));
        let half_ms = self.connector.settings.lease.dead_after.as_millis() as u64 / 2;
        if gap_ms > half_ms || steady_since_ms.is_some_and(|since| since > now_ms) {
            *steady_since_ms = None;
        }
        steady_since_ms.get_or_insert(now_ms);
        *renewed_ms = Some(now_ms);
        self.link_metrics.count_lease(gap_ms > half_ms);
    }

    /// Redis did not renew it. Returns when it is tried again.
    async fn not_renewed(&mut self, commands: &mut Commands, message: String) -> Result<Duration, Broken> {
        if is_passing(&message) {
            return Ok(RETRY_AFTER);
        }
        let mut reason = message;
        if is_missing_function(&reason) {
            match commands.load(&self.connector.settings.library, false, false).await? {
                (_, Ok(())) => return Ok(RETRY_AFTER),
                (_, Err(message)) if is_passing(&message) => return Ok(RETRY_AFTER),
                (_, Err(message)) => reason = message,
            }
        }
        // Such a node works, and its sessions end with it.
        self.health_board.set(self.part, true);
        if self.state.refused.as_ref() != Some(&reason) {
            let text =
                "this node has no lease in Redis: other nodes cannot take up its sessions when it dies";
            tracing::warn!(reason = super::without_arguments(&reason), "{text}");
            self.state.refused = Some(reason);
        }
        Ok(REFUSED_AFTER)
    }

    /// A node that ends does for its sessions at once what others do behind one that died.
    async fn hand_over(&mut self) {
        let handed_over = async {
            let mut commands = Commands::open(&self.connector, "lease").await?;
            self.renew(&mut commands).await?;
            let settings = self.connector.settings.clone();
            let mut cleanup =
                Cleanup { commands: &mut commands, settings: &settings, link_metrics: &self.link_metrics };
            cleanup.hand_over().await
        };
        if let Err(broken) = handed_over.await {
            tracing::warn!(%broken, "sessions were not handed over: other nodes find them by the lease");
        }
    }
}

/// The answer of `drawbridge_lease_renew`.
fn read_renewal(answer: &Value) -> Result<Renewal, String> {
    let unproven = || UNPROVEN.to_owned();
    let Value::Array(parts) = answer else { return Err(unproven()) };
    let [mark, Value::Int(now_ms), Value::Int(is_lost), dead @ ..] = &parts[..] else {
        return Err(unproven());
    };
    if text(mark).as_deref() != Some(MARK) {
        return Err(unproven());
    }
    let node = |value: &Value| match value {
        Value::Array(pair) => match &pair[..] {
            [name, Value::Int(age_ms)] => Some((text(name)?, u64::try_from(*age_ms).ok()?)),
            _ => None,
        },
        _ => None,
    };
    Ok(Renewal {
        now_ms: u64::try_from(*now_ms).map_err(|_| unproven())?,
        is_lost: *is_lost != 0,
        dead: dead.iter().filter_map(node).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_functions_answers_are_renewals() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let answer = |mark: &str| {
            let dead = Value::Array(vec![bulk("n2-b"), Value::Int(12_000)]);
            Value::Array(vec![bulk(mark), Value::Int(77), Value::Int(1), dead, Value::Int(3)])
        };
        let expected = Renewal { now_ms: 77, is_lost: true, dead: vec![("n2-b".to_owned(), 12_000)] };
        assert_eq!(read_renewal(&answer(MARK)), Ok(expected));
        for other in [answer("other"), Value::Int(1), Value::Array(vec![bulk(MARK)])] {
            assert_eq!(read_renewal(&other), Err(UNPROVEN.to_owned()));
        }
    }
}
