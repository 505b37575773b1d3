//! The expression language from outside: what it says, what it refuses, its bounds and its laws.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
mod errors;
mod folding;
mod laws;
mod meaning;
mod oracle;
mod random;
mod scope;
