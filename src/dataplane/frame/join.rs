//! Joins TCP segments that follow one another into the frame that they may have been cut from, as
//! Linux does it (GRO): whatever comes after has one frame to carry instead of many.
//!
//! Only what [`super::segment`] would cut into the very same segments is joined, so that nobody
//! beyond sees a difference. The checksums of segments are checked, since that of the frame is left
//! open.

use super::MAX_FRAME_LEN;
use crate::wire::{
    Part,
    checksum::{self, Checksum},
    ethernet, ipv4, ipv6, protocol, tcp,
    vnet::{Offload, SegmentKind, Segments},
};
use std::ops::Range;

/// Where the packet's parts stand that differ from segment to segment: of IPv4, its length and
/// identification, and the checksum; of IPv6, its length.
const IPV4_VARIES: &[(usize, usize)] = &[(16, 20), (24, 26)];
const IPV6_VARIES: &[(usize, usize)] = &[(18, 20)];

/// A frame that others may be joined to.
#[derive(Debug)]
pub struct Join {
    /// Where its parts are; none where it is nothing that is joined.
    layout: Option<Layout>,
    /// Octets of the first segment's payload.
    size: usize,
    /// Octets of the frame, with what was joined to it.
    len: usize,
    segments: u16,
    /// Whether a segment that follows could be joined.
    is_open: bool,
}

/// Where the parts of a TCP segment are in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    kind: SegmentKind,
    /// Where the TCP header begins.
    transport: usize,
    /// Octets of all headers.
    headers_len: usize,
}

impl Layout {
    /// Returns the layout of a frame that may be joined: TCP with nothing between it and its
    /// Ethernet header but one of IP, with data, and no flags that are for one segment alone.
    fn of(frame: &[u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(ethernet::HEADER_LEN)?;
        let ether_type = u16::from_be_bytes(*ethernet.last_chunk()?);
        let (kind, network_len, packet_len) = match ether_type {
            ethernet::IPV4 => {
                let header = ipv4::Header::parse(packet, packet.len())?;
                let is_plain = header.has_no_options()
                    && header.part() == Part::Whole
                    && header.protocol == protocol::TCP
                    && header.sum_is_right();
                let found = (SegmentKind::Tcp4, ipv4::HEADER_LEN, header.total_len());
                is_plain.then_some(found)?
            }
            ethernet::IPV6 => {
                let header = ipv6::Header::parse(packet, packet.len())?;
                let upper = header.upper(packet).ok()?;
                let is_plain = upper.offset == ipv6::HEADER_LEN && upper.protocol == protocol::TCP;
                is_plain.then_some((SegmentKind::Tcp6, ipv6::HEADER_LEN, header.total_len()))?
            }
            _ => return None,
        };
        let transport = ethernet::HEADER_LEN + network_len;
        let segment = &frame[transport..];
        let headers_len = transport + tcp::header_len(segment)?;
        let flags = segment[tcp::FLAGS_OFFSET] & !tcp::PSH;
        // Padding would come between two segments.
        let is_whole = packet_len == packet.len() && headers_len < frame.len();
        let layout = Self { kind, transport, headers_len };
        (is_whole && flags == tcp::ACK).then_some(layout)
    }

    /// Returns the pseudo-header of `frame`, whose segment has so many octets.
    fn pseudo(self, frame: &[u8], len: usize) -> Option<Checksum> {
        let (packet, len) = (&frame[ethernet::HEADER_LEN..], len as u32);
        Some(match self.kind {
            SegmentKind::Tcp4 => {
                let header = ipv4::Header::parse(packet, usize::MAX)?;
                let (source, destination) = (header.source(), header.destination());
                Checksum::pseudo_ipv4(source, destination, protocol::TCP, len)
            }
            SegmentKind::Tcp6 => {
                let header = ipv6::Header::parse(packet, usize::MAX)?;
                let (source, destination) = (header.source(), header.destination());
                Checksum::pseudo_ipv6(source, destination, protocol::TCP, len)
            }
            SegmentKind::Udp => return None,
        })
    }

    /// Whether the checksum of a segment is right.
    fn sum_is_right(self, frame: &[u8]) -> bool {
        let segment = &frame[self.transport..];
        let Some(mut sum) = self.pseudo(frame, segment.len()) else { return false };
        sum.add(segment);
        sum.folded() == 0xffff
    }

    fn varies(self) -> &'static [(usize, usize)] {
        match self.kind {
            SegmentKind::Tcp4 => IPV4_VARIES,
            SegmentKind::Tcp6 | SegmentKind::Udp => IPV6_VARIES,
        }
    }

    /// Whether the headers of segment number `number` of a frame are what the first's say.
    fn goes_on(self, first: &[u8], next: &[u8], number: u16) -> bool {
        let same = |range: Range<usize>| first[range.clone()] == next[range];
        let mut from = 0;
        for (start, end) in self.varies() {
            if !same(from..*start) {
                return false;
            }
            from = *end;
        }
        let (ports, rest) = (self.transport, self.transport + tcp::ACKNOWLEDGEMENT_OFFSET);
        let flags = self.transport + tcp::FLAGS_OFFSET;
        let (after, sum) = (flags + 1, self.transport + usize::from(tcp::CHECKSUM_OFFSET));
        same(from..ports + tcp::SEQUENCE_OFFSET)
            && same(rest..flags)
            && same(after..sum)
            && same(sum + 2..self.headers_len)
            && self.is_numbered(first, next, number)
    }

    /// Whether the identification of segment number `number` is what it gets when it is cut again.
    fn is_numbered(self, first: &[u8], next: &[u8], number: u16) -> bool {
        let parse = |frame| ipv4::Header::parse(frame, usize::MAX);
        let headers = [first, next].map(|frame| parse(&frame[ethernet::HEADER_LEN..]));
        match (self.kind, headers) {
            (SegmentKind::Tcp4, [Some(first), Some(next)]) => {
                // With DF set, it identifies nothing (RFC 6864 §4.1).
                let expected = first.identification().wrapping_add(number);
                !first.may_be_cut() || next.identification() == expected
            }
            _ => true,
        }
    }

    fn sequence(self, frame: &[u8]) -> u32 {
        let at = self.transport + tcp::SEQUENCE_OFFSET;
        u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
    }

    fn has_psh(self, frame: &[u8]) -> bool {
        frame[self.transport + tcp::FLAGS_OFFSET] & tcp::PSH != 0
    }
}

impl Join {
    /// Begins with a whole frame, whatever it is.
    pub fn new(frame: &[u8]) -> Self {
        let layout = Layout::of(frame);
        // PSH is on the last segment alone.
        let is_open = layout.is_some_and(|layout| !layout.has_psh(frame));
        let size = layout.map_or(0, |layout| frame.len() - layout.headers_len);
        Self { layout, size, len: frame.len(), segments: 1, is_open }
    }

    /// Appends the payload of `frame` to the frame in `buffer`, if it is what follows. Returns
    /// whether it is.
    pub fn append(&mut self, buffer: &mut [u8], frame: &[u8]) -> bool {
        let Some(layout) = self.layout.filter(|_| self.is_open) else { return false };
        if Layout::of(frame) != Some(layout) {
            return false;
        }
        let payload = &frame[layout.headers_len..];
        let len = self.len + payload.len();
        let expected = layout.sequence(buffer).wrapping_add((self.len - layout.headers_len) as u32);
        let follows = layout.sequence(frame) == expected
            && payload.len() <= self.size
            && len <= MAX_FRAME_LEN.min(buffer.len())
            && layout.goes_on(buffer, frame, self.segments);
        if !follows || !layout.sum_is_right(frame) {
            return false;
        }
        // Only now: of most frames that are alone, nobody needs to know it.
        if self.segments == 1 && !layout.sum_is_right(&buffer[..self.len]) {
            self.is_open = false;
            return false;
        }
        buffer[self.len..len].copy_from_slice(payload);
        let has_psh = layout.has_psh(frame);
        if has_psh {
            buffer[layout.transport + tcp::FLAGS_OFFSET] |= tcp::PSH;
        }
        self.is_open = payload.len() == self.size && !has_psh;
        self.len = len;
        self.segments += 1;
        true
    }

    /// Returns how long the frame in `buffer` is, and what is left to be done about it.
    pub fn finish(self, buffer: &mut [u8]) -> (usize, Offload) {
        let Some(layout) = self.layout.filter(|_| self.segments > 1) else {
            return (self.len, Offload::None);
        };
        let packet = &mut buffer[ethernet::HEADER_LEN..];
        let packet_len = self.len - ethernet::HEADER_LEN;
        if layout.kind == SegmentKind::Tcp4 {
            put(packet, 2, packet_len as u16);
            // The field counts as zero in its own sum.
            put(packet, 10, 0);
            put(packet, 10, checksum::checksum(&packet[..ipv4::HEADER_LEN]));
        } else {
            put(packet, 4, (packet_len - ipv6::HEADER_LEN) as u16);
        }
        let open = layout.pseudo(buffer, self.len - layout.transport);
        let field = layout.transport + usize::from(tcp::CHECKSUM_OFFSET);
        put(buffer, field, open.map_or(0, Checksum::folded));
        let segments = Segments { kind: layout.kind, size: self.size as u16, ecn: false };
        let (start, offset) = (layout.transport as u16, tcp::CHECKSUM_OFFSET);
        (self.len, Offload::Segmentation { start, offset, segments })
    }
}

fn put(octets: &mut [u8], at: usize, value: u16) {
    octets[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::frame::segment::Cut;
    use proptest::prelude::*;

    /// A frame to be cut into segments of `size` octets, its checksum left open.
    fn frame(is_v6: bool, identification: u16, flags: u8, payload: &[u8], size: u16) -> Vec<u8> {
        let len = 20 + payload.len() + 12;
        let mut frame = vec![2; 12];
        let pseudo = if is_v6 {
            frame.extend([0x86, 0xdd, 0x60, 1, 2, 3]);
            frame.extend((len as u16).to_be_bytes());
            frame.extend([protocol::TCP, 64]);
            frame.extend([[0xfd; 16], [0xfe; 16]].concat());
            let [source, destination] = [[0xfd; 16], [0xfe; 16]].map(Into::into);
            Checksum::pseudo_ipv6(source, destination, protocol::TCP, len as u32)
        } else {
            frame.extend([8, 0, 0x45, 0x08]);
            frame.extend((20 + len as u16).to_be_bytes());
            frame.extend(identification.to_be_bytes());
            frame.extend([0, 0, 64, protocol::TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = checksum::checksum(&frame[14..34]);
            put(&mut frame, 24, sum);
            let [source, destination] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Into::into);
            Checksum::pseudo_ipv4(source, destination, protocol::TCP, len as u32)
        };
        frame.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x80, flags, 1, 0]);
        frame.extend(pseudo.folded().to_be_bytes());
        // Timestamps (RFC 7323).
        frame.extend([0, 0, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
        frame.extend(payload);
        assert!(size > 0);
        frame
    }

    fn transport(is_v6: bool) -> usize {
        if is_v6 { 54 } else { 34 }
    }

    /// The frames that it is cut into, complete.
    fn cut(frame: &[u8], is_v6: bool, size: u16) -> Vec<Vec<u8>> {
        let kind = if is_v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
        let segments = Segments { kind, size, ecn: false };
        let at = transport(is_v6);
        let cut = Cut::new(frame, frame.len(), at as u16, segments).unwrap();
        let payload = &frame[cut.headers_len()..];
        let segment = |number| {
            let segment = cut.segment(number);
            let mut whole = segment.headers.to_vec();
            whole.extend(&payload[segment.payload]);
            let mut sum = Checksum::new();
            sum.add(&whole[at..]);
            sum.write(&mut whole, at + 16).unwrap();
            whole
        };
        (0..cut.count()).map(segment).collect()
    }

    /// What frames are joined into.
    fn join(frames: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload)> {
        let mut joined = Vec::new();
        let mut frames = frames.iter().peekable();
        while let Some(first) = frames.next() {
            let mut buffer = vec![0; MAX_FRAME_LEN];
            buffer[..first.len()].copy_from_slice(first);
            let mut join = Join::new(first);
            while frames.next_if(|next| join.append(&mut buffer, next)).is_some() {}
            let (len, offload) = join.finish(&mut buffer);
            buffer.truncate(len);
            joined.push((buffer, offload));
        }
        joined
    }

    proptest! {
        #[test]
        fn what_was_cut_is_joined_to_what_it_was(
            is_v6: bool, identification: u16, psh: bool, size in 1..1449_u16,
            payload in proptest::collection::vec(any::<u8>(), 1..6000),
        ) {
            prop_assume!(payload.len() / usize::from(size) < 2000);
            let flags = if psh { tcp::ACK | tcp::PSH } else { tcp::ACK };
            let whole = frame(is_v6, identification, flags, &payload, size);
            let frames = cut(&whole, is_v6, size);
            let kind = if is_v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
            let segments = Segments { kind, size, ecn: false };
            let start = transport(is_v6) as u16;
            let expected = match &frames[..] {
                [alone] => (alone.clone(), Offload::None),
                _ => (whole, Offload::Segmentation { start, offset: 16, segments }),
            };
            prop_assert_eq!(join(&frames), [expected]);
        }

        #[test]
        fn whatever_is_joined_is_cut_into_the_same(
            is_v6: bool, change in (0..3_usize, 0..200_usize, any::<u8>()), repaired: bool,
        ) {
            let (which, at, to) = change;
            let mut frames = cut(&frame(is_v6, 7, tcp::ACK, &[5; 300], 100), is_v6, 100);
            let at = at % frames[which].len();
            frames[which][at] = to;
            if repaired {
                let (start, network) = (transport(is_v6), 14);
                let changed = &mut frames[which];
                if !is_v6 {
                    put(changed, 24, 0);
                    let sum = checksum::checksum(&changed[network..start]);
                    put(changed, 24, sum);
                }
                put(changed, start + 16, 0);
                let kind = if is_v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
                let layout = Layout { kind, transport: start, headers_len: start + 32 };
                if let Some(mut sum) = layout.pseudo(changed, changed.len() - start) {
                    sum.add(&changed[start..]);
                    sum.write(changed, start + 16).unwrap();
                }
            }
            let again = join(&frames).into_iter().flat_map(|(frame, offload)| match offload {
                Offload::Segmentation { segments, .. } => cut(&frame, is_v6, segments.size),
                _ => vec![frame],
            });
            prop_assert_eq!(again.collect::<Vec<_>>(), frames);
        }
    }

    #[test]
    fn what_does_not_follow_begins_a_frame_of_its_own() {
        let frames = |flags| cut(&frame(false, 7, flags, &[5; 300], 100), false, 100);
        assert_eq!(join(&frames(tcp::ACK)).len(), 1);
        for flags in [tcp::ACK | tcp::FIN, tcp::ACK | tcp::CWR, tcp::ACK | 0x20, 0x02] {
            assert!(join(&frames(flags)).len() > 1, "flags {flags:#x}");
        }
        let [first, second, third] = <[_; 3]>::try_from(frames(tcp::ACK)).unwrap();
        // Out of order, twice, and with a hole.
        for order in [vec![&second, &first], vec![&first, &first], vec![&first, &third]] {
            let order: Vec<_> = order.into_iter().cloned().collect();
            assert_eq!(join(&order).len(), 2);
        }
        // A wrong checksum is the receiver's to find, of the first and of any other.
        for which in 0..3 {
            let mut wrong = vec![first.clone(), second.clone(), third.clone()];
            *wrong[which].last_mut().unwrap() ^= 1;
            let joined = join(&wrong);
            assert!(joined.iter().any(|(frame, _)| *frame == wrong[which]), "number {which}");
        }
        // Longer than any packet.
        let many = cut(&frame(false, 7, tcp::ACK, &[5; 65_000], 1000), false, 1000);
        let mut more = cut(&frame(false, 72, tcp::ACK, &[5; 1000], 1000), false, 1000);
        let sequence = 0xffff_ff00_u32.wrapping_add(65_000);
        more[0][38..42].copy_from_slice(&sequence.to_be_bytes());
        put(&mut more[0], 50, 0);
        let layout = Layout::of(&many[0]).unwrap();
        let mut sum = layout.pseudo(&more[0], more[0].len() - 34).unwrap();
        sum.add(&more[0][34..]);
        sum.write(&mut more[0], 50).unwrap();
        assert_eq!(join(&[many, more].concat()).len(), 2);
    }
}
