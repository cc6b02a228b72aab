//! How many frames to several receivers a port may send, and how many copies they may become.
//!
//! A storm in one corner must not take the others' time: the sender's own frames are dropped, and
//! nobody's else. Questions of neighbour discovery and DHCP have a bucket of their own, so that a
//! guest that storms is still found and still finds others.

use crate::{dataplane::frame::verdict::Flood, token_bucket::TokenBucket};
use std::time::Instant;

/// Copies a second that the frames of one port may become.
// Some tenth of a core's time. Without it a few frames a second would stop a network of thousands.
const COPIES_PER_SECOND: f64 = 200_000.0;
/// Copies at once, after a pause: so much longer may one turn of the reactor take.
const COPIES_AT_ONCE: f64 = 20_000.0;
/// Questions a second, and at once.
const DISCOVERY_PER_SECOND: f64 = 500.0;

/// What a port may still flood.
#[derive(Debug, Clone)]
pub struct FloodLimit {
    /// Frames a second, where they are limited.
    pps: Option<u32>,
    frames: TokenBucket,
    discovery: TokenBucket,
    copies: TokenBucket,
}

impl Default for FloodLimit {
    fn default() -> Self {
        Self {
            pps: None,
            frames: TokenBucket::new(0.0, 0.0),
            discovery: TokenBucket::new(DISCOVERY_PER_SECOND, DISCOVERY_PER_SECOND),
            copies: TokenBucket::new(COPIES_PER_SECOND, COPIES_AT_ONCE),
        }
    }
}

impl FloodLimit {
    /// Keeps to so many frames a second from now on, and at once. What is left stays where that is
    /// as before.
    pub fn keep_to(&mut self, pps: Option<u32>) {
        if self.pps != pps {
            self.pps = pps;
            let rate = pps.unwrap_or(0).into();
            self.frames = TokenBucket::new(rate, rate);
        }
    }

    /// Takes what a frame needs that becomes so many copies, if that is there.
    pub fn admits(&mut self, kind: Flood, copies: usize, now: Instant) -> bool {
        self.copies.refill(now);
        // Into debt: a network may have more members than there are ever tokens.
        if self.copies.tokens() <= 0.0 {
            return false;
        }
        let admitted = match kind {
            _ if self.pps.is_none() => true,
            Flood::Ordinary | Flood::Report => self.frames.take(now),
            Flood::Discovery => self.discovery.take(now),
            // It is no storm: each frame of a hub goes to all, and listeners have asked.
            Flood::Hub | Flood::Listeners(_) => true,
        };
        if admitted {
            self.copies.charge(copies as f64);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How many of so many frames, each of so many copies, are admitted in a second.
    fn admitted(limit: &mut FloodLimit, kind: Flood, copies: usize, start: Instant) -> usize {
        let times = (0..100_000).map(|at| start + Duration::from_micros(10 * at));
        times.filter(|now| limit.admits(kind, copies, *now)).count()
    }

    #[test]
    fn a_storm_is_cut_and_neighbours_are_still_found() {
        let start = Instant::now();
        let mut limit = FloodLimit::default();
        limit.keep_to(Some(2000));
        // A full bucket, and what comes in a second.
        assert_eq!(admitted(&mut limit, Flood::Ordinary, 1, start), 2000 + 1999);
        limit.keep_to(Some(2000));
        assert!(!limit.admits(Flood::Ordinary, 1, start), "nothing was refilled");
        assert_eq!(admitted(&mut limit, Flood::Discovery, 1, start), 500 + 499);
    }

    #[test]
    fn copies_are_bounded_where_nothing_else_is() {
        for kind in [Flood::Ordinary, Flood::Discovery, Flood::Hub] {
            let (start, mut limit) = (Instant::now(), FloodLimit::default());
            let copies = 999 * admitted(&mut limit, kind, 999, start);
            assert!((219_000..=222_000).contains(&copies), "{kind:?}: {copies}");
            let (start, mut limit) = (Instant::now(), FloodLimit::default());
            assert!(limit.admits(kind, 1_000_000, start), "the first passes, however large");
        }
    }
}
