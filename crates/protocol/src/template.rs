//! Names with placeholders, as the configuration writes them. A [`ClassName`] (`room:{room}`, `chat:*`) is
//! matched against channels, a [`Template`] (`player:{sub}`) is filled to make one. Which values may fill a
//! template, and a class's rules, belong to the engine.

mod params;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

pub use self::params::Params;
use crate::channel::{ChannelError, MAX_NAME_BYTES, is_forbidden, is_glob_char};

/// The most placeholders that one name holds.
pub const MAX_PLACEHOLDERS: usize = 8;

/// What is wrong with a class name or a template; the text is for the configuration's author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// The fixed text is not fit for a channel's name.
    Name(ChannelError),
    /// A `{` without its `}`, or a `}` without its `{`; holds the byte offset.
    UnpairedBrace(usize),
    /// A placeholder's name is empty, or holds something but ASCII letters, digits, `_` and `-`.
    PlaceholderName(String),
    /// A placeholder is named twice.
    Twice(String),
    /// A class's placeholder is followed by another one or by `*`, so nothing ends its value.
    Endless(String),
    /// A class's placeholder is followed by a character that is not ASCII.
    EndsAt(String, char),
    /// A class's `*` stands before the end.
    StarBeforeEnd(usize),
    /// More than [`MAX_PLACEHOLDERS`].
    TooManyPlaceholders,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::Name(error) => error.fmt(f),
            TemplateError::UnpairedBrace(at) => write!(f, "the brace at byte {at} has no partner"),
            TemplateError::PlaceholderName(name) => {
                write!(f, "`{{{name}}}`: a placeholder is named with letters, digits, `_` and `-`")
            }
            TemplateError::Twice(name) => write!(f, "`{{{name}}}` occurs twice"),
            TemplateError::Endless(name) => {
                write!(
                    f,
                    "the value of `{{{name}}}` has no end: put a character like `:`, `.` or `-` behind it"
                )
            }
            TemplateError::EndsAt(name, c) => {
                write!(f, "the value of `{{{name}}}` would end at `{c}`; it can end at ASCII characters only")
            }
            TemplateError::StarBeforeEnd(at) => {
                write!(f, "the `*` at byte {at} takes the rest of the name, so it must be at the end")
            }
            TemplateError::TooManyPlaceholders => write!(f, "more than {MAX_PLACEHOLDERS} placeholders"),
        }
    }
}

impl std::error::Error for TemplateError {}

/// Which channels a class is about. The value of `{x}` is not empty and ends at the first `:`, at the first character
/// like the one behind `{x}`, and at the first `.` where a dot stands on either side of `{x}`: so a name is read in one
/// way only, without going back. A final `*` takes the rest, which may be empty (`chat:*` matches `chat:`, but not
/// `chat`).
///
/// ```
/// use drawbridge_protocol::template::ClassName;
/// let class = ClassName::parse("room:{room}").unwrap();
/// assert_eq!(class.matches("room:42").unwrap().get("room"), Some("42"));
/// assert!(class.matches("room:42:chat").is_none());
/// let class = ClassName::parse("private-App.User.{id}").unwrap();
/// assert_eq!(class.matches("private-App.User.7").unwrap().get("id"), Some("7"));
/// assert!(class.matches("private-App.User.7.x").is_none());
/// ```
#[derive(Clone, Debug)]
pub struct ClassName {
    source: Box<str>,
    parts: Box<[TemplatePart]>,
    /// Ends with `*`.
    open: bool,
}

impl ClassName {
    /// Reads a class name.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let (fixed, open) = match source.strip_suffix('*') {
            Some(fixed) => (fixed, true),
            None => (source, false),
        };
        if let Some(at) = fixed.find('*') {
            return Err(TemplateError::StarBeforeEnd(at));
        }
        let parts = if fixed.is_empty() && open { Box::default() } else { parse_parts(fixed)? };
        check_ends(&parts, open)?;
        Ok(ClassName { source: source.into(), parts, open })
    }

    /// The placeholders' values, if the channel belongs to the class.
    pub fn matches<'n, 'c>(&'n self, channel: &'c str) -> Option<Params<'n, 'c>> {
        // Most channels begin otherwise.
        if !channel.starts_with(self.literal_prefix()) {
            return None;
        }
        let mut params = Params::default();
        self.read(channel, |name, value| params.push(name, value)).then_some(params)
    }

    /// Whether the channel belongs to the class; for less than [`ClassName::matches`] costs.
    pub fn includes(&self, channel: &str) -> bool {
        self.read(channel, |_, _| {})
    }

    /// Passes each placeholder's name and value; returns whether the channel belongs to the class.
    fn read<'n, 'c>(&'n self, channel: &'c str, mut take: impl FnMut(&'n str, &'c str)) -> bool {
        let mut rest = channel;
        for part in &self.parts {
            match part {
                TemplatePart::Fixed(text) => match rest.strip_prefix(&**text) {
                    Some(after) => rest = after,
                    None => return false,
                },
                TemplatePart::Placeholder(placeholder) => {
                    let (value, after) = rest.split_at(placeholder.end_in(rest).unwrap_or(rest.len()));
                    if value.is_empty() {
                        return false;
                    }
                    take(&placeholder.name, value);
                    rest = after;
                }
            }
        }
        self.open || rest.is_empty()
    }

    /// Whether a pattern with this fixed part belongs to the class: the fixed part holds all that comes before
    /// the class's first placeholder or `*`, and can be continued to a channel of the class.
    pub fn claims_pattern(&self, fixed: &str) -> bool {
        fixed.starts_with(self.literal_prefix()) && self.can_continue(fixed)
    }

    /// The text before the first placeholder or `*`.
    pub fn literal_prefix(&self) -> &str {
        literal_prefix(&self.parts)
    }

    /// The placeholders' names, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        placeholders(&self.parts)
    }

    /// What the name is made of, for others who match by it; [`ClassName::is_open`] says whether a `*` follows.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.parts.iter().map(|part| match part {
            TemplatePart::Fixed(text) => Piece::Fixed(text),
            TemplatePart::Placeholder(placeholder) => Piece::Value { ends: &placeholder.ends },
        })
    }

    /// Whether it ends with `*`.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether some channel of the class begins like this.
    fn can_continue(&self, beginning: &str) -> bool {
        let mut rest = beginning;
        for part in &self.parts {
            match part {
                TemplatePart::Fixed(text) => match rest.strip_prefix(&**text) {
                    Some(after) => rest = after,
                    None => return text.starts_with(rest),
                },
                TemplatePart::Placeholder(placeholder) => match placeholder.end_in(rest) {
                    None => return true,
                    Some(0) => return false,
                    Some(end) => rest = &rest[end..],
                },
            }
        }
        self.open || rest.is_empty()
    }
}

impl fmt::Display for ClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// A part of a [`ClassName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'n> {
    /// This text.
    Fixed(&'n str),
    /// A value: the longest text, not empty, without any of these ASCII characters.
    Value {
        /// What ends it.
        ends: &'n str,
    },
}

/// A name to be made from values: `player:{sub}`, `actions:{room}`. A placeholder may be a part of a segment.
///
/// ```
/// use drawbridge_protocol::template::Template;
/// let template = Template::parse("player:{sub}").unwrap();
/// assert_eq!(template.fill(|_| Some("alice".into())).as_deref(), Some("player:alice"));
/// ```
#[derive(Clone, Debug)]
pub struct Template {
    source: Box<str>,
    parts: Box<[TemplatePart]>,
}

impl Template {
    /// Reads a template.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        Ok(Template { source: source.into(), parts: parse_parts(source)? })
    }

    /// The name with each placeholder replaced by its value; `None` where one has none. Whether the values fit
    /// is the caller's decision.
    pub fn fill<'v>(&self, lookup: impl Fn(&str) -> Option<Cow<'v, str>>) -> Option<String> {
        self.fill_noting(lookup, |_| {})
    }

    /// As [`Template::fill`]; calls `value_at` with the place of each value in the name, in order.
    pub fn fill_noting<'v>(
        &self,
        lookup: impl Fn(&str) -> Option<Cow<'v, str>>,
        mut value_at: impl FnMut(Range<usize>),
    ) -> Option<String> {
        let mut name = String::with_capacity(self.source.len() + 16);
        for part in &self.parts {
            match part {
                TemplatePart::Fixed(text) => name.push_str(text),
                TemplatePart::Placeholder(placeholder) => {
                    let start = name.len();
                    name.push_str(&lookup(&placeholder.name)?);
                    value_at(start..name.len());
                }
            }
        }
        Some(name)
    }

    /// The text before the first placeholder.
    pub fn literal_prefix(&self) -> &str {
        literal_prefix(&self.parts)
    }

    /// The placeholders' names, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        placeholders(&self.parts)
    }

    /// Whether this value of a placeholder holds a character that ends it: then the name could be read with another value.
    pub fn ends_within(&self, name: &str, value: &str) -> bool {
        self.parts.iter().any(|part| match part {
            TemplatePart::Placeholder(placeholder) => {
                *placeholder.name == *name && placeholder.end_in(value).is_some()
            }
            TemplatePart::Fixed(_) => false,
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePart {
    Fixed(Box<str>),
    Placeholder(Placeholder),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Placeholder {
    name: Box<str>,
    /// The ASCII characters that end a value.
    ends: Box<str>,
}

impl Placeholder {
    /// Where the value ends that begins this text; `None`: all of the text can be a value.
    fn end_in(&self, text: &str) -> Option<usize> {
        text.bytes().position(|byte| self.ends.as_bytes().contains(&byte))
    }
}

fn literal_prefix(parts: &[TemplatePart]) -> &str {
    match parts.first() {
        Some(TemplatePart::Fixed(text)) => text,
        _ => "",
    }
}

fn placeholders(parts: &[TemplatePart]) -> impl Iterator<Item = &str> {
    parts.iter().filter_map(|part| match part {
        TemplatePart::Placeholder(placeholder) => Some(&*placeholder.name),
        TemplatePart::Fixed(_) => None,
    })
}

/// Splits fixed text from placeholders; the fixed text comes out in one piece between two placeholders.
fn parse_parts(source: &str) -> Result<Box<[TemplatePart]>, TemplateError> {
    if source.is_empty() {
        return Err(TemplateError::Name(ChannelError::Empty));
    }
    if source.len() > MAX_NAME_BYTES {
        return Err(TemplateError::Name(ChannelError::TooLong(source.len())));
    }
    let mut parts = Vec::new();
    let mut rest = source;
    while !rest.is_empty() {
        let at = source.len() - rest.len();
        if let Some(inner) = rest.strip_prefix('{') {
            let end = inner.find(['{', '}']).filter(|end| inner[*end..].starts_with('}'));
            let end = end.ok_or(TemplateError::UnpairedBrace(at))?;
            let name = placeholder_name(&inner[..end], &parts)?;
            rest = &inner[end + 1..];
            let ends = ends(parts.last(), rest.chars().next());
            parts.push(TemplatePart::Placeholder(Placeholder { name, ends }));
            continue;
        }
        let (text, after) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
        parts.push(TemplatePart::Fixed(fixed_text(text, at)?));
        rest = after;
    }
    Ok(parts.into())
}

fn placeholder_name(name: &str, before: &[TemplatePart]) -> Result<Box<str>, TemplateError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(TemplateError::PlaceholderName(name.into()));
    }
    if placeholders(before).any(|other| other == name) {
        return Err(TemplateError::Twice(name.into()));
    }
    if placeholders(before).count() == MAX_PLACEHOLDERS {
        return Err(TemplateError::TooManyPlaceholders);
    }
    Ok(name.into())
}

fn fixed_text(text: &str, at: usize) -> Result<Box<str>, TemplateError> {
    if let Some(brace) = text.find('}') {
        return Err(TemplateError::UnpairedBrace(at + brace));
    }
    if let Some(c) = text.chars().find(|c| is_forbidden(*c)) {
        return Err(TemplateError::Name(ChannelError::Forbidden(c)));
    }
    if let Some(c) = text.chars().find(|c| is_glob_char(*c)) {
        return Err(TemplateError::Name(ChannelError::Glob(c)));
    }
    Ok(text.into())
}

/// What ends the value of a placeholder between these two.
fn ends(before: Option<&TemplatePart>, behind: Option<char>) -> Box<str> {
    let mut ends = String::from(":");
    let is_behind_dot = matches!(before, Some(TemplatePart::Fixed(text)) if text.ends_with('.'));
    if is_behind_dot && behind != Some('.') {
        ends.push('.');
    }
    ends.extend(behind.filter(|c| c.is_ascii() && !matches!(c, ':' | '{')));
    ends.into()
}

/// A name that matches must say where each value ends.
fn check_ends(parts: &[TemplatePart], open: bool) -> Result<(), TemplateError> {
    for (at, part) in parts.iter().enumerate() {
        let TemplatePart::Placeholder(Placeholder { name, .. }) = part else { continue };
        match parts.get(at + 1) {
            None if !open => {}
            None | Some(TemplatePart::Placeholder(_)) => {
                return Err(TemplateError::Endless(name.to_string()));
            }
            Some(TemplatePart::Fixed(text)) => {
                if let Some(c) = text.chars().next().filter(|c| !c.is_ascii()) {
                    return Err(TemplateError::EndsAt(name.to_string(), c));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn class(source: &str) -> ClassName {
        ClassName::parse(source).unwrap_or_else(|error| panic!("{source}: {error}"))
    }

    #[test]
    fn a_class_takes_segments_and_the_rest() {
        type Row = (&'static str, &'static str, Option<&'static [(&'static str, &'static str)]>);
        let rows: &[Row] = &[
            ("room:{room}", "room:42", Some(&[("room", "42")])),
            ("room:{room}", "room:", None),
            ("room:{room}", "room:4:2", None),
            ("room:{room}", "rooms:4", None),
            ("{game}:{room}:chat", "g:r:chat", Some(&[("game", "g"), ("room", "r")])),
            ("{game}:{room}:chat", "g::chat", None),
            ("{game}:{room}:chat", "g:r:chats", None),
            ("chat:*", "chat:", Some(&[])),
            ("chat:*", "chat:a:b", Some(&[])),
            ("chat:*", "chat", None),
            ("chat*", "chats", Some(&[])),
            ("game:{g}:*", "game:1:x:y", Some(&[("g", "1")])),
            ("game:{g}:*", "game:1", None),
            ("*", "anything", Some(&[])),
            ("lobby", "lobby", Some(&[])),
            ("lobby", "lobby2", None),
            ("日:{x}", "日:本", Some(&[("x", "本")])),
            ("room.{id}", "room.42", Some(&[("id", "42")])),
            ("room.{id}", "room.", None),
            ("room.{id}", "room.4.2", None),
            ("room.{id}", "room.4:2", None),
            ("room.{id}", "room.4-2", Some(&[("id", "4-2")])),
            ("private-{a}.{b}", "private-x.y", Some(&[("a", "x"), ("b", "y")])),
            ("private-{a}.{b}", "private-x-z.y", Some(&[("a", "x-z"), ("b", "y")])),
            ("private-{a}.{b}", "private-x.y.z", None),
            ("private-{a}.{b}", "private-x", None),
            ("private-{a}.{b}", "private-.y", None),
            ("user-{id}", "user-9f3e-11", Some(&[("id", "9f3e-11")])),
            ("user-{id}", "user-a.b", Some(&[("id", "a.b")])),
            ("{a}-{b}", "x-y-z", Some(&[("a", "x"), ("b", "y-z")])),
            ("{a}--{b}", "x--y", Some(&[("a", "x"), ("b", "y")])),
            ("{a}--{b}", "x-y--z", None),
            ("room{id}chat", "room7chat", Some(&[("id", "7")])),
            ("room{id}chat", "room7c8chat", None),
            ("a.{x}.*", "a.1.2.3", Some(&[("x", "1")])),
            ("a.{x}.*", "a.1", None),
            ("v1.app:{x}", "v1.app:a.b", Some(&[("x", "a.b")])),
            ("日{x}", "日本", Some(&[("x", "本")])),
            (
                "laravel_database_private-App.Models.User.{id}",
                "laravel_database_private-App.Models.User.7",
                Some(&[("id", "7")]),
            ),
        ];
        for (source, channel, params) in rows {
            let class = class(source);
            let found = class.matches(channel);
            assert_eq!(found.as_deref(), *params, "{source} on {channel}");
        }
    }

    #[test]
    fn a_pattern_belongs_to_the_class_that_its_fixed_part_can_be_continued_to() {
        let rows = [
            ("room:{room}", "room:", true),
            ("room:{room}", "room:4", true),
            ("room:{room}", "roo", false),
            ("room:{room}", "room:4:x", false),
            ("room:{room}:chat", "room:4:", true),
            ("room:{room}:chat", "room:4:ch", true),
            ("room:{room}:chat", "room:4:chat", true),
            ("room:{room}:chat", "room:4:x", false),
            ("room:{room}:chat", "room::", false),
            ("chat:*", "chat:", true),
            ("chat:*", "chat:a:b", true),
            ("chat:*", "chat", false),
            ("chat:*", "", false),
            ("*", "", true),
            ("lobby", "lobby", true),
            ("lobby", "lobby2", false),
            ("{x}:y", "", true),
            ("room.{room}", "room.", true),
            ("room.{room}", "room.4", true),
            ("room.{room}", "room.4.", false),
            ("room.{a}-{b}", "room.4-", true),
            ("room.{a}-{b}", "room.4-5", true),
            ("room.{a}-{b}", "room.-", false),
        ];
        for (source, fixed, claimed) in rows {
            assert_eq!(class(source).claims_pattern(fixed), claimed, "{source} with {fixed:?}");
        }
    }

    #[test]
    fn class_names_that_cannot_mean_anything_are_refused() {
        let rows = [
            ("", TemplateError::Name(ChannelError::Empty)),
            ("a b", TemplateError::Name(ChannelError::Forbidden(' '))),
            ("a?", TemplateError::Name(ChannelError::Glob('?'))),
            ("a*b", TemplateError::StarBeforeEnd(1)),
            ("a**", TemplateError::StarBeforeEnd(1)),
            ("room:{room", TemplateError::UnpairedBrace(5)),
            ("room:}", TemplateError::UnpairedBrace(5)),
            ("{a{b}", TemplateError::UnpairedBrace(0)),
            ("{}", TemplateError::PlaceholderName(String::new())),
            ("{a b}", TemplateError::PlaceholderName("a b".into())),
            ("{a}:{a}", TemplateError::Twice("a".into())),
            ("{a}{b}", TemplateError::Endless("a".into())),
            ("{a}*", TemplateError::Endless("a".into())),
            ("{a}日", TemplateError::EndsAt("a".into(), '日')),
            ("{a}:{b}:{c}:{d}:{e}:{f}:{g}:{h}:{i}", TemplateError::TooManyPlaceholders),
        ];
        for (source, error) in rows {
            assert_eq!(ClassName::parse(source).unwrap_err(), error, "{source:?}");
        }
    }

    #[test]
    fn a_template_is_filled_or_skipped() {
        let template = Template::parse("game:{game}:team-{team}").unwrap();
        assert_eq!(template.literal_prefix(), "game:");
        assert_eq!(template.placeholders().collect::<Vec<_>>(), ["game", "team"]);
        assert_eq!(template.to_string(), "game:{game}:team-{team}");
        let values = [("game".to_owned(), "g1".to_owned()), ("team".to_owned(), "red".to_owned())];
        let lookup = |name: &str| values.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str().into());
        assert_eq!(template.fill(lookup).as_deref(), Some("game:g1:team-red"));
        assert_eq!(template.fill(|name| (name == "game").then(|| "g1".into())), None);
    }

    #[test]
    fn a_value_must_not_hold_what_ends_its_placeholder() {
        let rows = [
            ("player:{x}", "a-b.c", false),
            ("player:{x}", "a:b", true),
            ("user-{x}", "a-b.c", false),
            ("user-{x}-inbox", "a-b", true),
            ("user-{x}-inbox", "a.b_c", false),
            ("user_{x}/inbox", "a/b", true),
            ("{x}team", "a-t", true),
            ("a.{x}:b", "1.2", true),
            ("a:{x}.b", "1.2", true),
            ("a:{x}{y}", "1.2-3", false),
        ];
        for (source, value, ends) in rows {
            assert_eq!(Template::parse(source).unwrap().ends_within("x", value), ends, "{source}: {value}");
        }
    }

    #[test]
    fn a_class_splits_a_part_of_a_name_where_its_values_begin_or_end_inside() {
        let rows = [
            ("user-{id}-*", "user-alice-x", 5..12, true),
            ("user-{id}-*", "user-alice-x", 5..10, false),
            ("user-{id}", "user-alice-x", 5..12, false),
            ("user-{id}", "user-alice-inbox", 5..10, false),
            ("user-al{id}", "user-alice", 5..10, true),
            ("user-*", "user-alice", 5..10, false),
        ];
        for (source, channel, part, splits) in rows {
            let params = class(source);
            let params = params.matches(channel).unwrap();
            assert_eq!(params.splits(channel, &part), splits, "{source} on {channel}");
        }
        let mut places = Vec::new();
        let template = Template::parse("a{x}-{y}").unwrap();
        let name = template.fill_noting(|name| Some(name.repeat(2).into()), |place| places.push(place));
        assert_eq!((name.as_deref(), places), (Some("axx-yy"), vec![1..3, 4..6]));
    }

    #[test]
    fn a_template_makes_channels_not_patterns() {
        assert_eq!(Template::parse("room:*").unwrap_err(), TemplateError::Name(ChannelError::Glob('*')));
        assert_eq!(Template::parse("").unwrap_err(), TemplateError::Name(ChannelError::Empty));
    }
}
