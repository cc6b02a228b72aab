//! A set of frames of one burst.

use super::BURST;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub, SubAssign};

// One word: a set of frames is tested, counted and gone through in single instructions.
const _: () = assert!(BURST == u64::BITS as usize, "a set of frames is a mask of 64 bits");

/// Some frames of a burst, by their numbers in it. The oldest is number 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameSet(u64);

impl FrameSet {
    /// No frame.
    pub const EMPTY: Self = Self(0);

    /// Returns the set of the oldest `count` frames.
    #[inline]
    pub fn oldest(count: usize) -> Self {
        // A shift by all 64 bits overflows: no frame at all.
        Self(u64::MAX.checked_shr((BURST - count) as u32).unwrap_or(0))
    }

    /// Returns the set of those frames for which `chosen`, which starts with the oldest, is true.
    #[inline]
    pub fn of(chosen: impl DoubleEndedIterator<Item = bool>) -> Self {
        // Each step shifts the set up. The frame taken last ends as bit 0, so they go in reverse.
        Self(chosen.rev().fold(0, |set, chosen| set << 1 | u64::from(chosen)))
    }

    /// Adds frame number `at`.
    #[inline]
    pub fn insert(&mut self, at: usize) {
        self.0 |= 1 << at;
    }

    /// Takes frame number `at` out.
    #[inline]
    pub fn remove(&mut self, at: usize) {
        self.0 &= !(1 << at);
    }

    /// Whether frame number `at` is in it.
    #[inline]
    pub fn contains(self, at: usize) -> bool {
        self.0 >> at & 1 != 0
    }

    /// Whether there is no frame in it.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns how many frames are in it.
    #[inline]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Returns the number of its oldest frame.
    #[inline]
    pub fn first(self) -> Option<usize> {
        (!self.is_empty()).then(|| self.0.trailing_zeros() as usize)
    }

    /// Returns the numbers of its frames, the oldest first.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let at = left.trailing_zeros();
            // Clears the lowest bit that is set; wraps where none is, which ends the iteration.
            left &= left.wrapping_sub(1);
            (at < u64::BITS).then_some(at as usize)
        })
    }

    /// Returns how many of the burst's oldest frames are in it without a gap.
    #[inline]
    pub fn leading(self) -> usize {
        self.0.trailing_ones() as usize
    }

    /// Returns the set as it is once the burst's oldest `count` frames have gone, and the others
    /// have moved up.
    #[inline]
    pub fn without_leading(self, count: usize) -> Self {
        // A shift by all 64 bits overflows: nothing is left.
        Self(self.0.checked_shr(count as u32).unwrap_or(0))
    }
}

impl FromIterator<usize> for FrameSet {
    fn from_iter<I: IntoIterator<Item = usize>>(frames: I) -> Self {
        Self(frames.into_iter().fold(0, |set, at| set | 1 << at))
    }
}

impl BitAnd for FrameSet {
    type Output = Self;
    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for FrameSet {
    type Output = Self;
    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for FrameSet {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl Sub for FrameSet {
    type Output = Self;
    #[inline]
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl SubAssign for FrameSet {
    #[inline]
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_to_the_last_of_a_burst() {
        let all = FrameSet::oldest(BURST);
        assert_eq!((all.len(), all.leading(), all.first()), (64, 64, Some(0)));
        assert_eq!(all.without_leading(64), FrameSet::EMPTY);
        assert_eq!(FrameSet::oldest(0), FrameSet::EMPTY);
        assert_eq!(FrameSet::EMPTY.first(), None);
        let some: FrameSet = [0, 1, 5, 63].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [0, 1, 5, 63]);
        assert_eq!((some.leading(), some.without_leading(2).first()), (2, Some(3)));
        assert!(some.contains(63) && !some.contains(62));
        assert_eq!(FrameSet::of([true, false, true].into_iter()), [0, 2].into_iter().collect());
        let mut left = all - some;
        assert_eq!((left.len(), left & some), (60, FrameSet::EMPTY));
        left.remove(2);
        assert_eq!(left.first(), Some(3));
        left.insert(0);
        assert_eq!(left.first(), Some(0));
    }
}
