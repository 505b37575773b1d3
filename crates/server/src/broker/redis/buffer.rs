//! The read buffer of a link: grows to the message it holds, shrinks back when that is read. It owns where bytes
//! begin and end, and nothing of what they mean.

/// What a link reads at once, and what its buffer keeps.
pub(super) const CHUNK: usize = 64 * 1024;

/// Bytes that were read and not yet understood.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    pub(super) fn new() -> Self {
        ReadBuffer { bytes: vec![0; CHUNK], start: 0, end: 0 }
    }

    /// What is there.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Drops from the front.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Makes room so that what is there can grow to `whole` bytes; never empty.
    pub(super) fn space(&mut self, whole: usize) -> &mut [u8] {
        let filled = self.end - self.start;
        let whole = whole.max(filled + 1);
        if self.start > 0
            && (self.start + whole > self.bytes.len() || self.bytes.len() - self.end < CHUNK / 8)
        {
            self.bytes.copy_within(self.start..self.end, 0);
            self.start = 0;
            self.end = filled;
        }
        if self.bytes.len() > CHUNK && filled == 0 {
            self.bytes.truncate(CHUNK);
            self.bytes.shrink_to_fit();
        }
        if whole > self.bytes.len() - self.start {
            self.bytes.resize(self.start + whole, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were written into [`ReadBuffer::space`].
    pub(super) fn filled_by(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_a_message_larger_than_a_chunk_and_shrinks_when_it_is_read() {
        let mut buffer = ReadBuffer::new();
        let whole = 3 * CHUNK;
        let mut written = 0;
        while written < whole {
            let space = buffer.space(whole);
            let take = space.len().min(1000).min(whole - written);
            for (offset, byte) in space[..take].iter_mut().enumerate() {
                *byte = ((written + offset) % 251) as u8;
            }
            buffer.filled_by(take);
            written += take;
        }
        assert_eq!(buffer.filled().len(), whole);
        assert!(buffer.filled().iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
        buffer.consume(whole);
        assert_eq!(buffer.space(1).len(), CHUNK);
    }

    #[test]
    fn keeps_what_is_unread_when_it_makes_room() {
        let mut buffer = ReadBuffer::new();
        let space = buffer.space(1);
        let len = space.len();
        space.fill(7);
        space[len - 3..].copy_from_slice(b"abc");
        buffer.filled_by(len);
        buffer.consume(len - 3);
        assert!(buffer.space(4).len() >= CHUNK / 8);
        assert_eq!(buffer.filled(), b"abc");
    }
}
