//! ARP for IPv4 over Ethernet (RFC 826): 28 octets after the Ethernet header.

use crate::addr::MacAddr;
use std::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

/// "Who has the target address?"
pub const REQUEST: u16 = 1;
/// "I have the sender address."
pub const REPLY: u16 = 2;

const _: () = assert!(size_of::<Packet>() == 28);

/// An ARP packet of hardware type 1 and protocol type IPv4.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Packet {
    hardware_type: U16,
    protocol_type: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: MacAddr,
    sender_ip: [u8; 4],
    target_mac: MacAddr,
    target_ip: [u8; 4],
}

impl Packet {
    /// The packet at the start of `octets` (padding may follow), if it is of Ethernet and IPv4.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let (packet, _) = Self::read_from_prefix(octets).ok()?;
        let kind = (packet.hardware_type.get(), packet.protocol_type.get());
        let sizes = (packet.hardware_len, packet.protocol_len);
        // Hardware type 1 is Ethernet. Other lengths would move the fields.
        (kind == (1, super::ethernet::IPV4) && sizes == (6, 4)).then_some(packet)
    }

    /// The question of `sender` at `mac` where `target` is.
    pub fn request(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            hardware_type: U16::new(1),
            protocol_type: U16::new(super::ethernet::IPV4),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(REQUEST),
            sender_mac: mac,
            sender_ip: sender.octets(),
            // Not known yet, and zero rather than anything else (RFC 5227 §2.1.1).
            target_mac: MacAddr([0; 6]),
            target_ip: target.octets(),
        }
    }

    /// The reply to this request, sent by `mac` for the address asked for.
    pub fn reply_from(&self, mac: MacAddr) -> Self {
        Self {
            operation: U16::new(REPLY),
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
            ..*self
        }
    }

    /// [`REQUEST`], [`REPLY`] or something else.
    pub fn operation(&self) -> u16 {
        self.operation.get()
    }

    /// The MAC the sender claims.
    pub fn sender_mac(&self) -> MacAddr {
        self.sender_mac
    }

    /// The address the sender claims; 0.0.0.0 in a probe (RFC 5227 §2.1.1).
    pub fn sender_ip(&self) -> Ipv4Addr {
        self.sender_ip.into()
    }

    /// The address asked for.
    pub fn target_ip(&self) -> Ipv4Addr {
        self.target_ip.into()
    }
}
