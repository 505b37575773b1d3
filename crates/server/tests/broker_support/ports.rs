//! Free loopback ports for servers that cannot choose one themselves and come back to the same one.

use std::fs::File;
use std::net::TcpListener;

/// Below the ports that the kernel gives to outgoing connections and to port 0.
const RANGE: std::ops::Range<u16> = 12_000..30_000;

/// A port that nothing listens on. It is taken until this is dropped, also while nothing listens: other tests of this
/// machine, those in Python too, choose another.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    /// Locked; the lock ends with the file.
    _lock: File,
}

impl Port {
    pub fn free() -> Port {
        let locks = std::env::temp_dir().join("drawbridge-ports");
        std::fs::create_dir_all(&locks).unwrap();
        let count = RANGE.end - RANGE.start;
        let start = std::process::id() as u16 % count;
        (0..count)
            .map(|step| RANGE.start + (start + step) % count)
            .find_map(|number| {
                let lock = File::create(locks.join(number.to_string())).ok()?;
                lock.try_lock().ok()?;
                TcpListener::bind(("127.0.0.1", number)).ok()?;
                Some(Port { number, _lock: lock })
            })
            .expect("a free port")
    }
}
