//! JSON as text: a pull reader that checks the whole grammar (RFC 8259) and gives spans of the text instead of
//! values, and the writing of strings. It never recurses and never copies, so a payload's depth and size cost
//! nothing but the reading. What the spans mean is [`crate::codec`]'s and [`crate::event`]'s business.

use std::borrow::Cow;
use std::fmt;

/// Where a text stops being JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset into the text.
    pub at: usize,
    /// What should stand there.
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
pub enum Kind {
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

impl Kind {
    /// With its article, for error messages.
    pub fn with_article(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Number => "a number",
            Kind::String => "a string",
            Kind::Array => "an array",
            Kind::Object => "an object",
        }
    }
}

/// What stands between two quotes, escapes and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Str<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> Str<'a> {
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

/// Reads one escape, from behind its backslash. The grammar has been checked before.
fn unescape_one(rest: &str) -> (Option<char>, &str) {
    let (letter, after) = rest.split_at(1);
    let c = match letter {
        "b" => '\u{8}',
        "f" => '\u{c}',
        "n" => '\n',
        "r" => '\r',
        "t" => '\t',
        "u" => return unescape_unicode(after),
        other => return (other.chars().next(), after),
    };
    (Some(c), after)
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
    let (digits, after) = rest.split_at(4);
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
    pub kind: Kind,
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

    /// What stands between the quotes, for a string.
    pub fn as_str(&self) -> Option<Str<'a>> {
        match self.kind {
            Kind::String => {
                let raw = &self.text[1..self.text.len() - 1];
                Some(Str { raw, escaped: raw.contains('\\') })
            }
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
    at: usize,
    token_at: usize,
    open: Brackets,
    expect: Expect,
}

impl<'a> Reader<'a> {
    /// Begins at the start.
    pub fn new(text: &'a str) -> Self {
        Reader { text, at: 0, token_at: 0, open: Brackets::default(), expect: Expect::Value }
    }

    /// The next step; behind the document's last one, an error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Token<'a>, SyntaxError> {
        self.skip_white_space();
        self.token_at = self.at;
        match self.expect {
            Expect::Value => self.begin_value(),
            Expect::FirstElement if self.peek() == Some(b']') => Ok(self.close(Token::EndArray)),
            Expect::FirstElement => self.begin_value(),
            Expect::FirstKey if self.peek() == Some(b'}') => Ok(self.close(Token::EndObject)),
            Expect::FirstKey => self.key(),
            Expect::CommaOrEnd => self.go_on(),
            Expect::End => self.expected("nothing more"),
        }
    }

    /// The value that begins with this step, which was just taken.
    pub fn rest_of_value(&mut self, first: Token<'a>) -> Result<Value<'a>, SyntaxError> {
        let start = self.token_at;
        let (kind, depth) = match first {
            Token::Null => (Kind::Null, 0),
            Token::Bool(_) => (Kind::Bool, 0),
            Token::Number(_) => (Kind::Number, 0),
            Token::String(_) | Token::Key(_) => (Kind::String, 0),
            Token::BeginArray | Token::EndArray => (Kind::Array, self.skip_container()?),
            Token::BeginObject | Token::EndObject => (Kind::Object, self.skip_container()?),
        };
        Ok(Value { at: start, text: self.since(start), kind, depth })
    }

    /// The whole value that comes next.
    pub fn value(&mut self) -> Result<Value<'a>, SyntaxError> {
        let first = self.next()?;
        self.rest_of_value(first)
    }

    /// The next member of the object that was entered; `None` at its end, which is taken.
    pub fn member(&mut self) -> Result<Option<(Str<'a>, Value<'a>)>, SyntaxError> {
        match self.next()? {
            Token::Key(key) => Ok(Some((key, self.value()?))),
            _ => Ok(None),
        }
    }

    /// What is left of the object that was entered: its members by these names, as they stand there. Of duplicates the last
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
        self.skip_white_space();
        if self.expect == Expect::End && self.at == self.text.len() {
            return Ok(());
        }
        self.expected("nothing more")
    }

    /// Where the step that was just taken begins: byte offset into the whole text.
    pub fn token_at(&self) -> usize {
        self.token_at
    }

    /// The text from there to the end of the step that was just taken.
    pub fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// Skips what is left of the container that was just entered, and says how deep it is.
    fn skip_container(&mut self) -> Result<usize, SyntaxError> {
        let outside = self.open.depth - 1;
        let mut deepest = self.open.depth;
        while self.open.depth > outside {
            self.next()?;
            deepest = deepest.max(self.open.depth);
        }
        Ok(deepest - outside)
    }

    fn go_on(&mut self) -> Result<Token<'a>, SyntaxError> {
        match (self.peek(), self.open.in_object()) {
            (Some(b'}'), true) => Ok(self.close(Token::EndObject)),
            (Some(b']'), false) => Ok(self.close(Token::EndArray)),
            (Some(b','), in_object) => {
                self.at += 1;
                self.skip_white_space();
                self.token_at = self.at;
                if in_object { self.key() } else { self.begin_value() }
            }
            (_, true) => self.expected("`,` or `}`"),
            (_, false) => self.expected("`,` or `]`"),
        }
    }

    fn key(&mut self) -> Result<Token<'a>, SyntaxError> {
        if self.peek() != Some(b'"') {
            return self.expected("a field's name in double quotes");
        }
        let key = self.string()?;
        self.skip_white_space();
        if self.peek() != Some(b':') {
            return self.expected("`:`");
        }
        self.at += 1;
        self.expect = Expect::Value;
        Ok(Token::Key(key))
    }

    fn begin_value(&mut self) -> Result<Token<'a>, SyntaxError> {
        let token = match self.peek() {
            Some(b'{') => return Ok(self.enter(true)),
            Some(b'[') => return Ok(self.enter(false)),
            Some(b'"') => Token::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Token::Number(self.number()?),
            Some(b'n') => self.word("null", Token::Null)?,
            Some(b't') => self.word("true", Token::Bool(true))?,
            Some(b'f') => self.word("false", Token::Bool(false))?,
            _ => return self.expected("a value"),
        };
        self.after_value();
        Ok(token)
    }

    fn enter(&mut self, object: bool) -> Token<'a> {
        self.at += 1;
        self.open.push(object);
        self.expect = if object { Expect::FirstKey } else { Expect::FirstElement };
        if object { Token::BeginObject } else { Token::BeginArray }
    }

    fn close(&mut self, token: Token<'a>) -> Token<'a> {
        self.at += 1;
        self.open.pop();
        self.after_value();
        token
    }

    fn after_value(&mut self) {
        self.expect = if self.open.depth == 0 { Expect::End } else { Expect::CommaOrEnd };
    }

    fn word(&mut self, word: &'static str, token: Token<'a>) -> Result<Token<'a>, SyntaxError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.expected("a value");
        }
        self.at += word.len();
        Ok(token)
    }

    fn number(&mut self) -> Result<&'a str, SyntaxError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let digits = self.text.as_bytes()[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return self.expected("a digit");
        }
        self.at += digits;
        Ok(())
    }

    fn string(&mut self) -> Result<Str<'a>, SyntaxError> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_len(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(_) => return self.expected("an escape instead of a control character"),
                None => return self.expected("the string's closing quote"),
            }
            escaped = true;
        }
        let raw = &self.text[start..self.at];
        self.at += 1;
        Ok(Str { raw, escaped })
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        let rest = &self.text.as_bytes()[self.at + 1..];
        self.at += match rest {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', digits @ ..] if digits.len() >= 4 && digits[..4].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return self.expected("an escape of JSON"),
        };
        Ok(())
    }

    fn skip_white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError { at: self.at, expected })
    }
}

/// The brackets that are open, a bit each: set for an object. Only depths over 64 allocate.
#[derive(Debug, Default)]
struct Brackets {
    depth: usize,
    top: u64,
    below: Vec<u64>,
}

impl Brackets {
    fn push(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.below.push(self.top);
        }
        self.top = self.top << 1 | u64::from(object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.top >>= 1;
        if self.depth.is_multiple_of(64) {
            self.top = self.below.pop().unwrap_or(0);
        }
    }

    fn in_object(&self) -> bool {
        self.top & 1 == 1
    }
}

/// How many bytes from the beginning stand in a string as they are: up to a quote, a backslash or a control character.
/// Eight at a time: most of what is read and written are strings.
pub fn plain_len(text: &[u8]) -> usize {
    let (words, rest) = text.as_chunks();
    for (at, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)).count()
}

/// Sets the highest bit of the first byte that is a quote, a backslash or a control character; of those behind it
/// also where they are none, because what is subtracted is carried upwards.
fn special_bytes(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & (EACH << 7)
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
