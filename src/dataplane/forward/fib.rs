//! The forwarding table of a network: exact addresses first, then the longest routed prefix.
//!
//! Immutable once built. Both steps are probes of open-addressed tables (load at most one half)
//! whose hash has a seed of its own, so that a tenant who chooses addresses cannot choose
//! collisions: one probe for an exact address, then one for each prefix length present.

use super::{keyed::mix, tables::NextHop};
use crate::dataplane::frame::verdict::NextHopId;
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What an address looks like to a table.
trait Key: Copy + Eq {
    fn hash(self, seed: u64) -> u64;
    /// The first `len` bits; the rest zero.
    fn masked(self, len: u8) -> Self;
}

impl Key for u32 {
    fn hash(self, seed: u64) -> u64 {
        mix(u64::from(self) ^ seed)
    }
    fn masked(self, len: u8) -> Self {
        // A prefix of length 0 shifts by the whole width, which `<<` does not do.
        self & Self::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }
}

impl Key for u128 {
    fn hash(self, seed: u64) -> u64 {
        mix(mix(self as u64 ^ seed) ^ (self >> 64) as u64)
    }
    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }
}

/// Keys to next hops, open addressing with linear probing.
#[derive(Debug)]
struct Table<K> {
    seed: u64,
    /// A power of two, at least twice the entries; empty where there is none.
    slots: Box<[(K, NextHopId)]>,
}

impl<K: Key> Table<K> {
    fn build(seed: u64, entries: &[(K, NextHopId)]) -> Self {
        let Some((some, _)) = entries.first() else { return Self { seed, slots: Box::default() } };
        // Half of the slots stay empty, so that every probe ends soon, and at all.
        let len = (entries.len() * 2).next_power_of_two();
        // Any key will do for an empty slot: the absent next hop marks it.
        let mut table = Self { seed, slots: vec![(*some, NextHopId::NONE); len].into() };
        for (key, next_hop) in entries {
            let mut at = table.home(*key);
            while table.slots[at].1 != NextHopId::NONE && table.slots[at].0 != *key {
                at = (at + 1) & (len - 1);
            }
            table.slots[at] = (*key, *next_hop);
        }
        table
    }

    #[inline(always)]
    fn home(&self, key: K) -> usize {
        key.hash(self.seed) as usize & (self.slots.len() - 1)
    }

    #[inline(always)]
    fn get(&self, key: K) -> Option<NextHopId> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(key);
        loop {
            match self.slots[at] {
                (_, NextHopId::NONE) => return None,
                (other, next_hop) if other == key => return Some(next_hop),
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }
}

/// One family.
#[derive(Debug)]
struct Family<K> {
    hosts: Table<K>,
    // A table a length: a lookup costs a probe for each length, however many prefixes there are.
    /// By prefix length, longest first.
    prefixes: Vec<(u8, Table<K>)>,
}

impl<K: Key> Family<K> {
    fn build(seed: u64, hosts: &[(K, NextHopId)], prefixes: &mut [(u8, K, NextHopId)]) -> Self {
        prefixes.sort_by_key(|(len, ..)| std::cmp::Reverse(*len));
        let by_len = prefixes.chunk_by(|a, b| a.0 == b.0).map(|group| {
            let entries: Vec<_> = group.iter().map(|(_, key, hop)| (*key, *hop)).collect();
            (group[0].0, Table::build(seed, &entries))
        });
        Self { hosts: Table::build(seed, hosts), prefixes: by_len.collect() }
    }

    #[inline(always)]
    fn lookup(&self, key: K) -> Option<NextHopId> {
        match self.hosts.get(key) {
            None => self.longest(key),
            host => host,
        }
    }

    fn longest(&self, key: K) -> Option<NextHopId> {
        self.prefixes.iter().find_map(|(len, table)| table.get(key.masked(*len)))
    }
}

/// Addresses and prefixes of one network to next hops.
#[derive(Debug)]
pub struct Fib {
    next_hops: Box<[NextHop]>,
    ipv4: Family<u32>,
    ipv6: Family<u128>,
}

impl Fib {
    /// The next hop towards `address`.
    #[inline]
    pub fn lookup_ipv4(&self, address: Ipv4Addr) -> Option<NextHopId> {
        self.ipv4.lookup(address.to_bits())
    }

    /// The next hop towards `address`.
    #[inline]
    pub fn lookup_ipv6(&self, address: Ipv6Addr) -> Option<NextHopId> {
        self.ipv6.lookup(address.to_bits())
    }

    /// The next hop that this table calls `id`: one that a lookup in it gave.
    #[inline]
    pub fn next_hop(&self, id: NextHopId) -> &NextHop {
        &self.next_hops[id.0 as usize]
    }
}

/// Collects what a [`Fib`] is made of.
#[derive(Debug, Default)]
pub struct FibBuilder {
    next_hops: Vec<NextHop>,
    hosts_ipv4: Vec<(u32, NextHopId)>,
    hosts_ipv6: Vec<(u128, NextHopId)>,
    prefixes_ipv4: Vec<(u8, u32, NextHopId)>,
    prefixes_ipv6: Vec<(u8, u128, NextHopId)>,
}

impl FibBuilder {
    /// Adds a next hop, for addresses and prefixes to name.
    pub fn next_hop(&mut self, next_hop: NextHop) -> NextHopId {
        self.next_hops.push(next_hop);
        NextHopId(self.next_hops.len() as u32 - 1)
    }

    /// Adds an exact address.
    pub fn host_ipv4(&mut self, address: Ipv4Addr, next_hop: NextHopId) {
        self.hosts_ipv4.push((address.to_bits(), next_hop));
    }

    /// Adds an exact address.
    pub fn host_ipv6(&mut self, address: Ipv6Addr, next_hop: NextHopId) {
        self.hosts_ipv6.push((address.to_bits(), next_hop));
    }

    /// Adds a prefix.
    pub fn prefix_ipv4(&mut self, prefix: Ipv4Net, next_hop: NextHopId) {
        self.prefixes_ipv4.push((prefix.prefix_len(), prefix.network().to_bits(), next_hop));
    }

    /// Adds a prefix.
    pub fn prefix_ipv6(&mut self, prefix: Ipv6Net, next_hop: NextHopId) {
        self.prefixes_ipv6.push((prefix.prefix_len(), prefix.network().to_bits(), next_hop));
    }

    /// The table; `seed` is secret and random.
    pub fn build(mut self, seed: u64) -> Fib {
        Fib {
            ipv4: Family::build(seed, &self.hosts_ipv4, &mut self.prefixes_ipv4),
            ipv6: Family::build(seed, &self.hosts_ipv6, &mut self.prefixes_ipv6),
            next_hops: self.next_hops.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hop(number: u32) -> NextHopId {
        NextHopId(number)
    }

    #[test]
    fn exact_wins_over_longest_wins_over_shorter() {
        let mut builder = FibBuilder::default();
        builder.host_ipv4("10.1.2.3".parse().unwrap(), hop(1));
        builder.prefix_ipv4("10.0.0.0/8".parse().unwrap(), hop(2));
        builder.prefix_ipv4("10.1.2.0/24".parse().unwrap(), hop(3));
        builder.prefix_ipv6("::/0".parse().unwrap(), hop(4));
        builder.prefix_ipv6("fd00::/16".parse().unwrap(), hop(5));
        let fib = builder.build(7);
        let ipv4 = |a: &str| fib.lookup_ipv4(a.parse().unwrap()).map(|hop| hop.0);
        let ipv6 = |a: &str| fib.lookup_ipv6(a.parse().unwrap()).map(|hop| hop.0);
        assert_eq!(
            (ipv4("10.1.2.3"), ipv4("10.1.2.4"), ipv4("10.2.0.1")),
            (Some(1), Some(3), Some(2))
        );
        assert_eq!(
            (ipv4("11.0.0.1"), ipv6("fd00::1"), ipv6("2001:db8::1")),
            (None, Some(5), Some(4))
        );
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            hosts in proptest::collection::vec(0_u32..64, 0..20),
            prefixes in proptest::collection::vec((0_u8..=32, any::<u32>()), 0..20),
            probes in proptest::collection::vec(any::<u32>(), 1..40),
            seed: u64,
        ) {
            let mut builder = FibBuilder::default();
            let mut routes = Vec::new();
            for (at, host) in hosts.iter().enumerate() {
                routes.push((33, Ipv4Net::new((*host).into(), 32).unwrap(), hop(at as u32)));
                builder.host_ipv4((*host).into(), hop(at as u32));
            }
            for (at, (len, bits)) in prefixes.iter().enumerate() {
                let prefix = Ipv4Net::new((*bits).into(), *len).unwrap().trunc();
                routes.push((*len, prefix, hop(100 + at as u32)));
                builder.prefix_ipv4(prefix, hop(100 + at as u32));
            }
            let fib = builder.build(seed);
            for probe in probes.into_iter().chain(0..64) {
                let address = Ipv4Addr::from(probe);
                // The last of equal routes wins in the table too.
                let fits = routes.iter().filter(|(_, net, _)| net.contains(&address));
                let best = fits.max_by_key(|(len, ..)| *len);
                prop_assert_eq!(fib.lookup_ipv4(address), best.map(|(.., hop)| *hop));
            }
        }
    }
}
