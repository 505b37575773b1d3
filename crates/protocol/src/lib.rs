//! Drawbridge's wire contract: messages, codecs (JSON, MessagePack), channel names, patterns, WebSocket frames,
//! error and close codes. It owns what bytes mean. It does no I/O, keeps no state between messages (except for a
//! half-read WebSocket frame), and knows nothing of rights, Redis or subscriptions.

pub mod channel;
pub mod code;
pub mod codec;
pub mod event;
pub mod glob;
pub mod json;
pub mod message;
pub mod msgpack;
pub mod template;
pub mod websocket;
mod writer;

pub use code::{CloseCode, ErrorCode};
pub use message::*;
