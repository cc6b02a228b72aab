//! When a reactor has too much to do and another has time, which vNIC is to move: a function of
//! what was counted.
//!
//! ```text
//! look (each second): how busy was each reactor?
//!   └─ one too busy, one much less, twice running ── choose: which vNIC?
//! ```
//! A vNIC is moved only if that leaves its new reactor no busier than the old one, and then
//! everything rests for a while, so that the effect is seen before the next.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Time between two looks.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Looks without a move after one.
// So that the effect of a move is seen before the next (decision 0003).
const REST: u32 = 5;
/// How much less busy the other reactor must be, as a share of the time.
// A move shifts half the gap at most. Below a tenth of the time it is not worth the frames that
// are lost while the port moves.
const MIN_GAP: f64 = 0.2;
/// The least share of the time that is worth a move.
// Likewise: what is sent to the vNIC meanwhile is lost (decision 0003).
const MIN_SHARE: f64 = 0.02;

/// One reactor is too busy, another has time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uneven {
    /// The busy one.
    pub from: u16,
    /// The other.
    pub to: u16,
    /// Shares of the time that they carried frames.
    busy: (f64, f64),
}

/// What was counted at the last look.
#[derive(Debug)]
pub struct Balance<Id> {
    /// The share of the time that is too busy.
    limit: f64,
    looked: Option<(Instant, Vec<u64>)>,
    /// Frames of the vNICs of the reactor that was too busy then, if one was.
    frames: Option<(u16, HashMap<Id, u64>)>,
    rest: u32,
}

impl<Id: Copy + Eq + Hash> Balance<Id> {
    /// Reactors are too busy that carry frames in more than this share of the time; 1: never.
    pub fn new(limit: f64) -> Self {
        // Counters and clock are read one after the other: a share may come out a little above 1.
        let limit = if limit < 1.0 { limit } else { f64::INFINITY };
        Self { limit, looked: None, frames: None, rest: 0 }
    }

    /// Looks at how long each reactor has been busy since it started, in nanoseconds.
    pub fn look(&mut self, now: Instant, busy_ns: Vec<u64>) -> Option<Uneven> {
        let uneven = self.looked.take().and_then(|(then, before)| {
            // At least 1: two looks may fall on one instant.
            let elapsed = now.duration_since(then).as_nanos().max(1) as f64;
            let share = |(now, before): (&u64, &u64)| now.saturating_sub(*before) as f64 / elapsed;
            let busy: Vec<f64> = busy_ns.iter().zip(&before).map(share).collect();
            uneven(&busy, self.limit)
        });
        self.looked = Some((now, busy_ns));
        self.rest = self.rest.saturating_sub(1);
        let uneven = uneven.filter(|_| self.rest == 0);
        // Twice running is what counts: the frames of a first look do not outlast a quiet one.
        if uneven.is_none() {
            self.frames = None;
        }
        uneven
    }

    /// The vNIC to move, of those of the busy reactor, each with the frames it has sent and
    /// received since its start. None at the first of two looks.
    pub fn choose(&mut self, uneven: Uneven, vnics: HashMap<Id, u64>) -> Option<Id> {
        let before = self.frames.replace((uneven.from, vnics));
        let (_, now) = self.frames.as_ref()?;
        // Counts of the vNICs of another reactor are no first look at this one.
        let (_, before) = before.filter(|(reactor, _)| *reactor == uneven.from)?;
        // One that came after the first look has no share that is known.
        let carried = |id: &Id| before.get(id).map_or(0, |before| now[id].saturating_sub(*before));
        let all: u64 = now.keys().map(carried).sum();
        let share = |id: &Id| uneven.busy.0 * carried(id) as f64 / all.max(1) as f64;
        // More than half the gap would leave the new reactor busier, and the vNIC would come back.
        let worth = MIN_SHARE..=(uneven.busy.0 - uneven.busy.1) / 2.0;
        let chosen = now
            .keys()
            .filter(|id| worth.contains(&share(id)))
            .max_by(|a, b| share(a).total_cmp(&share(b)))
            .copied();
        if chosen.is_some() {
            self.rest = REST;
        }
        chosen
    }
}

fn uneven(busy: &[f64], limit: f64) -> Option<Uneven> {
    let numbered = || (0_u16..).zip(busy.iter().copied());
    let (from, most) = numbered().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let (to, least) = numbered().min_by(|a, b| a.1.total_cmp(&b.1))?;
    // Where the limit is low, a reactor beyond it may not be busy for as much as MIN_GAP.
    let is_uneven = most > limit && most - least > MIN_GAP.min(limit);
    is_uneven.then_some(Uneven { from, to, busy: (most, least) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Looks each second at reactors that are busy so many per cent of it, and whose vNICs carry so
    /// many frames in it.
    fn moves(percent: [u64; 2], frames: &[(char, u64)], seconds: u64) -> Vec<(u64, char)> {
        let mut balance = Balance::new(0.8);
        let start = Instant::now();
        let look = |second: u64| {
            let busy = percent.map(|percent| percent * 10_000_000 * second);
            let uneven = balance.look(start + Duration::from_secs(second), busy.into())?;
            assert_eq!((uneven.from, uneven.to), (0, 1));
            let counts = frames.iter().map(|(id, frames)| (*id, frames * second)).collect();
            balance.choose(uneven, counts).map(|id| (second, id))
        };
        (0..seconds).filter_map(look).collect()
    }

    #[test]
    fn the_largest_that_fits_moves_once_this_has_lasted_and_then_all_rest() {
        let frames = [('a', 60), ('b', 30), ('c', 10)];
        assert_eq!(moves([100, 0], &frames, 12), [(2, 'b'), (8, 'b')]);
    }

    #[test]
    fn nothing_moves_that_would_not_help() {
        assert_eq!(moves([100, 0], &[('a', 100)], 9), [], "it would only be as busy elsewhere");
        assert_eq!(moves([79, 0], &[('a', 50), ('b', 50)], 9), [], "not too busy");
        assert_eq!(moves([100, 85], &[('a', 50), ('b', 50)], 9), [], "none has time");
        assert_eq!(moves([100, 0], &[('a', 999), ('b', 1)], 9), [], "not worth it");
        assert_eq!(moves([100, 0], &[('a', 0)], 9), [], "nobody's frames");
    }

    proptest! {
        #[test]
        fn the_new_reactor_is_never_left_busier_than_the_old(
            busy in proptest::collection::vec(0.0_f64..=1.0, 1..8),
            frames in proptest::collection::hash_map(0_u32..50, 0_u64..1000, 0..20),
        ) {
            let mut balance = Balance::new(0.5);
            if let Some(uneven) = uneven(&busy, 0.5) {
                let none = frames.keys().map(|id| (*id, 0)).collect();
                prop_assert_eq!(balance.choose(uneven, none), None);
                let all: u64 = frames.values().sum();
                if let Some(id) = balance.choose(uneven, frames.clone()) {
                    let share = uneven.busy.0 * frames[&id] as f64 / all as f64;
                    prop_assert!(uneven.busy.1 + share <= uneven.busy.0 - share + 1e-9);
                }
            }
        }
    }
}
