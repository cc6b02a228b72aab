//! Who a guest may claim to be: a vNIC sends only from its MAC, its addresses and its routed prefixes, plus what
//! RFCs require of a host without an address. Advertisements of routers and DHCP servers are not for guests.

use super::{
    classify::{Headers, Ipv4, Ipv6, Packet, Upper},
    snapshot::{GATEWAY_IPV6, GATEWAY_MAC, Vnic},
    verdict::DropReason,
};
use crate::wire::{arp, icmpv4, icmpv6, udp};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Refuses a frame that `vnic` must not send.
pub fn check(vnic: &Vnic, headers: &Headers) -> Result<(), DropReason> {
    if headers.source != vnic.mac {
        return Err(DropReason::SpoofedMac);
    }
    if headers.destination != GATEWAY_MAC && !headers.destination.is_multicast() {
        return Err(DropReason::ForeignMac);
    }
    match &headers.packet {
        Packet::Arp(packet) => check_arp(vnic, packet),
        Packet::Ipv4(packet) => check_ipv4(vnic, packet),
        Packet::Ipv6(packet) => check_ipv6(vnic, packet),
    }
}

fn check_arp(vnic: &Vnic, packet: &arp::Packet) -> Result<(), DropReason> {
    let sender = packet.sender_ip();
    let honest =
        packet.sender_mac() == vnic.mac && (sender.is_unspecified() || vnic.owns_ipv4(sender));
    if honest { Ok(()) } else { Err(DropReason::SpoofedArp) }
}

fn check_ipv4(vnic: &Vnic, packet: &Ipv4) -> Result<(), DropReason> {
    let dhcp = matches!(packet.upper, Upper::Udp { destination: udp::DHCPV4_SERVER, .. });
    let unconfigured =
        packet.source.is_unspecified() && dhcp && packet.destination == Ipv4Addr::BROADCAST;
    if !unconfigured && !vnic.owns_ipv4(packet.source) {
        return Err(DropReason::SpoofedIpv4);
    }
    match packet.upper {
        Upper::Udp { source: udp::DHCPV4_SERVER, destination: udp::DHCPV4_CLIENT } => {
            Err(DropReason::RogueDhcpServer)
        }
        Upper::Icmp(icmpv4::REDIRECT) => Err(DropReason::RogueRouter),
        _ => Ok(()),
    }
}

fn check_ipv6(vnic: &Vnic, packet: &Ipv6) -> Result<(), DropReason> {
    if !source_ipv6_is_honest(vnic, packet) {
        return Err(DropReason::SpoofedIpv6);
    }
    match packet.upper {
        Upper::Udp { source: udp::DHCPV6_SERVER, destination: udp::DHCPV6_CLIENT } => {
            Err(DropReason::RogueDhcpServer)
        }
        Upper::Icmp(icmpv6::ROUTER_ADVERTISEMENT | icmpv6::REDIRECT) => {
            Err(DropReason::RogueRouter)
        }
        _ => Ok(()),
    }
}

fn source_ipv6_is_honest(vnic: &Vnic, packet: &Ipv6) -> bool {
    let source = packet.source;
    if source.is_unspecified() {
        // Duplicate address detection (RFC 4862 §5.4), router solicitations and multicast reports before it.
        return matches!(
            packet.upper,
            Upper::Icmp(
                icmpv6::NEIGHBOUR_SOLICITATION | icmpv6::ROUTER_SOLICITATION | icmpv6::MLD_QUERY
                    ..=132 | icmpv6::MLD_REPORT_V2
            )
        );
    }
    if source.is_unicast_link_local() {
        // Any link-local address is the guest's own: nothing from one goes beyond the gateway.
        return source != GATEWAY_IPV6;
    }
    vnic.owns_ipv6(source)
}

/// Whether `vnic` may advertise `target` as its own.
pub fn may_advertise(vnic: &Vnic, target: Ipv6Addr) -> bool {
    vnic.owns_ipv6(target) || (target.is_unicast_link_local() && target != GATEWAY_IPV6)
}
