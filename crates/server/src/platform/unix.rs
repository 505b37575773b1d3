//! Linux, macOS and the BSDs.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

pub(crate) use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT.
pub(crate) struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    /// Listens from now on; the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// Where the system does not let it listen.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(EndSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// SIGHUP.
pub(crate) struct ReloadSignals(Signal);

impl ReloadSignals {
    /// Listens from now on; the signal no longer ends the process.
    ///
    /// # Errors
    /// Where the system does not let it listen.
    pub(crate) fn new() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(ReloadSignals)
    }

    /// Waits for the next one; `false`: there will be none.
    pub(crate) async fn next(&mut self) -> bool {
        self.0.recv().await.is_some()
    }
}

/// Lets the runtime that this is called in watch the socket, which another one did.
///
/// # Errors
/// Where the system has no handles left.
pub(crate) fn watch_unix_here(stream: &mut UnixStream) -> io::Result<()> {
    *stream = UnixStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?;
    Ok(())
}

/// How many files and sockets the process may have open, raised as far as the system lets it.
pub(crate) fn max_open_files() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1_024)
}

/// A file that is created with these options is for its owner alone.
pub(crate) fn readable_by_owner_only(options: &mut OpenOptions) {
    options.mode(0o600);
}
