//! What is wrong with a configuration, where it is, and what would be right. No error ever holds a secret's
//! value: the sections quote only what cannot be one.

use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the file, both counted from 1; columns in characters.
    File {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// In an environment variable, or a command-line option.
    Named(String),
    /// The file as a whole.
    Whole,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub location: Location,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub hint: Option<String>,
    /// Its byte in the file, for the order of the report.
    pub(super) offset: usize,
}

/// Every problem of a configuration, in the order of the file; those of the environment come last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file's name as it was given.
    pub file: String,
    /// Whether the file could not even be read.
    pub unreadable: bool,
    /// At least one.
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    pub(super) fn unreadable(file: &str, problem: String, hint: Option<String>) -> Self {
        let error = ConfigError { location: Location::Whole, problem, hint, offset: 0 };
        ConfigErrors { file: file.to_owned(), unreadable: true, errors: vec![error] }
    }

    /// One problem of a configuration as a whole.
    pub(crate) fn refused(file: &str, problem: &str) -> Self {
        ConfigErrors { unreadable: false, ..ConfigErrors::unreadable(file, problem.to_owned(), None) }
    }

    pub(super) fn new(file: &str, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.offset);
        ConfigErrors { file: file.to_owned(), unreadable: false, errors }
    }

    /// Replaces the text `old` by `new`, if there is one.
    pub(super) fn renamed(mut self, old: &str, new: Option<&str>) -> Self {
        for error in &mut self.errors {
            match (&mut error.location, new) {
                (Location::Named(name), Some(new)) if name == old => new.clone_into(name),
                _ => {}
            }
        }
        self
    }
}

impl fmt::Display for ConfigErrors {
    /// One problem a paragraph: `file:line:column: problem; hint`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.errors.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            match &error.location {
                Location::File { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
                Location::Named(name) => write!(f, "{name}: ")?,
                Location::Whole => write!(f, "{}: ", self.file)?,
            }
            f.write_str(&error.problem)?;
            if let Some(hint) = &error.hint {
                write!(f, "; {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
