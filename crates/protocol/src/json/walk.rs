//! Walking through the text of a value that is known to be JSON, without reading it into a tree: a field is found by passing
//! over what is before it. Other text yields unspecified pieces, never a panic.

use super::scan::{Brackets, Scanner, skip_container};
use super::{Kind, Str};

/// The value of this key in the text of an object; of duplicate keys the last one's.
pub fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    members(object).filter(|(name, _)| name.is(key)).last().map(|(_, value)| value)
}

/// The members of the text of an object, duplicates and all.
pub fn members(object: &str) -> impl Iterator<Item = (Str<'_>, &str)> {
    let mut walk = Walk::inside(object);
    std::iter::from_fn(move || {
        let name = walk.name()?;
        Some((name, walk.value()?))
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
        self.0.value()
    }
}

/// A place in the text of a list or an object.
#[derive(Debug)]
struct Walk<'a> {
    text: &'a str,
    scan: Scanner<'a>,
}

impl<'a> Walk<'a> {
    /// Behind the opening bracket.
    fn inside(text: &'a str) -> Self {
        Walk { text, scan: Scanner { bytes: text.as_bytes(), at: 1 } }
    }

    /// Goes to the next element; `None` at the end.
    fn begins(&mut self) -> Option<()> {
        loop {
            match self.scan.peek()? {
                b',' | b' ' | b'\t' | b'\n' | b'\r' => self.scan.at += 1,
                b']' | b'}' => return None,
                _ => return Some(()),
            }
        }
    }

    /// The next member's name; `None` at the end.
    fn name(&mut self) -> Option<Str<'a>> {
        self.begins()?;
        let start = self.scan.at;
        let name = self.scan.name().ok()?;
        self.scan.skip_white_space();
        Some(Str { raw: self.text.get(start + 1..name.end - 1)?, escaped: name.escaped })
    }

    fn value(&mut self) -> Option<&'a str> {
        let start = self.scan.at;
        let kind = self.scan.value().ok()?;
        if kind.is_container() {
            let mut open = Brackets::default();
            open.push(kind == Kind::Object);
            skip_container(&mut self.scan, &mut open).ok()?;
        }
        self.text.get(start..self.scan.at)
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
