//! A hash with a seed of its own, for tables whose keys guests choose: who does not know the seed
//! cannot choose collisions. Faster than that of the standard library by far, for one word.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Both halves of a 128-bit product, folded.
#[inline(always)]
pub(super) fn mix(value: u64) -> u64 {
    // 2^64 divided by the golden ratio: odd, and without a pattern in its bits (Knuth, TAOCP 6.4).
    // Low bits of a product depend on low bits alone; the upper half brings in the others.
    let product = u128::from(value) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

/// Makes hashes of one seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keyed(u64);

impl Default for Keyed {
    fn default() -> Self {
        // The standard library has its seeds from the system.
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Keyed {
    type Hasher = Word;

    fn build_hasher(&self) -> Word {
        Word(self.0)
    }
}

/// The hash of one word.
#[derive(Debug)]
pub(super) struct Word(u64);

impl Hasher for Word {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(word ^ self.0);
    }

    // Keys of tables are words; of others this is right, and slow.
    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.write_u64((*octet).into()));
    }
}
