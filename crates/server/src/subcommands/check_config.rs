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
        BrokerKind::Redis(redis) => format!("Redis at {}", redis.location),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Status, standard output, standard error.
    fn ran(file: &Path) -> (ExitStatus, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = run(file, &mut out, &mut err).unwrap();
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_right_file_is_summed_up() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/drawbridge.toml");
        let said = format!(
            "{}: ok: players on 127.0.0.1:8000, admin on 127.0.0.1:8001, Redis at 127.0.0.1:6379, 3 classes of channels\n",
            file.display()
        );
        assert_eq!(ran(&file), (DONE, said, String::new()));
    }

    #[test]
    fn a_wrong_file_gets_every_problem_and_their_number() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wrong.toml");
        let name = file.display();
        let said = format!(
            "{name}:2:1: unknown key `lisen`; did you mean `listen`?\n\
             {name}:5:17: `connection.heartbeat` is out of bounds: 0s; it may be 10ms to 10m\n\
             {name}: 2 problems\n"
        );
        assert_eq!(ran(&file), (REFUSED, String::new(), said));
    }

    #[test]
    fn a_file_that_is_not_there_has_a_status_of_its_own() {
        let (status, out, err) = ran(Path::new("/nowhere.toml"));
        assert_eq!((status, &*out), (UNREADABLE, ""));
        assert!(err.starts_with("/nowhere.toml: cannot be read: "), "{err}");
    }
}
