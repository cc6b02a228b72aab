//! Where a frame of a switched network goes: to the port that its destination's MAC is behind, else
//! to all but its own (IEEE 802.1Q-2018 §8.6, §8.8).
//!
//! ```text
//! frame ── whole? offload right? ── source: another vNIC's? ── learn
//!       ── group ──────────────────────────────────────── flood
//!       ── a vNIC's MAC, or one that was learned ──────── its port, never the frame's own
//!       ── else ───────────────────────────────────────── flood
//! ```
//! Takes the network's ports, the head of a frame and what was learned; returns a next hop or
//! another verdict. Frames go on as they are: whatever their EtherType and tags, with the checksum
//! and the segmentation that their sender left to be done.

use super::{
    Decisions,
    fdb::{Fdb, Limits},
    tables::{Member, NetworkKey, NextHop, PortId},
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        Burst, Frame, HEAD_LEN, Outgoing,
        classify::classify,
        verdict::{DropReason, NextHopId, Verdict},
    },
    model::{L2Rules, PortSecurity},
    wire::{ethernet, vnet::Offload},
};
use arrayvec::ArrayVec;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The ports of a switched network.
#[derive(Debug)]
pub struct Switched {
    /// In the order of their slots.
    next_hops: Vec<NextHop>,
    /// The MACs of vNICs that have but one: no guest is flooded to because it has been silent, and none can take
    /// another's frames by sending from its MAC.
    fixed: HashMap<MacAddr, NextHopId>,
    /// Those that own the ports.
    reactors: Vec<u16>,
    rules: L2Rules,
}

impl Switched {
    /// A network of these members, which are in the order of their ports' slots.
    pub fn new(members: &[Member], rules: L2Rules) -> Self {
        let next_hops: Vec<_> = members.iter().map(Member::next_hop).collect();
        let fixed = members.iter().zip((0..).map(NextHopId)).filter_map(|(member, id)| {
            let vnic = member.vnic()?;
            (vnic.settings.port_security != PortSecurity::Off).then_some((vnic.mac, id))
        });
        let fixed = fixed.collect();
        let mut reactors: Vec<_> = next_hops.iter().map(|next_hop| next_hop.reactor).collect();
        reactors.sort_unstable();
        reactors.dedup();
        Self { next_hops, fixed, reactors, rules }
    }

    /// Returns the reactors that own the ports.
    pub(super) fn reactors(&self) -> &[u16] {
        &self.reactors
    }

    /// Returns the next hop that a decision has named.
    pub(super) fn next_hop(&self, id: NextHopId) -> &NextHop {
        &self.next_hops[id.0 as usize]
    }

    /// Returns the next hop of a port, unless it has left the network.
    fn towards(&self, port: PortId) -> Option<NextHopId> {
        let at = self.next_hops.binary_search_by_key(&port.slot, |hop| hop.port.slot).ok()?;
        (self.next_hops[at].port == port).then_some(NextHopId(at as u32))
    }

    /// How long a MAC is known after its last frame.
    fn ageing(&self) -> Duration {
        Duration::from_secs(self.rules.mac_aging_seconds.into())
    }

    /// How many MACs may be known, behind a port and in all.
    fn limits(&self, member: &Member) -> Limits {
        Limits { port: member.mac_limit() as usize, table: self.rules.mac_table_size as usize }
    }

    /// Returns what becomes of a frame of `member`.
    fn decide(
        &self,
        member: &Member,
        frame: &Frame,
        fdb: &mut Fdb,
        now: Instant,
    ) -> Result<NextHopId, Verdict> {
        if let Some(reason) = frame.invalid {
            return Err(reason.into());
        }
        let (header, _) = ethernet::Header::parse(frame.head()).ok_or(DropReason::FrameTooShort)?;
        check_offload(frame)?;
        let port = member.port();
        let is_own =
            self.fixed.get(&header.source).is_some_and(|id| self.next_hop(*id).port == port);
        // A group sends nothing (IEEE 802.1Q-2018 §8.7), and no other vNIC's frames come from here.
        if header.source.is_multicast() || !is_own && self.fixed.contains_key(&header.source) {
            return Err(DropReason::SpoofedMac.into());
        }
        if !is_own {
            fdb.learn(header.source, port, self.limits(member), now);
        }
        if header.destination.is_multicast() {
            return Err(Verdict::Flood);
        }
        let learned = || self.towards(fdb.lookup(header.destination, now)?);
        match self.fixed.get(&header.destination).copied().or_else(learned) {
            None => Err(Verdict::Flood),
            // Where it came from it was heard already.
            Some(id) if self.next_hop(id).port == port => Err(DropReason::NoRoute.into()),
            Some(id) => Ok(id),
        }
    }
}

/// What one reactor has learned of switched networks.
#[derive(Debug, Default)]
pub(super) struct Learned {
    fdbs: HashMap<NetworkKey, Fdb>,
}

impl Learned {
    /// Decides about every frame of a burst of `member`. Returns when to call [`Learned::age`], if
    /// that was not known before.
    pub(super) fn decide(
        &mut self,
        (key, table, member): (NetworkKey, &Switched, &Member),
        burst: &mut Burst,
        decisions: &mut Decisions,
        now: Instant,
    ) -> Option<Instant> {
        self.with((key, table), now, |fdb| {
            for (at, frame) in burst.frames_mut().0.iter().enumerate() {
                match table.decide(member, frame, fdb, now) {
                    Ok(next_hop) => decisions.forward(at, next_hop),
                    Err(verdict) => decisions.end(at, verdict),
                }
            }
        })
    }

    /// Learns from frames that `member`, a port of another reactor, has sent. Returns as
    /// [`Learned::decide`].
    pub(super) fn hear(
        &mut self,
        (key, table, member): (NetworkKey, &Switched, &Member),
        frames: &[Outgoing<'_>],
        now: Instant,
    ) -> Option<Instant> {
        self.with((key, table), now, |fdb| {
            let sources = frames.iter().filter_map(|frame| ethernet::Header::parse(frame.head));
            // The other reactor has dropped what must not be sent.
            for source in sources.map(|(header, _)| header.source) {
                if !table.fixed.contains_key(&source) {
                    fdb.learn(source, member.port(), table.limits(member), now);
                }
            }
        })
    }

    /// Forgets MACs of a network that were not heard for long. Returns when to do so again, if any
    /// is left.
    pub(super) fn age(&mut self, key: NetworkKey, now: Instant) -> Option<Instant> {
        let again = self.fdbs.get_mut(&key)?.age(now);
        // Networks come and go without end, and the map must not grow with them.
        if again.is_none() {
            self.fdbs.remove(&key);
        }
        again
    }

    fn with(
        &mut self,
        (key, table): (NetworkKey, &Switched),
        now: Instant,
        learn: impl FnOnce(&mut Fdb),
    ) -> Option<Instant> {
        let fdb = self.fdbs.entry(key).or_default();
        fdb.age_after(table.ageing());
        let was_empty = fdb.is_empty();
        learn(fdb);
        if fdb.is_empty() {
            // Nothing would ever take it out.
            self.fdbs.remove(&key);
            return None;
        }
        was_empty.then(|| now + fdb.sweep())
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
mod tests {
    use super::*;
    use crate::{
        dataplane::forward::tables::{Role, Vnic},
        model::{
            L2Policy,
            l2::{HasGateway, Members},
        },
        wire::vnet::{SegmentKind, Segments},
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    const UNKNOWN: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
    const FLOOD: Result<NextHopId, Verdict> = Err(Verdict::Flood);

    fn mac(number: u8) -> [u8; 6] {
        [0x52, 0x54, 0, 0, 0, number]
    }

    fn port(slot: u32) -> PortId {
        PortId { slot, generation: 1 }
    }

    /// The vNIC of the number, in slot 10 + number.
    fn member(number: u8) -> Member {
        let vnic = Vnic::new(port(10 + u32::from(number)), MacAddr(mac(number)), 1500);
        Member { reactor: u16::from(number % 2), role: Role::Guest(Arc::new(vnic)) }
    }

    /// A network of vNICs 1 to 3 on reactors 1, 0, 1: next hops 0 to 2.
    fn network() -> Switched {
        let rules = L2Policy::default().in_force(HasGateway::No, Members::Any);
        Switched::new(&[1, 2, 3].map(member), rules)
    }

    fn fdb() -> Fdb {
        let mut fdb = Fdb::default();
        fdb.age_after(network().ageing());
        fdb
    }

    fn frame(octets: &[u8], offload: Offload) -> Frame {
        let mut frame =
            Frame { len: octets.len(), head_len: octets.len(), offload, ..Frame::default() };
        frame.head[..octets.len()].copy_from_slice(octets);
        frame
    }

    /// From `from` to `to`, in VLAN 7.
    fn tagged(from: [u8; 6], to: [u8; 6]) -> Frame {
        let rest = [0x81, 0x00, 0x00, 0x07, 0x88, 0xcc, 1, 2, 3, 4];
        frame(&[&to[..], &from, &rest].concat(), Offload::None)
    }

    #[test]
    fn a_frame_goes_to_its_mac_or_to_all_and_never_back() {
        let (network, mut fdb, now) = (network(), fdb(), Instant::now());
        let mut decide = |sender: u8, frame| network.decide(&member(sender), &frame, &mut fdb, now);
        let dropped = |reason: DropReason| Err(Verdict::Drop(reason));
        assert_eq!(network.reactors(), [0, 1]);
        assert_eq!(decide(1, tagged(mac(1), mac(3))), Ok(NextHopId(2)), "before it was heard");
        assert_eq!(decide(1, tagged(mac(1), UNKNOWN)), FLOOD);
        assert_eq!(decide(1, tagged(mac(1), [0xff; 6])), FLOOD);
        assert_eq!(decide(1, tagged(mac(1), [0x01, 0x80, 0xc2, 0, 0, 0x0e])), FLOOD);
        assert_eq!(decide(2, tagged(UNKNOWN, mac(1))), Ok(NextHopId(0)), "2 is a bridge");
        assert_eq!(decide(1, tagged(mac(1), UNKNOWN)), Ok(NextHopId(1)));
        assert_eq!(decide(2, tagged(mac(2), UNKNOWN)), dropped(DropReason::NoRoute));
        assert_eq!(decide(2, tagged(mac(2), mac(2))), dropped(DropReason::NoRoute));
        assert_eq!(decide(2, tagged(mac(1), mac(3))), dropped(DropReason::SpoofedMac));
        assert_eq!(decide(2, tagged([3, 0, 0, 0, 0, 1], mac(3))), dropped(DropReason::SpoofedMac));
        let short = frame(&[0xff; 13], Offload::None);
        assert_eq!(decide(1, short), dropped(DropReason::FrameTooShort));
        let invalid = DropReason::ChainTooLong;
        let cut = Frame { invalid: Some(invalid), ..tagged(mac(1), mac(3)) };
        assert_eq!(decide(1, cut), dropped(invalid));
    }

    #[test]
    fn what_was_learned_of_a_port_that_left_is_not_believed() {
        let (mut fdb, now) = (fdb(), Instant::now());
        network().decide(&member(2), &tagged(UNKNOWN, mac(1)), &mut fdb, now).unwrap();
        // The slot has another vNIC.
        let mut network = network();
        network.next_hops[1].port.generation = 2;
        let decided = network.decide(&member(1), &tagged(mac(1), UNKNOWN), &mut fdb, now);
        assert_eq!(decided, FLOOD);
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
        assert_eq!(check_offload(&Frame { offload, ..tagged(mac(1), mac(3)) }), bad);
        let cut_off = frame(&[&[0; 12][..], &[0x81, 0x00]].concat(), offload);
        assert_eq!(check_offload(&cut_off), Err(DropReason::FrameTooShort));
    }

    #[test]
    fn learning_is_in_time_forgotten_with_the_network() {
        let (network, mut learned, now) = (network(), Learned::default(), Instant::now());
        let key = NetworkKey(1);
        let hear = |learned: &mut Learned, from: [u8; 6], at| {
            let octets = [&mac(1)[..], &from, &[0x88, 0xb5]].concat();
            let frames = [Outgoing::private(&octets, Offload::None)];
            learned.hear((key, &network, &member(3)), &frames, at)
        };
        assert_eq!(hear(&mut learned, mac(3), now), None, "it is known for certain");
        assert!(learned.fdbs.is_empty());
        assert_eq!(hear(&mut learned, UNKNOWN, now), Some(now + network.ageing()));
        assert_eq!(hear(&mut learned, UNKNOWN, now), None, "the timer is set");
        assert_eq!(learned.fdbs[&key].lookup(MacAddr(UNKNOWN), now), Some(port(13)));
        assert_eq!(learned.age(key, now + network.ageing()), None);
        assert!(learned.fdbs.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_goes_back_or_from_the_mac_of_another(
            frames in proptest::collection::vec((1..4_u8, 0..7_usize, 0..7_usize), 1..50),
        ) {
            let other = [0x02, 0, 0, 0, 0, 0x98];
            let group = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
            let macs = [mac(1), mac(2), mac(3), UNKNOWN, other, group, [0xff; 6]];
            let (network, mut fdb, now) = (network(), fdb(), Instant::now());
            for (sender, from, to) in frames {
                let frame = tagged(macs[from], macs[to]);
                let decided = network.decide(&member(sender), &frame, &mut fdb, now);
                let own = usize::from(sender) - 1;
                // The first three are vNICs', the last two groups'.
                let may = from == own || (3..5).contains(&from);
                prop_assert_eq!(decided == Err(DropReason::SpoofedMac.into()), !may);
                if let Ok(id) = decided {
                    prop_assert_ne!(network.next_hop(id).port, member(sender).port());
                }
                match to {
                    _ if !may => {}
                    0..3 if to == own => prop_assert_eq!(decided, Err(DropReason::NoRoute.into())),
                    0..3 => prop_assert_eq!(decided, Ok(NextHopId(to as u32))),
                    5.. => prop_assert_eq!(decided, FLOOD),
                    _ => prop_assert_ne!(decided, Err(DropReason::SpoofedMac.into())),
                }
            }
        }
    }
}
