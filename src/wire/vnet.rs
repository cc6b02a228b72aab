//! The header in front of every frame of a virtio network device (virtio 1.2 §5.1.6): 12 octets; of
//! a legacy driver that merges no buffers, without the last field.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16};

/// Octets of the header.
pub const HEADER_LEN: usize = 12;
/// Octets of the header of a legacy driver without VIRTIO_NET_F_MRG_RXBUF (virtio 1.2 §5.1.6.1): no
/// `num_buffers`.
pub const SHORT_HEADER_LEN: usize = 10;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The checksum from `csum_start` on is left to the receiver.
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
// 3, UDP fragmentation, is missing: it is never offered.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// With TCP: the ecn window was reduced, which only the first segment tells.
const GSO_ECN: u8 = 0x80;

/// The octets as they stand in memory.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: U16,
    gso_size: U16,
    csum_start: U16,
    csum_offset: U16,
    num_buffers: U16,
}

impl From<[u8; HEADER_LEN]> for Header {
    #[inline]
    fn from(octets: [u8; HEADER_LEN]) -> Self {
        zerocopy::transmute!(octets)
    }
}

/// What the sender of a frame left to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// The transport checksum: its field holds the pseudo-header's sum; the rest is to be added.
    Checksum {
        /// Octets from the start of the frame to where the sum starts.
        start: u16,
        /// Octets from there to the checksum field.
        offset: u16,
    },
    /// As [`Offload::Checksum`]; and the frame is to be cut into several, each with its own.
    Segmentation {
        /// Octets from the start of the frame to where the sum starts.
        start: u16,
        /// Octets from there to the checksum field.
        offset: u16,
        /// What it is cut into.
        segments: Segments,
    },
}

impl Offload {
    /// Returns what is left to be done about a frame that has `by` octets more in front of its
    /// packet; none where the sum would start outside of what 16 bits can name.
    pub fn moved(self, by: i16) -> Option<Self> {
        Some(match self {
            Self::None => Self::None,
            Self::Checksum { start, offset } => {
                Self::Checksum { start: start.checked_add_signed(by)?, offset }
            }
            Self::Segmentation { start, offset, segments } => {
                Self::Segmentation { start: start.checked_add_signed(by)?, offset, segments }
            }
        })
    }
}

/// How a frame is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// Into what.
    pub kind: SegmentKind,
    /// Octets of payload in each but the last.
    pub size: u16,
    /// TCP's CWR flag is set: it is for the first segment alone.
    pub ecn: bool,
}

/// What a frame is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams.
    Udp,
}

/// The header asks for a segmentation that is not known, or without a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownOffload;

impl Header {
    /// In front of a frame that is complete and in one buffer: nearly all.
    pub const PLAIN: [u8; HEADER_LEN] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

    /// The header in front of a frame given to a guest in `buffers` buffers; `headers_len` are the
    /// octets of all headers of a frame to be segmented.
    pub fn to_guest(offload: Offload, headers_len: u16, buffers: u16) -> Self {
        let mut header = Self {
            flags: 0,
            gso_type: GSO_NONE,
            hdr_len: U16::ZERO,
            gso_size: U16::ZERO,
            csum_start: U16::ZERO,
            csum_offset: U16::ZERO,
            num_buffers: U16::new(buffers),
        };
        if let Offload::Checksum { start, offset } | Offload::Segmentation { start, offset, .. } =
            offload
        {
            header.flags = NEEDS_CSUM;
            header.csum_start = U16::new(start);
            header.csum_offset = U16::new(offset);
        }
        if let Offload::Segmentation { segments, .. } = offload {
            let kind = match segments.kind {
                SegmentKind::Tcp4 => GSO_TCPV4,
                SegmentKind::Tcp6 => GSO_TCPV6,
                SegmentKind::Udp => GSO_UDP_L4,
            };
            header.gso_type = if segments.ecn { kind | GSO_ECN } else { kind };
            header.gso_size = U16::new(segments.size);
            header.hdr_len = U16::new(headers_len);
        }
        header
    }

    /// What a guest leaves to be done about its frame. Whether that fits the frame is not yet
    /// known; `hdr_len` is not looked at, the frame tells.
    #[inline]
    pub fn offload(&self) -> Result<Offload, UnknownOffload> {
        let (start, offset) = (self.csum_start.get(), self.csum_offset.get());
        // Other flags are not looked at (virtio 1.2 §5.1.6.2.2).
        match (self.flags & NEEDS_CSUM != 0, self.gso_type) {
            (false, GSO_NONE) => Ok(Offload::None),
            (true, GSO_NONE) => Ok(Offload::Checksum { start, offset }),
            (true, _) => {
                let segments = self.segments().ok_or(UnknownOffload)?;
                Ok(Offload::Segmentation { start, offset, segments })
            }
            // Each segment needs a checksum of its own, and the whole one says nothing about them.
            (false, _) => Err(UnknownOffload),
        }
    }

    /// Its last field, which means nothing from a guest: at the socket of `mvirt-egress`, whose
    /// packet it is.
    pub fn buffers(&self) -> u16 {
        self.num_buffers.get()
    }

    fn segments(&self) -> Option<Segments> {
        let ecn = self.gso_type & GSO_ECN != 0;
        let kind = match self.gso_type & !GSO_ECN {
            GSO_TCPV4 => SegmentKind::Tcp4,
            GSO_TCPV6 => SegmentKind::Tcp6,
            // UDP has no such flag.
            GSO_UDP_L4 if !ecn => SegmentKind::Udp,
            _ => return None,
        };
        Some(Segments { kind, size: self.gso_size.get(), ecn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_these_octets() {
        let partial = Offload::Checksum { start: 34, offset: 6 };
        let header = Header::to_guest(partial, 0, 2);
        assert_eq!(header.as_bytes(), [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 2, 0]);
        assert_eq!(header.offload(), Ok(partial));
        assert_eq!(header.buffers(), 2);
        assert_eq!(Header::to_guest(Offload::None, 0, 1).as_bytes(), Header::PLAIN);
        assert_eq!(Header::from(Header::PLAIN).offload(), Ok(Offload::None));
        let tso = [1, 0x81, 54, 0, 0xb4, 5, 34, 0, 16, 0, 1, 0];
        let segments = Segments { kind: SegmentKind::Tcp4, size: 1460, ecn: true };
        let segmented = Offload::Segmentation { start: 34, offset: 16, segments };
        assert_eq!(Header::from(tso).offload(), Ok(segmented));
        assert_eq!(Header::to_guest(segmented, 54, 1).as_bytes(), tso);
    }

    #[test]
    fn sums_start_behind_what_is_put_in_front_of_a_packet() {
        let sum = |start| Offload::Checksum { start, offset: 16 };
        assert_eq!(sum(34).moved(4), Some(sum(38)));
        assert_eq!(sum(38).moved(-4), Some(sum(34)));
        assert_eq!((sum(3).moved(-4), sum(u16::MAX).moved(4)), (None, None));
        let segments = Segments { kind: SegmentKind::Udp, size: 1000, ecn: false };
        let cut = |start| Offload::Segmentation { start, offset: 6, segments };
        assert_eq!(cut(34).moved(4), Some(cut(38)));
        assert_eq!(Offload::None.moved(4), Some(Offload::None));
    }

    #[test]
    fn segmentation_that_is_not_known_is_refused() {
        let with = |flags, kind| {
            let octets = [flags, kind, 54, 0, 0xb4, 5, 34, 0, 16, 0, 1, 0];
            Header::from(octets).offload().is_ok()
        };
        assert!([1, 4, 5, 0x81, 0x84].iter().all(|kind| with(1, *kind)));
        assert!(![2, 3, 6, 0x80, 0x85, 0xff].iter().any(|kind| with(1, *kind)));
        assert!(!(1..=255).any(|kind| with(0, kind)), "without a checksum");
    }
}
