//! IPv6 headers and the walk over extension headers (RFC 8200 §3, §4).

use super::{Full, Part, Writer};
use std::net::Ipv6Addr;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Where in the header stands what follows it.
pub const NEXT_HEADER_OFFSET: usize = 6;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// The protocol number of a fragment header.
pub const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

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
    /// Which part of its packet this is.
    pub part: Part,
}

/// The extension headers go on beyond what is at hand. Tells in which part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beyond(pub Part);

impl Header {
    /// The header at the start of `packet`, of which `packet_len` octets exist in all (`packet` may
    /// hold fewer). `None` unless version and payload length are consistent.
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

    /// Finds the upper layer of `packet`, which starts with this header: behind all extension
    /// headers that RFC 7045 knows, however many (RFC 8200 §4 sets no limit), but for the encrypted
    /// ones.
    #[inline]
    pub fn upper(&self, packet: &[u8]) -> Result<Upper, Beyond> {
        let mut upper = Upper { protocol: self.next_header, offset: HEADER_LEN, part: Part::Whole };
        loop {
            let rest = packet.get(upper.offset..).unwrap_or(&[]);
            let beyond = Beyond(upper.part);
            let second = || rest.get(1).map(|len| usize::from(*len)).ok_or(beyond);
            // Each is eight octets long at least, so the walk ends with the packet.
            let len = match upper.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => {
                    // Units of eight octets, the first eight not counted (RFC 8200 §4.3).
                    8 + second()? * 8
                }
                // Units of four octets, less two (RFC 4302 §2.2).
                AUTHENTICATION => (second()? + 2) * 4,
                // Of fixed length: its second octet is reserved (RFC 8200 §4.5).
                FRAGMENT => {
                    let header = rest.first_chunk().ok_or(beyond)?;
                    upper.part = part(header, upper.part);
                    8
                }
                _ => return Ok(upper),
            };
            upper.protocol = *rest.first().ok_or(beyond)?;
            upper.offset += len;
            // What follows is from the middle of a packet: payload, which may look like headers.
            if let Part::Later(_) = upper.part {
                return Ok(upper);
            }
        }
    }
}

/// Which part of a packet follows a fragment header (RFC 8200 §4.5) that stands in `within`.
fn part(header: &[u8; 8], within: Part) -> Part {
    let [_, _, a, b, identification @ ..] = *header;
    let (offset, more) = (u16::from_be_bytes([a, b]) >> 3, b & 1);
    let identification = u32::from_be_bytes(identification);
    match (offset, more, within) {
        (1.., _, _) => Part::Later(identification),
        (0, 1.., _) => Part::First(identification),
        (0, 0, Part::Whole) => Part::Atomic,
        // A whole packet within a fragment is still that fragment.
        (0, 0, within) => within,
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

    fn upper(octets: &[u8]) -> Result<Upper, Beyond> {
        Header::parse(octets, octets.len()).unwrap().upper(octets)
    }

    #[test]
    fn extension_headers_are_walked() {
        let octets = packet(0, &[60, 0, 5, 2, 0, 0, 1, 0, 58, 0, 1, 4, 0, 0, 0, 0, 143, 0]);
        assert_eq!(upper(&octets), Ok(Upper { protocol: 58, offset: 56, part: Part::Whole }));
        let many = [&[0, 0, 0, 0, 0, 0, 0, 0].repeat(8)[..], &[17, 0, 0, 0, 0, 0, 0, 0]].concat();
        let found = upper(&packet(0, &many)).unwrap();
        assert_eq!((found.protocol, found.offset), (17, 40 + 72), "nine of them");
        let authenticated = [[17, 4, 0, 0, 0, 0, 0, 0], [9; 8], [9; 8]].concat();
        let found = upper(&packet(AUTHENTICATION, &authenticated)).unwrap();
        assert_eq!((found.protocol, found.offset), (17, 40 + 24), "in units of four octets");
    }

    #[test]
    fn fragments_are_told_apart() {
        let part = |offset_and_more: [u8; 2]| {
            let [a, b] = offset_and_more;
            upper(&packet(44, &[17, 0, a, b, 0, 0, 0, 7, 9, 9])).unwrap().part
        };
        assert_eq!(part([0, 0]), Part::Atomic);
        assert_eq!(part([0, 1]), Part::First(7));
        assert_eq!(part([0, 8]), Part::Later(7));
        assert_eq!(part([0, 9]), Part::Later(7));
        let nested = [[44, 0, 0, 1, 0, 0, 0, 7], [17, 0, 0, 0, 0, 0, 0, 8]].concat();
        assert_eq!(upper(&packet(44, &nested)).unwrap().part, Part::First(7));
    }

    #[test]
    fn cut_chains_are_told_with_what_they_are_in() {
        assert_eq!(
            upper(&packet(0, &[0, 0, 0, 0, 0, 0, 0, 0].repeat(9))),
            Err(Beyond(Part::Whole))
        );
        assert_eq!(upper(&packet(0, &[])), Err(Beyond(Part::Whole)));
        let first = packet(44, &[60, 0, 0, 1, 0, 0, 0, 7, 17]);
        assert_eq!(upper(&first), Err(Beyond(Part::First(7))));
        let octets = packet(58, &[]);
        assert!(Header::parse(&octets, 39).is_none());
    }
}
