//! Any bytes from a client, in any reads: never a panic, the same messages and the same verdict however they are cut,
//! and no more memory than about twice what arrived.
#![no_main]

use drawbridge_protocol::websocket::{Decoder, Inflater, Limits, Received, Violation};
use libfuzzer_sys::fuzz_target;

/// Small, so that short inputs reach past them.
const LIMITS: Limits = Limits { message_bytes: 64, max_message_bytes: 256, inflated_bytes: 256 };
const OVERHEAD: usize = 512;

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>)| {
    let (inflates, pieces, stream) = input;
    assert_eq!(read(inflates, &stream, &[]), read(inflates, &stream, &pieces));
});

/// All that is said, as text, and the violation at its end. Pieces of a size of 0 are the whole rest.
fn read(inflates: bool, stream: &[u8], pieces: &[u8]) -> (Vec<String>, Option<Violation>) {
    let mut decoder = if inflates { Decoder::inflating() } else { Decoder::new() };
    let (mut said, mut inflater) = (Vec::new(), Inflater::default());
    let mut sizes = pieces.iter().map(|&size| usize::from(size)).cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let size = sizes.next().filter(|&size| size > 0).unwrap_or(rest.len()).min(rest.len());
        let mut piece = rest[..size].to_vec();
        rest = &rest[size..];
        if let Err(violation) = read_piece(&mut decoder, &mut inflater, &mut piece, &mut said) {
            return (said, Some(violation));
        }
        assert!(decoder.held_bytes() <= 2 * (LIMITS.message_bytes + 125) + OVERHEAD);
        assert!(decoder.held_bytes() <= 2 * (stream.len() - rest.len()) + OVERHEAD);
    }
    (said, None)
}

fn read_piece(
    decoder: &mut Decoder,
    inflater: &mut Inflater,
    mut input: &mut [u8],
    said: &mut Vec<String>,
) -> Result<(), Violation> {
    while let Some(received) = decoder.decode(&LIMITS, inflater, &mut input)? {
        if let Received::Ping(payload) | Received::Pong(payload) = received {
            assert!(payload.len() <= 125);
        }
        said.push(format!("{received:?}"));
    }
    assert!(input.is_empty());
    Ok(())
}
