//! Which port of a switched network a MAC is behind, as far as its frames have shown it
//! (IEEE 802.1Q-2018 §8.7, §8.8).
//!
//! Takes the sources of frames and the time; returns a port, or none where nothing is known or was
//! heard for long. Each reactor has its own of each network. It holds what a guest may invent, so
//! there is a limit to what one port may have in it, and to all.

use super::{keyed::Keyed, tables::PortId};
use crate::addr::MacAddr;
use std::collections::HashMap;

/// How often what has aged is taken out, in seconds.
// It is not found before either: this is for its memory, and that others of its port have room.
const SWEEP: u32 = 30;
/// How often a MAC may move within seconds, where loops are looked for.
// A guest that moves to another host moves once. A loop moves a MAC with each frame.
pub(super) const MOVES: u8 = 5;

/// A MAC in a VLAN of its guests' own, 0 where there is none: in one word, which is hashed fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key(u64);

impl Key {
    pub(super) fn new(MacAddr([a, b, c, d, e, f]): MacAddr, vid: u16) -> Self {
        Self(u64::from(vid) << 48 | u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    pub(super) fn mac(self) -> MacAddr {
        let [_, _, mac @ ..] = self.0.to_be_bytes();
        MacAddr(mac)
    }

    pub(super) fn vid(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// How many MACs may be known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Behind the port in question.
    pub port: usize,
    /// In all.
    pub table: usize,
    /// How often one may move, each time within a second of the last; none: as often as it likes.
    pub moves: Option<u8>,
}

/// What a frame has taught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lesson {
    /// Its source is known to be behind its port.
    Known,
    /// Its source is behind its port, and was not known to be.
    New {
        /// It was behind another one.
        has_moved: bool,
    },
    /// Nothing: there are as many behind its port as may be.
    PortFull,
    /// Nothing: there are as many as may be.
    TableFull,
    /// Nothing: its source was behind other ports too often of late.
    Flaps,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    port: PortId,
    /// When it last sent, in seconds.
    seen: u32,
    /// When it last came to its port, and how often it has moved in a row.
    moved: u32,
    moves: u8,
}

/// The MACs that were learned. Times are seconds since any moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Fdb {
    entries: HashMap<Key, Entry, Keyed>,
    /// How many entries each port has.
    counts: HashMap<PortId, usize>,
    /// How long a MAC is known after its last frame, in seconds.
    ageing: u32,
}

impl Fdb {
    /// Sets how long a MAC is known after its last frame, in seconds.
    pub(super) fn age_after(&mut self, ageing: u32) {
        self.ageing = ageing;
    }

    /// Returns how often to call [`Fdb::age`], in seconds.
    pub(super) fn sweep(&self) -> u32 {
        self.ageing.min(SWEEP)
    }

    /// Notes that a MAC has sent, behind `port`. One that was behind another port has moved.
    pub(super) fn learn(&mut self, mac: Key, port: PortId, limits: Limits, now: u32) -> Lesson {
        let (mut moves, mut has_moved) = (0, false);
        if let Some(entry) = self.entries.get_mut(&mac) {
            if entry.port == port {
                // A busy sender does not make the line its own with each frame.
                if entry.seen != now {
                    entry.seen = now;
                }
                return Lesson::Known;
            }
            if now.saturating_sub(entry.moved) <= 1 && !entry.has_aged(self.ageing, now) {
                if limits.moves.is_some_and(|most| entry.moves >= most) {
                    return Lesson::Flaps;
                }
                moves = entry.moves;
            }
            (moves, has_moved) = (moves.saturating_add(1), true);
            // Whether there is room for it or not: it is there no longer.
            self.forget(mac);
        }
        let count = self.counts.entry(port).or_default();
        if *count >= limits.port {
            return Lesson::PortFull;
        }
        if self.entries.len() >= limits.table {
            return Lesson::TableFull;
        }
        *count += 1;
        self.entries.insert(mac, Entry { port, seen: now, moved: now, moves });
        Lesson::New { has_moved }
    }

    /// Returns the port that a MAC is behind.
    pub(super) fn lookup(&self, mac: Key, now: u32) -> Option<PortId> {
        let entry = self.entries.get(&mac)?;
        (!entry.has_aged(self.ageing, now)).then_some(entry.port)
    }

    /// Takes out what has aged.
    pub(super) fn age(&mut self, now: u32) {
        let ageing = self.ageing;
        self.entries.retain(|_, entry| !entry.has_aged(ageing, now));
        self.count();
    }

    /// Takes out what is behind ports that are no members any more.
    pub(super) fn keep(&mut self, is_member: impl Fn(PortId) -> bool) {
        // Ports are few, and a table is published whenever anything changes in a network.
        if !self.counts.keys().all(|port| is_member(*port)) {
            self.entries.retain(|_, entry| is_member(entry.port));
            self.count();
        }
    }

    /// Returns all that is known: MACs, their ports, and for how many seconds each was silent.
    pub(super) fn iter(&self, now: u32) -> impl Iterator<Item = (Key, PortId, u32)> {
        let known = self.entries.iter().filter(move |(_, entry)| !entry.has_aged(self.ageing, now));
        known.map(move |(mac, entry)| (*mac, entry.port, now.saturating_sub(entry.seen)))
    }

    /// Returns how many MACs are known.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn count(&mut self) {
        self.counts.clear();
        for entry in self.entries.values() {
            *self.counts.entry(entry.port).or_default() += 1;
        }
    }

    fn forget(&mut self, mac: Key) {
        if let Some(entry) = self.entries.remove(&mac)
            && let Some(count) = self.counts.get_mut(&entry.port)
        {
            *count -= 1;
        }
    }
}

impl Entry {
    fn has_aged(&self, ageing: u32, now: u32) -> bool {
        now.saturating_sub(self.seen) >= ageing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGEING: u32 = 300;
    const LIMITS: Limits = Limits { port: 1024, table: 2000, moves: Some(MOVES) };

    fn fdb() -> Fdb {
        Fdb { ageing: AGEING, ..Fdb::default() }
    }

    fn port(slot: u32) -> PortId {
        PortId { slot, generation: 1 }
    }

    fn mac(number: u16) -> Key {
        let [high, low] = number.to_be_bytes();
        Key::new(MacAddr([0x02, 0, 0, 0, high, low]), 0)
    }

    #[test]
    fn a_key_is_a_mac_and_a_vlan() {
        let key = Key::new(MacAddr([1, 2, 3, 4, 5, 6]), 4095);
        assert_eq!((key.mac(), key.vid()), (MacAddr([1, 2, 3, 4, 5, 6]), 4095));
        assert_ne!(key, Key::new(MacAddr([1, 2, 3, 4, 5, 6]), 0));
    }

    #[test]
    fn a_mac_is_known_for_five_minutes_after_its_last_frame_and_where_that_came_from() {
        let mut fdb = fdb();
        assert_eq!(fdb.lookup(mac(1), 0), None);
        fdb.learn(mac(1), port(1), LIMITS, 0);
        fdb.learn(mac(1), port(1), LIMITS, 100);
        assert_eq!(fdb.lookup(mac(1), 399), Some(port(1)));
        assert_eq!(fdb.lookup(mac(1), 400), None);
        assert_eq!(fdb.learn(mac(1), port(2), LIMITS, 120), Lesson::New { has_moved: true });
        assert_eq!(fdb.lookup(mac(1), 120), Some(port(2)));
        fdb.age(419);
        assert!(!fdb.is_empty());
        fdb.age(420);
        assert!(fdb.entries.is_empty() && fdb.counts.is_empty());
    }

    #[test]
    fn a_port_has_so_many_macs_and_leaves_the_others_theirs() {
        let mut fdb = fdb();
        let new = Lesson::New { has_moved: false };
        assert_eq!(fdb.learn(mac(0), port(2), LIMITS, 0), new);
        assert_eq!(fdb.learn(mac(0), port(2), LIMITS, 0), Lesson::Known);
        for number in 1..=3000 {
            let room = if number <= 1024 { new } else { Lesson::PortFull };
            assert_eq!(fdb.learn(mac(number), port(1), LIMITS, 0), room);
        }
        assert_eq!(fdb.entries.len(), 1 + 1024);
        assert_eq!(fdb.lookup(mac(1024), 0), Some(port(1)));
        assert_eq!(fdb.lookup(mac(1025), 0), None);
        fdb.learn(mac(5000), port(2), LIMITS, 0);
        assert_eq!(fdb.lookup(mac(5000), 0), Some(port(2)));
        // What moves to a port without room is no longer where it was.
        assert_eq!(fdb.learn(mac(0), port(1), LIMITS, 0), Lesson::PortFull);
        assert_eq!(fdb.lookup(mac(0), 0), None);
        // Nor has the network more than it may have.
        let taught = (6000..=9000).map(|at| fdb.learn(mac(at), port(at.into()), LIMITS, 0));
        assert_eq!(taught.filter(|lesson| *lesson == Lesson::TableFull).count(), 3001 - 975);
        assert_eq!(fdb.entries.len(), 2000);
        // There is room again when the others have aged.
        fdb.age(AGEING);
        fdb.learn(mac(1025), port(1), LIMITS, AGEING);
        assert_eq!(fdb.lookup(mac(1025), AGEING), Some(port(1)));
    }

    #[test]
    fn a_mac_moves_at_once_but_not_to_and_fro_for_ever() {
        let mut limits = LIMITS;
        let learn = |fdb: &mut Fdb, limits: Limits, wait: u32, start: u32| {
            let learn = |at| fdb.learn(mac(1), port(at % 2), limits, start + wait * at);
            let is_taken = |lesson: &Lesson| matches!(lesson, Lesson::Known | Lesson::New { .. });
            (0..20).map(learn).filter(is_taken).count()
        };
        let mut looped = fdb();
        // To its port and five times away; from where it stays then, it may go on sending.
        assert_eq!(learn(&mut looped, limits, 0, 0), 6 + 7);
        assert_eq!(looped.lookup(mac(1), 0), Some(port(1)));
        assert_eq!(learn(&mut looped, limits, 0, 1), 10);
        assert_eq!(learn(&mut fdb(), limits, 2, 0), 20, "it takes its time");
        limits.moves = None;
        assert_eq!(learn(&mut fdb(), limits, 0, 0), 20, "no loops are looked for");
    }

    #[test]
    fn what_is_behind_a_port_that_has_left_is_forgotten() {
        let mut fdb = fdb();
        fdb.learn(mac(1), port(1), LIMITS, 0);
        fdb.learn(mac(2), port(2), LIMITS, 0);
        fdb.keep(|member| member == port(2));
        assert_eq!(fdb.lookup(mac(1), 0), None);
        assert_eq!(fdb.lookup(mac(2), 0), Some(port(2)));
        assert_eq!(fdb.counts.len(), 1);
    }

    proptest! {
        #[test]
        fn it_knows_what_the_last_frame_of_each_mac_has_shown(
            frames in proptest::collection::vec((0..8_u16, 0..3_u32, 2..200_u32), 1..100),
        ) {
            let (mut now, mut fdb) = (0, fdb());
            let mut last = HashMap::new();
            for (number, slot, wait) in frames {
                now += wait;
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
