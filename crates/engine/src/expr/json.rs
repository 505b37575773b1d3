//! Walks the text of a JSON value without reading it into a tree: a field is found by skipping what is before it.
//! The text is taken to be valid; other text gives unspecified slices of itself, never a panic. What a slice
//! means is left to `value`.

use std::borrow::Cow;
use std::char::{REPLACEMENT_CHARACTER, decode_utf16};

use drawbridge_protocol::json::plain_len;

/// The value of this key in the text of an object; of duplicate keys the last one's.
pub(crate) fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    members(object).filter(|(name, _)| name.is(key)).last().map(|(_, value)| value)
}

/// The members of the text of an object, duplicates and all.
pub(crate) fn members(object: &str) -> impl Iterator<Item = (RawText<'_>, &str)> {
    let mut cursor = Cursor::inside(object);
    std::iter::from_fn(move || {
        let name = cursor.name()?;
        Some((name, cursor.value()?))
    })
}

/// The elements of the text of a list.
pub(super) fn elements(list: &str) -> Elements<'_> {
    Elements(Cursor::inside(list))
}

/// See [`elements`].
pub(super) struct Elements<'a>(Cursor<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.value()
    }
}

/// A JSON string as it is written, without its quotes.
#[derive(Clone, Copy)]
pub(crate) struct RawText<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> RawText<'a> {
    /// Of a string with its quotes.
    pub(crate) fn quoted(text: &'a str) -> Self {
        RawText::unquote(text, text.contains('\\'))
    }

    fn unquote(text: &'a str, escaped: bool) -> Self {
        let text = text.strip_prefix('"').unwrap_or(text);
        RawText { raw: text.strip_suffix('"').unwrap_or(text), escaped }
    }

    /// What it says: borrowed where nothing is escaped. A half of a surrogate pair counts as U+FFFD.
    pub(crate) fn text(self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }

    pub(crate) fn is(self, text: &str) -> bool {
        self.raw == text || (self.escaped && unescape(self.raw) == text)
    }
}

fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        rest = unescape_one(escaped, &mut text);
    }
    text.push_str(rest);
    text
}

/// Takes what follows a backslash; returns what is left.
fn unescape_one<'a>(escaped: &'a str, text: &mut String) -> &'a str {
    let mut chars = escaped.chars();
    match chars.next() {
        Some('u') => return unescape_units(chars.as_str(), text),
        Some('n') => text.push('\n'),
        Some('t') => text.push('\t'),
        Some('r') => text.push('\r'),
        Some('b') => text.push('\u{8}'),
        Some('f') => text.push('\u{c}'),
        Some(other) => text.push(other),
        None => {}
    }
    chars.as_str()
}

/// Takes the digits behind `\u`, and the second half of a surrogate pair where one follows.
fn unescape_units<'a>(digits: &'a str, text: &mut String) -> &'a str {
    let Some((first, rest)) = unit(digits) else {
        text.push(REPLACEMENT_CHARACTER);
        return digits;
    };
    let second = rest.strip_prefix("\\u").and_then(unit);
    if let Some((second, after)) = second
        && let Some(Ok(pair)) = decode_utf16([first, second]).next()
        && pair.len_utf16() == 2
    {
        text.push(pair);
        return after;
    }
    text.push(char::from_u32(u32::from(first)).unwrap_or(REPLACEMENT_CHARACTER));
    rest
}

fn unit(digits: &str) -> Option<(u16, &str)> {
    let (digits, rest) = digits.split_at_checked(4)?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

/// A place in the text of a list or an object.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Behind the opening bracket.
    fn inside(text: &'a str) -> Self {
        Cursor { text, at: 1 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next member's name.
    fn name(&mut self) -> Option<RawText<'a>> {
        self.skip_separators();
        let start = self.at;
        if self.peek() != Some(b'"') {
            return None;
        }
        let escaped = self.skip_text();
        self.text.get(start..self.at).map(|text| RawText::unquote(text, escaped))
    }

    /// The next value; `None` at the end of the list or object.
    fn value(&mut self) -> Option<&'a str> {
        self.skip_separators();
        let start = self.at;
        match self.peek()? {
            b']' | b'}' => return None,
            b'"' => {
                self.skip_text();
            }
            b'[' | b'{' => self.skip_nested(),
            _ => self.skip_word(),
        }
        self.text.get(start..self.at)
    }

    fn skip_separators(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':')) {
            self.at += 1;
        }
    }

    /// Says whether something in it is escaped.
    fn skip_text(&mut self) -> bool {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain_len(self.text.as_bytes().get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(b'"') => {
                    self.at += 1;
                    return escaped;
                }
                Some(_) => self.at += 1,
                None => return escaped,
            }
        }
    }

    /// Counts brackets instead of recursing, so that depth costs nothing.
    fn skip_nested(&mut self) {
        let mut open = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.skip_text();
                    continue;
                }
                b'[' | b'{' => open += 1,
                b']' | b'}' => open -= 1,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return;
            }
        }
    }

    /// A number, `true`, `false` or `null`.
    fn skip_word(&mut self) {
        while !matches!(self.peek(), None | Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' | b']' | b'}')) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_last_of_duplicate_keys_however_they_are_written() {
        let object = r#" {"a" : 1, "b":{"a":2} ,"\u0061":[3, "]}\"" ], "c":null}"#.trim();
        assert_eq!(member(object, "a"), Some(r#"[3, "]}\"" ]"#));
        assert_eq!(member(object, "b"), Some(r#"{"a":2}"#));
        assert_eq!(member(object, "c"), Some("null"));
        assert_eq!(member(object, "d"), None);
        assert_eq!(elements(r#"[ 1 ,"a,b",[],{} ]"#).collect::<Vec<_>>(), ["1", r#""a,b""#, "[]", "{}"]);
    }

    #[test]
    fn reads_escapes() {
        let text = |raw| RawText::quoted(raw).text().into_owned();
        assert_eq!(text(r#""a\n\t\"\\\/\b\f\r\u00e9\uD83D\uDE00""#), "a\n\t\"\\/\u{8}\u{c}\ré😀");
        assert_eq!(text(r#""\ud83d!""#), "\u{fffd}!");
        assert_eq!(text(r#""\ud83d\u0041""#), "\u{fffd}A");
    }

    proptest! {
        #[test]
        fn never_panics(text in r#"[\[\]{}",:\\u0-9a-fé \n]{0,60}"#) {
            members(&text).for_each(|(name, value)| assert!(name.text().len() + value.len() <= text.len()));
            let _ = elements(&text).count();
            let _ = member(&text, "a");
        }
    }
}
