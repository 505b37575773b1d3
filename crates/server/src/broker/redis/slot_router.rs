//! Sends the commands of a batch to the masters of a Cluster that have their slots, and returns the answers in the order of the
//! commands. Follows `MOVED` and `ASK`, and tries again after `TRYAGAIN` for a moment.
//!
//! Invariant: commands of one slot are executed in their order. All of a batch that go to one master go in one pipeline, and
//! what is sent again is sent only while nothing behind it in its slot was done.
//!
//! A command whose outcome is not known, because its connection broke, is never sent again: its error says [`UNANSWERED`]. One
//! that was not sent at all says `CLUSTERDOWN`, as Redis itself does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hashbrown::HashMap;
use redis::{Arg, Cmd, Pipeline, RedisError, RedisResult, Value, make_extension_error};
use tokio::time::{Instant, sleep, timeout};

use super::batch::{Batch, Step};
use super::cluster_map::{Cluster, ClusterMap, slot_of};
use super::command_connection::CommandConnection;
use super::connect::Broken;
use super::connector::{Connector, left};
use super::{RedisAddress, RedisSettings, UNANSWERED, is_moving};

/// How often a command is sent to another master, or tried again.
const MAX_REDIRECTIONS: u32 = 6;
/// How often it is tried again after `TRYAGAIN`: who asks can wait longer, and others wait behind it here.
const MAX_TRIES_AGAIN: u32 = 3;
/// The first pause behind `TRYAGAIN`; it doubles each time.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(5);
/// How long a connection to another master may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nothing is sent to a master that could not be reached.
const DOWN_FOR: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct SlotRouter {
    cluster: Cluster,
    settings: Arc<RedisSettings>,
    part: String,
    home: RedisAddress,
    /// The slot that chose the home; `None`: any master does.
    home_slot: Option<u16>,
    others: HashMap<RedisAddress, Other>,
    /// Of the map by which `others` were looked through last.
    map_version: u64,
}

enum Other {
    Up(Box<CommandConnection>),
    Down { until: Instant, reason: String },
}

/// One command on its way.
struct Sending {
    /// Its place in the batch.
    at: usize,
    to: RedisAddress,
    /// `ASKING` goes before it.
    asks: bool,
}

/// What is sent to one master at once.
struct Part {
    to: RedisAddress,
    pipeline: Pipeline,
    /// For each command its place in the batch; `None`: it is an `ASKING`.
    places: Vec<Option<usize>>,
}

/// What a result says about where to send the command again.
#[derive(Debug, PartialEq, Eq)]
enum Redirection {
    Moved(RedisAddress),
    Ask(RedisAddress),
    TryAgain,
}

impl SlotRouter {
    /// `None` where there is no Cluster. `home`: where the connection leads that is there already.
    pub(super) fn new(connector: &Connector, home: Option<RedisAddress>, part: &str) -> Option<Self> {
        let (cluster, home_slot) = connector.cluster()?;
        Some(SlotRouter {
            cluster: cluster.clone(),
            settings: connector.settings.clone(),
            part: part.to_owned(),
            home: home?,
            home_slot,
            others: HashMap::new(),
            map_version: 0,
        })
    }

    /// The connections to other masters.
    pub(super) fn others(&mut self) -> impl Iterator<Item = &mut CommandConnection> {
        self.others.values_mut().filter_map(|other| match other {
            Other::Up(connection) => Some(&mut **connection),
            Other::Down { .. } => None,
        })
    }

    /// The home connection broke.
    pub(super) fn doubt(&self) {
        self.cluster.doubt();
    }

    /// Waits until another master has the home slot.
    pub(super) async fn home_moved(&self) {
        let Some(slot) = self.home_slot else { return left(&self.cluster, &self.home).await };
        let is_here = |map: &ClusterMap| map.master_of(slot).is_none_or(|master| master.address == self.home);
        let mut follower = self.cluster.follow();
        if follower.wait_for(|map| !is_here(map)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The result of each command, in their order; or why the home connection broke.
    pub(super) async fn query(
        &mut self,
        home: &mut CommandConnection,
        batch: &Batch,
    ) -> Result<Vec<RedisResult<Value>>, Broken> {
        let commands: Vec<(Step, &Cmd)> = batch.commands().collect();
        let slots = slots_of(commands.iter().map(|(_, command)| *command));
        let mut results: Vec<Option<RedisResult<Value>>> = commands.iter().map(|_| None).collect();
        for step in Step::ALL {
            let map = self.cluster.map();
            let mut sendings = Vec::new();
            for at in (0..commands.len()).filter(|at| commands[*at].0 == step) {
                match slots[at].map_or(Some(self.home.clone()), |slot| owner(&map, slot)) {
                    Some(to) => sendings.push(Sending { at, to, asks: false }),
                    None => results[at] = Some(Err(unowned())),
                }
            }
            if sendings.is_empty() {
                continue;
            }
            self.send(home, &commands, sendings, &mut results).await?;
            for times in 0..MAX_REDIRECTIONS {
                let again = self.redirected(&commands, &slots, &results, step);
                if again.is_empty() {
                    break;
                }
                if again.iter().any(|(_, is_unstable)| *is_unstable) {
                    // All of them, since those of one slot keep their order.
                    if times >= MAX_TRIES_AGAIN {
                        break;
                    }
                    sleep(TRY_AGAIN_AFTER * 2u32.pow(times)).await;
                }
                let sendings = again.into_iter().map(|(sending, _)| sending).collect();
                self.send(home, &commands, sendings, &mut results).await?;
            }
            // Nothing is done for which what must be known before is not.
            if step == Step::Before && results.iter().flatten().any(|result| is_undone(result.as_ref().err()))
            {
                break;
            }
        }
        let unsent = || Err(not_sent("what goes before it could not be done"));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(unsent)).collect())
    }

    /// Sends these, and stores their results.
    async fn send(
        &mut self,
        home: &mut CommandConnection,
        commands: &[(Step, &Cmd)],
        sendings: Vec<Sending>,
        results: &mut [Option<RedisResult<Value>>],
    ) -> Result<(), Broken> {
        let mut parts = parts_of(commands, sendings);
        let at_home = parts.iter().position(|part| part.to == self.home).map(|at| parts.swap_remove(at));
        let connections = self.connections(&parts).await;
        let cluster = &self.cluster;
        let elsewhere = parts.iter().zip(connections).map(|(part, connection)| async move {
            let mut connection = connection?;
            let results = query_one(cluster, &part.to, &mut connection, &part.pipeline).await;
            Ok::<_, String>((connection, results))
        });
        let here = async {
            match &at_home {
                Some(part) => query_one(cluster, &part.to, home, &part.pipeline).await,
                None => Ok(Vec::new()),
            }
        };
        let (here, elsewhere) = tokio::join!(here, join_all(elsewhere));
        for (part, outcome) in parts.iter().zip(elsewhere) {
            match outcome {
                Ok((connection, Ok(answers))) => {
                    self.others.insert(part.to.clone(), Other::Up(connection));
                    part.store(answers, results);
                }
                Ok((_, Err(broken))) => {
                    self.cluster.doubt();
                    let words = format!("{}: {broken}", part.to);
                    part.fill(results, || make_extension_error(UNANSWERED.to_owned(), Some(words.clone())));
                }
                Err(reason) => {
                    self.cluster.doubt();
                    part.fill(results, || not_sent(&reason));
                }
            }
        }
        let here = here.inspect_err(|_| self.cluster.doubt())?;
        if let Some(part) = &at_home {
            part.store(here, results);
        }
        Ok(())
    }

    /// A connection for each of these parts, or why there is none. They are taken out, and put back when they have answered.
    async fn connections(&mut self, parts: &[Part]) -> Vec<Result<Box<CommandConnection>, String>> {
        self.forget_former_masters();
        let taken: Vec<_> = parts.iter().map(|part| self.others.remove(&part.to)).collect();
        let settings = &self.settings;
        let name = self.part.as_str();
        let opened = parts.iter().zip(taken).map(|(part, other)| async move {
            match other {
                Some(Other::Up(connection)) => Ok(connection),
                Some(Other::Down { until, reason }) if until > Instant::now() => {
                    Err(Other::Down { until, reason })
                }
                _ => open(settings.clone(), &part.to, name).await,
            }
        });
        let mut connections = Vec::with_capacity(parts.len());
        for (part, opened) in parts.iter().zip(join_all(opened).await) {
            connections.push(opened.map_err(|down| {
                let reason = match &down {
                    Other::Down { reason, .. } => format!("{}: {reason}", part.to),
                    Other::Up(_) => String::new(),
                };
                self.others.insert(part.to.clone(), down);
                reason
            }));
        }
        connections
    }

    /// Closes connections to those that are no masters any more.
    fn forget_former_masters(&mut self) {
        let map = self.cluster.map();
        if self.map_version != map.version() {
            self.map_version = map.version();
            self.others.retain(|address, _| map.masters().iter().any(|master| master.address == *address));
        }
    }

    /// The commands of a step that are to be sent again, each with whether it must wait a moment. Those behind which something
    /// of their slot was done keep the error that they have.
    fn redirected(
        &self,
        commands: &[(Step, &Cmd)],
        slots: &[Option<u16>],
        results: &[Option<RedisResult<Value>>],
        step: Step,
    ) -> Vec<(Sending, bool)> {
        let map = self.cluster.map();
        let (mut again, mut done) = (Vec::new(), Vec::new());
        for at in (0..commands.len()).rev().filter(|at| commands[*at].0 == step) {
            let (Some(slot), Some(result)) = (slots[at], &results[at]) else { continue };
            let redirection = result
                .as_ref()
                .err()
                .and_then(|error| redirection_of(error, &self.home))
                .filter(|_| !done.contains(&slot));
            let sending = |to, asks| Sending { at, to, asks };
            match redirection {
                Some(Redirection::Moved(to)) => {
                    self.cluster.moved(slot, &to);
                    again.push((sending(to, false), false));
                }
                Some(Redirection::Ask(to)) => again.push((sending(to, true), false)),
                Some(Redirection::TryAgain) => {
                    if let Some(to) = owner(&map, slot) {
                        again.push((sending(to, false), true));
                    }
                }
                None => done.push(slot),
            }
        }
        again.reverse();
        again
    }
}

impl Part {
    fn store(&self, answers: Vec<RedisResult<Value>>, results: &mut [Option<RedisResult<Value>>]) {
        for (place, answer) in self.places.iter().zip(answers) {
            if let Some(at) = place {
                results[*at] = Some(answer);
            }
        }
    }

    fn fill(&self, results: &mut [Option<RedisResult<Value>>], error: impl Fn() -> RedisError) {
        for at in self.places.iter().flatten() {
            results[*at] = Some(Err(error()));
        }
    }
}

/// Divides commands by the master that they go to; each part keeps their order.
fn parts_of(commands: &[(Step, &Cmd)], sendings: Vec<Sending>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for Sending { at, to, asks } in sendings {
        let place = parts.iter().position(|part| part.to == to).unwrap_or_else(|| {
            let mut pipeline = Pipeline::new();
            pipeline.ignore_errors();
            parts.push(Part { to, pipeline, places: Vec::new() });
            parts.len() - 1
        });
        let part = &mut parts[place];
        if asks {
            part.pipeline.cmd("ASKING");
            part.places.push(None);
        }
        part.pipeline.add_command(commands[at].1.clone());
        part.places.push(Some(at));
    }
    parts
}

/// Waits for the answers no longer than this is the address of a master that works: one that was replaced may never answer.
async fn query_one(
    cluster: &Cluster,
    to: &RedisAddress,
    connection: &mut CommandConnection,
    pipeline: &Pipeline,
) -> Result<Vec<RedisResult<Value>>, Broken> {
    tokio::select! {
        biased;
        results = connection.query(pipeline) => results,
        () = left(cluster, to) => Err(Broken::Left),
    }
}

async fn open(
    settings: Arc<RedisSettings>,
    to: &RedisAddress,
    part: &str,
) -> Result<Box<CommandConnection>, Other> {
    let opened = timeout(OPEN_TIMEOUT, CommandConnection::open(settings, Some(to), part)).await;
    let broken = match opened {
        Ok(Ok(connection)) => return Ok(Box::new(connection)),
        Ok(Err(broken)) => broken,
        Err(_) => Broken::Silent,
    };
    Err(Other::Down { until: Instant::now() + DOWN_FOR, reason: broken.to_string() })
}

fn owner(map: &ClusterMap, slot: u16) -> Option<RedisAddress> {
    map.master_of(slot).map(|master| master.address.clone())
}

/// The slot of each command. One without a key goes where the next one goes that has a key; `None`: home.
fn slots_of<'c>(commands: impl DoubleEndedIterator<Item = &'c Cmd>) -> Vec<Option<u16>> {
    let mut next = None;
    let mut slots: Vec<_> = commands
        .rev()
        .map(|command| {
            next = slot_of_command(command).or(next);
            next
        })
        .collect();
    slots.reverse();
    slots
}

/// The slot of the first key of a command, or of the channel that it publishes on; `None`: it has none.
fn slot_of_command(command: &Cmd) -> Option<u16> {
    let mut words = command.args_iter().filter_map(|word| match word {
        Arg::Simple(word) => Some(word),
        _ => None,
    });
    let name = words.next()?.to_ascii_uppercase();
    let key = match &name[..] {
        b"PING" | b"TIME" | b"INFO" | b"FUNCTION" | b"CLUSTER" => return None,
        b"FCALL" | b"FCALL_RO" => {
            words.next()?;
            if words.next()? == b"0" {
                return None;
            }
            words.next()
        }
        _ => words.next(),
    };
    key.map(slot_of)
}

/// `answered`: any server of the Cluster, since all that leave the host out share it.
fn redirection_of(error: &RedisError, answered: &RedisAddress) -> Option<Redirection> {
    let to = || RedisAddress::redirected(error.redirect_node()?.0, Some(answered));
    match error.code()? {
        "MOVED" => to().map(Redirection::Moved),
        "ASK" => to().map(Redirection::Ask),
        "TRYAGAIN" => Some(Redirection::TryAgain),
        _ => None,
    }
}

/// Whether a command was not done, or may not have been.
fn is_undone(error: Option<&RedisError>) -> bool {
    error
        .and_then(RedisError::code)
        .is_some_and(|code| is_moving(code) || [UNANSWERED, "CLUSTERDOWN"].contains(&code))
}

/// The slot is on its way from no master to one, if at all: what is in other slots does not wait for that.
fn unowned() -> RedisError {
    make_extension_error("TRYAGAIN".to_owned(), Some("it was not sent: no master has its slot".to_owned()))
}

fn not_sent(reason: &str) -> RedisError {
    make_extension_error("CLUSTERDOWN".to_owned(), Some(format!("it was not sent: {reason}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn command(words: &[&str]) -> Cmd {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
    }

    #[test]
    fn commands_go_where_their_keys_are() {
        let slot = |words: &[&str]| slot_of_command(&command(words));
        assert_eq!(slot(&["PUBLISH", "room:1", "x"]), Some(slot_of(b"room:1")));
        assert_eq!(slot(&["FCALL", "f", "2", "{room:1}:a", "{room:1}:b", "x"]), Some(slot_of(b"room:1")));
        assert_eq!(slot(&["fcall_ro", "f", "0", "x"]), None);
        assert_eq!(slot(&["XADD", "actions", "*"]), Some(slot_of(b"actions")));
        assert_eq!(slot(&["PING"]), None);
    }

    #[test]
    fn a_command_without_a_key_goes_with_the_next_one() {
        let commands =
            [&["TIME"][..], &["HLEN", "a"], &["TIME"], &["TIME"], &["HLEN", "b"], &["PING"]].map(command);
        let (a, b) = (Some(slot_of(b"a")), Some(slot_of(b"b")));
        assert_eq!(slots_of(commands.iter()), [a, a, b, b, b, None]);
    }

    #[test]
    fn redirections_are_read() {
        let tcp = |host: &str, port| RedisAddress::Tcp { host: host.into(), port };
        let read = |words: &str| {
            let (code, detail) = words.split_once(' ').unwrap();
            let text = format!("-{code} {detail}\r\n");
            let error = redis::parse_redis_value(text.as_bytes()).and_then(Value::extract_error);
            redirection_of(&error.unwrap_err(), &tcp("asked", 1))
        };
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), Some(Redirection::Moved(tcp("127.0.0.1", 6381))));
        assert_eq!(read("ASK 3999 ::1:6381"), Some(Redirection::Ask(tcp("::1", 6381))));
        assert_eq!(read("TRYAGAIN Multiple keys"), Some(Redirection::TryAgain));
        assert_eq!(read("ERR no"), None);
        assert_eq!(read("MOVED 3999 :7"), Some(Redirection::Moved(tcp("asked", 7))));
    }
}
