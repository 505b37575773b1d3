//! Follows all sentinels of the service and writes [`MasterAddress`](super::MasterAddress). Each sentinel is polled once a
//! second, and all of them at once when one announces a failover. Sentinels that the configuration does not name are learned
//! from those that answer, and forgotten when none of them knows them any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::connect::Broken;
use super::super::{RedisAddress, RedisLocation, RedisSettings};
use super::SentinelSettings;
use super::connection::SentinelConnection;
use super::election::{Election, Report};
use crate::broker::health_board::HealthBoard;
use crate::broker::link_metrics::LinkMetrics;

/// How often a sentinel is polled, and tried again while it does not answer.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long the first answer waits for those of the other sentinels, which may know of a newer master.
const FIRST_WAITS: Duration = Duration::from_millis(200);
/// More sentinels than any service has; more are not followed.
const MAX_SENTINELS: usize = 32;

/// See the module.
pub(in crate::broker::redis) struct Watcher {
    pub(in crate::broker::redis) settings: Arc<RedisSettings>,
    pub(in crate::broker::redis) health_board: Arc<HealthBoard>,
    pub(in crate::broker::redis) link_metrics: Arc<LinkMetrics>,
}

/// A sentinel, and what it said or why it said nothing.
type Said = (RedisAddress, Result<Report, Problem>);

/// Why a sentinel names no master.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    /// It cannot be reached, or not in time.
    Unreachable(String),
    /// It answers, but not with a master.
    Unhelpful(String),
}

impl Problem {
    fn text(&self) -> &str {
        match self {
            Problem::Unreachable(text) | Problem::Unhelpful(text) => text,
        }
    }
}

impl Watcher {
    /// Runs until `stop`. Ends at once where Redis is not behind sentinels.
    pub(in crate::broker::redis) async fn run(self, mut stop: watch::Receiver<bool>) {
        let RedisLocation::Sentinels { addresses, service } = self.settings.location.clone() else { return };
        tokio::select! {
            () = self.work(addresses, service.into()) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn work(self, configured: Vec<RedisAddress>, service: Arc<str>) {
        let (said, mut reports) = mpsc::channel(MAX_SENTINELS);
        let follow = Follow { settings: self.settings.clone(), service, said, ask_now: Default::default() };
        let mut followed = Followed { configured, follow, tasks: JoinSet::new(), by_address: HashMap::new() };
        followed.reconcile(&Election::default());
        let (mut election, mut problems) = (Election::default(), HashMap::new());
        let mut elect_at = None;
        loop {
            let elects = async {
                match elect_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender is kept here.
                Some(said) = reports.recv() => {
                    // One that has just been forgotten may still have said something.
                    if followed.by_address.contains_key(&said.0) {
                        self.note(said, &mut election, &mut problems);
                    }
                }
                () = elects => {}
            }
            self.link_metrics.set_sentinels(election.answering() as u64);
            followed.reconcile(&election);
            election.retain(|sentinel| followed.by_address.contains_key(sentinel));
            problems.retain(|sentinel, _| followed.by_address.contains_key(sentinel));
            let has_master = self.settings.sentinel.master.current().is_some();
            let have_all_reported = election.answering() + problems.len() >= followed.by_address.len();
            if !has_master && !have_all_reported && election.answering() > 0 {
                let at = *elect_at.get_or_insert_with(|| Instant::now() + FIRST_WAITS);
                if Instant::now() < at {
                    continue;
                }
            }
            elect_at = None;
            match election.elect() {
                Some(master) => self.set(master),
                None if have_all_reported && election.answering() == 0 => self.set_problem(&problems),
                None => {}
            }
        }
    }

    /// Takes in what a sentinel said; each of its problems is logged once.
    fn note(
        &self,
        (sentinel, said): Said,
        election: &mut Election,
        problems: &mut HashMap<RedisAddress, Problem>,
    ) {
        let address = sentinel.to_string();
        match &said {
            Ok(_) if problems.remove(&sentinel).is_some() => {
                tracing::info!(sentinel = address, "the sentinel names the master again");
            }
            Ok(_) => {}
            Err(problem) => {
                if problems.get(&sentinel) != Some(problem) {
                    let reason = problem.text();
                    tracing::warn!(sentinel = address, reason, "the sentinel names no master");
                    problems.insert(sentinel.clone(), problem.clone());
                }
            }
        }
        election.note(sentinel, said.ok());
    }

    /// The sentinels name this master. Whoever waits to try again tries now.
    fn set(&self, master: RedisAddress) {
        let before = self.settings.sentinel.master.current();
        self.settings.sentinel.master.set(master.clone());
        self.health_board.reached();
        match before {
            Some(before) => {
                self.link_metrics.count_master_change();
                let text = "failover: the sentinels name another master; all connections move to it";
                tracing::warn!(%before, now = %master, "{text}");
            }
            None => tracing::info!(%master, "the sentinels name the master"),
        }
    }

    /// No sentinel names a master. One that says why is of more use than one that is not there.
    fn set_problem(&self, problems: &HashMap<RedisAddress, Problem>) {
        let says = |problem: &&Problem| matches!(problem, Problem::Unhelpful(_));
        let Some(problem) = problems.values().find(says).or_else(|| problems.values().next()) else { return };
        let text = format!("none of {} sentinels names the master: {}", problems.len(), problem.text());
        self.settings.sentinel.master.set_problem(&text);
    }
}

/// The sentinels that are followed, each by a task.
struct Followed {
    configured: Vec<RedisAddress>,
    follow: Follow,
    tasks: JoinSet<()>,
    by_address: HashMap<RedisAddress, AbortHandle>,
}

impl Followed {
    /// Follows those that the configuration names and those that others know; no other.
    fn reconcile(&mut self, election: &Election) {
        let mut wanted: HashSet<&RedisAddress> = self.configured.iter().collect();
        for (id, address) in election.others() {
            // One that answers is followed already, maybe at another address.
            let is_followed = self.by_address.contains_key(address);
            if wanted.len() < MAX_SENTINELS && (is_followed || !election.has(id)) {
                wanted.insert(address);
            }
        }
        self.by_address.retain(|address, task| {
            let is_wanted = wanted.contains(address);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for address in wanted {
            if !self.by_address.contains_key(address) {
                let task = self.tasks.spawn(self.follow.clone().run(address.clone()));
                self.by_address.insert(address.clone(), task);
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Follows one sentinel.
#[derive(Clone)]
struct Follow {
    settings: Arc<RedisSettings>,
    service: Arc<str>,
    said: mpsc::Sender<Said>,
    /// Changes when all are to be polled at once.
    ask_now: watch::Sender<()>,
}

impl Follow {
    async fn run(self, address: RedisAddress) {
        let mut ask_now = self.ask_now.subscribe();
        loop {
            let problem = match SentinelConnection::open(&self.settings.sentinel, &address).await {
                Ok(connection) => match self.follow(&address, connection, &mut ask_now).await {
                    Ok(never) => match never {},
                    Err(broken) => problem_of(&broken),
                },
                Err(broken) => problem_of(&broken),
            };
            self.report(&address, Err(problem)).await;
            tokio::select! {
                () = sleep(ASK_EVERY) => {}
                _ = ask_now.changed() => {}
            }
        }
    }

    /// The life of one connection.
    async fn follow(
        &self,
        address: &RedisAddress,
        mut connection: SentinelConnection,
        ask_now: &mut watch::Receiver<()>,
    ) -> Result<std::convert::Infallible, Broken> {
        loop {
            ask_now.mark_unchanged();
            let report = connection.report(&self.service).await?;
            self.report(address, report.map_err(Problem::Unhelpful)).await;
            tokio::select! {
                () = sleep(ASK_EVERY) => {}
                _ = ask_now.changed() => {}
                event = connection.event() => {
                    event?;
                    self.ask_now.send_replace(());
                }
            }
        }
    }

    async fn report(&self, address: &RedisAddress, said: Result<Report, Problem>) {
        // Who would read it is gone with this task.
        let _ = self.said.send((address.clone(), said)).await;
    }
}

/// What this sentinel says of the service, or why it says nothing.
pub(super) async fn report_once(
    settings: &SentinelSettings,
    address: &RedisAddress,
    service: &str,
) -> Result<Report, String> {
    let report = async { SentinelConnection::open(settings, address).await?.report(service).await };
    report.await.unwrap_or_else(|broken| Err(problem_of(&broken).text().to_owned()))
}

fn problem_of(broken: &Broken) -> Problem {
    match broken {
        Broken::Refused(message) if message.starts_with("NOAUTH") || message.starts_with("WRONGPASS") => {
            let hint = "the sentinels' own password is `broker.sentinel_password`";
            Problem::Unhelpful(format!("it refuses the connection ({message}); {hint}"))
        }
        Broken::Refused(message) => Problem::Unhelpful(format!("it refuses the connection ({message})")),
        Broken::NotSentinel => Problem::Unhelpful(broken.to_string()),
        other => Problem::Unreachable(other.to_string()),
    }
}
