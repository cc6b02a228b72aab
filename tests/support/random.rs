//! Chance: numbers that differ from run to run, and how often a test tries its luck.

use std::time::Instant;

pub(crate) fn rounds() -> u32 {
    std::env::var("MVIRT_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}

/// Numbers that differ from run to run; printed, so that a failure can be told again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let seed = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
        let seed = seed ^ std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
        eprintln!("seed {seed}");
        Self(seed)
    }

    /// Those of a seed, which is odd.
    pub(crate) fn from(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
