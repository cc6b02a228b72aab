//! What a frame is: its head, parsed once, and a proof that lengths and what its sender left to do are consistent.

use super::verdict::DropReason;
use crate::{
    addr::MacAddr,
    wire::{
        arp, ethernet, icmpv4, ipv4, ipv6, protocol, tcp, udp,
        vnet::{Offload, SegmentKind, Segments},
    },
};
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::FromBytes as _;

/// Octets of payload in the smallest segment that Linux sends (`tcp_min_snd_mss`).
const MIN_SEGMENT: usize = 48;
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
    /// Something that ends at hosts.
    Other,
    /// A piece of a packet, which no one here puts together.
    Fragment,
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
    let upper = if header.is_fragment() {
        Upper::Fragment
    } else {
        upper(octets, header_len, header.protocol, protocol::ICMP)
    };
    let whole =
        Transport { tcp: SegmentKind::Tcp4, protocol: header.protocol, at: header_len, upper };
    let largest = whole.check(offload, octets, len)?;
    Ok(Ipv4 {
        source: header.source(),
        destination: header.destination(),
        ttl: header.ttl,
        len,
        largest,
        header_len,
        upper,
    })
}

/// Parses the head of an IPv6 packet, of which there are `len` octets in all.
#[inline]
pub fn ipv6(octets: &[u8], len: usize, offload: Offload) -> Result<Ipv6, DropReason> {
    let header = ipv6::Header::parse(octets, len).ok_or(DropReason::MalformedIpv6)?;
    let found = header.upper(octets).ok_or(DropReason::MalformedIpv6)?;
    let len = header.total_len();
    if found.offset > len {
        return Err(DropReason::MalformedIpv6);
    }
    let upper = if found.is_fragment {
        Upper::Fragment
    } else {
        upper(octets, found.offset, found.protocol, protocol::ICMPV6)
    };
    let whole =
        Transport { tcp: SegmentKind::Tcp6, protocol: found.protocol, at: found.offset, upper };
    let largest = whole.check(offload, octets, len)?;
    Ok(Ipv6 {
        source: header.source(),
        destination: header.destination(),
        hop_limit: header.hop_limit,
        len,
        largest,
        header_len: found.offset,
        upper,
    })
}

#[inline]
fn upper(octets: &[u8], offset: usize, protocol: u8, icmp: u8) -> Upper {
    let rest = octets.get(offset..).unwrap_or(&[]);
    if protocol == protocol::UDP
        && let Ok((header, _)) = udp::Header::ref_from_prefix(rest)
    {
        return Upper::Udp { source: header.source.get(), destination: header.destination.get() };
    }
    if protocol == icmp
        && let Ok((header, _)) = icmpv4::Header::ref_from_prefix(rest)
    {
        return Upper::Icmp(header.kind);
    }
    Upper::Other
}

/// Where the transport header of a packet is.
struct Transport {
    /// What TCP is cut into in its family.
    tcp: SegmentKind,
    protocol: u8,
    /// Octets from the start of the packet.
    at: usize,
    upper: Upper,
}

impl Transport {
    /// A guest may leave only the checksum of a whole TCP or UDP packet to us, exactly where the packet has it, and only
    /// such a packet to be cut, with all headers among the `octets` at hand. Gives the octets of the largest packet
    /// that leaves.
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
        let consistent = self.upper != Upper::Fragment
            && usize::from(start) == ethernet::HEADER_LEN + self.at
            && offset == expected_offset;
        let headers_len = self.at + header_len;
        match segments {
            _ if !consistent => Err(DropReason::BadVnetHeader),
            None => Ok(len),
            Some(segments) if self.may_be_cut(segments, len.saturating_sub(headers_len)) => {
                Ok(len.min(headers_len + usize::from(segments.size)))
            }
            Some(_) => Err(DropReason::BadSegmentation),
        }
    }

    fn may_be_cut(&self, segments: Segments, payload: usize) -> bool {
        let size = usize::from(segments.size);
        let kind = if self.protocol == protocol::UDP { SegmentKind::Udp } else { self.tcp };
        // Small segments would make much work of one frame: TCP needs none below its smallest segment size, datagrams
        // may be small when they are few.
        let bounded = size >= MIN_SEGMENT
            || kind == SegmentKind::Udp && size > 0 && payload.div_ceil(size) <= MAX_DATAGRAMS;
        segments.kind == kind && payload > 0 && bounded
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
        fn no_octets_are_too_strange(mut head in proptest::collection::vec(any::<u8>(), 14..128), kind in 0..3_usize, extra in 0..2000_usize) {
            let kinds = [ethernet::IPV4, ethernet::IPV6, ethernet::ARP];
            head[12..14].copy_from_slice(&kinds[kind].to_be_bytes());
            if let Some(version) = head.get_mut(14) {
                *version = if kind == 0 { 0x45 } else { 0x60 };
            }
            let len = head.len() + extra;
            if let Ok(headers) = classify(&head, len, Offload::None) {
                prop_assert!(headers.frame_len() <= len);
            }
        }
    }
}
