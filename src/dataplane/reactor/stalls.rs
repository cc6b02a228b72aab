//! What is counted of a port beside its frames: how long it has had no receive buffers, and what
//! its frames have taught.

use super::ports::Slot;
use crate::dataplane::forward::Lessons;
use std::time::Instant;

impl Slot {
    /// Counts what its frames have taught.
    #[inline]
    pub fn count_lessons(&self, lessons: &Lessons) {
        // Nearly always nothing.
        if *lessons != Lessons::default() {
            let counters = &self.counters;
            counters.macs_learned.add(lessons.macs_learned);
            counters.macs_moved.add(lessons.macs_moved);
            counters.macs_not_learned.add(lessons.macs_not_learned);
            counters.snoop_full.add(lessons.snoop_full);
        }
    }

    /// Counts that it had no receive buffer.
    #[cold]
    pub(super) fn found_full(&self, now: Instant) {
        self.counters.queue_full.add(1);
        // Not only when it is over: that may never be.
        if let Some(since) = self.stalled {
            self.lasts(since, now);
        }
    }

    /// Counts how long it has had none.
    #[cold]
    pub(super) fn lasts(&self, since: Instant, now: Instant) {
        let lasted = now.saturating_duration_since(since).as_nanos();
        self.counters.longest_stall_ns.raise(u64::try_from(lasted).unwrap_or(u64::MAX));
    }

    /// Whether it had its time and took nothing since.
    pub fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Notes that it has had no receive buffers `since` then: nobody waits for it any more.
    #[cold]
    pub fn stall(&mut self, since: Instant) {
        self.stalled = Some(since);
        self.counters.receive_stalls.add(1);
    }
}
