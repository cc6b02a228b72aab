//! Address space and mappings: what all VMMs together may have of them, and what each may count on.
//!
//! A process has 128 TiB of address space, and about 65,000 mappings (vm.max_map_count), and a
//! sparse file of a terabyte costs its VMM nothing. So each VMM has a share that nobody can take
//! from it, small enough for 16,384 of them, and what it maps beyond that comes out of a pool that
//! may be empty.

use std::sync::atomic::{AtomicU64, Ordering};

/// Octets and mappings that every VMM may have.
// 16,384 shares are 64 TiB and 32,768 mappings: half of what there is.
const SHARE: Amount = Amount { octets: 4 << 30, mappings: 2 };
/// What there is beyond shares.
// With all shares 112 of 128 TiB, and 49,152 of 65,530 mappings. The rest is the daemon's own.
const POOL: Amount = Amount { octets: 48 << 40, mappings: 1 << 14 };

static POOL_OCTETS: AtomicU64 = AtomicU64::new(POOL.octets);
static POOL_MAPPINGS: AtomicU64 = AtomicU64::new(POOL.mappings);

/// So much of what is mapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::dataplane::port::vhost_user) struct Amount {
    pub(in crate::dataplane::port::vhost_user) octets: u64,
    pub(in crate::dataplane::port::vhost_user) mappings: u64,
}

impl Amount {
    /// What of it is beyond a share.
    fn beyond_share(self) -> Self {
        Self {
            octets: self.octets.saturating_sub(SHARE.octets),
            mappings: self.mappings.saturating_sub(SHARE.mappings),
        }
    }
}

/// What a mapping takes out of the pool, until dropped.
#[derive(Debug)]
pub(in crate::dataplane::port::vhost_user) struct Room(Amount);

impl Room {
    /// Room for one mapping of `octets` more, for a VMM that has `mapped`; `None`: all is taken.
    pub(in crate::dataplane::port::vhost_user) fn take(
        mapped: Amount,
        octets: u64,
    ) -> Option<Self> {
        let all = Amount { octets: mapped.octets + octets, mappings: mapped.mappings + 1 };
        let (before, after) = (mapped.beyond_share(), all.beyond_share());
        // Filled in step by step: if mappings cannot be had, dropping it returns the octets.
        let mut room = Self(Amount::default());
        let wanted = after.octets - before.octets;
        take_from(&POOL_OCTETS, wanted).then(|| room.0.octets = wanted)?;
        let wanted = after.mappings - before.mappings;
        take_from(&POOL_MAPPINGS, wanted).then(|| room.0.mappings = wanted)?;
        Some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Relaxed, as all of these: they are counts, and guard no other memory.
        POOL_OCTETS.fetch_add(self.0.octets, Ordering::Relaxed);
        POOL_MAPPINGS.fetch_add(self.0.mappings, Ordering::Relaxed);
    }
}

fn take_from(pool: &AtomicU64, amount: u64) -> bool {
    // All or nothing: a pool never falls below zero, however many ask at once.
    let left = |there: u64| there.checked_sub(amount);
    pool.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_there_when_the_pool_is_empty() {
        let nothing = Amount::default();
        let before = POOL_OCTETS.load(Ordering::Relaxed);
        let hogs: Vec<_> = std::iter::from_fn(|| Room::take(nothing, 1 << 40)).collect();
        assert_eq!(hogs.len(), 48, "a terabyte each, less a share");
        assert!(Room::take(nothing, 1 << 40).is_none());
        let modest = Room::take(nothing, SHARE.octets).unwrap();
        assert_eq!(modest.0, nothing);
        let mapped = Amount { octets: SHARE.octets, mappings: 1 };
        assert!(Room::take(mapped, 1 << 40).is_none(), "its second region goes beyond");
        assert_eq!(Room::take(mapped, 0).unwrap().0, nothing);
        drop((hogs, modest));
        assert_eq!(POOL_OCTETS.load(Ordering::Relaxed), before);
        let many = Amount { octets: 0, mappings: 2 };
        assert_eq!(Room::take(many, 1).unwrap().0, Amount { octets: 0, mappings: 1 });
    }
}
