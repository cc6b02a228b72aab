//! Ethernet II frames (IEEE 802.3 §3.1.1), without VLAN tags.

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

impl Header {
    /// Splits a frame into its header and the rest.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<(&Self, &[u8])> {
        Self::ref_from_prefix(frame).ok()
    }
}
