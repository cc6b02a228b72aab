//! Which addresses of a network are taken, and which is the lowest free one.
//!
//! Taken addresses are kept as disjoint ranges that never touch, so the lowest free address follows
//! the first range: every question and change costs O(log n), at a /8 and a /64 alike. Addresses of
//! both families are 128-bit numbers.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::RangeInclusive,
};
use uuid::Uuid;

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The addresses of a prefix.
pub fn range(prefix: IpNet) -> RangeInclusive<u128> {
    match prefix {
        IpNet::V4(prefix) => {
            prefix.network().to_bits().into()..=prefix.broadcast().to_bits().into()
        }
        IpNet::V6(prefix) => prefix.network().to_bits()..=prefix.broadcast().to_bits(),
    }
}

/// The addresses of one family that a network can give.
#[derive(Debug)]
pub struct Pool {
    usable: RangeInclusive<u128>,
    /// First to last of each range of taken addresses.
    taken: BTreeMap<u128, u128>,
    /// Prefixes routed to vNICs, which only their owners may have addresses in.
    routed: HashMap<(u128, u8), Uuid>,
    /// What hosts behind ports lease: no vNIC is given any of it.
    leased: Option<RangeInclusive<u128>>,
    bits: u8,
}

impl Pool {
    /// A subnet without its network and broadcast addresses.
    pub fn ipv4(subnet: Ipv4Net) -> Self {
        let all = range(subnet.into());
        Self::new(all.start() + 1..=all.end() - 1, 32)
    }

    /// A prefix without its subnet-router anycast address (RFC 4291 §2.6.1).
    pub fn ipv6(prefix: Ipv6Net) -> Self {
        let all = range(prefix.into());
        Self::new(all.start() + 1..=*all.end(), 128)
    }

    fn new(usable: RangeInclusive<u128>, bits: u8) -> Self {
        Self { usable, taken: BTreeMap::new(), routed: HashMap::new(), leased: None, bits }
    }

    /// Keeps addresses from vNICs, in the place of those before.
    pub fn set_leased(&mut self, range: Option<RangeInclusive<u128>>) {
        self.leased = range;
    }

    /// Returns the last address that is kept from vNICs, if any of `range` is.
    pub fn leased_within(&self, range: &RangeInclusive<u128>) -> Option<u128> {
        let leased = self.leased.as_ref()?;
        let meets = leased.start() <= range.end() && range.start() <= leased.end();
        meets.then_some(*leased.end())
    }

    /// Whether `address` can be given to a vNIC at all.
    pub fn is_usable(&self, address: u128) -> bool {
        self.usable.contains(&address)
    }

    /// The last address of a range of taken ones that overlaps `range`.
    fn taken_within(&self, range: RangeInclusive<u128>) -> Option<u128> {
        // Ranges are disjoint: if any overlaps, the last one that starts at or before its end does.
        let (_, last) = self.taken.range(..=*range.end()).next_back()?;
        (last >= range.start()).then_some(*last)
    }

    /// Whether an address of `range` is taken that is not in `own`.
    pub fn is_taken_by_others(
        &self,
        range: RangeInclusive<u128>,
        own: Option<&RangeInclusive<u128>>,
    ) -> bool {
        let (start, end) = (*range.start(), *range.end());
        // What is its own is taken, too: only what is left and right of it counts.
        let overlapping = own.filter(|own| *own.start() <= end && *own.end() >= start);
        let Some(own) = overlapping else { return self.taken_within(range).is_some() };
        (start < *own.start() && self.taken_within(start..=own.start() - 1).is_some())
            || (*own.end() < end && self.taken_within(own.end() + 1..=end).is_some())
    }

    /// The first address of the lowest block with a prefix of `len` bits of which nothing is taken
    /// or routed.
    pub fn lowest_free_block(&self, len: u8) -> Option<u128> {
        // A block of all addresses has no size in 128 bits.
        let size = 1_u128.checked_shl(u32::from(self.bits - len))?;
        // Blocks are aligned to their size: rounds up to the next one.
        let up = |address: u128| Some(address.checked_add(size - 1)? & !(size - 1));
        let mut first = up(*self.usable.start())?;
        while self.usable.contains(&first) && self.usable.contains(&(first + (size - 1))) {
            let block = first..=first + (size - 1);
            // Goes on behind what is in the way: as many steps as ranges and routes, not as blocks.
            let taken = self.taken_within(block.clone());
            let routed = || self.routed_last(&block, None).map(|(last, _)| last);
            let leased = || self.leased_within(&block);
            let Some(last) = taken.or_else(routed).or_else(leased) else {
                return Some(first);
            };
            first = up(last.checked_add(1)?)?;
        }
        None
    }

    /// Returns an address of a routed prefix that overlaps the block `range`, and who has that
    /// prefix: another one than `own`. No block of this size that is free begins at or before that
    /// address.
    pub fn routed_last(
        &self,
        range: &RangeInclusive<u128>,
        own: Option<Uuid>,
    ) -> Option<(u128, Uuid)> {
        // Prefixes are aligned: one larger than the block holds its first address, any other begins
        // inside.
        self.routed_over(*range.start(), own).or_else(|| {
            let mut others = self.routed.iter().filter(|(_, owner)| Some(**owner) != own);
            let inside = others.find(|((first, _), _)| range.contains(first));
            inside.map(|((first, _), owner)| (*first, *owner))
        })
    }

    /// The lowest address that is neither taken nor in a routed prefix, nor leased.
    pub fn lowest_free(&self) -> Option<u128> {
        let free = self.next_free(*self.usable.start())?;
        // A block of many: to look behind it is one step more.
        match self.leased_within(&(free..=free)) {
            Some(last) => self.next_free(last.checked_add(1)?),
            None => Some(free),
        }
    }

    /// The lowest address from `first` on that is neither taken nor in a routed prefix.
    pub fn next_free(&self, first: u128) -> Option<u128> {
        let mut candidate = first.max(*self.usable.start());
        while self.usable.contains(&candidate) {
            let range = self.taken.range(..=candidate).next_back();
            if let Some((_, last)) = range.filter(|(_, last)| **last >= candidate) {
                candidate = last.checked_add(1)?;
            } else if let Some((last, _)) = self.routed_over(candidate, None) {
                candidate = last.checked_add(1)?;
            } else {
                return Some(candidate);
            }
        }
        None
    }

    /// Takes addresses that are free.
    pub fn take(&mut self, addresses: RangeInclusive<u128>) {
        let (mut first, mut last) = addresses.into_inner();
        // Joined with its neighbours: a full pool is one range, as quick to search as an empty one.
        if let Some((before, end)) = self.taken.range(..first).next_back()
            && *end + 1 == first
        {
            first = *before;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(end) = self.taken.remove(&next)
        {
            last = end;
        }
        self.taken.insert(first, last);
    }

    /// Releases addresses that were taken together.
    pub fn give_back(&mut self, addresses: RangeInclusive<u128>) {
        let (start, end) = addresses.into_inner();
        let Some((first, last)) = self.taken.range(..=start).next_back() else { return };
        let (first, last) = (*first, *last);
        // Not taken together: rather nothing is released than an address of another vNIC.
        if last < end {
            return;
        }
        self.taken.remove(&first);
        if first < start {
            self.taken.insert(first, start - 1);
        }
        if end < last {
            self.taken.insert(end + 1, last);
        }
    }

    /// Who has this very prefix.
    pub fn route_owner(&self, prefix: IpNet) -> Option<Uuid> {
        self.routed.get(&(number(prefix.network()), prefix.prefix_len())).copied()
    }

    /// Who has a prefix that contains `address`, other than `own`, and that prefix's last address.
    pub fn routed_over(&self, address: u128, own: Option<Uuid>) -> Option<(u128, Uuid)> {
        // From the shortest on: the largest prefix is stepped over at once.
        (0..=self.bits).find_map(|len| {
            // A whole address has no host bits; a shift by 128 is none.
            let host_bits = u128::MAX.checked_shr(128 - u32::from(self.bits - len)).unwrap_or(0);
            let owner = self.routed.get(&(address & !host_bits, len))?;
            if Some(*owner) == own {
                return None;
            }
            Some((address | host_bits, *owner))
        })
    }

    /// Routes a prefix to a vNIC.
    pub fn route(&mut self, prefix: IpNet, owner: Uuid) {
        self.routed.insert((number(prefix.network()), prefix.prefix_len()), owner);
    }

    /// Routes a prefix no more.
    pub fn unroute(&mut self, prefix: IpNet) {
        self.routed.remove(&(number(prefix.network()), prefix.prefix_len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_edges_of_a_subnet_are_never_given() {
        let mut pool = Pool::ipv4("10.0.0.0/30".parse().unwrap());
        let given: Vec<_> = std::iter::from_fn(|| {
            let free = pool.lowest_free()?;
            pool.take(free..=free);
            Some(free & 0xff)
        })
        .collect();
        assert_eq!(given, [1, 2]);
        let pool = Pool::ipv6("fd00::/126".parse().unwrap());
        assert_eq!(pool.lowest_free().unwrap() & 0xff, 1);
    }

    #[test]
    fn routed_prefixes_are_stepped_over() {
        let mut pool = Pool::ipv4("10.0.0.0/24".parse().unwrap());
        let owner = Uuid::new_v4();
        pool.route("10.0.0.0/29".parse().unwrap(), owner);
        pool.route("10.0.0.8/31".parse().unwrap(), owner);
        assert_eq!(pool.lowest_free().unwrap() & 0xff, 10);
        assert_eq!(pool.routed_over(number("10.0.0.9".parse().unwrap()), None).unwrap().1, owner);
        assert_eq!(pool.routed_over(number("10.0.0.10".parse().unwrap()), None), None);
        let other = Uuid::new_v4();
        pool.route("10.0.0.8/32".parse().unwrap(), other);
        let at = number("10.0.0.8".parse().unwrap());
        assert_eq!(pool.routed_over(at, Some(owner)).unwrap().1, other, "inside the own prefix");
        assert_eq!(pool.routed_last(&(at..=at), Some(owner)).unwrap().1, other);
        pool.unroute("10.0.0.8/32".parse().unwrap());
        assert_eq!(pool.routed_last(&(at..=at + 1), Some(owner)), None);
        pool.unroute("10.0.0.0/29".parse().unwrap());
        assert_eq!(pool.lowest_free().unwrap() & 0xff, 1);
    }

    #[test]
    fn a_full_64_bit_prefix_is_no_slower_than_a_small_one() {
        let mut pool = Pool::ipv6("fd00::/64".parse().unwrap());
        for _ in 0..100_000 {
            let free = pool.lowest_free().unwrap();
            pool.take(free..=free);
        }
        assert_eq!(pool.taken.len(), 1);
    }

    #[test]
    fn blocks_are_free_of_addresses_and_routes() {
        let block = |n: u128| number("fd00::".parse().unwrap()) + (n << 64);
        let mut pool = Pool::ipv6("fd00::/61".parse().unwrap());
        let free = pool.lowest_free().unwrap();
        pool.take(free..=free);
        assert_eq!(pool.lowest_free_block(64), Some(block(1)), "the first has the anycast address");
        pool.take(block(1)..=block(2) - 1);
        pool.route("fd00:0:0:2:8000::/65".parse().unwrap(), Uuid::new_v4());
        pool.route("fd00:0:0:4::/63".parse().unwrap(), Uuid::new_v4());
        pool.take(block(3) + 7..=block(3) + 7);
        assert_eq!(pool.lowest_free_block(64), Some(block(6)));
        for (n, is_routed) in [(1, false), (2, true), (4, true), (5, true), (6, false)] {
            let found = pool.routed_last(&(block(n)..=block(n + 1) - 1), None);
            assert_eq!(found.is_some(), is_routed, "block {n}");
        }
        pool.take(block(6)..=block(7) - 1);
        pool.take(block(7)..=block(7) + (block(1) - block(0) - 1));
        assert_eq!(pool.lowest_free_block(64), None);
        let own = block(6)..=block(7) - 1;
        assert!(!pool.is_taken_by_others(own.clone(), Some(&own)));
        assert!(pool.is_taken_by_others(own.clone(), None));
        assert!(pool.is_taken_by_others(block(5)..=block(7), Some(&own)));
        pool.give_back(own);
        assert_eq!(pool.lowest_free_block(64), Some(block(6)));
    }

    #[test]
    fn what_hosts_lease_is_no_vnics() {
        let base = number("10.0.0.0".parse().unwrap());
        let mut pool = Pool::ipv4("10.0.0.0/29".parse().unwrap());
        pool.set_leased(Some(base + 2..=base + 4));
        let given = std::iter::from_fn(|| {
            let free = pool.lowest_free()?;
            pool.take(free..=free);
            Some(free - base)
        });
        assert_eq!(given.collect::<Vec<_>>(), [1, 5, 6]);
        assert_eq!(pool.next_free(base + 1), Some(base + 2));
        pool.take(base + 2..=base + 3);
        assert_eq!(pool.next_free(base + 2), Some(base + 4), "those that were vNICs' before");
        assert_eq!(pool.leased_within(&(base + 4..=base + 9)), Some(base + 4));
        assert_eq!(pool.leased_within(&(base + 5..=base + 9)), None);
        let block = |n: u128| number("fd00::".parse().unwrap()) + (n << 64);
        let mut pool = Pool::ipv6("fd00::/62".parse().unwrap());
        pool.set_leased(Some(block(1) + 7..=block(2) - 1));
        assert_eq!(pool.lowest_free_block(64), Some(block(2)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            steps in proptest::collection::vec((any::<bool>(), 0_u128..40), 0..200),
        ) {
            let mut pool = Pool::ipv4("10.0.0.0/27".parse().unwrap());
            let base = number("10.0.0.0".parse().unwrap());
            let mut taken = BTreeSet::new();
            for (take, offset) in steps {
                let address = base + offset;
                if take && taken.insert(address) {
                    pool.take(address..=address);
                } else if !take && taken.remove(&address) {
                    pool.give_back(address..=address);
                }
                let lowest = (base + 1..base + 31).find(|a| !taken.contains(a));
                prop_assert_eq!(pool.lowest_free(), lowest);
                let all = base..=base + 100;
                prop_assert_eq!(pool.is_taken_by_others(all.clone(), None), !taken.is_empty());
                let others = taken.iter().any(|a| *a != address);
                let own = address..=address;
                prop_assert_eq!(pool.is_taken_by_others(all, Some(&own)), others);
                for a in base..base + 40 {
                    prop_assert_eq!(pool.is_taken_by_others(a..=a, None), taken.contains(&a));
                }
            }
        }
    }
}
