//! Sessions that lose their connection and return: what is held for them, what `WELCOME` reports of it, and what it may cost. One node
//! of a cluster in virtual time; each test says what its clients send and lose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod bench;
mod bounds;
mod claims;
mod costs;
mod ends;
mod proof;
mod refused_saves;
mod rights;
mod slow_claims;
