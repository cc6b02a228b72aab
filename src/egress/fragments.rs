//! Packets of vNICs that came in fragments, until they are whole: few of them and not for long.
//! Takes fragments, returns what they make. Those that overlap are no stack's (RFC 5722): with them
//! the whole packet goes.

use super::packet::{Body, Packet};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long the first of a packet waits for the others.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Packets of a vNIC, and of all, that are not whole at once.
// Each is of 64 KiB at most, so 4 MiB in all. Beyond it the oldest goes.
const OF_A_NIC: usize = 4;
const OF_ALL: usize = 64;
/// Fragments of a packet: what 64 KiB make at the smallest MTU of IPv6.
const PARTS: usize = 64;
/// Octets of what they make.
const MAX_LEN: usize = 65_535;

/// Packets that are not whole yet, the oldest first.
#[derive(Debug, Default)]
pub struct Fragments {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    key: Key,
    since: Instant,
    /// Of the whole, once its last fragment is there.
    len: Option<usize>,
    /// Where each begins, and what it is, in order.
    parts: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    tag: u16,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    identification: u32,
}

/// What became of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It waits; so many fragments of others went for it.
    Waits(u64),
    /// It was the one that was missing: this is the whole.
    Whole(Vec<u8>),
    /// It fits nothing, and so many went with it, itself included.
    Dropped(u64),
}

impl Fragments {
    /// Takes a fragment; `packet` is one.
    pub fn take(&mut self, packet: &Packet<'_>, now: Instant) -> Outcome {
        let Body::Fragment { identification, offset, more, octets } = packet.body else {
            return Outcome::Dropped(1);
        };
        let end = offset + octets.len();
        // All but the last are of whole units of eight octets (RFC 791 §3.2).
        if octets.is_empty() || end > MAX_LEN || (more && octets.len() % 8 != 0) {
            return Outcome::Dropped(1);
        }
        let Packet { tag, source, destination, protocol, .. } = *packet;
        let key = Key { tag, source, destination, protocol, identification };
        let (at, gone) = match self.waiting.iter().position(|waiting| waiting.key == key) {
            Some(at) => (at, 0),
            None => {
                let gone = self.make_room(tag);
                self.waiting.push(Waiting { key, since: now, len: None, parts: Vec::new() });
                (self.waiting.len() - 1, gone)
            }
        };
        let waiting = &mut self.waiting[at];
        if !waiting.add((offset, end), more, octets) {
            return Outcome::Dropped(gone + 1 + self.waiting.remove(at).parts.len() as u64);
        }
        if waiting.is_whole() {
            let parts = self.waiting.remove(at).parts;
            return Outcome::Whole(parts.into_iter().flat_map(|(_, octets)| octets).collect());
        }
        Outcome::Waits(gone)
    }

    /// Returns how many went as another packet of the vNIC begins.
    fn make_room(&mut self, tag: u16) -> u64 {
        let of_nic = |waiting: &Waiting| waiting.key.tag == tag;
        let is_full = self.waiting.iter().filter(|waiting| of_nic(waiting)).count() >= OF_A_NIC;
        let oldest = match is_full {
            true => self.waiting.iter().position(of_nic),
            false => (self.waiting.len() >= OF_ALL).then_some(0),
        };
        oldest.map_or(0, |at| self.waiting.remove(at).parts.len() as u64)
    }

    /// Forgets those that have waited too long; returns how many fragments of which vNIC.
    pub fn expire(&mut self, now: Instant) -> Vec<(u16, u64)> {
        let late = self.waiting.partition_point(|waiting| now >= waiting.since + TIMEOUT);
        let gone = self.waiting.drain(..late);
        gone.map(|waiting| (waiting.key.tag, waiting.parts.len() as u64)).collect()
    }

    /// Returns when the next one has waited too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.first().map(|waiting| waiting.since + TIMEOUT)
    }
}

impl Waiting {
    /// Returns whether it fits.
    fn add(&mut self, (start, end): (usize, usize), more: bool, octets: &[u8]) -> bool {
        let at = self.parts.partition_point(|(other, _)| *other < start);
        let before = at.checked_sub(1).map(|at| &self.parts[at]);
        let overlaps = before.is_some_and(|(other, octets)| other + octets.len() > start)
            || self.parts.get(at).is_some_and(|(other, _)| *other < end);
        let is_beyond = self.len.is_some_and(|len| end > len || !more);
        let is_short =
            !more && self.parts.last().is_some_and(|(other, part)| other + part.len() > end);
        if overlaps || is_beyond || is_short || self.parts.len() >= PARTS {
            return false;
        }
        if !more {
            self.len = Some(end);
        }
        self.parts.insert(at, (start, octets.to_vec()));
        true
    }

    fn is_whole(&self) -> bool {
        let len = self.parts.iter().map(|(_, octets)| octets.len()).sum::<usize>();
        // They do not overlap: as long as the whole, they are the whole.
        self.len == Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{protocol, vnet::Offload};
    use proptest::prelude::*;

    /// A fragment of an IPv4 packet.
    fn fragment(identification: u16, offset: usize, more: bool, octets: &[u8]) -> Vec<u8> {
        let len = (20 + octets.len()) as u16;
        let word = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol::UDP, 0, 0];
        packet.extend([10, 0, 0, 2, 192, 0, 2, 1]);
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        packet[6..8].copy_from_slice(&word.to_be_bytes());
        let sum = crate::wire::checksum::checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(octets);
        packet
    }

    fn take(fragments: &mut Fragments, octets: &[u8], now: Instant) -> Outcome {
        fragments.take(&Packet::parse(7, Offload::None, octets).unwrap(), now)
    }

    #[test]
    fn the_last_that_comes_makes_it_whole() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        let mut say = |offset, more, octets: &[u8]| {
            take(&mut fragments, &fragment(9, offset, more, octets), now)
        };
        assert_eq!(say(16, false, b"end"), Outcome::Waits(0));
        assert_eq!(say(0, true, b"01234567"), Outcome::Waits(0));
        assert_eq!(say(8, true, b"89abcdef"), Outcome::Whole(b"0123456789abcdefend".to_vec()));
        assert_eq!(fragments.deadline(), None);
    }

    #[test]
    fn those_that_overlap_or_contradict_each_other_take_the_packet_with_them() {
        let now = Instant::now();
        let judge = |parts: &[(usize, bool, &[u8])]| {
            let mut fragments = Fragments::default();
            let outcomes = parts
                .iter()
                .map(|(offset, more, octets)| {
                    take(&mut fragments, &fragment(9, *offset, *more, octets), now)
                })
                .collect::<Vec<_>>();
            outcomes.last().unwrap().clone()
        };
        let sixteen = b"0123456789abcdef";
        assert_eq!(judge(&[(0, true, sixteen), (8, true, sixteen)]), Outcome::Dropped(2));
        assert_eq!(judge(&[(8, true, sixteen), (0, true, sixteen)]), Outcome::Dropped(2));
        assert_eq!(judge(&[(8, true, sixteen), (8, true, sixteen)]), Outcome::Dropped(2), "twice");
        assert_eq!(judge(&[(8, false, b"x"), (24, true, sixteen)]), Outcome::Dropped(2), "beyond");
        assert_eq!(judge(&[(24, true, sixteen), (8, false, b"x")]), Outcome::Dropped(2), "before");
        assert_eq!(judge(&[(8, false, b"x"), (16, false, b"x")]), Outcome::Dropped(2), "two ends");
        assert_eq!(judge(&[(0, true, b"123")]), Outcome::Dropped(1), "no whole unit");
        assert_eq!(judge(&[(65_528, true, sixteen)]), Outcome::Dropped(1), "too long");
        assert_eq!(judge(&[(0, true, b"")]), Outcome::Dropped(1), "nothing");
    }

    #[test]
    fn few_wait_and_not_for_long() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        for identification in 0..4 {
            let octets = fragment(identification, 0, true, b"01234567");
            assert_eq!(take(&mut fragments, &octets, now), Outcome::Waits(0));
        }
        let octets = fragment(4, 0, true, b"01234567");
        assert_eq!(take(&mut fragments, &octets, now), Outcome::Waits(1), "the oldest goes");
        assert_eq!(fragments.expire(now + TIMEOUT - Duration::from_millis(1)), []);
        assert_eq!(fragments.expire(now + TIMEOUT), [(7, 1); 4]);
    }

    proptest! {
        #[test]
        fn in_whatever_order_they_come(
            octets in proptest::collection::vec(any::<u8>(), 1..4000),
            size in 1..60usize,
            order in any::<u64>(),
        ) {
            let size = (octets.len().div_ceil(60)).max(size).next_multiple_of(8);
            let mut parts = octets.chunks(size).enumerate().collect::<Vec<_>>();
            parts.sort_by_key(|(at, _)| order.rotate_left(*at as u32 * 7) ^ (*at as u64) << 3);
            let last = octets.len().div_ceil(size) - 1;
            let (mut fragments, now) = (Fragments::default(), Instant::now());
            let mut whole = None;
            for (at, part) in parts {
                if last == 0 {
                    return Ok(());
                }
                let sent = fragment(1, at * size, at != last, part);
                match take(&mut fragments, &sent, now) {
                    Outcome::Whole(octets) => whole = Some(octets),
                    outcome => prop_assert_eq!(outcome, Outcome::Waits(0)),
                }
            }
            prop_assert_eq!(whole, Some(octets));
        }
    }
}
