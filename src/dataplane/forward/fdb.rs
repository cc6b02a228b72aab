//! Which port of a switched network a MAC is behind, as far as its frames have shown it
//! (IEEE 802.1Q-2018 §8.7, §8.8).
//!
//! Takes the sources of frames and the time; returns a port, or none where nothing is known or was
//! heard for long. Each reactor has its own of each network. It holds what a guest may invent, so
//! there is a limit to what one port may have in it, and to all.

use super::tables::PortId;
use crate::addr::MacAddr;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How many MACs may be known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Behind the port in question.
    pub port: usize,
    /// In all.
    pub table: usize,
}

/// How often what has aged is taken out.
// It is not found before either: this is for its memory, and that others of its port have room.
const SWEEP: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Entry {
    port: PortId,
    /// When it last sent.
    seen: Instant,
}

/// The MACs that were learned.
// Maps of the standard library: their hash is keyed at random, so no guest can choose collisions.
#[derive(Debug, Default)]
pub(super) struct Fdb {
    entries: HashMap<MacAddr, Entry>,
    /// How many entries each port has.
    counts: HashMap<PortId, usize>,
    /// How long a MAC is known after its last frame.
    ageing: Duration,
}

impl Fdb {
    /// Sets how long a MAC is known after its last frame.
    pub(super) fn age_after(&mut self, ageing: Duration) {
        self.ageing = ageing;
    }

    /// Returns when to call [`Fdb::age`] at the latest, after the first MAC has come.
    pub(super) fn sweep(&self) -> Duration {
        self.ageing
    }

    /// Notes that `mac` has sent, behind `port`. A MAC that was behind another port has moved.
    pub(super) fn learn(&mut self, mac: MacAddr, port: PortId, limits: Limits, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&mac) {
            if entry.port == port {
                entry.seen = now;
                return;
            }
            // Whether there is room for it or not: it is there no longer.
            self.forget(mac);
        }
        let count = self.counts.entry(port).or_default();
        // Beyond the limit nothing is lost: what is sent to it is flooded.
        if *count < limits.port && self.entries.len() < limits.table {
            *count += 1;
            self.entries.insert(mac, Entry { port, seen: now });
        }
    }

    /// Returns the port that `mac` is behind.
    pub(super) fn lookup(&self, mac: MacAddr, now: Instant) -> Option<PortId> {
        self.entries
            .get(&mac)
            .filter(|entry| !entry.has_aged(self.ageing, now))
            .map(|entry| entry.port)
    }

    /// Takes out what has aged. Returns when to do so again, if anything is left.
    pub(super) fn age(&mut self, now: Instant) -> Option<Instant> {
        let ageing = self.ageing;
        self.entries.retain(|_, entry| !entry.has_aged(ageing, now));
        self.counts.clear();
        for entry in self.entries.values() {
            *self.counts.entry(entry.port).or_default() += 1;
        }
        (!self.is_empty()).then(|| now + SWEEP)
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget(&mut self, mac: MacAddr) {
        if let Some(entry) = self.entries.remove(&mac)
            && let Some(count) = self.counts.get_mut(&entry.port)
        {
            *count -= 1;
        }
    }
}

impl Entry {
    fn has_aged(&self, ageing: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) >= ageing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGEING: Duration = Duration::from_secs(300);
    const LIMITS: Limits = Limits { port: 1024, table: 2000 };

    fn fdb() -> Fdb {
        Fdb { ageing: AGEING, ..Fdb::default() }
    }

    fn port(slot: u32) -> PortId {
        PortId { slot, generation: 1 }
    }

    fn mac(number: u16) -> MacAddr {
        let [high, low] = number.to_be_bytes();
        MacAddr([0x02, 0, 0, 0, high, low])
    }

    #[test]
    fn a_mac_is_known_for_five_minutes_after_its_last_frame_and_where_that_came_from() {
        let (start, mut fdb) = (Instant::now(), fdb());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(fdb.lookup(mac(1), at(0)), None);
        fdb.learn(mac(1), port(1), LIMITS, at(0));
        fdb.learn(mac(1), port(1), LIMITS, at(100));
        assert_eq!(fdb.lookup(mac(1), at(399)), Some(port(1)));
        assert_eq!(fdb.lookup(mac(1), at(400)), None);
        fdb.learn(mac(1), port(2), LIMITS, at(120));
        assert_eq!(fdb.lookup(mac(1), at(120)), Some(port(2)), "it has moved");
        assert_eq!(fdb.age(at(419)), Some(at(449)));
        assert_eq!(fdb.age(at(420)), None);
        assert!(fdb.entries.is_empty() && fdb.counts.is_empty());
    }

    #[test]
    fn a_port_has_so_many_macs_and_leaves_the_others_theirs() {
        let (start, mut fdb) = (Instant::now(), fdb());
        fdb.learn(mac(0), port(2), LIMITS, start);
        for number in 1..=3000 {
            fdb.learn(mac(number), port(1), LIMITS, start);
        }
        assert_eq!(fdb.entries.len(), 1 + 1024);
        assert_eq!(fdb.lookup(mac(1024), start), Some(port(1)));
        assert_eq!(fdb.lookup(mac(1025), start), None);
        fdb.learn(mac(5000), port(2), LIMITS, start);
        assert_eq!(fdb.lookup(mac(5000), start), Some(port(2)));
        // What moves to a port without room is no longer where it was.
        fdb.learn(mac(0), port(1), LIMITS, start);
        assert_eq!(fdb.lookup(mac(0), start), None);
        // Nor beyond what the network may have.
        for number in 6000..=9000 {
            fdb.learn(mac(number), port(u32::from(number)), LIMITS, start);
        }
        assert_eq!(fdb.entries.len(), 2000);
        // There is room again when the others have aged.
        let later = start + AGEING;
        assert_eq!(fdb.age(later), None);
        fdb.learn(mac(1025), port(1), LIMITS, later);
        assert_eq!(fdb.lookup(mac(1025), later), Some(port(1)));
    }

    proptest! {
        #[test]
        fn it_knows_what_the_last_frame_of_each_mac_has_shown(
            frames in proptest::collection::vec((0..8_u16, 0..3_u32, 0..200_u64), 1..100),
        ) {
            let (mut now, mut fdb) = (Instant::now(), fdb());
            let mut last = HashMap::new();
            for (number, slot, wait) in frames {
                now += Duration::from_secs(wait);
                if wait > 150 {
                    fdb.age(now);
                }
                fdb.learn(mac(number), port(slot), LIMITS, now);
                last.insert(number, (port(slot), now));
                for number in 0..8 {
                    let known = last.get(&number).filter(|(_, seen)| now - *seen < AGEING);
                    prop_assert_eq!(fdb.lookup(mac(number), now), known.map(|(port, _)| *port));
                }
                prop_assert_eq!(fdb.counts.values().sum::<usize>(), fdb.entries.len());
            }
        }
    }
}
