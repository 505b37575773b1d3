//! Durations (`"50ms"`, `"10m"`) and sizes (`65536`, `"64KiB"`) as they are written, and back to text for messages.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

pub(crate) const DURATION_FORM: &str = "a duration is written like \"50ms\", \"30s\", \"10m\" or \"1h\"";
pub(crate) const SIZE_FORM: &str = "a size is written like 65536, \"64KiB\" or \"1MiB\"";

/// Reads a duration: a whole number and one of ms, s, m, h, d.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Reads a size with a unit, or a bare number of bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| parse(text, &SIZE_UNITS))
}

/// The shortest exact way to write a duration.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis() as u64;
    match millis {
        0 => "0s".to_owned(),
        _ => show(millis, &DURATION_UNITS),
    }
}

/// The shortest exact way to write a size.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let unit = units.iter().rev().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    let (name, factor) = unit.unwrap_or(&units[0]);
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("50ms", 50),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("30s", 30_000),
            ("0s", 0),
            ("2 s", 2_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "5",
            "-1s",
            "1.5s",
            "5 parsecs",
            "99999999999999999999s",
            "18446744073709551615h",
            "5sec",
            "1h30m",
            "٣s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("65536", 65_536), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 2 << 30), ("7B", 7)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "KiB", "64KB", "64kib", "-1", "1.5MiB", "99999999999GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for millis in [0, 1, 999, 1_000, 1_500, 60_000, 3_600_000, 90_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
        for bytes in [1, 1023, 1024, 1025, 65_536, 1 << 20, 3 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
        assert_eq!(show_size(65_536), "64KiB");
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
    }
}
