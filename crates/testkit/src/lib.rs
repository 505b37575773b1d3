//! What tests, examples and fuzz targets share: settings with plenty of everything, common classes, claims and frames; a
//! Redis in virtual time; a cluster of engines and hubs around it; and numbers from a seed. Nothing else may depend on it.
//!
//! Whatever surprises it ends the test: it panics where the server would answer with an error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod bench;
pub mod classes;
pub mod cluster;
pub mod dice;
pub mod facts;
pub mod frames;
pub mod players;
pub mod presence;
pub mod redis;
pub mod requests_of;
pub mod sessions;
pub mod settings;
