//! Cuts a source into tokens. What they mean together is left to `parse`.

use super::error::CompileError;
use super::number::Number;

/// A word, literal or sign, and the byte where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'s> {
    pub(super) at: usize,
    pub(super) kind: TokenKind<'s>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'s> {
    Name(&'s str),
    Number(Number),
    Text(String),
    Sign(&'static str),
    End,
}

/// Longer signs stand before those they begin with.
const SIGNS: [&str; 23] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")",
    "[", "]", "{",
];

/// What others write for signs of this language: theirs, ours.
const FOREIGN: [(&str, &str); 9] = [
    ("===", "write `==`"),
    ("!==", "write `!=`"),
    ("=>", "greater or equal is `>=`"),
    ("=<", "less or equal is `<=`"),
    ("<>", "write `!=`"),
    ("=", "equality is `==`"),
    ("&", "and is `&&`"),
    ("|", "or is `||`"),
    ("~", "texts are searched with `x.contains('…')`, `x.startsWith('…')` and `x.endsWith('…')`"),
];

/// A place in a source.
pub(super) struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Lexer { source, at: 0 }
    }

    /// The next token; [`TokenKind::End`] again and again behind the last.
    pub(super) fn next(&mut self) -> Result<Token<'s>, CompileError> {
        self.skip_space();
        let at = self.at;
        Ok(Token { at, kind: self.kind()? })
    }

    fn kind(&mut self) -> Result<TokenKind<'s>, CompileError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(TokenKind::End) };
        match first {
            'r' | 'R' if rest[1..].starts_with(['\'', '"']) => {
                self.at += 1;
                self.text(true)
            }
            'b' | 'B' if rest[1..].starts_with(['\'', '"']) => {
                Err(CompileError::new(self.at, "byte strings are not a part of this language")
                    .hint("leave out the `b`"))
            }
            'a'..='z' | 'A'..='Z' | '_' => Ok(TokenKind::Name(self.take_while(is_word))),
            '0'..='9' => self.number(),
            '\'' | '"' => self.text(false),
            _ => self.sign(first),
        }
    }

    fn sign(&mut self, first: char) -> Result<TokenKind<'s>, CompileError> {
        let rest = self.rest();
        let foreign = FOREIGN.iter().find(|(theirs, _)| rest.starts_with(theirs));
        let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
        match (foreign, sign) {
            (Some((theirs, _)), Some(sign)) if theirs.len() <= sign.len() => {}
            (Some((theirs, hint)), _) => {
                return Err(CompileError::new(self.at, format!("`{theirs}` is not an operator")).hint(*hint));
            }
            (None, Some(_)) => {}
            (None, None) => {
                return Err(CompileError::new(
                    self.at,
                    format!("`{}` has no meaning here", first.escape_debug()),
                ));
            }
        }
        let sign = sign.copied().unwrap_or_default();
        self.at += sign.len();
        Ok(TokenKind::Sign(sign))
    }

    fn number(&mut self) -> Result<TokenKind<'s>, CompileError> {
        let at = self.at;
        if self.rest().starts_with("0x") || self.rest().starts_with("0X") {
            self.at += 2;
            let digits = self.take_while(|byte| byte.is_ascii_hexdigit());
            let value = u64::from_str_radix(digits, 16).ok().map(Number::of_unsigned);
            return self.checked(at, value);
        }
        self.take_while(|byte| byte.is_ascii_digit());
        let whole = self.at;
        if self.rest().starts_with('.') && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) {
            self.at += 1;
            self.take_while(|byte| byte.is_ascii_digit());
        }
        self.exponent();
        let digits = &self.source[at..self.at];
        let value = if self.at == whole {
            digits.parse().ok().map(Number::of_unsigned)
        } else {
            digits.parse().ok().filter(|double: &f64| double.is_finite()).map(Number::Double)
        };
        self.checked(at, value)
    }

    fn exponent(&mut self) {
        let digits =
            self.rest().strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
        if let Some(digits) = digits
            && digits.starts_with(|c: char| c.is_ascii_digit())
        {
            self.at = self.source.len() - digits.len();
            self.take_while(|byte| byte.is_ascii_digit());
        }
    }

    fn checked(&mut self, at: usize, value: Option<Number>) -> Result<TokenKind<'s>, CompileError> {
        match self.take_while(is_word) {
            "" => {}
            "u" | "U" => {
                return Err(CompileError::new(at, "unsigned numbers are not a part of this language")
                    .hint("integers are of one kind: leave out the `u`"));
            }
            _ => {
                return Err(CompileError::new(
                    at,
                    format!("`{}` is not a number", &self.source[at..self.at]),
                ));
            }
        }
        let error = || {
            CompileError::new(at, format!("the number `{}` cannot be held", &self.source[at..self.at]))
                .hint("integers go up to 18446744073709551615, doubles to 1.7e308")
        };
        value.map(TokenKind::Number).ok_or_else(error)
    }

    fn text(&mut self, raw: bool) -> Result<TokenKind<'s>, CompileError> {
        let at = self.at;
        let quote = if self.rest().starts_with('"') { '"' } else { '\'' };
        if self.rest().starts_with("'''") || self.rest().starts_with("\"\"\"") {
            return Err(CompileError::new(at, "texts in triple quotes are not a part of this language")
                .hint("use one quote on each side and `\\n` for a new line"));
        }
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(next) = self.rest().chars().next() else {
                return Err(
                    CompileError::new(at, "this text has no end").hint(format!("close it with {quote}"))
                );
            };
            match next {
                '\n' | '\r' => {
                    return Err(CompileError::new(self.at, "a text cannot go over the end of a line")
                        .hint("write `\\n` for a new line"));
                }
                '\\' if !raw => text.push(self.escape()?),
                _ => {
                    self.at += next.len_utf8();
                    if next == quote {
                        return Ok(TokenKind::Text(text));
                    }
                    text.push(next);
                }
            }
        }
    }

    /// What is behind a backslash.
    fn escape(&mut self) -> Result<char, CompileError> {
        let at = self.at;
        let bytes = self.source.as_bytes();
        let kind = bytes.get(at + 1).copied().unwrap_or(b'\\');
        let (from, digits, radix) = match kind {
            b'x' | b'X' => (at + 2, 2, 16),
            b'u' => (at + 2, 4, 16),
            b'U' => (at + 2, 8, 16),
            b'0'..=b'3' => (at + 1, 3, 8),
            _ => {
                let plain = plain_escape(kind).ok_or_else(|| bad_escape(at))?;
                self.at += 2;
                return Ok(plain);
            }
        };
        let digits = self.source.get(from..from + digits).ok_or_else(|| bad_escape(at))?;
        if !digits.bytes().all(|byte| char::from(byte).is_digit(radix)) {
            return Err(bad_escape(at));
        }
        let code = u32::from_str_radix(digits, radix).map_err(|_| bad_escape(at))?;
        self.at = from + digits.len();
        char::from_u32(code).ok_or_else(|| bad_escape(at))
    }

    /// White space and comments, which go from `//` to the end of the line.
    fn skip_space(&mut self) {
        loop {
            self.take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c'));
            if !self.rest().starts_with("//") {
                return;
            }
            self.take_while(|byte| byte != b'\n');
        }
    }

    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'s str {
        let rest = self.rest();
        let length = rest.bytes().take_while(|byte| wanted(*byte)).count();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn plain_escape(kind: u8) -> Option<char> {
    Some(match kind {
        b'a' => '\u{7}',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'v' => '\u{b}',
        b'\\' | b'?' | b'"' | b'\'' | b'`' => char::from(kind),
        _ => return None,
    })
}

fn bad_escape(at: usize) -> CompileError {
    CompileError::new(at, "this is not an escape")
        .hint("there are \\n \\r \\t \\\\ \\' \\\" \\a \\b \\f \\v \\? \\` \\xHH \\uHHHH \\UHHHHHHHH \\OOO; a backslash itself is `\\\\`")
}
