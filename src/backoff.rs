//! How long to wait before something that has failed is tried again: twice as long each time, and
//! not at all where it had worked for a while.

use std::time::Duration;

/// The first wait that is one.
pub(crate) const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST: Duration = Duration::from_secs(5);
/// What has worked for so long is tried again at once.
const STEADY: Duration = Duration::from_secs(1);

/// The wait before the next try: none before the first one.
#[derive(Debug, Default)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    /// Returns how long to wait before the next try. The one after that waits longer.
    pub(crate) fn next(&mut self) -> Duration {
        let longer = (self.0 * 2).clamp(FIRST, LONGEST);
        std::mem::replace(&mut self.0, longer)
    }

    /// What was tried has worked for so long, and has failed then.
    pub(crate) fn worked(&mut self, lasted: Duration) {
        if lasted >= STEADY {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_what_has_lasted() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.worked(STEADY - Duration::from_millis(1));
        assert_eq!(backoff.next(), LONGEST);
        backoff.worked(STEADY);
        assert_eq!([backoff.next(), backoff.next()], [Duration::ZERO, FIRST]);
    }
}
