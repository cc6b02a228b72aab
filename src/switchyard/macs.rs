//! Behind which endpoint a MAC is: each endpoint's own, and those that its frames taught.
//!
//! Whoever sent last from a MAC has it, as in the seed's program. An entry lives as long as its
//! endpoint: nothing ages, so that what a fabric does depends on what was sent and not on when.

use crate::addr::MacAddr;
use std::collections::BTreeMap;

/// MACs behind one endpoint at most, its own aside.
const MAX_BEHIND_ONE: usize = 1024;
/// MACs in all at most, those of endpoints aside.
const MAX_LEARNED: usize = 8192;
/// The first octets of MACs that a fabric chooses: locally administered, then "SY".
const PREFIX: [u8; 3] = [0x02, 0x53, 0x59];

/// Where a MAC is.
#[derive(Debug, Clone, Copy)]
struct Entry {
    endpoint: u32,
    /// Whether a frame taught it, so that it counts against the limits.
    is_learned: bool,
}

/// Where each MAC is.
#[derive(Debug, Default)]
pub(super) struct Macs {
    entries: BTreeMap<MacAddr, Entry>,
    /// How many were learned behind an endpoint.
    learned: BTreeMap<u32, usize>,
    learned_in_all: usize,
    /// The last that was chosen.
    chosen: u32,
}

impl Macs {
    /// A table that chooses those after a number.
    pub(super) fn after(chosen: u32) -> Self {
        Self { chosen, ..Self::default() }
    }

    /// The endpoint that a frame for this MAC goes to.
    pub(super) fn get(&self, mac: MacAddr) -> Option<u32> {
        self.entries.get(&mac).map(|entry| entry.endpoint)
    }

    /// Chooses a MAC that nobody has: one more than the last, after none 02:53:59:00:00:01.
    pub(super) fn choose(&mut self) -> MacAddr {
        loop {
            self.chosen = self.chosen.wrapping_add(1);
            let [_, a, b, c] = self.chosen.to_be_bytes();
            let mac = MacAddr([PREFIX[0], PREFIX[1], PREFIX[2], a, b, c]);
            // Ends: there are 2^24 of them, and the table is far smaller.
            if !self.entries.contains_key(&mac) {
                return mac;
            }
        }
    }

    /// A MAC that nobody has becomes an endpoint's own.
    pub(super) fn own(&mut self, mac: MacAddr, endpoint: u32) {
        self.entries.insert(mac, Entry { endpoint, is_learned: false });
    }

    /// A frame from the MAC came from the endpoint. Reports whether the table says so now.
    pub(super) fn learn(&mut self, mac: MacAddr, endpoint: u32) -> bool {
        let known = self.entries.get(&mac).copied();
        // No frame goes to nobody, and one that goes to a group goes to all of it.
        let is_of_a_host = !mac.is_multicast() && mac != MacAddr([0; 6]);
        if known.is_some_and(|entry| entry.endpoint == endpoint) || !is_of_a_host {
            return is_of_a_host;
        }
        let taken_over = known.filter(|entry| entry.is_learned).map(|entry| entry.endpoint);
        let in_all = self.learned_in_all - usize::from(taken_over.is_some());
        let behind_it = self.learned.get(&endpoint).copied().unwrap_or_default();
        // Also who takes over others' MACs has so many at most.
        if behind_it >= MAX_BEHIND_ONE || in_all >= MAX_LEARNED {
            return false;
        }
        if let Some(count) = taken_over.and_then(|other| self.learned.get_mut(&other)) {
            *count -= 1;
        }
        self.learned.insert(endpoint, behind_it + 1);
        self.learned_in_all = in_all + 1;
        self.entries.insert(mac, Entry { endpoint, is_learned: true });
        true
    }

    /// The endpoint is gone, and what was behind it unknown.
    pub(super) fn forget(&mut self, endpoint: u32) {
        self.entries.retain(|_, entry| entry.endpoint != endpoint);
        self.learned_in_all -= self.learned.remove(&endpoint).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u16) -> MacAddr {
        let [a, b] = n.to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    #[test]
    fn one_endpoint_cannot_fill_the_table() {
        let mut macs = Macs::default();
        let learned = (0..2000).filter(|n| macs.learn(mac(*n), 1)).count();
        assert_eq!(learned, MAX_BEHIND_ONE);
        assert!(macs.learn(mac(5000), 2), "others have room");
        macs.forget(1);
        assert_eq!((macs.get(mac(0)), macs.get(mac(5000))), (None, Some(2)));
        let learned = (0..2000).filter(|n| macs.learn(mac(*n), 1)).count();
        assert_eq!(learned, MAX_BEHIND_ONE, "its room is free again");
        for endpoint in 3..12 {
            (0..1024).for_each(|n| {
                macs.learn(mac(6000 + endpoint * 1024 + n), endpoint.into());
            });
        }
        assert_eq!(macs.entries.len(), MAX_LEARNED);
    }

    #[test]
    fn who_takes_over_has_no_more_than_others() {
        let mut macs = Macs::default();
        for endpoint in 1..5 {
            (0..1024).for_each(|n| assert!(macs.learn(mac(endpoint * 1024 + n), endpoint.into())));
            (0..1024).for_each(|n| {
                macs.learn(mac(endpoint * 1024 + n), 9);
            });
        }
        assert_eq!(macs.learned[&9], MAX_BEHIND_ONE);
        (1..5).for_each(|endpoint| macs.forget(endpoint));
        assert_eq!((macs.entries.len(), macs.learned_in_all), (1024, 1024));
        macs.own(mac(9), 6);
        assert!(macs.learn(mac(9), 7), "the last who sent from it");
        assert_eq!(macs.get(mac(9)), Some(7));
        assert!(!macs.learn(MacAddr::BROADCAST, 7) && macs.get(MacAddr::BROADCAST).is_none());
    }

    #[test]
    fn chosen_macs_are_free() {
        let mut macs = Macs::default();
        macs.own("02:53:59:00:00:02".parse().unwrap(), 1);
        assert_eq!(macs.choose().to_string(), "02:53:59:00:00:01");
        assert_eq!(macs.choose().to_string(), "02:53:59:00:00:03");
    }
}
