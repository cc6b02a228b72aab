//! Who is where on the segment: MACs of addresses, as those say themselves, and what waits for one
//! that has not said so yet.
//!
//! Takes what was heard and the time; returns MACs, and packets that can go on. Bounded: hosts of a
//! segment choose their addresses.

use crate::addr::MacAddr;
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Addresses that are known at once; the one that was silent for longest makes room.
pub(super) const MOST: usize = 256;
/// Addresses that are being asked for, each with one packet that waits.
const MOST_WAITING: usize = 16;
/// How long an address is somebody's who was heard there.
const LATELY: Duration = Duration::from_secs(300);
/// How long an address is asked for, and how often (RFC 4861 §10: MAX_MULTICAST_SOLICIT times, a
/// RetransTimer apart).
const GIVEN_UP: Duration = Duration::from_secs(3);
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    known: HashMap<IpAddr, Known>,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Known {
    mac: MacAddr,
    heard: Instant,
}

#[derive(Debug)]
struct Waiting {
    address: IpAddr,
    packet: Vec<u8>,
    since: Instant,
    asked: Instant,
}

impl Neighbours {
    /// An address has shown where it is. Returns the packet that has waited for that.
    pub(super) fn learn(&mut self, address: IpAddr, mac: MacAddr, now: Instant) -> Option<Vec<u8>> {
        if !self.known.contains_key(&address) && self.known.len() >= MOST {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.heard);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(address, Known { mac, heard: now });
        if self.waiting.is_empty() {
            return None;
        }
        let at = self.waiting.iter().position(|waiting| waiting.address == address)?;
        Some(self.waiting.swap_remove(at).packet)
    }

    /// Returns where an address is.
    pub(super) fn find(&self, address: IpAddr) -> Option<MacAddr> {
        self.known.get(&address).map(|known| known.mac)
    }

    /// Returns who was heard at an address lately.
    pub(super) fn heard_lately(&self, address: IpAddr, now: Instant) -> Option<MacAddr> {
        let known = self.known.get(&address)?;
        (now.duration_since(known.heard) < LATELY).then_some(known.mac)
    }

    /// A host says that it has an address no longer.
    pub(super) fn forget(&mut self, address: IpAddr, mac: MacAddr) {
        if self.find(address) == Some(mac) {
            self.known.remove(&address);
        }
    }

    /// Has a packet wait for its address, in place of one that waits already. Returns whether that
    /// is to be asked for now.
    pub(super) fn wait(&mut self, address: IpAddr, packet: Vec<u8>, now: Instant) -> bool {
        self.waiting.retain(|waiting| now.duration_since(waiting.since) < GIVEN_UP);
        if let Some(waiting) = self.waiting.iter_mut().find(|it| it.address == address) {
            waiting.packet = packet;
            let is_due = now.duration_since(waiting.asked) >= ASKED_AGAIN;
            if is_due {
                waiting.asked = now;
            }
            return is_due;
        }
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(Waiting { address, packet, since: now, asked: now });
        true
    }

    /// How many addresses are known, and how many packets wait.
    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, usize) {
        (self.known.len(), self.waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn address(number: u16) -> IpAddr {
        let [a, b] = number.to_be_bytes();
        [10, 0, a, b].into()
    }

    #[test]
    fn who_was_silent_for_longest_makes_room() {
        let (mut neighbours, start) = (Neighbours::default(), Instant::now());
        for number in 0..1000 {
            let now = start + Duration::from_millis(number.into());
            assert_eq!(neighbours.learn(address(number), MAC, now), None);
            neighbours.learn(address(0), MAC, now);
        }
        assert_eq!(neighbours.count(), (MOST, 0));
        assert!(neighbours.find(address(0)).is_some() && neighbours.find(address(1)).is_none());
    }

    #[test]
    fn an_address_is_somebodys_while_that_one_is_heard_now_and_then() {
        let (mut neighbours, start) = (Neighbours::default(), Instant::now());
        neighbours.learn(address(1), MAC, start);
        let (before, after) = (start + LATELY - Duration::from_secs(1), start + LATELY);
        assert_eq!(neighbours.heard_lately(address(1), before), Some(MAC));
        assert_eq!(neighbours.heard_lately(address(1), after), None);
        assert_eq!(neighbours.find(address(1)), Some(MAC), "where it is, is known still");
        neighbours.forget(address(1), MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!(neighbours.find(address(1)), Some(MAC), "only it says so itself");
        neighbours.forget(address(1), MAC);
        assert_eq!(neighbours.find(address(1)), None);
    }

    #[test]
    fn a_packet_waits_until_its_address_is_known_or_given_up() {
        let (mut neighbours, start) = (Neighbours::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        assert!(neighbours.wait(address(1), vec![1], start));
        assert!(!neighbours.wait(address(1), vec![2], after(500)), "asked a moment ago");
        assert!(neighbours.wait(address(1), vec![3], after(1600)));
        assert_eq!(neighbours.learn(address(1), MAC, after(1700)), Some(vec![3]));
        assert_eq!(neighbours.learn(address(1), MAC, after(1800)), None);
        for number in 0..1000 {
            assert!(neighbours.wait(address(number), vec![], after(2000)));
        }
        assert_eq!(neighbours.count(), (1, MOST_WAITING));
        neighbours.wait(address(1), vec![], after(9000));
        assert_eq!(neighbours.count(), (1, 1), "the others are given up");
    }
}
