//! Why a text is not an expression: where, what, and what to write instead.

use std::fmt;

/// The source is not an expression that may be used in this place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Byte offset into the source, at most its length; always on a character boundary.
    pub position: usize,
    /// What is wrong, without the position.
    pub message: String,
    /// What to write instead, where something can be guessed.
    pub hint: Option<String>,
}

impl CompileError {
    pub(super) fn new(position: usize, message: impl Into<String>) -> Self {
        CompileError { position, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.message, self.position)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CompileError {}
