//! What is answered where it is asked, in a switched network, instead of being flooded: questions
//! for the gateway, and for neighbours whose addresses the network has given out.
//!
//! Takes the packet of a frame to a group; returns the verdict about one that is answered. One that
//! is answered goes nowhere else.

use super::{
    Leases,
    port_security::PortSecurity,
    segment::Segment,
    tables::{GATEWAY_IPV4, GATEWAY_IPV6, METADATA, Member, Routed},
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        classify::{Ipv6, Packet, Upper},
        verdict::{Flood, Verdict},
    },
    wire::{arp, ethernet, icmpv6, ndp, udp},
};
use std::net::{IpAddr, Ipv4Addr};

/// What answers are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local<'a> {
    /// The gateway, where there is one.
    pub gateway: Option<&'a Routed>,
    /// Whose addresses are known; none where nobody is spoken for.
    pub neighbours: Option<&'a PortSecurity>,
    /// What was learned.
    pub segment: &'a Segment,
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
                return self.answers_arp(member, source, packet);
            }
            Packet::Arp(_) => false,
            Packet::Ipv4(packet) => {
                matches!(packet.upper, Upper::Udp { destination: udp::DHCPV4_SERVER, .. })
                    && (is_guest || self.leases().is_some())
            }
            Packet::Ipv6(packet) => match packet.upper {
                Upper::Icmp(icmpv6::NEIGHBOUR_SOLICITATION) => {
                    return self.answers_solicitation(member, source, (packet, head));
                }
                Upper::Icmp(icmpv6::ROUTER_SOLICITATION) => {
                    is_guest || self.gateway?.ipv6_prefix.is_some()
                }
                Upper::Udp { destination: udp::DHCPV6_SERVER, .. } => {
                    is_guest || self.leases().is_some()
                }
                _ => false,
            },
        };
        (answer && self.gateway.is_some()).then_some(Verdict::Gateway)
    }

    /// Returns what hosts behind ports have leased, where they lease anything.
    fn leases(&self) -> Option<&Leases> {
        self.gateway?.leases()
    }

    fn answers_arp(
        &self,
        member: &Member,
        source: MacAddr,
        packet: &arp::Packet,
    ) -> Option<Verdict> {
        let target = packet.target_ip();
        if self.gateway.is_some_and(|gateway| gateway.answers_at(target.into())) {
            return Some(Verdict::Gateway);
        }
        match self.neighbours?.strict_ipv4(target) {
            Some(owner) => (owner.port != member.port()).then_some(owner.mac),
            None => self.holder(member, source, target.into()),
        }
        .map(Verdict::Neighbour)
    }

    fn answers_solicitation(
        &self,
        member: &Member,
        source: MacAddr,
        (packet, head): (&Ipv6, &[u8]),
    ) -> Option<Verdict> {
        let message = head.get(ethernet::HEADER_LEN + packet.header_len..)?;
        let (target, _) = ndp::target(message)?;
        if self.gateway.is_some_and(|gateway| gateway.answers_at(target.into())) {
            return Some(Verdict::Gateway);
        }
        match self.neighbours?.strict_ipv6(target) {
            Some(owner) => (owner.port != member.port()).then_some(owner.mac),
            None => self.holder(member, source, target.into()),
        }
        .map(Verdict::Neighbour)
    }

    /// Returns the MAC of a host that has leased an address, unless it has heard the question of
    /// `source`, which is behind a port of `member`.
    fn holder(&self, member: &Member, source: MacAddr, address: IpAddr) -> Option<MacAddr> {
        let mac = self.leases()?.holder(address, self.segment.now)?;
        let is_near = || self.segment.port_of(mac) == Some(member.port());
        (mac != source && !is_near()).then_some(mac)
    }
}

impl Routed {
    /// Returns the gateway's IPv4 address as guests are told it.
    pub fn gateway_ipv4(&self) -> Ipv4Addr {
        self.segment.as_ref().and_then(|segment| segment.gateway_ipv4).unwrap_or(GATEWAY_IPV4)
    }

    /// Returns what hosts behind ports have leased; none where they lease nothing.
    pub fn leases(&self) -> Option<&Leases> {
        self.segment.as_ref()?.leases.as_deref()
    }

    /// Whether an address is the gateway's.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.is_gateway_ipv4(address),
            IpAddr::V6(address) => address == GATEWAY_IPV6,
        }
    }

    /// Whether an address is that of the metadata service, where there is one.
    pub fn is_metadata(&self, address: IpAddr) -> bool {
        self.services.metadata && METADATA.contains(&address)
    }

    /// Whether questions for the neighbour that has an address are the gateway's to answer.
    fn answers_at(&self, address: IpAddr) -> bool {
        self.is_gateway(address) || self.is_metadata(address)
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
