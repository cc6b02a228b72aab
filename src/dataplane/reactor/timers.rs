//! Deadlines, earliest first.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

/// What is due when.
#[derive(Debug)]
pub(super) struct Timers<T> {
    heap: BinaryHeap<Reverse<(Instant, T)>>,
}

impl<T: Ord> Default for Timers<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new() }
    }
}

impl<T: Ord> Timers<T> {
    /// Notes that `what` is due at `when`.
    pub(super) fn add(&mut self, when: Instant, what: T) {
        self.heap.push(Reverse((when, what)));
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((when, _))| *when)
    }

    /// The next that is due by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, what))| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_earliest_comes_first_and_not_too_early() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.add(now + Duration::from_secs(2), 'b');
        timers.add(now + Duration::from_secs(1), 'a');
        assert_eq!(timers.pop(now), None);
        assert_eq!(timers.pop(now + Duration::from_secs(3)), Some('a'));
        assert_eq!(timers.pop(now + Duration::from_secs(3)), Some('b'));
        assert_eq!(timers.next(), None);
    }
}
