//! How long an empty queue is polled before its guest is asked to ring: longer where that has been
//! shown to pay.
//!
//! To be woken costs a guest a kick, and tens of microseconds where the reactor slept, more where
//! an idle CPU is itself virtual. So when a queue's wake-up comes soon after it was armed, the
//! queue is polled twice as long the next time, up to `LONGEST` times what was asked for; when it
//! was silent for longer, polling ends as asked again.

use std::time::{Duration, Instant};

/// How many times the asked-for time polling lasts at most.
// With `--busy-poll 50`, 400 µs outlast the gaps in a TCP stream between two guests. More would
// only keep a CPU busy (decision 0005 has the figures).
const LONGEST: u32 = 8;

/// What a queue's silences have taught.
#[derive(Debug, Clone, Copy)]
pub struct PollWindow {
    asked: Duration,
    window: Duration,
    /// Since when the guest is asked to ring, if it is.
    armed: Option<Instant>,
}

impl PollWindow {
    /// Of a queue that is polled for `asked` after its last frame.
    pub fn new(asked: Duration) -> Self {
        Self { asked, window: asked, armed: None }
    }

    /// How long to poll after the last frame.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The guest is asked to ring.
    pub fn arm(&mut self, now: Instant) {
        self.armed = Some(now);
    }

    /// The queue is polled again; false if it was all along.
    pub fn wake(&mut self, now: Instant) -> bool {
        let Some(since) = self.armed.take() else { return false };
        let longest = self.asked * LONGEST;
        let was_short = now.saturating_duration_since(since) < longest;
        // Doubled at each short silence, given up at one long one: to poll in vain costs a CPU.
        self.window = if was_short { (self.window * 2).min(longest) } else { self.asked };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn short_silences_make_it_longer_and_one_long_silence_as_asked() {
        let now = Instant::now();
        let mut poll_window = PollWindow::new(50 * MICRO);
        let mut windows = |silent| {
            poll_window.arm(now);
            assert!(poll_window.wake(now + silent * MICRO));
            poll_window.window().as_micros()
        };
        assert_eq!([10, 399, 0, 0].map(&mut windows), [100, 200, 400, 400]);
        assert_eq!([400, 399].map(&mut windows), [50, 100]);
        assert!(!poll_window.wake(now), "it is polled already");
    }

    #[test]
    fn who_asks_for_none_gets_none() {
        let now = Instant::now();
        let mut poll_window = PollWindow::new(Duration::ZERO);
        (0..10).for_each(|_| {
            poll_window.arm(now);
            poll_window.wake(now);
        });
        assert_eq!(poll_window.window(), Duration::ZERO);
    }
}
