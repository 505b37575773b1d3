//! What a key is that names an entity, and why it is no good one. Where an event has its key is up to its class
//! ([`crate::class`]).

use std::borrow::Cow;
use std::fmt;

use crate::path::{self, NotAKey};

/// The longest key of an entity, in bytes.
pub const MAX_KEY_BYTES: usize = 255;

/// The key of an event, if it has one.
pub type FoundKey<'e> = Result<Option<Cow<'e, str>>, KeyError>;

/// Why an event has no good key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Neither a string nor a number.
    NotAKey,
    /// An empty string.
    Empty,
    /// Over [`MAX_KEY_BYTES`].
    TooLong,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::NotAKey => f.write_str("must be a string or a number: it names the entity"),
            KeyError::Empty => f.write_str("is empty: it names the entity"),
            KeyError::TooLong => write!(f, "has more than {MAX_KEY_BYTES} bytes: it names the entity"),
        }
    }
}

impl std::error::Error for KeyError {}

/// The key of an event: what is at its class's path, or else what the event itself names.
pub(crate) fn key_from<'e>(found: Option<&'e str>, own: Option<Cow<'e, str>>) -> FoundKey<'e> {
    let found = found.map_or(Ok(None), path::key).map_err(|NotAKey| KeyError::NotAKey)?;
    match found.or(own) {
        Some(key) if key.is_empty() => Err(KeyError::Empty),
        Some(key) if key.len() > MAX_KEY_BYTES => Err(KeyError::TooLong),
        key => Ok(key),
    }
}
