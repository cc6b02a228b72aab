//! Ethernet II frames (IEEE 802.3 §3.1.1), and where VLAN tags end (IEEE 802.1Q §9.5).

use crate::addr::MacAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

/// EtherType of IPv4 (RFC 894).
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP (RFC 826).
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6 (RFC 2464 §3).
pub const IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag (IEEE 802.1Q).
pub const VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (IEEE 802.1ad).
pub const SERVICE_VLAN: u16 = 0x88a8;

/// Where frames of flow control go (IEEE 802.3 Annex 31B).
pub const PAUSE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x01]);

/// Whether what is sent to a group is for the next bridge or switch only: for protocols of bridges
/// (IEEE 802.1Q-2018 Table 8-1), of Extreme Networks and of Cisco, as Open vSwitch has them.
pub const fn is_for_next_bridge(MacAddr(group): MacAddr) -> bool {
    match group {
        [0x01, 0x80, 0xc2, 0, 0, last] => last < 0x10,
        // EDP, EAPS and ESRP.
        [0, 0xe0, 0x2b, 0, 0, 0 | 4 | 6] => true,
        // CDP and its like, STP a VLAN, ISL.
        [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc | 0xcd] => true,
        [0x01, 0, 0x0c, 0xcd, 0xcd, 0xcd] | [0x01, 0, 0x0c, 0, 0, 0] => true,
        _ => false,
    }
}

/// Octets of a VLAN tag, its EtherType included.
pub const TAG_LEN: usize = 4;

/// Octets of the header.
pub const HEADER_LEN: usize = 14;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The 14 octets in front of a packet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Where to.
    pub destination: MacAddr,
    /// Where from.
    pub source: MacAddr,
    /// What follows.
    pub ether_type: U16,
}

/// Returns where the packet of a frame begins: behind its header, and the VLAN tags in front of its
/// EtherType.
pub fn packet_at(frame: &[u8]) -> usize {
    let mut at = HEADER_LEN;
    // Two at most: a service tag and a customer's (IEEE 802.1Q-2018 §6.9).
    for _ in 0..2 {
        let ether_type = frame.get(at - 2..at).and_then(|octets| U16::read_from_bytes(octets).ok());
        match ether_type.map(U16::get) {
            Some(VLAN | SERVICE_VLAN) => at += TAG_LEN,
            _ => break,
        }
    }
    at
}

impl Header {
    /// Splits a frame into its header and the rest.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<(&Self, &[u8])> {
        Self::ref_from_prefix(frame).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_the_next_bridge_is_known() {
        let is = |octets| is_for_next_bridge(MacAddr(octets));
        assert!((0..16).all(|last| is([0x01, 0x80, 0xc2, 0, 0, last])));
        assert!(!is([0x01, 0x80, 0xc2, 0, 0, 16]) && !is([0x01, 0x80, 0xc2, 0, 1, 0]));
        assert!(is([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc]) && is([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd]));
        assert!(is([0, 0xe0, 0x2b, 0, 0, 4]) && !is([0, 0xe0, 0x2b, 0, 0, 5]));
        assert!(!is(MacAddr::BROADCAST.0) && !is([0x33, 0x33, 0, 0, 0, 1]));
    }

    #[test]
    fn a_packet_is_behind_at_most_two_tags() {
        let begin = |types: &[[u8; 2]]| {
            let rest = types.iter().flat_map(|ether_type| [ether_type[0], ether_type[1], 0, 7]);
            packet_at(&[0; 12].into_iter().chain(rest).collect::<Vec<_>>())
        };
        assert_eq!(begin(&[[0x08, 0x00]]), 14);
        assert_eq!(begin(&[[0x81, 0x00], [0x08, 0x00]]), 18);
        assert_eq!(begin(&[[0x88, 0xa8], [0x81, 0x00], [0x08, 0x00]]), 22);
        assert_eq!(begin(&[[0x81, 0x00], [0x81, 0x00], [0x81, 0x00]]), 22);
        assert_eq!(packet_at(&[0; 13]), 14);
    }
}
