//! What `drawbridge check-redis` finds out: where Redis is, what it is, and what this configuration lacks there. It changes
//! nothing that is stored: what has to be written to be tried is written under one key, and removed. What a finding means is
//! said here; how it is printed is left to the command. Which servers are checked is left to [`places`].

mod places;
mod rights;
mod server;

use std::time::{Duration, Instant};

use drawbridge_engine::class::Classes;
use redis::Value;
use tokio::time::timeout;

use super::connect::{Broken, CONNECT_TIMEOUT, open};
use super::plain_connection::{PlainConnection, field};
use super::{RedisAddress, RedisSettings};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many round trips are measured.
const ROUND_TRIPS: usize = 20;
/// The oldest version in which everything works.
const OLDEST: u64 = 7;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// It works, with a risk or a restriction that may be intended.
    Warning,
    /// Something that the configuration needs does not work.
    Missing,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was checked, in one or two words.
    pub about: &'static str,
    /// What was found.
    pub found: String,
    /// What follows from it, and what to do; `None` where it is fine.
    pub advice: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// Why the remaining checks could not run; `None`: all ran.
    pub unreachable: Option<String>,
}

impl Inspection {
    fn fine(&mut self, about: &'static str, found: impl Into<String>) {
        self.findings.push(Finding { severity: Severity::Fine, about, found: found.into(), advice: None });
    }

    fn warn(&mut self, about: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        let (found, advice) = (found.into(), Some(advice.into()));
        self.findings.push(Finding { severity: Severity::Warning, about, found, advice });
    }

    fn missing(&mut self, about: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        let (found, advice) = (found.into(), Some(advice.into()));
        self.findings.push(Finding { severity: Severity::Missing, about, found, advice });
    }
}

/// Checks the Redis of these settings, for these classes.
pub async fn inspect(settings: &RedisSettings, classes: &Classes) -> Inspection {
    let mut inspection = Inspection::default();
    match places::servers(settings, &mut inspection).await {
        Ok(servers) => match &servers[..] {
            [only] => {
                let found = inspect_server(settings, classes, only.as_ref()).await;
                inspection.findings.extend(found.findings);
                inspection.unreachable = found.unreachable;
            }
            masters => {
                let mut found = Vec::with_capacity(masters.len());
                for master in masters.iter().flatten() {
                    found.push((master.to_string(), inspect_server(settings, classes, Some(master)).await));
                }
                inspection.findings.extend(merged(found));
            }
        },
        Err(broken) => inspection.unreachable = Some(broken.to_string()),
    }
    inspection
}

/// Checks one server; `None`: the one that the settings name.
async fn inspect_server(
    settings: &RedisSettings,
    classes: &Classes,
    address: Option<&RedisAddress>,
) -> Inspection {
    let mut inspection = Inspection::default();
    let looked = timeout(PATIENCE, look(settings, classes, address, &mut inspection)).await;
    match looked.unwrap_or(Err(Broken::Silent)) {
        Ok(()) => {}
        Err(broken @ (Broken::Unsupported(_) | Broken::NotMaster(_))) => {
            inspection.missing("Redis", broken.to_string(), "A node can use nothing of it as it is.");
        }
        Err(broken) => inspection.unreachable = Some(broken.to_string()),
    }
    inspection
}

/// What was found on each of several masters: once where it is the same on all of them, otherwise with the master's address.
fn merged(masters: Vec<(String, Inspection)>) -> Vec<Finding> {
    let mut all = Vec::new();
    let reached = || masters.iter().filter(|(_, inspection)| inspection.unreachable.is_none());
    let is_on_every = |finding: &Finding| reached().all(|(_, other)| other.findings.contains(finding));
    for (address, inspection) in &masters {
        for finding in &inspection.findings {
            let common = is_on_every(finding);
            if common && all.contains(finding) {
                continue;
            }
            let found = if common { finding.found.clone() } else { format!("{address}: {}", finding.found) };
            all.push(Finding { found, ..finding.clone() });
        }
        if let Some(reason) = &inspection.unreachable {
            all.push(Finding {
                severity: Severity::Missing,
                about: "master",
                found: format!("{address}: {reason}"),
                advice: Some("Nodes cannot use the channels, tables and sessions in its slots.".to_owned()),
            });
        }
    }
    all
}

async fn look(
    settings: &RedisSettings,
    classes: &Classes,
    address: Option<&RedisAddress>,
    inspection: &mut Inspection,
) -> Result<(), Broken> {
    let began = Instant::now();
    let stream = timeout(CONNECT_TIMEOUT, open(settings, address)).await;
    let mut connection =
        PlainConnection::new(stream.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?);
    let hello = connection.hello(settings.username.as_deref(), settings.password.as_ref()).await?;
    let hello = hello.map_err(|message| Broken::no_hello(&message))?;
    inspection.fine("connection", format!("made in {:.1} ms", began.elapsed().as_secs_f64() * 1e3));
    what_it_is(&hello, settings, inspection)?;
    latency(&mut connection, inspection).await?;
    if settings.db > 0 {
        let _ = connection.ask(&["SELECT", &settings.db.to_string()]).await?;
    }
    rights::look(&mut connection, settings, classes, inspection).await?;
    server::look(&mut connection, settings, classes, inspection).await
}

/// Version and role, as `HELLO` says them.
fn what_it_is(hello: &Value, settings: &RedisSettings, inspection: &mut Inspection) -> Result<(), Broken> {
    let said = |name| field(hello, name);
    Broken::unless_master(said("role").as_deref(), said("mode").as_deref())?;
    if said("mode").as_deref() == Some("cluster") && !settings.is_cluster() {
        inspection.missing(
            "topology",
            "this is a server of a Cluster",
            "It refuses most keys (MOVED). Set `broker.url` to redis-cluster:// and some of the Cluster's servers.",
        );
    }
    let (server, version) = (said("server"), said("version"));
    let found = format!(
        "{} {}",
        server.as_deref().unwrap_or("a Redis"),
        version.as_deref().unwrap_or("of no version")
    );
    let major = version.as_deref().and_then(|version| version.split('.').next()?.parse::<u64>().ok());
    match major {
        Some(major) if major < OLDEST => inspection.warn(
            "version",
            found,
            "Functions are there since 7.0; without them entity channels, channels with history, players' views, presence \
             and resuming sessions on other nodes do not work. Update Redis.",
        ),
        _ => inspection.fine("version", found),
    }
    Ok(())
}

async fn latency(connection: &mut PlainConnection, inspection: &mut Inspection) -> Result<(), Broken> {
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        // Also an error is a round trip.
        let _ = connection.ask(&["PING"]).await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let (median, worst) = (times[ROUND_TRIPS / 2], times[ROUND_TRIPS - 1]);
    let found = format!(
        "median {:.2} ms, worst {:.2} ms of {ROUND_TRIPS}",
        milliseconds(median),
        milliseconds(worst)
    );
    match median > Duration::from_millis(10) {
        true => inspection.warn(
            "round trip",
            found,
            "Every subscribe, publish and event waits for it. Put the nodes beside Redis.",
        ),
        false => inspection.fine("round trip", found),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_masters_have_is_said_once() {
        let mut masters: Vec<_> =
            ["a:1", "b:2"].map(|address| (address.to_owned(), Inspection::default())).into();
        for (address, inspection) in &mut masters {
            inspection.fine("version", "redis 7.0.15");
            inspection.fine("round trip", format!("of {address}"));
        }
        masters[1].1.missing("rights", "refused: PING", "Grant it.");
        masters.push(("c:3".to_owned(), masters[0].1.clone()));
        masters[2].1.unreachable = Some("no answer in time".to_owned());
        let found: Vec<String> = merged(masters).into_iter().map(|finding| finding.found).collect();
        let expected = [
            "redis 7.0.15",
            "a:1: of a:1",
            "b:2: of b:2",
            "b:2: refused: PING",
            "c:3: of a:1",
            "c:3: no answer in time",
        ];
        assert_eq!(found, expected);
    }
}
