//! Memory for the octets of frames that a line holds: a ring, which grows to what the line needs,
//! as far as its reactor lets it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Octets of a ring at first: the longest frame fits.
const SMALLEST: usize = 128 << 10;
/// Octets of a ring at most.
const LARGEST: usize = 4 << 20;

/// Octets that all rings of a reactor may have together.
// Counted by that reactor's thread alone: atomic, since ports move between threads.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Arc<AtomicUsize>,
}

impl Budget {
    /// Returns one of so many octets.
    pub fn new(octets: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(octets)) }
    }

    fn take(&self, octets: usize) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(octets)).is_ok()
    }

    fn give_back(&self, octets: usize) {
        self.left.fetch_add(octets, Relaxed);
    }
}

/// The octets of a frame.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: usize,
    len: usize,
    /// How many frames have them: none, one, or two of which one is the other's double.
    users: u32,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Arena {
    ring: Vec<u8>,
    /// Those that were taken, in order, from number `first` on. The first is in use.
    pieces: VecDeque<Piece>,
    first: u64,
    budget: Budget,
}

impl Arena {
    /// Returns one without memory yet.
    pub(super) fn new(budget: Budget) -> Self {
        Self { ring: Vec::new(), pieces: VecDeque::new(), first: 0, budget }
    }

    /// Takes room for a copy of `octets`. Returns its number; none where there is no room.
    pub(super) fn hold(&mut self, octets: &[u8]) -> Option<u64> {
        let len = octets.len();
        let at = loop {
            match self.room(len) {
                Some(at) => break at,
                None => self.grow()?,
            }
        };
        self.ring[at..at + len].copy_from_slice(octets);
        self.pieces.push_back(Piece { at, len, users: 1 });
        Some(self.first + self.pieces.len() as u64 - 1)
    }

    /// Returns where so many octets fit behind those that were taken last.
    fn room(&self, len: usize) -> Option<usize> {
        let (Some(front), Some(back)) = (self.pieces.front(), self.pieces.back()) else {
            return (len <= self.ring.len()).then_some(0);
        };
        let next = back.at + back.len;
        if back.at < front.at {
            return (next + len <= front.at).then_some(next);
        }
        if next + len <= self.ring.len() {
            return Some(next);
        }
        (len <= front.at).then_some(0)
    }

    /// Doubles the ring; none where it has grown enough.
    fn grow(&mut self) -> Option<()> {
        let octets = (self.ring.len() * 2).max(SMALLEST);
        if octets > LARGEST || !self.budget.take(octets - self.ring.len()) {
            return None;
        }
        let mut ring = vec![0; octets];
        let mut end = 0;
        for piece in &mut self.pieces {
            ring[end..end + piece.len].copy_from_slice(&self.ring[piece.at..piece.at + piece.len]);
            piece.at = end;
            end += piece.len;
        }
        self.ring = ring;
        Some(())
    }

    fn piece(&mut self, number: u64) -> &mut Piece {
        &mut self.pieces[(number - self.first) as usize]
    }

    /// Returns octets that are in use.
    pub(super) fn octets(&self, number: u64) -> &[u8] {
        let Piece { at, len, .. } = self.pieces[(number - self.first) as usize];
        &self.ring[at..at + len]
    }

    /// As [`Arena::octets`], to be changed.
    pub(super) fn octets_mut(&mut self, number: u64) -> &mut [u8] {
        let Piece { at, len, .. } = *self.piece(number);
        &mut self.ring[at..at + len]
    }

    /// Another frame has them, too.
    pub(super) fn share(&mut self, number: u64) {
        self.piece(number).users += 1;
    }

    /// A frame has them no longer.
    pub(super) fn free(&mut self, number: u64) {
        self.piece(number).users -= 1;
        while self.pieces.front().is_some_and(|piece| piece.users == 0) {
            self.pieces.pop_front();
            self.first += 1;
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.budget.give_back(self.ring.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn octets_stay_what_they_are_until_they_are_freed(
            steps in vec((1..40_000_usize, 0..8_usize), 1..300),
        ) {
            let mut arena = Arena::new(Budget::new(1 << 20));
            let mut there: Vec<(u64, Vec<u8>)> = Vec::new();
            for (number, (len, free)) in steps.into_iter().enumerate() {
                let octets = vec![number as u8; len];
                match arena.hold(&octets) {
                    Some(number) => there.push((number, octets)),
                    None => prop_assert!(!there.is_empty()),
                }
                // In any order, and not all.
                for at in 0..free.min(there.len()) {
                    let (number, _) = there.remove((number * 7 + at) % there.len());
                    arena.free(number);
                }
                for (number, octets) in &there {
                    prop_assert_eq!(arena.octets(*number), &octets[..]);
                }
            }
        }
    }

    #[test]
    fn rings_of_a_reactor_have_bounds_together_and_each_alone() {
        let budget = Budget::new(LARGEST + SMALLEST);
        let (mut one, mut other) = (Arena::new(budget.clone()), Arena::new(budget.clone()));
        let fill = |arena: &mut Arena| {
            std::iter::from_fn(|| arena.hold(&[7; 65_549])).collect::<Vec<_>>().len()
        };
        assert_eq!(fill(&mut one), LARGEST / 65_549);
        assert_eq!(fill(&mut other), 1);
        drop(one);
        assert_eq!(fill(&mut other), LARGEST / 65_549 - 1);
        drop(other);
        assert_eq!(budget.left.load(Relaxed), LARGEST + SMALLEST);
    }

    #[test]
    fn a_double_has_the_same_octets() {
        let mut arena = Arena::new(Budget::new(LARGEST));
        let first = arena.hold(&[1; 100]).unwrap();
        arena.share(first);
        arena.octets_mut(first)[0] = 9;
        arena.free(first);
        assert_eq!(arena.octets(first)[..2], [9, 1]);
        arena.free(first);
        assert!(arena.pieces.is_empty());
    }
}
