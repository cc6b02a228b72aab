//! The gateway's voice: each responder is a function from a guest's frame to the octets of an answer.
//!
//! ```text
//! ARP who-has ─────────── arp       NS, RS ──── ndp       DHCPv4 ── dhcpv4
//! echo, ICMP errors ───── icmp                            DHCPv6 ── dhcpv6
//! ```
//! Takes a private copy of the whole frame and the network's table, writes the answering frame, or says why there is
//! none. No clock, no state: what is told follows from the table alone.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod arp;
mod dhcpv4;
mod dhcpv6;
mod icmp;
mod ndp;

pub use icmp::reject;
pub use ndp::{FIRST_ADVERTISEMENTS, next_advertisement, router_advertisement};

use super::{
    classify::{Headers, Packet, Upper},
    snapshot::{GATEWAY_MAC, NetworkTable, Vnic},
    verdict::DropReason,
};
use crate::{
    addr::MacAddr,
    wire::{Full, Writer, ethernet, icmpv4, icmpv6, udp, vnet::Offload},
};
use zerocopy::big_endian::U16;

/// A frame to the gateway, with whom it is from.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The network of the asking vNIC.
    pub table: &'a NetworkTable,
    /// The asking vNIC.
    pub vnic: &'a Vnic,
    /// What the frame is.
    pub headers: &'a Headers,
    /// The whole frame without padding.
    pub frame: &'a [u8],
    /// What its sender left to be done.
    pub offload: Offload,
}

impl Question<'_> {
    /// The frame from `offset` octets into its packet on.
    fn packet_from(&self, offset: usize) -> &[u8] {
        self.frame.get(ethernet::HEADER_LEN + offset..).unwrap_or(&[])
    }
}

/// The answer does not fit the buffer it is written to: the question is too long to be answered.
impl From<Full> for DropReason {
    fn from(_: Full) -> Self {
        Self::MalformedMessage
    }
}

/// What a guest was told. A person asks for it when "the VM has no network".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Where its gateway is, by ARP.
    Neighbour4,
    /// Where its gateway is, by NDP.
    Neighbour6,
    /// That there is a router, as it asked.
    Router,
    /// That an IPv4 address is its own.
    Lease4(Client),
    /// That an IPv6 address is its own.
    Lease6(Client),
    /// Something that says nothing about its network.
    Other,
}

impl Told {
    /// How many kinds say something.
    pub const KINDS: usize = 5;

    /// Which of the kinds this is; beyond them: none that says something.
    pub const fn kind(&self) -> usize {
        match self {
            Self::Neighbour4 => 0,
            Self::Neighbour6 => 1,
            Self::Router => 2,
            Self::Lease4(_) => 3,
            Self::Lease6(_) => 4,
            Self::Other => Self::KINDS,
        }
    }
}

/// What a DHCP client says of itself, in printable ASCII; empty where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// Its host's name.
    pub hostname: String,
    /// Its software.
    pub vendor_class: String,
}

/// What can be shown on any terminal of a guest's text, 255 characters of it at most.
fn printable(octets: &[u8]) -> String {
    let shown = octets.iter().take(255).map(|octet| char::from(*octet));
    shown.map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// Writes the answer to a frame for the gateway.
pub fn respond(question: &Question<'_>, writer: &mut Writer<'_>) -> Result<Told, DropReason> {
    match &question.headers.packet {
        Packet::Arp(packet) => {
            arp::respond(question.vnic, question.table, packet, writer).map(|()| Told::Neighbour4)
        }
        Packet::Ipv4(packet) => match packet.upper {
            Upper::Icmp(icmpv4::ECHO_REQUEST) => {
                icmp::echo_ipv4(question, packet, writer).map(|()| Told::Other)
            }
            Upper::Udp { destination: udp::DHCPV4_SERVER, .. } => {
                dhcpv4::respond(question, packet, writer)
            }
            _ => {
                Err(unserved(packet.destination.is_broadcast(), packet.destination.is_multicast()))
            }
        },
        Packet::Ipv6(packet) => match packet.upper {
            Upper::Icmp(icmpv6::ECHO_REQUEST) => {
                icmp::echo_ipv6(question, packet, writer).map(|()| Told::Other)
            }
            Upper::Icmp(icmpv6::NEIGHBOUR_SOLICITATION) => {
                ndp::neighbour_solicitation(question, packet, writer).map(|()| Told::Neighbour6)
            }
            Upper::Icmp(icmpv6::NEIGHBOUR_ADVERTISEMENT) => {
                Err(ndp::neighbour_advertisement(question, packet))
            }
            Upper::Icmp(icmpv6::ROUTER_SOLICITATION) => {
                ndp::router_solicitation(question, packet, writer).map(|()| Told::Router)
            }
            Upper::Udp { destination: udp::DHCPV6_SERVER, .. } => {
                dhcpv6::respond(question, packet, writer)
            }
            _ => Err(unserved(false, packet.destination.is_multicast())),
        },
    }
}

fn unserved(broadcast: bool, multicast: bool) -> DropReason {
    match (broadcast, multicast) {
        (true, _) => DropReason::Broadcast,
        (_, true) => DropReason::Multicast,
        _ => DropReason::NotServed,
    }
}

/// The Ethernet header of an answer.
fn write_ethernet(writer: &mut Writer<'_>, to: MacAddr, ether_type: u16) -> Result<(), Full> {
    writer.push(&ethernet::Header {
        destination: to,
        source: GATEWAY_MAC,
        ether_type: U16::new(ether_type),
    })
}
