//! How often the log may speak of one thing that others can make happen at will: a VMM that connects and leaves in a
//! loop must not fill the disk.

use crate::token_bucket::TokenBucket;
use std::time::Instant;

/// Lines at once after a pause.
const BURST: f64 = 100.0;
/// Lines a second.
const RATE: f64 = 1.0;

/// The lines about one thing.
#[derive(Debug, Clone)]
pub struct LogLimit {
    lines: TokenBucket,
    unsaid: u64,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self { lines: TokenBucket::new(RATE, BURST), unsaid: 0 }
    }
}

/// May be said, and so many lines before it were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// For a field of the line: absent where nothing went unsaid.
    pub unsaid: Option<u64>,
}

impl LogLimit {
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
    use std::time::Duration;

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
}
