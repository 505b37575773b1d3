//! What differs between operating systems: the signals that end and reload a node, the limit of open files, unix sockets, and
//! options of sockets. The rest of the server names no operating system.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use tokio::net::TcpStream;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{
    EndSignals, ReloadSignals, UnixStream, max_open_files, readable_by_owner_only, watch_unix_here,
};

/// How a node without a unix socket says so; `None`: there are unix sockets here.
pub(crate) const NO_UNIX_SOCKETS: Option<&str> = if cfg!(unix) {
    None
} else {
    Some("unix sockets are not supported on this system; use redis://HOST:PORT")
};

/// Bounds what waits unsent in the kernel for a socket (`TCP_NOTSENT_LOWAT`), where the system can.
pub(crate) fn bound_unsent(stream: &TcpStream, bytes: u32) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(bytes);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, bytes);
}

/// Another handle of the same socket, watched by the runtime that this is called in.
///
/// # Errors
/// Where the system has no handles left.
pub(crate) fn watched_here(stream: &TcpStream) -> std::io::Result<TcpStream> {
    // One socket cannot be watched twice by one handle.
    TcpStream::from_std(socket2::SockRef::from(stream).try_clone()?.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn another_handle_of_a_socket_is_the_same_connection() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        bound_unsent(&near, 1 << 20);
        let other = watched_here(&near).unwrap();
        assert_eq!(other.local_addr().unwrap(), near.local_addr().unwrap());
        near = other;
        near.write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }

    #[test]
    fn a_limit_of_open_files_is_known() {
        assert!(max_open_files() >= 64);
    }
}
