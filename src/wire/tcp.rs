//! TCP headers (RFC 9293 §3.1), and those options that are used here: the maximum segment size
//! (§3.7.1) and window scaling (RFC 7323 §2).

use super::{Full, Writer};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;
/// Where in the header its sequence number stands.
pub const SEQUENCE_OFFSET: usize = 4;
/// Where in the header its acknowledgement number stands.
pub const ACKNOWLEDGEMENT_OFFSET: usize = 8;
/// Where in the header its flags stand.
pub const FLAGS_OFFSET: usize = 13;
/// Where in the header its checksum stands.
pub const CHECKSUM_OFFSET: u16 = 16;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// No more data will come.
pub const FIN: u8 = 0x01;
/// The sequence number is the first one.
pub const SYN: u8 = 0x02;
/// There is no such connection, or none any longer.
pub const RST: u8 = 0x04;
/// Data is to be handed on at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// The ecn window was reduced (RFC 3168 §6.1).
pub const CWR: u8 = 0x80;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const WINDOW_SCALE: u8 = 3;

/// Returns the port that a segment is for; `None` where its header is cut.
pub fn destination(segment: &[u8]) -> Option<u16> {
    header_len(segment)?;
    Some(u16::from_be_bytes(*segment.get(2..)?.first_chunk()?))
}

/// Octets of the header that `segment` starts with, options included; `None` where it is cut or
/// says nonsense.
pub fn header_len(segment: &[u8]) -> Option<usize> {
    // The data offset: the upper four bits, in words of 32 bits (RFC 9293 §3.1).
    let len = usize::from(segment.get(12)? >> 4) * 4;
    (HEADER_LEN..=segment.len()).contains(&len).then_some(len)
}

/// The octets as they stand in a packet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct Header {
    source: U16,
    destination: U16,
    sequence: U32,
    acknowledgment: U32,
    /// In its upper four bits.
    data_offset: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

/// What the header of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Port of the sender.
    pub source: u16,
    /// Port of the receiver.
    pub destination: u16,
    /// Of its first octet, or of its SYN.
    pub sequence: u32,
    /// What its sender expects next.
    pub acknowledgment: u32,
    /// [`FIN`], [`SYN`] …
    pub flags: u8,
    /// How much its sender takes, not scaled.
    pub window: u16,
    /// Payload that its sender takes in a segment, where it says so.
    pub maximum_segment_size: Option<u16>,
    /// By how many bits its sender's windows are shifted, where it says so.
    pub window_scale: Option<u8>,
}

impl Segment {
    /// Splits a segment into what its header says and its payload. Its checksum is not looked at.
    pub fn parse(segment: &[u8]) -> Option<(Self, &[u8])> {
        let len = header_len(segment)?;
        let (header, _) = Header::ref_from_prefix(segment).ok()?;
        let mut parsed = Self {
            source: header.source.get(),
            destination: header.destination.get(),
            sequence: header.sequence.get(),
            acknowledgment: header.acknowledgment.get(),
            flags: header.flags,
            window: header.window.get(),
            ..Self::default()
        };
        parsed.read_options(segment.get(HEADER_LEN..len)?);
        Some((parsed, segment.get(len..)?))
    }

    /// Takes what it knows; what follows an option that is cut is not looked at.
    fn read_options(&mut self, mut options: &[u8]) {
        while let Some((&kind, rest)) = options.split_first() {
            match kind {
                END => return,
                NO_OPERATION => options = rest,
                _ => {
                    // Its length counts kind and length as well.
                    let len = rest.first().map_or(0, |len| usize::from(*len));
                    let (Some(body), Some(next)) = (options.get(2..len), options.get(len..)) else {
                        return;
                    };
                    match (kind, body) {
                        (MAXIMUM_SEGMENT_SIZE, &[a, b]) => {
                            self.maximum_segment_size = Some(u16::from_be_bytes([a, b]));
                        }
                        // More than 14 counts as 14 (RFC 7323 §2.3).
                        (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(14)),
                        _ => {}
                    }
                    options = next;
                }
            }
        }
    }

    /// Octets of the header that [`Self::write`] makes.
    pub const fn header_len(&self) -> usize {
        let size = if self.maximum_segment_size.is_some() { 4 } else { 0 };
        let scale = if self.window_scale.is_some() { 4 } else { 0 };
        HEADER_LEN + size + scale
    }

    /// Appends the header, with a checksum field that holds `sum`.
    pub fn write(&self, writer: &mut Writer<'_>, sum: u16) -> Result<(), Full> {
        writer.push(&Header {
            source: self.source.into(),
            destination: self.destination.into(),
            sequence: self.sequence.into(),
            acknowledgment: self.acknowledgment.into(),
            data_offset: ((self.header_len() / 4) << 4) as u8,
            flags: self.flags,
            window: self.window.into(),
            checksum: sum.into(),
            urgent: U16::ZERO,
        })?;
        if let Some(size) = self.maximum_segment_size {
            let [a, b] = size.to_be_bytes();
            writer.push_slice(&[MAXIMUM_SEGMENT_SIZE, 4, a, b])?;
        }
        if let Some(shift) = self.window_scale {
            writer.push_slice(&[NO_OPERATION, WINDOW_SCALE, 3, shift])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN_ACK: [u8; 28] = [
        0, 80, 0xd9, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe, 0x70, 0x12, 0x20, 0, 0xab, 0xcd, 0, 0,
        2, 4, 5, 0xb4, 1, 3, 3, 7,
    ];

    #[test]
    fn a_syn_with_options_is_these_octets() {
        let (segment, payload) = Segment::parse(&SYN_ACK).unwrap();
        let expected = Segment {
            source: 80,
            destination: 55555,
            sequence: 1,
            acknowledgment: u32::MAX - 1,
            flags: SYN | ACK,
            window: 8192,
            maximum_segment_size: Some(1460),
            window_scale: Some(7),
        };
        assert_eq!((segment, payload), (expected, &[][..]));
        let mut octets = [0; 28];
        segment.write(&mut Writer::new(&mut octets), 0xabcd).unwrap();
        assert_eq!(octets, SYN_ACK);
        assert!(Segment::parse(&SYN_ACK[..27]).is_none(), "cut");
    }

    #[test]
    fn options_that_mean_nothing_are_passed_over() {
        let with = |options: [u8; 8]| {
            let octets = [&SYN_ACK[..20], &options].concat();
            let (segment, _) = Segment::parse(&octets).unwrap();
            (segment.maximum_segment_size, segment.window_scale)
        };
        assert_eq!(with([4, 2, 1, 2, 4, 5, 0xb4, 0]), (Some(1460), None));
        assert_eq!(with([2, 4, 5, 0xb4, 3, 3, 200, 1]), (Some(1460), Some(14)));
        assert_eq!(with([0, 2, 4, 5, 0xb4, 3, 3, 7]), (None, None), "behind the end");
        assert_eq!(with([8, 0, 2, 4, 5, 0xb4, 0, 0]), (None, None), "no length");
        assert_eq!(with([8, 1, 2, 4, 5, 0xb4, 0, 0]), (None, None), "shorter than itself");
        assert_eq!(with([8, 10, 2, 4, 5, 0xb4, 0, 0]), (None, None), "beyond the header");
        assert_eq!(with([2, 3, 5, 3, 3, 7, 0, 0]), (None, Some(7)), "of a wrong length");
    }
}
