//! Windows: the console's signals end a node, none reloads it, and there are no unix sockets.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};

/// Ctrl-C and Ctrl-Break.
pub(crate) struct EndSignals {
    ctrl_c: CtrlC,
    ctrl_break: CtrlBreak,
}

impl EndSignals {
    /// Listens from now on; the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// Where the system does not let it listen.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(EndSignals { ctrl_c: ctrl_c()?, ctrl_break: ctrl_break()? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.ctrl_c.recv() => {}
            _ = self.ctrl_break.recv() => {}
        }
    }
}

/// None: a node is restarted to read its configuration again.
pub(crate) struct ReloadSignals;

impl ReloadSignals {
    /// Nothing to listen to.
    ///
    /// # Errors
    /// Never.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(ReloadSignals)
    }

    /// There is none.
    pub(crate) async fn next(&mut self) -> bool {
        false
    }
}

/// How many sockets the process may have open: the system has no limit that a process can read.
pub(crate) fn max_open_files() -> u64 {
    1 << 20
}

/// A new file has the rights of its directory, which in a user's own directories are the user's.
pub(crate) fn readable_by_owner_only(_: &mut OpenOptions) {}

/// There are none: no value of this type exists.
pub(crate) enum UnixStream {}

impl UnixStream {
    /// Always fails.
    ///
    /// # Errors
    /// That there are no unix sockets.
    pub(crate) async fn connect(_: &Path) -> io::Result<UnixStream> {
        Err(io::Error::new(io::ErrorKind::Unsupported, super::NO_UNIX_SOCKETS.unwrap_or_default()))
    }
}

/// Never called.
///
/// # Errors
/// Never.
pub(crate) fn watch_unix_here(stream: &mut UnixStream) -> io::Result<()> {
    match *stream {}
}

impl AsyncRead for UnixStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl AsyncWrite for UnixStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
