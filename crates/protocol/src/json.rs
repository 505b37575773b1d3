//! JSON as text: a pull reader that checks the whole grammar (RFC 8259) and returns spans of the text instead of
//! values, and the writing of strings. It never recurses and never copies, so a payload's depth and size cost
//! nothing but the reading. What the spans mean is [`crate::codec`]'s and [`crate::event`]'s business.

mod scan;
mod walk;

use std::borrow::Cow;
use std::fmt;

pub use scan::plain_len;
use scan::{Brackets, Expected, Scanner, comma_or_end, skip_container};
pub use walk::{Elements, elements, member, members};

/// Where a text stops being JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset into the text.
    pub at: usize,
    /// What was expected there.
    pub expected: &'static str,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} at byte {}", self.expected, self.at)
    }
}

impl std::error::Error for SyntaxError {}

/// The six types of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonKind {
    /// `null`
    Null,
    /// `true`, `false`
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl JsonKind {
    fn is_container(self) -> bool {
        matches!(self, JsonKind::Array | JsonKind::Object)
    }

    /// With its article, for error messages.
    pub fn with_article(self) -> &'static str {
        match self {
            JsonKind::Null => "null",
            JsonKind::Bool => "a boolean",
            JsonKind::Number => "a number",
            JsonKind::String => "a string",
            JsonKind::Array => "an array",
            JsonKind::Object => "an object",
        }
    }
}

/// What is between two quotes, escapes and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Str<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> Str<'a> {
    /// Of the text of a string, with its quotes.
    pub fn quoted(text: &'a str) -> Self {
        let text = text.strip_prefix('"').unwrap_or(text);
        let raw = text.strip_suffix('"').unwrap_or(text);
        Str { raw, escaped: memchr::memchr(b'\\', raw.as_bytes()).is_some() }
    }

    /// Whether it means this.
    pub fn is(self, text: &str) -> bool {
        match self.escaped {
            false => self.raw == text,
            // What is written is not what is meant.
            true => self.decode() == text,
        }
    }

    /// The string that is meant; an escaped surrogate without its partner becomes U+FFFD.
    pub fn decode(self) -> Cow<'a, str> {
        self.unescape(Some('\u{FFFD}')).unwrap_or_default()
    }

    /// The string that is meant; `None` where an escaped surrogate has no partner.
    pub fn decode_strict(self) -> Option<Cow<'a, str>> {
        self.unescape(None)
    }

    fn unescape(self, replacement: Option<char>) -> Option<Cow<'a, str>> {
        if !self.escaped {
            return Some(Cow::Borrowed(self.raw));
        }
        let mut text = String::with_capacity(self.raw.len());
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            text.push_str(&rest[..at]);
            let (c, after) = unescape_one(&rest[at + 1..]);
            text.push(c.or(replacement)?);
            rest = after;
        }
        text.push_str(rest);
        Some(Cow::Owned(text))
    }
}

/// Reads one escape, from behind its backslash. The grammar has been checked before; what breaks it yields no character.
fn unescape_one(rest: &str) -> (Option<char>, &str) {
    let mut chars = rest.chars();
    let c = match chars.next() {
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('u') => return unescape_unicode(chars.as_str()),
        other => return (other, chars.as_str()),
    };
    (Some(c), chars.as_str())
}

fn unescape_unicode(rest: &str) -> (Option<char>, &str) {
    let (high, after) = hex4(rest);
    if (0xD800..0xDC00).contains(&high)
        && let Some(escape) = after.strip_prefix("\\u")
    {
        let (low, behind) = hex4(escape);
        if (0xDC00..0xE000).contains(&low) {
            return (char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)), behind);
        }
    }
    (char::from_u32(high), after)
}

fn hex4(rest: &str) -> (u32, &str) {
    let (digits, after) = rest.split_at_checked(4).unwrap_or(("", rest));
    (u32::from_str_radix(digits, 16).unwrap_or(0xD800), after)
}

/// A number of JSON as the text of a key: integers as they are written, others as JavaScript's `String` would
/// without an exponent.
pub fn decimal_text(number: &str) -> Cow<'_, str> {
    if !number.contains(['.', 'e', 'E']) {
        return number.into();
    }
    match number.parse::<f64>() {
        Ok(value) if value.is_finite() => value.to_string().into(),
        _ => number.into(),
    }
}

/// One step through a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number, as it is written.
    Number(&'a str),
    /// A string that is a value.
    String(Str<'a>),
    /// The name of an object's member; its value comes next.
    Key(Str<'a>),
    /// `[`
    BeginArray,
    /// `]`
    EndArray,
    /// `{`
    BeginObject,
    /// `}`
    EndObject,
}

/// A whole value, checked but not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Where it begins: byte offset into the whole text.
    pub at: usize,
    /// Its text, without white space around it.
    pub text: &'a str,
    /// Its type.
    pub kind: JsonKind,
    /// How deep it nests: `1` is 0, `[]` is 1.
    pub depth: usize,
}

impl<'a> Value<'a> {
    /// Checks a whole text, white space around it allowed.
    pub fn parse(text: &'a str) -> Result<Value<'a>, SyntaxError> {
        let mut reader = Reader::new(text);
        let first = reader.next()?;
        let value = reader.rest_of_value(first)?;
        reader.end()?;
        Ok(value)
    }

    /// What is between the quotes, for a string.
    pub fn as_str(&self) -> Option<Str<'a>> {
        match self.kind {
            JsonKind::String => Some(Str::quoted(self.text)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    FirstElement,
    FirstKey,
    CommaOrEnd,
    End,
}

/// Steps through a text.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    scan: Scanner<'a>,
    token_at: usize,
    open: Brackets,
    expect: Expect,
}

impl<'a> Reader<'a> {
    /// Begins at the start.
    pub fn new(text: &'a str) -> Self {
        let scan = Scanner { bytes: text.as_bytes(), at: 0 };
        Reader { text, scan, token_at: 0, open: Brackets::default(), expect: Expect::Value }
    }

    /// The next step; behind the document's last one, an error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Token<'a>, SyntaxError> {
        let token = self.step();
        self.or_error(token)
    }

    fn step(&mut self) -> Result<Token<'a>, Expected> {
        self.scan.skip_white_space();
        self.token_at = self.scan.at;
        match (self.expect, self.scan.peek()) {
            (Expect::FirstElement, Some(b']')) => Ok(self.close(Token::EndArray)),
            (Expect::FirstKey, Some(b'}')) => Ok(self.close(Token::EndObject)),
            (Expect::Value | Expect::FirstElement, _) => self.begin_value(),
            (Expect::FirstKey, _) => self.key(),
            (Expect::CommaOrEnd, _) => self.go_on(),
            (Expect::End, _) => Err(Expected("nothing more")),
        }
    }

    /// The value that begins with this step, which was just taken.
    pub fn rest_of_value(&mut self, first: Token<'a>) -> Result<Value<'a>, SyntaxError> {
        let kind = match first {
            Token::Null => JsonKind::Null,
            Token::Bool(_) => JsonKind::Bool,
            Token::Number(_) => JsonKind::Number,
            Token::String(_) | Token::Key(_) => JsonKind::String,
            Token::BeginArray | Token::EndArray => JsonKind::Array,
            Token::BeginObject | Token::EndObject => JsonKind::Object,
        };
        self.rest_of(self.token_at, kind)
    }

    fn rest_of(&mut self, at: usize, kind: JsonKind) -> Result<Value<'a>, SyntaxError> {
        let depth = if kind.is_container() { self.skip_container()? } else { 0 };
        Ok(Value { at, text: self.since(at), kind, depth })
    }

    /// The next member of the object that was entered; `None` at its end, which is taken.
    pub fn member(&mut self) -> Result<Option<(Str<'a>, Value<'a>)>, SyntaxError> {
        let Token::Key(key) = self.next()? else { return Ok(None) };
        self.scan.skip_white_space();
        let at = self.scan.at;
        let kind = self.scan.value();
        let kind = self.or_error(kind)?;
        if kind.is_container() {
            self.open.push(kind == JsonKind::Object);
        } else {
            self.after_value();
        }
        Ok(Some((key, self.rest_of(at, kind)?)))
    }

    /// What is left of the object that was entered: its members by these names, unchanged. Of duplicates the last
    /// counts; others are not looked at.
    pub fn members<const N: usize>(
        &mut self,
        names: &[&str; N],
    ) -> Result<[Option<Value<'a>>; N], SyntaxError> {
        let mut found = [None; N];
        while let Some((name, value)) = self.member()? {
            let name = name.decode();
            if let Some(at) = names.iter().position(|wanted| *wanted == name) {
                found[at] = Some(value);
            }
        }
        Ok(found)
    }

    /// Checks that the document is over.
    pub fn end(&mut self) -> Result<(), SyntaxError> {
        self.scan.skip_white_space();
        let is_over = self.expect == Expect::End && self.scan.peek().is_none();
        self.or_error(if is_over { Ok(()) } else { Err(Expected("nothing more")) })
    }

    /// Where the step that was just taken begins: byte offset into the whole text.
    pub fn token_at(&self) -> usize {
        self.token_at
    }

    /// The text from there to the end of the step that was just taken.
    pub fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.scan.at]
    }

    /// Skips what is left of the container that was just entered, and returns how deep it is.
    fn skip_container(&mut self) -> Result<usize, SyntaxError> {
        // Most of what is read is only passed over here, so it makes no tokens, and what moves is in a register.
        let mut scan = self.scan;
        let depth = skip_container(&mut scan, &mut self.open);
        self.scan = scan;
        self.after_value();
        self.or_error(depth)
    }

    fn go_on(&mut self) -> Result<Token<'a>, Expected> {
        match (self.scan.peek(), self.open.in_object()) {
            (Some(b'}'), true) => Ok(self.close(Token::EndObject)),
            (Some(b']'), false) => Ok(self.close(Token::EndArray)),
            (Some(b','), in_object) => {
                self.scan.at += 1;
                self.scan.skip_white_space();
                self.token_at = self.scan.at;
                if in_object { self.key() } else { self.begin_value() }
            }
            (_, in_object) => Err(comma_or_end(in_object)),
        }
    }

    fn key(&mut self) -> Result<Token<'a>, Expected> {
        let start = self.scan.at + 1;
        let name = self.scan.name()?;
        self.expect = Expect::Value;
        Ok(Token::Key(Str { raw: &self.text[start..name.end - 1], escaped: name.escaped }))
    }

    fn begin_value(&mut self) -> Result<Token<'a>, Expected> {
        let start = self.scan.at;
        let token = match self.scan.value()? {
            JsonKind::Object => return Ok(self.enter(Token::BeginObject, Expect::FirstKey)),
            JsonKind::Array => return Ok(self.enter(Token::BeginArray, Expect::FirstElement)),
            JsonKind::String => Token::String(Str::quoted(self.since(start))),
            JsonKind::Number => Token::Number(self.since(start)),
            JsonKind::Bool => Token::Bool(self.since(start) == "true"),
            JsonKind::Null => Token::Null,
        };
        self.after_value();
        Ok(token)
    }

    fn enter(&mut self, token: Token<'a>, expect: Expect) -> Token<'a> {
        self.open.push(expect == Expect::FirstKey);
        self.expect = expect;
        token
    }

    fn close(&mut self, token: Token<'a>) -> Token<'a> {
        self.scan.at += 1;
        self.open.pop();
        self.after_value();
        token
    }

    fn after_value(&mut self) {
        self.expect = if self.open.depth == 0 { Expect::End } else { Expect::CommaOrEnd };
    }

    fn or_error<T>(&self, passed: Result<T, Expected>) -> Result<T, SyntaxError> {
        passed.map_err(|Expected(expected)| SyntaxError { at: self.scan.at, expected })
    }
}

/// A string in quotes.
pub fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    // Escapes replace whole characters, so this never fails.
    String::from_utf8(out).unwrap_or_default()
}

/// Appends a string in quotes.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_len(rest));
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { break };
        push_escape(out, *byte);
        rest = after;
    }
    out.push(b'"');
}

/// Appends a number.
pub fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    let letter = match byte {
        0x08 => b'b',
        0x0C => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        b'"' | b'\\' => byte,
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            return;
        }
    };
    out.extend([b'\\', letter]);
}

#[cfg(test)]
mod tests;
