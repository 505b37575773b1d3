//! A node's socket as a player uses it: opens it, sends and receives messages as JSON. For `drawbridge tail` and `publish`.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::Uri;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_websockets::{ClientBuilder, Error, Message as Frame, WebSocketStream, upgrade};

use super::{Message, unreachable_node};
use crate::tls;

/// How long one step may take: to connect, or until a request is answered.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

/// Why a socket ended, or did not open.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::subcommands) enum Ended {
    /// The connection failed, or the node closed it: another attempt may succeed.
    Lost(String),
    /// The node rejects the player or the request, and would do so again.
    Refused(String),
}

impl Ended {
    /// By a close frame with this code.
    fn closed(code: u16, reason: &str) -> Ended {
        let text = format!("the node closed the connection: {code} {reason}");
        // The contract's codes after which a client does not come back, or only with another token.
        match code {
            4004 | 4500..=4999 => Ended::Refused(text),
            _ => Ended::Lost(text),
        }
    }

    /// By an `ERROR` in place of `WELCOME`.
    fn not_welcome(message: &Message) -> Ended {
        match message.number("retry_after_ms") {
            Some(_) => Ended::Lost(refusal(message)),
            None => Ended::Refused(refusal(message)),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Ended::Lost(text) | Ended::Refused(text)) = self;
        f.write_str(text)
    }
}

impl From<Ended> for String {
    fn from(ended: Ended) -> String {
        ended.to_string()
    }
}

/// A connected player.
pub(in crate::subcommands) struct PlayerSocket {
    socket: WebSocketStream<Box<dyn ByteStream>>,
    received: VecDeque<Message>,
}

impl PlayerSocket {
    /// Connects with this token, or as an anonymous player, and subscribes to `channels`; the socket is past `WELCOME`.
    ///
    /// # Errors
    /// Why it could not, with the node's words.
    pub(in crate::subcommands) async fn connect(
        url: &str,
        token: Option<&str>,
        channels: &[&str],
        ca_file: Option<&PathBuf>,
    ) -> Result<(PlayerSocket, Message), Ended> {
        let socket =
            timeout(STEP_TIMEOUT, open(url, ca_file)).await.map_err(|_| "no answer in time".to_owned());
        let socket =
            socket.and_then(|opened| opened).map_err(|problem| Ended::Lost(format!("{url}: {problem}")))?;
        let mut player = PlayerSocket { socket, received: VecDeque::new() };
        let subscribe: Vec<Value> = channels.iter().map(|channel| json!({ "channel": channel })).collect();
        let mut connect = json!({ "type": "CONNECT", "id": 1, "subscribe": subscribe });
        if let Some(token) = token {
            connect["token"] = token.into();
        }
        player.send(connect.to_string()).await?;
        let welcome = player.next_within("WELCOME").await?;
        match &*welcome.kind {
            "WELCOME" => Ok((player, welcome)),
            _ => Err(Ended::not_welcome(&welcome)),
        }
    }

    /// Sends one message, as JSON.
    ///
    /// # Errors
    /// Where the connection fails.
    pub(in crate::subcommands) async fn send(&mut self, message: String) -> Result<(), Ended> {
        self.socket
            .send(Frame::text(message))
            .await
            .map_err(|error| Ended::Lost(format!("the connection failed: {error}")))
    }

    /// The answer to a request, within a bounded time.
    ///
    /// # Errors
    /// Where none comes in time, or the socket ends.
    pub(in crate::subcommands) async fn next_within(&mut self, awaited: &str) -> Result<Message, Ended> {
        timeout(STEP_TIMEOUT, self.next())
            .await
            .map_err(|_| Ended::Lost(format!("no {awaited} within {STEP_TIMEOUT:?}")))?
    }

    /// The next message, whenever it comes.
    ///
    /// # Errors
    /// Why the socket ended.
    pub(in crate::subcommands) async fn next(&mut self) -> Result<Message, Ended> {
        loop {
            if let Some(message) = self.received.pop_front() {
                return Ok(message);
            }
            let frame = match self.socket.next().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(Ended::Lost(format!("the connection failed: {error}"))),
                None => return Err(Ended::Lost("the connection was closed".to_owned())),
            };
            if let Some((code, reason)) = frame.as_close() {
                return Err(Ended::closed(code.into(), reason));
            }
            if let Some(text) = frame.as_text() {
                let messages = Message::all(text)
                    .map_err(|error| Ended::Refused(format!("the node sent no message: {error}")))?;
                self.received.extend(messages);
            }
        }
    }
}

/// An `ERROR` in the words of the node.
pub(in crate::subcommands) fn refusal(message: &Message) -> String {
    let code = message.text("code").unwrap_or_else(|| message.kind.clone());
    match message.text("message") {
        Some(text) => format!("{code}: {text}"),
        None => code,
    }
}

async fn open(url: &str, ca_file: Option<&PathBuf>) -> Result<WebSocketStream<Box<dyn ByteStream>>, String> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL such as ws://127.0.0.1:8000/ws".to_owned())?;
    let is_tls = match uri.scheme_str() {
        Some("ws") => false,
        Some("wss") => true,
        _ => return Err("the URL begins with ws:// or wss://, such as ws://127.0.0.1:8000/ws".to_owned()),
    };
    let host = uri.host().ok_or_else(|| "the URL names no host".to_owned())?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((&*host, port)).await.map_err(|error| unreachable_node(&error))?;
    let stream: Box<dyn ByteStream> = match is_tls {
        false => Box::new(stream),
        true => {
            let config = tls::client(ca_file).map_err(|error| match ca_file {
                Some(_) => error.to_string(),
                None => "the system has no certificates; name the ones to trust with --ca-file".to_owned(),
            })?;
            let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
            Box::new(
                TlsConnector::from(config)
                    .connect(name, stream)
                    .await
                    .map_err(|error| tls_problem(&error))?,
            )
        }
    };
    let opened = ClientBuilder::from_uri(uri).connect_on(stream).await;
    opened.map(|(socket, _)| socket).map_err(|error| match error {
        Error::Upgrade(upgrade::Error::DidNotSwitchProtocols(status)) => {
            format!("HTTP {status} instead of a WebSocket: is the path right? That of a node is /ws")
        }
        error if is_tls => format!("{error}; is this the address of a node?"),
        error => format!("{error}; is this the address of a node, and does its port need wss://?"),
    })
}

/// Why a TLS handshake failed, and what to try.
fn tls_problem(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!("{error}; --ca-file names the certificates to trust")
        }
        Some(rustls::Error::InvalidMessage(_)) | None => {
            format!("{error}; does this port have TLS? Without it, the URL begins with ws://")
        }
        Some(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_contract_calls_final_is() {
        let is_final = |code| matches!(Ended::closed(code, ""), Ended::Refused(_));
        for code in [1000, 1001, 1006, 1011, 4000, 4001, 4003, 4005] {
            assert!(!is_final(code), "{code}");
        }
        for code in [4004, 4500, 4502, 4506, 4999] {
            assert!(is_final(code), "{code}");
        }
    }

    #[test]
    fn a_rejected_connect_is_tried_again_where_the_node_says_when() {
        let ended = |text: &str| {
            Message::all(text).map(|messages| messages.iter().map(Ended::not_welcome).collect::<Vec<_>>())
        };
        let full = r#"{"type":"ERROR","code":"LIMIT_EXCEEDED","message":"full","retry_after_ms":5}"#;
        assert_eq!(ended(full), Ok(vec![Ended::Lost("LIMIT_EXCEEDED: full".to_owned())]));
        let bad = r#"{"type":"ERROR","code":"UNAUTHENTICATED","message":"no"}"#;
        assert_eq!(ended(bad), Ok(vec![Ended::Refused("UNAUTHENTICATED: no".to_owned())]));
    }
}
