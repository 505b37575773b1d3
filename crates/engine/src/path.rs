//! A place in an event, as the configuration names it (`data.id`, `data.pos.x`): where a class finds an entity's
//! key and position. What is found there is read here; what it is for is the callers' business.

use std::borrow::Cow;
use std::fmt;

use drawbridge_protocol::json::{Str, decimal_text, member, members};

/// How many names one path holds behind its root.
const MAX_STEPS: usize = 8;

/// The part of an event that a path begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Data,
    Tags,
}

/// A path to a value in an event's `data` or `tags`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    root: Root,
    steps: Box<[Box<str>]>,
}

/// What is wrong with a path; the text is for the configuration's author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathError(&'static str);

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for PathError {}

/// The value at a path is neither a string nor a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKey;

impl Path {
    /// Reads a path such as `data.id`.
    ///
    /// # Errors
    /// Where it does not begin with `data.` or `tags.`, or a name between its dots is empty or not made of letters,
    /// digits, `_` and `-`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let (root, steps) = text.split_once('.').ok_or(PathError("a path is written like data.id"))?;
        let root = match root {
            "data" => Root::Data,
            "tags" => Root::Tags,
            _ => return Err(PathError("a path begins with `data.` or `tags.`")),
        };
        let fits = |step: &str| {
            !step.is_empty() && step.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
        };
        let steps: Box<[Box<str>]> = steps.split('.').map(Into::into).collect();
        if !steps.iter().all(|step| fits(step)) {
            return Err(PathError("between its dots a path has names of letters, digits, `_` and `-`"));
        }
        if steps.len() > MAX_STEPS {
            return Err(PathError("a path has at most 8 names behind its root"));
        }
        Ok(Path { root, steps })
    }

    /// Its root, `data` or `tags`.
    pub fn root(&self) -> &'static str {
        match self.root {
            Root::Data => "data",
            Root::Tags => "tags",
        }
    }

    /// The names behind its root, in order.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| &**step)
    }

    /// The JSON text of the value at this place; `None` where there is none.
    pub fn find<'e>(&self, data: &'e str, tags: Option<&'e str>) -> Option<&'e str> {
        let [found] = find_each([Some(self)], data, tags);
        found
    }

    /// The value that the path leads to, from that of its first name on.
    fn follow<'e>(&self, first: &'e str) -> Option<&'e str> {
        let mut rest = self.steps.iter().skip(1);
        rest.try_fold(first, |value, step| if value.starts_with('{') { member(value, step) } else { None })
    }
}

/// The JSON texts of the values at several places, found in one walk through the event.
pub fn find_each<'e, const N: usize>(
    paths: [Option<&Path>; N],
    data: &'e str,
    tags: Option<&'e str>,
) -> [Option<&'e str>; N] {
    let mut found = [None; N];
    for (root, text) in [(Root::Data, data), (Root::Tags, tags.unwrap_or_default())] {
        let mut wanted = paths.iter().flatten().filter(|path| path.root == root);
        if wanted.next().is_none() || !text.starts_with('{') {
            continue;
        }
        for (name, value) in members(text) {
            for (path, found) in paths.iter().zip(&mut found) {
                if let Some(path) = path.filter(|path| path.root == root && name.is(&path.steps[0])) {
                    *found = path.follow(value);
                }
            }
        }
    }
    found
}

/// The key that a JSON text means: a string as it is, a number as its decimal text, null none.
///
/// # Errors
/// Where it is something else.
pub fn key(value: &str) -> Result<Option<Cow<'_, str>>, NotAKey> {
    match value.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => Ok(Some(Str::quoted(value).decode())),
        Some(b'-' | b'0'..=b'9') => Ok(Some(decimal_text(value))),
        _ => Err(NotAKey),
    }
}

/// The number that a JSON text means, if it is a finite one.
pub fn number(value: &str) -> Option<f64> {
    if !value.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|number: &f64| number.is_finite())
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.root())?;
        self.steps.iter().try_for_each(|step| write!(f, ".{step}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn finds_keys_and_numbers() {
        let path = Path::parse("data.pos.x").unwrap();
        assert_eq!(path.to_string(), "data.pos.x");
        type Row = (&'static str, Result<Option<&'static str>, NotAKey>, Option<f64>);
        let rows: &[Row] = &[
            (r#"{"pos":{"x":1}}"#, Ok(Some("1")), Some(1.0)),
            (r#"{"pos": {"x" : -2.50 }}"#, Ok(Some("-2.5")), Some(-2.5)),
            (
                r#"{"pos":{"x":12345678901234567890}}"#,
                Ok(Some("12345678901234567890")),
                Some(12345678901234567890.0),
            ),
            (r#"{"pos":{"x":1e999}}"#, Ok(Some("1e999")), None),
            (r#"{"pos":{"x":"e\u0037"}}"#, Ok(Some("e7")), None),
            (r#"{"pos":{"x":null}}"#, Ok(None), None),
            (r#"{"pos":{"x":{}}}"#, Err(NotAKey), None),
            (r#"{"pos":{"x":true}}"#, Err(NotAKey), None),
            (r#"{"pos":[1]}"#, Ok(None), None),
            ("7", Ok(None), None),
        ];
        for (data, key, number) in rows {
            let found = path.find(data, None);
            assert_eq!(found.map_or(Ok(None), super::key), key.map(|key| key.map(Cow::Borrowed)), "{data}");
            assert_eq!(found.and_then(super::number), *number, "{data}");
        }
    }

    #[test]
    fn finds_several_in_one_walk() {
        let paths = ["tags.id", "data.pos.x", "data.pos.y", "data.id"].map(|path| Path::parse(path).unwrap());
        let paths = paths.each_ref().map(Some);
        let data = r#"{"id":1,"pos":{"y":2},"id":{},"pos":{"x":3,"y":4}}"#;
        let tags = r#"{"id":"a"}"#;
        assert_eq!(find_each(paths, data, Some(tags)), [Some(r#""a""#), Some("3"), Some("4"), Some("{}")]);
        assert_eq!(find_each(paths, r#"{"pos":{"x":1},"pos":7}"#, None), [None; 4], "of duplicates the last");
    }

    #[test]
    fn refuses_what_is_no_path() {
        for text in ["data", "id", "event.x", "data.", "data..x", "data.a b", "data.a.b.c.d.e.f.g.h.i", ""] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }
}
