//! Deadlines, one for each key at most, earliest first.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::{Duration, Instant},
};

/// How much too early what is due may be done.
// One wake-up serves many: 1,000 silent guests cost less than a tenth of a percent of a CPU.
pub(super) const TOGETHER: Duration = Duration::from_millis(200);

/// What is due when.
#[derive(Debug)]
pub(super) struct Timers<T> {
    // A set, not a heap: a deadline must be taken out when its port leaves. VMMs attach ports at
    // will, and what stayed until it is due would add up.
    due: BTreeSet<(Instant, T)>,
    of: HashMap<T, Instant>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { due: BTreeSet::new(), of: HashMap::new() }
    }
}

impl<T: Ord + Hash + Copy> Timers<T> {
    /// Notes that `what` is due at `when`, and no longer at any other time.
    pub(super) fn set(&mut self, what: T, when: Instant) {
        self.clear(what);
        self.of.insert(what, when);
        self.due.insert((when, what));
    }

    /// Whether `what` is due at any time.
    pub(super) fn is_set(&self, what: T) -> bool {
        self.of.contains_key(&what)
    }

    /// `what` is due no longer.
    pub(super) fn clear(&mut self, what: T) {
        if let Some(when) = self.of.remove(&what) {
            self.due.remove(&(when, what));
        }
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(when, _)| *when)
    }

    /// The next that is due by `now`, or soon after.
    pub(super) fn pop(&mut self, now: Instant) -> Option<T> {
        let (_, what) = self.due.first().copied().filter(|(when, _)| *when <= now + TOGETHER)?;
        self.clear(what);
        Some(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_not_too_early() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set('b', now + Duration::from_secs(2));
        timers.set('a', now + Duration::from_secs(1));
        assert_eq!(timers.pop(now), None);
        assert_eq!(timers.pop(now + Duration::from_millis(799)), None);
        assert_eq!(timers.pop(now + Duration::from_millis(800)), Some('a'));
        assert_eq!(timers.pop(now + Duration::from_secs(3)), Some('b'));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_key_has_one_deadline_or_none() {
        let now = Instant::now();
        let mut timers = Timers::default();
        for seconds in [5, 1, 3] {
            timers.set('a', now + Duration::from_secs(seconds));
            timers.set('b', now + Duration::from_secs(4));
        }
        assert_eq!(timers.next(), Some(now + Duration::from_secs(3)));
        timers.clear('a');
        assert_eq!(timers.pop(now + Duration::from_secs(9)), Some('b'));
        assert_eq!(timers.pop(now + Duration::from_secs(9)), None);
        assert!(timers.of.is_empty() && timers.due.is_empty());
    }
}
