//! Keeps the map of a Cluster up to date: reads it every second from a master that answers, and at once where something
//! contradicts it ([`Cluster::doubt`]). It is another master only when that one does not answer, or says less than is known.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::batch::Batch;
use super::cluster_map::{Cluster, ClusterMap};
use super::command_connection::{CommandConnection, error_message};
use super::connect::{Attempts, Broken};
use super::{RedisAddress, RedisLocation, RedisSettings, is_unknown_command};

/// How often the map is read where nothing contradicts it.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How seldom it is read at least, whatever contradicts it.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// How long one server may take to answer, and to be connected to.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct ClusterWatch {
    cluster: Cluster,
    settings: Arc<RedisSettings>,
    /// The server that it is read from.
    source: Option<(RedisAddress, CommandConnection)>,
    /// Answers in a row that say less than is known.
    older: usize,
    /// Counts the servers that were tried.
    tried: usize,
    /// The last of them.
    last: Option<RedisAddress>,
    /// How many slots no master has, as far as the log knows.
    uncovered: usize,
}

/// Why a server was of no use.
enum Useless {
    /// It does not answer.
    Broken(Broken),
    /// It says less than is known: it may be cut off from the others.
    Older,
}

impl ClusterWatch {
    pub(super) fn new(cluster: Cluster, settings: Arc<RedisSettings>) -> Self {
        ClusterWatch { cluster, settings, source: None, older: 0, tried: 0, last: None, uncovered: 0 }
    }

    /// Runs until `stop`.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.work() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn work(&mut self) {
        let mut attempts = Attempts::new("map of the Cluster".into(), &self.settings);
        let (mut failures, mut is_up) = (0, false);
        loop {
            match self.read().await {
                Ok(()) => {
                    failures = 0;
                    if !std::mem::replace(&mut is_up, true) {
                        attempts.up();
                    }
                    sleep(LEAST_PAUSE).await;
                    let _ = timeout(READ_EVERY - LEAST_PAUSE, self.cluster.doubted()).await;
                }
                // It is read from another one at once; where none of them answers, after a pause.
                Err(useless) => {
                    self.source = None;
                    failures += 1;
                    if failures < self.servers().len() {
                        continue;
                    }
                    let wait = match useless {
                        Useless::Broken(broken) => {
                            is_up = false;
                            attempts.failed(&broken, self.last.as_ref().map(RedisAddress::to_string))
                        }
                        Useless::Older => LEAST_PAUSE,
                    };
                    failures = 0;
                    sleep(wait).await;
                }
            }
        }
    }

    /// Reads the map from one server.
    async fn read(&mut self) -> Result<(), Useless> {
        let (address, mut connection) = match self.source.take() {
            Some(source) => source,
            None => self.connect().await.map_err(Useless::Broken)?,
        };
        let by_tls = self.settings.tls.is_some();
        let read = timeout(PATIENCE, map_from(&mut connection, &address, by_tls)).await;
        let map = read.unwrap_or(Err(Broken::Silent)).map_err(Useless::Broken)?;
        self.log_coverage(map.uncovered());
        // When every server says less, the Cluster was made again.
        let is_only = self.older >= self.servers().len();
        let Some(has_changed) = self.cluster.learnt(map, is_only) else {
            self.older += 1;
            return Err(Useless::Older);
        };
        self.older = 0;
        if has_changed {
            let map = self.cluster.map();
            let masters: Vec<String> =
                map.masters().iter().map(|master| master.address.to_string()).collect();
            tracing::info!(
                masters = masters.join(","),
                "the masters of the Redis Cluster, or their slots, have changed"
            );
        }
        self.source = Some((address, connection));
        Ok(())
    }

    async fn connect(&mut self) -> Result<(RedisAddress, CommandConnection), Broken> {
        let servers = self.servers();
        let address = servers[self.tried % servers.len()].clone();
        self.tried = self.tried.wrapping_add(1);
        self.last = Some(address.clone());
        let open = CommandConnection::open_any(self.settings.clone(), &address, "cluster");
        let connection = timeout(PATIENCE, open).await.unwrap_or(Err(Broken::Silent))?;
        Ok((address, connection))
    }

    /// From whom it can be read: the masters that work, then those of the configuration; one at least.
    fn servers(&self) -> Vec<RedisAddress> {
        let map = self.cluster.map();
        let working = map.masters().iter().filter(|master| !master.is_failed);
        let mut servers: Vec<_> = working.map(|master| master.address.clone()).collect();
        if let RedisLocation::Cluster { addresses } = &self.settings.location {
            servers.extend(
                addresses.iter().filter(|address| !servers.contains(address)).cloned().collect::<Vec<_>>(),
            );
        }
        servers
    }

    fn log_coverage(&mut self, uncovered: usize) {
        if uncovered > 0 && self.uncovered == 0 {
            tracing::warn!(
                slots = uncovered,
                "no master of the Redis Cluster has these slots: what belongs there fails"
            );
        }
        self.uncovered = uncovered;
    }
}

/// Reads the map once, from the server at this address.
pub(super) async fn read_map(
    settings: &Arc<RedisSettings>,
    address: &RedisAddress,
) -> Result<ClusterMap, Broken> {
    let read = async {
        let mut connection = CommandConnection::open_any(settings.clone(), address, "cluster").await?;
        map_from(&mut connection, address, settings.tls.is_some()).await
    };
    timeout(2 * PATIENCE, read).await.unwrap_or(Err(Broken::Silent))
}

/// What this server says of the Cluster.
async fn map_from(
    connection: &mut CommandConnection,
    address: &RedisAddress,
    by_tls: bool,
) -> Result<ClusterMap, Broken> {
    let mut batch = Batch::new();
    for what in ["SLOTS", "SHARDS", "INFO"] {
        batch.cmd("CLUSTER").arg(what);
    }
    let mut answers = connection.query(batch.pipeline()).await?.into_iter();
    let mut answer = || answers.next().unwrap_or(Ok(Value::Nil)).map_err(|error| error_message(&error));
    let slots = answer().map_err(|message| match message.contains("cluster support disabled") {
        true => Broken::Unsupported(format!("{address} is not a server of a Cluster: {message}")),
        false if is_unknown_command(&message) => {
            Broken::Unsupported(format!("{address} has no CLUSTER SLOTS: {message}"))
        }
        false => Broken::refused(&message),
    })?;
    let (shards, info) = (answer().unwrap_or(Value::Nil), answer().unwrap_or(Value::Nil));
    let host = match address {
        RedisAddress::Tcp { host, .. } => host.as_str(),
        RedisAddress::Unix(_) => "",
    };
    ClusterMap::read(&slots, &shards, &info, host, by_tls).map_err(Broken::Refused)
}
