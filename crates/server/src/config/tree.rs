//! The raw input of the file and the environment, each value with the place it was written at. Only the grammar
//! of TOML is checked here.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Location};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ValueSource {
    /// At this byte of the file.
    File(usize),
    /// In this environment variable, or command-line option.
    Named(Arc<str>),
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: ValueSource,
    pub(super) raw: Raw,
}

impl Node {
    /// Whether it is this string.
    pub(super) fn is_text(&self, wanted: &str) -> bool {
        matches!(&self.raw, Raw::String { text, .. } | Raw::Text(text) if text == wanted)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// From the environment: what it means depends on what is wanted.
    Text(String),
    /// `verbatim`: it is written in the file, character by character, right behind one opening quote.
    String {
        text: String,
        verbatim: bool,
    },
    Integer(i128),
    /// As it is written.
    Float(String),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

impl Raw {
    /// For messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Raw::Text(_) | Raw::String { .. } => "a string",
            Raw::Integer(_) => "a whole number",
            Raw::Float(_) => "a fraction",
            Raw::Boolean(_) => "true or false",
            Raw::Datetime => "a date or time",
            Raw::Array(_) => "a list",
            Raw::Table(_) => "a table",
        }
    }
}

/// Keys and values, in no particular order.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) Vec<Entry>);

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key is written; the value has its own place.
    pub(super) place: ValueSource,
    pub(super) node: Node,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    /// The entry of this key, made if it is not there.
    pub(super) fn entry(&mut self, key: &str, made: impl FnOnce() -> Entry) -> &mut Entry {
        let at = self.0.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
            self.0.push(made());
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

/// Reads a whole file.
pub(super) fn parse_file(text: &str) -> (Table, Vec<ConfigError>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let errors = errors.iter().map(|error| syntax_error(text, error)).collect();
    (table(root.get_ref(), &|span| ValueSource::File(span.start), text), errors)
}

/// Reads one value that came from outside the file; every part of it is at `place`.
pub(super) fn parse_value(text: &str, place: &ValueSource) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    Some(node(&value, &|_| place.clone(), ""))
}

/// A text that came from outside the file: in quotes it is one of TOML's, else what it means depends on what is wanted.
pub(super) fn text_or_quoted(text: &str, place: &ValueSource) -> Node {
    let quoted = if text.starts_with(['"', '\'']) { parse_value(text, place) } else { None };
    quoted.unwrap_or_else(|| Node { place: place.clone(), raw: Raw::Text(text.to_owned()) })
}

/// The parser's message contains names of the grammar only, never the text of the file: it may be a secret.
fn syntax_error(text: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start);
    let message = error.message();
    let hint =
        SYNTAX_HINTS.iter().find(|(part, _)| message.contains(part)).map(|(_, hint)| (*hint).to_owned());
    ConfigError {
        location: locate(text, offset),
        problem: format!("not valid TOML: {message}"),
        hint,
        offset,
    }
}

/// What would be right, by a part of the parser's message.
const SYNTAX_HINTS: [(&str, &str); 9] = [
    (
        "duplicate key",
        "each key and table is written once, and each class of channels under a [[channel]] of its own, with two brackets",
    ),
    ("unquoted key", LINE_FORM),
    ("key with no value", LINE_FORM),
    ("must be quoted", QUOTES),
    ("invalid float", QUOTES),
    ("invalid boolean", QUOTES),
    ("invalid integer", QUOTES),
    (
        "unexpected key or value",
        "a double quote within a text ends it: within an expression write texts in single quotes, like event == 'say'",
    ),
    ("missing escaped value", "write a backslash twice, or the whole text in single quotes"),
];
const QUOTES: &str = "put a text in double quotes, and numbers, true and false in none";
const LINE_FORM: &str = "a line is written like listen = \"127.0.0.1:8000\"";

/// Line and column of a byte of the file.
pub(super) fn locate(text: &str, offset: usize) -> Location {
    let boundary = (0..=offset.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    let before = &text[..boundary.unwrap_or(0)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Location::File {
        line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

type ToSource<'a> = &'a dyn Fn(Range<usize>) -> ValueSource;

fn table(source: &DeTable<'_>, to_source: ToSource<'_>, text: &str) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        Entry { key: name.to_string(), place: to_source(key.span()), node: node(value, to_source, text) }
    };
    Table(source.iter().map(entry).collect())
}

fn node(source: &Spanned<DeValue<'_>>, to_source: ToSource<'_>, text: &str) -> Node {
    let raw = match source.get_ref() {
        DeValue::String(value) => {
            let literal = text.get(source.span()).unwrap_or_default();
            let verbatim = literal.get(1..literal.len().saturating_sub(1)) == Some(&**value);
            Raw::String { text: value.to_string(), verbatim }
        }
        DeValue::Integer(value) => {
            Raw::Integer(i128::from_str_radix(value.as_str(), value.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(value) => Raw::Float(value.as_str().to_owned()),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Datetime(_) => Raw::Datetime,
        DeValue::Array(values) => {
            Raw::Array(values.iter().map(|value| node(value, to_source, text)).collect())
        }
        DeValue::Table(value) => Raw::Table(table(value, to_source, text)),
    };
    Node { place: to_source(source.span()), raw }
}
