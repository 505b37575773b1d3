//! Placeholder.

pub mod auth;
pub mod cli;
pub mod commands;
pub mod config;
