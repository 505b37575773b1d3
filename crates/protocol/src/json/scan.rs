//! Passing over the bytes of a JSON text: what a string, a number, a word or a whole container is, and where it ends. Nothing
//! is made of what is passed over: that is [`super::Reader`]'s business, and [`super::walk`]'s.

use super::JsonKind;

/// A place in a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanner<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

/// Where a member's name ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    /// Behind its closing quote.
    pub(super) end: usize,
    /// Something in it is escaped.
    pub(super) escaped: bool,
}

/// What was expected where the scanner has stopped. Small, so that what is passed over stays in registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected(pub(super) &'static str);

type Passed<T> = Result<T, Expected>;

impl Scanner<'_> {
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(super) fn skip_white_space(&mut self) {
        // Mostly there is none.
        while self.peek().is_some_and(|byte| byte <= b' ' && matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// A scalar, or the bracket that opens a container.
    #[inline]
    pub(super) fn value(&mut self) -> Passed<JsonKind> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| JsonKind::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| JsonKind::Number),
            Some(bracket @ (b'{' | b'[')) => {
                self.at += 1;
                Ok(if bracket == b'{' { JsonKind::Object } else { JsonKind::Array })
            }
            Some(b'n') => self.word("null").map(|()| JsonKind::Null),
            Some(b't') => self.word("true").map(|()| JsonKind::Bool),
            Some(b'f') => self.word("false").map(|()| JsonKind::Bool),
            _ => Err(Expected("a value")),
        }
    }

    /// A member's name and the colon behind it.
    #[inline]
    pub(super) fn name(&mut self) -> Passed<Name> {
        if self.peek() != Some(b'"') {
            return Err(Expected("a field's name in double quotes"));
        }
        let escaped = self.string()?;
        let end = self.at;
        self.skip_white_space();
        if self.peek() != Some(b':') {
            return Err(Expected("`:`"));
        }
        self.at += 1;
        Ok(Name { end, escaped })
    }

    /// A string, from its opening quote on; returns whether something in it is escaped.
    #[inline]
    pub(super) fn string(&mut self) -> Passed<bool> {
        self.at += 1;
        self.at += plain_len(self.bytes.get(self.at..).unwrap_or_default());
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(false);
        }
        self.rest_of_string().map(|()| true)
    }

    fn rest_of_string(&mut self) -> Passed<()> {
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(Expected("an escape instead of a control character")),
                None => return Err(Expected("the string's closing quote")),
            }
            self.at += plain_len(self.bytes.get(self.at..).unwrap_or_default());
        }
        self.at += 1;
        Ok(())
    }

    fn escape(&mut self) -> Passed<()> {
        self.at += match self.bytes.get(self.at + 1..).unwrap_or_default() {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', digits @ ..] if digits.len() >= 4 && digits[..4].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return Err(Expected("an escape of JSON")),
        };
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Passed<()> {
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
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Passed<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Expected("a digit")) }
    }

    fn word(&mut self, word: &'static str) -> Passed<()> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            return Err(Expected("a value"));
        }
        self.at += word.len();
        Ok(())
    }
}

/// Passes over what is left of the container that was entered last; returns how deep it is.
pub(super) fn skip_container(scan: &mut Scanner<'_>, open: &mut Brackets) -> Result<usize, Expected> {
    let outside = open.depth.saturating_sub(1);
    let mut deepest = open.depth;
    let mut is_first = true;
    while open.depth > outside {
        scan.skip_white_space();
        let in_object = open.in_object();
        match scan.peek() {
            Some(end @ (b'}' | b']')) if (end == b'}') == in_object => {
                scan.at += 1;
                open.pop();
                is_first = false;
                continue;
            }
            _ if is_first => {}
            Some(b',') => {
                scan.at += 1;
                scan.skip_white_space();
            }
            _ => return Err(comma_or_end(in_object)),
        }
        if in_object {
            scan.name()?;
            scan.skip_white_space();
        }
        let kind = scan.value()?;
        is_first = kind.is_container();
        if is_first {
            open.push(kind == JsonKind::Object);
            deepest = deepest.max(open.depth);
        }
    }
    Ok(deepest - outside)
}

pub(super) fn comma_or_end(in_object: bool) -> Expected {
    Expected(if in_object { "`,` or `}`" } else { "`,` or `]`" })
}

/// The brackets that are open, a bit each: set for an object. Only depths over 64 allocate.
#[derive(Debug, Default)]
pub(super) struct Brackets {
    pub(super) depth: usize,
    top: u64,
    below: Vec<u64>,
}

impl Brackets {
    pub(super) fn push(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.below.push(self.top);
        }
        self.top = self.top << 1 | u64::from(object);
        self.depth += 1;
    }

    pub(super) fn pop(&mut self) {
        self.depth -= 1;
        self.top >>= 1;
        if self.depth.is_multiple_of(64) {
            self.top = self.below.pop().unwrap_or(0);
        }
    }

    pub(super) fn in_object(&self) -> bool {
        self.top & 1 == 1
    }
}

/// How many bytes from the beginning stand in a string as they are: up to a quote, a backslash or a control character.
/// Many at a time: most of what is read and written are strings.
#[inline]
pub fn plain_len(text: &[u8]) -> usize {
    // Most of them are short.
    match text.first_chunk().map(|word| special_bytes(u64::from_le_bytes(*word))) {
        Some(0) => 8 + plain_len_of_more(&text[8..]),
        Some(special) => special.trailing_zeros() as usize / 8,
        None => text.iter().take_while(|byte| is_plain(**byte)).count(),
    }
}

fn plain_len_of_more(text: &[u8]) -> usize {
    // By blocks, which the compiler makes into a few instructions each.
    let (blocks, _) = text.as_chunks::<32>();
    let is_plain_block = |block: &&[u8; 32]| block.iter().fold(true, |all, byte| all & is_plain(*byte));
    let mut at = 32 * blocks.iter().take_while(is_plain_block).count();
    let (words, rest) = text.as_chunks();
    for word in words.iter().skip(at / 8) {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + rest.iter().take_while(|byte| is_plain(**byte)).count()
}

fn is_plain(byte: u8) -> bool {
    (byte >= 0x20) & (byte != b'"') & (byte != b'\\')
}

/// Sets the highest bit of the first byte that is a quote, a backslash or a control character; of those behind it
/// also where they are none, because what is subtracted is carried upwards.
fn special_bytes(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & (EACH << 7)
}
