//! The header in front of every frame of a virtio network device (virtio 1.2 §5.1.6, with VERSION_1: 12 octets).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16};

/// Octets of the header.
pub const HEADER_LEN: usize = 12;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The checksum from `csum_start` on is left to the receiver.
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;

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

/// The transport checksum of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// As it stands in the frame.
    #[default]
    Complete,
    /// The field holds the pseudo-header's sum; the rest is to be added by whoever needs it.
    Partial {
        /// Octets from the start of the frame to where the sum starts.
        start: u16,
        /// Octets from there to the checksum field.
        offset: u16,
    },
}

/// The header asks for segmentation, which was not negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmented;

impl Header {
    /// In front of a frame that is complete and in one buffer: nearly all.
    pub const PLAIN: [u8; HEADER_LEN] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

    /// The header in front of a frame given to a guest in `buffers` buffers.
    pub fn to_guest(checksum: Checksum, buffers: u16) -> Self {
        let (flags, start, offset) = match checksum {
            Checksum::Complete => (0, 0, 0),
            Checksum::Partial { start, offset } => (NEEDS_CSUM, start, offset),
        };
        Self {
            flags,
            gso_type: GSO_NONE,
            hdr_len: U16::ZERO,
            gso_size: U16::ZERO,
            csum_start: U16::new(start),
            csum_offset: U16::new(offset),
            num_buffers: U16::new(buffers),
        }
    }

    /// What a guest says of the checksum of its frame. Whether the offsets fit the frame is not yet known.
    pub fn checksum(&self) -> Result<Checksum, Segmented> {
        if self.gso_type != GSO_NONE {
            return Err(Segmented);
        }
        if self.flags & NEEDS_CSUM == 0 {
            return Ok(Checksum::Complete);
        }
        Ok(Checksum::Partial { start: self.csum_start.get(), offset: self.csum_offset.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_these_octets() {
        let partial = Header::to_guest(Checksum::Partial { start: 34, offset: 6 }, 2);
        assert_eq!(partial.as_bytes(), [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 2, 0]);
        assert_eq!(partial.checksum(), Ok(Checksum::Partial { start: 34, offset: 6 }));
        let complete = Header::to_guest(Checksum::Complete, 1);
        assert_eq!(complete.as_bytes(), Header::PLAIN);
        let tso = Header::read_from_bytes(&[1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]).unwrap();
        assert_eq!(tso.checksum(), Err(Segmented));
    }
}
