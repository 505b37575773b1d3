//! Glob patterns as in Redis' `PSUBSCRIBE`: `*`, `?`, `[a-z]`, `[^a-z]` and `\`,
//! over bytes, with Redis' answers for malformed classes too. It decides whether a pattern matches a name;
//! finding the patterns that match is the engine's business.
//!
//! Every part of a pattern but `*` takes exactly one byte, so only the last `*` ever has to be tried again: the
//! time is bounded by the product of the lengths, whatever the pattern.

use std::borrow::Cow;
use std::ffi::c_char;

use crate::channel::is_glob_char;

/// Whether the pattern matches the whole name, as Redis would decide it.
///
/// ```
/// use drawbridge_protocol::glob::glob_matches;
/// assert!(glob_matches("room:[0-9]*", "room:42"));
/// assert!(!glob_matches(r"room:\*", "room:42"));
/// ```
pub fn glob_matches(pattern: &str, name: &str) -> bool {
    glob_matches_bytes(pattern.as_bytes(), name.as_bytes())
}

/// [`glob_matches`] for names that need not be UTF-8.
pub fn glob_matches_bytes(pattern: &[u8], name: &[u8]) -> bool {
    let (mut rest, mut at) = (pattern, 0);
    // What follows the last `*`, and where in the name it is tried next.
    let mut retry: Option<(&[u8], usize)> = None;
    while at < name.len() {
        if let Some(after) = rest.strip_prefix(b"*") {
            rest = skip_stars(after);
            if rest.is_empty() {
                return true;
            }
            retry = Some((rest, at));
            continue;
        }
        if let Some(after) = match_one(rest, name[at]) {
            rest = after;
            at += 1;
            continue;
        }
        let Some((after_star, tried)) = retry else { return false };
        rest = after_star;
        at = tried + 1;
        retry = Some((after_star, at));
    }
    // Redis lets trailing stars match nothing, but not when there was nothing to match at all.
    if !name.is_empty() {
        rest = skip_stars(rest);
    }
    rest.is_empty()
}

/// The fixed part of a pattern, up to the first glob character that is not escaped, with escapes removed:
/// every name that the pattern matches begins with it.
pub fn literal_prefix(pattern: &str) -> Cow<'_, str> {
    let plain = pattern.find(|c| is_glob_char(c) || c == '\\').unwrap_or(pattern.len());
    if !pattern[plain..].starts_with('\\') {
        return Cow::Borrowed(&pattern[..plain]);
    }
    let mut prefix = pattern[..plain].to_owned();
    let mut chars = pattern[plain..].chars();
    while let Some(c) = chars.next() {
        match c {
            // A backslash at the very end represents itself.
            '\\' => prefix.push(chars.next().unwrap_or('\\')),
            c if is_glob_char(c) => break,
            c => prefix.push(c),
        }
    }
    Cow::Owned(prefix)
}

fn skip_stars(pattern: &[u8]) -> &[u8] {
    let stars = pattern.iter().take_while(|byte| **byte == b'*').count();
    &pattern[stars..]
}

/// Matches one byte against the pattern's first part, which is not `*`; returns what follows that part.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', after @ ..] => Some(after),
        [b'[', class @ ..] => {
            let (matched, after) = match_class(class, byte);
            matched.then_some(after)
        }
        [b'\\', literal, after @ ..] | [literal, after @ ..] => (*literal == byte).then_some(after),
    }
}

/// Matches one byte against a class, given from behind its `[`. A class that is never closed ends with the
/// pattern, a range may be written backwards, and what ends a range may be `]`: all as in Redis.
fn match_class(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut rest) = match class {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [] => break,
            [b'\\', literal, after @ ..] => {
                found |= *literal == byte;
                after
            }
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [from, b'-', to, after @ ..] => {
                found |= in_range(*from, *to, byte);
                after
            }
            [literal, after @ ..] => {
                found |= *literal == byte;
                after
            }
        };
    }
    (found != negated, rest)
}

/// Redis compares `char`s, which are signed on some machines: so do we, on the same machines.
fn in_range(from: u8, to: u8, byte: u8) -> bool {
    let [from, to, byte] = [from, to, byte].map(|b| b as c_char);
    (from.min(to)..=from.max(to)).contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_redis_says() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("room:*", &["room:", "room:42", "room:a:b"], &["room", "rooms:1", "xroom:1"]),
            ("h?llo", &["hello", "hallo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo"]),
            ("h[^e]llo", &["hallo"], &["hello"]),
            ("h[a-c]llo", &["hallo", "hcllo"], &["hdllo", "h-llo"]),
            ("h[c-a]llo", &["hbllo"], &["hdllo"]),
            (r"h\[a", &["h[a"], &["ha"]),
            (r"[\]]", &["]"], &[r"\"]),
            (r"[a\-z]", &["a", "-", "z"], &["b"]),
            ("[a-]", &["a", "]", "_"], &["-", "b"]),
            ("[abc", &["a", "b", "c"], &["d", "[abc"]),
            ("[^", &["x", "^"], &["", "xx"]),
            ("[", &[], &["[", ""]),
            ("[]", &[], &["]", "[]", ""]),
            (r"a\", &[r"a\"], &["a"]),
            ("", &[""], &["a"]),
            ("*", &["a"], &[""]),
            ("a**b***", &["ab", "axxb", "abc"], &["a"]),
            ("*a*b", &["aab", "xaxb", "abab"], &["aba"]),
            ("?", &["a"], &["é"]),
            ("??", &["é"], &[]),
        ];
        for (pattern, matching, others) in rows {
            for name in *matching {
                assert!(glob_matches(pattern, name), "{pattern:?} should match {name:?}");
            }
            for name in *others {
                assert!(!glob_matches(pattern, name), "{pattern:?} should not match {name:?}");
            }
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_the_product_of_the_lengths() {
        let pattern = "*a".repeat(10_000) + "b";
        assert!(!glob_matches(&pattern, &"a".repeat(20_000)));
    }

    #[test]
    fn the_fixed_part_ends_at_the_first_glob_character() {
        let rows = [
            ("room:*", "room:"),
            ("room:4?", "room:4"),
            ("lobby", "lobby"),
            ("*", ""),
            (r"room:\*:[ab]", "room:*:"),
            (r"a\\b*", r"a\b"),
            (r"a\", r"a\"),
            (r"\é*", "é"),
            ("", ""),
        ];
        for (pattern, prefix) in rows {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern:?}");
        }
    }
}
