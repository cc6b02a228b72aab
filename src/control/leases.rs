//! Which address a host behind a port leases (RFC 2131 §4.3.1): the same as before where that is
//! free, else the lowest that nobody has or had, else the one that has been free for longest.
//!
//! Addresses of both families are 128-bit numbers. Takes who asks and the time; what is no host's
//! to have, as addresses of vNICs, is asked of who knows. Each port has as many addresses as MACs
//! may be behind it: however many MACs somebody makes up, others lease theirs.

use super::ipam::number;
use crate::{
    addr::MacAddr,
    dataplane::{
        Client,
        forward::{Lease, OFFER, tables::PortId},
    },
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

/// MACs of a network whose address is remembered.
const REMEMBERED: usize = 4096;
/// How long an address is nobody's that its host has found at another one.
// Who has it there may be gone by then (RFC 2131 leaves it open).
const DECLINED: Duration = Duration::from_secs(600);

/// A host that asks for an address.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) mac: MacAddr,
    /// The port that it is behind, and how many MACs may be there.
    pub(super) port: (PortId, u32),
    pub(super) client: Client,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leased {
    /// It has the address that it had.
    Again,
    /// It has another one, which nobody knows of yet.
    Anew,
    /// Its port has as many as it may.
    PortFull,
    /// No address is free.
    Empty,
}

/// An address, and who has it or had it last.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) lease: Arc<Lease>,
    pub(super) client: Client,
    /// Where it was asked for; none: by another process of the daemon.
    pub(super) port: Option<PortId>,
    /// When it is to end as far as that is stored.
    pub(super) stored_until: Instant,
}

impl Entry {
    /// Whether nobody else may have the address.
    fn is_held(&self, now: Instant) -> bool {
        self.lease.runs(now) || self.lease.is_declined() && self.lease.idle(now) < DECLINED
    }
}

/// The addresses of one family that hosts lease.
#[derive(Debug)]
pub(super) struct LeasePool {
    is_ipv6: bool,
    range: RangeInclusive<u128>,
    by_address: BTreeMap<u128, Entry>,
    by_mac: HashMap<MacAddr, u128>,
    remembered: usize,
}

impl LeasePool {
    pub(super) fn new(range: &RangeInclusive<IpAddr>) -> Self {
        Self {
            is_ipv6: range.start().is_ipv6(),
            range: number(*range.start())..=number(*range.end()),
            by_address: BTreeMap::new(),
            by_mac: HashMap::new(),
            remembered: REMEMBERED,
        }
    }

    /// Returns what each MAC has or had last, in order of addresses.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let all = self.by_address.iter();
        all.filter(|(at, entry)| self.by_mac.get(&entry.lease.mac) == Some(at)).map(|(_, it)| it)
    }

    /// Returns likewise, for another pool.
    pub(super) fn into_entries(self) -> impl Iterator<Item = Entry> {
        let Self { by_address, by_mac, .. } = self;
        let is_current = move |(at, it): &(u128, Entry)| by_mac.get(&it.lease.mac) == Some(at);
        by_address.into_iter().filter(is_current).map(|(_, entry)| entry)
    }

    /// Notes that everything is stored as it is.
    pub(super) fn note_stored(&mut self, now: Instant) {
        for entry in self.by_address.values_mut() {
            entry.stored_until = now + entry.lease.left(now);
        }
    }

    /// Takes over what is known already: of two for one MAC or address, the first.
    pub(super) fn adopt(&mut self, entry: Entry) {
        let (mac, address) = (entry.lease.mac, number(entry.lease.address));
        let is_free = !self.by_address.contains_key(&address) && !self.by_mac.contains_key(&mac);
        if is_free && self.range.contains(&address) && self.by_address.len() < self.remembered {
            self.by_mac.insert(mac, address);
            self.by_address.insert(address, entry);
        }
    }

    /// Gives a host an address. `next_free` returns the lowest address from its argument on that
    /// may be a host's at all.
    pub(super) fn lease(
        &mut self,
        asker: Asker,
        next_free: impl Fn(u128) -> Option<u128>,
        now: Instant,
    ) -> Leased {
        let (port, limit) = asker.port;
        let is_free = |address: u128| next_free(address) == Some(address);
        let known = self.by_mac.get(&asker.mac).copied();
        let kept = known
            .filter(|address| is_free(*address) && !self.by_address[address].lease.is_declined());
        let counts = |(address, entry): (&u128, &Entry)| {
            Some(*address) != kept && entry.port == Some(port) && entry.is_held(now)
        };
        if self.by_address.iter().filter(|entry| counts(*entry)).count() >= limit as usize {
            return Leased::PortFull;
        }
        if let Some(entry) = kept.and_then(|address| self.by_address.get_mut(&address)) {
            entry.lease.begin(now, OFFER);
            (entry.client, entry.port) = (asker.client, Some(port));
            return Leased::Again;
        }
        // Room for one more, whichever address it is.
        if self.by_address.len() >= self.remembered && self.forget_oldest(now).is_none() {
            return Leased::Empty;
        }
        // Of what is forgotten, an address may have become a vNIC's meanwhile.
        let lowest = self.lowest(&next_free);
        let oldest = || std::iter::from_fn(|| self.forget_oldest(now)).find(|at| is_free(*at));
        let Some(address) = lowest.or_else(oldest) else { return Leased::Empty };
        // One that was declined stays on the list by itself for a while.
        let lease = Arc::new(Lease::new(asker.mac, self.address(address), now, OFFER));
        let entry = Entry { lease, client: asker.client, port: Some(port), stored_until: now };
        self.by_mac.insert(asker.mac, address);
        self.by_address.insert(address, entry);
        Leased::Anew
    }

    /// Takes back what a MAC was given, which nobody knows of yet.
    pub(super) fn take_back(&mut self, mac: MacAddr) {
        if let Some(address) = self.by_mac.remove(&mac) {
            self.by_address.remove(&address);
        }
    }

    /// Returns the lowest address that nobody has or had.
    fn lowest(&self, next_free: impl Fn(u128) -> Option<u128>) -> Option<u128> {
        let mut candidate = *self.range.start();
        while self.range.contains(&candidate) {
            candidate = next_free(candidate).filter(|free| self.range.contains(free))?;
            if !self.by_address.contains_key(&candidate) {
                return Some(candidate);
            }
            candidate = candidate.checked_add(1)?;
        }
        None
    }

    /// Forgets the address that has been free for longest, and returns it.
    fn forget_oldest(&mut self, now: Instant) -> Option<u128> {
        let free = self.by_address.iter().filter(|(_, entry)| !entry.is_held(now));
        // Of two the lower one.
        let (address, entry) = free.min_by_key(|(_, entry)| Reverse(entry.lease.idle(now)))?;
        let (address, mac) = (*address, entry.lease.mac);
        // A reactor may have extended it just now.
        if !entry.lease.revoke(now) {
            return None;
        }
        self.by_address.remove(&address);
        // Its host may have another one by now, where it declined this.
        if self.by_mac.get(&mac) == Some(&address) {
            self.by_mac.remove(&mac);
        }
        Some(address)
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.is_ipv6 {
            Ipv6Addr::from_bits(number).into()
        } else {
            Ipv4Addr::from_bits(number as u32).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::forward::LEASE;
    use proptest::prelude::*;

    impl LeasePool {
        /// Returns what a MAC has or had.
        fn of(&self, mac: MacAddr) -> Option<&Entry> {
            self.by_mac.get(&mac).and_then(|address| self.by_address.get(address))
        }
    }

    fn mac(number: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, number])
    }

    fn ipv4(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// 10.0.0.8 to 10.0.0.15, of which 10.0.0.10 is a vNIC's.
    struct Rig {
        pool: LeasePool,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            let pool = LeasePool::new(&(ipv4(8)..=ipv4(15)));
            Self { pool, now: Instant::now() }
        }

        fn asks_of(&mut self, number: u8, port: (u32, u32)) -> Leased {
            let port = (PortId { slot: port.0, generation: 1 }, port.1);
            let asker = Asker { mac: mac(number), port, client: Client::default() };
            let vnics = super::number(ipv4(10));
            let next_free = |from| Some(if from == vnics { from + 1 } else { from });
            self.pool.lease(asker, next_free, self.now)
        }

        fn asks(&mut self, number: u8) -> Leased {
            self.asks_of(number, (1, 100))
        }

        fn of(&self, number: u8) -> IpAddr {
            self.pool.of(mac(number)).unwrap().lease.address
        }

        fn takes(&self, number: u8) -> bool {
            self.pool.of(mac(number)).unwrap().lease.extend(self.now, LEASE)
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn the_lowest_is_given_and_the_same_again_while_it_is_free() {
        let mut rig = Rig::new();
        for (number, last) in [(1, 8), (2, 9), (3, 11)] {
            assert_eq!((rig.asks(number), rig.of(number)), (Leased::Anew, ipv4(last)));
            assert!(rig.takes(number));
        }
        assert_eq!((rig.asks(2), rig.of(2)), (Leased::Again, ipv4(9)));
        // Long after its end, where there are others.
        rig.pass(10_000);
        assert_eq!((rig.asks(4), rig.of(4)), (Leased::Anew, ipv4(12)));
        assert_eq!((rig.asks(2), rig.of(2)), (Leased::Again, ipv4(9)));
        assert!(rig.takes(2));
        // An offer that nobody takes is over soon.
        rig.pass(60);
        assert!(!rig.takes(4));
        for (number, last) in [(5, 13), (6, 14), (7, 15)] {
            assert_eq!((rig.asks(number), rig.of(number)), (Leased::Anew, ipv4(last)));
        }
        // Now those go that have been free for longest.
        assert_eq!((rig.asks(8), rig.of(8)), (Leased::Anew, ipv4(8)));
        assert_eq!((rig.asks(9), rig.of(9)), (Leased::Anew, ipv4(11)));
        assert_eq!((rig.asks(1), rig.of(1)), (Leased::Anew, ipv4(12)));
        assert_eq!(rig.asks(3), Leased::Empty);
        rig.pass(60);
        assert_eq!(rig.asks(3), Leased::Anew);
        assert_eq!(rig.of(2), ipv4(9), "it is leased all the time");
    }

    #[test]
    fn a_port_has_as_many_as_it_may_have_macs() {
        let mut rig = Rig::new();
        assert_eq!([1, 2].map(|number| rig.asks_of(number, (1, 2))), [Leased::Anew; 2]);
        assert_eq!(rig.asks_of(3, (1, 2)), Leased::PortFull);
        assert_eq!(rig.asks_of(1, (1, 2)), Leased::Again);
        assert_eq!(rig.asks_of(3, (2, 2)), Leased::Anew, "another port has its own");
        // It moves there, and leaves room here.
        assert_eq!(rig.asks_of(2, (2, 2)), Leased::Again);
        assert_eq!(rig.asks_of(4, (1, 2)), Leased::Anew);
        assert_eq!(rig.asks_of(1, (2, 2)), Leased::PortFull);
        rig.pass(60);
        assert_eq!(rig.asks_of(5, (2, 2)), Leased::Anew, "what was not taken is free again");
    }

    #[test]
    fn what_was_declined_is_nobodys_for_a_while() {
        let mut rig = Rig::new();
        rig.asks(1);
        rig.pool.of(mac(1)).unwrap().lease.decline(rig.now);
        assert_eq!((rig.asks(1), rig.of(1)), (Leased::Anew, ipv4(9)));
        assert_eq!(rig.pool.entries().count(), 1);
        // It counts with its port all the same.
        assert_eq!(rig.asks_of(2, (1, 2)), Leased::PortFull);
        for number in 2..7 {
            assert_eq!(rig.asks(number), Leased::Anew);
        }
        assert_eq!(rig.asks(7), Leased::Empty);
        rig.takes(1);
        (2..7).for_each(|number| assert!(rig.takes(number)));
        rig.pass(601);
        assert_eq!((rig.asks(7), rig.of(7)), (Leased::Anew, ipv4(8)));
        assert_eq!((rig.asks(1), rig.of(1)), (Leased::Again, ipv4(9)), "the later one is its own");
    }

    #[test]
    fn no_more_is_remembered_than_may_be() {
        let mut rig = Rig::new();
        rig.pool.remembered = 3;
        for number in 1..4 {
            rig.asks(number);
            rig.pass(1);
        }
        assert!(rig.takes(1));
        assert_eq!(rig.asks(4), Leased::Empty, "all are held");
        rig.pass(60);
        assert_eq!((rig.asks(4), rig.of(4)), (Leased::Anew, ipv4(9)));
        assert!(rig.pool.of(mac(2)).is_none(), "it was the oldest");
        assert_eq!(rig.pool.entries().count(), 3);
    }

    #[test]
    fn what_another_process_knew_is_known() {
        let mut rig = Rig::new();
        let entry = |number, address, lasts| Entry {
            lease: Arc::new(Lease::new(mac(number), address, rig.now, lasts)),
            client: Client::default(),
            port: None,
            stored_until: rig.now,
        };
        rig.pool.adopt(entry(1, ipv4(9), LEASE));
        rig.pool.adopt(entry(2, ipv4(9), LEASE));
        rig.pool.adopt(entry(1, ipv4(11), LEASE));
        rig.pool.adopt(entry(3, ipv4(16), LEASE));
        rig.pool.adopt(entry(4, ipv4(8), Duration::ZERO));
        rig.pass(1);
        assert_eq!(rig.pool.entries().count(), 2);
        assert_eq!((rig.asks(1), rig.of(1)), (Leased::Again, ipv4(9)));
        assert_eq!((rig.asks(2), rig.of(2)), (Leased::Anew, ipv4(11)));
        assert_eq!((rig.asks(4), rig.of(4)), (Leased::Again, ipv4(8)));
    }

    /// What may happen: a MAC asks by a port, takes what it was given, gives it up, or declines it;
    /// time passes.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Asks(u8, u32),
        Takes(u8),
        Ends(u8),
        Declines(u8),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let mac = || 0..12_u8;
        let step = prop_oneof![
            4 => (mac(), 1..4_u32).prop_map(|(mac, port)| Step::Asks(mac, port)),
            4 => mac().prop_map(Step::Takes),
            1 => mac().prop_map(Step::Ends),
            1 => mac().prop_map(Step::Declines),
            1 => (1..2000_u64).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_address_is_two_hosts_and_no_port_has_too_many(steps in steps()) {
            const LIMIT: u32 = 3;
            let mut rig = Rig::new();
            // Every lease that was ever given: a host may go on with its own.
            let mut given: Vec<Arc<Lease>> = Vec::new();
            for step in steps {
                match step {
                    Step::Asks(number, port) => {
                        let before = rig.pool.of(mac(number)).map(|it| Arc::clone(&it.lease));
                        let leased = rig.asks_of(number, (port, LIMIT));
                        let entry = rig.pool.of(mac(number));
                        match (leased, before) {
                            (Leased::Again, before) => {
                                prop_assert_eq!(
                                    before.map(|it| it.address),
                                    entry.map(|it| it.lease.address)
                                );
                            }
                            (Leased::Anew, Some(before)) => prop_assert!(before.is_declined()),
                            _ => {}
                        }
                        if let (Leased::Again | Leased::Anew, Some(entry)) = (leased, entry) {
                            prop_assert!(entry.lease.runs(rig.now));
                            given.push(Arc::clone(&entry.lease));
                        }
                    }
                    Step::Pass(seconds) => rig.pass(seconds),
                    Step::Takes(number) | Step::Ends(number) | Step::Declines(number) => {
                        // Whatever was given to it last: it knows of nothing else.
                        let last = given.iter().rfind(|lease| lease.mac == mac(number));
                        match (step, last) {
                            (Step::Takes(_), Some(last)) => drop(last.extend(rig.now, LEASE)),
                            (Step::Ends(_), Some(last)) => last.end(rig.now),
                            // A reactor declines for nobody what has ended.
                            (_, Some(last)) if last.runs(rig.now) => last.decline(rig.now),
                            _ => {}
                        }
                    }
                }
                let running: HashMap<_, _> = given
                    .iter()
                    .filter(|lease| lease.runs(rig.now))
                    .map(|lease| ((lease.address, lease.mac), ()))
                    .collect();
                let addresses: std::collections::HashSet<_> =
                    running.keys().map(|(address, _)| *address).collect();
                prop_assert_eq!(addresses.len(), running.len(), "two have one address");
                let may_be = |address: &IpAddr| {
                    (ipv4(8)..=ipv4(15)).contains(address) && *address != ipv4(10)
                };
                prop_assert!(addresses.iter().all(may_be));
                for port in 1..4 {
                    let port = Some(PortId { slot: port, generation: 1 });
                    let all = rig.pool.by_address.values();
                    let held = all.filter(|it| it.port == port && it.is_held(rig.now));
                    prop_assert!(held.count() <= LIMIT as usize);
                }
            }
        }
    }
}
