//! Walking through the text of a value that is known to be JSON, without reading it into a tree: a field is found by passing
//! over what is before it. Other text yields unspecified pieces, never a panic.

use std::ops::Range;

use super::Str;
use super::scan::plain_len;

/// The value of this key in the text of an object; of duplicate keys the last one's.
pub fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let mut walk = Walk::inside(object);
    let mut found = None;
    while let Some(name) = walk.name()
        && let Some(value) = walk.value()
    {
        let is_wanted = match name.escaped {
            false => object.as_bytes().get(name.start..name.end) == Some(key.as_bytes()),
            true => walk.text(name).is_some_and(|name| name.is(key)),
        };
        if is_wanted {
            found = Some(value);
        }
    }
    object.get(found?)
}

/// The members of the text of an object, duplicates and all.
pub fn members(object: &str) -> impl Iterator<Item = (Str<'_>, &str)> {
    let mut walk = Walk::inside(object);
    std::iter::from_fn(move || {
        let name = walk.name()?;
        let value = walk.value()?;
        Some((walk.text(name)?, object.get(value)?))
    })
}

/// The elements of the text of a list.
pub fn elements(list: &str) -> Elements<'_> {
    Elements(Walk::inside(list))
}

/// See [`elements`].
#[derive(Debug)]
pub struct Elements<'a>(Walk<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.begins()?;
        let value = self.0.value()?;
        self.0.text.get(value)
    }
}

/// A place in the text of a list or an object.
///
/// Why it checks nothing: filters walk through the data of thousands of entities for one request, and that text was
/// validated when it was read. Slices are taken of what is wanted only, because each checks for character boundaries.
#[derive(Debug)]
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

/// Where a member's name stands, without its quotes.
#[derive(Clone, Copy)]
struct Name {
    start: usize,
    end: usize,
    escaped: bool,
}

impl<'a> Walk<'a> {
    /// Behind the opening bracket.
    fn inside(text: &'a str) -> Self {
        Walk { text, at: 1 }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes to the next element; `None` at the end.
    #[inline]
    fn begins(&mut self) -> Option<()> {
        loop {
            match self.peek()? {
                b',' | b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b']' | b'}' => return None,
                _ => return Some(()),
            }
        }
    }

    /// The next member's name; `None` at the end.
    #[inline]
    fn name(&mut self) -> Option<Name> {
        self.begins()?;
        let start = self.at + 1;
        let escaped = self.skip_string();
        let end = self.at.checked_sub(1).filter(|end| *end >= start)?;
        while matches!(self.peek()?, b':' | b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        Some(Name { start, end, escaped })
    }

    fn text(&self, name: Name) -> Option<Str<'a>> {
        Some(Str { raw: self.text.get(name.start..name.end)?, escaped: name.escaped })
    }

    /// Where the current value stands, and goes behind it.
    #[inline]
    fn value(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        match self.peek()? {
            b'"' => {
                self.skip_string();
            }
            b'{' | b'[' => self.skip_container(),
            _ => {
                self.at += 1;
                while self.peek().is_some_and(|byte| !matches!(byte, b',' | b'}' | b']' | 0..=b' ')) {
                    self.at += 1;
                }
            }
        }
        Some(start..self.at)
    }

    /// Passes over a string, from its opening quote on, or to the end of the text; returns whether something in it is escaped.
    #[inline]
    fn skip_string(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_len(bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(b'"') => break,
                Some(_) => self.at += 1,
                None => {
                    self.at = bytes.len();
                    return escaped;
                }
            }
        }
        self.at += 1;
        escaped
    }

    /// Passes over a list or an object, from its opening bracket on.
    fn skip_container(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.skip_string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_last_of_duplicate_keys_however_they_are_written() {
        let object = r#" {"a" : 1, "b":{"a":2} ,"\u0061":[3, "]}\"" ], "c":null}"#.trim();
        assert_eq!(member(object, "a"), Some(r#"[3, "]}\"" ]"#));
        assert_eq!(member(object, "b"), Some(r#"{"a":2}"#));
        assert_eq!(member(object, "c"), Some("null"));
        assert_eq!(member(object, "d"), None);
        // What is written is not what is meant: the first name is `a\b`.
        let object = r#"{"a\\b":1,"c":2,"\\u0063":3}"#;
        assert_eq!((member(object, r"a\\b"), member(object, r"a\b")), (None, Some("1")));
        assert_eq!((member(object, "c"), member(object, r"\\u0063")), (Some("2"), None));
        let is_name = |text: &str| members(object).map(|(name, _)| name.is(text)).collect::<Vec<_>>();
        assert_eq!((is_name(r"a\b"), is_name(r"a\\b")), (vec![true, false, false], vec![false; 3]));
        assert_eq!(elements(r#"[ 1 ,"a,b",[],{} ]"#).collect::<Vec<_>>(), ["1", r#""a,b""#, "[]", "{}"]);
        assert_eq!((elements("[ ]").next(), members("{ }").next().is_none()), (None, true));
    }

    proptest! {
        #[test]
        fn never_panics(text in r#"[\[\]{}",:\\u0-9a-fé \n]{0,60}"#) {
            members(&text).for_each(|(name, value)| assert!(name.decode().len() + value.len() <= text.len()));
            let _ = elements(&text).count();
            let _ = member(&text, "a");
            let _ = Str::quoted(&text).decode();
        }
    }
}
