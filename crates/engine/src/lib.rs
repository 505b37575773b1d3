//! Placeholder.

pub mod class;
pub mod expr;
pub mod interest;
pub mod io;
pub mod settings;
