//! Where frames of a switched network go.

use super::*;
use crate::{
    dataplane::{
        forward::{
            FibBuilder, segment,
            tables::{self, BridgePort, Vnic},
        },
        frame::verdict::Rejection,
    },
    model::{
        L2Policy, PortSecurity,
        l2::{HasGateway, Members},
    },
    wire::{
        Writer, arp, checksum, icmpv6, udp,
        vnet::{SegmentKind, Segments},
    },
};
use proptest::prelude::*;
use std::{net::Ipv6Addr, sync::Arc};
use zerocopy::IntoBytes as _;

pub(in crate::dataplane::forward) const UNKNOWN: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x98];
const ALL: [u8; 6] = [0xff; 6];
const FLOOD: Result<NextHopId, Verdict> = Err(Verdict::Flood(Flood::Ordinary));

fn dropped(reason: DropReason) -> Result<NextHopId, Verdict> {
    Err(Verdict::Drop(reason))
}

pub(in crate::dataplane::forward) fn mac(number: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, number]
}

fn port(number: u8) -> PortId {
    PortId { slot: 10 + u32::from(number), generation: 1 }
}

/// The vNIC of the number, in slot 10 + number.
pub(in crate::dataplane::forward) fn vnic(number: u8, security: PortSecurity) -> Member {
    let mut vnic = Vnic::new(port(number), MacAddr(mac(number)), 1500);
    vnic.settings.port_security = security;
    Member { reactor: u16::from(number % 2), role: Role::Guest(Arc::new(vnic)) }
}

/// A port that is none, likewise.
fn bridge(number: u8, role: PortRole, change: fn(&mut BridgePort)) -> Member {
    let mut bridge = BridgePort::new(port(number), role, 1500);
    change(&mut bridge);
    Member { reactor: u16::from(number % 2), role: Role::Bridge(Arc::new(bridge)) }
}

/// Members 1, 2, … of a network, and what was learned of it.
pub(in crate::dataplane::forward) struct Rig {
    members: Vec<Member>,
    pub(in crate::dataplane::forward) network: Switched,
    segment: Segment,
    now: u32,
}

impl Rig {
    fn new(members: impl Into<Vec<Member>>, policy: L2Policy) -> Self {
        let members = members.into();
        let network = Switched::new(&members, policy.in_force(HasGateway::No, Members::Any));
        let mut segment = segment::tests::segment();
        segment.fdb.age_after(network.rules.mac_aging_seconds);
        Self { members, network, segment, now: 0 }
    }

    /// vNICs 1 to 3, of which 2 may send from any MAC: next hops 0 to 2.
    pub(in crate::dataplane::forward) fn of_vnics() -> Self {
        let security = |number| {
            if number == 2 { PortSecurity::Off } else { PortSecurity::Strict }
        };
        let members = [1, 2, 3].map(|number| vnic(number, security(number)));
        Self::new(members, L2Policy::default())
    }

    fn sends(&mut self, sender: u8, frame: &Frame) -> Result<NextHopId, Verdict> {
        let member = &self.members[usize::from(sender) - 1];
        self.network.decide(member, &mut frame.clone(), &mut self.segment, self.now)
    }

    /// A plain frame of an unknown kind.
    fn plain(&mut self, sender: u8, from: [u8; 6], to: [u8; 6]) -> Result<NextHopId, Verdict> {
        self.sends(sender, &with(from, to, &[0x88, 0xb5, 1, 2, 3]))
    }

    fn receivers(&self, sender: u8) -> Vec<u32> {
        let of = |reactor| self.network.receivers(port(sender), reactor);
        let mut slots: Vec<_> =
            of(0).chain(of(1)).map(|next_hop| next_hop.port.slot - 10).collect();
        slots.sort_unstable();
        slots
    }
}

fn frame(octets: &[u8], offload: Offload) -> Frame {
    let mut frame =
        Frame { len: octets.len(), head_len: octets.len(), offload, ..Frame::default() };
    frame.head[..octets.len()].copy_from_slice(octets);
    frame
}

fn with(from: [u8; 6], to: [u8; 6], rest: &[u8]) -> Frame {
    frame(&[&to[..], &from, rest].concat(), Offload::None)
}

/// From `from` to `to`, in VLAN `vid`.
fn tagged(from: [u8; 6], to: [u8; 6], vid: u8) -> Frame {
    with(from, to, &[0x81, 0x00, 0x00, vid, 0x88, 0xcc, 1, 2, 3, 4])
}

// seed H.2.3, H.2.4, H.2.5, H.2.6
#[test]
fn a_frame_goes_to_its_mac_or_to_all_and_never_back() {
    let mut rig = Rig::of_vnics();
    assert_eq!(rig.network.reactors(), [0, 1]);
    assert_eq!(rig.plain(1, mac(1), mac(3)), Ok(NextHopId(2)), "before it was heard");
    assert_eq!(rig.plain(1, mac(1), UNKNOWN), FLOOD);
    assert_eq!(rig.plain(1, mac(1), ALL), FLOOD);
    assert_eq!(rig.receivers(1), [2, 3]);
    assert_eq!(rig.plain(2, UNKNOWN, mac(1)), Ok(NextHopId(0)), "2 is a bridge");
    assert_eq!(rig.plain(1, mac(1), UNKNOWN), Ok(NextHopId(1)));
    assert_eq!(rig.plain(2, mac(2), UNKNOWN), dropped(DropReason::Hairpin));
    assert_eq!(rig.plain(3, mac(3), mac(3)), dropped(DropReason::Hairpin));
    let short = frame(&[0xff; 13], Offload::None);
    assert_eq!(rig.sends(1, &short), dropped(DropReason::FrameTooShort));
    let invalid = DropReason::ChainTooLong;
    let cut = Frame { invalid: Some(invalid), ..tagged(mac(1), mac(3), 7) };
    assert_eq!(rig.sends(1, &cut), dropped(invalid));
}

#[test]
fn a_mac_belongs_to_its_vnic_and_to_single_stations() {
    let mut rig = Rig::of_vnics();
    for from in [mac(1), mac(3)] {
        assert_eq!(rig.plain(2, from, ALL), dropped(DropReason::SpoofedMac));
    }
    for sender in [1, 2] {
        assert_eq!(
            rig.plain(sender, [3, 0, 0, 0, 0, 1], ALL),
            match sender {
                1 => dropped(DropReason::SpoofedMac),
                _ => dropped(DropReason::InvalidSourceMac),
            }
        );
    }
    assert_eq!(rig.plain(2, [0; 6], mac(3)), dropped(DropReason::InvalidSourceMac));
    assert_eq!(rig.plain(1, UNKNOWN, mac(3)), dropped(DropReason::SpoofedMac), "1 has one");
}

#[test]
fn what_was_learned_of_a_port_that_left_is_not_believed() {
    let mut rig = Rig::of_vnics();
    assert_eq!(rig.plain(2, UNKNOWN, mac(1)), Ok(NextHopId(0)));
    // The slot has another vNIC.
    rig.network.next_hops[1].port.generation = 2;
    assert_eq!(rig.plain(1, mac(1), UNKNOWN), FLOOD);
}

#[test]
fn a_port_without_room_is_held_to_it_where_a_guest_is_behind() {
    let few = |bridge: &mut BridgePort| bridge.mac_limit = 1;
    let mut rig = Rig::new(
        [bridge(1, PortRole::Access, few), bridge(2, PortRole::Uplink, few)],
        L2Policy::default(),
    );
    assert_eq!(rig.plain(1, UNKNOWN, ALL), FLOOD);
    assert_eq!(rig.plain(1, OTHER, ALL), dropped(DropReason::MacLimit));
    assert_eq!(rig.plain(1, UNKNOWN, ALL), FLOOD, "the first one goes on");
    assert_eq!(rig.segment.lessons.macs_not_learned, 0);
    assert_eq!(rig.plain(2, mac(7), ALL), FLOOD);
    assert_eq!(rig.plain(2, mac(8), ALL), FLOOD);
    assert_eq!(rig.segment.lessons.macs_not_learned, 1);
    assert_eq!(rig.plain(1, UNKNOWN, mac(7)), Ok(NextHopId(1)));
    assert_eq!(rig.plain(1, UNKNOWN, mac(8)), FLOOD);
}

#[test]
fn a_network_that_does_not_flood_drops_what_nobody_is_known_for() {
    let policy = L2Policy { unknown_unicast: Some(UnknownUnicast::Drop), ..L2Policy::default() };
    let mut rig = Rig::new(Rig::of_vnics().members, policy);
    assert_eq!(rig.plain(1, mac(1), UNKNOWN), dropped(DropReason::UnknownUnicast));
    assert_eq!(rig.plain(1, mac(1), ALL), FLOOD);
    assert_eq!(rig.plain(2, UNKNOWN, mac(9)), dropped(DropReason::UnknownUnicast));
    assert_eq!(rig.plain(1, mac(1), UNKNOWN), Ok(NextHopId(1)), "heard all the same");
}

#[test]
fn what_is_for_the_next_bridge_goes_to_none_unless_asked_for() {
    let (stp, lldp, pause) = ([0x01, 0x80, 0xc2, 0, 0, 0], 14, ethernet::PAUSE.0);
    let lldp = [0x01, 0x80, 0xc2, 0, 0, lldp];
    let mut rig = Rig::of_vnics();
    for to in [stp, lldp, pause, [0, 0xe0, 0x2b, 0, 0, 4]] {
        assert_eq!(rig.plain(1, mac(1), to), dropped(DropReason::ReservedGroup));
    }
    let mut rig = Rig::new(rig.members, L2Policy::plain());
    for to in [stp, lldp, [0, 0xe0, 0x2b, 0, 0, 4]] {
        assert_eq!(rig.plain(1, mac(1), to), FLOOD);
    }
    assert_eq!(rig.plain(1, mac(1), pause), dropped(DropReason::ReservedGroup));
}

#[test]
fn frames_of_any_kind_cross_and_tagged_ones_where_they_may() {
    let mut rig = Rig::of_vnics();
    // IPX, PPPoE, MPLS, LLC whose length is beyond its frame.
    for ether_type in [[0x81, 0x37], [0x88, 0x63], [0x88, 0x47], [0x05, 0xdc]] {
        let frame = with(mac(1), mac(3), &ether_type);
        assert_eq!(rig.sends(1, &frame), Ok(NextHopId(2)));
    }
    let ten = with(mac(1), mac(3), &[0x81, 0, 0, 7].repeat(10));
    for frame in [tagged(mac(1), mac(3), 7), tagged(mac(1), mac(3), 0), ten.clone()] {
        assert_eq!(rig.sends(1, &frame), dropped(DropReason::VlanTagged));
    }
    let mut rig = Rig::new(rig.members, L2Policy::plain());
    assert_eq!(rig.sends(1, &tagged(mac(1), mac(3), 7)), Ok(NextHopId(2)));
    assert_eq!(rig.sends(1, &ten), Ok(NextHopId(2)));
    for len in 14..18 {
        let cut = frame(&tagged(mac(1), mac(3), 7).head[..len], Offload::None);
        assert_eq!(rig.sends(1, &cut), dropped(DropReason::FrameTooShort), "{len}");
    }
    // A MAC is behind one port in one VLAN, and behind another in another.
    assert_eq!(rig.sends(2, &tagged(UNKNOWN, ALL, 7)), FLOOD);
    assert_eq!(rig.sends(1, &tagged(mac(1), UNKNOWN, 7)), Ok(NextHopId(1)));
    assert_eq!(rig.sends(1, &tagged(mac(1), UNKNOWN, 8)), FLOOD);
    assert_eq!(rig.plain(1, mac(1), UNKNOWN), FLOOD);
}

#[test]
fn questions_for_neighbours_are_told_from_other_floods() {
    let mut rig = Rig::of_vnics();
    let arp = [&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1][..], &[0; 20]].concat();
    let discovery = Err(Verdict::Flood(Flood::Discovery));
    assert_eq!(rig.sends(1, &with(mac(1), ALL, &arp)), discovery);
    let dhcp = |to: u8| {
        let mut packet = vec![0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x7a, 0xd2];
        packet.extend([0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, to, 0, 8, 0, 0]);
        with(mac(1), ALL, &packet)
    };
    assert_eq!(rig.sends(1, &dhcp(67)), discovery);
    assert_eq!(rig.sends(1, &dhcp(53)), FLOOD);
    assert_eq!(rig.sends(1, &tagged(mac(1), ALL, 7)), dropped(DropReason::VlanTagged));
}

/// The gateway 10.0.0.1 of three vNICs, strict but for 2, with 10.0.0.11 and on and fd00::b and
/// on, before a port.
fn with_gateway() -> Rig {
    let policy = L2Policy::default();
    let mut members = Rig::of_vnics().members;
    members.push(bridge(4, PortRole::Access, |_| {}));
    let mut fib = FibBuilder::default();
    for (member, last) in members.iter_mut().zip(11..) {
        let Role::Guest(vnic) = &member.role else { continue };
        let mut vnic = Vnic::clone(vnic);
        vnic.ipv4 = Some([10, 0, 0, last].into());
        vnic.ipv6 = Some([0xfd00, 0, 0, 0, 0, 0, 0, last.into()].into());
        member.role = Role::Guest(Arc::new(vnic));
        // Not in the order of members: the tables number them for themselves.
        fib.next_hop(member.next_hop());
        let next_hop = fib.next_hop(member.next_hop());
        fib.host_ipv4([10, 0, 0, last].into(), next_hop);
    }
    let gateway = Routed {
        ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
        ipv4_broadcast: Some([10, 0, 0, 255].into()),
        ipv6_prefix: Some("fd00::/64".parse().unwrap()),
        segment: Some(tables::Segment {
            gateway_ipv4: Some([10, 0, 0, 1].into()),
            ..Default::default()
        }),
        ..Routed::new(fib.build(7))
    };
    let mut rig = Rig::new(members, policy);
    rig.network = rig.network.with_gateway(gateway);
    rig
}

/// An ARP request of `from` at the MAC of vNIC `sender` for `target`.
fn asks(sender: u8, from: [u8; 4], target: [u8; 4]) -> Frame {
    let packet = arp::Packet::request(MacAddr(mac(sender)), from.into(), target.into());
    with(mac(sender), ALL, &[&[0x08, 0x06][..], packet.as_bytes()].concat())
}

#[test]
fn who_is_known_is_not_asked_and_the_gateway_answers_its_vnics() {
    let mut rig = with_gateway();
    let own = [10, 0, 0, 11];
    let known = |number| Err(Verdict::Neighbour(MacAddr(mac(number))));
    let discovery = Err(Verdict::Flood(Flood::Discovery));
    assert_eq!(rig.sends(1, &asks(1, own, [10, 0, 0, 13])), known(3));
    // 2 may use any address, so it must speak for itself; nobody has the last.
    assert_eq!(rig.sends(1, &asks(1, own, [10, 0, 0, 12])), discovery);
    assert_eq!(rig.sends(1, &asks(1, own, [10, 0, 0, 99])), discovery);
    // An announcement is no question for others.
    assert_eq!(rig.sends(1, &asks(1, own, own)), discovery);
    for target in [[10, 0, 0, 1], [169, 254, 0, 1]] {
        assert_eq!(rig.sends(1, &asks(1, own, target)), Err(Verdict::Gateway));
        let taken = rig.sends(4, &asks(9, target, [10, 0, 0, 99]));
        assert_eq!(taken, dropped(DropReason::SpoofedArp));
    }
    // A port's hosts hear of vNICs, and of the gateway.
    assert_eq!(rig.sends(4, &asks(9, [10, 0, 0, 50], [10, 0, 0, 13])), known(3));
    for target in [[10, 0, 0, 1], [169, 254, 0, 1]] {
        assert_eq!(rig.sends(4, &asks(9, [10, 0, 0, 50], target)), Err(Verdict::Gateway));
    }
    // So do those behind a guest that is a bridge.
    assert_eq!(rig.sends(2, &asks(8, [10, 0, 0, 51], [10, 0, 0, 1])), Err(Verdict::Gateway));
    assert_eq!(rig.sends(4, &asks(9, [10, 0, 0, 50], [10, 0, 0, 12])), discovery);
    assert_eq!(rig.plain(4, GATEWAY_MAC.0, ALL), dropped(DropReason::SpoofedMac));
    let unknown = rig.plain(4, mac(9), GATEWAY_MAC.0);
    assert_eq!(unknown, dropped(DropReason::UnknownEtherType));
}

/// A packet with a link-local hop limit from `source` to a group of all routers or nodes.
fn solicits(from: [u8; 6], kind: u8, body: &[u8]) -> Frame {
    let mut buffer = [0; 100];
    let mut writer = Writer::new(&mut buffer);
    let ends = ("fe80::9".parse().unwrap(), "ff02::2".parse().unwrap(), 255);
    icmpv6::write(&mut writer, ends, (kind, 0, 0), body).unwrap();
    with(from, [0x33, 0x33, 0, 0, 0, 2], &[&[0x86, 0xdd][..], writer.since(0)].concat())
}

#[test]
fn hosts_behind_a_port_find_a_router_where_there_is_ipv6() {
    let mut rig = with_gateway();
    let of = |target: &str| target.parse::<Ipv6Addr>().unwrap().octets();
    let discovery = Err(Verdict::Flood(Flood::Discovery));
    let router = solicits(mac(9), icmpv6::ROUTER_SOLICITATION, &[]);
    assert_eq!(rig.sends(4, &router), Err(Verdict::Gateway));
    let neighbour = |target| solicits(mac(9), icmpv6::NEIGHBOUR_SOLICITATION, &of(target));
    assert_eq!(rig.sends(4, &neighbour("fe80::1")), Err(Verdict::Gateway));
    assert_eq!(rig.sends(4, &neighbour("fd00::99")), discovery);
    let gateway = rig.network.gateway.as_mut().unwrap();
    gateway.ipv6_prefix = None;
    assert_eq!(rig.sends(4, &router), discovery, "it has nothing to say of IPv6");
}

#[test]
fn hosts_behind_a_port_send_through_the_gateway_but_from_nobody_elses_address() {
    let mut rig = with_gateway();
    let mut sends = |from: [u8; 4], to: [u8; 4]| {
        let mut buffer = [0; 100];
        let mut writer = Writer::new(&mut buffer);
        udp::write_ipv4(&mut writer, (from.into(), 1), (to.into(), 2), b"hello").unwrap();
        let packet = [&[0x08, 0x00][..], writer.since(0)].concat();
        rig.sends(4, &with(mac(9), GATEWAY_MAC.0, &packet))
    };
    let (host, vnic, gateway) = ([10, 0, 0, 50], [10, 0, 0, 13], [10, 0, 0, 1]);
    assert_eq!(sends(host, vnic), Ok(NextHopId(2)));
    assert_eq!(sends(host, gateway), Err(Verdict::Gateway));
    assert_eq!(sends([169, 254, 7, 7], [169, 254, 0, 1]), Err(Verdict::Gateway));
    let nowhere = Verdict::Reject(DropReason::NoRoute, Rejection::NoRoute);
    assert_eq!(sends(host, [192, 0, 2, 1]), Err(nowhere));
    for from in [vnic, gateway, [169, 254, 0, 1], [10, 0, 0, 255], [192, 0, 2, 1], [0; 4]] {
        let spoofed = dropped(DropReason::SpoofedIpv4);
        assert_eq!(sends(from, [10, 0, 0, 12]), spoofed, "{from:?}");
    }
}

#[test]
fn what_is_sent_to_the_gateway_is_routed() {
    let mut rig = with_gateway();
    let mut sends = |to: u8| {
        let mut buffer = [0; 100];
        let mut writer = Writer::new(&mut buffer);
        let ends = (([10, 0, 0, 11].into(), 1), ([10, 0, 0, to].into(), 2));
        udp::write_ipv4(&mut writer, ends.0, ends.1, b"hello").unwrap();
        let packet = [&[0x08, 0x00][..], writer.since(0)].concat();
        let mut frame = with(mac(1), GATEWAY_MAC.0, &packet);
        let decided = rig.network.decide(&rig.members[0], &mut frame, &mut rig.segment, rig.now);
        (decided, frame)
    };
    let (decided, frame) = sends(13);
    assert_eq!(decided, Ok(NextHopId(2)));
    assert_eq!(frame.head[..12], [mac(3), GATEWAY_MAC.0].concat());
    assert_eq!(frame.head[22], 63, "it has passed a router");
    assert_eq!(sends(1).0, Err(Verdict::Gateway));
    let nowhere = Verdict::Reject(DropReason::NoRoute, Rejection::NoHost);
    assert_eq!(sends(99).0, Err(nowhere));
}

// seed H.5.18
#[test]
fn a_hub_hears_and_is_heard_by_all() {
    let hub = |number| bridge(number, PortRole::Access, |bridge| bridge.hub = true);
    let none = |_: &mut BridgePort| {};
    let members = [hub(1), hub(2), bridge(3, PortRole::Access, none)];
    let mut rig = Rig::new(members, L2Policy::plain());
    let to_all = Err(Verdict::Flood(Flood::Hub));
    assert_eq!(rig.plain(1, mac(1), ALL), to_all);
    assert_eq!(rig.plain(2, mac(2), mac(1)), to_all);
    assert_eq!(rig.plain(3, mac(3), mac(1)), to_all, "it is behind a hub");
    assert_eq!(rig.plain(1, mac(1), mac(3)), to_all);
    assert_eq!(rig.receivers(1), [2, 3]);
}

#[test]
fn peers_hear_no_peers_and_protected_ports_no_protected_ones() {
    let protected = |number, role| bridge(number, role, |bridge| bridge.protected = true);
    let none = |_: &mut BridgePort| {};
    let members = [
        bridge(1, PortRole::Peer, none),
        bridge(2, PortRole::Peer, none),
        protected(3, PortRole::Access),
        protected(4, PortRole::Access),
        vnic(5, PortSecurity::Strict),
    ];
    let mut rig = Rig::new(members, L2Policy::default());
    for number in 1..=5 {
        assert_eq!(rig.plain(number, mac(number), ALL), FLOOD);
    }
    assert_eq!(rig.receivers(1), [3, 4, 5]);
    assert_eq!(rig.receivers(3), [1, 2, 5]);
    assert_eq!(rig.receivers(5), [1, 2, 3, 4]);
    assert_eq!(rig.plain(1, mac(1), mac(2)), dropped(DropReason::SplitHorizon));
    assert_eq!(rig.plain(3, mac(3), mac(4)), dropped(DropReason::ProtectedPort));
    assert_eq!(rig.plain(1, mac(1), mac(3)), Ok(NextHopId(2)));
    assert_eq!(rig.plain(3, mac(3), mac(5)), Ok(NextHopId(4)));
}

/// A TCP segment of four octets of payload from vNIC 1 to vNIC 3, behind `tags`.
fn tcp(tags: &[u8], offload: Offload) -> Frame {
    let mut octets = [&mac(3)[..], &mac(1), tags, &[0x08, 0x00]].concat();
    octets.extend([0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0x26, 0xca]);
    octets.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    octets.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    octets.extend([1, 2, 3, 4]);
    frame(&octets, offload)
}

#[test]
fn what_is_left_to_be_done_must_fit_the_packet_behind_all_tags() {
    let segments = Segments { kind: SegmentKind::Tcp4, size: 2, ecn: false };
    let tags = [0x88, 0xa8, 0, 9, 0x81, 0x00, 0, 7];
    let bad = Err(DropReason::BadVnetHeader);
    for (tags, start) in [(&tags[..0], 34), (&tags[4..], 38), (&tags[..], 42)] {
        let checksum = |start, offset| Offload::Checksum { start, offset };
        assert_eq!(check_offload(&tcp(tags, checksum(start, 16))), Ok(()), "{start}");
        assert_eq!(check_offload(&tcp(tags, checksum(start - 4, 16))), bad, "{start}");
        assert_eq!(check_offload(&tcp(tags, checksum(start, 6))), bad, "{start}");
        let cut = Offload::Segmentation { start, offset: 16, segments };
        assert_eq!(check_offload(&tcp(tags, cut)), Ok(()), "{start}");
    }
    let offload = Offload::Checksum { start: 34, offset: 16 };
    assert_eq!(check_offload(&Frame { offload, ..tagged(mac(1), mac(3), 7) }), bad);
    // The sum of an answer of ARP's would be written where its sender's address is.
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac(1), &[10, 0, 0, 1], &[0; 10]].concat();
    let arp = [&mac(3)[..], &mac(1), &[8, 6], &arp].concat();
    let offset = Offload::Checksum { start: 14, offset: 14 };
    assert_eq!(check_offload(&frame(&arp, Offload::None)), Ok(()));
    assert_eq!(check_offload(&frame(&arp, offset)), bad);
    let cut_off = frame(&[&[0; 12][..], &[0x81, 0x00]].concat(), offload);
    assert_eq!(check_offload(&cut_off), Err(DropReason::FrameTooShort));
}

/// The vNIC of the number, which is 10.0.0.number.
fn vnic_with_address(number: u8, security: PortSecurity) -> Member {
    let mut vnic = Vnic::new(port(number), MacAddr(mac(number)), 1500);
    (vnic.ipv4, vnic.settings.port_security) = (Some([10, 0, 0, number].into()), security);
    Member { reactor: 0, role: Role::Guest(Arc::new(vnic)) }
}

/// A packet of vNIC 1 with its address, which is `len` octets long with its Ethernet header.
fn packet(to: [u8; 6], protocol: u8, len: usize) -> Vec<u8> {
    let mut octets = [&to[..], &mac(1), &[8, 0], &[0; 60]].concat();
    octets[14..24].copy_from_slice(&[0x45, 0, 0, len as u8 - 14, 0, 0, 0, 0, 64, protocol]);
    octets[26..38].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2, 4, 210, 0, 53]);
    octets[46] = 0x50;
    make_right(&mut octets);
    octets
}

/// Makes the checksum of an IPv4 header right.
fn make_right(octets: &mut [u8]) {
    octets[24..26].fill(0);
    let sum = checksum::checksum(&octets[14..34]);
    octets[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn ordinary_packets_go_the_short_way_and_others_do_not() {
    let path = |security| FastPath::new(&vnic_with_address(1, security));
    assert!(path(PortSecurity::Off).is_none(), "its MACs are learned");
    let path = path(PortSecurity::Strict).unwrap();
    for (protocol, offset) in [(6, 16), (17, 6)] {
        for offload in [Offload::None, Offload::Checksum { start: 34, offset }] {
            let plain = frame(&packet(UNKNOWN, protocol, 74), offload);
            assert_eq!(path.check(&plain), Some(MacAddr(UNKNOWN)), "{protocol} {offload:?}");
        }
    }
    for to in [ALL, GATEWAY_MAC.0] {
        assert_eq!(path.check(&frame(&packet(to, 6, 74), Offload::None)), None);
    }
    // A source of another MAC, a tag, another address, a fragment.
    for at in [11, 12, 29, 20] {
        let mut octets = packet(UNKNOWN, 6, 74);
        octets[at] ^= 0x89;
        make_right(&mut octets);
        assert_eq!(path.check(&frame(&octets, Offload::None)), None, "{at}");
    }
    assert!(FastPath::new(&bridge(3, PortRole::Access, |_| {})).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn nothing_goes_back_or_from_the_mac_of_another(
        frames in proptest::collection::vec((1..4_u8, 0..7_usize, 0..7_usize), 1..50),
    ) {
        let group = [0x01, 0, 0x5e, 0, 0, 0x0e];
        let macs = [mac(1), mac(2), mac(3), UNKNOWN, OTHER, group, ALL];
        let mut rig = Rig::of_vnics();
        for (sender, from, to) in frames {
            let decided = rig.plain(sender, macs[from], macs[to]);
            // Of the MACs, the last two are groups'. vNIC 2 may send from strangers' MACs, too.
            let own = usize::from(sender) - 1;
            let may = from == own || sender == 2 && (3..5).contains(&from);
            let refused = [DropReason::SpoofedMac, DropReason::InvalidSourceMac]
                .map(Verdict::Drop);
            prop_assert_eq!(decided.is_err_and(|verdict| refused.contains(&verdict)), !may);
            if let Ok(id) = decided {
                prop_assert_ne!(rig.network.next_hop(id).port, port(sender));
            }
            match to {
                _ if !may => {}
                0 | 2 if to == own => prop_assert_eq!(decided, dropped(DropReason::Hairpin)),
                0 | 2 => prop_assert_eq!(decided, Ok(NextHopId(to as u32))),
                5.. => prop_assert_eq!(decided, FLOOD),
                _ => {}
            }
        }
    }

    #[test]
    fn the_short_way_says_nothing_that_the_general_one_does_not(
        to in prop::sample::select(vec![mac(1), mac(2), mac(3), UNKNOWN, GATEWAY_MAC.0, ALL]),
        protocol in prop_oneof![Just(6_u8), Just(17), any::<u8>()],
        len in 30..200_usize,
        changes in proptest::collection::vec(
            (0..60_usize, prop_oneof![any::<u8>(), (0..8_u32).prop_map(|bit| 1 << bit),
                prop::sample::select(vec![0, 1, 10, 67, 68, 129, 255])]), 0..4),
        start in prop_oneof![Just(34_u16), any::<u16>()],
        offset in prop_oneof![Just(6_u16), Just(16), any::<u16>()],
        checksum: bool,
        right in prop::bool::weighted(0.9),
        security in prop::sample::select(vec![PortSecurity::Strict, PortSecurity::MacOnly]),
    ) {
        let members = [
            vnic_with_address(1, security),
            vnic_with_address(2, security),
            bridge(3, PortRole::Uplink, |_| {}),
        ];
        let mut rig = Rig::new(members, L2Policy::default());
        let mut octets = packet(to, protocol, len);
        changes.iter().for_each(|(at, to)| octets[*at] = *to);
        if right {
            make_right(&mut octets);
        }
        let open = Offload::Checksum { start, offset };
        let mut frame = frame(&octets, if checksum { open } else { Offload::None });
        (frame.len, frame.head_len) = (len, len.min(octets.len()));
        let path = FastPath::new(&rig.members[0]).unwrap();
        if let Some(destination) = path.check(&frame) {
            let member = &rig.members[0];
            let short = rig.network.unicast(member, destination, 0, &rig.segment, rig.now);
            let general = rig.network.decide(member, &mut frame, &mut rig.segment, rig.now);
            prop_assert_eq!(short, general);
        }
    }

    #[test]
    fn no_octets_are_too_strange(
        octets in proptest::collection::vec(any::<u8>(), 0..192),
        sender in 1..4_u8,
    ) {
        let mut rig = Rig::of_vnics();
        let may_be = rig.sends(sender, &frame(&octets, Offload::None));
        prop_assert!(may_be != Ok(NextHopId::NONE));
    }
}
