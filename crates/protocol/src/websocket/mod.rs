//! RFC 6455 for a server, without I/O: the opening handshake's arithmetic, reading frames, writing frames, closing.
//! It owns what bytes on a socket mean. Sockets, time-outs, answering pings and the closing handshake's order are the
//! server's business. `permessage-deflate` is the one extension, without context takeover; other reserved bits are
//! violations.

mod close;
mod decode;
mod deflate;
mod drain;
mod encode;
mod handshake;
mod header;
mod mask;
mod partial;

pub use close::{MAX_REASON_BYTES, encode_close};
pub use decode::{Decoder, Limits, Received, Violation};
pub use deflate::{Compressor, Deflate, Inflater, Window, frame_of_pieces, negotiate_deflate, stored};
pub use drain::{Drain, Drained};
pub use encode::{MAX_HEADER_BYTES, OpCode, encode_frame, payload_of, write_header};
pub use handshake::{InvalidKey, NoKnownSubprotocol, Subprotocol, accept_key, negotiate};
pub use partial::MAX_EMPTY_FRAGMENTS;
