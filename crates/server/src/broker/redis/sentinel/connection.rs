//! One connection to a sentinel: reads which server is the master, and notices that the sentinel announces a failover. When to ask is left
//! to [`super::watcher`], and whom to believe to [`super::election`].

use std::time::Duration;

use redis::Value;
use tokio::time::timeout;

use super::super::command_connection::text;
use super::super::connect::{Broken, open_at};
use super::super::plain_connection::{Answered, PlainConnection, field};
use super::super::{RedisAddress, code_of};
use super::SentinelSettings;
use super::election::Report;

/// How long a sentinel may take to be reached, and to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// What sentinels announce when another server becomes the master, in the order in which they do.
const EVENTS: [&str; 3] = ["+promoted-slave", "+config-update-from", "+switch-master"];
/// How many names of masters an error lists.
const LISTED: usize = 10;

/// See the module.
pub(in crate::broker::redis) struct SentinelConnection(PlainConnection);

impl SentinelConnection {
    /// A connection to the sentinel at this address, which announces failovers on it if its ACL allows that.
    pub(in crate::broker::redis) async fn open(
        settings: &SentinelSettings,
        address: &RedisAddress,
    ) -> Result<SentinelConnection, Broken> {
        timeout(PATIENCE, async {
            let mut connection = PlainConnection::new(open_at(address, settings.tls.as_ref()).await?);
            let hello = connection.hello(settings.username.as_deref(), settings.password.as_ref()).await?;
            let hello = hello.map_err(|message| Broken::no_hello(&message))?;
            if field(&hello, "mode").as_deref() != Some("sentinel") {
                return Err(Broken::NotSentinel);
            }
            // Without the right to, a failover is noticed by polling.
            for event in EVENTS {
                let _ = connection.ask(&["SUBSCRIBE", event]).await?;
            }
            Ok(SentinelConnection(connection))
        })
        .await
        .unwrap_or(Err(Broken::Silent))
    }

    /// What it says of this service, or why it says nothing.
    pub(in crate::broker::redis) async fn report(
        &mut self,
        service: &str,
    ) -> Result<Result<Report, String>, Broken> {
        timeout(PATIENCE, self.report_unbounded(service)).await.unwrap_or(Err(Broken::Silent))
    }

    async fn report_unbounded(&mut self, service: &str) -> Result<Result<Report, String>, Broken> {
        // Why the epoch comes first: when a failover happens between the answers, the new address comes with the old epoch and
        // is not believed until the next report. The other way about the old address would come with the new epoch.
        let master: &[&str] = &["SENTINEL", "MASTER", service];
        let address: &[&str] = &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service];
        let others: &[&str] = &["SENTINEL", "SENTINELS", service];
        self.0.send(&[master, address, others, &["SENTINEL", "MYID"]]).await?;
        let (master, address) = (self.answer().await?, self.answer().await?);
        let (others, id) = (self.answer().await?, self.answer().await?);
        let (master, address) = match (master, address) {
            (Ok(master), Ok(address)) => (master, address),
            (Err(message), _) | (_, Err(message)) if code_of(&message) != "ERR" => return Ok(Err(message)),
            _ => return self.unknown(service).await.map(Err),
        };
        let epoch = field(&master, "config-epoch").and_then(|epoch| epoch.parse().ok());
        let (Some(epoch), Some(address)) = (epoch, address_of(&address)) else {
            return Ok(Err("its answer names no master and epoch".to_owned()));
        };
        let others = match &others {
            Ok(Value::Array(others)) => others.iter().filter_map(other).collect(),
            _ => Vec::new(),
        };
        let id = id.ok().as_ref().and_then(text).unwrap_or_default();
        Ok(Ok(Report { id, master: address, epoch, others }))
    }

    /// It watches no master of this name: says which it does watch.
    async fn unknown(&mut self, service: &str) -> Result<String, Broken> {
        let names = match self.0.ask(&["SENTINEL", "MASTERS"]).await? {
            Ok(Value::Array(masters)) => {
                masters.iter().filter_map(|of| field(of, "name")).take(LISTED).collect()
            }
            _ => Vec::new(),
        };
        Ok(match &names[..] {
            [] => format!("it watches no master, and `broker.url` ends with the name of one, `{service}`"),
            names => format!(
                "it watches no master named `{service}`, with which `broker.url` ends; it watches {}",
                names.join(", ")
            ),
        })
    }

    /// Waits until something is announced. Safe to cancel.
    pub(super) async fn event(&mut self) -> Result<(), Broken> {
        self.0.event().await
    }

    async fn answer(&mut self) -> Result<Answered, Broken> {
        self.0.answer().await
    }
}

fn address(host: Option<String>, port: Option<String>) -> Option<RedisAddress> {
    let host = host.filter(|host| !host.is_empty())?;
    let port = port?.parse().ok().filter(|port| *port > 0)?;
    Some(RedisAddress::Tcp { host, port })
}

fn address_of(answer: &Value) -> Option<RedisAddress> {
    match answer {
        Value::Array(parts) => match &parts[..] {
            [host, port] => address(text(host), text(port)),
            _ => None,
        },
        _ => None,
    }
}

fn other(of: &Value) -> Option<(String, RedisAddress)> {
    Some((field(of, "runid")?, address(field(of, "ip"), field(of, "port"))?))
}
