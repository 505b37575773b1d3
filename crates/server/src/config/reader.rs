//! From raw values to typed ones: [`Section`] reads the keys of one table, [`Field`] one value. Each problem is
//! noted with its place and reading goes on with the default, so that one run reports everything. A key that no
//! section asked for is unknown, and its nearest right name is looked for among those that were requested.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use drawbridge_engine::settings::Rate;

use super::error::{ConfigError, Location};
use super::suggest;
use super::tree::{Entry, Node, Raw, Table, ValueSource, locate, parse_value, text_or_quoted};
use super::units::{DURATION_FORM, SIZE_FORM, parse_duration, parse_size, show_duration, show_size};

const RATE_FORM: &str = "a rate is written like 50 (a second) or { per_second = 50, burst = 100 }";

/// What all sections of one configuration share.
pub(super) struct Context<'a> {
    text: &'a str,
    /// Paths in the file are relative to it.
    directory: PathBuf,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
    /// Every key read so far, as `table.key`.
    known: RefCell<BTreeSet<String>>,
    unknown: RefCell<Vec<(String, Entry)>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(text: &'a str, directory: PathBuf) -> Self {
        Context {
            text,
            directory,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            known: RefCell::default(),
            unknown: RefCell::default(),
        }
    }

    pub(super) fn error(&self, place: &ValueSource, problem: impl Display, hint: Option<String>) {
        let (location, offset) = match place {
            ValueSource::File(offset) => (locate(self.text, *offset), *offset),
            ValueSource::Named(name) => (Location::Named(name.to_string()), usize::MAX),
        };
        self.errors.borrow_mut().push(ConfigError { location, problem: problem.to_string(), hint, offset });
    }

    pub(super) fn note_errors(&self, errors: Vec<ConfigError>) {
        self.errors.borrow_mut().extend(errors);
    }

    pub(super) fn warn(&self, warning: impl Into<String>) {
        self.warnings.borrow_mut().push(warning.into());
    }

    /// Everything that was noted: errors (with the unknown keys), warnings, and the keys that there are.
    pub(super) fn finish(self) -> (Vec<ConfigError>, Vec<String>, BTreeSet<String>) {
        let known = self.known.borrow().clone();
        for (table, entry) in self.unknown.take() {
            match suggest::unknown(&known, &table, &entry) {
                suggest::Unknown::Wrong { problem, hint } => self.error(&entry.place, problem, hint),
                suggest::Unknown::NotForUs { warning } => self.warn(warning),
            }
        }
        (self.errors.into_inner(), self.warnings.into_inner(), known)
    }
}

/// One table.
pub(super) struct Section<'c> {
    cx: &'c Context<'c>,
    /// The table's name, empty for the root, and without the numbers of lists.
    name: String,
    place: ValueSource,
    present: bool,
    entries: RefCell<Table>,
}

impl<'c> Section<'c> {
    pub(super) fn root(cx: &'c Context<'c>, table: Table) -> Self {
        Section {
            cx,
            name: String::new(),
            place: ValueSource::File(0),
            present: true,
            entries: RefCell::new(table),
        }
    }

    /// The table of this key; an empty one where it is absent or no table.
    pub(super) fn table(&self, key: &str) -> Section<'c> {
        self.table_of_form(key, "{ … }")
    }

    /// As [`Section::table`]; `form` shows how it is written.
    pub(super) fn table_of_form(&self, key: &str, form: &str) -> Section<'c> {
        let name = self.path(key);
        let Some(field) = self.field(key) else {
            let entries = RefCell::default();
            return Section { cx: self.cx, name, place: self.place.clone(), present: false, entries };
        };
        let place = field.place.clone();
        let table = field.table(form);
        let (present, entries) = (table.is_some(), RefCell::new(table.unwrap_or_default()));
        Section { cx: self.cx, name, place, present, entries }
    }

    /// The tables of a `[[key]]`.
    pub(super) fn tables(&self, key: &str) -> Vec<Section<'c>> {
        let Some(field) = self.field(key) else { return Vec::new() };
        let place = field.place.clone();
        let (cx, name) = (self.cx, self.path(key));
        let elements = match resolved(field.node).raw {
            Raw::Array(elements) => elements,
            raw => {
                let hint = format!("write each as `[[{name}]]`");
                cx.error(&place, format!("`{name}` is {}, not a list of tables", raw.kind()), Some(hint));
                return Vec::new();
            }
        };
        let section = |node: Node| {
            let place = node.place.clone();
            match resolved(node).raw {
                Raw::Table(table) => {
                    let entries = RefCell::new(table);
                    Some(Section { cx, name: name.clone(), place, present: true, entries })
                }
                raw => {
                    cx.error(&place, format!("`{name}` holds {}, not a table", raw.kind()), None);
                    None
                }
            }
        };
        elements.into_iter().filter_map(section).collect()
    }

    pub(super) fn cx(&self) -> &'c Context<'c> {
        self.cx
    }

    /// Whether the table was written at all.
    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    /// Notes a problem of the table as a whole.
    pub(super) fn error(&self, problem: impl Display, hint: impl Into<String>) {
        self.cx.error(&self.place, problem, Some(hint.into()));
    }

    /// Whether the key is written; it is still to be read.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.borrow().get(key).is_some()
    }

    /// Takes this key's value, if it is written.
    pub(super) fn field(&self, key: &str) -> Option<Field<'c>> {
        let path = self.path(key);
        self.cx.known.borrow_mut().insert(path.clone());
        let mut entries = self.entries.borrow_mut();
        let at = entries.0.iter().position(|entry| entry.key == key)?;
        let entry = entries.0.swap_remove(at);
        // A scalar is pointed at itself; a table at its name, unless it is a variable's.
        let place = match (&entry.node.raw, &entry.node.place) {
            (Raw::Table(_) | Raw::Array(_), ValueSource::File(_)) => entry.place,
            (_, place) => place.clone(),
        };
        Some(Field { cx: self.cx, path, place, node: entry.node })
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        self.field(key).and_then(|field| field.boolean()).unwrap_or(default)
    }

    /// A list of strings; in the environment, commas may be between them.
    pub(super) fn strings(&self, key: &str) -> Option<Vec<Field<'c>>> {
        self.field(key).and_then(|field| field.strings())
    }

    pub(super) fn number(&self, key: &str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        self.field(key).and_then(|field| field.number(bounds)).unwrap_or(default)
    }

    pub(super) fn duration(
        &self,
        key: &str,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        self.field(key).and_then(|field| field.duration(bounds)).unwrap_or(default)
    }

    pub(super) fn size(&self, key: &str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        self.field(key).and_then(|field| field.size(bounds)).unwrap_or(default)
    }

    /// One of a few words.
    pub(super) fn choice<T: Clone>(&self, key: &str, default: T, words: &[(&str, T)]) -> T {
        self.field(key).and_then(|field| field.choice(words)).unwrap_or(default)
    }

    /// `{ per_second, burst }`.
    pub(super) fn rate(&self, key: &str, default: Option<Rate>) -> Option<Rate> {
        self.bucket(key, default, Field::number)
    }

    /// The same, in bytes.
    pub(super) fn byte_rate(&self, key: &str, default: Option<Rate>) -> Option<Rate> {
        self.bucket(key, default, Field::size)
    }

    /// Whether the value is a number; in the environment it is a text that begins like one.
    fn is_number(&self, key: &str) -> bool {
        self.entries.borrow().get(key).is_some_and(|entry| match &entry.node.raw {
            Raw::Integer(_) => true,
            Raw::Text(text) => text.starts_with(|c: char| c == '-' || c.is_ascii_digit()),
            _ => false,
        })
    }

    /// What the value is if it is no table; in the environment a table is a text that begins like one.
    fn kind_of_no_table(&self, key: &str) -> Option<&'static str> {
        let entries = self.entries.borrow();
        match &entries.get(key)?.node.raw {
            Raw::Table(_) => None,
            Raw::Text(text) if text.starts_with('{') => None,
            raw => Some(raw.kind()),
        }
    }

    fn bucket(
        &self,
        key: &str,
        default: Option<Rate>,
        read: impl Fn(&Field<'c>, RangeInclusive<u64>) -> Option<u64>,
    ) -> Option<Rate> {
        const BOUNDS: RangeInclusive<u64> = 1..=1_000_000_000;
        // A number alone is the rate.
        if self.is_number(key) {
            let per_second = self.field(key).and_then(|field| read(&field, BOUNDS))?;
            return Some(Rate { per_second, burst: per_second.saturating_mul(2) });
        }
        if let Some(kind) = self.kind_of_no_table(key) {
            if let Some(field) = self.field(key) {
                field.error(format_args!("is not a rate: it is {kind}"), RATE_FORM);
            }
            return default;
        }
        let table = self.table(key);
        let given = |key: &str| table.field(key).map(|field| read(&field, BOUNDS));
        let (per_second, burst) = (given("per_second"), given("burst"));
        table.close();
        if !table.is_present() {
            return default;
        }
        let Some(per_second) = per_second.unwrap_or(default.map(|rate| rate.per_second)) else {
            if !self.cx.has_error_within(&table.name) {
                table.error(format!("`{}` says no `per_second`", table.name), RATE_FORM);
            }
            return default;
        };
        Some(Rate { per_second, burst: burst.flatten().unwrap_or(per_second.saturating_mul(2)) })
    }

    /// Reports the keys that no section has read.
    pub(super) fn close(&self) {
        let left = self.entries.take().0;
        self.cx.unknown.borrow_mut().extend(left.into_iter().map(|entry| (self.name.clone(), entry)));
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// A list or table that is the whole of an environment variable.
pub(super) fn resolved(node: Node) -> Node {
    match &node.raw {
        Raw::Text(text) if text.starts_with(['{', '[']) => parse_value(text, &node.place).unwrap_or(node),
        _ => node,
    }
}

/// One value, with its name and place.
#[derive(Clone)]
pub(super) struct Field<'c> {
    pub(super) cx: &'c Context<'c>,
    /// Its full name.
    pub(super) path: String,
    pub(super) place: ValueSource,
    pub(super) node: Node,
}

impl<'c> Field<'c> {
    pub(super) fn error(&self, problem: impl Display, hint: impl Into<String>) {
        self.cx.error(&self.place, format!("`{}` {problem}", self.path), Some(hint.into()));
    }

    /// Notes a problem at a byte inside a string; where the file shows the string as it is, at that very column.
    pub(super) fn error_at(&self, byte: usize, problem: impl Display, hint: Option<String>) {
        let place = match (&self.place, &self.node.raw) {
            (ValueSource::File(start), Raw::String { verbatim: true, .. }) => {
                ValueSource::File(start + 1 + byte)
            }
            (place, _) => place.clone(),
        };
        self.cx.error(&place, format!("`{}`: {problem}", self.path), hint);
    }

    fn wrong_kind(&self, wanted: &str, hint: impl Into<String>) {
        self.error(format_args!("is {}, not {wanted}", self.node.raw.kind()), hint);
    }

    pub(super) fn string(&self) -> Option<String> {
        match &self.node.raw {
            Raw::String { text, .. } | Raw::Text(text) => Some(text.clone()),
            _ => {
                self.wrong_kind("a string", "put it in quotes");
                None
            }
        }
    }

    /// A string that is not empty.
    pub(super) fn text(&self) -> Option<String> {
        let text = self.string()?;
        if text.is_empty() {
            self.error("is empty", "leave the key out, or say something");
            return None;
        }
        Some(text)
    }

    /// Whether it is `false`.
    pub(super) fn is_false(&self) -> bool {
        matches!(self.node.raw, Raw::Boolean(false)) || self.node.is_text("false")
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match &self.node.raw {
            Raw::Boolean(value) => return Some(*value),
            Raw::Text(text) if text == "true" => return Some(true),
            Raw::Text(text) if text == "false" => return Some(false),
            _ => self.wrong_kind("true or false", "write true or false, without quotes"),
        }
        None
    }

    pub(super) fn number(&self, bounds: RangeInclusive<u64>) -> Option<u64> {
        let value = match &self.node.raw {
            Raw::Integer(value) => Some(*value),
            Raw::Text(text) => text.parse().ok(),
            _ => None,
        };
        match value {
            Some(value) => self.within(value, bounds, |value| value.to_string()),
            None => {
                self.wrong_kind("a whole number", "write it in digits, without quotes");
                None
            }
        }
    }

    /// A number that is not negative, whole or not.
    pub(super) fn decimal(&self) -> Option<f64> {
        let number: Option<f64> = match &self.node.raw {
            Raw::Integer(value) => value.to_string().parse().ok(),
            Raw::Float(text) | Raw::Text(text) => text.replace('_', "").parse().ok(),
            _ => None,
        };
        match number.filter(|number| number.is_finite() && *number >= 0.0) {
            None => {
                let hint = "a finite number from 0, without quotes";
                match &self.node.raw {
                    Raw::Integer(_) | Raw::Float(_) | Raw::Text(_) => self.error("is out of bounds", hint),
                    _ => self.wrong_kind("a number", hint),
                }
                None
            }
            number => number,
        }
    }

    pub(super) fn duration(&self, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let text = match &self.node.raw {
            Raw::String { text, .. } | Raw::Text(text) => text,
            Raw::Integer(value @ 0..=999_999_999) => {
                self.wrong_kind("a duration", format!("name the unit: \"{value}s\" or \"{value}ms\""));
                return None;
            }
            _ => {
                self.wrong_kind("a duration", DURATION_FORM);
                return None;
            }
        };
        let Some(duration) = parse_duration(text) else {
            self.error(format_args!("is not a duration: \"{}\"", excerpt(text)), DURATION_FORM);
            return None;
        };
        let bounds = bounds.start().as_millis() as u64..=bounds.end().as_millis() as u64;
        let show = |millis| show_duration(Duration::from_millis(millis));
        self.within(duration.as_millis() as i128, bounds, show).map(Duration::from_millis)
    }

    pub(super) fn size(&self, bounds: RangeInclusive<u64>) -> Option<u64> {
        let value = match &self.node.raw {
            Raw::Integer(value) => *value,
            Raw::String { text, .. } | Raw::Text(text) => match parse_size(text) {
                Some(bytes) => i128::from(bytes),
                None => {
                    self.error(format_args!("is not a size: \"{}\"", excerpt(text)), SIZE_FORM);
                    return None;
                }
            },
            _ => {
                self.wrong_kind("a size", SIZE_FORM);
                return None;
            }
        };
        self.within(value, bounds, show_size)
    }

    fn within(&self, value: i128, bounds: RangeInclusive<u64>, show: impl Fn(u64) -> String) -> Option<u64> {
        match u64::try_from(value) {
            Ok(value) if bounds.contains(&value) => Some(value),
            other => {
                let value = other.map_or_else(|_| value.to_string(), &show);
                let (least, most) = (show(*bounds.start()), show(*bounds.end()));
                self.error(format_args!("is out of bounds: {value}"), format!("it may be {least} to {most}"));
                None
            }
        }
    }

    pub(super) fn choice<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let any = format!("it may be {}", quoted.join(" or "));
        let text = match &self.node.raw {
            Raw::String { text, .. } | Raw::Text(text) => text.clone(),
            _ => {
                self.wrong_kind("a string", any);
                return None;
            }
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let near = suggest::nearest(&text, words.iter().map(|(word, _)| *word));
        let hint = near.map_or(any, |near| format!("did you mean \"{near}\"?"));
        self.error(format_args!("is not known: \"{}\"", excerpt(&text)), hint);
        None
    }

    /// The elements of a list, each still to be read.
    pub(super) fn strings(self) -> Option<Vec<Field<'c>>> {
        let Field { cx, path, place, node } = self;
        let elements = match resolved(node).raw {
            Raw::Array(elements) => elements,
            Raw::Text(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(|part| text_or_quoted(part, &place)).collect()
            }
            raw => {
                let hint = "write it in brackets: [\"…\"]".to_owned();
                cx.error(&place, format!("`{path}` is {}, not a list", raw.kind()), Some(hint));
                return None;
            }
        };
        let field = |node: Node| Field { cx, path: path.clone(), place: node.place.clone(), node };
        Some(elements.into_iter().map(field).collect())
    }

    /// One string, or a list of them.
    pub(super) fn one_or_many(self) -> Vec<Field<'c>> {
        match self.node.raw {
            Raw::String { .. } => vec![self],
            _ => self.strings().unwrap_or_default(),
        }
    }

    /// `form`: how such a table is written.
    fn table(mut self, form: &str) -> Option<Table> {
        self.node = resolved(self.node);
        match self.node.raw {
            Raw::Table(table) => Some(table),
            _ => {
                let leaf = self.path.rsplit('.').next().unwrap_or_default();
                self.wrong_kind("a table", format!("write `{leaf} = {form}`"));
                None
            }
        }
    }

    /// A file's path: in the file relative to the file, in the environment to the working directory.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let path = PathBuf::from(self.text()?);
        match self.place {
            ValueSource::File(_) => Some(self.cx.directory.join(path)),
            ValueSource::Named(_) => Some(path),
        }
    }
}

impl Context<'_> {
    /// Whether a value of this table was refused already; then what is missing in it is not worth a second word.
    fn has_error_within(&self, table: &str) -> bool {
        let start = format!("`{table}.");
        self.errors.borrow().iter().any(|error| error.problem.starts_with(&start))
    }
}

/// The beginning of a wrong value, for messages.
pub(super) fn excerpt(text: &str) -> String {
    const MOST: usize = 40;
    let shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().count() > MOST { format!("{shown}…") } else { shown }
}
