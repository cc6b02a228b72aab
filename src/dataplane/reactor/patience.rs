//! How long a reactor polls before it sleeps: longer where sleeping has been shown not to pay.
//!
//! To sleep and be woken costs a guest tens of microseconds, more where an idle CPU is itself virtual. So when a sleep
//! was short, the next one is put off for twice as long, up to [`LONGEST`] times what was asked for; after a long one,
//! polling ends as asked again.

use std::time::Duration;

/// How many times the asked-for time polling lasts at most.
const LONGEST: u32 = 8;

/// How long an empty queue is polled now.
#[derive(Debug)]
pub(super) struct Patience {
    asked: Duration,
    window: Duration,
}

impl Patience {
    pub(super) fn new(asked: Duration) -> Self {
        Self { asked, window: asked }
    }

    /// How long to poll after the last frame.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Learns how long a sleep lasted.
    pub(super) fn slept(&mut self, slept: Duration) {
        let longest = self.asked * LONGEST;
        self.window = if slept < longest { (self.window * 2).min(longest) } else { self.asked };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn short_sleeps_make_it_longer_and_one_long_sleep_as_asked() {
        let mut patience = Patience::new(50 * MICRO);
        let mut windows = |slept| {
            patience.slept(slept * MICRO);
            patience.window().as_micros()
        };
        assert_eq!([10, 399, 0, 0].map(&mut windows), [100, 200, 400, 400]);
        assert_eq!([400, 399].map(&mut windows), [50, 100]);
    }

    #[test]
    fn who_asks_for_none_gets_none() {
        let mut patience = Patience::new(Duration::ZERO);
        (0..10).for_each(|_| patience.slept(Duration::ZERO));
        assert_eq!(patience.window(), Duration::ZERO);
    }
}
