//! What becomes of a frame of a guest: what it is, whether it may be sent, and where it goes, one
//! after the other.
//!
//! Takes the network's table, the vNIC and the frame; returns the next hop or another verdict, and
//! leaves out the frame's padding. What the fast path decides never comes here.

use super::{
    NextHopId, guard,
    tables::{GATEWAY_IPV4, GATEWAY_IPV6, NetworkTable, Vnic},
    withheld::Withheld,
};
use crate::{
    addr::MacAddr,
    dataplane::{
        forward,
        frame::{
            Frame,
            classify::{Headers, Packet, Upper, classify},
            verdict::{DropReason, Verdict},
        },
    },
    wire::{icmpv6, vnet::Offload},
};

/// Whether the headers of a frame with this verdict may go on beyond its head (RFC 8200 §4).
pub(in crate::dataplane) fn is_deep(frame: &Frame, verdict: Verdict) -> bool {
    verdict == Verdict::Drop(DropReason::MalformedIpv6) && frame.head_len < frame.len
}

/// Where a frame of `vnic` goes on to, or what else is to become of it; leaves out its padding.
// Apart from the loop over plain frames, which it would make longer for all of them.
#[inline(never)]
pub(in crate::dataplane) fn by_head(
    table: &NetworkTable,
    vnic: &Vnic,
    frame: &mut Frame,
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    if let Some(reason) = frame.invalid {
        return Err(reason.into());
    }
    let headers = classify(frame.head(), frame.len, frame.offload)?;
    finish(table, vnic, frame, &headers, withheld)
}

/// As [`by_head`], of a deep frame of which these are all octets.
pub(in crate::dataplane) fn by_whole(
    table: &NetworkTable,
    vnic: &Vnic,
    (frame, whole): (&mut Frame, &[u8]),
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    if frame.offload != Offload::None {
        // The receiver's side finds what is left to be done in the head alone.
        return Err(DropReason::BadVnetHeader.into());
    }
    let headers = classify(whole, whole.len(), Offload::None)?;
    finish(table, vnic, frame, &headers, withheld)
}

/// As [`by_head`], of a frame whose headers are known.
fn finish(
    table: &NetworkTable,
    vnic: &Vnic,
    frame: &mut Frame,
    headers: &Headers,
    withheld: &mut Withheld,
) -> Result<NextHopId, Verdict> {
    // The guard's refusal goes through it: of a first fragment it must be remembered.
    withheld.check(vnic.port, headers, guard::check(vnic, headers))?;
    frame.truncate(headers.frame_len());
    match &headers.packet {
        Packet::Arp(_) => Err(Verdict::Gateway),
        Packet::Ipv4(packet) => {
            let destination = packet.destination;
            if destination == GATEWAY_IPV4 || destination.is_broadcast() {
                return Err(for_gateway(vnic, packet.len));
            }
            // A packet to a group is refused by `route_ipv4`, with the reason that says so.
            if !destination.is_multicast() {
                refuse_group(headers.destination)?;
            }
            forward::route_ipv4(table, packet)
        }
        Packet::Ipv6(packet) => {
            let destination = packet.destination;
            // Neighbour discovery never leaves its link, whoever it asks (RFC 4861 §3.1).
            let is_discovery =
                matches!(packet.upper, Upper::Icmp(kind) if icmpv6::is_discovery(kind));
            if destination == GATEWAY_IPV6 || destination.is_multicast() || is_discovery {
                return Err(for_gateway(vnic, packet.len));
            }
            refuse_group(headers.destination)?;
            forward::route_ipv6(table, packet)
        }
    }
}

/// What becomes of a packet of `len` octets for the gateway. One that is longer than the link's
/// packets, to be cut or not, is no question.
fn for_gateway(vnic: &Vnic, len: usize) -> Verdict {
    if len > usize::from(vnic.mtu) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{
            forward::{
                FibBuilder,
                fast::{self, Plain},
                limit::Limit,
                rewrite,
                tables::{Addressing, Boot, GATEWAY_MAC, NetworkKey, NextHop, PortId},
            },
            frame::HEAD_LEN,
        },
        wire::checksum,
    };
    use proptest::prelude::*;
    use std::{net::Ipv4Addr, sync::Arc};

    /// A network of 10.0.0.1, behind which 10.1.0.0/16 is, and 10.0.0.2, behind which much is that
    /// is never routed.
    fn table() -> NetworkTable {
        let mut fib = FibBuilder::default();
        let vnics = [1_u8, 2].map(|n| {
            let port = PortId { slot: n.into(), generation: 1 };
            let mac = MacAddr([0x52, 0x54, 0, 0, 0, n]);
            let ipv4 = Ipv4Addr::new(10, 0, 0, n);
            let next_hop = fib.next_hop(NextHop { port, reactor: 0, mtu: 80, mac });
            fib.host_ipv4(ipv4, next_hop);
            let routed = [["10.1.0.0/16"; 3], ["169.254.0.0/16", "224.0.0.0/3", "10.0.0.128/25"]];
            let routed_ipv4 = routed[usize::from(n - 1)].map(|prefix| prefix.parse().unwrap());
            routed_ipv4.iter().for_each(|prefix| fib.prefix_ipv4(*prefix, next_hop));
            Arc::new(Vnic {
                port,
                mac,
                ipv4: Some(ipv4),
                ipv6: None,
                routed_ipv4: routed_ipv4.into(),
                routed_ipv6: Vec::new(),
                slaac: None,
                from_guest: Limit::default(),
                to_guest: Limit::default(),
                mtu: 80,
                addressing: Addressing::Host,
                hostname: None,
                boot: Boot::default(),
            })
        });
        NetworkTable {
            key: NetworkKey(1),
            ipv4_subnet: Some("10.0.0.0/24".parse().unwrap()),
            ipv4_broadcast: Some(Ipv4Addr::new(10, 0, 0, 255)),
            ipv6_prefix: None,
            dns_ipv4: Vec::new(),
            dns_ipv6: Vec::new(),
            ntp_ipv4: Vec::new(),
            ntp_ipv6: Vec::new(),
            domain: None,
            vnics: vnics.into(),
            fib: fib.build(7),
        }
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
    fn decide_plain(table: &NetworkTable, frame: &mut Frame) -> Option<NextHopId> {
        let destination = Plain::new(table, &table.vnics[0]).check(frame)?;
        let next_hop = table.fib.lookup_ipv4(destination)?;
        fast::fits(frame, table.fib.next_hop(next_hop)).then_some(next_hop)
    }

    #[test]
    fn ordinary_packets_are_plain() {
        let table = table();
        for (protocol, offset) in [(6, 16), (17, 6)] {
            for offload in [Offload::None, Offload::Checksum { start: 34, offset }] {
                let mut frame = frame(protocol, 94, offload);
                assert!(decide_plain(&table, &mut frame).is_some(), "{protocol} {offload:?}");
            }
        }
        assert_eq!(decide_plain(&table, &mut frame(1, 94, Offload::None)), None);
        assert_eq!(decide_plain(&table, &mut frame(6, 95, Offload::None)), None, "beyond the MTU");
        let mut wrong = frame(6, 94, Offload::None);
        wrong.head[24] ^= 1;
        assert_eq!(decide_plain(&table, &mut wrong), None, "its checksum is wrong");
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
                [10, 0, 0, 2], [10, 0, 0, 1], [10, 1, 2, 3], [10, 0, 0, 200], [10, 0, 0, 255], [169, 254, 0, 1],
                [169, 254, 0, 2], [224, 0, 0, 1], [255; 4]]),
        ) {
            let table = table();
            let offload = if checksum { Offload::Checksum { start, offset } } else { Offload::None };
            let mut frame = frame(protocol, len, offload);
            frame.head[30..34].copy_from_slice(&destination);
            (frame.len, frame.head_len) = (len + padding, (len + padding).min(HEAD_LEN));
            changes.iter().for_each(|(at, to)| frame.head[*at] = *to);
            if right {
                make_right(&mut frame);
            }
            let mut general = frame.clone();
            if let Some(next_hop) = decide_plain(&table, &mut frame) {
                let withheld = &mut Withheld::default();
                let decided = by_head(&table, &table.vnics[0], &mut general, withheld);
                prop_assert_eq!(decided, Ok(next_hop));
                rewrite::rewrite_ipv4(frame.head_mut(), table.fib.next_hop(next_hop));
                rewrite::rewrite(general.head_mut(), table.fib.next_hop(next_hop));
                prop_assert_eq!((frame.head(), frame.len), (general.head(), general.len));
            }
        }
    }
}
