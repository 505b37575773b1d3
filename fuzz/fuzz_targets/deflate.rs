//! Any texts, compressed as pieces or stored, in any order, by one compressor: a client inflates them to what they were.
#![no_main]

use drawbridge_protocol::websocket::{
    Compressor, Decoder, Inflater, Limits, OpCode, Received, Window, frame_of_pieces, stored,
};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { message_bytes: 1 << 20, max_message_bytes: 1 << 20, inflated_bytes: 1 << 20 };

fuzz_target!(|batches: Vec<(bool, Vec<(bool, Vec<u8>)>)>| {
    let (mut compressor, mut inflater) = (Compressor::default(), Inflater::default());
    for (wide, texts) in batches {
        let window = if wide { Window::W15 } else { Window::W9 };
        let mut piece = |(plain, text): &(bool, Vec<u8>)| match compressor.piece(text, window) {
            Some(piece) if !plain => piece,
            _ => stored(text),
        };
        let pieces: Vec<_> = texts.iter().map(&mut piece).collect();
        let whole: Vec<u8> = texts.into_iter().flat_map(|(_, text)| text).collect();
        if whole.len() <= LIMITS.message_bytes {
            let mut frame = masked(&frame_of_pieces(OpCode::Binary, &pieces));
            let mut decoder = Decoder::inflating();
            let received = decoder.decode(&LIMITS, &mut inflater, &mut &mut frame[..]);
            assert_eq!(received, Ok(Some(Received::Binary(&whole))));
        }
    }
});

/// As from a client, with a key that changes nothing.
fn masked(frame: &[u8]) -> Vec<u8> {
    let length = match frame[1] {
        0..=125 => 2,
        126 => 4,
        _ => 10,
    };
    let mut masked = frame[..length].to_vec();
    masked[1] |= 0x80;
    masked.extend_from_slice(&[0; 4]);
    masked.extend_from_slice(&frame[length..]);
    masked
}
