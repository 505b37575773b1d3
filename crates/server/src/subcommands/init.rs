//! `drawbridge init`: a first configuration, with comments and new secrets.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use super::{DONE, ExitStatus, REFUSED};
use crate::platform::readable_by_owner_only;
use crate::secret::random_hex;

/// The file; `{…}` are the secrets.
const TEMPLATE: &str = include_str!("init.toml");
const HMAC_SECRET: &str = "{hmac_secret}";
const API_KEY: &str = "{api_key}";

/// Writes the file, unless there is one, and prints what to do next.
///
/// # Errors
/// Where the report cannot be written.
pub fn run(file: &Path, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    let name = file.display();
    if let Err(error) = write(file) {
        let problem = match error.kind() {
            io::ErrorKind::AlreadyExists => "exists and is left as it is: name another file, or move it away",
            io::ErrorKind::NotFound => "its directory does not exist",
            _ => &error.to_string(),
        };
        writeln!(err, "drawbridge init: {name}: {problem}")?;
        return Ok(REFUSED);
    }
    writeln!(
        out,
        "{name} is written, with new secrets; it expects Redis at 127.0.0.1:6379. Next:\n\
         \x20 drawbridge check-config {name}\n\
         \x20 drawbridge serve --config {name}\n\
         \x20 drawbridge token --config {name} --sub alice --claim room=42"
    )?;
    Ok(DONE)
}

fn write(file: &Path) -> io::Result<()> {
    let text = TEMPLATE.replace(HMAC_SECRET, &secret()?).replace(API_KEY, &secret()?);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    readable_by_owner_only(&mut options);
    options.open(file)?.write_all(text.as_bytes())
}

fn secret() -> io::Result<String> {
    random_hex().map_err(|error| io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config;

    /// A path that nothing else uses.
    fn path() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("drawbridge-init-{}.toml", secret().unwrap()))
    }

    #[test]
    fn what_is_written_is_served_as_it_is_and_has_secrets_of_its_own() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut secrets = Vec::new();
        for _ in 0..2 {
            let file = path();
            assert_eq!(run(&file, &mut out, &mut err).unwrap(), DONE);
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::remove_file(&file).unwrap();
            let config = config::parse("drawbridge.toml", &text, &[]).unwrap();
            assert_eq!(config.warnings, Vec::<String>::new());
            secrets.push(config.auth.hmac_secrets[0].expose().to_owned());
            secrets.push(config.admin.unwrap().api_key.current().expose().to_owned());
        }
        secrets.sort();
        secrets.dedup();
        assert_eq!((secrets.len(), secrets.iter().all(|secret| secret.len() == 64)), (4, true));
        assert!(err.is_empty());
    }

    #[test]
    fn a_file_that_is_there_is_never_overwritten() {
        let file = path();
        std::fs::write(&file, "mine").unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&file, &mut out, &mut err).unwrap(), REFUSED);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        std::fs::remove_file(&file).unwrap();
        assert!(out.is_empty() && String::from_utf8(err).unwrap().contains("left as it is"));
    }
}
