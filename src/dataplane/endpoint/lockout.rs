//! How long a vNIC is not served that has held up a reactor: longer each time, unless it did not
//! for a while.

use std::time::{Duration, Instant};

/// How long a vNIC that has held up a reactor is not served: the first time and at most; and how
/// long it must behave until a time is the first again.
// Twice as long each time, so that a VMM that does this on purpose costs the others little.
const FIRST_LOCKOUT: Duration = Duration::from_secs(1);
const LONGEST_LOCKOUT: Duration = Duration::from_secs(60);
const FORGIVEN: Duration = Duration::from_secs(600);

/// How long a vNIC is not served whose VMM or guest has held up a reactor: longer each time.
#[derive(Debug)]
pub(super) struct Lockout {
    pub(super) until: Instant,
    next: Duration,
}

impl Default for Lockout {
    fn default() -> Self {
        Self { until: Instant::now(), next: FIRST_LOCKOUT }
    }
}

impl Lockout {
    /// Returns how long it still lasts.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Begins one. Returns how long it lasts.
    pub(super) fn begin(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.until) > FORGIVEN {
            self.next = FIRST_LOCKOUT;
        }
        let lasts = self.next;
        (self.until, self.next) = (now + lasts, (2 * lasts).min(LONGEST_LOCKOUT));
        lasts
    }
}
