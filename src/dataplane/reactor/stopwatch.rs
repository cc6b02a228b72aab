//! How long what is done for one port takes.
//!
//! Nothing that is done for a port sleeps, unless memory of its VMM makes the kernel wait: a hole
//! that is being punched into gigabytes of it, a page that has to be found. All else is bounded in
//! octets and pieces. So a turn that took long while the thread slept puts the reactor on watch for
//! a while: octets go from one guest to the other by way of private memory, each way timed, and who
//! made it wait is found. Time in which others had the CPU, or the hypervisor, does not count: then
//! the thread has not slept of its own accord. Large pages that nobody has touched are cleared by
//! who is first, for a third of a millisecond each: these are counted, too, and held against ports
//! whose memory has such pages.

use super::uring::{Waits, waits};
use crate::dataplane::port::{HeldUp, MAX_VISIT};
use std::time::{Duration, Instant};

/// How long a reactor watches after it last had to wait. As long again may pass before somebody who
/// knows this makes it wait once more without being found: a fiftieth of the time that this takes
/// is theirs at most.
// Not for ever: frames cost a copy more, and two readings of the clock, while ports are timed.
const WATCH: Duration = Duration::from_secs(5);
/// How old the count of naps may be: what is asked for so often costs nothing.
// getrusage(2) is a system call, too much for each turn. Much rarer, and waits of quiet times would
// be counted against who comes next.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// So many pages are more than chance: to clear as many large ones takes half of [`MAX_VISIT`].
const FAULTS: u64 = 16;

/// A reactor's.
#[derive(Debug)]
pub(super) struct Stopwatch {
    lap: Instant,
    /// What the thread had waited for when that was last asked, when that was, and how often it has
    /// been let sleep since because there was nothing to do.
    waits: Waits,
    sampled: Instant,
    let_sleep: u64,
    watches_until: Option<Instant>,
    /// Until when the calls of guests are to be timed: a turn took long, asleep or not.
    calls_until: Option<Instant>,
}

impl Stopwatch {
    /// Of this thread.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lap: now,
            waits: waits(),
            sampled: now,
            let_sleep: 0,
            watches_until: None,
            calls_until: None,
        }
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
    pub(super) fn lap(&mut self) -> Option<HeldUp> {
        let held_up = self.held_up();
        self.start();
        held_up
    }

    /// Returns for how long memory held up the thread since timing began. `None`: not for too long,
    /// or it was nobody's fault, or ports are not to be timed.
    pub(super) fn held_up(&mut self) -> Option<HeldUp> {
        if !self.watches() {
            return None;
        }
        let took = self.lap.elapsed();
        if took > MAX_VISIT { self.by_memory(took) } else { None }
    }

    /// Returns something if memory held up the thread since this was last asked: it slept more
    /// often than it was let, or was the first to touch many pages.
    fn by_memory(&mut self, took: Duration) -> Option<HeldUp> {
        // ru_nvcsw counts what the thread waited for, not that its CPU was taken (getrusage(2)).
        let before = std::mem::replace(&mut self.waits, waits());
        let slept = self.waits.naps > before.naps + std::mem::take(&mut self.let_sleep);
        (slept || self.waits.faults >= before.faults + FAULTS).then_some(HeldUp { took, slept })
    }

    /// Lets the thread sleep once because there is nothing to do.
    pub(super) fn let_sleep(&mut self) {
        self.let_sleep += 1;
    }

    /// A turn is over. Returns whether calls of guests are to be timed in the next, which costs
    /// nobody anything who did not make one take long.
    pub(super) fn turn(&mut self, began: Instant, ended: Instant) -> bool {
        // Whatever the cause: a signal may take long without a sleep, as where millions wait for
        // the eventfd.
        if ended - began > MAX_VISIT {
            self.calls_until = Some(ended + WATCH);
        }
        if ended - began > MAX_VISIT && self.by_memory(ended - began).is_some() {
            self.watches_until = Some(ended + WATCH);
        } else if ended - self.sampled > SAMPLE_INTERVAL {
            // Only for its side effect: what was waited for so far is nobody's any more.
            self.by_memory(Duration::ZERO);
            self.sampled = ended;
        }
        for until in [&mut self.watches_until, &mut self.calls_until] {
            *until = until.filter(|until| *until >= ended);
        }
        self.calls_until.is_some()
    }
}
