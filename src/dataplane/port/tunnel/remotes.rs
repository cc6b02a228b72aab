//! Behind whom a MAC is: what a tunnel learns from the senders of frames. No clock: `now` is in
//! seconds since whenever.

use crate::addr::MacAddr;
use std::{collections::HashMap, net::SocketAddr};

/// How many MACs are learned.
// As many as are behind a port of its kind: more would not be learned by the switch, either.
const MOST: usize = 4096;

/// The MACs that are known, and who has each.
#[derive(Debug)]
pub struct Remotes {
    /// Seconds after which one is forgotten that sends nothing.
    expire_time: u32,
    known: HashMap<MacAddr, Remote>,
    /// When there was no room, and what was old was looked for in vain.
    full_at: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Remote {
    address: SocketAddr,
    seen: u32,
}

impl Remotes {
    /// Returns a table in which nothing is known.
    pub fn new(expire_time: u32) -> Self {
        Self { expire_time, known: HashMap::new(), full_at: None }
    }

    /// Learns that `mac` is behind `address`.
    pub fn learn(&mut self, mac: MacAddr, address: SocketAddr, now: u32) {
        if mac.is_multicast() {
            return;
        }
        let remote = Remote { address, seen: now };
        if let Some(known) = self.known.get_mut(&mac) {
            *known = remote;
            return;
        }
        if self.known.len() == MOST {
            // Once a second at most: who invents MACs is not to keep the reactor busy.
            if self.full_at == Some(now) {
                return;
            }
            let expire_time = self.expire_time;
            self.known.retain(|_, remote| is_fresh(remote, expire_time, now));
            if self.known.len() == MOST {
                self.full_at = Some(now);
                return;
            }
        }
        self.known.insert(mac, remote);
    }

    /// Returns behind whom `mac` is, if that is known.
    pub fn find(&self, mac: MacAddr, now: u32) -> Option<SocketAddr> {
        let found = self.known.get(&mac);
        found.filter(|remote| is_fresh(remote, self.expire_time, now)).map(|found| found.address)
    }

    /// Forgets all that is behind `address`.
    pub fn forget(&mut self, address: SocketAddr) {
        self.known.retain(|_, remote| remote.address != address);
    }
}

fn is_fresh(remote: &Remote, expire_time: u32, now: u32) -> bool {
    now.saturating_sub(remote.seen) < expire_time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> SocketAddr {
        ([10, 0, 0, number], 4789).into()
    }

    fn mac(number: u32) -> MacAddr {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    #[test]
    fn who_has_sent_last_has_a_mac_until_it_is_silent_for_long() {
        let mut remotes = Remotes::new(128);
        remotes.learn(mac(1), address(1), 0);
        remotes.learn(MacAddr([1, 0, 0, 0, 0, 1]), address(1), 0);
        assert_eq!(remotes.find(mac(1), 127), Some(address(1)));
        assert_eq!(remotes.find(mac(1), 128), None);
        assert_eq!(remotes.find(MacAddr([1, 0, 0, 0, 0, 1]), 0), None, "a group is nobody's");
        remotes.learn(mac(1), address(2), 100);
        assert_eq!(remotes.find(mac(1), 200), Some(address(2)));
        remotes.learn(mac(3), address(3), 200);
        remotes.forget(address(2));
        assert_eq!(remotes.find(mac(1), 200), None);
        assert_eq!(remotes.find(mac(3), 200), Some(address(3)));
    }

    #[test]
    fn who_invents_macs_fills_no_more_than_the_table() {
        let mut remotes = Remotes::new(10);
        for number in 0..10_000 {
            remotes.learn(mac(number), address(1), 0);
        }
        assert_eq!(remotes.known.len(), MOST);
        assert_eq!(remotes.find(mac(4095), 1), Some(address(1)));
        assert_eq!(remotes.find(mac(4096), 1), None);
        remotes.learn(mac(5000), address(2), 9);
        assert_eq!(remotes.find(mac(5000), 9), None);
        // What is old makes room.
        remotes.learn(mac(5000), address(2), 10);
        assert_eq!(remotes.find(mac(5000), 10), Some(address(2)));
    }
}
