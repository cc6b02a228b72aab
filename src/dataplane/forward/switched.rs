//! Where a frame of a switched network goes: to the port that its destination's MAC is behind, else
//! to all but its own (IEEE 802.1Q-2018 §8.6, §8.8).
//!
//! ```text
//! frame ── whole? tags, offload right? ── source: a group's, another vNIC's? ── learn
//!       ── for the next bridge only? ─────────────────── drop
//!       ── group, hub ────────────────────────────────── flood
//!       ── a vNIC's MAC, or one that was learned ─────── its port, never the frame's own
//!       ── else ──────────────────────────────────────── flood, or drop
//! ```
//! Takes the network's members and rules, the head of a frame and what was learned; returns a next
//! hop or another verdict. Frames go on as they are: whatever their EtherType and tags, with the
//! checksum and the segmentation that their sender left to be done.

use super::{
    fdb::{Key, Lesson, Limits},
    keyed::Keyed,
    port_security::PortSecurity,
    segment::Segment,
    tables::{Member, NextHop, PortId, Role},
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        Frame, HEAD_LEN,
        classify::{Packet, Upper, classify},
        verdict::{DropReason, Flood, NextHopId, Verdict},
    },
    model::{
        L2Rules, PortRole,
        l2::{GuestVlans, ReservedGroups, UnknownUnicast},
    },
    wire::{
        ethernet, icmpv6, udp,
        vlan::{Tagging, tagging},
        vnet::Offload,
    },
};
use arrayvec::ArrayVec;
use std::collections::HashMap;

/// What a member has to do with others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Standing {
    /// Nothing goes from it to another that is protected, too.
    protected: bool,
    /// One node of a full mesh. What comes from one, the others have got already.
    peer: bool,
    /// What comes from it or goes to it goes to all others.
    hub: bool,
}

impl Standing {
    fn of(member: &Member) -> Self {
        match &member.role {
            Role::Guest(_) => Self::default(),
            Role::Bridge(bridge) => Self {
                protected: bridge.protected,
                peer: bridge.role == PortRole::Peer,
                hub: bridge.hub,
            },
        }
    }

    /// Refuses what must not go from this one to another.
    fn reaches(self, other: Self) -> Result<(), DropReason> {
        match () {
            () if self.peer && other.peer => Err(DropReason::SplitHorizon),
            () if self.protected && other.protected => Err(DropReason::ProtectedPort),
            () => Ok(()),
        }
    }
}

/// Whether a MAC is known to be its sender's, so that there is nothing to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IsOwn {
    Yes,
    No,
}

/// The members of a switched network.
#[derive(Debug)]
pub struct Switched {
    /// In the order of their slots.
    next_hops: Vec<NextHop>,
    /// In the same order.
    standings: Vec<Standing>,
    /// The MACs of vNICs that have but one: no guest is flooded to because it has been silent, and
    /// none can take another's frames by sending from its MAC.
    fixed: HashMap<Key, NextHopId, Keyed>,
    /// Those that own the ports.
    reactors: Vec<u16>,
    security: PortSecurity,
    rules: L2Rules,
}

impl Switched {
    /// A network of these members, which are in the order of their ports' slots.
    pub fn new(members: &[Member], rules: L2Rules) -> Self {
        let next_hops: Vec<_> = members.iter().map(Member::next_hop).collect();
        let fixed = members
            .iter()
            .zip((0..).map(NextHopId))
            .filter_map(|(member, id)| Some((Key::new(member.fixed_mac()?, 0), id)));
        let fixed = fixed.collect();
        let mut reactors: Vec<_> = next_hops.iter().map(|next_hop| next_hop.reactor).collect();
        reactors.sort_unstable();
        reactors.dedup();
        let standings = members.iter().map(Standing::of).collect();
        let security = PortSecurity::new(members, rules.dhcp_guard);
        Self { next_hops, standings, fixed, reactors, security, rules }
    }

    /// Returns the reactors that own the ports.
    pub(super) fn reactors(&self) -> &[u16] {
        &self.reactors
    }

    /// Returns how frames are treated.
    pub(super) fn rules(&self) -> &L2Rules {
        &self.rules
    }

    /// Returns how many copies a flooded frame becomes at most.
    pub(super) fn copies(&self) -> usize {
        self.next_hops.len().saturating_sub(1)
    }

    /// Returns the next hop that a decision has named.
    pub(super) fn next_hop(&self, id: NextHopId) -> &NextHop {
        &self.next_hops[id.0 as usize]
    }

    /// Returns the ports of a reactor that a frame from `from` is flooded to.
    pub(super) fn receivers(&self, from: PortId, reactor: u16) -> impl Iterator<Item = PortId> {
        // A port that has left meanwhile stands to the others as any.
        let sender = self.find(from).map_or_else(Standing::default, |at| self.standings[at]);
        let all = self.next_hops.iter().zip(&self.standings);
        all.filter(move |(next_hop, standing)| {
            next_hop.reactor == reactor
                && next_hop.port != from
                && sender.reaches(**standing).is_ok()
        })
        .map(|(next_hop, _)| next_hop.port)
    }

    /// Whether a MAC is a vNIC's that has no other.
    pub(super) fn is_fixed(&self, mac: MacAddr) -> bool {
        self.fixed.contains_key(&Key::new(mac, 0))
    }

    /// Returns how many MACs may be known, behind a port of `member` and in all.
    pub(super) fn limits(&self, member: &Member) -> Limits {
        Limits { port: member.mac_limit() as usize, table: self.rules.mac_table_size as usize }
    }

    /// Returns which next hop a port is, unless it has left the network.
    fn find(&self, port: PortId) -> Option<usize> {
        let at = self.next_hops.binary_search_by_key(&port.slot, |hop| hop.port.slot).ok()?;
        (self.next_hops[at].port == port).then_some(at)
    }

    /// Returns what becomes of a frame of `member`.
    pub(super) fn decide(
        &self,
        member: &Member,
        frame: &Frame,
        segment: &mut Segment,
        now: u32,
    ) -> Result<NextHopId, Verdict> {
        if let Some(reason) = frame.invalid {
            return Err(reason.into());
        }
        let (header, _) = ethernet::Header::parse(frame.head()).ok_or(DropReason::FrameTooShort)?;
        let tagging = tagging(frame.head()).ok_or(DropReason::FrameTooShort)?;
        let is_tagged = !matches!(tagging, Tagging::Untagged(_));
        if is_tagged && self.rules.guest_vlans == GuestVlans::Drop {
            return Err(DropReason::VlanTagged.into());
        }
        check_offload(frame)?;
        let is_own = self.check_source(member, header.source)?;
        self.security.check(member, frame, tagging)?;
        if is_own == IsOwn::No {
            let mac = Key::new(header.source, tagging.vid());
            self.learn(member, mac, segment, now)?;
        }
        if header.destination.is_multicast() {
            return Err(self.group(member, frame, header.destination, tagging));
        }
        self.unicast(member, header.destination, tagging.vid(), segment, now)
    }

    /// Refuses a frame that must not come from `mac`.
    fn check_source(&self, member: &Member, mac: MacAddr) -> Result<IsOwn, DropReason> {
        match member.fixed_mac() {
            Some(own) if own == mac => Ok(IsOwn::Yes),
            Some(_) => Err(DropReason::SpoofedMac),
            // A group sends nothing (IEEE 802.1Q-2018 §8.7), nor does nobody.
            None if mac.is_multicast() || mac == MacAddr([0; 6]) => {
                Err(DropReason::InvalidSourceMac)
            }
            None if self.is_fixed(mac) => Err(DropReason::SpoofedMac),
            None => Ok(IsOwn::No),
        }
    }

    /// Learns where a MAC is, as far as that may be.
    fn learn(
        &self,
        member: &Member,
        mac: Key,
        segment: &mut Segment,
        now: u32,
    ) -> Result<(), DropReason> {
        match segment.fdb.learn(mac, member.port(), self.limits(member), now) {
            Lesson::Known => Ok(()),
            Lesson::PortFull if !member.may_exceed_mac_limit() => Err(DropReason::MacLimit),
            // Nothing is lost: what is sent to it is flooded.
            Lesson::PortFull | Lesson::TableFull => {
                segment.macs_not_learned += 1;
                Ok(())
            }
            Lesson::Flaps => Err(DropReason::PortBlocked),
        }
    }

    /// Returns what becomes of a frame to a group.
    fn group(&self, member: &Member, frame: &Frame, to: MacAddr, tagging: Tagging) -> Verdict {
        if self.is_reserved(to) {
            return Verdict::Drop(DropReason::ReservedGroup);
        }
        if Standing::of(member).hub {
            return Verdict::Flood(Flood::Hub);
        }
        Verdict::Flood(match tagging {
            Tagging::Untagged(_) if is_discovery(frame) => Flood::Discovery,
            _ => Flood::Ordinary,
        })
    }

    /// Whether a frame to this MAC goes nowhere, since it is for the next bridge.
    fn is_reserved(&self, to: MacAddr) -> bool {
        let forward = self.rules.reserved_groups == ReservedGroups::Forward;
        // A frame of flow control is of one cable, whatever is on its ends.
        to == ethernet::PAUSE || !forward && ethernet::is_for_next_bridge(to)
    }

    /// Returns where a frame to a single MAC goes.
    fn unicast(
        &self,
        member: &Member,
        to: MacAddr,
        vid: u16,
        segment: &Segment,
        now: u32,
    ) -> Result<NextHopId, Verdict> {
        let sender = Standing::of(member);
        if sender.hub {
            return Err(Verdict::Flood(Flood::Hub));
        }
        let learned = || {
            let port = segment.fdb.lookup(Key::new(to, vid), now)?;
            Some(NextHopId(self.find(port)? as u32))
        };
        let Some(id) = self.fixed.get(&Key::new(to, 0)).copied().or_else(learned) else {
            return Err(match self.rules.unknown_unicast {
                // Not all protocols of bridges have a group.
                _ if self.is_reserved(to) => DropReason::ReservedGroup.into(),
                UnknownUnicast::Flood => Verdict::Flood(Flood::Ordinary),
                UnknownUnicast::Drop => DropReason::UnknownUnicast.into(),
            });
        };
        // Where it came from it was heard already.
        if self.next_hop(id).port == member.port() {
            return Err(DropReason::Hairpin.into());
        }
        let receiver = self.standings[id.0 as usize];
        sender.reaches(receiver)?;
        if receiver.hub { Err(Verdict::Flood(Flood::Hub)) } else { Ok(id) }
    }
}

/// Whether a frame to a group asks for neighbours, for a router or for an address: without such,
/// nobody reaches anybody.
fn is_discovery(frame: &Frame) -> bool {
    match classify(frame.head(), frame.len, Offload::None).map(|headers| headers.packet) {
        Ok(Packet::Arp(_)) => true,
        Ok(Packet::Ipv4(packet)) => {
            let dhcp = [udp::DHCPV4_SERVER, udp::DHCPV4_CLIENT];
            matches!(packet.upper, Upper::Udp { destination, .. } if dhcp.contains(&destination))
        }
        Ok(Packet::Ipv6(packet)) => match packet.upper {
            Upper::Icmp(kind) => icmpv6::is_discovery(kind),
            Upper::Udp { destination, .. } => {
                [udp::DHCPV6_SERVER, udp::DHCPV6_CLIENT].contains(&destination)
            }
            _ => false,
        },
        Err(_) => false,
    }
}

/// Refuses a frame whose sender left to be done what its headers do not allow: as in a routed
/// network, and behind VLAN tags, too.
fn check_offload(frame: &Frame) -> Result<(), DropReason> {
    if frame.offload == Offload::None {
        return Ok(());
    }
    // It is judged as it would be without its tags.
    let tags = ethernet::packet_at(frame.head()) - ethernet::HEADER_LEN;
    let (macs, rest) = frame.head().split_at(2 * size_of::<MacAddr>());
    let rest = rest.get(tags..).unwrap_or(&[]);
    let head: ArrayVec<u8, HEAD_LEN> = macs.iter().chain(rest).copied().collect();
    let moved = |start: u16| start.checked_sub(tags as u16).ok_or(DropReason::BadVnetHeader);
    let offload = match frame.offload {
        Offload::None => Offload::None,
        Offload::Checksum { start, offset } => Offload::Checksum { start: moved(start)?, offset },
        Offload::Segmentation { start, offset, segments } => {
            Offload::Segmentation { start: moved(start)?, offset, segments }
        }
    };
    match classify(&head, frame.len - tags, offload) {
        Ok(_) => Ok(()),
        // Not dropped for what they are: nobody finds in them what is to be done.
        Err(DropReason::UnknownEtherType | DropReason::VlanTagged) => {
            Err(DropReason::BadVnetHeader)
        }
        Err(reason) => Err(reason),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        dataplane::forward::tables::{BridgePort, Vnic},
        model::{
            L2Policy, PortSecurity,
            l2::{HasGateway, Members},
        },
        wire::vnet::{SegmentKind, Segments},
    };
    use proptest::prelude::*;
    use std::{sync::Arc, time::Instant};

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
            let mut segment = Segment::new(Instant::now());
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
            self.network.decide(member, frame, &mut self.segment, self.now)
        }

        /// A plain frame of an unknown kind.
        fn plain(&mut self, sender: u8, from: [u8; 6], to: [u8; 6]) -> Result<NextHopId, Verdict> {
            self.sends(sender, &with(from, to, &[0x88, 0xb5, 1, 2, 3]))
        }

        fn receivers(&self, sender: u8) -> Vec<u32> {
            let of = |reactor| self.network.receivers(port(sender), reactor);
            let mut slots: Vec<_> = of(0).chain(of(1)).map(|port| port.slot - 10).collect();
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
        assert_eq!(rig.segment.macs_not_learned, 0);
        assert_eq!(rig.plain(2, mac(7), ALL), FLOOD);
        assert_eq!(rig.plain(2, mac(8), ALL), FLOOD);
        assert_eq!(rig.segment.macs_not_learned, 1);
        assert_eq!(rig.plain(1, UNKNOWN, mac(7)), Ok(NextHopId(1)));
        assert_eq!(rig.plain(1, UNKNOWN, mac(8)), FLOOD);
    }

    #[test]
    fn a_network_that_does_not_flood_drops_what_nobody_is_known_for() {
        let policy =
            L2Policy { unknown_unicast: Some(UnknownUnicast::Drop), ..L2Policy::default() };
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
        let cut_off = frame(&[&[0; 12][..], &[0x81, 0x00]].concat(), offload);
        assert_eq!(check_offload(&cut_off), Err(DropReason::FrameTooShort));
    }

    proptest! {
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
        fn no_octets_are_too_strange(
            octets in proptest::collection::vec(any::<u8>(), 0..192),
            sender in 1..4_u8,
        ) {
            let mut rig = Rig::of_vnics();
            let may_be = rig.sends(sender, &frame(&octets, Offload::None));
            prop_assert!(may_be != Ok(NextHopId::NONE));
        }
    }
}
