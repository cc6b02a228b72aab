//! A full mesh of switches: which of them a frame is for, and whether a datagram is one's of them.
//!
//! A datagram is a VLAN's number, 32 bits in network order, and a frame. Frames of peers are never
//! sent to peers: each has sent them to all others already.

use super::{
    advert::{self, Announcer, Form, Policy},
    peers::{Heard, Peers},
};
use crate::{addr::MacAddr, wire::ethernet};
use ipnet::IpNet;
use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Octets before a frame.
pub const HEADER: usize = 4;
/// How long a MAC is a peer's after its last frame.
pub const MAC_LIFETIME: Duration = Duration::from_secs(15);
/// MACs of a VLAN at most. Frames for others go to all peers.
pub const MOST_MACS: usize = 4096;

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// It has no whole Ethernet header.
    TooShort,
    /// Its sender is no peer.
    UnknownPeer,
    /// Nobody here is in its VLAN.
    UnknownVlan,
}

/// What has been carried, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Datagrams of peers, given to their VLANs.
    pub received: u64,
    /// Datagrams sent to peers.
    pub sent: u64,
    /// Datagrams of those who are no peers.
    pub unknown_peer: u64,
    /// Datagrams of VLANs that nobody here is in.
    pub unknown_vlan: u64,
    /// Datagrams without a whole Ethernet header.
    pub too_short: u64,
    /// Adverts that found all places of peers taken.
    pub peer_table_full: u64,
    /// Datagrams that the kernel did not take, or the VLAN had no room for.
    pub lost: u64,
}

/// A MAC behind a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerMac {
    /// The MAC.
    pub mac: MacAddr,
    /// The peer.
    pub peer: SocketAddr,
    /// Since its last frame.
    pub age: Duration,
}

/// The mesh, as one switch sees it.
#[derive(Debug)]
pub struct Mesh {
    peers: Peers,
    announcer: Announcer,
    own: SocketAddr,
    vlans: HashMap<u32, HashMap<MacAddr, (SocketAddr, Instant)>>,
    totals: Totals,
    /// Whether the want of places for peers was told.
    is_full_told: bool,
}

/// What an advert changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advert {
    /// A peer was discovered.
    Discovered(SocketAddr),
    /// There is no place for another one; said once.
    Full(SocketAddr),
    /// Nothing to tell.
    Nothing,
}

impl Mesh {
    /// A switch at `own`, whose peers are in `allowed`.
    pub fn new(own: SocketAddr, allowed: Vec<IpNet>, policy: Policy, now: Instant) -> Self {
        Self {
            peers: Peers::new(own, allowed),
            announcer: Announcer::new(policy, now),
            own,
            vlans: HashMap::new(),
            totals: Totals::default(),
            is_full_told: false,
        }
    }

    /// Frames of a VLAN are taken from now on.
    pub fn join(&mut self, vlan: u32) {
        self.vlans.entry(vlan).or_default();
    }

    /// Frames of a VLAN are taken no more.
    pub fn leave(&mut self, vlan: u32) {
        self.vlans.remove(&vlan);
    }

    /// Takes a datagram of the group's.
    pub fn hear(&mut self, datagram: &[u8], now: Instant) -> Advert {
        let Some((address, form)) = advert::parse(datagram) else { return Advert::Nothing };
        let heard = self.peers.hear(address, now);
        if matches!(heard, Heard::New | Heard::Known) {
            self.announcer.heard(form, now);
        }
        match heard {
            Heard::New => Advert::Discovered(address),
            Heard::Full => {
                self.totals.peer_table_full += 1;
                if std::mem::replace(&mut self.is_full_told, true) {
                    Advert::Nothing
                } else {
                    Advert::Full(address)
                }
            }
            Heard::Known | Heard::Own | Heard::Refused => Advert::Nothing,
        }
    }

    /// Returns the adverts to be sent now, as each second.
    pub fn adverts(&self, now: Instant) -> Vec<Vec<u8>> {
        let forms: &[Form] = self.announcer.forms(now);
        forms.iter().map(|form| advert::write(self.own, *form)).collect()
    }

    /// Forgets peers that are not heard of, and returns them; and MACs that are silent.
    pub fn expire(&mut self, now: Instant) -> Vec<SocketAddr> {
        let gone = self.peers.expire(now);
        self.is_full_told &= gone.is_empty();
        let peers = &self.peers;
        for macs in self.vlans.values_mut() {
            macs.retain(|_, (peer, last)| {
                now.saturating_duration_since(*last) <= MAC_LIFETIME && peers.contains(*peer)
            });
        }
        gone
    }

    /// Takes a datagram. Returns the VLAN and the frame in it.
    pub fn receive<'a>(
        &mut self,
        from: SocketAddr,
        datagram: &'a [u8],
        now: Instant,
    ) -> Result<(u32, &'a [u8]), Dropped> {
        let taken = self.take(from, datagram, now);
        let count = match taken {
            Ok(_) => &mut self.totals.received,
            Err(Dropped::TooShort) => &mut self.totals.too_short,
            Err(Dropped::UnknownPeer) => &mut self.totals.unknown_peer,
            Err(Dropped::UnknownVlan) => &mut self.totals.unknown_vlan,
        };
        *count += 1;
        taken
    }

    fn take<'a>(
        &mut self,
        from: SocketAddr,
        datagram: &'a [u8],
        now: Instant,
    ) -> Result<(u32, &'a [u8]), Dropped> {
        // Before anything else: what strangers send is not looked at.
        if !self.peers.contains(from) {
            return Err(Dropped::UnknownPeer);
        }
        let (vlan, frame) = datagram.split_first_chunk().ok_or(Dropped::TooShort)?;
        let vlan = u32::from_be_bytes(*vlan);
        if frame.len() < ethernet::HEADER_LEN {
            return Err(Dropped::TooShort);
        }
        let macs = self.vlans.get_mut(&vlan).ok_or(Dropped::UnknownVlan)?;
        if let Some(source) =
            frame.get(6..12).and_then(|octets| octets.try_into().ok()).map(MacAddr)
            && !source.is_multicast()
        {
            // None is forgotten for it: a peer that invents MACs takes no others' place.
            let has_room = macs.len() < MOST_MACS;
            if has_room || macs.contains_key(&source) {
                macs.insert(source, (from, now));
            }
        }
        Ok((vlan, frame))
    }

    /// Says where a frame that has come from a VLAN of this switch is to be sent: to one peer, if
    /// its destination is behind it, else to all.
    pub fn destinations(
        &self,
        vlan: u32,
        frame: &[u8],
        now: Instant,
        mut send: impl FnMut(SocketAddr),
    ) {
        let destination = frame.first_chunk().copied().map(MacAddr);
        let known = destination.and_then(|mac| self.vlans.get(&vlan)?.get(&mac));
        match known {
            Some((peer, last))
                if now.saturating_duration_since(*last) <= MAC_LIFETIME
                    && self.peers.contains(*peer) =>
            {
                send(*peer);
            }
            _ => self.peers.addresses().for_each(send),
        }
    }

    /// Counts datagrams that were sent, and those that were not.
    pub fn count_sent(&mut self, sent: u64, lost: u64) {
        self.totals.sent += sent;
        self.totals.lost += lost;
    }

    /// What has been carried.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns the peers, each with the time since its last advert.
    pub fn peers(&self, now: Instant) -> Vec<(SocketAddr, Duration)> {
        self.peers.ages(now).collect()
    }

    /// Returns the MACs of a VLAN that are behind peers, in order.
    pub fn macs(&self, vlan: u32, now: Instant) -> Vec<PeerMac> {
        let macs = self.vlans.get(&vlan).into_iter().flatten();
        let age = |last: Instant| now.saturating_duration_since(last);
        let macs =
            macs.map(|(mac, (peer, last))| PeerMac { mac: *mac, peer: *peer, age: age(*last) });
        let mut macs: Vec<_> = macs.filter(|mac| mac.age <= MAC_LIFETIME).collect();
        macs.sort_unstable_by_key(|mac| mac.mac);
        macs
    }
}

/// Returns the octets before a frame of a VLAN.
pub fn header(vlan: u32) -> [u8; HEADER] {
    vlan.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0xa]);
    const B: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0xb]);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn one() -> SocketAddr {
        address("10.0.0.2:3333")
    }

    fn two() -> SocketAddr {
        address("10.0.0.3:3333")
    }

    /// A switch in VLAN 5 that knows both.
    fn mesh(now: Instant) -> Mesh {
        let allowed = vec!["10.0.0.0/24".parse().unwrap()];
        let mut mesh = Mesh::new(address("10.0.0.1:3333"), allowed, Policy::Auto, now);
        mesh.join(5);
        assert_eq!(mesh.hear(b"10.0.0.2:3333", now), Advert::Discovered(one()));
        assert_eq!(mesh.hear(b"10.0.0.3:3333", now), Advert::Discovered(two()));
        mesh
    }

    fn frame(to: MacAddr, from: MacAddr) -> Vec<u8> {
        [&to.0[..], &from.0, &[0x08, 0x06], &[0; 46]].concat()
    }

    fn datagram(vlan: u32, frame: &[u8]) -> Vec<u8> {
        [&vlan.to_be_bytes()[..], frame].concat()
    }

    fn destinations(mesh: &Mesh, frame: &[u8], now: Instant) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        mesh.destinations(5, frame, now, |peer| found.push(peer));
        found
    }

    // seed H.3.21, H.3.24
    #[test]
    fn a_datagram_is_the_vlan_in_network_order_and_the_frame() {
        let now = Instant::now();
        let mut mesh = mesh(now);
        assert_eq!(header(5), [0, 0, 0, 5]);
        let octets: [u8; 18] =
            [0, 0, 0, 5, 255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0, 0, 0xa, 8, 6];
        assert_eq!(mesh.receive(one(), &octets, now), Ok((5, &octets[4..])));
        // VLAN 6, VLAN 83886080 and a cut frame.
        let other = datagram(6, &octets[4..]);
        assert_eq!(mesh.receive(one(), &other, now), Err(Dropped::UnknownVlan));
        let swapped = [&[5, 0, 0, 0], &octets[4..]].concat();
        assert_eq!(mesh.receive(one(), &swapped, now), Err(Dropped::UnknownVlan));
        assert_eq!(mesh.receive(one(), &octets[..17], now), Err(Dropped::TooShort));
        assert_eq!(mesh.receive(one(), b"", now), Err(Dropped::TooShort));
        let stranger = address("10.0.0.9:3333");
        assert_eq!(mesh.receive(stranger, &octets, now), Err(Dropped::UnknownPeer));
        // Another port is another sender.
        let stranger = address("10.0.0.2:3334");
        assert_eq!(mesh.receive(stranger, &octets, now), Err(Dropped::UnknownPeer));
        let totals = Totals {
            received: 1,
            unknown_vlan: 2,
            too_short: 2,
            unknown_peer: 2,
            ..Totals::default()
        };
        assert_eq!(mesh.totals(), totals);
    }

    // seed H.3.25
    #[test]
    fn a_learned_mac_is_sent_to_one_peer_only_for_fifteen_seconds() {
        let start = Instant::now();
        let mut mesh = mesh(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let out = frame(A, B);
        assert_eq!(destinations(&mesh, &out, start), [one(), two()]);
        mesh.receive(two(), &datagram(5, &frame(MacAddr::BROADCAST, A)), start).unwrap();
        assert_eq!(destinations(&mesh, &out, start), [two()]);
        assert_eq!(destinations(&mesh, &frame(MacAddr::BROADCAST, B), start), [one(), two()]);
        let seen = PeerMac { mac: A, peer: two(), age: Duration::from_secs(3) };
        assert_eq!(mesh.macs(5, at(3)), [seen]);
        for second in [4, 8, 12, 15] {
            mesh.hear(b"10.0.0.2:3333", at(second));
            mesh.hear(b"10.0.0.3:3333", at(second));
        }
        assert_eq!(destinations(&mesh, &out, at(15)), [two()]);
        assert_eq!(destinations(&mesh, &out, at(16)), [one(), two()]);
        // It moves with its frames.
        mesh.receive(one(), &datagram(5, &frame(B, A)), at(16)).unwrap();
        assert_eq!(destinations(&mesh, &out, at(16)), [one()]);
    }

    #[test]
    fn what_is_behind_a_peer_that_is_gone_is_sent_to_the_others() {
        let start = Instant::now();
        let mut mesh = mesh(start);
        mesh.receive(two(), &datagram(5, &frame(B, A)), start).unwrap();
        let later = start + Duration::from_secs(6);
        mesh.hear(b"10.0.0.2:3333", start + Duration::from_secs(4));
        assert_eq!(mesh.expire(later), [two()]);
        assert_eq!(destinations(&mesh, &frame(A, B), later), [one()]);
        assert!(mesh.macs(5, later).is_empty());
        assert_eq!(
            mesh.receive(two(), &datagram(5, &frame(B, A)), later),
            Err(Dropped::UnknownPeer)
        );
    }

    #[test]
    fn groups_are_never_learned_and_a_flood_of_macs_ends() {
        let now = Instant::now();
        let mut mesh = mesh(now);
        mesh.receive(one(), &datagram(5, &frame(B, MacAddr::BROADCAST)), now).unwrap();
        assert!(mesh.macs(5, now).is_empty());
        for n in 0..2 * MOST_MACS as u32 {
            let [a, b, c, d] = n.to_be_bytes();
            let mac = MacAddr([2, 0, a, b, c, d]);
            mesh.receive(one(), &datagram(5, &frame(B, mac)), now).unwrap();
        }
        assert_eq!(mesh.macs(5, now).len(), MOST_MACS);
        mesh.leave(5);
        let datagram = datagram(5, &frame(B, A));
        assert_eq!(mesh.receive(one(), &datagram, now), Err(Dropped::UnknownVlan));
    }

    #[test]
    fn the_want_of_places_is_told_once() {
        let now = Instant::now();
        let mut mesh = mesh(now);
        let advert = |n: u32| format!("10.0.0.{}:{}", 2 + n % 200, 4000 + n / 200);
        for n in 0..254 {
            assert!(matches!(mesh.hear(advert(n).as_bytes(), now), Advert::Discovered(_)));
        }
        assert_eq!(mesh.hear(b"10.0.0.250:1", now), Advert::Full(address("10.0.0.250:1")));
        assert_eq!(mesh.hear(b"10.0.0.251:1", now), Advert::Nothing);
        assert_eq!(mesh.totals().peer_table_full, 2);
        assert_eq!(mesh.hear(b"junk", now), Advert::Nothing);
    }
}
