//! How much a vNIC may carry one way: packets and bits a second, each with a burst. A frame beyond
//! that is dropped.
//!
//! Token buckets that may go into debt by one frame: a frame is admitted while there are tokens,
//! whatever it costs, so that large frames pass a small bucket and the rate is kept over time. A
//! frame that is to be cut counts as the packets that it is cut into.

use crate::{model::RateLimit, token_bucket::TokenBucket, wire::vnet::Offload};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Packets and bits of a frame of `len` octets.
// Fractions, since a refill after a few microseconds is worth less than a packet.
fn cost(len: usize, offload: Offload) -> [f64; 2] {
    let packets = match offload {
        // Headers are counted in, so that it is never charged for less than it becomes. A size of 0
        // is possible: frames that `classify` refused are charged, too.
        Offload::Segmentation { segments, .. } => len.div_ceil(usize::from(segments.size).max(1)),
        _ => 1,
    };
    [packets as f64, len as f64 * 8.0]
}

/// What may still be carried.
#[derive(Debug, Clone, Copy)]
pub struct Limiter {
    limit: RateLimit,
    /// Packets and bits, where they are limited.
    left: [Option<TokenBucket>; 2],
}

/// A [`Limiter`] as one process of the daemon hands it to the next.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLimiter {
    // Kept beside them: what is left is only kept on where the limit is still this one.
    limit: RateLimit,
    left: [Option<f64>; 2],
}

impl Limiter {
    /// Full; `None` where nothing is limited.
    pub fn new(limit: RateLimit) -> Option<Self> {
        let bucket =
            |rate: u64, burst: u64| (rate > 0).then(|| TokenBucket::new(rate as f64, burst as f64));
        let left =
            [bucket(limit.packets, limit.burst_packets), bucket(limit.bits, limit.burst_bits)];
        left.iter().any(Option::is_some).then_some(Self { limit, left })
    }

    /// What is left, for another process of the daemon.
    pub fn save(&self) -> SavedLimiter {
        let left = self.left.map(|left| left.map(|left| left.tokens()));
        SavedLimiter { limit: self.limit, left }
    }

    /// With what was left in another process.
    pub fn restore(saved: &SavedLimiter) -> Option<Self> {
        let mut limiter = Self::new(saved.limit)?;
        for (bucket, left) in limiter.left.iter_mut().zip(saved.left) {
            if let (Some(bucket), Some(left)) = (bucket, left) {
                bucket.keep(left);
            }
        }
        Some(limiter)
    }

    /// What it keeps to.
    pub fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// Adds what has become free since.
    pub fn refill(&mut self, now: Instant) {
        self.left.iter_mut().flatten().for_each(|left| left.refill(now));
    }

    /// Whether a frame may pass now.
    pub fn admits(&self) -> bool {
        self.left.iter().flatten().all(|left| left.tokens() > 0.0)
    }

    /// Takes the tokens of a frame that passes.
    pub fn charge(&mut self, len: usize, offload: Offload) {
        for (left, cost) in self.left.iter_mut().zip(cost(len, offload)) {
            left.iter_mut().for_each(|left| left.charge(cost));
        }
    }

    /// How many of `frames`, each its octets and what is left to be done, may pass now, one after
    /// the other.
    pub fn admitted(&self, frames: impl Iterator<Item = (usize, Offload)>) -> usize {
        // On a copy: the receiver may take fewer, and only those are charged.
        let mut left = *self;
        frames
            .take_while(|(len, offload)| {
                let admitted = left.admits();
                left.charge(*len, *offload);
                admitted
            })
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn carried(limit: RateLimit, len: usize, seconds: u64) -> u64 {
        let start = Instant::now();
        let mut limiter = Limiter::new(limit).unwrap();
        let mut carried = 0;
        for milliseconds in 0..seconds * 1000 {
            limiter.refill(start + Duration::from_millis(milliseconds));
            for _ in 0..1000 {
                if limiter.admits() {
                    limiter.charge(len, Offload::None);
                    carried += 1;
                }
            }
        }
        carried
    }

    #[test]
    fn rates_are_kept_over_time_with_a_burst_at_the_start() {
        let packets = RateLimit { packets: 1000, burst_packets: 50, ..RateLimit::default() };
        assert_eq!(carried(packets, 60, 10), 50 + 9_999);
        let bits = RateLimit { bits: 8_000_000, burst_bits: 80_000, ..RateLimit::default() };
        assert!((10_000..10_012).contains(&carried(bits, 1000, 10)), "1 MB/s in frames of 1000");
        let both = RateLimit { packets: 100, burst_packets: 1, ..bits };
        assert!((998..=1001).contains(&carried(both, 1000, 10)), "the tighter one counts");
    }

    #[test]
    fn a_large_frame_passes_a_small_bucket_and_is_paid_for() {
        let limit = RateLimit { bits: 1_000_000, burst_bits: 1, ..RateLimit::default() };
        assert!((20..=21).contains(&carried(limit, 62_500, 10)), "half a second each");
    }

    #[test]
    fn as_many_are_admitted_as_pass_one_after_the_other() {
        let limit = RateLimit { packets: 1, burst_packets: 3, ..RateLimit::default() };
        let limiter = Limiter::new(limit).unwrap();
        assert_eq!(limiter.admitted([(60, Offload::None); 5].into_iter()), 3);
        assert!(Limiter::new(RateLimit::default()).is_none());
    }
}
