//! The commands that run and end: they print and return an exit status, and never end the process themselves.

pub mod check_config;
pub mod check_redis;
pub mod explain;
pub mod init;
pub mod publish;
mod remote;
pub mod shell;
pub mod tail;
pub mod token;

/// What a command ends with.
pub type ExitStatus = u8;

/// It was done.
pub const DONE: ExitStatus = 0;
/// It was refused; the reason is on standard error.
pub const REFUSED: ExitStatus = 1;
/// A file could not be read, or a server not be reached.
pub const UNREADABLE: ExitStatus = 2;
