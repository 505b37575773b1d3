//! What is read from a client after the close was decided: only the headers of frames, to find the client's close frame.
//! Payloads are skipped: nothing is unmasked, inflated, checked or kept. How many bytes and how long that may go on is
//! the server's business.

use super::OpCode;
use super::header::{self, MAX_CLIENT_HEADER_BYTES};

/// The place in a client's stream whose frames are skipped; owns no heap. [`super::Decoder::drain`] begins one.
#[derive(Debug, Default)]
pub struct Drain {
    /// The front of a header.
    header: [u8; MAX_CLIENT_HEADER_BYTES],
    header_bytes: u8,
    /// The frame whose payload is being skipped is a close frame.
    is_close: bool,
    /// Where frames begin is not known: none is recognised any more.
    is_lost: bool,
    /// What is left of the payload that is being skipped.
    remaining: u64,
}

/// Whether the client's close frame was among what was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Not yet.
    Open,
    /// It was; nothing that follows is of interest.
    Closed,
}

impl Drain {
    /// For a stream in which the beginning of frames cannot be found.
    pub(super) fn lost() -> Self {
        Drain { is_lost: true, ..Self::default() }
    }

    /// In a frame of which so much is left, which may be a close frame, or behind the front of a header.
    pub(super) fn at((remaining, is_close, front): (u64, bool, &[u8])) -> Self {
        let mut drain = Drain { remaining, is_close, ..Self::default() };
        for (to, from) in drain.header.iter_mut().zip(front) {
            *to = *from;
            drain.header_bytes += 1;
        }
        drain
    }

    /// Skips `input`, up to the end of a close frame. What is no frame is skipped too, and then no close frame is found.
    pub fn skip(&mut self, mut input: &[u8]) -> Drained {
        while !self.is_lost {
            let skipped = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
            self.remaining -= skipped as u64;
            input = input.get(skipped..).unwrap_or_default();
            if self.remaining > 0 {
                return Drained::Open;
            }
            if self.is_close {
                return Drained::Closed;
            }
            if !self.take_header(&mut input) {
                return Drained::Open;
            }
        }
        Drained::Open
    }

    /// Takes a header from the front of `input`; returns whether it is complete.
    fn take_header(&mut self, input: &mut &[u8]) -> bool {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            let held = usize::from(self.header_bytes);
            let Some(to) = self.header.get_mut(held) else { break };
            *to = *byte;
            self.header_bytes += 1;
            // Whether compression was agreed on makes no difference any more.
            match header::parse(self.header.get(..=held).unwrap_or_default(), true) {
                Ok(None) => {}
                Ok(Some((header, _))) => {
                    self.header_bytes = 0;
                    self.remaining = header.payload_bytes;
                    self.is_close = header.opcode == OpCode::Close;
                    return true;
                }
                Err(_) => {
                    self.is_lost = true;
                    return true;
                }
            }
        }
        false
    }
}
