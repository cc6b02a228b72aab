//! What becomes of a frame of a guest in a routed network: what it is, whether it may be sent, and
//! where it goes, one after the other.
//!
//! ```text
//! frame ── plain? ─────────────────── FIB ─ MTU ── rewrite ─── next hop
//!            └─ no: classify ─ guard ─ gateway │ route ─ rewrite ─┘
//! route: broadcast/multicast? ── FIB: exact address, then longest prefix ── hop limit ── MTU
//! ```
//! Takes the network's table, the vNIC and its frames; decides on a next hop or another verdict for
//! each, leaves out padding, and rewrites the heads of those that go on.

use super::{
    Decisions, Fib, Host,
    fast::{self, FastPath},
    guard, rewrite,
    tables::{GATEWAY_IPV6, NextHop, PortId, Routed, Vnic},
    withheld::Withheld,
};
use crate::{
    addr::MacAddr,
    dataplane::frame::{
        BURST, Burst, Frame, FrameSet, MAX_FRAME_LEN,
        classify::{Headers, Ipv4, Ipv6, Packet, Upper, classify},
        verdict::{DropReason, NextHopId, Rejection, Verdict},
    },
    wire::{icmpv6, vnet::Offload},
};
use std::net::Ipv4Addr;

/// What deciding needs beside tables, made once.
#[derive(Debug)]
pub(super) struct Decider {
    /// Where each frame of the burst is addressed to, if it is plain.
    destinations: [Option<Ipv4Addr>; BURST],
    withheld: Withheld,
    /// Holds a whole frame where its head does not show all headers.
    whole: Box<[u8]>,
}

impl Default for Decider {
    fn default() -> Self {
        let whole = vec![0; MAX_FRAME_LEN].into();
        Self { destinations: [None; BURST], withheld: Withheld::default(), whole }
    }
}

impl Decider {
    /// Returns another that refuses the same fragments.
    pub(super) fn copy(&self) -> Self {
        Self { withheld: self.withheld.clone(), ..Self::default() }
    }

    /// Decides about every frame of a burst of `vnic`.
    // Apart: its loops have more registers alone than within their caller (8 instructions a frame).
    #[inline(never)]
    pub(super) fn decide(
        &mut self,
        (table, vnic): (&Routed, &Vnic),
        burst: &mut Burst,
        decisions: &mut Decisions,
    ) {
        let (frames, _) = burst.frames_mut();
        let fast_path = FastPath::new(table, vnic);
        // One step after the other, so that many lookups wait for memory at the same time.
        let destinations = &mut self.destinations[..frames.len()];
        for (frame, destination) in frames.iter_mut().zip(&mut *destinations) {
            *destination = fast_path.check(frame);
        }
        for (destination, hop) in destinations.iter().zip(&mut decisions.next_hops) {
            let found = destination.and_then(|destination| table.fib.lookup_ipv4(destination));
            // A frame without a route is not dropped here: the general path finds out why, and may
            // tell.
            *hop = found.unwrap_or(NextHopId::NONE);
        }
        // Apart, so that what nearly all frames are is all that this loop has in it.
        let mut others = FrameSet::EMPTY;
        for (at, (frame, hop)) in frames.iter_mut().zip(&decisions.next_hops).enumerate() {
            if *hop != NextHopId::NONE && fast::fits(frame, table.fib.next_hop(*hop)) {
                rewrite::rewrite_ipv4(frame.head_mut(), table.fib.next_hop(*hop));
            } else {
                others.insert(at);
            }
        }
        for at in others.iter() {
            match self.decide_other((table, vnic), burst, at) {
                Ok(next_hop) => {
                    let head = burst.frames_mut().0[at].head_mut();
                    rewrite::rewrite(head, table.fib.next_hop(next_hop));
                    decisions.forward(at, next_hop);
                }
                Err(verdict) => decisions.end(at, verdict),
            }
        }
    }

    /// Decides about a frame that is not plain.
    fn decide_other(
        &mut self,
        (table, vnic): (&Routed, &Vnic),
        burst: &mut Burst,
        at: usize,
    ) -> Result<NextHopId, Verdict> {
        let frame = &mut burst.frames_mut().0[at];
        let decided = by_head(table, vnic, frame, &mut self.withheld);
        // Headers beyond the copied head are rare, and cost a copy of the whole frame.
        if !decided.is_err_and(|verdict| is_deep(frame, verdict)) {
            return decided;
        }
        let whole = burst.linearise(at, &mut self.whole);
        let frame = &mut burst.frames_mut().0[at];
        by_whole(table, vnic, (frame, whole), &mut self.withheld)
    }
}

/// Whether the headers of a frame with this verdict may go on beyond its head (RFC 8200 §4).
pub(super) fn is_deep(frame: &Frame, verdict: Verdict) -> bool {
    verdict == Verdict::Drop(DropReason::MalformedIpv6) && frame.head_len < frame.len
}

/// Where a frame of `vnic` goes on to, or what else is to become of it; leaves out its padding.
// Apart from the loop over plain frames, which it would make longer for all of them.
#[inline(never)]
pub(super) fn by_head(
    table: &Routed,
    vnic: &Vnic,
    frame: &mut Frame,
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    if let Some(reason) = frame.invalid {
        return Err(reason.into());
    }
    let headers = classify(frame.head(), frame.len, frame.offload)?;
    let checked = guard::check(vnic, &headers);
    finish(table, (vnic.port, vnic.mtu, checked), frame, &headers, withheld)
}

/// As [`by_head`], of a frame of `host`, which is behind a port of a switched network.
pub(super) fn by_head_of_host(
    table: &Routed,
    (port, host): (PortId, Host),
    frame: &mut Frame,
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    let headers = classify(frame.head(), frame.len, frame.offload)?;
    let checked = guard::check_host(table, port, &headers);
    match finish(table, (port, host.mtu, checked), frame, &headers, withheld) {
        // No answer would find it: of its addresses, the way in knows none.
        Ok(id) | Err(Verdict::Fragment(id)) if table.fib.next_hop(id).is_outside() => {
            Err(unreachable(false))
        }
        decided => decided,
    }
}

/// Returns the headers of a deep frame of which these are all octets.
pub(super) fn classify_whole(frame: &Frame, whole: &[u8]) -> Result<Headers, DropReason> {
    if frame.offload != Offload::None {
        // The receiver's side finds what is left to be done in the head alone.
        return Err(DropReason::BadVnetHeader);
    }
    classify(whole, whole.len(), Offload::None)
}

/// As [`by_head`], of a deep frame of which these are all octets.
fn by_whole(
    table: &Routed,
    vnic: &Vnic,
    (frame, whole): (&mut Frame, &[u8]),
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    let headers = classify_whole(frame, whole)?;
    let checked = guard::check(vnic, &headers);
    finish(table, (vnic.port, vnic.mtu, checked), frame, &headers, withheld)
}

/// As [`by_head`], of a frame whose headers are known: it came by a port, whose link has an MTU,
/// and was checked.
#[inline(always)]
fn finish(
    table: &Routed,
    (port, mtu, checked): (PortId, u16, Result<(), DropReason>),
    frame: &mut Frame,
    headers: &Headers,
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    // The guard's refusal goes through it: of a first fragment it must be remembered.
    withheld.check(port, headers, checked)?;
    frame.truncate(headers.frame_len());
    match &headers.packet {
        Packet::Arp(_) => Err(Verdict::Gateway),
        Packet::Ipv4(packet) => {
            let destination = packet.destination;
            if table.is_gateway_ipv4(destination) || destination.is_broadcast() {
                return Err(for_gateway(mtu, packet.len));
            }
            // A packet to a group is refused by `route_ipv4`, with the reason that says so.
            if !destination.is_multicast() {
                refuse_group(headers.destination)?;
            }
            route_ipv4(table, packet)
        }
        Packet::Ipv6(packet) => {
            let destination = packet.destination;
            // Neighbour discovery never leaves its link, whoever it asks (RFC 4861 §3.1).
            let is_discovery =
                matches!(packet.upper, Upper::Icmp(kind) if icmpv6::is_discovery(kind));
            if destination == GATEWAY_IPV6 || destination.is_multicast() || is_discovery {
                return Err(for_gateway(mtu, packet.len));
            }
            refuse_group(headers.destination)?;
            route_ipv6(table, packet)
        }
    }
}

/// What becomes of a packet of `len` octets for the gateway. One that is longer than the link's
/// packets, to be cut or not, is no question.
fn for_gateway(mtu: u16, len: usize) -> Verdict {
    if len > usize::from(mtu) {
        return Verdict::Drop(DropReason::MessageTooLong);
    }
    Verdict::Gateway
}

/// A unicast packet in a frame to a group is not forwarded (RFC 1812 §5.3.4).
fn refuse_group(destination: MacAddr) -> Result<(), DropReason> {
    match (destination.is_multicast(), destination == MacAddr::BROADCAST) {
        (false, _) => Ok(()),
        (true, true) => Err(DropReason::Broadcast),
        (true, false) => Err(DropReason::Multicast),
    }
}

/// Routes a unicast IPv4 packet.
#[inline(always)]
pub fn route_ipv4(table: &Routed, packet: &Ipv4) -> Result<NextHopId, Verdict> {
    let destination = packet.destination;
    // Before the lookup: a routed prefix may cover groups and the broadcast address.
    if destination.is_multicast() {
        return Err(Verdict::Drop(DropReason::Multicast));
    }
    if table.ipv4_broadcast == Some(destination) {
        return Err(Verdict::Drop(DropReason::Broadcast));
    }
    let next_hop = table.fib.lookup_ipv4(destination).ok_or_else(|| {
        unreachable(table.ipv4_subnet.is_some_and(|subnet| subnet.contains(&destination)))
    })?;
    pass_ipv4(&table.fib, next_hop, packet)
}

/// Whether a packet may go to its next hop, which is known.
pub(super) fn pass(
    fib: &Fib,
    next_hop: NextHopId,
    headers: &Headers,
) -> Result<NextHopId, Verdict> {
    match &headers.packet {
        Packet::Arp(_) => Err(DropReason::UnknownEtherType.into()),
        Packet::Ipv4(packet) => pass_ipv4(fib, next_hop, packet),
        Packet::Ipv6(packet) => check(fib, next_hop, packet.largest, packet.hop_limit),
    }
}

#[inline(always)]
fn pass_ipv4(fib: &Fib, next_hop: NextHopId, packet: &Ipv4) -> Result<NextHopId, Verdict> {
    // The largest packet that it becomes: a frame to be segmented may well be longer than the MTU.
    let checked = check(fib, next_hop, packet.largest, packet.ttl);
    if packet.may_be_cut && matches!(checked, Err(Verdict::Reject(DropReason::ExceedsMtu, _))) {
        // RFC 1812 §5.2.6.
        return Err(Verdict::Fragment(next_hop));
    }
    checked
}

/// Routes a unicast IPv6 packet.
#[inline]
pub fn route_ipv6(table: &Routed, packet: &Ipv6) -> Result<NextHopId, Verdict> {
    if packet.destination.is_multicast() {
        return Err(Verdict::Drop(DropReason::Multicast));
    }
    if packet.source.is_unicast_link_local() || packet.destination.is_unicast_link_local() {
        if table.is_metadata(packet.destination.into()) {
            return Err(Verdict::Gateway);
        }
        // Link-local traffic ends at the link, which has the guest and the gateway on it (RFC 4291
        // §2.5.6).
        return Err(Verdict::Reject(DropReason::NoRoute, Rejection::BeyondScope));
    }
    let next_hop = table.fib.lookup_ipv6(packet.destination).ok_or_else(|| {
        unreachable(table.ipv6_prefix.is_some_and(|prefix| prefix.contains(&packet.destination)))
    })?;
    check(&table.fib, next_hop, packet.largest, packet.hop_limit)
}

/// What becomes of a packet to an address that nobody has (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
#[cold]
fn unreachable(in_subnet: bool) -> Verdict {
    let rejection = if in_subnet { Rejection::NoHost } else { Rejection::NoRoute };
    Verdict::Reject(DropReason::NoRoute, rejection)
}

/// Whether a packet may go to its next hop.
#[inline(always)]
fn check(fib: &Fib, next_hop: NextHopId, len: usize, hop_limit: u8) -> Result<NextHopId, Verdict> {
    // Before the MTU, so that a packet which ends here is not cut. At 1 it would leave with 0 (RFC
    // 1812 §5.3.1, RFC 8200 §3).
    if hop_limit <= 1 {
        return Err(Verdict::Reject(DropReason::HopLimit, Rejection::TimeExceeded));
    }
    let to = fib.next_hop(next_hop);
    if len > usize::from(to.mtu) {
        return Err(refused_by(to));
    }
    Ok(next_hop)
}

/// What becomes of a packet that does not fit its next hop, or has none, or the gateway for one.
#[cold]
fn refused_by(next_hop: &NextHop) -> Verdict {
    match next_hop {
        &NextHop::NOBODY => unreachable(true),
        &NextHop::NOWHERE => unreachable(false),
        &NextHop::GATEWAY => Verdict::Gateway,
        // A way out that there is not: a guest that is told of an MTU would remember it.
        NextHop { mtu: 0, .. } => unreachable(false),
        NextHop { mtu, .. } => Verdict::Reject(DropReason::ExceedsMtu, Rejection::TooBig(*mtu)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{
            forward::{
                FibBuilder,
                tables::{GATEWAY_MAC, PortId, Services},
            },
            frame::HEAD_LEN,
        },
        wire::checksum,
    };
    use proptest::prelude::*;

    /// A network of 10.0.0.1, behind which 10.1.0.0/16 is, and 10.0.0.2, behind which much is that
    /// is never routed; with a metadata service.
    fn network() -> (Routed, [Vnic; 2]) {
        let mut fib = FibBuilder::default();
        let gateway = fib.next_hop(NextHop::GATEWAY);
        fib.host_ipv4([169, 254, 169, 254].into(), gateway);
        let vnics = [1_u8, 2].map(|n| {
            let port = PortId { slot: n.into(), generation: 1 };
            let mac = MacAddr([0x52, 0x54, 0, 0, 0, n]);
            let ipv4 = Ipv4Addr::new(10, 0, 0, n);
            let next_hop = fib.next_hop(NextHop { port, reactor: 0, mtu: 80, mac, vlan: None });
            fib.host_ipv4(ipv4, next_hop);
            let routed = [["10.1.0.0/16"; 3], ["169.254.0.0/16", "224.0.0.0/3", "10.0.0.128/25"]];
            let routed_ipv4 = routed[usize::from(n - 1)].map(|prefix| prefix.parse().unwrap());
            routed_ipv4.iter().for_each(|prefix| fib.prefix_ipv4(*prefix, next_hop));
            let (ipv4, routed_ipv4) = (Some(ipv4), routed_ipv4.into());
            Vnic { ipv4, routed_ipv4, ..Vnic::new(port, mac, 80) }
        });
        let table = Routed {
            ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
            ipv4_broadcast: Some(Ipv4Addr::new(10, 0, 0, 255)),
            services: Services { metadata: true, ..Services::default() },
            ..Routed::new(fib.build(7))
        };
        (table, vnics)
    }

    /// From 10.0.0.1 to 10.0.0.2, `len` octets in all.
    fn frame(protocol: u8, len: usize, offload: Offload) -> Frame {
        let mut frame = Frame { len, head_len: len.min(HEAD_LEN), offload, ..Frame::default() };
        frame.head[..6].copy_from_slice(&GATEWAY_MAC.0);
        frame.head[6..14].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1, 8, 0]);
        frame.head[14..24].copy_from_slice(&[0x45, 0, 0, len as u8 - 14, 0, 0, 0, 0, 64, protocol]);
        frame.head[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame.head[34..38].copy_from_slice(&[4, 210, 0, 53]);
        frame.head[46] = 0x50;
        make_right(&mut frame);
        frame
    }

    /// Makes the header's checksum right.
    fn make_right(frame: &mut Frame) {
        frame.head[24..26].fill(0);
        let sum = checksum::checksum(&frame.head[14..34]);
        frame.head[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    /// What the plain path says of a frame.
    fn decide_plain(
        (table, [vnic, _]): &(Routed, [Vnic; 2]),
        frame: &mut Frame,
    ) -> Option<NextHopId> {
        let destination = FastPath::new(table, vnic).check(frame)?;
        let next_hop = table.fib.lookup_ipv4(destination)?;
        fast::fits(frame, table.fib.next_hop(next_hop)).then_some(next_hop)
    }

    #[test]
    fn a_way_out_that_there_is_not_has_no_mtu_to_be_told_of() {
        let port = PortId { slot: 3, generation: 0 };
        let outside = NextHop { port, reactor: 0, mtu: 0, mac: MacAddr([2; 6]), vlan: None };
        assert_eq!(refused_by(&outside), unreachable(false));
        let too_big = Verdict::Reject(DropReason::ExceedsMtu, Rejection::TooBig(1400));
        assert_eq!(refused_by(&NextHop { mtu: 1400, ..outside }), too_big);
    }

    #[test]
    fn the_metadata_service_is_the_gateway_whoever_routes_its_address() {
        let network = network();
        for (to, is_services) in [([169, 254, 169, 254], true), ([169, 254, 169, 253], false)] {
            let mut frame = frame(6, 94, Offload::None);
            frame.head[30..34].copy_from_slice(&to);
            make_right(&mut frame);
            let plain = decide_plain(&network, &mut frame.clone());
            let (table, [vnic, _]) = &network;
            let decided = by_head(table, vnic, &mut frame, &mut Withheld::default());
            assert_eq!(plain.is_none(), is_services);
            assert_eq!(decided == Err(Verdict::Gateway), is_services, "{to:?}: {decided:?}");
        }
    }

    #[test]
    fn ordinary_packets_are_plain() {
        let network = network();
        for (protocol, offset) in [(6, 16), (17, 6)] {
            for offload in [Offload::None, Offload::Checksum { start: 34, offset }] {
                let mut frame = frame(protocol, 94, offload);
                assert!(decide_plain(&network, &mut frame).is_some(), "{protocol} {offload:?}");
            }
        }
        assert_eq!(decide_plain(&network, &mut frame(1, 94, Offload::None)), None);
        assert_eq!(
            decide_plain(&network, &mut frame(6, 95, Offload::None)),
            None,
            "beyond the MTU"
        );
        let mut wrong = frame(6, 94, Offload::None);
        wrong.head[24] ^= 1;
        assert_eq!(decide_plain(&network, &mut wrong), None, "its checksum is wrong");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn the_plain_path_says_nothing_that_the_general_one_does_not(
            protocol in prop_oneof![Just(6_u8), Just(17), any::<u8>()],
            len in 34..200_usize,
            padding in 0..20_usize,
            changes in proptest::collection::vec(
                (0..60_usize, prop_oneof![any::<u8>(), (0..8_u32).prop_map(|bit| 1 << bit),
                    prop::sample::select(vec![0, 1, 10, 67, 68, 127, 169, 224, 254, 255])]), 0..4),
            start in prop_oneof![Just(34_u16), any::<u16>()],
            offset in prop_oneof![Just(6_u16), Just(16), any::<u16>()],
            checksum: bool,
            right in prop::bool::weighted(0.9),
            destination in prop::sample::select(vec![
                [10, 0, 0, 2], [10, 0, 0, 1], [10, 1, 2, 3], [10, 0, 0, 200], [10, 0, 0, 255],
                [169, 254, 0, 1], [169, 254, 0, 2], [169, 254, 169, 254], [224, 0, 0, 1],
                [255; 4]]),
        ) {
            let network = network();
            let (table, [vnic, _]) = &network;
            let open = Offload::Checksum { start, offset };
            let offload = if checksum { open } else { Offload::None };
            let mut frame = frame(protocol, len, offload);
            frame.head[30..34].copy_from_slice(&destination);
            (frame.len, frame.head_len) = (len + padding, (len + padding).min(HEAD_LEN));
            changes.iter().for_each(|(at, to)| frame.head[*at] = *to);
            if right {
                make_right(&mut frame);
            }
            let mut general = frame.clone();
            if let Some(next_hop) = decide_plain(&network, &mut frame) {
                let withheld = &mut Withheld::default();
                let decided = by_head(table, vnic, &mut general, withheld);
                prop_assert_eq!(decided, Ok(next_hop));
                rewrite::rewrite_ipv4(frame.head_mut(), table.fib.next_hop(next_hop));
                rewrite::rewrite(general.head_mut(), table.fib.next_hop(next_hop));
                prop_assert_eq!((frame.head(), frame.len), (general.head(), general.len));
            }
        }
    }
}
