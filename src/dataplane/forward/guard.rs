//! Who a guest may claim to be: a vNIC sends only from its MAC, its addresses and its routed
//! prefixes, plus what RFCs require of a host without an address. Advertisements of routers and
//! DHCP servers are not for guests. A host behind a port has no address of its own: through the
//! gateway it sends from any of the network that is nobody else's.

use super::tables::{GATEWAY_IPV6, GATEWAY_MAC, PortId, Routed, Vnic};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        classify::{Headers, Ipv4, Ipv6, Packet, Upper},
        verdict::{DropReason, NextHopId},
    },
    wire::{arp, icmpv4, icmpv6, udp},
};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Refuses a frame that `vnic` must not send.
pub fn check(vnic: &Vnic, headers: &Headers) -> Result<(), DropReason> {
    check_ethernet(vnic, headers.source, headers.destination)?;
    match &headers.packet {
        Packet::Arp(packet) => check_arp(vnic, packet),
        Packet::Ipv4(packet) => check_ipv4(vnic, packet),
        Packet::Ipv6(packet) => check_ipv6(vnic, packet),
    }
}

/// Refuses a frame between addresses that `vnic` must not use.
#[inline]
pub fn check_ethernet(vnic: &Vnic, from: MacAddr, to: MacAddr) -> Result<(), DropReason> {
    if from != vnic.mac {
        return Err(DropReason::SpoofedMac);
    }
    // Every network is routed: on its link a guest has no neighbour but the gateway.
    if to != GATEWAY_MAC && !to.is_multicast() {
        return Err(DropReason::ForeignMac);
    }
    Ok(())
}

/// Refuses an ARP packet that `vnic` must not send.
pub fn check_arp(vnic: &Vnic, packet: &arp::Packet) -> Result<(), DropReason> {
    let sender = packet.sender_ip();
    // Without a sender it is a probe, which claims nothing yet (RFC 5227 §2.1.1).
    let honest =
        packet.sender_mac() == vnic.mac && (sender.is_unspecified() || vnic.owns_ipv4(sender));
    if honest { Ok(()) } else { Err(DropReason::SpoofedArp) }
}

/// Refuses an IPv4 packet that `vnic` must not send.
#[inline(always)]
pub fn check_ipv4(vnic: &Vnic, packet: &Ipv4) -> Result<(), DropReason> {
    if !vnic.owns_ipv4(packet.source) && !is_unconfigured(packet) {
        return Err(DropReason::SpoofedIpv4);
    }
    refuse_servers_ipv4(packet)
}

/// Refuses what only DHCP servers and gateways send.
#[inline(always)]
pub fn refuse_servers_ipv4(packet: &Ipv4) -> Result<(), DropReason> {
    match packet.upper {
        Upper::Udp { source: udp::DHCPV4_SERVER, destination: udp::DHCPV4_CLIENT } => {
            Err(DropReason::RogueDhcpServer)
        }
        // Redirects are sent by gateways alone (RFC 1122 §3.2.2.2).
        Upper::Icmp(icmpv4::REDIRECT) => Err(DropReason::RogueRouter),
        _ => Ok(()),
    }
}

/// Whether a packet is of a DHCP client that has no address yet (RFC 2131 §4.1).
fn is_unconfigured(packet: &Ipv4) -> bool {
    packet.source.is_unspecified()
        && packet.destination == Ipv4Addr::BROADCAST
        && matches!(packet.upper, Upper::Udp { destination: udp::DHCPV4_SERVER, .. })
}

/// Refuses an IPv6 packet that `vnic` must not send.
#[inline]
pub fn check_ipv6(vnic: &Vnic, packet: &Ipv6) -> Result<(), DropReason> {
    if !source_ipv6_is_honest(packet, |source| vnic.owns_ipv6(source)) {
        return Err(DropReason::SpoofedIpv6);
    }
    refuse_servers_ipv6(packet)
}

/// Refuses what only DHCP servers and routers send.
#[inline]
pub fn refuse_servers_ipv6(packet: &Ipv6) -> Result<(), DropReason> {
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

fn source_ipv6_is_honest(packet: &Ipv6, owns: impl Fn(Ipv6Addr) -> bool) -> bool {
    let source = packet.source;
    if source.is_unspecified() {
        // Duplicate address detection (RFC 4862 §5.4), and what a host may send before it has
        // ended: router solicitations (RFC 4861 §4.1) and multicast reports (RFC 3590). None of
        // that is ever forwarded, but a report that goes to one host would be (RFC 4291 §2.5.2).
        return match packet.upper {
            Upper::Icmp(icmpv6::NEIGHBOUR_SOLICITATION | icmpv6::ROUTER_SOLICITATION) => true,
            Upper::Icmp(icmpv6::MLD_QUERY..=132 | icmpv6::MLD_REPORT_V2) => {
                packet.destination.is_multicast()
            }
            _ => false,
        };
    }
    if source.is_unicast_link_local() {
        // Any link-local address is the guest's own: nothing from one goes beyond the gateway.
        return source != GATEWAY_IPV6;
    }
    owns(source)
}

/// Refuses a packet that a host behind `port` must not send to the gateway or through it.
pub fn check_host(table: &Routed, port: PortId, headers: &Headers) -> Result<(), DropReason> {
    match &headers.packet {
        // What it claims was looked at where it entered the segment.
        Packet::Arp(_) => Ok(()),
        Packet::Ipv4(packet) => {
            if !is_hosts_ipv4(table, port, packet.source) && !is_unconfigured(packet) {
                return Err(DropReason::SpoofedIpv4);
            }
            refuse_servers_ipv4(packet)
        }
        Packet::Ipv6(packet) => {
            let is_honest = source_ipv6_is_honest(packet, |source| {
                let owner = table.fib.lookup_ipv6(source).and_then(|id| owner(table, id));
                table.ipv6_prefix.is_some_and(|prefix| prefix.contains(&source))
                    && !table.is_metadata(source.into())
                    && owner.is_none_or(|owner| owner == port)
            });
            if !is_honest {
                return Err(DropReason::SpoofedIpv6);
            }
            refuse_servers_ipv6(packet)
        }
    }
}

/// Returns the port of the vNIC that a route leads to, unless it leads out or to nobody.
fn owner(table: &Routed, route: NextHopId) -> Option<PortId> {
    let next_hop = table.fib.next_hop(route);
    next_hop.is_vnics().then_some(next_hop.port)
}

/// Whether a host behind `port` may have an address: one of the network, or one that hosts choose
/// themselves (RFC 3927), which is neither the gateway's nor of another's vNIC.
fn is_hosts_ipv4(table: &Routed, port: PortId, source: Ipv4Addr) -> bool {
    let in_subnet = table.ipv4_subnet.is_some_and(|subnet| subnet.contains(&source));
    let owner = table.fib.lookup_ipv4(source).and_then(|id| owner(table, id));
    (in_subnet || source.is_link_local())
        && table.ipv4_broadcast != Some(source)
        && !table.is_gateway_ipv4(source)
        && !table.is_metadata(source.into())
        && owner.is_none_or(|owner| owner == port)
}

/// Whether `vnic` may advertise `target` as its own.
pub fn may_advertise(vnic: &Vnic, target: Ipv6Addr) -> bool {
    vnic.owns_ipv6(target) || (target.is_unicast_link_local() && target != GATEWAY_IPV6)
}
