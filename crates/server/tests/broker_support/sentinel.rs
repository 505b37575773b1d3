//! A sentinel of the test's own, which names one server as the master of its service; ended with the test.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use drawbridge::broker::{RedisAddress, RedisLocation};

use super::ports::Port;
use super::until;

/// What the sentinel calls the master.
const SERVICE: &str = "game";
/// What a sentinel is subscribed to at the master begins with this.
pub(super) const OWN_CHANNELS: &str = "__sentinel__:";

pub(super) struct Sentinel {
    port: Port,
    child: Child,
}

impl Sentinel {
    /// A sentinel that runs, with its files in this directory, of the master on this port.
    pub(super) fn launch(directory: &Path, master: u16) -> Sentinel {
        let (port, file) = (Port::free(), directory.join("sentinel.conf"));
        let lines = [
            format!("port {}", port.number),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", directory.display()),
            format!("logfile {}", directory.join("sentinel.log").display()),
            format!("sentinel monitor {SERVICE} 127.0.0.1 {master} 1"),
            format!("sentinel down-after-milliseconds {SERVICE} 60000"),
        ];
        std::fs::write(&file, lines.join("\n")).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let sentinel = Sentinel { port, child: child.expect("`redis-server` on the PATH") };
        until("the sentinel listens", || TcpStream::connect(("127.0.0.1", sentinel.port.number)).is_ok());
        sentinel
    }

    /// Where a node is to find the master.
    pub(super) fn location(&self) -> RedisLocation {
        let address = RedisAddress::Tcp { host: "127.0.0.1".into(), port: self.port.number };
        RedisLocation::Sentinels { addresses: vec![address], service: SERVICE.to_owned() }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
