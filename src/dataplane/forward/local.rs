//! What is answered where it is asked, in a switched network, instead of being flooded: questions
//! for the gateway, and for neighbours whose addresses the network has given out.
//!
//! Takes the packet of a frame to a group; returns the verdict about one that is answered. One that
//! is answered goes nowhere else.

use super::{
    port_security::PortSecurity,
    tables::{GATEWAY_IPV4, GATEWAY_IPV6, Member, Routed},
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        classify::{Ipv6, Packet, Upper},
        verdict::{Flood, Verdict},
    },
    wire::{arp, ethernet, icmpv6, ndp, udp},
};
use std::net::Ipv4Addr;

/// What answers are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local<'a> {
    /// The gateway, where there is one.
    pub gateway: Option<&'a Routed>,
    /// Whose addresses are known; none where nobody is spoken for.
    pub neighbours: Option<&'a PortSecurity>,
}

impl Local<'_> {
    /// Returns the verdict about a question of `member`, sent from `source`, if that is answered.
    /// `head` begins the frame.
    pub(super) fn answers(
        &self,
        member: &Member,
        source: MacAddr,
        packet: &Packet,
        head: &[u8],
    ) -> Option<Verdict> {
        let is_guest = member.asker(source).vnic().is_some();
        let answer = match packet {
            Packet::Arp(packet) if packet.operation() == arp::REQUEST => {
                return self.answers_arp(member, packet);
            }
            Packet::Arp(_) => false,
            // A host behind a port has no address that could be told to it.
            Packet::Ipv4(packet) => {
                is_guest
                    && matches!(packet.upper, Upper::Udp { destination: udp::DHCPV4_SERVER, .. })
            }
            Packet::Ipv6(packet) => match packet.upper {
                Upper::Icmp(icmpv6::NEIGHBOUR_SOLICITATION) => {
                    return self.answers_solicitation(member, packet, head);
                }
                Upper::Icmp(icmpv6::ROUTER_SOLICITATION) => {
                    is_guest || self.gateway?.ipv6_prefix.is_some()
                }
                Upper::Udp { destination: udp::DHCPV6_SERVER, .. } => is_guest,
                _ => false,
            },
        };
        (answer && self.gateway.is_some()).then_some(Verdict::Gateway)
    }

    fn answers_arp(&self, member: &Member, packet: &arp::Packet) -> Option<Verdict> {
        let target = packet.target_ip();
        if self.gateway.is_some_and(|gateway| gateway.is_gateway_ipv4(target)) {
            return Some(Verdict::Gateway);
        }
        let owner = self.neighbours?.strict_ipv4(target)?;
        (owner.port != member.port()).then_some(Verdict::Neighbour(owner.mac))
    }

    fn answers_solicitation(&self, member: &Member, packet: &Ipv6, head: &[u8]) -> Option<Verdict> {
        let message = head.get(ethernet::HEADER_LEN + packet.header_len..)?;
        let (target, _) = ndp::target(message)?;
        if self.gateway.is_some() && target == GATEWAY_IPV6 {
            return Some(Verdict::Gateway);
        }
        let owner = self.neighbours?.strict_ipv6(target)?;
        (owner.port != member.port()).then_some(Verdict::Neighbour(owner.mac))
    }
}

impl Routed {
    /// Returns the gateway's IPv4 address as guests are told it.
    pub fn gateway_ipv4(&self) -> Ipv4Addr {
        self.segment.as_ref().and_then(|segment| segment.gateway_ipv4).unwrap_or(GATEWAY_IPV4)
    }

    /// Whether an IPv4 address is the gateway's.
    pub fn is_gateway_ipv4(&self, address: Ipv4Addr) -> bool {
        address == GATEWAY_IPV4 || address == self.gateway_ipv4()
    }
}

/// Returns what a frame with this packet is flooded as: without questions for neighbours, for a
/// router and for an address, nobody reaches anybody.
pub(super) fn flooded_as(packet: &Packet) -> Flood {
    let discovery = match packet {
        Packet::Arp(_) => true,
        Packet::Ipv4(packet) => {
            let dhcp = [udp::DHCPV4_SERVER, udp::DHCPV4_CLIENT];
            matches!(packet.upper, Upper::Udp { destination, .. } if dhcp.contains(&destination))
        }
        Packet::Ipv6(packet) => match packet.upper {
            Upper::Icmp(kind) => icmpv6::is_discovery(kind),
            Upper::Udp { destination, .. } => {
                [udp::DHCPV6_SERVER, udp::DHCPV6_CLIENT].contains(&destination)
            }
            _ => false,
        },
    };
    if discovery { Flood::Discovery } else { Flood::Ordinary }
}
