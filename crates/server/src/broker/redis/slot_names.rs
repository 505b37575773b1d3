//! Names in a given slot of a Redis Cluster, without a search for each.
//!
//! How: a checksum that begins with 0 is linear. That of a name is that of its beginning followed by zeros, `xor` that of its end
//! alone. So one table of ends, by their checksums, serves all beginnings.

use std::sync::LazyLock;

use drawbridge_engine::upstream::{SLOTS, crc16};

/// The digits of an end.
const DIGITS: usize = 6;
/// In the table, a checksum that no end has. A test shows that there is none.
const NOBODY: u32 = u32::MAX;

/// For each checksum, as far as it decides the slot, the lowest number whose digits have it. Made when it is needed first, by some
/// 170,000 short checksums.
static ENDS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
    let mut ends = vec![NOBODY; usize::from(SLOTS)].into_boxed_slice();
    let mut missing = ends.len();
    for number in 0..10u32.pow(DIGITS as u32) {
        let end = &mut ends[usize::from(crc16(0, digits(number).as_bytes()) % SLOTS)];
        if *end == NOBODY {
            *end = number;
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
    }
    ends
});

/// The end of a name that begins so and is in this slot. Neither holds braces.
pub(super) fn end_in_slot(begin: &[u8], slot: u16) -> String {
    let of_begin = crc16(crc16(0, begin), &[0; DIGITS]);
    digits(ENDS[usize::from((of_begin ^ slot) % SLOTS)])
}

fn digits(number: u32) -> String {
    format!("{number:0DIGITS$}")
}

#[cfg(test)]
mod tests {
    use super::super::cluster_map::slot_of;
    use super::*;

    #[test]
    fn there_is_a_name_in_every_slot() {
        assert!(ENDS.iter().all(|end| *end != NOBODY));
        for begin in ["", "drawbridge:sharded-probe:0123456789abcdef:3:"] {
            for slot in 0..SLOTS {
                let name = format!("{begin}{}", end_in_slot(begin.as_bytes(), slot));
                assert_eq!(slot_of(name.as_bytes()), slot, "{name}");
            }
        }
    }
}
