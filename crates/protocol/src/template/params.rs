//! What was read from a channel by its class's name.

use std::ops::{Deref, Range};

use super::MAX_PLACEHOLDERS;

/// What the placeholders of a [`ClassName`](super::ClassName) took from a channel: (name, value), in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params<'n, 'c> {
    pairs: [(&'n str, &'c str); MAX_PLACEHOLDERS],
    len: usize,
}

impl<'n, 'c> Params<'n, 'c> {
    /// The value that a placeholder took.
    pub fn get(&self, name: &str) -> Option<&'c str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    /// Whether a value begins or ends strictly inside this part of the channel that it was taken from.
    pub fn splits(&self, channel: &str, part: &Range<usize>) -> bool {
        let is_inside = |at: usize| part.start < at && at < part.end;
        self.iter().any(|(_, value)| {
            let start = (value.as_ptr() as usize).wrapping_sub(channel.as_ptr() as usize);
            is_inside(start) || is_inside(start.wrapping_add(value.len()))
        })
    }

    pub(super) fn push(&mut self, name: &'n str, value: &'c str) {
        self.pairs[self.len] = (name, value);
        self.len += 1;
    }
}

impl<'n, 'c> Deref for Params<'n, 'c> {
    type Target = [(&'n str, &'c str)];

    fn deref(&self) -> &Self::Target {
        &self.pairs[..self.len]
    }
}
