//! How long what is done for one port takes.
//!
//! Nothing that is done for a port sleeps, unless memory of its VMM makes the kernel wait: a hole that is being punched into
//! gigabytes of it, a page that has to be found. All else is bounded in octets and pieces. So a turn that took long while the
//! thread slept puts the reactor on watch for a while: octets go from one guest to the other by way of private memory, each
//! way timed, and who made it wait is found. Time in which others had the CPU, or the hypervisor, does not count: then the
//! thread has not slept of its own accord.

use super::uring::naps;
use crate::dataplane::port::MAX_VISIT;
use std::time::{Duration, Instant};

/// How long a reactor watches after it last had to wait. As long again may pass before somebody who knows this makes it
/// wait once more without being found: a fiftieth of the time that this takes is theirs at most.
const WATCH: Duration = Duration::from_secs(5);
/// How old the count of naps may be: what is asked for so often costs nothing.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// A reactor's.
#[derive(Debug)]
pub(super) struct Stopwatch {
    lap: Instant,
    /// How often the thread had slept of its own accord when that was last asked, when that was, and how often it has been
    /// let sleep since because there was nothing to do.
    naps: u64,
    sampled: Instant,
    let_sleep: u64,
    watches_until: Option<Instant>,
}

impl Stopwatch {
    /// Of this thread.
    pub(super) fn new(now: Instant) -> Self {
        Self { lap: now, naps: naps(), sampled: now, let_sleep: 0, watches_until: None }
    }

    /// Whether ports are to be timed.
    pub(super) fn watches(&self) -> bool {
        self.watches_until.is_some()
    }

    /// Begins to time something, if ports are to be timed.
    pub(super) fn start(&mut self) {
        if self.watches() {
            self.lap = Instant::now();
        }
    }

    /// As [`Stopwatch::held_up`], and begins anew.
    pub(super) fn lap(&mut self) -> Option<Duration> {
        let held_up = self.held_up();
        self.start();
        held_up
    }

    /// How long the thread was held up since it last began; `None`: not too long, by nobody's fault, or ports are not to be
    /// timed.
    pub(super) fn held_up(&mut self) -> Option<Duration> {
        if !self.watches() {
            return None;
        }
        let took = self.lap.elapsed();
        (took > MAX_VISIT && self.has_slept()).then_some(took)
    }

    /// Whether the thread has slept, more often than it was let, since this was last asked.
    fn has_slept(&mut self) -> bool {
        let expected = self.naps + std::mem::take(&mut self.let_sleep);
        self.naps = naps();
        self.naps > expected
    }

    /// Lets the thread sleep once because there is nothing to do.
    pub(super) fn let_sleep(&mut self) {
        self.let_sleep += 1;
    }

    /// A turn is over.
    pub(super) fn turn(&mut self, began: Instant, ended: Instant) {
        if ended - began > MAX_VISIT && self.has_slept() {
            self.watches_until = Some(ended + WATCH);
        } else if ended - self.sampled > SAMPLE_INTERVAL {
            self.has_slept();
            self.sampled = ended;
        }
        if self.watches_until.is_some_and(|until| until < ended) {
            self.watches_until = None;
        }
    }
}
