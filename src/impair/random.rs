//! Chance that can be repeated: xorshift64* (Vigna 2016), from a seed.

/// Numbers of a seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

/// A seed of its own for each purpose: neighbouring numbers come to unlike seeds (SplitMix64).
pub fn mixed(seed: u64, purpose: u64) -> u64 {
    let mut z = seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// Starts from a seed, which may be any.
    pub fn new(seed: u64) -> Self {
        // Zero is the one state that a xorshift never leaves.
        Self(mixed(seed, 1).max(1))
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 up to, and without, 1.
    pub fn unit(&mut self) -> f64 {
        // The high bits are the better ones; 53 are what fits.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something of a probability happens. What cannot, and what must, uses up no chance.
    pub fn happens(&mut self, probability: f64) -> bool {
        probability >= 1.0 || (probability > 0.0 && self.unit() < probability)
    }

    /// Of the standard normal distribution, nearly.
    pub fn normal(&mut self) -> f64 {
        // Twelve uniform ones have a variance of one, and never come to more than six.
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// How many times something of a probability does not happen before it does; `None`: never.
    pub fn gap(&mut self, probability: f64) -> Option<u64> {
        if probability <= 0.0 {
            return None;
        }
        // 1 − unit is never 0, whose logarithm is infinite; a cast of what is too large saturates.
        Some(((1.0 - self.unit()).ln() / (1.0 - probability).ln()) as u64)
    }
}
