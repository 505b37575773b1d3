//! The payload that `publish` writes, and reading it back from an `EVENT`. Reading is by search and not by a JSON
//! parser, because the client shares the machine's cores with what it measures.

use std::time::{SystemTime, UNIX_EPOCH};

use memchr::memmem;

/// A measured `EVENT`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// When the publisher wrote it, in nanoseconds since 1970.
    pub(crate) sent: u64,
    /// Its number on its channel in this run of the publisher, from 0.
    pub(crate) number: u64,
    /// The server's number for it, if it gave one.
    pub(crate) offset: Option<u64>,
}

/// Nanoseconds since 1970: the clock that publisher and client share.
pub(crate) fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// A payload of exactly `bytes` bytes (or the least that it takes). `group`: whom it is for; filters test it.
pub(crate) fn payload(sent: u64, number: u64, group: Option<u64>, bytes: usize) -> String {
    let group = group.map_or(String::new(), |group| format!(r#","id":"g{group}""#));
    let mut text = format!(r#"{{"event":"tick","data":{{"t":{sent},"n":{number}{group},"pad":""#);
    const END: &str = r#""}}"#;
    text.extend(std::iter::repeat_n('x', bytes.saturating_sub(text.len() + END.len())));
    text.push_str(END);
    text
}

/// Reads an `EVENT` that carries such a payload; `None` for any other text.
pub(crate) fn stamp(text: &[u8]) -> Option<Stamp> {
    let data = memmem::find(text, br#""data":{"t":"#)? + br#""data":{"t":"#.len();
    let (sent, rest) = digits(text.get(data..)?)?;
    let (number, rest) = digits(rest.strip_prefix(br#","n":"#)?)?;
    let offset = memmem::rfind(rest, br#""offset":"#)
        .and_then(|at| digits(&rest[at + br#""offset":"#.len()..]))
        .map(|(offset, _)| offset);
    Some(Stamp { sent, number, offset })
}

/// The number that `text` begins with, and what follows it.
pub(crate) fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let length = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(length);
    if number.is_empty() {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    Some((number.iter().try_fold(0, add)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_size_that_was_asked_for() {
        for bytes in [100, 200, 4096] {
            assert_eq!(payload(1_790_000_000_000_000_000, 1_000_000, Some(999), bytes).len(), bytes);
        }
    }

    #[test]
    fn an_event_gives_back_what_the_payload_said() {
        let sent = payload(1_790_000_000_000_000_123, 7, None, 200);
        let data = sent.split_once(r#""data":"#).map_or("", |(_, data)| &data[..data.len() - 1]);
        let event = |tail: &str| {
            stamp(
                format!(r#"{{"type":"EVENT","channel":"room:1","event":"tick","data":{data}{tail}}}"#)
                    .as_bytes(),
            )
        };
        let stamp = |offset| Some(Stamp { sent: 1_790_000_000_000_000_123, number: 7, offset });
        assert_eq!(event(r#","offset":42,"ts":5"#), stamp(Some(42)));
        assert_eq!(event(""), stamp(None));
    }

    #[test]
    fn other_texts_are_none() {
        for text in [
            "",
            "{}",
            r#"{"data":{"t":}}"#,
            r#"{"data":{"t":1}}"#,
            r#"{"data":{"t":99999999999999999999,"n":1}}"#,
        ] {
            assert_eq!(stamp(text.as_bytes()), None, "{text}");
        }
    }
}
