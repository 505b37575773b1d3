//! The master that sentinels name. [`watcher`] follows every sentinel of the service, [`election`] decides which of their
//! reports to believe, and [`MasterAddress`] is the result, which every connection of the node follows: a connection to a
//! server that is the master no longer fails at once ([`stream`]), so that nothing is written to it or read from it. What a
//! connection does after that is left to its owner, as for any other break.

mod connection;
mod election;
mod stream;
mod watcher;

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use self::election::Election;
pub(super) use self::stream::open_master;
pub(super) use self::watcher::Watcher;
use super::RedisAddress;
use crate::secret::Rotating;

/// How sentinels are reached, and whom they name.
#[derive(Clone, Debug, Default)]
pub struct SentinelSettings {
    /// TLS to the sentinels.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The sentinels' ACL user; `None` with a password: the default user.
    pub username: Option<String>,
    /// The sentinels' password; a reload may replace it.
    pub password: Option<Rotating>,
    /// The master that they name.
    pub master: MasterAddress,
}

/// Polls each of these sentinels once. Returns the master that they name, and the sentinels that name none, each with the
/// reason.
pub(super) async fn find_master(
    settings: &SentinelSettings,
    addresses: &[RedisAddress],
    service: &str,
) -> (Option<RedisAddress>, Vec<(RedisAddress, String)>) {
    let (mut election, mut problems) = (Election::default(), Vec::new());
    for address in addresses {
        match watcher::report_once(settings, address, service).await {
            Ok(report) => election.note(address.clone(), Some(report)),
            Err(problem) => problems.push((address.clone(), problem)),
        }
    }
    (election.elect(), problems)
}

/// The address of the master, which a failover changes. All clones are one. The watcher alone writes it.
#[derive(Clone, Debug, Default)]
pub struct MasterAddress(watch::Sender<Known>);

/// What is known of the master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Known {
    /// Nothing yet.
    #[default]
    Nothing,
    /// No sentinel names one; the reason.
    Problem(Arc<str>),
    /// It is here, as far as the sentinels said last.
    At(RedisAddress),
}

impl MasterAddress {
    /// Where the master is; `None`: no sentinel has named one yet.
    pub(super) fn current(&self) -> Option<RedisAddress> {
        match &*self.0.borrow() {
            Known::At(address) => Some(address.clone()),
            Known::Nothing | Known::Problem(_) => None,
        }
    }

    /// Waits until the master is known, or why it is not.
    async fn resolved(&self) -> io::Result<RedisAddress> {
        let mut known = self.0.subscribe();
        let known = known.wait_for(|known| *known != Known::Nothing).await;
        match known.as_deref() {
            Ok(Known::At(address)) => Ok(address.clone()),
            Ok(Known::Problem(problem)) => Err(io::Error::new(io::ErrorKind::NotFound, &**problem)),
            Ok(Known::Nothing) | Err(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Ends when another server than this one is the master.
    fn superseded(&self, address: RedisAddress) -> impl Future<Output = ()> + Send + use<> {
        let mut known = self.0.subscribe();
        async move {
            let is_other = |known: &Known| matches!(known, Known::At(master) if *master != address);
            if known.wait_for(is_other).await.is_err() {
                // No one is left to say so.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The master is here.
    fn set(&self, address: RedisAddress) {
        self.0.send_replace(Known::At(address));
    }

    /// No sentinel names a master. One that was named before stays: it may go on working without sentinels.
    fn set_problem(&self, problem: &str) {
        self.0.send_if_modified(|known| {
            let is_new = match known {
                Known::At(_) => false,
                Known::Problem(old) => **old != *problem,
                Known::Nothing => true,
            };
            if is_new {
                *known = Known::Problem(problem.into());
            }
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(port: u16) -> RedisAddress {
        RedisAddress::Tcp { host: "h".into(), port }
    }

    #[tokio::test]
    async fn a_problem_is_known_until_a_master_is_and_hides_none() {
        let master = MasterAddress::default();
        master.set_problem("none of them answers");
        assert_eq!(master.resolved().await.unwrap_err().to_string(), "none of them answers");
        master.set(address(1));
        master.set_problem("none of them answers");
        assert_eq!(master.resolved().await.unwrap(), address(1));
    }

    #[tokio::test]
    async fn who_waits_for_the_master_gets_it_when_it_is_known() {
        let master = MasterAddress::default();
        let (resolved, ()) = tokio::join!(master.resolved(), async { master.set(address(1)) });
        assert_eq!(resolved.unwrap(), address(1));
    }

    #[tokio::test]
    async fn a_server_is_superseded_by_another_only() {
        let master = MasterAddress::default();
        let mut superseded = std::pin::pin!(master.superseded(address(1)));
        for (named, is_superseded) in [(1, false), (1, false), (2, true)] {
            master.set(address(named));
            tokio::select! {
                biased;
                () = superseded.as_mut() => assert!(is_superseded),
                () = std::future::ready(()) => assert!(!is_superseded, "{named}"),
            }
        }
    }
}
