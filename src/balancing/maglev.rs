//! Which backend takes a new flow: the table of Maglev (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, §3.4).
//!
//! Takes who there is, and returns a place for each hash of a flow. The same balancer and backends
//! make the same table on every host and after every restart: nothing is drawn, and the order that
//! backends are named in does not matter.
//!
//! ```text
//! all backends ── by turns, each to the next free place of its own order ──▶ table
//! some may not take flows now ── their places alone are dealt out anew ──▶ table
//! ```
//! So a backend that fails, is drained, or comes back moves no flow but its own. One that is added
//! or taken away for good changes the turns of the others, and moves a few of theirs.

use uuid::Uuid;

/// Places of a table.
// A prime, so that every step visits all places. 64 backends have 64 places each: shares are within
// a few percent of their weights (§5.3).
pub const SIZE: u16 = 4093;

/// A backend, as one that may have flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Tells it from others of its balancer, on every host.
    pub key: Uuid,
    /// How many flows it takes beside others; 0 is taken for 1.
    pub weight: u16,
    /// Whether it takes new flows now.
    pub is_available: bool,
}

/// Returns, for each place, which of `shares` takes its flows; nothing where none may.
pub fn table(balancer: Uuid, shares: &[Share]) -> Vec<u8> {
    let mut walks: Vec<_> = shares.iter().zip(0..).map(|of| Walk::new(balancer, of)).collect();
    // Not as they were named.
    walks.sort_by_key(|walk| walk.key);
    let mut table = vec![None; SIZE.into()];
    deal(&mut table, &mut walks);
    let is_available = |at: &u8| shares[usize::from(*at)].is_available;
    table.iter_mut().for_each(|place| *place = place.filter(is_available));
    walks.retain(|walk| is_available(&walk.backend));
    walks.iter_mut().for_each(Walk::begin_again);
    deal(&mut table, &mut walks);
    table.into_iter().flatten().collect()
}

/// A backend's way through the table.
struct Walk {
    key: Uuid,
    backend: u8,
    /// Where it begins, and how far it steps: its order of all places (the paper's `offset` and
    /// `skip`).
    offset: u16,
    skip: u16,
    at: u16,
    weight: u16,
    /// What it has saved for its next turn.
    saved: u32,
}

impl Walk {
    fn new(balancer: Uuid, (share, backend): (&Share, u8)) -> Self {
        // Two hashes in one, keyed by the balancer, and the same in every version of this program:
        // SHA-1 (RFC 9562 §5.5).
        let (one, other) = Uuid::new_v5(&balancer, share.key.as_bytes()).as_u64_pair();
        let below = |hash: u64, end: u16| {
            u16::try_from(hash % u64::from(end)).expect("a rest is less than its divisor")
        };
        let offset = below(one, SIZE);
        Self {
            key: share.key,
            backend,
            offset,
            skip: below(other, SIZE - 1) + 1,
            at: offset,
            weight: share.weight.max(1),
            saved: 0,
        }
    }

    fn begin_again(&mut self) {
        (self.at, self.saved) = (self.offset, 0);
    }

    /// Whether it is its turn in a round in which the heaviest has one.
    fn has_turn(&mut self, heaviest: u16) -> bool {
        self.saved += u32::from(self.weight);
        let has_turn = self.saved >= u32::from(heaviest);
        if has_turn {
            self.saved -= u32::from(heaviest);
        }
        has_turn
    }

    fn step(&mut self) {
        // Both are below the size: no overflow.
        self.at = (self.at + self.skip) % SIZE;
    }
}

/// Deals the free places out by turns.
fn deal(table: &mut [Option<u8>], walks: &mut [Walk]) {
    let Some(heaviest) = walks.iter().map(|walk| walk.weight).max() else { return };
    let mut free = table.iter().filter(|place| place.is_none()).count();
    while free > 0 {
        for walk in &mut *walks {
            if free == 0 || !walk.has_turn(heaviest) {
                continue;
            }
            while table[usize::from(walk.at)].is_some() {
                walk.step();
            }
            table[usize::from(walk.at)] = Some(walk.backend);
            free -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn share(key: u128, weight: u16) -> Share {
        Share { key: Uuid::from_u128(key), weight, is_available: true }
    }

    /// The keys that places lead to.
    fn keys(balancer: u128, shares: &[Share]) -> Vec<Uuid> {
        let table = table(Uuid::from_u128(balancer), shares);
        table.into_iter().map(|at| shares[usize::from(at)].key).collect()
    }

    fn places(keys: &[Uuid], key: Uuid) -> usize {
        keys.iter().filter(|found| **found == key).count()
    }

    /// How many places of those that lead elsewhere than to `but` lead to others afterwards.
    fn moved(before: &[Uuid], after: &[Uuid], but: Uuid) -> usize {
        let pairs = before.iter().zip(after);
        pairs.filter(|(before, after)| **before != but && before != after).count()
    }

    #[test]
    fn a_table_is_the_same_for_ever() {
        let three = [share(1, 1), share(2, 1), share(3, 1)];
        let table = table(Uuid::from_u128(7), &three);
        assert_eq!(table.len(), 4093);
        // By another program: a few lines of Python that follow the paper.
        assert_eq!(table[..16], FIRST);
    }

    const FIRST: [u8; 16] = [1, 2, 0, 0, 0, 0, 2, 0, 1, 1, 1, 0, 0, 0, 0, 2];

    #[test]
    fn where_nobody_may_take_flows_there_is_no_table() {
        assert!(table(Uuid::nil(), &[]).is_empty());
        let away = Share { is_available: false, ..share(1, 1) };
        assert!(table(Uuid::nil(), &[away]).is_empty());
        let one = table(Uuid::nil(), &[away, share(2, 9)]);
        assert_eq!(one, vec![1; SIZE.into()]);
    }

    /// The paper measures it on average (§5.3), and so does this.
    #[test]
    fn taking_a_backend_away_moves_few_flows_of_others() {
        for count in [2, 3, 8, 16, 32, 64] {
            let (mut stay, mut go) = (0, 0);
            for balancer in 0..20 {
                let key = |n| (balancer << 64) + n + 1;
                let shares: Vec<_> = (0..count).map(|n| share(key(n), 1)).collect();
                let before = keys(balancer, &shares);
                let after = keys(balancer, &shares[1..]);
                go += moved(&before, &after, shares[0].key);
                stay += before.len() - places(&before, shares[0].key);
            }
            assert!(go * 100 <= stay * 3, "of {count} backends: {go} of {stay}");
        }
    }

    proptest! {
        #[test]
        fn shares_are_as_weights(
            balancer: u128,
            weights in proptest::collection::btree_map(any::<u128>(), 1u16..=10, 1..=64),
        ) {
            let shares: Vec<_> = weights.iter().map(|(key, weight)| share(*key, *weight)).collect();
            let keys = keys(balancer, &shares);
            let all: u16 = weights.values().sum();
            for share in shares {
                let wanted = f64::from(SIZE) * f64::from(share.weight) / f64::from(all);
                let found = places(&keys, share.key) as f64;
                // A turn more or less is chance.
                prop_assert!((found - wanted).abs() <= 0.02 * wanted + 1.5, "{found} {wanted}");
            }
        }

        #[test]
        fn who_fails_and_comes_back_moves_nobody_elses_flows(
            balancer: u128,
            backends in vec((1u16..=10, any::<bool>()), 2..=64),
            at: prop::sample::Index,
        ) {
            let of = |(n, (weight, is_available)): (usize, &(u16, bool))| {
                Share { is_available: *is_available, ..share(n as u128 + 1, *weight) }
            };
            let mut shares: Vec<_> = backends.iter().enumerate().map(of).collect();
            let at = at.index(shares.len());
            shares[at].is_available = true;
            let before = keys(balancer, &shares);
            shares[at].is_available = false;
            let after = keys(balancer, &shares);
            let own = shares[at].key;
            prop_assert!(!after.contains(&own));
            if !after.is_empty() {
                // Places of those that were away before may go from one to another.
                let away = shares.iter().filter(|share| !share.is_available && share.key != own);
                if away.count() == 0 {
                    prop_assert_eq!(moved(&before, &after, own), 0);
                }
            }
        }

        #[test]
        fn the_order_of_names_does_not_matter(
            balancer: u128,
            backends in vec((1u16..=10, any::<bool>()), 1..=16),
        ) {
            let of = |(n, (weight, is_available)): (usize, &(u16, bool))| {
                Share { is_available: *is_available, ..share(n as u128 + 1, *weight) }
            };
            let mut shares: Vec<_> = backends.iter().enumerate().map(of).collect();
            let before = keys(balancer, &shares);
            shares.reverse();
            prop_assert_eq!(before, keys(balancer, &shares));
        }
    }
}
