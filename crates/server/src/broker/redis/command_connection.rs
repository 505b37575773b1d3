//! One connection for commands, through redis-rs: opened, watched, and asked. It never subscribes.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connect::{Broken, CONNECT_TIMEOUT, Stream, open, spread};
use super::library::{Library, LibraryAction, MARK, VERSION};
use super::resp::Garbage;
use super::{RedisAddress, RedisSettings, code_of, is_passing, is_unknown_command};

/// How long Redis may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often Redis is pinged, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = ANSWER_TIMEOUT;
/// How often the functions are written before a node leaves it to others for a while, and how long it waits before it looks
/// again: somewhere below this at first, then below twice as much each time.
const LOAD_ATTEMPTS: u32 = 8;
const LOAD_PAUSE: Duration = Duration::from_millis(50);
/// How long an answer that has come may take to be read.
const GRACE: Duration = Duration::from_millis(100);

/// What Redis said.
pub(super) fn error_message(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// The answer to the one command of a pipeline, or Redis' error.
pub(super) fn answer_of(results: Vec<RedisResult<Value>>) -> Result<Value, String> {
    let result = results.into_iter().next().unwrap_or(Ok(Value::Nil));
    result.map_err(|error| error_message(&error))
}

/// What one pipeline's answers may take together: nothing that is stored makes a node hold more.
const ANSWER_BYTES: usize = 64 << 20;

/// Who connects, and how.
pub(super) fn connection_info(settings: &RedisSettings) -> RedisConnectionInfo {
    let who = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(i64::from(settings.db))
        .set_skip_set_lib_name();
    match &settings.password {
        None => who,
        Some(password) => who
            .set_username(settings.username.as_deref().unwrap_or("default"))
            .set_password(password.current().expose()),
    }
}

/// One command connection.
pub(super) struct CommandConnection {
    connection: MultiplexedConnection,
    /// How many bytes of an answer may still come.
    room: Arc<AtomicUsize>,
    /// Moves the bytes; ends when the connection does.
    driver: JoinHandle<()>,
    /// Ends when Redis is silent, or no longer the master.
    probe: JoinHandle<Broken>,
}

impl Drop for CommandConnection {
    fn drop(&mut self) {
        self.driver.abort();
        self.probe.abort();
    }
}

impl CommandConnection {
    /// A connection to a master that takes commands: to this one, or where the settings say. `part` names it in `CLIENT LIST`.
    pub(super) async fn open(
        settings: Arc<RedisSettings>,
        address: Option<&RedisAddress>,
        part: &str,
    ) -> Result<CommandConnection, Broken> {
        let open = async {
            let mut commands =
                CommandConnection::open_unbounded(&settings, address, part, Role::Master).await?;
            commands.ready().await?;
            Ok(commands)
        };
        timeout(CONNECT_TIMEOUT, open).await.unwrap_or(Err(Broken::Silent))
    }

    /// A connection to a server whatever its role.
    pub(super) async fn open_any(
        settings: Arc<RedisSettings>,
        address: &RedisAddress,
        part: &str,
    ) -> Result<CommandConnection, Broken> {
        CommandConnection::open_unbounded(&settings, Some(address), part, Role::Any).await
    }

    async fn open_unbounded(
        settings: &RedisSettings,
        address: Option<&RedisAddress>,
        part: &str,
        role: Role,
    ) -> Result<CommandConnection, Broken> {
        let room = Arc::new(AtomicUsize::new(ANSWER_BYTES));
        let stream = Bounded { stream: open(settings, address).await?, room: room.clone() };
        let who = connection_info(settings);
        // Time is kept here, for whole pipelines.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&who, stream, config).await.map_err(not_begun)?;
        let probe = tokio::spawn(probe(connection.clone(), role));
        let mut commands = CommandConnection { connection, room, driver: tokio::spawn(driver), probe };
        if let Some(name) = settings.connection_name(part) {
            let mut set_name = redis::cmd("CLIENT");
            set_name.arg("SETNAME").arg(name);
            // Only a help for people; the user may lack the right.
            let _ = commands.connection.send_packed_command(&set_name).await;
        }
        Ok(commands)
    }

    /// Whether Redis takes commands, or is loading, say; and is the master.
    async fn ready(&mut self) -> Result<(), Broken> {
        check_role(&mut self.connection, Role::Master).await?;
        match redis::cmd("PING").query_async::<Value>(&mut self.connection).await {
            Err(error) if error.code().is_none() || is_passing(&error_message(&error)) => Err(refused(error)),
            _ => Ok(()),
        }
    }

    /// The result of each command, or why it is not known.
    pub(super) async fn query(
        &mut self,
        pipeline: &redis::Pipeline,
    ) -> Result<Vec<RedisResult<Value>>, Broken> {
        let CommandConnection { connection, room, driver, probe } = self;
        room.store(ANSWER_BYTES, Ordering::Relaxed);
        let results = tokio::select! {
            biased;
            results = answer_within(ANSWER_TIMEOUT, pipeline.query_async(connection)) => match results {
                Some(results) => results.map_err(refused),
                None => Err(Broken::Silent),
            },
            broken = ended(driver, probe) => Err(broken),
        };
        let is_over = room.load(Ordering::Relaxed) == 0;
        results.map_err(|broken| if is_over { Broken::Oversized } else { broken })
    }

    /// Returns Redis' answer to one command, or its error, or why the outcome is unknown.
    pub(super) async fn ask(&mut self, command: &redis::Cmd) -> Result<Result<Value, String>, Broken> {
        let mut pipeline = redis::Pipeline::with_capacity(1);
        pipeline.ignore_errors().add_command(command.clone());
        Ok(answer_of(self.query(&pipeline).await?))
    }

    /// Ensures that Redis has the functions, unchanged, with this node's entry. `begins`: nothing has held that entry since
    /// the node started; `may_replace`: also where that needs others' functions to be replaced. Returns what was done, and why
    /// they cannot be used, if they cannot.
    ///
    /// Why it looks again after a load: between the look and the load another node may have loaded, and its entry is lost, or
    /// it loads later, and this one's is. Redis has no command that compares and loads.
    pub(super) async fn load(
        &mut self,
        library: &Library,
        begins: bool,
        may_replace: bool,
    ) -> Result<(Loaded, Result<(), String>), Broken> {
        let mut done = Loaded::Kept;
        for attempt in 0..LOAD_ATTEMPTS {
            if let Some(times) = attempt.checked_sub(2) {
                tokio::time::sleep(spread(LOAD_PAUSE * 2u32.pow(times))).await;
            }
            let present = match self.library_code().await? {
                Ok(present) => present,
                // Somebody else may have loaded them.
                Err(message) => {
                    let serves = matches!(self.check(library).await?, Check::Serves);
                    return Ok((done, if serves { Ok(()) } else { Err(message) }));
                }
            };
            let (code, replaces) = match library.action_for(present.as_deref(), begins) {
                LibraryAction::Load { code, replaces } => (code, replaces),
                LibraryAction::Newer(code) if matches!(self.check(library).await?, Check::Foreign) => {
                    (code, true)
                }
                LibraryAction::Newer(_) | LibraryAction::Keep => {
                    return Ok((done, self.usable(library, begins, present.as_deref()).await?));
                }
            };
            if replaces && (!may_replace || done == Loaded::Replaced) {
                return Ok((done, Err("others keep replacing them".to_owned())));
            }
            let dropped = present.as_deref().map_or(0, |present| Library::dropped(present, &code));
            let mut load = redis::cmd("FUNCTION");
            load.arg("LOAD").arg("REPLACE").arg(code);
            if let Err(message) = self.ask(&load).await? {
                return Ok((done, Err(message)));
            }
            if dropped > 0 {
                warn_of_dropped(dropped);
            }
            if done != Loaded::Replaced {
                done = if replaces { Loaded::Replaced } else { Loaded::Anew };
            }
        }
        Ok((done, Err("other nodes keep changing them at the same time".to_owned())))
    }

    /// The code of the functions that Redis has, or its error.
    async fn library_code(&mut self) -> Result<Result<Option<String>, String>, Broken> {
        let mut list = redis::cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg("drawbridge").arg("WITHCODE");
        Ok(self.ask(&list).await?.map(|answer| library_code(&answer)))
    }

    /// Whether the functions whose code is `present` answer this node, and if not, why.
    async fn usable(
        &mut self,
        library: &Library,
        begins: bool,
        present: Option<&str>,
    ) -> Result<Result<(), String>, Broken> {
        let check = self.check(library).await?;
        if let (Check::Serves, true, Some(present)) = (&check, begins, present) {
            warn_of_overlaps(library, present);
        }
        Ok(match check {
            Check::Serves => Ok(()),
            Check::Refused(message) => Err(message),
            Check::Outgrown(version) => {
                Err(format!("they are of version {version}, which serves later nodes only: update this one"))
            }
            Check::Lacks(version) => Err(format!(
                "they are of version {version} and have no entry for this node's channel_prefix, and a node of version \
                 {VERSION} does not write into a later one: start a node of the later version with this channel_prefix, \
                 or update this one"
            )),
            Check::Foreign => Err("they do not answer as Drawbridge's do".to_owned()),
        })
    }

    /// Asks the functions themselves whose they are.
    async fn check(&mut self, library: &Library) -> Result<Check, Broken> {
        let mut call = redis::cmd("FCALL");
        call.arg("drawbridge_check").arg(0).arg(library.prefix());
        let parts = match self.ask(&call).await? {
            Ok(Value::Array(parts)) => parts,
            Err(message) if is_unknown_command(&message) || code_of(&message) != "ERR" => {
                return Ok(Check::Refused(message));
            }
            _ => return Ok(Check::Foreign),
        };
        Ok(match &parts[..] {
            [mark, Value::Int(version), Value::Int(serves), known @ ..]
                if text(mark).as_deref() == Some(MARK) =>
            {
                let oldest = u64::try_from(*serves).unwrap_or(u64::MAX);
                match known {
                    _ if oldest > VERSION => Check::Outgrown(*version),
                    [Value::Int(0), ..] => Check::Lacks(*version),
                    _ => Check::Serves,
                }
            }
            _ => Check::Foreign,
        })
    }

    /// Waits for the end of the connection.
    pub(super) async fn ended(&mut self) -> Broken {
        ended(&mut self.driver, &mut self.probe).await
    }
}

/// A stream that ends when more is read than there is room for.
struct Bounded {
    stream: Stream,
    room: Arc<AtomicUsize>,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        let room = self.room.load(Ordering::Relaxed).saturating_sub(read);
        self.room.store(room, Ordering::Relaxed);
        match room {
            0 => Poll::Ready(Err(io::Error::other("an answer is too large"))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What was done for the functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// Nothing: they are there.
    Kept,
    /// They were not there, or older, and are loaded.
    Anew,
    /// They were not Drawbridge's, or changed, and are replaced.
    Replaced,
}

/// What the functions in Redis say of themselves.
enum Check {
    Serves,
    /// They are of this version, which does not serve nodes of ours.
    Outgrown(i64),
    /// They are of this version, and have no entry of this node's prefix.
    Lacks(i64),
    /// They are not Drawbridge's, or not there.
    Foreign,
    /// Functions cannot be called at all; the error that Redis returned.
    Refused(String),
}

/// Environments whose names are not told apart see each other's events where their classes match.
fn warn_of_overlaps(library: &Library, present: &str) {
    for other in library.overlapping(present) {
        tracing::warn!(
            other,
            "another environment on this Redis has a channel_prefix that begins with this node's, or the other way about: \
             they are not separated; if that environment is gone, FUNCTION DELETE drawbridge forgets it"
        );
    }
}

/// Their nodes write them again, and drop others in turn.
fn warn_of_dropped(entries: usize) {
    tracing::warn!(
        entries,
        "the Redis functions hold too many environments, or too many classes of them: those that were written first are \
         dropped; if some of them are gone, FUNCTION DELETE drawbridge forgets them"
    );
}

/// The code in the answer to `FUNCTION LIST`.
fn library_code(list: &Value) -> Option<String> {
    match list {
        Value::Array(items) => items.iter().find_map(library_code),
        Value::Map(entries) => entries.iter().find_map(|(name, value)| {
            (text(name).as_deref() == Some("library_code")).then(|| text(value)).flatten()
        }),
        _ => None,
    }
}

/// A value that is a string.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

/// As a timeout, but when this process itself was stopped for a while, so that time is up and the answer is there
/// unread, the answer counts.
async fn answer_within<F: Future>(time: Duration, answer: F) -> Option<F::Output> {
    let mut answer = pin!(answer);
    match timeout(time, answer.as_mut()).await {
        Ok(answer) => Some(answer),
        Err(_) => timeout(GRACE, answer).await.ok(),
    }
}

async fn ended(driver: &mut JoinHandle<()>, probe: &mut JoinHandle<Broken>) -> Broken {
    tokio::select! {
        _ = driver => {
            Broken::Io(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "Redis closed the connection"))
        }
        broken = probe => broken.unwrap_or(Broken::Silent),
    }
}

/// What a server must be.
#[derive(Clone, Copy, Debug)]
enum Role {
    Master,
    Any,
}

/// Ends when Redis does not answer, or is the master no longer where it must be. Does not hold up what is published meanwhile.
async fn probe(mut connection: MultiplexedConnection, role: Role) -> Broken {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        match answer_within(PING_TIMEOUT, check_role(&mut connection, role)).await {
            None => return Broken::Silent,
            Some(Err(broken)) => return broken,
            Some(Ok(())) => {}
        }
    }
}

/// Asks Redis what it is. `HELLO` says it, as at the connection's start, and every user may say `HELLO`: that it is
/// refused shows no more than that Redis is alive.
async fn check_role(connection: &mut MultiplexedConnection, role: Role) -> Result<(), Broken> {
    let mut hello = redis::cmd("HELLO");
    hello.arg(3);
    let Ok(Value::Map(members)) = connection.send_packed_command(&hello).await else { return Ok(()) };
    let member = |of: &str| members.iter().find(|(name, _)| text(name).as_deref() == Some(of));
    let value = |of: &str| member(of).and_then(|(_, value)| text(value));
    match role {
        Role::Master => Broken::unless_master(value("role").as_deref(), value("mode").as_deref()),
        Role::Any => Ok(()),
    }
}

/// The handshake did not come about.
fn not_begun(error: RedisError) -> Broken {
    match error.kind() {
        ErrorKind::Parse => Broken::Garbage(Garbage("an answer that cannot be read")),
        // It has lost the error that Redis returned by then.
        ErrorKind::RESP3NotSupported => Broken::no_hello("ERR unknown command 'HELLO'"),
        _ if error.code().is_some() => Broken::no_hello(&error_message(&error)),
        _ => refused(error),
    }
}

pub(super) fn refused(error: RedisError) -> Broken {
    Broken::refused(&error_message(&error))
}
