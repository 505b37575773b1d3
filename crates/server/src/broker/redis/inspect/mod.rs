//! What `drawbridge check-redis` finds out: where Redis is, what it is, and what this configuration lacks there. It changes
//! nothing that is stored: what has to be written to be tried is written under one key, and removed. What a finding means is
//! said here; how it is printed is left to the command.

mod rights;
mod server;

use std::time::{Duration, Instant};

use drawbridge_engine::class::Classes;
use redis::Value;
use tokio::time::timeout;

use super::connect::{Broken, CONNECT_TIMEOUT, open};
use super::plain_connection::{PlainConnection, field};
use super::sentinel::find_master;
use super::{RedisAddress, RedisLocation, RedisSettings};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
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
    let looked = timeout(PATIENCE, look(settings, classes, &mut inspection)).await;
    match looked.unwrap_or(Err(Broken::Silent)) {
        Ok(()) => {}
        Err(broken @ (Broken::Unsupported(_) | Broken::NotMaster(_))) => {
            inspection.missing("Redis", broken.to_string(), "A node can use nothing of it as it is.");
        }
        Err(broken) => inspection.unreachable = Some(broken.to_string()),
    }
    inspection
}

async fn look(
    settings: &RedisSettings,
    classes: &Classes,
    inspection: &mut Inspection,
) -> Result<(), Broken> {
    let address = locate(settings, inspection).await?;
    let began = Instant::now();
    let stream = timeout(CONNECT_TIMEOUT, open(settings, address.as_ref())).await;
    let mut connection =
        PlainConnection::new(stream.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?);
    let hello = connection.hello(settings.username.as_deref(), settings.password.as_ref()).await?;
    let hello = hello.map_err(|message| Broken::no_hello(&message))?;
    inspection.fine("connection", format!("made in {:.1} ms", began.elapsed().as_secs_f64() * 1e3));
    what_it_is(&hello, inspection)?;
    latency(&mut connection, inspection).await?;
    if settings.db > 0 {
        let _ = connection.ask(&["SELECT", &settings.db.to_string()]).await?;
    }
    rights::look(&mut connection, settings, classes, inspection).await?;
    server::look(&mut connection, settings, classes, inspection).await
}

/// Which server to check; `None`: the settings name it.
async fn locate(
    settings: &RedisSettings,
    inspection: &mut Inspection,
) -> Result<Option<RedisAddress>, Broken> {
    match &settings.location {
        RedisLocation::Server(address) => {
            inspection.fine("topology", format!("one server, {address}"));
            Ok(None)
        }
        RedisLocation::Sentinels { addresses, service } => {
            let (master, problems) = find_master(&settings.sentinel, addresses, service).await;
            let answering = addresses.len() - problems.len();
            for (sentinel, problem) in &problems {
                inspection.warn(
                    "sentinel",
                    format!("{sentinel}: {problem}"),
                    "A node does without it as long as another one answers.",
                );
            }
            let none =
                || std::io::Error::other(format!("none of the sentinels names the master `{service}`"));
            let master = master.ok_or_else(none)?;
            let found = format!(
                "the master of {service}, by {answering} of {} configured sentinels: {master}",
                addresses.len()
            );
            inspection.fine("topology", found);
            Ok(Some(master))
        }
        RedisLocation::Cluster { addresses } => {
            let mut last = Broken::Silent;
            for address in addresses {
                match timeout(CONNECT_TIMEOUT, open(settings, Some(address))).await {
                    Ok(Ok(_)) => {
                        inspection.fine("topology", format!("a Cluster, looked at through {address}"));
                        return Ok(Some(address.clone()));
                    }
                    Ok(Err(error)) => last = error.into(),
                    Err(_) => last = Broken::Silent,
                }
            }
            Err(last)
        }
    }
}

/// Version and role, as `HELLO` says them.
fn what_it_is(hello: &Value, inspection: &mut Inspection) -> Result<(), Broken> {
    let said = |name| field(hello, name);
    Broken::unless_master(said("role").as_deref(), said("mode").as_deref())?;
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
