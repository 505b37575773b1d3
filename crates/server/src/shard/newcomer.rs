//! A socket that waits for its `CONNECT`, kept as it came: if that resumes a session which another shard of the node has, the
//! socket goes there, where its session takes it up with all that waits for it. Which shard has a session, the engine knows
//! ([`Engine::shard_of_resumed`](drawbridge_engine::engine::Engine::shard_of_resumed)).
//!
//! Why as it came: nothing was answered yet, so the other shard begins as if the socket had come to it. A `CONNECT` that is
//! longer than the bounds here, or not the first message, claims its session as from another node.

use std::net::IpAddr;

use drawbridge_engine::engine::Engine;
use drawbridge_engine::io::Claims;
use drawbridge_engine::upstream::ShardId;
use drawbridge_protocol::Encoding;
use drawbridge_protocol::websocket::{Decoder, Inflater, Limits, Received, Window};

use super::NewSocket;

/// The first message is looked for in no more bytes.
const MAX_BYTES: usize = 32 * 1024;
/// And in no more reads, because each looks through all that came before.
const MAX_READS: u8 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Newcomer {
    /// All that it has sent, as plain text.
    pub(super) bytes: Vec<u8>,
    reads: u8,
    pub(super) encoding: Encoding,
    pub(super) deflate: Option<Window>,
    pub(super) address: IpAddr,
    /// Those of the upgrade's token.
    pub(super) claims: Option<Claims>,
    pub(super) wait_for_connect: bool,
}

/// Where a socket belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its first message is not complete.
    Unknown,
    /// With the shard that has it.
    Here,
    /// With this shard, which has its session.
    With(ShardId),
}

impl Newcomer {
    /// What is kept of a socket; `None` where its session is a new one in any case.
    pub(super) fn of(new: &NewSocket) -> Option<Box<Self>> {
        let claims = match &new.token {
            None => None,
            Some(Ok(claims)) if new.wait_for_connect => Some(claims.clone()),
            Some(_) => return None,
        };
        Some(Box::new(Newcomer {
            bytes: Vec::new(),
            reads: 0,
            encoding: new.encoding,
            deflate: new.deflate,
            address: new.address,
            claims,
            wait_for_connect: new.wait_for_connect,
        }))
    }

    /// Takes in what was read, and says where the socket belongs. `limits`: as for any message before a token is accepted.
    pub(super) fn place(
        &mut self,
        read: &[u8],
        limits: &Limits,
        inflater: &mut Inflater,
        engine: &Engine,
    ) -> Place {
        self.reads += 1;
        self.bytes.extend_from_slice(read);
        if self.bytes.len() > MAX_BYTES {
            return Place::Here;
        }
        let mut decoder = if self.deflate.is_some() { Decoder::inflating() } else { Decoder::new() };
        // It is unmasked in place.
        let mut copy = self.bytes.clone();
        let payload = match decoder.decode(limits, inflater, &mut &mut copy[..]) {
            Ok(None) if self.reads < MAX_READS => return Place::Unknown,
            Ok(Some(Received::Text(text))) => text.as_bytes(),
            Ok(Some(Received::Binary(payload))) => payload,
            _ => return Place::Here,
        };
        engine.shard_of_resumed(self.encoding, payload).map_or(Place::Here, Place::With)
    }
}
