//! The other switches: heard of by their adverts, and forgotten when these stop. Time comes in as a
//! parameter.

use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

/// Peers at most.
pub const MOST: usize = 256;
/// How long a peer is one after its last advert.
pub const LIFETIME: Duration = Duration::from_secs(5);

/// What an advert comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A peer that was not known.
    New,
    /// One that was.
    Known,
    /// Our own advert.
    Own,
    /// An address that nobody can be at, or that is not allowed.
    Refused,
    /// There are as many as there may be.
    Full,
}

/// The peers of a switch.
#[derive(Debug, Clone)]
pub struct Peers {
    own: SocketAddr,
    /// Where they may be.
    allowed: Vec<IpNet>,
    heard: BTreeMap<SocketAddr, Instant>,
}

impl Peers {
    /// None, of a switch at `own`, which takes those in `allowed`.
    pub fn new(own: SocketAddr, allowed: Vec<IpNet>) -> Self {
        Self { own, allowed, heard: BTreeMap::new() }
    }

    /// Notes that `address` was announced.
    pub fn hear(&mut self, address: SocketAddr, now: Instant) -> Heard {
        if address == self.own {
            return Heard::Own;
        }
        if let Some(last) = self.heard.get_mut(&address) {
            *last = now;
            return Heard::Known;
        }
        // Datagrams to a group or to everybody would be multiplied by us for whoever asks.
        let ip = address.ip();
        let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST)
            || self.allowed.iter().any(|net| net.prefix_len() < 31 && net.broadcast() == ip);
        let is_group = ip.is_multicast() || ip.is_ipv4() && is_broadcast;
        let is_allowed = self.allowed.iter().any(|net| net.contains(&ip));
        if address.port() == 0 || ip.is_unspecified() || is_group || !is_allowed {
            return Heard::Refused;
        }
        if self.heard.len() >= MOST {
            return Heard::Full;
        }
        self.heard.insert(address, now);
        Heard::New
    }

    /// Forgets those that were not heard of for too long, and returns them.
    pub fn expire(&mut self, now: Instant) -> Vec<SocketAddr> {
        let is_gone = |last: Instant| now.saturating_duration_since(last) > LIFETIME;
        let gone = self.heard.iter().filter(|(_, last)| is_gone(**last));
        let gone: Vec<_> = gone.map(|(address, _)| *address).collect();
        for address in &gone {
            self.heard.remove(address);
        }
        gone
    }

    /// Whether an address is a peer's.
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.heard.contains_key(&address)
    }

    /// Returns all, in order.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.heard.keys().copied()
    }

    /// Returns all, each with the time since its last advert.
    pub fn ages(&self, now: Instant) -> impl Iterator<Item = (SocketAddr, Duration)> {
        self.heard
            .iter()
            .map(move |(address, last)| (*address, now.saturating_duration_since(*last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn peers() -> Peers {
        Peers::new(address("10.0.0.1:3333"), vec!["10.0.0.0/16".parse().unwrap()])
    }

    // seed H.3.12
    #[test]
    fn a_peer_is_known_until_five_seconds_after_its_last_advert() {
        let (mut peers, start) = (peers(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (address("10.0.0.2:3333"), address("10.0.0.2:3334"));
        assert_eq!(peers.hear(one, at(0)), Heard::New);
        assert_eq!(peers.hear(two, at(1)), Heard::New);
        assert_eq!(peers.hear(one, at(2)), Heard::Known);
        let ages = peers.ages(at(4)).map(|(peer, age)| (peer, age.as_secs())).collect::<Vec<_>>();
        assert_eq!(ages, [(one, 2), (two, 3)]);
        assert!(peers.expire(at(6)).is_empty());
        assert_eq!(peers.expire(at(6) + Duration::from_millis(1)), [two]);
        assert_eq!(peers.addresses().collect::<Vec<_>>(), [one]);
        assert!(peers.contains(one) && !peers.contains(two));
    }

    #[test]
    fn who_nobody_may_send_to_is_no_peer() {
        let (mut peers, now) = (peers(), Instant::now());
        assert_eq!(peers.hear(address("10.0.0.1:3333"), now), Heard::Own);
        for refused in [
            "127.0.0.1:3333",
            "0.0.0.0:3333",
            "239.13.13.13:3333",
            "255.255.255.255:3333",
            "10.0.255.255:3333",
            "10.1.0.1:3333",
            "10.0.0.2:0",
            "[::]:3333",
            "[ff02::1]:3333",
            "[fd00::1]:3333",
        ] {
            assert_eq!(peers.hear(address(refused), now), Heard::Refused, "{refused}");
        }
        assert_eq!(peers.addresses().count(), 0);
    }

    #[test]
    fn a_flood_of_adverts_takes_no_more_than_its_places() {
        let (mut peers, now) = (peers(), Instant::now());
        let at = |n: u32| SocketAddr::new(Ipv4Addr::from(0x0a00_0100 + n).into(), 3333);
        for n in 1..=MOST as u32 {
            assert_eq!(peers.hear(at(n), now), Heard::New);
        }
        assert_eq!(peers.hear(at(1000), now), Heard::Full);
        assert_eq!(peers.hear(at(1), now), Heard::Known, "who is known stays");
        assert_eq!(peers.addresses().count(), MOST);
    }
}
