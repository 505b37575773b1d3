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

use std::io::{self, Write};

use drawbridge_protocol::json;
use serde_json::value::RawValue;

use crate::config::ConfigErrors;

/// What a command ends with.
pub type ExitStatus = u8;

/// It was done.
pub const DONE: ExitStatus = 0;
/// It was refused; the reason is on standard error.
pub const REFUSED: ExitStatus = 1;
/// A file could not be read, or `check-redis` could not reach Redis or use the configuration.
pub const UNREADABLE: ExitStatus = 2;

/// Prints what is wrong with a configuration.
fn report_config(errors: &ConfigErrors, err: &mut dyn Write) -> io::Result<ExitStatus> {
    writeln!(err, "{errors}")?;
    Ok(if errors.unreadable { UNREADABLE } else { REFUSED })
}

/// The value of `--data`.
fn parse_data(data: &str) -> Result<Box<RawValue>, String> {
    RawValue::from_string(data.to_owned())
        .map_err(|_| "--data is JSON: a text is written '\"hello\"', an object '{\"damage\":12}'".to_owned())
}

/// The members of an event's JSON object, without its braces. `data` keeps its bytes.
fn event_members(channel: Option<&str>, event: &str, data: &RawValue, key: Option<&str>) -> String {
    let mut members = Vec::new();
    members.extend(channel.map(|channel| format!("\"channel\":{}", json::quoted(channel))));
    members.push(format!("\"event\":{}", json::quoted(event)));
    members.push(format!("\"data\":{}", data.get()));
    members.extend(key.map(|key| format!("\"key\":{}", json::quoted(key))));
    members.join(",")
}
