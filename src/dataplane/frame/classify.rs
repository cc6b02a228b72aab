//! What a frame is: its head, parsed once, and a proof that lengths and what its sender left to do
//! are consistent.

use super::verdict::DropReason;
use crate::{
    addr::MacAddr,
    wire::{
        Part, arp, checksum, ethernet, ipv4, ipv6, protocol, tcp, udp,
        vnet::{Offload, SegmentKind, Segments},
    },
};
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Segments that TCP is cut into at most: 64 KiB in segments of 32 octets.
// Linux sends segments of 36 octets to a peer that asks for the least, with timestamps on. So many
// may be: what a receiver's ring does not hold is not cut at all, and what is cut is charged.
const MAX_SEGMENTS: usize = 2048;
/// Datagrams that Linux cuts a frame into at most (`UDP_MAX_SEGMENTS`).
const MAX_DATAGRAMS: usize = 128;

/// The headers of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Where to.
    pub destination: MacAddr,
    /// Where from.
    pub source: MacAddr,
    /// What is inside.
    pub packet: Packet,
}

/// What is inside a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Address resolution.
    Arp(arp::Packet),
    /// IPv4.
    Ipv4(Ipv4),
    /// IPv6.
    Ipv6(Ipv6),
}

/// An IPv4 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4 {
    /// Where from.
    pub source: Ipv4Addr,
    /// Where to.
    pub destination: Ipv4Addr,
    /// Hops left.
    pub ttl: u8,
    /// Octets, its header included.
    pub len: usize,
    /// As `len`, of the largest packet that it is to be cut into; `len` where it is not.
    pub largest: usize,
    /// Octets of its header.
    pub header_len: usize,
    /// Whether routers may cut it into fragments.
    pub may_be_cut: bool,
    /// The IANA number of what it carries.
    pub protocol: u8,
    /// Which part of a packet it is.
    pub part: Part,
    /// What it carries.
    pub upper: Upper,
}

/// An IPv6 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6 {
    /// Where from.
    pub source: Ipv6Addr,
    /// Where to.
    pub destination: Ipv6Addr,
    /// Hops left.
    pub hop_limit: u8,
    /// Octets, its header included.
    pub len: usize,
    /// As `len`, of the largest packet that it is to be cut into; `len` where it is not.
    pub largest: usize,
    /// Octets of its header and extension headers.
    pub header_len: usize,
    /// Which part of a packet it is.
    pub part: Part,
    /// What it carries.
    pub upper: Upper,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// UDP, with its ports.
    Udp {
        /// Port of the sender.
        source: u16,
        /// Port of the receiver.
        destination: u16,
    },
    /// ICMP of the packet's family, with its type.
    Icmp(u8),
    /// Nothing, and it says so (RFC 8200 §4.7).
    Nothing,
    /// Something that ends at hosts, or what a later fragment carries.
    Other,
}

impl Headers {
    /// The length of the frame without padding, in octets.
    pub fn frame_len(&self) -> usize {
        ethernet::HEADER_LEN
            + match &self.packet {
                Packet::Arp(_) => size_of::<arp::Packet>(),
                Packet::Ipv4(packet) => packet.len,
                Packet::Ipv6(packet) => packet.len,
            }
    }
}

/// Parses the head of a frame that is `frame_len` octets long in all.
pub fn classify(head: &[u8], frame_len: usize, offload: Offload) -> Result<Headers, DropReason> {
    let (header, packet) = ethernet::Header::parse(head).ok_or(DropReason::FrameTooShort)?;
    // Cannot wrap: `parse` found a whole header, and a head is never longer than its frame.
    let packet_len = frame_len - ethernet::HEADER_LEN;
    let packet = match header.ether_type.get() {
        ethernet::IPV4 => Packet::Ipv4(ipv4(packet, packet_len, offload)?),
        ethernet::IPV6 => Packet::Ipv6(ipv6(packet, packet_len, offload)?),
        ethernet::ARP => Packet::Arp(arp::Packet::parse(packet).ok_or(DropReason::MalformedArp)?),
        ethernet::VLAN | ethernet::SERVICE_VLAN => return Err(DropReason::VlanTagged),
        _ => return Err(DropReason::UnknownEtherType),
    };
    Ok(Headers { destination: header.destination, source: header.source, packet })
}

/// Parses the head of an IPv4 packet, of which there are `len` octets in all.
#[inline(always)]
pub fn ipv4(octets: &[u8], len: usize, offload: Offload) -> Result<Ipv4, DropReason> {
    let header = ipv4::Header::parse(octets, len).ok_or(DropReason::MalformedIpv4)?;
    let (header_len, len) = (header.header_len(), header.total_len());
    // RFC 1812 §5.2.2.
    if octets.get(..header_len).is_none_or(|header| checksum::checksum(header) != 0) {
        return Err(DropReason::BadChecksum);
    }
    let part = header.part();
    let upper = Behind { octets, len, at: header_len, protocol: header.protocol }
        .upper(protocol::ICMP, part)
        .map_err(|hidden| hidden.reason(DropReason::MalformedIpv4))?;
    let whole = Transport {
        tcp: SegmentKind::Tcp4,
        protocol: header.protocol,
        at: header_len,
        is_whole: part == Part::Whole,
    };
    let largest = whole.check(offload, octets, len)?;
    Ok(Ipv4 {
        source: header.source(),
        destination: header.destination(),
        ttl: header.ttl,
        len,
        largest,
        header_len,
        may_be_cut: header.may_be_cut(),
        protocol: header.protocol,
        part,
        upper,
    })
}

/// Parses the head of an IPv6 packet, of which there are `len` octets in all. What cannot be read
/// in the `octets` at hand, but perhaps in more of them, is [`DropReason::MalformedIpv6`].
#[inline]
pub fn ipv6(octets: &[u8], len: usize, offload: Offload) -> Result<Ipv6, DropReason> {
    let header = ipv6::Header::parse(octets, len).ok_or(DropReason::MalformedIpv6)?;
    let len = header.total_len();
    // Without padding: the walk over headers must not go on into it.
    let packet = octets.get(..len).unwrap_or(octets);
    let beyond = |part| match part {
        // Only with all of the packet at hand is it known that its headers do not end in it. Else
        // the frame may be deep, and is read again as a whole.
        Part::First(_) if packet.len() == len => DropReason::HeadersInFragments,
        _ => DropReason::MalformedIpv6,
    };
    let found = header.upper(packet).map_err(|ipv6::Beyond(part)| beyond(part))?;
    // RFC 7112 §5: all headers are in the first fragment.
    let needed = match (found.part, found.protocol) {
        // Asked for here because `Behind` does not read TCP; UDP and ICMPv6 it does.
        (Part::First(_), protocol::TCP) => found.offset + tcp::HEADER_LEN,
        _ => found.offset,
    };
    if needed > len {
        return Err(beyond(found.part));
    }
    let upper = Behind { octets: packet, len, at: found.offset, protocol: found.protocol }
        .upper(protocol::ICMPV6, found.part)
        .map_err(|hidden| hidden.reason(DropReason::MalformedIpv6))?;
    let whole = Transport {
        tcp: SegmentKind::Tcp6,
        protocol: found.protocol,
        at: found.offset,
        is_whole: found.part == Part::Whole,
    };
    let largest = whole.check(offload, octets, len)?;
    Ok(Ipv6 {
        source: header.source(),
        destination: header.destination(),
        hop_limit: header.hop_limit,
        len,
        largest,
        header_len: found.offset,
        part: found.part,
        upper,
    })
}

/// What stands behind the headers of a packet of `len` octets.
struct Behind<'a> {
    /// Those octets of the packet that are at hand.
    octets: &'a [u8],
    len: usize,
    /// Where in the packet.
    at: usize,
    protocol: u8,
}

/// Why an upper-layer header that the guard must see cannot be read.
enum Hidden {
    /// It is in the packet, but not among the octets at hand.
    NotAtHand,
    /// A first fragment does not hold all of it. RFC 7112 §5 forbids that: nobody could check it.
    InAnotherFragment,
}

impl Hidden {
    fn reason(self, not_at_hand: DropReason) -> DropReason {
        match self {
            Self::NotAtHand => not_at_hand,
            Self::InAnotherFragment => DropReason::HeadersInFragments,
        }
    }
}

impl Behind<'_> {
    #[inline(always)]
    fn upper(&self, icmp: u8, part: Part) -> Result<Upper, Hidden> {
        let rest = self.octets.get(self.at..).unwrap_or(&[]);
        match self.protocol {
            // A later fragment carries payload: what looks like ports there are none.
            _ if matches!(part, Part::Later(_)) => return Ok(Upper::Other),
            protocol::NONE => return Ok(Upper::Nothing),
            other if other != protocol::UDP && other != icmp => return Ok(Upper::Other),
            _ => {}
        }
        // Both headers are eight octets long.
        match udp::Header::ref_from_prefix(rest) {
            Ok((header, _)) if self.protocol == protocol::UDP => Ok(Upper::Udp {
                source: header.source.get(),
                destination: header.destination.get(),
            }),
            // The type is the first octet of either ICMP.
            Ok((icmp, _)) => Ok(Upper::Icmp(icmp.as_bytes()[0])),
            Err(_) if self.at + udp::HEADER_LEN <= self.len => Err(Hidden::NotAtHand),
            Err(_) if matches!(part, Part::First(_)) => Err(Hidden::InAnotherFragment),
            // A whole packet that is too short for its header claims nothing.
            Err(_) => Ok(Upper::Other),
        }
    }
}

/// Where the transport header of a packet is.
struct Transport {
    /// What TCP is cut into in its family.
    tcp: SegmentKind,
    protocol: u8,
    /// Octets from the start of the packet.
    at: usize,
    /// Of a fragment the rest would have to be known.
    is_whole: bool,
}

impl Transport {
    /// Checks what the guest left to us. That may be the checksum of a whole TCP or UDP packet,
    /// exactly where the packet has it. Such a packet may also be left to be cut. All its headers
    /// must be among the `octets` at hand. Returns the octets of the largest packet that leaves.
    #[inline(always)]
    fn check(&self, offload: Offload, octets: &[u8], len: usize) -> Result<usize, DropReason> {
        match offload {
            Offload::None => Ok(len),
            _ => self.check_offload(offload, octets, len),
        }
    }

    #[cold]
    fn check_offload(
        &self,
        offload: Offload,
        octets: &[u8],
        len: usize,
    ) -> Result<usize, DropReason> {
        let (start, offset, segments) = match offload {
            Offload::None => return Ok(len),
            Offload::Checksum { start, offset } => (start, offset, None),
            Offload::Segmentation { start, offset, segments } => (start, offset, Some(segments)),
        };
        let transport = octets.get(self.at..len.min(octets.len())).unwrap_or(&[]);
        let found = match self.protocol {
            protocol::TCP => tcp::header_len(transport).zip(Some(tcp::CHECKSUM_OFFSET)),
            protocol::UDP => udp::header_len(transport).zip(Some(udp::CHECKSUM_OFFSET)),
            _ => None,
        };
        let (header_len, expected_offset) = found.ok_or(DropReason::BadVnetHeader)?;
        // Two octets are written where the guest says. Anywhere but in the checksum field, they
        // could change an address or port after the guard has passed it.
        let consistent = self.is_whole
            && usize::from(start) == ethernet::HEADER_LEN + self.at
            && offset == expected_offset;
        let headers_len = self.at + header_len;
        match segments {
            _ if !consistent => Err(DropReason::BadVnetHeader),
            None => Ok(len),
            Some(segments) if self.may_be_cut(segments, len.saturating_sub(headers_len)) => {
                // The MTU is kept by each packet that leaves, not by the frame they are cut from.
                Ok(len.min(headers_len + usize::from(segments.size)))
            }
            Some(_) => Err(DropReason::BadSegmentation),
        }
    }

    fn may_be_cut(&self, segments: Segments, payload: usize) -> bool {
        let size = usize::from(segments.size);
        let (kind, most) = match self.protocol {
            protocol::UDP => (SegmentKind::Udp, MAX_DATAGRAMS),
            _ => (self.tcp, MAX_SEGMENTS),
        };
        // Headers without payload would make no segment at all: the frame would vanish.
        segments.kind == kind && payload > 0 && size > 0 && payload.div_ceil(size) <= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 192.168.0.1:1234 → 192.168.0.199:53, four octets of payload.
    fn udp_frame() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 9, 8, 0];
        frame.extend([0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0xb8, 0xb4]);
        frame
            .extend([192, 168, 0, 1, 192, 168, 0, 199, 0x04, 0xd2, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    #[test]
    fn a_udp_frame_is_understood_and_its_padding_left_out() {
        let mut frame = udp_frame();
        frame.resize(60, 0xee);
        let headers = classify(&frame, frame.len(), Offload::None).unwrap();
        assert_eq!(headers.frame_len(), 46);
        let Packet::Ipv4(packet) = headers.packet else { panic!("not IPv4") };
        assert_eq!(packet.upper, Upper::Udp { source: 1234, destination: 53 });
    }

    /// From fd00::1 to fd00::2, behind hop-by-hop options of so many octets.
    fn deep_udp6(options: usize) -> Vec<u8> {
        let len = (options + 12) as u16;
        let mut frame = vec![2, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0];
        frame.extend(len.to_be_bytes());
        frame.extend([0, 64]);
        for last in [1, 2] {
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        frame.extend([protocol::UDP, (options / 8 - 1) as u8]);
        frame.resize(54 + options, 0);
        frame.extend([2, 35, 2, 34, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    #[test]
    fn what_is_not_at_hand_is_read_where_it_is() {
        let expected = Upper::Udp { source: 547, destination: 546 };
        for options in [8, 128, 2048] {
            let frame = deep_udp6(options);
            let read = |at_hand: usize| {
                let head = &frame[..at_hand.min(frame.len())];
                classify(head, frame.len(), Offload::None).map(|headers| match headers.packet {
                    Packet::Ipv6(packet) => packet.upper,
                    other => panic!("{other:?}"),
                })
            };
            assert_eq!(read(frame.len()), Ok(expected));
            for at_hand in 54..54 + options + udp::HEADER_LEN {
                assert_eq!(read(at_hand), Err(DropReason::MalformedIpv6), "{at_hand}");
            }
        }
    }

    #[test]
    fn segments_are_bounded_in_their_number() {
        let segmented = |kind, size, payload| {
            let protocol = if kind == SegmentKind::Udp { protocol::UDP } else { protocol::TCP };
            let whole = Transport { tcp: SegmentKind::Tcp4, protocol, at: 20, is_whole: true };
            whole.may_be_cut(Segments { kind, size, ecn: false }, payload)
        };
        assert!(segmented(SegmentKind::Tcp4, 1, 2048) && !segmented(SegmentKind::Tcp4, 1, 2049));
        assert!(segmented(SegmentKind::Tcp4, 36, 65_495) && !segmented(SegmentKind::Tcp4, 0, 9));
        assert!(segmented(SegmentKind::Udp, 1, 128) && !segmented(SegmentKind::Udp, 1, 129));
        assert!(!segmented(SegmentKind::Tcp6, 36, 100) && !segmented(SegmentKind::Tcp4, 36, 0));
    }

    #[test]
    fn a_partial_checksum_must_be_that_of_the_transport() {
        let frame = udp_frame();
        let with = |start, offset| {
            classify(&frame, frame.len(), Offload::Checksum { start, offset }).map(|_| ())
        };
        assert_eq!(with(34, 6), Ok(()));
        for start in 0..=u16::MAX {
            for offset in [0, 5, 6, 7, 16, 0xffff] {
                if (start, offset) != (34, 6) {
                    assert_eq!(with(start, offset), Err(DropReason::BadVnetHeader));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_octets_are_too_strange(
            mut head in proptest::collection::vec(any::<u8>(), 14..128),
            kind in 0..3_usize,
            extra in 0..2000_usize,
        ) {
            let kinds = [ethernet::IPV4, ethernet::IPV6, ethernet::ARP];
            head[12..14].copy_from_slice(&kinds[kind].to_be_bytes());
            if let Some(version) = head.get_mut(14) {
                *version = if kind == 0 { 0x45 } else { 0x60 };
            }
            if head.len() >= 34 && kind == 0 {
                head[24..26].fill(0);
                let sum = checksum::checksum(&head[14..34]);
                head[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            let len = head.len() + extra;
            if let Ok(headers) = classify(&head, len, Offload::None) {
                prop_assert!(headers.frame_len() <= len);
            }
        }
    }
}
