//! `drawbridge check-config FILE`: every problem to standard error, or a summary of what would be served.

use std::io::{self, Write};
use std::path::Path;

use super::{DONE, ExitStatus, REFUSED, UNREADABLE};
use crate::config::{self, BrokerKind, Config};

/// Judges the file and reports.
///
/// # Errors
/// Where the report cannot be written.
pub fn run(file: &Path, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    match config::load(file) {
        Ok(config) => {
            for warning in &config.warnings {
                writeln!(err, "{}: warning: {warning}", file.display())?;
            }
            writeln!(out, "{}: ok: {}", file.display(), summary(&config))?;
            Ok(DONE)
        }
        Err(errors) => {
            writeln!(err, "{errors}")?;
            if errors.unreadable {
                return Ok(UNREADABLE);
            }
            let count = errors.errors.len();
            writeln!(err, "{}: {count} {}", file.display(), if count == 1 { "problem" } else { "problems" })?;
            Ok(REFUSED)
        }
    }
}

fn summary(config: &Config) -> String {
    let broker = match &config.broker.kind {
        BrokerKind::Memory => "the memory broker".to_owned(),
        BrokerKind::Redis(redis) => format!("Redis at {}", redis.address),
    };
    let admin = config
        .admin
        .as_ref()
        .map_or_else(|| "no admin listener".to_owned(), |admin| format!("admin on {}", admin.listen));
    let classes = match config.engine.classes.iter().count() {
        1 => "1 class".to_owned(),
        count => format!("{count} classes"),
    };
    format!("players on {}, {admin}, {broker}, {classes} of channels", config.listen)
}
