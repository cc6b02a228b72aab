//! What a member of a switched network may claim in its packets: which addresses are its own, that
//! it is a router, or a DHCP server. Its MAC is looked at elsewhere (`switched.rs`).
//!
//! | member | addresses | routers, DHCP servers |
//! |---|---|---|
//! | strict vNIC | its own, of those families that the network assigns | never |
//! | any other | all but those of vNICs that are bound to them | where the network allows them |
//!
//! What is within a VLAN of guests' own is not looked at: no address there is known. Behind a tag
//! that names a priority alone it is, since hosts take that as untagged.

use super::{
    guard,
    tables::{
        GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, METADATA, Member, NextHop, PortId, Role, Routed,
        Vnic,
    },
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        Frame, HEAD_LEN,
        classify::{Headers, Ipv4, Ipv6, Packet, Upper, classify},
        verdict::DropReason,
    },
    model::PortRole,
    wire::{ethernet, icmpv6, igmp, ipv4, ndp, protocol, udp, vlan::Tagging, vnet::Offload},
};
use arrayvec::ArrayVec;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use zerocopy::{FromBytes as _, big_endian::U16};

/// Who has an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub port: PortId,
    pub mac: MacAddr,
    /// It cannot use another.
    is_strict: bool,
}

/// What vNICs have for their own, and what nobody may be.
#[derive(Debug, Default)]
pub(super) struct PortSecurity {
    ipv4: HashMap<Ipv4Addr, Owner>,
    ipv6: HashMap<Ipv6Addr, Owner>,
    /// DHCP servers and routers behind ports are silenced.
    dhcp_guard: bool,
}

impl PortSecurity {
    /// Of the vNICs among these members.
    pub(super) fn new(members: &[Member], dhcp_guard: bool) -> Self {
        let bound = members.iter().filter(|member| member.fixed_mac().is_some());
        let vnics = || bound.clone().filter_map(Member::vnic);
        let owner = |vnic: &Vnic| Owner {
            port: vnic.port,
            mac: vnic.mac,
            is_strict: vnic.settings.port_security.is_strict(),
        };
        Self {
            ipv4: vnics().filter_map(|vnic| Some((vnic.ipv4?, owner(vnic)))).collect(),
            ipv6: vnics().filter_map(|vnic| Some((vnic.ipv6?, owner(vnic)))).collect(),
            dhcp_guard,
        }
    }

    /// Adds what is the gateway's.
    pub(super) fn add_gateway(&mut self, gateway: &Routed) {
        // No member has this port.
        let port = NextHop::GATEWAY.port;
        let owner = Owner { port, mac: GATEWAY_MAC, is_strict: false };
        self.ipv4.extend([GATEWAY_IPV4, gateway.gateway_ipv4()].map(|address| (address, owner)));
        self.ipv6.insert(GATEWAY_IPV6, owner);
        for address in METADATA.into_iter().filter(|_| gateway.services.metadata) {
            match address {
                IpAddr::V4(address) => drop(self.ipv4.insert(address, owner)),
                IpAddr::V6(address) => drop(self.ipv6.insert(address, owner)),
            }
        }
    }

    /// Returns the vNIC that has an address, and cannot use another.
    pub(super) fn strict_ipv4(&self, address: Ipv4Addr) -> Option<Owner> {
        self.ipv4.get(&address).copied().filter(|owner| owner.is_strict)
    }

    /// Returns the vNIC that has an address, and cannot use another.
    pub(super) fn strict_ipv6(&self, address: Ipv6Addr) -> Option<Owner> {
        self.ipv6.get(&address).copied().filter(|owner| owner.is_strict)
    }

    /// Refuses a frame that claims what `member` is not.
    #[inline]
    pub(super) fn check(
        &self,
        member: &Member,
        frame: &Frame,
        tagging: Tagging,
    ) -> Result<(), DropReason> {
        let at = match tagging {
            Tagging::Vlan(_) => return Ok(()),
            Tagging::Untagged(at) | Tagging::Priority(at) => at,
        };
        let kind = frame.head().get(at - 2..at).map(U16::read_from_bytes);
        let Some(Ok(kind)) = kind else { return Err(DropReason::FrameTooShort) };
        match (kind.get(), &member.role) {
            (ethernet::IPV4, Role::Guest(vnic)) if is_plain(vnic, &frame.head()[at..]) => Ok(()),
            // Whatever it says, nothing there is refused.
            (ethernet::IPV4, Role::Bridge(_)) if !self.silences(member) => Ok(()),
            (ethernet::IPV4 | ethernet::IPV6 | ethernet::ARP, _) => {
                self.check_packet(member, frame, at)
            }
            _ => Ok(()),
        }
    }

    /// Whether DHCP servers and routers behind `member` are silenced.
    fn silences(&self, member: &Member) -> bool {
        // Behind others there is another network, which may well have its own.
        let is_network = match &member.role {
            Role::Guest(_) | Role::Outside(_) => false,
            Role::Bridge(bridge) => matches!(bridge.role, PortRole::Uplink | PortRole::Peer),
        };
        self.dhcp_guard && !is_network
    }

    fn check_packet(&self, member: &Member, frame: &Frame, at: usize) -> Result<(), DropReason> {
        let tags = at - ethernet::HEADER_LEN;
        let (macs, rest) = frame.head().split_at(2 * size_of::<MacAddr>());
        let untagged: ArrayVec<u8, HEAD_LEN>;
        let head = if tags == 0 {
            frame.head()
        } else {
            untagged = macs.iter().chain(&rest[tags..]).copied().collect();
            &untagged
        };
        let is_deep = frame.head_len < frame.len;
        let headers = classify(head, frame.len - tags, Offload::None);
        if let Role::Guest(vnic) = &member.role
            && vnic.settings.port_security.is_strict()
        {
            // Also where its headers are beyond the head: what cannot be read may claim anything.
            return self.check_strict(vnic, &headers?, head);
        }
        let guarded = self.silences(member);
        match headers {
            Ok(headers) => self.check_other(member.port(), guarded, &headers, head),
            // What hosts may still understand, where something must be found in it.
            Err(reason @ DropReason::MalformedIpv6) if is_deep && !self.ipv6.is_empty() => {
                Err(reason)
            }
            Err(reason @ DropReason::HeadersInFragments) if guarded => Err(reason),
            Err(reason @ DropReason::MalformedIpv6) if is_deep && guarded => Err(reason),
            Err(_) => Ok(()),
        }
    }

    /// Refuses what a guest must not send that is held to its addresses.
    fn check_strict(&self, vnic: &Vnic, headers: &Headers, head: &[u8]) -> Result<(), DropReason> {
        match &headers.packet {
            Packet::Arp(packet) if vnic.ipv4.is_some() => guard::check_arp(vnic, packet),
            Packet::Ipv4(packet) if vnic.ipv4.is_some() && !joins_unconfigured(packet) => {
                guard::check_ipv4(vnic, packet)
            }
            Packet::Ipv6(packet) if vnic.ipv6.is_some() => {
                guard::check_ipv6(vnic, packet)?;
                match advertised(packet, head) {
                    Some(target) if !guard::may_advertise(vnic, target) => {
                        Err(DropReason::SpoofedNeighbour)
                    }
                    _ => Ok(()),
                }
            }
            // The network does not say who may have which address of this family.
            _ => self.check_other(vnic.port, true, headers, head),
        }
    }

    /// Refuses what nobody may send who is not held to addresses.
    fn check_other(
        &self,
        port: PortId,
        guarded: bool,
        headers: &Headers,
        head: &[u8],
    ) -> Result<(), DropReason> {
        match &headers.packet {
            Packet::Arp(packet) => match self.ipv4.get(&packet.sender_ip()) {
                Some(owner) if owner.port != port => Err(DropReason::SpoofedArp),
                _ => Ok(()),
            },
            Packet::Ipv4(packet) if guarded => guard::refuse_servers_ipv4(packet),
            Packet::Ipv4(_) => Ok(()),
            Packet::Ipv6(packet) => {
                if guarded {
                    guard::refuse_servers_ipv6(packet)?;
                }
                // A solicitation tells where its sender is, too (RFC 4861 §7.2.3).
                let told = match packet.upper {
                    Upper::Icmp(icmpv6::NEIGHBOUR_SOLICITATION) => Some(packet.source),
                    _ => advertised(packet, head),
                };
                match told.and_then(|address| self.ipv6.get(&address)) {
                    Some(owner) if owner.port != port => Err(DropReason::SpoofedNeighbour),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Whether an IPv4 packet is of the kind that nearly all are: from the vNIC's own address, and no
/// DHCP server's. It is a short way: [`guard::check_ipv4`] refuses none of them.
#[inline]
fn is_plain(vnic: &Vnic, packet: &[u8]) -> bool {
    let Some((header, rest)) = packet.split_first_chunk::<{ ipv4::HEADER_LEN }>() else {
        return false;
    };
    // Version 4 and no options.
    let [0x45, _, _, _, _, _, _, _, _, kind, _, _, source @ .., _, _, _, _] = header else {
        return false;
    };
    vnic.ipv4.is_some_and(|own| own.octets() == *source)
        && match *kind {
            protocol::TCP => true,
            // Whatever the octets of a later fragment mean: they are no port of a DHCP server's.
            protocol::UDP => {
                let server = U16::new(udp::DHCPV4_SERVER).to_bytes();
                rest.first_chunk().is_some_and(|port: &[u8; 2]| *port != server)
            }
            _ => false,
        }
}

/// Whether a host without an address joins or leaves groups (RFC 3376 §4.2.13).
fn joins_unconfigured(packet: &Ipv4) -> bool {
    packet.source.is_unspecified() && packet.protocol == igmp::PROTOCOL
}

/// Returns the address that a neighbour advertisement says something of.
fn advertised(packet: &Ipv6, head: &[u8]) -> Option<Ipv6Addr> {
    let message = head.get(ethernet::HEADER_LEN + packet.header_len..)?;
    match packet.upper {
        Upper::Icmp(icmpv6::NEIGHBOUR_ADVERTISEMENT) => Some(ndp::target(message)?.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::forward::tables::BridgePort,
        model,
        wire::{Writer, arp, vlan::tagging},
    };
    use std::sync::Arc;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

    fn port(number: u8) -> PortId {
        PortId { slot: number.into(), generation: 1 }
    }

    fn ipv4(number: u8) -> Ipv4Addr {
        [10, 0, 0, number].into()
    }

    fn ipv6(number: u16) -> Ipv6Addr {
        [0xfd00, 0, 0, 0, 0, 0, 0, number].into()
    }

    /// vNIC of the number: 10.0.0.N, fd00::N.
    fn vnic(number: u8, security: model::PortSecurity) -> Member {
        let mut vnic = Vnic::new(port(number), MacAddr([0x52, 0x54, 0, 0, 0, number]), 1500);
        vnic.settings.port_security = security;
        vnic.ipv4 = Some(ipv4(number));
        vnic.ipv6 = Some(ipv6(number.into()));
        Member { reactor: 0, role: Role::Guest(Arc::new(vnic)) }
    }

    fn bridge(number: u8, role: PortRole) -> Member {
        let bridge = BridgePort::new(port(number), role, 1500);
        Member { reactor: 0, role: Role::Bridge(Arc::new(bridge)) }
    }

    /// vNICs 1 strict, 2 bound to its MAC alone, 3 to nothing; ports 4 of a guest, 5 of a network;
    /// vNIC 6, strict, without addresses.
    fn members() -> [Member; 6] {
        let mut bare = Vnic::new(port(6), MacAddr([0x52, 0x54, 0, 0, 0, 6]), 1500);
        bare.settings.port_security = model::PortSecurity::Strict;
        [
            vnic(1, model::PortSecurity::Strict),
            vnic(2, model::PortSecurity::MacOnly),
            vnic(3, model::PortSecurity::Off),
            bridge(4, PortRole::Access),
            bridge(5, PortRole::Uplink),
            Member { reactor: 0, role: Role::Guest(Arc::new(bare)) },
        ]
    }

    /// What becomes of a packet from each of them.
    fn judge(guard: bool, kind: u16, packet: &[u8]) -> [Result<(), DropReason>; 6] {
        judge_behind(guard, &[], kind, packet)
    }

    fn judge_behind(
        guard: bool,
        tags: &[u8],
        kind: u16,
        packet: &[u8],
    ) -> [Result<(), DropReason>; 6] {
        let members = members();
        let security = PortSecurity::new(&members, guard);
        let octets = [&[0xff; 6][..], &MAC.0, tags, &kind.to_be_bytes(), packet].concat();
        let mut frame = Frame { len: octets.len(), ..Frame::default() };
        frame.head_len = octets.len().min(HEAD_LEN);
        frame.head[..frame.head_len].copy_from_slice(&octets[..frame.head_len]);
        let tagging = tagging(frame.head()).unwrap();
        members.each_ref().map(|member| security.check(member, &frame, tagging))
    }

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buffer = [0; 1500];
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer);
        writer.since(0).to_vec()
    }

    fn arp(sender: Ipv4Addr) -> Vec<u8> {
        written(|writer| writer.push(&arp::Packet::request(MAC, sender, ipv4(9))).unwrap())
    }

    fn udp4(from: (Ipv4Addr, u16), to: u16) -> Vec<u8> {
        let to = (Ipv4Addr::BROADCAST, to);
        written(|writer| crate::wire::udp::write_ipv4(writer, from, to, b"hello").unwrap())
    }

    fn icmp6(source: Ipv6Addr, kind: u8, target: Ipv6Addr) -> Vec<u8> {
        let ends = (source, "ff02::1".parse().unwrap(), 255);
        let write =
            |writer: &mut Writer<'_>| icmpv6::write(writer, ends, (kind, 0, 0), &target.octets());
        written(|writer| write(writer).unwrap())
    }

    const OK: Result<(), DropReason> = Ok(());

    #[test]
    fn addresses_of_bound_vnics_are_nobody_elses() {
        let spoofed = Err(DropReason::SpoofedArp);
        let of_1 = judge(false, ethernet::ARP, &arp(ipv4(1)));
        assert_eq!(of_1, [OK, spoofed, spoofed, spoofed, spoofed, spoofed]);
        // vNIC 3 is bound to none, so nobody is kept from its own but who has one.
        let of_3 = judge(false, ethernet::ARP, &arp(ipv4(3)));
        assert_eq!(of_3, [spoofed, OK, OK, OK, OK, OK]);
        assert_eq!(judge(false, ethernet::ARP, &arp(Ipv4Addr::UNSPECIFIED)), [OK; 6]);
        let spoofed = Err(DropReason::SpoofedNeighbour);
        let link_local = "fe80::9".parse().unwrap();
        let tells = icmp6(link_local, icmpv6::NEIGHBOUR_ADVERTISEMENT, ipv6(2));
        let of_2 = judge(false, ethernet::IPV6, &tells);
        assert_eq!(of_2, [spoofed, OK, spoofed, spoofed, spoofed, spoofed]);
        let asks = icmp6(ipv6(2), icmpv6::NEIGHBOUR_SOLICITATION, ipv6(9));
        let of_2 = judge(false, ethernet::IPV6, &asks);
        let source = Err(DropReason::SpoofedIpv6);
        assert_eq!(of_2, [source, OK, spoofed, spoofed, spoofed, spoofed]);
    }

    #[test]
    fn a_strict_guest_sends_from_its_addresses_where_it_has_some() {
        for (from, to) in [(1, 53), (9, 53)] {
            let judged = judge(false, ethernet::IPV4, &udp4((ipv4(from), 40_000), to));
            let refused = if from == 1 { OK } else { Err(DropReason::SpoofedIpv4) };
            assert_eq!(judged, [refused, OK, OK, OK, OK, OK]);
            let packet = icmp6(ipv6(from.into()), icmpv6::ECHO_REQUEST, ipv6(2));
            let refused = if from == 1 { OK } else { Err(DropReason::SpoofedIpv6) };
            let judged = judge(false, ethernet::IPV6, &packet);
            assert_eq!(judged, [refused, OK, OK, OK, OK, OK]);
        }
        // Before it has an address it may ask for one, and join groups.
        let asks = udp4((Ipv4Addr::UNSPECIFIED, 68), 67);
        assert_eq!(judge(true, ethernet::IPV4, &asks), [OK; 6]);
        let mut joins = asks;
        joins[9] = igmp::PROTOCOL;
        joins[10..12].fill(0);
        let sum = crate::wire::checksum::checksum(&joins[..20]);
        joins[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(judge(true, ethernet::IPV4, &joins), [OK; 6]);
    }

    #[test]
    fn dhcp_servers_and_routers_are_silenced_where_that_is_asked_for() {
        let rogue = Err(DropReason::RogueDhcpServer);
        let serves = |from| udp4((ipv4(from), 67), 68);
        let judged = judge(true, ethernet::IPV4, &serves(1));
        assert_eq!(judged, [rogue, rogue, rogue, rogue, OK, rogue]);
        // The plain packet of a guest that sends from its own address is looked at all the same.
        let judged = judge(false, ethernet::IPV4, &serves(1));
        assert_eq!(judged, [rogue, OK, OK, OK, OK, rogue]);
        let rogue = Err(DropReason::RogueRouter);
        let routes = icmp6("fe80::9".parse().unwrap(), icmpv6::ROUTER_ADVERTISEMENT, ipv6(1));
        let judged = judge(true, ethernet::IPV6, &routes);
        assert_eq!(judged, [rogue, rogue, rogue, rogue, OK, rogue]);
        let judged = judge(false, ethernet::IPV6, &routes);
        assert_eq!(judged, [rogue, OK, OK, OK, OK, rogue]);
    }

    #[test]
    fn what_is_behind_a_priority_is_looked_at_and_what_is_in_a_vlan_is_not() {
        let spoofed = Err(DropReason::SpoofedArp);
        let told = arp(ipv4(1));
        let vlan = judge_behind(false, &[0x81, 0, 0, 7], ethernet::ARP, &told);
        assert_eq!(vlan, [OK; 6]);
        for tags in [&[0x81, 0, 0xe0, 0][..], &[0x88, 0xa8, 0, 0].repeat(10)] {
            let judged = judge_behind(false, tags, ethernet::ARP, &told);
            assert_eq!(judged, [OK, spoofed, spoofed, spoofed, spoofed, spoofed]);
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_where_something_must_be_found() {
        // An advertisement behind so many options that it is beyond the head.
        let na = icmp6(ipv6(9), icmpv6::NEIGHBOUR_ADVERTISEMENT, ipv6(1));
        let (header, message) = na.split_at(40);
        let mut deep = [header, &[protocol::ICMPV6, 24][..], &[1, 4, 0, 0, 0, 0]].concat();
        deep.resize(40 + 200, 0);
        deep.extend(message);
        deep[6] = 0;
        let len = (deep.len() - 40) as u16;
        deep[4..6].copy_from_slice(&len.to_be_bytes());
        let hidden = Err(DropReason::MalformedIpv6);
        assert_eq!(judge(false, ethernet::IPV6, &deep), [hidden; 6]);
        // An ARP packet that is cut is believed by nobody.
        let cut = judge(true, ethernet::ARP, &arp(ipv4(1))[..20]);
        assert_eq!(
            cut,
            [Err(DropReason::MalformedArp), OK, OK, OK, OK, Err(DropReason::MalformedArp)]
        );
    }

    #[test]
    fn the_short_way_passes_nothing_that_the_long_one_does_not() {
        let member = vnic(1, model::PortSecurity::Strict);
        let Role::Guest(vnic) = &member.role else { panic!("it is one") };
        for (from, source, kind) in
            [(1, 67, 17), (1, 66, 17), (1, 80, 6), (2, 80, 6), (1, 80, 1), (1, 80, 50)]
        {
            let mut packet = udp4((ipv4(from), source), 68);
            packet[9] = kind;
            packet[10..12].fill(0);
            let sum = crate::wire::checksum::checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            let judged = judge(false, ethernet::IPV4, &packet)[0];
            if is_plain(vnic, &packet) {
                assert_eq!(judged, OK, "{from} {source} {kind}");
            }
            assert_eq!(
                is_plain(vnic, &packet),
                from == 1 && (source, kind) != (67, 17) && kind != 1 && kind != 50
            );
            assert!(!is_plain(vnic, &packet[..19]));
        }
    }
}
