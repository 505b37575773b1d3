//! An echo server built from the protocol crate's codec and nothing else, for the Autobahn suite (`scripts/autobahn`).
//! It is no model of the real server: a task and a buffer for each connection, and no time-outs.
//!
//! `cargo run -p drawbridge-protocol --example echo [ADDRESS]` listens on 127.0.0.1 at a free port unless told, and
//! prints the address to standard error.

use std::io;

use bytes::Bytes;
use drawbridge_protocol::websocket::{
    Compressor, Decoder, Deflate, Inflater, Limits, OpCode, Received, Violation, accept_key, encode_close,
    encode_frame, frame_of_pieces, negotiate_deflate,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The suite sends messages of up to 16 MiB.
const LIMITS: Limits =
    Limits { message_bytes: 64 << 20, max_message_bytes: 64 << 20, inflated_bytes: 64 << 20 };
const READ_BYTES: usize = 64 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    loop {
        let (socket, peer) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(socket).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut read_buffer = vec![0; READ_BYTES];
    let (mut filled, deflate) = shake_hands(&mut socket, &mut read_buffer).await?;
    let mut decoder = if deflate.is_some() { Decoder::inflating() } else { Decoder::new() };
    let mut deflate = deflate.map(|deflate| (deflate, Compressor::default()));
    loop {
        let mut replies = Vec::new();
        let ended = answer(&mut decoder, &mut read_buffer[..filled], &mut deflate, &mut replies);
        socket.write_all(&replies).await?;
        if ended {
            return hang_up(socket, &mut read_buffer).await;
        }
        filled = socket.read(&mut read_buffer).await?;
        if filled == 0 {
            return Ok(());
        }
    }
}

/// Closes, and reads on until the peer has: closing over unread bytes would reset the connection, and the peer might
/// never see our close frame.
async fn hang_up(mut socket: TcpStream, read_buffer: &mut [u8]) -> io::Result<()> {
    socket.shutdown().await?;
    while socket.read(read_buffer).await? > 0 {}
    Ok(())
}

/// Appends what is to be said to the bytes that came in. True: the last of it is a close frame.
fn answer(
    decoder: &mut Decoder,
    mut input: &mut [u8],
    deflate: &mut Option<(Deflate, Compressor)>,
    replies: &mut Vec<u8>,
) -> bool {
    let mut inflater = Inflater::default();
    loop {
        match decoder.decode(&LIMITS, &mut inflater, &mut input) {
            Ok(None) => return false,
            Ok(Some(received)) => {
                replies.extend(reply(received, deflate));
                if matches!(received, Received::Close { .. }) {
                    return true;
                }
            }
            Err(Violation { code, reason }) => {
                replies.extend(encode_close(code.as_u16(), reason));
                return true;
            }
        }
    }
}

fn reply(received: Received<'_>, deflate: &mut Option<(Deflate, Compressor)>) -> Bytes {
    let mut message = |opcode, bytes: &[u8]| {
        let piece =
            deflate.as_mut().and_then(|(deflate, compressor)| compressor.piece(bytes, deflate.window));
        piece.map_or_else(|| encode_frame(opcode, bytes), |piece| frame_of_pieces(opcode, &[piece]))
    };
    match received {
        Received::Text(text) => message(OpCode::Text, text.as_bytes()),
        Received::Binary(bytes) => message(OpCode::Binary, bytes),
        Received::Ping(payload) => encode_frame(OpCode::Pong, payload),
        Received::Close { code: Some(code), .. } => encode_close(code, ""),
        Received::Close { code: None, .. } => encode_frame(OpCode::Close, b""),
        Received::Pong(_) | Received::Oversized { .. } => Bytes::new(),
    }
}

/// Answers the upgrade. What came behind it is left at the front of `buffer`; returns how much, and what was agreed on.
async fn shake_hands(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<(usize, Option<Deflate>)> {
    const END: &[u8] = b"\r\n\r\n";
    let mut filled = 0;
    let head_bytes = loop {
        let read = socket.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(invalid("no whole request"));
        }
        filled += read;
        if let Some(at) = buffer[..filled].windows(END.len()).position(|window| window == END) {
            break at + END.len();
        }
    };
    let accept = accept_of(&buffer[..head_bytes])?;
    let offers = String::from_utf8_lossy(&buffer[..head_bytes]).into_owned();
    let offers = offers.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-extensions").then(|| value.trim())
    });
    let deflate = negotiate_deflate(offers);
    let extensions = deflate
        .map_or(String::new(), |deflate| format!("sec-websocket-extensions: {}\r\n", deflate.response()));
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n{extensions}\r\n"
    );
    socket.write_all(head.as_bytes()).await?;
    buffer.copy_within(head_bytes..filled, 0);
    Ok((filled - head_bytes, deflate))
}

fn accept_of(head: &[u8]) -> io::Result<String> {
    let head = std::str::from_utf8(head).map_err(|_| invalid("a request that is not text"))?;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    accept_key(key.unwrap_or_default()).map_err(|error| invalid(&error.to_string()))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
