//! A rate with a burst, as a bucket of tokens: full at the start, filled continuously, in debt
//! where more is taken than there is.

use std::time::Instant;

/// Tokens that come at a rate.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    /// Tokens a second.
    rate: f64,
    burst: f64,
    tokens: f64,
    /// Absent until it is first asked.
    filled: Option<Instant>,
}

impl TokenBucket {
    /// Full, with `burst` tokens; `rate` of them come a second.
    pub fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst, tokens: burst, filled: None }
    }

    /// Goes on with the tokens of another bucket of the same rate and burst.
    pub fn keep(&mut self, tokens: f64) {
        self.tokens = tokens.min(self.burst);
    }

    /// Adds what has come since.
    pub fn refill(&mut self, now: Instant) {
        let filled = self.filled.replace(now).unwrap_or(now);
        // A vNIC may move between reactors, each of which reads the clock for itself.
        let elapsed = now.saturating_duration_since(filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.rate).min(self.burst);
    }

    /// What there is; below zero: a debt.
    pub fn tokens(&self) -> f64 {
        self.tokens
    }

    /// Takes tokens, whether they are there or not.
    pub fn charge(&mut self, tokens: f64) {
        self.tokens -= tokens;
    }

    /// Takes one token, if there is one by now.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.charge(1.0);
        }
        there
    }
}
