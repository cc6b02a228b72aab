//! Which addresses of a network are taken, and which is the lowest free one.
//!
//! Taken addresses are kept as disjoint ranges that never touch, so the lowest free address follows the first range:
//! every question and change costs O(log n), at a /8 and a /64 alike. Addresses of both families are 128-bit numbers.

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
        Self { usable, taken: BTreeMap::new(), routed: HashMap::new(), bits }
    }

    /// Whether `address` can be given to a vNIC at all.
    pub fn is_usable(&self, address: u128) -> bool {
        self.usable.contains(&address)
    }

    /// Whether `address` is taken.
    pub fn is_taken(&self, address: u128) -> bool {
        self.taken.range(..=address).next_back().is_some_and(|(_, last)| *last >= address)
    }

    /// The first taken address in a range.
    pub fn first_taken(&self, range: RangeInclusive<u128>) -> Option<u128> {
        if self.is_taken(*range.start()) {
            return Some(*range.start());
        }
        self.taken.range(range).next().map(|(first, _)| *first)
    }

    /// The lowest address that is neither taken nor in a routed prefix.
    pub fn lowest_free(&self) -> Option<u128> {
        let mut candidate = *self.usable.start();
        while self.usable.contains(&candidate) {
            let range = self.taken.range(..=candidate).next_back();
            if let Some((_, last)) = range.filter(|(_, last)| **last >= candidate) {
                candidate = last.checked_add(1)?;
            } else if let Some((last, _)) = self.routed_over(candidate) {
                candidate = last.checked_add(1)?;
            } else {
                return Some(candidate);
            }
        }
        None
    }

    /// Takes an address that is free.
    pub fn take(&mut self, address: u128) {
        let (mut first, mut last) = (address, address);
        if let Some((before, end)) = self.taken.range(..address).next_back()
            && *end + 1 == address
        {
            first = *before;
        }
        if let Some(next) = address.checked_add(1)
            && let Some(end) = self.taken.remove(&next)
        {
            last = end;
        }
        self.taken.insert(first, last);
    }

    /// Gives an address back that is taken.
    pub fn give_back(&mut self, address: u128) {
        let Some((first, last)) = self.taken.range(..=address).next_back() else { return };
        let (first, last) = (*first, *last);
        if last < address {
            return;
        }
        self.taken.remove(&first);
        if first < address {
            self.taken.insert(first, address - 1);
        }
        if address < last {
            self.taken.insert(address + 1, last);
        }
    }

    /// Who has this very prefix.
    pub fn route_owner(&self, prefix: IpNet) -> Option<Uuid> {
        self.routed.get(&(number(prefix.network()), prefix.prefix_len())).copied()
    }

    /// Who has a prefix that contains `address`, and that prefix's last address.
    pub fn routed_over(&self, address: u128) -> Option<(u128, Uuid)> {
        (0..=self.bits).find_map(|len| {
            let host_bits = u128::MAX.checked_shr(128 - u32::from(self.bits - len)).unwrap_or(0);
            let owner = self.routed.get(&(address & !host_bits, len))?;
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
            pool.take(free);
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
        assert_eq!(pool.routed_over(number("10.0.0.9".parse().unwrap())).unwrap().1, owner);
        assert_eq!(pool.routed_over(number("10.0.0.10".parse().unwrap())), None);
        pool.unroute("10.0.0.0/29".parse().unwrap());
        assert_eq!(pool.lowest_free().unwrap() & 0xff, 1);
    }

    #[test]
    fn a_full_64_bit_prefix_is_no_slower_than_a_small_one() {
        let mut pool = Pool::ipv6("fd00::/64".parse().unwrap());
        for _ in 0..100_000 {
            let free = pool.lowest_free().unwrap();
            pool.take(free);
        }
        assert_eq!(pool.taken.len(), 1);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(steps in proptest::collection::vec((any::<bool>(), 0_u128..40), 0..200)) {
            let mut pool = Pool::ipv4("10.0.0.0/27".parse().unwrap());
            let base = number("10.0.0.0".parse().unwrap());
            let mut taken = BTreeSet::new();
            for (take, offset) in steps {
                let address = base + offset;
                if take && taken.insert(address) {
                    pool.take(address);
                } else if !take && taken.remove(&address) {
                    pool.give_back(address);
                }
                let lowest = (base + 1..base + 31).find(|a| !taken.contains(a));
                prop_assert_eq!(pool.lowest_free(), lowest);
                prop_assert_eq!(pool.first_taken(base..=base + 100), taken.first().copied());
                for a in base..base + 40 {
                    prop_assert_eq!(pool.is_taken(a), taken.contains(&a));
                }
            }
        }
    }
}
