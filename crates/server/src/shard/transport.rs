//! Bytes in and out of one socket, with or without TLS, never waiting. What the bytes mean is
//! [`super::socket`]'s business.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Read, Write};

use rustls::ServerConnection;
use tokio::net::TcpStream;

/// One socket. TLS is driven by hand, so that it needs no task and no buffers beyond rustls' own.
#[derive(Debug)]
pub(super) struct Transport {
    stream: TcpStream,
    tls: Option<Box<RefCell<ServerConnection>>>,
}

/// What one read gave.
pub(super) enum ReadBytes<'b> {
    /// At least one byte of plain text; `last`: the peer sends no more.
    Some { bytes: &'b mut [u8], last: bool },
    /// Nothing yet.
    WouldBlock,
    /// The peer sends no more.
    End,
}

/// The buffers of one thread, shared by all of its sockets.
#[derive(Debug)]
pub(super) struct ReadBuffers {
    raw: Box<[u8]>,
    plain: Vec<u8>,
}

impl ReadBuffers {
    /// The size of one read. Small: it bounds what a turn leaves undecoded of a socket.
    const BYTES: usize = 16 * 1024;

    pub(super) fn new() -> Self {
        ReadBuffers { raw: vec![0; Self::BYTES].into(), plain: Vec::new() }
    }
}

impl Transport {
    pub(super) fn new(stream: TcpStream, tls: Option<Box<ServerConnection>>) -> Self {
        let tls = tls.map(|mut tls| {
            // Never more than one chunk or one frame is inside: `outbound_bytes` is the bound of what waits.
            tls.set_buffer_limit(None);
            Box::new(RefCell::new(*tls))
        });
        Transport { stream, tls }
    }

    /// The socket and its TLS session, for another thread.
    ///
    /// # Errors
    /// Where the runtime cannot let go of the socket.
    pub(super) fn into_parts(self) -> io::Result<(std::net::TcpStream, Option<Box<ServerConnection>>)> {
        Ok((self.stream.into_std()?, self.tls.map(|tls| Box::new(tls.into_inner()))))
    }

    /// Waits until there is something to read: in the one place that tokio has for it in the socket, and not in a future
    /// of its own, which each idle connection would hold. So only one task may wait.
    pub(super) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_read_ready(cx)).await
    }

    /// As [`Transport::readable`], until there is room.
    pub(super) async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_write_ready(cx)).await
    }

    /// Reads what is there, up to the size of the buffers.
    pub(super) fn read<'b>(&self, buffers: &'b mut ReadBuffers) -> io::Result<ReadBytes<'b>> {
        let read = match self.stream.try_read(&mut buffers.raw) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(ReadBytes::WouldBlock),
            Err(error) => return Err(error),
        };
        if read == 0 {
            return Ok(ReadBytes::End);
        }
        let Some(tls) = &self.tls else {
            return Ok(ReadBytes::Some { bytes: &mut buffers.raw[..read], last: false });
        };
        buffers.plain.clear();
        buffers.plain.shrink_to(ReadBuffers::BYTES);
        let mut tls = tls.borrow_mut();
        let ended = decrypt(&mut tls, &buffers.raw[..read], &mut buffers.plain)?;
        self.flush_tls(&mut tls)?;
        Ok(match (buffers.plain.is_empty(), ended) {
            (false, last) => ReadBytes::Some { bytes: &mut buffers.plain, last },
            (true, true) => ReadBytes::End,
            (true, false) => ReadBytes::WouldBlock,
        })
    }

    /// Plain text that rustls had already decrypted when the handshake ended.
    pub(super) fn read_early(&self, into: &mut Vec<u8>) -> io::Result<()> {
        match &self.tls {
            Some(tls) => decrypt(&mut tls.borrow_mut(), &[], into).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Writes what the socket takes; returns how much of `bytes` is no longer the caller's, 0 where it blocks.
    /// With TLS that is all of it, and [`Transport::is_flushed`] returns whether it was written.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                written => written,
            },
            Some(tls) => {
                let mut tls = tls.borrow_mut();
                tls.writer().write_all(bytes)?;
                self.flush_tls(&mut tls)?;
                Ok(bytes.len())
            }
        }
    }

    /// Whether nothing waits inside the transport.
    pub(super) fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.borrow().wants_write())
    }

    /// Tries again to write what waits inside.
    pub(super) fn flush(&self) -> io::Result<()> {
        match &self.tls {
            Some(tls) => self.flush_tls(&mut tls.borrow_mut()),
            None => Ok(()),
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn finish(&self) {
        if let Some(tls) = &self.tls {
            let mut tls = tls.borrow_mut();
            tls.send_close_notify();
            // Best effort: the close frame has left already.
            let _ = self.flush_tls(&mut tls);
        }
        let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
    }

    fn flush_tls(&self, tls: &mut ServerConnection) -> io::Result<()> {
        while tls.wants_write() {
            match tls.write_tls(&mut SocketWriter(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Feeds cipher text in and takes plain text out; returns whether the peer has ended the TLS session.
fn decrypt(tls: &mut ServerConnection, mut raw: &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        // Behind the peer's last word rustls takes nothing more in.
        if !raw.is_empty() && tls.read_tls(&mut raw)? == 0 {
            return Ok(true);
        }
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let ready = state.plaintext_bytes_to_read();
        let before = plain.len();
        plain.resize(before + ready, 0);
        tls.reader().read_exact(&mut plain[before..])?;
        if raw.is_empty() {
            return Ok(state.peer_has_closed());
        }
    }
}

/// Lets rustls write to a socket that tokio watches.
struct SocketWriter<'s>(&'s TcpStream);

impl Write for SocketWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
