//! Placeholder.

pub mod class;
pub mod expr;
pub mod io;
pub mod settings;
