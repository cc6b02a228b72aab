//! How often the log may speak of one thing that others can make happen at will: a VMM that
//! connects and leaves in a loop must not fill the disk.

use crate::token_bucket::TokenBucket;
use std::time::{Duration, Instant};

/// Lines at once after a pause.
const BURST: f64 = 100.0;
/// Lines a second.
// At worst 86,400 lines a day about each thing.
const RATE: f64 = 1.0;
/// How long the same failure is not told again: who comes back each second and fails alike says
/// nothing new.
const REPEATS: Duration = Duration::from_secs(60);

/// The lines about one thing.
#[derive(Debug, Clone)]
pub struct LogLimit {
    lines: TokenBucket,
    unsaid: u64,
    /// The last failure that was told, and until when it is not told again.
    failure: Option<(String, Instant)>,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self { lines: TokenBucket::new(RATE, BURST), unsaid: 0, failure: None }
    }
}

/// The line may be logged. `unsaid` lines before it were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// For a field of the line: absent where nothing went unsaid.
    pub unsaid: Option<u64>,
}

impl LogLimit {
    /// Asks for a line about a failure. Returns nothing where the one told before it is the same,
    /// for a minute.
    pub fn failure(&mut self, reason: &str, now: Instant) -> Option<Said> {
        if self.is_hushed(now, |told| told == reason) {
            return None;
        }
        // First the line: a failure that could not be told is told when it comes again.
        let said = self.line(now)?;
        self.failure = Some((reason.into(), now + REPEATS));
        Some(said)
    }

    /// Asks for a line about a new attempt. Returns nothing for a minute after a failure: the
    /// attempt is likely to fail alike.
    pub fn beginning(&mut self, now: Instant) -> Option<Said> {
        if self.is_hushed(now, |_| true) { None } else { self.line(now) }
    }

    /// Whether the failure that was told last keeps a line from being said, which is counted.
    fn is_hushed(&mut self, now: Instant, by: impl FnOnce(&str) -> bool) -> bool {
        let hushed = self.failure.as_ref().is_some_and(|(told, until)| now < *until && by(told));
        self.unsaid += u64::from(hushed);
        hushed
    }

    /// The attempt succeeded: the next failure is told, whatever it is.
    pub fn succeeded(&mut self) {
        self.failure = None;
    }

    /// Asks for a line.
    pub fn line(&mut self, now: Instant) -> Option<Said> {
        if !self.lines.take(now) {
            self.unsaid += 1;
            return None;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        Some(Said { unsaid: (unsaid > 0).then_some(unsaid) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_lines_then_one_a_second_that_tells_what_went_unsaid() {
        let start = Instant::now();
        let mut limit = LogLimit::default();
        let said = (0..150).filter_map(|_| limit.line(start)).collect::<Vec<_>>();
        assert_eq!(said, [Said { unsaid: None }; 100]);
        let later = start + Duration::from_millis(1500);
        assert_eq!(limit.line(later), Some(Said { unsaid: Some(50) }));
        assert_eq!(limit.line(later), None);
    }

    #[test]
    fn what_fails_alike_again_and_again_is_told_once_a_minute() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut limit = LogLimit::default();
        assert_eq!(limit.beginning(start), Some(Said { unsaid: None }));
        assert_eq!(limit.failure("queues", start), Some(Said { unsaid: None }));
        for second in 1..60 {
            assert_eq!(limit.beginning(after(second)), None);
            assert_eq!(limit.failure("queues", after(second)), None);
        }
        assert_eq!(limit.failure("memory", after(59)), Some(Said { unsaid: Some(118) }));
        assert_eq!(limit.failure("memory", after(119)), Some(Said { unsaid: None }));
        assert_eq!(limit.beginning(after(120)), None);
        limit.succeeded();
        assert_eq!(limit.beginning(after(120)), Some(Said { unsaid: Some(1) }));
    }
}
