//! Whatever a Redis (or what poses as one) sends: the decoder never panics, always moves on or says how much more it
//! needs, and reads the same things however the bytes are cut.
#![no_main]

use drawbridge::broker::redis::resp::{Decoder, Garbage, Step};
use libfuzzer_sys::fuzz_target;

const MAX_PAYLOAD: usize = 100;

/// All that is read, as text, up to the end or the first garbage.
fn read(bytes: &[u8], piece: usize) -> (Vec<String>, Option<Garbage>) {
    let mut decoder = Decoder::new(MAX_PAYLOAD);
    let mut held = Vec::new();
    let mut found = Vec::new();
    for chunk in bytes.chunks(piece) {
        held.extend_from_slice(chunk);
        loop {
            let taken = match decoder.step(&held) {
                Err(garbage) => return (found, Some(garbage)),
                Ok(Step::More(needed)) => {
                    assert!(needed > held.len());
                    break;
                }
                Ok(Step::Skip(taken)) => taken,
                Ok(Step::Reply(reply, taken)) => {
                    found.push(format!("{reply:?}"));
                    taken
                }
            };
            assert!(taken > 0 && taken <= held.len());
            held.drain(..taken);
        }
    }
    (found, None)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, bytes)) = bytes.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    let pieces = read(bytes, usize::from(piece).max(1));
    assert_eq!(whole.1.is_some(), pieces.1.is_some());
    if whole.1.is_none() {
        assert_eq!(whole.0, pieces.0);
    }
});
