//! A connection to the master that fails as soon as another server is the master. Invariant: no byte is read from a server
//! or written to it once the sentinels name another one, also where it is alive and still accepts writes.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::RedisSettings;
use super::super::connect::{ByteStream, Stream, open_at};

/// Opens a stream to the master that the sentinels name. Bounded in time only by the system and by the watcher, so the caller
/// sets a time.
pub(in crate::broker::redis) async fn open_master(settings: &RedisSettings) -> io::Result<Stream> {
    let master = &settings.sentinel.master;
    let address = master.resolved().await?;
    let mut superseded: Superseded = Box::pin(master.superseded(address.clone()));
    let stream = tokio::select! {
        biased;
        () = &mut superseded => return Err(is_superseded()),
        stream = open_at(&address, settings.tls.as_ref()) => stream?,
    };
    Ok(Box::new(MasterStream { stream, superseded: Some(superseded) }))
}

type Superseded = Pin<Box<dyn Future<Output = ()> + Send>>;

fn is_superseded() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the sentinels name another master")
}

struct MasterStream {
    stream: Stream,
    /// `None`: it has ended.
    superseded: Option<Superseded>,
}

impl MasterStream {
    /// Fails when another server is the master; otherwise the task is woken when one is.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_master = match &mut self.superseded {
            Some(superseded) => superseded.as_mut().poll(cx).is_pending(),
            None => false,
        };
        if is_master {
            return Ok(());
        }
        self.superseded = None;
        Err(is_superseded())
    }
}

impl ByteStream for MasterStream {
    fn register(&mut self) -> io::Result<()> {
        self.stream.register()
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer()
    }
}

impl AsyncRead for MasterStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for MasterStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::super::{RedisAddress, RedisLocation};
    use super::*;

    #[tokio::test]
    async fn nothing_is_read_or_written_once_another_server_is_the_master() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let old = RedisAddress::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let other = RedisAddress::Tcp { host: "127.0.0.1".into(), port: 1 };
        let mut settings = super::super::super::tests::settings();
        settings.location = RedisLocation::Sentinels { addresses: vec![], service: "game".into() };
        let master = settings.sentinel.master.clone();
        master.set(old);
        let mut stream = open_master(&settings).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        stream.write_all(b"before").await.unwrap();
        let mut read = [0; 6];
        server.read_exact(&mut read).await.unwrap();
        server.write_all(b"unread").await.unwrap();
        // One that waits is woken.
        let (mut waiting, _) = {
            let opened = open_master(&settings);
            let (stream, accepted) = tokio::join!(opened, listener.accept());
            (stream.unwrap(), accepted.unwrap())
        };
        let (woken, ()) = tokio::join!(waiting.read_u8(), async { master.set(other) });
        assert_eq!(woken.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(stream.write(b"after").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        drop(stream);
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }
}
