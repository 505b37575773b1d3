//! What a channel may be called (contract §3). Whether a player may use it is the engine's business;
//! what a pattern matches is [`crate::glob`]'s.

use std::fmt;

/// The longest name of a channel or pattern, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// What is wrong with a name; the text is for the person who wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The name is empty.
    Empty,
    /// Longer than [`MAX_NAME_BYTES`]; holds the length in bytes.
    TooLong(usize),
    /// White space, a control character or a brace.
    Forbidden(char),
    /// A real channel's name cannot hold `*`, `?` or `[`.
    Glob(char),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::Empty => f.write_str("a channel name has at least one byte"),
            ChannelError::TooLong(bytes) => {
                write!(f, "a channel name has at most {MAX_NAME_BYTES} bytes, this one has {bytes}")
            }
            ChannelError::Forbidden(c) => {
                write!(
                    f,
                    "a channel name has no white space, control characters or braces; this one contains {c:?}"
                )
            }
            ChannelError::Glob(c) => {
                write!(f, "a channel's name has no `*`, `?` or `[`; this one contains `{c}`")
            }
        }
    }
}

impl std::error::Error for ChannelError {}

/// Whether a real channel may be called this: 1 to 255 bytes, no white space, control characters, braces or
/// glob characters.
///
/// ```
/// use drawbridge_protocol::channel;
/// assert!(channel::validate("room:42").is_ok());
/// assert!(channel::validate("room:*").is_err());
/// ```
pub fn validate(name: &str) -> Result<(), ChannelError> {
    validate_pattern(name)?;
    match name.chars().find(|c| is_glob_char(*c)) {
        Some(c) => Err(ChannelError::Glob(c)),
        None => Ok(()),
    }
}

/// Whether a name is a pattern: it holds `*`, `?` or `[`, escaped or not.
pub fn is_pattern(name: &str) -> bool {
    name.contains(is_glob_char)
}

/// Whether a name is of the right form for what it is, a channel's or a pattern's: `true` for a pattern.
///
/// # Errors
/// As [`validate`] and [`validate_pattern`].
pub fn validate_subject(name: &str) -> Result<bool, ChannelError> {
    let pattern = is_pattern(name);
    if pattern {
        validate_pattern(name)?
    } else {
        validate(name)?
    }
    Ok(pattern)
}

/// Whether a pattern is well formed: as [`validate`], but glob characters are welcome.
pub fn validate_pattern(name: &str) -> Result<(), ChannelError> {
    if name.is_empty() {
        return Err(ChannelError::Empty);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(ChannelError::TooLong(name.len()));
    }
    match name.chars().find(|c| is_forbidden(*c)) {
        Some(c) => Err(ChannelError::Forbidden(c)),
        None => Ok(()),
    }
}

/// What no name may hold, pattern or not.
pub(crate) fn is_forbidden(c: char) -> bool {
    matches!(c, '{' | '}') || c.is_whitespace() || c.is_control()
}

/// What makes a name a pattern.
pub(crate) fn is_glob_char(c: char) -> bool {
    matches!(c, '*' | '?' | '[')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_names_are_told_from_patterns_and_from_nonsense() {
        let long = "x".repeat(256);
        type Checked = Result<(), ChannelError>;
        let rows: &[(&str, Checked, Checked)] = &[
            ("room:42", Ok(()), Ok(())),
            ("a", Ok(()), Ok(())),
            (r"back\slash]", Ok(()), Ok(())),
            ("grün:日本", Ok(()), Ok(())),
            (&long[..255], Ok(()), Ok(())),
            ("", Err(ChannelError::Empty), Err(ChannelError::Empty)),
            (&long, Err(ChannelError::TooLong(256)), Err(ChannelError::TooLong(256))),
            ("a b", Err(ChannelError::Forbidden(' ')), Err(ChannelError::Forbidden(' '))),
            ("a\u{a0}b", Err(ChannelError::Forbidden('\u{a0}')), Err(ChannelError::Forbidden('\u{a0}'))),
            ("a\0", Err(ChannelError::Forbidden('\0')), Err(ChannelError::Forbidden('\0'))),
            ("a\u{85}", Err(ChannelError::Forbidden('\u{85}')), Err(ChannelError::Forbidden('\u{85}'))),
            ("{a}", Err(ChannelError::Forbidden('{')), Err(ChannelError::Forbidden('{'))),
            ("a}", Err(ChannelError::Forbidden('}')), Err(ChannelError::Forbidden('}'))),
            ("room:*", Err(ChannelError::Glob('*')), Ok(())),
            ("room:?", Err(ChannelError::Glob('?')), Ok(())),
            ("room:[ab", Err(ChannelError::Glob('[')), Ok(())),
        ];
        for (name, as_channel, as_pattern) in rows {
            assert_eq!(validate(name), *as_channel, "{name:?}");
            assert_eq!(validate_pattern(name), *as_pattern, "{name:?}");
        }
    }

    #[test]
    fn a_glob_character_makes_a_pattern_even_when_escaped() {
        assert!(is_pattern(r"room:\*"));
        assert!(is_pattern("?"));
        assert!(is_pattern("[a]"));
        assert!(!is_pattern(r"room:\]"));
    }
}
