//! What can be subscribed to: a channel or a pattern, by its name.

use std::sync::Arc;

use drawbridge_protocol::channel::{self, is_pattern};

/// A channel or a pattern, as Redis knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: SubjectKind,
}

/// What a subject is. Whether a channel is sharded follows from its class ([`crate::class::ShardedChannels`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SubjectKind {
    /// An exact channel (`SUBSCRIBE`; `SSUBSCRIBE` if it is sharded).
    Channel,
    /// A pattern of channels (`PSUBSCRIBE`).
    Pattern,
}

impl Subject {
    /// An exact channel.
    pub fn channel(name: impl Into<Arc<str>>) -> Self {
        Subject { name: name.into(), kind: SubjectKind::Channel }
    }

    /// A pattern.
    pub fn pattern(name: impl Into<Arc<str>>) -> Self {
        Subject { name: name.into(), kind: SubjectKind::Pattern }
    }

    /// A channel or a pattern, as its name says.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        let kind = if is_pattern(&name) { SubjectKind::Pattern } else { SubjectKind::Channel };
        Subject { name, kind }
    }

    /// A well-formed name as a subject.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let is_pattern = channel::validate_subject(name).map_err(|error| format!("channel: {error}"))?;
        Ok(if is_pattern { Subject::pattern(name) } else { Subject::channel(name) })
    }

    /// Whether it is a pattern.
    pub fn is_pattern(&self) -> bool {
        self.kind == SubjectKind::Pattern
    }
}

/// Looks a [`Subject`] up without owning its name.
#[derive(Hash)]
pub(crate) struct SubjectRef<'a> {
    name: &'a str,
    kind: SubjectKind,
}

impl<'a> SubjectRef<'a> {
    /// An exact channel.
    pub(crate) fn channel(name: &'a str) -> Self {
        SubjectRef { name, kind: SubjectKind::Channel }
    }
}

impl hashbrown::Equivalent<Subject> for SubjectRef<'_> {
    fn equivalent(&self, key: &Subject) -> bool {
        self.kind == key.kind && self.name == &*key.name
    }
}
