//! What nearly all frames are, decided in a few comparisons: a whole TCP or UDP packet in IPv4
//! without options, with nothing about it that the guard or the gateway has to look at. In a
//! switched network it is enough that the packet is such (`Front`).
//!
//! ```text
//! frame ── check: as expected, octet for octet? ── FIB ── fits: MTU? ── next hop
//!             └── no: the general path (`routed.rs`)
//! ```
//! It decides nothing that the general path would decide otherwise (a property test of
//! `routed.rs`).

use super::tables::{GATEWAY_IPV4, GATEWAY_MAC, NextHop, Routed, Vnic};
use crate::{
    dataplane::frame::Frame,
    wire::{ethernet, ipv4, protocol, tcp, udp, vnet::Offload},
};
use std::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, big_endian::U16};

/// What a plain frame begins with.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Front {
    pub(super) ethernet: [u8; ethernet::HEADER_LEN],
    pub(super) ipv4: ipv4::Header,
    source_port: U16,
    destination_port: U16,
}

impl Front {
    /// Returns what a frame begins with that is a whole packet of TCP or UDP, of no DHCP server,
    /// and how long that is.
    #[inline(always)]
    pub(super) fn of(frame: &Frame) -> Option<(&Self, usize)> {
        // The head is private memory of fixed length. Where the frame is shorter, these are octets
        // of an earlier one: `head_len`, below, refuses it then.
        let (front, _) = Self::ref_from_prefix(&frame.head).ok()?;
        let (packet, len) = (&front.ipv4, front.ipv4.total_len());
        let is_plain = frame.invalid.is_none()
            && frame.head_len >= TRANSPORT_AT + udp::HEADER_LEN
            && packet.has_no_options()
            && !packet.is_fragment()
            && (packet.protocol == protocol::TCP || packet.protocol == protocol::UDP)
            // Cannot wrap: `head_len`, never above `len`, is long enough by now.
            && (ipv4::HEADER_LEN..=frame.len - ethernet::HEADER_LEN).contains(&len)
            // Possibly a DHCP server's.
            && front.source_port.get() != udp::DHCPV4_SERVER;
        is_plain.then_some((front, len))
    }

    /// Whether the sender of this packet of `len` octets left at most its checksum to be done, and
    /// left it where the packet has it.
    #[inline(always)]
    pub(super) fn takes(&self, frame: &Frame, len: usize) -> bool {
        let Offload::Checksum { start, offset } = frame.offload else {
            return matches!(frame.offload, Offload::None);
        };
        let end = frame.head_len.min(ethernet::HEADER_LEN + len);
        let transport = &frame.head[TRANSPORT_AT..end];
        let expected = match self.ipv4.protocol {
            protocol::TCP => tcp::header_len(transport).map(|_| tcp::CHECKSUM_OFFSET),
            _ => udp::header_len(transport).map(|_| udp::CHECKSUM_OFFSET),
        };
        usize::from(start) == TRANSPORT_AT && expected == Some(offset)
    }
}

const TRANSPORT_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// What plain frames of one vNIC have in common.
#[derive(Debug)]
pub struct FastPath<'a> {
    vnic: &'a Vnic,
    /// Never routed, though a prefix may cover it.
    broadcast: Ipv4Addr,
    ethernet: [u8; ethernet::HEADER_LEN],
}

impl<'a> FastPath<'a> {
    /// The plain frames of `vnic`.
    pub fn new(table: &Routed, vnic: &'a Vnic) -> Self {
        let header = ethernet::Header {
            destination: GATEWAY_MAC,
            source: vnic.mac,
            ether_type: U16::new(ethernet::IPV4),
        };
        let broadcast = table.ipv4_broadcast.unwrap_or(Ipv4Addr::BROADCAST);
        Self { vnic, broadcast, ethernet: zerocopy::transmute!(header) }
    }

    /// Where a frame goes, if it is plain; leaves out its padding.
    #[inline(always)]
    pub fn check(&self, frame: &mut Frame) -> Option<Ipv4Addr> {
        let (front, len) = Front::of(frame)?;
        let (packet, destination) = (&front.ipv4, front.ipv4.destination());
        let is_plain = front.ethernet == self.ethernet
            // Else its sender is owed an error.
            && packet.ttl > 1
            // Here, too (RFC 1812 §5.2.2): the new checksum is made from the old one, so a wrong
            // one would stay wrong and only the receiver would know. A few instructions, since the
            // header is at hand.
            && packet.sum_is_right()
            && self.vnic.owns_ipv4(packet.source())
            // Multicast, reserved, broadcast.
            && destination.octets()[0] < 224
            && destination != self.broadcast
            && destination != GATEWAY_IPV4;
        if !is_plain || !front.takes(frame, len) {
            return None;
        }
        frame.truncate(ethernet::HEADER_LEN + len);
        Some(destination)
    }
}

/// Whether a frame that is plain fits its next hop's MTU.
#[inline(always)]
pub fn fits(frame: &Frame, next_hop: &NextHop) -> bool {
    frame.len <= ethernet::HEADER_LEN + usize::from(next_hop.mtu)
}
