//! `drawbridge check-redis --config FILE`: prints each finding about the Redis on a line, and below it the consequence and the
//! remedy.

use std::io::{self, Write};
use std::path::Path;

use super::remote::block_on;
use super::{DONE, ExitStatus, REFUSED, UNREADABLE};
use crate::broker::redis::{Finding, Inspection, Severity, inspect};
use crate::config::{self, BrokerKind};
use crate::log::escaped;
use crate::serve::redis_settings;

/// Checks the Redis of this configuration and prints the findings.
///
/// # Errors
/// Where the report cannot be written, or no runtime can be made.
pub fn run(file: &Path, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(errors) => {
            writeln!(err, "{errors}")?;
            return Ok(UNREADABLE);
        }
    };
    if matches!(config.broker.kind, BrokerKind::Memory) {
        writeln!(out, "{}: `broker.kind` is \"memory\": there is no Redis to check", file.display())?;
        return Ok(DONE);
    }
    let settings = match redis_settings(&config) {
        Ok(settings) => settings,
        Err(error) => {
            writeln!(err, "{}: {error}", file.display())?;
            return Ok(UNREADABLE);
        }
    };
    let inspection = block_on(inspect(&settings, &config.engine.classes))?;
    report(&inspection, out, err)
}

fn report(inspection: &Inspection, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    for Finding { severity, about, found, advice } in &inspection.findings {
        let severity = match severity {
            Severity::Fine => "ok",
            Severity::Warning => "warning",
            Severity::Missing => "MISSING",
        };
        writeln!(out, "{severity:8}{about:14}{}", escaped(found))?;
        if let Some(advice) = advice {
            writeln!(out, "{:22}{advice}", "")?;
        }
    }
    if let Some(reason) = &inspection.unreachable {
        writeln!(err, "Redis cannot be checked: {}", escaped(reason))?;
        return Ok(UNREADABLE);
    }
    let count = |of| inspection.findings.iter().filter(|finding| finding.severity == of).count();
    let (missing, warnings) = (count(Severity::Missing), count(Severity::Warning));
    writeln!(out, "{missing} missing, {warnings} warnings")?;
    Ok(if missing > 0 { REFUSED } else { DONE })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn finding(severity: Severity, advice: Option<&str>) -> Finding {
        Finding { severity, about: "rights", found: "XADD\n".into(), advice: advice.map(str::to_owned) }
    }

    fn ran(inspection: &Inspection) -> (ExitStatus, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = report(inspection, &mut out, &mut err).unwrap();
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_status_says_whether_something_is_missing_or_out_of_reach() {
        let mut inspection = Inspection::default();
        inspection.findings.push(finding(Severity::Warning, Some("Grant it.")));
        let (status, out, _) = ran(&inspection);
        assert_eq!(status, DONE);
        assert!(out.starts_with("warning rights") && out.contains("Grant it."), "{out}");
        assert!(out.ends_with("0 missing, 1 warnings\n"), "{out}");
        inspection.findings.push(finding(Severity::Missing, None));
        assert_eq!(ran(&inspection).0, REFUSED);
        inspection.unreachable = Some("refused".into());
        let (status, _, err) = ran(&inspection);
        assert_eq!((status, &*err), (UNREADABLE, "Redis cannot be checked: refused\n"));
    }
}
