//! A client's side for tests: writes frames bit by bit, well formed or not, and reads a stream through the decoder in
//! pieces, as a server does whose one read buffer is overwritten by every read.

use drawbridge_protocol::websocket::{Decoder, Inflater, Limits, OpCode, Received, Violation};

pub(crate) const ROOMY: Limits =
    Limits { message_bytes: 1 << 20, max_message_bytes: 1 << 20, inflated_bytes: 1 << 20 };

/// A final, masked frame.
pub(crate) fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    Frame { opcode: opcode as u8, payload, ..Frame::default() }.to_bytes()
}

/// A masked frame that another follows.
pub(crate) fn fragment(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    Frame { fin: false, opcode: opcode as u8, payload, ..Frame::default() }.to_bytes()
}

/// The front of a frame that announces `payload_bytes`, in the shortest way.
pub(crate) fn announce(fin: bool, opcode: OpCode, payload_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![if fin { 0x80 } else { 0 } | opcode as u8];
    match payload_bytes {
        0..=125 => bytes.push(0x80 | payload_bytes as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&payload_bytes.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// All that a frame can say.
#[derive(Clone, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) fin: bool,
    pub(crate) opcode: u8,
    pub(crate) key: [u8; 4],
    pub(crate) payload: &'a [u8],
}

impl Default for Frame<'_> {
    fn default() -> Self {
        Frame { fin: true, opcode: 1, key: [0x37, 0xFA, 0x21, 0x3D], payload: b"" }
    }
}

impl Frame<'_> {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = announce(self.fin, OpCode::Text, self.payload.len() as u64);
        bytes[0] = bytes[0] & 0xF0 | self.opcode;
        bytes.truncate(bytes.len() - 4);
        bytes.extend_from_slice(&self.key);
        bytes.extend(self.payload.iter().zip(self.key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }
}

/// [`Received`], kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Text(String),
    Binary(Vec<u8>),
    Oversized(u64),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Received<'_>> for Event {
    fn from(received: Received<'_>) -> Self {
        match received {
            Received::Text(text) => Event::Text(text.to_owned()),
            Received::Binary(bytes) => Event::Binary(bytes.to_vec()),
            Received::Oversized { bytes } => Event::Oversized(bytes),
            Received::Ping(payload) => Event::Ping(payload.to_vec()),
            Received::Pong(payload) => Event::Pong(payload.to_vec()),
            Received::Close { code, reason } => Event::Close(code, reason.to_owned()),
        }
    }
}

/// What came of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<Event>,
    pub(crate) violation: Option<Violation>,
    /// Heap that the decoder holds in the end.
    pub(crate) held_bytes: usize,
}

/// Reads `stream` in pieces of the given sizes, over and over. Checks on the way that what the decoder holds is bounded
/// by what arrived.
pub(crate) fn read_in_pieces(limits: &Limits, stream: &[u8], pieces: &[usize]) -> Outcome {
    let mut decoder = Decoder::new();
    let mut outcome = Outcome { events: Vec::new(), violation: None, held_bytes: 0 };
    let mut read_buffer = Vec::new();
    let mut sizes = pieces.iter().copied().cycle();
    let mut rest = stream;
    while !rest.is_empty() && outcome.violation.is_none() {
        let size = sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        read_buffer.clear();
        read_buffer.extend_from_slice(piece);
        outcome.violation = read_piece(&mut decoder, limits, &mut read_buffer, &mut outcome.events).err();
        let arrived = stream.len() - rest.len();
        let bound = 2 * arrived.min(limits.message_bytes + 125) + 512;
        assert!(decoder.held_bytes() <= bound, "{} held for {arrived}", decoder.held_bytes());
    }
    outcome.held_bytes = decoder.held_bytes();
    outcome
}

fn read_piece(
    decoder: &mut Decoder,
    limits: &Limits,
    mut input: &mut [u8],
    events: &mut Vec<Event>,
) -> Result<(), Violation> {
    while let Some(received) = decoder.decode(limits, &mut Inflater::default(), &mut input)? {
        events.push(received.into());
    }
    assert!(input.is_empty(), "all input is taken in");
    Ok(())
}

/// Reads `stream` whole, byte by byte, and in pieces of three, which must come to the same.
pub(crate) fn read(limits: &Limits, stream: &[u8]) -> Outcome {
    let whole = read_in_pieces(limits, stream, &[]);
    for size in [1, 3] {
        let pieces = read_in_pieces(limits, stream, &[size]);
        assert_eq!(
            (&whole.events, whole.violation),
            (&pieces.events, pieces.violation),
            "in pieces of {size}"
        );
    }
    whole
}
