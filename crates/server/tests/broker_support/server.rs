//! A Redis server of the test's own, on a free port, with its files in its own directory; ended with the test.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use drawbridge::broker::redis::{LeaseSettings, Library, Names};
use drawbridge::broker::{RedisAddress, RedisLocation, RedisSettings, SentinelSettings};
use drawbridge::config::Rotating;
use drawbridge_engine::class::{Class, Classes, ShardedChannels};
use drawbridge_engine::settings::Reserved;

use super::ports::Port;
use super::sentinel::{self, Sentinel};

/// How a node reaches Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Tcp,
    Unix,
    Tls,
    /// TCP, as the user `bridge`, who has only the rights that `docs/redis.md` names.
    Acl,
    /// As [`Flavour::Acl`], with a channel prefix and rights to nothing else.
    Prefixed,
    /// As [`Flavour::Acl`], and every class is sharded.
    Sharded,
    /// The master that a sentinel names, over TCP.
    Sentinel,
    /// The masters of a Cluster, over TCP.
    Cluster,
    /// As [`Flavour::Cluster`], and every class is sharded.
    ShardedCluster,
}

impl Flavour {
    /// That of tests which are about no flavour: over TCP; a Cluster where `DRAWBRIDGE_REDIS` is `cluster`.
    pub fn usual() -> Flavour {
        match std::env::var("DRAWBRIDGE_REDIS").as_deref() {
            Ok("cluster") => Flavour::Cluster,
            _ => Flavour::Tcp,
        }
    }

    /// What everything begins with that a node has in this Redis.
    pub fn prefix(self) -> &'static str {
        if self == Flavour::Prefixed { "prod:" } else { "" }
    }

    fn is_cluster(self) -> bool {
        matches!(self, Flavour::Cluster | Flavour::ShardedCluster)
    }

    fn is_sharded(self) -> bool {
        matches!(self, Flavour::Sharded | Flavour::ShardedCluster)
    }

    fn has_user(self) -> bool {
        matches!(self, Flavour::Acl | Flavour::Prefixed | Flavour::Sharded)
    }
}

/// The rights that `docs/redis.md` names, without its channels and keys.
fn acl_commands() -> String {
    let docs = include_str!("../../../../docs/redis.md");
    let (_, rest) = docs.split_once("ACL SETUSER bridge").unwrap();
    let (rule, _) = rest.split_once("```").unwrap();
    rule.split_whitespace().filter(|word| word.starts_with(['+', '-'])).collect::<Vec<_>>().join(" ")
}

/// A running (or killed, or stopped) Redis.
pub struct Server {
    flavour: Flavour,
    directory: PathBuf,
    port: Port,
    tls: Option<Arc<rustls::ClientConfig>>,
    child: Option<Child>,
    /// Where the servers of a Cluster speak to each other.
    bus: Option<Port>,
    /// The other masters of a Cluster.
    others: Vec<Server>,
    /// Who names it as the master.
    sentinel: Option<Sentinel>,
}

/// What Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Int(i64),
    Nil,
    List(Vec<Reply>),
    Error(String),
}

impl Reply {
    /// What it says; panics where it is no text.
    pub fn text(self) -> String {
        match self {
            Reply::Text(text) => text,
            other => panic!("expected a text, got {other:?}"),
        }
    }
}

impl Server {
    /// A server that runs; with the others of its Cluster.
    pub fn start(flavour: Flavour) -> Server {
        let mut server = Server::start_alone(flavour);
        if flavour.is_cluster() {
            server.others = super::cluster::launch_beside(&server);
        }
        if flavour == Flavour::Sentinel {
            server.sentinel = Some(Sentinel::launch(&server.directory, server.port.number));
        }
        server
    }

    /// A server that runs, of no Cluster yet.
    pub(super) fn start_alone(flavour: Flavour) -> Server {
        let mut server = Server::prepare(flavour);
        server.launch();
        server
    }

    /// Its port, and that on which it speaks to the others of its Cluster.
    pub(super) fn ports(&self) -> [u16; 2] {
        [self.port.number, self.bus.as_ref().map_or(0, |bus| bus.number)]
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// A server that does not run yet.
    pub fn prepare(flavour: Flavour) -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("drawbridge-broker-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let port = Port::free();
        let tls = (flavour == Flavour::Tls).then(|| certificate(&directory));
        let bus = flavour.is_cluster().then(Port::free);
        Server { flavour, directory, port, tls, child: None, bus, others: Vec::new(), sentinel: None }
    }

    /// Starts it, again after a kill, and waits until it answers.
    pub fn launch(&mut self) {
        self.launch_with(&[]);
    }

    /// As [`Server::launch`], with more options.
    pub fn launch_with(&mut self, options: &[&str]) {
        assert!(self.child.is_none(), "it runs already");
        let file = |name: &str| self.directory.join(name).display().to_string();
        let port = self.port.number.to_string();
        let (plain, tls) =
            if self.flavour == Flavour::Tls { ("0", port.as_str()) } else { (port.as_str(), "0") };
        let mut command = Command::new(program());
        command
            .args(["--port", plain, "--bind", "127.0.0.1", "--unixsocket", &file("redis.sock")])
            .args(["--save", "", "--appendonly", "no", "--dir", &file(""), "--logfile", &file("redis.log")])
            .args(["--proto-max-bulk-len", "1gb"]);
        if tls != "0" {
            command.args(["--tls-port", tls, "--tls-auth-clients", "no"]).args([
                "--tls-cert-file",
                &file("cert.pem"),
                "--tls-key-file",
                &file("key.pem"),
                "--tls-ca-cert-file",
                &file("cert.pem"),
            ]);
        }
        if let Some(bus) = &self.bus {
            command.args(["--cluster-enabled", "yes", "--cluster-port", &bus.number.to_string()]);
            command.args(["--cluster-node-timeout", "1000"]);
        }
        command.args(options);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect(
            "these tests need `redis-server` (7.0 or later) on the PATH, or `DRAWBRIDGE_REDIS_SERVER`",
        ));
        let give_up = Instant::now() + Duration::from_secs(20);
        while !self.answers() {
            let exited = self.child.as_mut().unwrap().try_wait().unwrap();
            let log = || std::fs::read_to_string(self.directory.join("redis.log")).unwrap_or_default();
            assert!(exited.is_none() && Instant::now() < give_up, "redis-server did not start: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.flavour.has_user() {
            let names = match self.flavour {
                Flavour::Prefixed => "~prod:* &prod:* &prod:room:* &prod:r*",
                _ => {
                    "~actions:* ~drawbridge:* ~world:* &room:* &chat:* &world:* &own:* &logged:* &brief:* &r* &drawbridge:*"
                }
            };
            let rules = format!("bridge reset on >between-us {names} {}", acl_commands());
            self.call(
                &[&["ACL", "SETUSER"], rules.split_whitespace().collect::<Vec<_>>().as_slice()].concat(),
            );
            self.call(&["ACL", "SETUSER", "default", "on", ">another"]);
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `SIGSTOP`: it keeps its sockets and says nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// `SIGCONT`.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The most bytes that one connection sent to its TCP port and that it has not read.
    pub fn unread_bytes(&self) -> usize {
        let local = format!(":{:04X}", self.port.number);
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
        let unread = tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local_address, queues) = (fields.get(1)?, fields.get(4)?);
            let unread = usize::from_str_radix(queues.split(':').nth(1)?, 16).ok()?;
            local_address.ends_with(&local).then_some(unread)
        });
        unread.max().unwrap_or(0)
    }

    /// What a node is told about it.
    pub fn settings(&self, subscriber_pool: usize) -> RedisSettings {
        let tcp = RedisAddress::Tcp { host: "localhost".into(), port: self.port.number };
        let acl = self.flavour.has_user();
        let names = Names::new(self.flavour.prefix(), "drawbridge:");
        RedisSettings {
            location: match self.flavour {
                Flavour::Sentinel => self.sentinel.as_ref().expect("a sentinel").location(),
                Flavour::Unix => RedisAddress::Unix(self.directory.join("redis.sock")).into(),
                Flavour::Cluster | Flavour::ShardedCluster => RedisLocation::Cluster { addresses: vec![tcp] },
                _ => tcp.into(),
            },
            sentinel: SentinelSettings::default(),
            tls: self.tls.clone(),
            username: acl.then(|| "bridge".into()),
            password: acl.then(|| Rotating::new("between-us")),
            db: 0,
            subscriber_pool,
            client_name: "drawbridge-test".into(),
            classes: self.classes(),
            sharded: self.sharded(),
            library: Library::new(&self.classes(), &names, super::bench::EXTERNAL_BYTES),
            names,
            views_open_without_permission: false,
            lease: LeaseSettings::new(super::bench::instance(), super::bench::RESUME_WINDOW),
            node_channel: "drawbridge:nodes:0".into(),
            probe_every: Duration::ZERO,
        }
    }

    /// The classes of its nodes.
    pub fn classes(&self) -> Arc<Classes> {
        let classes = super::bench::classes();
        if !self.flavour.is_sharded() {
            return classes;
        }
        let sharded = |class: &Class| Class { sharded: true, patterns: false, ..class.clone() };
        Classes::new(classes.iter().map(|(_, class)| sharded(class)).collect())
    }

    /// Whether nodes have a link to each master.
    pub fn has_master_links(&self) -> bool {
        self.flavour == Flavour::ShardedCluster
    }

    /// Which channels are sharded for them.
    pub fn sharded(&self) -> ShardedChannels {
        ShardedChannels::new(&self.classes(), &Reserved::new("drawbridge:"))
    }

    /// The command by which services publish on this channel.
    pub fn publish_command(&self, channel: &str) -> &'static str {
        if self.sharded().contain(channel) { "SPUBLISH" } else { "PUBLISH" }
    }

    /// A channel or key as Redis knows it.
    pub fn named(&self, name: &str) -> String {
        format!("{}{name}", self.flavour.prefix())
    }

    /// The functions as a node with these classes loads them into an empty Redis.
    pub fn library(&self, classes: &Classes) -> String {
        let names = Names::new(self.flavour.prefix(), "drawbridge:");
        Library::new(classes, &names, super::bench::EXTERNAL_BYTES).code()
    }

    /// Says something to Redis, as another service does; in a Cluster to whom it is for.
    pub fn call<S: AsRef<[u8]>>(&self, parts: &[S]) -> Reply {
        match self.flavour {
            Flavour::Cluster | Flavour::ShardedCluster => super::cluster::call(self, &self.others, parts),
            _ => self.tell(parts),
        }
    }

    /// The channels that have subscribers; a sentinel is none.
    pub fn subscribed_channels(&self) -> Vec<String> {
        let Reply::List(channels) = self.call(&["PUBSUB", "CHANNELS"]) else { panic!("no list") };
        let channels = channels.into_iter().map(Reply::text);
        channels.filter(|channel| !channel.starts_with(sentinel::OWN_CHANNELS)).collect()
    }

    /// All masters of a Cluster, this one first.
    pub fn masters(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(self).chain(&self.others)
    }

    /// Says something to this server.
    pub fn tell<S: AsRef<[u8]>>(&self, parts: &[S]) -> Reply {
        let mut client = self.client().expect("Redis is there");
        if self.flavour.has_user() {
            // Before the password is set this is an error, and needless.
            client.call(&["AUTH", "another"]);
        }
        client.call(parts)
    }

    /// Says several things on one connection, each after the answer to the one before.
    pub fn call_all<S: AsRef<[u8]>>(&self, calls: &[&[S]]) -> Vec<Reply> {
        let mut client = self.client().expect("Redis is there");
        calls.iter().map(|parts| client.call(parts)).collect()
    }

    fn answers(&self) -> bool {
        self.client().is_some_and(|mut client| {
            matches!(client.try_call(&["PING"]), Ok(Reply::Text(_) | Reply::Error(_)))
        })
    }

    fn client(&self) -> Option<Client> {
        let stream = UnixStream::connect(self.directory.join("redis.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Some(Client { reader: BufReader::new(stream.try_clone().unwrap()), writer: stream })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Client {
    fn call<S: AsRef<[u8]>>(&mut self, parts: &[S]) -> Reply {
        self.try_call(parts).expect("Redis answers")
    }

    fn try_call<S: AsRef<[u8]>>(&mut self, parts: &[S]) -> std::io::Result<Reply> {
        let mut out = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            out.extend_from_slice(format!("${}\r\n", part.as_ref().len()).as_bytes());
            out.extend_from_slice(part.as_ref());
            out.extend_from_slice(b"\r\n");
        }
        self.writer.write_all(&out)?;
        self.reply()
    }

    fn reply(&mut self) -> std::io::Result<Reply> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let rest = line[1..].trim_end();
        Ok(match line.as_bytes()[0] {
            b'+' => Reply::Text(rest.into()),
            b'-' => Reply::Error(rest.into()),
            b':' => Reply::Int(rest.parse().unwrap()),
            b'$' if rest == "-1" => Reply::Nil,
            b'$' => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.reader.read_exact(&mut bytes)?;
                Reply::Text(String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned())
            }
            b'*' => Reply::List((0..rest.parse().unwrap()).map(|_| self.reply()).collect::<Result<_, _>>()?),
            other => panic!("unexpected reply type {other}"),
        })
    }
}

/// A certificate for `localhost`, and a client that trusts it.
fn certificate(directory: &std::path::Path) -> Arc<rustls::ClientConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// The server that tests run: `DRAWBRIDGE_REDIS_SERVER`, or the `redis-server` on the path.
fn program() -> OsString {
    std::env::var_os("DRAWBRIDGE_REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}
