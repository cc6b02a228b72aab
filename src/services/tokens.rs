//! Tokens of the metadata service: who has one has had it from the service itself, at most six
//! hours ago, for this vNIC.
//!
//! They are kept by this process alone: after it, clients ask for another one.

use crate::mutex::lock;
use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a token may last.
pub(super) const LASTS: std::ops::RangeInclusive<u64> = 1..=21_600;
/// Tokens that a vNIC may have. The one that ends first makes room.
// Each program in a guest may have one.
const MOST: usize = 64;

/// The tokens of all vNICs.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<Uuid, Vec<Token>>>);

#[derive(Debug)]
struct Token {
    text: String,
    ends: Instant,
}

impl Tokens {
    /// Returns a new token for a vNIC.
    pub(super) fn give(&self, nic: Uuid, lasts: Duration, now: Instant) -> String {
        // Two of 122 random bits each.
        let text = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut all = lock(&self.0);
        // Also those of vNICs that are no more.
        all.retain(|_, tokens| {
            tokens.retain(|token| now < token.ends);
            !tokens.is_empty()
        });
        let tokens = all.entry(nic).or_default();
        if tokens.len() >= MOST {
            let first = (0..tokens.len()).min_by_key(|at| tokens[*at].ends);
            first.map(|at| tokens.swap_remove(at));
        }
        tokens.push(Token { text: text.clone(), ends: now + lasts });
        text
    }

    /// Whether a vNIC has a token.
    pub(super) fn has(&self, nic: Uuid, text: &str, now: Instant) -> bool {
        let all = lock(&self.0);
        let mut tokens = all.get(&nic).into_iter().flatten();
        tokens.any(|token| token.text == text && now < token.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_vnic_and_of_a_time() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let [ours, theirs] = [Uuid::new_v4(), Uuid::new_v4()];
        let token = tokens.give(ours, Duration::from_secs(10), now);
        assert_eq!(token.len(), 64);
        assert!(tokens.has(ours, &token, now + Duration::from_secs(9)));
        assert!(!tokens.has(ours, &token, now + Duration::from_secs(10)));
        assert!(!tokens.has(theirs, &token, now));
        assert!(!tokens.has(ours, "", now));
        assert_ne!(tokens.give(ours, Duration::from_secs(10), now), token);
    }

    #[test]
    fn of_too_many_the_one_that_ends_first_goes() {
        let (tokens, now, nic) = (Tokens::default(), Instant::now(), Uuid::new_v4());
        let give = |seconds| tokens.give(nic, Duration::from_secs(seconds), now);
        let (long, short) = (give(100), give(5));
        (0..MOST - 2).for_each(|_| drop(give(50)));
        assert!(tokens.has(nic, &short, now));
        give(50);
        assert!(tokens.has(nic, &long, now) && !tokens.has(nic, &short, now));
    }
}
