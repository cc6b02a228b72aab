//! Cutting an IPv4 packet into fragments, for a next hop whose MTU it exceeds (RFC 791 §3.2, RFC
//! 1812 §5.2.6).
//!
//! Takes a whole frame as it is to leave but for its length, completes what its sender left to be
//! done, and writes the frames of its fragments one after the other into a buffer; refuses one that
//! would become too many.

use super::{
    MAX_FRAME_LEN,
    segment::{self, Cut},
};
use crate::wire::{
    checksum::{self, Checksum},
    ethernet,
    ipv4::{self, MORE_FRAGMENTS, OFFSET},
    options::{Budget, Layout, Options},
    vnet::Offload,
};
use arrayvec::ArrayVec;

/// How many fragments a frame may become.
// The longest packet with the longest options, cut for the smallest MTU of a vNIC (1280), is 54.
// Above that are frames of many small segments alone: their senders are told as if DF were set.
pub const MAX_FRAGMENTS: usize = 60;
/// Octets of an Ethernet and the longest IPv4 header.
const MAX_HEADERS: usize = ethernet::HEADER_LEN + ipv4::MAX_HEADER_LEN;
/// Octets that all fragments of a frame may take together.
// Each has Ethernet and IPv4 headers of its own. One that was a segment before also begins with a
// TCP header of its own, of up to 60 octets.
pub const BUFFER_LEN: usize = MAX_FRAME_LEN + MAX_FRAGMENTS * (MAX_HEADERS + 60);

/// An option that stands in every fragment, not in the first alone (RFC 791 §3.1).
const COPIED: u16 = 0x80;
/// Fragments begin at multiples of so many octets: the offset field counts these (RFC 791 §3.1).
const UNIT: usize = 8;

/// Cuts `frame`, an IPv4 one that `classify` has passed, into the frames that a link of `mtu`
/// takes. `None` where they would be more than [`MAX_FRAGMENTS`], or make no packet.
pub fn cut<'b>(
    frame: &mut [u8],
    offload: Offload,
    mtu: u16,
    buffer: &'b mut [u8],
) -> Option<ArrayVec<&'b [u8], MAX_FRAGMENTS>> {
    let mut writer = Fragments { mtu: mtu.into(), rest: buffer, written: ArrayVec::new() };
    let body_at = ethernet::HEADER_LEN + header_len(frame);
    match offload {
        Offload::None => {}
        // A receiver sums the packet that it has put together: the checksum must be whole before.
        Offload::Checksum { start, offset } => {
            let (start, offset) = (usize::from(start), usize::from(offset));
            let transport = frame.get_mut(start..)?;
            complete(transport, offset, &[])?;
        }
        Offload::Segmentation { start, offset, segments } => {
            let transport_at = usize::from(start);
            let headers_len = segment::headers_len(frame, transport_at, segments.kind)?;
            let payload = frame.get(headers_len..)?;
            let cut = Cut::new(frame, frame.len(), start, segments)?;
            // Segments first: each is a packet of its own, with its own checksum and
            // identification, and only then may be too long for the link.
            for at in 0..cut.count() {
                let mut segment = cut.segment(at);
                let payload = payload.get(segment.payload)?;
                let (network, transport) = segment.headers.split_at_mut_checked(transport_at)?;
                complete(transport, offset.into(), payload)?;
                writer.write(network, [transport, payload])?;
            }
            return Some(writer.written);
        }
    }
    let (network, body) = frame.split_at_checked(body_at)?;
    writer.write(network, [body, &[]])?;
    Some(writer.written)
}

fn header_len(frame: &[u8]) -> usize {
    frame.get(ethernet::HEADER_LEN).map_or(0, |octet| usize::from(octet & 15) * 4)
}

/// Completes the checksum of a transport header that holds the sum of the pseudo-header, and is
/// followed by `payload`.
fn complete(transport: &mut [u8], offset: usize, payload: &[u8]) -> Option<()> {
    let mut sum = Checksum::new();
    sum.add(transport);
    sum.add(payload);
    sum.write(transport, offset)
}

/// The frames written so far, and the room for more.
struct Fragments<'b> {
    mtu: usize,
    rest: &'b mut [u8],
    written: ArrayVec<&'b [u8], MAX_FRAGMENTS>,
}

impl Fragments<'_> {
    /// Appends the frames of a packet: its Ethernet and IPv4 header, and what follows them.
    fn write(&mut self, headers: &[u8], body: [&[u8]; 2]) -> Option<()> {
        let later = later_headers(headers)?;
        let len = body[0].len() + body[1].len();
        let mut at = 0;
        loop {
            let headers = if at == 0 { headers } else { &later };
            let room = self.mtu.checked_sub(headers.len() - ethernet::HEADER_LEN)?;
            let (here, is_last) = match len - at {
                left if left <= room => (left, true),
                _ => (room / UNIT * UNIT, false),
            };
            let frame = self.put(headers, body, at..at + here)?;
            adapt(frame, at / UNIT, is_last)?;
            self.written.try_push(frame).ok()?;
            at += here;
            if is_last {
                return Some(());
            }
            // A link without room for one unit would be cut for ever.
            if here == 0 {
                return None;
            }
        }
    }
}

impl<'b> Fragments<'b> {
    /// Writes headers and a part of a body.
    fn put(
        &mut self,
        headers: &[u8],
        body: [&[u8]; 2],
        part: std::ops::Range<usize>,
    ) -> Option<&'b mut [u8]> {
        let len = headers.len() + part.len();
        let (frame, rest) = std::mem::take(&mut self.rest).split_at_mut_checked(len)?;
        self.rest = rest;
        let (front, mut to) = frame.split_at_mut(headers.len());
        front.copy_from_slice(headers);
        let middle = body[0].len();
        let (start, end) = (part.start.min(middle), part.end.min(middle));
        let parts = [&body[0][start..end], &body[1][part.start - start..part.end - end]];
        for octets in parts {
            let (here, after) = to.split_at_mut(octets.len());
            here.copy_from_slice(octets);
            to = after;
        }
        Some(frame)
    }
}

/// The headers of all fragments but the first: with those options alone that stand in every one.
fn later_headers(headers: &[u8]) -> Option<ArrayVec<u8, MAX_HEADERS>> {
    let (fixed, options) = headers.split_at_checked(ethernet::HEADER_LEN + ipv4::HEADER_LEN)?;
    let mut later = ArrayVec::new();
    later.try_extend_from_slice(fixed).ok()?;
    let budget = Budget::new();
    // What cannot be read is not copied: nobody behind us could read it either.
    for option in Options::new(Layout::Ipv4, options, &budget).map_while(Result::ok) {
        if option.code & COPIED != 0 {
            later.try_extend_from_slice(option.octets).ok()?;
        }
    }
    // IHL counts words of 32 bits (RFC 791 §3.1).
    while !(later.len() - ethernet::HEADER_LEN).is_multiple_of(4) {
        later.try_push(0).ok()?; // the end of the options
    }
    let words = (later.len() - ethernet::HEADER_LEN) / 4;
    *later.get_mut(ethernet::HEADER_LEN)? = 0x40 | words as u8;
    Some(later)
}

/// Makes the header of a frame that of the fragment that begins `units` after its packet.
fn adapt(frame: &mut [u8], units: usize, is_last: bool) -> Option<()> {
    let header_len = header_len(frame);
    let packet = frame.get_mut(ethernet::HEADER_LEN..)?;
    let len = u16::try_from(packet.len()).ok()?;
    let header = packet.get_mut(..header_len)?;
    let before = u16::from_be_bytes([*header.get(6)?, *header.get(7)?]);
    // Of a packet that is a fragment itself.
    let offset = (before & OFFSET).checked_add(u16::try_from(units).ok()?)?;
    // It would spill into the flags.
    if offset > OFFSET {
        return None;
    }
    // The last piece of a fragment is the packet's last only where that fragment was. DF needs no
    // care: it is clear, or nothing is cut.
    let more = if is_last { before & MORE_FRAGMENTS } else { MORE_FRAGMENTS };
    header.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
    header.get_mut(6..8)?.copy_from_slice(&(offset | more).to_be_bytes());
    // The field counts as zero in its own sum.
    header.get_mut(10..12)?.fill(0);
    let sum = checksum::checksum(header);
    header.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        protocol,
        vnet::{SegmentKind, Segments},
    };
    use proptest::prelude::*;
    use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket, UdpPacket};

    /// A frame of `protocol` from 10.0.0.1 to 10.0.0.2, its fragment field `fragment`, with
    /// `options`.
    fn frame(protocol: u8, fragment: u16, options: &[u8], body: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 9, 8, 0];
        frame.extend([0x45 + (options.len() / 4) as u8, 0]);
        frame.extend((20 + options.len() as u16 + body.len() as u16).to_be_bytes());
        frame.extend([0x12, 0x34]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(options);
        frame.extend(body);
        frame
    }

    fn fragments(mut frame: Vec<u8>, offload: Offload, mtu: u16) -> Option<Vec<Vec<u8>>> {
        let mut buffer = vec![0xee; BUFFER_LEN];
        let cut = cut(&mut frame, offload, mtu, &mut buffer)?;
        Some(cut.iter().map(|frame| frame.to_vec()).collect())
    }

    /// The body of the packet that fragments make, each at most `mtu` octets long, all headers
    /// right.
    fn reassemble(fragments: &[Vec<u8>], mtu: u16) -> Vec<u8> {
        let mut body = Vec::new();
        for (at, fragment) in fragments.iter().enumerate() {
            let packet = Ipv4Packet::new_checked(&fragment[14..]).unwrap();
            assert!(packet.verify_checksum() && packet.total_len() <= mtu);
            assert_eq!(usize::from(packet.total_len()), fragment.len() - 14);
            assert_eq!((packet.ident(), packet.dont_frag()), (0x1234, false));
            assert_eq!(usize::from(packet.frag_offset()), body.len());
            assert_eq!(packet.more_frags(), at + 1 < fragments.len());
            body.extend(packet.payload());
        }
        body
    }

    #[test]
    fn options_stand_where_rfc_791_wants_them() {
        // Record route stands in the first alone; router alert in all, and loses its padding.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
        let found = fragments(frame(99, 0, &options, &[1; 100]), Offload::None, 84).unwrap();
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [14 + 32 + 48, 14 + 24 + 52]);
        assert_eq!(found[0][14..22], [0x48, 0, 0, 80, 0x12, 0x34, 0x20, 0]);
        assert_eq!(found[0][34..46], options);
        assert_eq!(found[1][14..22], [0x46, 0, 0, 76, 0x12, 0x34, 0, 6]);
        assert_eq!(found[1][34..38], [148, 4, 0, 0]);
        assert!(
            found.iter().all(|frame| checksum::checksum(&frame[14..][..header_len(frame)]) == 0)
        );
    }

    #[test]
    fn a_fragment_is_cut_where_it_stands() {
        let middle = fragments(frame(99, 0x2000 | 100, &[], &[1; 80]), Offload::None, 68).unwrap();
        let fields: Vec<_> = middle.iter().map(|frame| &frame[20..22]).collect();
        assert_eq!(fields, [[0x20, 100], [0x20, 106]], "more follow both");
        let beyond = frame(99, 0x1ffe, &[], &[1; 80]);
        assert_eq!(fragments(beyond, Offload::None, 68), None, "no packet has so many octets");
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        // Options that stand in every fragment.
        let options = [&[148, 40][..], &[0; 38]].concat();
        let longest = frame(99, 0, &options, &[1; 65_475]);
        assert_eq!(fragments(longest.clone(), Offload::None, 1280).unwrap().len(), 54);
        assert_eq!(fragments(longest, Offload::None, 1000), None);
    }

    proptest! {
        #[test]
        fn fragments_make_the_packet_again(
            body in proptest::collection::vec(any::<u8>(), 0..9000), mtu in 576_u16..3000,
        ) {
            let found = fragments(frame(99, 0, &[], &body), Offload::None, mtu).unwrap();
            prop_assert_eq!(reassemble(&found, mtu), body);
        }

        #[test]
        fn an_open_checksum_is_complete_before_the_cut(
            payload in proptest::collection::vec(any::<u8>(), 0..4000), mtu in 576_u16..2000,
        ) {
            let len = 8 + payload.len() as u16;
            let (from, to) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            let open = Checksum::pseudo_ipv4(from, to, protocol::UDP, len.into()).folded();
            let ([a, b], [c, d]) = (len.to_be_bytes(), open.to_be_bytes());
            let header = [4, 210, 0, 53, a, b, c, d];
            let body = [&header[..], &payload].concat();
            let offload = Offload::Checksum { start: 34, offset: 6 };
            let found = fragments(frame(protocol::UDP, 0, &[], &body), offload, mtu).unwrap();
            let whole = reassemble(&found, mtu);
            let datagram = UdpPacket::new_checked(&whole[..]).unwrap();
            prop_assert!(datagram.verify_checksum(&IpAddress::Ipv4(from), &IpAddress::Ipv4(to)));
            prop_assert_eq!(datagram.payload(), payload);
        }

        #[test]
        fn segments_are_cut_each_for_itself(
            payload in proptest::collection::vec(any::<u8>(), 1..20_000), mtu in 576_u16..2000,
        ) {
            let (from, to) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            let len = 20 + payload.len() as u32;
            let open = Checksum::pseudo_ipv4(from, to, protocol::TCP, len).folded().to_be_bytes();
            let header = [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0x50, 0x10, 1, 0];
            let segments = Segments { kind: SegmentKind::Tcp4, size: 1900, ecn: false };
            let offload = Offload::Segmentation { start: 34, offset: 16, segments };
            let body = [&header[..], &open, &[0, 0], &payload].concat();
            let found = fragments(frame(protocol::TCP, 0, &[], &body), offload, mtu);
            let found = found.unwrap();
            let mut stream = Vec::new();
            let is_first = |frame: &Vec<u8>| frame[20..22] == [0, 0] || frame[20..22] == [0x20, 0];
            for packet in found.chunk_by(|_, next| !is_first(next)) {
                let body = packet.iter().flat_map(|frame| frame[34..].to_vec()).collect::<Vec<_>>();
                let segment = TcpPacket::new_checked(&body[..]).unwrap();
                prop_assert!(segment.verify_checksum(&IpAddress::Ipv4(from), &IpAddress::Ipv4(to)));
                prop_assert!(packet.iter().all(|frame| frame.len() <= 14 + usize::from(mtu)));
                prop_assert_eq!(segment.seq_number().0 as usize, stream.len());
                stream.extend_from_slice(segment.payload());
            }
            prop_assert_eq!(stream, payload);
        }
    }
}
