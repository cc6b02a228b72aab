//! What senders leave to be done and receivers do not take: checksums are finished, frames cut into
//! segments.
//!
//! A receiver whose buffers are spans has each frame written there at once ([`Octets`]). One that
//! takes a frame in private memory has it [`finish`]ed there.

use super::{
    HEAD_LEN, Outgoing, Span,
    scatter::Scatter,
    segment::{self, Cut},
};
use crate::wire::{
    checksum::Checksum,
    vnet::{Offload, SegmentKind, Segments},
};
use arrayvec::ArrayVec;
use std::ops::Range;

/// Octets that are summed and copied at a time.
// Holds a frame of MTU 1500 at once, and fits the stack and the first-level cache.
const CHUNK: usize = 2048;

/// Frames that may be left to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segmentation {
    /// TCP over IPv4.
    pub tcp4: bool,
    /// TCP over IPv6.
    pub tcp6: bool,
    /// Those that carry TCP's CWR flag.
    pub ecn: bool,
    /// UDP datagrams.
    pub udp: bool,
}

impl Segmentation {
    /// Whether `segments` are among them.
    pub fn covers(self, segments: Segments) -> bool {
        let kind = match segments.kind {
            SegmentKind::Tcp4 => self.tcp4,
            SegmentKind::Tcp6 => self.tcp6,
            SegmentKind::Udp => self.udp,
        };
        kind && (self.ecn || !segments.ecn)
    }
}

/// What a receiver takes unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Frames whose checksum is open (VIRTIO_NET_F_GUEST_CSUM).
    pub checksum: bool,
    /// Frames to be cut (VIRTIO_NET_F_GUEST_TSO4 and its like).
    pub segmentation: Segmentation,
}

impl Offloads {
    /// Everything.
    pub const ALL: Self = Self {
        checksum: true,
        segmentation: Segmentation { tcp4: true, tcp6: true, ecn: true, udp: true },
    };

    /// Nothing.
    pub const NONE: Self = Self {
        checksum: false,
        segmentation: Segmentation { tcp4: false, tcp6: false, ecn: false, udp: false },
    };

    /// Whether a frame can be taken as it is of which `offload` is left to be done.
    pub fn covers(self, offload: Offload) -> bool {
        match offload {
            Offload::None => true,
            Offload::Checksum { .. } => self.checksum,
            Offload::Segmentation { segments, .. } => {
                self.checksum && self.segmentation.covers(segments)
            }
        }
    }
}

/// What a frame or segment is put together from.
#[derive(Debug, Clone, Copy)]
pub struct Octets<'a> {
    /// Octets made here.
    headers: &'a [u8],
    /// Octets of the frame in private memory.
    private: &'a [u8],
    /// `tail_len` octets of these, after the first `skip`.
    tail: &'a [Span],
    skip: usize,
    tail_len: usize,
}

impl<'a> Octets<'a> {
    /// Returns those of `frame`.
    pub fn of(frame: &Outgoing<'a>) -> Self {
        let tail_len = frame.len - frame.head.len();
        Self { headers: &[], private: frame.head, tail: frame.tail, skip: 0, tail_len }
    }

    /// Writes them.
    pub fn write(&self, mut out: Scatter<'_>) {
        out.put(self.headers);
        out.put(self.private);
        self.tail().for_each(|span| out.put_span(span));
    }

    /// Writes them after `header`, with the checksum finished that begins with octet `start` and
    /// has its field `offset` octets from there. What is summed is what is written: guest memory is
    /// read once.
    pub fn write_summed(&self, out: Scatter<'_>, header: &[u8], (start, offset): (usize, usize)) {
        // The field is among the headers, which are at the front of what is private.
        let (headers, rest) = match self.headers {
            [] => self.private.split_at(self.private.len().min(HEAD_LEN)),
            headers => (headers, self.private),
        };
        let mut head = ArrayVec::<u8, HEAD_LEN>::try_from(headers).unwrap_or_default();
        let mut sum = Checksum::new();
        sum.add(head.get(start..).unwrap_or(&[]));
        sum.add(rest);
        // The front is written last, when the sum is known. The guest sees neither before the used
        // index moves.
        let (mut front, mut out) = (out, out);
        out.skip(header.len() + head.len());
        out.put(rest);
        let mut chunk = [0; CHUNK];
        for mut span in self.tail() {
            while !span.is_empty() {
                let copied = span.copy_to_slice(&mut chunk);
                span = span.skip(copied);
                sum.add(&chunk[..copied]);
                out.put(&chunk[..copied]);
            }
        }
        sum.write(&mut head, start + offset);
        front.put(header);
        front.put(&head);
    }

    /// Copies them into `buffer`, which has room for them. Returns the copy.
    fn gather<'b>(&self, buffer: &'b mut [u8]) -> &'b mut [u8] {
        let mut len = 0;
        for part in [self.headers, self.private] {
            buffer[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        for span in self.tail() {
            len += span.copy_to_slice(&mut buffer[len..]);
        }
        &mut buffer[..len]
    }

    /// Returns the part of the tail that is meant.
    fn tail(&self) -> impl Iterator<Item = Span> {
        let (mut skip, mut left) = (self.skip, self.tail_len);
        self.tail.iter().filter_map(move |span| {
            let skipped = skip.min(span.len());
            let part = span.skip(skipped).first(left);
            skip -= skipped;
            left -= part.len();
            (!part.is_empty()).then_some(part)
        })
    }
}

/// Returns the octets of all headers of a frame to be segmented, and 0 for any other.
pub fn headers_len(frame: &Outgoing<'_>) -> u16 {
    match frame.offload {
        Offload::Segmentation { start, segments, .. } => {
            segment::headers_len(frame.head, start.into(), segments.kind).unwrap_or(0) as u16
        }
        _ => 0,
    }
}

/// Calls `each` for the segments of `frame`, which is to be cut as `cut` says: with its number, its
/// octets, and its checksum, which is left to be finished.
pub fn segments(
    frame: &Outgoing<'_>,
    cut: &Cut<'_>,
    mut each: impl FnMut(usize, Octets<'_>, Offload),
) {
    let Offload::Segmentation { start, offset, .. } = frame.offload else { return };
    let private = &frame.head[cut.headers_len()..];
    // Where the next segment's octets begin in the tail, which is gone through once: it may be in
    // many pieces.
    let (mut tail, mut skip) = (frame.tail, 0);
    for number in 0..cut.count() {
        let segment = cut.segment(number);
        let Range { start: from, end } = segment.payload;
        let in_private = from.min(private.len())..end.min(private.len());
        let tail_len = end - from - in_private.len();
        let private = &private[in_private];
        let octets = Octets { headers: &segment.headers, private, tail, skip, tail_len };
        // A segment is a whole frame but for its checksum, which a receiver may take open.
        each(number, octets, Offload::Checksum { start, offset });
        skip += tail_len;
        while let [first, rest @ ..] = tail
            && skip >= first.len()
        {
            skip -= first.len();
            tail = rest;
        }
    }
}

/// Calls `each` for what becomes of `frame` at a receiver that `accepts` so much: one frame or more
/// in `buffer`, which has room for the whole frame, with what is left to be done about it.
pub fn finish(
    frame: &Outgoing<'_>,
    accepts: Offloads,
    buffer: &mut [u8],
    mut each: impl FnMut(&[u8], Offload),
) {
    let mut finish = |octets: Octets<'_>, offload| {
        let whole = octets.gather(buffer);
        match offload {
            Offload::Checksum { start, offset } if !accepts.checksum => {
                complete(whole, start.into(), offset.into());
                each(whole, Offload::None);
            }
            _ => each(whole, offload),
        }
    };
    match frame.offload {
        Offload::Segmentation { start, segments: into, .. } if !accepts.covers(frame.offload) => {
            if let Some(cut) = Cut::new(frame.head, frame.len, start, into) {
                segments(frame, &cut, |_, octets, offload| finish(octets, offload));
            }
        }
        offload => finish(Octets::of(frame), offload),
    }
}

/// Completes a checksum in place, whose field holds the sum of the pseudo-header.
fn complete(frame: &mut [u8], start: usize, offset: usize) {
    let mut sum = Checksum::new();
    sum.add(frame.get(start..).unwrap_or(&[]));
    sum.write(frame, start + offset);
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket};

    const START: u16 = 34;
    const OFFSET: u16 = 16;

    /// A TCP segment from 10.0.0.1 to 10.0.0.2, whose checksum field holds the pseudo-header's sum.
    fn segment(payload: &[u8]) -> Vec<u8> {
        let len = 20 + payload.len() as u16;
        let mut frame = vec![0x52, 0x54, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
        frame.extend((20 + len).to_be_bytes());
        frame.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        frame.extend([0, 1, 0, 2, 0, 0, 1, 0, 0, 0, 0, 9, 0x50, 0x18, 1, 0]);
        let mut sum = Checksum::new();
        sum.add(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6]);
        sum.add(&len.to_be_bytes());
        // The sum, not its complement, which a finished checksum is.
        frame.extend((!sum.finish_udp()).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn finished(frame: &[u8], offload: Offload, accepts: Offloads) -> Vec<(Vec<u8>, Offload)> {
        let mut all = Vec::new();
        let (head, tail) = frame.split_at(60);
        let mut memory = super::super::slab::Slab::new(1, 4096).unwrap();
        memory.buffer(0)[..tail.len()].copy_from_slice(tail);
        // SAFETY: the slab is dropped at the end of this function.
        #[expect(unsafe_code, reason = "a span of memory that outlives it")]
        let tail = [unsafe { memory.span(0, 0..tail.len()) }];
        let outgoing = Outgoing { offload, head, tail: &tail, len: frame.len() };
        finish(&outgoing, accepts, &mut [0; 4096], |octets, left| {
            all.push((octets.to_vec(), left))
        });
        all
    }

    /// The payload of a frame, whose checksums are right.
    fn payload(frame: &[u8]) -> Vec<u8> {
        let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(packet.verify_checksum());
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        let segment = TcpPacket::new_checked(packet.payload()).unwrap();
        assert!(segment.verify_checksum(&IpAddress::Ipv4(from), &IpAddress::Ipv4(to)));
        segment.payload().to_vec()
    }

    #[test]
    fn a_receiver_that_takes_nothing_gets_finished_segments() {
        let octets: Vec<u8> = (0..1201_u32).map(|n| (n * 7) as u8).collect();
        let segments = Segments { kind: SegmentKind::Tcp4, size: 500, ecn: false };
        let offload = Offload::Segmentation { start: START, offset: OFFSET, segments };
        let cut = finished(&segment(&octets), offload, Offloads::default());
        let payloads: Vec<_> = cut.iter().map(|(frame, _)| payload(frame)).collect();
        assert_eq!(payloads.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 201]);
        assert_eq!(payloads.concat(), octets);
        assert!(cut.iter().all(|(_, left)| *left == Offload::None));
    }

    #[test]
    fn a_receiver_gets_what_it_takes_as_it_is() {
        let frame = segment(&[7; 300]);
        let open = Offload::Checksum { start: START, offset: OFFSET };
        let takes = Offloads { checksum: true, ..Default::default() };
        assert_eq!(finished(&frame, open, takes), [(frame.clone(), open)]);
        let whole = finished(&frame, open, Offloads::default());
        assert_eq!((payload(&whole[0].0), whole[0].1), (vec![7; 300], Offload::None));
        assert_eq!(whole.len(), 1);
        // Segments of a receiver that finishes checksums itself are left open.
        let segments = Segments { kind: SegmentKind::Tcp4, size: 100, ecn: false };
        let offload = Offload::Segmentation { start: START, offset: OFFSET, segments };
        let cut = finished(&frame, offload, takes);
        assert_eq!(cut.iter().map(|(_, left)| *left).collect::<Vec<_>>(), [open; 3]);
    }
}
