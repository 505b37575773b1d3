//! RFC 6455 framing for a server, without I/O.

mod encode;

pub use encode::{MAX_HEADER_BYTES, OpCode, encode_frame, write_header};
