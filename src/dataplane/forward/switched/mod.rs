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

mod fast;

pub(super) use fast::FastPath;

use super::{
    Asker,
    fdb::{Key, Lesson, Limits, MOVES},
    keyed::Keyed,
    local::{self, Local},
    port_security::PortSecurity,
    rewrite, routed,
    segment::Segment,
    tables::{GATEWAY_MAC, Member, NextHop, PortId, Role, Routed},
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        Frame, HEAD_LEN,
        classify::{Packet, classify},
        verdict::{Audience, Blocking, DropReason, Flood, NextHopId, Verdict},
    },
    model::{
        L2Rules, PortRole,
        l2::{GuestVlans, ReservedGroups, UnknownUnicast},
    },
    wire::{
        ethernet,
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
    /// There are other networks behind it, and their routers.
    uplink: bool,
}

impl Standing {
    fn of(member: &Member) -> Self {
        match &member.role {
            Role::Guest(_) | Role::Outside(_) => Self::default(),
            Role::Bridge(bridge) => Self {
                protected: bridge.protected,
                peer: bridge.role == PortRole::Peer,
                hub: bridge.hub,
                uplink: bridge.role == PortRole::Uplink,
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
    /// In the order of their slots; behind them the way out, where there is one.
    next_hops: Vec<NextHop>,
    /// Of the members, in the same order.
    standings: Vec<Standing>,
    /// The MACs of vNICs that have but one: no guest is flooded to because it has been silent, and
    /// none can take another's frames by sending from its MAC.
    fixed: HashMap<Key, NextHopId, Keyed>,
    /// Those that own the ports.
    reactors: Vec<u16>,
    security: PortSecurity,
    rules: L2Rules,
    /// The way to other networks, and who answers DHCP; where there is one.
    gateway: Option<Routed>,
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
        Self { next_hops, standings, fixed, reactors, security, rules, gateway: None }
    }

    /// Gives it a gateway, among whose next hops are none but its vNICs, and the way out.
    pub fn with_gateway(mut self, gateway: Routed) -> Self {
        self.security.add_gateway(&gateway);
        Self { gateway: Some(gateway), ..self }
    }

    /// Gives its gateway a way out.
    pub fn with_outside(mut self, outside: NextHop) -> Self {
        self.next_hops.push(outside);
        self
    }

    /// Returns its gateway.
    pub(super) fn gateway(&self) -> Option<&Routed> {
        self.gateway.as_ref()
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
        self.standings.len().saturating_sub(1)
    }

    /// Returns the next hop that a decision has named.
    pub(super) fn next_hop(&self, id: NextHopId) -> &NextHop {
        &self.next_hops[id.0 as usize]
    }

    /// Whether a port leads to another network.
    pub(super) fn is_uplink(&self, port: PortId) -> bool {
        self.find(port).is_some_and(|at| self.standings[at].uplink)
    }

    /// Returns the ports of a reactor that a frame from `from` is flooded to.
    pub(super) fn receivers(&self, from: PortId, reactor: u16) -> impl Iterator<Item = &NextHop> {
        // A port that has left meanwhile stands to the others as any.
        let sender = self.find(from).map_or_else(Standing::default, |at| self.standings[at]);
        let all = self.next_hops.iter().zip(&self.standings);
        all.filter(move |(next_hop, standing)| {
            next_hop.reactor == reactor
                && next_hop.port != from
                && sender.reaches(**standing).is_ok()
        })
        .map(|(next_hop, _)| next_hop)
    }

    /// Whether a MAC is a vNIC's that has no other.
    pub(super) fn is_fixed(&self, mac: MacAddr) -> bool {
        self.fixed.contains_key(&Key::new(mac, 0))
    }

    /// Returns how many MACs may be known, behind a port of `member` and in all.
    pub(super) fn limits(&self, member: &Member) -> Limits {
        let table = self.rules.mac_table_size as usize;
        let moves = self.rules.loop_guard.then_some(MOVES);
        Limits { port: member.mac_limit() as usize, table, moves }
    }

    /// Returns which next hop a port is, unless it has left the network.
    fn find(&self, port: PortId) -> Option<usize> {
        let members = &self.next_hops[..self.standings.len()];
        let at = members.binary_search_by_key(&port.slot, |hop| hop.port.slot).ok()?;
        (members[at].port == port).then_some(at)
    }

    /// Returns what becomes of a frame of `member`.
    pub(super) fn decide(
        &self,
        member: &Member,
        frame: &mut Frame,
        segment: &mut Segment,
        now: u32,
    ) -> Result<NextHopId, Verdict> {
        if let Some(reason) = frame.invalid {
            return Err(reason.into());
        }
        let (header, _) = ethernet::Header::parse(frame.head()).ok_or(DropReason::FrameTooShort)?;
        let header = *header;
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
            return Err(self.group(member, frame, &header, tagging, (segment, now)));
        }
        if let Some(gateway) = &self.gateway
            && header.destination == GATEWAY_MAC
        {
            // VLANs of guests' own have none.
            if is_tagged {
                return Err(DropReason::NotServed.into());
            }
            let withheld = &mut segment.withheld;
            let decided = match member.asker(header.source) {
                Asker::Guest(vnic) => routed::by_head(gateway, vnic, frame, withheld),
                Asker::Host(host) => {
                    routed::by_head_of_host(gateway, (member.port(), host), frame, withheld)
                }
                // It is a member of no segment.
                Asker::Outside(_) => Err(DropReason::NoRoute.into()),
            };
            return self.routed(gateway, frame, decided);
        }
        self.unicast(member, header.destination, tagging.vid(), segment, now)
    }

    /// Returns where a packet goes that the gateway has decided about. One that goes on is made
    /// what it leaves as.
    fn routed(
        &self,
        gateway: &Routed,
        frame: &mut Frame,
        decided: Result<NextHopId, Verdict>,
    ) -> Result<NextHopId, Verdict> {
        let ours = |id| {
            let next_hop = gateway.fib.next_hop(id);
            let found = match next_hop.is_outside() {
                true => Some(self.standings.len()),
                false => self.find(next_hop.port),
            };
            Ok::<_, Verdict>(NextHopId(found.ok_or(DropReason::NoRoute)? as u32))
        };
        match decided {
            Ok(id) => {
                rewrite::rewrite(frame.head_mut(), gateway.fib.next_hop(id));
                ours(id)
            }
            Err(Verdict::Fragment(id)) => Err(Verdict::Fragment(ours(id)?)),
            Err(verdict) => Err(verdict),
        }
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
            None if self.gateway.is_some() && mac == GATEWAY_MAC => Err(DropReason::SpoofedMac),
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
    ) -> Result<(), Verdict> {
        match segment.fdb.learn(mac, member.port(), self.limits(member), now) {
            Lesson::Known => Ok(()),
            Lesson::New { has_moved } => {
                segment.lessons.macs_learned += 1;
                segment.lessons.macs_moved += u64::from(has_moved);
                Ok(())
            }
            Lesson::PortFull if !member.may_exceed_mac_limit() => Err(DropReason::MacLimit.into()),
            // Nothing is lost: what is sent to it is flooded.
            Lesson::PortFull | Lesson::TableFull => {
                segment.lessons.macs_not_learned += 1;
                Ok(())
            }
            Lesson::Flaps => Err(Verdict::Block(Blocking::Flap)),
        }
    }

    /// Returns what becomes of a frame to a group.
    fn group(
        &self,
        member: &Member,
        frame: &Frame,
        header: &ethernet::Header,
        tagging: Tagging,
        (segment, now): (&mut Segment, u32),
    ) -> Verdict {
        if self.is_reserved(header.destination) {
            return Verdict::Drop(DropReason::ReservedGroup);
        }
        let packet = match tagging {
            Tagging::Untagged(_) => classify(frame.head(), frame.len, Offload::None).ok(),
            _ => None,
        };
        if let Some(packet) = packet.as_ref().map(|headers| &headers.packet) {
            let neighbours = self.rules.neighbour_proxy.then_some(&self.security);
            let local = Local { gateway: self.gateway(), neighbours, segment };
            if let Some(verdict) = local.answers(member, header.source, packet, frame.head()) {
                return verdict;
            }
        }
        if Standing::of(member).hub {
            return Verdict::Flood(Flood::Hub);
        }
        let Some(packet) = packet.map(|headers| headers.packet) else {
            return Verdict::Flood(Flood::Ordinary);
        };
        if self.rules.multicast_snooping && header.destination != MacAddr::BROADCAST {
            let from = (member.port(), member.hosts());
            let heard = segment.snoop.hear(from, &packet, frame.head(), now);
            segment.lessons.snoop_full += u64::from(heard.is_full);
            match heard.audience {
                Audience::All => {}
                Audience::Group(group) => return Verdict::Flood(Flood::Listeners(group)),
                Audience::Routers => return Verdict::Flood(Flood::Report),
            }
        }
        Verdict::Flood(local::flooded_as(&packet))
    }

    /// Whether a frame to this MAC goes nowhere, since it is for the next bridge.
    fn is_reserved(&self, to: MacAddr) -> bool {
        let forward = self.rules.reserved_groups == ReservedGroups::Forward;
        // A frame of flow control is of one cable, whatever is on its ends.
        to == ethernet::PAUSE || !forward && ethernet::is_for_next_bridge(to)
    }

    /// Returns where a frame to a single MAC goes.
    pub(super) fn unicast(
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

/// Refuses a frame whose sender left to be done what its headers do not allow: as in a routed
/// network, and behind VLAN tags, too.
pub(in crate::dataplane) fn check_offload(frame: &Frame) -> Result<(), DropReason> {
    if frame.offload == Offload::None {
        return Ok(());
    }
    // It is judged as it would be without its tags.
    let tags = ethernet::packet_at(frame.head()) - ethernet::HEADER_LEN;
    let (macs, rest) = frame.head().split_at(2 * size_of::<MacAddr>());
    let rest = rest.get(tags..).unwrap_or(&[]);
    let head: ArrayVec<u8, HEAD_LEN> = macs.iter().chain(rest).copied().collect();
    let offload = frame.offload.moved(-(tags as i16)).ok_or(DropReason::BadVnetHeader)?;
    match classify(&head, frame.len - tags, offload).map(|headers| headers.packet) {
        // It has no checksum: finishing it would write over what was found to be its sender's.
        Ok(Packet::Arp(_)) => Err(DropReason::BadVnetHeader),
        Ok(_) => Ok(()),
        // Not dropped for what they are: nobody finds in them what is to be done.
        Err(DropReason::UnknownEtherType | DropReason::VlanTagged) => {
            Err(DropReason::BadVnetHeader)
        }
        Err(reason) => Err(reason),
    }
}

#[cfg(test)]
pub(super) mod tests;
