//! Who is present on a channel: what is written to the store for this shard's sessions ([`ledger`]), what is read ([`reads`]),
//! and what subscribers are notified of ([`changes`]). When a session is present is decided in `engine/presence.rs`.

pub(crate) mod changes;
pub(crate) mod ledger;
pub(crate) mod reads;
