//! Cuts a frame that its sender left to be cut, for a receiver that cannot do that: into TCP
//! segments (as Linux does it) or UDP datagrams.
//!
//! Takes the headers of a frame that `classify` has passed, and returns those of each segment:
//! lengths, sequence number, identification, flags and IPv4 checksum are right, the transport
//! checksum is left open as it was in the frame. Where the payload is, is the caller's.

use super::HEAD_LEN;
use crate::wire::{
    checksum, ethernet, tcp, udp,
    vnet::{SegmentKind, Segments},
};
use arrayvec::ArrayVec;
use std::ops::Range;

/// A frame to be cut.
#[derive(Debug)]
pub struct Cut<'a> {
    headers: &'a [u8],
    /// Where the transport header is.
    transport: usize,
    segments: Segments,
    payload: usize,
}

/// One segment.
#[derive(Debug)]
pub struct Segment {
    /// All its headers.
    pub headers: ArrayVec<u8, HEAD_LEN>,
    /// Which octets of the frame's payload follow.
    pub payload: Range<usize>,
}

/// Octets of all headers of a frame, of which the transport header is at `transport`.
pub fn headers_len(head: &[u8], transport: usize, kind: SegmentKind) -> Option<usize> {
    let rest = head.get(transport..)?;
    let len = match kind {
        SegmentKind::Tcp4 | SegmentKind::Tcp6 => tcp::header_len(rest)?,
        SegmentKind::Udp => udp::header_len(rest)?,
    };
    Some(transport + len)
}

impl<'a> Cut<'a> {
    /// A frame of `len` octets that begins with `head`. `None` only where `classify` has not passed
    /// it.
    pub fn new(head: &'a [u8], len: usize, transport: u16, segments: Segments) -> Option<Self> {
        let transport = usize::from(transport);
        let headers_len = headers_len(head, transport, segments.kind)?;
        let headers = head.get(..headers_len).filter(|headers| headers.len() <= HEAD_LEN)?;
        let payload = len.checked_sub(headers.len())?;
        // `count` divides by it.
        (segments.size > 0).then_some(Self { headers, transport, segments, payload })
    }

    /// Octets of all headers: what comes after them is payload.
    pub fn headers_len(&self) -> usize {
        self.headers.len()
    }

    /// How many segments there are.
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.segments.size.into())
    }

    /// Octets of segment number `at`, headers included.
    pub fn len(&self, at: usize) -> usize {
        self.headers.len() + self.range(at).len()
    }

    fn range(&self, at: usize) -> Range<usize> {
        let size = usize::from(self.segments.size);
        (at * size).min(self.payload)..((at + 1) * size).min(self.payload)
    }

    /// Segment number `at`.
    pub fn segment(&self, at: usize) -> Segment {
        let payload = self.range(at);
        // All at once. Those of a `Cut` are no longer.
        let mut headers = ArrayVec::<u8, HEAD_LEN>::try_from(self.headers).unwrap_or_default();
        let transport_len = self.headers.len() - self.transport + payload.len();
        let (network, transport) = headers.split_at_mut(self.transport);
        // Frames of a switched network may have tags.
        let network_at = ethernet::packet_at(network);
        let network = &mut network[network_at..];
        let network_len = network.len();
        if network[0] >> 4 == 4 {
            put(network, 2, (network_len + transport_len) as u16);
            // As Linux: who puts fragments together tells packets apart by it (RFC 6864 §4).
            put(network, 4, get(network, 4).wrapping_add(at as u16));
            // The field counts as zero in its own sum.
            put(network, 10, 0);
            let sum = checksum::checksum(network);
            put(network, 10, sum);
        } else {
            let extensions = network_len - crate::wire::ipv6::HEADER_LEN;
            put(network, 4, (extensions + transport_len) as u16);
        }
        let whole_len = self.headers.len() - self.transport + self.payload;
        let field = match self.segments.kind {
            SegmentKind::Tcp4 | SegmentKind::Tcp6 => {
                self.adapt_tcp(transport, at);
                usize::from(tcp::CHECKSUM_OFFSET)
            }
            SegmentKind::Udp => {
                put(transport, 4, transport_len as u16);
                usize::from(udp::CHECKSUM_OFFSET)
            }
        };
        // The field holds the sum of the pseudo-header, of which the length is a part.
        let open = get(transport, field);
        // `update` takes and returns checksums, which are complements of sums: hence both `!`.
        put(transport, field, !checksum::update(!open, whole_len as u16, transport_len as u16));
        Segment { headers, payload }
    }

    fn adapt_tcp(&self, header: &mut [u8], at: usize) {
        let sequence = tcp::SEQUENCE_OFFSET;
        let word =
            |header: &[u8], at| u32::from(get(header, at)) << 16 | u32::from(get(header, at + 2));
        let number = word(header, sequence).wrapping_add(self.range(at).start as u32);
        put(header, sequence, (number >> 16) as u16);
        put(header, sequence + 2, number as u16);
        // CWR tells of one event (RFC 3168 §6.1.2), PSH and FIN of the end of the data: once each.
        if at > 0 {
            header[tcp::FLAGS_OFFSET] &= !tcp::CWR;
        }
        if at + 1 < self.count() {
            header[tcp::FLAGS_OFFSET] &= !(tcp::FIN | tcp::PSH);
        }
    }
}

fn get(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

fn put(octets: &mut [u8], at: usize, value: u16) {
    octets[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{checksum::Checksum, protocol};
    use proptest::prelude::*;
    use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

    const SOURCE: [u8; 4] = [10, 0, 0, 1];
    const DESTINATION: [u8; 4] = [10, 0, 0, 2];

    fn address(octets: [u8; 4]) -> IpAddress {
        IpAddress::Ipv4(octets.into())
    }

    /// A TCP frame over IPv4 with all flags that segmentation changes, its checksum left open.
    fn tcp4(payload: &[u8]) -> Vec<u8> {
        let len = 20 + payload.len();
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + len as u16).to_be_bytes());
        frame.extend([0xff, 0xfe, 0x40, 0, 64, protocol::TCP, 0, 0]);
        frame.extend([SOURCE, DESTINATION].concat());
        frame.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 9]);
        frame.extend([0x50, 0x10 | tcp::FIN | tcp::PSH | tcp::CWR, 1, 0]);
        let open =
            Checksum::pseudo_ipv4(SOURCE.into(), DESTINATION.into(), protocol::TCP, len as u32);
        frame.extend(open.folded().to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    /// A UDP frame over IPv6, its checksum left open.
    fn udp6(payload: &[u8]) -> Vec<u8> {
        let len = (8 + payload.len()) as u16;
        let (source, destination) = ([0xfd; 16], [0xfe; 16]);
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([protocol::UDP, 64]);
        frame.extend([source, destination].concat());
        frame.extend([0, 1, 0, 2]);
        frame.extend(len.to_be_bytes());
        let open =
            Checksum::pseudo_ipv6(source.into(), destination.into(), protocol::UDP, len.into());
        frame.extend(open.folded().to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// The whole frames that `frame` is cut into, their checksums finished.
    fn cut(
        frame: &[u8],
        transport: u16,
        field: usize,
        kind: SegmentKind,
        size: u16,
    ) -> Vec<Vec<u8>> {
        let segments = Segments { kind, size, ecn: false };
        let cut = Cut::new(frame, frame.len(), transport, segments).unwrap();
        let payload = &frame[cut.headers_len()..];
        let whole = |at| {
            let segment = cut.segment(at);
            let mut frame = segment.headers.to_vec();
            frame.extend(&payload[segment.payload]);
            assert_eq!(frame.len(), cut.len(at));
            let sum = checksum::checksum(&frame[transport.into()..]);
            put(&mut frame, usize::from(transport) + field, sum);
            frame
        };
        (0..cut.count()).map(whole).collect()
    }

    #[test]
    fn segments_have_the_tags_of_their_frame() {
        let plain = tcp4(&[7; 100]);
        let tagged = [&plain[..12], &[0x81, 0x00, 0x00, 0x07], &plain[12..]].concat();
        let expected = cut(&plain, 34, 16, SegmentKind::Tcp4, 48);
        let found = cut(&tagged, 38, 16, SegmentKind::Tcp4, 48);
        assert_eq!(found.len(), 3);
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found[12..16], [0x81, 0x00, 0x00, 0x07]);
            assert_eq!([&found[..12], &found[16..]].concat(), expected);
        }
    }

    proptest! {
        #[test]
        fn tcp_segments_are_packets_of_one_stream(
            payload in proptest::collection::vec(any::<u8>(), 1..9000),
            size in 48_u16..3000,
        ) {
            let mut stream = Vec::new();
            let frames = cut(&tcp4(&payload), 34, 16, SegmentKind::Tcp4, size);
            for (at, frame) in frames.iter().enumerate() {
                let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
                prop_assert!(packet.verify_checksum());
                prop_assert_eq!(packet.ident(), 0xfffe_u16.wrapping_add(at as u16));
                let segment = TcpPacket::new_checked(packet.payload()).unwrap();
                prop_assert!(segment.verify_checksum(&address(SOURCE), &address(DESTINATION)));
                let expected = 0xffff_ff00_u32.wrapping_add(stream.len() as u32);
                prop_assert_eq!(segment.seq_number().0 as u32, expected);
                let last = at + 1 == frames.len();
                let flags = (segment.fin(), segment.psh(), segment.cwr());
                prop_assert_eq!(flags, (last, last, at == 0));
                stream.extend_from_slice(segment.payload());
            }
            prop_assert_eq!(stream, payload);
        }

        #[test]
        fn datagrams_are_whole(
            payload in proptest::collection::vec(any::<u8>(), 1..9000),
            size in 48_u16..3000,
        ) {
            let mut all = Vec::new();
            for frame in cut(&udp6(&payload), 54, 6, SegmentKind::Udp, size) {
                let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
                let datagram = UdpPacket::new_checked(packet.payload()).unwrap();
                let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
                prop_assert!(datagram.verify_checksum(&from, &to));
                all.extend_from_slice(datagram.payload());
            }
            prop_assert_eq!(all, payload);
        }
    }
}
