//! What nobody sane would write into a ring.

use super::{
    driver::Memory,
    guest::{QUEUE, RX, TX},
    random::Random,
};

/// A number that is likely to hurt.
pub(crate) fn edge(random: &mut Random) -> u64 {
    let edges = [
        0,
        1,
        11,
        12,
        13,
        14,
        64,
        127,
        128,
        129,
        2048,
        4 << 20,
        (4 << 20) - 1,
        u64::MAX,
        u64::MAX - 4095,
    ];
    match random.below(4) {
        0 => random.below(u64::MAX),
        1 => random.below(8 << 20),
        _ => edges[random.below(edges.len() as u64) as usize],
    }
}

/// Fills the rings of a guest with what nobody sane would.
pub(crate) fn scribble(memory: &Memory, random: &mut Random) {
    for ring in [RX, TX] {
        for slot in 0..QUEUE {
            let address = if random.below(2) == 0 {
                ring.buffers + random.below(1 << 16)
            } else {
                edge(random)
            };
            let len = if random.below(2) == 0 { random.below(2048) } else { edge(random) };
            let flags = [0, 1, 2, 3, 4, 5, 6, 7, 0xffff][random.below(9) as usize];
            let next = if random.below(2) == 0 { random.below(128) } else { edge(random) };
            memory.describe(ring, slot, (address, len as u32), flags, next as u16);
            let head = if random.below(4) == 0 { edge(random) } else { random.below(128) };
            memory.list(ring, slot, head as u16);
        }
        // Indirect tables and frames are found there.
        for at in 0..64 {
            memory.write_u16(ring.buffers + 2 * at, edge(random) as u16);
        }
        let index = if random.below(8) == 0 { edge(random) } else { random.below(129) };
        memory.show(ring, index as u16);
        memory.write_u16(ring.used + 2, 0);
    }
}
