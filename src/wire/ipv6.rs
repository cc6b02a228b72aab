//! IPv6 headers and the walk over extension headers (RFC 8200 §3, §4).

use super::{Full, Writer};
use std::net::Ipv6Addr;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 40;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// At most so many extension headers are walked.
const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// The fixed IPv6 header.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    version_class_flow: U32,
    payload_len: U16,
    next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

/// The upper layer found behind the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// An IANA protocol number.
    pub protocol: u8,
    /// Octets from the start of the packet.
    pub offset: usize,
    /// Whether a fragment header was passed.
    pub is_fragment: bool,
    /// Whether the upper-layer header is in another fragment.
    pub is_later_fragment: bool,
}

impl Header {
    /// The header at the start of `packet`, of which `packet_len` octets exist in all (`packet` may hold fewer).
    /// `None` unless version and payload length are consistent.
    #[inline]
    pub fn parse(packet: &[u8], packet_len: usize) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(packet).ok()?;
        let consistent =
            header.version_class_flow.get() >> 28 == 6 && header.total_len() <= packet_len;
        consistent.then_some(header)
    }

    /// Appends a header for a payload of `payload_len` octets.
    pub fn write(
        writer: &mut Writer<'_>,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        hop_limit: u8,
        payload_len: usize,
    ) -> Result<(), Full> {
        writer.push(&Self {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(u16::try_from(payload_len).map_err(|_| Full)?),
            next_header: protocol,
            hop_limit,
            source: source.octets(),
            destination: destination.octets(),
        })
    }

    /// Octets of the packet, the fixed header included. (Jumbograms, RFC 2675, are not taken.)
    #[inline]
    pub fn total_len(&self) -> usize {
        HEADER_LEN + usize::from(self.payload_len.get())
    }

    /// Where from.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        self.source.into()
    }

    /// Where to.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        self.destination.into()
    }

    /// Finds the upper layer of `packet` (which starts with this header). `None` where the chain of extension
    /// headers is longer than eight or leaves what is at hand.
    #[inline]
    pub fn upper(&self, packet: &[u8]) -> Option<Upper> {
        let mut upper = Upper {
            protocol: self.next_header,
            offset: HEADER_LEN,
            is_fragment: false,
            is_later_fragment: false,
        };
        for _ in 0..=MAX_EXTENSIONS {
            let rest = packet.get(upper.offset..).unwrap_or(&[]);
            let len = match upper.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => 8 + usize::from(*rest.get(1)?) * 8,
                FRAGMENT => {
                    let offset = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) >> 3;
                    upper.is_fragment = true;
                    upper.is_later_fragment = offset != 0;
                    8
                }
                _ => return Some(upper),
            };
            upper.protocol = *rest.first()?;
            upper.offset += len;
            if upper.is_later_fragment {
                return Some(upper);
            }
        }
        None
    }
}

/// Decrements the hop limit of the IPv6 header that starts `packet`.
/// The caller has parsed the header and found a hop limit above 1.
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) {
    if let Ok((header, _)) = Header::mut_from_prefix(packet) {
        header.hop_limit = header.hop_limit.wrapping_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut octets = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next_header, 64];
        octets.extend([0xfd; 16]);
        octets.extend([0xfe; 16]);
        octets.extend(payload);
        octets
    }

    fn upper(octets: &[u8]) -> Option<Upper> {
        Header::parse(octets, octets.len())?.upper(octets)
    }

    #[test]
    fn extension_headers_are_walked() {
        let octets = packet(0, &[60, 0, 5, 2, 0, 0, 1, 0, 58, 0, 1, 4, 0, 0, 0, 0, 143, 0]);
        let found = upper(&octets).unwrap();
        assert_eq!((found.protocol, found.offset, found.is_fragment), (58, 56, false));
    }

    #[test]
    fn a_later_fragment_has_no_upper_header() {
        let found = upper(&packet(44, &[17, 0, 0x00, 0x08, 0, 0, 0, 1, 9, 9])).unwrap();
        assert!(found.is_fragment && found.is_later_fragment);
        assert_eq!(found.protocol, 17);
    }

    #[test]
    fn endless_and_cut_chains_are_refused() {
        assert_eq!(upper(&packet(0, &[0, 0, 0, 0, 0, 0, 0, 0].repeat(9))), None);
        assert_eq!(upper(&packet(0, &[])), None);
        let octets = packet(58, &[]);
        assert!(Header::parse(&octets, 39).is_none());
    }
}
