//! The JSON objects that services send, as bodies over HTTP and as commands: which members they have. What these mean is
//! the callers' business.

use std::borrow::Cow;

use drawbridge_protocol::json::{JsonKind, Reader, SyntaxError, Token, Value};

/// The members of an object by these names, wherever they are in it; of duplicates the last counts, others are not
/// looked at.
///
/// # Errors
/// What is wrong with a text that is not a JSON object.
pub(crate) fn members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<Value<'a>>; N], String> {
    let mut reader = Reader::new(text);
    let not_json = |error: SyntaxError| format!("not JSON: {error}");
    match reader.next().map_err(not_json)? {
        Token::BeginObject => {}
        other => {
            let value = reader.rest_of_value(other).map_err(not_json)?;
            return Err(format!("expected an object, not {}", value.kind.with_article()));
        }
    }
    let found = reader.members(&names).map_err(not_json)?;
    reader.end().map_err(not_json)?;
    Ok(found)
}

/// A member that is a string; `null` counts as absent.
///
/// # Errors
/// Where it is something else, or holds half a surrogate pair.
pub(crate) fn string<'a>(name: &str, value: Option<Value<'a>>) -> Result<Option<Cow<'a, str>>, String> {
    match value {
        None => Ok(None),
        Some(value) if value.kind == JsonKind::Null => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => {
                text.decode_strict().map(Some).ok_or_else(|| format!("`{name}`: half a surrogate pair"))
            }
            None => Err(format!("`{name}`: expected a string, not {}", value.kind.with_article())),
        },
    }
}

/// As [`string`], of a member that must be there.
///
/// # Errors
/// Those of [`string`], and where it is missing.
pub(crate) fn needed<'a>(name: &str, value: Option<Value<'a>>) -> Result<Cow<'a, str>, String> {
    string(name, value)?.ok_or_else(|| format!("`{name}` is missing"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn of_duplicates_the_last_counts() {
        let text = r#" {"a":1,"b":{"a":[2]},"\u0061":"x" , "c":"","b":[ 1.0,9007199254740993 ]} "#;
        let [a, b, d] = members(text, ["a", "b", "d"]).unwrap();
        assert_eq!(string("a", a), Ok(Some("x".into())));
        assert_eq!(b.unwrap().text, "[ 1.0,9007199254740993 ]");
        assert_eq!(needed("d", d), Err("`d` is missing".to_owned()));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (text, expected) in [
            (r#"["a"]"#, "expected an object, not an array"),
            ("7", "expected an object, not a number"),
            ("null", "expected an object, not null"),
            ("", "not JSON"),
            ("[", "not JSON"),
            ("x", "not JSON"),
            (r#"{"a":1"#, "not JSON"),
            (r#"{"a":1} {}"#, "not JSON"),
        ] {
            let error = members(text, ["a"]).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_string_is_refused() {
        for (text, expected) in [
            (r#"{"a":1}"#, Err("`a`: expected a string, not a number".to_owned())),
            (r#"{"a":"\ud800"}"#, Err("`a`: half a surrogate pair".to_owned())),
            (r#"{"a":null}"#, Ok(None)),
            ("{}", Ok(None)),
        ] {
            let [a] = members(text, ["a"]).unwrap();
            assert_eq!(string("a", a), expected, "{text}");
        }
    }
}
