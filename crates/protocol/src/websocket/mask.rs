//! The masking of client frames (RFC 6455 §5.3): XOR with a key of four bytes, its own inverse.

/// Applies `key` to `payload`, whose first byte meets the key's first. Eight bytes a step, which compilers widen further.
pub(super) fn apply(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition_at_every_length_and_alignment() {
        let key = [0x37, 0xFA, 0x21, 0x3D];
        let original: Vec<u8> = (0..80).collect();
        for start in 0..9 {
            for end in start..original.len() {
                let mut masked = original.clone();
                apply(&mut masked[start..end], key);
                for (i, &byte) in masked.iter().enumerate() {
                    let inside = (start..end).contains(&i);
                    let expected = if inside { original[i] ^ key[(i - start) % 4] } else { original[i] };
                    assert_eq!(byte, expected, "byte {i} of {start}..{end}");
                }
            }
        }
    }
}
