//! One connection to a sentinel: reads which server is the master, and notices that the sentinel announces a failover. When to ask is left
//! to [`super::watcher`], and whom to believe to [`super::election`].

use std::io;
use std::time::Duration;

use redis::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::super::buffer::ReadBuffer;
use super::super::command_connection::text;
use super::super::connect::{Broken, Stream, open_at};
use super::super::reader::pairs;
use super::super::resp::{Decoder, Payload, Reply, Step, encode};
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
pub(in crate::broker::redis) struct SentinelConnection {
    stream: Stream,
    buffer: ReadBuffer,
    decoder: Decoder,
    /// Something was announced that no one has taken notice of.
    has_event: bool,
}

/// What came.
enum Came {
    Answer(Result<Value, String>),
    Confirmed,
    Event,
}

impl SentinelConnection {
    /// A connection to the sentinel at this address, which announces failovers on it if its ACL allows that.
    pub(in crate::broker::redis) async fn open(
        settings: &SentinelSettings,
        address: &RedisAddress,
    ) -> Result<SentinelConnection, Broken> {
        timeout(PATIENCE, async {
            let stream = open_at(address, settings.tls.as_ref()).await?;
            let (buffer, decoder) = (ReadBuffer::new(), Decoder::new(0));
            let mut connection = SentinelConnection { stream, buffer, decoder, has_event: false };
            connection.hello(settings).await?;
            connection.subscribe().await?;
            Ok(connection)
        })
        .await
        .unwrap_or(Err(Broken::Silent))
    }

    async fn hello(&mut self, settings: &SentinelSettings) -> Result<(), Broken> {
        let password = settings.password.as_ref().map(|password| password.current());
        let mut parts = vec!["HELLO", "3"];
        if let Some(password) = &password {
            parts.extend(["AUTH", settings.username.as_deref().unwrap_or("default"), password.expose()]);
        }
        self.send(&[&parts]).await?;
        match self.answer().await? {
            Ok(answer) => {
                let is_mode = |(name, _): &(&Value, &Value)| text(name).as_deref() == Some("mode");
                let mode = pairs(&answer).find(is_mode).and_then(|(_, mode)| text(mode));
                match mode.as_deref() {
                    Some("sentinel") => Ok(()),
                    _ => Err(Broken::NotSentinel),
                }
            }
            Err(message) => Err(Broken::no_hello(&message)),
        }
    }

    /// Without the right to, a failover is noticed by polling.
    async fn subscribe(&mut self) -> Result<(), Broken> {
        self.send(&[&[&["SUBSCRIBE"], &EVENTS[..]].concat()]).await?;
        let mut confirmed = 0;
        while confirmed < EVENTS.len() {
            match self.came().await? {
                Came::Confirmed => confirmed += 1,
                Came::Event => self.has_event = true,
                Came::Answer(_) => break,
            }
        }
        Ok(())
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
        self.send(&[master, address, others, &["SENTINEL", "MYID"]]).await?;
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
        let names = match self.ask(&["SENTINEL", "MASTERS"]).await? {
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

    /// The answer to one command, or the error that the sentinel returned.
    pub(in crate::broker::redis) async fn ask(
        &mut self,
        command: &[&str],
    ) -> Result<Result<Value, String>, Broken> {
        self.send(&[command]).await?;
        self.answer().await
    }

    /// Waits until something is announced. Safe to cancel.
    pub(super) async fn event(&mut self) -> Result<(), Broken> {
        while !std::mem::take(&mut self.has_event) {
            self.has_event = matches!(self.came().await?, Came::Event);
        }
        Ok(())
    }

    async fn send(&mut self, commands: &[&[&str]]) -> Result<(), Broken> {
        let mut out = Vec::new();
        for command in commands {
            encode(&mut out, command.iter().map(|part| part.as_bytes()));
        }
        self.stream.write_all(&out).await?;
        Ok(self.stream.flush().await?)
    }

    async fn answer(&mut self) -> Result<Result<Value, String>, Broken> {
        loop {
            match self.came().await? {
                Came::Answer(answer) => return Ok(answer),
                Came::Event => self.has_event = true,
                Came::Confirmed => {}
            }
        }
    }

    /// Safe to cancel.
    async fn came(&mut self) -> Result<Came, Broken> {
        loop {
            let (came, taken) = match self.decoder.step(self.buffer.filled())? {
                Step::More(bytes) => {
                    let read = self.stream.read(self.buffer.space(bytes)).await?;
                    if read == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    self.buffer.filled_by(read);
                    continue;
                }
                Step::Skip(taken) => (None, taken),
                Step::Reply(reply, taken) => (came(reply)?, taken),
            };
            self.buffer.consume(taken);
            if let Some(came) = came {
                return Ok(came);
            }
        }
    }
}

fn came(reply: Reply<'_>) -> Result<Option<Came>, Broken> {
    Ok(match reply {
        Reply::Answer(answer) => {
            let value = redis::parse_redis_value(answer);
            Some(Came::Answer(Ok(value.map_err(|error| io::Error::other(error.to_string()))?)))
        }
        Reply::Error(message) => Some(Came::Answer(Err(String::from_utf8_lossy(message).into_owned()))),
        Reply::Confirmed { .. } => Some(Came::Confirmed),
        Reply::Message { payload: Payload::Whole(_) | Payload::Oversized(_), .. } => Some(Came::Event),
        Reply::Nameless | Reply::Push => None,
    })
}

fn field(of: &Value, name: &str) -> Option<String> {
    pairs(of).find(|(field, _)| text(field).as_deref() == Some(name)).and_then(|(_, value)| text(value))
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
