//! A socket that waits for its `CONNECT`, kept as it came: if that resumes a session which another shard of the node has, the
//! socket goes there, where its session takes it up with all that waits for it. Which shard has a session, the engine knows
//! ([`Engine::shard_of_resumed`](drawbridge_engine::engine::Engine::shard_of_resumed)).
//!
//! Why as it came: nothing was answered yet, so the other shard begins as if the socket had come to it. A `CONNECT` that is
//! longer than the bounds here, or not the first message, claims its session as from another node.

use drawbridge_engine::engine::Engine;
use drawbridge_engine::upstream::ShardId;
use drawbridge_protocol::websocket::{Decoder, Inflater, Limits, Received};

use super::Handshake;

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
    pub(super) handshake: Handshake,
}

/// Which shard a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Its first message is not complete.
    Unknown,
    /// The shard that it is on: it resumes no session that another one may have.
    Here,
    /// This one has the session that it resumes.
    Shard(ShardId),
}

impl Newcomer {
    /// A socket that has sent nothing yet; `None` if it needs no `CONNECT`, so that its session is a new one.
    pub(super) fn of(handshake: &Handshake) -> Option<Box<Self>> {
        let waits = match &handshake.token {
            None => true,
            Some(Ok(_)) => handshake.wait_for_connect,
            Some(Err(_)) => false,
        };
        waits.then(|| Box::new(Newcomer { bytes: Vec::new(), reads: 0, handshake: handshake.clone() }))
    }

    /// Adds what was read, and returns which shard the socket is for. `limits`: as for any message before a token is accepted.
    pub(super) fn destination(
        &mut self,
        read: &[u8],
        limits: &Limits,
        inflater: &mut Inflater,
        engine: &Engine,
    ) -> Destination {
        self.reads += 1;
        self.bytes.extend_from_slice(read);
        if self.bytes.len() > MAX_BYTES {
            return Destination::Here;
        }
        let mut decoder =
            if self.handshake.deflate.is_some() { Decoder::inflating() } else { Decoder::new() };
        // It is unmasked in place.
        let mut copy = self.bytes.clone();
        let payload = match decoder.decode(limits, inflater, &mut &mut copy[..]) {
            Ok(None) if self.reads < MAX_READS => return Destination::Unknown,
            Ok(Some(Received::Text(text))) => text.as_bytes(),
            Ok(Some(Received::Binary(payload))) => payload,
            _ => return Destination::Here,
        };
        engine
            .shard_of_resumed(self.handshake.encoding, payload)
            .map_or(Destination::Here, Destination::Shard)
    }
}
