//! Placeholder.

pub mod expr;
